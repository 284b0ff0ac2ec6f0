/* SPDX-License-Identifier: Apache-2.0 */
/* Packs and unpacks memory.

   bf16  the upper half of the float, after a random number below 2^16 has been added to the lower one.
   int8  nine bytes for a block of 8 elements: a byte s, then eight codes in two's complement; a value is code x 2^(s - 133). The
         scale is the smallest that holds the largest magnitude within 127. */
#include "packed.h"

#include <string.h>

enum { BLOCK = TACIT_PACKED_BLOCK, BLOCK_BYTES = TACIT_PACKED_BYTES };

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
        random[i] = tacit__packed_random(words, (unsigned)i);
    }
}

static void pack_bfloat16(const uint32_t random[BLOCK], const float values[BLOCK], uint8_t *packed)
{
    uint16_t halves[BLOCK];

    for (size_t i = 0; i < BLOCK; i++) {
        halves[i] = tacit__pack_bfloat16(values[i], random[i]);
    }
    memcpy(packed, halves, sizeof halves);
}

static void pack_int8(const uint32_t random[BLOCK], const float values[BLOCK], uint8_t *packed)
{
    uint32_t largest = 0;
    double   numbers[BLOCK], power;
    int      scale;
    int8_t   codes[BLOCK];

    for (size_t i = 0; i < BLOCK; i++) {
        const uint32_t bits = tacit__packed_bits(values[i]);

        numbers[i] = (double)tacit__bits_float(bits);
        largest = largest > (bits & 0x7fffffffu) ? largest : bits & 0x7fffffffu;
    }
    scale = tacit__packed_scale(largest);
    power = tacit__packed_power(-scale);
    for (size_t i = 0; i < BLOCK; i++) {
        codes[i] = tacit__pack_code(numbers[i], power, scale, random[i]);
    }
    packed[0] = tacit__packed_byte(largest, scale);
    memcpy(packed + 1, codes, sizeof codes);
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

void tacit__packed_forget(tacit_precision_t precision, size_t element, uint8_t *packed)
{
    if (precision == TACIT_PRECISION_BF16) {
        memset(packed + element * sizeof(uint16_t), 0, sizeof(uint16_t));
    } else {
        packed[element / BLOCK * BLOCK_BYTES + 1 + element % BLOCK] = 0;
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
        const float unit = tacit__packed_unit(at[0] - TACIT_PACKED_BIAS);

        for (size_t j = 0; j < BLOCK && i + j < count; j++) {
            values[i + j] = (float)(int8_t)at[1 + j] * unit;
        }
    }
}
