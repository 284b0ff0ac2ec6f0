/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles: many tensors reduced in two exchanges, for programs that move their own bytes. Part of libtacit.

   A bundle has the codecs of some tensors, of one rank. A step is three calls and, between them, two exchanges that the program
   makes, with whatever moves bytes:

       tacit_bundle_encode()   this rank's contributions to the parts of others, and powersgd's first factors
           all to all: tacit_bundle_scatter_bytes(bundle, r, q) bytes from rank r to rank q
       tacit_bundle_reduce()   what this rank's part, of which it is the owner, sums up to; and what of sparse tensors it sends
           all gather: tacit_bundle_gather_bytes(bundle) bytes from every rank
       tacit_bundle_finish()   the results

   This is the library's reduce-scatter and all-gather (doc/wire-format.md, "Bundles"), and its results are the same bits as those
   of one tacit_allreduce() of all tensors together.

   Where tensors are sharded (FSDP, ZeRO), each belongs to one rank as a whole, and each exchange is a bundle of its own: a step
   is tacit_bundle_encode(), the exchange, tacit_bundle_finish(), and there is no tacit_bundle_reduce().

       tacit_bundle_create_reduce_scatter()   all to all; the owner of a tensor gets its sum or mean, exact but for what is sent
       tacit_bundle_create_allgather()        all gather, of each rank's own tensors; all get all of them, as they are decoded

   Faults travel. What one rank finds (NaN, a damaged message) does not end the call that finds it, so that the program goes on
   to exchange; tacit_bundle_finish() then returns it on all ranks, with the same text, and memory is as before the step. Where an
   exchange fails, tacit_bundle_cancel() has the same effect on this rank.

   Damage to a message of the last exchange is found by its receivers alone, and ends the step on these only. The next step
   then fails on all with TACIT_ERR_MISMATCH, and so do all that follow, until the bundle is made anew. In a reduce-scatter, where
   each rank gets other messages, ranks may return different faults where messages are damaged or ranks are at different steps.

   Tensors on a GPU (codecs whose device is TACIT_CUDA; of all specs but powersgd with residual=): in, out and messages are memory
   of that GPU, messages at multiples of 16 bytes. The three calls then only launch kernels, nine of them in most bundles (seven,
   or six, in sharded ones), thirteen more where topk is in it and sixteen more where powersgd is, however many tensors there are,
   on the stream of tacit_bundle_set_stream(), and wait for nothing. They return wrong arguments and errors of CUDA; what a step
   finds is told by tacit_bundle_poll(). Steps may be captured in a CUDA graph, once one has been made outside of it with the same
   tensors at the same places; give TACIT_STEP_NEXT as the step, or all replays have one. A codec is used on one stream at a time.
   Bytes and results are those of the CPU, but for powersgd's, which are the same on all ranks only; ranks with and without GPUs
   do not mix.

   Not thread-safe: one bundle, and its codecs, in one thread at a time. */
#ifndef TACIT_BUNDLE_H
#define TACIT_BUNDLE_H

#include "tacit.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tacit_bundle tacit_bundle_t;

/* Of codecs that were made with the same rank and ranks, in the same order on all ranks, on one device. They stay the caller's
   and outlive the bundle, but are used by nobody else while a step runs; a codec may be in another bundle later, or in several
   by turns. */
TACIT_API tacit_status_t tacit_bundle_create(tacit_codec_t *const *codecs, size_t count, tacit_op_t op,
                                             tacit_bundle_t **bundle_out);
/* The same where codec i's tensor belongs to rank owners[i] as a whole. Blockwise specs only, others: TACIT_ERR_UNSUPPORTED. An
   owner's own contribution is exact and has no error that its codec would remember. A sum that leaves the range of float32 is
   infinite. */
TACIT_API tacit_status_t tacit_bundle_create_reduce_scatter(tacit_codec_t *const *codecs, const int *owners, size_t count,
                                                            tacit_op_t op, tacit_bundle_t **bundle_out);
/* As above. Feedback works as elsewhere: with ef21 it is changes that are sent, and all ranks keep what they add up to. A codec
   with feedback that was in a bundle of this kind is in no other, nor the other way round (TACIT_ERR_STATE), before
   tacit_codec_reset(). */
TACIT_API tacit_status_t tacit_bundle_create_allgather(tacit_codec_t *const *codecs, const int *owners, size_t count,
                                                       tacit_bundle_t **bundle_out);
/* Cancels what runs; accepts NULL. */
TACIT_API_VOID void tacit_bundle_destroy(tacit_bundle_t *bundle);

/* Bytes from rank `from` to rank `to` in the all-to-all, a multiple of 16. 0 from a rank to itself, and everywhere where there is
   none: where all tensors are sparse, or have one factor, and in an all-gather. */
TACIT_API_VOID size_t tacit_bundle_scatter_bytes(const tacit_bundle_t *bundle, int from, int to);
/* Bytes from each rank in the all-gather, a multiple of 16; 0 in a reduce-scatter, which has none. */
TACIT_API_VOID size_t tacit_bundle_gather_bytes(const tacit_bundle_t *bundle);

/* One more than the bundle's last step; 0 in its first. */
#define TACIT_STEP_NEXT UINT64_MAX

/* Begins a step, which keys random numbers and is the same on all ranks. in[i] is codec i's tensor, in its dtype; an all-gather
   needs own tensors only. `messages` gets the messages to all ranks one behind the other in ascending order; in an all-gather
   the one to all. Both stay as they are until the step ends. */
TACIT_API tacit_status_t tacit_bundle_encode(tacit_bundle_t *bundle, uint64_t step, const void *const *in, void *messages);
/* `messages`: what the other ranks sent to this one, in ascending order. `message` gets what goes to all. */
TACIT_API tacit_status_t tacit_bundle_reduce(tacit_bundle_t *bundle, const void *messages, void *message);
/* Ends the step. `messages`: all ranks', this one's too, in ascending order; in a reduce-scatter what the other ranks sent to
   this one. out[i], in codec i's dtype, may be in[i]; a reduce-scatter needs those of own tensors only. After an error it is
   unchanged. */
TACIT_API tacit_status_t tacit_bundle_finish(tacit_bundle_t *bundle, const void *messages, void *const *out);
/* Ends the step without a result: memory is as before it. Nothing where none runs. */
TACIT_API_VOID void tacit_bundle_cancel(tacit_bundle_t *bundle);

/* Of tensors on a GPU: the cudaStream_t of the calls that follow; NULL, as at first: the default stream. */
TACIT_API tacit_status_t tacit_bundle_set_stream(tacit_bundle_t *bundle, void *stream);
/* Of tensors on a GPU: waits until all steps but the last `behind` have ended, and returns the first fault that it has not yet
   returned of these: the same on all ranks that call it alike. With 1 or 2 nothing is waited for, as a rule. Of steps that a
   graph replays it tells once their stream has come to an end. */
TACIT_API tacit_status_t tacit_bundle_poll(tacit_bundle_t *bundle, uint64_t behind);

#ifdef __cplusplus
}
#endif
#endif
