/* SPDX-License-Identifier: Apache-2.0 */
/* Verdicts: each rank's last word on an operation, by which all ranks end it alike. */
#include <string.h>

#include "operation.h"

tacit_status_t tacit__verdict_send(tacit_operation_t *operation)
{
    tacit_comm_t  *comm = operation->comm;
    tacit_frame_t  frame = operation->identity;
    size_t         text_bytes = operation->fault != TACIT_OK ? strlen(operation->fault_text) : 0;
    tacit_status_t status = TACIT_OK;

    frame.kind = TACIT_FRAME_VERDICT;
    frame.status = (int16_t)operation->fault;
    frame.payload_bytes = (uint32_t)text_bytes;
    memcpy(comm->exchange.verdict + TACIT_FRAME_HEADER_BYTES, operation->fault_text, text_bytes);
    tacit__frame_write(&frame, comm->exchange.verdict);
    for (int copy = 0; copy < 2; copy++) {
        for (int peer = 0; peer < comm->ranks; peer++) {
            if (peer != comm->rank) {
                TRY(tacit__exchange_send(&comm->exchange, peer, comm->exchange.verdict, TACIT_FRAME_HEADER_BYTES + text_bytes));
            }
        }
    }
    operation->judged = true;
out:
    return status;
}

void tacit__verdict_take(tacit_peer_t *from, const tacit_frame_t *frame)
{
    size_t bytes = tacit__min(frame->payload_bytes, sizeof from->text - 1);

    from->judged = true;
    from->verdict = (tacit_status_t)frame->status;
    memcpy(from->text, frame->payload, bytes);
    from->text[bytes] = '\0';
}

/* Some rank has failed, as far as is known here. */
bool tacit__verdict_is_fault(const tacit_operation_t *operation)
{
    const tacit_comm_t *comm = operation->comm;

    for (int peer = 0; peer < comm->ranks; peer++) {
        if (comm->exchange.peers[peer].judged && comm->exchange.peers[peer].verdict != TACIT_OK) {
            return true;
        }
    }
    return operation->fault != TACIT_OK;
}

bool tacit__verdict_is_complete(const tacit_operation_t *operation)
{
    const tacit_comm_t *comm = operation->comm;

    for (int peer = 0; peer < comm->ranks; peer++) {
        if (peer != comm->rank && !comm->exchange.peers[peer].judged) {
            return false;
        }
    }
    return operation->judged;
}

bool tacit__status_is_fatal(tacit_status_t status)
{
    return status == TACIT_ERR_TIMEOUT || status == TACIT_ERR_TRANSPORT || status == TACIT_ERR_BROKEN;
}

/* The lowest rank's fault; but one that ends the communicator goes before others, and what only this rank knows comes last. */
tacit_status_t tacit__verdict_status(const tacit_operation_t *operation, const char **text_out)
{
    const tacit_comm_t *comm = operation->comm;
    tacit_status_t      status = TACIT_OK;

    for (int rank = 0; rank < comm->ranks; rank++) {
        const tacit_peer_t *peer = &comm->exchange.peers[rank];
        tacit_status_t      mine = operation->late ? TACIT_OK : operation->fault;
        tacit_status_t      verdict = rank == comm->rank ? mine : peer->judged ? peer->verdict : TACIT_OK;

        if (verdict != TACIT_OK && (status == TACIT_OK || (tacit__status_is_fatal(verdict) && !tacit__status_is_fatal(status)))) {
            status = verdict;
            *text_out = rank == comm->rank ? operation->fault_text : peer->text;
        }
    }
    if (operation->late &&
        (status == TACIT_OK || (tacit__status_is_fatal(operation->fault) && !tacit__status_is_fatal(status)))) {
        status = operation->fault;
        *text_out = operation->fault_text;
    }
    return status;
}
