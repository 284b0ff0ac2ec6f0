/* SPDX-License-Identifier: Apache-2.0 */
/* `powersgd`: a matrix as the product of two thin ones, by one step of the power method a call that goes on where the last one
   ended (Vogels, Karimireddy and Jaggi, "PowerSGD", NeurIPS 2019, algorithm 1).

   The matrix M is the tensor's first dimension times the rest, a rows and b columns. Every rank sends P = M Q, the sum over ranks
   is made orthonormal, every rank sends Q = M' P, and P Q' is the result: the projection of the mean M onto the columns of P. All
   of this is linear in M once P is known, so that the result is what one rank with the mean M would find. Factors, and the Q that
   is kept for the next step, hold one vector after the other, so that more or fewer of them are a longer or shorter array.

   Vectors, and matrices whose factors save too little, travel as they are, in one round. */
#include "bits.h"
#include "compressor.h"
#include "random.h"

#include <math.h>

enum {
    MAX_RANK = 128,
    ROWS = 8,       /* of M, handled at once: with TILE columns 16 KiB, half of L1 */
    TILE = 512,     /* columns handled at once */
    SEED_TILE = 256 /* the same where columns of Q may have to be drawn, on the stack */
};

typedef struct config {
    int64_t rank;
    double  rate;
} config_t;

/* How a tensor is seen. rank 0: it is not compressed. */
typedef struct matrix {
    size_t rows, columns, rank;
} matrix_t;

static matrix_t matrix_of(const config_t *config, const tacit_slot_config_t *tensor)
{
    matrix_t matrix = {1, tensor->count, 0};
    size_t   rank;

    if (tensor->ndim < 2 || tensor->count == 0) {
        return matrix;
    }
    matrix.rows = tensor->shape[0];
    matrix.columns = tensor->count / matrix.rows;
    rank = matrix.rows < matrix.columns ? matrix.rows : matrix.columns;
    rank = rank < (size_t)config->rank ? rank : (size_t)config->rank;
    if ((double)((matrix.rows + matrix.columns) * rank) * config->rate < (double)tensor->count) {
        matrix.rank = rank;
    }
    return matrix;
}

/* ---- Vectors ---- */

enum { DOT_LANES = 32, WIDE_LANES = 8 };

/* Sum of products of up to TILE elements: lane j takes elements i = j mod 32; then halves are added to halves. */
static float dot(const float *restrict x, const float *restrict y, size_t count)
{
    float  lanes[DOT_LANES] = {0};
    size_t i = 0;

    for (; i + DOT_LANES <= count; i += DOT_LANES) {
        for (size_t j = 0; j < DOT_LANES; j++) {
            lanes[j] += x[i + j] * y[i + j];
        }
    }
    for (size_t j = 0; i + j < count; j++) {
        lanes[j] += x[i + j] * y[i + j];
    }
    for (size_t width = DOT_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

/* The same in float64, of any length. */
static double wide_dot(const float *x, const float *y, size_t count)
{
    double lanes[WIDE_LANES] = {0}, sum = 0;
    size_t i = 0;

    for (; i + WIDE_LANES <= count; i += WIDE_LANES) {
        for (size_t j = 0; j < WIDE_LANES; j++) {
            lanes[j] += (double)x[i + j] * (double)y[i + j];
        }
    }
    for (size_t j = 0; i + j < count; j++) {
        lanes[j] += (double)x[i + j] * (double)y[i + j];
    }
    for (size_t j = 0; j < WIDE_LANES; j++) {
        sum += lanes[j];
    }
    return sum;
}

static void add_one(float *restrict out, const float *restrict vector, float weight, size_t count)
{
    size_t i = 0;

    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        for (size_t j = 0; j < TACIT_LANES; j++) {
            out[i + j] += weight * vector[i + j];
        }
    }
    for (; i < count; i++) {
        out[i] += weight * vector[i];
    }
}

/* Four vectors, `stride` apart, in one pass over out. */
static void add_four(float *restrict out, const float *restrict vectors, size_t stride, const float *weights, size_t count)
{
    const float  w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3];
    const float *v0 = vectors, *v1 = v0 + stride, *v2 = v1 + stride, *v3 = v2 + stride;
    size_t       i = 0;

    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        for (size_t j = i; j < i + TACIT_LANES; j++) {
            out[j] += (w0 * v0[j] + w1 * v1[j]) + (w2 * v2[j] + w3 * v3[j]);
        }
    }
    for (; i < count; i++) {
        out[i] += (w0 * v0[i] + w1 * v1[i]) + (w2 * v2[i] + w3 * v3[i]);
    }
}

/* out += the vectors' sum by weights. */
static void add_vectors(float *out, const float *vectors, size_t stride, const float *weights, size_t vector_count, size_t count)
{
    size_t v = 0;

    for (; v + 4 <= vector_count; v += 4) {
        add_four(out, vectors + v * stride, stride, weights + v, count);
    }
    for (; v < vector_count; v++) {
        add_one(out, vectors + v * stride, weights[v], count);
    }
}

/* Modified Gram-Schmidt, each vector twice, so that also what is left of almost dependent ones is orthogonal. A vector of which
   nothing but roundings is left becomes zero and counts no more; NaN stays. */
static void orthonormalize(float *vectors, size_t count, size_t rank)
{
    for (size_t k = 0; k < rank; k++) {
        float       *vector = vectors + k * count;
        const double before = sqrt(wide_dot(vector, vector, count));
        double       norm;

        for (size_t l = 0; l < 2 * k; l++) {
            const float *other = vectors + l % k * count;
            add_one(vector, other, (float)-wide_dot(other, vector, count), count);
        }
        norm = sqrt(wide_dot(vector, vector, count));
        for (size_t i = 0; i < count; i++) {
            vector[i] = norm <= before * 0x1p-20 ? 0 : (float)((double)vector[i] / norm);
        }
    }
}

static bool is_zero(const float *vector, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (vector[i] != 0) {
            return false;
        }
    }
    return true;
}

/* ---- The two factors ---- */

/* Elements [first, first + count) of the vector with which the power method begins, the same on all ranks: uniform in
   [-1, 1). first is a multiple of 4. */
static void draw(const tacit_stream_t *stream, size_t vector, size_t first, size_t count, float *out)
{
    for (size_t i = 0; i < count; i += 4) {
        uint32_t words[4];

        tacit__random4(stream, (uint64_t)vector << 32 | (first + i) / 4, words);
        for (size_t j = 0; j < 4 && i + j < count; j++) {
            out[i + j] = 2 * tacit__uniform(words[j]) - 1;
        }
    }
}

/* P = M Q. M is passed over once, in bands of rows; vectors of Q that are zero are drawn anew. */
static void make_p(const tacit_block_t *block, matrix_t matrix, const float *m, const float *q, float *p)
{
    enum { BAND = 64 }; /* rows: with SEED_TILE columns 64 KiB, within L2 */
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    bool                 drawn[MAX_RANK];
    float                start[SEED_TILE];

    for (size_t k = 0; k < matrix.rank; k++) {
        drawn[k] = is_zero(q + k * matrix.columns, matrix.columns);
    }
    memset(p, 0, matrix.rows * matrix.rank * sizeof *p);
    for (size_t band = 0; band < matrix.rows; band += BAND) {
        const size_t end = matrix.rows - band < BAND ? matrix.rows : band + BAND;
        for (size_t first = 0; first < matrix.columns; first += SEED_TILE) {
            const size_t count = matrix.columns - first < SEED_TILE ? matrix.columns - first : SEED_TILE;
            for (size_t k = 0; k < matrix.rank; k++) {
                const float *vector = drawn[k] ? start : q + k * matrix.columns + first;
                if (drawn[k]) {
                    draw(&stream, k, first, count, start);
                }
                for (size_t i = band; i < end; i++) {
                    p[k * matrix.rows + i] += dot(m + i * matrix.columns + first, vector, count);
                }
            }
        }
    }
}

/* Q = M' P, by tiles of columns, each in bands of rows. */
static void make_q(matrix_t matrix, const float *m, const float *p, float *q)
{
    memset(q, 0, matrix.columns * matrix.rank * sizeof *q);
    for (size_t first = 0; first < matrix.columns; first += TILE) {
        const size_t count = matrix.columns - first < TILE ? matrix.columns - first : TILE;
        for (size_t i = 0; i < matrix.rows; i += ROWS) {
            const size_t rows = matrix.rows - i < ROWS ? matrix.rows - i : ROWS;
            for (size_t k = 0; k < matrix.rank; k++) {
                add_vectors(q + k * matrix.columns + first, m + i * matrix.columns + first, matrix.columns,
                            p + k * matrix.rows + i, rows, count);
            }
        }
    }
}

/* ---- The table ---- */

static int rounds(const void *config, const tacit_slot_config_t *tensor)
{
    return matrix_of(config, tensor).rank > 0 ? 2 : 1;
}

static size_t factor_count(const void *config, const tacit_slot_config_t *tensor, int round)
{
    const matrix_t matrix = matrix_of(config, tensor);

    return matrix.rank == 0 ? tensor->count : matrix.rank * (round == 0 ? matrix.rows : matrix.columns);
}

static size_t work_count(const void *config, const tacit_slot_config_t *tensor)
{
    const matrix_t matrix = matrix_of(config, tensor);

    return matrix.rank * matrix.columns;
}

static void make_factor(const tacit_block_t *block, const tacit_slot_config_t *tensor, int round, const float *a,
                        const float *work, float *const *factors, float *factor)
{
    const matrix_t matrix = matrix_of(block->config, tensor);

    if (matrix.rank == 0) {
        memcpy(factor, a, tensor->count * sizeof *a);
    } else if (round == 0) {
        make_p(block, matrix, a, work, factor);
    } else {
        orthonormalize(factors[0], matrix.rows, matrix.rank);
        make_q(matrix, a, factors[0], factor);
    }
}

static void reconstruct(const tacit_block_t *block, const tacit_slot_config_t *tensor, const float *const *factors, float *out)
{
    const matrix_t matrix = matrix_of(block->config, tensor);
    float          weights[MAX_RANK];

    if (matrix.rank == 0) {
        memcpy(out, factors[0] + block->first, block->count * sizeof *out);
        return;
    }
    memset(out, 0, block->count * sizeof *out);
    for (size_t done = 0, count; done < block->count; done += count) {
        const size_t row = (block->first + done) / matrix.columns, column = (block->first + done) % matrix.columns;
        count = matrix.columns - column < block->count - done ? matrix.columns - column : block->count - done;
        for (size_t k = 0; k < matrix.rank; k++) {
            weights[k] = factors[0][k * matrix.rows + row];
        }
        add_vectors(out + done, factors[1] + column, matrix.columns, weights, matrix.rank, count);
    }
}

/* Q is kept with vectors of norm 1, so that the next P has the magnitude of M, whatever that is. */
static void keep(const tacit_block_t *block, const tacit_slot_config_t *tensor, const float *const *factors, float *work)
{
    const matrix_t matrix = matrix_of(block->config, tensor);

    if (matrix.rank == 0) {
        return;
    }
    memcpy(work, factors[1], matrix.rank * matrix.columns * sizeof *work);
    orthonormalize(work, matrix.columns, matrix.rank);
    for (size_t k = 0; k < matrix.rank; k++) {
        float *vector = work + k * matrix.columns;
        if (!isfinite(wide_dot(vector, vector, matrix.columns))) {
            memset(vector, 0, matrix.columns * sizeof *vector); /* values that are not finite were passed on, once */
        }
    }
}

/* In the mean over Q, the projection onto rank columns keeps at least rank / min(a, b) of |M|^2, and min(a, b) is at most the
   root of the count: what is a little of large directions is found more easily, not less. Of a full rank nothing is lost. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;

    *factor = count > 0 ? fmax(0, 1 - (double)own->rank / sqrt((double)count)) : 0;
    return TACIT_CONTRACTION;
}

/* Of normal noise, M Q has r a of the a b squares, and of the other b - r columns r in a rows are within its span. */
static double delta(const void *config, const tacit_slot_config_t *tensor)
{
    const matrix_t matrix = matrix_of(config, tensor);
    const double   a = (double)matrix.rows, b = (double)matrix.columns, r = (double)matrix.rank;

    return matrix.rank == 0 ? 1 : r * (a + b - r) / (a * b);
}

static tacit_device_code_t device(const void *config)
{
    (void)config;
    return (tacit_device_code_t){.code = TACIT_CODE_POWERSGD};
}

static const tacit_param_t params[] = {
    {.key = "rank",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, rank),
     .low = 1,
     .high = MAX_RANK,
     .initial = 4,
     .unit = "vectors",
     .help = "Columns of each factor; at most as many as the matrix has rows or columns."},
    {.key = "rate",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, rate),
     .low = 0,
     .high = 1e6,
     .initial = 2,
     .unit = "",
     .help = "A matrix whose factors are not more than this many times smaller travels dense, as vectors do."},
    {.key = NULL},
};

static const tacit_linear_t linear = {
    .rounds = rounds,
    .factor_count = factor_count,
    .work_count = work_count,
    .make_factor = make_factor,
    .reconstruct = reconstruct,
    .keep = keep,
};

const tacit_compressor_t tacit__compressor_powersgd = {
    .name = "powersgd",
    .summary = "matrices as products of two thin ones: rank x (rows + columns) numbers",
    .wire_id = 10,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .delta = delta,
    .linear = &linear,
    .device = device,
};
