/* SPDX-License-Identifier: Apache-2.0 */
/* Loads, checks and stores units. */
#include "codec_unit.h"

#include <string.h>

#include "half.h"
#include "isa.h"

static inline bool is_finite(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

const float *tacit__load(tacit_dtype_t dtype, tacit_nonfinite_t nonfinite, const void *in, size_t first, size_t count, float *x)
{
    const float *from = x;

    switch (dtype) {
    case TACIT_FLOAT32:
        from = (const float *)in + first;
        break;
    case TACIT_FLOAT16:
        tacit__float16_widen((const uint16_t *)in + first, x, count);
        break;
    case TACIT_BFLOAT16:
        tacit__bfloat16_widen((const uint16_t *)in + first, x, count);
        break;
    }
    if (nonfinite == TACIT_NONFINITE_SKIP) {
        for (size_t i = 0; i < count; i++) {
            x[i] = is_finite(from[i]) ? from[i] : 0.0f;
        }
        from = x;
    }
    return from;
}

void tacit__store(tacit_dtype_t dtype, const float *values, size_t first, size_t count, void *out)
{
    if (count == 0) {
        return; /* out may be NULL */
    }
    switch (dtype) {
    case TACIT_FLOAT32:
        memmove((float *)out + first, values, count * sizeof *values);
        break;
    case TACIT_FLOAT16:
        tacit__float16_narrow(values, (uint16_t *)out + first, count);
        break;
    case TACIT_BFLOAT16:
        tacit__bfloat16_narrow(values, (uint16_t *)out + first, count);
        break;
    }
}

const float *tacit__unit_load(tacit_codec_t *codec, const void *in, size_t first, size_t count)
{
    return codec->sums ? (const float *)in + first : tacit__unit_load_given(codec, in, first, count);
}

const float *tacit__unit_load_given(tacit_codec_t *codec, const void *in, size_t first, size_t count)
{
    return tacit__load(codec->tensor.dtype, codec->nonfinite, in, first, count, codec->x);
}

void tacit__unit_store(const tacit_codec_t *codec, const float *values, size_t first, size_t count, void *out)
{
    tacit__store(codec->tensor.dtype, values, first, count, out);
}

/* Counts exponents that are all ones; without a branch, so that it vectorizes. */
static bool all_finite_loop(const float *values, size_t count)
{
    uint32_t found = 0;

    for (size_t i = 0; i < count; i++) {
        uint32_t bits;

        memcpy(&bits, values + i, sizeof bits);
        found |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return found == 0;
}

TACIT_EACH_ISA(bool, all_finite, (const float *values, size_t count), (values, count))

bool tacit__unit_is_finite(const float *values, size_t count)
{
    return all_finite(values, count);
}

/* The next elements of [i, count) that are alike: where both numbers are finite, or where not. */
static size_t run_end(const float *one, const float *other, size_t i, size_t count, bool *finite_out)
{
    *finite_out = is_finite(one[i]) && is_finite(other[i]);
    while (++i < count && (is_finite(one[i]) && is_finite(other[i])) == *finite_out) {
    }
    return i;
}

void tacit__unit_after(const tacit_codec_t *codec, const tacit_state_t *state, size_t at, size_t count, const tacit_unit_t *unit)
{
    bool finite = codec->nonfinite != TACIT_NONFINITE_PASS ||
                  (tacit__unit_is_finite(unit->a, count) && tacit__unit_is_finite(unit->d, count));

    if (finite) {
        codec->feedback->after(state, at, count, unit->x, unit->a, unit->d);
        return;
    }
    for (size_t i = 0, end; i < count; i = end) {
        end = run_end(unit->a, unit->d, i, count, &finite);
        if (finite) {
            codec->feedback->after(state, at + i, end - i, unit->x + i, unit->a + i, unit->d + i);
        } else {
            tacit__state_keep(state, at + i, end - i);
        }
    }
}

void tacit__unit_undo(const tacit_codec_t *codec, const tacit_state_t *state, size_t at, size_t count, const tacit_unit_t *unit)
{
    bool finite;

    for (size_t i = 0, end; i < count; i = end) {
        end = run_end(unit->x, unit->d, i, count, &finite);
        if (finite) {
            codec->feedback->undo(state, at + i, end - i, unit->x + i, unit->d + i);
        }
    }
}
