/* SPDX-License-Identifier: Apache-2.0 */
/* rotq with AVX-512: a block of 256 elements is a square of 16 registers, and is rotated without leaving them. Only for rotq.c,
   whose plain functions say what is computed. */
#ifndef TACIT_ROTQ_AVX512_H
#define TACIT_ROTQ_AVX512_H

#ifdef TACIT_ON_X86

/* Changes the signs of a row. */
TACIT_TARGET_AVX512 static inline __m512 flip_avx512(__m512 row, const uint32_t *signs, size_t i)
{
    const __mmask16 negative = (__mmask16)(signs[i / 2] >> 16 * (i % 2));
    const __m512i   bits = _mm512_castps_si512(row);

    return _mm512_castsi512_ps(_mm512_mask_xor_epi32(bits, negative, bits, _mm512_set1_epi32(INT32_MIN)));
}

TACIT_TARGET_AVX512 static inline __m512 summed_avx512(const place_t *place, size_t at)
{
    return _mm512_add_ps(_mm512_loadu_ps(place->in + at), _mm512_loadu_ps(place->now + at));
}

/* look(), load(), transform() and square_of(). */
TACIT_TARGET_AVX512 static inline void rotate_avx512(const place_t *place, const uint32_t *signs, record_t *record,
                                                     float *rotated)
{
    const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
    __m512i       largest[2] = {_mm512_set1_epi32(0x00800000), _mm512_set1_epi32(0x00800000)};
    __m512        row[TACIT_SIDE], square[4], factor;

    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        row[i] = summed_avx512(place, TACIT_SIDE * i);
        largest[i % 2] = _mm512_max_epi32(largest[i % 2], _mm512_and_si512(_mm512_castps_si512(row[i]), magnitude));
    }
    note_largest(record, (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(largest[0], largest[1])));
    factor = _mm512_set1_ps(tacit__bits_float(record->normalizer));
    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        row[i] = _mm512_mul_ps(flip_avx512(row[i], signs, i), factor);
    }
    tacit__hadamard_avx512(row);
    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        const __m512 product = _mm512_mul_ps(row[i], row[i]);

        square[i % 4] = i < 4 ? product : _mm512_add_ps(square[i % 4], product);
        _mm512_storeu_ps(rotated + TACIT_SIDE * i, row[i]);
    }
    record->unit = unit_of((const tacit_floats_t *)(const void *)square);
}

/* The values of 16 levels, by the lower four bits of a number. */
TACIT_TARGET_AVX512 static inline __m512 centres_avx512(unsigned bits)
{
    const int     half = 1 << (bits - 1);
    const __m512i number = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512  positive = _mm512_castps256_ps512(_mm256_loadu_ps(codebooks[bits].magnitudes));
    const __m512  all = _mm512_permutexvar_ps(_mm512_and_si512(number, _mm512_set1_epi32(half - 1)), positive);

    return _mm512_mask_sub_ps(all, _mm512_test_epi32_mask(number, _mm512_set1_epi32(half)), _mm512_setzero_ps(), all);
}

TACIT_TARGET_AVX512 static inline __m512i insert_avx512(__m512i all, size_t i, __m128i part)
{
    return i == 0   ? _mm512_castsi128_si512(part)
           : i == 1 ? _mm512_inserti32x4(all, part, 1)
           : i == 2 ? _mm512_inserti32x4(all, part, 2)
                    : _mm512_inserti32x4(all, part, 3);
}

/* quantize_plain(), with a search in halves: as many borders are passed as are below. */
TACIT_TARGET_AVX512 static inline void quantize_avx512(float *v, float unit, unsigned bits, uint8_t *payload,
                                                       tacit_floats_t products[TACIT_VECTORS],
                                                       tacit_floats_t squares[TACIT_VECTORS])
{
    const int    half = 1 << (bits - 1);
    const __m512 centres = centres_avx512(bits);
    const __m512 borders = _mm512_castps256_ps512(borders_avx2(unit, bits));
    const __m512 middle = _mm512_permutexvar_ps(_mm512_set1_epi32(half / 2 - 1), borders);
    __m512       product[4], square[4];
    __m512i      levels = _mm512_setzero_si512();

    TACIT_UNROLL for (size_t k = 0; k < 4; k++)
    {
        product[k] = square[k] = _mm512_setzero_ps();
    }
    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        const __m512    values = _mm512_loadu_ps(v + TACIT_SIDE * i), size = _mm512_abs_ps(values);
        const __mmask16 upper = _mm512_cmp_ps_mask(size, middle, _CMP_GT_OQ);
        __m512i         level = bits > 1 ? _mm512_maskz_mov_epi32(upper, _mm512_set1_epi32(half / 2)) : _mm512_setzero_si512();
        __m512          centre;

#pragma GCC unroll 2
        for (int step = half / 4; step > 0; step /= 2) {
            const __m512 border = _mm512_permutexvar_ps(_mm512_or_si512(level, _mm512_set1_epi32(step - 1)), borders);
            level = _mm512_mask_or_epi32(level, _mm512_cmp_ps_mask(size, border, _CMP_GT_OQ), level, _mm512_set1_epi32(step));
        }
        level = _mm512_mask_or_epi32(level, _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_LT_OQ), level,
                                     _mm512_set1_epi32(half));
        centre = _mm512_permutexvar_ps(level, centres);
        levels = insert_avx512(levels, i % 4, _mm512_cvtepi32_epi8(level));
        if (i % 4 == 3) {
            uint8_t lanes[TACIT_LANES];

            _mm512_storeu_si512(lanes, levels);
            tacit__pack_lanes_avx2(lanes, bits, payload + TACIT_SIDE * (i - 3) / 8 * bits);
        }
        _mm512_storeu_ps(v + TACIT_SIDE * i, centre);
        product[i % 4] = _mm512_add_ps(product[i % 4], _mm512_mul_ps(values, centre));
        square[i % 4] = _mm512_add_ps(square[i % 4], _mm512_mul_ps(centre, centre));
    }
    memcpy(products, product, sizeof product);
    memcpy(squares, square, sizeof square);
}

/* transform() and store(), where all is finite. */
TACIT_TARGET_AVX512 static inline void rotate_back_avx512(const float *rotated, const uint32_t *signs, const record_t *record,
                                                          const place_t *place, bool kept)
{
    const __m512 scale = _mm512_set1_ps(record->scale);
    __m512       row[TACIT_SIDE];

    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        row[i] = _mm512_loadu_ps(rotated + TACIT_SIDE * i);
    }
    tacit__hadamard_avx512(row);
    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        const size_t at = TACIT_SIDE * i;
        const __m512 value = _mm512_mul_ps(flip_avx512(row[i], signs, i), scale);

        _mm512_storeu_ps(place->next + at, kept ? _mm512_sub_ps(summed_avx512(place, at), value) : value);
    }
}

/* A whole block of decode_record(). levels: 4 bytes more can be read. */
TACIT_TARGET_AVX512 static inline void decode_record_avx512(const uint8_t *levels, unsigned bits, float scale,
                                                            const uint32_t *signs, float *out, bool add)
{
    const __m512  centres = centres_avx512(bits), factor = _mm512_set1_ps(scale);
    const __m512i places = _mm512_set_epi32(7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i shifts = _mm512_mullo_epi32(places, _mm512_set1_epi32((int)bits));
    __m512        row[TACIT_SIDE];

    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        const int     low = (int)tacit__load32(levels + 2 * i * bits), high = (int)tacit__load32(levels + (2 * i + 1) * bits);
        const __m512i all = _mm512_inserti64x4(_mm512_set1_epi32(low), _mm256_set1_epi32(high), 1);

        row[i] = _mm512_permutexvar_ps(_mm512_srlv_epi32(all, shifts), centres);
    }
    tacit__hadamard_avx512(row);
    TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
    {
        const __m512 value = _mm512_mul_ps(flip_avx512(row[i], signs, i), factor);

        _mm512_storeu_ps(out + TACIT_SIDE * i, add ? _mm512_add_ps(_mm512_loadu_ps(out + TACIT_SIDE * i), value) : value);
    }
}

#endif
#endif
