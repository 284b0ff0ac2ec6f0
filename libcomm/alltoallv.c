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

static size_t sends(const arguments_t *arguments, int rank)
{
    return arguments->even ? arguments->count : arguments->send_counts[rank];
}

static size_t receives(const arguments_t *arguments, int rank)
{
    return arguments->even ? arguments->count : arguments->receive_counts[rank];
}

static size_t element_of(const arguments_t *arguments)
{
    return arguments->dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

static tacit_status_t check_buffers(const tacit_comm_t *comm, const char *what, const arguments_t *arguments)
{
    const uintptr_t in = (uintptr_t)arguments->in, out = (uintptr_t)arguments->out;
    size_t          sent = 0, received = 0;

    for (int rank = 0; rank < comm->ranks; rank++) {
        sent += sends(arguments, rank) * element_of(arguments);
        received += receives(arguments, rank) * element_of(arguments);
    }
    if ((sent != 0 && in == 0) || (received != 0 && out == 0)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: in or out is NULL", comm->rank, what);
    }
    if (sends(arguments, comm->rank) != receives(arguments, comm->rank)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: it sends itself %zu elements, and receives %zu of them", comm->rank,
                           what, sends(arguments, comm->rank), receives(arguments, comm->rank));
    }
    if (sent != 0 && received != 0 && in < out + received && out < in + sent) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: %s: in and out overlap", comm->rank, what);
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
    if (status == TACIT_OK) {
        status = check_buffers(comm, what, arguments);
    }
out:
    return status;
}

/* Bytes of what it sends other ranks. */
static size_t dense_bytes(const tacit_comm_t *comm, const arguments_t *arguments)
{
    size_t bytes = 0;

    for (int rank = 0; rank < comm->ranks; rank++) {
        bytes += rank != comm->rank ? sends(arguments, rank) * element_of(arguments) : 0;
    }
    return bytes;
}

/* ---- What is carried ---- */

/* Lays out the parts. What is made can be an operation's, which then frees it. */
static tacit_status_t make_job(tacit_comm_t *comm, const char *what, const arguments_t *arguments, tacit_alltoall_t **job_out)
{
    const tacit_key_t key = {comm->config.seed, tacit__hash_text(TACIT_ALLTOALL), 0, (uint64_t)comm->rank};
    tacit_alltoall_t *job = NULL;
    tacit_status_t    status;
    size_t            sent = 0, received = 0;

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
    for (int rank = 0; rank < comm->ranks; rank++) {
        tacit_part_t *part = &job->parts[rank];

        part->send = sends(arguments, rank);
        part->receive = receives(arguments, rank);
        part->in = arguments->in != NULL ? (const uint8_t *)arguments->in + sent : NULL;
        part->out = arguments->out != NULL ? (uint8_t *)arguments->out + received : NULL;
        sent += part->send * element_of(arguments);
        received += part->receive * element_of(arguments);
    }
    job->usual = arguments->even ? arguments->count : 0;
    job->dense_bytes = dense_bytes(comm, arguments);

    *job_out = job;
    job = NULL;
out:
    tacit__alltoall_release(job);
    return status;
}

/* ---- Running ---- */

static void trace(const tacit_comm_t *comm, size_t bytes, double began)
{
    tacit_event_t event = tacit__trace_event(TACIT_TRACE_NATIVE, began, tacit__seconds());

    event.bytes = bytes;
    tacit__trace_begin(comm->trace, TACIT_ALLTOALL, 0);
    tacit__trace_add(comm->trace, &event);
}

/* The transport's own call, and nothing of ours but checks and counters. A fault is this rank's alone: the others are in that
   call, and hear nothing else. */
static tacit_status_t run_native(tacit_comm_t *comm, const char *what, const arguments_t *arguments)
{
    const tacit_transport_t *transport = &comm->transport;
    const size_t             element = element_of(arguments);
    const size_t            *send_counts = arguments->even ? comm->even_counts : arguments->send_counts;
    const size_t            *receive_counts = arguments->even ? comm->even_counts : arguments->receive_counts;
    tacit_counters_t        *counters = &comm->alltoalls;
    tacit_status_t           status;
    double                   began;
    size_t                   bytes;

    TRY(check(comm, what, arguments));
    TRY(tacit__comm_drain(comm));
    for (int rank = 0; rank < comm->ranks && arguments->even; rank++) {
        comm->even_counts[rank] = arguments->count;
    }
    began = tacit__seconds();
    status = transport->alltoallv_wait(transport->context, arguments->in, send_counts, arguments->out, receive_counts, element);
    if (status != TACIT_OK) {
        tacit__comm_break(comm);
        goto out;
    }
    bytes = dense_bytes(comm, arguments);
    tacit__native_note_call(comm, tacit__hash_text(TACIT_ALLTOALL), comm->alltoalls_made++);
    if (comm->trace != NULL) {
        trace(comm, bytes, began);
    }
    counters->calls++;
    counters->bytes_in += bytes;
    counters->dense_bytes += bytes;
    counters->wire_bytes += bytes;
    counters->wire_seconds += tacit__seconds() - began;
    for (int rank = 0; rank < comm->ranks; rank++) {
        counters->network_bytes += rank == comm->rank || comm->exchange.peers[rank].near ? 0 : send_counts[rank] * element;
    }
out:
    return status;
}

/* By frames; request_out NULL: waits. */
static tacit_status_t run_framed(tacit_comm_t *comm, const char *what, const arguments_t *arguments,
                                 tacit_request_t **request_out)
{
    tacit_alltoall_t    *job = NULL;
    const tacit_status_t mine = make_job(comm, what, arguments, &job);
    tacit_status_t       status;

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
    tacit_status_t status = tacit__alltoall_enter(comm, what);

    if (status == TACIT_OK) {
        status = goes_natively(comm, arguments->spec, request_out == NULL) ? run_native(comm, what, arguments)
                                                                           : run_framed(comm, what, arguments, request_out);
        tacit__comm_leave(comm);
    }
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
