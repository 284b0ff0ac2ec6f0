/* SPDX-License-Identifier: Apache-2.0 */
/* The schedule table: which rank sends which bytes to whom, when. A leaf header. An operation (operation.h) gives each schedule
   the items that it carries; their common part, one leg, is a state machine that is started, advanced, and at the end
   committed or undone. */
#ifndef TACIT_SCHEDULE_H
#define TACIT_SCHEDULE_H

#include "codec.h"
#include "exchange.h"
#include "frame.h"
#include "trace.h"

typedef struct tacit_request  tacit_operation_t; /* what a caller's request is, from inside: operation.h */
typedef struct tacit_schedule tacit_schedule_t;

/* One slot in an operation. */
typedef struct tacit_item {
    tacit_slot_t           *slot;
    tacit_codec_t          *codec;
    const tacit_schedule_t *schedule; /* the slot's, but for a dense first operation */
    uint64_t                step;
    const void             *in, *input; /* what is given; what is encoded: that, or sums of it */
    void                   *out;
    tacit_op_t              op;
    uint32_t                round;                          /* its leg's */
    bool                    streams;                        /* results go to out as they come; the schedule decides */
    uint64_t                sent_bytes;                     /* payload that left for other ranks; the schedule counts */
    uint64_t                wire_bytes;                     /* its share of all that left, once the operation has succeeded */
    double                  encode_seconds, decode_seconds; /* see tacit__item_worked() */
} tacit_item_t;

/* A piece of a schedule's work on an item has ended: its time is counted, and traced. lane: encode, add or decode; peer: the rank
   whose part it is of, -1: none. */
void tacit__item_worked(tacit_item_t *item, tacit_trace_lane_t lane, double began, size_t elements, int peer);
/* Only traced. */
void tacit__item_traced(const tacit_item_t *item, tacit_trace_lane_t lane, double began, size_t elements, int peer);

enum { TACIT_HELD = 16 }; /* pieces of memory of a leg */

typedef struct tacit_leg {
    const tacit_schedule_t *schedule;
    tacit_comm_t           *comm;
    tacit_operation_t      *operation;
    tacit_item_t          **items; /* in the order of slots' creation */
    size_t                  item_count;
    uint32_t                round; /* marks this leg's frames; a leg of several rounds has the next ones too */
    void                   *state; /* the schedule's own */
    tacit_buffer_t          held[TACIT_HELD];
    size_t                  held_count;
} tacit_leg_t;

struct tacit_schedule {
    const char    *name;          /* the file's name */
    const char    *summary;       /* one line */
    tacit_device_t device;        /* where the tensors are that it may carry */
    bool           framed;        /* false: native, without frames of ours */
    bool           levels;        /* a host's leaders remember for its other ranks */
    uint32_t       round, rounds; /* of its frames; no two schedules share one */
    /* Whether a slot's operations can go this way. */
    bool (*carries)(const tacit_comm_t *comm, const tacit_codec_t *codec);
    /* Optional. Whether they should where nothing is measured and no other way is asked for; the same on all ranks. NULL: yes.
       The first schedule of the list that carries a slot and should is its usual one. */
    bool (*pays)(const tacit_comm_t *comm, const tacit_codec_t *codec);
    /* Gets all memory and lays out the work. Nothing has been sent. On failure, release() follows. */
    tacit_status_t (*prepare)(tacit_leg_t *leg);
    /* Does one bounded piece of work. TACIT_OK: something was done; TACIT_PENDING: nothing can be done now; else a fault of
       this rank, whose text is tacit_last_error(). */
    tacit_status_t (*advance)(tacit_leg_t *leg);
    /* All work but commit() is done. */
    bool (*done)(const tacit_leg_t *leg);
    /* A frame of this leg's round has come, in order. Its payload is valid during the call. Framed schedules only. */
    tacit_status_t (*arrived)(tacit_leg_t *leg, const tacit_frame_t *frame);
    /* Every rank has succeeded: writes the results and keeps the memory. Cannot fail. */
    void (*commit)(tacit_leg_t *leg);
    /* Some rank has failed: memory as before. */
    void (*undo)(tacit_leg_t *leg);
    /* Optional. Frees what prepare() got by other ways than tacit__leg_take(); also after a failed or missing prepare(). No
       message of the leg is under way. */
    void (*release)(tacit_leg_t *leg);
};

/* Memory for `count` things until the leg is released, or NULL. It is kept for the next operation, so that one like the last one
   finds all that it needs. */
void *tacit__leg_take(tacit_leg_t *leg, size_t count, size_t size);
void  tacit__leg_release(tacit_leg_t *leg);

/* Whether it carries a tensor where that is. */
bool tacit__schedule_carries(const tacit_schedule_t *schedule, const tacit_comm_t *comm, const tacit_codec_t *codec);
/* The index-th schedule, NULL past the last. */
const tacit_schedule_t *tacit__schedule_at(size_t index);
/* Not in the list: a text that must be the same on all ranks. */
extern const tacit_schedule_t tacit__schedule_agreement;
/* Those that others are made of. */
extern const tacit_schedule_t tacit__schedule_blockwise, tacit__schedule_two_level;
const tacit_schedule_t       *tacit__schedule_named(const char *name);
/* The schedule of a slot's own operations: the one that TACIT_PLAN asks for, if it carries the slot, or the usual one, or one
   that was measured to be faster (cost.h). */
const tacit_schedule_t *tacit__schedule_of(const tacit_comm_t *comm, const tacit_codec_t *codec);
/* That of a slot's dense first operation, if further ones go by `next`: memory begins where that is to find it, with leaders or
   with all ranks. */
const tacit_schedule_t *tacit__schedule_of_first(const tacit_comm_t *comm, const tacit_codec_t *codec,
                                                 const tacit_schedule_t *next);

#endif
