/* SPDX-License-Identifier: Apache-2.0 */
/* All-to-alls from inside: what both schedules know of what goes to each rank and comes from it. */
#ifndef TACIT_ALLTOALL_STATE_H
#define TACIT_ALLTOALL_STATE_H

#include "alltoall.h"
#include "outbox.h"

typedef struct tacit_to {
    tacit_outbox_t outbox;
    size_t         head, elements; /* so many bytes and elements have left … */
    uint32_t       heads, rows;    /* … in so many messages */
    bool           relayed;        /* all of it goes by way of a relay, which counts as sent here */
} tacit_to_t;

typedef struct tacit_from {
    uint8_t *head;
    size_t   head_bytes, head_here; /* of all, and here */
    size_t   elements;              /* here … */
    uint32_t rows;                  /* … in so many messages, of which one may have none */
    bool     met;                   /* the head is whole */
} tacit_from_t;

typedef struct tacit_relay tacit_relay_t; /* two_level_alltoall.c */

typedef struct tacit_alltoall_state {
    tacit_buffer_t memory;
    tacit_to_t    *to;
    tacit_from_t  *from;
    int            turn;   /* the rank that is next to be sent something */
    int            unsent; /* ranks that have not been sent all */
    int            due;    /* ranks from which not all is here */
    size_t         own;    /* elements of the own part that are copied */
    tacit_relay_t *relay;  /* NULL: parts go straight to their ranks */
} tacit_alltoall_state_t;

/* Payload of a message to a rank, at most. */
size_t tacit__alltoall_chunk_bytes(const tacit_comm_t *comm, int rank);
/* Encodes the next `count` elements of a rank's part. */
tacit_status_t tacit__alltoall_encode(const tacit_leg_t *leg, int rank, size_t count, uint8_t *payload);
/* A piece of a head, or of elements, of frame->rank's. */
tacit_status_t tacit__alltoall_take_head(tacit_leg_t *leg, const tacit_frame_t *frame);
tacit_status_t tacit__alltoall_take_rows(tacit_leg_t *leg, const tacit_frame_t *frame);

/* The flat schedule's, of which the other one is made. */
bool           tacit__alltoall_carries(const tacit_comm_t *comm, const tacit_codec_t *codec);
tacit_status_t tacit__alltoall_prepare(tacit_leg_t *leg);
tacit_status_t tacit__alltoall_advance(tacit_leg_t *leg);
bool           tacit__alltoall_done(const tacit_leg_t *leg);
tacit_status_t tacit__alltoall_arrived(tacit_leg_t *leg, const tacit_frame_t *frame);
void           tacit__alltoall_commit(tacit_leg_t *leg);
void           tacit__alltoall_undo(tacit_leg_t *leg);
void           tacit__alltoall_clear(tacit_leg_t *leg);

#endif
