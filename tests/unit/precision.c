/* SPDX-License-Identifier: Apache-2.0 */
/* Memory in less than float32, and memory that is rescaled. */
#include "packed.h"
#include "tracker.h"

static const tacit_precision_t precisions[] = {TACIT_PRECISION_BF16, TACIT_PRECISION_INT8};
static const char *const       words[] = {"bf16", "int8"};

static tacit_stream_t stream_at(uint64_t step)
{
    const tacit_key_t key = {1, 2, step, 3};

    return tacit__stream(&key, false);
}

/* ---- Packing ---- */

/* What fits is kept to the bit: bytes as in doc/wire-format.md. */
START_TEST(exact)
{
    static const float   values[10] = {127, -127, 1, 0, -64, 3, 2, -1, 0.5f, -0.75f};
    static const uint8_t int8[18] = {133, 127, 0x81, 1, 0, 0xc0, 3, 2, 0xff, 126, 64, 0xa0, 0, 0, 0, 0, 0, 0};
    static const uint8_t bf16[20] = {0xfe, 0x42, 0xfe, 0xc2, 0x80, 0x3f, 0, 0,    0x80, 0xc2,
                                     0x40, 0x40, 0,    0x40, 0x80, 0xbf, 0, 0x3f, 0x40, 0xbf};
    const tacit_stream_t stream = stream_at(0);
    uint8_t              packed[20];
    float                again[10];

    ck_assert_uint_eq(tacit__packed_bytes(TACIT_PRECISION_INT8, 10), 18);
    ck_assert_uint_eq(tacit__packed_bytes(TACIT_PRECISION_BF16, 10), 20);
    tacit__pack(TACIT_PRECISION_INT8, &stream, 0, 10, values, packed);
    same_bytes(packed, int8, 18, "int8");
    tacit__unpack(TACIT_PRECISION_INT8, 0, 10, packed, again);
    same_floats(again, values, 10, "int8");
    tacit__pack(TACIT_PRECISION_BF16, &stream, 0, 10, values, packed);
    same_bytes(packed, bf16, 20, "bf16");
    tacit__unpack(TACIT_PRECISION_BF16, 0, 10, packed, again);
    same_floats(again, values, 10, "bf16");
}
END_TEST

/* The distance of two neighbours in an array whose values reach `largest`. */
static double step_of(tacit_precision_t precision, float value, float largest)
{
    int exponent;

    if (precision == TACIT_PRECISION_BF16) {
        (void)frexpf(value, &exponent);
        return ldexp(1, exponent - 8 < -133 ? -133 : exponent - 8);
    }
    for (exponent = -133; (double)largest > 127 * ldexp(1, exponent); exponent++) {
    }
    return ldexp(1, exponent);
}

/* A number becomes one of its two neighbours, on average itself; packed again it stays; a cut elsewhere gives the same bytes. */
START_TEST(neighbours)
{
    enum { COUNT = 64, STEPS = 2000 };
    const tacit_precision_t precision = precisions[_i];
    float                   values[COUNT], back[COUNT];
    uint8_t                 packed[2 * COUNT], again[2 * COUNT];
    double                  mean[COUNT] = {0};
    const size_t            bytes = tacit__packed_bytes(precision, COUNT);

    harness_fill(values, COUNT, 1, 1);
    for (int step = 0; step < STEPS; step++) {
        const tacit_stream_t stream = stream_at((uint64_t)step), other = stream_at((uint64_t)step + STEPS);

        tacit__pack(precision, &stream, 0, COUNT, values, packed);
        tacit__pack(precision, &stream, 0, 24, values, again);
        tacit__pack(precision, &stream, 24, COUNT - 24, values + 24, again);
        same_bytes(again, packed, bytes, "cut");
        tacit__unpack(precision, 0, COUNT, packed, back);
        tacit__pack(precision, &other, 0, COUNT, back, again);
        if (precision == TACIT_PRECISION_INT8) { /* the scale may be a finer one now */
            float twice[COUNT];

            tacit__unpack(precision, 0, COUNT, again, twice);
            same_floats(twice, back, COUNT, "twice");
        } else {
            same_bytes(again, packed, bytes, "twice");
        }
        for (int i = 0; i < COUNT; i++) {
            ck_assert_double_lt(fabs((double)back[i] - (double)values[i]),
                                step_of(precision, values[i], largest_of(values + i / 8 * 8, 8)));
            mean[i] += (double)back[i] / STEPS;
        }
    }
    for (int i = 0; i < COUNT; i++) { /* the deviation of one draw is half a step at most; five of them */
        const double step = step_of(precision, values[i], largest_of(values + i / 8 * 8, 8));

        ck_assert_double_le(fabs(mean[i] - (double)values[i]), 5 * step / 2 / sqrt(STEPS));
    }
}
END_TEST

/* Ends of the range, and what is none. */
START_TEST(ends)
{
    static const float values[9] = {FLT_MAX, -FLT_MAX, 0x1p-149f, NAN, INFINITY, -INFINITY, 0, -0.0f, 0x1p-149f};
    float              back[9];
    uint8_t            packed[18];

    for (uint64_t step = 0; step < 200; step++) {
        const tacit_stream_t stream = stream_at(step);

        tacit__pack(precisions[_i], &stream, 0, 9, values, packed);
        tacit__unpack(precisions[_i], 0, 9, packed, back);
        for (int i = 0; i < 9; i++) {
            ck_assert(isfinite(back[i]));
        }
        ck_assert(back[0] > 0.98f * FLT_MAX && back[1] < -0.98f * FLT_MAX);
        ck_assert(back[3] == 0 && back[4] == 0 && back[5] == 0 && back[6] == 0 && back[7] == 0 && fabsf(back[8]) <= 0x1p-133f);
    }
}
END_TEST

/* ---- Memory ---- */

typedef struct sizes {
    const char *spec;
    size_t      bytes[3]; /* of each array, in float32, bf16, int8, in turn */
    bool        right;
} sizes_t;

/* What a slot of 1000 elements keeps as a sender. After a step nothing else is left lying about. */
static void sizes_body(tacit_comm_t *comm, void *arg)
{
    sizes_t      *sizes = arg;
    tacit_slot_t *slot = slot_of(comm, "gradient", 1000, TACIT_FLOAT32, sizes->spec);
    float         g[1000], out[1000];
    tacit_array_t array;

    session_normal(tacit_comm_rank(comm), 0, 1000, g);
    MUST(tacit_allreduce(slot, g, out, TACIT_SUM));
    if (tacit_comm_rank(comm) != 0) {
        return;
    }
    for (size_t i = 0; tacit__codec_array(slot->codec, i, &array) && strcmp(array.name, "owner") != 0; i++) {
        sizes->bytes[i] = 4 * array.count;
    }
    sizes->right = true;
    for (int i = 0; i < TACIT_STATE_ARRAYS; i++) {
        sizes->right = sizes->right && (slot->codec->packed[i] == NULL || slot->codec->memory.now[i] == NULL);
    }
}

START_TEST(smaller)
{
    static const struct {
        const char *spec;
        size_t      bytes[3];
    } cases[] = {
        {"onebit+ef", {4000}},
        {"onebit+ef:residual=bf16", {2000}},
        {"onebit+ef:residual=int8", {1128}}, /* 125 blocks of nine, and padding */
        {"topk+ef:residual=int8", {1128}},
        {"randk+ef:residual=bf16", {2000}},
        {"topk+econtrol:residual=int8", {4000, 4000, 1128}},
        {"qsgd+econtrol:residual=bf16", {4000, 4000, 2000}},
        {"qsgd+ef21", {4000, 4000}},
        {"topk+ef21:average=0.5,residual=int8", {4000, 4000, 1128}},
        {"topk+dgc:residual=bf16,dense=0", {2000, 2000}},
        {"topk+dgc:residual=bf16,dense=4K", {4000}}, /* dense: a momentum of the mean, the same on all ranks */
    };

    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        sizes_t sizes = {.spec = cases[c].spec};

        run_ranks(2, NULL, sizes_body, &sizes);
        for (size_t i = 0; i < 3; i++) {
            ck_assert_msg(sizes.bytes[i] == cases[c].bytes[i], "%s: array %zu has %zu bytes", sizes.spec, i, sizes.bytes[i]);
        }
        ck_assert_msg(sizes.right, "%s", sizes.spec);
    }
}
END_TEST

/* One element is sent in each step; the others gain 2^-10 each time. Kept to the nearest, they would stop at about 1/2, where a
   gain is below half a step. The deviation of a step's rounding is below 2^-5 sqrt(p (1 - p)), p = 2^-5, hence after 4096 of them
   below 0.35. */
static void slow(int rank, int step, size_t count, const float *x, float *g)
{
    (void)rank;
    (void)step;
    (void)x;
    for (size_t i = 0; i < count; i++) {
        g[i] = i == 3 ? 1000 : 0x1p-10f;
    }
}

START_TEST(small_gains)
{
    char    spec[64];
    track_t track = {.spec = spec, .ranks = 1, .steps = 4096, .count = 16, .gradient = slow};

    snprintf(spec, sizeof spec, "topk:ratio=0.06+%s:residual=%s", _i / 2 == 0 ? "ef" : "econtrol", words[_i % 2]);
    track_run(&track);
    for (size_t i = 0; i < 16; i++) {
        const float kept = track.memory[_i / 2 == 0 ? 0 : THIRD][0][4095 * 16 + i];

        if (_i / 2 == 0) {
            ck_assert_msg(i == 3 ? kept == 0 : fabsf(kept - 4) < 5 * 0.35f, "%s: %zu has %g", spec, i, (double)kept);
        } else {
            ck_assert_msg(fabsf(kept) < 5, "%s: %zu has %g", spec, i, (double)kept);
        }
    }
    track_free(&track);
}
END_TEST

/* A blockwise sender's memory too, over many steps: what came out and what is kept make up what went in, but for roundings, which
   are at random: of 400 steps of at most 2^-6 of the memory's 2, five deviations. */
START_TEST(conserved)
{
    enum { STEPS = 400, COUNT = 100 };
    char    spec[64];
    track_t track = {.spec = spec, .ranks = _i < 4 ? 2 : 8, .steps = STEPS, .count = COUNT, .op = TACIT_SUM};
    double  balance[COUNT] = {0};
    float   g[COUNT], largest = 0;

    snprintf(spec, sizeof spec, "onebit:block=32+ef:residual=%s", words[_i % 2]);
    if (_i % 4 >= 2) { /* by turns averages and sums, so that the owner's memory joins the sender's each time */
        track.op = TACIT_AVERAGE;
        track.switches = true;
    }
    track_run(&track);
    for (int step = 0; step < STEPS; step++) {
        for (int rank = 0; rank < track.ranks; rank++) {
            session_normal(rank, step, COUNT, g);
            for (int i = 0; i < COUNT; i++) {
                balance[i] += (double)g[i];
            }
            largest = fmaxf(largest, largest_of(track.memory[0][rank] + step * COUNT, COUNT));
        }
        for (int i = 0; i < COUNT; i++) {
            balance[i] -= (track.switches && step % 2 == 0 ? track.ranks : 1) * (double)track.out[step * COUNT + i];
        }
    }
    for (int i = 0; i < COUNT; i++) {
        const int at = (STEPS - 1) * COUNT + i;

        for (int rank = 0; rank < track.ranks; rank++) {
            balance[i] -= (double)track.memory[0][rank][at];
        }
        balance[i] -= (double)track.owner[at];
        ck_assert_double_le(fabs(balance[i]), 5 * sqrt(track.ranks * STEPS) * (double)largest / 127);
    }
    track_free(&track);
}
END_TEST

/* The error of econtrol vanishes, and its roundings with it: it arrives as in float32 (econtrol.c). */
START_TEST(arrives)
{
    char    spec[96];
    track_t track = {
        .spec = spec, .ranks = 4, .steps = 1500, .count = 8, .gamma = 0.1f, .op = TACIT_AVERAGE, .gradient = float_p1};

    snprintf(spec, sizeof spec, "topk:ratio=0.125+econtrol:eta=0.0625,residual=%s", words[_i]);
    track_run(&track);
    ck_assert_double_lt(track_distance(&track, track.steps - 1, optimum_p1), 1e-9);
    track_free(&track);
}
END_TEST

/* Ranks and steps round by numbers of their own; a seed changes them. */
START_TEST(own_numbers)
{
    track_t one = {.spec = "topk:ratio=0.1+ef:residual=int8", .ranks = 2, .steps = 2, .count = 100, .gradient = slow},
            other = one;

    other.config.seed = 5;
    one.gradient = other.gradient = NULL;
    track_run(&one);
    track_run(&other);
    ck_assert(memcmp(one.memory[0][0], other.memory[0][0], 100 * sizeof(float)) != 0);
    track_free(&one);
    track_free(&other);
}
END_TEST

/* State of one precision is not taken for that of another. */
static void loading_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "gradient", 100, TACIT_FLOAT32, *(const char **)arg);
    char          path[HARNESS_PATH_BYTES];

    harness_path(path, "state");
    if (slot->codec->precision == TACIT_PRECISION_FP32) {
        MUST(tacit_save(comm, path));
    } else {
        *(bool *)((const char **)arg + 1) =
            tacit_load(comm, path) == TACIT_ERR_MISMATCH && strstr(tacit_last_error(), "ef:residual=int8") != NULL;
        (void)remove(path);
    }
}

START_TEST(other_state)
{
    struct {
        const char *spec;
        bool        right;
    } work = {"topk+ef", false};

    run_ranks(1, NULL, loading_body, &work);
    work.spec = "topk+ef:residual=int8";
    run_ranks(1, NULL, loading_body, &work);
    ck_assert(work.right);
}
END_TEST

/* ---- Rescaling ---- */

typedef struct rescaled {
    const char *spec;
    double      factor;
    float       before[ARRAYS + 1][200], after[ARRAYS + 1][200]; /* rank 1's; the last one the owner's */
    double      norm;
    bool        refused;
} rescaled_t;

static void remember(const tacit_slot_t *slot, float memory[ARRAYS + 1][200])
{
    for (int array = 0; array < ARRAYS; array++) {
        read_memory(slot->codec, array, memory[array]);
    }
    if (slot->codec->owner.count != 0) {
        memcpy(memory[ARRAYS], slot->codec->owner.now[0], slot->codec->owner.count * sizeof(float));
    }
}

static void rescaled_body(tacit_comm_t *comm, void *arg)
{
    rescaled_t      *found = arg;
    rescaled_t       ignored = {.spec = found->spec, .factor = found->factor};
    tacit_slot_t    *slot = slot_of(comm, "gradient", 200, TACIT_FLOAT32, found->spec);
    tacit_request_t *request;
    tacit_norms_t    norms;
    float            g[200], out[200];

    found = tacit_comm_rank(comm) == 1 ? found : &ignored;
    for (int step = 0; step < 3; step++) {
        session_normal(tacit_comm_rank(comm), step, 200, g);
        MUST(tacit_allreduce(slot, g, out, TACIT_SUM));
    }
    remember(slot, found->before);
    found->refused = tacit_slot_rescale(slot, 0) == TACIT_ERR_ARGUMENT && tacit_slot_rescale(slot, -1) == TACIT_ERR_ARGUMENT &&
                     tacit_slot_rescale(slot, (double)NAN) == TACIT_ERR_ARGUMENT &&
                     tacit_slot_rescale(slot, 1e300) == TACIT_ERR_ARGUMENT && tacit_slot_rescale(NULL, 1) == TACIT_ERR_ARGUMENT;
    MUST(tacit_slot_rescale(slot, found->factor));
    remember(slot, found->after);
    MUST(tacit_slot_norms(slot, &norms));
    found->norm = norms.memory;
    MUST(tacit_iallreduce(slot, g, out, TACIT_SUM, &request));
    found->refused = found->refused && tacit_slot_rescale(slot, 2) == TACIT_ERR_STATE;
    MUST(tacit_wait(&request));
}

START_TEST(rescaling)
{
    static const struct {
        const char *spec;
        double      factor, tolerance; /* of the largest value */
        int         scaled;            /* arrays: bits; 8: the owner's */
        int         kept_back;         /* which array the norm is of; -1: none */
    } cases[] = {
        {"onebit:block=32+ef", 0.3, 1e-7, 1 + 8, 0},
        {"topk:ratio=0.1+ef", 4, 0, 1, 0},
        {"onebit:block=32+ef:residual=bf16", 0.5, 0, 1 + 8, 0},
        {"onebit:block=32+ef:residual=int8", 4, 0, 1 + 8, 0},
        {"topk:ratio=0.1+ef:residual=bf16", 0.3, 0x1p-7, 1, 0},
        {"randk:ratio=0.1+ef:residual=int8", 0.3, 0x1p-6, 1, 0},
        {"onebit:block=32+econtrol", 0.3, 1e-7, 4, THIRD},
        {"topk:ratio=0.1+econtrol:residual=int8", 2, 0, 4, THIRD},
        {"onebit:block=32+ef21", 0.3, 0, 0, -1},
        {"topk:ratio=0.1+ef21:average=0.5", 0.3, 0, 0, -1},
        {"topk:ratio=0.1+dgc:dense=0,residual=bf16", 0.5, 0, 2, 1},
    };
    rescaled_t found = {.spec = cases[_i].spec, .factor = cases[_i].factor};
    double     norm = 0;

    run_ranks(2, NULL, rescaled_body, &found);
    ck_assert_msg(found.refused, "%s", found.spec);
    for (int array = 0; array <= ARRAYS; array++) {
        const double factor = (cases[_i].scaled >> array & 1) != 0 ? cases[_i].factor : 1;
        const double bound = factor != 1 ? cases[_i].tolerance * (double)largest_of(found.before[array], 200) : 0;

        ck_assert(factor == 1 || largest_of(found.before[array], 200) > 0);
        for (int i = 0; i < 200; i++) {
            ck_assert_msg(fabs((double)found.after[array][i] - factor * (double)found.before[array][i]) <= bound,
                          "%s: array %d [%d] was %g and is %g", found.spec, array, i, (double)found.before[array][i],
                          (double)found.after[array][i]);
        }
    }
    for (int i = 0; cases[_i].kept_back >= 0 && i < 200; i++) {
        norm += (double)found.after[cases[_i].kept_back][i] * (double)found.after[cases[_i].kept_back][i];
    }
    ck_assert_double_eq(found.norm, sqrt(norm));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("precision");
    TCase *packing = tcase_create("packing"), *memory = tcase_create("memory"), *scales = tcase_create("rescaling");

    tcase_add_test(packing, exact);
    tcase_add_loop_test(packing, neighbours, 0, 2);
    tcase_add_loop_test(packing, ends, 0, 2);
    tcase_add_test(memory, smaller);
    tcase_add_loop_test(memory, small_gains, 0, 4);
    tcase_add_loop_test(memory, conserved, 0, 8);
    tcase_add_loop_test(memory, arrives, 0, 2);
    tcase_add_test(memory, own_numbers);
    tcase_add_test(memory, other_state);
    tcase_add_loop_test(scales, rescaling, 0, 11);
    suite_add_tcase(suite, packing);
    suite_add_tcase(suite, memory);
    suite_add_tcase(suite, scales);
    tcase_set_timeout(memory, 60);
    return harness_main(suite);
}
