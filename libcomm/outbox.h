/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of a leg that are made one after the other, in memory that the oldest one leaves to the next when it is gone. */
#ifndef TACIT_OUTBOX_H
#define TACIT_OUTBOX_H

#include "exchange.h"

typedef struct tacit_outbox_message tacit_outbox_message_t;

typedef struct tacit_outbox {
    tacit_outbox_message_t *first, *last; /* the oldest first */
    size_t                  count;
} tacit_outbox_t;

/* Memory for a message of at most `bytes` bytes, the same in all calls: the oldest one's if that is gone, else new. The message
   must be the next one that the exchange sends. */
tacit_status_t tacit__outbox_take(tacit_outbox_t *outbox, tacit_exchange_t *exchange, size_t bytes, uint8_t **message_out);
/* Whether `most` messages are under way. */
bool tacit__outbox_is_full(const tacit_outbox_t *outbox, const tacit_exchange_t *exchange, size_t most);
/* Gives all memory back. No message is under way. */
void tacit__outbox_release(tacit_outbox_t *outbox, tacit_exchange_t *exchange);

#endif
