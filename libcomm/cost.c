/* SPDX-License-Identifier: Apache-2.0 */
/* Measures the native call and the ring on two sizes each, and has all ranks know the slowest rank's times, so that they decide
   alike. What is measured is what will be used: an MPI's choice of algorithm cannot be foreseen. */
#include "cost.h"

#include <math.h>
#include <string.h>

#include "operation.h"

enum { NATIVE, RING, WAYS };
enum { SMALL, LARGE, SIZES };
static const size_t probe_bytes[SIZES] = {16 << 10, 1 << 20};
static const size_t worthwhile = 256 << 10; /* bytes from which on the ring may pay; of fewer its verdicts are too much */
static const double margin = 0.9;           /* of the native call's time: what may be only noise changes nothing */
static const double patience = 0.1;         /* seconds: where the first trial takes longer, it is the only one */
enum { TRIALS = 3 };

/* What a rank tells all others. */
typedef struct tacit_report {
    float seconds[WAYS][SIZES];
} tacit_report_t;
enum { WORDS = sizeof(tacit_report_t) / sizeof(float) };

/* ---- Operations of our own ---- */

typedef struct tacit_probe {
    tacit_slot_t slot;
    float       *in, *out;
} tacit_probe_t;

static void probe_end(tacit_probe_t *probe)
{
    tacit_codec_destroy(probe->slot.codec);
    tacit__free(probe->in);
    tacit__free(probe->out);
    *probe = (tacit_probe_t){0};
}

/* A tensor that belongs to no caller. Ranks without memory say so in the first operation. */
static tacit_status_t probe_begin(tacit_comm_t *comm, size_t count, tacit_probe_t *probe)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_status_t      status;

    *probe = (tacit_probe_t){.slot = {.comm = comm, .schedule = tacit__schedule_named("ring")}};
    config.count = count;
    config.spec = "none";
    TRY(tacit__codec_create("(cost)", &config, &comm->config, comm->rank, comm->ranks, &probe->slot.codec));
    probe->in = tacit__alloc(count, sizeof *probe->in);
    probe->out = tacit__alloc(count, sizeof *probe->out);
    if (probe->in == NULL || probe->out == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to measure the links", comm->rank);
    }
out:
    return status;
}

/* `mine` is this rank's own status so far: if it is not OK, all ranks return it, and the probe may not have been made. */
static tacit_status_t by_ring(tacit_comm_t *comm, tacit_probe_t *probe, tacit_status_t mine)
{
    const tacit_item_t item = {
        .slot = &probe->slot, .codec = probe->slot.codec, .in = probe->in, .out = probe->out, .op = TACIT_SUM};
    tacit_operation_t *operation;
    tacit_status_t     status;

    TRY(tacit__operation_create(comm, "tacit_slot_create", &item, probe->slot.codec != NULL, mine, &operation));
    TRY(tacit__operation_wait(operation));
out:
    return status;
}

static tacit_status_t by_native(tacit_comm_t *comm, const tacit_probe_t *probe)
{
    tacit_status_t status = comm->transport.allreduce_wait(comm->transport.context, probe->in, probe->out,
                                                           probe->slot.codec->tensor.count, TACIT_FLOAT32);

    if (status != TACIT_OK) {
        tacit__comm_break(comm);
    }
    return status;
}

/* ---- Reports ---- */

/* Every rank's report to all: a sum in which each has a place of its own. The caller ends `all`. */
static tacit_status_t gather(tacit_comm_t *comm, const tacit_report_t *mine, tacit_probe_t *all)
{
    tacit_status_t status = probe_begin(comm, WORDS * (size_t)comm->ranks, all);

    if (status == TACIT_OK) {
        memcpy(all->in + WORDS * (size_t)comm->rank, mine, sizeof *mine);
    }
    return by_ring(comm, all, status);
}

static tacit_report_t report_of(const tacit_probe_t *all, int rank)
{
    tacit_report_t report;

    memcpy(&report, all->out + WORDS * (size_t)rank, sizeof report);
    return report;
}

/* ---- Trials ---- */

/* Each way with each size once. The ring first: its ranks end together, where a native call may let some go early. */
static tacit_status_t try_all(tacit_comm_t *comm, tacit_probe_t *probes, tacit_status_t mine, tacit_report_t *report)
{
    tacit_status_t status = TACIT_OK;

    for (int i = 0; i < SIZES; i++) {
        const double began = tacit__seconds();

        TRY(by_ring(comm, &probes[i], mine));
        report->seconds[RING][i] = (float)(tacit__seconds() - began);
    }
    for (int i = 0; i < SIZES; i++) {
        const double began = tacit__seconds();

        TRY(by_native(comm, &probes[i]));
        report->seconds[NATIVE][i] = (float)(tacit__seconds() - began);
    }
out:
    return status;
}

/* best = or becomes the less of itself and the slowest rank's times. Returns their sum. */
static double take_slowest(const tacit_probe_t *all, int ranks, bool first, float best[WAYS][SIZES])
{
    double sum = 0;

    for (int way = 0; way < WAYS; way++) {
        for (int size = 0; size < SIZES; size++) {
            float slowest = 0;

            for (int rank = 0; rank < ranks; rank++) {
                slowest = fmaxf(slowest, report_of(all, rank).seconds[way][size]);
            }
            best[way][size] = first ? slowest : fminf(best[way][size], slowest);
            sum += (double)slowest;
        }
    }
    return sum;
}

static tacit_line_t line_through(const float seconds[SIZES])
{
    const double rise = fmax(0, (double)seconds[LARGE] - (double)seconds[SMALL]);
    tacit_line_t line = {.each = rise / (double)(probe_bytes[LARGE] - probe_bytes[SMALL])};

    line.fixed = fmax(0, (double)seconds[SMALL] - line.each * (double)probe_bytes[SMALL]);
    return line;
}

static tacit_status_t measure(tacit_comm_t *comm)
{
    tacit_probe_t  probes[SIZES] = {0}, all = {0};
    tacit_status_t status = TACIT_OK;
    float          best[WAYS][SIZES];
    double         sum = 0;

    for (int size = 0; size < SIZES && status == TACIT_OK; size++) {
        status = probe_begin(comm, probe_bytes[size] / sizeof(float), &probes[size]);
    }
    for (int trial = 0; trial < TRIALS && (trial == 0 || sum < patience); trial++) {
        tacit_report_t report = {0};

        TRY(try_all(comm, probes, status, &report));
        TRY(gather(comm, &report, &all));
        sum = take_slowest(&all, comm->ranks, trial <= 1, best); /* the first one only warms up, unless it is the last */
        probe_end(&all);
    }
    comm->cost.native = line_through(best[NATIVE]);
    comm->cost.ring = line_through(best[RING]);
out:
    probe_end(&all);
    for (int size = 0; size < SIZES; size++) {
        probe_end(&probes[size]);
    }
    return status;
}

/* ---- The choice ---- */

static double predict(const tacit_line_t *line, size_t bytes)
{
    return line->fixed + line->each * (double)bytes;
}

static bool ring_pays(const tacit_cost_t *cost, size_t bytes)
{
    return cost->known && !cost->one_host && bytes >= worthwhile &&
           predict(&cost->ring, bytes) < margin * predict(&cost->native, bytes);
}

bool tacit__cost_ring_pays(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return ring_pays(&comm->cost, codec->tensor.count * sizeof(float));
}

static void tell(const tacit_comm_t *comm)
{
    const tacit_cost_t *cost = &comm->cost;
    size_t              from = worthwhile;

    if (cost->one_host) {
        tacit__log(TACIT_LOG_INFO, comm->rank, "cost: all %d ranks are on one host: dense tensors go by native calls",
                   comm->ranks);
        return;
    }
    while (from < (size_t)1 << 34 && !ring_pays(cost, from)) {
        from *= 2;
    }
    tacit__log(TACIT_LOG_INFO, comm->rank,
               "cost: native calls take %.3g ms and %.3g ms a MiB, the ring %.3g ms and %.3g ms: %s from %zu KiB on",
               1e3 * cost->native.fixed, 1e3 * 0x1p20 * cost->native.each, 1e3 * cost->ring.fixed, 1e3 * 0x1p20 * cost->ring.each,
               from < (size_t)1 << 34 ? "dense tensors go by the ring" : "no tensor goes by the ring", from >> 10);
}

/* Nothing to find out: another way is asked for or none is there, or nothing could be gained. Two ranks send each other all they
   have, whatever the way. */
static bool matters(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    const char             *plan = comm->environment.plan;
    const tacit_schedule_t *asked = plan != NULL ? tacit__schedule_named(plan) : NULL;

    return comm->ranks > 2 && comm->transport.allreduce_wait != NULL && comm->environment.disable == 0 &&
           codec->tensor.count * sizeof(float) >= worthwhile && tacit__schedule_named("ring")->carries(comm, codec) &&
           (asked == NULL || !asked->carries(comm, codec));
}

tacit_status_t tacit__cost_learn(tacit_comm_t *comm, const tacit_codec_t *codec)
{
    const bool     one_host = comm->topology->hosts == 1;
    tacit_status_t status = TACIT_OK;

    if (comm->cost.known || !matters(comm, codec)) {
        goto out;
    }
    if (!one_host) {
        TRY(measure(comm));
    }
    comm->cost.one_host = one_host;
    comm->cost.known = true;
    tell(comm);
out:
    return status;
}
