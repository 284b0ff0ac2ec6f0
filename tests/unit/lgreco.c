/* SPDX-License-Identifier: Apache-2.0 */
/* Layerwise adaptation on real slots: every rank gets the same plan from the mean of all, a run goes on from files with the same
   bits, and what fails changes nothing. */
#include "lgreco.h"
#include "lgreco_data.h"
#include "session.h"

#include <pthread.h>
#include <unistd.h>

enum { SLOTS = 6, TEXT = 160 };

/* ---- Plans on many ranks ---- */

typedef struct kind {
    const char *name, *spec;
    size_t      count;
    double      tail, scale;
    size_t      rows; /* of a matrix; 0: a vector */
} kind_t;

/* Layers that differ in size and in how their gradients are spread. */
static const kind_t kinds[SLOTS] = {
    {"heavy", "topk:ratio=0.02+ef", 3000, 2.0, 0.05, 0},  {"dense", "none", 50, 0, 1, 0},
    {"flat", "topk:ratio=0.02+ef", 5000, 0.1, 0.4, 0},    {"bits", "qsgd:bits=4,block=64+ef", 2000, 1.0, 0.1, 0},
    {"drawn", "randk:ratio=0.05+ef", 1500, 0.3, 0.05, 0}, {"matrix", "powersgd:rank=3+ef", 2400, 1.0, 0.1, 40}};

typedef struct training {
    int                   ranks, steps;
    tacit_lgreco_config_t config;
    const kind_t         *kinds;
    size_t                kind_count;
    double                spread;   /* how much ranks' data differ */
    int                   bad_step; /* rank 1's gradients are NaN there; -1: never */
    int                   surge;    /* from this step on the first layer's gradients are three times as large; -1: never */
    int                   first;    /* step: those before it are in the files, and results count from here */
    int                   save_at;  /* before this step; -1: never */
    bool                  load;     /* begin from the files, at `first` */

    char                  specs[MOST_RANKS][SLOTS][TACIT_SPEC_BYTES]; /* after the last step */
    uint64_t              hash[MOST_RANKS];                           /* of all results */
    uint64_t              memory[MOST_RANKS];                         /* of all memory after the last step */
    bool                  kept[MOST_RANKS];                           /* no plan changed a slot's memory */
    bool                  bounded[MOST_RANKS];                        /* every plan was within both bounds */
    tacit_lgreco_report_t report[MOST_RANKS];
    /* Of the last plan, made again by the test from each rank's own gradients. */
    double norms[MOST_RANKS][SLOTS], errors[MOST_RANKS][SLOTS][TACIT_LAYER_OPTIONS], bytes[SLOTS][TACIT_LAYER_OPTIONS];
    size_t options[SLOTS], reference[SLOTS];
    char   values[SLOTS][TACIT_LAYER_OPTIONS][TACIT_VALUE_BYTES];
} training_t;

static void gradient(const training_t *training, size_t kind, int rank, int step, float *values)
{
    const kind_t *of = &training->kinds[kind];
    const double  turn = (rank + (int)kind / 2) % 2 != 0 ? 1 : -1;
    const double  surge = kind == 0 && training->surge >= 0 && step >= training->surge ? 3 : 1;
    const double  scale = surge * of->scale * exp(turn * training->spread);

    fill(values, of->count, 7919u * (uint64_t)step + 31u * (uint64_t)kind + (uint64_t)rank, of->tail, scale);
    if (step == training->bad_step && rank == 1) {
        values[of->count / 2] = NAN;
    }
}

static tacit_slot_t *slot_of_kind(tacit_comm_t *comm, const kind_t *kind)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;

    config.count = kind->count;
    config.spec = kind->spec;
    if (kind->rows != 0) {
        config.ndim = 2;
        config.shape[0] = kind->rows;
        config.shape[1] = kind->count / kind->rows;
    }
    MUST(tacit_slot_create(comm, kind->name, &config, &slot));
    return slot;
}

/* All but a warm start, which is of another size for another rank. */
static uint64_t memory_of(const tacit_slot_t *slot)
{
    const tacit_codec_t *codec = slot->codec;
    tacit_array_t        array;
    uint64_t             hash = 0;

    for (size_t i = 0; tacit__codec_array(codec, i, &array); i++) {
        if (strcmp(array.name, "work") != 0) {
            hash = 31 * hash + harness_hash(array.values, array.count * sizeof(float));
        }
    }
    return hash;
}

/* The test's own sums of what the last plan sees, and its own errors of all options. */
static void note(training_t *training, int rank, tacit_layer_t *layers)
{
    for (size_t i = 0; i < training->kind_count; i++) {
        if (layers[i].option_count == 0) {
            continue;
        }
        MUST(tacit__layer_measure(&layers[i], &training->norms[rank][i], training->errors[rank][i], NULL));
        if (rank == 0) {
            training->options[i] = layers[i].option_count;
            training->reference[i] = layers[i].reference;
            for (size_t j = 0; j < layers[i].option_count; j++) {
                training->bytes[i][j] = layers[i].options[j].bytes;
                memcpy(training->values[i][j], layers[i].options[j].value, TACIT_VALUE_BYTES);
            }
        }
    }
}

static void reduce_all(training_t *training, tacit_comm_t *comm, int step, tacit_slot_t **slots, float **gradients)
{
    const int rank = tacit_comm_rank(comm);

    MUST(tacit_group_begin(comm));
    for (size_t i = 0; i < training->kind_count; i++) {
        MUST(tacit_allreduce(slots[i], gradients[i], gradients[i], TACIT_AVERAGE));
    }
    MUST(tacit_group_end(comm, NULL));
    for (size_t i = 0; i < training->kind_count && step >= training->first; i++) {
        training->hash[rank] =
            31 * training->hash[rank] + harness_hash(gradients[i], training->kinds[i].count * sizeof *gradients[i]);
    }
}

/* The last plan sends no more than the uniform one, and is within the error budget to a step of the table a layer. */
static bool is_bounded(const training_t *training, const tacit_lgreco_t *lgreco)
{
    const double          alpha = training->config.alpha != 0 ? training->config.alpha : 1;
    tacit_lgreco_report_t report;

    MUST(tacit_lgreco_report(lgreco, &report));
    return (alpha < 1 || training->config.link_rate != 0 || report.planned_bytes <= report.uniform_bytes) &&
           report.planned_error <= alpha * report.uniform_error * (1 + (double)training->kind_count / 10000);
}

static void training_body(tacit_comm_t *comm, void *arg)
{
    training_t     *training = arg;
    const int       rank = tacit_comm_rank(comm), every = (int)training->config.every, gather = (int)training->config.gather;
    const int       last_plan = training->steps / every * every;
    tacit_slot_t   *slots[SLOTS];
    tacit_layer_t   layers[SLOTS] = {0};
    float          *gradients[SLOTS];
    tacit_lgreco_t *lgreco;
    char            path[HARNESS_PATH_BYTES];

    for (size_t i = 0; i < training->kind_count; i++) {
        slots[i] = slot_of_kind(comm, &training->kinds[i]);
        gradients[i] = session_floats(training->kinds[i].count);
        MUST(tacit__layer_init(&layers[i], slots[i], i, &training->config));
        if (layers[i].option_count != 0) {
            layers[i].sum = tacit__alloc(training->kinds[i].count, sizeof(float));
        }
    }
    MUST(tacit_lgreco_create(slots, training->kind_count, &training->config, &lgreco));
    training->kept[rank] = training->bounded[rank] = true;
    if (training->load) {
        MUST(tacit_lgreco_load(lgreco, harness_path(path, "plan.%d", rank)));
        MUST(tacit_load(comm, harness_path(path, "memory.%d", rank)));
    }
    for (int step = training->load ? training->first : 0; step < training->steps; step++) {
        uint64_t before = 0, after = 0;

        if (step == training->save_at) {
            MUST(tacit_lgreco_save(lgreco, harness_path(path, "plan.%d", rank)));
            MUST(tacit_save(comm, harness_path(path, "memory.%d", rank)));
        }
        for (size_t i = 0; i < training->kind_count; i++) {
            gradient(training, i, rank, step, gradients[i]);
            before = 31 * before + memory_of(slots[i]);
            if (layers[i].option_count != 0 && step >= last_plan - gather && step < last_plan) {
                tacit__layer_gather(&layers[i], gradients[i]);
            }
        }
        if (step == last_plan - 1 && !training->load) {
            note(training, rank, layers);
        }
        MUST(tacit_lgreco_observe(lgreco, (const float *const *)gradients));
        training->bounded[rank] = training->bounded[rank] && is_bounded(training, lgreco);
        for (size_t i = 0; i < training->kind_count; i++) {
            after = 31 * after + memory_of(slots[i]);
            if (step == training->bad_step) {
                memset(gradients[i], 0, training->kinds[i].count * sizeof(float)); /* such a step is not taken */
            }
        }
        training->kept[rank] = training->kept[rank] && before == after;
        reduce_all(training, comm, step, slots, gradients);
    }
    MUST(tacit_lgreco_report(lgreco, &training->report[rank]));
    for (size_t i = 0; i < training->kind_count; i++) {
        snprintf(training->specs[rank][i], TACIT_SPEC_BYTES, "%s", tacit_slot_spec(slots[i]));
        training->memory[rank] = 31 * training->memory[rank] + memory_of(slots[i]);
        tacit__layer_release(&layers[i]);
        free(gradients[i]);
    }
    tacit_lgreco_destroy(lgreco);
}

static training_t *training_of(int ranks, int steps, uint64_t every, uint64_t gather)
{
    training_t *training = calloc(1, sizeof *training);

    training->ranks = ranks;
    training->steps = steps;
    training->config = (tacit_lgreco_config_t)TACIT_LGRECO_CONFIG_INIT;
    training->config.every = every;
    training->config.gather = gather;
    training->kinds = kinds;
    training->kind_count = SLOTS;
    training->bad_step = training->surge = training->save_at = -1;
    return training;
}

/* What holds of any plan, of all ranks. */
static void training_run(training_t *training)
{
    const tacit_lgreco_report_t *report = &training->report[0];

    run_ranks(training->ranks, NULL, training_body, training);
    for (int rank = 0; rank < training->ranks; rank++) {
        ck_assert_msg(training->hash[rank] == training->hash[0], "rank %d has other results than rank 0", rank);
        ck_assert_msg(training->kept[rank], "rank %d: a plan changed memory", rank);
        ck_assert_msg(training->bounded[rank], "rank %d: a plan sends more, or loses more, than it may", rank);
        ck_assert(memcmp(training->specs[rank], training->specs[0], sizeof training->specs[0]) == 0);
        ck_assert_uint_eq(training->report[rank].plans, report->plans);
        ck_assert(training->report[rank].planned_bytes == report->planned_bytes);
        ck_assert(training->report[rank].planned_error == report->planned_error);
    }
}

/* The plan that the listed ranks' means give, as specs would spell it; returns the bytes of one message of each. */
static double expected_plan(const training_t *training, int first_rank, int ranks, size_t choices[SLOTS])
{
    double errors[SLOTS * TACIT_LAYER_OPTIONS] = {0}, sizes[SLOTS * TACIT_LAYER_OPTIONS] = {0}, bytes = 0;
    size_t reference[SLOTS], options = 0;
    double others = training->ranks - 1;

    for (size_t i = 0; i < SLOTS; i++) {
        options = training->options[i] > options ? training->options[i] : options;
    }
    for (size_t i = 0; i < SLOTS; i++) {
        reference[i] = training->reference[i];
        for (size_t j = 0; j < options && training->options[i] != 0; j++) {
            const size_t own = j < training->options[i] ? j : training->options[i] - 1;
            const bool   sparse = strncmp(training->kinds[i].spec, "topk", 4) == 0;

            sizes[i * options + j] = training->bytes[i][own] * others * (sparse ? 1 : 2 / (others + 1));
            for (int rank = first_rank; rank < first_rank + ranks; rank++) {
                /* as it travels */
                const double norm = training->norms[rank][i],
                             error = norm * (double)(float)(training->errors[rank][i][own] / norm);

                errors[i * options + j] += (training->config.squared ? error * error : error) / ranks;
            }
        }
    }
    MUST(tacit_lgreco_plan(errors, sizes, SLOTS, options, reference, 1, choices));
    for (size_t i = 0; i < SLOTS; i++) {
        bytes += sizes[i * options + choices[i]];
    }
    return bytes;
}

/* Specs that the plan changed say so in full; the others are as they were given. */
static bool has_value(const training_t *training, size_t slot, size_t choice)
{
    char word[TEXT];

    if (training->options[slot] == 0) {
        return strcmp(training->specs[0][slot], training->kinds[slot].spec) == 0;
    }
    snprintf(word, sizeof word, "=%s", training->values[slot][choice]);
    return strstr(training->specs[0][slot], word) != NULL;
}

static bool is_applied(const training_t *training, const size_t choices[SLOTS])
{
    bool all = true;

    for (size_t i = 0; i < SLOTS; i++) {
        all = all && has_value(training, i, choices[i]);
    }
    return all;
}

/* The plan is that of the mean over ranks, whose data differ so much that those of one of them would give another. */
START_TEST(plan_of_all_ranks)
{
    static const int counts[] = {2, 3, 4, 8};
    const int        ranks = counts[_i % 4];
    training_t      *training = training_of(ranks, 9, 4, 2);
    size_t           choices[SLOTS], alone[SLOTS];
    double           bytes;

    training->spread = 0.6;
    training->config.squared = _i >= 4;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, 2);
    bytes = expected_plan(training, 0, ranks, choices);
    for (size_t i = 0; i < SLOTS; i++) {
        ck_assert_msg(has_value(training, i, choices[i]), "slot '%s' is '%s', not %s", kinds[i].name, training->specs[0][i],
                      training->values[i][choices[i]]);
    }
    ck_assert(training->report[0].planned_bytes == bytes);
    ck_assert(training->report[0].planned_bytes < training->report[0].uniform_bytes);
    for (int rank = 0; rank < 2; rank++) {
        (void)expected_plan(training, rank, 1, alone);
        ck_assert_msg(!is_applied(training, alone), "rank %d alone would give the same plan: the test is blind", rank);
    }
    free(training);
}
END_TEST

/* Both bounds hold at every plan of a run whose gradients change, see training_run(). */
START_TEST(every_plan)
{
    static const int    counts[] = {2, 3, 4, 8};
    static const double alphas[] = {1, 1.5, 0.8, 1};
    training_t         *training = training_of(counts[_i], 24, 3, 2);

    training->spread = 0.3;
    training->surge = 12;
    training->config.alpha = alphas[_i];
    training->config.squared = _i == 3;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, 8);
    free(training);
}
END_TEST

/* Steps with NaN are as if they had not been; with nothing to go by, specs stay. */
START_TEST(nothing_to_go_by)
{
    kind_t      zeros[SLOTS];
    training_t *training = training_of(3, 4, 4, 2);

    for (size_t i = 0; i < SLOTS; i++) {
        zeros[i] = kinds[i];
        zeros[i].scale = 0;
    }
    training->kinds = zeros;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, 0);
    for (size_t i = 0; i < SLOTS; i++) {
        ck_assert_str_eq(training->specs[0][i], zeros[i].spec);
    }
    free(training);

    training = training_of(3, 4, 4, 2);
    training->bad_step = 3;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, 1);
    free(training);

    training = training_of(3, 4, 4, 2); /* no choice has so little error */
    training->config.alpha = 1e-3;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, 0);
    free(training);
}
END_TEST

/* A run that is saved and gone on with ends as one that is not: before, while and after steps are gathered. */
START_TEST(resumed)
{
    static const int ends[] = {2, 3, 4, 6, 7};
    char             path[HARNESS_PATH_BYTES];
    training_t      *whole = training_of(2 + _i % 2, 13, 4, 3), *half = training_of(2 + _i % 2, ends[_i], 4, 3),
               *rest = training_of(2 + _i % 2, 13, 4, 3);

    whole->config.accordion = half->config.accordion = rest->config.accordion = _i % 2;
    half->steps = ends[_i] + 1;
    half->save_at = whole->first = rest->first = ends[_i];
    rest->load = true;
    training_run(whole);
    training_run(half);
    training_run(rest);
    ck_assert_uint_eq(rest->report[0].plans, 3);
    ck_assert_uint_eq(whole->report[0].plans, 3);
    for (int rank = 0; rank < whole->ranks; rank++) {
        ck_assert_msg(rest->hash[rank] == whole->hash[rank] && rest->memory[rank] == whole->memory[rank],
                      "saved before step %d, rank %d: other results or memory", ends[_i], rank);
        ck_assert(rest->report[rank].planned_error == whole->report[rank].planned_error);
        for (size_t i = 0; i < SLOTS; i++) {
            ck_assert_str_eq(rest->specs[rank][i], whole->specs[rank][i]);
        }
        ck_assert(remove(harness_path(path, "plan.%d", rank)) == 0);
        ck_assert(remove(harness_path(path, "memory.%d", rank)) == 0);
    }
    free(whole);
    free(half);
    free(rest);
}
END_TEST

/* Bytes that leave a rank with one option in each layer: the densest where it says so, else the sparsest. */
static double extreme_bytes(const training_t *training, const bool densest[SLOTS])
{
    double bytes = 0;

    for (size_t i = 0; i < SLOTS; i++) {
        bytes += (training->ranks - 1) * training->bytes[i][densest[i] ? training->options[i] - 1 : 0];
    }
    return bytes;
}

/* Accordion's reference: all densest at first, sparsest where norms stay, densest again where they have grown. */
START_TEST(accordion)
{
    static const struct {
        int  steps, surge;
        bool densest[SLOTS];
    } cases[] = {{4, -1, {true, true, true, true, true, true}}, {8, -1, {false}}, {12, -1, {false}}, {12, 8, {true}}};
    kind_t      plain[SLOTS];
    training_t *training = training_of(2 + _i % 2, cases[_i].steps, 4, 3);

    for (size_t i = 0; i < SLOTS; i++) {
        plain[i] = (kind_t){kinds[i].name, "topk:ratio=0.05", 1000 + 300 * i, 0.2, 1, 0};
    }
    training->kinds = plain;
    training->surge = cases[_i].surge;
    training->config.accordion = 1;
    training->config.low = 0.5;
    training->config.high = 2;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, (uint64_t)cases[_i].steps / 4);
    ck_assert_msg(training->report[0].uniform_bytes == extreme_bytes(training, cases[_i].densest), "%g bytes, not %g",
                  training->report[0].uniform_bytes, extreme_bytes(training, cases[_i].densest));
    free(training);
}
END_TEST

/* Where time counts and any error will do, a small matrix is sent as it is: nothing is as fast. Where bytes count, it has
   rank 1. */
START_TEST(measured_time)
{
    static const kind_t matrix[] = {{"matrix", "powersgd:rank=4+ef", 1600, 0.5, 1, 40}};
    training_t         *training = training_of(2, 4, 4, 2);

    training->kinds = matrix;
    training->kind_count = 1;
    training->config.alpha = 1e3;
    training->config.low = 0.25;
    training->config.high = 8;
    training->config.link_rate = _i == 0 ? 0 : 1e15;
    training_run(training);
    ck_assert_msg(strstr(training->specs[0][0], _i == 0 ? "rank=1," : "rank=10,") != NULL, "%s", training->specs[0][0]);
    free(training);
}
END_TEST

/* ---- Specs that others set ---- */

enum { OTHERS_RANKS = 2 };

typedef struct others {
    char planned[OTHERS_RANKS][2][TACIT_SPEC_BYTES], again[OTHERS_RANKS][2][TACIT_SPEC_BYTES];
} others_t;

static void others_body(tacit_comm_t *comm, void *arg)
{
    others_t             *others = arg;
    const int             rank = tacit_comm_rank(comm);
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    tacit_slot_t         *slots[2] = {slot_of(comm, "a", 3000, TACIT_FLOAT32, "topk:ratio=0.01+ef"),
                                      slot_of(comm, "b", 3000, TACIT_FLOAT32, "topk:ratio=0.01+ef")};
    float                *values[2] = {session_floats(3000), session_floats(3000)};
    tacit_lgreco_t       *lgreco;

    fill(values[0], 3000, (uint64_t)rank + 2, 2, 1);
    fill(values[1], 3000, (uint64_t)rank + 5, 0.1, 1);
    config.every = 4;
    config.gather = 2;
    MUST(tacit_lgreco_create(slots, 2, &config, &lgreco));
    for (int step = 0; step < 8; step++) {
        MUST(tacit_lgreco_observe(lgreco, (const float *const *)values));
        for (int i = 0; i < 2 && step % 4 == 3; i++) {
            snprintf(step == 3 ? others->planned[rank][i] : others->again[rank][i], TACIT_SPEC_BYTES, "%s",
                     tacit_slot_spec(slots[i]));
        }
        for (int i = 0; i < 2 && step == 5; i++) {
            MUST(tacit_slot_set_spec(slots[i], "topk:ratio=0.1+ef"));
        }
    }
    tacit_lgreco_destroy(lgreco);
    free(values[0]);
    free(values[1]);
}

/* On the same gradients a plan is the same, whatever others have done to the specs since the last one. */
START_TEST(plans_replace_others_specs)
{
    static others_t others;

    run_ranks(OTHERS_RANKS, NULL, others_body, &others);
    for (int rank = 0; rank < OTHERS_RANKS; rank++) {
        for (int i = 0; i < 2; i++) {
            ck_assert_str_ne(others.planned[rank][i], "topk:ratio=0.01+ef");
            ck_assert_str_eq(others.again[rank][i], others.planned[rank][i]);
        }
    }
}
END_TEST

/* ---- Errors ---- */

enum { RANKS = 3, STEPS = 4 };

typedef struct answers {
    int                   odd;           /* the rank whose call is wrong; -1: all ranks' */
    tacit_lgreco_config_t config, wrong; /* of the rank that is right, and of the one that is not */
    const char           *spec;          /* of the second slot */
    tacit_dtype_t         dtype;
    bool                  twice; /* the same slot */
    tacit_status_t        status[RANKS];
    char                  text[RANKS][TACIT_TEXT_BYTES];
} answers_t;

static void create_body(tacit_comm_t *comm, void *arg)
{
    answers_t      *answers = arg;
    const int       rank = tacit_comm_rank(comm);
    const bool      odd = answers->odd < 0 || rank == answers->odd;
    tacit_slot_t   *slots[2] = {slot_of(comm, "a", 1000, TACIT_FLOAT32, "topk:ratio=0.01+ef"),
                                slot_of(comm, "b", 1000, answers->dtype, "topk:ratio=0.01+ef")};
    tacit_lgreco_t *lgreco = NULL;
    float           values[1000] = {1};

    slots[1] = answers->twice && odd ? slots[0] : slots[1];
    answers->status[rank] = tacit_lgreco_create(slots, 2, odd ? &answers->wrong : &answers->config, &lgreco);
    snprintf(answers->text[rank], sizeof answers->text[rank], "%s", tacit_last_error());
    tacit_lgreco_destroy(lgreco);
    MUST(tacit_allreduce(slots[0], values, values, TACIT_SUM)); /* all goes on */
}

static void answered(answers_t *answers, tacit_status_t status, const char *words)
{
    run_ranks(RANKS, NULL, create_body, answers);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(answers->status[rank] == status, "rank %d: %d, not %d: %s", rank, answers->status[rank], status,
                      answers->text[rank]);
        ck_assert_msg(strstr(answers->text[rank], words) != NULL, "'%s' is not in '%s'", words, answers->text[rank]);
    }
}

START_TEST(create_refuses)
{
    const tacit_lgreco_config_t right = TACIT_LGRECO_CONFIG_INIT;
    answers_t                   base = {.odd = 1, .config = right, .wrong = right}, answers;
    tacit_lgreco_t             *lgreco = NULL;

#define REFUSES(member, value, status, words)                                                                                    \
    do {                                                                                                                         \
        answers = base;                                                                                                          \
        answers.wrong.member = value;                                                                                            \
        answered(&answers, status, words);                                                                                       \
    } while (0)

    REFUSES(alpha, 1.5, TACIT_ERR_MISMATCH, "rank 1 has");
    REFUSES(link_rate, 1e9, TACIT_ERR_MISMATCH, "rank 1 has");
    REFUSES(alpha, -1, TACIT_ERR_ARGUMENT, "alpha");
    REFUSES(alpha, NAN, TACIT_ERR_ARGUMENT, "alpha");
    REFUSES(gather, 101, TACIT_ERR_ARGUMENT, "gather 101");
    REFUSES(low, 1.01, TACIT_ERR_ARGUMENT, "low");
    REFUSES(low, 1e-9, TACIT_ERR_ARGUMENT, "low");
    REFUSES(high, 0.5, TACIT_ERR_ARGUMENT, "high");
    REFUSES(high, NAN, TACIT_ERR_ARGUMENT, "high");
    REFUSES(link_rate, -1, TACIT_ERR_ARGUMENT, "link_rate");
    REFUSES(struct_bytes, 8, TACIT_ERR_ARGUMENT, "TACIT_LGRECO_CONFIG_INIT");
    answers = base;
    answers.twice = true;
    answered(&answers, TACIT_ERR_ARGUMENT, "'a' is given twice");
    answers = base;
    answers.dtype = TACIT_FLOAT16;
    answered(&answers, TACIT_ERR_UNSUPPORTED, "'b' is not float32");
    ck_assert(tacit_lgreco_create(NULL, 0, NULL, &lgreco) == TACIT_ERR_ARGUMENT);
    ck_assert(tacit_lgreco_observe(NULL, NULL) == TACIT_ERR_ARGUMENT);
    ck_assert(tacit_lgreco_report(NULL, NULL) == TACIT_ERR_ARGUMENT);
    ck_assert(tacit_lgreco_save(NULL, "x") == TACIT_ERR_ARGUMENT);
    ck_assert(tacit_lgreco_load(NULL, "x") == TACIT_ERR_ARGUMENT);
    tacit_lgreco_destroy(NULL);
}
END_TEST

static void idle_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t   *slots[1] = {slot_of(comm, "a", 1000, TACIT_FLOAT32, arg)};
    tacit_lgreco_t *lgreco;

    MUST(tacit_lgreco_create(slots, 1, NULL, &lgreco));
    tacit_lgreco_destroy(lgreco);
}

/* What standard error gets while slots of this spec are to be adapted. */
static void log_of(char *spec, char *text, size_t capacity)
{
    FILE     *file = tmpfile();
    const int kept = dup(STDERR_FILENO);
    size_t    bytes;

    fflush(stderr);
    ck_assert(file != NULL && dup2(fileno(file), STDERR_FILENO) >= 0);
    run_ranks(RANKS, NULL, idle_body, spec);
    fflush(stderr);
    ck_assert(dup2(kept, STDERR_FILENO) >= 0);
    rewind(file);
    bytes = fread(text, 1, capacity - 1, file);
    text[bytes] = '\0';
    fclose(file);
    close(kept);
}

/* Nothing to adapt is said once, whatever the number of ranks. */
START_TEST(nothing_to_adapt)
{
    char text[4096], none[] = "onebit+ef", some[] = "topk:ratio=0.01+ef", chosen[] = "auto:error=0.4+ef", *first;

    log_of(some, text, sizeof text);
    ck_assert_msg(strstr(text, "lgreco") == NULL, "it says '%s'", text);
    log_of(none, text, sizeof text);
    first = strstr(text, "none of 1 slots has anything to choose");
    ck_assert_msg(first != NULL && strstr(first, "slot 'a' is 'onebit+ef'") != NULL, "it says '%s'", text);
    ck_assert(strstr(first + 1, "none of 1 slots") == NULL);
    log_of(chosen, text, sizeof text);
    ck_assert_msg(strstr(text, "none of 1 slots has anything to choose") != NULL, "it says '%s'", text);
}
END_TEST

/* Steps in which calls fail, again and again, until they succeed: what comes of it is as if they had not. */
typedef struct trouble {
    pthread_barrier_t     barrier;
    bool                  calm; /* nothing fails */
    size_t                failures;
    tacit_status_t        status[RANKS];
    char                  specs[RANKS][2][TACIT_SPEC_BYTES], complaint[RANKS][TEXT];
    float                 sums[RANKS][2][3000]; /* before the plan */
    double                norms[RANKS][2];      /* that it saw */
    tacit_lgreco_report_t report[RANKS];
} trouble_t;

static void complain(trouble_t *trouble, int rank, const char *what)
{
    if (trouble->complaint[rank][0] == '\0') {
        snprintf(trouble->complaint[rank], TEXT, "%s: %.90s", what, tacit_last_error());
    }
}

/* The nth allocation of all ranks together fails, n = 1, 2, 3 … */
static void observe_without_memory(trouble_t *trouble, int rank, tacit_lgreco_t *lgreco, tacit_slot_t **slots,
                                   const float *const *gradients)
{
    const char *before[2] = {tacit_slot_spec(slots[0]), tacit_slot_spec(slots[1])};
    char        specs[2][TACIT_SPEC_BYTES];

    snprintf(specs[0], TACIT_SPEC_BYTES, "%s", before[0]);
    snprintf(specs[1], TACIT_SPEC_BYTES, "%s", before[1]);
    for (uint64_t nth = 1;; nth += 1 + nth / 40) {
        pthread_barrier_wait(&trouble->barrier);
        if (rank == 0) {
            tacit__alloc_fail_after(trouble->calm ? 0 : nth);
        }
        pthread_barrier_wait(&trouble->barrier);
        trouble->status[rank] = tacit_lgreco_observe(lgreco, gradients);
        pthread_barrier_wait(&trouble->barrier);
        if (rank == 0) {
            tacit__alloc_fail_after(0);
            trouble->failures += trouble->status[0] != TACIT_OK;
        }
        pthread_barrier_wait(&trouble->barrier);
        if (trouble->status[rank] != trouble->status[0]) {
            complain(trouble, rank, "another status than rank 0");
        }
        if (trouble->status[rank] == TACIT_OK) {
            return;
        }
        if (trouble->status[rank] != TACIT_ERR_MEMORY) {
            complain(trouble, rank, "not TACIT_ERR_MEMORY");
            return;
        }
        if (strcmp(specs[0], tacit_slot_spec(slots[0])) != 0 || strcmp(specs[1], tacit_slot_spec(slots[1])) != 0) {
            complain(trouble, rank, "a spec has changed");
        }
    }
}

/* At the plan one rank's error is everybody's, though the gradients of the others have been added. */
static void errors_at_the_plan(trouble_t *trouble, tacit_comm_t *comm, tacit_lgreco_t *lgreco, const float *const *gradients,
                               const float *const *missing)
{
    const int rank = tacit_comm_rank(comm);

    for (int time = 0; time < 2; time++) {
        if (tacit_lgreco_observe(lgreco, missing) != TACIT_ERR_ARGUMENT ||
            strstr(tacit_last_error(), "rank 1: slot 'b': its gradient is NULL") == NULL) {
            complain(trouble, rank, "a gradient that is missing on rank 1 at the plan");
        }
    }
    if (rank == 2) {
        MUST(tacit_group_begin(comm));
    }
    if (tacit_lgreco_observe(lgreco, gradients) != TACIT_ERR_STATE) {
        complain(trouble, rank, "an open group of rank 2");
    }
    if (rank == 2) {
        MUST(tacit_group_end(comm, NULL));
    }
}

static void trouble_body(tacit_comm_t *comm, void *arg)
{
    trouble_t            *trouble = arg;
    const int             rank = tacit_comm_rank(comm);
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    tacit_slot_t         *slots[2] = {slot_of(comm, "a", 3000, TACIT_FLOAT32, "topk:ratio=0.01+ef"),
                                      slot_of(comm, "b", 2000, TACIT_FLOAT32, "topk:ratio=0.01+ef")};
    float                *gradients[2] = {session_floats(3000), session_floats(2000)};
    const float          *missing[2] = {gradients[0], rank == 1 ? NULL : gradients[1]};
    tacit_lgreco_t       *lgreco;

    config.every = STEPS;
    config.gather = 2;
    MUST(tacit_lgreco_create(slots, 2, &config, &lgreco));
    for (int step = 0; step < STEPS; step++) {
        fill(gradients[0], 3000, 2u * (uint64_t)step + 100u * (uint64_t)rank, 2, 1);
        fill(gradients[1], 2000, 2u * (uint64_t)step + 100u * (uint64_t)rank + 1, 0.1, 3);
        if (step == 2 && !trouble->calm && tacit_lgreco_observe(lgreco, missing) != TACIT_ERR_ARGUMENT) {
            complain(trouble, rank, "a gradient that is missing on rank 1");
        }
        if (step == 3) {
            memcpy(trouble->sums[rank][0], lgreco->layers[0].sum, 3000 * sizeof(float));
            memcpy(trouble->sums[rank][1], lgreco->layers[1].sum, 2000 * sizeof(float));
        }
        if (step == 3 && !trouble->calm) {
            errors_at_the_plan(trouble, comm, lgreco, (const float *const *)gradients, missing);
        }
        observe_without_memory(trouble, rank, lgreco, slots, (const float *const *)gradients);
        MUST(tacit_allreduce(slots[0], gradients[0], gradients[0], TACIT_AVERAGE));
        MUST(tacit_allreduce(slots[1], gradients[1], gradients[1], TACIT_AVERAGE));
    }
    MUST(tacit_lgreco_report(lgreco, &trouble->report[rank]));
    for (size_t i = 0; i < 2; i++) {
        trouble->norms[rank][i] = lgreco->layers[i].norm_before;
    }
    snprintf(trouble->specs[rank][0], TACIT_SPEC_BYTES, "%s", tacit_slot_spec(slots[0]));
    snprintf(trouble->specs[rank][1], TACIT_SPEC_BYTES, "%s", tacit_slot_spec(slots[1]));
    tacit_lgreco_destroy(lgreco);
    free(gradients[0]);
    free(gradients[1]);
}

START_TEST(errors_change_nothing)
{
    static trouble_t calm = {.calm = true}, trouble;

    pthread_barrier_init(&calm.barrier, NULL, RANKS);
    pthread_barrier_init(&trouble.barrier, NULL, RANKS);
    run_ranks(RANKS, NULL, trouble_body, &calm);
    run_ranks(RANKS, NULL, trouble_body, &trouble);
    ck_assert_str_ne(calm.specs[0][0], "topk:ratio=0.01+ef");
    ck_assert_uint_ge(trouble.failures, 40);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(trouble.complaint[rank][0] == '\0', "rank %d: %s", rank, trouble.complaint[rank]);
        ck_assert_str_eq(trouble.specs[rank][0], calm.specs[0][0]);
        ck_assert_str_eq(trouble.specs[rank][1], calm.specs[0][1]);
        same_floats(trouble.sums[rank][0], calm.sums[rank][0], 3000, "sums of a");
        same_floats(trouble.sums[rank][1], calm.sums[rank][1], 2000, "sums of b");
        ck_assert(memcmp(trouble.norms[rank], calm.norms[rank], sizeof calm.norms[rank]) == 0);
        ck_assert(trouble.report[rank].planned_error == calm.report[rank].planned_error);
    }
    pthread_barrier_destroy(&calm.barrier);
    pthread_barrier_destroy(&trouble.barrier);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lgreco");
    TCase *plans = tcase_create("plans"), *errors = tcase_create("errors");

    tcase_set_timeout(plans, 60);
    tcase_add_loop_test(plans, plan_of_all_ranks, 0, 8);
    tcase_add_loop_test(plans, every_plan, 0, 4);
    tcase_add_test(plans, nothing_to_go_by);
    tcase_add_loop_test(plans, resumed, 0, 5);
    tcase_add_loop_test(plans, accordion, 0, 4);
    tcase_add_loop_test(plans, measured_time, 0, 2);
    tcase_add_test(plans, plans_replace_others_specs);
    suite_add_tcase(suite, plans);
    tcase_set_timeout(errors, 60);
    tcase_add_test(errors, create_refuses);
    tcase_add_test(errors, nothing_to_adapt);
    tcase_add_test(errors, errors_change_nothing);
    suite_add_tcase(suite, errors);
    return harness_main(suite);
}
