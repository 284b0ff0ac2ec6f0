/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of a mixture's layer, for programs that move their own bytes: doc/wire-format.md, "Tokens". */
#include "moe.h"

#include <inttypes.h>

#include "bits.h"
#include "frame.h"

/* Whether there is an exchange, and another rank of this number. */
static bool has_messages(const tacit_moe_pass_t *pass, int rank)
{
    return pass != NULL && pass->open && rank >= 0 && rank < pass->moe->ranks && rank != pass->moe->rank;
}

static size_t parcel_bytes(const tacit_moe_pass_t *pass, const tacit_moe_parcel_t *parcel)
{
    return TACIT_FRAME_HEADER_BYTES + parcel->head_bytes + tacit__values_bytes(&pass->values, parcel->elements);
}

size_t tacit_moe_message_bytes(const tacit_moe_pass_t *pass, int rank)
{
    tacit_moe_parcel_t parcel;

    if (!has_messages(pass, rank)) {
        return 0;
    }
    parcel = tacit__moe_outgoing(pass, rank);
    return parcel_bytes(pass, &parcel);
}

size_t tacit_moe_expected_bytes(const tacit_moe_pass_t *pass, int rank)
{
    tacit_moe_parcel_t parcel;

    if (!has_messages(pass, rank)) {
        return 0;
    }
    if (pass->exchange == TACIT_MOE_DISPATCH) {
        parcel = (tacit_moe_parcel_t){.head_bytes = tacit__moe_head_bound(pass->moe),
                                      .elements = tacit__moe_elements_bound(pass->moe)};
    } else {
        parcel = tacit__moe_incoming(pass, rank);
    }
    return parcel_bytes(pass, &parcel);
}

static tacit_status_t check_call(const tacit_moe_pass_t *pass, int rank, const void *message)
{
    if (pass == NULL || message == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe%s%s: the pass or the message is NULL", pass != NULL ? " " : "",
                           pass != NULL ? pass->moe->name : "");
    }
    if (!pass->open) {
        return tacit__fail(TACIT_ERR_STATE, "moe '%s': no exchange has begun, so that there is no message", pass->moe->name);
    }
    return has_messages(pass, rank) ? TACIT_OK
                                    : tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': rank %d has no messages with rank %d of %d",
                                                  pass->moe->name, pass->moe->rank, rank, pass->moe->ranks);
}

static tacit_frame_t frame_of(const tacit_moe_pass_t *pass)
{
    const tacit_moe_t        *moe = pass->moe;
    const tacit_compressor_t *compressor = pass->values.spec.compressor;

    return (tacit_frame_t){
        .kind = TACIT_FRAME_TOKENS,
        .compressor = compressor->wire_id,
        .compressor_version = compressor->wire_version,
        .rank = (uint16_t)moe->rank,
        .slot = (uint32_t)pass->values.key.slot,
        .spec = (uint32_t)moe->spec_hash,
        .step = pass->step,
        .elements = (uint32_t)moe->config.dimension,
        .round = (uint32_t)pass->exchange,
        .total = 1,
    };
}

tacit_status_t tacit_moe_write(tacit_moe_pass_t *pass, int rank, void *message)
{
    tacit_status_t     status;
    tacit_moe_parcel_t parcel;
    tacit_frame_t      frame;
    uint8_t           *payload;
    size_t             bytes;

    TRY(check_call(pass, rank, message));
    payload = (uint8_t *)message + TACIT_FRAME_HEADER_BYTES;
    parcel = tacit__moe_outgoing(pass, rank);
    bytes = parcel_bytes(pass, &parcel);
    if (parcel.elements > UINT32_MAX || bytes > UINT32_MAX) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': %zu elements for rank %d are too many for one message",
                             pass->moe->name, parcel.elements, rank);
        goto out;
    }
    if (parcel.head_bytes != 0) {
        memcpy(payload, parcel.head, parcel.head_bytes);
    }
    TRY(tacit__moe_report(
        pass, rank,
        tacit__values_encode(&pass->values, parcel.rows, 0, parcel.elements, payload + parcel.head_bytes, parcel.decoded)));
    frame = frame_of(pass);
    frame.count = (uint32_t)parcel.elements;
    frame.payload_bytes = (uint32_t)(bytes - TACIT_FRAME_HEADER_BYTES);
    tacit__moe_written(pass, rank, tacit__frame_write(&frame, message));
out:
    return status;
}

/* A frame from this rank, of this exchange. */
static tacit_status_t open_frame(const tacit_moe_pass_t *pass, int rank, const void *message, size_t bytes,
                                 tacit_frame_t *frame_out)
{
    const tacit_frame_t own = frame_of(pass);
    const char         *name = pass->moe->name, *reason = tacit__frame_parse(message, bytes, frame_out);

    if (reason != NULL) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': the message of rank %d cannot be used: %s", name, rank, reason);
    }
    if (frame_out->kind != own.kind || frame_out->rank != rank) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': a message read as rank %d's is one of rank %u's, of kind %u, not %u", name,
                           rank, frame_out->rank, frame_out->kind, own.kind);
    }
    if (frame_out->slot != own.slot || frame_out->spec != own.spec || frame_out->elements != own.elements ||
        frame_out->compressor != own.compressor || frame_out->compressor_version != own.compressor_version) {
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "moe '%s' of %zu elements a token: rank %d sent rows of %u elements, or of another layer or spec",
                           name, pass->moe->config.dimension, rank, frame_out->elements);
    }
    if (frame_out->step != own.step || frame_out->round != own.round) {
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "moe '%s': rank %d is in exchange %" PRIu32 " of pass %" PRIu32 ", this rank in %" PRIu32
                           " of %" PRIu32,
                           name, rank, frame_out->round, frame_out->step, own.round, own.step);
    }
    return TACIT_OK;
}

/* Takes the head off a payload; only what it says then is how much follows. */
static tacit_status_t read_head(tacit_moe_pass_t *pass, int rank, const tacit_frame_t *frame, size_t *head_bytes_out)
{
    const size_t dimension = pass->moe->config.dimension;
    const size_t rows = tacit__values_bytes(&pass->values, tacit__min(frame->count, tacit__moe_elements_bound(pass->moe)));

    if (frame->payload_bytes < rows + sizeof(uint32_t) || (uint64_t)tacit__load32(frame->payload) * dimension != frame->count) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': rank %d's message of %u bytes does not hold %u elements in rows of %zu",
                           pass->moe->name, rank, frame->payload_bytes, frame->count, dimension);
    }
    *head_bytes_out = frame->payload_bytes - rows;
    return tacit__moe_meet(pass, rank, frame->payload, *head_bytes_out);
}

tacit_status_t tacit_moe_read(tacit_moe_pass_t *pass, int rank, const void *message, size_t bytes)
{
    tacit_status_t     status;
    tacit_frame_t      frame;
    tacit_moe_parcel_t parcel;
    size_t             head_bytes = 0;

    TRY(check_call(pass, rank, message));
    TRY(open_frame(pass, rank, message, bytes, &frame));
    if (pass->exchange == TACIT_MOE_DISPATCH) {
        TRY(read_head(pass, rank, &frame, &head_bytes));
    }
    parcel = tacit__moe_incoming(pass, rank);
    if (frame.count != parcel.elements || frame.payload_bytes != head_bytes + tacit__values_bytes(&pass->values, frame.count)) {
        status = tacit__fail(TACIT_ERR_FRAME, "moe '%s': rank %d sent %u elements in %u bytes, where %zu are expected",
                             pass->moe->name, rank, frame.count, frame.payload_bytes, parcel.elements);
        goto out;
    }
    tacit__values_decode(&pass->values, frame.payload + head_bytes, 0, parcel.elements, parcel.rows);
    tacit__moe_read(pass, rank);
out:
    return status;
}
