/* SPDX-License-Identifier: Apache-2.0 */
/* Dense layers in a row, and their gradients. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int model_init(model_t *model, const size_t *widths, size_t layers, size_t batch_limit)
{
    tensor_t list[2 * MODEL_LAYERS] = {0};

    *model = (model_t){.layers = layers, .batch_limit = batch_limit};
    memcpy(model->widths, widths, (layers + 1) * sizeof *widths);
    for (size_t l = 0; l < layers; l++) {
        list[2 * l] = (tensor_t){.rows = widths[l + 1], .cols = widths[l]};
        list[2 * l + 1] = (tensor_t){.rows = 1, .cols = widths[l + 1]};
        (void)snprintf(list[2 * l].name, sizeof list->name, "layer%zu.weight", l + 1);
        (void)snprintf(list[2 * l + 1].name, sizeof list->name, "layer%zu.bias", l + 1);
    }
    if (tensors_init(&model->tensors, list, 2 * layers) != 0) {
        return -1;
    }
    for (size_t l = 0; l < layers; l++) {
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
    tensors_fini(&model->tensors);
    *model = (model_t){0};
}

void model_randomize(model_t *model, uint64_t seed)
{
    for (size_t l = 0; l < model->layers; l++) {
        const tensor_t *weight = &model->tensors.list[2 * l];

        tensor_randomize(weight, sqrt(2.0 / (double)weight->cols), &seed);
        memset(weight[1].values, 0, weight[1].cols * sizeof *weight[1].values);
    }
}

/* Leaves every layer's output in model->outputs; the last are the classes' scores. */
static void forward(model_t *model, const float *inputs, size_t batch)
{
    for (size_t l = 0; l < model->layers; l++) {
        const tensor_t *weight = &model->tensors.list[2 * l];
        float          *output = model->outputs[l];

        dense_forward(weight, weight + 1, inputs, batch, output);
        if (l + 1 < model->layers) {
            for (size_t i = 0; i < batch * weight->rows; i++) {
                output[i] = output[i] > 0.0f ? output[i] : 0.0f;
            }
        }
        inputs = output;
    }
}

/* From model->deltas of the last layer to the gradients of all parameters. */
static void backward(model_t *model, const float *inputs, size_t batch)
{
    for (size_t l = model->layers; l-- > 0;) {
        const tensor_t *weight = &model->tensors.list[2 * l];
        const float    *in = l > 0 ? model->outputs[l - 1] : inputs;
        float          *deltas = l > 0 ? model->deltas[l - 1] : NULL;

        dense_backward(weight, weight + 1, in, model->deltas[l], batch, deltas);
        for (size_t i = 0; deltas && i < batch * weight->cols; i++) {
            deltas[i] = in[i] > 0.0f ? deltas[i] : 0.0f;
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

        loss += cross_entropy_gradient(scores, width, classes[i], 1.0 / (double)batch, model->deltas[last] + i * width);
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
