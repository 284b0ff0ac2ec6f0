/* SPDX-License-Identifier: Apache-2.0 */
/* What the ranks of one host do among themselves, whatever goes from host to host: sum up exactly what they have of each rail,
   ending at its leader, and hear from that. */
#ifndef TACIT_RAILS_H
#define TACIT_RAILS_H

#include "outbox.h"
#include "records.h"

/* A range of one item. */
typedef struct tacit_segment {
    tacit_item_t *item;
    size_t        first, count;
    size_t        payload_bytes; /* where it is encoded by itself */
} tacit_segment_t;

/* The part of the tensors that one rank of each host leads, and how far this host's sum of it has come. */
typedef struct tacit_rail {
    const tacit_segment_t *segments;     /* of which it consists, in the order in which its leader on this host wants them … */
    size_t                 count;        /* … so many … */
    size_t                 next, offset; /* … and the next piece to sum up: in this one, from here on */
    size_t                 elements;     /* before that */
    int                    before;       /* ranks of this host that add their own before this one does */
} tacit_rail_t;

typedef struct tacit_levels {
    const tacit_topology_t *topology;
    int                     own;        /* the rail that this rank leads; -1: none */
    int                     here;       /* ranks of this host */
    const int              *members;    /* they */
    int                     next, last; /* the ranks after and before this one, around the host */
    tacit_rail_t           *rails;
    tacit_segment_t        *segments; /* of all of them */
    size_t                  segment_count;
    tacit_outbox_t          outbox;
    uint32_t                inputs, inputs_total; /* pieces sent to the next rank, and those that will be */
    uint32_t                passed;               /* frames from other hosts passed on to this host's other ranks */
    /* Of pairs: */
    size_t *place;        /* one an item: the own rail's segments up to its end */
    int    *others;       /* to whom a leader speaks: the rail's other leaders, then this host's other ranks … */
    int     others_count; /* … so many; none where this rank leads nothing */
    int     far;          /* of the former, those whose last frame is not here */
} tacit_levels_t;

/* Rounds of frames, behind the leg's own: pieces to be summed up, and what is passed on from other hosts. */
enum { TACIT_LEVELS_INPUTS = 1, TACIT_LEVELS_PASSED = 2, TACIT_LEVELS_ROUNDS = 3 };

/* Gets memory for so many segments of all rails, of which there are none yet … */
tacit_status_t tacit__levels_create(tacit_leg_t *leg, const tacit_topology_t *topology, size_t segments,
                                    tacit_levels_t **levels_out);
/* … which come rail by rail. */
void tacit__levels_append(tacit_levels_t *levels, int rail, const tacit_segment_t *segment);
/* All are there: this host's sums become the items' input where this rank leads a rail. */
tacit_status_t tacit__levels_prepare(tacit_leg_t *leg, tacit_levels_t *levels);
/* All three where nothing is cut: a segment is what a rail has of an item. */
tacit_status_t tacit__levels_lay_out(tacit_leg_t *leg, const tacit_topology_t *topology, tacit_levels_t **levels_out);
/* NULL: nothing has been got. */
void tacit__levels_release(tacit_leg_t *leg, tacit_levels_t *levels);

/* Sends pieces of the own tensors to be summed up; TACIT_PENDING: none can be sent now. */
tacit_status_t tacit__levels_begin(tacit_leg_t *leg, tacit_levels_t *levels);
/* Takes in pieces that have come from the rank before through a channel: adds the own one to each, and keeps it or sends it on.
   Others wait for that. TACIT_PENDING: there is none. */
tacit_status_t tacit__levels_take(tacit_leg_t *leg, tacit_levels_t *levels);
/* Both, for those that have nothing to do in between. */
tacit_status_t tacit__levels_advance(tacit_leg_t *leg, tacit_levels_t *levels);
/* Takes in a piece that has come in a message. */
tacit_status_t tacit__levels_add(tacit_leg_t *leg, tacit_levels_t *levels, const tacit_frame_t *frame);
/* Whether this host's sums of the first `segments` segments of the own rail are complete. */
static inline bool tacit__levels_has(const tacit_levels_t *levels, size_t segments)
{
    return levels->rails[levels->own].next >= segments;
}
/* Sends a message, which stays as it is until the leg ends, to the other ranks of this host. */
tacit_status_t tacit__levels_tell(const tacit_leg_t *leg, const tacit_levels_t *levels, const uint8_t *message, size_t bytes);
/* Passes records from another host's leader on to them. */
tacit_status_t tacit__levels_pass_on(tacit_leg_t *leg, tacit_levels_t *levels, tacit_records_t *records,
                                     const tacit_frame_t *frame);

#endif
