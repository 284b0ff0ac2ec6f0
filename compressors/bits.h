/* SPDX-License-Identifier: Apache-2.0 */
/* Floats as bits, and words of a payload, which is little-endian and at any address. */
#ifndef TACIT_BITS_H
#define TACIT_BITS_H

#include "device_code.h"

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#define TACIT_ASSERT static_assert
#else
#define TACIT_ASSERT _Static_assert
#endif

TACIT_ASSERT(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "payloads are little-endian and copied as they are");

#define TACIT_ALWAYS_INLINE static inline __attribute__((always_inline))

/* Inner loops run over this many elements at a time: a constant that every vector width divides, so that compilers vectorize
   them at -O2. It is also the number of lanes of a block sum. */
enum { TACIT_LANES = 64 };

#define TACIT_FLOAT_NAN 0x7fc00000u /* the NaN that encoders write */

TACIT_DEVICE static inline uint32_t tacit__float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

TACIT_DEVICE static inline float tacit__bits_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The top bit is set if the value is NaN or infinity. To be ORed over many values. */
TACIT_DEVICE static inline uint32_t tacit__nonfinite_bit(float value)
{
    return (tacit__float_bits(value) & 0x7fffffffu) + 0x00800000u;
}

TACIT_DEVICE static inline uint16_t tacit__load16(const uint8_t *bytes)
{
    uint16_t word;

    memcpy(&word, bytes, sizeof word);
    return word;
}

TACIT_DEVICE static inline void tacit__store16(uint8_t *bytes, uint16_t word)
{
    memcpy(bytes, &word, sizeof word);
}

TACIT_DEVICE static inline uint32_t tacit__load32(const uint8_t *bytes)
{
    uint32_t word;

    memcpy(&word, bytes, sizeof word);
    return word;
}

TACIT_DEVICE static inline void tacit__store32(uint8_t *bytes, uint32_t word)
{
    memcpy(bytes, &word, sizeof word);
}

#endif
