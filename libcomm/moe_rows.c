/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on a mixture's rows, with every set of instructions. */
#include "moe.h"

#include "isa.h"
#include "lanes.h"

/* A first product is stored, not added to zero: -0 stays what it is. */
static void add_loop(float *restrict sum, float weight, const float *restrict row, size_t dimension, bool first)
{
    for (size_t i = 0; i < dimension && first; i++) {
        sum[i] = weight * row[i];
    }
    for (size_t i = 0; i < dimension && !first; i++) {
        sum[i] += weight * row[i];
    }
}

static void divide_loop(float *row, float members, size_t dimension)
{
    for (size_t i = 0; i < dimension; i++) {
        row[i] /= members;
    }
}

static void output_loop(const float *reply, const float *centroid, const float *token, size_t dimension, float *output)
{
    for (size_t i = 0; i < dimension; i++) {
        output[i] = reply[i] - (centroid[i] - token[i]);
    }
}

static void gradient_loop(const float *reply, const float *sum, const float *own, float members, size_t dimension, float *out)
{
    for (size_t i = 0; i < dimension; i++) {
        out[i] = reply[i] / members - (sum[i] / members - own[i]);
    }
}

/* Adds up to TACIT_LANES products to as many lanes. */
TACIT_ALWAYS_INLINE void multiply(const float *a, const float *b, tacit_floats_t lanes[TACIT_VECTORS])
{
    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        lanes[k] += *tacit__floats(a + TACIT_VECTOR * k) * *tacit__floats(b + TACIT_VECTOR * k);
    }
}

/* The same of squares of differences. */
TACIT_ALWAYS_INLINE void compare(const float *a, const float *b, tacit_floats_t lanes[TACIT_VECTORS])
{
    TACIT_UNROLL for (size_t k = 0; k < TACIT_VECTORS; k++)
    {
        const tacit_floats_t difference = *tacit__floats(a + TACIT_VECTOR * k) - *tacit__floats(b + TACIT_VECTOR * k);

        lanes[k] += difference * difference;
    }
}

typedef void visit_t(const float *a, const float *b, tacit_floats_t lanes[TACIT_VECTORS]);

/* Block sums, in float64 one to the other: doc/wire-format.md, "Block sums". */
TACIT_ALWAYS_INLINE double sum_of(const float *a, const float *b, size_t dimension, visit_t visit)
{
    enum { BLOCK = 2048 };
    double total = 0;

    for (size_t first = 0; first < dimension; first += BLOCK) {
        const size_t   count = tacit__min(BLOCK, dimension - first), rest = count % TACIT_LANES;
        tacit_floats_t lanes[TACIT_VECTORS] = {0};
        float          tails[2][TACIT_LANES] = {0};

        for (size_t i = first; i < first + count - rest; i += TACIT_LANES) {
            visit(a + i, b + i, lanes);
        }
        memcpy(tails[0], a + first + count - rest, rest * sizeof **tails);
        memcpy(tails[1], b + first + count - rest, rest * sizeof **tails);
        visit(tails[0], tails[1], lanes);
        total += (double)tacit__lanes_sum(lanes);
    }
    return total;
}

TACIT_ALWAYS_INLINE double dot_loop(const float *a, const float *b, size_t dimension)
{
    return sum_of(a, b, dimension, multiply);
}

TACIT_ALWAYS_INLINE double distance_loop(const float *a, const float *b, size_t dimension)
{
    return sum_of(a, b, dimension, compare);
}

TACIT_EACH_ISA(void, add, (float *sum, float weight, const float *row, size_t dimension, bool first),
               (sum, weight, row, dimension, first))
TACIT_EACH_ISA(void, divide, (float *row, float members, size_t dimension), (row, members, dimension))
TACIT_EACH_ISA(void, output, (const float *reply, const float *centroid, const float *token, size_t dimension, float *out),
               (reply, centroid, token, dimension, out))
TACIT_EACH_ISA(void, gradient,
               (const float *reply, const float *sum, const float *own, float members, size_t dimension, float *out),
               (reply, sum, own, members, dimension, out))
TACIT_EACH_ISA(double, dot, (const float *a, const float *b, size_t dimension), (a, b, dimension))
TACIT_EACH_ISA(double, distance, (const float *a, const float *b, size_t dimension), (a, b, dimension))

void tacit__moe_add(float *sum, float weight, const float *row, size_t dimension, bool first)
{
    add(sum, weight, row, dimension, first);
}

void tacit__moe_divide(float *row, float members, size_t dimension)
{
    divide(row, members, dimension);
}

void tacit__moe_output(const float *reply, const float *centroid, const float *token, size_t dimension, float *out)
{
    output(reply, centroid, token, dimension, out);
}

void tacit__moe_gradient(const float *reply, const float *sum, const float *own, float members, size_t dimension, float *out)
{
    gradient(reply, sum, own, members, dimension, out);
}

double tacit__moe_dot(const float *a, const float *b, size_t dimension)
{
    return dot(a, b, dimension);
}

double tacit__moe_distance(const float *a, const float *b, size_t dimension)
{
    return distance(a, b, dimension);
}
