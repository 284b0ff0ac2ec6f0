/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: ascending indices as bytes (doc/wire-format.md, "topk"): plain, in spans, as runs of zeros, as a bitmap, as gaps in a
   Rice code (Rice and Plaunt, "Adaptive Variable-Length Coding for Efficient Compression of Spacecraft Television Data", 1971),
   which for evenly spread entries takes an eighth of a bit more than the least possible. */
#include "bits.h"
#include "topk.h"

enum { SPAN = TACIT_INDEX_SPAN };

/* Zeros before an entry, since the one before it. */
static inline size_t gap_before(const tacit_index_range_t *range, size_t entry)
{
    return entry == 0 ? range->indices[0] - range->first : range->indices[entry] - range->indices[entry - 1] - 1;
}

/* ---- Sizes ---- */

size_t tacit__index_escapes(const tacit_index_range_t *range, size_t entry)
{
    return gap_before(range, entry) / SPAN;
}

size_t tacit__index_pairs(tacit_index_t coding, const tacit_index_range_t *range)
{
    size_t pairs = range->entries;

    for (size_t i = 0; coding == TACIT_INDEX_RLE16 && range->count > SPAN && i < range->entries; i++) {
        pairs += tacit__index_escapes(range, i);
    }
    return pairs;
}

size_t tacit__index_pairs_bound(tacit_index_t coding, size_t count, size_t entries)
{
    return entries + (coding == TACIT_INDEX_RLE16 && entries > 0 ? (count - entries) / SPAN : 0);
}

/* All gaps' quotients together, for a parameter. */
static size_t quotients(const tacit_index_range_t *range, unsigned rice)
{
    const uint32_t *indices = range->indices;
    size_t          sum = range->entries > 0 ? gap_before(range, 0) >> rice : 0, i = 1;

    for (; i + TACIT_LANES <= range->entries; i += TACIT_LANES) {
        uint32_t part = 0; /* all gaps together are below 2^32 */
        for (size_t j = i; j < i + TACIT_LANES; j++) {
            part += (indices[j] - indices[j - 1] - 1) >> rice;
        }
        sum += part;
    }
    for (; i < range->entries; i++) {
        sum += gap_before(range, i) >> rice;
    }
    return sum;
}

/* The bits are convex in the parameter, and clustered entries want a smaller one than evenly spread ones. */
unsigned tacit__rice_parameter(const tacit_index_range_t *range)
{
    unsigned rice = 0;
    size_t   sum, below;

    if (range->entries == 0) {
        return 0;
    }
    (void)tacit__rice_bits_bound(range->count, range->entries, &rice);
    sum = quotients(range, rice);
    while (rice > 0 && (below = quotients(range, rice - 1)) < sum + range->entries) {
        rice--;
        sum = below;
    }
    return rice;
}

size_t tacit__index_bytes(tacit_index_t coding, const tacit_index_range_t *range, unsigned rice)
{
    const size_t bits = coding == TACIT_INDEX_RICE ? range->entries * (rice + 1) + quotients(range, rice) : 0;

    return tacit__index_bytes_of(coding, range->count, range->entries, tacit__index_pairs(coding, range), bits);
}

size_t tacit__index_bytes_bound(tacit_index_t coding, size_t count, size_t entries)
{
    unsigned     rice;
    const size_t bits = coding == TACIT_INDEX_RICE && entries > 0 ? tacit__rice_bits_bound(count, entries, &rice) : 0;

    return tacit__index_bytes_of(coding, count, entries, tacit__index_pairs_bound(coding, count, entries), bits);
}

/* ---- Encoding: exactly tacit__index_bytes() ---- */

static void encode_u32(const tacit_index_range_t *range, uint8_t *out)
{
    for (size_t i = 0; i < range->entries; i++) {
        tacit__store32(out + 4 * i, (uint32_t)(range->indices[i] - range->first));
    }
}

static void encode_u16(const tacit_index_range_t *range, uint8_t *out)
{
    const size_t spans = (range->count + SPAN - 1) / SPAN;
    uint8_t     *offsets = out + 4 * spans;
    size_t       i = 0;

    for (size_t span = 0; span < spans; span++) {
        const size_t before = i;
        for (; i < range->entries && (range->indices[i] - range->first) / SPAN == span; i++) {
            tacit__store16(offsets + 2 * i, (uint16_t)((range->indices[i] - range->first) % SPAN));
        }
        tacit__store32(out + 4 * span, (uint32_t)(i - before));
    }
    if (range->entries % 2) {
        tacit__store16(offsets + 2 * range->entries, 0);
    }
}

static void encode_rle16(const tacit_index_range_t *range, uint8_t *out)
{
    size_t pairs = 0;

    for (size_t i = 0; i < range->entries; i++) {
        const size_t gap = gap_before(range, i);
        for (size_t escapes = gap / SPAN; escapes > 0; escapes--) {
            tacit__store16(out + 2 * pairs++, TACIT_INDEX_ESCAPE);
        }
        tacit__store16(out + 2 * pairs++, (uint16_t)(gap % SPAN));
    }
    if (pairs % 2) {
        tacit__store16(out + 2 * pairs, 0);
    }
}

static void encode_bitmap(const tacit_index_range_t *range, uint8_t *out)
{
    memset(out, 0, tacit__index_words((range->count + 7) / 8));
    for (size_t i = 0; i < range->entries; i++) {
        const size_t index = range->indices[i] - range->first;
        out[index / 8] |= (uint8_t)(1u << index % 8);
    }
}

/* Bits of a payload that are not written yet, the lowest first. */
typedef struct tacit_pending {
    uint8_t *at;
    uint64_t window; /* 0 above the bits that are held */
    unsigned held;   /* below 32 */
} tacit_pending_t;

/* Appends up to 32 bits, at least 1. The last word is written before it is full, so that there is no branch. */
static inline void append_bits(tacit_pending_t *pending, uint64_t bits, unsigned count)
{
    unsigned full;

    pending->window |= bits << pending->held;
    pending->held += count;
    tacit__store32(pending->at, (uint32_t)pending->window);
    full = pending->held / 32;
    pending->at += 4 * full;
    pending->window >>= 32 * full;
    pending->held %= 32;
}

/* Each gap: its quotient by 2^rice as so many zeros and a one, then its remainder in `rice` bits; all from the lowest bit on. Two
   at once, where they are as short as they usually are. */
static void encode_rice(const tacit_index_range_t *range, unsigned rice, uint8_t *out)
{
    const uint64_t  one = 1, rest = (one << rice) - 1;
    tacit_pending_t pending = {.at = out};

    for (size_t i = 0; i < range->entries;) {
        const size_t   gap = gap_before(range, i), next = i + 1 < range->entries ? gap_before(range, i + 1) : SIZE_MAX >> 1;
        const size_t   zeros = gap >> rice, next_zeros = next >> rice;
        const uint64_t code = one | (gap & rest) << 1;

        if (zeros + next_zeros <= 30 - 2 * (size_t)rice && rice < 16) {
            const uint64_t next_code = one | (next & rest) << 1;
            const unsigned count = (unsigned)zeros + rice + 1;
            append_bits(&pending, code << zeros | next_code << next_zeros << count, count + (unsigned)next_zeros + rice + 1);
            i += 2;
            continue;
        }
        for (size_t left = zeros; left > 0;) {
            const unsigned count = left < 32 ? (unsigned)left : 32;
            append_bits(&pending, 0, count);
            left -= count;
        }
        append_bits(&pending, code, rice + 1);
        i++;
    }
    if (pending.held > 0) {
        tacit__store32(pending.at, (uint32_t)pending.window);
    }
}

void tacit__index_encode(tacit_index_t coding, const tacit_index_range_t *range, unsigned rice, uint8_t *out)
{
    switch (coding) {
    case TACIT_INDEX_U32:
        encode_u32(range, out);
        break;
    case TACIT_INDEX_U16:
        encode_u16(range, out);
        break;
    case TACIT_INDEX_RLE16:
        encode_rle16(range, out);
        break;
    case TACIT_INDEX_BITMAP:
        encode_bitmap(range, out);
        break;
    case TACIT_INDEX_RICE:
        encode_rice(range, rice, out);
        break;
    }
}

/* ---- Decoding what may be hostile ---- */

static bool decode_u32(const uint8_t *in, size_t bytes, size_t count, size_t entries, uint32_t *indices)
{
    for (size_t i = 0; bytes == 4 * entries && i < entries; i++) {
        indices[i] = tacit__load32(in + 4 * i);
        if (indices[i] >= count || (i > 0 && indices[i] <= indices[i - 1])) {
            return false;
        }
    }
    return bytes == 4 * entries;
}

static bool decode_u16(const uint8_t *in, size_t bytes, size_t count, size_t entries, uint32_t *indices)
{
    const size_t   spans = (count + SPAN - 1) / SPAN;
    const uint8_t *offsets = in + 4 * spans;
    size_t         i = 0;

    if (bytes != 4 * spans + tacit__index_words(2 * entries)) {
        return false;
    }
    for (size_t span = 0; span < spans; span++) {
        const size_t here = tacit__load32(in + 4 * span);
        if (here > entries - i) {
            return false;
        }
        for (const size_t end = i + here; i < end; i++) {
            indices[i] = (uint32_t)(span * SPAN + tacit__load16(offsets + 2 * i));
            if (indices[i] >= count || (i > 0 && indices[i] <= indices[i - 1])) {
                return false;
            }
        }
    }
    return i == entries;
}

static bool decode_bitmap(const uint8_t *in, size_t bytes, size_t count, size_t entries, uint32_t *indices)
{
    size_t found = 0;

    if (bytes != tacit__index_words((count + 7) / 8)) {
        return false;
    }
    for (size_t at = 0; at < bytes; at += 4) {
        for (uint32_t word = tacit__load32(in + at); word != 0; word &= word - 1) {
            const size_t index = 8 * at + (size_t)__builtin_ctz(word);
            if (index >= count || found == entries) {
                return false;
            }
            indices[found++] = (uint32_t)index;
        }
    }
    return found == entries;
}

/* Bits of a payload, the lowest of each byte first. */
typedef struct tacit_bits {
    const uint8_t *at, *end;
    uint64_t       window;
    unsigned       held; /* in the window, which is 0 above them */
} tacit_bits_t;

/* At least 32 bits are in the window, or all that is left. */
static inline void refill(tacit_bits_t *bits)
{
    if (bits->held < 32 && bits->at < bits->end) {
        bits->window |= (uint64_t)tacit__load32(bits->at) << bits->held;
        bits->held += 32;
        bits->at += 4;
    }
}

static inline void drop(tacit_bits_t *bits, unsigned count)
{
    bits->window >>= count;
    bits->held -= count;
}

static bool decode_rice(const uint8_t *in, size_t bytes, size_t count, size_t entries, unsigned rice, uint32_t *indices)
{
    tacit_bits_t bits = {.at = in, .end = in + bytes};
    uint64_t     next = 0; /* the first index that is possible */

    if (bytes % 4 != 0) {
        return false;
    }
    for (size_t i = 0; i < entries; i++) {
        uint64_t quotient = 0;
        for (refill(&bits); bits.window == 0; refill(&bits)) {
            quotient += bits.held;
            bits.held = 0;
            if (bits.at == bits.end) {
                return false;
            }
        }
        quotient += (unsigned)__builtin_ctzll(bits.window);
        drop(&bits, (unsigned)__builtin_ctzll(bits.window));
        drop(&bits, 1); /* two steps: a shift by 64 is none */
        refill(&bits);
        if (bits.held < rice || quotient > count) {
            return false;
        }
        next += (quotient << rice) + (bits.window & ((UINT64_C(1) << rice) - 1));
        drop(&bits, rice);
        if (next >= count) {
            return false;
        }
        indices[i] = (uint32_t)next++;
    }
    return bits.at == bits.end && bits.held < 32 && bits.window == 0;
}

bool tacit__index_decode(tacit_index_t coding, const uint8_t *in, size_t bytes, size_t count, size_t entries, unsigned rice,
                         uint32_t *indices)
{
    switch (coding) {
    case TACIT_INDEX_U32:
        return decode_u32(in, bytes, count, entries, indices);
    case TACIT_INDEX_U16:
        return decode_u16(in, bytes, count, entries, indices);
    case TACIT_INDEX_BITMAP:
        return decode_bitmap(in, bytes, count, entries, indices);
    case TACIT_INDEX_RICE:
        return decode_rice(in, bytes, count, entries, rice, indices);
    case TACIT_INDEX_RLE16:
        break;
    }
    return false;
}
