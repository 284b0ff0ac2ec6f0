/* SPDX-License-Identifier: Apache-2.0 */
/* The module's table: memory, by CUDA's runtime; which launcher has a code's records of a width. */
#include "device.h"
#include "launch.h"

#include <string.h>

namespace tacit_calls {

typedef void encode_t(const tacit_device_bundle_t *, const tacit_device_tiles_t *, void *sent, void *stream);
typedef void reduce_t(const tacit_device_bundle_t *, const tacit_device_tiles_t *, const void *received, void *message,
                      void *stream);
typedef void finish_t(const tacit_device_bundle_t *, const tacit_device_tiles_t *, const void *gathered, void *sent,
                      void *stream);
typedef void collect_t(const tacit_device_bundle_t *, const tacit_device_tiles_t *, const void *received, void *stream);

typedef struct {
    encode_t  *encode;
    reduce_t  *reduce;
    finish_t  *finish;
    collect_t *collect;
} launchers_t;

} /* namespace tacit_calls */

#define TACIT_DECLARE(name)                                                                                                      \
    extern "C" tacit_calls::encode_t  tacit_cuda_##name##_encode;                                                                \
    extern "C" tacit_calls::reduce_t  tacit_cuda_##name##_reduce;                                                                \
    extern "C" tacit_calls::finish_t  tacit_cuda_##name##_finish;                                                                \
    extern "C" tacit_calls::collect_t tacit_cuda_##name##_collect;
#define TACIT_OF(name)                                                                                                           \
    {                                                                                                                            \
        tacit_cuda_##name##_encode, tacit_cuda_##name##_reduce, tacit_cuda_##name##_finish, tacit_cuda_##name##_collect          \
    }

TACIT_DECLARE(none)
TACIT_DECLARE(fp16)
TACIT_DECLARE(bf16)
TACIT_DECLARE(fp8)
TACIT_DECLARE(fp8_wide)
TACIT_DECLARE(onebit)
TACIT_DECLARE(onebit_long)
TACIT_DECLARE(onebit_wide)
TACIT_DECLARE(qsgd)
TACIT_DECLARE(qsgd_wide)
TACIT_DECLARE(rotq)
extern "C" void tacit_cuda_begin(const tacit_device_bundle_t *, uint64_t step, void *stream);
extern "C" void tacit_cuda_seal(const tacit_device_bundle_t *, const tacit_device_messages_t *, int kind, void *out,
                                void *stream);
extern "C" void tacit_cuda_open(const tacit_device_bundle_t *, const tacit_device_messages_t *, int kind, const void *in,
                                bool verdict, void *stream);
extern "C" void tacit_cuda_end(const tacit_device_bundle_t *, void *stream);
extern "C" void tacit_cuda_cancel(const tacit_device_bundle_t *, void *stream);
#define TACIT_DECLARE_WHOLES(name, ...)                                                                                          \
    extern "C" void tacit_cuda_##name(const tacit_device_bundle_t *, const tacit_device_wholes_t *, __VA_ARGS__);
TACIT_DECLARE_WHOLES(wholes_clear, void *message, void *stream)
TACIT_DECLARE_WHOLES(wholes_follow, void *stream)
TACIT_DECLARE_WHOLES(wholes_fit, void *stream)
TACIT_DECLARE_WHOLES(wholes_finish, void *stream)
TACIT_DECLARE_WHOLES(randk_encode, void *message, void *stream)
TACIT_DECLARE_WHOLES(randk_take, const uint64_t *faults, const void *gathered, void *stream)
TACIT_DECLARE_WHOLES(powersgd_send, void *sent, void *stream)
TACIT_DECLARE_WHOLES(powersgd_meet, const void *received, void *stream)
TACIT_DECLARE_WHOLES(powersgd_encode, void *message, void *stream)
TACIT_DECLARE_WHOLES(powersgd_take, const uint64_t *faults, const void *gathered, void *stream)
TACIT_DECLARE_WHOLES(powersgd_fit, void *stream)
TACIT_DECLARE_WHOLES(powersgd_finish, void *stream)
TACIT_DECLARE_WHOLES(topk_select, void *stream)
TACIT_DECLARE_WHOLES(topk_encode, void *message, void *stream)
TACIT_DECLARE_WHOLES(topk_take, const uint64_t *faults, const void *gathered, void *stream)
extern "C" void tacit_cuda_lsh_codes(const tacit_rotations_t *, const tacit_device_tokens_t *, const void *tokens,
                                     uint32_t *codes, void *stream);
extern "C" void tacit_cuda_rows_copy(const void *from, const uint32_t *from_index, void *to, const uint32_t *to_index,
                                     uint32_t count, size_t row_bytes, void *stream);
extern "C" void tacit_cuda_rows_sum(const tacit_device_tokens_t *, const tacit_device_lists_t *, const void *rows, bool mean,
                                    void *out, float *wide, void *stream);
extern "C" void tacit_cuda_rows_check(const tacit_device_tokens_t *, const void *rows, uint32_t *found, void *stream);
extern "C" void tacit_cuda_rows_measure(const tacit_device_tokens_t *, const tacit_device_members_t *, const void *tokens,
                                        const float *means, double *out, void *stream);
extern "C" void tacit_cuda_rows_combine(const tacit_device_choices_t *, const float *weights, const void *tokens,
                                        const void *centroids, const void *replies, void *out, void *stream);
extern "C" void tacit_cuda_rows_weigh(const tacit_device_choices_t *, const void *gradients, const void *tokens,
                                      const void *centroids, const void *replies, float *out, void *stream);
extern "C" void tacit_cuda_rows_spread(const tacit_device_choices_t *, const float *weights, const void *gradients,
                                       const void *sums, const void *rows, void *out, void *stream);

namespace tacit_calls {

#define TACIT_NOT_THERE                                                                                                          \
    {                                                                                                                            \
        NULL, NULL, NULL, NULL                                                                                                   \
    }

/* In the order of tacit_code_t and of tacit_width_t. */
static const launchers_t launchers[TACIT_CODES][TACIT_WIDTHS] = {
    {TACIT_OF(none), TACIT_NOT_THERE, TACIT_NOT_THERE},
    {TACIT_OF(fp16), TACIT_NOT_THERE, TACIT_NOT_THERE},
    {TACIT_OF(bf16), TACIT_NOT_THERE, TACIT_NOT_THERE},
    {TACIT_OF(fp8), TACIT_NOT_THERE, TACIT_OF(fp8_wide)},
    {TACIT_OF(onebit), TACIT_OF(onebit_long), TACIT_OF(onebit_wide)},
    {TACIT_OF(qsgd), TACIT_NOT_THERE, TACIT_OF(qsgd_wide)},
    {TACIT_OF(rotq), TACIT_NOT_THERE, TACIT_NOT_THERE},
};

static const launchers_t *launchers_of(const tacit_device_tiles_t *tiles)
{
    static const launchers_t none = TACIT_NOT_THERE;

    return tiles->code < TACIT_CODES && tiles->width < TACIT_WIDTHS ? &launchers[tiles->code][tiles->width] : &none;
}

static int encode(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, void *sent, void *stream)
{
    encode_t *const launcher = launchers_of(tiles)->encode;

    if (launcher == NULL) {
        return (int)cudaErrorInvalidValue;
    }
    launcher(bundle, tiles, sent, stream);
    return (int)cudaGetLastError();
}

static int reduce(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, const void *received, void *message,
                  void *stream)
{
    reduce_t *const launcher = launchers_of(tiles)->reduce;

    if (launcher == NULL) {
        return (int)cudaErrorInvalidValue;
    }
    launcher(bundle, tiles, received, message, stream);
    return (int)cudaGetLastError();
}

static int finish(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, const void *gathered, void *sent,
                  void *stream)
{
    finish_t *const launcher = launchers_of(tiles)->finish;

    if (launcher == NULL) {
        return (int)cudaErrorInvalidValue;
    }
    launcher(bundle, tiles, gathered, sent, stream);
    return (int)cudaGetLastError();
}

static int collect(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, const void *received, void *stream)
{
    collect_t *const launcher = launchers_of(tiles)->collect;

    if (launcher == NULL) {
        return (int)cudaErrorInvalidValue;
    }
    launcher(bundle, tiles, received, stream);
    return (int)cudaGetLastError();
}

static int begin(const tacit_device_bundle_t *bundle, uint64_t step, void *stream)
{
    tacit_cuda_begin(bundle, step, stream);
    return (int)cudaGetLastError();
}

static int seal(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind, void *out, void *stream)
{
    tacit_cuda_seal(bundle, messages, kind, out, stream);
    return (int)cudaGetLastError();
}

static int open(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind, const void *in,
                bool verdict, void *stream)
{
    tacit_cuda_open(bundle, messages, kind, in, verdict, stream);
    return (int)cudaGetLastError();
}

static int end(const tacit_device_bundle_t *bundle, void *stream)
{
    tacit_cuda_end(bundle, stream);
    return (int)cudaGetLastError();
}

static int cancel(const tacit_device_bundle_t *bundle, void *stream)
{
    tacit_cuda_cancel(bundle, stream);
    return (int)cudaGetLastError();
}

static int send_factors(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *sent, void *stream)
{
    tacit_cuda_powersgd_send(bundle, wholes, sent, stream);
    return (int)cudaGetLastError();
}

static int meet_factors(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, const void *received,
                        void *stream)
{
    tacit_cuda_powersgd_meet(bundle, wholes, received, stream);
    return (int)cudaGetLastError();
}

static int encode_wholes(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *message, void *stream)
{
    tacit_cuda_wholes_clear(bundle, wholes, message, stream);
    tacit_cuda_randk_encode(bundle, wholes, message, stream);
    tacit_cuda_powersgd_encode(bundle, wholes, message, stream);
    tacit_cuda_topk_select(bundle, wholes, stream);
    tacit_cuda_topk_encode(bundle, wholes, message, stream);
    tacit_cuda_wholes_follow(bundle, wholes, stream);
    return (int)cudaGetLastError();
}

static int take_wholes(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, const uint64_t *faults,
                       const void *gathered, void *stream)
{
    tacit_cuda_randk_take(bundle, wholes, faults, gathered, stream);
    tacit_cuda_powersgd_take(bundle, wholes, faults, gathered, stream);
    tacit_cuda_topk_take(bundle, wholes, faults, gathered, stream);
    tacit_cuda_wholes_fit(bundle, wholes, stream);
    tacit_cuda_powersgd_fit(bundle, wholes, stream);
    return (int)cudaGetLastError();
}

static int finish_wholes(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    tacit_cuda_wholes_finish(bundle, wholes, stream);
    tacit_cuda_powersgd_finish(bundle, wholes, stream);
    return (int)cudaGetLastError();
}

static int lsh_codes(const tacit_rotations_t *rotations, const tacit_device_tokens_t *shape, const void *tokens, uint32_t *codes,
                     void *stream)
{
    if (shape->dimension > TACIT_DEVICE_DIMENSION) {
        return (int)cudaErrorInvalidValue;
    }
    tacit_cuda_lsh_codes(rotations, shape, tokens, codes, stream);
    return (int)cudaGetLastError();
}

static int copy_rows(const void *from, const uint32_t *from_index, void *to, const uint32_t *to_index, uint32_t count,
                     size_t row_bytes, void *stream)
{
    tacit_cuda_rows_copy(from, from_index, to, to_index, count, row_bytes, stream);
    return (int)cudaGetLastError();
}

static int sum_rows(const tacit_device_tokens_t *shape, const tacit_device_lists_t *lists, const void *rows, bool mean, void *out,
                    float *wide, void *stream)
{
    tacit_cuda_rows_sum(shape, lists, rows, mean, out, wide, stream);
    return (int)cudaGetLastError();
}

static int check_rows(const tacit_device_tokens_t *shape, const void *rows, uint32_t *found, void *stream)
{
    tacit_cuda_rows_check(shape, rows, found, stream);
    return (int)cudaGetLastError();
}

static int measure_rows(const tacit_device_tokens_t *shape, const tacit_device_members_t *members, const void *tokens,
                        const float *means, double *out, void *stream)
{
    tacit_cuda_rows_measure(shape, members, tokens, means, out, stream);
    return (int)cudaGetLastError();
}

static int combine_rows(const tacit_device_choices_t *choices, const float *weights, const void *tokens, const void *centroids,
                        const void *replies, void *out, void *stream)
{
    tacit_cuda_rows_combine(choices, weights, tokens, centroids, replies, out, stream);
    return (int)cudaGetLastError();
}

static int weigh_rows(const tacit_device_choices_t *choices, const void *gradients, const void *tokens, const void *centroids,
                      const void *replies, float *out, void *stream)
{
    tacit_cuda_rows_weigh(choices, gradients, tokens, centroids, replies, out, stream);
    return (int)cudaGetLastError();
}

static int spread_rows(const tacit_device_choices_t *choices, const float *weights, const void *gradients, const void *sums,
                       const void *rows, void *out, void *stream)
{
    tacit_cuda_rows_spread(choices, weights, gradients, sums, rows, out, stream);
    return (int)cudaGetLastError();
}

static const char *error_text(int error)
{
    return cudaGetErrorString((cudaError_t)error);
}

static int device_count(int *count_out)
{
    const cudaError_t error = cudaGetDeviceCount(count_out);

    if (error != cudaSuccess) {
        *count_out = 0;
        (void)cudaGetLastError(); /* is told here, and to nobody else */
    }
    return (int)error;
}

/* Zeroes what was allocated, and waits for that: streams that do not wait for the default one may use it at once. */
static cudaError_t zero(void *memory, size_t bytes)
{
    const cudaError_t error = cudaMemset(memory, 0, bytes);

    return error == cudaSuccess ? cudaStreamSynchronize((cudaStream_t)0) : error;
}

static int alloc(void **memory_out, size_t bytes)
{
    void       *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, bytes + (bytes == 0));

    if (error == cudaSuccess && (error = zero(memory, bytes)) != cudaSuccess) {
        (void)cudaFree(memory);
    }
    if (error == cudaSuccess) {
        *memory_out = memory;
    }
    return (int)error;
}

/* A wish: where it cannot be had, memory works all the same. */
static void prefer_device(void *memory, size_t bytes)
{
    int device = 0;

    if (cudaGetDevice(&device) == cudaSuccess) {
#if defined(CUDART_VERSION) && CUDART_VERSION < 13000
        (void)cudaMemAdvise(memory, bytes, cudaMemAdviseSetPreferredLocation, device);
#else
        cudaMemLocation location = {};

        location.type = cudaMemLocationTypeDevice;
        location.id = device;
        (void)cudaMemAdvise(memory, bytes, cudaMemAdviseSetPreferredLocation, location);
#endif
    }
    (void)cudaGetLastError();
}

static int alloc_shared(void **memory_out, size_t bytes)
{
    void       *memory = NULL;
    cudaError_t error = cudaMallocManaged(&memory, bytes + (bytes == 0));

    if (error == cudaSuccess) {
        prefer_device(memory, bytes + (bytes == 0));
        error = zero(memory, bytes);
        if (error != cudaSuccess) {
            (void)cudaFree(memory);
        }
    }
    if (error == cudaSuccess) {
        *memory_out = memory;
    }
    return (int)error;
}

/* Of which the device knows: where addresses are shared, as they are on 64 bits, by the same address. */
static int alloc_host(void **memory_out, size_t bytes)
{
    void             *memory = NULL;
    const cudaError_t error = cudaHostAlloc(&memory, bytes + (bytes == 0), cudaHostAllocMapped | cudaHostAllocPortable);

    if (error == cudaSuccess) {
        memset(memory, 0, bytes);
        *memory_out = memory;
    }
    return (int)error;
}

static int free_device(void *memory)
{
    return (int)cudaFree(memory);
}

static int free_host(void *memory)
{
    return (int)cudaFreeHost(memory);
}

static int synchronize(void)
{
    return (int)cudaDeviceSynchronize();
}

static int capturing(void *stream, bool *capturing_out)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t       error = cudaStreamIsCapturing((cudaStream_t)stream, &status);

    *capturing_out = status != cudaStreamCaptureStatusNone;
    return (int)error;
}

/* A stream that is being captured must not be asked. */
static int query(void *stream, bool *idle_out)
{
    cudaError_t error = cudaPeekAtLastError();
    bool        is_capturing = false;

    *idle_out = false;

    if (error == cudaSuccess) {
        error = (cudaError_t)capturing(stream, &is_capturing);
    }
    if (error == cudaSuccess && !is_capturing) {
        error = cudaStreamQuery((cudaStream_t)stream);
        *idle_out = error == cudaSuccess;
    }
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        error = cudaSuccess;
    }
    return (int)error;
}

static int create_stream(void **stream_out)
{
    return (int)cudaStreamCreateWithFlags((cudaStream_t *)stream_out, cudaStreamNonBlocking);
}

static int destroy_stream(void *stream)
{
    return stream != NULL ? (int)cudaStreamDestroy((cudaStream_t)stream) : (int)cudaSuccess;
}

static int copy(void *to, const void *from, size_t bytes, void *stream)
{
    return (int)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream);
}

static int create_event(void **event_out)
{
    return (int)cudaEventCreateWithFlags((cudaEvent_t *)event_out, cudaEventDisableTiming);
}

static int destroy_event(void *event)
{
    return event != NULL ? (int)cudaEventDestroy((cudaEvent_t)event) : (int)cudaSuccess;
}

static int record(void *event, void *stream)
{
    return (int)cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream);
}

static int reached(void *event, bool *reached_out)
{
    cudaError_t error = cudaEventQuery((cudaEvent_t)event);

    *reached_out = error == cudaSuccess;
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        error = cudaSuccess;
    }
    return (int)error;
}

static int follow(void *stream, void *event)
{
    return (int)cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, 0);
}

static int present(int *gpu_out)
{
    return (int)cudaGetDevice(gpu_out);
}

static int set_present(int gpu)
{
    return (int)cudaSetDevice(gpu);
}

/* In the order of tacit_cuda_module_t. */
static const tacit_cuda_module_t table = {
    (uint32_t)sizeof(tacit_cuda_module_t),
    error_text,
    device_count,
    alloc,
    alloc_shared,
    alloc_host,
    free_device,
    free_host,
    synchronize,
    capturing,
    query,
    create_stream,
    destroy_stream,
    copy,
    create_event,
    destroy_event,
    record,
    reached,
    follow,
    present,
    set_present,
    begin,
    encode,
    reduce,
    finish,
    collect,
    seal,
    open,
    end,
    cancel,
    send_factors,
    meet_factors,
    encode_wholes,
    take_wholes,
    finish_wholes,
    lsh_codes,
    copy_rows,
    sum_rows,
    check_rows,
    measure_rows,
    combine_rows,
    weigh_rows,
    spread_rows,
};

} /* namespace tacit_calls */

/* What the module exports. NULL: the caller's table has another size, so it was built with another version. */
extern "C" __attribute__((visibility("default"))) const tacit_cuda_module_t *tacit_cuda_module(uint32_t module_bytes);

const tacit_cuda_module_t *tacit_cuda_module(uint32_t module_bytes)
{
    return module_bytes == tacit_calls::table.module_bytes ? &tacit_calls::table : NULL;
}
