/* SPDX-License-Identifier: Apache-2.0 */
/* A unit of a tensor on its way through a codec: loaded as float32, checked, stored in the tensor's dtype. */
#ifndef TACIT_CODEC_UNIT_H
#define TACIT_CODEC_UNIT_H

#include "codec_memory.h"

/* What was given, what was encoded of it, and what receivers decode: the unit's elements, from 0. */
typedef struct tacit_unit {
    const float *x, *a, *d;
} tacit_unit_t;

/* Elements [first, first + count) of what begins at `in`, as float32: in place, or in x where they are widened or, under
   TACIT_NONFINITE_SKIP, where those that are not finite become zero. */
const float *tacit__load(tacit_dtype_t dtype, tacit_nonfinite_t nonfinite, const void *in, size_t first, size_t count, float *x);
/* The reverse. */
void tacit__store(tacit_dtype_t dtype, const float *values, size_t first, size_t count, void *out);

/* Elements [first, first + count) of what is encoded, which begins at `in`, as float32: in place, or in codec->x where they are
   widened or, under TACIT_NONFINITE_SKIP, where those of the caller's that are not finite become zero. */
const float *tacit__unit_load(tacit_codec_t *codec, const void *in, size_t first, size_t count);
/* The same of what the caller has given, also where sums are encoded. */
const float *tacit__unit_load_given(tacit_codec_t *codec, const void *in, size_t first, size_t count);
void         tacit__unit_store(const tacit_codec_t *codec, const float *values, size_t first, size_t count, void *out);
bool         tacit__unit_is_finite(const float *values, size_t count);
/* after() and undo() on elements of memory that begin at `at`. Where something that is not finite was passed on, memory is left
   as it is. */
void tacit__unit_after(const tacit_codec_t *codec, const tacit_state_t *state, size_t at, size_t count, const tacit_unit_t *unit);
void tacit__unit_undo(const tacit_codec_t *codec, const tacit_state_t *state, size_t at, size_t count, const tacit_unit_t *unit);

#endif
