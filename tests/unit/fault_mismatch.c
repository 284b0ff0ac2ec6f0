/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that disagree: on a slot, on the call, on its arguments. All return the same, with a text that says who, and go on. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum { RANKS = 3, COUNT = 200, ODD = 2 };

/* What all ranks return from a call that one of them makes differently, and what they return afterwards. */
typedef struct answer {
    tacit_status_t status[RANKS], after[RANKS];
    char           text[RANKS][TACIT_TEXT_BYTES];
    float          sum[RANKS][COUNT];
} answer_t;

/* The call; `odd` on the rank that differs. */
typedef tacit_status_t call_t(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd);

typedef struct question {
    call_t   *call;
    int       odd_rank;
    answer_t *answer;
} question_t;

static void body(tacit_comm_t *comm, void *arg)
{
    const question_t *question = arg;
    answer_t         *answer = question->answer;
    const int         rank = tacit_comm_rank(comm);
    tacit_slot_t     *slots[2] = {slot_of(comm, "first", COUNT, TACIT_FLOAT32, "onebit:block=64+ef"),
                                  slot_of(comm, "second", COUNT, TACIT_FLOAT32, "topk:ratio=0.1+ef")};

    for (int i = 0; i < 2; i++) {
        harness_fill(answer->sum[rank], COUNT, (uint64_t)rank + 1, 1.0f);
        MUST(tacit_allreduce(slots[i], answer->sum[rank], answer->sum[rank], TACIT_SUM));
    }
    answer->status[rank] = question->call(comm, slots, rank == question->odd_rank);
    snprintf(answer->text[rank], sizeof answer->text[rank], "%s", tacit_last_error());
    for (int i = 0; i < 2; i++) {
        MUST(tacit_slot_reset(slots[i]));
        harness_fill(answer->sum[rank], COUNT, (uint64_t)rank + 1, 1.0f);
        answer->after[rank] = tacit_allreduce(slots[i], answer->sum[rank], answer->sum[rank], TACIT_SUM);
    }
}

/* Every rank returns `status` with the same text, in which all of these words are; afterwards all is well. */
static void asks(call_t *call, tacit_status_t status, const char *words)
{
    for (int odd = 0; odd < RANKS; odd++) {
        static answer_t answer;
        question_t      question = {call, odd, &answer};
        char            copy[200], who[16];

        run_ranks(RANKS, &(tacit_config_t){.struct_bytes = sizeof(tacit_config_t), .timeout_ms = 10000}, body, &question);
        snprintf(who, sizeof who, "rank %d", odd);
        for (int rank = 0; rank < RANKS; rank++) {
            ck_assert_msg(answer.status[rank] == status, "odd rank %d: rank %d returned %d '%s', expected %d", odd, rank,
                          answer.status[rank], answer.text[rank], status);
            ck_assert_str_eq(answer.text[rank], answer.text[0]);
            ck_assert_msg(answer.after[rank] == TACIT_OK, "odd rank %d: rank %d returned %d afterwards", odd, rank,
                          answer.after[rank]);
            ck_assert(memcmp(answer.sum[rank], answer.sum[0], sizeof answer.sum[0]) == 0);
        }
        snprintf(copy, sizeof copy, "%s", words);
        for (char *word = strtok(copy, "|"); word != NULL; word = strtok(NULL, "|")) {
            ck_assert_msg(strstr(answer.text[0], word) != NULL, "'%s' is not in '%s'", word, answer.text[0]);
        }
        if (status == TACIT_ERR_MISMATCH) {
            ck_assert_msg(strstr(answer.text[0], who) != NULL, "'%s' is not in '%s'", who, answer.text[0]);
        }
    }
}

/* ---- Making a slot ---- */

static tacit_status_t create(tacit_comm_t *comm, const char *name, const tacit_slot_config_t *config)
{
    tacit_slot_t  *slot = NULL;
    tacit_status_t status = tacit_slot_create(comm, name, config, &slot);

    return (status == TACIT_OK) == (slot != NULL) ? status : TACIT_ERR_STATE;
}

static tacit_slot_config_t tensor(void)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;

    config.count = 600;
    config.spec = "onebit+ef";
    config.ndim = 2;
    config.shape[0] = 20;
    config.shape[1] = 30;
    return config;
}

static tacit_status_t other_name(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    return create(comm, odd ? "weights" : "bias", &config);
}

static tacit_status_t other_count(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    config.ndim = 0;
    config.count = odd ? 601 : 600;
    return create(comm, "third", &config);
}

static tacit_status_t other_dtype(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    config.dtype = odd ? TACIT_BFLOAT16 : TACIT_FLOAT32;
    return create(comm, "third", &config);
}

static tacit_status_t other_shape(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    config.shape[0] = odd ? 30 : 20;
    config.shape[1] = odd ? 20 : 30;
    return create(comm, "third", &config);
}

static tacit_status_t other_spec(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    config.spec = odd ? "onebit:block=1K+ef" : "onebit+ef";
    return create(comm, "third", &config);
}

static tacit_status_t bad_spec(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    config.spec = odd ? "onebti+ef" : "onebit+ef";
    return create(comm, "third", &config);
}

static tacit_status_t bad_tensor(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    config.shape[1] = odd ? 31 : 30;
    return create(comm, "third", &config);
}

static tacit_status_t name_taken(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    return create(comm, odd ? "first" : "third", &config);
}

static tacit_status_t no_name(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_slot_config_t config = tensor();

    (void)slots;
    return create(comm, odd ? NULL : "third", &config);
}

START_TEST(slots_differ)
{
    asks(other_name, TACIT_ERR_MISMATCH, "tacit_slot_create|rank 0|'weights'|'bias'");
    asks(other_count, TACIT_ERR_MISMATCH, "rank 0|count 600|count 601");
    asks(other_dtype, TACIT_ERR_MISMATCH, "float32|bfloat16");
    asks(other_shape, TACIT_ERR_MISMATCH, "shape 20 30|shape 30 20");
    asks(other_spec, TACIT_ERR_MISMATCH, "block=1024|block=2048");
    asks(bad_spec, TACIT_ERR_SPEC, "onebti|did you mean 'onebit'");
    asks(bad_tensor, TACIT_ERR_ARGUMENT, "'third'|620");
    asks(name_taken, TACIT_ERR_ARGUMENT, "'first' already");
    asks(no_name, TACIT_ERR_ARGUMENT, "name and config");
}
END_TEST

/* ---- Reducing ---- */

static float buffers[RANKS][COUNT];

static float *buffer_of(const tacit_comm_t *comm)
{
    return buffers[tacit_comm_rank(comm)];
}

static tacit_status_t other_slot(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    return tacit_allreduce(slots[odd], buffer_of(comm), buffer_of(comm), TACIT_SUM);
}

static tacit_status_t other_op(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    return tacit_allreduce(slots[0], buffer_of(comm), buffer_of(comm), odd ? TACIT_AVERAGE : TACIT_SUM);
}

static tacit_status_t other_step(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    if (odd) {
        MUST(tacit_slot_reset(slots[1]));
    }
    return tacit_allreduce(slots[1], buffer_of(comm), buffer_of(comm), TACIT_SUM);
}

static tacit_status_t other_call(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    return odd ? tacit_slot_set_spec(slots[0], "onebit:block=64+ef") : other_slot(comm, slots, false);
}

static tacit_status_t other_group(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    MUST(tacit_group_begin(comm));
    for (int i = 0; i < 2 - odd; i++) {
        MUST(tacit_allreduce(slots[i], buffer_of(comm), buffer_of(comm), TACIT_SUM));
    }
    return tacit_group_end(comm, NULL);
}

static tacit_status_t no_input(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    return tacit_allreduce(slots[0], odd ? NULL : buffer_of(comm), buffer_of(comm), TACIT_SUM);
}

static tacit_status_t no_output(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    return tacit_allreduce(slots[1], buffer_of(comm), odd ? NULL : buffer_of(comm), TACIT_SUM);
}

static tacit_status_t bad_op(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    return tacit_allreduce(slots[0], buffer_of(comm), buffer_of(comm), odd ? (tacit_op_t)9 : TACIT_SUM);
}

static tacit_status_t no_input_started(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_request_t *request = NULL;
    tacit_status_t   status;

    status = tacit_iallreduce(slots[0], odd ? NULL : buffer_of(comm), buffer_of(comm), TACIT_SUM, &request);
    return status != TACIT_OK ? status : tacit_wait(&request);
}

START_TEST(calls_differ)
{
    asks(other_slot, TACIT_ERR_MISMATCH, "'first'|'second'|same order");
    asks(other_op, TACIT_ERR_MISMATCH, "'first'|operator");
    asks(other_step, TACIT_ERR_MISMATCH, "'second'|at step 1|at step 0|reset or load");
    asks(other_call, TACIT_ERR_MISMATCH, "same order");
    asks(other_group, TACIT_ERR_MISMATCH, "elements");
    asks(no_input, TACIT_ERR_ARGUMENT, "'first'|NULL");
    asks(no_output, TACIT_ERR_ARGUMENT, "'second'|NULL");
    asks(bad_op, TACIT_ERR_ARGUMENT, "op 9");
    asks(no_input_started, TACIT_ERR_ARGUMENT, "'first'|NULL");
}
END_TEST

/* ---- Another spec ---- */

static tacit_status_t other_parameters(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_status_t status = tacit_slot_set_spec(slots[0], odd ? "onebit:block=128+ef" : "onebit:block=256+ef");

    (void)comm;
    return strcmp(tacit_slot_spec(slots[0]), "onebit:block=64+ef") == 0 ? status : TACIT_ERR_STATE;
}

static tacit_status_t other_compressor(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_status_t status = tacit_slot_set_spec(slots[0], odd ? "qsgd+ef" : "onebit:block=256+ef");

    (void)comm;
    return strcmp(tacit_slot_spec(slots[0]), "onebit:block=64+ef") == 0 ? status : TACIT_ERR_STATE;
}

START_TEST(specs_differ)
{
    asks(other_parameters, TACIT_ERR_MISMATCH, "block=128|block=256");
    asks(other_compressor, TACIT_ERR_SPEC, "'first'|make a new slot");
}
END_TEST

/* A slot that is at work keeps its spec and its memory. */
static tacit_status_t change_while_running(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_request_t *request;
    tacit_status_t   status, reset;
    char             text[TACIT_TEXT_BYTES];

    (void)odd;
    MUST(tacit_iallreduce(slots[0], buffer_of(comm), buffer_of(comm), TACIT_SUM, &request));
    reset = tacit_slot_reset(slots[0]);
    status = tacit_slot_set_spec(slots[0], "onebit:block=4K+ef");
    snprintf(text, sizeof text, "%s", tacit_last_error());
    MUST(tacit_wait(&request));
    (void)tacit__fail_text(status, text);
    return reset == TACIT_ERR_STATE && strcmp(tacit_slot_spec(slots[0]), "onebit:block=64+ef") == 0 ? status : TACIT_OK;
}

static tacit_status_t change_in_group(tacit_comm_t *comm, tacit_slot_t *const *slots, bool odd)
{
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];

    MUST(tacit_group_begin(comm));
    if (odd) {
        MUST(tacit_allreduce(slots[0], buffer_of(comm), buffer_of(comm), TACIT_SUM));
    }
    status = tacit_slot_set_spec(slots[0], "onebit:block=4K+ef");
    snprintf(text, sizeof text, "%s", tacit_last_error());
    if (!odd) {
        MUST(tacit_allreduce(slots[0], buffer_of(comm), buffer_of(comm), TACIT_SUM));
    }
    MUST(tacit_group_end(comm, NULL));
    (void)tacit__fail_text(status, text);
    return status;
}

START_TEST(busy_slots)
{
    asks(change_while_running, TACIT_ERR_STATE, "'first'|wait for");
    asks(change_in_group, TACIT_ERR_STATE, "'first'|wait for");
}
END_TEST

/* ---- Communicators ---- */

typedef struct maker {
    pthread_t      thread;
    tacit_loop_t  *loop;
    int            rank;
    tacit_config_t config;
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];
} maker_t;

static void *make_comm(void *arg)
{
    maker_t          *maker = arg;
    tacit_transport_t transport;
    tacit_comm_t     *comm = NULL;

    MUST(tacit_loop_transport(maker->loop, maker->rank, &transport));
    maker->status = tacit_comm_create(&transport, &maker->config, &comm);
    snprintf(maker->text, sizeof maker->text, "%s", tacit_last_error());
    tacit_comm_destroy(comm);
    return NULL;
}

static void made_with(const tacit_config_t *odd, tacit_status_t status, const char *word)
{
    maker_t makers[RANKS];

    MUST(tacit_loop_create(RANKS, &makers[0].loop));
    for (int rank = 0; rank < RANKS; rank++) {
        makers[rank].loop = makers[0].loop;
        makers[rank].rank = rank;
        makers[rank].config = rank == ODD ? *odd : (tacit_config_t)TACIT_CONFIG_INIT;
        ck_assert_int_eq(pthread_create(&makers[rank].thread, NULL, make_comm, &makers[rank]), 0);
    }
    for (int rank = 0; rank < RANKS; rank++) {
        pthread_join(makers[rank].thread, NULL);
    }
    tacit_loop_release(makers[0].loop);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(makers[rank].status == status, "%s: rank %d returned %d '%s'", word, rank, makers[rank].status,
                      makers[rank].text);
        ck_assert_str_eq(makers[rank].text, makers[0].text);
        ck_assert_msg(strstr(makers[rank].text, word) != NULL, "'%s' is not in '%s'", word, makers[rank].text);
        ck_assert_ptr_nonnull(strstr(makers[rank].text, status == TACIT_ERR_SPEC ? "unknown" : "rank 2"));
    }
}

#define WITH(...)                                                                                                                \
    &(tacit_config_t)                                                                                                            \
    {                                                                                                                            \
        .struct_bytes = sizeof(tacit_config_t), __VA_ARGS__                                                                      \
    }

START_TEST(configurations_differ)
{
    made_with(WITH(.spec = "onebit"), TACIT_ERR_MISMATCH, "spec onebit");
    made_with(WITH(.seed = 5), TACIT_ERR_MISMATCH, "seed 5");
    made_with(WITH(.chunk_bytes = 2048), TACIT_ERR_MISMATCH, "chunk_bytes 2048");
    made_with(WITH(.nonfinite = 1), TACIT_ERR_MISMATCH, "nonfinite 1");
    made_with(WITH(.strict = 1), TACIT_ERR_MISMATCH, "strict 1");
    made_with(WITH(.spec = "onebti"), TACIT_ERR_SPEC, "onebti");
    made_with(WITH(.nonfinite = 7), TACIT_ERR_ARGUMENT, "nonfinite=7");
    made_with(WITH(.chunk_bytes = 10), TACIT_ERR_ARGUMENT, "chunk_bytes=10");
    made_with(WITH(.timeout_ms = -5), TACIT_ERR_ARGUMENT, "timeout_ms=-5");
    made_with(&(tacit_config_t){.struct_bytes = 0}, TACIT_ERR_ARGUMENT, "TACIT_CONFIG_INIT");
    made_with(WITH(.progress = 3), TACIT_ERR_ARGUMENT, "progress=3");
}
END_TEST

/* ---- Two threads in one communicator ---- */

typedef struct intruder {
    tacit_comm_t  *comm;
    tacit_slot_t  *slot;
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];
} intruder_t;

static void *intrude(void *arg)
{
    intruder_t *intruder = arg;
    float       values[COUNT] = {0};

    nanosleep(&(struct timespec){0, 400000000}, NULL); /* the other thread waits for rank 1 by now */
    intruder->status = tacit_allreduce(intruder->slot, values, values, TACIT_SUM);
    snprintf(intruder->text, sizeof intruder->text, "%s", tacit_last_error());
    return NULL;
}

static void two_threads_body(tacit_comm_t *comm, void *arg)
{
    intruder_t   *intruder = arg;
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, "onebit+ef");
    float         values[COUNT] = {0};
    pthread_t     thread;

    if (tacit_comm_rank(comm) == 1) {
        nanosleep(&(struct timespec){1, 500000000}, NULL);
        MUST(tacit_allreduce(slot, values, values, TACIT_SUM));
        return;
    }
    intruder->comm = comm;
    intruder->slot = slot;
    if (pthread_create(&thread, NULL, intrude, intruder) != 0) {
        return;
    }
    MUST(tacit_allreduce(slot, values, values, TACIT_SUM));
    pthread_join(thread, NULL);
}

START_TEST(two_threads)
{
    intruder_t intruder = {.status = TACIT_OK};

    run_ranks(2, NULL, two_threads_body, &intruder);
    ck_assert_int_eq(intruder.status, TACIT_ERR_STATE);
    ck_assert_ptr_nonnull(strstr(intruder.text, "another thread"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fault_mismatch");
    TCase *tests = tcase_create("fault_mismatch");

    tcase_add_test(tests, slots_differ);
    tcase_add_test(tests, calls_differ);
    tcase_add_test(tests, specs_differ);
    tcase_add_test(tests, busy_slots);
    tcase_add_test(tests, configurations_differ);
    tcase_add_test(tests, two_threads);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
