/* SPDX-License-Identifier: Apache-2.0 */
/* Collectives timed in turns with native ones, over the ranks of MPI_COMM_WORLD. */
#ifndef TOOLS_BENCH_PAIRS_H
#define TOOLS_BENCH_PAIRS_H

#include "bench.h"

/* A round times these, in another order each time; native, or with --trace ours with a trace, twice, to know what chance does. */
enum { NATIVE, OURS, NATIVE_AGAIN, TIMED };

typedef struct bench_pairs {
    const bench_options_t *options;
    void                  *context;                  /* of these: */
    tacit_status_t (*call)(void *context, int kind); /* one operation */
    void (*collect)(void *context, int kind);        /* optional: takes in the result of one that was not timed with others */
    void (*settle)(void *context);                   /* optional: after calls of ours and, where that can be, before others */
    size_t  batch, rounds;
    double *seconds[TIMED]; /* a round each, of one operation on the slowest rank */
} bench_pairs_t;

typedef struct bench_times {
    double seconds, native_seconds, speedup, speedup_low, native_repeat; /* NaN: not measured */
} bench_times_t;

/* Measures as options say: pairs, or ours alone. */
tacit_status_t bench_measure(bench_pairs_t *pairs);
/* Medians; sorts the times. */
bench_times_t bench_evaluate(const bench_pairs_t *pairs);
void          bench_forget(bench_pairs_t *pairs);

/* ---- Ranks ---- */

/* Hosts among them. */
int bench_count_nodes(int ranks);
/* What all ranks reach at once, each for itself, so that ranks that share a core share it here too: bytes read plus written
   per second of one rank. */
double bench_copy_rate(const float *in, float *out, size_t count, int ranks);
/* Bytes of a call that leave a rank, and those that leave its host: the mean over ranks of what calls since `before` sent. */
void bench_mean_bytes(const tacit_counters_t *before, const tacit_counters_t *after, int ranks, double bytes_out[2]);
/* Starts MPI, with threads where the environment asks for progress by one. False, after a message, where a size has more
   elements than MPI's `call` counts; MPI has ended again then. */
bool bench_start(const bench_options_t *options, const char *call, int *rank_out, int *ranks_out);

#endif
