/* SPDX-License-Identifier: Apache-2.0 */
/* From measured numbers, given here, to choices: means over ranks, time, and Accordion's references. */
#include "lgreco.h"
#include "session.h"

enum { LAYERS = 6, MOST = 16 };

typedef struct choosing {
    tacit_lgreco_config_t config;
    double                norm_before[LAYERS], norm[LAYERS]; /* ranks' norms differ around this mean */
    double                error[MOST];                       /* of every layer's options, as parts of the norm */
    double                seconds[MOST];                     /* ranks' seconds differ around this mean */

    size_t width, options, reference[LAYERS], choices[LAYERS];
    double norms[LAYERS], errors[MOST], bytes[MOST], sizes[MOST], option_bytes[MOST]; /* of the first layer */
} choosing_t;

/* Every rank puts down what all have measured, as if they had exchanged it: rank r's numbers are 1 + (r - 1) / 2 of the mean. */
static void body(tacit_comm_t *comm, void *arg)
{
    choosing_t     *choosing = arg;
    tacit_plan_t    plan = {0};
    tacit_slot_t   *slots[LAYERS];
    tacit_lgreco_t *lgreco;
    bool            kept = true;

    for (size_t i = 0; i < LAYERS; i++) {
        char name[2] = {(char)('a' + (int)i), '\0'};

        slots[i] = slot_of(comm, name, 4000, TACIT_FLOAT32, "topk:ratio=0.05+ef");
    }
    MUST(tacit_lgreco_create(slots, LAYERS, &choosing->config, &lgreco));
    MUST(tacit__plan_init(&plan, lgreco));
    for (size_t i = 0; i < LAYERS; i++) {
        lgreco->layers[i].norm_before = choosing->norm_before[i];
        for (int rank = 0; rank < comm->ranks; rank++) {
            const double part = 1 + (rank - 1) / 2.0, norm = part * choosing->norm[i];
            double       errors[MOST], seconds[MOST];

            for (size_t j = 0; j < lgreco->options; j++) {
                errors[j] = choosing->error[j] * norm;
                seconds[j] = part * choosing->seconds[j];
            }
            tacit__plan_put(&plan, lgreco, rank, i, norm, errors, seconds);
        }
    }
    MUST(tacit__plan_choose(lgreco, &plan, &kept));
    if (tacit_comm_rank(comm) == 0 && !kept) {
        choosing->width = plan.width;
        choosing->options = lgreco->options;
        memcpy(choosing->reference, plan.reference, sizeof choosing->reference);
        memcpy(choosing->choices, plan.choices, sizeof choosing->choices);
        memcpy(choosing->norms, plan.norms, sizeof choosing->norms);
        memcpy(choosing->errors, plan.errors, lgreco->options * sizeof(double));
        memcpy(choosing->bytes, plan.bytes, lgreco->options * sizeof(double));
        memcpy(choosing->sizes, plan.sizes, lgreco->options * sizeof(double));
        for (size_t j = 0; j < lgreco->options; j++) {
            choosing->option_bytes[j] = lgreco->layers[0].options[j].bytes;
        }
    }
    tacit__plan_release(&plan, lgreco->layer_count);
    tacit_lgreco_destroy(lgreco);
}

/* All options are equally wrong, so that size alone decides. */
static choosing_t *choosing_of(void)
{
    choosing_t *choosing = calloc(1, sizeof *choosing);

    choosing->config = (tacit_lgreco_config_t)TACIT_LGRECO_CONFIG_INIT;
    for (size_t i = 0; i < LAYERS; i++) {
        choosing->norm[i] = 1;
    }
    for (size_t j = 0; j < MOST; j++) {
        choosing->error[j] = 0.5;
        choosing->seconds[j] = 1.0 / (double)(1 + j); /* the largest option is the fastest */
    }
    return choosing;
}

static void choose(choosing_t *choosing)
{
    run_ranks(3, NULL, body, choosing);
    ck_assert_uint_eq(choosing->options, 9);
}

START_TEST(means_over_ranks)
{
    choosing_t *choosing = choosing_of();

    choosing->norm[0] = 8;
    choose(choosing);
    ck_assert(choosing->norms[0] == 4.0 / 3 + 8.0 / 3 + 12.0 / 3);
    ck_assert(choosing->errors[4] == 2.0 / 3 + 4.0 / 3 + 6.0 / 3);
    ck_assert_uint_eq(choosing->width, LAYERS * (4 + 9)); /* no seconds */
    for (size_t j = 0; j < 9; j++) {
        ck_assert(choosing->bytes[j] == 2 * choosing->option_bytes[j]); /* to both others */
        ck_assert(choosing->sizes[j] == choosing->bytes[j]);
    }
    for (size_t i = 0; i < LAYERS; i++) {
        ck_assert_uint_eq(choosing->choices[i], 0);
        ck_assert_uint_eq(choosing->reference[i], 4);
    }
    free(choosing);
}
END_TEST

/* A slow link: bytes decide; a fast one: seconds do. */
START_TEST(time_counts)
{
    choosing_t  *choosing = choosing_of();
    const double rate = _i == 0 ? 1 : 0x1p40;

    choosing->config.link_rate = rate;
    choose(choosing);
    ck_assert_uint_eq(choosing->width, LAYERS * (4 + 2 * 9));
    for (size_t j = 0; j < 9; j++) {
        double seconds = 0;

        for (int rank = 0; rank < 3; rank++) {
            seconds += (double)(float)((1 + (rank - 1) / 2.0) * choosing->seconds[j]) / 3;
        }
        ck_assert(choosing->sizes[j] == choosing->bytes[j] / rate + seconds);
    }
    for (size_t i = 0; i < LAYERS; i++) {
        ck_assert_uint_eq(choosing->choices[i], _i == 0 ? 0 : 8);
    }
    free(choosing);
}
END_TEST

/* Half as much again, or half of it, is a change; so is the first norm that is seen. */
START_TEST(accordion)
{
    static const double before[LAYERS] = {0, 8, 8, 8, 8, 8}, now[LAYERS] = {8, 11.9, 12, 4, 4.1, 8};
    static const size_t expected[LAYERS] = {8, 0, 8, 8, 0, 0};
    choosing_t         *choosing = choosing_of();

    choosing->config.accordion = 1;
    memcpy(choosing->norm_before, before, sizeof before);
    memcpy(choosing->norm, now, sizeof now);
    choose(choosing);
    for (size_t i = 0; i < LAYERS; i++) {
        ck_assert_msg(choosing->reference[i] == expected[i], "norm %g after %g: option %zu, not %zu", now[i], before[i],
                      choosing->reference[i], expected[i]);
    }
    free(choosing);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lgreco_choose");
    TCase *tcase = tcase_create("choose");

    tcase_add_test(tcase, means_over_ranks);
    tcase_add_loop_test(tcase, time_counts, 0, 2);
    tcase_add_test(tcase, accordion);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
