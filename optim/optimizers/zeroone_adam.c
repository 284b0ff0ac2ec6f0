/* SPDX-License-Identifier: Apache-2.0 */
/* 0/1 Adam: Lu et al., "Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam" (ICLR 2023), algorithm 1. The
   second moment is updated, from dense gradients, at intervals that grow; in between gradients travel in the caller's slot. Once
   it is frozen, what travels is what the steps since the last message have added up to, and messages may become rare.
   Other than the authors' program: on one rank the first moment moves too; values go back to what all ranks had, not to
   within rounding of it; what travels is in units of the update, so that elements of small variance do not run away
   (onebit_adam.c); when the unit changes, what slots keep back is converted, not dropped. */
#include <math.h>
#include <string.h>

#include "moments.h"

enum { M, V, SUM, BASE }; /* SUM: rate x first moment since the last message; BASE: values then */
/* Updates of v; whether the slots' memory is in units of SUM; steps since the last message, and the sums over them of the rate,
   corrected as the first moment is, and of what decay takes. */
enum { UPDATES, CONVERTED, LOCAL, RATES, DECAYS };

typedef struct config {
    tacit_moments_t moments;
    int64_t         variance_scaler, freeze, local_steps, local_scaler;
    int             warmup_spec;
} config_t;

typedef struct notes {
    tacit_slot_t *warm;
} notes_t;

static notes_t *notes_of(const tacit_optim_t *optim, size_t i)
{
    return (notes_t *)optim->notes + i;
}

/* A feedback that tracks what is sent would take the change of its unit, when v is frozen, for a change of the gradient. */
static tacit_status_t check_feedback(const tacit_optim_t *optim, const tacit_slot_t *slot)
{
    const tacit_feedback_t *feedback = slot->codec->given.feedback;

    return feedback == NULL || feedback->combine == NULL
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_SPEC,
                             "rank %d: slot '%s': '%s' tracks what is sent, whose unit changes with zeroone-adam; use '+ef'",
                             optim->comm->rank, slot->codec->name, feedback->name);
}

static tacit_status_t init(tacit_optim_t *optim)
{
    const config_t *config = optim->config;
    const unsigned  local = config->local_steps > 1 ? 1u << SUM | 1u << BASE : 0;
    tacit_status_t  status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(tacit__adam_check_slot(optim, optim->tensors[i].slot));
        TRY(check_feedback(optim, optim->tensors[i].slot));
        TRY(tacit__optim_room(optim, &optim->tensors[i], 1u << M | 1u << V | local));
    }
out:
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
out:
    return status;
}

/* ---- What kind of step it is ---- */

/* 1, 2, 4 ... after every `scaler` of `done`, up to `most`. */
static uint64_t interval(uint64_t done, int64_t scaler, uint64_t most)
{
    const uint64_t doublings = done / (uint64_t)scaler;
    const uint64_t grown = doublings < 62 ? UINT64_C(1) << doublings : most;

    return grown < most ? grown : most;
}

static bool is_frozen(const tacit_optim_t *optim)
{
    const config_t *config = optim->config;

    return config->freeze != 0 && optim->steps >= (uint64_t)config->freeze;
}

static bool updates_variance(const tacit_optim_t *optim)
{
    const config_t *config = optim->config;

    return !is_frozen(optim) &&
           (optim->steps + 1) % interval((uint64_t)optim->numbers[UPDATES], config->variance_scaler, UINT64_C(1) << 62) == 0;
}

static bool is_local(const tacit_optim_t *optim)
{
    const config_t *config = optim->config;

    return is_frozen(optim) &&
           (uint64_t)optim->numbers[LOCAL] + 1 <
               interval(optim->steps - (uint64_t)config->freeze, config->local_scaler, (uint64_t)config->local_steps);
}

static tacit_adam_t factors_of(const tacit_optim_t *optim, double rate)
{
    const uint64_t updates = (uint64_t)optim->numbers[UPDATES] + updates_variance(optim);

    return tacit__adam(optim->config, rate, optim->steps + 1, updates);
}

/* ---- Before and in the message ---- */

/* Rates, corrected as the first moment is, since the last message, with this step's. */
static double rates_of(const tacit_optim_t *optim, tacit_adam_t adam)
{
    return optim->numbers[RATES] + (double)adam.rate * (double)adam.correct1;
}

/* What a gradient is worth in units of SUM, on average over so many steps since the last message. */
static double worth(const tacit_optim_t *optim, double rate, double steps)
{
    const tacit_adam_t adam = factors_of(optim, rate);

    return rates_of(optim, adam) / steps * (double)adam.rest1;
}

/* At rates of 0 there is nothing to tell, nor would a message say what the first moment is: it waits. So does the first step
   without one, unless the next message will have something to tell whatever the rates until then: ranks do not stay apart. */
static bool is_idle(const tacit_optim_t *optim, double rate)
{
    const config_t *config = optim->config;

    return is_frozen(optim) && !isnormal((float)worth(optim, rate, (double)config->local_steps));
}

/* What slots keep back of gradients becomes what it is worth in units of SUM. */
static tacit_status_t convert(tacit_optim_t *optim, double factor)
{
    tacit_status_t status = TACIT_OK;

    if (optim->numbers[CONVERTED] > 0) {
        return TACIT_OK;
    }
    TRY(tacit__optim_rescale(optim, factor));
    optim->numbers[CONVERTED] = 1;
out:
    return status;
}

static tacit_status_t arrange(tacit_optim_t *optim, const tacit_step_t *step)
{
    tacit_status_t status = TACIT_OK;

    if (updates_variance(optim) || is_idle(optim, step->rate)) {
        return TACIT_OK;
    }
    if (is_frozen(optim) && !is_local(optim)) {
        TRY(convert(optim, worth(optim, step->rate, optim->numbers[LOCAL] + 1)));
    }
    TRY(tacit__optim_clip_local(optim, step));
out:
    return status;
}

/* A gradient, times factor, in units of the update; 0 where there is none yet: where v is 0. */
static void divide(tacit_adam_t adam, float factor, size_t count, const float *restrict g, const float *restrict v,
                   float *restrict out)
{
    const float most = adam.most / (adam.rest1 * adam.correct1);

    for (size_t i = 0; i < count; i++) {
        out[i] = v[i] != 0 ? tacit__adam_within(most, factor * g[i] / tacit__adam_divisor(&adam, v[i])) : 0.0f;
    }
}

/* The first moment as this rank sees it. */
static inline float own_moment(const tacit_adam_t *adam, float m, float g, float v)
{
    return tacit__adam_limited(adam, tacit__adam_first(adam, m, g), v);
}

/* sum + rate x that moment, in units of the update. */
static void add_up(tacit_adam_t adam, float factor, const tacit_tensor_t *tensor, const float *restrict g, float *restrict out)
{
    const float *restrict m = tensor->array[M], *restrict v = tensor->array[V], *restrict sum = tensor->array[SUM];
    const float gain = adam.rate * adam.correct1;

    for (size_t i = 0; i < tensor->count; i++) {
        const float all = (sum != NULL ? sum[i] : 0.0f) + gain * own_moment(&adam, m[i], factor * g[i], v[i]);

        out[i] = v[i] != 0 ? all / tacit__adam_divisor(&adam, v[i]) : 0.0f;
    }
}

static tacit_status_t prepare(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_adam_t adam = factors_of(optim, step->rate);
    const bool         any = optim->comm->config.nonfinite == TACIT_NONFINITE_PASS;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];
        const float          *g = step->gradients[i];

        if (is_local(optim) || is_idle(optim, step->rate)) {
            if (!any && !isfinite(tacit__sum_squares(g, tensor->count))) {
                return tacit__fail(TACIT_ERR_VALUE,
                                   "rank %d: the gradient of slot '%s' holds NaN or infinity; no value was moved",
                                   optim->comm->rank, tensor->slot->codec->name);
            }
        } else if (is_frozen(optim)) {
            add_up(adam, (float)optim->factors[i], tensor, g, tensor->work);
            tacit__optim_send(optim, tensor->slot, tensor->work, tensor->work, TACIT_AVERAGE);
        } else if (updates_variance(optim)) {
            tacit__optim_send(optim, notes_of(optim, i)->warm, g, tensor->work, TACIT_AVERAGE);
        } else {
            divide(adam, (float)optim->factors[i], tensor->count, g, tensor->array[V], tensor->work);
            tacit__optim_send(optim, tensor->slot, tensor->work, tensor->work, TACIT_AVERAGE);
        }
    }
    return TACIT_OK;
}

/* ---- After it ---- */

/* The reverse of divide(). */
static void multiply(tacit_adam_t adam, size_t count, const float *restrict v, float *restrict g)
{
    for (size_t i = 0; i < count; i++) {
        g[i] = v[i] != 0 ? g[i] * tacit__adam_divisor(&adam, v[i]) : 0.0f;
    }
}

/* Only the first moment takes the gradient in. An element whose v is 0 has had no dense gradient yet: it waits. */
static void move_first(tacit_adam_t adam, size_t count, const float *restrict g, float *restrict m, const float *restrict v,
                       float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        if (v[i] != 0) {
            m[i] = tacit__adam_first(&adam, m[i], g[i]);
            w[i] = tacit__adam_value(&adam, w[i], m[i], v[i]);
        }
    }
}

/* On this rank alone. The first such step since a message remembers where all ranks were. */
static void move_alone(tacit_adam_t adam, float factor, const tacit_tensor_t *tensor, bool first, const float *restrict g,
                       float *restrict w)
{
    float *restrict m = tensor->array[M], *restrict sum = tensor->array[SUM], *restrict base = tensor->array[BASE];
    const float *restrict v = tensor->array[V];
    const float gain = adam.rate * adam.correct1;

    for (size_t i = 0; i < tensor->count; i++) {
        base[i] = first ? w[i] : base[i];
        m[i] = own_moment(&adam, m[i], factor * g[i], v[i]);
        sum[i] += gain * m[i];
        w[i] = v[i] != 0 ? tacit__adam_value(&adam, w[i], m[i], v[i]) : w[i];
    }
}

/* From where all ranks were, by the mean of what they have added up, which also says what the first moment was on average. */
static void move_together(tacit_adam_t adam, double rates, float decays, const tacit_tensor_t *tensor, const float *from,
                          float *w)
{
    float *restrict m = tensor->array[M], *restrict sum = tensor->array[SUM];
    const float *restrict v = tensor->array[V], *restrict mean = tensor->work;
    const float back = (float)(1.0 / rates);

    for (size_t i = 0; i < tensor->count; i++) {
        m[i] = back * (mean[i] * tacit__adam_divisor(&adam, v[i]));
        w[i] = v[i] != 0 ? from[i] - (mean[i] + decays * from[i]) : from[i];
    }
    if (sum != NULL) {
        memset(sum, 0, tensor->count * sizeof *sum);
    }
}

static void apply_frozen(tacit_optim_t *optim, const tacit_step_t *step, tacit_adam_t adam)
{
    const bool   local = is_local(optim), first = optim->numbers[LOCAL] == 0;
    const double rates = rates_of(optim, adam), decays = optim->numbers[DECAYS] + (double)adam.rate * (double)adam.decay;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];

        if (local) {
            move_alone(adam, (float)optim->factors[i], tensor, first, step->gradients[i], step->values[i]);
        } else {
            move_together(adam, rates, (float)decays, tensor, first ? step->values[i] : tensor->array[BASE], step->values[i]);
        }
    }
    optim->numbers[LOCAL] = local ? optim->numbers[LOCAL] + 1 : 0;
    optim->numbers[RATES] = local ? rates : 0;
    optim->numbers[DECAYS] = local ? decays : 0;
}

static void apply(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_adam_t adam = factors_of(optim, step->rate);
    const bool         dense = updates_variance(optim);

    if (is_idle(optim, step->rate)) {
        return;
    }
    if (is_frozen(optim)) {
        apply_frozen(optim, step, adam);
        return;
    }
    for (size_t i = 0; i < optim->tensor_count && !dense; i++) {
        multiply(adam, optim->tensors[i].count, optim->tensors[i].array[V], optim->tensors[i].work);
    }
    if (dense) {
        tacit__optim_clip_reduced(optim);
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];
        float                *m = tensor->array[M], *v = tensor->array[V];

        if (dense) {
            tacit__adam_dense(adam, (float)optim->factors[i], tensor->count, tensor->work, m, v, step->values[i]);
        } else {
            move_first(adam, tensor->count, tensor->work, m, v, step->values[i]);
        }
    }
    optim->numbers[UPDATES] += dense;
}

static bool apart(const double *numbers)
{
    return numbers[LOCAL] > 0;
}

#define AT(field) offsetof(config_t, field)

static const tacit_param_t params[] = {
    {"variance-scaler", TACIT_PARAM_INT, AT(variance_scaler), 1, 1e9, 16, 0, NULL, "updates",
     "After so many updates of the second moment the interval between them doubles."},
    {"freeze", TACIT_PARAM_INT, AT(freeze), 1, 1e12, 0, 0, "never", "steps", "Steps before the second moment is frozen."},
    {"local-steps", TACIT_PARAM_INT, AT(local_steps), 1, 1e6, 1, 0, NULL, "steps",
     "Most steps from one message to the next after that; in between, values differ from rank to rank."},
    {"local-scaler", TACIT_PARAM_INT, AT(local_scaler), 1, 1e12, 32768, 0, NULL, "steps",
     "How long it takes until that interval, 1 at first, doubles."},
    TACIT_PARAM_WARMUP_SPEC(AT(warmup_spec), "How gradients travel when the second moment is updated."),
    TACIT_PARAM_LIMIT("Where it is not, no rank asks for an update larger than Adam's could be; none: as in the paper."),
    TACIT_PARAMS_MOMENTS,
    {.key = NULL},
};

const tacit_optimizer_t tacit__optimizer_zeroone_adam = {
    .name = "zeroone-adam",
    .summary = "0/1 Adam: the second moment is updated ever more rarely, and messages may become rare too",
    .config_bytes = sizeof(config_t),
    .tensor_bytes = sizeof(notes_t),
    .params = params,
    .arrays = {"m", "v", "sum", "base", NULL},
    .numbers = {"updates of v", "converted", "local steps", "sum of rates", "sum of decays", NULL},
    .counters = 1u << UPDATES | 1u << CONVERTED | 1u << LOCAL,
    .own_arrays = 1u << M | 1u << SUM,
    .init = init,
    .make_slots = make_slots,
    .arrange = arrange,
    .prepare = prepare,
    .apply = apply,
    .apart = apart,
};
