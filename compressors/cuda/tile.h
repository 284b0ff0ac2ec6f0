/* SPDX-License-Identifier: Apache-2.0 */
/* The three passes over a bundle's tensors, for any code: encode, reduce, finish. One warp works on a tile, record by record;
   where a record has more elements than a warp holds, a block works on it.

   A Code<ROWS> has
       uint64_t bytes(tensor, count)      of `count` elements, a multiple of the record's but at the tensor's end
       Seen see(tensor, a, count)         what a warp learns of up to 128 x ROWS elements, on every lane
       void join(Seen &total, Seen part)  of parts in ascending order
       Scale scale(tensor, seen, count)   what a record of `count` elements is encoded with
       Put(part, scale, a)                writes a part of a record; the one at 0 also what goes before the elements
           void row(r, a, d)              … row by row, all of them in ascending order; d := what receivers decode
           bool end()                     … and whether all was finite
       Get(part)                          reads it
           void row(r, d)                 … in any order */
#ifndef TACIT_CUDA_TILE_H
#define TACIT_CUDA_TILE_H

#include "random.h"
#include "warp.h"

#include "../../libcomm/frame_layout.h"
#include "../../libcomm/packed_number.h"

namespace tacit {

constexpr int BLOCK_WARPS = 8;

/* ---- A row of a tensor, as float32 ---- */

/* Some elements of a tensor, from `first` on. */
typedef struct range {
    const tacit_device_bundle_t *bundle;
    const tacit_device_tensor_t *t;
    unsigned                     turn;
    uint64_t                     first;
    int                          count;
} range_t;

__device__ inline void load_x(const range_t &at, int row, float (&x)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;

    if (t.dtype == TACIT_FLOAT32) {
        load((const float *)t.in + at.first, row, at.count, x);
    } else {
        uint16_t halves[WIDTH];

        load((const uint16_t *)t.in + at.first, row, at.count, halves);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            x[c] = t.dtype == TACIT_FLOAT16 ? tacit__from_float16(halves[c]) : tacit__from_bfloat16(halves[c]);
        }
    }
    if (t.nonfinite == TACIT_NONFINITE_SKIP) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            x[c] = is_finite(x[c]) ? x[c] : 0.0f;
        }
    }
}

__device__ inline void store_out(const range_t &at, int row, const float (&x)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;

    if (t.dtype == TACIT_FLOAT32) {
        store((float *)t.out + at.first, row, at.count, x);
    } else {
        uint16_t halves[WIDTH];

#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            halves[c] = t.dtype == TACIT_FLOAT16 ? tacit__to_float16(x[c], 0x7c00u) : tacit__to_bfloat16(x[c], 0x7f80u);
        }
        store((uint16_t *)t.out + at.first, row, at.count, halves);
    }
}

/* ---- Feedback, a row at a time (optim/feedback/: the same operations in the same order) ---- */

/* ef21's running average. */
__device__ inline float averaged(float weight, float v, float x)
{
    const float kept = (1 - weight) * v, added = weight * x;

    return kept + added;
}

/* Whether there is an array beside h and hbar: econtrol's error, ef21's average. */
__device__ inline bool has_rest(const tacit_device_tensor_t &t)
{
    return t.keep == TACIT_KEEP_ECONTROL || (t.keep == TACIT_KEEP_EF21 && t.weight < 1);
}

__device__ inline tacit_precision_t precision_of(const tacit_device_tensor_t &t, int array)
{
    return (t.packed >> array & 1) != 0 ? (tacit_precision_t)t.precision : TACIT_PRECISION_FP32;
}

/* Where an element's code is in a packed array, in its block behind the scale. */
__device__ inline uint8_t *code_at(void *packed, uint64_t element)
{
    return (uint8_t *)packed + element / TACIT_PACKED_BLOCK * TACIT_PACKED_BYTES + 1 + element % TACIT_PACKED_BLOCK;
}

/* Packed arrays: functions of their own, so that others need no registers for them. A block of eight int8 is two threads': its
   scale is read by both, and written by one. */

__device__ __noinline__ inline float4 load_packed(const void *memory, tacit_precision_t precision, uint64_t first, int count,
                                                  int row)
{
    const uint64_t element = first + (unsigned)place(row);
    const uint8_t *codes = code_at(const_cast<void *>(memory), element);
    float          x[WIDTH];

    if (precision == TACIT_PRECISION_BF16) {
        uint16_t halves[WIDTH];

        load((const uint16_t *)memory + first, row, count, halves);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            x[c] = tacit__bits_float((uint32_t)halves[c] << 16);
        }
    } else {
        const bool  any = place(row) < count;
        const float unit = any ? tacit__packed_unit(*(codes - 1 - element % TACIT_PACKED_BLOCK) - TACIT_PACKED_BIAS) : 0.0f;

#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            x[c] = place(row) + c < count ? (float)(int8_t)codes[c] * unit : 0.0f;
        }
    }
    return make_float4(x[0], x[1], x[2], x[3]);
}

__device__ inline void store_int8(void *memory, uint64_t first, int count, int row, const uint32_t (&words)[4],
                                  const float (&x)[WIDTH])
{
    const uint64_t element = first + (unsigned)place(row);
    const unsigned in_block = (unsigned)(element % TACIT_PACKED_BLOCK);
    uint8_t *const codes = code_at(memory, element);
    float          numbers[WIDTH];
    uint32_t       largest = 0;

#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        numbers[c] = place(row) + c < count ? tacit__bits_float(tacit__packed_bits(x[c])) : 0.0f;
        largest = max(largest, tacit__float_bits(numbers[c]) & 0x7fffffffu);
    }
    largest = max(largest, __shfl_xor_sync(ALL, largest, 1));
    if (place(row) - (int)in_block >= count) {
        return;
    }
    const int    scale = tacit__packed_scale(largest);
    const double power = tacit__packed_power(-scale);

    if (in_block == 0) {
        codes[-1] = tacit__packed_byte(largest, scale);
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        codes[c] = (uint8_t)tacit__pack_code(numbers[c], power, scale, tacit__packed_random(words, in_block + (unsigned)c));
    }
}

__device__ __noinline__ inline void store_packed(void *memory, tacit_precision_t precision, uint64_t first, int count, int row,
                                                 const tacit_device_bundle_t *bundle, const tacit_device_tensor_t *t, int array,
                                                 float4 four)
{
    const float    x[WIDTH] = {four.x, four.y, four.z, four.w};
    const uint64_t element = first + (unsigned)place(row);
    tacit_key_t    key = t->key;
    uint32_t       words[4];
    uint16_t       halves[WIDTH];

    key.step = bundle->step->step;
    key.rank += (uint64_t)bundle->ranks * (2 + (unsigned)array); /* libcomm/codec_memory.c */
    const tacit_stream_t stream = tacit__stream(&key, false);
    tacit__random4(&stream, element / TACIT_PACKED_BLOCK, words);
    if (precision == TACIT_PRECISION_INT8) {
        store_int8(memory, first, count, row, words, x);
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        const unsigned in_block = (unsigned)(element % TACIT_PACKED_BLOCK) + (unsigned)c;
        halves[c] = tacit__pack_bfloat16(x[c], tacit__packed_random(words, in_block));
    }
    store((uint16_t *)memory + first, row, count, halves);
}

__device__ inline void load_now(const range_t &at, int array, int row, float (&x)[WIDTH])
{
    const void *const       memory = at.t->memory[at.turn][array];
    const tacit_precision_t precision = precision_of(*at.t, array);

    if (precision == TACIT_PRECISION_FP32) {
        load((const float *)memory + at.first, row, at.count, x);
    } else {
        const float4 four = load_packed(memory, precision, at.first, at.count, row);

        x[0] = four.x;
        x[1] = four.y;
        x[2] = four.z;
        x[3] = four.w;
    }
}

/* All threads of a warp together. */
__device__ inline void store_next(const range_t &at, int array, int row, const float (&x)[WIDTH])
{
    void *const             memory = at.t->memory[1 - at.turn][array];
    const tacit_precision_t precision = precision_of(*at.t, array);

    if (precision == TACIT_PRECISION_FP32) {
        store((float *)memory + at.first, row, at.count, x);
    } else {
        store_packed(memory, precision, at.first, at.count, row, at.bundle, at.t, array, make_float4(x[0], x[1], x[2], x[3]));
    }
}

/* Element `i` of a range becomes zero in every array. */
__device__ inline void forget(const range_t &at, int i)
{
    const uint64_t element = at.first + (unsigned)i;

    for (int array = 0; array < TACIT_DEVICE_ARRAYS; array++) {
        void *const memory = at.t->memory[1 - at.turn][array];

        if (memory == NULL) {
            continue;
        }
        switch (precision_of(*at.t, array)) {
        case TACIT_PRECISION_FP32:
            ((float *)memory)[element] = 0;
            break;
        case TACIT_PRECISION_BF16:
            ((uint16_t *)memory)[element] = 0;
            break;
        case TACIT_PRECISION_INT8:
            *code_at(memory, element) = 0;
            break;
        }
    }
}

/* a := what is encoded. */
__device__ inline void before(const range_t &at, int row, float (&a)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        h[WIDTH], rest[WIDTH];

    load_x(at, row, a);
    if (t.keep == TACIT_KEEP_NOTHING) {
        return;
    }
    if (t.keep == TACIT_KEEP_EF) {
        load_now(at, TACIT_EF_RESIDUAL, row, rest);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            a[c] = a[c] + rest[c];
        }
        return;
    }
    load_now(at, TACIT_TRACKER_H, row, h);
    if (has_rest(t)) {
        load_now(at, TACIT_TRACKER_REST, row, rest);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const float fed_back = t.weight * rest[c];
            a[c] = t.keep == TACIT_KEEP_ECONTROL ? fed_back + a[c] : averaged(t.weight, rest[c], a[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        a[c] = a[c] - h[c];
    }
}

/* Memory follows, of a[] encoded and d[] decoded; that of an element of which something is not finite stays. */
__device__ inline void after(const range_t &at, int row, const float (&a)[WIDTH], const float (&d)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        x[WIDTH], h[WIDTH], rest[WIDTH];
    bool                         finite[WIDTH], all = true;

    if (t.keep == TACIT_KEEP_NOTHING) {
        return;
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        finite[c] = is_finite(a[c]) && is_finite(d[c]);
        all = all && finite[c];
    }
    if (t.keep == TACIT_KEEP_EF) {
        if (!all) {
            load_now(at, TACIT_EF_RESIDUAL, row, rest);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            rest[c] = all || finite[c] ? a[c] - d[c] : rest[c];
        }
        store_next(at, TACIT_EF_RESIDUAL, row, rest);
        return;
    }
    load_now(at, TACIT_TRACKER_H, row, h);
    if (has_rest(t)) {
        load_x(at, row, x);
        load_now(at, TACIT_TRACKER_REST, row, rest);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const float next =
                t.keep == TACIT_KEEP_ECONTROL ? rest[c] + ((x[c] - h[c]) - d[c]) : averaged(t.weight, rest[c], x[c]);
            rest[c] = finite[c] ? next : rest[c];
        }
        store_next(at, TACIT_TRACKER_REST, row, rest);
    }
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        h[c] = finite[c] ? h[c] + d[c] : h[c];
    }
    store_next(at, TACIT_TRACKER_H, row, h);
}

/* Takes back what after() did, to within rounding, where memory is not doubled. */
__device__ inline void undo(const range_t &at, int row, const float (&d)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        x[WIDTH], h[WIDTH], rest[WIDTH];
    bool                         finite[WIDTH];

    if (t.keep == TACIT_KEEP_NOTHING || t.doubled) {
        return;
    }
    load_x(at, row, x);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        finite[c] = is_finite(x[c]) && is_finite(d[c]);
    }
    if (t.keep == TACIT_KEEP_EF) {
        load_now(at, TACIT_EF_RESIDUAL, row, rest);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            rest[c] = finite[c] ? (rest[c] + d[c]) - x[c] : rest[c];
        }
        store_next(at, TACIT_EF_RESIDUAL, row, rest);
        return;
    }
    load_now(at, TACIT_TRACKER_H, row, h);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        h[c] = finite[c] ? h[c] - d[c] : h[c];
    }
    store_next(at, TACIT_TRACKER_H, row, h);
    if (has_rest(t)) {
        load_now(at, TACIT_TRACKER_REST, row, rest);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const float former =
                t.keep == TACIT_KEEP_ECONTROL ? rest[c] - ((x[c] - h[c]) - d[c]) : (rest[c] - t.weight * x[c]) / (1 - t.weight);
            rest[c] = finite[c] ? former : rest[c];
        }
        store_next(at, TACIT_TRACKER_REST, row, rest);
    }
}

/* values := the result; trackers take it in. Where one is not finite then, every array forgets that element, on all ranks. */
__device__ inline void combine(const range_t &at, int row, float (&values)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        tracked[WIDTH];

    if (t.keep != TACIT_KEEP_EF21 && t.keep != TACIT_KEEP_ECONTROL) {
        return;
    }
    load_now(at, TACIT_TRACKER_HBAR, row, tracked);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        values[c] = tracked[c] + values[c];
        tracked[c] = is_finite(values[c]) ? values[c] : 0;
        if (!is_finite(values[c]) && place(row) + c < at.count) {
            forget(at, place(row) + c);
        }
    }
    store_next(at, TACIT_TRACKER_HBAR, row, tracked);
}

/* ---- Tiles and records ---- */

/* Part of a record that a warp works on. */
typedef struct part {
    const tacit_device_tensor_t *t;
    const tacit_stream_t        *stream;
    uint64_t                     element; /* the first one, in the tensor, … */
    uint64_t                     at;      /* … and in the record */
    int                          count;
    uint8_t                     *record;
} part_t;

/* What a tile's work depends on. */
typedef struct work {
    const tacit_device_tensor_t *t;
    const tacit_device_piece_t  *piece;
    uint64_t                     first, count; /* of the piece */
    uint64_t                     record;       /* elements of one at most */
    unsigned                     turn;
} work_t;

__device__ inline work_t work_of(const tacit_device_bundle_t &bundle, const tacit_device_tile_t *tile)
{
    work_t w;

    w.piece = &bundle.pieces[tile->piece];
    w.t = &bundle.tensors[w.piece->tensor];
    w.first = tile->first;
    w.count = tile->count;
    w.record = w.t->code.block != 0 ? w.t->code.block : w.piece->count;
    w.turn = *w.t->turn;
    return w;
}

/* reencoded: not the random numbers of this rank's contribution. */
__device__ inline tacit_stream_t stream_of(const tacit_device_bundle_t &bundle, const tacit_device_tensor_t &t, bool reencoded)
{
    tacit_key_t key = t.key;

    key.step = bundle.step->step;
    key.rank += reencoded ? bundle.ranks : 0u;
    return tacit__stream(&key, t.code.code == TACIT_CODE_ROTQ);
}

__device__ inline void note_value(const tacit_device_bundle_t &bundle, const work_t &w)
{
    if (w.t->nonfinite != TACIT_NONFINITE_PASS) {
        atomicMin(&bundle.step->bad_tensor, w.piece->tensor);
    }
}

/* Encodes what a warp has in its registers. sink gets it back, row by row, with what receivers decode. */
template <template <int> class Code, int ROWS, typename Sink>
__device__ void encode_part(const part_t &part, typename Code<ROWS>::Scale scale, float (&a)[ROWS][WIDTH], Sink sink)
{
    typename Code<ROWS>::Put put(part, scale, a);

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float d[WIDTH];

        put.row(r, a[r], d);
        sink.row(part, r, a[r], d);
    }
    sink.end(part, put.end());
}

/* A record that a block works on: each warp has every BLOCK_WARPS-th part of it. */
template <template <int> class Code, int ROWS, typename Source, typename Sink>
__device__ void encode_wide(const part_t &all, uint64_t count, Source source, Sink sink)
{
    typedef Code<ROWS>          C;
    constexpr unsigned          each = ROW * ROWS;
    __shared__ typename C::Seen seen[BLOCK_WARPS];
    typename C::Seen            total = {};
    const unsigned              warp = threadIdx.x / WARP;
    float                       a[ROWS][WIDTH];
    part_t                      part = all;

    for (uint64_t base = 0; base < count; base += BLOCK_WARPS * each) {
        part.at = base + warp * each;
        if (part.at < count) {
            part.element = all.element + part.at;
            part.count = (int)(count - part.at < each ? count - part.at : each);
            source(part, a);
            const typename C::Seen own = C::see(*part.t, a, part.count);
            if (lane() == 0) {
                seen[warp] = own;
            }
        }
        __syncthreads();
        for (unsigned i = 0; i < BLOCK_WARPS && base + i * each < count; i++) {
            if (base + i == 0) {
                total = seen[0];
            } else {
                C::join(total, seen[i]);
            }
        }
        __syncthreads();
    }
    const typename C::Scale scale = C::scale(*all.t, total, count);
    for (part.at = warp * each; part.at < count; part.at += BLOCK_WARPS * each) {
        part.element = all.element + part.at;
        part.count = (int)(count - part.at < each ? count - part.at : each);
        source(part, a);
        encode_part<Code, ROWS>(part, scale, a, sink);
    }
}

/* Encodes all records of a tile into the piece's payload, and zeros up to where the next one's begins. */
template <template <int> class Code, int ROWS, bool WIDE, typename Source, typename Sink>
__device__ void encode_tile(const work_t &w, const tacit_stream_t &stream, uint8_t *payload, Source source, Sink sink)
{
    for (uint64_t at = 0; at < w.count; at += w.record) {
        const uint64_t count = w.count - at < w.record ? w.count - at : w.record;
        const part_t   part = {w.t, &stream,    w.piece->first + w.first + at,
                               0,   (int)count, payload + Code<ROWS>::bytes(*w.t, w.first + at)};

        if constexpr (WIDE) {
            encode_wide<Code, ROWS>(part, count, source, sink);
        } else {
            float a[ROWS][WIDTH];

            source(part, a);
            encode_part<Code, ROWS>(part, Code<ROWS>::scale(*w.t, Code<ROWS>::see(*w.t, a, part.count), count), a, sink);
        }
    }
    if (w.first + w.count == w.piece->count && threadIdx.x % (WIDE ? BLOCK_WARPS * WARP : WARP) == 0) {
        for (uint64_t end = Code<ROWS>::bytes(*w.t, w.piece->count); end % TACIT_DEVICE_ALIGNMENT != 0; end++) {
            payload[end] = 0;
        }
    }
}

/* Calls visit(part) for what a warp does of each record. */
template <template <int> class Code, int ROWS, bool WIDE, typename Visit>
__device__ void visit_tile(const work_t &w, const tacit_stream_t &stream, uint8_t *payload, Visit visit)
{
    constexpr unsigned each = ROW * ROWS, stride = WIDE ? BLOCK_WARPS * each : each;
    const unsigned     first = WIDE ? threadIdx.x / WARP * each : 0;

    for (uint64_t at = 0; at < w.count; at += w.record) {
        const uint64_t count = w.count - at < w.record ? w.count - at : w.record;
        part_t         part = {w.t, &stream, 0, 0, 0, payload + Code<ROWS>::bytes(*w.t, w.first + at)};

        for (part.at = first; part.at < count; part.at += stride) {
            part.element = w.piece->first + w.first + at + part.at;
            part.count = (int)(count - part.at < each ? count - part.at : each);
            visit(part);
        }
    }
}

/* The tile of this warp, or block; UINT32_MAX: none. */
template <bool WIDE> __device__ uint32_t own_tile(uint32_t count)
{
    const uint32_t tile = WIDE ? blockIdx.x : blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;

    return tile < count ? tile : UINT32_MAX;
}

/* ---- The passes ---- */

/* Where this rank's contribution to a piece goes; NULL: it is not encoded. */
__device__ inline uint8_t *sent_to(const tacit_device_bundle_t &bundle, const work_t &w, uint8_t *sent)
{
    if (w.piece->owner == bundle.rank) {
        return w.t->code.coded ? bundle.own_coded + w.piece->at : NULL;
    }
    return sent + bundle.sent_at[w.piece->owner] + TACIT_FRAME_HEADER_BYTES + w.piece->at;
}

__device__ inline range_t range_of(const tacit_device_bundle_t &bundle, const work_t &w, const part_t &part)
{
    const range_t range = {&bundle, w.t, w.turn, part.element, part.count};

    return range;
}

/* What becomes of a contribution: memory follows. */
struct Contributed {
    const tacit_device_bundle_t &bundle;
    const work_t                &w;

    __device__ void row(const part_t &part, int r, const float (&a)[WIDTH], const float (&d)[WIDTH]) const
    {
        after(range_of(bundle, w, part), r, a, d);
    }

    __device__ void end(const part_t &, bool finite) const
    {
        if (!finite) {
            note_value(bundle, w);
        }
    }
};

template <template <int> class Code, int ROWS, bool WIDE>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP)
    encode_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles, uint32_t count, uint8_t *sent)
{
    const uint32_t tile = own_tile<WIDE>(count);

    if (tile == UINT32_MAX) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    uint8_t *const       payload = sent_to(bundle, w, sent);
    const tacit_stream_t stream = stream_of(bundle, *w.t, false);

    if (payload == NULL) {
        return;
    }
    encode_tile<Code, ROWS, WIDE>(
        w, stream, payload,
        [&](const part_t &part, auto &a) {
            constexpr int rows = sizeof a / sizeof a[0];
            const range_t range = range_of(bundle, w, part);
#pragma unroll
            for (int r = 0; r < rows; r++) {
                before(range, r, a[r]);
            }
        },
        Contributed{bundle, w});
}

/* What becomes of a sum: the owner's memory follows, beside what it was. */
struct Reduced {
    const tacit_device_bundle_t &bundle;
    const work_t                &w;

    __device__ void row(const part_t &part, int r, const float (&a)[WIDTH], const float (&d)[WIDTH]) const
    {
        float kept[WIDTH];

        if (w.t->owner[0] == NULL) {
            return;
        }
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            kept[c] = a[c] - d[c];
            kept[c] = is_finite(kept[c]) ? kept[c] : 0.0f; /* it went with what was passed on */
        }
        store(w.t->owner[1 - w.turn] + (part.element - w.t->owner_first), r, part.count, kept);
    }

    __device__ void end(const part_t &, bool finite) const
    {
        if (!finite) {
            note_value(bundle, w);
        }
    }
};

/* sum = or += this rank's own contribution, exactly. */
template <int ROWS> __device__ bool add_own(const range_t &range, bool add, float (&sum)[ROWS][WIDTH])
{
    bool finite = true;

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float a[WIDTH];

        before(range, r, a);
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            finite = finite && is_finite(a[c]);
            sum[r][c] = add ? sum[r][c] + a[c] : a[c];
        }
    }
    return !__any_sync(ALL, !finite);
}

/* sum becomes the mean, if that is wanted, and what the owner has kept joins. What is behind the last element stays zero. */
template <int ROWS>
__device__ void conclude(const tacit_device_bundle_t &bundle, const work_t &w, const part_t &part, float (&sum)[ROWS][WIDTH])
{
    const float part_of_mean = 1.0f / (float)bundle.ranks;

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float kept[WIDTH];

        if (w.t->owner[0] != NULL) {
            load(w.t->owner[w.turn] + (part.element - w.t->owner_first), r, part.count, kept);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            if (bundle.average && bundle.ranks > 1) {
                sum[r][c] *= part_of_mean;
            }
            if (w.t->owner[0] != NULL) {
                sum[r][c] = sum[r][c] + kept[c];
            }
            sum[r][c] = place(r) + c < part.count ? sum[r][c] : 0.0f;
        }
    }
}

/* Adds up what the ranks contribute, in ascending order, and encodes the sum or the mean again. */
template <template <int> class Code, int ROWS, bool WIDE>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP) reduce_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles,
                                                                  uint32_t count, const uint8_t *received, uint8_t *message)
{
    const uint32_t tile = own_tile<WIDE>(count);

    if (tile == UINT32_MAX || bundle.step->fault != TACIT_DEVICE_NO_FAULT) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    const tacit_stream_t mine = stream_of(bundle, *w.t, false), again = stream_of(bundle, *w.t, true);
    uint8_t *const       payload = message + TACIT_FRAME_HEADER_BYTES + w.piece->at;

    encode_tile<Code, ROWS, WIDE>(
        w, again, payload,
        [&](const part_t &part, auto &sum) {
            constexpr int rows = sizeof sum / sizeof sum[0];
            part_t        theirs = part;

            theirs.stream = &mine;
            for (unsigned rank = 0; rank < bundle.ranks; rank++) {
                const uint8_t *from =
                    rank == bundle.rank ? bundle.own_coded : received + bundle.received_at[rank] + TACIT_FRAME_HEADER_BYTES;

                if (rank == bundle.rank && !w.t->code.coded) {
                    if (!add_own(range_of(bundle, w, part), rank != 0, sum)) {
                        note_value(bundle, w);
                    }
                    continue;
                }
                theirs.record = const_cast<uint8_t *>(from) + w.piece->at + (part.record - payload);
                typename Code<rows>::Get get(theirs);
#pragma unroll
                for (int r = 0; r < rows; r++) {
                    float d[WIDTH];

                    get.row(r, d);
#pragma unroll
                    for (int c = 0; c < WIDTH; c++) {
                        sum[r][c] = rank == 0 ? d[c] : sum[r][c] + d[c];
                    }
                }
            }
            conclude(bundle, w, part, sum);
        },
        Reduced{bundle, w});
}

/* Results, and memory of the own part; or, after a fault, memory as it was. The elements of `in` are read before those of `out`
   are written, which may be the same. */
template <template <int> class Code, int ROWS, bool WIDE>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP)
    finish_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles, uint32_t count, uint8_t *gathered, uint8_t *sent)
{
    const uint32_t tile = own_tile<WIDE>(count);

    if (tile == UINT32_MAX) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    const tacit_stream_t mine = stream_of(bundle, *w.t, false);
    const bool           failed = bundle.step->fault != TACIT_DEVICE_NO_FAULT;
    uint8_t *const       encoded = sent_to(bundle, w, sent);
    uint8_t *const       payload =
        failed ? encoded : gathered + w.piece->owner * bundle.gather_bytes + TACIT_FRAME_HEADER_BYTES + w.piece->at;

    if (payload == NULL) {
        return;
    }
    visit_tile<Code, ROWS, WIDE>(w, mine, payload, [&](const part_t &part) {
        const range_t            range = range_of(bundle, w, part);
        typename Code<ROWS>::Get get(part);

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float d[WIDTH], own[WIDTH];

            get.row(r, d);
            if (failed) {
                undo(range, r, d);
                continue;
            }
            if (encoded == NULL && w.t->keep != TACIT_KEEP_NOTHING) {
                before(range, r, own);
                after(range, r, own, own);
            }
            combine(range, r, d);
            store_out(range, r, d);
        }
    });
}

/* ---- Launches ---- */

inline unsigned blocks_of(bool wide, uint32_t tiles)
{
    return wide ? tiles : (tiles + BLOCK_WARPS - 1) / BLOCK_WARPS;
}

} /* namespace tacit */

/* Defines tacit_cuda_<name>_encode(), _reduce() and _finish() with one of Code's widths. */
#define TACIT_LAUNCHERS(name, Code, ROWS, WIDE)                                                                                  \
    extern "C" void tacit_cuda_##name##_encode(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,           \
                                               void *sent, void *stream)                                                         \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::encode_tiles<Code, ROWS, WIDE>), tacit::blocks_of(WIDE, tiles->count),                              \
                     tacit::BLOCK_WARPS *tacit::WARP, stream, *bundle, tiles->tiles, tiles->count, (uint8_t *)sent);             \
    }                                                                                                                            \
    extern "C" void tacit_cuda_##name##_reduce(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,           \
                                               const void *received, void *message, void *stream)                                \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::reduce_tiles<Code, ROWS, WIDE>), tacit::blocks_of(WIDE, tiles->own_count),                          \
                     tacit::BLOCK_WARPS *tacit::WARP, stream, *bundle, tiles->tiles + tiles->own_first, tiles->own_count,        \
                     (const uint8_t *)received, (uint8_t *)message);                                                             \
    }                                                                                                                            \
    extern "C" void tacit_cuda_##name##_finish(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,           \
                                               const void *gathered, void *sent, void *stream)                                   \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::finish_tiles<Code, ROWS, WIDE>), tacit::blocks_of(WIDE, tiles->count),                              \
                     tacit::BLOCK_WARPS *tacit::WARP, stream, *bundle, tiles->tiles, tiles->count, (uint8_t *)gathered,          \
                     (uint8_t *)sent);                                                                                           \
    }

#endif
