/* SPDX-License-Identifier: Apache-2.0 */
/* The sieve of a selection: a tensor goes through it once, while feedback makes it, and what is large stays. A leaf header, of
   which feedbacks make loops that do both in one pass over memory. */
#ifndef TACIT_SIEVE_H
#define TACIT_SIEVE_H

#include "bits.h"
#include "isa.h"

#ifdef TACIT_ON_X86
#include <immintrin.h>
#endif

enum {
    TACIT_SIEVE_MOST = 2048, /* elements that go through at once */
    TACIT_SIEVE_PAD = 80,    /* entries behind the last that may be written, and groups read */
    TACIT_SURE_NONE = 0x7fffffff,
    TACIT_FLOAT_INFINITY = 0x7f800000
};

typedef struct tacit_sieve {
    uint32_t  least;   /* bits of the magnitude from which on an element stays, at least 1 */
    uint32_t  sure;    /* … and from which on 0 takes its place in a[]; or TACIT_SURE_NONE */
    bool      passes;  /* NaN and infinity pass; else all stops at the group in which one is */
    float    *a;       /* the tensor, as it comes through; NULL: it is not kept */
    float    *values;  /* what has stayed, in order … */
    uint32_t *indices; /* … and where */
    size_t    used;
    float    *sample; /* of what goes through, every stride-th element from sample_at on */
    size_t    samples, sample_at, stride;
    float    *group; /* TACIT_LANES elements: those at which all has stopped */
} tacit_sieve_t;

/* ---- Which of TACIT_LANES magnitudes, as bits, are at least `least`, which is not 0 ---- */

#ifdef TACIT_ON_X86
TACIT_TARGET_AVX512 static inline uint64_t tacit__at_least_avx512(const float *group, uint32_t least)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), bound = _mm512_set1_epi32((int)least);
    uint64_t      found[4];

#pragma GCC unroll 4
    for (unsigned j = 0; j < 4; j++) {
        found[j] = _mm512_cmpge_epi32_mask(_mm512_and_si512(_mm512_loadu_si512(group + 16 * j), magnitude), bound);
    }
    return (found[0] | found[1] << 16) | (found[2] << 32 | found[3] << 48);
}

TACIT_TARGET_AVX2 static inline uint64_t tacit__at_least_avx2(const float *group, uint32_t least)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), below = _mm256_set1_epi32((int)(least - 1));
    uint64_t      found = 0;

#pragma GCC unroll 8
    for (unsigned j = 0; j < TACIT_LANES; j += 8) {
        const __m256i bits = _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(group + j)), magnitude);
        found |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(bits, below))) << j;
    }
    return found;
}
#endif

static inline uint64_t tacit__at_least_scalar(const float *group, uint32_t least)
{
    uint8_t  flags[TACIT_LANES];
    uint64_t found = 0;

    for (size_t j = 0; j < TACIT_LANES; j++) {
        flags[j] = (uint8_t) - ((int32_t)(tacit__float_bits(group[j]) & 0x7fffffffu) >= (int32_t)least);
    }
    for (unsigned j = 0; j < TACIT_LANES; j += 8) { /* of each eight bytes one bit, and these side by side */
        uint64_t bytes;
        memcpy(&bytes, flags + j, sizeof bytes);
        found |= ((bytes & 0x8040201008040201u) * 0x0101010101010101u >> 56) << j;
    }
    return found;
}

/* `isa` is a constant in every loop that this becomes a part of. */
static inline uint64_t tacit__at_least(const float *group, uint32_t least, tacit_isa_t isa)
{
    TACIT_X86(if (isa == TACIT_ISA_AVX512) { return tacit__at_least_avx512(group, least); })
    TACIT_X86(if (isa == TACIT_ISA_AVX2) { return tacit__at_least_avx2(group, least); })
    (void)isa;
    return tacit__at_least_scalar(group, least);
}

/* ---- What goes through ---- */

/* Appends the elements of a group that are in `found`. A few at once, whether there are so many or not: to guess how many there
   are costs more than to write some too many. */
static inline void tacit__sieve_append(tacit_sieve_t *sieve, const float *group, size_t first, uint64_t found)
{
    const size_t used = sieve->used + (size_t)__builtin_popcountll(found);

    size_t at = sieve->used;

    do {
        for (int i = 0; i < 3; i++) {
            const unsigned j = (unsigned)__builtin_ctzll(found | UINT64_C(1) << 63);
            sieve->indices[at] = (uint32_t)(first + j);
            sieve->values[at++] = group[j];
            found &= found - 1;
        }
    } while (found != 0);
    sieve->used = used;
}

/* What takes an element's place in a[]: signed and without a branch, so that it vectorizes. */
static inline float tacit__sieve_left(float value, uint32_t sure)
{
    const uint32_t bits = tacit__float_bits(value);

    return tacit__bits_float(bits & -(uint32_t)((int32_t)(bits & 0x7fffffffu) < (int32_t)sure));
}

#ifdef TACIT_ON_X86
/* Sixteen, without leaving registers. */
TACIT_TARGET_AVX512 static inline bool tacit__sieve_avx512(tacit_sieve_t *sieve, const float *group, size_t first, size_t count)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512  values = _mm512_loadu_ps(group);
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(values), _mm512_set1_epi32(0x7fffffff));
    __mmask16     found;

    if (_mm512_cmpge_epi32_mask(bits, _mm512_set1_epi32(TACIT_FLOAT_INFINITY)) != 0 && !sieve->passes) {
        return false;
    }
    found = _mm512_cmpge_epi32_mask(bits, _mm512_set1_epi32((int)sieve->least));
    _mm512_storeu_ps(sieve->values + sieve->used, _mm512_maskz_compress_ps(found, values));
    _mm512_storeu_si512(sieve->indices + sieve->used,
                        _mm512_maskz_compress_epi32(found, _mm512_add_epi32(lanes, _mm512_set1_epi32((int)first))));
    sieve->used += (size_t)__builtin_popcount(found);
    if (sieve->a != NULL) {
        const __m512 left = _mm512_maskz_mov_ps(_mm512_cmplt_epi32_mask(bits, _mm512_set1_epi32((int)sieve->sure)), values);
        if (count == 16) {
            _mm512_storeu_ps(sieve->a + first, left);
        } else {
            _mm512_mask_storeu_ps(sieve->a + first, (__mmask16)((1u << count) - 1), left);
        }
    }
    return true;
}
#endif

static inline bool tacit__sieve_lanes(tacit_sieve_t *sieve, const float *group, size_t first, size_t count, tacit_isa_t isa)
{
    const uint32_t sure = sieve->sure;
    float         *a = sieve->a != NULL ? sieve->a + first : NULL;

    if (tacit__at_least(group, TACIT_FLOAT_INFINITY, isa) != 0 && !sieve->passes) {
        return false;
    }
    tacit__sieve_append(sieve, group, first, tacit__at_least(group, sieve->least, isa));
    if (a != NULL && count == TACIT_LANES) {
        for (size_t j = 0; j < TACIT_LANES; j++) {
            a[j] = tacit__sieve_left(group[j], sure);
        }
    } else if (a != NULL) {
        for (size_t j = 0; j < count; j++) {
            a[j] = tacit__sieve_left(group[j], sure);
        }
    }
    return true;
}

/* Elements that go through together. */
static inline size_t tacit__sieve_group(tacit_isa_t isa)
{
    return isa == TACIT_ISA_AVX512 ? 16 : TACIT_LANES;
}

/* `count` elements from `first` on, in a group that ends with zeros. False: something is not finite, and may not be; then this
   has done nothing with it. */
static inline bool tacit__sieve(tacit_sieve_t *sieve, const float *group, size_t first, size_t count, tacit_isa_t isa)
{
    TACIT_X86(if (isa == TACIT_ISA_AVX512) { return tacit__sieve_avx512(sieve, group, first, count); })
    return tacit__sieve_lanes(sieve, group, first, count, isa);
}

/* Of a group that is through. */
static inline void tacit__sieve_sample(tacit_sieve_t *sieve, const float *group, size_t first, size_t count)
{
    for (; sieve->sample_at < first + count; sieve->sample_at += sieve->stride) {
        sieve->sample[sieve->samples++] = group[sieve->sample_at - first];
    }
}

/* Defines sift(): elements [first, first + count) of what before(state, first, count, in, group) makes of in[0..count) go
   through a sieve. Returns how many have; fewer than count: those of the next tacit__sieve_group(), made already, are in
   sieve->group. The innermost loop is kept short: what it does is little, and a processor looks only so far ahead for memory. */
#define TACIT_SIFT(state_t, before)                                                                                              \
    static inline size_t sift_loop(const state_t *state, size_t first, size_t count, const float *in, tacit_sieve_t *sieve,      \
                                   tacit_isa_t isa)                                                                              \
    {                                                                                                                            \
        const size_t  lanes = tacit__sieve_group(isa), whole = count / lanes * lanes;                                            \
        tacit_sieve_t own = *sieve;                                                                                              \
        float         group[TACIT_LANES] = {0};                                                                                  \
        size_t        done = 0;                                                                                                  \
        bool          through = true;                                                                                            \
                                                                                                                                 \
        while (through && done < whole) {                                                                                        \
            const size_t sampled = own.sample_at - first < whole ? (own.sample_at - first) / lanes * lanes + lanes : whole;      \
                                                                                                                                 \
            do {                                                                                                                 \
                before(state, first + done, lanes, in + done, group);                                                            \
                through = tacit__sieve(&own, group, first + done, lanes, isa);                                                   \
                done += through ? lanes : 0;                                                                                     \
            } while (through && done < sampled);                                                                                 \
            if (through) {                                                                                                       \
                tacit__sieve_sample(&own, group, first + done - lanes, lanes);                                                   \
            }                                                                                                                    \
        }                                                                                                                        \
        if (through && done < count) {                                                                                           \
            memset(group, 0, sizeof group);                                                                                      \
            before(state, first + done, count - done, in + done, group);                                                         \
            through = tacit__sieve(&own, group, first + done, count - done, isa);                                                \
            if (through) {                                                                                                       \
                tacit__sieve_sample(&own, group, first + done, count - done);                                                    \
                done = count;                                                                                                    \
            }                                                                                                                    \
        }                                                                                                                        \
        if (!through) {                                                                                                          \
            memcpy(own.group, group, lanes * sizeof *group);                                                                     \
        }                                                                                                                        \
        *sieve = own;                                                                                                            \
        return done;                                                                                                             \
    }                                                                                                                            \
    TACIT_EACH_ISA_KNOWN(size_t, sift,                                                                                           \
                         (const state_t *state, size_t first, size_t count, const float *in, tacit_sieve_t *sieve), state,       \
                         first, count, in, sieve)

/* ---- A selection on its way ---- */

/* Belongs to the codec of one tensor: memory for the sieve, which is kept, what a selection remembers from its beginning to its
   end, and what it has learnt for the next step, which may make that one quicker but never another. */
typedef struct tacit_selection {
    tacit_sieve_t sieve;
    size_t        room, sample_room; /* of the sieve */
    float        *kept;              /* for feedback, of each entry */
    float        *a;                 /* the tensor as it comes out; NULL: it is not kept */
    bool          taken;             /* in a[], 0 takes the place of all that is chosen */
    size_t        count, keep;       /* of the tensor, and the most that are chosen */
    size_t        sample_keep;       /* the threshold is the sample's sample_keep-th largest magnitude; 0: there is no sample */
    uint32_t      threshold;         /* that one, bits; 0: none */
    int           lowered;           /* how often it has been */
    uint32_t      guess;             /* the threshold in the sieve that may be too high */
    uint32_t      foretold;          /* what is expected to be the smallest chosen; 0: not known */
    size_t        taken_from;        /* entries from here on, if they are at least `sure`, are 0 in a[] already */
    size_t        learn_at;          /* elements after which the thresholds are set anew */
    int           rounds;            /* that went before */
    float         last;              /* the smallest magnitude chosen in the last step; 0: not known */
    float         early, last_early; /* what the beginning of the tensor let expect of it, now and then; 0: not known */
} tacit_selection_t;

/* What is 0 in a[] by now goes back. */
static inline void tacit__selection_put_back(tacit_selection_t *selection)
{
    tacit_sieve_t *sieve = &selection->sieve;

    for (size_t i = selection->taken_from; selection->taken && i < sieve->used; i++) {
        if ((tacit__float_bits(sieve->values[i]) & 0x7fffffffu) >= sieve->sure) {
            selection->a[sieve->indices[i]] = sieve->values[i];
        }
    }
    selection->taken_from = SIZE_MAX;
    sieve->sure = TACIT_SURE_NONE;
}

#endif
