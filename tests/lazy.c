/* SPDX-License-Identifier: Apache-2.0 */
/* Messages are read, in order, some calls after they were sent, and are gone many calls later. */
#include "lazy.h"
#include "harness.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { READ = 20, GONE = 4000 }; /* calls later that is true of a message */

/* A message that is not gone. */
typedef struct lazy_send {
    struct lazy_send *next;
    int               peer;
    bool              read;
    const uint8_t    *data;
    size_t            bytes;
    uint64_t          hash, posted;
} lazy_send_t;

typedef struct lazy {
    tacit_transport_t loop;
    uint64_t          calls;
    lazy_send_t      *first; /* in the order in which they were sent */
} lazy_t;

static tacit_status_t lazy_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    lazy_t      *lazy = context;
    lazy_send_t *send = malloc(sizeof *send), **end = &lazy->first;

    if (send == NULL) {
        return tacit_transport_fail(TACIT_ERR_MEMORY, "no memory for a message");
    }
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = send;
    *send = (lazy_send_t){.peer = peer, .data = data, .bytes = bytes, .hash = harness_hash(data, bytes), .posted = lazy->calls};
    *ticket = (tacit_ticket_t){{NULL, send}};
    return TACIT_OK;
}

static tacit_status_t lazy_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    const lazy_t  *lazy = context;
    tacit_status_t status = lazy->loop.receive(lazy->loop.context, peer, data, capacity, ticket);

    ticket->opaque[1] = NULL;
    return status;
}

/* Reads what it is time for. */
static tacit_status_t read_on(lazy_t *lazy)
{
    tacit_status_t status = TACIT_OK;
    tacit_ticket_t unused;

    lazy->calls++;
    for (lazy_send_t *send = lazy->first; send != NULL && lazy->calls >= send->posted + READ && status == TACIT_OK;
         send = send->next) {
        if (!send->read) {
            send->read = true;
            status = lazy->loop.send(lazy->loop.context, send->peer, send->data, send->bytes, &unused);
        }
    }
    return status;
}

static tacit_status_t lazy_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    lazy_t        *lazy = context;
    lazy_send_t   *send = ticket->opaque[1], **at = &lazy->first;
    tacit_status_t status = read_on(lazy);

    if (status != TACIT_OK) {
        return status;
    }
    if (send == NULL) {
        return lazy->loop.test(lazy->loop.context, ticket, bytes_out);
    }
    if (lazy->calls < send->posted + GONE) {
        return TACIT_PENDING;
    }
    if (harness_hash(send->data, send->bytes) != send->hash) {
        fprintf(stderr, "rank %d: a message of %zu bytes to rank %d has changed under way\n", lazy->loop.rank, send->bytes,
                send->peer);
        abort();
    }
    while (*at != send) {
        at = &(*at)->next;
    }
    *at = send->next;
    free(send);
    return TACIT_OK;
}

static tacit_status_t lazy_cancel(void *context, tacit_ticket_t *ticket)
{
    const lazy_t *lazy = context;

    return lazy->loop.cancel(lazy->loop.context, ticket);
}

static void lazy_destroy(void *context)
{
    lazy_t *lazy = context;

    for (lazy_send_t *send = lazy->first, *next; send != NULL; send = next) {
        next = send->next;
        free(send);
    }
    lazy->loop.destroy(lazy->loop.context);
    free(lazy);
}

void lazy_transport(tacit_transport_t *transport)
{
    lazy_t *lazy = calloc(1, sizeof *lazy);

    lazy->loop = *transport;
    *transport = (tacit_transport_t){.struct_bytes = sizeof *transport,
                                     .name = "lazy",
                                     .context = lazy,
                                     .rank = lazy->loop.rank,
                                     .ranks = lazy->loop.ranks,
                                     .send = lazy_send,
                                     .receive = lazy_receive,
                                     .test = lazy_test,
                                     .cancel = lazy_cancel,
                                     .destroy = lazy_destroy};
}
