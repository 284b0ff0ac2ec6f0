/* SPDX-License-Identifier: Apache-2.0 */
/* EF21 and EF21-SGDM: worked examples to the bit, their invariants, and the problem on which plain error feedback stalls. */
#include "tracker.h"

static void constant(int rank, int step, size_t count, const float *x, float *g)
{
    static const float values[3] = {4, 3, 1};

    (void)rank;
    (void)step;
    (void)x;
    memcpy(g, values, count * sizeof *g);
}

/* One element a message: 4, 3 and 1 arrive one after the other, and then nothing is left to say. */
START_TEST(worked_example)
{
    static const float h[4][3] = {{4, 0, 0}, {4, 3, 0}, {4, 3, 1}, {4, 3, 1}};
    track_t            track = {.spec = "topk:ratio=0.3+ef21", .ranks = 1, .steps = 4, .count = 3, .gradient = constant};

    track_run(&track);
    same_floats(track.memory[H][0], h[0], 12, "h");
    same_floats(track.out, h[0], 12, "out");
    track_free(&track);
}
END_TEST

/* average = 1/4: v is 1/4, 7/16, 37/64, 175/256 of the gradient. What is sent, one at a time: 1 of the first element; 21/16 of
   the second; 37/16 - 1 of the first; 525/256 - 21/16 = 189/256 of the second, as the third has only 175/256. */
START_TEST(averaged_example)
{
    static const float v[4] = {0.25f, 0.4375f, 0.578125f, 0.68359375f};
    static const float h[4][3] = {{1, 0, 0}, {1, 1.3125f, 0}, {2.3125f, 1.3125f, 0}, {2.3125f, 2.05078125f, 0}};
    track_t track = {.spec = "topk:ratio=0.3+ef21:average=0.25", .ranks = 1, .steps = 4, .count = 3, .gradient = constant};

    track_run(&track);
    same_floats(track.memory[H][0], h[0], 12, "h");
    same_floats(track.out, h[0], 12, "out");
    for (size_t t = 0; t < 4; t++) {
        ck_assert(track.memory[THIRD][0][3 * t] == 4 * v[t] && track.memory[THIRD][0][3 * t + 1] == 3 * v[t]);
        ck_assert(track.memory[THIRD][0][3 * t + 2] == v[t]);
    }
    track_free(&track);
}
END_TEST

/* A first operation that is dense: the mean comes out exactly, and if gradients stay as they are, nothing is left to say. */
START_TEST(dense_start)
{
    static const char *const specs[] = {"topk:ratio=0.3+ef21:init=gradient", "onebit:block=32+ef21:init=gradient,average=0.5",
                                        "randk:ratio=0.3+ef21:init=gradient"};
    const int                ranks = _i < 3 ? 2 : 8;
    track_t track = {.spec = specs[_i % 3], .ranks = ranks, .steps = 3, .count = 3, .gradient = constant, .op = TACIT_AVERAGE};

    track_run(&track);
    for (int t = 0; t < 3; t++) {
        constant(0, t, 3, NULL, track.x);
        same_floats(track.out + 3 * (size_t)t, track.x, 3, "out");
        for (int rank = 0; rank < track.ranks; rank++) {
            same_floats(track.memory[H][rank] + 3 * (size_t)t, track.x, 3, "h");
        }
    }
    track_free(&track);
}
END_TEST

/* It counts: the bytes of float32 leave in the first step, and only there. A reset begins again; another spec does not. */
static void counting_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 1000 };
    uint64_t     *bytes = arg;
    tacit_slot_t *slot = slot_of(comm, "gradient", COUNT, TACIT_FLOAT32, "topk:ratio=0.01+ef21:init=gradient");
    float         g[COUNT], out[COUNT];

    for (int step = 0; step < 4; step++) {
        tacit_counters_t before, after;

        if (step == 2) {
            MUST(tacit_slot_set_spec(slot, "topk:ratio=0.02+ef21:init=gradient"));
        }
        if (step == 3) {
            MUST(tacit_slot_reset(slot));
        }
        session_normal(tacit_comm_rank(comm), step, COUNT, g);
        MUST(tacit_slot_counters(slot, &before));
        MUST(tacit_allreduce(slot, g, out, TACIT_AVERAGE));
        MUST(tacit_slot_counters(slot, &after));
        if (tacit_comm_rank(comm) == 0) {
            bytes[step] = after.wire_bytes - before.wire_bytes;
            bytes[4] += strcmp(tacit_slot_schedule(slot), "sparse") != 0;
        }
    }
}

START_TEST(dense_bytes)
{
    uint64_t bytes[5] = {0};

    run_ranks(2, NULL, counting_body, bytes);
    ck_assert_uint_ge(bytes[0], 4000);
    ck_assert_uint_lt(bytes[1], 400);
    ck_assert_uint_gt(bytes[2], bytes[1]);
    ck_assert_uint_lt(bytes[2], 600);
    ck_assert_uint_eq(bytes[3], bytes[0]);
    ck_assert_uint_eq(bytes[4], 0);
}
END_TEST

/* A 16-bit tensor begins with float32 on the wire, so that hbar is the mean of what ranks remember, not a rounded one. */
static void half_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "gradient", 2, TACIT_BFLOAT16, "topk:ratio=0.5+ef21:init=gradient");
    uint16_t      in[2] = {tacit_comm_rank(comm) == 0 ? 0x3f80 : 0x3f81, 0x4000}, out[2]; /* 1 or 1 + 2^-7; 2 */

    MUST(tacit_allreduce(slot, in, out, TACIT_AVERAGE));
    ((float *)arg)[tacit_comm_rank(comm)] = slot->codec->memory.now[HBAR][0];
    ((float *)arg)[2] = out[1] == 0x4000 ? 2 : 0;
}

START_TEST(half_precision)
{
    float found[3];

    run_ranks(2, NULL, half_body, found);
    ck_assert(found[0] == 1 + 0x1p-8f && found[1] == found[0] && found[2] == 2);
}
END_TEST

/* Frames of the public codec carry no dense first operation. */
START_TEST(codec_refuses)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;

    tensor.count = 10;
    tensor.spec = "topk:ratio=0.5+ef21:init=gradient";
    ck_assert_int_eq(tacit_codec_create("gradient", &tensor, NULL, 0, 1, &codec), TACIT_ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "init=zero"));
}
END_TEST

/* An average that is 1 as a float is the gradient itself: no array for it, and a step is taken back without dividing by 0. */
static void nearly_one_body(tacit_comm_t *comm, void *arg)
{
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", 100, TACIT_FLOAT32, "onebit:block=64+ef21:average=0.99999999");
    bool         *right = arg;
    float         g[100], out[100];

    for (int step = 0; step < 4; step++) {
        session_normal(rank, step, 100, g);
        g[99] = step == 1 && rank == 1 ? NAN : g[99];
        right[rank] = right[rank] && (tacit_allreduce(slot, g, out, TACIT_AVERAGE) == TACIT_OK) == (step != 1);
    }
    right[rank] = right[rank] && slot->codec->memory.now[THIRD] == NULL;
}

START_TEST(nearly_one)
{
    bool right[2] = {true, true};

    run_ranks(2, NULL, nearly_one_body, right);
    ck_assert(right[0] && right[1]);
}
END_TEST

/* What a spec may change while memory is kept, and what not. */
static void spec_body(tacit_comm_t *comm, void *arg)
{
    static const char *const refused[] = {"topk+ef21:average=1", "topk+ef21:average=0.5,init=gradient",
                                          "topk+ef21:average=0.5,residual=bf16"};
    tacit_slot_t            *slot = slot_of(comm, "gradient", 100, TACIT_FLOAT32, "topk+ef21:average=0.5");
    bool                    *right = arg;

    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        *right = *right && tacit_slot_set_spec(slot, refused[i]) == TACIT_ERR_SPEC &&
                 strstr(tacit_last_error(), "make a new slot") != NULL;
    }
    MUST(tacit_slot_set_spec(slot, "topk+ef21:average=0.25"));
}

START_TEST(changing)
{
    bool right = true;

    run_ranks(1, NULL, spec_body, &right);
    ck_assert(right);
}
END_TEST

/* On P1 plain error feedback stays above 1e-2 for good; see econtrol.c for what float32 leaves. */
START_TEST(in_float32)
{
    track_t track = {.spec = "topk:ratio=0.125+ef21:init=gradient",
                     .ranks = 4,
                     .steps = 800,
                     .count = 8,
                     .gamma = 0.1f,
                     .op = TACIT_AVERAGE,
                     .gradient = float_p1};
    track_t averaged = track, stalls = track;

    track_run(&track);
    ck_assert_double_lt(track_distance(&track, track.steps - 1, optimum_p1), 1e-9);
    averaged.spec = "topk:ratio=0.125+ef21:average=0.5";
    track_run(&averaged);
    ck_assert_double_lt(track_distance(&averaged, track.steps - 1, optimum_p1), 1e-9);
    stalls.spec = "topk:ratio=0.125+ef";
    track_run(&stalls);
    ck_assert_double_gt(track_distance(&stalls, track.steps - 1, optimum_p1), 1e-2);
    track_free(&track);
    track_free(&averaged);
    track_free(&stalls);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ef21");
    TCase *examples = tcase_create("examples"), *starts = tcase_create("starts"), *problems = tcase_create("problems");

    tcase_add_test(examples, worked_example);
    tcase_add_test(examples, averaged_example);
    tcase_add_loop_test(starts, dense_start, 0, 6);
    tcase_add_test(starts, dense_bytes);
    tcase_add_test(starts, half_precision);
    tcase_add_test(starts, codec_refuses);
    tcase_add_test(starts, changing);
    tcase_add_test(starts, nearly_one);
    tcase_add_test(problems, in_float32);
    suite_add_tcase(suite, examples);
    suite_add_tcase(suite, starts);
    suite_add_tcase(suite, problems);
    tcase_set_timeout(problems, 120);
    return harness_main(suite);
}
