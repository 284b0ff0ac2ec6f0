// SPDX-License-Identifier: Apache-2.0
// `fp8` on a GPU.
#include "fp8.h"
#include "tile.h"

namespace tacit_fp8_cuda
{

using namespace tacit;

template <int ROWS> struct Code {
    typedef uint32_t Seen; // the bits of the largest magnitude
    typedef uint8_t  Scale;

    __device__ static uint64_t bytes(const tacit_device_tensor_t &t, uint64_t count)
    {
        return count + (count + t.code.block - 1) / t.code.block;
    }

    __device__ static Seen see(const tacit_device_tensor_t &, const float (&a)[ROWS][WIDTH], int)
    {
        uint32_t largest = 0;

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const uint32_t magnitude = tacit__float_bits(a[r][c]) & 0x7fffffffu;
                largest = magnitude > largest ? magnitude : largest;
            }
        }
        return join_lanes(largest, [](uint32_t one, uint32_t other) { return one > other ? one : other; });
    }

    __device__ static void join(Seen &total, Seen part)
    {
        total = part > total ? part : total;
    }

    __device__ static Scale scale(const tacit_device_tensor_t &t, Seen seen, uint64_t)
    {
        return tacit__fp8_scale(seen, tacit__fp8(t.code.variant));
    }

    __device__ static bool put(const tacit_device_tensor_t &t, const tacit_stream_t &, Scale scale, uint64_t, uint64_t at, int count,
                               const float (&a)[ROWS][WIDTH], uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        const tacit_fp8_t format = tacit__fp8(t.code.variant);
        const bool        finite = scale != TACIT_FP8_NOT_FINITE;
        const float       factor = finite ? tacit__fp8_power(TACIT_FP8_BIAS - scale) : 0, unit = tacit__fp8_unit(scale);
        uint8_t *const    codes = record + 1 + at;

        if (at == 0 && lane() == 0) {
            record[0] = scale;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint32_t four = 0;

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                float value = 1;

                if (finite) {
                    four |= (uint32_t)tacit__fp8_code(a[r][c] * factor, format, &value) << 8 * c;
                }
                d[r][c] = finite ? value * unit : unit;
            }
            put_bytes(codes + ROW * r, count - ROW * r, four);
        }
        return finite;
    }

    __device__ static void get(const tacit_device_tensor_t &t, const tacit_stream_t &, uint64_t, uint64_t at, int count,
                               const uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        const tacit_fp8_t format = tacit__fp8(t.code.variant);
        const float       unit = tacit__fp8_unit(record[0]);

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const uint32_t four = get_bytes(record + 1 + at + ROW * r, count - ROW * r);

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[r][c] = tacit__fp8_value((uint8_t)(four >> 8 * c), format) * unit;
            }
        }
    }
};

} // namespace tacit_fp8_cuda

TACIT_LAUNCHERS(fp8, tacit_fp8_cuda::Code, 2)
TACIT_LAUNCHERS(fp8_long, tacit_fp8_cuda::Code, 16)
TACIT_LAUNCHERS(fp8_wide, tacit_fp8_cuda::Code, 0)
