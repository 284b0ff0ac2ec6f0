/* SPDX-License-Identifier: Apache-2.0 */
/* What 1-bit Adam and 1-bit LAMB share: a stage in which gradients travel densely until the second moment is stable, and one in
   which that is frozen and the first moment travels, by way of the caller's slot. Coordinates whose second moment is still zero
   then, where a step would be divided by epsilon alone, are left out of the messages. */
#ifndef TACIT_STAGES_H
#define TACIT_STAGES_H

#include "moments.h"

/* Of the arrays; and of the optimizer's numbers: dense updates in v, 0 in the first stage; the sum of v when the rule of
   stability was last applied; whether the second stage's slots are made, as they are when its first step begins: a file of slots
   that was written before that has none. */
enum { TACIT_STAGES_M, TACIT_STAGES_V };
enum { TACIT_STAGES_FROZEN_AT, TACIT_STAGES_LAST_SUM, TACIT_STAGES_SETTLED };
#define TACIT_STAGES_NUMBERS "frozen at", "sum of v", "settled"
#define TACIT_STAGES_COUNTERS (1u << TACIT_STAGES_FROZEN_AT | 1u << TACIT_STAGES_SETTLED)

/* A configuration begins with it. */
typedef struct tacit_stages {
    tacit_moments_t moments;
    int64_t         freeze; /* 0: by the rule of stability */
    int64_t         freeze_after;
    int             warmup_spec;
    int             moments_travel; /* as they are; else in units of the values */
} tacit_stages_t;

/* Rows of a parameter table for it. */
#define TACIT_PARAMS_STAGES                                                                                                      \
    {.key = "freeze",                                                                                                            \
     .type = TACIT_PARAM_INT,                                                                                                    \
     .offset = offsetof(tacit_stages_t, freeze),                                                                                 \
     .low = 1,                                                                                                                   \
     .high = 1e12,                                                                                                               \
     .words = "auto",                                                                                                            \
     .unit = "steps",                                                                                                            \
     .help = "Dense updates before the second moment is frozen and messages become small; auto: when it is stable."},            \
        {.key = "freeze-after",                                                                                                  \
         .type = TACIT_PARAM_INT,                                                                                                \
         .offset = offsetof(tacit_stages_t, freeze_after),                                                                       \
         .high = 1e12,                                                                                                           \
         .unit = "steps",                                                                                                        \
         .help = "Dense updates that freeze=auto waits for at least, such as the warm-up of the rate."},                         \
        {.key = "unit",                                                                                                          \
         .type = TACIT_PARAM_WORD,                                                                                               \
         .offset = offsetof(tacit_stages_t, moments_travel),                                                                     \
         .words = "update moment",                                                                                               \
         .unit = "",                                                                                                             \
         .help = "Units in which first moments travel: those of the update, or, as in the paper, their own."},                   \
        TACIT_PARAM_WARMUP_SPEC(offsetof(tacit_stages_t, warmup_spec), "How gradients travel until then."), TACIT_PARAMS_MOMENTS

/* The kind's notes on a tensor. */
typedef struct tacit_stages_notes {
    tacit_slot_t *warm;   /* for gradients, in the first stage */
    tacit_slot_t *active; /* for moments, afterwards: the caller's, or one of those elements whose v is not 0; NULL: none are */
    tacit_slot_t *next;   /* what becomes of it when the slots of all tensors are made */
} tacit_stages_notes_t;

bool tacit__stages_frozen(const tacit_optim_t *optim);
/* The factors of a step of the second stage. */
tacit_adam_t tacit__stages_adam(const tacit_optim_t *optim, double rate);
/* Whether only some of a tensor's elements travel, side by side. */
bool tacit__stages_masked(const tacit_optim_t *optim, size_t i);
/* What came out of a masked tensor goes to its places in the work area; elsewhere is 0. */
void tacit__stages_spread(tacit_optim_t *optim, size_t i);
/* Checks the slots and makes room for so many arrays of the state. */
tacit_status_t tacit__stages_init(tacit_optim_t *optim, unsigned arrays);
/* What a kind does in its calls of these names. */
tacit_status_t tacit__stages_make_slots(tacit_optim_t *optim);
tacit_status_t tacit__stages_arrange(tacit_optim_t *optim, const tacit_step_t *step);
tacit_status_t tacit__stages_prepare(tacit_optim_t *optim, const tacit_step_t *step);
/* After a dense update: true if it was the last one, and v is frozen from now on. */
bool tacit__stages_freeze(tacit_optim_t *optim);

/* What an element's first moment is divided by before it travels: the frozen root of v, so that the small number of sizes that a
   compressor can express are sizes of updates. In units of the moment itself they move elements of small v much too far. */
static inline float tacit__stages_unit(const tacit_adam_t *adam, bool moments, float v)
{
    return moments ? 1.0f : sqrtf(v) + adam->epsilon;
}

#endif
