/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: the elements of largest magnitude, as (index, value) (Aji and Heafield, "Sparse Communication for Distributed Gradient
   Descent", EMNLP 2017). Which they are is topk_select.c's affair, how indices are written topk_index.c's.

   A payload: the number of entries; the format, index coding + 256 * value coding + 65536 * the index coding's parameter; the
   indices; the values. Both words are 32 bits. Indices ascend and are relative to the range's first element. Value coding 0:
   float32. 1: float16, values beyond its range being its largest finite number. */
#include "topk.h"
#include "bits.h"
#include "density.h"
#include "half.h"
#include "random.h"

enum { HEADER_BYTES = TACIT_TOPK_HEADER };

typedef enum { VALUES_FLOAT32, VALUES_FLOAT16 } values_t;
typedef enum { SELECT_EXACT, SELECT_SAMPLED } select_t;
enum { INDEX_AUTO }; /* otherwise 1 + a tacit_index_t */

typedef struct config {
    double ratio, sample;
    int    select, values, index;
} config_t;

/* ---- Selection ---- */

static size_t limit(const void *config, size_t count)
{
    const config_t *own = config;

    return tacit__kept(own->ratio, count);
}

static size_t room(const void *config, size_t count, size_t *sample_out)
{
    const config_t *own = config;

    *sample_out =
        own->select == SELECT_SAMPLED && count != 0 ? tacit__topk_geometry(count, own->ratio, own->sample).samples + 1 : 0;
    return tacit__topk_room(count, limit(config, count));
}

static size_t sample_stride(const void *config, size_t count, size_t *keep_out)
{
    const config_t        *own = config;
    const tacit_geometry_t geometry = tacit__topk_geometry(count, own->ratio, own->sample);

    *keep_out = geometry.sample_keep;
    return own->select == SELECT_SAMPLED && count != 0 && tacit__topk_is_sampled(&geometry, count) ? geometry.stride : 0;
}

static void begin(const tacit_block_t *block, tacit_selection_t *selection)
{
    const config_t *own = block->config;

    tacit__topk_begin(selection, block->count, limit(own, block->count), own->values == VALUES_FLOAT32);
    if (own->select == SELECT_SAMPLED && block->count != 0) {
        const tacit_geometry_t geometry = tacit__topk_geometry(block->count, own->ratio, own->sample);
        const tacit_stream_t   stream = tacit__stream(&block->key, false);

        tacit__topk_sample(selection, &geometry, (size_t)((uint64_t)tacit__random(&stream, 0) * geometry.stride >> 32));
    }
}

/* Drops what float16 would round to zero. Sent as zero it would tell nothing, and a feedback that masks what is sent would forget
   its momentum. */
static void drop_tiny(tacit_sieve_t *sieve)
{
    size_t left = 0;

    for (size_t i = 0; i < sieve->used; i++) {
        sieve->indices[left] = sieve->indices[i];
        sieve->values[left] = sieve->values[i];
        left += (tacit__to_float16(sieve->values[i], 0x7bff) & 0x7fff) != 0;
    }
    sieve->used = left;
}

static bool finish(const tacit_block_t *block, tacit_selection_t *selection)
{
    const bool finished = tacit__topk_finish(selection);

    if (finished && ((const config_t *)block->config)->values == VALUES_FLOAT16) {
        drop_tiny(&selection->sieve);
    }
    return finished;
}

/* ---- Payload ---- */

static bool exact(const void *config)
{
    return ((const config_t *)config)->values == VALUES_FLOAT32;
}

typedef struct format {
    tacit_index_t index;
    values_t      values;
    unsigned      rice;
    size_t        index_bytes, pairs;
} format_t;

static size_t value_bytes(values_t values)
{
    return values == VALUES_FLOAT16 ? sizeof(uint16_t) : sizeof(float);
}

static size_t bound(const void *config, size_t count, size_t entries)
{
    const config_t *own = config;
    size_t          least = SIZE_MAX;

    for (int coding = 0; coding < TACIT_INDEX_CODINGS; coding++) {
        const size_t bytes = tacit__index_bytes_bound((tacit_index_t)coding, count, entries) +
                             tacit__index_pairs_bound((tacit_index_t)coding, count, entries) * value_bytes((values_t)own->values);
        if ((own->index == INDEX_AUTO || own->index == coding + 1) && bytes < least) {
            least = bytes;
        }
    }
    return HEADER_BYTES + least;
}

/* The coding that is asked for, or the shortest, of equal ones the first. What cannot be shorter is not measured. */
static format_t format_of(const config_t *own, const tacit_index_range_t *range)
{
    const size_t one = value_bytes((values_t)own->values);
    format_t     format = {.values = (values_t)own->values};
    size_t       least = SIZE_MAX;

    for (int coding = TACIT_INDEX_CODINGS - 1; coding >= 0; coding--) {
        const tacit_index_t index = (tacit_index_t)coding;
        const bool          hopeful = index != TACIT_INDEX_RLE16 || (2 + one) * range->entries <= least;
        if (own->index == coding + 1 || (own->index == INDEX_AUTO && hopeful)) {
            const unsigned rice = index == TACIT_INDEX_RICE ? tacit__rice_parameter(range) : 0;
            const size_t   index_bytes = tacit__index_bytes(index, range, rice), pairs = tacit__index_pairs(index, range);
            if (index_bytes + one * pairs <= least) {
                least = index_bytes + one * pairs;
                format = (format_t){index, format.values, rice, index_bytes, pairs};
            }
        }
    }
    return format;
}

/* Writes a value behind `at`, and what it decodes to. */
static uint8_t *put_value(uint8_t *at, const format_t *format, float value, float *decoded)
{
    if (format->values == VALUES_FLOAT16) {
        uint16_t half = tacit__to_float16(value, 0x7bff);
        if (half == 0 && format->index == TACIT_INDEX_RLE16) {
            half = 0x8000; /* +0 is for escapes */
        }
        tacit__store16(at, half);
        *decoded = tacit__from_float16(half);
        return at + sizeof half;
    }
    tacit__store32(at, tacit__float_bits(value));
    *decoded = value;
    return at + sizeof value;
}

static size_t encode(const tacit_block_t *block, const float *values, const uint32_t *indices, size_t entries, uint8_t *payload,
                     float *decoded)
{
    const tacit_index_range_t range = {indices, entries, block->first, block->count};
    const format_t            format = format_of(block->config, &range);
    const bool                escapes = format.index == TACIT_INDEX_RLE16 && block->count > TACIT_INDEX_ESCAPE;
    uint8_t                  *at = payload + HEADER_BYTES + format.index_bytes;

    tacit__store32(payload, (uint32_t)format.pairs);
    tacit__store32(payload + 4, (uint32_t)format.index | (uint32_t)format.values << 8 | format.rice << 16);
    tacit__index_encode(format.index, &range, format.rice, payload + HEADER_BYTES);
    if (format.values == VALUES_FLOAT32 && !escapes) {
        memcpy(at, values, entries * sizeof *values);
        if (decoded != values) {
            memcpy(decoded, values, entries * sizeof *values);
        }
        return (size_t)(at - payload) + entries * sizeof *values;
    }
    for (size_t i = 0; i < entries; i++) {
        const size_t zeros = escapes ? tacit__index_escapes(&range, i) * value_bytes(format.values) : 0;

        memset(at, 0, zeros);
        at = put_value(at + zeros, &format, values[i], decoded + i);
    }
    return (size_t)(at - payload);
}

/* ---- A payload that may be hostile ---- */

static inline float value_at(const uint8_t *values, values_t type, size_t i)
{
    return type == VALUES_FLOAT16 ? tacit__from_float16(tacit__load16(values + 2 * i))
                                  : tacit__bits_float(tacit__load32(values + 4 * i));
}

/* Runs and values, escapes among them. */
static size_t decode_runs(size_t count, const uint8_t *runs, const uint8_t *at, values_t type, size_t pairs, uint32_t *indices,
                          float *values, size_t capacity)
{
    size_t entries = 0, next = 0;

    for (size_t i = 0; i < pairs; i++) {
        const uint16_t run = tacit__load16(runs + 2 * i);
        const float    value = value_at(at, type, i);

        next += (size_t)run + 1;
        if (run == TACIT_INDEX_ESCAPE && tacit__float_bits(value) == 0) {
            continue;
        }
        if (next > count || entries == capacity) {
            return SIZE_MAX;
        }
        indices[entries] = (uint32_t)(next - 1);
        values[entries++] = value;
    }
    return entries;
}

static size_t decode(const tacit_block_t *block, const uint8_t *payload, size_t payload_bytes, uint32_t *indices, float *values,
                     size_t capacity)
{
    size_t   pairs, index_bytes;
    uint32_t word;
    format_t format;

    if (payload_bytes < HEADER_BYTES) {
        return SIZE_MAX;
    }
    pairs = tacit__load32(payload);
    word = tacit__load32(payload + 4);
    format = (format_t){(tacit_index_t)(word & 0xff), (values_t)(word >> 8 & 0xff), word >> 16, 0, 0};
    if ((word & 0xff) >= TACIT_INDEX_CODINGS || format.values > VALUES_FLOAT16 ||
        format.rice > (format.index == TACIT_INDEX_RICE ? TACIT_RICE_MOST : 0)) {
        return SIZE_MAX;
    }
    if (pairs > (payload_bytes - HEADER_BYTES) / value_bytes(format.values)) {
        return SIZE_MAX;
    }
    index_bytes = payload_bytes - HEADER_BYTES - pairs * value_bytes(format.values);
    payload += HEADER_BYTES;
    if (format.index == TACIT_INDEX_RLE16) {
        return index_bytes != (pairs + 1) / 2 * 4
                   ? SIZE_MAX
                   : decode_runs(block->count, payload, payload + index_bytes, format.values, pairs, indices, values, capacity);
    }
    if (pairs > capacity || pairs > block->count ||
        !tacit__index_decode(format.index, payload, index_bytes, block->count, pairs, format.rice, indices)) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i < pairs; i++) {
        values[i] = value_at(payload + index_bytes, format.values, i);
    }
    return pairs;
}

/* ---- The table ---- */

/* What is dropped is worst when all magnitudes are equal. A sample promises no more entries than it takes its threshold from.
   float16 loses a little of what is kept; more below 2^-14, and all up to 2^-25. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;
    size_t          keep = limit(config, count);
    double          kept;

    if (own->select == SELECT_SAMPLED && count > 0) {
        const tacit_geometry_t geometry = tacit__topk_geometry(count, own->ratio, own->sample);
        keep = geometry.stride > 1 && geometry.sample_keep < keep ? geometry.sample_keep : keep;
    }
    kept = count > 0 ? (double)keep / (double)count : 1;
    *factor = own->values == VALUES_FLOAT16 ? 1 - kept * (1 - 0x1p-22) : 1 - kept;
    return TACIT_CONTRACTION;
}

/* The part of the elements: what a sample usually finds, and no less than what gets across. */
static double delta(const void *config, const tacit_slot_config_t *tensor)
{
    return tensor->count > 0 ? (double)limit(config, tensor->count) / (double)tensor->count : 1;
}

static tacit_device_code_t device(const void *config)
{
    const config_t *own = config;

    return (tacit_device_code_t){
        .code = TACIT_CODE_TOPK, .bits = (uint8_t)(8 * value_bytes((values_t)own->values)), .variant = (uint8_t)own->index};
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
    {.key = "select",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, select),
     .initial = SELECT_EXACT,
     .words = "exact sampled",
     .unit = "",
     .help = "Which elements: exactly the largest; or those above a threshold that a sample gives, at most as many."},
    {.key = "sample",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, sample),
     .low = 0.001,
     .high = 1,
     .initial = 0.01,
     .unit = "",
     .help = "Elements that select=sampled looks at for its threshold, as a part of all; at least 2 / ratio."},
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
     .words = "auto u32 u16 rle16 bitmap rice",
     .unit = "",
     .help =
         "How indices travel: 32 bits each; 16 and a count every 65536 elements; runs of zeros, 16 bits each; a bit an element; "
         "gaps in a Rice code; auto: the shortest."},
    {.key = NULL},
};

static const tacit_select_t sparse = {
    .limit = limit,
    .room = room,
    .begin = begin,
    .pause = tacit__topk_pause,
    .finish = finish,
    .sample = sample_stride,
    .bound = bound,
    .exact = exact,
    .encode = encode,
    .decode = decode,
};

const tacit_compressor_t tacit__compressor_topk = {
    .name = "topk",
    .summary = "the elements of largest magnitude, as index and value",
    .wire_id = 6,
    .wire_version = 2,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .delta = delta,
    .select = &sparse,
    .device = device,
};
