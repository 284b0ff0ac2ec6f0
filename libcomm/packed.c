/* SPDX-License-Identifier: Apache-2.0 */
/* Packs and unpacks memory.

   bf16  the upper half of the float, after a random number below 2^16 has been added to the lower one.
   int8  nine bytes for a block of 8 elements: a byte s, then eight codes in two's complement; a value is code x 2^(s - 133). The
         scale is the smallest that holds the largest magnitude within 127. */
#include "packed.h"

#include <math.h>
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

static bool is_finite(float value)
{
    return (tacit__float_bits(value) & 0x7f800000u) != 0x7f800000u;
}

static uint16_t to_bfloat16(float value, uint32_t random)
{
    uint32_t bits = is_finite(value) ? tacit__float_bits(value) : 0;
    uint32_t sum = bits + random;

    return (uint16_t)((is_finite(tacit__bits_float(sum)) ? sum : bits) >> 16); /* the largest numbers do not become infinite */
}

static void pack_bfloat16(const uint32_t random[BLOCK], size_t count, const float *values, uint8_t *packed)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half = to_bfloat16(values[i], random[i]);

        memcpy(packed + i * sizeof half, &half, sizeof half);
    }
}

/* The exponent e, for which the magnitude is at most 127 x 2^e. */
static int scale_of(float magnitude)
{
    int exponent;

    (void)frexpf(magnitude, &exponent); /* magnitude < 2^exponent */
    exponent -= 7;
    return (double)magnitude > ldexp(LARGEST_CODE, exponent) ? exponent + 1 : exponent;
}

static void pack_int8(const uint32_t random[BLOCK], size_t count, const float *values, uint8_t *packed)
{
    float  largest = 0.0f;
    int    scale;
    double unit;

    memset(packed, 0, BLOCK_BYTES);
    for (size_t i = 0; i < count; i++) {
        largest = is_finite(values[i]) ? fmaxf(largest, fabsf(values[i])) : largest;
    }
    if (largest == 0.0f) {
        return;
    }
    scale = scale_of(largest) > -SCALE_BIAS ? scale_of(largest) : -SCALE_BIAS;
    unit = ldexp(1.0, -scale);
    packed[0] = (uint8_t)(scale + SCALE_BIAS);
    for (size_t i = 0; i < count; i++) {
        double value = is_finite(values[i]) ? (double)values[i] : 0.0;
        double code = floor(value * unit + (double)random[i] * 0x1p-16);

        if (scale == LARGEST_SCALE) { /* 64 x 2^122 is infinite */
            code = fmax(-(LARGEST_CODE / 2), fmin(LARGEST_CODE / 2, code));
        }
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

        draw(stream, (first + i) / BLOCK, random);
        if (precision == TACIT_PRECISION_BF16) {
            pack_bfloat16(random, elements, values + i, at);
        } else {
            pack_int8(random, elements, values + i, at);
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
        const float unit = ldexpf(1.0f, at[0] - SCALE_BIAS);

        for (size_t j = 0; j < BLOCK && i + j < count; j++) {
            values[i + j] = (float)(int8_t)at[1 + j] * unit;
        }
    }
}
