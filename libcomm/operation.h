/* SPDX-License-Identifier: Apache-2.0 */
/* One operation of a communicator: its items, the legs that carry them, and the verdict by which all ranks end it alike. */
#ifndef TACIT_OPERATION_H
#define TACIT_OPERATION_H

#include "comm.h"

enum {
    TACIT_LEGS = 11,              /* more than there are schedules */
    TACIT_AGREEMENT_BYTES = 2048, /* a text to agree on and a rank's line, their ends included */
    TACIT_LINE_BYTES = 256
};

typedef enum {
    TACIT_QUEUED,  /* an earlier operation runs */
    TACIT_FRAMED,  /* frames and verdicts are exchanged */
    TACIT_NATIVE,  /* native legs run, after all ranks have agreed on the framed ones */
    TACIT_FINISHED /* status says how */
} tacit_phase_t;

struct tacit_request {
    tacit_comm_t    *comm;
    tacit_request_t *next; /* in the queue */
    const char      *what; /* for messages: "tacit_allreduce" */
    tacit_phase_t    phase;

    tacit_item_t  *items;            /* sorted by slot id */
    tacit_item_t **order;            /* the items by leg */
    size_t         item_count, room; /* of both; how many there is room for */
    tacit_leg_t    legs[TACIT_LEGS];
    size_t         leg_count;
    bool           framed; /* frames are exchanged at all */

    const char *text;     /* of an agreement; NULL: none */
    const char *line;     /* what this rank says of itself with it; NULL: nothing */
    char       *lines;    /* all ranks' lines come here, TACIT_LINE_BYTES each; NULL: nowhere */
    size_t      capacity; /* of messages once all agree; 0: as it is */

    struct tacit_alltoall *alltoall; /* what it carries in place of items; NULL: nothing */

    tacit_frame_t  identity; /* what every frame of this operation says on every rank */
    tacit_status_t fault;    /* found by this rank */
    char           fault_text[TACIT_TEXT_BYTES];
    bool           judged;       /* the own verdict is under way */
    bool           late;         /* the fault was found after that: the verdict says nothing of it */
    double         began, moved; /* when it started, and when something last happened */
    double         gave_up;      /* when it became known that time is up for some rank; 0: not */
    double         told;         /* when the own verdict left, where that is traced */
    double         ended;

    tacit_status_t status; /* the operation's, on all ranks */
    char           status_text[TACIT_TEXT_BYTES];
};

/* Makes an operation of `count` items (copied) and puts it at the queue's end. A status that is not OK is this rank's fault,
   with the last error as its text: the operation then only tells the others. So it does where memory is missing. */
tacit_status_t tacit__operation_create(tacit_comm_t *comm, const char *what, const tacit_item_t *items, size_t count,
                                       tacit_status_t fault, tacit_operation_t **operation_out);
/* Advances the queue once. Returns whether anything happened. */
bool tacit__comm_progress(tacit_comm_t *comm);
/* The first messages of a request go out now, or as soon as the thread wakes: what encoding takes is not taken from the caller
   then. */
void tacit__comm_set_going(tacit_comm_t *comm);
/* Spins for a moment, then lets others run, then sleeps, by the time for which nothing has moved. Returns the time. */
double tacit__idle(double since);
/* Something has moved, for the first time since then: if there was waiting (comm->idle), the trace tells. */
void tacit__comm_waited(tacit_comm_t *comm, double since);
/* Where there is a trace, it is told: that an operation begins, once its items know their schedules; how it ended, once they know
   what they sent; and all of a native call without one, which has ended. */
void tacit__operation_trace(const tacit_operation_t *operation);
void tacit__operation_traced(const tacit_operation_t *operation);
void tacit__native_traced(tacit_item_t *item, double began);
/* Advances until all operations are finished. TACIT_ERR_BROKEN if the communicator is. */
tacit_status_t tacit__comm_drain(tacit_comm_t *comm);
/* Advances until the operation is finished. Returns its status and sets the last error; frees it. */
tacit_status_t tacit__operation_wait(tacit_operation_t *operation);
/* The status of a finished operation, with its text as last error; frees it. */
tacit_status_t tacit__operation_end(tacit_operation_t *operation);
/* Takes an unfinished operation down; its memory serves the next one. */
void tacit__operation_destroy(tacit_operation_t *operation);
void tacit__operation_free(tacit_operation_t *operation);

/* identity.c: fills in what every frame of an operation says, from its items; and compares a peer's frame with it:
   TACIT_ERR_MISMATCH. A verdict that is a fault may come from a rank that is elsewhere. */
void           tacit__operation_identify(tacit_operation_t *operation);
tacit_status_t tacit__operation_check_identity(const tacit_operation_t *operation, const tacit_frame_t *frame);

/* verdict.c: sends the own verdict to all, twice; notes a peer's. */
tacit_status_t tacit__verdict_send(tacit_operation_t *operation);
void           tacit__verdict_take(tacit_peer_t *from, const tacit_frame_t *frame);
/* Some rank has failed, as far as is known here. */
bool tacit__verdict_is_fault(const tacit_operation_t *operation);
/* The own verdict is under way, and all others' are here. */
bool tacit__verdict_is_complete(const tacit_operation_t *operation);
/* The operation's status from all verdicts so far, and its text where it is a fault. */
tacit_status_t tacit__verdict_status(const tacit_operation_t *operation, const char **text_out);
/* Nothing works on the communicator after it. */
bool tacit__status_is_fatal(tacit_status_t status);

/* The header that a leg's frame begins with; kind, index, total and ranges are the caller's to fill in. */
tacit_frame_t  tacit__leg_frame(const tacit_leg_t *leg, tacit_frame_kind_t kind);
tacit_status_t tacit__leg_send(const tacit_leg_t *leg, int peer, const uint8_t *message, size_t bytes);
/* A native call is done: scales an average, counts the bytes … */
void tacit__native_finish(const tacit_comm_t *comm, tacit_item_t *item);
/* What of its bytes leaves for other hosts, in a ring that goes from host to host, on average. */
uint64_t tacit__native_network_bytes(const tacit_comm_t *comm, const tacit_item_t *item);
/* … and is remembered, to be compared in the next framed operation. */
void tacit__native_note(tacit_comm_t *comm, const tacit_item_t *item);
/* The same of any call: what it is on, and which. */
void tacit__native_note_call(tacit_comm_t *comm, uint64_t subject, uint64_t call);
/* A fault of values in an item: TACIT_ERR_VALUE with rank, slot and step. */
tacit_status_t tacit__item_fault(const tacit_item_t *item);
/* A frame that its leg did not expect. */
tacit_status_t tacit__leg_unexpected(const tacit_leg_t *leg, const tacit_frame_t *frame);

#endif
