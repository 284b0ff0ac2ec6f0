/* SPDX-License-Identifier: Apache-2.0 */
/* `sgd`: its forms by hand, its equality with a plain loop over the mean, clipping, warm-up of the density, rescaling. */
#include "descent.h"

static const int rank_counts[] = {2, 3, 4, 8};

static descent_t run, other; /* too large for the stack */

/* ---- Forms ---- */

static void scalar(int rank, int step, int tensor, size_t count, float *g)
{
    static const float values[] = {1.0f, -0.5f, 0.25f, 2.0f};

    (void)rank;
    (void)tensor;
    for (size_t i = 0; i < count; i++) {
        g[i] = values[step];
    }
}

/* Worked with numbers that float32 holds exactly: gradients 1, -1/2, 1/4, 2; rate 1/2, momentum 1/2, values from 1. */
START_TEST(forms)
{
    static const struct {
        const char *spec;
        float       values[4];
    } cases[] = {
        {"sgd:momentum=0", {0.5f, 0.75f, 0.625f, -0.375f}},
        {"sgd:momentum=0.5", {0.5f, 0.5f, 0.375f, -0.6875f}},
        {"sgd:momentum=0.5,nesterov=on", {0.25f, 0.5f, 0.3125f, -1.21875f}},
        {"sgd:momentum=0,weight-decay=0.5", {0.25f, 0.4375f, 0.203125f, -0.84765625f}},
        {"sgd:momentum=0.5,weight-decay=0.5", {0.25f, 0.0625f, -0.171875f, -1.24609375f}},
        {"sgd:momentum=0.5,nesterov=on,weight-decay=0.5", {-0.125f, 0.109375f, -0.142578125f, -1.638916015625f}},
    };

    run = (descent_t){.optimizer = cases[_i].spec, .specs = {"none", "none"}, .counts = {1, 3}, .ranks = 2, .steps = 4};
    run.rate = 0.5;
    run.start = 1;
    run.input = scalar;
    descent_run(&run);
    for (int step = 0; step < 4; step++) {
        ck_assert_msg(run.values[step][1][2] == cases[_i].values[step], "%s: %.9g after step %d, not %.9g", cases[_i].spec,
                      (double)run.values[step][1][2], step, (double)cases[_i].values[step]);
    }
}
END_TEST

/* Without compression it is momentum SGD on the mean. */
START_TEST(is_momentum_sgd)
{
    float buffer[DESCENT_MOST] = {0}, w[DESCENT_MOST] = {0}, mean[DESCENT_MOST];

    run = (descent_t){.optimizer = "sgd", .specs = {"none", "none"}, .counts = {129, 7}, .ranks = rank_counts[_i], .steps = 6};
    descent_run(&run);
    for (int step = 0; step < 6; step++) {
        descent_mean(run.ranks, step, 0, 129, mean);
        for (size_t i = 0; i < 129; i++) {
            buffer[i] = 0.9f * buffer[i] + mean[i];
            w[i] -= 0.1f * buffer[i];
        }
        same_floats(run.values[step][0], w, 129, "momentum SGD");
    }
}
END_TEST

/* Ranks with the same data are one rank. */
START_TEST(equal_data)
{
    run = (descent_t){.optimizer = "sgd:nesterov=on,weight-decay=0.01", .specs = {"none", "none"}, .counts = {70, 5}};
    run.ranks = 1;
    run.steps = 5;
    run.input = descent_equal;
    other = run;
    other.ranks = rank_counts[_i] == 3 ? 2 : rank_counts[_i];
    descent_run(&run);
    descent_run(&other);
    descents_equal(&run, &other, 5);
}
END_TEST

START_TEST(replicas)
{
    static const char *const specs[] = {"onebit+ef", "topk:ratio=0.05+ef", "qsgd:bits=4+ef", "fp16"};

    for (size_t i = 0; i < COUNT_OF(specs); i++) {
        run = (descent_t){.optimizer = "sgd:weight-decay=0.001,clip=2", .specs = {specs[i], "none"}, .counts = {390, 17}};
        run.ranks = rank_counts[_i];
        run.steps = 8;
        descent_run(&run);
    }
}
END_TEST

START_TEST(resume)
{
    run = (descent_t){.optimizer = "sgd:weight-decay=0.01,warmup=paper,warmup-entries=3,warmup-steps=3,rescale=on",
                      .specs = {"topk:ratio=0.01+ef", "onebit+ef"},
                      .counts = {390, 33},
                      .ranks = 3,
                      .steps = 14};
    for (int step = 0; step < 14; step++) {
        run.rates[step] = 0.1 / (1 + step / 2);
    }
    descent_resumes(&run, 1 + 4 * _i); /* in the warm-up, at one of its edges, and after it */
}
END_TEST

/* ---- Clipping ---- */

static void three_four(int rank, int step, int tensor, size_t count, float *g)
{
    (void)rank;
    (void)step;
    for (size_t i = 0; i < count; i++) {
        g[i] = tensor == 0 ? 3.0f : 4.0f;
    }
}

START_TEST(clip)
{
    run = (descent_t){.optimizer = "sgd:momentum=0,clip=2.5", .specs = {"none", "none"}, .counts = {1, 1}, .ranks = 2};
    run.steps = 1;
    run.rate = 1;
    run.input = three_four;
    descent_run(&run);
    ck_assert(run.values[0][0][0] == -1.4999998f && run.values[0][1][0] == -1.9999996f);

    run.optimizer = "sgd:momentum=0,clip=3.5,clip-scope=tensor"; /* 3 stays, 4 becomes 3.5 */
    descent_run(&run);
    ck_assert(run.values[0][0][0] == -3.0f && run.values[0][1][0] == -4.0f * (float)(3.5 / (4.0 + 1e-6)));

    run.optimizer = "sgd:momentum=0,clip=6"; /* more than the norm, 5 */
    descent_run(&run);
    ck_assert(run.values[0][0][0] == -3.0f && run.values[0][1][0] == -4.0f);
}
END_TEST

/* The sum of gradients that carry 1/N is what the mean is of those that do not. */
START_TEST(sums)
{
    run = (descent_t){.optimizer = "sgd:reduce=sum,momentum=0", .specs = {"none", "none"}, .counts = {1, 1}, .ranks = 4};
    run.steps = 1;
    run.rate = 1;
    run.input = three_four;
    descent_run(&run);
    ck_assert(run.values[0][0][0] == -12.0f && run.values[0][1][0] == -16.0f);
}
END_TEST

/* ---- Warm-up, rescaling ---- */

static void watch_density(tacit_optim_t *optim, int rank, int step, void *arg)
{
    if (rank == 0) {
        snprintf((char *)arg + 64 * step, 64, "%s", tacit_slot_spec(optim->tensors[0].slot));
    }
}

START_TEST(warmup)
{
    static const char *const ratios[][7] = {{"0.25", "0.25", "0.0625", "0.0625", "0.02", "0.02", "0.02"},
                                            {"0.37606", "0.37606", "0.141421", "0.141421", "0.053183", "0.053183", "0.02"}};
    char                     specs[7][64];

    run = (descent_t){.specs = {"topk:ratio=0.02+ef", "none"}};
    run.optimizer =
        _i == 0 ? "sgd:warmup=paper,warmup-entries=3,warmup-steps=2" : "sgd:warmup=reference,warmup-entries=3,warmup-steps=2";
    run.counts[0] = 200;
    run.counts[1] = 3;
    run.ranks = 2;
    run.steps = 7;
    run.watch = watch_density;
    run.arg = specs;
    descent_run(&run);
    for (int step = 0; step < 7; step++) {
        char expected[64];

        snprintf(expected, sizeof expected, "topk:ratio=%s", ratios[_i][step]);
        ck_assert_msg(strncmp(specs[step], expected, strlen(expected)) == 0 &&
                          strchr(",+", specs[step][strlen(expected)]) != NULL,
                      "step %d: %s, not %s", step, specs[step], expected);
    }
}
END_TEST

/* Somebody else sets a density in the warm-up, and when it is over. */
static void interfere(tacit_optim_t *optim, int rank, int step, void *arg)
{
    watch_density(optim, rank, step, arg);
    if (step == 0 || step == 4) {
        MUST(tacit_slot_set_spec(optim->tensors[0].slot, "topk:ratio=0.5+ef"));
    }
}

START_TEST(warmup_has_its_way)
{
    static const char *const ratios[] = {"0.25", "0.25", "0.0625", "0.0625", "0.02", "0.5", "0.5"};
    char                     specs[7][64];

    run = (descent_t){.optimizer = "sgd:warmup=paper,warmup-entries=2,warmup-steps=2", .specs = {"topk:ratio=0.02+ef", "none"}};
    run.counts[0] = 200;
    run.counts[1] = 3;
    run.ranks = 2;
    run.steps = 7;
    run.watch = interfere;
    run.arg = specs;
    descent_run(&run);
    for (int step = 0; step < 7; step++) {
        ck_assert_msg(strtod(specs[step] + strlen("topk:ratio="), NULL) == strtod(ratios[step], NULL), "step %d: %s, not %s",
                      step, specs[step], ratios[step]);
    }
}
END_TEST

/* Keeps what rank 0's first tensor holds back, after each step. */
static void watch_memory(tacit_optim_t *optim, int rank, int step, void *arg)
{
    float(*memory)[DESCENT_MOST] = arg;

    if (rank == 0) {
        memcpy(memory[step], optim->tensors[0].slot->codec->memory.now[0], optim->tensors[0].count * sizeof(float));
    }
}

static void first_step_only(int rank, int step, int tensor, size_t count, float *g)
{
    for (size_t i = 0; i < count; i++) {
        g[i] = step == 0 && tensor == 0 ? (float)(1 + rank + (int)i) : 0.0f;
    }
}

/* What is owed at half the rate counts twice, so that in the end the values have moved as if all had been sent at first. */
START_TEST(rescale)
{
    float memory[6][DESCENT_MOST];
    float sum = 0;

    run = (descent_t){.optimizer = "sgd:momentum=0,rescale=on", .specs = {"topk:ratio=0.25+ef", "none"}, .counts = {4, 1}};
    run.ranks = 1;
    run.steps = 5;
    run.rates[0] = 0.5;
    for (int step = 1; step < 5; step++) {
        run.rates[step] = 0.25;
    }
    run.input = first_step_only;
    run.watch = watch_memory;
    run.arg = memory;
    descent_run(&run);
    ck_assert(memory[0][2] == 3.0f && memory[1][2] == 0.0f && memory[1][1] == 4.0f);
    for (size_t i = 0; i < 4; i++) {
        sum += run.values[4][0][i];
    }
    ck_assert_msg(sum == -5.0f, "%g", (double)sum); /* 0.5 (1 + 2 + 3 + 4) */
}
END_TEST

/* ---- With a feedback that has the momentum ---- */

/* Where everything is sent, dgc is momentum SGD; decay, which it never sees, moves the values as if it were in the gradient. So
   the numbers are those of forms, by way of indices and dense; and the tensor that is not its own gets the same momentum. */
START_TEST(owned_momentum)
{
    static const char *const dgc[] = {"topk:ratio=1+dgc:momentum=0.5,dense=0",
                                      "topk:ratio=1+dgc:momentum=0.5,nesterov=on,dense=0", "topk:ratio=0.5+dgc:momentum=0.5",
                                      "topk:ratio=0.5+dgc:momentum=0.5,nesterov=on"};
    static const float       plain[2][4] = {{0.5f, 0.5f, 0.375f, -0.6875f}, {0.25f, 0.5f, 0.3125f, -1.21875f}};
    static const float       decayed[2][4] = {{0.25f, 0.0625f, -0.171875f, -1.24609375f},
                                              {-0.125f, 0.109375f, -0.142578125f, -1.638916015625f}};

    for (int decay = 0; decay < 2; decay++) {
        run = (descent_t){.optimizer = decay ? "sgd:weight-decay=0.5" : "sgd", .specs = {dgc[_i], "none"}, .counts = {3, 2}};
        run.ranks = 2;
        run.steps = 4;
        run.rate = 0.5;
        run.start = 1;
        run.input = scalar;
        descent_run(&run);
        for (int step = 0; step < 4; step++) {
            const float expected = (decay ? decayed : plain)[_i % 2][step];

            ck_assert_msg(run.values[step][0][1] == expected && run.values[step][1][1] == expected,
                          "%s with %s after step %d: %.9g and %.9g, not %.9g", run.optimizer, dgc[_i], step,
                          (double)run.values[step][0][1], (double)run.values[step][1][1], (double)expected);
        }
    }
}
END_TEST

static void by_rank(int rank, int step, int tensor, size_t count, float *g)
{
    (void)step;
    for (size_t i = 0; i < count; i++) {
        g[i] = tensor == 1 ? 0.0f : rank == 0 ? 3.0f : 4.0f;
    }
}

/* Then each rank clips its own gradient, before the feedback sees it: a threshold of 2 for the mean of two ranks is 2 sqrt(2) for
   one of them; for their sum it is sqrt(2). */
START_TEST(local_clip)
{
    static const char *const optimizers[] = {"sgd:clip=2", "sgd:clip=2,reduce=sum"};
    static const double      expected[] = {2.8284271, 2.8284271};

    run = (descent_t){.optimizer = optimizers[_i], .specs = {"topk:ratio=1+dgc:momentum=0,dense=0", "none"}, .counts = {1, 1}};
    run.ranks = 2;
    run.steps = 1;
    run.rate = 1;
    run.input = by_rank;
    descent_run(&run);
    ck_assert_msg(fabs((double)run.values[0][0][0] + expected[_i]) < 4e-6, "%.9g", (double)run.values[0][0][0]);
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

/* So it is with any feedback that remembers: what it counts as sent is not clipped away. (4, 3) is halved, 2 travels and 1.5
   stays; then the other element's 3, above the threshold as it is. */
START_TEST(clip_before_feedback)
{
    run = (descent_t){.optimizer = "sgd:momentum=0,clip=2.5", .specs = {"topk:ratio=0.5+ef", "none"}, .counts = {2, 1}};
    run.ranks = 1;
    run.steps = 2;
    run.rate = 1;
    run.input = four_three;
    descent_run(&run);
    ck_assert_msg(fabsf(run.values[1][0][0] + 2) < 4e-6f && fabsf(run.values[1][0][1] + 3) < 4e-6f, "%.9g %.9g",
                  (double)run.values[1][0][0], (double)run.values[1][0][1]);
}
END_TEST

START_TEST(dgc_replicas)
{
    run = (descent_t){.optimizer = "sgd:weight-decay=0.001,clip=1,warmup=reference,warmup-entries=2,warmup-steps=2",
                      .specs = {"topk:ratio=0.01+dgc:dense=0", "topk:ratio=0.01+dgc"},
                      .counts = {390, 17},
                      .ranks = rank_counts[_i],
                      .steps = 8};
    descent_resumes(&run, 3);
}
END_TEST

/* ---- Refusals ---- */

static void not_accepted(const char *spec, const char *words)
{
    ck_assert_msg(tacit_optim_check(spec, NULL, 0) == TACIT_ERR_SPEC, "%s is accepted", spec);
    ck_assert_msg(strstr(tacit_last_error(), words) != NULL, "'%s' is not in '%s'", words, tacit_last_error());
}

START_TEST(refusals)
{
    not_accepted("sgd:nesterov=on,momentum=0", "needs a momentum");
    not_accepted("sgd:momentum=1.5", "from 0 to 0.999999, or 'auto'");
    not_accepted("sgd:warmup-steps=0", "from 1");
    ck_assert_int_eq(tacit_optim_check("sgd:nesterov=on", NULL, 0), TACIT_OK);
}
END_TEST

typedef struct pair {
    const char    *optimizer, *spec;
    tacit_status_t status[2];
    char           text[512];
} pair_t;

static void try_pair(tacit_comm_t *comm, void *arg)
{
    pair_t        *pair = arg;
    tacit_slot_t  *slot = slot_of(comm, "tensor", 4, TACIT_FLOAT32, pair->spec);
    tacit_optim_t *optim = NULL;

    pair->status[tacit_comm_rank(comm)] = tacit_optim_create(pair->optimizer, &slot, 1, &optim);
    if (tacit_comm_rank(comm) == 0) {
        snprintf(pair->text, sizeof pair->text, "%s", tacit_last_error());
    }
}

START_TEST(refused_pairs)
{
    static const struct {
        const char *optimizer, *spec, *words;
    } cases[] = {
        {"sgd:warmup=paper", "onebit+ef", "needs a slot whose spec has a ratio"},
        {"sgd:momentum=0.9", "topk+dgc", "give momentum to '+dgc' and leave it out here"},
        {"sgd:nesterov=on", "topk+dgc", "give nesterov to '+dgc'"},
        {"adam", "topk+dgc", "does not go with adam; use sgd"},
        {"onebit-adam", "topk+dgc", "does not go with onebit-adam; use sgd"},
    };
    pair_t pair = {.optimizer = cases[_i].optimizer, .spec = cases[_i].spec};

    run_ranks(2, NULL, try_pair, &pair);
    ck_assert_int_eq(pair.status[0], TACIT_ERR_SPEC);
    ck_assert_int_eq(pair.status[1], TACIT_ERR_SPEC);
    ck_assert_msg(strstr(pair.text, cases[_i].words) != NULL, "%s", pair.text);
}
END_TEST

/* TACIT_DISABLE=1: a warm-up of the density has nothing to do, and momentum is the feedback's, applied here. */
START_TEST(disabled)
{
    static const char *const specs[][2] = {{"topk:ratio=0.01+dgc:dense=0,momentum=0.5", "sgd:momentum=0.5"},
                                           {"topk:ratio=0.01+dgc:momentum=0.5,nesterov=on", "sgd:momentum=0.5,nesterov=on"},
                                           {"topk:ratio=0.01+ef", "sgd"}};

    other = (descent_t){.optimizer = specs[_i][1], .specs = {"none", "none"}, .counts = {129, 7}, .ranks = 2, .steps = 12};
    descent_run(&other);
    run = (descent_t){.optimizer = "sgd:warmup=paper,warmup-steps=2",
                      .specs = {specs[_i][0], "none"},
                      .counts = {129, 7},
                      .ranks = 2,
                      .steps = 12};
    ck_assert_int_eq(setenv("TACIT_DISABLE", "1", 1), 0);
    descent_run(&run);
    ck_assert_int_eq(unsetenv("TACIT_DISABLE"), 0);
    for (int step = 0; step < 12; step++) {
        same_floats(run.values[step][0], other.values[step][0], 129, specs[_i][0]);
        same_floats(run.values[step][1], other.values[step][1], 7, specs[_i][0]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sgd");
    TCase *tests = tcase_create("sgd");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, forms, 0, 6);
    tcase_add_loop_test(tests, is_momentum_sgd, 0, 4);
    tcase_add_loop_test(tests, equal_data, 0, 4);
    tcase_add_loop_test(tests, replicas, 0, 4);
    tcase_add_loop_test(tests, resume, 0, 3);
    tcase_add_test(tests, clip);
    tcase_add_test(tests, sums);
    tcase_add_loop_test(tests, warmup, 0, 2);
    tcase_add_test(tests, warmup_has_its_way);
    tcase_add_test(tests, rescale);
    tcase_add_test(tests, refusals);
    tcase_add_loop_test(tests, owned_momentum, 0, 4);
    tcase_add_loop_test(tests, local_clip, 0, 2);
    tcase_add_test(tests, clip_before_feedback);
    tcase_add_loop_test(tests, dgc_replicas, 0, 4);
    tcase_add_loop_test(tests, refused_pairs, 0, 5);
    tcase_add_loop_test(tests, disabled, 0, 3);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
