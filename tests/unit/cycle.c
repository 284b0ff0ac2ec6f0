/* SPDX-License-Identifier: Apache-2.0 */
/* How the interposer finds a program's step: by what ranks have in common, with buffers' addresses for a hint. */
#include "cycle.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

/* Alone, a rank agrees with itself. The call's position; -1: none. place 0: it is where it should be. */
static int call(preload_cycle_t *cycle, uint64_t sign, uintptr_t place)
{
    const bool elsewhere = place != 0 && preload_cycle_compares(cycle, sign) && preload_cycle_is_elsewhere(cycle, place);
    const int  position = preload_cycle_next(cycle, sign, elsewhere);

    if (position < 0 && cycle->period == 0 && preload_cycle_note(cycle, sign, place)) {
        const size_t found = preload_cycle_by_places(cycle);

        (void)preload_cycle_agree(cycle, found, found);
    }
    return position;
}

/* Steps of letters, each of which is a tensor: its sign is the letter without its case. Fresh buffers: '*'. */
static void run(preload_cycle_t *cycle, const char *step, int times)
{
    static uintptr_t fresh = 1000;

    for (int i = 0; i < times; i++) {
        for (const char *letter = step; *letter != '\0'; letter++) {
            (void)call(cycle, (uint64_t)*letter & 0x1f, *letter == '*' ? fresh++ : (uintptr_t)*letter);
        }
    }
}

START_TEST(periods)
{
    static const struct {
        const char *step;
        size_t      period;
    } cases[] = {{"a", 1}, {"ab", 2}, {"aab", 3}, {"aAbA", 4}, {"abcdefgh", 8}, {"aA", 2}, {"aAaAb", 5}};
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    run(cycle, "xyzx", 1); /* before the first step */
    run(cycle, cases[_i].step, 40);
    ck_assert_uint_eq(cycle->period, cases[_i].period);
    free(cycle);
}
END_TEST

/* Tensors that are alike but for their buffers keep their positions, from one step to the next. */
START_TEST(positions)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);
    int              first[4];

    run(cycle, "aAbA", 8);
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 4; i++) {
            const int position = call(cycle, (uint64_t) "aAbA"[i] & 0x1f, 0);

            ck_assert_int_ge(position, 0);
            first[i] = step == 0 ? position : first[i];
            ck_assert_int_eq(position, first[i]);
        }
    }
    ck_assert_uint_eq(preload_cycle_ordinal(cycle, (size_t)first[0]) + preload_cycle_ordinal(cycle, (size_t)first[1]) +
                          preload_cycle_ordinal(cycle, (size_t)first[3]),
                      3); /* 0, 1 and 2 */
    ck_assert_uint_eq(preload_cycle_ordinal(cycle, (size_t)first[2]), 0);
    cycle->placed = false;
    ck_assert(!preload_cycle_is_clear(cycle, (size_t)first[0]) && preload_cycle_is_clear(cycle, (size_t)first[2]));
    free(cycle);
}
END_TEST

/* Where their order never changes, buffers may be anywhere, and need not be waited for. */
START_TEST(order_is_known)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    cycle->ordered = true;
    run(cycle, _i == 0 ? "aAbA" : "aAbc", 17); /* 64 calls and a step */
    ck_assert_uint_eq(cycle->period, 4);
    for (size_t i = 0; i < 4; i++) {
        ck_assert(preload_cycle_is_clear(cycle, i));
        ck_assert_int_eq(call(cycle, cycle->signs[cycle->position], 1000 + i), (int)((cycle->position + 3) % 4));
    }
    free(cycle);
}
END_TEST

/* Buffers that never come again say nothing: signs alone, but late, since equal tensors would pass for one. */
START_TEST(fresh_buffers)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    for (uintptr_t i = 0; i < 500; i++) {
        (void)call(cycle, i % 5 < 4, 1 + i);
    }
    ck_assert_uint_eq(cycle->period, 0);
    for (uintptr_t i = 500; i < 700; i++) {
        (void)call(cycle, i % 5 < 4, 1 + i);
    }
    ck_assert_uint_eq(cycle->period, 5);
    free(cycle);
}
END_TEST

/* So they do if buffers seem to come again. */
START_TEST(places_by_chance)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    for (uintptr_t i = 0; i < 1650; i++) {
        const bool by_chance = (i > 300 && i < 750) || (i > 850 && i < 1350);

        (void)call(cycle, i % 5 < 4, by_chance ? i % 10 : 1000 + i);
    }
    ck_assert_uint_eq(cycle->searches, 2);
    ck_assert_uint_eq(cycle->period, 5);
    ck_assert(!cycle->placed);
    free(cycle);
}
END_TEST

/* What places have shown once, signs may show again. */
START_TEST(places_once)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    run(cycle, "aAb", 12);
    ck_assert(cycle->placed);
    for (uintptr_t i = 0; i < 120; i++) {
        (void)call(cycle, 1 + (i % 3 == 2), 1000 + i);
    }
    ck_assert_uint_eq(cycle->period, 3);
    ck_assert(!cycle->placed);
    free(cycle);
}
END_TEST

/* Not if they really did, for long. */
START_TEST(places_for_long)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    run(cycle, "ab", 300);
    ck_assert_uint_eq(cycle->period, 2);
    run(cycle, "*b", 200);
    ck_assert_uint_eq(cycle->period, 0);
    memset(cycle, 0, sizeof *cycle);
    run(cycle, "*", 490);
    run(cycle, "aA", 400);
    ck_assert_uint_eq(cycle->period, 2);
    for (uintptr_t i = 0; i < 400; i++) {
        (void)call(cycle, 1, 100 + i % 20);
    }
    ck_assert_uint_eq(cycle->period, 20);
    free(cycle);
}
END_TEST

/* Ranks that found different periods find none, until it is late, and even then none in which a tensor of some rank's would be
   another one, too. */
START_TEST(disagreement)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    run(cycle, "*", 100);
    ck_assert(!preload_cycle_agree(cycle, 4, 8));
    ck_assert(!preload_cycle_agree(cycle, 0, 4));
    cycle->seen = 511;
    ck_assert(!preload_cycle_agree(cycle, 0, 1));
    cycle->seen = 512;
    ck_assert(!preload_cycle_agree(cycle, 0, 4));
    ck_assert(!preload_cycle_agree(cycle, 1, 4));
    cycle->seen = 1023;
    ck_assert(!preload_cycle_agree(cycle, 0, 4));
    ck_assert(preload_cycle_agree(cycle, 0, 1));
    ck_assert_uint_eq(cycle->period, 1);
    ck_assert(!cycle->placed);
    free(cycle);
}
END_TEST

/* Where the order is known, addresses do not matter, even if they come again by chance. */
START_TEST(ordered)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    cycle->ordered = true;
    for (uintptr_t i = 0; i < 200; i++) {
        (void)call(cycle, 1, 1000 + (i < 100 ? i % 2 : i));
    }
    ck_assert_uint_eq(cycle->period, 1);
    ck_assert_uint_eq(cycle->searches, 0);
    ck_assert(!cycle->placed);
    free(cycle);
}
END_TEST

/* One sum a step, whose addresses come again by chance, and again and again */
START_TEST(one_by_chance)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    for (uintptr_t i = 0; i < 3000; i++) {
        (void)call(cycle, 1, 1000 + (i % 300 < 280 ? i % 2 : i % 7));
    }
    ck_assert_uint_eq(cycle->period, 1);
    free(cycle);
}
END_TEST

/* Fresh buffers that come again until slots are made, which take memory from where they were. */
START_TEST(moved_by_slots)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);
    size_t           former = 0;
    uintptr_t        base = 1000;

    for (uintptr_t i = 0; i < 1500; i++) {
        (void)call(cycle, 1 + i % 2, base + i % 4);
        base += former == 0 && cycle->period != 0 ? 100 : 0;
        former = cycle->period;
    }
    ck_assert_uint_eq(cycle->period, 2);
    ck_assert_uint_ge(cycle->lasted, 500);
    free(cycle);
}
END_TEST

/* Many tensors in a row that are alike are no step of one: in fresh buffers; by their order alone; in a step so long that places
   do not come again in time, once in a row and once with others between; after a step of one. */
START_TEST(alike)
{
    static const struct {
        size_t alike, step;
        bool   fresh, ordered, one_first;
    } cases[] = {{40, 41, true, false, false},    {60, 61, true, true, false},  {300, 300, false, false, false},
                 {300, 301, false, false, false}, {40, 41, false, false, true}, {100, 100, false, false, true}};
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    cycle->ordered = cases[_i].ordered;
    if (cases[_i].one_first) {
        run(cycle, "a", 100);
    }
    for (uintptr_t i = 0; i < 1400; i++) {
        const size_t at = i % cases[_i].step;

        (void)call(cycle, at < cases[_i].alike ? 1 : 2, 1000 + (cases[_i].fresh ? i : at));
        ck_assert(cycle->period == 0 || cycle->period == cases[_i].step || (cases[_i].one_first && cycle->placed));
    }
    ck_assert_uint_eq(cycle->period, cases[_i].step);
    free(cycle);
}
END_TEST

/* A call in between changes nothing, however often there is one between steps; another step is found. */
START_TEST(misfits)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    run(cycle, "abc", 8);
    while (cycle->position != 1) {
        (void)call(cycle, cycle->signs[cycle->position], 0);
    }
    ck_assert_int_eq(call(cycle, 99, 0), -1);
    ck_assert_int_eq(call(cycle, cycle->signs[1], 0), 1);
    run(cycle, "bcabcabcabcabcabcax", 40);
    ck_assert_uint_eq(cycle->period, 3);
    ck_assert_uint_eq(cycle->searches, 0);
    ck_assert(preload_cycle_is_between(cycle, 99));
    ck_assert(!preload_cycle_is_between(cycle, cycle->signs[cycle->position]));
    run(cycle, "bcax", 40);
    ck_assert_uint_eq(cycle->period, 4);
    run(cycle, "xyxz", 40);
    ck_assert_uint_eq(cycle->period, 4);
    free(cycle);
}
END_TEST

/* Signs do not show that a step has more tensors now, or fewer; places do. */
START_TEST(changed)
{
    static const char *const steps[] = {"aA", "aAA", "a", "aAaaA"};
    preload_cycle_t         *cycle = calloc(1, sizeof *cycle);

    run(cycle, "aA", 20);
    for (uintptr_t i = 0; i < 200; i++) {
        const uintptr_t tensor = i % 5;
        const int       position = call(cycle, 1, 100 + tensor);

        ck_assert(position < 0 || cycle->places[position] == 100 + tensor);
    }
    ck_assert_uint_eq(cycle->period, 5);
    run(cycle, steps[_i], 100);
    ck_assert_uint_eq(cycle->period, strlen(steps[_i]));
    free(cycle);
}
END_TEST

/* What looked like a step of one tensor was the beginning of longer ones. */
START_TEST(second_thoughts)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);

    run(cycle, "a", 16);
    ck_assert_uint_eq(cycle->period, 1);
    run(cycle, "aaaaaaab", 16);
    ck_assert_uint_eq(cycle->period, 8);
    free(cycle);
}
END_TEST

/* A long sequence without a period ends in nothing but a longer one. */
START_TEST(no_period)
{
    preload_cycle_t *cycle = calloc(1, sizeof *cycle);
    int              compared = 0;

    for (uint64_t i = 0; i < 3 * PRELOAD_HISTORY; i++) {
        ck_assert_int_eq(preload_cycle_next(cycle, i, false), -1);
        compared += preload_cycle_note(cycle, i, 7);
    }
    ck_assert_uint_eq(preload_cycle_by_signs(cycle), 0);
    ck_assert_int_lt(compared, 60);
    free(cycle);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cycle");
    TCase *tcase = tcase_create("cycle");

    tcase_add_loop_test(tcase, periods, 0, 7);
    tcase_add_test(tcase, positions);
    tcase_add_loop_test(tcase, order_is_known, 0, 2);
    tcase_add_test(tcase, fresh_buffers);
    tcase_add_test(tcase, places_by_chance);
    tcase_add_test(tcase, places_for_long);
    tcase_add_test(tcase, places_once);
    tcase_add_test(tcase, disagreement);
    tcase_add_test(tcase, ordered);
    tcase_add_test(tcase, one_by_chance);
    tcase_add_test(tcase, moved_by_slots);
    tcase_add_loop_test(tcase, alike, 0, 6);
    tcase_add_test(tcase, misfits);
    tcase_add_loop_test(tcase, changed, 0, 4);
    tcase_add_test(tcase, second_thoughts);
    tcase_add_test(tcase, no_period);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
