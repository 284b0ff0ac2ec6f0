/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens on a GPU, for tests: memory, numbers of each dtype, and what is the same as on the CPU. */
#ifndef TACIT_TEST_TOKENS_H
#define TACIT_TEST_TOKENS_H

#include <check.h>
#include <math.h>
#include <string.h>

#include "cuda_module.h"
#include "gpu.h"
#include "half.h"
#include "harness.h"

#ifdef TACIT_EMULATED
const tacit_cuda_module_t *tacit_cuda_module(uint32_t module_bytes);
#endif

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static const tacit_cuda_module_t *cuda;

/* Fails with CUDA's own words. */
#define MUST(call) must((call), #call)

static inline void must(int error, const char *call)
{
    ck_assert_msg(error == 0, "%s: %s", call, cuda->error_text(error));
}

/* Memory of both, full of what nobody has written. */
static inline void *get(size_t count, size_t size)
{
    void *memory = tacit__cuda_alloc_shared(cuda, count + 1, size);

    ck_assert_ptr_nonnull(memory);
    memset(memory, 0xcd, (count + 1) * size);
    return memory;
}

static inline void give(void *memory)
{
    tacit__cuda_free_shared(cuda, memory);
}

/* ---- Tokens ---- */

typedef struct setup {
    size_t        tokens, dimension;
    int           hashes, rounds;
    tacit_dtype_t dtype;
    bool          skip; /* what is not finite counts as zero */
} setup_t;

static inline size_t bytes_of(tacit_dtype_t dtype)
{
    return dtype == TACIT_FLOAT32 ? 4 : 2;
}

static inline void narrow(tacit_dtype_t dtype, const float *x, void *out, size_t count)
{
    if (dtype == TACIT_FLOAT16) {
        tacit__float16_narrow(x, out, count);
    } else if (dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_narrow(x, out, count);
    } else {
        memcpy(out, x, count * sizeof *x);
    }
}

static inline void widen(tacit_dtype_t dtype, const void *in, float *x, size_t count)
{
    if (dtype == TACIT_FLOAT16) {
        tacit__float16_widen(in, x, count);
    } else if (dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_widen(in, x, count);
    } else {
        memcpy(x, in, count * sizeof *x);
    }
}

/* Numbers as the layer's dtype has them. */
static inline void *rounded(const setup_t *setup, float *x, size_t count)
{
    void *out = get(count, bytes_of(setup->dtype));

    narrow(setup->dtype, x, out, count);
    widen(setup->dtype, out, x, count);
    return out;
}

static inline tacit_device_tokens_t shape_of(const setup_t *setup)
{
    return (tacit_device_tokens_t){(uint32_t)setup->tokens, (uint32_t)setup->dimension, (uint8_t)setup->dtype, setup->skip};
}

/* NaN is NaN whatever its bits, which processors choose. */
static inline void same_floats(const setup_t *setup, const char *what, const float *cpu, const float *gpu, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t one, other;

        memcpy(&one, &cpu[i], sizeof one);
        memcpy(&other, &gpu[i], sizeof other);
        ck_assert_msg(
            one == other || (isnan(cpu[i]) && isnan(gpu[i])),
            "%zu tokens of %zu elements, dtype %d, %d hashes, %d rounds: %s: element %zu is %.9g (%08x) on the CPU, %.9g "
            "(%08x) on the GPU",
            setup->tokens, setup->dimension, (int)setup->dtype, setup->hashes, setup->rounds, what, i, (double)cpu[i], one,
            (double)gpu[i], other);
    }
}

static inline void nothing_behind(const void *memory, size_t bytes)
{
    ck_assert_uint_eq(((const uint8_t *)memory)[bytes], 0xcd);
}

/* cpu becomes what the layer's dtype has of it. */
static inline void same_rows(const setup_t *setup, const char *what, float *cpu, const void *gpu, size_t count)
{
    float *other = get(count, 4);

    give(rounded(setup, cpu, count));
    widen(setup->dtype, gpu, other, count);
    same_floats(setup, what, cpu, other, count);
    nothing_behind(gpu, count * bytes_of(setup->dtype));
    give(other);
}

/* Finds the module. False: there is none, as has been said. */
static inline bool tokens_begin(void)
{
#ifdef TACIT_EMULATED
    tacit__cuda_use(tacit_cuda_module(sizeof(tacit_cuda_module_t)));
#endif
    return !gpu_is_missing() && tacit__cuda_module(&cuda) == TACIT_OK;
}

#endif
