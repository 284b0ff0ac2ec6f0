/* SPDX-License-Identifier: Apache-2.0 */
/* One layer under adaptation: which options there are, that errors are those of the compressors, and what is gathered. */
#include "lgreco.h"
#include "lgreco_data.h"
#include "session.h"

enum { ROOM = 6000, TEXT = 160 };

typedef struct single {
    const char           *spec;
    size_t                count;
    size_t                rows; /* of a matrix; 0: a vector */
    tacit_lgreco_config_t config;
    const float          *gradients; /* steps x count */
    int                   steps;

    char   values[TACIT_LAYER_OPTIONS][TACIT_VALUE_BYTES]; /* results */
    double bytes[TACIT_LAYER_OPTIONS], errors[TACIT_LAYER_OPTIONS], seconds[TACIT_LAYER_OPTIONS], norm;
    size_t options, reference;
    float  sum[2 * ROOM];
} single_t;

static void single_body(tacit_comm_t *comm, void *arg)
{
    single_t           *single = arg;
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    tacit_layer_t       layer;

    config.count = single->count;
    config.spec = single->spec;
    if (single->rows != 0) {
        config.ndim = 2;
        config.shape[0] = single->rows;
        config.shape[1] = single->count / single->rows;
    }
    MUST(tacit_slot_create(comm, "gradient", &config, &slot));
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

static single_t *single_run(const char *spec, size_t count, size_t rows, double low, double high, const float *gradients,
                            int steps)
{
    single_t *single = calloc(1, sizeof *single);

    single->spec = spec;
    single->count = count;
    single->rows = rows;
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
        size_t      count, rows;
        double      low, high;
        const char *values;
        size_t      reference;
    } cases[] = {
        {"topk:ratio=0.01+ef", 1000000, 0, 0, 0, "0.0025 0.003536 0.005 0.007071 0.01 0.01414 0.02 0.02828 0.04", 4},
        {"randk:ratio=0.0123456+ef", 1000000, 0, 0.5, 1, "0.006173 0.00873 0.0123456", 2},
        {"topk:ratio=0.5+ef", 1000000, 0, 0.9, 16, "0.5 0.7071 1", 0},
        {"topk:ratio=0.01+ef", 100, 0, 0, 0, "0.01 0.01414 0.02828 0.04", 0}, /* 1 to 4 entries */
        {"topk:ratio=0.01+ef", 20, 0, 0, 0, "", 0},
        {"topk:ratio=0.01+ef", 0, 0, 0, 0, "", 0},
        {"qsgd:bits=4+ef", 10000, 0, 0, 0, "2 3 4 5 6 7 8", 2},
        {"qsgd:bits=4+ef", 10000, 0, 0.75, 1.5, "3 4 5 6", 1},
        {"qsgd:bits=4,rounding=stochastic,block=256+ef", 10000, 0, 0, 0, "4 5 6 7 8", 0}, /* 2 and 3 would not contract */
        {"rotq:bits=2+ef", 10000, 0, 0, 0, "1 2 3 4", 1},
        {"none", 10000, 0, 0, 0, "", 0},
        {"onebit+ef", 10000, 0, 0, 0, "", 0},
        {"powersgd:rank=4+ef", 64 * 576, 64, 0, 0, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", 3},
        {"powersgd:rank=4+ef", 64 * 576, 64, 0.5, 2, "2 3 4 5 6 7 8", 2},
        {"powersgd:rank=1+ef", 64 * 576, 64, 0, 0, "1 2 3 4", 0},
        {"powersgd:rank=4+ef", 10 * 64, 10, 0, 0, "1 2 3 4 5", 3}, /* 5: dense, as are all above */
        {"powersgd:rank=4+ef", 64 * 576, 0, 0, 0, "", 0},
    };
    single_t *single = single_run(cases[_i].spec, cases[_i].count, cases[_i].rows, cases[_i].low, cases[_i].high, NULL, 0);
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
                 {"rotq", "bits=2", "", ROOM - 7},
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
    single = single_run(spec, count, 0, 0, 0, gradients, 3);
    ck_assert_uint_ge(single->options, 4);
    same_floats(single->sum, a, count, spec);
    for (size_t i = 0; i < single->options; i++) {
        char   one[TEXT];
        double error, bytes;

        snprintf(one, sizeof one, "%s:%.*s=%s%s", cases[_i].compressor, (int)strcspn(cases[_i].key, "="), cases[_i].key,
                 single->values[i], cases[_i].rest);
        error = coded_error(one, a, count, &bytes);
        ck_assert_msg(fabs(single->errors[i] - error) <= 1e-9 * error, "%s: error %.12g, not %.12g", one, single->errors[i],
                      error);
        /* where indices are coded, how long they get depends on them: at most what is counted */
        ck_assert_msg(single->bytes[i] >= bytes && single->bytes[i] <= 1.1 * bytes + 16, "%s: %g bytes, not %g", one,
                      single->bytes[i], bytes);
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
    single = single_run(spec, COUNT, 0, 0, 0, a, 1);
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

/* A matrix with known singular values: the sum of s_k u_k v_k', u and v rows of Hadamard matrices. */
START_TEST(errors_of_low_ranks)
{
    enum { ROWS = 64, COLUMNS = 128 };
    const double decay = _i == 0 ? 1 : 0.4;
    float       *a = session_floats(ROWS * COLUMNS);
    double       left[ROWS + 1] = {0};
    single_t    *single;

    for (int k = 0; k < ROWS; k++) {
        const double s = pow(k + 1, -decay);

        for (int i = 0; i < ROWS * COLUMNS; i++) {
            const int sign = __builtin_popcount((unsigned)(i / COLUMNS & k)) + __builtin_popcount((unsigned)(i % COLUMNS & k));

            a[i] += (float)((sign % 2 != 0 ? -s : s) / sqrt(ROWS * COLUMNS));
        }
    }
    for (int k = ROWS; k-- > 0;) {
        left[k] = left[k + 1] + pow(k + 1, -2 * decay); /* square of what rank k leaves */
    }
    single = single_run("powersgd:rank=4,rate=1+ef", ROWS * COLUMNS, ROWS, 0, 16, a, 1);
    ck_assert_uint_eq(single->options, 43); /* (64 + 128) * 42 is less than 64 * 128; rank 43 is dense */
    ck_assert_double_eq_tol(single->norm, sqrt(left[0]), 1e-5);
    for (size_t i = 0; i < single->options - 1; i++) {
        const double best = sqrt(left[i + 1]);

        ck_assert_msg(single->errors[i] >= best * (1 - 1e-4) && single->errors[i] <= best * 1.03,
                      "rank %zu: error %g, at best %g", i + 1, single->errors[i], best);
        ck_assert(single->bytes[i] == (double)((i + 1) * (ROWS + COLUMNS) * sizeof(float)));
    }
    ck_assert(single->errors[42] == 0);
    free(single);
    free(a);
}
END_TEST

/* What is gathered is what would be encoded, and memory stays as it is; a step with NaN or infinity is left out. */
enum { SIDE = 40, ELEMENTS = SIDE * SIDE, BEFORE = 3 };

typedef struct memory_case {
    const char *spec;
    float       expected[ELEMENTS], got[ELEMENTS];
    bool        same_memory, encoded; /* before() has been asked */
} memory_case_t;

static uint64_t memory_of(const tacit_codec_t *codec)
{
    tacit_array_t array;
    uint64_t      hash = 0;

    for (size_t i = 0; tacit__codec_array(codec, i, &array); i++) {
        hash = 31 * hash + harness_hash(array.values, array.count * sizeof(float));
    }
    return hash;
}

static void memory_body(tacit_comm_t *comm, void *arg)
{
    memory_case_t        *of = (memory_case_t *)arg + tacit_comm_rank(comm);
    tacit_slot_config_t   tensor = {.struct_bytes = sizeof tensor, .count = ELEMENTS, .ndim = 2, .shape = {SIDE, SIDE}};
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    float                 values[ELEMENTS], bad[ELEMENTS], encoded[ELEMENTS];
    tacit_slot_t         *slot;
    tacit_codec_t        *codec;
    tacit_layer_t         layer;
    uint64_t              before;

    tensor.spec = of->spec;
    MUST(tacit_slot_create(comm, "gradient", &tensor, &slot));
    codec = slot->codec;
    for (uint64_t step = 0; step < BEFORE; step++) {
        fill(values, ELEMENTS, step + 1, 1, 1);
        MUST(tacit_allreduce(slot, values, values, TACIT_SUM));
    }
    MUST(tacit__layer_init(&layer, slot, 0, &config));
    layer.sum = tacit__alloc(ELEMENTS, sizeof *layer.sum);
    fill(values, ELEMENTS, 99, 1, 1);
    before = memory_of(codec);
    for (int time = 0; time < 2; time++) {
        tacit__layer_gather(&layer, values);
        for (int i = 0; i < 2; i++) {
            memcpy(bad, values, sizeof bad);
            bad[ELEMENTS - 1 - 700 * i] = i == 0 ? NAN : -INFINITY;
            tacit__layer_gather(&layer, bad);
        }
    }
    of->same_memory = memory_of(codec) == before;
    memcpy(of->got, layer.sum, sizeof of->got);
    memcpy(encoded, values, sizeof encoded);
    if (codec->feedback != NULL) { /* as an operation does it, whole: the last thing that this memory is for */
        MUST(tacit__codec_expand(codec));
        codec->feedback->before(&codec->memory, 0, ELEMENTS, values, encoded);
        tacit__codec_collapse(codec);
        of->encoded = memcmp(encoded, values, sizeof encoded) != 0;
    }
    for (size_t i = 0; i < ELEMENTS; i++) {
        of->expected[i] = encoded[i] + encoded[i];
    }
    tacit__layer_release(&layer);
}

static const char *const remembered[] = {"topk:ratio=0.05",
                                         "topk:ratio=0.05+ef",
                                         "topk:ratio=0.05+ef:residual=bf16",
                                         "topk:ratio=0.05+ef:residual=int8",
                                         "qsgd:bits=4+ef",
                                         "qsgd:bits=4+ef:residual=int8",
                                         "rotq:bits=2+ef21",
                                         "powersgd:rank=2+ef:residual=bf16",
                                         "randk:ratio=0.1+ef21",
                                         "topk:ratio=0.05+ef21",
                                         "topk:ratio=0.05+ef21:average=0.1",
                                         "topk:ratio=0.05+ef21:average=0.1,residual=int8",
                                         "topk:ratio=0.05+ef21:init=gradient",
                                         "topk:ratio=0.05+econtrol:eta=0.1",
                                         "topk:ratio=0.05+econtrol:residual=bf16",
                                         "topk:ratio=0.05+dgc",
                                         "topk:ratio=0.05+dgc:momentum=0.5,nesterov=on",
                                         "topk:ratio=0.05+dgc:residual=int8"};

START_TEST(memory_is_gathered)
{
    static memory_case_t cases[2]; /* ranks: one alone would own all, and remember nothing of a blockwise one */

    cases[0].spec = cases[1].spec = remembered[_i];
    run_ranks(2, NULL, memory_body, cases);
    for (int rank = 0; rank < 2; rank++) {
        same_floats(cases[rank].got, cases[rank].expected, ELEMENTS, remembered[_i]);
        ck_assert_msg(cases[rank].same_memory, "%s: gathering changes memory", remembered[_i]);
        ck_assert_msg(cases[rank].encoded == (strchr(remembered[_i], '+') != NULL), "%s: memory is not part of it",
                      remembered[_i]);
    }
}
END_TEST

/* Every feedback that goes with a compressor that is adapted is looked at. */
START_TEST(all_feedbacks)
{
    const tacit_feedback_t *feedback;

    for (size_t i = 0; (feedback = tacit__feedback_at(i)) != NULL; i++) {
        bool found = false;

        for (size_t j = 0; j < sizeof remembered / sizeof *remembered; j++) {
            const char  *word = strchr(remembered[j], '+');
            const size_t length = strlen(feedback->name);

            found = found || (word != NULL && strncmp(word + 1, feedback->name, length) == 0 &&
                              (word[1 + length] == '\0' || word[1 + length] == ':'));
        }
        ck_assert_msg(found, "no case has '%s'", feedback->name);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lgreco_layer");
    TCase *tcase = tcase_create("layer");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, options_of_slots, 0, 17);
    tcase_add_loop_test(tcase, errors_are_the_compressors, 0, 7);
    tcase_add_loop_test(tcase, errors_of_draws, 0, 2);
    tcase_add_loop_test(tcase, errors_of_low_ranks, 0, 2);
    tcase_add_loop_test(tcase, memory_is_gathered, 0, (int)(sizeof remembered / sizeof *remembered));
    tcase_add_test(tcase, all_feedbacks);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
