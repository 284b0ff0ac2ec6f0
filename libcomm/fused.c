/* SPDX-License-Identifier: Apache-2.0 */
/* Makes and dissolves what slots on a GPU are in together. */
#include "fused.h"

#include "staging.h"

enum { PLACE = 256 /* where a GPU likes memory to begin */ };

static bool is_of(const tacit_fused_t *fused, const tacit_leg_t *leg)
{
    bool same = fused != NULL && fused->count == leg->item_count && fused->bundle->op == leg->items[0]->op;

    for (size_t i = 0; same && i < leg->item_count; i++) {
        same = fused->slots[i] == leg->items[i]->slot;
    }
    return same;
}

static tacit_status_t make_bundle(const tacit_leg_t *leg, tacit_fused_t *fused)
{
    tacit_codec_t **codecs = tacit__alloc(leg->item_count, sizeof(tacit_codec_t *));
    tacit_status_t  status;

    if (codecs == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu slots on a GPU", leg->comm->rank, leg->item_count);
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        codecs[i] = leg->items[i]->codec;
    }
    TRY(tacit_bundle_create(codecs, leg->item_count, leg->items[0]->op, &fused->bundle));
    tacit__bundle_device_serve(fused->bundle, leg->comm->staging->stream);
out:
    tacit__free(codecs);
    return status;
}

static tacit_status_t make_room(const tacit_comm_t *comm, tacit_fused_t *fused)
{
    size_t         sent = 0, received = 0, gathered;
    tacit_status_t status;

    for (int other = 0; other < comm->ranks; other++) {
        fused->received_at[other] = received;
        sent += tacit_bundle_scatter_bytes(fused->bundle, comm->rank, other);
        received += tacit_bundle_scatter_bytes(fused->bundle, other, comm->rank);
    }
    fused->gather_bytes = tacit_bundle_gather_bytes(fused->bundle);
    sent = tacit__round_up(sent, PLACE);
    received = tacit__round_up(received, PLACE);
    gathered = fused->gather_bytes * (size_t)comm->ranks;
    TRY(tacit__staging_check(comm->staging, comm->staging->module->alloc((void **)&fused->memory, sent + received + gathered),
                             "memory of the GPU for messages"));
    fused->sent = fused->memory;
    fused->received = fused->sent + sent;
    fused->gathered = fused->received + received;
out:
    return status;
}

static tacit_status_t make(const tacit_leg_t *leg, tacit_fused_t *fused)
{
    const size_t   count = leg->item_count;
    tacit_status_t status;

    fused->slots = tacit__alloc(count, sizeof(tacit_slot_t *));
    fused->in = tacit__alloc(count, sizeof *fused->in);
    fused->out = tacit__alloc(count, sizeof *fused->out);
    fused->sent_bytes = tacit__alloc(count, sizeof *fused->sent_bytes);
    fused->received_at = tacit__alloc((size_t)leg->comm->ranks, sizeof *fused->received_at);
    if (fused->slots == NULL || fused->in == NULL || fused->out == NULL || fused->sent_bytes == NULL ||
        fused->received_at == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu slots on a GPU", leg->comm->rank, count);
    }
    for (size_t i = 0; i < count; i++) {
        tacit__fused_dissolve(leg->items[i]->slot->fused); /* first: its memory may be needed */
    }
    TRY(make_bundle(leg, fused));
    TRY(make_room(leg->comm, fused));
    for (size_t i = 0; i < count; i++) {
        fused->sent_bytes[i] = tacit__bundle_sent_bytes(fused->bundle, i);
        fused->slots[i] = leg->items[i]->slot;
        fused->slots[i]->fused = fused;
        fused->count = i + 1;
    }
out:
    return status;
}

tacit_status_t tacit__fused_of(const tacit_leg_t *leg, tacit_fused_t **fused_out)
{
    tacit_fused_t *fused = leg->items[0]->slot->fused;
    tacit_status_t status = TACIT_OK;

    if (is_of(fused, leg)) {
        goto out;
    }
    fused = tacit__alloc(1, sizeof *fused);
    status = fused != NULL
                 ? make(leg, fused)
                 : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu slots on a GPU", leg->comm->rank, leg->item_count);
out:
    if (status == TACIT_OK) {
        *fused_out = fused;
    } else {
        tacit__fused_dissolve(fused);
    }
    return status;
}

/* All of it; its slots are in nothing then. */
void tacit__fused_dissolve(tacit_fused_t *fused)
{
    if (fused == NULL) {
        return;
    }
    for (size_t i = 0; i < fused->count; i++) {
        fused->slots[i]->fused = NULL;
    }
    if (fused->bundle != NULL) {
        const tacit_cuda_module_t *module = fused->bundle->codecs[0]->module;

        tacit_bundle_destroy(fused->bundle); /* waits for all work */
        (void)module->free(fused->memory);
    }
    tacit__free(fused->slots);
    tacit__free(fused->in);
    tacit__free(fused->out);
    tacit__free(fused->sent_bytes);
    tacit__free(fused->received_at);
    tacit__free(fused);
}
