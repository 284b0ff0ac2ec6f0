/* SPDX-License-Identifier: Apache-2.0 */
/* Levels to bits: 8 elements form a little-endian integer of `bits` bytes, element j at its bits j * bits and up. */
#ifndef TACIT_LEVELS_H
#define TACIT_LEVELS_H

#include "bits.h"
#include "isa.h"
#include "lanes.h"

#include <stddef.h>

/* 8 bytes, each below 2^bits, to and from 8 * bits bits, in three halvings. */
static inline uint64_t tacit__pack8(uint64_t levels, unsigned bits)
{
    levels = (levels & 0x00ff00ff00ff00ffu) | (levels >> 8 & 0x00ff00ff00ff00ffu) << bits;
    levels = (levels & 0x0000ffff0000ffffu) | (levels >> 16 & 0x0000ffff0000ffffu) << 2 * bits;
    return (levels & 0x00000000ffffffffu) | levels >> 32 << 4 * bits;
}

static inline uint64_t tacit__unpack8(uint64_t packed, unsigned bits)
{
    const uint64_t four = ((uint64_t)1 << 4 * bits) - 1;
    const uint64_t two = (((uint64_t)1 << 2 * bits) - 1) * 0x0000000100000001u;
    const uint64_t one = (((uint64_t)1 << bits) - 1) * 0x0001000100010001u;

    packed = (packed & four) | (packed >> 4 * bits & four) << 32;
    packed = (packed & two) | (packed >> 2 * bits & two) << 16;
    return (packed & one) | (packed >> bits & one) << 8;
}

/* 64 levels to their 8 * bits bytes. */
static inline void tacit__pack_lanes_plain(const uint8_t *levels, unsigned bits, uint8_t *bytes)
{
    uint64_t eights[TACIT_LANES / 8];
    uint8_t  packed[TACIT_LANES + 8]; /* each store writes rubbish behind what it is for */

    memcpy(eights, levels, sizeof eights);
    for (size_t group = 0; group < TACIT_LANES / 8; group++) {
        eights[group] = tacit__pack8(eights[group], bits);
    }
    for (size_t group = 0; group < TACIT_LANES / 8; group++) {
        memcpy(packed + group * bits, &eights[group], sizeof *eights);
    }
    memcpy(bytes, packed, TACIT_LANES / 8 * bits);
}

#ifdef TACIT_ON_X86
TACIT_TARGET_AVX2 static inline void tacit__pack_lanes_avx2(const uint8_t *levels, unsigned bits, uint8_t *bytes)
{
    const __m256i one = _mm256_loadu_si256((const __m256i *)(const void *)levels);
    const __m256i other = _mm256_loadu_si256((const __m256i *)(const void *)(levels + 32));

    if (bits == 4) { /* pairs become words below 256, which are packed once more */
        const __m256i pair = _mm256_set1_epi16(0x1001);
        const __m256i pairs = _mm256_packus_epi16(_mm256_maddubs_epi16(one, pair), _mm256_maddubs_epi16(other, pair));
        _mm256_storeu_si256((__m256i *)(void *)bytes, _mm256_permute4x64_epi64(pairs, 0xd8));
    } else if (bits == 2) {
        const __m256i pair = _mm256_set1_epi16(0x0401), pairs = _mm256_set1_epi32(0x00100001);
        const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(one, pair), pairs);
        const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(other, pair), pairs);
        const __m256i fours = _mm256_packus_epi16(_mm256_packus_epi32(low, high), _mm256_setzero_si256());
        _mm_storeu_si128((__m128i *)(void *)bytes,
                         _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(fours, _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0))));
    } else if (bits == 8) {
        _mm256_storeu_si256((__m256i *)(void *)bytes, one);
        _mm256_storeu_si256((__m256i *)(void *)(bytes + 32), other);
    } else {
        tacit__pack_lanes_plain(levels, bits, bytes);
    }
}
#endif

TACIT_ALWAYS_INLINE void tacit__pack_lanes(tacit_isa_t isa, const uint8_t *levels, unsigned bits, uint8_t *bytes)
{
    TACIT_X86(if (isa != TACIT_ISA_SCALAR) { tacit__pack_lanes_avx2(levels, bits, bytes); } else)
    tacit__pack_lanes_plain(levels, bits, bytes);
}

/* Reads the TACIT_LANES / 8 * bits bytes of 64 levels, and does not use up to 8 bytes behind them. */
static inline void tacit__unpack_lanes(const uint8_t *bytes, unsigned bits, uint8_t *levels)
{
    uint64_t eights[TACIT_LANES / 8];

    for (size_t group = 0; group < TACIT_LANES / 8; group++) {
        memcpy(&eights[group], bytes + group * bits, sizeof *eights);
    }
    for (size_t group = 0; group < TACIT_LANES / 8; group++) {
        eights[group] = tacit__unpack8(eights[group], bits);
    }
    memcpy(levels, eights, sizeof eights);
}

/* 8 levels of up to 4 bits; 4 bytes are read. */
TACIT_ALWAYS_INLINE void tacit__unpack_words(const uint8_t *bytes, unsigned bits, tacit_words_t *levels)
{
    const tacit_words_t shifts = {0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits};

    *levels = ((tacit_words_t){0} + tacit__load32(bytes)) >> shifts & ((1u << bits) - 1);
}

#endif
