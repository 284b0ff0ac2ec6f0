/* SPDX-License-Identifier: Apache-2.0 */
/* What the examples' models are built from: named tensors, dense layers, a loss, random numbers. Matrices are row-major float32;
   one row is one sample. Nothing here knows of other ranks. */
#ifndef LAYER_H
#define LAYER_H

#include <stddef.h>
#include <stdint.h>

enum { TENSOR_NAME_BYTES = 48 };

/* A named piece of two flat buffers. A layer's weight is outputs x inputs, its bias 1 x outputs. */
typedef struct tensor {
    char   name[TENSOR_NAME_BYTES]; /* "layer1.weight" */
    size_t rows, cols;
    float *values, *gradients;
} tensor_t;

/* All parameters of a model. */
typedef struct tensors {
    size_t    count; /* tensors */
    tensor_t *list;
    size_t    elements;           /* of all of them together */
    float    *values, *gradients; /* elements each, in the order of the list */
} tensors_t;

/* A stream of random numbers, the same on every machine (SplitMix64). The state is the seed. */
uint64_t random_next(uint64_t *state);
/* From 0 to limit - 1. */
uint64_t random_below(uint64_t *state, uint64_t limit);
double   random_normal(uint64_t *state);
/* Puts 0 ... count - 1 in random order. */
void random_permutation(uint64_t seed, size_t count, uint32_t *order_out);

/* Makes tensors of the names and shapes in `list`, all 0. Returns 0, or -1 where memory is missing; then there is nothing to
   free. BLAS is limited to one thread, since ranks share the cores. */
int  tensors_init(tensors_t *tensors, const tensor_t *list, size_t count);
void tensors_fini(tensors_t *tensors);
/* Makes a list of the same tensors in other memory, which stays the caller's. Returns 0, or -1 where memory is missing. */
int tensors_elsewhere(const tensors_t *tensors, float *values, float *gradients, tensors_t *elsewhere_out);
/* Where OpenBLAS does not know the processor and takes its oldest kernels: what OPENBLAS_CORETYPE should be in the environment.
   Else NULL. */
const char *blas_core_advice(void);
/* All elements ~ N(0, deviation^2). */
void tensor_randomize(const tensor_t *tensor, double deviation, uint64_t *seed);

/* outputs = inputs x weight' + bias, for `rows` rows. */
void dense_forward(const tensor_t *weight, const tensor_t *bias, const float *inputs, size_t rows, float *outputs);
/* From the loss's gradient by the outputs to those by weight, bias and, unless NULL, inputs. */
void dense_backward(const tensor_t *weight, const tensor_t *bias, const float *inputs, const float *output_deltas, size_t rows,
                    float *input_deltas);

/* Minus the logarithm of the softmax of scores[answer]. */
double cross_entropy(const float *scores, size_t classes, size_t answer);
/* The same, and `scale` times its gradient by the scores, which is the softmax minus the one-hot answer. */
double cross_entropy_gradient(const float *scores, size_t classes, size_t answer, double scale, float *deltas);

#endif
