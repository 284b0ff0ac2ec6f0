/* SPDX-License-Identifier: Apache-2.0 */
/* Runs operations. The framed part of one ends with verdicts: each rank, when its own work is done or a fault is known, sends its
   status to all, twice (a repeated message is passed over, so the loss of one does no harm); the operation's status is that of
   the lowest rank whose verdict is a fault, so it is the same everywhere, and nothing is written to memory or `out` for good
   before. */
#include "operation.h"

#include "alltoall.h"
#include "automatic.h"

#include <assert.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "staging.h"

enum { FRAMES_AT_ONCE = 8 };              /* of one peer before others and the own work have a turn */
static const double longest_grace = 1.0;  /* seconds; see give_up() */
static const double longest_pause = 0.01; /* seconds between two advances that count as waiting */

/* ---- Making ---- */

static int compare_items(const void *left, const void *right)
{
    uint64_t a = ((const tacit_item_t *)left)->slot->id, b = ((const tacit_item_t *)right)->slot->id;

    return (a > b) - (a < b);
}

/* Keeps the first fault that this rank has found. Damage that comes after its verdict is of no account: all that it needed is
   here, and a damaged message can only be one of another's two verdicts. A whole verdict on another operation is: where there are
   no other frames, on empty or native slots, it is the first to tell, and every rank meets one. */
static void set_fault(tacit_operation_t *operation, tacit_status_t fault)
{
    if (fault != TACIT_OK && operation->fault == TACIT_OK && (!operation->judged || fault == TACIT_ERR_MISMATCH)) {
        operation->late = operation->judged;
        operation->fault = fault;
        snprintf(operation->fault_text, sizeof operation->fault_text, "%s", tacit_last_error());
    }
}

/* The operation that was destroyed last, if it has room enough, or a new one. NULL: no memory. */
static tacit_operation_t *allocate_room(tacit_comm_t *comm, size_t count)
{
    tacit_operation_t *operation = comm->recent;

    if (operation != NULL && operation->room >= count) {
        comm->recent = NULL;
        return operation;
    }
    operation = tacit__alloc(1, sizeof *operation);
    if (operation == NULL) {
        return NULL;
    }
    operation->items = tacit__alloc(count, sizeof *operation->items);
    operation->order = tacit__alloc(count, sizeof *operation->order);
    operation->room = count;
    if (operation->items == NULL || operation->order == NULL) {
        tacit__operation_free(operation);
        return NULL;
    }
    return operation;
}

/* An operation with room for its items, or the communicator's spare one with none, whose fault is that there is no memory. */
static tacit_operation_t *allocate(tacit_comm_t *comm, size_t count)
{
    tacit_operation_t *operation = allocate_room(comm, count);

    if (operation != NULL) {
        operation->comm = comm;
        operation->item_count = count;
        return operation;
    }
    operation = comm->spare;
    if (operation != NULL) {
        comm->spare = NULL;
        operation->comm = comm;
        set_fault(operation,
                  tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for an operation on %zu slots", comm->rank, count));
    }
    return operation;
}

/* Where tensors are on a GPU: what is on the caller's stream now comes before their reduction. */
static tacit_status_t note_stream(const tacit_operation_t *operation)
{
    const tacit_comm_t *comm = operation->comm;
    size_t              first = 0;

    while (first < operation->item_count && operation->items[first].codec->module == NULL) {
        first++;
    }
    return first < operation->item_count ? tacit__staging_note(comm->staging, operation->items[first].slot->given, comm->stream)
                                         : TACIT_OK;
}

tacit_status_t tacit__operation_create(tacit_comm_t *comm, const char *what, const tacit_item_t *items, size_t count,
                                       tacit_status_t fault, tacit_operation_t **operation_out)
{
    tacit_operation_t **last = &comm->queue;
    tacit_operation_t  *operation;
    const char         *error = tacit_last_error(); /* of the fault, if there is one: all will return it, and say whose it is */
    char                text[TACIT_TEXT_BYTES], whose[16] = "";

    if (fault != TACIT_OK && strncmp(error, "rank ", 5) != 0) {
        snprintf(whose, sizeof whose, "rank %d: ", comm->rank);
    }
    snprintf(text, sizeof text, "%s%.480s", whose, error);
    operation = allocate(comm, count);
    if (operation == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for one more operation", comm->rank);
    }
    operation->what = what;
    if (fault != TACIT_OK) {
        set_fault(operation, tacit__fail_text(fault, text));
    }
    if (operation->item_count != 0) {
        memcpy(operation->items, items, count * sizeof *items);
        qsort(operation->items, count, sizeof *items, compare_items);
        for (size_t i = 0; i < count; i++) {
            operation->items[i].slot->users++;
        }
        set_fault(operation, note_stream(operation));
    }
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = operation;
    *operation_out = operation;
    return TACIT_OK;
}

/* ---- Starting ---- */

/* Gives every schedule the items that it carries. */
static void make_legs(tacit_operation_t *operation)
{
    tacit_item_t **next = operation->order;

    if (operation->text != NULL) {
        operation->legs[operation->leg_count++] = (tacit_leg_t){.schedule = &tacit__schedule_agreement};
    }
    if (operation->alltoall != NULL) {
        operation->legs[operation->leg_count++] =
            (tacit_leg_t){.schedule = tacit__alltoall_schedule(operation->comm, operation->alltoall)};
    }
    for (size_t s = 0; tacit__schedule_at(s) != NULL; s++) {
        tacit_leg_t leg = {.schedule = tacit__schedule_at(s), .items = next};

        for (size_t i = 0; i < operation->item_count; i++) {
            if (operation->items[i].schedule == leg.schedule) {
                leg.items[leg.item_count++] = &operation->items[i];
                operation->items[i].round = leg.schedule->round;
            }
        }
        if (leg.item_count != 0) {
            assert(operation->leg_count < TACIT_LEGS);
            next += leg.item_count;
            operation->legs[operation->leg_count++] = leg;
        }
    }
}

void tacit__native_note_call(tacit_comm_t *comm, uint64_t subject, uint64_t call)
{
    /* Two products, not a byte at a time: that would be half of a small call's cost. */
    const uint64_t hash = (comm->history ^ subject) * 0x9e3779b97f4a7c15u;

    comm->history = (uint32_t)((hash ^ call) * 0x9e3779b97f4a7c15u >> 32);
}

void tacit__native_note(tacit_comm_t *comm, const tacit_item_t *item)
{
    tacit__native_note_call(comm, item->codec->key.slot, item->step << 1 | (item->op == TACIT_AVERAGE));
}

static void start(tacit_operation_t *operation)
{
    tacit_comm_t *comm = operation->comm;

    operation->began = operation->moved = tacit__seconds();
    for (size_t i = 0; i < operation->item_count; i++) {
        tacit_item_t *item = &operation->items[i];

        item->codec = item->slot->codec; /* it may be another one since the call */
        item->step = item->slot->step;
        item->input = item->in;
        tacit__codec_dress(item->codec, item->step == 0);
        item->schedule = item->slot->schedule;
        if (item->codec->is_first) {
            item->schedule = tacit__schedule_of_first(comm, item->codec, item->schedule);
        }
    }
    if (operation->alltoall != NULL) {
        tacit__alltoall_begin(operation->alltoall);
    }
    if (comm->trace != NULL) {
        tacit__operation_trace(operation);
    }
    tacit__operation_identify(operation);
    if (operation->fault == TACIT_OK) {
        make_legs(operation);
    }
    operation->framed = operation->fault != TACIT_OK || comm->environment.check != 0;
    for (size_t i = 0; i < operation->leg_count; i++) {
        tacit_leg_t *leg = &operation->legs[i];

        leg->comm = comm;
        leg->operation = operation;
        leg->round = leg->schedule->round;
        operation->framed = operation->framed || leg->schedule->framed;
    }
    operation->phase = operation->framed ? TACIT_FRAMED : TACIT_NATIVE;
    if (operation->framed) {
        tacit__exchange_begin(&comm->exchange);
        operation->identity.sequence = comm->exchange.sequence;
    }
    for (size_t i = 0; i < operation->leg_count && operation->fault == TACIT_OK; i++) {
        set_fault(operation, operation->legs[i].schedule->prepare(&operation->legs[i]));
    }
}

/* ---- Ending ---- */

/* Waiting is shared out by payload, and so are the frames' headers among the items that travel in frames. */
static void count_items(tacit_operation_t *operation)
{
    const tacit_comm_t *comm = operation->comm;
    double              work = 0.0, elapsed = operation->ended - operation->began;
    uint64_t            payload = 0, framed = 0, sent = operation->framed ? comm->exchange.bytes_sent : 0;
    const uint64_t      near = operation->framed ? comm->exchange.bytes_near : 0;

    for (size_t i = 0; i < operation->item_count; i++) {
        work += operation->items[i].encode_seconds + operation->items[i].decode_seconds;
        payload += operation->items[i].sent_bytes;
        framed += operation->items[i].schedule->framed ? operation->items[i].sent_bytes : 0;
    }
    for (size_t i = 0; i < operation->item_count; i++) {
        tacit_item_t     *item = &operation->items[i];
        tacit_counters_t *counters = &item->slot->counters;
        double            equal = 1.0 / (double)operation->item_count;
        double            share = payload != 0 ? (double)item->sent_bytes / (double)payload : equal;
        double            of_frames = framed != 0 ? (double)item->sent_bytes / (double)framed : equal;

        counters->calls++;
        counters->bytes_in += item->codec->tensor.count * tacit__codec_element_bytes(item->codec);
        counters->dense_bytes += item->slot->ring_bytes;
        item->wire_bytes = item->schedule->framed ? (uint64_t)(of_frames * (double)sent + 0.5) : item->sent_bytes;
        counters->wire_bytes += item->wire_bytes;
        counters->network_bytes += item->schedule->framed ? (uint64_t)(of_frames * (double)(sent - near) + 0.5)
                                                          : tacit__native_network_bytes(comm, item);
        counters->encode_seconds += item->encode_seconds;
        counters->decode_seconds += item->decode_seconds;
        counters->wire_seconds += share * (elapsed > work ? elapsed - work : 0.0);
    }
}

void *tacit__leg_take(tacit_leg_t *leg, size_t count, size_t size)
{
    tacit_buffer_t *buffer = &leg->held[leg->held_count];
    size_t          bytes;

    assert(leg->held_count < TACIT_HELD);
    if (__builtin_mul_overflow(count, size, &bytes) || tacit__buffer_take(&leg->comm->exchange, bytes, buffer) != TACIT_OK) {
        return NULL;
    }
    leg->held_count++;
    return buffer->data;
}

void tacit__leg_release(tacit_leg_t *leg)
{
    if (leg->schedule->release != NULL) {
        leg->schedule->release(leg);
    }
    while (leg->held_count > 0) {
        tacit__buffer_give(&leg->comm->exchange, &leg->held[--leg->held_count]);
    }
    leg->state = NULL;
}

static void finish(tacit_operation_t *operation, tacit_status_t status, const char *text)
{
    tacit_comm_t *comm = operation->comm;

    operation->status = status;
    snprintf(operation->status_text, sizeof operation->status_text, "%s", status != TACIT_OK ? text : "");
    if (tacit__status_is_fatal(status)) {
        tacit__exchange_abandon(&comm->exchange);
        (void)tacit__fail_text(status, operation->status_text);
        tacit__comm_break(comm);
    }
    for (size_t i = 0; i < operation->leg_count; i++) {
        tacit__leg_release(&operation->legs[i]);
    }
    operation->ended = tacit__seconds();
    if (status == TACIT_OK) {
        count_items(operation);
        for (size_t i = 0; i < operation->item_count; i++) {
            operation->items[i].slot->step++;
        }
    }
    if (comm->trace != NULL && operation->phase != TACIT_QUEUED) {
        tacit__operation_traced(operation);
    }
    for (size_t i = 0; i < operation->item_count; i++) {
        tacit_slot_t *slot = operation->items[i].slot;

        tacit__codec_dress(slot->codec, false);
        if (status == TACIT_OK) {
            tacit__automatic_paid(slot);
        }
        if (--slot->users == 0 && slot->doomed) {
            tacit__slot_free(slot);
        }
    }
    operation->phase = TACIT_FINISHED;
    comm->queue = operation->next;
    operation->next = comm->finished;
    comm->finished = operation;
}

/* For messages: what an operation is on, ", slot 'NAME' at step 7 and 3 more", or nothing where there is none. */
enum { SUBJECT_BYTES = 160 };
static const char *subject(const tacit_operation_t *operation, char text[SUBJECT_BYTES])
{
    const tacit_item_t *first = operation->items;
    char                others[32] = "";

    text[0] = '\0';
    if (operation->item_count > 1) {
        snprintf(others, sizeof others, " and %zu more", operation->item_count - 1);
    }
    if (operation->item_count != 0) {
        snprintf(text, SUBJECT_BYTES, ", slot '%.80s' at step %" PRIu64 "%s", first->codec->name, first->step, others);
    }
    return text;
}

static tacit_status_t nothing_from(const tacit_operation_t *operation, int rank)
{
    char text[SUBJECT_BYTES];

    return tacit__fail(TACIT_ERR_TIMEOUT,
                       "%s%s: nothing from rank %d for %lld ms; is it alive, and in the same call? (TACIT_TIMEOUT_MS sets the "
                       "limit)",
                       operation->what, subject(operation, text), rank, (long long)operation->comm->config.timeout_ms);
}

/* After a time-out, who has not even answered that: another rank, or this one where it comes to find that the others have
   given up. -1: nobody. */
static int late_rank(const tacit_operation_t *operation)
{
    const tacit_comm_t *comm = operation->comm;

    for (int peer = 0; peer < comm->ranks; peer++) {
        if (peer != comm->rank && !comm->exchange.peers[peer].judged) {
            return peer;
        }
    }
    return operation->fault == TACIT_OK && tacit__seconds() - operation->began < 0.5e-3 * (double)comm->config.timeout_ms
               ? comm->rank
               : -1;
}

/* The framed part is over on this rank. */
static void conclude(tacit_operation_t *operation)
{
    const char    *text = "";
    tacit_status_t status = tacit__verdict_status(operation, &text);
    bool           native = false;
    int            late = status == TACIT_ERR_TIMEOUT ? late_rank(operation) : -1;

    if (late >= 0) {
        (void)nothing_from(operation, late);
        text = tacit_last_error();
    }
    if (operation->told > 0) {
        tacit_trace_t      *trace = operation->comm->trace;
        const tacit_event_t event = tacit__trace_event(TACIT_TRACE_VERDICT, operation->told, tacit__trace_now(trace));

        tacit__trace_add(trace, &event);
    }
    for (size_t i = 0; i < operation->leg_count; i++) {
        tacit_leg_t *leg = &operation->legs[i];

        native = native || !leg->schedule->framed;
        if (leg->schedule->framed && leg->state != NULL) {
            (status == TACIT_OK ? leg->schedule->commit : leg->schedule->undo)(leg);
        }
    }
    if (status == TACIT_OK && operation->fault != TACIT_OK) { /* a GPU has failed since */
        status = operation->fault;
        text = operation->comm->broken_text;
    }
    if (status == TACIT_OK && native) {
        operation->phase = TACIT_NATIVE;
    } else {
        finish(operation, status, text);
    }
}

/* A fault that ends the communicator, whose text is the last error. */
static void set_fatal(tacit_operation_t *operation, tacit_status_t status)
{
    operation->late = operation->judged;
    operation->fault = tacit__status_is_fatal(status) ? status : TACIT_ERR_TRANSPORT;
    snprintf(operation->fault_text, sizeof operation->fault_text, "%s", tacit_last_error());
}

/* The transport has failed: nobody is waited for any more. */
static void collapse(tacit_operation_t *operation, tacit_status_t status)
{
    set_fatal(operation, status);
    conclude(operation);
}

/* Time is up here, or for another rank, as its verdict says. Where several find that at once, they need a moment to hear of each
   other and agree on whose text all return. */
static void give_up(tacit_operation_t *operation, bool *moved)
{
    double limit = 1e-3 * (double)operation->comm->config.timeout_ms;
    double grace = limit > 0 && limit / 4 < longest_grace ? limit / 4 : longest_grace;

    if (operation->gave_up == 0) {
        operation->gave_up = tacit__seconds();
    }
    if (tacit__verdict_is_complete(operation) || tacit__seconds() - operation->gave_up > grace) {
        conclude(operation);
        *moved = true;
    }
}

/* ---- Advancing ---- */

static tacit_status_t dispatch(tacit_operation_t *operation, int peer, const tacit_frame_t *frame)
{
    tacit_status_t status = tacit__operation_check_identity(operation, frame);

    if (frame->kind == TACIT_FRAME_VERDICT) {
        tacit__verdict_take(&operation->comm->exchange.peers[peer], frame);
        return status;
    }
    if (status != TACIT_OK || tacit__verdict_is_fault(operation)) {
        return status;
    }
    for (size_t i = 0; i < operation->leg_count; i++) {
        tacit_leg_t *leg = &operation->legs[i];

        if (leg->schedule->framed && frame->round >= leg->round && frame->round < leg->round + leg->schedule->rounds) {
            return leg->schedule->arrived(leg, frame);
        }
    }
    return tacit__fail(TACIT_ERR_FRAME, "rank %d: %s: a frame from rank %d belongs to no part of the operation",
                       operation->comm->rank, operation->what, peer);
}

/* Takes in what has come. Only errors of the transport are returned; others become this rank's fault. */
static tacit_status_t receive_all(tacit_operation_t *operation, bool *moved)
{
    tacit_exchange_t *exchange = &operation->comm->exchange;
    tacit_status_t    status = TACIT_OK;

    for (int peer = 0; peer < operation->comm->ranks; peer++) {
        for (int i = 0; i < FRAMES_AT_ONCE && peer != operation->comm->rank && !exchange->peers[peer].judged; i++) {
            const double  began = tacit__trace_now(exchange->trace);
            tacit_frame_t frame;

            status = tacit__exchange_receive(exchange, peer, &frame);
            if (status == TACIT_PENDING) {
                break;
            }
            *moved = true;
            if (status == TACIT_ERR_FRAME) {
                set_fault(operation, status);
                continue;
            }
            TRY(status);
            set_fault(operation, dispatch(operation, peer, &frame));
            TRY(tacit__exchange_release(exchange, peer));
            if (exchange->trace != NULL) {
                tacit__trace_received(exchange->trace, &frame, began);
            }
        }
    }
    status = TACIT_OK;
out:
    return status;
}

/* Lets the legs of one kind work. Returns whether all of them are done. */
static bool advance_legs(tacit_operation_t *operation, bool framed, bool *moved)
{
    bool done = true;

    for (size_t i = 0; i < operation->leg_count && operation->fault == TACIT_OK; i++) {
        tacit_leg_t   *leg = &operation->legs[i];
        tacit_status_t status;

        if (leg->schedule->framed != framed || leg->schedule->done(leg)) {
            continue;
        }
        status = leg->schedule->advance(leg);
        *moved = *moved || status != TACIT_PENDING;
        if (status != TACIT_OK && status != TACIT_PENDING) {
            set_fault(operation, status);
        }
        done = done && leg->schedule->done(leg);
    }
    return done;
}

static tacit_status_t advance_framed(tacit_operation_t *operation, bool *moved)
{
    tacit_status_t status;
    bool           done, sent;

    TRY(tacit__exchange_poll_sends(&operation->comm->exchange, &sent));
    TRY(receive_all(operation, moved));
    done = !tacit__verdict_is_fault(operation) && advance_legs(operation, true, moved);
    if (!operation->judged && (done || tacit__verdict_is_fault(operation))) {
        operation->told = tacit__trace_now(operation->comm->trace);
        TRY(tacit__verdict_send(operation));
        *moved = true;
    }
    if (tacit__verdict_is_complete(operation) && sent) {
        TRY(tacit__exchange_poll_sends(&operation->comm->exchange, &sent));
        if (sent) {
            conclude(operation);
            *moved = true;
        }
    }
out:
    return status;
}

/* Some rank has given up: what it waited for will not come here either. */
static bool is_hopeless(const tacit_operation_t *operation)
{
    const char *text = NULL;

    return tacit__status_is_fatal(tacit__verdict_status(operation, &text));
}

/* Guesses whom this rank waits for; the answers to its verdict will show. */
static tacit_status_t out_of_time(const tacit_operation_t *operation)
{
    const tacit_comm_t *comm = operation->comm;
    int                 late = -1;
    char                text[SUBJECT_BYTES];

    for (int peer = 0; peer < comm->ranks && late < 0; peer++) {
        late = peer != comm->rank && !comm->exchange.peers[peer].judged ? peer : late;
    }
    if (late < 0) { /* all say that they are done, but this rank is not */
        return tacit__fail(TACIT_ERR_TIMEOUT, "rank %d: %s%s: a message that another rank has sent did not come in %lld ms",
                           comm->rank, operation->what, subject(operation, text), (long long)comm->config.timeout_ms);
    }
    return nothing_from(operation, late);
}

static void advance(tacit_operation_t *operation, bool *moved)
{
    tacit_status_t status = TACIT_OK;

    if (operation->phase == TACIT_QUEUED) {
        start(operation);
        *moved = true;
    }
    if (operation->phase == TACIT_FRAMED) {
        status = advance_framed(operation, moved);
        if (status != TACIT_OK) {
            collapse(operation, status);
            *moved = true;
            return;
        }
        if (operation->phase == TACIT_FRAMED && is_hopeless(operation)) {
            give_up(operation, moved);
        }
    }
    if (operation->phase == TACIT_NATIVE) {
        bool done = advance_legs(operation, false, moved);

        if (operation->fault != TACIT_OK) {
            finish(operation, operation->fault, operation->fault_text);
        } else if (done) {
            for (size_t i = 0; i < operation->leg_count; i++) {
                if (!operation->legs[i].schedule->framed) {
                    operation->legs[i].schedule->commit(&operation->legs[i]);
                    for (size_t j = 0; j < operation->legs[i].item_count; j++) {
                        tacit__native_note(operation->comm, operation->legs[i].items[j]);
                    }
                }
            }
            finish(operation, TACIT_OK, "");
        }
    }
}

bool tacit__comm_progress(tacit_comm_t *comm)
{
    tacit_operation_t *operation = comm->queue;
    int64_t            limit = comm->config.timeout_ms;
    bool               moved = false;
    double             now = tacit__seconds();

    if (operation == NULL) {
        return false;
    }
    if (comm->broken) {
        finish(operation, TACIT_ERR_BROKEN, comm->broken_text);
        return true;
    }
    if (now - comm->visited > longest_pause) {
        operation->moved += now - comm->visited; /* the caller was elsewhere: nobody waited */
    }
    comm->visited = now;
    if (comm->trace != NULL) {
        tacit__trace_at(comm->trace, now);
    }
    advance(operation, &moved);
    if (operation->phase == TACIT_FINISHED) {
        return true; /* the caller may free it now */
    }
    if (moved) {
        operation->moved = tacit__seconds();
    } else if (operation->phase == TACIT_FRAMED && limit > 0 && operation->gave_up == 0 &&
               now - operation->moved > 1e-3 * (double)limit) {
        set_fatal(operation, out_of_time(operation)); /* the others are told, and given a moment, when next advanced */
        moved = true;
    }
    return moved;
}

void tacit__comm_set_going(tacit_comm_t *comm)
{
    if (comm->thread == NULL) {
        (void)tacit__comm_progress(comm);
    }
}

/* Ranks may be more than cores, and a peer may be long in coming. */
double tacit__idle(double since)
{
    double          waited = tacit__seconds() - since;
    struct timespec pause = {0, waited > 0.1 ? 500000 : 50000};

    if (waited > 2e-3) {
        nanosleep(&pause, NULL);
    } else if (waited > 2e-5) {
        sched_yield();
    }
    return tacit__seconds();
}

static void idle(tacit_comm_t *comm, double since)
{
    comm->visited = tacit__idle(since); /* this was waiting, however late the machine came back */
}

void tacit__comm_waited(tacit_comm_t *comm, double since)
{
    if (comm->idle && comm->trace != NULL) {
        const tacit_event_t event = tacit__trace_event(TACIT_TRACE_WAIT, since, comm->visited); /* when this progress began */

        tacit__trace_add(comm->trace, &event);
    }
    comm->idle = false;
}

/* Advances the queue, or waits a little. *since: when something was last done. */
static void advance_or_wait(tacit_comm_t *comm, double *since)
{
    if (!tacit__comm_progress(comm)) {
        idle(comm, *since);
        comm->idle = true;
        return;
    }
    tacit__comm_waited(comm, *since);
    *since = tacit__seconds();
}

tacit_status_t tacit__operation_wait(tacit_operation_t *operation)
{
    double since = tacit__seconds();

    while (operation->phase != TACIT_FINISHED) {
        advance_or_wait(operation->comm, &since);
    }
    return tacit__operation_end(operation);
}

tacit_status_t tacit__comm_drain(tacit_comm_t *comm)
{
    double since = comm->queue != NULL ? tacit__seconds() : 0;

    while (comm->queue != NULL) {
        advance_or_wait(comm, &since);
    }
    return comm->broken ? tacit__fail(TACIT_ERR_BROKEN, "rank %d: only saving and destroying work after: %s", comm->rank,
                                      comm->broken_text)
                        : TACIT_OK;
}

tacit_status_t tacit__operation_end(tacit_operation_t *operation)
{
    tacit_request_t **link = &operation->comm->finished;
    tacit_status_t    status = operation->status;

    while (*link != operation) {
        link = &(*link)->next;
    }
    *link = operation->next;

    if (status != TACIT_OK) {
        (void)tacit__fail_text(status, operation->status_text);
    }
    tacit__operation_destroy(operation);
    return status;
}

void tacit__operation_free(tacit_operation_t *operation)
{
    if (operation != NULL) {
        tacit__free(operation->items);
        tacit__free(operation->order);
        tacit__free(operation);
    }
}

/* Kept for the next one; where another is kept already, the larger of the two. */
void tacit__operation_destroy(tacit_operation_t *operation)
{
    tacit_comm_t *comm = operation->comm;

    tacit__alltoall_release(operation->alltoall);
    *operation = (tacit_operation_t){.items = operation->items, .order = operation->order, .room = operation->room};
    if (comm->spare == NULL) { /* that one needs no room for items */
        comm->spare = operation;
    } else if (comm->recent == NULL || comm->recent->room < operation->room) {
        tacit__operation_free(comm->recent);
        comm->recent = operation;
    } else {
        tacit__operation_free(operation);
    }
}
