/* SPDX-License-Identifier: Apache-2.0 */
/* Groups over the loop transport: slots of all kinds in one operation, collected in any order, and what a group refuses. */
#include "session.h"

enum { STEPS = 3, SLOTS = 12, RANKS = 3 };

typedef struct kind {
    const char *spec;
    size_t      count;
    bool        alone; /* a group changes no bit: nothing of it depends on who owns what */
} kind_t;

static const kind_t kinds[SLOTS] = {
    {"none", 1000, true},
    {"onebit:block=64+ef", 5000, false},
    {"topk:ratio=0.01+ef", 20000, true},
    {"none", 0, true},
    {"qsgd:bits=4+ef", 777, false},
    {"randk:ratio=0.05+ef", 3000, true},
    {"fp16", 65, false},
    {"topk:ratio=0.1,values=fp16+ef", 1, true},
    {"onebit:block=0+ef", 300, false},
    {"randk:ratio=0.5", 9, true},
    {"topk", 0, true},
    {"fp16+ef", 8, false},
};

typedef struct run {
    bool           grouped;
    int            order; /* in which ranks collect: 0 as created, 1 by rank */
    bool           requested;
    tacit_config_t config;
    float         *out[RANKS][SLOTS];    /* all steps */
    float         *memory[RANKS][SLOTS]; /* after the last one */
    float         *owner[SLOTS];
} run_t;

/* The slot that a rank collects next: another walk through all slots on each rank. */
static size_t slot_at(const run_t *run, int rank, size_t i)
{
    static const size_t strides[RANKS] = {5, 7, 11}; /* without a factor in common with SLOTS */

    return run->order == 0 ? i : (strides[rank] * i + (size_t)rank) % SLOTS;
}

static void fill(int rank, int step, size_t slot, float *x)
{
    session_normal(rank, (int)slot * 100 + step, kinds[slot].count, x);
}

static tacit_op_t op_of(size_t slot)
{
    return slot % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE;
}

static void finish(run_t *run, int rank, tacit_slot_t **slots)
{
    for (size_t s = 0; s < SLOTS; s++) {
        const tacit_codec_t *codec = slots[s]->codec;

        if (codec->feedback != NULL) {
            memcpy(run->memory[rank][s], codec->memory.now[0], kinds[s].count * sizeof(float));
        }
        for (size_t i = 0, element; i < codec->owner.count; i++) {
            (void)tacit__codec_owned(codec, i, &element);
            run->owner[s][element] = codec->owner.now[0][i];
        }
    }
}

static void body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[SLOTS];
    char          name[16];

    for (size_t s = 0; s < SLOTS; s++) {
        snprintf(name, sizeof name, "slot %zu", s);
        slots[s] = slot_of(comm, name, kinds[s].count, TACIT_FLOAT32, kinds[s].spec);
    }
    for (int step = 0; step < STEPS; step++) {
        tacit_request_t *request = NULL;

        if (run->grouped) {
            MUST(tacit_group_begin(comm));
        }
        for (size_t i = 0; i < SLOTS; i++) {
            const size_t s = run->grouped ? slot_at(run, rank, i) : i;
            float       *out = run->out[rank][s] + (size_t)step * kinds[s].count;
            fill(rank, step, s, out);
            MUST(tacit_allreduce(slots[s], out, out, op_of(s)));
        }
        if (run->grouped) {
            MUST(tacit_group_end(comm, run->requested ? &request : NULL));
            MUST(tacit_wait(&request));
        }
    }
    finish(run, rank, slots);
}

static void run_all(run_t *run)
{
    run->config.struct_bytes = sizeof run->config;
    for (size_t s = 0; s < SLOTS; s++) {
        run->owner[s] = session_floats(kinds[s].count);
        for (int rank = 0; rank < RANKS; rank++) {
            run->out[rank][s] = session_floats(STEPS * kinds[s].count);
            run->memory[rank][s] = session_floats(kinds[s].count);
        }
    }
    run_ranks(RANKS, &run->config, body, run);
    for (size_t s = 0; s < SLOTS; s++) {
        for (int rank = 1; rank < RANKS; rank++) {
            same_floats(run->out[rank][s], run->out[0][s], STEPS * kinds[s].count, kinds[s].spec);
        }
    }
}

static void free_run(run_t *run)
{
    for (size_t s = 0; s < SLOTS; s++) {
        free(run->owner[s]);
        for (int rank = 0; rank < RANKS; rank++) {
            free(run->out[rank][s]);
            free(run->memory[rank][s]);
        }
    }
}

/* All slots if `all`, else those that a group leaves as they are. */
static void runs_equal(const run_t *a, const run_t *b, bool all)
{
    for (size_t s = 0; s < SLOTS; s++) {
        if (!all && !kinds[s].alone) {
            continue;
        }
        same_floats(a->out[0][s], b->out[0][s], STEPS * kinds[s].count, kinds[s].spec);
        same_floats(a->owner[s], b->owner[s], kinds[s].count, kinds[s].spec);
        for (int rank = 0; rank < RANKS; rank++) {
            same_floats(a->memory[rank][s], b->memory[rank][s], kinds[s].count, kinds[s].spec);
        }
    }
}

START_TEST(as_single_slots)
{
    run_t single = {.grouped = false}, grouped = {.grouped = true};

    run_all(&single);
    run_all(&grouped);
    runs_equal(&single, &grouped, false);
    free_run(&single);
    free_run(&grouped);
}
END_TEST

START_TEST(any_order)
{
    run_t created = {.grouped = true}, mixed = {.grouped = true, .order = 1}, requested = {.grouped = true, .requested = true},
          small = {.grouped = true, .order = 1, .config.chunk_bytes = 1024};

    run_all(&created);
    run_all(&mixed);
    run_all(&requested);
    run_all(&small);
    runs_equal(&created, &mixed, true);
    runs_equal(&created, &requested, true);
    runs_equal(&created, &small, true);
    free_run(&created);
    free_run(&mixed);
    free_run(&requested);
    free_run(&small);
}
END_TEST

/* In a group, parts are cut from all slots together; what is remembered makes up for what came out all the same. */
START_TEST(nothing_is_lost)
{
    run_t run = {.grouped = true};

    run_all(&run);
    for (size_t s = 0; s < SLOTS; s++) {
        const double share = op_of(s) == TACIT_AVERAGE ? 1.0 / RANKS : 1.0;
        float       *x = session_floats(kinds[s].count);
        double      *balance = calloc(kinds[s].count + 1, sizeof *balance);

        for (int rank = 0; rank < RANKS; rank++) {
            for (int step = 0; step < STEPS; step++) {
                fill(rank, step, s, x);
                for (size_t i = 0; i < kinds[s].count; i++) {
                    balance[i] += share * (double)x[i];
                    balance[i] -= rank == 0 ? (double)run.out[0][s][(size_t)step * kinds[s].count + i] : 0;
                }
            }
            for (size_t i = 0; i < kinds[s].count; i++) {
                balance[i] -= share * (double)run.memory[rank][s][i];
            }
        }
        for (size_t i = 0; strstr(kinds[s].spec, "+ef") != NULL && i < kinds[s].count; i++) {
            balance[i] -= (double)run.owner[s][i];
            /* STEPS times a few roundings of numbers below 128. */
            ck_assert_msg(fabs(balance[i]) <= STEPS * 10 * (double)FLT_EPSILON * 128, "%s: element %zu has lost %g",
                          kinds[s].spec, i, balance[i]);
        }
        free(x);
        free(balance);
    }
    free_run(&run);
}
END_TEST

/* ---- A rank that does not come ---- */

typedef struct absence {
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];
} absence_t;

static void absent_body(tacit_comm_t *comm, void *arg)
{
    absence_t    *absence = arg;
    tacit_slot_t *a = slot_of(comm, "a", 8, TACIT_FLOAT32, "onebit"), *b = slot_of(comm, "b", 8, TACIT_FLOAT32, "topk");
    float         x[8] = {1.0f};

    for (int step = 0; step < 2 && (step == 0 || tacit_comm_rank(comm) == 0); step++) {
        MUST(tacit_group_begin(comm));
        MUST(tacit_allreduce(a, x, x, TACIT_SUM));
        MUST(tacit_allreduce(b, x, x, TACIT_SUM));
        absence[tacit_comm_rank(comm)].status = tacit_group_end(comm, NULL);
        snprintf(absence[tacit_comm_rank(comm)].text, TACIT_TEXT_BYTES, "%s", tacit_last_error());
    }
}

/* The message names a slot and its step, not a hash of all. */
START_TEST(time_out)
{
    absence_t      absence[2];
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.timeout_ms = 300;
    run_ranks(2, &config, absent_body, absence);
    ck_assert_int_eq(absence[1].status, TACIT_OK);
    ck_assert_int_eq(absence[0].status, TACIT_ERR_TIMEOUT);
    ck_assert_msg(strstr(absence[0].text, "slot 'a' at step 1 and 1 more: nothing from rank 1 for 300 ms") != NULL, "%s",
                  absence[0].text);
}
END_TEST

/* ---- Use ---- */

static bool says(tacit_status_t status, tacit_status_t expected, const char *words)
{
    return status == expected && strstr(tacit_last_error(), words) != NULL;
}

/* Each line of `right` is one expectation. What a group refuses on one rank, others may have collected: it is the group's
   fault. */
static void refusals_body(tacit_comm_t *comm, void *arg)
{
    bool            *right = (bool *)arg + 16 * tacit_comm_rank(comm);
    tacit_slot_t    *a = slot_of(comm, "a", 2, TACIT_FLOAT32, "none"), *b = slot_of(comm, "b", 2, TACIT_FLOAT32, "topk:ratio=1");
    tacit_request_t *request = NULL;
    float            x[2] = {1, 2}, y[2] = {3, 4};

    right[0] = says(tacit_group_end(comm, NULL), TACIT_ERR_STATE, "no group is open");
    MUST(tacit_group_begin(comm));
    right[1] = says(tacit_group_begin(comm), TACIT_ERR_STATE, "open already");
    MUST(tacit_allreduce(a, x, x, TACIT_SUM));
    right[2] = says(tacit_allreduce(a, y, y, TACIT_SUM), TACIT_ERR_ARGUMENT, "'a' is in the group already");
    right[4] = says(tacit_allreduce(b, NULL, y, TACIT_SUM), TACIT_ERR_ARGUMENT, "NULL");
    right[5] = says(tacit_allreduce(b, y, y, (tacit_op_t)7), TACIT_ERR_ARGUMENT, "op 7");
    MUST(tacit_allreduce(b, y, y, TACIT_AVERAGE));
    right[12] = says(tacit_group_end(comm, NULL), TACIT_ERR_ARGUMENT, "'a' is in the group already") && x[0] == 1 && y[0] == 3;
    /* Only rank 1 refuses, and what it refuses is all there is. */
    MUST(tacit_group_begin(comm));
    if (tacit_comm_rank(comm) == 1) {
        right[13] = says(tacit_allreduce(b, NULL, y, TACIT_SUM), TACIT_ERR_ARGUMENT, "NULL");
    } else {
        right[13] = tacit_allreduce(b, y, y, TACIT_SUM) == TACIT_OK;
    }
    right[14] = says(tacit_group_end(comm, NULL), TACIT_ERR_ARGUMENT, "rank 1: slot 'b': in or out is NULL") && y[0] == 3;
    /* These are refused on all ranks, and leave the group as it was. */
    MUST(tacit_group_begin(comm));
    MUST(tacit_allreduce(a, x, x, TACIT_SUM));
    right[3] = says(tacit_iallreduce(b, y, y, TACIT_SUM, &request), TACIT_ERR_STATE, "group is open") && request == NULL;
    right[6] = says(tacit_save(comm, "unused"), TACIT_ERR_STATE, "group");
    MUST(tacit_allreduce(b, y, y, TACIT_AVERAGE));
    MUST(tacit_group_end(comm, NULL));
    right[7] = x[0] == 2 && x[1] == 4 && y[0] == 3 && y[1] == 4;
    right[8] = says(tacit_group_end(comm, &request), TACIT_ERR_STATE, "no group is open");
    /* An empty group is complete at once. */
    request = (tacit_request_t *)&x;
    MUST(tacit_group_begin(comm));
    MUST(tacit_group_end(comm, &request));
    right[9] = request == NULL && tacit_wait(&request) == TACIT_OK;
    MUST(tacit_group_begin(comm));
    MUST(tacit_group_end(comm, NULL));
    /* Outside a group all is as ever. */
    MUST(tacit_allreduce(a, x, x, TACIT_SUM));
    right[10] = x[0] == 4;
    right[11] = says(tacit_group_begin(NULL), TACIT_ERR_ARGUMENT, "NULL") &&
                says(tacit_group_end(NULL, NULL), TACIT_ERR_ARGUMENT, "NULL");
}

START_TEST(refusals)
{
    bool right[2][16] = {{false}};

    run_ranks(2, NULL, refusals_body, right);
    for (int rank = 0; rank < 2; rank++) {
        for (int i = 0; i < 15; i++) {
            ck_assert_msg(right[rank][i], "rank %d: expectation %d", rank, i);
        }
    }
}
END_TEST

/* A fault in one slot is the group's: no slot has changed, on any rank. */
static void fault_body(tacit_comm_t *comm, void *arg)
{
    bool         *right = (bool *)arg + tacit_comm_rank(comm);
    tacit_slot_t *a = slot_of(comm, "a", 100, TACIT_FLOAT32, "onebit:block=32+ef"),
                 *b = slot_of(comm, "b", 100, TACIT_FLOAT32, "topk:ratio=0.1+ef"),
                 *c = slot_of(comm, "c", 100, TACIT_FLOAT32, "randk:ratio=0.1+ef");
    float x[100], y[100], z[100], zero[100] = {0};

    session_normal(tacit_comm_rank(comm), 0, 100, x);
    session_normal(tacit_comm_rank(comm), 1, 100, y);
    session_normal(tacit_comm_rank(comm), 2, 100, z);
    z[99] = tacit_comm_rank(comm) == 1 ? INFINITY : z[99];
    MUST(tacit_group_begin(comm));
    MUST(tacit_allreduce(a, x, x, TACIT_SUM));
    MUST(tacit_allreduce(b, y, y, TACIT_SUM));
    MUST(tacit_allreduce(c, z, z, TACIT_SUM));
    *right = says(tacit_group_end(comm, NULL), TACIT_ERR_VALUE, "'c'");
    *right = *right && memcmp(a->codec->memory.now[0], zero, sizeof zero) == 0 &&
             memcmp(b->codec->memory.now[0], zero, sizeof zero) == 0 && memcmp(c->codec->memory.now[0], zero, sizeof zero) == 0 &&
             a->step == 0 && b->step == 0 && c->step == 0;
}

START_TEST(one_fault_is_the_groups)
{
    const tacit_config_t strict = {.struct_bytes = sizeof strict, .strict = 1};
    bool                 right[2] = {false, false};

    run_ranks(2, &strict, fault_body, right);
    ck_assert(right[0] && right[1]);
}
END_TEST

static void plan_owners(void)
{
    ask_for("none by sparse-scatter");
}

static void plan_nothing(void)
{
    ask_for(NULL);
}

/* ---- Other parameters of one compressor ---- */

enum { MIXED = 7 };

static const struct {
    const char *mixed[MIXED], *alike;
} parameters[] = {
    {{"qsgd:bits=2+ef", "qsgd:bits=3+ef", "qsgd:bits=4+ef", "qsgd:bits=5+ef", "qsgd:bits=6+ef", "qsgd:bits=7+ef",
      "qsgd:bits=8+ef"},
     "qsgd:bits=5+ef"},
    {{"topk:ratio=0.01+ef by sparse", "topk:ratio=0.02+ef by sparse", "topk:ratio=0.03+ef by sparse",
      "topk:ratio=0.05+ef by sparse", "topk:ratio=0.1+ef by sparse", "topk:ratio=0.2+ef by sparse",
      "topk:ratio=0.4+ef by sparse"},
     "topk:ratio=0.1+ef by sparse"},
    {{"topk:ratio=0.01+ef by sparse-scatter", "topk:ratio=0.02+ef by sparse-scatter", "topk:ratio=0.03+ef by sparse-scatter",
      "topk:ratio=0.05+ef by sparse-scatter", "topk:ratio=0.1+ef by sparse-scatter", "topk:ratio=0.2+ef by sparse-scatter",
      "topk:ratio=0.4+ef by sparse-scatter"},
     "topk:ratio=0.1+ef by sparse-scatter"},
    {{"onebit:block=32+ef", "onebit:block=64+ef", "onebit:block=128+ef", "onebit:block=1024+ef", "onebit:block=8192+ef",
      "onebit:block=0+ef", "onebit:norm=l1+ef"},
     "onebit:block=64+ef"},
};

typedef struct messages {
    const char *const *specs; /* MIXED of them, or always the first */
    bool               mixed;
    uint64_t           sent[MOST_RANKS]; /* by the second operation */
} messages_t;

/* This rank's. */
static _Thread_local const tacit_transport_t *loop;
static _Thread_local uint64_t                 sent;

static tacit_status_t counted_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    sent++;
    return loop->send(context, peer, data, bytes, ticket);
}

static void messages_body(tacit_comm_t *comm, void *arg)
{
    static const size_t sizes[MIXED] = {5000, 64, 20000, 777, 1, 3000, 4096};
    messages_t         *messages = arg;
    const int           rank = tacit_comm_rank(comm);
    tacit_transport_t   counted = *comm->exchange.transport;
    tacit_slot_t       *slots[MIXED];
    float              *x[MIXED];
    char                name[16];

    for (size_t s = 0; s < MIXED; s++) {
        snprintf(name, sizeof name, "slot %zu", s);
        slots[s] = slot_of(comm, name, sizes[s], TACIT_FLOAT32, messages->specs[messages->mixed ? s : 0]);
        x[s] = session_floats(sizes[s]);
        session_normal(rank, (int)s, sizes[s], x[s]);
    }
    loop = comm->exchange.transport;
    counted.send = counted_send;
    comm->exchange.transport = &counted;
    for (int step = 0; step < 2; step++) {
        sent = 0;
        MUST(tacit_group_begin(comm));
        for (size_t s = 0; s < MIXED; s++) {
            MUST(tacit_allreduce(slots[s], x[s], x[s], TACIT_AVERAGE));
        }
        MUST(tacit_group_end(comm, NULL));
    }
    messages->sent[rank] = sent;
    comm->exchange.transport = loop;
    for (size_t s = 0; s < MIXED; s++) {
        free(x[s]);
    }
}

static void count_messages(int ranks, messages_t *messages)
{
    ask_for(messages->specs[0]);
    run_ranks(ranks, NULL, messages_body, messages);
    ask_for(NULL);
}

/* Slots that go by one schedule travel together, whatever their parameters. */
START_TEST(parameters_cost_no_messages)
{
    for (int ranks = 2; ranks <= 4; ranks++) {
        messages_t mixed = {.specs = parameters[_i].mixed, .mixed = true}, alike = {.specs = &parameters[_i].alike};

        count_messages(ranks, &mixed);
        count_messages(ranks, &alike);
        for (int rank = 0; rank < ranks; rank++) {
            ck_assert_msg(mixed.sent[rank] == alike.sent[rank] && alike.sent[rank] > 0,
                          "%s, rank %d of %d: %d messages, with equal parameters %d", parameters[_i].alike, rank, ranks,
                          (int)mixed.sent[rank], (int)alike.sent[rank]);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("group");
    TCase *tests = tcase_create("group"), *owners = tcase_create("owners");

    tcase_add_test(tests, as_single_slots);
    tcase_add_test(tests, any_order);
    tcase_add_test(tests, nothing_is_lost);
    tcase_add_test(tests, refusals);
    tcase_add_test(tests, one_fault_is_the_groups);
    tcase_add_test(tests, time_out);
    tcase_add_loop_test(tests, parameters_cost_no_messages, 0, (int)COUNT_OF(parameters));
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(owners, plan_owners, plan_nothing);
    tcase_add_test(owners, as_single_slots);
    tcase_add_test(owners, any_order);
    tcase_add_test(owners, nothing_is_lost);
    suite_add_tcase(suite, owners);
    tcase_set_timeout(owners, 120);
    return harness_main(suite);
}
