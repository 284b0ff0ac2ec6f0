/* SPDX-License-Identifier: Apache-2.0 */
/* The entry of every all-to-all: arguments, the short way of native calls, and requests. */
#include "alltoall.h"

#include <string.h>

#include "operation.h"

typedef struct arguments {
    const char   *spec;
    tacit_dtype_t dtype;
    const void   *in;
    void         *out;
    bool          even; /* `count` with every rank; else these, of each */
    size_t        count;
    const size_t *send_counts, *receive_counts;
} arguments_t;

/* ---- Faults that this rank sees alone ---- */

static tacit_status_t check_counts(const tacit_comm_t *comm, const char *what, const char *name, const size_t *counts)
{
    if (counts == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: %s must be given", comm->rank, what, name);
    }
    for (int rank = 0; rank < comm->ranks; rank++) {
        if (counts[rank] > UINT32_MAX) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: %s[%d] is %zu; a part has fewer than 2^32 elements", comm->rank,
                               what, name, rank, counts[rank]);
        }
    }
    return TACIT_OK;
}

static tacit_status_t check(const tacit_comm_t *comm, const char *what, const arguments_t *arguments)
{
    tacit_status_t status;

    if (arguments->dtype < TACIT_FLOAT32 || arguments->dtype > TACIT_BFLOAT16) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: dtype %d is unknown", comm->rank, what, (int)arguments->dtype);
    } else if (!arguments->even) {
        TRY(check_counts(comm, what, "send_counts", arguments->send_counts));
        TRY(check_counts(comm, what, "receive_counts", arguments->receive_counts));
    } else {
        status = arguments->count <= UINT32_MAX
                     ? TACIT_OK
                     : tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: count is %zu; a part has fewer than 2^32 elements",
                                   comm->rank, what, arguments->count);
    }
out:
    return status;
}

static tacit_status_t check_buffers(const tacit_comm_t *comm, const char *what, const arguments_t *arguments, size_t sent,
                                    size_t received)
{
    const uintptr_t in = (uintptr_t)arguments->in, out = (uintptr_t)arguments->out;

    if ((sent != 0 && in == 0) || (received != 0 && out == 0)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: in or out is NULL", comm->rank, what);
    }
    if (!arguments->even && arguments->send_counts[comm->rank] != arguments->receive_counts[comm->rank]) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: it sends itself %zu elements, and receives %zu of them", comm->rank,
                           what, arguments->send_counts[comm->rank], arguments->receive_counts[comm->rank]);
    }
    if (sent != 0 && received != 0 && in < out + received && out < in + sent) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: in and out overlap", comm->rank, what);
    }
    return TACIT_OK;
}

/* ---- What is carried ---- */

/* Lays out the parts. What is made can be an operation's, which then frees it. */
static tacit_status_t make_job(tacit_comm_t *comm, const char *what, const arguments_t *arguments, tacit_alltoall_t **job_out)
{
    const tacit_key_t key = {comm->config.seed, tacit__hash_text(TACIT_ALLTOALL), 0, (uint64_t)comm->rank};
    tacit_alltoall_t *job = NULL;
    tacit_status_t    status;
    size_t            sent = 0, received = 0, element;

    TRY(check(comm, what, arguments));
    job = tacit__alloc(1, sizeof *job + sizeof *job->values + (size_t)comm->ranks * sizeof *job->parts);
    if (job == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for parts of %d ranks", comm->rank, what, comm->ranks);
        goto out;
    }
    *job = (tacit_alltoall_t){.name = TACIT_ALLTOALL, .made = &comm->alltoalls_made, .counters = &comm->alltoalls, .owned = true};
    job->values = (void *)(job + 1);
    job->parts = (void *)(job->values + 1);
    TRY(tacit__values_init(job->values, what, comm->environment.disable != 0 ? NULL : arguments->spec, arguments->dtype,
                           (tacit_nonfinite_t)comm->config.nonfinite, &key));
    element = tacit__values_element_bytes(job->values);
    for (int rank = 0; rank < comm->ranks; rank++) {
        tacit_part_t *part = &job->parts[rank];

        part->send = arguments->even ? arguments->count : arguments->send_counts[rank];
        part->receive = arguments->even ? arguments->count : arguments->receive_counts[rank];
        part->in = arguments->in != NULL ? (const uint8_t *)arguments->in + sent : NULL;
        part->out = arguments->out != NULL ? (uint8_t *)arguments->out + received : NULL;
        sent += part->send * element;
        received += part->receive * element;
    }
    job->usual = arguments->even ? arguments->count : 0;
    job->dense_bytes = sent - job->parts[comm->rank].send * element;
    TRY(check_buffers(comm, what, arguments, sent, received));

    *job_out = job;
    job = NULL;
out:
    tacit__alltoall_release(job);
    return status;
}

/* ---- Running ---- */

static void trace(const tacit_comm_t *comm, const tacit_alltoall_t *job, double began)
{
    tacit_event_t event = tacit__trace_event(TACIT_TRACE_NATIVE, began, tacit__seconds());

    event.bytes = job->dense_bytes;
    tacit__trace_begin(comm->trace, job->name, 0);
    tacit__trace_add(comm->trace, &event);
}

/* The transport's own call, and nothing of ours but counters. */
static tacit_status_t run_native(tacit_comm_t *comm, const tacit_alltoall_t *job)
{
    const tacit_transport_t *transport = &comm->transport;
    const size_t             ranks = (size_t)comm->ranks, element = tacit__values_element_bytes(job->values);
    const double             began = tacit__seconds();
    tacit_counters_t        *counters = &comm->alltoalls;
    size_t                  *counts = tacit__alloc(2 * ranks, sizeof *counts);
    tacit_status_t           status;

    if (counts == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for the counts of %d ranks", comm->rank, comm->ranks);
    }
    for (size_t rank = 0; rank < ranks; rank++) {
        counts[rank] = job->parts[rank].send;
        counts[ranks + rank] = job->parts[rank].receive;
    }
    TRY(transport->alltoallv_wait(transport->context, job->parts[0].in, counts, job->parts[0].out, counts + ranks, element));
    tacit__native_note_call(comm, job->values->key.slot, comm->alltoalls_made++);
    if (comm->trace != NULL) {
        trace(comm, job, began);
    }
    counters->calls++;
    counters->bytes_in += job->dense_bytes;
    counters->dense_bytes += job->dense_bytes;
    counters->wire_bytes += job->dense_bytes;
    counters->wire_seconds += tacit__seconds() - began;
    for (size_t rank = 0; rank < ranks; rank++) {
        counters->network_bytes +=
            (int)rank == comm->rank || comm->exchange.peers[rank].near ? 0 : job->parts[rank].send * element;
    }
out:
    tacit__free(counts);
    if (status != TACIT_OK) {
        tacit__comm_break(comm);
    }
    return status;
}

/* By frames; request_out NULL: waits. Takes the job, which is NULL where `mine` is a fault. */
static tacit_status_t run_framed(tacit_comm_t *comm, const char *what, tacit_alltoall_t *job, tacit_status_t mine,
                                 tacit_request_t **request_out)
{
    tacit_status_t status;

    if (request_out == NULL) {
        return tacit__alltoall_run(comm, what, job, mine);
    }
    status = tacit__alltoall_start(comm, what, job, mine, request_out);
    if (status == TACIT_OK) {
        tacit__comm_set_going(comm);
    }
    return status;
}

/* Whether it goes by the transport's own call: the same on all ranks, also where one has made a mistake. */
static bool goes_natively(const tacit_comm_t *comm, const char *spec, bool waits)
{
    const bool exact = spec == NULL || strcmp(spec, "none") == 0 || comm->environment.disable != 0;

    return waits && exact && comm->transport.alltoallv_wait != NULL && comm->environment.check == 0;
}

static tacit_status_t run(tacit_comm_t *comm, const char *what, const arguments_t *arguments, tacit_request_t **request_out)
{
    tacit_status_t    status = tacit__alltoall_enter(comm, what), mine;
    tacit_alltoall_t *job = NULL;

    if (status != TACIT_OK) {
        return status;
    }
    mine = make_job(comm, what, arguments, &job);
    if (goes_natively(comm, arguments->spec, request_out == NULL)) {
        TRY(mine); /* the others are in their transport's call, and hear nothing else */
        TRY(tacit__comm_drain(comm));
        TRY(run_native(comm, job));
    } else {
        tacit_alltoall_t *carried = job;

        job = NULL;
        TRY(run_framed(comm, what, carried, mine, request_out));
    }
out:
    tacit__alltoall_release(job);
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit_alltoallv(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in,
                               const size_t *send_counts, void *out, const size_t *receive_counts)
{
    return run(comm, "tacit_alltoallv", &(arguments_t){spec, dtype, in, out, false, 0, send_counts, receive_counts}, NULL);
}

tacit_status_t tacit_alltoall(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in, size_t count, void *out)
{
    return run(comm, "tacit_alltoall", &(arguments_t){spec, dtype, in, out, true, count, NULL, NULL}, NULL);
}

static tacit_status_t start(tacit_comm_t *comm, const char *what, const arguments_t *arguments, tacit_request_t **request_out)
{
    return request_out != NULL ? run(comm, what, arguments, request_out)
                               : tacit__fail(TACIT_ERR_ARGUMENT, "%s: request_out must be given", what);
}

tacit_status_t tacit_ialltoallv(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in,
                                const size_t *send_counts, void *out, const size_t *receive_counts, tacit_request_t **request_out)
{
    return start(comm, "tacit_ialltoallv", &(arguments_t){spec, dtype, in, out, false, 0, send_counts, receive_counts},
                 request_out);
}

tacit_status_t tacit_ialltoall(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in, size_t count, void *out,
                               tacit_request_t **request_out)
{
    return start(comm, "tacit_ialltoall", &(arguments_t){spec, dtype, in, out, true, count, NULL, NULL}, request_out);
}

tacit_status_t tacit_alltoall_counters(const tacit_comm_t *comm, tacit_counters_t *counters_out)
{
    if (comm == NULL || counters_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "comm and counters_out must be given");
    }
    *counters_out = comm->alltoalls;
    return TACIT_OK;
}
