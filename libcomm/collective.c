/* SPDX-License-Identifier: Apache-2.0 */
/* The entry of every reduction: arguments, the short way of native calls, requests and groups. */
#include <stdio.h>
#include <string.h>

#include "operation.h"

/* A fault of the arguments that this rank sees alone. */
static tacit_status_t check(const tacit_comm_t *comm, const tacit_slot_t *slot, const void *in, const void *out, tacit_op_t op)
{
    if (slot->codec->tensor.count != 0 && (in == NULL || out == NULL)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot '%s': in or out is NULL", comm->rank, slot->codec->name);
    }
    if (op != TACIT_SUM && op != TACIT_AVERAGE) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot '%s': op %d is neither TACIT_SUM nor TACIT_AVERAGE", comm->rank,
                           slot->codec->name, (int)op);
    }
    return TACIT_OK;
}

static tacit_status_t collect(tacit_comm_t *comm, const tacit_item_t *item)
{
    for (size_t i = 0; i < comm->group_count; i++) {
        if (comm->group[i].slot == item->slot) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot '%s' is in the group already", comm->rank, item->codec->name);
        }
    }
    if (comm->group_count == comm->group_room) {
        size_t        room = comm->group_room != 0 ? 2 * comm->group_room : 16;
        tacit_item_t *items = tacit__alloc(room, sizeof *items);

        if (items == NULL) {
            return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a group of %zu slots", comm->rank, room);
        }
        if (comm->group_count != 0) {
            memcpy(items, comm->group, comm->group_count * sizeof *items);
        }
        tacit__free(comm->group);
        comm->group = items;
        comm->group_room = room;
    }
    comm->group[comm->group_count++] = *item;
    return TACIT_OK;
}

/* A call that the group refuses on this rank, others may have collected: it is the group's fault. */
static void note_group_fault(tacit_comm_t *comm, tacit_status_t fault)
{
    if (fault != TACIT_OK && comm->group_fault == TACIT_OK) {
        comm->group_fault = fault;
        snprintf(comm->group_text, sizeof comm->group_text, "%s", tacit_last_error());
    }
}

/* Nothing else is under way: the transport's blocking collective, and nothing of ours but a counter. */
static tacit_status_t reduce_native(tacit_comm_t *comm, tacit_item_t *item)
{
    tacit_slot_t            *slot = item->slot;
    const tacit_transport_t *transport = &comm->transport;
    size_t                   count = item->codec->tensor.count;
    double                   began = tacit__trace_seconds(comm->trace);
    tacit_status_t           status;

    TRY(transport->allreduce_wait(transport->context, item->in, item->out, count, item->codec->tensor.dtype));
    item->step = slot->step++;
    tacit__native_finish(comm, item);
    tacit__native_note(comm, item);
    if (comm->trace != NULL) {
        tacit__native_traced(item, began);
    }
    slot->counters.calls++;
    slot->counters.bytes_in += count * sizeof(float);
    slot->counters.wire_bytes += item->sent_bytes;
    slot->counters.network_bytes += tacit__native_network_bytes(comm, item);
    slot->counters.dense_bytes += item->sent_bytes;
out:
    if (status != TACIT_OK) {
        tacit__comm_break(comm);
    }
    return status;
}

static bool goes_natively(const tacit_comm_t *comm, const tacit_slot_t *slot)
{
    return !slot->schedule->framed && comm->environment.check == 0;
}

tacit_status_t tacit_allreduce(tacit_slot_t *slot, const void *in, void *out, tacit_op_t op)
{
    tacit_status_t     status, mine;
    tacit_comm_t      *comm = slot != NULL ? slot->comm : NULL;
    tacit_operation_t *operation;
    tacit_item_t       item = {.slot = slot, .in = in, .out = out, .op = op};

    status = tacit__comm_enter(comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    if (slot->dense != NULL && !comm->group_open) { /* how it is reduced is known when what is under way has ended */
        TRY(tacit__comm_drain(comm));
    }
    item.codec = slot->codec;
    mine = check(comm, slot, in, out, op);
    if (comm->group_open) {
        status = mine == TACIT_OK ? collect(comm, &item) : mine;
        note_group_fault(comm, status);
        goto out;
    }
    if (goes_natively(comm, slot) && comm->transport.allreduce_wait != NULL) {
        TRY(mine);
        /* Always the blocking collective, whatever is under way: the other ranks may have finished that already. */
        TRY(tacit__comm_drain(comm));
        TRY(reduce_native(comm, &item));
        goto out;
    }
    TRY(tacit__operation_create(comm, "tacit_allreduce", &item, 1, mine, &operation));
    TRY(tacit__operation_wait(operation));
out:
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit_iallreduce(tacit_slot_t *slot, const void *in, void *out, tacit_op_t op, tacit_request_t **request_out)
{
    tacit_status_t status, mine;
    tacit_comm_t  *comm = slot != NULL ? slot->comm : NULL;
    tacit_item_t   item = {.slot = slot, .in = in, .out = out, .op = op};

    if (request_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "request_out must be given");
    }
    status = tacit__comm_enter(comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    item.codec = slot->codec;
    mine = check(comm, slot, in, out, op);
    if (comm->group_open) {
        status = tacit__fail(TACIT_ERR_STATE,
                             "rank %d: a group is open: use tacit_allreduce(), and a request at tacit_group_end()", comm->rank);
        goto out;
    }
    if (goes_natively(comm, slot)) {
        TRY(mine);
    }
    TRY(tacit__operation_create(comm, "tacit_iallreduce", &item, 1, mine, request_out));
    tacit__comm_set_going(comm);
out:
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit_group_begin(tacit_comm_t *comm)
{
    tacit_status_t status = tacit__comm_enter(comm, false);

    if (status != TACIT_OK) {
        return status;
    }
    if (comm->group_open) {
        status = tacit__fail(TACIT_ERR_STATE, "rank %d: a group is open already", comm->rank);
    }
    comm->group_open = true;
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit_group_end(tacit_comm_t *comm, tacit_request_t **request_out)
{
    tacit_status_t     status = tacit__comm_enter(comm, false), fault;
    tacit_operation_t *operation;

    if (status != TACIT_OK) {
        return status;
    }
    if (!comm->group_open) {
        status = tacit__fail(TACIT_ERR_STATE, "rank %d: no group is open", comm->rank);
        goto out;
    }
    comm->group_open = false;
    fault = tacit__fail_text(comm->group_fault, comm->group_text);
    comm->group_fault = TACIT_OK;
    if (comm->group_count == 0 && fault == TACIT_OK) {
        if (request_out != NULL) {
            *request_out = NULL;
        }
        goto out;
    }
    status = tacit__operation_create(comm, "tacit_group_end", comm->group, comm->group_count, fault, &operation);
    comm->group_count = 0;
    TRY(status);
    if (request_out != NULL) {
        *request_out = operation;
        tacit__comm_set_going(comm);
    } else {
        TRY(tacit__operation_wait(operation));
    }
out:
    tacit__comm_leave(comm);
    return status;
}

static tacit_status_t end_request(tacit_request_t **request, bool wait)
{
    tacit_status_t status;
    tacit_comm_t  *comm;

    if (request == NULL || *request == NULL) {
        return TACIT_OK;
    }
    comm = (*request)->comm;
    status = tacit__comm_enter(comm, true);
    if (status != TACIT_OK) {
        return status;
    }
    if (!wait) {
        (void)tacit__comm_progress(comm);
    }
    if (!wait && (*request)->phase != TACIT_FINISHED) {
        status = TACIT_PENDING;
    } else {
        status = tacit__operation_wait(*request);
        *request = NULL;
    }
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit_test(tacit_request_t **request)
{
    return end_request(request, false);
}

tacit_status_t tacit_wait(tacit_request_t **request)
{
    return end_request(request, true);
}
