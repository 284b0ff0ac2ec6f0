/* SPDX-License-Identifier: Apache-2.0 */
/* The progress thread. Whoever works with a communicator holds the thread's lock: a caller from the beginning of a call to its
   end, the thread while something moves and no caller wants in. Without an operation to advance, it sleeps. */
#include "progress.h"

#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "operation.h"
#include "placement.h"
#include "staging.h"

struct tacit_thread {
    tacit_comm_t   *comm;
    pthread_t       id;
    pthread_mutex_t lock;
    pthread_cond_t  wake;    /* a caller has left something to do, or the end */
    atomic_int      callers; /* that are inside, or wait to be */
    bool            ending;
    fenv_t          floats; /* of the caller that was inside last: rounding is the same, whoever works */
};

void tacit__thread_hold(tacit_thread_t *thread)
{
    atomic_fetch_add(&thread->callers, 1);
    pthread_mutex_lock(&thread->lock);
}

void tacit__thread_release(tacit_thread_t *thread)
{
    atomic_fetch_sub(&thread->callers, 1);
    if (thread->comm->queue != NULL || thread->ending) {
        (void)fegetenv(&thread->floats);
        pthread_cond_signal(&thread->wake);
    }
    pthread_mutex_unlock(&thread->lock);
}

/* Nothing has moved: callers may come in for a while. */
static void stand_by(tacit_thread_t *thread, double since)
{
    tacit_comm_t *comm = thread->comm;
    double        until;

    pthread_mutex_unlock(&thread->lock);
    until = tacit__idle(since);
    pthread_mutex_lock(&thread->lock);
    comm->visited = fmax(comm->visited, until); /* so long it has waited; not while a caller did other things */
    comm->idle = true;
}

static void *live(void *argument)
{
    tacit_thread_t *thread = argument;
    tacit_comm_t   *comm = thread->comm;
    double          since; /* nothing has moved */

    tacit__place_thread(comm->rank);
    pthread_mutex_lock(&thread->lock);
    while (!thread->ending) {
        (void)fesetenv(&thread->floats);
        if (comm->queue == NULL || atomic_load(&thread->callers) != 0) {
            pthread_cond_wait(&thread->wake, &thread->lock);
            continue;
        }
        if (comm->staging != NULL) {
            tacit__staging_enter(comm->staging);
        }
        since = comm->queue->moved;
        if (!tacit__comm_progress(comm)) {
            stand_by(thread, since);
        } else if (since > 0) { /* it did not start just now */
            tacit__comm_waited(comm, since);
        }
    }
    pthread_mutex_unlock(&thread->lock);
    return NULL;
}

/* The program's signals are for its own threads to handle; only what this one does itself comes to it. */
static int create(tacit_thread_t *thread)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t         all, before;
    int              error;

    sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        sigdelset(&all, own[i]);
    }
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread->id, NULL, live, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

void tacit__thread_start(tacit_comm_t *comm)
{
    tacit_thread_t *thread;

    if (comm->config.progress != TACIT_PROGRESS_THREAD) {
        return;
    }
    if (comm->transport.any_thread == 0) {
        tacit__log(TACIT_LOG_WARN, comm->rank,
                   "progress: no thread, since transport '%s' cannot be called from one: begin with MPI_Init_thread() and "
                   "MPI_THREAD_MULTIPLE, or requests advance in calls only",
                   comm->transport.name);
        return;
    }
    thread = tacit__alloc(1, sizeof *thread);
    if (thread == NULL) {
        tacit__log(TACIT_LOG_WARN, comm->rank, "progress: no memory for a thread: requests advance in calls only");
        return;
    }
    thread->comm = comm;
    pthread_mutex_init(&thread->lock, NULL);
    pthread_cond_init(&thread->wake, NULL);
    (void)fegetenv(&thread->floats);
    comm->thread = thread;
    if (create(thread) != 0) {
        tacit__log(TACIT_LOG_WARN, comm->rank, "progress: the machine gives no more threads: requests advance in calls only");
        comm->thread = NULL;
        tacit__free(thread);
    }
}

void tacit__thread_end(tacit_comm_t *comm)
{
    tacit_thread_t *thread = comm->thread;

    if (thread == NULL) {
        return;
    }
    tacit__thread_hold(thread);
    thread->ending = true;
    tacit__thread_release(thread);
    pthread_join(thread->id, NULL);
    pthread_cond_destroy(&thread->wake);
    pthread_mutex_destroy(&thread->lock);
    comm->thread = NULL;
    tacit__free(thread);
}

int tacit_comm_has_thread(const tacit_comm_t *comm)
{
    return comm != NULL && comm->thread != NULL;
}

void tacit_comm_end_thread(tacit_comm_t *comm)
{
    if (comm != NULL) {
        tacit__thread_end(comm);
    }
}
