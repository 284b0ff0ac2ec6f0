/* SPDX-License-Identifier: Apache-2.0 */
/* Channels: who has which, what goes through them, and what happens where there can be none; sums of hosts through them, after
   errors too. */
#include <pthread.h>
#include <sched.h>

#include "session.h"

enum { RANKS = 6, PIECES = 100, PAYLOAD = 4096 }; /* four chunks of the smallest size */

/* What each rank saw. */
typedef struct seen {
    bool   out, in, nameless;
    size_t room, full, wrong; /* for so many pieces at first; so many fitted in; numbers and bytes that are others */
} seen_t;

static void run(const char *hosts, int ranks, rank_body_t *body, seen_t *seen)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = PAYLOAD / 4;
    ck_assert_int_eq(setenv("TACIT_TOPOLOGY", hosts, 1), 0);
    run_ranks(ranks, &config, body, seen);
    ck_assert_int_eq(unsetenv("TACIT_TOPOLOGY"), 0);
}

/* Whether this process has shared memory of ours that could be found by a name. */
static bool is_nameless(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char  line[512];
    bool  nameless = true;

    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        nameless = nameless && (strstr(line, "/dev/shm/tacit-") == NULL || strstr(line, "(deleted)") != NULL);
    }
    if (maps != NULL) {
        fclose(maps);
    }
    return nameless;
}

static void look(tacit_comm_t *comm, void *arg)
{
    seen_t *seen = &((seen_t *)arg)[tacit_comm_rank(comm)];

    seen->out = comm->channels.out != NULL;
    seen->in = comm->channels.in != NULL;
    MUST(tacit_allreduce(slot_of(comm, "slot", 0, TACIT_FLOAT32, "onebit"), NULL, NULL, TACIT_SUM)); /* all have come this far */
    seen->nameless = is_nameless();
}

/* Ranks that share a host have channels, or none of them where one can make none. */
START_TEST(who_has)
{
    static const struct {
        uint64_t refuse;
        bool     has[RANKS];
    } cases[] = {{0, {true, true, true, false, true, true}},
                 {1 << 1, {false, false, false, false, true, true}},
                 {1 << 5, {true, true, true, false, false, false}},
                 {UINT64_MAX, {false, false, false, false, false, false}}};
    seen_t seen[RANKS] = {0};

    tacit__channels_refuse(cases[_i].refuse);
    run("3,1,2", RANKS, look, seen);
    tacit__channels_refuse(0);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert(seen[rank].out == cases[_i].has[rank] && seen[rank].in == cases[_i].has[rank]);
        ck_assert(seen[rank].nameless);
    }
}
END_TEST

/* There is one host, or there are as many as ranks. */
START_TEST(one_level)
{
    seen_t seen[RANKS] = {0};

    run(_i == 0 ? "6" : "1", RANKS, look, seen);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert(!seen[rank].out && !seen[rank].in);
    }
}
END_TEST

static void put(tacit_channel_t *channel, uint32_t number)
{
    const tacit_frame_t frame = {.index = number, .payload_bytes = PAYLOAD};

    memset(tacit__channel_payload(channel), (int)(number % 251), PAYLOAD);
    tacit__channel_put(channel, &frame);
}

static bool take(tacit_channel_t *channel, uint32_t number, size_t *wrong)
{
    tacit_frame_t frame;

    if (!tacit__channel_next(channel, &frame)) {
        return false;
    }
    *wrong += frame.index != number || frame.payload_bytes != PAYLOAD;
    for (size_t i = 0; i < PAYLOAD; i++) {
        *wrong += frame.payload[i] != number % 251;
    }
    tacit__channel_drop(channel);
    return true;
}

static pthread_barrier_t all_full;

static void pass_around(tacit_comm_t *comm, void *arg)
{
    seen_t          *seen = &((seen_t *)arg)[tacit_comm_rank(comm)];
    tacit_channel_t *out = comm->channels.out, *in = comm->channels.in;
    uint32_t         sent = 0, taken = 0;

    if (out == NULL || in == NULL) {
        return;
    }
    seen->room = tacit__channel_room(out);
    while (tacit__channel_room(out) > 0) {
        put(out, sent++);
    }
    seen->full = sent;
    pthread_barrier_wait(&all_full);
    while (taken < PIECES || sent < PIECES) {
        if (taken < PIECES && take(in, taken, &seen->wrong)) {
            taken++;
        } else if (sent < PIECES && tacit__channel_room(out) > 0) {
            put(out, sent++);
        } else {
            sched_yield();
        }
    }
    while (tacit__channel_room(out) < seen->room) {
        sched_yield();
    }
}

/* What a rank puts in, the next one takes out, in order, and no more fits in than there is room. */
START_TEST(around)
{
    seen_t seen[RANKS] = {0};

    pthread_barrier_init(&all_full, NULL, RANKS - 1);
    run("3,1,2", RANKS, pass_around, seen);
    pthread_barrier_destroy(&all_full);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_uint_eq(seen[rank].full, seen[rank].room);
        ck_assert_uint_eq(seen[rank].wrong, 0);
        ck_assert(rank == 3 || seen[rank].room > 1);
    }
}
END_TEST

/* ---- Sums of hosts ---- */

/* Through memory that ranks share or in messages, also on some hosts only: the same bits. */
START_TEST(either_way)
{
    static const char *const specs[] = {"onebit:block=64+ef", "topk:ratio=0.1+ef", "powersgd:rank=2+ef", "bf16"};
    static const uint64_t    refused[] = {UINT64_MAX, 1 << 2};
    session_t shared = {.spec = specs[_i], .ranks = 8, .steps = 3, .count = 30000, .op = TACIT_AVERAGE, .in_place = _i % 2 == 0};

    shared.config = (tacit_config_t)TACIT_CONFIG_INIT;
    shared.config.chunk_bytes = 1024;
    ck_assert_int_eq(setenv("TACIT_TOPOLOGY", "3,3,2", 1), 0);
    session_run(&shared);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        session_t sent = {.spec = shared.spec, .ranks = 8, .steps = 3, .count = 30000, .op = TACIT_AVERAGE, .lazy = i == 0};

        sent.config = shared.config;
        tacit__channels_refuse(refused[i]);
        session_run(&sent);
        tacit__channels_refuse(0);
        sessions_equal(&shared, &sent, "either way");
        session_free(&sent);
    }
    session_free(&shared);
    ck_assert_int_eq(unsetenv("TACIT_TOPOLOGY"), 0);
}
END_TEST

/* What an operation that has failed leaves on its way is no part of the next one. */
typedef struct again {
    const char *spec;
    bool        fails;
    uint64_t    hash[RANKS]; /* of the result at step 1 */
} again_t;

static void again_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 40000 };
    again_t      *again = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, again->spec);
    float        *x = session_floats(COUNT), *y = session_floats(COUNT);

    for (int step = 0; step < 3; step++) {
        session_normal(rank, step, COUNT, x);
        if (step == 1) {
            x[rank == 2 ? 9 : 0] = rank == 2 ? NAN : 0;
        }
        if (step != 1) {
            MUST(tacit_allreduce(slot, x, y, TACIT_AVERAGE));
        } else if (again->fails) {
            ck_assert_int_eq(tacit_allreduce(slot, x, y, TACIT_AVERAGE), TACIT_ERR_VALUE);
        }
    }
    again->hash[rank] = harness_hash(y, COUNT * sizeof *y);
    free(x);
    free(y);
}

START_TEST(nothing_is_left)
{
    again_t        good = {.spec = _i == 0 ? "onebit:block=64+ef" : "topk:ratio=0.1+ef"}, fails = good;
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = 1024;
    config.strict = 1; /* memory is as it was to the bit */
    fails.fails = true;
    ck_assert_int_eq(setenv("TACIT_TOPOLOGY", "3", 1), 0);
    run_ranks(RANKS, &config, again_body, &good);
    run_ranks(RANKS, &config, again_body, &fails);
    ck_assert_int_eq(unsetenv("TACIT_TOPOLOGY"), 0);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_uint_eq(fails.hash[rank], good.hash[rank]);
    }
}
END_TEST

/* Nobody waits for ever for a rank that does not come until the others have left. */
typedef struct late {
    pthread_barrier_t left;
    tacit_status_t    status[RANKS];
    bool              says[RANKS];
} late_t;

static void late_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 40000 };
    late_t       *late = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, "onebit:block=64+ef");
    float        *x = session_floats(COUNT);

    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    if (rank == 0) {
        pthread_barrier_wait(&late->left);
    }
    late->status[rank] = tacit_allreduce(slot, x, x, TACIT_SUM);
    late->says[rank] = strstr(tacit_last_error(), "slot 'slot' at step 1: nothing from rank 0") != NULL;
    if (rank != 0) {
        pthread_barrier_wait(&late->left);
    }
    free(x);
}

START_TEST(a_rank_is_late)
{
    late_t         late;
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = 1024;
    config.timeout_ms = 500;
    pthread_barrier_init(&late.left, NULL, RANKS);
    ck_assert_int_eq(setenv("TACIT_TOPOLOGY", "3", 1), 0);
    run_ranks(RANKS, &config, late_body, &late);
    ck_assert_int_eq(unsetenv("TACIT_TOPOLOGY"), 0);
    pthread_barrier_destroy(&late.left);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert(late.status[rank] == TACIT_ERR_TIMEOUT && late.says[rank]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("channel");
    TCase *tests = tcase_create("channel"), *sums = tcase_create("sums");

    tcase_add_loop_test(tests, who_has, 0, 4);
    tcase_add_loop_test(tests, one_level, 0, 2);
    tcase_add_test(tests, around);
    tcase_add_loop_test(sums, either_way, 0, 4);
    tcase_add_loop_test(sums, nothing_is_left, 0, 2);
    tcase_add_test(sums, a_rank_is_late);
    tcase_set_timeout(tests, 60);
    tcase_set_timeout(sums, 60);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, sums);
    return harness_main(suite);
}
