/* SPDX-License-Identifier: Apache-2.0 */
/* A warp and the elements that it works on: up to 128 x ROWS, of which row r, lane t has elements 128 r + 4 t to 128 r + 4 t + 3.
   So memory is read and written 16 bytes at a time, and lane j of a sum over 64 lanes is known to two threads of a warp. */
#ifndef TACIT_CUDA_WARP_H
#define TACIT_CUDA_WARP_H

#include "bits.h"
#include "device.h"
#include "float16.h"

#include "launch.h"

namespace tacit {

constexpr int      WARP = 32, WIDTH = 4, ROW = WARP * WIDTH;
constexpr unsigned ALL = 0xffffffffu;

__device__ inline int lane()
{
    return (int)(threadIdx.x % WARP);
}

/* The first of this thread's elements of a row. */
__device__ inline int place(int row)
{
    return ROW * row + WIDTH * lane();
}

__device__ inline bool is_finite(float value)
{
    return (tacit__float_bits(value) & 0x7f800000u) != 0x7f800000u;
}

__device__ inline bool is_aligned(const void *address, unsigned bytes)
{
    return (uintptr_t)address % bytes == 0;
}

/* ---- A row's four elements of this thread, of a[0..count) ---- */

/* x := them; zero behind the last. */
__device__ inline void load(const float *a, int row, int count, float (&x)[WIDTH])
{
    const int at = place(row);

    if (is_aligned(a, 16) && at + WIDTH <= count) {
        const float4 four = *(const float4 *)(a + at);

        x[0] = four.x;
        x[1] = four.y;
        x[2] = four.z;
        x[3] = four.w;
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        x[c] = at + c < count ? a[at + c] : 0.0f;
    }
}

__device__ inline void store(float *a, int row, int count, const float (&x)[WIDTH])
{
    const int at = place(row);

    if (is_aligned(a, 16) && at + WIDTH <= count) {
        *(float4 *)(a + at) = make_float4(x[0], x[1], x[2], x[3]);
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        if (at + c < count) {
            a[at + c] = x[c];
        }
    }
}

/* Halves, as bits. */
__device__ inline void load(const uint16_t *a, int row, int count, uint16_t (&x)[WIDTH])
{
    const int at = place(row);

    if (is_aligned(a, 8) && at + WIDTH <= count) {
        const uint2 four = *(const uint2 *)(a + at);

        x[0] = (uint16_t)four.x;
        x[1] = (uint16_t)(four.x >> 16);
        x[2] = (uint16_t)four.y;
        x[3] = (uint16_t)(four.y >> 16);
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        x[c] = at + c < count ? a[at + c] : (uint16_t)0;
    }
}

__device__ inline void store(uint16_t *a, int row, int count, const uint16_t (&x)[WIDTH])
{
    const int at = place(row);

    if (is_aligned(a, 8) && at + WIDTH <= count) {
        *(uint2 *)(a + at) = make_uint2(x[0] | (unsigned)x[1] << 16, x[2] | (unsigned)x[3] << 16);
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        if (at + c < count) {
            a[at + c] = x[c];
        }
    }
}

/* ---- Sums, in the order of all block sums: lane j of 64 takes elements i = j mod 64 in ascending i; then halves are added to
   halves ---- */

/* The sum of term(element) over all rows, on every lane. Lane j of 64 is that of elements of thread j / 4 in even rows of 64, and
   of thread 16 + j / 4 in odd ones: these two share it out. */
template <typename T, int ROWS, typename Term> __device__ T lanes_sum(Term term)
{
    const bool upper = lane() >= WARP / 2;
    T          sum[2] = {0, 0};

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const T low = term(r, c), high = term(r, c + 2);
            const T kept = upper ? high : low, other = __shfl_xor_sync(ALL, upper ? low : high, WARP / 2);

            sum[c] += upper ? other : kept;
            sum[c] += upper ? kept : other;
        }
    }
#pragma unroll
    for (int apart = 8; apart > 0; apart /= 2) {
        sum[0] += __shfl_xor_sync(ALL, sum[0], apart);
        sum[1] += __shfl_xor_sync(ALL, sum[1], apart);
    }
    sum[0] += __shfl_xor_sync(ALL, sum[0], WARP / 2);
    sum[1] += __shfl_xor_sync(ALL, sum[1], WARP / 2);
    return sum[0] + sum[1];
}

template <typename T, typename Join> __device__ T join_lanes(T value, Join join)
{
#pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        value = join(value, __shfl_xor_sync(ALL, value, apart));
    }
    return value;
}

/* ---- Streams of numbers of `bits` bits, one an element, the first one's lowest bit first ---- */

/* Writes the words of a row, of which there are `words`. four: this thread's numbers, the first lowest. */
__device__ inline void put_bits(uint8_t *row, unsigned words, unsigned bits, unsigned four)
{
    const unsigned own = 32 * (unsigned)lane();                      /* the first bit of this thread's word */
    const unsigned first = own / (4 * bits), threads = 8 / bits + 2; /* that have bits of it */
    uint32_t       word = 0;

    if (bits == 8) {
        word = four;
    } else {
        for (unsigned i = 0; i < threads; i++) {
            const unsigned from = first + i, value = __shfl_sync(ALL, four, (int)(from % WARP));
            const int      shift = (int)(4 * bits * from) - (int)own;

            if (from < WARP && shift < 32 && shift > -32) {
                word |= shift >= 0 ? value << shift : value >> -shift;
            }
        }
    }
    if ((unsigned)lane() < words && (unsigned)lane() < 4 * bits) {
        *(uint32_t *)(row + 4 * lane()) = word;
    }
}

/* This thread's four numbers of a row of which there are `words` words. */
__device__ inline unsigned get_bits(const uint8_t *row, unsigned words, unsigned bits)
{
    const unsigned  at = 4 * bits * (unsigned)lane(), word = at / 32;
    const uint32_t *from = (const uint32_t *)row + word;
    const uint64_t  low = word < words ? from[0] : 0, high = word + 1 < words && at % 32 + 4 * bits > 32 ? from[1] : 0;

    return (unsigned)((high << 32 | low) >> at % 32);
}

/* ---- Bytes at any address ---- */

/* Writes `count` bytes at most, 4 of each thread's. Words lie across the threads' fours: each thread writes the one that its own
   four begins in. */
__device__ inline void put_bytes(uint8_t *to, int count, uint32_t four)
{
    const int      off = (int)((uintptr_t)to % 4), begin = WIDTH * lane() - (lane() > 0 ? off : 0);
    const uint32_t before = __shfl_up_sync(ALL, four, 1);
    const uint64_t both = (uint64_t)four << 32 | before;
    const uint64_t bytes = lane() > 0 ? both >> 8 * (WIDTH - off) : four;
    const int      end = lane() < WARP - 1 ? WIDTH * (lane() + 1) - off : ROW;

    if (end - begin == WIDTH && end <= count) {
        *(uint32_t *)(to + begin) = (uint32_t)bytes;
    } else {
        for (int i = begin; i < end && i < count; i++) {
            to[i] = (uint8_t)(bytes >> 8 * (i - begin));
        }
    }
}

/* This thread's four of `count` bytes; zeros behind them. No word is read of which no byte is among them. */
__device__ inline uint32_t get_bytes(const uint8_t *from, int count)
{
    const unsigned  off = (unsigned)((uintptr_t)from % 4);
    const int       at = WIDTH * lane();
    const uint32_t *words = (const uint32_t *)(from - off + at);
    const uint64_t  low = at < count ? words[0] : 0, high = off != 0 && at + WIDTH - (int)off < count ? words[1] : 0;
    const uint32_t  four = (uint32_t)((high << 32 | low) >> 8 * off);

    return at + WIDTH <= count ? four : at < count ? four & ((1u << 8 * (count - at)) - 1) : 0;
}

} /* namespace tacit */

#endif
