/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks over NCCL that are processes of one machine, and share its GPU; or, where kernels run on the CPU, a libnccl of ours. */
#ifndef TACIT_TEST_PROCESSES_H
#define TACIT_TEST_PROCESSES_H

#include "nets.h"

#include "nccl_comm.h"

#include <dlfcn.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* What ranks have in common, and one of them. */
typedef struct shared {
    atomic_int      ready, reached;
    tacit_nccl_id_t id;
} shared_t;

typedef struct process {
    shared_t   *shared;
    int         rank, ranks;
    const void *given;
} process_t;

typedef void body_t(const process_t *process);

/* Makes a library of ours the one that is loaded already. */
static inline void *load_fake(const char *name)
{
    char    path[4096];
    ssize_t bytes = readlink("/proc/self/exe", path, sizeof path - 64);
    void   *library;

    ck_assert_int_gt(bytes, 0);
    path[bytes] = '\0';
    snprintf(strrchr(path, '/') + 1, 64, "%s", name);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(library != NULL, "%s", dlerror());
    return library;
}

#ifdef TACIT_EMULATED

enum { OUR_NCCL = true, LIMIT_MS = 400 /* of time, where it is to be passed */ };

/* Before ranks are forked, … */
static inline void prepare_ranks(void)
{
    int (*begin)(void) = NULL;

    *(void **)&begin = dlsym(load_fake("libnccl_fake.so"), "fake_begin");
    ck_assert_int_eq(begin(), 0);
}

/* … and in each. */
static inline void use_module(void)
{
    tacit__cuda_use(tacit_cuda_module(sizeof(tacit_cuda_module_t)));
}

#else

enum { OUR_NCCL = false, LIMIT_MS = 5000 };

static inline void prepare_ranks(void)
{
}

static inline void use_module(void)
{
}

#endif

/* In the process of a rank: CUDA is first called here. */
static inline void enter(const process_t *process)
{
    char host[32];

    snprintf(host, sizeof host, "host-of-rank-%d", process->rank);
    setenv("NCCL_HOSTID", host, 1); /* NCCL wants a GPU for each rank of a host */
    use_module();
    SUCCEEDS(tacit__cuda_module(&module));
}

/* Runs a body in `ranks` processes. It fails where one does, or if they take too long. */
static inline void run_ranks(int ranks, body_t *body, const void *given)
{
    process_t process = {.ranks = ranks, .given = given};
    pid_t     pids[MOST_RANKS];
    int       failed = 0;

    process.shared = mmap(NULL, sizeof *process.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(process.shared != MAP_FAILED);
    prepare_ranks();
    for (process.rank = 0; process.rank < ranks; process.rank++) {
        pids[process.rank] = fork();
        if (pids[process.rank] == 0) {
            enter(&process);
            body(&process);
            _exit(0);
        }
        ck_assert_int_gt(pids[process.rank], 0);
    }
    for (int left = ranks; left > 0; left--) {
        int state = 0;

        ck_assert_int_gt(wait(&state), 0);
        for (int rank = 0; state != 0 && failed == 0 && rank < ranks; rank++) {
            (void)kill(pids[rank], SIGKILL); /* no use waiting for the one that has failed */
        }
        failed += state != 0;
    }
    ck_assert_msg(failed == 0, "a rank has failed");
}

/* Whether there is no GPU, as a process of its own finds out. */
static inline bool gpu_is_missing_here(void)
{
    int   state = 0;
    pid_t pid = fork();

    if (pid == 0) {
        const tacit_nccl_library_t *nccl;
        const bool                  missing = tacit__cuda_module(&module) != TACIT_OK || tacit__nccl_library(&nccl) != TACIT_OK;

        if (missing) {
            printf("skipped: %s\n", tacit_last_error());
            fflush(stdout);
        }
        _exit(missing);
    }
    return pid < 0 || waitpid(pid, &state, 0) != pid || state != 0;
}

/* All ranks come here before one goes on. */
static inline void meet(const process_t *process)
{
    const int number = atomic_fetch_add(&process->shared->reached, 1);

    while (atomic_load(&process->shared->reached) < (number / process->ranks + 1) * process->ranks) {
        sched_yield();
    }
}

/* The same id on all ranks. */
static inline tacit_nccl_id_t get_id(const process_t *process)
{
    if (process->rank == 0) {
        SUCCEEDS(tacit_nccl_unique_id(&process->shared->id));
        atomic_store(&process->shared->ready, 1);
    }
    while (atomic_load(&process->shared->ready) == 0) {
        sched_yield();
    }
    return process->shared->id;
}

static inline tacit_nccl_t *connect_ranks(const process_t *process)
{
    const tacit_nccl_id_t id = get_id(process);
    tacit_nccl_t         *nccl = NULL;

    SUCCEEDS(tacit_nccl_create_from_id(&id, process->rank, process->ranks, NULL, &nccl));
    return nccl;
}

#endif
