/* SPDX-License-Identifier: Apache-2.0 */
/* All-to-all: each rank sends a head and elements of its own to each other rank, chunk by chunk and to all of them by turns, so
   that no link waits for another and encoding, wire and decoding overlap. Carries no item. */
#include "alltoall_state.h"

#include <stdio.h>
#include <string.h>

#include "operation.h"

enum {
    UNDER_WAY = 4,      /* messages to one rank */
    AHEAD = 8,          /* that a rank is sent more of than have come from it: what is sent meanwhile keeps a link busy */
    OWN_BYTES = 1 << 18 /* of the own part are copied at once */
};

/* For messages: what is carried. */
enum { TITLE_BYTES = 160 };
static const char *title(const tacit_alltoall_t *job, char text[TITLE_BYTES])
{
    if (job->stages == NULL) {
        snprintf(text, TITLE_BYTES, "%.80s", job->name);
    } else {
        snprintf(text, TITLE_BYTES, "moe '%.80s', %s", job->name, job->stages[job->step % job->stage_count]);
    }
    return text;
}

static const tacit_alltoall_t *job_of(const tacit_leg_t *leg)
{
    return leg->operation->alltoall;
}

/* Payload of a message to a rank, at most. Every rank can receive a chunk; those of the same host may have agreed on more. */
size_t tacit__alltoall_chunk_bytes(const tacit_comm_t *comm, int rank)
{
    const tacit_peer_t *peer = &comm->exchange.peers[rank];
    const size_t        most = (peer->near ? TACIT_NEAR_CHUNKS : 1) * comm->config.chunk_bytes;

    return tacit__min(most, peer->capacity - TACIT_FRAME_HEADER_BYTES);
}

static size_t chunk_elements(const tacit_comm_t *comm, const tacit_values_t *values, int rank)
{
    const size_t grain = tacit__values_grain(values);

    return tacit__alltoall_chunk_bytes(comm, rank) / tacit__values_bytes(values, grain) * grain;
}

tacit_status_t tacit__alltoall_check(const tacit_comm_t *comm, const tacit_alltoall_t *alltoall)
{
    const size_t bytes = tacit__values_bytes(alltoall->values, tacit__values_grain(alltoall->values));

    return bytes <= comm->config.chunk_bytes
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_UNSUPPORTED,
                             "rank %d: %s: a block of '%s' takes %zu bytes, a message has %zu: use smaller blocks, or larger "
                             "chunk_bytes in tacit_config_t",
                             comm->rank, alltoall->name, alltoall->values->spec.text, bytes, comm->config.chunk_bytes);
}

/* ---- Memory ---- */

bool tacit__alltoall_carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    (void)codec;
    return false;
}

/* The index of a frame says no more. */
static tacit_status_t check_frames(const tacit_comm_t *comm, const tacit_alltoall_t *job, int rank)
{
    const size_t most = TACIT_MOST_FRAMES * chunk_elements(comm, job->values, rank);

    return rank == comm->rank || job->parts[rank].send <= most
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT,
                             "rank %d: %s: %zu elements for rank %d are more than %d messages; raise chunk_bytes", comm->rank,
                             job->name, job->parts[rank].send, rank, TACIT_MOST_FRAMES);
}

tacit_status_t tacit__alltoall_prepare(tacit_leg_t *leg)
{
    const tacit_alltoall_t *job = job_of(leg);
    const size_t            ranks = (size_t)leg->comm->ranks;
    tacit_alltoall_state_t *state;
    tacit_status_t          status;
    tacit_buffer_t          memory = {0};

    TRY(tacit__alltoall_check(leg->comm, job));
    TRY(tacit__buffer_take(&leg->comm->exchange, sizeof *state + ranks * (sizeof *state->to + sizeof *state->from), &memory));
    state = leg->state = (void *)memory.data;
    memset(state, 0, memory.bytes);
    state->memory = memory;
    state->to = (void *)(state + 1);
    state->from = (void *)(state->to + ranks);
    state->turn = (leg->comm->rank + 1) % leg->comm->ranks;
    state->unsent = state->due = leg->comm->ranks - 1;
    for (size_t rank = 0; rank < ranks; rank++) {
        state->from[rank].met = job->meet == NULL;
        TRY(check_frames(leg->comm, job, (int)rank));
    }
out:
    return status;
}

void tacit__alltoall_clear(tacit_leg_t *leg)
{
    tacit_alltoall_state_t *state = leg->state;
    tacit_buffer_t          memory;

    for (int rank = 0; state != NULL && rank < leg->comm->ranks; rank++) {
        tacit__outbox_release(&state->to[rank].outbox, &leg->comm->exchange);
        tacit__free(state->from[rank].head);
    }
    if (state != NULL) {
        memory = state->memory;
        tacit__buffer_give(&leg->comm->exchange, &memory);
    }
    leg->state = NULL;
}

/* ---- Sending ---- */

tacit_status_t tacit__alltoall_encode(const tacit_leg_t *leg, int rank, size_t count, uint8_t *payload)
{
    const tacit_alltoall_t *job = job_of(leg);
    tacit_to_t             *to = &((tacit_alltoall_state_t *)leg->state)->to[rank];
    const tacit_part_t     *part = &job->parts[rank];
    char                    text[TITLE_BYTES];

    if (count != 0 && tacit__values_encode(job->values, part->in, to->elements, count, payload, part->decoded) != 0) {
        return tacit__fail(
            TACIT_ERR_VALUE,
            "rank %d: %s: what goes to rank %d holds NaN or infinity, or what '%s' cannot hold, from element %zu on; "
            "set nonfinite to pass, or look where it comes from",
            leg->comm->rank, title(job, text), rank, job->values->spec.text, to->elements);
    }
    to->elements += count;
    return TACIT_OK;
}

/* The next message to a rank: the next piece of its head, or of its elements, of which there is one, if it were empty. */
static tacit_status_t send_next(const tacit_leg_t *leg, int rank)
{
    const tacit_alltoall_t *job = job_of(leg);
    tacit_alltoall_state_t *state = leg->state;
    tacit_to_t             *to = &state->to[rank];
    const tacit_part_t     *part = &job->parts[rank];
    const bool              head = job->meet != NULL && (to->heads == 0 || to->head < part->head_bytes);
    tacit_frame_t           frame = tacit__leg_frame(leg, head ? TACIT_FRAME_HEAD : TACIT_FRAME_ROWS);
    const size_t            room = TACIT_FRAME_HEADER_BYTES + tacit__alltoall_chunk_bytes(leg->comm, rank);
    uint8_t                *message;
    const double            began = tacit__seconds();
    tacit_status_t          status;

    TRY(tacit__outbox_take(&to->outbox, &leg->comm->exchange, room, &message));
    if (head) {
        frame.index = to->heads++;
        frame.total = (uint32_t)part->head_bytes;
        frame.payload_bytes = (uint32_t)tacit__min(part->head_bytes - to->head, tacit__alltoall_chunk_bytes(leg->comm, rank));
        if (frame.payload_bytes != 0) {
            memcpy(message + TACIT_FRAME_HEADER_BYTES, part->head + to->head, frame.payload_bytes);
        }
        to->head += frame.payload_bytes;
    } else {
        frame.index = to->rows++;
        frame.total = (uint32_t)part->send;
        frame.first = (uint32_t)to->elements;
        frame.count = (uint32_t)tacit__min(part->send - to->elements, chunk_elements(leg->comm, job->values, rank));
        frame.payload_bytes = (uint32_t)tacit__values_bytes(job->values, frame.count);
        TRY(tacit__alltoall_encode(leg, rank, frame.count, message + TACIT_FRAME_HEADER_BYTES));
    }
    leg->operation->alltoall->encode_seconds += tacit__seconds() - began;
    TRY(tacit__leg_send(leg, rank, message, tacit__frame_write(&frame, message)));
    state->unsent -= !head && to->elements == part->send;
out:
    return status;
}

static bool is_sent(const tacit_leg_t *leg, int rank)
{
    const tacit_alltoall_t       *job = job_of(leg);
    const tacit_alltoall_state_t *state = leg->state;
    const tacit_to_t             *to = &state->to[rank];

    return to->rows != 0 && to->elements == job->parts[rank].send;
}

static bool is_here(const tacit_from_t *from, const tacit_part_t *part)
{
    return from->rows != 0 && from->elements == part->receive;
}

/* Two ranks send each other their parts at one pace. Without that all soon wait in the network's queues, where chance decides who
   comes through, and links are idle in the end, when some parts are there and others have hardly begun. */
static bool is_ahead(const tacit_leg_t *leg, int rank)
{
    const tacit_alltoall_state_t *state = leg->state;
    const tacit_from_t           *from = &state->from[rank];

    return state->to[rank].rows >= from->rows + AHEAD && !is_here(from, &job_of(leg)->parts[rank]);
}

/* A piece of the own part, which nobody waits for. */
static bool copy_own(const tacit_leg_t *leg)
{
    const tacit_alltoall_t *job = job_of(leg);
    const tacit_part_t     *part = &job->parts[leg->comm->rank];
    tacit_alltoall_state_t *state = leg->state;
    const size_t            element = tacit__values_element_bytes(job->values);
    const size_t            count = tacit__min(part->send - state->own, OWN_BYTES / element);

    if (count != 0) {
        memcpy((uint8_t *)part->out + state->own * element, (const uint8_t *)part->in + state->own * element, count * element);
        state->own += count;
    }
    return count != 0;
}

tacit_status_t tacit__alltoall_advance(tacit_leg_t *leg)
{
    tacit_alltoall_state_t *state = leg->state;
    const int               ranks = leg->comm->ranks;

    for (int i = 0; state->unsent != 0 && i < ranks; i++) {
        const int rank = state->turn;

        state->turn = (state->turn + 1) % ranks;
        if (rank != leg->comm->rank && !is_sent(leg, rank) && !is_ahead(leg, rank) &&
            !tacit__outbox_is_full(&state->to[rank].outbox, &leg->comm->exchange, UNDER_WAY)) {
            return send_next(leg, rank);
        }
    }
    return copy_own(leg) ? TACIT_OK : TACIT_PENDING;
}

bool tacit__alltoall_done(const tacit_leg_t *leg)
{
    const tacit_alltoall_state_t *state = leg->state;

    return state->unsent == 0 && state->due == 0 && state->own == job_of(leg)->parts[leg->comm->rank].send;
}

/* ---- Receiving ---- */

tacit_status_t tacit__alltoall_take_head(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_from_t           *from = &((tacit_alltoall_state_t *)leg->state)->from[frame->rank];
    const tacit_alltoall_t *job = job_of(leg);

    if (from->met || frame->total > job->head_most || frame->payload_bytes > frame->total - from->head_here) {
        return tacit__leg_unexpected(leg, frame);
    }
    if (from->head == NULL) {
        from->head_bytes = frame->total;
        from->head = tacit__alloc_unset(from->head_bytes + 1);
        if (from->head == NULL) {
            return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for %zu bytes from rank %d", leg->comm->rank, job->name,
                               from->head_bytes, frame->rank);
        }
    }
    if (frame->total != from->head_bytes) {
        return tacit__leg_unexpected(leg, frame);
    }
    memcpy(from->head + from->head_here, frame->payload, frame->payload_bytes);
    from->head_here += frame->payload_bytes;
    from->met = from->head_here == from->head_bytes;
    return from->met ? job->meet(job->context, frame->rank, from->head, from->head_bytes, &job->parts[frame->rank]) : TACIT_OK;
}

tacit_status_t tacit__alltoall_take_rows(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_alltoall_t       *job = leg->operation->alltoall;
    tacit_alltoall_state_t *state = leg->state;
    tacit_from_t           *from = &state->from[frame->rank];
    const tacit_part_t     *part = &job->parts[frame->rank];
    const double            began = tacit__seconds();
    char                    text[TITLE_BYTES];

    if (from->met && frame->total != (uint32_t)part->receive) {
        return tacit__fail(TACIT_ERR_MISMATCH, "rank %d sends rank %d %u elements in %s, where %zu are expected", frame->rank,
                           leg->comm->rank, frame->total, title(job, text), part->receive);
    }
    if (!from->met || frame->first != from->elements || frame->count > part->receive - from->elements ||
        frame->first % tacit__values_grain(job->values) != 0 || is_here(from, part) ||
        frame->payload_bytes != tacit__values_bytes(job->values, frame->count)) {
        return tacit__leg_unexpected(leg, frame);
    }
    if (frame->count != 0) {
        tacit__values_decode(job->values, frame->payload, from->elements, frame->count, part->out);
    }
    from->rows++;
    from->elements += frame->count;
    state->due -= from->elements == part->receive;
    job->decode_seconds += tacit__seconds() - began;
    return TACIT_OK;
}

tacit_status_t tacit__alltoall_arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    switch (frame->kind) {
    case TACIT_FRAME_HEAD:
        return tacit__alltoall_take_head(leg, frame);
    case TACIT_FRAME_ROWS:
        return tacit__alltoall_take_rows(leg, frame);
    default:
        return tacit__leg_unexpected(leg, frame);
    }
}

void tacit__alltoall_commit(tacit_leg_t *leg)
{
    const tacit_alltoall_t *job = job_of(leg);
    const tacit_exchange_t *exchange = &leg->comm->exchange;
    const double            work = job->encode_seconds + job->decode_seconds;
    const double            elapsed = tacit__seconds() - leg->operation->began;

    if (job->made != NULL) {
        ++*job->made;
    }
    job->counters->calls++;
    job->counters->bytes_in += job->dense_bytes;
    job->counters->dense_bytes += job->dense_bytes;
    job->counters->wire_bytes += exchange->bytes_sent;
    job->counters->network_bytes += exchange->bytes_sent - exchange->bytes_near;
    job->counters->encode_seconds += job->encode_seconds;
    job->counters->decode_seconds += job->decode_seconds;
    job->counters->wire_seconds += elapsed > work ? elapsed - work : 0.0;
}

void tacit__alltoall_undo(tacit_leg_t *leg)
{
    (void)leg;
}

const tacit_schedule_t tacit__schedule_alltoall = {
    .name = "alltoall",
    .summary = "rows of numbers from every rank to every other",
    .framed = true,
    .round = 23,
    .rounds = 1,
    .carries = tacit__alltoall_carries,
    .prepare = tacit__alltoall_prepare,
    .advance = tacit__alltoall_advance,
    .done = tacit__alltoall_done,
    .arrived = tacit__alltoall_arrived,
    .commit = tacit__alltoall_commit,
    .undo = tacit__alltoall_undo,
    .release = tacit__alltoall_clear,
};

/* ---- One operation ---- */

void tacit__alltoall_begin(tacit_alltoall_t *alltoall)
{
    if (alltoall->made != NULL) {
        alltoall->step = alltoall->values->key.step = *alltoall->made;
    }
}

tacit_status_t tacit__alltoall_enter(tacit_comm_t *comm, const char *what)
{
    tacit_status_t status = tacit__comm_enter(comm, false);

    if (status == TACIT_OK && comm->group_open) {
        status = tacit__fail(TACIT_ERR_STATE, "rank %d: a group is open, of which %s() cannot be part", comm->rank, what);
        tacit__comm_leave(comm);
    }
    return status;
}

tacit_status_t tacit__alltoall_start(tacit_comm_t *comm, const char *what, tacit_alltoall_t *alltoall, tacit_status_t mine,
                                     tacit_request_t **operation_out)
{
    const tacit_status_t status = tacit__operation_create(comm, what, NULL, 0, mine, operation_out);

    if (status == TACIT_OK) {
        (*operation_out)->alltoall = alltoall;
    } else {
        tacit__alltoall_release(alltoall);
    }
    return status;
}

tacit_status_t tacit__alltoall_run(tacit_comm_t *comm, const char *what, tacit_alltoall_t *alltoall, tacit_status_t mine)
{
    tacit_operation_t *operation;
    tacit_status_t     status;

    TRY(tacit__alltoall_start(comm, what, alltoall, mine, &operation));
    TRY(tacit__operation_wait(operation));
out:
    return status;
}

void tacit__alltoall_release(tacit_alltoall_t *alltoall)
{
    if (alltoall != NULL && alltoall->owned) {
        tacit__values_fini(alltoall->values);
        tacit__free(alltoall);
    }
}
