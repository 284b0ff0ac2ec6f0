/* SPDX-License-Identifier: Apache-2.0 */
/* All-gather of index/value pairs: each rank sends what it has chosen to all; every rank adds up all of it in rank order. */
#include <string.h>

#include "records.h"

typedef struct tacit_sparse {
    tacit_buffer_t  memory;  /* of this struct */
    tacit_records_t records; /* of all ranks */
    tacit_chosen_t *chosen;  /* one an item */
    size_t          item;    /* that is being sent */
    tacit_source_t  source;  /* its entries, once they are chosen */
    uint32_t        frames;  /* sent */
    bool            all_sent, checked;
} tacit_sparse_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return codec->compressor->select != NULL;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_status_t  status;
    tacit_buffer_t  memory;
    tacit_sparse_t *sparse;

    TRY(tacit__buffer_take(&leg->comm->exchange, sizeof *sparse, &memory));
    sparse = leg->state = memset(memory.data, 0, sizeof *sparse);
    sparse->memory = memory;
    TRY(tacit__records_init(&sparse->records, leg));
    TRY(tacit__records_keep(&sparse->records, leg->item_count * sizeof *sparse->chosen, &sparse->chosen));
    memset(sparse->chosen, 0, leg->item_count * sizeof *sparse->chosen);
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_item_t *item = leg->items[i];

        TRY(tacit__codec_own_part(item->codec, item->step, 0, 0, item->op == TACIT_AVERAGE)); /* there are no owners */
        TRY(tacit__chosen_make(&sparse->records, i, &sparse->chosen[i]));
    }
out:
    return status;
}

static void release(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_buffer_t  memory;

    if (sparse == NULL) {
        return;
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_collapse(leg->items[i]->codec);
    }
    tacit__records_release(&sparse->records);
    memory = sparse->memory;
    tacit__buffer_give(&leg->comm->exchange, &memory);
    leg->state = NULL;
}

/* ---- Sending ---- */

/* Makes the present item's entries ready to be written. */
static tacit_status_t begin_item(const tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_item_t   *item = leg->items[sparse->item];
    tacit_chosen_t *chosen = &sparse->chosen[sparse->item];
    tacit_status_t  status;

    TRY(tacit__choose(item, chosen));
    sparse->source = (tacit_source_t){.item = item,
                                      .number = (uint32_t)sparse->item,
                                      .count = item->codec->tensor.count,
                                      .a = chosen->a,
                                      .entries = &chosen->entries};
out:
    return status;
}

/* All records of the present item are written: memory learns what was sent. */
static tacit_status_t finish_item(const tacit_leg_t *leg)
{
    tacit_sparse_t        *sparse = leg->state;
    const tacit_entries_t *own = &sparse->chosen[sparse->item].entries;

    tacit__chosen_sent(leg->items[sparse->item], &sparse->chosen[sparse->item]);
    return tacit__records_add(&sparse->records, sparse->item++, leg->comm->rank, own->indices, own->values, own->count);
}

/* Fills one frame's payload with records; returns its bytes in *bytes_out. */
static tacit_status_t fill(const tacit_leg_t *leg, uint8_t *payload, size_t *bytes_out)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_status_t  status = TACIT_OK;
    tacit_record_t  record;
    size_t          used = 0, bytes = 1;

    while (sparse->item < leg->item_count && bytes != 0) {
        tacit_item_t *item = leg->items[sparse->item];
        double        began;

        if (!sparse->chosen[sparse->item].gathered) {
            TRY(begin_item(leg));
        }
        began = tacit__seconds();
        if (sparse->source.entry < sparse->source.entries->count) {
            bytes = tacit__record_write(&sparse->source, payload + used, sparse->records.capacity - used, used == 0, &record);
            item->sent_bytes += (uint64_t)(leg->comm->ranks - 1) * bytes;
            used += bytes;
        }
        if (sparse->source.entry == sparse->source.entries->count) {
            TRY(finish_item(leg));
        }
        item->encode_seconds += tacit__seconds() - began;
    }
    *bytes_out = used;
out:
    return status;
}

static tacit_status_t send_frame(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_frame_t   frame = tacit__leg_frame(leg, TACIT_FRAME_SPARSE);
    uint8_t        *message;
    tacit_status_t  status;
    size_t          bytes;

    if (sparse->frames == TACIT_MOST_FRAMES) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages; raise chunk_bytes", leg->comm->rank,
                           TACIT_MOST_FRAMES);
    }
    TRY(tacit__records_keep(&sparse->records, TACIT_FRAME_HEADER_BYTES + sparse->records.capacity, &message));
    TRY(fill(leg, message + TACIT_FRAME_HEADER_BYTES, &bytes));
    tacit__records_trim(&sparse->records, sparse->records.capacity - bytes);
    sparse->all_sent = sparse->item == leg->item_count;
    frame.index = sparse->frames++;
    frame.total = sparse->all_sent ? sparse->frames : 0;
    frame.payload_bytes = (uint32_t)bytes;
    bytes = tacit__frame_write(&frame, message);
    for (int step = 1; step < leg->comm->ranks; step++) {
        TRY(tacit__leg_send(leg, (leg->comm->rank + step) % leg->comm->ranks, message, bytes));
    }
out:
    return status;
}

/* ---- The state machine ---- */

static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_status_t  status;

    if (!sparse->all_sent) {
        return send_frame(leg);
    }
    if (sparse->records.open != 0) {
        return TACIT_PENDING;
    }
    TRY(tacit__records_check(&sparse->records));
    sparse->checked = true;
out:
    return status;
}

static bool done(const tacit_leg_t *leg)
{
    return ((const tacit_sparse_t *)leg->state)->checked;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    return frame->kind == TACIT_FRAME_SPARSE ? tacit__records_take(&((tacit_sparse_t *)leg->state)->records, frame, -1)
                                             : tacit__leg_unexpected(leg, frame);
}

static void commit(tacit_leg_t *leg)
{
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__records_commit(&((tacit_sparse_t *)leg->state)->records, i);
    }
}

static void undo(tacit_leg_t *leg)
{
    const tacit_sparse_t *sparse = leg->state;

    for (size_t i = 0; i < leg->item_count; i++) {
        if (sparse->chosen != NULL) {
            tacit__chosen_undo(leg->items[i], &sparse->chosen[i]);
        }
        tacit__codec_disown(leg->items[i]->codec);
    }
}

const tacit_schedule_t tacit__schedule_sparse = {
    .name = "sparse",
    .summary = "all-gather of index/value pairs, added in rank order",
    .framed = true,
    .round = 1,
    .rounds = 1,
    .carries = carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = commit,
    .undo = undo,
    .release = release,
};
