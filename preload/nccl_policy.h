/* SPDX-License-Identifier: Apache-2.0 */
/* Which sums go by Tacit, and as which tensor. Everything is decided by what NCCL requires to be the same on all ranks, and by
   what they have agreed upon. */
#ifndef PRELOAD_NCCL_POLICY_H
#define PRELOAD_NCCL_POLICY_H

#include "nccl_calls.h"

extern const char preload_all_reduce[], preload_reduce_scatter[]; /* "ncclAllReduce", "ncclReduceScatter" */

/* A sum or an average of floating-point numbers, which all ranks get, or each a part of. */
bool preload_nccl_is_sum(const preload_nccl_call_t *call);
/* Every such call that no capture is part of comes here once, in order. The tensor that it is; NULL: NCCL is to do it. */
void *preload_nccl_decide(preload_clique_t *clique, const preload_nccl_call_t *call);
/* Reduces some of them together, of one function, operator and stream. What the caller gets; with false, nothing has happened,
   on no rank, and NCCL is to do it. */
enum { PRELOAD_BATCH = 64 };
int preload_nccl_run(preload_clique_t *clique, void *const *tensors, const preload_nccl_call_t *const *calls, size_t count,
                     bool *taken_out);

/* After the calls of a round, and outside of groups: looks at what ranks told each other before. False: they are too late for the
   program to go on. *tells_out: they have something to tell, … */
bool preload_nccl_settle(preload_clique_t *clique, void *stream, bool *tells_out);
/* … which is done in a group that ends between these, and is sent by it if that succeeds. False: it fails, and others wait. */
bool preload_nccl_tell(preload_clique_t *clique, void *stream);
bool preload_nccl_told(preload_clique_t *clique, void *stream, bool sent);

/* Ends what a communicator has here. With its lock. */
void preload_nccl_end_plan(preload_clique_t *clique);

#endif
