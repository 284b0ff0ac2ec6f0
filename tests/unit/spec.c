/* SPDX-License-Identifier: Apache-2.0 */
/* The spec grammar: what parses, what it means, and that every refusal helps. */
#include <locale.h>

#include "compress.h"

#include "feedback.h"
#include "param.h"

/* Room for a spec and what surrounds it. */
enum { TEXT_BYTES = 1024 };

/* The canonical form is a spec, and the same one. */
static void is_stable(const char *text)
{
    tacit_spec_t spec = spec_of(text);
    tacit_spec_t again = {0};

    ck_assert_str_eq(spec.text, text);
    ck_assert_uint_lt(strlen(spec.canonical), TACIT_SPEC_BYTES / 2);
    ck_assert_msg(tacit__spec_parse_any(spec.canonical, &again) == TACIT_OK, "%s: %s", spec.canonical, tacit_last_error());
    ck_assert_str_eq(again.canonical, spec.canonical);
    ck_assert_uint_eq(again.hash, spec.hash);
    ck_assert_ptr_eq(again.compressor, spec.compressor);
    ck_assert_ptr_eq(again.feedback, spec.feedback);
    tacit__spec_release(&spec);
    tacit__spec_release(&again);
}

START_TEST(every_pair_is_stable)
{
    const tacit_compressor_t *compressor;
    const tacit_feedback_t   *feedback;
    char                      text[TEXT_BYTES];
    size_t                    parsed = 0;

    for (size_t i = 0; (compressor = tacit__compressor_at(i)) != NULL; i++) {
        is_stable(compressor->name);
        for (size_t j = 0; (feedback = tacit__feedback_at(j)) != NULL; j++) {
            snprintf(text, sizeof text, "%s+%s", compressor->name, feedback->name);
            if (tacit_spec_check(text, NULL, 0) == TACIT_OK) {
                is_stable(text);
                parsed++;
            }
        }
    }
    ck_assert_uint_gt(parsed, 0);
}
END_TEST

/* A number at the upper end of its range, and outside of it at both. */
static void try_number(const char *name, const tacit_param_t *param)
{
    char text[TEXT_BYTES];

    snprintf(text, sizeof text, "%s:%s=%.0f", name, param->key, param->high);
    if (tacit_spec_check(text, NULL, 0) == TACIT_OK) {
        is_stable(text);
    } else {
        ck_assert_ptr_null(strstr(tacit_last_error(), "is not allowed")); /* some other rule */
    }
    snprintf(text, sizeof text, "%s:%s=%.0f", name, param->key, 2 * param->high + 1);
    refused(text, param->key);
    snprintf(text, sizeof text, "%s:%s=%.0f", name, param->key, floor(param->low) - 1);
    refused(text, param->key);
}

static void try_words(const char *name, const tacit_param_t *param)
{
    char        text[TEXT_BYTES];
    const char *word = param->words;

    while (*word != '\0') {
        size_t bytes = strcspn(word, " ");

        snprintf(text, sizeof text, "%s:%s=%.*s", name, param->key, (int)bytes, word);
        if (tacit_spec_check(text, NULL, 0) == TACIT_OK) {
            is_stable(text);
        }
        word += bytes + strspn(word + bytes, " ");
    }
    snprintf(text, sizeof text, "%s:%s=certainly-not", name, param->key);
    refused(text, param->words);
}

START_TEST(every_parameter)
{
    const tacit_compressor_t *compressor;

    for (size_t i = 0; (compressor = tacit__compressor_at(i)) != NULL; i++) {
        for (const tacit_param_t *param = compressor->params; param->key != NULL; param++) {
            if (param->type == TACIT_PARAM_WORD) {
                try_words(compressor->name, param);
            } else {
                try_number(compressor->name, param);
            }
        }
    }
}
END_TEST

START_TEST(equal_meaning_equal_hash)
{
    static const char *const pairs[][2] = {
        {"onebit+ef", "onebit:block=2K,norm=l2,own=exact+ef"},
        {"onebit:norm=l1,block=512", "onebit:block=512,norm=l1"},
        {"qsgd+ef", "qsgd:rounding=nearest+ef"},
        {"qsgd", "qsgd:rounding=stochastic"},
        {"topk:ratio=0.010", "topk:ratio=1e-2"},
        {"randk+ef", "randk:scale=one+ef"},
    };
    static const char *const different[] = {"none", "fp16",        "onebit", "onebit+ef", "onebit:block=512",
                                            "qsgd", "qsgd:bits=3", "auto"};

    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        tacit_spec_t a = spec_of(pairs[i][0]), b = spec_of(pairs[i][1]);

        ck_assert_str_eq(a.canonical, b.canonical);
        ck_assert_uint_eq(a.hash, b.hash);
        tacit__spec_release(&a);
        tacit__spec_release(&b);
    }
    for (size_t i = 0; i < COUNT_OF(different); i++) {
        for (size_t j = 0; j < i; j++) {
            tacit_spec_t a = spec_of(different[i]), b = spec_of(different[j]);

            ck_assert_uint_ne(a.hash, b.hash);
            tacit__spec_release(&a);
            tacit__spec_release(&b);
        }
    }
}
END_TEST

START_TEST(typos)
{
    refused("onebt", "unknown compressor 'onebt'|did you mean 'onebit'|topk");
    refused("ONEBIT", "did you mean 'onebit'");
    refused("top-k:ratio=0.1", "did you mean 'topk'");
    refused("fp61", "did you mean 'fp16'");
    refused("atuo", "did you mean 'auto'");
    refused("onebit+fe", "unknown feedback 'fe'|did you mean 'ef'");
    refused("onebit+EF", "did you mean 'ef'");
    refused("onebit:blokc=64", "parameter of onebit|'blokc'|did you mean 'block'");
    refused("onebit:Block=64", "did you mean 'block'");
    refused("qsgd:bit=4", "did you mean 'bits'");
    refused("none:x=1", "parameter of none|there is none");
    refused("onebit+ef:x=1", "parameter of ef|residual");
    refused("onebit+ef:residual=int16", "fp32 bf16 int8");
    refused("onebit+ef21:residual=bf16", "trackers|average below 1");
    refused("certainly-not-a-compressor", "unknown compressor|onebit");
    ck_assert_ptr_null(strstr(tacit_last_error(), "did you mean"));
}
END_TEST

START_TEST(values)
{
    refused("onebit:block=33", "block=33|multiple");
    refused("qsgd:block=48", "block=48|a multiple of 32");
    refused("qsgd:bits=0", "bits=0|from 1 to 8 bits");
    refused("qsgd:bits=9", "bits=9");
    refused("qsgd:bits=four", "bits=four|an integer");
    refused("qsgd:bits=4.0", "an integer");
    refused("qsgd:bits=0x4", "an integer");
    refused("qsgd:bits=-4", "bits=-4");
    refused("qsgd:bits=99999999999999999999", "an integer");
    refused("qsgd:block=9000000000000000G", "block=");
    refused("qsgd:block=1KK", "block=1KK");
    refused("qsgd:block=1k", "block=1k");
    refused("qsgd:block=K", "block=K");
    refused("topk:ratio=0", "ratio=0|a number");
    refused("topk:ratio=1.5", "ratio=1.5");
    refused("topk:ratio=nan", "ratio=nan");
    refused("topk:ratio=-nan", "ratio=-nan");
    refused("topk:ratio=inf", "ratio=inf");
    refused("topk:ratio=1e-999", "ratio=1e-999");
    refused("topk:ratio=0.1x", "ratio=0.1x");
    refused("topk:ratio=0.1111111111111111111111111111111111111111111111111111111", "ratio=0.111");
    refused("onebit:norm=L2", "choose one of|l2");
    is_stable("onebit:block=4K");
    is_stable("qsgd:block=64K");
    is_stable("topk:ratio=0.30000000000000004");
}
END_TEST

START_TEST(form)
{
    refused("", "empty");
    refused(":", "unknown compressor");
    refused("+ef", "unknown compressor");
    refused("onebit:", "expected key=value");
    refused("onebit:block", "expected key=value");
    refused("onebit:block=", "expected key=value");
    refused("onebit:=64", "expected key=value");
    refused("onebit:block=64,", "expected key=value");
    refused("onebit:block=64,block=64", "block is given twice");
    refused("onebit:block=64:norm=l2", "not understood");
    refused("onebit+", "unknown feedback");
    refused("onebit+ef:", "expected key=value");
    refused("onebit+ef+ef", "not understood");
    refused("onebit ", "not understood");
    refused(" onebit", "unknown compressor");
    refused("onebit: block=64", "expected key=value");
    refused("onebit+ef\n", "not understood");
    refused("onebit;ef", "not understood");
    ck_assert_int_eq(tacit_spec_check(NULL, NULL, 0), TACIT_ERR_SPEC);
}
END_TEST

/* What theory forbids is refused with the reason and a way out. */
START_TEST(forbidden_pairs)
{
    refused("qsgd:bits=1+ef", "use onebit");
    refused("qsgd:bits=1,rounding=nearest", "use onebit");
    refused("qsgd:bits=4,block=512,rounding=stochastic+ef", "block=448|rounding=nearest");
    refused("qsgd:bits=2,block=64,rounding=stochastic+ef", "whatever the block|rounding=nearest");
    refused("randk:ratio=0.1,scale=unbiased+ef", "ef");
    is_stable("qsgd:bits=1");
    is_stable("qsgd:bits=4,block=448,rounding=stochastic+ef");
    is_stable("qsgd:bits=2,block=64,rounding=nearest+ef");
    is_stable("randk:ratio=0.1,scale=one+ef");
}
END_TEST

/* What is for tokens is a spec, and nobody else's. */
START_TEST(tokens)
{
    tacit_codec_t      *codec;
    tacit_slot_config_t tensor = {.struct_bytes = sizeof tensor, .count = 64, .spec = "lsh:rate=0.5"};
    char                text[TACIT_SPEC_BYTES];

    is_stable("lsh:hashes=3,residual=drop");
    ck_assert_int_eq(tacit_spec_check("lsh:rate=0.5", text, sizeof text), TACIT_OK);
    ck_assert_str_eq(text, "lsh:hashes=6,rounds=2,values=fp32,rate=0.5,residual=add");
    ck_assert_int_eq(tacit_spec_check("lsh+ef", NULL, 0), TACIT_ERR_SPEC);
    refused("lsh+ef", "for tokens|nothing to remember|leave out '+ef'");
    refused("lsh:rate=1.5", "rate=1.5|from 0 to 1");
    refused("lsh", "'lsh' is for tokens|tacit_moe_create()");
    ck_assert_int_eq(tacit_codec_create("w", &tensor, NULL, 0, 2, &codec), TACIT_ERR_SPEC);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "'lsh' is for tokens"));
}
END_TEST

START_TEST(too_long)
{
    char text[TACIT_SPEC_BYTES + 100];

    for (size_t bytes = TACIT_SPEC_BYTES / 2 - 2; bytes < sizeof text; bytes++) {
        memset(text, 'x', bytes);
        text[bytes] = '\0';
        ck_assert_int_eq(tacit_spec_check(text, NULL, 0), TACIT_ERR_SPEC);
    }
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "longer than"));
    memset(text, 'x', 200);
    memcpy(text, "onebit:", 7);
    text[200] = '\0';
    refused(text, "expected key=value");
    text[60] = '=';
    refused(text, "unknown parameter of onebit");
}
END_TEST

START_TEST(check_truncates)
{
    char whole[TACIT_SPEC_BYTES], text[8] = "zzzzzzz";

    ck_assert_int_eq(tacit_spec_check("onebit", whole, sizeof whole), TACIT_OK);
    ck_assert_str_eq(whole, "onebit:block=2048,norm=l2,own=exact");
    ck_assert_int_eq(tacit_spec_check("onebit", text, 4), TACIT_OK);
    ck_assert_str_eq(text, "one");
    ck_assert_int_eq(text[4], 'z');
    ck_assert_int_eq(tacit_spec_check("onebit", text, 0), TACIT_OK);
    ck_assert_str_eq(text, "one");
    ck_assert_int_eq(tacit_spec_check("onebit:block=1", text, sizeof text), TACIT_ERR_SPEC);
    ck_assert_str_eq(text, "one");
}
END_TEST

/* Where a program's locale writes 0,5, a spec still writes 0.5; and the locale stays. Says nothing where no such locale is
   installed. */
START_TEST(any_locale)
{
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ru_RU.UTF-8", "de_DE", "fr_FR"};
    char                     plain[TACIT_SPEC_BYTES], text[TACIT_SPEC_BYTES];

    ck_assert_int_eq(tacit_spec_check("topk:ratio=0.125+ef", plain, sizeof plain), TACIT_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (setlocale(LC_NUMERIC, names[i]) == NULL) {
            continue;
        }
        ck_assert_str_eq(localeconv()->decimal_point, ",");
        ck_assert_int_eq(tacit_spec_check("topk:ratio=0.125+ef", text, sizeof text), TACIT_OK);
        ck_assert_str_eq(text, plain);
        ck_assert_str_eq(localeconv()->decimal_point, ",");
    }
    setlocale(LC_NUMERIC, "C");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("spec");
    TCase *tests = tcase_create("spec");

    tcase_add_test(tests, every_pair_is_stable);
    tcase_add_test(tests, every_parameter);
    tcase_add_test(tests, equal_meaning_equal_hash);
    tcase_add_test(tests, typos);
    tcase_add_test(tests, values);
    tcase_add_test(tests, form);
    tcase_add_test(tests, forbidden_pairs);
    tcase_add_test(tests, tokens);
    tcase_add_test(tests, too_long);
    tcase_add_test(tests, check_truncates);
    tcase_add_test(tests, any_locale);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
