/* SPDX-License-Identifier: Apache-2.0 */
/* The exchange of messages between the ranks of a communicator: receives that are posted ahead all the time, each of the agreed
   capacity, sends that are tracked to their end, and buffers that are used again. It knows frames only by their order. */
#ifndef TACIT_EXCHANGE_H
#define TACIT_EXCHANGE_H

#include "frame.h"
#include "tacit_transport.h"
#include "trace.h"

enum {
    TACIT_WINDOW = 2,  /* receives posted for each peer: one is read while the next one arrives */
    TACIT_ROUNDS = 25, /* legs of an operation whose frames are told apart */
    TACIT_BUFFERS = 64 /* free buffers kept for later */
};

typedef struct tacit_receive {
    uint8_t       *message;
    uint8_t       *larger; /* takes its place when it is posted next; NULL: none */
    size_t         capacity;
    uint64_t       order; /* of posting: the lowest completes first */
    bool           posted;
    tacit_ticket_t ticket;
} tacit_receive_t;

typedef struct tacit_peer {
    bool            near;     /* on the same host, as another's topology says */
    size_t          least;    /* bytes that its messages may have, whatever those of others; 0: as those */
    size_t          capacity; /* bytes that they may have */
    tacit_receive_t window[TACIT_WINDOW];
    uint64_t        posted;                                    /* receives so far */
    uint32_t        expected[TACIT_FRAME_KINDS][TACIT_ROUNDS]; /* index of the next frame of a kind and round */
    bool            copy_due;                                  /* its last verdict has come once; it comes twice */
    bool            judged;                                    /* the peer's verdict on this operation is here */
    tacit_status_t  verdict;
    char            text[TACIT_TEXT_BYTES];
} tacit_peer_t;

typedef struct tacit_send {
    tacit_ticket_t ticket;
    bool           done;
    int            peer; /* these three where it is traced */
    const uint8_t *message;
    double         posted;
} tacit_send_t;

typedef struct tacit_buffer {
    uint8_t *data;
    size_t   bytes;
} tacit_buffer_t;

typedef struct tacit_exchange {
    const tacit_transport_t *transport;
    tacit_trace_t           *trace;    /* NULL: off */
    size_t                   capacity; /* bytes of a message at most, of most peers */
    uint32_t                 sequence; /* of the operation that runs or ran last */
    tacit_peer_t            *peers;    /* one a rank; the own one is unused */
    tacit_send_t            *sends;    /* of this operation */
    size_t                   send_count, send_room, sends_done;
    uint64_t                 bytes_sent; /* by this operation … */
    uint64_t                 bytes_near; /* … and of these, to ranks of the same host */
    uint8_t                 *verdict;    /* room for the own one, got in time: it may have to tell of missing memory */
    tacit_buffer_t           free[TACIT_BUFFERS];
    size_t                   free_count;
    bool                     leaked; /* a send could not be given up: its buffers must outlive us */
} tacit_exchange_t;

tacit_status_t tacit__exchange_init(tacit_exchange_t *exchange, const tacit_transport_t *transport, size_t capacity);
/* Withdraws all receives and frees. healthy: no operation has failed for good. */
void tacit__exchange_fini(tacit_exchange_t *exchange, bool healthy);
/* Raises the capacity, and that of a peer to its least. No message larger than the old one may be under way. */
tacit_status_t tacit__exchange_resize(tacit_exchange_t *exchange, size_t capacity);

/* Begins the next operation. */
void tacit__exchange_begin(tacit_exchange_t *exchange);
/* Makes room to track one more message, and the verdict on top. */
tacit_status_t tacit__exchange_reserve(tacit_exchange_t *exchange);
/* Sends a message, which stays unchanged until poll_sends() says that it is gone. */
tacit_status_t tacit__exchange_send(tacit_exchange_t *exchange, int peer, const uint8_t *message, size_t bytes);
/* Tests the sends under way. *finished_out: none is left. */
tacit_status_t tacit__exchange_poll_sends(tacit_exchange_t *exchange, bool *finished_out);
/* Looks for the next message of a peer. TACIT_PENDING: none. TACIT_OK: *frame_out is valid until release(). TACIT_ERR_FRAME:
   a message was damaged, or one before it is missing (tacit_last_error() says what); it has been released. Messages of earlier
   operations and repeated ones are passed over. Do not call it for a peer whose verdict is here: what follows belongs to the next
   operation. */
tacit_status_t tacit__exchange_receive(tacit_exchange_t *exchange, int peer, tacit_frame_t *frame_out);
/* Posts the receive of the message that receive() gave last for this peer again. */
tacit_status_t tacit__exchange_release(tacit_exchange_t *exchange, int peer);
/* Gives up all sends under way, after which nothing works any more. */
void tacit__exchange_abandon(tacit_exchange_t *exchange);

/* A buffer of at least so many bytes, not zeroed; give() keeps it for the next taker. */
tacit_status_t tacit__buffer_take(tacit_exchange_t *exchange, size_t bytes, tacit_buffer_t *buffer_out);
void           tacit__buffer_give(tacit_exchange_t *exchange, tacit_buffer_t *buffer);

#endif
