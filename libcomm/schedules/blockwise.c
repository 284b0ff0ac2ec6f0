/* SPDX-License-Identifier: Apache-2.0 */
/* Compressed reduce-scatter and all-gather: each rank owns a part of the concatenated tensors, receives everybody's encoded
   contribution to it, adds them up in rank order, encodes the sum again with its own feedback, and sends that to all. Parts are
   cut into chunks, each of which goes its way alone, so that encoding, wire and adding overlap.

   On two levels, hosts are what ranks are on one: the tensors are divided into as many rails as each host has leaders, a rail
   into as many parts as there are hosts, and the leaders of a rail do the above with the sums of their hosts' ranks
   (two_level.c), so that what goes from host to host does not grow with the ranks of a host. */
#include <string.h>

#include "blockwise.h"
#include "parts.h"

/* Chunks of a part that are on their way through its owner at once: a rank sends the owner so many and then one for each result.
   So an owner's memory does not grow with its part, and stays in a cache. */
enum { MOST_CELLS = 64 };

/* ---- Layout: the same on every rank ---- */

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return tacit__codec_is_blockwise(codec);
}

/* The most elements of an item that fit into a chunk with `room` bytes left; 0: none. */
static size_t fitting(const tacit_codec_t *codec, size_t count, size_t room, bool empty)
{
    size_t edge = tacit__codec_edge(codec);
    size_t blocks;

    if (tacit__part_bytes(codec, count) <= room || (empty && tacit__codec_is_uncut(codec))) {
        return count;
    }
    if (tacit__codec_is_uncut(codec)) {
        return 0;
    }
    blocks = room / tacit__part_bytes(codec, edge);
    if (blocks > TACIT_UNIT / edge) {
        blocks -= blocks % tacit__min(blocks, (TACIT_UNIT + edge - 1) / edge); /* whole units: no short one in every chunk */
    }
    return tacit__min(count, (blocks != 0 ? blocks : empty) * edge);
}

/* A range of an item joins the chunk that is filled, and further ones. Or only counts them. *room: bytes left in it. Returns the
   bytes of messages that this adds. */
static size_t cut(const tacit_leg_t *leg, tacit_blockwise_t *blockwise, tacit_item_t *item, size_t next, size_t end, int owner,
                  size_t at, size_t *room, bool count_only)
{
    const size_t began = at;

    while (next < end) {
        size_t         count = fitting(item->codec, end - next, *room, false);
        tacit_chunk_t *chunk;
        size_t         bytes;

        if (count == 0) {
            *room = leg->comm->config.chunk_bytes;
            count = fitting(item->codec, end - next, *room, true);
            if (!count_only) {
                blockwise->chunks[blockwise->chunk_count] =
                    (tacit_chunk_t){.segment_first = blockwise->segment_count, .at = at, .owner = owner};
            }
            at += TACIT_FRAME_HEADER_BYTES;
            blockwise->chunk_count++;
        }
        bytes = tacit__part_bytes(item->codec, count);
        if (!count_only) {
            chunk = &blockwise->chunks[blockwise->chunk_count - 1];
            blockwise->segments[blockwise->segment_count] = (tacit_segment_t){item, next, count, bytes};
            chunk->segment_count++;
            chunk->elements += count;
            chunk->payload_bytes += bytes;
        }
        blockwise->segment_count++;
        *room = bytes < *room ? *room - bytes : 0;
        at += bytes;
        next += count;
    }
    return at - began;
}

static tacit_range_t range_of(const tacit_blockwise_t *blockwise, const tacit_item_t *item, int rail)
{
    return tacit__rail_range(item->codec, rail, blockwise->topology->rails);
}

/* Walks the parts in order and cuts them into chunks and segments, or only counts these. Returns the bytes of all messages. */
static size_t lay_out(const tacit_leg_t *leg, tacit_blockwise_t *blockwise, bool count_only)
{
    const int hosts = blockwise->hosts;
    size_t    at = 0;

    blockwise->segment_count = blockwise->chunk_count = 0;
    for (int owner = 0; owner < blockwise->owners; owner++) {
        const int rail = owner / hosts;
        uint64_t  before = 0, total = 0;
        size_t    room = 0;

        for (size_t i = 0; i < leg->item_count; i++) {
            const tacit_range_t range = range_of(blockwise, leg->items[i], rail);

            total += tacit__part_bytes(leg->items[i]->codec, range.end - range.begin);
        }
        blockwise->part[owner] = blockwise->chunk_count;
        for (size_t i = 0; i < leg->item_count; i++) {
            tacit_item_t       *item = leg->items[i];
            const tacit_range_t range = range_of(blockwise, item, rail);
            const size_t        begin = tacit__part_begin(item->codec, &range, before, total, owner % hosts, hosts);
            const size_t        end = tacit__part_begin(item->codec, &range, before, total, owner % hosts + 1, hosts);

            before += tacit__part_bytes(item->codec, range.end - range.begin);
            at += cut(leg, blockwise, item, begin, end, owner, at, &room, count_only);
        }
    }
    blockwise->part[blockwise->owners] = blockwise->chunk_count;
    return at;
}

/* The elements of an item that this rank owns. */
static void own_range(const tacit_blockwise_t *blockwise, const tacit_item_t *item, size_t *first_out, size_t *count_out)
{
    const tacit_chunk_t *chunks = blockwise->chunks;

    *first_out = *count_out = 0;
    for (size_t c = blockwise->own_begin; c < blockwise->own_end; c++) {
        for (size_t s = chunks[c].segment_first; s < chunks[c].segment_first + chunks[c].segment_count; s++) {
            if (blockwise->segments[s].item == item) {
                *first_out = *count_out == 0 ? blockwise->segments[s].first : *first_out;
                *count_out += blockwise->segments[s].count;
            }
        }
    }
}

/* ---- Prepare ---- */

static tacit_status_t no_memory(const tacit_leg_t *leg)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for the schedule of %zu slots", leg->comm->rank,
                       leg->operation->what, leg->item_count);
}

/* Whether results may be written before all ranks have succeeded: `out` is then unspecified, but `in` unchanged. */
static bool may_stream(const tacit_item_t *item)
{
    const uintptr_t in = (uintptr_t)item->in, out = (uintptr_t)item->out;
    const size_t    bytes = item->codec->tensor.count * tacit__codec_element_bytes(item->codec);

    return (out + bytes <= in || in + bytes <= out) && (item->codec->feedback == NULL || item->codec->feedback->combine == NULL);
}

static tacit_status_t reserve_items(const tacit_leg_t *leg, tacit_blockwise_t *blockwise, size_t *unit_out)
{
    tacit_status_t status = TACIT_OK;

    for (size_t s = 0; s < blockwise->segment_count; s++) {
        tacit_codec_t *codec = blockwise->segments[s].item->codec;

        if (tacit__codec_is_uncut(codec)) {
            TRY(tacit__codec_reserve(codec, blockwise->segments[s].count));
            *unit_out = *unit_out > blockwise->segments[s].count ? *unit_out : blockwise->segments[s].count;
        }
        *unit_out = *unit_out > codec->unit ? *unit_out : codec->unit;
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        size_t first, count;

        leg->items[i]->streams = may_stream(leg->items[i]);
        blockwise->keeps_results = blockwise->keeps_results || !leg->items[i]->streams;
        own_range(blockwise, leg->items[i], &first, &count);
        TRY(tacit__codec_own_part(leg->items[i]->codec, leg->items[i]->step, first, count, leg->items[i]->op == TACIT_AVERAGE));
    }
out:
    return status;
}

/* Lays out an owner's box. Where chunks are few, or one is most of it, it has room for all. Returns its bytes. */
static size_t lay_out_box(tacit_blockwise_t *blockwise, int owner)
{
    tacit_chunk_t *chunks = blockwise->chunks + blockwise->part[owner];
    const size_t   count = blockwise->part[owner + 1] - blockwise->part[owner];
    size_t         most = 0, all = 0;

    for (size_t c = 0; c < count; c++) {
        const size_t bytes = TACIT_FRAME_HEADER_BYTES + chunks[c].payload_bytes;

        chunks[c].cell = all;
        all += bytes;
        most = bytes > most ? bytes : most;
    }
    blockwise->came[owner] = 0;
    blockwise->cells[owner] = count;
    if (MOST_CELLS * most >= all) {
        return all;
    }
    blockwise->cells[owner] = MOST_CELLS;
    for (size_t c = 0; c < count; c++) {
        chunks[c].cell = c % MOST_CELLS * most;
    }
    return MOST_CELLS * most;
}

/* Who owns what, and who this rank is among the owners. */
static void find_owners(const tacit_leg_t *leg, tacit_blockwise_t *blockwise)
{
    const tacit_topology_t *topology = blockwise->topology;
    const int               rail = topology->rail_of[leg->comm->rank];

    blockwise->hosts = topology->hosts;
    blockwise->owners = topology->rails * topology->hosts;
    blockwise->own = rail < 0 ? -1 : rail * topology->hosts + topology->host_of[leg->comm->rank];
    for (size_t i = 0; i < leg->item_count; i++) {
        leg->items[i]->codec->senders = blockwise->hosts;
    }
}

/* What is left to do, before anything is done. */
static void count_work(tacit_blockwise_t *blockwise)
{
    const int    rail = blockwise->own < 0 ? 0 : blockwise->own / blockwise->hosts;
    const size_t encoded = blockwise->part[(rail + 1) * blockwise->hosts] - blockwise->part[rail * blockwise->hosts];

    blockwise->own_begin = blockwise->own < 0 ? 0 : blockwise->part[blockwise->own];
    blockwise->own_end = blockwise->own < 0 ? 0 : blockwise->part[blockwise->own + 1];
    blockwise->turn = 1;
    blockwise->to_reduce = blockwise->own_end - blockwise->own_begin;
    blockwise->to_encode = blockwise->own < 0 ? 0 : encoded - blockwise->to_reduce;
    blockwise->to_come = blockwise->chunk_count - blockwise->to_reduce;
}

tacit_status_t tacit__blockwise_prepare(tacit_leg_t *leg, const tacit_topology_t *topology)
{
    tacit_status_t     status;
    tacit_blockwise_t *blockwise = leg->state = tacit__leg_take(leg, 1, sizeof *blockwise);
    const size_t       owners = (size_t)(topology->rails * topology->hosts);
    size_t             bytes, unit = TACIT_UNIT;

    if (blockwise == NULL) {
        return no_memory(leg);
    }
    *blockwise = (tacit_blockwise_t){.topology = topology, .part = tacit__leg_take(leg, 3 * owners + 1, sizeof *blockwise->part)};
    if (blockwise->part == NULL) {
        return no_memory(leg);
    }
    blockwise->cells = blockwise->part + owners + 1;
    blockwise->came = blockwise->cells + owners;
    find_owners(leg, blockwise);
    lay_out(leg, blockwise, true);
    blockwise->segments = tacit__leg_take(leg, blockwise->segment_count, sizeof *blockwise->segments);
    blockwise->chunks = tacit__leg_take(leg, blockwise->chunk_count, sizeof *blockwise->chunks);
    if (blockwise->segments == NULL || blockwise->chunks == NULL) {
        blockwise->chunks = NULL; /* nothing has been laid out that undo() could look at */
        return no_memory(leg);
    }
    bytes = lay_out(leg, blockwise, false);
    for (int owner = 0; owner < blockwise->owners; owner++) {
        const size_t box_bytes = lay_out_box(blockwise, owner);

        blockwise->box_bytes = owner == blockwise->own ? box_bytes : blockwise->box_bytes;
        if (blockwise->part[owner + 1] - blockwise->part[owner] > TACIT_MOST_FRAMES) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: a part of more than %d chunks; raise chunk_bytes", leg->comm->rank,
                               TACIT_MOST_FRAMES);
        }
    }
    count_work(blockwise);
    if (tacit__topology_has_levels(topology)) {
        TRY(tacit__two_level_prepare(leg));
        blockwise->keeps_results = true; /* they are passed on from there */
    }
    TRY(reserve_items(leg, blockwise, &unit));
    blockwise->sent = tacit__leg_take(leg, bytes, 1);
    blockwise->results = tacit__leg_take(leg, blockwise->keeps_results ? bytes : blockwise->box_bytes, 1);
    blockwise->inbox = tacit__leg_take(leg, blockwise->box_bytes, (size_t)(blockwise->hosts - 1));
    blockwise->sum = tacit__leg_take(leg, unit, sizeof *blockwise->sum);
    blockwise->contributions = tacit__leg_take(leg, (size_t)blockwise->hosts, sizeof *blockwise->contributions);
    if (blockwise->sent == NULL || blockwise->results == NULL || blockwise->inbox == NULL || blockwise->sum == NULL ||
        blockwise->contributions == NULL) {
        status = no_memory(leg);
    }
out:
    return status;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    return tacit__blockwise_prepare(leg, leg->comm->flat);
}

void tacit__blockwise_release(tacit_leg_t *leg)
{
    const tacit_blockwise_t *blockwise = leg->state;

    tacit__levels_release(leg, blockwise != NULL ? blockwise->levels : NULL);
    for (size_t i = 0; blockwise != NULL && i < leg->item_count; i++) {
        leg->items[i]->codec->senders = leg->items[i]->codec->ranks;
    }
}

/* ---- Encoding for owners ---- */

static uint8_t *sent_payload(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk)
{
    return blockwise->sent + chunk->at + TACIT_FRAME_HEADER_BYTES;
}

uint8_t *tacit__blockwise_result(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk)
{
    return blockwise->results + (blockwise->keeps_results ? chunk->at : chunk->cell);
}

static size_t write_header(const tacit_leg_t *leg, tacit_frame_kind_t kind, const tacit_chunk_t *chunk, uint8_t *message)
{
    const tacit_blockwise_t *blockwise = leg->state;
    tacit_frame_t            frame = tacit__leg_frame(leg, kind);

    frame.index = (uint32_t)((size_t)(chunk - blockwise->chunks) - blockwise->part[chunk->owner]);
    frame.total = (uint32_t)(blockwise->part[chunk->owner + 1] - blockwise->part[chunk->owner]);
    frame.count = (uint32_t)chunk->elements;
    frame.payload_bytes = (uint32_t)chunk->payload_bytes;
    return tacit__frame_write(&frame, message);
}

/* Whether this rank encodes a segment: all for other owners; of its own part what is asked for by own=coded. */
static bool encodes(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk, const tacit_segment_t *segment)
{
    return chunk->owner != blockwise->own || tacit__codec_own_coded(segment->item->codec);
}

/* Takes the first `segments` segments of a chunk back from memory. */
static void undo_segments(const tacit_leg_t *leg, const tacit_chunk_t *chunk, size_t segments)
{
    const tacit_blockwise_t *blockwise = leg->state;
    uint8_t                 *payload = sent_payload(blockwise, chunk);

    for (size_t s = chunk->segment_first; s < chunk->segment_first + segments; s++) {
        const tacit_segment_t *segment = &blockwise->segments[s];
        const tacit_item_t    *item = segment->item;

        if (encodes(blockwise, chunk, segment)) {
            tacit__codec_undo(item->codec, item->step, item->input, segment->first, segment->count, payload);
        }
        payload += segment->payload_bytes;
    }
}

static tacit_status_t encode_chunk(const tacit_leg_t *leg, tacit_chunk_t *chunk)
{
    const tacit_blockwise_t *blockwise = leg->state;
    uint8_t                 *payload = sent_payload(blockwise, chunk);

    for (size_t s = 0; s < chunk->segment_count; s++) {
        const tacit_segment_t *segment = &blockwise->segments[chunk->segment_first + s];
        tacit_item_t          *item = segment->item;
        double                 began = tacit__seconds();
        uint32_t               faults = 0;

        if (encodes(blockwise, chunk, segment)) {
            faults = tacit__codec_encode(item->codec, item->step, item->input, segment->first, segment->count, payload);
            tacit__item_worked(item, TACIT_TRACE_ENCODE, began, segment->count, chunk->owner);
        }
        if (faults != 0) {
            undo_segments(leg, chunk, s);
            return tacit__item_fault(item);
        }
        payload += segment->payload_bytes;
    }
    chunk->encoded = true;
    return TACIT_OK;
}

static bool is_ready(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk)
{
    return blockwise->levels == NULL || tacit__levels_has(blockwise->levels, chunk->place);
}

/* The next chunk to encode: the rail's owners in turn, beginning behind this rank, so that no link waits and no owner gets all at
   once. NULL: its owner has no room for it yet, or this host's sum of it is not complete. */
static tacit_chunk_t *next_to_encode(tacit_blockwise_t *blockwise)
{
    const int host = blockwise->own % blockwise->hosts;

    for (;;) {
        int    owner = blockwise->own - host + (host + blockwise->turn) % blockwise->hosts;
        size_t c = blockwise->part[owner] + blockwise->round;

        if (blockwise->turn == blockwise->hosts) {
            blockwise->turn = 1;
            blockwise->round++;
            continue;
        }
        if (c < blockwise->part[owner + 1] && (blockwise->round >= blockwise->came[owner] + blockwise->cells[owner] ||
                                               !is_ready(blockwise, &blockwise->chunks[c]))) {
            return NULL;
        }
        blockwise->turn++;
        if (c < blockwise->part[owner + 1]) {
            return &blockwise->chunks[c];
        }
    }
}

static void count_sent(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk, uint64_t copies)
{
    for (size_t s = chunk->segment_first; s < chunk->segment_first + chunk->segment_count; s++) {
        blockwise->segments[s].item->sent_bytes += copies * blockwise->segments[s].payload_bytes;
    }
}

static tacit_status_t send_contribution(const tacit_leg_t *leg, tacit_blockwise_t *blockwise)
{
    tacit_chunk_t *chunk = next_to_encode(blockwise);
    uint8_t       *message;
    tacit_status_t status;

    if (chunk == NULL) {
        return TACIT_PENDING;
    }
    message = blockwise->sent + chunk->at;
    TRY(encode_chunk(leg, chunk));
    blockwise->to_encode--;
    count_sent(blockwise, chunk, 1);
    TRY(tacit__leg_send(leg, blockwise->topology->leaders[chunk->owner], message,
                        write_header(leg, TACIT_FRAME_CONTRIBUTION, chunk, message)));
out:
    return status;
}

/* ---- Reducing the own part ---- */

/* Where a host's payload for an own chunk lies. */
static uint8_t *contribution(const tacit_blockwise_t *blockwise, int host, const tacit_chunk_t *chunk)
{
    const size_t others = (size_t)(host < blockwise->own % blockwise->hosts ? host : host - 1);

    return blockwise->inbox + others * blockwise->box_bytes + chunk->cell;
}

static tacit_status_t reduce_chunk(tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk)
{
    const int own = blockwise->own % blockwise->hosts;
    uint8_t  *result = tacit__blockwise_result(blockwise, chunk) + TACIT_FRAME_HEADER_BYTES;
    size_t    at = 0;

    for (size_t s = chunk->segment_first; s < chunk->segment_first + chunk->segment_count; s++) {
        const tacit_segment_t *segment = &blockwise->segments[s];
        tacit_item_t          *item = segment->item;
        const double           began = tacit__seconds();

        for (int host = 0; host < blockwise->hosts; host++) {
            blockwise->contributions[host] = host != own ? contribution(blockwise, host, chunk) + at : NULL;
        }
        if (tacit__codec_own_coded(item->codec)) {
            blockwise->contributions[own] = sent_payload(blockwise, chunk) + at;
        }
        if (tacit__codec_reduce(item->codec, item->step, item->input, segment->first, segment->count, blockwise->contributions,
                                item->op, blockwise->sum, result + at) != 0) {
            return tacit__item_fault(item);
        }
        /* Adding and encoding again: too short to be told apart. */
        tacit__item_worked(item, TACIT_TRACE_ADD, began, segment->count, chunk->owner);
        at += segment->payload_bytes;
    }
    return TACIT_OK;
}

/* The next own chunk, if all contributions are here and its cell is free for the result, or NULL. */
static tacit_chunk_t *next_to_reduce(const tacit_leg_t *leg, const tacit_blockwise_t *blockwise)
{
    const size_t   next = blockwise->own_end - blockwise->to_reduce, cells = blockwise->cells[blockwise->own];
    tacit_chunk_t *chunk = &blockwise->chunks[next];

    if (chunk->contributions < blockwise->hosts - 1 || !is_ready(blockwise, chunk)) {
        return NULL;
    }
    if (blockwise->keeps_results || next - blockwise->own_begin < cells) {
        return chunk;
    }
    return leg->comm->exchange.sends_done < (chunk - cells)->sends ? NULL : chunk;
}

/* Writes the results of a chunk's items that stream, or of those that do not. */
static void finish_chunk(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk, const uint8_t *payload, bool streaming)
{
    for (size_t s = chunk->segment_first; s < chunk->segment_first + chunk->segment_count; s++) {
        const tacit_segment_t *segment = &blockwise->segments[s];
        tacit_item_t          *item = segment->item;
        double                 began = tacit__seconds();

        if (item->streams == streaming) {
            tacit__codec_finish(item->codec, item->step, payload, segment->first, segment->count, item->out);
            tacit__item_worked(item, TACIT_TRACE_DECODE, began, segment->count, chunk->owner);
        }
        payload += segment->payload_bytes;
    }
}

/* To the other owners of the rail, and on two levels to the other ranks of this host. */
static tacit_status_t send_result(const tacit_leg_t *leg, tacit_blockwise_t *blockwise, tacit_chunk_t *chunk)
{
    uint8_t       *message = tacit__blockwise_result(blockwise, chunk);
    const int      host = blockwise->own % blockwise->hosts, here = blockwise->levels != NULL ? blockwise->levels->here : 1;
    tacit_status_t status;
    size_t         bytes;

    TRY(encode_chunk(leg, chunk));
    TRY(reduce_chunk(blockwise, chunk));
    blockwise->to_reduce--;
    count_sent(blockwise, chunk, (uint64_t)(blockwise->hosts - 1 + here - 1));
    bytes = write_header(leg, TACIT_FRAME_RESULT, chunk, message);
    for (int step = 1; step < blockwise->hosts; step++) {
        const int owner = blockwise->own - host + (host + step) % blockwise->hosts;

        TRY(tacit__leg_send(leg, blockwise->topology->leaders[owner], message, bytes));
    }
    if (here > 1) {
        TRY(tacit__levels_tell(leg, blockwise->levels, message, bytes));
    }
    chunk->sends = leg->comm->exchange.send_count;
    finish_chunk(blockwise, chunk, message + TACIT_FRAME_HEADER_BYTES, true);
out:
    return status;
}

/* ---- The state machine ---- */

/* Results and contributions take turns: others wait for both. With results first, a rank that has begun a little earlier keeps
   the other one reducing, whose own contributions it then waits for itself, its link idle. */
tacit_status_t tacit__blockwise_advance(tacit_leg_t *leg)
{
    tacit_blockwise_t *blockwise = leg->state;
    tacit_chunk_t     *chunk = NULL;
    tacit_status_t     taken = blockwise->levels != NULL ? tacit__levels_take(leg, blockwise->levels) : TACIT_PENDING;
    tacit_status_t     status = TACIT_PENDING;

    if (taken != TACIT_OK && taken != TACIT_PENDING) {
        return taken;
    }
    blockwise->results_turn = !blockwise->results_turn || blockwise->to_encode == 0;
    if (blockwise->to_reduce != 0 && blockwise->results_turn) {
        chunk = next_to_reduce(leg, blockwise);
    }
    if (chunk != NULL) {
        return send_result(leg, blockwise, chunk);
    }
    if (blockwise->to_encode != 0) {
        status = send_contribution(leg, blockwise);
    }
    if (status == TACIT_PENDING && blockwise->levels != NULL) {
        status = tacit__levels_begin(leg, blockwise->levels);
    }
    return status == TACIT_PENDING ? taken : status;
}

bool tacit__blockwise_done(const tacit_leg_t *leg)
{
    const tacit_blockwise_t *blockwise = leg->state;

    return blockwise->to_encode == 0 && blockwise->to_reduce == 0 && blockwise->to_come == 0;
}

static tacit_status_t take_contribution(const tacit_leg_t *leg, tacit_blockwise_t *blockwise, const tacit_frame_t *frame)
{
    const int      host = blockwise->topology->host_of[frame->rank], rail = blockwise->topology->rail_of[frame->rank];
    const size_t   c = blockwise->own_begin + frame->index;
    tacit_chunk_t *chunk = &blockwise->chunks[c];

    if (c >= blockwise->own_end || rail != blockwise->own / blockwise->hosts || host == blockwise->own % blockwise->hosts ||
        frame->count != chunk->elements || frame->payload_bytes != chunk->payload_bytes ||
        blockwise->own_end - c + blockwise->cells[blockwise->own] <= blockwise->to_reduce) { /* its cell is taken */
        return tacit__leg_unexpected(leg, frame);
    }
    memcpy(contribution(blockwise, host, chunk), frame->payload, frame->payload_bytes);
    chunk->contributions++;
    return TACIT_OK;
}

/* Of an owner itself, or, on two levels, from the rank of this host that leads the owner's rail. NULL: of neither. */
static tacit_chunk_t *chunk_of_result(const tacit_leg_t *leg, const tacit_blockwise_t *blockwise, const tacit_frame_t *frame)
{
    const tacit_topology_t *topology = blockwise->topology;
    const int               host = topology->host_of[frame->rank], rail = topology->rail_of[frame->rank];
    const bool              near = host == topology->host_of[leg->comm->rank], from_owner = frame->round == leg->round;
    const size_t            owner = (size_t)(rail * topology->hosts + host);
    const size_t            c = from_owner ? blockwise->part[rail < 0 ? 0 : owner] + frame->index : frame->first;

    if (rail < 0 || c >= blockwise->chunk_count || blockwise->chunks[c].came ||
        (!near && rail != topology->rail_of[leg->comm->rank])) {
        return NULL;
    }
    if (from_owner ? blockwise->chunks[c].owner != (int)owner
                   : !near || blockwise->chunks[c].owner / topology->hosts != rail || blockwise->chunks[c].owner == (int)owner) {
        return NULL;
    }
    return &blockwise->chunks[c];
}

static tacit_status_t take_result(tacit_leg_t *leg, tacit_blockwise_t *blockwise, const tacit_frame_t *frame)
{
    tacit_chunk_t *chunk = chunk_of_result(leg, blockwise, frame);

    if (chunk == NULL || frame->count != chunk->elements || frame->payload_bytes != chunk->payload_bytes) {
        return tacit__leg_unexpected(leg, frame);
    }
    if (blockwise->keeps_results) {
        memcpy(tacit__blockwise_result(blockwise, chunk) + TACIT_FRAME_HEADER_BYTES, frame->payload, frame->payload_bytes);
    }
    chunk->came = true;
    blockwise->came[chunk->owner]++;
    blockwise->to_come--;
    if (blockwise->levels != NULL && chunk->owner / blockwise->hosts == blockwise->own / blockwise->hosts &&
        blockwise->own >= 0) {
        tacit_status_t status = tacit__two_level_pass_on(leg, chunk);

        if (status != TACIT_OK) {
            return status;
        }
    }
    finish_chunk(blockwise, chunk, frame->payload, true);
    return TACIT_OK;
}

tacit_status_t tacit__blockwise_arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_blockwise_t *blockwise = leg->state;

    if (blockwise->levels != NULL && frame->round == leg->round + TACIT_LEVELS_INPUTS) {
        return tacit__levels_add(leg, blockwise->levels, frame);
    }
    if (frame->kind == TACIT_FRAME_RESULT) {
        return take_result(leg, blockwise, frame);
    }
    return frame->kind == TACIT_FRAME_CONTRIBUTION && frame->round == leg->round ? take_contribution(leg, blockwise, frame)
                                                                                 : tacit__leg_unexpected(leg, frame);
}

/* Memory of the own part first: `out` may be `in`. */
void tacit__blockwise_commit(tacit_leg_t *leg)
{
    tacit_blockwise_t *blockwise = leg->state;

    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_conclude(leg->items[i]->codec, leg->items[i]->op);
    }
    for (size_t c = blockwise->own_begin; c < blockwise->own_end; c++) {
        const tacit_chunk_t *chunk = &blockwise->chunks[c];

        for (size_t s = chunk->segment_first; s < chunk->segment_first + chunk->segment_count; s++) {
            const tacit_segment_t *segment = &blockwise->segments[s];

            if (!tacit__codec_own_coded(segment->item->codec)) {
                tacit__codec_own_keep(segment->item->codec, segment->item->step, segment->item->input, segment->first,
                                      segment->count);
            }
        }
    }
    for (size_t c = 0; blockwise->keeps_results && c < blockwise->chunk_count; c++) {
        const tacit_chunk_t *chunk = &blockwise->chunks[c];

        finish_chunk(blockwise, chunk, tacit__blockwise_result(blockwise, chunk) + TACIT_FRAME_HEADER_BYTES, false);
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_commit(leg->items[i]->codec, leg->items[i]->step);
    }
}

void tacit__blockwise_undo(tacit_leg_t *leg)
{
    const tacit_blockwise_t *blockwise = leg->state;

    for (size_t c = 0; blockwise->chunks != NULL && c < blockwise->chunk_count; c++) {
        if (blockwise->chunks[c].encoded) {
            undo_segments(leg, &blockwise->chunks[c], blockwise->chunks[c].segment_count);
        }
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_disown(leg->items[i]->codec);
    }
}

const tacit_schedule_t tacit__schedule_blockwise = {
    .name = "blockwise",
    .summary = "compressed reduce-scatter and all-gather, chunked: encode, wire and decode overlap",
    .framed = true,
    .round = 0,
    .rounds = 1,
    .carries = carries,
    .prepare = prepare,
    .advance = tacit__blockwise_advance,
    .done = tacit__blockwise_done,
    .arrived = tacit__blockwise_arrived,
    .commit = tacit__blockwise_commit,
    .undo = tacit__blockwise_undo,
    .release = tacit__blockwise_release,
};
