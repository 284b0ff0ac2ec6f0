/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of packed memory (packed.h), one number at a time; for kernels too. */
#ifndef TACIT_PACKED_NUMBER_H
#define TACIT_PACKED_NUMBER_H

#include "../compressors/bits.h"

#include <stdbool.h>

enum {
    TACIT_PACKED_BLOCK = 8, /* elements of int8 that share a scale, and of all that share a draw of random numbers */
    TACIT_PACKED_BYTES = 1 + TACIT_PACKED_BLOCK,
    TACIT_PACKED_BIAS = 133,
    TACIT_PACKED_MOST = 122, /* the largest scale */
    TACIT_PACKED_CODE = 127  /* … and code */
};

/* The bits of a value, or of zero if it is not finite. */
TACIT_DEVICE static inline uint32_t tacit__packed_bits(float value)
{
    const uint32_t bits = tacit__float_bits(value);

    return (bits & 0x7f800000u) != 0x7f800000u ? bits : 0;
}

/* random: below 2^16. The largest numbers do not become infinite. */
TACIT_DEVICE static inline uint16_t tacit__pack_bfloat16(float value, uint32_t random)
{
    const uint32_t bits = tacit__packed_bits(value), sum = bits + random;

    return (uint16_t)(((sum & 0x7f800000u) != 0x7f800000u ? sum : bits) >> 16);
}

/* 2^exponent, exponent from -133 to 122. */
TACIT_DEVICE static inline float tacit__packed_unit(int exponent)
{
    return tacit__bits_float(exponent < -126 ? 1u << (exponent + 149) : (uint32_t)(exponent + 127) << 23);
}

TACIT_DEVICE static inline double tacit__packed_power(int exponent)
{
    const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double         power;

    memcpy(&power, &bits, sizeof power);
    return power;
}

/* The least exponent e, from -133, for which a magnitude, given by its bits, is at most 127 x 2^e: by its own exponent, and one
   more where it is above 127/128 of the next power of two. */
TACIT_DEVICE static inline int tacit__packed_scale(uint32_t magnitude)
{
    const int      exponent = (int)(magnitude >> 23);
    const uint32_t mantissa = magnitude & 0x7fffffu;

    return exponent == 0 ? -TACIT_PACKED_BIAS + (mantissa > 0x7f0000u) : exponent - TACIT_PACKED_BIAS + (mantissa > 0x7e0000u);
}

/* A block's scale byte. */
TACIT_DEVICE static inline uint8_t tacit__packed_byte(uint32_t largest, int scale)
{
    return largest != 0 ? (uint8_t)(scale + TACIT_PACKED_BIAS) : 0;
}

/* The code of a finite value: rounded down after a random number below 1, in 2^-16, is added. power: 2^-scale. */
TACIT_DEVICE static inline int8_t tacit__pack_code(double value, double power, int scale, uint32_t random)
{
    const int limit = scale == TACIT_PACKED_MOST ? TACIT_PACKED_CODE / 2 : TACIT_PACKED_CODE; /* 64 x 2^122 is infinite */
    const int code = (int)(value * power + (double)(int)random * 0x1p-16 + 128) - 128;

    return (int8_t)(code > limit ? limit : code < -limit ? -limit : code);
}

/* Of the four words that a block draws, the number of its i-th element. */
TACIT_DEVICE static inline uint32_t tacit__packed_random(const uint32_t words[4], unsigned i)
{
    return i % 2 == 0 ? words[i / 2] & 0xffff : words[i / 2] >> 16;
}

#endif
