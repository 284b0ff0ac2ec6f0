/* SPDX-License-Identifier: Apache-2.0 */
/* Calls are counted, timed and passed on. Where rules are asked for, sums of floats inside a group wait for its end, where it is
   decided how they go: Tacit cannot run inside of one. */
#include "nccl_calls.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nccl_companion.h"
#include "nccl_policy.h"
#include "rules.h"

enum { STREAMS = 16 /* of a group, that are timed */ };

static const char *const type_names[NCCL_TYPES] = {"int8",    "uint8",   "int32",   "uint32",   "int64",  "uint64",
                                                   "float16", "float32", "float64", "bfloat16", "float8", "float8"};
static const size_t      type_bytes[NCCL_TYPES] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
static const char *const op_names[NCCL_OPS] = {"sum", "prod", "max", "min", "avg"};

/* A call of the present round: one call, or those of a group. */
typedef struct entry {
    preload_nccl_call_t call;
    preload_clique_t   *clique; /* NULL: it is not counted */
    preload_site_t     *site;
    bool                captured, sum; /* one that Tacit may be asked for */
    bool                made;
    void               *tensor; /* by which Tacit reduces it; NULL: NCCL does */
} entry_t;

/* The end of a communicator, which waits for that of a group. */
typedef struct ending {
    void         *comm;
    preload_end_t how;
    int (*end)(void *comm);
} ending_t;

static _Thread_local unsigned depth;
static _Thread_local struct {
    unsigned  depth; /* of the program's groups */
    entry_t  *entries;
    size_t    count, room;
    ending_t *endings;
    size_t    ending_count;
} round_now;

static pthread_mutex_t   lock = PTHREAD_MUTEX_INITIALIZER;
static preload_clique_t *cliques;
static unsigned          numbers;
static int               first_device = -1, largest_rank, largest_ranks;
static atomic_bool       several_devices;
static _Atomic uint64_t  lost;
static pid_t             process;

bool preload_is_inner(void)
{
    return depth != 0;
}

bool preload_has_several_devices(void)
{
    return atomic_load(&several_devices);
}

uint64_t preload_nccl_lost(void)
{
    return atomic_load(&lost);
}

void preload_nccl_largest(int *rank_out, int *ranks_out)
{
    pthread_mutex_lock(&lock);
    *rank_out = largest_rank;
    *ranks_out = largest_ranks;
    pthread_mutex_unlock(&lock);
}

/* ---- Communicators ---- */

/* Handlers of exit() are called in reverse order: this one before those of CUDA, which was there first. A child of the process
   has none of its calls. With some of its own it has a handler more, before its own CUDA's; the inherited one does nothing. */
static void finish(void)
{
    const preload_driver_t *driver = preload_driver();

    if (getpid() != process) {
        return;
    }
    depth++;
    for (preload_clique_t *clique = cliques; driver != NULL && clique != NULL; clique = clique->next) {
        if (pthread_mutex_trylock(&clique->lock) == 0) {
            preload_read(&clique->watch, driver);
            pthread_mutex_unlock(&clique->lock);
        }
    }
    preload_nccl_report();
    process = 0;
    depth--;
}

/* With the lock. */
static void announce(const preload_clique_t *clique)
{
    if (process != getpid()) {
        process = getpid();
        (void)atexit(finish);
    }
    if (first_device >= 0 && clique->device != first_device) {
        atomic_store(&several_devices, true);
    }
    first_device = first_device >= 0 ? first_device : clique->device;
    if (clique->group.ranks > largest_ranks || (clique->group.ranks == largest_ranks && clique->rank == 0)) {
        largest_ranks = clique->group.ranks;
        largest_rank = clique->rank;
    }
}

static preload_clique_t *make_clique(const preload_nccl_t *nccl, void *comm)
{
    preload_clique_t *clique = calloc(1, sizeof *clique);

    if (clique == NULL || nccl->count(comm, &clique->group.ranks) != NCCL_SUCCESS ||
        nccl->user_rank(comm, &clique->rank) != NCCL_SUCCESS || nccl->device(comm, &clique->device) != NCCL_SUCCESS) {
        free(clique);
        return NULL;
    }
    clique->comm = comm;
    clique->group.number = ++numbers;
    pthread_mutex_init(&clique->lock, NULL);
    pthread_mutex_init(&clique->nccl_lock, NULL);
    clique->next = cliques;
    cliques = clique;
    announce(clique);
    return clique;
}

static preload_clique_t *find_clique(const void *comm)
{
    preload_clique_t *clique = cliques;

    while (clique != NULL && clique->comm != comm) {
        clique = clique->next;
    }
    return clique;
}

static preload_clique_t *clique_of(const preload_nccl_t *nccl, void *comm)
{
    preload_clique_t *clique = NULL;

    if (comm != NULL) {
        pthread_mutex_lock(&lock);
        clique = find_clique(comm);
        clique = clique != NULL ? clique : make_clique(nccl, comm);
        pthread_mutex_unlock(&lock);
    }
    return clique;
}

static preload_clique_t *known_clique(const void *comm)
{
    preload_clique_t *clique;

    pthread_mutex_lock(&lock);
    clique = comm != NULL ? find_clique(comm) : NULL;
    pthread_mutex_unlock(&lock);
    return clique;
}

static void end_clique(const void *comm, preload_end_t how)
{
    const preload_driver_t *driver = preload_driver();
    preload_clique_t       *clique = known_clique(comm);

    if (clique == NULL) {
        return;
    }
    atomic_store(&clique->stays, how == PRELOAD_BROKEN_OFF);
    if (how == PRELOAD_ABORTED || how == PRELOAD_BROKEN_OFF) {
        atomic_store(&clique->aborted, true); /* whoever waits with the lock gives up */
        preload_hurry(clique);
    }
    pthread_mutex_lock(&clique->lock);
    preload_nccl_end_plan(clique);
    if (driver != NULL && how == PRELOAD_FINALIZED) {
        preload_read(&clique->watch, driver);
    } else if (driver != NULL && how != PRELOAD_BROKEN_OFF) {
        preload_end_watch(&clique->watch, driver);
    }
    pthread_mutex_unlock(&clique->lock);
    pthread_mutex_lock(&lock);
    if (how == PRELOAD_DESTROYED || how == PRELOAD_ABORTED) {
        clique->comm = NULL; /* the next one may have its address */
    }
    pthread_mutex_unlock(&lock);
}

/* Whether Tacit has something of it, or may get: then it cannot end in the present group, in which nothing of Tacit's would. */
static bool is_busy(const void *comm)
{
    preload_clique_t *clique = known_clique(comm);
    bool              busy = false;

    if (clique != NULL) {
        pthread_mutex_lock(&clique->lock);
        busy = clique->group.plan != NULL;
        pthread_mutex_unlock(&clique->lock);
    }
    for (size_t i = 0; i < round_now.count; i++) {
        busy = busy || (!round_now.entries[i].made && round_now.entries[i].call.comm == comm);
    }
    return busy;
}

/* False: there is no memory. */
static bool keep_ending(const ending_t *ending)
{
    ending_t *grown = realloc(round_now.endings, (round_now.ending_count + 1) * sizeof *grown);

    if (grown != NULL) {
        round_now.endings = grown;
        round_now.endings[round_now.ending_count++] = *ending;
    }
    return grown != NULL;
}

int preload_nccl_end(void *comm, preload_end_t how, int (*end)(void *comm))
{
    int status;

    depth++;
    if (round_now.depth != 0 && how != PRELOAD_ABORTED && is_busy(comm)) {
        status = keep_ending(&(ending_t){comm, how, end}) ? NCCL_SUCCESS : NCCL_SYSTEM_ERROR;
    } else {
        end_clique(comm, how);
        status = end(comm);
    }
    depth--;
    return status;
}

void preload_nccl_break_off(void *comm)
{
    depth++;
    end_clique(comm, PRELOAD_BROKEN_OFF);
    depth--;
}

/* The worst of several: an error, or that something is in progress. */
static void note(int *status, int next)
{
    *status = nccl_is_good(*status) && next != NCCL_SUCCESS ? next : *status;
}

/* Together, as the program has asked for: a thread may have several ranks, which wait for one another. */
int preload_nccl_end_kept(int status)
{
    const size_t count = round_now.depth == 0 ? round_now.ending_count : 0;

    if (count == 0) {
        return status;
    }
    depth++;
    for (size_t i = 0; i < count; i++) {
        end_clique(round_now.endings[i].comm, round_now.endings[i].how);
    }
    (void)preload_nccl()->group_start();
    for (size_t i = 0; i < count; i++) {
        note(&status, round_now.endings[i].end(round_now.endings[i].comm));
    }
    note(&status, preload_nccl()->group_end());
    round_now.ending_count = 0;
    depth--;
    return status;
}

/* ---- A round ---- */

preload_site_t *preload_nccl_site(preload_clique_t *clique, const preload_nccl_call_t *call)
{
    preload_key_t key = {.function = call->function, .group = &clique->group, .count = call->count};

    key.op = call->op < 0 ? "-" : call->op < NCCL_OPS ? op_names[call->op] : "user";
    key.type_bytes = type_bytes[call->dtype];
    strcpy(key.type, type_names[call->dtype]);
    return preload_site(&key);
}

static entry_t entry_of(const preload_nccl_call_t *call)
{
    const preload_driver_t *driver = preload_driver();
    const preload_nccl_t   *nccl = preload_nccl();
    entry_t                 entry = {.call = *call};

    if (nccl == NULL || call->dtype < 0 || call->dtype >= NCCL_TYPES) {
        return entry;
    }
    entry.clique = clique_of(nccl, call->comm);
    if (entry.clique == NULL) {
        return entry;
    }
    entry.site = preload_nccl_site(entry.clique, call);
    entry.captured = driver != NULL && preload_is_captured(driver, call->stream);
    entry.sum = driver != NULL && !entry.captured && preload_rules()->asked && preload_nccl_is_sum(call);
    return entry;
}

static int pass(entry_t *entry)
{
    entry->made = true;
    if (entry->clique != NULL && atomic_load(&entry->clique->aborted) && !atomic_load(&entry->clique->stays)) { /* kept back */
        return NCCL_SYSTEM_ERROR;
    }
    return entry->call.pass(&entry->call);
}

static double bytes_of(const entry_t *entry)
{
    return (double)entry->call.count * (double)type_bytes[entry->call.dtype];
}

typedef struct lap {
    preload_clique_t *clique;
    preload_lap_t    *lap;
    void             *stream;
} lap_t;

/* One lap a stream. */
static size_t start_laps(const entry_t *entries, size_t count, lap_t laps[STREAMS])
{
    const preload_driver_t *driver = preload_driver();
    size_t                  used = 0;

    for (size_t i = 0; driver != NULL && i < count; i++) {
        const entry_t  *entry = &entries[i];
        preload_visit_t visit;
        size_t          at = 0;

        if (entry->site == NULL || entry->captured) {
            continue;
        }
        while (at < used && laps[at].stream != entry->call.stream) {
            at++;
        }
        if (at == STREAMS) {
            continue;
        }
        pthread_mutex_lock(&entry->clique->lock);
        if (at == used) {
            laps[used++] = (lap_t){entry->clique, NULL, entry->call.stream};
            if (preload_visit(driver, entry->call.stream, &visit)) {
                laps[at].lap = preload_start(&entry->clique->watch, driver, entry->call.stream);
                preload_leave_visit(driver, &visit);
            }
        }
        if (laps[at].lap != NULL) {
            preload_add_part(laps[at].lap, entry->site, bytes_of(entry));
        }
        pthread_mutex_unlock(&entry->clique->lock);
    }
    return used;
}

static void stop_laps(const lap_t laps[STREAMS], size_t count)
{
    const preload_driver_t *driver = preload_driver();

    for (size_t i = 0; i < count; i++) {
        preload_visit_t visit;

        if (laps[i].lap != NULL && preload_visit(driver, laps[i].stream, &visit)) {
            pthread_mutex_lock(&laps[i].clique->lock);
            preload_stop(laps[i].lap, driver, laps[i].stream);
            pthread_mutex_unlock(&laps[i].clique->lock);
            preload_leave_visit(driver, &visit);
        }
    }
}

static void count_calls(const entry_t *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        preload_site_t *site = entries[i].site;

        if (site == NULL) {
            atomic_fetch_add(&lost, 1);
            continue;
        }
        atomic_fetch_add_explicit(&site->calls, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&site->captured, entries[i].captured, memory_order_relaxed);
        atomic_fetch_add_explicit(&site->taken, entries[i].tensor != NULL, memory_order_relaxed);
    }
}

/* Whether it is the last sum of its communicator. */
static bool is_last(const entry_t *entries, size_t count, size_t i)
{
    bool last = entries[i].sum;

    for (size_t later = i + 1; later < count; later++) {
        last = last && !(entries[later].sum && entries[later].clique == entries[i].clique);
    }
    return last;
}

/* What follows for the communicators of a round, when no group is open. What ranks tell each other is a group, since a thread may
   have several of them. */
static int follow_up(const entry_t *entries, size_t count)
{
    int  status = NCCL_SUCCESS;
    bool any = false, sent;

    for (size_t i = 0; i < count; i++) {
        bool tells = false;

        if (is_last(entries, count, i) && !preload_nccl_settle(entries[i].clique, entries[i].call.stream, &tells)) {
            status = NCCL_SYSTEM_ERROR;
        }
        any = any || tells;
    }
    if (!any) {
        return status;
    }
    (void)preload_nccl()->group_start();
    for (size_t i = 0; i < count; i++) {
        if (is_last(entries, count, i) && !preload_nccl_tell(entries[i].clique, entries[i].call.stream)) {
            status = NCCL_SYSTEM_ERROR;
        }
    }
    sent = nccl_is_good(preload_nccl()->group_end());
    for (size_t i = 0; i < count; i++) {
        if (is_last(entries, count, i) && !preload_nccl_told(entries[i].clique, entries[i].call.stream, sent)) {
            status = NCCL_SYSTEM_ERROR;
        }
    }
    return status;
}

/* The i-th entry's tensor, and with it those of later ones that can be reduced together with it. */
static int run_batch(entry_t *entries, size_t count, size_t i)
{
    const preload_nccl_call_t *calls[PRELOAD_BATCH], *first = &entries[i].call;
    void                      *tensors[PRELOAD_BATCH];
    entry_t                   *members[PRELOAD_BATCH];
    preload_clique_t          *clique = entries[i].clique;
    size_t                     used = 0;
    bool                       taken;
    int                        status;

    for (; i < count && used < PRELOAD_BATCH; i++) {
        entry_t *entry = &entries[i];

        if (!entry->made && entry->call.comm == first->comm && entry->call.stream == first->stream &&
            entry->call.op == first->op && entry->call.function == first->function) {
            entry->made = true;
            calls[used] = &entry->call;
            tensors[used] = entry->tensor;
            members[used++] = entry;
        }
    }
    status = preload_nccl_run(clique, tensors, calls, used, &taken);
    for (size_t member = 0; !taken && member < used; member++) {
        members[member]->tensor = NULL;
        note(&status, pass(members[member]));
    }
    return status;
}

/* The entries' calls, those that were not made yet, and then `end`, if there is one. */
static int run_round(entry_t *entries, size_t count, int (*end)(void))
{
    lap_t        laps[STREAMS];
    const size_t lap_count = start_laps(entries, count, laps);
    int          status = NCCL_SUCCESS;

    for (size_t i = 0; i < count; i++) {
        entry_t *entry = &entries[i];

        entry->tensor = entry->sum ? preload_nccl_decide(entry->clique, &entry->call) : NULL;
        if (!entry->made && entry->tensor == NULL) {
            note(&status, pass(entry));
        }
    }
    if (end != NULL) {
        note(&status, end());
    }
    for (size_t i = 0; i < count && nccl_is_good(status); i++) {
        if (!entries[i].made) {
            note(&status, run_batch(entries, count, i));
        }
    }
    stop_laps(laps, lap_count);
    if (nccl_is_good(status)) {
        note(&status, follow_up(entries, count));
        count_calls(entries, count);
    }
    return status;
}

/* NULL: there is no memory. */
static entry_t *keep(const entry_t *entry)
{
    if (round_now.count == round_now.room) {
        const size_t more = round_now.room != 0 ? 2 * round_now.room : 16;
        entry_t     *grown = realloc(round_now.entries, more * sizeof *grown);

        if (grown == NULL) {
            return NULL;
        }
        round_now.entries = grown;
        round_now.room = more;
    }
    round_now.entries[round_now.count] = *entry;
    return &round_now.entries[round_now.count++];
}

int preload_nccl_call(const preload_nccl_call_t *call)
{
    entry_t  entry;
    entry_t *kept;
    int      status;

    depth++;
    entry = entry_of(call);
    if (round_now.depth == 0) {
        status = run_round(&entry, 1, NULL);
    } else {
        kept = keep(&entry);
        if (kept == NULL) { /* others take it for part of the step */
            status = entry.sum ? NCCL_SYSTEM_ERROR : pass(&entry);
        } else {
            status = kept->sum ? NCCL_SUCCESS : pass(kept);
        }
    }
    depth--;
    return status;
}

int preload_nccl_group_start(int (*start)(void))
{
    int status;

    depth++;
    status = start();
    depth--;
    round_now.depth += nccl_is_good(status);
    return status;
}

int preload_nccl_group_end(int (*end)(void))
{
    int status;

    depth++;
    if (round_now.depth == 1) {
        round_now.depth = 0;
        status = run_round(round_now.entries, round_now.count, end);
        round_now.count = 0;
        status = preload_nccl_end_kept(status);
    } else {
        status = end();
        round_now.depth -= round_now.depth != 0;
    }
    depth--;
    return status;
}

int preload_nccl_give_back(void)
{
    int status = NCCL_SUCCESS;

    depth++;
    for (size_t i = 0; round_now.depth == 1 && i < round_now.count; i++) {
        if (!round_now.entries[i].made) {
            note(&status, pass(&round_now.entries[i]));
        }
    }
    if (round_now.depth == 1) {
        round_now.count = 0;
    }
    round_now.depth -= round_now.depth != 0;
    depth--;
    return status;
}
