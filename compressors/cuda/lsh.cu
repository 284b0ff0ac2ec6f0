/* SPDX-License-Identifier: Apache-2.0 */
/* `lsh` on a GPU: hashes of tokens, and clusters of those with equal hashes, found by sorting. The same numbers as those of
   compressors/lsh.c. */
#include "scan.h"

namespace tacit_tokens { /* `tacit_lsh` is a type */

using namespace tacit;

/* ---- Codes: a block of threads has a tile of elements, which are one or more tokens ---- */

/* A thread takes SIDE elements at a time through four steps of the transform, in its registers. Then all change hands. */
constexpr unsigned THREADS = 512, SIDE = 16, SIDE_STEPS = 4, TILE = THREADS * SIDE;
static_assert(TILE == TACIT_DEVICE_DIMENSION, "a token is in one tile");

/* Of which element of a thread's is which: 2^rows elements that lie 2^pitch apart, as often as it takes. */
typedef struct pass {
    unsigned rows, pitch;
} pass_t;

__device__ inline unsigned element_of(pass_t pass, unsigned i)
{
    const unsigned column = threadIdx.x + THREADS * (i >> pass.rows), row = i & ((1u << pass.rows) - 1);

    return (column >> pass.pitch << (pass.rows + pass.pitch)) + (row << pass.pitch) + (column & ((1u << pass.pitch) - 1));
}

/* Where it is in shared memory: neighbours, and elements SIDE apart, are in different banks. */
constexpr unsigned SHARED = TILE + TILE / SIDE;

__device__ inline unsigned place_of(unsigned element)
{
    return element + element / SIDE;
}

/* From what threads have in one pass to what they have in another. What a thread writes in its place it has read there itself. */
__device__ inline void exchange(float *shared, pass_t from, pass_t to, float (&v)[SIDE])
{
#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) {
        shared[place_of(element_of(from, i))] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) {
        v[i] = shared[place_of(element_of(to, i))];
    }
}

/* The first of a transform of 2^steps elements; the last has neighbours, and tokens of fewer than SIDE elements have it alone. */
__device__ inline pass_t first_pass(unsigned steps)
{
    const unsigned before = steps > SIDE_STEPS ? (steps - 1) % SIDE_STEPS + 1 : SIDE_STEPS;
    const pass_t   pass = {before, steps > SIDE_STEPS ? steps - before : 0};

    return pass;
}

/* v: elements of the first pass, become those of the last: signs are flipped, and elements far apart become their sum and their
   difference first, neighbours last (tacit__hadamard_any()). */
__device__ inline void rotate(float *shared, const uint32_t *signs, unsigned steps, float (&v)[SIDE])
{
    pass_t pass = first_pass(steps);

#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) {
        const unsigned at = element_of(pass, i) & ((1u << steps) - 1);

        v[i] = tacit__bits_float(tacit__float_bits(v[i]) ^ signs[at / 32] >> at % 32 << 31);
    }
    for (;;) {
#pragma unroll
        for (unsigned step = SIDE_STEPS; step > 0; step--) {
            if (step > pass.rows || step > steps) {
                continue;
            }
#pragma unroll
            for (unsigned i = 0; i < SIDE / 2; i++) {
                const unsigned apart = 1u << (step - 1), one = i / apart * 2 * apart + i % apart;
                const float    low = v[one], high = v[one + apart];

                v[one] = low + high;
                v[one + apart] = low - high;
            }
        }
        if (pass.pitch == 0) {
            return;
        }
        const pass_t next = {SIDE_STEPS, pass.pitch - SIDE_STEPS};
        exchange(shared, pass, next, v);
        pass = next;
    }
}

/* Greater for what is nearer, and of what is equally near for lower elements, and for the plus. NaN is passed over: 0. */
__device__ inline uint64_t nearness_of(float value, unsigned at)
{
    const uint32_t magnitude = tacit__float_bits(value) & 0x7fffffffu;

    return magnitude > 0x7f800000u ? 0 : (uint64_t)magnitude << 32 | (uint32_t) ~(2 * at + (value < 0));
}

/* The greatest of all threads that have a token's elements: the next `threads`, a power of two. */
__device__ inline uint64_t nearest_of(uint64_t nearest, unsigned threads)
{
    __shared__ uint64_t of_warps[THREADS / WARP];
    const unsigned      warp = threadIdx.x / WARP, warps = threads / WARP;

    for (unsigned apart = min(threads, (unsigned)WARP) / 2; apart > 0; apart /= 2) {
        const uint64_t other = __shfl_xor_sync(ALL, nearest, (int)apart);
        nearest = other > nearest ? other : nearest;
    }
    if (warps > 1) {
        if (lane() == 0) {
            of_warps[warp] = nearest;
        }
        __syncthreads();
        for (unsigned i = warp / warps * warps; i < (warp / warps + 1) * warps; i++) {
            nearest = of_warps[i] > nearest ? of_warps[i] : nearest;
        }
    }
    return nearest;
}

__device__ inline float number_of(const tacit_device_tokens_t &shape, const void *tokens, size_t at)
{
    float x;

    if (shape.dtype == TACIT_FLOAT32) {
        x = ((const float *)tokens)[at];
    } else {
        const uint16_t half = ((const uint16_t *)tokens)[at];
        x = shape.dtype == TACIT_FLOAT16 ? tacit__from_float16(half) : tacit__from_bfloat16(half);
    }
    return shape.skip && !is_finite(x) ? 0.0f : x;
}

__global__ void __launch_bounds__(THREADS, 2)
    find_codes(tacit_rotations_t rotations, tacit_device_tokens_t shape, const void *tokens, uint32_t *codes)
{
    __shared__ float shared[SHARED];
    const unsigned   padded = (unsigned)rotations.padded, steps = (unsigned)__ffs((int)padded) - 1;
    const unsigned   width = max(steps, SIDE_STEPS); /* of a token in the tile; what is behind its last element is zero */
    const size_t     words = (padded + 31) / 32, first = (size_t)blockIdx.x * (TILE >> width);
    const size_t     own = first + (threadIdx.x * SIDE >> width); /* token of this thread's elements in the last pass */
    const pass_t     begin = first_pass(steps), end = {SIDE_STEPS, 0};
    float            x[SIDE], v[SIDE];

#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) {
        const unsigned element = element_of(begin, i), at = element & ((1u << width) - 1);
        const size_t   token = first + (element >> width);

        x[i] = token < shape.count && at < shape.dimension ? number_of(shape, tokens, shape.dimension * token + at) : 0.0f;
    }
    for (size_t h = 0; h < rotations.hashes; h++) {
        uint64_t nearest = 0;

        __syncthreads(); /* for the last one's shared memory */
#pragma unroll
        for (unsigned i = 0; i < SIDE; i++) {
            v[i] = x[i];
        }
        for (size_t round = 0; round < rotations.rounds; round++) {
            if (round > 0) {
                exchange(shared, end, begin, v);
            }
            rotate(shared, rotations.signs + words * (rotations.rounds * h + round), steps, v);
        }
#pragma unroll
        for (unsigned i = 0; i < SIDE; i++) {
            const unsigned at = element_of(end, i) & ((1u << width) - 1);
            const uint64_t near = at < padded ? nearness_of(v[i], at) : 0;
            nearest = near > nearest ? near : nearest;
        }
        nearest = nearest_of(nearest, (1u << width) / SIDE);
        if (own < shape.count && (threadIdx.x * SIDE & ((1u << width) - 1)) == 0) {
            const uint32_t code = ~(uint32_t)nearest;
            codes[rotations.stride * own + h] = nearest == 0 ? 0 : code / 2 + (code % 2 != 0 ? padded : 0);
        }
    }
}

/* ---- Clusters ---- */

/* What tokens are sorted by. */
typedef struct order {
    tacit_device_coded_t coded;
    const uint32_t      *hashes; /* of a part; NULL: all */
} order_t;

/* The first of so many codes in which two tokens differ; 0 where their groups do. */
__device__ inline uint32_t level_of(const tacit_device_coded_t &coded, uint32_t hashes, uint32_t one, uint32_t other)
{
    const uint32_t *a = coded.codes + (size_t)coded.hashes * one, *b = coded.codes + (size_t)coded.hashes * other;
    uint32_t        level = 0;

    while (coded.group[one] == coded.group[other] && level < hashes && a[level] == b[level]) {
        level++;
    }
    return level;
}

/* Groups, then codes: less than 0 where those of `one` come before, 0 where all are equal. */
__device__ inline int compare(const order_t &order, uint32_t one, uint32_t other)
{
    const tacit_device_coded_t &coded = order.coded;
    const uint32_t              hashes = order.hashes != NULL ? order.hashes[coded.part[one]] : coded.hashes;
    const uint32_t              level = level_of(coded, hashes, one, other);
    uint32_t                    a = coded.group[one], b = coded.group[other];

    if (a == b && level < hashes) {
        a = coded.codes[(size_t)coded.hashes * one + level];
        b = coded.codes[(size_t)coded.hashes * other + level];
    }
    return a < b ? -1 : a > b;
}

/* How many of a sorted run come before a token: of those that are equal to it, the ones below `least`. */
__device__ inline uint32_t count_before(const order_t &order, const uint32_t *run, uint32_t count, uint32_t token, uint32_t least)
{
    uint32_t low = 0, high = count;

    while (low < high) {
        const uint32_t middle = (low + high) / 2, other = run[middle];
        const int      side = compare(order, other, token);

        if (side < 0 || (side == 0 && other < least)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Where the i-th token goes as each two sorted runs of a length become one. */
__device__ inline uint32_t merged_to(const order_t &order, const uint32_t *from, uint32_t count, uint32_t length, uint32_t i)
{
    const uint32_t own = i / length * length, pair = i / length / 2 * 2 * length;
    const uint32_t other = own == pair ? pair + length : pair, others = other < count ? min(length, count - other) : 0;

    return pair + (i - own) + count_before(order, from + other, others, from[i], from[i]);
}

constexpr unsigned SORTED = TACIT_SORTED_TILE;

__global__ void __launch_bounds__(SORTED) sort_tiles(tacit_device_clusters_t clusters, order_t order, uint32_t *sorted)
{
    __shared__ uint32_t runs[2][SORTED];
    const uint32_t      first = blockIdx.x * SORTED, own = threadIdx.x, left = order.coded.tokens - first;
    const uint32_t      count = min(left, (uint32_t)SORTED);
    unsigned            side = 0;

    if (own == 0 && count != 0) {
        clusters.tiles[blockIdx.x] = 0;
    }
    for (uint32_t i = first + own; i < order.coded.parts * (order.coded.hashes + 1); i += gridDim.x * SORTED) {
        clusters.levels[i] = 0;
    }
    runs[0][own] = first + own;
    for (uint32_t length = 1; length < SORTED; length *= 2, side = 1 - side) {
        __syncthreads();
        if (own < count) {
            runs[1 - side][merged_to(order, runs[side], count, length, own)] = runs[side][own];
        }
    }
    __syncthreads();
    if (own < count) {
        sorted[first + own] = runs[side][own];
    }
}

__global__ void __launch_bounds__(SORTED)
    merge_runs(order_t order, const uint32_t *from, uint32_t count, uint32_t length, uint32_t *to)
{
    const uint32_t i = blockIdx.x * SORTED + threadIdx.x;

    if (i < count) {
        to[merged_to(order, from, count, length, i)] = from[i];
    }
}

/* Of each part, how many tokens differ from those before them in a code, but in none before it, and how many there are at all. */
__global__ void __launch_bounds__(SORTED) count_levels(tacit_device_clusters_t clusters, tacit_device_coded_t coded)
{
    const uint32_t i = blockIdx.x * SORTED + threadIdx.x;

    if (i < coded.tokens) {
        const uint32_t  token = clusters.order[i];
        const uint32_t  level = i == 0 ? 0 : level_of(coded, coded.hashes, clusters.order[i - 1], token);
        uint32_t *const levels = clusters.levels + coded.part[token] * (coded.hashes + 1);

        if (level < coded.hashes) {
            atomicAdd(&levels[level], 1u);
        }
        atomicAdd(&levels[coded.hashes], 1u);
    }
}

/* The last number of hashes up to which clusters are within the rate. */
__global__ void __launch_bounds__(SORTED) choose_hashes(tacit_device_clusters_t clusters, tacit_device_coded_t coded)
{
    for (uint32_t part = threadIdx.x; part < coded.parts; part += SORTED) {
        const uint32_t *const levels = clusters.levels + part * (coded.hashes + 1);
        const double          tokens = (double)levels[coded.hashes];
        uint32_t              hashes = 1, count = levels[0];

        while (hashes < coded.hashes && !((double)(count + levels[hashes]) / tokens > coded.rate)) {
            count += levels[hashes++];
        }
        clusters.hashes[part] = coded.rate > 0 ? hashes : coded.hashes;
    }
}

/* Where a token's cluster begins in their order, to where the sort had its spare; and how many first ones a tile has. */
__global__ void __launch_bounds__(SORTED) find_begins(tacit_device_clusters_t clusters, order_t order)
{
    const uint32_t i = blockIdx.x * SORTED + threadIdx.x;

    if (i < order.coded.tokens) {
        const uint32_t token = clusters.order[i], begin = count_before(order, clusters.order, i, token, 0);

        clusters.spare[token] = begin;
        if (begin == i) {
            atomicAdd(&clusters.tiles[token / SORTED], 1u);
        }
    }
}

/* Numbers clusters as their first tokens come. */
__global__ void __launch_bounds__(SORTED) number_clusters(tacit_device_clusters_t clusters, uint32_t count)
{
    const uint32_t token = blockIdx.x * SORTED + threadIdx.x;
    const bool     first = token < count && clusters.order[clusters.spare[token]] == token;
    uint32_t       before = 0, own, total;

    for (uint32_t tile = threadIdx.x; tile < blockIdx.x; tile += SORTED) {
        before += clusters.tiles[tile];
    }
    before = block_sum(before);
    own = before + block_prefix((uint32_t)first, &total);
    if (first) {
        clusters.of[token] = own;
        clusters.first[own] = token;
        clusters.begin[own] = clusters.spare[token];
    }
    if (blockIdx.x + 1 == gridDim.x && threadIdx.x == 0) {
        *clusters.count = before + total;
    }
}

/* What the others learn of the first token, and the first of the last. */
__global__ void __launch_bounds__(SORTED) tell_clusters(tacit_device_clusters_t clusters, uint32_t count)
{
    const uint32_t i = blockIdx.x * SORTED + threadIdx.x;

    if (i < count) {
        const uint32_t token = clusters.order[i], begin = clusters.spare[token], own = clusters.of[clusters.order[begin]];

        if (begin != i) {
            clusters.of[token] = own;
        }
        if (i + 1 == count || clusters.spare[clusters.order[i + 1]] != begin) {
            clusters.members[own] = i + 1 - begin;
        }
    }
}

static uint32_t blocks_for(uint32_t tokens)
{
    return tokens != 0 ? (tokens + SORTED - 1) / SORTED : 1; /* which says that there are no clusters */
}

/* To clusters.order. */
static void sort(const tacit_device_clusters_t &clusters, const order_t &order, void *stream)
{
    const uint32_t count = order.coded.tokens;
    uint32_t      *from = clusters.order, *to = clusters.spare;

    for (uint32_t length = SORTED; length < count; length *= 2) { /* so that the last one goes there */
        uint32_t *const other = from;
        from = to;
        to = other;
    }
    TACIT_LAUNCH(sort_tiles, blocks_for(count), SORTED, stream, clusters, order, from);
    for (uint32_t length = SORTED; length < count; length *= 2) {
        uint32_t *const other = from;
        TACIT_LAUNCH(merge_runs, blocks_for(count), SORTED, stream, order, from, count, length, to);
        from = to;
        to = other;
    }
}

} /* namespace tacit_tokens */

extern "C" void tacit_cuda_lsh_codes(const tacit_rotations_t *rotations, const tacit_device_tokens_t *shape, const void *tokens,
                                     uint32_t *codes, void *stream)
{
    const size_t width = rotations->padded > tacit_tokens::SIDE ? rotations->padded : tacit_tokens::SIDE;
    const size_t each = tacit_tokens::TILE / width;

    TACIT_LAUNCH(tacit_tokens::find_codes, (unsigned)((shape->count + each - 1) / each), tacit_tokens::THREADS, stream,
                 *rotations, *shape, tokens, codes);
}

extern "C" void tacit_cuda_lsh_cluster(const tacit_device_coded_t *coded, const tacit_device_clusters_t *clusters, void *stream)
{
    const uint32_t              blocks = tacit_tokens::blocks_for(coded->tokens);
    const tacit_tokens::order_t by_all = {*coded, NULL}, by_some = {*coded, clusters->hashes};

    tacit_tokens::sort(*clusters, by_all, stream);
    if (coded->rate > 0) {
        TACIT_LAUNCH(tacit_tokens::count_levels, blocks, tacit_tokens::SORTED, stream, *clusters, *coded);
    }
    TACIT_LAUNCH(tacit_tokens::choose_hashes, 1, tacit_tokens::SORTED, stream, *clusters, *coded);
    if (coded->rate > 0) {
        tacit_tokens::sort(*clusters, by_some, stream);
    }
    TACIT_LAUNCH(tacit_tokens::find_begins, blocks, tacit_tokens::SORTED, stream, *clusters, by_some);
    TACIT_LAUNCH(tacit_tokens::number_clusters, blocks, tacit_tokens::SORTED, stream, *clusters, coded->tokens);
    TACIT_LAUNCH(tacit_tokens::tell_clusters, blocks, tacit_tokens::SORTED, stream, *clusters, coded->tokens);
}
