/* SPDX-License-Identifier: Apache-2.0 */
/* The passes over a bundle's tensors, for any code: encode, reduce, finish; collect where sums stay with owners. One warp works
   on a tile, record by record; where a record has more elements than a warp holds, a block works on it.

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

#include "memory.h"

#include "../../libcomm/frame_layout.h"

namespace tacit {

constexpr int BLOCK_WARPS = 8;

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

    key.step += bundle.step->step;
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
        for (uint64_t end = Code<ROWS>::bytes(*w.t, w.piece->count); end % TACIT_BUNDLE_ALIGN != 0; end++) {
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
    if (bundle.kind == TACIT_BUNDLE_ALLGATHER) {
        return w.piece->owner == bundle.rank ? sent + TACIT_FRAME_HEADER_BYTES + w.piece->at : NULL;
    }
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

/* Where sums stay with their owner, what is not finite of the own contribution is found now. */
template <template <int> class Code, int ROWS, bool WIDE>
__device__ void check_tile(const tacit_device_bundle_t &bundle, const work_t &w, const tacit_stream_t &stream)
{
    visit_tile<Code, ROWS, WIDE>(w, stream, NULL, [&](const part_t &part) {
        float a[ROWS][WIDTH];
        bool  finite = true;

        before(range_of(bundle, w, part), a);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                finite = finite && is_finite(a[r][c]);
            }
        }
        if (!finite) {
            note_value(bundle, w);
        }
    });
}

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
        if (bundle.kind == TACIT_BUNDLE_REDUCE_SCATTER) {
            check_tile<Code, ROWS, WIDE>(bundle, w, stream);
        }
        return;
    }
    encode_tile<Code, ROWS, WIDE>(
        w, stream, payload, [&](const part_t &part, auto &a) { before(range_of(bundle, w, part), a); }, Contributed{bundle, w});
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

    if (!add) {
        before(range, sum);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float a[1][WIDTH];

        if (add) {
            before(row_of(range, r), a);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            const float own = add ? a[0][c] : sum[r][c];

            finite = finite && is_finite(own);
            sum[r][c] = add ? sum[r][c] + own : own;
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

/* Adds up what the ranks contribute, in ascending order. at: where the part's record is among the piece's payload. False: this
   rank's own is not finite. */
template <template <int> class Code, int ROWS>
__device__ bool add_up(const tacit_device_bundle_t &bundle, const work_t &w, part_t part, uint64_t at, const uint8_t *received,
                       float (&sum)[ROWS][WIDTH])
{
    bool finite = true;

    for (unsigned rank = 0; rank < bundle.ranks; rank++) {
        const uint8_t *from =
            rank == bundle.rank ? bundle.own_coded : received + bundle.received_at[rank] + TACIT_FRAME_HEADER_BYTES;

        if (rank == bundle.rank && !w.t->code.coded) {
            finite = add_own(range_of(bundle, w, part), rank != 0, sum);
            continue;
        }
        part.record = const_cast<uint8_t *>(from) + w.piece->at + at;
        typename Code<ROWS>::Get get(part);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float d[WIDTH];

            get.row(r, d);
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                sum[r][c] = rank == 0 ? d[c] : sum[r][c] + d[c];
            }
        }
    }
    return finite;
}

/* Adds up what the ranks contribute, and encodes the sum or the mean again. */
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
            part_t theirs = part;

            theirs.stream = &mine;
            if (!add_up<Code>(bundle, w, theirs, (uint64_t)(part.record - payload), received, sum)) {
                note_value(bundle, w);
            }
            conclude(bundle, w, part, sum);
        },
        Reduced{bundle, w});
}

/* The same where the sum or the mean is the result. */
template <template <int> class Code, int ROWS, bool WIDE>
__global__ void __launch_bounds__(BLOCK_WARPS *WARP)
    collect_tiles(tacit_device_bundle_t bundle, const tacit_device_tile_t *tiles, uint32_t count, const uint8_t *received)
{
    const uint32_t tile = own_tile<WIDE>(count);

    if (tile == UINT32_MAX || bundle.step->fault != TACIT_DEVICE_NO_FAULT) {
        return;
    }
    const work_t         w = work_of(bundle, &tiles[tile]);
    const tacit_stream_t mine = stream_of(bundle, *w.t, false);

    visit_tile<Code, ROWS, WIDE>(w, mine, NULL, [&](const part_t &part) {
        float sum[ROWS][WIDTH];

        (void)add_up<Code>(bundle, w, part, (uint64_t)part.record, received, sum);
        conclude(bundle, w, part, sum);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            finish(range_of(bundle, w, part), r, false, !w.t->code.coded && w.t->keep != TACIT_KEEP_NOTHING, sum[r]);
        }
    });
}

/* Results, and memory of the own part, unless they have been collected; or, after a fault, memory as it was. The elements of `in`
   are read before those of `out` are written, which may be the same. */
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
    const bool           keeps = encoded == NULL && bundle.kind == TACIT_BUNDLE_ALLREDUCE && w.t->keep != TACIT_KEEP_NOTHING;
    uint8_t *const       payload =
        failed ? encoded : gathered + w.piece->owner * bundle.gather_bytes + TACIT_FRAME_HEADER_BYTES + w.piece->at;

    if (payload == NULL || (!failed && bundle.kind == TACIT_BUNDLE_REDUCE_SCATTER)) {
        return;
    }
    visit_tile<Code, ROWS, WIDE>(w, mine, payload, [&](const part_t &part) {
        const range_t            range = range_of(bundle, w, part);
        typename Code<ROWS>::Get get(part);

#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float d[WIDTH];

            get.row(r, d);
            finish(range, r, failed, keeps, d);
        }
    });
}

/* ---- Launches ---- */

inline unsigned blocks_of(bool wide, uint32_t tiles)
{
    return wide ? tiles : (tiles + BLOCK_WARPS - 1) / BLOCK_WARPS;
}

} /* namespace tacit */

/* Defines tacit_cuda_<name>_encode(), _reduce(), _finish() and _collect() with one of Code's widths. */
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
    }                                                                                                                            \
    extern "C" void tacit_cuda_##name##_collect(const tacit_device_bundle_t *bundle, const tacit_device_tiles_t *tiles,          \
                                                const void *received, void *stream)                                              \
    {                                                                                                                            \
        TACIT_LAUNCH((tacit::collect_tiles<Code, ROWS, WIDE>), tacit::blocks_of(WIDE, tiles->own_count),                         \
                     tacit::BLOCK_WARPS *tacit::WARP, stream, *bundle, tiles->tiles + tiles->own_first, tiles->own_count,        \
                     (const uint8_t *)received);                                                                                 \
    }

#endif
