/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums of headers (CRC-32C) and payloads (lane-parallel), and the hash by which names and specs are compared. */
#include "internal.h"
#include "isa.h"

#include <string.h>
#include <time.h>

enum { LANES = 16 };

/* Castagnoli's polynomial, reflected; bytewise, because only headers and files pass through here. */
uint32_t tacit__crc32c(const void *data, size_t bytes)
{
    const uint8_t *byte = data;
    uint32_t       crc = ~0u;

    for (size_t i = 0; i < bytes; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1)));
        }
    }
    return ~crc;
}

/* Words are little-endian, as everything on the wire. */
static inline uint32_t load_word(const uint8_t *byte)
{
    uint32_t word;

    memcpy(&word, byte, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    return word;
}

static inline uint32_t mix(uint32_t sum, uint32_t word, uint32_t multiplier, unsigned turn)
{
    sum = sum * multiplier + word;
    return sum << turn | sum >> (32 - turn);
}

/* Multiplying by an odd number and rotating are invertible, so a change of any one word changes its lane, and the lane the
   result. Rotation, and other numbers for the lanes than within them, tell words that have changed places. */
static uint32_t checksum_loop(const void *data, size_t bytes)
{
    static const uint32_t within = 0x9e3779b1u, across = 0x85ebca77u;
    const uint8_t        *byte = data;
    uint32_t              lane[LANES] = {0};
    uint8_t               tail[4 * LANES] = {0};
    uint32_t              sum = (uint32_t)bytes;
    size_t                whole = bytes / sizeof tail * sizeof tail;

    for (size_t i = 0; i < whole; i += sizeof tail) {
        for (size_t j = 0; j < LANES; j++) {
            lane[j] = mix(lane[j], load_word(byte + i + 4 * j), within, 13);
        }
    }
    if (whole < bytes) {
        memcpy(tail, byte + whole, bytes - whole);
        for (size_t j = 0; j < LANES; j++) {
            lane[j] = mix(lane[j], load_word(tail + 4 * j), within, 13);
        }
    }
    for (size_t j = 0; j < LANES; j++) {
        sum = mix(sum, lane[j], across, 17);
    }
    return sum;
}

TACIT_EACH_ISA(uint32_t, checksum, (const void *data, size_t bytes), (data, bytes))

uint32_t tacit__payload_checksum(const void *data, size_t bytes)
{
    return checksum(data, bytes);
}

uint64_t tacit__hash(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *byte = data;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ byte[i]) * 0x100000001b3u;
    }
    return hash;
}

uint64_t tacit__hash_text(const char *text)
{
    return tacit__hash(TACIT_HASH_START, text, strlen(text));
}

double tacit__seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
