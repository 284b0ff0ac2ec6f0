/* SPDX-License-Identifier: Apache-2.0 */
/* `auto:error=E+ef`: what stands for it, that this keeps within the error, and that nothing is lost when it changes. What is
   chosen by measurement is in cost.c: here is nothing to measure, and what has the fewest bytes is chosen. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "automatic.h"
#include "harness.h"
#include "ranks.h"

enum { COUNT = 50000, RANKS = 3 };

/* ---- Specs ---- */

static const char *spelled_out(const char *spec, char text[TACIT_SPEC_BYTES])
{
    ck_assert_msg(tacit_spec_check(spec, text, TACIT_SPEC_BYTES) == TACIT_OK, "%s", tacit_last_error());
    return text;
}

START_TEST(grammar)
{
    static const char *const refused[][2] = {{"auto+ef", "without error= it loses nothing"},
                                             {"auto:error=0+ef", "without error= it loses nothing"},
                                             {"auto:error=0.1+dgc", "has the feedback 'ef'"},
                                             {"auto:error=0.1+ef21", "has the feedback 'ef'"},
                                             {"auto:error=1.5+ef", "error"},
                                             {"auto:errors=0.1", "did you mean 'error'?"},
                                             {"autos", "did you mean 'auto'?"}};
    char                     text[TACIT_SPEC_BYTES];

    ck_assert_str_eq(spelled_out("auto", text), "auto");
    ck_assert_str_eq(spelled_out("auto:error=0", text), "auto");
    ck_assert_str_eq(spelled_out("auto:error=0.25", text), "auto:error=0.25");
    ck_assert_str_eq(spelled_out("auto:error=0.05+ef:residual=int8", text), "auto:error=0.05+ef:residual=int8");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        ck_assert_int_eq(tacit_spec_check(refused[i][0], NULL, 0), TACIT_ERR_SPEC);
        ck_assert_msg(strstr(tacit_last_error(), refused[i][1]) != NULL, "%s", tacit_last_error());
    }
}
END_TEST

/* All that may stand for a spec, in order. */
static const char *alternatives(const char *text, tacit_dtype_t dtype, char list[2 * TACIT_SPEC_BYTES])
{
    tacit_spec_t spec = {0};
    char         one[TACIT_SPEC_BYTES];

    MUST(tacit__spec_parse(text, &spec));
    list[0] = '\0';
    for (size_t i = 0; tacit__automatic_spec(&spec, dtype, i, one); i++) {
        snprintf(list + strlen(list), 2 * TACIT_SPEC_BYTES - strlen(list), "%s%s", i > 0 ? " " : "", one);
    }
    tacit__spec_release(&spec);
    return list;
}

START_TEST(what_stands_for_it)
{
    char list[2 * TACIT_SPEC_BYTES];

    ck_assert_str_eq(alternatives("auto", TACIT_FLOAT32, list), "none");
    ck_assert_str_eq(alternatives("auto:error=0.001+ef", TACIT_FLOAT32, list), "none");
    ck_assert_str_eq(alternatives("auto:error=0.004+ef", TACIT_FLOAT32, list), "none bf16+ef");
    ck_assert_str_eq(alternatives("auto:error=0.05", TACIT_FLOAT32, list), "none bf16 qsgd:bits=8");
    ck_assert_str_eq(alternatives("auto:error=0.1+ef", TACIT_FLOAT32, list), "none bf16+ef qsgd:bits=8+ef rotq:bits=4+ef");
    ck_assert_str_eq(alternatives("auto:error=0.4+ef:residual=bf16", TACIT_BFLOAT16, list),
                     "none qsgd:bits=8+ef:residual=bf16 rotq:bits=2+ef:residual=bf16");
    ck_assert_str_eq(alternatives("auto:error=1+ef", TACIT_FLOAT16, list), "none qsgd:bits=8+ef rotq:bits=1+ef");
}
END_TEST

/* ---- Errors ---- */

/* Normal; with long tails; rows of very different size; one of a thousand that is large; one alone in each block. */
static void fill(int kind, float *x)
{
    harness_random_t random = {(uint64_t)kind + 1};

    for (size_t i = 0; i < COUNT; i++) {
        const double normal = harness_normal(&random);

        x[i] = (float)(kind == 0   ? normal
                       : kind == 1 ? copysign(log(1 - harness_uniform(&random, 0, 1)), normal)
                       : kind == 2 ? normal * exp2((double)(i / 1000 % 20) - 10)
                       : kind == 3 ? normal * (i % 1000 == 17 ? 1000 : 1)
                                   : (i % 256 == 99 ? normal : 0));
    }
}

/* Whatever the values are; for each error the smallest, which has the largest error. */
START_TEST(keeps_within)
{
    static const double errors[] = {0.004, 0.0445, 0.1, 0.19, 0.35, 0.61};
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    float              *x = malloc(2 * COUNT * sizeof *x), *y = x + COUNT;

    for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
        for (int kind = 0; kind < 5; kind++) {
            char           spec[64];
            tacit_codec_t *codec;
            uint8_t       *frame;
            size_t         bytes;
            double         lost = 0, all = 0;

            snprintf(spec, sizeof spec, "auto:error=%g", errors[e]);
            tensor.count = COUNT;
            tensor.spec = spec;
            MUST(tacit_codec_create("gradient", &tensor, NULL, 0, 1, &codec));
            fill(kind, x);
            frame = malloc(tacit_codec_capacity(codec, COUNT));
            MUST(tacit_encode(codec, 0, x, 0, COUNT, frame, tacit_codec_capacity(codec, COUNT), &bytes));
            MUST(tacit_decode(codec, 0, frame, bytes, y, NULL, NULL));
            for (size_t i = 0; i < COUNT; i++) {
                lost += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
                all += (double)x[i] * (double)x[i];
            }
            ck_assert_msg(sqrt(lost / all) <= errors[e], "kind %d: %s, which is %s, loses %g", kind, spec, codec->spec.text,
                          sqrt(lost / all));
            ck_assert_uint_lt(bytes, COUNT * 2 + 200); /* something was gained */
            free(frame);
            tacit_codec_destroy(codec);
        }
    }
    free(x);
}
END_TEST

/* ---- Changes ---- */

typedef struct run {
    const char    *specs[6];             /* one a step; NULL: as before */
    const char    *compressor[RANKS][6]; /* in each step */
    bool           remembers[RANKS][6];  /* … and whether there is feedback */
    double         off[RANKS][6];        /* how far the sum of all results is from that of all inputs, after each step */
    tacit_norms_t  norms[RANKS][6];      /* after it */
    const char    *at_once;              /* at step 1, after that step's own; or NULL */
    int            bad;                  /* a step in which rank 1 has a NaN first; -1: none */
    tacit_status_t fault[RANKS];
} run_t;

static void contribute(int rank, int step, float *x)
{
    harness_fill(x, COUNT, (uint64_t)(10 * step + rank + 1), 1);
}

static void *change_buffer(void)
{
    return calloc(COUNT, sizeof(double));
}

static void change(tacit_comm_t *comm, void *arg)
{
    run_t              *run = arg;
    const int           rank = tacit_comm_rank(comm);
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    float              *x = change_buffer(), *y = change_buffer();
    double             *sent = change_buffer(), *received = change_buffer();

    config.count = COUNT;
    config.ndim = 2;
    config.shape[0] = 200;
    config.shape[1] = COUNT / 200;
    config.spec = run->specs[0];
    MUST(tacit_slot_create(comm, "gradient", &config, &slot));
    for (int step = 0; step < 6; step++) {
        double off = 0;

        if (step > 0 && run->specs[step] != NULL) {
            MUST(tacit_slot_set_spec(slot, run->specs[step]));
        }
        if (step == 1 && run->at_once != NULL) {
            MUST(tacit_slot_set_spec(slot, run->at_once));
        }
        run->compressor[rank][step] = slot->codec->compressor->name;
        run->remembers[rank][step] = slot->codec->feedback != NULL;
        contribute(rank, step, x);
        if (run->bad == step) {
            x[7] = rank == 1 ? NAN : x[7];
            run->fault[rank] = tacit_allreduce(slot, x, y, TACIT_AVERAGE);
            contribute(rank, step, x);
        }
        MUST(tacit_allreduce(slot, x, y, TACIT_AVERAGE));
        for (int peer = 0; peer < RANKS; peer++) {
            contribute(peer, step, x);
            for (size_t i = 0; i < COUNT; i++) {
                sent[i] += (double)x[i] / RANKS;
            }
        }
        for (size_t i = 0; i < COUNT; i++) {
            received[i] += (double)y[i];
            off = fmax(off, fabs(received[i] - sent[i]));
        }
        run->off[rank][step] = off;
        MUST(tacit_slot_norms(slot, &run->norms[rank][step]));
    }
    free(x);
    free(y);
    free(sent);
    free(received);
}

/* All ranks went by these compressors; what was owed before a dense step is paid after it, and nothing is owed behind. */
static void expect(const run_t *run, const char *const compressors[6])
{
    for (int rank = 0; rank < RANKS; rank++) {
        for (int step = 0; step < 6; step++) {
            const bool dense = strcmp(compressors[step], "none") == 0;

            ck_assert_str_eq(run->compressor[rank][step], compressors[step]);
            ck_assert_msg(dense ? run->off[rank][step] < 1e-5 : run->off[rank][step] > 1e-4, "step %d: off by %g", step,
                          run->off[rank][step]);
            ck_assert(dense ? run->norms[rank][step].memory == 0 && run->norms[rank][step].owner == 0
                            : rank > 0 || run->norms[rank][step].memory > 0); /* others may have none of a host's */
        }
    }
}

/* Owed to whichever compressor comes next; and paid back in the first dense step, the only one that has feedback. */
START_TEST(pays_what_it_owes)
{
    run_t run = {.specs = {"auto:error=0.4+ef", "auto:error=0.05+ef", "auto", NULL, "auto:error=0.1+ef", "auto:error=0"},
                 .bad = -1};
    static const char *const compressors[] = {"rotq", "qsgd", "none", "none", "rotq", "none"};
    static const bool        remembers[] = {true, true, true, false, true, true};

    run_ranks(RANKS, NULL, change, &run);
    expect(&run, compressors);
    for (int step = 0; step < 6; step++) {
        ck_assert_int_eq(run.remembers[0][step], remembers[step]);
    }
}
END_TEST

/* … in doubled and in packed memory, too. */
START_TEST(whatever_memory)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    run_t          run = {.specs = {"auto:error=0.4+ef", NULL, "auto:error=0.05+ef", "auto"}, .bad = -1};
    run_t          packed = {.specs = {"auto:error=0.4+ef:residual=bf16", NULL, "auto:error=0.05+ef:residual=bf16"}, .bad = -1};
    static const char *const compressors[] = {"rotq", "rotq", "qsgd", "none", "none", "none"};

    config.strict = 1;
    run_ranks(RANKS, &config, change, &run);
    expect(&run, compressors);
    run_ranks(RANKS, NULL, change, &packed);
    for (int step = 0; step < 6; step++) {
        ck_assert_str_eq(packed.compressor[0][step], step < 2 ? "rotq" : "qsgd");
        ck_assert(packed.off[0][step] < (step < 2 ? 4 : 0.2));
    }
}
END_TEST

/* What memory of one kind holds is paid before there is memory of another. */
START_TEST(other_memory)
{
    run_t run = {.specs = {"auto:error=0.4+ef:residual=bf16", "auto", NULL, "auto:error=0.05+ef:residual=int8", "auto"},
                 .at_once = "auto:error=0.4+ef:residual=int8",
                 .bad = -1};
    static const char *const compressors[] = {"rotq", "none", "rotq", "qsgd", "none", "none"};

    run_ranks(RANKS, NULL, change, &run);
    for (int rank = 0; rank < RANKS; rank++) {
        for (int step = 0; step < 6; step++) {
            ck_assert_str_eq(run.compressor[rank][step], compressors[step]);
            ck_assert(run.off[rank][step] < (strcmp(compressors[step], "none") == 0 ? 0.1 : 8));
        }
    }
}
END_TEST

/* Without a choice: to `none`, from whatever has `ef`, on one level and on two. Where owners choose again, too. Asked twice, and
   after an operation that fails. */
static void leave(const char *asked, const char *hosts)
{
    char        spec[SPEC_BYTES];
    run_t       run = {.specs = {spec_in(asked, spec), "none"}, .at_once = "none", .bad = 1};
    const char *compressors[6] = {NULL, "none", "none", "none", "none", "none"};

    ask_for(asked);
    name_hosts(hosts);
    run_ranks(RANKS, NULL, change, &run);
    name_hosts(NULL);
    ask_for("");
    compressors[0] = run.compressor[0][0];
    expect(&run, compressors);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert(run.remembers[rank][1] && !run.remembers[rank][2]);
    }
}

START_TEST(to_none)
{
    static const char *const specs[] = {"onebit+ef", "qsgd:bits=4+ef", "topk:ratio=0.01+ef", "randk:ratio=0.01+ef",
                                        "powersgd+ef"};

    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        leave(specs[i], NULL);
        leave(specs[i], "2,1");
    }
    leave("topk:ratio=0.01+ef by sparse-scatter", NULL);
    leave("topk:ratio=0.01+ef by two_level_scatter", "2,1");
}
END_TEST

/* Tensors of 16 bits: compressed between hosts, dense as they are. */
static void half_body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", COUNT, TACIT_BFLOAT16, "auto:error=0.4+ef");
    uint16_t     *x = change_buffer(), *y = change_buffer();
    double       *sum = change_buffer(), off = 0;

    for (size_t i = 0; i < COUNT; i++) {
        x[i] = 0x3f80; /* 1 */
    }
    for (int step = 0; step < 3; step++) {
        if (step == 1) {
            MUST(tacit_slot_set_spec(slot, "auto"));
        }
        run->compressor[rank][step] = tacit_slot_schedule(slot);
        MUST(tacit_allreduce(slot, x, y, TACIT_SUM));
        for (size_t i = 0; i < COUNT; i++) {
            const uint32_t bits = (uint32_t)y[i] << 16;
            float          value;

            memcpy(&value, &bits, sizeof value);
            sum[i] += (double)value;
        }
    }
    for (size_t i = 0; i < COUNT; i++) {
        off = fmax(off, fabs(sum[i] - 3 * RANKS));
    }
    run->off[rank][0] = off;
    free(x);
    free(y);
    free(sum);
}

START_TEST(half_on_two_levels)
{
    run_t run = {.bad = -1};

    name_hosts("2,1");
    run_ranks(RANKS, NULL, half_body, &run);
    name_hosts(NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_str_eq(run.compressor[rank][0], "two_level");
        ck_assert_str_eq(run.compressor[rank][1], "blockwise");
        ck_assert_str_eq(run.compressor[rank][2], "blockwise");
        ck_assert_msg(run.off[rank][0] < 0.1, "off by %g", run.off[rank][0]);
    }
}
END_TEST

/* An operation that fails has paid nothing: the next one does. */
START_TEST(fault_before_it_pays)
{
    run_t                    run = {.specs = {"auto:error=0.4+ef", NULL, "auto"}, .bad = 2};
    static const char *const compressors[] = {"rotq", "rotq", "none", "none", "none", "none"};

    run_ranks(RANKS, NULL, change, &run);
    ck_assert_int_eq(run.fault[0], TACIT_ERR_VALUE);
    expect(&run, compressors);
}
END_TEST

/* Requests that are under way when the slot becomes dense, and calls and groups behind them. */
static void overlap(tacit_comm_t *comm, void *arg)
{
    run_t           *run = arg;
    const int        rank = tacit_comm_rank(comm);
    tacit_slot_t    *slot = slot_of(comm, "gradient", COUNT, TACIT_FLOAT32, "auto:error=0.4+ef");
    float           *x = change_buffer(), *y[5];
    tacit_request_t *requests[3] = {NULL};
    double           off = 0;

    for (int i = 0; i < 5; i++) {
        y[i] = change_buffer();
    }
    contribute(rank, 0, x);
    MUST(tacit_allreduce(slot, x, y[0], TACIT_SUM));
    MUST(tacit_slot_set_spec(slot, "auto"));
    MUST(tacit_iallreduce(slot, x, y[1], TACIT_SUM, &requests[0]));
    MUST(tacit_iallreduce(slot, x, y[2], TACIT_SUM, &requests[1]));
    if (rank == 1) { /* knows more than the others */
        MUST(tacit_wait(&requests[0]));
    }
    MUST(tacit_group_begin(comm));
    MUST(tacit_allreduce(slot, x, y[3], TACIT_SUM));
    MUST(tacit_group_end(comm, &requests[2]));
    MUST(tacit_allreduce(slot, x, y[4], TACIT_SUM));
    for (int i = 0; i < 3; i++) {
        MUST(tacit_wait(&requests[i]));
    }
    for (size_t i = 0; i < COUNT; i++) {
        const double two = (double)y[0][i] + (double)y[1][i], one = (double)y[4][i];

        off = fmax(off, fabs(two - 2 * one) + fabs((double)y[2][i] - one) + fabs((double)y[3][i] - one));
    }
    run->off[rank][0] = off;
    for (int i = 0; i < 5; i++) {
        free(y[i]);
    }
    free(x);
}

START_TEST(under_way)
{
    run_t run = {.bad = -1};

    run_ranks(RANKS, NULL, overlap, &run);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(run.off[rank][0] < 1e-4, "rank %d: off by %g", rank, run.off[rank][0]);
    }
}
END_TEST

/* ---- What ranks must have in common; what must not change ---- */

typedef struct answers {
    tacit_status_t status[RANKS][6];
    char           text[RANKS][6][TACIT_TEXT_BYTES];
} answers_t;

static void note(answers_t *answers, int rank, int number, tacit_status_t status)
{
    answers->status[rank][number] = status;
    snprintf(answers->text[rank][number], TACIT_TEXT_BYTES, "%s", status != TACIT_OK ? tacit_last_error() : "");
}

static void disagree(tacit_comm_t *comm, void *arg)
{
    answers_t          *answers = arg;
    const int           rank = tacit_comm_rank(comm);
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;

    config.count = COUNT;
    config.spec = rank == 2 ? "auto:error=0.41+ef" : "auto:error=0.4+ef";
    note(answers, rank, 0, tacit_slot_create(comm, "one", &config, &slot));
    config.spec = rank == 2 ? "none" : "auto:error=0.4+ef";
    note(answers, rank, 1, tacit_slot_create(comm, "two", &config, &slot));
    slot = slot_of(comm, "three", COUNT, TACIT_FLOAT32, "auto:error=0.4+ef");
    note(answers, rank, 2, tacit_slot_set_spec(slot, rank == 1 ? "auto:error=0.1+ef" : "auto:error=0.2+ef"));
    note(answers, rank, 3, tacit_slot_set_spec(slot, "onebit+ef"));
    note(answers, rank, 4, tacit_slot_set_spec(slot, "auto:error=0.1"));
    note(answers, rank, 5, tacit_slot_set_spec(slot, "auto:error=0.1+ef:residual=int8"));
}

START_TEST(refusals)
{
    static const struct {
        tacit_status_t status;
        const char    *text;
    } expected[] = {{TACIT_ERR_MISMATCH, "auto:error=0.4"}, {TACIT_ERR_MISMATCH, "auto:error=0.4"},
                    {TACIT_ERR_MISMATCH, "auto:error=0."},  {TACIT_ERR_SPEC, "make a new slot"},
                    {TACIT_ERR_SPEC, "make a new slot"},    {TACIT_ERR_SPEC, "make a new slot"}};
    static answers_t answers;

    run_ranks(RANKS, NULL, disagree, &answers);
    for (int rank = 0; rank < RANKS; rank++) {
        for (int i = 0; i < 6; i++) {
            ck_assert_msg(answers.status[rank][i] == expected[i].status &&
                              strstr(answers.text[rank][i], expected[i].text) != NULL,
                          "%d: %s", i, answers.text[rank][i]);
        }
    }
}
END_TEST

/* ---- Files ---- */

/* Three states, saved and gone on from: compressed, about to pay, dense. A slot loads each, but one that is dense for good. */
static void save_and_load(tacit_comm_t *comm, void *arg)
{
    static const char *const states[] = {"compressed", "owing", "dense"};
    run_t                   *run = arg;
    const int                rank = tacit_comm_rank(comm);
    tacit_slot_t            *slot = slot_of(comm, "gradient", COUNT, TACIT_FLOAT32, run->specs[0]);
    float                   *x = change_buffer(), *saved[3], *loaded = change_buffer();
    char                     path[HARNESS_PATH_BYTES];
    const int                first = strcmp(run->specs[2], "none") == 0;

    contribute(rank, 0, x);
    for (int i = 0; i < 3; i++) {
        saved[i] = change_buffer();
        if (i == 1) {
            MUST(tacit_slot_set_spec(slot, run->specs[1]));
        }
        MUST(tacit_save(comm, harness_path(path, "%s.%d", states[i], rank)));
        MUST(tacit_allreduce(slot, x, saved[i], TACIT_SUM));
    }
    for (int i = first; i < 3; i++) {
        tacit_slot_destroy(slot);
        slot = slot_of(comm, "gradient", COUNT, TACIT_FLOAT32, run->specs[2]);
        MUST(tacit_allreduce(slot, x, loaded, TACIT_SUM)); /* something to forget */
        MUST(tacit_load(comm, harness_path(path, "%s.%d", states[i], rank)));
        run->compressor[rank][i] = slot->codec->compressor->name;
        run->remembers[rank][i] = slot->codec->feedback != NULL;
        MUST(tacit_allreduce(slot, x, loaded, TACIT_SUM));
        run->off[rank][i] = memcmp(loaded, saved[i], COUNT * sizeof *loaded);
        run->remembers[rank][3 + i] = slot->codec->feedback != NULL;
        unlink(path);
    }
    unlink(harness_path(path, "%s.%d", states[0], rank));
    for (int i = 0; i < 3; i++) {
        free(saved[i]);
    }
    free(x);
    free(loaded);
}

START_TEST(files)
{
    static const char *const specs[][3] = {{"auto:error=0.4+ef", "auto", "auto:error=0.4+ef"}, {"onebit+ef", "none", "none"}};

    for (size_t s = 0; s < 2; s++) {
        run_t run = {.specs = {specs[s][0], specs[s][1], specs[s][2]}, .bad = -1};

        run_ranks(RANKS, NULL, save_and_load, &run);
        for (int rank = 0; rank < RANKS; rank++) {
            for (int i = (int)s; i < 3; i++) {
                ck_assert_str_eq(run.compressor[rank][i], i == 0 ? "rotq" : "none");
                ck_assert_int_eq(run.remembers[rank][i], i < 2);
                ck_assert_int_eq(run.remembers[rank][3 + i], i == 0);
                ck_assert_double_eq(run.off[rank][i], 0);
            }
        }
    }
}
END_TEST

/* Files that are not of one choice, or of none that may be made here, change nothing. */
static void load_others(tacit_comm_t *comm, void *arg)
{
    answers_t    *answers = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", COUNT, TACIT_FLOAT32, "auto:error=0.4+ef");
    float        *x = change_buffer();
    char          path[HARNESS_PATH_BYTES];
    const bool    disabled = slot->comm->environment.disable != 0;

    if (!disabled) {
        MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
        MUST(tacit_save(comm, harness_path(path, "rotq.%d", rank)));
        MUST(tacit_slot_set_spec(slot, "auto:error=0.05+ef"));
        MUST(tacit_save(comm, harness_path(path, "qsgd.%d", rank)));
        MUST(tacit_slot_set_spec(slot, "auto:error=0.4+ef"));
    }
    note(answers, rank, disabled, tacit_load(comm, harness_path(path, rank == 1 && !disabled ? "qsgd.%d" : "rotq.%d", rank)));
    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    snprintf(answers->text[rank][2 + disabled], TACIT_TEXT_BYTES, "%s", slot->codec->compressor->name);
    if (disabled) {
        unlink(harness_path(path, "qsgd.%d", rank));
        unlink(harness_path(path, "rotq.%d", rank));
    }
    free(x);
}

START_TEST(other_files)
{
    static answers_t answers;

    run_ranks(RANKS, NULL, load_others, &answers);
    ck_assert_int_eq(setenv("TACIT_DISABLE", "1", 1), 0);
    run_ranks(RANKS, NULL, load_others, &answers);
    ck_assert_int_eq(unsetenv("TACIT_DISABLE"), 0);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(answers.status[rank][0], TACIT_ERR_MISMATCH);
        ck_assert_str_eq(answers.text[rank][2], "rotq");
        ck_assert_int_eq(answers.status[rank][1], TACIT_ERR_MISMATCH);
        ck_assert_str_eq(answers.text[rank][3], "none");
    }
}
END_TEST

/* One rank has nobody to send to. */
static void alone(tacit_comm_t *comm, void *arg)
{
    *(const char **)arg = slot_of(comm, "gradient", COUNT, TACIT_FLOAT32, "auto:error=0.4+ef")->codec->compressor->name;
}

START_TEST(one_rank)
{
    const char *compressor;

    run_ranks(1, NULL, alone, &compressor);
    ck_assert_str_eq(compressor, "none");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("automatic");
    TCase *tests = tcase_create("automatic");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, grammar);
    tcase_add_test(tests, what_stands_for_it);
    tcase_add_test(tests, keeps_within);
    tcase_add_test(tests, pays_what_it_owes);
    tcase_add_test(tests, whatever_memory);
    tcase_add_test(tests, other_memory);
    tcase_add_test(tests, to_none);
    tcase_add_test(tests, half_on_two_levels);
    tcase_add_test(tests, fault_before_it_pays);
    tcase_add_test(tests, under_way);
    tcase_add_test(tests, refusals);
    tcase_add_test(tests, files);
    tcase_add_test(tests, other_files);
    tcase_add_test(tests, one_rank);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
