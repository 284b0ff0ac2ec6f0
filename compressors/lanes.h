/* SPDX-License-Identifier: Apache-2.0 */
/* TACIT_LANES numbers as eight vectors of 8, which compilers keep in registers, and the intrinsics of the instruction sets that
   have more to offer. Loops over the eight are marked to be unrolled. */
#ifndef TACIT_LANES_H
#define TACIT_LANES_H

#include "bits.h"
#include "compressor.h"
#include "isa.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef TACIT_ON_X86
#include <immintrin.h>
#endif

/* At any address of a float, and of any type in memory. */
typedef float    tacit_floats_t __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t  tacit_ints_t __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t tacit_words_t __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint64_t tacit_longs_t __attribute__((vector_size(32), aligned(4), may_alias));

enum { TACIT_VECTOR = 8, TACIT_VECTORS = TACIT_LANES / TACIT_VECTOR };

/* In front of a loop over TACIT_VECTORS. */
#define TACIT_UNROLL _Pragma("GCC unroll 8")

static inline const tacit_floats_t *tacit__floats(const float *a)
{
    return (const tacit_floats_t *)(const void *)a;
}

static inline tacit_floats_t *tacit__floats_to(float *a)
{
    return (tacit_floats_t *)(void *)a;
}

/* Vectors are no parameters and no results of functions: how they travel depends on the instruction set. So these are macros. */
#define TACIT_MAGNITUDES(values) ((tacit_floats_t)((tacit_words_t)(values)&0x7fffffffu))
/* Of each value, a word whose top bit is set if it is NaN or infinity. */
#define TACIT_NONFINITE(values) (((tacit_words_t)(values)&0x7fffffffu) + 0x00800000u)
/* Where a mask's words are all ones, one; where they are zero, the other. */
#define TACIT_SELECT(mask, one, other) (((tacit_words_t)(mask) & (one)) | (~(tacit_words_t)(mask) & (other)))

/* Whether the top bit of any word is set. */
TACIT_ALWAYS_INLINE bool tacit__any_negative(const tacit_words_t *words)
{
    uint64_t pairs[TACIT_VECTOR / 2], any = 0;

    memcpy(pairs, words, sizeof pairs);
    for (size_t i = 0; i < TACIT_VECTOR / 2; i++) {
        any |= pairs[i];
    }
    return (any & 0x8000000080000000u) != 0;
}

/* ---- The first look at a block ---- */

/* Takes gathered elements back from memory. */
static inline void tacit__ungather(const tacit_ef_t *ef, size_t first, size_t count)
{
    for (size_t i = first; ef->next == ef->now && i < first + count; i++) {
        ef->next[i] -= ef->in[i];
    }
}

/* Takes 64 elements into account. */
typedef void tacit_visit_t(tacit_isa_t isa, void *state, const tacit_floats_t a[TACIT_VECTORS]);

/* Shows visit() the elements of ef->in or, with feedback, of in + now, which also go to next; missing ones are `pad`. Returns
   whether all are finite. With feedback it ends where one is not, and memory is as it was. */
TACIT_ALWAYS_INLINE bool tacit__gather(tacit_isa_t isa, const tacit_ef_t *ef, bool feedback, size_t first, size_t count,
                                       float pad, tacit_visit_t visit, void *state)
{
    tacit_floats_t a[TACIT_VECTORS];
    tacit_words_t  nonfinite = {0};
    size_t         i = 0;

    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            a[k] = *tacit__floats(ef->in + first + i + TACIT_VECTOR * k);
            if (feedback) {
                a[k] += *tacit__floats(ef->now + first + i + TACIT_VECTOR * k);
            }
            nonfinite |= TACIT_NONFINITE(a[k]);
        }
        if (feedback && tacit__any_negative(&nonfinite)) {
            break;
        }
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS && feedback; k++)
        {
            *tacit__floats_to(ef->next + first + i + TACIT_VECTOR * k) = a[k];
        }
        visit(isa, state, a);
    }
    if (i < count && i + TACIT_LANES > count) {
        float rest[TACIT_LANES];

        for (size_t j = 0; j < TACIT_LANES; j++) {
            const size_t at = first + i + j;
            rest[j] = i + j >= count ? pad : feedback ? ef->in[at] + ef->now[at] : ef->in[at];
            nonfinite[0] |= tacit__nonfinite_bit(rest[j]);
        }
        if (!feedback || !tacit__any_negative(&nonfinite)) {
            memcpy(a, rest, sizeof a);
            visit(isa, state, a);
            memcpy(ef->next + first + i, rest, feedback ? (count - i) * sizeof *rest : 0);
            i = count;
        }
    }
    if (i < count) {
        tacit__ungather(ef, first, i);
    }
    return !tacit__any_negative(&nonfinite);
}

#define TACIT_LOWER(a, b) ((b) < (a) ? (b) : (a))
#define TACIT_HIGHER(a, b) ((b) > (a) ? (b) : (a))

/* *least := the lesser of each pair, *least where they are equal or `other` is NaN; and the same of the greater. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__lower_avx2(tacit_floats_t *least, const tacit_floats_t *other)
{
    *least = (tacit_floats_t)_mm256_min_ps((__m256)*other, (__m256)*least);
}

TACIT_TARGET_AVX2 static inline void tacit__raise_avx2(tacit_floats_t *most, const tacit_floats_t *other)
{
    *most = (tacit_floats_t)_mm256_max_ps((__m256)*other, (__m256)*most);
}
#endif

TACIT_ALWAYS_INLINE void tacit__lower(tacit_isa_t isa, tacit_floats_t *least, const tacit_floats_t *other)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { tacit__lower_avx2(least, other); } else)
    *least = (tacit_floats_t)TACIT_SELECT(*other < *least, (tacit_words_t)*other, (tacit_words_t)*least);
}

TACIT_ALWAYS_INLINE void tacit__raise(tacit_isa_t isa, tacit_floats_t *most, const tacit_floats_t *other)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { tacit__raise_avx2(most, other); } else)
    *most = (tacit_floats_t)TACIT_SELECT(*other > *most, (tacit_words_t)*other, (tacit_words_t)*most);
}

/* The same of integers. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__raise_ints_avx2(tacit_ints_t *most, const tacit_ints_t *other)
{
    *most = (tacit_ints_t)_mm256_max_epi32((__m256i)*other, (__m256i)*most);
}
#endif

TACIT_ALWAYS_INLINE void tacit__raise_ints(tacit_isa_t isa, tacit_ints_t *most, const tacit_ints_t *other)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { tacit__raise_ints_avx2(most, other); } else)
    *most = (tacit_ints_t)TACIT_SELECT(*other > *most, (tacit_words_t)*other, (tacit_words_t)*most);
}

/* 8 bytes to words, and words below 256 to 8 bytes. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__widen_bytes_avx2(const uint8_t *bytes, tacit_words_t *words)
{
    *words = (tacit_words_t)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
}

TACIT_TARGET_AVX2 static inline void tacit__narrow_words_avx2(const tacit_words_t *words, uint8_t *bytes)
{
    const __m256i all = (__m256i)*words;
    const __m128i shorts = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));

    _mm_storel_epi64((__m128i *)(void *)bytes, _mm_packus_epi16(shorts, shorts));
}
#endif

TACIT_ALWAYS_INLINE void tacit__widen_bytes(tacit_isa_t isa, const uint8_t *bytes, tacit_words_t *words)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        tacit__widen_bytes_avx2(bytes, words);
        return;
    })
    for (size_t j = 0; j < TACIT_VECTOR; j++) {
        (*words)[j] = bytes[j];
    }
}

TACIT_ALWAYS_INLINE void tacit__narrow_words(tacit_isa_t isa, const tacit_words_t *words, uint8_t *bytes)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        tacit__narrow_words_avx2(words, bytes);
        return;
    })
    for (size_t j = 0; j < TACIT_VECTOR; j++) {
        bytes[j] = (uint8_t)(*words)[j];
    }
}

/* 64 words below 256 to bytes. */
#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__narrow_lanes_avx2(const tacit_words_t words[TACIT_VECTORS], uint8_t *bytes)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packing interleaves the halves of registers */

#pragma GCC unroll 2
    for (size_t k = 0; k < TACIT_VECTORS; k += 4) {
        const __m256i low = _mm256_packus_epi32((__m256i)words[k], (__m256i)words[k + 1]);
        const __m256i high = _mm256_packus_epi32((__m256i)words[k + 2], (__m256i)words[k + 3]);

        _mm256_storeu_si256((__m256i *)(void *)(bytes + TACIT_VECTOR * k),
                            _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
    }
}
#endif

TACIT_ALWAYS_INLINE void tacit__narrow_lanes(tacit_isa_t isa, const tacit_words_t words[TACIT_VECTORS], uint8_t *bytes)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) {
        tacit__narrow_lanes_avx2(words, bytes);
        return;
    })
    for (size_t j = 0; j < TACIT_LANES; j++) {
        bytes[j] = (uint8_t)words[j / TACIT_VECTOR][j % TACIT_VECTOR];
    }
}

/* The least of all lanes, which are spoilt, and the greatest. NaN may be passed over. */
TACIT_ALWAYS_INLINE float tacit__lanes_least(tacit_isa_t isa, tacit_floats_t lanes[TACIT_VECTORS])
{
    float a, b;

    TACIT_UNROLL for (size_t k = 1; k < TACIT_VECTORS; k++)
    {
        tacit__lower(isa, &lanes[0], &lanes[k]);
    }
    a = TACIT_LOWER(TACIT_LOWER(lanes[0][0], lanes[0][1]), TACIT_LOWER(lanes[0][2], lanes[0][3]));
    b = TACIT_LOWER(TACIT_LOWER(lanes[0][4], lanes[0][5]), TACIT_LOWER(lanes[0][6], lanes[0][7]));
    return TACIT_LOWER(a, b);
}

TACIT_ALWAYS_INLINE float tacit__lanes_most(tacit_isa_t isa, tacit_floats_t lanes[TACIT_VECTORS])
{
    float a, b;

    TACIT_UNROLL for (size_t k = 1; k < TACIT_VECTORS; k++)
    {
        tacit__raise(isa, &lanes[0], &lanes[k]);
    }
    a = TACIT_HIGHER(TACIT_HIGHER(lanes[0][0], lanes[0][1]), TACIT_HIGHER(lanes[0][2], lanes[0][3]));
    b = TACIT_HIGHER(TACIT_HIGHER(lanes[0][4], lanes[0][5]), TACIT_HIGHER(lanes[0][6], lanes[0][7]));
    return TACIT_HIGHER(a, b);
}

/* The sum of all lanes: halves are added to halves. */
static inline float tacit__lanes_sum(const tacit_floats_t lanes[TACIT_VECTORS])
{
    tacit_floats_t folded = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    float          sums[TACIT_VECTOR];

    memcpy(sums, &folded, sizeof sums);
    for (size_t width = TACIT_VECTOR / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            sums[j] += sums[j + width];
        }
    }
    return sums[0];
}

#endif
