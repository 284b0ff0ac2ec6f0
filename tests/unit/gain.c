/* SPDX-License-Identifier: Apache-2.0 */
/* What the interposer's report says that specs would save, worked out by hand. */
#include "gain.h"

#include <check.h>
#include <string.h>

#include "harness.h"

/* The table of sites has those of a test alone. */
const char preload_allreduce[] = "MPI_Allreduce", preload_iallreduce[] = "MPI_Iallreduce";

enum { ONEBIT = 1, QSGD = 2, TOPK = 4, MEBI = 1 << 20 };

static preload_group_t world = {.number = 1, .ranks = 4, .whole = true}, half = {.number = 2, .ranks = 2},
                       one = {.number = 3, .ranks = 1, .whole = true}, inter = {.number = 4, .ranks = 4, .inter = true};
static preload_site_t     sites[16];
static size_t             site_count;
static preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED];

preload_site_t *preload_site_at(size_t index)
{
    return index < site_count ? &sites[index] : NULL;
}

static void begin(void)
{
    memset(sites, 0, sizeof sites);
    memset(measured, 0, sizeof measured);
    site_count = 0;
}

/* A site of float32 sums over all ranks. */
static preload_site_t *add(uint64_t count, uint64_t calls, double seconds)
{
    preload_site_t *site = &sites[site_count++];

    *site = (preload_site_t){
        .key = {preload_allreduce, "MPI_SUM", &world, count, 4, "MPI_FLOAT"}, .number = site_count, .calls = calls};
    atomic_store(&site->nanoseconds, (uint64_t)(1e9 * seconds));
    return site;
}

/* Trials of a chosen site: MPI's own, then one of a spec. */
static void measure(int place, double native, int spec, double seconds)
{
    measured[place][0] = (preload_measured_t){9, native};
    measured[place][spec] = (preload_measured_t){9, seconds};
}

/* Of the sites that are chosen, in a run of 100 s. */
static preload_gain_t gain_of(double waited)
{
    size_t         numbers[PRELOAD_SITES];
    uint64_t       counts[PRELOAD_SITES];
    preload_gain_t gain;

    preload_choose(numbers, counts);
    preload_gain(numbers, measured, waited, 100.0, &gain);
    return gain;
}

/* To a nanosecond. */
#define ASSERT_SECONDS(actual, expected) ck_assert_double_eq_tol(actual, expected, 1e-9)

/* 100 calls of 0.5 s or 0.1 s. 16 of them stay exact: 84 save 0.4 s each. */
START_TEST(a_site)
{
    preload_gain_t gain;

    begin();
    add(MEBI, 100, 50.0);
    measure(0, 0.5, ONEBIT, 0.1);
    gain = gain_of(0.0);
    ASSERT_SECONDS(gain.saved[0][ONEBIT], 33.6);
    ASSERT_SECONDS(gain.total[ONEBIT], 33.6);
    ASSERT_SECONDS(gain.saved[0][QSGD], 0.0); /* not measured */
    ck_assert_int_eq(gain.best, ONEBIT);
}
END_TEST

/* 50 steps of four large sums, one of 256 KiB, and eight of 4 bytes that take no time: two steps, of 26 sums, stay exact, so that
   0.96 of all save something. Two specs are good for one of the sites, and only there. */
START_TEST(steps)
{
    preload_gain_t gain;

    begin();
    add(1, 400, 0.0);
    add(MEBI / 16, 50, 5.0);
    add(MEBI, 200, 60.0);
    measure(0, 0.3, ONEBIT, 0.2);  /* the one with the most time: 192 calls save 0.1 s each */
    measure(1, 0.1, ONEBIT, 0.15); /* 48 calls lose 0.05 s each */
    measure(0, 0.3, QSGD, 0.15);
    measure(0, 0.3, TOPK, 0.4);
    measure(1, 0.1, TOPK, 0.0375);
    gain = gain_of(0.0);
    ASSERT_SECONDS(gain.saved[0][ONEBIT], 19.2);
    ASSERT_SECONDS(gain.saved[1][ONEBIT], -2.4);
    ASSERT_SECONDS(gain.total[ONEBIT], 19.2);
    ASSERT_SECONDS(gain.saved[0][TOPK], -19.2);
    ASSERT_SECONDS(gain.saved[1][TOPK], 3.0);
    ASSERT_SECONDS(gain.total[TOPK], 3.0);
    ASSERT_SECONDS(gain.total[QSGD], 28.8);
    ck_assert_int_eq(gain.best, QSGD);
}
END_TEST

/* Of 40 s in calls, 100 large ones took 20, and 0.1 s each in trials, small ones behind them 10, and large ones of integers 10.
   The large and the small ones count, so that all was three times as slow in the run; half as much if 20 s were waiting; all of
   it waiting leaves nothing. Calls of other communicators, and those that nobody waits for, are no part of it. */
START_TEST(waiting)
{
    static const struct {
        double waited, saved; /* of 92 calls: 16 of 200 sums of floats stay exact */
    } cases[] = {{0.0, 92 * 0.15}, {20.0, 92 * 0.075}, {40.0, 0.0}, {41.0, 0.0}};

    begin();
    atomic_store(&add(MEBI, 100, 20.0)->behind, 10000000000);
    add(1, 100, 9.0);
    strcpy(add(2, 100, 1.0)->key.type, "MPI_INT");
    strcpy(add(MEBI / 4, 100, 10.0)->key.type, "MPI_INT");
    add(1, 100, 30.0)->key.group = &half;
    add(1, 100, 7.0)->key.function = preload_iallreduce;
    measure(0, 0.1, ONEBIT, 0.05);
    ASSERT_SECONDS(preload_seconds_in_calls(), 40.0);
    ASSERT_SECONDS(gain_of(cases[_i].waited).saved[0][ONEBIT], cases[_i].saved);
}
END_TEST

START_TEST(nothing)
{
    static const struct {
        double native, spec;
        int    best;
    } cases[] = {{0.25, 0.3, 0}, {0.25, 0.25, 0}, {0.25, 0.239, 0}, {0.25, 0.237, ONEBIT}}; /* 84 calls save 0.924 and 1.092 s */
    preload_gain_t gain;

    begin();
    add(MEBI, 100, 25.0);
    measure(0, cases[_i].native, ONEBIT, cases[_i].spec);
    gain = gain_of(0.0);
    ck_assert_int_eq(gain.best, cases[_i].best);
    ck_assert_double_ge(gain.total[ONEBIT], 0.0);
}
END_TEST

/* A run of less than 16 sums, or of two steps, is over before anything is compressed; one without such sums saves nothing. */
START_TEST(too_short)
{
    begin();
    ck_assert_int_eq(gain_of(0.0).best, 0);
    add(MEBI, 2, 20.0);
    add(1, _i == 0 ? 8 : 20, 0.0);
    measure(0, 10.0, ONEBIT, 1.0);
    ASSERT_SECONDS(gain_of(0.0).total[ONEBIT], 0.0);
}
END_TEST

/* What failed in trials counts for nothing. */
START_TEST(failed)
{
    preload_gain_t gain;

    begin();
    add(MEBI, 100, 40.0);
    add(MEBI / 2, 100, 10.0);
    measure(0, 0.5, ONEBIT, 0.1);
    measure(1, 0.0, ONEBIT, 0.1);
    measured[1][0].trials = 0;
    gain = gain_of(0.0);
    ASSERT_SECONDS(gain.saved[1][ONEBIT], 0.0);
    ASSERT_SECONDS(gain.total[ONEBIT], 0.8 * 92 * 0.4); /* 40 s, instead of 50 in trials */
}
END_TEST

START_TEST(chosen)
{
    size_t   numbers[PRELOAD_SITES];
    uint64_t counts[PRELOAD_SITES];

    begin();
    add(8192, 1, 1.0);
    add(8191, 1, 9.0); /* under 32 KiB */
    add(10000, 1, 3.0);
    preload_choose(numbers, counts);
    ck_assert_uint_eq(numbers[0], 3);
    ck_assert_uint_eq(numbers[1], 1);
    ck_assert_uint_eq(numbers[2], 0);
    ck_assert_uint_eq(counts[2], 0);
    add(20000, 1, 2.0);
    add(30000, 1, 4.0);
    preload_choose(numbers, counts);
    ck_assert_uint_eq(numbers[0], 5);
    ck_assert_uint_eq(counts[0], 30000);
    ck_assert_uint_eq(numbers[1], 3);
    ck_assert_uint_eq(numbers[2], 4);
    ck_assert_uint_eq(counts[2], 20000);
}
END_TEST

START_TEST(left_out)
{
    size_t          numbers[PRELOAD_SITES];
    uint64_t        counts[PRELOAD_SITES];
    preload_site_t *site;
    bool            could = false; /* if the communicator were another one, or Tacit had no part yet */

    begin();
    site = add(MEBI, 10, 1.0);
    switch (_i) {
    case 0:
        site->key.function = preload_iallreduce;
        break;
    case 1:
        strcpy(site->key.type, "MPI_INT");
        break;
    case 2:
        site->key.op = "MPI_MAX";
        break;
    case 3:
        site->key.group = &inter;
        break;
    case 4:
        site->key.group = &one;
        break;
    case 5:
        site->key.count = (uint64_t)1 << 31;
        break;
    case 6:
        site->key.type_bytes = 8;
        break;
    case 7:
        site->key.group = &half, could = true;
        break;
    default:
        atomic_store(&site->taken, 1), could = true;
    }
    ck_assert((preload_why_not(site) == NULL) == could);
    preload_choose(numbers, counts);
    ck_assert_uint_eq(numbers[0], 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gain");
    TCase *cases = tcase_create("gain");

    tcase_add_test(cases, a_site);
    tcase_add_test(cases, steps);
    tcase_add_loop_test(cases, waiting, 0, 4);
    tcase_add_loop_test(cases, nothing, 0, 4);
    tcase_add_loop_test(cases, too_short, 0, 2);
    tcase_add_test(cases, failed);
    tcase_add_test(cases, chosen);
    tcase_add_loop_test(cases, left_out, 0, 9);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
