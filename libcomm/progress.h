/* SPDX-License-Identifier: Apache-2.0 */
/* The optional thread of a communicator that advances its operations while the caller computes. Where there is none, nothing here
   costs more than to see that. */
#ifndef TACIT_PROGRESS_H
#define TACIT_PROGRESS_H

#include "comm.h"

/* Starts it, as comm->thread, if the configuration asks for it; where that cannot be, a warning says why. */
void tacit__thread_start(tacit_comm_t *comm);
/* Ends it; what is unfinished stays in the queue. */
void tacit__thread_end(tacit_comm_t *comm);
void tacit__thread_hold(tacit_thread_t *thread);
void tacit__thread_release(tacit_thread_t *thread);

/* Between these, the communicator and its slots are the caller's alone: the thread stands aside. */
static inline void tacit__comm_hold(const tacit_comm_t *comm)
{
    if (comm->thread != NULL) {
        tacit__thread_hold(comm->thread);
    }
}

static inline void tacit__comm_release(const tacit_comm_t *comm)
{
    if (comm->thread != NULL) {
        tacit__thread_release(comm->thread);
    }
}

#endif
