/* SPDX-License-Identifier: Apache-2.0 */
/* The transformer forwards and backwards on a GPU, as transformer.c has it: matrix products by cuBLAS, all else by kernels in
   which a warp works on a row. Every sum has an order of its own, so that equal calls give equal bits. */
#include "gpu_kernels.h"
#include "transformer.h"

#include <cmath>

namespace train_gpu {

/* ---- Rows and sums ---- */

enum : unsigned { ALL = 0xffffffffu };

/* The row of this warp. */
static __device__ size_t own_row()
{
    return (size_t)blockIdx.x * GPU_ROWS + threadIdx.x / GPU_WARP;
}

static __device__ unsigned lane()
{
    return threadIdx.x % GPU_WARP;
}

/* Over the lanes of a warp, the same bits in each of them. */
static __device__ float sum_of(float x)
{
    for (int apart = GPU_WARP / 2; apart != 0; apart /= 2) {
        x += __shfl_xor_sync(ALL, x, apart);
    }
    return x;
}

static __device__ float largest_of(float x)
{
    for (int apart = GPU_WARP / 2; apart != 0; apart /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL, x, apart));
    }
    return x;
}

/* Sums of columns: a block adds up a strip of rows of 32 columns, a thread of the next kernel the strips of a column. */
enum { STRIPS = 64, STRIP_ROWS = 32, MANY_COLUMNS = 16384 };

static size_t strips_of(size_t rows, size_t columns)
{
    const size_t strips = (rows + STRIP_ROWS - 1) / STRIP_ROWS;

    return columns >= MANY_COLUMNS ? 1 : strips < STRIPS ? strips : (size_t)STRIPS;
}

/* by: NULL, or what numbers are multiplied by. */
static __global__ void sum_strip(const float *numbers, const float *by, size_t rows, size_t columns, size_t strips, float *sums)
{
    __shared__ float part[GPU_ROWS][GPU_WARP];
    const unsigned   row = threadIdx.x / GPU_WARP;
    const size_t     strip = blockIdx.x % strips, column = blockIdx.x / strips * GPU_WARP + lane();
    float            sum = 0.0f;

    for (size_t i = rows * strip / strips + row; column < columns && i < rows * (strip + 1) / strips; i += GPU_ROWS) {
        const float number = numbers[i * columns + column];

        sum += by != nullptr ? number * by[i * columns + column] : number;
    }
    part[row][lane()] = sum;
    __syncthreads();
    if (row == 0 && column < columns) {
        for (unsigned i = 1; i < GPU_ROWS; i++) {
            sum += part[i][lane()];
        }
        sums[strip * columns + column] = sum;
    }
}

static __global__ void sum_strips(const float *sums, size_t strips, size_t columns, float *out)
{
    const size_t column = (size_t)blockIdx.x * GPU_THREADS + threadIdx.x;
    float        sum = 0.0f;

    for (size_t i = 0; column < columns && i < strips; i++) {
        sum += sums[i * columns + column];
    }
    if (column < columns) {
        out[column] = sum;
    }
}

static void sum_columns(gpu_t *gpu, const float *numbers, const float *by, size_t rows, size_t columns, float *out)
{
    const size_t   strips = strips_of(rows, columns);
    const unsigned blocks = (unsigned)(strips * ((columns + GPU_WARP - 1) / GPU_WARP));

    TACIT_LAUNCH(sum_strip, blocks, GPU_THREADS, gpu->stream, numbers, by, rows, columns, strips, strips == 1 ? out : gpu->sums);
    if (strips > 1) {
        TACIT_LAUNCH(sum_strips, gpu_blocks(columns), GPU_THREADS, gpu->stream, gpu->sums, strips, columns, out);
    }
}

/* ---- Matrix products ---- */

/* Row-major; of `apart` numbers from one of a batch to the next. */
typedef struct matrix {
    const float *at;
    size_t       stride; /* from one row to the next */
    bool         flipped;
    size_t       apart;
} matrix_t;

/* to (rows x columns) := alpha a b + beta to, where a has `inner` columns. For cuBLAS, whose matrices are column-major, all are
   flipped, so that a and b change places. */
typedef struct product {
    size_t rows, columns, inner;
    float  alpha, beta;
    size_t batch;
} product_t;

static void multiply(gpu_t *gpu, product_t by, matrix_t a, matrix_t b, float *to, size_t stride, size_t apart)
{
    const cublasStatus_t status = cublasSgemmStridedBatched(
        gpu->blas, b.flipped ? CUBLAS_OP_T : CUBLAS_OP_N, a.flipped ? CUBLAS_OP_T : CUBLAS_OP_N, (int)by.columns, (int)by.rows,
        (int)by.inner, &by.alpha, b.at, (int)b.stride, (long long)b.apart, a.at, (int)a.stride, (long long)a.apart, &by.beta, to,
        (int)stride, (long long)apart, (int)by.batch);

    gpu->blas_status = gpu->blas_status == CUBLAS_STATUS_SUCCESS ? status : gpu->blas_status;
}

/* outputs := inputs x weight', without the bias. */
static void dense(gpu_t *gpu, const tensor_t *weight, const float *inputs, size_t rows, float *outputs)
{
    multiply(gpu, {rows, weight->rows, weight->cols, 1.0f, 0.0f, 1}, {inputs, weight->cols, false, 0},
             {weight->values, weight->cols, true, 0}, outputs, weight->rows, 0);
}

/* The weight's gradient, which is added to beta times what is there. */
static void weight_gradient(gpu_t *gpu, const tensor_t *weight, const float *inputs, const float *output_deltas, size_t rows,
                            float beta)
{
    multiply(gpu, {weight->rows, weight->cols, rows, 1.0f, beta, 1}, {output_deltas, weight->rows, true, 0},
             {inputs, weight->cols, false, 0}, weight->gradients, weight->cols, 0);
}

static void input_gradient(gpu_t *gpu, const tensor_t *weight, const float *output_deltas, size_t rows, float *input_deltas)
{
    multiply(gpu, {rows, weight->cols, weight->rows, 1.0f, 0.0f, 1}, {output_deltas, weight->rows, false, 0},
             {weight->values, weight->cols, false, 0}, input_deltas, weight->cols, 0);
}

/* Of a layer whose bias is the next tensor. */
static void dense_backward(gpu_t *gpu, const tensor_t *weight, const float *inputs, const float *output_deltas, size_t rows,
                           float *input_deltas)
{
    weight_gradient(gpu, weight, inputs, output_deltas, rows, 0.0f);
    sum_columns(gpu, output_deltas, nullptr, rows, weight->rows, weight[1].gradients);
    input_gradient(gpu, weight, output_deltas, rows, input_deltas);
}

/* ---- Forwards ---- */

static __device__ unsigned symbol_at(const uint8_t *windows, size_t row, size_t context)
{
    return windows[row / context * (context + 1) + row % context];
}

static __global__ void embed(const uint8_t *windows, const float *symbols, const float *positions, size_t rows, size_t context,
                             size_t width, float *out)
{
    const size_t row = own_row();

    if (row < rows) {
        const float *of_symbol = symbols + symbol_at(windows, row, context) * width;
        const float *of_position = positions + row % context * width;

        for (size_t j = lane(); j < width; j += GPU_WARP) {
            out[row * width + j] = of_symbol[j] + of_position[j];
        }
    }
}

static __global__ void norm(const float *gain, const float *bias, const float *inputs, size_t rows, size_t width,
                            norm_trace_t trace)
{
    const size_t row = own_row(), first = row * width;
    float        mean = 0.0f, squares = 0.0f;

    if (row >= rows) {
        return;
    }
    for (size_t j = lane(); j < width; j += GPU_WARP) {
        mean += inputs[first + j];
    }
    mean = sum_of(mean) / (float)width;
    for (size_t j = lane(); j < width; j += GPU_WARP) {
        const float centred = inputs[first + j] - mean;

        squares += centred * centred;
    }
    const float scale = 1.0f / sqrtf(sum_of(squares) / (float)width + TRANSFORMER_EPSILON);
    for (size_t j = lane(); j < width; j += GPU_WARP) {
        const float hat = (inputs[first + j] - mean) * scale;

        trace.hats[first + j] = hat;
        trace.outputs[first + j] = hat * gain[j] + bias[j];
    }
    if (lane() == 0) {
        trace.scales[row] = scale;
    }
}

static void norm_forward(gpu_t *gpu, const tensor_t *gain, const float *inputs, size_t rows, const norm_trace_t *trace)
{
    TACIT_LAUNCH(norm, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, gain->values, gain[1].values, inputs, rows, gain->cols,
                 *trace);
}

/* A layer's bias, and, unless NULL, what goes past it. */
static __global__ void add_bias(const float *bias, const float *beside, size_t rows, size_t width, float *outputs)
{
    const size_t row = own_row();

    for (size_t j = lane(); row < rows && j < width; j += GPU_WARP) {
        const size_t at = row * width + j;
        const float  sum = outputs[at] + bias[j];

        outputs[at] = beside != nullptr ? sum + beside[at] : sum;
    }
}

/* See transformer.c. */
static __device__ float gelu_gate(float x)
{
    return 1.0f / (1.0f + expf(-1.5957691f * (x + 0.044715f * x * x * x)));
}

static __global__ void add_bias_and_activate(const float *bias, size_t rows, size_t width, float *expanded, float *activations)
{
    const size_t row = own_row();

    for (size_t j = lane(); row < rows && j < width; j += GPU_WARP) {
        const size_t at = row * width + j;
        const float  x = expanded[at] + bias[j];

        expanded[at] = x;
        activations[at] = x * gelu_gate(x);
    }
}

/* Rows of context x context scores: see causal_softmax(). */
static __global__ void softmax(float *scores, size_t rows, size_t context)
{
    const size_t row = own_row(), end = row % context + 1;
    float       *own = scores + row * context;
    float        top = -INFINITY, sum = 0.0f;

    if (row >= rows) {
        return;
    }
    for (size_t j = lane(); j < end; j += GPU_WARP) {
        top = fmaxf(top, own[j]);
    }
    top = largest_of(top);
    for (size_t j = lane(); j < end; j += GPU_WARP) {
        own[j] = expf(own[j] - top);
        sum += own[j];
    }
    sum = sum_of(sum);
    for (size_t j = lane(); j < context; j += GPU_WARP) {
        own[j] = j < end ? own[j] / sum : 0.0f;
    }
}

/* The products of attention, in a batch of all windows for each head. */
typedef struct attention {
    size_t batch, heads, context, width, depth;
    float  scale;
} attention_t;

static attention_t attention_of(const transformer_t *model, size_t batch)
{
    const size_t depth = model->shape.width / model->shape.heads;

    return {batch, model->shape.heads, model->shape.context, model->shape.width, depth, (float)(1.0 / sqrt((double)depth))};
}

/* A head's columns of what has a row of `width` a position, and its own matrices of context x context. */
static matrix_t columns(const attention_t *by, const float *rows, size_t head, size_t width)
{
    return {rows + head * by->depth, width, false, by->context * width};
}

static matrix_t square(const attention_t *by, const float *squares, size_t head, bool flipped)
{
    return {squares + head * by->context * by->context, by->context, flipped, by->heads * by->context * by->context};
}

static matrix_t flip(matrix_t matrix)
{
    matrix.flipped = !matrix.flipped;
    return matrix;
}

/* to := alpha a b, where `to` has a column for each of the depth, or each position. */
static void attend(gpu_t *gpu, const attention_t *by, float alpha, matrix_t a, matrix_t b, matrix_t to, bool squares)
{
    multiply(gpu, {by->context, squares ? by->context : by->depth, squares ? by->depth : by->context, alpha, 0.0f, by->batch}, a,
             b, const_cast<float *>(to.at), to.stride, to.apart);
}

static void attention_forward(gpu_t *gpu, const transformer_t *model, const block_trace_t *block, size_t batch)
{
    const attention_t by = attention_of(model, batch);
    const size_t      width = by.width, rows = batch * by.heads * by.context;
    const float      *queries = block->triples, *keys = queries + width, *values = keys + width;

    for (size_t h = 0; h < by.heads; h++) {
        attend(gpu, &by, by.scale, columns(&by, queries, h, 3 * width), flip(columns(&by, keys, h, 3 * width)),
               square(&by, block->weights, h, false), true);
    }
    TACIT_LAUNCH(softmax, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, block->weights, rows, by.context);
    for (size_t h = 0; h < by.heads; h++) {
        attend(gpu, &by, 1.0f, square(&by, block->weights, h, false), columns(&by, values, h, 3 * width),
               columns(&by, block->attended, h, width), false);
    }
}

/* A dense layer, its bias, and `beside` it. */
static void dense_forward(gpu_t *gpu, const tensor_t *weight, const float *inputs, const float *beside, size_t rows,
                          float *outputs)
{
    dense(gpu, weight, inputs, rows, outputs);
    TACIT_LAUNCH(add_bias, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, weight[1].values, beside, rows, weight->rows, outputs);
}

static void block_forward(gpu_t *gpu, const transformer_t *model, size_t layer, size_t batch)
{
    const size_t         rows = batch * model->shape.context;
    const block_trace_t *block = &model->blocks[layer];
    const tensor_t      *expand = block_tensor(model, layer, EXPAND_WEIGHT);

    norm_forward(gpu, block_tensor(model, layer, GAIN1), block->inputs, rows, &block->norm1);
    dense_forward(gpu, block_tensor(model, layer, TRIPLE_WEIGHT), block->norm1.outputs, nullptr, rows, block->triples);
    attention_forward(gpu, model, block, batch);
    dense_forward(gpu, block_tensor(model, layer, MIX_WEIGHT), block->attended, block->inputs, rows, block->middles);

    norm_forward(gpu, block_tensor(model, layer, GAIN2), block->middles, rows, &block->norm2);
    dense(gpu, expand, block->norm2.outputs, rows, block->expanded);
    TACIT_LAUNCH(add_bias_and_activate, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, expand[1].values, rows, expand->rows,
                 block->expanded, block->activations);
    dense_forward(gpu, block_tensor(model, layer, CONTRACT_WEIGHT), block->activations, block->middles, rows,
                  model->blocks[layer + 1].inputs);
}

static void forward(gpu_t *gpu, const transformer_t *model, size_t batch)
{
    const size_t    context = model->shape.context, rows = batch * context;
    const tensor_t *embedding = &model->tensors.list[EMBEDDING], *position = &model->tensors.list[POSITION];

    TACIT_LAUNCH(embed, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, gpu->windows, embedding->values, position->values, rows,
                 context, model->shape.width, model->blocks[0].inputs);
    for (size_t l = 0; l < model->shape.layers; l++) {
        block_forward(gpu, model, l, batch);
    }
    norm_forward(gpu, final_gain(model), model->blocks[model->shape.layers].inputs, rows, &model->final);
    dense(gpu, embedding, model->final.outputs, rows, model->scores);
}

/* ---- Backwards ---- */

/* See norm_backward() in transformer.c. */
static __global__ void norm_back(const float *gain, norm_trace_t trace, const float *output_deltas, size_t rows, size_t width,
                                 float *deltas)
{
    const size_t row = own_row(), first = row * width;
    float        sum = 0.0f, along = 0.0f;

    if (row >= rows) {
        return;
    }
    for (size_t j = lane(); j < width; j += GPU_WARP) {
        const float e = gain[j] * output_deltas[first + j];

        sum += e;
        along += e * trace.hats[first + j];
    }
    sum = sum_of(sum) / (float)width;
    along = sum_of(along) / (float)width;
    for (size_t j = lane(); j < width; j += GPU_WARP) {
        const float e = gain[j] * output_deltas[first + j];

        deltas[first + j] += trace.scales[row] * (e - sum - trace.hats[first + j] * along);
    }
}

static void norm_backward(gpu_t *gpu, const tensor_t *gain, const norm_trace_t *trace, const float *output_deltas, size_t rows,
                          float *deltas)
{
    sum_columns(gpu, output_deltas, trace->hats, rows, gain->cols, gain->gradients);
    sum_columns(gpu, output_deltas, nullptr, rows, gain->cols, gain[1].gradients);
    TACIT_LAUNCH(norm_back, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, gain->values, *trace, output_deltas, rows, gain->cols,
                 deltas);
}

/* See causal_softmax_backward(). */
static __global__ void softmax_back(const float *weights, size_t rows, size_t context, float *deltas)
{
    const size_t row = own_row(), first = row * context;
    float        sum = 0.0f;

    if (row >= rows) {
        return;
    }
    for (size_t j = lane(); j < row % context + 1; j += GPU_WARP) {
        sum += weights[first + j] * deltas[first + j];
    }
    sum = sum_of(sum);
    for (size_t j = lane(); j < context; j += GPU_WARP) {
        deltas[first + j] = weights[first + j] * (deltas[first + j] - sum);
    }
}

static void attention_backward(gpu_t *gpu, const transformer_t *model, const block_trace_t *block, size_t batch)
{
    const attention_t by = attention_of(model, batch);
    const size_t      width = by.width, rows = batch * by.heads * by.context;
    const float      *queries = block->triples, *keys = queries + width, *values = keys + width;
    const float      *by_queries = model->triple_deltas, *by_keys = by_queries + width, *by_values = by_keys + width;

    for (size_t h = 0; h < by.heads; h++) {
        const matrix_t out = columns(&by, model->branch_deltas, h, width);

        attend(gpu, &by, 1.0f, square(&by, block->weights, h, true), out, columns(&by, by_values, h, 3 * width), false);
        attend(gpu, &by, 1.0f, out, flip(columns(&by, values, h, 3 * width)), square(&by, model->weight_deltas, h, false), true);
    }
    TACIT_LAUNCH(softmax_back, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, block->weights, rows, by.context,
                 model->weight_deltas);
    for (size_t h = 0; h < by.heads; h++) {
        const matrix_t scores = square(&by, model->weight_deltas, h, false);

        attend(gpu, &by, by.scale, scores, columns(&by, keys, h, 3 * width), columns(&by, by_queries, h, 3 * width), false);
        attend(gpu, &by, by.scale, flip(scores), columns(&by, queries, h, 3 * width), columns(&by, by_keys, h, 3 * width), false);
    }
}

static __global__ void gelu_back(const float *inputs, size_t count, float *deltas)
{
    const size_t i = (size_t)blockIdx.x * GPU_THREADS + threadIdx.x;

    if (i < count) {
        const float x = inputs[i], gate = gelu_gate(x), slope = 1.5957691f * (1.0f + 3.0f * 0.044715f * x * x);

        deltas[i] *= gate + x * gate * (1.0f - gate) * slope;
    }
}

static void block_backward(gpu_t *gpu, const transformer_t *model, size_t layer, size_t batch)
{
    const size_t         rows = batch * model->shape.context, count = 4 * rows * model->shape.width;
    const block_trace_t *block = &model->blocks[layer];

    dense_backward(gpu, block_tensor(model, layer, CONTRACT_WEIGHT), block->activations, model->deltas, rows,
                   model->expanded_deltas);
    TACIT_LAUNCH(gelu_back, gpu_blocks(count), GPU_THREADS, gpu->stream, block->expanded, count, model->expanded_deltas);
    dense_backward(gpu, block_tensor(model, layer, EXPAND_WEIGHT), block->norm2.outputs, model->expanded_deltas, rows,
                   model->branch_deltas);
    norm_backward(gpu, block_tensor(model, layer, GAIN2), &block->norm2, model->branch_deltas, rows, model->deltas);

    dense_backward(gpu, block_tensor(model, layer, MIX_WEIGHT), block->attended, model->deltas, rows, model->branch_deltas);
    attention_backward(gpu, model, block, batch);
    dense_backward(gpu, block_tensor(model, layer, TRIPLE_WEIGHT), block->norm1.outputs, model->triple_deltas, rows,
                   model->branch_deltas);
    norm_backward(gpu, block_tensor(model, layer, GAIN1), &block->norm1, model->branch_deltas, rows, model->deltas);
}

static __global__ void clear(size_t count, float *numbers)
{
    const size_t i = (size_t)blockIdx.x * GPU_THREADS + threadIdx.x;

    if (i < count) {
        numbers[i] = 0.0f;
    }
}

/* 1 at each row's symbol, and 0 elsewhere: by it rows that have a symbol in common are added up. */
static __global__ void mark_symbols(const uint8_t *windows, size_t rows, size_t context, size_t symbols, float *marks)
{
    const size_t row = own_row();

    for (size_t j = lane(); row < rows && j < symbols; j += GPU_WARP) {
        marks[row * symbols + j] = j == symbol_at(windows, row, context) ? 1.0f : 0.0f;
    }
}

/* From score_deltas, whose place the marks then take. */
static void backward(gpu_t *gpu, const transformer_t *model, size_t batch)
{
    const size_t    width = model->shape.width, context = model->shape.context, rows = batch * context;
    const tensor_t *embedding = &model->tensors.list[EMBEDDING], *position = &model->tensors.list[POSITION];
    float          *marks = model->score_deltas;

    weight_gradient(gpu, embedding, model->final.outputs, model->score_deltas, rows, 0.0f);
    input_gradient(gpu, embedding, model->score_deltas, rows, model->branch_deltas);
    TACIT_LAUNCH(clear, gpu_blocks(rows * width), GPU_THREADS, gpu->stream, rows * width, model->deltas);
    norm_backward(gpu, final_gain(model), &model->final, model->branch_deltas, rows, model->deltas);
    for (size_t l = model->shape.layers; l-- > 0;) {
        block_backward(gpu, model, l, batch);
    }
    sum_columns(gpu, model->deltas, nullptr, batch, context * width, position->gradients);
    TACIT_LAUNCH(mark_symbols, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, gpu->windows, rows, context, embedding->rows,
                 marks);
    weight_gradient(gpu, embedding, model->deltas, marks, rows, 1.0f);
}

/* ---- Losses ---- */

/* Of each row; and, unless NULL, `scale` times the gradient by the scores. */
static __global__ void cross_entropy(const float *scores, const uint8_t *windows, size_t rows, size_t context, size_t symbols,
                                     float scale, float *losses, float *deltas)
{
    const size_t row = own_row(), first = row * symbols;
    float        top = -INFINITY, sum = 0.0f;

    if (row >= rows) {
        return;
    }
    const unsigned answer = windows[row / context * (context + 1) + row % context + 1];
    for (size_t j = lane(); j < symbols; j += GPU_WARP) {
        top = fmaxf(top, scores[first + j]);
    }
    top = largest_of(top);
    for (size_t j = lane(); j < symbols; j += GPU_WARP) {
        sum += expf(scores[first + j] - top);
    }
    sum = sum_of(sum);
    for (size_t j = lane(); deltas != nullptr && j < symbols; j += GPU_WARP) {
        deltas[first + j] = scale * (expf(scores[first + j] - top) / sum - (j == answer ? 1.0f : 0.0f));
    }
    if (lane() == 0) {
        losses[row] = logf(sum) - (scores[first + answer] - top);
    }
}

/* One block. */
static __global__ void sum_losses(const float *losses, size_t rows, double *loss)
{
    __shared__ double sums[GPU_THREADS];
    double            sum = 0.0;

    for (size_t i = threadIdx.x; i < rows; i += GPU_THREADS) {
        sum += (double)losses[i];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned apart = GPU_THREADS / 2; apart != 0; apart /= 2) {
        if (threadIdx.x < apart) {
            sums[threadIdx.x] += sums[threadIdx.x + apart];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *loss = sums[0];
    }
}

static const char *make_room(gpu_t *gpu, const transformer_t *model)
{
    const size_t rows = model->batch_limit * model->shape.context;
    const char  *fault = gpu_alloc(gpu, model->batch_limit * (model->shape.context + 1), (void **)&gpu->windows);

    fault = fault == nullptr ? gpu_alloc(gpu, rows * sizeof(float), (void **)&gpu->losses) : fault;
    fault = fault == nullptr ? gpu_alloc(gpu, STRIPS * MANY_COLUMNS * sizeof(float), (void **)&gpu->sums) : fault;
    return fault == nullptr ? gpu_alloc(gpu, sizeof(double), (void **)&gpu->loss) : fault;
}

/* The sum of the losses of a batch and, where it is wanted, the gradient of their mean. */
static const char *run(gpu_t *gpu, const transformer_t *model, const uint8_t *windows, size_t batch, bool gradient,
                       double *loss_out)
{
    const size_t context = model->shape.context, rows = batch * context;
    const char  *fault = gpu->loss == nullptr ? make_room(gpu, model) : nullptr;

    if (fault != nullptr) {
        return fault;
    }
    (void)cudaMemcpyAsync(gpu->windows, windows, batch * (context + 1), cudaMemcpyDefault, gpu->stream);
    forward(gpu, model, batch);
    TACIT_LAUNCH(cross_entropy, gpu_row_blocks(rows), GPU_THREADS, gpu->stream, model->scores, gpu->windows, rows, context,
                 model->shape.symbols, 1.0f / (float)rows, gpu->losses, gradient ? model->score_deltas : nullptr);
    TACIT_LAUNCH(sum_losses, 1, GPU_THREADS, gpu->stream, gpu->losses, rows, gpu->loss);
    if (gradient) {
        backward(gpu, model, batch);
    }
    fault = gpu_fault(gpu);
    return fault == nullptr ? gpu_copy(gpu, loss_out, gpu->loss, sizeof *loss_out) : fault;
}

} /* namespace train_gpu */

const char *gpu_loss_gradient(gpu_t *gpu, const struct transformer *model, const uint8_t *windows, size_t batch, double *loss_out)
{
    const char *fault = train_gpu::run(gpu, model, windows, batch, true, loss_out);

    *loss_out = fault == nullptr ? *loss_out / (double)(batch * model->shape.context) : 0.0;
    return fault;
}

const char *gpu_evaluate(gpu_t *gpu, const struct transformer *model, const uint8_t *windows, size_t batch, double *loss_out)
{
    return train_gpu::run(gpu, model, windows, batch, false, loss_out);
}
