/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens on their way to experts, and back: from place to place, sums of them, and what becomes of what has come. The
   same operations in the same order as in libcomm/moe_pass.c. */
#include "warp.h"

namespace tacit_rows {

using namespace tacit;

constexpr unsigned THREADS = 256, BLOCK_WARPS = THREADS / WARP;

__device__ inline size_t own_warp()
{
    return (size_t)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
}

static unsigned blocks_of(size_t warps)
{
    return (unsigned)((warps + BLOCK_WARPS - 1) / BLOCK_WARPS);
}

/* ---- From place to place: a warp a row, in words as wide as addresses and lengths allow ---- */

template <typename Word>
__global__ void __launch_bounds__(THREADS)
    copy(const uint8_t *from, const uint32_t *from_index, uint8_t *to, const uint32_t *to_index, uint32_t count, size_t row_bytes)
{
    const size_t i = own_warp();

    if (i < count) {
        const Word *const source = (const Word *)(from + row_bytes * (from_index != NULL ? from_index[i] : i));
        Word *const       target = (Word *)(to + row_bytes * (to_index != NULL ? to_index[i] : i));

        for (size_t at = (size_t)lane(); at < row_bytes / sizeof(Word); at += WARP) {
            target[at] = source[at];
        }
    }
}

/* ---- A warp has a stretch of ROW elements of a row ---- */

typedef struct stretch {
    uint32_t row;
    int      count; /* of the row's elements from the stretch's first one on */
    size_t   first; /* in the row */
} stretch_t;

__device__ inline stretch_t own_stretch(const tacit_device_tokens_t &shape)
{
    const uint32_t  stretches = (shape.dimension + ROW - 1) / ROW, first = (uint32_t)(own_warp() % stretches) * ROW;
    const stretch_t stretch = {(uint32_t)(own_warp() / stretches), (int)(shape.dimension - first), first};

    return stretch;
}

static unsigned blocks_for(const tacit_device_tokens_t &shape, uint32_t rows)
{
    return blocks_of((size_t)rows * ((shape.dimension + ROW - 1) / ROW));
}

/* x: the thread's four elements of a stretch of a row, as float32; zero behind the last. */
__device__ inline void load_row(const tacit_device_tokens_t &shape, const void *rows, size_t row, const stretch_t &own,
                                float (&x)[WIDTH])
{
    const size_t first = shape.dimension * row + own.first;
    uint16_t     halves[WIDTH];

    if (shape.dtype == TACIT_FLOAT32) {
        load((const float *)rows + first, 0, own.count, x);
        return;
    }
    load((const uint16_t *)rows + first, 0, own.count, halves);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        x[c] = shape.dtype == TACIT_FLOAT16 ? tacit__from_float16(halves[c]) : tacit__from_bfloat16(halves[c]);
    }
}

/* The same of tokens and their gradients. */
__device__ inline void load_token(const tacit_device_tokens_t &shape, const void *tokens, size_t token, const stretch_t &own,
                                  float (&x)[WIDTH])
{
    load_row(shape, tokens, token, own, x);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        x[c] = shape.skip && !is_finite(x[c]) ? 0.0f : x[c];
    }
}

__device__ inline void store_row(const tacit_device_tokens_t &shape, void *rows, const stretch_t &own, const float (&x)[WIDTH])
{
    const size_t first = (size_t)shape.dimension * own.row + own.first;
    uint16_t     halves[WIDTH];

    if (shape.dtype == TACIT_FLOAT32) {
        store((float *)rows + first, 0, own.count, x);
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        halves[c] = shape.dtype == TACIT_FLOAT16 ? tacit__to_float16(x[c], 0x7c00u) : tacit__to_bfloat16(x[c], 0x7f80u);
    }
    store((uint16_t *)rows + first, 0, own.count, halves);
}

/* sum := or += weight times x: a first product is not added to zero, so that -0 stays what it is. */
__device__ inline void add(bool first, float weight, const float (&x)[WIDTH], float (&sum)[WIDTH])
{
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        const float product = weight * x[c];
        sum[c] = first ? product : sum[c] + product;
    }
}

/* Entries are looked up by all lanes at once, for the next 32 rows. */
__global__ void __launch_bounds__(THREADS)
    add_up(tacit_device_tokens_t shape, tacit_device_lists_t lists, const void *rows, bool mean, void *out, float *wide)
{
    const stretch_t own = own_stretch(shape);

    if (own.row >= lists.count) {
        return;
    }
    const uint32_t begin = lists.begin[own.row], length = lists.begin[own.row + 1] - begin;
    float          sum[WIDTH] = {0, 0, 0, 0};

    for (uint32_t base = 0; base < length; base += WARP) {
        const uint32_t in_turn = min(length - base, (uint32_t)WARP), mine = begin + base + (uint32_t)lane();
        const bool     any = (uint32_t)lane() < in_turn;
        const uint32_t row = any ? lists.row[mine] : 0;
        const float    weight = any && lists.weights != NULL ? lists.weights[lists.weight[mine]] : 1;

#pragma unroll 8
        for (uint32_t i = 0; i < in_turn; i++) {
            const uint32_t from = __shfl_sync(ALL, row, (int)i);
            const float    factor = __shfl_sync(ALL, weight, (int)i);
            float          x[WIDTH];

            load_token(shape, rows, from, own, x);
            add(base + i == 0, factor, x, sum);
        }
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        sum[c] = mean && length != 0 ? sum[c] / (float)length : sum[c];
    }
    store_row(shape, out, own, sum);
    if (wide != NULL) {
        store(wide + (size_t)shape.dimension * own.row + own.first, 0, own.count, sum);
    }
}

/* A warp a row. */
__global__ void __launch_bounds__(THREADS) check(tacit_device_tokens_t shape, const void *rows, uint32_t *found)
{
    const size_t row = own_warp();
    bool         finite = true;

    if (row >= shape.count) {
        return;
    }
    for (uint32_t first = 0; first < shape.dimension; first += ROW) {
        const stretch_t own = {(uint32_t)row, (int)(shape.dimension - first), first};
        float           x[WIDTH];

        load_row(shape, rows, row, own, x);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            finite = finite && is_finite(x[c]);
        }
    }
    finite = !__any_sync(ALL, !finite);
    if (lane() == 0) {
        found[row] = !finite;
    }
}

/* ---- Sums of products, of a warp: block sums, in float64 one to the other ---- */

constexpr int SUM_ROWS = TACIT_BLOCK_SUM / ROW;

/* The stretch of such a block of a row, from the element `begin` on; a count that is not positive: there is none. */
__device__ inline stretch_t stretch_of(const tacit_device_tokens_t &shape, size_t row, uint32_t begin, int r)
{
    const uint32_t  first = begin + (unsigned)(ROW * r);
    const stretch_t own = {(uint32_t)row, (int)(shape.dimension - first), first};

    return own;
}

__device__ inline double add_block(double total, const float (&products)[SUM_ROWS][WIDTH])
{
    return total + (double)lanes_sum<float, SUM_ROWS>([&](int r, int c) { return products[r][c]; });
}

/* A warp a member. */
__global__ void __launch_bounds__(THREADS)
    measure(tacit_device_tokens_t shape, tacit_device_members_t members, const void *tokens, const float *means, double *out)
{
    const size_t member = own_warp();
    double       norm = 0, beyond = 0;

    if (member >= members.count) {
        return;
    }
    const uint32_t token = members.token[member], row = members.row[member];
    const bool     alone = members.first[row + 1] - members.first[row] == 1;

    for (uint32_t begin = 0; begin < shape.dimension; begin += TACIT_BLOCK_SUM) {
        float squares[SUM_ROWS][WIDTH], distances[SUM_ROWS][WIDTH];

#pragma unroll
        for (int r = 0; r < SUM_ROWS; r++) {
            const stretch_t own = stretch_of(shape, token, begin, r);
            float           x[WIDTH] = {0, 0, 0, 0}, mean[WIDTH] = {0, 0, 0, 0};

            if (own.count > 0) {
                load_token(shape, tokens, token, own, x);
                load(means + (size_t)shape.dimension * row + own.first, 0, own.count, mean);
            }
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const float difference = x[c] - mean[c];

                squares[r][c] = x[c] * x[c];
                distances[r][c] = difference * difference;
            }
        }
        norm = add_block(norm, squares);
        beyond = add_block(beyond, distances);
    }
    if (lane() == 0) {
        out[2 * member] = norm;
        out[2 * member + 1] = alone ? 0 : beyond;
    }
}

/* ---- What a reply stands for ---- */

__device__ inline bool has_residual(const tacit_device_choices_t &choices, uint32_t row)
{
    return choices.residual && (row < choices.own_first || row >= choices.own_end);
}

/* value: the reply, and what the token has beyond its row. A difference that is zero is +0, which changes no reply that it is
   subtracted from. */
__device__ inline void load_output(const tacit_device_choices_t &choices, const void *tokens, const void *centroids,
                                   const void *replies, uint32_t reply, const stretch_t &own, float (&value)[WIDTH])
{
    const uint32_t row = choices.row[reply];
    float          centroid[WIDTH], token[WIDTH];

    load_row(choices.tokens, replies, reply, own, value);
    if (has_residual(choices, row)) {
        load_row(choices.tokens, centroids, row, own, centroid);
        load_token(choices.tokens, tokens, own.row, own, token);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            value[c] = value[c] - (centroid[c] - token[c]);
        }
    }
}

__global__ void __launch_bounds__(THREADS) combine(tacit_device_choices_t choices, const float *weights, const void *tokens,
                                                   const void *centroids, const void *replies, void *out)
{
    const stretch_t own = own_stretch(choices.tokens);
    float           sum[WIDTH] = {0, 0, 0, 0};
    bool            first = true;

    if (own.row >= choices.tokens.count) {
        return;
    }
    for (uint32_t j = 0; j < choices.choices; j++) {
        const size_t   choice = (size_t)choices.choices * own.row + j;
        const uint32_t reply = choices.reply[choice];

        if (reply != TACIT_DEVICE_NOWHERE) {
            float value[WIDTH];

            load_output(choices, tokens, centroids, replies, reply, own, value);
            add(first, weights[choice], value, sum);
            first = false;
        }
    }
    store_row(choices.tokens, out, own, sum);
}

/* A warp a choice. */
__global__ void __launch_bounds__(THREADS) weigh(tacit_device_choices_t choices, const void *gradients, const void *tokens,
                                                 const void *centroids, const void *replies, float *out)
{
    const tacit_device_tokens_t &shape = choices.tokens;
    const size_t                 choice = own_warp();
    double                       total = 0;

    if (choice >= (size_t)choices.choices * shape.count) {
        return;
    }
    const uint32_t reply = choices.reply[choice];

    for (uint32_t begin = 0; begin < shape.dimension && reply != TACIT_DEVICE_NOWHERE; begin += TACIT_BLOCK_SUM) {
        float products[SUM_ROWS][WIDTH];

#pragma unroll
        for (int r = 0; r < SUM_ROWS; r++) {
            const stretch_t own = stretch_of(shape, choice / choices.choices, begin, r);
            float           gradient[WIDTH] = {0, 0, 0, 0}, value[WIDTH] = {0, 0, 0, 0};

            if (own.count > 0) {
                load_row(shape, gradients, own.row, own, gradient);
                load_output(choices, tokens, centroids, replies, reply, own, value);
            }
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                products[r][c] = gradient[c] * value[c];
            }
        }
        total = add_block(total, products);
    }
    if (lane() == 0) {
        out[choice] = (float)total;
    }
}

/* ---- Gradients of tokens ---- */

/* The lowest row of a token's from `least` on; TACIT_DEVICE_NOWHERE. */
__device__ inline uint32_t next_row(const tacit_device_choices_t &choices, size_t token, uint32_t least)
{
    uint32_t next = TACIT_DEVICE_NOWHERE;

    for (size_t choice = choices.choices * token; choice < choices.choices * (token + 1); choice++) {
        if (choices.reply[choice] != TACIT_DEVICE_NOWHERE) {
            const uint32_t row = choices.row[choices.reply[choice]];
            next = row >= least && row < next ? row : next;
        }
    }
    return next;
}

__device__ inline float weight_of(const tacit_device_choices_t &choices, const float *weights, size_t token, uint32_t reply)
{
    size_t choice = choices.choices * token;

    while (choices.reply[choice] != reply) {
        choice++;
    }
    return weights[choice];
}

__global__ void __launch_bounds__(THREADS) spread(tacit_device_choices_t choices, const float *weights, const void *gradients,
                                                  const void *sums, const void *rows, void *out)
{
    const tacit_device_tokens_t &shape = choices.tokens;
    const stretch_t              own = own_stretch(shape);
    float                        total[WIDTH] = {0, 0, 0, 0}, gradient[WIDTH] = {0, 0, 0, 0}, x[WIDTH];
    bool                         first = true;

    if (own.row >= shape.count) {
        return;
    }
    if (choices.residual) { /* else nobody has kept them */
        load_token(shape, gradients, own.row, own, gradient);
    }
    for (uint32_t row = next_row(choices, own.row, 0); row != TACIT_DEVICE_NOWHERE; row = next_row(choices, own.row, row + 1)) {
        const uint32_t begin = choices.first_reply[row], end = choices.first_reply[row + 1];
        const float    members = (float)(choices.first_member[row + 1] - choices.first_member[row]);
        float          value[WIDTH], sum[WIDTH] = {0, 0, 0, 0}, mine[WIDTH] = {0, 0, 0, 0};
        const bool     residual = has_residual(choices, row);

        load_row(shape, rows, row, own, value);
        for (uint32_t reply = begin; residual && reply < end; reply++) {
            load_row(shape, sums, reply, own, x);
            add(reply == begin, 1, x, sum);
            add(reply == begin, weight_of(choices, weights, own.row, reply), gradient, mine);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const float part = value[c] / members;
            value[c] = residual ? part - (sum[c] / members - mine[c]) : part;
        }
        add(first, 1, value, total);
        first = false;
    }
    store_row(shape, out, own, total);
}

} /* namespace tacit_rows */

extern "C" void tacit_cuda_rows_copy(const void *from, const uint32_t *from_index, void *to, const uint32_t *to_index,
                                     uint32_t count, size_t row_bytes, void *stream)
{
    auto const kernel =
        ((uintptr_t)from | (uintptr_t)to | row_bytes) % sizeof(uint4) == 0 ? tacit_rows::copy<uint4> : tacit_rows::copy<uint16_t>;

    TACIT_LAUNCH(kernel, tacit_rows::blocks_of(count), tacit_rows::THREADS, stream, (const uint8_t *)from, from_index,
                 (uint8_t *)to, to_index, count, row_bytes);
}

extern "C" void tacit_cuda_rows_sum(const tacit_device_tokens_t *shape, const tacit_device_lists_t *lists, const void *rows,
                                    bool mean, void *out, float *wide, void *stream)
{
    TACIT_LAUNCH(tacit_rows::add_up, tacit_rows::blocks_for(*shape, lists->count), tacit_rows::THREADS, stream, *shape, *lists,
                 rows, mean, out, wide);
}

extern "C" void tacit_cuda_rows_check(const tacit_device_tokens_t *shape, const void *rows, uint32_t *found, void *stream)
{
    TACIT_LAUNCH(tacit_rows::check, tacit_rows::blocks_of(shape->count), tacit_rows::THREADS, stream, *shape, rows, found);
}

extern "C" void tacit_cuda_rows_measure(const tacit_device_tokens_t *shape, const tacit_device_members_t *members,
                                        const void *tokens, const float *means, double *out, void *stream)
{
    TACIT_LAUNCH(tacit_rows::measure, tacit_rows::blocks_of(members->count), tacit_rows::THREADS, stream, *shape, *members,
                 tokens, means, out);
}

extern "C" void tacit_cuda_rows_combine(const tacit_device_choices_t *choices, const float *weights, const void *tokens,
                                        const void *centroids, const void *replies, void *out, void *stream)
{
    TACIT_LAUNCH(tacit_rows::combine, tacit_rows::blocks_for(choices->tokens, choices->tokens.count), tacit_rows::THREADS, stream,
                 *choices, weights, tokens, centroids, replies, out);
}

extern "C" void tacit_cuda_rows_weigh(const tacit_device_choices_t *choices, const void *gradients, const void *tokens,
                                      const void *centroids, const void *replies, float *out, void *stream)
{
    TACIT_LAUNCH(tacit_rows::weigh, tacit_rows::blocks_of((size_t)choices->choices * choices->tokens.count), tacit_rows::THREADS,
                 stream, *choices, gradients, tokens, centroids, replies, out);
}

extern "C" void tacit_cuda_rows_spread(const tacit_device_choices_t *choices, const float *weights, const void *gradients,
                                       const void *sums, const void *rows, void *out, void *stream)
{
    TACIT_LAUNCH(tacit_rows::spread, tacit_rows::blocks_for(choices->tokens, choices->tokens.count), tacit_rows::THREADS, stream,
                 *choices, weights, gradients, sums, rows, out);
}
