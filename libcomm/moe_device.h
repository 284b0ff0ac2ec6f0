/* SPDX-License-Identifier: Apache-2.0 */
/* A mixture's layer whose tokens are in a GPU's memory. What is sent to other ranks, and what comes from there, lies in memory of
   the host that the GPU copies to and from; all else stays there. Kernels and copies are put on the caller's stream, and a call
   waits for them: between calls nothing is under way. */
#ifndef TACIT_MOE_DEVICE_H
#define TACIT_MOE_DEVICE_H

#include "cuda_module.h"
#include "moe.h"

/* Of memory of either kind, one of those that a layer has had; it keeps them until it is destroyed. */
typedef struct tacit_moe_block {
    struct tacit_moe_block *next;
    void                   *memory;
    size_t                  bytes;
    tacit_moe_room_t        room;
} tacit_moe_block_t;

typedef struct tacit_moe_device {
    const tacit_cuda_module_t *module;
    int                        gpu;       /* where all of it is */
    void                      *event;     /* that a call waits for */
    void                      *stream;    /* the caller's, where there is no communicator that has one */
    tacit_rotations_t          rotations; /* with signs there */
    void                      *signs;
    tacit_moe_block_t         *used, *spare;
} tacit_moe_device_t;

/* The layer's, on the present GPU. Where this fails, tacit__moe_device_destroy() is to be called all the same. */
tacit_status_t tacit__moe_device_create(tacit_moe_t *moe);
void           tacit__moe_device_destroy(tacit_moe_t *moe);
/* TACIT_ERR_ARGUMENT where another GPU is present, TACIT_ERR_STATE while the stream is being captured. */
tacit_status_t tacit__moe_device_enter(const tacit_moe_t *moe);
/* tacit__moe_get() and tacit__moe_put() of such a layer. */
void *tacit__moe_device_get(tacit_moe_device_t *device, tacit_moe_room_t room, size_t bytes);
void  tacit__moe_device_put(tacit_moe_device_t *device, void *memory);
/* TACIT_ERR_DEVICE with what CUDA says, or TACIT_OK. */
tacit_status_t tacit__moe_device_check(const tacit_moe_t *moe, int error, const char *what);
/* The status so far, or that of waiting for all that was put on the stream; waits whatever it is. TACIT_ERR_TIMEOUT, with which a
   communicator comes to its end, where the GPU does not come to one: what is on the stream may still have the pass's memory. */
tacit_status_t tacit__moe_device_settle(const tacit_moe_t *moe, tacit_status_t status);
void          *tacit__moe_device_stream(const tacit_moe_t *moe);

/* Of each of the pass's tokens its codes, and behind those of all, of each whether it is not finite, where that is a fault: to
   memory for messages. */
tacit_status_t tacit__moe_device_codes(const tacit_moe_pass_t *pass, uint32_t *words);
/* What tacit__moe_place() does there: memory of what will come, and numbers. */
tacit_status_t tacit__moe_device_place(tacit_moe_pass_t *pass);
/* The pass has no numbers there any more. */
void tacit__moe_device_forget(tacit_moe_pass_t *pass);

#endif
