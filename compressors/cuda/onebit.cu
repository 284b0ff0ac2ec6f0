/* SPDX-License-Identifier: Apache-2.0 */
/* `onebit` on a GPU. */
#include "tile.h"

namespace tacit_onebit {

using namespace tacit;

/* A row of 128 elements has four words of bits; eight threads know each. */
constexpr int WORDS = ROW / 32, SHARE = WARP / WORDS;

template <int ROWS> struct Code {
    struct Seen {
        double sum;
        bool   finite;
    };
    typedef float Scale;

    __device__ static bool is_l1(const tacit_device_tensor_t &t)
    {
        return t.code.variant != 0;
    }

    __device__ static uint64_t record_bytes(uint64_t count)
    {
        return count > 0 ? 4 + 4 * ((count + 31) / 32) : 0;
    }

    __device__ static uint64_t bytes(const tacit_device_tensor_t &t, uint64_t count)
    {
        return t.code.block == 0 ? record_bytes(count)
                                 : count / t.code.block * record_bytes(t.code.block) + record_bytes(count % t.code.block);
    }

    /* The sum of squares, or of magnitudes, in float32; in float64 where that leaves its range or loses bits. */
    __device__ static Seen see(const tacit_device_tensor_t &t, const float (&a)[ROWS][WIDTH], int)
    {
        const bool l1 = is_l1(t);
        bool       finite = true;
        Seen       seen;
        float      sum;

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                finite = finite && is_finite(a[r][c]);
            }
        }
        sum = lanes_sum<float, ROWS>([&](int r, int c) { return l1 ? fabsf(a[r][c]) : a[r][c] * a[r][c]; });
        seen.finite = !__any_sync(ALL, !finite);
        seen.sum = sum;
        if (!is_finite(sum) || (!l1 && !(sum >= 0x1p-96f))) {
            seen.sum = lanes_sum<double, ROWS>(
                [&](int r, int c) { return l1 ? fabs((double)a[r][c]) : (double)a[r][c] * (double)a[r][c]; });
        }
        return seen;
    }

    __device__ static void join(Seen &total, Seen part)
    {
        total.sum += part.sum;
        total.finite = total.finite && part.finite;
    }

    __device__ static Scale scale(const tacit_device_tensor_t &t, Seen seen, uint64_t count)
    {
        const double mean = seen.sum / (double)count;

        return seen.finite ? (float)(is_l1(t) ? mean : sqrt(mean)) : tacit__bits_float(TACIT_FLOAT_NAN);
    }

    /* Where this thread's bits of a row are in a word: a byte's first element is its most significant bit. */
    __device__ static int shift()
    {
        return lane() % SHARE / 2 * 8 + (lane() % 2 == 0 ? 4 : 0);
    }

    struct Put {
        static constexpr int GROUPS = (ROWS + SHARE - 1) / SHARE;

        const part_t &part;
        Scale         scale;
        uint32_t      kept[GROUPS]; /* of every eighth row, one word */

        __device__ Put(const part_t &part, Scale scale, const float (&)[ROWS][WIDTH]) : part(part), scale(scale), kept()
        {
            if (part.at == 0 && lane() == 0) {
                *(float *)part.record = scale;
            }
        }

        __device__ void row(int r, const float (&a)[WIDTH], float (&d)[WIDTH])
        {
            uint32_t word = 0;

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const bool set = a[c] >= 0;

                word |= (uint32_t)set << (WIDTH - 1 - c);
                d[c] = tacit__bits_float(tacit__float_bits(scale) ^ (set ? 0 : 0x80000000u));
            }
            word <<= shift();
#pragma unroll
            for (int apart = 1; apart < SHARE; apart *= 2) {
                word |= __shfl_xor_sync(ALL, word, apart);
            }
            kept[r / SHARE] = lane() % SHARE == r % SHARE ? word : kept[r / SHARE];
        }

        __device__ bool end() const
        {
            uint32_t *const bits = (uint32_t *)(part.record + 4 + part.at / 8);

#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                const int row = SHARE * g + lane() % SHARE, word = WORDS * row + lane() / SHARE;

                if (row < ROWS && word < (part.count + 31) / 32) {
                    bits[word] = kept[g];
                }
            }
            return is_finite(scale);
        }
    };

    struct Get {
        const uint32_t *bits;
        int             words;
        float           scale;

        __device__ Get(const part_t &part)
            : bits((const uint32_t *)(part.record + 4 + part.at / 8)), words((part.count + 31) / 32),
              scale(*(const float *)part.record)
        {
        }

        __device__ void row(int r, float (&d)[WIDTH]) const
        {
            const int      word = WORDS * r + lane() / SHARE;
            const uint32_t four = (word < words ? bits[word] : 0) >> shift();

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const bool set = (four >> (WIDTH - 1 - c) & 1) != 0;
                d[c] = tacit__bits_float(tacit__float_bits(scale) ^ (set ? 0 : 0x80000000u));
            }
        }
    };
};

} /* namespace tacit_onebit */

TACIT_LAUNCHERS(onebit, tacit_onebit::Code, 2, false)
TACIT_LAUNCHERS(onebit_long, tacit_onebit::Code, 16, false)
TACIT_LAUNCHERS(onebit_wide, tacit_onebit::Code, 16, true)
