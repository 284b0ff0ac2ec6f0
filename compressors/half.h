/* SPDX-License-Identifier: Apache-2.0 */
/* float16 and bfloat16: arrays of a tensor's dtype, and what the two compressors share. Single values are in float16.h. */
#ifndef TACIT_HALF_H
#define TACIT_HALF_H

#include "compressor.h"
#include "float16.h"
#include "lanes.h"

/* Arrays of a tensor's dtype. To narrow a number that is too large gives infinity, as a conversion does. */
void tacit__float16_widen(const uint16_t *in, float *out, size_t count);
void tacit__float16_narrow(const float *in, uint16_t *out, size_t count);
void tacit__bfloat16_widen(const uint16_t *in, float *out, size_t count);
void tacit__bfloat16_narrow(const float *in, uint16_t *out, size_t count);

/* ---- What the two compressors share. A payload is the narrow values one behind the other ---- */

/* 8 values to halves, and what these decode to. finite: they are known to be. */
typedef void tacit_round_t(tacit_isa_t isa, bool finite, const tacit_floats_t *a, uint8_t *payload, tacit_floats_t *values);
/* 8 halves to values. */
typedef void tacit_widen_t(tacit_isa_t isa, const uint8_t *payload, tacit_floats_t *values);

/* 64 elements, of which `count` are written; out := what receivers decode or, with feedback, what a has beyond that. False: one
   is not finite, and with feedback nothing is written. */
TACIT_ALWAYS_INLINE bool tacit__half_put(tacit_isa_t isa, const float *in, const float *now, size_t count, uint8_t *payload,
                                         float *out, tacit_round_t round)
{
    tacit_floats_t a[TACIT_VECTORS];
    tacit_words_t  nonfinite = {0};

    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        a[k] = *tacit__floats(in + TACIT_VECTOR * k);
        if (now != NULL) {
            a[k] += *tacit__floats(now + TACIT_VECTOR * k);
        }
        nonfinite |= TACIT_NONFINITE(a[k]);
    }
    if (now != NULL && tacit__any_negative(&nonfinite)) {
        return false;
    }
    if (count == TACIT_LANES) {
        TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
        {
            tacit_floats_t values;

            round(isa, now != NULL, &a[k], payload + 2 * TACIT_VECTOR * k, &values);
            if (now != NULL) {
                values = a[k] - values;
            }
            *tacit__floats_to(out + TACIT_VECTOR * k) = values;
        }
    } else {
        uint8_t halves[2 * TACIT_LANES];
        float   values[TACIT_LANES];

        for (size_t k = 0; k < TACIT_VECTORS; k++) {
            tacit_floats_t rounded;

            round(isa, now != NULL, &a[k], halves + 2 * TACIT_VECTOR * k, &rounded);
            if (now != NULL) {
                rounded = a[k] - rounded;
            }
            *tacit__floats_to(values + TACIT_VECTOR * k) = rounded;
        }
        memcpy(payload, halves, 2 * count);
        memcpy(out, values, count * sizeof *out);
    }
    return !tacit__any_negative(&nonfinite);
}

/* now is NULL without feedback; then what is not finite passes. */
TACIT_ALWAYS_INLINE uint32_t tacit__half_encode(tacit_isa_t isa, size_t count, const float *in, const float *now, float *out,
                                                uint8_t *payload, size_t *done_out, tacit_round_t round)
{
    size_t rest = count % TACIT_LANES;
    float  a[TACIT_LANES] = {0}, b[TACIT_LANES] = {0};
    bool   finite = true;
    size_t i = 0;

    for (; i < count - rest; i += TACIT_LANES) {
        finite &= tacit__half_put(isa, in + i, now != NULL ? now + i : NULL, TACIT_LANES, payload + 2 * i, out + i, round);
        if (now != NULL && !finite) {
            rest = 0;
            break;
        }
    }
    if (rest != 0) {
        memcpy(a, in + i, rest * sizeof *a);
        memcpy(b, now != NULL ? now + i : in + i, rest * sizeof *b);
        finite &= tacit__half_put(isa, a, now != NULL ? b : NULL, rest, payload + 2 * i, out + i, round);
    }
    *done_out = finite ? count : i;
    return finite ? 0u : TACIT_FAULT_NONFINITE;
}

TACIT_ALWAYS_INLINE void tacit__half_decode(tacit_isa_t isa, size_t count, const uint8_t *payload, float *out, bool add,
                                            tacit_widen_t widen)
{
    const size_t   whole = count - count % TACIT_VECTOR;
    tacit_floats_t values;
    uint8_t        halves[2 * TACIT_VECTOR] = {0};
    float          rest[TACIT_VECTOR] = {0};

    for (size_t i = 0; i < whole; i += TACIT_VECTOR) {
        widen(isa, payload + 2 * i, &values);
        if (add) {
            values += *tacit__floats(out + i);
        }
        *tacit__floats_to(out + i) = values;
    }
    if (whole < count) {
        memcpy(halves, payload + 2 * whole, 2 * (count - whole));
        memcpy(rest, out + whole, add ? (count - whole) * sizeof *rest : 0);
        widen(isa, halves, &values);
        if (add) {
            values += *tacit__floats(rest);
        }
        *tacit__floats_to(rest) = values;
        memcpy(out + whole, rest, (count - whole) * sizeof *rest);
    }
}

static inline size_t tacit__half_grain(const void *config)
{
    (void)config;
    return TACIT_LANES;
}

static inline size_t tacit__half_bound(const void *config, size_t count)
{
    (void)config;
    return count * sizeof(uint16_t);
}

/* Defines the three kernels of a compressor on its round and widen. */
#define TACIT_HALF_KERNELS(round, widen)                                                                                         \
    TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload,           \
                                        float *decoded)                                                                          \
    {                                                                                                                            \
        size_t done;                                                                                                             \
        return tacit__half_encode(isa, block->count, a, NULL, decoded, payload, &done, round);                                   \
    }                                                                                                                            \
    TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,  \
                                           size_t *done_out)                                                                     \
    {                                                                                                                            \
        return tacit__half_encode(isa, block->count, ef->in, ef->now, ef->next, payload, done_out, round);                       \
    }                                                                                                                            \
    TACIT_ALWAYS_INLINE void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)   \
    {                                                                                                                            \
        tacit__half_decode(isa, block->count, payload, out, add, widen);                                                         \
    }

#endif
