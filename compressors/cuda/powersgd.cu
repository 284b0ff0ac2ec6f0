/* SPDX-License-Identifier: Apache-2.0 */
/* `powersgd` in a bundle (compressors/powersgd.c): matrices pass three times, for P, for Q, and for results, when memory follows:
   only where the step succeeds, so that nothing is ever taken back. All sums are made in a fixed order; what of M is encoded is
   made anew in each pass.

   A warp holds a patch of a matrix in registers, whatever the rank: P's sums are over its columns, Q's over its rows. Sums of a
   block of threads go through memory, and are added up by the next launch. */
#include "whole.h"

namespace tacit_powersgd {

using namespace tacit_whole;

typedef tacit_device_matrix_t   matrix_t;
typedef tacit_device_matrices_t matrices_t;
typedef tacit_device_patches_t  patches_t;
typedef tacit_device_extent_t   extent_t;

constexpr int ROWS = TACIT_PATCH_ROWS, BLOCK_ROWS = ROWS * BLOCK_WARPS, VECTORS = 4 /* of a factor, at once */;

static_assert(TACIT_PATCH_COLUMNS == ROW && TACIT_PATCHES == BLOCK_WARPS, "a warp has a patch");

/* ---- A warp's patch ---- */

typedef struct patch {
    const tacit_device_bundle_t *bundle;
    const matrix_t              *m;
    const tacit_device_tensor_t *t;
    unsigned                     turn;
    uint64_t                     row, column;
    int                          rows, columns; /* how many there are of a whole patch */
    bool                         quick;
} patch_t;

__device__ inline int left_of(uint64_t total, uint64_t at, int most)
{
    return at >= total ? 0 : total - at < (unsigned)most ? (int)(total - at) : most;
}

/* Whole, at addresses that are loaded and stored four elements at a time, finite, and with ef around it or nothing. */
__device__ inline bool is_quick(const patch_t &patch)
{
    const tacit_device_tensor_t &t = *patch.t;

    return patch.rows == ROWS && patch.columns == ROW && patch.m->columns % WIDTH == 0 &&
           is_aligned(t.in, t.dtype == TACIT_FLOAT32 ? 16 : 8) && t.nonfinite == TACIT_NONFINITE_ERROR &&
           t.precision == TACIT_PRECISION_FP32 && (t.keep == TACIT_KEEP_NOTHING || t.keep == TACIT_KEEP_EF);
}

/* This warp's, `below` blocks of patches under those of the block of threads. */
__device__ patch_t patch_of(const tacit_device_bundle_t &bundle, const matrices_t &matrices, const patches_t &patches,
                            unsigned across, unsigned below)
{
    const unsigned warp = threadIdx.x / WARP;
    patch_t        patch;

    patch.bundle = &bundle;
    patch.m = &matrices.matrices[patches.matrix];
    patch.t = &bundle.tensors[patch.m->tensor];
    patch.turn = *patch.t->turn;
    patch.row = patches.row + (uint64_t)ROWS * (below * (BLOCK_WARPS / across) + warp / across);
    patch.column = patches.column + (uint64_t)ROW * (warp % across);
    patch.rows = left_of(patch.m->rows, patch.row, ROWS);
    patch.columns = left_of(patch.m->columns, patch.column, ROW);
    patch.quick = is_quick(patch);
    return patch;
}

/* A row of it, as a range of the tensor. */
__device__ inline range_t row_of(const patch_t &patch, int row)
{
    const range_t range = {patch.bundle, patch.t, patch.turn, (patch.row + (unsigned)row) * patch.m->columns + patch.column,
                           row < patch.rows ? patch.columns : 0};

    return range;
}

/* x := elements as they were given, of N rows from `from` on. */
template <int N> __device__ void load_given(const patch_t &patch, int from, float (&x)[N][WIDTH])
{
    const uint64_t first = row_of(patch, from).first + (unsigned)place(0), apart = patch.m->columns;

    if (patch.t->dtype == TACIT_FLOAT32) {
#pragma unroll
        for (int r = 0; r < N; r++) {
            spread(*(const float4 *)((const float *)patch.t->in + first + (unsigned)r * apart), x[r]);
        }
        return;
    }
    uint2 halves[N];
#pragma unroll
    for (int r = 0; r < N; r++) {
        halves[r] = *(const uint2 *)((const uint16_t *)patch.t->in + first + (unsigned)r * apart);
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        const uint16_t four[WIDTH] = {(uint16_t)halves[r].x, (uint16_t)(halves[r].x >> 16), (uint16_t)halves[r].y,
                                      (uint16_t)(halves[r].y >> 16)};
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            x[r][c] = patch.t->dtype == TACIT_FLOAT16 ? tacit__from_float16(four[c]) : tacit__from_bfloat16(four[c]);
        }
    }
}

/* a := what is encoded, of N rows from `from` on, of a patch that is quick. */
template <int N> __device__ void load_quick(const patch_t &patch, int from, float (&a)[N][WIDTH])
{
    load_given(patch, from, a);
    if (patch.t->keep == TACIT_KEEP_EF) {
        const float *const kept = (const float *)patch.t->memory[patch.turn][TACIT_EF_RESIDUAL];
        const uint64_t     first = row_of(patch, from).first + (unsigned)place(0), apart = patch.m->columns;
        float              residual[N][WIDTH];

#pragma unroll
        for (int r = 0; r < N; r++) {
            spread(*(const float4 *)(kept + first + (unsigned)r * apart), residual[r]);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
                a[r][c] = a[r][c] + residual[r][c];
            }
        }
    }
}

/* The same of all rows of any patch; zero outside of the matrix. */
__device__ inline void load_patch(const patch_t &patch, float (&a)[ROWS][WIDTH])
{
    if (patch.quick) {
        load_quick(patch, 0, a);
        return;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        spread(before_apart(row_of(patch, r), 0), a[r]);
    }
}

/* ---- Vectors: each is some thread's elements, the same ones in all of a factor's, so that none waits for another's ---- */

constexpr unsigned LONG_THREADS = 512, OTHERS = 4;

/* Of N numbers of each lane, sums over all lanes: lane l gets that of number l modulo N. */
template <typename T, int N> __device__ T lanes_sums(T (&x)[N])
{
#pragma unroll
    for (int apart = N / 2; apart > 0; apart /= 2) {
        const bool upper = (lane() & apart) != 0;
#pragma unroll
        for (int i = 0; i < apart; i++) {
            const T low = x[i], high = x[i + apart];
            x[i] = (upper ? high : low) + __shfl_xor_sync(ALL, upper ? low : high, apart);
        }
    }
#pragma unroll
    for (int apart = N; apart < WARP; apart *= 2) {
        x[0] += __shfl_xor_sync(ALL, x[0], apart);
    }
    return x[0];
}

/* x[] := their sums over all threads of the block. */
template <int N> __device__ void block_sums(double (&x)[N])
{
    __shared__ double sums[LONG_THREADS / WARP][N];
    const double      sum = lanes_sums(x);

    if (lane() < N) {
        sums[threadIdx.x / WARP][lane()] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; n++) {
        x[n] = 0;
        for (unsigned warp = 0; warp < LONG_THREADS / WARP; warp++) {
            x[n] += sums[warp][n];
        }
    }
    __syncthreads();
}

__device__ double square_of(const float *vector, uint64_t count)
{
    double square[1] = {0};

    for (uint64_t i = threadIdx.x; i < count; i += LONG_THREADS) {
        square[0] += (double)vector[i] * (double)vector[i];
    }
    block_sums(square);
    return square[0];
}

/* vector -= what it has in common with up to OTHERS orthonormal ones. */
__device__ void take_out(float *vector, const float *others, unsigned number, uint64_t count)
{
    double dots[OTHERS] = {0, 0, 0, 0};

    for (uint64_t i = threadIdx.x; i < count; i += LONG_THREADS) {
        const double x = (double)vector[i];
#pragma unroll
        for (unsigned l = 0; l < OTHERS; l++) {
            dots[l] += l < number ? (double)others[l * count + i] * x : 0;
        }
    }
    block_sums(dots);
    for (uint64_t i = threadIdx.x; i < count; i += LONG_THREADS) {
        float x = vector[i];
#pragma unroll
        for (unsigned l = 0; l < OTHERS; l++) {
            x = l < number ? fmaf((float)-dots[l], others[l * count + i], x) : x;
        }
        vector[i] = x;
    }
}

/* Gram-Schmidt as on the CPU, but with up to OTHERS vectors at once. */
__device__ __noinline__ void orthonormalize(float *vectors, uint64_t count, unsigned rank)
{
    for (unsigned k = 0; k < rank; k++) {
        float *const vector = vectors + k * count;
        const double before = sqrt(square_of(vector, count));

        for (unsigned times = 0; times < 2; times++) {
            for (unsigned l = 0; l < k; l += OTHERS) {
                take_out(vector, vectors + l * count, min(k - l, OTHERS), count);
            }
        }
        const double norm = sqrt(square_of(vector, count));

        for (uint64_t i = threadIdx.x; i < count; i += LONG_THREADS) {
            vector[i] = norm <= before * 0x1p-20 ? 0.0f : (float)((double)vector[i] / norm);
        }
    }
}

/* ---- The first factor ---- */

/* Q that the step begins with, a block a vector: what was kept, or, where that is zero, drawn. */
__global__ void __launch_bounds__(LONG_THREADS) start(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const extent_t  extent = wholes.matrices.vectors[blockIdx.x];
    const matrix_t &m = wholes.matrices.matrices[extent.whole];
    const uint64_t  at = extent.first * m.columns;
    const float    *kept = m.work + at;
    float *const    begun = wholes.matrices.begun + m.q + at;
    tacit_key_t     key = bundle.tensors[m.tensor].key;
    uint32_t        some = 0;

    for (uint64_t i = threadIdx.x; i < m.columns; i += LONG_THREADS) {
        begun[i] = kept[i];
        some += kept[i] != 0 ? 1u : 0u;
    }
    if (block_sum(some) != 0) {
        return;
    }
    key.step += bundle.step->step;
    const tacit_stream_t stream = tacit__stream(&key, true);
    for (uint64_t i = 4 * threadIdx.x; i < m.columns; i += 4 * LONG_THREADS) {
        uint32_t words[4];

        tacit__random4(&stream, extent.first << 32 | i / 4, words);
        for (unsigned j = 0; j < 4 && i + j < m.columns; j++) {
            begun[i + j] = 2 * tacit__uniform(words[j]) - 1;
        }
    }
}

/* Sums over a block's columns, of P. */
__global__ void __launch_bounds__(THREADS, 2)
    add_columns(const __grid_constant__ tacit_device_bundle_t bundle, const __grid_constant__ tacit_device_wholes_t wholes)
{
    __shared__ float  sums[VECTORS][BLOCK_WARPS][ROWS];
    const matrices_t &matrices = wholes.matrices;
    const patches_t   patches = matrices.p_patches[blockIdx.x];
    const matrix_t   &m = matrices.matrices[patches.matrix];
    const unsigned    across = m.p_across, warp = threadIdx.x / WARP, rows = BLOCK_ROWS / across;
    const patch_t     patch = patch_of(bundle, matrices, patches, across, 0);
    const float      *q = matrices.begun + m.q + patch.column;
    float            *to = matrices.p_sums + m.p_sums + (uint64_t)patches.sum * m.rank * m.rows + patches.row;
    float             a[ROWS][WIDTH];
    bool              finite = true;

    load_patch(patch, a);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < WIDTH; c++) {
            finite = finite && is_finite(a[r][c]);
        }
    }
    if (!finite && patch.t->nonfinite != TACIT_NONFINITE_PASS) {
        atomicMin(&bundle.step->bad_tensor, m.tensor);
    }
    for (unsigned k = 0; k < m.rank; k += VECTORS) {
        const unsigned number = min(m.rank - k, (unsigned)VECTORS);

        for (unsigned v = 0; v < number; v++) {
            float x[WIDTH], dots[ROWS];

            load(q + (uint64_t)(k + v) * m.columns, 0, patch.columns, x);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                dots[r] = fmaf(a[r][3], x[3], fmaf(a[r][2], x[2], fmaf(a[r][1], x[1], a[r][0] * x[0])));
            }
            const float sum = lanes_sums(dots);

            if (lane() < ROWS) {
                sums[v][warp][lane()] = sum;
            }
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < number * rows; i += THREADS) {
            const unsigned v = i / rows, row = i % rows, first = row / ROWS * across;
            float          sum = 0;

            for (unsigned beside = 0; beside < across; beside++) {
                sum += sums[v][first + beside][row % ROWS];
            }
            if (patches.row + (uint64_t)row < m.rows) {
                to[(uint64_t)(k + v) * m.rows + row] = sum;
            }
        }
        __syncthreads();
    }
}

/* A number of `count`, of which each of so many sums has its part. */
__device__ inline float add_up(const float *sums, uint64_t count, uint32_t number)
{
    float sum = 0;

    for (uint32_t i = 0; i < number; i++) {
        sum += sums[i * count];
    }
    return sum;
}

__device__ inline uint64_t numbers_of(const matrix_t &m, uint32_t side)
{
    return (uint64_t)m.rank * side;
}

/* The own P, to all: a length, zeros, so many numbers, zeros. */
__global__ void __launch_bounds__(THREADS) send(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, uint8_t *sent)
{
    const matrices_t &matrices = wholes.matrices;
    const extent_t    chunk = matrices.p_chunks[blockIdx.x];
    const matrix_t   &m = matrices.matrices[chunk.whole];
    const uint64_t    count = numbers_of(m, m.rows), end = chunk.first + chunk.count;
    const uint64_t    padded = end == count ? (count + WIDTH - 1) / WIDTH * WIDTH : end;
    const uint4       head = {(unsigned)(count * sizeof(float)), 0, 0, 0};

    for (uint64_t i = chunk.first + threadIdx.x; i < padded; i += THREADS) {
        const float own = i < count ? add_up(matrices.p_sums + m.p_sums + i, count, m.strips) : 0;

        if (i < count) {
            matrices.own_p[m.p + i] = own;
        }
        for (unsigned rank = 0; rank < bundle.ranks; rank++) {
            uint8_t *const place = sent + bundle.sent_at[rank] + TACIT_FRAME_HEADER_BYTES + wholes.part_bytes[rank] + m.at;

            if (rank != bundle.rank) {
                ((float *)(place + TACIT_PLACE_HEADER))[i] = own;
                if (i == 0) {
                    *(uint4 *)place = head;
                }
            }
        }
    }
}

/* Adds up the ranks' P in ascending order. */
__global__ void __launch_bounds__(THREADS)
    meet(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, const uint8_t *received)
{
    const matrices_t &matrices = wholes.matrices;
    const extent_t    chunk = matrices.p_chunks[blockIdx.x];
    const matrix_t   &m = matrices.matrices[chunk.whole];
    const uint64_t    at = TACIT_FRAME_HEADER_BYTES + wholes.part_bytes[bundle.rank] + m.at;
    const float       scale = bundle.average && bundle.ranks > 1 ? 1.0f / (float)bundle.ranks : 1;
    const uint32_t    bytes = (uint32_t)(numbers_of(m, m.rows) * sizeof(float));
    __shared__ bool   stopped; /* one answer for all: other blocks may find faults */
    uint32_t          bad = 0;
    bool              finite = true;

    if (threadIdx.x == 0) {
        stopped = is_stopped(bundle);
    }
    __syncthreads();
    if (stopped) {
        return;
    }
    for (unsigned rank = threadIdx.x; rank < bundle.ranks; rank += THREADS) {
        if (rank != bundle.rank && tacit__load32(received + bundle.received_at[rank] + at) != bytes) {
            note_fault(bundle, TACIT_DEVICE_FAULT(rank, TACIT_REASON_PLACE, m.tensor));
            bad++;
        }
    }
    if (block_sum(bad) != 0) {
        return;
    }
    for (uint64_t i = chunk.first + threadIdx.x; i < chunk.first + chunk.count; i += THREADS) {
        float sum = 0;

        for (unsigned rank = 0; rank < bundle.ranks; rank++) {
            const uint8_t *const place = received + bundle.received_at[rank] + at;
            const float one = rank == bundle.rank ? matrices.own_p[m.p + i] : ((const float *)(place + TACIT_PLACE_HEADER))[i];

            sum = rank == 0 ? one : sum + one;
        }
        matrices.p[m.p + i] = sum * scale;
        finite = finite && is_finite(sum * scale);
    }
    if (!finite && bundle.tensors[m.tensor].nonfinite != TACIT_NONFINITE_PASS) {
        note_fault(bundle, TACIT_DEVICE_FAULT(0, TACIT_REASON_SUM, m.tensor));
    }
}

/* ---- The second one ---- */

__global__ void __launch_bounds__(LONG_THREADS) straighten(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const matrix_t &m = wholes.matrices.matrices[blockIdx.x];

    if (!is_stopped(bundle)) {
        orthonormalize(wholes.matrices.p + m.p, m.rows, m.rank);
    }
}

/* Numbers of up to VECTORS of P's, for the rows of a block of patches; zero below the matrix. */
__device__ inline void stage(const float *p, const matrix_t &m, unsigned number, uint64_t row, unsigned rows,
                             float (&staged)[VECTORS][BLOCK_ROWS])
{
    for (unsigned i = threadIdx.x; i < number * rows; i += THREADS) {
        const unsigned v = i / rows, r = i % rows;

        staged[v][r] = row + r < m.rows ? p[(uint64_t)v * m.rows + row + r] : 0;
    }
    __syncthreads();
}

/* Sums over a block's rows, of Q. */
__global__ void __launch_bounds__(THREADS, 2)
    add_rows(const __grid_constant__ tacit_device_bundle_t bundle, const __grid_constant__ tacit_device_wholes_t wholes)
{
    __shared__ float  staged[VECTORS][BLOCK_ROWS], sums[VECTORS][BLOCK_WARPS][ROW];
    const matrices_t &matrices = wholes.matrices;
    const patches_t   patches = matrices.q_patches[blockIdx.x];
    const matrix_t   &m = matrices.matrices[patches.matrix];
    const unsigned    across = m.q_across, warp = threadIdx.x / WARP, rows = BLOCK_ROWS / across, columns = ROW * across;
    const unsigned    own = warp / across * ROWS;
    float            *to = matrices.q_sums + m.q_sums + (uint64_t)patches.sum * m.rank * m.columns + patches.column;
    float             a[ROWS][WIDTH];

    if (is_stopped(bundle)) {
        return;
    }
    for (unsigned below = 0; below < m.q_below; below++) {
        const uint64_t row = patches.row + (uint64_t)below * rows;

        load_patch(patch_of(bundle, matrices, patches, across, below), a);
        for (unsigned k = 0; k < m.rank; k += VECTORS) {
            const unsigned number = min(m.rank - k, (unsigned)VECTORS);

            stage(matrices.p + m.p + (uint64_t)k * m.rows, m, number, row, rows, staged);
            for (unsigned v = 0; v < number; v++) {
                float sum[WIDTH] = {0, 0, 0, 0};

#pragma unroll
                for (int r = 0; r < ROWS; r++) {
#pragma unroll
                    for (int c = 0; c < WIDTH; c++) {
                        sum[c] = fmaf(staged[v][own + (unsigned)r], a[r][c], sum[c]);
                    }
                }
                *(float4 *)&sums[v][warp][place(0)] = four_of(sum);
            }
            __syncthreads();
            for (unsigned i = threadIdx.x; i < number * columns; i += THREADS) {
                const unsigned v = i / columns, column = i % columns;
                float *const   sum = &to[(uint64_t)(k + v) * m.columns + column];

                if (patches.column + (uint64_t)column < m.columns) {
                    float more = below != 0 ? *sum : 0;

                    for (unsigned w = column / ROW; w < BLOCK_WARPS; w += across) {
                        more += sums[v][w][column % ROW];
                    }
                    *sum = more;
                }
            }
        }
    }
}

/* The own Q, to its place, where there are zeros. */
__global__ void __launch_bounds__(THREADS) encode(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, uint8_t *message)
{
    const matrices_t &matrices = wholes.matrices;
    const extent_t    chunk = matrices.q_chunks[blockIdx.x];
    const matrix_t   &m = matrices.matrices[chunk.whole];
    const uint64_t    count = numbers_of(m, m.columns);
    uint8_t *const    place = place_of(wholes, wholes.wholes[m.whole], bundle.rank, message);

    if (is_stopped(bundle)) {
        return;
    }
    if (chunk.first == 0 && threadIdx.x == 0) {
        *(uint32_t *)place = (uint32_t)(count * sizeof(float));
    }
    for (uint64_t i = chunk.first + threadIdx.x; i < chunk.first + chunk.count; i += THREADS) {
        const float own = add_up(matrices.q_sums + m.q_sums + i, count, m.bands);

        matrices.own_q[m.q + i] = own;
        ((float *)(place + TACIT_PLACE_HEADER))[i] = own;
    }
}

/* Adds up the ranks' Q in ascending order. */
__global__ void __launch_bounds__(THREADS)
    take(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes, const uint64_t *faults, const uint8_t *gathered)
{
    const matrices_t           &matrices = wholes.matrices;
    const extent_t              chunk = matrices.q_chunks[blockIdx.x];
    const matrix_t             &m = matrices.matrices[chunk.whole];
    const tacit_device_whole_t &w = wholes.wholes[m.whole];
    const float                 scale = bundle.average && bundle.ranks > 1 ? 1.0f / (float)bundle.ranks : 1;
    const uint32_t              bytes = (uint32_t)(numbers_of(m, m.columns) * sizeof(float));

    for (uint32_t rank = threadIdx.x; chunk.first == 0 && rank < bundle.ranks; rank += THREADS) {
        if (faults[rank] == TACIT_DEVICE_NO_FAULT && tacit__load32(place_from(bundle, wholes, w, rank, gathered)) != bytes) {
            note_fault(bundle, TACIT_DEVICE_FAULT(rank, TACIT_REASON_PLACE, m.tensor));
        }
    }
    for (uint64_t i = chunk.first + threadIdx.x; i < chunk.first + chunk.count; i += THREADS) {
        float sum = 0;

        for (uint32_t rank = 0; rank < bundle.ranks; rank++) {
            const float one = ((const float *)(place_from(bundle, wholes, w, rank, gathered) + TACIT_PLACE_HEADER))[i];

            sum = rank == 0 ? one : sum + one;
        }
        matrices.q[m.q + i] = sum * scale;
    }
}

/* ---- Results ---- */

/* Whether the sums are finite, where they have to be. */
__global__ void __launch_bounds__(THREADS) fit_factors(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const extent_t  chunk = wholes.matrices.q_chunks[blockIdx.x];
    const matrix_t &m = wholes.matrices.matrices[chunk.whole];
    const float    *q = wholes.matrices.q + m.q;
    bool            finite = true;
    const uint64_t  fault = *(volatile uint64_t *)&bundle.step->fault;

    if (bundle.tensors[m.tensor].nonfinite == TACIT_NONFINITE_PASS ||
        (fault != TACIT_DEVICE_NO_FAULT && TACIT_DEVICE_FAULT_REASON(fault) != TACIT_REASON_SUM)) {
        return;
    }
    for (uint64_t i = chunk.first + threadIdx.x; i < chunk.first + chunk.count; i += THREADS) {
        finite = finite && is_finite(q[i]);
    }
    if (!finite) {
        note_fault(bundle, TACIT_DEVICE_FAULT(0, TACIT_REASON_SUM, m.tensor));
    }
}

/* A row: memory follows what was sent of it, and the result is stored. Where values that are not finite were passed on, ef's
   memory is what it is on the CPU. */
__device__ __noinline__ void finish_row(range_t at, float4 result, float4 rebuilt)
{
    const tacit_device_tensor_t &t = *at.t;
    float                        a[WIDTH], d[WIDTH];

    before_any(at, 0, a);
    spread(rebuilt, d);
    after_any(at, 0, a, d);
    for (int c = 0; t.keep == TACIT_KEEP_EF && !t.doubled && c < WIDTH && place(0) + c < at.count; c++) {
        if (!is_finite(a[c]) || !is_finite(d[c])) {
            ((float *)t.memory[1 - at.turn][TACIT_EF_RESIDUAL])[at.first + (unsigned)(place(0) + c)] = is_finite(a[c]) ? a[c] : 0;
        }
    }
    spread(result, d);
    combine_any(at, 0, d);
    store_out(at, 0, d);
}

/* Half of a patch at a time: what comes out, and what the own Q stands for, or, where it is quick, what that leaves. */
__global__ void __launch_bounds__(THREADS, 2)
    finish(const __grid_constant__ tacit_device_bundle_t bundle, const __grid_constant__ tacit_device_wholes_t wholes)
{
    constexpr int     HALF = ROWS / 2;
    __shared__ float  staged[VECTORS][BLOCK_ROWS];
    const matrices_t &matrices = wholes.matrices;
    const patches_t   patches = matrices.p_patches[blockIdx.x];
    const matrix_t   &m = matrices.matrices[patches.matrix];
    const unsigned    across = m.p_across, own = threadIdx.x / WARP / across * ROWS, rows = BLOCK_ROWS / across;

    if (is_stopped(bundle)) {
        return;
    }
    const patch_t patch = patch_of(bundle, matrices, patches, across, 0);
    const bool    remembers = patch.t->keep != TACIT_KEEP_NOTHING;
    const float  *q = matrices.q + m.q + patch.column, *own_q = matrices.own_q + m.q + patch.column;

    for (int half = 0; half < ROWS; half += HALF) {
        float sums[HALF][WIDTH] = {{0}}, rebuilt[HALF][WIDTH] = {{0}};

        if (patch.quick && remembers) {
            load_quick(patch, half, rebuilt);
        }
        for (unsigned k = 0; k < m.rank; k += VECTORS) {
            const unsigned number = min(m.rank - k, (unsigned)VECTORS);

            stage(matrices.p + m.p + (uint64_t)k * m.rows, m, number, patches.row, rows, staged);
            for (unsigned v = 0; v < number; v++) {
                const uint64_t at = (uint64_t)(k + v) * m.columns;
                float          all[WIDTH], mine[WIDTH] = {0, 0, 0, 0};

                load(q + at, 0, patch.columns, all);
                if (remembers) {
                    load(own_q + at, 0, patch.columns, mine);
                }
#pragma unroll
                for (int r = 0; r < HALF; r++) {
                    const float p = staged[v][own + (unsigned)(half + r)], less = patch.quick ? -p : p;
#pragma unroll
                    for (int c = 0; c < WIDTH; c++) {
                        sums[r][c] = fmaf(p, all[c], sums[r][c]);
                        rebuilt[r][c] = fmaf(less, mine[c], rebuilt[r][c]);
                    }
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < HALF; r++) {
            const range_t range = row_of(patch, half + r);

            if (!patch.quick) {
                finish_row(range, four_of(sums[r]), four_of(rebuilt[r]));
                continue;
            }
            if (remembers) {
                store((float *)patch.t->memory[1 - patch.turn][TACIT_EF_RESIDUAL] + range.first, 0, range.count, rebuilt[r]);
            }
            store_out(range, 0, sums[r]);
        }
    }
}

/* Q is kept, orthonormal, for the next step, a block a matrix. */
__global__ void __launch_bounds__(LONG_THREADS) keep(tacit_device_bundle_t bundle, tacit_device_wholes_t wholes)
{
    const matrix_t &m = wholes.matrices.matrices[blockIdx.x];
    const float    *q = wholes.matrices.q + m.q;

    if (is_stopped(bundle)) {
        return;
    }
    for (unsigned k = 0; k < m.rank; k++) {
        for (uint64_t i = (uint64_t)k * m.columns + threadIdx.x; i < (uint64_t)(k + 1) * m.columns; i += LONG_THREADS) {
            m.work[i] = q[i];
        }
    }
    orthonormalize(m.work, m.columns, m.rank);
    for (unsigned k = 0; k < m.rank && bundle.tensors[m.tensor].nonfinite == TACIT_NONFINITE_PASS; k++) {
        float *const vector = m.work + (uint64_t)k * m.columns;

        const double square = square_of(vector, m.columns);

        if (square - square != 0) { /* values that are not finite were passed on, once */
            for (uint64_t i = threadIdx.x; i < m.columns; i += LONG_THREADS) {
                vector[i] = 0;
            }
        }
    }
}

} /* namespace tacit_powersgd */

extern "C" void tacit_cuda_powersgd_send(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *sent,
                                         void *stream)
{
    const tacit_device_matrices_t *matrices = &wholes->matrices;

    TACIT_LAUNCH(tacit_powersgd::start, matrices->vector_count, tacit_powersgd::LONG_THREADS, stream, *bundle, *wholes);
    TACIT_LAUNCH(tacit_powersgd::add_columns, matrices->p_patch_count, tacit_whole::THREADS, stream, *bundle, *wholes);
    TACIT_LAUNCH(tacit_powersgd::send, matrices->p_chunk_count, tacit_whole::THREADS, stream, *bundle, *wholes, (uint8_t *)sent);
}

extern "C" void tacit_cuda_powersgd_meet(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes,
                                         const void *received, void *stream)
{
    const tacit_device_matrices_t *matrices = &wholes->matrices;

    TACIT_LAUNCH(tacit_powersgd::meet, matrices->p_chunk_count, tacit_whole::THREADS, stream, *bundle, *wholes,
                 (const uint8_t *)received);
    TACIT_LAUNCH(tacit_powersgd::straighten, matrices->count, tacit_powersgd::LONG_THREADS, stream, *bundle, *wholes);
}

extern "C" void tacit_cuda_powersgd_encode(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes,
                                           void *message, void *stream)
{
    const tacit_device_matrices_t *matrices = &wholes->matrices;

    TACIT_LAUNCH(tacit_powersgd::add_rows, matrices->q_patch_count, tacit_whole::THREADS, stream, *bundle, *wholes);
    TACIT_LAUNCH(tacit_powersgd::encode, matrices->q_chunk_count, tacit_whole::THREADS, stream, *bundle, *wholes,
                 (uint8_t *)message);
}

extern "C" void tacit_cuda_powersgd_take(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes,
                                         const uint64_t *faults, const void *gathered, void *stream)
{
    TACIT_LAUNCH(tacit_powersgd::take, wholes->matrices.q_chunk_count, tacit_whole::THREADS, stream, *bundle, *wholes, faults,
                 (const uint8_t *)gathered);
}

extern "C" void tacit_cuda_powersgd_fit(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    TACIT_LAUNCH(tacit_powersgd::fit_factors, wholes->matrices.q_chunk_count, tacit_whole::THREADS, stream, *bundle, *wholes);
}

extern "C" void tacit_cuda_powersgd_finish(const tacit_device_bundle_t *bundle, const tacit_device_wholes_t *wholes, void *stream)
{
    const tacit_device_matrices_t *matrices = &wholes->matrices;

    TACIT_LAUNCH(tacit_powersgd::finish, matrices->p_patch_count, tacit_whole::THREADS, stream, *bundle, *wholes);
    TACIT_LAUNCH(tacit_powersgd::keep, matrices->count, tacit_powersgd::LONG_THREADS, stream, *bundle, *wholes);
}
