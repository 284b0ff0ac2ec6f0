/* SPDX-License-Identifier: Apache-2.0 */
/* `topk` in a bundle: entries become a payload, in the shortest of the codings (compressors/topk_index.c), and leave memory. Each
   block of threads has a chunk of entries; where its codes begin follows from sums over the chunks before it. */
#include "topk_device.h"

namespace tacit_topk {

constexpr int EACH = TACIT_WHOLE_CHUNK / THREADS; /* entries of a thread, one behind the other */

/* Some of a tensor's entries. */
typedef struct chunk {
    const tacit_device_whole_t  *w;
    const tacit_device_tensor_t *t;
    tacit_device_tally_t        *tally;
    uint32_t                     number, whole;
    uint32_t                     first, end; /* of the entries, those that there are */
    uint32_t                     mine, past; /* of these, this thread's */
} chunk_t;

__device__ chunk_t chunk_of(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes, uint32_t number)
{
    const tacit_device_extent_t &extent = wholes.chunks[number];
    chunk_t                      chunk;

    chunk.number = number;
    chunk.whole = extent.whole;
    chunk.w = &wholes.wholes[chunk.whole];
    chunk.t = &bundle.tensors[chunk.w->tensor];
    chunk.tally = &wholes.tallies[chunk.whole];
    chunk.first = (uint32_t)extent.first;
    chunk.end = min(chunk.first + extent.count, chunk.tally->entries);
    chunk.mine = min(chunk.first + (uint32_t)EACH * threadIdx.x, chunk.end);
    chunk.past = min(chunk.mine + (uint32_t)EACH, chunk.end);
    return chunk;
}

/* Elements between an entry and the one before it. */
__device__ uint32_t gap_before(const uint32_t *indices, uint32_t entry)
{
    return entry == 0 ? indices[0] : indices[entry] - indices[entry - 1] - 1;
}

__device__ unsigned rice_parameter(const chunk_t &chunk, const volatile uint32_t *quotients)
{
    const uint64_t entries = chunk.tally->entries;
    unsigned       rice = 0;

    if (entries == 0) {
        return 0;
    }
    (void)tacit__rice_bits_bound(chunk.t->count, entries, &rice);
    while (rice > 0 && quotients[rice - 1] < quotients[rice] + entries) {
        rice--;
    }
    return rice;
}

/* The coding that is asked for, or the shortest, of equal ones the first (topk.c). */
__device__ void choose_format(const chunk_t &chunk)
{
    tacit_device_tally_t *const    tally = chunk.tally;
    const volatile uint32_t *const quotients = tally->quotients;
    const size_t                   entries = tally->entries, one = has_halves(*chunk.t) ? 2 : 4;
    const unsigned                 asked = chunk.t->code.variant;
    size_t                         least = SIZE_MAX;

    for (int coding = TACIT_INDEX_CODINGS - 1; coding >= 0; coding--) {
        const tacit_index_t index = (tacit_index_t)coding;
        const bool          hopeful = index != TACIT_INDEX_RLE16 || (2 + one) * entries <= least;

        if (asked == (unsigned)coding + 1 || (asked == 0 && hopeful)) {
            const unsigned rice = index == TACIT_INDEX_RICE ? rice_parameter(chunk, quotients) : 0;
            const size_t   pairs = entries + (index == TACIT_INDEX_RLE16 ? quotients[16] : 0);
            const size_t   bits = index == TACIT_INDEX_RICE ? entries * (rice + 1) + quotients[rice] : 0;
            const size_t   bytes = tacit__index_bytes_of(index, chunk.t->count, entries, pairs, bits);

            if (bytes + one * pairs <= least) {
                least = bytes + one * pairs;
                tally->index = index;
                tally->rice = rice;
                tally->index_bytes = (uint32_t)bytes;
                tally->pairs = (uint32_t)pairs;
            }
        }
    }
}

/* The length, and what the payload begins with. */
__device__ void write_header(const chunk_t &chunk, uint32_t *place)
{
    const tacit_device_tally_t &tally = *chunk.tally;
    const bool                  halves = has_halves(*chunk.t);
    uint32_t *const             payload = place + TACIT_PLACE_HEADER / 4;

    place[0] = TACIT_TOPK_HEADER + tally.index_bytes + tally.pairs * (halves ? 2 : 4);
    payload[0] = tally.pairs;
    payload[1] = tally.index | (uint32_t)halves << 8 | tally.rice << 16;
}

/* sums[] of the format, of a chunk: then those of the chunks before it. By the last block. */
__device__ void scan_chunks(const tacit_device_wholes_t &wholes, const chunk_t &chunk)
{
    const unsigned number = chunk.tally->index == TACIT_INDEX_RICE ? chunk.tally->rice : 16;
    uint32_t       base = 0;

    for (uint32_t i = 0; (uint64_t)i * TACIT_WHOLE_CHUNK < chunk.tally->entries; i += THREADS) {
        const uint64_t           own = i + threadIdx.x;
        volatile uint32_t *const sums = wholes.sums + (chunk.w->chunk + own) * TACIT_RICE_STATES;
        const bool               is = own * TACIT_WHOLE_CHUNK < chunk.tally->entries;
        uint32_t                 total;
        const uint32_t           before = base + block_prefix(is ? sums[number] : 0u, &total);

        if (is) {
            sums[0] = before;
        }
        base += total;
    }
}

/* Parameters that may be chosen; and by 2^16 runs are escaped. */
__device__ bool is_measured(unsigned rice, unsigned most)
{
    return rice <= most || rice == 16;
}

/* For each of these parameters, the gaps' quotients together. */
__global__ void __launch_bounds__(THREADS) measure(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, uint8_t *message)
{
    __shared__ uint32_t   warps[BLOCK_WARPS][TACIT_RICE_STATES];
    const chunk_t         chunk = chunk_of(bundle, wholes, blockIdx.x);
    const uint32_t *const indices = wholes.indices + chunk.w->entry;
    uint32_t              gaps[EACH];
    unsigned              most = 0;

    if (is_stopped(bundle)) {
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        gaps[i] = chunk.mine + (unsigned)i < chunk.past ? gap_before(indices, chunk.mine + (unsigned)i) : 0;
    }
    if (chunk.tally->entries != 0) {
        (void)tacit__rice_bits_bound(chunk.t->count, chunk.tally->entries, &most);
    }
    for (unsigned rice = 0; rice < TACIT_RICE_STATES; rice++) {
        uint32_t sum = 0;

        if (!is_measured(rice, most)) {
            continue;
        }

#pragma unroll
        for (int i = 0; i < EACH; i++) {
            sum += gaps[i] >> rice;
        }
        sum = warp_sum(sum);
        if (lane() == 0) {
            warps[threadIdx.x / WARP][rice] = sum;
        }
    }
    __syncthreads();
    if (is_measured(threadIdx.x, most) && chunk.first < chunk.end) {
        uint32_t sum = 0;

        for (int warp = 0; warp < BLOCK_WARPS; warp++) {
            sum += warps[warp][threadIdx.x];
        }
        wholes.sums[(uint64_t)chunk.number * TACIT_RICE_STATES + threadIdx.x] = sum;
        atomicAdd(&chunk.tally->quotients[threadIdx.x], sum);
    }
    if (!is_last_block(&chunk.tally->done, chunk.w->chunks)) {
        return;
    }
    if (threadIdx.x == 0) {
        choose_format(chunk);
        write_header(chunk, (uint32_t *)place_of(wholes, *chunk.w, bundle.rank, message));
    }
    __syncthreads();
    scan_chunks(wholes, chunk);
}

/* ORs up to 32 bits to words that are zero where they go. */
__device__ void put_code(uint32_t *words, uint64_t bit, uint32_t code)
{
    const uint64_t both = (uint64_t)code << bit % 32;

    if ((uint32_t)both != 0) {
        atomicOr(&words[bit / 32], (uint32_t)both);
    }
    if (both >> 32 != 0) {
        atomicOr(&words[bit / 32 + 1], (uint32_t)(both >> 32));
    }
}

/* Writes an entry's index. before: quotients, or escapes, of all entries before it. Returns where its value goes. */
__device__ uint32_t put_index(const chunk_t &chunk, uint8_t *out, uint32_t entry, uint32_t index, uint32_t gap, uint32_t before)
{
    const tacit_device_tally_t &tally = *chunk.tally;
    uint32_t *const             words = (uint32_t *)out;
    uint16_t *const             halves = (uint16_t *)out;
    const unsigned              rice = tally.rice;
    uint32_t                    pair = entry;

    switch (tally.index) {
    case TACIT_INDEX_U32:
        words[entry] = index;
        break;
    case TACIT_INDEX_U16:
        atomicAdd(&words[index / TACIT_INDEX_SPAN], 1u);
        halves[2 * (uint64_t)chunk.w->spans + entry] = (uint16_t)index;
        break;
    case TACIT_INDEX_RLE16:
        for (pair += before; gap >= TACIT_INDEX_SPAN; gap -= TACIT_INDEX_SPAN) {
            halves[pair++] = TACIT_INDEX_ESCAPE; /* its value is there already: zero */
        }
        halves[pair] = (uint16_t)gap;
        break;
    case TACIT_INDEX_BITMAP:
        atomicOr(&words[index / 32], 1u << index % 32);
        break;
    default: /* RICE: zeros are there; then a one, and the remainder */
        put_code(words, (uint64_t)entry * (rice + 1) + before + (gap >> rice), 1u | (gap & ((1u << rice) - 1)) << 1);
    }
    return pair;
}

/* Of an element that is sent as d, memory keeps the rest. */
__device__ void let_go(const chunk_t &chunk, unsigned turn, uint32_t index, float value, float d, float *kept)
{
    const tacit_device_tensor_t &t = *chunk.t;
    const int                    array = accumulator_of(t);

    if (array >= 0) {
        const float rest = has_halves(t) ? value - d : 0;

        ((float *)t.memory[1 - turn][array])[index] = is_finite(rest) ? rest : 0; /* it went with what was passed on */
    }
    if (array == TACIT_DGC_VELOCITY && (t.flags & TACIT_DGC_MASKS) != 0) {
        float *const u = (float *)t.memory[1 - turn][TACIT_DGC_MOMENTUM] + index;

        *kept = *u;
        *u = 0;
    }
}

__global__ void __launch_bounds__(THREADS) encode(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, uint8_t *message)
{
    const chunk_t         chunk = chunk_of(bundle, wholes, blockIdx.x);
    const uint32_t *const indices = wholes.indices + chunk.w->entry;
    float *const          values = wholes.values + chunk.w->entry;
    const unsigned        shift = chunk.tally->index == TACIT_INDEX_RICE ? chunk.tally->rice : 16, turn = *chunk.t->turn;
    const bool            halves = has_halves(*chunk.t);
    uint8_t *const        out = place_of(wholes, *chunk.w, bundle.rank, message) + TACIT_PLACE_HEADER + TACIT_TOPK_HEADER;
    uint8_t *const        values_out = out + chunk.tally->index_bytes;
    uint32_t              own = 0, total, before;

    if (is_stopped(bundle) || chunk.first >= chunk.end) {
        return;
    }
    for (uint32_t i = chunk.mine; i < chunk.past; i++) {
        own += gap_before(indices, i) >> shift;
    }
    before = wholes.sums[(uint64_t)chunk.number * TACIT_RICE_STATES] + block_prefix(own, &total);
    for (uint32_t i = chunk.mine; i < chunk.past; i++) {
        const uint32_t index = indices[i], gap = gap_before(indices, i), pair = put_index(chunk, out, i, index, gap, before);
        const float    value = values[i];
        const uint16_t half = to_half(value);
        const float    d = halves ? tacit__from_float16(half) : value;

        before += gap >> shift;
        if (halves) {
            ((uint16_t *)values_out)[pair] = half;
        } else {
            ((float *)values_out)[pair] = value;
        }
        values[i] = d;
        let_go(chunk, turn, index, value, d, wholes.kept + chunk.w->entry + i);
    }
}

} /* namespace tacit_topk */

extern "C" void tacit_cuda_topk_encode(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *message,
                                       void *stream)
{
    TACIT_LAUNCH(tacit_topk::measure, wholes->topk_chunks, tacit_whole::THREADS, stream, *bundle, *wholes, (uint8_t *)message);
    TACIT_LAUNCH(tacit_topk::encode, wholes->topk_chunks, tacit_whole::THREADS, stream, *bundle, *wholes, (uint8_t *)message);
}
