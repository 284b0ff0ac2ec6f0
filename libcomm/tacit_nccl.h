/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit over NCCL: tensors on GPUs, on the caller's CUDA stream. Part of libtacit, which links neither NCCL nor CUDA: both are
   loaded when the first of these calls needs them. Handles of theirs are passed as pointers (ncclComm_t, cudaStream_t).

       tacit_nccl_create()         a communicator over that of the caller, an ncclComm_t; or from an id, as NCCL's own are made
       tacit_nccl_create_mpi()     the same from one of MPI (tacit_mpi.h)
       tacit_codec_create()        what a tensor is, its spec and memory: device TACIT_CUDA, rank and ranks of the communicator
       tacit_nccl_group_create()   tensors that are reduced together: a bundle (tacit_bundle.h) and memory for its messages
       tacit_nccl_group_run()      a step of them, on a stream
       tacit_nccl_group_poll()     what has become of steps

   A step encodes, sends to every rank its part and receives (ncclSend, ncclRecv), reduces, gathers what all ranks have reduced
   (ncclAllGather), and decodes: results are those of the bundle. It only puts work on the stream, as calls of NCCL do, and waits
   for none of it. Tensors that would be sent as they are ('none', 'auto', a cast to their own type, without feedback) are in no
   bundle, but go straight to ncclAllReduce, ncclReduce or ncclBroadcast: nothing is scanned or framed, and the sum is NCCL's, in
   the tensor's type.

   Steps may be captured in a CUDA graph, once one was made outside of it with the same tensors in the same places; `step` is
   then TACIT_STEP_NEXT. Graphs are destroyed before their groups and communicators.

   Time has a limit (timeout_ms) in calls of this file that wait: those that make a communicator or a group, that poll, that wait
   for a stream, and that start a step while NCCL connects. Behind it, and where NCCL reports an error, what NCCL does on GPUs is
   aborted (ncclCommAbort), so that streams come to their end, and the call returns TACIT_ERR_TIMEOUT or TACIT_ERR_TRANSPORT;
   later calls return TACIT_ERR_BROKEN: only destroying works, and saving codecs. Nothing limits cudaStreamSynchronize() or the
   like: call tacit_nccl_wait() before.

   NCCL 2.18 or later; that which the process has loaded already, as PyTorch does, comes first. With NCCL_COMM_BLOCKING=1 in the
   environment, calls that connect wait without a limit.

   A communicator and its groups are used by one thread at a time, with the same GPU present (cudaSetDevice()) from first to
   last. What a GPU has run of it stands in doc/performance.md. */
#ifndef TACIT_NCCL_H
#define TACIT_NCCL_H

#include "tacit_bundle.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tacit_nccl       tacit_nccl_t;
typedef struct tacit_nccl_group tacit_nccl_group_t;

/* NCCL's ncclUniqueId. */
typedef struct tacit_nccl_id {
    char bytes[128];
} tacit_nccl_id_t;

/* The version of the NCCL that is used, 22809 being 2.28.9; TACIT_ERR_UNSUPPORTED where there is none, or one that is too old:
   tacit_last_error() says what was looked for. Needs no GPU. From any thread. */
TACIT_API tacit_status_t tacit_nccl_version(int *version_out);

/* ---- Communicators ---- */

/* Makes a communicator over the ranks of `nccl_comm`, an ncclComm_t that stays the caller's and is not used afterwards: it is
   split (ncclCommSplit), so that no message of the library's meets one of the caller's. Collective. Where nccl_comm is a blocking
   communicator, as they are by default, the limit of time begins behind ncclCommSplit. `config` may be NULL; what counts of it is
   timeout_ms. */
TACIT_API tacit_status_t tacit_nccl_create(void *nccl_comm, const tacit_config_t *config, tacit_nccl_t **nccl_out);
/* An id for tacit_nccl_create_from_id(): made on one rank, and brought to the others by the program's own means, as
   tacit_nccl_create_mpi() (tacit_mpi.h) does by MPI_Bcast() of its bytes. One communicator an id. */
TACIT_API tacit_status_t tacit_nccl_unique_id(tacit_nccl_id_t *id_out);
/* Makes a communicator of `ranks` ranks, of which this is `rank`, on the present GPU. Collective. */
TACIT_API tacit_status_t tacit_nccl_create_from_id(const tacit_nccl_id_t *id, int rank, int ranks, const tacit_config_t *config,
                                                   tacit_nccl_t **nccl_out);
/* Waits for what runs, destroys the groups and the communicator. Call it on every rank; accepts NULL. */
TACIT_API_VOID void tacit_nccl_destroy(tacit_nccl_t *nccl);
/* Another limit of time for calls from now on, as the configuration's timeout_ms. Local. */
TACIT_API tacit_status_t tacit_nccl_set_timeout(tacit_nccl_t *nccl, int64_t timeout_ms);
/* Ends what it does on the GPU, as ncclCommAbort() does: waits for no other rank. From any thread: a call of another one that
   waits returns TACIT_ERR_BROKEN. Then only tacit_nccl_destroy() is left. Accepts NULL. */
TACIT_API_VOID void tacit_nccl_abort(tacit_nccl_t *nccl);
TACIT_API_VOID int  tacit_nccl_rank(const tacit_nccl_t *nccl);
TACIT_API_VOID int  tacit_nccl_ranks(const tacit_nccl_t *nccl);
/* Waits until all that was put on a stream has ended, replays of graphs too. Local. A stream that is being captured:
   TACIT_ERR_STATE. */
TACIT_API tacit_status_t tacit_nccl_wait(tacit_nccl_t *nccl, void *stream);

/* ---- Groups ---- */

/* Of codecs on the GPU, made with the communicator's rank and ranks, in the same order on all ranks. Collective: all ranks have
   the same tensors, specs and operator, or all get TACIT_ERR_MISMATCH and a message naming the first rank that differs; what one
   rank finds wrong with its own, all return. Codecs stay the caller's, and outlive the group; they may be in several groups, that
   run by turns. Owned by nccl; lives until tacit_nccl_group_destroy() or tacit_nccl_destroy(). */
TACIT_API tacit_status_t tacit_nccl_group_create(tacit_nccl_t *nccl, tacit_codec_t *const *codecs, size_t count, tacit_op_t op,
                                                 tacit_nccl_group_t **group_out);
/* The same where tensors are sharded, codec i's belonging to rank owners[i] as a whole: tacit_bundle_create_reduce_scatter() says
   what comes of it … */
TACIT_API tacit_status_t tacit_nccl_group_create_reduce_scatter(tacit_nccl_t *nccl, tacit_codec_t *const *codecs,
                                                                const int *owners, size_t count, tacit_op_t op,
                                                                tacit_nccl_group_t **group_out);
/* … and tacit_bundle_create_allgather(). */
TACIT_API tacit_status_t tacit_nccl_group_create_allgather(tacit_nccl_t *nccl, tacit_codec_t *const *codecs, const int *owners,
                                                           size_t count, tacit_nccl_group_t **group_out);
/* Bytes that a step sends from this rank to other ranks, headers included; of tensors that go straight to NCCL, what a ring
   would send. Local. */
TACIT_API_VOID size_t tacit_nccl_group_wire_bytes(const tacit_nccl_group_t *group);
/* Waits for its steps, as long as the limit of time allows. Local; accepts NULL. */
TACIT_API_VOID void tacit_nccl_group_destroy(tacit_nccl_group_t *group);

/* Puts a step on a stream, NULL being the default one. Collective: all ranks run their groups in the same order. in[i] and out[i]
   are codec i's tensor, in its dtype, and may be the same memory; of sharded tensors those are needed that the bundle needs.
   `step`, the same on all ranks, keys random numbers; TACIT_STEP_NEXT is one more than the last. They belong to the library until
   the step has ended. Returns wrong arguments, of this rank alone, with which nothing has begun; errors of CUDA and NCCL; and
   TACIT_ERR_TIMEOUT. What is wrong with values and messages, tacit_nccl_group_poll() tells. */
TACIT_API tacit_status_t tacit_nccl_group_run(tacit_nccl_group_t *group, uint64_t step, const void *const *in, void *const *out,
                                              void *stream);
/* Waits until all steps but the last `behind` have ended, and returns the first fault that it has not yet returned of these: the
   same on all ranks that call it alike, and memory is as before that step. With 1 or 2 nothing is waited for, as a rule. Steps
   that a graph replays, and tensors that go straight to NCCL, are waited for by tacit_nccl_wait() instead, before. */
TACIT_API tacit_status_t tacit_nccl_group_poll(tacit_nccl_group_t *group, uint64_t behind);

#ifdef __cplusplus
}
#endif
#endif
