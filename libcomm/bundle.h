/* SPDX-License-Identifier: Apache-2.0 */
/* What a bundle is made of: pieces of blockwise tensors, and tensors that travel whole. */
#ifndef TACIT_BUNDLE_INTERNAL_H
#define TACIT_BUNDLE_INTERNAL_H

#include "codec.h"
#include "frame.h"
#include "tacit_bundle.h"

/* A range of a blockwise tensor in its owner's part. */
typedef struct tacit_piece {
    size_t codec;
    size_t first, count;
    size_t at; /* where its payload lies among those of the part */
} tacit_piece_t;

/* A sparse or linear tensor. */
typedef struct tacit_whole {
    size_t           codec;
    size_t           at;                    /* where its place lies among those of the second message, behind the part … */
    size_t           bound;                 /* … and the longest payload in it */
    size_t           first_at, first_bytes; /* linear, of two rounds: its place in the first messages, and the payload; else 0 */
    tacit_entries_t  own;                   /* sparse: what goes out; the codec's */
    tacit_entries_t *entries;               /* sparse: of every rank, as they came; values[] has them all */
    const float     *a;                     /* linear: what is encoded; … */
    float           *factor[TACIT_LINEAR_ROUNDS]; /* … the own factor of each round, … */
    float           *sum[TACIT_LINEAR_ROUNDS];    /* … and that of all */
    float           *values;                      /* memory of these */
    uint32_t        *indices;
    size_t          *next;     /* entry of each rank, while they are summed */
    bool             gathered; /* linear: a is there, perhaps in memory */
    bool             sent;     /* memory has followed */
} tacit_whole_t;

typedef enum { TACIT_BUNDLE_IDLE, TACIT_BUNDLE_ENCODED, TACIT_BUNDLE_REDUCED } tacit_bundle_phase_t;

struct tacit_bundle {
    tacit_codec_t **codecs;
    size_t          count;
    tacit_op_t      op;
    int             rank, ranks;
    int            *owners;     /* of tensors; NULL in an all-reduce, where each rank owns a part of each */
    uint8_t         kind;       /* a tacit_bundle_kind_t */
    tacit_piece_t  *pieces;     /* part by part */
    size_t         *part;       /* part[q] … part[q + 1]: the pieces of owner q … */
    size_t         *part_bytes; /* … and their payload; … */
    size_t         *sent_at;    /* … and where the message to it begins, among those sent */
    tacit_whole_t  *wholes;
    size_t          whole_count, whole_bytes; /* places of all of them, … */
    size_t          first_bytes;              /* … and in each first message, behind the part, of those of two rounds */
    size_t          gather_bytes;
    size_t          own_coded_bytes; /* of the own part's payloads, where some tensor is encoded there too, … */
    uint8_t        *own_coded;       /* … which are here, unless a GPU has them; or NULL */
    float          *sum;             /* a unit */
    const uint8_t **payloads;        /* of the own part, one a rank … */
    const uint8_t **contributions;   /* … and where a piece's lie */

    tacit_frame_t        identity; /* what all messages of a step say */
    tacit_bundle_phase_t phase;
    uint64_t             step, next_step;
    uint64_t             history; /* hash of the steps that have succeeded: the same on all ranks */
    const void         **in;
    uint8_t             *sent;    /* what encode() has written */
    size_t               encoded; /* pieces, of all in order */
    tacit_status_t       fault;   /* of the lowest rank that is known to have one, … */
    int                  faulty;  /* … which is that */
    char                 text[TACIT_TEXT_BYTES];

    struct tacit_bundle_device *device; /* of tensors on a GPU; else NULL */
};

/* Of an all-reduce on a GPU, after tacit__bundle_device_judge(): ends the step with its results. After an error of
   CUDA memory is as that has left it. */
tacit_status_t tacit__bundle_conclude(tacit_bundle_t *bundle, const void *messages, void *const *out);
/* Payload bytes of the codec-th tensor that a step sends to other ranks, at most. */
uint64_t tacit__bundle_sent_bytes(const tacit_bundle_t *bundle, size_t codec);

/* ---- bundle_message.c ---- */

/* A message has room for what is wrong, too. */
enum { TACIT_BUNDLE_LEAST_PAYLOAD = 256 };

/* Notes a fault, whose text is the last error. That of the lowest rank is everybody's. */
void tacit__bundle_note(tacit_bundle_t *bundle, int rank, tacit_status_t status);
/* Faults in what all ranks have sent, which all find. */
tacit_status_t tacit__bundle_place_fault(int rank, const tacit_codec_t *codec);
tacit_status_t tacit__bundle_sum_fault(const tacit_bundle_t *bundle, const tacit_codec_t *codec, uint64_t step);
/* The header of a message whose payload is written already; or, after a fault, its text instead. */
void tacit__bundle_write(const tacit_bundle_t *bundle, tacit_frame_kind_t kind, size_t payload_bytes, uint8_t *message);
/* A message of `bytes` bytes at most, from `rank`: what it says, or what is wrong with it. */
tacit_status_t tacit__bundle_read(const tacit_bundle_t *bundle, int rank, tacit_frame_kind_t kind, const uint8_t *message,
                                  size_t bytes, tacit_frame_t *frame_out);

/* ---- bundle_device.c: the same on a GPU, where bundle->device is ---- */

typedef struct tacit_bundle_device tacit_bundle_device_t;

tacit_status_t tacit__bundle_device_create(tacit_bundle_t *bundle);
void           tacit__bundle_device_destroy(tacit_bundle_t *bundle);
void           tacit__bundle_device_stream(tacit_bundle_t *bundle, void *stream);
/* The same, for operations, which compare for themselves what ranks have behind them, and end what tacit__codec_own_part()
   begins. */
void           tacit__bundle_device_serve(tacit_bundle_t *bundle, void *stream);
tacit_status_t tacit__bundle_device_encode(tacit_bundle_t *bundle, uint64_t step, const void *const *in);
tacit_status_t tacit__bundle_device_reduce(tacit_bundle_t *bundle, const void *messages, void *message);
tacit_status_t tacit__bundle_device_finish(tacit_bundle_t *bundle, const void *messages, void *const *out);
/* The same in two halves, between which its fate is known: the first copies to the host's memory what was found … */
tacit_status_t tacit__bundle_device_judge(tacit_bundle_t *bundle, const void *messages, tacit_device_step_t *told);
/* … which this reads, the same on all ranks that have got the same messages … */
tacit_status_t tacit__bundle_device_verdict(const tacit_bundle_t *bundle, const tacit_device_step_t *told);
/* … and the second writes results, and keeps memory, unless something was; cancel() takes the step back instead. */
tacit_status_t tacit__bundle_device_conclude(tacit_bundle_t *bundle, const void *messages, void *const *out);
void           tacit__bundle_device_cancel(tacit_bundle_t *bundle);
tacit_status_t tacit__bundle_device_poll(tacit_bundle_t *bundle, uint64_t behind);
/* Whether it would have to wait. */
tacit_status_t tacit__bundle_device_runs(tacit_bundle_t *bundle, uint64_t behind, bool *runs_out);

/* ---- layout_device.c: memory of the GPU that begins with tables. These are laid out twice: first only counted, then written to
   an image, from which they are copied ---- */

typedef struct tacit_layout {
    uint8_t *image;  /* NULL: only counted */
    uint8_t *memory; /* of the device; NULL: not there yet */
    size_t   used;
} tacit_layout_t;

/* The next `bytes` bytes of the memory; and where what is taken next is in the image, or NULL. */
void *tacit__layout_take(tacit_layout_t *layout, size_t bytes);
void *tacit__layout_image(const tacit_layout_t *layout);
/* Gets the memory. Both calls take what they need of `layout`, which is `owner`'s: tables, then what is not in the image. */
tacit_status_t tacit__layout_create(const tacit_bundle_t *bundle, tacit_layout_t *layout, void (*lay_tables)(void *owner),
                                    void (*lay_workspace)(void *owner), void *owner, void **memory_out);

/* ---- wholes_device.c ---- */

/* Tables and workspace, one piece of the device's memory, for tensors that travel whole. */
tacit_status_t tacit__wholes_device_create(const tacit_bundle_t *bundle, tacit_device_wholes_t *wholes_out, void **memory_out);

/* ---- matrices_device.c ---- */

/* The same for those of two rounds; nothing where there are none. */
tacit_status_t tacit__matrices_device_create(const tacit_bundle_t *bundle, tacit_device_matrices_t *matrices_out,
                                             void **memory_out);

/* ---- bundle_whole.c ---- */

tacit_status_t tacit__wholes_create(tacit_bundle_t *bundle);
void           tacit__wholes_destroy(tacit_bundle_t *bundle);
/* Of two rounds, or nothing: makes the own factor of the first; as below … */
tacit_status_t tacit__whole_begin(tacit_bundle_t *bundle, tacit_whole_t *whole);
/* … fills its place in a first message … */
void tacit__whole_tell(const tacit_whole_t *whole, uint8_t *place);
/* … adds a rank's, in ascending order, of which the own one is at NULL; as take() below … */
bool tacit__whole_meet(const tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *place);
/* … and ends that. False: the sum is not finite, where it has to be. */
bool tacit__whole_met(const tacit_bundle_t *bundle, tacit_whole_t *whole);
/* Encodes the own contribution, and fills its place: a length, so many bytes, zeros. TACIT_ERR_VALUE without a text: it is not
   finite. */
tacit_status_t tacit__whole_encode(tacit_bundle_t *bundle, tacit_whole_t *whole, uint8_t *place);
/* Reads a rank's, which may be hostile. False: it is none. */
bool tacit__whole_take(tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *place);
/* Whether the sum of what was taken is finite, where it has to be. */
bool tacit__whole_fits(const tacit_bundle_t *bundle, tacit_whole_t *whole);
/* Writes the result, or takes back what encode() did to memory. */
void tacit__whole_finish(tacit_bundle_t *bundle, tacit_whole_t *whole, void *out);
void tacit__whole_undo(tacit_bundle_t *bundle, tacit_whole_t *whole);

#endif
