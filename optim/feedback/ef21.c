/* SPDX-License-Identifier: Apache-2.0 */
/* EF21: what travels is the difference between a gradient and what the others believe it to be. Richtarik, Sokolov and
   Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error Feedback" (NeurIPS 2021), algorithm 2;
   with average below 1, EF21-SGDM of Fatkhullin, Tyurin and Richtarik, "Momentum Provably Improves Error Feedback!" (NeurIPS
   2023), algorithm 1:

       v = (1 - average) v + average in,   d = C(v - h),   h = h + d,   out = hbar = hbar + mean d */
#include "sieve.h"
#include "tracker.h"

enum { AVERAGED = TRACKED + 1 };

typedef struct config {
    tracker_config_t tracker;
    double           average;
} config_t;

/* As it is used: just below 1 it is 1, which undo() could not divide by what is left of. */
static float weight_of(const void *config)
{
    return (float)((const config_t *)config)->average;
}

static bool is_averaged(const void *config)
{
    return weight_of(config) < 1;
}

static bool has(const void *config, int array)
{
    return array != AVERAGED || is_averaged(config);
}

/* v := the new average. */
static inline void average(const tacit_state_t *state, size_t first, size_t count, const float *in, float *v)
{
    const float  weight = weight_of(state->config);
    const float *now = state->now[AVERAGED] + first;

    for (size_t i = 0; i < count; i++) {
        const float kept = (1 - weight) * now[i], added = weight * in[i];
        v[i] = kept + added;
    }
}

static inline void before_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a)
{
    const float *h = state->now[TRACKER] + first;

    if (is_averaged(state->config)) {
        average(state, first, count, in, a);
        in = a;
    }
    for (size_t i = 0; i < count; i++) {
        a[i] = in[i] - h[i];
    }
}

static void after_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d)
{
    const float *h = state->now[TRACKER] + first;
    float       *next = state->next[TRACKER] + first;

    (void)a;
    if (is_averaged(state->config)) {
        average(state, first, count, in, state->next[AVERAGED] + first);
    }
    for (size_t i = 0; i < count; i++) {
        next[i] = h[i] + d[i];
    }
}

TACIT_EACH_ISA(void, before, (const tacit_state_t *state, size_t first, size_t count, const float *in, float *a),
               (state, first, count, in, a))
TACIT_EACH_ISA(void, after,
               (const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d),
               (state, first, count, in, a, d))
TACIT_SIFT(tacit_state_t, before_loop)

/* Without an average, h alone changes. */
static bool sent(const tacit_state_t *state, const uint32_t *indices, const float *values, float *kept, size_t entries)
{
    float *next = state->next[TRACKER];

    (void)kept;
    for (size_t i = 0; !is_averaged(state->config) && i < entries; i++) {
        next[indices[i]] += values[i];
    }
    return !is_averaged(state->config);
}

static void undo(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d)
{
    const float weight = weight_of(state->config);
    float      *h = state->now[TRACKER] + first;

    for (size_t i = 0; i < count; i++) {
        h[i] -= d[i];
    }
    for (size_t i = 0; is_averaged(state->config) && i < count; i++) {
        float *v = state->now[AVERAGED] + first + i;

        *v = (*v - weight * in[i]) / (1 - weight);
    }
}

static void first_after(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d)
{
    (void)a;
    (void)d;
    memcpy(state->next[TRACKER] + first, in, count * sizeof *in);
    if (is_averaged(state->config)) {
        memcpy(state->next[AVERAGED] + first, in, count * sizeof *in);
    }
}

static const tacit_param_t params[] = {
    {.key = "average",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, average),
     .low = 1e-6,
     .high = 1,
     .initial = 1,
     .unit = "",
     .help = "Weight of the new gradient in the running average that is tracked (EF21-SGDM); 1: the gradient itself."},
    TACIT_PARAM_INIT,
    TACIT_PARAM_RESIDUAL,
    {.key = NULL},
};

static const tacit_feedback_t begin = {
    .name = "ef21",
    .summary = "the dense first operation of ef21",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"h", "hbar", "v", NULL},
    .residual = -1,
    .has = has,
    .rounded = 1u << AVERAGED,
    .tracker = TRACKED,
    .before = tracker_first_before,
    .after = first_after,
    .accumulator = -1,
    .undo = tracker_first_undo,
    .combine = tracker_first_combine,
};

const tacit_feedback_t tacit__feedback_ef21 = {
    .name = "ef21",
    .summary = "tracks every rank's gradient and sends what has changed; average below 1: with momentum (EF21-SGDM)",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"h", "hbar", "v", NULL},
    .residual = -1,
    .has = has,
    .rounded = 1u << AVERAGED,
    .tracker = TRACKED,
    .owed = {TRACKER, -1.0f}, /* h stays what the others have got of it */
    .begins_dense = tracker_begins_dense,
    .first = &begin,
    .before = before,
    .sift = sift,
    .after = after,
    .accumulator = -1,
    .sent = sent,
    .undo = undo,
    .combine = tracker_combine,
    .keep = TACIT_KEEP_EF21,
    .weight = weight_of,
    .owner = &tacit__feedback_ef,
};
