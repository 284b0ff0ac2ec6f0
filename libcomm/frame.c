/* SPDX-License-Identifier: Apache-2.0 */
/* Writes and checks frame headers (doc/wire-format.md, "Header"). */
#include "frame.h"
#include "frame_layout.h"

#include <string.h>

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, (uint16_t)value);
    put16(at + 2, (uint16_t)(value >> 16));
}

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t get32(const uint8_t *at)
{
    return get16(at) | (uint32_t)get16(at + 2) << 16;
}

size_t tacit__frame_write(const tacit_frame_t *frame, uint8_t *message)
{
    put32(message + TACIT_AT_MAGIC, TACIT_FRAME_MAGIC);
    message[TACIT_AT_VERSION] = TACIT_FRAME_VERSION;
    message[TACIT_AT_KIND] = frame->kind;
    message[TACIT_AT_COMPRESSOR] = frame->compressor;
    message[TACIT_AT_COMPRESSOR_VERSION] = frame->compressor_version;
    put32(message + TACIT_AT_SLOT, frame->slot);
    put32(message + TACIT_AT_SPEC, frame->spec);
    put32(message + TACIT_AT_SEQUENCE, frame->sequence);
    put32(message + TACIT_AT_STEP, frame->step);
    put32(message + TACIT_AT_HISTORY, frame->history);
    put32(message + TACIT_AT_ELEMENTS, frame->elements);
    put32(message + TACIT_AT_ROUND_INDEX, frame->round << 24 | (frame->index & 0xffffffu));
    put32(message + TACIT_AT_TOTAL, frame->total);
    put32(message + TACIT_AT_FIRST, frame->first);
    put32(message + TACIT_AT_COUNT, frame->count);
    put16(message + TACIT_AT_RANK, frame->rank);
    put16(message + TACIT_AT_STATUS, (uint16_t)frame->status);
    put32(message + TACIT_AT_PAYLOAD_BYTES, frame->payload_bytes);
    put32(message + TACIT_AT_PAYLOAD_CHECKSUM, tacit__payload_checksum(message + TACIT_FRAME_HEADER_BYTES, frame->payload_bytes));
    put32(message + TACIT_AT_HEADER_CRC, tacit__crc32c(message, TACIT_AT_HEADER_CRC));
    return TACIT_FRAME_HEADER_BYTES + frame->payload_bytes;
}

tacit_frame_t tacit__frame_read(const uint8_t *message)
{
    const uint32_t round_index = get32(message + TACIT_AT_ROUND_INDEX);

    return (tacit_frame_t){
        .kind = message[TACIT_AT_KIND],
        .compressor = message[TACIT_AT_COMPRESSOR],
        .compressor_version = message[TACIT_AT_COMPRESSOR_VERSION],
        .rank = get16(message + TACIT_AT_RANK),
        .status = (int16_t)get16(message + TACIT_AT_STATUS),
        .slot = get32(message + TACIT_AT_SLOT),
        .spec = get32(message + TACIT_AT_SPEC),
        .sequence = get32(message + TACIT_AT_SEQUENCE),
        .step = get32(message + TACIT_AT_STEP),
        .history = get32(message + TACIT_AT_HISTORY),
        .elements = get32(message + TACIT_AT_ELEMENTS),
        .round = round_index >> 24,
        .index = round_index & 0xffffffu,
        .total = get32(message + TACIT_AT_TOTAL),
        .first = get32(message + TACIT_AT_FIRST),
        .count = get32(message + TACIT_AT_COUNT),
        .payload_bytes = get32(message + TACIT_AT_PAYLOAD_BYTES),
        .payload = message + TACIT_FRAME_HEADER_BYTES,
    };
}

const char *tacit__frame_parse(const uint8_t *message, size_t bytes, tacit_frame_t *frame_out)
{
    if (bytes < TACIT_FRAME_HEADER_BYTES) {
        return "it is shorter than a header (truncated)";
    }
    if (get32(message + TACIT_AT_MAGIC) != TACIT_FRAME_MAGIC) {
        return "it does not begin with a frame's magic number (foreign or damaged)";
    }
    if (tacit__crc32c(message, TACIT_AT_HEADER_CRC) != get32(message + TACIT_AT_HEADER_CRC)) {
        return "its header's checksum is wrong (damaged)";
    }
    if (message[TACIT_AT_VERSION] != TACIT_FRAME_VERSION) {
        return "it has another version of the wire format (use the same release of Tacit on all ranks)";
    }
    if (message[TACIT_AT_KIND] == 0 || message[TACIT_AT_KIND] >= TACIT_FRAME_KINDS) {
        return "its kind is unknown (use the same release of Tacit on all ranks)";
    }
    if (get32(message + TACIT_AT_PAYLOAD_BYTES) != bytes - TACIT_FRAME_HEADER_BYTES) {
        return "its length is not what its header says (truncated)";
    }
    if (tacit__payload_checksum(message + TACIT_FRAME_HEADER_BYTES, bytes - TACIT_FRAME_HEADER_BYTES) !=
        get32(message + TACIT_AT_PAYLOAD_CHECKSUM)) {
        return "its payload's checksum is wrong (damaged)";
    }
    *frame_out = tacit__frame_read(message);
    return NULL;
}
