/* SPDX-License-Identifier: Apache-2.0 */
/* `fp8`: every value as an 8-bit float with a power of two a block (Micikevicius et al., "FP8 Formats for Deep Learning", 2022;
   the shared scale is that of the OCP Microscaling specification, v1.0, but for how it is chosen).

   A record, one a block: the scale's exponent plus 127, a byte, 255 where something is not finite; then a byte an element. The
   scale is the smallest power of two with which the largest magnitude of the block fits without being cut, so that the bound of
   the error holds for every block; only where that one is out of range, near the ends of float32, are values cut or dropped. */
#include "bits.h"
#include "compressor.h"
#include "isa.h"
#include "lanes.h"
#include "own.h"

typedef enum { FORMAT_E4M3, FORMAT_E5M2 } format_t;

typedef struct config {
    int     own; /* a tacit_own_t */
    int     format;
    int64_t block;
} config_t;

enum {
    NOT_FINITE = 255, /* the scale byte */
    FLOAT_BIAS = 127,
    LARGEST_FRACTION = 0x600000 /* both formats end at 1.75 times a power of two, which leaves e4m3 its NaN */
};

/* What the two formats differ in. Scales are such that what is subnormal as float32 becomes zero, whatever the processor does
   with such numbers, and that no finite payload of ours decodes to infinity. */
typedef struct traits {
    int      fraction_bits, bias;
    uint32_t largest, first_nan;          /* codes; infinity counts as NaN here */
    int      lowest_scale, highest_scale; /* exponents */
} traits_t;

static const traits_t formats[] = {
    [FORMAT_E4M3] = {3, 7, 0x7e, 0x7f, -116, 119},
    [FORMAT_E5M2] = {2, 15, 0x7b, 0x7c, -109, 112},
};

/* A power of two from 2^-126 to 2^127. */
static inline float power(int exponent)
{
    return tacit__bits_float((uint32_t)(exponent + FLOAT_BIAS) << 23);
}

/* ---- Single values ---- */

/* To the nearest, ties to even; magnitudes above the largest become it. `value` is finite. */
TACIT_ALWAYS_INLINE uint8_t code_of(float value, traits_t format)
{
    const int      cut = 23 - format.fraction_bits;
    const uint32_t bits = tacit__float_bits(value), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    const uint32_t bias = (uint32_t)(FLOAT_BIAS - format.bias) << 23;
    /* Half an ulp less one, and one more if the last kept bit is odd, carries up exactly where the nearest is above. */
    const uint32_t normal = (magnitude - bias + (1u << (cut - 1)) - 1 + (magnitude >> cut & 1)) >> cut;
    /* The smallest code is the ulp of `anchor`: the addition rounds, the fraction is the result. */
    const float    anchor = power(23 + 1 - format.bias - format.fraction_bits);
    const uint32_t subnormal = tacit__float_bits(tacit__bits_float(magnitude) + anchor) - tacit__float_bits(anchor);
    const uint32_t finite = magnitude < bias + (1u << 23) ? subnormal : normal;

    return (uint8_t)(sign | (finite < format.largest ? finite : format.largest));
}

TACIT_ALWAYS_INLINE float value_of(uint8_t code, traits_t format)
{
    const uint32_t sign = (uint32_t)(code & 0x80) << 24, magnitude = code & 0x7fu;
    const uint32_t shifted = magnitude << (23 - format.fraction_bits), bias = (uint32_t)(FLOAT_BIAS - format.bias) << 23;
    /* A subnormal becomes the fraction of the smallest normal number, which is taken away again. */
    const float    smallest = power(1 - format.bias);
    const uint32_t subnormal = tacit__float_bits(tacit__bits_float(shifted + tacit__float_bits(smallest)) - smallest);
    const uint32_t finite = magnitude < 1u << format.fraction_bits ? subnormal : shifted + bias;

    return tacit__bits_float(sign | (magnitude < format.first_nan ? finite : TACIT_FLOAT_NAN));
}

/* ---- Records ---- */

/* The scale byte for a block whose largest magnitude has these bits. */
static uint8_t scale_of(uint32_t largest, traits_t format)
{
    const int largest_exponent = (int)(format.largest >> format.fraction_bits) - format.bias;
    int       exponent = (int)(largest >> 23) - FLOAT_BIAS - largest_exponent + ((largest & 0x7fffffu) > LARGEST_FRACTION);

    if (largest >= 0x7f800000u) {
        return NOT_FINITE;
    }
    exponent = exponent > format.lowest_scale ? exponent : format.lowest_scale;
    exponent = exponent < format.highest_scale ? exponent : format.highest_scale;
    return (uint8_t)(exponent + FLOAT_BIAS);
}

/* Any byte: 0, which no encoder writes, makes all values zero. */
static float scale_value(uint8_t scale)
{
    return tacit__bits_float(scale == NOT_FINITE ? TACIT_FLOAT_NAN : (uint32_t)scale << 23);
}

/* a := in + now, and the bits of the largest magnitude of that; NaN is above infinity. now is NULL where a is `in`, which then is
   only read. */
TACIT_ALWAYS_INLINE uint32_t largest_of(const float *in, const float *now, float *a, size_t count)
{
    tacit_ints_t lanes[TACIT_VECTORS] = {{0}};
    int32_t      all[TACIT_LANES], largest = 0;
    size_t       i = 0;

    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            tacit_floats_t values = *tacit__floats(in + i + TACIT_VECTOR * k);
            tacit_ints_t   magnitudes;

            if (now != NULL) {
                values += *tacit__floats(now + i + TACIT_VECTOR * k);
                *tacit__floats_to(a + i + TACIT_VECTOR * k) = values;
            }
            magnitudes = (tacit_ints_t)TACIT_MAGNITUDES(values);
            lanes[k] = (tacit_ints_t)TACIT_SELECT(magnitudes > lanes[k], (tacit_words_t)magnitudes, (tacit_words_t)lanes[k]);
        }
    }
    for (; i < count; i++) {
        const float value = now != NULL ? in[i] + now[i] : in[i];
        const int32_t magnitude = (int32_t)(tacit__float_bits(value) & 0x7fffffffu);

        if (now != NULL) {
            a[i] = value;
        }
        largest = magnitude > largest ? magnitude : largest;
    }
    memcpy(all, lanes, sizeof all);
    for (size_t j = 0; j < TACIT_LANES; j++) {
        largest = all[j] > largest ? all[j] : largest;
    }
    return (uint32_t)largest;
}

TACIT_ALWAYS_INLINE void values_of(const uint8_t *restrict codes, float scale, float *restrict values, traits_t format)
{
    for (size_t j = 0; j < TACIT_LANES; j++) {
        values[j] = value_of(codes[j], format) * scale;
    }
}

TACIT_ALWAYS_INLINE void codes_of(const float *restrict values, float inverse, uint8_t *restrict codes, traits_t format)
{
    for (size_t j = 0; j < TACIT_LANES; j++) {
        codes[j] = code_of(values[j] * inverse, format);
    }
}

/* out := what receivers decode or, if that is wanted, what of a they do not get. */
TACIT_ALWAYS_INLINE void encode_record(uint8_t scale, const float *a, size_t count, uint8_t *payload, bool kept, float *out,
                                       traits_t format)
{
    float   from[TACIT_LANES] = {0}, values[TACIT_LANES];
    uint8_t codes[TACIT_LANES] = {0};

    *payload++ = scale;
    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < TACIT_LANES ? count - i : TACIT_LANES;
        memcpy(from, a + i, part * sizeof *a);
        if (scale != NOT_FINITE) {
            codes_of(from, power(FLOAT_BIAS - scale), codes, format);
        }
        memcpy(payload + i, codes, part);
        values_of(codes, scale_value(scale), values, format);
        for (size_t j = 0; j < TACIT_LANES && kept; j++) {
            values[j] = from[j] - values[j];
        }
        memcpy(out + i, values, part * sizeof *out);
    }
}

TACIT_ALWAYS_INLINE void decode_record(const uint8_t *payload, size_t count, float *out, bool add, traits_t format)
{
    const float scale = scale_value(*payload++);
    float       values[TACIT_LANES];
    uint8_t     codes[TACIT_LANES] = {0};

    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < TACIT_LANES ? count - i : TACIT_LANES;
        memcpy(codes, payload + i, part);
        values_of(codes, scale, values, format);
        for (size_t j = 0; j < part && add; j++) {
            values[j] += out[i + j];
        }
        memcpy(out + i, values, part * sizeof *out);
    }
}

/* ---- The table ---- */

/* ef->now is NULL without feedback: then in and a are the same, and next gets what receivers decode. */
TACIT_ALWAYS_INLINE uint32_t encode_blocks(const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload, size_t *done_out,
                                           traits_t format)
{
    const size_t step = (size_t)((const config_t *)block->config)->block;
    uint32_t     faults = 0;
    size_t       i = 0;

    for (size_t count; i < block->count; i += count) {
        const float *now = ef->now != NULL ? ef->now + i : NULL;
        float       *a = ef->now != NULL ? ef->a : ef->a + i;
        uint8_t      scale;

        count = block->count - i < step ? block->count - i : step;
        scale = scale_of(largest_of(ef->in + i, now, a, count), format);
        if (scale == NOT_FINITE) {
            faults = TACIT_FAULT_NONFINITE;
            if (now != NULL) {
                break;
            }
        }
        encode_record(scale, a, count, payload, now != NULL, ef->next + i, format);
        payload += 1 + count;
    }
    *done_out = i;
    return faults;
}

TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,
                                       size_t *done_out)
{
    (void)isa;
    return ((const config_t *)block->config)->format == FORMAT_E4M3
               ? encode_blocks(block, ef, payload, done_out, formats[FORMAT_E4M3])
               : encode_blocks(block, ef, payload, done_out, formats[FORMAT_E5M2]);
}

TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    const tacit_ef_t none = {.in = a, .next = decoded, .a = (float *)(uintptr_t)a};
    size_t           done;

    return encode_ef(isa, block, &none, payload, &done);
}

TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const config_t *config = block->config;
    const size_t    step = (size_t)config->block;

    (void)isa;
    for (size_t i = 0, count; i < block->count; i += count) {
        count = block->count - i < step ? block->count - i : step;
        if (config->format == FORMAT_E4M3) {
            decode_record(payload, count, out + i, add, formats[FORMAT_E4M3]);
        } else {
            decode_record(payload, count, out + i, add, formats[FORMAT_E5M2]);
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
    *factor = own->format == FORMAT_E4M3 ? 0x1p-8 : 0x1p-6;
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

static const tacit_param_t params[] = {
    {.key = "format",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, format),
     .initial = FORMAT_E4M3,
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
};
