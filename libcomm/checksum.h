/* SPDX-License-Identifier: Apache-2.0 */
/* What a word adds to the checksum of a payload, wherever that is computed: doc/wire-format.md, "Payload checksum". */
#ifndef TACIT_CHECKSUM_H
#define TACIT_CHECKSUM_H

#include <stdint.h>

#include "device_code.h"

#define TACIT_CHECKSUM_PLACE 0x9e3779b1u  /* the place of a word, … */
#define TACIT_CHECKSUM_LENGTH 0xc2b2ae35u /* … and a payload's bytes, are multiplied by it */

/* Every step is invertible, so that no two words are alike in one place. */
TACIT_DEVICE static inline uint32_t tacit__checksum_mix(uint32_t placed)
{
    placed ^= placed >> 16;
    placed *= 0x85ebca6bu;
    return placed ^ placed >> 15;
}

/* Of the index-th word, counted modulo 2^32. */
TACIT_DEVICE static inline uint32_t tacit__checksum_term(uint32_t word, uint32_t index)
{
    return tacit__checksum_mix(word + index * TACIT_CHECKSUM_PLACE);
}

#endif
