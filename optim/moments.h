/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic that Adam and its 1-bit relatives share, so that they agree bit for bit where they should. Kingma and Ba, "Adam"
   (ICLR 2015), algorithm 1; decoupled weight decay: Loshchilov and Hutter (ICLR 2019), algorithm 2. */
#ifndef TACIT_MOMENTS_H
#define TACIT_MOMENTS_H

#include <math.h>

#include "optimizer.h"

/* Parameters of all of them. */
typedef struct tacit_moments {
    tacit_clipping_t clipping;
    double           beta1, beta2, epsilon, weight_decay;
    int              bias_correction;
    int              limited; /* of kinds that freeze v: TACIT_PARAM_LIMIT */
} tacit_moments_t;

#define TACIT_PARAM_MOMENT(name, field, preset, text)                                                                            \
    {                                                                                                                            \
        .key = (name), .type = TACIT_PARAM_REAL, .offset = offsetof(tacit_moments_t, field), .low = 0, .high = 0.999999999,      \
        .initial = (preset), .unit = "", .help = (text)                                                                          \
    }

/* Rows of a parameter table for a configuration that begins with a tacit_moments_t. */
#define TACIT_PARAMS_MOMENTS                                                                                                     \
    TACIT_PARAM_MOMENT("beta1", beta1, 0.9, "How much of the first moment stays at each step."),                                 \
        TACIT_PARAM_MOMENT("beta2", beta2, 0.999, "How much of the second moment stays at each step."),                          \
        {.key = "epsilon",                                                                                                       \
         .type = TACIT_PARAM_REAL,                                                                                               \
         .offset = offsetof(tacit_moments_t, epsilon),                                                                           \
         .low = 1e-30,                                                                                                           \
         .high = 1,                                                                                                              \
         .initial = 1e-8,                                                                                                        \
         .unit = "",                                                                                                             \
         .help = "Added to the root of the second moment."},                                                                     \
        {.key = "weight-decay",                                                                                                  \
         .type = TACIT_PARAM_REAL,                                                                                               \
         .offset = offsetof(tacit_moments_t, weight_decay),                                                                      \
         .high = 1000,                                                                                                           \
         .unit = "",                                                                                                             \
         .help = "Part of a value, times the rate, that each step takes off it."},                                               \
        {.key = "bias-correction",                                                                                               \
         .type = TACIT_PARAM_WORD,                                                                                               \
         .offset = offsetof(tacit_moments_t, bias_correction),                                                                   \
         .initial = 1,                                                                                                           \
         .words = "off on",                                                                                                      \
         .unit = "",                                                                                                             \
         .help = "Whether the moments' beginning at zero is made up for."},                                                      \
        TACIT_PARAM_CLIP, TACIT_PARAM_CLIP_SCOPE

/* Row for the spec of dense messages, and what its words are. */
#define TACIT_PARAM_WARMUP_SPEC(where, text)                                                                                     \
    {                                                                                                                            \
        .key = "warmup-spec", .type = TACIT_PARAM_WORD, .offset = (where), .words = "fp16 bf16 none", .unit = "", .help = (text) \
    }

/* Row for kinds that freeze v, after which nothing else would hold an element back whose gradients become large. */
#define TACIT_PARAM_LIMIT(text)                                                                                                  \
    {                                                                                                                            \
        .key = "limit", .type = TACIT_PARAM_WORD, .offset = offsetof(tacit_moments_t, limited), .initial = 1,                    \
        .words = "none adam", .unit = "", .help = (text)                                                                         \
    }

static inline const char *tacit__warmup_spec(int word)
{
    static const char *const specs[] = {"fp16", "bf16", "none"};

    return specs[word];
}

/* A step's factors in float32. */
typedef struct tacit_adam {
    float rate, beta1, rest1, beta2, rest2, epsilon, decay, correct1, correct2;
    float most; /* update, as a multiple of the rate */
} tacit_adam_t;

/* What Adam's updates do not exceed: Kingma and Ba, section 2.1. */
static inline double tacit__adam_most(const tacit_moments_t *config)
{
    const double most = (1.0 - config->beta1) / sqrt(1.0 - config->beta2);

    return !config->limited ? (double)INFINITY : most > 1.0 ? most : 1.0;
}

/* first, second: how many gradients are in each moment, this step's included. */
static inline tacit_adam_t tacit__adam(const tacit_moments_t *config, double rate, uint64_t first, uint64_t second)
{
    return (tacit_adam_t){
        .rate = (float)rate,
        .beta1 = (float)config->beta1,
        .rest1 = (float)(1.0 - config->beta1),
        .beta2 = (float)config->beta2,
        .rest2 = (float)(1.0 - config->beta2),
        .epsilon = (float)config->epsilon,
        .decay = (float)config->weight_decay,
        .correct1 = config->bias_correction ? (float)(1.0 / (1.0 - tacit__power(config->beta1, first))) : 1.0f,
        .correct2 = config->bias_correction ? (float)(1.0 / sqrt(1.0 - tacit__power(config->beta2, second))) : 1.0f,
        .most = (float)tacit__adam_most(config),
    };
}

static inline float tacit__adam_first(const tacit_adam_t *adam, float m, float g)
{
    return adam->beta1 * m + adam->rest1 * g;
}

static inline float tacit__adam_second(const tacit_adam_t *adam, float v, float g)
{
    return adam->beta2 * v + adam->rest2 * g * g;
}

/* What an element's update is divided by. */
static inline float tacit__adam_divisor(const tacit_adam_t *adam, float v)
{
    return sqrtf(v) * adam->correct2 + adam->epsilon;
}

/* x within -most ... most. What is not finite stays, and is an error elsewhere. */
static inline float tacit__adam_within(float most, float x)
{
    return fabsf(x) > most && isfinite(x) ? copysignf(most, x) : x;
}

/* A first moment, or what is left of it where its update would exceed the limit. */
static inline float tacit__adam_limited(const tacit_adam_t *adam, float m, float v)
{
    return tacit__adam_within(adam->most * tacit__adam_divisor(adam, v) / adam->correct1, m);
}

static inline float tacit__adam_value(const tacit_adam_t *adam, float w, float m, float v)
{
    const float update = m * adam->correct1 / tacit__adam_divisor(adam, v);

    return w - adam->rate * (update + adam->decay * w);
}

/* A dense step: the mean gradient g, times factor, goes into both moments, and they move w. One pass over memory. */
static inline void tacit__adam_dense(tacit_adam_t adam, float factor, size_t count, const float *restrict g, float *restrict m,
                                     float *restrict v, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        const float clipped = factor * g[i];

        m[i] = tacit__adam_first(&adam, m[i], clipped);
        v[i] = tacit__adam_second(&adam, v[i], clipped);
        w[i] = tacit__adam_value(&adam, w[i], m[i], v[i]);
    }
}

/* Such optimizers have a momentum of their own: a feedback that brings one does not go with them. */
static inline tacit_status_t tacit__adam_check_slot(const tacit_optim_t *optim, const tacit_slot_t *slot)
{
    const tacit_feedback_t *feedback = slot->codec->given.feedback;

    return feedback == NULL || feedback->momentum == NULL
               ? TACIT_OK
               : tacit__fail(
                     TACIT_ERR_SPEC,
                     "rank %d: slot '%s': '%s' brings a momentum of its own, which does not go with %s; use sgd, or '+ef'",
                     optim->comm->rank, slot->codec->name, feedback->name, optim->kind->name);
}

#endif
