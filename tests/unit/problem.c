/* SPDX-License-Identifier: Apache-2.0 */
/* The examples' problems: gradients against differences of f, the optimum, the noise, and who has which digits. */
#include "problem.h"

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "harness.h"

enum { COUNT_LIMIT = 650, KINDS = 5, P1 = 1, P2 = 2, LOGISTIC = 4 };

static problem_t problem;
static double    x[COUNT_LIMIT], gradient[COUNT_LIMIT], other[COUNT_LIMIT];

static void make_as(int kind, double sigma, bool solve)
{
    const problem_options_t options = {.name = problem_kind_at((size_t)kind)->name, .zeta = -1.0, .sigma = sigma, .seed = 7};
    char                    error[512] = "";

    ck_assert_msg(problem_init(&problem, &options, solve, error, sizeof error) == 0, "%s", error);
    ck_assert_uint_le(problem.count, COUNT_LIMIT);
}

static void make(int kind, double sigma)
{
    make_as(kind, sigma, true);
}

/* f(x) and its gradient, without noise. */
static double whole(double *sum)
{
    double loss = 0.0;

    memset(sum, 0, sizeof gradient);
    for (size_t i = 0; i < problem.clients; i++) {
        loss += problem_gradient(&problem, i, UINT64_MAX, x, other) / (double)problem.clients;
        for (size_t j = 0; j < problem.count; j++) {
            sum[j] += other[j] / (double)problem.clients;
        }
    }
    return loss;
}

/* Along one direction, both the client's f and its gradient are smooth: the central difference is right to the third order. */
START_TEST(gradients)
{
    make_as(_i, 0.0, false);
    for (size_t client = 0; client < problem.clients; client++) {
        const double small = 1e-4;
        double       slope = 0.0, up, down;

        for (size_t j = 0; j < problem.count; j++) {
            x[j] = 0.1 * sin((double)(j + client));
        }
        (void)problem_gradient(&problem, client, UINT64_MAX, x, gradient);
        for (size_t j = 0; j < problem.count; j++) {
            slope += gradient[j] * cos((double)j);
            x[j] += small * cos((double)j);
        }
        up = problem_gradient(&problem, client, UINT64_MAX, x, other);
        for (size_t j = 0; j < problem.count; j++) {
            x[j] -= 2.0 * small * cos((double)j);
        }
        down = problem_gradient(&problem, client, UINT64_MAX, x, other);
        ck_assert_double_eq_tol((up - down) / (2.0 * small), slope, 1e-6 * (1.0 + fabs(slope)));
    }
    problem_fini(&problem);
}
END_TEST

/* There the whole gradient is 0, f is `least`, and nobody's own gradient is 0 (but where all clients agree: p0). */
START_TEST(optimum)
{
    double norm = 0.0, own = 0.0;

    make(_i, 0.0);
    memcpy(x, problem.optimum, problem.count * sizeof *x);
    ck_assert_double_eq_tol(whole(gradient), problem.least, 1e-12 * (1.0 + problem.least));
    (void)problem_gradient(&problem, 0, UINT64_MAX, x, other);
    for (size_t j = 0; j < problem.count; j++) {
        norm += gradient[j] * gradient[j];
        own += other[j] * other[j];
    }
    ck_assert_double_le(norm, 1e-17 * (1.0 + own));
    ck_assert(_i == 0 || own > 0.01);
    ck_assert_double_eq_tol(problem_gap(&problem, x, problem.least), 0.0, 1e-15);
    x[0] += 0.5;
    ck_assert_double_eq_tol(problem_gap(&problem, x, whole(gradient)), whole(gradient) - problem.least,
                            1e-10 * (1.0 + problem.least));
    ck_assert_double_eq_tol(problem_distance_squared(&problem, x), 0.25, 1e-12);
    problem_fini(&problem);
}
END_TEST

START_TEST(worked_optimum)
{
    static const double means[] = {-0.25, 1.0, 0.5, 0.0, 3.0, 0.75, 0.25, -0.25};

    make(P1, 0.0);
    for (size_t j = 0; j < 8; j++) {
        ck_assert_double_eq(problem.optimum[j], means[j]);
    }
    problem_fini(&problem);
}
END_TEST

/* |noise|^2 is sigma^2 in the mean; no two clients and no two steps draw the same; the same step draws the same again. */
START_TEST(noise)
{
    enum { STEPS = 400 };
    const double sigma = 3.0;
    double       squares = 0.0, together = 0.0, first[2] = {0.0, 0.0};

    make(P2, sigma);
    problem_start(&problem, x);
    for (uint64_t step = 0; step < STEPS; step++) {
        static double noises[2][COUNT_LIMIT];

        for (size_t client = 0; client < 2; client++) {
            (void)problem_gradient(&problem, client, UINT64_MAX, x, other);
            (void)problem_gradient(&problem, client, step, x, noises[client]);
            for (size_t j = 0; j < problem.count; j++) {
                noises[client][j] -= other[j];
                squares += noises[client][j] * noises[client][j] / (2.0 * STEPS);
            }
        }
        for (size_t j = 0; j < problem.count; j++) {
            together += noises[0][j] * noises[1][j] / STEPS;
        }
        ck_assert(noises[0][0] != first[0] && noises[1][0] != first[1]);
        first[0] = noises[0][0];
        first[1] = noises[1][0];
    }
    /* Five standard deviations of the means of 800 and 400 numbers, over 50 elements each. */
    ck_assert_double_eq_tol(squares, sigma * sigma, 5.0 * sigma * sigma * sqrt(2.0 / 50.0 / 800.0));
    ck_assert_double_eq_tol(together, 0.0, 5.0 * sigma * sigma / sqrt(50.0 * 400.0));
    (void)problem_gradient(&problem, 1, 5, x, gradient);
    (void)problem_gradient(&problem, 1, 5, x, other);
    ck_assert_mem_eq(gradient, other, problem.count * sizeof *other);
    problem_fini(&problem);
}
END_TEST

/* Client i sees digits i and i + 1 only; every image of the digits up to 8 is at one client. */
START_TEST(labels)
{
    size_t expected = 0;

    make_as(LOGISTIC, 0.0, false);
    for (size_t client = 0; client < problem.clients; client++) {
        size_t of[DIGITS_CLASSES] = {0};

        for (size_t i = problem.ends[client]; i < problem.ends[client + 1]; i++) {
            of[problem.digits.train.classes[problem.images[i]]]++;
        }
        ck_assert_uint_gt(of[client], 0);
        ck_assert_uint_gt(of[client + 1], 0);
        ck_assert_uint_eq(of[client] + of[client + 1], problem.ends[client + 1] - problem.ends[client]);
    }
    for (size_t i = 0; i < problem.digits.train.count; i++) {
        expected += problem.digits.train.classes[i] <= problem.clients;
    }
    ck_assert_uint_eq(problem.ends[problem.clients], expected);
    problem_fini(&problem);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("problem");
    TCase *tests = tcase_create("all");

    tcase_set_timeout(tests, 60); /* to solve logistic regression takes seconds, under a sanitizer more */
    tcase_add_loop_test(tests, gradients, 0, KINDS);
    tcase_add_loop_test(tests, optimum, 0, KINDS);
    tcase_add_test(tests, worked_optimum);
    tcase_add_test(tests, noise);
    tcase_add_test(tests, labels);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
