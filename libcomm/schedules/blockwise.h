/* SPDX-License-Identifier: Apache-2.0 */
/* What a blockwise leg is made of: chunks, their owners, and, on two levels, what the ranks of one host do among themselves. */
#ifndef TACIT_BLOCKWISE_H
#define TACIT_BLOCKWISE_H

#include "operation.h"
#include "outbox.h"

/* A range of one item inside a chunk. */
typedef struct tacit_segment {
    tacit_item_t *item;
    size_t        first, count;
    size_t        payload_bytes;
} tacit_segment_t;

/* What one message carries. */
typedef struct tacit_chunk {
    size_t segment_first, segment_count;
    size_t elements;
    size_t payload_bytes;
    size_t at; /* its message in `sent` and, where they are kept, in `results` */
    int    owner;
    bool   encoded; /* by this rank, for its owner */
    bool   came;    /* its result, from another rank */
    size_t place;   /* on two levels, of the own rail: among its chunks, in the order in which they are summed up */
    /* Of own chunks: */
    size_t cell;          /* its message in a box */
    int    contributions; /* that have come */
    size_t sends;         /* its result is sent when so many of the operation's messages are */
} tacit_chunk_t;

/* The part of the tensors that one rank of each host leads, and how far this host's sum of it has come. */
typedef struct tacit_rail {
    const tacit_chunk_t *const *order;           /* its chunks … */
    size_t                      count;           /* … so many … */
    size_t                      chunk;           /* … and the next one to sum up, … */
    size_t                      segment, offset; /* … of which this is the next piece */
    int                         before;          /* ranks of this host that add their own before this one does */
} tacit_rail_t;

typedef struct tacit_levels {
    int            here;       /* ranks of this host */
    const int     *members;    /* they */
    int            next, last; /* the ranks after and before this one, around the host */
    tacit_rail_t  *rails;
    tacit_outbox_t outbox;
    uint32_t       inputs, inputs_total; /* pieces sent to the next rank, and those that will be */
    uint32_t       passed;               /* results passed on to the host's other ranks */
} tacit_levels_t;

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
tacit_status_t tacit__levels_prepare(tacit_leg_t *leg);
/* Sends a piece of the own tensors to be summed up; TACIT_PENDING: none can be sent now. */
tacit_status_t tacit__levels_advance(tacit_leg_t *leg);
/* A piece has come from the rank before: adds the own one, and keeps it or passes it on. */
tacit_status_t tacit__levels_add(tacit_leg_t *leg, const tacit_frame_t *frame);
/* Whether this host's sum of a chunk of the own rail is complete. */
bool tacit__levels_has(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk);
/* Passes a result, which lies in its place, on to the other ranks of this host. */
tacit_status_t tacit__levels_pass_on(tacit_leg_t *leg, const tacit_chunk_t *chunk);
void           tacit__levels_release(tacit_leg_t *leg);

/* Rounds of frames, behind the leg's own: pieces to be summed up, and results passed on. */
enum { TACIT_LEVELS_INPUTS = 1, TACIT_LEVELS_RESULTS = 2, TACIT_LEVELS_ROUNDS = 3 };

#endif
