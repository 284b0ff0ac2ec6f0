/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: how indices may travel (doc/wire-format.md, "topk"), and the bytes that they take. */
#ifndef TACIT_TOPK_SIZE_H
#define TACIT_TOPK_SIZE_H

#include "device_code.h"

#include <stddef.h>
#include <stdint.h>

typedef enum { TACIT_INDEX_U32, TACIT_INDEX_U16, TACIT_INDEX_RLE16, TACIT_INDEX_BITMAP, TACIT_INDEX_RICE } tacit_index_t;
enum {
    TACIT_INDEX_CODINGS = 5,
    TACIT_INDEX_ESCAPE = 65535, /* a run that stands for 65536 zeros, if its value is +0 */
    TACIT_INDEX_SPAN = 65536,   /* elements that 16 bits tell apart */
    TACIT_RICE_MOST = 31,
    TACIT_TOPK_HEADER = 8 /* bytes of a payload before the indices */
};

TACIT_DEVICE static inline size_t tacit__index_words(size_t bytes)
{
    return (bytes + 3) / 4 * 4;
}

/* Bits at most: all zeros in as few gaps as there are. The parameter for which that is least. */
TACIT_DEVICE static inline size_t tacit__rice_bits_bound(size_t count, size_t entries, unsigned *rice_out)
{
    size_t bits = SIZE_MAX;

    for (unsigned rice = 0; rice <= TACIT_RICE_MOST; rice++) {
        const size_t most = entries * (rice + 1) + ((count - entries) >> rice);
        if (most < bits) {
            bits = most;
            *rice_out = rice;
        }
    }
    return bits;
}

TACIT_DEVICE static inline size_t tacit__index_bytes_of(tacit_index_t coding, size_t count, size_t entries, size_t pairs,
                                                        size_t rice_bits)
{
    switch (coding) {
    case TACIT_INDEX_U16:
        return (count + TACIT_INDEX_SPAN - 1) / TACIT_INDEX_SPAN * 4 + tacit__index_words(2 * entries);
    case TACIT_INDEX_RLE16:
        return tacit__index_words(2 * pairs);
    case TACIT_INDEX_BITMAP:
        return tacit__index_words((count + 7) / 8);
    case TACIT_INDEX_RICE:
        return tacit__index_words((rice_bits + 7) / 8);
    case TACIT_INDEX_U32:
        break;
    }
    return 4 * entries;
}

#endif
