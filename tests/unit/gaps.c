/* SPDX-License-Identifier: Apache-2.0 */
/* How the interposer notes what a rank does between its sums. */
#include "gaps.h"

#include <check.h>
#include <stdlib.h>

#include "deliver.h"
#include "harness.h"

/* The program has run for a microsecond when its first sum ends. */
double preload_run_seconds(void)
{
    return 1e-6;
}

/* Sums of 3 ns, in front of each of which so much happens. */
static uint64_t clock_now = 1000000;

static void sum(uint64_t gap)
{
    clock_now += gap;
    preload_note_gap(clock_now, clock_now + 3);
    clock_now += 3;
}

START_TEST(first)
{
    ck_assert_uint_eq(preload_gaps(), 0);
    sum(100);
    sum(7);
    sum(0);
    preload_note_gap(clock_now - 2, clock_now + 5); /* beside the last one, of another thread */
    clock_now += 5;
    sum(9);
    ck_assert_uint_eq(preload_gaps(), 5);
    ck_assert_uint_eq(preload_gap(0), 997);
    ck_assert_uint_eq(preload_gap(1), 7);
    ck_assert_uint_eq(preload_gap(2), 0);
    ck_assert_uint_eq(preload_gap(3), 0);
    ck_assert_uint_eq(preload_gap(4), 9);
    ck_assert_uint_eq(preload_gap(5), 0);
    ck_assert_uint_eq(preload_gap(SIZE_MAX), 0);
}
END_TEST

/* 4096 sums of their own, then 2048 pairs, then 2048 fours, and the first of the eights. */
START_TEST(many)
{
    uint64_t all = 0;

    for (uint64_t i = 0; i < 4096 + 4096 + 8192 + 1; i++) {
        sum(i);
    }
    ck_assert_uint_eq(preload_gaps(), 4096 + 2048 + 2048 + 1);
    ck_assert_uint_eq(preload_gap(4095), 4095);
    ck_assert_uint_eq(preload_gap(4096), 4096 + 4097);
    ck_assert_uint_eq(preload_gap(4096 + 2047), 8190 + 8191);
    ck_assert_uint_eq(preload_gap(4096 + 2048), 8192 + 8193 + 8194 + 8195);
    ck_assert_uint_eq(preload_gap(4096 + 4096), 16384);
    for (size_t i = 1; i < preload_gaps(); i++) {
        all += preload_gap(i);
    }
    ck_assert_uint_eq(all, (uint64_t)16384 * 16385 / 2);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("gaps");
    TCase   *tcase = tcase_create("gaps");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_test(tcase, first);
    tcase_add_test(tcase, many);
    suite_add_tcase(suite, tcase);
    srunner_set_fork_status(runner, CK_FORK); /* a process has one table: also where others run in one process */
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
