/* SPDX-License-Identifier: Apache-2.0 */
/* What an all-to-all carries: to each rank and from each rank some rows of numbers, and before them bytes that say what they
   are. schedules/alltoall.c moves it. */
#ifndef TACIT_ALLTOALL_H
#define TACIT_ALLTOALL_H

#include "comm.h"
#include "values.h"

/* The name of those of tacit_alltoallv() and the like. */
#define TACIT_ALLTOALL "all-to-all"

/* What goes to a rank, and what comes from it. */
typedef struct tacit_part {
    const uint8_t *head; /* goes as it is */
    size_t         head_bytes;
    const void    *in; /* elements, fewer than 2^32 */
    size_t         send;
    void          *decoded; /* what the rank makes of them, which may be in; NULL: nobody asks */
    void          *out;
    size_t         receive;
} tacit_part_t;

typedef struct tacit_alltoall {
    const char     *name;   /* for messages, the same on all ranks */
    uint64_t        step;   /* the same on all ranks */
    uint64_t       *made;   /* optional: how many have succeeded, which is the step of the one that starts; NULL: it is given */
    tacit_values_t *values; /* how elements travel */
    tacit_part_t   *parts;  /* one a rank; of the own one, elements are copied as they are, where it has any */
    /* Optional: a rank's head is here, of at most head_most bytes. Says how many elements follow, and where they go; a fault is
       this rank's. NULL: there are no heads. */
    tacit_status_t (*meet)(void *context, int rank, const uint8_t *head, size_t bytes, tacit_part_t *part);
    void              *context;
    size_t             head_most;
    size_t             usual;       /* elements of a part, about, the same on all ranks, which choose by it; 0: not known */
    const char *const *stages;      /* optional: what its steps are by turns … */
    uint32_t           stage_count; /* … so many of them */
    size_t             dense_bytes; /* of what it sends other ranks, as that is counted */
    double             encode_seconds, decode_seconds;
    tacit_counters_t  *counters; /* to which it is added, if it succeeds */
    bool               owned;    /* freed with its operation, values and parts included */
} tacit_alltoall_t;

/* Whether its elements can travel in messages of this communicator, or TACIT_ERR_UNSUPPORTED. The same on all ranks. */
tacit_status_t tacit__alltoall_check(const tacit_comm_t *comm, const tacit_alltoall_t *alltoall);
/* As tacit__comm_enter(), of a call that cannot be part of a group: TACIT_ERR_STATE while one is open. */
tacit_status_t tacit__alltoall_enter(tacit_comm_t *comm, const char *what);
/* Its operation, which frees it if it is owned, also where this fails. `mine`: this rank's status so far, as tacit__comm_agree();
   where that is a fault, alltoall may be NULL. */
tacit_status_t tacit__alltoall_start(tacit_comm_t *comm, const char *what, tacit_alltoall_t *alltoall, tacit_status_t mine,
                                     tacit_request_t **operation_out);
/* The same, to its end. */
tacit_status_t tacit__alltoall_run(tacit_comm_t *comm, const char *what, tacit_alltoall_t *alltoall, tacit_status_t mine);
/* Its operation starts. */
void tacit__alltoall_begin(tacit_alltoall_t *alltoall);
/* Accepts NULL, and those that are not owned. */
void tacit__alltoall_release(tacit_alltoall_t *alltoall);

extern const tacit_schedule_t tacit__schedule_alltoall, tacit__schedule_two_level_alltoall;
/* How it goes: the same on all ranks. */
const tacit_schedule_t *tacit__alltoall_schedule(const tacit_comm_t *comm, const tacit_alltoall_t *alltoall);

#endif
