/* SPDX-License-Identifier: Apache-2.0 */
/* Status values, their texts, and the last error of a thread. */
#include <check.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"
#include "internal.h"

/* They are part of the interface and of the wire: a change here breaks programs. */
START_TEST(values_are_fixed)
{
    ck_assert_int_eq(TACIT_OK, 0);
    ck_assert_int_eq(TACIT_PENDING, 1);
    ck_assert_int_eq(TACIT_ERR_ARGUMENT, -1);
    ck_assert_int_eq(TACIT_ERR_SPEC, -2);
    ck_assert_int_eq(TACIT_ERR_MISMATCH, -3);
    ck_assert_int_eq(TACIT_ERR_FRAME, -4);
    ck_assert_int_eq(TACIT_ERR_VALUE, -5);
    ck_assert_int_eq(TACIT_ERR_MEMORY, -6);
    ck_assert_int_eq(TACIT_ERR_TIMEOUT, -7);
    ck_assert_int_eq(TACIT_ERR_TRANSPORT, -8);
    ck_assert_int_eq(TACIT_ERR_DEVICE, -9);
    ck_assert_int_eq(TACIT_ERR_UNSUPPORTED, -10);
    ck_assert_int_eq(TACIT_ERR_STATE, -11);
    ck_assert_int_eq(TACIT_ERR_BROKEN, -12);
    ck_assert_int_eq(TACIT_ERR_FILE, -13);
}
END_TEST

START_TEST(every_status_has_a_text)
{
    for (int a = TACIT_ERR_FILE; a <= TACIT_PENDING; a++) {
        ck_assert_uint_gt(strlen(tacit_strerror((tacit_status_t)a)), 4);
        ck_assert_str_ne(tacit_strerror((tacit_status_t)a), "unknown status");
        for (int b = TACIT_ERR_FILE; b < a; b++) {
            ck_assert_str_ne(tacit_strerror((tacit_status_t)a), tacit_strerror((tacit_status_t)b));
        }
    }
    ck_assert_str_eq(tacit_strerror((tacit_status_t)-9999), "unknown status");
    ck_assert_str_eq(tacit_strerror((tacit_status_t)INT_MAX), "unknown status");
}
END_TEST

START_TEST(last_error)
{
    char long_text[2 * TACIT_TEXT_BYTES];

    ck_assert_int_eq(tacit__fail(TACIT_ERR_FRAME, "rank %d: %s", 3, "why"), TACIT_ERR_FRAME);
    ck_assert_str_eq(tacit_last_error(), "rank 3: why");
    ck_assert_int_eq(tacit__fail_text(TACIT_ERR_VALUE, "100%s of it"), TACIT_ERR_VALUE);
    ck_assert_str_eq(tacit_last_error(), "100%s of it");
    ck_assert_int_eq(tacit__fail_text(TACIT_ERR_VALUE, tacit_last_error()), TACIT_ERR_VALUE);
    ck_assert_str_eq(tacit_last_error(), "100%s of it");

    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    (void)tacit__fail(TACIT_ERR_FRAME, "%s", long_text);
    ck_assert_uint_eq(strlen(tacit_last_error()), TACIT_TEXT_BYTES - 1);
    (void)tacit__fail_text(TACIT_ERR_FRAME, long_text);
    ck_assert_uint_eq(strlen(tacit_last_error()), TACIT_TEXT_BYTES - 1);
}
END_TEST

static void *fail_elsewhere(void *arg)
{
    *(bool *)arg = tacit_last_error()[0] == '\0';
    (void)tacit__fail(TACIT_ERR_STATE, "there");
    return NULL;
}

START_TEST(threads_have_their_own)
{
    pthread_t thread;
    bool      empty = false;

    (void)tacit__fail(TACIT_ERR_STATE, "here");
    ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, &empty), 0);
    pthread_join(thread, NULL);
    ck_assert(empty);
    ck_assert_str_eq(tacit_last_error(), "here");
}
END_TEST

START_TEST(version)
{
    char text[32];

    snprintf(text, sizeof text, "%d.%d.%d", TACIT_VERSION_MAJOR, TACIT_VERSION_MINOR, TACIT_VERSION_PATCH);
    ck_assert_str_eq(tacit_version(), text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *tests = tcase_create("status");

    tcase_add_test(tests, values_are_fixed);
    tcase_add_test(tests, every_status_has_a_text);
    tcase_add_test(tests, last_error);
    tcase_add_test(tests, threads_have_their_own);
    tcase_add_test(tests, version);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
