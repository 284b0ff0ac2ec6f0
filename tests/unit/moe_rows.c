/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on a mixture's rows: by its definition with each set of instructions, and what it leaves as it is. */
#include "compress.h"
#include "moe.h"

enum { MOST = 8193, BLOCK = 2048 };

typedef struct rows {
    float reply[MOST], centroid[MOST], token[MOST], out[MOST], expected[MOST];
} rows_t;

/* Block sums of products, or of squares of differences: doc/wire-format.md. */
static double sum_of(const float *a, const float *b, size_t dimension, bool squares)
{
    double total = 0;

    for (size_t first = 0; first < dimension; first += BLOCK) {
        float lanes[64] = {0};

        for (size_t i = first; i < first + BLOCK && i < dimension; i++) {
            lanes[(i - first) % 64] += squares ? (a[i] - b[i]) * (a[i] - b[i]) : a[i] * b[i];
        }
        for (size_t width = 32; width > 0; width /= 2) {
            for (size_t j = 0; j < width; j++) {
                lanes[j] += lanes[j + width];
            }
        }
        total += (double)lanes[0];
    }
    return total;
}

static void check(rows_t *rows, size_t dimension)
{
    const float weight = -1.7f, members = 3;

    for (size_t i = 0; i < dimension; i++) {
        rows->expected[i] = weight * rows->token[i];
    }
    tacit__moe_add(rows->out, weight, rows->token, dimension, true);
    same_floats(rows->out, rows->expected, dimension, "a product");
    for (size_t i = 0; i < dimension; i++) {
        const float product = weight * rows->reply[i];
        rows->expected[i] = rows->expected[i] + product;
    }
    tacit__moe_add(rows->out, weight, rows->reply, dimension, false);
    same_floats(rows->out, rows->expected, dimension, "a sum");
    for (size_t i = 0; i < dimension; i++) {
        rows->expected[i] = rows->expected[i] / members;
    }
    tacit__moe_divide(rows->out, members, dimension);
    same_floats(rows->out, rows->expected, dimension, "a mean");

    for (size_t i = 0; i < dimension; i++) {
        rows->expected[i] = rows->reply[i] - (rows->centroid[i] - rows->token[i]);
    }
    memcpy(rows->out, rows->token, sizeof rows->out); /* in place */
    tacit__moe_output(rows->reply, rows->centroid, rows->out, dimension, rows->out);
    same_floats(rows->out, rows->expected, dimension, "an output");
    for (size_t i = 0; i < dimension; i++) {
        rows->expected[i] = rows->reply[i] / members - (rows->centroid[i] / members - rows->token[i]);
    }
    memcpy(rows->out, rows->token, sizeof rows->out);
    tacit__moe_gradient(rows->reply, rows->centroid, rows->out, members, dimension, rows->out);
    same_floats(rows->out, rows->expected, dimension, "a gradient");

    ck_assert_double_eq(tacit__moe_dot(rows->reply, rows->token, dimension), sum_of(rows->reply, rows->token, dimension, false));
    ck_assert_double_eq(tacit__moe_distance(rows->reply, rows->token, dimension),
                        sum_of(rows->reply, rows->token, dimension, true));
}

static void fill(rows_t *rows)
{
    harness_fill(rows->reply, MOST, 1, 1);
    harness_fill(rows->centroid, MOST, 2, 1);
    harness_fill(rows->token, MOST, 3, 1);
}

/* For any dimension. */
START_TEST(definitions)
{
    static const size_t dimensions[] = {1, 2, 7, 8, 9, 31, 33, 63, 64, 65, 100, 256, 1000, 2047, 2048, 2049, 4096, 8193};
    const tacit_isa_t   isa = (tacit_isa_t)_i;
    static rows_t       rows;

    setenv("TACIT_ISA", tacit__isa_name(isa), 1);
    fill(&rows);
    for (size_t d = 0; tacit__isa() == isa && d < COUNT_OF(dimensions); d++) {
        check(&rows, dimensions[d]);
    }
}
END_TEST

/* A token that is alone is its centroid, to the bit, even the sign of a zero; then replies are outputs, and gradients too. */
START_TEST(alone)
{
    static rows_t rows;

    fill(&rows);
    rows.token[0] = rows.reply[1] = rows.reply[2] = -0.f;
    rows.token[2] = 0;
    rows.reply[3] = 0x1p-149f;
    rows.reply[4] = FLT_MAX;
    tacit__moe_add(rows.centroid, 1, rows.token, MOST, true);
    tacit__moe_divide(rows.centroid, 1, MOST);
    same_floats(rows.centroid, rows.token, MOST, "a centroid");
    tacit__moe_output(rows.reply, rows.centroid, rows.token, MOST, rows.out);
    same_floats(rows.out, rows.reply, MOST, "an output");
    tacit__moe_gradient(rows.reply, rows.centroid, rows.token, 1, MOST, rows.out);
    same_floats(rows.out, rows.reply, MOST, "a gradient");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("moe_rows");
    TCase *tests = tcase_create("moe_rows");

    tcase_add_loop_test(tests, definitions, 0, TACIT_ISA_COUNT);
    tcase_add_test(tests, alone);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
