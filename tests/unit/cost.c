/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of schedules by measurement, over a transport whose native call takes as long as the test says, on hosts that the
   test names; what is predicted from what was measured; and the files that keep it. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum { MOST = 4, LARGE = 1 << 18, SMALL = 4000 /* elements: 1 MiB, and less than pays */ };

typedef struct world {
    int               ranks;
    const char       *hosts[MOST];
    double            seconds[MOST]; /* that a rank spends in a native call of 1 MiB */
    bool              slow_wire;     /* every message of ours takes a moment */
    bool              slow_bytes;    /* … as long as its bytes */
    tacit_status_t    native;        /* what it returns */
    const char       *plan;          /* "none by SCHEDULE", or NULL */
    const char       *spec;          /* of the slots; NULL: "none" */
    uint64_t          fail;          /* allocation that fails while the slot is made; 0: none */
    pthread_barrier_t barrier, native_barrier;
    tacit_status_t    status[MOST]; /* of making the large slot */
    char              text[MOST][TACIT_TEXT_BYTES];
    char              schedule[MOST][3][16];             /* of a large slot, another one, and a small one … */
    char              inside[MOST][3][TACIT_SPEC_BYTES]; /* … and the spec in force */
    int               calls[MOST];                       /* native ones of 1 MiB */
    int               any_calls[MOST];                   /* native ones */
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
    const endpoint_t     *end = context;
    const struct timespec moment = {0, end->world->slow_wire ? 300000 : end->world->slow_bytes ? 60 * (long)bytes : 0};

    nanosleep(&moment, NULL);
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
    const double      pause = world->seconds[rank] * (double)count / LARGE;
    struct timespec   time = {(time_t)pause, (long)(1e9 * (pause - (double)(time_t)pause))};

    (void)in;
    (void)out;
    (void)dtype;
    world->calls[rank] += count == LARGE;
    world->any_calls[rank]++;
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

static tacit_status_t make_slot(tacit_comm_t *comm, const world_t *world, const char *name, size_t count, tacit_slot_t **slot_out)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;

    config.count = count;
    config.spec = world->spec != NULL ? world->spec : "none";
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
            right = right && (fabsf(x[i] - (float)ranks) < (slot->codec->feedback != NULL ? 1.0f : 1e-30f));
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
    world->status[rank] = make_slot(comm, world, names[0], counts[0], &slot);
    snprintf(world->text[rank], sizeof world->text[rank], "%s", world->status[rank] != TACIT_OK ? tacit_last_error() : "");
    pthread_barrier_wait(&world->barrier);
    if (rank == 0) {
        tacit__alloc_fail_after(0);
    }
    pthread_barrier_wait(&world->barrier);
    if (world->status[rank] == TACIT_ERR_MEMORY) {
        MUST(make_slot(comm, world, names[0], counts[0], &slot));
    }
    world->right[rank] = true;
    for (int i = 0; i < 3 && !comm->broken; i++) {
        if (i > 0) {
            MUST(make_slot(comm, world, names[i], counts[i], &slot));
        }
        snprintf(world->inside[rank][i], sizeof world->inside[rank][i], "%s", slot->codec->spec.text);
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

/* Every rank made both large slots with one schedule, the small one with another, and got the right sums. "framed": whichever was
   faster. */
static void goes_by(const world_t *world, const char *large, const char *small)
{
    for (int rank = 0; rank < world->ranks; rank++) {
        ck_assert_msg(world->status[rank] == TACIT_OK, "rank %d: %s", rank, world->text[rank]);
        if (strcmp(large, "framed") == 0) {
            ck_assert_str_ne(world->schedule[rank][0], "native");
            ck_assert_str_eq(world->schedule[rank][0], world->schedule[0][0]);
        } else {
            ck_assert_str_eq(world->schedule[rank][0], large);
        }
        ck_assert_str_eq(world->schedule[rank][1], world->schedule[rank][0]);
        ck_assert_str_eq(world->schedule[rank][2], small);
        ck_assert(world->right[rank]);
    }
}

START_TEST(slow_native)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "b"}, .seconds = {5, 5, 5}};

    run(&world);
    goes_by(&world, "framed", "native");
    ck_assert_int_eq(world.calls[0], 0); /* nobody waits for what follows from less */
}
END_TEST

/* The slowest rank decides, for all. */
START_TEST(one_slow_rank)
{
    world_t world = {.ranks = 4, .hosts = {"a", "b", "c", "d"}, .seconds = {0, 0, 5, 0}};

    run(&world);
    goes_by(&world, "framed", "native");
}
END_TEST

START_TEST(fast_native)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", NULL}, .slow_wire = true};

    run(&world);
    goes_by(&world, "native", "native");
    ck_assert_int_ge(world.calls[0], 2);
}
END_TEST

/* Nothing is measured where it cannot matter. */
START_TEST(nothing_to_find_out)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .seconds = {0.5, 0.5, 0.5}, .plan = "none by native"};

    run(&world);
    goes_by(&world, "native", "native");
    ck_assert_int_eq(world.any_calls[0], 0);
}
END_TEST

/* Where ranks are is no matter for large tensors: links between two hosts may be full in one direction only, and memory too. */
START_TEST(any_hosts)
{
    world_t worlds[] = {{.ranks = 3, .hosts = {"a", "a", "a"}}, {.ranks = 2, .hosts = {"a", "b"}}, {.ranks = 3}};

    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) {
        for (int rank = 0; rank < worlds[i].ranks; rank++) {
            worlds[i].seconds[rank] = 5;
        }
        run(&worlds[i]);
        goes_by(&worlds[i], "framed", "native");
    }
}
END_TEST

/* ---- Compressors ---- */

static void goes_as(const world_t *world, const char *large)
{
    for (int rank = 0; rank < world->ranks; rank++) {
        ck_assert_msg(strncmp(world->inside[rank][0], large, strlen(large)) == 0, "%s", world->inside[rank][0]);
        ck_assert_str_eq(world->inside[rank][1], world->inside[rank][0]);
        ck_assert_str_eq(world->inside[rank][2], "none");
    }
}

/* Compressed where bytes are what counts; and only there, though it is allowed. Encoding is timed: where the machine does much
   else for a moment, it is tried again. */
START_TEST(compressor)
{
    static const world_t slow = {
        .ranks = 3, .hosts = {"a", "b", "c"}, .seconds = {5, 5, 5}, .spec = "auto:error=0.05+ef", .slow_bytes = true};
    static world_t fast = {.ranks = 3, .hosts = {"a", "b", "c"}, .spec = "auto:error=0.4+ef", .slow_wire = true};
    static world_t world;
    int            tries = 0;

    do {
        world = slow;
        run(&world);
    } while (strcmp(world.inside[0][0], "none") == 0 && ++tries < 3);
    goes_by(&world, "framed", "native");
    goes_as(&world, "qsgd:bits=8+ef");
    run(&fast);
    goes_by(&fast, "native", "native");
    goes_as(&fast, "none");
}
END_TEST

/* With the slot's own size, and no other. */
START_TEST(exactly)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .seconds = {0.5, 0.5, 0.5}, .plan = "none by measured"};

    run(&world);
    goes_by(&world, "framed", "native");
    ck_assert_int_eq(world.calls[0], 1); /* the second slot is like the first */
    ck_assert_int_eq(world.any_calls[0], 1);
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
static void without_memory(const char *spec, uint64_t hurry)
{
    int failed = 0;

    for (uint64_t nth = 1;; nth += 1 + nth / hurry) {
        world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .plan = "none by measured", .spec = spec, .fail = nth};

        ck_assert_uint_lt(nth, 1000);
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

START_TEST(no_memory)
{
    without_memory("none", 32);
    without_memory("auto:error=0.01+ef", 4);
}
END_TEST

/* After an error of the transport nothing works. */
START_TEST(native_error)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .native = TACIT_ERR_TRANSPORT};

    run(&world);
    for (int rank = 0; rank < world.ranks; rank++) {
        ck_assert_int_eq(world.status[rank], TACIT_ERR_TRANSPORT);
        ck_assert_int_eq(world.any_calls[rank], 1);
    }
}
END_TEST

/* ---- Files ---- */

/* Visits the files in a folder: writes over a byte of each, or removes them, and the folder. Returns how many there are. */
static int visit(const char *folder, bool damage, bool end)
{
    DIR           *files = opendir(folder);
    struct dirent *entry;
    int            count = 0;

    ck_assert_ptr_nonnull(files);
    while ((entry = readdir(files)) != NULL) {
        char  path[2 * HARNESS_PATH_BYTES + 256];
        FILE *file;

        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        count++;
        if (damage) {
            file = fopen(path, "r+b");
            ck_assert_ptr_nonnull(file);
            ck_assert_int_eq(fseek(file, -4, SEEK_END), 0);
            fputc(0x55, file);
            fclose(file);
        }
        if (end) {
            ck_assert_int_eq(unlink(path), 0);
        }
    }
    closedir(files);
    ck_assert(!end || rmdir(folder) == 0);
    return count;
}

/* What was measured is believed by the next communicator of the same ranks on the same hosts, and by no other; a file that is
   damaged is passed over, and replaced. */
START_TEST(kept)
{
    static const char *const hosts[][3] = {{"a", "b", "c"}, {"a", "b", "d"}};
    static const struct {
        int  hosts;
        bool slow, damage, measured;
    } runs[] = {{0, true, false, true},
                {0, false, false, false},
                {1, false, false, true},
                {0, false, true, true},
                {0, true, false, false}};
    static const char *const expected[] = {"framed", "framed", "native", "native", "native"};
    char                     folder[HARNESS_PATH_BYTES];

    setenv("TACIT_CACHE", harness_path(folder, "cache"), 1);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        world_t world = {.ranks = 3, .slow_wire = !runs[i].slow};

        memcpy(world.hosts, hosts[runs[i].hosts], sizeof hosts[0]);
        for (int rank = 0; rank < world.ranks; rank++) {
            world.seconds[rank] = runs[i].slow ? 5 : 0;
        }
        if (runs[i].damage) {
            ck_assert_int_eq(visit(folder, true, false), 2);
        }
        run(&world);
        goes_by(&world, expected[i], "native");
        ck_assert_msg((world.any_calls[0] != 0) == runs[i].measured, "run %zu: %d native calls", i, world.any_calls[0]);
    }
    ck_assert_int_eq(visit(folder, false, true), 2);
    setenv("TACIT_CACHE", "off", 1);
}
END_TEST

/* Nowhere to keep it: no matter. */
START_TEST(not_kept)
{
    world_t world = {.ranks = 3, .hosts = {"a", "b", "c"}, .slow_wire = true};

    setenv("TACIT_CACHE", "/dev/null/cache", 1);
    run(&world);
    goes_by(&world, "native", "native");
    setenv("TACIT_CACHE", "off", 1);
}
END_TEST

/* ---- Predictions ---- */

START_TEST(predictions)
{
    static const tacit_times_t measured[TACIT_SIZES] = {{1, 1, 1}, {2, 2, 1}, {6, 6, 2}, {4, 4, 3}, {22, 22, 7}}; /* 4 is noise */
    static const struct {
        size_t known, bytes;
        float  usual, least;
    } cases[] = {{5, 1, 1, 1},          {5, 4 << 10, 2, 1},     {5, 10 << 10, 4, 1.5f}, {5, 64 << 10, 6, 3},
                 {5, 256 << 10, 22, 7}, {5, 511 << 10, 43, 13}, {1, 1 << 20, 1, 1},     {2, 16 << 10, 6, 1}};
    tacit_times_t before = {0, 0, 0};

    ck_assert(isnan(tacit__curve_at(measured, 0, 1024).usual));
    ck_assert(isnan(tacit__curve_at((tacit_times_t[TACIT_SIZES]){{0, 0, 0}}, 3, 1024).least));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const tacit_times_t times = tacit__curve_at(measured, cases[i].known, cases[i].bytes);

        ck_assert_float_eq(times.usual, cases[i].usual);
        ck_assert_float_eq(times.mean, cases[i].usual);
        ck_assert_float_eq(times.least, cases[i].least);
    }
    for (size_t bytes = 1; bytes < (size_t)1 << 33; bytes += bytes / 7 + 1) {
        const tacit_times_t times = tacit__curve_at(measured, 5, bytes);

        ck_assert_float_ge(times.usual, before.usual);
        ck_assert_float_ge(times.least, before.least);
        before = times;
    }
}
END_TEST

static tacit_codec_t *codec_of(size_t count, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;

    config.count = count;
    config.spec = spec;
    MUST(tacit_codec_create("x", &config, NULL, 0, 4, &codec));
    return codec;
}

static const char *choice(tacit_comm_t *comm, const char *spec, size_t bytes)
{
    tacit_codec_t *codec = codec_of(bytes / sizeof(float), spec);
    const char    *name = tacit__schedule_of(comm, codec)->name;

    tacit_codec_destroy(codec);
    return name;
}

static size_t way_of(const char *name)
{
    size_t way = 0;

    while (strcmp(tacit__schedule_at(way)->name, name) != 0) {
        way++;
    }
    return way;
}

/* The ring takes 1 ms and 1 a MiB, the native call a tenth of one and 2: from 0.9 MiB on the ring is faster, and clearly from
   1.14. */
START_TEST(crossover)
{
    char             key[] = "none, float32";
    tacit_curves_t   curves = {.key = key, .known = TACIT_SIZES, .whole = true};
    tacit_topology_t topology = {.ranks = 4, .hosts = 4, .rails = 1};
    tacit_comm_t     comm = {.ranks = 4,
                             .topology = &topology,
                             .flat = &topology,
                             .transport = {.allreduce = wire_allreduce, .allreduce_wait = wire_allreduce_wait},
                             .cost = {.curves = &curves}};
    tacit_codec_t   *codec;

    for (size_t size = 0; size < TACIT_SIZES; size++) {
        const float mib = (float)tacit__cost_bytes(size) / 0x1p20f;

        curves.times[way_of("ring")][size] = (tacit_times_t){1e-3f + 1e-3f * mib, 1e-3f + 1e-3f * mib, 1e-3f + 1e-3f * mib};
        curves.times[way_of("native")][size] = (tacit_times_t){1e-4f + 2e-3f * mib, 1e-4f + 2e-3f * mib, 1e-4f + 2e-3f * mib};
        curves.times[way_of("blockwise")][size] = (tacit_times_t){2e-3f + 1e-3f * mib, 2e-3f + 1e-3f * mib, 2e-3f + 1e-3f * mib};
    }
    ck_assert_str_eq(choice(&comm, "none", 1 << 10), "native");
    ck_assert_str_eq(choice(&comm, "none", 1 << 20), "native");
    ck_assert_str_eq(choice(&comm, "none", 9 << 17), "native");
    ck_assert_str_eq(choice(&comm, "none", 10 << 17), "ring");
    ck_assert_str_eq(choice(&comm, "none", (size_t)1 << 30), "ring");
    for (size_t size = 0; size < TACIT_SIZES; size++) {
        curves.times[way_of("native")][size].least /= 4; /* it only was disturbed */
    }
    ck_assert_str_eq(choice(&comm, "none", (size_t)1 << 30), "native");
    comm.environment.plan = "blockwise";
    ck_assert_str_eq(choice(&comm, "none", 1 << 10), "blockwise");
    comm.environment.plan = NULL;

    codec = codec_of(3 << 19, "none");
    ck_assert_double_eq_tol(tacit__cost_seconds(&comm, codec, tacit__schedule_named("ring")), 7e-3, 1e-6);
    ck_assert(isnan(tacit__cost_seconds(&comm, codec, tacit__schedule_named("sparse"))));
    tacit_codec_destroy(codec);

    /* Nothing is known of others. */
    ck_assert_str_eq(choice(&comm, "onebit+ef", 1 << 24), "blockwise");
    ck_assert_str_eq(choice(&comm, "topk:ratio=0.001+ef", 1 << 24), "sparse");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cost");
    TCase *tests = tcase_create("cost");

    setenv("TACIT_CACHE", "off", 1);

    tcase_add_test(tests, slow_native);
    tcase_add_test(tests, one_slow_rank);
    tcase_add_test(tests, fast_native);
    tcase_add_test(tests, nothing_to_find_out);
    tcase_add_test(tests, any_hosts);
    tcase_add_test(tests, compressor);
    tcase_add_test(tests, exactly);
    tcase_add_test(tests, asked_for);
    tcase_add_test(tests, no_memory);
    tcase_add_test(tests, native_error);
    tcase_add_test(tests, kept);
    tcase_add_test(tests, not_kept);
    tcase_add_test(tests, predictions);
    tcase_add_test(tests, crossover);
    tcase_set_timeout(tests, 120);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
