/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors on a GPU: a bundle's step, of which the two exchanges are made here. Messages leave in pieces, and so they come: while
   one is sent, the GPU copies the next one to memory of the host, or from there. What is wrong with values a GPU tells in the
   bundle's messages, so that all ranks find it at the end alike; frames have checksums and verdicts as everywhere. Nothing is
   kept in memory, and nothing written to `out`, before the verdict of all. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "fused.h"
#include "operation.h"
#include "staging.h"

typedef enum {
    BEGUN,
    ENCODED, /* contributions leave, and come */
    REDUCED, /* so do results */
    JUDGED,  /* the GPU finds whether all is well */
    AGREED
} phase_t;

typedef struct tacit_device_leg {
    tacit_fused_t *fused;
    phase_t        phase;
    size_t         contributions, results; /* pieces that have not come yet */
    size_t         rounds;                 /* of contributions: pieces to the rank that gets most */
    size_t         index, result;          /* the next piece to copy, of contributions and of the result; … */
    int            turn;                   /* … the former goes to the rank so far behind this one */
    size_t         copied, sent, came;     /* pieces: to cells, from cells, and into others */
} tacit_device_leg_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return codec->module != NULL;
}

/* What a bundle says is of this rank. */
static tacit_status_t of_rank(const tacit_leg_t *leg, tacit_status_t status)
{
    char text[TACIT_TEXT_BYTES];

    if (status == TACIT_OK || status == TACIT_PENDING || strncmp(tacit_last_error(), "rank ", 5) == 0) {
        return status;
    }
    snprintf(text, sizeof text, "%s", tacit_last_error());
    return tacit__fail(status, "rank %d: %.480s", leg->comm->rank, text);
}

/* ---- Prepare ---- */

static size_t pieces_of(const tacit_leg_t *leg, size_t bytes)
{
    const size_t piece = leg->comm->staging->piece_bytes;

    return (bytes + piece - 1) / piece;
}

static tacit_status_t check_items(const tacit_leg_t *leg)
{
    for (size_t i = 1; i < leg->item_count; i++) {
        if (leg->items[i]->op != leg->items[0]->op) {
            return tacit__fail(TACIT_ERR_UNSUPPORTED,
                               "rank %d: slots '%s' and '%s' are on a GPU and in one group, but one is summed and the other "
                               "averaged: make a group for each operator",
                               leg->comm->rank, leg->items[0]->codec->name, leg->items[i]->codec->name);
        }
    }
    return TACIT_OK;
}

static void count_pieces(const tacit_leg_t *leg, tacit_device_leg_t *device)
{
    const tacit_bundle_t *bundle = device->fused->bundle;
    const int             rank = leg->comm->rank;

    device->turn = 1;
    for (int other = 0; other < leg->comm->ranks; other++) {
        const size_t pieces = pieces_of(leg, tacit_bundle_scatter_bytes(bundle, rank, other));

        if (other != rank) {
            device->rounds = pieces > device->rounds ? pieces : device->rounds;
            device->contributions += pieces_of(leg, tacit_bundle_scatter_bytes(bundle, other, rank));
            device->results += pieces_of(leg, device->fused->gather_bytes);
        }
    }
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_staging_t    *staging = leg->comm->staging;
    void               *given = leg->items[0]->slot->given;
    tacit_device_leg_t *device;
    tacit_fused_t      *fused = NULL;
    tacit_status_t      status;

    TRY(check_items(leg));
    TRY(of_rank(leg, tacit__fused_of(leg, &fused)));
    device = tacit__leg_take(leg, 1, sizeof *device);
    if (device == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu slots on a GPU", leg->comm->rank, leg->item_count);
        goto out;
    }
    *device = (tacit_device_leg_t){.fused = fused};
    count_pieces(leg, device);
    for (size_t i = 0; i < TACIT_CELLS; i++) {
        staging->out[i].sends = 0; /* what was sent before has left */
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_item_t *item = leg->items[i];

        fused->in[i] = item->in;
        fused->out[i] = item->out;
        item->codec->key.step = item->step - leg->items[0]->step;
        item->sent_bytes = fused->sent_bytes[i];
    }
    TRY(tacit__staging_check(staging, staging->module->follow(staging->stream, given), "the stream of 'in'"));
    leg->state = device;
out:
    return status;
}

/* ---- The GPU ---- */

static tacit_status_t too_long(const tacit_leg_t *leg)
{
    return tacit__fail(TACIT_ERR_TIMEOUT,
                       "rank %d: %s, slot '%.80s': the GPU has not done its work in %lld ms: what is on the communicator's "
                       "stream before it has to end (TACIT_TIMEOUT_MS sets the limit)",
                       leg->comm->rank, leg->operation->what, leg->items[0]->codec->name,
                       (long long)leg->comm->config.timeout_ms);
}

static bool is_late(const tacit_leg_t *leg, double since)
{
    return leg->comm->config.timeout_ms > 0 && tacit__seconds() - since > 1e-3 * (double)leg->comm->config.timeout_ms;
}

/* Whether the GPU has come to an event, for which this rank has waited since then. TACIT_PENDING: not yet. */
static tacit_status_t look(const tacit_leg_t *leg, void *event, double since)
{
    const tacit_staging_t *staging = leg->comm->staging;
    bool                   reached = false;
    tacit_status_t         status;

    TRY(tacit__staging_check(staging, staging->module->reached(event, &reached), "a GPU's work"));
    if (!reached) {
        status = is_late(leg, since) ? too_long(leg) : TACIT_PENDING;
    }
out:
    return status;
}

/* The same, waiting: for a copy, or for what kernels do at an operation's end. */
static tacit_status_t await(const tacit_leg_t *leg, void *event)
{
    const double   began = tacit__seconds();
    tacit_status_t status = look(leg, event, began);

    while (status == TACIT_PENDING) {
        sched_yield();
        status = look(leg, event, began);
    }
    return status;
}

static tacit_status_t mark(const tacit_leg_t *leg, void *event, void *stream)
{
    return tacit__staging_check(leg->comm->staging, leg->comm->staging->module->record(event, stream), "an event");
}

/* ---- Sending ---- */

/* The next piece of a contribution: all ranks in turn, beginning behind this one, so that no link waits. NULL: there is none. */
static const uint8_t *next_contribution(const tacit_leg_t *leg, tacit_device_leg_t *device, tacit_cell_t *cell)
{
    const tacit_bundle_t *bundle = device->fused->bundle;
    const size_t          piece = leg->comm->staging->piece_bytes;

    while (device->phase >= ENCODED && device->index < device->rounds) {
        const int    peer = (leg->comm->rank + device->turn) % leg->comm->ranks;
        const size_t bytes = tacit_bundle_scatter_bytes(bundle, leg->comm->rank, peer), index = device->index;

        device->turn++;
        if (device->turn == leg->comm->ranks) {
            device->turn = 1;
            device->index++;
        }
        if (index < pieces_of(leg, bytes)) {
            cell->kind = TACIT_FRAME_CONTRIBUTION;
            cell->peer = peer;
            cell->index = index;
            cell->total = pieces_of(leg, bytes);
            cell->bytes = tacit__min(piece, bytes - index * piece);
            return device->fused->sent + bundle->sent_at[peer] + index * piece;
        }
    }
    return NULL;
}

/* The next one of what this rank has reduced, for all. */
static const uint8_t *next_result(const tacit_leg_t *leg, tacit_device_leg_t *device, tacit_cell_t *cell)
{
    const size_t piece = leg->comm->staging->piece_bytes, bytes = device->fused->gather_bytes, index = device->result;

    if (device->phase < REDUCED || index == pieces_of(leg, bytes) || leg->comm->ranks == 1) {
        return NULL;
    }
    device->result++;
    cell->kind = TACIT_FRAME_RESULT;
    cell->peer = -1;
    cell->index = index;
    cell->total = pieces_of(leg, bytes);
    cell->bytes = tacit__min(piece, bytes - index * piece);
    return device->fused->gathered + (size_t)leg->comm->rank * bytes + index * piece;
}

/* Has the GPU copy the next piece to a free cell. TACIT_PENDING: there is none of either. */
static tacit_status_t copy_piece(const tacit_leg_t *leg, tacit_device_leg_t *device)
{
    tacit_staging_t *staging = leg->comm->staging;
    tacit_cell_t    *cell = &staging->out[device->copied % TACIT_CELLS];
    const uint8_t   *piece = NULL;
    tacit_status_t   status;

    if (device->copied - device->sent < TACIT_CELLS && leg->comm->exchange.sends_done >= cell->sends) {
        piece = next_contribution(leg, device, cell);
        piece = piece != NULL ? piece : next_result(leg, device, cell);
    }
    if (piece == NULL) {
        return TACIT_PENDING;
    }
    TRY(tacit__staging_check(
        staging, staging->module->copy(cell->message + TACIT_FRAME_HEADER_BYTES, piece, cell->bytes, staging->stream), "a copy"));
    TRY(mark(leg, cell->copied, staging->stream));
    device->copied++;
out:
    return status;
}

/* Sends the piece that has been copied first. TACIT_PENDING: none is there. */
static tacit_status_t send_piece(const tacit_leg_t *leg, tacit_device_leg_t *device)
{
    tacit_cell_t  *cell = &leg->comm->staging->out[device->sent % TACIT_CELLS];
    tacit_frame_t  frame;
    tacit_status_t status = TACIT_PENDING;

    if (device->sent == device->copied) {
        goto out;
    }
    TRY(look(leg, cell->copied, leg->operation->moved));
    frame = tacit__leg_frame(leg, cell->kind);
    frame.index = (uint32_t)cell->index;
    frame.total = (uint32_t)cell->total;
    frame.payload_bytes = (uint32_t)cell->bytes;
    tacit__frame_write(&frame, cell->message);
    for (int turn = 1; turn < leg->comm->ranks; turn++) {
        const int peer = (leg->comm->rank + turn) % leg->comm->ranks;

        if (cell->peer < 0 || cell->peer == peer) {
            TRY(tacit__leg_send(leg, peer, cell->message, TACIT_FRAME_HEADER_BYTES + cell->bytes));
        }
    }
    cell->sends = leg->comm->exchange.send_count;
    device->sent++;
out:
    return status;
}

/* ---- The state machine ---- */

/* What has come is there for the kernels that follow. */
static tacit_status_t join_arrivals(const tacit_leg_t *leg)
{
    const tacit_staging_t *staging = leg->comm->staging;
    tacit_status_t         status;

    TRY(mark(leg, staging->event, staging->arrivals));
    TRY(tacit__staging_check(staging, staging->module->follow(staging->stream, staging->event), "copies to a GPU"));
out:
    return status;
}

/* The next step of the bundle, where all that it needs has come. TACIT_PENDING: something has not. */
static tacit_status_t step(const tacit_leg_t *leg, tacit_device_leg_t *device)
{
    tacit_staging_t *staging = leg->comm->staging;
    tacit_fused_t   *fused = device->fused;
    tacit_status_t   status = TACIT_PENDING;

    switch (device->phase) {
    case BEGUN:
        TRY(tacit_bundle_encode(fused->bundle, leg->items[0]->step, fused->in, fused->sent));
        break;
    case ENCODED:
        if (device->contributions != 0) {
            goto out;
        }
        TRY(join_arrivals(leg));
        TRY(tacit_bundle_reduce(fused->bundle, fused->received, fused->gathered + (size_t)leg->comm->rank * fused->gather_bytes));
        break;
    case REDUCED:
        if (device->results != 0) {
            goto out;
        }
        TRY(join_arrivals(leg));
        TRY(tacit__bundle_device_judge(fused->bundle, fused->gathered, staging->told));
        TRY(mark(leg, staging->event, staging->stream));
        break;
    case JUDGED:
        TRY(look(leg, staging->event, leg->operation->moved));
        TRY(tacit__bundle_device_verdict(fused->bundle, staging->told));
        break;
    case AGREED:
        goto out;
    }
    device->phase++;
out:
    return status;
}

/* What others wait for comes first. */
static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_device_leg_t *device = leg->state;
    tacit_status_t      status = send_piece(leg, device);

    if (status == TACIT_PENDING) {
        status = copy_piece(leg, device);
    }
    return status == TACIT_PENDING ? of_rank(leg, step(leg, device)) : status;
}

static bool done(const tacit_leg_t *leg)
{
    const tacit_device_leg_t *device = leg->state;
    const size_t              results = leg->comm->ranks > 1 ? pieces_of(leg, device->fused->gather_bytes) : 0;

    return device->phase == AGREED && device->index == device->rounds && device->result == results &&
           device->sent == device->copied;
}

/* Copies a piece to where it belongs, by way of a cell. */
static tacit_status_t take_piece(const tacit_leg_t *leg, tacit_device_leg_t *device, const tacit_frame_t *frame, uint8_t *to)
{
    const tacit_staging_t *staging = leg->comm->staging;
    tacit_cell_t          *cell = &leg->comm->staging->in[device->came % TACIT_CELLS];
    tacit_status_t         status;

    if (cell->busy) { /* copies wait for nothing but each other: this one is about to end */
        TRY(await(leg, cell->copied));
    }
    memcpy(cell->message, frame->payload, frame->payload_bytes);
    TRY(tacit__staging_check(staging, staging->module->copy(to, cell->message, frame->payload_bytes, staging->arrivals),
                             "a copy"));
    TRY(mark(leg, cell->copied, staging->arrivals));
    cell->busy = true;
    device->came++;
out:
    return status;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_device_leg_t *device = leg->state;
    const bool          contributes = frame->kind == TACIT_FRAME_CONTRIBUTION;
    const size_t        piece = leg->comm->staging->piece_bytes, at = frame->index * piece;
    const size_t        bytes = contributes ? tacit_bundle_scatter_bytes(device->fused->bundle, frame->rank, leg->comm->rank)
                                            : device->fused->gather_bytes;
    uint8_t            *to = contributes ? device->fused->received + device->fused->received_at[frame->rank]
                                         : device->fused->gathered + (size_t)frame->rank * bytes;
    tacit_status_t      status;

    if ((!contributes && frame->kind != TACIT_FRAME_RESULT) || at >= bytes ||
        frame->payload_bytes != tacit__min(piece, bytes - at)) {
        return tacit__leg_unexpected(leg, frame);
    }
    TRY(take_piece(leg, device, frame, to + at));
    *(contributes ? &device->contributions : &device->results) -= 1;
out:
    return status;
}

/* Waits for what kernels do at an operation's end: `in` and `out` are the caller's again. A GPU that fails there fails alone: the
   others may have heard that all is well. So nothing works here any more. */
static void settle(const tacit_leg_t *leg, tacit_status_t launched)
{
    const tacit_staging_t *staging = leg->comm->staging;
    tacit_status_t         status = launched;

    if (status == TACIT_OK) {
        status = mark(leg, staging->event, staging->stream);
    }
    if (status == TACIT_OK) {
        status = await(leg, staging->event);
    }
    if (status != TACIT_OK) {
        leg->operation->fault = status;
        tacit__comm_break(leg->comm);
    }
}

static void commit(tacit_leg_t *leg)
{
    const tacit_fused_t *fused = ((const tacit_device_leg_t *)leg->state)->fused;

    settle(leg, tacit__bundle_conclude(fused->bundle, fused->gathered, fused->out));
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_forget_former(leg->items[i]->codec);
    }
}

static void undo(tacit_leg_t *leg)
{
    tacit_bundle_cancel(((const tacit_device_leg_t *)leg->state)->fused->bundle);
    settle(leg, TACIT_OK);
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_disown(leg->items[i]->codec);
    }
}

const tacit_schedule_t tacit__schedule_device = {
    .name = "device",
    .summary = "tensors on a GPU: reduce-scatter and all-gather of a bundle's messages, staged in pieces",
    .device = TACIT_CUDA,
    .framed = true,
    .round = 19,
    .rounds = 1,
    .carries = carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = commit,
    .undo = undo,
};
