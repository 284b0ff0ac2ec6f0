/* SPDX-License-Identifier: Apache-2.0 */
/* What ranks of a communicator tell each other: a few numbers, of each of which all get the largest, by an all-reduce of NCCL's
   that is put on the program's stream and looked at later. */
#ifndef PRELOAD_NCCL_AGREEMENT_H
#define PRELOAD_NCCL_AGREEMENT_H

#include <stdint.h>

#include "nccl_calls.h"

enum { PRELOAD_NUMBERS = 8 };

/* Zero at first. */
typedef struct preload_agreement {
    int32_t *numbers;     /* in the host's memory, where GPUs reach it: NCCL writes what comes of them over them */
    void    *event;       /* behind it */
    bool     runs, fresh; /* fresh: nobody has said yet that it is under way */
} preload_agreement_t;

/* Waits until it may be called: one that does not block is at work for some time after a call. */
void preload_wait_until_ready(const preload_clique_t *clique);
/* Puts it on the stream; inside of a group, it is under way when that has ended, … False: that fails, and others wait
   for it. */
bool preload_tell(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream,
                  const int32_t numbers[PRELOAD_NUMBERS]);
/* … which is said by this one. */
void preload_told(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream);
/* Waits for what runs. False: it has failed, or the communicator is aborted. */
bool preload_hear(preload_agreement_t *agreement, const preload_clique_t *clique, int32_t numbers_out[PRELOAD_NUMBERS]);
/* Waits for what runs, and frees it; what an aborted communicator may still write to stays. */
void preload_end_agreement(preload_agreement_t *agreement, const preload_clique_t *clique);

#endif
