/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench allreduce: tacit_allreduce() and MPI_Allreduce(), or itself with a trace, of one buffer, in turns. Data come from
   the seed, so that rank 0 can make every rank's and sum them in float64: what is checked never crosses the wire. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpi.h>
#include <tacit_mpi.h>

#include "bench_reduction.h"
#include "comm.h"

enum { BLOCK = 1 << 16 /* elements handled at once in float64 */ };

/* ---- Exactness, on rank 0 ---- */

/* Other ranks' data come from their streams, a block at a time. */
static void make_exact(reduction_t *run)
{
    static float block[BLOCK];

    memset(run->exact, 0, run->count * sizeof *run->exact);
    for (int rank = 0; rank < run->ranks; rank++) {
        bench_random_t random = bench_random(run->options->seed, (uint64_t)rank, 0);

        for (size_t done = 0; done < run->count; done += BLOCK) {
            size_t count = run->count - done < BLOCK ? run->count - done : BLOCK;

            bench_normal(&random, block, count);
            for (size_t i = 0; i < count; i++) {
                run->exact[done + i] += (double)block[i];
            }
        }
    }
}

/* |sum / calls - exact| / |exact| */
static double error_of_sum(const reduction_t *run)
{
    double error = 0, norm = 0;

    for (size_t i = 0; i < run->count; i++) {
        double difference = run->sum[i] / (double)run->summed - run->exact[i];

        error += difference * difference;
        norm += run->exact[i] * run->exact[i];
    }
    return sqrt(error / norm);
}

/* Takes the result of a call of ours into account. After a native one it does the same work and counts nothing, so that all
   kinds of calls find the same caches. */
static void collect(void *context, int kind)
{
    reduction_t *run = context;
    const bool   ours = kind == OURS;
    const double weight = ours ? 1 : 0;

    if (run->rank != 0) {
        return;
    }
    for (size_t i = 0; i < run->count; i++) {
        run->sum[i] += weight * (double)run->out[i];
    }
    run->summed += ours;
    if (ours && run->summed == 1) {
        run->relative_error = error_of_sum(run);
    }
}

/* ---- Memory ---- */

/* After calls of ours and before any other: what MPI's own take does not count. */
static void measure_memory(void *context)
{
    reduction_t *run = context;
    double       bytes = run->made_bytes + bench_resident_peak() - run->base_bytes;

    bytes = isnan(bytes) ? -1 : bytes;
    MPI_Allreduce(&bytes, &run->extra_bytes, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    run->extra_bytes = run->extra_bytes < 0 ? NAN : run->extra_bytes;
}

/* ---- Timing ---- */

static tacit_status_t of_mpi(int mpi_status)
{
    return mpi_status == MPI_SUCCESS ? TACIT_OK : TACIT_ERR_TRANSPORT;
}

static tacit_status_t reduce(reduction_t *run, int kind)
{
    const int count = (int)run->count;

    return kind == OURS          ? tacit_allreduce(run->slot, run->in, run->out, TACIT_SUM)
           : run->traced != NULL ? tacit_allreduce(run->traced, run->in, run->out, TACIT_SUM)
                                 : of_mpi(MPI_Allreduce(run->in, run->out, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD));
}

/* The same while this rank computes. */
static tacit_status_t reduce_aside(reduction_t *run, int kind)
{
    const int        count = (int)run->count;
    tacit_request_t *request = NULL;
    MPI_Request      native = MPI_REQUEST_NULL;
    tacit_status_t   status;

    status = kind == OURS ? tacit_iallreduce(run->slot, run->in, run->out, TACIT_SUM, &request)
                          : of_mpi(MPI_Iallreduce(run->in, run->out, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &native));
    if (status != TACIT_OK) {
        return status;
    }
    bench_compute(run->options->compute_seconds);
    return kind == OURS ? tacit_wait(&request) : of_mpi(MPI_Wait(&native, MPI_STATUS_IGNORE));
}

static tacit_status_t call(void *context, int kind)
{
    reduction_t *run = context;

    return run->options->compute_seconds > 0 ? reduce_aside(run, kind) : reduce(run, kind);
}

/* ---- Bounds and counts ---- */

static tacit_status_t read_counters(reduction_t *run)
{
    const tacit_counters_t before = {0};
    tacit_counters_t       counters;
    tacit_status_t         status = tacit_slot_counters(run->slot, &counters);
    double                 bytes[2];

    if (status != TACIT_OK) {
        return status;
    }
    bench_mean_bytes(&before, &counters, run->ranks, bytes);
    run->wire_bytes = bytes[0];
    run->network_bytes = bytes[1];
    return TACIT_OK;
}

/* The larger of the wire's time and the memory's: the tensor is read, the result written, feedback read and written. */
static void find_limit(reduction_t *run)
{
    double traffic = 2 * sizeof(float) + bench_encode_traffic(run->spec) + bench_result_traffic(run->spec);
    double wire = run->wire_bytes * 8 / run->options->link_rate;

    run->limit_seconds = NAN;
    if (run->options->link_rate > 0) {
        const double rate = bench_copy_rate(run->in, run->out, run->count, run->ranks);

        run->limit_seconds = isnan(traffic) ? NAN : fmax(wire, traffic * (double)run->count / rate);
    }
}

/* Bytes of the tensor over bytes of one frame of it, made here and sent to nobody. */
static double payload_ratio(const reduction_t *run)
{
    tacit_slot_config_t tensor = bench_tensor(run->spec, run->count);
    tacit_codec_t      *codec = NULL;
    uint8_t            *frame = NULL;
    size_t              bytes = 0;

    if (tacit_codec_create("bench", &tensor, NULL, 0, 1, &codec) != TACIT_OK) {
        return NAN;
    }
    if (tacit_codec_grain(codec) != 0) {
        bytes = tacit_codec_capacity(codec, run->count);
    } else {
        frame = malloc(tacit_codec_capacity(codec, run->count));
        if (frame == NULL ||
            tacit_encode(codec, 0, run->in, 0, run->count, frame, tacit_codec_capacity(codec, run->count), &bytes) != TACIT_OK) {
            bytes = 0;
        }
    }
    free(frame);
    tacit_codec_destroy(codec);
    return bytes == 0 ? NAN : (double)(run->count * sizeof(float)) / (double)bytes;
}

/* ---- One spec and size ---- */

static tacit_status_t prepare(reduction_t *run)
{
    tacit_slot_config_t tensor = bench_tensor(run->spec, run->count);
    bench_random_t      random = bench_random(run->options->seed, (uint64_t)run->rank, 0);
    size_t              bytes = run->count * sizeof(float);

    run->in = bench_memory(bytes);
    run->out = bench_memory(bytes);
    if (run->rank == 0) {
        run->exact = bench_memory(run->count * sizeof *run->exact);
        run->sum = bench_memory(run->count * sizeof *run->sum);
    }
    if (run->in == NULL || run->out == NULL || (run->rank == 0 && (run->exact == NULL || run->sum == NULL))) {
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    bench_normal(&random, run->in, run->count);
    if (run->rank == 0) {
        make_exact(run);
    }
    run->base_bytes = bench_resident_reset();
    if (run->traced_comm != NULL) {
        tacit_status_t status = tacit_slot_create(run->traced_comm, "bench", &tensor, &run->traced);

        if (status != TACIT_OK) {
            return status;
        }
    }
    return tacit_slot_create(run->comm, "bench", &tensor, &run->slot);
}

/* What a schedule is predicted to take, and which one would be chosen, from a slot that asks for none. */
static tacit_status_t predict(reduction_t *run)
{
    const tacit_schedule_t *schedule = run->schedule != NULL ? tacit__schedule_named(run->schedule) : NULL;
    tacit_slot_config_t     tensor = bench_tensor(run->spec, run->count);
    tacit_slot_t           *slot;
    tacit_status_t          status = tacit_slot_create(run->model, "model", &tensor, &slot);

    if (status != TACIT_OK) {
        return status;
    }
    run->choice = tacit_slot_schedule(slot);
    schedule = schedule != NULL ? schedule : slot->schedule;
    run->carried = tacit__schedule_carries(schedule, run->model, slot->codec);
    if (run->carried && (run->options->native || run->model != run->comm)) {
        status = tacit__comm_enter(run->model, false); /* it may have a thread */
        if (status == TACIT_OK) {
            status = tacit__cost_learn(run->model, slot->codec, true);
            tacit__comm_leave(run->model);
        }
    }
    run->predicted_seconds = tacit__cost_seconds(run->model, slot->codec, schedule);
    tacit_slot_destroy(slot);
    return status;
}

static void refuse_schedule(const reduction_t *run)
{
    if (run->rank == 0) {
        fprintf(stderr, "tacit-bench: --schedule %s does not carry '%s', which would be reduced by '%s'\n", run->schedule,
                run->spec, run->choice);
    }
}

static void release(reduction_t *run)
{
    tacit_slot_destroy(run->slot);
    tacit_slot_destroy(run->traced);
    free(run->in);
    free(run->out);
    free(run->exact);
    free(run->sum);
    bench_forget(&run->pairs);
}

/* Every rank gets the same status from the library, and so takes the same way. Only one of `all` schedules may be unsuitable. */
static tacit_status_t run_one(reduction_t *run, bool all)
{
    tacit_status_t status = predict(run);

    if (status == TACIT_OK && !run->carried) {
        if (!all) {
            refuse_schedule(run);
        }
        return all ? TACIT_OK : TACIT_ERR_UNSUPPORTED;
    }
    if (status == TACIT_OK) {
        status = prepare(run);
    }
    if (status == TACIT_OK) {
        run->pairs =
            (bench_pairs_t){.options = run->options, .context = run, .call = call, .collect = collect, .settle = measure_memory};
        status = bench_measure(&run->pairs);
    }
    if (status == TACIT_OK) {
        status = read_counters(run);
    }
    if (status == TACIT_OK) {
        find_limit(run);
        if (run->rank == 0) {
            run->mean_error = error_of_sum(run);
            run->payload_ratio = payload_ratio(run);
            bench_report(run);
        }
    } else if (run->rank == 0) {
        const char *text = tacit_last_error();

        fprintf(stderr, "tacit-bench: %s: %s\n", run->spec, text[0] != '\0' ? text : tacit_strerror(status));
    }
    release(run);
    return status;
}

/* The schedules to measure: the library's choice, the one that is asked for, or each that there is. A communicator takes what it
   is to use from the environment. */
static size_t list_schedules(const char *wanted, const char **names, size_t room)
{
    tacit_module_t module;
    size_t         count = 0;

    if (strcmp(wanted, "all") != 0) {
        names[0] = strcmp(wanted, "auto") != 0 ? wanted : NULL;
        return 1;
    }
    while (count < room && tacit_module(TACIT_SCHEDULES, count, &module) == TACIT_OK) {
        names[count++] = module.name;
    }
    return count;
}

static tacit_status_t create_comm(const char *schedule, tacit_comm_t **comm_out)
{
    if (schedule != NULL && setenv("TACIT_PLAN", schedule, 1) != 0) {
        return TACIT_ERR_MEMORY;
    }
    return tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, comm_out);
}

/* One that is traced, if that is asked for; the other ones are not, then. */
static tacit_status_t create_traced(const bench_options_t *options, const char *schedule, tacit_comm_t **comm_out)
{
    tacit_status_t status;

    if (options->trace == NULL) {
        return TACIT_OK;
    }
    if (setenv("TACIT_TRACE", options->trace, 1) != 0) {
        return TACIT_ERR_MEMORY;
    }
    status = create_comm(schedule, comm_out);
    unsetenv("TACIT_TRACE");
    return status;
}

/* All communicators at once, so that lines come in the order of specs and sizes. */
static tacit_status_t run_all(const bench_options_t *options, int rank, int ranks)
{
    const char    *names[BENCH_SCHEDULES];
    tacit_comm_t  *comms[BENCH_SCHEDULES] = {NULL}, *traced[BENCH_SCHEDULES] = {NULL}, *model = NULL;
    const size_t   schedules = list_schedules(options->schedule, names, BENCH_SCHEDULES);
    int            nodes = bench_count_nodes(ranks);
    double         before = bench_resident(), made;
    tacit_status_t status = TACIT_OK;

    if (names[0] != NULL) {
        status = create_comm(NULL, &model);
    }
    for (size_t k = 0; k < schedules && status == TACIT_OK; k++) {
        status = create_traced(options, names[k], &traced[k]);
        status = status == TACIT_OK ? create_comm(names[k], &comms[k]) : status;
    }
    made = schedules == 1 ? bench_resident() - before : NAN;
    if (status != TACIT_OK && rank == 0) {
        fprintf(stderr, "tacit-bench: %s\n", tacit_last_error());
    }
    if (status == TACIT_OK && rank == 0 && !options->json) {
        bench_print_title(options);
    }
    for (size_t i = 0; i < options->spec_count * options->size_count * schedules && status == TACIT_OK; i++) {
        const size_t k = i % schedules, j = i / schedules % options->size_count;
        reduction_t  run = {.options = options,
                            .spec = options->specs[i / schedules / options->size_count],
                            .schedule = names[k],
                            .count = options->bytes[j] / sizeof(float),
                            .rank = rank,
                            .ranks = ranks,
                            .nodes = nodes,
                            .comm = comms[k],
                            .traced_comm = traced[k],
                            .model = model != NULL ? model : comms[k],
                            .made_bytes = i == 0 ? made : NAN}; /* later ones find memory that earlier ones have left */

        status = run_one(&run, strcmp(options->schedule, "all") == 0);
    }
    for (size_t k = 0; k < schedules; k++) {
        tacit_comm_destroy(comms[k]);
        tacit_comm_destroy(traced[k]);
    }
    tacit_comm_destroy(model);
    return status;
}

int bench_allreduce(const bench_options_t *options)
{
    tacit_status_t status;
    int            rank, ranks;

    if (!bench_start(options, "MPI_Allreduce", &rank, &ranks)) {
        return EXIT_FAILURE;
    }
    status = run_all(options, rank, ranks);
    MPI_Finalize();
    return status == TACIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
