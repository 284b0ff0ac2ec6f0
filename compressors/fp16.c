/* SPDX-License-Identifier: Apache-2.0 */
/* `fp16`: every value rounded to float16. Values beyond its range become its largest finite number, so that
   feedback keeps the excess. */
#include "half.h"
#include "isa.h"
#include "own.h"

#include <math.h>

enum { LARGEST = 0x7bff, INFINITE = 0x7c00 };

typedef struct config {
    int own; /* a tacit_own_t */
} config_t;

/* ---- 8 values ---- */

static inline void round_plain(const tacit_floats_t *a, uint8_t *payload, tacit_floats_t *values)
{
    float    in[TACIT_VECTOR], out[TACIT_VECTOR];
    uint16_t halves[TACIT_VECTOR];

    memcpy(in, a, sizeof in);
    for (size_t j = 0; j < TACIT_VECTOR; j++) {
        halves[j] = tacit__to_float16(in[j], LARGEST);
        out[j] = tacit__from_float16(halves[j]);
    }
    memcpy(payload, halves, sizeof halves);
    memcpy(values, out, sizeof out);
}

static inline void widen_plain(const uint8_t *payload, tacit_floats_t *values)
{
    float    out[TACIT_VECTOR];
    uint16_t halves[TACIT_VECTOR];

    memcpy(halves, payload, sizeof halves);
    for (size_t j = 0; j < TACIT_VECTOR; j++) {
        out[j] = tacit__from_float16(halves[j]);
    }
    memcpy(values, out, sizeof out);
}

#ifdef TACIT_ON_X86
/* Conversions of processors do not heed the modes that flush subnormals to zero. Finite numbers are brought into range before;
   infinity and NaN pass: where one operand is NaN, minimum and maximum are the second. */
TACIT_TARGET_AVX2 static inline void round_avx2(const tacit_floats_t *a, uint8_t *payload, tacit_floats_t *values)
{
    const __m256  x = (__m256)*a, sign = _mm256_set1_ps(-0.0f), largest = _mm256_set1_ps(65504.0f);
    const __m256  infinite = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(INFINITY), _CMP_EQ_OQ);
    const __m256  within = _mm256_max_ps(_mm256_xor_ps(largest, sign), _mm256_min_ps(largest, x));
    const __m128i halves = _mm256_cvtps_ph(_mm256_blendv_ps(within, x, infinite), _MM_FROUND_TO_NEAREST_INT);

    _mm_storeu_si128((__m128i *)(void *)payload, halves);
    *values = (tacit_floats_t)_mm256_cvtph_ps(halves);
}

TACIT_TARGET_AVX2 static inline void widen_avx2(const uint8_t *payload, tacit_floats_t *values)
{
    *values = (tacit_floats_t)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)payload));
}
#endif

TACIT_ALWAYS_INLINE void round_vector(tacit_isa_t isa, bool finite, const tacit_floats_t *a, uint8_t *payload,
                                      tacit_floats_t *values)
{
    (void)finite;
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { round_avx2(a, payload, values); } else)
    round_plain(a, payload, values);
}

TACIT_ALWAYS_INLINE void widen_vector(tacit_isa_t isa, const uint8_t *payload, tacit_floats_t *values)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { widen_avx2(payload, values); } else)
    widen_plain(payload, values);
}

/* ---- Arrays ---- */

/* These do a multiple of 8 elements, and return how many. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static size_t widen_array(const uint16_t *in, float *out, size_t count)
{
    size_t i = 0;

    for (; i + TACIT_VECTOR <= count; i += TACIT_VECTOR) {
        widen_avx2((const uint8_t *)(in + i), tacit__floats_to(out + i));
    }
    return i;
}

TACIT_TARGET_AVX2 static size_t narrow_array(const float *in, uint16_t *out, size_t count)
{
    size_t i = 0;

    for (; i + TACIT_VECTOR <= count; i += TACIT_VECTOR) {
        _mm_storeu_si128((__m128i *)(void *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    }
    return i;
}
#endif

void tacit__float16_widen(const uint16_t *in, float *out, size_t count)
{
    size_t i = 0;

    TACIT_X86(i = tacit__isa() != TACIT_ISA_SCALAR ? widen_array(in, out, count) : 0;)
    for (; i < count; i++) {
        out[i] = tacit__from_float16(in[i]);
    }
}

void tacit__float16_narrow(const float *in, uint16_t *out, size_t count)
{
    size_t i = 0;

    TACIT_X86(i = tacit__isa() != TACIT_ISA_SCALAR ? narrow_array(in, out, count) : 0;)
    for (; i < count; i++) {
        out[i] = tacit__to_float16(in[i], INFINITE);
    }
}

/* ---- The table ---- */

TACIT_HALF_KERNELS(round_vector, widen_vector)

static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    (void)config;
    (void)count;
    *factor = 0x1p-22; /* the square of the unit roundoff; worse for magnitudes below 2^-14 and above 65504 */
    return TACIT_CONTRACTION;
}

static tacit_device_code_t device(const void *config)
{
    return (tacit_device_code_t){.code = TACIT_CODE_FP16, .block = TACIT_CAST_BLOCK, .coded = tacit__own_coded(config)};
}

static const tacit_param_t params[] = {TACIT_PARAM_OWN, {.key = NULL}};
TACIT_KERNELS

const tacit_compressor_t tacit__compressor_fp16 = {
    .name = "fp16",
    .summary = "float16: 11 significant bits, 6e-8 to 65504",
    .wire_id = 2,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = tacit__half_grain,
    .bound = tacit__half_bound,
    .own_coded = tacit__own_coded,
    .saturates = true,
    .device = device,
};
