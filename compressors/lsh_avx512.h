/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of `lsh` with AVX-512: 8 tokens at once. A register holds element e of each, in its lower half, and element e + half,
   where half is half of their padded number. So of all butterflies only those of the first stage are within a register, and what
   a transform of 512 elements needs, 32 KiB, stays in L1. Only for lsh.c, whose plain functions say what is computed.

   Of a and b with signs s and t the first stage makes s (a + r b) and s (a - r b), r = s t: these are a + b and a - b, in one
   order or the other, times s. In the first round all hashes share them. Only a zero's sign may come out otherwise than in the
   plain functions, and it changes no code. */
#ifndef TACIT_LSH_AVX512_H
#define TACIT_LSH_AVX512_H

#ifdef TACIT_ON_X86

enum { EIGHT = TACIT_SIDE / 2, LEAST_PADDED = 2 * 2 * TACIT_SIDE, MOST_PADDED = 2 * 16 * 16 * TACIT_SIDE };

/* Signs of e and e + half meet in four ways: bit 0 says that s is minus, bit 1 that r is. For each, s, and where of a + b and
   a - b the halves of a register come from; or what a register, and the same with its halves swapped, are multiplied by to make
   both. */
typedef struct way {
    float    sign[TACIT_SIDE];
    uint32_t from[TACIT_SIDE];
    float    own[TACIT_SIDE], swapped[TACIT_SIDE];
} way_t;

enum { WAYS = 4 };

static void prepare_ways(way_t ways[WAYS])
{
    for (uint32_t i = 0; i < WAYS; i++) {
        for (uint32_t lane = 0; lane < TACIT_SIDE; lane++) {
            const bool  high = lane >= EIGHT, minus = i >= 2;
            const float sign = i & 1 ? -1 : 1;

            ways[i].sign[lane] = sign;
            ways[i].from[lane] = lane ^ (minus ? EIGHT : 0);
            ways[i].own[lane] = high && !minus ? -sign : sign;
            ways[i].swapped[lane] = !high && minus ? -sign : sign;
        }
    }
}

/* Which way it is for each register of a transform. */
static void prepare_meetings(const uint32_t *signs, size_t half, uint8_t *meetings)
{
    for (size_t e = 0; e < half; e++) {
        const uint32_t sign = signs[e / WORD] >> e % WORD & 1, other = signs[(e + half) / WORD] >> (e + half) % WORD & 1;

        meetings[e] = (uint8_t)(sign | (sign ^ other) << 1);
    }
}

/* The first stage. */
TACIT_TARGET_AVX512 TACIT_ALWAYS_INLINE __m512 met_avx512(__m512 v, const way_t *way)
{
    const __m512 swapped = _mm512_mul_ps(_mm512_shuffle_f32x4(v, v, 0x4e), _mm512_load_ps(way->swapped));

    return _mm512_fmadd_ps(v, _mm512_load_ps(way->own), swapped);
}

/* The same, from the sum and the difference. */
TACIT_TARGET_AVX512 TACIT_ALWAYS_INLINE __m512 ordered_avx512(const float *both, const way_t *way)
{
    return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_load_si512(way->from), _mm512_load_ps(both)), _mm512_load_ps(way->sign));
}

/* Sums and differences of 8 tokens. */
TACIT_TARGET_AVX512 static inline void gather_avx512(const float *tokens, size_t dimension, size_t half, const way_t *plus,
                                                     float *out)
{
    for (size_t e = 0; e < half; e += TACIT_SIDE) {
        __m512 row[TACIT_SIDE];

        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            const size_t    at = e + i / EIGHT * half, count = dimension > at ? dimension - at : 0;
            const __mmask16 there = (__mmask16)(count < TACIT_SIDE ? (1u << count) - 1 : 0xffff);
            row[i] = _mm512_maskz_loadu_ps(there, tokens + dimension * (i % EIGHT) + at);
        }
        tacit__transpose_avx512(row);
        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            _mm512_store_ps(out + TACIT_SIDE * (e + i), met_avx512(row[i], plus));
        }
    }
}

/* Stages of a transform: from rows half of all apart to those `nearest` apart. */
TACIT_TARGET_AVX512 TACIT_ALWAYS_INLINE void stages_avx512(__m512 *row, size_t rows, size_t nearest)
{
#pragma GCC unroll 4
    for (size_t apart = rows / 2; apart >= nearest; apart /= 2) {
        TACIT_UNROLL for (size_t i = 0; i < rows / 2; i++)
        {
            const size_t low = i / apart * 2 * apart + i % apart, high = low + apart;
            const __m512 difference = _mm512_sub_ps(row[low], row[high]);

            row[low] = _mm512_add_ps(row[low], row[high]);
            row[high] = difference;
        }
    }
}

/* What of a round's signs a pass is told. */
typedef struct round {
    const float   *both; /* the first round begins with these sums and differences; NULL: it is another round */
    const way_t   *ways;
    const uint8_t *meetings;
} round_t;

/* One pass over memory, in place, through rows that are `pitch` registers apart. With `begin` these come from round->both; with
   `end` they go through the round's first stage: it is the next one. */
TACIT_TARGET_AVX512 TACIT_ALWAYS_INLINE void rows_avx512(float *v, size_t half, size_t rows, size_t pitch, const round_t *round,
                                                         bool begin, bool end)
{
    __m512 row[TACIT_SIDE];

    for (size_t square = 0; square < half; square += rows * pitch) {
        for (size_t first = square; first < square + pitch; first++) {
            TACIT_UNROLL_SIDE for (size_t i = 0; i < rows; i++)
            {
                const size_t e = first + pitch * i;
                row[i] = begin ? ordered_avx512(round->both + TACIT_SIDE * e, round->ways + round->meetings[e])
                               : _mm512_load_ps(v + TACIT_SIDE * e);
            }
            stages_avx512(row, rows, 1);
            TACIT_UNROLL_SIDE for (size_t i = 0; i < rows; i++)
            {
                const size_t e = first + pitch * i;
                _mm512_store_ps(v + TACIT_SIDE * e, end ? met_avx512(row[i], round->ways + round->meetings[e]) : row[i]);
            }
        }
    }
}

#define FIRST_PASS(rows, pitch)                                                                                                  \
    case (rows) * (pitch):                                                                                                       \
        if (round->both != NULL) {                                                                                               \
            rows_avx512(v, half, rows, pitch, round, true, false);                                                               \
        } else {                                                                                                                 \
            rows_avx512(v, half, rows, pitch, round, false, false);                                                              \
        }                                                                                                                        \
        break;

/* All stages from the second to those of the last 16 rows. */
TACIT_TARGET_AVX512 static inline void passes_avx512(float *v, size_t half, const round_t *round)
{
    switch (half) {
        FIRST_PASS(2, 16)
        FIRST_PASS(4, 16)
        FIRST_PASS(8, 16)
        FIRST_PASS(16, 16)
        FIRST_PASS(8, 64)
        FIRST_PASS(8, 128)
        FIRST_PASS(16, 128)
        FIRST_PASS(16, 256)
    default:
        break;
    }
    if (half == 8 * 64) {
        rows_avx512(v, half, 4, 16, round, false, false);
    } else if (half == 16 * 256) {
        rows_avx512(v, half, 16, 16, round, false, false);
    } else if (half > 16 * 16) {
        rows_avx512(v, half, 8, 16, round, false, false);
    }
}

/* The codes of what the last stages would make. Of a pair that ends with the larger magnitude is the sum of theirs. */
TACIT_TARGET_AVX512 static inline void nearest_avx512(float *v, size_t half, uint32_t code_out[EIGHT])
{
    const __m256i lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    __m512        most = _mm512_set1_ps(-1), row[TACIT_SIDE];
    __m512i       wheres = _mm512_setzero_si512();
    __m256i       where, from, code = _mm256_setzero_si256();
    __m256        largest, upper, four[4];
    __mmask8      high;

    for (size_t at = 0; at < half; at += TACIT_SIDE) {
        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            row[i] = _mm512_load_ps(v + TACIT_SIDE * (at + i));
        }
        stages_avx512(row, TACIT_SIDE, 2);
#pragma GCC unroll 4
        for (size_t i = 0; i < TACIT_SIDE; i += 4) { /* NaN is passed over */
            const __m512 two = _mm512_add_ps(_mm512_abs_ps(row[i]), _mm512_abs_ps(row[i + 1]));
            const __m512 other = _mm512_add_ps(_mm512_abs_ps(row[i + 2]), _mm512_abs_ps(row[i + 3]));
            const __m512 more = _mm512_max_ps(other, _mm512_max_ps(two, most));
            wheres = _mm512_mask_mov_epi32(wheres, _mm512_cmp_ps_mask(more, most, _CMP_GT_OQ), _mm512_set1_epi32((int)(at + i)));
            most = more;
        }
        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            _mm512_store_ps(v + TACIT_SIDE * (at + i), row[i]);
        }
    }
    largest = _mm512_castps512_ps256(most);
    upper = _mm512_extractf32x8_ps(most, 1);
    high = _mm256_cmp_ps_mask(upper, largest, _CMP_GT_OQ);
    largest = _mm256_max_ps(upper, largest);
    where = _mm256_mask_mov_epi32(_mm512_castsi512_si256(wheres), high, _mm512_extracti32x8_epi32(wheres, 1));
    from = _mm256_add_epi32(_mm256_slli_epi32(where, 4), _mm256_mask_add_epi32(lanes, high, lanes, _mm256_set1_epi32(EIGHT)));
    where = _mm256_mask_add_epi32(where, high, where, _mm256_set1_epi32((int)half));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        four[i] = _mm256_i32gather_ps(v + TACIT_SIDE * i, from, sizeof *v);
    }
#pragma GCC unroll 4
    for (int i = 3; i >= 0; i--) {
        const __m256   value = i % 2 ? _mm256_sub_ps(four[i - 1], four[i]) : _mm256_add_ps(four[i], four[i + 1]);
        const __m256   magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), value);
        const __mmask8 equal = _mm256_cmp_ps_mask(magnitude, largest, _CMP_EQ_OQ);
        code = _mm256_mask_add_epi32(code, equal, where, _mm256_set1_epi32(i));
        code = _mm256_mask_add_epi32(code, equal & _mm256_cmp_ps_mask(value, _mm256_setzero_ps(), _CMP_LT_OQ), code,
                                     _mm256_set1_epi32(2 * (int)half));
    }
    _mm256_storeu_si256((__m256i *)(void *)code_out, code);
}

/* Floats of scratch. */
static size_t scratch_of_eights(size_t transforms, size_t padded)
{
    return (WAYS * sizeof(way_t) + transforms * padded / 2) / sizeof(float) + TACIT_SIDE * padded + TACIT_SIDE;
}

/* Codes of so many tokens as there are whole eights of; returns how many that are. */
TACIT_TARGET_AVX512 static size_t codes_of_eights(const tacit_rotations_t *rotations, const float *tokens, size_t count,
                                                  float *scratch, uint32_t *out)
{
    const size_t padded = rotations->padded, half = padded / 2, transforms = rotations->hashes * rotations->rounds;
    way_t       *ways = (way_t *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    float       *work = (float *)(ways + WAYS), *both = work + TACIT_SIDE * half;
    uint8_t     *meetings = (uint8_t *)(both + TACIT_SIDE * half);
    size_t       t = 0;

    if (padded < LEAST_PADDED || padded > MOST_PADDED || count < EIGHT) {
        return 0;
    }
    prepare_ways(ways);
    for (size_t i = 0; i < transforms; i++) {
        prepare_meetings(rotations->signs + words_of(padded) * i, half, meetings + half * i);
    }
    for (; t + EIGHT <= count; t += EIGHT) {
        gather_avx512(tokens + rotations->dimension * t, rotations->dimension, half, &ways[0], both);
        for (size_t h = 0; h < rotations->hashes; h++) {
            round_t  round = {both, ways, meetings + half * rotations->rounds * h};
            uint32_t code[EIGHT];
            passes_avx512(work, half, &round);
            for (size_t i = 1; i < rotations->rounds; i++) {
                round = (round_t){NULL, ways, round.meetings + half};
                rows_avx512(work, half, TACIT_SIDE, 1, &round, false, true);
                passes_avx512(work, half, &round);
            }
            nearest_avx512(work, half, code);
            for (size_t i = 0; i < EIGHT; i++) {
                out[rotations->stride * (t + i) + h] = code[i];
            }
        }
    }
    return t;
}

#endif
#endif
