/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of `rotq`, one number at a time. */
#ifndef TACIT_ROTQ_H
#define TACIT_ROTQ_H

#include "bits.h"

enum { TACIT_ROTQ_BITS = 4, TACIT_ROTQ_MAGNITUDES = 1 << (TACIT_ROTQ_BITS - 1) };

/* The levels with the least mean square error for N(0, 1), symmetric about 0, and zeros: each is the mean of the numbers nearest
   to it, which has no closed form; the iteration of Lloyd and Max, run in float64 until nothing moves. */
#define TACIT_ROTQ_1                                                                                                             \
    {                                                                                                                            \
        0.797884561f                                                                                                             \
    }
#define TACIT_ROTQ_2                                                                                                             \
    {                                                                                                                            \
        0.452780035f, 1.51041761f                                                                                                \
    }
#define TACIT_ROTQ_3                                                                                                             \
    {                                                                                                                            \
        0.245094179f, 0.756005281f, 1.34390928f, 2.15194571f                                                                     \
    }
#define TACIT_ROTQ_4                                                                                                             \
    {                                                                                                                            \
        0.12839503f, 0.3880483f, 0.656759119f, 0.942340457f, 1.2562312f, 1.61804639f, 2.06901723f, 2.73258957f                   \
    }

/* Magnitude m with so many bits: a constant, where both are. */
TACIT_DEVICE static inline float tacit__rotq_magnitude(unsigned bits, unsigned m)
{
    const float one[TACIT_ROTQ_MAGNITUDES] = TACIT_ROTQ_1, two[TACIT_ROTQ_MAGNITUDES] = TACIT_ROTQ_2;
    const float three[TACIT_ROTQ_MAGNITUDES] = TACIT_ROTQ_3, four[TACIT_ROTQ_MAGNITUDES] = TACIT_ROTQ_4;

    return bits == 1 ? one[m] : bits == 2 ? two[m] : bits == 3 ? three[m] : four[m];
}

/* What lies between magnitudes m - 1 and m of numbers whose root mean square is `unit`. */
TACIT_DEVICE static inline float tacit__rotq_border(unsigned bits, unsigned m, float unit)
{
    return (tacit__rotq_magnitude(bits, m - 1) + tacit__rotq_magnitude(bits, m)) * 0.5f * unit;
}

/* The bits of the power of two that brings a block, whose largest magnitude has these bits, to between 2 and 4 (less if that is
   subnormal), where neither squares nor sums leave the range of float32. */
TACIT_DEVICE static inline uint32_t tacit__rotq_normalizer(uint32_t largest)
{
    return (255 - (largest >> 23)) << 23;
}

/* Of the centres: with products of centres and numbers, and squares of centres, summed. No block is worse off than if nothing
   were sent. The inverse of the normalizer may be subnormal itself: half of it twice. */
TACIT_DEVICE static inline float tacit__rotq_scale(float products, float squares, uint32_t normalizer, float count)
{
    const float scale = products / (squares * count);

    return scale * 0.5f * tacit__bits_float((255u << 23) - normalizer);
}

#endif
