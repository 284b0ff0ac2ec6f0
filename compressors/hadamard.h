/* SPDX-License-Identifier: Apache-2.0 */
/* Rotations: sign flips, and the Hadamard transform. That of 256 numbers sees a square of 16 rows: over the columns of each, all
   rows at once. */
#ifndef TACIT_HADAMARD_H
#define TACIT_HADAMARD_H

#include "isa.h"
#include "lanes.h"

enum { TACIT_SIDE = 16, TACIT_HADAMARD = TACIT_SIDE * TACIT_SIDE };

#define TACIT_UNROLL_SIDE _Pragma("GCC unroll 16")

/* The sign bits of 8 elements: bits `shift` and up of a word. */
#define TACIT_SIGNS(word, shift)                                                                                                 \
    ((((tacit_words_t){0} + ((word) >> (shift))) << (tacit_words_t){31, 30, 29, 28, 27, 26, 25, 24}) & 0x80000000u)

/* low, high := low + high, low - high. Sums and products keep different units of a processor busy: a difference is made as
   low - 1 x high, which is rounded once, too. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__butterfly_avx2(tacit_floats_t *low, tacit_floats_t *high)
{
    const __m256 difference = _mm256_fnmadd_ps((__m256)*high, _mm256_set1_ps(1.0f), (__m256)*low);

    *low = (tacit_floats_t)_mm256_add_ps((__m256)*low, (__m256)*high);
    *high = (tacit_floats_t)difference;
}
#endif

TACIT_ALWAYS_INLINE void tacit__butterfly(tacit_isa_t isa, tacit_floats_t *low, tacit_floats_t *high)
{
    tacit_floats_t difference;

    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        tacit__butterfly_avx2(low, high);
        return;
    })
    difference = *low - *high;
    *low += *high;
    *high = difference;
}

/* One step of it on 16 rows of 8 columns: rows so far apart become their sum and their difference. */
TACIT_ALWAYS_INLINE void tacit__butterflies(tacit_isa_t isa, tacit_floats_t row[TACIT_SIDE], size_t apart)
{
    TACIT_UNROLL for (size_t i = 0; i < TACIT_SIDE / 2; i++)
    {
        const size_t low = i / apart * 2 * apart + i % apart;

        tacit__butterfly(isa, &row[low], &row[low + apart]);
    }
}

/* The transform of order 16 of 8 columns at once. */
TACIT_ALWAYS_INLINE void tacit__transform_columns(tacit_isa_t isa, tacit_floats_t row[TACIT_SIDE])
{
    tacit__butterflies(isa, row, 8);
    tacit__butterflies(isa, row, 4);
    tacit__butterflies(isa, row, 2);
    tacit__butterflies(isa, row, 1);
}

#ifdef TACIT_ON_X86
/* Reads 8 rows of 8 columns of a square, transposed. */
TACIT_TARGET_AVX2 static inline void tacit__load_transposed_avx2(const float *v, tacit_floats_t column[8])
{
    __m256 pair[8], four[8];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        const __m256 even = _mm256_loadu_ps(v + 2 * i * TACIT_SIDE), odd = _mm256_loadu_ps(v + (2 * i + 1) * TACIT_SIDE);
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
        column[i] = (tacit_floats_t)_mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        column[i + 4] = (tacit_floats_t)_mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
}
#endif

TACIT_ALWAYS_INLINE void tacit__load_transposed(tacit_isa_t isa, const float *v, tacit_floats_t column[8])
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        tacit__load_transposed_avx2(v, column);
        return;
    })
    for (size_t i = 0; i < 8; i++) {
        for (size_t j = 0; j < 8; j++) {
            column[i][j] = v[TACIT_SIDE * j + i];
        }
    }
}

/* The Hadamard transform of order 256, without its factor 1/16 and with the square left transposed: one transposition instead of
   two, and what undoes it is the same function, up to the factor 256. Spoils v. */
TACIT_ALWAYS_INLINE void tacit__hadamard(tacit_isa_t isa, float *v, float *out)
{
    tacit_floats_t row[TACIT_SIDE];

    for (size_t column = 0; column < TACIT_SIDE; column += TACIT_VECTOR) {
        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            row[i] = *tacit__floats(v + TACIT_SIDE * i + column);
        }
        tacit__transform_columns(isa, row);
        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            *tacit__floats_to(v + TACIT_SIDE * i + column) = row[i];
        }
    }
    for (size_t column = 0; column < TACIT_SIDE; column += TACIT_VECTOR) {
        tacit__load_transposed(isa, v + TACIT_SIDE * column, row);
        tacit__load_transposed(isa, v + TACIT_SIDE * column + TACIT_VECTOR, row + TACIT_VECTOR);
        tacit__transform_columns(isa, row);
        TACIT_UNROLL_SIDE for (size_t i = 0; i < TACIT_SIDE; i++)
        {
            *tacit__floats_to(out + TACIT_SIDE * i + column) = row[i];
        }
    }
}

/* ---- Of any order, in place ---- */

/* Those of elements 2^step apart, all of them within 8. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__swap_avx2(const tacit_floats_t *v, unsigned step, tacit_floats_t *swapped)
{
    const __m256 all = (__m256)*v;

    *swapped = (tacit_floats_t)(step == 2   ? _mm256_permute2f128_ps(all, all, 1)
                                : step == 1 ? _mm256_permute_ps(all, 0x4e)
                                            : _mm256_permute_ps(all, 0xb1));
}
#endif

TACIT_ALWAYS_INLINE void tacit__butterflies_within(tacit_isa_t isa, tacit_floats_t *v, unsigned step)
{
    const tacit_words_t  high = ((tacit_words_t){0, 1, 2, 3, 4, 5, 6, 7} << (31 - step)) & 0x80000000u;
    const tacit_floats_t signed_v = (tacit_floats_t)((tacit_words_t)*v ^ high);
    tacit_floats_t       swapped;

    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { tacit__swap_avx2(v, step, &swapped); } else)
    for (size_t j = 0; j < TACIT_VECTOR; j++) {
        swapped[j] = (*v)[j ^ ((size_t)1 << step)];
    }
    *v = swapped + signed_v;
}

/* One pass over memory: rows that are `pitch` elements apart, as many as a constant says; with `last`, when the pitch is 8, also
   the columns of each. */
TACIT_ALWAYS_INLINE void tacit__hadamard_rows(tacit_isa_t isa, float *v, size_t count, size_t rows, size_t pitch, bool last)
{
    tacit_floats_t row[TACIT_SIDE];

    for (float *square = v; square < v + count; square += rows * pitch) {
        for (size_t column = 0; column < pitch; column += TACIT_VECTOR) {
            TACIT_UNROLL_SIDE for (size_t i = 0; i < rows; i++)
            {
                row[i] = *tacit__floats(square + pitch * i + column);
            }
#pragma GCC unroll 4
            for (size_t apart = rows / 2; apart > 0; apart /= 2) {
                TACIT_UNROLL for (size_t i = 0; i < rows / 2; i++)
                {
                    const size_t low = i / apart * 2 * apart + i % apart;
                    tacit__butterfly(isa, &row[low], &row[low + apart]);
                }
            }
            TACIT_UNROLL_SIDE for (size_t i = 0; i < rows; i++)
            {
                if (last) {
                    tacit__butterflies_within(isa, &row[i], 2);
                    tacit__butterflies_within(isa, &row[i], 1);
                    tacit__butterflies_within(isa, &row[i], 0);
                }
                *tacit__floats_to(square + pitch * i + column) = row[i];
            }
        }
    }
}

TACIT_ALWAYS_INLINE void tacit__hadamard_pass(tacit_isa_t isa, float *v, size_t count, size_t rows, size_t pitch, bool last)
{
    switch (rows) {
    case 1:
        tacit__hadamard_rows(isa, v, count, 1, pitch, last);
        break;
    case 2:
        tacit__hadamard_rows(isa, v, count, 2, pitch, last);
        break;
    case 4:
        tacit__hadamard_rows(isa, v, count, 4, pitch, last);
        break;
    case 8:
        tacit__hadamard_rows(isa, v, count, 8, pitch, last);
        break;
    default:
        tacit__hadamard_rows(isa, v, count, 16, pitch, last);
    }
}

/* The Hadamard transform of order `count`, a power of two, without its factor: first elements that are count / 2 apart become
   their sum and their difference, neighbours last. */
TACIT_ALWAYS_INLINE void tacit__hadamard_any(tacit_isa_t isa, float *v, size_t count)
{
    size_t order = count; /* of the transforms that are left */

    while (order > 8 * TACIT_VECTOR) {
        const size_t rows = order < 16 * 8 * TACIT_VECTOR ? order / (8 * TACIT_VECTOR) : 16;

        order /= rows;
        tacit__hadamard_pass(isa, v, count, rows, order, false);
    }
    if (count >= TACIT_VECTOR) {
        tacit__hadamard_pass(isa, v, count, order / TACIT_VECTOR, TACIT_VECTOR, true);
        return;
    }
    for (size_t apart = count / 2; apart > 0; apart /= 2) {
        for (size_t i = 0; i < count / 2; i++) {
            float *low = v + i + (i & ~(apart - 1)), sum = low[0] + low[apart];
            low[apart] = low[0] - low[apart];
            low[0] = sum;
        }
    }
}

#ifdef TACIT_ON_X86
/* With AVX-512 the square is 16 registers. Differences are made as in tacit__butterfly_avx2(). */
TACIT_TARGET_AVX512 static inline void tacit__butterflies_avx512(__m512 row[TACIT_SIDE], size_t apart)
{
    const __m512 one = _mm512_set1_ps(1.0f);

    TACIT_UNROLL for (size_t i = 0; i < TACIT_SIDE / 2; i++)
    {
        const size_t low = i / apart * 2 * apart + i % apart, high = low + apart;
        const __m512 difference = _mm512_fnmadd_ps(row[high], one, row[low]);

        row[low] = _mm512_add_ps(row[low], row[high]);
        row[high] = difference;
    }
}

TACIT_TARGET_AVX512 static inline void tacit__transform_columns_avx512(__m512 row[TACIT_SIDE])
{
    tacit__butterflies_avx512(row, 8);
    tacit__butterflies_avx512(row, 4);
    tacit__butterflies_avx512(row, 2);
    tacit__butterflies_avx512(row, 1);
}

TACIT_TARGET_AVX512 static inline void tacit__transpose_avx512(__m512 row[TACIT_SIDE])
{
    __m512 pair[TACIT_SIDE], four[TACIT_SIDE];

    TACIT_UNROLL for (size_t i = 0; i < TACIT_SIDE; i += 2)
    {
        pair[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
        pair[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
    }
    TACIT_UNROLL for (size_t i = 0; i < TACIT_SIDE; i += 4) /* row i + j: columns j, j + 4, ... of rows i to i + 3 */
    {
        four[i] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0x44);
        four[i + 1] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0xee);
        four[i + 2] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        four[i + 3] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    TACIT_UNROLL for (size_t j = 0; j < 4; j++)
    {
        const __m512 low01 = _mm512_shuffle_f32x4(four[j], four[4 + j], 0x88),
                     high01 = _mm512_shuffle_f32x4(four[j], four[4 + j], 0xdd);
        const __m512 low23 = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], 0x88);
        const __m512 high23 = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], 0xdd);

        row[j] = _mm512_shuffle_f32x4(low01, low23, 0x88);
        row[8 + j] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        row[4 + j] = _mm512_shuffle_f32x4(high01, high23, 0x88);
        row[12 + j] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
    }
}

TACIT_TARGET_AVX512 static inline void tacit__hadamard_avx512(__m512 row[TACIT_SIDE])
{
    tacit__transform_columns_avx512(row);
    tacit__transpose_avx512(row);
    tacit__transform_columns_avx512(row);
}
#endif

#endif
