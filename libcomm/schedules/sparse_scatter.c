/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse reduce-scatter and all-gather, whose volume does not grow with the number of ranks, as in Li and Hoefler, "Near-Optimal
   Sparse Allreduce for Distributed Deep Learning" (PPoPP 2022): tensors are dealt out to owners (deal.h), each of which receives
   what all ranks have chosen of its part, adds it up in rank order, and sends to all what it chooses of that. What it leaves out
   joins its next sum; where feedback keeps nothing for owners (dgc, none), all of the sum goes out.

   On two levels, hosts are what ranks are on one: what a rail has of a tensor is dealt out to its leaders, one on each host, who
   do the above with the sums of their hosts' ranks (two_level_scatter.c). */
#include <math.h>
#include <string.h>

#include "sparse_scatter.h"
#include "parts.h"

/* Whether an owner chooses from its sum, since it remembers the rest. */
static bool chooses(const tacit_codec_t *codec)
{
    return codec->feedback != NULL && codec->feedback->owner != NULL;
}

/* A sum of which nothing is remembered goes out as it is. */
bool tacit__scatter_carries(const tacit_codec_t *codec)
{
    const tacit_select_t *select = codec->compressor->select;

    return select != NULL && (chooses(codec) || select->exact(codec->spec.compressor_config));
}

/* By what a leader has to receive from other hosts at most, in bytes: of the plain all-gather all other leaders' entries, here
   theirs for its part and every other part's result. For its time on the way a message counts as so many bytes as a wire of 1
   Gbit/s carries in 33 us, and what an owner reads to choose again as a 32nd: choosing is as much faster than such a wire. What
   is passed on inside a host does not count: where this pays, that is less too, as many times as there are hosts. */
bool tacit__scatter_pays(const tacit_codec_t *codec, const tacit_topology_t *topology)
{
    const tacit_select_t *select = codec->compressor->select;
    const void           *config = codec->spec.compressor_config;
    const size_t          message = 4096, memory = 32;
    const size_t          hosts = (size_t)topology->hosts, rails = (size_t)topology->rails;
    const size_t          count = (codec->tensor.count + rails - 1) / rails, part = (count + hosts - 1) / hosts;
    const size_t          share = select->limit(config, part), out = chooses(codec) ? share : tacit__min(part, hosts * share);
    const size_t          gathered = select->bound(config, count, select->limit(config, count));
    const size_t          scattered = select->bound(config, part, share);
    const size_t          result = tacit__min(select->bound(config, part, out), part * sizeof(float));
    const size_t          read = chooses(codec) ? part * sizeof(float) / memory : 0;

    return (hosts - 1) * (2 * message + scattered + result) + read < (hosts - 1) * (message + gathered);
}

/* ---- Prepare and release ---- */

static tacit_status_t prepare_item(tacit_leg_t *leg, size_t i)
{
    tacit_scatter_t *scatter = leg->state;
    tacit_item_t    *item = leg->items[i];
    tacit_dealt_t   *dealt = &scatter->dealt[i];
    const size_t     count = item->codec->range.end - item->codec->range.begin;
    const size_t     limit = item->codec->compressor->select->limit(item->codec->spec.compressor_config, count);
    tacit_status_t   status;

    TRY(tacit__codec_own_part(item->codec, item->step, 0, tacit__codec_part(item->codec), item->op == TACIT_AVERAGE));
    TRY(tacit__codec_expand(item->codec));
    if (chooses(item->codec) &&
        !tacit__selection_reserve(&item->codec->owner_selection, &item->codec->spec, item->codec->owner.count)) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: slot '%s': no memory to choose among %zu elements", leg->comm->rank,
                             item->codec->name, item->codec->owner.count);
        goto out;
    }
    TRY(tacit__entries_keep(&scatter->contributions, limit, &dealt->entries));
    TRY(tacit__records_keep(&scatter->contributions, limit * sizeof *dealt->from, &dealt->from));
    TRY(tacit__records_keep(&scatter->contributions, ((size_t)item->codec->owners + 1) * sizeof *dealt->begin, &dealt->begin));
out:
    return status;
}

static tacit_status_t begin_contribution(tacit_leg_t *leg, size_t i, tacit_source_t *source);

/* The owner whose turn it is. */
static int present_owner(const tacit_scatter_t *scatter)
{
    return (scatter->host + scatter->turn) % scatter->topology->hosts;
}

static void turn_to(const tacit_leg_t *leg, int turn)
{
    tacit_scatter_t        *scatter = leg->state;
    const tacit_topology_t *topology = scatter->topology;
    const int               rail = topology->rail_of[leg->comm->rank];

    scatter->turn = turn;
    scatter->outlet = (tacit_outlet_t){.kind = TACIT_FRAME_CONTRIBUTION,
                                       .to = topology->leaders[rail * topology->hosts + present_owner(scatter)],
                                       .limit = leg->item_count,
                                       .begin = begin_contribution};
}

tacit_status_t tacit__scatter_prepare(tacit_leg_t *leg, const tacit_topology_t *topology)
{
    tacit_status_t   status;
    tacit_buffer_t   memory;
    tacit_scatter_t *scatter;
    tacit_records_t *keeper;
    size_t           part = 0;

    TRY(tacit__buffer_take(&leg->comm->exchange, sizeof *scatter, &memory));
    scatter = leg->state = memset(memory.data, 0, sizeof *scatter);
    scatter->memory = memory;
    scatter->topology = topology;
    scatter->host = topology->host_of[leg->comm->rank];
    scatter->results.scaled = true;
    keeper = &scatter->contributions;
    TRY(tacit__records_init(keeper, leg, topology, 1));
    TRY(tacit__records_init(&scatter->results, leg, topology, topology->rails));
    TRY(tacit__records_keep(keeper, leg->item_count * sizeof *scatter->dealt, &scatter->dealt));
    TRY(tacit__records_keep(keeper, leg->item_count * sizeof *scatter->owned, &scatter->owned));
    memset(scatter->owned, 0, leg->item_count * sizeof *scatter->owned);
    TRY(tacit__records_keep(keeper, leg->item_count * sizeof *scatter->chosen, &scatter->chosen));
    memset(scatter->chosen, 0, leg->item_count * sizeof *scatter->chosen);
    for (size_t i = 0; i < leg->item_count; i++) {
        const size_t count = tacit__codec_part(leg->items[i]->codec);

        TRY(prepare_item(leg, i));
        part = part > count ? part : count;
    }
    TRY(tacit__records_keep(keeper, part * sizeof *scatter->part, &scatter->part));
    TRY(tacit__records_keep(keeper, (part + 63) / 64 * sizeof *scatter->marks, &scatter->marks));
    if (tacit__topology_has_levels(topology)) {
        TRY(tacit__levels_lay_out(leg, topology, &scatter->levels));
    }
    if (scatter->results.own >= 0) {
        scatter->to_deal = leg->item_count;
        turn_to(leg, 1);
    } else {
        scatter->turn = topology->hosts + 1;
        scatter->outlet.all_sent = true;
    }
out:
    return status;
}

void tacit__scatter_release(tacit_leg_t *leg)
{
    tacit_scatter_t *scatter = leg->state;
    tacit_buffer_t   memory;

    if (scatter == NULL) {
        return;
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_collapse(leg->items[i]->codec);
    }
    tacit__levels_release(leg, scatter->levels);
    tacit__records_release(&scatter->contributions);
    tacit__records_release(&scatter->results);
    memory = scatter->memory;
    tacit__buffer_give(&leg->comm->exchange, &memory);
    leg->state = NULL;
}

/* ---- Contributions ---- */

/* Sorts what is chosen of an item by owner. */
static tacit_status_t deal_out(tacit_leg_t *leg, size_t i)
{
    tacit_scatter_t       *scatter = leg->state;
    tacit_dealt_t         *dealt = &scatter->dealt[i];
    const tacit_entries_t *chosen = &scatter->chosen[i].entries;
    const tacit_deal_t     deal = tacit__codec_deal(leg->items[i]->codec);
    double                 began;
    uint32_t               place;
    tacit_status_t         status;

    TRY(tacit__chosen_make(leg->items[i], &scatter->chosen[i]));
    began = tacit__seconds();
    memset(dealt->begin, 0, (deal.ranks + 1) * sizeof *dealt->begin);
    for (size_t entry = 0; entry < chosen->count; entry++) {
        dealt->begin[tacit__deal_owner(&deal, chosen->indices[entry], &place) + 1]++;
    }
    for (uint32_t owner = 0; owner < deal.ranks; owner++) {
        dealt->begin[owner + 1] += dealt->begin[owner];
    }
    for (size_t entry = 0; entry < chosen->count; entry++) {
        const size_t at = dealt->begin[tacit__deal_owner(&deal, chosen->indices[entry], &place)]++;

        dealt->entries.indices[at] = place;
        dealt->entries.values[at] = chosen->values[entry];
        dealt->from[at] = (uint32_t)entry;
    }
    memmove(dealt->begin + 1, dealt->begin, deal.ranks * sizeof *dealt->begin); /* each is where the next one begins */
    dealt->begin[0] = 0;
    scatter->to_deal--;
    tacit__item_worked(leg->items[i], TACIT_TRACE_ENCODE, began, chosen->count, -1);
out:
    return status;
}

static bool is_ready(const tacit_scatter_t *scatter, size_t i)
{
    return scatter->levels == NULL || tacit__levels_has(scatter->levels, scatter->levels->place[i]);
}

/* The present owner's share of an item. */
static tacit_status_t begin_contribution(tacit_leg_t *leg, size_t i, tacit_source_t *source)
{
    tacit_scatter_t     *scatter = leg->state;
    const tacit_dealt_t *dealt = &scatter->dealt[i];
    const tacit_deal_t   deal = tacit__codec_deal(leg->items[i]->codec);
    const int            owner = present_owner(scatter);
    const size_t         begin = dealt->begin[owner], end = dealt->begin[owner + 1];

    scatter->share = (tacit_entries_t){dealt->entries.indices + begin, dealt->entries.values + begin, NULL, end - begin};
    source->count = tacit__deal_part(&deal, (uint32_t)owner);
    source->entries = &scatter->share;
    return TACIT_OK;
}

/* All contributions are written: memory learns what was sent, and the own one joins the others'. */
static tacit_status_t finish_contributions(tacit_leg_t *leg)
{
    tacit_scatter_t *scatter = leg->state;
    const int        own = scatter->host;
    tacit_status_t   status = TACIT_OK;

    for (size_t i = 0; i < leg->item_count; i++) {
        const tacit_dealt_t *dealt = &scatter->dealt[i];
        tacit_chosen_t      *chosen = &scatter->chosen[i];
        const double         began = tacit__seconds();

        for (size_t at = 0; at < chosen->entries.count; at++) {
            chosen->entries.values[dealt->from[at]] = dealt->entries.values[at];
        }
        tacit__chosen_sent(leg->items[i], chosen);
        tacit__item_worked(leg->items[i], TACIT_TRACE_ENCODE, began, chosen->entries.count, -1);
        TRY(tacit__records_add(&scatter->contributions, i, own, dealt->entries.indices + dealt->begin[own],
                               dealt->entries.values + dealt->begin[own], dealt->begin[own + 1] - dealt->begin[own]));
    }
out:
    return status;
}

/* ---- Results ---- */

/* Adds up what all have chosen of an item's own part: met := where that is and what. Leaves all of it in scatter->part,
   where the rest is zero if `whole`. */
static tacit_status_t meet(tacit_leg_t *leg, size_t i, bool whole)
{
    tacit_scatter_t    *scatter = leg->state;
    tacit_entries_t    *met = &scatter->owned[i].met;
    const tacit_item_t *item = leg->items[i];
    const int           ranks = leg->comm->ranks;
    const size_t        part = tacit__codec_part(item->codec), words = (part + 63) / 64;
    const float         scale = item->op == TACIT_AVERAGE && ranks > 1 ? 1.0f / (float)ranks : 1.0f;
    const tacit_run_t  *run;
    float              *sums = scatter->part;
    size_t              most = 0;
    tacit_status_t      status;

    if (part != 0) {
        memset(scatter->marks, 0, words * sizeof *scatter->marks);
        memset(sums, 0, (whole ? part : 0) * sizeof *sums);
    }
    for (int host = 0; host < scatter->topology->hosts; host++) {
        for (uint32_t r = tacit__records_origin(&scatter->contributions, i, host)->run; r != 0; r = run->next) {
            run = tacit__records_run(&scatter->contributions, r);
            most += run->count;
            for (size_t entry = 0; entry < run->count; entry++) {
                const uint32_t place = run->indices[entry];
                const uint64_t mark = UINT64_C(1) << place % 64;

                sums[place] = ((scatter->marks[place / 64] & mark) != 0 ? sums[place] : 0.0f) + run->values[entry];
                scatter->marks[place / 64] |= mark;
            }
        }
    }
    TRY(tacit__entries_keep(&scatter->contributions, tacit__min(most, part), met));
    for (size_t word = 0; word < words; word++) {
        for (uint64_t left = scatter->marks[word]; left != 0; left &= left - 1) {
            const size_t place = 64 * word + (size_t)__builtin_ctzll(left);

            sums[place] *= scale;
            met->indices[met->count] = (uint32_t)place;
            met->values[met->count++] = sums[place];
        }
    }
out:
    return status;
}

static tacit_status_t out_of_range(const tacit_leg_t *leg, size_t i, uint32_t place)
{
    const tacit_item_t *item = leg->items[i];
    const tacit_deal_t  deal = tacit__codec_deal(item->codec);

    return tacit__sum_fault(leg, item, tacit__deal_element(&deal, item->codec->own, place));
}

/* What has met joins the owner's memory, of which the largest elements go out. */
static tacit_status_t choose_again(tacit_leg_t *leg, size_t i)
{
    tacit_owned_t *owned = &((tacit_scatter_t *)leg->state)->owned[i];
    tacit_codec_t *codec = leg->items[i]->codec;
    tacit_block_t  block = tacit__codec_block(codec, leg->items[i]->step, 0, codec->owner.count);
    const size_t   met = owned->met.count;

    owned->met.count = tacit__codec_join(codec, &owned->met);
    owned->joined = true;
    if (owned->met.count < met) {
        return out_of_range(leg, i, owned->met.indices[owned->met.count]);
    }
    block.key.rank += (uint64_t)codec->ranks; /* not the random numbers of this rank's contribution */
    owned->picked = tacit__choose(codec->compressor->select, &block, tacit__codec_joined(codec), codec->owner_selection);
    return TACIT_OK;
}

/* All of the sum goes out. */
static tacit_status_t choose_all(tacit_leg_t *leg, size_t i)
{
    tacit_owned_t       *owned = &((tacit_scatter_t *)leg->state)->owned[i];
    const tacit_codec_t *codec = leg->items[i]->codec;

    owned->picked = owned->met;
    owned->picked.count = 0;
    for (size_t entry = 0; entry < owned->met.count; entry++) {
        if (codec->nonfinite != TACIT_NONFINITE_PASS && !isfinite(owned->met.values[entry])) {
            return out_of_range(leg, i, owned->met.indices[entry]);
        }
        owned->picked.indices[owned->picked.count] = owned->met.indices[entry];
        owned->picked.values[owned->picked.count] = owned->met.values[entry];
        owned->picked.count += owned->met.values[entry] != 0.0f;
    }
    return TACIT_OK;
}

/* Reduces an item's own part. */
static tacit_status_t begin_result(tacit_leg_t *leg, size_t i, tacit_source_t *source)
{
    tacit_scatter_t *scatter = leg->state;
    tacit_owned_t   *owned = &scatter->owned[i];
    tacit_codec_t   *codec = leg->items[i]->codec;
    const bool       again = chooses(codec);
    double           began = tacit__seconds();
    size_t           most;
    tacit_status_t   status;

    source->count = tacit__codec_part(codec);
    TRY(meet(leg, i, !again));
    tacit__item_worked(leg->items[i], TACIT_TRACE_ADD, began, source->count, leg->comm->rank);
    began = tacit__seconds();
    TRY((again ? choose_again : choose_all)(leg, i));
    source->a = again ? tacit__codec_joined(codec) : scatter->part;
    source->entries = &owned->picked;
    most = tacit__min(4 * owned->picked.count, source->count); /* where pairs are longer, no more elements are dense */
    TRY(tacit__entries_keep(&scatter->contributions, most, &owned->out));
    TRY(tacit__records_keep(&scatter->contributions, most * sizeof *owned->elements, &owned->elements));
    tacit__item_worked(leg->items[i], TACIT_TRACE_ENCODE, began, source->count, leg->comm->rank);
out:
    return status;
}

/* Notes what a record says. */
static void wrote_result(tacit_leg_t *leg, const tacit_source_t *source, size_t entry, const tacit_record_t *record)
{
    tacit_owned_t     *owned = &((tacit_scatter_t *)leg->state)->owned[source->number];
    const tacit_deal_t deal = tacit__codec_deal(source->item->codec);
    const bool         dense = (record->item & TACIT_RECORD_DENSE) != 0;
    const size_t       count = dense ? record->count : source->entry - entry;

    for (size_t i = 0; i < count; i++) {
        const uint32_t place = dense ? record->first + (uint32_t)i : owned->picked.indices[entry + i];

        owned->out.indices[owned->out.count] = place;
        owned->out.values[owned->out.count] = dense ? source->a[place] : owned->picked.values[entry + i];
        owned->elements[owned->out.count++] = tacit__deal_element(&deal, source->item->codec->own, place);
    }
}

static tacit_status_t finish_result(tacit_leg_t *leg, size_t i)
{
    tacit_scatter_t *scatter = leg->state;
    tacit_owned_t   *owned = &scatter->owned[i];

    if (chooses(leg->items[i]->codec)) {
        tacit__codec_owner_sent(leg->items[i]->codec, &owned->met, &owned->out);
        owned->sent = true;
    }
    return tacit__records_add(&scatter->results, i, scatter->results.own, owned->elements, owned->out.values, owned->out.count);
}

/* ---- The state machine ---- */

tacit_status_t tacit__scatter_advance(tacit_leg_t *leg)
{
    tacit_scatter_t *scatter = leg->state;
    const int        hosts = scatter->topology->hosts;
    const size_t     next = leg->item_count - scatter->to_deal;
    tacit_status_t   status = TACIT_OK;

    if (scatter->to_deal != 0) {
        status = is_ready(scatter, next) ? deal_out(leg, next) : TACIT_PENDING;
    } else if (scatter->turn <= hosts) {
        TRY(tacit__outlet_send(&scatter->contributions, &scatter->outlet, leg));
        if (scatter->outlet.all_sent) {
            turn_to(leg, scatter->turn + 1);
        }
        if (scatter->turn > hosts) {
            scatter->outlet = (tacit_outlet_t){.kind = TACIT_FRAME_RESULT,
                                               .to = -1,
                                               .some = scatter->levels != NULL ? scatter->levels->others : NULL,
                                               .count = scatter->levels != NULL ? scatter->levels->others_count : 0,
                                               .limit = leg->item_count,
                                               .begin = begin_result,
                                               .wrote = wrote_result,
                                               .finish = finish_result};
            TRY(finish_contributions(leg));
        }
    } else if (scatter->contributions.open == 0 && !scatter->outlet.all_sent) {
        TRY(tacit__outlet_send(&scatter->results, &scatter->outlet, leg));
    } else if (scatter->outlet.all_sent && scatter->results.open == 0) {
        TRY(tacit__records_check(&scatter->results));
        scatter->checked = true;
    } else {
        status = TACIT_PENDING;
    }
out:
    return status;
}

bool tacit__scatter_done(const tacit_leg_t *leg)
{
    return ((const tacit_scatter_t *)leg->state)->checked;
}

static tacit_status_t take_contribution(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_scatter_t        *scatter = leg->state;
    const tacit_topology_t *topology = scatter->topology;
    const int               host = topology->host_of[frame->rank], rail = topology->rail_of[frame->rank];

    return scatter->results.own >= 0 && rail == topology->rail_of[leg->comm->rank]
               ? tacit__records_take(&scatter->contributions, frame, host, frame->total != 0, scatter->results.own)
               : tacit__leg_unexpected(leg, frame);
}

static tacit_status_t take_result(tacit_leg_t *leg, const tacit_frame_t *frame, bool passed)
{
    tacit_scatter_t        *scatter = leg->state;
    const tacit_topology_t *topology = scatter->topology;
    const int               owner = tacit__records_origin_of(&scatter->results, frame, passed);
    size_t                  known = scatter->results.run_count;
    tacit_status_t          status;

    if (owner < 0) {
        return tacit__leg_unexpected(leg, frame);
    }
    TRY(tacit__records_take(&scatter->results, frame, owner, passed ? frame->count != 0 : frame->total != 0, owner));
    while (known < scatter->results.run_count) {
        const tacit_run_t *run = tacit__records_run(&scatter->results, (uint32_t)++known);
        const tacit_deal_t deal =
            tacit__rail_deal(leg->items[run->item]->codec, owner / topology->hosts, topology->rails, topology->hosts);

        for (size_t entry = 0; entry < run->count; entry++) {
            run->indices[entry] = tacit__deal_element(&deal, (uint32_t)(owner % topology->hosts), run->indices[entry]);
        }
    }
out:
    return status;
}

tacit_status_t tacit__scatter_arrived(tacit_leg_t *leg, const tacit_frame_t *frame, bool passed)
{
    return frame->kind == TACIT_FRAME_RESULT                    ? take_result(leg, frame, passed)
           : frame->kind == TACIT_FRAME_CONTRIBUTION && !passed ? take_contribution(leg, frame)
                                                                : tacit__leg_unexpected(leg, frame);
}

void tacit__scatter_commit(tacit_leg_t *leg)
{
    tacit__records_commit(&((tacit_scatter_t *)leg->state)->results);
}

void tacit__scatter_undo(tacit_leg_t *leg)
{
    const tacit_scatter_t *scatter = leg->state;

    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_codec_t *codec = leg->items[i]->codec;

        if (scatter->owned != NULL && scatter->owned[i].sent) {
            tacit__codec_unjoin(codec, &scatter->owned[i].out);
        }
        if (scatter->owned != NULL && scatter->owned[i].joined) {
            tacit__codec_unjoin(codec, &scatter->owned[i].met);
        }
        if (scatter->chosen != NULL) {
            tacit__chosen_undo(leg->items[i], &scatter->chosen[i]);
        }
        tacit__codec_disown(codec);
    }
}

/* ---- The schedule ---- */

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return tacit__scatter_carries(codec);
}

static bool pays(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return tacit__scatter_pays(codec, comm->flat);
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    return tacit__scatter_prepare(leg, leg->comm->flat);
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    return tacit__scatter_arrived(leg, frame, false);
}

const tacit_schedule_t tacit__schedule_sparse_scatter = {
    .name = "sparse-scatter",
    .summary = "reduce-scatter and all-gather of index/value pairs: owners add up dealt parts and choose again",
    .framed = true,
    .round = 5,
    .rounds = 1,
    .carries = carries,
    .pays = pays,
    .prepare = prepare,
    .advance = tacit__scatter_advance,
    .done = tacit__scatter_done,
    .arrived = arrived,
    .commit = tacit__scatter_commit,
    .undo = tacit__scatter_undo,
    .release = tacit__scatter_release,
};
