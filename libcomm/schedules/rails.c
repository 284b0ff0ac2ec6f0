/* SPDX-License-Identifier: Apache-2.0 */
/* Exact sums of what the ranks of a host have. A piece of a rail goes around the host, from the rank behind the leader to the
   leader, and each rank adds its own: so all memory that it takes is that of pieces under way. They go through memory that ranks
   share (channel.h), or in messages where there is none. */
#include "rails.h"

#include <string.h>

#include "codec_unit.h"
#include "isa.h"
#include "parts.h"

enum {
    MOST_UNDER_WAY = 16, /* own pieces in messages: enough for the next rank not to wait, few enough to stay in a cache */
    AT_ONCE = 4          /* pieces to or from a channel, before others and the network have a turn */
};

static tacit_status_t no_memory(const tacit_leg_t *leg)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for the sums of %zu slots", leg->comm->rank,
                       leg->operation->what, leg->item_count);
}

/* ---- Pieces: the same on all ranks of a host ---- */

static size_t most_elements(const tacit_leg_t *leg)
{
    const tacit_channels_t *channels = &leg->comm->channels;

    return (channels->out != NULL ? channels->piece_bytes : TACIT_NEAR_CHUNKS * leg->comm->config.chunk_bytes) / sizeof(float);
}

static size_t piece_elements(const tacit_leg_t *leg, const tacit_rail_t *rail)
{
    return tacit__min(rail->segments[rail->next].count - rail->offset, most_elements(leg));
}

/* Behind the next piece. */
static void go_on(const tacit_leg_t *leg, tacit_rail_t *rail)
{
    const size_t count = piece_elements(leg, rail);

    rail->elements += count;
    rail->offset += count;
    if (rail->offset == rail->segments[rail->next].count) {
        rail->offset = 0;
        rail->next++;
    }
}

static size_t count_pieces(const tacit_leg_t *leg, const tacit_rail_t *rail)
{
    size_t pieces = 0;

    for (size_t s = 0; s < rail->count; s++) {
        pieces += (rail->segments[s].count + most_elements(leg) - 1) / most_elements(leg);
    }
    return pieces;
}

/* ---- Prepare and release ---- */

tacit_status_t tacit__levels_create(tacit_leg_t *leg, const tacit_topology_t *topology, size_t segments,
                                    tacit_levels_t **levels_out)
{
    const int       host = topology->host_of[leg->comm->rank];
    tacit_levels_t *levels = tacit__leg_take(leg, 1, sizeof *levels);

    if (levels == NULL) {
        return no_memory(leg);
    }
    *levels = (tacit_levels_t){.topology = topology,
                               .own = topology->rail_of[leg->comm->rank],
                               .here = topology->begin[host + 1] - topology->begin[host],
                               .members = topology->members + topology->begin[host],
                               .rails = tacit__leg_take(leg, (size_t)topology->rails, sizeof *levels->rails),
                               .segments = tacit__leg_take(leg, segments, sizeof *levels->segments)};
    if (levels->rails == NULL || levels->segments == NULL) {
        return no_memory(leg);
    }
    memset(levels->rails, 0, (size_t)topology->rails * sizeof *levels->rails);
    *levels_out = levels;
    return TACIT_OK;
}

void tacit__levels_append(tacit_levels_t *levels, int rail, const tacit_segment_t *segment)
{
    tacit_rail_t    *to = &levels->rails[rail];
    tacit_segment_t *at = &levels->segments[levels->segment_count++];

    to->segments = to->count == 0 ? at : to->segments;
    to->count++;
    *at = *segment;
}

/* Memory for the sums of what this rank leads, which lies as the items do. */
static tacit_status_t place_sums(tacit_leg_t *leg, const tacit_levels_t *levels)
{
    size_t total = 0, at = 0;
    float *sums;

    for (size_t s = 0; s < levels->rails[levels->own].count; s++) {
        total += levels->rails[levels->own].segments[s].count;
    }
    sums = tacit__leg_take(leg, total, sizeof *sums);
    if (sums == NULL) {
        return no_memory(leg);
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_item_t       *item = leg->items[i];
        const tacit_range_t range = tacit__rail_range(item->codec, levels->own, levels->topology->rails);

        if (range.begin < range.end) {
            item->input = (const float *)((uintptr_t)(sums + at) - range.begin * sizeof *sums);
            item->codec->sums = true;
            at += range.end - range.begin;
        }
    }
    return TACIT_OK;
}

tacit_status_t tacit__levels_prepare(tacit_leg_t *leg, tacit_levels_t *levels)
{
    const tacit_topology_t *topology = levels->topology;
    const int               host = topology->host_of[leg->comm->rank];
    int                     index = 0;
    size_t                  pieces = 0;

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
        rail->before = (index - leader - 1 + 2 * levels->here) % levels->here;
        if (leader != index) {
            pieces += count_pieces(leg, rail);
        } else if (levels->here == 1) {
            rail->next = rail->count; /* nobody else has a part in the sum */
        } else if (place_sums(leg, levels) != TACIT_OK) {
            return TACIT_ERR_MEMORY;
        }
    }
    levels->inputs_total = (uint32_t)pieces;
    return pieces <= TACIT_MOST_FRAMES
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages to a rank of its host; raise chunk_bytes",
                             leg->comm->rank, TACIT_MOST_FRAMES);
}

/* To whom this rank speaks, beginning behind its host. */
static void find_others(const tacit_leg_t *leg, tacit_levels_t *levels)
{
    const tacit_topology_t *topology = levels->topology;
    const int               hosts = topology->hosts, host = topology->host_of[leg->comm->rank];
    int                     count = 0;

    for (int step = 1; step < hosts; step++) {
        levels->others[count++] = topology->leaders[levels->own * hosts + (host + step) % hosts];
    }
    levels->far = count;
    for (int i = 0; i < levels->here; i++) {
        if (levels->members[i] != leg->comm->rank) {
            levels->others[count++] = levels->members[i];
        }
    }
    levels->others_count = count;
}

tacit_status_t tacit__levels_lay_out(tacit_leg_t *leg, const tacit_topology_t *topology, tacit_levels_t **levels_out)
{
    tacit_levels_t *levels;
    tacit_status_t  status;

    TRY(tacit__levels_create(leg, topology, leg->item_count * (size_t)topology->rails, levels_out));
    levels = *levels_out;
    levels->place = tacit__leg_take(leg, leg->item_count, sizeof *levels->place);
    levels->others = tacit__leg_take(leg, (size_t)topology->ranks, sizeof *levels->others);
    if (levels->place == NULL || levels->others == NULL) {
        return no_memory(leg);
    }
    for (int rail = 0; rail < topology->rails; rail++) {
        for (size_t i = 0; i < leg->item_count; i++) {
            tacit_item_t       *item = leg->items[i];
            const tacit_range_t range = tacit__rail_range(item->codec, rail, topology->rails);

            if (range.begin < range.end) {
                tacit__levels_append(levels, rail, &(tacit_segment_t){item, range.begin, range.end - range.begin, 0});
            }
            if (rail == levels->own) {
                levels->place[i] = levels->rails[rail].count;
            }
        }
    }
    if (levels->own >= 0) {
        find_others(leg, levels);
    }
    TRY(tacit__levels_prepare(leg, levels));
out:
    return status;
}

void tacit__levels_release(tacit_leg_t *leg, tacit_levels_t *levels)
{
    if (levels == NULL) {
        return;
    }
    tacit__outbox_release(&levels->outbox, &leg->comm->exchange);
    for (size_t i = 0; i < leg->item_count; i++) {
        leg->items[i]->codec->sums = false;
    }
}

/* ---- Sums ---- */

/* Whether a number is not finite: without a branch, so that loops vectorize. */
static inline uint32_t is_wrong(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
}

/* sum = x, after what is before it, if there is anything. Returns whether x is finite. */
static bool add_loop(const float *restrict x, const float *restrict before, size_t count, float *restrict sum)
{
    uint32_t wrong = 0;

    for (size_t i = 0; before == NULL && i < count; i++) {
        wrong |= is_wrong(x[i]);
        sum[i] = x[i];
    }
    for (size_t i = 0; before != NULL && i < count; i++) {
        wrong |= is_wrong(x[i]);
        sum[i] = x[i] + before[i];
    }
    return wrong == 0;
}

TACIT_EACH_ISA(bool, add, (const float *x, const float *before, size_t count, float *sum), (x, before, count, sum))

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
        if (!add(x, before != NULL ? before + done : NULL, units, sum + done) && codec->nonfinite == TACIT_NONFINITE_ERROR) {
            return tacit__codec_value_fault(codec, codec->rank, item->step); /* of what was given, not of the sum */
        }
    }
    tacit__item_worked(item, TACIT_TRACE_ADD, began, count, -1);
    return TACIT_OK;
}

/* Sends the next piece of a rail to the next rank. There is room for it. */
static tacit_status_t send_piece(tacit_leg_t *leg, tacit_levels_t *levels, int number, const float *before)
{
    tacit_rail_t          *rail = &levels->rails[number];
    const tacit_segment_t *segment = &rail->segments[rail->next];
    const size_t           count = piece_elements(leg, rail);
    tacit_channel_t       *channel = leg->comm->channels.out;
    tacit_frame_t          frame = tacit__leg_frame(leg, TACIT_FRAME_CONTRIBUTION);
    uint8_t               *message = NULL;
    tacit_status_t         status;

    if (channel == NULL) {
        TRY(tacit__outbox_take(&levels->outbox, &leg->comm->exchange,
                               TACIT_FRAME_HEADER_BYTES + most_elements(leg) * sizeof(float), &message));
    }
    TRY(add_own(segment, rail->offset, count, before,
                channel != NULL ? tacit__channel_payload(channel) : (void *)(message + TACIT_FRAME_HEADER_BYTES)));
    frame.round = leg->round + TACIT_LEVELS_INPUTS;
    frame.index = levels->inputs++;
    frame.total = levels->inputs_total;
    frame.first = (uint32_t)number;
    frame.count = (uint32_t)count;
    frame.payload_bytes = (uint32_t)(count * sizeof(float));
    go_on(leg, rail);
    if (channel != NULL) {
        tacit__channel_put(channel, &frame);
        return TACIT_OK;
    }
    segment->item->sent_bytes += frame.payload_bytes;
    TRY(tacit__leg_send(leg, levels->next, message, tacit__frame_write(&frame, message)));
out:
    return status;
}

static bool is_summed(const tacit_rail_t *rail)
{
    return rail->next == rail->count;
}

/* Whether an own piece may go out. In a channel it leaves room for one that comes from elsewhere: with none anywhere around the
   host, all would wait for each other. */
static bool may_begin(const tacit_leg_t *leg, const tacit_levels_t *levels)
{
    const tacit_channel_t *channel = leg->comm->channels.out;

    return channel != NULL ? tacit__channel_room(channel) > 1
                           : !tacit__outbox_is_full(&levels->outbox, &leg->comm->exchange, MOST_UNDER_WAY);
}

/* Rails in turn: that which has come least far. */
static tacit_status_t begin_piece(tacit_leg_t *leg, tacit_levels_t *levels)
{
    int next = -1;

    for (int r = 0; levels->here > 1 && r < levels->topology->rails; r++) {
        const tacit_rail_t *rail = &levels->rails[r];

        if (rail->before == 0 && !is_summed(rail) && (next < 0 || rail->elements < levels->rails[next].elements)) {
            next = r;
        }
    }
    return next < 0 || !may_begin(leg, levels) ? TACIT_PENDING : send_piece(leg, levels, next, NULL);
}

typedef tacit_status_t step_t(tacit_leg_t *leg, tacit_levels_t *levels);

/* The same step some times, as far as it goes. */
static tacit_status_t repeat(step_t *step, tacit_leg_t *leg, tacit_levels_t *levels)
{
    tacit_status_t status = TACIT_OK;
    int            done = 0;

    while (done < AT_ONCE && (status = step(leg, levels)) == TACIT_OK) {
        done++;
    }
    return status == TACIT_PENDING && done > 0 ? TACIT_OK : status;
}

tacit_status_t tacit__levels_begin(tacit_leg_t *leg, tacit_levels_t *levels)
{
    return leg->comm->channels.out != NULL ? repeat(begin_piece, leg, levels) : begin_piece(leg, levels);
}

/* A piece has come from the rank before: adds the own one, and keeps it or sends it on. */
static tacit_status_t take_piece(tacit_leg_t *leg, tacit_levels_t *levels, const tacit_frame_t *frame)
{
    tacit_rail_t          *rail;
    const tacit_segment_t *segment;
    const float           *before = (const float *)(const void *)frame->payload;
    float                 *sums;
    tacit_status_t         status;

    if (frame->kind != TACIT_FRAME_CONTRIBUTION || frame->rank != levels->last ||
        frame->first >= (uint32_t)levels->topology->rails) {
        return tacit__leg_unexpected(leg, frame);
    }
    rail = &levels->rails[frame->first];
    if (rail->before == 0 || is_summed(rail) || frame->count != piece_elements(leg, rail) ||
        frame->payload_bytes != frame->count * sizeof(float)) {
        return tacit__leg_unexpected(leg, frame);
    }
    if (rail->before < levels->here - 1) {
        return send_piece(leg, levels, (int)frame->first, before);
    }
    segment = &rail->segments[rail->next];
    sums = (float *)(uintptr_t)segment->item->input + segment->first + rail->offset;
    TRY(add_own(segment, rail->offset, frame->count, before, sums));
    go_on(leg, rail);
out:
    return status;
}

/* The next piece of the channel. Those of another leg, or of the next operation, wait for that; those of an operation that has
   failed are passed over. */
static tacit_status_t take_next(tacit_leg_t *leg, tacit_levels_t *levels)
{
    const tacit_channels_t *channels = &leg->comm->channels;
    const uint32_t          sequence = leg->operation->identity.sequence;
    tacit_frame_t           frame;
    tacit_status_t          status = TACIT_OK;

    if (channels->in == NULL || !tacit__channel_next(channels->in, &frame) || (int32_t)(frame.sequence - sequence) > 0) {
        return TACIT_PENDING;
    }
    if (frame.sequence == sequence) {
        if (frame.round != leg->round + TACIT_LEVELS_INPUTS || tacit__channel_room(channels->out) == 0) {
            return TACIT_PENDING;
        }
        TRY(tacit__operation_check_identity(leg->operation, &frame));
        TRY(take_piece(leg, levels, &frame));
    }
    tacit__channel_drop(channels->in);
out:
    return status;
}

tacit_status_t tacit__levels_take(tacit_leg_t *leg, tacit_levels_t *levels)
{
    return repeat(take_next, leg, levels);
}

tacit_status_t tacit__levels_advance(tacit_leg_t *leg, tacit_levels_t *levels)
{
    const tacit_status_t status = tacit__levels_take(leg, levels);

    return status == TACIT_PENDING ? tacit__levels_begin(leg, levels) : status;
}

tacit_status_t tacit__levels_add(tacit_leg_t *leg, tacit_levels_t *levels, const tacit_frame_t *frame)
{
    return leg->comm->channels.in == NULL ? take_piece(leg, levels, frame) : tacit__leg_unexpected(leg, frame);
}

/* ---- What the others hear ---- */

tacit_status_t tacit__levels_tell(const tacit_leg_t *leg, const tacit_levels_t *levels, const uint8_t *message, size_t bytes)
{
    tacit_status_t status = TACIT_OK;

    for (int i = 0; i < levels->here; i++) {
        if (levels->members[i] != leg->comm->rank) {
            TRY(tacit__leg_send(leg, levels->members[i], message, bytes));
        }
    }
out:
    return status;
}

tacit_status_t tacit__levels_pass_on(tacit_leg_t *leg, tacit_levels_t *levels, tacit_records_t *records,
                                     const tacit_frame_t *frame)
{
    const bool     last = frame->total != 0;
    tacit_frame_t  passed = tacit__leg_frame(leg, TACIT_FRAME_RESULT);
    uint8_t       *message;
    tacit_status_t status = TACIT_OK;

    levels->far -= last;
    if (levels->here == 1) {
        goto out;
    }
    if (levels->passed == TACIT_MOST_FRAMES) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages to a rank of its host; raise chunk_bytes",
                           leg->comm->rank, TACIT_MOST_FRAMES);
    }
    TRY(tacit__records_keep(records, TACIT_FRAME_HEADER_BYTES + frame->payload_bytes, &message));
    memcpy(message + TACIT_FRAME_HEADER_BYTES, frame->payload, frame->payload_bytes);
    passed.round = leg->round + TACIT_LEVELS_PASSED;
    passed.index = levels->passed++;
    passed.total = levels->far == 0 ? levels->passed : 0;
    passed.first = (uint32_t)levels->topology->host_of[frame->rank];
    passed.count = last;
    passed.payload_bytes = frame->payload_bytes;
    TRY(tacit__levels_tell(leg, levels, message, tacit__frame_write(&passed, message)));
out:
    return status;
}
