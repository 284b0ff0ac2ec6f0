/* SPDX-License-Identifier: Apache-2.0 */
/* A pipelined ring for float32 that stays as it is: every rank sends to the next one and receives from the one before, so that
   both directions of every link are busy and no link carries what another could. The tensors are worked off in slabs, each of
   which goes round twice in parts, once to be added up and once as the result. Slabs follow each other without a gap, and hold
   so few chunks that only these are in memory besides the tensors: doc/wire-format.md, "Ring frames". */
#include <string.h>

#include "codec_unit.h"
#include "operation.h"
#include "outbox.h"

enum {
    ROWS = 16, /* chunks of a part in a slab: as many are under way between two ranks, so that no link waits for a rank */
    CHUNK_MULTIPLE = 16, /* elements: 64 bytes */
};

typedef struct tacit_ring_item {
    tacit_item_t *item;
    size_t        begin, end; /* in the concatenation of all items */
    float        *result;     /* its beginning: `out`, or memory of ours where that is `in` */
} tacit_ring_item_t;

/* A place in the sequence of messages, which is the same on every wire: slab after slab, step after step, row after row. */
typedef struct tacit_ring_place {
    size_t   slab, elements; /* first element, and how many */
    size_t   chunk;          /* elements of a chunk at most */
    size_t   rows;           /* chunks of each part */
    int      step;           /* 0 … N - 2: sums; N - 1 … 2N - 3: results */
    size_t   row;
    uint32_t contributions, results; /* before this place */
} tacit_ring_place_t;

typedef struct tacit_ring {
    tacit_buffer_t     memory;    /* of this struct */
    tacit_buffer_t     held;      /* results of items whose `out` is `in` */
    size_t             elements;  /* of all items */
    size_t             chunk;     /* elements of a chunk at most */
    size_t             total;     /* contributions to a rank, and as many results */
    tacit_ring_place_t next, due; /* to be sent, to arrive */
    tacit_outbox_t     outbox;    /* few: what a rank sends depends on what has come round */
    size_t             item_count;
    tacit_ring_item_t  items[];
} tacit_ring_t;

/* ---- Layout: the same on every rank ---- */

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    double factor;

    return comm->ranks > 1 && codec->tensor.dtype == TACIT_FLOAT32 && codec->feedback == NULL &&
           tacit__codec_is_blockwise(codec) &&
           codec->compressor->quality(codec->spec.compressor_config, codec->tensor.count, &factor) == TACIT_LOSSLESS;
}

/* Without a native call, where the ring is full all the time. Beside one that has to be measured. */
static bool pays(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return comm->transport.allreduce == NULL &&
           codec->tensor.count * sizeof(float) >= (size_t)comm->ranks * ROWS * comm->config.chunk_bytes;
}

static void enter_slab(const tacit_leg_t *leg, tacit_ring_place_t *place)
{
    const tacit_ring_t *ring = leg->state;
    const size_t        ranks = (size_t)leg->comm->ranks;

    place->elements = tacit__min(ring->elements - place->slab, ranks * ROWS * ring->chunk);
    if (place->elements != 0) {
        place->rows = ((place->elements + ranks - 1) / ranks + ring->chunk - 1) / ring->chunk;
        place->chunk = tacit__round_up((place->elements + ranks * place->rows - 1) / (ranks * place->rows), CHUNK_MULTIPLE);
    }
}

static bool is_end(const tacit_ring_t *ring, const tacit_ring_place_t *place)
{
    return place->slab == ring->elements;
}

static bool is_sum(const tacit_leg_t *leg, const tacit_ring_place_t *place)
{
    return place->step < leg->comm->ranks - 1;
}

static void go_on(const tacit_leg_t *leg, tacit_ring_place_t *place)
{
    *(is_sum(leg, place) ? &place->contributions : &place->results) += 1;
    if (++place->row < place->rows) {
        return;
    }
    place->row = 0;
    if (++place->step < 2 * (leg->comm->ranks - 1)) {
        return;
    }
    place->step = 0;
    place->slab += place->elements;
    enter_slab(leg, place);
}

/* The elements of the message that `sender` sends at a place: its part goes one rank back with every step, and ends, as a sum, at
   the rank of its number. */
static void range_of(const tacit_leg_t *leg, const tacit_ring_place_t *place, int sender, size_t *first_out, size_t *end_out)
{
    const int    ranks = leg->comm->ranks;
    const size_t part = (size_t)((sender + 2 * ranks - 1 - place->step) % ranks);
    const size_t begin = tacit__min((part * place->rows + place->row) * place->chunk, place->elements);

    *first_out = place->slab + begin;
    *end_out = place->slab + tacit__min(begin + place->chunk, place->elements);
}

/* What an item has of [at, end), beginning at `at`: returns its elements, of which the first is *first_out in the item. */
static size_t piece_at(const tacit_ring_t *ring, size_t at, size_t end, const tacit_ring_item_t **item_out, size_t *first_out)
{
    size_t low = 0, high = ring->item_count - 1; /* the first item that ends behind `at` */

    while (low < high) {
        const size_t middle = low + (high - low) / 2;

        if (ring->items[middle].end > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    *item_out = &ring->items[low];
    *first_out = at - ring->items[low].begin;
    return tacit__min(end, ring->items[low].end) - at;
}

/* ---- Prepare and release ---- */

static tacit_status_t count_messages(const tacit_leg_t *leg, tacit_ring_t *ring)
{
    const size_t             ranks = (size_t)leg->comm->ranks, slab = ranks * ROWS * ring->chunk;
    const tacit_ring_place_t rest = {.slab = ring->elements / slab * slab};
    tacit_ring_place_t       last = rest;

    enter_slab(leg, &last);
    ring->total = (ranks - 1) * (ring->elements / slab * ROWS + last.rows);
    return ring->total <= TACIT_MOST_FRAMES
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: more than %d messages to a rank; raise chunk_bytes", leg->comm->rank,
                             TACIT_MOST_FRAMES);
}

/* Results go to `out` as they come, but not over an `in` that an error must find unchanged. */
static tacit_status_t place_results(const tacit_leg_t *leg, tacit_ring_t *ring)
{
    tacit_status_t status = TACIT_OK;
    size_t         held = 0;

    for (size_t i = 0; i < ring->item_count; i++) {
        held += leg->items[i]->in == leg->items[i]->out ? ring->items[i].end - ring->items[i].begin : 0;
    }
    if (held != 0) {
        TRY(tacit__buffer_take(&leg->comm->exchange, held * sizeof(float), &ring->held));
    }
    held = 0;
    for (size_t i = 0; i < ring->item_count; i++) {
        ring->items[i].result = leg->items[i]->out;
        if (leg->items[i]->in == leg->items[i]->out && ring->held.data != NULL) {
            ring->items[i].result = (float *)(void *)ring->held.data + held;
            held += ring->items[i].end - ring->items[i].begin;
        }
    }
out:
    return status;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_status_t status;
    tacit_buffer_t memory = {0};
    tacit_ring_t  *ring;

    TRY(tacit__buffer_take(&leg->comm->exchange, sizeof *ring + leg->item_count * sizeof *ring->items, &memory));
    ring = leg->state = (void *)memory.data;
    *ring = (tacit_ring_t){.memory = memory, .item_count = leg->item_count};
    ring->chunk = leg->comm->config.chunk_bytes / sizeof(float) / CHUNK_MULTIPLE * CHUNK_MULTIPLE;
    for (size_t i = 0; i < leg->item_count; i++) {
        ring->items[i] = (tacit_ring_item_t){.item = leg->items[i], .begin = ring->elements};
        ring->elements += leg->items[i]->codec->tensor.count;
        ring->items[i].end = ring->elements;
    }
    TRY(count_messages(leg, ring));
    TRY(place_results(leg, ring));
    enter_slab(leg, &ring->next);
    enter_slab(leg, &ring->due);
out:
    return status;
}

static void release(tacit_leg_t *leg)
{
    tacit_ring_t     *ring = leg->state;
    tacit_exchange_t *exchange = &leg->comm->exchange;
    tacit_buffer_t    memory;

    if (ring != NULL) {
        tacit__outbox_release(&ring->outbox, exchange);
        tacit__buffer_give(exchange, &ring->held);
        memory = ring->memory;
        tacit__buffer_give(exchange, &memory);
    }
    leg->state = NULL;
}

/* ---- Messages ---- */

static tacit_status_t take_message(const tacit_leg_t *leg, uint8_t **message_out)
{
    tacit_ring_t *ring = leg->state;

    return tacit__outbox_take(&ring->outbox, &leg->comm->exchange, TACIT_FRAME_HEADER_BYTES + ring->chunk * sizeof(float),
                              message_out);
}

static float *values_in(uint8_t *message)
{
    return (float *)(void *)(message + TACIT_FRAME_HEADER_BYTES);
}

/* Sends the next message of the sequence, which holds the elements [first, end). */
static tacit_status_t send_message(const tacit_leg_t *leg, uint8_t *message, size_t first, size_t end)
{
    tacit_ring_t            *ring = leg->state;
    const bool               sum = is_sum(leg, &ring->next);
    tacit_frame_t            frame = tacit__leg_frame(leg, sum ? TACIT_FRAME_CONTRIBUTION : TACIT_FRAME_RESULT);
    const tacit_ring_item_t *item;
    size_t                   begin, bytes;
    tacit_status_t           status;

    frame.index = sum ? ring->next.contributions : ring->next.results;
    frame.total = (uint32_t)ring->total;
    frame.count = (uint32_t)(end - first);
    frame.payload_bytes = (uint32_t)((end - first) * sizeof(float));
    bytes = tacit__frame_write(&frame, message);
    TRY(tacit__leg_send(leg, (leg->comm->rank + 1) % leg->comm->ranks, message, bytes));
    for (size_t pieces; first < end; first += pieces) {
        pieces = piece_at(ring, first, end, &item, &begin);
        item->item->sent_bytes += pieces * sizeof(float);
    }
    go_on(leg, &ring->next);
out:
    return status;
}

/* values = the own elements [at, end), and what has come of them from the ranks before, if anything. */
static tacit_status_t add_own(const tacit_leg_t *leg, size_t at, size_t end, const uint8_t *sums, float *values)
{
    const tacit_ring_t      *ring = leg->state;
    const tacit_ring_item_t *own;
    size_t                   first;

    for (size_t pieces; at < end; at += pieces) {
        const double began = tacit__seconds();
        uint32_t     faults;

        pieces = piece_at(ring, at, end, &own, &first);
        faults = tacit__codec_own(own->item->codec, own->item->in, first, pieces, values, false);
        if (faults != 0) {
            return tacit__item_fault(own->item);
        }
        if (sums != NULL) {
            tacit__codec_add(own->item->codec, own->item->step, sums, first, pieces, values, true);
            sums += pieces * sizeof *values;
        }
        values += pieces;
        tacit__item_worked(own->item, sums != NULL ? TACIT_TRACE_ADD : TACIT_TRACE_ENCODE, began, pieces, -1);
    }
    return TACIT_OK;
}

/* The sums of all ranks are the result, in units of each item's operation. */
static tacit_status_t finish_sums(const tacit_leg_t *leg, size_t at, size_t end, float *values)
{
    const tacit_ring_t      *ring = leg->state;
    const float              scale = 1.0f / (float)leg->comm->ranks;
    const tacit_ring_item_t *own;
    size_t                   first;

    for (size_t pieces; at < end; at += pieces, values += pieces) {
        pieces = piece_at(ring, at, end, &own, &first);
        for (size_t i = 0; own->item->op == TACIT_AVERAGE && i < pieces; i++) {
            values[i] *= scale;
        }
        if (own->item->codec->nonfinite != TACIT_NONFINITE_PASS && !tacit__unit_is_finite(values, pieces)) {
            return tacit__item_fault(own->item);
        }
    }
    return TACIT_OK;
}

static void keep_results(const tacit_leg_t *leg, size_t at, size_t end, const uint8_t *values)
{
    const tacit_ring_item_t *own;
    size_t                   first;

    for (size_t pieces; at < end; at += pieces, values += pieces * sizeof(float)) {
        const double began = tacit__seconds();

        pieces = piece_at(leg->state, at, end, &own, &first);
        memcpy(own->result + first, values, pieces * sizeof(float));
        tacit__item_worked(own->item, TACIT_TRACE_DECODE, began, pieces, -1);
    }
}

static tacit_status_t send_own(const tacit_leg_t *leg)
{
    const tacit_ring_t *ring = leg->state;
    uint8_t            *message;
    tacit_status_t      status;
    size_t              first, end;

    range_of(leg, &ring->next, leg->comm->rank, &first, &end);
    TRY(take_message(leg, &message));
    TRY(add_own(leg, first, end, NULL, values_in(message)));
    TRY(send_message(leg, message, first, end));
out:
    return status;
}

/* Sends on what has come: with the own elements added, or as the result that it is. */
static tacit_status_t send_on(const tacit_leg_t *leg, size_t first, size_t end, const uint8_t *payload, bool sum)
{
    const tacit_ring_t *ring = leg->state;
    uint8_t            *message;
    tacit_status_t      status;

    TRY(take_message(leg, &message));
    if (sum) {
        TRY(add_own(leg, first, end, payload, values_in(message)));
    } else {
        memcpy(values_in(message), payload, (end - first) * sizeof(float));
    }
    if (sum && !is_sum(leg, &ring->next)) {
        TRY(finish_sums(leg, first, end, values_in(message)));
        keep_results(leg, first, end, (const uint8_t *)(const void *)values_in(message));
    }
    TRY(send_message(leg, message, first, end));
out:
    return status;
}

/* ---- The state machine ---- */

static tacit_status_t advance(tacit_leg_t *leg)
{
    const tacit_ring_t *ring = leg->state;

    return !is_end(ring, &ring->next) && ring->next.step == 0 ? send_own(leg) : TACIT_PENDING;
}

static bool done(const tacit_leg_t *leg)
{
    const tacit_ring_t *ring = leg->state;

    return is_end(ring, &ring->next) && is_end(ring, &ring->due);
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_ring_t            *ring = leg->state;
    const tacit_ring_place_t due = ring->due;
    const int                ranks = leg->comm->ranks, before = (leg->comm->rank + ranks - 1) % ranks;
    const bool               sum = is_sum(leg, &due);
    tacit_status_t           status = TACIT_OK;
    size_t                   first, end;

    range_of(leg, &due, before, &first, &end);
    if (is_end(ring, &due) || frame->rank != before || frame->kind != (sum ? TACIT_FRAME_CONTRIBUTION : TACIT_FRAME_RESULT) ||
        frame->index != (sum ? due.contributions : due.results) || frame->count != end - first ||
        frame->payload_bytes != (end - first) * sizeof(float)) {
        return tacit__leg_unexpected(leg, frame);
    }
    /* What must be sent before this is what needs nothing from others. */
    while (due.step < 2 * (ranks - 1) - 1 && ring->next.step == 0) {
        TRY(send_own(leg));
    }
    if (!sum) {
        keep_results(leg, first, end, frame->payload);
    }
    if (due.step < 2 * (ranks - 1) - 1) {
        TRY(send_on(leg, first, end, frame->payload, sum));
    }
    go_on(leg, &ring->due);
out:
    return status;
}

static void commit(tacit_leg_t *leg)
{
    const tacit_ring_t *ring = leg->state;

    for (size_t i = 0; i < ring->item_count; i++) {
        const tacit_ring_item_t *own = &ring->items[i];

        if (own->result != own->item->out && own->end != own->begin) {
            memcpy(own->item->out, own->result, (own->end - own->begin) * sizeof *own->result);
        }
    }
}

/* Memory has no part in it, and `in` is as it was. */
static void undo(tacit_leg_t *leg)
{
    (void)leg;
}

const tacit_schedule_t tacit__schedule_ring = {
    .name = "ring",
    .summary = "reduce-scatter and all-gather around a ring, in chunks: both directions of every link are busy",
    .framed = true,
    .round = 6,
    .rounds = 1,
    .carries = carries,
    .pays = pays,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = commit,
    .undo = undo,
    .release = release,
};
