/* SPDX-License-Identifier: Apache-2.0 */
/* The loop transport: ranks are threads of one process, messages are copies in queues, and wires can be made faulty. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "tacit_transport.h"

typedef struct tacit_letter {
    struct tacit_letter *next;
    double               due; /* when it arrives */
    size_t               bytes;
    uint8_t             *data;
} tacit_letter_t;

/* A posted receive. */
typedef struct tacit_slip {
    struct tacit_slip *next;
    uint8_t           *data;
    size_t             capacity, bytes;
    bool               done;
    struct tacit_wire *wire;
} tacit_slip_t;

/* From one rank to another. */
typedef struct tacit_wire {
    tacit_letter_t    *letters;
    tacit_slip_t      *slips;
    bool               armed;
    tacit_loop_fault_t fault;
    size_t             countdown, where;
    double             last_due; /* nothing overtakes */
} tacit_wire_t;

struct tacit_loop {
    pthread_mutex_t lock;
    int             ranks;
    int             users;
    tacit_wire_t   *wires; /* from * ranks + to */
};

typedef struct tacit_endpoint {
    tacit_loop_t *loop;
    int           rank;
} tacit_endpoint_t;

static tacit_wire_t *wire_of(const tacit_loop_t *loop, int from, int to)
{
    return &loop->wires[from * loop->ranks + to];
}

static void append_letter(tacit_wire_t *wire, tacit_letter_t *letter)
{
    tacit_letter_t **last = &wire->letters;

    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = letter;
}

/* What is under way belongs to the network: it is no memory that a test of missing memory counts. */
static tacit_letter_t *make_letter(const void *data, size_t bytes)
{
    tacit_letter_t *letter = calloc(1, sizeof *letter);

    if (letter != NULL && (letter->data = malloc(bytes + (bytes == 0))) == NULL) {
        free(letter);
        letter = NULL;
    }
    if (letter != NULL) {
        memcpy(letter->data, data, bytes);
        letter->bytes = bytes;
    }
    return letter;
}

static void free_letter(tacit_letter_t *letter)
{
    free(letter->data);
    free(letter);
}

/* Does to the letter what was arranged; returns how many copies of it arrive. */
static int apply_fault(tacit_wire_t *wire, tacit_letter_t *letter)
{
    int copies = 1;

    if (wire->armed && wire->countdown-- == 0) {
        wire->armed = false;
        switch (wire->fault) {
        case TACIT_LOOP_FLIP:
            if (letter->bytes != 0) {
                letter->data[wire->where / 8 % letter->bytes] ^= (uint8_t)(1u << (wire->where % 8));
            }
            break;
        case TACIT_LOOP_CUT:
            letter->bytes = tacit__min(letter->bytes, wire->where);
            break;
        case TACIT_LOOP_REPEAT:
            copies = 2;
            break;
        case TACIT_LOOP_DROP:
            copies = 0;
            break;
        case TACIT_LOOP_DELAY:
            wire->last_due = tacit__seconds() + 1e-3 * (double)wire->where;
            break;
        }
    }
    letter->due = wire->last_due;
    return copies;
}

static tacit_status_t loop_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    const tacit_endpoint_t *endpoint = context;
    tacit_wire_t           *wire = wire_of(endpoint->loop, endpoint->rank, peer);
    tacit_letter_t         *letter = make_letter(data, bytes);
    int                     copies;

    *ticket = (tacit_ticket_t){{NULL, NULL}};
    if (letter == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a message of %zu bytes", endpoint->rank, bytes);
    }
    pthread_mutex_lock(&endpoint->loop->lock);
    copies = apply_fault(wire, letter);
    if (copies == 2) {
        tacit_letter_t *second = make_letter(letter->data, letter->bytes);

        if (second != NULL) {
            append_letter(wire, second);
        }
    }
    if (copies == 0) {
        free_letter(letter);
    } else {
        append_letter(wire, letter);
    }
    pthread_mutex_unlock(&endpoint->loop->lock);
    return TACIT_OK;
}

static tacit_status_t loop_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    const tacit_endpoint_t *endpoint = context;
    tacit_wire_t           *wire = wire_of(endpoint->loop, peer, endpoint->rank);
    tacit_slip_t           *slip = calloc(1, sizeof *slip);
    tacit_slip_t          **last = &wire->slips;

    if (slip == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to receive", endpoint->rank);
    }
    *slip = (tacit_slip_t){.data = data, .capacity = capacity, .wire = wire};
    *ticket = (tacit_ticket_t){{slip, NULL}};
    pthread_mutex_lock(&endpoint->loop->lock);
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = slip;
    pthread_mutex_unlock(&endpoint->loop->lock);
    return TACIT_OK;
}

static void unlink_slip(tacit_slip_t *slip)
{
    tacit_slip_t **link = &slip->wire->slips;

    while (*link != slip) {
        link = &(*link)->next;
    }
    *link = slip->next;
}

/* Letters meet slips in order. A letter too long leaves its slip with more bytes than capacity. */
static void deliver(tacit_wire_t *wire)
{
    for (tacit_slip_t *slip = wire->slips; slip != NULL; slip = slip->next) {
        tacit_letter_t *letter = wire->letters;

        if (slip->done) {
            continue;
        }
        if (letter == NULL || (letter->due != 0.0 && letter->due > tacit__seconds())) {
            return;
        }
        memcpy(slip->data, letter->data, tacit__min(letter->bytes, slip->capacity));
        slip->bytes = letter->bytes;
        slip->done = true;
        wire->letters = letter->next;
        free_letter(letter);
    }
}

static tacit_status_t loop_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    const tacit_endpoint_t *endpoint = context;
    tacit_slip_t           *slip = ticket->opaque[0];
    tacit_status_t          status = TACIT_PENDING;

    if (slip == NULL) {
        return TACIT_OK; /* a send: copied already */
    }
    pthread_mutex_lock(&endpoint->loop->lock);
    deliver(slip->wire);
    if (slip->done) {
        unlink_slip(slip);
        *bytes_out = slip->bytes;
        status = slip->bytes <= slip->capacity
                     ? TACIT_OK
                     : tacit__fail(TACIT_ERR_TRANSPORT, "rank %d: a message of %zu bytes does not fit into %zu", endpoint->rank,
                                   slip->bytes, slip->capacity);
        free(slip);
        ticket->opaque[0] = NULL;
    }
    pthread_mutex_unlock(&endpoint->loop->lock);
    return status;
}

static tacit_status_t loop_cancel(void *context, tacit_ticket_t *ticket)
{
    const tacit_endpoint_t *endpoint = context;
    tacit_slip_t           *slip = ticket->opaque[0];
    tacit_status_t          status = TACIT_OK;

    if (slip == NULL) {
        return TACIT_OK;
    }
    pthread_mutex_lock(&endpoint->loop->lock);
    deliver(slip->wire);
    if (slip->done) {
        status = TACIT_PENDING;
    } else {
        unlink_slip(slip);
        free(slip);
        ticket->opaque[0] = NULL;
    }
    pthread_mutex_unlock(&endpoint->loop->lock);
    return status;
}

static void loop_drop(tacit_loop_t *loop)
{
    bool last;

    pthread_mutex_lock(&loop->lock);
    last = --loop->users == 0;
    pthread_mutex_unlock(&loop->lock);
    if (!last) {
        return;
    }
    for (int i = 0; i < loop->ranks * loop->ranks; i++) {
        while (loop->wires[i].letters != NULL) {
            tacit_letter_t *letter = loop->wires[i].letters;

            loop->wires[i].letters = letter->next;
            free_letter(letter);
        }
    }
    pthread_mutex_destroy(&loop->lock);
    tacit__free(loop->wires);
    tacit__free(loop);
}

static void loop_destroy(void *context)
{
    tacit_endpoint_t *endpoint = context;

    loop_drop(endpoint->loop);
    tacit__free(endpoint);
}

tacit_status_t tacit_loop_create(int ranks, tacit_loop_t **loop_out)
{
    tacit_loop_t *loop;

    if (ranks < 1 || ranks > 1024 || loop_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "loop: %d ranks; give 1 to 1024, and loop_out", ranks);
    }
    loop = tacit__alloc(1, sizeof *loop);
    if (loop != NULL) {
        loop->wires = tacit__alloc((size_t)ranks * (size_t)ranks, sizeof *loop->wires);
    }
    if (loop == NULL || loop->wires == NULL) {
        tacit__free(loop);
        return tacit__fail(TACIT_ERR_MEMORY, "loop: no memory for %d ranks", ranks);
    }
    loop->ranks = ranks;
    loop->users = 1;
    pthread_mutex_init(&loop->lock, NULL);
    *loop_out = loop;
    return TACIT_OK;
}

tacit_status_t tacit_loop_transport(tacit_loop_t *loop, int rank, tacit_transport_t *transport_out)
{
    tacit_endpoint_t *endpoint;

    if (loop == NULL || rank < 0 || rank >= loop->ranks || transport_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "loop: rank %d of %d", rank, loop != NULL ? loop->ranks : 0);
    }
    endpoint = tacit__alloc(1, sizeof *endpoint);
    if (endpoint == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "loop: no memory for rank %d", rank);
    }
    *endpoint = (tacit_endpoint_t){loop, rank};
    pthread_mutex_lock(&loop->lock);
    loop->users++;
    pthread_mutex_unlock(&loop->lock);
    *transport_out = (tacit_transport_t){
        .struct_bytes = sizeof *transport_out,
        .name = "loop",
        .context = endpoint,
        .rank = rank,
        .ranks = loop->ranks,
        .send = loop_send,
        .receive = loop_receive,
        .test = loop_test,
        .cancel = loop_cancel,
        .destroy = loop_destroy,
        .any_thread = 1,
    };
    return TACIT_OK;
}

tacit_status_t tacit_loop_inject(tacit_loop_t *loop, tacit_loop_fault_t fault, int from, int to, size_t nth, size_t where)
{
    tacit_wire_t *wire;

    if (loop == NULL || from < 0 || from >= loop->ranks || to < 0 || to >= loop->ranks || fault > TACIT_LOOP_DELAY) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "loop: fault %d from rank %d to rank %d", (int)fault, from, to);
    }
    wire = wire_of(loop, from, to);
    pthread_mutex_lock(&loop->lock);
    wire->armed = true;
    wire->fault = fault;
    wire->countdown = nth;
    wire->where = where;
    pthread_mutex_unlock(&loop->lock);
    return TACIT_OK;
}

void tacit_loop_release(tacit_loop_t *loop)
{
    if (loop != NULL) {
        loop_drop(loop);
    }
}
