/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors that travel whole, whatever their code: places are cleared before they are written; sums of what all ranks have sent
   are checked, and become results. Format: doc/wire-format.md, "Bundles". */
#include "randk.h"

namespace tacit_whole {

constexpr unsigned CLEARED = 64 * 1024; /* bytes that a block clears */

__global__ void __launch_bounds__(THREADS) clear(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, uint8_t *message)
{
    uint4 *const   places = (uint4 *)(message + TACIT_FRAME_HEADER_BYTES + wholes.part_bytes[bundle.rank]);
    const uint64_t first = (uint64_t)blockIdx.x * CLEARED, last = first + CLEARED < wholes.bytes ? first + CLEARED : wholes.bytes;
    const uint4    zero = {0, 0, 0, 0};

    if (is_stopped(bundle)) {
        return;
    }
    for (uint64_t at = first + 16 * threadIdx.x; at < last; at += 16 * THREADS) {
        places[at / 16] = zero;
    }
    for (uint64_t i = blockIdx.x * (uint64_t)THREADS + threadIdx.x; i < wholes.count * sizeof *wholes.tallies / 4;
         i += gridDim.x * (uint64_t)THREADS) {
        ((uint32_t *)wholes.tallies)[i] = 0;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        bundle.step->wholes_sent = 1;
    }
}

/* The first of count ascending indices that is not below `bound`. */
__device__ uint32_t find(const uint32_t *indices, uint32_t count, uint64_t bound)
{
    uint32_t low = 0;

    while (low < count) {
        const uint32_t middle = low + (count - low) / 2;

        if (indices[middle] < bound) {
            low = middle + 1;
        } else {
            count = middle;
        }
    }
    return low;
}

/* values := what one rank's entries have of a tile; to be called by all threads. values are zero before. */
__device__ void scatter(const tile_t &tile, const uint32_t *indices, const float *entries, uint32_t count, float *values)
{
    __shared__ uint32_t range[2];

    if (threadIdx.x < 2) {
        range[threadIdx.x] = find(indices, count, tile.first + (threadIdx.x != 0 ? (unsigned)tile.count : 0u));
    }
    __syncthreads();
    for (uint32_t i = range[0] + threadIdx.x; i < range[1]; i += THREADS) {
        values[indices[i] - tile.first] += entries[i];
    }
    __syncthreads();
}

__device__ bool is_topk(const tile_t &tile)
{
    return tile.t->code.code == TACIT_CODE_TOPK;
}

__device__ void clear_tile(float *values)
{
    for (int i = (int)threadIdx.x; i < TACIT_WHOLE_TILE; i += THREADS) {
        values[i] = 0;
    }
    __syncthreads();
}

/* sums := a tile of what all ranks have sent, in ascending order of ranks. */
__device__ void sum_tile(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes, const tile_t &tile,
                         float *sums)
{
    const tacit_device_whole_t &w = *tile.w;

    clear_tile(sums);
    for (uint32_t rank = 0; is_topk(tile) && rank < bundle.ranks; rank++) {
        const uint64_t at = w.entry * bundle.ranks + (uint64_t)rank * w.keep;

        scatter(tile, wholes.taken_indices + at, wholes.taken_values + at,
                wholes.taken[(uint64_t)tile.whole * bundle.ranks + rank].entries, sums);
    }
    if (!is_topk(tile)) {
        tacit_randk::visit_drawn(tile, tacit_randk::draws_of(bundle, *tile.t), [&](uint32_t j, int at, uint64_t) {
            sums[at] = wholes.taken_values[w.entry * bundle.ranks + j];
        });
        __syncthreads();
    }
}

/* No sum of a tensor's entries is larger; NaN does not count (bundle_whole.c). */
__device__ bool may_overflow(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes, uint32_t whole)
{
    double total = 0;

    for (uint32_t rank = 0; rank < bundle.ranks; rank++) {
        total += (double)tacit__bits_float(wholes.taken[(uint64_t)whole * bundle.ranks + rank].largest);
    }
    return !(total < 0.5 * (double)3.402823466e38f);
}

/* Whether a fault is known that is another than that sums are not finite. */
__device__ bool is_known(const tacit_device_bundle_t &bundle)
{
    const uint64_t fault = *(volatile uint64_t *)&bundle.step->fault;

    return fault != TACIT_DEVICE_NO_FAULT && TACIT_DEVICE_FAULT_REASON(fault) != TACIT_REASON_SUM;
}

/* Whether sums are finite, where they have to be: of topk's tensors, which may have some that are not. */
__global__ void __launch_bounds__(THREADS) fit(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    __shared__ float sums[TACIT_WHOLE_TILE];
    const tile_t     tile = tile_of(bundle, wholes, blockIdx.x);
    const float      scale = is_topk(tile) && bundle.average && bundle.ranks > 1 ? 1.0f / (float)bundle.ranks : 1;
    bool             finite = true;

    if (tile.t->nonfinite == TACIT_NONFINITE_PASS || is_known(bundle) ||
        (is_topk(tile) && !may_overflow(bundle, wholes, tile.whole))) {
        return;
    }
    sum_tile(bundle, wholes, tile, sums);
    for (int i = (int)threadIdx.x; i < tile.count; i += THREADS) {
        finite = finite && is_finite(sums[i] * scale);
    }
    if (!finite) {
        note_fault(bundle, TACIT_DEVICE_FAULT(0, TACIT_REASON_SUM, tile.w->tensor));
    }
}

/* dgc's momentum and velocity as they were; `sent` is back in velocity (optim/feedback/dgc.c). */
__device__ void slow_down(const range_t &range, const float (&sent)[WIDTH])
{
    const float mu = range.t->weight;
    const bool  nesterov = (range.t->flags & TACIT_DGC_NESTEROV) != 0;
    float       x[WIDTH], u[WIDTH], v[WIDTH];

    load_x(range, 0, x);
    load_now(range, TACIT_DGC_MOMENTUM, 0, u);
    load_now(range, TACIT_DGC_VELOCITY, 0, v);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        v[c] = is_finite(sent[c]) ? v[c] + sent[c] : v[c];
        if (is_finite(x[c])) {
            v[c] = nesterov ? (v[c] - x[c]) - u[c] : v[c] - u[c];
            u[c] = mu == 0 ? 0.0f : nesterov ? u[c] / mu - x[c] : (u[c] - x[c]) / mu;
        }
    }
    store_next(range, TACIT_DGC_MOMENTUM, 0, u);
    store_next(range, TACIT_DGC_VELOCITY, 0, v);
}

/* Memory as it was before the step, but for rounding; `sent` is what went out. What was not finite has not been in it. */
__device__ void take_back(const range_t &range, const float (&sent)[WIDTH])
{
    float x[WIDTH], kept[WIDTH];

    if (range.t->keep == TACIT_KEEP_DGC && !range.t->doubled) {
        slow_down(range, sent);
        return;
    }
    if (range.t->keep != TACIT_KEEP_EF || range.t->doubled) {
        undo_any(range, 0, sent);
        return;
    }
    load_x(range, 0, x);
    load_now(range, TACIT_EF_RESIDUAL, 0, kept);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        kept[c] = is_finite(sent[c]) ? (kept[c] + sent[c]) - (is_finite(x[c]) ? x[c] : 0) : kept[c];
    }
    store_next(range, TACIT_EF_RESIDUAL, 0, kept);
}

/* What masking has taken from momentum is there again. */
__device__ void unmask(const tacit_device_wholes_t &wholes, const tile_t &tile)
{
    const uint32_t *const indices = wholes.indices + tile.w->entry;
    const uint32_t        count = wholes.tallies[tile.whole].entries;
    const uint64_t        end = tile.first + (unsigned)tile.count;
    float *const          u = (float *)tile.t->memory[1 - tile.turn][TACIT_DGC_MOMENTUM];

    for (uint32_t i = find(indices, count, tile.first) + threadIdx.x; i < count && indices[i] < end; i += THREADS) {
        u[indices[i]] = wholes.kept[tile.w->entry + i];
    }
    __syncthreads();
}

/* sent := what went out of a tile; to be called by all threads. */
__device__ void sent_tile(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes, const tile_t &tile,
                          float *sent)
{
    const tacit_device_whole_t &w = *tile.w;

    clear_tile(sent);
    if (is_topk(tile)) {
        scatter(tile, wholes.indices + w.entry, wholes.values + w.entry, wholes.tallies[tile.whole].entries, sent);
    } else {
        tacit_randk::visit_drawn(tile, tacit_randk::draws_of(bundle, *tile.t),
                                 [&](uint32_t j, int at, uint64_t) { sent[at] = wholes.values[w.entry + j]; });
        __syncthreads();
    }
}

__device__ __noinline__ void undo_tile(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes,
                                       const tile_t &tile, float *sent)
{
    sent_tile(bundle, wholes, tile, sent);
    if (tile.t->keep == TACIT_KEEP_DGC && (tile.t->flags & TACIT_DGC_MASKS) != 0) {
        unmask(wholes, tile);
    }
    for (int r = 0; r < TILE_ROWS; r++) {
        const float(&row)[WIDTH] = *(const float(*)[WIDTH])(sent + element_of(r));

        take_back(row_of(tile, r), row);
    }
}

__device__ bool has_tracker(const tacit_device_tensor_t &t)
{
    return t.keep == TACIT_KEEP_EF21 || t.keep == TACIT_KEEP_ECONTROL;
}

/* Memory of all elements of those of topk's tensors whose feedback has no room for what is encoded, which is made once more. */
__global__ void __launch_bounds__(THREADS) follow(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    __shared__ float sent[TACIT_WHOLE_TILE];
    const tile_t     tile = tile_of(bundle, wholes, blockIdx.x);

    if (is_stopped(bundle) || !has_tracker(*tile.t) || is_packed(*tile.t)) {
        return;
    }
    clear_tile(sent);
    scatter(tile, wholes.indices + tile.w->entry, wholes.values + tile.w->entry, wholes.tallies[tile.whole].entries, sent);
    for (int r = 0; r < TILE_ROWS; r++) {
        const float(&row)[WIDTH] = *(const float(*)[WIDTH])(sent + element_of(r));
        float a[WIDTH];

        before(row_of(tile, r), a);
        after(row_of(tile, r), 0, a, row);
    }
}

/* Memory stays finite where values that are not were passed on: what it held there went with them. Packed memory is finite. */
__device__ void scrub(const range_t &range)
{
    const tacit_device_tensor_t &t = *range.t;

    for (int array = 0; array < TACIT_DEVICE_ARRAYS; array++) {
        float *const values = (float *)t.memory[1 - range.turn][array];

        if (values == NULL || precision_of(t, array) != TACIT_PRECISION_FP32) {
            continue;
        }
        for (int c = 0; c < WIDTH && place(0) + c < range.count; c++) {
            if (!is_finite(values[range.first + (unsigned)(place(0) + c)])) {
                values[range.first + (unsigned)(place(0) + c)] = 0;
            }
        }
    }
}

/* values := the result, of a row of sums. */
__device__ inline void result_of(const tacit_device_bundle_t &bundle, const float *sums, int row, float (&values)[WIDTH])
{
    const float part_of_mean = 1.0f / (float)bundle.ranks;
    const bool  mean = bundle.average && bundle.ranks > 1;

#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        values[c] = mean ? sums[element_of(row) + c] * part_of_mean : sums[element_of(row) + c];
    }
}

/* Bit 4 r + c: of this thread's c-th element in row r nothing is kept: what its tracker becomes is not finite (combine_any()). */
__device__ unsigned lost_of(const tacit_device_bundle_t &bundle, const tile_t &tile, const float *sums)
{
    unsigned lost = 0;

    for (int r = 0; r < TILE_ROWS; r++) {
        float values[WIDTH], tracked[WIDTH];

        result_of(bundle, sums, r, values);
        load_now(row_of(tile, r), TACIT_TRACKER_HBAR, 0, tracked);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            lost |= is_finite(tracked[c] + values[c]) ? 0u : 1u << (WIDTH * r + c);
        }
    }
    return lost;
}

/* Packed memory of a row follows, and what is beside it. What is not finite is packed as zero. */
__device__ void pack_row(const range_t &range, const float (&sent)[WIDTH], unsigned lost)
{
    const tacit_device_tensor_t &t = *range.t;
    float                        a[WIDTH], u[WIDTH];

    if (t.keep == TACIT_KEEP_DGC) {
        speed_up(range, u, a);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) { /* nothing that is sent is zero */
            u[c] = (t.flags & TACIT_DGC_MASKS) != 0 && sent[c] != 0 ? 0.0f : u[c];
        }
        store_next(range, TACIT_DGC_MOMENTUM, 0, u);
    } else {
        before_any(range, 0, a);
    }
    if (has_tracker(t)) {
        after_any(range, 0, a, sent, lost);
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        a[c] = is_finite(sent[c]) ? a[c] - sent[c] : a[c];
    }
    store_next(range, t.keep == TACIT_KEEP_DGC ? (int)TACIT_DGC_VELOCITY : (int)TACIT_EF_RESIDUAL, 0, a);
}

/* Of a step that has succeeded, before results are written: out may be in. values: room for a tile. */
__device__ __noinline__ void pack_tile(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes,
                                       const tile_t &tile, float *values)
{
    unsigned lost = 0;

    if (has_tracker(*tile.t)) {
        sum_tile(bundle, wholes, tile, values);
        lost = lost_of(bundle, tile, values);
        __syncthreads();
    }
    sent_tile(bundle, wholes, tile, values);
#pragma unroll 1
    for (int r = 0; r < TILE_ROWS; r++) {
        const float(&sent)[WIDTH] = *(const float(*)[WIDTH])(values + element_of(r));

        pack_row(row_of(tile, r), sent, lost >> WIDTH * r);
    }
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS, 4) /* 64 registers, also for what is called */
    finish(const __grid_constant__ tacit_device_bundle_t bundle, const __grid_constant__ tacit_device_wholes_t wholes)
{
    __shared__ float sums[TACIT_WHOLE_TILE];
    const tile_t     tile = tile_of(bundle, wholes, blockIdx.x);

    if (is_stopped(bundle)) {
        if (bundle.step->wholes_sent != 0 && tile.t->keep != TACIT_KEEP_NOTHING && !is_packed(*tile.t)) {
            undo_tile(bundle, wholes, tile, sums);
        }
        return;
    }
    if (is_packed(*tile.t)) {
        pack_tile(bundle, wholes, tile, sums);
    }
    sum_tile(bundle, wholes, tile, sums);
    for (int r = 0; r < TILE_ROWS; r++) {
        const range_t range = row_of(tile, r);
        float         values[WIDTH];

        result_of(bundle, sums, r, values);
        tacit::finish(range, 0, false, false, values);
        if (is_topk(tile) && tile.t->nonfinite == TACIT_NONFINITE_PASS) {
            scrub(range);
        }
    }
}

} /* namespace tacit_whole */

extern "C" void tacit_cuda_wholes_clear(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *message,
                                        void *stream)
{
    const unsigned blocks = (unsigned)((wholes->bytes + tacit_whole::CLEARED - 1) / tacit_whole::CLEARED);

    TACIT_LAUNCH(tacit_whole::clear, blocks, tacit_whole::THREADS, stream, *bundle, *wholes, (uint8_t *)message);
}

extern "C" void tacit_cuda_wholes_follow(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    TACIT_LAUNCH(tacit_whole::follow, wholes->followed ? wholes->topk_tiles : 0, tacit_whole::THREADS, stream, *bundle, *wholes);
}

extern "C" void tacit_cuda_wholes_fit(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    TACIT_LAUNCH(tacit_whole::fit, wholes->tile_count, tacit_whole::THREADS, stream, *bundle, *wholes);
}

extern "C" void tacit_cuda_wholes_finish(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    TACIT_LAUNCH(tacit_whole::finish, wholes->tile_count, tacit_whole::THREADS, stream, *bundle, *wholes);
}
