/* SPDX-License-Identifier: Apache-2.0 */
/* `onebit-adam`: Adam in the warm-up, what is frozen and what travels afterwards, the mask, the rule of stability, resuming. */
#include "descent.h"

enum { M, V };

static const int rank_counts[] = {2, 3, 4, 8};

static descent_t run, other; /* too large for the stack */

/* ---- Against Adam ---- */

/* Never frozen and not compressed, it is Adam, bit for bit. */
START_TEST(warmup_is_adam)
{
    run = (descent_t){.optimizer = "adam:weight-decay=0.01,clip=3", .specs = {"none", "none"}, .counts = {129, 7}};
    run.ranks = rank_counts[_i];
    run.steps = 12;
    other = run;
    other.optimizer = "onebit-adam:freeze=1000000,warmup-spec=none,weight-decay=0.01,clip=3";
    other.specs[0] = "onebit+ef"; /* of no account before the freezing */
    descent_run(&run);
    descent_run(&other);
    descents_equal(&run, &other, 12);
}
END_TEST

static void scalar(int rank, int step, int tensor, size_t count, float *g)
{
    static const float values[] = {1.0f, -0.5f, 0.25f, 0.25f};

    (void)rank;
    (void)tensor;
    for (size_t i = 0; i < count; i++) {
        g[i] = values[step];
    }
}

/* In float64: m = 0.9 m + 0.1 g, v = 0.999 v + 0.001 g^2 in the first two steps only, w -= 0.1 m / (sqrt(v) + 1e-8). */
START_TEST(frozen_by_hand)
{
    static const double expected[] = {-0.31622767, -0.42941000, -0.60201306, -0.82809478};

    run = (descent_t){.optimizer = "onebit-adam:freeze=2,bias-correction=off,warmup-spec=none", .specs = {"none", "none"}};
    run.counts[0] = run.counts[1] = 1;
    run.ranks = 1 + _i;
    run.steps = 4;
    run.input = scalar;
    descent_run(&run);
    for (int step = 0; step < 4; step++) {
        ck_assert_msg(fabs((double)run.values[step][0][0] - expected[step]) <= 4 * (double)FLT_EPSILON, "step %d: %.9g, not %.9g",
                      step, (double)run.values[step][0][0], expected[step]);
    }
}
END_TEST

/* With correction: that of v stays as it was at the freezing, that of m goes on. */
START_TEST(correction)
{
    double m = 0, v = 0, w = 0;

    run = (descent_t){.optimizer = "onebit-adam:freeze=2,beta2=0.9,warmup-spec=none", .specs = {"none", "none"}};
    run.counts[0] = run.counts[1] = 1;
    run.ranks = 2;
    run.steps = 4;
    run.input = scalar;
    descent_run(&run);
    for (int step = 0; step < 4; step++) {
        static const double g[] = {1, -0.5, 0.25, 0.25};

        m = 0.9 * m + 0.1 * g[step];
        v = step < 2 ? 0.9 * v + 0.1 * g[step] * g[step] : v;
        w -= 0.1 * (m / (1 - pow(0.9, step + 1))) / (sqrt(v / (1 - pow(0.9, step < 2 ? step + 1 : 2))) + 1e-8);
        ck_assert_msg(fabs((double)run.values[step][0][0] - w) <= 8 * (double)FLT_EPSILON, "step %d: %.9g, not %.9g", step,
                      (double)run.values[step][0][0], w);
    }
}
END_TEST

/* ---- After the freezing ---- */

typedef struct moments {
    uint64_t m[MOST_RANKS][DESCENT_MOST_STEPS], v[MOST_RANKS][DESCENT_MOST_STEPS];
    float    first[DESCENT_MOST_STEPS][DESCENT_MOST]; /* rank 0's m of the first tensor */
    float    second[DESCENT_MOST];                    /* its v */
    uint64_t calls;                                   /* of the first slot */
    char     slot[64];                                /* in which its moments travel */
    double   frozen_at;
} moments_t;

static void watch(tacit_optim_t *optim, int rank, int step, void *arg)
{
    moments_t            *moments = arg;
    const tacit_tensor_t *tensor = &optim->tensors[0];

    moments->m[rank][step] = harness_hash(tensor->array[M], tensor->count * sizeof(float));
    moments->v[rank][step] = harness_hash(tensor->array[V], tensor->count * sizeof(float));
    if (rank == 0) {
        memcpy(moments->first[step], tensor->array[M], tensor->count * sizeof(float));
        memcpy(moments->second, tensor->array[V], tensor->count * sizeof(float));
        moments->calls = tensor->slot->counters.calls;
        moments->frozen_at = optim->numbers[0];
        for (tacit_slot_t *slot = optim->comm->slots; slot != NULL; slot = slot->next) {
            if (strncmp(slot->codec->name, "tensor0/active", 14) == 0) {
                snprintf(moments->slot, sizeof moments->slot, "%zu elements, %zu calls", slot->codec->tensor.count,
                         (size_t)slot->counters.calls);
            }
        }
    }
}

/* Replicas agree, m is the same on all ranks, v is frozen bit for bit, and only then the caller's slot is used. */
START_TEST(stages)
{
    static const char *const specs[] = {"onebit+ef", "onebit:block=0,own=coded+ef", "topk:ratio=0.05+ef", "qsgd:bits=2+ef"};
    static moments_t         moments;

    for (size_t s = 0; s < COUNT_OF(specs); s++) {
        run = (descent_t){.optimizer = "onebit-adam:freeze=3,weight-decay=0.001,clip=1", .specs = {specs[s], "onebit+ef"}};
        run.counts[0] = 390;
        run.counts[1] = 17;
        run.ranks = rank_counts[_i];
        run.steps = 8;
        run.rate = 0.01;
        run.watch = watch;
        run.arg = &moments;
        descent_run(&run);
        for (int step = 0; step < 8; step++) {
            for (int rank = 0; rank < run.ranks; rank++) {
                ck_assert_msg(moments.m[rank][step] == moments.m[0][step], "%s: m differs at step %d", specs[s], step);
                ck_assert_msg((moments.v[rank][step] == moments.v[0][2]) == (step >= 2), "%s: v at step %d", specs[s], step);
            }
        }
        ck_assert_uint_eq(moments.calls, 5);
        ck_assert(run.counters.wire_bytes > 0);
    }
}
END_TEST

/* What travels is the moment, in its own units or in those of the update: one rank with one block has m = scale x sign, or
   m / (sqrt(v) + 1e-8) = scale x sign to within rounding, after every step. */
START_TEST(moments_travel)
{
    static const char *const optimizers[] = {"onebit-adam:freeze=2,unit=moment", "onebit-adam:freeze=2"};
    static moments_t         moments;

    run = (descent_t){.optimizer = optimizers[_i], .specs = {"onebit+ef", "none"}, .counts = {64, 1}, .ranks = 1};
    run.steps = 6;
    run.watch = watch;
    run.arg = &moments;
    descent_run(&run);
    for (int step = 2; step < 6; step++) {
        for (size_t i = 0; i < 64; i++) {
            const float unit = _i == 0 ? 1.0f : sqrtf(moments.second[i]) + 1e-8f;
            const float unit0 = _i == 0 ? 1.0f : sqrtf(moments.second[0]) + 1e-8f;

            ck_assert_msg(fabsf(fabsf(moments.first[step][i] / unit) - fabsf(moments.first[step][0] / unit0)) <=
                              4 * FLT_EPSILON * fabsf(moments.first[step][0] / unit0) * (float)_i,
                          "step %d, element %zu: %g, not +-%g", step, i, (double)(moments.first[step][i] / unit),
                          (double)(moments.first[step][0] / unit0));
        }
    }
}
END_TEST

/* The moments' mean is that of 0.9 m + 0.1 g over ranks, added up in rank order. */
START_TEST(mean_of_moments)
{
    static moments_t moments;
    float            g[DESCENT_MOST], mean[DESCENT_MOST];

    run = (descent_t){.optimizer = "onebit-adam:freeze=2,warmup-spec=none,unit=moment,limit=none",
                      .specs = {"none", "none"},
                      .counts = {90, 3}};
    run.ranks = 3;
    run.steps = 5;
    run.watch = watch;
    run.arg = &moments;
    descent_run(&run);
    for (int step = 2; step < 5; step++) {
        for (int rank = 0; rank < 3; rank++) {
            descent_normal(rank, step, 0, 90, g);
            for (size_t i = 0; i < 90; i++) {
                float own = 0.9f * moments.first[step - 1][i] + (float)(1 - 0.9) * g[i];

                mean[i] = rank == 0 ? own : mean[i] + own;
            }
        }
        for (size_t i = 0; i < 90; i++) {
            mean[i] *= 1.0f / 3.0f;
        }
        same_floats(moments.first[step], mean, 90, "moment");
    }
}
END_TEST

static void three_four(int rank, int step, int tensor, size_t count, float *g)
{
    (void)step;
    for (size_t i = 0; i < count; i++) {
        g[i] = tensor == 1 ? 0.0f : rank == 0 ? 3.0f : 4.0f;
    }
}

/* Ranks' norms are 3 and 4, the root of their mean square sqrt(12.5); the threshold for one rank is 2 sqrt(2). */
START_TEST(clip)
{
    static moments_t moments;
    const double     factor = 2 * sqrt(2) / (sqrt(12.5) + 1e-6);
    double           m = 0;

    run = (descent_t){.optimizer = "onebit-adam:freeze=1,clip=2", .specs = {"none", "none"}, .counts = {1, 1}, .ranks = 2};
    run.steps = 4;
    run.input = three_four;
    run.watch = watch;
    run.arg = &moments;
    descent_run(&run);
    for (int step = 0; step < 4; step++) {
        m = 0.9 * m + 0.1 * 3.5 * (step < 1 ? 2 / (3.5 + 1e-6) : factor);
        ck_assert_msg(fabs((double)moments.first[step][0] - m) <= 4 * (double)FLT_EPSILON * m, "step %d: %.9g, not %.9g", step,
                      (double)moments.first[step][0], m);
    }
}
END_TEST

/* In units of the update no element moves further in a step than the largest one's share; an element whose gradients were a
   thousandth of the others' in the warm-up, and stay so, keeps to its scale. */
static void one_small(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    g[0] *= 1e-3f;
}

START_TEST(small_second_moment)
{
    float farthest = 0;

    run = (descent_t){.optimizer = "onebit-adam:freeze=10", .specs = {"onebit+ef", "none"}, .counts = {64, 1}, .ranks = 2};
    run.steps = 40;
    run.rate = 0.01;
    run.input = one_small;
    descent_run(&run);
    for (int step = 10; step < 40; step++) {
        farthest = fmaxf(farthest, fabsf(run.values[step][0][0] - run.values[step - 1][0][0]));
    }
    ck_assert_msg(farthest < 0.1f, "%g", (double)farthest); /* ten times the rate; in units of the moment it is above 1 */
}
END_TEST

static void spike(int rank, int step, int tensor, size_t count, float *g)
{
    (void)tensor;
    for (size_t i = 0; i < count; i++) {
        g[i] = step < 3 ? 1.0f : rank == 0 ? 1e6f : -1.0f;
    }
}

/* v is 1, corrected, when it is frozen. Rank 0's gradient is then too large for it: its update is cut to (1 - 0.9) / sqrt(1 -
   beta2), which is 2 rates, or to 1 where that is less; the other rank's is not touched. In float64; messages lose nothing. */
START_TEST(limit)
{
    static const struct {
        const char *optimizer;
        double      most;
    } cases[] = {{"onebit-adam:freeze=3,warmup-spec=none,beta2=0.9975", 2},
                 {"onebit-adam:freeze=3,warmup-spec=none,beta2=0.9975,unit=moment", 2},
                 {"onebit-adam:freeze=3,warmup-spec=none,beta2=0.9", 1},
                 {"onebit-adam:freeze=3,warmup-spec=none,beta2=0.9975,limit=none", INFINITY}};
    double m = 1 - pow(0.9, 3), w;

    run = (descent_t){.optimizer = cases[_i].optimizer, .specs = {"none", "none"}, .counts = {3, 1}, .ranks = 2, .steps = 5};
    run.input = spike;
    descent_run(&run);
    w = (double)run.values[2][0][0];
    for (int step = 3; step < 5; step++) {
        const double part = 1 - pow(0.9, step + 1);

        m = (fmin(0.9 * m + 0.1 * 1e6, cases[_i].most * part) + fmin(0.9 * m - 0.1, cases[_i].most * part)) / 2;
        w -= 0.1 * m / part;
        ck_assert_msg(fabs((double)run.values[step][0][0] - w) <= 1e-6 * (1 + fabs(w)), "step %d: %.9g, not %.9g", step,
                      (double)run.values[step][0][0], w);
    }
}
END_TEST

/* ---- The mask ---- */

static bool is_silent(size_t i)
{
    return i % 3 == 1;
}

/* Every third element has no gradient in the warm-up, and a large one later. */
static void partly_silent(int rank, int step, int tensor, size_t count, float *g)
{
    float  all[DESCENT_MOST];
    size_t next = 0;

    descent_normal(rank, step, tensor, count, all);
    for (size_t i = 0; i < count; i++) {
        g[i] = !is_silent(i) ? all[next++] : step < 3 ? 0.0f : 1000.0f;
    }
}

/* The same without those elements. */
static void without_silent(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
}

START_TEST(mask)
{
    static moments_t moments;

    run = (descent_t){.optimizer = "onebit-adam:freeze=3,weight-decay=0.1,warmup-spec=none",
                      .specs = {"onebit+ef", "topk:ratio=0.1+ef"}};
    run.counts[0] = 300;
    run.counts[1] = 30;
    run.ranks = rank_counts[_i];
    run.steps = 8;
    run.start = 0.5f;
    other = run;
    run.input = partly_silent;
    run.watch = watch;
    run.arg = &moments;
    other.counts[0] = 200;
    other.counts[1] = 20;
    other.input = without_silent;
    descent_run(&run);
    descent_run(&other);
    ck_assert_str_eq(moments.slot, "200 elements, 5 calls");
    ck_assert_uint_eq(moments.calls, 0);
    for (int step = 3; step < 8; step++) {
        for (int t = 0; t < DESCENT_TENSORS; t++) {
            size_t next = 0;

            for (size_t i = 0; i < run.counts[t]; i++) {
                float expected = is_silent(i) ? run.values[2][t][i] : other.values[step][t][next++];

                ck_assert_msg(run.values[step][t][i] == expected, "step %d, tensor %d, element %zu: %g, not %g", step, t, i,
                              (double)run.values[step][t][i], (double)expected);
            }
        }
    }
}
END_TEST

static void second_silent(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    for (size_t i = 0; tensor == 1 && step < 2 && i < count; i++) {
        g[i] = 0.0f;
    }
}

/* A tensor that never moved is left out altogether. */
START_TEST(silent_tensor)
{
    run = (descent_t){.optimizer = "onebit-adam:freeze=2", .specs = {"onebit+ef", "onebit+ef"}, .counts = {64, 20}, .ranks = 2};
    run.steps = 5;
    run.input = second_silent;
    run.start = 2;
    descent_run(&run);
    for (size_t i = 0; i < 20; i++) {
        ck_assert(run.values[4][1][i] == 2.0f);
    }
    ck_assert(run.values[4][0][0] != run.values[1][0][0]);
}
END_TEST

/* ---- When to freeze ---- */

static void constant(int rank, int step, int tensor, size_t count, float *g)
{
    (void)rank;
    (void)step;
    (void)tensor;
    for (size_t i = 0; i < count; i++) {
        g[i] = 1.0f;
    }
}

/* v = 1 - 0.9^t at t = 10, 20, 30, 40, 50: 0.651, 0.878, 0.958, 0.985, 0.995; the first ratio from 0.96 is 0.972, at 40. */
START_TEST(stability)
{
    static const char *const optimizers[] = {"onebit-adam:beta2=0.9", "onebit-adam:beta2=0.9,freeze-after=45"};
    static const int         frozen[] = {40, 50};
    static moments_t         moments;

    run = (descent_t){.optimizer = optimizers[_i], .specs = {"onebit+ef", "onebit+ef"}, .counts = {5, 3}, .ranks = 2};
    run.steps = 55;
    run.input = constant;
    run.watch = watch;
    run.arg = &moments;
    descent_run(&run);
    ck_assert_int_eq((int)moments.frozen_at, frozen[_i]);
    ck_assert_uint_eq(moments.calls, 55 - (uint64_t)frozen[_i]);
}
END_TEST

/* ---- Resuming ---- */

START_TEST(resume)
{
    run = (descent_t){.optimizer = _i < 3 ? "onebit-adam:freeze=4,clip=1" : "onebit-adam:freeze=3,clip=1",
                      .specs = {"onebit+ef", "topk:ratio=0.1+ef"},
                      .counts = {300, 64},
                      .ranks = 3,
                      .steps = 9,
                      .input = partly_silent};
    /* In the warm-up, right at the freezing, and after it; and right at one that leaves elements out. */
    descent_resumes(&run, _i < 3 ? 2 + 2 * _i : 3);
}
END_TEST

typedef struct rollback {
    float values[2][DESCENT_MOST]; /* after six steps: at first, and when two have been taken back */
} rollback_t;

static void go(tacit_optim_t *optim, int rank, int first, int last, float *values)
{
    float              g[DESCENT_MOST];
    float *const       value = values;
    const float *const gradient = g;

    for (int step = first; step < last; step++) {
        partly_silent(rank, step, 0, 300, g);
        MUST(tacit_optim_step(optim, &value, &gradient, 0.1));
    }
}

/* From after the freezing back to before it, in the same communicator. */
static void roll_back(tacit_comm_t *comm, void *arg)
{
    rollback_t    *rollback = arg;
    const int      rank = tacit_comm_rank(comm);
    tacit_slot_t  *slot = slot_of(comm, "tensor0", 300, TACIT_FLOAT32, "onebit+ef");
    tacit_optim_t *optim;
    float          values[DESCENT_MOST] = {0}, kept[DESCENT_MOST];

    MUST(tacit_optim_create("onebit-adam:freeze=3", &slot, 1, &optim));
    go(optim, rank, 0, 2, values);
    memcpy(kept, values, sizeof kept);
    descent_files(comm, optim, 2, false);
    go(optim, rank, 2, 6, values);
    memcpy(rank == 0 ? rollback->values[0] : kept + 300, values, rank == 0 ? 300 * sizeof(float) : 0);
    memcpy(values, kept, 300 * sizeof(float));
    descent_files(comm, optim, 2, true);
    go(optim, rank, 2, 6, values);
    memcpy(rank == 0 ? rollback->values[1] : kept + 300, values, rank == 0 ? 300 * sizeof(float) : 0);
    tacit_optim_destroy(optim);
}

START_TEST(back_to_the_warmup)
{
    static rollback_t rollback;

    run_ranks(2, NULL, roll_back, &rollback);
    same_floats(rollback.values[0], rollback.values[1], 300, "after going back");
}
END_TEST

static void name_at_length(tacit_comm_t *comm, void *arg)
{
    tacit_status_t *status = arg;
    char            name[256] = "";
    tacit_slot_t   *slot;
    tacit_optim_t  *optim;

    for (size_t bytes = 231; bytes <= 232; bytes++) {
        memset(name, 'x', bytes);
        slot = slot_of(comm, name, 40, TACIT_FLOAT32, "onebit+ef");
        optim = NULL;
        status[bytes - 231] = tacit_optim_create("onebit-adam:freeze=1", &slot, 1, &optim);
        for (int step = 0; optim != NULL && step < 3; step++) {
            float              values[40] = {0.0f}, gradient[40] = {1.0f}; /* the others are left out */
            float *const       to = values;
            const float *const from = gradient;

            MUST(tacit_optim_step(optim, &to, &from, 0.1));
        }
        tacit_optim_destroy(optim);
    }
}

/* What the freezing adds to a name must fit; that is known at once. */
START_TEST(long_names)
{
    tacit_status_t status[2] = {TACIT_ERR_STATE, TACIT_OK};

    run_ranks(1, NULL, name_at_length, status);
    ck_assert_int_eq(status[0], TACIT_OK);
    ck_assert_int_eq(status[1], TACIT_ERR_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("onebit_adam");
    TCase *tests = tcase_create("onebit_adam");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, warmup_is_adam, 0, 4);
    tcase_add_loop_test(tests, frozen_by_hand, 0, 2);
    tcase_add_test(tests, correction);
    tcase_add_loop_test(tests, stages, 0, 4);
    tcase_add_loop_test(tests, moments_travel, 0, 2);
    tcase_add_test(tests, mean_of_moments);
    tcase_add_test(tests, clip);
    tcase_add_test(tests, small_second_moment);
    tcase_add_loop_test(tests, limit, 0, 4);
    tcase_add_loop_test(tests, mask, 0, 4);
    tcase_add_test(tests, silent_tensor);
    tcase_add_loop_test(tests, stability, 0, 2);
    tcase_add_loop_test(tests, resume, 0, 4);
    tcase_add_test(tests, back_to_the_warmup);
    tcase_add_test(tests, long_names);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
