/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of fp16 and bf16 share: every one of 65536 numbers, and every border between two of them. */
#ifndef TACIT_TEST_ROUNDING_H
#define TACIT_TEST_ROUNDING_H

#include "compress.h"

typedef struct format {
    int      fraction_bits, lowest_exponent; /* of the smallest normal number */
    uint16_t infinity;
    void (*widen)(const uint16_t *in, float *out, size_t count);
    void (*narrow)(const float *in, uint16_t *out, size_t count);
} format_t;

enum { ALL = 65536 };

/* A number alone, and in the midst of others, where vector instructions come in. */
enum { OTHERS = 16 };

static inline uint16_t narrow_one(const format_t *format, float value)
{
    float    values[OTHERS];
    uint16_t halves[OTHERS], alone;

    for (size_t i = 0; i < OTHERS; i++) {
        values[i] = value;
    }
    format->narrow(&value, &alone, 1);
    format->narrow(values, halves, OTHERS);
    for (size_t i = 0; i < OTHERS; i++) {
        ck_assert_msg(halves[i] == alone, "%a becomes %04x alone, %04x among others", (double)value, alone, halves[i]);
    }
    return alone;
}

static inline float widen_one(const format_t *format, uint16_t half)
{
    float value;

    format->widen(&half, &value, 1);
    return value;
}

/* By definition: fraction * 2^(exponent - fraction_bits). */
static inline double value_of(const format_t *format, uint16_t half)
{
    const int    fraction = half & ((1 << format->fraction_bits) - 1), field = (half & 0x7fff) >> format->fraction_bits;
    const int    implied = field > 0 ? 1 << format->fraction_bits : 0;
    const int    exponent = (field > 0 ? field - 1 : 0) + format->lowest_exponent - format->fraction_bits;
    const double magnitude = ldexp(implied + fraction, exponent);

    return half & 0x8000 ? -magnitude : magnitude;
}

static inline void check_every_number(const format_t *format)
{
    uint16_t *halves = malloc(ALL * sizeof *halves), *back = malloc(ALL * sizeof *back);
    float    *values = malloc(ALL * sizeof *values);
    size_t    wrong = 0;

    for (size_t i = 0; i < ALL; i++) {
        halves[i] = (uint16_t)i;
    }
    format->widen(halves, values, ALL);
    format->narrow(values, back, ALL);
    for (size_t i = 0; i < ALL; i++) {
        const uint16_t half = halves[i], magnitude = half & 0x7fff;
        const uint16_t quiet = magnitude > format->infinity ? (uint16_t)(1u << (format->fraction_bits - 1)) : 0;
        wrong += back[i] != (half | quiet) || tacit__float_bits(values[i]) != tacit__float_bits(widen_one(format, half));
        if (magnitude > format->infinity) {
            const uint32_t bits = tacit__float_bits(values[i]);
            wrong += !isnan(values[i]) || (bits & 0x00400000u) == 0 || bits >> 31 != (uint32_t)half >> 15;
        } else {
            const double expected =
                magnitude == format->infinity ? (half & 0x8000 ? -INFINITY : INFINITY) : value_of(format, half);
            wrong += tacit__float_bits(values[i]) != tacit__float_bits((float)expected);
        }
        ck_assert_msg(wrong == 0, "%04zx becomes %a and back %04x", i, (double)values[i], back[i]);
        wrong = 0;
    }
    free(halves);
    free(back);
    free(values);
}

/* Between two neighbours: the middle goes to the even one, and the floats beside it to the nearer one. Above the largest finite
   number the next would be 2^(exponent + 1), and infinity is what it is called. */
static inline void check_every_border(const format_t *format)
{
    for (uint32_t half = 0; half < format->infinity; half++) {
        const uint16_t above = (uint16_t)(half + 1), even = half & 1 ? above : (uint16_t)half;
        const double   low = value_of(format, (uint16_t)half), high = value_of(format, above);
        const float    middle = (float)((low + high) / 2);
        const bool     right = narrow_one(format, middle) == even && narrow_one(format, -middle) == (0x8000 | even) &&
                           narrow_one(format, nextafterf(middle, 0)) == half &&
                           narrow_one(format, nextafterf(middle, INFINITY)) == above &&
                           narrow_one(format, -nextafterf(middle, 0)) == (0x8000 | half) &&
                           narrow_one(format, -nextafterf(middle, INFINITY)) == (0x8000 | above);
        ck_assert_msg(right, "near %a, between %04x and %04x", (double)middle, half, above);
    }
    ck_assert_uint_eq(narrow_one(format, FLT_MAX), format->infinity);
    ck_assert_uint_eq(narrow_one(format, 0x1p-149f), 0);
}

/* As a compressor: too large is the largest finite number, infinity and NaN stay, and payloads are the narrow numbers. */
static inline void check_codec(const format_t *format, const char *name, float largest)
{
    static const float values[] = {INFINITY, -INFINITY, NAN, FLT_MAX, -FLT_MAX, 1.0f, -0.0f, 0x1p-149f, 1.00390625f};
    enum { COUNT = 64 + COUNT_OF(values) };
    tacit_spec_t  spec = spec_of(name);
    tacit_block_t block = block_of(&spec, 0, COUNT);
    float         a[COUNT] = {0}, decoded[COUNT];
    uint8_t       payload[2 * COUNT];
    uint16_t      halves[COUNT];

    memcpy(a + 10, values, sizeof values);
    memcpy(a + 64, values, sizeof values);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), TACIT_FAULT_NONFINITE);
    for (size_t i = 10; i <= 64; i += 54) {
        ck_assert(decoded[i] == INFINITY && decoded[i + 1] == -INFINITY && isnan(decoded[i + 2]));
        ck_assert(decoded[i + 3] == largest && decoded[i + 4] == -largest && decoded[i + 5] == 1);
        ck_assert(tacit__float_bits(decoded[i + 6]) == 0x80000000u);
    }
    for (size_t i = 0; i < COUNT; i++) {
        a[i] = fabsf(a[i]) <= largest ? a[i] : 3.14159265f;
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    format->narrow(a, halves, COUNT);
    same_bytes(payload, halves, sizeof halves, name);
    tacit__spec_release(&spec);
}

#endif
