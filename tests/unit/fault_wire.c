/* SPDX-License-Identifier: Apache-2.0 */
/* Faults of the wire, one at a time, at every message of an operation: all ranks return the same, soon; a result that is
   given is the right one; after an error memory is as before, and the communicator goes on or says that it is broken. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum { MOST_SLOTS = 4, MOST_COUNT = 6000, MOST_MEMORY = 3 * MOST_SLOTS * MOST_COUNT, RANKS = 4 };

/* What is reduced, and how. */
typedef struct scenario {
    const char *specs[MOST_SLOTS]; /* more than one: a group */
    size_t      count;             /* elements of each slot */
    int         ranks;
    size_t      chunk_bytes;
    bool        strict, in_place;
    int64_t     timeout_ms;
} scenario_t;

/* One call, as one rank saw it. */
typedef struct outcome {
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];
    double         seconds;
    bool           in_kept;
    float          out[MOST_SLOTS * MOST_COUNT];
    size_t         memory_count;
    float          memory[MOST_MEMORY];
} outcome_t;

typedef struct fault {
    tacit_loop_fault_t kind;
    int                from, to;
    size_t             nth, where;
} fault_t;

/* What all ranks share. */
typedef struct stage {
    const scenario_t *scenario;
    const fault_t    *faults;
    size_t            fault_count;
    tacit_loop_t     *loop;
    pthread_barrier_t barrier;
    float            *in[RANKS];                                  /* of every call, because memory alone must tell calls apart */
    outcome_t        *before[RANKS], *first[RANKS], *next[RANKS]; /* of the present trial */
    outcome_t        *plain_first[RANKS], *plain_next[RANKS];     /* without a fault */
    size_t            ended[3];                                   /* trials by their end: OK, ERR_FRAME, ERR_TIMEOUT */
    char              complaint[1024];                            /* the first; rank 0 writes it */
} stage_t;

static size_t slot_count(const scenario_t *scenario)
{
    size_t slots = 0;

    while (slots < MOST_SLOTS && scenario->specs[slots] != NULL) {
        slots++;
    }
    return slots;
}

__attribute__((format(printf, 3, 4))) static void complain(stage_t *stage, const fault_t *fault, const char *format, ...)
{
    static const char *const kinds[] = {"flip", "cut", "repeat", "drop", "delay"};
    char                     what[512];
    va_list                  arguments;

    if (stage->complaint[0] != '\0') {
        return;
    }
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    snprintf(stage->complaint, sizeof stage->complaint, "%s on %d ranks, %s of message %zu from %d to %d at %zu: %s",
             stage->scenario->specs[0], stage->scenario->ranks, kinds[fault->kind], fault->nth, fault->from, fault->to,
             fault->where, what);
}

static void take_memory(const scenario_t *scenario, tacit_slot_t *const *slots, outcome_t *outcome)
{
    tacit_array_t array;

    outcome->memory_count = 0;
    for (size_t s = 0; s < slot_count(scenario); s++) {
        for (size_t i = 0; tacit__codec_array(slots[s]->codec, i, &array); i++) {
            memcpy(outcome->memory + outcome->memory_count, array.values, array.count * sizeof(float));
            outcome->memory_count += array.count;
        }
    }
}

static void reduce(const stage_t *stage, tacit_comm_t *comm, tacit_slot_t *const *slots, outcome_t *outcome)
{
    const scenario_t *scenario = stage->scenario;
    const size_t      count = scenario->count, slots_made = slot_count(scenario);
    float            *in = malloc(slots_made * count * sizeof *in);
    float            *kept = malloc(slots_made * count * sizeof *kept);
    double            began;

    memcpy(in, stage->in[tacit_comm_rank(comm)], slots_made * count * sizeof *in);
    memcpy(kept, in, slots_made * count * sizeof *in);
    if (scenario->in_place) {
        memcpy(outcome->out, in, slots_made * count * sizeof *in);
    }
    began = tacit__seconds();
    if (slots_made > 1) {
        MUST(tacit_group_begin(comm));
    }
    for (size_t s = 0; s < slots_made; s++) {
        float *out = outcome->out + s * count;

        outcome->status = tacit_allreduce(slots[s], scenario->in_place ? out : in + s * count, out, TACIT_SUM);
    }
    if (slots_made > 1) {
        outcome->status = tacit_group_end(comm, NULL);
    }
    snprintf(outcome->text, sizeof outcome->text, "%s", outcome->status == TACIT_OK ? "" : tacit_last_error());
    outcome->seconds = tacit__seconds() - began;
    outcome->in_kept =
        memcmp(scenario->in_place && outcome->status != TACIT_OK ? outcome->out : in, kept, slots_made * count * sizeof *in) == 0;
    take_memory(scenario, slots, outcome);
    free(in);
    free(kept);
}

/* ---- What must hold after a trial; rank 0 looks for all ---- */

static bool same_floats(const float *a, const float *b, size_t count)
{
    return memcmp(a, b, count * sizeof *a) == 0;
}

/* a = x + m; r = a - d; undone: (r + d) - x. Four roundings, of numbers that are at most |x| + |m| and as much again for d. */
static bool near_floats(const scenario_t *scenario, const outcome_t *a, const outcome_t *b)
{
    float largest = 0.0f;

    for (size_t i = 0; i < b->memory_count; i++) {
        largest = fmaxf(largest, fabsf(b->memory[i]));
    }
    for (size_t i = 0; i < a->memory_count; i++) {
        if (!(fabsf(a->memory[i] - b->memory[i]) <= 8.0f * 0x1p-24f * (largest + 6.0f))) {
            return false; /* 6: no element of `in` is larger */
        }
    }
    return scenario->strict ? same_floats(a->memory, b->memory, a->memory_count) : true;
}

static void check_alike(stage_t *stage, const fault_t *fault, outcome_t *const *outcomes, const char *which)
{
    const scenario_t *scenario = stage->scenario;
    const bool cut_off = fault->kind == TACIT_LOOP_DELAY && outcomes[0]->status == TACIT_ERR_TIMEOUT; /* from others' texts */

    for (int rank = 0; rank < scenario->ranks; rank++) {
        const outcome_t *outcome = outcomes[rank];

        if (outcome->status != outcomes[0]->status || (strcmp(outcome->text, outcomes[0]->text) != 0 && !cut_off)) {
            complain(stage, fault, "%s call: rank 0 returned %d '%s', rank %d %d '%s'", which, outcomes[0]->status,
                     outcomes[0]->text, rank, outcome->status, outcome->text);
        }
        if (!outcome->in_kept) {
            complain(stage, fault, "%s call: rank %d changed what it was given", which, rank);
        }
        if (outcome->status == TACIT_OK && !same_floats(outcome->out, outcomes[0]->out, slot_count(scenario) * scenario->count)) {
            complain(stage, fault, "%s call: rank %d has another result than rank 0", which, rank);
        }
        if (outcome->seconds > 1e-3 * (double)scenario->timeout_ms + 10.0) {
            complain(stage, fault, "%s call: rank %d took %.1f s", which, rank, outcome->seconds);
        }
    }
}

/* The call went as one without a fault. */
static void check_plain(stage_t *stage, const fault_t *fault, outcome_t *const *outcomes, outcome_t *const *plain,
                        const char *which)
{
    const scenario_t *scenario = stage->scenario;

    for (int rank = 0; rank < scenario->ranks; rank++) {
        if (!same_floats(outcomes[rank]->out, plain[rank]->out, slot_count(scenario) * scenario->count)) {
            complain(stage, fault, "%s call: rank %d has another result than without a fault", which, rank);
        }
        if (!same_floats(outcomes[rank]->memory, plain[rank]->memory, plain[rank]->memory_count)) {
            complain(stage, fault, "%s call: rank %d has other memory than without a fault", which, rank);
        }
    }
}

static void check_trial(stage_t *stage, const fault_t *fault)
{
    const scenario_t *scenario = stage->scenario;
    const bool        harmless = fault->kind == TACIT_LOOP_REPEAT || fault->kind == TACIT_LOOP_DELAY;
    tacit_status_t    status = stage->first[0]->status;

    check_alike(stage, fault, stage->first, "the first");
    check_alike(stage, fault, stage->next, "the next");
    stage->ended[status == TACIT_OK ? 0 : status == TACIT_ERR_FRAME ? 1 : 2]++;
    if (status == TACIT_OK) {
        check_plain(stage, fault, stage->first, stage->plain_first, "the first");
        check_plain(stage, fault, stage->next, stage->plain_next, "the next");
        return;
    }
    if (status != TACIT_ERR_FRAME || harmless || stage->first[0]->text[0] == '\0') {
        complain(stage, fault, "the first call ended with %d '%s'", status, stage->first[0]->text);
    }
    for (int rank = 0; rank < scenario->ranks; rank++) {
        if (!near_floats(scenario, stage->first[rank], stage->before[rank])) {
            complain(stage, fault, "rank %d has other memory than before the error", rank);
        }
    }
    if (stage->next[0]->status != TACIT_OK) {
        complain(stage, fault, "the next call ended with %d '%s'", stage->next[0]->status, stage->next[0]->text);
    } else if (scenario->strict) {
        check_plain(stage, fault, stage->next, stage->plain_first, "the next");
    }
}

/* ---- Trials on one communicator ---- */

static void arm(stage_t *stage, const fault_t *fault)
{
    MUST(tacit_loop_inject(stage->loop, fault->kind, fault->from, fault->to, fault->nth, fault->where));
}

static void disarm(stage_t *stage, const fault_t *fault)
{
    MUST(tacit_loop_inject(stage->loop, TACIT_LOOP_REPEAT, fault->from, fault->to, SIZE_MAX, 0));
}

/* One trial; with fault NULL, what the others are compared with. Starts from the memory that one call leaves. */
static void try_fault(stage_t *stage, tacit_comm_t *comm, tacit_slot_t *const *slots, const fault_t *fault)
{
    const int rank = tacit_comm_rank(comm);

    for (size_t s = 0; s < slot_count(stage->scenario); s++) {
        MUST(tacit_slot_reset(slots[s]));
    }
    reduce(stage, comm, slots, stage->before[rank]);
    MUST(stage->before[rank]->status);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0 && fault != NULL) {
        arm(stage, fault);
    }
    pthread_barrier_wait(&stage->barrier);
    reduce(stage, comm, slots, fault != NULL ? stage->first[rank] : stage->plain_first[rank]);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0 && fault != NULL) {
        disarm(stage, fault);
    }
    pthread_barrier_wait(&stage->barrier);
    reduce(stage, comm, slots, fault != NULL ? stage->next[rank] : stage->plain_next[rank]);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0 && fault != NULL) {
        check_trial(stage, fault);
    }
    pthread_barrier_wait(&stage->barrier);
}

static void make_slots(const scenario_t *scenario, tacit_comm_t *comm, tacit_slot_t **slots)
{
    for (size_t s = 0; s < slot_count(scenario); s++) {
        char name[16];

        snprintf(name, sizeof name, "slot%zu", s);
        slots[s] = slot_of(comm, name, scenario->count, TACIT_FLOAT32, scenario->specs[s]);
    }
}

static void all_faults(tacit_comm_t *comm, void *arg)
{
    stage_t      *stage = arg;
    tacit_slot_t *slots[MOST_SLOTS];

    make_slots(stage->scenario, comm, slots);
    try_fault(stage, comm, slots, NULL);
    for (size_t i = 0; i < stage->fault_count && stage->complaint[0] == '\0'; i++) {
        try_fault(stage, comm, slots, &stage->faults[i]);
    }
}

static void perform(stage_t *stage, rank_body_t *body)
{
    const scenario_t *scenario = stage->scenario;
    outcome_t       **all[] = {stage->before, stage->first, stage->next, stage->plain_first, stage->plain_next};
    tacit_config_t    config = TACIT_CONFIG_INIT;

    config.chunk_bytes = scenario->chunk_bytes;
    config.strict = scenario->strict;
    config.timeout_ms = scenario->timeout_ms;
    for (int rank = 0; rank < scenario->ranks; rank++) {
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            all[i][rank] = calloc(1, sizeof(outcome_t));
            ck_assert_ptr_nonnull(all[i][rank]);
        }
        stage->in[rank] = malloc(slot_count(scenario) * scenario->count * sizeof(float));
        for (size_t s = 0; s < slot_count(scenario); s++) {
            harness_fill(stage->in[rank] + s * scenario->count, scenario->count, 100 * (uint64_t)rank + s + 1, 1.0f);
        }
    }
    pthread_barrier_init(&stage->barrier, NULL, (unsigned)scenario->ranks);
    ask_for(scenario->specs[slot_count(scenario) - 1]);
    MUST(tacit_loop_create(scenario->ranks, &stage->loop));
    run_ranks_over(stage->loop, scenario->ranks, &config, body, stage);
    tacit_loop_release(stage->loop);
    pthread_barrier_destroy(&stage->barrier);
    for (int rank = 0; rank < scenario->ranks; rank++) {
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            free(all[i][rank]);
        }
        free(stage->in[rank]);
    }
    ck_assert_msg(stage->complaint[0] == '\0', "%s", stage->complaint);
}

/* ---- Lists of faults ---- */

typedef struct list {
    fault_t *faults;
    size_t   count, room;
} list_t;

static void add(list_t *list, fault_t fault)
{
    if (list->count == list->room) {
        list->room = 2 * list->room + 64;
        list->faults = realloc(list->faults, list->room * sizeof *list->faults);
        ck_assert_ptr_nonnull(list->faults);
    }
    list->faults[list->count++] = fault;
}

/* Every kind that a communicator survives, at messages [0, messages) from `from` to `to`; flips and cuts every `stride` bytes of
   [0, bytes). */
static void add_wire(list_t *list, int from, int to, size_t messages, size_t bytes, size_t stride)
{
    static const size_t cuts[] = {0, 1, 4, 63, 64, 65};

    for (size_t nth = 0; nth < messages; nth++) {
        for (size_t byte = 0; byte < bytes; byte += stride) {
            add(list, (fault_t){TACIT_LOOP_FLIP, from, to, nth, 8 * byte + byte % 8});
        }
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            add(list, (fault_t){TACIT_LOOP_CUT, from, to, nth, cuts[i]});
        }
        add(list, (fault_t){TACIT_LOOP_REPEAT, from, to, nth, 0});
        add(list, (fault_t){TACIT_LOOP_DELAY, from, to, nth, 2});
    }
}

static void run_faults(const scenario_t *scenario, size_t messages, size_t bytes, size_t stride)
{
    stage_t stage = {.scenario = scenario};
    list_t  list = {NULL, 0, 0};
    int     last = scenario->ranks - 1;

    add_wire(&list, 0, 1, messages, bytes, stride);
    add_wire(&list, last, 0, messages, bytes, stride);
    if (scenario->ranks > 2) {
        add_wire(&list, 1, last, messages, bytes, stride);
    }
    stage.faults = list.faults;
    stage.fault_count = list.count;
    perform(&stage, all_faults);
    ck_assert_uint_gt(stage.ended[0], 0);
    ck_assert_uint_gt(stage.ended[1], 0);
    ck_assert_uint_eq(stage.ended[2], 0);
    free(list.faults);
}

static const char *const specs[] = {"onebit+ef",
                                    "qsgd:bits=4+ef",
                                    "topk:ratio=0.1+ef",
                                    "randk:ratio=0.1+ef",
                                    "fp16",
                                    "fp16+ef",
                                    "none",
                                    "onebit:block=0,own=coded+ef",
                                    "topk:ratio=0.1+dgc:dense=0",
                                    "topk+dgc",
                                    "topk:ratio=0.1+ef by sparse-scatter",
                                    "topk:ratio=0.1+econtrol by sparse-scatter",
                                    "none by ring"};
enum { SPECS = sizeof specs / sizeof *specs };

START_TEST(two_ranks)
{
    const scenario_t scenario = {
        .specs = {specs[_i % SPECS]}, .count = 100, .ranks = 2, .strict = _i >= SPECS, .timeout_ms = 10000};

    run_faults(&scenario, 4, 64 + 60, _i >= SPECS ? 3 : 1);
}
END_TEST

START_TEST(more_ranks)
{
    const scenario_t scenario = {.specs = {specs[_i % SPECS]},
                                 .count = 150,
                                 .ranks = 3 + _i / SPECS,
                                 .strict = true,
                                 .in_place = true,
                                 .timeout_ms = 20000};

    run_faults(&scenario, 4, 64 + 60, 13);
}
END_TEST

/* Several messages of each kind on every wire. */
START_TEST(many_chunks)
{
    const scenario_t scenario = {.specs = {specs[_i]},
                                 .count = 6000,
                                 .ranks = 2,
                                 .chunk_bytes = 1024,
                                 .strict = _i % 2 == 0,
                                 .in_place = _i % 3 == 0,
                                 .timeout_ms = 10000};

    run_faults(&scenario, 9, 64 + 1024, 151);
}
END_TEST

START_TEST(group_of_mixed_specs)
{
    const scenario_t scenario = {.specs = {"onebit+ef", _i / 2 == 0 ? "topk:ratio=0.02+ef" : "none", "randk:ratio=0.1+ef",
                                           _i / 2 == 0 ? "none by ring" : "topk:ratio=0.02+ef by sparse-scatter"},
                                 .count = 500,
                                 .ranks = 2 + _i % 2,
                                 .chunk_bytes = 1024,
                                 .strict = true,
                                 .timeout_ms = 20000};

    run_faults(&scenario, 8, 64 + 512, _i % 2 == 0 ? 37 : 101);
}
END_TEST

/* Hosts of two ranks each: from 0 to 1 what is summed up inside a host, where that goes in messages, and what comes from other
   hosts, from 1 to 3 what goes from host to host, from 3 to 0 verdicts alone. */
START_TEST(two_levels)
{
    static const char *const hosts_send[] = {"onebit+ef",
                                             "topk:ratio=0.1+ef",
                                             "topk:ratio=0.1+dgc:dense=0",
                                             "topk:ratio=0.1+ef21",
                                             "topk:ratio=0.1+ef by two_level_scatter",
                                             "topk:ratio=0.1+econtrol by two_level_scatter"};
    const scenario_t         scenario = {.specs = {hosts_send[_i / 2]},
                                         .count = 6000,
                                         .ranks = 4,
                                         .chunk_bytes = 1024,
                                         .strict = _i % 2 == 0,
                                         .timeout_ms = 20000}; /* not to be reached */

    name_hosts("2");
    tacit__channels_refuse(_i % 3 == 0 ? UINT64_MAX : 0);
    run_faults(&scenario, 7, 64 + 1024, 211);
    tacit__channels_refuse(0);
    name_hosts(NULL);
}
END_TEST

/* ---- Lost messages, after which a communicator is broken ---- */

static void check_lost(stage_t *stage, const fault_t *fault)
{
    const scenario_t *scenario = stage->scenario;

    check_alike(stage, fault, stage->first, "the first");
    stage->ended[stage->first[0]->status == TACIT_OK ? 0 : stage->first[0]->status == TACIT_ERR_FRAME ? 1 : 2]++;
    for (int rank = 0; rank < scenario->ranks; rank++) {
        const outcome_t *first = stage->first[rank], *next = stage->next[rank];

        if (first->status == TACIT_OK || first->status == TACIT_ERR_FRAME) {
            if (next->status != TACIT_OK) {
                complain(stage, fault, "rank %d: the next call ended with %d '%s'", rank, next->status, next->text);
            }
            continue;
        }
        if (first->status != TACIT_ERR_TIMEOUT || strstr(first->text, "slot") == NULL ||
            (strstr(first->text, "nothing from rank") == NULL && strstr(first->text, "did not come") == NULL)) {
            complain(stage, fault, "rank %d: the call ended with %d '%s'", rank, first->status, first->text);
        }
        if (next->status != TACIT_ERR_BROKEN || next->seconds > 1e-3 * (double)scenario->timeout_ms) {
            complain(stage, fault, "rank %d: the next call ended with %d after %.2f s", rank, next->status, next->seconds);
        }
        if (!near_floats(scenario, first, stage->before[rank])) {
            complain(stage, fault, "rank %d has other memory than before the error", rank);
        }
    }
}

static void lose_one(tacit_comm_t *comm, void *arg)
{
    stage_t      *stage = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[MOST_SLOTS];
    char          path[HARNESS_PATH_BYTES];

    make_slots(stage->scenario, comm, slots);
    reduce(stage, comm, slots, stage->before[rank]);
    MUST(stage->before[rank]->status);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0) {
        arm(stage, stage->faults);
    }
    pthread_barrier_wait(&stage->barrier);
    reduce(stage, comm, slots, stage->first[rank]);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0) {
        disarm(stage, stage->faults);
    }
    pthread_barrier_wait(&stage->barrier);
    reduce(stage, comm, slots, stage->next[rank]);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0) {
        check_lost(stage, stage->faults);
    }
    if (stage->first[rank]->status == TACIT_ERR_TIMEOUT) {
        MUST(tacit_save(comm, harness_path(path, "state.%d", rank)));
        (void)remove(path);
    }
}

/* The first message of a wire is needed, the last two are the same. */
START_TEST(lost_messages)
{
    const scenario_t scenario = {
        .specs = {specs[_i % SPECS]}, .count = 150, .ranks = 2 + _i / SPECS, .strict = _i % 2 == 0, .timeout_ms = 600};

    for (size_t nth = 0; nth < 4; nth++) {
        const fault_t fault = {TACIT_LOOP_DROP, scenario.ranks - 1, 0, nth, 0};
        stage_t       stage = {.scenario = &scenario, .faults = &fault, .fault_count = 1};

        perform(&stage, lose_one);
        ck_assert(nth != 0 || stage.ended[0] == 0);
        ck_assert(nth != 3 || stage.ended[0] == 1);
    }
}
END_TEST

START_TEST(long_delay)
{
    const scenario_t scenario = {
        .specs = {specs[_i]}, .count = 150, .ranks = 2 + _i % 3, .strict = _i % 2 == 0, .timeout_ms = 500};
    const fault_t fault = {TACIT_LOOP_DELAY, 0, scenario.ranks - 1, 0, 2000};
    stage_t       stage = {.scenario = &scenario, .faults = &fault, .fault_count = 1};

    perform(&stage, lose_one);
    ck_assert_uint_eq(stage.ended[2], 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fault_wire");
    TCase *damage = tcase_create("damage"), *ring = tcase_create("ring"), *levels = tcase_create("levels"),
          *loss = tcase_create("loss");

    for (int strict = 0; strict < 2; strict++) {
        const int first = strict * SPECS, last = first + SPECS - 1; /* that is the ring */

        tcase_add_loop_test(damage, two_ranks, first, last);
        tcase_add_loop_test(damage, more_ranks, first, last);
        tcase_add_loop_test(ring, two_ranks, last, last + 1);
        tcase_add_loop_test(ring, more_ranks, last, last + 1);
    }
    tcase_add_loop_test(damage, many_chunks, 0, SPECS - 1);
    tcase_add_loop_test(damage, group_of_mixed_specs, 0, 4);
    tcase_add_loop_test(levels, two_levels, 0, 12);
    tcase_set_timeout(damage, 120);
    suite_add_tcase(suite, damage);
    tcase_set_timeout(ring, 120);
    suite_add_tcase(suite, ring);
    tcase_set_timeout(levels, 120);
    suite_add_tcase(suite, levels);
    tcase_add_loop_test(loss, lost_messages, 0, SPECS + 3);
    tcase_add_loop_test(loss, long_delay, 0, SPECS);
    tcase_set_timeout(loss, 120);
    suite_add_tcase(suite, loss);
    return harness_main(suite);
}
