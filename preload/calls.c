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
static _Thread_local unsigned depth;

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
    depth++;
    preload_end(group);
    depth--;
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
bool preload_take(const preload_call_t *call, const void *in, void *out, int *status)
{
    const preload_mpi_t *mpi =
        depth == 1 && !atomic_load_explicit(&stopped, memory_order_relaxed) && preload_rules()->asked ? preload_mpi() : NULL;
    preload_sum_t    sum = {.out = out, .count = call->count};
    cached_t        *place = place_of(call);
    preload_group_t *group;

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

uint64_t preload_enter(void)
{
    return depth++ == 0 ? now() : 0;
}

void preload_leave(uint64_t entered, const preload_call_t *call, bool succeeded)
{
    if (--depth == 0 && succeeded) {
        const uint64_t  left = now();
        cached_t       *place = place_of(call);
        preload_site_t *site;

        depth++; /* what MPI calls back is not the program's */
        site = knows(place, call) ? place->site : look_up(call, place);
        depth--;
        if (site != NULL) {
            atomic_fetch_add_explicit(&site->calls, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&site->nanoseconds, left - entered, memory_order_relaxed);
        }
        if (site != NULL && preload_waits(site)) {
            note(site, entered, left);
        }
    }
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
