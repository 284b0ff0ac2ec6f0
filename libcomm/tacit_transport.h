/* SPDX-License-Identifier: Apache-2.0 */
/* How Tacit moves bytes: a table that a framework may fill in for its own network, and the one that runs in one process. */
#ifndef TACIT_TRANSPORT_H
#define TACIT_TRANSPORT_H

#include <tacit.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Room for a transport's own handle of one message under way. */
typedef struct tacit_ticket {
    void *opaque[2];
} tacit_ticket_t;

/* Between two ranks, messages arrive in the order in which they were sent and receives are matched in the order in which they
   were posted. No call waits. A communicator uses its transport from one thread at a time; with any_thread, that may be one of
   its own. */
typedef struct tacit_transport {
    size_t      struct_bytes; /* sizeof(tacit_transport_t) */
    const char *name;
    void       *context; /* first argument of every call; freed by destroy */
    int         rank, ranks;

    /* `data` stays valid and unchanged until test() says that the message is done. Sizes are at most 2^31 - 1. */
    tacit_status_t (*send)(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket);
    tacit_status_t (*receive)(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket);
    /* TACIT_OK when done (bytes_out: the size of a received message), TACIT_PENDING, or TACIT_ERR_TRANSPORT. */
    tacit_status_t (*test)(void *context, tacit_ticket_t *ticket, size_t *bytes_out);
    /* Ends a receive: TACIT_OK if it was withdrawn, TACIT_PENDING if a message had already met it (test() then says it is
       done). Sends are never cancelled. */
    tacit_status_t (*cancel)(void *context, tacit_ticket_t *ticket);

    /* Optional, done when test() says so: a native sum of count elements; in == out allowed. TACIT_ERR_UNSUPPORTED for
       a dtype it lacks. NULL: none. */
    tacit_status_t (*allreduce)(void *context, const void *in, void *out, size_t count, tacit_dtype_t dtype,
                                tacit_ticket_t *ticket);
    /* Optional: the same, waiting; chosen where nothing else is to be done meanwhile. */
    tacit_status_t (*allreduce_wait)(void *context, const void *in, void *out, size_t count, tacit_dtype_t dtype);

    void (*destroy)(void *context);

    /* Optional: the communicator has failed; destroy is all that follows. Messages of late peers may still come, and must not
       meet a later transport's receives. */
    void (*abandon)(void *context);

    /* Optional: the name of the machine that this rank runs on: ranks with the same one share its memory and its links. NULL: not
       known; then no other rank is taken to be there, and where on the machine this one is, is not looked for. */
    const char *host;

    /* Optional: not 0 where calls, one at a time, may come from a thread of the library's, while the program is in other calls on
       the same network. 0: no communicator of this transport has a progress thread. */
    int any_thread;

    /* Optional: the network's library and its version. What was measured with another one is not believed. */
    const char *build;

    /* Optional: an all-to-all, waiting: parts of `in` and `out`, in the order of ranks, have so many elements each, of
       element_bytes, 4 or 2. An error ends the communicator. */
    tacit_status_t (*alltoallv_wait)(void *context, const void *in, const size_t *send_counts, void *out,
                                     const size_t *receive_counts, size_t element_bytes);
} tacit_transport_t;

/* Records what went wrong in a transport as this thread's last error; returns status. */
TACIT_API tacit_status_t tacit_transport_fail(tacit_status_t status, const char *text);

/* Makes a communicator from a transport, which it owns from now on, also when this call fails. Collective. `config` may be
   NULL. */
TACIT_API tacit_status_t tacit_comm_create(const tacit_transport_t *transport, const tacit_config_t *config,
                                           tacit_comm_t **comm_out);

/* Ends the communicator's progress thread, if it has one; from then on requests advance in calls only. For a transport whose
   network ends before the communicator is destroyed. Local; accepts NULL. */
TACIT_API_VOID void tacit_comm_end_thread(tacit_comm_t *comm);

/* ---- Loop: ranks that are threads of one process, for tests and for learning ---- */

typedef struct tacit_loop tacit_loop_t;

/* What happens to one message: the nth (from 0) that `from` sends to `to` after tacit_loop_inject(). */
typedef enum tacit_loop_fault {
    TACIT_LOOP_FLIP,   /* bit `where` of the message is inverted (modulo its length) */
    TACIT_LOOP_CUT,    /* only `where` bytes arrive (if it has more) */
    TACIT_LOOP_REPEAT, /* it arrives twice */
    TACIT_LOOP_DROP,   /* it does not arrive */
    TACIT_LOOP_DELAY   /* it arrives `where` milliseconds late, and so do those behind it */
} tacit_loop_fault_t;

/* Joins `ranks` endpoints. Freed with the last of its transports and tacit_loop_release(), whichever comes last. */
TACIT_API tacit_status_t tacit_loop_create(int ranks, tacit_loop_t **loop_out);
/* The endpoint of one rank, to be given to tacit_comm_create(). Thread-safe. */
TACIT_API tacit_status_t tacit_loop_transport(tacit_loop_t *loop, int rank, tacit_transport_t *transport_out);
/* Arranges one wire fault; an earlier one between the same ranks is forgotten. Thread-safe. */
TACIT_API tacit_status_t tacit_loop_inject(tacit_loop_t *loop, tacit_loop_fault_t fault, int from, int to, size_t nth,
                                           size_t where);
TACIT_API_VOID void      tacit_loop_release(tacit_loop_t *loop);

#ifdef __cplusplus
}
#endif
#endif
