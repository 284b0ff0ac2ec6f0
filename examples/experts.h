/* SPDX-License-Identifier: Apache-2.0 */
/* A transformer's mixtures of experts: in every second block a gate sends each token, a row of the block's normalised inputs, to
   some of many two-layer perceptrons, which are spread over the ranks. Tokens travel by tacit_moe.h; here are the gate, the loss
   that keeps it balanced, and this rank's experts, forwards and backwards.

   A token's weights are the softmax over all experts at those it was sent to, divided by their sum where they are several; a
   gradient goes through both. That of the balance, E sum f p (f: the share of all choices that fell on an expert; p: its mean
   probability, both over the tokens of all ranks), goes through p.
   Sources: Lepikhin et al., "GShard" (2020), section 2.2; Fedus et al., "Switch Transformers" (2021), equations 4 to 6.

   With `skip` an expert adds its input to its output. For "lsh" that makes it resemble the identity (doc/moe.md). */
#ifndef EXPERTS_H
#define EXPERTS_H

#include "transformer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tacit_moe.h>

typedef struct experts_shape {
    transformer_shape_t model;
    size_t              choices; /* of a token, at most model.experts */
    size_t              tokens;  /* most rows of a pass on this rank */
    int                 rank, ranks;
    bool                skip;
    double              balance; /* what the balance counts beside the model's loss */
} experts_shape_t;

/* A block's mixture: what a pass needs, and leaves for its gradient. */
typedef struct experts_block {
    tacit_moe_t      *training, *evaluating; /* the caller's, which may change them between passes */
    tacit_moe_pass_t *pass;
    tacit_moe_batch_t batch;
    int32_t          *chosen;        /* tokens x choices */
    float            *weights;       /* tokens x choices */
    float            *probabilities; /* tokens x experts */
    float            *hidden;        /* batch rows x 8 width: before the activation, then after it */
    size_t            hidden_floats; /* that there are */
} experts_block_t;

typedef struct experts {
    experts_shape_t  shape;
    size_t           first, count; /* experts of this rank */
    tensors_t        tensors;      /* theirs: for each expert, each block has four */
    size_t           block_count;
    experts_block_t *blocks;
    float           *deltas;        /* tokens x experts: by scores */
    float           *weight_deltas; /* tokens x choices */
    float           *batch_deltas;  /* batch rows x 6 width: by rows, by what is hidden, by replies; or replies alone */
    size_t           batch_floats;
    double          *counts; /* of choices, by expert */
    /* Adds up all ranks' numbers; NULL: this rank is alone. */
    void (*sum)(double *numbers, size_t count);
    tacit_status_t status; /* that of the first call of the library that failed; nothing moves any more then */
    /* Of training passes: */
    double balance; /* of the last step, the sum over blocks, as it counts in the loss */
    double exchange_seconds, expert_seconds;
    double shares; /* the sum over passes of the busiest expert's share of all choices ... */
    size_t passes; /* ... and how many those are */
} experts_t;

/* Makes this rank's experts and memory for passes; the caller gives every block its layers. All parameters are 0. Returns 0, or
   -1 where memory is missing. */
int  experts_init(experts_t *experts, const experts_shape_t *shape);
void experts_fini(experts_t *experts);
/* As the model's perceptrons; an expert's numbers do not depend on the number of ranks. */
void experts_randomize(experts_t *experts, uint64_t seed);
/* What takes the perceptron's place in the model. */
transformer_mixture_t experts_mixture(experts_t *experts);

#endif
