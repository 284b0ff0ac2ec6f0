/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of `qsgd`, one number at a time. */
#ifndef TACIT_QSGD_H
#define TACIT_QSGD_H

#include "bits.h"

#include <stdbool.h>
#include <stddef.h>

/* Element values are minimum + unit * level. */
typedef struct tacit_qsgd {
    float unit, minimum;
} tacit_qsgd_t;

TACIT_DEVICE static inline float tacit__qsgd_top(unsigned bits)
{
    return (float)((1u << bits) - 1);
}

/* Of a block's least and greatest number. The unit is NaN if something is not finite: an element, or what the levels would decode
   to. */
TACIT_DEVICE static inline tacit_qsgd_t tacit__qsgd_between(float low, float high, bool finite, float top)
{
    /* Not -0: which of two zeros was met first is an accident. */
    tacit_qsgd_t scale = {((high - low) + 0.0f) / top, low + 0.0f};
    float        highest = scale.unit * top;

    highest += scale.minimum;
    if (!finite || tacit__nonfinite_bit(highest) >> 31) {
        scale.unit = scale.minimum = tacit__bits_float(TACIT_FLOAT_NAN);
    }
    return scale;
}

/* The level, with a unit above 0; `shift` is added before rounding down. Never negative. */
TACIT_DEVICE static inline uint8_t tacit__qsgd_level(float value, tacit_qsgd_t scale, float shift, float top)
{
    const float level = (value - scale.minimum) / scale.unit + shift;

    return (uint8_t)(int)(level < top ? level : top);
}

/* The product is rounded before it is added. */
TACIT_DEVICE static inline float tacit__qsgd_value(uint8_t level, tacit_qsgd_t scale)
{
    const float distance = scale.unit * (float)level;

    return scale.minimum + distance;
}

/* Of a block's record. */
TACIT_DEVICE static inline size_t tacit__qsgd_bytes(unsigned bits, size_t count)
{
    return count > 0 ? 8 + (bits * ((count + 7) / 8) + 3) / 4 * 4 : 0;
}

#endif
