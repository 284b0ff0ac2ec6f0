/* SPDX-License-Identifier: Apache-2.0 */
/* Codes that turn each element into one number of its own, so that a record may be any range. A Cast says how:
   Number, put(), get(). */
#ifndef TACIT_CUDA_CASTS_H
#define TACIT_CUDA_CASTS_H

#include "tile.h"

namespace tacit {

template <typename Cast, int ROWS> struct Casts {
    typedef typename Cast::Number Number;
    struct Seen {};
    struct Scale {};

    __device__ static uint64_t bytes(const tacit_device_tensor_t &, uint64_t count)
    {
        return count * sizeof(Number);
    }

    __device__ static Seen see(const tacit_device_tensor_t &, const float (&)[ROWS][WIDTH], int)
    {
        return Seen();
    }

    __device__ static Scale scale(const tacit_device_tensor_t &, Seen, uint64_t)
    {
        return Scale();
    }

    struct Put {
        Number *to;
        int     count;
        bool    finite;

        __device__ Put(const part_t &part, Scale, const float (&)[ROWS][WIDTH])
            : to((Number *)part.record + part.at), count(part.count), finite(true)
        {
        }

        __device__ void row(int r, const float (&a)[WIDTH], float (&d)[WIDTH])
        {
            Number numbers[WIDTH];

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                finite = finite && is_finite(a[c]);
                numbers[c] = Cast::put(a[c]);
                d[c] = Cast::get(numbers[c]);
            }
            store(to, r, count, numbers);
        }

        __device__ bool end() const
        {
            return !__any_sync(ALL, !finite);
        }
    };

    struct Get {
        const Number *from;
        int           count;

        __device__ Get(const part_t &part) : from((const Number *)part.record + part.at), count(part.count)
        {
        }

        __device__ void row(int r, float (&d)[WIDTH]) const
        {
            Number numbers[WIDTH];

            load(from, r, count, numbers);
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[c] = Cast::get(numbers[c]);
            }
        }
    };
};

} /* namespace tacit */

#endif
