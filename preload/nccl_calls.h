/* SPDX-License-Identifier: Apache-2.0 */
/* What happens around each call of NCCL that the program makes. */
#ifndef PRELOAD_NCCL_CALLS_H
#define PRELOAD_NCCL_CALLS_H

#include <pthread.h>
#include <stdatomic.h>

#include "nccl_functions.h"
#include "next.h"
#include "stopwatch.h"

#define PRELOAD_API __attribute__((visibility("default")))

/* A function that the interposer takes the place of, and what stands behind it. */
typedef struct preload_name {
    preload_next_t *next;
    void           *function;
} preload_name_t;
extern const preload_name_t preload_names[]; /* ends with NULLs */

typedef struct preload_nccl_call preload_nccl_call_t;
struct preload_nccl_call {
    const char *function; /* "ncclAllReduce" */
    int (*pass)(const preload_nccl_call_t *call);
    const void *in;
    void       *out;
    size_t      count;     /* of the result; of a reduce-scatter and an all-gather, of one rank's part */
    int         dtype, op; /* op -1: it reduces nothing */
    void       *comm, *stream;
};

/* A communicator. It stays when NCCL's has ended, for the sake of its sites. */
typedef struct preload_clique {
    preload_group_t        group; /* first: what sites know of it */
    struct preload_clique *next;
    void                  *comm; /* NULL: it has ended */
    int                    rank, device;
    atomic_bool            aborted;   /* nothing waits for other ranks any more */
    atomic_bool            stays;     /* nevertheless: what may be called is NCCL's to say */
    void                  *nccl;      /* Tacit's communicator; NULL: not needed yet */
    pthread_mutex_t        nccl_lock; /* of whether it is there */
    pthread_mutex_t        lock;      /* of what follows, and group.plan */
    preload_stopwatch_t    watch;
} preload_clique_t;

/* Where a call of a communicator is counted; NULL: there is no room. */
preload_site_t *preload_nccl_site(preload_clique_t *clique, const preload_nccl_call_t *call);

/* True inside of another call: NCCL calls itself, and Tacit calls it. */
bool preload_is_inner(void);
/* The call, or what takes its place; in a group, perhaps at its end. */
int preload_nccl_call(const preload_nccl_call_t *call);
/* Begins a group, and ends it by `end`, both with what follows from it. */
int preload_nccl_group_start(int (*start)(void));
int preload_nccl_group_end(int (*end)(void));
/* Before a group is ended otherwise: sums that were kept back for its end are called, … */
int preload_nccl_give_back(void);
/* … and behind it: ends what was kept back. Returns `status`, or what is worse. */
int preload_nccl_end_kept(int status);
/* Finalizes, destroys or aborts a communicator by `end`, behind what it has here; in a group, perhaps at its end. */
typedef enum { PRELOAD_FINALIZED, PRELOAD_DESTROYED, PRELOAD_ABORTED, PRELOAD_BROKEN_OFF } preload_end_t;
int preload_nccl_end(void *comm, preload_end_t how, int (*end)(void *comm));
/* Ends at once what a communicator has here that is about to be revoked, or shrunk without what is under way in it. */
void preload_nccl_break_off(void *comm);

/* Whether this process has called NCCL on several GPUs. */
bool preload_has_several_devices(void);
/* Calls that were not counted for want of memory. */
uint64_t preload_nccl_lost(void);
/* The rank and the size of the largest communicator, of several the first, or that of which this process has rank 0. */
void preload_nccl_largest(int *rank_out, int *ranks_out);

/* Whether this process speaks for all: a launcher says so, or, if there is none, it has this rank of a communicator. */
bool preload_is_first(int rank);
/* nccl_report.c: rank 0's report, at the end of the process. */
void preload_nccl_report(void);

#endif
