/* SPDX-License-Identifier: Apache-2.0 */
/* Writes, reads, gathers and sums records of index/value pairs. */
#include "records.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "bits.h"
#include "parts.h"

enum { KEPT_BYTES = 1 << 17, FIRST_ROOM = 16 };

/* ---- Writing ---- */

/* Bytes of a record of so many entries in a range of `count` elements, at most. */
static size_t record_bytes(const tacit_item_t *item, size_t count, size_t entries)
{
    const tacit_codec_t *codec = item->codec;

    return TACIT_RECORD_BYTES +
           tacit__round_up(codec->compressor->select->bound(codec->spec.compressor_config, count, entries), 4);
}

/* A frame's payload holds one record of one entry of any item, however long its directory. */
static size_t frame_capacity(const tacit_leg_t *leg)
{
    size_t capacity = leg->comm->config.chunk_bytes;

    for (size_t i = 0; i < leg->item_count; i++) {
        const size_t least = record_bytes(leg->items[i], leg->items[i]->codec->tensor.count, 1);

        capacity = capacity > least ? capacity : least;
    }
    return capacity;
}

/* The most entries, from the next one on, whose record fits into `room` bytes; at least one if the frame is empty. */
static size_t fitting(const tacit_source_t *source, size_t room, bool empty)
{
    size_t low = 0, high = source->entries->count - source->entry;

    while (low < high) {
        const size_t middle = low + (high - low + 1) / 2;

        if (record_bytes(source->item, source->count - source->first, middle) <= room) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low != 0 || !empty ? low : 1;
}

/* Writes a record of as many of the next entries as surely fit into `room` bytes, of one at least into an `empty` frame. Returns
   its bytes, padding included, and the record as it was written; 0: none fits. */
static size_t write_record(tacit_source_t *source, uint8_t *at, size_t room, bool empty, tacit_record_t *record_out)
{
    const tacit_item_t    *item = source->item;
    const tacit_entries_t *own = source->entries;
    const size_t           entries = fitting(source, room, empty), next = source->entry + entries;
    const size_t           end = next == own->count ? source->count : own->indices[next];
    const tacit_block_t    block = tacit__codec_block(item->codec, item->step, source->first, end - source->first);
    tacit_record_t         record = {source->number, (uint32_t)source->first, (uint32_t)block.count, 0};
    uint8_t               *payload = at + TACIT_RECORD_BYTES;
    size_t                 bytes, padded;

    if (entries == 0) {
        return 0;
    }
    bytes = item->codec->compressor->select->encode(&block, own->values + source->entry, own->indices + source->entry, entries,
                                                    payload, own->values + source->entry);
    if (source->a != NULL && block.count * sizeof(float) < bytes) {
        bytes = block.count * sizeof(float);
        memcpy(payload, source->a + source->first, bytes);
        record.item |= TACIT_RECORD_DENSE;
    }
    padded = tacit__round_up(bytes, 4);
    memset(payload + bytes, 0, padded - bytes);
    record.bytes = (uint32_t)bytes;
    memcpy(at, &record, sizeof record);
    source->entry = next;
    source->first = end;
    *record_out = record;
    return sizeof record + padded;
}

/* ---- Gathering ---- */

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

/* Makes room for one more thing of `size` bytes behind `count` of them. */
static tacit_status_t grow(const tacit_leg_t *leg, tacit_buffer_t *buffer, size_t count, size_t size)
{
    tacit_status_t status = TACIT_OK;
    tacit_buffer_t larger = {0};

    if ((count + 1) * size <= buffer->bytes) {
        return TACIT_OK;
    }
    TRY(tacit__buffer_take(&leg->comm->exchange, (count != 0 ? 2 * count : FIRST_ROOM) * size, &larger));
    if (count != 0) {
        memcpy(larger.data, buffer->data, count * size);
    }
    tacit__buffer_give(&leg->comm->exchange, buffer);
    *buffer = larger;
out:
    return status;
}

static tacit_status_t take_zeroed(const tacit_leg_t *leg, size_t bytes, tacit_buffer_t *buffer)
{
    tacit_status_t status = tacit__buffer_take(&leg->comm->exchange, bytes, buffer);

    if (status == TACIT_OK) {
        memset(buffer->data, 0, bytes);
    }
    return status;
}

tacit_status_t tacit__records_init(tacit_records_t *records, const tacit_leg_t *leg, const tacit_topology_t *topology, int rails)
{
    const size_t   origins = (size_t)(rails * topology->hosts);
    const int      rail = topology->rail_of[leg->comm->rank], host = topology->host_of[leg->comm->rank];
    tacit_status_t status;

    records->leg = leg;
    records->topology = topology;
    records->origins = (int)origins;
    records->own = rail < 0 ? -1 : (rails == 1 ? 0 : rail) * topology->hosts + host;
    records->open = records->origins - (records->own >= 0);
    records->capacity = frame_capacity(leg);
    records->scratch_entries = records->capacity / sizeof(uint16_t); /* no value is shorter */
    TRY(take_zeroed(leg, leg->item_count * origins * sizeof(tacit_origin_t), &records->lines));
    TRY(take_zeroed(leg, origins * sizeof(bool), &records->closed));
    TRY(tacit__buffer_take(&leg->comm->exchange, records->scratch_entries * (sizeof(uint32_t) + sizeof(float)),
                           &records->scratch));
out:
    return status;
}

void tacit__records_release(tacit_records_t *records)
{
    tacit_exchange_t *exchange;

    if (records->leg == NULL) {
        return;
    }
    exchange = &records->leg->comm->exchange;
    for (size_t i = 0; i < records->kept_count; i++) {
        tacit__buffer_give(exchange, (tacit_buffer_t *)(void *)records->kept.data + i);
    }
    tacit__buffer_give(exchange, &records->lines);
    tacit__buffer_give(exchange, &records->closed);
    tacit__buffer_give(exchange, &records->runs);
    tacit__buffer_give(exchange, &records->kept);
    tacit__buffer_give(exchange, &records->scratch);
}

tacit_status_t tacit__records_keep(tacit_records_t *records, size_t bytes, void *memory_out)
{
    tacit_status_t  status = TACIT_OK;
    tacit_buffer_t *last;
    uint8_t        *memory;

    bytes = tacit__round_up(bytes, 8);
    if (records->kept_count == 0 || bytes > records->room) {
        TRY(grow(records->leg, &records->kept, records->kept_count, sizeof *last));
        last = (tacit_buffer_t *)(void *)records->kept.data + records->kept_count;
        *last = (tacit_buffer_t){0};
        TRY(tacit__buffer_take(&records->leg->comm->exchange, bytes > KEPT_BYTES ? bytes : KEPT_BYTES, last));
        records->kept_count++;
        records->room = last->bytes;
    }
    last = (tacit_buffer_t *)(void *)records->kept.data + (records->kept_count - 1);
    memory = last->data + (last->bytes - records->room);
    records->room -= bytes;
    memcpy(memory_out, &memory, sizeof memory);
out:
    return status;
}

tacit_status_t tacit__entries_keep(tacit_records_t *records, size_t limit, tacit_entries_t *entries)
{
    tacit_status_t status;
    uint32_t      *memory;

    TRY(tacit__records_keep(records, limit * (sizeof *entries->indices + sizeof *entries->values + sizeof *entries->kept),
                            &memory));
    entries->indices = memory;
    entries->values = (float *)(memory + limit);
    entries->kept = entries->values + limit;
    entries->count = 0;
out:
    return status;
}

void tacit__records_trim(tacit_records_t *records, size_t bytes)
{
    records->room += bytes - bytes % 8;
}

tacit_status_t tacit__records_add(tacit_records_t *records, size_t item, int origin, uint32_t *indices, const float *values,
                                  size_t count)
{
    tacit_status_t  status = TACIT_OK;
    tacit_origin_t *line = tacit__records_origin(records, item, origin);

    if (count == 0) {
        return TACIT_OK;
    }
    TRY(grow(records->leg, &records->runs, records->run_count, sizeof(tacit_run_t)));
    *tacit__records_run(records, (uint32_t)++records->run_count) =
        (tacit_run_t){.indices = indices, .values = values, .count = count, .item = (uint32_t)item};
    if (line->run == 0) {
        line->run = (uint32_t)records->run_count;
    } else {
        tacit__records_run(records, line->last)->next = (uint32_t)records->run_count;
    }
    line->last = (uint32_t)records->run_count;
    line->largest = largest_of(values, count, line->largest);
out:
    return status;
}

/* The range's elements as they are. */
static size_t decode_dense(const tacit_record_t *record, const uint8_t *payload, uint32_t *indices, float *values,
                           size_t capacity)
{
    if (record->bytes != record->count * sizeof(float) || record->count > capacity) {
        return SIZE_MAX;
    }
    for (uint32_t i = 0; i < record->count; i++) {
        indices[i] = i;
    }
    memcpy(values, payload, record->bytes);
    return record->count;
}

int tacit__records_origin_of(const tacit_records_t *records, const tacit_frame_t *frame, bool passed)
{
    const tacit_topology_t *topology = records->topology;
    const int               rail = topology->rail_of[frame->rank], host = topology->host_of[frame->rank];
    const int               rank = records->leg->comm->rank;
    const bool              near = host == topology->host_of[rank];

    if (rail < 0 || (!near && (passed || rail != topology->rail_of[rank])) ||
        (passed && (frame->first >= (uint32_t)topology->hosts || frame->first == (uint32_t)host))) {
        return -1;
    }
    return rail * topology->hosts + (passed ? (int)frame->first : host);
}

/* Of a tensor, what an origin may say something of, or an owner's part. */
static tacit_range_t range_of(const tacit_records_t *records, const tacit_codec_t *codec, int origin, int owner)
{
    const tacit_topology_t *topology = records->topology;
    tacit_deal_t            deal;

    if (owner < 0) {
        return tacit__rail_range(codec, origin / topology->hosts, topology->rails);
    }
    deal = tacit__rail_deal(codec, owner / topology->hosts, topology->rails, topology->hosts);
    return (tacit_range_t){0, tacit__deal_part(&deal, (uint32_t)(owner % topology->hosts))};
}

/* Reads the record at payload + *at, which may be hostile, and moves *at behind it. Keeps its entries. False: it is none, or not
   what may follow. */
static tacit_status_t take_record(tacit_records_t *records, const tacit_frame_t *frame, int origin, int owner, size_t *at)
{
    const tacit_leg_t  *leg = records->leg;
    uint32_t           *indices = (uint32_t *)(void *)records->scratch.data, *kept;
    float              *values = (float *)(void *)(indices + records->scratch_entries);
    tacit_record_t      record;
    tacit_origin_t     *line;
    const tacit_item_t *item;
    tacit_block_t       block;
    tacit_status_t      status;
    tacit_range_t       range;
    size_t              room, count;
    bool                dense;

    if (frame->payload_bytes - *at < sizeof record) {
        return tacit__leg_unexpected(leg, frame);
    }
    memcpy(&record, frame->payload + *at, sizeof record);
    *at += sizeof record;
    room = frame->payload_bytes - *at;
    dense = (record.item & TACIT_RECORD_DENSE) != 0;
    record.item &= ~TACIT_RECORD_DENSE;
    if (record.item >= leg->item_count || record.bytes > room || tacit__round_up(record.bytes, 4) > room) {
        return tacit__leg_unexpected(leg, frame);
    }
    item = leg->items[record.item];
    line = tacit__records_origin(records, record.item, origin);
    range = range_of(records, item->codec, origin, owner);
    if (record.first < line->end || record.first < range.begin || record.first > range.end ||
        record.count > range.end - record.first) {
        return tacit__leg_unexpected(leg, frame);
    }
    block = tacit__codec_block(item->codec, item->step, record.first, record.count);
    count = dense ? decode_dense(&record, frame->payload + *at, indices, values, records->scratch_entries)
                  : item->codec->compressor->select->decode(&block, frame->payload + *at, record.bytes, indices, values,
                                                            records->scratch_entries);
    if (count == SIZE_MAX) {
        return tacit__leg_unexpected(leg, frame);
    }
    *at += tacit__round_up(record.bytes, 4);
    line->end = record.first + record.count;
    TRY(tacit__records_keep(records, count * (sizeof *kept + sizeof *values), &kept));
    for (size_t i = 0; i < count; i++) {
        kept[i] = record.first + indices[i];
    }
    memcpy(kept + count, values, count * sizeof *values);
    TRY(tacit__records_add(records, record.item, origin, kept, (const float *)(kept + count), count));
out:
    return status;
}

tacit_status_t tacit__records_take(tacit_records_t *records, const tacit_frame_t *frame, int origin, bool last, int owner)
{
    tacit_status_t status = TACIT_OK;
    bool          *closed = (bool *)records->closed.data + origin;

    if (*closed || (frame->total != 0 && frame->total != frame->index + 1)) {
        return tacit__leg_unexpected(records->leg, frame);
    }
    for (size_t at = 0; at < frame->payload_bytes;) {
        TRY(take_record(records, frame, origin, owner, &at));
    }
    *closed = last;
    records->open -= last;
out:
    return status;
}

/* ---- Sending ---- */

/* Fills a frame's payload with records; returns its bytes in *bytes_out. */
static tacit_status_t fill(const tacit_records_t *records, tacit_outlet_t *outlet, tacit_leg_t *leg, uint8_t *payload,
                           size_t *bytes_out)
{
    const uint64_t  copies = outlet->some != NULL ? (uint64_t)outlet->count
                             : outlet->to < 0     ? (uint64_t)leg->comm->ranks - 1
                                                  : outlet->to != leg->comm->rank;
    tacit_source_t *source = &outlet->source;
    tacit_status_t  status = TACIT_OK;
    size_t          used = 0, bytes = 1;

    while (outlet->item < outlet->limit && bytes != 0) {
        tacit_item_t *item = leg->items[outlet->item];
        size_t        elements = 0;
        double        began;

        if (!outlet->begun) {
            *source = (tacit_source_t){.item = item, .number = (uint32_t)outlet->item};
            TRY(outlet->begin(leg, outlet->item, source));
            outlet->begun = true;
        }
        began = tacit__seconds();
        if (source->entry < source->entries->count) {
            const size_t   entry = source->entry;
            tacit_record_t record;

            bytes = write_record(source, payload + used, records->capacity - used, used == 0, &record);
            if (bytes != 0 && outlet->wrote != NULL) {
                outlet->wrote(leg, source, entry, &record);
            }
            item->sent_bytes += copies * bytes;
            used += bytes;
            elements = source->entry - entry;
        }
        if (source->entry == source->entries->count) {
            if (outlet->finish != NULL) {
                TRY(outlet->finish(leg, outlet->item));
            }
            outlet->item++;
            outlet->begun = false;
        }
        tacit__item_worked(item, TACIT_TRACE_ENCODE, began, elements, outlet->to);
    }
    *bytes_out = used;
out:
    return status;
}

tacit_status_t tacit__outlet_send(tacit_records_t *records, tacit_outlet_t *outlet, tacit_leg_t *leg)
{
    const int      ranks = leg->comm->ranks, rank = leg->comm->rank;
    tacit_frame_t  frame = tacit__leg_frame(leg, outlet->kind);
    uint8_t       *message;
    tacit_status_t status;
    size_t         bytes;

    if (outlet->frames == TACIT_MOST_FRAMES) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages; raise chunk_bytes", rank, TACIT_MOST_FRAMES);
    }
    TRY(tacit__records_keep(records, TACIT_FRAME_HEADER_BYTES + records->capacity, &message));
    TRY(fill(records, outlet, leg, message + TACIT_FRAME_HEADER_BYTES, &bytes));
    tacit__records_trim(records, records->capacity - bytes);
    outlet->all_sent = outlet->item == leg->item_count;
    frame.index = outlet->frames++;
    frame.total = outlet->all_sent ? outlet->frames : 0;
    frame.payload_bytes = (uint32_t)bytes;
    bytes = tacit__frame_write(&frame, message);
    for (int i = 0; i < outlet->count; i++) {
        TRY(tacit__leg_send(leg, outlet->some[i], message, bytes));
    }
    for (int step = 1; outlet->some == NULL && step < ranks; step++) {
        const int peer = (rank + step) % ranks;

        if (outlet->to < 0 || outlet->to == peer) {
            TRY(tacit__leg_send(leg, peer, message, bytes));
        }
    }
out:
    return status;
}

/* ---- Choosing ---- */

tacit_status_t tacit__chosen_make(tacit_item_t *item, tacit_chosen_t *chosen)
{
    const tacit_range_t range = item->codec->range;
    const double        began = tacit__seconds();

    if (tacit__codec_choose(item->codec, item->step, item->input, &chosen->entries) != 0) {
        return tacit__item_fault(item);
    }
    chosen->chosen = true;
    tacit__item_worked(item, TACIT_TRACE_ENCODE, began, range.end - range.begin, -1);
    return TACIT_OK;
}

void tacit__chosen_sent(const tacit_item_t *item, tacit_chosen_t *chosen)
{
    tacit__codec_sent(item->codec, item->input, &chosen->entries);
    chosen->sent = true;
}

void tacit__chosen_undo(const tacit_item_t *item, const tacit_chosen_t *chosen)
{
    if (chosen->sent) {
        tacit__codec_unsent(item->codec, item->input, &chosen->entries);
    } else if (chosen->chosen) {
        tacit__codec_unchoose(item->codec, item->input);
    }
}

/* ---- The sum ---- */

static void rewind_lines(tacit_records_t *records, size_t item)
{
    for (int origin = 0; origin < records->origins; origin++) {
        tacit_origin_t *line = tacit__records_origin(records, item, origin);

        line->at = line->run;
        line->entry = 0;
    }
}

/* sums[0, count) := the elements of an item from `first` on. Units come in order, after rewind_lines(). */
static void sum_unit(tacit_records_t *records, size_t item, size_t first, size_t count, float *sums)
{
    const tacit_leg_t  *leg = records->leg;
    const tacit_item_t *of = leg->items[item];
    const float         scale = 1.0f / (float)leg->comm->ranks;
    const size_t        end = first + count;

    memset(sums, 0, count * sizeof *sums);
    for (int origin = 0; origin < records->origins; origin++) {
        tacit_origin_t *line = tacit__records_origin(records, item, origin);

        while (line->at != 0) {
            const tacit_run_t *run = tacit__records_run(records, line->at);
            size_t             entry = line->entry;

            for (; entry < run->count && run->indices[entry] < end; entry++) {
                sums[run->indices[entry] - first] += run->values[entry];
            }
            line->entry = entry;
            if (entry < run->count) {
                break;
            }
            line->at = run->next;
            line->entry = 0;
        }
    }
    for (size_t i = 0; !records->scaled && of->op == TACIT_AVERAGE && leg->comm->ranks > 1 && i < count; i++) {
        sums[i] *= scale;
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
static bool surely_fits(const tacit_records_t *records, size_t item)
{
    const tacit_item_t *of = records->leg->items[item];
    const float        *tracked;
    float               factor;
    double              total = 0.0;

    for (int origin = 0; origin < records->origins; origin++) {
        total += (double)tacit__records_origin(records, item, origin)->largest;
    }
    tracked = tracked_by(of, &factor);
    if (tracked != NULL) {
        total += (double)factor * (double)largest_of(tracked, of->codec->tensor.count, 0.0f);
    }
    return total < 0.5 * (double)FLT_MAX;
}

tacit_status_t tacit__sum_fault(const tacit_leg_t *leg, const tacit_item_t *item, size_t element)
{
    return tacit__fail(TACIT_ERR_VALUE,
                       "slot '%s' at step %" PRIu64 ": the sum over %d ranks leaves the range of float32 at element %zu;"
                       " nothing was changed. Skip the step, or set nonfinite to pass",
                       item->codec->name, item->step, leg->comm->ranks, element);
}

/* All ranks hold the same entries and find the same fault, and nothing has been written yet. */
static tacit_status_t check_sums(tacit_records_t *records, size_t item)
{
    const tacit_item_t *of = records->leg->items[item];
    float               factor;
    const float        *tracked = tracked_by(of, &factor);
    float              *sums = of->codec->d;
    size_t              units = 0;

    rewind_lines(records, item);
    for (size_t done = 0; done < of->codec->tensor.count; done += units) {
        units = tacit__min(of->codec->tensor.count - done, of->codec->unit);
        sum_unit(records, item, done, units, sums);
        for (size_t i = 0; i < units; i++) {
            const float result = tracked != NULL ? factor * tracked[done + i] + sums[i] : sums[i];

            if (!isfinite(result)) {
                return tacit__sum_fault(records->leg, of, done + i);
            }
        }
    }
    return TACIT_OK;
}

tacit_status_t tacit__records_check(tacit_records_t *records)
{
    tacit_status_t status = TACIT_OK;

    for (size_t i = 0; i < records->leg->item_count; i++) {
        if (records->leg->items[i]->codec->nonfinite != TACIT_NONFINITE_PASS && !surely_fits(records, i)) {
            TRY(check_sums(records, i));
        }
    }
out:
    return status;
}

static void commit_item(tacit_records_t *records, size_t item)
{
    tacit_item_t  *of = records->leg->items[item];
    tacit_codec_t *codec = of->codec;
    const bool     direct = codec->tensor.dtype == TACIT_FLOAT32;
    const double   began = tacit__seconds();
    size_t         units = 0;

    tacit__codec_conclude(codec, of->op);
    rewind_lines(records, item);
    for (size_t done = 0; done < codec->tensor.count; done += units) {
        float *sums = direct ? (float *)of->out + done : codec->d;

        units = tacit__min(codec->tensor.count - done, codec->unit);
        sum_unit(records, item, done, units, sums);
        tacit__codec_store(codec, sums, done, units, of->out);
    }
    tacit__codec_commit(codec, of->step);
    tacit__item_worked(of, TACIT_TRACE_DECODE, began, codec->tensor.count, -1);
}

void tacit__records_commit(tacit_records_t *records)
{
    for (size_t i = 0; i < records->leg->item_count; i++) {
        commit_item(records, i);
    }
}
