/* SPDX-License-Identifier: Apache-2.0 */
/* What this rank did when, for TACIT_TRACE: pieces of work and messages, the last ones kept, written when the communicator ends
   as JSON for Chrome's trace viewer or Perfetto. A leaf header. A trace that is NULL is off. */
#ifndef TACIT_TRACE_H
#define TACIT_TRACE_H

#include "frame.h"

/* What an event is; in the picture, its lane. */
typedef enum {
    TACIT_TRACE_OPERATION, /* from start to end */
    TACIT_TRACE_ENCODE,
    TACIT_TRACE_ADD,    /* contributions added up and, where owners encode again, that */
    TACIT_TRACE_DECODE, /* into the result */
    TACIT_TRACE_WAIT,   /* nothing could be done */
    TACIT_TRACE_RECEIVE,
    TACIT_TRACE_VERDICT, /* from the own verdict to the common one */
    TACIT_TRACE_NATIVE,
    TACIT_TRACE_SLOT, /* the end of one of several slots' part in an operation: a moment */
    TACIT_TRACE_SEND  /* last: each peer has a lane of its own */
} tacit_trace_lane_t;

typedef struct tacit_trace tacit_trace_t;

/* How a slot's operations go, as long as they go like that. */
typedef struct tacit_traced {
    char                *slot, *spec; /* its name; as given */
    const char          *schedule;
    uint64_t             dense_bytes; /* that a dense ring sends in a call */
    struct tacit_traced *next;
} tacit_traced_t;

typedef struct tacit_event {
    const char           *name; /* which lives as long as the trace; NULL: the lane's */
    double                began, ended;
    size_t                bytes;            /* of the tensor, where it is work; of the message */
    double                queued;           /* seconds that a message or a native call waited for the one before it */
    const char           *slot;             /* which lives as long; NULL: filled in by add(), the operation's … */
    const tacit_traced_t *plan;             /* of what ends an operation; NULL: the slots of a group have several */
    uint64_t              payload_bytes;    /* that left in it, of one slot … */
    uint64_t              wire_bytes;       /* … with headers */
    int64_t               round, index;     /* -1: none */
    int                   peer;             /* -1: none */
    uint32_t              operation, slots; /* … as are these: its number, and how many slots it has */
    int16_t               status;           /* of an operation; of a message that was given up TACIT_PENDING */
    uint8_t               lane;             /* tacit_trace_lane_t */
} tacit_event_t;

/* NULL, after a warning, where the file cannot be written or there is no memory; and without one where `pattern` is NULL. In it
   %r is the rank, and %c the communicator's number in its process; without %r, ".RANK" follows. */
tacit_trace_t *tacit__trace_create(const char *pattern, int rank, int ranks);
/* Writes the file. */
void tacit__trace_destroy(tacit_trace_t *trace);

/* What follows is of the next operation, on so many slots, of which this is the first's name (or the call's, where there is
   none); it lives as long as the trace. */
void tacit__trace_begin(tacit_trace_t *trace, const char *slot, size_t slots);
void tacit__trace_add(tacit_trace_t *trace, const tacit_event_t *event);
/* One that is kept as long as the trace; NULL: there is no memory for it. */
const tacit_traced_t *tacit__trace_plan(tacit_trace_t *trace, const char *slot, const char *spec, const char *schedule,
                                        uint64_t dense_bytes);
/* An event of the whole operation, to be completed and added. */
tacit_event_t tacit__trace_event(tacit_trace_lane_t lane, double began, double ended);
/* To read the clock costs as much as an event: what has no length, or follows what has been timed, has the time that was read
   last. This one was … */
void tacit__trace_at(tacit_trace_t *trace, double seconds);
/* … and this is it; 0: there is no trace. */
double tacit__trace_now(const tacit_trace_t *trace);
/* A message is gone (TACIT_OK), or given up (TACIT_PENDING). Messages to a rank leave one after the other: an event begins when
   the one before has ended. */
void tacit__trace_sent(tacit_trace_t *trace, int peer, const uint8_t *message, double posted, tacit_status_t status);
/* A frame has come, and was taken in. */
void tacit__trace_received(tacit_trace_t *trace, const tacit_frame_t *frame, double began);
/* Now, if somebody wants to know. */
static inline double tacit__trace_seconds(const tacit_trace_t *trace)
{
    return trace != NULL ? tacit__seconds() : 0;
}

#endif
