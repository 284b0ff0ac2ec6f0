/* SPDX-License-Identifier: Apache-2.0 */
/* 1-bit Adam: Tang et al., "1-bit Adam" (ICML 2021), algorithm 1. Adam on reduced gradients until the second moment is stable;
   from then on that is frozen, and what travels is the first moment, by way of the caller's slot.
   Other than the authors' program: every gradient counts, the first one too; the freezing step is a number of dense updates;
   coordinates whose second moment is still zero then, where a step would be divided by epsilon alone, are left out of the
   messages and stay where they are; moments travel in units of the update they make, unless unit=moment asks for the published
   form; and gradients are clipped by the same factor on every rank. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "moments.h"

enum { M, V };
enum { FROZEN_AT, LAST_SUM }; /* dense updates in v, 0 in the warm-up; sum of v when the rule of stability was last applied */

/* The second moment counts as stable when its sum was at least this part of what it is now so many steps ago as it remembers. */
static const double stable = 0.96;

typedef struct config {
    tacit_moments_t moments;
    int64_t         freeze; /* 0: by the rule of stability */
    int64_t         freeze_after;
    int             warmup_spec;
    int             moments_travel; /* as they are; else in units of the values */
} config_t;

typedef struct notes {
    tacit_slot_t *warm;   /* for gradients, in the warm-up */
    tacit_slot_t *active; /* for moments, afterwards: the caller's, or one of those elements whose v is not 0; NULL: none are */
    tacit_slot_t *next;   /* what becomes of it when the slots of all tensors are made */
} notes_t;

static notes_t *notes_of(const tacit_optim_t *optim, size_t i)
{
    return (notes_t *)optim->notes + i;
}

static bool is_frozen(const tacit_optim_t *optim)
{
    return optim->numbers[FROZEN_AT] > 0;
}

static bool is_masked(const tacit_optim_t *optim, size_t i)
{
    return notes_of(optim, i)->active != optim->tensors[i].slot;
}

/* ---- Making ---- */

static tacit_status_t init(tacit_optim_t *optim)
{
    tacit_status_t status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(tacit__adam_check_slot(optim, optim->tensors[i].slot));
        TRY(tacit__optim_room(optim, &optim->tensors[i], 1u << M | 1u << V));
    }
out:
    return status;
}

/* Elements that travel, and a hash of those that do not. */
static size_t count_active(const float *v, size_t count, uint64_t *hash_out)
{
    uint64_t hash = TACIT_HASH_START;
    size_t   active = 0;

    for (size_t i = 0; i < count; i++) {
        active += v[i] != 0;
        if (v[i] == 0) {
            hash = tacit__hash(hash, &i, sizeof i);
        }
    }
    *hash_out = hash;
    return active;
}

/* The slot in which a tensor's first moment is to travel: one that is there already, or a new one. */
static tacit_status_t find_active(tacit_optim_t *optim, size_t i, tacit_slot_t **active_out)
{
    const tacit_tensor_t *tensor = &optim->tensors[i];
    tacit_slot_t         *before = notes_of(optim, i)->active;
    char                  name[512];
    uint64_t              hash;
    const size_t          active = count_active(tensor->array[V], tensor->count, &hash);

    *active_out = NULL;
    if (active == tensor->count) {
        *active_out = tensor->slot;
        return TACIT_OK;
    }
    if (active == 0) {
        return TACIT_OK;
    }
    snprintf(name, sizeof name, "%s/active-%016" PRIx64, tensor->slot->codec->name, hash);
    if (before != NULL && strcmp(before->codec->name, name) == 0) {
        *active_out = before;
        return TACIT_OK;
    }
    return tacit__optim_slot_create(optim, name, active, tacit_slot_spec(tensor->slot), active_out);
}

/* Destroys one of two slots of a tensor if it is this optimizer's and the other one stays. */
static void drop(tacit_optim_t *optim, size_t i, tacit_slot_t *slot, const tacit_slot_t *stays)
{
    if (slot != stays && slot != optim->tensors[i].slot) {
        tacit__optim_slot_destroy(optim, slot);
    }
}

/* The slots of the second stage follow from v alone, so that they are the same after a stop. */
static tacit_status_t settle_active(tacit_optim_t *optim)
{
    tacit_status_t status = TACIT_OK;
    size_t         made = 0;

    while (made < optim->tensor_count && status == TACIT_OK) {
        notes_of(optim, made)->next = NULL;
        status = is_frozen(optim) ? find_active(optim, made, &notes_of(optim, made)->next) : TACIT_OK;
        made += status == TACIT_OK;
    }
    for (size_t i = 0; i < made; i++) {
        notes_t *notes = notes_of(optim, i);

        if (status == TACIT_OK) {
            drop(optim, i, notes->active, notes->next);
            notes->active = notes->next;
        } else {
            drop(optim, i, notes->next, notes->active);
        }
    }
    return status;
}

static tacit_status_t make_slots(tacit_optim_t *optim)
{
    const config_t *config = optim->config;
    tacit_status_t  status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(tacit__optim_warm_slot(optim, &optim->tensors[i], tacit__warmup_spec(config->warmup_spec),
                                   &notes_of(optim, i)->warm));
    }
    TRY(tacit__optim_norms_slot(optim));
    TRY(settle_active(optim));
    optim->settled = is_frozen(optim);
out:
    return status;
}

/* ---- The step ---- */

static tacit_status_t arrange(tacit_optim_t *optim, const tacit_step_t *step)
{
    tacit_status_t status = TACIT_OK;

    if (!is_frozen(optim)) {
        return TACIT_OK;
    }
    if (!optim->settled) {
        TRY(make_slots(optim));
    }
    TRY(tacit__optim_clip_local(optim, step));
out:
    return status;
}

/* What an element's first moment is divided by before it travels: the frozen root of v, so that the small number of sizes that a
   compressor can express are sizes of updates. In units of the moment itself they move elements of small v much too far. */
static inline float unit_of(const tacit_adam_t *adam, bool moments, float v)
{
    return moments ? 1.0f : sqrtf(v) + adam->epsilon;
}

/* The first moment as this rank sees it: of all elements … */
static void moment_of_all(tacit_adam_t adam, bool moments, float factor, size_t count, const float *restrict g,
                          const float *restrict m, const float *restrict v, float *restrict out)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = tacit__adam_first(&adam, m[i], factor * g[i]) / unit_of(&adam, moments, v[i]);
    }
}

/* … and of those whose v is not 0, side by side. */
static void moment_of_active(tacit_adam_t adam, bool moments, float factor, size_t count, const float *restrict g,
                             const float *restrict m, const float *restrict v, float *restrict out)
{
    size_t next = 0;

    for (size_t i = 0; i < count; i++) {
        out[next] = tacit__adam_first(&adam, m[i], factor * g[i]) / unit_of(&adam, moments, v[i]);
        next += v[i] != 0;
    }
}

static tacit_status_t prepare(tacit_optim_t *optim, const tacit_step_t *step)
{
    const config_t    *config = optim->config;
    const tacit_adam_t adam = tacit__adam(optim->config, step->rate, 1, 1);
    const bool         moments = config->moments_travel != 0;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];
        const notes_t        *notes = notes_of(optim, i);
        const float           factor = (float)optim->factors[i];
        const float          *g = step->gradients[i], *m = tensor->array[M], *v = tensor->array[V];

        if (!is_frozen(optim)) {
            tacit__optim_send(optim, notes->warm, g, tensor->work, TACIT_AVERAGE);
        } else if (!is_masked(optim, i)) {
            moment_of_all(adam, moments, factor, tensor->count, g, m, v, tensor->work);
            tacit__optim_send(optim, notes->active, tensor->work, tensor->work, TACIT_AVERAGE);
        } else if (notes->active != NULL) {
            moment_of_active(adam, moments, factor, tensor->count, g, m, v, tensor->work);
            tacit__optim_send(optim, notes->active, tensor->work, tensor->work, TACIT_AVERAGE);
        }
    }
    return TACIT_OK;
}

static void move_all(tacit_adam_t adam, bool moments, size_t count, const float *restrict mean, float *restrict m,
                     const float *restrict v, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        m[i] = mean[i] * unit_of(&adam, moments, v[i]);
        w[i] = tacit__adam_value(&adam, w[i], m[i], v[i]);
    }
}

static void move_active(tacit_adam_t adam, bool moments, size_t count, const float *restrict mean, float *restrict m,
                        const float *restrict v, float *restrict w)
{
    size_t next = 0;

    for (size_t i = 0; i < count; i++) {
        if (v[i] != 0) {
            m[i] = mean[next++] * unit_of(&adam, moments, v[i]);
            w[i] = tacit__adam_value(&adam, w[i], m[i], v[i]);
        }
    }
}

/* Whether the dense update just made was the last one. */
static bool is_last_dense(tacit_optim_t *optim, uint64_t updates)
{
    const config_t *config = optim->config;
    const uint64_t  memory = (uint64_t)(1.0 / (1.0 - config->moments.beta2) + 0.5);
    const double    before = optim->numbers[LAST_SUM];
    double          sum = 0.0;

    if (config->freeze != 0) {
        return updates >= (uint64_t)config->freeze;
    }
    if (updates % memory != 0) {
        return false;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        sum += tacit__sum(optim->tensors[i].array[V], optim->tensors[i].count);
    }
    optim->numbers[LAST_SUM] = sum;
    return before > 0 && before >= stable * sum && updates >= (uint64_t)config->freeze_after;
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
    if (is_last_dense(optim, updates)) {
        optim->numbers[FROZEN_AT] = (double)updates;
        optim->settled = false;
        tacit__log(TACIT_LOG_INFO, optim->comm->rank, "optim: the second moment is frozen after %" PRIu64 " dense updates",
                   updates);
    }
}

static void apply(tacit_optim_t *optim, const tacit_step_t *step)
{
    const config_t    *config = optim->config;
    const tacit_adam_t adam = tacit__adam(optim->config, step->rate, optim->steps + 1, (uint64_t)optim->numbers[FROZEN_AT]);

    if (!is_frozen(optim)) {
        apply_dense(optim, step);
        return;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];

        (is_masked(optim, i) ? move_active : move_all)(adam, config->moments_travel != 0, tensor->count, tensor->work,
                                                       tensor->array[M], tensor->array[V], step->values[i]);
    }
}

#define AT(field) offsetof(config_t, field)

static const tacit_param_t params[] = {
    {"freeze", TACIT_PARAM_INT, AT(freeze), 1, 1e12, 0, 0, "auto", "steps",
     "Dense updates before the second moment is frozen and messages become small; auto: when it is stable."},
    {"freeze-after", TACIT_PARAM_INT, AT(freeze_after), 0, 1e12, 0, 0, NULL, "steps",
     "Dense updates that freeze=auto waits for at least, such as the warm-up of the rate."},
    {"unit", TACIT_PARAM_WORD, AT(moments_travel), 0, 0, 0, 0, "update moment", "",
     "Units in which first moments travel: those of the update, or, as in the paper, their own."},
    TACIT_PARAM_WARMUP_SPEC(AT(warmup_spec), "How gradients travel until then."),
    TACIT_PARAMS_MOMENTS,
    {.key = NULL},
};

const tacit_optimizer_t tacit__optimizer_onebit_adam = {
    .name = "onebit-adam",
    .summary = "1-bit Adam: dense until the second moment is stable; then the first moment travels compressed",
    .config_bytes = sizeof(config_t),
    .tensor_bytes = sizeof(notes_t),
    .params = params,
    .arrays = {"m", "v", NULL},
    .numbers = {"frozen at", "sum of v", NULL},
    .init = init,
    .make_slots = make_slots,
    .arrange = arrange,
    .prepare = prepare,
    .apply = apply,
};
