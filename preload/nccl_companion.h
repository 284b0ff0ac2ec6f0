/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit's own communicator, beside one of the program's and over the same ranks. */
#ifndef PRELOAD_NCCL_COMPANION_H
#define PRELOAD_NCCL_COMPANION_H

#include "nccl_calls.h"
#include "nccl_tacit.h"

/* What it is made of. Zero at first. */
typedef struct preload_companion {
    tacit_nccl_id_t id;
    bool            has_id; /* of rank 0: none was made of it yet */
    bool            joins;  /* a thread makes it, without the clique's lock */
} preload_companion_t;

/* Of rank 0: finds an id, if there is none. False: that fails, which is said. */
bool preload_find_id(preload_clique_t *clique, preload_companion_t *companion, bool *said);
/* With the id that all have heard: makes it, if it is not there. Ranks meet here, for TACIT_TIMEOUT_MS or a minute. False: this
   rank has none, which is said. The lock is open meanwhile, so that whoever aborts the program's communicator does not wait. */
bool preload_join(preload_clique_t *clique, preload_companion_t *companion, bool *said);
/* No longer the clique's: the caller ends it. NULL: there is none. */
tacit_nccl_t *preload_take(preload_clique_t *clique);
/* Ends it without the other ranks. */
void preload_give_up(preload_clique_t *clique);
/* Has a thread that waits for other ranks leave: the communicator is aborted. Without the lock. */
void preload_hurry(preload_clique_t *clique);

#endif
