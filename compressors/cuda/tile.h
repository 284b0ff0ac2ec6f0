/* SPDX-License-Identifier: Apache-2.0 */
/* The three passes over a bundle's tensors, for any code: encode, reduce, finish. One warp works on a tile, record by record; where
   a record has more elements than a warp holds, a block works on it.

   A Code<ROWS> is
       Seen see(tensor, a, count)         what a warp learns of up to 128 x ROWS elements, on every lane
       void join(Seen &total, Seen part)  of parts in ascending order
       Scale scale(tensor, seen, count)   what a record of `count` elements is encoded with
       bool put(tensor, stream, scale, element, at, count, a, record, d)
                                          writes elements [at, at + count) of a record, of which the first in the tensor is
                                          `element`, and what goes before them; d := what receivers decode. False: not finite
       void get(tensor, stream, element, at, count, record, d)
       uint64_t bytes(tensor, count)      of `count` elements, a multiple of the record's but at the end */
#ifndef TACIT_CUDA_TILE_H
#define TACIT_CUDA_TILE_H

#include "random.h"
#include "warp.h"

#include "../../libcomm/frame_layout.h"

namespace tacit
{

constexpr int      BLOCK_WARPS = 8;
constexpr int      WIDE_ROWS = 16; /* of a warp that helps with a wide record */
constexpr unsigned WIDE = ROW * WIDE_ROWS;

/* ---- A tensor's elements as float32 ---- */

template <int ROWS> __device__ void load_x(const tacit_device_tensor_t &t, uint64_t first, int count, float (&x)[ROWS][WIDTH])
{
    if (t.dtype == TACIT_FLOAT32) {
        load((const float *)t.in + first, count, x);
    } else {
        uint16_t halves[ROWS][WIDTH];

        load((const uint16_t *)t.in + first, count, halves);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                x[r][c] = t.dtype == TACIT_FLOAT16 ? tacit__from_float16(halves[r][c]) : tacit__from_bfloat16(halves[r][c]);
            }
        }
    }
    if (t.nonfinite == TACIT_NONFINITE_SKIP) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                x[r][c] = is_finite(x[r][c]) ? x[r][c] : 0.0f;
            }
        }
    }
}

template <int ROWS>
__device__ void store_out(const tacit_device_tensor_t &t, uint64_t first, int count, const float (&x)[ROWS][WIDTH])
{
    if (t.dtype == TACIT_FLOAT32) {
        store((float *)t.out + first, count, x);
    } else {
        uint16_t halves[ROWS][WIDTH];

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                halves[r][c] =
                    t.dtype == TACIT_FLOAT16 ? tacit__to_float16(x[r][c], 0x7c00u) : tacit__to_bfloat16(x[r][c], 0x7f80u);
            }
        }
        store((uint16_t *)t.out + first, count, halves);
    }
}

/* ---- Feedback (optim/feedback/: the same operations in the same order) ---- */

/* ef21's running average. */
__device__ inline float averaged(float weight, float v, float x)
{
    const float kept = (1 - weight) * v, added = weight * x;

    return kept + added;
}

__device__ inline bool has_average(const tacit_device_tensor_t &t)
{
    return t.keep == TACIT_KEEP_EF21 && t.weight < 1;
}

/* a := what is encoded of x. */
template <int ROWS>
__device__ void before(const tacit_device_tensor_t &t, unsigned turn, uint64_t first, int count, float (&a)[ROWS][WIDTH])
{
    float *const *now = t.memory[turn];
    float         memory[ROWS][WIDTH];

    if (t.keep == TACIT_KEEP_EF) {
        load(now[TACIT_EF_RESIDUAL] + first, count, memory);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                a[r][c] = a[r][c] + memory[r][c];
            }
        }
        return;
    }
    if (t.keep == TACIT_KEEP_NOTHING) {
        return;
    }
    if (t.keep == TACIT_KEEP_ECONTROL || has_average(t)) {
        load(now[TACIT_TRACKER_REST] + first, count, memory);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                if (t.keep == TACIT_KEEP_ECONTROL) {
                    const float fed_back = t.weight * memory[r][c];
                    a[r][c] = fed_back + a[r][c];
                } else {
                    a[r][c] = averaged(t.weight, memory[r][c], a[r][c]);
                }
            }
        }
    }
    load(now[TACIT_TRACKER_H] + first, count, memory);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            a[r][c] = a[r][c] - memory[r][c];
        }
    }
}

/* Memory follows, of a[] encoded and d[] decoded; that of an element of which something is not finite stays. */
template <int ROWS>
__device__ void after(const tacit_device_tensor_t &t, unsigned turn, uint64_t first, int count, const float (&a)[ROWS][WIDTH],
                      const float (&d)[ROWS][WIDTH])
{
    float *const *now = t.memory[turn], *const *next = t.memory[1 - turn];
    float         memory[ROWS][WIDTH], h[ROWS][WIDTH], x[ROWS][WIDTH];
    bool          whole = true;

    if (t.keep == TACIT_KEEP_NOTHING) {
        return;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            whole = whole && is_finite(a[r][c]) && is_finite(d[r][c]);
        }
    }
    if (t.keep == TACIT_KEEP_EF) {
        if (!whole) {
            load(now[TACIT_EF_RESIDUAL] + first, count, memory);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                memory[r][c] = whole || (is_finite(a[r][c]) && is_finite(d[r][c])) ? a[r][c] - d[r][c] : memory[r][c];
            }
        }
        store(next[TACIT_EF_RESIDUAL] + first, count, memory);
        return;
    }
    load(now[TACIT_TRACKER_H] + first, count, h);
    if (t.keep == TACIT_KEEP_ECONTROL || has_average(t)) {
        load_x(t, first, count, x);
        load(now[TACIT_TRACKER_REST] + first, count, memory);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                if (!is_finite(a[r][c]) || !is_finite(d[r][c])) {
                    continue;
                }
                memory[r][c] = t.keep == TACIT_KEEP_ECONTROL ? memory[r][c] + ((x[r][c] - h[r][c]) - d[r][c])
                                                             : averaged(t.weight, memory[r][c], x[r][c]);
            }
        }
        store(next[TACIT_TRACKER_REST] + first, count, memory);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            h[r][c] = is_finite(a[r][c]) && is_finite(d[r][c]) ? h[r][c] + d[r][c] : h[r][c];
        }
    }
    store(next[TACIT_TRACKER_H] + first, count, h);
}

/* Takes back what after() did, to within rounding, where memory is not doubled. */
template <int ROWS>
__device__ void undo(const tacit_device_tensor_t &t, unsigned turn, uint64_t first, int count, const float (&d)[ROWS][WIDTH])
{
    float *const *now = t.memory[turn];
    float         memory[ROWS][WIDTH], h[ROWS][WIDTH], x[ROWS][WIDTH];

    if (t.keep == TACIT_KEEP_NOTHING || t.doubled) {
        return;
    }
    load_x(t, first, count, x);
    if (t.keep == TACIT_KEEP_EF) {
        load(now[TACIT_EF_RESIDUAL] + first, count, memory);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                const bool finite = is_finite(x[r][c]) && is_finite(d[r][c]);
                memory[r][c] = finite ? (memory[r][c] + d[r][c]) - x[r][c] : memory[r][c];
            }
        }
        store(now[TACIT_EF_RESIDUAL] + first, count, memory);
        return;
    }
    load(now[TACIT_TRACKER_H] + first, count, h);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            h[r][c] = is_finite(x[r][c]) && is_finite(d[r][c]) ? h[r][c] - d[r][c] : h[r][c];
        }
    }
    store(now[TACIT_TRACKER_H] + first, count, h);
    if (t.keep == TACIT_KEEP_ECONTROL || has_average(t)) {
        load(now[TACIT_TRACKER_REST] + first, count, memory);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                if (is_finite(x[r][c]) && is_finite(d[r][c])) {
                    memory[r][c] = t.keep == TACIT_KEEP_ECONTROL ? memory[r][c] - ((x[r][c] - h[r][c]) - d[r][c])
                                                                 : (memory[r][c] - t.weight * x[r][c]) / (1 - t.weight);
                }
            }
        }
        store(now[TACIT_TRACKER_REST] + first, count, memory);
    }
}

/* values := the result; trackers take it in. Where one is not finite then, every array forgets that element, on all ranks. */
template <int ROWS>
__device__ void combine(const tacit_device_tensor_t &t, unsigned turn, uint64_t first, int count, float (&values)[ROWS][WIDTH])
{
    float *const *now = t.memory[turn], *const *next = t.memory[1 - turn];
    float         tracked[ROWS][WIDTH];

    if (t.keep != TACIT_KEEP_EF21 && t.keep != TACIT_KEEP_ECONTROL) {
        return;
    }
    load(now[TACIT_TRACKER_HBAR] + first, count, tracked);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            values[r][c] = tracked[r][c] + values[r][c];
            tracked[r][c] = values[r][c];
            if (!is_finite(values[r][c])) {
                tracked[r][c] = 0;
                for (int i = 0; i < TACIT_DEVICE_ARRAYS && place(r) + c < count; i++) {
                    if (next[i] != NULL) {
                        next[i][first + (unsigned)(place(r) + c)] = 0;
                    }
                }
            }
        }
    }
    store(next[TACIT_TRACKER_HBAR] + first, count, tracked);
}

/* ---- A record ---- */

/* Everything but its elements that a tile's work depends on. */
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
    atomicMin(&bundle.step->bad_tensor, w.piece->tensor);
}

/* What is written of elements that begin at `at` of a record, for encode and reduce. */
template <template <int> class Code, int ROWS, typename Source, typename Sink>
__device__ void encode_record(const work_t &w, const tacit_stream_t &stream, uint64_t element, int count, uint8_t *record,
                              Source source, Sink sink)
{
    float a[ROWS][WIDTH], d[ROWS][WIDTH];
    bool  finite;

    source(element, count, a);
    finite = Code<ROWS>::put(*w.t, stream, Code<ROWS>::scale(*w.t, Code<ROWS>::see(*w.t, a, count), (uint64_t)count), element, 0,
                             count, a, record, d);
    sink(element, count, finite, a, d);
}

/* The same of a record that a block works on: each warp has every BLOCK_WARPS-th part of it. */
template <template <int> class Code, typename Source, typename Sink>
__device__ void encode_wide(const work_t &w, const tacit_stream_t &stream, uint64_t element, uint64_t count, uint8_t *record,
                            Source source, Sink sink)
{
    typedef Code<WIDE_ROWS> C;
    __shared__ typename C::Seen seen[BLOCK_WARPS];
    typename C::Seen            total = {};
    typename C::Scale           scale;
    const unsigned              warp = threadIdx.x / WARP;
    float                       a[WIDE_ROWS][WIDTH], d[WIDE_ROWS][WIDTH];

    for (uint64_t base = 0; base < count; base += BLOCK_WARPS * WIDE) {
        const uint64_t at = base + warp * WIDE;

        if (at < count) {
            const int part = (int)(count - at < WIDE ? count - at : WIDE);
            source(element + at, part, a);
            const typename C::Seen own = C::see(*w.t, a, part);
            if (lane() == 0) {
                seen[warp] = own;
            }
        }
        __syncthreads();
        for (unsigned i = 0; i < BLOCK_WARPS && base + i * WIDE < count; i++) {
            if (base + i == 0) {
                total = seen[0];
            } else {
                C::join(total, seen[i]);
            }
        }
        __syncthreads();
    }
    scale = C::scale(*w.t, total, count);
    for (uint64_t at = warp * WIDE; at < count; at += BLOCK_WARPS * WIDE) {
        const int  part = (int)(count - at < WIDE ? count - at : WIDE);
        source(element + at, part, a);
        const bool finite = C::put(*w.t, stream, scale, element + at, at, part, a, record, d);
        sink(element + at, part, finite, a, d);
    }
}

/* ROWS 0: wide. Calls encode_record() or encode_wide() for each record of the tile. */
template <template <int> class Code, int ROWS, typename Source, typename Sink>
__device__ void encode_tile(const work_t &w, const tacit_stream_t &stream, uint8_t *payload, Source source, Sink sink)
{
    for (uint64_t at = 0; at < w.count; at += w.record) {
        const uint64_t count = w.count - at < w.record ? w.count - at : w.record;
        const uint64_t element = w.piece->first + w.first + at;
        uint8_t *const record = payload + Code<ROWS == 0 ? WIDE_ROWS : ROWS>::bytes(*w.t, w.first + at);

        if constexpr (ROWS == 0) {
            encode_wide<Code>(w, stream, element, count, record, source, sink);
        } else {
            encode_record<Code, ROWS>(w, stream, element, (int)count, record, source, sink);
        }
    }
}

/* Calls visit(element, count, at, offset of the record) for what a warp does of each record. */
template <template <int> class Code, int ROWS, typename Visit> __device__ void visit_tile(const work_t &w, Visit visit)
{
    const unsigned warp = ROWS == 0 ? threadIdx.x / WARP : 0;
    const unsigned step = ROW * (ROWS == 0 ? WIDE_ROWS : ROWS), stride = ROWS == 0 ? BLOCK_WARPS * step : step;

    for (uint64_t at = 0; at < w.count; at += w.record) {
        const uint64_t count = w.count - at < w.record ? w.count - at : w.record;
        const uint64_t offset = Code<ROWS == 0 ? WIDE_ROWS : ROWS>::bytes(*w.t, w.first + at);

        for (uint64_t part = warp * step; part < count; part += stride) {
            visit(w.piece->first + w.first + at + part, (int)(count - part < step ? count - part : step), part, offset);
        }
    }
}

/* The tile of this warp, or block; UINT32_MAX: none. */
template <int ROWS> __device__ uint32_t own_tile(uint32_t count)
{
    const uint32_t tile = ROWS == 0 ? blockIdx.x : blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;

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

template <template <int> class Code, int ROWS>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP)
    encode_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles, uint32_t count, uint8_t *sent)
{
    const uint32_t tile = own_tile<ROWS>(count);

    if (tile == UINT32_MAX) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    uint8_t *const       payload = sent_to(bundle, w, sent);
    const tacit_stream_t stream = stream_of(bundle, *w.t, false);

    if (payload == NULL) {
        return;
    }
    encode_tile<Code, ROWS>(
        w, stream, payload,
        [&](uint64_t element, int part, auto &a) {
            load_x(*w.t, element, part, a);
            before(*w.t, w.turn, element, part, a);
        },
        [&](uint64_t element, int part, bool finite, auto &a, auto &d) {
            after(*w.t, w.turn, element, part, a, d);
            if (!finite && w.t->nonfinite != TACIT_NONFINITE_PASS) {
                note_value(bundle, w);
            }
        });
}

/* Adds up what the ranks contribute, in ascending order, and encodes the sum or the mean again. */
template <template <int> class Code, int ROWS>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP)
    reduce_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles, uint32_t count, const uint8_t *received,
                 uint8_t *message)
{
    const uint32_t tile = own_tile<ROWS>(count);

    if (tile == UINT32_MAX || bundle.step->fault != TACIT_DEVICE_NO_FAULT) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    const tacit_stream_t mine = stream_of(bundle, *w.t, false), again = stream_of(bundle, *w.t, true);
    const float          part_of_mean = 1.0f / (float)bundle.ranks;
    const bool           passes = w.t->nonfinite == TACIT_NONFINITE_PASS;

    encode_tile<Code, ROWS>(
        w, again, message + TACIT_FRAME_HEADER_BYTES + w.piece->at,
        [&](uint64_t element, int part, auto &sum) {
            constexpr int  rows = sizeof sum / sizeof sum[0];
            const uint64_t at = element - w.piece->first, in_record = (at - w.first) % w.record;
            const uint64_t offset = Code<rows>::bytes(*w.t, at - in_record);

            for (unsigned rank = 0; rank < bundle.ranks; rank++) {
                float value[rows][WIDTH];

                if (rank == bundle.rank && !w.t->code.coded) {
                    bool finite = true;

                    load_x(*w.t, element, part, value);
                    before(*w.t, w.turn, element, part, value);
#pragma unroll
                    for (int r = 0; r < rows; r++) {
#pragma unroll
                        for (int c = 0; c < WIDTH; c++) {
                            finite = finite && is_finite(value[r][c]);
                        }
                    }
                    if (!passes && __any_sync(ALL, !finite) && lane() == 0) {
                        note_value(bundle, w);
                    }
                } else {
                    const uint8_t *from = rank == bundle.rank ? bundle.own_coded
                                                              : received + bundle.received_at[rank] + TACIT_FRAME_HEADER_BYTES;
                    Code<rows>::get(*w.t, mine, element, in_record, part, from + w.piece->at + offset, value);
                }
#pragma unroll
                for (int r = 0; r < rows; r++) {
#pragma unroll
                    for (int c = 0; c < WIDTH; c++) {
                        sum[r][c] = rank == 0 ? value[r][c] : sum[r][c] + value[r][c];
                    }
                }
            }
            if (bundle.average && bundle.ranks > 1) {
#pragma unroll
                for (int r = 0; r < rows; r++) {
#pragma unroll
                    for (int c = 0; c < WIDTH; c++) {
                        sum[r][c] *= part_of_mean;
                    }
                }
            }
            if (w.t->owner[w.turn] != NULL) {
                float kept[rows][WIDTH];

                load(w.t->owner[w.turn] + (element - w.t->owner_first), part, kept);
#pragma unroll
                for (int r = 0; r < rows; r++) {
#pragma unroll
                    for (int c = 0; c < WIDTH; c++) {
                        sum[r][c] = sum[r][c] + kept[r][c];
                    }
                }
            }
            /* What is behind the last element is not encoded. */
#pragma unroll
            for (int r = 0; r < rows; r++) {
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    sum[r][c] = place(r) + c < part ? sum[r][c] : 0.0f;
                }
            }
        },
        [&](uint64_t element, int part, bool finite, auto &a, auto &d) {
            constexpr int rows = sizeof a / sizeof a[0];

            if (!finite && !passes) {
                note_value(bundle, w);
            }
            if (w.t->owner[w.turn] == NULL) {
                return;
            }
            float kept[rows][WIDTH];
#pragma unroll
            for (int r = 0; r < rows; r++) {
#pragma unroll
                for (int c = 0; c < WIDTH; c++) {
                    kept[r][c] = a[r][c] - d[r][c];
                    kept[r][c] = finite || is_finite(kept[r][c]) ? kept[r][c] : 0.0f; /* it went with what was passed on */
                }
            }
            store(w.t->owner[1 - w.turn] + (element - w.t->owner_first), part, kept);
        });
}

/* Results, and memory of the own part; or, after a fault, memory as it was. The elements of `in` are read before those of `out` are
   written, which may be the same. */
template <template <int> class Code, int ROWS>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP)
    finish_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles, uint32_t count, const uint8_t *gathered,
                 uint8_t *sent)
{
    constexpr int  rows = ROWS == 0 ? WIDE_ROWS : ROWS;
    const uint32_t tile = own_tile<ROWS>(count);

    if (tile == UINT32_MAX) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    const tacit_stream_t mine = stream_of(bundle, *w.t, false);
    const bool           failed = bundle.step->fault != TACIT_DEVICE_NO_FAULT;
    const uint8_t *const encoded = sent_to(bundle, w, sent);
    const uint8_t *const payload =
        failed ? encoded : gathered + w.piece->owner * bundle.gather_bytes + TACIT_FRAME_HEADER_BYTES + w.piece->at;

    if (payload == NULL) {
        return;
    }
    visit_tile<Code, ROWS>(w, [&](uint64_t element, int part, uint64_t at, uint64_t offset) {
        float d[rows][WIDTH];

        if (failed) {
            Code<rows>::get(*w.t, mine, element, at, part, payload + offset, d);
            undo(*w.t, w.turn, element, part, d);
            return;
        }
        if (encoded == NULL && w.t->keep != TACIT_KEEP_NOTHING) {
            load_x(*w.t, element, part, d);
            before(*w.t, w.turn, element, part, d);
            after(*w.t, w.turn, element, part, d, d);
        }
        Code<rows>::get(*w.t, mine, element, at, part, payload + offset, d);
        combine(*w.t, w.turn, element, part, d);
        store_out(*w.t, element, part, d);
    });
}

/* ---- Launches ---- */

template <int ROWS> inline unsigned blocks_of(uint32_t tiles)
{
    return ROWS == 0 ? tiles : (tiles + BLOCK_WARPS - 1) / BLOCK_WARPS;
}

} // namespace tacit

/* Defines tacit_cuda_<name>_encode(), _reduce() and _finish() with one of Code's widths. */
#define TACIT_LAUNCHERS(name, Code, ROWS)                                                                                        \
    extern "C" void tacit_cuda_##name##_encode(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,           \
                                               void *sent, void *stream)                                                         \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::encode_tiles<Code, ROWS>), tacit::blocks_of<ROWS>(tiles->count),                                    \
                     tacit::BLOCK_WARPS * tacit::WARP, stream, *bundle, tiles->tiles, tiles->count, (uint8_t *)sent);            \
    }                                                                                                                            \
    extern "C" void tacit_cuda_##name##_reduce(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,           \
                                               const void *received, void *message, void *stream)                                \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::reduce_tiles<Code, ROWS>), tacit::blocks_of<ROWS>(tiles->own_count),                                \
                     tacit::BLOCK_WARPS * tacit::WARP, stream, *bundle, tiles->tiles + tiles->own_first, tiles->own_count,       \
                     (const uint8_t *)received, (uint8_t *)message);                                                             \
    }                                                                                                                            \
    extern "C" void tacit_cuda_##name##_finish(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,           \
                                               const void *gathered, void *sent, void *stream)                                   \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::finish_tiles<Code, ROWS>), tacit::blocks_of<ROWS>(tiles->count),                                    \
                     tacit::BLOCK_WARPS * tacit::WARP, stream, *bundle, tiles->tiles, tiles->count, (const uint8_t *)gathered,   \
                     (uint8_t *)sent);                                                                                           \
    }

#endif
