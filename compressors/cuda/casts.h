/* SPDX-License-Identifier: Apache-2.0 */
/* Codes that turn each element into one number of its own: a record may be any range. Cast says how: bits, put(), get(). */
#ifndef TACIT_CUDA_CASTS_H
#define TACIT_CUDA_CASTS_H

#include "tile.h"

namespace tacit
{

template <typename Cast, int ROWS> struct Casts {
    typedef struct {
    } Seen, Scale;
    typedef typename Cast::Number Number;

    __device__ static uint64_t bytes(const tacit_device_tensor_t &, uint64_t count)
    {
        return count * sizeof(Number);
    }

    __device__ static Seen see(const tacit_device_tensor_t &, const float (&)[ROWS][WIDTH], int)
    {
        return {};
    }

    __device__ static void join(Seen &, Seen)
    {
    }

    __device__ static Scale scale(const tacit_device_tensor_t &, Seen, uint64_t)
    {
        return {};
    }

    __device__ static bool put(const tacit_device_tensor_t &, const tacit_stream_t &, Scale, uint64_t, uint64_t at, int count,
                               const float (&a)[ROWS][WIDTH], uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        Number numbers[ROWS][WIDTH];
        bool   finite = true;

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                finite = finite && is_finite(a[r][c]);
                numbers[r][c] = Cast::put(a[r][c]);
                d[r][c] = Cast::get(numbers[r][c]);
            }
        }
        store((Number *)record + at, count, numbers);
        return !__any_sync(ALL, !finite);
    }

    __device__ static void get(const tacit_device_tensor_t &, const tacit_stream_t &, uint64_t, uint64_t at, int count,
                               const uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        Number numbers[ROWS][WIDTH];

        load((const Number *)record + at, count, numbers);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[r][c] = Cast::get(numbers[r][c]);
            }
        }
    }
};

} // namespace tacit

#endif
