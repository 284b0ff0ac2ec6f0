/* SPDX-License-Identifier: Apache-2.0 */
/* Moves messages for the operation that runs, and keeps receives posted for the next one. */
#include "exchange.h"

#include <assert.h>
#include <sched.h>
#include <string.h>

static const double longest_wait = 0.2; /* seconds; see await_copies() */

static tacit_status_t post(tacit_exchange_t *exchange, int peer, tacit_receive_t *receive)
{
    const tacit_transport_t *transport = exchange->transport;
    tacit_peer_t            *from = &exchange->peers[peer];
    tacit_status_t           status;

    if (receive->larger != NULL) {
        tacit__free(receive->message);
        receive->message = receive->larger;
        receive->larger = NULL;
        receive->capacity = from->capacity;
    }
    status = transport->receive(transport->context, peer, receive->message, receive->capacity, &receive->ticket);
    if (status == TACIT_OK) {
        receive->posted = true;
        receive->order = from->posted++;
    }
    return status;
}

/* What a peer's messages may have where others' may have `capacity` bytes. */
static size_t capacity_of(const tacit_peer_t *peer, size_t capacity)
{
    return peer->least > capacity ? peer->least : capacity;
}

/* Gets a buffer for every receive whose capacity grows. Where that fails, those that are there already do no harm. */
static tacit_status_t get_larger(tacit_exchange_t *exchange, size_t least)
{
    const tacit_transport_t *transport = exchange->transport;

    for (int peer = 0; peer < transport->ranks; peer++) {
        const size_t capacity = capacity_of(&exchange->peers[peer], least);
        const bool   grows = peer != transport->rank && capacity > exchange->peers[peer].capacity;

        for (int i = 0; grows && i < TACIT_WINDOW; i++) {
            tacit_receive_t *receive = &exchange->peers[peer].window[i];
            uint8_t         *larger = tacit__alloc_unset(capacity);

            if (larger == NULL) {
                return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to receive %zu bytes from rank %d", transport->rank,
                                   capacity, peer);
            }
            tacit__free(receive->larger);
            receive->larger = larger;
        }
    }
    return TACIT_OK;
}

tacit_status_t tacit__exchange_init(tacit_exchange_t *exchange, const tacit_transport_t *transport, size_t capacity)
{
    tacit_status_t status = TACIT_OK;

    *exchange = (tacit_exchange_t){.transport = transport, .capacity = capacity};
    exchange->peers = tacit__alloc((size_t)transport->ranks, sizeof *exchange->peers);
    exchange->verdict = tacit__alloc_unset(TACIT_FRAME_HEADER_BYTES + TACIT_TEXT_BYTES);
    if (exchange->peers == NULL || exchange->verdict == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %d peers", transport->rank, transport->ranks);
    }
    TRY(tacit__exchange_reserve(exchange));
    TRY(get_larger(exchange, capacity));
    for (int peer = 0; peer < transport->ranks; peer++) {
        exchange->peers[peer].capacity = capacity;
        for (int i = 0; peer != transport->rank && i < TACIT_WINDOW; i++) {
            TRY(post(exchange, peer, &exchange->peers[peer].window[i]));
        }
    }
out:
    return status;
}

/* The second copies of the last verdicts are under way still: taken in here, they cannot meet a later communicator. */
static void await_copies(tacit_exchange_t *exchange)
{
    double        began = tacit__seconds();
    tacit_frame_t frame;

    for (int peer = 0; exchange->peers != NULL && peer < exchange->transport->ranks; peer++) {
        while (peer != exchange->transport->rank && exchange->peers[peer].copy_due && tacit__seconds() - began < longest_wait &&
               tacit__exchange_receive(exchange, peer, &frame) == TACIT_PENDING) {
            sched_yield();
        }
    }
}

void tacit__exchange_fini(tacit_exchange_t *exchange, bool healthy)
{
    const tacit_transport_t *transport = exchange->transport;

    if (healthy) {
        await_copies(exchange);
    }

    for (int peer = 0; exchange->peers != NULL && peer < transport->ranks; peer++) {
        for (int i = 0; i < TACIT_WINDOW; i++) {
            tacit_receive_t *receive = &exchange->peers[peer].window[i];
            size_t           bytes;

            /* A message may have met it already: then it is done at once, or its buffer is left to the transport. */
            tacit__free(receive->larger);
            if (receive->posted && transport->cancel(transport->context, &receive->ticket) == TACIT_PENDING &&
                transport->test(transport->context, &receive->ticket, &bytes) == TACIT_PENDING) {
                continue;
            }
            tacit__free(receive->message);
        }
    }
    for (size_t i = 0; i < exchange->free_count; i++) {
        tacit__free(exchange->free[i].data);
    }
    if (!exchange->leaked) {
        tacit__free(exchange->verdict);
    }
    tacit__free(exchange->peers);
    tacit__free(exchange->sends);
    *exchange = (tacit_exchange_t){0};
}

tacit_status_t tacit__exchange_resize(tacit_exchange_t *exchange, size_t capacity)
{
    const tacit_transport_t *transport = exchange->transport;
    tacit_status_t           status = TACIT_OK;

    capacity = capacity > exchange->capacity ? capacity : exchange->capacity;
    TRY(get_larger(exchange, capacity));
    exchange->capacity = capacity;
    for (int peer = 0; peer < transport->ranks; peer++) {
        tacit_peer_t *from = &exchange->peers[peer];
        const bool    grows = peer != transport->rank && capacity_of(from, capacity) > from->capacity;

        from->capacity = capacity_of(from, capacity);
        for (int i = 0; grows && i < TACIT_WINDOW; i++) {
            tacit_receive_t *receive = &from->window[i];

            if (receive->posted) {
                status = transport->cancel(transport->context, &receive->ticket);
                if (status == TACIT_PENDING) {
                    status = TACIT_OK; /* it holds a message; release() will post it anew, larger */
                    continue;
                }
                receive->posted = false;
                TRY(status);
            }
            TRY(post(exchange, peer, receive));
        }
    }
out:
    return status;
}

void tacit__exchange_begin(tacit_exchange_t *exchange)
{
    exchange->sequence++;
    exchange->send_count = exchange->sends_done = 0;
    exchange->bytes_sent = exchange->bytes_near = 0;
    for (int peer = 0; peer < exchange->transport->ranks; peer++) {
        tacit_peer_t *from = &exchange->peers[peer];

        memset(from->expected, 0, sizeof from->expected);
        from->judged = false;
        from->verdict = TACIT_OK;
        from->text[0] = '\0';
    }
}

tacit_status_t tacit__exchange_reserve(tacit_exchange_t *exchange)
{
    const size_t  verdict = 2 * (size_t)exchange->transport->ranks;
    const size_t  room = 2 * exchange->send_room + verdict + 64;
    tacit_send_t *sends;

    if (exchange->send_count + verdict < exchange->send_room) {
        return TACIT_OK;
    }
    sends = tacit__alloc(room, sizeof *sends);
    if (sends == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to track %zu messages", exchange->transport->rank, room);
    }
    if (exchange->send_count != 0) {
        memcpy(sends, exchange->sends, exchange->send_count * sizeof *sends);
    }
    tacit__free(exchange->sends);
    exchange->sends = sends;
    exchange->send_room = room;
    return TACIT_OK;
}

tacit_status_t tacit__exchange_send(tacit_exchange_t *exchange, int peer, const uint8_t *message, size_t bytes)
{
    const tacit_transport_t *transport = exchange->transport;
    tacit_send_t            *send = &exchange->sends[exchange->send_count];
    tacit_status_t           status;

    assert(exchange->send_count < exchange->send_room);
    send->done = false;
    if (exchange->trace != NULL) {
        send->peer = peer;
        send->message = message;
        send->posted = tacit__trace_now(exchange->trace);
    }
    status = transport->send(transport->context, peer, message, bytes, &send->ticket);
    if (status == TACIT_OK) {
        exchange->send_count++;
        exchange->bytes_sent += bytes;
        exchange->bytes_near += exchange->peers[peer].near ? bytes : 0;
    }
    return status;
}

tacit_status_t tacit__exchange_poll_sends(tacit_exchange_t *exchange, bool *finished_out)
{
    const tacit_transport_t *transport = exchange->transport;
    size_t                   looked = 0;

    /* Messages end about in the order in which they began: a few unfinished ones tell that the rest is unfinished. */
    for (size_t i = exchange->sends_done; i < exchange->send_count && looked < 4 * (size_t)transport->ranks; i++) {
        tacit_send_t  *send = &exchange->sends[i];
        size_t         bytes;
        tacit_status_t status;

        if (send->done) {
            continue;
        }
        status = transport->test(transport->context, &send->ticket, &bytes);
        if (status == TACIT_PENDING) {
            looked++;
            continue;
        }
        if (status != TACIT_OK) {
            return status;
        }
        send->done = true;
        if (exchange->trace != NULL) {
            tacit__trace_sent(exchange->trace, send->peer, send->message, send->posted, TACIT_OK);
        }
    }
    while (exchange->sends_done < exchange->send_count && exchange->sends[exchange->sends_done].done) {
        exchange->sends_done++;
    }
    *finished_out = exchange->sends_done == exchange->send_count;
    return TACIT_OK;
}

/* The receive that completes first. */
static tacit_receive_t *head(tacit_peer_t *from)
{
    tacit_receive_t *first = &from->window[0];

    for (int i = 1; i < TACIT_WINDOW; i++) {
        if (from->window[i].order < first->order) {
            first = &from->window[i];
        }
    }
    return first;
}

tacit_status_t tacit__exchange_release(tacit_exchange_t *exchange, int peer)
{
    return post(exchange, peer, head(&exchange->peers[peer]));
}

/* The message stays where it is until release(): its receive is done but not posted again. */
tacit_status_t tacit__exchange_receive(tacit_exchange_t *exchange, int peer, tacit_frame_t *frame_out)
{
    const tacit_transport_t *transport = exchange->transport;
    tacit_peer_t            *from = &exchange->peers[peer];
    tacit_status_t           status;

    for (;;) {
        tacit_receive_t *receive = head(from);
        const char      *reason;
        uint32_t        *expected;
        size_t           bytes = 0;

        status = transport->test(transport->context, &receive->ticket, &bytes);
        if (status != TACIT_OK) {
            return status;
        }
        receive->posted = false;
        reason = tacit__frame_parse(receive->message, bytes, frame_out);
        if (reason != NULL || frame_out->rank != (uint16_t)peer || frame_out->round >= TACIT_ROUNDS) {
            TRY(tacit__exchange_release(exchange, peer));
            if (from->copy_due) {
                from->copy_due = false; /* nothing is lost with it */
                continue;
            }
            return tacit__fail(TACIT_ERR_FRAME, "rank %d: a message of %zu bytes from rank %d cannot be used: %s",
                               transport->rank, bytes, peer, reason != NULL ? reason : "it is not from there");
        }
        expected = &from->expected[frame_out->kind][frame_out->round];
        from->copy_due = false;
        if (frame_out->sequence == exchange->sequence && frame_out->index == *expected) {
            from->copy_due = frame_out->kind == TACIT_FRAME_VERDICT;
            ++*expected;
            return TACIT_OK;
        }
        /* An earlier operation's, or seen already (each verdict comes twice). */
        TRY(tacit__exchange_release(exchange, peer));
        if (frame_out->sequence == exchange->sequence && frame_out->index > *expected) {
            return tacit__fail(TACIT_ERR_FRAME, "rank %d: a message from rank %d is missing: got number %u, expected %u",
                               transport->rank, peer, frame_out->index, *expected);
        }
        if ((int32_t)(frame_out->sequence - exchange->sequence) > 0) {
            return tacit__fail(TACIT_ERR_FRAME, "rank %d: rank %d is at operation %u, this rank at %u", transport->rank, peer,
                               frame_out->sequence, exchange->sequence);
        }
    }
out:
    return status;
}

void tacit__exchange_abandon(tacit_exchange_t *exchange)
{
    bool sent = exchange->sends_done == exchange->send_count;

    /* One look: what is under way, the transport may read at any time. */
    if (!sent && (tacit__exchange_poll_sends(exchange, &sent) != TACIT_OK || !sent)) {
        exchange->leaked = true;
    }
    for (size_t i = exchange->sends_done; exchange->trace != NULL && i < exchange->send_count; i++) {
        const tacit_send_t *send = &exchange->sends[i];

        if (!send->done) {
            tacit__trace_sent(exchange->trace, send->peer, send->message, send->posted, TACIT_PENDING);
        }
    }
    exchange->send_count = exchange->sends_done = 0;
}

tacit_status_t tacit__buffer_take(tacit_exchange_t *exchange, size_t bytes, tacit_buffer_t *buffer_out)
{
    size_t best = exchange->free_count;

    for (size_t i = 0; i < exchange->free_count; i++) {
        if (exchange->free[i].bytes >= bytes &&
            (best == exchange->free_count || exchange->free[i].bytes < exchange->free[best].bytes)) {
            best = i;
        }
    }
    if (best < exchange->free_count && exchange->free[best].bytes <= 2 * bytes + 4096) {
        *buffer_out = exchange->free[best];
        exchange->free[best] = exchange->free[--exchange->free_count];
        return TACIT_OK;
    }
    buffer_out->data = tacit__alloc_unset(bytes);
    buffer_out->bytes = bytes;
    return buffer_out->data != NULL
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu bytes", exchange->transport->rank, bytes);
}

void tacit__buffer_give(tacit_exchange_t *exchange, tacit_buffer_t *buffer)
{
    if (buffer->data == NULL || exchange->leaked) {
        /* nothing, or the transport may still read it */
    } else if (exchange->free_count < TACIT_BUFFERS) {
        exchange->free[exchange->free_count++] = *buffer;
    } else {
        tacit__free(exchange->free[0].data);
        exchange->free[0] = *buffer;
    }
    *buffer = (tacit_buffer_t){0};
}
