/* SPDX-License-Identifier: Apache-2.0 */
/* What all ranks must have in common about an operation: said at the head of every frame, and compared; and the sentences in
   which schedules say what is wrong. */
#include <inttypes.h>
#include <stdio.h>

#include "alltoall.h"
#include "moe.h"
#include "operation.h"

/* What all ranks must have in common, in every frame. */
void tacit__operation_identify(tacit_operation_t *operation)
{
    uint64_t slot = TACIT_HASH_START, spec = TACIT_HASH_START, step = TACIT_HASH_START;

    operation->identity = (tacit_frame_t){.rank = (uint16_t)operation->comm->rank, .history = operation->comm->history};
    for (size_t i = 0; i < operation->item_count; i++) {
        const tacit_item_t  *item = &operation->items[i];
        const tacit_codec_t *codec = item->codec;

        tacit__codec_identify(codec, item->op, &slot, &spec);
        step = tacit__hash(step, &item->step, sizeof item->step);
        operation->identity.elements += (uint32_t)codec->tensor.count;
    }
    if (operation->item_count == 1) {
        slot = operation->items[0].codec->key.slot;
        step = operation->items[0].step;
    }
    if (operation->alltoall != NULL) {
        slot = tacit__hash_text(operation->alltoall->name);
        spec = tacit__hash(operation->alltoall->values->spec.hash, &operation->alltoall->values->dtype, sizeof(tacit_dtype_t));
        step = operation->alltoall->step;
        operation->identity.elements = (uint32_t)operation->alltoall->usual;
    }
    operation->identity.slot = (uint32_t)slot;
    operation->identity.spec = (uint32_t)spec;
    operation->identity.step = (uint32_t)step;
}

/* For messages. */
static const char *slot_named(const tacit_operation_t *operation, uint32_t hash)
{
    const tacit_comm_t *comm = operation->comm;

    if (operation->alltoall != NULL && hash == operation->identity.slot) {
        return operation->alltoall->name;
    }
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        if ((uint32_t)slot->codec->key.slot == hash) {
            return slot->codec->name;
        }
    }
    return hash == (uint32_t)tacit__hash_text(TACIT_ALLTOALL) ? TACIT_ALLTOALL : "(a group or an unknown slot)";
}

/* What a rank is at. Of a slot and a layer of experts that have one name it is the layer, if that says so many elements. */
enum { PLACE_BYTES = 160 };
static const char *place(const tacit_operation_t *operation, uint32_t hash, uint32_t elements, char text[PLACE_BYTES])
{
    const tacit_moe_t *moe = operation->comm->moes;

    while (moe != NULL && (elements != (uint32_t)tacit__moe_usual(moe) || (uint32_t)tacit__hash_text(moe->name) != hash)) {
        moe = moe->next;
    }
    if (moe != NULL) {
        snprintf(text, PLACE_BYTES, "layer '%.80s'", moe->name);
    } else {
        snprintf(text, PLACE_BYTES, "slot '%.80s' (%u elements)", slot_named(operation, hash), elements);
    }
    return text;
}

/* An all-to-all with stages is at another step on this rank. */
static tacit_status_t other_stage(const tacit_operation_t *operation, const tacit_frame_t *frame)
{
    const tacit_alltoall_t *alltoall = operation->alltoall;
    const uint32_t          count = alltoall->stage_count, mine = operation->identity.step;

    return tacit__fail(TACIT_ERR_MISMATCH,
                       "rank %d is at %s of pass %u of layer '%s' where rank %d is at %s of pass %u; make the same calls in the "
                       "same order on all ranks",
                       frame->rank, alltoall->stages[frame->step % count], frame->step / count, alltoall->name,
                       operation->comm->rank, alltoall->stages[mine % count], mine / count);
}

/* All ranks must be in the same operation. A verdict that is a fault may come from one that is not. */
tacit_status_t tacit__operation_check_identity(const tacit_operation_t *operation, const tacit_frame_t *frame)
{
    const tacit_comm_t  *comm = operation->comm;
    const tacit_frame_t *mine = &operation->identity;
    char                 theirs[PLACE_BYTES], here[PLACE_BYTES];

    if ((frame->kind == TACIT_FRAME_VERDICT && frame->status != TACIT_OK) || operation->fault != TACIT_OK) {
        return TACIT_OK;
    }
    if (frame->slot != mine->slot || frame->elements != mine->elements) {
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "rank %d is at %s where rank %d is at %s; call collectives in the same order on all ranks",
                           frame->rank, place(operation, frame->slot, frame->elements, theirs), comm->rank,
                           place(operation, mine->slot, mine->elements, here));
    }
    if (frame->step != mine->step && operation->item_count > 1) { /* hashes */
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "rank %d has other steps than rank %d on some of %zu slots, of which the first is '%s', here at step "
                           "%" PRIu64 "; reset or load slots on all ranks alike",
                           frame->rank, comm->rank, operation->item_count, operation->items[0].codec->name,
                           operation->items[0].step);
    }
    if (frame->step != mine->step && operation->alltoall != NULL && operation->alltoall->stages != NULL) {
        return other_stage(operation, frame);
    }
    if (frame->step != mine->step) {
        return tacit__fail(
            TACIT_ERR_MISMATCH,
            "rank %d is at step %u of slot '%s' where rank %d is at step %u; reset or load the slot on all ranks alike",
            frame->rank, frame->step, slot_named(operation, mine->slot), comm->rank, mine->step);
    }
    if (frame->spec != mine->spec && operation->alltoall != NULL) {
        return tacit__fail(TACIT_ERR_MISMATCH, "rank %d has another spec or dtype in %s than rank %d", frame->rank,
                           operation->alltoall->name, comm->rank);
    }
    if (frame->spec != mine->spec) {
        return tacit__fail(TACIT_ERR_MISMATCH, "rank %d reduces slot '%s' with another spec or operator than rank %d",
                           frame->rank, slot_named(operation, mine->slot), comm->rank);
    }
    if (frame->history != mine->history) {
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "before slot '%s', rank %d has made other native calls than rank %d; find them with TACIT_CHECK=1",
                           slot_named(operation, mine->slot), frame->rank, comm->rank);
    }
    return TACIT_OK;
}

tacit_frame_t tacit__leg_frame(const tacit_leg_t *leg, tacit_frame_kind_t kind)
{
    tacit_frame_t frame = leg->operation->identity;

    frame.kind = (uint8_t)kind;
    frame.round = leg->round;
    return frame;
}

tacit_status_t tacit__leg_send(const tacit_leg_t *leg, int peer, const uint8_t *message, size_t bytes)
{
    tacit_status_t status;

    TRY(tacit__exchange_reserve(&leg->comm->exchange));
    TRY(tacit__exchange_send(&leg->comm->exchange, peer, message, bytes));
out:
    return status;
}

tacit_status_t tacit__item_fault(const tacit_item_t *item)
{
    return item->codec->sums
               ? tacit__fail(TACIT_ERR_VALUE,
                             "rank %d: slot '%s' at step %" PRIu64 ": the sum of its host's ranks, or what is encoded of it, is "
                             "not finite; nothing was changed. Skip the step, or set nonfinite to pass",
                             item->codec->rank, item->codec->name, item->step)
               : tacit__codec_value_fault(item->codec, item->codec->rank, item->step);
}

tacit_status_t tacit__leg_unexpected(const tacit_leg_t *leg, const tacit_frame_t *frame)
{
    return tacit__fail(
        TACIT_ERR_FRAME,
        "rank %d: %s: frame %u of %u from rank %u (kind %u, %u elements, %u payload bytes) is not one that schedule "
        "'%s' expects",
        leg->comm->rank, leg->operation->what, frame->index, frame->total, frame->rank, frame->kind, frame->count,
        frame->payload_bytes, leg->schedule->name);
}
