/* SPDX-License-Identifier: Apache-2.0 */
/* Reductions like the last one make no system calls: none at all where ranks take turns in one thread, only those of waiting
   where each has its own. The kernel watches: a filter ends a process that makes any other. */
#include <check.h>
#include <stdio.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#elif __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

int main(void)
{
    puts("skipped: sanitizers make system calls of their own");
    return 77;
}

#elif !defined(__linux__) || !defined(__GLIBC__)

int main(void)
{
    puts("skipped: this is not Linux with glibc");
    return 77;
}

#else

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 2, COUNT = 6000, WARM = 4, STEPS = 20, MOST_CALLS = 8, NO_FILTER = 2 };

static const char *const specs[] = {"none",
                                    "fp16",
                                    "fp8",
                                    "onebit+ef",
                                    "onebit:block=0,own=coded+ef",
                                    "onebit+ef21:average=0.5,residual=bf16",
                                    "qsgd:bits=4+ef",
                                    "rotq:bits=2+ef",
                                    "topk:ratio=0.1+ef",
                                    "topk:ratio=0.1+dgc:dense=0",
                                    "randk:ratio=0.1+ef",
                                    "powersgd+ef"};
enum { SLOTS = sizeof specs / sizeof *specs };

static const char *const plans[] = {NULL, "any by sparse",
                                    "any by sparse-scatter"}; /* in the ring chance says how much there is */
enum { PLANS = sizeof plans / sizeof *plans };

/* A rank: what it works with. */
typedef struct desk {
    tacit_loop_t *loop;
    int           rank;
    tacit_comm_t *comm;
    tacit_slot_t *slots[SLOTS];
    float         in[COUNT], out[SLOTS][COUNT];
} desk_t;

static desk_t *desks[RANKS];
static struct {
    atomic_int call, done; /* 1 + the number of a call that was not allowed; helpers that have finished */
} * shared;                /* with the process that waits */

/* ---- The filter: of this thread, for ever ---- */

static void caught(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    atomic_store(&shared->call, 1 + info->si_syscall);
    _exit(1);
}

/* Lets only these calls through, and the end. */
static void watch(const int *calls, size_t count)
{
    const struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    struct sock_filter     filter[MOST_CALLS + 4];
    struct sock_fprog      program = {.filter = filter};

    filter[program.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i <= count; i++) { /* each jumps to the last line */
        const int call = i < count ? calls[i] : SYS_exit_group;

        filter[program.len++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, (uint8_t)(count - i + 1), 0);
    }
    filter[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    filter[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        _exit(NO_FILTER);
    }
}

/* ---- What it watches ---- */

static void *make(void *arg)
{
    desk_t           *desk = arg;
    tacit_transport_t transport;
    char              name[16];

    MUST(tacit_loop_transport(desk->loop, desk->rank, &transport));
    MUST(tacit_comm_create(&transport, NULL, &desk->comm));
    for (int s = 0; s < SLOTS; s++) {
        snprintf(name, sizeof name, "slot %d", s);
        desk->slots[s] = slot_of(desk->comm, name, COUNT, TACIT_FLOAT32, specs[s]);
    }
    harness_fill(desk->in, COUNT, (uint64_t)desk->rank + 1, 1.0f);
    return NULL;
}

static void start(desk_t *desk, tacit_request_t **request)
{
    MUST(tacit_group_begin(desk->comm));
    for (int s = 0; s < SLOTS; s++) {
        MUST(tacit_allreduce(desk->slots[s], desk->in, desk->out[s], TACIT_AVERAGE));
    }
    MUST(tacit_group_end(desk->comm, request));
}

/* Both ranks in this thread: none of them waits. */
static void in_turns(int steps)
{
    for (int step = 0; step < steps; step++) {
        tacit_request_t *requests[RANKS];

        for (int rank = 0; rank < RANKS; rank++) {
            start(desks[rank], &requests[rank]);
        }
        for (int rank = 0; requests[0] != NULL || requests[1] != NULL; rank = (rank + 1) % RANKS) {
            tacit_status_t status = requests[rank] != NULL ? tacit_test(&requests[rank]) : TACIT_OK;

            MUST(status == TACIT_PENDING ? TACIT_OK : status);
        }
    }
}

static void watch_turns(void)
{
    static const int calls[] = {SYS_clock_gettime}; /* where there is no faster clock */

    in_turns(WARM);
    watch(calls, 1);
    in_turns(STEPS);
}

static const int waiting[] = {SYS_clock_gettime, SYS_sched_yield, SYS_nanosleep, SYS_clock_nanosleep, SYS_futex};
enum { WAITING = sizeof waiting / sizeof *waiting }; /* futex: the loop's lock */

static void reduce(desk_t *desk)
{
    for (int step = 0; step < WARM + STEPS; step++) {
        if (step == WARM) {
            watch(waiting, WAITING);
        }
        start(desk, NULL);
    }
}

static void *help(void *arg)
{
    reduce(arg);
    atomic_store(&shared->done, 1);
    while (atomic_load(&shared->done) != 0) { /* a thread's end is a call, too */
        sched_yield();
    }
    return NULL;
}

static void watch_threads(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, help, desks[1]) != 0) {
        abort();
    }
    reduce(desks[0]);
    while (atomic_load(&shared->done) == 0) {
        sched_yield();
    }
}

/* ---- The processes ---- */

static void make_desks(const char *plan)
{
    pthread_t     threads[RANKS];
    tacit_loop_t *loop;

    ask_for(plan);
    MUST(tacit_loop_create(RANKS, &loop));
    for (int rank = 0; rank < RANKS; rank++) {
        desks[rank] = calloc(1, sizeof *desks[rank]);
        *desks[rank] = (desk_t){.loop = loop, .rank = rank};
        ck_assert_int_eq(pthread_create(&threads[rank], NULL, make, desks[rank]), 0);
    }
    for (int rank = 0; rank < RANKS; rank++) {
        pthread_join(threads[rank], NULL);
    }
    tacit_loop_release(loop);
    ask_for(NULL);
}

/* How a process ends that does this and nothing more. */
static int status_of(void (*watched)(void))
{
    int   status;
    pid_t child = fork();

    if (child == 0) {
        watched();
        _exit(0);
    }
    return waitpid(child, &status, 0) == child ? status : -1;
}

static void check(void (*watched)(void))
{
    const int status = status_of(watched);

    ck_assert_msg(atomic_load(&shared->call) == 0, "system call %d (asm/unistd.h)", atomic_load(&shared->call) - 1);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the process ends with %#x", (unsigned)status);
}

static void watch_nothing(void)
{
    watch(NULL, 0);
}

static void watch_a_call(void)
{
    watch(waiting, WAITING);
    (void)getppid();
}

START_TEST(watched)
{
    const int status = status_of(watch_a_call);

    ck_assert_int_eq(atomic_load(&shared->call), 1 + SYS_getppid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    atomic_store(&shared->call, 0);
}
END_TEST

START_TEST(steady)
{
    make_desks(plans[_i]);
    check(watch_turns);
    check(watch_threads);
    for (int rank = 0; rank < RANKS; rank++) {
        free(desks[rank]);
    }
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tests;

    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* The memory of the loop's letters stays with the process. */
    if (shared == MAP_FAILED || mallopt(M_ARENA_MAX, 1) == 0 || mallopt(M_TOP_PAD, 1 << 26) == 0 ||
        mallopt(M_TRIM_THRESHOLD, 1 << 30) == 0 || mallopt(M_MMAP_THRESHOLD, 1 << 25) == 0) {
        return 1;
    }
    if (status_of(watch_nothing) != 0) {
        puts("skipped: there are no filters of system calls here (seccomp)");
        return 77;
    }
    suite = suite_create("system_calls");
    tests = tcase_create("system_calls");
    tcase_add_test(tests, watched);
    tcase_add_loop_test(tests, steady, 0, PLANS);
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 60);
    return harness_main(suite);
}

#endif
