/* SPDX-License-Identifier: Apache-2.0 */
/* Between a GPU and the wire: streams of the communicator's own, and memory of the host that the GPU copies to and from, in cells
   that are used by turns. A cell holds a message: a frame's header and a piece of what a GPU sends or gets. */
#ifndef TACIT_STAGING_H
#define TACIT_STAGING_H

#include "cuda_module.h"

enum {
    TACIT_CELLS = 8,       /* of each direction: so many pieces are copied, or on the wire, at once */
    TACIT_PIECE_CHUNKS = 8 /* in a piece: to have a GPU copy takes as long as to send a chunk */
};

typedef struct tacit_cell {
    uint8_t *message;
    void    *copied; /* an event: its copy has ended */
    bool     busy;   /* in: the copy from it may be under way; … */
    size_t   sends;  /* … out: it is free once so many of the operation's sends are done, … */
    size_t   index, total, bytes;
    int      peer; /* … to this rank, or to all: -1 */
    uint8_t  kind; /* a tacit_frame_kind_t */
} tacit_cell_t;

typedef struct tacit_staging {
    const tacit_cuda_module_t *module;
    int                        rank;     /* for messages */
    int                        gpu;      /* where all of it is */
    void                      *stream;   /* kernels, and copies to the host; … */
    void                      *arrivals; /* … copies from it, which wait for neither */
    void                      *event;
    size_t                     piece_bytes;
    uint8_t                   *memory;
    tacit_cell_t               out[TACIT_CELLS], in[TACIT_CELLS];
    tacit_device_step_t       *told; /* what a step has found */
} tacit_staging_t;

/* On the present GPU. */
tacit_status_t tacit__staging_create(int rank, size_t chunk_bytes, tacit_staging_t **staging_out);
/* Accepts NULL. leaked: messages are still being sent, and stay where they are. */
void tacit__staging_destroy(tacit_staging_t *staging, bool leaked);
/* Bytes of its pieces. */
size_t tacit__piece_bytes(size_t chunk_bytes);
/* TACIT_ERR_DEVICE with what CUDA says, or TACIT_OK. */
tacit_status_t tacit__staging_check(const tacit_staging_t *staging, int error, const char *what);
/* TACIT_ERR_ARGUMENT where another GPU is present. */
tacit_status_t tacit__staging_is_here(const tacit_staging_t *staging);
/* `event` := what is on the caller's stream now, behind what it was before. TACIT_ERR_STATE where that is being captured. */
tacit_status_t tacit__staging_note(const tacit_staging_t *staging, void *event, void *stream);
/* Makes its GPU the one of this thread. */
void tacit__staging_enter(const tacit_staging_t *staging);

#endif
