/* SPDX-License-Identifier: Apache-2.0 */
/* `tacit_lgreco_plan`: worked examples, and what must hold of any plan, against every choice there is. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"
#include "internal.h"
#include "tacit_optim.h"

enum { LAYERS = 6, OPTIONS = 8, STEPS = 10000 };

typedef struct instance {
    size_t layers, options;
    double errors[LAYERS * OPTIONS], sizes[LAYERS * OPTIONS];
    size_t reference[LAYERS], choices[LAYERS];
} instance_t;

static void plan(instance_t *of, double alpha)
{
    tacit_status_t status = tacit_lgreco_plan(of->errors, of->sizes, of->layers, of->options, of->reference, alpha, of->choices);

    ck_assert_msg(status == TACIT_OK, "%s", tacit_last_error());
}

static double total(const instance_t *of, const double *table, const size_t *choices)
{
    double sum = 0.0;

    for (size_t layer = 0; layer < of->layers; layer++) {
        sum += table[layer * of->options + choices[layer]];
    }
    return sum;
}

/* The least size of any choice whose error is at most `budget`; INFINITY where there is none. */
static double least_size(const instance_t *of, double budget)
{
    size_t choices[LAYERS] = {0}, layer;
    double least = INFINITY;

    do {
        if (total(of, of->errors, choices) <= budget) {
            least = fmin(least, total(of, of->sizes, choices));
        }
        for (layer = 0; layer < of->layers && ++choices[layer] == of->options; layer++) {
            choices[layer] = 0;
        }
    } while (layer < of->layers);
    return least;
}

static void chosen(const instance_t *of, const size_t *expected, const char *what)
{
    for (size_t layer = 0; layer < of->layers; layer++) {
        ck_assert_msg(of->choices[layer] == expected[layer], "%s: layer %zu has option %zu, not %zu", what, layer,
                      of->choices[layer], expected[layer]);
    }
}

/* Sizes fall in steps of 4 bytes, errors anywhere; options need not be in any order. */
static instance_t random_instance(uint64_t seed)
{
    harness_random_t random = {seed};
    instance_t       of = {.layers = 2 + harness_next(&random) % 4, .options = 2 + harness_next(&random) % 3};

    for (size_t i = 0; i < of.layers * of.options; i++) {
        of.errors[i] = exp(harness_uniform(&random, -6, 3));
        of.sizes[i] = (double)(4 * (1 + harness_next(&random) % 500));
    }
    for (size_t layer = 0; layer < of.layers; layer++) {
        of.reference[layer] = harness_next(&random) % of.options;
    }
    return of;
}

/* Three layers, ranks 1 to 3. With a table of 10000 steps, and none for rounding up, the best choice, which uses the whole
   budget, is lost: (3,2,1), 560 bytes. */
START_TEST(worked_example)
{
    instance_t of = {.layers = 3,
                     .options = 3,
                     .errors = {9, 5, 2, 4, 3, 2.5, 3, 1, 0.5},
                     .sizes = {96, 192, 288, 64, 128, 192, 144, 288, 432},
                     .reference = {1, 1, 1}};

    ck_assert(total(&of, of.sizes, of.reference) == 608);
    ck_assert(total(&of, of.errors, of.reference) == 9);
    plan(&of, 1);
    chosen(&of, (const size_t[]){2, 0, 0}, "worked example");
    ck_assert(total(&of, of.sizes, of.choices) == 496);
    ck_assert(total(&of, of.errors, of.choices) == 9);
}
END_TEST

/* Matrices of five shapes with singular values s k^-p: the error of rank r is the norm of those after the r-th. */
START_TEST(spectra)
{
    static const struct {
        size_t rows, columns;
        double decay, scale;
    } layers[] = {{64, 576, 1.5, 1}, {128, 1152, 1.2, 1}, {256, 2304, 0.8, 0.8}, {512, 4608, 0.5, 0.3}, {100, 512, 1.8, 1.5}};
    const bool squared = _i != 0;
    instance_t of = {.layers = 5, .options = 7, .reference = {2, 2, 2, 2, 2}};

    for (size_t layer = 0; layer < of.layers; layer++) {
        for (size_t option = 0; option < of.options; option++) {
            const size_t rank = option + 2;
            double       left = 0;

            for (size_t k = layers[layer].rows; k > rank; k--) {
                left += pow(layers[layer].scale * pow((double)k, -layers[layer].decay), 2);
            }
            of.errors[layer * of.options + option] = squared ? left : sqrt(left);
            of.sizes[layer * of.options + option] = (double)(rank * (layers[layer].rows + layers[layer].columns));
        }
    }
    ck_assert(total(&of, of.sizes, of.reference) == 40848);
    plan(&of, 1);
    ck_assert(total(&of, of.sizes, of.choices) == least_size(&of, total(&of, of.errors, of.reference)));
    if (squared) {
        chosen(&of, (const size_t[]){2, 2, 3, 0, 3}, "squared");
        ck_assert(total(&of, of.sizes, of.choices) == 33780);
    } else {
        chosen(&of, (const size_t[]){4, 2, 1, 0, 4}, "norms");
        ck_assert(total(&of, of.sizes, of.choices) == 30552);
        ck_assert_double_eq_tol(total(&of, of.errors, of.choices), 1.85397, 5e-6);
        ck_assert_double_eq_tol(total(&of, of.errors, of.reference), 1.85875, 5e-6);
    }
}
END_TEST

START_TEST(any_instance)
{
    for (uint64_t seed = 0; seed < 2000; seed++) {
        instance_t   of = random_instance(seed);
        const double uniform = total(&of, of.sizes, of.reference), budget = total(&of, of.errors, of.reference);
        double       size, error;

        plan(&of, 1);
        size = total(&of, of.sizes, of.choices);
        error = total(&of, of.errors, of.choices);
        ck_assert_msg(size <= uniform, "seed %llu: %g bytes, uniform %g", (unsigned long long)seed, size, uniform);
        ck_assert_msg(error <= budget * (1 + (double)of.layers / STEPS), "seed %llu: error %.9g of %.9g",
                      (unsigned long long)seed, error, budget);
        ck_assert_msg(size <= least_size(&of, budget), "seed %llu: %g bytes, least %g", (unsigned long long)seed, size,
                      least_size(&of, budget));
    }
}
END_TEST

/* A step is 1 and errors are whole: the plan is the best within 10000 and a step for every layer. */
START_TEST(whole_errors)
{
    for (uint64_t seed = 0; seed < 1000; seed++) {
        harness_random_t random = {seed};
        instance_t       of = random_instance(seed);
        double           left = STEPS;

        for (size_t i = 0; i < of.layers * of.options; i++) {
            of.errors[i] = (double)(1 + harness_next(&random) % 6000);
        }
        for (size_t layer = 0; layer < of.layers; layer++) {
            double *error = &of.errors[layer * of.options + of.reference[layer]];

            *error = layer + 1 < of.layers ? fmin(*error, left - (double)(of.layers - layer)) : left;
            *error = fmax(*error, 1);
            left -= *error;
        }
        ck_assert(total(&of, of.errors, of.reference) == STEPS);
        plan(&of, 1);
        ck_assert_double_eq(total(&of, of.sizes, of.choices), least_size(&of, STEPS + (double)of.layers));
    }
}
END_TEST

START_TEST(more_budget_is_never_larger)
{
    static const double alphas[] = {0.5, 0.8, 0.9, 1, 1.1, 1.5, 2, 10, 1e6, 1e300};

    for (uint64_t seed = 0; seed < 100; seed++) {
        instance_t of = random_instance(seed);
        double     before = INFINITY;

        for (size_t i = 0; i < sizeof alphas / sizeof *alphas; i++) {
            if (tacit_lgreco_plan(of.errors, of.sizes, of.layers, of.options, of.reference, alphas[i], of.choices) == TACIT_OK) {
                ck_assert(total(&of, of.sizes, of.choices) <= before);
                before = total(&of, of.sizes, of.choices);
            } else {
                ck_assert(alphas[i] < 1 && before == INFINITY);
            }
        }
    }
}
END_TEST

/* The same digits at every scale, down to where a step would not be a normal number and up to where the sum would be infinite. */
START_TEST(powers_of_two)
{
    static const int exponents[] = {-1010, -400, -60, -1, 1, 60, 500, 1018};

    for (uint64_t seed = 0; seed < 100; seed++) {
        instance_t   of = random_instance(seed);
        const double alpha = 0.9 + 0.01 * (double)(seed % 20);
        size_t       expected[LAYERS];

        if (tacit_lgreco_plan(of.errors, of.sizes, of.layers, of.options, of.reference, alpha, expected) != TACIT_OK) {
            continue;
        }
        for (size_t i = 0; i < sizeof exponents / sizeof *exponents; i++) {
            instance_t scaled = of;

            for (size_t j = 0; j < of.layers * of.options; j++) {
                scaled.errors[j] = ldexp(of.errors[j], exponents[i]);
            }
            plan(&scaled, alpha);
            chosen(&scaled, expected, "scaled");
        }
    }
}
END_TEST

/* The sum of errors depends on the order of layers in its last digit: powers of two do not. */
START_TEST(order_of_layers)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        instance_t       of = random_instance(seed), turned;
        harness_random_t random = {seed};

        for (size_t i = 0; i < of.layers * of.options; i++) {
            of.errors[i] = (double)(harness_next(&random) % 100000) * 0x1p-10;
            of.sizes[i] = (double)(1 + harness_next(&random) % 100000000); /* no two choices of one size */
        }
        turned = of;
        for (size_t layer = 0; layer < of.layers; layer++) {
            const size_t at = of.layers - 1 - layer;

            memcpy(turned.errors + at * of.options, of.errors + layer * of.options, of.options * sizeof(double));
            memcpy(turned.sizes + at * of.options, of.sizes + layer * of.options, of.options * sizeof(double));
            turned.reference[at] = of.reference[layer];
        }
        plan(&of, 1);
        plan(&turned, 1);
        for (size_t layer = 0; layer < of.layers; layer++) {
            ck_assert_uint_eq(turned.choices[of.layers - 1 - layer], of.choices[layer]);
        }
    }
}
END_TEST

START_TEST(little_to_choose)
{
    instance_t one = {.layers = 4, .options = 1, .errors = {1, 2, 0, 4}, .sizes = {1, 2, 3, 0}};
    instance_t equal = {
        .layers = 2, .options = 3, .errors = {7, 7, 7, 2, 2, 2}, .sizes = {3, 1, 2, 5, 9, 4}, .reference = {0, 1}};
    instance_t same = {.layers = 1, .options = 4, .errors = {5, 3, 2, 2}, .sizes = {8, 8, 8, 8}, .reference = {1}};
    instance_t own = {.layers = 1, .options = 2, .errors = {3, 2}, .sizes = {1, 2}, .reference = {1}};
    size_t     nothing = 0;

    plan(&one, 1);
    chosen(&one, (const size_t[]){0, 0, 0, 0}, "one option");
    plan(&equal, 1);
    chosen(&equal, (const size_t[]){1, 2}, "equal errors: the smallest sizes");
    plan(&same, 1);
    chosen(&same, (const size_t[]){2}, "equal sizes: the least error, the first");
    plan(&own, 1);
    chosen(&own, (const size_t[]){1}, "one layer: its own reference fits");
    ck_assert(tacit_lgreco_plan(NULL, NULL, 0, 3, NULL, 1, &nothing) == TACIT_OK && nothing == 0);
}
END_TEST

/* Sampled gradients that are all zero, and options that lose nothing among such that do. */
START_TEST(no_budget)
{
    instance_t zero = {.layers = 2, .options = 3, .sizes = {3, 1, 2, 5, 9, 4}};
    instance_t some = {
        .layers = 2, .options = 3, .errors = {0, 1e-300, 0, 5, 0, 0}, .sizes = {3, 1, 2, 1, 9, 4}, .reference = {0, 1}};
    instance_t none = {.layers = 2, .options = 2, .errors = {0, 1, 2, 3}, .sizes = {2, 1, 2, 1}};

    plan(&zero, 1);
    chosen(&zero, (const size_t[]){1, 2}, "no error anywhere: the smallest");
    plan(&some, 1);
    chosen(&some, (const size_t[]){2, 2}, "only what loses nothing");
    plan(&some, 0);
    chosen(&some, (const size_t[]){2, 2}, "alpha 0");
    ck_assert(tacit_lgreco_plan(none.errors, none.sizes, 2, 2, none.reference, 0, none.choices) == TACIT_ERR_ARGUMENT);
}
END_TEST

static void refused(instance_t of, double alpha, const char *words)
{
    char copy[100];

    memset(of.choices, 0x55, sizeof of.choices);
    ck_assert(tacit_lgreco_plan(of.errors, of.sizes, of.layers, of.options, of.reference, alpha, of.choices) ==
              TACIT_ERR_ARGUMENT);
    for (size_t layer = 0; layer < LAYERS; layer++) {
        ck_assert(of.choices[layer] == (size_t)0x5555555555555555u);
    }
    snprintf(copy, sizeof copy, "%s", words);
    for (const char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        ck_assert_msg(strstr(tacit_last_error(), word) != NULL, "'%s' is not in '%s'", word, tacit_last_error());
    }
}

START_TEST(what_is_refused)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY, -1, -0x1p-1074};
    const instance_t    of = random_instance(7);
    instance_t          other;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        other = of;
        other.errors[1 * of.options + 1] = bad[i];
        refused(other, 1, "layer 1|option 1|error");
        other = of;
        other.sizes[0 * of.options + 1] = bad[i];
        refused(other, 1, "layer 0|option 1|size");
        refused(of, bad[i], "alpha");
    }
    other = of;
    other.reference[1] = of.options;
    refused(other, 1, "layer 1|reference");
    other = of;
    other.sizes[0] = other.sizes[of.options] = 1.5e308;
    refused(other, 1, "sum");
    other = of;
    other.options = 257;
    refused(other, 1, "257 options");
    other.options = 0;
    refused(other, 1, "0 options");
    refused(of, 1e-4, "alpha|raise");
}
END_TEST

START_TEST(no_memory)
{
    instance_t of = random_instance(7);

    for (uint64_t nth = 1; nth <= 3; nth++) {
        tacit__alloc_fail_after(nth);
        ck_assert(tacit_lgreco_plan(of.errors, of.sizes, of.layers, of.options, of.reference, 1, of.choices) == TACIT_ERR_MEMORY);
    }
    tacit__alloc_fail_after(0);
    plan(&of, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lgreco_plan");
    TCase *tcase = tcase_create("plan");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, worked_example);
    tcase_add_loop_test(tcase, spectra, 0, 2);
    tcase_add_test(tcase, any_instance);
    tcase_add_test(tcase, whole_errors);
    tcase_add_test(tcase, more_budget_is_never_larger);
    tcase_add_test(tcase, powers_of_two);
    tcase_add_test(tcase, order_of_layers);
    tcase_add_test(tcase, little_to_choose);
    tcase_add_test(tcase, no_budget);
    tcase_add_test(tcase, what_is_refused);
    tcase_add_test(tcase, no_memory);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
