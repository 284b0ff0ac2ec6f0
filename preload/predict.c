/* SPDX-License-Identifier: Apache-2.0 */
/* Measures with libtacit_mpi. What a rank alone may find, such as a library that is not there, all
   ranks agree upon before they go on. */
#include "predict.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gaps.h"
#include "library.h"

/* TRIALS: the first one only warms up, if there are others. */
enum { TRIALS = 10 };
/* What ranks tell each other at first, of which each gets the largest: the counts of rank 0's sites, and how many gaps it has
   between sums. */
enum { GAPS = PRELOAD_SITES, NUMBERS };
/* Of these, so many at once. */
enum { GAPS_AT_ONCE = 512 };
static const double seconds_each = 0.4;
/* What is tried remembers together about as much as five of the site's tensors: no more than a GiB or so. */
enum { MOST_TOGETHER = 1 << 26 };

const char *const preload_tried[PRELOAD_TRIED] = {"MPI_Allreduce", "onebit+ef", "qsgd:bits=8+ef", "rotq:bits=4+ef",
                                                  "topk:ratio=0.01+ef"};

typedef struct laboratory {
    const preload_mpi_t     *mpi;
    const preload_library_t *tacit;
    tacit_comm_t            *comm;
    size_t                   count;
    float                   *in, *out;
    char                    *why; /* of 256 bytes */
} laboratory_t;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void say(char why[256], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(why, 256, format, arguments);
    va_end(arguments);
}

/* ---- Agreement ---- */

/* As long as the library waits for a peer. */
static double patience(void)
{
    const char  *text = getenv("TACIT_TIMEOUT_MS");
    const double limit = text != NULL ? strtod(text, NULL) : 0.0;

    return limit != 0.0 ? limit / 1000.0 : 60.0;
}

static bool waits(const preload_mpi_t *mpi, uintptr_t *request, double limit)
{
    const double          start = now();
    const struct timespec moment = {.tv_nsec = 100000};
    bool                  done = false;

    while (mpi->test(request, &done) && !done) {
        if (limit >= 0.0 && now() - start > limit) {
            return false;
        }
        nanosleep(&moment, NULL);
    }
    return done;
}

/* A rank without the interposer never comes, nor does one that has given up. So there are three rounds: a rank begins the next
   one when it has seen that all have begun this one, and the second ends only if nobody has given up in the first. With the
   third, one to which MPI reports an error in the second keeps nobody waiting for ever. All get the first rank's numbers. */
static bool all_are_here(const preload_mpi_t *mpi, const double *numbers, double *numbers_out)
{
    const double limit = patience();
    uintptr_t    request;

    for (int round = 0; round < 3; round++) {
        if (!mpi->begin_reduce(PRELOAD_MAX_DOUBLE, numbers, numbers_out, NUMBERS, mpi->world(), &request) ||
            !waits(mpi, &request, limit)) {
            return false;
        }
    }
    return true;
}

static bool all_can(const preload_mpi_t *mpi, bool can)
{
    int mine = !can, most = 1;

    return mpi->reduce(PRELOAD_MAX_INT, &mine, &most, 1, mpi->world()) && most == 0;
}

/* What this rank waited for others in sums: each has begun when the last rank came there. Less than 0: MPI reports an error. */
static double seconds_waited(const preload_mpi_t *mpi, size_t gaps)
{
    static double mine[GAPS_AT_ONCE], most[GAPS_AT_ONCE];
    double        waited = 0.0;

    for (size_t first = 0; first < gaps; first += GAPS_AT_ONCE) {
        for (size_t i = 0; i < GAPS_AT_ONCE; i++) {
            mine[i] = (double)preload_gap(first + i);
        }
        if (!mpi->reduce(PRELOAD_MAX_DOUBLE, mine, most, GAPS_AT_ONCE, mpi->world())) {
            return -1.0;
        }
        for (size_t i = 0; i < GAPS_AT_ONCE; i++) {
            waited += most[i] - mine[i];
        }
    }
    return 1e-9 * waited;
}

/* ---- Trials ---- */

/* Sums of four uniform numbers: as gradients, most of them small. */
static void fill(float *values, size_t count, unsigned seed)
{
    uint32_t state = 2463534242u + 747796405u * seed;

    for (size_t i = 0; i < count; i++) {
        float sum = 0.0f;

        for (int draw = 0; draw < 4; draw++) {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            sum += (float)(state >> 8) * 0x1p-24f - 0.5f;
        }
        values[i] = sum;
    }
}

/* Seconds of one call, begun together; 0: it failed. A NULL slot: MPI's own. */
static double attempt(const laboratory_t *lab, tacit_slot_t *slot)
{
    const preload_mpi_t *mpi = lab->mpi;
    double               start;
    bool                 good;

    mpi->barrier(mpi->world());
    start = now();
    if (slot == NULL) {
        good = mpi->reduce(PRELOAD_SUM_FLOAT, lab->in, lab->out, (int)lab->count, mpi->world());
    } else { /* with what ranks ask each other first: whether it is the same tensor */
        good = all_can(mpi, true) && lab->tacit->allreduce(slot, lab->in, lab->out, TACIT_SUM) == TACIT_OK;
    }
    return good ? now() - start : 0.0;
}

static int ascending(const void *one, const void *other)
{
    const double a = *(const double *)one, b = *(const double *)other;

    return (a > b) - (a < b);
}

static double median(double *seconds, int trials)
{
    qsort(seconds, (size_t)trials, sizeof *seconds, ascending);
    return seconds[trials / 2];
}

/* From `first` on, `count` of what is tried, in turn. A NULL slot: MPI's own, or one that could not be had. */
static void measure(const laboratory_t *lab, int first, int count, tacit_slot_t *const slots[PRELOAD_TRIED],
                    preload_measured_t measured_out[PRELOAD_TRIED])
{
    const preload_mpi_t *mpi = lab->mpi;
    double               mine[PRELOAD_TRIED][TRIALS] = {{0}}, slowest[PRELOAD_TRIED][TRIALS] = {{0}};
    const double         end = now() + seconds_each * count;
    int                  trials = 0, cold;
    bool                 good = true;

    while (trials < TRIALS && all_can(mpi, good && (trials == 0 || now() < end))) {
        for (int i = first; i < first + count; i++) {
            if (i == 0 || slots[i] != NULL) {
                mine[i][trials] = attempt(lab, slots[i]);
                good = good && mine[i][trials] > 0.0;
            }
        }
        trials++;
    }
    if (!all_can(mpi, good)) {
        say(lab->why, "a trial failed: %s", good ? "another rank reports an error" : lab->tacit->last_error());
        return;
    }
    mpi->reduce(PRELOAD_MAX_DOUBLE, mine, slowest, PRELOAD_TRIED * TRIALS, mpi->world());
    cold = trials > 1;
    for (int i = first; i < first + count; i++) {
        if (i == 0 || slots[i] != NULL) {
            measured_out[i] = (preload_measured_t){trials - cold, median(slowest[i] + cold, trials - cold)};
        }
    }
}

/* In turn, so that what else the machine does slows all of them down alike, and that no call finds in the caches what it left
   there, as in a step of several tensors. */
static void measure_all(const laboratory_t *lab, preload_measured_t measured_out[PRELOAD_TRIED])
{
    const int           together = lab->count <= MOST_TOGETHER ? PRELOAD_TRIED : 1;
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slots[PRELOAD_TRIED] = {NULL};

    config.count = lab->count;
    for (int first = 0; first < PRELOAD_TRIED; first += together) {
        for (int i = first; i < first + together; i++) {
            config.spec = preload_tried[i];
            if (i > 0 &&
                !all_can(lab->mpi, lab->tacit->slot_create(lab->comm, preload_tried[i], &config, &slots[i]) == TACIT_OK)) {
                say(lab->why, "no slot of '%s': %s", preload_tried[i], lab->tacit->last_error());
                lab->tacit->slot_destroy(slots[i]);
                slots[i] = NULL;
            }
        }
        measure(lab, first, together, slots, measured_out);
        for (int i = first; i < first + together; i++) {
            lab->tacit->slot_destroy(slots[i]);
        }
    }
}

static void measure_sites(laboratory_t *lab, int rank, const double counts[PRELOAD_SITES],
                          preload_measured_t measured_out[PRELOAD_SITES][PRELOAD_TRIED])
{
    for (int i = 0; i < PRELOAD_SITES && counts[i] > 0.0; i++) {
        lab->count = (size_t)counts[i];
        lab->in = malloc(lab->count * sizeof *lab->in);
        lab->out = malloc(lab->count * sizeof *lab->out);
        if (all_can(lab->mpi, lab->in != NULL && lab->out != NULL)) {
            fill(lab->in, lab->count, (unsigned)rank + 1u);
            memset(lab->out, 0, lab->count * sizeof *lab->out); /* now, not in a trial */
            measure_all(lab, measured_out[i]);
        } else {
            say(lab->why, "a rank has no memory for two buffers of %zu bytes", lab->count * sizeof *lab->in);
        }
        free(lab->in);
        free(lab->out);
    }
}

void preload_predict(const preload_mpi_t *mpi, const uint64_t counts[PRELOAD_SITES], double *waited_out,
                     preload_measured_t measured_out[PRELOAD_SITES][PRELOAD_TRIED], char why[256])
{
    laboratory_t   lab = {.mpi = mpi, .why = why};
    tacit_config_t config = TACIT_CONFIG_INIT;
    const int      rank = mpi->rank(mpi->world());
    const char    *missing = "";
    static double  numbers[NUMBERS], agreed[NUMBERS]; /* MPI may still write there when this rank has given up */

    why[0] = '\0';
    *waited_out = -1.0;
    for (int i = 0; i < PRELOAD_SITES && rank == 0; i++) {
        numbers[i] = (double)counts[i];
    }
    numbers[GAPS] = (double)preload_gaps();
    if (!all_are_here(mpi, numbers, agreed)) {
        say(why, "not all ranks came to MPI_Finalize() within %g s: perhaps some of them run without the interposer", patience());
        return;
    }
    *waited_out = seconds_waited(mpi, (size_t)agreed[GAPS]);
    if (!(agreed[0] > 0.0)) {
        return;
    }
    lab.tacit = preload_library(&missing);
    if (!all_can(mpi, lab.tacit != NULL)) {
        say(why, "%s%s", lab.tacit == NULL ? missing : "another rank cannot load ", lab.tacit == NULL ? "" : mpi->library);
        return;
    }
    config.progress = TACIT_PROGRESS_CALLS; /* a thread's calls would pass for the program's */
    if (all_can(mpi, lab.tacit->comm_create_mpi(mpi->world(), &config, &lab.comm) == TACIT_OK)) {
        measure_sites(&lab, rank, agreed, measured_out);
    } else {
        say(why, "%s", lab.tacit->last_error());
    }
    lab.tacit->comm_destroy(lab.comm);
}
