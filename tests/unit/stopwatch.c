/* SPDX-License-Identifier: Apache-2.0 */
/* How long calls take on a GPU: shares, and laps that have not ended. */
#include "stopwatch.h"

#include <check.h>
#include <stdlib.h>

#include "harness.h"

/* An event is when it was recorded, in milliseconds of this clock. */
static float clock_now;
static bool  is_ready;
static int   events;

static int create(void **event_out, unsigned flags)
{
    (void)flags;
    *event_out = calloc(1, sizeof(float));
    events++;
    return 0;
}

static int destroy(void *event)
{
    free(event);
    events--;
    return 0;
}

static int record(void *event, void *stream)
{
    (void)stream;
    *(float *)event = clock_now;
    return 0;
}

static int query(void *event)
{
    (void)event;
    return !is_ready;
}

static int elapsed(float *milliseconds_out, void *first, void *second)
{
    *milliseconds_out = *(float *)second - *(float *)first;
    return 0;
}

static const preload_driver_t driver = {
    .create_event = create, .destroy_event = destroy, .record_event = record, .query_event = query, .elapsed = elapsed};

static preload_lap_t *lap_of(preload_stopwatch_t *watch, preload_site_t *one, preload_site_t *other)
{
    preload_lap_t *lap = preload_start(watch, &driver, NULL);

    if (lap != NULL) {
        preload_add_part(lap, one, 100.0);
        preload_add_part(lap, other, 300.0);
        clock_now += 4.0f;
        preload_stop(lap, &driver, NULL);
    }
    return lap;
}

START_TEST(shares)
{
    preload_stopwatch_t watch = {.next = 0};
    preload_site_t      one = {.number = 1}, other = {.number = 2};

    is_ready = true;
    ck_assert_ptr_nonnull(lap_of(&watch, &one, &other));
    preload_read(&watch, &driver);
    preload_read(&watch, &driver); /* is not read again */
    ck_assert_uint_eq(atomic_load(&one.nanoseconds), 1000000);
    ck_assert_uint_eq(atomic_load(&other.nanoseconds), 3000000);
    ck_assert_uint_eq(atomic_load(&one.timed), 1);
    preload_end_watch(&watch, &driver);
    ck_assert_int_eq(events, 0);
}
END_TEST

START_TEST(laps_under_way)
{
    preload_stopwatch_t watch = {.next = 0};
    preload_site_t      one = {.number = 1}, other = {.number = 2};

    is_ready = false;
    for (int i = 0; i < PRELOAD_LAPS; i++) {
        ck_assert_ptr_nonnull(lap_of(&watch, &one, &other));
    }
    ck_assert_ptr_null(lap_of(&watch, &one, &other));
    ck_assert_uint_eq(atomic_load(&one.timed), 0);
    is_ready = true;
    ck_assert_ptr_nonnull(lap_of(&watch, &one, &other)); /* in the place of the first one, which is read */
    ck_assert_uint_eq(atomic_load(&one.timed), 1);
    preload_end_watch(&watch, &driver);
    ck_assert_uint_eq(atomic_load(&one.timed), PRELOAD_LAPS + 1);
    ck_assert_int_eq(events, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stopwatch");
    TCase *cases = tcase_create("stopwatch");

    tcase_add_test(cases, shares);
    tcase_add_test(cases, laps_under_way);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
