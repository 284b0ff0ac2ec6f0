/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench alltoall: tacit_alltoall() and MPI_Alltoall() of one buffer, in turns; or, with a spec for tokens,
   tacit_moe_dispatch() of them in its place. Data come from the seed, so that each rank can make what others send it: what is
   checked never crosses the wire. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <mpi.h>
#include <tacit_moe.h>
#include <tacit_mpi.h>

#include "bench_pairs.h"
#include "json.h"

/* One spec and size. */
typedef struct alltoall {
    const bench_options_t *options;
    const char            *spec;
    size_t                 part, count; /* elements for a rank, for all */
    int                    rank, ranks, nodes;
    tacit_comm_t          *comm;
    float                 *in, *out, *expected;
    tacit_moe_t           *moe;    /* of tokens, and NULL of other data … */
    size_t                 tokens; /* … which have none, … */
    int32_t               *chosen; /* … nor a rank each, in whose part it is */
    bench_rates_t          rates;  /* of hashing, on rank 0 */
    bench_pairs_t          pairs;
    double                 relative_error; /* of the first call, over all ranks; NaN: there was none */
    double                 bytes[2];       /* that leave a rank in a call, and its host: means over ranks */
    double                 limit_seconds;
} alltoall_t;

static tacit_status_t dispatch(const alltoall_t *run)
{
    tacit_moe_pass_t    *pass = NULL;
    tacit_moe_batch_t    batch;
    const tacit_status_t status = tacit_moe_dispatch(run->moe, run->in, run->tokens, run->chosen, &pass, &batch);

    tacit_moe_pass_destroy(pass);
    return status;
}

static tacit_status_t call(void *context, int kind)
{
    const alltoall_t *run = context;
    const int         part = (int)run->part;

    if (kind == OURS && run->moe != NULL) {
        return dispatch(run);
    }
    if (kind == OURS) {
        return tacit_alltoall(run->comm, run->spec, TACIT_FLOAT32, run->in, run->part, run->out);
    }
    return MPI_Alltoall(run->in, part, MPI_FLOAT, run->out, part, MPI_FLOAT, MPI_COMM_WORLD) == MPI_SUCCESS ? TACIT_OK
                                                                                                            : TACIT_ERR_TRANSPORT;
}

/* |out - exact| / |exact| of the first call, and of all ranks together. */
static void collect(void *context, int kind)
{
    alltoall_t *run = context;
    double      squares[2] = {0}; /* of differences, of what is exact */

    if (kind != OURS || run->moe != NULL || !isnan(run->relative_error)) {
        return;
    }
    for (size_t i = 0; i < run->count; i++) {
        const double difference = (double)run->out[i] - (double)run->expected[i];

        squares[0] += difference * difference;
        squares[1] += (double)run->expected[i] * (double)run->expected[i];
    }
    MPI_Allreduce(MPI_IN_PLACE, squares, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    run->relative_error = sqrt(squares[0] / squares[1]);
}

/* A part has a stream of its own. */
static void make_part(const alltoall_t *run, int from, int to, float *part)
{
    bench_random_t random = bench_random(run->options->seed, (uint64_t)from, (uint64_t)to);

    bench_normal(&random, part, run->part);
}

/* Each rank has an expert, to which as many tokens go as to any other. */
static tacit_status_t prepare_tokens(alltoall_t *run)
{
    const size_t       dimension = run->options->dimension;
    bench_random_t     random = bench_random(run->options->seed, (uint64_t)run->rank, 0);
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;
    float             *points = bench_memory(BENCH_POINTS * dimension * sizeof *points);

    run->tokens = run->count / dimension;
    run->chosen = bench_memory(run->tokens * sizeof *run->chosen);
    if (points == NULL || run->chosen == NULL) {
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    bench_make_tokens(&random, points, run->in, run->tokens, dimension);
    free(points);
    for (size_t t = 0; t < run->tokens; t++) {
        run->chosen[t] = (int32_t)(t * dimension / run->part);
    }
    config.dimension = dimension;
    config.experts = (size_t)run->ranks;
    config.tokens = run->tokens;
    config.spec = run->spec;
    return tacit_moe_create(run->comm, run->spec, &config, &run->moe);
}

static tacit_status_t prepare(alltoall_t *run)
{
    const size_t bytes = run->count * sizeof(float);

    run->in = bench_memory(bytes);
    run->out = bench_memory(bytes);
    run->expected = bench_memory(bytes);
    if (run->in == NULL || run->out == NULL || run->expected == NULL) {
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    if (bench_is_for_tokens(run->spec)) {
        return prepare_tokens(run);
    }
    for (int rank = 0; rank < run->ranks; rank++) {
        make_part(run, run->rank, rank, run->in + (size_t)rank * run->part);
        make_part(run, rank, run->rank, run->expected + (size_t)rank * run->part);
    }
    return TACIT_OK;
}

/* What has been sent so far. Of tokens only where ranks have hosts of their own, or one, is known what leaves it. */
static tacit_status_t count_sent(const alltoall_t *run, tacit_counters_t *sent_out)
{
    tacit_moe_counters_t counters;
    tacit_status_t       status;

    if (run->moe == NULL) {
        return tacit_alltoall_counters(run->comm, sent_out);
    }
    status = tacit_moe_counters(run->moe, &counters);
    sent_out->calls = counters.passes;
    sent_out->wire_bytes = counters.wire_bytes;
    sent_out->network_bytes = run->nodes == 1 ? 0 : counters.wire_bytes;
    return status;
}

/* On rank 0, while others sleep. */
static tacit_status_t measure_hashing(alltoall_t *run)
{
    tacit_moe_counters_t counters;
    double               sums[3];
    MPI_Request          end;
    int                  good = 1, done = 0;
    tacit_status_t       status = tacit_moe_counters(run->moe, &counters);

    if (status != TACIT_OK) {
        return status;
    }
    sums[0] = (double)counters.rows;
    sums[1] = (double)counters.copies;
    sums[2] = counters.residual / run->ranks;
    MPI_Allreduce(MPI_IN_PLACE, sums, 3, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    run->relative_error = sums[2];
    if (run->nodes != 1 && run->nodes != run->ranks) {
        run->bytes[1] = NAN;
    }
    if (run->rank == 0) {
        good = bench_measure_tokens(run->options, run->spec, run->count * sizeof(float), &run->rates);
        run->rates.rate = sums[0] / sums[1];
    }
    MPI_Ibcast(&good, 1, MPI_INT, 0, MPI_COMM_WORLD, &end);
    while (MPI_Test(&end, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done) {
        usleep(1000);
    }
    return good ? TACIT_OK : TACIT_ERR_MEMORY;
}

/* The larger of the wire's time and the memory's: what is sent is read, what comes is written. */
static void find_limit(alltoall_t *run)
{
    const double wire = run->bytes[0] * 8 / run->options->link_rate;

    run->limit_seconds = NAN;
    if (run->options->link_rate > 0) {
        const double rate = bench_copy_rate(run->in, run->out, run->count, run->ranks);

        run->limit_seconds = fmax(wire, 2 * (double)(run->count * sizeof(float)) / rate);
    }
}

/* ---- Printing ---- */

static double dense_bytes(const alltoall_t *run)
{
    return (double)(run->count - run->part) * sizeof(float);
}

/* The transport's own call adds nothing to what it carries. */
static const char *schedule_of(const alltoall_t *run)
{
    return run->bytes[0] == dense_bytes(run) ? "native" : "alltoall";
}

static void print_title(void)
{
    printf("%-32s %-9s %10s %9s %9s %9s %9s %9s %9s %9s\n", "spec", "schedule", "bytes", "seconds", "native", "speedup",
           "at least", "ratio", "error", "of limit");
}

static void print_row(const alltoall_t *run, const bench_times_t *times)
{
    const double cells[] = {times->seconds,
                            times->native_seconds,
                            times->speedup,
                            times->speedup_low,
                            dense_bytes(run) / run->bytes[0],
                            run->relative_error,
                            run->limit_seconds / times->seconds};

    printf("%-32s %-9s %10zu", run->spec, schedule_of(run), run->count * sizeof(float));
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        if (isfinite(cells[i])) {
            printf(" %9.3g", cells[i]);
        } else {
            printf(" %9s", "-");
        }
    }
    putchar('\n');
    if (run->moe != NULL) {
        bench_print_hashing(&run->rates);
    }
    fflush(stdout);
}

static void print_json(const alltoall_t *run, const bench_times_t *times)
{
    const double ratio = dense_bytes(run) / run->bytes[0];
    json_t       json = {0};

    json_open(&json, NULL, '{');
    json_text(&json, "mode", "alltoall");
    json_text(&json, "spec", run->spec);
    json_text(&json, "schedule", schedule_of(run));
    json_count(&json, "ranks", (uint64_t)run->ranks);
    json_count(&json, "nodes", (uint64_t)run->nodes);
    json_count(&json, "bytes", run->count * sizeof(float));
    json_number(&json, "seconds", times->seconds);
    json_number(&json, "native_seconds", times->native_seconds);
    json_number(&json, "speedup", times->speedup);
    json_number(&json, "speedup_low", times->speedup_low);
    json_number(&json, "native_repeat", times->native_repeat);
    json_number(&json, "wire_bytes", run->bytes[0]);
    json_number(&json, "network_bytes", run->bytes[1]);
    json_number(&json, "dense_bytes", dense_bytes(run));
    json_number(&json, "ratio", ratio);
    json_number(&json, "ratio_fp16", ratio / 2);
    json_number(&json, "relative_error", run->relative_error);
    json_number(&json, "limit_seconds", run->limit_seconds);
    json_number(&json, "of_limit", run->limit_seconds / times->seconds);
    json_text(&json, "progress", tacit_comm_has_thread(run->comm) ? "thread" : "calls");
    if (run->moe != NULL) {
        bench_add_hashing(&json, &run->rates);
    }
    json_close(&json, '}');
    json_end(&json);
}

static void report(const alltoall_t *run)
{
    const bench_times_t times = bench_evaluate(&run->pairs);

    (run->options->json ? print_json : print_row)(run, &times);
}

/* ---- One spec and size ---- */

/* Every rank gets the same status from the library, and so takes the same way. */
static tacit_status_t run_one(alltoall_t *run)
{
    tacit_counters_t before = {0}, after = {0};
    tacit_status_t   status = prepare(run);

    if (status == TACIT_OK) {
        status = count_sent(run, &before);
    }
    run->pairs = (bench_pairs_t){.options = run->options, .context = run, .call = call, .collect = collect};
    if (status == TACIT_OK) {
        status = bench_measure(&run->pairs);
    }
    if (status == TACIT_OK) {
        status = count_sent(run, &after);
    }
    if (status == TACIT_OK) {
        bench_mean_bytes(&before, &after, run->ranks, run->bytes);
        status = run->moe != NULL ? measure_hashing(run) : TACIT_OK;
    }
    if (status == TACIT_OK) {
        find_limit(run);
        if (run->rank == 0) {
            report(run);
        }
    } else if (run->rank == 0) {
        const char *text = tacit_last_error();

        fprintf(stderr, "tacit-bench: %s: %s\n", run->spec, text[0] != '\0' ? text : tacit_strerror(status));
    }
    bench_forget(&run->pairs);
    tacit_moe_destroy(run->moe);
    free(run->chosen);
    free(run->in);
    free(run->out);
    free(run->expected);
    return status;
}

/* Elements for each rank: whole tokens, where it is those. */
static size_t part_of(const bench_options_t *options, const char *spec, size_t bytes, int ranks)
{
    const size_t part = bytes / sizeof(float) / (size_t)ranks;

    return bench_is_for_tokens(spec) ? part - part % options->dimension : part;
}

static tacit_status_t run_all(const bench_options_t *options, int rank, int ranks)
{
    const int      nodes = bench_count_nodes(ranks);
    tacit_comm_t  *comm = NULL;
    tacit_status_t status = tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm);

    if (status != TACIT_OK && rank == 0) {
        fprintf(stderr, "tacit-bench: %s\n", tacit_last_error());
    }
    if (status == TACIT_OK && rank == 0 && !options->json) {
        print_title();
    }
    for (size_t i = 0; i < options->spec_count * options->size_count && status == TACIT_OK; i++) {
        const char  *spec = options->specs[i / options->size_count];
        const size_t part = part_of(options, spec, options->bytes[i % options->size_count], ranks);
        alltoall_t   run = {.options = options,
                            .spec = spec,
                            .part = part,
                            .count = part * (size_t)ranks,
                            .rank = rank,
                            .ranks = ranks,
                            .nodes = nodes,
                            .comm = comm,
                            .relative_error = NAN};

        status = run_one(&run);
    }
    tacit_comm_destroy(comm);
    return status;
}

static bool sizes_suit(const bench_options_t *options, int rank, int ranks)
{
    for (size_t i = 0; i < options->spec_count * options->size_count; i++) {
        const char  *spec = options->specs[i / options->size_count];
        const size_t bytes = options->bytes[i % options->size_count];

        if (part_of(options, spec, bytes, ranks) == 0) {
            if (rank == 0) {
                fprintf(stderr, "tacit-bench: --bytes must have a %s for each of %d ranks, not %zu bytes\n",
                        bench_is_for_tokens(spec) ? "token" : "number", ranks, bytes);
            }
            return false;
        }
    }
    return true;
}

int bench_alltoall(const bench_options_t *options)
{
    tacit_status_t status = TACIT_ERR_ARGUMENT;
    int            rank, ranks;

    if (!bench_start(options, "MPI_Alltoall", &rank, &ranks)) {
        return EXIT_FAILURE;
    }
    if (sizes_suit(options, rank, ranks)) {
        status = run_all(options, rank, ranks);
    }
    MPI_Finalize();
    return status == TACIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
