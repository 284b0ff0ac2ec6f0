/* SPDX-License-Identifier: Apache-2.0 */
/* What feedbacks with trackers share: h, what this rank has told of its gradient so far, and hbar, the sum or mean of all ranks'
   h, which every rank holds alike. Only what all have decoded may change them. */
#ifndef TACIT_TRACKER_H
#define TACIT_TRACKER_H

#include "feedback.h"

#include <string.h>

enum { TRACKER, TRACKED }; /* h, hbar: the first two arrays */

/* Configurations begin with this. */
typedef struct tracker_config {
    int precision, init;
} tracker_config_t;

#define TACIT_PARAM_INIT                                                                                                         \
    {                                                                                                                            \
        .key = "init", .type = TACIT_PARAM_WORD, .offset = offsetof(tracker_config_t, init), .initial = TACIT_INIT_ZERO,         \
        .words = "zero gradient", .unit = "",                                                                                    \
        .help = "Trackers begin with zeros, or with the gradients of a first operation that is dense."                           \
    }

static inline bool tracker_begins_dense(const void *config)
{
    return ((const tracker_config_t *)config)->init == TACIT_INIT_GRADIENT;
}

/* hbar += mean; the direction is the new hbar. */
static inline void tracker_combine(const tacit_state_t *state, size_t first, size_t count, const float *mean, float *out)
{
    const float *now = state->now[TRACKED] + first;
    float       *next = state->next[TRACKED] + first;

    for (size_t i = 0; i < count; i++) {
        const float tracked = now[i] + mean[i];
        next[i] = tracked;
        out[i] = tracked;
    }
}

/* ---- A dense first operation ---- */

static inline void tracker_first_before(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a)
{
    (void)state;
    (void)first;
    if (a != in) {
        memcpy(a, in, count * sizeof *a);
    }
}

static inline void tracker_first_undo(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d)
{
    (void)in;
    (void)d;
    for (size_t array = 0; array < TACIT_STATE_ARRAYS; array++) {
        if (state->now[array] != NULL) {
            memset(state->now[array] + first, 0, count * sizeof(float));
        }
    }
}

static inline void tracker_first_combine(const tacit_state_t *state, size_t first, size_t count, const float *mean, float *out)
{
    memcpy(state->next[TRACKED] + first, mean, count * sizeof *mean);
    memmove(out, mean, count * sizeof *mean);
}

#endif
