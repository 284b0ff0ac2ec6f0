/* SPDX-License-Identifier: Apache-2.0 */
/* `adam`: held against a plain loop, with and without decay and correction; replicas and resuming. */
#include "descent.h"

static const int rank_counts[] = {2, 3, 4, 8};

static descent_t run; /* too large for the stack */

/* In float64, the textbook's order of operations: a step in float32 is off by a few roundings of the update, which is about the
   rate, and of the value. */
START_TEST(is_adam)
{
    double m[DESCENT_MOST] = {0}, v[DESCENT_MOST] = {0}, w[DESCENT_MOST], w_bound[DESCENT_MOST] = {0};
    float  mean[DESCENT_MOST];

    run = (descent_t){.optimizer = "adam:beta2=0.99,weight-decay=0.1",
                      .specs = {"none", "none"},
                      .counts = {129, 7},
                      .ranks = rank_counts[_i],
                      .steps = 20,
                      .start = 1};
    descent_run(&run);
    for (size_t i = 0; i < 129; i++) {
        w[i] = 1;
    }
    for (int step = 0; step < 20; step++) {
        descent_mean(run.ranks, step, 0, 129, mean);
        for (size_t i = 0; i < 129; i++) {
            const double g = (double)mean[i];

            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.99 * v[i] + 0.01 * g * g;
            w[i] -= 0.1 * (m[i] / (1 - pow(0.9, step + 1)) / (sqrt(v[i] / (1 - pow(0.99, step + 1))) + 1e-8) + 0.1 * w[i]);
            w_bound[i] += 16 * (double)FLT_EPSILON * (0.1 + fabs(w[i]));
            ck_assert_msg(fabs(w[i] - (double)run.values[step][0][i]) <= w_bound[i], "step %d, element %zu: %.9g, not %.9g", step,
                          i, (double)run.values[step][0][i], w[i]);
        }
    }
}
END_TEST

static void scalar(int rank, int step, int tensor, size_t count, float *g)
{
    static const float values[] = {1.0f, -0.5f};

    (void)rank;
    (void)tensor;
    for (size_t i = 0; i < count; i++) {
        g[i] = values[step];
    }
}

/* Without correction the first step is (1 - beta1) / sqrt(1 - beta2) times the rate; with it, the rate itself. */
START_TEST(correction)
{
    run = (descent_t){.optimizer = "adam:bias-correction=off", .specs = {"none", "none"}, .counts = {1, 1}, .ranks = 1};
    run.steps = 2;
    run.input = scalar;
    descent_run(&run);
    ck_assert_msg(fabs((double)run.values[0][0][0] + 0.31622767) <= 1e-7, "%.9g", (double)run.values[0][0][0]);
    ck_assert_msg(fabs((double)run.values[1][0][0] + 0.42941000) <= 1e-7, "%.9g", (double)run.values[1][0][0]);

    run.optimizer = "adam";
    descent_run(&run);
    ck_assert_msg(fabsf(run.values[0][0][0] + 0.1f) <= 4 * FLT_EPSILON * 0.1f, "%.9g", (double)run.values[0][0][0]);
}
END_TEST

/* The norm of all tensors together is 5; a threshold of 2.5 halves every gradient, which Adam's first step does not show but
   its moments do. */
static void three_four(int rank, int step, int tensor, size_t count, float *g)
{
    (void)rank;
    (void)step;
    for (size_t i = 0; i < count; i++) {
        g[i] = tensor == 0 ? 3.0f : 4.0f;
    }
}

static void watch_moment(tacit_optim_t *optim, int rank, int step, void *arg)
{
    if (rank == 0 && step == 0) {
        ((float *)arg)[0] = optim->tensors[0].array[0][0];
        ((float *)arg)[1] = optim->tensors[1].array[0][0];
    }
}

/* The first tensor's first moments after the last step. */
static void watch_last(tacit_optim_t *optim, int rank, int step, void *arg)
{
    (void)rank;
    (void)step;
    memcpy(arg, optim->tensors[0].array[0], 2 * sizeof(float));
}

START_TEST(clip)
{
    float m[2];

    run = (descent_t){.optimizer = "adam:clip=2.5", .specs = {"none", "none"}, .counts = {1, 1}, .ranks = 2, .steps = 1};
    run.input = three_four;
    run.watch = watch_moment;
    run.arg = m;
    descent_run(&run);
    ck_assert_msg(m[0] == 0.1f * 1.4999998f && m[1] == 0.1f * 1.9999996f, "%.9g %.9g", (double)m[0], (double)m[1]);
}
END_TEST

static void four_three(int rank, int step, int tensor, size_t count, float *g)
{
    (void)rank;
    (void)step;
    for (size_t i = 0; i < count; i++) {
        g[i] = tensor == 0 ? 4.0f - (float)i : 0.0f;
    }
}

/* What feedback counts as sent is not clipped away: (4, 3) is halved, 2 travels and 1.5 stays; then the other element's 3, above
   the threshold as it is. */
START_TEST(clip_before_feedback)
{
    float m[2];

    run = (descent_t){.optimizer = "adam:clip=2.5", .specs = {"topk:ratio=0.5+ef", "none"}, .counts = {2, 1}, .ranks = 1};
    run.steps = 2;
    run.input = four_three;
    run.watch = watch_last;
    run.arg = m;
    descent_run(&run);
    ck_assert_msg(fabsf(m[0] - 0.18f) < 1e-6f && fabsf(m[1] - 0.3f) < 1e-6f, "%.9g %.9g", (double)m[0], (double)m[1]);
}
END_TEST

START_TEST(replicas)
{
    static const char *const specs[] = {"onebit+ef", "topk:ratio=0.05+ef", "bf16"};

    for (size_t i = 0; i < COUNT_OF(specs); i++) {
        run = (descent_t){.optimizer = "adam:clip=1,clip-scope=tensor", .specs = {specs[i], "none"}, .counts = {390, 17}};
        run.ranks = rank_counts[_i];
        run.steps = 6;
        descent_run(&run);
    }
}
END_TEST

START_TEST(resume)
{
    run = (descent_t){.optimizer = "adam", .specs = {"onebit+ef", "qsgd:bits=2+ef"}, .counts = {130, 64}, .ranks = 3, .steps = 7};
    descent_resumes(&run, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adam");
    TCase *tests = tcase_create("adam");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, is_adam, 0, 4);
    tcase_add_test(tests, correction);
    tcase_add_test(tests, clip);
    tcase_add_test(tests, clip_before_feedback);
    tcase_add_loop_test(tests, replicas, 0, 4);
    tcase_add_test(tests, resume);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
