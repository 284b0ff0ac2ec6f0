/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of feedbacks with trackers share: a small optimization that runs through the library and keeps what every rank
   remembers after every step, the same in float64 without it, and two problems with known answers. */
#ifndef TACIT_TEST_TRACKER_H
#define TACIT_TEST_TRACKER_H

#include "codec_memory.h"
#include "param.h"
#include "session.h"

enum { ARRAYS = 3, H = 0, HBAR = 1, THIRD = 2, MOST_DIMENSIONS = 8 };

/* The gradient of a rank's function at x. */
typedef void gradient_t(int rank, int step, size_t count, const float *x, float *g);

typedef struct track {
    const char    *spec;
    int            ranks, steps;
    size_t         count;
    tacit_op_t     op;
    tacit_config_t config;
    float          gamma; /* x -= gamma out, from x = start */
    float          start;
    gradient_t    *gradient; /* NULL: session_normal() */
    int            resume;   /* not 0: after so many steps, save, and go on in a new communicator */
    int            fails;    /* not 0: before the fails-th step, from 1, one that fails, because a rank has a NaN */
    int            foul;     /* which */
    bool           switches; /* the operator, at every other step */
    float         *x, *out;  /* of rank 0 after each step: steps times count */
    float         *memory[ARRAYS][MOST_RANKS]; /* the same of every rank's arrays */
    float         *owner;                      /* all owners' */
    uint64_t       hash[MOST_RANKS];           /* of all results */
    float          off[MOST_RANKS];            /* the most that the failed step has changed, anywhere in memory */
    uint64_t       wire[MOST_RANKS];           /* bytes that left in the last step */
} track_t;

static inline void read_memory(const tacit_codec_t *codec, int array, float *values)
{
    if (codec->packed[array] != NULL || codec->memory.now[array] != NULL) {
        tacit__memory_read(codec, array, 0, codec->tensor.count, values);
    } else {
        memset(values, 0, codec->tensor.count * sizeof *values);
    }
}

static inline void track_record(track_t *track, const tacit_slot_t *slot, int rank, int step)
{
    const size_t at = (size_t)step * track->count;

    for (int array = 0; array < ARRAYS; array++) {
        read_memory(slot->codec, array, track->memory[array][rank] + at);
    }
    for (size_t i = 0, element; i < slot->codec->owner.count; i++) {
        (void)tacit__codec_owned(slot->codec, i, &element);
        track->owner[at + element] = slot->codec->owner.now[0][i];
    }
}

/* A step in which one rank has a NaN: all ranks fail, and memory is as it was. */
static inline void track_fail(track_t *track, tacit_slot_t *slot, int rank, const float *g)
{
    const size_t count = track->count;
    float       *in = session_floats(count), *out = session_floats(count), *was = session_floats(ARRAYS * count),
          *is = session_floats(count);

    memcpy(in, g, count * sizeof *in);
    if (rank == track->foul) {
        in[count - 1] = NAN;
    }
    for (int array = 0; array < ARRAYS; array++) {
        read_memory(slot->codec, array, was + (size_t)array * count);
    }
    if (tacit_allreduce(slot, in, out, track->op) != TACIT_ERR_VALUE) {
        track->off[rank] = INFINITY;
    }
    for (int array = 0; array < ARRAYS; array++) {
        read_memory(slot->codec, array, is);
        for (size_t i = 0; i < count; i++) {
            track->off[rank] = fmaxf(track->off[rank], fabsf(is[i] - was[(size_t)array * count + i]));
        }
    }
    free(in);
    free(out);
    free(was);
    free(is);
}

typedef struct track_part {
    track_t *track;
    int      first, last; /* steps [first, last) */
} track_part_t;

/* A matrix of ten columns where that is possible, for powersgd. */
static inline tacit_slot_t *track_slot(const track_t *track, tacit_comm_t *comm)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    char                spec[SPEC_BYTES];
    tacit_slot_t       *slot;

    config.count = track->count;
    config.spec = spec_in(track->spec, spec);
    config.ndim = track->count % 10 == 0 ? 2 : 0;
    config.shape[0] = track->count / 10;
    config.shape[1] = 10;
    MUST(tacit_slot_create(comm, "gradient", &config, &slot));
    return slot;
}

static inline void track_body(tacit_comm_t *comm, void *arg)
{
    track_part_t *part = arg;
    track_t      *track = part->track;
    const size_t  count = track->count;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = track_slot(track, comm);
    float        *x = session_floats(count), *g = session_floats(count), *out = session_floats(count);
    char          path[HARNESS_PATH_BYTES];

    harness_path(path, "state.%d", rank);
    for (size_t i = 0; i < count; i++) {
        x[i] = part->first == 0 ? track->start : track->x[(size_t)(part->first - 1) * count + i];
    }
    if (part->first != 0) {
        MUST(tacit_load(comm, path));
    }
    for (int step = part->first; step < part->last; step++) {
        tacit_counters_t before, after;
        tacit_op_t       op = track->switches && step % 2 != 0 ? TACIT_SUM : track->op;

        if (track->gradient != NULL) {
            track->gradient(rank, step, count, x, g);
        } else {
            session_normal(rank, step, count, g);
        }
        if (step + 1 == track->fails) {
            track_fail(track, slot, rank, g);
        }
        MUST(tacit_slot_counters(slot, &before));
        MUST(tacit_allreduce(slot, g, out, op));
        MUST(tacit_slot_counters(slot, &after));
        track->wire[rank] = after.wire_bytes - before.wire_bytes;
        for (size_t i = 0; i < count; i++) {
            x[i] -= track->gamma * out[i];
        }
        track->hash[rank] = 31 * track->hash[rank] + harness_hash(out, count * sizeof *out);
        track_record(track, slot, rank, step);
        if (rank == 0) {
            memcpy(track->x + (size_t)step * count, x, count * sizeof *x);
            memcpy(track->out + (size_t)step * count, out, count * sizeof *out);
        }
    }
    if (part->last != track->steps) {
        MUST(tacit_save(comm, path));
    }
    free(x);
    free(g);
    free(out);
}

/* Runs it, and sees to it that all ranks have had the same bits in every step. */
static inline void track_run(track_t *track)
{
    const size_t total = (size_t)track->steps * track->count;
    track_part_t part = {track, 0, track->resume != 0 ? track->resume : track->steps};
    char         path[HARNESS_PATH_BYTES];

    ask_for(track->spec);
    track->config.struct_bytes = sizeof track->config;
    track->x = session_floats(total);
    track->out = session_floats(total);
    track->owner = session_floats(total);
    for (int rank = 0; rank < track->ranks; rank++) {
        for (int array = 0; array < ARRAYS; array++) {
            track->memory[array][rank] = session_floats(total);
        }
    }
    run_ranks(track->ranks, &track->config, track_body, &part);
    if (track->resume != 0) {
        part = (track_part_t){track, track->resume, track->steps};
        run_ranks(track->ranks, &track->config, track_body, &part);
        for (int rank = 0; rank < track->ranks; rank++) {
            ck_assert_int_eq(remove(harness_path(path, "state.%d", rank)), 0);
        }
    }
    for (int rank = 1; rank < track->ranks; rank++) {
        ck_assert_msg(track->hash[rank] == track->hash[0], "%s, %d ranks: rank %d has other results than rank 0", track->spec,
                      track->ranks, rank);
        for (size_t i = 0; i < total; i++) {
            ck_assert_msg(track->memory[HBAR][rank][i] == track->memory[HBAR][0][i], "%s: rank %d has another hbar", track->spec,
                          rank);
        }
    }
}

static inline void track_free(track_t *track)
{
    for (int rank = 0; rank < track->ranks; rank++) {
        for (int array = 0; array < ARRAYS; array++) {
            free(track->memory[array][rank]);
        }
    }
    free(track->x);
    free(track->out);
    free(track->owner);
}

static inline double track_distance(const track_t *track, int step, const double *goal)
{
    double sum = 0;

    for (size_t i = 0; i < track->count; i++) {
        const double x = (double)track->x[(size_t)step * track->count + i] - (goal != NULL ? goal[i] : 0);
        sum += x * x;
    }
    return sum;
}

/* ---- Problems ---- */

/* P0 (Beznosikov et al., "On Biased Compression for Distributed Learning"): three ranks, f = <a, x>^2 + |x|^2 / 4. */
static inline void gradient_p0(int rank, size_t count, const double *x, double *g)
{
    static const double a[3][3] = {{-3, 2, 2}, {2, -3, 2}, {2, 2, -3}};
    double              product = 0;

    for (size_t i = 0; i < count; i++) {
        product += a[rank][i] * x[i];
    }
    for (size_t i = 0; i < count; i++) {
        g[i] = 2 * product * a[rank][i] + x[i] / 2;
    }
}

/* P1: four ranks whose functions |x - c|^2 / 2 disagree. */
static inline double center_p1(int i, int j)
{
    return (3 * i + 5 * j + i * j) % 7 - 3 + (i % 2 == 0 ? 10 : -10);
}

static inline void gradient_p1(int rank, size_t count, const double *x, double *g)
{
    for (size_t j = 0; j < count; j++) {
        g[j] = x[j] - center_p1(rank, (int)j);
    }
}

static const double optimum_p1[8] = {-0.25, 1, 0.5, 0, 3, 0.75, 0.25, -0.25};

static inline void float_p0(int rank, int step, size_t count, const float *x, float *g)
{
    double wide[MOST_DIMENSIONS], result[MOST_DIMENSIONS];

    (void)step;
    for (size_t i = 0; i < count; i++) {
        wide[i] = (double)x[i];
    }
    gradient_p0(rank, count, wide, result);
    for (size_t i = 0; i < count; i++) {
        g[i] = (float)result[i];
    }
}

static inline void float_p1(int rank, int step, size_t count, const float *x, float *g)
{
    (void)step;
    for (size_t j = 0; j < count; j++) {
        g[j] = x[j] - (float)center_p1(rank, (int)j);
    }
}

/* ---- The same in float64, without the library ---- */

typedef enum { PLAIN, EC, EF21, ECONTROL } method_t;

typedef struct reference {
    method_t method;
    int      ranks;
    size_t   count;
    double   gamma, eta, average, start;
    bool     from_gradient; /* h = g at first */
    void (*gradient)(int rank, size_t count, const double *x, double *g);
    double x[MOST_DIMENSIONS];
    double h[4][MOST_DIMENSIONS], e[4][MOST_DIMENSIONS], v[4][MOST_DIMENSIONS];
} reference_t;

/* The largest magnitude, of equal ones the first, stays. */
static inline void keep_largest(size_t count, const double *m, double *d)
{
    size_t best = 0;

    for (size_t i = 1; i < count; i++) {
        best = fabs(m[i]) > fabs(m[best]) ? i : best;
    }
    for (size_t i = 0; i < count; i++) {
        d[i] = i == best ? m[i] : 0;
    }
}

static inline void reference_rank(reference_t *r, int rank, double *d)
{
    double  g[MOST_DIMENSIONS], m[MOST_DIMENSIONS];
    double *h = r->h[rank], *e = r->e[rank], *v = r->v[rank];

    r->gradient(rank, r->count, r->x, g);
    for (size_t i = 0; i < r->count; i++) {
        v[i] = (1 - r->average) * v[i] + r->average * g[i];
        m[i] = r->method == PLAIN  ? g[i]
               : r->method == EC   ? e[i] + g[i]
               : r->method == EF21 ? v[i] - h[i]
                                   : r->eta * e[i] + g[i] - h[i];
    }
    keep_largest(r->count, m, d);
    for (size_t i = 0; i < r->count; i++) {
        e[i] += r->method == ECONTROL ? g[i] - h[i] - d[i] : g[i] - d[i];
        h[i] += d[i];
    }
}

static inline void reference_init(reference_t *r)
{
    for (size_t i = 0; i < r->count; i++) {
        r->x[i] = r->start;
    }
    for (int rank = 0; rank < r->ranks && r->from_gradient; rank++) {
        r->gradient(rank, r->count, r->x, r->h[rank]);
        memcpy(r->v[rank], r->h[rank], sizeof r->v[rank]);
    }
}

/* The mean of the trackers is taken anew in every step, so that it does not drift. */
static inline void reference_step(reference_t *r)
{
    const bool tracks = r->method == EF21 || r->method == ECONTROL;
    double     direction[MOST_DIMENSIONS] = {0}, d[MOST_DIMENSIONS];

    for (int rank = 0; rank < r->ranks; rank++) {
        reference_rank(r, rank, d);
        for (size_t i = 0; i < r->count; i++) {
            direction[i] += (tracks ? r->h[rank][i] : d[i]) / r->ranks;
        }
    }
    for (size_t i = 0; i < r->count; i++) {
        r->x[i] -= r->gamma * direction[i];
    }
}

/* |x - goal|^2 after so many steps. */
static inline double reference_run(reference_t *r, int steps, const double *goal)
{
    double sum = 0;

    for (int step = 0; step < steps; step++) {
        reference_step(r);
    }
    for (size_t i = 0; i < r->count; i++) {
        const double x = r->x[i] - (goal != NULL ? goal[i] : 0);
        sum += x * x;
    }
    return sum;
}

static inline reference_t problem_0(method_t method)
{
    reference_t r = {.method = method,
                     .ranks = 3,
                     .count = 3,
                     .gamma = 0.01,
                     .eta = 0.08,
                     .average = 1,
                     .start = 1,
                     .from_gradient = true,
                     .gradient = gradient_p0};

    reference_init(&r);
    return r;
}

static inline reference_t problem_1(method_t method, double gamma, double eta)
{
    reference_t r = {.method = method,
                     .ranks = 4,
                     .count = 8,
                     .gamma = gamma,
                     .eta = eta,
                     .average = 1,
                     .from_gradient = true,
                     .gradient = gradient_p1};

    reference_init(&r);
    return r;
}

#endif
