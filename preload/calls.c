/* SPDX-License-Identifier: Apache-2.0 */
/* From a call to its site: by a cache of each thread's mostly, so that counting costs less than looking at the clock. */
#include "calls.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "gaps.h"
#include "mpi_library.h"
#include "policy.h"
#include "rules.h"

enum { CACHED = 32 };

const char preload_allreduce[] = "MPI_Allreduce", preload_iallreduce[] = "MPI_Iallreduce";

typedef struct cached {
    preload_call_t  call;
    uint64_t        epoch;
    preload_site_t *site; /* NULL: empty */
} cached_t;

static _Thread_local cached_t cache[CACHED];

/* The thread's call that is under way, how far down the stack that began, and whether it is in the interposer itself. */
static _Thread_local const preload_entry_t *outermost;
static _Thread_local uintptr_t              frame;
static _Thread_local unsigned               inside;

/* Raised whenever a communicator ends, whose handle the next one may have. */
static _Atomic uint64_t epoch;
static _Atomic uint64_t lost;
static atomic_bool      stopped;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned        groups;

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void preload_forget(preload_group_t *group)
{
    atomic_fetch_add(&epoch, 1);
    inside++;
    preload_end(group);
    inside--;
}

static preload_group_t *make_group(const preload_mpi_t *mpi, uintptr_t comm)
{
    preload_group_t *group = calloc(1, sizeof *group);

    if (group == NULL || !mpi->describe_comm(comm, group) || !mpi->set_group(comm, group)) {
        free(group);
        return NULL;
    }
    group->number = ++groups;
    return group;
}

static preload_group_t *group_of(const preload_mpi_t *mpi, uintptr_t comm)
{
    preload_group_t *group = NULL;

    if (!mpi->get_group(comm, &group) || group != NULL) { /* of no communicator, its error handler may not return */
        return group;
    }
    pthread_mutex_lock(&lock);
    if (mpi->get_group(comm, &group) && group == NULL) {
        group = make_group(mpi, comm);
    }
    pthread_mutex_unlock(&lock);
    return group;
}

/* The call's site, which the cache then knows, unless its type is one that the program may free. */
static preload_site_t *look_up(const preload_call_t *call, cached_t *place)
{
    const preload_mpi_t *mpi = preload_mpi();
    const uint64_t       before = atomic_load(&epoch);
    preload_key_t        key = {.function = call->function, .count = call->count};
    preload_site_t      *site = NULL;
    bool                 lasting;

    if (mpi == NULL) {
        return NULL;
    }
    key.group = group_of(mpi, mpi->comm_of(call));
    lasting = mpi->describe_call(call, &key);
    site = key.group != NULL ? preload_site(&key) : NULL;
    if (site == NULL) {
        atomic_fetch_add(&lost, 1);
    } else if (lasting) {
        *place = (cached_t){*call, before, site};
    }
    return site;
}

static cached_t *place_of(const preload_call_t *call)
{
    const uint64_t mixed = (call->count ^ (uint64_t)call->comm << 20 ^ (uint64_t)call->type << 40) * 0x9e3779b97f4a7c15u;

    return &cache[mixed >> 59];
}

static bool knows(const cached_t *place, const preload_call_t *call)
{
    return place->site != NULL && place->call.function == call->function && place->call.count == call->count &&
           place->call.comm == call->comm && place->call.type == call->type && place->call.op == call->op &&
           place->call.fortran == call->fortran && place->epoch == atomic_load_explicit(&epoch, memory_order_relaxed);
}

/* The call may be wrong, which is MPI's to say: handles are compared with those that are known to be good, and buffers too. */
bool preload_take(const preload_entry_t *entry, const preload_call_t *call, const void *in, void *out, int *status)
{
    const preload_mpi_t *mpi = entry->mark != 0 && !atomic_load_explicit(&stopped, memory_order_relaxed) && preload_rules()->asked
                                   ? preload_mpi()
                                   : NULL;
    preload_sum_t        sum = {.out = out, .count = call->count};
    cached_t            *place = place_of(call);
    preload_group_t     *group;

    if (mpi == NULL || call->count == 0 || call->count > INT32_MAX) {
        return false;
    }
    sum.comm = mpi->comm_of(call);
    sum.dtype = mpi->dtype_of(call);
    sum.in = mpi->is_in_place(in, call->fortran) ? out : in;
    if (sum.dtype < 0 || in == out || mpi->is_in_place(out, call->fortran)) {
        return false;
    }
    group = group_of(mpi, sum.comm);
    if (group == NULL || group->inter || group->ranks < 2) {
        return false;
    }
    sum.site = knows(place, call) ? place->site : look_up(call, place);
    sum.clear = mpi->knows_in_place(call->fortran);
    return preload_reduce(mpi, group, &sum, status);
}

/* Ranks that leave a large call early wait in the next one. */
static void note(preload_site_t *site, uint64_t entered, uint64_t left)
{
    static preload_site_t *_Atomic latest;
    preload_site_t                *before = atomic_load_explicit(&latest, memory_order_relaxed);

    atomic_store_explicit(&latest, site, memory_order_relaxed);
    if (before != NULL && preload_is_large(before) && !preload_is_large(site)) {
        atomic_fetch_add_explicit(&before->behind, left - entered, memory_order_relaxed);
    }
    preload_note_gap(entered, left);
}

static uintptr_t mark_of(const preload_entry_t *entry)
{
    return (uintptr_t)entry ^ (uintptr_t)0x9e3779b97f4a7c15u;
}

/* An error handler may have left the former call by longjmp() or an exception. Then the stack is not as far down as it was there,
   or other frames have come over what is left of it. */
static bool is_inner(uintptr_t here)
{
    return inside != 0 || (outermost != NULL && here < frame && outermost->mark == mark_of(outermost));
}

void preload_enter(preload_entry_t *entry)
{
    const uintptr_t here = (uintptr_t)__builtin_frame_address(0);

    *entry = (preload_entry_t){.mark = 0}; /* perhaps where the former one was */
    if (!is_inner(here)) {
        outermost = entry;
        frame = here;
        *entry = (preload_entry_t){now(), mark_of(entry)};
    }
}

static void count(const preload_call_t *call, uint64_t entered, uint64_t left)
{
    cached_t       *place = place_of(call);
    preload_site_t *site;

    inside++; /* what MPI calls back is not the program's */
    site = knows(place, call) ? place->site : look_up(call, place);
    inside--;
    if (site != NULL) {
        atomic_fetch_add_explicit(&site->calls, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&site->nanoseconds, left - entered, memory_order_relaxed);
    }
    if (site != NULL && preload_waits(site)) {
        note(site, entered, left);
    }
}

/* The error handler comes last: it may not return. */
int preload_leave(preload_entry_t *entry, const preload_call_t *call, int status)
{
    if (entry->mark != 0) {
        if (status == 0) {
            count(call, entry->entered, now());
        }
        entry->mark = 0;
        outermost = NULL;
    }
    return status == PRELOAD_RAISES ? preload_mpi()->raise(preload_mpi()->comm_of(call)) : status;
}

void preload_stop(void)
{
    atomic_store(&stopped, true);
    preload_end(NULL);
}

uint64_t preload_lost(void)
{
    return atomic_load(&lost);
}
