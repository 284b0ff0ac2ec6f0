/* SPDX-License-Identifier: Apache-2.0 */
/* The interposer's rules: which sum gets which spec, and what is refused. */
#include "rules.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

/* The environment is read once a process: each case is one, since Check forks. */
static const preload_rules_t *rules_of(const char *rule, const char *every, const char *least)
{
    setenv("TACIT_RULE", rule, 1);
    setenv("TACIT_ALLREDUCE", every, 1);
    setenv("TACIT_MIN_BYTES", least, 1);
    return preload_rules();
}

static const char *spec_for(const preload_rules_t *rules, uint64_t site, uint64_t comm, uint64_t count, const char *dtype)
{
    const preload_target_t target = {site, comm, count, 4 * count, dtype, false};
    const int              place = preload_rule_for(rules, &target);

    return place != 0 ? rules->rules[place - 1].spec : "";
}

START_TEST(nothing_asked)
{
    const preload_rules_t *rules = rules_of(_i == 0 ? "" : ";", "", "");

    ck_assert(!rules->asked);
    ck_assert_str_eq(spec_for(rules, 1, 1, 1 << 20, "float32"), "");
}
END_TEST

START_TEST(first_that_fits)
{
    const preload_rules_t *rules = rules_of("site=2:none;min=1K,max=2K,dtype=float32:qsgd:bits=8,block=64+ef;"
                                            "comm=3,count=7,after=5,order=fixed:fp16",
                                            "onebit+ef", "64K");

    ck_assert_str_eq(rules->error, "");
    ck_assert_uint_eq(rules->count, 4);
    ck_assert_uint_eq(rules->rules[2].after, 5);
    ck_assert(rules->rules[2].ordered && !rules->rules[3].ordered);
    ck_assert_str_eq(spec_for(rules, 2, 1, 300, "float32"), "none");
    ck_assert_str_eq(spec_for(rules, 1, 1, 256, "float32"), "qsgd:bits=8,block=64+ef");
    ck_assert_str_eq(spec_for(rules, 1, 1, 512, "float32"), "qsgd:bits=8,block=64+ef");
    ck_assert_str_eq(spec_for(rules, 1, 1, 513, "float32"), "");
    ck_assert_str_eq(spec_for(rules, 1, 1, 255, "float32"), "");
    ck_assert_str_eq(spec_for(rules, 1, 1, 300, "float16"), "");
    ck_assert_str_eq(spec_for(rules, 1, 3, 7, "float32"), "fp16");
    ck_assert_str_eq(spec_for(rules, 1, 2, 7, "float32"), "");
    ck_assert_str_eq(spec_for(rules, 1, 1, 16384, "float32"), "onebit+ef");
    ck_assert_str_eq(spec_for(rules, 1, 1, 16383, "float32"), "");
}
END_TEST

START_TEST(from_a_mebibyte_on)
{
    const preload_rules_t *rules = rules_of("", "onebit+ef", "");

    ck_assert_str_eq(spec_for(rules, 1, 1, 1 << 18, "float32"), "onebit+ef");
    ck_assert_int_eq(preload_rule_for(rules, &(preload_target_t){1, 1, 1 << 18, 1 << 20, "float32", true}), 0);
    ck_assert_str_eq(spec_for(rules, 1, 1, (1 << 18) - 1, "float32"), "");
}
END_TEST

static const char *const wrong[] = {"onebit+ef",
                                    "site:onebit+ef",
                                    "sight=2:onebit+ef",
                                    "site=two:onebit",
                                    "site=2:",
                                    "dtype=float64:none",
                                    "min=1T:none",
                                    "site=2x:none",
                                    "min=99999999999999999999:none",
                                    "site=1:none;min=:none",
                                    ":none",
                                    "site=-1:none",
                                    "site=0:none",
                                    "max=0K:none",
                                    "site=1,min=1,site=2:none",
                                    "dtype=float32,dtype=float16:none",
                                    "min=8K,max=4K:none",
                                    "order=free:none",
                                    "order=fixed,order=fixed:none"};

START_TEST(refused)
{
    const preload_rules_t *rules = rules_of(wrong[_i], "onebit+ef", "");

    ck_assert(rules->asked);
    ck_assert_str_ne(rules->error, "");
    ck_assert_str_eq(spec_for(rules, 2, 1, 1 << 20, "float32"), "");
}
END_TEST

START_TEST(wrong_bytes)
{
    ck_assert_str_ne(rules_of("", "onebit+ef", "1 MiB")->error, "");
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("rules");
    TCase   *tcase = tcase_create("rules");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_loop_test(tcase, nothing_asked, 0, 2);
    tcase_add_test(tcase, first_that_fits);
    tcase_add_test(tcase, from_a_mebibyte_on);
    tcase_add_loop_test(tcase, refused, 0, sizeof wrong / sizeof *wrong);
    tcase_add_test(tcase, wrong_bytes);
    suite_add_tcase(suite, tcase);
    srunner_set_fork_status(runner, CK_FORK); /* also where others run in one process */
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
