/* SPDX-License-Identifier: Apache-2.0 */
/* `fp8`: every value as an 8-bit float with a power of two a block (Micikevicius et al., "FP8 Formats for Deep Learning", 2022;
   the shared scale is that of the OCP Microscaling specification, v1.0, but for how it is chosen).

   A record, one a block: the scale's exponent plus 127, a byte, 255 where something is not finite; then a byte an element. The
   scale is the smallest power of two with which the largest magnitude of the block fits without being cut, so that the bound of
   the error holds for every block; only where that one is out of range, near the ends of float32, are values cut or dropped. */
#include "bits.h"
#include "compressor.h"
#include "fp8.h"
#include "isa.h"
#include "lanes.h"
#include "own.h"

typedef struct config {
    int     own; /* a tacit_own_t */
    int     format;
    int64_t block;
} config_t;

/* Blocks that are looked at before the first of them is looked at again: a maximum takes long to come together. */
enum { TOGETHER = 8 };

static inline void visit_magnitudes(tacit_isa_t isa, void *state, const tacit_floats_t a[TACIT_VECTORS])
{
    tacit_ints_t *lanes = state;

    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        const tacit_ints_t magnitudes = (tacit_ints_t)TACIT_MAGNITUDES(a[k]);
        tacit__raise_ints(isa, &lanes[k], &magnitudes);
    }
}

/* Gathers a block and returns the bits of its largest magnitude, infinity's where something is not finite. */
TACIT_ALWAYS_INLINE uint32_t largest_of(tacit_isa_t isa, const tacit_ef_t *ef, bool feedback, size_t first, size_t count)
{
    tacit_ints_t lanes[TACIT_VECTORS] = {{0}};
    int32_t      largest = 0;

    if (!tacit__gather(isa, ef, feedback, first, count, 0, visit_magnitudes, lanes)) {
        return 0x7f800000u;
    }
    TACIT_UNROLL for (size_t k = 1; k < TACIT_VECTORS; k++)
    {
        tacit__raise_ints(isa, &lanes[0], &lanes[k]);
    }
    TACIT_UNROLL for (size_t j = 0; j < TACIT_VECTOR; j++)
    {
        largest = lanes[0][j] > largest ? lanes[0][j] : largest;
    }
    return (uint32_t)largest;
}

/* What 8 codes stand for. A subnormal becomes the fraction of the smallest normal number, which is taken away again. */
TACIT_ALWAYS_INLINE void values_of(const tacit_words_t *codes, float scale, tacit_floats_t *values, tacit_fp8_t format)
{
    const tacit_words_t magnitude = *codes & 0x7fu, shifted = magnitude << (23 - format.fraction_bits);
    const float         smallest = tacit__fp8_power(1 - format.bias);
    const tacit_words_t subnormal = (tacit_words_t)((tacit_floats_t)(shifted + tacit__float_bits(smallest)) - smallest);
    const tacit_words_t finite = TACIT_SELECT((tacit_ints_t)magnitude < (int32_t)(1u << format.fraction_bits), subnormal,
                                              shifted + ((uint32_t)(TACIT_FP8_BIAS - format.bias) << 23));
    const tacit_words_t all = TACIT_SELECT((tacit_ints_t)magnitude < (int32_t)format.first_nan, finite, TACIT_FLOAT_NAN);

    *values = (tacit_floats_t)((*codes & 0x80u) << 24 | all) * scale;
}

/* 8 finite numbers to codes, to the nearest, ties to even, magnitudes above the largest becoming it; and to what these stand for.
   The ulp of `anchor` is that of the code: adding it rounds, and what the sum has above it is the fraction, with a bit in front
   that carries into the exponent. Of subnormal codes it is the smallest normal ones' ulp, and the fraction is all there is.
   Positive numbers are ordered as their bits. */
static inline void codes_plain(const tacit_floats_t *numbers, tacit_words_t *codes, tacit_floats_t *values, tacit_fp8_t format)
{
    const int            cut = 23 - format.fraction_bits;
    const uint32_t       bias = (uint32_t)(TACIT_FP8_BIAS - format.bias) << 23, smallest = bias + (1u << 23);
    const uint32_t       largest = (format.largest << cut) + bias;
    const tacit_words_t  bits = (tacit_words_t)*numbers, sign = bits & 0x80000000u, exponent = bits & 0x7f800000u;
    const tacit_words_t  floor = TACIT_SELECT(exponent > smallest, exponent, smallest), anchor = floor + ((uint32_t)cut << 23);
    const tacit_floats_t sum = (tacit_floats_t)(bits ^ sign) + (tacit_floats_t)anchor;
    const tacit_words_t  value = (tacit_words_t)(sum - (tacit_floats_t)anchor);
    const tacit_words_t  code = (tacit_words_t)sum - anchor + (floor >> cut) - (smallest >> cut);

    *codes = sign >> 24 | TACIT_SELECT(code < format.largest, code, format.largest);
    *values = (tacit_floats_t)(sign | TACIT_SELECT(value < largest, value, largest));
}

#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void codes_avx2(const tacit_floats_t *numbers, tacit_words_t *codes, tacit_floats_t *values,
                                                tacit_fp8_t format)
{
    const int      cut = 23 - format.fraction_bits;
    const uint32_t bias = (uint32_t)(TACIT_FP8_BIAS - format.bias) << 23, smallest = bias + (1u << 23);
    const __m256i  bits = (__m256i)*numbers, sign = _mm256_and_si256(bits, _mm256_set1_epi32(INT32_MIN));
    const __m256i  exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000));
    const __m256i  floor = _mm256_max_epi32(exponent, _mm256_set1_epi32((int)smallest));
    const __m256i  anchor = _mm256_add_epi32(floor, _mm256_set1_epi32(cut << 23));
    const __m256   sum = _mm256_add_ps((__m256)_mm256_xor_si256(bits, sign), (__m256)anchor);
    const __m256i  value = (__m256i)_mm256_sub_ps(sum, (__m256)anchor);
    const __m256i  offset = _mm256_sub_epi32(_mm256_srli_epi32(floor, cut), _mm256_set1_epi32((int)(smallest >> cut)));
    const __m256i  code = _mm256_add_epi32(_mm256_sub_epi32((__m256i)sum, anchor), offset);
    const __m256i  most = _mm256_set1_epi32((int)format.largest),
                  largest = _mm256_set1_epi32((int)((format.largest << cut) + bias));

    *codes = (tacit_words_t)_mm256_or_si256(_mm256_min_epi32(code, most), _mm256_srli_epi32(sign, 24));
    *values = (tacit_floats_t)_mm256_or_si256(_mm256_min_epi32(value, largest), sign);
}
#endif

/* 64 elements of a block that is finite; out := what receivers decode or, if that is wanted, what of a they do not get. */
TACIT_ALWAYS_INLINE void encode_lanes(tacit_isa_t isa, uint8_t scale, const float *a, uint8_t *payload, bool kept, float *out,
                                      tacit_fp8_t format)
{
    const float   factor = tacit__fp8_power(TACIT_FP8_BIAS - scale), unit = tacit__fp8_unit(scale);
    tacit_words_t codes[TACIT_VECTORS];

    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        const tacit_floats_t from = *tacit__floats(a + TACIT_VECTOR * k), numbers = from * factor;
        tacit_floats_t       values;

        TACIT_X86(if (isa != TACIT_ISA_SCALAR) { codes_avx2(&numbers, &codes[k], &values, format); } else)
        codes_plain(&numbers, &codes[k], &values, format);
        values *= unit;
        if (kept) {
            values = from - values;
        }
        *tacit__floats_to(out + TACIT_VECTOR * k) = values;
    }
    tacit__narrow_lanes(isa, codes, payload);
}

TACIT_ALWAYS_INLINE void encode_record(tacit_isa_t isa, uint8_t scale, const float *a, size_t count, uint8_t *payload, bool kept,
                                       float *out, tacit_fp8_t format)
{
    const size_t whole = count - count % TACIT_LANES;
    float        from[TACIT_LANES] = {0};
    uint8_t      codes[TACIT_LANES];

    *payload++ = scale;
    if (scale == TACIT_FP8_NOT_FINITE) { /* nothing is kept back of such a block */
        memset(payload, 0, count);
        for (size_t i = 0; i < count; i++) {
            out[i] = tacit__fp8_unit(scale);
        }
        return;
    }
    for (size_t i = 0; i < whole; i += TACIT_LANES) {
        encode_lanes(isa, scale, a + i, payload + i, kept, out + i, format);
    }
    if (whole < count) {
        memcpy(from, a + whole, (count - whole) * sizeof *a);
        encode_lanes(isa, scale, from, codes, kept, from, format);
        memcpy(payload + whole, codes, count - whole);
        memcpy(out + whole, from, (count - whole) * sizeof *out);
    }
}

TACIT_ALWAYS_INLINE void decode_record(tacit_isa_t isa, const uint8_t *payload, size_t count, float *out, bool add,
                                       tacit_fp8_t format)
{
    const float    scale = tacit__fp8_unit(*payload++);
    const size_t   whole = count - count % TACIT_VECTOR;
    tacit_floats_t values;
    tacit_words_t  words;
    uint8_t        codes[TACIT_VECTOR] = {0};
    float          rest[TACIT_VECTOR];

    for (size_t i = 0; i < whole; i += TACIT_VECTOR) {
        tacit__widen_bytes(isa, payload + i, &words);
        values_of(&words, scale, &values, format);
        if (add) {
            values += *tacit__floats(out + i);
        }
        *tacit__floats_to(out + i) = values;
    }
    if (whole < count) {
        memcpy(codes, payload + whole, count - whole);
        tacit__widen_bytes(isa, codes, &words);
        values_of(&words, scale, &values, format);
        memcpy(rest, &values, sizeof rest);
        for (size_t i = whole; i < count; i++) {
            out[i] = add ? out[i] + rest[i - whole] : rest[i - whole];
        }
    }
}

/* ---- The table ---- */

/* Without feedback in and a are the same, and next gets what receivers decode. */
TACIT_ALWAYS_INLINE uint32_t encode_blocks(tacit_isa_t isa, const tacit_block_t *block, bool kept, const tacit_ef_t *ef,
                                           uint8_t *payload, size_t *done_out, tacit_fp8_t format)
{
    const size_t step = (size_t)((const config_t *)block->config)->block;
    const float *a = kept ? ef->next : ef->in;
    uint8_t      scales[TOGETHER];
    uint32_t     faults = 0;
    size_t       looked = 0, written = 0;

    while (looked < block->count && (faults == 0 || !kept)) {
        size_t blocks = 0;

        while (blocks < TOGETHER && looked < block->count) {
            const size_t count = block->count - looked < step ? block->count - looked : step;

            scales[blocks] = tacit__fp8_scale(largest_of(isa, ef, kept, looked, count), format);
            if (scales[blocks] == TACIT_FP8_NOT_FINITE) {
                faults = TACIT_FAULT_NONFINITE;
                if (kept) {
                    break;
                }
            }
            looked += count;
            blocks++;
        }
        for (size_t i = 0; i < blocks; i++) {
            const size_t count = looked - written < step ? looked - written : step;

            encode_record(isa, scales[i], a + written, count, payload, kept, ef->next + written, format);
            payload += 1 + count;
            written += count;
        }
    }
    *done_out = written;
    return faults;
}

TACIT_ALWAYS_INLINE uint32_t encode_with(tacit_isa_t isa, const tacit_block_t *block, bool kept, const tacit_ef_t *ef,
                                         uint8_t *payload, size_t *done_out)
{
    return ((const config_t *)block->config)->format == TACIT_FP8_E4M3
               ? encode_blocks(isa, block, kept, ef, payload, done_out, tacit__fp8(TACIT_FP8_E4M3))
               : encode_blocks(isa, block, kept, ef, payload, done_out, tacit__fp8(TACIT_FP8_E5M2));
}

TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,
                                       size_t *done_out)
{
    return encode_with(isa, block, true, ef, payload, done_out);
}

TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    const tacit_ef_t none = {.in = a, .next = decoded};
    size_t           done;

    return encode_with(isa, block, false, &none, payload, &done);
}

TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const config_t *config = block->config;
    const size_t    step = (size_t)config->block;

    for (size_t i = 0, count; i < block->count; i += count) {
        count = block->count - i < step ? block->count - i : step;
        if (config->format == TACIT_FP8_E4M3) {
            decode_record(isa, payload, count, out + i, add, tacit__fp8(TACIT_FP8_E4M3));
        } else {
            decode_record(isa, payload, count, out + i, add, tacit__fp8(TACIT_FP8_E5M2));
        }
        payload += 1 + count;
    }
}

/* Half an ulp of a normal number x is at most u / (1 + u) of x, u = 2^-4 or 2^-3; what u^2 is above its square pays for the
   subnormal ones, each off by no more than 2^-17 of the block's largest, or 2^-31. Worse near the ends of float32. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;

    (void)count;
    *factor = own->format == TACIT_FP8_E4M3 ? 0x1p-8 : 0x1p-6;
    return TACIT_CONTRACTION;
}

static size_t grain(const void *config)
{
    const config_t *own = config;

    return (size_t)own->block;
}

static size_t bound(const void *config, size_t count)
{
    const config_t *own = config;
    const size_t    step = (size_t)own->block;

    return count + (count + step - 1) / step;
}

static tacit_device_code_t device(const void *config)
{
    const config_t *own = config;

    return (tacit_device_code_t){.code = TACIT_CODE_FP8,
                                 .variant = (uint8_t)own->format,
                                 .block = (uint32_t)own->block,
                                 .coded = tacit__own_coded(config)};
}

static const tacit_param_t params[] = {
    {.key = "format",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, format),
     .initial = TACIT_FP8_E4M3,
     .words = "e4m3 e5m2",
     .unit = "",
     .help = "Bits of exponent and fraction: e4m3 is more precise, e5m2 spans more magnitudes in one block."},
    {.key = "block",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, block),
     .low = 32,
     .high = 65536,
     .initial = 256,
     .multiple = 32,
     .unit = "elements",
     .help = "Elements that share one scale, which costs 8 bits."},
    TACIT_PARAM_OWN,
    {.key = NULL},
};

TACIT_KERNELS

const tacit_compressor_t tacit__compressor_fp8 = {
    .name = "fp8",
    .summary = "8-bit floats and a power of two a block: 8 bits an element",
    .wire_id = 8,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
    .device = device,
};
