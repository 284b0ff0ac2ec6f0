/* SPDX-License-Identifier: Apache-2.0 */
/* No memory: the first, second, third … allocation of a call fails, on whichever rank it is, until the call succeeds. Every
   rank then returns the same, nothing has changed, and the same call succeeds afterwards. Leaks are a sanitizer's to find. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum { RANKS = 2, ON_HOSTS = 3, COUNT = 700, SLOTS = 4, MOST_MEMORY = 4 * SLOTS * COUNT, MOST_ALLOCATIONS = 400 };

/* What a rank works with. */
typedef struct desk {
    tacit_comm_t *comm;
    tacit_slot_t *slots[SLOTS];
    float         in[SLOTS * COUNT], out[SLOTS * COUNT];
    char          path[HARNESS_PATH_BYTES];
} desk_t;

/* What is tried: setup() comes before the allocation that fails. */
typedef struct act {
    void (*setup)(desk_t *desk, const char *spec);
    tacit_status_t (*call)(desk_t *desk, const char *spec);
} act_t;

typedef struct stage {
    const act_t      *act;
    const char       *spec;
    uint64_t          nth;
    pthread_barrier_t barrier;
    tacit_status_t    status[ON_HOSTS];
    char              text[ON_HOSTS][TACIT_TEXT_BYTES];
    char              complaint[ON_HOSTS][TACIT_TEXT_BYTES + 100];
} stage_t;

/* ---- Acts ---- */

static void make_slot(desk_t *desk, const char *spec)
{
    desk->slots[0] = slot_of(desk->comm, "slot", COUNT, TACIT_FLOAT32, spec);
}

static void make_used_slot(desk_t *desk, const char *spec)
{
    make_slot(desk, spec);
    MUST(tacit_allreduce(desk->slots[0], desk->in, desk->out, TACIT_SUM));
}

static void make_slots(desk_t *desk, const char *spec)
{
    static const char *const specs[SLOTS] = {"onebit+ef", "topk:ratio=0.1+ef", "randk:ratio=0.1+ef", "none by ring"};

    (void)spec;
    for (int i = 0; i < SLOTS; i++) {
        char name[16];

        snprintf(name, sizeof name, "slot%d", i);
        desk->slots[i] = slot_of(desk->comm, name, COUNT, TACIT_FLOAT32, specs[i]);
        MUST(tacit_allreduce(desk->slots[i], desk->in + i * COUNT, desk->out, TACIT_SUM));
    }
}

static void make_saved_slot(desk_t *desk, const char *spec)
{
    make_used_slot(desk, spec);
    MUST(tacit_save(desk->comm, desk->path));
}

static tacit_status_t reduce(desk_t *desk, const char *spec)
{
    (void)spec;
    return tacit_allreduce(desk->slots[0], desk->in, desk->out, TACIT_SUM);
}

static tacit_status_t start_and_wait(desk_t *desk, const char *spec)
{
    tacit_request_t *request = NULL;
    tacit_status_t   status;

    (void)spec;
    status = tacit_iallreduce(desk->slots[0], desk->in, desk->out, TACIT_SUM, &request);
    return status != TACIT_OK ? status : tacit_wait(&request);
}

static tacit_status_t reduce_group(desk_t *desk, const char *spec)
{
    (void)spec;
    MUST(tacit_group_begin(desk->comm));
    for (int i = 0; i < SLOTS; i++) {
        tacit_status_t status = tacit_allreduce(desk->slots[i], desk->in + i * COUNT, desk->out + i * COUNT, TACIT_AVERAGE);

        if (status != TACIT_OK && status != TACIT_ERR_MEMORY) {
            return status;
        }
    }
    return tacit_group_end(desk->comm, NULL);
}

static tacit_status_t create_slot(desk_t *desk, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    char                alone[SPEC_BYTES];

    config.count = COUNT;
    config.spec = spec_in(spec, alone);
    return tacit_slot_create(desk->comm, "another", &config, &desk->slots[1]);
}

/* Larger messages than before: what is posted already must be posted anew. */
static tacit_status_t create_large_slot(desk_t *desk, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;

    (void)spec;
    config.count = 400000;
    config.spec = "onebit:block=0";
    return tacit_slot_create(desk->comm, "large", &config, &desk->slots[1]);
}

static tacit_status_t set_spec(desk_t *desk, const char *spec)
{
    return tacit_slot_set_spec(desk->slots[0], spec);
}

static tacit_status_t save(desk_t *desk, const char *spec)
{
    (void)spec;
    return tacit_save(desk->comm, desk->path);
}

static tacit_status_t load(desk_t *desk, const char *spec)
{
    (void)spec;
    return tacit_load(desk->comm, desk->path);
}

/* ---- One trial ---- */

/* All senders' memory; an owner's is made by the first call, and zero then. */
static size_t take_memory(const tacit_comm_t *comm, float *memory)
{
    tacit_array_t array;
    size_t        taken = 0;

    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
            if (slot->step != 0 || strcmp(array.name, "owner") != 0) {
                memcpy(memory + taken, array.values, array.count * sizeof *memory);
                taken += array.count;
            }
        }
    }
    return taken;
}

static void body(tacit_comm_t *comm, void *arg)
{
    stage_t  *stage = arg;
    const int rank = tacit_comm_rank(comm);
    desk_t   *desk = calloc(1, sizeof *desk);
    float    *before = calloc(MOST_MEMORY, sizeof *before), *after = calloc(MOST_MEMORY, sizeof *after);
    size_t    taken, taken_after;

    desk->comm = comm;
    harness_fill(desk->in, SLOTS * COUNT, (uint64_t)rank + 1, 1.0f);
    harness_path(desk->path, "state.%d", rank);
    stage->act->setup(desk, stage->spec);
    taken = take_memory(comm, before);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0) {
        tacit__alloc_fail_after(stage->nth);
    }
    pthread_barrier_wait(&stage->barrier);
    stage->status[rank] = stage->act->call(desk, stage->spec);
    snprintf(stage->text[rank], sizeof stage->text[rank], "%s", stage->status[rank] != TACIT_OK ? tacit_last_error() : "");
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0) {
        tacit__alloc_fail_after(0);
    }
    pthread_barrier_wait(&stage->barrier);
    taken_after = take_memory(comm, after);
    if (stage->status[rank] != TACIT_OK && (taken_after != taken || memcmp(after, before, taken * sizeof *before) != 0)) {
        snprintf(stage->complaint[rank], sizeof stage->complaint[rank], "rank %d: memory has changed", rank);
    }
    if (stage->status[rank] != TACIT_OK && stage->act->call(desk, stage->spec) != TACIT_OK) {
        snprintf(stage->complaint[rank], sizeof stage->complaint[rank], "rank %d: the next call fails: %s", rank,
                 tacit_last_error());
    }
    (void)remove(desk->path);
    free(desk);
    free(before);
    free(after);
}

/* Returns the number of allocations that failed before the call succeeded. Two levels have a rank more. */
static uint64_t run(const act_t *act, const char *spec, int strict)
{
    const bool     levels = strstr(spec, "by two_level") != NULL;
    const int      ranks = levels ? ON_HOSTS : RANKS;
    tacit_config_t config = TACIT_CONFIG_INIT;
    uint64_t       failed = 0;

    config.strict = strict;
    config.timeout_ms = 10000;
    config.chunk_bytes = 1024;
    ask_for(spec);
    name_hosts(levels ? "2,1" : NULL);
    for (uint64_t nth = 1;; nth++) {
        stage_t stage = {.act = act, .spec = spec, .nth = nth};

        ck_assert_uint_lt(nth, MOST_ALLOCATIONS);
        pthread_barrier_init(&stage.barrier, NULL, (unsigned)ranks);
        run_ranks(ranks, &config, body, &stage);
        pthread_barrier_destroy(&stage.barrier);
        for (int rank = 0; rank < ranks; rank++) {
            ck_assert_msg(stage.complaint[rank][0] == '\0', "%s, allocation %d: %s (after '%s')", spec, (int)nth,
                          stage.complaint[rank], stage.text[rank]);
            ck_assert_msg(stage.status[rank] == stage.status[0] && strcmp(stage.text[rank], stage.text[0]) == 0,
                          "%s, allocation %d: rank 0 returned %d '%s', rank %d %d '%s'", spec, (int)nth, stage.status[0],
                          stage.text[0], rank, stage.status[rank], stage.text[rank]);
        }
        if (stage.status[0] == TACIT_OK) {
            return failed;
        }
        ck_assert_msg(stage.status[0] == TACIT_ERR_MEMORY && strstr(stage.text[0], "no memory") != NULL,
                      "%s, allocation %d: %d '%s'", spec, (int)nth, stage.status[0], stage.text[0]);
        failed++;
    }
}

/* ---- Tests ---- */

static const char *const specs[] = {"onebit+ef",
                                    "qsgd:bits=4+ef",
                                    "topk:ratio=0.1+ef",
                                    "randk:ratio=0.1+ef",
                                    "fp16",
                                    "none",
                                    "topk:ratio=0.1",
                                    "onebit:block=0,own=coded+ef",
                                    "topk:ratio=0.1+dgc:dense=0",
                                    "topk+dgc",
                                    "topk:ratio=0.1+econtrol:residual=int8",
                                    "onebit+ef21:average=0.5,residual=bf16",
                                    "topk:ratio=0.1+econtrol:init=gradient,residual=bf16",
                                    "topk:ratio=0.1+ef by sparse-scatter",
                                    "topk:ratio=0.1+econtrol:residual=int8 by sparse-scatter",
                                    "topk:ratio=0.1 by sparse-scatter",
                                    "topk:ratio=0.1+ef by two_level_scatter",
                                    "none by ring"};
enum { SPECS = sizeof specs / sizeof *specs, CODECS = SPECS - 6 /* codecs do not begin densely, and have no plan */ };

START_TEST(first_reduction)
{
    ck_assert_uint_gt(run(&(act_t){make_slot, reduce}, specs[_i], 1), 4);
}
END_TEST

START_TEST(later_reduction)
{
    (void)run(&(act_t){make_used_slot, reduce}, specs[_i], 1);
}
END_TEST

START_TEST(request)
{
    ck_assert_uint_gt(run(&(act_t){make_slot, start_and_wait}, specs[_i], 1), 4);
}
END_TEST

/* Reductions like the last one find all that they need. Not so in the ring, where chance says how many messages are under way. */
static const char *const steady_specs[] = {"onebit+ef",
                                           "qsgd:bits=4+ef",
                                           "fp16",
                                           "none",
                                           "onebit:block=0,own=coded+ef",
                                           "onebit+ef21:average=0.5,residual=bf16",
                                           "topk:ratio=0.1+ef",
                                           "topk:ratio=0.1+dgc:dense=0",
                                           "topk:ratio=0.1+ef by sparse-scatter"};
enum { STEADY = sizeof steady_specs / sizeof *steady_specs };

static void make_steady_slot(desk_t *desk, const char *spec)
{
    make_used_slot(desk, spec);
    MUST(reduce(desk, spec));
    MUST(reduce(desk, spec));
}

START_TEST(steady)
{
    for (int strict = 0; strict < 2; strict++) {
        ck_assert_uint_eq(run(&(act_t){make_steady_slot, reduce}, steady_specs[_i], strict), 0);
        ck_assert_uint_eq(run(&(act_t){make_steady_slot, start_and_wait}, steady_specs[_i], strict), 0);
    }
}
END_TEST

START_TEST(group)
{
    ck_assert_uint_gt(run(&(act_t){make_slots, reduce_group}, "group by ring", 1), 10);
}
END_TEST

START_TEST(slot)
{
    ck_assert_uint_gt(run(&(act_t){make_used_slot, create_slot}, specs[_i], _i % 2), 8);
}
END_TEST

START_TEST(larger_messages)
{
    ck_assert_uint_gt(run(&(act_t){make_used_slot, create_large_slot}, "onebit+ef", 0), 10);
}
END_TEST

START_TEST(another_spec)
{
    ck_assert_uint_gt(run(&(act_t){make_used_slot, set_spec}, "qsgd:bits=4+ef", 0), 4);
}
END_TEST

START_TEST(saving)
{
    ck_assert_uint_gt(run(&(act_t){make_used_slot, save}, specs[_i], 0), 2);
}
END_TEST

START_TEST(loading)
{
    ck_assert_uint_gt(run(&(act_t){make_saved_slot, load}, specs[_i], 0), 6);
}
END_TEST

/* ---- A communicator's making: who has no memory cannot tell ---- */

typedef struct maker {
    pthread_t      thread;
    tacit_loop_t  *loop;
    int            rank;
    tacit_status_t status;
} maker_t;

static void *make_comm(void *arg)
{
    maker_t          *maker = arg;
    tacit_transport_t transport;
    tacit_config_t    config = TACIT_CONFIG_INIT;
    tacit_comm_t     *comm = NULL;

    config.timeout_ms = 600;
    maker->status = tacit_loop_transport(maker->loop, maker->rank, &transport);
    if (maker->status == TACIT_OK) {
        maker->status = tacit_comm_create(&transport, &config, &comm);
        tacit_comm_destroy(comm);
    }
    return NULL;
}

START_TEST(communicator)
{
    const int ranks = _i + 1;
    int       memory = 0;

    for (uint64_t nth = 1;; nth++) {
        maker_t makers[RANKS];
        int     good = 0;

        ck_assert_uint_lt(nth, MOST_ALLOCATIONS);
        for (int rank = 0; rank < ranks; rank++) {
            makers[rank] = (maker_t){.rank = rank};
        }
        MUST(tacit_loop_create(ranks, &makers[0].loop));
        tacit__alloc_fail_after(nth);
        for (int rank = 0; rank < ranks; rank++) {
            makers[rank].loop = makers[0].loop;
            ck_assert_int_eq(pthread_create(&makers[rank].thread, NULL, make_comm, &makers[rank]), 0);
        }
        for (int rank = 0; rank < ranks; rank++) {
            pthread_join(makers[rank].thread, NULL);
        }
        tacit__alloc_fail_after(0);
        tacit_loop_release(makers[0].loop);
        for (int rank = 0; rank < ranks; rank++) {
            tacit_status_t status = makers[rank].status;

            ck_assert_msg(status == TACIT_OK || status == TACIT_ERR_MEMORY || (ranks > 1 && status == TACIT_ERR_TIMEOUT),
                          "allocation %d: rank %d returned %d", (int)nth, rank, status);
            good += status == TACIT_OK;
            memory += status == TACIT_ERR_MEMORY;
        }
        ck_assert_msg(good == 0 || good == ranks, "allocation %d: %d of %d ranks succeed", (int)nth, good, ranks);
        if (good == ranks) {
            break;
        }
    }
    ck_assert_int_gt(memory, 5);
}
END_TEST

/* ---- The codec ---- */

/* All that a rank does in a step, from making to decoding; returns the first status that is not OK. */
static tacit_status_t codec_step(const char *spec, tacit_codec_t **codec, const float *in, float *out, uint8_t *frame,
                                 size_t capacity)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_status_t      status = TACIT_OK;
    size_t              bytes;

    config.count = COUNT;
    config.spec = spec;
    if (*codec == NULL) {
        TRY(tacit_codec_create("slot", &config, NULL, 0, 2, codec));
    }
    TRY(tacit_encode(*codec, 0, in, 0, COUNT, frame, capacity, &bytes));
    TRY(tacit_decode_add(*codec, 0, frame, bytes, out, NULL, NULL));
    TRY(tacit_decode(*codec, 0, frame, bytes, out, NULL, NULL));
    if (tacit_codec_grain(*codec) != 0) {
        TRY(tacit_codec_own(*codec, 0, COUNT, TACIT_SUM));
        TRY(tacit_reencode(*codec, 0, in, 0, COUNT, frame, capacity, &bytes));
    }
out:
    return status;
}

START_TEST(codec)
{
    static float   in[COUNT], out[COUNT];
    static uint8_t frame[8192];
    uint64_t       failed = 0;
    tacit_status_t status;

    harness_fill(in, COUNT, 1, 1.0f);
    do {
        tacit_codec_t *made = NULL;

        tacit__alloc_fail_after(failed + 1);
        status = codec_step(specs[_i], &made, in, out, frame, sizeof frame);
        tacit__alloc_fail_after(0);
        ck_assert_msg(status == TACIT_OK || status == TACIT_ERR_MEMORY, "%s, allocation %d: %d", specs[_i], (int)failed + 1,
                      status);
        ck_assert_int_eq(codec_step(specs[_i], &made, in, out, frame, sizeof frame), TACIT_OK);
        tacit_codec_destroy(made);
        failed += status != TACIT_OK;
    } while (status != TACIT_OK);
    ck_assert_uint_gt(failed, 5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fault_memory");
    TCase *tests = tcase_create("fault_memory");

    tcase_add_loop_test(tests, codec, 0, CODECS);
    tcase_add_loop_test(tests, communicator, 0, RANKS);
    tcase_add_loop_test(tests, slot, 0, SPECS - 1);
    tcase_add_test(tests, larger_messages);
    tcase_add_test(tests, another_spec);
    tcase_add_loop_test(tests, first_reduction, 0, SPECS);
    tcase_add_loop_test(tests, later_reduction, 0, SPECS);
    tcase_add_loop_test(tests, request, 0, SPECS);
    tcase_add_loop_test(tests, steady, 0, STEADY);
    tcase_add_test(tests, group);
    tcase_add_loop_test(tests, saving, 0, SPECS);
    tcase_add_loop_test(tests, loading, 0, SPECS);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
