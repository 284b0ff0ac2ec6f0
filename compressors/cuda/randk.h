/* SPDX-License-Identifier: Apache-2.0 */
/* What `randk` draws (compressors/randk.c): of stratum j of k, one element. */
#ifndef TACIT_CUDA_RANDK_H
#define TACIT_CUDA_RANDK_H

#include "whole.h"

namespace tacit_randk {

using namespace tacit_whole;

__device__ inline tacit_stream_t draws_of(const tacit_device_bundle_t &bundle, const tacit_device_tensor_t &t)
{
    tacit_key_t key = t.key;

    key.step += bundle.step->step;
    return tacit__stream(&key, true);
}

/* Calls visit(j, element in the tile, elements of the stratum) for what is drawn of a tile. */
template <typename Visit> __device__ void visit_drawn(const tile_t &tile, const tacit_stream_t &stream, Visit visit)
{
    const uint64_t n = tile.t->count, strata = tile.w->keep, end = tile.first + (unsigned)tile.count;

    /* Strata before the first of these end before the tile; it starts there or before. */
    for (uint64_t j = (n != 0 ? tile.first * strata / n : 0) + threadIdx.x; j < strata; j += THREADS) {
        const uint64_t first = j * n / strata, next = (j + 1) * n / strata;
        const uint64_t index = first + ((uint64_t)tacit__random(&stream, j) * (next - first) >> 32);

        if (first >= end) {
            return;
        }
        if (index >= tile.first && index < end) {
            visit((uint32_t)j, (int)(index - tile.first), next - first);
        }
    }
}

} /* namespace tacit_randk */

#endif
