/* SPDX-License-Identifier: Apache-2.0 */
/* `topk` in a bundle: which elements are sent (compressors/topk_select.c). What is encoded is made and kept where feedback has
   room for it, and its magnitudes are counted by their first eleven bits; so it is known which elements may be among the
   largest. These are looked at for the next ten bits, and the last ten. Where there are too many of them (many magnitudes
   are alike), there is no list, and all elements of a tile are looked at again. */
#include "topk_device.h"

namespace tacit_topk {

constexpr int FIRST_SHIFT = 20, LOWER_BITS = 10;

/* a := what is encoded; where there is an array for it, it stays there. False: not all is finite. */
__device__ bool accumulate(const range_t &range, float (&a)[WIDTH])
{
    const tacit_device_tensor_t &t = *range.t;
    const int                    array = accumulator_of(t);
    float                        kept[WIDTH];
    bool                         finite = true;

    if (array == TACIT_DGC_VELOCITY) {
        float u[WIDTH];

        speed_up(range, u, a);
        store_next(range, TACIT_DGC_MOMENTUM, 0, u);
    } else {
        tacit_whole::before(range, a);
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        finite = finite && is_finite(a[c]);
        kept[c] = a[c];
    }
    if (!finite && array >= 0 && t.nonfinite != TACIT_NONFINITE_PASS) {
        float now[WIDTH];

        load_now(range, array, 0, now);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            kept[c] = is_finite(a[c]) ? a[c] : now[c];
        }
    }
    if (array >= 0) {
        store_next(range, array, 0, kept);
    }
    return finite;
}

/* The next digit, by counts of all that it may be, of the last block. False: not so many are counted. */
template <int DIGITS> __device__ bool fix_digit(tacit_device_digits_t *digits, const uint32_t *counts)
{
    constexpr int  EACH = DIGITS / THREADS;
    const int      top = DIGITS - 1 - EACH * (int)threadIdx.x;
    const uint32_t left = *(volatile uint32_t *)&digits->left, prefix = *(volatile uint32_t *)&digits->prefix;
    uint32_t       own = 0, total, above;

    for (int i = 0; i < EACH; i++) {
        own += counts[top - i];
    }
    above = block_prefix(own, &total);
    for (int i = 0; i < EACH; i++) {
        const uint32_t here = counts[top - i];

        if (above < left && left - above <= here) {
            digits->prefix = prefix << LOWER_BITS | (uint32_t)(top - i);
            digits->left = left - above;
        }
        above += here;
    }
    return left <= total;
}

/* Adds a block's counts to the tensor's. */
__device__ void add_counts(const uint32_t *own, uint32_t *counts, int digits)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < digits; i += THREADS) {
        if (own[i] != 0) {
            atomicAdd(&counts[i], own[i]);
        }
    }
}

__device__ void clear_counts(uint32_t *own, int digits)
{
    for (int i = (int)threadIdx.x; i < digits; i += THREADS) {
        own[i] = 0;
    }
    __syncthreads();
}

/* ---- A sample, which gives a threshold (compressors/topk_select.c) ---- */

/* Calls visit(k, element in the tile) for the tile's part of the sample, of which element k is the k-th. */
template <typename Visit> __device__ void visit_sample(const tile_t &tile, Visit visit)
{
    const uint64_t       stride = tile.w->stride, end = tile.first + (unsigned)tile.count;
    const tacit_stream_t stream = stream_of(*tile.bundle, *tile.t, false);
    const uint64_t       start = (uint64_t)tacit__random(&stream, 0) * stride >> 32;
    const uint64_t       before = tile.first > start ? (tile.first - start + stride - 1) / stride : 0;

    for (uint64_t k = before + threadIdx.x; start + k * stride < end; k += THREADS) {
        visit(tile.w->sample + k, (int)(start + k * stride - tile.first));
    }
}

/* Of the sample's magnitudes, the next digit is counted. */
__device__ void count_sample(const tacit_device_wholes_t &wholes, const tile_t &tile, uint32_t *counts, int shift)
{
    const uint32_t prefix = wholes.tallies[tile.whole].sampled.prefix;

    visit_sample(tile, [&](uint64_t k, int) {
        const uint32_t bits = wholes.samples[k];

        if (bits >> (shift + LOWER_BITS) == prefix) {
            atomicAdd(&counts[bits >> shift & (TACIT_LOWER_DIGITS - 1)], 1u);
        }
    });
}

/* The sample's threshold, lowered so often; bits of a magnitude from which on elements are sent. */
__device__ uint32_t threshold_of(const tacit_device_tally_t &tally, int lowered)
{
    uint32_t bits = min(tally.sampled.prefix, 0x7f7fffffu); /* the largest finite number */

    for (int i = 0; i < lowered; i++) {
        bits = tacit__float_bits(tacit__bits_float(bits) * 0.8f);
    }
    return bits;
}

/* ---- Passes ---- */

__global__ void __launch_bounds__(THREADS) gather(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    __shared__ uint32_t         counts[TACIT_DIGITS], bits[TACIT_WHOLE_TILE];
    const tile_t                tile = tile_of(bundle, wholes, blockIdx.x);
    tacit_device_tally_t *const tally = &wholes.tallies[tile.whole];
    const bool                  sampled = tile.w->stride != 0;
    bool                        finite = true;

    if (is_stopped(bundle)) {
        return;
    }
    clear_counts(counts, TACIT_DIGITS);
    for (int r = 0; r < TILE_ROWS; r++) {
        float a[WIDTH];

        finite = accumulate(row_of(tile, r), a) && finite;
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            if (magnitude(a[c]) != 0) {
                atomicAdd(&counts[magnitude(a[c]) >> FIRST_SHIFT], 1u);
            }
            if (sampled) {
                bits[element_of(r) + c] = magnitude(a[c]);
            }
        }
    }
    if (!finite) {
        note_value(bundle, tile);
    }
    add_counts(counts, tally->chosen.first, TACIT_DIGITS);
    if (sampled) { /* all threads have written theirs */
        visit_sample(tile, [&](uint64_t k, int at) {
            wholes.samples[k] = bits[at];
            atomicAdd(&tally->sampled.first[bits[at] >> FIRST_SHIFT], 1u);
        });
    }
    if (is_last_block(&tally->done, tile.w->tiles)) {
        if (threadIdx.x == 0) {
            tally->chosen.left = tile.w->keep;
            tally->sampled.left = tile.w->sample_keep;
        }
        __syncthreads();
        tally->all = fix_digit<TACIT_DIGITS>(&tally->chosen, tally->chosen.first) ? 0 : 1;
        if (sampled) {
            (void)fix_digit<TACIT_DIGITS>(&tally->sampled, tally->sampled.first);
        }
    }
}

/* Lists those elements that may be sent, tile by tile, of which each has a part of the list. */
__global__ void __launch_bounds__(THREADS) sift(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const tile_t                tile = tile_of(bundle, wholes, blockIdx.x);
    tacit_device_tally_t *const tally = &wholes.tallies[tile.whole];
    const uint32_t              least = tally->all ? 1 : max(tally->chosen.prefix << FIRST_SHIFT, 1u);
    __shared__ uint32_t         list;
    float                       a[TILE_ROWS][WIDTH];
    uint64_t                    found = 0, total, before;
    uint32_t                    count = 0, row_at = 0;

    if (is_stopped(bundle)) {
        return;
    }
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r++) { /* a row has 1024 elements: 16 bits count them */
        reload(row_of(tile, r), a[r]);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            found += (uint64_t)(magnitude(a[r][c]) >= least) << 16 * r;
        }
    }
    before = block_prefix(found, &total);
    for (int r = 0; r < TILE_ROWS; r++) {
        count += (uint32_t)(total >> 16 * r & 0xffff);
    }
    if (threadIdx.x == 0) {
        list = count != 0 ? atomicAdd(&tally->candidates, count) : 0;
        wholes.marks[tile.number].at = list;
        wholes.marks[tile.number].count = count;
    }
    __syncthreads();
    if (list > tile.w->room || count > tile.w->room - list) {
        if (threadIdx.x == 0) {
            tally->crowded = 1;
        }
        return;
    }
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r++) {
        uint64_t at = tile.w->candidate + list + row_at + (uint32_t)(before >> 16 * r & 0xffff);

#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            if (magnitude(a[r][c]) >= least) {
                wholes.candidate_indices[at] = (uint32_t)tile.first + (uint32_t)(element_of(r) + c);
                wholes.candidate_values[at++] = a[r][c];
            }
        }
        row_at += (uint32_t)(total >> 16 * r & 0xffff);
    }
}

/* The second and the third digit. */
template <int PASS> __global__ void __launch_bounds__(THREADS) refine(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    constexpr int               SHIFT = FIRST_SHIFT - LOWER_BITS * (PASS + 1);
    __shared__ uint32_t         counts[TACIT_LOWER_DIGITS];
    const tile_t                tile = tile_of(bundle, wholes, blockIdx.x);
    tacit_device_tally_t *const tally = &wholes.tallies[tile.whole];
    const items_t               items = items_of(wholes, tile);
    const bool                  many = items.count > THREADS; /* else it does not pay to count them here first */
    const uint32_t              prefix = tally->chosen.prefix;

    if (is_stopped(bundle) || (tally->all && tile.w->stride == 0)) {
        return;
    }
    if (many) {
        clear_counts(counts, TACIT_LOWER_DIGITS);
    }
#pragma unroll 1
    for (int r = 0; STEP * r < items.count; r++) {
        float    a[WIDTH];
        uint32_t index[WIDTH];

        items.load(r, a, index);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const uint32_t bits = magnitude(a[c]);

            if (bits != 0 && bits >> (SHIFT + LOWER_BITS) == prefix) {
                atomicAdd(&(many ? counts : tally->chosen.lower[PASS])[bits >> SHIFT & (TACIT_LOWER_DIGITS - 1)], 1u);
            }
        }
    }
    if (many) {
        add_counts(counts, tally->chosen.lower[PASS], TACIT_LOWER_DIGITS);
    }
    if (tile.w->stride != 0) {
        count_sample(wholes, tile, tally->sampled.lower[PASS], SHIFT);
    }
    if (is_last_block(&tally->done, tile.w->tiles)) {
        (void)fix_digit<TACIT_LOWER_DIGITS>(&tally->chosen, tally->chosen.lower[PASS]);
        if (tile.w->stride != 0) {
            (void)fix_digit<TACIT_LOWER_DIGITS>(&tally->sampled, tally->sampled.lower[PASS]);
        }
    }
}

/* Where there is a sample: how many of what may be sent is not below its threshold, and lower ones. So it is known which is
   used. */
__global__ void __launch_bounds__(THREADS) lower(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const tile_t                tile = tile_of(bundle, wholes, blockIdx.x);
    tacit_device_tally_t *const tally = &wholes.tallies[tile.whole];
    const items_t               items = items_of(wholes, tile);
    uint32_t                    found[TACIT_LOWERED] = {0}, from[TACIT_LOWERED];

    if (is_stopped(bundle) || tile.w->stride == 0) {
        return;
    }
#pragma unroll
    for (int i = 0; i < TACIT_LOWERED; i++) {
        from[i] = max(threshold_of(*tally, i), 1u);
    }
#pragma unroll 1
    for (int r = 0; STEP * r < items.count; r++) {
        float    a[WIDTH];
        uint32_t index[WIDTH];

        items.load(r, a, index);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
#pragma unroll
            for (int i = 0; i < TACIT_LOWERED; i++) {
                found[i] += magnitude(a[c]) >= from[i];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TACIT_LOWERED; i++) {
        const uint32_t sum = warp_sum(found[i]);

        if (lane() == 0 && sum != 0) {
            atomicAdd(&tally->lowered[i], sum);
        }
    }
    if (!is_last_block(&tally->done, tile.w->tiles) || threadIdx.x != 0) {
        return;
    }
#pragma unroll
    for (int i = 0; i < TACIT_LOWERED; i++) {
        if (!tally->all && tally->chosen.prefix >= from[i]) {
            return; /* there are as many as are wanted */
        }
        if (*(volatile uint32_t *)&tally->lowered[i] >= tile.w->enough || threshold_of(*tally, i) == 0 ||
            i == TACIT_LOWERED - 1) {
            tally->all = 0;
            tally->chosen.prefix = from[i] - 1;
            tally->chosen.left = 0;
            return;
        }
    }
}

/* What of earlier tiles is sent; how much of all. By the last block. */
__device__ void scan_marks(const tacit_device_wholes_t &wholes, const tile_t &tile, const choice_t &choice,
                           tacit_device_tally_t *tally)
{
    uint64_t base = 0;

    for (uint32_t i = 0; i < tile.w->tiles; i += THREADS) {
        volatile tacit_device_mark_t *const mark = &wholes.marks[tile.w->tile + i + threadIdx.x];
        const bool                          is = i + threadIdx.x < tile.w->tiles;
        const uint64_t                      own = is ? (uint64_t)mark->equal << 32 | mark->above : 0;
        uint64_t                            total;
        const uint64_t                      before = base + block_prefix(own, &total);

        if (is) {
            mark->above = (uint32_t)before;
            mark->equal = (uint32_t)(before >> 32);
        }
        base += total;
    }
    if (threadIdx.x == 0) {
        tally->entries = choice.before((uint32_t)base, (uint32_t)(base >> 32));
    }
}

__global__ void __launch_bounds__(THREADS) count(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const tile_t                tile = tile_of(bundle, wholes, blockIdx.x);
    tacit_device_tally_t *const tally = &wholes.tallies[tile.whole];
    const items_t               items = items_of(wholes, tile);
    const choice_t              choice = choice_of(tile, *tally);
    uint32_t                    found = 0; /* above, and equal: 16 bits each */

    if (is_stopped(bundle)) {
        return;
    }
#pragma unroll 1
    for (int r = 0; STEP * r < items.count; r++) {
        float    a[WIDTH];
        uint32_t index[WIDTH];

        items.load(r, a, index);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            found += choice.found(a[c]);
        }
    }
    found = block_sum(found);
    if (threadIdx.x == 0) {
        wholes.marks[tile.number].above = found & 0xffff;
        wholes.marks[tile.number].equal = found >> 16;
    }
    if (is_last_block(&tally->done, tile.w->tiles)) {
        scan_marks(wholes, tile, choice, tally);
    }
}

__global__ void __launch_bounds__(THREADS) collect(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const tile_t                tile = tile_of(bundle, wholes, blockIdx.x);
    tacit_device_tally_t *const tally = &wholes.tallies[tile.whole];
    const items_t               items = items_of(wholes, tile);
    const choice_t              choice = choice_of(tile, *tally);
    uint32_t                    above = wholes.marks[tile.number].above, equal = wholes.marks[tile.number].equal;

    if (is_stopped(bundle)) {
        return;
    }
#pragma unroll 1
    for (int r = 0; STEP * r < items.count; r++) {
        float    a[WIDTH];
        uint32_t index[WIDTH], found[WIDTH], own = 0, total, before;

        items.load(r, a, index);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            found[c] = choice.found(a[c]);
            own += found[c];
        }
        before = block_prefix(own, &total);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const uint32_t ties = equal + (before >> 16), at = choice.before(above + (before & 0xffff), ties);

            if (found[c] == 1 || (found[c] != 0 && choice.takes(ties))) {
                wholes.indices[tile.w->entry + at] = index[c];
                wholes.values[tile.w->entry + at] = a[c];
            }
            before += found[c];
        }
        above += total & 0xffff;
        equal += total >> 16;
    }
}

} /* namespace tacit_topk */

#define TACIT_TOPK_LAUNCH(kernel, bundle, wholes, stream)                                                                        \
    TACIT_LAUNCH(kernel, (wholes)->topk_tiles, tacit_whole::THREADS, stream, *(bundle), *(wholes))

extern "C" void tacit_cuda_topk_select(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    TACIT_TOPK_LAUNCH(tacit_topk::gather, bundle, wholes, stream);
    TACIT_TOPK_LAUNCH(tacit_topk::sift, bundle, wholes, stream);
    TACIT_TOPK_LAUNCH(tacit_topk::refine<0>, bundle, wholes, stream);
    TACIT_TOPK_LAUNCH(tacit_topk::refine<1>, bundle, wholes, stream);
    if (wholes->sampled) {
        TACIT_TOPK_LAUNCH(tacit_topk::lower, bundle, wholes, stream);
    }
    TACIT_TOPK_LAUNCH(tacit_topk::count, bundle, wholes, stream);
    TACIT_TOPK_LAUNCH(tacit_topk::collect, bundle, wholes, stream);
}
