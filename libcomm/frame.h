/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: what crosses the wire. This is the only code that trusts no byte. Format: doc/wire-format.md, "Header". */
#ifndef TACIT_FRAME_H
#define TACIT_FRAME_H

#include "frame_layout.h"
#include "internal.h"

enum {
    TACIT_MOST_FRAMES = 0xffffff /* of one kind and round to one receiver: the index has 24 bits */
};

typedef enum {
    TACIT_FRAME_ENCODED = 1,  /* a tensor's range, made by tacit_encode() */
    TACIT_FRAME_REENCODED,    /* made by tacit_reencode() */
    TACIT_FRAME_CONTRIBUTION, /* blockwise: to the owner of a part */
    TACIT_FRAME_RESULT,       /* blockwise: from the owner of a part */
    TACIT_FRAME_SPARSE,       /* records of index/value pairs */
    TACIT_FRAME_AGREEMENT,    /* a text that must be the same on all ranks */
    TACIT_FRAME_VERDICT,      /* the last of an operation: a status, and the text of a fault */
    TACIT_FRAME_HEAD,         /* all-to-all: bytes that say what follows them to the same rank */
    TACIT_FRAME_ROWS,         /* all-to-all: elements */
    TACIT_FRAME_TOKENS,       /* a mixture's rows, made by tacit_moe_write() */
    TACIT_FRAME_PARCELS,      /* all-to-all: records of both, from several ranks or for several */
    TACIT_FRAME_KINDS
} tacit_frame_kind_t;

typedef struct tacit_frame {
    uint8_t        kind;                           /* tacit_frame_kind_t */
    uint8_t        compressor, compressor_version; /* wire id; 0 where a frame holds several */
    uint16_t       rank;                           /* the sender's */
    int16_t        status;                         /* of a verdict: a tacit_status_t */
    uint32_t       slot, spec;                     /* hashes of the slots' names and of the effective parameters */
    uint32_t       sequence;                       /* the communicator's operation */
    uint32_t       step;                           /* the slot's */
    uint32_t       history;                        /* rolling hash of native calls */
    uint32_t       elements;                       /* of all tensors together, modulo 2^32 */
    uint32_t       round, index, total;            /* this frame among those of its kind and round to this receiver */
    uint32_t       first, count;                   /* the range of elements inside, where there is one */
    uint32_t       payload_bytes;
    const uint8_t *payload; /* parse: inside the message */
} tacit_frame_t;

/* Writes the header before a payload that lies at message + TACIT_FRAME_HEADER_BYTES already. Returns the message's bytes. */
size_t tacit__frame_write(const tacit_frame_t *frame, uint8_t *message);
/* What the header of a whole message says. */
tacit_frame_t tacit__frame_read(const uint8_t *message);
/* Checks a message of `bytes` bytes, all of it. Returns NULL and fills *frame_out, or says what is wrong with it. */
const char *tacit__frame_parse(const uint8_t *message, size_t bytes, tacit_frame_t *frame_out);

#endif
