/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: the elements of largest magnitude, as (index, value) (Aji and Heafield, "Sparse Communication for Distributed Gradient
   Descent", EMNLP 2017). Exactly K of them: ties go to the lower index, zeros are never sent, NaN counts as largest.

   A payload: the number of entries; the format, index coding + 256 * value coding; the indices; the values. Both words are 32
   bits. Indices ascend and are relative to the range's first element. Index coding 0: 32 bits each. 1: for every 65536 elements
   of the range a 32-bit number of entries; then the lower 16 bits of each entry's index, padded with zeros to a multiple of 4
   bytes. Value coding 0: float32. 1: float16, values beyond its range being its largest finite number. */
#include "bits.h"
#include "compressor.h"
#include "density.h"
#include "half.h"

enum {
    HEADER_BYTES = 8,
    MAGNITUDE_BITS = 31,
    STEP = 16,           /* elements looked at together */
    SPAN = 65536,        /* elements that 16 bits tell apart */
    DIGIT_VALUES = 2048, /* of the widest radix digit: its counts, 8 KiB, are the one large thing on the stack */
};

typedef enum { VALUES_FLOAT32, VALUES_FLOAT16 } values_t;
typedef enum { INDEX_AUTO, INDEX_U32, INDEX_U16 } index_t;
typedef enum { CODING_U32, CODING_U16 } coding_t;

typedef struct config {
    double ratio;
    int    values;
    int    index;
} config_t;

/* ---- Selection ---- */

static inline uint32_t magnitude_bits(float value)
{
    return tacit__float_bits(value) & 0x7fffffffu; /* ascends with |value| */
}

/* Of STEP elements, whether any magnitude's bits above `shift` are `prefix`, or are at least that. Few are: to look first, with
   vectors, is quicker than to look at each. */
static inline bool any_equal(const float *a, unsigned shift, uint32_t prefix)
{
    uint32_t any = 0;

    for (size_t j = 0; j < STEP; j++) {
        any |= magnitude_bits(a[j]) >> shift == prefix;
    }
    return any != 0;
}

static inline bool any_at_least(const float *a, uint32_t least)
{
    uint32_t any = 0;

    for (size_t j = 0; j < STEP; j++) {
        any |= (int32_t)magnitude_bits(a[j]) >= (int32_t)least; /* signed, as SSE2 compares */
    }
    return any != 0;
}

/* Counts the magnitudes by the `width` bits above `shift`, among those whose bits above these are `prefix`. */
static void count_digits(const float *a, size_t count, unsigned shift, unsigned width, uint32_t prefix, uint32_t *counts)
{
    const uint32_t mask = (1u << width) - 1;
    const bool     all = shift + width == MAGNITUDE_BITS; /* there is nothing above */

    memset(counts, 0, DIGIT_VALUES * sizeof *counts);
    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < STEP ? count - i : STEP;
        if (part == STEP && !all && !any_equal(a + i, shift + width, prefix)) {
            continue;
        }
        for (size_t j = i; j < i + part; j++) {
            const uint32_t bits = magnitude_bits(a[j]) >> shift;
            if (bits >> width == prefix) {
                counts[bits & mask]++;
            }
        }
    }
}

/* The keep-th largest magnitude's bits; *equal_out is how many elements with exactly these bits are among the `keep`. A radix
   select: each pass fixes 11 or 10 more bits. 1 <= keep <= count. */
static uint32_t threshold(const float *a, size_t count, size_t keep, size_t *equal_out)
{
    static const struct {
        unsigned shift, width;
    } passes[] = {{20, 11}, {10, 10}, {0, 10}};
    uint32_t counts[DIGIT_VALUES];
    uint32_t prefix = 0;

    for (size_t pass = 0; pass < sizeof passes / sizeof *passes; pass++) {
        uint32_t digit = (1u << passes[pass].width) - 1;
        count_digits(a, count, passes[pass].shift, passes[pass].width, prefix, counts);
        while (counts[digit] < keep) {
            keep -= counts[digit--];
        }
        prefix = prefix << passes[pass].width | digit;
    }
    *equal_out = keep;
    return prefix;
}

static size_t limit(const void *config, size_t count)
{
    const config_t *own = config;

    return tacit__kept(own->ratio, count);
}

static size_t choose(const tacit_block_t *block, const float *a, uint32_t *indices)
{
    const size_t keep = limit(block->config, block->count);
    size_t       entries = 0, equal;
    uint32_t     least;

    if (keep == 0) {
        return 0;
    }
    least = threshold(a, block->count, keep, &equal);
    if (least == 0) {
        equal = 0; /* all that is not zero, and fewer than `keep` */
    }
    for (size_t i = 0, part; i < block->count; i += part) {
        part = block->count - i < STEP ? block->count - i : STEP;
        if (part == STEP && !any_at_least(a + i, least)) {
            continue;
        }
        for (size_t j = i; j < i + part; j++) {
            const uint32_t bits = magnitude_bits(a[j]);
            if (bits > least || (bits == least && equal > 0)) {
                equal -= bits == least;
                indices[entries++] = (uint32_t)j;
            }
        }
    }
    return entries;
}

/* ---- Payload ---- */

static size_t index_bytes(coding_t coding, size_t count, size_t entries)
{
    return coding == CODING_U32 ? 4 * entries : (count + SPAN - 1) / SPAN * 4 + (entries + 1) / 2 * 4;
}

static size_t value_bytes(values_t values, size_t entries)
{
    return entries * (values == VALUES_FLOAT16 ? sizeof(uint16_t) : sizeof(float));
}

static coding_t coding_of(const config_t *config, size_t count, size_t entries)
{
    if (config->index == INDEX_AUTO) {
        return index_bytes(CODING_U16, count, entries) < index_bytes(CODING_U32, count, entries) ? CODING_U16 : CODING_U32;
    }
    return config->index == INDEX_U16 ? CODING_U16 : CODING_U32;
}

static size_t bound(const void *config, size_t count, size_t entries)
{
    const config_t *own = config;

    return HEADER_BYTES + index_bytes(coding_of(own, count, entries), count, entries) +
           value_bytes((values_t)own->values, entries);
}

/* Both index codings write exactly index_bytes(). */
static void encode_u32(const tacit_block_t *block, const uint32_t *indices, size_t entries, uint8_t *payload)
{
    for (size_t i = 0; i < entries; i++) {
        tacit__store32(payload + 4 * i, (uint32_t)(indices[i] - block->first));
    }
}

static void encode_u16(const tacit_block_t *block, const uint32_t *indices, size_t entries, uint8_t *payload)
{
    const size_t spans = (block->count + SPAN - 1) / SPAN;
    uint8_t     *offsets = payload + 4 * spans;
    size_t       i = 0;

    for (size_t span = 0; span < spans; span++) {
        const size_t before = i;
        for (; i < entries && (indices[i] - block->first) / SPAN == span; i++) {
            const uint16_t offset = (uint16_t)((indices[i] - block->first) % SPAN);
            memcpy(offsets + 2 * i, &offset, sizeof offset);
        }
        tacit__store32(payload + 4 * span, (uint32_t)(i - before));
    }
    if (entries % 2) {
        memset(offsets + 2 * entries, 0, sizeof(uint16_t));
    }
}

static size_t encode(const tacit_block_t *block, const float *a, const uint32_t *indices, size_t entries, uint8_t *payload,
                     float *decoded)
{
    const config_t *config = block->config;
    const coding_t  coding = coding_of(config, block->count, entries);
    uint8_t        *values = payload + HEADER_BYTES + index_bytes(coding, block->count, entries);

    tacit__store32(payload, (uint32_t)entries);
    tacit__store32(payload + 4, (uint32_t)coding | (uint32_t)config->values << 8);
    (coding == CODING_U32 ? encode_u32 : encode_u16)(block, indices, entries, payload + HEADER_BYTES);
    for (size_t i = 0; i < entries; i++) {
        if (config->values == VALUES_FLOAT16) {
            const uint16_t half = tacit__to_float16(a[indices[i]], 0x7bff);
            memcpy(values + 2 * i, &half, sizeof half);
            decoded[i] = tacit__from_float16(half);
        } else {
            decoded[i] = a[indices[i]];
            tacit__store32(values + 4 * i, tacit__float_bits(decoded[i]));
        }
    }
    return (size_t)(values - payload) + value_bytes((values_t)config->values, entries);
}

/* ---- A payload that may be hostile ---- */

static bool decode_u32(const tacit_block_t *block, const uint8_t *payload, size_t entries, uint32_t *indices)
{
    for (size_t i = 0; i < entries; i++) {
        indices[i] = tacit__load32(payload + 4 * i);
        if (indices[i] >= block->count || (i > 0 && indices[i] <= indices[i - 1])) {
            return false;
        }
    }
    return true;
}

static bool decode_u16(const tacit_block_t *block, const uint8_t *payload, size_t entries, uint32_t *indices)
{
    const size_t   spans = (block->count + SPAN - 1) / SPAN;
    const uint8_t *offsets = payload + 4 * spans;
    size_t         i = 0;

    for (size_t span = 0; span < spans; span++) {
        const size_t here = tacit__load32(payload + 4 * span);
        if (here > entries - i) {
            return false;
        }
        for (const size_t end = i + here; i < end; i++) {
            uint16_t offset;
            memcpy(&offset, offsets + 2 * i, sizeof offset);
            indices[i] = (uint32_t)(span * SPAN + offset);
            if (indices[i] >= block->count || (i > 0 && indices[i] <= indices[i - 1])) {
                return false;
            }
        }
    }
    return i == entries;
}

static size_t decode(const tacit_block_t *block, const uint8_t *payload, size_t payload_bytes, uint32_t *indices, float *values,
                     size_t capacity)
{
    size_t   entries, skip;
    uint32_t format;
    coding_t coding;
    values_t type;

    if (payload_bytes < HEADER_BYTES) {
        return SIZE_MAX;
    }
    entries = tacit__load32(payload);
    format = tacit__load32(payload + 4);
    coding = (coding_t)(format & 0xff);
    type = (values_t)(format >> 8);
    if (entries > capacity || entries > block->count || coding > CODING_U16 || type > VALUES_FLOAT16) {
        return SIZE_MAX;
    }
    skip = HEADER_BYTES + index_bytes(coding, block->count, entries);
    if (payload_bytes != skip + value_bytes(type, entries) ||
        !(coding == CODING_U32 ? decode_u32 : decode_u16)(block, payload + HEADER_BYTES, entries, indices)) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i < entries; i++) {
        if (type == VALUES_FLOAT16) {
            uint16_t half;
            memcpy(&half, payload + skip + 2 * i, sizeof half);
            values[i] = tacit__from_float16(half);
        } else {
            values[i] = tacit__bits_float(tacit__load32(payload + skip + 4 * i));
        }
    }
    return entries;
}

/* ---- The table ---- */

/* What is dropped is worst when all magnitudes are equal. float16 loses a little of what is kept; more below 2^-14. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;
    const double    kept = count > 0 ? (double)limit(config, count) / (double)count : 1;

    *factor = own->values == VALUES_FLOAT16 ? 1 - kept * (1 - 0x1p-22) : 1 - kept;
    return TACIT_CONTRACTION;
}

static const tacit_param_t params[] = {
    {.key = "ratio",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, ratio),
     .low = 1e-9,
     .high = 1,
     .initial = 0.01,
     .unit = "",
     .help = "Elements to send, as a part of all; rounded up."},
    {.key = "values",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, values),
     .initial = VALUES_FLOAT32,
     .words = "fp32 fp16",
     .unit = "",
     .help = "How values travel; what fp16 rounds away stays in the memory of a feedback."},
    {.key = "index",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, index),
     .initial = INDEX_AUTO,
     .words = "auto u32 u16",
     .unit = "",
     .help = "How indices travel: 32 bits each, or 16 and a count every 65536 elements; auto: the shorter."},
    {.key = NULL},
};

static const tacit_select_t selection = {.limit = limit, .choose = choose, .bound = bound, .encode = encode, .decode = decode};

const tacit_compressor_t tacit__compressor_topk = {
    .name = "topk",
    .summary = "the elements of largest magnitude, as index and value",
    .wire_id = 6,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .select = &selection,
};
