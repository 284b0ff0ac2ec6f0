/* SPDX-License-Identifier: Apache-2.0 */
/* `qsgd`: 2^bits evenly spaced levels from each block's minimum to its maximum, rounded to the nearest or at random (Alistarh
   et al., "QSGD", NIPS 2017, in the bucketed min-max form of Markov et al., "CGX", Middleware 2022).

   A record, one a block: unit, the distance of levels, and the minimum, both float32; then the levels. 8 elements form a
   little-endian integer of `bits` bytes, element j at its bits j * bits and up. Elements are padded with level 0 to whole
   groups of 8, bytes with zeros to a multiple of 4. No elements: no bytes. */
#include "bits.h"
#include "compressor.h"
#include "isa.h"
#include "lanes.h"
#include "levels.h"
#include "own.h"
#include "qsgd.h"
#include "random.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { MAX_BITS = 8, TOGETHER = 8 };

typedef enum { ROUNDING_AUTO, ROUNDING_NEAREST, ROUNDING_STOCHASTIC } rounding_t;

typedef struct config {
    int     own; /* a tacit_own_t */
    int     rounding;
    int64_t bits;
    int64_t block;
} config_t;

/* ---- The first look: the range ---- */

typedef struct range {
    tacit_floats_t low[TACIT_VECTORS], high[TACIT_VECTORS];
} range_t;

static inline void visit_range(tacit_isa_t isa, void *state, const tacit_floats_t a[TACIT_VECTORS])
{
    range_t *range = state;

    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        tacit__lower(isa, &range->low[k], &a[k]);
        tacit__raise(isa, &range->high[k], &a[k]);
    }
}

/* Gathers a block and returns its scale. With feedback, if the unit is NaN memory is as it was. */
TACIT_ALWAYS_INLINE tacit_qsgd_t scale_of(tacit_isa_t isa, const tacit_ef_t *ef, bool feedback, size_t first, size_t count,
                                          float top)
{
    const float  any = feedback ? ef->in[first] + ef->now[first] : ef->in[first];
    range_t      range = {{{0}}, {{0}}};
    bool         finite;
    tacit_qsgd_t scale;

    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        range.low[k] = range.high[k] = any - (tacit_floats_t){0};
    }
    finite = tacit__gather(isa, ef, feedback, first, count, any, visit_range, &range);
    scale = tacit__qsgd_between(tacit__lanes_least(isa, range.low), tacit__lanes_most(isa, range.high), finite, top);
    if (feedback && finite && !isfinite(scale.unit)) {
        tacit__ungather(ef, first, count);
    }
    return scale;
}

/* ---- The second look: levels ---- */

/* What is written of an element: the value that receivers decode, or what they do not get of it. */
typedef enum { DECODED, KEPT } output_t;

/* What is added before rounding down. `element` is the first one's index in the whole tensor, a multiple of 4. */
static void random_shifts(const tacit_stream_t *stream, uint64_t element, float *shifts)
{
    uint32_t words[TACIT_LANES];

    tacit__random_lanes(stream, element / 4, words);
    for (size_t j = 0; j < TACIT_LANES; j++) {
        shifts[j] = tacit__uniform(words[j]);
    }
}

/* 64 elements: their levels, with a unit above 0 and shifts[] added before rounding down, go to 8 * bits bytes; out[] as wanted.
   The product is rounded before it is added. */
static inline void levels_plain(const float *a, const float *shifts, tacit_qsgd_t scale, unsigned bits, output_t output,
                                uint8_t *bytes, float *out)
{
    const float top = tacit__qsgd_top(bits);
    uint8_t     levels[TACIT_LANES];

    for (size_t j = 0; j < TACIT_LANES; j++) {
        levels[j] = tacit__qsgd_level(a[j], scale, shifts[j], top);
    }
    for (size_t j = 0; j < TACIT_LANES; j++) {
        const float value = tacit__qsgd_value(levels[j], scale);
        out[j] = output == KEPT ? a[j] - value : value;
    }
    tacit__pack_lanes_plain(levels, bits, bytes);
}

#ifdef TACIT_ON_X86
/* 8 levels. */
TACIT_TARGET_AVX2 static inline __m256i levels8_avx2(const float *a, const float *shifts, tacit_qsgd_t scale, unsigned bits,
                                                     output_t output, float *out)
{
    const __m256  unit = _mm256_set1_ps(scale.unit), minimum = _mm256_set1_ps(scale.minimum);
    const __m256  values = _mm256_loadu_ps(a), places = _mm256_div_ps(_mm256_sub_ps(values, minimum), unit);
    const __m256  level = _mm256_min_ps(_mm256_add_ps(places, _mm256_loadu_ps(shifts)), _mm256_set1_ps(tacit__qsgd_top(bits)));
    const __m256i whole = _mm256_cvttps_epi32(level);
    const __m256  decoded = _mm256_add_ps(minimum, _mm256_mul_ps(unit, _mm256_cvtepi32_ps(whole)));

    _mm256_storeu_ps(out, output == KEPT ? _mm256_sub_ps(values, decoded) : decoded);
    return whole;
}

TACIT_TARGET_AVX2 static inline void levels_avx2(const float *a, const float *shifts, tacit_qsgd_t scale, unsigned bits,
                                                 output_t output, uint8_t *bytes, float *out)
{
    tacit_words_t whole[TACIT_VECTORS];
    uint8_t       levels[TACIT_LANES];

    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        const size_t j = TACIT_VECTOR * k;
        whole[k] = (tacit_words_t)levels8_avx2(a + j, shifts + j, scale, bits, output, out + j);
    }
    tacit__narrow_lanes_avx2(whole, levels);
    tacit__pack_lanes_avx2(levels, bits, bytes);
}
#endif

/* The same where there may be no unit: shifts is NULL, and all are level 0. */
TACIT_ALWAYS_INLINE void encode_lanes(tacit_isa_t isa, const float *a, const float *shifts, tacit_qsgd_t scale, unsigned bits,
                                      output_t output, uint8_t *bytes, float *out)
{
    if (shifts == NULL) {
        for (size_t j = 0; j < TACIT_LANES; j++) {
            out[j] = output == KEPT ? a[j] - scale.minimum : scale.minimum;
        }
        memset(bytes, 0, TACIT_LANES / 8 * bits);
        return;
    }
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        levels_avx2(a, shifts, scale, bits, output, bytes, out);
        return;
    })
    levels_plain(a, shifts, scale, bits, output, bytes, out);
}

/* ---- Records ---- */

static size_t record_bytes(unsigned bits, size_t count)
{
    return tacit__qsgd_bytes(bits, count);
}

#ifdef TACIT_ON_X86
/* The two halves of 32 bytes become 64 levels. */
TACIT_TARGET_AVX2 static inline void unpack4_avx2(const uint8_t *bytes, uint8_t *levels)
{
    const __m256i both = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(const void *)bytes), 0xd8);
    const __m256i mask = _mm256_set1_epi8(15), low = _mm256_and_si256(both, mask);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);

    _mm256_storeu_si256((__m256i *)(void *)levels, _mm256_unpacklo_epi8(low, high));
    _mm256_storeu_si256((__m256i *)(void *)(levels + 32), _mm256_unpackhi_epi8(low, high));
}

/* The four parts of 16 bytes. */
TACIT_TARGET_AVX2 static inline void unpack2_avx2(const uint8_t *bytes, uint8_t *levels)
{
    for (size_t i = 0; i < 2; i++) {
        const __m256i fours = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(bytes + 8 * i)));
        const __m256i low = _mm256_or_si256(fours, _mm256_slli_epi32(fours, 6));
        const __m256i all = _mm256_or_si256(low, _mm256_slli_epi32(low, 12)); /* parts 2 bits apart are now 8 apart */

        _mm256_storeu_si256((__m256i *)(void *)(levels + 32 * i), _mm256_and_si256(all, _mm256_set1_epi8(3)));
    }
}

TACIT_TARGET_AVX2 static inline void values_avx2(const uint8_t *levels, tacit_qsgd_t scale, bool add, float *out)
{
    const __m256 unit = _mm256_set1_ps(scale.unit), minimum = _mm256_set1_ps(scale.minimum);

#pragma GCC unroll 8
    for (size_t j = 0; j < TACIT_LANES; j += 8) {
        const __m256i whole = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(levels + j)));
        const __m256  values = _mm256_add_ps(minimum, _mm256_mul_ps(unit, _mm256_cvtepi32_ps(whole)));
        _mm256_storeu_ps(out + j, add ? _mm256_add_ps(_mm256_loadu_ps(out + j), values) : values);
    }
}
#endif

static inline void values_plain(const uint8_t *levels, tacit_qsgd_t scale, bool add, float *out)
{
    for (size_t j = 0; j < TACIT_LANES; j++) {
        const float value = tacit__qsgd_value(levels[j], scale);
        out[j] = add ? out[j] + value : value;
    }
}

/* As tacit__unpack_lanes(), but nothing is read behind the levels. */
TACIT_ALWAYS_INLINE void unpack_any(const uint8_t *bytes, unsigned bits, uint8_t *levels)
{
    uint8_t padded[TACIT_LANES + 8] = {0};

    memcpy(padded, bytes, TACIT_LANES / 8 * bits);
    tacit__unpack_lanes(padded, bits, levels);
}

/* 64 elements from 8 * bits bytes. */
TACIT_ALWAYS_INLINE void decode_lanes(tacit_isa_t isa, const uint8_t *bytes, unsigned bits, tacit_qsgd_t scale, float *out,
                                      bool add)
{
    uint8_t levels[TACIT_LANES];

    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        if (bits == 4) {
            unpack4_avx2(bytes, levels);
        } else if (bits == 2) {
            unpack2_avx2(bytes, levels);
        } else if (bits != 8) {
            unpack_any(bytes, bits, levels);
        }
        values_avx2(bits == 8 ? bytes : levels, scale, add, out);
        return;
    })
    unpack_any(bytes, bits, levels);
    values_plain(levels, scale, add, out);
}

/* `record` is one block, or the last part of one, whose elements begin at a. */
TACIT_ALWAYS_INLINE void encode_record(tacit_isa_t isa, const tacit_block_t *record, const tacit_stream_t *stream,
                                       tacit_qsgd_t scale, unsigned bits, const float *a, uint8_t *payload, output_t output,
                                       float *out)
{
    const bool stochastic = ((const config_t *)record->config)->rounding == ROUNDING_STOCHASTIC;
    float      shifts[TACIT_LANES], values[TACIT_LANES];
    uint8_t    bytes[TACIT_LANES];
    size_t     i = 0;

    tacit__store32(payload, tacit__float_bits(scale.unit));
    tacit__store32(payload + 4, tacit__float_bits(scale.minimum));
    payload += 8;
    for (size_t j = 0; j < TACIT_LANES; j++) {
        shifts[j] = 0.5f;
    }
    for (; i + TACIT_LANES <= record->count; i += TACIT_LANES) {
        if (stochastic) {
            random_shifts(stream, record->first + i, shifts);
        }
        encode_lanes(isa, a + i, scale.unit > 0 ? shifts : NULL, scale, bits, output, payload + i / 8 * bits, out + i);
    }
    if (i < record->count) {
        const size_t part = record->count - i;

        if (stochastic) {
            random_shifts(stream, record->first + i, shifts);
        }
        memcpy(values, a + i, part * sizeof *a);
        for (size_t j = part; j < TACIT_LANES; j++) {
            values[j] = scale.minimum; /* level 0 */
        }
        encode_lanes(isa, values, scale.unit > 0 ? shifts : NULL, scale, bits, output, bytes, values);
        memcpy(payload + i / 8 * bits, bytes, record_bytes(bits, part) - 8);
        memcpy(out + i, values, part * sizeof *a);
    }
}

TACIT_ALWAYS_INLINE void decode_record(tacit_isa_t isa, unsigned bits, const uint8_t *payload, size_t count, float *out, bool add)
{
    const tacit_qsgd_t scale = {tacit__bits_float(tacit__load32(payload)), tacit__bits_float(tacit__load32(payload + 4))};
    float              values[TACIT_LANES] = {0};
    uint8_t            bytes[TACIT_LANES] = {0};
    size_t             i = 0;

    payload += 8;
    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        decode_lanes(isa, payload + i / 8 * bits, bits, scale, out + i, add);
    }
    for (; i < count; i += TACIT_LANES) {
        const size_t part = count - i < TACIT_LANES ? count - i : TACIT_LANES;

        memcpy(bytes, payload + i / 8 * bits, record_bytes(bits, part) - 8);
        memcpy(values, out + i, add ? part * sizeof *out : 0);
        decode_lanes(isa, bytes, bits, scale, values, add);
        memcpy(out + i, values, part * sizeof *out);
    }
}

/* ---- The table ---- */

/* Several blocks are looked at before the first of them is looked at again: a range takes long to come together. Without
   feedback, which output tells, in and a are the same. It and `bits` are constants where that matters. */
TACIT_ALWAYS_INLINE uint32_t encode_blocks(tacit_isa_t isa, const tacit_block_t *block, unsigned bits, output_t output,
                                           const tacit_ef_t *ef, uint8_t *payload, size_t *done_out)
{
    const size_t         step = (size_t)((const config_t *)block->config)->block;
    const tacit_stream_t stream = tacit__stream(&block->key, false);
    const float         *a = output == KEPT ? ef->next : ef->in;
    tacit_qsgd_t         scales[TOGETHER];
    uint32_t             faults = 0;
    size_t               looked = 0, written = 0;

    while (looked < block->count && (faults == 0 || output == DECODED)) {
        size_t blocks = 0;

        while (blocks < TOGETHER && looked < block->count) {
            const size_t count = block->count - looked < step ? block->count - looked : step;

            scales[blocks] = scale_of(isa, ef, output == KEPT, looked, count, tacit__qsgd_top(bits));
            if (!isfinite(scales[blocks].unit)) {
                faults = TACIT_FAULT_NONFINITE;
                if (output == KEPT) {
                    break;
                }
            }
            looked += count;
            blocks++;
        }
        for (size_t i = 0; i < blocks; i++) {
            tacit_block_t record = *block;

            record.first += written;
            record.count = looked - written < step ? looked - written : step;
            encode_record(isa, &record, &stream, scales[i], bits, a + written, payload, output, ef->next + written);
            payload += record_bytes(bits, record.count);
            written += record.count;
        }
    }
    *done_out = written;
    return faults;
}

TACIT_ALWAYS_INLINE uint32_t encode_with(tacit_isa_t isa, const tacit_block_t *block, output_t output, const tacit_ef_t *ef,
                                         uint8_t *payload, size_t *done_out)
{
    const unsigned bits = (unsigned)((const config_t *)block->config)->bits;

    switch (bits) {
    case 2:
        return encode_blocks(isa, block, 2, output, ef, payload, done_out);
    case 4:
        return encode_blocks(isa, block, 4, output, ef, payload, done_out);
    case 8:
        return encode_blocks(isa, block, 8, output, ef, payload, done_out);
    default:
        return encode_blocks(isa, block, bits, output, ef, payload, done_out);
    }
}

TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    const tacit_ef_t none = {.in = a, .next = decoded};
    size_t           done;

    return encode_with(isa, block, DECODED, &none, payload, &done);
}

TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,
                                       size_t *done_out)
{
    return encode_with(isa, block, KEPT, ef, payload, done_out);
}

TACIT_ALWAYS_INLINE void decode_blocks(tacit_isa_t isa, const tacit_block_t *block, unsigned bits, const uint8_t *payload,
                                       float *out, bool add)
{
    const size_t step = (size_t)((const config_t *)block->config)->block;

    for (size_t i = 0; i < block->count; i += step) {
        const size_t count = block->count - i < step ? block->count - i : step;

        decode_record(isa, bits, payload, count, out + i, add);
        payload += record_bytes(bits, count);
    }
}

TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const unsigned bits = (unsigned)((const config_t *)block->config)->bits;

    switch (bits) {
    case 2:
        decode_blocks(isa, block, 2, payload, out, add);
        break;
    case 4:
        decode_blocks(isa, block, 4, payload, out, add);
        break;
    case 8:
        decode_blocks(isa, block, 8, payload, out, add);
        break;
    default:
        decode_blocks(isa, block, bits, payload, out, add);
    }
}

/* The largest block with B / (2 (2^bits - 1)^2) < 1. */
static int64_t largest_block(int64_t bits)
{
    const int64_t top = ((int64_t)1 << bits) - 1;

    return (2 * top * top - 1) / 32 * 32;
}

static bool settle(void *config, bool feedback, char *reason, size_t reason_bytes)
{
    config_t     *own = config;
    const int64_t largest = largest_block(own->bits);

    if (own->rounding == ROUNDING_AUTO) {
        own->rounding = feedback ? ROUNDING_NEAREST : ROUNDING_STOCHASTIC;
    }
    if (own->bits == 1 && (feedback || own->rounding == ROUNDING_NEAREST)) {
        snprintf(reason, reason_bytes, "1 bit between minimum and maximum loses more than it keeps; use onebit");
        return false;
    }
    if (!feedback || own->rounding == ROUNDING_NEAREST || own->block <= largest) {
        return true;
    }
    if (largest > 0) {
        snprintf(reason, reason_bytes,
                 "feedback grows without limit around stochastic rounding with %" PRId64 " bits in blocks of %" PRId64
                 "; use block=%" PRId64 " or less, or rounding=nearest",
                 own->bits, own->block, largest);
    } else {
        snprintf(reason, reason_bytes,
                 "feedback grows without limit around stochastic rounding with %" PRId64
                 " bits, whatever the block; use rounding=nearest",
                 own->bits);
    }
    return false;
}

/* An element is off by half a unit at most, or in the mean square, and (max - min)^2 <= 2 |x|^2. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;
    const double    top = (double)tacit__qsgd_top((unsigned)own->bits);
    const size_t    n = count < (size_t)own->block ? count : (size_t)own->block;

    *factor = (double)n / (2 * top * top);
    return own->rounding == ROUNDING_NEAREST ? TACIT_CONTRACTION : TACIT_UNBIASED;
}

/* The mean square of the range of n normal numbers, by the midpoint rule: the largest and the least, which are alike and almost
   independent. */
static double normal_range_squared(double n)
{
    const double step = 1.0 / 32;
    double       mean = 0, square = 0; /* of the largest */

    for (double x = step / 2; x < 8; x += step) {
        const double tail = erfc(x / sqrt(2)) / 2, above = 1 - pow(1 - tail, n), below = pow(tail, n);
        mean += (above - below) * step;
        square += 2 * x * (above + below) * step;
    }
    return 2 * square + 2 * mean * mean;
}

/* Within one unit all places are about equally likely: the mean square error is unit^2 / 12 to the nearest, unit^2 / 6 at random.
   Where the unit is wide, zero lies midway between levels, and most numbers near zero (the first term of the Fourier series of
   the error). Least and largest are exact. Wherever feedback is allowed, something is left. */
static double delta(const void *config, const tacit_slot_config_t *tensor)
{
    const double    pi = 3.14159265358979323846;
    const config_t *own = config;
    const double    top = (double)tacit__qsgd_top((unsigned)own->bits);
    const double    n = tensor->count < (size_t)own->block ? (double)tensor->count : (double)own->block;
    double          unit_squared, midway;

    if (n <= 2) {
        return 1;
    }
    unit_squared = normal_range_squared(n) / (top * top);
    midway = exp(-2 * pi * pi / unit_squared) / (pi * pi);
    return 1 - (1 - 2 / n) * unit_squared * ((own->rounding == ROUNDING_NEAREST ? 1.0 / 12 : 1.0 / 6) + midway);
}

static size_t grain(const void *config)
{
    const config_t *own = config;

    return (size_t)own->block;
}

static size_t bound(const void *config, size_t count)
{
    const config_t *own = config;
    const unsigned  bits = (unsigned)own->bits;
    const size_t    block = (size_t)own->block;

    return count / block * record_bytes(bits, block) + record_bytes(bits, count % block);
}

static tacit_device_code_t device(const void *config)
{
    const config_t *own = config;

    return (tacit_device_code_t){.code = TACIT_CODE_QSGD,
                                 .bits = (uint8_t)own->bits,
                                 .variant = own->rounding == ROUNDING_STOCHASTIC,
                                 .block = (uint32_t)own->block,
                                 .coded = tacit__own_coded(config)};
}

static const tacit_param_t params[] = {
    {.key = "bits",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, bits),
     .low = 1,
     .high = MAX_BITS,
     .initial = 4,
     .unit = "bits",
     .help = "Bits an element: 2^bits levels from a block's minimum to its maximum."},
    {.key = "block",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, block),
     .low = 32,
     .high = 65536,
     .initial = 256,
     .multiple = 32,
     .unit = "elements",
     .help = "Elements that share one minimum and maximum, which cost 64 bits."},
    {.key = "rounding",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, rounding),
     .initial = ROUNDING_AUTO,
     .words = "auto nearest stochastic",
     .unit = "",
     .help = "How a value becomes a level: to the nearest, or at random so that the mean is right; auto: nearest with feedback."},
    TACIT_PARAM_OWN,
    {.key = NULL},
};

TACIT_KERNELS

const tacit_compressor_t tacit__compressor_qsgd = {
    .name = "qsgd",
    .summary = "evenly spaced levels between each block's minimum and maximum: 1 to 8 bits an element",
    .wire_id = 5,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .settle = settle,
    .quality = quality,
    .delta = delta,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
    .device = device,
};
