/* SPDX-License-Identifier: Apache-2.0 */
/* Writes and checks frame headers (doc/wire-format.md, "Header"). */
#include "frame.h"

#include <string.h>

/* Offsets of the header's fields; all little-endian. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_KIND = 5,
    AT_COMPRESSOR = 6,
    AT_COMPRESSOR_VERSION = 7,
    AT_SLOT = 8,
    AT_SPEC = 12,
    AT_SEQUENCE = 16,
    AT_STEP = 20,
    AT_HISTORY = 24,
    AT_ELEMENTS = 28,
    AT_ROUND_INDEX = 32, /* round in the upper 8 bits */
    AT_TOTAL = 36,
    AT_FIRST = 40,
    AT_COUNT = 44,
    AT_RANK = 48,
    AT_STATUS = 50,
    AT_PAYLOAD_BYTES = 52,
    AT_PAYLOAD_CHECKSUM = 56,
    AT_HEADER_CRC = 60
};

static const uint32_t magic = 0x31544354u; /* "TCT1" */

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
    put32(message + AT_MAGIC, magic);
    message[AT_VERSION] = TACIT_FRAME_VERSION;
    message[AT_KIND] = frame->kind;
    message[AT_COMPRESSOR] = frame->compressor;
    message[AT_COMPRESSOR_VERSION] = frame->compressor_version;
    put32(message + AT_SLOT, frame->slot);
    put32(message + AT_SPEC, frame->spec);
    put32(message + AT_SEQUENCE, frame->sequence);
    put32(message + AT_STEP, frame->step);
    put32(message + AT_HISTORY, frame->history);
    put32(message + AT_ELEMENTS, frame->elements);
    put32(message + AT_ROUND_INDEX, frame->round << 24 | (frame->index & 0xffffffu));
    put32(message + AT_TOTAL, frame->total);
    put32(message + AT_FIRST, frame->first);
    put32(message + AT_COUNT, frame->count);
    put16(message + AT_RANK, frame->rank);
    put16(message + AT_STATUS, (uint16_t)frame->status);
    put32(message + AT_PAYLOAD_BYTES, frame->payload_bytes);
    put32(message + AT_PAYLOAD_CHECKSUM, tacit__payload_checksum(message + TACIT_FRAME_HEADER_BYTES, frame->payload_bytes));
    put32(message + AT_HEADER_CRC, tacit__crc32c(message, AT_HEADER_CRC));
    return TACIT_FRAME_HEADER_BYTES + frame->payload_bytes;
}

tacit_frame_t tacit__frame_read(const uint8_t *message)
{
    const uint32_t round_index = get32(message + AT_ROUND_INDEX);

    return (tacit_frame_t){
        .kind = message[AT_KIND],
        .compressor = message[AT_COMPRESSOR],
        .compressor_version = message[AT_COMPRESSOR_VERSION],
        .rank = get16(message + AT_RANK),
        .status = (int16_t)get16(message + AT_STATUS),
        .slot = get32(message + AT_SLOT),
        .spec = get32(message + AT_SPEC),
        .sequence = get32(message + AT_SEQUENCE),
        .step = get32(message + AT_STEP),
        .history = get32(message + AT_HISTORY),
        .elements = get32(message + AT_ELEMENTS),
        .round = round_index >> 24,
        .index = round_index & 0xffffffu,
        .total = get32(message + AT_TOTAL),
        .first = get32(message + AT_FIRST),
        .count = get32(message + AT_COUNT),
        .payload_bytes = get32(message + AT_PAYLOAD_BYTES),
        .payload = message + TACIT_FRAME_HEADER_BYTES,
    };
}

const char *tacit__frame_parse(const uint8_t *message, size_t bytes, tacit_frame_t *frame_out)
{
    if (bytes < TACIT_FRAME_HEADER_BYTES) {
        return "it is shorter than a header (truncated)";
    }
    if (get32(message + AT_MAGIC) != magic) {
        return "it does not begin with a frame's magic number (foreign or damaged)";
    }
    if (tacit__crc32c(message, AT_HEADER_CRC) != get32(message + AT_HEADER_CRC)) {
        return "its header's checksum is wrong (damaged)";
    }
    if (message[AT_VERSION] != TACIT_FRAME_VERSION) {
        return "it has another version of the wire format (use the same release of Tacit on all ranks)";
    }
    if (message[AT_KIND] == 0 || message[AT_KIND] >= TACIT_FRAME_KINDS) {
        return "its kind is unknown (use the same release of Tacit on all ranks)";
    }
    if (get32(message + AT_PAYLOAD_BYTES) != bytes - TACIT_FRAME_HEADER_BYTES) {
        return "its length is not what its header says (truncated)";
    }
    if (tacit__payload_checksum(message + TACIT_FRAME_HEADER_BYTES, bytes - TACIT_FRAME_HEADER_BYTES) !=
        get32(message + AT_PAYLOAD_CHECKSUM)) {
        return "its payload's checksum is wrong (damaged)";
    }
    *frame_out = tacit__frame_read(message);
    return NULL;
}
