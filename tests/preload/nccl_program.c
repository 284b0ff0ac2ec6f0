/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of NCCL whose results are known, on ranks that are forked from one process: of preload_nccl.sh. With -DLINKED NCCL is
   linked, else it is loaded, and functions are looked up by its handle. Arguments: what to do; ranks; steps; how that is broken
   off. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    TENSORS = 4,
    COUNT = 4096,
    INVALID = 4,
    IN_PROGRESS = 7,
    INT32 = 2,
    FLOAT16 = 6,
    FLOAT32 = 7,
    FLOAT64 = 8,
    SUM = 0,
    AVG = 4,
    USER = 5
};

typedef struct unique {
    char bytes[128];
} unique_t;
typedef struct config {
    size_t   struct_bytes;
    unsigned magic, version;
    int      blocking;
} config_t;

#define FUNCTIONS(X)                                                                                                             \
    X(ncclGetUniqueId, (unique_t *))                                                                                             \
    X(ncclCommInitRank, (void **, int, unique_t, int))                                                                           \
    X(ncclCommInitRankConfig, (void **, int, unique_t, int, config_t *))                                                         \
    X(ncclCommGetAsyncError, (void *, int *))                                                                                    \
    X(ncclCommInitAll, (void **, int, const int *))                                                                              \
    X(ncclCommSplit, (void *, int, int, void **, config_t *))                                                                    \
    X(ncclCommDestroy, (void *))                                                                                                 \
    X(ncclCommAbort, (void *))                                                                                                   \
    X(ncclCommRevoke, (void *, int))                                                                                             \
    X(ncclCommShrink, (void *, int *, int, void **, config_t *, int))                                                            \
    X(ncclGroupStart, (void))                                                                                                    \
    X(ncclGroupEnd, (void))                                                                                                      \
    X(ncclGroupSimulateEnd, (void *))                                                                                            \
    X(ncclAllGather, (const void *, void *, size_t, int, void *, void *))                                                        \
    X(ncclAllReduce, (const void *, void *, size_t, int, int, void *, void *))                                                   \
    X(ncclReduceScatter, (const void *, void *, size_t, int, int, void *, void *))                                               \
    X(fake_begin, (void))                                                                                                        \
    X(fake_sent, (void))                                                                                                         \
    X(fake_aborts, (void))                                                                                                       \
    X(fake_defer, (int))                                                                                                         \
    X(fake_mark, (void))                                                                                                         \
    X(fake_reached, (int))                                                                                                       \
    X(fake_live, (void))                                                                                                         \
    X(fake_capture, (int))

#define DECLARE(name, arguments)                                                                                                 \
    int name arguments;                                                                                                          \
    static int(*call_##name) arguments;
FUNCTIONS(DECLARE)

static void find_functions(void)
{
#ifdef LINKED
#define FIND(name, arguments) call_##name = name;
#else
    void *nccl = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL), *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

    if (nccl == NULL || cuda == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
#define FIND(name, arguments)                                                                                                    \
    *(void **)&call_##name = dlsym(nccl, #name);                                                                                 \
    if (call_##name == NULL) {                                                                                                   \
        *(void **)&call_##name = dlsym(cuda, #name);                                                                             \
    }
#endif
    FUNCTIONS(FIND)
}

static int    rank, ranks, wrong, times[TENSORS];
static float *buffers[TENSORS];
static void  *world;
static double sums[TENSORS][COUNT], exact[TENSORS][COUNT];

static void expect(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "rank %d: %s\n", rank, what);
        wrong = 1;
    }
}

/* A communicator that does not block is called again when it is ready. */
static int settled(int status)
{
    while (status == IN_PROGRESS) {
        (void)call_ncclCommGetAsyncError(world, &status);
    }
    return status;
}

/* ---- Sums of all kinds ---- */

/* Small integers, whose sums are exact in any order. */
static float integer(size_t i, int of_rank)
{
    return (float)((i * 7 + (size_t)of_rank * 3) % 16) - 5.0f;
}

static void fill(float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = integer(i, rank);
    }
}

/* How many elements of a sum, or mean, of `first` on are not exact. */
static size_t inexact(const float *values, size_t first, size_t count, float scale)
{
    size_t differ = 0;

    for (size_t i = 0; i < count; i++) {
        float sum = 0.0f;

        for (int other = 0; other < ranks; other++) {
            sum += integer(first + i, other);
        }
        differ += values[i] != sum * scale;
    }
    return differ;
}

static void all_reduce(void *comm, float *values, size_t count, int op)
{
    fill(values, count);
    expect(settled(call_ncclAllReduce(values, values, count, FLOAT32, op, comm, NULL)) == 0, "an all-reduce fails");
}

static void count_all(void)
{
    const config_t config = {sizeof config, 0xcafebeef, 21400, 1};
    static float   in[4 * COUNT], out[4 * COUNT];
    double         doubles[8] = {0};
    void          *other = NULL;

    for (int i = 0; i < 10; i++) {
        all_reduce(world, in, 3 * COUNT, SUM);
        expect(inexact(in, 0, 3 * COUNT, 1.0f) == 0, "a sum is not exact");
    }
    all_reduce(world, in, COUNT, AVG);
    expect(inexact(in, 0, COUNT, 1.0f / (float)ranks) == 0, "a mean is not exact");
    all_reduce(world, in, COUNT, USER); /* to which ours is a sum */
    expect(call_ncclAllReduce(doubles, doubles, 8, FLOAT16, SUM, world, NULL) == 0, "float16 fails");
    fill(in, (size_t)ranks * COUNT);
    expect(call_ncclReduceScatter(in, out, COUNT, FLOAT32, SUM, world, NULL) == 0, "a reduce-scatter fails");
    expect(inexact(out, (size_t)rank * COUNT, COUNT, 1.0f) == 0, "a part of a sum is not exact");
    expect(call_ncclAllGather(out, in, COUNT, FLOAT32, world, NULL) == 0, "an all-gather fails");
    expect(inexact(in, 0, (size_t)ranks * COUNT, 1.0f) == 0, "what was gathered is not exact");

    /* Groups in groups */
    call_ncclGroupStart();
    for (int tensor = 0; tensor < TENSORS; tensor++) {
        call_ncclGroupStart();
        all_reduce(world, buffers[tensor], COUNT, SUM);
        call_ncclGroupEnd();
    }
    expect(call_ncclGroupEnd() == 0, "a group fails");
    for (int tensor = 0; tensor < TENSORS; tensor++) {
        expect(inexact(buffers[tensor], 0, COUNT, 1.0f) == 0, "a sum of a group is not exact");
    }
    call_ncclGroupStart();
    all_reduce(world, buffers[0], 32, SUM);
    expect(call_ncclGroupSimulateEnd(NULL) == 0 && (ranks == 1 || inexact(buffers[0], 0, 32, 1.0f) != 0),
           "what was simulated took place");

    call_fake_capture(1);
    all_reduce(world, in, 100, SUM);
    call_fake_capture(0);

    for (int i = 0; i < 3; i++) { /* often at the same address */
        expect(call_ncclCommSplit(world, 0, rank, &other, (config_t *)&config) == 0, "a split fails");
        all_reduce(other, in, COUNT, SUM);
        expect(call_ncclCommDestroy(other) == 0, "a communicator is not destroyed");
    }
    expect(call_ncclAllReduce(NULL, NULL, 0, FLOAT32, SUM, world, NULL) == 0, "a sum of nothing fails");
}

/* ---- Sums over and over, as in recurrence.c ---- */

/* Each tensor has its own size, so that what one keeps back would spoil another. */
static float value_of(int tensor, int i, int of_rank)
{
    static const float sizes[TENSORS] = {1.0f, 100.0f, 0.01f, 10.0f};
    const unsigned     mixed = ((unsigned)i * 2654435761u) ^ ((unsigned)of_rank * 40503u) ^ ((unsigned)tensor * 69069u);

    return sizes[tensor] * (((float)(mixed % 1000u) - 300.0f) / 1000.0f);
}

static void reduce(int tensor, float *buffer, int scatters)
{
    const size_t part = COUNT / (size_t)ranks;
    int          status;

    for (int i = 0; i < COUNT; i++) {
        buffer[i] = value_of(tensor, i, rank);
    }
    status = settled(scatters ? call_ncclReduceScatter(buffer, buffer + part * (size_t)rank, part, FLOAT32, SUM, world, NULL)
                              : call_ncclAllReduce(buffer, buffer, COUNT, FLOAT32, SUM, world, NULL));
    expect(status == 0, "a sum fails");
    if (status != 0) { /* others may be waiting */
        exit(wrong);
    }
}

static void add(int tensor, const float *buffer)
{
    times[tensor]++;
    for (int i = 0; i < COUNT; i++) {
        sums[tensor][i] += (double)buffer[i];
    }
}

/* By "apart" each is a call; by "waiting" of a communicator that does not block; by "grouped" a step is one; by
   "scattered" each rank gets a part, and by "shards" in a group; by "reversed"
   tensors that nothing else tells apart come in another order in the second half; by "moved" the last rank has others' buffers
   then. */
static void train(const char *how, int steps)
{
    static float other[COUNT], more[COUNT];
    float        loss;
    int          sent = 0, status;

    for (int step = 0; step < steps; step++) {
        const int swaps = strcmp(how, "moved") == 0 && step == steps / 2 && rank == ranks - 1;
        const int waits = strcmp(how, "waiting") == 0, scatters = strcmp(how, "scattered") == 0 || strcmp(how, "shards") == 0;
        const int groups = strcmp(how, "grouped") == 0 || strcmp(how, "shards") == 0,
                  reversed = strcmp(how, "reversed") == 0 && step >= steps / 2;

        for (int tensor = 0; swaps && tensor < TENSORS / 2; tensor++) {
            float *one = buffers[tensor];

            buffers[tensor] = buffers[TENSORS - 1 - tensor];
            buffers[TENSORS - 1 - tensor] = one;
        }
        sent = call_fake_sent();
        if (groups) {
            call_ncclGroupStart();
        }
        for (int tensor = 0; tensor < TENSORS; tensor++) {
            const int next = reversed ? TENSORS - 1 - tensor : tensor;

            reduce(next, buffers[next], scatters);
        }
        if (groups) {
            expect(call_ncclGroupEnd() == 0, "a group fails");
        }
        sent = call_fake_sent() - sent;
        if (waits) { /* what Tacit takes of it has its own end */
            call_ncclGroupStart();
            (void)call_ncclAllReduce(other, other, COUNT, FLOAT32, USER, world, NULL);
            (void)call_ncclAllReduce(more, more, COUNT, FLOAT32, SUM, world, NULL);
            status = call_ncclGroupEnd();
            expect(status == IN_PROGRESS && settled(status) == 0, "a group that is in progress is not said to be");
        }
        for (int tensor = 0; tensor < TENSORS; tensor++) {
            const size_t part = COUNT / (size_t)ranks;

            expect(!scatters || call_ncclAllGather(buffers[tensor] + part * (size_t)rank, buffers[tensor], part, FLOAT32, world,
                                                   NULL) == 0,
                   "parts are not gathered");
            add(tensor, buffers[tensor]);
        }
        all_reduce(world, other, COUNT, USER);
        expect(inexact(other, 0, COUNT, 1.0f) == 0, "a user's operation is not the user's");
        all_reduce(world, &loss, 1, SUM);
        expect(inexact(&loss, 0, 1, 1.0f) == 0, "a small sum is not exact");
    }
    if (rank == 0) {
        printf("sent %d\n", sent); /* in the last step */
    }
    for (int tensor = 0; rank == 0 && tensor < TENSORS; tensor++) {
        double lacks = 0.0, whole = 0.0;

        for (int i = 0; i < COUNT; i++) {
            const double difference = sums[tensor][i] / times[tensor] - exact[tensor][i];

            lacks += difference * difference;
            whole += exact[tensor][i] * exact[tensor][i];
        }
        printf("tensor %d %.6f\n", tensor, sqrt(lacks / whole));
    }
}

/* What is not finite arrives, and goes away again; then means of means are right. */
static void train_with_infinity(void)
{
    double lacks = 0.0, whole = 0.0;

    for (int step = 0; step < 60; step++) {
        int finite = 1;

        fill(buffers[0], COUNT);
        buffers[0][7] = step == 30 && rank == 0 ? INFINITY : buffers[0][7];
        expect(call_ncclAllReduce(buffers[0], buffers[0], COUNT, FLOAT32, AVG, world, NULL) == 0, "a mean fails");
        for (int i = 0; i < COUNT; i++) {
            finite = finite && isfinite(buffers[0][i]);
            sums[0][i] += step > 30 ? (double)buffers[0][i] / 29.0 : 0.0;
        }
        expect(finite == (step != 30), "infinity does not arrive, or stays");
        expect(step != 59 || inexact(buffers[0], 0, COUNT, 1.0f / (float)ranks) != 0, "a mean is exact");
    }
    for (int i = 0; i < COUNT; i++) {
        double mean = 0.0;

        for (int other = 0; other < ranks; other++) {
            mean += (double)integer((size_t)i, other) / ranks;
        }
        lacks += (sums[0][i] - mean) * (sums[0][i] - mean);
        whole += mean * mean;
    }
    expect(sqrt(lacks / whole) < 0.2, "means are not the means");
}

/* A step is a group of so many sums that ranks compare in the midst of one. */
static void train_many(void)
{
    enum { MANY = 300, FEW = 32 };

    for (int step = 0; step < 8; step++) {
        call_ncclGroupStart();
        for (int i = 0; i < MANY; i++) {
            all_reduce(world, buffers[i % TENSORS] + (ptrdiff_t)FEW * (i / TENSORS), FEW, SUM);
        }
        expect(call_ncclGroupEnd() == 0, "a group fails");
    }
    expect(inexact(buffers[0], 0, FEW, 1.0f) != 0, "a large group stays exact");
}

/* A thread with several GPUs: nothing waits for the other. */
static void several(void)
{
    void *comms[2];

    ranks = 2;
    expect(call_ncclCommInitAll(comms, 2, NULL) == 0, "several communicators cannot be made");
    for (int step = 0; step < 40; step++) {
        call_ncclGroupStart();
        for (rank = 0; rank < 2; rank++) {
            all_reduce(comms[rank], buffers[rank], COUNT, SUM);
        }
        rank = 0;
        expect(call_ncclGroupEnd() == 0, "a group fails");
        expect(inexact(buffers[0], 0, COUNT, 1.0f) + inexact(buffers[1], 0, COUNT, 1.0f) == 0, "sums are not exact");
    }
    expect(call_ncclCommDestroy(comms[0]) == 0 && call_ncclCommDestroy(comms[1]) == 0, "it is not destroyed");
}

/* Sums of two communicators, which the last rank calls in another order than the others: by "crossed" one of each, by "tangled"
   two, of which the second one follows the comparison; by "uneven" two and one; by "late" of one communicator. Calls do not wait
   for what they begin, so that the order is no fault. */
static void cross(const char *how, int steps)
{
    const config_t config = {sizeof config, 0xcafebeef, 21400, 1};
    const int      each = strcmp(how, "crossed") == 0 ? 1 : 2, uneven = strcmp(how, "uneven") == 0;
    const int      all = strcmp(how, "late") == 0 ? each : uneven ? 3 : 2 * each;
    void          *comms[2] = {world, NULL};

    expect(call_ncclCommSplit(world, 0, rank, &comms[1], (config_t *)&config) == 0, "a split fails");
    for (int i = 0; i < 2 && strcmp(how, "tangled") == 0; i++) {
        all_reduce(comms[i], buffers[0], COUNT, SUM);
    }
    call_fake_defer(1);
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < all; i++) {
            const int tensor = rank == ranks - 1 ? (i + each) % all : i;

            all_reduce(comms[tensor / each], buffers[tensor], uneven && tensor == 1 ? COUNT / 2 : COUNT, SUM);
            if (wrong) {
                exit(wrong);
            }
        }
        while (!call_fake_reached(call_fake_mark())) {
            sched_yield();
        }
        for (int tensor = 0; tensor < all; tensor++) {
            expect(inexact(buffers[tensor], 0, COUNT / 2, 1.0f) == 0, "a sum is not exact");
        }
    }
    call_fake_defer(0);
    expect(call_ncclCommDestroy(comms[1]) == 0, "it is not destroyed");
}

/* The last group has a sum of a communicator, and its end. */
static void end_in_group(int steps)
{
    for (int step = 0; step < steps; step++) {
        all_reduce(world, buffers[0], COUNT, SUM);
        expect(inexact(buffers[0], 0, COUNT, 1.0f) == 0, "a sum is not exact");
    }
    call_ncclGroupStart();
    all_reduce(world, buffers[1], COUNT, SUM);
    call_ncclGroupStart();
    expect(call_ncclCommDestroy(world) == 0, "it is not destroyed");
    expect(call_ncclGroupEnd() == 0 && call_ncclGroupEnd() == 0, "a group fails");
    expect(inexact(buffers[1], 0, COUNT, 1.0f) == 0, "the last sum is not exact");
    expect(call_fake_live() == 0, "something is not freed");
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static const char *breaks = "abort"; /* a communicator off, or: "revoke", "shrink" */
static void       *rest;             /* what is left of it */

static void *break_later(void *took)
{
    int    last = ranks - 1;
    double began;

    sleep(1);
    began = now();
    if (strcmp(breaks, "revoke") == 0) {
        expect(call_ncclCommRevoke(world, 0) == 0, "nothing is revoked");
    } else if (strcmp(breaks, "shrink") == 0) {
        expect(call_ncclCommShrink(world, &last, 1, &rest, NULL, 1) == 0, "nothing is left");
    } else {
        expect(call_ncclCommAbort(world) == 0, "nothing is aborted");
    }
    *(double *)took = now() - began;
    return NULL;
}

/* The last rank leaves before that step, and others wait for it until a thread breaks the communicator off: by "step" in a step,
   by "meeting" where they meet. Of one that is not aborted, what NCCL allows is possible. */
static void be_watched(int meets, int last)
{
    double    took = 1e9;
    pthread_t thread;
    int       status = 0;

    call_fake_defer(meets);
    for (int step = 0; step <= last; step++) {
        if (rank == ranks - 1 && step == last) {
            exit(wrong);
        }
        if (step == last) {
            (void)pthread_create(&thread, NULL, break_later, &took);
        }
        status = call_ncclAllReduce(buffers[0], buffers[0], COUNT, FLOAT32, SUM, world, NULL);
        while (step < last && !call_fake_reached(call_fake_mark())) {
            sched_yield();
        }
    }
    expect(meets || status != 0, "a step succeeds without one of the ranks");
    (void)pthread_join(thread, NULL);
    expect(took < 6.0, "to break it off takes long"); /* half of the time for which ranks would wait */
    expect(strcmp(breaks, "revoke") != 0 ||
               call_ncclAllReduce(buffers[0], buffers[0], COUNT, FLOAT32, SUM, world, NULL) == INVALID,
           "NCCL is not asked any more");
    expect(strcmp(breaks, "abort") == 0 || call_ncclCommDestroy(world) == 0, "it is not destroyed");
    if (rest != NULL) {
        ranks = 1;
        all_reduce(rest, buffers[0], COUNT, SUM);
        expect(inexact(buffers[0], 0, COUNT, 1.0f) == 0, "a sum of what is left is not exact");
        expect(call_ncclCommDestroy(rest) == 0, "what is left is not destroyed");
    }
    exit(wrong);
}

/* A child has a report of its own, once, where its parent had communicators before. */
static void fork_late(void)
{
    unique_t id;
    int      state = 1;
    pid_t    child = 0;

    ranks = 1;
    for (int generation = 0; generation < 2; generation++) {
        call_ncclGetUniqueId(&id);
        expect(call_ncclCommInitRank(&world, 1, id, 0) == 0, "a communicator cannot be made");
        all_reduce(world, buffers[0], COUNT, SUM);
        child = generation == 0 ? fork() : child;
        if (child != 0) {
            break;
        }
    }
    if (child == 0) {
        exit(wrong);
    }
    expect(waitpid(child, &state, 0) == child && state == 0, "the child fails");
}

#ifndef LINKED
/* A library that is closed and opened again, with something else in its former place. */
static void reload(void)
{
    static const char *const names[] = {"ncclGroupStart", "ncclGroupEnd"};
    const long               page = sysconf(_SC_PAGESIZE);

    for (int round = 0; round < 2; round++) {
        void *nccl = dlopen("libnccl.so.2", RTLD_NOW | RTLD_GLOBAL), *own = NULL;

        for (int i = 0; i < 2; i++) {
            int (*function)(void) = NULL;

            *(void **)&function = dlsym(RTLD_DEFAULT, names[i]);
            own = dlsym(nccl, "fake_begin");
            expect(function != NULL && function() == 0, "a group fails");
        }
        dlclose(nccl);
        own = (void *)((uintptr_t)own & ~((uintptr_t)page - 1));
        (void)mmap(own, (size_t)page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
                   0); /* if nothing is there */
    }
}
#endif

static void run(const char *what, int steps)
{
    if (strcmp(what, "count") == 0) {
        count_all();
    } else if (strcmp(what, "infinity") == 0) {
        train_with_infinity();
    } else if (strcmp(what, "many") == 0) {
        train_many();
    } else if (strcmp(what, "crossed") == 0 || strcmp(what, "tangled") == 0 || strcmp(what, "uneven") == 0 ||
               strcmp(what, "late") == 0) {
        cross(what, steps);
    } else if (strcmp(what, "ended") == 0) {
        end_in_group(steps);
        return;
    } else if (strcmp(what, "step") == 0 || strcmp(what, "meeting") == 0) {
        be_watched(what[0] == 'm', steps);
    } else {
        train(what, steps);
    }
    if (strcmp(what, "moved") == 0) { /* another way to the end */
        const int before = call_fake_aborts();

        expect(call_ncclCommAbort(world) == 0 && call_fake_aborts() == before + 2, "nothing is aborted");
    } else {
        expect(call_ncclCommDestroy(world) == 0, "it is not destroyed");
        expect(call_fake_live() == 0, "something is not freed");
    }
}

static int join(unique_t id, int waits)
{
    config_t config = {sizeof config, 0xcafebeef, 21400, 0};

    return waits ? settled(call_ncclCommInitRankConfig(&world, ranks, id, rank, &config))
                 : call_ncclCommInitRank(&world, ranks, id, rank);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "count";
    const int   steps = argc > 3 ? atoi(argv[3]) : 0;
    unique_t    id;
    int         state = 0;
    pid_t       process[8];

#ifndef LINKED
    if (strcmp(what, "reloaded") == 0) {
        reload();
        printf("%s\n", wrong ? "wrong" : "right");
        return wrong;
    }
#endif
    find_functions();
    ranks = argc > 2 ? atoi(argv[2]) : 2;
    breaks = argc > 4 ? argv[4] : breaks;
    for (int tensor = 0; tensor < TENSORS; tensor++) {
        buffers[tensor] = malloc(COUNT * sizeof **buffers);
        for (int i = 0; i < COUNT; i++) {
            for (int other = 0; other < ranks; other++) {
                exact[tensor][i] += (double)value_of(tensor, i, other);
            }
        }
    }
    expect(call_fake_begin() == 0, "there is no memory to meet in");
    if (strcmp(what, "several") == 0 || strcmp(what, "forked") == 0) {
        (what[0] == 's' ? several : fork_late)();
        printf("%s\n", wrong ? "wrong" : "right");
        return wrong;
    }
    call_ncclGetUniqueId(&id);
    for (rank = 0; rank < ranks; rank++) {
        process[rank] = fork();
        if (process[rank] == 0) {
            if (rank == 1 && getenv("OTHER_RULE") != NULL) {
                setenv("TACIT_ALLREDUCE", getenv("OTHER_RULE"), 1);
            }
            if (rank == 1 && strcmp(what, "poor") == 0) {
                setenv("FAKE_CUDA_FULL", "1", 1);
            }
            if (rank == 1 && strcmp(what, "late") == 0) {
                setenv("FAKE_NCCL_LATE", "2", 1);
            }
            if (rank == 1 && strcmp(what, "broken") == 0) {
                setenv("FAKE_NCCL_BREAKS", "1", 1);
            }
            if (rank == 1 && strcmp(what, "lost") == 0) {
                setenv("FAKE_NCCL_LOSES", "1", 1);
            }
            if (rank == 1 && strcmp(what, "refused") == 0) {
                setenv("FAKE_NCCL_REFUSES", "1", 1);
            }
            expect(join(id, strcmp(what, "waiting") == 0) == 0, "a communicator cannot be made");
            run(what, steps);
            exit(wrong);
        }
    }
    for (int left = ranks; left > 0; left--) {
        wait(&state);
        if (state != 0) {
            fprintf(stderr, "a rank ends with state %#x\n", (unsigned)state);
            wrong = 1;
        }
        for (int other = 0; state != 0 && other < ranks; other++) { /* as launchers do */
            (void)kill(process[other], SIGTERM);
        }
    }
    printf("%s\n", wrong ? "wrong" : "right");
    return wrong;
}
