/* SPDX-License-Identifier: Apache-2.0 */
/* Levels to bits: 8 elements form a little-endian integer of `bits` bytes, element j at its bits j * bits and up. */
#ifndef TACIT_LEVELS_H
#define TACIT_LEVELS_H

#include "bits.h"

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

/* Writes the TACIT_LANES / 8 * bits bytes of 64 levels, and rubbish in up to 8 bytes behind them. */
static inline void tacit__pack_lanes(const uint8_t *levels, unsigned bits, uint8_t *bytes)
{
    uint64_t eights[TACIT_LANES / 8];

    memcpy(eights, levels, sizeof eights);
    for (size_t group = 0; group < TACIT_LANES / 8; group++) {
        eights[group] = tacit__pack8(eights[group], bits);
    }
    for (size_t group = 0; group < TACIT_LANES / 8; group++) {
        memcpy(bytes + group * bits, &eights[group], sizeof *eights);
    }
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

#endif
