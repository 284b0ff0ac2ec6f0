/* SPDX-License-Identifier: Apache-2.0 */
/* Deep Gradient Compression: momentum before selection, so that what waits is velocity and not gradient; and masking, so that
   momentum does not push on with what is old by the time it is sent. Lin et al., "Deep Gradient Compression" (ICLR 2018),
   sections 3.1 and 3.2, equations 4 to 6. An optimizer around it has no momentum of its own. Vectors and small
   tensors stay dense: their gradients are averaged as they are, and momentum is applied to the mean. */
#include "feedback.h"
#include "sieve.h"

#include <math.h>
#include <stddef.h>

enum { MOMENTUM, VELOCITY };

/* Of |a|^2 so much gets across if everything is sent, in float16 at worst. */
static const double everything = 1 - 0x1p-20;

typedef struct config {
    int     precision;
    double  momentum;
    int     nesterov, masking;
    int64_t dense;
    bool    complete; /* everything is sent: nothing waits, and nothing is masked */
} config_t;

static void settle(void *config, double delta, char *warning, size_t warning_bytes)
{
    (void)warning;
    (void)warning_bytes;
    ((config_t *)config)->complete = delta > everything;
}

static double momentum(const void *config, bool *nesterov_out)
{
    const config_t *own = config;

    *nesterov_out = own->nesterov != 0;
    return own->momentum;
}

static bool is_dense(const void *config, const tacit_slot_config_t *tensor)
{
    const int64_t dense = ((const config_t *)config)->dense;

    return (tensor->ndim == 1 && dense > 0) || (int64_t)tensor->count < dense;
}

/* ---- Tensors that are sparsified ---- */

/* u' = mu u + g, v' = v + u'. Nesterov: u' = mu (u + g), v' = (v + u') + g. What is not finite stays out of u. */
static inline void before_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a)
{
    const config_t *config = state->config;
    const float     mu = (float)config->momentum;
    const float    *u = state->now[MOMENTUM] + first, *v = state->now[VELOCITY] + first;
    float          *next = state->next[MOMENTUM] + first;

    if (config->nesterov) {
        for (size_t i = 0; i < count; i++) {
            const float moved = mu * (u[i] + in[i]), sum = (v[i] + moved) + in[i];
            next[i] = isfinite(sum) ? moved : u[i];
            a[i] = sum;
        }
    } else {
        for (size_t i = 0; i < count; i++) {
            const float moved = mu * u[i] + in[i], sum = v[i] + moved;
            next[i] = isfinite(sum) ? moved : u[i];
            a[i] = sum;
        }
    }
}

TACIT_EACH_ISA(void, before, (const tacit_state_t *state, size_t first, size_t count, const float *in, float *a),
               (state, first, count, in, a))
TACIT_SIFT(tacit_state_t, before_loop)

static bool masks(const config_t *config)
{
    return config->masking && !config->complete;
}

static float weight_of(const void *config)
{
    return (float)((const config_t *)config)->momentum;
}

static unsigned flags_of(const void *config)
{
    return (((const config_t *)config)->nesterov ? TACIT_DGC_NESTEROV : 0u) | (masks(config) ? TACIT_DGC_MASKS : 0u);
}

static bool sent(const tacit_state_t *state, const uint32_t *indices, const float *values, float *kept, size_t entries)
{
    float *u = state->next[MOMENTUM];

    (void)values;
    for (size_t i = 0; masks(state->config) && i < entries; i++) {
        kept[i] = u[indices[i]];
        u[indices[i]] = 0.0f;
    }
    return true;
}

static void unsent(const tacit_state_t *state, const uint32_t *indices, const float *kept, size_t entries)
{
    float *u = state->now[MOMENTUM];

    for (size_t i = 0; masks(state->config) && i < entries; i++) {
        u[indices[i]] = kept[i];
    }
}

/* before() in reverse; d is 0, as sent() has a reverse of its own. Without momentum, what u was cannot be told, nor does it
   matter. */
static void undo(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d)
{
    const config_t *config = state->config;
    const float     mu = (float)config->momentum;
    float          *u = state->now[MOMENTUM] + first, *v = state->now[VELOCITY] + first;

    (void)d;
    for (size_t i = 0; i < count; i++) {
        v[i] = config->nesterov ? (v[i] - in[i]) - u[i] : v[i] - u[i];
        u[i] = mu == 0.0f ? 0.0f : config->nesterov ? u[i] / mu - in[i] : (u[i] - in[i]) / mu;
    }
}

/* ---- Tensors that stay dense ---- */

static void dense_before(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a)
{
    (void)state;
    (void)first;
    for (size_t i = 0; i < count; i++) {
        a[i] = in[i];
    }
}

/* Nothing is kept back: the momentum is combine()'s. */
static void dense_after(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d)
{
    (void)state;
    (void)first;
    (void)count;
    (void)in;
    (void)a;
    (void)d;
}

static void dense_undo(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d)
{
    (void)state;
    (void)first;
    (void)count;
    (void)in;
    (void)d;
}

/* u' = mu u + G, out = u'. Nesterov: u' = mu (u + G), out = u' + G. What is not finite stays out of u. */
static void dense_combine(const tacit_state_t *state, size_t first, size_t count, const float *mean, float *out)
{
    const config_t *config = state->config;
    const float     mu = (float)config->momentum;
    const float    *u = state->now[MOMENTUM] + first;
    float          *next = state->next[MOMENTUM] + first;

    for (size_t i = 0; i < count; i++) {
        const float moved = config->nesterov ? mu * (u[i] + mean[i]) : mu * u[i] + mean[i];
        out[i] = config->nesterov ? moved + mean[i] : moved;
        next[i] = isfinite(moved) ? moved : u[i];
    }
}

/* ---- The tables ---- */

static const tacit_param_t params[] = {
    {.key = "momentum",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, momentum),
     .low = 0,
     .high = 0.9999,
     .initial = 0.9,
     .unit = "",
     .help = "Factor of the momentum that each rank applies to its own gradients; the optimizer around it has none."},
    {.key = "nesterov",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, nesterov),
     .initial = 0,
     .words = "off on",
     .unit = "",
     .help = "Nesterov's momentum instead of the plain one."},
    {.key = "masking",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, masking),
     .initial = 1,
     .words = "off on",
     .unit = "",
     .help = "Whether the momentum of an element that is sent begins again at zero; never where everything is sent."},
    {.key = "dense",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, dense),
     .low = 0,
     .high = 4294967296.0,
     .initial = 1024,
     .unit = "elements",
     .help = "Tensors of fewer elements, and all that are known to have one dimension, are not sparsified; 0: all are."},
    TACIT_PARAM_RESIDUAL,
    {.key = NULL},
};

static const tacit_feedback_t dense_feedback = {
    .name = "dgc",
    .summary = "momentum of the mean",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"momentum", NULL},
    .residual = -1,
    .momentum = momentum,
    .before = dense_before,
    .after = dense_after,
    .accumulator = -1,
    .undo = dense_undo,
    .combine = dense_combine,
    .keep = TACIT_KEEP_MOMENTUM,
    .weight = weight_of,
    .flags = flags_of,
};

const tacit_feedback_t tacit__feedback_dgc = {
    .name = "dgc",
    .summary = "momentum before selection, as in Deep Gradient Compression; with topk",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"momentum", "velocity", NULL},
    .residual = VELOCITY,
    .rounded = 1u << MOMENTUM | 1u << VELOCITY,
    .owed = {VELOCITY, 1.0f},
    .settle = settle,
    .momentum = momentum,
    .is_dense = is_dense,
    .dense = &dense_feedback,
    .before = before,
    .sift = sift,
    .accumulator = VELOCITY,
    .sent = sent,
    .undo = undo,
    .unsent = unsent,
    .keep = TACIT_KEEP_DGC,
    .weight = weight_of,
    .flags = flags_of,
};
