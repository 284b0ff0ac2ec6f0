/* SPDX-License-Identifier: Apache-2.0 */
/* Packs and unpacks memory.

   bf16  the upper half of the float, after a random number below 2^16 has been added to the lower one.
   int8  nine bytes for a block of 8 elements: a byte s, then eight codes in two's complement; a value is code x 2^(s - 133). The
         scale is the smallest that holds the largest magnitude within 127. */
#include "packed.h"

#include <string.h>

#include "bits.h"

enum { BLOCK = TACIT_PACKED_BLOCK, BLOCK_BYTES = 1 + BLOCK, SCALE_BIAS = 133, LARGEST_SCALE = 122, LARGEST_CODE = 127 };

size_t tacit__packed_bytes(tacit_precision_t precision, size_t count)
{
    return precision == TACIT_PRECISION_BF16   ? count * sizeof(uint16_t)
           : precision == TACIT_PRECISION_INT8 ? (count + BLOCK - 1) / BLOCK * BLOCK_BYTES
                                               : count * sizeof(float);
}

/* Eight numbers below 2^16 for the eight elements of a block. */
static void draw(const tacit_stream_t *stream, uint64_t block, uint32_t random[BLOCK])
{
    uint32_t words[4];

    tacit__random4(stream, block, words);
    for (size_t i = 0; i < BLOCK; i++) {
        random[i] = i % 2 == 0 ? words[i / 2] & 0xffff : words[i / 2] >> 16;
    }
}

static bool is_finite_bits(uint32_t bits)
{
    return (bits & 0x7f800000u) != 0x7f800000u;
}

/* 2^exponent, exponent from -133 to 122. */
static float float_power(int exponent)
{
    return tacit__bits_float(exponent < -126 ? 1u << (exponent + 149) : (uint32_t)(exponent + 127) << 23);
}

static double double_power(int exponent)
{
    const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double         power;

    memcpy(&power, &bits, sizeof power);
    return power;
}

static void pack_bfloat16(const uint32_t random[BLOCK], const float values[BLOCK], uint8_t *packed)
{
    uint16_t halves[BLOCK];

    for (size_t i = 0; i < BLOCK; i++) {
        const uint32_t given = tacit__float_bits(values[i]), bits = is_finite_bits(given) ? given : 0, sum = bits + random[i];

        halves[i] = (uint16_t)((is_finite_bits(sum) ? sum : bits) >> 16); /* the largest numbers do not become infinite */
    }
    memcpy(packed, halves, sizeof halves);
}

/* The least exponent e, from -133, for which a magnitude, given by its bits, is at most 127 x 2^e: by its own exponent, and one
   more where it is above 127/128 of the next power of two. */
static int scale_of(uint32_t magnitude)
{
    const int      exponent = (int)(magnitude >> 23);
    const uint32_t mantissa = magnitude & 0x7fffffu;

    return exponent == 0 ? -SCALE_BIAS + (mantissa > 0x7f0000u) : exponent - SCALE_BIAS + (mantissa > 0x7e0000u);
}

static void pack_int8(const uint32_t random[BLOCK], const float values[BLOCK], uint8_t *packed)
{
    uint32_t largest = 0;
    double   numbers[BLOCK], unit;
    int      scale, codes[BLOCK], limit;

    for (size_t i = 0; i < BLOCK; i++) {
        const uint32_t given = tacit__float_bits(values[i]), bits = is_finite_bits(given) ? given : 0;

        numbers[i] = (double)tacit__bits_float(bits);
        largest = largest > (bits & 0x7fffffffu) ? largest : bits & 0x7fffffffu;
    }
    scale = scale_of(largest);
    unit = double_power(-scale);
    limit = scale == LARGEST_SCALE ? LARGEST_CODE / 2 : LARGEST_CODE; /* 64 x 2^122 is infinite */
    for (size_t i = 0; i < BLOCK; i++) {
        codes[i] = (int)(numbers[i] * unit + (double)(int)random[i] * 0x1p-16 + 128) - 128; /* rounded down */
    }
    packed[0] = largest != 0 ? (uint8_t)(scale + SCALE_BIAS) : 0;
    for (size_t i = 0; i < BLOCK; i++) {
        const int code = codes[i] > limit ? limit : codes[i] < -limit ? -limit : codes[i];

        packed[1 + i] = (uint8_t)(int8_t)code;
    }
}

void tacit__pack(tacit_precision_t precision, const tacit_stream_t *stream, size_t first, size_t count, const float *values,
                 uint8_t *packed)
{
    uint8_t *at = packed + tacit__packed_bytes(precision, first);
    uint32_t random[BLOCK];

    for (size_t i = 0; i < count; i += BLOCK) {
        const size_t elements = count - i < BLOCK ? count - i : BLOCK;
        float        last[BLOCK] = {0};
        uint8_t      bytes[BLOCK * sizeof(uint16_t)];
        const bool   whole = elements == BLOCK;

        if (!whole) {
            memcpy(last, values + i, elements * sizeof *values);
        }
        draw(stream, (first + i) / BLOCK, random);
        if (precision == TACIT_PRECISION_BF16) {
            pack_bfloat16(random, whole ? values + i : last, whole ? at : bytes);
        } else {
            pack_int8(random, whole ? values + i : last, whole ? at : bytes);
        }
        if (!whole) {
            memcpy(at, bytes, tacit__packed_bytes(precision, elements));
        }
        at += tacit__packed_bytes(precision, elements);
    }
}

void tacit__unpack(tacit_precision_t precision, size_t first, size_t count, const uint8_t *packed, float *values)
{
    const uint8_t *at = packed + tacit__packed_bytes(precision, first);

    for (size_t i = 0; precision == TACIT_PRECISION_BF16 && i < count; i++) {
        uint16_t half;

        memcpy(&half, at + i * sizeof half, sizeof half);
        values[i] = tacit__bits_float((uint32_t)half << 16);
    }
    for (size_t i = 0; precision == TACIT_PRECISION_INT8 && i < count; i += BLOCK, at += BLOCK_BYTES) {
        const float unit = float_power(at[0] - SCALE_BIAS);

        for (size_t j = 0; j < BLOCK && i + j < count; j++) {
            values[i + j] = (float)(int8_t)at[1 + j] * unit;
        }
    }
}
