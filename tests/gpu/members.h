/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks of a mixture's layer whose tokens are on a GPU or not, for tests: what they give, and a log of all that they get. */
#ifndef TACIT_TEST_MEMBERS_H
#define TACIT_TEST_MEMBERS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec_unit.h"
#include "gpu.h"
#include "harness.h"
#include "moe_device.h"
#include "ranks.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static const tacit_cuda_module_t *cuda; /* set by the test */

enum { MOST = 4, PASSES = 3, POINTS = 4 };

/* What is not finite, on the last rank in the second pass. */
typedef enum { FINE, NAN_TOKEN, LARGE_TOKENS, NAN_GRADIENT, LARGE_GRADIENTS, NAN_REPLY } trouble_t;

typedef struct layer_case {
    size_t        dimension, experts, tokens, choices, capacity;
    uint64_t      padding; /* one choice in so many; 0: none */
    tacit_dtype_t dtype;
    const char   *spec;
    int           nonfinite;
    trouble_t     trouble;
} layer_case_t;

/* A rank: what it gives, where its tokens are, what it gets; and all that it has got, one after the other. */
typedef struct member {
    const layer_case_t *layer;
    int                 rank, ranks;
    tacit_device_t      device;
    tacit_moe_t        *moe;
    tacit_moe_pass_t   *pass;
    tacit_moe_batch_t   batch;
    size_t              count;
    int32_t            *experts;
    void               *tokens, *gradients, *out, *token_gradients, *replies, *row_gradients, *reply_gradients;
    float              *weights, *weight_gradients;
    uint8_t            *log;
    size_t              log_bytes;
    size_t              failures;
    tacit_status_t      last; /* of these */
    char                text[TACIT_TEXT_BYTES];
} member_t;

/* ---- Memory. In threads of ranks nothing is asserted: what must not be ends the process ---- */

static inline void need(bool there, const char *what)
{
    if (!there) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

/* Of the GPU and of the host, full of what nobody has written. */
static inline void *get(const member_t *member, size_t bytes)
{
    void *memory = tacit__cuda_alloc_shared(member->device == TACIT_CUDA ? cuda : NULL, bytes + 16, 1);

    need(memory != NULL, "no memory");
    memset(memory, 0xcd, bytes + 16);
    return memory;
}

static inline void give(const member_t *member, void *memory)
{
    tacit__cuda_free_shared(member->device == TACIT_CUDA ? cuda : NULL, memory);
}

static inline size_t width_of(const layer_case_t *layer)
{
    return layer->dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

/* Bytes that may be the GPU's alone; to be freed. There they are as they are now, whether somebody has waited for them or not. */
static inline uint8_t *fetch(const void *from, size_t bytes)
{
    uint8_t *to = malloc(bytes + 1);

    need(to != NULL, "no memory");
#ifdef TACIT_EMULATED
    memcpy(to, from, bytes);
#else
    need(cuda->copy(to, from, bytes, NULL) == 0 && cuda->synchronize() == 0, "nothing can be copied");
#endif
    return to;
}

/* Numbers of a dtype as float32; NaN is NaN, whatever its bits, which processors choose. */
static inline float *floats_of(tacit_dtype_t dtype, const void *from, size_t count)
{
    const size_t bytes = dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
    uint8_t     *copy = count != 0 ? fetch(from, count * bytes) : NULL;
    float       *x = malloc((count + 1) * sizeof *x);
    const float *loaded;

    need(x != NULL, "no memory");
    loaded = count != 0 ? tacit__load(dtype, TACIT_NONFINITE_PASS, copy, 0, count, x) : x;
    for (size_t i = 0; i < count; i++) {
        x[i] = isnan(loaded[i]) ? NAN : loaded[i];
    }
    free(copy);
    return x;
}

static inline void note(member_t *member, const void *what, size_t bytes)
{
    member->log = realloc(member->log, member->log_bytes + bytes + 1);
    need(member->log != NULL, "no memory");
    memcpy(member->log + member->log_bytes, what, bytes);
    member->log_bytes += bytes;
}

static inline void note_numbers(member_t *member, tacit_dtype_t dtype, const void *from, size_t count)
{
    float *x = floats_of(dtype, from, count);

    note(member, x, count * sizeof *x);
    free(x);
}

static inline void note_rows(member_t *member, const void *from, size_t rows)
{
    note_numbers(member, member->layer->dtype, from, rows * member->layer->dimension);
}

/* Notes how a call ended, and whether it did well. */
static inline bool went(member_t *member, tacit_status_t status)
{
    note(member, &status, sizeof status);
    if (status != TACIT_OK) {
        member->failures++;
        member->last = status;
        snprintf(member->text, sizeof member->text, "%s", tacit_last_error());
        note(member, member->text, strlen(member->text));
    }
    return status == TACIT_OK;
}

static inline size_t most_replies(const member_t *member)
{
    return member->layer->tokens * member->layer->choices * (size_t)member->ranks;
}

static inline void member_make(member_t *member)
{
    const layer_case_t *layer = member->layer;
    const size_t        row = layer->dimension * width_of(layer), choices = layer->tokens * layer->choices;

    member->experts = malloc(choices * sizeof *member->experts);
    member->tokens = get(member, layer->tokens * row);
    member->gradients = get(member, layer->tokens * row);
    member->out = get(member, layer->tokens * row);
    member->token_gradients = get(member, layer->tokens * row);
    member->weights = get(member, choices * sizeof *member->weights);
    member->weight_gradients = get(member, choices * sizeof *member->weight_gradients);
    member->replies = get(member, most_replies(member) * row);
    member->row_gradients = get(member, most_replies(member) * row);
    member->reply_gradients = get(member, most_replies(member) * row);
}

static inline void member_free(member_t *member)
{
    void *const memory[] = {member->tokens,          member->gradients,       member->out,
                            member->token_gradients, member->weights,         member->replies,
                            member->row_gradients,   member->reply_gradients, member->weight_gradients};

    for (size_t i = 0; i < COUNT_OF(memory); i++) {
        give(member, memory[i]);
    }
    free(member->experts);
}

/* ---- What is given ---- */

static inline void fill_experts(member_t *member, harness_random_t *random)
{
    const layer_case_t *layer = member->layer;

    for (size_t t = 0; t < layer->tokens; t++) {
        int32_t     *own = member->experts + t * layer->choices;
        const size_t first = harness_next(random) % layer->experts;

        for (size_t j = 0; j < layer->choices; j++) {
            own[j] = (int32_t)((first + j * (1 + layer->experts / 3)) % layer->experts);
            for (size_t k = 0; k < j; k++) { /* no expert twice */
                own[j] = own[j] == own[k] ? -1 : own[j];
            }
            if (layer->padding != 0 && harness_next(random) % layer->padding == 0) {
                own[j] = -1;
            }
        }
    }
}

/* Few points with a little noise. */
static inline void fill_rows(const member_t *member, harness_random_t *random, bool points, void *to)
{
    const layer_case_t *layer = member->layer;
    float              *row = malloc(layer->dimension * sizeof *row);

    for (size_t t = 0; t < layer->tokens; t++) {
        harness_fill(row, layer->dimension, points ? 7 + harness_next(random) % POINTS : harness_next(random), 1);
        for (size_t i = 0; points && i < layer->dimension; i++) {
            row[i] += (float)(.1 * harness_normal(random));
        }
        tacit__store(layer->dtype, row, t * layer->dimension, layer->dimension, to);
    }
    free(row);
}

/* Some tokens that are not finite: one that goes nowhere, one that stays, and the first that goes to rank 1. */
static inline void spoil_some(const member_t *member, float *x)
{
    const layer_case_t *layer = member->layer;
    const size_t        each = layer->experts / (size_t)member->ranks, first[] = {each * (size_t)member->rank, each};

    for (size_t t = 0; t < 3; t++) {
        x[(t + 1) * layer->dimension - 1] = t == 2 ? INFINITY : NAN;
        for (size_t j = 0; j < layer->choices; j++) {
            member->experts[t * layer->choices + j] = t == 0 ? -1 : (int32_t)(first[t - 1] + j);
        }
    }
}

static inline void spoil(const member_t *member, void *rows)
{
    const layer_case_t *layer = member->layer;
    const size_t        count = layer->tokens * layer->dimension;
    float              *x = floats_of(layer->dtype, rows, count);

    if (layer->trouble == LARGE_TOKENS || layer->trouble == LARGE_GRADIENTS) {
        for (size_t i = 0; i < count; i++) {
            x[i] *= 1e38f;
        }
    } else {
        spoil_some(member, x);
    }
    tacit__store(layer->dtype, x, 0, count, rows);
    free(x);
}

/* One rank without tokens in the second pass; in the third, tokens go to few experts. */
static inline void fill(member_t *member, uint64_t pass)
{
    const layer_case_t *layer = member->layer;
    harness_random_t    random = {100 * pass + (uint64_t)member->rank};
    const bool          spoils = pass == 1 && member->rank == member->ranks - 1;

    member->count = pass == 1 && member->ranks > 1 && member->rank == 0 ? 0 : layer->tokens - (size_t)member->rank % 2;
    fill_experts(member, &random);
    for (size_t i = 0; pass == 2 && i < layer->tokens * layer->choices; i++) {
        member->experts[i] = (int32_t)(i % layer->choices);
    }
    fill_rows(member, &random, true, member->tokens);
    fill_rows(member, &random, false, member->gradients);
    harness_fill(member->weights, layer->tokens * layer->choices, 50 * pass + (uint64_t)member->rank, 1);
    if (spoils && (layer->trouble == NAN_TOKEN || layer->trouble == LARGE_TOKENS)) {
        spoil(member, member->tokens);
    }
    if (spoils && (layer->trouble == NAN_GRADIENT || layer->trouble == LARGE_GRADIENTS)) {
        spoil(member, member->gradients);
    }
}

/* What experts make of rows, or of gradients: each element times a number of its own, and of the expert's. */
static inline void experts_work(const member_t *member, const void *rows, bool backward, void *out)
{
    const layer_case_t      *layer = member->layer;
    const tacit_moe_batch_t *batch = &member->batch;
    float                   *x = floats_of(layer->dtype, rows, batch->count * layer->dimension);

    for (size_t e = 0; e < batch->experts; e++) {
        for (size_t i = batch->first[e] * layer->dimension; i < batch->first[e + 1] * layer->dimension; i++) {
            x[i] = (float)(1 + e % 5) * .5f * x[i] - (float)(!backward && i % 3 == 0) * (float)e;
        }
    }
    if (layer->trouble == NAN_REPLY && !backward && member->rank == member->ranks - 1 && batch->count != 0) {
        x[0] = NAN;
    }
    tacit__store(layer->dtype, x, 0, batch->count * layer->dimension, out);
    free(x);
}

/* ---- What has come of a call ---- */

static inline void note_batch(member_t *member)
{
    note(member, &member->batch.count, sizeof member->batch.count);
    note(member, member->batch.first, (member->batch.experts + 1) * sizeof *member->batch.first);
    note_rows(member, member->batch.rows, member->batch.count);
    experts_work(member, member->batch.rows, false, member->replies);
}

static inline void note_sums(member_t *member)
{
    note_rows(member, member->reply_gradients, member->batch.count);
    note_numbers(member, TACIT_FLOAT32, member->weight_gradients, member->count * member->layer->choices);
    experts_work(member, member->reply_gradients, true, member->row_gradients);
}

static inline void note_counters(member_t *member)
{
    tacit_moe_counters_t counters;

    MUST(tacit_moe_counters(member->moe, &counters));
    counters.residual = isnan(counters.residual) ? -1 : counters.residual;
    note(member, &counters, sizeof counters);
}

static inline tacit_moe_config_t config_of(const member_t *member)
{
    const layer_case_t *layer = member->layer;
    tacit_moe_config_t  config = TACIT_MOE_CONFIG_INIT;

    config.dimension = layer->dimension;
    config.experts = layer->experts;
    config.tokens = layer->tokens;
    config.choices = layer->choices;
    config.capacity = layer->capacity;
    config.dtype = layer->dtype;
    config.device = member->device;
    config.spec = layer->spec;
    return config;
}

#endif
