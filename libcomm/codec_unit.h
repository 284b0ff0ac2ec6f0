/* SPDX-License-Identifier: Apache-2.0 */
/* A unit of a tensor on its way through a codec: loaded as float32, checked, stored in the tensor's dtype. */
#ifndef TACIT_CODEC_UNIT_H
#define TACIT_CODEC_UNIT_H

#include "codec.h"

/* Elements [first, first + count) of the tensor at `in` as float32: in place, or in codec->x where they are widened or, under
   TACIT_NONFINITE_SKIP, where those that are not finite become zero. */
const float *tacit__unit_load(tacit_codec_t *codec, const void *in, size_t first, size_t count);
void         tacit__unit_store(const tacit_codec_t *codec, const float *values, size_t first, size_t count, void *out);
bool         tacit__unit_is_finite(const float *values, size_t count);
/* Leaves the memory of these elements as it is, in doubled memory too. */
void tacit__unit_keep(const tacit_codec_t *codec, size_t first, size_t count);

#endif
