/* SPDX-License-Identifier: Apache-2.0 */
/* Requests over the loop transport: several under way, waited for in any order, among blocking calls and groups. */
#include "session.h"

enum { RANKS = 3, SLOTS = 6, STEPS = 4 };

static const struct {
    const char *spec;
    size_t      count;
} kinds[SLOTS] = {{"onebit:block=64+ef", 3000}, {"topk:ratio=0.05+ef", 5000}, {"none", 100},
                  {"qsgd:bits=4+ef", 1},        {"randk:ratio=0.1+ef", 2000}, {"fp16", 0}};

typedef enum { BLOCKING, WAIT_FORTH, WAIT_BACK, TEST_ANY, MIXED, TWICE_UNDER_WAY, WAYS } way_t;

typedef struct run {
    way_t    way;
    float   *out[RANKS][SLOTS];
    uint64_t memory[RANKS][SLOTS]; /* a hash of it */
    bool     right[RANKS];
} run_t;

typedef struct scene {
    tacit_slot_t    *slots[SLOTS];
    float           *in[SLOTS], *out[SLOTS]; /* out: of all steps */
    tacit_request_t *requests[SLOTS];
    int              rank;
} scene_t;

static float *at_step(const scene_t *scene, size_t s, int step)
{
    return scene->out[s] + (size_t)step * kinds[s].count;
}

static void fill(const scene_t *scene, size_t s, int step)
{
    session_normal(scene->rank, (int)s * 100 + step, kinds[s].count, scene->in[s]);
}

static void start(scene_t *scene, size_t s, int step)
{
    fill(scene, s, step);
    MUST(tacit_iallreduce(scene->slots[s], scene->in[s], at_step(scene, s, step), TACIT_AVERAGE, &scene->requests[s]));
}

/* Tests all requests in an order that differs by rank, until none is left. Returns whether they were complete in the order of
   their start. */
static bool test_all(scene_t *scene)
{
    bool right = true;

    for (size_t left = SLOTS; left != 0;) {
        for (size_t i = 0; i < SLOTS; i++) {
            const size_t     s = (i + (size_t)scene->rank) % SLOTS;
            tacit_request_t *request = scene->requests[s];
            tacit_status_t   status = request != NULL ? tacit_test(&scene->requests[s]) : TACIT_PENDING;
            if (status == TACIT_PENDING) {
                continue;
            }
            MUST(status);
            right = right && scene->requests[s] == NULL;
            left--;
            /* Those before it are complete too: asking again does not wait for anything. */
            for (size_t before = 0; before < s; before++) {
                left -= scene->requests[before] != NULL;
                right = right && tacit_test(&scene->requests[before]) == TACIT_OK && scene->requests[before] == NULL;
            }
        }
    }
    return right;
}

static bool step_of(scene_t *scene, way_t way, int step)
{
    bool right = true;

    for (size_t s = 0; s < SLOTS; s++) {
        if (way == BLOCKING || (way == MIXED && s % 2 != 0)) {
            fill(scene, s, step);
            MUST(tacit_allreduce(scene->slots[s], scene->in[s], at_step(scene, s, step), TACIT_AVERAGE));
        } else {
            start(scene, s, step);
        }
    }
    if (way == TEST_ANY) {
        return test_all(scene);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        const size_t s = way == WAIT_BACK ? SLOTS - 1 - i : i;
        MUST(tacit_wait(&scene->requests[s]));
        right = right && scene->requests[s] == NULL;
    }
    return right;
}

/* The same slot in several requests at once: its steps follow each other. */
static void pipeline(scene_t *scene, size_t s)
{
    tacit_request_t *requests[STEPS];
    float           *in[STEPS];

    for (int step = 0; step < STEPS; step++) {
        in[step] = session_floats(kinds[s].count);
        session_normal(scene->rank, (int)s * 100 + step, kinds[s].count, in[step]);
        MUST(tacit_iallreduce(scene->slots[s], in[step], at_step(scene, s, step), TACIT_AVERAGE, &requests[step]));
    }
    for (int step = STEPS - 1; step >= 0; step--) {
        MUST(tacit_wait(&requests[step]));
        free(in[step]);
    }
}

static void body(tacit_comm_t *comm, void *arg)
{
    run_t  *run = arg;
    scene_t scene = {.rank = tacit_comm_rank(comm)};
    char    name[16];

    run->right[scene.rank] = true;
    for (size_t s = 0; s < SLOTS; s++) {
        snprintf(name, sizeof name, "slot %zu", s);
        scene.slots[s] = slot_of(comm, name, kinds[s].count, TACIT_FLOAT32, kinds[s].spec);
        scene.in[s] = session_floats(kinds[s].count);
        scene.out[s] = run->out[scene.rank][s] = session_floats(STEPS * kinds[s].count);
    }
    for (int step = 0; step < STEPS && run->way != TWICE_UNDER_WAY; step++) {
        run->right[scene.rank] = step_of(&scene, run->way, step) && run->right[scene.rank];
    }
    for (size_t s = 0; s < SLOTS && run->way == TWICE_UNDER_WAY; s++) {
        pipeline(&scene, s);
    }
    for (size_t s = 0; s < SLOTS; s++) {
        const tacit_state_t *memory = &scene.slots[s]->codec->memory;
        run->memory[scene.rank][s] = memory->now[0] != NULL ? harness_hash(memory->now[0], memory->count * sizeof(float)) : 0;
        free(scene.in[s]);
    }
}

static void free_run(run_t *run)
{
    for (int rank = 0; rank < RANKS; rank++) {
        for (size_t s = 0; s < SLOTS; s++) {
            free(run->out[rank][s]);
        }
    }
}

/* However requests are made and waited for, bits are those of blocking calls. */
START_TEST(as_blocking)
{
    run_t blocking = {.way = BLOCKING}, other = {.way = (way_t)_i};

    run_ranks(RANKS, NULL, body, &blocking);
    run_ranks(RANKS, NULL, body, &other);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(other.right[rank], "rank %d: requests did not complete in order", rank);
        for (size_t s = 0; s < SLOTS; s++) {
            same_floats(other.out[rank][s], blocking.out[0][s], STEPS * kinds[s].count, kinds[s].spec);
            ck_assert(other.memory[rank][s] == blocking.memory[rank][s]);
        }
    }
    free_run(&blocking);
    free_run(&other);
}
END_TEST

/* A fault is the status of its own request, and the next ones succeed. */
static void fault_body(tacit_comm_t *comm, void *arg)
{
    bool         *right = (bool *)arg + tacit_comm_rank(comm);
    tacit_slot_t *a = slot_of(comm, "a", 4, TACIT_FLOAT32, "onebit+ef"),
                 *b = slot_of(comm, "b", 4, TACIT_FLOAT32, "topk:ratio=1");
    tacit_request_t *first, *second, *third;
    float            x[4] = {1, 1, 1, tacit_comm_rank(comm) == 0 ? NAN : 1}, y[4] = {1, 2, 3, 4}, z[4], w[4];

    MUST(tacit_iallreduce(b, y, z, TACIT_SUM, &first));
    MUST(tacit_iallreduce(a, x, x, TACIT_SUM, &second));
    MUST(tacit_iallreduce(b, y, w, TACIT_SUM, &third));
    MUST(tacit_wait(&third));
    *right = tacit_wait(&second) == TACIT_ERR_VALUE && second == NULL && strstr(tacit_last_error(), "rank 0: slot 'a'") != NULL;
    MUST(tacit_wait(&first));
    *right = *right && z[3] == 12 && w[3] == 12 && x[0] == 1 && a->step == 0 && b->step == 2;
    MUST(tacit_wait(&second)); /* NULL: complete */
    MUST(tacit_test(NULL));
    *right = *right && tacit_iallreduce(a, x, x, TACIT_SUM, NULL) == TACIT_ERR_ARGUMENT &&
             tacit_iallreduce(NULL, x, x, TACIT_SUM, &first) == TACIT_ERR_ARGUMENT;
}

START_TEST(a_fault_is_its_own)
{
    bool right[RANKS] = {false};

    run_ranks(RANKS, NULL, fault_body, right);
    ck_assert(right[0] && right[1] && right[2]);
}
END_TEST

/* Arguments that one rank alone gets wrong are everybody's error: nobody hangs. */
static void argument_body(tacit_comm_t *comm, void *arg)
{
    bool            *right = (bool *)arg + tacit_comm_rank(comm);
    tacit_slot_t    *slot = slot_of(comm, "a", 4, TACIT_FLOAT32, "onebit+ef");
    tacit_request_t *request;
    float            x[4] = {1, 1, 1, 1};

    MUST(tacit_iallreduce(slot, tacit_comm_rank(comm) == 1 ? NULL : x, x, TACIT_SUM, &request));
    *right =
        tacit_wait(&request) == TACIT_ERR_ARGUMENT && strstr(tacit_last_error(), "rank 1: slot 'a': in or out is NULL") != NULL;
    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    *right = *right && x[0] == RANKS;
}

START_TEST(one_rank_is_wrong)
{
    bool right[RANKS] = {false};

    run_ranks(RANKS, NULL, argument_body, right);
    ck_assert(right[0] && right[1] && right[2]);
}
END_TEST

/* A communicator goes with requests under way, some of them never waited for. */
static void abandon_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t    *slot = slot_of(comm, "a", 1000, TACIT_FLOAT32, "onebit+ef");
    tacit_request_t *requests[3];
    float           *x = arg;

    for (int i = 0; i < 3; i++) {
        MUST(tacit_iallreduce(slot, x, x + 1000 * (1 + i + 3 * tacit_comm_rank(comm)), TACIT_SUM, &requests[i]));
    }
}

START_TEST(abandoned)
{
    float *x = session_floats((1 + 3 * RANKS) * 1000);

    run_ranks(RANKS, NULL, abandon_body, x);
    free(x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("request");
    TCase *tests = tcase_create("request");

    tcase_add_loop_test(tests, as_blocking, WAIT_FORTH, WAYS);
    tcase_add_test(tests, a_fault_is_its_own);
    tcase_add_test(tests, one_rank_is_wrong);
    tcase_add_test(tests, abandoned);
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 120);
    return harness_main(suite);
}
