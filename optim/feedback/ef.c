/* SPDX-License-Identifier: Apache-2.0 */
/* Error feedback: what encoding lost joins the next step. Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient
   Compression Schemes" (ICML 2019), algorithm 2, in units of the gradient. */
#include "feedback.h"
#include "sieve.h"

enum { RESIDUAL };

typedef struct config {
    int precision;
} config_t;

static void before_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a)
{
    const float *residual = state->now[RESIDUAL] + first;

    for (size_t i = 0; i < count; i++) {
        a[i] = in[i] + residual[i];
    }
}

static void after_loop(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d)
{
    float *residual = state->next[RESIDUAL] + first;

    (void)in;
    for (size_t i = 0; i < count; i++) {
        residual[i] = a[i] - d[i];
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
    float *residual = state->now[RESIDUAL] + first;

    for (size_t i = 0; i < count; i++) {
        residual[i] = (residual[i] + d[i]) - in[i];
    }
}

static const tacit_param_t params[] = {
    TACIT_PARAM_RESIDUAL,
    {.key = NULL},
};

const tacit_feedback_t tacit__feedback_ef = {
    .name = "ef",
    .summary = "error feedback: what was not sent is added to the next step",
    .config_bytes = sizeof(config_t),
    .params = params,
    .arrays = {"residual", NULL},
    .residual = RESIDUAL,
    .rounded = 1u << RESIDUAL,
    .owed = {RESIDUAL, 1.0f},
    .before = before,
    .sift = sift,
    .after = after,
    .accumulator = RESIDUAL,
    .undo = undo,
    .keep = TACIT_KEEP_EF,
    .owner = &tacit__feedback_ef,
};
