/* SPDX-License-Identifier: Apache-2.0 */
/* Blockwise between hosts, of the exact sums of each host's ranks. Here is what the ranks of a host do among themselves: sum up
   what they have of each rail, ending at its leader, and hear from that of results that other hosts have sent it. A piece of a
   rail goes around the host, from the rank behind the leader to the leader, and each rank adds its own: so all memory that it
   takes is that of messages under way. */
#include <string.h>

#include "blockwise.h"
#include "codec_unit.h"
#include "isa.h"

enum { MOST_UNDER_WAY = 16 }; /* own pieces: enough for the next rank not to wait, few enough to stay in a cache */

static tacit_status_t no_memory(const tacit_leg_t *leg)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for the sums of %zu slots", leg->comm->rank,
                       leg->operation->what, leg->item_count);
}

/* ---- Pieces: the same on all ranks of a host ---- */

static size_t most_elements(const tacit_leg_t *leg)
{
    return TACIT_NEAR_CHUNKS * leg->comm->config.chunk_bytes / sizeof(float);
}

static const tacit_segment_t *segment_of(const tacit_blockwise_t *blockwise, const tacit_rail_t *rail)
{
    return &blockwise->segments[rail->order[rail->chunk]->segment_first + rail->segment];
}

static size_t piece_elements(const tacit_leg_t *leg, const tacit_rail_t *rail)
{
    return tacit__min(segment_of(leg->state, rail)->count - rail->offset, most_elements(leg));
}

/* Behind the next piece. */
static void go_on(const tacit_leg_t *leg, tacit_rail_t *rail)
{
    const tacit_segment_t *segment = segment_of(leg->state, rail);

    rail->offset += piece_elements(leg, rail);
    if (rail->offset == segment->count) {
        rail->offset = 0;
        rail->segment++;
    }
    if (rail->segment == rail->order[rail->chunk]->segment_count) {
        rail->segment = 0;
        rail->chunk++;
    }
}

static uint32_t count_pieces(const tacit_leg_t *leg, const tacit_rail_t *rail)
{
    const tacit_blockwise_t *blockwise = leg->state;
    size_t                   pieces = 0;

    for (size_t c = 0; c < rail->count; c++) {
        for (size_t s = 0; s < rail->order[c]->segment_count; s++) {
            const size_t count = blockwise->segments[rail->order[c]->segment_first + s].count;

            pieces += (count + most_elements(leg) - 1) / most_elements(leg);
        }
    }
    return (uint32_t)pieces;
}

/* ---- Prepare and release ---- */

/* The order in which a rail's leader on this host encodes: owners in turn, the own part's chunks last in each round. */
static size_t put_in_order(const tacit_blockwise_t *blockwise, int rail, int host, const tacit_chunk_t **order)
{
    size_t count = 0;
    bool   any = true;

    for (size_t round = 0; any; round++) {
        any = false;
        for (int turn = 1; turn <= blockwise->hosts; turn++) {
            const int    owner = rail * blockwise->hosts + (host + turn) % blockwise->hosts;
            const size_t c = blockwise->part[owner] + round;

            if (c < blockwise->part[owner + 1]) {
                blockwise->chunks[c].place = count; /* that of the own rail is what is looked at */
                order[count++] = &blockwise->chunks[c];
                any = true;
            }
        }
    }
    return count;
}

/* Memory for the sums of what this rank leads, which lies as the items do. */
static tacit_status_t place_sums(tacit_leg_t *leg, const tacit_rail_t *rail)
{
    const tacit_blockwise_t *blockwise = leg->state;
    const size_t             begin = blockwise->part[blockwise->own - blockwise->own % blockwise->hosts];
    size_t                   total = 0, at = 0;
    float                   *sums;

    for (size_t c = begin; c < begin + rail->count; c++) {
        total += blockwise->chunks[c].elements;
    }
    sums = tacit__leg_take(leg, total, sizeof *sums);
    if (sums == NULL) {
        return no_memory(leg);
    }
    for (size_t c = begin; c < begin + rail->count; c++) {
        const tacit_chunk_t *chunk = &blockwise->chunks[c];

        for (size_t s = chunk->segment_first; s < chunk->segment_first + chunk->segment_count; s++) {
            const tacit_segment_t *segment = &blockwise->segments[s];

            if (segment->item->input == segment->item->in) { /* its first segment: the others lie behind it */
                segment->item->input = (const float *)((uintptr_t)(sums + at) - segment->first * sizeof *sums);
                segment->item->codec->sums = true;
            }
            at += segment->count;
        }
    }
    return TACIT_OK;
}

tacit_status_t tacit__levels_prepare(tacit_leg_t *leg)
{
    tacit_blockwise_t      *blockwise = leg->state;
    const tacit_topology_t *topology = blockwise->topology;
    tacit_levels_t         *levels;
    const tacit_chunk_t   **order;
    int                     host = topology->host_of[leg->comm->rank], index = 0;

    levels = blockwise->levels = tacit__leg_take(leg, 1, sizeof *levels);
    if (levels == NULL) {
        return no_memory(leg);
    }
    *levels = (tacit_levels_t){.here = topology->begin[host + 1] - topology->begin[host],
                               .members = topology->members + topology->begin[host],
                               .rails = tacit__leg_take(leg, (size_t)topology->rails, sizeof *levels->rails)};
    order = tacit__leg_take(leg, blockwise->chunk_count, sizeof *order);
    if (levels->rails == NULL || order == NULL) {
        return no_memory(leg);
    }
    while (levels->members[index] != leg->comm->rank) {
        index++;
    }
    levels->next = levels->members[(index + 1) % levels->here];
    levels->last = levels->members[(index + levels->here - 1) % levels->here];
    for (int r = 0; r < topology->rails; r++) {
        tacit_rail_t *rail = &levels->rails[r];
        int           leader = 0;

        while (levels->members[leader] != topology->leaders[r * topology->hosts + host]) {
            leader++;
        }
        *rail = (tacit_rail_t){.order = order,
                               .count = put_in_order(blockwise, r, host, order),
                               .before = (index - leader - 1 + 2 * levels->here) % levels->here};
        order += rail->count;
        if (leader != index) {
            levels->inputs_total += count_pieces(leg, rail);
        } else if (levels->here == 1) {
            rail->chunk = rail->count; /* nobody else has a part in the sum */
        } else if (place_sums(leg, rail) != TACIT_OK) {
            return TACIT_ERR_MEMORY;
        }
    }
    return TACIT_OK;
}

void tacit__levels_release(tacit_leg_t *leg)
{
    tacit_blockwise_t *blockwise = leg->state;

    if (blockwise != NULL && blockwise->levels != NULL) {
        tacit__outbox_release(&blockwise->levels->outbox, &leg->comm->exchange);
    }
}

/* ---- Sums ---- */

static void add_loop(const float *one, const float *other, size_t count, float *sum)
{
    for (size_t i = 0; i < count; i++) {
        sum[i] = one[i] + other[i];
    }
}

TACIT_EACH_ISA(void, add, (const float *one, const float *other, size_t count, float *sum), (one, other, count, sum))

/* sum = this rank's next piece, after what the ranks before it have of it, if there are any. */
static tacit_status_t add_own(const tacit_segment_t *segment, size_t offset, size_t count, const float *before, float *sum)
{
    tacit_item_t  *item = segment->item;
    tacit_codec_t *codec = item->codec;
    const double   began = tacit__seconds();

    for (size_t done = 0, units; done < count; done += units) {
        const float *x;

        units = tacit__min(count - done, codec->unit);
        x = tacit__unit_load_given(codec, item->in, segment->first + offset + done, units);
        if (codec->nonfinite == TACIT_NONFINITE_ERROR && !tacit__unit_is_finite(x, units)) {
            return tacit__item_fault(item);
        }
        if (before != NULL) {
            add(x, before + done, units, sum + done);
        } else {
            memcpy(sum + done, x, units * sizeof *sum);
        }
    }
    tacit__item_worked(item, TACIT_TRACE_ADD, began, count, -1);
    return TACIT_OK;
}

/* Sends the next piece of a rail to the next rank. */
static tacit_status_t send_piece(tacit_leg_t *leg, int number, const float *before)
{
    const tacit_blockwise_t *blockwise = leg->state;
    tacit_levels_t          *levels = blockwise->levels;
    tacit_rail_t            *rail = &levels->rails[number];
    const tacit_segment_t   *segment = segment_of(blockwise, rail);
    const size_t             count = piece_elements(leg, rail);
    tacit_frame_t            frame = tacit__leg_frame(leg, TACIT_FRAME_CONTRIBUTION);
    tacit_status_t           status;
    uint8_t                 *message;

    TRY(tacit__outbox_take(&levels->outbox, &leg->comm->exchange, TACIT_FRAME_HEADER_BYTES + most_elements(leg) * sizeof(float),
                           &message));
    TRY(add_own(segment, rail->offset, count, before, (float *)(void *)(message + TACIT_FRAME_HEADER_BYTES)));
    frame.round = leg->round + TACIT_LEVELS_INPUTS;
    frame.index = levels->inputs++;
    frame.total = levels->inputs_total;
    frame.first = (uint32_t)number;
    frame.count = (uint32_t)count;
    frame.payload_bytes = (uint32_t)(count * sizeof(float));
    segment->item->sent_bytes += frame.payload_bytes;
    go_on(leg, rail);
    TRY(tacit__leg_send(leg, levels->next, message, tacit__frame_write(&frame, message)));
out:
    return status;
}

/* Rails in turn: that which has come least far. */
tacit_status_t tacit__levels_advance(tacit_leg_t *leg)
{
    const tacit_blockwise_t *blockwise = leg->state;
    const tacit_levels_t    *levels = blockwise->levels;
    int                      next = -1;

    for (int r = 0; levels->here > 1 && r < blockwise->topology->rails; r++) {
        const tacit_rail_t *rail = &levels->rails[r];

        if (rail->before == 0 && rail->chunk < rail->count && (next < 0 || rail->chunk < levels->rails[next].chunk)) {
            next = r;
        }
    }
    return next < 0 || tacit__outbox_is_full(&levels->outbox, &leg->comm->exchange, MOST_UNDER_WAY) ? TACIT_PENDING
                                                                                                    : send_piece(leg, next, NULL);
}

tacit_status_t tacit__levels_add(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    const tacit_blockwise_t *blockwise = leg->state;
    const tacit_levels_t    *levels = blockwise->levels;
    tacit_rail_t            *rail;
    const tacit_segment_t   *segment;
    const float             *before = (const float *)(const void *)frame->payload;
    float                   *sums;
    tacit_status_t           status;

    if (frame->kind != TACIT_FRAME_CONTRIBUTION || frame->rank != levels->last ||
        frame->first >= (uint32_t)blockwise->topology->rails) {
        return tacit__leg_unexpected(leg, frame);
    }
    rail = &levels->rails[frame->first];
    if (rail->before == 0 || rail->chunk == rail->count || frame->count != piece_elements(leg, rail) ||
        frame->payload_bytes != frame->count * sizeof(float)) {
        return tacit__leg_unexpected(leg, frame);
    }
    if (rail->before < levels->here - 1) {
        return send_piece(leg, (int)frame->first, before);
    }
    segment = segment_of(blockwise, rail);
    sums = (float *)(uintptr_t)segment->item->input + segment->first + rail->offset;
    TRY(add_own(segment, rail->offset, frame->count, before, sums));
    go_on(leg, rail);
out:
    return status;
}

bool tacit__levels_has(const tacit_blockwise_t *blockwise, const tacit_chunk_t *chunk)
{
    return chunk->place < blockwise->levels->rails[blockwise->own / blockwise->hosts].chunk;
}

/* ---- Results ---- */

tacit_status_t tacit__levels_pass_on(tacit_leg_t *leg, const tacit_chunk_t *chunk)
{
    const tacit_blockwise_t *blockwise = leg->state;
    tacit_levels_t          *levels = blockwise->levels;
    const size_t             rail = levels->rails[blockwise->own / blockwise->hosts].count;
    uint8_t                 *message = tacit__blockwise_result(blockwise, chunk);
    tacit_frame_t            frame = tacit__leg_frame(leg, TACIT_FRAME_RESULT);
    tacit_status_t           status = TACIT_OK;
    size_t                   bytes;

    if (levels->here == 1) {
        goto out;
    }
    frame.round = leg->round + TACIT_LEVELS_RESULTS;
    frame.index = levels->passed++;
    frame.total = (uint32_t)(rail - (blockwise->own_end - blockwise->own_begin));
    frame.first = (uint32_t)(chunk - blockwise->chunks);
    frame.count = (uint32_t)chunk->elements;
    frame.payload_bytes = (uint32_t)chunk->payload_bytes;
    bytes = tacit__frame_write(&frame, message);
    for (int i = 0; i < levels->here; i++) {
        if (levels->members[i] != leg->comm->rank) {
            TRY(tacit__leg_send(leg, levels->members[i], message, bytes));
        }
    }
out:
    return status;
}

/* ---- The schedule ---- */

/* Not a 16-bit tensor that is to stay as it is: its sums are not of 16 bits. */
static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    const bool cast = codec->tensor.dtype != TACIT_FLOAT32 && strcmp(codec->given.compressor->name, "none") == 0;

    return tacit__topology_has_levels(comm->topology) && tacit__codec_is_blockwise(codec) && !cast;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    return tacit__blockwise_prepare(leg, leg->comm->topology);
}

const tacit_schedule_t tacit__schedule_two_level = {
    .name = "two_level",
    .summary = "as blockwise, between hosts, of the exact sums of each host's ranks",
    .framed = true,
    .levels = true,
    .round = 7,
    .rounds = TACIT_LEVELS_ROUNDS,
    .carries = carries,
    .prepare = prepare,
    .advance = tacit__blockwise_advance,
    .done = tacit__blockwise_done,
    .arrived = tacit__blockwise_arrived,
    .commit = tacit__blockwise_commit,
    .undo = tacit__blockwise_undo,
    .release = tacit__blockwise_release,
};
