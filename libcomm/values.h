/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of numbers on their way to one receiver: in a blockwise compressor's form, without memory, or as they are. */
#ifndef TACIT_VALUES_H
#define TACIT_VALUES_H

#include "spec.h"

typedef struct tacit_values {
    tacit_spec_t      spec;
    tacit_dtype_t     dtype;     /* of what is encoded and decoded */
    tacit_nonfinite_t nonfinite; /* what becomes of such where the form loses something; as they are, all bits stay */
    tacit_key_t       key;       /* of everything random; decoders have the encoder's, but for its rank */
    size_t            unit;      /* elements handled at once */
    float            *x, *d;     /* a unit widened, and what receivers decode of it */
} tacit_values_t;

/* spec NULL: "none". TACIT_ERR_SPEC for one that is not blockwise, has feedback, or takes all of a message as one block; `what`
   names the call in messages. Fills *values, which holds nothing before. */
tacit_status_t tacit__values_init(tacit_values_t *values, const char *what, const char *spec, tacit_dtype_t dtype,
                                  tacit_nonfinite_t nonfinite, const tacit_key_t *key);
/* Accepts those that are empty. */
void tacit__values_fini(tacit_values_t *values);
/* They travel as they are. */
bool   tacit__values_are_exact(const tacit_values_t *values);
size_t tacit__values_element_bytes(const tacit_values_t *values);
/* Ranges begin at multiples of this many elements. */
size_t tacit__values_grain(const tacit_values_t *values);
/* Bytes of so many elements, from a multiple of the grain on, encoded. */
size_t tacit__values_bytes(const tacit_values_t *values, size_t count);
/* Encodes elements [first, first + count) of what begins at `in`, and writes to the same elements of what begins at `decoded`,
   which may be in, what a receiver will make of them; NULL: nobody asks. Returns faults. */
uint32_t tacit__values_encode(const tacit_values_t *values, const void *in, size_t first, size_t count, uint8_t *payload,
                              void *decoded);
/* Decodes tacit__values_bytes(count) bytes, which may be hostile, to elements [first, first + count) of what begins at `out`. */
void tacit__values_decode(const tacit_values_t *values, const uint8_t *payload, size_t first, size_t count, void *out);

#endif
