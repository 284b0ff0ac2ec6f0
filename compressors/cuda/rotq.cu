/* SPDX-License-Identifier: Apache-2.0 */
/* `rotq` on a GPU: a warp has a block of 256 elements in its registers. */
#include "rotq.h"
#include "tile.h"

namespace tacit_rotq {

using namespace tacit;

constexpr int BLOCK = 256, SIDE = 16;

/* The Hadamard transform of 256 numbers, without its factor 1/16 and with the square of 16 rows left transposed, as on the CPU
   (hadamard.h): over the columns, then over the rows. */
__device__ inline void hadamard(float (&v)[2][WIDTH])
{
    /* What is read together lies 4 apart, what is written together in 4 rows of 64: these begin 8 banks apart. */
    alignas(16) __shared__ float squares[BLOCK_WARPS][BLOCK + 4 * 8];
    float *const                 square = squares[threadIdx.x / WARP];

#pragma unroll
    for (int c = 0; c < WIDTH; c++) { /* elements 128 apart */
        const float low = v[0][c], high = v[1][c];
        v[0][c] = low + high;
        v[1][c] = low - high;
    }
#pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2) { /* 64 to 4 */
        const bool upper = (lane() & apart) != 0;

#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const float other = __shfl_xor_sync(ALL, v[r][c], apart);
                v[r][c] = upper ? other - v[r][c] : v[r][c] + other;
            }
        }
    }
#pragma unroll
    for (int apart = WIDTH / 2; apart > 0; apart /= 2) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int i = 0; i < WIDTH / 2; i++) {
                const int   one = i / apart * 2 * apart + i % apart;
                const float low = v[r][one], high = v[r][one + apart];
                v[r][one] = low + high;
                v[r][one + apart] = low - high;
            }
        }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const int at = (place(r) + c) % SIDE * SIDE + (place(r) + c) / SIDE;
            square[at + at / 64 * 8] = v[r][c];
        }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float4 four = *(const float4 *)(square + place(r) + place(r) / 64 * 8);

        v[r][0] = four.x;
        v[r][1] = four.y;
        v[r][2] = four.z;
        v[r][3] = four.w;
    }
}

/* This thread's signs of a row, as the highest bits. */
__device__ inline void signs_of(const tacit_stream_t &stream, uint64_t element, int row, uint32_t (&signs)[WIDTH])
{
    uint32_t words[4];

    tacit__random4(&stream, element / ROW + (unsigned)row, words);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        const uint32_t word = lane() < 16 ? (lane() < 8 ? words[0] : words[1]) : (lane() < 24 ? words[2] : words[3]);
        signs[c] = word << (31 - (place(0) % 32 + c)) & 0x80000000u;
    }
}

template <int BITS> __device__ float centre(unsigned level)
{
    constexpr unsigned half = 1u << (BITS - 1);
    float              value = tacit__rotq_magnitude(BITS, 0);

#pragma unroll
    for (unsigned m = 1; m < half; m++) {
        value = (level & (half - 1)) == m ? tacit__rotq_magnitude(BITS, m) : value;
    }
    return tacit__bits_float(tacit__float_bits(value) | (level & half) << (32 - BITS));
}

/* v becomes the centres of its levels, four of which are packed in each of numbers[]. Returns the scale. */
template <int BITS> __device__ float quantize(float (&v)[2][WIDTH], uint32_t normalizer, uint32_t (&numbers)[2])
{
    constexpr unsigned half = 1u << (BITS - 1);
    const float        squared = lanes_sum<float, 2>([&](int r, int c) { return v[r][c] * v[r][c]; });
    const float        unit = sqrtf(squared / BLOCK);
    float              centres[2][WIDTH];

#pragma unroll
    for (int r = 0; r < 2; r++) {
        numbers[r] = 0;
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const float magnitude = fabsf(v[r][c]);
            unsigned    level = v[r][c] < 0 ? half : 0;

#pragma unroll
            for (unsigned m = 1; m < half; m++) {
                level += magnitude > tacit__rotq_border(BITS, m, unit);
            }
            numbers[r] |= level << BITS * c;
            centres[r][c] = centre<BITS>(level);
        }
    }
    const float products = lanes_sum<float, 2>([&](int r, int c) { return v[r][c] * centres[r][c]; });
    const float squares = lanes_sum<float, 2>([&](int r, int c) { return centres[r][c] * centres[r][c]; });
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            v[r][c] = centres[r][c];
        }
    }
    return tacit__rotq_scale(products, squares, normalizer, BLOCK);
}

template <int BITS> __device__ void expand(const uint8_t *levels, float (&v)[2][WIDTH])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const unsigned four = get_bits(levels + ROW / 8 * BITS * r, 4 * BITS, BITS);

#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            v[r][c] = centre<BITS>(four >> BITS * c & ((1u << BITS) - 1));
        }
    }
}

template <int ROWS> struct Code {
    static_assert(ROWS == 2, "a block is two rows");
    struct Seen {};
    struct Scale {};

    __device__ static uint64_t bytes(const tacit_device_tensor_t &t, uint64_t count)
    {
        return (count + BLOCK - 1) / BLOCK * (4 + BLOCK / 8 * t.code.bits);
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
        float values[ROWS][WIDTH];
        bool  finite;

        __device__ Put(const part_t &part, Scale, const float (&a)[ROWS][WIDTH]) : finite(true)
        {
            const unsigned bits = part.t->code.bits;
            uint32_t       signs[ROWS][WIDTH], numbers[ROWS], largest = 0x00800000u;
            float          scale;

#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                signs_of(*part.stream, part.element, r, signs[r]);
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    largest = max(largest, tacit__float_bits(a[r][c]) & 0x7fffffffu);
                }
            }
            largest = join_lanes(largest, [](uint32_t one, uint32_t other) { return max(one, other); });
            const uint32_t normalizer = tacit__rotq_normalizer(largest);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    values[r][c] = tacit__bits_float(tacit__float_bits(a[r][c]) ^ signs[r][c]) * tacit__bits_float(normalizer);
                }
            }
            hadamard(values);
            switch (bits) {
            case 1:
                scale = quantize<1>(values, normalizer, numbers);
                break;
            case 2:
                scale = quantize<2>(values, normalizer, numbers);
                break;
            case 3:
                scale = quantize<3>(values, normalizer, numbers);
                break;
            default:
                scale = quantize<4>(values, normalizer, numbers);
            }
            hadamard(values);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    values[r][c] = tacit__bits_float(tacit__float_bits(values[r][c]) ^ signs[r][c]) * scale;
                    finite = finite && is_finite(a[r][c] - values[r][c]);
                }
            }
            finite = !__any_sync(ALL, !finite);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                put_bits(part.record + 4 + ROW / 8 * r * (int)bits, 4 * bits, bits, finite ? numbers[r] : 0);
            }
            if (lane() == 0) {
                *(float *)part.record = finite ? scale : tacit__bits_float(TACIT_FLOAT_NAN);
            }
        }

        __device__ void row(int r, const float (&)[WIDTH], float (&d)[WIDTH]) const
        {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[c] = finite ? values[r][c] : tacit__bits_float(TACIT_FLOAT_NAN);
            }
        }

        __device__ bool end() const
        {
            return finite;
        }
    };

    struct Get {
        float values[ROWS][WIDTH];

        __device__ Get(const part_t &part)
        {
            const float scale = *(const float *)part.record;

            switch (part.t->code.bits) {
            case 1:
                expand<1>(part.record + 4, values);
                break;
            case 2:
                expand<2>(part.record + 4, values);
                break;
            case 3:
                expand<3>(part.record + 4, values);
                break;
            default:
                expand<4>(part.record + 4, values);
            }
            hadamard(values);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                uint32_t signs[WIDTH];

                signs_of(*part.stream, part.element, r, signs);
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    values[r][c] = tacit__bits_float(tacit__float_bits(values[r][c]) ^ signs[c]) * scale;
                }
            }
        }

        __device__ void row(int r, float (&d)[WIDTH]) const
        {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                d[c] = values[r][c];
            }
        }
    };
};

} /* namespace tacit_rotq */

TACIT_LAUNCHERS(rotq, tacit_rotq::Code, 2, false)
