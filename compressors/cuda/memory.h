/* SPDX-License-Identifier: Apache-2.0 */
/* A tensor's elements and its memory, a warp's row at a time: what optim/feedback/ does on the CPU, the same operations in the
   same order. */
#ifndef TACIT_CUDA_MEMORY_H
#define TACIT_CUDA_MEMORY_H

#include "random.h"
#include "warp.h"

#include "../../libcomm/packed_number.h"

namespace tacit {

/* ---- A row of a tensor, as float32 ---- */

/* Some elements of a tensor, from `first` on. */
typedef struct range {
    const tacit_device_bundle_t *bundle;
    const tacit_device_tensor_t *t;
    unsigned                     turn;
    uint64_t                     first;
    int                          count;
} range_t;

/* A row of a range, as a range of its own. */
__device__ inline range_t row_of(const range_t &at, int row)
{
    range_t range = at;

    range.first += (unsigned)(ROW * row);
    range.count -= ROW * row;
    return range;
}

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

    key.step += bundle->step->step;
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

/* Whether there is nothing to be done around an encoder. */
__device__ inline bool keeps_nothing(const tacit_device_tensor_t &t)
{
    return t.keep == TACIT_KEEP_NOTHING || t.keep == TACIT_KEEP_MOMENTUM;
}

/* a := what is encoded. */
__device__ inline void before_any(const range_t &at, int row, float (&a)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        h[WIDTH], rest[WIDTH];

    load_x(at, row, a);
    if (keeps_nothing(t)) {
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

/* Memory follows, of a[] encoded and d[] decoded; that of an element of which something is not finite stays. lost: bit c: what is
   beside trackers becomes zero. */
__device__ inline void after_any(const range_t &at, int row, const float (&a)[WIDTH], const float (&d)[WIDTH], unsigned lost = 0)
{
    const tacit_device_tensor_t &t = *at.t;
    float                        x[WIDTH], h[WIDTH], rest[WIDTH];
    bool                         finite[WIDTH], all = true;

    if (keeps_nothing(t)) {
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
            rest[c] = (lost >> c & 1) != 0 ? 0.0f : finite[c] ? next : rest[c];
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
__device__ inline void undo_any(const range_t &at, int row, const float (&d)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        x[WIDTH], h[WIDTH], rest[WIDTH];
    bool                         finite[WIDTH];

    if (keeps_nothing(t) || t.doubled) {
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

/* values := the result, of which momentum is taken; what is not finite stays out of it. */
__device__ inline void move(const range_t &at, int row, float (&values)[WIDTH])
{
    const float mu = at.t->weight;
    const bool  nesterov = (at.t->flags & TACIT_DGC_NESTEROV) != 0;
    float       u[WIDTH];

    load_now(at, TACIT_DGC_MOMENTUM, row, u);
#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        const float moved = nesterov ? mu * (u[c] + values[c]) : mu * u[c] + values[c];

        values[c] = nesterov ? moved + values[c] : moved;
        u[c] = is_finite(moved) ? moved : u[c];
    }
    store_next(at, TACIT_DGC_MOMENTUM, row, u);
}

/* values := the result; trackers take it in. Where one is not finite then, every array forgets that element, on all ranks. */
__device__ inline void combine_any(const range_t &at, int row, float (&values)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        tracked[WIDTH];

    if (t.keep == TACIT_KEEP_MOMENTUM) {
        move(at, row, values);
    }
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

/* ---- The usual case, whose loads are all under way before the first is used; and functions for all others, which kernels are
   compiled with once, whatever they unroll ---- */

/* float32, not searched for what is not finite, with ef around it or nothing, and memory as it is. */
__device__ inline bool is_plain(const tacit_device_tensor_t &t)
{
    return t.dtype == TACIT_FLOAT32 && t.nonfinite != TACIT_NONFINITE_SKIP && t.precision == TACIT_PRECISION_FP32 &&
           (t.keep == TACIT_KEEP_NOTHING || t.keep == TACIT_KEEP_EF);
}

__device__ inline float4 four_of(const float (&x)[WIDTH])
{
    return make_float4(x[0], x[1], x[2], x[3]);
}

__device__ inline void spread(float4 four, float (&x)[WIDTH])
{
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
}

__device__ __noinline__ inline float4 before_apart(range_t at, int row)
{
    float a[WIDTH];

    before_any(at, row, a);
    return four_of(a);
}

__device__ __noinline__ inline void after_apart(range_t at, int row, float4 encoded, float4 decoded)
{
    float a[WIDTH], d[WIDTH];

    spread(encoded, a);
    spread(decoded, d);
    after_any(at, row, a, d);
}

/* The result of a step that has failed, or not. own: a row of the owner's part. */
__device__ __noinline__ inline void finish_apart(range_t at, int row, bool failed, bool own, float4 decoded)
{
    float d[WIDTH], a[WIDTH];

    spread(decoded, d);
    if (failed) {
        undo_any(at, row, d);
        return;
    }
    if (own) {
        before_any(at, row, a);
        after_any(at, row, a, a);
    }
    combine_any(at, row, d);
    store_out(at, row, d);
}

template <int ROWS> __device__ void before(const range_t &at, float (&a)[ROWS][WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;

    if (!is_plain(t)) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            spread(before_apart(at, r), a[r]);
        }
        return;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        load((const float *)t.in + at.first, r, at.count, a[r]);
    }
    if (t.keep == TACIT_KEEP_EF) {
        const float *const now = (const float *)t.memory[at.turn][TACIT_EF_RESIDUAL] + at.first;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float residual[WIDTH];

            load(now, r, at.count, residual);
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                a[r][c] = a[r][c] + residual[c];
            }
        }
    }
}

__device__ inline void after(const range_t &at, int row, const float (&a)[WIDTH], const float (&d)[WIDTH])
{
    const tacit_device_tensor_t &t = *at.t;
    float                        left[WIDTH];
    bool                         finite = true;

#pragma unroll
    for (int c = 0; c < WIDTH; c++) {
        left[c] = a[c] - d[c];
        finite = finite && is_finite(a[c]) && is_finite(d[c]);
    }
    if (!finite || !is_plain(t)) {
        after_apart(at, row, four_of(a), four_of(d));
    } else if (t.keep == TACIT_KEEP_EF) {
        store((float *)t.memory[1 - at.turn][TACIT_EF_RESIDUAL] + at.first, row, at.count, left);
    }
}

__device__ inline void finish(const range_t &at, int row, bool failed, bool own, const float (&d)[WIDTH])
{
    if (failed || own || !is_plain(*at.t)) {
        finish_apart(at, row, failed, own, four_of(d));
    } else {
        store((float *)at.t->out + at.first, row, at.count, d);
    }
}

} /* namespace tacit */

#endif
