/* SPDX-License-Identifier: Apache-2.0 */
/* What happens around each call that the program makes. Knows no MPI, so that callers of any are passed through: handles are
   carried as wide as they may be. */
#ifndef PRELOAD_CALLS_H
#define PRELOAD_CALLS_H

#include <stdbool.h>
#include <stdint.h>

#include "sites.h"

#define PRELOAD_API __attribute__((visibility("default")))

extern const char preload_allreduce[], preload_iallreduce[]; /* "MPI_Allreduce", "MPI_Iallreduce" */

typedef struct preload_call {
    const char *function; /* one of these */
    uint64_t    count;
    uintptr_t   comm, type, op;
    bool        fortran; /* the handles are Fortran's */
} preload_call_t;

/* Below, a call takes so little time that compressing it wins nothing. */
enum { PRELOAD_LEAST_BYTES = 32 << 10 };

static inline bool preload_is_large(const preload_site_t *site)
{
    return site->key.count * site->key.type_bytes >= PRELOAD_LEAST_BYTES;
}

/* Whether its calls wait for each other, over all ranks. */
static inline bool preload_waits(const preload_site_t *site)
{
    return site->key.function == preload_allreduce && site->key.group->whole;
}

/* A call of the program's, in the frame of the function that it has called. Zero, where it is inside of another call: some MPIs
   call themselves, and Fortran's functions those of C. */
typedef struct preload_entry {
    uint64_t  entered; /* the time */
    uintptr_t mark;    /* while the call is under way */
} preload_entry_t;

void preload_enter(preload_entry_t *entry);
/* After that: Tacit reduces it, if rules ask for it, and *status is what preload_leave() gets. False: MPI is to do it, and
   nothing has happened. For preload_allreduce alone. */
bool preload_take(const preload_entry_t *entry, const preload_call_t *call, const void *in, void *out, int *status);
/* Counts the call, if it was not inside of another one, and succeeded: its handles are good then. Returns what the caller gets;
   of PRELOAD_RAISES, which is no status of MPI's, that of the communicator's error handler, if it returns. */
enum { PRELOAD_RAISES = -1 };
int preload_leave(preload_entry_t *entry, const preload_call_t *call, int status);
/* A communicator that ends, from a callback of MPI's. */
void preload_forget(preload_group_t *group);
/* Ends what Tacit has here; nothing goes by it from then on, as in the functions of attributes that MPI_Finalize() deletes. */
void preload_stop(void);
/* Calls that were not counted for want of memory. */
uint64_t preload_lost(void);

/* Before MPI_Finalize(): the report, once. */
void preload_finish(void);

#endif
