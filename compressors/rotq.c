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
#include "lanes.h"
#include "levels.h"
#include "own.h"
#include "random.h"

#include <math.h>

enum {
    BLOCK = 256,
    TOGETHER = 8, /* blocks whose signs are made at once */
    SIDE = 16,    /* a block as a square, in which both transforms run over whole rows */
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

/* One step of it on 16 rows of 8 columns: rows so far apart become their sum and their difference. */
TACIT_ALWAYS_INLINE void butterflies(tacit_floats_t row[SIDE], size_t apart)
{
    TACIT_UNROLL for (size_t i = 0; i < SIDE / 2; i++)
    {
        const size_t         low = i / apart * 2 * apart + i % apart, high = low + apart;
        const tacit_floats_t sum = row[low] + row[high], difference = row[low] - row[high];

        row[low] = sum;
        row[high] = difference;
    }
}

TACIT_ALWAYS_INLINE void transform_columns(float *v)
{
    for (size_t column = 0; column < SIDE; column += TACIT_VECTOR) {
        tacit_floats_t row[SIDE];

#pragma GCC unroll 16
        for (size_t i = 0; i < SIDE; i++) {
            row[i] = *tacit__floats(v + SIDE * i + column);
        }
        butterflies(row, 8);
        butterflies(row, 4);
        butterflies(row, 2);
        butterflies(row, 1);
#pragma GCC unroll 16
        for (size_t i = 0; i < SIDE; i++) {
            *tacit__floats_to(v + SIDE * i + column) = row[i];
        }
    }
}

static inline void transpose_plain(float *v)
{
    for (size_t row = 0; row < SIDE; row++) {
        for (size_t column = row + 1; column < SIDE; column++) {
            const float other = v[SIDE * column + row];
            v[SIDE * column + row] = v[SIDE * row + column];
            v[SIDE * row + column] = other;
        }
    }
}

#if defined(__x86_64__)
/* Reads 8 rows of 8 columns of a square, transposed. */
TACIT_TARGET_AVX2 static inline void load_transposed_avx2(const float *v, __m256 column[8])
{
    __m256 pair[8], four[8];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        const __m256 even = _mm256_loadu_ps(v + 2 * i * SIDE), odd = _mm256_loadu_ps(v + (2 * i + 1) * SIDE);
        pair[2 * i] = _mm256_unpacklo_ps(even, odd);
        pair[2 * i + 1] = _mm256_unpackhi_ps(even, odd);
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < 8; i += 4) {
        four[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        four[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        four[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        four[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        column[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        column[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
}

TACIT_TARGET_AVX2 static inline void store_rows_avx2(float *v, const __m256 row[8])
{
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        _mm256_storeu_ps(v + SIDE * i, row[i]);
    }
}

TACIT_TARGET_AVX2 static inline void transpose_avx2(float *v)
{
    const size_t right = 8, below = 8 * SIDE;
    __m256       one[8], other[8];

    load_transposed_avx2(v, one);
    store_rows_avx2(v, one);
    load_transposed_avx2(v + right + below, one);
    store_rows_avx2(v + right + below, one);
    load_transposed_avx2(v + right, one);
    load_transposed_avx2(v + below, other);
    store_rows_avx2(v + below, one);
    store_rows_avx2(v + right, other);
}
#endif

/* The Hadamard transform of order 256, without its factor 1/16 and with the square left transposed: one transposition instead of
   two, and what undoes it is the same function, up to the factor 256. */
TACIT_ALWAYS_INLINE void transform(tacit_isa_t isa, float *v)
{
    transform_columns(v);
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { transpose_avx2(v); } else)
    transpose_plain(v);
    transform_columns(v);
}

/* The sign bits of 8 elements: bits `shift` and up of a word. */
#define SIGNS(word, shift)                                                                                                       \
    ((((tacit_words_t){0} + ((word) >> (shift))) << (tacit_words_t){31, 30, 29, 28, 27, 26, 25, 24}) & 0x80000000u)

/* v := v with the block's signs times a factor, which is a power of two or comes last. words: a bit an element. */
TACIT_ALWAYS_INLINE void flip(const uint32_t words[BLOCK / 32], float factor, float *v)
{
    for (size_t i = 0; i < BLOCK; i += 32) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 32; j += TACIT_VECTOR) {
            tacit_floats_t *at = tacit__floats_to(v + i + j);

            *at = (tacit_floats_t)((tacit_words_t)*at ^ SIGNS(words[i / 32], j)) * factor;
        }
    }
}

/* The signs of several blocks, from element `first` of the tensor on. */
static inline void signs_of(const tacit_stream_t *stream, uint64_t first, uint32_t words[TOGETHER * BLOCK / 32])
{
    tacit__random_lanes(stream, first / 128, words);
}

_Static_assert(TOGETHER *BLOCK / 32 == TACIT_RANDOM_WORDS, "all at once");

/* ---- Levels: the number of a magnitude, plus half of all for negative numbers; and centres, the values of levels ---- */

/* 8 levels. */
TACIT_ALWAYS_INLINE void levels_of(const tacit_floats_t *v, float unit, unsigned bits, tacit_words_t *levels)
{
    const float         *magnitudes = codebooks[bits].magnitudes;
    const uint32_t       half = 1u << (bits - 1);
    const tacit_floats_t magnitude = TACIT_MAGNITUDES(*v);

    *levels = (tacit_words_t)(*v < 0) & half;
#pragma GCC unroll 7
    for (size_t m = 1; m < half; m++) {
        const float border = (magnitudes[m - 1] + magnitudes[m]) * 0.5f * unit;
        *levels -= (tacit_words_t)(magnitude > border);
    }
}

#if defined(__x86_64__)
TACIT_TARGET_AVX2 static inline void centres_avx2(const tacit_words_t *levels, unsigned bits, tacit_floats_t *centres)
{
    const __m256i all = (__m256i)*levels, sign = _mm256_slli_epi32(all, (int)(32 - bits));
    const __m256  magnitudes = _mm256_loadu_ps(codebooks[bits].magnitudes);
    const __m256i number = _mm256_and_si256(all, _mm256_set1_epi32((1 << (bits - 1)) - 1));
    const __m256  magnitude = _mm256_permutevar8x32_ps(magnitudes, number);

    *centres = (tacit_floats_t)_mm256_xor_ps(magnitude, _mm256_and_ps(_mm256_castsi256_ps(sign), _mm256_set1_ps(-0.0f)));
}
#endif

/* Of 8 levels. */
TACIT_ALWAYS_INLINE void centres_of(tacit_isa_t isa, const tacit_words_t *levels, unsigned bits, tacit_floats_t *centres)
{
    const float   *magnitudes = codebooks[bits].magnitudes;
    const uint32_t half = 1u << (bits - 1);

    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        centres_avx2(levels, bits, centres);
        return;
    })
    *centres = (tacit_floats_t){0} + magnitudes[0];
    for (uint32_t m = 1; m < half; m++) {
        const tacit_words_t value = (tacit_words_t){0} + tacit__float_bits(magnitudes[m]);
        *centres = (tacit_floats_t)TACIT_SELECT((*levels & (half - 1)) == m, value, (tacit_words_t)*centres);
    }
    *centres = (tacit_floats_t)((tacit_words_t)*centres | (*levels & half) << (32 - bits));
}

/* ---- Records ---- */

static size_t record_bytes(unsigned bits)
{
    return 4 + BLOCK / 8 * bits;
}

/* The bits of the power of two that brings a block's largest magnitude to between 2 and 4 (less if that is subnormal), where
   neither squares nor sums leave the range of float32. */
TACIT_ALWAYS_INLINE uint32_t normalizer_of(const float *v)
{
    tacit_ints_t lanes = {0};
    int32_t      largest = 0x00800000;

    for (size_t i = 0; i < BLOCK; i += TACIT_VECTOR) {
        const tacit_ints_t magnitudes = (tacit_ints_t)TACIT_MAGNITUDES(*tacit__floats(v + i));
        lanes = (tacit_ints_t)TACIT_SELECT(magnitudes > lanes, (tacit_words_t)magnitudes, (tacit_words_t)lanes);
    }
    TACIT_UNROLL for (size_t j = 0; j < TACIT_VECTOR; j++)
    {
        largest = lanes[j] > largest ? lanes[j] : largest;
    }
    return (255 - ((uint32_t)largest >> 23)) << 23;
}

/* The sum of squares, in the order of all block sums. */
TACIT_ALWAYS_INLINE float square_of(const float *v)
{
    tacit_floats_t lanes[TACIT_VECTORS] = {{0}};

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            const tacit_floats_t values = *tacit__floats(v + i + TACIT_VECTOR * k);
            lanes[k] += values * values;
        }
    }
    return tacit__lanes_sum(lanes);
}

/* v becomes the centres of its levels. Returns the scale that brings them closest to v (least squares), so that no block is worse
   off than if nothing were sent. */
TACIT_ALWAYS_INLINE float quantize(tacit_isa_t isa, float *v, unsigned bits, uint32_t normalizer, uint8_t *levels)
{
    const float    unit = sqrtf(square_of(v) / BLOCK);
    tacit_floats_t products[TACIT_VECTORS] = {{0}}, squares[TACIT_VECTORS] = {{0}};
    float          scale;

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            tacit_floats_t *at = tacit__floats_to(v + i + TACIT_VECTOR * k), centres;
            tacit_words_t   numbers;

            levels_of(at, unit, bits, &numbers);
            centres_of(isa, &numbers, bits, &centres);
            tacit__narrow_words(isa, &numbers, levels + i + TACIT_VECTOR * k);
            products[k] += *at * centres;
            squares[k] += centres * centres;
            *at = centres;
        }
    }
    scale = tacit__lanes_sum(products) / (tacit__lanes_sum(squares) * BLOCK);
    /* The inverse of the normalizer may be subnormal itself: half of it twice. */
    return scale * 0.5f * tacit__bits_float((255u << 23) - normalizer);
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

/* out := values or, with feedback, what of a they are not. Whether all that is kept back of a is finite; with feedback nothing is
   written if not. */
TACIT_ALWAYS_INLINE bool put(const float *a, const float *values, size_t count, bool kept, float *out)
{
    float         rest[BLOCK];
    tacit_words_t nonfinite = {0};

    for (size_t i = 0; i < BLOCK; i += TACIT_VECTOR) {
        const tacit_floats_t left = *tacit__floats(a + i) - *tacit__floats(values + i);
        nonfinite |= TACIT_NONFINITE(left);
        *tacit__floats_to(rest + i) = left;
    }
    if (!kept || !tacit__any_negative(&nonfinite)) {
        memcpy(out, kept ? rest : values, count * sizeof *out);
    }
    return !tacit__any_negative(&nonfinite);
}

/* One block of `count` elements, padded with zeros. */
TACIT_ALWAYS_INLINE bool encode_record(tacit_isa_t isa, const tacit_ef_t *ef, bool kept, size_t first, size_t count,
                                       const uint32_t *signs, unsigned bits, uint8_t *payload)
{
    float    a[BLOCK], v[BLOCK], scale;
    uint8_t  levels[BLOCK];
    uint32_t normalizer;
    bool     finite;

    memset(a + count, 0, (BLOCK - count) * sizeof *a);
    for (size_t j = 0; j < count; j++) {
        a[j] = kept ? ef->in[first + j] + ef->now[first + j] : ef->in[first + j];
    }
    normalizer = normalizer_of(a);
    memcpy(v, a, sizeof v);
    flip(signs, tacit__bits_float(normalizer), v);
    transform(isa, v);
    scale = quantize(isa, v, bits, normalizer, levels);
    transform(isa, v);
    flip(signs, scale, v);
    finite = put(a, v, count, kept, ef->next + first);
    if (!finite && !kept) {
        scale = tacit__bits_float(TACIT_FLOAT_NAN);
        memset(levels, 0, sizeof levels);
        for (size_t j = 0; j < count; j++) {
            ef->next[first + j] = scale;
        }
    }
    tacit__store32(payload, tacit__float_bits(scale));
    pack(levels, bits, payload + 4);
    return finite;
}

TACIT_ALWAYS_INLINE uint32_t encode_blocks(tacit_isa_t isa, const tacit_block_t *block, unsigned bits, bool kept,
                                           const tacit_ef_t *ef, uint8_t *payload, size_t *done_out)
{
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    uint32_t             signs[TACIT_RANDOM_WORDS], faults = 0;
    size_t               i = 0;

    for (size_t part; i < block->count; i += part) {
        part = block->count - i < BLOCK ? block->count - i : BLOCK;
        if (i % (TOGETHER * BLOCK) == 0) {
            signs_of(&stream, block->first + i, signs);
        }
        if (!encode_record(isa, ef, kept, i, part, signs + i % (TOGETHER * BLOCK) / 32, bits, payload)) {
            faults = TACIT_FAULT_NONFINITE;
            if (kept) {
                break;
            }
        }
        payload += record_bytes(bits);
    }
    *done_out = i;
    return faults;
}

TACIT_ALWAYS_INLINE uint32_t encode_with(tacit_isa_t isa, const tacit_block_t *block, bool kept, const tacit_ef_t *ef,
                                         uint8_t *payload, size_t *done_out)
{
    const config_t *config = block->config;

    switch (config->bits) {
    case 1:
        return encode_blocks(isa, block, 1, kept, ef, payload, done_out);
    case 2:
        return encode_blocks(isa, block, 2, kept, ef, payload, done_out);
    case 3:
        return encode_blocks(isa, block, 3, kept, ef, payload, done_out);
    default:
        return encode_blocks(isa, block, 4, kept, ef, payload, done_out);
    }
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

TACIT_ALWAYS_INLINE void decode_record(tacit_isa_t isa, const uint8_t *payload, const uint32_t *signs, unsigned bits,
                                       size_t count, float *out, bool add)
{
    float   values[BLOCK];
    uint8_t levels[BLOCK];

    unpack(payload + 4, bits, levels);
    for (size_t i = 0; i < BLOCK; i += TACIT_VECTOR) {
        tacit_words_t  numbers;
        tacit_floats_t centres;

        tacit__widen_bytes(isa, levels + i, &numbers);
        centres_of(isa, &numbers, bits, &centres);
        *tacit__floats_to(values + i) = centres;
    }
    transform(isa, values);
    flip(signs, tacit__bits_float(tacit__load32(payload)), values);
    for (size_t j = 0; j < count; j++) {
        out[j] = add ? out[j] + values[j] : values[j];
    }
}

TACIT_ALWAYS_INLINE void decode_blocks(tacit_isa_t isa, const tacit_block_t *block, unsigned bits, const uint8_t *payload,
                                       float *out, bool add)
{
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    uint32_t             signs[TACIT_RANDOM_WORDS];

    for (size_t i = 0; i < block->count; i += BLOCK) {
        const size_t part = block->count - i < BLOCK ? block->count - i : BLOCK;

        if (i % (TOGETHER * BLOCK) == 0) {
            signs_of(&stream, block->first + i, signs);
        }
        decode_record(isa, payload, signs + i % (TOGETHER * BLOCK) / 32, bits, part, out + i, add);
        payload += record_bytes(bits);
    }
}

TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const config_t *config = block->config;

    switch (config->bits) {
    case 1:
        decode_blocks(isa, block, 1, payload, out, add);
        break;
    case 2:
        decode_blocks(isa, block, 2, payload, out, add);
        break;
    case 3:
        decode_blocks(isa, block, 3, payload, out, add);
        break;
    default:
        decode_blocks(isa, block, 4, payload, out, add);
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
