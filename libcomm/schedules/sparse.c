/* SPDX-License-Identifier: Apache-2.0 */
/* All-gather of index/value pairs: each rank sends what it has chosen to all; every rank adds up all of it in rank order. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "bits.h"
#include "operation.h"

/* A record of a frame (doc/wire-format.md, "Sparse frames"): which item, which range of it, how long; then the payload, padded to
   a multiple of 4 bytes. */
typedef struct tacit_record {
    uint32_t item, first, count, bytes;
} tacit_record_t;

typedef struct tacit_sparse {
    tacit_entries_t *mine;          /* what this rank has chosen, one an item */
    const float    **a;             /* what it has chosen from */
    size_t           chosen;        /* items done */
    size_t           remembered;    /* items whose memory knows what is sent */
    tacit_buffer_t  *messages;      /* of all ranks, in the order of arrival; the own ones as they were sent */
    size_t          *payload_bytes; /* of each */
    int             *origin;        /* the rank of each */
    size_t           message_count, message_room;
    size_t           item, entry, first; /* the next to send: which item, which entry of it, where its record begins */
    uint32_t         frames;             /* sent */
    bool             all_sent;
    int              complete; /* other ranks whose last frame is here */
    float           *largest;  /* magnitude that a rank gives to an item: of all ranks, one item after the other */
    bool             checked;  /* that sums are finite */
    tacit_entries_t  scratch;  /* one record's, decoded */
    tacit_buffer_t   sums;     /* float32, of the largest item that is not; else empty */
} tacit_sparse_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return codec->compressor->select != NULL;
}

static size_t limit_of(const tacit_item_t *item)
{
    return item->codec->compressor->select->limit(item->codec->spec.compressor_config, item->codec->tensor.count);
}

static tacit_status_t entries_init(const tacit_leg_t *leg, tacit_entries_t *entries, size_t limit)
{
    entries->indices = tacit__alloc_unset(limit * sizeof *entries->indices);
    entries->values = tacit__alloc_unset(limit * sizeof *entries->values);
    entries->kept = tacit__alloc_unset(limit * sizeof *entries->kept);
    return entries->indices != NULL && entries->values != NULL && entries->kept != NULL
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for %zu entries", leg->comm->rank, leg->operation->what,
                             limit);
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_status_t  status = TACIT_OK;
    tacit_sparse_t *sparse = leg->state = tacit__alloc(1, sizeof *sparse);
    size_t          limit = 0, wide = 0;

    if (sparse == NULL || (sparse->mine = tacit__alloc(leg->item_count, sizeof *sparse->mine)) == NULL ||
        (sparse->a = tacit__alloc(leg->item_count, sizeof *sparse->a)) == NULL ||
        (sparse->largest = tacit__alloc(leg->item_count * (size_t)leg->comm->ranks, sizeof *sparse->largest)) == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu sparse slots", leg->comm->rank, leg->item_count);
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        TRY(tacit__codec_expand(leg->items[i]->codec));
        TRY(entries_init(leg, &sparse->mine[i], limit_of(leg->items[i])));
        limit = limit > limit_of(leg->items[i]) ? limit : limit_of(leg->items[i]);
        if (leg->items[i]->codec->tensor.dtype != TACIT_FLOAT32 && leg->items[i]->codec->tensor.count > wide) {
            wide = leg->items[i]->codec->tensor.count;
        }
    }
    TRY(entries_init(leg, &sparse->scratch, limit));
    if (wide != 0) {
        TRY(tacit__buffer_take(&leg->comm->exchange, wide * sizeof(float), &sparse->sums));
    }
out:
    return status;
}

static void release(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;

    if (sparse == NULL) {
        return;
    }
    for (size_t i = 0; sparse->mine != NULL && i < leg->item_count; i++) {
        tacit__codec_collapse(leg->items[i]->codec);
        tacit__free(sparse->mine[i].indices);
        tacit__free(sparse->mine[i].values);
        tacit__free(sparse->mine[i].kept);
    }
    for (size_t i = 0; i < sparse->message_count; i++) {
        tacit__buffer_give(&leg->comm->exchange, &sparse->messages[i]);
    }
    tacit__free(sparse->scratch.indices);
    tacit__free(sparse->scratch.values);
    tacit__free(sparse->scratch.kept);
    tacit__buffer_give(&leg->comm->exchange, &sparse->sums);
    tacit__free(sparse->mine);
    tacit__free(sparse->a);
    tacit__free(sparse->largest);
    tacit__free(sparse->messages);
    tacit__free(sparse->payload_bytes);
    tacit__free(sparse->origin);
    tacit__free(sparse);
    leg->state = NULL;
}

/* The largest magnitude of all; what is not finite is above what is. */
static float largest_of(const float *values, size_t count, float largest)
{
    uint32_t bits = tacit__float_bits(largest);

    for (size_t i = 0; i < count; i++) {
        const uint32_t magnitude = tacit__float_bits(values[i]) & 0x7fffffffu;

        bits = bits > magnitude ? bits : magnitude;
    }
    return tacit__bits_float(bits);
}

static void note_largest(const tacit_leg_t *leg, size_t item, int rank, const tacit_entries_t *entries)
{
    float *largest = &((tacit_sparse_t *)leg->state)->largest[item * (size_t)leg->comm->ranks + (size_t)rank];

    *largest = largest_of(entries->values, entries->count, *largest);
}

/* Takes a buffer for one more message of `origin`. */
static tacit_status_t add_message(const tacit_leg_t *leg, size_t bytes, int origin)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_status_t  status = TACIT_OK;

    if (sparse->message_count == sparse->message_room) {
        size_t          room = sparse->message_room != 0 ? 2 * sparse->message_room : 16;
        tacit_buffer_t *messages = tacit__alloc(room, sizeof *messages);
        size_t         *sizes = tacit__alloc(room, sizeof *sizes);
        int            *origins = tacit__alloc(room, sizeof *origins);

        if (messages == NULL || origins == NULL || sizes == NULL) {
            tacit__free(messages);
            tacit__free(sizes);
            tacit__free(origins);
            return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu messages", leg->comm->rank, room);
        }
        if (sparse->message_count != 0) {
            memcpy(messages, sparse->messages, sparse->message_count * sizeof *messages);
            memcpy(sizes, sparse->payload_bytes, sparse->message_count * sizeof *sizes);
            memcpy(origins, sparse->origin, sparse->message_count * sizeof *origins);
        }
        tacit__free(sparse->messages);
        tacit__free(sparse->payload_bytes);
        tacit__free(sparse->origin);
        sparse->messages = messages;
        sparse->payload_bytes = sizes;
        sparse->origin = origins;
        sparse->message_room = room;
    }
    TRY(tacit__buffer_take(&leg->comm->exchange, bytes, &sparse->messages[sparse->message_count]));
    sparse->origin[sparse->message_count++] = origin;
out:
    return status;
}

/* ---- Sending ---- */

static tacit_status_t choose(const tacit_leg_t *leg)
{
    tacit_sparse_t  *sparse = leg->state;
    tacit_item_t    *item = leg->items[sparse->chosen];
    tacit_entries_t *mine = &sparse->mine[sparse->chosen];
    tacit_block_t    block = tacit__codec_block(item->codec, item->step, 0, item->codec->tensor.count);
    double           began = tacit__seconds();

    if (tacit__codec_gather(item->codec, item->in, &sparse->a[sparse->chosen]) != 0) {
        return tacit__item_fault(item);
    }
    mine->count = item->codec->compressor->select->choose(&block, sparse->a[sparse->chosen], mine->indices);
    sparse->chosen++;
    sparse->entry = sparse->first = 0;
    item->encode_seconds += tacit__seconds() - began;
    return TACIT_OK;
}

/* Bytes of a record of so many of the next entries, at most. */
static size_t record_bytes(const tacit_item_t *item, size_t first, size_t entries)
{
    const tacit_codec_t *codec = item->codec;

    return sizeof(tacit_record_t) +
           tacit__round_up(codec->compressor->select->bound(codec->spec.compressor_config, codec->tensor.count - first, entries),
                           4);
}

/* The most entries, from the next one on, whose record fits into `room` bytes; at least one if the frame is empty. */
static size_t fitting(const tacit_leg_t *leg, size_t room, bool empty)
{
    const tacit_sparse_t *sparse = leg->state;
    const tacit_item_t   *item = leg->items[sparse->item];
    size_t                low = 0, high = sparse->mine[sparse->item].count - sparse->entry;

    while (low < high) {
        size_t middle = low + (high - low + 1) / 2;

        if (record_bytes(item, sparse->first, middle) <= room) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low != 0 || !empty ? low : 1;
}

/* Appends a record of the present item's next entries; returns its bytes. */
static size_t write_record(const tacit_leg_t *leg, size_t entries, uint8_t *at)
{
    tacit_sparse_t  *sparse = leg->state;
    tacit_item_t    *item = leg->items[sparse->item];
    tacit_entries_t *mine = &sparse->mine[sparse->item];
    size_t           next = sparse->entry + entries;
    size_t           end = next == mine->count ? item->codec->tensor.count : mine->indices[next];
    tacit_block_t    block = tacit__codec_block(item->codec, item->step, sparse->first, end - sparse->first);
    tacit_record_t   record = {(uint32_t)sparse->item, (uint32_t)sparse->first, (uint32_t)block.count, 0};
    size_t bytes = item->codec->compressor->select->encode(&block, sparse->a[sparse->item], mine->indices + sparse->entry,
                                                           entries, at + sizeof record, mine->values + sparse->entry);
    size_t padded = tacit__round_up(bytes, 4);

    memset(at + sizeof record + bytes, 0, padded - bytes);
    record.bytes = (uint32_t)bytes;
    memcpy(at, &record, sizeof record);
    sparse->entry = next;
    sparse->first = end;
    item->sent_bytes += (uint64_t)(leg->comm->ranks - 1) * (sizeof record + padded);
    return sizeof record + padded;
}

/* All records of the present item are written: memory learns what was sent. */
static void finish_item(const tacit_leg_t *leg)
{
    tacit_sparse_t     *sparse = leg->state;
    const tacit_item_t *item = leg->items[sparse->item];

    tacit__codec_sent(item->codec, item->in, sparse->a[sparse->item], &sparse->mine[sparse->item]);
    note_largest(leg, sparse->item, leg->comm->rank, &sparse->mine[sparse->item]);
    sparse->remembered++;
    sparse->item++;
}

/* Fills one frame's payload with records; returns its bytes in *bytes_out. */
static tacit_status_t fill(const tacit_leg_t *leg, uint8_t *payload, size_t capacity, size_t *bytes_out)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_status_t  status = TACIT_OK;
    size_t          used = 0;

    while (sparse->item < leg->item_count) {
        tacit_item_t *item = leg->items[sparse->item];
        double        began;
        size_t        entries;

        if (sparse->item == sparse->chosen) {
            TRY(choose(leg));
        }
        began = tacit__seconds();
        entries = sparse->entry < sparse->mine[sparse->item].count ? fitting(leg, capacity - used, used == 0) : 0;
        if (entries != 0) {
            used += write_record(leg, entries, payload + used);
        } else if (sparse->entry < sparse->mine[sparse->item].count) {
            break; /* the frame is full */
        }
        if (sparse->entry == sparse->mine[sparse->item].count) {
            finish_item(leg);
        }
        item->encode_seconds += tacit__seconds() - began;
    }
    *bytes_out = used;
out:
    return status;
}

/* A frame's payload holds one record of one entry of any item, however long its directory. */
static size_t frame_capacity(const tacit_leg_t *leg)
{
    size_t capacity = leg->comm->config.chunk_bytes;

    for (size_t i = 0; i < leg->item_count; i++) {
        size_t least = record_bytes(leg->items[i], 0, 1);

        capacity = capacity > least ? capacity : least;
    }
    return capacity;
}

static tacit_status_t send_frame(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_frame_t   frame = tacit__leg_frame(leg, TACIT_FRAME_SPARSE);
    size_t          capacity = frame_capacity(leg), bytes;
    uint8_t        *message;
    tacit_status_t  status;

    if (sparse->frames == TACIT_MOST_FRAMES) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages; raise chunk_bytes", leg->comm->rank,
                           TACIT_MOST_FRAMES);
    }
    TRY(add_message(leg, TACIT_FRAME_HEADER_BYTES + capacity, leg->comm->rank));
    message = sparse->messages[sparse->message_count - 1].data;
    TRY(fill(leg, message + TACIT_FRAME_HEADER_BYTES, capacity, &bytes));
    sparse->payload_bytes[sparse->message_count - 1] = bytes;
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

/* ---- Receiving ---- */

/* Reads the record at payload + *at, which may be hostile, and moves *at behind it. Returns its item, or NULL if it is none. Its
   entries go into scratch, unless only another item is `wanted`. */
static const tacit_item_t *read_record(const tacit_leg_t *leg, const uint8_t *payload, size_t bytes, size_t *at,
                                       const tacit_item_t *wanted, tacit_record_t *record_out)
{
    tacit_sparse_t     *sparse = leg->state;
    const tacit_item_t *item;
    tacit_record_t      record;
    tacit_block_t       block;

    if (bytes - *at < sizeof record) {
        return NULL;
    }
    memcpy(&record, payload + *at, sizeof record);
    *at += sizeof record;
    if (record.item >= leg->item_count || record.bytes > bytes - *at || tacit__round_up(record.bytes, 4) > bytes - *at) {
        return NULL;
    }
    item = leg->items[record.item];
    if (record.first > item->codec->tensor.count || record.count > item->codec->tensor.count - record.first) {
        return NULL;
    }
    payload += *at;
    *at += tacit__round_up(record.bytes, 4);
    *record_out = record;
    if (wanted != NULL && item != wanted) {
        return item;
    }
    block = tacit__codec_block(item->codec, item->step, record.first, record.count);
    sparse->scratch.count = item->codec->compressor->select->decode(&block, payload, record.bytes, sparse->scratch.indices,
                                                                    sparse->scratch.values, limit_of(item));
    return sparse->scratch.count != SIZE_MAX ? item : NULL;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_record_t  record;
    tacit_status_t  status = TACIT_OK;

    for (size_t at = 0; frame->kind == TACIT_FRAME_SPARSE && at < frame->payload_bytes;) {
        if (read_record(leg, frame->payload, frame->payload_bytes, &at, NULL, &record) == NULL) {
            return tacit__leg_unexpected(leg, frame);
        }
        note_largest(leg, record.item, frame->rank, &sparse->scratch);
    }
    if (frame->kind != TACIT_FRAME_SPARSE || (frame->total != 0 && frame->total != frame->index + 1)) {
        return tacit__leg_unexpected(leg, frame);
    }
    TRY(add_message(leg, frame->payload_bytes, frame->rank));
    memcpy(sparse->messages[sparse->message_count - 1].data, frame->payload, frame->payload_bytes);
    sparse->payload_bytes[sparse->message_count - 1] = frame->payload_bytes;
    sparse->complete += frame->total != 0;
out:
    return status;
}

/* ---- The sum ---- */

static void add_rank(const tacit_leg_t *leg, const tacit_item_t *item, int rank, float *sums)
{
    tacit_sparse_t *sparse = leg->state;
    tacit_record_t  record;

    for (size_t m = 0; m < sparse->message_count; m++) {
        const uint8_t *payload = sparse->messages[m].data + (rank == leg->comm->rank ? TACIT_FRAME_HEADER_BYTES : 0);

        for (size_t at = 0; sparse->origin[m] == rank && at < sparse->payload_bytes[m];) {
            if (read_record(leg, payload, sparse->payload_bytes[m], &at, item, &record) != item) {
                continue;
            }
            for (size_t i = 0; i < sparse->scratch.count; i++) {
                sums[record.first + sparse->scratch.indices[i]] += sparse->scratch.values[i];
            }
        }
    }
}

static void add_ranks(const tacit_leg_t *leg, const tacit_item_t *item, float *sums)
{
    const float  scale = 1.0f / (float)leg->comm->ranks;
    const size_t count = item->codec->tensor.count;

    if (count != 0) {
        memset(sums, 0, count * sizeof *sums);
    }
    for (int rank = 0; rank < leg->comm->ranks; rank++) {
        add_rank(leg, item, rank, sums);
    }
    for (size_t j = 0; item->op == TACIT_AVERAGE && leg->comm->ranks > 1 && j < count; j++) {
        sums[j] *= scale;
    }
}

/* What a feedback adds to an item's sums, in the units of this operation; NULL: nothing. */
static const float *tracked_by(const tacit_item_t *item, float *factor_out)
{
    const tacit_feedback_t *feedback = item->codec->feedback;

    *factor_out = 1.0f;
    if (feedback == NULL || feedback->combine == NULL) {
        return NULL;
    }
    *factor_out = tacit__codec_conversion(item->codec, item->op);
    return item->codec->memory.now[feedback->tracker];
}

/* That no result can leave the range of float32, from magnitudes alone: there is room for what rounding adds. */
static bool surely_fits(const tacit_leg_t *leg, size_t i)
{
    const float *largest = &((tacit_sparse_t *)leg->state)->largest[i * (size_t)leg->comm->ranks];
    const float *tracked;
    float        factor;
    double       total = 0.0;

    for (int rank = 0; rank < leg->comm->ranks; rank++) {
        total += (double)largest[rank];
    }
    tracked = tracked_by(leg->items[i], &factor);
    if (tracked != NULL) {
        total += (double)factor * (double)largest_of(tracked, leg->items[i]->codec->tensor.count, 0.0f);
    }
    return total < 0.5 * (double)FLT_MAX;
}

/* All ranks hold the same messages and find the same fault, and nothing has been written yet. */
static tacit_status_t check_sum(const tacit_leg_t *leg, const tacit_item_t *item)
{
    const size_t   count = item->codec->tensor.count;
    float         *sums = tacit__alloc_unset(count * sizeof *sums);
    const float   *tracked;
    float          factor;
    tacit_status_t status = TACIT_OK;

    if (sums == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: slot '%s': no memory to check a sum of %zu elements", leg->comm->rank,
                           item->codec->name, count);
    }
    add_ranks(leg, item, sums);
    tracked = tracked_by(item, &factor);
    for (size_t j = 0; status == TACIT_OK && j < count; j++) {
        const float result = tracked != NULL ? factor * tracked[j] + sums[j] : sums[j];

        if (!isfinite(result)) {
            status =
                tacit__fail(TACIT_ERR_VALUE,
                            "slot '%s' at step %" PRIu64 ": the sum over %d ranks leaves the range of float32 at element %zu;"
                            " nothing was changed. Skip the step, or set nonfinite to pass",
                            item->codec->name, item->step, leg->comm->ranks, j);
        }
    }
    tacit__free(sums);
    return status;
}

static tacit_status_t check_sums(const tacit_leg_t *leg)
{
    tacit_status_t status = TACIT_OK;

    for (size_t i = 0; i < leg->item_count; i++) {
        if (leg->items[i]->codec->nonfinite != TACIT_NONFINITE_PASS && !surely_fits(leg, i)) {
            TRY(check_sum(leg, leg->items[i]));
        }
    }
    ((tacit_sparse_t *)leg->state)->checked = true;
out:
    return status;
}

/* ---- The state machine ---- */

static tacit_status_t advance(tacit_leg_t *leg)
{
    const tacit_sparse_t *sparse = leg->state;

    if (!sparse->all_sent) {
        return send_frame(leg);
    }
    return sparse->complete == leg->comm->ranks - 1 ? check_sums(leg) : TACIT_PENDING;
}

static bool done(const tacit_leg_t *leg)
{
    return ((const tacit_sparse_t *)leg->state)->checked;
}

static void commit(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;

    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_item_t *item = leg->items[i];
        size_t        count = item->codec->tensor.count;
        float        *sums = item->codec->tensor.dtype == TACIT_FLOAT32 ? item->out : (float *)(void *)sparse->sums.data;
        double        began = tacit__seconds();

        add_ranks(leg, item, sums);
        tacit__codec_conclude(item->codec, item->op);
        tacit__codec_store(item->codec, sums, 0, count, item->out);
        tacit__codec_commit(item->codec, item->step);
        item->decode_seconds += tacit__seconds() - began;
    }
}

static void undo(tacit_leg_t *leg)
{
    tacit_sparse_t *sparse = leg->state;

    for (size_t i = 0; i < sparse->chosen; i++) {
        const tacit_item_t *item = leg->items[i];

        if (i < sparse->remembered) {
            tacit__codec_unsent(item->codec, item->in, &sparse->mine[i]);
        } else {
            tacit__codec_ungather(item->codec, item->in);
        }
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
