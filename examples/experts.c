/* SPDX-License-Identifier: Apache-2.0 */
/* Gates and experts. A pass is dispatch, experts, combine; backwards the same in the opposite order. */
#include "experts.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EXPAND, EXPAND_B, CONTRACT, CONTRACT_B, EXPERT_TENSORS };

/* ---- Making ---- */

static const tensor_t *expert_tensor(const experts_t *experts, size_t expert, size_t block, size_t which)
{
    return &experts->tensors.list[(expert * experts->block_count + block) * EXPERT_TENSORS + which];
}

static int make_tensors(experts_t *experts)
{
    static const char *const names[] = {"expand.weight", "expand.bias", "contract.weight", "contract.bias"};
    const size_t             width = experts->shape.model.width, blocks = experts->block_count;
    const size_t             sizes[][2] = {{4 * width, width}, {1, 4 * width}, {width, 4 * width}, {1, width}};
    const size_t             count = experts->count * blocks * EXPERT_TENSORS;
    tensor_t                *list = calloc(count + 1, sizeof *list);
    int                      result;

    if (!list) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const size_t which = i % EXPERT_TENSORS, block = i / EXPERT_TENSORS % blocks, expert = i / EXPERT_TENSORS / blocks;

        list[i] = (tensor_t){.rows = sizes[which][0], .cols = sizes[which][1]};
        (void)snprintf(list[i].name, sizeof list[i].name, "block%u.expert%u.%s", (unsigned)(2 * block + 2),
                       (unsigned)(experts->first + expert + 1), names[which]);
    }
    result = tensors_init(&experts->tensors, list, count);
    free(list);
    return result;
}

static int make_memory(experts_t *experts)
{
    const size_t tokens = experts->shape.tokens, choices = tokens * experts->shape.choices;
    const size_t all = experts->shape.model.experts;

    experts->deltas = calloc(tokens * all, sizeof *experts->deltas);
    experts->weight_deltas = calloc(choices, sizeof *experts->weight_deltas);
    experts->counts = calloc(all, sizeof *experts->counts);
    experts->blocks = calloc(experts->block_count, sizeof *experts->blocks);
    if (!experts->deltas || !experts->weight_deltas || !experts->counts || !experts->blocks) {
        return -1;
    }
    for (size_t i = 0; i < experts->block_count; i++) {
        experts_block_t *block = &experts->blocks[i];

        block->chosen = calloc(choices, sizeof *block->chosen);
        block->weights = calloc(choices, sizeof *block->weights);
        block->probabilities = calloc(tokens * all, sizeof *block->probabilities);
        if (!block->chosen || !block->weights || !block->probabilities) {
            return -1;
        }
    }
    return 0;
}

int experts_init(experts_t *experts, const experts_shape_t *shape)
{
    const size_t rank = (size_t)shape->rank, ranks = (size_t)shape->ranks, all = shape->model.experts;

    *experts = (experts_t){.shape = *shape, .block_count = shape->model.layers / 2};
    experts->first = all * rank / ranks;
    experts->count = all * (rank + 1) / ranks - experts->first;
    if (make_tensors(experts) != 0 || make_memory(experts) != 0) {
        experts_fini(experts);
        return -1;
    }
    return 0;
}

void experts_fini(experts_t *experts)
{
    for (size_t i = 0; experts->blocks && i < experts->block_count; i++) {
        free(experts->blocks[i].chosen);
        free(experts->blocks[i].weights);
        free(experts->blocks[i].probabilities);
        free(experts->blocks[i].hidden);
    }
    free(experts->blocks);
    free(experts->deltas);
    free(experts->weight_deltas);
    free(experts->batch_deltas);
    free(experts->counts);
    tensors_fini(&experts->tensors);
    *experts = (experts_t){0};
}

void experts_randomize(experts_t *experts, uint64_t seed)
{
    const double deviation = sqrt(1.0 / (double)experts->shape.model.width);
    const double residual = sqrt(0.5 / (double)experts->shape.model.layers);

    memset(experts->tensors.values, 0, experts->tensors.elements * sizeof *experts->tensors.values);
    for (size_t e = 0; e < experts->count; e++) {
        uint64_t state = seed ^ ~(uint64_t)(experts->first + e);

        state = random_next(&state); /* streams of neighbouring states would overlap */
        for (size_t b = 0; b < experts->block_count; b++) {
            tensor_randomize(expert_tensor(experts, e, b, EXPAND), deviation, &state);
            tensor_randomize(expert_tensor(experts, e, b, CONTRACT), 0.5 * deviation * residual, &state); /* of 4 width inputs */
        }
    }
}

/* ---- Failures and time ---- */

static double now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Whether all has gone well so far. */
static bool check(experts_t *experts, tacit_status_t status)
{
    if (experts->status == TACIT_OK) {
        experts->status = status;
    }
    return experts->status == TACIT_OK;
}

static bool reserve(experts_t *experts, float **memory, size_t *floats, size_t wanted)
{
    if (*floats < wanted) {
        free(*memory);
        *memory = malloc(wanted * sizeof **memory);
        *floats = *memory ? wanted : 0;
    }
    return check(experts, *floats < wanted ? TACIT_ERR_MEMORY : TACIT_OK);
}

/* ---- The gate ---- */

static void softmax(float *row, size_t count)
{
    float top = row[0], sum = 0.0f;

    for (size_t i = 1; i < count; i++) {
        top = row[i] > top ? row[i] : top;
    }
    for (size_t i = 0; i < count; i++) {
        row[i] = expf(row[i] - top);
        sum += row[i];
    }
    for (size_t i = 0; i < count; i++) {
        row[i] /= sum;
    }
}

/* The most probable experts, the first of equal ones first. */
static void choose(const float *probabilities, size_t experts, size_t choices, int32_t *chosen)
{
    for (size_t j = 0; j < choices; j++) {
        chosen[j] = -1;
        for (size_t e = 0; e < experts; e++) {
            bool taken = false;

            for (size_t i = 0; i < j; i++) {
                taken = taken || chosen[i] == (int32_t)e;
            }
            if (!taken && (chosen[j] < 0 || probabilities[e] > probabilities[chosen[j]])) {
                chosen[j] = (int32_t)e;
            }
        }
    }
}

static float chosen_sum(const float *probabilities, const int32_t *chosen, size_t choices)
{
    float sum = 0.0f;

    for (size_t j = 0; j < choices; j++) {
        sum += probabilities[chosen[j]];
    }
    return sum;
}

static void gate_forward(const experts_t *experts, const experts_block_t *block, const tensor_t *gate, const float *inputs,
                         size_t rows)
{
    const size_t all = gate->rows, choices = experts->shape.choices;
    const int    width = (int)gate->cols;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)all, width, 1.0f, inputs, width, gate->values, width,
                0.0f, block->probabilities, (int)all);
    for (size_t i = 0; i < rows; i++) {
        float   *row = block->probabilities + i * all, *weights = block->weights + i * choices;
        int32_t *chosen = block->chosen + i * choices;
        float    sum;

        softmax(row, all);
        choose(row, all, choices, chosen);
        sum = choices > 1 ? chosen_sum(row, chosen, choices) : 1.0f;
        for (size_t j = 0; j < choices; j++) {
            weights[j] = row[chosen[j]] / sum;
        }
    }
}

/* Leaves in `counts` what the balance is worth by an expert's probability at one of this rank's tokens. */
static void balance(experts_t *experts, const experts_block_t *block, size_t rows)
{
    const size_t all = experts->shape.model.experts, choices = rows * experts->shape.choices;
    double      *counts = experts->counts, total = 0.0, most = 0.0;

    memset(counts, 0, all * sizeof *counts);
    for (size_t i = 0; i < choices; i++) {
        counts[block->chosen[i]] += 1.0;
    }
    if (experts->sum) {
        experts->sum(counts, all);
    }
    for (size_t e = 0; e < all; e++) {
        total += counts[e];
        most = counts[e] > most ? counts[e] : most;
    }
    experts->shares += most / total;
    experts->passes++;
    for (size_t e = 0; e < all; e++) {
        counts[e] *= experts->shape.balance * (double)all / total / (double)rows;
        for (size_t i = 0; i < rows; i++) {
            experts->balance += counts[e] * (double)block->probabilities[i * all + e];
        }
    }
}

/* Of weights w = p / s, where s is the sum of the chosen p, the gradient g by w is (g - sum of w g) / s by p; of the softmax p,
   the gradient q by p is p (q - sum of p q) by its scores. Adds to input_deltas. */
static void gate_backward(experts_t *experts, const experts_block_t *block, const tensor_t *gate, const float *inputs,
                          size_t rows, float *input_deltas)
{
    const size_t all = gate->rows, choices = experts->shape.choices;
    const int    width = (int)gate->cols, r = (int)rows;

    balance(experts, block, rows);
    for (size_t i = 0; i < rows; i++) {
        const float   *row = block->probabilities + i * all, *weights = block->weights + i * choices;
        const float   *weight_deltas = experts->weight_deltas + i * choices;
        const int32_t *chosen = block->chosen + i * choices;
        const float    sum = choices > 1 ? chosen_sum(row, chosen, choices) : 1.0f;
        float         *deltas = experts->deltas + i * all, along = 0.0f, mean = 0.0f;

        for (size_t e = 0; e < all; e++) {
            deltas[e] = (float)experts->counts[e];
        }
        for (size_t j = 0; choices > 1 && j < choices; j++) {
            along += weights[j] * weight_deltas[j];
        }
        for (size_t j = 0; j < choices; j++) {
            deltas[chosen[j]] += (weight_deltas[j] - along) / sum;
        }
        for (size_t e = 0; e < all; e++) {
            mean += row[e] * deltas[e];
        }
        for (size_t e = 0; e < all; e++) {
            deltas[e] = row[e] * (deltas[e] - mean);
        }
    }
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)all, width, r, 1.0f, experts->deltas, (int)all, inputs, width, 0.0f,
                gate->gradients, width);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, r, width, (int)all, 1.0f, experts->deltas, (int)all, gate->values,
                width, 1.0f, input_deltas, width);
}

/* ---- Experts ---- */

static void add(float *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        to[i] += from[i];
    }
}

/* The batch's replies. */
static void experts_forward(experts_t *experts, size_t which, float *replies)
{
    const experts_block_t *block = &experts->blocks[which];
    const size_t           width = experts->shape.model.width, wide = 4 * width;
    const float           *rows = block->batch.rows;
    float                 *activations = block->hidden + block->batch.count * wide;

    for (size_t e = 0; e < experts->count; e++) {
        const size_t first = block->batch.first[e], count = block->batch.first[e + 1] - first;

        dense_forward(expert_tensor(experts, e, which, EXPAND), expert_tensor(experts, e, which, EXPAND_B), rows + first * width,
                      count, block->hidden + first * wide);
        transformer_gelu(block->hidden + first * wide, count * wide, activations + first * wide);
        dense_forward(expert_tensor(experts, e, which, CONTRACT), expert_tensor(experts, e, which, CONTRACT_B),
                      activations + first * wide, count, replies + first * width);
    }
    if (experts->shape.skip) {
        add(replies, rows, block->batch.count * width);
    }
}

/* From the gradient by replies to those by parameters, of the mean over all ranks' losses, and by rows. */
static void experts_backward(experts_t *experts, size_t which, const float *reply_deltas, float *hidden_deltas, float *row_deltas)
{
    const experts_block_t *block = &experts->blocks[which];
    const size_t           width = experts->shape.model.width, wide = 4 * width;
    const float           *rows = block->batch.rows, *activations = block->hidden + block->batch.count * wide;

    for (size_t e = 0; e < experts->count; e++) {
        const size_t    first = block->batch.first[e], count = block->batch.first[e + 1] - first;
        const tensor_t *tensors = expert_tensor(experts, e, which, 0);

        dense_backward(&tensors[CONTRACT], &tensors[CONTRACT_B], activations + first * wide, reply_deltas + first * width, count,
                       hidden_deltas + first * wide);
        transformer_gelu_backward(block->hidden + first * wide, count * wide, hidden_deltas + first * wide);
        dense_backward(&tensors[EXPAND], &tensors[EXPAND_B], rows + first * width, hidden_deltas + first * wide, count,
                       row_deltas + first * width);
        for (size_t t = 0; t < EXPERT_TENSORS; t++) {
            for (size_t i = 0; i < tensors[t].rows * tensors[t].cols; i++) {
                tensors[t].gradients[i] /= (float)experts->shape.ranks;
            }
        }
    }
    if (experts->shape.skip) {
        add(row_deltas, reply_deltas, block->batch.count * width);
    }
}

/* ---- Passes ---- */

/* Without a pass a token gets nothing. */
static void forward(void *own, size_t layer, const tensor_t *gate, const float *inputs, size_t rows, float *outputs,
                    bool training)
{
    experts_t       *experts = own;
    const size_t     which = layer / 2, width = gate->cols;
    experts_block_t *block = &experts->blocks[which];
    double           start, arrived, replied;

    memset(outputs, 0, rows * width * sizeof *outputs);
    gate_forward(experts, block, gate, inputs, rows);
    start = now();
    if (!check(experts, TACIT_OK) || !check(experts, tacit_moe_dispatch(training ? block->training : block->evaluating, inputs,
                                                                        rows, block->chosen, &block->pass, &block->batch))) {
        return;
    }
    arrived = now();
    if (reserve(experts, &block->hidden, &block->hidden_floats, block->batch.count * 8 * width + 1) &&
        reserve(experts, &experts->batch_deltas, &experts->batch_floats, block->batch.count * 6 * width + 1)) {
        experts_forward(experts, which, experts->batch_deltas);
        replied = now();
        (void)check(experts, tacit_moe_combine(block->pass, experts->batch_deltas, block->weights, outputs));
        experts->expert_seconds += training ? replied - arrived : 0.0;
        experts->exchange_seconds += training ? now() - replied + arrived - start : 0.0;
    }
    if (!training || experts->status != TACIT_OK) {
        tacit_moe_pass_destroy(block->pass);
        block->pass = NULL;
    }
}

static void backward(void *own, size_t layer, const tensor_t *gate, const float *inputs, const float *output_deltas, size_t rows,
                     float *input_deltas)
{
    experts_t       *experts = own;
    const size_t     which = layer / 2, width = gate->cols;
    experts_block_t *block = &experts->blocks[which];
    float           *row_deltas = experts->batch_deltas, *hidden_deltas = row_deltas + block->batch.count * width;
    float           *reply_deltas = hidden_deltas + block->batch.count * 4 * width;
    double           start = now(), arrived;

    experts->balance = layer + 2 >= experts->shape.model.layers ? 0.0 : experts->balance; /* the last mixture comes first */
    memset(input_deltas, 0, rows * width * sizeof *input_deltas);
    if (!check(experts, TACIT_OK) ||
        !check(experts, tacit_moe_combine_backward(block->pass, output_deltas, experts->weight_deltas, reply_deltas))) {
        return;
    }
    arrived = now();
    experts->exchange_seconds += arrived - start;
    experts_backward(experts, which, reply_deltas, hidden_deltas, row_deltas);
    start = now();
    experts->expert_seconds += start - arrived;
    if (check(experts, tacit_moe_dispatch_backward(block->pass, row_deltas, input_deltas))) {
        experts->exchange_seconds += now() - start;
        gate_backward(experts, block, gate, inputs, rows, input_deltas);
    }
    tacit_moe_pass_destroy(block->pass);
    block->pass = NULL;
}

transformer_mixture_t experts_mixture(experts_t *experts)
{
    return (transformer_mixture_t){experts, forward, backward};
}
