/* SPDX-License-Identifier: Apache-2.0 */
/* Counter-based random numbers, the same on CPU and GPU: Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
   1, 2, 3", SC 2011). No state: a number is a function of its key and counter. */
#ifndef TACIT_RANDOM_H
#define TACIT_RANDOM_H

#include "compressor.h"
#include "device_code.h"

/* A stream: the two words that a tacit_key_t comes down to. */
typedef struct tacit_stream {
    uint32_t key[2], high[2]; /* Philox key, and the upper half of its counter */
} tacit_stream_t;

TACIT_DEVICE static inline uint64_t tacit__mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u; /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* shared: the same stream on every rank. */
TACIT_DEVICE static inline tacit_stream_t tacit__stream(const tacit_key_t *key, bool shared)
{
    uint64_t       low = tacit__mix64(tacit__mix64(key->seed) ^ key->slot);
    uint64_t       high = tacit__mix64(key->step) + (shared ? 0 : tacit__mix64(key->rank + 1));
    tacit_stream_t stream = {{(uint32_t)low, (uint32_t)(low >> 32)}, {(uint32_t)high, (uint32_t)(high >> 32)}};

    return stream;
}

/* Four words for one value of the counter. */
TACIT_DEVICE static inline void tacit__random4(const tacit_stream_t *stream, uint64_t counter, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = stream->high[0], c3 = stream->high[1];
    uint32_t k0 = stream->key[0], k1 = stream->key[1];

    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The same for 16 values of the counter, side by side: vectors of rounds. */
enum { TACIT_RANDOM_WORDS = 64 };

static inline void tacit__random_lanes(const tacit_stream_t *stream, uint64_t counter, uint32_t out[TACIT_RANDOM_WORDS])
{
    enum { LANES = TACIT_RANDOM_WORDS / 4 };
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    uint32_t k0 = stream->key[0], k1 = stream->key[1];

    for (uint32_t i = 0; i < LANES; i++) {
        c0[i] = (uint32_t)(counter + i);
        c1[i] = (uint32_t)((counter + i) >> 32);
        c2[i] = stream->high[0];
        c3[i] = stream->high[1];
    }
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < LANES; i++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (size_t i = 0; i < LANES; i++) {
        out[4 * i] = c0[i];
        out[4 * i + 1] = c1[i];
        out[4 * i + 2] = c2[i];
        out[4 * i + 3] = c3[i];
    }
}

/* The word of element i: word i mod 4 of counter i / 4. */
TACIT_DEVICE static inline uint32_t tacit__random(const tacit_stream_t *stream, uint64_t i)
{
    uint32_t words[4];

    tacit__random4(stream, i >> 2, words);
    return words[i & 3];
}

/* Uniform in [0, 1): the upper 24 bits of a word. */
TACIT_DEVICE static inline float tacit__uniform(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

#endif
