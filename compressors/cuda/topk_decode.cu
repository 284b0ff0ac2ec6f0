/* SPDX-License-Identifier: Apache-2.0 */
/* `topk` in a bundle: payloads of all ranks, which may be hostile, become entries (compressors/topk.c, topk_index.c). A block
   of threads has a stretch of the indices; the first pass finds out how many entries and elements there are in each, the
   second writes them. What a stretch of a Rice code is depends on how many bits of a remainder it begins with: the first
   pass tells for each. */
#include "topk_device.h"

namespace tacit_topk {

constexpr int      TAKERS = 128, OWN_WORDS = TACIT_WHOLE_STRETCH / 4 / TAKERS, OWN_PAIRS = 2 * OWN_WORDS, BATCH = 32;
constexpr uint32_t STRETCH_WORDS = TACIT_WHOLE_STRETCH / 4;

/* A payload, which is as long as it says and as its format wants it to be; and a stretch of its indices. */
typedef struct payload {
    const tacit_device_whole_t *w;
    const uint8_t              *indices, *values;
    tacit_device_taken_t       *taken;
    tacit_device_run_t         *runs; /* of the payload's first stretch */
    uint64_t                    count, entry;
    uint32_t                   *spans;
    uint32_t                    rank, whole, stretch, first, bytes; /* the last two: of its bytes */
    uint32_t                    pairs, index, rice, half, index_bytes;
    bool                        there, good;
} payload_t;

__device__ bool has_format(const payload_t &payload, uint32_t bytes)
{
    const size_t pairs = payload.pairs;
    const bool   some = payload.index == TACIT_INDEX_RLE16 || (pairs <= payload.w->keep && pairs <= payload.count);

    if (payload.index == TACIT_INDEX_RICE) {
        return some && bytes % 4 == 0 && (pairs != 0 || bytes == 0);
    }
    return some && bytes == tacit__index_bytes_of((tacit_index_t)payload.index, payload.count, pairs, pairs, 0);
}

__device__ void read_header(payload_t *payload, const uint8_t *place)
{
    const uint32_t length = tacit__load32(place), pairs = tacit__load32(place + TACIT_PLACE_HEADER);
    const uint32_t format = tacit__load32(place + TACIT_PLACE_HEADER + 4), index = format & 0xff, half = format >> 8 & 0xff;
    const uint32_t rice = format >> 16, one = half != 0 ? 2 : 4;

    payload->good = length <= payload->w->bound && length >= TACIT_TOPK_HEADER && index < TACIT_INDEX_CODINGS && half <= 1 &&
                    rice <= (index == TACIT_INDEX_RICE ? (uint32_t)TACIT_RICE_MOST : 0u) &&
                    pairs <= (length - TACIT_TOPK_HEADER) / one;
    payload->pairs = payload->good ? pairs : 0;
    payload->index = index;
    payload->half = half;
    payload->rice = payload->good ? rice : 0;
    payload->index_bytes = payload->good ? length - TACIT_TOPK_HEADER - pairs * one : 0;
    payload->good = payload->good && has_format(*payload, payload->index_bytes);
    payload->indices = place + TACIT_PLACE_HEADER + TACIT_TOPK_HEADER;
    payload->values = payload->indices + payload->index_bytes;
}

__device__ payload_t payload_of(const tacit_device_bundle_t &bundle, const tacit_device_wholes_t &wholes, const uint64_t *faults,
                                const uint8_t *gathered)
{
    const tacit_device_extent_t extent = wholes.stretches[blockIdx.x % wholes.stretch_count];
    payload_t                   payload;

    payload.rank = blockIdx.x / wholes.stretch_count;
    payload.whole = extent.whole;
    payload.w = &wholes.wholes[extent.whole];
    payload.count = bundle.tensors[payload.w->tensor].count;
    payload.stretch = blockIdx.x % wholes.stretch_count - payload.w->stretch;
    payload.taken = &wholes.taken[(uint64_t)payload.whole * bundle.ranks + payload.rank];
    payload.runs = wholes.runs + ((uint64_t)payload.rank * wholes.stretch_count + payload.w->stretch) * TACIT_RICE_STATES;
    payload.spans = wholes.spans + payload.w->span * bundle.ranks + (uint64_t)payload.rank * payload.w->spans;
    payload.entry = payload.w->entry * bundle.ranks + (uint64_t)payload.rank * payload.w->keep;
    payload.there = faults[payload.rank] == TACIT_DEVICE_NO_FAULT;
    read_header(&payload, place_from(bundle, wholes, *payload.w, payload.rank, gathered));
    payload.good = payload.good && payload.there;
    payload.first = min((uint32_t)extent.first, payload.index_bytes);
    payload.bytes = min((uint32_t)TACIT_WHOLE_STRETCH, payload.index_bytes - payload.first);
    return payload;
}

__device__ void note_bad(const tacit_device_bundle_t &bundle, const payload_t &payload)
{
    if (payload.there) {
        note_fault(bundle, TACIT_DEVICE_FAULT(payload.rank, TACIT_REASON_PLACE, payload.w->tensor));
    }
}

__device__ uint32_t most32(uint64_t value)
{
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

/* The words of a stretch, and one more. */
__device__ void load_words(const payload_t &payload, uint32_t *words)
{
    for (uint32_t i = threadIdx.x; i <= STRETCH_WORDS; i += TAKERS) {
        words[i] = 4 * i < payload.bytes ? *(const uint32_t *)(payload.indices + payload.first + 4 * i) : 0;
    }
    __syncthreads();
}

/* ---- Rice codes ---- */

__device__ uint32_t bits_at(const uint32_t *words, uint32_t bit, uint32_t bits)
{
    const uint64_t both = (uint64_t)words[bit / 32 + 1] << 32 | words[bit / 32];

    return (uint32_t)(both >> bit % 32) & (uint32_t)((UINT64_C(1) << bits) - 1);
}

/* Goes through bits [bit, end). state: bits of a remainder that are still to come; then that. Returns elements that are
   passed; calls visit(those passed by now, bit) where an entry ends: it is the last of them. */
template <typename Visit>
__device__ uint64_t walk(const uint32_t *words, uint32_t bit, uint32_t end, uint32_t rice, uint32_t *state, Visit visit)
{
    uint64_t passed = 0;
    uint32_t open = *state;

    while (bit < end) {
        if (open != 0) {
            const uint32_t bits = min(open, end - bit);

            passed += (uint64_t)bits_at(words, bit, bits) << (rice - open);
            bit += bits;
            open -= bits;
            if (open == 0) {
                visit(passed, bit);
            }
            continue;
        }
        const uint32_t word = words[bit / 32] >> bit % 32;
        const uint32_t zeros = word != 0 ? (uint32_t)__ffs((int)word) - 1 : 32 - bit % 32;

        passed += (uint64_t)zeros << rice;
        bit += zeros;
        if (word != 0) {
            passed++;
            bit++;
            open = rice;
            if (open == 0) {
                visit(passed, bit);
            }
        }
    }
    *state = open;
    return passed;
}

__device__ void own_bits(const payload_t &payload, uint32_t *first, uint32_t *end)
{
    *first = min(32 * OWN_WORDS * threadIdx.x, 8 * payload.bytes);
    *end = min(*first + 32 * OWN_WORDS, 8 * payload.bytes);
}

/* What the stretch is for each state, from what each thread's bits are. */
__device__ void inspect_rice(const payload_t &payload, const uint32_t *words, tacit_device_run_t *runs)
{
    __shared__ uint8_t  states[TAKERS][TACIT_RICE_STATES];
    __shared__ uint16_t entries[TAKERS][TACIT_RICE_STATES];
    __shared__ uint32_t passed[TAKERS][TACIT_RICE_STATES];
    uint32_t            first, end;

    own_bits(payload, &first, &end);
    for (uint32_t state = 0; state <= payload.rice; state++) {
        uint32_t       next = state, found = 0;
        const uint64_t elements = walk(words, first, end, payload.rice, &next, [&](uint64_t, uint32_t) { found++; });

        states[threadIdx.x][state] = (uint8_t)next;
        entries[threadIdx.x][state] = (uint16_t)found;
        passed[threadIdx.x][state] = most32(elements);
    }
    __syncthreads();
    if (threadIdx.x <= payload.rice) {
        uint32_t state = threadIdx.x, found = 0;
        uint64_t elements = 0;

        for (int i = 0; i < TAKERS; i++) {
            found += entries[i][state];
            elements += passed[i][state];
            state = states[i][state];
        }
        runs[threadIdx.x].state = state;
        runs[threadIdx.x].entries = found;
        runs[threadIdx.x].advance = most32(elements);
    }
}

/* ---- The first pass ---- */

__device__ bool is_escape(const payload_t &payload, uint32_t pair)
{
    const uint8_t *const at = payload.values + (uint64_t)pair * (payload.half ? 2 : 4);

    return tacit__load16(payload.indices + 2 * (uint64_t)pair) == TACIT_INDEX_ESCAPE &&
           (payload.half ? tacit__load16(at) == 0 : tacit__load32(at) == 0);
}

/* This thread's runs of a stretch. */
__device__ void own_pairs(const payload_t &payload, uint32_t *first, uint32_t *end)
{
    const uint32_t last = min((payload.first + payload.bytes) / 2, payload.pairs);

    *first = min(payload.first / 2 + (uint32_t)OWN_PAIRS * threadIdx.x, last);
    *end = min(*first + (uint32_t)OWN_PAIRS, last);
}

/* Entries, and elements above, of this thread's part of a stretch. */
__device__ uint64_t count_pairs(const payload_t &payload)
{
    uint32_t first, end;
    uint64_t found = 0;

    own_pairs(payload, &first, &end);
    for (uint32_t pair = first; pair < end; pair++) {
        found += (uint64_t)(tacit__load16(payload.indices + 2 * (uint64_t)pair) + 1) << 32;
        found += !is_escape(payload, pair);
    }
    return found;
}

__device__ uint32_t count_bits(const uint32_t *words)
{
    uint32_t found = 0;

    for (int i = 0; i < OWN_WORDS; i++) {
        found += (uint32_t)__popc(words[OWN_WORDS * threadIdx.x + (unsigned)i]);
    }
    return found;
}

__device__ void inspect_stretch(const payload_t &payload)
{
    __shared__ uint32_t       words[STRETCH_WORDS + 1];
    tacit_device_run_t *const runs = payload.runs + (uint64_t)payload.stretch * TACIT_RICE_STATES;
    uint64_t                  found = 0;

    if (payload.bytes == 0 || payload.index == TACIT_INDEX_U32 || payload.index == TACIT_INDEX_U16) {
        return;
    }
    load_words(payload, words);
    if (payload.index == TACIT_INDEX_RICE) {
        inspect_rice(payload, words, runs);
        return;
    }
    found = block_sum(payload.index == TACIT_INDEX_RLE16 ? count_pairs(payload) : (uint64_t)count_bits(words));
    if (threadIdx.x == 0) {
        runs->state = 0;
        runs->entries = (uint32_t)found;
        runs->advance = (uint32_t)(found >> 32);
    }
}

/* ---- From one stretch to the next, by the last block ---- */

/* In the place of each stretch's runs, how it begins. Returns, on the first thread, how many entries there are; UINT32_MAX: it
   is none that ends as it has to. */
__device__ uint32_t resolve_runs(const payload_t &payload)
{
    __shared__ tacit_device_run_t batch[BATCH][TACIT_RICE_STATES];
    const uint32_t                stretches = (payload.index_bytes + TACIT_WHOLE_STRETCH - 1) / TACIT_WHOLE_STRETCH;
    uint32_t                      state = 0;
    uint64_t                      entries = 0, passed = 0;

    for (uint32_t first = 0; first < stretches; first += BATCH) {
        for (uint32_t i = threadIdx.x; i < BATCH * TACIT_RICE_STATES; i += TAKERS) {
            const uint32_t stretch = first + i / TACIT_RICE_STATES, number = i % TACIT_RICE_STATES;

            if (stretch < stretches && number <= payload.rice) {
                const volatile tacit_device_run_t *const run = payload.runs + (uint64_t)stretch * TACIT_RICE_STATES + number;

                batch[i / TACIT_RICE_STATES][number].state = run->state;
                batch[i / TACIT_RICE_STATES][number].entries = run->entries;
                batch[i / TACIT_RICE_STATES][number].advance = run->advance;
            }
        }
        __syncthreads();
        for (uint32_t i = 0; threadIdx.x == 0 && i < BATCH && first + i < stretches; i++) {
            tacit_device_run_t *const start = payload.runs + (uint64_t)(first + i) * TACIT_RICE_STATES;
            const tacit_device_run_t  run = batch[i][state];

            start->state = state;
            start->entries = most32(entries);
            start->advance = most32(passed);
            state = run.state;
            entries += run.entries;
            passed += run.advance;
        }
        __syncthreads();
    }
    return state == 0 ? most32(entries) : UINT32_MAX;
}

/* spans[] := entries before each span. Returns how many there are; UINT32_MAX: too many. */
__device__ uint32_t resolve_spans(const payload_t &payload)
{
    uint64_t base = 0;

    for (uint32_t i = 0; i < payload.w->spans; i += TAKERS) {
        const uint32_t span = i + threadIdx.x;
        uint64_t       total;
        const uint64_t own = span < payload.w->spans ? tacit__load32(payload.indices + 4 * (uint64_t)span) : 0;
        const uint64_t before = base + block_prefix(own, &total);

        if (span < payload.w->spans) {
            payload.spans[span] = most32(before);
        }
        base += total;
    }
    return most32(base);
}

__device__ void resolve(const tacit_device_bundle_t &bundle, const payload_t &payload)
{
    const uint32_t entries = payload.index == TACIT_INDEX_U32   ? payload.pairs
                             : payload.index == TACIT_INDEX_U16 ? resolve_spans(payload)
                                                                : resolve_runs(payload);
    const bool     runs = payload.index == TACIT_INDEX_RLE16;

    if (threadIdx.x == 0) {
        payload.taken->bad = runs ? entries > payload.w->keep : entries != payload.pairs;
        payload.taken->entries = payload.taken->bad ? 0 : entries;
        payload.taken->largest = 0;
        if (payload.taken->bad) {
            note_bad(bundle, payload);
        }
    }
}

__global__ void __launch_bounds__(TAKERS)
    inspect(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, const uint64_t *faults, const uint8_t *gathered)
{
    const payload_t payload = payload_of(bundle, wholes, faults, gathered);

    if (payload.good) {
        inspect_stretch(payload);
        if (is_last_block(&payload.taken->done, payload.w->stretches)) {
            resolve(bundle, payload);
        }
    } else if (payload.stretch == 0 && threadIdx.x == 0) {
        payload.taken->bad = 1;
        payload.taken->entries = 0;
        payload.taken->largest = 0;
        note_bad(bundle, payload);
    }
}

/* ---- The second pass ---- */

/* Entries of a payload, on their way to memory. */
struct Taking {
    const payload_t &payload;
    uint32_t        *indices;
    float           *values;
    uint32_t         largest;
    bool             bad;

    __device__ void put(uint64_t entry, uint64_t index, uint64_t pair)
    {
        const float value = payload.half ? tacit__from_float16(tacit__load16(payload.values + 2 * pair))
                                         : tacit__bits_float(tacit__load32(payload.values + 4 * pair));

        if (index >= payload.count || entry >= payload.w->keep) {
            bad = true;
            return;
        }
        indices[payload.entry + entry] = (uint32_t)index;
        values[payload.entry + entry] = value;
        largest = value == value ? max(largest, magnitude(value)) : largest;
    }
};

__device__ void expand_u32(const payload_t &payload, Taking &taking)
{
    for (uint64_t i = payload.first / 4 + threadIdx.x; i < (payload.first + payload.bytes) / 4; i += TAKERS) {
        const uint32_t index = tacit__load32(payload.indices + 4 * i);

        taking.bad = taking.bad || (i > 0 && tacit__load32(payload.indices + 4 * (i - 1)) >= index);
        taking.put(i, index, i);
    }
}

__device__ void expand_u16(const payload_t &payload, Taking &taking)
{
    const uint64_t       counts = 4 * (uint64_t)payload.w->spans, end = payload.first + payload.bytes;
    const uint8_t *const offsets = payload.indices + counts;
    const uint64_t       first = payload.first > counts ? (payload.first - counts) / 2 : 0;

    for (uint64_t i = first + threadIdx.x; i < payload.pairs && counts + 2 * i < end; i += TAKERS) {
        uint32_t low = 0, high = payload.w->spans; /* the last span that begins with this entry or before is at low */

        while (high - low > 1) {
            const uint32_t middle = low + (high - low) / 2;

            if (payload.spans[middle] <= i) {
                low = middle;
            } else {
                high = middle;
            }
        }
        const uint32_t offset = tacit__load16(offsets + 2 * i);

        taking.bad = taking.bad || (i > payload.spans[low] && tacit__load16(offsets + 2 * (i - 1)) >= offset);
        taking.put(i, (uint64_t)low * TACIT_INDEX_SPAN + offset, i);
    }
}

__device__ void expand_runs(const payload_t &payload, const tacit_device_run_t &start, Taking &taking)
{
    uint32_t first, end;
    uint64_t total, before = block_prefix(count_pairs(payload), &total);
    uint64_t entry = start.entries + (before & 0xffffffffu), next = start.advance + (before >> 32);

    own_pairs(payload, &first, &end);
    for (uint32_t pair = first; pair < end; pair++) {
        next += (uint64_t)tacit__load16(payload.indices + 2 * (uint64_t)pair) + 1;
        if (!is_escape(payload, pair)) {
            taking.put(entry++, next - 1, pair);
        }
    }
}

__device__ void expand_bitmap(const payload_t &payload, const uint32_t *words, const tacit_device_run_t &start, Taking &taking)
{
    uint32_t total;
    uint64_t entry = start.entries + block_prefix(count_bits(words), &total);

    for (uint32_t i = OWN_WORDS * threadIdx.x; i < OWN_WORDS * (threadIdx.x + 1); i++) {
        for (uint32_t word = words[i]; word != 0; word &= word - 1) {
            taking.put(entry, 8 * (uint64_t)payload.first + 32 * i + (uint32_t)__ffs((int)word) - 1, entry);
            entry++;
        }
    }
}

__device__ void expand_rice(const payload_t &payload, const uint32_t *words, const tacit_device_run_t &start, Taking &taking)
{
    __shared__ uint8_t states[TAKERS][TACIT_RICE_STATES];
    uint32_t           first, end, own = 0, found, state;

    own_bits(payload, &first, &end);
    for (state = 0; state <= payload.rice; state++) {
        uint32_t next = state;

        (void)walk(words, first, end, payload.rice, &next, [](uint64_t, uint32_t) {});
        states[threadIdx.x][state] = (uint8_t)next;
    }
    __syncthreads();
    if (threadIdx.x == 0) { /* in the place of what a thread's bits end in, what they begin in */
        state = start.state;
        for (int i = 0; i < TAKERS; i++) {
            const uint32_t next = states[i][state];

            states[i][0] = (uint8_t)state;
            state = next;
        }
    }
    __syncthreads();
    state = states[threadIdx.x][0];
    const uint64_t passed = walk(words, first, end, payload.rice, &state, [&](uint64_t, uint32_t) { own++; });
    uint64_t       total;
    const uint64_t base = start.advance + block_prefix(passed, &total);
    uint64_t       entry = start.entries + block_prefix(own, &found);

    state = states[threadIdx.x][0];
    (void)walk(words, first, end, payload.rice, &state, [&](uint64_t elements, uint32_t bit) {
        taking.put(entry, base + elements - 1, entry);
        entry++; /* behind the last there are less than 32 bits */
        taking.bad = taking.bad || (entry == payload.pairs && 8 * (uint64_t)(payload.index_bytes - payload.first) - bit >= 32);
    });
}

__global__ void __launch_bounds__(TAKERS)
    expand(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, const uint64_t *faults, const uint8_t *gathered)
{
    __shared__ uint32_t words[STRETCH_WORDS + 1];
    const payload_t     payload = payload_of(bundle, wholes, faults, gathered);
    Taking              taking = {payload, wholes.taken_indices, wholes.taken_values, 0, false};

    if (payload.taken->bad || payload.bytes == 0) {
        return;
    }
    if (payload.index == TACIT_INDEX_U32) {
        expand_u32(payload, taking);
    } else if (payload.index == TACIT_INDEX_U16) {
        expand_u16(payload, taking);
    } else {
        const tacit_device_run_t start = payload.runs[(uint64_t)payload.stretch * TACIT_RICE_STATES];

        load_words(payload, words);
        if (payload.index == TACIT_INDEX_RLE16) {
            expand_runs(payload, start, taking);
        } else if (payload.index == TACIT_INDEX_BITMAP) {
            expand_bitmap(payload, words, start, taking);
        } else {
            expand_rice(payload, words, start, taking);
        }
    }
    const uint32_t largest = join_lanes(taking.largest, [](uint32_t one, uint32_t other) { return one > other ? one : other; });

    if (lane() == 0 && largest != 0) {
        atomicMax(&payload.taken->largest, largest);
    }
    if (taking.bad) {
        note_bad(bundle, payload);
    }
}

} /* namespace tacit_topk */

extern "C" void tacit_cuda_topk_take(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes,
                                     const uint64_t *faults, const void *gathered, void *stream)
{
    const unsigned blocks = wholes->stretch_count * bundle->ranks;

    TACIT_LAUNCH(tacit_topk::inspect, blocks, tacit_topk::TAKERS, stream, *bundle, *wholes, faults, (const uint8_t *)gathered);
    TACIT_LAUNCH(tacit_topk::expand, blocks, tacit_topk::TAKERS, stream, *bundle, *wholes, faults, (const uint8_t *)gathered);
}
