/* SPDX-License-Identifier: Apache-2.0 */
/* All-gather of index/value pairs between hosts: the leader of each rail chooses from the exact sum of what its host's ranks have
   of it (rails.c), sends what it has chosen to the rail's other leaders and to its host's other ranks, and passes on to these
   what it hears from other hosts. So every rank has all entries, and adds them up in the order of hosts. */
#include <string.h>

#include "rails.h"
#include "parts.h"
#include "records.h"

typedef struct tacit_gather {
    tacit_levels_t *levels;
    tacit_records_t records; /* of the leaders of all rails */
    tacit_chosen_t *chosen;  /* these two: one an item */
    size_t         *place;   /* the own rail's segments up to the end of the item */
    size_t          made;    /* items from which this rank has chosen, the first ones, if it leads … */
    size_t          waiting; /* … and at most so many bytes of records of them are not sent */
    tacit_outlet_t  outlet;  /* of them, to … */
    int            *others;  /* … the rail's other leaders, then this host's other ranks */
    int             far;     /* of the former, those whose last frame is not here */
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

/* What each rail has of the items, whose ranges become what this rank's has. */
static tacit_status_t lay_out(tacit_leg_t *leg)
{
    tacit_gather_t         *gather = leg->state;
    const tacit_topology_t *topology = leg->comm->topology;
    tacit_status_t          status;

    TRY(tacit__levels_create(leg, topology, leg->item_count * (size_t)topology->rails, &gather->levels));
    for (int rail = 0; rail < topology->rails; rail++) {
        for (size_t i = 0; i < leg->item_count; i++) {
            tacit_item_t       *item = leg->items[i];
            const tacit_range_t range = tacit__rail_range(item->codec, rail, topology->rails);

            if (range.begin < range.end) {
                tacit__levels_append(gather->levels, rail, &(tacit_segment_t){item, range.begin, range.end - range.begin, 0});
            }
            if (rail == gather->levels->own) {
                item->codec->range = range;
                gather->place[i] = gather->levels->rails[rail].count;
            }
        }
    }
    TRY(tacit__levels_prepare(leg, gather->levels));
out:
    return status;
}

/* To whom a leader's records go, beginning behind its host. */
static void find_others(const tacit_leg_t *leg, tacit_gather_t *gather)
{
    const tacit_topology_t *topology = leg->comm->topology;
    const tacit_levels_t   *levels = gather->levels;
    const int               hosts = topology->hosts, host = topology->host_of[leg->comm->rank];
    int                     count = 0;

    for (int step = 1; step < hosts; step++) {
        gather->others[count++] = topology->leaders[levels->own * hosts + (host + step) % hosts];
    }
    gather->far = count;
    for (int i = 0; i < levels->here; i++) {
        if (levels->members[i] != leg->comm->rank) {
            gather->others[count++] = levels->members[i];
        }
    }
    gather->outlet = (tacit_outlet_t){
        .kind = TACIT_FRAME_SPARSE, .to = -1, .some = gather->others, .count = count, .begin = begin_item, .finish = finish_item};
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_gather_t *gather = leg->state = tacit__leg_take(leg, 1, sizeof *gather);
    tacit_status_t  status;

    if (gather == NULL) {
        return no_memory(leg);
    }
    *gather = (tacit_gather_t){.place = tacit__leg_take(leg, leg->item_count, sizeof *gather->place),
                               .others = tacit__leg_take(leg, (size_t)leg->comm->ranks, sizeof *gather->others),
                               .chosen = tacit__leg_take(leg, leg->item_count, sizeof *gather->chosen)};
    if (gather->place == NULL || gather->others == NULL || gather->chosen == NULL) {
        gather->chosen = NULL; /* nothing that undo() could look at */
        return no_memory(leg);
    }
    memset(gather->chosen, 0, leg->item_count * sizeof *gather->chosen);
    for (size_t i = 0; i < leg->item_count; i++) {
        leg->items[i]->codec->range = (tacit_range_t){0};
    }
    TRY(lay_out(leg));
    TRY(tacit__records_init(&gather->records, leg, leg->comm->topology));
    if (gather->levels->own >= 0) {
        find_others(leg, gather);
    } else {
        gather->outlet.all_sent = true;
    }
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
        tacit_codec_t *codec = leg->items[i]->codec;

        tacit__codec_collapse(codec);
        codec->range = (tacit_range_t){0, codec->tensor.count};
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

static int origin_of(const tacit_leg_t *leg, int rank)
{
    const tacit_topology_t *topology = leg->comm->topology;

    return topology->rail_of[rank] * topology->hosts + topology->host_of[rank];
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
    return tacit__records_add(&gather->records, i, origin_of(leg, leg->comm->rank), chosen->entries.indices,
                              chosen->entries.values, chosen->entries.count);
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

/* Passes another host's frame on to this host's other ranks. */
static tacit_status_t pass_on(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_gather_t *gather = leg->state;
    tacit_levels_t *levels = gather->levels;
    const bool      last = frame->total != 0;
    tacit_frame_t   passed = tacit__leg_frame(leg, TACIT_FRAME_RESULT);
    uint8_t        *message;
    tacit_status_t  status = TACIT_OK;

    gather->far -= last;
    if (levels->here == 1) {
        goto out;
    }
    if (levels->passed == TACIT_MOST_FRAMES) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages to a rank of its host; raise chunk_bytes",
                           leg->comm->rank, TACIT_MOST_FRAMES);
    }
    TRY(tacit__records_keep(&gather->records, TACIT_FRAME_HEADER_BYTES + frame->payload_bytes, &message));
    memcpy(message + TACIT_FRAME_HEADER_BYTES, frame->payload, frame->payload_bytes);
    passed.round = leg->round + TACIT_LEVELS_PASSED;
    passed.index = levels->passed++;
    passed.total = gather->far == 0 ? levels->passed : 0;
    passed.first = (uint32_t)levels->topology->host_of[frame->rank];
    passed.count = last;
    passed.payload_bytes = frame->payload_bytes;
    TRY(tacit__levels_tell(leg, levels, message, tacit__frame_write(&passed, message)));
out:
    return status;
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
        return tacit__levels_has(gather->levels, gather->place[gather->made]) ? choose(leg) : TACIT_PENDING;
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

/* From a leader of this host or of the own rail, what it has chosen itself. */
static tacit_status_t take_records(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_gather_t         *gather = leg->state;
    const tacit_topology_t *topology = leg->comm->topology;
    const int               rail = topology->rail_of[frame->rank];
    const bool              near = topology->host_of[frame->rank] == topology->host_of[leg->comm->rank];
    tacit_status_t          status;

    if (rail < 0 || (!near && rail != gather->levels->own)) {
        return tacit__leg_unexpected(leg, frame);
    }
    TRY(tacit__records_take(&gather->records, frame, origin_of(leg, frame->rank), frame->total != 0, -1));
    if (!near) {
        TRY(pass_on(leg, frame));
    }
out:
    return status;
}

/* From a leader of this host, what it has heard from another one. */
static tacit_status_t take_passed(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_gather_t         *gather = leg->state;
    const tacit_topology_t *topology = leg->comm->topology;
    const int               rail = topology->rail_of[frame->rank], host = topology->host_of[leg->comm->rank];

    if (rail < 0 || topology->host_of[frame->rank] != host || frame->first >= (uint32_t)topology->hosts ||
        frame->first == (uint32_t)host) {
        return tacit__leg_unexpected(leg, frame);
    }
    return tacit__records_take(&gather->records, frame, rail * topology->hosts + (int)frame->first, frame->count != 0, -1);
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_gather_t *gather = leg->state;

    if (frame->round == leg->round + TACIT_LEVELS_INPUTS) {
        return tacit__levels_add(leg, gather->levels, frame);
    }
    if (frame->round == leg->round && frame->kind == TACIT_FRAME_SPARSE) {
        return take_records(leg, frame);
    }
    return frame->round == leg->round + TACIT_LEVELS_PASSED && frame->kind == TACIT_FRAME_RESULT
               ? take_passed(leg, frame)
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
