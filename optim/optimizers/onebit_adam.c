/* SPDX-License-Identifier: Apache-2.0 */
/* 1-bit Adam: Tang et al., "1-bit Adam" (ICML 2021), algorithm 1. Adam on reduced gradients until the second moment is stable;
   from then on that is frozen, and what travels is the first moment, by way of the caller's slot.
   Other than the authors' program: every gradient counts, the first one too; the freezing step is a number of dense updates;
   coordinates whose second moment is still zero then, where a step would be divided by epsilon alone, are left out of the
   messages and stay where they are; moments travel in units of the update they make, unless unit=moment asks for the published
   form; no rank asks for an update that Adam's v would not have let through, unless limit=none; and gradients are clipped by the
   same factor on every rank. */
#include "stages.h"

enum { M = TACIT_STAGES_M, V = TACIT_STAGES_V };

static tacit_status_t init(tacit_optim_t *optim)
{
    return tacit__stages_init(optim, 1u << M | 1u << V);
}

static void move_all(tacit_adam_t adam, bool moments, size_t count, const float *restrict mean, float *restrict m,
                     const float *restrict v, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        m[i] = mean[i] * tacit__stages_unit(&adam, moments, v[i]);
        w[i] = tacit__adam_value(&adam, w[i], m[i], v[i]);
    }
}

static void move_active(tacit_adam_t adam, bool moments, size_t count, const float *restrict mean, float *restrict m,
                        const float *restrict v, float *restrict w)
{
    size_t next = 0;

    for (size_t i = 0; i < count; i++) {
        if (v[i] != 0) {
            m[i] = mean[next++] * tacit__stages_unit(&adam, moments, v[i]);
            w[i] = tacit__adam_value(&adam, w[i], m[i], v[i]);
        }
    }
}

static void apply_dense(tacit_optim_t *optim, const tacit_step_t *step)
{
    const uint64_t     updates = optim->steps + 1;
    const tacit_adam_t adam = tacit__adam(optim->config, step->rate, updates, updates);

    tacit__optim_clip_reduced(optim);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];

        tacit__adam_dense(adam, (float)optim->factors[i], tensor->count, tensor->work, tensor->array[M], tensor->array[V],
                          step->values[i]);
    }
    (void)tacit__stages_freeze(optim);
}

static void apply(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_stages_t *config = optim->config;
    tacit_adam_t          adam;

    if (!tacit__stages_frozen(optim)) {
        apply_dense(optim, step);
        return;
    }
    adam = tacit__stages_adam(optim, step->rate);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];

        (tacit__stages_masked(optim, i) ? move_active : move_all)(adam, config->moments_travel != 0, tensor->count, tensor->work,
                                                                  tensor->array[M], tensor->array[V], step->values[i]);
    }
}

static const tacit_param_t params[] = {
    TACIT_PARAM_LIMIT(
        "Once the second moment is frozen, no rank's update is larger than Adam's could be; none: as in the paper."),
    TACIT_PARAMS_STAGES,
    {.key = NULL},
};

const tacit_optimizer_t tacit__optimizer_onebit_adam = {
    .name = "onebit-adam",
    .summary = "1-bit Adam: dense until the second moment is stable; then the first moment travels compressed",
    .config_bytes = sizeof(tacit_stages_t),
    .tensor_bytes = sizeof(tacit_stages_notes_t),
    .params = params,
    .arrays = {"m", "v", NULL},
    .numbers = {TACIT_STAGES_NUMBERS, NULL},
    .counters = TACIT_STAGES_COUNTERS,
    .init = init,
    .make_slots = tacit__stages_make_slots,
    .arrange = tacit__stages_arrange,
    .prepare = tacit__stages_prepare,
    .apply = apply,
};
