/* SPDX-License-Identifier: Apache-2.0 */
/* EControl: a tracker of every rank's gradient, and an error whose feedback is held back by eta. Gao, Islamov and Stich,
   "EControl: Fast Distributed Optimization with Compression and Error Control" (ICLR 2024), algorithm 1:

       d = C(eta e + in - h),   e = e + in - h - d,   h = h + d,   out = hbar = hbar + mean d

   Of h, e takes the value before its update. */
#include "sieve.h"
#include "tracker.h"

#include <stdio.h>

enum { RESIDUAL = TRACKED + 1 };

typedef struct config {
    tracker_config_t tracker;
    double           eta;
} config_t;

/* A quarter of delta is about where the linear model is critically damped; above delta, errors grow, slowly. */
static void settle(void *config, double delta, char *warning, size_t warning_bytes)
{
    config_t *own = config;

    if (own->eta > delta) {
        snprintf(warning, warning_bytes,
                 "eta=%.4g feeds back more than the part that gets across, %.4g; the error may grow, slowly but without limit: "
                 "use eta=%.4g",
                 own->eta, delta, delta / 4);
    } else if (delta <= 0) {
        snprintf(warning, warning_bytes, "no eta follows from a compressor that may get nothing across; errors are not fed back");
    }
    own->eta = own->eta > 0 ? own->eta : delta / 4;
}

static float weight_of(const void *config)
{
    return (float)((const config_t *)config)->eta;
}

static inline void before_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a)
{
    const float  eta = weight_of(state->config);
    const float *h = state->now[TRACKER] + first, *e = state->now[RESIDUAL] + first;

    for (size_t i = 0; i < count; i++) {
        const float fed_back = eta * e[i];
        a[i] = (fed_back + in[i]) - h[i];
    }
}

static void after_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d)
{
    const float *h = state->now[TRACKER] + first, *e = state->now[RESIDUAL] + first;
    float       *next_h = state->next[TRACKER] + first, *next_e = state->next[RESIDUAL] + first;

    (void)a;
    for (size_t i = 0; i < count; i++) {
        const float old = h[i];
        next_h[i] = old + d[i];
        next_e[i] = e[i] + ((in[i] - old) - d[i]);
    }
}

TACIT_EACH_ISA(void, before, (const tacit_state_t *state, size_t first, size_t count, const float *in, float *a),
               (state, first, count, in, a))
TACIT_EACH_ISA(void, after,
               (const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d),
               (state, first, count, in, a, d))
TACIT_SIFT(tacit_state_t, before_loop)

static void undo(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d)
{
    float *h = state->now[TRACKER] + first, *e = state->now[RESIDUAL] + first;

    for (size_t i = 0; i < count; i++) {
        h[i] -= d[i];
        e[i] -= (in[i] - h[i]) - d[i];
    }
}

static void first_after(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d)
{
    (void)a;
    (void)d;
    memcpy(state->next[TRACKER] + first, in, count * sizeof *in);
    memset(state->next[RESIDUAL] + first, 0, count * sizeof *in);
}

static const tacit_param_t params[] = {
    {.key = "eta",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, eta),
     .low = 0,
     .high = 1,
     .initial = 0,
     .unit = "",
     .help = "How much of the error joins a message, at most the part that the compressor gets across; 0: a quarter of that."},
    TACIT_PARAM_INIT,
    TACIT_PARAM_RESIDUAL,
    {.key = NULL},
};

static const tacit_feedback_t begin = {
    .name = "econtrol",
    .summary = "the dense first operation of econtrol",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"h", "hbar", "e", NULL},
    .residual = RESIDUAL,
    .rounded = 1u << RESIDUAL,
    .tracker = TRACKED,
    .before = tracker_first_before,
    .after = first_after,
    .accumulator = -1,
    .undo = tracker_first_undo,
    .combine = tracker_first_combine,
};

const tacit_feedback_t tacit__feedback_econtrol = {
    .name = "econtrol",
    .summary = "tracks every rank's gradient and feeds its error back, held back by eta",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"h", "hbar", "e", NULL},
    .residual = RESIDUAL,
    .rounded = 1u << RESIDUAL,
    .tracker = TRACKED,
    .owed = {TRACKER, -1.0f}, /* h stays what the others have got of it */
    .settle = settle,
    .begins_dense = tracker_begins_dense,
    .first = &begin,
    .before = before,
    .sift = sift,
    .after = after,
    .accumulator = -1,
    .undo = undo,
    .combine = tracker_combine,
    .keep = TACIT_KEEP_ECONTROL,
    .weight = weight_of,
    .owner = &tacit__feedback_ef,
};
