/* SPDX-License-Identifier: Apache-2.0 */
/* One tensor reduced again and again: what tests of collectives run, and what they look at afterwards, memory included. */
#ifndef TACIT_TEST_SESSION_H
#define TACIT_TEST_SESSION_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec_memory.h"
#include "comm.h"
#include "compress.h"
#include "ranks.h"

/* Fills x with what a rank contributes at a step. */
typedef void session_input_t(int rank, int step, size_t count, float *x);

typedef struct session {
    const char      *spec; /* perhaps with a plan before it */
    int              ranks, steps;
    size_t           count;
    tacit_op_t       op;
    bool             in_place;
    bool             lazy; /* messages are read late */
    tacit_config_t   config;
    session_input_t *input;                       /* NULL: session_normal() */
    void (*before)(tacit_slot_t *slot, int step); /* each step; NULL: nothing happens there */

    float   *out;                                            /* rank 0's results, steps times count */
    uint64_t hash[MOST_RANKS];                               /* of each rank's results */
    float   *memory[MOST_RANKS];                             /* each sender's after the last step; zeros where there is none */
    float   *owner;                                          /* of all owners, each part at its place */
    size_t   part_first[MOST_RANKS], part_count[MOST_RANKS]; /* what each owns, where there is feedback */
    float    left[MOST_RANKS];                               /* the largest magnitude in memory at any step */
} session_t;

static inline void session_normal(int rank, int step, size_t count, float *x)
{
    harness_fill(x, count, 1000003u * (uint64_t)step + (uint64_t)rank + 1, 1.0f + (float)rank);
}

static inline float *session_floats(size_t count)
{
    return calloc(count + 1, sizeof(float));
}

static inline float largest_of(const float *values, size_t count)
{
    float largest = 0;

    for (size_t i = 0; i < count; i++) {
        largest = fmaxf(largest, fabsf(values[i]));
    }
    return largest;
}

static inline void session_body(tacit_comm_t *comm, void *arg)
{
    session_t           *session = arg;
    const int            rank = tacit_comm_rank(comm);
    const size_t         count = session->count;
    tacit_slot_t        *slot = slot_of(comm, "gradient", count, TACIT_FLOAT32, session->spec);
    const tacit_codec_t *codec = slot->codec;
    float               *in = session_floats(count), *all = session_floats(count * (size_t)session->steps);

    for (int step = 0; step < session->steps; step++) {
        float *out = all + count * (size_t)step, *x = session->in_place ? out : in;

        if (session->before != NULL) {
            session->before(slot, step);
        }
        (session->input != NULL ? session->input : session_normal)(rank, step, count, x);
        MUST(tacit_allreduce(slot, x, out, session->op));
        if (codec->feedback != NULL) {
            tacit__memory_read(codec, 0, 0, count, session->memory[rank]);
            session->left[rank] = fmaxf(session->left[rank], largest_of(session->memory[rank], count));
        }
    }
    session->hash[rank] = harness_hash(all, count * (size_t)session->steps * sizeof *all);
    if (rank == 0) {
        memcpy(session->out, all, count * (size_t)session->steps * sizeof *all);
    }
    session->part_first[rank] = codec->owner_first;
    session->part_count[rank] = codec->owner.count;
    for (size_t i = 0, element; i < codec->owner.count; i++) {
        (void)tacit__codec_owned(codec, i, &element);
        session->owner[element] = codec->owner.now[0][i]; /* parts are disjoint */
    }
    free(in);
    free(all);
}

/* Runs it, and sees to it that all ranks have the same bits. */
static inline void session_run(session_t *session)
{
    const bool asks = session->spec != NULL && strstr(session->spec, " by ") != NULL;

    if (asks) {
        ask_for(session->spec);
    }
    session->config.struct_bytes = sizeof session->config;
    session->out = session_floats(session->count * (size_t)session->steps);
    session->owner = session_floats(session->count);
    for (int rank = 0; rank < session->ranks; rank++) {
        session->memory[rank] = session_floats(session->count);
    }
    (session->lazy ? run_ranks_lazily : run_ranks)(session->ranks, &session->config, session_body, session);
    if (asks) {
        ask_for(NULL);
    }
    for (int rank = 1; rank < session->ranks; rank++) {
        ck_assert_msg(session->hash[rank] == session->hash[0],
                      "%s, %zu elements, %d ranks: rank %d has another result than rank 0", session->spec, session->count,
                      session->ranks, rank);
    }
}

static inline void session_free(session_t *session)
{
    for (int rank = 0; rank < session->ranks; rank++) {
        free(session->memory[rank]);
    }
    free(session->out);
    free(session->owner);
}

/* Two sessions of the same count, steps and ranks ended alike, bit by bit. */
static inline void sessions_equal(const session_t *a, const session_t *b, const char *what)
{
    char text[160];

    snprintf(text, sizeof text, "%s, %s, %zu elements, %d ranks", what, a->spec, a->count, a->ranks);
    same_floats(a->out, b->out, a->count * (size_t)a->steps, text);
    same_floats(a->owner, b->owner, a->count, text);
    for (int rank = 0; rank < a->ranks; rank++) {
        same_floats(a->memory[rank], b->memory[rank], a->count, text);
    }
}

/* Nothing is lost: what all ranks gave since the memory was zero is what came out and what is remembered. Per step, a sender
   rounds x + memory and what is left of it, the owner every partial sum, and the same again with its own memory: each no more
   than an ulp of the largest magnitude; the bound is twice that. */
static inline void session_conserves(const session_t *session)
{
    const size_t count = session->count;
    const double share = session->op == TACIT_AVERAGE ? 1.0 / session->ranks : 1.0;
    double      *balance = calloc(count + 1, sizeof *balance);
    float       *x = session_floats(count);
    double       magnitude = 0, bound;

    for (int rank = 0; rank < session->ranks; rank++) {
        double largest = 0;

        for (int step = 0; step < session->steps; step++) {
            (session->input != NULL ? session->input : session_normal)(rank, step, count, x);
            largest = fmax(largest, (double)largest_of(x, count));
            for (size_t i = 0; i < count; i++) {
                balance[i] += share * (double)x[i];
            }
        }
        for (size_t i = 0; i < count; i++) {
            balance[i] -= share * (double)session->memory[rank][i];
        }
        magnitude += share * (largest + (double)session->left[rank]);
    }
    magnitude += (double)largest_of(session->owner, count);
    bound = 2.0 * session->steps * (session->ranks + 6) * (double)FLT_EPSILON * magnitude;
    for (size_t i = 0; i < count; i++) {
        balance[i] -= (double)session->owner[i];
        for (int step = 0; step < session->steps; step++) {
            balance[i] -= (double)session->out[count * (size_t)step + i];
        }
        ck_assert_msg(fabs(balance[i]) <= bound, "%s, %s, %zu elements, %d ranks: element %zu has lost %g, more than %g",
                      session->spec, session->op == TACIT_SUM ? "sum" : "average", count, session->ranks, i, balance[i], bound);
    }
    free(balance);
    free(x);
}

/* ---- Numbers whose sum leaves the range ---- */

typedef struct overflow {
    const char    *spec;
    tacit_status_t status[MOST_RANKS];
    char           text[MOST_RANKS][TACIT_TEXT_BYTES];
    bool           kept[MOST_RANKS];
} overflow_t;

static inline void overflow_body(tacit_comm_t *comm, void *arg)
{
    overflow_t   *overflow = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", 64, TACIT_FLOAT32, overflow->spec);
    float         x[64];

    for (size_t i = 0; i < 64; i++) {
        x[i] = 3e38f;
    }
    overflow->status[rank] = tacit_allreduce(slot, x, x, TACIT_SUM);
    snprintf(overflow->text[rank], sizeof overflow->text[rank], "%s", tacit_last_error());
    overflow->kept[rank] = x[5] == 3e38f;
}

/* It is an error of all ranks, whose text has these words, and leaves the tensor as it is. */
static inline void session_overflow(int ranks, const char *spec, tacit_nonfinite_t policy, const char *words)
{
    overflow_t     overflow = {.spec = spec};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.nonfinite = (int)policy;
    ask_for(spec);
    run_ranks(ranks, &config, overflow_body, &overflow);
    for (int rank = 0; rank < ranks; rank++) {
        ck_assert_msg(overflow.status[rank] == TACIT_ERR_VALUE, "%s: %s", spec, tacit_strerror(overflow.status[rank]));
        ck_assert_msg(strstr(overflow.text[rank], words) != NULL, "%s: %s", spec, overflow.text[rank]);
        ck_assert_msg(overflow.kept[rank], "%s: the input has changed", spec);
    }
}

#endif
