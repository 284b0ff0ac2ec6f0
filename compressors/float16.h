/* SPDX-License-Identifier: Apache-2.0 */
/* float16 and bfloat16, single values. Results are those of IEEE 754 whatever the processor, also where it flushes subnormals to
   zero. Rounding is to the nearest, ties to even. */
#ifndef TACIT_FLOAT16_H
#define TACIT_FLOAT16_H

#include "bits.h"

/* NaN stays NaN, quiet, with the upper bits of its payload, as processors convert it. */
TACIT_DEVICE static inline float tacit__from_float16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = (uint32_t)(half & 0x7fff) << 13;
    const uint32_t normal = magnitude + 0x38000000u; /* the exponent's bias grows from 15 to 127 */
    const uint32_t special = magnitude | 0x7f800000u | (magnitude > 0x0f800000u ? 0x00400000u : 0);
    /* A subnormal m 2^-24 becomes the fraction of 2^-14 + m 2^-24, from which 2^-14 is taken. */
    const uint32_t subnormal = tacit__float_bits(tacit__bits_float(magnitude + 0x38800000u) - 0x1p-14f);
    const uint32_t finite = magnitude < 0x00800000u ? subnormal : normal;

    return tacit__bits_float(sign | (magnitude < 0x0f800000u ? finite : special));
}

/* Finite magnitudes from 65520 on become `overflow`: infinity, 0x7c00, or the largest finite number, 0x7bff. */
TACIT_DEVICE static inline uint16_t tacit__to_float16(float value, uint32_t overflow)
{
    const uint32_t bits = tacit__float_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    /* Half an ulp less one, and one more if the last kept bit is odd, carries up exactly where the nearest is above. */
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
    /* Below 2^-14: 0.5 has the ulp that 2^-24, the smallest float16, is; the addition rounds, the fraction is the result. */
    const uint32_t subnormal = tacit__float_bits(tacit__bits_float(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t nan = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t special = magnitude > 0x7f800000u ? nan : 0x7c00u;
    const uint32_t large = magnitude < 0x7f800000u ? overflow : special;

    return (uint16_t)(sign | (magnitude < 0x477ff000u ? finite : large));
}

TACIT_DEVICE static inline float tacit__from_bfloat16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;

    return tacit__bits_float((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x00400000u : bits);
}

/* As tacit__to_float16(), with infinity 0x7f80 and 0x7f7f the largest finite number. */
TACIT_DEVICE static inline uint16_t tacit__to_bfloat16(float value, uint32_t overflow)
{
    const uint32_t bits = tacit__float_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    const uint32_t finite = (magnitude + 0x7fffu + (magnitude >> 16 & 1)) >> 16;
    const uint32_t special = magnitude >> 16 | (magnitude > 0x7f800000u ? 0x40u : 0);
    const uint32_t large = magnitude < 0x7f800000u ? overflow : special;

    return (uint16_t)(sign | (magnitude < 0x7f7f8000u ? finite : large));
}

#endif
