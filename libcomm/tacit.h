/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit: compressed collectives with error feedback. The public interface of libtacit, and the one home of its version.

   Every call that can fail returns a tacit_status_t; results come back through `..._out` pointers, written on success only.
   A communicator is used by one thread at a time; different communicators may be used at once. */
#ifndef TACIT_H
#define TACIT_H

#include <stddef.h>
#include <stdint.h>

#define TACIT_VERSION_MAJOR 0
#define TACIT_VERSION_MINOR 1
#define TACIT_VERSION_PATCH 0

#if defined(__GNUC__)
#define TACIT_API __attribute__((visibility("default"), warn_unused_result))
#define TACIT_API_VOID __attribute__((visibility("default")))
#else
#define TACIT_API
#define TACIT_API_VOID
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* name, value, text. Values are fixed for ever. */
#define TACIT_STATUS_LIST(X)                                                                                                     \
    X(OK, 0, "success")                                                                                                          \
    X(PENDING, 1, "the operation has not completed yet")                                                                         \
    X(ERR_ARGUMENT, -1, "an argument is invalid")                                                                                \
    X(ERR_SPEC, -2, "the spec is not understood or not allowed")                                                                 \
    X(ERR_MISMATCH, -3, "ranks disagree on a slot, a count or a spec")                                                           \
    X(ERR_FRAME, -4, "a frame is damaged, foreign or truncated")                                                                 \
    X(ERR_VALUE, -5, "NaN or infinity where the policy forbids it")                                                              \
    X(ERR_MEMORY, -6, "not enough memory")                                                                                       \
    X(ERR_TIMEOUT, -7, "a peer did not answer in time")                                                                          \
    X(ERR_TRANSPORT, -8, "MPI or NCCL reported an error")                                                                        \
    X(ERR_DEVICE, -9, "CUDA reported an error")                                                                                  \
    X(ERR_UNSUPPORTED, -10, "not available in this build or on this machine")                                                    \
    X(ERR_STATE, -11, "the call is not allowed now")                                                                             \
    X(ERR_BROKEN, -12, "the communicator failed earlier and must be destroyed")                                                  \
    X(ERR_FILE, -13, "a file cannot be read or written, or is damaged")

typedef enum tacit_status {
#define TACIT_STATUS_VALUE(name, value, text) TACIT_##name = value,
    TACIT_STATUS_LIST(TACIT_STATUS_VALUE)
#undef TACIT_STATUS_VALUE
} tacit_status_t;

/* 16-bit types are widened to float32 in registers; sums and memory are float32. */
typedef enum tacit_dtype { TACIT_FLOAT32, TACIT_FLOAT16, TACIT_BFLOAT16 } tacit_dtype_t;
typedef enum tacit_device { TACIT_CPU, TACIT_CUDA } tacit_device_t;
typedef enum tacit_op { TACIT_SUM, TACIT_AVERAGE } tacit_op_t;

/* What a NaN or an infinity in `in` does in a framed operation.
   ERROR  every rank returns TACIT_ERR_VALUE, nothing changes.
   SKIP   such an element counts as zero.
   Under both, finite values whose sum leaves the range of float32 are TACIT_ERR_VALUE. A result that float32 can hold, but a
   float16 tensor cannot, becomes infinity there, or with `none` and `fp16` the largest finite number.
   PASS   it reaches `out` (in a blockwise compressor as NaN over its block, in randk where it is drawn, in powersgd as NaN over
          the matrix); memory stays finite. */
typedef enum tacit_nonfinite { TACIT_NONFINITE_ERROR, TACIT_NONFINITE_SKIP, TACIT_NONFINITE_PASS } tacit_nonfinite_t;

typedef struct tacit_comm    tacit_comm_t;
typedef struct tacit_slot    tacit_slot_t;
typedef struct tacit_request tacit_request_t;
typedef struct tacit_codec   tacit_codec_t;

/* What advances requests (tacit_iallreduce(), tacit_group_end()), beside tacit_wait().
   CALLS   tacit_test(), and other calls on the communicator: where the program computes, nothing moves.
   THREAD  a thread of the communicator's too, which sleeps while there is nothing to do and stands aside while a call is made. It
           needs a transport that may be called from it, as MPI may after MPI_Init_thread() with MPI_THREAD_MULTIPLE; elsewhere a
           warning is logged, and it is CALLS. Results are the same bits. Where the thread that makes the communicator is bound to
           some processors only, it is bound to another one to which nothing of the same user is bound, if there is one. */
typedef enum tacit_progress { TACIT_PROGRESS_CALLS = 1, TACIT_PROGRESS_THREAD = 2 } tacit_progress_t;

/* Zero means default in every field. The same on all ranks, but for progress. */
typedef struct tacit_config {
    size_t      struct_bytes; /* sizeof(tacit_config_t): set by TACIT_CONFIG_INIT */
    const char *spec;         /* default for slots without their own; NULL: $TACIT_SPEC, then "auto" */
    int64_t     timeout_ms;   /* longest wait for a peer; 0: $TACIT_TIMEOUT_MS, then 60000; -1: no limit */
    size_t      chunk_bytes;  /* payload of one message; 0: 32768 */
    uint64_t    seed;         /* of everything random; 0: a fixed constant */
    int         nonfinite;    /* a tacit_nonfinite_t */
    int         strict;       /* 1: an error leaves memory exactly as it was, at the price of a second buffer; 0: $TACIT_STRICT */
    int         progress;     /* a tacit_progress_t; 0: $TACIT_PROGRESS, then TACIT_PROGRESS_CALLS */
} tacit_config_t;

#define TACIT_CONFIG_INIT                                                                                                        \
    {                                                                                                                            \
        sizeof(tacit_config_t), 0, 0, 0, 0, 0, 0, 0                                                                              \
    }

/* What a tensor is. A count of 0 is a tensor without elements; zero means default in every other field. */
typedef struct tacit_slot_config {
    size_t         struct_bytes; /* sizeof(tacit_slot_config_t): set by TACIT_SLOT_CONFIG_INIT */
    size_t         count;        /* elements, below 2^32 */
    tacit_dtype_t  dtype;
    tacit_device_t device;
    int            ndim;     /* 0: one dimension of count elements */
    size_t         shape[8]; /* product over ndim is count; powersgd's matrix; dgc leaves small vectors dense */
    const char    *spec;     /* NULL: the communicator's */
} tacit_slot_config_t;

#define TACIT_SLOT_CONFIG_INIT                                                                                                   \
    {                                                                                                                            \
        sizeof(tacit_slot_config_t), 0, TACIT_FLOAT32, TACIT_CPU, 0, {0, 0, 0, 0, 0, 0, 0, 0}, 0                                 \
    }

/* ---- Communicators: made by tacit_comm_create_mpi() (tacit_mpi.h) or tacit_comm_create() (tacit_transport.h) ---- */

TACIT_API_VOID int tacit_comm_rank(const tacit_comm_t *comm);
TACIT_API_VOID int tacit_comm_ranks(const tacit_comm_t *comm);
/* Whether requests advance by themselves: TACIT_PROGRESS_THREAD was asked for and could be had. */
TACIT_API_VOID int tacit_comm_has_thread(const tacit_comm_t *comm);
/* Of tensors on a GPU: the cudaStream_t on which `in` is produced, in reductions that follow; what is on it when one is called
   comes before. Likewise of layers of experts (tacit_moe.h). NULL, as at first: the default stream. Local. */
TACIT_API tacit_status_t tacit_comm_set_stream(tacit_comm_t *comm, void *stream);
/* Destroys the communicator, its slots and its unfinished requests. Local; accepts NULL. */
TACIT_API_VOID void tacit_comm_destroy(tacit_comm_t *comm);

/* ---- Slots ---- */

/* Registers a tensor under a name. Collective over comm: all ranks pass the same name, shape, dtype and spec, or all get
   TACIT_ERR_MISMATCH and a message naming the first rank that differs. The slot keeps no pointer to the caller's data. The first
   large one without compression, on ranks of several hosts, has the network measured: some tenths of a second if that is slow;
   of each compressor that "auto:error=E" may choose, too.
   device TACIT_CUDA, on all ranks or on none: its tensors are memory of the present GPU (cudaSetDevice()), which stays so in all
   calls on comm; TACIT_ERR_UNSUPPORTED where there is none, or no kernels for the spec (powersgd with residual=,
   init=gradient). Owned by comm; lives until tacit_slot_destroy() or tacit_comm_destroy(). */
TACIT_API tacit_status_t tacit_slot_create(tacit_comm_t *comm, const char *name, const tacit_slot_config_t *config,
                                           tacit_slot_t **slot_out);
/* Changes parameters (not the compressor or the feedback) between operations; collective; memory is kept. From "auto" with an
   error to "auto" with another, or without, the compressor is chosen anew. From any spec with "ef" to "none": where nothing is
   compressed any more, the next operation brings along what was kept back. */
TACIT_API tacit_status_t tacit_slot_set_spec(tacit_slot_t *slot, const char *spec);
/* Forgets the slot's memory and starts its step count again. Local; call it on every rank. */
TACIT_API tacit_status_t tacit_slot_reset(tacit_slot_t *slot);
/* Multiplies by `factor` what the slot has kept back, as a sender and as an owner. After a change of the learning rate,
   old rate / new rate keeps what is owed in units of the parameters. What others hold a copy of stays (the trackers of ef21 and
   econtrol, and an owner's memory around them). Local; call it on every rank. */
TACIT_API tacit_status_t tacit_slot_rescale(tacit_slot_t *slot, double factor);
/* Local; accepts NULL. Call it on every rank. A request that still works with the slot goes on to its end; an open group forgets
   it. */
TACIT_API_VOID void tacit_slot_destroy(tacit_slot_t *slot);
/* The slot's spec as it was given, also where TACIT_DISABLE=1 has it reduced as 'none'. Valid until the next call on the
   communicator. */
TACIT_API_VOID const char *tacit_slot_spec(const tacit_slot_t *slot);
/* The same with all parameters, as it is in force: of "auto" what was chosen, of a 16-bit tensor's "none" the cast. Valid until
   the next call on the communicator. */
TACIT_API_VOID const char *tacit_slot_effective_spec(const tacit_slot_t *slot);
/* The name of the schedule that carries it: "ring", "native", "blockwise", "sparse", "sparse-scatter", "linear", "device"; where
   hosts have several ranks "two_level", "two_level_sparse", "two_level_scatter". */
TACIT_API_VOID const char *tacit_slot_schedule(const tacit_slot_t *slot);

typedef struct tacit_norms {
    double memory; /* Euclidean norm of what this rank has kept back as a sender; 0 with ef21, which keeps nothing back */
    double owner;  /* the same as an owner, in units of the result */
} tacit_norms_t;

/* Local. One pass over the slot's memory. */
TACIT_API tacit_status_t tacit_slot_norms(const tacit_slot_t *slot, tacit_norms_t *norms_out);

typedef struct tacit_counters {
    uint64_t calls;         /* operations completed */
    uint64_t bytes_in;      /* of `in`, over all calls */
    uint64_t wire_bytes;    /* that left this rank in messages, headers included; native collectives by formula */
    uint64_t network_bytes; /* of these, what left for ranks of other hosts */
    uint64_t dense_bytes;   /* that a dense ring in float32 would have sent: 2(N-1)/N x count x 4 a call */
    double   encode_seconds, wire_seconds, decode_seconds; /* wire: neither encoding nor decoding */
} tacit_counters_t;

/* Local. In a group, headers and waiting are shared out by payload bytes. */
TACIT_API tacit_status_t tacit_slot_counters(const tacit_slot_t *slot, tacit_counters_t *counters_out);

/* ---- Reductions ---- */

/* Reduces `in` over all ranks into `out`, which are count elements each and may be the same buffer. Blocking. Collective: all
   ranks call it for their slots in the same order. `out` is bit-identical on every rank. After an error every rank returns the
   same status, the slot's memory is as before the call to within rounding (exactly in strict mode), `in` is unchanged and
   `out` is unspecified unless it is `in`. (One case is beyond any protocol: if both copies of a rank's last word on an
   operation are lost, the rank that misses them times out where others have succeeded.) After TACIT_ERR_TIMEOUT or
   TACIT_ERR_TRANSPORT only tacit_save() and tacit_comm_destroy() work. Where the slot's schedule is "native", the promises
   are the transport's: all ranks make the same call, blocking or not, in place or not; TACIT_CHECK=1 looks for differences.
   Without compression it is that, unless the library's own ring was measured to be faster. A slot on a GPU is reduced there,
   whatever its spec: `in` and `out` are the GPU's memory; when the call returns, or the request is complete, `out` has been
   written, for every stream and the host to read, and `in` is no longer read. Where CUDA fails behind the ranks' last word, it is
   on one rank alone: TACIT_ERR_DEVICE, with which its communicator is broken. Source: Karimireddy et al., "Error
   Feedback Fixes SignSGD" (ICML 2019), algorithm 2, for specs with "+ef"; at the owner again: Tang et al., "DoubleSqueeze"
   (ICML 2019), algorithm 1; "+ef21": Richtarik et al. (NeurIPS 2021), "+econtrol": Gao et al. (ICLR 2024). */
TACIT_API tacit_status_t tacit_allreduce(tacit_slot_t *slot, const void *in, void *out, tacit_op_t op);

/* As tacit_allreduce(), but returns at once. `in` and `out` belong to the library until the request completes. Requests of one
   communicator complete in the order in which they were started. They advance in calls on it, where TACIT_PROGRESS_THREAD is not
   in force. Where it is, waiting for a peer counts towards the limit of time also while this rank computes. */
TACIT_API tacit_status_t tacit_iallreduce(tacit_slot_t *slot, const void *in, void *out, tacit_op_t op,
                                          tacit_request_t **request_out);
/* Advances the communicator's operations. TACIT_PENDING while the request runs; any other status is the operation's: the
   request is then freed and *request is NULL. A NULL request is complete. */
TACIT_API tacit_status_t tacit_test(tacit_request_t **request);
TACIT_API tacit_status_t tacit_wait(tacit_request_t **request);

/* Many slots in one operation: between begin and end, tacit_allreduce() only collects; end runs them all (request_out NULL:
   blocking). Errors are the group's, also that of a call which the group refused. Slots travel in the order in which they were
   created, so ranks may collect them in any order. A slot is collected once at most. Slots on a GPU may be in one group with
   others; those on a GPU have one operator, or it is TACIT_ERR_UNSUPPORTED. They share memory for messages, which is kept for
   the next group as long as each is reduced with just the same others. */
TACIT_API tacit_status_t tacit_group_begin(tacit_comm_t *comm);
TACIT_API tacit_status_t tacit_group_end(tacit_comm_t *comm, tacit_request_t **request_out);

/* ---- All-to-all ---- */

/* Sends a part of `in` to each rank, and gets a part of `out` from each, both in the order of ranks and without gaps between:
   send_counts[r] elements go to rank r, receive_counts[r] come from it, fewer than 2^32 each. Blocking. Collective: all ranks
   call it in the same order among all collectives, with the same spec and dtype; a count that is not its sender's is
   TACIT_ERR_MISMATCH on all. in and out are in the host's memory and do not overlap. spec: "none", as NULL, loses nothing, and
   goes by the transport's own call where it has one, whose promises then hold: a wrong argument is that rank's own error, and
   TACIT_CHECK=1 looks for differences (MPI's takes parts that begin below 2^31 elements). Else one that is blockwise and has no
   feedback, such as "bf16", "fp8" or "rotq:bits=4": a new block begins with every part, nothing is remembered, and what a rank
   sends to itself is copied as it is. After an error every rank returns the same status and `out` is unspecified. */
TACIT_API tacit_status_t tacit_alltoallv(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in,
                                         const size_t *send_counts, void *out, const size_t *receive_counts);
/* The same with `count` elements from each rank to each. */
TACIT_API tacit_status_t tacit_alltoall(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in, size_t count,
                                        void *out);
/* They return at once: in and out belong to the library until the request completes (tacit_iallreduce()); the counts do not. Not
   by the transport's own call, whatever the spec: all ranks make the one call or the other. */
TACIT_API tacit_status_t tacit_ialltoallv(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in,
                                          const size_t *send_counts, void *out, const size_t *receive_counts,
                                          tacit_request_t **request_out);
TACIT_API tacit_status_t tacit_ialltoall(tacit_comm_t *comm, const char *spec, tacit_dtype_t dtype, const void *in, size_t count,
                                         void *out, tacit_request_t **request_out);
/* Of the communicator's all-to-alls so far. dense_bytes: what its elements for other ranks are in their own type. Local. */
TACIT_API tacit_status_t tacit_alltoall_counters(const tacit_comm_t *comm, tacit_counters_t *counters_out);

/* ---- Saving ---- */

/* Writes this rank's state of all slots (memory, steps) to the file at `path`, by way of a temporary file that is synced and
   renamed: the old file or the new one is there, whole, at any moment. Each rank names its own file. Collective: if one rank
   fails, all return its status (each file that was written stays). On a broken communicator it is local. */
TACIT_API tacit_status_t tacit_save(tacit_comm_t *comm, const char *path);
/* Reads what tacit_save() wrote into the slots of the same names, counts, compressors and feedbacks, which must all exist.
   Collective: on failure every rank returns the same status and no slot has changed. */
TACIT_API tacit_status_t tacit_load(tacit_comm_t *comm, const char *path);

/* ---- The codec: compression with memory, for programs that move their own bytes ----

   One codec per tensor and rank. A blockwise spec (tacit_codec_grain() > 0) encodes any range whose `first` is a multiple of the
   grain and whose end is one too or the tensor's; a grain of 0 (topk, randk) encodes the whole tensor, first = 0. What
   powersgd compresses takes two exchanges and has no frame: TACIT_ERR_UNSUPPORTED.
   Typical use, blockwise, rank r of N owning range r (tacit_codec_own()): encode every range and send it to its owner; add up
   what arrived, and the own frame, by tacit_decode_add() in rank order; tacit_reencode() the sum and send it to all;
   tacit_decode() all ranges. With a grain of 0: send the frame to all; tacit_decode_add() all frames in rank order, then
   tacit_codec_combine() the sums.
   A frame is self-describing (doc/wire-format.md) and checked before it is used. Not thread-safe per codec.
   Where there are many tensors, and on GPUs, bundles do all that with a few calls for all of them (tacit_bundle.h); the calls
   below are for tensors on the CPU. */

/* rank and ranks key random numbers only. `config` may be NULL; its spec is used where slot_config has none. With
   TACIT_DISABLE=1, on all ranks or on none, it is 'none' instead. */
TACIT_API tacit_status_t tacit_codec_create(const char *name, const tacit_slot_config_t *slot_config,
                                            const tacit_config_t *config, int rank, int ranks, tacit_codec_t **codec_out);
TACIT_API_VOID void      tacit_codec_destroy(tacit_codec_t *codec);
TACIT_API_VOID size_t    tacit_codec_grain(const tacit_codec_t *codec);
/* Bytes of the largest frame for `count` elements. */
TACIT_API_VOID size_t tacit_codec_capacity(const tacit_codec_t *codec, size_t count);
/* Forgets the memory, and which kind of bundle it was for. */
TACIT_API_VOID void tacit_codec_reset(tacit_codec_t *codec);
/* Between steps: writes what the codec remembers to `state`, of `capacity` bytes, for a checkpoint; NULL: only says how many
   bytes that takes. */
TACIT_API tacit_status_t tacit_codec_save(const tacit_codec_t *codec, void *state, size_t capacity, size_t *bytes_out);
/* Reads what tacit_codec_save() wrote of a codec of the same name, count, compressor, feedback, rank and ranks. On an error
   nothing has changed. */
TACIT_API tacit_status_t tacit_codec_load(tacit_codec_t *codec, const void *state, size_t bytes);

/* Encodes elements [first, first + count) of the tensor at `in` (its start, not the range's) with feedback: what is not sent
   is remembered and joins the next step. `step` keys random numbers and is checked by the decoder. On an error the memory is
   as before. */
TACIT_API tacit_status_t tacit_encode(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count,
                                      void *frame, size_t capacity, size_t *bytes_out);
/* Says which range this rank owns, that is, encodes again after reducing it, and whether as a sum or an average. If another
   was owned before, the owner's memory of it joins the sender's, so that nothing is lost. Blockwise specs only. */
TACIT_API tacit_status_t tacit_codec_own(tacit_codec_t *codec, size_t first, size_t count, tacit_op_t op);
/* Encodes a reduced range, within the owned one, with the owner's own feedback. `sum` is the range's first element, float32. */
TACIT_API tacit_status_t tacit_reencode(tacit_codec_t *codec, uint64_t step, const float *sum, size_t first, size_t count,
                                        void *frame, size_t capacity, size_t *bytes_out);
/* Writes what the frame says over its range of the tensor at `out` (its start, in the codec's dtype). On error `out` is
   unchanged. first_out and count_out, the frame's range, may be NULL. */
TACIT_API tacit_status_t tacit_decode(tacit_codec_t *codec, uint64_t step, const void *frame, size_t bytes, void *out,
                                      size_t *first_out, size_t *count_out);
/* As tacit_decode(), but adds to float32 sums; `sum` is the start of the whole tensor's sums. */
TACIT_API tacit_status_t tacit_decode_add(tacit_codec_t *codec, uint64_t step, const void *frame, size_t bytes, float *sum,
                                          size_t *first_out, size_t *count_out);

/* What a feedback makes of the sum or mean of all ranks' frames for a range that was not encoded again: ef21 and econtrol add it
   to what they track, all others give it back as it is. `sum` is the range's first element, `out` the start of the whole tensor
   in the codec's dtype; they may be the same memory. Once a step and element, as tacit_decode() does it for a reduced range. */
TACIT_API tacit_status_t tacit_codec_combine(tacit_codec_t *codec, const float *sum, size_t first, size_t count, void *out);

/* ---- Words ---- */

/* Text of a status; never NULL, never freed. */
TACIT_API_VOID const char *tacit_strerror(tacit_status_t status);
/* What this thread's last failed call found: rank, slot, step, value, and what to do. Valid until the thread's next call. */
TACIT_API_VOID const char *tacit_last_error(void);
/* "MAJOR.MINOR.PATCH" of the library that runs. */
TACIT_API_VOID const char *tacit_version(void);
/* The best vector instructions that kernels may use here, where they have any: "scalar", "avx2", "avx512" or "neon". */
TACIT_API_VOID const char *tacit_isa(void);

/* One parameter of a compressor, a feedback or the environment. */
typedef enum tacit_param_type { TACIT_PARAM_INT, TACIT_PARAM_REAL, TACIT_PARAM_WORD, TACIT_PARAM_TEXT } tacit_param_type_t;
typedef struct tacit_param {
    const char        *key; /* "bits" */
    tacit_param_type_t type;
    size_t             offset;    /* in the library's own configuration: of no use outside */
    double             low, high; /* both allowed */
    double             initial;   /* default; of a word: its place in `words` */
    unsigned           multiple;  /* an INT is a multiple of this; 0 and 1: any */
    const char        *words;     /* "e4m3 e5m2"; of an INT or a REAL: one word that stands for its default, or NULL */
    const char        *unit;      /* "elements", "bits", "" */
    const char        *help;      /* one sentence */
} tacit_param_t;

typedef struct tacit_module {
    const char          *name;    /* the word in a spec */
    const char          *summary; /* one line */
    const tacit_param_t *params;  /* ends with a NULL key; never NULL */
} tacit_module_t;

typedef enum tacit_kind {
    TACIT_COMPRESSORS,
    TACIT_FEEDBACKS,
    TACIT_SCHEDULES,
    TACIT_ENVIRONMENT,
    TACIT_OPTIMIZERS,
    TACIT_DEVICES
} tacit_kind_t;

/* The index-th module of a kind: what specs may name and what tacit-info prints. TACIT_ERR_ARGUMENT past the last. The
   environment is one module whose params are the variables. A device's index is its tacit_device_t; TACIT_ERR_UNSUPPORTED where
   it cannot be used here, and tacit_last_error() says why. */
TACIT_API tacit_status_t tacit_module(tacit_kind_t kind, size_t index, tacit_module_t *module_out);

/* Checks a spec, a slot's or one for tokens (tacit_moe.h), and writes it with every parameter spelled out (truncated to capacity,
   0-terminated; NULL, 0: only check). */
TACIT_API tacit_status_t tacit_spec_check(const char *spec, char *canonical, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
