/* SPDX-License-Identifier: Apache-2.0 */
/* The MPI transport: libtacit_mpi. It calls only public functions of libtacit. No MPI error ends the program: the duplicate
   communicator returns them, and after one nothing about it is trusted. */
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tacit_mpi.h"
#include "tacit_transport.h"

enum {
    TAG = 0x7AC1,
    PIECE = 1 << 30,   /* elements of one native call: MPI counts with int */
    CANCEL_LOOKS = 100 /* at a receive that was cancelled, before it is taken for one that its message has met */
};

typedef struct tacit_mpi {
    MPI_Comm      comm;
    tacit_comm_t *user;   /* once it is made */
    int           keyval; /* of the attribute by which MPI_Finalize() tells us */
    bool          gone;   /* it has */
    bool          failed; /* messages may still be on their way here */
    int           ranks;
    int          *parts; /* room for an all-to-all's counts, sent and received, and where these begin */
    char          host[MPI_MAX_PROCESSOR_NAME + 1];
    char          build[MPI_MAX_LIBRARY_VERSION_STRING + 1];
} tacit_mpi_t;

_Static_assert(sizeof(MPI_Request) <= sizeof(tacit_ticket_t), "a ticket holds a request");

/* Apart, since its text would be cleared in every call. */
__attribute__((noinline)) static tacit_status_t failed(const tacit_mpi_t *mpi, int mpi_status)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "MPI reports an unknown error";
    int  length;

    if (mpi->gone) {
        return tacit_transport_fail(TACIT_ERR_BROKEN, "MPI_Finalize() has been called: destroy communicators before it");
    }
    (void)MPI_Error_string(mpi_status, text, &length);
    return tacit_transport_fail(TACIT_ERR_TRANSPORT, text);
}

static tacit_status_t checked(const tacit_mpi_t *mpi, int mpi_status)
{
    return mpi_status == MPI_SUCCESS && !mpi->gone ? TACIT_OK : failed(mpi, mpi_status);
}

static void keep(tacit_ticket_t *ticket, MPI_Request request)
{
    memset(ticket, 0, sizeof *ticket);
    memcpy(ticket, &request, sizeof request);
}

static MPI_Request kept(const tacit_ticket_t *ticket)
{
    MPI_Request request;

    memcpy(&request, ticket, sizeof request);
    return request;
}

static tacit_status_t mpi_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    const tacit_mpi_t *mpi = context;
    MPI_Request        request = MPI_REQUEST_NULL;
    tacit_status_t status = checked(mpi, mpi->gone ? 0 : MPI_Isend(data, (int)bytes, MPI_BYTE, peer, TAG, mpi->comm, &request));

    keep(ticket, request);
    return status;
}

static tacit_status_t mpi_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    const tacit_mpi_t *mpi = context;
    MPI_Request        request = MPI_REQUEST_NULL;
    tacit_status_t     status =
        checked(mpi, mpi->gone ? 0 : MPI_Irecv(data, (int)capacity, MPI_BYTE, peer, TAG, mpi->comm, &request));

    keep(ticket, request);
    return status;
}

static tacit_status_t mpi_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    const tacit_mpi_t *mpi = context;
    MPI_Request        request = kept(ticket);
    MPI_Status         message;
    tacit_status_t     status;
    int                done = 0, bytes = 0;

    status = checked(mpi, mpi->gone ? 0 : MPI_Test(&request, &done, &message));
    if (status != TACIT_OK) {
        return status;
    }
    keep(ticket, request);
    if (!done) {
        return TACIT_PENDING;
    }
    status = checked(mpi, MPI_Get_count(&message, MPI_BYTE, &bytes));
    if (status != TACIT_OK) {
        return status;
    }
    *bytes_out = bytes == MPI_UNDEFINED ? 0 : (size_t)bytes;
    return TACIT_OK;
}

/* A receive may have met its message already. */
static tacit_status_t mpi_cancel(void *context, tacit_ticket_t *ticket)
{
    const tacit_mpi_t *mpi = context;
    MPI_Request        request = kept(ticket);
    MPI_Status         message;
    tacit_status_t     status;
    int                done = 0, cancelled = 0;

    if (mpi->gone || request == MPI_REQUEST_NULL) {
        return TACIT_OK;
    }
    status = checked(mpi, MPI_Request_get_status(request, &done, &message));
    if (status == TACIT_OK && !done) {
        status = checked(mpi, MPI_Cancel(&request));
    }
    if (status != TACIT_OK || done) {
        return status != TACIT_OK ? status : TACIT_PENDING;
    }
    /* It ends at once, one way or the other. What has met its message stays to be tested. */
    for (int look = 0; look < CANCEL_LOOKS && !done && status == TACIT_OK; look++) {
        status = checked(mpi, MPI_Request_get_status(request, &done, &message));
    }
    if (status == TACIT_OK && done) {
        status = checked(mpi, MPI_Test_cancelled(&message, &cancelled));
    }
    if (status != TACIT_OK || !cancelled) {
        keep(ticket, request);
        return status != TACIT_OK ? status : TACIT_PENDING;
    }
    status = checked(mpi, MPI_Wait(&request, &message));
    keep(ticket, MPI_REQUEST_NULL);
    return status;
}

static tacit_status_t mpi_allreduce_wait(void *context, const void *in, void *out, size_t count, tacit_dtype_t dtype)
{
    const tacit_mpi_t *mpi = context;
    const float       *from = in;
    float             *to = out;
    tacit_status_t     status = checked(mpi, MPI_SUCCESS);

    if (status != TACIT_OK || dtype != TACIT_FLOAT32) {
        return status != TACIT_OK ? status : TACIT_ERR_UNSUPPORTED;
    }
    for (size_t done = 0; done < count || done == 0; done += PIECE) {
        int piece = count - done < PIECE ? (int)(count - done) : PIECE;

        status = checked(mpi, MPI_Allreduce(in == out ? MPI_IN_PLACE : from, to, piece, MPI_FLOAT, MPI_SUM, mpi->comm));
        if (status != TACIT_OK || piece == 0) { /* what has no elements may be NULL */
            break;
        }
        from += piece;
        to += piece;
    }
    return status;
}

/* One request a ticket: a reduction of more elements than one call takes is done at once. */
static tacit_status_t mpi_allreduce(void *context, const void *in, void *out, size_t count, tacit_dtype_t dtype,
                                    tacit_ticket_t *ticket)
{
    const tacit_mpi_t *mpi = context;
    MPI_Request        request = MPI_REQUEST_NULL;
    tacit_status_t     status = checked(mpi, MPI_SUCCESS);

    if (status != TACIT_OK || dtype != TACIT_FLOAT32) {
        return status != TACIT_OK ? status : TACIT_ERR_UNSUPPORTED;
    }
    if (count > PIECE) {
        status = mpi_allreduce_wait(context, in, out, count, dtype);
    } else {
        status =
            checked(mpi, MPI_Iallreduce(in == out ? MPI_IN_PLACE : in, out, (int)count, MPI_FLOAT, MPI_SUM, mpi->comm, &request));
    }
    keep(ticket, request);
    return status;
}

/* counts and displacements as MPI takes them. False: they do not fit. */
static bool as_ints(const size_t *counts, int ranks, int *ints, int *displacements)
{
    size_t at = 0;

    for (int rank = 0; rank < ranks; rank++) {
        if (counts[rank] > INT_MAX || at > INT_MAX) {
            return false;
        }
        ints[rank] = (int)counts[rank];
        displacements[rank] = (int)at;
        at += counts[rank];
    }
    return true;
}

static tacit_status_t mpi_alltoallv_wait(void *context, const void *in, const size_t *send_counts, void *out,
                                         const size_t *receive_counts, size_t element_bytes)
{
    const tacit_mpi_t *mpi = context;
    const MPI_Datatype type = element_bytes == 4 ? MPI_UINT32_T : MPI_UINT16_T;
    int *const sends = mpi->parts, *const send_at = sends + mpi->ranks;
    int *const receives = send_at + mpi->ranks, *const receive_at = receives + mpi->ranks;

    if (!as_ints(send_counts, mpi->ranks, sends, send_at) || !as_ints(receive_counts, mpi->ranks, receives, receive_at)) {
        return tacit_transport_fail(TACIT_ERR_UNSUPPORTED, "MPI_Alltoallv() takes parts that begin below 2^31 elements only");
    }
    return checked(mpi, mpi->gone ? 0 : MPI_Alltoallv(in, sends, send_at, type, out, receives, receive_at, type, mpi->comm));
}

/* ---- Making and ending; MPI may end first ---- */

/* Deletes an attribute of MPI_COMM_SELF: either from mpi_destroy(), or because MPI_Finalize() does so before anything else. */
static int end_comm(MPI_Comm self, int keyval, void *attribute, void *extra)
{
    tacit_mpi_t *mpi = attribute;

    (void)self;
    (void)keyval;
    (void)extra;
    tacit_comm_end_thread(mpi->user);
    mpi->gone = true;
    /* MPI would give a freed communicator's context to the next one, which would receive what comes late. */
    return mpi->failed ? MPI_SUCCESS : MPI_Comm_free(&mpi->comm);
}

static void mpi_destroy(void *context)
{
    tacit_mpi_t *mpi = context;

    if (!mpi->gone && MPI_Comm_delete_attr(MPI_COMM_SELF, mpi->keyval) == MPI_SUCCESS) {
        (void)MPI_Comm_free_keyval(&mpi->keyval);
    }
    free(mpi->parts);
    free(mpi);
}

static void mpi_abandon(void *context)
{
    ((tacit_mpi_t *)context)->failed = true;
}

/* Duplicates the caller's communicator, so that messages never meet; not its attributes, whose functions are the caller's. */
static tacit_status_t init(tacit_mpi_t *mpi, MPI_Comm mpi_comm, tacit_transport_t *transport)
{
    tacit_status_t status = checked(mpi, MPI_Comm_split(mpi_comm, 0, 0, &mpi->comm));
    int            length, level;

    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN));
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Comm_rank(mpi->comm, &transport->rank));
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Comm_size(mpi->comm, &mpi->ranks));
        transport->ranks = mpi->ranks;
    }
    if (status == TACIT_OK && (mpi->parts = calloc(4 * (size_t)mpi->ranks, sizeof *mpi->parts)) == NULL) {
        status = tacit_transport_fail(TACIT_ERR_MEMORY, "no memory for an MPI transport");
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Get_processor_name(mpi->host, &length));
        transport->host = mpi->host;
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Get_library_version(mpi->build, &length));
        transport->build = mpi->build;
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Query_thread(&level));
        transport->any_thread = level == MPI_THREAD_MULTIPLE;
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, end_comm, &mpi->keyval, NULL));
    }
    if (status == TACIT_OK) {
        status = checked(mpi, MPI_Comm_set_attr(MPI_COMM_SELF, mpi->keyval, mpi));
    }
    return status;
}

tacit_status_t tacit_comm_create_mpi(MPI_Comm mpi_comm, const tacit_config_t *config, tacit_comm_t **comm_out)
{
    tacit_transport_t transport = {
        .struct_bytes = sizeof transport,
        .name = "mpi",
        .send = mpi_send,
        .receive = mpi_receive,
        .test = mpi_test,
        .cancel = mpi_cancel,
        .allreduce = mpi_allreduce,
        .allreduce_wait = mpi_allreduce_wait,
        .destroy = mpi_destroy,
        .abandon = mpi_abandon,
        .alltoallv_wait = mpi_alltoallv_wait,
    };
    tacit_mpi_t   *mpi;
    tacit_status_t status;
    int            initialized = 0, finalized = 0, inter = 0;

    if (MPI_Initialized(&initialized) != MPI_SUCCESS || !initialized || MPI_Finalized(&finalized) != MPI_SUCCESS || finalized) {
        return tacit_transport_fail(TACIT_ERR_STATE, "call tacit_comm_create_mpi() between MPI_Init() and MPI_Finalize()");
    }
    if (comm_out == NULL || mpi_comm == MPI_COMM_NULL || MPI_Comm_test_inter(mpi_comm, &inter) != MPI_SUCCESS || inter) {
        return tacit_transport_fail(TACIT_ERR_ARGUMENT, "mpi_comm must be an intracommunicator and comm_out be given");
    }
    mpi = calloc(1, sizeof *mpi);
    if (mpi == NULL) {
        return tacit_transport_fail(TACIT_ERR_MEMORY, "no memory for an MPI transport");
    }
    status = init(mpi, mpi_comm, &transport);
    if (status != TACIT_OK) {
        free(mpi->parts);
        free(mpi);
        return status;
    }
    transport.context = mpi;
    status = tacit_comm_create(&transport, config, comm_out);
    if (status == TACIT_OK) {
        mpi->user = *comm_out;
    }
    return status;
}
