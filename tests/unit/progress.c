/* SPDX-License-Identifier: Apache-2.0 */
/* The progress thread over the loop transport: requests complete while nobody calls, among calls of every kind, with the bits,
   the memory and the statuses that they have without it; it sleeps when it is idle. */
#include <fenv.h>
#include <pthread.h>
#include <time.h>

#include "progress.h"
#include "operation.h"
#include "session.h"

enum { RANKS = 4, LONGEST_SECONDS = 60 };

/* With requests advanced by calls alone, by a thread, or by a thread on every second rank. */
typedef enum { CALLS, THREAD, HALF, WAYS } way_t;

static tacit_config_t config_of(way_t way)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.progress = way == CALLS ? TACIT_PROGRESS_CALLS : TACIT_PROGRESS_THREAD;
    config.chunk_bytes = 1024;
    config.strict = 1;
    return config;
}

/* At the beginning of a body: whether this rank has its thread. */
static bool begin(tacit_comm_t *comm, way_t way)
{
    if (way == HALF && tacit_comm_rank(comm) % 2 != 0) {
        tacit_comm_end_thread(comm);
        return !tacit_comm_has_thread(comm);
    }
    return tacit_comm_has_thread(comm) == (way != CALLS);
}

static void sleep_ms(double ms)
{
    const struct timespec pause = {(time_t)(ms / 1000), (long)(1e6 * (ms - 1000 * floor(ms / 1000)))};

    nanosleep(&pause, NULL);
}

/* Looks without a lock, since that would wake the thread up: a race, but of one word, and what it says is looked at again. */
__attribute__((no_sanitize("thread"))) static bool is_finished(const tacit_request_t *request)
{
    return *(const volatile tacit_phase_t *)&request->phase == TACIT_FINISHED;
}

/* Waits without a call. */
static bool await(const tacit_request_t *request)
{
    const double began = tacit__seconds();

    while (!is_finished(request) && tacit__seconds() - began < LONGEST_SECONDS) {
        sleep_ms(0.2);
    }
    return is_finished(request);
}

static uint64_t memory_of(const tacit_slot_t *slot)
{
    const tacit_state_t *memory = &slot->codec->memory, *owner = &slot->codec->owner;
    uint64_t             hash = 0;

    hash ^= memory->now[0] != NULL ? harness_hash(memory->now[0], memory->count * sizeof(float)) : 0;
    return hash ^ 3 * (owner->now[0] != NULL ? harness_hash(owner->now[0], owner->count * sizeof(float)) : 0);
}

/* ---- Requests that nobody helps ---- */

enum { SLOTS = 6 };

static const struct {
    const char *spec;
    size_t      count;
} kinds[SLOTS] = {{"onebit:block=64+ef", 30000}, {"topk:ratio=0.05+ef", 20000}, {"none", 5000},
                  {"qsgd:bits=4+ef", 1},         {"powersgd:rank=2+ef", 2000},  {"fp16", 0}};

static tacit_slot_t *make_slot(tacit_comm_t *comm, size_t s)
{
    char name[16];

    snprintf(name, sizeof name, "slot %zu", s);
    return slot_of(comm, name, kinds[s].count, TACIT_FLOAT32, kinds[s].spec);
}

static void alone_body(tacit_comm_t *comm, void *arg)
{
    bool            *right = (bool *)arg + tacit_comm_rank(comm);
    tacit_request_t *requests[SLOTS + 1];
    tacit_slot_t    *slots[SLOTS];
    float           *x[SLOTS];

    *right = begin(comm, THREAD);
    for (size_t s = 0; s < SLOTS; s++) {
        slots[s] = make_slot(comm, s);
        x[s] = session_floats(kinds[s].count);
        session_normal(tacit_comm_rank(comm), 0, kinds[s].count, x[s]);
        MUST(tacit_iallreduce(slots[s], x[s], x[s], TACIT_SUM, &requests[s]));
        *right = *right && (s % 2 != 0 || await(requests[s])); /* one by one, and two at once */
    }
    *right = *right && await(requests[SLOTS - 1]);
    MUST(tacit_group_begin(comm));
    for (size_t s = 0; s < SLOTS; s++) {
        MUST(tacit_allreduce(slots[s], x[s], x[s], TACIT_AVERAGE));
    }
    MUST(tacit_group_end(comm, &requests[SLOTS]));
    *right = *right && await(requests[SLOTS]);
    for (size_t i = 0; i <= SLOTS; i++) {
        *right = *right && tacit_test(&requests[i]) == TACIT_OK && requests[i] == NULL;
    }
    for (size_t s = 0; s < SLOTS; s++) {
        free(x[s]);
    }
}

START_TEST(alone)
{
    tacit_config_t config = config_of(THREAD);
    bool           right[RANKS] = {false};

    run_ranks(RANKS, &config, alone_body, right);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(right[rank], "rank %d", rank);
    }
}
END_TEST

/* ---- Among calls of every kind ---- */

enum { ACTIONS = 300, UNDER_WAY = 6, MOST_COUNT = 60000 };

typedef struct task {
    tacit_request_t *request;
    int              action;
    float           *in, *out; /* perhaps the same */
    size_t           count;
} task_t;

typedef struct play {
    way_t    way;
    uint64_t results[RANKS][ACTIONS], memory[RANKS][SLOTS], calls[RANKS][SLOTS];
    bool     right[RANKS];
} play_t;

typedef struct player {
    play_t          *play;
    tacit_comm_t    *comm;
    int              rank;
    tacit_slot_t    *slots[SLOTS];
    task_t           tasks[UNDER_WAY];
    size_t           task_count;
    harness_random_t common, own; /* what all ranks draw alike, and what they do not */
} player_t;

static void finish_task(player_t *player, size_t i)
{
    task_t task = player->tasks[i];

    MUST(tacit_wait(&task.request));
    player->play->results[player->rank][task.action] = harness_hash(task.out, task.count * sizeof *task.out);
    if (task.out != task.in) {
        free(task.out);
    }
    free(task.in);
    player->tasks[i] = player->tasks[--player->task_count];
}

/* One slot, or several in a group; blocking, or with a request. */
static void reduce_some(player_t *player, int action, size_t members, bool blocking)
{
    const size_t first = harness_next(&player->common) % SLOTS;
    task_t      *task;
    size_t       done = 0;

    while (player->task_count == UNDER_WAY) {
        finish_task(player, 0);
    }
    task = &player->tasks[player->task_count++];
    *task = (task_t){.action = action, .in = session_floats(MOST_COUNT)};
    task->out = action % 2 != 0 ? task->in : session_floats(MOST_COUNT);
    for (size_t i = 0; i < members; i++) {
        task->count += kinds[(first + i) % SLOTS].count;
    }
    session_normal(player->rank, action, task->count, task->in);
    if (members > 1) {
        MUST(tacit_group_begin(player->comm));
    }
    for (size_t i = 0; i < members; i++) {
        const size_t s = (first + i) % SLOTS;

        if (members == 1 && !blocking) {
            MUST(tacit_iallreduce(player->slots[s], task->in, task->out, TACIT_AVERAGE, &task->request));
        } else {
            MUST(tacit_allreduce(player->slots[s], task->in + done, task->out + done, TACIT_AVERAGE));
        }
        done += kinds[s].count;
    }
    if (members > 1) {
        MUST(tacit_group_end(player->comm, blocking ? NULL : &task->request));
    }
    if (blocking) {
        finish_task(player, player->task_count - 1);
    }
}

static void act(player_t *player, int action)
{
    const uint64_t   draw = harness_next(&player->common) % 10;
    const size_t     mine = harness_next(&player->own) % UNDER_WAY;
    tacit_counters_t counters;
    tacit_norms_t    norms;

    sleep_ms(harness_uniform(&player->own, 0, draw == 9 ? 3 : 0.1));
    if (draw < 6) {
        reduce_some(player, action, draw < 4 ? 1 : 3, draw % 4 == 0);
    } else if (mine < player->task_count) {
        /* A request that is complete is freed. */
        if (harness_next(&player->own) % 2 != 0 || tacit_test(&player->tasks[mine].request) == TACIT_OK) {
            finish_task(player, mine);
        }
    } else {
        MUST(tacit_slot_counters(player->slots[mine], &counters));
        MUST(tacit_slot_norms(player->slots[mine], &norms));
    }
}

static void play_body(tacit_comm_t *comm, void *arg)
{
    play_t  *play = arg;
    player_t player = {.play = play, .comm = comm, .rank = tacit_comm_rank(comm), .common = {7}, .own = {1000}};

    player.own.state += (uint64_t)player.rank;
    play->right[player.rank] = begin(comm, play->way);
    for (size_t s = 0; s < SLOTS; s++) {
        player.slots[s] = make_slot(comm, s);
    }
    for (int action = 0; action < ACTIONS; action++) {
        act(&player, action);
    }
    while (player.task_count != 0) {
        finish_task(&player, 0);
    }
    for (size_t s = 0; s < SLOTS; s++) {
        tacit_counters_t counters;

        MUST(tacit_slot_counters(player.slots[s], &counters));
        play->calls[player.rank][s] = counters.calls;
        play->memory[player.rank][s] = memory_of(player.slots[s]);
    }
}

START_TEST(as_without)
{
    play_t         plain = {.way = CALLS}, other = {.way = (way_t)_i};
    tacit_config_t without = config_of(CALLS), with = config_of((way_t)_i);

    run_ranks(RANKS, &without, play_body, &plain);
    run_ranks(RANKS, &with, play_body, &other);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(plain.right[rank] && other.right[rank], "rank %d", rank);
        for (int action = 0; action < ACTIONS; action++) {
            ck_assert_msg(other.results[rank][action] == plain.results[0][action], "rank %d, action %d", rank, action);
        }
        for (size_t s = 0; s < SLOTS; s++) {
            ck_assert_msg(other.memory[rank][s] == plain.memory[rank][s], "rank %d, %s", rank, kinds[s].spec);
            ck_assert_uint_eq(other.calls[rank][s], plain.calls[rank][s]);
        }
    }
}
END_TEST

/* ---- Faults ---- */

enum { CALLS_MADE = 4, COUNT = 3000 };

typedef enum { NOTHING, A_NAN, ANOTHER_SLOT, A_NULL, LATE, DAMAGE, LOSS } mishap_t;

typedef struct accident {
    mishap_t           mishap;
    int                who;
    tacit_loop_fault_t fault;
    size_t             nth, where;
} accident_t;

static const accident_t accidents[] = {{.mishap = NOTHING},
                                       {.mishap = A_NAN, .who = 1},
                                       {.mishap = ANOTHER_SLOT, .who = 2},
                                       {.mishap = A_NULL, .who = 0},
                                       {.mishap = DAMAGE, .fault = TACIT_LOOP_FLIP, .nth = 0, .where = 700},
                                       {.mishap = DAMAGE, .fault = TACIT_LOOP_FLIP, .nth = 1, .where = 40},
                                       {.mishap = DAMAGE, .fault = TACIT_LOOP_CUT, .nth = 0, .where = 30},
                                       {.mishap = DAMAGE, .fault = TACIT_LOOP_REPEAT, .nth = 0},
                                       {.mishap = LATE, .who = 1},
                                       {.mishap = LOSS, .fault = TACIT_LOOP_DROP, .nth = 0}};

typedef struct outcome {
    tacit_status_t status[CALLS_MADE];
    char           text[CALLS_MADE][TACIT_TEXT_BYTES];
    uint64_t       out[CALLS_MADE], memory[2];
} outcome_t;

typedef struct stage {
    way_t             way;
    const accident_t *accident;
    tacit_loop_t     *loop;
    pthread_barrier_t barrier;
    outcome_t         outcomes[RANKS];
    bool              right[RANKS];
} stage_t;

static void note(outcome_t *outcome, int call, tacit_status_t status, const float *out)
{
    outcome->status[call] = status;
    snprintf(outcome->text[call], sizeof outcome->text[call], "%s", status != TACIT_OK ? tacit_last_error() : "");
    outcome->out[call] = status == TACIT_OK ? harness_hash(out, COUNT * sizeof *out) : 0;
}

/* A call that goes well, two requests of which the first meets the mishap, and a call after all. */
static void fault_body(tacit_comm_t *comm, void *arg)
{
    stage_t          *stage = arg;
    const accident_t *accident = stage->accident;
    const int         rank = tacit_comm_rank(comm);
    const bool        mine = rank == accident->who, threaded = stage->way == THREAD || (stage->way == HALF && rank % 2 == 0);
    outcome_t        *outcome = &stage->outcomes[rank];
    tacit_slot_t     *a = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "onebit:block=64+ef"),
                 *b = slot_of(comm, "b", COUNT, TACIT_FLOAT32, "topk:ratio=0.1+ef");
    tacit_request_t *first, *second;
    float           *x = session_floats(3 * COUNT), *y = x + COUNT, *z = y + COUNT;

    stage->right[rank] = begin(comm, stage->way);
    session_normal(rank, 0, COUNT, x);
    note(outcome, 0, tacit_allreduce(a, x, y, TACIT_SUM), y);
    pthread_barrier_wait(&stage->barrier);
    if (rank == 0 && accident->mishap >= DAMAGE) {
        MUST(tacit_loop_inject(stage->loop, accident->fault, RANKS - 1, 0, accident->nth, accident->where));
    }
    pthread_barrier_wait(&stage->barrier);
    x[7] = accident->mishap == A_NAN && mine ? NAN : x[7];
    sleep_ms(accident->mishap == LATE && mine ? 1500 : 0);
    MUST(tacit_iallreduce(accident->mishap == ANOTHER_SLOT && mine ? b : a, accident->mishap == A_NULL && mine ? NULL : x, y,
                          TACIT_SUM, &first));
    session_normal(rank, 1, COUNT, z);
    if (tacit_iallreduce(b, z, z, TACIT_SUM, &second) != TACIT_OK) {
        second = NULL; /* it is known already that all is over */
        note(outcome, 2, TACIT_ERR_BROKEN, z);
    }
    stage->right[rank] = stage->right[rank] && (!threaded || (await(first) && (second == NULL || await(second))));
    note(outcome, 1, tacit_wait(&first), y);
    if (second != NULL) {
        note(outcome, 2, tacit_wait(&second), z);
    }
    pthread_barrier_wait(&stage->barrier);
    session_normal(rank, 2, COUNT, x);
    note(outcome, 3, tacit_allreduce(a, x, y, TACIT_SUM), y);
    outcome->memory[0] = memory_of(a);
    outcome->memory[1] = memory_of(b);
    free(x);
}

static void perform(way_t way, const accident_t *accident, stage_t *stage)
{
    tacit_config_t config = config_of(way);

    config.timeout_ms = accident->mishap == LATE || accident->mishap == LOSS ? 500 : 30000;
    *stage = (stage_t){.way = way, .accident = accident};
    pthread_barrier_init(&stage->barrier, NULL, RANKS);
    MUST(tacit_loop_create(RANKS, &stage->loop));
    run_ranks_over(stage->loop, RANKS, &config, fault_body, stage);
    tacit_loop_release(stage->loop);
    pthread_barrier_destroy(&stage->barrier);
}

START_TEST(faults)
{
    static stage_t    plain, other;
    const accident_t *accident = &accidents[_i / 2];

    perform(CALLS, accident, &plain);
    perform(_i % 2 == 0 ? THREAD : HALF, accident, &other);
    for (int rank = 0; rank < RANKS; rank++) {
        const outcome_t *expected = &plain.outcomes[rank], *found = &other.outcomes[rank];

        ck_assert_msg(plain.right[rank] && other.right[rank], "rank %d", rank);
        for (int call = 0; call < CALLS_MADE; call++) {
            ck_assert_msg(found->status[call] == expected->status[call], "rank %d, call %d: %d '%s', expected %d '%s'", rank,
                          call, found->status[call], found->text[call], expected->status[call], expected->text[call]);
            ck_assert_msg(found->out[call] == expected->out[call], "rank %d, call %d: another result", rank, call);
            if (found->status[call] != TACIT_ERR_TIMEOUT && found->status[call] != TACIT_ERR_BROKEN) { /* those may come late */
                ck_assert_str_eq(found->text[call], other.outcomes[0].text[call]);
            }
        }
        ck_assert(found->memory[0] == expected->memory[0] && found->memory[1] == expected->memory[1]);
    }
    ck_assert_int_eq(plain.outcomes[0].status[3], accident->mishap == LATE || accident->mishap == LOSS ? TACIT_ERR_BROKEN : 0);
}
END_TEST

/* ---- Ends ---- */

/* Communicators go with requests that run, that wait, or that a peer has never started. */
static void abandon_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "a", 10000, TACIT_FLOAT32, "onebit:block=64+ef"),
                 *gone = slot_of(comm, "b", 10000, TACIT_FLOAT32, "topk+ef");
    tacit_request_t *request;
    const bool       starts = tacit_comm_rank(comm) != 1;
    float           *x = (float *)arg + 40000 * tacit_comm_rank(comm);

    for (int i = 0; i < 3 && starts; i++) {
        MUST(tacit_iallreduce(i == 1 ? gone : slot, x, x + 10000 * (1 + i), TACIT_SUM, &request));
    }
    sleep_ms(tacit_comm_rank(comm) == 0 ? 20 : 0);
    if (starts) {
        tacit_slot_destroy(gone);
    }
}

START_TEST(abandoned)
{
    tacit_config_t config = config_of(THREAD);
    float         *x = session_floats(40000 * RANKS);

    for (int i = 0; i < 10; i++) {
        run_ranks(RANKS, &config, abandon_body, x);
    }
    free(x);
}
END_TEST

/* ---- Sleeping ---- */

typedef struct rest {
    pthread_barrier_t barrier;
    double            idle, waiting; /* seconds of processors that the whole process took meanwhile */
} rest_t;

static double processor_seconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void rest_body(tacit_comm_t *comm, void *arg)
{
    rest_t          *rest = arg;
    tacit_slot_t    *slot = slot_of(comm, "a", 1000, TACIT_FLOAT32, "onebit:block=64+ef");
    tacit_request_t *request;
    float            x[1000] = {0};

    MUST(tacit_iallreduce(slot, x, x, TACIT_SUM, &request));
    (void)await(request); /* the thread has come to work */
    MUST(tacit_wait(&request));
    if (pthread_barrier_wait(&rest->barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
        const double before = processor_seconds();

        sleep_ms(200);
        rest->idle = processor_seconds() - before;
    }
    pthread_barrier_wait(&rest->barrier);
    if (tacit_comm_rank(comm) != 0) { /* which the others wait for */
        MUST(tacit_iallreduce(slot, x, x, TACIT_SUM, &request));
    }
    pthread_barrier_wait(&rest->barrier);
    if (tacit_comm_rank(comm) == 0) {
        const double before = processor_seconds();

        sleep_ms(300);
        rest->waiting = processor_seconds() - before;
        MUST(tacit_iallreduce(slot, x, x, TACIT_SUM, &request));
    }
    (void)await(request);
    MUST(tacit_wait(&request));
}

/* Idle: nothing of 200 ms, but for what a sanitizer does. Waiting: three threads, mostly asleep, take less than half of one. */
START_TEST(sleeps)
{
    tacit_config_t config = config_of(THREAD);
    rest_t         rest = {.idle = 1};

    pthread_barrier_init(&rest.barrier, NULL, RANKS);
    run_ranks(RANKS, &config, rest_body, &rest);
    pthread_barrier_destroy(&rest.barrier);
    ck_assert_msg(rest.idle < 0.010, "idle threads took %.1f ms of 200 ms", 1e3 * rest.idle);
    ck_assert_msg(rest.waiting < 0.150, "waiting threads took %.1f ms of 300 ms", 1e3 * rest.waiting);
}
END_TEST

/* ---- What is asked for, and what can be had ---- */

/* A caller that rounds otherwise than when the communicator was made gets that, whoever works. */
static void rounding_body(tacit_comm_t *comm, void *arg)
{
    uint64_t        *hash = (uint64_t *)arg + 3 * tacit_comm_rank(comm);
    tacit_slot_t    *slot = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "none");
    const int        before = fegetround();
    tacit_request_t *request;
    float           *x = session_floats(2 * COUNT), *y = x + COUNT;

    session_normal(tacit_comm_rank(comm), 0, COUNT, x);
    for (int way = 0; way < 3; way++) { /* up by the caller, up by the thread, to the nearest */
        fesetround(way < 2 ? FE_UPWARD : before);
        MUST(tacit_iallreduce(slot, x, y, TACIT_AVERAGE, &request));
        (void)(way == 0 || await(request));
        MUST(tacit_wait(&request));
        hash[way] = harness_hash(y, COUNT * sizeof *y);
    }
    free(x);
}

START_TEST(rounding)
{
    tacit_config_t config = config_of(THREAD);
    uint64_t       hash[RANKS][3];

    run_ranks(RANKS, &config, rounding_body, hash);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert(hash[rank][0] == hash[0][0] && hash[rank][1] == hash[0][0] && hash[rank][2] != hash[0][0]);
    }
}
END_TEST

static int has_thread(const tacit_config_t *config, int any_thread)
{
    tacit_loop_t     *loop;
    tacit_transport_t transport;
    tacit_comm_t     *comm;
    int               has;

    MUST(tacit_loop_create(1, &loop));
    MUST(tacit_loop_transport(loop, 0, &transport));
    transport.any_thread = any_thread;
    transport.struct_bytes = any_thread < 0 ? offsetof(tacit_transport_t, any_thread) : sizeof transport; /* an older one */
    MUST(tacit_comm_create(&transport, config, &comm));
    has = tacit_comm_has_thread(comm);
    tacit_comm_end_thread(comm);
    ck_assert_int_eq(tacit_comm_has_thread(comm), 0);
    tacit_comm_destroy(comm);
    tacit_loop_release(loop);
    return has;
}

START_TEST(asking)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    unsetenv("TACIT_PROGRESS");
    ck_assert_int_eq(has_thread(NULL, 1), 0);
    ck_assert_int_eq(has_thread(&config, 1), 0);
    config.progress = TACIT_PROGRESS_THREAD;
    ck_assert_int_eq(has_thread(&config, 1), 1);
    ck_assert_int_eq(has_thread(&config, 0), 0);
    ck_assert_int_eq(has_thread(&config, -1), 0);
    config.struct_bytes = offsetof(tacit_config_t, progress); /* from before there was one: what lies behind is not read */
    ck_assert_int_eq(has_thread(&config, 1), 0);
    setenv("TACIT_PROGRESS", "thread", 1);
    ck_assert_int_eq(has_thread(NULL, 1), 1);
    ck_assert_int_eq(has_thread(&config, 1), 1);
    config = (tacit_config_t)TACIT_CONFIG_INIT;
    config.progress = TACIT_PROGRESS_CALLS;
    ck_assert_int_eq(has_thread(&config, 1), 0);
    unsetenv("TACIT_PROGRESS");
    ck_assert_int_eq(tacit_comm_has_thread(NULL), 0);
    tacit_comm_end_thread(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("progress");
    TCase *tests = tcase_create("progress");

    tcase_add_test(tests, asking);
    tcase_add_test(tests, alone);
    tcase_add_loop_test(tests, as_without, THREAD, WAYS);
    tcase_add_loop_test(tests, faults, 0, 2 * (int)COUNT_OF(accidents));
    tcase_add_test(tests, abandoned);
    tcase_add_test(tests, sleeps);
    tcase_add_test(tests, rounding);
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 120);
    return harness_main(suite);
}
