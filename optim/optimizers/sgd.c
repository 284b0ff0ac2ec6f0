/* SPDX-License-Identifier: Apache-2.0 */
/* Stochastic gradient descent with momentum. Where a slot's feedback brings the momentum (dgc), this has none: decay then has a
   momentum of its own and is never compressed, and the density may warm up: Lin et al., "Deep Gradient Compression" (ICLR 2018),
   sections 3.2 and 3.3. */
#include <math.h>

#include "optimizer.h"
#include "param.h"

enum { BUFFER };    /* the momentum's, or that of the decay alone */
enum { LAST_RATE }; /* of the last step; 0: none yet */

static const double default_momentum = 0.9;

typedef struct config {
    tacit_clipping_t clipping;
    double           momentum; /* below 0: not given */
    double           weight_decay;
    int64_t          warmup_entries, warmup_steps;
    int              nesterov, sum, warmup, rescale;
} config_t;

typedef struct notes {
    bool   brought; /* the momentum is that of the spec's feedback */
    bool   owned;   /* … which applies it; not where slots are reduced as `none` (TACIT_DISABLE) */
    bool   nesterov;
    float  momentum;
    double final; /* density, at the end of the warm-up; 0: the spec has none */
} notes_t;

static notes_t *notes_of(const tacit_optim_t *optim, size_t i)
{
    return (notes_t *)optim->notes + i;
}

static bool any_owned(const tacit_optim_t *optim)
{
    bool owned = false;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        owned = owned || notes_of(optim, i)->owned;
    }
    return owned;
}

/* ---- Making ---- */

static tacit_status_t settle(const void *arg)
{
    const config_t *config = arg;

    return config->nesterov && config->momentum == 0 ? tacit__fail(TACIT_ERR_SPEC, "sgd: nesterov=on needs a momentum above 0")
                                                     : TACIT_OK;
}

/* 0 where the spec has none. */
static double density_of(const tacit_slot_t *slot)
{
    const tacit_spec_t  *given = &slot->codec->given;
    const tacit_param_t *ratio = tacit__param_find(given->compressor->params, "ratio", 5);

    return ratio == NULL ? 0.0 : *(const double *)(const void *)((const char *)given->compressor_config + ratio->offset);
}

/* The momentum of a slot's feedback, if it has one. */
static tacit_status_t look_at(tacit_optim_t *optim, size_t i)
{
    const config_t      *config = optim->config;
    const tacit_codec_t *codec = optim->tensors[i].slot->codec;
    const tacit_spec_t  *given = &codec->given;
    notes_t             *notes = notes_of(optim, i);
    const char          *clash = NULL;

    notes->final = density_of(optim->tensors[i].slot);
    if (given->feedback == NULL || given->feedback->momentum == NULL) {
        return TACIT_OK;
    }
    notes->owned = codec->feedback != NULL;
    notes->brought = true;
    notes->momentum = (float)given->feedback->momentum(given->feedback_config, &notes->nesterov);
    if (config->momentum > 0) {
        clash = "momentum";
    } else if (config->nesterov && !notes->nesterov) {
        clash = "nesterov";
    }
    return clash == NULL ? TACIT_OK
                         : tacit__fail(TACIT_ERR_SPEC,
                                       "rank %d: slot '%s': '%s' has the momentum, so sgd must have none; give %s to '+%s' and "
                                       "leave it out here",
                                       optim->comm->rank, codec->name, given->feedback->name, clash, given->feedback->name);
}

/* Other slots have the momentum that is given; else that of the feedbacks that have one, else the usual. */
static void share_momentum(tacit_optim_t *optim)
{
    const config_t *config = optim->config;
    const notes_t  *owner = NULL;

    for (size_t i = 0; i < optim->tensor_count && owner == NULL; i++) {
        owner = notes_of(optim, i)->brought ? notes_of(optim, i) : NULL;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        notes_t *notes = notes_of(optim, i);

        if (!notes->brought) {
            notes->momentum = config->momentum >= 0 ? (float)config->momentum
                              : owner != NULL       ? owner->momentum
                                                    : (float)default_momentum;
            notes->nesterov = owner != NULL && config->momentum < 0 ? owner->nesterov : config->nesterov != 0;
        }
    }
    if (any_owned(optim)) {
        tacit__log(TACIT_LOG_INFO, optim->comm->rank, "optim: sgd has no momentum where the feedback brings it (%g)",
                   (double)owner->momentum);
    }
}

static tacit_status_t init(tacit_optim_t *optim)
{
    const config_t *config = optim->config;
    tacit_status_t  status = TACIT_OK;
    bool            sparse = false;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(look_at(optim, i));
        sparse = sparse || notes_of(optim, i)->final > 0;
    }
    if (config->warmup != TACIT_WARMUP_NONE && !sparse) {
        status = tacit__fail(TACIT_ERR_SPEC, "rank %d: sgd: a warm-up of the density needs a slot whose spec has a ratio (topk)",
                             optim->comm->rank);
        goto out;
    }
    share_momentum(optim);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const notes_t *notes = notes_of(optim, i);
        const bool     buffer = notes->momentum > 0 && (!notes->owned || config->weight_decay > 0);

        TRY(tacit__optim_room(optim, &optim->tensors[i], buffer ? 1u << BUFFER : 0));
    }
out:
    return status;
}

/* ---- Before the messages ---- */

/* To six digits, which a spec shows: powers are not the same bits on every machine. The final density is as given. */
static double rounded(double density, double final)
{
    const double unit = pow(10.0, 6.0 - ceil(log10(density)));

    return density > final ? fmax(rint(density * unit) / unit, final) : final;
}

/* A slot's density at this step of the warm-up, whoever has set another. Once the warm-up is over, which its first step with the
   final density says, densities are others' affair. So it is the number of steps alone that counts, also after a load. */
static tacit_status_t set_density(tacit_optim_t *optim, size_t i)
{
    const config_t     *config = optim->config;
    const tacit_param_t real = {.type = TACIT_PARAM_REAL};
    const uint64_t      entries = (uint64_t)config->warmup_entries, entry_steps = (uint64_t)config->warmup_steps;
    const double        final = notes_of(optim, i)->final;
    tacit_slot_t       *slot = optim->tensors[i].slot;
    double              density;
    char                number[64], spec[TACIT_SPEC_BYTES];
    tacit_status_t      status = TACIT_OK;

    if (config->warmup == TACIT_WARMUP_NONE || final == 0 || optim->steps > entries * entry_steps) {
        return TACIT_OK;
    }
    density =
        rounded(tacit_warmup_density((tacit_warmup_t)config->warmup, NULL, entries, entry_steps, final, optim->steps), final);
    if (density == density_of(slot)) {
        return TACIT_OK;
    }
    (void)tacit__param_print(&real, &density, number, sizeof number);
    status = tacit__spec_replace(tacit_slot_spec(slot), "ratio", number, spec, sizeof spec);
    if (status != TACIT_OK) {
        return tacit__optim_refuse(optim, status);
    }
    TRY(tacit_slot_set_spec(slot, spec));
out:
    return status;
}

/* What is kept back stays the same in units of the values, whatever becomes of this step. */
static tacit_status_t rescale(tacit_optim_t *optim, double rate)
{
    const double   factor = optim->numbers[LAST_RATE] / rate;
    tacit_status_t status = TACIT_OK;

    if (!isnormal((float)factor) || factor == 1.0) {
        return TACIT_OK; /* the first step, or a rate of 0 */
    }
    TRY(tacit__optim_rescale(optim, factor));
    optim->numbers[LAST_RATE] = rate;
out:
    return status;
}

static tacit_status_t arrange(tacit_optim_t *optim, const tacit_step_t *step)
{
    const config_t *config = optim->config;
    tacit_status_t  status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(set_density(optim, i));
    }
    if (config->rescale) {
        TRY(rescale(optim, step->rate));
    }
out:
    return status;
}

/* ---- The step ---- */

static tacit_status_t prepare(tacit_optim_t *optim, const tacit_step_t *step)
{
    const config_t *config = optim->config;

    tacit__optim_clip_before(optim, step, config->sum ? TACIT_CLIP_SUM : TACIT_CLIP_MEAN);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit__optim_send_gradient(optim, step, i, config->sum ? TACIT_SUM : TACIT_AVERAGE);
    }
    return TACIT_OK;
}

typedef struct factors {
    float rate, momentum, decay, clip;
} factors_t;

static void move_plain(factors_t by, size_t count, const float *restrict g, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        w[i] -= by.rate * (by.clip * g[i] + by.decay * w[i]);
    }
}

static void move_heavy(factors_t by, size_t count, const float *restrict g, float *restrict buffer, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        buffer[i] = by.momentum * buffer[i] + (by.clip * g[i] + by.decay * w[i]);
        w[i] -= by.rate * buffer[i];
    }
}

static void move_nesterov(factors_t by, size_t count, const float *restrict g, float *restrict buffer, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        const float gradient = by.clip * g[i] + by.decay * w[i];

        buffer[i] = by.momentum * buffer[i] + gradient;
        w[i] -= by.rate * (gradient + by.momentum * buffer[i]);
    }
}

/* The momentum is in g already: only decay has one here. */
static void move_owned(factors_t by, size_t count, const float *restrict g, float *restrict buffer, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        buffer[i] = by.momentum * buffer[i] + by.decay * w[i];
        w[i] -= by.rate * (g[i] + buffer[i]);
    }
}

static void move_owned_nesterov(factors_t by, size_t count, const float *restrict g, float *restrict buffer, float *restrict w)
{
    for (size_t i = 0; i < count; i++) {
        const float decay = by.decay * w[i];

        buffer[i] = by.momentum * buffer[i] + decay;
        w[i] -= by.rate * (g[i] + (decay + by.momentum * buffer[i]));
    }
}

static void apply(tacit_optim_t *optim, const tacit_step_t *step)
{
    const config_t *config = optim->config;

    tacit__optim_clip_after(optim);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];
        const notes_t        *notes = notes_of(optim, i);
        float                *buffer = tensor->array[BUFFER], *values = step->values[i];
        const factors_t       by = {(float)step->rate, notes->momentum, (float)config->weight_decay, (float)optim->factors[i]};

        if (buffer == NULL) {
            move_plain(by, tensor->count, tensor->work, values);
        } else if (notes->owned) {
            (notes->nesterov ? move_owned_nesterov : move_owned)(by, tensor->count, tensor->work, buffer, values);
        } else {
            (notes->nesterov ? move_nesterov : move_heavy)(by, tensor->count, tensor->work, buffer, values);
        }
    }
    optim->numbers[LAST_RATE] = step->rate > 0 ? step->rate : optim->numbers[LAST_RATE];
}

#define AT(field) offsetof(config_t, field)

static const tacit_param_t params[] = {
    {"momentum", TACIT_PARAM_REAL, AT(momentum), 0, 0.999999, -1, 0, "auto", "",
     "The momentum; auto: 0.9, or where a slot's feedback brings one, that."},
    {"nesterov", TACIT_PARAM_WORD, AT(nesterov), 0, 0, 0, 0, "off on", "", "Nesterov's form of it."},
    {"weight-decay", TACIT_PARAM_REAL, AT(weight_decay), 0, 1000, 0, 0, NULL, "",
     "Part of the values that is added to the gradient; never compressed."},
    TACIT_PARAM_CLIP,
    TACIT_PARAM_CLIP_SCOPE,
    {"reduce", TACIT_PARAM_WORD, AT(sum), 0, 0, 0, 0, "mean sum", "",
     "What ranks' gradients become; sum: each already carries 1/N."},
    {"warmup", TACIT_PARAM_WORD, AT(warmup), 0, 0, 0, 0, "none paper reference", "",
     "How the density of sparse slots comes down to that of their spec."},
    {"warmup-entries", TACIT_PARAM_INT, AT(warmup_entries), 1, 64, 4, 0, NULL, "", "Densities on the way."},
    {"warmup-steps", TACIT_PARAM_INT, AT(warmup_steps), 1, 1e12, 100, 0, NULL, "steps", "How long each of them lasts."},
    {"rescale", TACIT_PARAM_WORD, AT(rescale), 0, 0, 0, 0, "off on", "",
     "Whether what slots keep back is scaled as the rate changes, so that it stays the same in units of the values."},
    {NULL, TACIT_PARAM_INT, 0, 0, 0, 0, 0, NULL, NULL, NULL},
};

const tacit_optimizer_t tacit__optimizer_sgd = {
    .name = "sgd",
    .summary = "gradient descent with momentum; the partner of dgc, whose momentum it leaves alone",
    .config_bytes = sizeof(config_t),
    .tensor_bytes = sizeof(notes_t),
    .params = params,
    .arrays = {"momentum", NULL},
    .numbers = {"rate", NULL},
    .settle = settle,
    .init = init,
    .arrange = arrange,
    .prepare = prepare,
    .apply = apply,
};
