/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and prefixes over the threads of a warp and of a block. All of its threads call, and their number is a multiple of a
   warp's. */
#ifndef TACIT_CUDA_SCAN_H
#define TACIT_CUDA_SCAN_H

#include "launch.h"
#include "warp.h"

namespace tacit {

/* Of this thread's value and those of the threads before it in the warp. */
template <typename T> __device__ T warp_prefix(T value)
{
#pragma unroll
    for (int apart = 1; apart < WARP; apart *= 2) {
        const T before = __shfl_up_sync(ALL, value, apart);
        value += lane() >= apart ? before : 0;
    }
    return value;
}

template <typename T> __device__ T warp_sum(T value)
{
    return join_lanes(value, [](T one, T other) { return one + other; });
}

/* Of the values of all threads before this one in the block; *total_out: of all threads. */
template <typename T> __device__ T block_prefix(T value, T *total_out)
{
    constexpr int MOST = 32;
    __shared__ T  sums[MOST];
    const T       own = warp_prefix(value);
    const int     warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    T             before = 0, total = 0;

    if (lane() == WARP - 1) {
        sums[warp] = own;
    }
    __syncthreads();
    for (int i = 0; i < warps; i++) {
        before += i < warp ? sums[i] : 0;
        total += sums[i];
    }
    __syncthreads();
    *total_out = total;
    return before + (own - value);
}

template <typename T> __device__ T block_sum(T value)
{
    T total;

    (void)block_prefix(value, &total);
    return total;
}

/* True, on all threads, for the last of `blocks` blocks to come here, which then sees what the others have written. *done is
   zero before and after. */
__device__ inline bool is_last_block(uint32_t *done, uint32_t blocks)
{
    __shared__ bool last;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(done, 1u) + 1 == blocks;
        if (last) {
            *done = 0;
        }
    }
    __syncthreads();
    __threadfence();
    return last;
}

} /* namespace tacit */

#endif
