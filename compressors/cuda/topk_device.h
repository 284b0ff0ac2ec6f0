/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels of `topk` share: which elements are looked at, and which are chosen. */
#ifndef TACIT_CUDA_TOPK_DEVICE_H
#define TACIT_CUDA_TOPK_DEVICE_H

#include "topk_size.h"
#include "whole.h"

namespace tacit_topk {

using namespace tacit_whole;

enum { HALF_BITS = 16 }; /* of a value; else 32 */

__device__ inline uint32_t magnitude(float value)
{
    return tacit__float_bits(value) & 0x7fffffffu;
}

__device__ inline bool has_halves(const tacit_device_tensor_t &t)
{
    return t.code.bits == HALF_BITS;
}

__device__ inline uint16_t to_half(float value)
{
    return tacit__to_float16(value, 0x7bff);
}

/* The array that what is encoded is kept in; -1: in none. */
__device__ inline int accumulator_of(const tacit_device_tensor_t &t)
{
    return is_packed(t)               ? -1
           : t.keep == TACIT_KEEP_EF  ? (int)TACIT_EF_RESIDUAL
           : t.keep == TACIT_KEEP_DGC ? (int)TACIT_DGC_VELOCITY
                                      : -1;
}

/* What has been made of a tensor: again, or from where it has been kept. */
__device__ inline void reload(const range_t &range, float (&a)[WIDTH])
{
    const int array = accumulator_of(*range.t);

    if (array >= 0) {
        load((const float *)range.t->memory[1 - range.turn][array] + range.first, 0, range.count, a);
    } else {
        tacit_whole::before(range, a);
    }
}

/* A tile's elements of which some are sent, in order: those that are listed, or all. */
struct items_t {
    const tile_t   *tile;
    int             count;
    const uint32_t *indices; /* NULL: all */
    const float    *values;

    /* This thread's of a row; zero where there are none. */
    __device__ void load(int row, float (&a)[WIDTH], uint32_t (&index)[WIDTH]) const
    {
        if (indices == NULL) {
            reload(row_of(*tile, row), a);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const int at = element_of(row) + c;

            if (indices == NULL) {
                index[c] = (uint32_t)tile->first + (uint32_t)at;
            } else {
                index[c] = at < count ? indices[at] : 0;
                a[c] = at < count ? values[at] : 0;
            }
        }
    }
};

__device__ inline items_t items_of(const tacit_device_wholes_t &wholes, const tile_t &tile)
{
    const tacit_device_mark_t &mark = wholes.marks[tile.number];
    const uint64_t             at = tile.w->candidate + mark.at;
    items_t                    items;

    items.tile = &tile;
    items.count = tile.count;
    items.indices = NULL;
    items.values = NULL;
    if (!wholes.tallies[tile.whole].crowded) {
        items.count = (int)mark.count;
        items.indices = wholes.candidate_indices + at;
        items.values = wholes.candidate_values + at;
    }
    return items;
}

/* What is sent: magnitudes above `least`, and the first `ties` that are equal to it; but none that would travel as zero. */
struct choice_t {
    uint32_t least, ties;
    bool     halves;

    /* 1: it is above. 65536: it is equal. */
    __device__ uint32_t found(float value) const
    {
        const bool travels = !halves || (to_half(value) & 0x7fff) != 0;

        return !travels ? 0u : magnitude(value) > least ? 1u : magnitude(value) == least && least != 0 ? 65536u : 0u;
    }

    __device__ bool takes(uint32_t equal) const
    {
        return equal < ties;
    }

    /* Entries, of so many elements that are above and equal. */
    __device__ uint32_t before(uint32_t above, uint32_t equal) const
    {
        return above + (equal < ties ? equal : ties);
    }
};

__device__ inline choice_t choice_of(const tile_t &tile, const tacit_device_tally_t &tally)
{
    choice_t choice;

    choice.least = tally.all ? 0 : tally.chosen.prefix;
    choice.ties = tally.all ? 0 : tally.chosen.left;
    choice.halves = has_halves(*tile.t);
    return choice;
}

} /* namespace tacit_topk */

#endif
