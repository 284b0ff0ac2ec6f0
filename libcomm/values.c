/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes a unit at a time, so that what one loop writes the next reads from L1. */
#include "values.h"

#include <string.h>

#include "codec_unit.h"
#include "half.h"

static tacit_status_t check(const char *what, const tacit_spec_t *spec)
{
    if (spec->feedback != NULL) {
        return tacit__fail(TACIT_ERR_SPEC, "%s: '%s' has feedback, but nothing is remembered of what goes here: leave '+%s' away",
                           what, spec->text, spec->feedback->name);
    }
    if (spec->automatic || spec->compressor->kernels[TACIT_ISA_SCALAR] == NULL) {
        return tacit__fail(TACIT_ERR_SPEC,
                           "%s: '%s' does not encode rows one by one: use none, or a blockwise one such as bf16, fp8 or "
                           "rotq:bits=4",
                           what, spec->text);
    }
    if (spec->compressor->grain(spec->compressor_config) == 0) {
        return tacit__fail(TACIT_ERR_SPEC, "%s: '%s' would make all that goes to a rank one block: give it a block of elements",
                           what, spec->text);
    }
    return TACIT_OK;
}

tacit_status_t tacit__values_init(tacit_values_t *values, const char *what, const char *spec, tacit_dtype_t dtype,
                                  tacit_nonfinite_t nonfinite, const tacit_key_t *key)
{
    tacit_status_t status;

    *values = (tacit_values_t){.dtype = dtype, .nonfinite = nonfinite, .key = *key};
    TRY(tacit__spec_parse(spec != NULL ? spec : "none", &values->spec));
    TRY(check(what, &values->spec));
    if (!tacit__values_are_exact(values)) {
        values->unit = tacit__round_up(TACIT_UNIT, tacit__values_grain(values));
        values->x = tacit__alloc(values->unit, sizeof *values->x);
        values->d = tacit__alloc(values->unit, sizeof *values->d);
        if (values->x == NULL || values->d == NULL) {
            status = tacit__fail(TACIT_ERR_MEMORY, "%s: no memory to encode %zu elements at once", what, values->unit);
        }
    }
out:
    if (status != TACIT_OK) {
        tacit__values_fini(values);
    }
    return status;
}

void tacit__values_fini(tacit_values_t *values)
{
    tacit__spec_release(&values->spec);
    tacit__free(values->x);
    tacit__free(values->d);
    *values = (tacit_values_t){0};
}

bool tacit__values_are_exact(const tacit_values_t *values)
{
    return strcmp(values->spec.compressor->name, "none") == 0;
}

size_t tacit__values_element_bytes(const tacit_values_t *values)
{
    return values->dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

size_t tacit__values_grain(const tacit_values_t *values)
{
    return values->spec.compressor->grain(values->spec.compressor_config);
}

size_t tacit__values_bytes(const tacit_values_t *values, size_t count)
{
    return tacit__values_are_exact(values) ? count * tacit__values_element_bytes(values)
                                           : values->spec.compressor->bound(values->spec.compressor_config, count);
}

static tacit_block_t block_of(const tacit_values_t *values, size_t first, size_t count)
{
    return (tacit_block_t){values->spec.compressor_config, values->key, first, count};
}

/* One unit, from `first` on. */
static uint32_t encode_unit(const tacit_values_t *values, const void *in, size_t first, size_t count, uint8_t *payload,
                            void *decoded)
{
    const tacit_kernels_t *kernels = tacit__compressor_kernels(values->spec.compressor);
    const tacit_block_t    block = block_of(values, first, count);
    const bool             direct = decoded != NULL && values->dtype == TACIT_FLOAT32;
    const float           *x = tacit__load(values->dtype, values->nonfinite, in, first, count, values->x);
    const bool             passes = values->nonfinite == TACIT_NONFINITE_PASS;
    float                 *d = direct ? (float *)decoded + first : values->d;
    uint32_t               faults;

    if (!passes && !tacit__unit_is_finite(x, count)) {
        return TACIT_FAULT_NONFINITE;
    }
    faults = kernels->encode(&block, x, payload, d);
    if (decoded != NULL && !direct) {
        tacit__store(values->dtype, d, first, count, decoded);
    }
    return passes ? 0 : faults;
}

uint32_t tacit__values_encode(const tacit_values_t *values, const void *in, size_t first, size_t count, uint8_t *payload,
                              void *decoded)
{
    size_t   units = 0;
    uint32_t faults = 0;

    if (tacit__values_are_exact(values)) {
        const size_t   bytes = tacit__values_element_bytes(values);
        const uint8_t *from = (const uint8_t *)in + first * bytes;

        memcpy(payload, from, count * bytes);
        if (decoded != NULL && decoded != in) {
            memcpy((uint8_t *)decoded + first * bytes, from, count * bytes);
        }
        return 0;
    }
    for (size_t done = 0; done < count && faults == 0; done += units) {
        units = tacit__min(count - done, values->unit);
        faults = encode_unit(values, in, first + done, units, payload + tacit__values_bytes(values, done), decoded);
    }
    return faults;
}

void tacit__values_decode(const tacit_values_t *values, const uint8_t *payload, size_t first, size_t count, void *out)
{
    const tacit_kernels_t *kernels;
    const bool             direct = values->dtype == TACIT_FLOAT32;
    size_t                 units = 0;

    if (tacit__values_are_exact(values)) {
        const size_t bytes = tacit__values_element_bytes(values);

        memcpy((uint8_t *)out + first * bytes, payload, count * bytes);
        return;
    }
    kernels = tacit__compressor_kernels(values->spec.compressor);
    for (size_t done = 0; done < count; done += units) {
        const tacit_block_t block = block_of(values, first + done, units = tacit__min(count - done, values->unit));
        float              *d = direct ? (float *)out + block.first : values->d;

        kernels->decode(&block, payload + tacit__values_bytes(values, done), d, false);
        if (!direct) {
            tacit__store(values->dtype, d, block.first, units, out);
        }
    }
}
