/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's own collective: no frame, scan, message or time limit of ours. */
#include "operation.h"

typedef struct tacit_native_call {
    tacit_ticket_t ticket;
    double         began; /* where it is traced */
} tacit_native_call_t;

typedef struct tacit_native {
    tacit_native_call_t *calls; /* one an item */
    size_t               started, finished;
} tacit_native_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    double factor;

    return comm->transport.allreduce != NULL && codec->tensor.dtype == TACIT_FLOAT32 && codec->feedback == NULL &&
           tacit__codec_is_blockwise(codec) &&
           codec->compressor->quality(codec->spec.compressor_config, codec->tensor.count, &factor) == TACIT_LOSSLESS;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_native_t *native = leg->state = tacit__alloc(1, sizeof *native);

    if (native != NULL) {
        native->calls = tacit__alloc(leg->item_count, sizeof *native->calls);
    }
    return native != NULL && native->calls != NULL
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for %zu native calls", leg->comm->rank, leg->item_count);
}

/* All are started, in order, before the first is waited for: they overlap. */
static tacit_status_t advance(tacit_leg_t *leg)
{
    const tacit_transport_t *transport = &leg->comm->transport;
    tacit_native_t          *native = leg->state;
    tacit_native_call_t     *call = &native->calls[native->started];
    tacit_status_t           status;
    size_t                   bytes;

    if (native->started < leg->item_count) {
        const tacit_item_t *item = leg->items[native->started];

        call->began = tacit__trace_seconds(leg->comm->trace);
        status = transport->allreduce(transport->context, item->in, item->out, item->codec->tensor.count,
                                      item->codec->tensor.dtype, &call->ticket);
        native->started += status == TACIT_OK;
        return status;
    }
    call = &native->calls[native->finished];
    status = transport->test(transport->context, &call->ticket, &bytes);
    if (status == TACIT_OK) {
        const tacit_item_t *item = leg->items[native->finished++];

        tacit__item_traced(item, TACIT_TRACE_NATIVE, call->began, item->codec->tensor.count, -1);
    }
    return status;
}

static bool done(const tacit_leg_t *leg)
{
    return ((const tacit_native_t *)leg->state)->finished == leg->item_count;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    return tacit__leg_unexpected(leg, frame);
}

static void commit(tacit_leg_t *leg)
{
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__native_finish(leg->comm, leg->items[i]);
    }
}

void tacit__native_finish(const tacit_comm_t *comm, tacit_item_t *item)
{
    float  scale = 1.0f / (float)comm->ranks;
    float *out = item->out;
    size_t count = item->codec->tensor.count;

    item->sent_bytes = item->slot->ring_bytes;
    for (size_t i = 0; item->op == TACIT_AVERAGE && comm->ranks > 1 && i < count; i++) {
        out[i] *= scale;
    }
}

uint64_t tacit__native_network_bytes(const tacit_comm_t *comm, const tacit_item_t *item)
{
    const uint64_t hosts = comm->topology->hosts > 1 ? (uint64_t)comm->topology->hosts : 0;

    return item->sent_bytes * hosts / (uint64_t)comm->ranks;
}

static void undo(tacit_leg_t *leg)
{
    (void)leg;
}

static void release(tacit_leg_t *leg)
{
    tacit_native_t *native = leg->state;

    if (native != NULL) {
        tacit__free(native->calls);
        tacit__free(native);
    }
    leg->state = NULL;
}

const tacit_schedule_t tacit__schedule_native = {
    .name = "native",
    .summary = "the transport's own all-reduce: nothing is added, nothing is checked",
    .framed = false,
    .carries = carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = commit,
    .undo = undo,
    .release = release,
};
