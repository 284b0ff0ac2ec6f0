/* SPDX-License-Identifier: Apache-2.0 */
/* Parts: how blockwise tensors, one behind the other, are divided among owners. The same on every rank. */
#ifndef TACIT_PARTS_H
#define TACIT_PARTS_H

#include "codec.h"

/* Payload bytes of `count` elements. */
size_t tacit__part_bytes(const tacit_codec_t *codec, size_t count);

/* The element at which the part of `owner` of a tensor's range begins; of an owner past the last one, where the range ends. Parts
   are of equal payload: `before` is the payload of the ranges before this one, `total` that of all. A part begins at
   a multiple of the edge behind the range's beginning. */
size_t tacit__part_begin(const tacit_codec_t *codec, const tacit_range_t *range, uint64_t before, uint64_t total, int owner,
                         int owners);
/* What a rail has of a tensor: the same in every operation and with all parameters, so that memory stays with whom it belongs
   to. */
tacit_range_t tacit__rail_range(const tacit_codec_t *codec, int rail, int rails);
/* How that is dealt out to the rail's leaders, of whom each of `hosts` has one. */
tacit_deal_t tacit__rail_deal(const tacit_codec_t *codec, int rail, int rails, int hosts);

#endif
