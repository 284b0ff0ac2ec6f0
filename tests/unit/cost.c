/* SPDX-License-Identifier: Apache-2.0 */
/* The choice between the ring and a native call: over a transport whose native call takes as long as the test says, on hosts that
   the test names. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum { MOST = 4, LARGE = 1 << 18, SMALL = 4000 /* elements: 1 MiB, and less than pays */ };

typedef struct world {
    int               ranks;
    const char       *hosts[MOST];
    double            seconds[MOST]; /* that a rank spends in a native call of 1 MiB */
    tacit_status_t    native;        /* what it returns */
    const char       *plan;          /* "none by SCHEDULE", or NULL */
    uint64_t          fail;          /* allocation that fails while the slot is made; 0: none */
    pthread_barrier_t barrier, native_barrier;
    tacit_status_t    status[MOST]; /* of making the large slot */
    char              text[MOST][TACIT_TEXT_BYTES];
    char              schedule[MOST][3][16]; /* of a large slot, another one, and a small one */
    int               calls[MOST];           /* native ones */
    bool              right[MOST];
} world_t;

typedef struct endpoint {
    world_t          *world;
    tacit_transport_t loop;
    pthread_t         thread;
    tacit_loop_t     *hub;
} endpoint_t;

/* ---- A transport with a native call ---- */

static tacit_status_t wire_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    const endpoint_t *end = context;

    return end->loop.send(end->loop.context, peer, data, bytes, ticket);
}

static tacit_status_t wire_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    const endpoint_t *end = context;

    return end->loop.receive(end->loop.context, peer, data, capacity, ticket);
}

static tacit_status_t wire_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    const endpoint_t *end = context;

    return end->loop.test(end->loop.context, ticket, bytes_out);
}

static tacit_status_t wire_cancel(void *context, tacit_ticket_t *ticket)
{
    const endpoint_t *end = context;

    return end->loop.cancel(end->loop.context, ticket);
}

/* Its result does not matter here, but that all have come does. */
static tacit_status_t wire_allreduce_wait(void *context, const void *in, void *out, size_t count, tacit_dtype_t dtype)
{
    const endpoint_t *end = context;
    world_t          *world = end->world;
    const int         rank = end->loop.rank;
    const double      pause = count == LARGE ? world->seconds[rank] : 0;
    struct timespec   time = {(time_t)pause, (long)(1e9 * (pause - (double)(time_t)pause))};

    (void)in;
    (void)out;
    (void)dtype;
    world->calls[rank]++;
    pthread_barrier_wait(&world->native_barrier);
    nanosleep(&time, NULL);
    return world->native != TACIT_OK ? tacit_transport_fail(world->native, "the native call fails") : TACIT_OK;
}

static tacit_status_t wire_allreduce(void *context, const void *in, void *out, size_t count, tacit_dtype_t dtype,
                                     tacit_ticket_t *ticket)
{
    *ticket = (tacit_ticket_t){{NULL, NULL}};
    return wire_allreduce_wait(context, in, out, count, dtype);
}

static void wire_destroy(void *context)
{
    endpoint_t *end = context;

    end->loop.destroy(end->loop.context);
}

/* ---- Ranks ---- */

static tacit_status_t make_slot(tacit_comm_t *comm, const char *name, size_t count, tacit_slot_t **slot_out)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;

    config.count = count;
    config.spec = "none";
    return tacit_slot_create(comm, name, &config, slot_out);
}

/* The sum of ones, where the slot does not go natively. */
static bool sums_up(tacit_slot_t *slot, size_t count, int ranks)
{
    float *x = malloc(count * sizeof *x);
    bool   right = true;

    for (size_t i = 0; i < count; i++) {
        x[i] = 1;
    }
    if (slot->schedule->framed) {
        MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
        for (size_t i = 0; i < count; i++) {
            right = right && x[i] == (float)ranks;
        }
    }
    free(x);
    return right;
}

static void *live(void *arg)
{
    endpoint_t              *end = arg;
    world_t                 *world = end->world;
    const int                rank = end->loop.rank;
    static const char *const names[] = {"large", "also large", "small"};
    static const size_t      counts[] = {LARGE, LARGE, SMALL};
    const tacit_transport_t  transport = {.struct_bytes = sizeof transport,
                                          .name = "measured",
                                          .context = end,
                                          .rank = rank,
                                          .ranks = world->ranks,
                                          .send = wire_send,
                                          .receive = wire_receive,
                                          .test = wire_test,
                                          .cancel = wire_cancel,
                                          .allreduce = wire_allreduce,
                                          .allreduce_wait = wire_allreduce_wait,
                                          .destroy = wire_destroy,
                                          .host = world->hosts[rank]};
    tacit_comm_t            *comm;
    tacit_slot_t            *slot;

    MUST(tacit_comm_create(&transport, NULL, &comm));
    pthread_barrier_wait(&world->barrier);
    if (rank == 0) {
        tacit__alloc_fail_after(world->fail);
    }
    pthread_barrier_wait(&world->barrier);
    world->status[rank] = make_slot(comm, names[0], counts[0], &slot);
    snprintf(world->text[rank], sizeof world->text[rank], "%s", world->status[rank] != TACIT_OK ? tacit_last_error() : "");
    pthread_barrier_wait(&world->barrier);
    if (rank == 0) {
        tacit__alloc_fail_after(0);
    }
    pthread_barrier_wait(&world->barrier);
    if (world->status[rank] == TACIT_ERR_MEMORY) {
        MUST(make_slot(comm, names[0], counts[0], &slot));
    }
    world->right[rank] = true;
    for (int i = 0; i < 3 && !comm->broken; i++) {
        if (i > 0) {
            MUST(make_slot(comm, names[i], counts[i], &slot));
        }
        snprintf(world->schedule[rank][i], sizeof world->schedule[rank][i], "%s", tacit_slot_schedule(slot));
        world->right[rank] = world->right[rank] && sums_up(slot, counts[i], world->ranks);
    }
    tacit_comm_destroy(comm);
    return NULL;
}

static void run(world_t *world)
{
    endpoint_t    ends[MOST];
    tacit_loop_t *loop;

    ask_for(world->plan);
    MUST(tacit_loop_create(world->ranks, &loop));
    pthread_barrier_init(&world->barrier, NULL, (unsigned)world->ranks);
    pthread_barrier_init(&world->native_barrier, NULL, (unsigned)world->ranks);
    for (int rank = 0; rank < world->ranks; rank++) {
        ends[rank] = (endpoint_t){.world = world};
        MUST(tacit_loop_transport(loop, rank, &ends[rank].loop));
        ck_assert_int_eq(pthread_create(&ends[rank].thread, NULL, live, &ends[rank]), 0);
    }
    for (int rank = 0; rank < world->ranks; rank++) {
        pthread_join(ends[rank].thread, NULL);
    }
    pthread_barrier_destroy(&world->barrier);
    pthread_barrier_destroy(&world->native_barrier);
    tacit_loop_release(loop);
}

/* Every rank made both large slots with one schedule, the small one with another, and got the right sums. */
static void goes_by(const world_t *world, const char *large, const char *small)
{
    for (int rank = 0; rank < world->ranks; rank++) {
        ck_assert_msg(world->status[rank] == TACIT_OK, "rank %d: %s", rank, world->text[rank]);
        ck_assert_str_eq(world->schedule[rank][0], large);
        ck_assert_str_eq(world->schedule[rank][1], large);
        ck_assert_str_eq(world->schedule[rank][2], small);
        ck_assert(world->right[rank]);
    }
}

START_TEST(slow_native)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "b"}, .seconds = {0.5, 0.5, 0.5}};

    run(&world);
    goes_by(&world, "ring", "native");
    ck_assert_int_eq(world.calls[0], 2); /* each size once: nobody waits for more */
}
END_TEST

/* The slowest rank decides, for all. */
START_TEST(one_slow_rank)
{
    world_t world = {.ranks = 4, .hosts = {"a", "b", "c", "d"}, .seconds = {0, 0, 0.5, 0}};

    run(&world);
    goes_by(&world, "ring", "native");
}
END_TEST

START_TEST(fast_native)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", NULL}};

    run(&world);
    goes_by(&world, "native", "native");
    ck_assert_int_ge(world.calls[0], 2);
}
END_TEST

/* Nothing is measured where it cannot matter. */
START_TEST(nothing_to_find_out)
{
    world_t worlds[] = {{.ranks = 3, .hosts = {"a", "a", "a"}},
                        {.ranks = 2, .hosts = {"a", "b"}},
                        {.ranks = 3, .hosts = {"a", "b", "c"}, .plan = "none by native"}};

    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) {
        for (int rank = 0; rank < worlds[i].ranks; rank++) {
            worlds[i].seconds[rank] = 0.5;
        }
        run(&worlds[i]);
        goes_by(&worlds[i], "native", "native");
        ck_assert_int_eq(worlds[i].calls[0], 0);
    }
}
END_TEST

/* Ranks whose hosts have no name may be anywhere. */
START_TEST(unknown_hosts)
{
    world_t world = {.ranks = 3, .seconds = {0.5, 0.5, 0.5}};

    run(&world);
    goes_by(&world, "ring", "native");
}
END_TEST

START_TEST(asked_for)
{
    world_t world = {.ranks = 3, .hosts = {"a", "a", "a"}, .plan = "none by ring"};

    run(&world);
    goes_by(&world, "ring", "ring");
}
END_TEST

/* Whichever allocation fails on whichever rank: all ranks say so, and the next try finds out what this one could not. */
START_TEST(no_memory)
{
    int failed = 0;

    for (uint64_t nth = 1;; nth++) {
        world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .fail = nth};

        ck_assert_uint_lt(nth, 400);
        run(&world);
        for (int rank = 1; rank < world.ranks; rank++) {
            ck_assert_msg(world.status[rank] == world.status[0] && strcmp(world.text[rank], world.text[0]) == 0,
                          "allocation %d: rank 0 returned %d '%s', rank %d %d '%s'", (int)nth, world.status[0], world.text[0],
                          rank, world.status[rank], world.text[rank]);
        }
        if (world.status[0] == TACIT_OK) {
            break;
        }
        ck_assert_msg(world.status[0] == TACIT_ERR_MEMORY, "allocation %d: %d '%s'", (int)nth, world.status[0], world.text[0]);
        failed++;
    }
    ck_assert_int_gt(failed, 20);
}
END_TEST

/* After an error of the transport nothing works. */
START_TEST(native_error)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .native = TACIT_ERR_TRANSPORT};

    run(&world);
    for (int rank = 0; rank < world.ranks; rank++) {
        ck_assert_int_eq(world.status[rank], TACIT_ERR_TRANSPORT);
        ck_assert_int_eq(world.calls[rank], 1);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cost");
    TCase *tests = tcase_create("cost");

    tcase_add_test(tests, slow_native);
    tcase_add_test(tests, one_slow_rank);
    tcase_add_test(tests, fast_native);
    tcase_add_test(tests, nothing_to_find_out);
    tcase_add_test(tests, unknown_hosts);
    tcase_add_test(tests, asked_for);
    tcase_add_test(tests, no_memory);
    tcase_add_test(tests, native_error);
    tcase_set_timeout(tests, 120);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
