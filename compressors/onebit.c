/* SPDX-License-Identifier: Apache-2.0 */
/* `onebit`: the sign of every element and one scale a block, the root of the mean square (Tang et al., "1-bit Adam", ICML 2021)
   or the mean magnitude (Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019).

   A record, one a block: the scale, a float32; then one bit an element, set where a >= 0, so for -0 and not for NaN. Element 0
   is the most significant bit of the first byte; bits are padded with ones to a multiple of 4 bytes. No elements: no bytes. */
#include "bits.h"
#include "compressor.h"
#include "isa.h"
#include "lanes.h"
#include "own.h"

#include <math.h>

enum { SUB_BLOCK = 2048 }; /* elements of one float32 sum: 8 KiB, a quarter of L1; larger sums are float64 sums of these */

typedef enum { NORM_L2, NORM_L1 } norm_t;

typedef struct config {
    int     own; /* a tacit_own_t */
    int     norm;
    int64_t block; /* 0: all elements of a call */
} config_t;

/* ---- The first look: the scale. Lane j takes elements i = j mod 64 in ascending i; then halves are added to halves ---- */

static inline double wide_term(norm_t norm, float value)
{
    return norm == NORM_L2 ? (double)value * (double)value : fabs((double)value);
}

static inline void visit_squares(tacit_isa_t isa, void *state, const tacit_floats_t a[TACIT_VECTORS])
{
    tacit_floats_t *lanes = state;

    (void)isa;
    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        lanes[k] += a[k] * a[k];
    }
}

static inline void visit_magnitudes(tacit_isa_t isa, void *state, const tacit_floats_t a[TACIT_VECTORS])
{
    tacit_floats_t *lanes = state;

    (void)isa;
    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        lanes[k] += TACIT_MAGNITUDES(a[k]);
    }
}

/* Gathers a part of a block and adds up its terms; zeros change no sum. Returns whether all is finite. */
TACIT_ALWAYS_INLINE bool lanes_sum(norm_t norm, const tacit_ef_t *ef, bool feedback, size_t first, size_t count, float *sum_out)
{
    const tacit_isa_t any = TACIT_ISA_SCALAR;
    tacit_floats_t    lanes[TACIT_VECTORS] = {{0}};
    bool              finite;

    if (norm == NORM_L2) {
        finite = tacit__gather(any, ef, feedback, first, count, 0, visit_squares, lanes);
    } else {
        finite = tacit__gather(any, ef, feedback, first, count, 0, visit_magnitudes, lanes);
    }
    *sum_out = tacit__lanes_sum(lanes);
    return finite;
}

/* The same in float64, for sums that leave the range of float32. Rare, so it need not be fast. */
static double wide_lanes_sum(norm_t norm, const float *a, size_t count)
{
    double lanes[TACIT_LANES] = {0};

    for (size_t i = 0; i < count; i++) {
        lanes[i % TACIT_LANES] += wide_term(norm, a[i]);
    }
    for (size_t width = TACIT_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

/* Gathers a block and returns its scale; NaN where something is not finite, and then memory is as it was. */
TACIT_ALWAYS_INLINE float scale_of(norm_t norm, const tacit_ef_t *ef, bool feedback, size_t first, size_t count)
{
    const float *a = feedback ? ef->next : ef->in;
    double       total = 0;

    for (size_t i = 0, part; i < count; i += part) {
        float sum;

        part = count - i < SUB_BLOCK ? count - i : SUB_BLOCK;
        if (!lanes_sum(norm, ef, feedback, first + i, part, &sum)) {
            if (feedback) {
                tacit__ungather(ef, first, i);
            }
            return tacit__bits_float(TACIT_FLOAT_NAN);
        }
        /* Squares of numbers near 2^-60 and below lose bits, or vanish, where squares of numbers near 2^-48 do not yet. */
        total += isfinite(sum) && (norm == NORM_L1 || sum >= 0x1p-96f) ? (double)sum : wide_lanes_sum(norm, a + first + i, part);
    }
    total /= (double)count;
    return (float)(norm == NORM_L2 ? sqrt(total) : total);
}

/* ---- The second look: bits. Element j of 64 is bit j of a word here, set where a >= 0 ---- */

/* What is written of an element: the value that receivers decode, or what they do not get of it. */
typedef enum { DECODED, KEPT } output_t;

static inline uint64_t signs_plain(const float *a, float scale, output_t output, float *out)
{
    uint64_t bits = 0;

    for (size_t j = 0; j < TACIT_LANES; j++) {
        const bool  set = a[j] >= 0;
        const float value = tacit__bits_float(tacit__float_bits(scale) ^ (set ? 0 : 0x80000000u));
        bits |= (uint64_t)set << j;
        out[j] = output == KEPT ? a[j] - value : value;
    }
    return bits;
}

#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline uint64_t signs_avx2(const float *a, float scale, output_t output, float *out)
{
    const __m256 up = _mm256_set1_ps(scale), down = _mm256_xor_ps(up, _mm256_set1_ps(-0.0f));
    uint64_t     bits = 0;

#pragma GCC unroll 8
    for (size_t j = 0; j < TACIT_LANES; j += 8) {
        const __m256 values = _mm256_loadu_ps(a + j), set = _mm256_cmp_ps(values, _mm256_setzero_ps(), _CMP_GE_OQ);
        const __m256 decoded = _mm256_blendv_ps(down, up, set);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(set) << j;
        _mm256_storeu_ps(out + j, output == KEPT ? _mm256_sub_ps(values, decoded) : decoded);
    }
    return bits;
}

TACIT_TARGET_AVX512 static inline uint64_t signs_avx512(const float *a, float scale, output_t output, float *out)
{
    const __m512 up = _mm512_set1_ps(scale), down = _mm512_set1_ps(-scale);
    uint64_t     bits = 0;

#pragma GCC unroll 4
    for (size_t j = 0; j < TACIT_LANES; j += 16) {
        const __m512    values = _mm512_loadu_ps(a + j);
        const __mmask16 set = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_GE_OQ);
        const __m512    decoded = _mm512_mask_blend_ps(set, down, up);
        bits |= (uint64_t)set << j;
        _mm512_storeu_ps(out + j, output == KEPT ? _mm512_sub_ps(values, decoded) : decoded);
    }
    return bits;
}
#endif

TACIT_ALWAYS_INLINE uint64_t signs_of(tacit_isa_t isa, const float *a, float scale, output_t output, float *out)
{
    TACIT_X86(
        if (isa == TACIT_ISA_AVX512) { return signs_avx512(a, scale, output, out); } if (isa == TACIT_ISA_AVX2) {
            return signs_avx2(a, scale, output, out);
        })
    (void)isa;
    return signs_plain(a, scale, output, out);
}

/* Reverses the bits of every byte: the first element is a byte's most significant bit. */
static inline uint64_t mirrored(uint64_t bits)
{
    bits = (bits >> 1 & 0x5555555555555555u) | (bits & 0x5555555555555555u) << 1;
    bits = (bits >> 2 & 0x3333333333333333u) | (bits & 0x3333333333333333u) << 2;
    return (bits >> 4 & 0x0f0f0f0f0f0f0f0fu) | (bits & 0x0f0f0f0f0f0f0f0fu) << 4;
}

/* The values of 64 elements. */
static inline void decode_lanes(const uint8_t *restrict payload, float scale, float *restrict values)
{
    static const uint32_t masks[8] = {0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01};

    for (size_t byte = 0; byte < TACIT_LANES / 8; byte++) {
        for (size_t j = 0; j < 8; j++) {
            uint32_t sign = payload[byte] & masks[j] ? 0 : 0x80000000u;
            values[8 * byte + j] = tacit__bits_float(tacit__float_bits(scale) ^ sign);
        }
    }
}

static size_t record_bytes(size_t count)
{
    return count > 0 ? 4 + 4 * ((count + 31) / 32) : 0;
}

/* A record of a[0..count) with its scale. */
TACIT_ALWAYS_INLINE void encode_record(tacit_isa_t isa, float scale, const float *a, size_t count, uint8_t *payload,
                                       output_t output, float *out)
{
    const size_t whole = count - count % TACIT_LANES;
    uint64_t     bits;

    tacit__store32(payload, tacit__float_bits(scale));
    payload += 4;
    for (size_t i = 0; i < whole; i += TACIT_LANES) {
        bits = mirrored(signs_of(isa, a + i, scale, output, out + i));
        memcpy(payload + i / 8, &bits, sizeof bits);
    }
    if (whole < count) {
        float values[TACIT_LANES] = {0}; /* zeros are padding too: their bits are ones */
        memcpy(values, a + whole, (count - whole) * sizeof *a);
        bits = mirrored(signs_of(isa, values, scale, output, values));
        memcpy(payload + whole / 8, &bits, (count - whole + 31) / 32 * 4);
        memcpy(out + whole, values, (count - whole) * sizeof *a);
    }
}

static void decode_record(const uint8_t *payload, size_t count, float *out, bool add)
{
    const float scale = tacit__bits_float(tacit__load32(payload));
    float       values[TACIT_LANES];
    uint8_t     bits[TACIT_LANES / 8] = {0};
    size_t      i = 0;

    payload += 4;
    for (; i + TACIT_LANES <= count && !add; i += TACIT_LANES) {
        decode_lanes(payload + i / 8, scale, out + i);
    }
    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        decode_lanes(payload + i / 8, scale, values);
        for (size_t j = 0; j < TACIT_LANES; j++) {
            out[i + j] += values[j];
        }
    }
    if (i < count) {
        memcpy(bits, payload + i / 8, (count - i + 31) / 32 * 4);
        decode_lanes(bits, scale, values);
        for (size_t j = 0; i + j < count; j++) {
            out[i + j] = add ? out[i + j] + values[j] : values[j];
        }
    }
}

/* ---- The table ---- */

static size_t block_of(const config_t *config, size_t count)
{
    return config->block > 0 && (size_t)config->block < count ? (size_t)config->block : count;
}

TACIT_ALWAYS_INLINE uint32_t encode_with(tacit_isa_t isa, const tacit_block_t *block, output_t output, const tacit_ef_t *ef,
                                         uint8_t *payload, size_t *done_out)
{
    const config_t *config = block->config;
    const size_t    step = block_of(config, block->count);
    const float    *a = output == KEPT ? ef->next : ef->in;
    uint32_t        faults = 0;
    size_t          i = 0;

    for (size_t count; i < block->count; i += count) {
        float scale;

        count = block->count - i < step ? block->count - i : step;
        scale = scale_of((norm_t)config->norm, ef, output == KEPT, i, count);
        if (!isfinite(scale)) {
            faults = TACIT_FAULT_NONFINITE;
            if (output == KEPT) {
                break;
            }
        }
        encode_record(isa, scale, a + i, count, payload, output, ef->next + i);
        payload += record_bytes(count);
    }
    *done_out = i;
    return faults;
}

TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,
                                       size_t *done_out)
{
    return encode_with(isa, block, KEPT, ef, payload, done_out);
}

TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    const tacit_ef_t none = {.in = a, .next = decoded};
    size_t           done;

    return encode_with(isa, block, DECODED, &none, payload, &done);
}

static inline void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const size_t step = block_of(block->config, block->count);

    (void)isa;
    for (size_t i = 0, count; i < block->count; i += count) {
        count = block->count - i < step ? block->count - i : step;
        decode_record(payload, count, out + i, add);
        payload += record_bytes(count);
    }
}

/* The worst input is one element alone. The mean magnitude then keeps 1/n of its square. The root mean square keeps the norm
   instead, which costs an error above 1, up to 2; it is below 1 wherever |x|_1 > sqrt(n) |x|_2 / 2: with dense gradients. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;
    const double    n = (double)block_of(own, count);

    *factor = n < 2 ? 0 : own->norm == NORM_L2 ? 2 * (1 - 1 / sqrt(n)) : 1 - 1 / n;
    return TACIT_CONTRACTION;
}

/* 2 (1 - q) or 1 - q^2 is lost, q = |x|_1 / (sqrt(n) |x|_2), which is sqrt(2 / pi) for normal noise. */
static double delta(const void *config, const tacit_slot_config_t *tensor)
{
    const config_t *own = config;
    const double    q = sqrt(2 / 3.14159265358979323846);

    (void)tensor;
    return own->norm == NORM_L2 ? 1 - 2 * (1 - q) : q * q;
}

static size_t grain(const void *config)
{
    const config_t *own = config;

    return (size_t)own->block;
}

static size_t bound(const void *config, size_t count)
{
    const size_t step = block_of(config, count);

    return count > 0 ? count / step * record_bytes(step) + record_bytes(count % step) : 0;
}

static tacit_device_code_t device(const void *config)
{
    const config_t *own = config;

    return (tacit_device_code_t){.code = TACIT_CODE_ONEBIT,
                                 .variant = own->norm == NORM_L1,
                                 .block = (uint32_t)own->block,
                                 .coded = tacit__own_coded(config)};
}

static const tacit_param_t params[] = {
    {.key = "block",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, block),
     .low = 0,
     .high = 65536,
     .initial = 2048,
     .multiple = 32,
     .unit = "elements",
     .help = "Elements that share one scale; 0: all that one owner reduces."},
    {.key = "norm",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, norm),
     .initial = NORM_L2,
     .words = "l2 l1",
     .unit = "",
     .help = "What the scale is: l2, the root of the mean square, keeps the norm; l1, the mean magnitude, has the least error."},
    TACIT_PARAM_OWN,
    {.key = NULL},
};

TACIT_KERNELS

const tacit_compressor_t tacit__compressor_onebit = {
    .name = "onebit",
    .summary = "signs and one scale a block: 1 bit an element",
    .wire_id = 4,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .delta = delta,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
    .device = device,
};
