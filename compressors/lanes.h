/* SPDX-License-Identifier: Apache-2.0 */
/* TACIT_LANES numbers as four vectors of 16, which compilers keep in the registers of whatever instruction set they compile for,
   and the intrinsics of the sets that have more to offer. Loops over the four are marked to be unrolled. */
#ifndef TACIT_LANES_H
#define TACIT_LANES_H

#include "bits.h"
#include "isa.h"

#include <stdbool.h>
#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* At any address of a float, and of any type in memory. */
typedef float    tacit_floats_t __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t  tacit_ints_t __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t tacit_words_t __attribute__((vector_size(64), aligned(4), may_alias));

enum { TACIT_VECTOR = 16, TACIT_VECTORS = TACIT_LANES / TACIT_VECTOR };

/* In front of a loop over TACIT_VECTORS. */
#define TACIT_UNROLL _Pragma("GCC unroll 4")

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

/* *least := the lesser of each pair, *least where they are equal or `other` is NaN; and the same of the greater. */
#if defined(__x86_64__)
TACIT_TARGET_AVX2 static inline void tacit__lower_avx2(tacit_floats_t *least, const tacit_floats_t *other)
{
    __m256 a[2], b[2];

    memcpy(a, least, sizeof a);
    memcpy(b, other, sizeof b);
    a[0] = _mm256_min_ps(b[0], a[0]);
    a[1] = _mm256_min_ps(b[1], a[1]);
    memcpy(least, a, sizeof a);
}

TACIT_TARGET_AVX2 static inline void tacit__raise_avx2(tacit_floats_t *most, const tacit_floats_t *other)
{
    __m256 a[2], b[2];

    memcpy(a, most, sizeof a);
    memcpy(b, other, sizeof b);
    a[0] = _mm256_max_ps(b[0], a[0]);
    a[1] = _mm256_max_ps(b[1], a[1]);
    memcpy(most, a, sizeof a);
}

TACIT_TARGET_AVX512 static inline void tacit__lower_avx512(tacit_floats_t *least, const tacit_floats_t *other)
{
    _mm512_storeu_ps(least, _mm512_min_ps(_mm512_loadu_ps(other), _mm512_loadu_ps(least)));
}

TACIT_TARGET_AVX512 static inline void tacit__raise_avx512(tacit_floats_t *most, const tacit_floats_t *other)
{
    _mm512_storeu_ps(most, _mm512_max_ps(_mm512_loadu_ps(other), _mm512_loadu_ps(most)));
}
#endif

TACIT_ALWAYS_INLINE void tacit__lower(tacit_isa_t isa, tacit_floats_t *least, const tacit_floats_t *other)
{
    switch (isa) {
        TACIT_X86(case TACIT_ISA_AVX2 : tacit__lower_avx2(least, other); break;)
        TACIT_X86(case TACIT_ISA_AVX512 : tacit__lower_avx512(least, other); break;)
    default:
        *least = (tacit_floats_t)TACIT_SELECT(*other < *least, (tacit_words_t)*other, (tacit_words_t)*least);
    }
}

TACIT_ALWAYS_INLINE void tacit__raise(tacit_isa_t isa, tacit_floats_t *most, const tacit_floats_t *other)
{
    switch (isa) {
        TACIT_X86(case TACIT_ISA_AVX2 : tacit__raise_avx2(most, other); break;)
        TACIT_X86(case TACIT_ISA_AVX512 : tacit__raise_avx512(most, other); break;)
    default:
        *most = (tacit_floats_t)TACIT_SELECT(*other > *most, (tacit_words_t)*other, (tacit_words_t)*most);
    }
}

/* The sum of all lanes: halves are added to halves. */
static inline float tacit__lanes_sum(const tacit_floats_t lanes[TACIT_VECTORS])
{
    tacit_floats_t folded = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
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
