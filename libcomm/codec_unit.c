/* SPDX-License-Identifier: Apache-2.0 */
/* Loads, checks and stores units. */
#include "codec_unit.h"

#include <string.h>

#include "half.h"

static inline bool is_finite(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

const float *tacit__unit_load(tacit_codec_t *codec, const void *in, size_t first, size_t count)
{
    const float *x = codec->x;

    switch (codec->tensor.dtype) {
    case TACIT_FLOAT32:
        x = (const float *)in + first;
        break;
    case TACIT_FLOAT16:
        tacit__float16_widen((const uint16_t *)in + first, codec->x, count);
        break;
    case TACIT_BFLOAT16:
        tacit__bfloat16_widen((const uint16_t *)in + first, codec->x, count);
        break;
    }
    if (codec->nonfinite == TACIT_NONFINITE_SKIP) {
        for (size_t i = 0; i < count; i++) {
            codec->x[i] = is_finite(x[i]) ? x[i] : 0.0f;
        }
        x = codec->x;
    }
    return x;
}

void tacit__unit_store(const tacit_codec_t *codec, const float *values, size_t first, size_t count, void *out)
{
    if (count == 0) {
        return; /* out may be NULL */
    }
    switch (codec->tensor.dtype) {
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

/* Counts exponents that are all ones; without a branch, so that it vectorizes. */
bool tacit__unit_is_finite(const float *values, size_t count)
{
    uint32_t found = 0;

    for (size_t i = 0; i < count; i++) {
        uint32_t bits;

        memcpy(&bits, values + i, sizeof bits);
        found |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return found == 0;
}

void tacit__unit_keep(const tacit_codec_t *codec, size_t first, size_t count)
{
    const tacit_state_t *memory = &codec->memory;

    for (size_t i = 0; codec->feedback->arrays[i] != NULL; i++) {
        if (memory->next[i] != memory->now[i]) {
            memcpy(memory->next[i] + first, memory->now[i] + first, count * sizeof(float));
        }
    }
}
