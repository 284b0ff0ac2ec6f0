/* SPDX-License-Identifier: Apache-2.0 */
/* What trainers of transformers share: a text cut into windows, and losses on them. */
#ifndef TEXT_TASK_H
#define TEXT_TASK_H

#include "text.h"
#include "trainer.h"
#include "transformer.h"

typedef struct text_task text_task_t;

/* A program's own struct begins with it. */
struct text_task {
    uint64_t      width, layers, heads, context;
    uint64_t      experts; /* of each mixture; 0: there is none */
    uint64_t      seed, batch;
    text_t        text;
    transformer_t model;
    uint8_t      *windows; /* a batch of them */
    /* Of the first `count` windows: the mean loss, and its gradient; or the sum. Evaluating is called equally often on all ranks,
       with no window too. */
    double (*loss)(text_task_t *task, size_t count, bool gradient);
};

/* These are a trainer_task_t's. Without options, width, layers, heads and context are the program's to set: 64, 2, 4, 64. */
extern const program_option_t text_task_options[];
const char                   *text_task_load(void *own, const trainer_options_t *options, char *text);
void                          text_task_randomize(void *own, uint64_t seed);
tensors_t                    *text_task_tensors(void *own);
size_t                        text_task_sample_count(void *own);
double                        text_task_gradient(void *own, const uint32_t *samples, size_t count, uint64_t epoch);
void                          text_task_evaluate(void *own, size_t rank, size_t ranks, trainer_sums_t *sums);
void                          text_task_describe(void *own, char *text, size_t capacity);
void                          text_task_release(void *own);

#endif
