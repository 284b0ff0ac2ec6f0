/* SPDX-License-Identifier: Apache-2.0 */
/* An optimizer at work on two tensors over several ranks: what its tests run, and look at afterwards. */
#ifndef TACIT_TEST_DESCENT_H
#define TACIT_TEST_DESCENT_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress.h"
#include "optimizer.h"
#include "ranks.h"

enum { DESCENT_TENSORS = 2, DESCENT_MOST_STEPS = 64, DESCENT_MOST = 400 };

/* Fills g with a rank's gradient of a tensor at a step. */
typedef void descent_input_t(int rank, int step, int tensor, size_t count, float *g);

typedef struct descent {
    const char      *optimizer;
    const char      *specs[DESCENT_TENSORS];
    size_t           counts[DESCENT_TENSORS];
    int              ranks, steps;
    double           rate;                      /* 0: 0.1 */
    double           rates[DESCENT_MOST_STEPS]; /* instead, where they are not 0; below 0: a rate of 0 */
    descent_input_t *input;                     /* NULL: descent_normal() */
    int              save_at;                   /* after so many steps, state goes to files; 0: never */
    int              resume_at;                 /* begins with the state that was saved there; 0: at the beginning */
    tacit_config_t   config;                    /* of the communicator */
    float            start;                     /* every value at first */
    bool             apart[DESCENT_MOST_STEPS]; /* after these steps, ranks' values may differ */
    void (*watch)(tacit_optim_t *optim, int rank, int step, void *arg); /* after each step; may be NULL */
    void *arg;

    float            values[DESCENT_MOST_STEPS][DESCENT_TENSORS][DESCENT_MOST]; /* rank 0's, after each step */
    uint64_t         hashes[MOST_RANKS][DESCENT_MOST_STEPS];                    /* of all values */
    tacit_counters_t counters;                                                  /* of rank 0's own slots */
} descent_t;

static inline void descent_normal(int rank, int step, int tensor, size_t count, float *g)
{
    harness_fill(g, count, 7919u * (uint64_t)step + 31u * (uint64_t)tensor + (uint64_t)rank + 1, 1.0f);
}

/* The mean of all ranks' gradients of descent_normal(), added up in rank order. */
static inline void descent_mean(int ranks, int step, int tensor, size_t count, float *mean)
{
    float g[DESCENT_MOST];

    for (int rank = 0; rank < ranks; rank++) {
        descent_normal(rank, step, tensor, count, g);
        for (size_t i = 0; i < count; i++) {
            mean[i] = rank == 0 ? g[i] : mean[i] + g[i];
        }
    }
    for (size_t i = 0; i < count; i++) {
        mean[i] *= 1.0f / (float)ranks;
    }
}

/* The same gradient on every rank, of few bits, so that the sum over a power of two ranks and their mean are exact. */
static inline void descent_equal(int rank, int step, int tensor, size_t count, float *g)
{
    (void)rank;
    descent_normal(0, step, tensor, count, g);
    for (size_t i = 0; i < count; i++) {
        g[i] = rintf(g[i] * 1024.0f) / 1024.0f;
    }
}

static inline void descent_files(tacit_comm_t *comm, tacit_optim_t *optim, int step, bool load)
{
    char moments[HARNESS_PATH_BYTES], memory[HARNESS_PATH_BYTES];

    harness_path(moments, "optim-%d.%d", step, tacit_comm_rank(comm));
    harness_path(memory, "slots-%d.%d", step, tacit_comm_rank(comm));
    if (load) {
        MUST(tacit_optim_load(optim, moments));
        MUST(tacit_load(comm, memory));
        (void)remove(moments);
        (void)remove(memory);
    } else {
        MUST(tacit_optim_save(optim, moments));
        MUST(tacit_save(comm, memory));
    }
}

/* Goes on from `before`'s values where it resumes. */
static inline void descent_body(tacit_comm_t *comm, void *arg)
{
    descent_t     *descent = arg;
    const int      rank = tacit_comm_rank(comm);
    float         *values[DESCENT_TENSORS], *gradients[DESCENT_TENSORS];
    tacit_slot_t  *slots[DESCENT_TENSORS];
    tacit_optim_t *optim;

    for (int t = 0; t < DESCENT_TENSORS; t++) {
        char name[16];

        snprintf(name, sizeof name, "tensor%d", t);
        slots[t] = slot_of(comm, name, descent->counts[t], TACIT_FLOAT32, descent->specs[t]);
        values[t] = calloc(descent->counts[t] + 1, sizeof(float));
        gradients[t] = calloc(descent->counts[t] + 1, sizeof(float));
        for (size_t i = 0; i < descent->counts[t]; i++) {
            values[t][i] = descent->resume_at > 0 ? descent->values[descent->resume_at - 1][t][i] : descent->start;
        }
    }
    MUST(tacit_optim_create(descent->optimizer, slots, DESCENT_TENSORS, &optim));
    if (descent->resume_at > 0) {
        descent_files(comm, optim, descent->resume_at, true);
    }
    for (int step = descent->resume_at; step < descent->steps; step++) {
        uint64_t hash = 0;
        double   rate = descent->rates[step] != 0 ? fmax(descent->rates[step], 0) : descent->rate > 0 ? descent->rate : 0.1;

        for (int t = 0; t < DESCENT_TENSORS; t++) {
            (descent->input != NULL ? descent->input : descent_normal)(rank, step, t, descent->counts[t], gradients[t]);
        }
        MUST(tacit_optim_step(optim, values, (const float *const *)gradients, rate));
        for (int t = 0; t < DESCENT_TENSORS; t++) {
            hash = 31 * hash + harness_hash(values[t], descent->counts[t] * sizeof(float));
            if (rank == 0) {
                memcpy(descent->values[step][t], values[t], descent->counts[t] * sizeof(float));
            }
        }
        descent->hashes[rank][step] = hash;
        if (descent->watch != NULL) {
            descent->watch(optim, rank, step, descent->arg);
        }
        if (step + 1 == descent->save_at) {
            descent_files(comm, optim, descent->save_at, false);
        }
    }
    if (rank == 0) {
        MUST(tacit_optim_counters(optim, &descent->counters));
    }
    tacit_optim_destroy(optim);
    for (int t = 0; t < DESCENT_TENSORS; t++) {
        free(values[t]);
        free(gradients[t]);
    }
}

/* Runs it, and sees to it that after every step all ranks have the same values. */
static inline void descent_run(descent_t *descent)
{
    descent->config.struct_bytes = sizeof descent->config;
    run_ranks(descent->ranks, &descent->config, descent_body, descent);
    for (int rank = 1; rank < descent->ranks; rank++) {
        for (int step = descent->resume_at; step < descent->steps; step++) {
            ck_assert_msg(descent->apart[step] || descent->hashes[rank][step] == descent->hashes[0][step],
                          "%s, %d ranks: after step %d rank %d has other values than rank 0", descent->optimizer, descent->ranks,
                          step, rank);
        }
    }
}

/* Two runs had the same values after each of `steps` steps. */
static inline void descents_equal(const descent_t *a, const descent_t *b, int steps)
{
    for (int step = 0; step < steps; step++) {
        for (int t = 0; t < DESCENT_TENSORS; t++) {
            char text[256];

            snprintf(text, sizeof text, "%.60s against %.60s, tensor %d after step %d", a->optimizer, b->optimizer, t, step);
            same_floats(a->values[step][t], b->values[step][t], a->counts[t], text);
        }
    }
}

/* Saved after `at` steps and resumed in a new communicator: the same bits as without a stop. */
static inline void descent_resumes(descent_t *whole, int at)
{
    static descent_t rest;

    whole->save_at = at;
    descent_run(whole);
    rest = *whole;
    rest.save_at = 0;
    rest.resume_at = at;
    for (int step = at; step < rest.steps; step++) {
        memset(rest.values[step], 0, sizeof rest.values[step]);
    }
    descent_run(&rest);
    descents_equal(whole, &rest, rest.steps);
}

#endif
