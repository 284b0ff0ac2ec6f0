/* SPDX-License-Identifier: Apache-2.0 */
/* Layerwise adaptation on real slots: which options there are, that errors are those of the compressors, that every rank gets the
   same plan from the mean of all, and what a plan leaves as it was. */
#include "lgreco.h"
#include "session.h"

#include <unistd.h>

enum { SLOTS = 5, ROOM = 6000, TEXT = 128 };

/* ---- Options and errors of one layer ---- */

typedef struct single {
    const char           *spec;
    size_t                count;
    tacit_lgreco_config_t config;
    const float          *gradients; /* steps x count */
    int                   steps;

    char   values[TACIT_LAYER_OPTIONS][TACIT_VALUE_BYTES]; /* results */
    double bytes[TACIT_LAYER_OPTIONS], errors[TACIT_LAYER_OPTIONS], seconds[TACIT_LAYER_OPTIONS], norm;
    size_t options, reference;
    float  sum[ROOM];
} single_t;

static void single_body(tacit_comm_t *comm, void *arg)
{
    single_t     *single = arg;
    tacit_slot_t *slot = slot_of(comm, "gradient", single->count, TACIT_FLOAT32, single->spec);
    tacit_layer_t layer;

    MUST(tacit__layer_init(&layer, slot, 0, &single->config));
    single->options = layer.option_count;
    single->reference = layer.reference;
    for (size_t i = 0; i < layer.option_count; i++) {
        memcpy(single->values[i], layer.options[i].value, TACIT_VALUE_BYTES);
        single->bytes[i] = layer.options[i].bytes;
    }
    if (single->gradients != NULL) {
        layer.sum = tacit__alloc(single->count, sizeof *layer.sum);
        for (int step = 0; step < single->steps; step++) {
            tacit__layer_gather(&layer, single->gradients + (size_t)step * single->count);
        }
        memcpy(single->sum, layer.sum, single->count * sizeof *layer.sum);
        MUST(tacit__layer_measure(&layer, &single->norm, single->errors, single->seconds));
    }
    tacit__layer_release(&layer);
}

static single_t *single_run(const char *spec, size_t count, double low, double high, const float *gradients, int steps)
{
    single_t *single = calloc(1, sizeof *single);

    single->spec = spec;
    single->count = count;
    single->config.low = low;
    single->config.high = high;
    single->gradients = gradients;
    single->steps = steps;
    run_ranks(1, NULL, single_body, single);
    return single;
}

START_TEST(options_of_slots)
{
    static const struct {
        const char *spec;
        size_t      count;
        double      low, high;
        const char *values;
        size_t      reference;
    } cases[] = {
        {"topk:ratio=0.01+ef", 1000000, 0, 0, "0.0025 0.003536 0.005 0.007071 0.01 0.01414 0.02 0.02828 0.04", 4},
        {"randk:ratio=0.0123456+ef", 1000000, 0.5, 1, "0.006173 0.00873 0.0123456", 2},
        {"topk:ratio=0.5+ef", 1000000, 0.9, 16, "0.5 0.7071 1", 0},
        {"topk:ratio=0.01+ef", 100, 0, 0, "0.01 0.01414 0.02828 0.04", 0}, /* 1 to 4 entries */
        {"topk:ratio=0.01+ef", 20, 0, 0, "", 0},
        {"topk:ratio=0.01+ef", 0, 0, 0, "", 0},
        {"qsgd:bits=4+ef", 10000, 0, 0, "2 3 4 5 6 7 8", 2},
        {"qsgd:bits=4+ef", 10000, 0.75, 1.5, "3 4 5 6", 1},
        {"qsgd:bits=4,rounding=stochastic,block=256+ef", 10000, 0, 0, "4 5 6 7 8", 0}, /* 2 and 3 would not contract */
        {"none", 10000, 0, 0, "", 0},
        {"onebit+ef", 10000, 0, 0, "", 0},
    };
    single_t *single = single_run(cases[_i].spec, cases[_i].count, cases[_i].low, cases[_i].high, NULL, 0);
    char      text[TEXT] = "";

    for (size_t i = 0; i < single->options; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i > 0 ? " " : "", single->values[i]);
        ck_assert(i == 0 || single->bytes[i] > single->bytes[i - 1]);
    }
    ck_assert_msg(strcmp(text, cases[_i].values) == 0, "%s: '%s', not '%s'", cases[_i].spec, text, cases[_i].values);
    ck_assert_uint_eq(single->reference, cases[_i].reference);
    free(single);
}
END_TEST

/* Few large elements among many small ones: the more, the heavier `tail` is. */
static void fill(float *values, size_t count, uint64_t seed, double tail, double scale)
{
    harness_random_t random = {seed};

    for (size_t i = 0; i < count; i++) {
        const double magnitude = scale * exp(tail * harness_normal(&random));

        values[i] = (float)(harness_next(&random) % 2 != 0 ? magnitude : -magnitude);
    }
}

/* |a - C(a)| by the public codec, and the bytes of the frame without its header. */
static double coded_error(const char *spec, const float *a, size_t count, double *bytes_out)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    size_t              capacity, bytes, first, got;
    uint8_t            *frame;
    float              *out = session_floats(count);
    double              sum = 0;

    config.count = count;
    config.spec = spec;
    MUST(tacit_codec_create("gradient", &config, NULL, 0, 1, &codec));
    capacity = tacit_codec_capacity(codec, count);
    frame = malloc(capacity);
    MUST(tacit_encode(codec, 0, a, 0, count, frame, capacity, &bytes));
    MUST(tacit_decode(codec, 0, frame, bytes, out, &first, &got));
    for (size_t i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)out[i]) * ((double)a[i] - (double)out[i]);
    }
    *bytes_out = (double)(bytes - TACIT_FRAME_HEADER_BYTES);
    tacit_codec_destroy(codec);
    free(frame);
    free(out);
    return sqrt(sum);
}

START_TEST(errors_are_the_compressors)
{
    static const struct {
        const char *compressor, *key, *rest;
        size_t      count;
    } cases[] = {{"topk", "ratio=0.02", "", ROOM},
                 {"topk", "ratio=0.1", ",values=fp16", 1234},
                 {"topk", "ratio=0.4", ",index=u32", 777},
                 {"qsgd", "bits=4", ",rounding=nearest", ROOM - 7},
                 {"qsgd", "bits=5", ",rounding=nearest,block=32", 500},
                 {"qsgd", "bits=8", ",rounding=stochastic,block=64", 500}};
    const size_t count = cases[_i].count;
    float       *gradients = session_floats(3 * count), *a = session_floats(count);
    char         spec[TEXT];
    single_t    *single;

    fill(gradients, 3 * count, 5, 1.5, 0.1);
    for (size_t i = 0; i < count; i++) {
        a[i] = (gradients[i] + gradients[count + i]) + gradients[2 * count + i];
    }
    snprintf(spec, sizeof spec, "%s:%s%s+ef", cases[_i].compressor, cases[_i].key, cases[_i].rest);
    single = single_run(spec, count, 0, 0, gradients, 3);
    ck_assert_uint_ge(single->options, 5);
    same_floats(single->sum, a, count, spec);
    for (size_t i = 0; i < single->options; i++) {
        char   one[TEXT];
        double error, bytes;

        snprintf(one, sizeof one, "%s:%.*s=%s%s", cases[_i].compressor, (int)strcspn(cases[_i].key, "="), cases[_i].key,
                 single->values[i], cases[_i].rest);
        error = coded_error(one, a, count, &bytes);
        ck_assert_msg(fabs(single->errors[i] - error) <= 1e-9 * error, "%s: error %.12g, not %.12g", one, single->errors[i],
                      error);
        ck_assert_msg(single->bytes[i] == bytes, "%s: %g bytes, not %g", one, single->bytes[i], bytes);
        ck_assert(single->seconds[i] > 0 && single->seconds[i] < 1);
        ck_assert(i == 0 || single->errors[i] < single->errors[i - 1]);
    }
    free(single);
    free(gradients);
    free(a);
}
END_TEST

/* randk: over many draws, the mean of the squared error is what the table says. */
START_TEST(errors_of_draws)
{
    static const char *const scales[] = {"one", "unbiased"};
    const char              *scale = scales[_i];
    enum { COUNT = 600, DRAWS = 400 };
    float    *a = session_floats(COUNT);
    char      spec[TEXT];
    single_t *single;

    fill(a, COUNT, 3, 0.5, 1);
    snprintf(spec, sizeof spec, "randk:ratio=0.1,scale=%s%s", scale, _i == 0 ? "+ef" : "");
    single = single_run(spec, COUNT, 0, 0, a, 1);
    ck_assert_uint_eq(single->options, 9);
    for (size_t i = 0; i < single->options; i += 4) {
        double sum = 0;

        for (uint64_t draw = 0; draw < DRAWS; draw++) {
            tacit_slot_config_t tensor = {.count = COUNT};
            tacit_spec_t        one;
            tacit_block_t       block;
            float               factor[COUNT], out[COUNT];
            const float        *factors[1] = {factor};

            snprintf(spec, sizeof spec, "randk:ratio=%s,scale=%s", single->values[i], scale);
            one = spec_of(spec);
            block = block_of(&one, 0, COUNT);
            block.key.step = draw;
            one.compressor->linear->make_factor(&block, &tensor, 0, a, NULL, NULL, factor);
            one.compressor->linear->reconstruct(&block, &tensor, factors, out);
            for (size_t j = 0; j < COUNT; j++) {
                sum += ((double)a[j] - (double)out[j]) * ((double)a[j] - (double)out[j]) / DRAWS;
            }
            tacit__spec_release(&one);
        }
        ck_assert_msg(fabs(single->errors[i] / sqrt(sum) - 1) < 0.03, "ratio %s: error %g, mean of draws %g", single->values[i],
                      single->errors[i], sqrt(sum));
    }
    free(single);
    free(a);
}
END_TEST

/* Memory is part of what is gathered; a step with NaN or infinity is not. */
typedef struct memory_case {
    float sum[4], memory[4];
} memory_case_t;

static void memory_body(tacit_comm_t *comm, void *arg)
{
    memory_case_t        *of = arg;
    tacit_slot_t         *slot = slot_of(comm, "gradient", 4, TACIT_FLOAT32, "topk:ratio=0.25+ef");
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    const float           first[4] = {8, 4, 2, 1}, second[4] = {0.5f, 0.25f, 32, 64};
    const float           bad[2][4] = {{1, NAN, 1, 1}, {1, 1, -INFINITY, 1}};
    float                 out[4];
    tacit_layer_t         layer;

    MUST(tacit__layer_init(&layer, slot, 0, &config));
    layer.sum = tacit__alloc(4, sizeof *layer.sum);
    MUST(tacit_allreduce(slot, first, out, TACIT_SUM)); /* memory: 0 4 2 1 */
    tacit__layer_gather(&layer, second);
    tacit__layer_gather(&layer, bad[0]);
    tacit__layer_gather(&layer, bad[1]);
    tacit__layer_gather(&layer, second);
    memcpy(of->sum, layer.sum, sizeof of->sum);
    memcpy(of->memory, slot->codec->memory.now[0], sizeof of->memory);
    tacit__layer_release(&layer);
}

START_TEST(memory_is_gathered)
{
    memory_case_t of;

    run_ranks(1, NULL, memory_body, &of);
    same_floats(of.sum, (const float[]){1, 8.5f, 68, 130}, 4, "sum");
    same_floats(of.memory, (const float[]){0, 4, 2, 1}, 4, "memory");
}
END_TEST

/* ---- Plans on many ranks ---- */

typedef struct kind {
    const char *name, *spec;
    size_t      count;
    double      tail, scale;
} kind_t;

/* Layers that differ in size and in how their gradients are spread. */
static const kind_t kinds[SLOTS] = {{"heavy", "topk:ratio=0.02+ef", 3000, 2.0, 0.05},
                                    {"dense", "none", 50, 0, 1},
                                    {"flat", "topk:ratio=0.02+ef", 5000, 0.1, 0.4},
                                    {"bits", "qsgd:bits=4,block=64+ef", 2000, 1.0, 0.1},
                                    {"drawn", "randk:ratio=0.05+ef", 1500, 0.3, 0.05}};

typedef struct training {
    int                   ranks, steps;
    tacit_lgreco_config_t config;
    const kind_t         *kinds;
    size_t                kind_count;
    double                spread;   /* how much ranks' data differ */
    int                   bad_step; /* rank 1's gradients are NaN there; -1: never */
    int                   first;    /* step: those before it are in the files, and results count from here */
    int                   save_at;  /* before this step; -1: never */
    bool                  load;     /* begin from the files, at `first` */
    const char           *folder;

    char                  specs[MOST_RANKS][SLOTS][TACIT_SPEC_BYTES]; /* after the last step */
    uint64_t              hash[MOST_RANKS];                           /* of all results */
    uint64_t              memory[MOST_RANKS];                         /* of all memory after the last step */
    bool                  kept[MOST_RANKS];                           /* no plan changed a slot's memory */
    tacit_lgreco_report_t report[MOST_RANKS];
    /* Of the last plan, made again by the test from each rank's own gradients. */
    double norms[MOST_RANKS][SLOTS], errors[MOST_RANKS][SLOTS][TACIT_LAYER_OPTIONS], bytes[SLOTS][TACIT_LAYER_OPTIONS];
    size_t options[SLOTS], reference[SLOTS];
    char   values[SLOTS][TACIT_LAYER_OPTIONS][TACIT_VALUE_BYTES];
} training_t;

static void gradient(const training_t *training, size_t kind, int rank, int step, float *values)
{
    const kind_t *of = &training->kinds[kind];
    const double  turn = (rank + (int)kind / 2) % 2 != 0 ? 1 : -1, scale = of->scale * exp(turn * training->spread);

    fill(values, of->count, 7919u * (uint64_t)step + 31u * (uint64_t)kind + (uint64_t)rank, of->tail, scale);
    if (step == training->bad_step && rank == 1) {
        values[of->count / 2] = NAN;
    }
}

static uint64_t memory_of(const tacit_slot_t *slot)
{
    const tacit_codec_t *codec = slot->codec;
    tacit_array_t        array;
    uint64_t             hash = 0;

    for (size_t i = 0; tacit__codec_array(codec, i, &array); i++) {
        hash = 31 * hash + harness_hash(array.values, array.count * sizeof(float));
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

static void file_name(const training_t *training, int rank, const char *what, char path[2 * TEXT])
{
    snprintf(path, 2 * TEXT, "%s/%s.%d", training->folder, what, rank);
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
    char            path[2 * TEXT];

    for (size_t i = 0; i < training->kind_count; i++) {
        slots[i] = slot_of(comm, training->kinds[i].name, training->kinds[i].count, TACIT_FLOAT32, training->kinds[i].spec);
        gradients[i] = session_floats(training->kinds[i].count);
        MUST(tacit__layer_init(&layers[i], slots[i], i, &training->config));
        if (layers[i].option_count != 0) {
            layers[i].sum = tacit__alloc(training->kinds[i].count, sizeof(float));
        }
    }
    MUST(tacit_lgreco_create(slots, training->kind_count, &training->config, &lgreco));
    training->kept[rank] = true;
    if (training->load) {
        file_name(training, rank, "plan", path);
        MUST(tacit_lgreco_load(lgreco, path));
        file_name(training, rank, "memory", path);
        MUST(tacit_load(comm, path));
    }
    for (int step = training->load ? training->first : 0; step < training->steps; step++) {
        uint64_t before = 0, after = 0;

        if (step == training->save_at) {
            file_name(training, rank, "plan", path);
            MUST(tacit_lgreco_save(lgreco, path));
            file_name(training, rank, "memory", path);
            MUST(tacit_save(comm, path));
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
    training->bad_step = training->save_at = -1;
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
        ck_assert(memcmp(training->specs[rank], training->specs[0], sizeof training->specs[0]) == 0);
        ck_assert_uint_eq(training->report[rank].plans, report->plans);
        ck_assert(training->report[rank].planned_bytes == report->planned_bytes);
        ck_assert(training->report[rank].planned_error == report->planned_error);
    }
    if (report->plans != 0 && training->config.alpha == 0) {
        ck_assert(training->config.link_rate != 0 || report->planned_bytes <= report->uniform_bytes);
        ck_assert(report->planned_error <= report->uniform_error * (1 + SLOTS / 10000.0));
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
    const int   ranks = _i % 3 + 2;
    training_t *training = training_of(ranks, 9, 4, 2);
    size_t      choices[SLOTS], alone[SLOTS];
    double      bytes;

    training->spread = 0.6;
    training->config.squared = _i >= 3;
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

/* Steps with NaN are as if they had not been; with nothing to go by, specs stay. */
START_TEST(nothing_to_go_by)
{
    const kind_t zeros[SLOTS] = {{"a", "topk:ratio=0.02+ef", 3000, 1, 0},
                                 {"b", "none", 50, 0, 0},
                                 {"c", "topk:ratio=0.02+ef", 5000, 1, 0},
                                 {"d", "qsgd:bits=4,block=64+ef", 2000, 1, 0},
                                 {"e", "randk:ratio=0.05+ef", 1500, 1, 0}};
    training_t  *training = training_of(3, 4, 4, 2);

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
    const char      *parent = getenv("TMPDIR");
    char             folder[TEXT], path[2 * TEXT];
    training_t      *whole = training_of(2 + _i % 2, 13, 4, 3), *half = training_of(2 + _i % 2, ends[_i], 4, 3),
               *rest = training_of(2 + _i % 2, 13, 4, 3);

    snprintf(folder, sizeof folder, "%.80s/tacit-lgreco-XXXXXX", parent != NULL ? parent : "/tmp");
    ck_assert(mkdtemp(folder) != NULL);
    whole->config.accordion = half->config.accordion = rest->config.accordion = _i % 2;
    half->steps = ends[_i] + 1;
    half->save_at = whole->first = rest->first = ends[_i];
    rest->load = true;
    half->folder = rest->folder = folder;
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
        file_name(half, rank, "plan", path);
        ck_assert(remove(path) == 0);
        file_name(half, rank, "memory", path);
        ck_assert(remove(path) == 0);
    }
    ck_assert(rmdir(folder) == 0);
    free(whole);
    free(half);
    free(rest);
}
END_TEST

START_TEST(variants)
{
    training_t *training = training_of(2 + _i, 12, 4, 3);

    training->config.accordion = _i == 0;
    training->config.link_rate = _i == 1 ? 1e6 : 0;
    training->config.low = 0.5;
    training->config.high = 2;
    training_run(training);
    ck_assert_uint_eq(training->report[0].plans, 3);
    free(training);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lgreco");
    TCase *layer = tcase_create("layer"), *plans = tcase_create("plans");

    tcase_set_timeout(layer, 60);
    tcase_add_loop_test(layer, options_of_slots, 0, 11);
    tcase_add_loop_test(layer, errors_are_the_compressors, 0, 6);
    tcase_add_loop_test(layer, errors_of_draws, 0, 2);
    tcase_add_test(layer, memory_is_gathered);
    suite_add_tcase(suite, layer);
    tcase_set_timeout(plans, 60);
    tcase_add_loop_test(plans, plan_of_all_ranks, 0, 6);
    tcase_add_test(plans, nothing_to_go_by);
    tcase_add_loop_test(plans, resumed, 0, 5);
    tcase_add_loop_test(plans, variants, 0, 2);
    suite_add_tcase(suite, plans);
    return harness_main(suite);
}
