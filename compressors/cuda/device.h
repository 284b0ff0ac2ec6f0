/* SPDX-License-Identifier: Apache-2.0 */
/* What the host tells kernels of a bundle, and the table of launchers and memory by which the library calls the CUDA module. C
   and C++; knows no type of CUDA. */
#ifndef TACIT_CUDA_DEVICE_H
#define TACIT_CUDA_DEVICE_H

#include "compressor.h"
#include "feedback.h"
#include "lsh.h"
#include "tacit.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    /* Payloads within a message, and messages, begin at multiples of this many bytes, so that a kernel loads them in the widest
       words that there are. What lies between is zero. */
    TACIT_BUNDLE_ALIGN = 16,
    TACIT_MESSAGE_CHUNK = 16 * 1024, /* bytes of a message that a block of threads sums */
    TACIT_PLACE_HEADER = 16,         /* of a tensor that travels whole, in a message: a length of four bytes, and zeros */
    TACIT_DEVICE_ARRAYS = 3          /* of a feedback, at most */
};

typedef enum { TACIT_BUNDLE_ALLREDUCE, TACIT_BUNDLE_REDUCE_SCATTER, TACIT_BUNDLE_ALLGATHER } tacit_bundle_kind_t;

/* Which of a feedback's arrays is which. */
enum {
    TACIT_EF_RESIDUAL = 0,
    TACIT_TRACKER_H = 0,
    TACIT_TRACKER_HBAR = 1,
    TACIT_TRACKER_REST = 2,
    TACIT_DGC_MOMENTUM = 0,
    TACIT_DGC_VELOCITY = 1
};

/* A tensor in the bundle. Arrays that are not doubled are there twice. */
typedef struct tacit_device_tensor {
    const void         *in;
    void               *out;
    uint64_t            count;
    tacit_key_t         key; /* of the step: how far it is ahead of the bundle's */
    tacit_device_code_t code;
    uint8_t             dtype, nonfinite, keep;
    uint8_t             precision; /* a tacit_precision_t, of arrays whose bits are set in `packed`; others are float32 */
    uint8_t             packed;
    bool                doubled;                        /* the sender's memory */
    uint8_t             flags;                          /* of the feedback: TACIT_DGC_… */
    float               weight;                         /* econtrol: eta; ef21: average; dgc: momentum */
    void               *memory[2][TACIT_DEVICE_ARRAYS]; /* [turn]: now, [1 - turn]: next */
    float              *owner[2];                       /* of its owned part; NULL: the owner keeps nothing */
    uint64_t            owner_first;
    uint32_t           *turn; /* the codec's: 0 or 1, changes with each step that succeeds */
} tacit_device_tensor_t;

/* A range of a tensor in its owner's part. */
typedef struct tacit_device_piece {
    uint32_t tensor, owner;
    uint64_t first, count;
    uint64_t at; /* its payload, among those of the part */
} tacit_device_piece_t;

/* What a warp works on, or a block where records are wide: elements [first, first + count) of a piece. */
typedef struct tacit_device_tile {
    uint32_t piece, count;
    uint64_t first;
} tacit_device_tile_t;

/* Why a step fails. A message that says so has 1 + the reason as its count, the detail as its first and the rank as its sequence:
   all ranks can write the same text. */
typedef enum tacit_reason {
    TACIT_REASON_VALUE,   /* detail: the tensor */
    TACIT_REASON_FOREIGN, /* a message of that rank cannot be used: … */
    TACIT_REASON_HEADER,
    TACIT_REASON_VERSION,
    TACIT_REASON_LENGTH,
    TACIT_REASON_CHECKSUM,
    TACIT_REASON_ORDER,
    TACIT_REASON_TENSORS,
    TACIT_REASON_SPEC,
    TACIT_REASON_STEP,
    TACIT_REASON_HISTORY,
    TACIT_REASON_STATUS, /* detail: a status that it has, with a text */
    TACIT_REASON_PLACE,  /* detail: the tensor of which that rank has sent no payload */
    TACIT_REASON_SUM,    /* detail: the tensor of which it is not finite */
    TACIT_REASONS
} tacit_reason_t;

/* A fault as one word: the least is that of the lowest rank. */
#define TACIT_DEVICE_FAULT(rank, reason, detail)                                                                                 \
    ((uint64_t)(rank) << 48 | (uint64_t)(reason) << 40 | (uint64_t)(uint32_t)(detail))
#define TACIT_DEVICE_NO_FAULT UINT64_MAX
#define TACIT_DEVICE_FAULT_RANK(fault) ((uint32_t)((fault) >> 48))
#define TACIT_DEVICE_FAULT_REASON(fault) ((uint32_t)((fault) >> 40 & 0xff))
#define TACIT_DEVICE_FAULT_DETAIL(fault) ((uint32_t)(fault))

/* A step's state, on the device. */
typedef struct tacit_device_step {
    uint64_t step, history;
    uint64_t fault;         /* TACIT_DEVICE_FAULT */
    uint64_t ended;         /* steps */
    uint32_t bad_tensor;    /* the first of this rank that is not finite; UINT32_MAX: none */
    uint32_t messages_done; /* of those that are being opened */
    uint32_t wholes_sent;   /* 1: memory of tensors that travel whole has followed */
} tacit_device_step_t;

/* What the host reads of it, in its own memory: written step by step, `ended` last. */
typedef struct tacit_device_fault {
    uint64_t number; /* of the step, from 1 */
    uint64_t step, fault;
} tacit_device_fault_t;

enum { TACIT_DEVICE_FAULTS = 8 };

typedef struct tacit_device_report {
    uint64_t             ended, failed;               /* steps, and those of them that failed, … */
    tacit_device_fault_t faults[TACIT_DEVICE_FAULTS]; /* … of which the n-th is at n modulo this, until the next one there */
} tacit_device_report_t;

/* One message, as it is sealed or opened. */
typedef struct tacit_device_message {
    uint64_t at;            /* where it begins in its buffer */
    uint64_t payload_bytes; /* as it has to be */
    uint64_t room;          /* of a payload */
    uint32_t rank;          /* the one that it is from or to */
    uint32_t first_block;   /* of the launch: it has those up to the next message's */
} tacit_device_message_t;

typedef struct tacit_device_messages {
    const tacit_device_message_t *message;
    uint32_t                      count, blocks;
    uint32_t                     *sums, *blocks_done; /* one a message, zero between launches */
    uint64_t                     *faults;             /* one a message */
} tacit_device_messages_t;

/* Everything that kernels are given: arrays on the device. */
typedef struct tacit_device_bundle {
    const tacit_device_tensor_t *tensors;
    const tacit_device_piece_t  *pieces;
    const uint64_t              *sent_at;     /* of the message to each rank, among those sent */
    const uint64_t              *received_at; /* of the message from each rank, among those received */
    uint64_t                     gather_bytes;
    uint32_t                     tensor_count;
    uint16_t                     rank, ranks;
    bool                         average;
    bool                         serves; /* an operation, and has no history of its own */
    uint8_t                      kind;   /* a tacit_bundle_kind_t */
    uint8_t                     *own_coded;
    tacit_device_step_t         *step;
    tacit_device_report_t       *report;
    uint8_t                      header[64]; /* what all messages of this rank say, whatever the step */
} tacit_device_bundle_t;

/* Records of up to 256 elements, of up to 2048 (onebit only), and longer ones. */
typedef enum { TACIT_WIDTH_SHORT, TACIT_WIDTH_LONG, TACIT_WIDTH_WIDE, TACIT_WIDTHS } tacit_width_t;
enum { TACIT_SHORT_RECORD = 256, TACIT_LONG_RECORD = 2048 };

/* Tiles of one code and width, part by part. */
typedef struct tacit_device_tiles {
    const tacit_device_tile_t *tiles;
    uint32_t                   count;
    uint32_t                   own_first, own_count; /* those of this rank's part */
    uint8_t                    code;                 /* a tacit_code_t */
    uint8_t                    width;                /* a tacit_width_t */
} tacit_device_tiles_t;

/* ---- Tensors that travel whole ---- */

enum {
    TACIT_DIGITS = 2048,        /* values of the first digit of a magnitude, … */
    TACIT_LOWER_DIGITS = 1024,  /* … and of the second and the third */
    TACIT_WHOLE_TILE = 4096,    /* elements that a block of threads works on */
    TACIT_WHOLE_CHUNK = 2048,   /* entries, or factors */
    TACIT_WHOLE_STRETCH = 4096, /* bytes of a payload's indices */
    TACIT_RICE_STATES = 32,     /* and of sums for as many parameters */
    TACIT_LOWERED = 11          /* thresholds of a sample, each 0.8 of the one before */
};

/* The digits of the smallest of so many largest magnitudes: by counts, one digit after the other. */
typedef struct tacit_device_digits {
    uint32_t first[TACIT_DIGITS], lower[2][TACIT_LOWER_DIGITS];
    uint32_t prefix, left; /* digits that are known; how many of those that begin with these are among the largest */
} tacit_device_digits_t;

/* What is learnt of a tensor while its largest elements are found and encoded. Zero before. */
typedef struct tacit_device_tally {
    tacit_device_digits_t chosen, sampled;              /* of what is sent, and of what of a sample is above its threshold */
    uint32_t              lowered[TACIT_LOWERED];       /* magnitudes from that threshold on, and from each lower one */
    uint32_t              quotients[TACIT_RICE_STATES]; /* of all gaps together, for each Rice parameter */
    uint32_t              all;                          /* 1: all that is not zero is sent */
    uint32_t              candidates;                   /* elements that may be sent; … */
    uint32_t              crowded; /* … 1: there is no room for them, and elements are looked at where they are */
    uint32_t              entries;
    uint32_t              index, rice, index_bytes, pairs; /* how they travel */
    uint32_t              done;                            /* blocks of threads, in the present launch */
} tacit_device_tally_t;

/* A tile's candidates, and what of earlier tiles is sent. */
typedef struct tacit_device_mark {
    uint32_t at, count;
    uint32_t above, equal; /* magnitudes above the smallest that is sent, and equal to it: of this tile, then before it */
} tacit_device_mark_t;

/* What a stretch of indices is, for a state that it begins in: the one that it ends in, entries in it, and elements. */
typedef struct tacit_device_run {
    uint32_t state, entries, advance;
} tacit_device_run_t;

/* One rank's payload for a tensor, as it is found to be. */
typedef struct tacit_device_taken {
    uint32_t entries, index, rice, half; /* half: values are float16 */
    uint32_t index_bytes;
    uint32_t bad;     /* 1: it is none */
    uint32_t largest; /* bits of the largest magnitude */
    uint32_t done;    /* blocks of threads, in the present launch */
} tacit_device_taken_t;

/* A tensor, and where its own begins in the arrays below. */
typedef struct tacit_device_whole {
    uint32_t tensor;
    uint32_t keep;                /* entries at most, or factors */
    uint32_t room;                /* for candidates */
    uint32_t spans;               /* of 65536 elements */
    uint32_t stride;              /* of a sample; 0: there is none */
    uint32_t sample_keep, enough; /* of the sample above its threshold; of the tensor, or that falls */
    uint64_t at;                  /* its place, among those of a message … */
    uint64_t bound;               /* … and the longest payload in it */
    uint32_t tile, tiles, chunk, chunks, stretch, stretches;
    uint64_t entry;     /* of every rank's `keep` */
    uint64_t candidate; /* of `room` */
    uint64_t sample;    /* of every stride-th element */
    uint64_t span;      /* of every rank's `spans` */
} tacit_device_whole_t;

/* Some of a tensor's elements, entries, factors or bytes. */
typedef struct tacit_device_extent {
    uint32_t whole, count;
    uint64_t first;
} tacit_device_extent_t;

/* ---- Of these, matrices whose two factors take a round each: P, and Q (compressors/powersgd.c) ---- */

enum {
    TACIT_PATCH_ROWS = 16, /* of a matrix: what a warp holds, … */
    TACIT_PATCH_COLUMNS = 128,
    TACIT_PATCHES = 8,        /* … and a block of threads has */
    TACIT_FACTOR_CHUNK = 1024 /* numbers of a factor that a block of threads adds up */
};

/* A matrix, and where its own begins in the arrays below. Factors are one vector after the other, as they travel. */
typedef struct tacit_device_matrix {
    uint32_t tensor, whole;
    uint32_t rows, columns, rank;
    uint32_t p_across, q_across; /* patches of a block that are side by side; others are below these */
    uint32_t strips, bands;      /* how many sums a number of P and of Q is made of */
    uint32_t q_below;            /* blocks that make one of Q's, by one block of threads */
    uint64_t at;                 /* of P's place, among those of a first message */
    uint64_t p, q, p_sums, q_sums;
    float   *work; /* the codec's: Q from step to step */
} tacit_device_matrix_t;

/* Patches of a block of threads, and which of the sums is theirs. */
typedef struct tacit_device_patches {
    uint32_t matrix, row, column, sum;
} tacit_device_patches_t;

typedef struct tacit_device_matrices {
    const tacit_device_matrix_t  *matrices;
    const tacit_device_patches_t *p_patches, *q_patches;
    const tacit_device_extent_t  *vectors, *p_chunks, *q_chunks; /* `whole` is the matrix */
    uint32_t                      count, p_patch_count, q_patch_count, vector_count, p_chunk_count, q_chunk_count;
    float                        *begun;         /* Q that the step begins with */
    float                        *own_p, *own_q; /* this rank's, … */
    float                        *p, *q;         /* … and of all */
    float                        *p_sums, *q_sums;
} tacit_device_matrices_t;

/* The first are topk's, the others randk's. */
typedef struct tacit_device_wholes {
    const tacit_device_whole_t  *wholes;
    const tacit_device_extent_t *tiles, *chunks, *stretches;
    const uint64_t              *part_bytes; /* of each rank: what comes before the places */
    uint32_t                     count, tile_count, topk_tiles, chunk_count, topk_chunks, stretch_count;
    bool                         sampled;  /* one of topk's has a sample */
    bool                         followed; /* one of topk's has memory that changes everywhere with what is sent; not packed */
    uint64_t                     bytes;    /* of all places */
    tacit_device_tally_t        *tallies;  /* of a tensor */
    tacit_device_mark_t         *marks;    /* of a tile */
    uint32_t                    *sums;     /* of a chunk: TACIT_RICE_STATES */
    uint32_t                    *candidate_indices, *indices, *taken_indices, *spans, *samples;
    float                       *candidate_values, *values, *kept, *taken_values;
    tacit_device_taken_t        *taken; /* of a tensor and a rank */
    tacit_device_run_t          *runs;  /* of a rank and a stretch: TACIT_RICE_STATES */
    tacit_device_matrices_t      matrices;
} tacit_device_wholes_t;

/* ---- Tokens on their way to experts, and back (compressors/lsh.h, libcomm/moe.h): rows of numbers ---- */

enum {
    TACIT_DEVICE_DIMENSION = 8192, /* of tokens that have codes, at most: what a block of threads has in shared memory */
    TACIT_BLOCK_SUM = 2048         /* products of which a sum of float64 takes one of float32 */
};

#define TACIT_DEVICE_NOWHERE UINT32_MAX

/* Rows, and all that becomes of them, have one dtype. */
typedef struct tacit_device_tokens {
    uint32_t count; /* less than 2^31 */
    uint32_t dimension;
    uint8_t  dtype;
    bool     skip; /* of tokens and their gradients: what is not finite counts as zero */
} tacit_device_tokens_t;

/* Lists of rows, and a weight of each of their entries. */
typedef struct tacit_device_lists {
    uint32_t        count;
    const uint32_t *begin;   /* of each, and behind the last */
    const uint32_t *row;     /* of an entry */
    const uint32_t *weight;  /* of an entry: which of … */
    const float    *weights; /* … these it is; NULL: 1 */
} tacit_device_lists_t;

/* Tokens that are in rows of which each is the mean of some. */
typedef struct tacit_device_members {
    uint32_t        count;
    const uint32_t *token, *row; /* of each */
    const uint32_t *first;       /* of each row, and behind the last */
} tacit_device_members_t;

/* Where a rank's tokens have gone (tacit_moe_sent_t). */
typedef struct tacit_device_choices {
    tacit_device_tokens_t tokens;
    uint32_t              choices;                    /* of each token */
    const uint32_t       *reply;                      /* of each choice; TACIT_DEVICE_NOWHERE */
    const uint32_t       *row;                        /* of each reply */
    const uint32_t       *first_reply, *first_member; /* of each row, and behind the last */
    uint32_t              own_first, own_end;         /* rows that have not left, … */
    bool                  residual;                   /* … and whether tokens have something beyond others */
} tacit_device_choices_t;

/* ---- The module ---- */

/* Launchers return 0 or CUDA's error, and do not wait. */
typedef struct tacit_cuda_module {
    uint32_t module_bytes; /* of this struct: what the library and the module were built with */
    const char *(*error_text)(int error);
    int (*device_count)(int *count_out);
    /* Memory of the present device: its own; of both; of the host. Zeroed. */
    int (*alloc)(void **memory_out, size_t bytes);
    int (*alloc_shared)(void **memory_out, size_t bytes);
    int (*alloc_host)(void **memory_out, size_t bytes);
    int (*free)(void *memory);
    int (*free_host)(void *memory);
    int (*synchronize)(void); /* waits for all work */
    int (*capturing)(void *stream, bool *capturing_out);
    int (*query)(void *stream, bool *idle_out); /* whether all that was put on it has ended; an error, if there was one */
    int (*create_stream)(void **stream_out);    /* which waits for no other */
    int (*destroy_stream)(void *stream);
    int (*copy)(void *to, const void *from, size_t bytes, void *stream); /* from the host's own memory or the device's */
    /* An event: what was on a stream when it was recorded. Whether that has ended, or an error, if there was one; and that what
       another stream gets from now on comes after it. */
    int (*create_event)(void **event_out);
    int (*destroy_event)(void *event);
    int (*record)(void *event, void *stream);
    int (*reached)(void *event, bool *reached_out);
    int (*follow)(void *stream, void *event);
    /* The GPU that is present for this thread. */
    int (*present)(int *gpu_out);
    int (*set_present)(int gpu);

    int (*begin)(const tacit_device_bundle_t *bundle, uint64_t step, void *stream); /* TACIT_STEP_NEXT: one more than the last */
    int (*encode)(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, void *sent, void *stream);
    int (*reduce)(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, const void *received, void *message,
                  void *stream);
    int (*finish)(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, const void *gathered, void *sent,
                  void *stream);
    /* Of a reduce-scatter: results of this rank's part. */
    int (*collect)(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles, const void *received, void *stream);
    /* Headers of messages whose payloads are there; or, after a fault, of messages that say so instead. */
    int (*seal)(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind, void *out, void *stream);
    /* Checks messages, and notes the fault of the lowest rank. verdict: whatever was noted before: all ranks judge by the
       same. */
    int (*open)(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind, const void *in,
                bool verdict, void *stream);
    int (*end)(const tacit_device_bundle_t *bundle, void *stream);
    int (*cancel)(const tacit_device_bundle_t *bundle, void *stream); /* finish() then takes the step back */
    /* First factors of matrices: to places in all messages; and from those of all ranks. */
    int (*send_factors)(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *sent, void *stream);
    int (*meet_factors)(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, const void *received,
                        void *stream);
    /* The same of tensors that travel whole: to their places in a message; from those of all ranks, of which faults[] are known;
       and results, or memory as it was. */
    int (*encode_wholes)(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *message, void *stream);
    int (*take_wholes)(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, const uint64_t *faults,
                       const void *gathered, void *stream);
    int (*finish_wholes)(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream);
    /* Those of compressors/lsh.h. `signs` are on the device. */
    int (*lsh_codes)(const tacit_rotations_t *rotations, const tacit_device_tokens_t *shape, const void *tokens, uint32_t *codes,
                     void *stream);
    /* Rows of so many bytes: to[to_index[i]] = from[from_index[i]]; without an index it is i. Bytes and addresses are even. */
    int (*copy_rows)(const void *from, const uint32_t *from_index, void *to, const uint32_t *to_index, uint32_t count,
                     size_t row_bytes, void *stream);
    /* The sum of each list, in its order, or the mean of its rows. An empty one's is zero. wide: NULL; or the same as float32. */
    int (*sum_rows)(const tacit_device_tokens_t *shape, const tacit_device_lists_t *lists, const void *rows, bool mean, void *out,
                    float *wide, void *stream);
    /* found: of each of shape->count rows 1 where not all of it is finite, else 0. */
    int (*check_rows)(const tacit_device_tokens_t *shape, const void *rows, uint32_t *found, void *stream);
    /* out: two numbers of each member: the square of the token, and of what it has beyond its row, which is 0 where it is alone
       in that. means: rows as float32. */
    int (*measure_rows)(const tacit_device_tokens_t *shape, const tacit_device_members_t *members, const void *tokens,
                        const float *means, double *out, void *stream);
    /* out: of each token the sum of weights[choice] times what the choice's reply stands for. centroids: the rows that were
       sent. */
    int (*combine_rows)(const tacit_device_choices_t *choices, const float *weights, const void *tokens, const void *centroids,
                        const void *replies, void *out, void *stream);
    /* out: of each choice the gradient of its weight, from those of what came out. */
    int (*weigh_rows)(const tacit_device_choices_t *choices, const void *gradients, const void *tokens, const void *centroids,
                      const void *replies, float *out, void *stream);
    /* out: gradients of tokens, from those of what came out, those that were sent, one a reply, and those of rows that came
       back. */
    int (*spread_rows)(const tacit_device_choices_t *choices, const float *weights, const void *gradients, const void *sums,
                       const void *rows, void *out, void *stream);
} tacit_cuda_module_t;

#endif
