// SPDX-License-Identifier: Apache-2.0
// `qsgd` on a GPU.
#include "qsgd.h"
#include "tile.h"

namespace tacit_qsgd_cuda
{

using namespace tacit;

template <int ROWS> struct Code {
    typedef struct {
        float low, high;
        bool  finite;
    } Seen;
    typedef tacit_qsgd_t Scale;

    __device__ static uint64_t bytes(const tacit_device_tensor_t &t, uint64_t count)
    {
        return count / t.code.block * tacit__qsgd_bytes(t.code.bits, t.code.block) +
               tacit__qsgd_bytes(t.code.bits, count % t.code.block);
    }

    __device__ static Seen see(const tacit_device_tensor_t &, const float (&a)[ROWS][WIDTH], int count)
    {
        Seen seen = {INFINITY, -INFINITY, true};

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                if (place(r) + c < count) {
                    seen.low = a[r][c] < seen.low ? a[r][c] : seen.low;
                    seen.high = a[r][c] > seen.high ? a[r][c] : seen.high;
                    seen.finite = seen.finite && is_finite(a[r][c]);
                }
            }
        }
        seen.low = join_lanes(seen.low, [](float one, float other) { return other < one ? other : one; });
        seen.high = join_lanes(seen.high, [](float one, float other) { return other > one ? other : one; });
        seen.finite = !__any_sync(ALL, !seen.finite);
        return seen;
    }

    __device__ static void join(Seen &total, Seen part)
    {
        total.low = part.low < total.low ? part.low : total.low;
        total.high = part.high > total.high ? part.high : total.high;
        total.finite = total.finite && part.finite;
    }

    __device__ static Scale scale(const tacit_device_tensor_t &t, Seen seen, uint64_t)
    {
        return tacit__qsgd_between(seen.low, seen.high, seen.finite, tacit__qsgd_top(t.code.bits));
    }

    __device__ static bool put(const tacit_device_tensor_t &t, const tacit_stream_t &stream, Scale scale, uint64_t element,
                               uint64_t at, int count, const float (&a)[ROWS][WIDTH], uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        const unsigned bits = t.code.bits, words = (bits * (((unsigned)count + 7) / 8) + 3) / 4;
        const float    top = tacit__qsgd_top(bits);
        uint8_t *const levels = record + 8 + at / 8 * bits;

        if (at == 0 && lane() == 0) {
            ((float *)record)[0] = scale.unit;
            ((float *)record)[1] = scale.minimum;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint32_t random[WIDTH], four = 0;

            if (ROW * r >= count) {
                break;
            }
            if (t.code.variant != 0) {
                tacit__random4(&stream, (element + (unsigned)place(r)) / WIDTH, random);
            }
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                uint8_t level = 0;

                if (scale.unit > 0 && place(r) + c < count) {
                    level = tacit__qsgd_level(a[r][c], scale, t.code.variant != 0 ? tacit__uniform(random[c]) : 0.5f, top);
                }
                d[r][c] = scale.unit > 0 ? tacit__qsgd_value(level, scale) : scale.minimum;
                four |= (uint32_t)level << bits * (unsigned)c;
            }
            put_bits(levels + ROW / 8 * r * (int)bits, words - 4 * bits * (unsigned)r, bits, four);
        }
        return is_finite(scale.unit);
    }

    __device__ static void get(const tacit_device_tensor_t &t, const tacit_stream_t &, uint64_t, uint64_t at, int count,
                               const uint8_t *record, float (&d)[ROWS][WIDTH])
    {
        const unsigned       bits = t.code.bits, words = (bits * (((unsigned)count + 7) / 8) + 3) / 4;
        const tacit_qsgd_t   scale = {((const float *)record)[0], ((const float *)record)[1]};
        const uint8_t *const levels = record + 8 + at / 8 * bits;

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            unsigned four = 0;

            if (ROW * r < count) {
                four = get_bits(levels + ROW / 8 * r * (int)bits, words - 4 * bits * (unsigned)r, bits);
            }
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[r][c] = tacit__qsgd_value((uint8_t)(four >> bits * (unsigned)c & ((1u << bits) - 1)), scale);
            }
        }
    }
};

} // namespace tacit_qsgd_cuda

TACIT_LAUNCHERS(qsgd, tacit_qsgd_cuda::Code, 2)
TACIT_LAUNCHERS(qsgd_long, tacit_qsgd_cuda::Code, 16)
TACIT_LAUNCHERS(qsgd_wide, tacit_qsgd_cuda::Code, 0)
