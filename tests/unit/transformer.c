/* SPDX-License-Identifier: Apache-2.0 */
/* The examples' transformer: gradients of all parameters against finite differences, what a position may see, its losses. */
#include "transformer.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { SYMBOLS = 7, CONTEXT = 5, BATCH = 3, WINDOW = CONTEXT + 1 };

static const transformer_shape_t shape = {.symbols = SYMBOLS, .context = CONTEXT, .width = 8, .layers = 2, .heads = 2};

static const uint8_t windows[BATCH * WINDOW] = {0, 3, 1, 1, 2, 6, 5, 4, 6, 0, 1, 3, 2, 2, 5, 6, 0, 4};

static transformer_t model;

/* Gains and biases too: at 1 and 0 they would hide mistakes. */
static void setup(void)
{
    ck_assert_int_eq(transformer_init(&model, &shape, BATCH), 0);
    transformer_randomize(&model, 1);
    for (size_t i = 0; i < model.tensors.count; i++) {
        const tensor_t *tensor = &model.tensors.list[i];
        float           noise[64];

        harness_fill(noise, tensor->cols, i + 1, 0.3f);
        for (size_t j = 0; tensor->rows == 1 && j < tensor->cols; j++) {
            tensor->values[j] += noise[j];
        }
    }
}

static void teardown(void)
{
    transformer_fini(&model);
}

static double loss_at(float *parameter, float value)
{
    *parameter = value;
    return transformer_evaluate(&model, windows, BATCH) / (BATCH * CONTEXT);
}

/* (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h is off by h^4/30 times the fifth derivative, which is as large as
   5000 where a norm divides by a small deviation (7e-4 was seen with h = 2^-4, 5e-5 with 2^-5), and by the rounding of the
   losses: if they are right to 2^-22, by 1.5 x 2^-22 / h. With h = 2^-6 both are about 1e-5 at most; the largest difference seen
   is 6e-6. */
START_TEST(gradients)
{
    const float  h = 0x1p-6f;
    const double tolerance = 3e-5;

    (void)transformer_loss_gradient(&model, windows, BATCH);
    for (size_t t = 0; t < model.tensors.count; t++) {
        const tensor_t *tensor = &model.tensors.list[t];
        double          largest = 0.0, worst = 0.0;

        for (size_t i = 0; i < tensor->rows * tensor->cols; i++) {
            float       *parameter = &tensor->values[i];
            const float  value = *parameter;
            const double far = loss_at(parameter, value + 2.0f * h) - loss_at(parameter, value - 2.0f * h);
            const double near = loss_at(parameter, value + h) - loss_at(parameter, value - h);
            const double slope = (8.0 * near - far) / (12.0 * (double)h);

            *parameter = value;
            worst = fmax(worst, fabs((double)tensor->gradients[i] - slope));
            largest = fmax(largest, fabs(slope));
        }
        ck_assert_msg(worst < tolerance, "%s: a gradient is off by %g; the largest is %g", tensor->name, worst, largest);
        ck_assert_msg(largest > 300.0 * tolerance, "%s: the largest gradient is %g: nothing to compare", tensor->name, largest);
    }
}
END_TEST

START_TEST(tensors)
{
    const char *const names[] = {"embedding", "position", "block1.norm1.gain", "block1.norm1.bias", "block1.attention.weight"};
    size_t            count = 0;

    ck_assert_uint_eq(model.tensors.count, 2 + 2 * 12 + 2);
    for (size_t i = 0; i < model.tensors.count; i++) {
        ck_assert_ptr_eq(model.tensors.list[i].values, model.tensors.values + count);
        ck_assert_ptr_eq(model.tensors.list[i].gradients, model.tensors.gradients + count);
        count += model.tensors.list[i].rows * model.tensors.list[i].cols;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ck_assert_str_eq(model.tensors.list[i].name, names[i]);
    }
    ck_assert_uint_eq(count, model.tensors.elements);
    ck_assert_uint_eq(count, (SYMBOLS + CONTEXT) * 8 + 2 * (12 * 64 + 13 * 8) + 16);
    ck_assert_uint_eq(model.tensors.list[4].rows, 24);
    ck_assert_uint_eq(model.tensors.list[4].cols, 8);
    ck_assert_str_eq(model.tensors.list[27].name, "final.bias");
}
END_TEST

/* Another symbol at position p changes no score before p, and some score at p. */
START_TEST(causality)
{
    float before[CONTEXT * SYMBOLS];

    (void)transformer_evaluate(&model, windows, 1);
    memcpy(before, model.scores, sizeof before);
    for (size_t p = 0; p < CONTEXT; p++) {
        uint8_t window[WINDOW];

        memcpy(window, windows, WINDOW);
        window[p] = (uint8_t)((window[p] + 1) % SYMBOLS);
        (void)transformer_evaluate(&model, window, 1);
        ck_assert_mem_eq(model.scores, before, p * SYMBOLS * sizeof *before);
        ck_assert_mem_ne(model.scores + p * SYMBOLS, before + p * SYMBOLS, SYMBOLS * sizeof *before);
    }
}
END_TEST

/* The last position sees the first symbol, and where it stands. */
START_TEST(memory)
{
    const uint8_t first[WINDOW] = {0, 1, 2, 2, 2, 2}, other[WINDOW] = {1, 0, 2, 2, 2, 2};
    float         before[SYMBOLS];

    (void)transformer_evaluate(&model, first, 1);
    memcpy(before, model.scores + (CONTEXT - 1) * SYMBOLS, sizeof before);
    (void)transformer_evaluate(&model, other, 1);
    ck_assert_mem_ne(model.scores + (CONTEXT - 1) * SYMBOLS, before, sizeof before);
}
END_TEST

/* Scores that are all alike say nothing: the loss is that of guessing. */
START_TEST(loss_of_guessing)
{
    memset(model.tensors.values, 0, model.tensors.elements * sizeof *model.tensors.values);
    ck_assert_double_eq_tol(transformer_loss_gradient(&model, windows, BATCH), log(SYMBOLS), 1e-14);
}
END_TEST

/* Equal calls give equal bits, whatever ran before. */
START_TEST(repeated)
{
    const size_t bytes = model.tensors.elements * sizeof(float);
    const double loss = transformer_loss_gradient(&model, windows, BATCH);
    float       *kept = malloc(bytes);

    memcpy(kept, model.tensors.gradients, bytes);
    (void)transformer_loss_gradient(&model, windows + WINDOW, BATCH - 1);
    ck_assert_double_eq(transformer_loss_gradient(&model, windows, BATCH), loss);
    ck_assert_mem_eq(model.tensors.gradients, kept, bytes);
    free(kept);
}
END_TEST

/* Windows are independent: all at once, or in batches of two. The order of a sum inside BLAS may depend on the batch. */
START_TEST(evaluation_in_batches)
{
    const double loss = transformer_evaluate(&model, windows, BATCH);

    ck_assert_double_eq_tol(transformer_loss_gradient(&model, windows, BATCH), loss / (BATCH * CONTEXT), 1e-12);
    model.batch_limit = 2;
    ck_assert_double_eq_tol(transformer_evaluate(&model, windows, BATCH), loss, 1e-5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transformer");
    TCase *all = tcase_create("transformer");

    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, gradients);
    tcase_add_test(all, tensors);
    tcase_add_test(all, causality);
    tcase_add_test(all, memory);
    tcase_add_test(all, loss_of_guessing);
    tcase_add_test(all, repeated);
    tcase_add_test(all, evaluation_in_batches);
    suite_add_tcase(suite, all);
    return harness_main(suite);
}
