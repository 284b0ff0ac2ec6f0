/* SPDX-License-Identifier: Apache-2.0 */
/* Binds progress threads to processors that nobody is bound to, with hwloc. Who is bound where is read from the system. So each
   rank sees what the others of its machine see, deals processors out to all of them, in the same order, and takes its own: no
   two get the same one, without a word between them. */
#include "placement.h"

#include <pthread.h>

#include "machine.h"

#if HAVE_HWLOC
#include <dirent.h>
#include <hwloc/linux.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_RANKS = 512, PATH_BYTES = 64 }; /* of one program on one machine; further ones are not bound */

typedef struct machine {
    hwloc_topology_t     topology;
    hwloc_const_bitmap_t allowed; /* processors that this program may use at all */
    hwloc_bitmap_t       taken;   /* those that something of the same user is bound to */
    struct stat          program;
    struct {
        long           process;
        hwloc_bitmap_t set; /* what its threads are bound to */
    } ranks[MOST_RANKS];    /* processes of this program, as far as they are bound, in the system's order */
    size_t rank_count;
} machine_t;

/* 0 to 5: half a core is worth less than a whole one that is far away. */
static int demerit(hwloc_topology_t topology, hwloc_obj_t pu, hwloc_const_bitmap_t taken, hwloc_const_bitmap_t near)
{
    const hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    const hwloc_obj_t cache = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_L3CACHE, pu);
    const int         shared = core != NULL && hwloc_bitmap_intersects(core->cpuset, taken) ? 3 : 0;

    if (cache != NULL && hwloc_bitmap_intersects(cache->cpuset, near)) {
        return shared;
    }
    for (hwloc_obj_t node = NULL; (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != NULL;) {
        if (hwloc_bitmap_isset(node->cpuset, pu->os_index) && hwloc_bitmap_intersects(node->cpuset, near)) {
            return shared + 1;
        }
    }
    return shared + 2;
}

hwloc_obj_t tacit__place_choose(hwloc_topology_t topology, hwloc_const_bitmap_t taken, hwloc_const_bitmap_t near)
{
    hwloc_obj_t best = NULL;

    for (hwloc_obj_t pu = NULL; (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != NULL;) {
        if (!hwloc_bitmap_isset(taken, pu->os_index) &&
            (best == NULL || demerit(topology, pu, taken, near) < demerit(topology, best, taken, near))) {
            best = pu;
        }
    }
    return best;
}

/* Another rank's progress thread, which may be bound already or not: both must look alike. */
static bool is_of_ours(const char *tasks, const char *task)
{
    char  path[PATH_BYTES], name[32] = "";
    FILE *file;

    snprintf(path, sizeof path, "%.30s/%.12s/comm", tasks, task);
    file = fopen(path, "re");
    if (file != NULL) {
        (void)!fgets(name, sizeof name, file);
        fclose(file);
    }
    return strncmp(name, TACIT_THREAD_NAME "\n", sizeof name) == 0;
}

/* All processors that threads of a process are bound to; those that may run anywhere count for nothing. */
static void read_bindings(const machine_t *machine, const char *process, hwloc_bitmap_t set)
{
    char           path[PATH_BYTES];
    struct dirent *entry;
    DIR           *tasks;
    hwloc_bitmap_t one = hwloc_bitmap_alloc();

    snprintf(path, sizeof path, "/proc/%.12s/task", process);
    tasks = one != NULL ? opendir(path) : NULL;
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        const pid_t task = (pid_t)atol(entry->d_name);

        if (task > 0 && hwloc_linux_get_tid_cpubind(machine->topology, task, one) == 0 &&
            !hwloc_bitmap_isincluded(machine->allowed, one) && !is_of_ours(path, entry->d_name)) {
            hwloc_bitmap_or(set, set, one);
        }
    }
    if (tasks != NULL) {
        closedir(tasks);
    }
    hwloc_bitmap_free(one);
}

/* A kernel's thread has no program, and another user's is not seen: what they are bound to is not taken. */
static void read_process(machine_t *machine, const char *process)
{
    char           path[PATH_BYTES];
    struct stat    program;
    hwloc_bitmap_t set;

    snprintf(path, sizeof path, "/proc/%.12s/exe", process);
    if (stat(path, &program) != 0 || (set = hwloc_bitmap_alloc()) == NULL) {
        return;
    }
    read_bindings(machine, process, set);
    hwloc_bitmap_or(machine->taken, machine->taken, set);
    if (hwloc_bitmap_iszero(set) || program.st_ino != machine->program.st_ino || program.st_dev != machine->program.st_dev ||
        machine->rank_count == MOST_RANKS) {
        hwloc_bitmap_free(set);
        return;
    }
    machine->ranks[machine->rank_count].process = atol(process);
    machine->ranks[machine->rank_count++].set = set;
}

static bool read_machine(machine_t *machine)
{
    struct dirent *entry;
    DIR           *processes;

    machine->topology = tacit__machine();
    machine->taken = hwloc_bitmap_alloc();
    if (machine->topology == NULL || machine->taken == NULL || stat("/proc/self/exe", &machine->program) != 0) {
        return false;
    }
    machine->allowed = hwloc_topology_get_allowed_cpuset(machine->topology);
    processes = opendir("/proc");
    while (processes != NULL && (entry = readdir(processes)) != NULL) {
        if (atol(entry->d_name) > 0) {
            read_process(machine, entry->d_name);
        }
    }
    if (processes != NULL) {
        closedir(processes);
    }
    return true;
}

/* This process' processor; NULL: none. */
static hwloc_obj_t deal(machine_t *machine)
{
    for (size_t i = 0; i < machine->rank_count; i++) {
        const hwloc_obj_t pu = tacit__place_choose(machine->topology, machine->taken, machine->ranks[i].set);

        if (pu == NULL || machine->ranks[i].process == (long)getpid()) {
            return pu;
        }
        hwloc_bitmap_or(machine->taken, machine->taken, pu->cpuset);
    }
    return NULL;
}

/* A new thread is bound as the one that made it. */
static bool is_bound(const machine_t *machine)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    bool           bound = set != NULL && hwloc_get_cpubind(machine->topology, set, HWLOC_CPUBIND_THREAD) == 0 &&
                 !hwloc_bitmap_isincluded(machine->allowed, set);

    hwloc_bitmap_free(set);
    return bound;
}

static void place(machine_t *machine, int rank)
{
    hwloc_obj_t pu = NULL;

    if (!read_machine(machine)) {
        tacit__log(TACIT_LOG_INFO, rank, "progress: a thread, bound as its rank: this machine cannot be looked at");
    } else if (!is_bound(machine)) {
        tacit__log(TACIT_LOG_INFO, rank, "progress: a thread, not bound, as its rank is not");
    } else if ((pu = deal(machine)) == NULL) {
        tacit__log(TACIT_LOG_INFO, rank, "progress: a thread, bound as its rank: no processor is free");
    } else if (hwloc_set_cpubind(machine->topology, pu->cpuset, HWLOC_CPUBIND_THREAD) != 0) {
        tacit__log(TACIT_LOG_INFO, rank, "progress: a thread, bound as its rank: the system refuses processor %u", pu->os_index);
    } else {
        tacit__log(TACIT_LOG_INFO, rank, "progress: a thread, on processor %u, to which nobody else is bound", pu->os_index);
    }
}

void tacit__place_thread(int rank)
{
    machine_t *machine = calloc(1, sizeof *machine);

    pthread_setname_np(pthread_self(), TACIT_THREAD_NAME);
    if (machine == NULL) {
        return;
    }
    place(machine, rank);
    for (size_t i = 0; i < machine->rank_count; i++) {
        hwloc_bitmap_free(machine->ranks[i].set);
    }
    hwloc_bitmap_free(machine->taken);
    free(machine);
}

#else

void tacit__place_thread(int rank)
{
    pthread_setname_np(pthread_self(), TACIT_THREAD_NAME);
    tacit__log(TACIT_LOG_INFO, rank, "progress: a thread, bound as its rank, for want of hwloc");
}

#endif
