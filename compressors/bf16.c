/* SPDX-License-Identifier: Apache-2.0 */
/* `bf16`: every value rounded to bfloat16. Values beyond its range become its largest finite number, so that
   feedback keeps the excess. */
#include "half.h"
#include "isa.h"
#include "own.h"

enum { LARGEST = 0x7f7f, INFINITE = 0x7f80 };

typedef struct config {
    int own; /* a tacit_own_t */
} config_t;

/* ---- 8 values ---- */

typedef uint16_t halves_t __attribute__((vector_size(16), aligned(1), may_alias));

TACIT_ALWAYS_INLINE void widen_vector(tacit_isa_t isa, const uint8_t *payload, tacit_floats_t *values)
{
    const tacit_words_t bits = __builtin_convertvector(*(const halves_t *)(const void *)payload, tacit_words_t) << 16;
    const tacit_words_t nan = (tacit_words_t)((bits & 0x7fffffffu) > 0x7f800000u);

    (void)isa;
    *values = (tacit_floats_t)(bits | (nan & 0x00400000u));
}

/* As tacit__to_bfloat16(). What is finite has no more to heed than that it may round to infinity. */
TACIT_ALWAYS_INLINE void narrow_vector(bool finite, uint32_t overflow, const tacit_floats_t *a, tacit_words_t *half)
{
    const tacit_words_t bits = (tacit_words_t)*a, magnitude = bits & 0x7fffffffu;
    const tacit_words_t nearest = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    const tacit_words_t infinite = (tacit_words_t)((nearest & 0x7fffu) == INFINITE);

    *half = nearest;
    if (overflow == LARGEST) {
        *half += infinite; /* less one */
    }
    if (!finite) {
        const tacit_words_t special = bits >> 16 | ((tacit_words_t)((tacit_ints_t)magnitude > 0x7f800000) & 0x40u);
        *half = TACIT_SELECT((tacit_ints_t)magnitude < 0x7f800000, *half, special);
    }
}

TACIT_ALWAYS_INLINE void round_vector(tacit_isa_t isa, bool finite, const tacit_floats_t *a, uint8_t *payload,
                                      tacit_floats_t *values)
{
    tacit_words_t half;

    (void)isa;
    narrow_vector(finite, LARGEST, a, &half);
    *(halves_t *)(void *)payload = __builtin_convertvector(half, halves_t);
    *values = (tacit_floats_t)(half << 16);
}

/* ---- Arrays ---- */

static inline void widen_loop(const uint16_t *in, float *out, size_t count)
{
    size_t i = 0;

    for (; i + TACIT_VECTOR <= count; i += TACIT_VECTOR) {
        widen_vector(TACIT_ISA_SCALAR, (const uint8_t *)(in + i), tacit__floats_to(out + i));
    }
    for (; i < count; i++) {
        out[i] = tacit__from_bfloat16(in[i]);
    }
}

static inline void narrow_loop(const float *in, uint16_t *out, size_t count)
{
    size_t i = 0;

    for (; i + TACIT_VECTOR <= count; i += TACIT_VECTOR) {
        tacit_words_t half;

        narrow_vector(false, INFINITE, tacit__floats(in + i), &half);
        *(halves_t *)(void *)(out + i) = __builtin_convertvector(half, halves_t);
    }
    for (; i < count; i++) {
        out[i] = tacit__to_bfloat16(in[i], INFINITE);
    }
}

TACIT_EACH_ISA(void, widen, (const uint16_t *in, float *out, size_t count), (in, out, count))
TACIT_EACH_ISA(void, narrow, (const float *in, uint16_t *out, size_t count), (in, out, count))

void tacit__bfloat16_widen(const uint16_t *in, float *out, size_t count)
{
    widen(in, out, count);
}

void tacit__bfloat16_narrow(const float *in, uint16_t *out, size_t count)
{
    narrow(in, out, count);
}

/* ---- The table ---- */

TACIT_HALF_KERNELS(round_vector, widen_vector)

static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    (void)config;
    (void)count;
    *factor = 0x1p-16; /* the square of the unit roundoff; worse for magnitudes below 2^-126 */
    return TACIT_CONTRACTION;
}

static tacit_device_code_t device(const void *config)
{
    return (tacit_device_code_t){.code = TACIT_CODE_BF16, .block = TACIT_CAST_BLOCK, .coded = tacit__own_coded(config)};
}

static const tacit_param_t params[] = {TACIT_PARAM_OWN, {.key = NULL}};
TACIT_KERNELS

const tacit_compressor_t tacit__compressor_bf16 = {
    .name = "bf16",
    .summary = "bfloat16: 8 significant bits, the range of float32",
    .wire_id = 3,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = tacit__half_grain,
    .bound = tacit__half_bound,
    .own_coded = tacit__own_coded,
    .device = device,
};
