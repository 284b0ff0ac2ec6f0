/* SPDX-License-Identifier: Apache-2.0 */
/* Times ours and native calls in turns: what disturbs the machine for a while disturbs both. */
#include "bench_pairs.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpi.h>

enum {
    PAIRS_MIN = 9, /* fewer have no 95 % interval that says much */
    PAIRS_MAX = 201,
    CALLS = 20, /* with --no-native and without --calls */
    BATCH_MAX = 10000,
    UNBATCHED = 8 /* calls whose results are taken in where batches are timed, beside two to warm up */
};
#define BATCH_SECONDS 5e-4 /* shorter operations are timed several at once */
#define TOTAL_SECONDS 3.0  /* of measuring, where PAIRS_MIN allows */

/* Times a batch of one kind; the result is of one operation, on this rank. */
static tacit_status_t time_batch(bench_pairs_t *pairs, int kind, size_t batch, double *seconds_out)
{
    tacit_status_t status = TACIT_OK;
    double         start;

    MPI_Barrier(MPI_COMM_WORLD);
    start = MPI_Wtime();
    for (size_t i = 0; i < batch && status == TACIT_OK; i++) {
        status = pairs->call(pairs->context, kind);
    }
    *seconds_out = (MPI_Wtime() - start) / (double)batch;
    if (status == TACIT_OK && batch == 1 && pairs->collect != NULL) {
        pairs->collect(pairs->context, kind);
    }
    return status;
}

static void settle(const bench_pairs_t *pairs)
{
    if (pairs->settle != NULL) {
        pairs->settle(pairs->context);
    }
}

/* Rank 0 decides how much is measured from what a call took; the first one also warms up. */
static tacit_status_t plan(bench_pairs_t *pairs)
{
    const uint64_t     calls = pairs->options->calls;
    unsigned long long decision[2];
    double             seconds[TIMED] = {0}, mine, longest, round;
    tacit_status_t     status = TACIT_OK;

    for (int warm_up = 0; warm_up < 2; warm_up++) {
        for (int kind = OURS; kind >= NATIVE && status == TACIT_OK; kind--) {
            status = time_batch(pairs, kind, 1, &seconds[kind]);
            if (warm_up == 0 && kind == OURS) {
                settle(pairs);
            }
        }
    }
    if (status != TACIT_OK) {
        return status;
    }
    mine = seconds[NATIVE] > seconds[OURS] ? seconds[OURS] : seconds[NATIVE];
    MPI_Allreduce(&mine, &longest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    decision[0] = (unsigned long long)fmin(fmax(ceil(BATCH_SECONDS / fmax(longest, 1e-9)), 1), BATCH_MAX);
    round = (double)decision[0] * (2 * seconds[NATIVE] + seconds[OURS]);
    decision[1] = calls != 0 ? calls : (unsigned long long)fmin(TOTAL_SECONDS / round, PAIRS_MAX);
    MPI_Bcast(decision, 2, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    pairs->batch = (size_t)decision[0];
    pairs->rounds = decision[1] < PAIRS_MIN ? PAIRS_MIN : (size_t)decision[1];
    for (int call = 0; call < UNBATCHED && pairs->batch > 1 && status == TACIT_OK; call++) {
        status = time_batch(pairs, OURS, 1, &mine);
    }
    return status;
}

/* An operation takes as long as it takes the last rank. */
static void slowest(double *seconds, size_t count)
{
    MPI_Allreduce(MPI_IN_PLACE, seconds, (int)count, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
}

static void make_rounds(bench_pairs_t *pairs, size_t rounds)
{
    for (int kind = 0; kind < TIMED; kind++) {
        pairs->seconds[kind] = bench_memory((rounds + 1) * sizeof(double));
        if (pairs->seconds[kind] == NULL) {
            MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
        }
    }
}

static tacit_status_t measure_pairs(bench_pairs_t *pairs)
{
    tacit_status_t status = plan(pairs);

    if (status == TACIT_OK) {
        make_rounds(pairs, pairs->rounds);
    }
    for (size_t round = 0; round < pairs->rounds; round++) {
        for (size_t i = 0; i < TIMED && status == TACIT_OK; i++) {
            int kind = (int)((round + (round % 2 == 0 ? i : TIMED - i)) % TIMED);

            status = time_batch(pairs, kind, pairs->batch, &pairs->seconds[kind][round]);
        }
    }
    for (int kind = 0; kind < TIMED && status == TACIT_OK; kind++) {
        slowest(pairs->seconds[kind], pairs->rounds);
    }
    return status;
}

/* Exactly the calls that were asked for; the first one, the warm-up, is not among the times. */
static tacit_status_t measure_ours(bench_pairs_t *pairs)
{
    size_t         calls = pairs->options->calls != 0 ? (size_t)pairs->options->calls : CALLS;
    tacit_status_t status = TACIT_OK;

    make_rounds(pairs, calls);
    pairs->rounds = calls > 1 ? calls - 1 : 1;
    for (size_t call = 0; call < calls && status == TACIT_OK; call++) {
        status = time_batch(pairs, OURS, 1, &pairs->seconds[OURS][call > 0 ? call - 1 : 0]);
    }
    settle(pairs);
    if (status == TACIT_OK) {
        slowest(pairs->seconds[OURS], pairs->rounds);
    }
    return status;
}

tacit_status_t bench_measure(bench_pairs_t *pairs)
{
    return pairs->options->native ? measure_pairs(pairs) : measure_ours(pairs);
}

/* ---- Statistics ---- */

/* Paired, round by round. */
static double ratio_low(const double *above, const double *below, size_t count, double *ratios, double *median_out)
{
    for (size_t i = 0; i < count; i++) {
        ratios[i] = above[i] / below[i];
    }
    *median_out = bench_median(ratios, count);
    return bench_median_low(ratios, count);
}

bench_times_t bench_evaluate(const bench_pairs_t *pairs)
{
    bench_times_t times = {.native_seconds = NAN, .speedup = NAN, .speedup_low = NAN, .native_repeat = NAN};
    double       *ratios = malloc(pairs->rounds * sizeof *ratios), unused;

    if (ratios == NULL) {
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
        return times;
    }
    if (pairs->options->native) {
        double *const *seconds = pairs->seconds;

        times.native_repeat = ratio_low(seconds[NATIVE], seconds[NATIVE_AGAIN], pairs->rounds, ratios, &unused);
        times.speedup_low = ratio_low(seconds[NATIVE], seconds[OURS], pairs->rounds, ratios, &times.speedup);
        times.native_seconds = bench_median(seconds[NATIVE], pairs->rounds);
    }
    times.seconds = bench_median(pairs->seconds[OURS], pairs->rounds);
    free(ratios);
    return times;
}

void bench_forget(bench_pairs_t *pairs)
{
    for (int kind = 0; kind < TIMED; kind++) {
        free(pairs->seconds[kind]);
    }
}

/* ---- Ranks ---- */

int bench_count_nodes(int ranks)
{
    char  name[MPI_MAX_PROCESSOR_NAME] = "";
    char *names = calloc((size_t)ranks, sizeof name);
    int   length, nodes = 0;

    if (names == NULL) {
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
        return 0;
    }
    MPI_Get_processor_name(name, &length);
    MPI_Allgather(name, sizeof name, MPI_CHAR, names, sizeof name, MPI_CHAR, MPI_COMM_WORLD);
    for (int i = 0; i < ranks; i++) {
        int first = 0;

        while (strcmp(names + (size_t)first * sizeof name, names + (size_t)i * sizeof name) != 0) {
            first++;
        }
        nodes += first == i;
    }
    free(names);
    return nodes;
}

double bench_copy_rate(const float *in, float *out, size_t count, int ranks)
{
    size_t bytes = count * sizeof(float), copies = 8 + ((size_t)16 << 20) / bytes;
    double seconds, start;

    memcpy(out, in, bytes);
    MPI_Barrier(MPI_COMM_WORLD);
    start = MPI_Wtime();
    for (size_t i = 0; i < copies; i++) {
        memcpy(out, in, bytes);
        __asm__ volatile("" : : "r"(out) : "memory"); /* each copy is wanted */
    }
    seconds = MPI_Wtime() - start;
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return 2 * (double)copies * (double)bytes * ranks / seconds;
}

void bench_mean_bytes(const tacit_counters_t *before, const tacit_counters_t *after, int ranks, double bytes_out[2])
{
    const double calls = (double)(after->calls - before->calls);

    bytes_out[0] = (double)(after->wire_bytes - before->wire_bytes) / calls / ranks;
    bytes_out[1] = (double)(after->network_bytes - before->network_bytes) / calls / ranks;
    MPI_Allreduce(MPI_IN_PLACE, bytes_out, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

bool bench_start(const bench_options_t *options, const char *call, int *rank_out, int *ranks_out)
{
    const char *progress = getenv("TACIT_PROGRESS");
    const int   wanted = progress != NULL && strcmp(progress, "thread") == 0 ? MPI_THREAD_MULTIPLE : MPI_THREAD_SINGLE;
    int         level;

    MPI_Init_thread(NULL, NULL, wanted, &level); /* where it is less, the library says so */
    MPI_Comm_rank(MPI_COMM_WORLD, rank_out);
    MPI_Comm_size(MPI_COMM_WORLD, ranks_out);
    for (size_t i = 0; i < options->size_count; i++) {
        if (options->bytes[i] / sizeof(float) > INT_MAX) {
            if (*rank_out == 0) {
                fprintf(stderr, "tacit-bench: %s counts with an int: --bytes must be below 8G, not %zu\n", call,
                        options->bytes[i]);
            }
            MPI_Finalize();
            return false;
        }
    }
    return true;
}
