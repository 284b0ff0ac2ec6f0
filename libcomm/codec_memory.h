/* SPDX-License-Identifier: Apache-2.0 */
/* A codec's memory, however it is kept. */
#ifndef TACIT_CODEC_MEMORY_H
#define TACIT_CODEC_MEMORY_H

#include "codec.h"

tacit_status_t tacit__memory_init(tacit_codec_t *codec);
void           tacit__memory_release(tacit_codec_t *codec);
void           tacit__memory_zero(tacit_codec_t *codec);
/* Scratch for windows of `count` elements. False: no memory; what there was stays. */
bool tacit__memory_reserve(tacit_codec_t *codec, size_t count);

/* Whether a range may be packed by itself: it begins at a block, and ends at one or with the tensor; or it is empty. */
bool tacit__memory_is_aligned(const tacit_codec_t *codec, size_t first, size_t count);

/* What feedback works with on elements [first, first + count) of memory, where they begin at *at_out. Valid until the next one.
   What it has changed is kept by close(). */
const tacit_state_t *tacit__memory_open(tacit_codec_t *codec, size_t first, size_t count, size_t *at_out);
void                 tacit__memory_close(tacit_codec_t *codec, uint64_t step, size_t first, size_t count);
/* next := now for these elements, in a state whose elements begin at `at`. */
void tacit__state_keep(const tacit_state_t *state, size_t at, size_t count);
/* Every array's next becomes 0 at this element. */
void tacit__memory_forget(tacit_codec_t *codec, size_t element);
/* What has been written to these elements of doubled memory holds from now on. */
void tacit__memory_settle(tacit_codec_t *codec, size_t first, size_t count);
/* … or is forgotten. */
void tacit__memory_unsettle(tacit_codec_t *codec, size_t first, size_t count);

/* Elements of one array, which has them, as float32. Written ones are rounded by numbers of their own for each step. */
void tacit__memory_read(const tacit_codec_t *codec, int array, size_t first, size_t count, float *values);
void tacit__memory_write(tacit_codec_t *codec, uint64_t step, int array, size_t first, size_t count, const float *values);

#endif
