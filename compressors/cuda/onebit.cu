// SPDX-License-Identifier: Apache-2.0
// `onebit` on a GPU.
#include "tile.h"

namespace tacit_onebit
{

using namespace tacit;

// A row of 128 elements has four words of bits; eight threads know each.
constexpr int WORDS = ROW / 32, SHARE = WARP / WORDS;

template <int ROWS> struct Code {
    typedef struct {
        double sum;
        bool   finite;
    } Seen;
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

    // The sum of squares, or of magnitudes, in float32; in float64 where that leaves its range or loses bits.
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
        sum = lanes_sum<float>(a, [&](int r, int c) { return l1 ? fabsf(a[r][c]) : a[r][c] * a[r][c]; });
        seen.finite = !__any_sync(ALL, !finite);
        seen.sum = sum;
        if (!is_finite(sum) || (!l1 && !(sum >= 0x1p-96f))) {
            seen.sum = lanes_sum<double>(
                a, [&](int r, int c) { return l1 ? fabs((double)a[r][c]) : (double)a[r][c] * (double)a[r][c]; });
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

    // Where this thread's bits of a row are in a word: a byte's first element is its most significant bit.
    __device__ static int shift()
    {
        return lane() % SHARE / 2 * 8 + (lane() % 2 == 0 ? 4 : 0);
    }

    __device__ static bool put(const tacit_device_tensor_t &, const tacit_stream_t &, Scale scale, uint64_t, uint64_t at, int count,
                               const float (&a)[ROWS][WIDTH], uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        constexpr int   groups = (ROWS + SHARE - 1) / SHARE;
        const int       words = (count + 31) / 32;
        uint32_t *const bits = (uint32_t *)(record + 4 + at / 8);
        uint32_t        kept[groups] = {}; // of every eighth row, one word

        if (at == 0 && lane() == 0) {
            *(float *)record = scale;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint32_t word = 0;

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const bool set = a[r][c] >= 0;

                word |= (uint32_t)set << (WIDTH - 1 - c);
                d[r][c] = tacit__bits_float(tacit__float_bits(scale) ^ (set ? 0 : 0x80000000u));
            }
            word <<= shift();
#pragma unroll
            for (int apart = 1; apart < SHARE; apart *= 2) {
                word |= __shfl_xor_sync(ALL, word, apart);
            }
            kept[r / SHARE] = lane() % SHARE == r % SHARE ? word : kept[r / SHARE];
        }
#pragma unroll
        for (int g = 0; g < groups; g++) {
            const int row = SHARE * g + lane() % SHARE, word = WORDS * row + lane() / SHARE;

            if (row < ROWS && word < words) {
                bits[word] = kept[g];
            }
        }
        return is_finite(scale);
    }

    __device__ static void get(const tacit_device_tensor_t &, const tacit_stream_t &, uint64_t, uint64_t at, int count,
                               const uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        const float           scale = *(const float *)record;
        const uint32_t *const bits = (const uint32_t *)(record + 4 + at / 8);
        const int             words = (count + 31) / 32;

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int      word = WORDS * r + lane() / SHARE;
            const uint32_t four = (word < words ? bits[word] : 0) >> shift();

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const bool set = (four >> (WIDTH - 1 - c) & 1) != 0;
                d[r][c] = tacit__bits_float(tacit__float_bits(scale) ^ (set ? 0 : 0x80000000u));
            }
        }
    }
};

} // namespace tacit_onebit

TACIT_LAUNCHERS(onebit, tacit_onebit::Code, 2)
TACIT_LAUNCHERS(onebit_long, tacit_onebit::Code, 16)
TACIT_LAUNCHERS(onebit_wide, tacit_onebit::Code, 0)
