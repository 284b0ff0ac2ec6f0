/* SPDX-License-Identifier: Apache-2.0 */
/* A small decoder-only transformer that predicts the next symbol of a text: embeddings of symbols and positions, blocks of
   attention and a two-layer perceptron, each behind a layer norm and beside a residual connection, and a softmax over symbols
   whose weights are the embeddings. In every second block a mixture of experts may stand in the perceptron's place. Float32,
   gradients by hand; nothing here knows of other ranks.
   Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3 (GPT-2). */
#ifndef TRANSFORMER_H
#define TRANSFORMER_H

#include "layer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tensors in the order of the list: two of the whole model, those of each block, two of the final norm. */
enum { EMBEDDING, POSITION, FIRST_BLOCK };
enum {
    GAIN1,
    BIAS1,
    TRIPLE_WEIGHT,
    TRIPLE_BIAS,
    MIX_WEIGHT,
    MIX_BIAS,
    GAIN2,
    BIAS2,
    EXPAND_WEIGHT,
    EXPAND_BIAS,
    CONTRACT_WEIGHT,
    CONTRACT_BIAS,
    BLOCK_TENSORS,
    /* Of a block with experts, which has no more: */
    GATE = EXPAND_WEIGHT,
    MIXTURE_TENSORS
};

#define TRANSFORMER_EPSILON 1e-5f /* of a norm's variance */

typedef struct transformer_shape {
    size_t symbols; /* 1 to 256 */
    size_t context; /* positions */
    size_t width;   /* a multiple of heads */
    size_t layers, heads;
    size_t experts; /* 0: every block has a perceptron; else every second one, from the second on, a gate for so many instead */
} transformer_shape_t;

/* What makes a mixture's outputs of the block's normalised inputs, `rows` rows, by its gate (experts x width). `training`: the
   next call for this layer is backward(), which leaves the gate's gradients. */
typedef struct transformer_mixture {
    void *own;
    void (*forward)(void *own, size_t layer, const tensor_t *gate, const float *inputs, size_t rows, float *outputs,
                    bool training);
    void (*backward)(void *own, size_t layer, const tensor_t *gate, const float *inputs, const float *output_deltas, size_t rows,
                     float *input_deltas);
} transformer_mixture_t;

/* What a layer norm leaves for its gradient. */
typedef struct norm_trace {
    float *hats;    /* rows x width: centred and scaled */
    float *scales;  /* of each row, 1 / deviation */
    float *outputs; /* rows x width */
} norm_trace_t;

/* What a block leaves for its gradient. A row is a position of a window. */
typedef struct block_trace {
    float       *inputs; /* rows x width */
    norm_trace_t norm1, norm2;
    float       *triples;     /* rows x 3 width: queries, keys, values */
    float       *weights;     /* windows x heads x context x context: the attention's */
    float       *attended;    /* rows x width */
    float       *middles;     /* rows x width: after the first residual */
    float       *expanded;    /* rows x 4 width, before the activation */
    float       *activations; /* rows x 4 width */
} block_trace_t;

typedef struct transformer {
    transformer_shape_t   shape;
    size_t                batch_limit; /* windows */
    tensors_t             tensors;     /* embedding, position, those of each block, final gain and bias */
    transformer_mixture_t mixture;     /* where the shape has experts, set by the caller */
    float                *memory;      /* that of all that follows */
    block_trace_t        *blocks;      /* one for each layer, and one whose inputs are the last block's outputs */
    norm_trace_t          final;
    float                *scores; /* rows x symbols */
    /* The loss's gradients by: */
    float *score_deltas, *deltas, *branch_deltas, *triple_deltas, *expanded_deltas, *weight_deltas;
} transformer_t;

static inline bool block_is_mixture(const transformer_shape_t *shape, size_t layer)
{
    return shape->experts > 0 && layer % 2 == 1;
}

static inline size_t block_first(const transformer_shape_t *shape, size_t layer)
{
    const size_t mixtures = shape->experts > 0 ? layer / 2 : 0;

    return FIRST_BLOCK + layer * BLOCK_TENSORS - mixtures * (BLOCK_TENSORS - MIXTURE_TENSORS);
}

static inline const tensor_t *block_tensor(const transformer_t *model, size_t layer, size_t which)
{
    return &model->tensors.list[block_first(&model->shape, layer) + which];
}

/* The final norm's gain; its bias follows. */
static inline const tensor_t *final_gain(const transformer_t *model)
{
    return block_tensor(model, model->shape.layers, 0);
}

/* Makes a model for batches of up to batch_limit windows; 0: its parameters alone. All of these are 0. Returns 0, or -1 where
   memory is missing. */
int  transformer_init(transformer_t *model, const transformer_shape_t *shape, size_t batch_limit);
void transformer_fini(transformer_t *model);
/* Places all traces in `memory`, NULL too, and returns how many floats that takes. */
size_t transformer_place(transformer_t *model, float *memory);
/* Embeddings ~ N(0, 1 / width), weights ~ N(0, 1 / inputs), those that end in a residual divided by sqrt(2 layers); gains 1,
   biases 0. */
void transformer_randomize(transformer_t *model, uint64_t seed);

/* A window is context + 1 symbols, and each but the first is predicted from those before it. The mean loss, in nats, over a
   batch of at most batch_limit windows; leaves its gradient in the tensors. */
double transformer_loss_gradient(transformer_t *model, const uint8_t *windows, size_t batch);
/* The sum of the losses of all predictions in any number of windows. With none there is one pass all the same: experts may be
   other ranks' too. */
double transformer_evaluate(transformer_t *model, const uint8_t *windows, size_t count);

/* GELU; and its gradient: deltas, by the outputs, become those by the inputs. */
void transformer_gelu(const float *inputs, size_t count, float *outputs);
void transformer_gelu_backward(const float *inputs, size_t count, float *deltas);

#endif
