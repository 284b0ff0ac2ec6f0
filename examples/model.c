/* SPDX-License-Identifier: Apache-2.0 */
/* Dense layers by BLAS, their gradients by hand, momentum SGD and Adam. Nothing here knows of other ranks. */
#include "model.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* OpenBLAS only; elsewhere the address is NULL and the environment decides. */
extern void openblas_set_num_threads(int threads) __attribute__((weak));

uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t random_below(uint64_t *state, uint64_t limit)
{
    const uint64_t whole = UINT64_MAX - UINT64_MAX % limit; /* above it, small results would be likelier */
    uint64_t       number;

    do {
        number = random_next(state);
    } while (number >= whole);
    return number % limit;
}

/* Above 0, at most 1. */
static double random_unit(uint64_t *state)
{
    return (double)((random_next(state) >> 11) + 1) * 0x1p-53;
}

/* Box and Muller's method. The second number of the pair is not kept: a stream has no state but its seed. */
double random_normal(uint64_t *state)
{
    const double radius = sqrt(-2.0 * log(random_unit(state)));

    return radius * cos(6.283185307179586 * random_unit(state));
}

void random_permutation(uint64_t seed, size_t count, uint32_t *order_out)
{
    for (size_t i = 0; i < count; i++) {
        order_out[i] = (uint32_t)i;
    }
    for (size_t i = count; i > 1; i--) {
        const size_t   j = (size_t)random_below(&seed, i);
        const uint32_t swap = order_out[i - 1];

        order_out[i - 1] = order_out[j];
        order_out[j] = swap;
    }
}

/* Names the next tensor; returns the parameters before the one after it. */
static size_t add_tensor(model_t *model, size_t layer, const char *what, size_t rows, size_t cols, size_t first)
{
    model_tensor_t *tensor = &model->tensors[model->tensor_count++];

    (void)snprintf(tensor->name, sizeof tensor->name, "layer%zu.%s", layer + 1, what);
    tensor->rows = rows;
    tensor->cols = cols;
    tensor->values = model->values + first;
    tensor->gradients = model->gradients + first;
    return first + rows * cols;
}

int model_init(model_t *model, const size_t *widths, size_t layers, size_t batch_limit)
{
    size_t first = 0;

    memset(model, 0, sizeof *model);
    if (openblas_set_num_threads) {
        openblas_set_num_threads(1);
    }
    model->layers = layers;
    model->batch_limit = batch_limit;
    memcpy(model->widths, widths, (layers + 1) * sizeof *widths);
    for (size_t l = 0; l < layers; l++) {
        model->count += (widths[l] + 1) * widths[l + 1];
    }
    model->values = calloc(model->count, sizeof *model->values);
    model->gradients = calloc(model->count, sizeof *model->gradients);
    if (!model->values || !model->gradients) {
        model_fini(model);
        return -1;
    }
    for (size_t l = 0; l < layers; l++) {
        first = add_tensor(model, l, "weight", widths[l + 1], widths[l], first);
        first = add_tensor(model, l, "bias", 1, widths[l + 1], first);
        model->outputs[l] = calloc(batch_limit * widths[l + 1], sizeof *model->outputs[l]);
        model->deltas[l] = calloc(batch_limit * widths[l + 1], sizeof *model->deltas[l]);
        if (!model->outputs[l] || !model->deltas[l]) {
            model_fini(model);
            return -1;
        }
    }
    return 0;
}

void model_fini(model_t *model)
{
    for (size_t l = 0; l < model->layers; l++) {
        free(model->outputs[l]);
        free(model->deltas[l]);
    }
    free(model->values);
    free(model->gradients);
    memset(model, 0, sizeof *model);
}

void model_randomize(model_t *model, uint64_t seed)
{
    for (size_t l = 0; l < model->layers; l++) {
        const model_tensor_t *weight = &model->tensors[2 * l], *bias = &model->tensors[2 * l + 1];
        const double          deviation = sqrt(2.0 / (double)weight->cols);

        for (size_t i = 0; i < weight->rows * weight->cols; i++) {
            weight->values[i] = (float)(deviation * random_normal(&seed));
        }
        memset(bias->values, 0, bias->cols * sizeof *bias->values);
    }
}

/* Leaves every layer's output in model->outputs; the last are the classes' scores. */
static void forward(model_t *model, const float *inputs, size_t batch)
{
    for (size_t l = 0; l < model->layers; l++) {
        const int    rows = (int)batch, ins = (int)model->widths[l], outs = (int)model->widths[l + 1];
        const float *bias = model->tensors[2 * l + 1].values;
        float       *output = model->outputs[l];

        for (size_t i = 0; i < batch; i++) {
            memcpy(output + i * (size_t)outs, bias, (size_t)outs * sizeof *bias);
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, outs, ins, 1.0f, inputs, ins, model->tensors[2 * l].values,
                    ins, 1.0f, output, outs);
        if (l + 1 < model->layers) {
            for (size_t i = 0; i < batch * (size_t)outs; i++) {
                output[i] = output[i] > 0.0f ? output[i] : 0.0f;
            }
        }
        inputs = output;
    }
}

/* Minus the logarithm of the softmax of scores[class]. With the largest score taken off first, no exponential overflows. */
static double cross_entropy(const float *scores, size_t classes, size_t class)
{
    float  top = scores[0];
    double sum = 0.0;

    for (size_t c = 1; c < classes; c++) {
        top = scores[c] > top ? scores[c] : top;
    }
    for (size_t c = 0; c < classes; c++) {
        sum += exp((double)scores[c] - (double)top);
    }
    return log(sum) - ((double)scores[class] - (double)top);
}

/* The loss's gradient by the scores of one sample: softmax minus the one-hot class. */
static void cross_entropy_gradient(const float *scores, size_t classes, size_t class, double scale, float *delta)
{
    const double loss = cross_entropy(scores, classes, class);

    for (size_t c = 0; c < classes; c++) {
        const double probability = exp((double)scores[c] - (double)scores[class] - loss);

        delta[c] = (float)(scale * (probability - (c == class ? 1.0 : 0.0)));
    }
}

/* From model->deltas of the last layer to the gradients of all parameters. */
static void backward(model_t *model, const float *inputs, size_t batch)
{
    for (size_t l = model->layers; l-- > 0;) {
        const int    rows = (int)batch, ins = (int)model->widths[l], outs = (int)model->widths[l + 1];
        const float *in = l > 0 ? model->outputs[l - 1] : inputs, *delta = model->deltas[l];
        float       *bias = model->tensors[2 * l + 1].gradients;

        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, outs, ins, rows, 1.0f, delta, outs, in, ins, 0.0f,
                    model->tensors[2 * l].gradients, ins);
        memset(bias, 0, (size_t)outs * sizeof *bias);
        for (size_t i = 0; i < batch; i++) {
            for (size_t j = 0; j < (size_t)outs; j++) {
                bias[j] += delta[i * (size_t)outs + j];
            }
        }
        if (l > 0) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, ins, outs, 1.0f, delta, outs,
                        model->tensors[2 * l].values, ins, 0.0f, model->deltas[l - 1], ins);
            for (size_t i = 0; i < batch * (size_t)ins; i++) {
                model->deltas[l - 1][i] = in[i] > 0.0f ? model->deltas[l - 1][i] : 0.0f;
            }
        }
    }
}

double model_loss_gradient(model_t *model, const float *inputs, const uint8_t *classes, size_t batch)
{
    const size_t last = model->layers - 1, width = model->widths[model->layers];
    double       loss = 0.0;

    forward(model, inputs, batch);
    for (size_t i = 0; i < batch; i++) {
        const float *scores = model->outputs[last] + i * width;

        loss += cross_entropy(scores, width, classes[i]);
        cross_entropy_gradient(scores, width, classes[i], 1.0 / (double)batch, model->deltas[last] + i * width);
    }
    backward(model, inputs, batch);
    return loss / (double)batch;
}

void model_evaluate(model_t *model, const float *inputs, const uint8_t *classes, size_t count, double *loss, size_t *right)
{
    const size_t width = model->widths[model->layers];

    for (size_t first = 0; first < count; first += model->batch_limit) {
        const size_t batch = count - first < model->batch_limit ? count - first : model->batch_limit;

        forward(model, inputs + first * model->widths[0], batch);
        for (size_t i = 0; i < batch; i++) {
            const float *scores = model->outputs[model->layers - 1] + i * width;
            size_t       best = 0;

            for (size_t c = 1; c < width; c++) {
                best = scores[c] > scores[best] ? c : best;
            }
            *loss += cross_entropy(scores, width, classes[first + i]);
            *right += best == classes[first + i];
        }
    }
}

int optimizer_init(optimizer_t *optimizer, optimizer_kind_t kind, double rate, size_t count)
{
    *optimizer = (optimizer_t){.kind = kind,
                               .rate = rate,
                               .momentum = 0.9,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .epsilon = 1e-8,
                               .count = count,
                               .state_count = kind == OPTIMIZER_ADAM ? 2 * count : count};
    optimizer->state = calloc(optimizer->state_count, sizeof *optimizer->state);
    return optimizer->state ? 0 : -1;
}

void optimizer_fini(optimizer_t *optimizer)
{
    free(optimizer->state);
    memset(optimizer, 0, sizeof *optimizer);
}

static void step_sgd(const optimizer_t *optimizer, float *values, const float *gradients)
{
    const float rate = (float)optimizer->rate, momentum = (float)optimizer->momentum;
    float      *velocity = optimizer->state;

    for (size_t i = 0; i < optimizer->count; i++) {
        velocity[i] = momentum * velocity[i] + gradients[i];
        values[i] -= rate * velocity[i];
    }
}

/* The two corrections of the moments' bias are folded into the rate and epsilon, as the paper's section 2 proposes; epsilon is
   scaled along, so that the step is exactly algorithm 1's. */
static void step_adam(const optimizer_t *optimizer, float *values, const float *gradients)
{
    const double correction = sqrt(1.0 - pow(optimizer->beta2, (double)optimizer->steps));
    const float  rate = (float)(optimizer->rate * correction / (1.0 - pow(optimizer->beta1, (double)optimizer->steps)));
    const float  epsilon = (float)(optimizer->epsilon * correction);
    const float  beta1 = (float)optimizer->beta1, beta2 = (float)optimizer->beta2;
    const float  rest1 = (float)(1.0 - optimizer->beta1), rest2 = (float)(1.0 - optimizer->beta2);
    float       *first = optimizer->state, *second = optimizer->state + optimizer->count;

    for (size_t i = 0; i < optimizer->count; i++) {
        first[i] = beta1 * first[i] + rest1 * gradients[i];
        second[i] = beta2 * second[i] + rest2 * gradients[i] * gradients[i];
        values[i] -= rate * first[i] / (sqrtf(second[i]) + epsilon);
    }
}

void optimizer_step(optimizer_t *optimizer, float *values, const float *gradients)
{
    optimizer->steps++;
    if (optimizer->kind == OPTIMIZER_ADAM) {
        step_adam(optimizer, values, gradients);
    } else {
        step_sgd(optimizer, values, gradients);
    }
}
