/* SPDX-License-Identifier: Apache-2.0 */
/* All-reduce over the loop transport: the published 1-bit collective by its worked example and an oracle, conservation for every
   spec with feedback, and bits that depend on nothing that they should not depend on. */
#include "session.h"

static const int    rank_counts[] = {1, 2, 3, 4, 8};
static const char  *with_feedback[] = {"none+ef",
                                       "fp16+ef",
                                       "bf16+ef",
                                       "onebit+ef",
                                       "onebit:block=64,norm=l1+ef",
                                       "onebit:block=0+ef",
                                       "onebit:block=64,own=coded+ef",
                                       "onebit:block=0,own=coded+ef",
                                       "qsgd:bits=8,rounding=stochastic+ef",
                                       "qsgd:bits=4+ef",
                                       "qsgd:bits=2,block=32,own=coded+ef",
                                       "fp8+ef",
                                       "rotq:bits=1,own=coded+ef",
                                       "rotq:bits=3+ef",
                                       "topk:ratio=0.01+ef",
                                       "topk:ratio=0.1,values=fp16,index=u16+ef",
                                       "topk:ratio=0.1+ef by sparse-scatter",
                                       "topk:ratio=0.05,values=fp16+ef by sparse-scatter",
                                       "randk:ratio=0.1+ef"};
static const char  *without[] = {"none", "fp16", "onebit:block=32", "qsgd:bits=4", "topk:ratio=0.05", "randk:ratio=0.2"};
static const size_t counts[] = {0, 1, 7, 63, 64, 65, 1000, 5000};

/* ---- The published collective: one scale a part, the own contribution encoded too ---- */

#define PUBLISHED "onebit:block=0,own=coded+ef"

static const float example[2][16] = {
    {7, 1, -7, 1, -1, -7, 1, 7, -1, 7, 1, -7, 7, -1, 1, -7},
    {3.5f, -.5f, .5f, 3.5f, 3.5f, -.5f, -3.5f, -.5f, -.5f, 3.5f, 3.5f, -.5f, .5f, -3.5f, .5f, -3.5f}};

/* The example's vectors at step 0, then zeros. */
static void example_input(int rank, int step, size_t count, float *x)
{
    memset(x, 0, count * sizeof *x);
    if (step == 0) {
        memcpy(x, example[rank], count * sizeof *x);
    }
}

static void zero_input(int rank, int step, size_t count, float *x)
{
    (void)rank;
    (void)step;
    memset(x, 0, count * sizeof *x);
}

static void same_input(int rank, int step, size_t count, float *x)
{
    (void)rank;
    session_normal(0, step, count, x);
}

START_TEST(worked_example)
{
    static const float y[16] = {2.5f,   2.5f,  -2.5f, 2.5f,   -2.5f, -2.5f,  2.5f,  2.5f,
                                -3.75f, 3.75f, 3.75f, -3.75f, 3.75f, -3.75f, 3.75f, -3.75f};
    static const float memory[2][16] = {{2, -4, -2, -4, 4, -2, -4, 2, 4, 2, -4, -2, 2, 4, -4, -2},
                                        {1, 2, -2, 1, 1, 2, -1, 2, 2, 1, 1, 2, -2, -1, -2, -1}};
    static const float owner[16] = {1.25f, -1.25f, 1.25f, 1.25f, 1.25f, -1.25f, -1.25f, -1.25f};
    session_t session = {.spec = PUBLISHED, .ranks = 2, .steps = 1, .count = 16, .op = TACIT_AVERAGE, .input = example_input};

    session_run(&session);
    same_floats(session.out, y, 16, "y");
    same_floats(session.memory[0], memory[0], 16, "sender's memory of rank 0");
    same_floats(session.memory[1], memory[1], 16, "sender's memory of rank 1");
    for (size_t i = 0; i < 16; i++) {
        ck_assert(session.owner[i] == owner[i]);
        ck_assert((example[0][i] + example[1][i]) / 2 == y[i] + owner[i] + (memory[0][i] + memory[1][i]) / 2);
    }
    session_free(&session);
}
END_TEST

/* Zeros after the example: what was kept back comes out. Its scales are irrational, so the identity is rounded. */
START_TEST(worked_example_goes_on)
{
    session_t first = {.spec = PUBLISHED, .ranks = 2, .steps = 1, .count = 16, .op = TACIT_AVERAGE, .input = example_input};
    session_t session = first;

    session.steps = 2;
    session_run(&first);
    session_run(&session);
    for (size_t i = 0; i < 16; i++) {
        const float y = session.out[16 + i], scale0 = fabsf(first.memory[0][i] - session.memory[0][i]),
                    scale1 = fabsf(first.memory[1][i] - session.memory[1][i]);
        const double before = ((double)first.memory[0][i] + (double)first.memory[1][i]) / 2 + (double)first.owner[i];
        const double after = ((double)session.memory[0][i] + (double)session.memory[1][i]) / 2 + (double)session.owner[i];
        ck_assert_double_le(fabs((double)scale0 - sqrt(10)), 5e-7);
        ck_assert_double_le(fabs((double)scale1 - sqrt(2.5)), 5e-7);
        ck_assert_double_le(fabs((double)fabsf(y) - (i < 8 ? 2.5101218 : 1.7677671)), 2e-7);
        ck_assert_double_le(fabs(before - (double)y - after), 2 * 1.2e-7); /* two ulps at 2 */
    }
    session_free(&first);
    session_free(&session);
}
END_TEST

START_TEST(zeros_stay_zeros)
{
    session_t session = {.spec = PUBLISHED, .ranks = 3, .steps = 2, .count = 50, .op = TACIT_AVERAGE, .input = zero_input};

    session_run(&session);
    for (size_t i = 0; i < 50; i++) {
        ck_assert(session.out[i] == 0 && session.out[50 + i] == 0 && session.owner[i] == 0);
        ck_assert(session.memory[0][i] == 0 && session.memory[1][i] == 0 && session.memory[2][i] == 0);
    }
    session_free(&session);
}
END_TEST

/* One rank: encoding again what was decoded changes nothing. */
START_TEST(one_rank)
{
    session_t session = {.spec = PUBLISHED, .ranks = 1, .steps = 1, .count = 16, .op = TACIT_AVERAGE, .input = example_input};

    session_run(&session);
    for (size_t i = 0; i < 16; i++) {
        ck_assert(session.out[i] == copysignf(5, example[0][i]) && session.owner[i] == 0);
    }
    session_free(&session);
}
END_TEST

/* The same vector everywhere, a power of two of ranks: as if there were one. */
START_TEST(equal_ranks)
{
    session_t session = {.spec = PUBLISHED, .ranks = 4, .steps = 1, .count = 1000, .op = TACIT_AVERAGE, .input = same_input};
    float     x[1000];

    session_run(&session);
    same_input(0, 0, 1000, x);
    for (int rank = 0; rank < 4; rank++) {
        const size_t first = session.part_first[rank], end = first + session.part_count[rank];
        double       square = 0;

        for (size_t i = first; i < end; i++) {
            square += (double)x[i] * (double)x[i];
        }
        for (size_t i = first; i < end; i++) {
            const float expected = copysignf((float)sqrt(square / (double)(end - first)), x[i]);
            ck_assert_uint_le(harness_ulps(session.out[i], expected), 4);
            ck_assert_double_le(fabs((double)session.owner[i]), 4 * (double)FLT_EPSILON * fabs((double)expected));
        }
    }
    session_free(&session);
}
END_TEST

/* Signs and one scale of values[0..count), in float64; memory becomes what is lost. */
static void oracle_encode(double *values, double *memory, size_t count)
{
    double square = 0, scale;

    for (size_t i = 0; i < count; i++) {
        square += values[i] * values[i];
    }
    scale = count > 0 ? sqrt(square / (double)count) : 0;
    for (size_t i = 0; i < count; i++) {
        const double sent = values[i] >= 0 ? scale : -scale;
        memory[i] = values[i] - sent;
        values[i] = sent;
    }
}

/* Runs a session's steps in one thread, part by part, without padding; what comes out must be what the ranks agreed on. */
static void oracle_agrees(const session_t *session)
{
    enum { MOST = 1000 };
    static double sender[MOST_RANKS][MOST], owner[MOST], mean[MOST], a[MOST];
    static float  x[MOST];

    memset(sender, 0, sizeof sender);
    memset(owner, 0, sizeof owner);
    for (int step = 0; step < session->steps; step++) {
        memcpy(mean, owner, sizeof mean);
        for (int rank = 0; rank < session->ranks; rank++) {
            session_normal(rank, step, session->count, x);
            for (size_t i = 0; i < session->count; i++) {
                a[i] = (double)x[i] + sender[rank][i];
            }
            for (int q = 0; q < session->ranks; q++) {
                oracle_encode(a + session->part_first[q], sender[rank] + session->part_first[q], session->part_count[q]);
            }
            for (size_t i = 0; i < session->count; i++) {
                mean[i] += a[i] / session->ranks;
            }
        }
        for (int q = 0; q < session->ranks; q++) {
            oracle_encode(mean + session->part_first[q], owner + session->part_first[q], session->part_count[q]);
        }
        for (size_t i = 0; i < session->count; i++) {
            const double y = (double)session->out[session->count * (size_t)step + i];
            ck_assert_msg(fabs(y - mean[i]) <= 1e-5 * fabs(mean[i]),
                          "%d ranks, %zu elements, step %d: element %zu is %.9g, not %.9g", session->ranks, session->count, step,
                          i, y, mean[i]);
        }
    }
}

/* Parts are bytes of bits, disjoint and complete; some may be empty. */
static void parts_are_whole(const session_t *session)
{
    size_t covered = 0;

    for (int rank = 0; rank < session->ranks; rank++) {
        if (session->part_count[rank] != 0) {
            ck_assert_uint_eq(session->part_first[rank], covered);
            ck_assert_uint_eq(covered % 8, 0);
            covered += session->part_count[rank];
        }
    }
    ck_assert_uint_eq(covered, session->count);
}

START_TEST(as_the_oracle)
{
    static const int    ranks[] = {1, 2, 3, 4, 6, 8};
    static const size_t sizes[] = {1, 8, 10, 16, 1000};

    for (size_t n = 0; n < COUNT_OF(sizes); n++) {
        session_t session = {.spec = PUBLISHED, .ranks = ranks[_i], .steps = 3, .count = sizes[n], .op = TACIT_AVERAGE};

        session_run(&session);
        parts_are_whole(&session);
        session_conserves(&session);
        oracle_agrees(&session);
        session_free(&session);
    }
}
END_TEST

/* ---- Every spec ---- */

/* Sums and averages in turn, so that each spec meets both with each count and each number of ranks. */
START_TEST(nothing_is_lost)
{
    for (size_t s = 0; s < COUNT_OF(with_feedback); s++) {
        for (size_t n = 0; n < COUNT_OF(counts); n++) {
            session_t session = {.spec = with_feedback[s],
                                 .ranks = rank_counts[_i],
                                 .steps = 20,
                                 .count = counts[n],
                                 .op = (s + n + (size_t)_i) % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE};
            session_run(&session);
            session_conserves(&session);
            session_free(&session);
        }
    }
}
END_TEST

/* The same from a call with the sums, then the averages: the owner's memory changes its units in between. */
static void both_body(tacit_comm_t *comm, void *arg)
{
    session_t    *session = arg;
    tacit_slot_t *slot = slot_of(comm, "gradient", session->count, TACIT_FLOAT32, session->spec);
    const int     rank = tacit_comm_rank(comm);
    float        *x = session_floats(session->count), *out = session_floats(session->count);

    for (int step = 0; step < session->steps; step++) {
        const float share = step % 2 != 0 ? 1.0f : 0.25f; /* of four ranks */
        session_normal(rank, step, session->count, x);
        MUST(tacit_allreduce(slot, x, out, step % 2 != 0 ? TACIT_AVERAGE : TACIT_SUM));
        for (size_t i = 0; rank == 0 && i < session->count; i++) {
            session->out[i] += out[i] * share;
        }
    }
    memcpy(session->memory[rank], slot->codec->memory.now[0], session->count * sizeof *x);
    for (size_t i = 0, element; i < slot->codec->owner.count; i++) {
        (void)tacit__codec_owned(slot->codec, i, &element);
        session->owner[element] = slot->codec->owner.now[0][i];
    }
    free(x);
    free(out);
}

START_TEST(sums_and_averages_mixed)
{
    session_t session = {.spec = "onebit:block=32+ef", .ranks = 4, .steps = 6, .count = 1000, .op = TACIT_AVERAGE};
    float     x[1000];

    session.config.struct_bytes = sizeof session.config;
    session.out = session_floats(session.count);
    session.owner = session_floats(session.count);
    for (int rank = 0; rank < 4; rank++) {
        session.memory[rank] = session_floats(session.count);
    }
    run_ranks(4, &session.config, both_body, &session);
    for (size_t i = 0; i < session.count; i++) {
        session.out[i] += session.owner[i];
    }
    for (int rank = 0; rank < 4; rank++) {
        for (size_t i = 0; i < session.count; i++) {
            session.out[i] += session.memory[rank][i] / 4;
        }
        for (int step = 0; step < session.steps; step++) {
            session_normal(rank, step, session.count, x);
            for (size_t i = 0; i < session.count; i++) {
                session.out[i] -= x[i] / 4;
            }
        }
    }
    ck_assert_double_le((double)largest_of(session.out, session.count), 6 * 20 * (double)FLT_EPSILON * 16);
    session_free(&session);
}
END_TEST

/* The sum in rank order, in float32, and nothing is remembered. */
static void as_in_rank_order(const session_t *session)
{
    const float scale = session->op == TACIT_AVERAGE ? 1.0f / (float)session->ranks : 1.0f;
    float      *x = session_floats(session->count), *sum = session_floats(session->count);

    for (int step = 0; step < session->steps; step++) {
        for (int rank = 0; rank < session->ranks; rank++) {
            session_normal(rank, step, session->count, x);
            for (size_t i = 0; i < session->count; i++) {
                sum[i] = rank == 0 ? x[i] : sum[i] + x[i];
            }
        }
        for (size_t i = 0; i < session->count; i++) {
            sum[i] *= scale;
        }
        same_floats(session->out + session->count * (size_t)step, sum, session->count, session->spec);
    }
    memset(sum, 0, session->count * sizeof *sum);
    for (int rank = 0; rank < session->ranks; rank++) {
        same_floats(session->memory[rank], sum, session->count, "sender's memory");
    }
    same_floats(session->owner, sum, session->count, "owner's memory");
    free(x);
    free(sum);
}

START_TEST(none_is_exact)
{
    for (size_t n = 0; n < COUNT_OF(counts); n++) {
        for (int kind = 0; kind < 4; kind++) {
            session_t session = {.spec = kind % 2 != 0 ? "none+ef" : "none",
                                 .ranks = rank_counts[_i],
                                 .steps = 2,
                                 .count = counts[n],
                                 .op = kind / 2 != 0 ? TACIT_SUM : TACIT_AVERAGE};
            session_run(&session);
            as_in_rank_order(&session);
            session_free(&session);
        }
    }
}
END_TEST

/* Over a power of two of ranks an average is the sum scaled, bit by bit. */
START_TEST(averages_are_scaled_sums)
{
    session_t sum = {.spec = "none", .ranks = 4, .steps = 1, .count = 1000, .op = TACIT_SUM}, average = sum;

    average.op = TACIT_AVERAGE;
    session_run(&sum);
    session_run(&average);
    for (size_t i = 0; i < 1000; i++) {
        sum.out[i] *= 0.25f;
    }
    same_floats(average.out, sum.out, 1000, "average");
    session_free(&sum);
    session_free(&average);
}
END_TEST

/* ---- What bits do not depend on ---- */

static session_t run_of(const char *spec, int ranks, size_t count)
{
    return (session_t){.spec = spec, .ranks = ranks, .steps = 4, .count = count, .op = TACIT_AVERAGE};
}

static const char *spec_at(int i)
{
    const size_t at = (size_t)i;

    return at < COUNT_OF(with_feedback) ? with_feedback[at] : without[at - COUNT_OF(with_feedback)];
}

START_TEST(in_place)
{
    static const size_t sizes[] = {65, 5000};

    for (size_t n = 0; n < COUNT_OF(sizes); n++) {
        session_t apart = run_of(spec_at(_i), 3, sizes[n]), same = apart;

        same.in_place = true;
        session_run(&apart);
        session_run(&same);
        sessions_equal(&apart, &same, "in place");
        session_free(&apart);
        session_free(&same);
    }
}
END_TEST

/* All but the ring, whose order of sums follows its chunks. */
START_TEST(chunks)
{
    session_t large = run_of(spec_at(_i), 3, 20000), small = large, strict = large;

    large.config.chunk_bytes = 32768;
    small.config.chunk_bytes = 1024;
    strict.config.strict = 1;
    ask_for("none by blockwise");
    session_run(&large);
    session_run(&small);
    session_run(&strict);
    ask_for(NULL);
    sessions_equal(&large, &small, "chunks of 1 KiB");
    sessions_equal(&large, &strict, "strict");
    session_free(&large);
    session_free(&small);
    session_free(&strict);
}
END_TEST

START_TEST(seeds)
{
    static const char *specs[] = {"qsgd:bits=4,rounding=stochastic", "randk:ratio=0.1", "qsgd:bits=8,rounding=stochastic+ef",
                                  "randk:ratio=0.1+ef"};
    session_t          one = run_of(specs[_i], 2, 1000), again = one, other = one, initial = one;

    one.config.seed = again.config.seed = 7;
    other.config.seed = 8;
    session_run(&one);
    session_run(&again);
    session_run(&other);
    session_run(&initial);
    sessions_equal(&one, &again, "same seed");
    ck_assert_int_ne(memcmp(one.out, other.out, 1000 * sizeof *one.out), 0);
    ck_assert_int_ne(memcmp(one.out, initial.out, 1000 * sizeof *one.out), 0);
    session_free(&one);
    session_free(&again);
    session_free(&other);
    session_free(&initial);
}
END_TEST

/* A slot without elements takes NULL, alone and in a group. */
static void empty_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slots[3];

    for (int dtype = TACIT_FLOAT32; dtype <= TACIT_BFLOAT16; dtype++) {
        slots[dtype] = slot_of(comm,
                               dtype == TACIT_FLOAT32   ? "a"
                               : dtype == TACIT_FLOAT16 ? "b"
                                                        : "c",
                               0, (tacit_dtype_t)dtype, arg);
        MUST(tacit_allreduce(slots[dtype], NULL, NULL, TACIT_AVERAGE));
    }
    MUST(tacit_group_begin(comm));
    for (int i = 0; i < 3; i++) {
        MUST(tacit_allreduce(slots[i], NULL, NULL, TACIT_SUM));
    }
    MUST(tacit_group_end(comm, NULL));
}

START_TEST(no_elements)
{
    char spec[64];

    snprintf(spec, sizeof spec, "%s", spec_at(_i));
    ask_for(spec);
    run_ranks(2, NULL, empty_body, spec);
}
END_TEST

/* ---- Values that are not finite ---- */

/* What one rank sees of a step that fails. */
typedef struct spoilt {
    const char *spec;
    int         ranks, strict;
    size_t      count, at;         /* the element that is not finite, on the last rank */
    bool        quiet[MOST_RANKS]; /* nothing else changed */
    float       moved[MOST_RANKS]; /* how much memory did */
} spoilt_t;

static float distance(const float *a, const float *b, size_t count)
{
    float largest = 0;

    for (size_t i = 0; i < count; i++) {
        largest = fmaxf(largest, fabsf(a[i] - b[i]));
    }
    return largest;
}

static float memory_moves(const tacit_codec_t *codec, const float *memory, const float *owner)
{
    if (codec->feedback == NULL) {
        return 0;
    }
    return fmaxf(distance(codec->memory.now[0], memory, codec->memory.count),
                 distance(codec->owner.now[0], owner, codec->owner.count));
}

static void spoilt_body(tacit_comm_t *comm, void *arg)
{
    spoilt_t            *spoilt = arg;
    const int            rank = tacit_comm_rank(comm);
    const size_t         count = spoilt->count;
    tacit_slot_t        *slot = slot_of(comm, "gradient", count, TACIT_FLOAT32, spoilt->spec);
    const tacit_codec_t *codec = slot->codec;
    float               *x = session_floats(count), *given = session_floats(count), *memory = session_floats(count),
          *owner = session_floats(count), *out = session_floats(count);
    uint64_t step;

    for (int i = 0; i < 2; i++) {
        session_normal(rank, i, count, x);
        MUST(tacit_allreduce(slot, x, out, TACIT_AVERAGE));
    }
    if (codec->feedback != NULL) {
        memcpy(memory, codec->memory.now[0], count * sizeof *x);
    }
    if (codec->owner.count != 0) {
        memcpy(owner, codec->owner.now[0], codec->owner.count * sizeof *x);
    }
    session_normal(rank, 2, count, x);
    x[spoilt->at] = rank == spoilt->ranks - 1 ? NAN : x[spoilt->at];
    memcpy(given, x, count * sizeof *x);
    step = slot->step;
    spoilt->quiet[rank] = tacit_allreduce(slot, x, out, TACIT_AVERAGE) == TACIT_ERR_VALUE && slot->step == step &&
                          memcmp(given, x, count * sizeof *x) == 0 && strstr(tacit_last_error(), "gradient") != NULL;
    spoilt->moved[rank] = memory_moves(codec, memory, owner);
    spoilt->quiet[rank] = spoilt->quiet[rank] && tacit_allreduce(slot, x, x, TACIT_AVERAGE) == TACIT_ERR_VALUE &&
                          memcmp(given, x, count * sizeof *x) == 0;
    session_normal(rank, 2, count, x);
    MUST(tacit_allreduce(slot, x, out, TACIT_AVERAGE));
    free(x);
    free(given);
    free(memory);
    free(owner);
    free(out);
}

/* A NaN on one rank, early or late in the tensor: an error everywhere, memory as before to within an ulp or so of the largest
   magnitude that it met (below 64 here), exactly in strict mode. */
START_TEST(not_finite)
{
    for (int strict = 0; strict < 2; strict++) {
        for (size_t at = 0; at < 6000; at += 5999) {
            spoilt_t             spoilt = {.spec = spec_at(_i), .ranks = 3, .strict = strict, .count = 6000, .at = at};
            const tacit_config_t config = {.struct_bytes = sizeof config, .strict = strict, .chunk_bytes = 1024};

            ask_for(spoilt.spec);
            run_ranks(spoilt.ranks, &config, spoilt_body, &spoilt);
            for (int rank = 0; rank < spoilt.ranks; rank++) {
                ck_assert_msg(spoilt.quiet[rank], "%s: rank %d", spoilt.spec, rank);
                ck_assert_msg(spoilt.moved[rank] <= (strict ? 0 : 2 * FLT_EPSILON * 64), "%s: rank %d: memory moved by %g",
                              spoilt.spec, rank, (double)spoilt.moved[rank]);
            }
        }
    }
}
END_TEST

static void bad_input(int rank, int step, size_t count, float *x)
{
    session_normal(rank, step, count, x);
    if (step == 1) {
        x[17 + rank] = rank == 0 ? NAN : INFINITY;
    }
}

/* Such elements count as zero. */
static void patched_input(int rank, int step, size_t count, float *x)
{
    session_normal(rank, step, count, x);
    if (step == 1) {
        x[17 + rank] = 0;
    }
}

START_TEST(skipped)
{
    session_t bad = run_of(spec_at(_i), 3, 2000), patched = bad;

    bad.input = bad_input;
    bad.config.nonfinite = TACIT_NONFINITE_SKIP;
    patched.input = patched_input;
    session_run(&bad);
    session_run(&patched);
    sessions_equal(&bad, &patched, "skipped");
    session_free(&bad);
    session_free(&patched);
}
END_TEST

/* They reach the result, and memory stays finite. */
START_TEST(passed)
{
    session_t session = run_of(spec_at(_i), 3, 2000);
    bool      seen = false;

    session.input = bad_input;
    session.config.nonfinite = TACIT_NONFINITE_PASS;
    session_run(&session);
    for (size_t i = 0; i < session.count; i++) {
        seen = seen || !isfinite(session.out[session.count + i]);
        ck_assert_msg(isfinite(session.out[3 * session.count + i]), "%s: element %zu stays not finite", session.spec, i);
        ck_assert(isfinite(session.memory[0][i]) && isfinite(session.memory[1][i]) && isfinite(session.memory[2][i]));
        ck_assert(isfinite(session.owner[i]));
    }
    ck_assert_msg(seen || strstr(session.spec, "randk") != NULL, "%s: nothing passed", session.spec);
    session_free(&session);
}
END_TEST

/* ---- Ranks that are not in the same call ---- */

typedef struct stray {
    const char    *spec;
    size_t         count;
    int            odd;   /* the rank that is elsewhere */
    int            where; /* 0: at another slot, 1: with another operator, 2: a step ahead */
    tacit_loop_t  *loop;
    tacit_status_t status[MOST_RANKS];
    bool           goes_on[MOST_RANKS];
} stray_t;

static void stray_body(tacit_comm_t *comm, void *arg)
{
    stray_t      *stray = arg;
    const int     rank = tacit_comm_rank(comm);
    const bool    odd = rank == stray->odd;
    tacit_slot_t *a = slot_of(comm, "a", stray->count, TACIT_FLOAT32, stray->spec),
                 *b = slot_of(comm, "b", stray->count, TACIT_FLOAT32, stray->spec);
    float *x = session_floats(stray->count);

    MUST(tacit_allreduce(a, x, x, TACIT_SUM));
    MUST(tacit_allreduce(b, x, x, TACIT_SUM));
    if (odd && stray->where == 2) {
        MUST(tacit_slot_reset(a));
    }
    /* All have sent before any receives: nobody is warned. */
    for (int peer = 0; peer < tacit_comm_ranks(comm); peer++) {
        MUST(tacit_loop_inject(stray->loop, TACIT_LOOP_DELAY, rank, peer, 0, 5));
    }
    stray->status[rank] =
        tacit_allreduce(odd && stray->where == 0 ? b : a, x, x, odd && stray->where == 1 ? TACIT_AVERAGE : TACIT_SUM);
    stray->goes_on[rank] =
        a->step == (odd && stray->where == 2 ? 0 : 1) && b->step == 1 && tacit_allreduce(b, x, x, TACIT_SUM) == TACIT_OK;
    free(x);
}

/* However few frames an operation has, none where there are no elements, all ranks find it. */
START_TEST(elsewhere)
{
    static const char  *specs[] = {"none", "onebit+ef", "topk:ratio=0.01+ef", "randk:ratio=0.01+ef", "none by ring"};
    static const size_t sizes[] = {0, 8, 1000};

    for (int ranks = 2; ranks <= 4; ranks++) {
        for (size_t kind = 0; kind < 2 * 3 * COUNT_OF(sizes); kind++) {
            stray_t stray = {
                .spec = specs[_i], .count = sizes[kind / 6], .odd = kind % 2 != 0 ? 0 : ranks - 1, .where = (int)(kind / 2 % 3)};

            ask_for(stray.spec);
            MUST(tacit_loop_create(ranks, &stray.loop));
            run_ranks_over(stray.loop, ranks, NULL, stray_body, &stray);
            tacit_loop_release(stray.loop);
            for (int rank = 0; rank < ranks; rank++) {
                ck_assert_msg(stray.status[rank] == TACIT_ERR_MISMATCH && stray.goes_on[rank],
                              "%s, %zu elements, %d ranks, rank %d elsewhere (%d): rank %d says '%s'", stray.spec, stray.count,
                              ranks, stray.odd, stray.where, rank, tacit_strerror(stray.status[rank]));
            }
        }
    }
}
END_TEST

int main(void)
{
    const int all = (int)(COUNT_OF(with_feedback) + COUNT_OF(without));
    Suite    *suite = suite_create("collective");
    TCase    *published = tcase_create("published"), *conservation = tcase_create("conservation"), *bits = tcase_create("bits"),
          *nonfinite = tcase_create("nonfinite"), *mismatch = tcase_create("mismatch");

    tcase_add_test(published, worked_example);
    tcase_add_test(published, worked_example_goes_on);
    tcase_add_test(published, zeros_stay_zeros);
    tcase_add_test(published, one_rank);
    tcase_add_test(published, equal_ranks);
    tcase_add_loop_test(published, as_the_oracle, 0, 6);
    tcase_add_loop_test(conservation, nothing_is_lost, 0, (int)COUNT_OF(rank_counts));
    tcase_add_test(conservation, sums_and_averages_mixed);
    tcase_add_loop_test(conservation, none_is_exact, 0, (int)COUNT_OF(rank_counts));
    tcase_add_test(conservation, averages_are_scaled_sums);
    tcase_add_loop_test(bits, in_place, 0, all);
    tcase_add_loop_test(bits, chunks, 0, all);
    tcase_add_loop_test(bits, seeds, 0, 4);
    tcase_add_loop_test(bits, no_elements, 0, all);
    tcase_add_loop_test(nonfinite, not_finite, 0, all);
    tcase_add_loop_test(nonfinite, skipped, 0, all);
    tcase_add_loop_test(nonfinite, passed, 0, all);
    tcase_add_loop_test(mismatch, elsewhere, 0, 5);
    suite_add_tcase(suite, published);
    suite_add_tcase(suite, conservation);
    suite_add_tcase(suite, bits);
    suite_add_tcase(suite, nonfinite);
    suite_add_tcase(suite, mismatch);
    for (TCase **tcase = (TCase *[]){published, conservation, bits, nonfinite, mismatch, NULL}; *tcase != NULL; tcase++) {
        tcase_set_timeout(*tcase, 120);
    }
    return harness_main(suite);
}
