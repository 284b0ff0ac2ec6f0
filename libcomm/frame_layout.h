/* SPDX-License-Identifier: Apache-2.0 */
/* Where the fields of a frame's header are, and its checksum; for kernels too. Format: doc/wire-format.md, "Header". */
#ifndef TACIT_FRAME_LAYOUT_H
#define TACIT_FRAME_LAYOUT_H

#include "../compressors/device_code.h"

#include <stddef.h>
#include <stdint.h>

enum { TACIT_FRAME_HEADER_BYTES = 64, TACIT_FRAME_VERSION = 1 };

#define TACIT_FRAME_MAGIC 0x31544354u /* "TCT1" */

/* Offsets; all little-endian. */
enum {
    TACIT_AT_MAGIC = 0,
    TACIT_AT_VERSION = 4,
    TACIT_AT_KIND = 5,
    TACIT_AT_COMPRESSOR = 6,
    TACIT_AT_COMPRESSOR_VERSION = 7,
    TACIT_AT_SLOT = 8,
    TACIT_AT_SPEC = 12,
    TACIT_AT_SEQUENCE = 16,
    TACIT_AT_STEP = 20,
    TACIT_AT_HISTORY = 24,
    TACIT_AT_ELEMENTS = 28,
    TACIT_AT_ROUND_INDEX = 32, /* round in the upper 8 bits */
    TACIT_AT_TOTAL = 36,
    TACIT_AT_FIRST = 40,
    TACIT_AT_COUNT = 44,
    TACIT_AT_RANK = 48,
    TACIT_AT_STATUS = 50,
    TACIT_AT_PAYLOAD_BYTES = 52,
    TACIT_AT_PAYLOAD_CHECKSUM = 56,
    TACIT_AT_HEADER_CRC = 60
};

/* CRC-32C: Castagnoli's polynomial, reflected; bytewise, because only headers and files pass through here. */
TACIT_DEVICE static inline uint32_t tacit__crc32c_of(const uint8_t *byte, size_t bytes)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < bytes; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1)));
        }
    }
    return ~crc;
}

#endif
