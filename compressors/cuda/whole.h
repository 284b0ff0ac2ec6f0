/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels for tensors that travel whole share: a block of threads works on a tile, each warp on rows of it. Row i, warp w,
   lane t, c-th of four is element 1024 i + 128 w + 4 t + c: rows of all warps are in order. */
#ifndef TACIT_CUDA_WHOLE_H
#define TACIT_CUDA_WHOLE_H

#include "scan.h"
#include "tile.h"

namespace tacit_whole {

using namespace tacit;

constexpr int THREADS = BLOCK_WARPS * WARP, STEP = THREADS * WIDTH, TILE_ROWS = TACIT_WHOLE_TILE / STEP;

typedef struct tile {
    const tacit_device_bundle_t *bundle;
    const tacit_device_whole_t  *w;
    const tacit_device_tensor_t *t;
    uint32_t                     number, whole;
    uint64_t                     first;
    int                          count;
    unsigned                     turn;
} tile_t;

__device__ inline tile_t tile_of(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes, uint32_t number)
{
    tile_t tile;

    tile.bundle = &bundle;
    tile.number = number;
    tile.whole = wholes.tiles[number].whole;
    tile.first = wholes.tiles[number].first;
    tile.count = (int)wholes.tiles[number].count;
    tile.w = &wholes.wholes[tile.whole];
    tile.t = &bundle.tensors[tile.w->tensor];
    tile.turn = *tile.t->turn;
    return tile;
}

/* This warp's elements of a row: row 0 of that range. */
__device__ inline range_t row_of(const tile_t &tile, int row)
{
    const int     at = STEP * row + ROW * (int)(threadIdx.x / WARP);
    const range_t range = {tile.bundle, tile.t, tile.turn, tile.first + (unsigned)at, tile.count - at};

    return range;
}

/* Packed memory stays as it is until nothing can fail any more: rounding could not be taken back. Until then, what is encoded is
   made again where it is needed. */
__device__ inline bool is_packed(const tacit_device_tensor_t &t)
{
    return t.precision != TACIT_PRECISION_FP32;
}

/* u, v := dgc's momentum and velocity, which move on; what is not finite stays out of momentum (optim/feedback/dgc.c). */
__device__ inline void speed_up(const range_t &range, float (&u)[WIDTH], float (&v)[WIDTH])
{
    const float mu = range.t->weight;
    const bool  nesterov = (range.t->flags & TACIT_DGC_NESTEROV) != 0;
    float       x[WIDTH];

    load_x(range, 0, x);
    load_now(range, TACIT_DGC_MOMENTUM, 0, u);
    load_now(range, TACIT_DGC_VELOCITY, 0, v);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        const float moved = nesterov ? mu * (u[c] + x[c]) : mu * u[c] + x[c];
        const float sum = nesterov ? (v[c] + moved) + x[c] : v[c] + moved;

        u[c] = is_finite(sum) ? moved : u[c];
        v[c] = sum;
    }
}

__device__ __noinline__ inline float4 velocity_apart(range_t range)
{
    float u[WIDTH], v[WIDTH];

    speed_up(range, u, v);
    return four_of(v);
}

/* a := what is encoded of a row. */
__device__ inline void before(const range_t &range, float (&a)[WIDTH])
{
    float row[1][WIDTH];

    if (range.t->keep == TACIT_KEEP_DGC) {
        spread(velocity_apart(range), a);
        return;
    }
    tacit::before(range, row);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        a[c] = row[0][c];
    }
}

/* The first of this thread's elements of a row, in the tile. */
__device__ inline int element_of(int row)
{
    return STEP * row + WIDTH * (int)threadIdx.x;
}

/* What travels is zero from now on: a fault is known. */
__device__ inline bool is_stopped(const tacit_device_bundle_t &bundle)
{
    return bundle.step->fault != TACIT_DEVICE_NO_FAULT;
}

__device__ inline void note_value(const tacit_device_bundle_t &bundle, const tile_t &tile)
{
    if (tile.t->nonfinite != TACIT_NONFINITE_PASS) {
        atomicMin(&bundle.step->bad_tensor, tile.w->tensor);
    }
}

/* A fault that is found when nothing is sent any more: all ranks find it. */
__device__ inline void note_fault(const tacit_device_bundle_t &bundle, uint64_t fault)
{
    atomicMin((unsigned long long *)&bundle.step->fault, (unsigned long long)fault);
}

__device__ inline uint8_t *place_of(const tacit_device_wholes_t &wholes, const tacit_device_whole_t &w, unsigned rank,
                                    uint8_t *message)
{
    return message + TACIT_FRAME_HEADER_BYTES + wholes.part_bytes[rank] + w.at;
}

__device__ inline const uint8_t *place_from(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes,
                                            const tacit_device_whole_t &w, unsigned rank, const uint8_t *gathered)
{
    return gathered + rank * bundle.gather_bytes + TACIT_FRAME_HEADER_BYTES + wholes.part_bytes[rank] + w.at;
}

} /* namespace tacit_whole */

#endif
