/* SPDX-License-Identifier: Apache-2.0 */
/* Which slots the two stages need, what travels in them, and when the second one begins. */
#include "stages.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { M = TACIT_STAGES_M, V = TACIT_STAGES_V };
enum { FROZEN_AT = TACIT_STAGES_FROZEN_AT, LAST_SUM = TACIT_STAGES_LAST_SUM, SETTLED = TACIT_STAGES_SETTLED };

/* The second moment counts as stable when its sum was at least this part of what it is now so many steps ago as it remembers. */
static const double stable = 0.96;

static tacit_stages_notes_t *notes_of(const tacit_optim_t *optim, size_t i)
{
    return (tacit_stages_notes_t *)optim->notes + i;
}

bool tacit__stages_frozen(const tacit_optim_t *optim)
{
    return optim->numbers[FROZEN_AT] > 0;
}

tacit_adam_t tacit__stages_adam(const tacit_optim_t *optim, double rate)
{
    return tacit__adam(optim->config, rate, optim->steps + 1, (uint64_t)optim->numbers[FROZEN_AT]);
}

bool tacit__stages_masked(const tacit_optim_t *optim, size_t i)
{
    return notes_of(optim, i)->active != optim->tensors[i].slot;
}

/* ---- Slots ---- */

/* Before the first step, not at the freeze: names that grow by "/active-" and 16 digits must have room for them. */
static tacit_status_t check_name(const tacit_slot_t *slot)
{
    const size_t most = 255 - strlen("/active-") - 16, bytes = strlen(slot->codec->name);

    return bytes <= most ? TACIT_OK
                         : tacit__fail(TACIT_ERR_ARGUMENT,
                                       "rank %d: slot '%s': a slot whose optimizer names more slots after it has a name of at "
                                       "most %zu bytes, not %zu",
                                       slot->comm->rank, slot->codec->name, most, bytes);
}

tacit_status_t tacit__stages_init(tacit_optim_t *optim, unsigned arrays)
{
    tacit_status_t status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(tacit__adam_check_slot(optim, optim->tensors[i].slot));
        TRY(check_name(optim->tensors[i].slot));
        TRY(tacit__optim_room(optim, &optim->tensors[i], arrays));
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
        status = optim->numbers[SETTLED] > 0 ? find_active(optim, made, &notes_of(optim, made)->next) : TACIT_OK;
        made += status == TACIT_OK;
    }
    for (size_t i = 0; i < made; i++) {
        tacit_stages_notes_t *notes = notes_of(optim, i);

        if (status == TACIT_OK) {
            drop(optim, i, notes->active, notes->next);
            notes->active = notes->next;
        } else {
            drop(optim, i, notes->next, notes->active);
        }
    }
    return status;
}

tacit_status_t tacit__stages_make_slots(tacit_optim_t *optim)
{
    const tacit_stages_t *config = optim->config;
    tacit_status_t        status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(tacit__optim_warm_slot(optim, &optim->tensors[i], tacit__warmup_spec(config->warmup_spec),
                                   &notes_of(optim, i)->warm));
    }
    TRY(tacit__optim_norms_slot(optim));
    TRY(settle_active(optim));
out:
    return status;
}

/* ---- The step ---- */

tacit_status_t tacit__stages_arrange(tacit_optim_t *optim, const tacit_step_t *step)
{
    tacit_status_t status = TACIT_OK;

    if (!tacit__stages_frozen(optim)) {
        return TACIT_OK;
    }
    if (optim->numbers[SETTLED] == 0) {
        optim->numbers[SETTLED] = 1;
        status = tacit__stages_make_slots(optim);
        optim->numbers[SETTLED] = status == TACIT_OK;
        TRY(status);
    }
    TRY(tacit__optim_clip_local(optim, step));
out:
    return status;
}

/* The first moment as this rank sees it … */
static inline float own_moment(const tacit_adam_t *adam, float m, float g, float v)
{
    return tacit__adam_limited(adam, tacit__adam_first(adam, m, g), v);
}

/* … of all elements … */
static void moment_of_all(tacit_adam_t adam, bool moments, float factor, size_t count, const float *restrict g,
                          const float *restrict m, const float *restrict v, float *restrict out)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = own_moment(&adam, m[i], factor * g[i], v[i]) / tacit__stages_unit(&adam, moments, v[i]);
    }
}

/* … and of those whose v is not 0, side by side. */
static void moment_of_active(tacit_adam_t adam, bool moments, float factor, size_t count, const float *restrict g,
                             const float *restrict m, const float *restrict v, float *restrict out)
{
    size_t next = 0;

    for (size_t i = 0; i < count; i++) {
        out[next] = own_moment(&adam, m[i], factor * g[i], v[i]) / tacit__stages_unit(&adam, moments, v[i]);
        next += v[i] != 0;
    }
}

tacit_status_t tacit__stages_prepare(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_stages_t *config = optim->config;
    const bool            frozen = tacit__stages_frozen(optim), moments = config->moments_travel != 0;
    const tacit_adam_t    adam = frozen ? tacit__stages_adam(optim, step->rate) : (tacit_adam_t){0};

    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t       *tensor = &optim->tensors[i];
        const tacit_stages_notes_t *notes = notes_of(optim, i);
        const float                 factor = (float)optim->factors[i];
        const float                *g = step->gradients[i], *m = tensor->array[M], *v = tensor->array[V];

        if (!frozen) {
            tacit__optim_send(optim, notes->warm, g, tensor->work, TACIT_AVERAGE);
        } else if (!tacit__stages_masked(optim, i)) {
            moment_of_all(adam, moments, factor, tensor->count, g, m, v, tensor->work);
            tacit__optim_send(optim, notes->active, tensor->work, tensor->work, TACIT_AVERAGE);
        } else if (notes->active != NULL) {
            moment_of_active(adam, moments, factor, tensor->count, g, m, v, tensor->work);
            tacit__optim_send(optim, notes->active, tensor->work, tensor->work, TACIT_AVERAGE);
        }
    }
    return TACIT_OK;
}

/* ---- The second stage ---- */

void tacit__stages_spread(tacit_optim_t *optim, size_t i)
{
    const tacit_slot_t *active = notes_of(optim, i)->active;
    const float        *v = optim->tensors[i].array[V];
    float              *work = optim->tensors[i].work;
    size_t              next = active != NULL ? active->codec->tensor.count : 0;

    for (size_t j = optim->tensors[i].count; j-- > 0;) { /* from the end: an element's place is never before where it lies */
        work[j] = v[j] != 0 ? work[--next] : 0.0f;
    }
}

static bool is_last_dense(tacit_optim_t *optim, uint64_t updates)
{
    const tacit_stages_t *config = optim->config;
    const uint64_t        memory = (uint64_t)(1.0 / (1.0 - config->moments.beta2) + 0.5);
    const double          before = optim->numbers[LAST_SUM];
    double                sum = 0.0;

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

bool tacit__stages_freeze(tacit_optim_t *optim)
{
    const uint64_t updates = optim->steps + 1;
    const bool     last = is_last_dense(optim, updates);

    if (last) {
        optim->numbers[FROZEN_AT] = (double)updates;
        tacit__log(TACIT_LOG_INFO, optim->comm->rank, "optim: the second moment is frozen after %" PRIu64 " dense updates",
                   updates);
    }
    return last;
}
