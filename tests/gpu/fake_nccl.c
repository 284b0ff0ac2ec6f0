/* SPDX-License-Identifier: Apache-2.0 */
/* A libnccl.so.2 for tests, on the memory of one machine: as much of NCCL as the library calls, between processes that are forked
   from one or share a file. Calls only note what is to be done; it is done, a piece at a time, where NCCL is asked for
   asynchronous errors, until which it is in progress; deferred, also where the tests' libcuda is asked for events, and calls of
   blocking communicators do not wait for it either. Between two ranks bytes go through a ring in memory that all share. Faults
   are injected by functions whose names begin with fake_. With FAKE_NCCL_OLD it is one that has a version and nothing else, with
   FAKE_NCCL_PLAIN one without the names for tools. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "float16.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int  fake_nccl_version = 22809;
EXPORT int  ncclGetVersion(int *version);
EXPORT int  fake_begin(void);
EXPORT int  fake_begin_in(const char *path);
EXPORT void fake_fail(int error);
EXPORT void fake_stick(int stuck);
EXPORT int  fake_aborts(void);

EXPORT void fake_defer(int deferred);
EXPORT int  fake_mark(void);
EXPORT int  fake_reached(int mark);

EXPORT size_t fake_sent(void);

/* Of the tests' libcuda, where there is one: contexts that the thread was sent to. */
extern int fake_depth(void) __attribute__((weak));

int ncclGetVersion(int *version)
{
    *version = fake_nccl_version;
    return 0;
}

#ifndef FAKE_NCCL_OLD

enum {
    RANKS = 4,
    WORLDS = 256,
    SPLITS = 8,
    COMMS = 64,
    RING = 1 << 16,
    OPS = 2048,
    SUCCESS = 0,
    INVALID = 4,
    REMOTE = 6,
    IN_PROGRESS = 7
};
enum { UINT8 = 1, INT32 = 2, FLOAT16 = 6, FLOAT32 = 7, BFLOAT16 = 9, MAX = 2, AVG = 4 };

typedef struct ring {
    atomic_size_t head, tail; /* bytes written and read, ever */
    uint8_t       bytes[RING];
} ring_t;

/* What the ranks of a communicator share. */
typedef struct world {
    atomic_int joined, away;     /* ranks that have come, and those of them that only said that they do not take part */
    atomic_int children[SPLITS]; /* 1 + the world that it is split into, each time */
    ring_t     rings[RANKS][RANKS];
} world_t;

typedef struct arena {
    atomic_int worlds;
    world_t    world[WORLDS];
} arena_t;

/* Bytes to or from a peer; at the end, a sum. */
typedef struct op {
    uint8_t *out; /* received here; NULL: it is sent */
    uint8_t *in;  /* sent from here */
    size_t   bytes, done;
    int      peer, number;
    /* of a reduction, the last of its operations: contributions of all ranks become `sum` */
    uint8_t *parts, *sum;
    size_t   count;
    int      dtype, op;
} op_t;

typedef struct comm {
    world_t      *world;
    int           rank, ranks, device, blocking, splits;
    op_t          ops[OPS];
    int           op_count, ready; /* operations noted, and those of groups that have ended */
    int           used;            /* there were operations */
    int           ends;            /* it was finalized in a group, with which that takes place */
    int           revoked;
    struct comm  *aborted;   /* before this one */
    struct comm  *child;     /* that it is being split into, … */
    struct comm **child_out; /* … and where that goes once all have joined it */
} comm_t;

typedef struct unique {
    char bytes[128];
} unique_t;

typedef struct config {
    size_t   struct_bytes;
    unsigned magic, version;
    int      blocking;
} config_t;

static arena_t *arena;
static int      grouped, async_fault, is_stuck, aborts, is_deferred, latest, loses;
static comm_t  *comms[COMMS]; /* of this rank */
static size_t   sent;
static comm_t  *touched[RANKS]; /* by the present group */

/* ---- What tests call ---- */

/* Before ranks are forked. */
int fake_begin(void)
{
    arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return arena != MAP_FAILED ? 0 : -1;
}

/* In ranks that are not forked from one: the same file, which is not there at first. */
int fake_begin_in(const char *path)
{
    const int file = open(path, O_RDWR | O_CREAT, 0600);

    arena = MAP_FAILED;
    if (file >= 0 && ftruncate(file, sizeof *arena) == 0) {
        arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    }
    if (file >= 0) {
        (void)close(file);
    }
    return arena != MAP_FAILED ? 0 : -1;
}

/* All communicators of this rank have this error. */
void fake_fail(int error)
{
    async_fault = error;
}

/* Nothing moves any more in this rank. */
void fake_stick(int stuck)
{
    is_stuck = stuck;
}

int fake_aborts(void)
{
    return aborts;
}

/* Bytes that this rank has given for others. */
size_t fake_sent(void)
{
    return sent;
}

/* ---- Bytes ---- */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void move(const comm_t *comm, op_t *op)
{
    const int sends = op->out == NULL;
    ring_t   *ring = sends ? &comm->world->rings[comm->rank][op->peer] : &comm->world->rings[op->peer][comm->rank];
    size_t    head = atomic_load(&ring->head), tail = atomic_load(&ring->tail), at = (sends ? head : tail) % RING;
    size_t    bytes = least(least(op->bytes - op->done, RING - at), sends ? RING - (head - tail) : head - tail);

    if (sends) {
        memcpy(ring->bytes + at, op->in + op->done, bytes);
        atomic_store(&ring->head, head + bytes);
    } else {
        memcpy(op->out + op->done, ring->bytes + at, bytes);
        atomic_store(&ring->tail, tail + bytes);
    }
    op->done += bytes;
}

static size_t width_of(int dtype)
{
    return dtype == UINT8 ? 1 : dtype == FLOAT32 || dtype == INT32 ? 4 : 2;
}

/* The largest of all ranks' integers. */
static void largest(const comm_t *comm, const op_t *op)
{
    for (size_t i = 0; i < op->count; i++) {
        int32_t most = INT32_MIN, value;

        for (int rank = 0; rank < comm->ranks; rank++) {
            memcpy(&value, op->parts + 4 * ((size_t)rank * op->count + i), sizeof value);
            most = value > most ? value : most;
        }
        memcpy(op->sum + 4 * i, &most, sizeof most);
    }
}

static float widen(const uint8_t *part, size_t i, int dtype)
{
    uint16_t half;
    float    value;

    if (dtype == FLOAT32) {
        memcpy(&value, part + 4 * i, sizeof value);
        return value;
    }
    memcpy(&half, part + 2 * i, sizeof half);
    return dtype == FLOAT16 ? tacit__from_float16(half) : tacit__from_bfloat16(half);
}

static void store(uint8_t *out, size_t i, int dtype, float value)
{
    const uint16_t half = dtype == FLOAT16 ? tacit__to_float16(value, 0x7c00) : tacit__to_bfloat16(value, 0x7f80);

    if (dtype == FLOAT32) {
        memcpy(out + 4 * i, &value, sizeof value);
    } else {
        memcpy(out + 2 * i, &half, sizeof half);
    }
}

/* In ascending order of ranks, in float32; of integers, that is all there is. */
static void reduce(const comm_t *comm, op_t *op)
{
    const size_t width = width_of(op->dtype);

    if (op->dtype == INT32 && op->op == MAX) {
        largest(comm, op);
    }
    for (size_t i = 0; op->dtype != INT32 && i < op->count; i++) {
        float sum = widen(op->parts, i, op->dtype);

        for (int rank = 1; rank < comm->ranks; rank++) {
            sum += widen(op->parts + (size_t)rank * op->count * width, i, op->dtype);
        }
        store(op->sum, i, op->dtype, op->op == AVG ? sum * (1.0f / (float)comm->ranks) : sum);
    }
    free(op->parts);
    op->parts = NULL;
}

/* What all have sent in this order arrives in it: of two messages between the same ranks the first is done first. */
static int is_next(const comm_t *comm, int i)
{
    for (int j = 0; j < i; j++) {
        const op_t *one = &comm->ops[j], *other = &comm->ops[i];

        if (one->done < one->bytes && one->peer == other->peer && (one->out == NULL) == (other->out == NULL)) {
            return 0;
        }
    }
    return 1;
}

static int is_done(const op_t *op)
{
    return op->done == op->bytes && op->parts == NULL;
}

/* SUCCESS when there is nothing left to do. */
static int advance(comm_t *comm)
{
    int left = atomic_load(&comm->world->joined) < comm->ranks;

    if (comm->child != NULL && advance(comm->child) == SUCCESS) {
        *comm->child_out = comm->child;
        comm->child = NULL;
    }
    left += comm->child != NULL || (comm->ends && grouped != 0);
    if (is_stuck) {
        return comm->ready != 0 || left ? IN_PROGRESS : SUCCESS;
    }
    for (int i = 0; i < comm->ready; i++) {
        if (is_next(comm, i)) {
            move(comm, &comm->ops[i]);
        }
        left += comm->ops[i].done < comm->ops[i].bytes;
        if (left == 0 && comm->ops[i].parts != NULL) {
            reduce(comm, &comm->ops[i]);
        }
    }
    if (left == 0) {
        comm->op_count = comm->ready = 0;
    }
    return left == 0 ? SUCCESS : IN_PROGRESS;
}

static int wait_for(comm_t *comm)
{
    int result = IN_PROGRESS;

    comm->ready = comm->op_count;
    while (comm->blocking && result == IN_PROGRESS) {
        result = advance(comm);
    }
    return result;
}

static int settle(comm_t *comm)
{
    comm->ready = comm->op_count;
    return comm->blocking && is_deferred ? SUCCESS : wait_for(comm);
}

static op_t *note(comm_t *comm, const void *in, void *out, size_t bytes, int peer)
{
    op_t *op = &comm->ops[comm->op_count++];

    if (comm->op_count == OPS) {
        fprintf(stderr, "fake NCCL: too many operations at once\n");
        _Exit(1);
    }
    *op = (op_t){.out = out, .in = (uint8_t *)(uintptr_t)in, .bytes = bytes, .peer = peer, .number = ++latest};
    comm->used = 1;
    sent += out == NULL && peer != comm->rank ? bytes : 0;
    return op;
}

/* A thread's communicators of several GPUs advance by turns. */
static int settle_all(void)
{
    int result = SUCCESS, more = 1;

    for (int i = 0; i < RANKS && touched[i] != NULL; i++) {
        touched[i]->ready = touched[i]->op_count;
    }
    while (more) {
        more = 0;
        for (int i = 0; i < RANKS && touched[i] != NULL; i++) {
            const int one = !touched[i]->blocking ? IN_PROGRESS : is_deferred ? SUCCESS : advance(touched[i]);

            more = more || (touched[i]->blocking && one == IN_PROGRESS);
            result = one == IN_PROGRESS ? one : result;
        }
        result = more ? SUCCESS : result;
    }
    memset(touched, 0, sizeof touched);
    return result;
}

static int end_call(comm_t *comm)
{
    int i = 0;

    if (grouped == 0) {
        return settle(comm);
    }
    while (i < RANKS - 1 && touched[i] != NULL && touched[i] != comm) {
        i++;
    }
    touched[i] = comm;
    return SUCCESS;
}

/* From now on calls of blocking communicators return before they are done. */
void fake_defer(int deferred)
{
    is_deferred = deferred;
}

/* Behind what was called so far; and whether that is done. */
int fake_mark(void)
{
    return latest;
}

int fake_reached(int mark)
{
    int reached = 1;

    for (int i = 0; is_deferred && i < COMMS; i++) {
        if (comms[i] == NULL) {
            continue;
        }
        (void)advance(comms[i]);
        for (int j = 0; j < comms[i]->op_count; j++) {
            reached = reached && (comms[i]->ops[j].number > mark || is_done(&comms[i]->ops[j]));
        }
    }
    return reached;
}

/* ---- What NCCL exports ---- */

EXPORT int         ncclGetUniqueId(unique_t *id);
EXPORT int         ncclCommInitRankConfig(comm_t **out, int ranks, unique_t id, int rank, config_t *config);
EXPORT int         ncclCommInitRank(comm_t **out, int ranks, unique_t id, int rank);
EXPORT int         ncclCommInitAll(comm_t **out, int ranks, const int *devices);
EXPORT int         ncclCommSplit(comm_t *parent, int color, int key, comm_t **out, config_t *config);
EXPORT int         ncclCommFinalize(comm_t *comm);
EXPORT int         ncclCommDestroy(comm_t *comm);
EXPORT int         ncclCommAbort(comm_t *comm);
EXPORT int         ncclCommRevoke(comm_t *comm, int flags);
EXPORT int         ncclCommShrink(comm_t *parent, int *excluded, int count, comm_t **out, config_t *config, int flags);
EXPORT int         ncclCommGetAsyncError(comm_t *comm, int *error);
EXPORT int         ncclCommCount(const comm_t *comm, int *ranks);
EXPORT int         ncclCommUserRank(const comm_t *comm, int *rank);
EXPORT int         ncclCommCuDevice(const comm_t *comm, int *device);
EXPORT const char *ncclGetErrorString(int error);
EXPORT const char *ncclGetLastError(const comm_t *comm);
EXPORT int         ncclGroupStart(void);
EXPORT int         ncclGroupEnd(void);
EXPORT int         ncclGroupSimulateEnd(void *info);
EXPORT int         ncclSend(const void *in, size_t count, int dtype, int peer, comm_t *comm, void *stream);
EXPORT int         ncclRecv(void *out, size_t count, int dtype, int peer, comm_t *comm, void *stream);
EXPORT int         ncclAllGather(const void *in, void *out, size_t count, int dtype, comm_t *comm, void *stream);
EXPORT int         ncclAllReduce(const void *in, void *out, size_t count, int dtype, int op, comm_t *comm, void *stream);
EXPORT int         ncclReduceScatter(const void *in, void *out, size_t count, int dtype, int op, comm_t *comm, void *stream);
EXPORT int         ncclReduce(const void *in, void *out, size_t count, int dtype, int op, int root, comm_t *comm, void *stream);
EXPORT int         ncclBroadcast(const void *in, void *out, size_t count, int dtype, int root, comm_t *comm, void *stream);

int ncclGetUniqueId(unique_t *id)
{
    const int world = atomic_fetch_add(&arena->worlds, 1);

    memset(id, 0, sizeof *id);
    memcpy(id->bytes, &world, sizeof world);
    return world < WORLDS ? SUCCESS : INVALID;
}

static void list(const comm_t *former, comm_t *comm)
{
    int i = 0;

    while (i < COMMS - 1 && comms[i] != former) {
        i++;
    }
    comms[i] = comm;
}

static int join(comm_t **out, int world, int rank, int ranks, const config_t *config)
{
    comm_t *comm = calloc(1, sizeof *comm);

    if (config->magic != 0xcafebeef || config->struct_bytes < sizeof *config || ranks > RANKS || comm == NULL) {
        return INVALID;
    }
    *comm = (comm_t){.world = &arena->world[world], .rank = rank, .ranks = ranks, .blocking = config->blocking};
    list(NULL, comm);
    atomic_fetch_add(&comm->world->joined, 1);
    *out = comm;
    return wait_for(comm);
}

int ncclCommInitRankConfig(comm_t **out, int ranks, unique_t id, int rank, config_t *config)
{
    int world;

    memcpy(&world, id.bytes, sizeof world);
    if (world != 0 && !config->blocking) { /* Tacit's: it allocates, too */
        if (getenv("FAKE_NCCL_REFUSES") != NULL || (fake_depth != NULL && fake_depth() == 0)) {
            return INVALID;
        }
    }
    return join(out, world, rank, ranks, config);
}

int ncclCommInitRank(comm_t **out, int ranks, unique_t id, int rank)
{
    const config_t config = {sizeof config, 0xcafebeef, 0, 1};
    int            world;

    memcpy(&world, id.bytes, sizeof world);
    return join(out, world, rank, ranks, &config);
}

int ncclCommInitAll(comm_t **out, int ranks, const int *devices)
{
    const config_t config = {sizeof config, 0xcafebeef, 0, 0};
    const int      world = atomic_fetch_add(&arena->worlds, 1);

    for (int rank = 0; rank < ranks; rank++) {
        if (join(&out[rank], world, rank, ranks, &config) == INVALID) {
            return INVALID;
        }
        out[rank]->device = devices != NULL ? devices[rank] : rank;
    }
    for (int rank = 0; rank < ranks; rank++) {
        out[rank]->blocking = 1;
    }
    return SUCCESS;
}

/* As NCCL has it, success also while the parent is in progress. */
int ncclCommSplit(comm_t *parent, int color, int key, comm_t **out, config_t *config)
{
    const int split = parent->splits++;
    int       child = 0, result;

    (void)key;
    if (split == SPLITS) {
        return INVALID;
    }
    if (parent->rank == 0) {
        atomic_store(&parent->world->children[split], 1 + atomic_fetch_add(&arena->worlds, 1));
    }
    while (child == 0) {
        child = atomic_load(&parent->world->children[split]);
    }
    *out = NULL;
    if (color < 0) {
        atomic_fetch_add(&arena->world[child - 1].away, 1);
        atomic_fetch_add(&arena->world[child - 1].joined, 1);
    } else {
        parent->child_out = out;
        if (join(&parent->child, child - 1, parent->rank, parent->ranks, config) == INVALID) {
            return INVALID;
        }
    }
    result = wait_for(parent);
    return result == IN_PROGRESS ? SUCCESS : result;
}

int ncclCommFinalize(comm_t *comm)
{
    comm->ends = grouped != 0;
    return comm->op_count == 0 && !comm->ends ? SUCCESS : IN_PROGRESS;
}

int ncclCommDestroy(comm_t *comm)
{
    list(comm, NULL);
    free(comm);
    return SUCCESS;
}

/* Its memory stays: another thread may be asking for an event that is behind it. */
int ncclCommAbort(comm_t *comm)
{
    static comm_t *latest_aborted;

    comm->aborted = latest_aborted;
    latest_aborted = comm;
    aborts++;
    is_stuck = 0;
    list(comm, NULL);
    return SUCCESS;
}

/* What is under way is no more; but the communicator is. */
int ncclCommRevoke(comm_t *comm, int flags)
{
    comm->op_count = comm->ready = 0;
    comm->revoked = 1;
    return flags == 0 ? SUCCESS : INVALID;
}

/* To one rank, which is enough for tests: others would have to find each other. */
int ncclCommShrink(comm_t *parent, int *excluded, int count, comm_t **out, config_t *config, int flags)
{
    const config_t own = {sizeof own, 0xcafebeef, 0, 1};

    if (excluded == NULL || count != parent->ranks - 1) {
        return INVALID;
    }
    if (flags == 1) {
        parent->op_count = parent->ready = 0;
    }
    return join(out, atomic_fetch_add(&arena->worlds, 1), 0, 1, config != NULL ? config : &own);
}

int ncclCommGetAsyncError(comm_t *comm, int *error)
{
    *error = async_fault != SUCCESS ? async_fault : advance(comm);
    if (*error == SUCCESS && !comm->blocking && comm->used && getenv("FAKE_NCCL_BREAKS") != NULL) {
        *error = REMOTE; /* of what is done for the others */
    }
    if (is_deferred) {
        (void)fake_reached(0);
        *error = comm->blocking && async_fault == SUCCESS ? SUCCESS : *error;
    }
    return SUCCESS;
}

int ncclCommCount(const comm_t *comm, int *ranks)
{
    *ranks = comm->ranks - atomic_load(&comm->world->away);
    return SUCCESS;
}

int ncclCommUserRank(const comm_t *comm, int *rank)
{
    *rank = comm->rank;
    return SUCCESS;
}

int ncclCommCuDevice(const comm_t *comm, int *device)
{
    *device = comm->device;
    return SUCCESS;
}

const char *ncclGetErrorString(int error)
{
    return error == 6 ? "remote process exited or there was a network error" : "an error";
}

const char *ncclGetLastError(const comm_t *comm)
{
    (void)comm;
    return "";
}

int ncclGroupStart(void)
{
    grouped++;
    return SUCCESS;
}

int ncclGroupEnd(void)
{
    grouped--;
    if (grouped == 0 && loses) {
        loses = 0;
        return INVALID;
    }
    return grouped == 0 ? settle_all() : SUCCESS;
}

/* As NCCL's: nothing is done. */
int ncclGroupSimulateEnd(void *info)
{
    (void)info;
    grouped--;
    for (int i = 0; grouped == 0 && i < RANKS && touched[i] != NULL; i++) {
        touched[i]->op_count = touched[i]->ready = 0;
        touched[i] = NULL;
    }
    return SUCCESS;
}

static size_t bytes_of(size_t count, int dtype)
{
    return count * width_of(dtype);
}

int ncclSend(const void *in, size_t count, int dtype, int peer, comm_t *comm, void *stream)
{
    (void)stream;
    note(comm, in, NULL, bytes_of(count, dtype), peer);
    return end_call(comm);
}

int ncclRecv(void *out, size_t count, int dtype, int peer, comm_t *comm, void *stream)
{
    (void)stream;
    note(comm, NULL, out, bytes_of(count, dtype), peer);
    return end_call(comm);
}

int ncclAllGather(const void *in, void *out, size_t count, int dtype, comm_t *comm, void *stream)
{
    const size_t bytes = bytes_of(count, dtype);

    (void)stream;
    for (int peer = 0; peer < comm->ranks; peer++) {
        note(comm, in, NULL, bytes, peer);
        note(comm, NULL, (uint8_t *)out + (size_t)peer * bytes, bytes, peer);
    }
    return end_call(comm);
}

/* All ranks of a reduction get all contributions; those that want the sum make it. */
static int start_reduction(const void *in, void *out, size_t count, int dtype, int op, comm_t *comm)
{
    const size_t bytes = bytes_of(count, dtype);
    uint8_t     *parts = malloc((size_t)comm->ranks * bytes);
    op_t        *noted = NULL;

    for (int peer = 0; peer < comm->ranks; peer++) {
        note(comm, in, NULL, bytes, peer);
        noted = note(comm, NULL, parts + (size_t)peer * bytes, bytes, peer);
    }
    noted->parts = parts;
    noted->sum = out != NULL ? out : parts;
    noted->count = count;
    noted->dtype = dtype;
    noted->op = op;
    return end_call(comm);
}

int ncclAllReduce(const void *in, void *out, size_t count, int dtype, int op, comm_t *comm, void *stream)
{
    const char *late = getenv("FAKE_NCCL_LATE"), *lost = getenv("FAKE_NCCL_LOSES");
    static int  told;

    (void)stream;
    told += dtype == INT32; /* what ranks tell each other */
    if (dtype == INT32 && late != NULL && told == atoi(late)) {
        sleep(2);
    }
    if (dtype == INT32 && lost != NULL && told == atoi(lost)) { /* which its group finds out */
        loses = 1;
        return SUCCESS;
    }
    return comm->revoked ? INVALID : start_reduction(in, out, count, dtype, op, comm);
}

/* Each rank's part of what the others have. Of one rank it is an all-reduce: NCCL calls itself, too. */
int ncclReduceScatter(const void *in, void *out, size_t count, int dtype, int op, comm_t *comm, void *stream)
{
    const size_t bytes = bytes_of(count, dtype);
    uint8_t     *parts = malloc((size_t)comm->ranks * bytes);
    op_t        *noted = NULL;

    if (comm->ranks == 1) {
        free(parts);
        return ncclAllReduce(in, out, count, dtype, op, comm, stream);
    }
    for (int peer = 0; peer < comm->ranks; peer++) {
        note(comm, (const uint8_t *)in + (size_t)peer * bytes, NULL, bytes, peer);
        noted = note(comm, NULL, parts + (size_t)peer * bytes, bytes, peer);
    }
    noted->parts = parts;
    noted->sum = out;
    noted->count = count;
    noted->dtype = dtype;
    noted->op = op;
    return end_call(comm);
}

int ncclReduce(const void *in, void *out, size_t count, int dtype, int op, int root, comm_t *comm, void *stream)
{
    (void)stream;
    return start_reduction(in, comm->rank == root ? out : NULL, count, dtype, op, comm);
}

int ncclBroadcast(const void *in, void *out, size_t count, int dtype, int root, comm_t *comm, void *stream)
{
    const size_t bytes = bytes_of(count, dtype);

    (void)stream;
    for (int peer = 0; peer < comm->ranks && comm->rank == root; peer++) {
        note(comm, in, NULL, bytes, peer);
    }
    note(comm, NULL, out, bytes, root);
    return end_call(comm);
}

#ifndef FAKE_NCCL_PLAIN
/* The names by which tools that stand in front of NCCL call it. */
#define PROFILED(name) EXPORT __typeof__(name) p##name __attribute__((alias(#name)));
PROFILED(ncclAllGather)
PROFILED(ncclAllReduce)
PROFILED(ncclCommAbort)
PROFILED(ncclCommDestroy)
PROFILED(ncclCommFinalize)
PROFILED(ncclCommRevoke)
PROFILED(ncclCommShrink)
PROFILED(ncclGroupEnd)
PROFILED(ncclGroupSimulateEnd)
PROFILED(ncclGroupStart)
PROFILED(ncclReduceScatter)
#endif

#endif
