/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the header parser: a message that it takes is exactly what the writer makes of the fields. Checksums are set right
   in half of the inputs, or nothing would get past them. */
#include <stdlib.h>
#include <string.h>

#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void put32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
}

/* The checksums are the header's last two words. */
static void repair(uint8_t *message, size_t bytes)
{
    put32(message + TACIT_FRAME_HEADER_BYTES - 8,
          tacit__payload_checksum(message + TACIT_FRAME_HEADER_BYTES, bytes - TACIT_FRAME_HEADER_BYTES));
    put32(message + TACIT_FRAME_HEADER_BYTES - 4, tacit__crc32c(message, TACIT_FRAME_HEADER_BYTES - 4));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t      *message, *again;
    tacit_frame_t frame;

    if (bytes == 0) {
        return 0;
    }
    message = malloc(bytes);
    again = malloc(bytes + TACIT_FRAME_HEADER_BYTES);
    bytes--;
    memcpy(message, data + 1, bytes);
    if (data[0] % 2 != 0 && bytes >= TACIT_FRAME_HEADER_BYTES) {
        repair(message, bytes);
    }
    if (tacit__frame_parse(message, bytes, &frame) == NULL) {
        memcpy(again + TACIT_FRAME_HEADER_BYTES, frame.payload, frame.payload_bytes);
        if (tacit__frame_write(&frame, again) != bytes || memcmp(again, message, bytes) != 0) {
            abort();
        }
    }
    free(message);
    free(again);
    return 0;
}
