/* SPDX-License-Identifier: Apache-2.0 */
/* `randk` in a bundle: one pass over a tensor makes what is encoded, draws from it and lets memory follow. */
#include "randk.h"

namespace tacit_randk {

/* Where what is passed on is not finite, memory lets go of what it held there; where it is doubled, it stays. */
__device__ void let_go(const tile_t &tile, const range_t &range, const float (&a)[WIDTH])
{
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        if (!is_finite(a[c]) && !tile.t->doubled && place(0) + c < range.count) {
            forget(range, place(0) + c);
        }
    }
}

__global__ void __launch_bounds__(THREADS)
    randk_encode(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, uint8_t *message)
{
    __shared__ float a[TACIT_WHOLE_TILE], d[TACIT_WHOLE_TILE];
    const tile_t     tile = tile_of(bundle, wholes, wholes.topk_tiles + blockIdx.x);
    const bool       scaled = tile.t->code.variant != 0;
    uint8_t *const   place_at = place_of(wholes, *tile.w, bundle.rank, message);
    float *const     factors = (float *)(place_at + TACIT_PLACE_HEADER);
    float *const     own = wholes.values + tile.w->entry;
    float            row[WIDTH], rebuilt[WIDTH];
    bool             finite = true;

    if (is_stopped(bundle)) {
        return;
    }
    for (int r = 0; r < TILE_ROWS; r++) {
        tacit_whole::before(row_of(tile, r), row);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            finite = finite && is_finite(row[c]);
            a[element_of(r) + c] = row[c];
            d[element_of(r) + c] = 0;
        }
    }
    if (!finite) {
        note_value(bundle, tile);
    }
    __syncthreads();
    visit_drawn(tile, draws_of(bundle, *tile.t), [&](uint32_t j, int at, uint64_t stratum) {
        const float factor = scaled ? a[at] * (float)stratum : a[at];

        d[at] = factor;
        factors[j] = factor;
        own[j] = factor;
    });
    if (tile.first == 0 && threadIdx.x == 0) {
        *(uint32_t *)place_at = (uint32_t)(tile.w->keep * sizeof(float));
    }
    __syncthreads();
    for (int r = 0; r < TILE_ROWS && tile.t->keep != TACIT_KEEP_NOTHING && !is_packed(*tile.t); r++) {
        const range_t range = row_of(tile, r);

#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            row[c] = a[element_of(r) + c];
            rebuilt[c] = d[element_of(r) + c];
        }
        after(range, 0, row, rebuilt);
        if (tile.t->keep == TACIT_KEEP_EF && tile.t->nonfinite == TACIT_NONFINITE_PASS) {
            let_go(tile, range, row);
        }
    }
}

/* Adds up the ranks' factors in ascending order, a thread one of each chunk. */
__global__ void __launch_bounds__(THREADS)
    randk_take(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, const uint64_t *faults, const uint8_t *gathered)
{
    const tacit_device_extent_t chunk = wholes.chunks[wholes.topk_chunks + blockIdx.x];
    const tacit_device_whole_t &w = wholes.wholes[chunk.whole];
    float *const                sums = wholes.taken_values + w.entry * bundle.ranks;

    for (uint32_t rank = 0; chunk.first == 0 && rank < bundle.ranks; rank++) {
        const uint8_t *const from = place_from(bundle, wholes, w, rank, gathered);

        if (faults[rank] == TACIT_DEVICE_NO_FAULT && tacit__load32(from) != w.keep * sizeof(float)) {
            note_fault(bundle, TACIT_DEVICE_FAULT(rank, TACIT_REASON_PLACE, w.tensor));
        }
    }
    for (uint64_t j = chunk.first + threadIdx.x; j < chunk.first + chunk.count; j += THREADS) {
        float sum = 0;

        for (uint32_t rank = 0; rank < bundle.ranks; rank++) {
            const float factor = ((const float *)(place_from(bundle, wholes, w, rank, gathered) + TACIT_PLACE_HEADER))[j];
            sum = rank == 0 ? factor : sum + factor;
        }
        sums[j] = sum;
    }
}

} /* namespace tacit_randk */

extern "C" void tacit_cuda_randk_encode(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *message,
                                        void *stream)
{
    TACIT_LAUNCH(tacit_randk::randk_encode, wholes->tile_count - wholes->topk_tiles, tacit_whole::THREADS, stream, *bundle,
                 *wholes, (uint8_t *)message);
}

extern "C" void tacit_cuda_randk_take(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes,
                                      const uint64_t *faults, const void *gathered, void *stream)
{
    TACIT_LAUNCH(tacit_randk::randk_take, wholes->chunk_count - wholes->topk_chunks, tacit_whole::THREADS, stream, *bundle,
                 *wholes, faults, (const uint8_t *)gathered);
}
