/* SPDX-License-Identifier: Apache-2.0 */
/* All-gather of index/value pairs: each rank sends what it has chosen to all; every rank adds up all of it in rank order. */
#include <string.h>

#include "records.h"

typedef struct tacit_sparse {
    tacit_buffer_t  memory;  /* of this struct */
    tacit_records_t records; /* of all ranks */
    tacit_chosen_t *chosen;  /* one an item */
    tacit_outlet_t  outlet;  /* of them */
    bool            checked;
} tacit_sparse_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return codec->compressor->select != NULL;
}

static tacit_status_t begin_item(tacit_leg_t *leg, size_t i, tacit_source_t *source);
static tacit_status_t finish_item(tacit_leg_t *leg, size_t i);

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_status_t  status;
    tacit_buffer_t  memory;
    tacit_sparse_t *sparse;

    TRY(tacit__buffer_take(&leg->comm->exchange, sizeof *sparse, &memory));
    sparse = leg->state = memset(memory.data, 0, sizeof *sparse);
    sparse->memory = memory;
    sparse->outlet = (tacit_outlet_t){
        .kind = TACIT_FRAME_SPARSE, .to = -1, .limit = leg->item_count, .begin = begin_item, .finish = finish_item};
    TRY(tacit__records_init(&sparse->records, leg, leg->comm->flat, 1));
    TRY(tacit__records_keep(&sparse->records, leg->item_count * sizeof *sparse->chosen, &sparse->chosen));
    memset(sparse->chosen, 0, leg->item_count * sizeof *sparse->chosen);
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_item_t *item = leg->items[i];

        TRY(tacit__codec_own_part(item->codec, item->step, 0, 0, item->op == TACIT_AVERAGE)); /* there are no owners */
        TRY(tacit__codec_expand(item->codec));
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

static tacit_status_t begin_item(tacit_leg_t *leg, size_t i, tacit_source_t *source)
{
    tacit_chosen_t *chosen = &((tacit_sparse_t *)leg->state)->chosen[i];
    tacit_status_t  status;

    TRY(tacit__chosen_make(leg->items[i], chosen));
    source->count = leg->items[i]->codec->tensor.count;
    source->entries = &chosen->entries;
out:
    return status;
}

/* All records of an item are written: memory learns what was sent. */
static tacit_status_t finish_item(tacit_leg_t *leg, size_t i)
{
    tacit_sparse_t        *sparse = leg->state;
    const tacit_entries_t *own = &sparse->chosen[i].entries;

    tacit__chosen_sent(leg->items[i], &sparse->chosen[i]);
    return tacit__records_add(&sparse->records, i, leg->comm->rank, own->indices, own->values, own->count);
}

/* ---- The state machine ---- */

static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_status_t  status;

    if (!sparse->outlet.all_sent) {
        return tacit__outlet_send(&sparse->records, &sparse->outlet, leg);
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
    tacit_sparse_t *sparse = leg->state;

    return frame->kind == TACIT_FRAME_SPARSE ? tacit__records_take(&sparse->records, frame, frame->rank, frame->total != 0, -1)
                                             : tacit__leg_unexpected(leg, frame);
}

static void commit(tacit_leg_t *leg)
{
    tacit__records_commit(&((tacit_sparse_t *)leg->state)->records);
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
