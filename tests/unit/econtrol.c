/* SPDX-License-Identifier: Apache-2.0 */
/* EControl: worked examples to the bit, its invariants, its special cases, and the problems that it is made for. */
#include "tracker.h"

/* ---- Worked examples ---- */

static void constant_1(int rank, int step, size_t count, const float *x, float *g)
{
    static const float values[3] = {4, 3, 1};

    (void)rank;
    (void)step;
    (void)x;
    memcpy(g, values, count * sizeof *g);
}

/* One rank, one element a message, eta 1/2. */
START_TEST(worked_example)
{
    static const float e[4][3] = {{0, 3, 1}, {0, 1.5f, 2}, {0, 0, 1}, {0, 0, 0}};
    static const float h[4][3] = {{4, 0, 0}, {4, 4.5f, 0}, {4, 4.5f, 2}, {4, 3, 2}};
    track_t            track = {.spec = "topk:ratio=0.3+econtrol:eta=0.5",
                                .ranks = 1,
                                .steps = 4,
                                .count = 3,
                                .gradient = constant_1,
                                .op = (tacit_op_t)_i};
    float              sum[3] = {0};

    track_run(&track);
    same_floats(track.memory[THIRD][0], e[0], 12, "e");
    same_floats(track.memory[H][0], h[0], 12, "h");
    same_floats(track.out, h[0], 12, "out");
    for (size_t i = 0; i < 12; i++) {
        sum[i % 3] += track.out[i];
    }
    ck_assert(sum[0] == 16 && sum[1] == 12 && sum[2] == 4);
    track_free(&track);
}
END_TEST

/* The same inputs with the others, of which one never forgets and the other never remembers. */
START_TEST(worked_by_others)
{
    static const float sent[2][4][3] = {{{4, 0, 0}, {0, 6, 0}, {8, 0, 0}, {0, 6, 0}},
                                        {{4, 0, 0}, {0, 3, 0}, {0, 0, 1}, {0, 0, 0}}};
    static const float last[2][3] = {{4, 0, 4}, {4, 3, 1}}; /* e, h */
    track_t            track = {.spec = _i == 0 ? "topk:ratio=0.3+ef" : "topk:ratio=0.3+ef21",
                                .ranks = 1,
                                .steps = 4,
                                .count = 3,
                                .gradient = constant_1};

    track_run(&track);
    for (size_t i = 0; i < 12; i++) {
        const float before = _i == 0 || i < 3 ? 0 : track.out[i - 3];

        ck_assert(track.out[i] - before == sent[_i][i / 3][i % 3]);
    }
    same_floats(track.memory[H][0] + 9, last[_i], 3, "memory");
    track_free(&track);
}
END_TEST

static const float constant_2[2][4] = {{3, 1, -2, 0}, {1, 1, 0, -4}};

static void gradient_2(int rank, int step, size_t count, const float *x, float *g)
{
    (void)step;
    (void)x;
    memcpy(g, constant_2[rank % 2], count * sizeof *g);
}

static void gradient_2_swapped(int rank, int step, size_t count, const float *x, float *g)
{
    gradient_2(rank + 1, step, count, x, g);
}

/* Two ranks, or pairs of them, eta 1/4; what has come out and what is still owed make up, after every step, what went in:
   exactly. Which rank has which gradient is of no account. */
START_TEST(two_ranks)
{
    static const float hbar[5][4] = {{1.5f, 0, 0, -2},
                                     {2.125f, 0, -1.25f, -2},
                                     {2.125f, 1.5f, -1.25f, -2},
                                     {2.0625f, 1.5f, -1.125f, -2},
                                     {2.0625f, 1.25f, -1.125f, -2}};
    track_t            track = {.spec = "topk:ratio=0.25+econtrol:eta=0.25",
                                .ranks = 2 << _i,
                                .steps = 5,
                                .count = 4,
                                .gradient = gradient_2,
                                .op = TACIT_AVERAGE};
    track_t            other = track;
    float              sum[4] = {0};

    track_run(&track);
    same_floats(track.out, hbar[0], 20, "out");
    same_floats(track.memory[HBAR][1], hbar[0], 20, "hbar");
    for (size_t t = 0; t < 5; t++) {
        for (size_t i = 0; i < 4; i++) {
            const size_t at = 4 * t + i;

            sum[i] += track.out[at];
            ck_assert(2 * sum[i] + track.memory[THIRD][0][at] + track.memory[THIRD][1][at] ==
                      (float)(t + 1) * (constant_2[0][i] + constant_2[1][i]));
        }
    }
    other.gradient = gradient_2_swapped;
    track_run(&other);
    same_floats(other.out, track.out, 20, "swapped");
    same_floats(other.memory[H][0], track.memory[H][1], 20, "h of the other");
    same_floats(other.memory[THIRD][0], track.memory[THIRD][1], 20, "e of the other");
    track_free(&track);
    track_free(&other);
}
END_TEST

/* ---- Invariants ---- */

static void noisy(int rank, int step, size_t count, const float *x, float *g)
{
    session_normal(rank, step, count, g);
    for (size_t i = 0; i < count; i++) {
        g[i] = 0.125f * g[i] + x[i] + (rank % 2 == 0 ? 3 : -3);
    }
}

static const char *const forms[] = {
    "topk:ratio=0.1+econtrol",
    "randk:ratio=0.2+econtrol",
    "onebit:block=64+econtrol",
    "qsgd:bits=4,block=32+econtrol",
    "qsgd:bits=2+econtrol",
    "topk:ratio=0.1+econtrol:init=gradient",
    "onebit:block=64+econtrol:init=gradient",
    "onebit:block=0,own=coded+econtrol",
    "powersgd:rank=2+econtrol:init=gradient",
};

/* I1: hbar is the mean of all h; at an owner that encodes again, less what it keeps back. I2: e is the sum of what should have
   been applied less what was. I3: x - gamma mean e moves as if nothing were compressed, but for the owner's share. Every sum
   rounds a number below 10 some ten times a step: 50 x 10 x 10 x 2^-24 = 3e-4. */
START_TEST(invariants)
{
    enum { STEPS = 50, COUNT = 200 };
    static const int counts[] = {3, 2, 8};
    const double     bound = 3e-4, gamma = 0.0625;
    track_t          track = {.spec = forms[_i % (int)COUNT_OF(forms)],
                              .ranks = counts[_i / (int)COUNT_OF(forms)],
                              .steps = STEPS,
                              .count = COUNT,
                              .op = TACIT_AVERAGE,
                              .gamma = (float)gamma,
                              .gradient = noisy};
    float            g[COUNT], x[COUNT] = {0};
    double           owed[COUNT] = {0}, y[COUNT] = {0}, error[MOST_RANKS][COUNT] = {{0}};
    const bool       warm = strstr(track.spec, "gradient") != NULL;

    track_run(&track);
    for (int t = 0; t < STEPS; t++) {
        double mean_g[COUNT] = {0}, mean_h[COUNT] = {0}, mean_e[COUNT] = {0};
        float *hbar = track.memory[HBAR][0] + t * COUNT, *kept = track.owner + t * COUNT;

        for (int rank = 0; rank < track.ranks; rank++) {
            float *h = track.memory[H][rank] + t * COUNT, *e = track.memory[THIRD][rank] + t * COUNT;
            noisy(rank, t, COUNT, x, g);
            for (int i = 0; i < COUNT; i++) {
                error[rank][i] += (double)g[i] - (double)h[i];
                ck_assert_double_eq_tol(error[rank][i], (double)e[i], bound);
                mean_g[i] += (double)g[i] / track.ranks;
                mean_h[i] += (double)h[i] / track.ranks;
                mean_e[i] += (double)e[i] / track.ranks;
            }
        }
        for (int i = 0; i < COUNT; i++) {
            ck_assert_double_eq_tol((double)hbar[i], mean_h[i] - (double)kept[i], bound);
            ck_assert(track.out[t * COUNT + i] == hbar[i]);
            owed[i] += (double)kept[i];
            y[i] -= gamma * mean_g[i];
            ck_assert_double_eq_tol(y[i], (double)track.x[t * COUNT + i] - gamma * (mean_e[i] + owed[i]), bound);
        }
        ck_assert(!warm || t != 0 || largest_of(track.memory[THIRD][0], COUNT) == 0);
        memcpy(x, track.x + t * COUNT, sizeof x);
    }
    track_free(&track);
}
END_TEST

/* I5: with nothing lost, h is the gradient and e is nothing, always. */
START_TEST(identity)
{
    track_t track = {.spec = "none+econtrol:eta=0.5", .ranks = 3, .steps = 5, .count = 50, .op = TACIT_AVERAGE};
    float   g[50];

    track_run(&track);
    for (int t = 0; t < track.steps; t++) {
        for (int rank = 0; rank < track.ranks; rank++) {
            session_normal(rank, t, 50, g);
            for (size_t i = 0; i < 50; i++) { /* in - h and h + d round */
                ck_assert_double_eq_tol((double)track.memory[H][rank][50 * t + (int)i], (double)g[i], 5e-6);
                ck_assert_double_eq_tol((double)track.memory[THIRD][rank][50 * t + (int)i], 0, 5e-6);
            }
        }
    }
    track_free(&track);
}
END_TEST

static void nothing(int rank, int step, size_t count, const float *x, float *g)
{
    (void)rank;
    (void)step;
    (void)x;
    memset(g, 0, count * sizeof *g);
}

/* I8: nothing stays nothing. */
START_TEST(zeros)
{
    track_t track = {.spec = forms[_i], .ranks = 3, .steps = 4, .count = 100, .gradient = nothing};

    track_run(&track);
    ck_assert(largest_of(track.out, 400) == 0 && largest_of(track.owner, 400) == 0);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert(largest_of(track.memory[H][rank], 400) == 0 && largest_of(track.memory[THIRD][rank], 400) == 0);
    }
    track_free(&track);
}
END_TEST

/* ---- Special cases, on the table itself ---- */

/* With eta = 0 (here: not yet settled), messages and trackers are EF21's. */
START_TEST(without_eta)
{
    tacit_spec_t  control = spec_of("topk+econtrol"), plain = spec_of("topk+ef21");
    float         memory[2][3][8] = {{{0}}}, a[2][8], d[8], g[8];
    tacit_state_t states[2] = {{.config = control.feedback_config, .count = 8}, {.config = plain.feedback_config, .count = 8}};

    for (int which = 0; which < 2; which++) {
        for (int array = 0; array < 3; array++) {
            states[which].now[array] = states[which].next[array] = memory[which][array];
        }
    }
    for (int step = 0; step < 20; step++) {
        session_normal(0, step, 8, g);
        control.feedback->before(&states[0], 0, 8, g, a[0]);
        plain.feedback->before(&states[1], 0, 8, g, a[1]);
        same_floats(a[0], a[1], 8, "message");
        memset(d, 0, sizeof d);
        d[step % 8] = a[0][step % 8];
        control.feedback->after(&states[0], 0, 8, g, a[0], d);
        plain.feedback->after(&states[1], 0, 8, g, a[1], d);
        same_floats(memory[0][H], memory[1][H], 8, "h");
    }
    ck_assert(largest_of(memory[0][THIRD], 8) > 0 && largest_of(memory[1][THIRD], 8) == 0);
    tacit__spec_release(&control);
    tacit__spec_release(&plain);
}
END_TEST

/* With eta = 1 and h held at 0, messages and the error are those of plain error feedback. */
START_TEST(without_tracker)
{
    tacit_spec_t  control = spec_of("topk+econtrol:eta=1"), plain = spec_of("topk+ef");
    float         memory[3][8] = {{0}}, residual[8] = {0}, a[2][8], d[8], g[8];
    tacit_state_t one = {.config = control.feedback_config, .count = 8}, other = {.config = plain.feedback_config, .count = 8};

    for (int array = 0; array < 3; array++) {
        one.now[array] = one.next[array] = memory[array];
    }
    other.now[0] = other.next[0] = residual;
    for (int step = 0; step < 20; step++) {
        for (int i = 0; i < 8; i++) { /* small whole numbers: every sum is exact */
            g[i] = (float)((i * 5 + step * 3) % 11 - 5);
        }
        control.feedback->before(&one, 0, 8, g, a[0]);
        plain.feedback->before(&other, 0, 8, g, a[1]);
        same_floats(a[0], a[1], 8, "message");
        memset(d, 0, sizeof d);
        d[step % 8] = a[0][step % 8];
        control.feedback->after(&one, 0, 8, g, a[0], d);
        plain.feedback->after(&other, 0, 8, g, a[1], d);
        same_floats(memory[THIRD], residual, 8, "error");
        memset(memory[H], 0, sizeof memory[H]);
    }
    tacit__spec_release(&control);
    tacit__spec_release(&plain);
}
END_TEST

/* What making a slot of 4096 elements warns of, "" if nothing. */
static const char *warning_of(const char *text)
{
    static char         warning[200];
    tacit_spec_t        spec = spec_of(text);
    tacit_slot_config_t tensor = {.count = 4096, .ndim = 2, .shape = {64, 64}};
    double              factor;

    (void)spec.compressor->quality(spec.compressor_config, tensor.count, &factor);
    warning[0] = '\0';
    spec.feedback->settle(spec.feedback_config,
                          spec.compressor->delta != NULL ? spec.compressor->delta(spec.compressor_config, &tensor) : 1 - factor,
                          warning, sizeof warning);
    tacit__spec_release(&spec);
    return warning;
}

static double settled(const char *text, size_t count)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    double              eta;

    tensor.count = count;
    tensor.spec = text;
    ck_assert_int_eq(tacit_codec_create("gradient", &tensor, NULL, 0, 1, &codec), TACIT_OK);
    eta = strtod(strstr(codec->spec.canonical, "eta=") + 4, NULL);
    ck_assert_double_eq(eta, 0);
    memcpy(&eta, (const char *)codec->spec.feedback_config + tacit__param_find(codec->feedback->params, "eta", 3)->offset,
           sizeof eta);
    tacit_codec_destroy(codec);
    return eta;
}

/* What is not given is a quarter of what the compressor gets across. */
START_TEST(automatic_eta)
{
    ck_assert_double_eq_tol(settled("topk:ratio=0.01+econtrol", 1000), 0.0025, 1e-9);
    ck_assert_double_eq_tol(settled("topk:ratio=0.01+econtrol", 10), 0.025, 1e-9); /* one of ten */
    ck_assert_double_eq(settled("none+econtrol", 10), 0.25);
    ck_assert_double_gt(settled("onebit+econtrol", 4096), 0.1);
    ck_assert_double_eq_tol(settled("qsgd:bits=2+econtrol", 4096), (1 - 0.298) / 4, 0.001);
    ck_assert_double_eq_tol(settled("qsgd:bits=3+econtrol", 4096), (1 - 0.0545) / 4, 0.001);
}
END_TEST

/* A warning where more is fed back than gets across, and nowhere else. */
START_TEST(warnings)
{
    static const char *const good[] = {"topk:ratio=0.01+econtrol:eta=0.01",
                                       "topk:ratio=0.01+econtrol",
                                       "randk:ratio=0.5+econtrol:eta=0.5",
                                       "none+econtrol:eta=1",
                                       "onebit+econtrol:eta=0.5",
                                       "qsgd:bits=2+econtrol",
                                       "qsgd:bits=2+econtrol:eta=0.7",
                                       "qsgd:bits=3+econtrol",
                                       "fp8+econtrol",
                                       "powersgd+econtrol",
                                       "rotq:bits=1+econtrol",
                                       "qsgd:bits=3,block=96,rounding=stochastic+econtrol"};
    static const char *const bad[] = {"topk:ratio=0.01+econtrol:eta=0.02", "qsgd:bits=2+econtrol:eta=0.71",
                                      "onebit+econtrol:eta=0.65"};

    for (size_t i = 0; i < COUNT_OF(good); i++) {
        ck_assert_msg(*warning_of(good[i]) == '\0', "%s: %s", good[i], warning_of(good[i]));
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        ck_assert_ptr_nonnull(strstr(warning_of(bad[i]), "use eta="));
    }
}
END_TEST

/* ---- Problems ---- */

/* The figures of P0: what is compressed without memory grows by 1 + 11 gamma / 6 a step; with any of the three it converges. */
START_TEST(diverging)
{
    static const double expected[4][2] = {{0}, {1.3e-5, 4.4e-21}, {1.2e-5, 4.2e-21}, {1.4e-5, 7.7e-21}};
    reference_t         plain = problem_0(PLAIN);

    ck_assert_double_eq_tol(sqrt(reference_run(&plain, 100, NULL)) / 10.655077508250667, 1, 1e-12);
    ck_assert_double_eq_tol(sqrt(reference_run(&plain, 900, NULL)) / 1.3e8, 1, 0.05);
    for (int method = EC; method <= ECONTROL; method++) {
        reference_t r = problem_0((method_t)method);

        ck_assert_double_eq_tol(sqrt(reference_run(&r, 1000, NULL)) / expected[method][0], 1, 0.05);
        ck_assert_double_eq_tol(sqrt(reference_run(&r, 3000, NULL)) / expected[method][1], 1, 0.05);
    }
}
END_TEST

/* P1: error feedback stalls, the trackers arrive. |x - optimum|^2 after 100, 1000 and 4000 steps; 0: not told. What is below
   1e-28 is roundings. */
static const struct {
    method_t    method;
    const char *spec;
    double      gamma, eta, expected[3];
} figures[] = {
    {PLAIN, "topk:ratio=0.125", 0.1, 0, {4.2, 4.3, 4.0}},
    {PLAIN, "topk:ratio=0.125", 0.01, 0, {6.5, 4.7, 4.5}},
    {EC, "topk:ratio=0.125+ef", 0.1, 0, {13.0, 18.7, 9.2}},
    {EC, "topk:ratio=0.125+ef", 0.03, 0, {1.01, 0.62, 0.83}},
    {EC, "topk:ratio=0.125+ef", 0.01, 0, {1.49, 0.024, 0.17}},
    {EF21, "topk:ratio=0.125+ef21:init=gradient", 0.1, 0, {2.7e-9, 6e-30, 6e-30}},
    {ECONTROL, "topk:ratio=0.125+econtrol:init=gradient,eta=0.125", 0.1, 0.125, {1.5e-7, 6e-30, 6e-30}},
    {ECONTROL, "topk:ratio=0.125+econtrol:init=gradient,eta=0.06", 0.1, 0.06, {9.0e-6, 9e-30, 9e-30}},
    {ECONTROL, "topk:ratio=0.125+econtrol:init=gradient,eta=0.03", 0.1, 0.03, {1.5e-4, 1e-27, 9e-30}},
    {ECONTROL, "topk:ratio=0.125+econtrol:init=gradient,eta=0.01", 0.1, 0.01, {4.1e-4, 6.0e-12, 9e-30}},
    {ECONTROL, "topk:ratio=0.125+econtrol:init=gradient,eta=0.0003125", 0.1, 0.125 / 400, {0, 0, 1.8e-7}},
    {ECONTROL, "topk:ratio=0.125+econtrol:init=gradient,eta=0.5", 0.1, 0.5, {3.5e7, 0, 0}},
};

/* The mean of |e|^2 over ranks. */
static double error_of(const reference_t *r)
{
    double sum = 0;

    for (int rank = 0; rank < r->ranks; rank++) {
        for (size_t i = 0; i < r->count; i++) {
            sum += r->e[rank][i] * r->e[rank][i];
        }
    }
    return sum / r->ranks;
}

START_TEST(stalling)
{
    static const int steps[] = {100, 1000, 4000};
    reference_t      r = problem_1(figures[_i].method, figures[_i].gamma, figures[_i].eta);

    for (int t = 0; t < 3; t++) {
        const double found = reference_run(&r, steps[t] - (t > 0 ? steps[t - 1] : 0), optimum_p1);
        const double expected = figures[_i].expected[t];

        if (expected > 1e-28) {
            ck_assert_double_eq_tol(found / expected, 1, 0.05);
        } else if (expected > 0) {
            ck_assert_double_lt(found, 2 * expected);
        }
        if (r.method == EC) { /* what is kept back neither falls nor depends on the rate */
            ck_assert(error_of(&r) > 1.35e4 && error_of(&r) < 1.75e4);
        }
    }
    if (r.eta >= 0.01 && r.eta <= 0.125) {
        ck_assert(error_of(&r) < 1e-25);
    }
}
END_TEST

/* The library in float32 has the same figures, where neither roundings show nor what grows without limit magnifies them. */
START_TEST(stalling_in_float32)
{
    track_t track = {.spec = figures[_i].spec,
                     .ranks = 4,
                     .steps = 100,
                     .count = 8,
                     .gamma = (float)figures[_i].gamma,
                     .op = TACIT_AVERAGE,
                     .gradient = float_p1};

    if (figures[_i].expected[0] < 1e-5 || figures[_i].expected[0] > 1e5) {
        return;
    }
    track_run(&track);
    ck_assert_double_eq_tol(track_distance(&track, 99, optimum_p1) / figures[_i].expected[0], 1, 0.05);
    track_free(&track);
}
END_TEST

/* Four times delta: it grows without limit. */
START_TEST(too_much_fed_back)
{
    reference_t wild = problem_1(ECONTROL, 0.1, 0.5);

    ck_assert_double_gt(reference_run(&wild, 198, optimum_p1), 1e18);
    ck_assert_double_gt(reference_run(&wild, 802, optimum_p1), 1e100);
}
END_TEST

/* Trackers that begin at the gradient, at nothing, or at what a first message tells: the first is a decade ahead. */
START_TEST(beginnings)
{
    static const double expected[3] = {1.5e-20, 1.2e-19, 1.1e-19};

    for (int start = 0; start < 3; start++) {
        reference_t r = problem_1(ECONTROL, 0.1, 1.0 / 16);

        for (int rank = 0; rank < r.ranks && start > 0; rank++) {
            double g[MOST_DIMENSIONS];

            gradient_p1(rank, r.count, r.x, g);
            keep_largest(r.count, g, r.h[rank]);
            memset(r.h[rank], 0, start == 1 ? sizeof r.h[rank] : 0);
        }
        ck_assert_double_eq_tol(reference_run(&r, 400, optimum_p1) / expected[start], 1, 0.05);
    }
}
END_TEST

static void first_iterates(const track_t *track)
{
    static const double x[3][8] = {{-0.025, 0.1, 0.05, 0, 0.3, 0.075, 0.025, -0.025},
                                   {-0.05, 0.2, 0.1, 0, 0.57, 0.15, 0.05, -0.05},
                                   {-0.075, 0.3, 0.15, 0, 0.813, 0.225, 0.075, -0.075}};

    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < 8; i++) {
            ck_assert_double_eq_tol((double)track->x[8 * t + i], x[t][i], 1e-6);
        }
    }
}

/* The library, in float32. Gradients are about 12, where a float32 has steps of 2^-20; trackers are off by some of these for
   good, and so is x: 8 (5 x 2^-20)^2 = 2e-10. On P0 gradients are about 8. */
START_TEST(in_float32)
{
    track_t p0 = {.spec = "topk:ratio=0.3+econtrol:eta=0.08,init=gradient",
                  .ranks = 3,
                  .steps = 2500,
                  .count = 3,
                  .start = 1,
                  .gamma = 0.01f,
                  .op = TACIT_AVERAGE,
                  .gradient = float_p0};
    track_t p1 = {.spec = "topk:ratio=0.125+econtrol:eta=0.0625,init=gradient",
                  .ranks = 4,
                  .steps = 1500,
                  .count = 8,
                  .gamma = 0.1f,
                  .op = TACIT_AVERAGE,
                  .gradient = float_p1};
    track_t zero = p1;

    track_run(&p0);
    ck_assert_double_lt(track_distance(&p0, p0.steps - 1, NULL), 1e-9);
    track_run(&p1);
    first_iterates(&p1);
    ck_assert_double_lt(track_distance(&p1, p1.steps - 1, optimum_p1), 1e-9);
    zero.spec = "topk:ratio=0.125+econtrol:eta=0.0625";
    track_run(&zero);
    ck_assert_double_lt(track_distance(&zero, zero.steps - 1, optimum_p1), 1e-9);
    track_free(&p0);
    track_free(&p1);
    track_free(&zero);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("econtrol");
    TCase *examples = tcase_create("examples"), *invariant = tcase_create("invariants"), *problems = tcase_create("problems");

    tcase_add_loop_test(examples, worked_example, 0, 2);
    tcase_add_loop_test(examples, worked_by_others, 0, 2);
    tcase_add_loop_test(examples, two_ranks, 0, 3);
    tcase_add_test(examples, without_eta);
    tcase_add_test(examples, without_tracker);
    tcase_add_test(examples, automatic_eta);
    tcase_add_test(examples, warnings);
    tcase_add_loop_test(invariant, invariants, 0, 3 * (int)COUNT_OF(forms));
    tcase_add_test(invariant, identity);
    tcase_add_loop_test(invariant, zeros, 0, (int)COUNT_OF(forms));
    tcase_add_test(problems, diverging);
    tcase_add_loop_test(problems, stalling, 0, (int)COUNT_OF(figures));
    tcase_add_loop_test(problems, stalling_in_float32, 0, (int)COUNT_OF(figures));
    tcase_add_test(problems, too_much_fed_back);
    tcase_add_test(problems, beginnings);
    tcase_add_test(problems, in_float32);
    suite_add_tcase(suite, examples);
    suite_add_tcase(suite, invariant);
    suite_add_tcase(suite, problems);
    tcase_set_timeout(problems, 120);
    return harness_main(suite);
}
