/* SPDX-License-Identifier: Apache-2.0 */
/* Slots of 16-bit types: what comes out is the float32 result rounded once, and memory is float32. */
#include "session.h"

#include "half.h"

enum { RANKS = 3, STEPS = 6 };

static const char *specs[] = {"none",
                              "none+ef",
                              "fp16",
                              "bf16+ef",
                              "onebit:block=64+ef",
                              "onebit:block=0+ef",
                              "qsgd:bits=8",
                              "qsgd:bits=4,own=coded+ef",
                              "topk:ratio=0.05+ef",
                              "topk:ratio=0.2",
                              "randk:ratio=0.1+ef",
                              "randk:ratio=0.5"};

enum { SPARSE = 8 }; /* the first of two */

static const size_t counts[] = {0, 1, 65, 3000};

/* Half the distance of numbers near 1, and the smallest normal number, of each type. */
static const struct {
    tacit_dtype_t type;
    double        roundoff, smallest;
} types[] = {{TACIT_FLOAT16, 0x1p-11, 0x1p-14}, {TACIT_BFLOAT16, 0x1p-8, 0x1p-126}};

typedef struct run {
    const char    *spec;
    tacit_dtype_t  dtype;
    size_t         count;
    tacit_op_t     op;
    int            in_place;
    tacit_config_t config;
    uint64_t       hash[RANKS];
    float         *out;           /* widened, of all steps */
    float         *memory[RANKS]; /* after the last one */
    float         *owner;
} run_t;

static void narrow(tacit_dtype_t dtype, const float *x, void *to, size_t count)
{
    if (dtype == TACIT_FLOAT16) {
        tacit__float16_narrow(x, to, count);
    } else if (dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_narrow(x, to, count);
    } else {
        memcpy(to, x, count * sizeof *x);
    }
}

static void widen(tacit_dtype_t dtype, const void *from, float *x, size_t count)
{
    if (dtype == TACIT_FLOAT16) {
        tacit__float16_widen(from, x, count);
    } else if (dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_widen(from, x, count);
    } else {
        memcpy(x, from, count * sizeof *x);
    }
}

/* What a rank gives, as float32: numbers that the 16-bit type has, so that a float32 slot may be given the same. */
static void given(tacit_dtype_t dtype, int rank, int step, size_t count, float *x)
{
    uint16_t *narrowed = calloc(count + 1, sizeof *narrowed);

    session_normal(rank, step, count, x);
    if (dtype != TACIT_FLOAT32) {
        narrow(dtype, x, narrowed, count);
        widen(dtype, narrowed, x, count);
    }
    free(narrowed);
}

static tacit_dtype_t input_dtype;

static void body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", run->count, run->dtype, run->spec);
    const size_t  bytes = run->dtype == TACIT_FLOAT32 ? 4 : 2;
    float        *x = session_floats(run->count);
    uint8_t      *in = calloc(run->count + 1, bytes), *out = calloc(run->count + 1, bytes);

    for (int step = 0; step < STEPS; step++) {
        given(input_dtype, rank, step, run->count, x);
        narrow(run->dtype, x, run->in_place ? out : in, run->count);
        MUST(tacit_allreduce(slot, run->in_place ? out : in, out, run->op));
        run->hash[rank] = 31 * run->hash[rank] + harness_hash(out, run->count * bytes);
        if (rank == 0) {
            widen(run->dtype, out, run->out + (size_t)step * run->count, run->count);
        }
    }
    if (slot->codec->feedback != NULL) {
        memcpy(run->memory[rank], slot->codec->memory.now[0], run->count * sizeof *x);
    }
    for (size_t i = 0, element; i < slot->codec->owner.count; i++) {
        (void)tacit__codec_owned(slot->codec, i, &element);
        run->owner[element] = slot->codec->owner.now[0][i];
    }
    free(x);
    free(in);
    free(out);
}

static void run_all(run_t *run)
{
    run->config.struct_bytes = sizeof run->config;
    run->out = session_floats(STEPS * run->count);
    run->owner = session_floats(run->count);
    for (int rank = 0; rank < RANKS; rank++) {
        run->memory[rank] = session_floats(run->count);
    }
    run_ranks(RANKS, &run->config, body, run);
    for (int rank = 1; rank < RANKS; rank++) {
        ck_assert_msg(run->hash[rank] == run->hash[0], "%s: rank %d has another result than rank 0", run->spec, rank);
    }
}

static void free_run(run_t *run)
{
    for (int rank = 0; rank < RANKS; rank++) {
        free(run->memory[rank]);
    }
    free(run->out);
    free(run->owner);
}

/* A float32 slot that is given the same numbers has the same memory, bit by bit, and a result that is rounded to ours. `none` is
   the cast of the type where a slot is of 16 bits. */
static void as_wide(const run_t *run)
{
    const char *cast = run->dtype == TACIT_FLOAT16 ? "fp16" : "bf16";
    char        spec[64];
    run_t       wide = *run;
    uint16_t    narrowed[2];

    snprintf(spec, sizeof spec, "%s%s", strncmp(run->spec, "none", 4) == 0 ? cast : run->spec,
             strncmp(run->spec, "none", 4) == 0 ? run->spec + 4 : "");
    wide.spec = spec;
    wide.dtype = TACIT_FLOAT32;
    run_all(&wide);
    for (size_t i = 0; i < STEPS * run->count; i++) {
        narrow(run->dtype, wide.out + i, narrowed, 1);
        widen(run->dtype, narrowed, wide.out + i, 1);
    }
    same_floats(run->out, wide.out, STEPS * run->count, run->spec);
    same_floats(run->owner, wide.owner, run->count, run->spec);
    for (int rank = 0; rank < RANKS; rank++) {
        same_floats(run->memory[rank], wide.memory[rank], run->count, run->spec);
    }
    free_run(&wide);
}

/* What all gave is what came out and what is remembered, but for the rounding of each step's result, which nobody remembers,
   and a few roundings of float32. */
static void conserves(const run_t *run, double roundoff, double smallest)
{
    const double share = run->op == TACIT_AVERAGE ? 1.0 / RANKS : 1.0;
    double      *balance = calloc(run->count + 1, sizeof *balance), *bound = calloc(run->count + 1, sizeof *bound);
    float       *x = session_floats(run->count);

    for (int step = 0; step < STEPS; step++) {
        for (size_t i = 0; i < run->count; i++) {
            const double y = (double)run->out[(size_t)step * run->count + i];
            balance[i] -= y;
            bound[i] += roundoff * fmax(fabs(y), smallest) / (1 - roundoff) + 64 * 10 * (double)FLT_EPSILON;
        }
        for (int rank = 0; rank < RANKS; rank++) {
            given(run->dtype, rank, step, run->count, x);
            for (size_t i = 0; i < run->count; i++) {
                balance[i] += share * (double)x[i];
            }
        }
    }
    for (size_t i = 0; i < run->count; i++) {
        for (int rank = 0; rank < RANKS; rank++) {
            balance[i] -= share * (double)run->memory[rank][i];
        }
        balance[i] -= (double)run->owner[i];
        ck_assert_msg(fabs(balance[i]) <= bound[i], "%s: element %zu has lost %g, more than %g", run->spec, i, balance[i],
                      bound[i]);
    }
    free(balance);
    free(bound);
    free(x);
}

START_TEST(as_float32_rounded)
{
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        for (size_t n = 0; n < COUNT_OF(counts); n++) {
            run_t run = {
                .spec = specs[_i], .dtype = types[t].type, .count = counts[n], .op = n % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE};

            input_dtype = run.dtype;
            run_all(&run);
            as_wide(&run);
            if (strstr(run.spec, "+ef") != NULL) {
                conserves(&run, types[t].roundoff, types[t].smallest);
            }
            free_run(&run);
        }
    }
}
END_TEST

/* `none` of a 16-bit slot: every contribution is a number of the type, so that the float64 sum is missed by the owner's rounding
   and float32's alone. */
START_TEST(none_against_float64)
{
    enum { COUNT = 1000 };
    const double roundoff = types[_i].roundoff;
    run_t        run = {.spec = "none", .dtype = types[_i].type, .count = COUNT, .op = TACIT_AVERAGE};
    float        x[COUNT];

    input_dtype = run.dtype;
    run_all(&run);
    for (int step = 0; step < STEPS; step++) {
        double mean[COUNT] = {0}, magnitude[COUNT] = {0};

        for (int rank = 0; rank < RANKS; rank++) {
            given(run.dtype, rank, step, COUNT, x);
            for (size_t i = 0; i < COUNT; i++) {
                mean[i] += (double)x[i] / RANKS;
                magnitude[i] += fabs((double)x[i]) / RANKS;
            }
        }
        for (size_t i = 0; i < COUNT; i++) {
            const double error = fabs((double)run.out[step * COUNT + (int)i] - mean[i]);
            ck_assert_double_le(error, roundoff * fmax(fabs(mean[i]), types[_i].smallest) +
                                           2 * RANKS * (double)FLT_EPSILON * magnitude[i]);
        }
    }
    free_run(&run);
}
END_TEST

START_TEST(in_place_and_in_chunks)
{
    run_t apart = {.spec = specs[_i], .dtype = TACIT_BFLOAT16, .count = 3000, .op = TACIT_AVERAGE}, same = apart, small = apart;

    input_dtype = TACIT_BFLOAT16;
    same.in_place = 1;
    small.config.chunk_bytes = 1024;
    run_all(&apart);
    run_all(&same);
    run_all(&small);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert(apart.hash[rank] == same.hash[rank] && apart.hash[rank] == small.hash[rank]);
        same_floats(apart.memory[rank], same.memory[rank], 3000, "in place");
        same_floats(apart.memory[rank], small.memory[rank], 3000, "small chunks");
    }
    free_run(&apart);
    free_run(&same);
    free_run(&small);
}
END_TEST

static void plan_owners(void)
{
    ask_for("none by sparse-scatter");
}

static void plan_nothing(void)
{
    ask_for(NULL);
}

int main(void)
{
    Suite *suite = suite_create("dtype");
    TCase *tests = tcase_create("dtype"), *owners = tcase_create("owners");

    tcase_add_loop_test(tests, as_float32_rounded, 0, (int)COUNT_OF(specs));
    tcase_add_loop_test(tests, none_against_float64, 0, (int)COUNT_OF(types));
    tcase_add_loop_test(tests, in_place_and_in_chunks, 0, (int)COUNT_OF(specs));
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(owners, plan_owners, plan_nothing);
    tcase_add_loop_test(owners, as_float32_rounded, SPARSE, SPARSE + 2);
    tcase_add_loop_test(owners, in_place_and_in_chunks, SPARSE, SPARSE + 2);
    suite_add_tcase(suite, owners);
    tcase_set_timeout(owners, 120);
    return harness_main(suite);
}
