/* SPDX-License-Identifier: Apache-2.0 */
/* `qsgd` on a GPU. */
#include "qsgd.h"
#include "tile.h"

namespace tacit_qsgd_cuda {

using namespace tacit;

/* A record's levels, of which row r has 4 * bits words. */
struct Levels {
    unsigned bits, words; /* of what is left of the record */
    uint8_t *at;

    __device__ Levels(const part_t &part)
        : bits(part.t->code.bits), words((bits * (((unsigned)part.count + 7) / 8) + 3) / 4),
          at(part.record + 8 + part.at / 8 * bits)
    {
    }

    __device__ uint8_t *row(int r) const
    {
        return at + ROW / 8 * bits * (unsigned)r;
    }

    __device__ unsigned row_words(int r) const
    {
        const unsigned before = 4 * bits * (unsigned)r;

        return words > before ? words - before : 0;
    }
};

template <int ROWS> struct Code {
    struct Seen {
        float low, high;
        bool  finite;
    };
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

    struct Put {
        const part_t &part;
        Levels        levels;
        Scale         scale;
        float         top;

        __device__ Put(const part_t &part, Scale scale, const float (&)[ROWS][WIDTH])
            : part(part), levels(part), scale(scale), top(tacit__qsgd_top(levels.bits))
        {
            if (part.at == 0 && lane() == 0) {
                ((float *)part.record)[0] = scale.unit;
                ((float *)part.record)[1] = scale.minimum;
            }
        }

        __device__ void row(int r, const float (&a)[WIDTH], float (&d)[WIDTH])
        {
            const bool random = part.t->code.variant != 0;
            uint32_t   words[WIDTH], four = 0;

            if (levels.row_words(r) == 0) {
                return;
            }
            if (random) {
                tacit__random4(part.stream, (part.element + (unsigned)place(r)) / WIDTH, words);
            }
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                uint8_t level = 0;

                if (scale.unit > 0 && place(r) + c < part.count) {
                    level = tacit__qsgd_level(a[c], scale, random ? tacit__uniform(words[c]) : 0.5f, top);
                }
                d[c] = scale.unit > 0 ? tacit__qsgd_value(level, scale) : scale.minimum;
                four |= (uint32_t)level << levels.bits * (unsigned)c;
            }
            put_bits(levels.row(r), levels.row_words(r), levels.bits, four);
        }

        __device__ bool end() const
        {
            return is_finite(scale.unit);
        }
    };

    struct Get {
        Levels levels;
        Scale  scale;

        __device__ Get(const part_t &part) : levels(part)
        {
            scale.unit = ((const float *)part.record)[0];
            scale.minimum = ((const float *)part.record)[1];
        }

        __device__ void row(int r, float (&d)[WIDTH]) const
        {
            const unsigned four = get_bits(levels.row(r), levels.row_words(r), levels.bits);

#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[c] = tacit__qsgd_value((uint8_t)(four >> levels.bits * (unsigned)c & ((1u << levels.bits) - 1)), scale);
            }
        }
    };
};

} /* namespace tacit_qsgd_cuda */

TACIT_LAUNCHERS(qsgd, tacit_qsgd_cuda::Code, 2, false)
TACIT_LAUNCHERS(qsgd_wide, tacit_qsgd_cuda::Code, 2, true)
