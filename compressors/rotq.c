/* SPDX-License-Identifier: Apache-2.0 */
/* `rotq`: blocks of 256 elements, rotated at random so that they look like normal noise whatever they held, then rounded to the
   levels that are best for normal noise (the rotation of Vargaftik et al., "DRIVE", NeurIPS 2021, and "EDEN", ICML 2022, with the
   levels of Max, "Quantizing for Minimum Distortion", 1960, and Lloyd).

   A record, one a block: the scale, a float32; then 256 levels as levels.h packs them. A short block is padded with zeros and
   costs as much as a whole one. No elements: no bytes.

   Signs are the same on all ranks, so that payloads could be summed before they are rotated back, once for all ranks. */
#include "bits.h"
#include "compressor.h"
#include "isa.h"
#include "levels.h"
#include "own.h"
#include "random.h"

#include <math.h>

enum {
    BLOCK = 256,
    SIDE = 16, /* a block as a square, in which both transforms run over whole rows */
    MAX_BITS = 4,
    MAX_MAGNITUDES = 1 << (MAX_BITS - 1)
};

typedef struct config {
    int     own; /* a tacit_own_t */
    int64_t bits;
} config_t;

/* The levels with the least mean square error for N(0, 1), symmetric about 0: each is the mean of the numbers nearest to it,
   which has no closed form; the iteration of Lloyd and Max, run in float64 until nothing moves. loss is that error, worst the
   error of the worst block: see quality(). */
typedef struct codebook {
    float  magnitudes[MAX_MAGNITUDES];
    double loss, worst;
} codebook_t;

static const codebook_t codebooks[MAX_BITS + 1] = {
    [1] = {{0.797884561f}, 0.363380, 0.99609375},
    [2] = {{0.452780035f, 1.51041761f}, 0.117482, 0.95819},
    [3] = {{0.245094179f, 0.756005281f, 1.34390928f, 2.15194571f}, 0.034548, 0.7760},
    [4] = {{0.12839503f, 0.3880483f, 0.656759119f, 0.942340457f, 1.2562312f, 1.61804639f, 2.06901723f, 2.73258957f},
           0.009501,
           0.6090},
};

/* ---- The rotation: signs, then the Hadamard transform ---- */

static inline void butterfly(float *restrict low, float *restrict high)
{
    for (size_t j = 0; j < SIDE; j++) {
        const float sum = low[j] + high[j], difference = low[j] - high[j];
        low[j] = sum;
        high[j] = difference;
    }
}

static void transform_columns(float *v)
{
    for (size_t apart = SIDE / 2; apart > 0; apart /= 2) {
        for (size_t row = 0; row < SIDE; row++) {
            if ((row & apart) == 0) {
                butterfly(v + SIDE * row, v + SIDE * (row + apart));
            }
        }
    }
}

static void transpose(float *v)
{
    for (size_t row = 0; row < SIDE; row++) {
        for (size_t column = row + 1; column < SIDE; column++) {
            const float other = v[SIDE * column + row];
            v[SIDE * column + row] = v[SIDE * row + column];
            v[SIDE * row + column] = other;
        }
    }
}

/* The Hadamard transform of order 256, without its factor 1/16 and with the square left transposed: one transposition instead of
   two, and what undoes it is the same function, up to the factor 256. */
static void transform(float *v)
{
    transform_columns(v);
    transpose(v);
    transform_columns(v);
}

/* The sign bit of each element of the block that begins with element `first` of the tensor. */
static void signs_of(const tacit_stream_t *stream, uint64_t first, uint32_t *restrict signs)
{
    static const uint32_t masks[8] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80};
    uint32_t              words[BLOCK / 32];

    for (size_t i = 0; i < BLOCK / 32; i += 4) {
        tacit__random4(stream, (first / 32 + i) / 4, words + i);
    }
    for (size_t i = 0; i < BLOCK / 8; i++) {
        const uint32_t byte = words[i / 4] >> (8 * (i % 4));
        for (size_t j = 0; j < 8; j++) {
            signs[8 * i + j] = byte & masks[j] ? 0x80000000u : 0;
        }
    }
}

static inline float flipped(float value, uint32_t sign)
{
    return tacit__bits_float(tacit__float_bits(value) ^ sign);
}

/* ---- Levels: the number of a magnitude, plus half of all for negative numbers ---- */

static void levels_of(const float *restrict v, float unit, unsigned bits, uint8_t *restrict levels)
{
    const float   *magnitudes = codebooks[bits].magnitudes;
    const uint32_t half = 1u << (bits - 1);

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        uint32_t numbers[TACIT_LANES];
        for (size_t j = 0; j < TACIT_LANES; j++) {
            numbers[j] = v[i + j] < 0 ? half : 0;
        }
        for (size_t m = 1; m < half; m++) {
            const float border = (magnitudes[m - 1] + magnitudes[m]) * 0.5f * unit;
            for (size_t j = 0; j < TACIT_LANES; j++) {
                numbers[j] += fabsf(v[i + j]) > border;
            }
        }
        for (size_t j = 0; j < TACIT_LANES; j++) {
            levels[i + j] = (uint8_t)numbers[j];
        }
    }
}

static void centres_of(const uint8_t *restrict levels, unsigned bits, float *restrict centres)
{
    const float   *magnitudes = codebooks[bits].magnitudes;
    const uint32_t half = 1u << (bits - 1);

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        uint32_t numbers[TACIT_LANES];
        float    magnitude[TACIT_LANES];
        for (size_t j = 0; j < TACIT_LANES; j++) {
            numbers[j] = levels[i + j];
            magnitude[j] = magnitudes[0];
        }
        for (uint32_t m = 1; m < half; m++) {
            const float next = magnitudes[m];
            for (size_t j = 0; j < TACIT_LANES; j++) {
                magnitude[j] = (numbers[j] & (half - 1)) == m ? next : magnitude[j];
            }
        }
        for (size_t j = 0; j < TACIT_LANES; j++) {
            centres[i + j] = numbers[j] & half ? -magnitude[j] : magnitude[j];
        }
    }
}

/* Sum of products, in the order of all block sums: lane j takes elements i = j mod 64; then halves are added to halves. */
static float dot(const float *restrict a, const float *restrict b)
{
    float lanes[TACIT_LANES] = {0};

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        for (size_t j = 0; j < TACIT_LANES; j++) {
            lanes[j] += a[i + j] * b[i + j];
        }
    }
    for (size_t width = TACIT_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

/* ---- Records ---- */

static size_t record_bytes(unsigned bits)
{
    return 4 + BLOCK / 8 * bits;
}

/* The bits of the power of two that brings a block's largest magnitude to between 2 and 4 (less if that is subnormal), where
   neither squares nor sums leave the range of float32. */
static uint32_t normalizer_of(const float *v)
{
    int32_t lanes[TACIT_LANES] = {0}, largest = 0x00800000;

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        for (size_t j = 0; j < TACIT_LANES; j++) {
            const int32_t magnitude = (int32_t)(tacit__float_bits(v[i + j]) & 0x7fffffffu);
            lanes[j] = magnitude > lanes[j] ? magnitude : lanes[j];
        }
    }
    for (size_t j = 0; j < TACIT_LANES; j++) {
        largest = lanes[j] > largest ? lanes[j] : largest;
    }
    return (255 - ((uint32_t)largest >> 23)) << 23;
}

/* The values of a record. */
static void values_of(const uint8_t *levels, float scale, unsigned bits, const uint32_t *restrict signs, float *restrict values)
{
    centres_of(levels, bits, values);
    transform(values);
    for (size_t i = 0; i < BLOCK; i++) {
        values[i] = flipped(values[i], signs[i]) * scale;
    }
}

/* The scale that brings the levels closest to v (least squares), so that no block is worse off than if nothing were sent. */
static float scale_of(const float *v, const float *centres, uint32_t normalizer)
{
    const float scale = dot(v, centres) / (dot(centres, centres) * BLOCK);
    const float back = tacit__bits_float((255u << 23) - normalizer); /* twice the inverse, which may be subnormal itself */

    return scale * 0.5f * back;
}

/* v holds a block, padded, and is spoilt. Returns the scale; rubbish if something is not finite. */
static float quantize(float *v, unsigned bits, const uint32_t *signs, uint8_t *levels)
{
    const uint32_t normalizer = normalizer_of(v);
    float          centres[BLOCK];

    for (size_t i = 0; i < BLOCK; i++) {
        v[i] = flipped(v[i], signs[i]) * tacit__bits_float(normalizer);
    }
    transform(v);
    levels_of(v, sqrtf(dot(v, v) / BLOCK), bits, levels);
    centres_of(levels, bits, centres);
    return scale_of(v, centres, normalizer);
}

static void pack(const uint8_t *levels, unsigned bits, uint8_t *payload)
{
    uint8_t bytes[BLOCK / 8 * MAX_BITS + 8];

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        tacit__pack_lanes(levels + i, bits, bytes + i / 8 * bits);
    }
    memcpy(payload, bytes, BLOCK / 8 * bits);
}

static void unpack(const uint8_t *payload, unsigned bits, uint8_t *levels)
{
    uint8_t bytes[BLOCK / 8 * MAX_BITS + 8] = {0};

    memcpy(bytes, payload, BLOCK / 8 * bits);
    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        tacit__unpack_lanes(bytes + i / 8 * bits, bits, levels + i);
    }
}

/* ---- The table ---- */

/* out := values or, with feedback, what of a they are not. Whether all that is kept back of a is finite. */
TACIT_ALWAYS_INLINE bool put(const float *a, const float *values, size_t count, bool kept, float *out)
{
    uint32_t nonfinite = 0;

    for (size_t i = 0; i < count; i++) {
        nonfinite |= tacit__nonfinite_bit(a[i] - values[i]);
    }
    if (kept && nonfinite >> 31) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        out[i] = kept ? a[i] - values[i] : values[i];
    }
    return nonfinite >> 31 == 0;
}

/* ef->now is NULL without feedback: then next gets what receivers decode. */
TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,
                                       size_t *done_out)
{
    const config_t      *config = block->config;
    const unsigned       bits = (unsigned)config->bits;
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    uint32_t             signs[BLOCK], faults = 0;
    uint8_t              levels[BLOCK];
    float                a[BLOCK], v[BLOCK], scale;
    size_t               i = 0;

    (void)isa;
    for (size_t part; i < block->count; i += part) {
        part = block->count - i < BLOCK ? block->count - i : BLOCK;
        memset(a + part, 0, (BLOCK - part) * sizeof *a);
        for (size_t j = 0; j < part; j++) {
            a[j] = ef->now != NULL ? ef->in[i + j] + ef->now[i + j] : ef->in[i + j];
        }
        memcpy(v, a, sizeof v);
        signs_of(&stream, block->first + i, signs);
        scale = quantize(v, bits, signs, levels);
        values_of(levels, scale, bits, signs, v);
        if (!put(a, v, part, ef->now != NULL, ef->next + i)) {
            faults = TACIT_FAULT_NONFINITE;
            if (ef->now != NULL) {
                break;
            }
            scale = tacit__bits_float(TACIT_FLOAT_NAN);
            memset(levels, 0, sizeof levels);
            values_of(levels, scale, bits, signs, v);
            memcpy(ef->next + i, v, part * sizeof *v);
        }
        tacit__store32(payload, tacit__float_bits(scale));
        pack(levels, bits, payload + 4);
        payload += record_bytes(bits);
    }
    *done_out = i;
    return faults;
}

TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    const tacit_ef_t none = {.in = a, .next = decoded};
    size_t           done;

    return encode_ef(isa, block, &none, payload, &done);
}

TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const config_t      *config = block->config;
    const unsigned       bits = (unsigned)config->bits;
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    uint32_t             signs[BLOCK];
    uint8_t              levels[BLOCK];
    float                values[BLOCK];

    (void)isa;
    for (size_t i = 0; i < block->count; i += BLOCK) {
        const size_t part = block->count - i < BLOCK ? block->count - i : BLOCK;
        signs_of(&stream, block->first + i, signs);
        unpack(payload + 4, bits, levels);
        values_of(levels, tacit__bits_float(tacit__load32(payload)), bits, signs, values);
        for (size_t j = 0; j < part && add; j++) {
            values[j] += out[i + j];
        }
        memcpy(out + i, values, part * sizeof *out);
        payload += record_bytes(bits);
    }
}

/* The worst blocks are those that their signs turn into almost a row of the transform. Rotated, they are one large element, and
   what the others become is large beside them: with 1 and 2 bits they are zeros, with more some of them just above the border of
   a level (found by search over how many are above which). In the mean over signs the most with 1 bit is an error of 1/2, that
   of two equal elements alone: the mean of |v| is at least the root of half of the mean of v^2 (Khintchine's inequality). */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;

    (void)count;
    *factor = codebooks[own->bits].worst;
    return TACIT_CONTRACTION;
}

static double delta(const void *config, const tacit_slot_config_t *tensor)
{
    const config_t *own = config;

    (void)tensor;
    return 1 - codebooks[own->bits].loss;
}

static size_t grain(const void *config)
{
    (void)config;
    return BLOCK;
}

static size_t bound(const void *config, size_t count)
{
    const config_t *own = config;

    return (count + BLOCK - 1) / BLOCK * record_bytes((unsigned)own->bits);
}

static const tacit_param_t params[] = {
    {.key = "bits",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, bits),
     .low = 1,
     .high = MAX_BITS,
     .initial = 2,
     .unit = "bits",
     .help = "Bits an element: 2^bits levels, those that suit normal noise best."},
    TACIT_PARAM_OWN,
    {.key = NULL},
};

TACIT_KERNELS

const tacit_compressor_t tacit__compressor_rotq = {
    .name = "rotq",
    .summary = "blocks rotated at random, then levels for normal noise: 1 to 4 bits an element, whatever the data",
    .wire_id = 9,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .delta = delta,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
};
