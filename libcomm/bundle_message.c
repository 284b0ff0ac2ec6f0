/* SPDX-License-Identifier: Apache-2.0 */
/* A bundle's faults, and the messages that tell them (doc/wire-format.md, "Bundles"). */
#include "bundle.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"

void tacit__bundle_note(tacit_bundle_t *bundle, int rank, tacit_status_t status)
{
    if (status != TACIT_OK && (bundle->fault == TACIT_OK || rank < bundle->faulty)) {
        bundle->fault = status;
        bundle->faulty = rank;
        snprintf(bundle->text, sizeof bundle->text, "%s", tacit_last_error());
    }
}

tacit_status_t tacit__bundle_place_fault(int rank, const tacit_codec_t *codec)
{
    return tacit__fail(TACIT_ERR_FRAME, "what rank %d has sent of slot '%s' is not a payload of '%s'", rank, codec->name,
                       codec->given.text);
}

tacit_status_t tacit__bundle_sum_fault(const tacit_bundle_t *bundle, const tacit_codec_t *codec, uint64_t step)
{
    return tacit__fail(TACIT_ERR_VALUE,
                       "slot '%s' at step %" PRIu64
                       ": the sum over %d ranks leaves the range of float32; nothing was changed. Skip "
                       "the step, or set nonfinite to pass",
                       codec->name, step, bundle->ranks);
}

void tacit__bundle_write(const tacit_bundle_t *bundle, tacit_frame_kind_t kind, size_t payload_bytes, uint8_t *message)
{
    tacit_frame_t frame = bundle->identity;

    frame.kind = (uint8_t)kind;
    frame.payload_bytes = (uint32_t)payload_bytes;
    if (bundle->fault != TACIT_OK) {
        frame.status = (int16_t)bundle->fault;
        frame.payload_bytes = (uint32_t)tacit__min(strlen(bundle->text), TACIT_BUNDLE_LEAST_PAYLOAD);
        memcpy(message + TACIT_FRAME_HEADER_BYTES, bundle->text, frame.payload_bytes);
    }
    tacit__frame_write(&frame, message);
}

tacit_status_t tacit__bundle_read(const tacit_bundle_t *bundle, int rank, tacit_frame_kind_t kind, const uint8_t *message,
                                  size_t bytes, tacit_frame_t *frame_out)
{
    const tacit_frame_t mine = bundle->identity;
    const size_t        room = bytes - TACIT_FRAME_HEADER_BYTES;
    const size_t        payload_bytes = tacit__min(tacit__frame_read(message).payload_bytes, room);
    const char         *reason = tacit__frame_parse(message, TACIT_FRAME_HEADER_BYTES + payload_bytes, frame_out);

    if (reason == NULL && (frame_out->kind != kind || frame_out->rank != rank)) {
        reason = "it is another message, or another rank's; exchange them in ascending order of ranks";
    }
    if (reason != NULL) {
        return tacit__fail(TACIT_ERR_FRAME, "rank %d: a bundle's message from rank %d cannot be used: %s", bundle->rank, rank,
                           reason);
    }
    if (frame_out->status != TACIT_OK) {
        char text[TACIT_BUNDLE_LEAST_PAYLOAD + 1] = "";

        memcpy(text, frame_out->payload, tacit__min(frame_out->payload_bytes, TACIT_BUNDLE_LEAST_PAYLOAD));
        return tacit__fail_text(frame_out->status < 0 ? (tacit_status_t)frame_out->status : TACIT_ERR_FRAME, text);
    }
    if (frame_out->slot != mine.slot || frame_out->elements != mine.elements || frame_out->spec != mine.spec ||
        frame_out->step != mine.step) {
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "rank %d has %s than rank %d in a bundle of %zu tensors, of which the first is '%s', here at step "
                           "%" PRIu64,
                           rank,
                           frame_out->slot != mine.slot || frame_out->elements != mine.elements ? "other tensors"
                           : frame_out->spec != mine.spec                                       ? "another spec or operator"
                                                                                                : "another step",
                           bundle->rank, bundle->count, bundle->codecs[0]->name, bundle->step);
    }
    if (frame_out->history != mine.history) {
        return tacit__fail(
            TACIT_ERR_MISMATCH,
            "rank %d has other steps behind it than rank %d in a bundle of %zu tensors, of which the first is '%s': one of "
            "them has failed on some ranks only; bring all to one state, and make the bundle again",
            rank, bundle->rank, bundle->count, bundle->codecs[0]->name);
    }
    return TACIT_OK;
}

uint64_t tacit__bundle_sent_bytes(const tacit_bundle_t *bundle, size_t codec)
{
    const uint64_t others = (uint64_t)(bundle->ranks - 1);
    uint64_t       bytes = 0;

    for (int owner = 0; owner < bundle->ranks; owner++) {
        for (size_t p = bundle->part[owner]; p < bundle->part[owner + 1]; p++) {
            const tacit_piece_t *piece = &bundle->pieces[p];

            if (piece->codec == codec) {
                bytes += tacit__part_bytes(bundle->codecs[codec], piece->count) * (owner == bundle->rank ? others : 1);
            }
        }
    }
    for (size_t w = 0; w < bundle->whole_count; w++) {
        bytes += bundle->wholes[w].codec == codec ? others * (bundle->wholes[w].bound + bundle->wholes[w].first_bytes) : 0;
    }
    return bytes;
}
