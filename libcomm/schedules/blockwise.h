/* SPDX-License-Identifier: Apache-2.0 */
/* What a blockwise leg is made of: chunks and their owners. */
#ifndef TACIT_BLOCKWISE_H
#define TACIT_BLOCKWISE_H

#include "rails.h"

/* What one message carries. */
typedef struct tacit_chunk {
    size_t segment_first, segment_count;
    size_t elements;
    size_t payload_bytes;
    size_t at; /* its message in `sent` and, where they are kept, in `results` */
    int    owner;
    bool   encoded; /* by this rank, for its owner */
    bool   came;    /* its result, from another rank */
    size_t place;   /* on two levels, of the own rail: its sum is complete when so many of the rail's segments are */
    /* Of own chunks: */
    size_t cell;          /* its message in a box */
    int    contributions; /* that have come */
    size_t sends;         /* its result is sent when so many of the operation's messages are */
} tacit_chunk_t;

typedef struct tacit_blockwise {
    const tacit_topology_t *topology; /* who leads: on one level, every rank its own host */
    int                     hosts;    /* … of which each contributes to every part */
    int                     owners;   /* parts */
    int                     own;      /* the owned one; -1: none */
    tacit_levels_t         *levels;   /* NULL: one level */
    tacit_segment_t        *segments;
    tacit_chunk_t          *chunks;
    size_t                  segment_count, chunk_count;
    size_t                 *part;                          /* part[q] … part[q + 1]: the chunks of owner q … */
    size_t                 *cells;                         /* … so many of which are under way at once */
    size_t                 *came;                          /* its results that are here */
    size_t                  own_begin, own_end;            /* own chunks */
    uint8_t                *sent;                          /* messages to owners */
    uint8_t                *inbox;                         /* a box for each other host: contributions to the own part */
    size_t                  box_bytes;                     /* cells for own chunks */
    bool                    keeps_results;                 /* some item waits for the verdicts before it is written */
    uint8_t                *results;                       /* messages from owners; a box of own ones where none is kept */
    float                  *sum;                           /* one unit */
    const uint8_t         **contributions;                 /* to a segment, one a host */
    size_t                  round;                         /* of encoding: the round-th chunk of every owner of the rail … */
    int                     turn;                          /* … of which this many hosts behind the own one is next */
    size_t                  to_encode, to_reduce, to_come; /* chunks and results left */
    bool                    results_turn;                  /* a result comes before a contribution */
} tacit_blockwise_t;

/* The schedule's parts, of which `two_level` is made too. prepare(): who leads what is the topology's to say. */
tacit_status_t tacit__blockwise_prepare(tacit_leg_t *leg, const tacit_topology_t *topology);
tacit_status_t tacit__blockwise_advance(tacit_leg_t *leg);
bool           tacit__blockwise_done(const tacit_leg_t *leg);
tacit_status_t tacit__blockwise_arrived(tacit_leg_t *leg, const tacit_frame_t *frame);
void           tacit__blockwise_commit(tacit_leg_t *leg);
void           tacit__blockwise_undo(tacit_leg_t *leg);
void           tacit__blockwise_release(tacit_leg_t *leg);
/* Where the message with a chunk's result is. */
uint8_t *tacit__blockwise_result(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk);

/* two_level.c. Once chunks are laid out, before codecs own parts: gets memory, and makes this host's sums the items' input where
   this rank leads a rail. */
tacit_status_t tacit__two_level_prepare(tacit_leg_t *leg);
/* Passes a result, which lies in its place, on to the other ranks of this host. */
tacit_status_t tacit__two_level_pass_on(tacit_leg_t *leg, const tacit_chunk_t *chunk);

#endif
