/* SPDX-License-Identifier: Apache-2.0 */
/* `fp8` on a GPU. */
#include "fp8.h"
#include "tile.h"

namespace tacit_fp8_cuda {

using namespace tacit;

template <int ROWS> struct Code {
    typedef uint32_t Seen; /* the bits of the largest magnitude */
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
                largest = max(largest, tacit__float_bits(a[r][c]) & 0x7fffffffu);
            }
        }
        return join_lanes(largest, [](uint32_t one, uint32_t other) { return max(one, other); });
    }

    __device__ static void join(Seen &total, Seen part)
    {
        total = max(total, part);
    }

    __device__ static Scale scale(const tacit_device_tensor_t &t, Seen seen, uint64_t)
    {
        return tacit__fp8_scale(seen, tacit__fp8(t.code.variant));
    }

    struct Put {
        tacit_fp8_t format;
        uint8_t    *to;
        int         count;
        bool        finite;
        float       factor, unit;

        __device__ Put(const part_t &part, Scale scale, const float (&)[ROWS][WIDTH])
            : format(tacit__fp8(part.t->code.variant)), to(part.record + 1 + part.at), count(part.count),
              finite(scale != TACIT_FP8_NOT_FINITE), factor(finite ? tacit__fp8_power(TACIT_FP8_BIAS - scale) : 0),
              unit(tacit__fp8_unit(scale))
        {
            if (part.at == 0 && lane() == 0) {
                part.record[0] = scale;
            }
        }

        __device__ void row(int r, const float (&a)[WIDTH], float (&d)[WIDTH])
        {
            uint32_t four = 0;

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                float value = 1;

                if (finite) {
                    four |= (uint32_t)tacit__fp8_code(a[c] * factor, format, &value) << 8 * c;
                }
                d[c] = value * unit;
            }
            put_bytes(to + ROW * r, count - ROW * r, four);
        }

        __device__ bool end() const
        {
            return finite;
        }
    };

    struct Get {
        tacit_fp8_t    format;
        const uint8_t *from;
        int            count;
        float          unit;

        __device__ Get(const part_t &part)
            : format(tacit__fp8(part.t->code.variant)), from(part.record + 1 + part.at), count(part.count),
              unit(tacit__fp8_unit(part.record[0]))
        {
        }

        __device__ void row(int r, float (&d)[WIDTH]) const
        {
            const uint32_t four = get_bytes(from + ROW * r, count - ROW * r);

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[c] = tacit__fp8_value((uint8_t)(four >> 8 * c), format) * unit;
            }
        }
    };
};

} /* namespace tacit_fp8_cuda */

TACIT_LAUNCHERS(fp8, tacit_fp8_cuda::Code, 2, false)
TACIT_LAUNCHERS(fp8_wide, tacit_fp8_cuda::Code, 2, true)
