/* SPDX-License-Identifier: Apache-2.0 */
/* The examples' model library: gradients against finite differences, first weights, random numbers. */
#include "model.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { LAYERS = 3, INPUTS = 6, HIDDEN_1 = 9, HIDDEN_2 = 7, CLASSES = 4, BATCH = 5, UNITS = BATCH * (HIDDEN_1 + HIDDEN_2) };

static const size_t  widths[LAYERS + 1] = {INPUTS, HIDDEN_1, HIDDEN_2, CLASSES};
static const uint8_t classes[BATCH] = {0, 3, 1, 1, 2};

static model_t model;
static float   inputs[BATCH * INPUTS];

static void setup(void)
{
    ck_assert_int_eq(model_init(&model, widths, LAYERS, BATCH), 0);
    harness_fill(model.tensors.values, model.tensors.elements, 1, 0.5f); /* biases too: at zero they would hide mistakes */
    harness_fill(inputs, BATCH * INPUTS, 2, 1.0f);
}

static void teardown(void)
{
    model_fini(&model);
}

/* The loss, and which hidden units are on. */
static double loss_here(bool *on)
{
    double loss = 0.0;
    size_t right = 0, unit = 0;

    model_evaluate(&model, inputs, classes, BATCH, &loss, &right);
    for (size_t l = 0; l + 1 < LAYERS; l++) {
        for (size_t i = 0; i < BATCH * widths[l + 1]; i++) {
            on[unit++] = model.outputs[l][i] > 0.0f;
        }
    }
    return loss / BATCH;
}

/* (f(x + h) - f(x - h)) / 2h with h = 2^-7 is off by h^2/6 = 1e-5 times the third derivative, which stays below 10 here, and
   by the rounding of the scores: they are below 8, so each sum of at most 10 products is right to about 4 units of 2^-22, and
   4 x 2^-22 / h = 1.2e-4. Together below 3e-4; the largest difference seen is a hundredth of that. A parameter for which a
   unit turns on or off between the two points has no derivative to compare with. */
START_TEST(gradients)
{
    const float  h = 0x1p-7f;
    const double tolerance = 3e-4;
    size_t       skipped = 0;
    bool         above_on[UNITS], below_on[UNITS];

    (void)model_loss_gradient(&model, inputs, classes, BATCH);
    for (size_t i = 0; i < model.tensors.elements; i++) {
        const float value = model.tensors.values[i];
        double      above, below;

        model.tensors.values[i] = value + h;
        above = loss_here(above_on);
        model.tensors.values[i] = value - h;
        below = loss_here(below_on);
        model.tensors.values[i] = value;
        if (memcmp(above_on, below_on, sizeof above_on) != 0) {
            skipped++;
            continue;
        }
        ck_assert_double_eq_tol((double)model.tensors.gradients[i], (above - below) / (2.0 * (double)h), tolerance);
    }
    ck_assert_uint_lt(skipped, model.tensors.elements / 5);
}
END_TEST

START_TEST(tensors)
{
    size_t count = 0;

    ck_assert_uint_eq(model.tensors.count, 2 * LAYERS);
    for (size_t i = 0; i < model.tensors.count; i++) {
        ck_assert_ptr_eq(model.tensors.list[i].values, model.tensors.values + count);
        ck_assert_ptr_eq(model.tensors.list[i].gradients, model.tensors.gradients + count);
        count += model.tensors.list[i].rows * model.tensors.list[i].cols;
    }
    ck_assert_uint_eq(count, model.tensors.elements);
    ck_assert_uint_eq(model.tensors.elements, (INPUTS + 1) * HIDDEN_1 + (HIDDEN_1 + 1) * HIDDEN_2 + (HIDDEN_2 + 1) * CLASSES);
    ck_assert_str_eq(model.tensors.list[0].name, "layer1.weight");
    ck_assert_uint_eq(model.tensors.list[0].rows, HIDDEN_1);
    ck_assert_uint_eq(model.tensors.list[0].cols, INPUTS);
    ck_assert_str_eq(model.tensors.list[5].name, "layer3.bias");
    ck_assert_uint_eq(model.tensors.list[5].rows, 1);
    ck_assert_uint_eq(model.tensors.list[5].cols, CLASSES);
}
END_TEST

/* Scores that are all alike say nothing: the loss is that of guessing. */
START_TEST(loss_of_guessing)
{
    memset(model.tensors.values, 0, model.tensors.elements * sizeof *model.tensors.values);
    ck_assert_double_eq_tol(model_loss_gradient(&model, inputs, classes, BATCH), log(CLASSES), 1e-15);
}
END_TEST

/* Scores of 1e6 and -1e6: exponentials of them would be infinite. */
START_TEST(large_scores)
{
    float *bias = model.tensors.list[5].values;

    memset(model.tensors.values, 0, model.tensors.elements * sizeof *model.tensors.values);
    bias[0] = 1e6f;
    bias[3] = -1e6f;
    ck_assert_double_eq_tol(model_loss_gradient(&model, inputs, classes, BATCH), (0.0 + 2e6 + 1e6 + 1e6 + 1e6) / BATCH, 1e-3);
    ck_assert_float_eq_tol(model.tensors.list[5].gradients[0], 4.0f / BATCH, 1e-6f);
    ck_assert_float_eq_tol(model.tensors.list[5].gradients[3], -1.0f / BATCH, 1e-6f);
}
END_TEST

/* Samples are independent: all at once, or in batches of two. The order of a sum inside BLAS may depend on the batch. */
START_TEST(evaluation_in_batches)
{
    double loss = 0.0, loss_in_batches = 0.0;
    size_t right = 0, right_in_batches = 0;

    model_evaluate(&model, inputs, classes, BATCH, &loss, &right);
    model.batch_limit = 2;
    model_evaluate(&model, inputs, classes, BATCH, &loss_in_batches, &right_in_batches);
    model.batch_limit = BATCH;
    ck_assert_double_eq_tol(loss, loss_in_batches, 1e-5);
    ck_assert_uint_eq(right, right_in_batches);
}
END_TEST

/* Of n squares of normal numbers the mean is 1 with a deviation of sqrt(2/n): five of them. */
START_TEST(first_weights)
{
    const size_t wide[2] = {200, 300};
    double       squares = 0.0;
    model_t      large, again;

    ck_assert_int_eq(model_init(&large, wide, 1, 1), 0);
    ck_assert_int_eq(model_init(&again, wide, 1, 1), 0);
    model_randomize(&large, 7);
    model_randomize(&again, 7);
    ck_assert_mem_eq(large.tensors.values, again.tensors.values, large.tensors.elements * sizeof *large.tensors.values);
    for (size_t i = 0; i < 60000; i++) {
        squares += (double)large.tensors.values[i] * (double)large.tensors.values[i];
    }
    ck_assert_double_eq_tol(squares / 60000 * 200 / 2, 1.0, 5.0 * sqrt(2.0 / 60000));
    ck_assert_float_eq(large.tensors.list[1].values[299], 0.0f);
    model_fini(&large);
    model_fini(&again);
}
END_TEST

/* The first numbers of SplitMix64 from seed 0, as its authors' program prints them. */
START_TEST(random_numbers)
{
    uint64_t state = 0;
    uint32_t order[100];
    bool     seen[100] = {false};

    ck_assert_uint_eq(random_next(&state), 0xE220A8397B1DCDAFu);
    ck_assert_uint_eq(random_next(&state), 0x6E789E6AA1B965F4u);
    ck_assert_uint_eq(random_next(&state), 0x06C45D188009454Fu);
    random_permutation(3, 100, order);
    for (size_t i = 0; i < 100; i++) {
        ck_assert_uint_lt(order[i], 100);
        ck_assert(!seen[order[i]]);
        seen[order[i]] = true;
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *layers = tcase_create("layers");
    TCase *first = tcase_create("first");

    tcase_add_checked_fixture(layers, setup, teardown);
    tcase_add_test(layers, gradients);
    tcase_add_test(layers, tensors);
    tcase_add_test(layers, loss_of_guessing);
    tcase_add_test(layers, large_scores);
    tcase_add_test(layers, evaluation_in_batches);
    suite_add_tcase(suite, layers);
    tcase_add_test(first, first_weights);
    tcase_add_test(first, random_numbers);
    suite_add_tcase(suite, first);
    return harness_main(suite);
}
