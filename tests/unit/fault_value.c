/* SPDX-License-Identifier: Apache-2.0 */
/* NaN and infinity on one rank: an error of all ranks that changes nothing, a zero, or a result that shows it, as the policy
   says; and memory stays finite. */
#include <pthread.h>

#include "session.h"

enum { RANKS = 3, COUNT = 3000, CALLS = 3, MOST_MEMORY = 3 * COUNT };

/* Three calls: clean, with `bad` on one rank, clean again. */
typedef struct run {
    const char       *spec;
    float             bad;
    size_t            places[3]; /* of the bad values */
    int               bad_rank;
    bool              cut; /* the second call also loses the end of a message */
    tacit_loop_t     *loop;
    pthread_barrier_t barrier;
    tacit_status_t    status[CALLS][RANKS];
    char              text[RANKS][TACIT_TEXT_BYTES]; /* of the second call */
    float             out[CALLS][RANKS][COUNT];
    size_t            memory_count[RANKS];
    float             memory[CALLS][RANKS][MOST_MEMORY];
} run_t;

static void fill_in(const run_t *run, int rank, int call, float *in)
{
    harness_fill(in, COUNT, (uint64_t)(10 * call + rank + 1), 1.0f);
    for (size_t i = 0; i < 3 && call == 1 && rank == run->bad_rank; i++) {
        in[run->places[i]] = run->bad;
    }
}

static void body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, run->spec);
    float        *in = malloc(COUNT * sizeof *in);
    tacit_array_t array;

    for (int call = 0; call < CALLS; call++) {
        fill_in(run, rank, call, in);
        pthread_barrier_wait(&run->barrier);
        if (call == 1 && rank == 0 && run->cut) {
            MUST(tacit_loop_inject(run->loop, TACIT_LOOP_CUT, RANKS - 1, 0, 0, 40));
        }
        pthread_barrier_wait(&run->barrier);
        run->status[call][rank] = tacit_allreduce(slot, in, run->out[call][rank], TACIT_SUM);
        if (call == 1) {
            snprintf(run->text[rank], sizeof run->text[rank], "%s",
                     run->status[call][rank] != TACIT_OK ? tacit_last_error() : "");
        }
        run->memory_count[rank] = 0;
        for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
            memcpy(run->memory[call][rank] + run->memory_count[rank], array.values, array.count * sizeof(float));
            run->memory_count[rank] += array.count;
        }
    }
    free(in);
}

static run_t *perform(const char *spec, tacit_nonfinite_t policy, int strict, float bad, int bad_rank, bool cut)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    run_t         *run = calloc(1, sizeof *run);

    ck_assert_ptr_nonnull(run);
    run->spec = spec;
    run->bad = bad;
    run->bad_rank = bad_rank;
    run->cut = cut;
    run->places[0] = 3;
    run->places[1] = COUNT / 2 + 1;
    run->places[2] = COUNT - 1;
    config.nonfinite = (int)policy;
    config.strict = strict;
    config.timeout_ms = 10000;
    pthread_barrier_init(&run->barrier, NULL, RANKS);
    ask_for(spec);
    MUST(tacit_loop_create(RANKS, &run->loop));
    run_ranks_over(run->loop, RANKS, &config, body, run);
    tacit_loop_release(run->loop);
    pthread_barrier_destroy(&run->barrier);
    return run;
}

/* Every rank has the same status, text and result of a call. */
static void alike(const run_t *run, int call, tacit_status_t status)
{
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(run->status[call][rank] == status, "%s: call %d of rank %d returned %d '%s', expected %d", run->spec, call,
                      rank, run->status[call][rank], run->text[rank], status);
        ck_assert_str_eq(run->text[rank], run->text[0]);
        ck_assert(status != TACIT_OK || memcmp(run->out[call][rank], run->out[call][0], sizeof run->out[call][0]) == 0);
    }
}

static bool all_finite(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return false;
        }
    }
    return true;
}

static void memory_is_finite(const run_t *run)
{
    for (int rank = 0; rank < RANKS; rank++) {
        for (int call = 0; call < CALLS; call++) {
            ck_assert_msg(all_finite(run->memory[call][rank], run->memory_count[rank]), "%s: memory of rank %d after call %d",
                          run->spec, rank, call);
        }
    }
}

static void same_calls(const run_t *a, int a_call, const run_t *b, int b_call)
{
    ck_assert(memcmp(a->out[a_call], b->out[b_call], sizeof a->out[0]) == 0);
    ck_assert(memcmp(a->memory[a_call], b->memory[b_call], sizeof a->memory[0]) == 0);
}

static const char *const specs[] = {"onebit+ef",
                                    "onebit",
                                    "onebit:norm=l1,own=coded+ef",
                                    "onebit:block=0+ef",
                                    "qsgd:bits=4+ef",
                                    "qsgd:bits=8",
                                    "topk:ratio=0.1+ef",
                                    "topk:ratio=0.1",
                                    "topk:ratio=0.1,values=fp16+ef",
                                    "topk:ratio=0.1+dgc:dense=0",
                                    "topk:ratio=0.1,select=sampled+dgc:dense=0,nesterov=on",
                                    "topk+dgc",
                                    "topk:ratio=0.1+ef by sparse-scatter",
                                    "topk:ratio=0.1,values=fp16+ef21 by sparse-scatter",
                                    "topk:ratio=0.1 by sparse-scatter",
                                    "randk:ratio=0.1+ef",
                                    "randk:ratio=0.1",
                                    "fp16",
                                    "fp16+ef",
                                    "bf16",
                                    "none",
                                    "none by ring",
                                    "none+ef"};
enum { SPECS = sizeof specs / sizeof *specs };

static bool is_sampled(const char *spec)
{
    return strncmp(spec, "randk", 5) == 0;
}

static const float bad_values[] = {NAN, INFINITY, -INFINITY};

START_TEST(policy_error)
{
    for (int strict = 0; strict < 2; strict++) {
        const int bad_rank = (_i + strict) % RANKS;
        run_t    *run = perform(specs[_i], TACIT_NONFINITE_ERROR, strict, bad_values[(_i + strict) % 3], bad_rank, false);
        char      who[32];

        snprintf(who, sizeof who, "rank %d: slot 'slot' at step 1", bad_rank);
        alike(run, 0, TACIT_OK);
        alike(run, 1, TACIT_ERR_VALUE);
        alike(run, 2, TACIT_OK);
        ck_assert_msg(strstr(run->text[0], who) != NULL, "'%s' is not in '%s'", who, run->text[0]);
        for (int rank = 0; rank < RANKS; rank++) {
            for (size_t i = 0; i < run->memory_count[rank]; i++) {
                /* Undone in four roundings, of numbers below |in| + |memory|; see fault_wire.c. */
                ck_assert(fabsf(run->memory[1][rank][i] - run->memory[0][rank][i]) <= (strict ? 0.0f : 8.0f * 0x1p-24f * 12.0f));
            }
        }
        memory_is_finite(run);
        free(run);
    }
}
END_TEST

/* The same bits as zeros give. */
START_TEST(policy_skip)
{
    const int bad_rank = _i % RANKS;
    run_t    *run = perform(specs[_i], TACIT_NONFINITE_SKIP, _i % 2, bad_values[_i % 3], bad_rank, false);
    run_t    *zeros = perform(specs[_i], TACIT_NONFINITE_SKIP, _i % 2, 0.0f, bad_rank, false);

    for (int call = 0; call < CALLS; call++) {
        alike(run, call, TACIT_OK);
        same_calls(run, call, zeros, call);
    }
    memory_is_finite(run);
    free(run);
    free(zeros);
}
END_TEST

START_TEST(policy_pass)
{
    for (int strict = 0; strict < 2; strict++) {
        const float bad = bad_values[(_i + strict) % 3];
        run_t      *run = perform(specs[_i], TACIT_NONFINITE_PASS, strict, bad, (_i + strict) % RANKS, false);

        for (int call = 0; call < CALLS; call++) {
            alike(run, call, TACIT_OK);
        }
        for (size_t i = 0; i < 3 && !is_sampled(run->spec); i++) {
            ck_assert_msg(!isfinite(run->out[1][0][run->places[i]]), "%s: %g at %zu became %g", run->spec, bad, run->places[i],
                          run->out[1][0][run->places[i]]);
        }
        ck_assert(all_finite(run->out[0][0], COUNT) && all_finite(run->out[2][0], COUNT));
        memory_is_finite(run);
        free(run);
    }
}
END_TEST

/* Policy pass, and the operation fails for another reason. */
START_TEST(pass_and_undo)
{
    for (int strict = 0; strict < 2; strict++) {
        run_t *run = perform(specs[_i], TACIT_NONFINITE_PASS, strict, bad_values[(_i + strict) % 3], (_i + strict) % RANKS, true);

        alike(run, 1, TACIT_ERR_FRAME);
        alike(run, 2, TACIT_OK);
        memory_is_finite(run);
        ck_assert(all_finite(run->out[2][0], COUNT));
        free(run);
    }
}
END_TEST

/* Finite values whose sum, or whose range, is not: a fault unless what is not finite may pass. */
static const char *const overflowing[] = {
    "none+ef", "none by ring", "none", "fp8", "qsgd:bits=8+ef", "onebit:block=64", "rotq+ef", "topk:ratio=1+ef", "randk:ratio=1"};
enum { OVERFLOWING = sizeof overflowing / sizeof *overflowing };

START_TEST(sum_overflows)
{
    session_overflow(RANKS, overflowing[_i / 2], _i % 2 == 0 ? TACIT_NONFINITE_ERROR : TACIT_NONFINITE_SKIP,
                     "slot 'slot' at step 0");
}
END_TEST

/* A sum of pairs: each rank gives `value` in every element. */
typedef struct pairs {
    const char    *spec;
    tacit_op_t     op;
    float          value[2]; /* in the two calls */
    tacit_status_t status[2][RANKS];
    char           text[RANKS][TACIT_TEXT_BYTES]; /* of the second call */
    float          out[2][RANKS];                 /* the last element */
    bool           kept[RANKS];                   /* memory is after the second call as it was before */
} pairs_t;

static void pairs_body(tacit_comm_t *comm, void *arg)
{
    enum { WIDE = 64 };
    pairs_t      *pairs = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", WIDE, TACIT_FLOAT32, pairs->spec);
    float         x[WIDE], before[4 * WIDE] = {0.0f};
    tacit_array_t array;

    for (int call = 0; call < 2; call++) {
        size_t known = 0;

        for (size_t i = 0; i < WIDE; i++) {
            x[i] = pairs->value[call];
        }
        pairs->status[call][rank] = tacit_allreduce(slot, x, x, pairs->op);
        pairs->out[call][rank] = x[WIDE - 1];
        snprintf(pairs->text[rank], sizeof pairs->text[rank], "%s", tacit_last_error());
        pairs->kept[rank] = true;
        for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
            pairs->kept[rank] = pairs->kept[rank] && memcmp(before + known, array.values, array.count * sizeof(float)) == 0;
            memcpy(before + known, array.values, array.count * sizeof(float));
            known += array.count;
        }
    }
}

static pairs_t sum_pairs(const char *spec, tacit_nonfinite_t policy, tacit_op_t op, float first, float second)
{
    pairs_t        pairs = {.spec = spec, .op = op, .value = {first, second}};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.nonfinite = (int)policy;
    config.strict = 1;
    ask_for(spec);
    run_ranks(RANKS, &config, pairs_body, &pairs);
    return pairs;
}

static const char *const selections[] = {"topk:ratio=1",
                                         "topk:ratio=1+ef",
                                         "topk:ratio=0.5+ef21",
                                         "topk:ratio=1+econtrol",
                                         "topk:ratio=1+dgc:dense=0",
                                         "topk:ratio=0.5+ef21:average=0.5",
                                         "topk:ratio=1 by sparse-scatter",
                                         "topk:ratio=1+ef by sparse-scatter",
                                         "topk:ratio=0.5+ef21 by sparse-scatter",
                                         "topk:ratio=0.5+econtrol by sparse-scatter"};
enum { SELECTIONS = sizeof selections / sizeof *selections };

/* Sums of pairs that are not finite fail on all ranks alike, and change nothing. */
START_TEST(pairs_overflow)
{
    for (tacit_op_t op = TACIT_SUM; op <= TACIT_AVERAGE; op++) {
        pairs_t pairs = sum_pairs(selections[_i], TACIT_NONFINITE_ERROR, op, 1.0f, 3e38f);

        for (int rank = 0; rank < RANKS; rank++) {
            ck_assert_int_eq(pairs.status[0][rank], TACIT_OK);
            ck_assert_msg(pairs.status[1][rank] == TACIT_ERR_VALUE, "%s: status %d", selections[_i], pairs.status[1][rank]);
            ck_assert_str_eq(pairs.text[rank], pairs.text[0]);
            ck_assert_ptr_nonnull(strstr(pairs.text[rank], "slot 'slot' at step 1: the sum over 3 ranks leaves the range"));
            ck_assert(pairs.kept[rank] && pairs.out[1][rank] == 3e38f);
        }
        pairs = sum_pairs(selections[_i], TACIT_NONFINITE_PASS, op, 1.0f, 3e38f);
        for (int rank = 0; rank < RANKS; rank++) {
            ck_assert_int_eq(pairs.status[1][rank], TACIT_OK);
        }
    }
}
END_TEST

/* Pairs at the edge of the range: what fits is summed, and a tracker counts with the sum. */
START_TEST(pairs_near_overflow)
{
    static const struct {
        const char    *spec;
        float          first, second;
        tacit_status_t status;
        float          out;
    } cases[] = {
        {"topk:ratio=1", 1.0f, 1.125f * 0x1p126f, TACIT_OK, 3.375f * 0x1p126f},
        {"topk:ratio=1", 1.0f, 1.5f * 0x1p126f, TACIT_ERR_VALUE, 1.5f * 0x1p126f},
        {"topk:ratio=1", 1.0f, -1.5f * 0x1p126f, TACIT_ERR_VALUE, -1.5f * 0x1p126f},
        {"topk:ratio=1+ef21", 0x1p126f, 1.125f * 0x1p126f, TACIT_OK, 3.375f * 0x1p126f},
        {"topk:ratio=1+ef21", 0x1p126f, 1.5f * 0x1p126f, TACIT_ERR_VALUE, 1.5f * 0x1p126f},
        {"topk:ratio=1 by sparse-scatter", 1.0f, 1.125f * 0x1p126f, TACIT_OK, 3.375f * 0x1p126f},
        {"topk:ratio=1 by sparse-scatter", 1.0f, 1.5f * 0x1p126f, TACIT_ERR_VALUE, 1.5f * 0x1p126f},
        {"topk:ratio=1+ef by sparse-scatter", 1.0f, -1.5f * 0x1p126f, TACIT_ERR_VALUE, -1.5f * 0x1p126f},
        {"topk:ratio=1+ef21 by sparse-scatter", 0x1p126f, 1.125f * 0x1p126f, TACIT_OK, 3.375f * 0x1p126f},
        {"topk:ratio=1+ef21 by sparse-scatter", 0x1p126f, 1.5f * 0x1p126f, TACIT_ERR_VALUE, 1.5f * 0x1p126f},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const pairs_t pairs = sum_pairs(cases[i].spec, TACIT_NONFINITE_ERROR, TACIT_SUM, cases[i].first, cases[i].second);

        for (int rank = 0; rank < RANKS; rank++) {
            ck_assert_int_eq(pairs.status[0][rank], TACIT_OK);
            ck_assert_msg(pairs.status[1][rank] == cases[i].status && pairs.out[1][rank] == cases[i].out,
                          "case %zu: status %d, %g: %s", i, pairs.status[1][rank], pairs.out[1][rank], pairs.text[rank]);
        }
    }
}
END_TEST

enum { TALL = 64, NARROW = 8 };

typedef struct large {
    tacit_status_t status[3][2];
    bool           finite[3][2]; /* memory and result */
} large_t;

/* powersgd: the second step's matrix has one column of 1e38: P's is finite, but Q's first number is 8e38. */
static void large_body(tacit_comm_t *comm, void *arg)
{
    large_t            *large = arg;
    const int           rank = tacit_comm_rank(comm);
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    float               in[TALL * NARROW], out[TALL * NARROW], memory[2 * TALL * NARROW];
    tacit_slot_t       *slot;

    config.count = TALL * NARROW;
    config.ndim = 2;
    config.shape[0] = TALL;
    config.shape[1] = NARROW;
    config.spec = "powersgd:rank=1+ef";
    MUST(tacit_slot_create(comm, "slot", &config, &slot));
    for (int step = 0; step < 3; step++) {
        harness_fill(in, TALL * NARROW, (uint64_t)(2 * step + rank), 1.0f);
        for (size_t i = 0; step == 1 && i < TALL * NARROW; i++) {
            in[i] = i % NARROW == 0 ? 1e38f : 0;
        }
        large->status[step][rank] = tacit_allreduce(slot, in, out, TACIT_AVERAGE);
        large->finite[step][rank] = true;
        tacit__memory_read(slot->codec, 0, 0, TALL * NARROW, memory);
        for (size_t i = 0; i < TALL * NARROW; i++) {
            large->finite[step][rank] = large->finite[step][rank] && isfinite(memory[i]) && (step == 1 || isfinite(out[i]));
        }
    }
}

START_TEST(own_factor_overflows)
{
    large_t large;

    run_ranks(2, NULL, large_body, &large);
    for (int rank = 0; rank < 2; rank++) {
        ck_assert_int_eq(large.status[0][rank], TACIT_OK);
        ck_assert_int_eq(large.status[1][rank], TACIT_ERR_VALUE);
        ck_assert_int_eq(large.status[2][rank], TACIT_OK);
        ck_assert(large.finite[0][rank] && large.finite[1][rank] && large.finite[2][rank]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fault_value");
    TCase *tests = tcase_create("fault_value");

    tcase_add_loop_test(tests, policy_error, 0, SPECS);
    tcase_add_loop_test(tests, policy_skip, 0, SPECS);
    tcase_add_loop_test(tests, policy_pass, 0, SPECS);
    tcase_add_loop_test(tests, pass_and_undo, 0, SPECS);
    tcase_add_loop_test(tests, sum_overflows, 0, 2 * OVERFLOWING);
    tcase_add_loop_test(tests, pairs_overflow, 0, SELECTIONS);
    tcase_add_test(tests, pairs_near_overflow);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, own_factor_overflows);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
