/* SPDX-License-Identifier: Apache-2.0 */
/* A communicator over NCCL from inside: what groups need of it. */
#ifndef TACIT_NCCL_COMM_H
#define TACIT_NCCL_COMM_H

#include "cuda_module.h"
#include "nccl_library.h"

#include <stdatomic.h>

enum { TACIT_NCCL_TEXT = 2036 };

/* What a rank tells where all agree. */
typedef struct tacit_nccl_record {
    uint64_t hash;
    int32_t  status;
    char     text[TACIT_NCCL_TEXT]; /* what is wrong, or what to agree on */
} tacit_nccl_record_t;

typedef struct tacit_nccl_abort tacit_nccl_abort_t;

struct tacit_nccl {
    const tacit_nccl_library_t *library;
    const tacit_cuda_module_t  *module;
    void                       *comm; /* not blocking; NULL: there is none, or it was aborted */
    void                      **made; /* where NCCL writes it, perhaps by a thread of its own */
    int                         rank, ranks;
    int64_t                     timeout_ms; /* -1: no limit */
    void                       *stream;     /* on which ranks agree: … */
    tacit_nccl_record_t        *records;    /* … all ranks', in memory of the GPU, … */
    tacit_nccl_record_t        *told;       /* … and of the host; behind them is room for the own one */
    tacit_nccl_group_t         *groups;
    tacit_nccl_abort_t         *job;     /* room for its end, which may come when there is none */
    atomic_bool                 aborted; /* by the program: who waits leaves */
    bool                        broken;
    char                        broken_text[TACIT_TEXT_BYTES];
    atomic_flag                 in_use;
};

/* Every public call on a communicator is between these. */
tacit_status_t tacit__nccl_enter(tacit_nccl_t *nccl);
void           tacit__nccl_leave(tacit_nccl_t *nccl);

/* Has what NCCL does on the GPU end, and nothing but destroying work from now on. The text is this thread's last error. */
void tacit__nccl_break(tacit_nccl_t *nccl);
/* A look at NCCL while something is waited for, which began then: on an error of its own, or past the limit of time, the
   communicator breaks. `what` is waited for, for people. state_out, if not NULL: whether NCCL is still in progress. */
tacit_status_t tacit__nccl_look(tacit_nccl_t *nccl, double began, const char *what, int *state_out);
/* What comes of a call of NCCL's that returned `result`: waits while it is in progress. */
tacit_status_t tacit__nccl_complete(tacit_nccl_t *nccl, int result, const char *what);
/* Collective, of a text that must be the same on all ranks, and a hash, of which it is told whether it is. `mine` is this rank's
   own status so far, whose text is the last error: if it is not OK, every rank returns it. */
tacit_status_t tacit__nccl_agree(tacit_nccl_t *nccl, const char *what, const char *text, uint64_t hash, tacit_status_t mine,
                                 bool *hashes_agree_out);

/* ---- nccl_group.c ---- */

/* Frees it; its steps have come to an end, or the communicator is broken. */
void tacit__nccl_group_free(tacit_nccl_group_t *group);

#endif
