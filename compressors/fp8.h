/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of `fp8`, one number at a time. */
#ifndef TACIT_FP8_H
#define TACIT_FP8_H

#include "bits.h"

enum { TACIT_FP8_E4M3, TACIT_FP8_E5M2 };
enum {
    TACIT_FP8_NOT_FINITE = 255,   /* the scale byte */
    TACIT_FP8_BIAS = 127,         /* of a float's exponent */
    TACIT_FP8_FRACTION = 0x600000 /* both formats end at 1.75 times a power of two, which leaves e4m3 its NaN */
};

/* What the two formats differ in. Scales are such that what is subnormal as float32 becomes zero, whatever the processor does
   with such numbers, and that no finite payload of ours decodes to infinity. */
typedef struct tacit_fp8 {
    int      fraction_bits, bias;
    uint32_t largest, first_nan;          /* codes; infinity counts as NaN here */
    int      lowest_scale, highest_scale; /* exponents */
} tacit_fp8_t;

TACIT_DEVICE static inline tacit_fp8_t tacit__fp8(int format)
{
    const tacit_fp8_t e4m3 = {3, 7, 0x7e, 0x7f, -116, 119}, e5m2 = {2, 15, 0x7b, 0x7c, -109, 112};

    return format == TACIT_FP8_E4M3 ? e4m3 : e5m2;
}

/* A power of two from 2^-126 to 2^127. */
TACIT_DEVICE static inline float tacit__fp8_power(int exponent)
{
    return tacit__bits_float((uint32_t)(exponent + TACIT_FP8_BIAS) << 23);
}

/* The scale byte for a block whose largest magnitude has these bits. */
TACIT_DEVICE static inline uint8_t tacit__fp8_scale(uint32_t largest, tacit_fp8_t format)
{
    const int largest_exponent = (int)(format.largest >> format.fraction_bits) - format.bias;
    int       exponent = (int)(largest >> 23) - TACIT_FP8_BIAS - largest_exponent + ((largest & 0x7fffffu) > TACIT_FP8_FRACTION);

    if (largest >= 0x7f800000u) {
        return TACIT_FP8_NOT_FINITE;
    }
    exponent = exponent > format.lowest_scale ? exponent : format.lowest_scale;
    exponent = exponent < format.highest_scale ? exponent : format.highest_scale;
    return (uint8_t)(exponent + TACIT_FP8_BIAS);
}

/* What codes are multiplied with. Any byte: 0, which no encoder writes, makes all values zero. */
TACIT_DEVICE static inline float tacit__fp8_unit(uint8_t scale)
{
    return tacit__bits_float(scale == TACIT_FP8_NOT_FINITE ? TACIT_FLOAT_NAN : (uint32_t)scale << 23);
}

/* The code of a finite number, to the nearest, ties to even, magnitudes above the largest becoming it; *value_out is what it
   stands for. The ulp of `anchor` is that of the code: adding it rounds, and what the sum has above it is the fraction, with a
   bit in front that carries into the exponent. Of subnormal codes it is the smallest normal ones' ulp, and the fraction is all
   there is. Positive numbers are ordered as their bits. */
TACIT_DEVICE static inline uint8_t tacit__fp8_code(float number, tacit_fp8_t format, float *value_out)
{
    const int      cut = 23 - format.fraction_bits;
    const uint32_t bias = (uint32_t)(TACIT_FP8_BIAS - format.bias) << 23, smallest = bias + (1u << 23);
    const uint32_t largest = (format.largest << cut) + bias;
    const uint32_t bits = tacit__float_bits(number), sign = bits & 0x80000000u, exponent = bits & 0x7f800000u;
    const uint32_t floor = exponent > smallest ? exponent : smallest, anchor = floor + ((uint32_t)cut << 23);
    const float    sum = tacit__bits_float(bits ^ sign) + tacit__bits_float(anchor);
    const uint32_t value = tacit__float_bits(sum - tacit__bits_float(anchor));
    const uint32_t code = tacit__float_bits(sum) - anchor + (floor >> cut) - (smallest >> cut);

    *value_out = tacit__bits_float(sign | (value < largest ? value : largest));
    return (uint8_t)(sign >> 24 | (code < format.largest ? code : format.largest));
}

/* What a code stands for. A subnormal becomes the fraction of the smallest normal number, which is taken away again. */
TACIT_DEVICE static inline float tacit__fp8_value(uint8_t code, tacit_fp8_t format)
{
    const uint32_t magnitude = code & 0x7fu, shifted = magnitude << (23 - format.fraction_bits);
    const float    smallest = tacit__fp8_power(1 - format.bias);
    const uint32_t subnormal = tacit__float_bits(tacit__bits_float(shifted + tacit__float_bits(smallest)) - smallest);
    const uint32_t normal = shifted + ((uint32_t)(TACIT_FP8_BIAS - format.bias) << 23);
    const uint32_t finite = magnitude < 1u << format.fraction_bits ? subnormal : normal;

    return tacit__bits_float((code & 0x80u) << 24 | (magnitude < format.first_nan ? finite : TACIT_FLOAT_NAN));
}

#endif
