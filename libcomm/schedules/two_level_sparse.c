/* SPDX-License-Identifier: Apache-2.0 */
/* All-gather of index/value pairs between hosts: the leader of each rail chooses from the exact sum of what its host's ranks have
   of it (rails.c), sends what it has chosen to the rail's other leaders and to its host's other ranks, and passes on to these
   what it hears from other hosts. So every rank has all entries, and adds them up in the order of hosts. */
#include <string.h>

#include "rails.h"

typedef struct tacit_gather {
    tacit_levels_t *levels;
    tacit_records_t records; /* of the leaders of all rails */
    tacit_chosen_t *chosen;  /* one an item */
    size_t          made;    /* items from which this rank has chosen, the first ones, if it leads … */
    size_t          waiting; /* … and at most so many bytes of records of them are not sent */
    tacit_outlet_t  outlet;  /* of them */
    bool            checked;
} tacit_gather_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return tacit__topology_has_levels(comm->topology) && codec->compressor->select != NULL;
}

/* ---- Prepare and release ---- */

static tacit_status_t begin_item(tacit_leg_t *leg, size_t i, tacit_source_t *source);
static tacit_status_t finish_item(tacit_leg_t *leg, size_t i);

static tacit_status_t no_memory(const tacit_leg_t *leg)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for the schedule of %zu slots", leg->comm->rank,
                       leg->operation->what, leg->item_count);
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_gather_t *gather = leg->state = tacit__leg_take(leg, 1, sizeof *gather);
    tacit_status_t  status;

    if (gather == NULL) {
        return no_memory(leg);
    }
    *gather = (tacit_gather_t){.chosen = tacit__leg_take(leg, leg->item_count, sizeof *gather->chosen)};
    if (gather->chosen == NULL) {
        return no_memory(leg);
    }
    memset(gather->chosen, 0, leg->item_count * sizeof *gather->chosen);
    TRY(tacit__levels_lay_out(leg, leg->comm->topology, &gather->levels));
    TRY(tacit__records_init(&gather->records, leg, leg->comm->topology, leg->comm->topology->rails));
    gather->outlet = (tacit_outlet_t){.kind = TACIT_FRAME_SPARSE,
                                      .to = -1,
                                      .some = gather->levels->others,
                                      .count = gather->levels->others_count,
                                      .begin = begin_item,
                                      .finish = finish_item,
                                      .all_sent = gather->levels->own < 0};
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
    tacit_gather_t *gather = leg->state;

    if (gather == NULL) {
        return;
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_collapse(leg->items[i]->codec);
    }
    tacit__levels_release(leg, gather->levels);
    tacit__records_release(&gather->records);
}

/* ---- What a leader sends ---- */

/* The next item, whose sum is complete. */
static tacit_status_t choose(tacit_leg_t *leg)
{
    tacit_gather_t      *gather = leg->state;
    tacit_item_t        *item = leg->items[gather->made];
    tacit_chosen_t      *chosen = &gather->chosen[gather->made];
    const tacit_codec_t *codec = item->codec;
    const size_t         count = codec->range.end - codec->range.begin;
    tacit_status_t       status = TACIT_OK;

    if (count != 0) {
        TRY(tacit__chosen_make(item, chosen));
        gather->waiting +=
            TACIT_RECORD_BYTES + codec->compressor->select->bound(codec->spec.compressor_config, count, chosen->entries.count);
    }
    gather->outlet.limit = ++gather->made;
out:
    return status;
}

static tacit_status_t begin_item(tacit_leg_t *leg, size_t i, tacit_source_t *source)
{
    source->first = leg->items[i]->codec->range.begin;
    source->count = leg->items[i]->codec->range.end;
    source->entries = &((tacit_gather_t *)leg->state)->chosen[i].entries;
    return TACIT_OK;
}

/* All records of an item are written: memory learns what was sent. */
static tacit_status_t finish_item(tacit_leg_t *leg, size_t i)
{
    tacit_gather_t *gather = leg->state;
    tacit_chosen_t *chosen = &gather->chosen[i];

    if (!chosen->chosen) {
        return TACIT_OK;
    }
    tacit__chosen_sent(leg->items[i], chosen);
    return tacit__records_add(&gather->records, i, gather->records.own, chosen->entries.indices, chosen->entries.values,
                              chosen->entries.count);
}

/* Whether there is a full frame to send, or what is left of all items. */
static bool has_frame(const tacit_leg_t *leg, const tacit_gather_t *gather)
{
    return gather->made == leg->item_count || (gather->outlet.item < gather->made && gather->waiting >= gather->records.capacity);
}

static tacit_status_t send_frame(tacit_leg_t *leg)
{
    tacit_gather_t *gather = leg->state;

    gather->waiting -= tacit__min(gather->waiting, gather->records.capacity);
    return tacit__outlet_send(&gather->records, &gather->outlet, leg);
}

/* ---- The state machine ---- */

/* Others wait for what this rank has of their rails: that goes first. */
static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_gather_t *gather = leg->state;
    tacit_status_t  status = tacit__levels_advance(leg, gather->levels);

    if (status != TACIT_PENDING) {
        return status;
    }
    if (!gather->outlet.all_sent && has_frame(leg, gather)) {
        return send_frame(leg);
    }
    if (!gather->outlet.all_sent) {
        return tacit__levels_has(gather->levels, gather->levels->place[gather->made]) ? choose(leg) : TACIT_PENDING;
    }
    if (gather->records.open != 0) {
        return TACIT_PENDING;
    }
    TRY(tacit__records_check(&gather->records));
    gather->checked = true;
out:
    return status;
}

static bool done(const tacit_leg_t *leg)
{
    return ((const tacit_gather_t *)leg->state)->checked;
}

/* Records: what a leader of this host or of the own rail has chosen itself, or what one of this host has heard from another. */
static tacit_status_t take(tacit_leg_t *leg, const tacit_frame_t *frame, bool passed)
{
    tacit_gather_t *gather = leg->state;
    const int       origin = tacit__records_origin_of(&gather->records, frame, passed);
    tacit_status_t  status;

    if (origin < 0) {
        return tacit__leg_unexpected(leg, frame);
    }
    TRY(tacit__records_take(&gather->records, frame, origin, passed ? frame->count != 0 : frame->total != 0, -1));
    if (!leg->comm->exchange.peers[frame->rank].near) {
        TRY(tacit__levels_pass_on(leg, gather->levels, &gather->records, frame));
    }
out:
    return status;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_gather_t *gather = leg->state;

    if (frame->round == leg->round + TACIT_LEVELS_INPUTS) {
        return tacit__levels_add(leg, gather->levels, frame);
    }
    if (frame->round == leg->round && frame->kind == TACIT_FRAME_SPARSE) {
        return take(leg, frame, false);
    }
    return frame->round == leg->round + TACIT_LEVELS_PASSED && frame->kind == TACIT_FRAME_RESULT
               ? take(leg, frame, true)
               : tacit__leg_unexpected(leg, frame);
}

static void commit(tacit_leg_t *leg)
{
    tacit__records_commit(&((tacit_gather_t *)leg->state)->records);
}

static void undo(tacit_leg_t *leg)
{
    const tacit_gather_t *gather = leg->state;

    for (size_t i = 0; i < leg->item_count; i++) {
        if (gather->chosen != NULL) {
            tacit__chosen_undo(leg->items[i], &gather->chosen[i]);
        }
        tacit__codec_disown(leg->items[i]->codec);
    }
}

const tacit_schedule_t tacit__schedule_two_level_sparse = {
    .name = "two_level_sparse",
    .summary = "as sparse, between hosts, of the exact sums of each host's ranks",
    .framed = true,
    .levels = true,
    .round = 10,
    .rounds = TACIT_LEVELS_ROUNDS,
    .carries = carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = commit,
    .undo = undo,
    .release = release,
};
