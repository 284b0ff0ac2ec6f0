/* SPDX-License-Identifier: Apache-2.0 */
/* What every feedback with trackers promises, in every form that a compressor takes and on many ranks: all ranks have the same
   hbar, which is what they remember of each other, whatever happens in between. */
#include "tracker.h"

static const char *const compressors[] = {
    "topk:ratio=0.1",       "randk:ratio=0.2",
    "onebit:block=64",      "onebit:block=0,own=coded",
    "qsgd:bits=4,block=32", "bf16",
    "powersgd:rank=2",      "topk:ratio=0.1 by sparse-scatter",
};

static const char *const feedbacks[] = {
    "ef21",
    "ef21:average=0.25",
    "econtrol",
    "econtrol:init=gradient",
    "ef21:init=gradient,average=0.5",
    "econtrol:residual=bf16",
    "econtrol:residual=int8,init=gradient",
    "ef21:average=0.25,residual=int8",
};

enum { COUNT = 300, STEPS = 12, PAIRS = (int)(COUNT_OF(compressors) * COUNT_OF(feedbacks)) };

static const int many[] = {2, 3, 4, 8};

static track_t track_of(int pair, int ranks, char *spec)
{
    const char *compressor = compressors[pair % (int)COUNT_OF(compressors)], *schedule = strstr(compressor, " by ");
    char        alone[SPEC_BYTES];

    sprintf(spec, "%s+%s%s", spec_in(compressor, alone), feedbacks[pair / (int)COUNT_OF(compressors)],
            schedule != NULL ? schedule : "");
    return (track_t){.spec = spec, .ranks = ranks, .steps = STEPS, .count = COUNT, .op = TACIT_AVERAGE};
}

/* I1. Trackers are below 30, of which float32 has steps of 2^-19; each of 12 steps rounds some twenty times on 8 ranks. */
static void agrees(const track_t *track, int step, const char *what)
{
    const size_t at = (size_t)step * track->count;
    const double bound = 12 * 20 * 0x1p-19;
    const double share = (track->switches && step % 2 != 0 ? TACIT_SUM : track->op) == TACIT_SUM ? 1 : 1.0 / track->ranks;

    for (size_t i = 0; i < track->count; i++) {
        double h = 0;

        for (int rank = 0; rank < track->ranks; rank++) {
            h += share * (double)track->memory[H][rank][at + i];
        }
        h -= (double)track->owner[at + i];
        ck_assert_msg(fabs(h - (double)track->memory[HBAR][0][at + i]) <= bound * share * track->ranks,
                      "%s, %s, %d ranks, step %d: hbar[%zu] is %g, what ranks remember %g", what, track->spec, track->ranks, step,
                      i, (double)track->memory[HBAR][0][at + i], h);
    }
}

/* Every compressor and every feedback meets every number of ranks. */
START_TEST(all_ranks)
{
    char    spec[128];
    track_t track = track_of(_i, many[(_i + _i / (int)COUNT_OF(compressors)) % (int)COUNT_OF(many)], spec);

    track.op = _i % 3 == 0 ? TACIT_SUM : TACIT_AVERAGE;
    track_run(&track);
    for (int step = 0; step < STEPS; step++) {
        agrees(&track, step, "a step");
    }
    track_free(&track);
}
END_TEST

static void same_tracks(const track_t *a, const track_t *b, const char *what)
{
    const size_t total = STEPS * COUNT;

    same_floats(a->out, b->out, total, what);
    same_floats(a->owner, b->owner, total, what);
    for (int rank = 0; rank < a->ranks; rank++) {
        for (int array = 0; array < ARRAYS; array++) {
            same_floats(a->memory[array][rank], b->memory[array][rank], total, what);
        }
    }
}

/* Saved in the middle, in another communicator it goes on to the same bits. Right after a dense start too. */
START_TEST(resumed)
{
    char    spec[128];
    track_t track = track_of(_i, 3, spec), other = track;

    other.resume = _i % 2 == 0 ? 1 : 5;
    track_run(&track);
    track_run(&other);
    same_tracks(&track, &other, spec);
    track_free(&track);
    track_free(&other);
}
END_TEST

/* A step that fails leaves memory as it was: exactly in strict mode and before a dense start; else within some roundings of
   numbers below 100, and where those are kept in 8 bits, of these. */
static void failed(int pair, int strict, int step)
{
    char    spec[128];
    track_t track = track_of(pair, 3, spec), other = track;
    bool    rough = strstr(spec, "residual") != NULL;
    bool    exact = strict != 0 || (step == 0 && strstr(spec, "gradient") != NULL);

    track.config.strict = other.config.strict = strict;
    other.fails = step + 1;
    other.foul = pair % 3;
    track_run(&other);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_msg(other.off[rank] <= (exact   ? 0
                                          : rough ? 1.0f
                                                  : 1e-4f),
                      "%s: rank %d is off by %g", spec, rank, (double)other.off[rank]);
    }
    for (int after = 0; after < STEPS; after++) {
        agrees(&other, after, "after a failure");
    }
    if (exact) {
        track_run(&track);
        same_tracks(&track, &other, spec);
        track_free(&track);
    }
    track_free(&other);
}

START_TEST(undone)
{
    failed(_i, 0, 4);
}
END_TEST

START_TEST(undone_exactly)
{
    failed(_i, 1, 4);
}
END_TEST

/* Sums and averages by turns: trackers follow. */
START_TEST(other_units)
{
    char    spec[128];
    track_t track = track_of(_i, 4, spec), other = track;

    other.switches = true;
    other.resume = 7;
    track_run(&track);
    track_run(&other);
    for (int step = 0; step < STEPS; step++) {
        agrees(&other, step, "by turns");
        for (size_t i = 0; i < COUNT; i++) { /* four ranks: sums are four times the averages, but where owners hand over */
            const float factor = step % 2 != 0 ? 4 : 1;

            ck_assert_msg((spec[0] != 't' && spec[0] != 'r') || strstr(spec, "sparse-scatter") != NULL ||
                              other.out[(size_t)step * COUNT + i] == factor * track.out[(size_t)step * COUNT + i],
                          "%s, step %d, element %zu", spec, step, i);
        }
    }
    track_free(&track);
    track_free(&other);
}
END_TEST

/* NaN and infinity that are passed on reach out, and leave trackers in step everywhere. */
static void foul(int rank, int step, size_t count, const float *x, float *g)
{
    (void)x;
    session_normal(rank, step, count, g);
    if (step == 4 && rank == 1) {
        g[7] = NAN;
        g[count - 3] = INFINITY;
    }
}

START_TEST(passed_on)
{
    char    spec[128];
    track_t track = track_of(_i, 3, spec);

    track.gradient = foul;
    track.config.nonfinite = TACIT_NONFINITE_PASS;
    track.config.strict = _i % 2;
    track_run(&track);
    for (int step = 0; step < STEPS; step++) {
        agrees(&track, step, "after a NaN");
    }
    for (size_t i = 0; i < STEPS * COUNT; i++) {
        ck_assert_msg(isfinite(track.out[i]) || i / COUNT == 4, "%s: out[%zu] at step %zu", spec, i % COUNT, i / COUNT);
        for (int array = 0; array < ARRAYS; array++) {
            ck_assert_msg(isfinite(track.memory[array][1][i]), "%s: array %d [%zu]", spec, array, i);
        }
    }
    ck_assert(spec[0] == 'r' || !isfinite(track.out[4 * COUNT + 7])); /* unless it was not drawn */
    track_free(&track);
}
END_TEST

/* Also where that was to be the dense one. */
START_TEST(undone_at_first)
{
    failed(_i, 0, 0);
}
END_TEST

/* The public codec, by hand, comes to the same as the collective. */
START_TEST(by_hand)
{
    static const char *const specs[] = {"topk:ratio=0.1+econtrol", "randk:ratio=0.2+ef21:average=0.5", "topk:ratio=0.1+ef"};
    track_t                  track = {.spec = specs[_i], .ranks = 3, .steps = STEPS, .count = COUNT, .op = TACIT_SUM};
    tacit_slot_config_t      tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t           *codec[3];
    uint8_t                  frame[3][4096];
    size_t                   bytes[3];
    float                    g[COUNT], sum[COUNT], out[COUNT];

    tensor.count = COUNT;
    tensor.spec = track.spec;
    track_run(&track);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(tacit_codec_create("gradient", &tensor, NULL, rank, 3, &codec[rank]), TACIT_OK);
    }
    for (uint64_t step = 0; step < STEPS; step++) {
        for (int rank = 0; rank < 3; rank++) {
            session_normal(rank, (int)step, COUNT, g);
            ck_assert_int_eq(tacit_encode(codec[rank], step, g, 0, COUNT, frame[rank], sizeof frame[rank], &bytes[rank]),
                             TACIT_OK);
        }
        for (int rank = 0; rank < 3; rank++) {
            memset(sum, 0, sizeof sum);
            for (int from = 0; from < 3; from++) {
                ck_assert_int_eq(tacit_decode_add(codec[rank], step, frame[from], bytes[from], sum, NULL, NULL), TACIT_OK);
            }
            ck_assert_int_eq(tacit_codec_combine(codec[rank], sum, 1, COUNT - 1, out), TACIT_ERR_ARGUMENT);
            ck_assert_int_eq(tacit_codec_combine(codec[rank], sum, 0, COUNT, rank == 0 ? out : sum), TACIT_OK);
            same_floats(rank == 0 ? out : sum, track.out + step * COUNT, COUNT, "combined");
        }
    }
    for (int rank = 0; rank < 3; rank++) {
        tacit_codec_destroy(codec[rank]);
    }
    track_free(&track);
}
END_TEST

/* Slots that begin densely in a group with others that do not, and with one at a later step; the first attempt fails. */
enum { SLOTS = 4 };

typedef struct group {
    uint64_t hash[3];
    bool     failed[3], exact[3];
} group_t;

static void group_body(tacit_comm_t *comm, void *arg)
{
    static const char *const specs[SLOTS] = {"none", "topk:ratio=0.1+ef21:init=gradient",
                                             "onebit:block=64+econtrol:init=gradient,residual=int8", "randk:ratio=0.2+econtrol"};
    group_t                 *group = arg;
    const int                rank = tacit_comm_rank(comm);
    tacit_slot_t            *slots[SLOTS];
    float                    in[SLOTS][COUNT], out[SLOTS][COUNT];
    char                     name[16];

    for (int i = 0; i < SLOTS; i++) {
        snprintf(name, sizeof name, "slot%d", i);
        slots[i] = slot_of(comm, name, COUNT, TACIT_FLOAT32, specs[i]);
    }
    for (int step = 0; step < 5; step++) {
        for (int i = 0; i < SLOTS; i++) {
            session_normal(rank, SLOTS * step + i, COUNT, in[i]);
        }
        for (int attempt = step % 2 == 0 ? 0 : 1; attempt < 2; attempt++) {
            const float good = in[3][5];

            in[3][5] = attempt == 0 && rank == 1 ? NAN : good;
            MUST(tacit_group_begin(comm));
            for (int i = 0; i < SLOTS; i++) {
                MUST(tacit_allreduce(slots[i], in[i], out[i], TACIT_AVERAGE));
            }
            if (attempt == 0) {
                group->failed[rank] = tacit_group_end(comm, NULL) == TACIT_ERR_VALUE;
            } else {
                MUST(tacit_group_end(comm, NULL));
            }
            in[3][5] = good;
        }
        for (int i = 0; i < SLOTS; i++) {
            group->hash[rank] = 31 * group->hash[rank] + harness_hash(out[i], sizeof out[i]);
        }
        if (step == 0) {
            float h[COUNT];

            read_memory(slots[2]->codec, H, h);
            group->exact[rank] =
                memcmp(h, in[2], sizeof h) == 0 && memcmp(out[2], slots[2]->codec->memory.now[HBAR], sizeof h) == 0;
        }
        if (step == 2) {
            MUST(tacit_slot_reset(slots[1]));
        }
    }
}

START_TEST(in_groups)
{
    group_t group = {{0}, {false}, {false}};

    run_ranks(3, NULL, group_body, &group);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert(group.hash[rank] == group.hash[0] && group.failed[rank] && group.exact[rank]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trackers");
    TCase *ranks = tcase_create("ranks"), *memory = tcase_create("memory");

    tcase_add_loop_test(ranks, all_ranks, 0, PAIRS);
    tcase_add_loop_test(ranks, other_units, 0, PAIRS);
    tcase_add_loop_test(ranks, by_hand, 0, 3);
    tcase_add_test(ranks, in_groups);
    tcase_add_loop_test(memory, resumed, 0, PAIRS);
    tcase_add_loop_test(memory, undone, 0, PAIRS);
    tcase_add_loop_test(memory, undone_at_first, 3 * (int)COUNT_OF(compressors), 5 * (int)COUNT_OF(compressors));
    tcase_add_loop_test(memory, undone_exactly, 0, PAIRS);
    tcase_add_loop_test(memory, passed_on, 0, PAIRS);
    suite_add_tcase(suite, ranks);
    suite_add_tcase(suite, memory);
    return harness_main(suite);
}
