/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens on a GPU, from place to place, added up, and what comes of them where tokens have several choices: the bits that
   the CPU's have. With TACIT_EMULATED the kernels run on the CPU (emulation.h); otherwise, where there is no GPU, the test is
   skipped. */
#include "moe.h"
#include "tokens.h"

/* ---- Rows from place to place ---- */

START_TEST(copied)
{
    static const size_t row_bytes[] = {2, 4, 16, 30, 400, 4096};
    enum { ROWS = 70 };
    const size_t bytes = row_bytes[_i];
    uint8_t     *from = get(ROWS, bytes), *to = get(ROWS, bytes), *back = get(ROWS, bytes);
    uint32_t    *index = get(ROWS, 4);

    for (uint32_t i = 0; i < ROWS; i++) {
        index[i] = (i * 13 + 5) % ROWS;
    }
    for (size_t i = 0; i < ROWS * bytes; i++) {
        from[i] = (uint8_t)(i * i >> 3);
    }
    MUST(cuda->copy_rows(from, index, to, NULL, ROWS, bytes, NULL));
    MUST(cuda->copy_rows(to, NULL, back, index, ROWS - 1, bytes, NULL));
    MUST(cuda->synchronize());
    for (uint32_t i = 0; i < ROWS; i++) {
        ck_assert_mem_eq(to + bytes * i, from + bytes * index[i], bytes);
    }
    for (uint32_t i = 0; i < ROWS - 1; i++) {
        ck_assert_mem_eq(back + bytes * index[i], from + bytes * index[i], bytes);
    }
    ck_assert_uint_eq(back[bytes * index[ROWS - 1]], 0xcd); /* one row fewer */
    nothing_behind(to, ROWS * bytes);
    if (bytes % 16 == 0) { /* the same off the boundaries of wide words */
        MUST(cuda->copy_rows(from, NULL, back + 2, NULL, ROWS - 1, bytes, NULL));
        MUST(cuda->copy_rows(from + 2, index, to, NULL, 1, bytes, NULL));
        MUST(cuda->synchronize());
        ck_assert_mem_eq(back + 2, from, (ROWS - 1) * bytes);
        ck_assert_mem_eq(to, from + 2 + bytes * index[0], bytes);
    }
    MUST(cuda->copy_rows(from, index, to, NULL, 0, bytes, NULL));
    give(from);
    give(to);
    give(back);
    give(index);
}
END_TEST

/* ---- Tokens with several choices: what libcomm/moe_pass.c does, row by row ---- */

enum { TOKENS = 60, CHOICES = 4, ROWS = 25, MOST_REPLIES = 3, REPLIES = ROWS * MOST_REPLIES };

/* Some rows have several replies, and stay here; all choices of a row's tokens are its replies. */
typedef struct layout {
    setup_t                setup;
    tacit_device_choices_t choices;
    uint32_t              *reply, *row, *first_reply, *first_member, replies;
    float                 *x[5]; /* tokens, gradients, centroids, replies, and sums, as float32 … */
    void                  *rows[5];
    float                 *weights;
} layout_t;

static void choose(layout_t *layout, size_t token, uint32_t row, size_t *choice)
{
    const uint32_t begin = layout->first_reply[row], end = layout->first_reply[row + 1];

    if (*choice + (end - begin) <= CHOICES) {
        for (uint32_t reply = end; reply > begin; reply--) {
            layout->reply[CHOICES * token + (*choice)++] = reply - 1;
        }
        layout->first_member[row + 1]++;
    }
}

static layout_t layout_of(size_t dimension, tacit_dtype_t dtype, bool residual)
{
    layout_t layout = {.setup = {TOKENS, dimension, 0, 0, dtype, false}};

    layout.reply = get(TOKENS * CHOICES, 4);
    layout.row = get(REPLIES, 4);
    layout.first_reply = get(ROWS + 1, 4);
    layout.first_member = get(ROWS + 1, 4);
    layout.weights = get(TOKENS * CHOICES, 4);
    memset(layout.first_member, 0, (ROWS + 1) * sizeof *layout.first_member);
    for (uint32_t row = 0; row < ROWS; row++) {
        layout.first_reply[row] = layout.replies;
        for (uint32_t i = 0; i <= row % MOST_REPLIES; i++) {
            layout.row[layout.replies++] = row;
        }
    }
    layout.first_reply[ROWS] = layout.replies;
    for (size_t t = 0; t < TOKENS; t++) {
        size_t choice = t % 7 == 2; /* … which goes nowhere; of some all do */

        for (size_t j = 0; j < CHOICES; j++) {
            layout.reply[CHOICES * t + j] = TACIT_DEVICE_NOWHERE;
        }
        if (t % 9 != 4) {
            choose(&layout, t, (uint32_t)(t * 7 + 3) % ROWS, &choice);
            choose(&layout, t, (uint32_t)(t * 7) % ROWS, &choice);
        }
    }
    for (uint32_t row = 0; row < ROWS; row++) {
        layout.first_member[row + 1] += layout.first_member[row];
    }
    harness_fill(layout.weights, TOKENS * CHOICES, 9, 1);
    for (size_t i = 0; i < COUNT_OF(layout.x); i++) {
        layout.x[i] = get(REPLIES * dimension, 4);
        harness_fill(layout.x[i], REPLIES * dimension, 100 + i, 1);
        layout.x[i][3 % dimension] = -0.f;
        layout.rows[i] = rounded(&layout.setup, layout.x[i], REPLIES * dimension);
    }
    layout.choices = (tacit_device_choices_t){shape_of(&layout.setup), CHOICES,  layout.reply, layout.row, layout.first_reply,
                                              layout.first_member,     ROWS / 3, ROWS / 2,     residual};
    return layout;
}

static void release(layout_t *layout)
{
    give(layout->reply);
    give(layout->row);
    give(layout->first_reply);
    give(layout->first_member);
    give(layout->weights);
    for (size_t i = 0; i < COUNT_OF(layout->x); i++) {
        give(layout->x[i]);
        give(layout->rows[i]);
    }
}

static const float *row_of(const layout_t *layout, int array, size_t row)
{
    return layout->x[array] + layout->setup.dimension * row;
}

static bool goes_on(const layout_t *layout, uint32_t row)
{
    return layout->choices.residual && (row < layout->choices.own_first || row >= layout->choices.own_end);
}

static void output_of(const layout_t *layout, size_t token, uint32_t reply, float *out)
{
    const uint32_t row = layout->row[reply];

    memcpy(out, row_of(layout, 3, reply), layout->setup.dimension * sizeof *out);
    if (goes_on(layout, row)) {
        tacit__moe_output(out, row_of(layout, 2, row), row_of(layout, 0, token), layout->setup.dimension, out);
    }
}

static void check_outputs(const layout_t *layout)
{
    const size_t dimension = layout->setup.dimension, count = TOKENS * dimension;
    float       *value = get(dimension, 4), *cpu = get(count, 4), cpu_weights[TOKENS * CHOICES], *gpu = get(TOKENS * CHOICES, 4);
    void        *out = get(count, bytes_of(layout->setup.dtype));

    for (size_t t = 0; t < TOKENS; t++) {
        bool first = true;

        memset(cpu + dimension * t, 0, dimension * sizeof *cpu);
        for (size_t at = CHOICES * t; at < CHOICES * (t + 1); at++) {
            cpu_weights[at] = 0;
            if (layout->reply[at] != TACIT_DEVICE_NOWHERE) {
                output_of(layout, t, layout->reply[at], value);
                cpu_weights[at] = (float)tacit__moe_dot(row_of(layout, 1, t), value, dimension);
                tacit__moe_add(cpu + dimension * t, layout->weights[at], value, dimension, first);
                first = false;
            }
        }
    }
    MUST(cuda->combine_rows(&layout->choices, layout->weights, layout->rows[0], layout->rows[2], layout->rows[3], out, NULL));
    MUST(cuda->weigh_rows(&layout->choices, layout->rows[1], layout->rows[0], layout->rows[2], layout->rows[3], gpu, NULL));
    MUST(cuda->synchronize());
    same_rows(&layout->setup, "sums of choices", cpu, out, count);
    same_floats(&layout->setup, "gradients of weights", cpu_weights, gpu, TOKENS * CHOICES);
    nothing_behind(gpu, TOKENS * CHOICES * sizeof *gpu);
    give(value);
    give(cpu);
    give(gpu);
    give(out);
}

/* The gradient that a row has for one of its tokens. */
static void gradient_of(const layout_t *layout, size_t token, uint32_t row, float *out)
{
    const size_t   dimension = layout->setup.dimension;
    const uint32_t begin = layout->first_reply[row];
    const float    members = (float)(layout->first_member[row + 1] - layout->first_member[row]);
    float         *sum = get(dimension, 4), *own = get(dimension, 4);

    tacit__moe_add(out, 1, row_of(layout, 2, row), dimension, true);
    if (!goes_on(layout, row)) {
        tacit__moe_divide(out, members, dimension);
    }
    for (uint32_t reply = begin; goes_on(layout, row) && reply < layout->first_reply[row + 1]; reply++) {
        size_t at = CHOICES * token;

        while (layout->reply[at] != reply) {
            at++;
        }
        tacit__moe_add(sum, 1, row_of(layout, 4, reply), dimension, reply == begin);
        tacit__moe_add(own, layout->weights[at], row_of(layout, 1, token), dimension, reply == begin);
    }
    if (goes_on(layout, row)) {
        tacit__moe_gradient(out, sum, own, members, dimension, out);
    }
    give(sum);
    give(own);
}

static void check_gradients(const layout_t *layout)
{
    const size_t dimension = layout->setup.dimension, count = TOKENS * dimension;
    float       *value = get(dimension, 4), *cpu = get(count, 4);
    void        *out = get(count, bytes_of(layout->setup.dtype));

    for (size_t t = 0; t < TOKENS; t++) {
        bool first = true;

        memset(cpu + dimension * t, 0, dimension * sizeof *cpu);
        for (uint32_t row = 0; row < ROWS; row++) {
            bool has = false;

            for (size_t at = CHOICES * t; at < CHOICES * (t + 1); at++) {
                has = has || (layout->reply[at] != TACIT_DEVICE_NOWHERE && layout->row[layout->reply[at]] == row);
            }
            if (has) {
                gradient_of(layout, t, row, value);
                tacit__moe_add(cpu + dimension * t, 1, value, dimension, first);
                first = false;
            }
        }
    }
    MUST(cuda->spread_rows(&layout->choices, layout->weights, layout->rows[1], layout->rows[4], layout->rows[2], out, NULL));
    MUST(cuda->synchronize());
    same_rows(&layout->setup, "gradients of tokens", cpu, out, count);
    give(value);
    give(cpu);
    give(out);
}

START_TEST(choices)
{
    static const size_t        some[] = {1, 4, 127, 260, 2049, 4104};
    static const tacit_dtype_t dtypes[] = {TACIT_FLOAT32, TACIT_FLOAT16, TACIT_BFLOAT16};
    layout_t                   layout = layout_of(some[_i / 3], dtypes[_i % 3], _i % 4 != 1);

    check_outputs(&layout);
    check_gradients(&layout);
    release(&layout);
}
END_TEST

/* Lists with weights, of any length. */
START_TEST(lists)
{
    enum { LISTS = 40, ENTRIES = 200 };
    const setup_t               setup = {ROWS, 130, 0, 0, _i % 2 == 0 ? TACIT_FLOAT32 : TACIT_BFLOAT16, false};
    const tacit_device_tokens_t shape = shape_of(&setup);
    float                      *x = get(ROWS * 130, 4), *weights = get(ENTRIES, 4), *cpu = get(LISTS * 130, 4);
    uint32_t                   *begin = get(LISTS + 1, 4), *row = get(ENTRIES, 4), *weight = get(ENTRIES, 4);
    void                       *rows, *out = get(LISTS * 130, bytes_of(setup.dtype));
    float                      *wide = get(LISTS * 130, 4);

    harness_fill(x, ROWS * 130, 5, 1);
    rows = rounded(&setup, x, ROWS * 130);
    harness_fill(weights, ENTRIES, 6, 1);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        row[i] = i * 7 % ROWS;
        weight[i] = i * 3 % ENTRIES;
    }
    for (uint32_t i = 0; i <= LISTS; i++) {
        begin[i] = i < 30 ? i * i / 8 : i < 35 ? 113 : ENTRIES; /* some empty, one long */
    }
    memset(cpu, 0, LISTS * 130 * sizeof *cpu);
    for (uint32_t i = 0; i < LISTS; i++) {
        for (uint32_t k = begin[i]; k < begin[i + 1]; k++) {
            tacit__moe_add(cpu + 130 * i, _i < 2 ? weights[weight[k]] : 1, x + 130 * row[k], 130, k == begin[i]);
        }
    }
    MUST(cuda->sum_rows(&shape, &(tacit_device_lists_t){LISTS, begin, row, weight, _i < 2 ? weights : NULL}, rows, false, out,
                        wide, NULL));
    MUST(cuda->synchronize());
    same_floats(&setup, "sums of lists, as float32", cpu, wide, LISTS * 130);
    nothing_behind(wide, LISTS * 130 * sizeof *wide);
    same_rows(&setup, "sums of lists", cpu, out, LISTS * 130);
    give(wide);
    give(x);
    give(weights);
    give(cpu);
    give(begin);
    give(row);
    give(weight);
    give(rows);
    give(out);
}
END_TEST

/* Rows of which some are not finite, first, in between, or last in them. */
START_TEST(not_finite)
{
    static const size_t         some[] = {1, 4, 127, 260, 2049};
    static const tacit_dtype_t  dtypes[] = {TACIT_FLOAT32, TACIT_FLOAT16, TACIT_BFLOAT16};
    const setup_t               setup = {ROWS, some[_i / 3], 0, 0, dtypes[_i % 3], _i % 2 == 0};
    const tacit_device_tokens_t shape = shape_of(&setup);
    float                      *x = get(ROWS * setup.dimension, 4);
    uint32_t                   *found = get(ROWS, 4);
    void                       *rows;

    harness_fill(x, ROWS * setup.dimension, 7, 1);
    for (size_t row = 0; row < ROWS; row += 3) {
        const size_t at = row % 2 == 0 ? 0 : row % 9 == 0 ? setup.dimension - 1 : setup.dimension / 2;

        x[setup.dimension * row + at] = row % 4 == 0 ? NAN : row % 4 == 1 ? INFINITY : -INFINITY;
    }
    rows = rounded(&setup, x, ROWS * setup.dimension);
    MUST(cuda->check_rows(&shape, rows, found, NULL));
    MUST(cuda->synchronize());
    for (uint32_t row = 0; row < ROWS; row++) {
        ck_assert_uint_eq(found[row], row % 3 == 0);
    }
    nothing_behind(found, ROWS * sizeof *found);
    give(x);
    give(found);
    give(rows);
}
END_TEST

/* Tokens in rows of several, or alone in them, where what they have beyond them is nothing whatever they are. */
START_TEST(measured)
{
    enum { MEMBERS = 50, MEANS = 20 };
    static const size_t          some[] = {1, 4, 127, 260, 2049, 4104};
    static const tacit_dtype_t   dtypes[] = {TACIT_FLOAT32, TACIT_FLOAT16, TACIT_BFLOAT16};
    const setup_t                setup = {TOKENS, some[_i / 3], 0, 0, dtypes[_i % 3], false};
    const size_t                 dimension = setup.dimension;
    const tacit_device_tokens_t  shape = shape_of(&setup);
    float                       *x = get(TOKENS * dimension, 4), *means = get(MEANS * dimension, 4);
    uint32_t                    *token = get(MEMBERS, 4), *row = get(MEMBERS, 4), *first = get(MEANS + 1, 4), next = 0;
    double                      *out = get(2 * MEMBERS, sizeof *out);
    const tacit_device_members_t members = {MEMBERS, token, row, first};
    void                        *tokens;

    harness_fill(x, TOKENS * dimension, 11, 1);
    harness_fill(means, MEANS * dimension, 12, 1);
    for (uint32_t i = 0; i < MEANS; i++) {
        first[i] = next;
        for (uint32_t k = 0; k < (i < 10 ? 1 + i % 2 : 3 + i / 15) && next < MEMBERS; k++, next++) {
            token[next] = next * 7 % TOKENS;
            row[next] = i;
        }
    }
    first[MEANS] = next;
    ck_assert_uint_eq(next, MEMBERS);
    x[dimension * token[0]] = INFINITY; /* alone */
    tokens = rounded(&setup, x, TOKENS * dimension);
    MUST(cuda->measure_rows(&shape, &members, tokens, means, out, NULL));
    MUST(cuda->synchronize());
    for (uint32_t i = 0; i < MEMBERS; i++) {
        const float *own = x + dimension * token[i], *mean = means + dimension * row[i];
        const bool   alone = first[row[i] + 1] - first[row[i]] == 1;

        ck_assert_double_eq(out[2 * i], tacit__moe_dot(own, own, dimension));
        ck_assert_double_eq(out[2 * i + 1], alone ? 0 : tacit__moe_distance(own, mean, dimension));
    }
    nothing_behind(out, 2 * MEMBERS * sizeof *out);
    give(x);
    give(means);
    give(token);
    give(row);
    give(first);
    give(out);
    give(tokens);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tests;

    if (!tokens_begin()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("rows on a GPU");
    tests = tcase_create("rows");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, copied, 0, 6);
    tcase_add_loop_test(tests, choices, 0, 18);
    tcase_add_loop_test(tests, lists, 0, 4);
    tcase_add_loop_test(tests, not_finite, 0, 15);
    tcase_add_loop_test(tests, measured, 0, 18);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
