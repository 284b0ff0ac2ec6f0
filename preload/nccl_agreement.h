/* SPDX-License-Identifier: Apache-2.0 */
/* What ranks of a communicator tell each other: a few numbers, of each of which all get the largest, by an all-reduce of NCCL's
   that is put on the program's stream and looked at later. */
#ifndef PRELOAD_NCCL_AGREEMENT_H
#define PRELOAD_NCCL_AGREEMENT_H

#include <stdint.h>

#include "nccl_calls.h"

enum { PRELOAD_NUMBERS = 40 };

/* Zero at first. */
typedef struct preload_agreement {
    int32_t *numbers;     /* in the host's memory, where GPUs reach it: NCCL writes what comes of them over them */
    void    *event;       /* behind it */
    bool     runs, fresh; /* fresh: nobody has said yet that it is under way */
} preload_agreement_t;

/* How long ranks are waited for. A program may let them wait for one another as long as it likes, unless TACIT_TIMEOUT_MS is set;
   where nothing fails if they do not come, they have a minute. */
typedef enum { PRELOAD_AS_PROGRAM, PRELOAD_A_MINUTE } preload_patience_t;

/* Puts it on the stream; inside of a group, it is under way when that has ended, … False: that fails, and others wait
   for it. */
bool preload_tell(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream,
                  const int32_t numbers[PRELOAD_NUMBERS]);
/* … which is said by this one, if it was sent. False: it fails, and nobody will hear of it here. */
bool preload_told(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream, bool sent);
/* Waits for what runs. PRELOAD_FAILED: NCCL has failed, or the communicator is aborted. PRELOAD_LATE: it still runs, which is
   said where that is an error. */
typedef enum { PRELOAD_HEARD, PRELOAD_LATE, PRELOAD_FAILED } preload_heard_t;
preload_heard_t preload_hear(preload_agreement_t *agreement, const preload_clique_t *clique, preload_patience_t patience,
                             int32_t numbers_out[PRELOAD_NUMBERS]);
/* Waits for what runs, for a minute, and frees it; what NCCL may still write to stays. */
void preload_end_agreement(preload_agreement_t *agreement, const preload_clique_t *clique);

#endif
