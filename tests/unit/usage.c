/* SPDX-License-Identifier: Apache-2.0 */
/* Odd but lawful ways to use the library, and unlawful ones that must not do harm. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"
#include "tacit_optim.h"

enum { RANKS = 2, COUNT = 100 };

static void sleep_ms(long ms)
{
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&pause, NULL);
}

/* Computing between a call and its wait is no waiting, however long it takes. */
static void computes_body(tacit_comm_t *comm, void *arg)
{
    tacit_status_t  *status = (tacit_status_t *)arg + tacit_comm_rank(comm);
    tacit_slot_t    *slot = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "onebit+ef");
    tacit_request_t *request;
    float            x[COUNT] = {0};

    MUST(tacit_iallreduce(slot, x, x, TACIT_SUM, &request));
    sleep_ms(tacit_comm_rank(comm) == 0 ? 1500 : 1200); /* 0.3 s apart, of 1 s */
    *status = tacit_wait(&request);
}

START_TEST(computing_is_not_waiting)
{
    const tacit_config_t config = {.struct_bytes = sizeof config, .timeout_ms = 1000};
    tacit_status_t       status[RANKS] = {TACIT_PENDING, TACIT_PENDING};

    run_ranks(RANKS, &config, computes_body, status);
    ck_assert_int_eq(status[0], TACIT_OK);
    ck_assert_int_eq(status[1], TACIT_OK);
}
END_TEST

/* Sums that overflow in memory are refused before they stay there. */
static void overflow_body(tacit_comm_t *comm, void *arg)
{
    bool       *right = arg;
    const char *specs[] = {"topk:ratio=0.01+ef", "randk:ratio=0.01+ef", "onebit:block=32+ef"};
    float       x[COUNT], y[COUNT];

    for (size_t i = 0; i < COUNT; i++) {
        x[i] = i % 2 == 0 ? 2e38f : -2e38f;
    }
    for (size_t s = 0; s < 3; s++) {
        tacit_slot_t  *slot = slot_of(comm, specs[s], COUNT, TACIT_FLOAT32, specs[s]);
        tacit_status_t status = TACIT_OK;

        for (int step = 0; step < 9 && status == TACIT_OK; step++) {
            status = tacit_allreduce(slot, x, y, TACIT_SUM);
        }
        *right = *right && (status == TACIT_OK || status == TACIT_ERR_VALUE);
        for (size_t i = 0; i < COUNT; i++) {
            *right = *right && isfinite(slot->codec->memory.now[0][i]);
        }
    }
}

START_TEST(overflow_is_refused)
{
    bool right = true;

    run_ranks(1, NULL, overflow_body, &right);
    ck_assert(right);
}
END_TEST

/* A slot that is destroyed while it is in use lives until it is not; a request that nobody waits for ends with its
   communicator. Sanitizers see the rest. */
static void destroy_body(tacit_comm_t *comm, void *arg)
{
    tacit_status_t *status = (tacit_status_t *)arg + tacit_comm_rank(comm);
    tacit_slot_t   *a = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "onebit+ef"),
                 *b = slot_of(comm, "b", COUNT, TACIT_FLOAT32, "topk+ef"), *c = slot_of(comm, "c", COUNT, TACIT_FLOAT32, "none");
    tacit_request_t *request, *forgotten;
    float            x[COUNT] = {1}, y[COUNT] = {2}, z[COUNT] = {3};

    MUST(tacit_iallreduce(a, x, x, TACIT_SUM, &request));
    tacit_slot_destroy(a);
    MUST(tacit_iallreduce(b, y, y, TACIT_SUM, &forgotten));
    *status = tacit_wait(&request);
    MUST(tacit_group_begin(comm));
    MUST(tacit_allreduce(b, z, z, TACIT_SUM));
    MUST(tacit_allreduce(c, z, z, TACIT_SUM));
    tacit_slot_destroy(b);
    MUST(tacit_group_end(comm, NULL));
    *status = *status == TACIT_OK && z[0] == 3 * RANKS && y[0] == 2 * RANKS ? TACIT_OK : TACIT_ERR_VALUE;
}

START_TEST(destroyed_in_use)
{
    tacit_status_t status[RANKS] = {TACIT_PENDING, TACIT_PENDING};

    run_ranks(RANKS, NULL, destroy_body, status);
    ck_assert_int_eq(status[0], TACIT_OK);
    ck_assert_int_eq(status[1], TACIT_OK);
}
END_TEST

enum { SAVE_CALLS = 4 };

/* What fails in the middle of a group does not keep the communicator from being saved, nor its optimizers. */
static void save_body(tacit_comm_t *comm, void *arg)
{
    tacit_status_t  *status = (tacit_status_t *)arg + SAVE_CALLS * tacit_comm_rank(comm);
    tacit_slot_t    *a = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "onebit+ef");
    tacit_optim_t   *optim;
    tacit_request_t *request, *second;
    float            x[COUNT] = {0}, y[COUNT] = {0};
    char             path[HARNESS_PATH_BYTES];

    MUST(tacit_optim_create("sgd", &a, 1, &optim));
    if (tacit_comm_rank(comm) == 1) {
        sleep_ms(1500);
        tacit_optim_destroy(optim);
        return;
    }
    MUST(tacit_iallreduce(a, x, x, TACIT_SUM, &request));
    MUST(tacit_iallreduce(a, y, y, TACIT_SUM, &second));
    MUST(tacit_group_begin(comm));
    status[0] = tacit_wait(&request);
    status[1] = tacit_group_end(comm, NULL);
    status[2] = tacit_save(comm, harness_path(path, "state"));
    status[3] = tacit_optim_save(optim, path);
    (void)remove(path);
    tacit_optim_destroy(optim);
}

START_TEST(broken_in_a_group_still_saves)
{
    const tacit_config_t config = {.struct_bytes = sizeof config, .timeout_ms = 500};
    tacit_status_t       status[SAVE_CALLS * RANKS] = {TACIT_PENDING};

    run_ranks(RANKS, &config, save_body, status);
    ck_assert_int_eq(status[0], TACIT_ERR_TIMEOUT);
    ck_assert_int_eq(status[1], TACIT_ERR_BROKEN);
    ck_assert_int_eq(status[2], TACIT_OK);
    ck_assert_int_eq(status[3], TACIT_OK);
}
END_TEST

START_TEST(null_is_answered)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    uint8_t             frame[1024];
    float               x[8] = {0};
    size_t              bytes;

    ck_assert_int_eq(tacit_comm_rank(NULL), -1);
    ck_assert_int_eq(tacit_comm_ranks(NULL), 0);
    ck_assert_str_eq(tacit_slot_spec(NULL), "");
    ck_assert_str_eq(tacit_slot_schedule(NULL), "");
    ck_assert_int_eq(tacit_module(TACIT_COMPRESSORS, 0, NULL), TACIT_ERR_ARGUMENT);
    tensor.count = 8;
    tensor.spec = "topk+ef";
    MUST(tacit_codec_create("a", &tensor, NULL, 0, 1, &codec));
    ck_assert_int_eq(tacit_encode(codec, 0, x, 0, 8, frame, sizeof frame, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_encode(codec, 0, NULL, 8, 0, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT);
    tacit_codec_destroy(codec);
    tensor.struct_bytes = 12;
    ck_assert_int_eq(tacit_codec_create("a", &tensor, NULL, 0, 1, &codec), TACIT_ERR_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("usage");
    TCase *tcase = tcase_create("usage");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, computing_is_not_waiting);
    tcase_add_test(tcase, overflow_is_refused);
    tcase_add_test(tcase, destroyed_in_use);
    tcase_add_test(tcase, broken_in_a_group_still_saves);
    tcase_add_test(tcase, null_is_answered);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
