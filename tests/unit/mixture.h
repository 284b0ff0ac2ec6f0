/* SPDX-License-Identifier: Apache-2.0 */
/* A mixture's layer on several ranks in one process, for tests: messages are moved by memcpy, and experts are functions. */
#ifndef TACIT_TEST_MIXTURE_H
#define TACIT_TEST_MIXTURE_H

#include "codec_unit.h"
#include "compress.h"
#include "moe.h"

enum { MIXTURE_RANKS = 8 };

/* What an expert makes of a row, and what its Jacobian at that row, transposed, makes of a gradient. */
typedef void expert_t(size_t expert, const float *row, size_t dimension, float *reply);
typedef void expert_back_t(size_t expert, const float *row, const float *gradient, size_t dimension, float *back);

typedef struct mixture {
    int                ranks;
    tacit_moe_config_t config;
    expert_t          *expert;
    expert_back_t     *back;
    tacit_moe_t       *moe[MIXTURE_RANKS];
    tacit_moe_pass_t  *pass[MIXTURE_RANKS];
    tacit_moe_batch_t  batch[MIXTURE_RANKS];
    size_t             count[MIXTURE_RANKS]; /* tokens */
    /* Of each rank, room for config.tokens; all in float32, which the layer's dtype holds exactly. */
    int32_t *experts[MIXTURE_RANKS];
    float   *tokens[MIXTURE_RANKS], *weights[MIXTURE_RANKS], *gradients[MIXTURE_RANKS];             /* given */
    float   *out[MIXTURE_RANKS], *weight_gradients[MIXTURE_RANKS], *token_gradients[MIXTURE_RANKS]; /* results */
    float   *replies[MIXTURE_RANKS], *reply_gradients[MIXTURE_RANKS];                               /* of the batch's rows */
    void    *narrow[MIXTURE_RANKS]; /* tokens in the layer's dtype, which the pass looks at */
} mixture_t;

static inline tacit_moe_config_t config_of(size_t dimension, size_t experts, size_t tokens, size_t choices, const char *spec)
{
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;

    config.dimension = dimension;
    config.experts = experts;
    config.tokens = tokens;
    config.choices = choices;
    config.spec = spec;
    return config;
}

static inline void succeed(tacit_status_t status)
{
    ck_assert_msg(status == TACIT_OK, "%s: %s", tacit_strerror(status), tacit_last_error());
}

static inline void *zeros_of(size_t count, size_t bytes)
{
    void *zeros = calloc(count + 1, bytes);

    ck_assert_ptr_nonnull(zeros);
    return zeros;
}

static inline size_t width_of(const mixture_t *mixture)
{
    return mixture->config.dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

/* The nearest number of the layer's dtype. */
static inline float rounded(const mixture_t *mixture, float value)
{
    uint8_t narrow[sizeof(float)] = {0};
    float   x;

    tacit__store(mixture->config.dtype, &value, 0, 1, narrow);
    return tacit__load(mixture->config.dtype, TACIT_NONFINITE_PASS, narrow, 0, 1, &x)[0];
}

/* Memory of `count` elements in the layer's dtype, and back. */
static inline void *narrowed(const mixture_t *mixture, const float *values, size_t count)
{
    void *narrow = zeros_of(count, sizeof(float));

    tacit__store(mixture->config.dtype, values, 0, count, narrow);
    return narrow;
}

static inline void widen(const mixture_t *mixture, const void *narrow, size_t count, float *values)
{
    float       *x = zeros_of(count, sizeof *x);
    const float *loaded = tacit__load(mixture->config.dtype, TACIT_NONFINITE_PASS, narrow, 0, count, x);

    memcpy(values, loaded, count * sizeof *values);
    free(x);
}

static inline mixture_t mixture_of(int ranks, const tacit_moe_config_t *config, const tacit_config_t *common)
{
    mixture_t mixture = {.ranks = ranks, .config = *config};

    mixture.config.choices += mixture.config.choices == 0;
    for (int r = 0; r < ranks; r++) {
        const size_t tokens = config->tokens, elements = tokens * config->dimension, choices = tokens * mixture.config.choices;

        succeed(tacit_moe_create_codec("layer", config, common, r, ranks, &mixture.moe[r]));
        mixture.experts[r] = zeros_of(choices, sizeof *mixture.experts[r]);
        mixture.tokens[r] = zeros_of(elements, sizeof(float));
        mixture.gradients[r] = zeros_of(elements, sizeof(float));
        mixture.out[r] = zeros_of(elements, sizeof(float));
        mixture.token_gradients[r] = zeros_of(elements, sizeof(float));
        mixture.weights[r] = zeros_of(choices, sizeof(float));
        mixture.weight_gradients[r] = zeros_of(choices, sizeof(float));
    }
    return mixture;
}

/* Ends a pass. */
static inline void pass_over(mixture_t *mixture)
{
    for (int r = 0; r < mixture->ranks; r++) {
        tacit_moe_pass_destroy(mixture->pass[r]);
        mixture->pass[r] = NULL;
        free(mixture->replies[r]);
        free(mixture->reply_gradients[r]);
        free(mixture->narrow[r]);
        mixture->replies[r] = mixture->reply_gradients[r] = NULL;
        mixture->narrow[r] = NULL;
    }
}

static inline void mixture_release(mixture_t *mixture)
{
    pass_over(mixture);
    for (int r = 0; r < mixture->ranks; r++) {
        float *const memory[] = {mixture->tokens[r],          mixture->gradients[r], mixture->out[r],
                                 mixture->token_gradients[r], mixture->weights[r],   mixture->weight_gradients[r]};

        tacit_moe_destroy(mixture->moe[r]);
        free(mixture->experts[r]);
        for (size_t i = 0; i < COUNT_OF(memory); i++) {
            free(memory[i]);
        }
    }
}

/* Tokens, weights and gradients at random; each token to different experts, but for one in `padding` (0: none). */
static inline void fill(mixture_t *mixture, uint64_t seed, uint64_t padding)
{
    const tacit_moe_config_t *config = &mixture->config;

    for (int r = 0; r < mixture->ranks; r++) {
        harness_random_t random = {seed * 100 + (uint64_t)r};

        for (size_t i = 0; i < config->tokens * config->dimension; i++) {
            mixture->tokens[r][i] = rounded(mixture, (float)harness_normal(&random));
            mixture->gradients[r][i] = rounded(mixture, (float)harness_normal(&random));
        }
        for (size_t i = 0; i < config->tokens * config->choices; i++) {
            const size_t first = i / config->choices * config->choices;

            mixture->weights[r][i] = (float)harness_uniform(&random, -1, 1);
            mixture->experts[r][i] = (int32_t)(harness_next(&random) % config->experts);
            for (size_t j = first; j < i; j++) {
                if (mixture->experts[r][j] == mixture->experts[r][i]) { /* another; those before it are to be looked at again */
                    mixture->experts[r][i] = (int32_t)(((size_t)mixture->experts[r][i] + 1) % config->experts);
                    j = first - 1;
                }
            }
        }
        for (size_t i = 0; padding != 0 && i < config->tokens * config->choices; i++) {
            if (harness_next(&random) % padding == 0) {
                mixture->experts[r][i] = -1;
            }
        }
    }
}

/* Other tokens of a rank: few points with a little noise. */
static inline void fill_points(mixture_t *mixture, int rank, size_t points, double noise, uint64_t seed)
{
    const size_t     dimension = mixture->config.dimension;
    harness_random_t random = {seed * 100 + 50 + (uint64_t)rank};

    for (size_t t = 0; t < mixture->config.tokens; t++) {
        float *token = mixture->tokens[rank] + t * dimension;

        harness_fill(token, dimension, 1000 * (seed + 1) + harness_next(&random) % points, 1);
        for (size_t i = 0; i < dimension; i++) {
            token[i] = rounded(mixture, token[i] + (float)(noise * harness_normal(&random)));
        }
    }
}

static inline size_t first_expert(const mixture_t *mixture, int rank)
{
    return mixture->config.experts * (size_t)rank / (size_t)mixture->ranks;
}

static inline int rank_of_expert(const mixture_t *mixture, size_t expert)
{
    int rank = 0;

    while (first_expert(mixture, rank + 1) <= expert) {
        rank++;
    }
    return rank;
}

/* Moves the messages of the exchange that has begun. */
static inline void move_messages(const mixture_t *mixture, bool dispatch)
{
    for (int s = 0; s < mixture->ranks; s++) {
        for (int r = 0; r < mixture->ranks; r++) {
            const size_t bytes = tacit_moe_message_bytes(mixture->pass[s], r);
            const size_t expected = tacit_moe_expected_bytes(mixture->pass[r], s);
            uint8_t     *message = malloc(bytes + 1); /* so that one byte more is a fault */

            if (s == r) {
                ck_assert_uint_eq(bytes + expected, 0);
            } else {
                ck_assert(dispatch ? bytes <= expected : bytes == expected);
                succeed(tacit_moe_write(mixture->pass[s], r, message));
                succeed(tacit_moe_read(mixture->pass[r], s, message, bytes));
            }
            free(message);
        }
    }
}

static inline void dispatch(mixture_t *mixture)
{
    for (int r = 0; r < mixture->ranks; r++) {
        mixture->narrow[r] = narrowed(mixture, mixture->tokens[r], mixture->count[r] * mixture->config.dimension);
        succeed(tacit_moe_dispatch_begin(mixture->moe[r], mixture->narrow[r], mixture->count[r], mixture->experts[r],
                                         &mixture->pass[r]));
    }
    move_messages(mixture, true);
    for (int r = 0; r < mixture->ranks; r++) {
        succeed(tacit_moe_dispatch_end(mixture->pass[r], &mixture->batch[r]));
    }
}

static inline size_t batch_elements(const mixture_t *mixture, int rank)
{
    return mixture->batch[rank].count * mixture->config.dimension;
}

/* The expert of a row of a rank's batch. */
static inline size_t expert_of(const mixture_t *mixture, int rank, size_t row)
{
    size_t expert = 0;

    while (mixture->batch[rank].first[expert + 1] <= row) {
        expert++;
    }
    return first_expert(mixture, rank) + expert;
}

static inline void combine(mixture_t *mixture)
{
    const size_t dimension = mixture->config.dimension;
    void        *memory[MIXTURE_RANKS];

    for (int r = 0; r < mixture->ranks; r++) {
        float *rows = zeros_of(batch_elements(mixture, r), sizeof *rows);

        widen(mixture, mixture->batch[r].rows, batch_elements(mixture, r), rows);
        mixture->replies[r] = zeros_of(batch_elements(mixture, r), sizeof(float));
        for (size_t row = 0; row < mixture->batch[r].count; row++) {
            mixture->expert(expert_of(mixture, r, row), rows + row * dimension, dimension, mixture->replies[r] + row * dimension);
        }
        memory[r] = narrowed(mixture, mixture->replies[r], batch_elements(mixture, r));
        succeed(tacit_moe_combine_begin(mixture->pass[r], memory[r]));
        free(memory[r]);
        free(rows);
    }
    move_messages(mixture, false);
    for (int r = 0; r < mixture->ranks; r++) {
        void *out = malloc(mixture->count[r] * dimension * width_of(mixture) + 1);

        succeed(tacit_moe_combine_end(mixture->pass[r], mixture->weights[r], out));
        widen(mixture, out, mixture->count[r] * dimension, mixture->out[r]);
        free(out);
    }
}

static inline void backward(mixture_t *mixture)
{
    const size_t dimension = mixture->config.dimension;

    for (int r = 0; r < mixture->ranks; r++) {
        void *gradients = narrowed(mixture, mixture->gradients[r], mixture->count[r] * dimension);

        succeed(tacit_moe_combine_backward_begin(mixture->pass[r], gradients, mixture->weight_gradients[r]));
        free(gradients);
    }
    move_messages(mixture, false);
    for (int r = 0; r < mixture->ranks; r++) {
        void  *gradients = malloc(batch_elements(mixture, r) * width_of(mixture) + 1);
        float *rows = zeros_of(batch_elements(mixture, r), sizeof *rows),
              *back = zeros_of(batch_elements(mixture, r), sizeof *back);

        succeed(tacit_moe_combine_backward_end(mixture->pass[r], gradients));
        mixture->reply_gradients[r] = zeros_of(batch_elements(mixture, r), sizeof(float));
        widen(mixture, gradients, batch_elements(mixture, r), mixture->reply_gradients[r]);
        widen(mixture, mixture->batch[r].rows, batch_elements(mixture, r), rows);
        for (size_t row = 0; row < mixture->batch[r].count; row++) {
            mixture->back(expert_of(mixture, r, row), rows + row * dimension, mixture->reply_gradients[r] + row * dimension,
                          dimension, back + row * dimension);
        }
        free(gradients);
        gradients = narrowed(mixture, back, batch_elements(mixture, r));
        succeed(tacit_moe_dispatch_backward_begin(mixture->pass[r], gradients));
        free(gradients);
        free(rows);
        free(back);
    }
    move_messages(mixture, false);
    for (int r = 0; r < mixture->ranks; r++) {
        void *gradients = malloc(mixture->count[r] * dimension * width_of(mixture) + 1);

        succeed(tacit_moe_dispatch_backward_end(mixture->pass[r], gradients));
        widen(mixture, gradients, mixture->count[r] * dimension, mixture->token_gradients[r]);
        free(gradients);
    }
}

/* ---- Experts ---- */

/* A number of an expert's, between -1 and 1. */
static inline float parameter(size_t expert, size_t layer, size_t i, size_t j)
{
    harness_random_t random = {1 + expert + 100 * layer + 10000 * i + 1000000 * j};

    return (float)harness_uniform(&random, -1, 1);
}

static inline void identity(size_t expert, const float *row, size_t dimension, float *reply)
{
    (void)expert;
    memcpy(reply, row, dimension * sizeof *reply);
}

static inline void identity_back(size_t expert, const float *row, const float *gradient, size_t dimension, float *back)
{
    (void)row;
    identity(expert, gradient, dimension, back);
}

/* Each element times a number of its own, and one of the expert's: exactly what it is for a row, whoever computes it. */
static inline void scaling(size_t expert, const float *row, size_t dimension, float *reply)
{
    for (size_t i = 0; i < dimension; i++) {
        reply[i] = (float)(1 + expert % 5) * 0.5f * row[i] - (float)(i % 3 == 0) * (float)expert;
    }
}

static inline void scaling_back(size_t expert, const float *row, const float *gradient, size_t dimension, float *back)
{
    (void)row;
    for (size_t i = 0; i < dimension; i++) {
        back[i] = (float)(1 + expert % 5) * 0.5f * gradient[i];
    }
}

#endif
