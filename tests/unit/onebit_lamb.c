/* SPDX-License-Identifier: Apache-2.0 */
/* `onebit-lamb`: both stages against float64, what is the same on all ranks, bounds, tensors of zeros, resuming. */
#include "descent.h"

enum { M, V, FRESH };
enum { RATIO, FACTOR };
enum { FREEZE = 4, STEPS = 20 };

static const int rank_counts[] = {1, 2, 3, 4, 8};

static descent_t run; /* too large for the stack */

/* ---- Both stages in float64 ---- */

typedef struct lamb {
    const char *text; /* parameters beside the freezing */
    double      beta2, decay, ratio_min, ratio_max, factor_min, factor_max, change;
    bool        correction, masked, unlimited;
} lamb_t;

typedef struct tensor {
    double w[DESCENT_MOST], m[DESCENT_MOST], v[DESCENT_MOST], fresh[DESCENT_MOST], update[DESCENT_MOST];
    double ratio, factor;
} tensor_t;

static double limit(double x, double low, double high)
{
    return fmin(fmax(x, low), high);
}

static double length(const double *x, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++) {
        sum += x[i] * x[i];
    }
    return sqrt(sum);
}

static double root(const lamb_t *lamb, double v, int updates)
{
    return sqrt(lamb->correction ? v / (1 - pow(lamb->beta2, updates)) : v) + 1e-8;
}

/* m-hat / (root of v-hat + epsilon) + decay * w, in `update`; returns the norm of the first part. */
static double update_of(const lamb_t *lamb, tensor_t *t, size_t count, int updates, int in_v)
{
    double own;

    for (size_t i = 0; i < count; i++) {
        t->update[i] = t->v[i] == 0 ? 0 : t->m[i] / (lamb->correction ? 1 - pow(0.9, updates) : 1) / root(lamb, t->v[i], in_v);
    }
    own = length(t->update, count);
    for (size_t i = 0; i < count; i++) {
        t->update[i] += t->v[i] == 0 && in_v < updates ? 0 : lamb->decay * t->w[i];
    }
    return own;
}

static void dense(const lamb_t *lamb, tensor_t *t, size_t count, const double *g, int step, double rate)
{
    double values = length(t->w, count), updates, ratio = 1;

    for (size_t i = 0; i < count; i++) {
        t->m[i] = 0.9 * t->m[i] + 0.1 * g[i];
        t->v[i] = lamb->beta2 * t->v[i] + (1 - lamb->beta2) * g[i] * g[i];
        t->fresh[i] = t->v[i];
    }
    update_of(lamb, t, count, step + 1, step + 1);
    updates = length(t->update, count);
    if (values > 0 && updates > 0) {
        ratio = limit(values / updates, lamb->ratio_min, lamb->ratio_max);
        t->ratio = t->ratio == 0 ? ratio : 0.9 * t->ratio + 0.1 * ratio;
    }
    t->factor = 1;
    for (size_t i = 0; i < count; i++) {
        t->w[i] -= rate * ratio * t->update[i];
    }
}

/* The mean gradient can be had from the moments, as nothing is lost on their way. */
static void frozen(const lamb_t *lamb, tensor_t *t, size_t count, const double *g, int step, double rate)
{
    double highest = 0, own, all, part, factor, ratio, values = length(t->w, count);

    for (size_t i = 0; i < count; i++) {
        if (t->v[i] != 0) {
            t->m[i] = 0.9 * t->m[i] + 0.1 * g[i];
            t->fresh[i] = lamb->beta2 * t->fresh[i] + (1 - lamb->beta2) * g[i] * g[i];
            highest = fmax(highest, root(lamb, t->v[i], FREEZE) / root(lamb, t->fresh[i], step + 1));
        }
    }
    own = update_of(lamb, t, count, step + 1, FREEZE);
    all = length(t->update, count);
    part = all > 0 ? fmin(1, own / all) : 1;
    factor = limit(highest * part + 1 - part, lamb->factor_min, lamb->factor_max);
    t->factor = limit(factor, (1 - lamb->change) * t->factor, (1 + lamb->change) * t->factor);
    ratio = (t->ratio == 0 ? 1 : t->ratio) * t->factor;
    if (!lamb->unlimited && values > 0 && all > 0) {
        ratio = fmin(ratio, limit(values / all, lamb->ratio_min, lamb->ratio_max));
    }
    for (size_t i = 0; i < count; i++) {
        t->w[i] -= rate * ratio * t->update[i];
    }
}

/* ---- Runs ---- */

/* What rank 0's tensors know after each step, and hashes of what must be the same on all ranks. */
typedef struct seen {
    double   numbers[DESCENT_MOST_STEPS][DESCENT_TENSORS][2];
    uint64_t state[MOST_RANKS][DESCENT_MOST_STEPS], v[MOST_RANKS][DESCENT_MOST_STEPS];
    uint64_t calls; /* of the first slot */
} seen_t;

static seen_t seen;

static void watch(tacit_optim_t *optim, int rank, int step, void *arg)
{
    uint64_t hash = 0;

    (void)arg;
    for (int t = 0; t < DESCENT_TENSORS; t++) {
        const tacit_tensor_t *tensor = &optim->tensors[t];

        hash = 31 * hash + harness_hash(tensor->array[M], tensor->count * sizeof(float));
        hash = 31 * hash + harness_hash(tensor->array[FRESH], tensor->count * sizeof(float));
        hash = 31 * hash + harness_hash(tensor->numbers, sizeof tensor->numbers);
        if (rank == 0) {
            memcpy(seen.numbers[step][t], tensor->numbers, sizeof tensor->numbers);
        }
    }
    seen.state[rank][step] = hash;
    seen.v[rank][step] = harness_hash(optim->tensors[0].array[V], optim->tensors[0].count * sizeof(float));
    if (rank == 0) {
        seen.calls = optim->tensors[0].slot->counters.calls;
    }
}

/* After the freezing, the first tensor's gradients become larger and the second one's smaller. */
static void drifting(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    for (size_t i = 0; step >= FREEZE && i < count; i++) {
        g[i] *= tensor == 0 ? 1.0f + 0.1f * (float)(step - FREEZE) : 0.5f;
    }
}

/* Besides, every third element has no gradient at first. */
static void partly_silent(int rank, int step, int tensor, size_t count, float *g)
{
    drifting(rank, step, tensor, count, g);
    for (size_t i = 1; step < FREEZE && i < count; i += 3) {
        g[i] = 0.0f;
    }
}

/* float32 rounds each quantity by at most 2^-24 of it, some dozens of them a step; the reconstructed gradient is ten times a
   difference. */
static void near_to(double is, double expected, double scale, int step, const char *what)
{
    ck_assert_msg(fabs(is - expected) <= (double)(step + 1) * ldexp(scale, -19), "%s after step %d: %.9g, not %.9g", what, step,
                  is, expected);
}

static const lamb_t cases[] = {
    {"", 0.9, 0, 0.01, 10, 0.5, 4, 0.1, true, false, false},
    {",limit=none", 0.9, 0, 0.01, 10, 0.5, 4, 0.1, true, false, true},
    {",weight-decay=0.3", 0.9, 0.3, 0.01, 10, 0.5, 4, 0.1, true, false, false},
    {",weight-decay=0.3,unit=moment,limit=none", 0.9, 0.3, 0.01, 10, 0.5, 4, 0.1, true, true, true},
    {",bias-correction=off", 0.9, 0, 0.01, 10, 0.5, 4, 0.1, false, false, false},
    {",ratio-max=0.2,factor-min=0.8,factor-max=1.3,limit=none", 0.9, 0, 0.01, 0.2, 0.8, 1.3, 0.1, true, true, true},
    {",ratio-min=0.7,factor-change=0.01", 0.9, 0, 0.7, 10, 0.5, 4, 0.01, true, false, false},
};

/* Every case with every number of ranks. */
START_TEST(float64)
{
    static tensor_t oracle[DESCENT_TENSORS];
    const lamb_t   *lamb = &cases[_i / (int)COUNT_OF(rank_counts)];
    char            spec[160];

    snprintf(spec, sizeof spec, "onebit-lamb:freeze=%d,beta2=0.9,warmup-spec=none%s", FREEZE, lamb->text);
    run = (descent_t){.optimizer = spec, .specs = {"none", "none"}, .counts = {129, 7}, .steps = STEPS, .rate = 0.05};
    run.ranks = rank_counts[_i % (int)COUNT_OF(rank_counts)];
    run.input = lamb->masked ? partly_silent : drifting;
    run.watch = watch;
    run.start = 0.5f;
    descent_run(&run);
    memset(oracle, 0, sizeof oracle);
    for (int step = 0; step < STEPS; step++) {
        for (int t = 0; t < DESCENT_TENSORS; t++) {
            double g[DESCENT_MOST] = {0};
            float  own[DESCENT_MOST];

            for (int rank = 0; rank < run.ranks; rank++) {
                run.input(rank, step, t, run.counts[t], own);
                for (size_t i = 0; i < run.counts[t]; i++) {
                    g[i] += (double)own[i] / run.ranks;
                }
            }
            for (size_t i = 0; step == 0 && i < run.counts[t]; i++) {
                oracle[t].w[i] = 0.5;
            }
            (step < FREEZE ? dense : frozen)(lamb, &oracle[t], run.counts[t], g, step, 0.05);
            near_to(seen.numbers[step][t][RATIO], oracle[t].ratio, oracle[t].ratio, step, "ratio");
            near_to(step < FREEZE - 1 ? 1 : seen.numbers[step][t][FACTOR], oracle[t].factor, 1, step, "factor");
            for (size_t i = 0; i < run.counts[t]; i++) {
                near_to((double)run.values[step][t][i], oracle[t].w[i], 1, step, "value");
            }
        }
    }
}
END_TEST

/* Replicas agree in values and state, v is frozen bit for bit, and only then the caller's slot is used. */
START_TEST(replicas)
{
    static const char *const specs[] = {"onebit+ef", "onebit:block=0,own=coded+ef", "topk:ratio=0.05+ef", "qsgd:bits=2+ef"};

    for (size_t s = 0; s < COUNT_OF(specs); s++) {
        run = (descent_t){.optimizer = "onebit-lamb:freeze=4,weight-decay=0.01,clip=1", .specs = {specs[s], "onebit+ef"}};
        run.counts[0] = 390;
        run.counts[1] = 17;
        run.ranks = rank_counts[_i];
        run.steps = 9;
        run.start = 0.5f;
        run.watch = watch;
        run.input = partly_silent;
        descent_run(&run);
        for (int step = 0; step < 9; step++) {
            for (int rank = 0; rank < run.ranks; rank++) {
                ck_assert_msg(seen.state[rank][step] == seen.state[0][step], "%s: state differs at step %d", specs[s], step);
                ck_assert_msg((seen.v[rank][step] == seen.v[0][3]) == (step >= 3), "%s: v at step %d", specs[s], step);
            }
        }
        run.input = descent_normal;
        descent_run(&run);
        ck_assert_uint_eq(seen.calls, 5);
        ck_assert(run.values[8][0][0] != run.values[7][0][0]);
    }
}
END_TEST

/* ---- Bounds ---- */

static void larger_and_smaller(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    for (size_t i = 0; step >= FREEZE && i < count; i++) {
        g[i] *= tensor == 0 ? 1000.0f : 0.001f;
    }
}

/* Corrections go down to 0.5 and up to 4 by a tenth of themselves a step, and stay there. */
START_TEST(bounds)
{
    double low = 1, high = 1;

    run = (descent_t){.optimizer = "onebit-lamb:freeze=4,beta1=0,beta2=0.1", .specs = {"none", "none"}, .counts = {60, 9}};
    run.ranks = 2;
    run.steps = 30;
    run.start = 0.5f;
    run.rate = 1e-4;
    run.input = larger_and_smaller;
    run.watch = watch;
    descent_run(&run);
    for (int step = FREEZE; step < 30; step++) {
        low = fmax(low * (1.0 - 0.1), 0.5);
        high = fmin(high * (1.0 + 0.1), 4);
        ck_assert_msg(seen.numbers[step][0][FACTOR] == low && seen.numbers[step][1][FACTOR] == high,
                      "step %d: %.17g and %.17g, not %.17g and %.17g", step, seen.numbers[step][0][FACTOR],
                      seen.numbers[step][1][FACTOR], low, high);
    }
    ck_assert(low == 0.5 && high == 4);
}
END_TEST

START_TEST(refused_bounds)
{
    ck_assert_int_eq(tacit_optim_check("onebit-lamb:ratio-min=2,ratio-max=1", NULL, 0), TACIT_ERR_SPEC);
    ck_assert_str_eq(tacit_last_error(), "onebit-lamb: ratio-min=2 is above ratio-max=1");
}
END_TEST

/* ---- Tensors of zeros ---- */

/* The second tensor's gradients end before the freezing; with beta1 = 0 so does its first moment. */
static void ends(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    for (size_t i = 0; tensor == 1 && step >= FREEZE - 1 && i < count; i++) {
        g[i] = 0.0f;
    }
}

/* Without decay it stays where it is; all of an update that is decay counts as it is, whatever v has become. */
START_TEST(zero_momentum)
{
    static const char *const optimizers[] = {"onebit-lamb:freeze=4,beta1=0,beta2=0.5",
                                             "onebit-lamb:freeze=4,beta1=0,beta2=0.5,weight-decay=0.5"};

    run = (descent_t){.optimizer = optimizers[_i], .specs = {"onebit+ef", "onebit+ef"}, .counts = {64, 20}, .ranks = 3};
    run.steps = 12;
    run.start = 0.5f;
    run.input = ends;
    run.watch = watch;
    descent_run(&run);
    for (int step = FREEZE; step < 12; step++) {
        const double ratio = seen.numbers[step][1][RATIO];

        ck_assert(isfinite(run.values[step][0][0]) && ratio > 0);
        ck_assert(_i == 0 || seen.numbers[step][1][FACTOR] == 1);
        for (size_t i = 0; i < 20; i++) {
            const double before = (double)run.values[step - 1][1][i];

            near_to((double)run.values[step][1][i], before - (_i == 0 ? 0 : 0.1 * ratio * 0.5 * before), 1, 0, "value");
        }
    }
}
END_TEST

/* The second tensor has no gradient before the freezing. */
static void begins(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    for (size_t i = 0; tensor == 1 && step == 0 && i < count; i++) {
        g[i] = 0.0f;
    }
}

/* Values of zero have no ratio: the first step is Adam's, and with freeze=1 so are the next ones, but for the correction. A
   tensor that never moved is left out altogether. */
START_TEST(zero_values)
{
    run = (descent_t){
        .optimizer = "onebit-lamb:freeze=1,factor-change=0,limit=none", .specs = {"none", "none"}, .counts = {64, 20}};
    run.ranks = 2;
    run.steps = 6;
    run.input = begins;
    run.watch = watch;
    descent_run(&run);
    ck_assert(seen.numbers[5][0][RATIO] == 0 && seen.numbers[5][0][FACTOR] == 1);
    for (int step = 0; step < 6; step++) {
        ck_assert(run.values[step][1][0] == 0);
    }
    memcpy(run.values[10], run.values[5], sizeof run.values[5]);
    run.optimizer = "onebit-adam:freeze=1,limit=none";
    run.watch = NULL;
    descent_run(&run);
    for (size_t i = 0; i < 64; i++) {
        near_to((double)run.values[10][0][i], (double)run.values[5][0][i], 1, 5, "value");
    }
}
END_TEST

/* ---- Resuming ---- */

START_TEST(resume)
{
    run = (descent_t){.optimizer = "onebit-lamb:freeze=4,clip=1,weight-decay=0.01",
                      .specs = {"onebit+ef", "topk:ratio=0.1+ef"},
                      .counts = {300, 64},
                      .ranks = 3,
                      .steps = 10,
                      .start = 0.5f,
                      .input = partly_silent};
    descent_resumes(&run, 2 + 2 * _i); /* in the warm-up, right at the freezing, and after it */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("onebit_lamb");
    TCase *tests = tcase_create("onebit_lamb");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, float64, 0, (int)(COUNT_OF(cases) * COUNT_OF(rank_counts)));
    tcase_add_loop_test(tests, replicas, 1, (int)COUNT_OF(rank_counts));
    tcase_add_test(tests, bounds);
    tcase_add_test(tests, refused_bounds);
    tcase_add_loop_test(tests, zero_momentum, 0, 2);
    tcase_add_test(tests, zero_values);
    tcase_add_loop_test(tests, resume, 0, 3);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
