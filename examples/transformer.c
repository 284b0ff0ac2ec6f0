/* SPDX-License-Identifier: Apache-2.0 */
/* The transformer forwards and backwards. Matrix products run over all windows at once, except the attention's own, which run
   over one head of one window. */
#include "transformer.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Making ---- */

static void name_tensor(tensor_t *tensor, const char *name, size_t rows, size_t cols)
{
    *tensor = (tensor_t){.rows = rows, .cols = cols};
    (void)snprintf(tensor->name, sizeof tensor->name, "%s", name);
}

static void name_block(tensor_t *list, const transformer_shape_t *shape, size_t layer)
{
    const size_t width = shape->width, count = block_first(shape, layer + 1) - block_first(shape, layer);
    const struct {
        const char *name;
        size_t      rows, cols;
    } parts[BLOCK_TENSORS] = {
        [GAIN1] = {"norm1.gain", 1, width},
        [BIAS1] = {"norm1.bias", 1, width},
        [TRIPLE_WEIGHT] = {"attention.weight", 3 * width, width},
        [TRIPLE_BIAS] = {"attention.bias", 1, 3 * width},
        [MIX_WEIGHT] = {"mix.weight", width, width},
        [MIX_BIAS] = {"mix.bias", 1, width},
        [GAIN2] = {"norm2.gain", 1, width},
        [BIAS2] = {"norm2.bias", 1, width},
        [EXPAND_WEIGHT] = {"expand.weight", 4 * width, width},
        [EXPAND_BIAS] = {"expand.bias", 1, 4 * width},
        [CONTRACT_WEIGHT] = {"contract.weight", width, 4 * width},
        [CONTRACT_BIAS] = {"contract.bias", 1, width},
    };

    for (size_t i = 0; i < count; i++) {
        const bool gate = i == GATE && block_is_mixture(shape, layer);
        char       name[TENSOR_NAME_BYTES];

        (void)snprintf(name, sizeof name, "block%u.%s", (unsigned)(layer + 1), gate ? "gate" : parts[i].name);
        name_tensor(&list[i], name, gate ? shape->experts : parts[i].rows, parts[i].cols);
    }
}

static int make_tensors(transformer_t *model)
{
    const transformer_shape_t *shape = &model->shape;
    const size_t               count = block_first(shape, shape->layers) + 2;
    tensor_t                  *list = calloc(count, sizeof *list);
    int                        result;

    if (!list) {
        return -1;
    }
    name_tensor(&list[EMBEDDING], "embedding", shape->symbols, shape->width);
    name_tensor(&list[POSITION], "position", shape->context, shape->width);
    for (size_t l = 0; l < shape->layers; l++) {
        name_block(list + block_first(shape, l), shape, l);
    }
    name_tensor(&list[count - 2], "final.gain", 1, shape->width);
    name_tensor(&list[count - 1], "final.bias", 1, shape->width);
    result = tensors_init(&model->tensors, list, count);
    free(list);
    return result;
}

/* Takes `count` floats of the model's memory, or only counts them while there is none. */
static float *take(const transformer_t *model, size_t *used, size_t count)
{
    float *piece = model->memory ? model->memory + *used : NULL;

    *used += count;
    return piece;
}

static void place_norm(const transformer_t *model, size_t *used, size_t rows, norm_trace_t *trace)
{
    trace->hats = take(model, used, rows * model->shape.width);
    trace->scales = take(model, used, rows);
    trace->outputs = take(model, used, rows * model->shape.width);
}

size_t transformer_place(transformer_t *model, float *memory)
{
    const transformer_shape_t *shape = &model->shape;
    const size_t               rows = model->batch_limit * shape->context, plane = rows * shape->width;
    size_t                     used = 0;

    model->memory = memory;
    for (size_t l = 0; l < shape->layers; l++) {
        const size_t   wide = block_is_mixture(shape, l) ? 0 : 4 * plane;
        block_trace_t *block = &model->blocks[l];

        block->inputs = take(model, &used, plane);
        place_norm(model, &used, rows, &block->norm1);
        block->triples = take(model, &used, 3 * plane);
        block->weights = take(model, &used, rows * shape->heads * shape->context);
        block->attended = take(model, &used, plane);
        block->middles = take(model, &used, plane);
        place_norm(model, &used, rows, &block->norm2);
        block->expanded = take(model, &used, wide);
        block->activations = take(model, &used, wide);
    }
    model->blocks[shape->layers].inputs = take(model, &used, plane);
    place_norm(model, &used, rows, &model->final);
    model->scores = take(model, &used, rows * shape->symbols);
    model->score_deltas = take(model, &used, rows * shape->symbols);
    model->deltas = take(model, &used, plane);
    model->branch_deltas = take(model, &used, plane);
    model->triple_deltas = take(model, &used, 3 * plane);
    model->expanded_deltas = take(model, &used, 4 * plane);
    model->weight_deltas = take(model, &used, rows * shape->heads * shape->context);
    return used;
}

int transformer_init(transformer_t *model, const transformer_shape_t *shape, size_t batch_limit)
{
    float *memory;

    *model = (transformer_t){.shape = *shape, .batch_limit = batch_limit};
    model->blocks = calloc(shape->layers + 1, sizeof *model->blocks);
    if (!model->blocks || make_tensors(model) != 0) {
        transformer_fini(model);
        return -1;
    }
    memory = calloc(transformer_place(model, NULL) + 1, sizeof *memory);
    if (!memory) {
        transformer_fini(model);
        return -1;
    }
    (void)transformer_place(model, memory);
    return 0;
}

void transformer_fini(transformer_t *model)
{
    tensors_fini(&model->tensors);
    free(model->memory);
    free(model->blocks);
    *model = (transformer_t){0};
}

static void fill(const tensor_t *tensor, float value)
{
    for (size_t i = 0; i < tensor->rows * tensor->cols; i++) {
        tensor->values[i] = value;
    }
}

void transformer_randomize(transformer_t *model, uint64_t seed)
{
    const double deviation = sqrt(1.0 / (double)model->shape.width), residual = sqrt(0.5 / (double)model->shape.layers);

    memset(model->tensors.values, 0, model->tensors.elements * sizeof *model->tensors.values);
    tensor_randomize(&model->tensors.list[EMBEDDING], deviation, &seed);
    tensor_randomize(&model->tensors.list[POSITION], deviation, &seed);
    for (size_t l = 0; l < model->shape.layers; l++) {
        fill(block_tensor(model, l, GAIN1), 1.0f);
        tensor_randomize(block_tensor(model, l, TRIPLE_WEIGHT), deviation, &seed);
        tensor_randomize(block_tensor(model, l, MIX_WEIGHT), deviation * residual, &seed);
        fill(block_tensor(model, l, GAIN2), 1.0f);
        tensor_randomize(block_tensor(model, l, EXPAND_WEIGHT), deviation, &seed); /* or the gate */
        if (!block_is_mixture(&model->shape, l)) {
            tensor_randomize(block_tensor(model, l, CONTRACT_WEIGHT), 0.5 * deviation * residual, &seed); /* of 4 width inputs */
        }
    }
    fill(final_gain(model), 1.0f);
}

/* ---- Forwards ---- */

/* Every row gets mean 0 and variance 1, then the gain and the bias of its column. */
static void norm_forward(const tensor_t *gain, const float *inputs, size_t rows, const norm_trace_t *trace)
{
    const size_t width = gain->cols;
    const float *bias = gain[1].values;

    for (size_t i = 0; i < rows; i++) {
        const float *in = inputs + i * width;
        float       *hat = trace->hats + i * width, *out = trace->outputs + i * width;
        double       sum = 0.0, squares = 0.0;
        float        mean, scale;

        for (size_t j = 0; j < width; j++) {
            sum += (double)in[j];
            squares += (double)in[j] * (double)in[j];
        }
        sum /= (double)width;
        mean = (float)sum;
        scale = (float)(1.0 / sqrt(squares / (double)width - sum * sum + (double)TRANSFORMER_EPSILON));
        trace->scales[i] = scale;
        for (size_t j = 0; j < width; j++) {
            hat[j] = (in[j] - mean) * scale;
            out[j] = hat[j] * gain->values[j] + bias[j];
        }
    }
}

/* The softmax of each row's first entries, up to and including the diagonal: a position sees itself and what is before it. */
static void causal_softmax(float *scores, size_t context)
{
    for (size_t i = 0; i < context; i++) {
        float *row = scores + i * context;
        float  top = row[0], sum = 0.0f;

        for (size_t j = 1; j <= i; j++) {
            top = row[j] > top ? row[j] : top;
        }
        for (size_t j = 0; j <= i; j++) {
            row[j] = expf(row[j] - top);
            sum += row[j];
        }
        for (size_t j = 0; j <= i; j++) {
            row[j] /= sum;
        }
        memset(row + i + 1, 0, (context - i - 1) * sizeof *row);
    }
}

static void attention_forward(const transformer_t *model, const block_trace_t *block, size_t batch)
{
    const size_t width = model->shape.width, heads = model->shape.heads, context = model->shape.context, depth = width / heads;
    const int    w = (int)width, c = (int)context, d = (int)depth;
    const float  scale = (float)(1.0 / sqrt((double)depth));

    for (size_t i = 0; i < batch * heads; i++) {
        const size_t first = i / heads * context, column = i % heads * depth;
        const float *queries = block->triples + first * 3 * width + column, *keys = queries + width, *values = keys + width;
        float       *weights = block->weights + i * context * context;

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, c, c, d, scale, queries, 3 * w, keys, 3 * w, 0.0f, weights, c);
        causal_softmax(weights, context);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, c, d, c, 1.0f, weights, c, values, 3 * w, 0.0f,
                    block->attended + first * width + column, w);
    }
}

/* The logistic function of 2 sqrt(2/pi) (x + 0.044715 x^3), by which GELU multiplies x: (1 + tanh(y)) / 2 is the logistic
   function of 2y. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), section 2. */
static float gelu_gate(float x)
{
    return 1.0f / (1.0f + expf(-1.5957691f * (x + 0.044715f * x * x * x)));
}

static void add(float *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        to[i] += from[i];
    }
}

void transformer_gelu(const float *inputs, size_t count, float *outputs)
{
    for (size_t i = 0; i < count; i++) {
        outputs[i] = inputs[i] * gelu_gate(inputs[i]);
    }
}

static void perceptron_forward(const transformer_t *model, size_t layer, size_t rows, float *outputs)
{
    const block_trace_t *block = &model->blocks[layer];

    dense_forward(block_tensor(model, layer, EXPAND_WEIGHT), block_tensor(model, layer, EXPAND_BIAS), block->norm2.outputs, rows,
                  block->expanded);
    transformer_gelu(block->expanded, rows * 4 * model->shape.width, block->activations);
    dense_forward(block_tensor(model, layer, CONTRACT_WEIGHT), block_tensor(model, layer, CONTRACT_BIAS), block->activations,
                  rows, outputs);
}

static void block_forward(const transformer_t *model, size_t layer, size_t batch, bool training)
{
    const size_t         rows = batch * model->shape.context, plane = rows * model->shape.width;
    const block_trace_t *block = &model->blocks[layer];
    float               *outputs = model->blocks[layer + 1].inputs;

    norm_forward(block_tensor(model, layer, GAIN1), block->inputs, rows, &block->norm1);
    dense_forward(block_tensor(model, layer, TRIPLE_WEIGHT), block_tensor(model, layer, TRIPLE_BIAS), block->norm1.outputs, rows,
                  block->triples);
    attention_forward(model, block, batch);
    dense_forward(block_tensor(model, layer, MIX_WEIGHT), block_tensor(model, layer, MIX_BIAS), block->attended, rows,
                  block->middles);
    add(block->middles, block->inputs, plane);

    norm_forward(block_tensor(model, layer, GAIN2), block->middles, rows, &block->norm2);
    if (block_is_mixture(&model->shape, layer)) {
        model->mixture.forward(model->mixture.own, layer, block_tensor(model, layer, GATE), block->norm2.outputs, rows, outputs,
                               training);
    } else {
        perceptron_forward(model, layer, rows, outputs);
    }
    add(outputs, block->middles, plane);
}

/* Leaves every position's scores of the symbol that follows. */
static void forward(const transformer_t *model, const uint8_t *windows, size_t batch, bool training)
{
    const size_t    width = model->shape.width, context = model->shape.context, rows = batch * context;
    const tensor_t *embedding = &model->tensors.list[EMBEDDING], *position = &model->tensors.list[POSITION];

    for (size_t i = 0; i < rows; i++) {
        const size_t symbol = windows[i / context * (context + 1) + i % context];
        const float *of_symbol = embedding->values + symbol * width, *of_position = position->values + i % context * width;
        float       *input = model->blocks[0].inputs + i * width;

        for (size_t j = 0; j < width; j++) {
            input[j] = of_symbol[j] + of_position[j];
        }
    }
    for (size_t l = 0; l < model->shape.layers; l++) {
        block_forward(model, l, batch, training);
    }
    norm_forward(final_gain(model), model->blocks[model->shape.layers].inputs, rows, &model->final);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)embedding->rows, (int)width, 1.0f, model->final.outputs,
                (int)width, embedding->values, (int)width, 0.0f, model->scores, (int)embedding->rows);
}

/* ---- Backwards ---- */

/* Adds to `deltas` what comes through the norm. With h = (x - mean) / deviation and e = gain x delta, the gradient by x is
   (e - mean(e) - h mean(e h)) / deviation. */
static void norm_backward(const tensor_t *gain, const norm_trace_t *trace, const float *output_deltas, size_t rows, float *deltas)
{
    const size_t width = gain->cols;
    float       *gain_gradients = gain->gradients, *bias_gradients = gain[1].gradients;

    memset(gain_gradients, 0, width * sizeof *gain_gradients);
    memset(bias_gradients, 0, width * sizeof *bias_gradients);
    for (size_t i = 0; i < rows; i++) {
        const float *hat = trace->hats + i * width, *out = output_deltas + i * width;
        double       sum = 0.0, along = 0.0;

        for (size_t j = 0; j < width; j++) {
            const double e = (double)(gain->values[j] * out[j]);

            sum += e;
            along += e * (double)hat[j];
            gain_gradients[j] += out[j] * hat[j];
            bias_gradients[j] += out[j];
        }
        for (size_t j = 0; j < width; j++) {
            const float e = gain->values[j] * out[j];

            deltas[i * width + j] +=
                trace->scales[i] * (e - (float)(sum / (double)width) - hat[j] * (float)(along / (double)width));
        }
    }
}

/* Of a softmax p with gradient q by its outputs, the gradient by its inputs is p (q - sum of p q). */
static void causal_softmax_backward(const float *weights, size_t context, float *deltas)
{
    for (size_t i = 0; i < context; i++) {
        const float *weight = weights + i * context;
        float       *delta = deltas + i * context, sum = 0.0f;

        for (size_t j = 0; j <= i; j++) {
            sum += weight[j] * delta[j];
        }
        for (size_t j = 0; j < context; j++) { /* beyond the diagonal the weight is 0 */
            delta[j] = weight[j] * (delta[j] - sum);
        }
    }
}

/* From branch_deltas, by what was attended, to triple_deltas. */
static void attention_backward(const transformer_t *model, const block_trace_t *block, size_t batch)
{
    const size_t width = model->shape.width, heads = model->shape.heads, context = model->shape.context, depth = width / heads;
    const int    w = (int)width, c = (int)context, d = (int)depth;
    const float  scale = (float)(1.0 / sqrt((double)depth));
    float       *scores = model->weight_deltas;

    for (size_t i = 0; i < batch * heads; i++) {
        const size_t first = i / heads * context, column = i % heads * depth, start = first * 3 * width + column;
        const float *queries = block->triples + start, *keys = queries + width, *values = keys + width;
        const float *weights = block->weights + i * context * context, *out = model->branch_deltas + first * width + column;
        float       *by_queries = model->triple_deltas + start, *by_keys = by_queries + width, *by_values = by_keys + width;

        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, c, d, c, 1.0f, weights, c, out, w, 0.0f, by_values, 3 * w);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, c, c, d, 1.0f, out, w, values, 3 * w, 0.0f, scores, c);
        causal_softmax_backward(weights, context, scores);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, c, d, c, scale, scores, c, keys, 3 * w, 0.0f, by_queries, 3 * w);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, c, d, c, scale, scores, c, queries, 3 * w, 0.0f, by_keys, 3 * w);
    }
}

/* The gradient of x g(y(x)): g + x g (1 - g) y'. */
void transformer_gelu_backward(const float *inputs, size_t count, float *deltas)
{
    for (size_t i = 0; i < count; i++) {
        const float x = inputs[i], gate = gelu_gate(x), slope = 1.5957691f * (1.0f + 3.0f * 0.044715f * x * x);

        deltas[i] *= gate + x * gate * (1.0f - gate) * slope;
    }
}

/* From `deltas`, by the block's outputs, to branch_deltas, by the perceptron's inputs. */
static void perceptron_backward(const transformer_t *model, size_t layer, size_t rows)
{
    const block_trace_t *block = &model->blocks[layer];

    dense_backward(block_tensor(model, layer, CONTRACT_WEIGHT), block_tensor(model, layer, CONTRACT_BIAS), block->activations,
                   model->deltas, rows, model->expanded_deltas);
    transformer_gelu_backward(block->expanded, rows * 4 * model->shape.width, model->expanded_deltas);
    dense_backward(block_tensor(model, layer, EXPAND_WEIGHT), block_tensor(model, layer, EXPAND_BIAS), block->norm2.outputs,
                   model->expanded_deltas, rows, model->branch_deltas);
}

/* Turns `deltas`, by the block's outputs, into those by its inputs. */
static void block_backward(const transformer_t *model, size_t layer, size_t batch)
{
    const size_t         rows = batch * model->shape.context;
    const block_trace_t *block = &model->blocks[layer];

    if (block_is_mixture(&model->shape, layer)) {
        model->mixture.backward(model->mixture.own, layer, block_tensor(model, layer, GATE), block->norm2.outputs, model->deltas,
                                rows, model->branch_deltas);
    } else {
        perceptron_backward(model, layer, rows);
    }
    norm_backward(block_tensor(model, layer, GAIN2), &block->norm2, model->branch_deltas, rows, model->deltas);

    dense_backward(block_tensor(model, layer, MIX_WEIGHT), block_tensor(model, layer, MIX_BIAS), block->attended, model->deltas,
                   rows, model->branch_deltas);
    attention_backward(model, block, batch);
    dense_backward(block_tensor(model, layer, TRIPLE_WEIGHT), block_tensor(model, layer, TRIPLE_BIAS), block->norm1.outputs,
                   model->triple_deltas, rows, model->branch_deltas);
    norm_backward(block_tensor(model, layer, GAIN1), &block->norm1, model->branch_deltas, rows, model->deltas);
}

/* From score_deltas to the gradients of all parameters. The embeddings have two: as weights of the softmax, and as inputs. */
static void backward(const transformer_t *model, const uint8_t *windows, size_t batch)
{
    const size_t    width = model->shape.width, context = model->shape.context, rows = batch * context;
    const tensor_t *embedding = &model->tensors.list[EMBEDDING], *position = &model->tensors.list[POSITION];
    const int       r = (int)rows, w = (int)width, s = (int)embedding->rows;

    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, s, w, r, 1.0f, model->score_deltas, s, model->final.outputs, w, 0.0f,
                embedding->gradients, w);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, r, w, s, 1.0f, model->score_deltas, s, embedding->values, w, 0.0f,
                model->branch_deltas, w);
    memset(model->deltas, 0, rows * width * sizeof *model->deltas);
    norm_backward(final_gain(model), &model->final, model->branch_deltas, rows, model->deltas);
    for (size_t l = model->shape.layers; l-- > 0;) {
        block_backward(model, l, batch);
    }
    memset(position->gradients, 0, context * width * sizeof *position->gradients);
    for (size_t i = 0; i < rows; i++) {
        const size_t symbol = windows[i / context * (context + 1) + i % context];

        add(embedding->gradients + symbol * width, model->deltas + i * width, width);
        add(position->gradients + i % context * width, model->deltas + i * width, width);
    }
}

/* ---- Losses ---- */

/* The symbol that follows row i. */
static size_t answer(const transformer_t *model, const uint8_t *windows, size_t i)
{
    const size_t context = model->shape.context;

    return windows[i / context * (context + 1) + i % context + 1];
}

double transformer_loss_gradient(transformer_t *model, const uint8_t *windows, size_t batch)
{
    const size_t symbols = model->shape.symbols, rows = batch * model->shape.context;
    double       loss = 0.0;

    forward(model, windows, batch, true);
    for (size_t i = 0; i < rows; i++) {
        loss += cross_entropy_gradient(model->scores + i * symbols, symbols, answer(model, windows, i), 1.0 / (double)rows,
                                       model->score_deltas + i * symbols);
    }
    backward(model, windows, batch);
    return loss / (double)rows;
}

double transformer_evaluate(transformer_t *model, const uint8_t *windows, size_t count)
{
    const size_t symbols = model->shape.symbols, context = model->shape.context;
    size_t       first = 0;
    double       loss = 0.0;

    do {
        const size_t   batch = count - first < model->batch_limit ? count - first : model->batch_limit;
        const uint8_t *part = windows + first * (context + 1);

        forward(model, part, batch, false);
        for (size_t i = 0; i < batch * context; i++) {
            loss += cross_entropy(model->scores + i * symbols, symbols, answer(model, part, i));
        }
        first += batch;
    } while (first < count);
    return loss;
}
