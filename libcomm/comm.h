/* SPDX-License-Identifier: Apache-2.0 */
/* A communicator from inside: its slots, its queue of operations and its exchange of messages. */
#ifndef TACIT_COMM_H
#define TACIT_COMM_H

#include <stdatomic.h>

#include "channel.h"
#include "cost.h"
#include "environment.h"
#include "exchange.h"
#include "schedule.h"
#include "topology.h"
#include "tacit_transport.h"

/* Messages to ranks of the same host hold so many chunks: each costs more than what copying a chunk costs. */
enum { TACIT_NEAR_CHUNKS = 4 };

typedef struct tacit_fused   tacit_fused_t;   /* fused.h */
typedef struct tacit_staging tacit_staging_t; /* staging.h */

struct tacit_slot {
    tacit_comm_t           *comm;
    tacit_slot_t           *next; /* in the order of creation */
    uint64_t                id;   /* that order */
    tacit_codec_t          *codec;
    tacit_codec_t          *dense; /* takes its place after an operation that pays what it owes; else NULL: automatic.h */
    const tacit_schedule_t *schedule;
    uint64_t                step;       /* operations that have succeeded */
    size_t                  users;      /* operations in the queue that work with it */
    bool                    doomed;     /* destroyed by the caller: freed when the last of them has finished */
    uint64_t                ring_bytes; /* that a dense ring sends in a call */
    tacit_counters_t        counters;
    const tacit_traced_t   *traced; /* how its last operation went, where that is traced */
    tacit_fused_t          *fused;  /* on a GPU: what it was last reduced in; NULL: it was not, or not since that changed */
    void                   *given;  /* on a GPU: an event, that `in` is there: of the first slot of an operation */
};

/* Bytes that messages of a slot of `count` elements need at most. */
size_t tacit__slot_message_bytes(const tacit_comm_t *comm, tacit_device_t device, const tacit_spec_t *spec, size_t count);
/* Gives it a schedule, and its codec what this rank remembers for it: all of the tensor, or what it leads. */
void tacit__slot_go_by(tacit_slot_t *slot, const tacit_schedule_t *schedule);
/* Forgets what its slots were reduced in together; accepts NULL. */
void tacit__fused_dissolve(tacit_fused_t *fused);
/* Frees a slot that is in no list any more; accepts NULL. */
void tacit__slot_free(tacit_slot_t *slot);
/* Other parameters for a slot, in two halves, so that ranks may agree on many at once: everything that can fail, which raises
   *capacity to the bytes that its messages will need at most … */
tacit_status_t tacit__slot_prepare(tacit_slot_t *slot, const char *spec, tacit_specs_t *specs_out, size_t *capacity);
/* … and what cannot. Specs that were not adopted are the caller's to release. */
void tacit__slot_adopt(tacit_slot_t *slot, tacit_specs_t *specs);

typedef struct tacit_thread tacit_thread_t;

/* A pointer to a communicator that becomes NULL when that is destroyed. */
typedef struct tacit_tie {
    tacit_comm_t    **comm;
    struct tacit_tie *next;
} tacit_tie_t;

struct tacit_comm {
    tacit_transport_t   transport;
    int                 rank, ranks;
    tacit_config_t      config; /* complete: no zero means default any more */
    char               *spec;   /* config.spec's text */
    tacit_environment_t environment;
    tacit_trace_t      *trace; /* NULL: off */
    tacit_exchange_t    exchange;
    tacit_topology_t   *topology, *flat; /* who shares a host; the same if nobody did */
    tacit_channels_t    channels;        /* on two levels */
    tacit_cost_t        cost;
    tacit_slot_t       *slots;
    void               *stream;  /* on a GPU: on which `in` is produced */
    tacit_staging_t    *staging; /* NULL before the first slot on a GPU */
    tacit_tie_t        *ties;
    size_t             *even_counts; /* room for those of an all-to-all with the same for every rank */
    uint64_t            alltoalls_made;
    tacit_counters_t    alltoalls;
    struct tacit_moe   *moes; /* tacit_moe.h */
    uint64_t            slots_made;
    tacit_request_t    *queue;    /* operations not yet finished, the first one runs */
    tacit_request_t    *finished; /* those that nobody has waited for yet */
    tacit_request_t    *spare;    /* one operation kept for the day when there is no memory for another */
    tacit_request_t    *recent;   /* and one for the next operation */
    double              visited;  /* when the queue was last advanced */
    bool                idle;     /* in vain */
    bool                group_open;
    tacit_item_t       *group; /* collected items */
    size_t              group_count, group_room;
    tacit_status_t      group_fault; /* the first of the calls that it refused */
    char                group_text[TACIT_TEXT_BYTES];
    uint32_t            history; /* rolling hash of (slot, op, step) of native calls */
    bool                broken;
    char                broken_text[TACIT_TEXT_BYTES];
    atomic_flag         in_use; /* by some thread of the caller's */
    tacit_thread_t     *thread; /* advances operations while no caller does; NULL: nothing does */
};

/* Every public call on a communicator is between these. ERR_STATE where another thread is inside, ERR_BROKEN after a failure
   unless the call may then still work. */
tacit_status_t tacit__comm_enter(tacit_comm_t *comm, bool even_if_broken);
void           tacit__comm_leave(tacit_comm_t *comm);
/* Nothing but saving and destroying works from now on. The text is this thread's last error. */
void tacit__comm_break(tacit_comm_t *comm);

/* Runs an operation without slots: `text` must be the same on all ranks. `mine` is this rank's own status so far, whose text is
   the last error: if it is not OK, every rank returns it. `what` names the call in messages ("tacit_slot_create"). capacity: if
   all agree, messages may have so many bytes from now on. */
tacit_status_t tacit__comm_agree(tacit_comm_t *comm, const char *what, const char *text, tacit_status_t mine, size_t capacity);
/* The same, with a line that each rank says of itself: they come to `lines`, of all ranks, TACIT_LINE_BYTES each. */
tacit_status_t tacit__comm_agree_and_tell(tacit_comm_t *comm, const char *what, const char *text, const char *line, char *lines,
                                          tacit_status_t mine, size_t capacity);
/* The end of a call that has done its part, with that status: ranks agree or, where the communicator is broken, each is on its
   own. Leaves the communicator. */
tacit_status_t tacit__comm_conclude(tacit_comm_t *comm, const char *what, const char *text, tacit_status_t mine);

#endif
