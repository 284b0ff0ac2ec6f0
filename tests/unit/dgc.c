/* SPDX-License-Identifier: Apache-2.0 */
/* `dgc` over the loop transport: the worked runs bit for bit, an oracle for everything else, and what holds for momentum
   correction and masking: same path as dense where nothing waits, nothing lost where something does. */
#include "session.h"

#include "half.h"
#include "tacit_optim.h"

enum { STEPS = 6 };

static const int rank_counts[] = {2, 3, 4, 8};

/* A warm-up that begins dense. */
static double warm_density(int step)
{
    static const double list[] = {1, 0.25, 0.0625};

    return tacit_warmup_density(TACIT_WARMUP_NONE, list, 3, 1, 0.02, (uint64_t)step);
}

/* One tensor reduced again and again; everything that it leaves behind. */
typedef struct run {
    const char      *spec;
    int              ranks, steps;
    size_t           count;
    session_input_t *input;
    tacit_dtype_t    dtype;
    int              ndim; /* 0, 1, or 2: two rows */
    bool             warms_up;
    tacit_config_t   config;

    float         *out;                           /* rank 0's, steps times count */
    uint64_t       hash[MOST_RANKS];              /* of each rank's */
    float         *u[MOST_RANKS], *v[MOST_RANKS]; /* after each step, steps times count; v only where there is one */
    tacit_status_t status[STEPS][MOST_RANKS];
    char           schedule[16];
} run_t;

static void *narrowed(const float *x, size_t count, tacit_dtype_t dtype, void *room)
{
    if (dtype == TACIT_FLOAT32) {
        return memcpy(room, x, count * sizeof *x);
    }
    (dtype == TACIT_FLOAT16 ? tacit__float16_narrow : tacit__bfloat16_narrow)(x, room, count);
    return room;
}

static void widen(const void *x, size_t count, tacit_dtype_t dtype, float *out)
{
    if (dtype == TACIT_FLOAT32) {
        memcpy(out, x, count * sizeof *out);
    } else {
        (dtype == TACIT_FLOAT16 ? tacit__float16_widen : tacit__bfloat16_widen)(x, out, count);
    }
}

static void body(tacit_comm_t *comm, void *arg)
{
    run_t              *run = arg;
    const int           rank = tacit_comm_rank(comm);
    const size_t        count = run->count;
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    float              *x = session_floats(count), *all = session_floats(count * (size_t)run->steps);
    void               *in = session_floats(count), *out = session_floats(count);

    config.count = count;
    config.dtype = run->dtype;
    config.spec = run->spec;
    config.ndim = run->ndim;
    config.shape[0] = run->ndim == 2 ? 2 : count;
    config.shape[1] = count / 2;
    MUST(tacit_slot_create(comm, "layer", &config, &slot));
    for (int step = 0; step < run->steps; step++) {
        if (run->warms_up) {
            char spec[64];

            snprintf(spec, sizeof spec, "topk:ratio=%g+dgc:dense=0", warm_density(step));
            MUST(tacit_slot_set_spec(slot, spec));
        }
        run->input(rank, step, count, x);
        run->status[step][rank] = tacit_allreduce(slot, narrowed(x, count, run->dtype, in), out, TACIT_AVERAGE);
        if (run->status[step][rank] == TACIT_OK) {
            widen(out, count, run->dtype, all + count * (size_t)step);
        }
        memcpy(run->u[rank] + count * (size_t)step, slot->codec->memory.now[0], count * sizeof *x);
        if (slot->codec->memory.now[1] != NULL) {
            memcpy(run->v[rank] + count * (size_t)step, slot->codec->memory.now[1], count * sizeof *x);
        }
    }
    run->hash[rank] = harness_hash(all, count * (size_t)run->steps * sizeof *all);
    if (rank == 0) {
        memcpy(run->out, all, count * (size_t)run->steps * sizeof *all);
        snprintf(run->schedule, sizeof run->schedule, "%s", tacit_slot_schedule(slot));
    }
    free(x);
    free(all);
    free(in);
    free(out);
}

static void run_make(run_t *run)
{
    const size_t total = run->count * (size_t)run->steps;

    run->out = session_floats(total);
    for (int rank = 0; rank < run->ranks; rank++) {
        run->u[rank] = session_floats(total);
        run->v[rank] = session_floats(total);
    }
}

/* Runs it, and sees to it that all ranks have the same bits. */
static void run_all(run_t *run)
{
    run->config.struct_bytes = sizeof run->config;
    run_make(run);
    run_ranks(run->ranks, &run->config, body, run);
    for (int rank = 1; rank < run->ranks; rank++) {
        ck_assert_msg(run->hash[rank] == run->hash[0], "%s: rank %d has another result than rank 0", run->spec, rank);
    }
}

static void run_free(run_t *run)
{
    free(run->out);
    for (int rank = 0; rank < run->ranks; rank++) {
        free(run->u[rank]);
        free(run->v[rank]);
    }
}

/* ---- The worked run, with 2 ranks or their multiples ---- */

static void golden_input(int rank, int step, size_t count, float *x)
{
    static const float g[3][2][8] = {{{1, -4, 2, .5f, 3, -1, .25f, -2}, {-1, 2, 1, 4, -.5f, 1, -3, .25f}},
                                     {{1, 2, -1, .5f, .25f, 1, -1, .5f}, {2, -.5f, 1, 1, 1, -2, .5f, 1}},
                                     {{0, 1, 1, -1, .5f, -.5f, 2, 1}, {1, -1, .5f, .5f, 2, 1, -1, 0}}};

    memcpy(x, g[step][rank % 2], count * sizeof *x);
}

static const float golden_plain[3][8] = {
    {0, -2, 0, 2, 1.5f, 0, -1.5f, 0}, {1.25f, 1.25f, 1.25f, 0, 0, 0, 0, -1.25f}, {1.125f, 2, 1.5f, 0, 1.3125f, 0, 0, 0}};
static const float golden_u[2][8] = {{0, 0, 0, -.625f, .625f, -.25f, 1.5625f, 1}, {0, -1, .5f, 1, 0, .25f, -.75f, .5625f}};
static const float golden_v[2][8] = {{0, 0, 0, .625f, .875f, -.75f, .9375f, 1}, {0, -1, .5f, 2, 0, -.25f, -.25f, 1.9375f}};
static const float golden_nesterov[3][8] = {{0, -3, 0, 3, 2.25f, 0, -2.25f, 0},
                                            {1.625f, 2.875f, 1.625f, 0, 0, 0, 0, 0},
                                            {1.5625f, 0, 1.75f, 0, 1.90625f, 0, .859375f, 0}};

/* Every number in it is exact in 16 bits too. */
START_TEST(golden_run)
{
    const int ranks[] = {2, 4, 8};

    for (int i = 0; i < 3 * 3; i++) {
        run_t run = {.spec = "topk:ratio=0.25+dgc:momentum=0.5,dense=0",
                     .ranks = ranks[i / 3],
                     .dtype = (tacit_dtype_t)(i % 3),
                     .steps = 3,
                     .count = 8,
                     .ndim = 2,
                     .input = golden_input};
        run_t nesterov = run;

        run_all(&run);
        same_floats(run.out, golden_plain[0], 24, "heavy ball: G");
        for (int rank = 0; rank < run.ranks; rank++) {
            same_floats(run.u[rank] + 16, golden_u[rank % 2], 8, "u");
            same_floats(run.v[rank] + 16, golden_v[rank % 2], 8, "v");
        }
        run_free(&run);
        nesterov.spec = "topk:ratio=0.25+dgc:momentum=0.5,nesterov=on,dense=0";
        run_all(&nesterov);
        same_floats(nesterov.out, golden_nesterov[0], 24, "Nesterov: G");
        run_free(&nesterov);
    }
}
END_TEST

static void tiny_input(int rank, int step, size_t count, float *x)
{
    static const float g[8] = {1, 0x1p-26f, 0, 0, 0, 0, 0, -0x1p-27f};

    (void)rank;
    (void)step;
    memcpy(x, g, count * sizeof *x);
}

/* What float16 rounds to zero is not sent, though there is room, and nothing is masked for it: momentum and velocity go on
   until there is something to send, here u = 3/2 and v = 5/2 of 2^-26 in the second step, which is sent as 2^-24. */
START_TEST(tiny_in_float16)
{
    static const float out[3][8] = {{1}, {1, 0x1p-24f}, {1, 0, 0, 0, 0, 0, 0, -0x1p-24f}};
    static const float u[3][8] = {{0, 0x1p-26f, 0, 0, 0, 0, 0, -0x1p-27f}, {0, 0, 0, 0, 0, 0, 0, -0x1.8p-27f}, {0, 0x1p-26f}};
    static const float v[3][8] = {{0, 0x1p-26f, 0, 0, 0, 0, 0, -0x1p-27f},
                                  {0, -0x1.8p-26f, 0, 0, 0, 0, 0, -0x1.4p-26f},
                                  {0, -0x1p-27f, 0, 0, 0, 0, 0, 0x1.ep-26f}};

    for (size_t i = 0; i < COUNT_OF(rank_counts); i++) {
        run_t run = {.spec = "topk:ratio=0.5,values=fp16+dgc:momentum=0.5,dense=0",
                     .ranks = rank_counts[i],
                     .steps = 3,
                     .count = 8,
                     .input = tiny_input};

        run_all(&run);
        same_floats(run.out, out[0], 24, "G");
        for (int rank = 0; rank < run.ranks; rank++) {
            same_floats(run.u[rank], u[0], 24, "u");
            same_floats(run.v[rank], v[0], 24, "v");
        }
        run_free(&run);
    }
}
END_TEST

/* ---- An oracle for any data ---- */

typedef struct oracle {
    float  mu;
    bool   nesterov, masking, half;
    size_t keep;
} oracle_t;

/* One rank's step: what it sends, as a vector, from u and v, which change. */
static void oracle_step(const oracle_t *oracle, size_t count, const float *g, float *u, float *v, float *message)
{
    memset(message, 0, count * sizeof *message);
    for (size_t i = 0; i < count; i++) {
        if (oracle->nesterov) {
            u[i] = oracle->mu * (u[i] + g[i]);
            v[i] = v[i] + u[i];
            v[i] = v[i] + g[i];
        } else {
            u[i] = oracle->mu * u[i];
            u[i] = u[i] + g[i];
            v[i] = v[i] + u[i];
        }
    }
    for (size_t entry = 0; entry < oracle->keep; entry++) { /* the largest that is not chosen yet, the first of equal ones */
        size_t best = count;

        for (size_t i = 0; i < count; i++) {
            best = message[i] == 0 && v[i] != 0 && (best == count || fabsf(v[i]) > fabsf(v[best])) ? i : best;
        }
        if (best == count) {
            break;
        }
        message[best] = v[best];
    }
    for (size_t i = 0; i < count; i++) {
        const bool sent = message[i] != 0;

        message[i] = oracle->half && sent ? tacit__from_float16(tacit__to_float16(message[i], 0x7bff)) : message[i];
        v[i] = sent ? v[i] - message[i] : v[i];
        u[i] = sent && oracle->masking ? 0 : u[i];
    }
}

static void as_oracle(const run_t *run, const oracle_t *given)
{
    const size_t count = run->count;
    oracle_t     at_step = *given, *oracle = &at_step;
    float       *g = session_floats(count), *sum = session_floats(count), *message = session_floats(count);
    float       *u = session_floats(count * (size_t)run->ranks), *v = session_floats(count * (size_t)run->ranks);
    char         what[160];

    for (int step = 0; step < run->steps; step++) {
        snprintf(what, sizeof what, "%s, %d ranks, step %d", run->spec, run->ranks, step);
        if (run->warms_up) {
            oracle->keep = (size_t)ceil(warm_density(step) * (double)count);
            oracle->masking = oracle->keep < count;
        }
        memset(sum, 0, count * sizeof *sum);
        for (int rank = 0; rank < run->ranks; rank++) {
            float *own_u = u + count * (size_t)rank, *own_v = v + count * (size_t)rank;

            run->input(rank, step, count, g);
            oracle_step(oracle, count, g, own_u, own_v, message);
            same_floats(run->u[rank] + count * (size_t)step, own_u, count, what);
            same_floats(run->v[rank] + count * (size_t)step, own_v, count, what);
            for (size_t i = 0; i < count; i++) {
                sum[i] += message[i];
            }
        }
        for (size_t i = 0; i < count; i++) {
            sum[i] *= 1.0f / (float)run->ranks;
        }
        same_floats(run->out + count * (size_t)step, sum, count, what);
    }
    free(g);
    free(sum);
    free(message);
    free(u);
    free(v);
}

static const struct {
    const char *spec;
    oracle_t    oracle;
} cases[] = {
    {"topk:ratio=0.05+dgc:dense=0", {0.9f, false, true, false, 15}},
    {"topk:ratio=0.05+dgc:dense=0,nesterov=on", {0.9f, true, true, false, 15}},
    {"topk:ratio=0.05+dgc:dense=0,masking=off,momentum=0.7", {0.7f, false, false, false, 15}},
    {"topk:ratio=0.05+dgc:dense=0,nesterov=on,masking=off", {0.9f, true, false, false, 15}},
    {"topk:ratio=0.05,values=fp16+dgc:dense=0", {0.9f, false, true, true, 15}},
    {"topk:ratio=0.05,values=fp16+dgc:dense=0,nesterov=on", {0.9f, true, true, true, 15}},
    {"topk:ratio=1+dgc:dense=0", {0.9f, false, false, false, 300}},
    {"topk:ratio=1,values=fp16+dgc:dense=0", {0.9f, false, false, true, 300}},
    {"topk:ratio=0.05+dgc:dense=0,momentum=0", {0, false, true, false, 15}},
};

/* Large numbers too, which float16 saturates. */
static void wide_input(int rank, int step, size_t count, float *x)
{
    session_normal(rank, step, count, x);
    for (size_t i = 0; i < count; i += 10) {
        x[i] *= 1e5f;
    }
}

START_TEST(oracle)
{
    for (size_t i = 0; i < COUNT_OF(rank_counts) * COUNT_OF(cases); i++) {
        run_t run = {.spec = cases[i % COUNT_OF(cases)].spec,
                     .ranks = rank_counts[i / COUNT_OF(cases)],
                     .steps = STEPS,
                     .count = 300,
                     .input = wide_input};

        run.config.strict = i % 2;
        run_all(&run);
        ck_assert_str_eq(run.schedule, "sparse");
        as_oracle(&run, &cases[i % COUNT_OF(cases)].oracle);
        run_free(&run);
    }
}
END_TEST

/* Densities that fall from step to step: memory goes on, and masking begins when something waits. */
START_TEST(warm_up)
{
    const oracle_t first = {.mu = 0.9f};
    run_t run = {.spec = "topk+dgc:dense=0", .ranks = 3, .steps = STEPS, .count = 300, .input = session_normal, .warms_up = true};

    run_all(&run);
    as_oracle(&run, &first);
    run_free(&run);
}
END_TEST

/* Without momentum, masking or not, it is topk with error feedback. */
START_TEST(without_momentum)
{
    run_t run = {
        .spec = "topk:ratio=0.02+dgc:dense=0,momentum=0", .ranks = 3, .steps = STEPS, .count = 5000, .input = session_normal};
    session_t session = {
        .spec = "topk:ratio=0.02+ef", .ranks = 3, .steps = STEPS, .count = 5000, .op = TACIT_AVERAGE, .input = session_normal};

    run_all(&run);
    session_run(&session);
    same_floats(run.out, session.out, 5000 * STEPS, "result");
    for (int rank = 0; rank < 3; rank++) {
        same_floats(run.v[rank] + 5000 * (STEPS - 1), session.memory[rank], 5000, "velocity");
    }
    run_free(&run);
    session_free(&session);
}
END_TEST

/* Which rank has which data changes nothing, where sums are exact. */
static void exchanged_input(int rank, int step, size_t count, float *x)
{
    golden_input(rank + 1, step, count, x);
}

START_TEST(order_of_ranks)
{
    run_t a = {
        .spec = "topk:ratio=0.25+dgc:momentum=0.5,dense=0", .ranks = 4, .steps = 3, .count = 8, .ndim = 2, .input = golden_input};
    run_t b = a;

    b.input = exchanged_input;
    run_all(&a);
    run_all(&b);
    same_floats(a.out, b.out, 24, "exchanged ranks");
    same_floats(a.u[0], b.u[1], 24, "exchanged ranks: u");
    run_free(&a);
    run_free(&b);
}
END_TEST

/* ---- Dense tensors, and everything sent ---- */

static void as_momentum_sgd(const run_t *run, float mu, bool nesterov)
{
    const size_t count = run->count;
    float       *g = session_floats(count), *mean = session_floats(count), *u = session_floats(count);

    for (int step = 0; step < run->steps; step++) {
        for (int rank = 0; rank < run->ranks; rank++) {
            run->input(rank, step, count, g);
            for (size_t i = 0; i < count; i++) {
                mean[i] = rank == 0 ? g[i] : mean[i] + g[i];
            }
        }
        for (size_t i = 0; i < count; i++) {
            mean[i] *= 1.0f / (float)run->ranks;
            u[i] = nesterov ? mu * (u[i] + mean[i]) : mu * u[i] + mean[i];
            mean[i] = nesterov ? u[i] + mean[i] : u[i];
        }
        same_floats(run->out + count * (size_t)step, mean, count, run->spec);
        for (int rank = 0; rank < run->ranks; rank++) {
            same_floats(run->u[rank] + count * (size_t)step, u, count, run->spec);
        }
    }
    free(g);
    free(mean);
    free(u);
}

START_TEST(dense_is_momentum_sgd)
{
    for (size_t i = 0; i < 2 * COUNT_OF(rank_counts); i++) {
        run_t run = {.spec = i % 2 ? "topk:ratio=0.001+dgc:nesterov=on" : "topk:ratio=0.001+dgc:momentum=0.9",
                     .ranks = rank_counts[i / 2],
                     .steps = STEPS,
                     .count = 3000,
                     .ndim = 1,
                     .input = session_normal};

        run.config.chunk_bytes = i % 4 < 2 ? 0 : 2048;
        run.config.strict = i % 3 == 0;
        run_all(&run);
        ck_assert_str_eq(run.schedule, "blockwise");
        as_momentum_sgd(&run, 0.9f, i % 2);
        run_free(&run);
    }
}
END_TEST

/* Which tensors are dense: by dimensions, elements and the parameter. */
START_TEST(which_are_dense)
{
    static const struct {
        const char *spec;
        int         ndim;
        size_t      count;
        bool        dense;
    } tensors[] = {{"topk+dgc", 0, 100, true},
                   {"topk+dgc", 0, 1022, true},
                   {"topk+dgc", 0, 1024, false},
                   {"topk+dgc", 1, 16384, true},
                   {"topk+dgc", 2, 1022, true},
                   {"topk+dgc", 2, 1024, false},
                   {"topk+dgc:dense=0", 0, 2, false},
                   {"topk+dgc:dense=0", 1, 2, false},
                   {"topk+dgc:dense=20K", 0, 20000, true},
                   {"topk+dgc:dense=20K", 2, 20480, false},
                   {"topk:ratio=1+dgc", 2, 20000, false}};

    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        run_t run = {.spec = tensors[i].spec,
                     .ranks = 1,
                     .steps = 1,
                     .count = tensors[i].count,
                     .ndim = tensors[i].ndim,
                     .input = session_normal};

        run_all(&run);
        ck_assert_msg(strcmp(run.schedule, tensors[i].dense ? "blockwise" : "sparse") == 0, "%s, ndim %d, %zu elements: %s",
                      run.spec, run.ndim, run.count, run.schedule);
        run_free(&run);
    }
}
END_TEST

/* k = n: momentum SGD, masking or not, since nothing waits. */
static void everything_input(int rank, int step, size_t count, float *x)
{
    static const float g[3][2] = {{1, -4}, {1, 2}, {0, 1}};

    (void)rank;
    memcpy(x, g[step], count * sizeof *x);
}

START_TEST(everything_sent)
{
    static const float expected[6] = {1, -4, 1.5f, 0, .75f, 1};
    const char *const  specs[] = {"topk:ratio=1+dgc:momentum=0.5,dense=0,masking=off", "topk:ratio=1+dgc:momentum=0.5,dense=0",
                                  "topk:ratio=1,values=fp16+dgc:momentum=0.5,dense=0", "topk+dgc:momentum=0.5"};

    for (size_t i = 0; i < COUNT_OF(rank_counts) * COUNT_OF(specs); i++) {
        run_t run = {.spec = specs[i % COUNT_OF(specs)],
                     .ranks = rank_counts[i / COUNT_OF(specs)],
                     .steps = 3,
                     .count = 2,
                     .input = everything_input};

        run.ranks = run.ranks == 3 ? 2 : run.ranks; /* a third is not exact */
        run_all(&run);
        same_floats(run.out, expected, 6, run.spec);
        run_free(&run);
    }
}
END_TEST

/* ---- Momentum correction: one coordinate is sent at steps 2 and 5, another one at all others ---- */

static void decoy_input(int step, float after, float *x)
{
    x[0] = step < 3 ? 1 : 0;
    x[1] = step % 3 == 2 ? after : 100;
}

static void masked_input(int rank, int step, size_t count, float *x)
{
    (void)rank;
    (void)count;
    decoy_input(step, 0, x);
}

/* Cancels the momentum that is left where nothing masks it. */
static void unmasked_input(int rank, int step, size_t count, float *x)
{
    (void)rank;
    (void)count;
    decoy_input(step, -75, x);
}

static double displacement(const char *spec, session_input_t *input, float momentum_after)
{
    run_t  run = {.spec = spec, .ranks = 2, .steps = STEPS, .count = 2, .input = input};
    double moved = 0;
    float  buffer = 0;

    run_all(&run);
    for (size_t step = 0; step < STEPS; step++) {
        ck_assert_msg(step % 3 == 2 || strstr(spec, "topk+") != NULL || run.out[2 * step] == 0, "%s: step %zu", spec, step);
        buffer = momentum_after * buffer + run.out[2 * step];
        moved -= (double)buffer;
    }
    run_free(&run);
    return moved;
}

START_TEST(momentum_correction)
{
    ck_assert(displacement("topk+dgc:momentum=0.5", masked_input, 0) == -5.78125); /* dense */
    ck_assert(displacement("topk:ratio=0.5+dgc:momentum=0.5,masking=off,dense=0", unmasked_input, 0) == -5.78125);
    ck_assert(displacement("topk:ratio=0.5+dgc:momentum=0.5,dense=0", masked_input, 0) == -4.25);
    ck_assert(displacement("topk:ratio=0.5+ef", masked_input, 0.5f) == -5.625); /* naive: momentum after */
}
END_TEST

/* ---- Faults ---- */

static size_t bad_place;
static float  bad_value;
static int    bad_rank;

/* Step 2 is bad on one rank; step 3 has the numbers that it should have had. */
static void faulty_input(int rank, int step, size_t count, float *x)
{
    session_normal(rank, step > 2 ? step - 1 : step, count, x);
    if (step == 2 && rank == bad_rank) {
        x[bad_place] = bad_value;
    }
    if (step == 1 && rank == bad_rank && bad_value == FLT_MAX) {
        x[bad_place] = FLT_MAX; /* what is kept of it and the next one overflow */
    }
}

/* The bound: before() rounds three times, sent() once, and as often on the way back, where u is divided by the momentum. */
static void close_to(const float *a, const float *b, size_t count, const char *what)
{
    const double bound = 16 * (double)FLT_EPSILON * (double)largest_of(b, count);

    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(fabs((double)a[i] - (double)b[i]) <= bound, "%s: element %zu is %g, was %g", what, i, (double)a[i],
                      (double)b[i]);
    }
}

static void check_fault(const char *spec, int strict)
{
    run_t        run = {.spec = spec, .ranks = 3, .steps = 4, .count = 5000, .input = faulty_input};
    const size_t at = 2 * run.count;

    run.config.strict = strict;
    run_all(&run);
    for (int rank = 0; rank < run.ranks; rank++) {
        float *const now[] = {run.u[rank] + at, run.v[rank] + at};
        float *const before[] = {run.u[rank] + at - run.count, run.v[rank] + at - run.count};

        ck_assert_int_eq(run.status[1][rank], TACIT_OK);
        ck_assert_int_eq(run.status[2][rank], TACIT_ERR_VALUE);
        ck_assert_int_eq(run.status[3][rank], TACIT_OK);
        for (size_t array = 0; array < 2; array++) {
            if (strict || memcmp(now[array], before[array], run.count * sizeof(float)) == 0) {
                same_floats(now[array], before[array], run.count, spec);
            } else if (bad_value != FLT_MAX || rank != bad_rank) {
                close_to(now[array], before[array], run.count, spec);
            }
        }
    }
    run_free(&run);
}

START_TEST(faults)
{
    static const size_t places[] = {0, 1, 2047, 2048, 4999};
    const char *const   specs[] = {"topk:ratio=0.01+dgc:dense=0", "topk:ratio=0.01,values=fp16+dgc:dense=0,nesterov=on",
                                   "topk:ratio=0.01+dgc:dense=0,masking=off", "topk+dgc"};

    for (size_t i = 0; i < 4 * COUNT_OF(places); i++) {
        bad_place = places[i / 4];
        bad_value = i % 3 ? NAN : -INFINITY;
        bad_rank = (int)(i % 3);
        check_fault(specs[i % 4], i % 2);
        check_fault(specs[i % 4], i % 2 == 0);
    }
}
END_TEST

/* Finite numbers whose velocity is not: an error too, and nothing that is not finite stays. */
START_TEST(overflow)
{
    run_t run = {
        .spec = "topk:ratio=0.0002+dgc:dense=0,masking=off", .ranks = 2, .steps = 4, .count = 5000, .input = faulty_input};

    bad_place = 2100;
    bad_value = FLT_MAX;
    bad_rank = 1;
    run_all(&run);
    ck_assert_int_eq(run.status[2][0], TACIT_ERR_VALUE);
    for (int rank = 0; rank < 2; rank++) {
        const float *u = run.u[rank] + 2 * run.count, *v = run.v[rank] + 2 * run.count;

        ck_assert(isfinite(largest_of(u, run.count)) && isfinite(largest_of(v, run.count)));
        u += bad_place;
        ck_assert(tacit__float_bits(*u) == tacit__float_bits(*(u - run.count)) || rank == 0); /* as the step before */
    }
    run_free(&run);
}
END_TEST

/* ---- Saving ---- */

typedef struct resume {
    int   from, to;
    float out[STEPS][2][400];
} resume_t;

static void resume_body(tacit_comm_t *comm, void *arg)
{
    resume_t     *resume = arg;
    const int     rank = tacit_comm_rank(comm);
    char          path[HARNESS_PATH_BYTES];
    float         x[400], out[400];
    tacit_slot_t *slots[] = {slot_of(comm, "layer", 400, TACIT_FLOAT32, "topk:ratio=0.02+dgc:dense=0"),
                             slot_of(comm, "bias", 40, TACIT_FLOAT32, "topk:ratio=0.02+dgc")};

    harness_path(path, "state.%d", rank);
    if (resume->from != 0) {
        MUST(tacit_load(comm, path));
    }
    for (int step = resume->from; step < resume->to; step++) {
        for (int i = 0; i < 2; i++) {
            session_normal(rank + i, step, 400, x);
            MUST(tacit_allreduce(slots[i], x, out, TACIT_AVERAGE));
            if (rank == 1) {
                memcpy(resume->out[step][i], out, (i == 0 ? 400 : 40) * sizeof *out);
            }
        }
    }
    if (resume->to != STEPS) {
        MUST(tacit_save(comm, path));
    }
}

START_TEST(resumed)
{
    resume_t whole = {.from = 0, .to = STEPS}, parts = {.from = 0, .to = STEPS / 2};
    char     path[HARNESS_PATH_BYTES];

    run_ranks(3, NULL, resume_body, &whole);
    run_ranks(3, NULL, resume_body, &parts);
    parts.from = STEPS / 2;
    parts.to = STEPS;
    run_ranks(3, NULL, resume_body, &parts);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(remove(harness_path(path, "state.%d", rank)), 0);
    }
    same_floats(parts.out[0][0], whole.out[0][0], sizeof whole.out / sizeof(float), "resumed");
}
END_TEST

/* ---- Without collectives: the codec, memory doubled ---- */

START_TEST(dense_codec)
{
    static const float  g[3][2] = {{1, -4}, {1, 2}, {0, 1}}, expected[3][2] = {{1, -4}, {1.5f, 0}, {.75f, 1}};
    tacit_config_t      config = TACIT_CONFIG_INIT;
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    uint8_t             frame[128];
    float               out[2];
    size_t              bytes;

    tensor.count = 2;
    tensor.spec = "topk+dgc:momentum=0.5";
    for (config.strict = 0; config.strict < 2; config.strict++) {
        MUST(tacit_codec_create("bias", &tensor, &config, 0, 1, &codec));
        for (uint64_t step = 0; step < 3; step++) {
            MUST(tacit_encode(codec, step, g[step], 0, 2, frame, sizeof frame, &bytes));
            memset(out, 0, sizeof out);
            MUST(tacit_decode_add(codec, step, frame, bytes, out, NULL, NULL));
            same_floats(out, g[step], 2, "as it was given");
            MUST(tacit_codec_own(codec, 0, 2, TACIT_AVERAGE));
            MUST(tacit_reencode(codec, step, out, 0, 2, frame, sizeof frame, &bytes));
            MUST(tacit_decode(codec, step, frame, bytes, out, NULL, NULL));
            same_floats(out, expected[step], 2, "codec");
        }
        tacit_codec_destroy(codec);
    }
}
END_TEST

/* ---- The table ---- */

START_TEST(table)
{
    tacit_spec_t spec = spec_of("topk+dgc:momentum=0.8,nesterov=on");
    bool         nesterov = false;

    ck_assert(spec.feedback->momentum(spec.feedback_config, &nesterov) == 0.8 && nesterov);
    tacit__spec_release(&spec);
    spec = spec_of("topk+dgc");
    ck_assert(spec.feedback->momentum(spec.feedback_config, &nesterov) == 0.9 && !nesterov);
    tacit__spec_release(&spec);
    refused("qsgd+dgc", "dgc|sparse|topk");
    refused("randk:scale=one+dgc", "dgc|sparse|topk");
    refused("topk+dgc:momentum=1", "momentum|0.9999");
    refused("topk+dgc:mask=off", "mask|masking");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dgc");
    TCase *tests = tcase_create("dgc");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, golden_run);
    tcase_add_test(tests, tiny_in_float16);
    tcase_add_test(tests, oracle);
    tcase_add_test(tests, warm_up);
    tcase_add_test(tests, without_momentum);
    tcase_add_test(tests, order_of_ranks);
    tcase_add_test(tests, dense_is_momentum_sgd);
    tcase_add_test(tests, which_are_dense);
    tcase_add_test(tests, everything_sent);
    tcase_add_test(tests, momentum_correction);
    tcase_add_test(tests, faults);
    tcase_add_test(tests, overflow);
    tcase_add_test(tests, resumed);
    tcase_add_test(tests, dense_codec);
    tcase_add_test(tests, table);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
