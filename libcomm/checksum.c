/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums of headers (CRC-32C) and payloads (a sum over words), and the hash by which names and specs are compared. */
#include "checksum.h"
#include "frame_layout.h"
#include "internal.h"
#include "isa.h"

#include <string.h>
#include <time.h>

enum { LANES = 64 }; /* four vectors of AVX-512: with less, compilers multiply one word at a time, or wait for each sum */

uint32_t tacit__crc32c(const void *data, size_t bytes)
{
    return tacit__crc32c_of(data, bytes);
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

/* Words beside each other are independent. Their places are those of the first ones, whose products are made once, and a number
   for all. */
static uint32_t checksum_loop(const void *data, size_t bytes)
{
    const uint8_t *byte = data;
    const size_t   words = bytes / 4, whole = words / LANES * LANES;
    uint32_t       lane[LANES] = {0}, place[LANES], base = 0;
    uint32_t       sum = (uint32_t)bytes * TACIT_CHECKSUM_LENGTH;
    uint8_t        last[4] = {0};

    for (uint32_t j = 0; j < LANES; j++) {
        place[j] = j * TACIT_CHECKSUM_PLACE;
    }
    for (size_t i = 0; i < whole; i += LANES, base += LANES * TACIT_CHECKSUM_PLACE) {
        for (size_t j = 0; j < LANES; j++) {
            lane[j] += tacit__checksum_mix(load_word(byte + 4 * (i + j)) + base + place[j]);
        }
    }
    for (size_t j = 0; j < LANES; j++) {
        sum += lane[j];
    }
    for (size_t i = whole; i < words; i++) {
        sum += tacit__checksum_term(load_word(byte + 4 * i), (uint32_t)i);
    }
    if (bytes % 4 != 0) {
        memcpy(last, byte + 4 * words, bytes % 4);
        sum += tacit__checksum_term(load_word(last), (uint32_t)words);
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
