/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters by table: reading, printing, and the distance between words. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"
#include "param.h"

typedef struct settings {
    int64_t     bytes, level;
    double      rate;
    int         mode;
    const char *file;
} settings_t;

static const tacit_param_t params[] = {
    {"bytes", TACIT_PARAM_INT, offsetof(settings_t, bytes), 64, 0x1p40, 256, 64, NULL, "bytes", "How large."},
    {"level", TACIT_PARAM_INT, offsetof(settings_t, level), -3, 3, 0, 0, NULL, "", "How deep."},
    {"rate", TACIT_PARAM_REAL, offsetof(settings_t, rate), 1e-9, 1, 0.01, 0, NULL, "", "How much."},
    {"mode", TACIT_PARAM_WORD, offsetof(settings_t, mode), 0, 0, 1, 0, "slow fast fastest", "", "How."},
    {"file", TACIT_PARAM_TEXT, offsetof(settings_t, file), 0, 0, 0, 0, NULL, "", "Where."},
    {NULL, TACIT_PARAM_INT, 0, 0, 0, 0, 0, NULL, NULL, NULL},
};

static tacit_status_t parse(const char *key, const char *value, settings_t *settings)
{
    const tacit_param_t *param = tacit__param_find(params, key, strlen(key));

    ck_assert_ptr_nonnull(param);
    return tacit__param_parse("test", param, value, strlen(value), settings);
}

START_TEST(defaults)
{
    settings_t settings;

    memset(&settings, 0xff, sizeof settings);
    tacit__param_defaults(params, &settings);
    ck_assert_int_eq(settings.bytes, 256);
    ck_assert_int_eq(settings.level, 0);
    ck_assert(settings.rate == 0.01);
    ck_assert_int_eq(settings.mode, 1);
    ck_assert_ptr_null(settings.file);
}
END_TEST

START_TEST(find)
{
    ck_assert_ptr_eq(tacit__param_find(params, "level", 5), &params[1]);
    ck_assert_ptr_eq(tacit__param_find(params, "level=3", 5), &params[1]);
    ck_assert_ptr_null(tacit__param_find(params, "level", 4));
    ck_assert_ptr_null(tacit__param_find(params, "levels", 6));
    ck_assert_ptr_null(tacit__param_find(params, "Level", 5));
    ck_assert_ptr_null(tacit__param_find(params, "", 0));
}
END_TEST

START_TEST(good_values)
{
    settings_t settings;

    tacit__param_defaults(params, &settings);
    ck_assert_int_eq(parse("bytes", "3K", &settings), TACIT_OK);
    ck_assert_int_eq(settings.bytes, 3072);
    ck_assert_int_eq(parse("bytes", "5M", &settings), TACIT_OK);
    ck_assert_int_eq(settings.bytes, INT64_C(5) << 20);
    ck_assert_int_eq(parse("bytes", "1024G", &settings), TACIT_OK);
    ck_assert_int_eq(settings.bytes, INT64_C(1) << 40);
    ck_assert_int_eq(parse("bytes", "64", &settings), TACIT_OK);
    ck_assert_int_eq(parse("level", "-3", &settings), TACIT_OK);
    ck_assert_int_eq(settings.level, -3);
    ck_assert_int_eq(parse("rate", "1e-9", &settings), TACIT_OK);
    ck_assert_int_eq(parse("rate", ".25", &settings), TACIT_OK);
    ck_assert(settings.rate == 0.25);
    ck_assert_int_eq(parse("mode", "fastest", &settings), TACIT_OK);
    ck_assert_int_eq(settings.mode, 2);
    ck_assert_int_eq(parse("file", "any thing", &settings), TACIT_OK);
    ck_assert_str_eq(settings.file, "any thing");
}
END_TEST

/* A refused value changes nothing and is answered with what would be right. */
START_TEST(bad_values)
{
    static const char *const cases[][3] = {
        {"bytes", "63", "64"},
        {"bytes", "65", "a multiple of 64"},
        {"bytes", "1025G", "bytes"},
        {"bytes", "", "integer"},
        {"bytes", "1KB", "integer"},
        {"bytes", "1.5K", "integer"},
        {"bytes", "64 ", "integer"},
        {"bytes", "9223372036854775807K", "integer"},
        {"level", "-4", "from -3 to 3"},
        {"level", "4", "from -3 to 3"},
        {"rate", "0", "a number"},
        {"rate", "1.01", "to 1"},
        {"rate", "1e", "a number"},
        {"rate", "nan", "a number"},
        {"rate", "--1", "a number"},
        {"mode", "faster", "slow fast fastest"},
        {"mode", "fas", "slow"},
        {"mode", "slow fast", "slow"},
        {"mode", "", "slow"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        settings_t settings, before;

        tacit__param_defaults(params, &settings);
        before = settings;
        ck_assert_msg(parse(cases[i][0], cases[i][1], &settings) == TACIT_ERR_SPEC, "%s=%s is accepted", cases[i][0],
                      cases[i][1]);
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "test: "));
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), cases[i][0]));
        ck_assert_msg(strstr(tacit_last_error(), cases[i][2]) != NULL, "'%s' is not in '%s'", cases[i][2], tacit_last_error());
        ck_assert_int_eq(settings.bytes, before.bytes);
        ck_assert_int_eq(settings.level, before.level);
        ck_assert(settings.rate == before.rate);
        ck_assert_int_eq(settings.mode, before.mode);
    }
}
END_TEST

/* The value is read only up to its given length. */
START_TEST(length_counts)
{
    settings_t settings;

    tacit__param_defaults(params, &settings);
    ck_assert_int_eq(tacit__param_parse("test", &params[1], "23", 1, &settings), TACIT_OK);
    ck_assert_int_eq(settings.level, 2);
    ck_assert_int_eq(tacit__param_parse("test", &params[3], "fastest", 4, &settings), TACIT_OK);
    ck_assert_int_eq(settings.mode, 1);
}
END_TEST

START_TEST(printed_values_read_back)
{
    harness_random_t random = {7};

    for (int i = 0; i < 10000; i++) {
        settings_t settings, again;
        char       text[64];

        tacit__param_defaults(params, &settings);
        settings.rate = harness_uniform(&random, 1e-9, 1);
        settings.bytes = (int64_t)(1 + harness_next(&random) % (1u << 30)) * 64;
        for (size_t j = 0; j < 4; j++) {
            size_t bytes = tacit__param_print(&params[j], &settings, text, sizeof text);

            ck_assert_uint_eq(bytes, strlen(text));
            ck_assert_int_eq(tacit__param_parse("test", &params[j], text, bytes, &again), TACIT_OK);
        }
        ck_assert(again.rate == settings.rate);
        ck_assert_int_eq(again.bytes, settings.bytes);
        ck_assert_int_eq(again.mode, settings.mode);
    }
}
END_TEST

START_TEST(print_shortest)
{
    settings_t settings = {.rate = 0.1, .mode = 2};
    char       text[64];

    tacit__param_print(&params[2], &settings, text, sizeof text);
    ck_assert_str_eq(text, "0.1");
    settings.rate = 1e6; /* a plus would begin the feedback */
    tacit__param_print(&params[2], &settings, text, sizeof text);
    ck_assert_str_eq(text, "1000000");
    settings.rate = 2e-7;
    tacit__param_print(&params[2], &settings, text, sizeof text);
    ck_assert_str_eq(text, "2e-07");
    tacit__param_print(&params[3], &settings, text, sizeof text);
    ck_assert_str_eq(text, "fastest");
    tacit__param_print(&params[4], &settings, text, sizeof text);
    ck_assert_str_eq(text, "");
}
END_TEST

/* What the caller has in errno stays there. */
START_TEST(errno_is_left_alone)
{
    settings_t settings;

    errno = ENOENT;
    (void)parse("bytes", "64", &settings);
    (void)parse("bytes", "99999999999999999999999", &settings);
    (void)parse("rate", "1e-999", &settings);
    ck_assert_int_eq(errno, ENOENT);
}
END_TEST

static unsigned distance(const char *a, const char *b)
{
    unsigned there = tacit__word_distance(a, strlen(a), b, strlen(b));

    ck_assert_uint_eq(there, tacit__word_distance(b, strlen(b), a, strlen(a)));
    return there;
}

START_TEST(word_distance)
{
    char long_word[200];

    memset(long_word, 'a', sizeof long_word - 1);
    long_word[sizeof long_word - 1] = '\0';
    ck_assert_uint_eq(distance("", ""), 0);
    ck_assert_uint_eq(distance("topk", "topk"), 0);
    ck_assert_uint_eq(distance("TopK", "topk"), 0);
    ck_assert_uint_eq(distance("", "topk"), 4);
    ck_assert_uint_eq(distance("top", "topk"), 1);
    ck_assert_uint_eq(distance("topl", "topk"), 1);
    ck_assert_uint_eq(distance("tokp", "topk"), 1); /* neighbours changed places */
    ck_assert_uint_eq(distance("onebit", "topk"), 6);
    ck_assert_uint_ge(distance(long_word, "topk"), 32);
    ck_assert_uint_eq(tacit__word_distance("topkxx", 4, "topkyy", 4), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("param");
    TCase *tests = tcase_create("param");

    tcase_add_test(tests, defaults);
    tcase_add_test(tests, find);
    tcase_add_test(tests, good_values);
    tcase_add_test(tests, bad_values);
    tcase_add_test(tests, length_counts);
    tcase_add_test(tests, printed_values_read_back);
    tcase_add_test(tests, print_shortest);
    tcase_add_test(tests, errno_is_left_alone);
    tcase_add_test(tests, word_distance);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
