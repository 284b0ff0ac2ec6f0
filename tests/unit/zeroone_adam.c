/* SPDX-License-Identifier: Apache-2.0 */
/* `zeroone-adam`: the growing intervals, both stages against plain loops, steps without messages, resuming. */
#include "descent.h"

enum { M, V };

static const int rank_counts[] = {2, 3, 4, 8};

static descent_t run, other; /* too large for the stack */

typedef struct moments {
    float    m[DESCENT_MOST_STEPS][DESCENT_MOST]; /* rank 0's of the first tensor */
    uint64_t m_hash[MOST_RANKS][DESCENT_MOST_STEPS], v_hash[MOST_RANKS][DESCENT_MOST_STEPS], calls[DESCENT_MOST_STEPS];
    int      together[MOST_RANKS][DESCENT_MOST_STEPS];
} moments_t;

static moments_t moments;

static void watch(tacit_optim_t *optim, int rank, int step, void *arg)
{
    const tacit_tensor_t *tensor = &optim->tensors[0];

    (void)arg;
    moments.m_hash[rank][step] = harness_hash(tensor->array[M], tensor->count * sizeof(float));
    moments.together[rank][step] = tacit_optim_together(optim);
    moments.v_hash[rank][step] = harness_hash(tensor->array[V], tensor->count * sizeof(float));
    if (rank == 0) {
        memcpy(moments.m[step], tensor->array[M], tensor->count * sizeof(float));
        moments.calls[step] = tensor->slot->counters.calls;
    }
}

/* ---- The second moment's intervals ---- */

/* After every `scaler` updates the interval doubles: 1, 2, 4 ...; an update is at its multiples. In between, gradients travel in
   the caller's slot. */
START_TEST(intervals)
{
    static const char *const optimizers[] = {"zeroone-adam:variance-scaler=1", "zeroone-adam:variance-scaler=2"};
    static const char *const updates[] = {" 1 2 4 8 16", " 1 2 4 6 8 12 16 24"};
    char                     found[100] = "";

    run = (descent_t){.optimizer = optimizers[_i], .specs = {"onebit+ef", "none"}, .counts = {70, 3}, .ranks = 2, .steps = 25};
    run.watch = watch;
    descent_run(&run);
    for (int step = 0; step < 25; step++) {
        if (step == 0 || moments.v_hash[0][step] != moments.v_hash[0][step - 1]) {
            snprintf(found + strlen(found), sizeof found - strlen(found), " %d", step + 1);
        } else {
            ck_assert_uint_eq(moments.calls[step], moments.calls[step - 1] + 1);
        }
        ck_assert_uint_eq(moments.m_hash[1][step], moments.m_hash[0][step]);
    }
    ck_assert_str_eq(found, updates[_i]);
}
END_TEST

/* Where every step is an update, it is Adam, bit for bit. */
START_TEST(is_adam)
{
    run = (descent_t){.optimizer = "adam:weight-decay=0.01,clip=3", .specs = {"none", "none"}, .counts = {129, 7}};
    run.ranks = rank_counts[_i];
    run.steps = 10;
    other = run;
    other.optimizer = "zeroone-adam:variance-scaler=1000,warmup-spec=none,weight-decay=0.01,clip=3";
    descent_run(&run);
    descent_run(&other);
    descents_equal(&run, &other, 10);
}
END_TEST

/* On one rank too, the first moment takes every gradient in. */
START_TEST(one_rank)
{
    float g[DESCENT_MOST];

    run =
        (descent_t){.optimizer = "zeroone-adam:variance-scaler=1,warmup-spec=none", .specs = {"none", "none"}, .counts = {50, 3}};
    run.ranks = 1;
    run.steps = 8;
    run.watch = watch;
    descent_run(&run);
    for (int step = 1; step < 8; step++) {
        descent_normal(0, step, 0, 50, g);
        for (size_t i = 0; i < 50; i++) {
            const double expected = 0.9 * (double)moments.m[step - 1][i] + 0.1 * (double)g[i];

            ck_assert_msg(fabs((double)moments.m[step][i] - expected) <=
                              4 * (double)FLT_EPSILON * (fabs((double)moments.m[step - 1][i]) + fabs((double)g[i])),
                          "step %d, element %zu: %.9g, not %.9g", step, i, (double)moments.m[step][i], expected);
        }
    }
}
END_TEST

/* ---- After the freezing ---- */

/* A message a step is what onebit-adam does, but for the rounding of rate x moment instead of the moment: some of the update,
   which is about the rate. */
START_TEST(is_onebit_adam)
{
    run = (descent_t){.optimizer = "onebit-adam:freeze=4,warmup-spec=none,weight-decay=0.01", .specs = {"none", "none"}};
    run.counts[0] = 129;
    run.counts[1] = 7;
    run.ranks = rank_counts[_i];
    run.steps = 12;
    other = run;
    other.optimizer = "zeroone-adam:freeze=4,warmup-spec=none,weight-decay=0.01";
    descent_run(&run);
    descent_run(&other);
    for (int step = 0; step < 12; step++) {
        for (size_t i = 0; i < 129; i++) {
            const double bound = 64 * (double)FLT_EPSILON * (1 + step);

            ck_assert_msg(fabs((double)(run.values[step][0][i] - other.values[step][0][i])) <= bound,
                          "step %d, element %zu: %g, %g", step, i, (double)run.values[step][0][i],
                          (double)other.values[step][0][i]);
        }
    }
}
END_TEST

/* Frozen after two steps, three local ones are two without a message and one with: values then agree again, bit for bit, and so
   do the moments. */
START_TEST(meets_again)
{
    run = (descent_t){.optimizer = "zeroone-adam:freeze=2,local-steps=3,local-scaler=1,weight-decay=0.01,clip=1",
                      .specs = {"onebit+ef", "topk:ratio=0.1+ef"},
                      .counts = {300, 40},
                      .ranks = rank_counts[_i],
                      .steps = 13,
                      .watch = watch};
    for (int step = 3; step < 13; step++) { /* at the first frozen step they meet, then at every third */
        run.apart[step] = step % 3 != 2;
    }
    descent_run(&run);
    for (int step = 2; step < 13; step++) {
        ck_assert_msg((run.hashes[1][step] == run.hashes[0][step]) == !run.apart[step], "step %d", step);
        ck_assert_msg((moments.m_hash[1][step] == moments.m_hash[0][step]) == !run.apart[step], "m at step %d", step);
        ck_assert_int_eq(moments.together[0][step], !run.apart[step]);
        ck_assert_int_eq(moments.together[1][step], !run.apart[step]);
        ck_assert_uint_eq(moments.calls[step], moments.calls[step - 1] + !run.apart[step]);
        ck_assert_uint_eq(moments.v_hash[0][step], moments.v_hash[0][1]);
    }
}
END_TEST

/* The algorithm in float64, for one element of three ranks: each goes its own way by its own m, and when they meet, from where
   they met last, by the mean of what they have added up; m becomes the mean m on the way. No update is above `most` rates. */
typedef struct walk {
    double m[3], sum[3], w[3], v, base, rates, most;
} walk_t;

static void walk_alone(walk_t *walk, int step, const double g[3], double rate)
{
    const double gain = rate / (1 - pow(0.9, step + 1)), root = sqrt(walk->v / (1 - pow(0.999, 2))) + 1e-8;
    const double most = walk->most * root * (1 - pow(0.9, step + 1));

    walk->rates += gain;
    for (int rank = 0; rank < 3; rank++) {
        walk->m[rank] = fmax(-most, fmin(most, 0.9 * walk->m[rank] + 0.1 * g[rank]));
        walk->sum[rank] += gain * walk->m[rank];
        walk->w[rank] -= gain * walk->m[rank] / root;
    }
}

static void walk_together(walk_t *walk)
{
    const double mean = (walk->sum[0] + walk->sum[1] + walk->sum[2]) / 3, root = sqrt(walk->v / (1 - pow(0.999, 2))) + 1e-8;

    walk->base -= mean / root;
    for (int rank = 0; rank < 3; rank++) {
        walk->m[rank] = mean / walk->rates;
        walk->w[rank] = walk->base;
        walk->sum[rank] = 0;
    }
    walk->rates = 0;
}

START_TEST(local_steps)
{
    static const char *const optimizers[] = {"zeroone-adam:freeze=2,warmup-spec=none,local-steps=3,local-scaler=1",
                                             "zeroone-adam:freeze=2,warmup-spec=none,local-steps=3,local-scaler=1,limit=none"};
    static walk_t            walks[60];
    float                    g[3][60];

    memset(walks, 0, sizeof walks);
    run = (descent_t){.optimizer = optimizers[_i], .specs = {"none", "none"}, .counts = {60, 1}, .ranks = 3, .steps = 12};
    for (int step = 3; step < 12; step++) {
        run.apart[step] = step % 3 != 2;
    }
    for (int step = 0; step < 12; step++) {
        run.rates[step] = 0.1 / (1 + step);
    }
    descent_run(&run);
    for (int step = 0; step < 12; step++) {
        for (int rank = 0; rank < 3; rank++) {
            descent_normal(rank, step, 0, 60, g[rank]);
        }
        for (size_t i = 0; i < 60; i++) {
            walk_t      *walk = &walks[i];
            const double all[] = {(double)g[0][i], (double)g[1][i], (double)g[2][i]}, mean = (all[0] + all[1] + all[2]) / 3;

            if (step < 2) {
                walk->v = 0.999 * walk->v + 0.001 * mean * mean;
                for (int rank = 0; rank < 3; rank++) {
                    walk->m[rank] = 0.9 * walk->m[rank] + 0.1 * mean;
                    walk->w[rank] -= run.rates[step] * walk->m[rank] / (1 - pow(0.9, step + 1)) /
                                     (sqrt(walk->v / (1 - pow(0.999, step + 1))) + 1e-8);
                }
                walk->base = walk->w[0];
            } else {
                walk->most = _i == 0 ? 0.1 / sqrt(0.001) : INFINITY;
                walk_alone(walk, step, all, run.rates[step]);
                if (!run.apart[step]) {
                    walk_together(walk);
                }
            }
            /* Updates are quotients by small v: as many roundings of w as there were steps, times the largest |w| */
            ck_assert_msg(fabs(walk->w[0] - (double)run.values[step][0][i]) <=
                              32 * (double)FLT_EPSILON * (1 + step) * (1 + fabs(walk->w[0])),
                          "step %d, element %zu: %.9g, not %.9g", step, i, (double)run.values[step][0][i], walk->w[0]);
        }
    }
}
END_TEST

static void by_hand(int rank, int step, int tensor, size_t count, float *g)
{
    static const float values[][2] = {{1, 1}, {1, 1}, {4, 3}, {0, 0}};

    (void)rank;
    for (size_t i = 0; i < count; i++) {
        g[i] = tensor == 0 ? values[step][i] : 0.0f;
    }
}

/* Dense steps make m (0.75, 0.75). Of (4, 3) the 4 is sent, 3 kept back: m is (2.375, 0.375). Frozen, at rate 1 and with half of
   m kept, (1.1875, 0.1875) + 3/2 of what was kept back is to be sent: 1.6875 goes first. */
START_TEST(converts_memory)
{
    run = (descent_t){.optimizer = "zeroone-adam:variance-scaler=1,freeze=3,beta1=0.5,bias-correction=off,limit=none",
                      .specs = {"topk:ratio=0.5+ef", "none"},
                      .counts = {2, 1},
                      .ranks = 2,
                      .steps = 4,
                      .rate = 1,
                      .input = by_hand,
                      .watch = watch};
    descent_run(&run);
    ck_assert_msg(fabsf(moments.m[2][0] - 2.375f) < 1e-6f && moments.m[2][1] == 0.375f, "%g %g", (double)moments.m[2][0],
                  (double)moments.m[2][1]);
    ck_assert_msg(moments.m[3][0] == 0.0f && fabsf(moments.m[3][1] - 1.6875f) < 1e-6f, "%g %g", (double)moments.m[3][0],
                  (double)moments.m[3][1]);
}
END_TEST

static void spike(int rank, int step, int tensor, size_t count, float *g)
{
    (void)tensor;
    for (size_t i = 0; i < count; i++) {
        g[i] = step < 2 ? 1.0f : rank == 0 ? 1000.0f : 0.0f;
    }
}

/* Between updates of v, of 1 after two steps, at the third: m is 0.19; rank 0's 100 is cut to 2 of it, and the mean of 2 and 0
   is added to 0.9 m. Two is 0.1 / sqrt(1 - beta2), and a first moment of one gradient is a tenth of it. */
START_TEST(limit)
{
    run = (descent_t){.optimizer = "zeroone-adam:variance-scaler=1,beta2=0.9975,warmup-spec=none",
                      .specs = {"none", "none"},
                      .counts = {2, 1},
                      .ranks = 2,
                      .steps = 3,
                      .input = spike,
                      .watch = watch};
    descent_run(&run);
    ck_assert_msg(fabs((double)moments.m[2][0] - (0.9 * 0.19 + (1 - pow(0.9, 3)) * 1)) < 1e-5, "%g", (double)moments.m[2][0]);
}
END_TEST

/* A schedule of rates with a zero in it: nothing travels, nothing moves, at the freeze (step 3) or later, and what has been kept
   back is converted by the first rate that is not 0. */
START_TEST(rate_zero)
{
    const int zero = _i;

    run = (descent_t){.optimizer = "zeroone-adam:variance-scaler=1,freeze=3,weight-decay=0.01",
                      .specs = {"onebit+ef", "topk:ratio=0.1+ef"},
                      .counts = {300, 40},
                      .ranks = 3,
                      .steps = 9,
                      .watch = watch};
    run.rates[zero] = -1;
    run.rates[zero + 1] = -1;
    descent_run(&run);
    for (int step = zero; step < zero + 2; step++) {
        ck_assert_uint_eq(run.hashes[0][step], run.hashes[0][zero - 1]);
        ck_assert_uint_eq(moments.m_hash[0][step], moments.m_hash[0][zero - 1]);
        ck_assert_uint_eq(moments.calls[step], moments.calls[zero - 1]);
    }
    for (int step = 3; step < 9; step++) {
        const bool idle = step == zero || step == zero + 1;

        ck_assert_uint_eq(moments.calls[step], moments.calls[step - 1] + !idle);
        for (size_t i = 0; i < 300; i++) { /* updates are about the rate, unless a residual is taken for one */
            ck_assert_msg(fabsf(run.values[step][0][i] - run.values[step - 1][0][i]) < 1.0f, "step %d, element %zu", step, i);
        }
    }
}
END_TEST

/* Also where a step would be one without a message: it does not count, and ranks stay together. */
START_TEST(rate_zero_apart)
{
    run = (descent_t){.optimizer = "zeroone-adam:freeze=2,local-steps=3,local-scaler=1",
                      .specs = {"onebit+ef", "none"},
                      .counts = {300, 40},
                      .ranks = 3,
                      .steps = 9,
                      .watch = watch};
    for (int step = 3; step < 6; step++) { /* the message comes at step 8 */
        run.rates[step] = -1;
    }
    run.apart[6] = run.apart[7] = true;
    descent_run(&run);
    for (int step = 3; step < 6; step++) {
        ck_assert_uint_eq(run.hashes[0][step], run.hashes[0][2]);
        ck_assert_uint_eq(moments.m_hash[0][step], moments.m_hash[0][2]);
        ck_assert_uint_eq(moments.m_hash[1][step], moments.m_hash[0][2]);
        ck_assert_int_eq(moments.together[0][step], 1);
    }
    ck_assert_uint_ne(run.hashes[1][6], run.hashes[0][6]);
    ck_assert_uint_eq(moments.calls[7], moments.calls[2]);
    ck_assert_uint_eq(moments.calls[8], moments.calls[2] + 1);
    ck_assert_uint_eq(moments.m_hash[1][8], moments.m_hash[0][8]);
}
END_TEST

/* Whatever the rates, a training that goes on until ranks are together ends: after two steps, where the third has the message.
   The rate of the first step without one, and of all that follow; of 7e-38 a single step makes 2e-38 of a gradient, and three on
   average 7e-39, which is no normal float. */
START_TEST(never_stays_apart)
{
    static const double rates[][2] = {{-1, -1},       {1e-300, 1e-300}, {1e-45, 1e-45}, {1e-39, 1e-39}, {7e-38, -1},
                                      {7e-38, 7e-38}, {1e-36, -1},      {1e-30, 1e-40}, {0.1, -1},      {1e-38, 0.1}};
    int                 apart = 0;

    run = (descent_t){.optimizer = "zeroone-adam:freeze=2,local-steps=3,local-scaler=1",
                      .specs = {"onebit+ef", "none"},
                      .counts = {300, 40},
                      .ranks = 2,
                      .steps = 14,
                      .watch = watch};
    for (int step = 3; step < run.steps; step++) {
        run.rates[step] = rates[_i][step > 3];
        run.apart[step] = true;
    }
    descent_run(&run);
    for (int step = 0; step < run.steps; step++) {
        ck_assert_int_eq(moments.together[1][step], moments.together[0][step]);
        apart = moments.together[0][step] ? 0 : apart + 1;
        ck_assert_msg(apart < 3, "rates %g, %g: apart for %d steps", rates[_i][0], rates[_i][1], apart);
        ck_assert(apart > 0 ||
                  (run.hashes[1][step] == run.hashes[0][step] && moments.m_hash[1][step] == moments.m_hash[0][step]));
        for (size_t i = 0; i < 300; i++) {
            ck_assert(isfinite(run.values[step][0][i]));
        }
    }
}
END_TEST

/* ---- Clipping and silent elements ---- */

static bool each;  /* clip-scope=tensor */
static int  dense; /* steps whose gradients are not compressed */

/* What the optimizer is to make of descent_equal() with clip=1: before v is frozen, in three steps, and afterwards. */
static void clipped(int rank, int step, int tensor, size_t count, float *g)
{
    float  beside[DESCENT_MOST];
    double squares = 0.0;

    descent_equal(rank, step, tensor, count, g);
    descent_equal(rank, step, 1 - tensor, run.counts[1 - tensor], beside);
    for (size_t i = 0; i < count; i++) {
        squares += (double)g[i] * (double)g[i];
    }
    for (size_t i = 0; !each && i < run.counts[1 - tensor]; i++) {
        squares += (double)beside[i] * (double)beside[i];
    }
    for (size_t i = 0; i < count; i++) {
        g[i] *= (float)fmin(1.0, (step < dense ? 1.0 : sqrt(run.ranks)) / (sqrt(squares) + 1e-6));
    }
}

/* Dense, compressed and frozen steps: as without clipping, of gradients that are clipped already. */
START_TEST(clips)
{
    static const char *const optimizers[][2] = {
        {"zeroone-adam:variance-scaler=1,freeze=3,warmup-spec=none",
         "zeroone-adam:variance-scaler=1,freeze=3,warmup-spec=none,clip=1"},
        {"onebit-adam:freeze=3,warmup-spec=none", "onebit-adam:freeze=3,warmup-spec=none,clip=1"}};
    char optimizer[100];

    each = _i % 2 != 0;
    dense = _i / 2 == 0 ? 2 : 3;
    snprintf(optimizer, sizeof optimizer, "%s%s", optimizers[_i / 2][1], each ? ",clip-scope=tensor" : "");
    run = (descent_t){.optimizer = optimizer, .specs = {"none", "none"}, .counts = {130, 7}, .ranks = 2, .steps = 8};
    run.input = descent_equal;
    other = run;
    other.optimizer = optimizers[_i / 2][0];
    other.input = clipped;
    descent_run(&run);
    descent_run(&other);
    for (int step = 0; step < 8; step++) {
        for (int t = 0; t < 2; t++) {
            for (size_t i = 0; i < run.counts[t]; i++) { /* values are sums of updates, each about the rate of 0.1 */
                ck_assert_msg(fabsf(run.values[step][t][i] - other.values[step][t][i]) <=
                                  1e-4f * (1 + fabsf(run.values[step][t][i])),
                              "step %d, tensor %d, element %zu: %.9g, not %.9g", step, t, i, (double)run.values[step][t][i],
                              (double)other.values[step][t][i]);
            }
        }
    }
}
END_TEST

/* Every fourth element has no gradient whenever v is updated, at steps 1, 2 and 4. */
static void mostly_silent(int rank, int step, int tensor, size_t count, float *g)
{
    descent_normal(rank, step, tensor, count, g);
    for (size_t i = 0; i < count && (step < 2 || step == 3); i += 4) {
        g[i] = 0.0f;
    }
}

/* In other steps such elements stay where they are, whatever a message says about them, and do not decay either. */
START_TEST(silent_elements)
{
    run = (descent_t){.optimizer = "zeroone-adam:variance-scaler=1,freeze=5,weight-decay=0.1",
                      .specs = {"onebit+ef", "onebit+ef"},
                      .counts = {300, 40},
                      .ranks = 3,
                      .steps = 9,
                      .start = 1.0f,
                      .input = mostly_silent};
    descent_run(&run);
    for (int step = 2; step < 9; step += step == 2 ? 2 : 1) {
        for (size_t i = 0; i < 300; i++) {
            ck_assert_msg((run.values[step][0][i] == run.values[step - 1][0][i]) == (i % 4 == 0), "step %d, element %zu: %.9g",
                          step, i, (double)run.values[step][0][i]);
        }
    }
}
END_TEST

typedef struct local_fault {
    tacit_status_t status[3];
    char           text[3][TACIT_TEXT_BYTES];
    bool           changed[3];
} local_fault_t;

/* Frozen after a step; the second frozen step, the third, is local. */
static void fail_locally(tacit_comm_t *comm, void *arg)
{
    local_fault_t     *fault = arg;
    const int          rank = tacit_comm_rank(comm);
    float              values[20] = {0.0f}, gradient[20], kept[20];
    float *const       to = values;
    const float *const from = gradient;
    tacit_slot_t      *slot = slot_of(comm, "tensor", 20, TACIT_FLOAT32, "onebit+ef");
    tacit_optim_t     *optim;
    uint64_t           m;

    MUST(tacit_optim_create("zeroone-adam:freeze=1,local-steps=4,local-scaler=1", &slot, 1, &optim));
    for (int step = 0; step < 2; step++) {
        descent_normal(rank, step, 0, 20, gradient);
        MUST(tacit_optim_step(optim, &to, &from, 0.1));
    }
    memcpy(kept, values, sizeof kept);
    m = harness_hash(optim->tensors[0].array[M], sizeof values);
    gradient[7] = rank == 1 ? NAN : 1.0f;
    fault->status[rank] = tacit_optim_step(optim, &to, &from, 0.1);
    snprintf(fault->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    fault->changed[rank] = memcmp(kept, values, sizeof kept) != 0 || m != harness_hash(optim->tensors[0].array[M], sizeof values);
    gradient[7] = 1.0f;
    MUST(tacit_optim_step(optim, &to, &from, 0.1));
    fault->changed[rank] = fault->changed[rank] || tacit_optim_together(optim); /* it was not local: the test is not one */
    tacit_optim_destroy(optim);
}

START_TEST(local_nan)
{
    local_fault_t fault;

    run_ranks(3, NULL, fail_locally, &fault);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(fault.status[rank], TACIT_ERR_VALUE);
        ck_assert_msg(strstr(fault.text[rank], "rank 1: the gradient of slot 'tensor'") != NULL, "%s", fault.text[rank]);
        ck_assert(!fault.changed[rank]);
    }
}
END_TEST

typedef struct refusal {
    const char    *spec;
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];
} refusal_t;

static void refuse(tacit_comm_t *comm, void *arg)
{
    refusal_t     *refusal = arg;
    tacit_slot_t  *slot = slot_of(comm, "tensor", 100, TACIT_FLOAT32, refusal->spec);
    tacit_optim_t *optim = NULL;
    tacit_status_t status = tacit_optim_create("zeroone-adam", &slot, 1, &optim);

    if (tacit_comm_rank(comm) == 0) {
        refusal->status = status;
        snprintf(refusal->text, sizeof refusal->text, "%s", tacit_last_error());
    }
    tacit_optim_destroy(optim);
}

/* What they track changes its unit at the freeze. */
START_TEST(refuses_trackers)
{
    static const char *const specs[] = {"topk:ratio=0.1+ef21", "topk:ratio=0.1+econtrol"};
    refusal_t                refusal = {.spec = specs[_i]};

    run_ranks(2, NULL, refuse, &refusal);
    ck_assert_int_eq(refusal.status, TACIT_ERR_SPEC);
    ck_assert_msg(strstr(refusal.text, "use '+ef'") != NULL, "%s", refusal.text);
}
END_TEST

START_TEST(resume)
{
    run = (descent_t){.optimizer = "zeroone-adam:variance-scaler=2,freeze=6,local-steps=2,local-scaler=2,clip=1",
                      .specs = {"onebit+ef", "topk:ratio=0.1+ef"},
                      .counts = {300, 64},
                      .ranks = 3,
                      .steps = 14};
    for (int step = 8; step < 14; step += 2) {
        run.apart[step] = true;
    }
    descent_resumes(&run, 3 + 3 * _i); /* between updates, at the freezing, after it */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("zeroone_adam");
    TCase *tests = tcase_create("zeroone_adam");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, intervals, 0, 2);
    tcase_add_loop_test(tests, is_adam, 0, 4);
    tcase_add_test(tests, one_rank);
    tcase_add_loop_test(tests, is_onebit_adam, 0, 4);
    tcase_add_loop_test(tests, meets_again, 0, 4);
    tcase_add_loop_test(tests, local_steps, 0, 2);
    tcase_add_test(tests, limit);
    tcase_add_test(tests, converts_memory);
    tcase_add_loop_test(tests, rate_zero, 3, 6);
    tcase_add_test(tests, rate_zero_apart);
    tcase_add_loop_test(tests, never_stays_apart, 0, 10);
    tcase_add_loop_test(tests, clips, 0, 4);
    tcase_add_test(tests, silent_elements);
    tcase_add_test(tests, local_nan);
    tcase_add_loop_test(tests, refuses_trackers, 0, 2);
    tcase_add_loop_test(tests, resume, 0, 3);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
