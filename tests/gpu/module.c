/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA module is found and loaded; its memory, its copies, what it says of streams. */
#include <check.h>
#include <string.h>

#include "cuda_module.h"
#include "gpu.h"
#include "harness.h"

enum { BYTES = 100003 };

static const tacit_cuda_module_t *cuda;

/* Fails with CUDA's own words. */
#define MUST(call) must((call), #call)

static void must(int error, const char *call)
{
    ck_assert_msg(error == 0, "%s: %s", call, cuda->error_text(error));
}

static void setup(void)
{
    ck_assert_int_eq(tacit__cuda_module(&cuda), TACIT_OK);
}

START_TEST(one_table)
{
    const tacit_cuda_module_t *again = NULL;
    tacit_cuda_module_t        other = {.module_bytes = 0};
    const char                *text = NULL;
    int                        gpus = 0;

    ck_assert_int_eq(tacit__cuda_module(&again), TACIT_OK);
    ck_assert_ptr_eq(again, cuda);
    ck_assert_uint_eq(cuda->module_bytes, sizeof *cuda);
    MUST(cuda->device_count(&gpus));
    ck_assert_int_gt(gpus, 0);
    ck_assert_int_eq(tacit__cuda_summary(&text), TACIT_OK);
    ck_assert_ptr_nonnull(strstr(text, "GPU"));

    tacit__cuda_use(&other);
    ck_assert_int_eq(tacit__cuda_module(&again), TACIT_OK);
    ck_assert_ptr_eq(again, &other);
    tacit__cuda_use(NULL);
    ck_assert_int_eq(tacit__cuda_module(&again), TACIT_OK);
    ck_assert_ptr_eq(again, cuda);
}
END_TEST

/* Bytes go to the device, there, and back. */
START_TEST(copies)
{
    static uint8_t   there[BYTES], back[BYTES];
    harness_random_t random = {1};
    void            *one = NULL, *other = NULL;
    bool             idle = true;

    for (size_t i = 0; i < BYTES; i++) {
        there[i] = (uint8_t)harness_next(&random);
    }
    MUST(cuda->alloc(&one, BYTES));
    MUST(cuda->alloc(&other, BYTES));
    MUST(cuda->copy(back, one, BYTES, NULL));
    MUST(cuda->synchronize());
    for (size_t i = 0; i < BYTES; i++) {
        ck_assert_uint_eq(back[i], 0);
    }
    MUST(cuda->copy(one, there, BYTES, NULL));
    MUST(cuda->copy(other, one, BYTES, NULL));
    MUST(cuda->copy(back, other, BYTES, NULL));
    MUST(cuda->query(NULL, &idle));
    MUST(cuda->synchronize());
    ck_assert_mem_eq(back, there, BYTES);
    MUST(cuda->free(one));
    MUST(cuda->free(other));
    MUST(cuda->free(NULL));
}
END_TEST

/* Memory of both and of the host is zero, and what the host writes there the device reads. */
START_TEST(shared_memory)
{
    uint8_t *memory[2] = {NULL, NULL}, back[256];
    void    *on_device = NULL;

    MUST(cuda->alloc_shared((void **)&memory[0], sizeof back));
    MUST(cuda->alloc_host((void **)&memory[1], sizeof back));
    MUST(cuda->alloc(&on_device, sizeof back));
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < sizeof back; i++) {
            ck_assert_uint_eq(memory[kind][i], 0);
            memory[kind][i] = (uint8_t)(i + (size_t)kind);
        }
        MUST(cuda->copy(on_device, memory[kind], sizeof back, NULL));
        MUST(cuda->copy(back, on_device, sizeof back, NULL));
        MUST(cuda->synchronize());
        ck_assert_mem_eq(back, memory[kind], sizeof back);
    }
    MUST(cuda->free(memory[0]));
    MUST(cuda->free_host(memory[1]));
    MUST(cuda->free(on_device));
}
END_TEST

START_TEST(streams)
{
    bool  capturing = true, idle = false;
    void *stream = NULL;

    MUST(cuda->capturing(NULL, &capturing));
    ck_assert(!capturing);
    MUST(cuda->create_stream(&stream));
    ck_assert_ptr_nonnull(stream);
    MUST(cuda->query(stream, &idle));
    ck_assert(idle);
    MUST(cuda->destroy_stream(stream));
    MUST(cuda->destroy_stream(NULL));
}
END_TEST

/* Nothing is launched for a code that there is not. */
START_TEST(unknown_codes)
{
    const tacit_device_bundle_t bundle = {.tensor_count = 0};
    tacit_device_tiles_t        tiles = {.code = TACIT_CODES};

    ck_assert_int_ne(cuda->encode(&bundle, &tiles, NULL, NULL), 0);
    tiles = (tacit_device_tiles_t){.code = TACIT_CODE_ROTQ, .width = TACIT_WIDTH_WIDE};
    ck_assert_int_ne(cuda->reduce(&bundle, &tiles, NULL, NULL, NULL), 0);
    tiles = (tacit_device_tiles_t){.code = TACIT_CODE_ONEBIT, .width = TACIT_WIDTHS};
    ck_assert_int_ne(cuda->finish(&bundle, &tiles, NULL, NULL, NULL), 0);
    for (int code = TACIT_CODE_TOPK; code < TACIT_CODES; code++) { /* of whole tensors, which have no tiles */
        tiles = (tacit_device_tiles_t){.code = (uint8_t)code};
        ck_assert_int_ne(cuda->encode(&bundle, &tiles, NULL, NULL), 0);
        ck_assert_int_ne(cuda->reduce(&bundle, &tiles, NULL, NULL, NULL), 0);
        ck_assert_int_ne(cuda->finish(&bundle, &tiles, NULL, NULL, NULL), 0);
    }
    for (int code = 0; code < TACIT_CODE_TOPK; code++) { /* no tiles: nothing to do */
        tiles = (tacit_device_tiles_t){.code = (uint8_t)code};
        MUST(cuda->encode(&bundle, &tiles, NULL, NULL));
        MUST(cuda->reduce(&bundle, &tiles, NULL, NULL, NULL));
        MUST(cuda->finish(&bundle, &tiles, NULL, NULL, NULL));
    }
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tests;

    if (gpu_is_missing()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("CUDA module");
    tests = tcase_create("module");
    tcase_add_unchecked_fixture(tests, setup, NULL);
    tcase_add_test(tests, one_table);
    tcase_add_test(tests, copies);
    tcase_add_test(tests, shared_memory);
    tcase_add_test(tests, streams);
    tcase_add_test(tests, unknown_codes);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
