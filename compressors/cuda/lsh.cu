/* SPDX-License-Identifier: Apache-2.0 */
/* `lsh` on a GPU: hashes of tokens. The same numbers as those of compressors/lsh.c. */
#include "launch.h"
#include "warp.h"

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

} /* namespace tacit_tokens */

extern "C" void tacit_cuda_lsh_codes(const tacit_rotations_t *rotations, const tacit_device_tokens_t *shape, const void *tokens,
                                     uint32_t *codes, void *stream)
{
    const size_t width = rotations->padded > tacit_tokens::SIDE ? rotations->padded : tacit_tokens::SIDE;
    const size_t each = tacit_tokens::TILE / width;

    TACIT_LAUNCH(tacit_tokens::find_codes, (unsigned)((shape->count + each - 1) / each), tacit_tokens::THREADS, stream,
                 *rotations, *shape, tokens, codes);
}
