/* SPDX-License-Identifier: Apache-2.0 */
/* `rotq`: blocks of 256 elements, rotated at random so that they look like normal noise whatever they held, then rounded to the
   levels that are best for normal noise (the rotation of Vargaftik et al., "DRIVE", NeurIPS 2021, and "EDEN", ICML 2022, with the
   levels of Max, "Quantizing for Minimum Distortion", 1960, and Lloyd).

   A record, one a block: the scale, a float32; then 256 levels as levels.h packs them. A short block is padded with zeros and
   costs as much as a whole one. No elements: no bytes.

   Signs are the same on all ranks, so that payloads could be summed before they are rotated back, once for all ranks. */
#include "bits.h"
#include "compressor.h"
#include "hadamard.h"
#include "isa.h"
#include "lanes.h"
#include "levels.h"
#include "own.h"
#include "random.h"
#include "rotq.h"

#include <math.h>

enum {
    BLOCK = TACIT_HADAMARD,
    TOGETHER = 8, /* blocks that take each step one after the other, so that no sum is waited for */
    MAX_BITS = TACIT_ROTQ_BITS
};

typedef struct config {
    int     own; /* a tacit_own_t */
    int64_t bits;
} config_t;

/* loss is the mean square error for N(0, 1), worst the error of the worst block: see quality(). */
typedef struct codebook {
    float  magnitudes[TACIT_ROTQ_MAGNITUDES + 1]; /* and zeros */
    double loss, worst;
} codebook_t;

static const codebook_t codebooks[MAX_BITS + 1] = {
    [1] = {TACIT_ROTQ_1, 0.363380, 0.99609375},
    [2] = {TACIT_ROTQ_2, 0.117482, 0.95819},
    [3] = {TACIT_ROTQ_3, 0.034548, 0.7760},
    [4] = {TACIT_ROTQ_4, 0.009501, 0.6090},
};

/* ---- Signs ---- */

/* The signs of several blocks, from element `first` of the tensor on: a bit an element. */
static inline void signs_of(const tacit_stream_t *stream, uint64_t first, uint32_t words[TOGETHER * BLOCK / 32])
{
    tacit__random_lanes(stream, first / 128, words);
}

_Static_assert(TOGETHER *BLOCK / 32 == TACIT_RANDOM_WORDS, "all at once");

/* ---- Levels: the number of a magnitude, plus half of all for negative numbers; and centres, the values of levels ---- */

/* Of 8 rotated elements. */
static inline void levels_plain(const tacit_floats_t *v, float unit, unsigned bits, tacit_words_t *levels)
{
    const float         *magnitudes = codebooks[bits].magnitudes;
    const uint32_t       half = 1u << (bits - 1);
    const tacit_floats_t magnitude = TACIT_MAGNITUDES(*v);

    *levels = (tacit_words_t)(*v < 0) & half;
    for (size_t m = 1; m < half; m++) {
        const float border = (magnitudes[m - 1] + magnitudes[m]) * 0.5f * unit;
        *levels -= (tacit_words_t)(magnitude > border);
    }
}

/* Of 8 levels. */
static inline void centres_plain(const tacit_words_t *levels, unsigned bits, tacit_floats_t *centres)
{
    const float   *magnitudes = codebooks[bits].magnitudes;
    const uint32_t half = 1u << (bits - 1);

    *centres = (tacit_floats_t){0} + magnitudes[0];
    for (uint32_t m = 1; m < half; m++) {
        const tacit_words_t value = (tacit_words_t){0} + tacit__float_bits(magnitudes[m]);
        *centres = (tacit_floats_t)TACIT_SELECT((*levels & (half - 1)) == m, value, (tacit_words_t)*centres);
    }
    *centres = (tacit_floats_t)((tacit_words_t)*centres | (*levels & half) << (32 - bits));
}

#ifdef TACIT_ON_X86
/* The borders between magnitudes. */
TACIT_TARGET_AVX2 static inline __m256 borders_avx2(float unit, unsigned bits)
{
    const float *magnitudes = codebooks[bits].magnitudes;
    const __m256 pairs = _mm256_add_ps(_mm256_loadu_ps(magnitudes), _mm256_loadu_ps(magnitudes + 1));

    return _mm256_mul_ps(_mm256_mul_ps(pairs, _mm256_set1_ps(0.5f)), _mm256_set1_ps(unit));
}

/* A search in halves: as many borders are passed as are below. Zeros lose their sign when added to zero. */
TACIT_TARGET_AVX2 static inline void levels_avx2(const tacit_floats_t *v, float unit, unsigned bits, tacit_words_t *levels)
{
    const __m256  borders = borders_avx2(unit, bits);
    const __m256  values = _mm256_add_ps((__m256)*v, _mm256_setzero_ps());
    const __m256  magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), values);
    const __m256i sign = _mm256_srli_epi32(_mm256_castps_si256(values), 31);
    __m256i       number = _mm256_setzero_si256();

#pragma GCC unroll 3
    for (int step = 1 << bits >> 2; step > 0; step /= 2) {
        const __m256i middle = _mm256_or_si256(number, _mm256_set1_epi32(step - 1));
        const __m256  above = _mm256_cmp_ps(magnitude, _mm256_permutevar8x32_ps(borders, middle), _CMP_GT_OQ);
        number = _mm256_or_si256(number, _mm256_and_si256(_mm256_castps_si256(above), _mm256_set1_epi32(step)));
    }
    *levels = (tacit_words_t)_mm256_or_si256(number, _mm256_slli_epi32(sign, (int)bits - 1));
}

TACIT_TARGET_AVX2 static inline void centres_avx2(const tacit_words_t *levels, unsigned bits, tacit_floats_t *centres)
{
    const __m256i all = (__m256i)*levels, sign = _mm256_slli_epi32(all, (int)(32 - bits));
    const __m256  magnitudes = _mm256_loadu_ps(codebooks[bits].magnitudes);
    const __m256i number = _mm256_and_si256(all, _mm256_set1_epi32((1 << (bits - 1)) - 1));
    const __m256  magnitude = _mm256_permutevar8x32_ps(magnitudes, number);

    *centres = (tacit_floats_t)_mm256_xor_ps(magnitude, _mm256_and_ps(_mm256_castsi256_ps(sign), _mm256_set1_ps(-0.0f)));
}
#endif

TACIT_ALWAYS_INLINE void levels_of(tacit_isa_t isa, const tacit_floats_t *v, float unit, unsigned bits, tacit_words_t *levels)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { levels_avx2(v, unit, bits, levels); } else)
    levels_plain(v, unit, bits, levels);
}

TACIT_ALWAYS_INLINE void centres_of(tacit_isa_t isa, const tacit_words_t *levels, unsigned bits, tacit_floats_t *centres)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { centres_avx2(levels, bits, centres); } else)
    centres_plain(levels, bits, centres);
}

/* ---- Records ---- */

static size_t record_bytes(unsigned bits)
{
    return 4 + BLOCK / 8 * bits;
}

/* Bits of a magnitude: where no element is larger, the root of the sum of squares, which decoded values do not exceed but by
   rounding, is far from the end of float32's range. */
enum { LARGE = 0x7b000000 };

/* What a block of 256 elements goes through. */
typedef struct record {
    uint32_t largest;    /* the bits of its largest magnitude */
    uint32_t normalizer; /* those of the power of two that brings it to between 2 and 4 (less if that is subnormal), where neither
                            squares nor sums leave the range of float32 */
    float    unit;       /* root mean square, once rotated */
    float    scale;      /* of the centres */
} record_t;

TACIT_ALWAYS_INLINE void note_largest(record_t *record, uint32_t largest)
{
    record->largest = largest;
    record->normalizer = tacit__rotq_normalizer(largest);
}

/* From the sums of squares of a rotated block. */
TACIT_ALWAYS_INLINE float unit_of(const tacit_floats_t squares[TACIT_VECTORS])
{
    return sqrtf(tacit__lanes_sum(squares) / BLOCK);
}

/* Where a block lies: a = in + now. Without feedback `now` is zeros, which change no more than the sign of a zero, and that does
   not matter. */
typedef struct place {
    const float *in, *now;
    float       *next;
} place_t;

static const float zeros[BLOCK];

static inline place_t place_of(const tacit_ef_t *ef, size_t first)
{
    return (place_t){ef->in + first, ef->now != NULL ? ef->now + first : zeros, ef->next + first};
}

#define SUMMED(place, at) (*tacit__floats((place)->in + (at)) + *tacit__floats((place)->now + (at)))

TACIT_ALWAYS_INLINE void look(tacit_isa_t isa, const place_t *place, record_t *record)
{
    tacit_ints_t lanes[4] = {{0}};
    uint32_t     largest = 0x00800000u;

    for (size_t i = 0; i < BLOCK; i += 4 * TACIT_VECTOR) {
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            const tacit_ints_t magnitudes = (tacit_ints_t)TACIT_MAGNITUDES(SUMMED(place, i + TACIT_VECTOR * k));
            tacit__raise_ints(isa, &lanes[k], &magnitudes);
        }
    }
#pragma GCC unroll 4
    for (size_t k = 1; k < 4; k++) {
        tacit__raise_ints(isa, &lanes[0], &lanes[k]);
    }
    TACIT_UNROLL for (size_t j = 0; j < TACIT_VECTOR; j++)
    {
        largest = (uint32_t)lanes[0][j] > largest ? (uint32_t)lanes[0][j] : largest;
    }
    note_largest(record, largest);
}

/* v := a with the block's signs, normalized. */
TACIT_ALWAYS_INLINE void load(const place_t *place, const uint32_t *signs, const record_t *record, float *v)
{
    const float factor = tacit__bits_float(record->normalizer);

    for (size_t i = 0; i < BLOCK; i += 32) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 32; j += TACIT_VECTOR) {
            const tacit_words_t a = (tacit_words_t)SUMMED(place, i + j);
            *tacit__floats_to(v + i + j) = (tacit_floats_t)(a ^ TACIT_SIGNS(signs[i / 32], j)) * factor;
        }
    }
}

/* Its squares are summed in the order of all block sums. */
TACIT_ALWAYS_INLINE float measure(const float *v)
{
    tacit_floats_t lanes[TACIT_VECTORS] = {{0}};

    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            const tacit_floats_t values = *tacit__floats(v + i + TACIT_VECTOR * k);
            lanes[k] += values * values;
        }
    }
    return unit_of(lanes);
}

/* v becomes the centres of its levels. Sums, in the order of all block sums, the products of the two and the centres' squares. */
TACIT_ALWAYS_INLINE void quantize_plain(tacit_isa_t isa, float *v, float unit, unsigned bits, uint8_t *payload,
                                        tacit_floats_t products[TACIT_VECTORS], tacit_floats_t squares[TACIT_VECTORS])
{
    for (size_t i = 0; i < BLOCK; i += TACIT_LANES) {
        tacit_words_t numbers[TACIT_VECTORS];
        uint8_t       levels[TACIT_LANES];

        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            tacit_floats_t *at = tacit__floats_to(v + i + TACIT_VECTOR * k), centres;

            levels_of(isa, at, unit, bits, &numbers[k]);
            centres_of(isa, &numbers[k], bits, &centres);
            products[k] += *at * centres;
            squares[k] += centres * centres;
            *at = centres;
        }
        tacit__narrow_lanes(isa, numbers, levels);
        tacit__pack_lanes(isa, levels, bits, payload + i / 8 * bits);
    }
}

#include "rotq_avx512.h"

TACIT_ALWAYS_INLINE void quantize_with(tacit_isa_t isa, float *v, float unit, unsigned bits, uint8_t *payload,
                                       tacit_floats_t products[TACIT_VECTORS], tacit_floats_t squares[TACIT_VECTORS])
{
    TACIT_X86(if (isa == TACIT_ISA_AVX512) { quantize_avx512(v, unit, bits, payload, products, squares); } else)
    quantize_plain(isa, v, unit, bits, payload, products, squares);
}

/* v becomes the centres of its levels; scale is what brings them closest to v (least squares), so that no block is worse off than
   if nothing were sent. */
TACIT_ALWAYS_INLINE void quantize(tacit_isa_t isa, float *v, unsigned bits, record_t *record, uint8_t *payload)
{
    tacit_floats_t products[TACIT_VECTORS] = {{0}}, squares[TACIT_VECTORS] = {{0}};

    switch (bits) {
    case 1:
        quantize_with(isa, v, record->unit, 1, payload, products, squares);
        break;
    case 2:
        quantize_with(isa, v, record->unit, 2, payload, products, squares);
        break;
    case 3:
        quantize_with(isa, v, record->unit, 3, payload, products, squares);
        break;
    default:
        quantize_with(isa, v, record->unit, 4, payload, products, squares);
    }
    record->scale = tacit__rotq_scale(tacit__lanes_sum(products), tacit__lanes_sum(squares), record->normalizer, BLOCK);
}

/* ---- The table ---- */

/* next := what v, rotated back, stands for or, with feedback, what of a that is not. Returns whether all of the latter is finite;
   with feedback nothing is written if not. */
TACIT_ALWAYS_INLINE bool store(const place_t *place, bool kept, const uint32_t *signs, const record_t *record, const float *v)
{
    for (int pass = record->largest < LARGE; pass < 2; pass++) {
        tacit_words_t nonfinite = {0};

        for (size_t i = 0; i < BLOCK; i += 32) {
#pragma GCC unroll 4
            for (size_t j = 0; j < 32; j += TACIT_VECTOR) {
                const tacit_words_t  signed_v = (tacit_words_t)*tacit__floats(v + i + j) ^ TACIT_SIGNS(signs[i / 32], j);
                const tacit_floats_t value = (tacit_floats_t)signed_v * record->scale, left = SUMMED(place, i + j) - value;

                if (pass == 0) {
                    nonfinite |= TACIT_NONFINITE(left);
                } else {
                    *tacit__floats_to(place->next + i + j) = kept ? left : value;
                }
            }
        }
        if (tacit__any_negative(&nonfinite)) {
            return false;
        }
    }
    return true;
}

/* Both ways in full: a to the rotated block and what goes with it, and the centres to `next`. */
TACIT_ALWAYS_INLINE void rotate(tacit_isa_t isa, const place_t *place, const uint32_t *signs, record_t *record, float *rotated)
{
    float plain[BLOCK];

    TACIT_X86(if (isa == TACIT_ISA_AVX512) {
        rotate_avx512(place, signs, record, rotated);
        return;
    })
    look(isa, place, record);
    load(place, signs, record, plain);
    tacit__hadamard(isa, plain, rotated);
    record->unit = measure(rotated);
}

TACIT_ALWAYS_INLINE bool rotate_back(tacit_isa_t isa, float *rotated, const uint32_t *signs, const record_t *record,
                                     const place_t *place, bool kept)
{
    float plain[BLOCK];

    TACIT_X86(if (isa == TACIT_ISA_AVX512 && record->largest < LARGE) {
        rotate_back_avx512(rotated, signs, record, place, kept);
        return true;
    })
    tacit__hadamard(isa, rotated, plain);
    return store(place, kept, signs, record, plain);
}

/* Up to TOGETHER whole blocks. Returns how many are encoded. */
TACIT_ALWAYS_INLINE size_t encode_whole(tacit_isa_t isa, const tacit_ef_t *ef, bool kept, size_t blocks, const uint32_t *signs,
                                        unsigned bits, uint8_t *payload, uint32_t *faults)
{
    float    rotated[TOGETHER][BLOCK];
    place_t  places[TOGETHER];
    record_t records[TOGETHER];

    for (size_t b = 0; b < blocks; b++) {
        places[b] = place_of(ef, b * BLOCK);
        rotate(isa, &places[b], signs + b * BLOCK / 32, &records[b], rotated[b]);
    }
    for (size_t b = 0; b < blocks; b++) {
        quantize(isa, rotated[b], bits, &records[b], payload + b * record_bytes(bits) + 4);
    }
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *record = payload + b * record_bytes(bits);

        if (!rotate_back(isa, rotated[b], signs + b * BLOCK / 32, &records[b], &places[b], kept)) {
            *faults = TACIT_FAULT_NONFINITE;
            if (kept) {
                return b;
            }
            records[b].scale = tacit__bits_float(TACIT_FLOAT_NAN);
            memset(record + 4, 0, record_bytes(bits) - 4);
            for (size_t j = 0; j < BLOCK; j++) {
                places[b].next[j] = records[b].scale;
            }
        }
        tacit__store32(record, tacit__float_bits(records[b].scale));
    }
    return blocks;
}

TACIT_ALWAYS_INLINE uint32_t encode_blocks(tacit_isa_t isa, const tacit_block_t *block, bool kept, const tacit_ef_t *ef,
                                           uint8_t *payload, size_t *done_out)
{
    const unsigned       bits = (unsigned)((const config_t *)block->config)->bits;
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    uint32_t             signs[TACIT_RANDOM_WORDS], faults = 0;
    float                in[BLOCK] = {0}, now[BLOCK] = {0}, next[BLOCK];
    const tacit_ef_t     padded = {in, now, next};
    size_t               i = 0;

    while (i < block->count && (faults == 0 || !kept)) {
        const size_t     left = block->count - i, whole = left / BLOCK < TOGETHER ? left / BLOCK : TOGETHER;
        const tacit_ef_t rest = {ef->in + i, kept ? ef->now + i : NULL, ef->next + i};
        size_t           done = left < BLOCK;

        if (done != 0) { /* the last block, padded with zeros */
            memcpy(in, rest.in, left * sizeof *in);
            memcpy(now, kept ? rest.now : zeros, left * sizeof *now);
        }
        signs_of(&stream, block->first + i, signs);
        done = encode_whole(isa, done != 0 ? &padded : &rest, kept, done != 0 ? 1 : whole, signs, bits, payload, &faults);
        if (left < BLOCK && done != 0) {
            memcpy(rest.next, next, left * sizeof *next);
        }
        payload += done * record_bytes(bits);
        i += done * BLOCK < left ? done * BLOCK : left;
    }
    *done_out = i;
    return faults;
}

/* The block's record becomes the centres of its levels. */
TACIT_ALWAYS_INLINE void expand(tacit_isa_t isa, const uint8_t *levels, unsigned bits, float *rotated)
{
    for (size_t i = 0; i < BLOCK; i += TACIT_VECTOR) {
        tacit_words_t  numbers;
        tacit_floats_t centres;

        tacit__unpack_words(levels + i / 8 * bits, bits, &numbers);
        centres_of(isa, &numbers, bits, &centres);
        *tacit__floats_to(rotated + i) = centres;
    }
}

TACIT_ALWAYS_INLINE void decode_record(tacit_isa_t isa, const uint8_t *payload, const uint32_t *signs, unsigned bits,
                                       size_t count, float *out, bool add)
{
    const float scale = tacit__bits_float(tacit__load32(payload));
    float       rotated[BLOCK], values[BLOCK];
    uint8_t     levels[BLOCK / 8 * MAX_BITS + 4]; /* what expand() may read */

    memcpy(levels, payload + 4, BLOCK / 8 * bits);
    TACIT_X86(if (isa == TACIT_ISA_AVX512 && count == BLOCK) {
        decode_record_avx512(levels, bits, scale, signs, out, add);
        return;
    })
    expand(isa, levels, bits, rotated);
    tacit__hadamard(isa, rotated, values);
    for (size_t i = 0; i < BLOCK; i += 32) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 32; j += TACIT_VECTOR) {
            tacit_floats_t *at = tacit__floats_to(values + i + j);
            *at = (tacit_floats_t)((tacit_words_t)*at ^ TACIT_SIGNS(signs[i / 32], j)) * scale;
            if (count == BLOCK) {
                *tacit__floats_to(out + i + j) = add ? (tacit_floats_t)(*tacit__floats(out + i + j) + *at) : *at;
            }
        }
    }
    for (size_t j = 0; count < BLOCK && j < count; j++) {
        out[j] = add ? out[j] + values[j] : values[j];
    }
}

TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const unsigned       bits = (unsigned)((const config_t *)block->config)->bits;
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

/* All of this is long: there once for each instruction set, whatever the feedback and the number of bits. */
#define ONCE_FOR(target, set, isa)                                                                                               \
    TACIT_VERSION_OF(target __attribute__((noinline)), uint32_t, encode_blocks_##set, encode_blocks,                             \
                     (const tacit_block_t *block, bool kept, const tacit_ef_t *ef, uint8_t *payload, size_t *done_out),          \
                     (isa, block, kept, ef, payload, done_out))
ONCE_FOR(, scalar, TACIT_ISA_SCALAR)
TACIT_X86(ONCE_FOR(TACIT_TARGET_AVX2, avx2, TACIT_ISA_AVX2) ONCE_FOR(TACIT_TARGET_AVX512, avx512, TACIT_ISA_AVX512))

TACIT_ALWAYS_INLINE uint32_t encode_with(tacit_isa_t isa, const tacit_block_t *block, bool kept, const tacit_ef_t *ef,
                                         uint8_t *payload, size_t *done_out)
{
    TACIT_X86(if (isa == TACIT_ISA_AVX512) { return encode_blocks_avx512(block, kept, ef, payload, done_out); })
    TACIT_X86(if (isa == TACIT_ISA_AVX2) { return encode_blocks_avx2(block, kept, ef, payload, done_out); })
    return encode_blocks_scalar(block, kept, ef, payload, done_out);
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

static tacit_device_code_t device(const void *config)
{
    const config_t *own = config;

    return (tacit_device_code_t){
        .code = TACIT_CODE_ROTQ, .bits = (uint8_t)own->bits, .block = BLOCK, .coded = tacit__own_coded(config)};
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
    .device = device,
};
