/* SPDX-License-Identifier: Apache-2.0 */
/* A classifier: dense layers with ReLU between them and softmax cross-entropy at the end. */
#ifndef MODEL_H
#define MODEL_H

#include "layer.h"

#include <stddef.h>
#include <stdint.h>

enum { MODEL_LAYERS = 8 };

typedef struct model {
    size_t    layers, widths[MODEL_LAYERS + 1]; /* widths[0] inputs ... widths[layers] classes */
    size_t    batch_limit;
    tensors_t tensors;               /* weight and bias of layer 1, of layer 2, ... */
    float    *outputs[MODEL_LAYERS]; /* of each layer, batch_limit rows */
    float    *deltas[MODEL_LAYERS];  /* the loss's gradient by those */
} model_t;

/* Makes a model of `layers` dense layers for batches of up to batch_limit samples; all parameters are 0. Returns 0, or -1
   where memory is missing. */
int  model_init(model_t *model, const size_t *widths, size_t layers, size_t batch_limit);
void model_fini(model_t *model);
/* Weights ~ N(0, 2 / inputs), biases 0.
   Source: He et al., "Delving Deep into Rectifiers" (ICCV 2015), equation 10. */
void model_randomize(model_t *model, uint64_t seed);

/* The mean loss over a batch of at most batch_limit samples; leaves its gradient in model->gradients. */
double model_loss_gradient(model_t *model, const float *inputs, const uint8_t *classes, size_t batch);
/* Adds the losses of any number of samples to *loss and the number of right answers to *right. */
void model_evaluate(model_t *model, const float *inputs, const uint8_t *classes, size_t count, double *loss, size_t *right);

#endif
