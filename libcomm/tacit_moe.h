/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtures of experts: tokens on their way to experts on other ranks, and back. Part of libtacit.

   A layer (tacit_moe_t) has experts on all ranks. Every token goes to some of them, as a gate has chosen; what these make of it
   comes back, and is added up with the gate's weights. That is one pass, forward and, where it is trained, backward:

       tacit_moe_dispatch()            tokens leave; a batch comes, of all ranks' tokens for the experts that are here
           the experts, on the batch
       tacit_moe_combine()             their replies leave; out[t] = sum over choices j of weights[t][j] * reply(t, j)
           the rest of the network and its backward pass
       tacit_moe_combine_backward()    gradients of out leave; those of the replies come, and those of the weights are known
           the experts' backward pass, on the batch
       tacit_moe_dispatch_backward()   gradients of the batch leave; those of the tokens come
       tacit_moe_pass_destroy()

   With a spec like "bf16", "fp8" or "rotq:bits=4" rows travel in that form. With "lsh" (doc/moe.md) tokens that are alike and go
   from one rank to the same experts travel as one row, their mean, and what a token has beyond that is added to the reply: Nie et
   al., "LSH-MoE" (NeurIPS 2024). All four exchanges have that many rows then. "none", and NULL, lose nothing. What stays on a
   rank is neither encoded nor clustered. Nothing is remembered from pass to pass but counters.

   A token that goes to several experts of one rank travels there once; its replies come back one by one, since each has a weight
   of its own, and its gradient, their sum, once.

   Where `device` is TACIT_CUDA, all that a layer reads and writes is memory of the present GPU (cudaSetDevice()), which stays so
   in all calls: tokens, weights, the batch's rows, replies, outputs, and the gradients of all these. Only `experts`, and the
   batch's `first`, are the CPU's. What is on the stream when a call is made comes before it; when it returns, all that it writes
   is there, for every stream to read. Results have the bits that they have on the CPU (NaN may have others), so that each rank
   may have its tokens where it likes. Rows are made and added up on the GPU; those for other ranks are copied to the host, and
   encoded and sent there; what a rank keeps for itself does not leave its GPU. Memory of passes is kept for those that follow. */
#ifndef TACIT_MOE_H
#define TACIT_MOE_H

#include <tacit.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tacit_moe      tacit_moe_t;
typedef struct tacit_moe_pass tacit_moe_pass_t;

/* The same on all ranks, but for `device`. Zero means default but in the first three fields. */
typedef struct tacit_moe_config {
    size_t         struct_bytes; /* sizeof(tacit_moe_config_t): set by TACIT_MOE_CONFIG_INIT */
    size_t         dimension;    /* elements of a token, and of a reply */
    size_t         experts;      /* on all ranks; rank r of N has those from E r / N, rounded down, to E (r + 1) / N */
    size_t         tokens;       /* most of one pass on one rank */
    size_t         choices;      /* experts of a token: 2 for top-2; 0: 1 */
    size_t         capacity;     /* tokens that a rank sends to one expert at most, its first ones; 0: all */
    tacit_dtype_t  dtype;        /* of tokens, replies, outputs and their gradients; weights are float32 */
    tacit_device_t device;       /* whose memory all that is: see above */
    const char    *spec;         /* NULL: "none" */
} tacit_moe_config_t;

#define TACIT_MOE_CONFIG_INIT                                                                                                    \
    {                                                                                                                            \
        sizeof(tacit_moe_config_t), 0, 0, 0, 0, 0, TACIT_FLOAT32, TACIT_CPU, 0                                                   \
    }

/* Makes a layer. Collective over comm, as tacit_slot_create(). Owned by comm: lives until tacit_moe_destroy() or
   tacit_comm_destroy(). TACIT_ERR_UNSUPPORTED where tokens are to be on a GPU and there is none, or "lsh" is to take more than
   8192 elements there. The stream is that of tacit_comm_set_stream(). */
TACIT_API tacit_status_t tacit_moe_create(tacit_comm_t *comm, const char *name, const tacit_moe_config_t *config,
                                          tacit_moe_t **moe_out);
/* With all its passes. Local; accepts NULL. Call it on every rank. */
TACIT_API_VOID void tacit_moe_destroy(tacit_moe_t *moe);

/* What the experts of this rank get: first the rows of its first expert, those of rank 0 before those of rank 1, then those of
   the next. */
typedef struct tacit_moe_batch {
    const void *rows;  /* count of them, `dimension` elements each, in the layer's dtype; the pass's */
    size_t      count; /* of all experts here; of each rank tokens * choices at most, and capacity * experts, where that is set */
    size_t      experts; /* here */
    const size_t *first; /* experts + 1: expert e has rows first[e] to first[e + 1] */
} tacit_moe_batch_t;

/* Sends `count` tokens, rows of `dimension` elements. experts[t * choices + j], from 0 on over all ranks, is where token t
   goes as its choice j; -1: nowhere, as with padding. No expert twice for a token. Tokens stay valid and unchanged as long as the
   pass lives. Collective; the number of tokens is each rank's own. Passes may live side by side. On an error all ranks return
   the same, and there is no pass. In this call and the next three, where CUDA fails behind the exchange, it is on one rank alone:
   TACIT_ERR_DEVICE, with which its communicator is broken; so it is where a GPU is not done within the limit of time. */
TACIT_API tacit_status_t tacit_moe_dispatch(tacit_moe_t *moe, const void *tokens, size_t count, const int32_t *experts,
                                            tacit_moe_pass_t **pass_out, tacit_moe_batch_t *batch_out);
/* replies: one for each row of the batch. weights[t * choices + j]. out[t], `count` rows, zero where a token went nowhere. */
TACIT_API tacit_status_t tacit_moe_combine(tacit_moe_pass_t *pass, const void *replies, const float *weights, void *out);
/* gradients: those of `out`. Writes weight_gradients[t * choices + j] (NULL: not asked for; 0 where a choice went nowhere) and
   reply_gradients, one for each row of the batch. With "lsh" these are of a cluster's sum: the experts' weights get theirs from
   just these rows. */
TACIT_API tacit_status_t tacit_moe_combine_backward(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients,
                                                    void *reply_gradients);
/* row_gradients: those of the batch's rows. token_gradients: `count` rows. */
TACIT_API tacit_status_t tacit_moe_dispatch_backward(tacit_moe_pass_t *pass, const void *row_gradients, void *token_gradients);
/* At any point of a pass. Local; accepts NULL. */
TACIT_API_VOID void tacit_moe_pass_destroy(tacit_moe_pass_t *pass);

/* Since the layer was made, on this rank. */
typedef struct tacit_moe_counters {
    uint64_t passes;     /* dispatched */
    uint64_t tokens;     /* given */
    uint64_t copies;     /* that left for other ranks, a token to several experts of a rank as one … */
    uint64_t rows;       /* … and rows that they travelled as; rows / copies is the rate */
    uint64_t overflows;  /* choices that an expert's capacity did not allow */
    uint64_t wire_bytes; /* that left this rank, headers included, in all four exchanges */
    /* What float32 rows would have been there, one a copy or a reply; those of this rank's tokens, whether they leave it or come
       back. Sums over ranks are to be compared with those of wire_bytes. */
    uint64_t dense_bytes;
    double   residual; /* with "lsh": norm of what these copies had beyond their rows, relative to theirs */
    double   hashes;   /* with "lsh": of the last pass, the mean over ranks that it sent to; fewer where `rate` asks for it */
} tacit_moe_counters_t;
TACIT_API tacit_status_t tacit_moe_counters(const tacit_moe_t *moe, tacit_moe_counters_t *counters_out);

/* ---- Without a communicator, for programs that move their own bytes ----

   Each of the four is a call that begins, an exchange that the program makes, and a call that ends. In between, for each other
   rank: tacit_moe_message_bytes(), tacit_moe_write(); and tacit_moe_read() of what came from there. Those that dispatch sends say
   themselves how many rows they have, so that ranks tell each other how many bytes will come; of all others
   tacit_moe_expected_bytes() says it. Messages are checked before they are used.

   Passes are numbered as they begin, also those that fail at once: where one does on a rank, all destroy theirs and begin again.
   Any other call may be made again after an error. */

/* As tacit_codec_create(). */
TACIT_API tacit_status_t tacit_moe_create_codec(const char *name, const tacit_moe_config_t *moe_config,
                                                const tacit_config_t *config, int rank, int ranks, tacit_moe_t **moe_out);

/* Of tokens on a GPU: the cudaStream_t of the calls that follow; NULL, as at first: the default stream. TACIT_ERR_STATE where the
   layer has a communicator, which has one. */
TACIT_API tacit_status_t tacit_moe_set_stream(tacit_moe_t *moe, void *stream);

TACIT_API tacit_status_t tacit_moe_dispatch_begin(tacit_moe_t *moe, const void *tokens, size_t count, const int32_t *experts,
                                                  tacit_moe_pass_t **pass_out);
TACIT_API tacit_status_t tacit_moe_dispatch_end(tacit_moe_pass_t *pass, tacit_moe_batch_t *batch_out);
TACIT_API tacit_status_t tacit_moe_combine_begin(tacit_moe_pass_t *pass, const void *replies);
TACIT_API tacit_status_t tacit_moe_combine_end(tacit_moe_pass_t *pass, const float *weights, void *out);
TACIT_API tacit_status_t tacit_moe_combine_backward_begin(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients);
TACIT_API tacit_status_t tacit_moe_combine_backward_end(tacit_moe_pass_t *pass, void *reply_gradients);
TACIT_API tacit_status_t tacit_moe_dispatch_backward_begin(tacit_moe_pass_t *pass, const void *row_gradients);
TACIT_API tacit_status_t tacit_moe_dispatch_backward_end(tacit_moe_pass_t *pass, void *token_gradients);

/* Bytes of the message to another rank, in the exchange that has begun. */
TACIT_API_VOID size_t tacit_moe_message_bytes(const tacit_moe_pass_t *pass, int rank);
/* Writes it. */
TACIT_API tacit_status_t tacit_moe_write(tacit_moe_pass_t *pass, int rank, void *message);
/* Bytes of the message from another rank; in dispatch, of the largest that there may be. */
TACIT_API_VOID size_t    tacit_moe_expected_bytes(const tacit_moe_pass_t *pass, int rank);
TACIT_API tacit_status_t tacit_moe_read(tacit_moe_pass_t *pass, int rank, const void *message, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
