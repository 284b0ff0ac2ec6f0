/* SPDX-License-Identifier: Apache-2.0 */
/* Parts: how blockwise tensors, one behind the other, are divided among owners. The same on every rank. */
#ifndef TACIT_PARTS_H
#define TACIT_PARTS_H

#include "codec.h"

/* Payload bytes of `count` elements. */
size_t tacit__part_bytes(const tacit_codec_t *codec, size_t count);
/* The element of a tensor at which the part of `owner` begins; of an owner past the last one, where the tensor ends. Parts are of
   equal payload: `before` is the payload of the tensors before this one, `total` that of all. A part begins at a multiple of the
   edge. */
size_t tacit__part_begin(const tacit_codec_t *codec, uint64_t before, uint64_t total, int owner);

#endif
