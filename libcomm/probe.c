/* SPDX-License-Identifier: Apache-2.0 */
/* Times operations of our own on the communicator that will do the real ones, and has all ranks know the slowest rank's times,
   so that they decide alike. What is measured is what will be used: neither an MPI's choice of algorithm nor what ranks take
   from each other on shared cores and links could be foreseen. */
#include "probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "operation.h"

enum { TRIALS = 7, PATTERN = 1 << 16 /* elements, after which the data repeat */ };
static const double enough = 0.08;  /* seconds of trials, of which there are at least four … */
static const double patience = 0.2; /* … unless one of all schedules takes longer */

typedef struct tacit_probe {
    tacit_slot_t slots[TACIT_WAYS]; /* one a schedule; those without a codec are not carried */
    void        *in, *out;
    size_t       count;
} tacit_probe_t;

/* ---- Tensors ---- */

/* About normal: the sum of four uniform numbers. Of 16 bits: magnitudes from a half to one. */
static void fill(void *values, size_t count, tacit_dtype_t dtype, int rank)
{
    const size_t pattern = tacit__min(count, PATTERN), bytes = dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
    uint64_t     state = 0x9e3779b97f4a7c15u * (uint64_t)(rank + 1);

    for (size_t i = 0; i < pattern; i++) {
        uint64_t bits = state += 0x9e3779b97f4a7c15u;

        bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
        bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
        if (dtype == TACIT_FLOAT32) {
            const int64_t sum = (int64_t)((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));

            ((float *)values)[i] = (float)(sum - 2 * 0xffff) * 0x1p-15f;
        } else if (dtype == TACIT_FLOAT16) {
            ((uint16_t *)values)[i] = (uint16_t)(0x3800 | (bits & 0x83ff));
        } else {
            ((uint16_t *)values)[i] = (uint16_t)(0x3f00 | (bits & 0x807f));
        }
    }
    for (size_t done = pattern; done < count; done += tacit__min(done, count - done)) {
        memcpy((uint8_t *)values + done * bytes, values, tacit__min(done, count - done) * bytes);
    }
}

/* The same kind of tensor with another number of elements: what was a matrix is one. */
static tacit_slot_config_t tensor_like(const tacit_codec_t *like, size_t count)
{
    tacit_slot_config_t tensor = like->tensor;
    size_t              rows = 1;

    tensor.spec = like->given.text;
    if (count != tensor.count && tensor.ndim > 0) {
        while (tensor.ndim > 1 && 4 * rows * rows <= count) {
            rows *= 2;
        }
        tensor.ndim = tensor.ndim > 1 ? 2 : 1;
        tensor.shape[0] = tensor.ndim > 1 ? rows : count;
        tensor.shape[1] = count / rows;
    }
    tensor.count = count;
    return tensor;
}

static void end_probe(tacit_probe_t *probe)
{
    for (int way = 0; probe != NULL && way < TACIT_WAYS; way++) {
        tacit_codec_destroy(probe->slots[way].codec);
    }
    if (probe != NULL) {
        tacit__free(probe->in);
        tacit__free(probe->out);
    }
    tacit__free(probe);
}

static tacit_status_t no_memory(const tacit_comm_t *comm)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to measure what reductions take", comm->rank);
}

/* Ranks without memory say so in the first operation. Each schedule has a codec of its own, whose memory is as it left it. */
static tacit_status_t begin_probe(tacit_comm_t *comm, const tacit_codec_t *like, size_t count, tacit_probe_t **probe_out)
{
    const tacit_slot_config_t tensor = tensor_like(like, count);
    const size_t              bytes = tacit__codec_element_bytes(like);
    tacit_probe_t            *probe = *probe_out = tacit__alloc(1, sizeof *probe);
    tacit_status_t            status = TACIT_OK;

    if (probe == NULL) {
        return no_memory(comm);
    }
    probe->count = count;
    probe->in = tacit__alloc(count, bytes);
    probe->out = tacit__alloc(count, bytes);
    if (probe->in == NULL || probe->out == NULL) {
        return no_memory(comm);
    }
    fill(probe->in, count, tensor.dtype, comm->rank);
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        tacit_slot_t *slot = &probe->slots[way];

        if (tacit__schedule_carries(tacit__schedule_at(way), comm, like)) {
            slot->comm = comm;
            TRY(tacit__codec_create("(cost)", &tensor, &comm->config, comm->rank, comm->ranks, &slot->codec));
            tacit__slot_go_by(slot, tacit__schedule_at(way));
        }
    }
out:
    return status;
}

/* ---- Operations ---- */

/* `mine` is this rank's own status so far: if it is not OK, all ranks return it, and there may be no slot. */
static tacit_status_t reduce(tacit_comm_t *comm, tacit_slot_t *slot, const void *in, void *out, tacit_status_t mine)
{
    const tacit_item_t item = {.slot = slot, .codec = slot != NULL ? slot->codec : NULL, .in = in, .out = out, .op = TACIT_SUM};
    tacit_operation_t *operation;
    tacit_status_t     status;

    TRY(tacit__operation_create(comm, "tacit_slot_create", &item, item.codec != NULL && mine == TACIT_OK, mine, &operation));
    TRY(tacit__operation_wait(operation));
out:
    return status;
}

static tacit_status_t reduce_natively(tacit_comm_t *comm, const tacit_probe_t *probe)
{
    tacit_status_t status =
        comm->transport.allreduce_wait(comm->transport.context, probe->in, probe->out, probe->count, TACIT_FLOAT32);

    if (status != TACIT_OK) {
        tacit__comm_break(comm);
    }
    return status;
}

tacit_status_t tacit__probe_gather(tacit_comm_t *comm, const float *own, size_t words, tacit_status_t mine, float *all)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t        slot = {.comm = comm, .schedule = tacit__schedule_named("ring")};
    const size_t        count = words * (size_t)comm->ranks;
    float              *places = tacit__alloc(count, sizeof *places); /* a sum in which each rank has one of its own */

    config.count = count;
    config.spec = "none";
    if (mine == TACIT_OK && (places == NULL || all == NULL)) {
        mine = no_memory(comm);
    }
    if (mine == TACIT_OK) {
        memcpy(places + words * (size_t)comm->rank, own, words * sizeof *own);
        mine = tacit__codec_create("(cost)", &config, &comm->config, comm->rank, comm->ranks, &slot.codec);
    }
    mine = reduce(comm, &slot, places, all, mine);
    tacit_codec_destroy(slot.codec);
    tacit__free(places);
    return mine;
}

/* ---- Trials ---- */

/* Each way once. The native call comes last: the ranks of the others end together, where it may let some go early. */
static tacit_status_t try_all(tacit_comm_t *comm, tacit_probe_t *probe, tacit_status_t mine, float seconds[TACIT_WAYS])
{
    tacit_status_t status;

    if (mine != TACIT_OK) {
        return reduce(comm, NULL, NULL, NULL, mine); /* the first operation tells the others */
    }
    for (int framed = 1; framed >= 0; framed--) {
        for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
            tacit_slot_t *slot = &probe->slots[way];
            const double  began = tacit__seconds();

            if (slot->codec != NULL && tacit__schedule_at(way)->framed == framed) {
                TRY(framed ? reduce(comm, slot, probe->in, probe->out, TACIT_OK) : reduce_natively(comm, probe));
                seconds[way] = (float)(tacit__seconds() - began);
            }
        }
    }
    status = TACIT_OK;
out:
    return status;
}

static float slowest(const float *all, int ranks, size_t way)
{
    float most = 0;

    for (int rank = 0; rank < ranks; rank++) {
        most = fmaxf(most, all[(size_t)rank * TACIT_WAYS + way]);
    }
    return most;
}

static int compare(const void *left, const void *right)
{
    const float a = *(const float *)left, b = *(const float *)right;

    return (a > b) - (a < b);
}

/* The first trial only warms up, unless it is the last. */
static tacit_times_t times_of(const float *trials, int count)
{
    const int from = count > 1, left = count - from;
    float     sorted[TRIALS], sum = 0;

    memcpy(sorted, trials + from, (size_t)left * sizeof *sorted);
    qsort(sorted, (size_t)left, sizeof *sorted, compare);
    for (int i = 0; i < left; i++) {
        sum += sorted[i];
    }
    return (tacit_times_t){.usual = sorted[(left - 1) / 2], .mean = sum / (float)left, .least = sorted[0]};
}

tacit_status_t tacit__probe(tacit_comm_t *comm, const tacit_codec_t *like, size_t count, tacit_times_t times_out[TACIT_WAYS],
                            double *round_out)
{
    float          trials[TACIT_WAYS][TRIALS] = {{0}}, own[TACIT_WAYS] = {0};
    float         *all = tacit__alloc((size_t)comm->ranks * TACIT_WAYS, sizeof *all);
    tacit_probe_t *probe = NULL;
    tacit_status_t status = all != NULL ? begin_probe(comm, like, count, &probe) : no_memory(comm);
    double         spent = 0, round = 0, sum = 0;
    int            done = 0;

    while (done < TRIALS && (done < 4 || spent < enough) && (done == 0 || round < patience)) {
        TRY(try_all(comm, probe, status, own));
        TRY(tacit__probe_gather(comm, own, TACIT_WAYS, TACIT_OK, all));
        round = 0;
        for (size_t way = 0; way < TACIT_WAYS; way++) {
            trials[way][done] = slowest(all, comm->ranks, way);
            round += (double)trials[way][done];
        }
        spent += round;
        done++;
    }
    for (size_t way = 0; way < TACIT_WAYS; way++) {
        times_out[way] = times_of(trials[way], done);
        sum += (double)times_out[way].least;
    }
    *round_out = sum;
out:
    end_probe(probe);
    tacit__free(all);
    return status;
}
