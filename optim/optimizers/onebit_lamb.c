/* SPDX-License-Identifier: Apache-2.0 */
/* 1-bit LAMB: Li et al., "1-bit LAMB" (HiPC 2022), algorithm 1; the dense stage is LAMB: You et al., "Large Batch Optimization
   for Deep Learning" (ICLR 2020), algorithm 2. LAMB multiplies each tensor's update by |w| / |update|. In the second stage
   (stages.h) that ratio is frozen as v is, and corrected by how much v would have changed, as far as moments that travel tell.
   Other than the authors' program: moments are not brought to one scale before they travel and back afterwards, since no scale
   spans two tensors here: each slot has its own; the mean ratio begins with the first one, not with zero; no step is longer than
   LAMB's would be with the same update, unless limit=none asks for the published form; a tensor whose values or updates are all
   zero is never divided by; and what 1-bit Adam does otherwise (onebit_adam.c). */
#include <string.h>

#include "stages.h"

enum { M = TACIT_STAGES_M, V = TACIT_STAGES_V, FRESH }; /* FRESH: v, as it would be if it were not frozen */
enum { RATIO, FACTOR }; /* of a tensor: mean ratio, 0 before there is one; last correction, 0 before the second stage */

/* How much of the mean ratio stays at each dense step. */
static const double ratio_beta = 0.9;

typedef struct config {
    tacit_stages_t stages;
    double         ratio_min, ratio_max, factor_min, factor_max, factor_change;
    int            unlimited;
} config_t;

static tacit_status_t settle(const void *given)
{
    const config_t *config = given;

    return config->ratio_min <= config->ratio_max ? TACIT_OK
                                                  : tacit__fail(TACIT_ERR_SPEC, "onebit-lamb: ratio-min=%g is above ratio-max=%g",
                                                                config->ratio_min, config->ratio_max);
}

static tacit_status_t init(tacit_optim_t *optim)
{
    return tacit__stages_init(optim, 1u << M | 1u << V | 1u << FRESH);
}

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static double norm(const float *values, size_t count)
{
    return sqrt(tacit__sum_squares(values, count));
}

/* LAMB's ratio of values to the update, which is in the work area; 0 where there is none. */
static double ratio_of(const config_t *config, const tacit_tensor_t *tensor, const float *w)
{
    const double values = norm(w, tensor->count), update = norm(tensor->work, tensor->count);

    return values == 0 || update == 0 ? 0 : clamp(values / update, config->ratio_min, config->ratio_max);
}

static void move(double stride, size_t count, const float *restrict update, float *restrict w)
{
    const float by = (float)stride;

    for (size_t i = 0; i < count; i++) {
        w[i] -= by * update[i];
    }
}

/* ---- The first stage ---- */

/* The gradient, times factor, goes into both moments, and gives way to the update. */
static void update_dense(tacit_adam_t adam, float factor, size_t count, float *restrict g, float *restrict m, float *restrict v,
                         const float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        const float clipped = factor * g[i];

        m[i] = tacit__adam_first(&adam, m[i], clipped);
        v[i] = tacit__adam_second(&adam, v[i], clipped);
        g[i] = m[i] * adam.correct1 / tacit__adam_divisor(&adam, v[i]) + adam.decay * w[i];
    }
}

static double mean_ratio(double before, double ratio)
{
    return before == 0 || ratio == 0 ? before + ratio : ratio_beta * before + (1.0 - ratio_beta) * ratio;
}

static void apply_dense(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_adam_t adam = tacit__adam(optim->config, step->rate, optim->steps + 1, optim->steps + 1);

    tacit__optim_clip_reduced(optim);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit_tensor_t *tensor = &optim->tensors[i];
        float          *w = step->values[i];
        double          ratio;

        update_dense(adam, (float)optim->factors[i], tensor->count, tensor->work, tensor->array[M], tensor->array[V], w);
        ratio = ratio_of(optim->config, tensor, w);
        tensor->numbers[RATIO] = mean_ratio(tensor->numbers[RATIO], ratio);
        move(step->rate * (ratio > 0 ? ratio : 1.0), tensor->count, tensor->work, w);
    }
    if (!tacit__stages_freeze(optim)) {
        return;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit_tensor_t *tensor = &optim->tensors[i];

        memcpy(tensor->array[FRESH], tensor->array[V], tensor->count * sizeof *tensor->array[V]);
        tensor->numbers[FACTOR] = 1.0;
    }
}

/* ---- The second stage ---- */

/* The mean moment gives way to the update. What it and the last one say about the mean gradient goes into FRESH. Returns the
   largest ratio of what updates are divided by to what they would be divided by with FRESH. */
static float update_frozen(tacit_adam_t adam, tacit_adam_t fresh_adam, bool moments, tacit_tensor_t *tensor)
{
    float *restrict m = tensor->array[M], *restrict fresh = tensor->array[FRESH], *restrict work = tensor->work;
    const float *restrict v = tensor->array[V];
    const float back = 1.0f / adam.rest1;
    float       highest = 0.0f;

    for (size_t i = 0; i < tensor->count; i++) {
        const float moment = work[i] * tacit__stages_unit(&adam, moments, v[i]);
        const float gradient = back * (moment - adam.beta1 * m[i]);
        const float by = tacit__adam_divisor(&adam, v[i]);
        float       ratio;

        m[i] = moment;
        fresh[i] = tacit__adam_second(&adam, fresh[i], gradient);
        ratio = v[i] != 0 ? by / tacit__adam_divisor(&fresh_adam, fresh[i]) : 0.0f;
        highest = ratio > highest ? ratio : highest;
        work[i] = moment * adam.correct1 / by;
    }
    return highest;
}

/* Returns the part of the update that was there before. Elements with v = 0 stay where they are. */
static double add_decay(float decay, const tacit_tensor_t *tensor, const float *restrict w)
{
    const float *restrict v = tensor->array[V];
    float *restrict work = tensor->work;
    double before, after;

    if (decay == 0) {
        return 1.0;
    }
    before = norm(work, tensor->count);
    for (size_t i = 0; i < tensor->count; i++) {
        work[i] += v[i] != 0 ? decay * w[i] : 0.0f;
    }
    after = norm(work, tensor->count);
    return before < after ? before / after : 1.0;
}

/* By how much the frozen ratio is to be corrected: `highest` for the part of the update that is not decay, within bounds, and not
   far from the last time. */
static double factor_of(const config_t *config, double last, double highest, double part)
{
    const double factor = clamp(highest * part + (1.0 - part), config->factor_min, config->factor_max);

    return clamp(factor, last * (1.0 - config->factor_change), last * (1.0 + config->factor_change));
}

/* What is frozen knows nothing of an update that has become large, as where a gradient appears after v was frozen near zero: then
   values would run away. LAMB's own ratio does, and is the same on all ranks, as the update is. */
static double frozen_ratio(const config_t *config, const tacit_tensor_t *tensor, const float *w)
{
    const double ratio = (tensor->numbers[RATIO] > 0 ? tensor->numbers[RATIO] : 1.0) * tensor->numbers[FACTOR];
    const double most = config->unlimited ? 0 : ratio_of(config, tensor, w);

    return most > 0 && most < ratio ? most : ratio;
}

static void apply_frozen(tacit_optim_t *optim, const tacit_step_t *step)
{
    const config_t    *config = optim->config;
    const uint64_t     updates = optim->steps + 1;
    const tacit_adam_t adam = tacit__stages_adam(optim, step->rate);
    const tacit_adam_t fresh_adam = tacit__adam(optim->config, step->rate, updates, updates);

    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit_tensor_t *tensor = &optim->tensors[i];
        float          *w = step->values[i], highest;

        if (tacit__stages_masked(optim, i)) {
            tacit__stages_spread(optim, i);
        }
        highest = update_frozen(adam, fresh_adam, config->stages.moments_travel != 0, tensor);
        tensor->numbers[FACTOR] = factor_of(config, tensor->numbers[FACTOR], (double)highest, add_decay(adam.decay, tensor, w));
        move(step->rate * frozen_ratio(config, tensor, w), tensor->count, tensor->work, w);
    }
}

static void apply(tacit_optim_t *optim, const tacit_step_t *step)
{
    (tacit__stages_frozen(optim) ? apply_frozen : apply_dense)(optim, step);
}

#define AT(field) offsetof(config_t, field)

static const tacit_param_t params[] = {
    {"ratio-min", TACIT_PARAM_REAL, AT(ratio_min), 1e-9, 1e9, 0.01, 0, NULL, "", "The smallest ratio of values to updates."},
    {"ratio-max", TACIT_PARAM_REAL, AT(ratio_max), 1e-9, 1e9, 10, 0, NULL, "", "The largest."},
    {"factor-min", TACIT_PARAM_REAL, AT(factor_min), 1e-9, 1, 0.5, 0, NULL, "", "The smallest correction of the frozen ratio."},
    {"factor-max", TACIT_PARAM_REAL, AT(factor_max), 1, 1e9, 4, 0, NULL, "", "The largest; 1, with factor-min=1: none."},
    {"factor-change", TACIT_PARAM_REAL, AT(factor_change), 0, 1, 0.1, 0, NULL, "",
     "The largest part of itself by which the correction changes at a step."},
    {"limit", TACIT_PARAM_WORD, AT(unlimited), 0, 0, 0, 0, "lamb none", "",
     "What the corrected ratio is never above: LAMB's own for that step, or, as in the paper, nothing."},
    TACIT_PARAMS_STAGES,
    {.key = NULL},
};

const tacit_optimizer_t tacit__optimizer_onebit_lamb = {
    .name = "onebit-lamb",
    .summary = "1-bit LAMB: as 1-bit Adam, with steps in proportion to each tensor's norm, for large batches",
    .config_bytes = sizeof(config_t),
    .tensor_bytes = sizeof(tacit_stages_notes_t),
    .params = params,
    .arrays = {"m", "v", "fresh v", NULL},
    .numbers = {TACIT_STAGES_NUMBERS, NULL},
    .counters = TACIT_STAGES_COUNTERS,
    .tensor_numbers = {"mean ratio", "correction", NULL},
    .settle = settle,
    .init = init,
    .make_slots = tacit__stages_make_slots,
    .arrange = tacit__stages_arrange,
    .prepare = tacit__stages_prepare,
    .apply = apply,
};
