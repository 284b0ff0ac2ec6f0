/* SPDX-License-Identifier: Apache-2.0 */
/* What a mixture's layer has on a GPU: its stream, what it waits for, and memory that serves one pass after the other. */
#include "moe_device.h"

#include <sched.h>

#include "comm.h"

enum {
    LEAST_BYTES = 256, /* of a block */
    SLACK = 8 /* a block is larger than was asked for by one part of so many: numbers of tokens differ from pass to pass */
};

tacit_status_t tacit__moe_device_check(const tacit_moe_t *moe, int error, const char *what)
{
    return error == 0 ? TACIT_OK
                      : tacit__fail(TACIT_ERR_DEVICE, "rank %d: moe '%s': %s: %s (CUDA error %d)", moe->rank, moe->name, what,
                                    moe->device->module->error_text(error), error);
}

/* ---- The layer ---- */

/* Copies what hashes are made with. */
static tacit_status_t copy_signs(tacit_moe_t *moe)
{
    tacit_moe_device_t        *device = moe->device;
    const tacit_cuda_module_t *module = device->module;
    const size_t               bytes = tacit__lsh_words(&moe->lsh, moe->config.dimension) * sizeof *moe->signs;
    tacit_status_t             status;

    if (moe->config.dimension > TACIT_DEVICE_DIMENSION) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED, "rank %d: moe '%s': lsh takes tokens of %d elements at most on a GPU, not %zu",
                           moe->rank, moe->name, TACIT_DEVICE_DIMENSION, moe->config.dimension);
    }
    TRY(tacit__moe_device_check(moe, module->alloc(&device->signs, bytes), "memory of the GPU for hashing"));
    TRY(tacit__moe_device_check(moe, module->copy(device->signs, moe->signs, bytes, NULL), "a copy to the GPU"));
    TRY(tacit__moe_device_check(moe, module->synchronize(), "a copy to the GPU"));
    device->rotations = moe->rotations;
    device->rotations.signs = device->signs;
out:
    return status;
}

tacit_status_t tacit__moe_device_create(tacit_moe_t *moe)
{
    tacit_moe_device_t        *device;
    const tacit_cuda_module_t *module = NULL;
    tacit_status_t             status;

    TRY(tacit__cuda_module(&module));
    device = tacit__alloc(1, sizeof *device);
    if (device == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for a layer on a GPU", moe->rank, moe->name);
    }
    device->module = module;
    moe->device = device;
    moe->work = &tacit__moe_gpu;
    TRY(tacit__moe_device_check(moe, module->present(&device->gpu), "the present GPU"));
    TRY(tacit__moe_device_check(moe, module->create_event(&device->event), "an event"));
    if (moe->clusters) {
        TRY(copy_signs(moe));
    }
out:
    return status;
}

static void free_block(const tacit_moe_device_t *device, tacit_moe_block_t *block)
{
    const tacit_cuda_module_t *module = device->module;

    (void)(block->room == TACIT_MOE_MESSAGES ? module->free_host(block->memory) : module->free(block->memory));
    tacit__free(block);
}

static void free_blocks(const tacit_moe_device_t *device, tacit_moe_block_t *first)
{
    while (first != NULL) {
        tacit_moe_block_t *next = first->next;

        free_block(device, first);
        first = next;
    }
}

void tacit__moe_device_destroy(tacit_moe_t *moe)
{
    tacit_moe_device_t *device = moe->device;

    if (device == NULL) {
        return;
    }
    free_blocks(device, device->used);
    free_blocks(device, device->spare);
    (void)device->module->free(device->signs);
    (void)device->module->destroy_event(device->event);
    tacit__free(device);
    moe->device = NULL;
}

/* ---- Memory ---- */

/* Takes a block out of a list; NULL: there is none. */
static tacit_moe_block_t *take(tacit_moe_block_t **link)
{
    tacit_moe_block_t *block = link != NULL ? *link : NULL;

    if (block != NULL) {
        *link = block->next;
    }
    return block;
}

/* Where the smallest spare block is that has so many bytes or, if none has, the largest one. */
static tacit_moe_block_t **find_spare(tacit_moe_device_t *device, tacit_moe_room_t room, size_t bytes, bool *fits_out)
{
    tacit_moe_block_t **best = NULL;

    *fits_out = false;
    for (tacit_moe_block_t **link = &device->spare; *link != NULL; link = &(*link)->next) {
        const bool fits = (*link)->bytes >= bytes;

        if ((*link)->room != room || (*fits_out && !fits)) {
            continue;
        }
        if (best == NULL || fits != *fits_out || (fits ? (*link)->bytes < (*best)->bytes : (*link)->bytes > (*best)->bytes)) {
            best = link;
            *fits_out = fits;
        }
    }
    return best;
}

static tacit_moe_block_t *make_block(const tacit_moe_device_t *device, tacit_moe_room_t room, size_t bytes)
{
    const tacit_cuda_module_t *module = device->module;
    tacit_moe_block_t         *block = tacit__alloc(1, sizeof *block);

    if (block == NULL) {
        return NULL;
    }
    block->room = room;
    block->bytes = tacit__round_up(bytes + bytes / SLACK + 1, LEAST_BYTES);
    (void)module->set_present(device->gpu); /* the thread may be another one: an error comes back from what follows */
    if ((room == TACIT_MOE_MESSAGES ? module->alloc_host : module->alloc)(&block->memory, block->bytes) != 0) {
        tacit__free(block);
        block = NULL;
    }
    return block;
}

void *tacit__moe_device_get(tacit_moe_device_t *device, tacit_moe_room_t room, size_t bytes)
{
    bool                fits;
    tacit_moe_block_t **link = find_spare(device, room, bytes, &fits), *block = take(link);

    if (!fits) { /* one that has become too small makes room */
        if (block != NULL) {
            free_block(device, block);
        }
        block = make_block(device, room, bytes);
    }
    if (block == NULL) {
        return NULL;
    }
    block->next = device->used;
    device->used = block;
    return block->memory;
}

void tacit__moe_device_put(tacit_moe_device_t *device, void *memory)
{
    tacit_moe_block_t **link = &device->used, *block;

    if (memory == NULL) {
        return;
    }
    while ((*link)->memory != memory) {
        link = &(*link)->next;
    }
    block = take(link);
    block->next = device->spare;
    device->spare = block;
}

/* ---- The stream ---- */

void *tacit__moe_device_stream(const tacit_moe_t *moe)
{
    return moe->comm != NULL ? moe->comm->stream : moe->device->stream;
}

tacit_status_t tacit__moe_device_enter(const tacit_moe_t *moe)
{
    const tacit_moe_device_t *device = moe->device;
    int                       gpu = -1;
    bool                      capturing = false;
    tacit_status_t            status;

    TRY(tacit__moe_device_check(moe, device->module->present(&gpu), "the present GPU"));
    if (gpu != device->gpu) {
        status = tacit__fail(TACIT_ERR_ARGUMENT,
                             "rank %d: moe '%s': GPU %d is present, but the layer is on GPU %d: call cudaSetDevice()", moe->rank,
                             moe->name, gpu, device->gpu);
        goto out;
    }
    TRY(tacit__moe_device_check(moe, device->module->capturing(tacit__moe_device_stream(moe), &capturing), "its stream"));
    if (capturing) {
        status =
            tacit__fail(TACIT_ERR_STATE, "rank %d: moe '%s': its stream is being captured: this cannot be part of a CUDA graph",
                        moe->rank, moe->name);
    }
out:
    return status;
}

/* Whether the communicator's limit of time is behind; without one there is none. */
static bool is_late(const tacit_moe_t *moe, double began)
{
    const int64_t limit = moe->comm != NULL ? moe->comm->config.timeout_ms : -1;

    return limit >= 0 && tacit__seconds() - began > 1e-3 * (double)limit;
}

tacit_status_t tacit__moe_device_settle(const tacit_moe_t *moe, tacit_status_t status)
{
    const tacit_moe_device_t *device = moe->device;
    const double              began = tacit__seconds();
    bool                      reached = false;
    int                       error = device->module->record(device->event, tacit__moe_device_stream(moe));

    while (error == 0 && !reached) {
        error = device->module->reached(device->event, &reached);
        if (error == 0 && !reached && is_late(moe, began)) {
            return tacit__fail(TACIT_ERR_TIMEOUT, "rank %d: moe '%s': the GPU has not done its work in %lld ms", moe->rank,
                               moe->name, (long long)moe->comm->config.timeout_ms);
        }
        if (!reached) {
            sched_yield();
        }
    }
    return status != TACIT_OK ? status : tacit__moe_device_check(moe, error, "its stream");
}
