/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of messages under way, each in a buffer of the exchange. */
#include "outbox.h"

struct tacit_outbox_message {
    tacit_outbox_message_t *next; /* made after this one */
    tacit_buffer_t          memory;
    size_t                  send; /* its number among the exchange's */
};
enum { MESSAGE_AT = 64 };
_Static_assert(sizeof(tacit_outbox_message_t) <= MESSAGE_AT, "what goes before a message leaves it aligned");

static bool is_gone(const tacit_outbox_message_t *message, const tacit_exchange_t *exchange)
{
    return exchange->sends[message->send].done;
}

tacit_status_t tacit__outbox_take(tacit_outbox_t *outbox, tacit_exchange_t *exchange, size_t bytes, uint8_t **message_out)
{
    tacit_outbox_message_t *message = outbox->first;
    tacit_status_t          status = TACIT_OK;

    if (message != NULL && is_gone(message, exchange)) {
        outbox->first = message->next;
        outbox->last = outbox->first != NULL ? outbox->last : NULL;
    } else {
        tacit_buffer_t memory = {0};

        TRY(tacit__buffer_take(exchange, MESSAGE_AT + bytes, &memory));
        message = (tacit_outbox_message_t *)(void *)memory.data;
        message->memory = memory;
        outbox->count++;
    }
    message->next = NULL;
    message->send = exchange->send_count;
    *(outbox->last != NULL ? &outbox->last->next : &outbox->first) = message;
    outbox->last = message;
    *message_out = (uint8_t *)(void *)message + MESSAGE_AT;
out:
    return status;
}

bool tacit__outbox_is_full(const tacit_outbox_t *outbox, const tacit_exchange_t *exchange, size_t most)
{
    return outbox->count >= most && !is_gone(outbox->first, exchange);
}

void tacit__outbox_release(tacit_outbox_t *outbox, tacit_exchange_t *exchange)
{
    while (outbox->first != NULL) {
        tacit_buffer_t memory = outbox->first->memory;

        outbox->first = outbox->first->next;
        tacit__buffer_give(exchange, &memory);
    }
    *outbox = (tacit_outbox_t){0};
}
