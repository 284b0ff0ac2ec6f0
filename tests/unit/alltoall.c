/* SPDX-License-Identifier: Apache-2.0 */
/* All-to-all over the loop transport, flat and on two levels: every element comes to its place, as its spec has it; and whatever
   goes wrong, all ranks say the same, and the next call is right. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "harness.h"
#include "internal.h"
#include "ranks.h"

enum {
    RANKS = 8,
    MOST = 3000,
    EVEN = 2700,
    FEW = 515,
    CHUNK_BYTES = 1024
}; /* EVEN: as many with every rank, in 11 messages of float32 */

/* Ranks, and how many of them each host has; NULL: it is not known. */
typedef struct hosts {
    int         ranks;
    const char *list, *plan;
} hosts_t;

static const hosts_t flat[] = {{1, NULL, NULL}, {2, NULL, NULL}, {3, NULL, NULL},
                               {4, NULL, NULL}, {8, NULL, NULL}, {4, "2", "alltoall"}};
static const hosts_t levels[] = {{3, "2,1", "two_level_alltoall"},   {3, "1,2", NULL},   {4, "2", "two_level_alltoall"},
                                 {5, "2,3", "two_level_alltoall"},   {5, "1,3,1", NULL}, {5, "4,1", "two_level_alltoall"},
                                 {8, "3,1,4", "two_level_alltoall"}, {8, "2", NULL},     {8, "4", "two_level_alltoall"}};
static const char   *specs[] = {NULL, "none", "fp16", "bf16", "fp8", "onebit:block=64", "qsgd:bits=4,rounding=nearest"};

enum { FLAT = sizeof flat / sizeof *flat, LEVELS = sizeof levels / sizeof *levels };
enum { SPECS = sizeof specs / sizeof *specs };

/* One call, and what came of it on every rank. */
typedef struct scene {
    const char       *spec;
    tacit_dtype_t     dtype;
    int               ranks, calls;
    bool              even, requests, lazily;
    float             poison;           /* if it is not zero, an element of rank 1's part for rank 0 */
    int               short_of, fails;  /* a rank that expects too little of rank 0; one whose in is NULL; -1: none */
    uint64_t          memory;           /* the allocation that fails, from the first call on; 0: none */
    tacit_status_t    status[RANKS][2]; /* of the first call, and of one more */
    char              text[RANKS][TACIT_TEXT_BYTES];
    void             *out[RANKS];
    tacit_counters_t  counters[RANKS];
    tacit_nonfinite_t nonfinite;
    const char       *hosts, *plan;
    size_t            chunk_bytes;
    bool              few; /* FEW in place of EVEN */
} scene_t;

static size_t element_of(tacit_dtype_t dtype)
{
    return dtype == TACIT_FLOAT32 ? 4 : 2;
}

/* Elements from one rank to another: none, few, or several messages. */
static size_t part_of(const scene_t *scene, int from, int to)
{
    static const size_t sizes[] = {300, 0, 1, MOST, 64, 777, 256};

    return scene->even ? (scene->few ? FEW : EVEN) : sizes[(from * 3 + to * 5) % 7];
}

static void fill(const scene_t *scene, int from, int to, int call, void *part)
{
    const size_t count = part_of(scene, from, to);
    float        values[MOST];

    harness_fill(values, count, (uint64_t)(from * 1000 + to * 10 + call), 1.0f);
    if (from == 1 && to == 0 && scene->poison != 0 && count != 0) {
        values[count / 2] = scene->poison;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;

        memcpy(&bits, values + i, 4);
        if (scene->dtype == TACIT_FLOAT32) {
            memcpy((float *)part + i, &bits, 4);
        } else { /* any halves that are finite, and not all of them numbers of float32 */
            ((uint16_t *)part)[i] = (uint16_t)(scene->dtype == TACIT_BFLOAT16 ? bits >> 16 : 0x3000u + bits % 0x1000u);
        }
    }
}

static void *zeros(size_t bytes)
{
    void *memory = calloc(1, bytes + 1);

    if (memory == NULL) {
        abort();
    }
    return memory;
}

static tacit_status_t call(const scene_t *scene, tacit_comm_t *comm, const void *in, const size_t *sends, void *out,
                           const size_t *receives)
{
    tacit_request_t *request = NULL;
    tacit_status_t   status;

    if (!scene->requests) {
        return scene->even ? tacit_alltoall(comm, scene->spec, scene->dtype, in, receives[0], out)
                           : tacit_alltoallv(comm, scene->spec, scene->dtype, in, sends, out, receives);
    }
    status = scene->even ? tacit_ialltoall(comm, scene->spec, scene->dtype, in, receives[0], out, &request)
                         : tacit_ialltoallv(comm, scene->spec, scene->dtype, in, sends, out, receives, &request);
    while (status == TACIT_OK && (status = tacit_test(&request)) == TACIT_PENDING) {
        status = TACIT_OK;
    }
    return status;
}

static void body(tacit_comm_t *comm, void *arg)
{
    scene_t     *scene = arg;
    const int    rank = tacit_comm_rank(comm);
    const size_t element = element_of(scene->dtype);
    size_t       sends[RANKS] = {0}, receives[RANKS], sent = 0, received = 0, short_of[RANKS];
    uint8_t     *in = zeros((size_t)RANKS * MOST * 4);

    for (int i = 0; i < scene->ranks; i++) {
        sends[i] = part_of(scene, rank, i);
        receives[i] = short_of[i] = part_of(scene, i, rank);
        received += receives[i];
    }
    scene->out[rank] = zeros(received * element);
    if (scene->short_of == rank && short_of[0] != 0) {
        short_of[0]--;
    }
    for (int n = 0; n < scene->calls; n++) {
        sent = 0;
        for (int to = 0; to < scene->ranks; to++) {
            fill(scene, rank, to, n, in + sent * element);
            sent += sends[to];
        }
        if (scene->memory != 0 && n == 0 && rank == 0) {
            tacit__alloc_fail_after(scene->memory);
        }
        scene->status[rank][n] =
            call(scene, comm, n == 0 && scene->fails == rank ? NULL : in, sends, scene->out[rank], n == 0 ? short_of : receives);
        if (n == 0) {
            snprintf(scene->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
            tacit__alloc_fail_after(0);
            scene->poison = 0;
        }
    }
    MUST(tacit_alltoall_counters(comm, &scene->counters[rank]));
    free(in);
}

static void play(scene_t *scene, tacit_loop_t *loop)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    name_hosts(scene->hosts);
    ck_assert_int_eq(scene->plan != NULL ? setenv("TACIT_PLAN", scene->plan, 1) : unsetenv("TACIT_PLAN"), 0);
    config.chunk_bytes = scene->chunk_bytes;
    config.nonfinite = (int)scene->nonfinite;
    config.timeout_ms = loop != NULL ? 300 : 0;
    if (loop != NULL) {
        run_ranks_over(loop, scene->ranks, &config, body, scene);
    } else {
        (scene->lazily ? run_ranks_lazily : run_ranks)(scene->ranks, &config, body, scene);
    }
    name_hosts(NULL);
}

static void strike(scene_t *scene)
{
    for (int rank = 0; rank < scene->ranks; rank++) {
        free(scene->out[rank]);
    }
}

/* A part as its receiver has it: what the codec, of which other tests are, makes of it. */
static void expect(const scene_t *scene, int from, int to, int n, void *part)
{
    const size_t        count = part_of(scene, from, to);
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    size_t              bytes;
    uint8_t            *frame;
    uint16_t            given[2 * MOST];

    fill(scene, from, to, n, given);
    if (from == to || scene->spec == NULL || strcmp(scene->spec, "none") == 0) {
        memcpy(part, given, count * element_of(scene->dtype));
        return;
    }
    tensor.count = count;
    tensor.dtype = scene->dtype;
    tensor.spec = scene->spec;
    MUST(tacit_codec_create("t", &tensor, NULL, 0, 2, &codec));
    frame = zeros(tacit_codec_capacity(codec, count));
    MUST(tacit_encode(codec, 0, given, 0, count, frame, tacit_codec_capacity(codec, count), &bytes));
    MUST(tacit_decode(codec, 0, frame, bytes, part, NULL, NULL));
    free(frame);
    tacit_codec_destroy(codec);
}

/* What the call before has left: its out. */
static void check_outputs(const scene_t *scene, int n)
{
    for (int to = 0; to < scene->ranks; to++) {
        size_t at = 0;

        for (int from = 0; from < scene->ranks; from++) {
            const size_t bytes = part_of(scene, from, to) * element_of(scene->dtype);
            uint16_t     part[2 * MOST];

            expect(scene, from, to, n, part);
            ck_assert_msg(memcmp(part, (uint8_t *)scene->out[to] + at, bytes) == 0, "%s: from %d to %d of %d",
                          scene->spec != NULL ? scene->spec : "NULL", from, to, scene->ranks);
            at += bytes;
        }
    }
}

static scene_t scene_of(const char *spec, int ranks)
{
    return (scene_t){.spec = spec, .ranks = ranks, .calls = 2, .short_of = -1, .fails = -1, .chunk_bytes = CHUNK_BYTES};
}

static scene_t scene_on(const char *spec, const hosts_t *hosts)
{
    scene_t scene = scene_of(spec, hosts->ranks);

    scene.hosts = hosts->list;
    scene.plan = hosts->plan;
    return scene;
}

/* That of a test which goes both ways. */
static scene_t scene_either(const char *spec, int ranks, const char *hosts, bool on_levels)
{
    return scene_on(spec, on_levels ? &(hosts_t){ranks, hosts, "two_level_alltoall"} : &(hosts_t){ranks, NULL, NULL});
}

/* Of a small chunk few parts are relayed, of a large one most. */
static void every_element(const hosts_t *hosts, size_t large)
{
    for (int s = 0; s < SPECS; s++) {
        for (int variant = 0; variant < 4; variant++) {
            scene_t scene = scene_on(specs[s], hosts);

            scene.chunk_bytes = (s + variant / 2) % 2 == 0 ? CHUNK_BYTES : large;
            scene.few = scene.chunk_bytes > CHUNK_BYTES;
            scene.even = variant % 2 != 0;
            scene.requests = variant / 2 != 0;
            scene.dtype = (tacit_dtype_t)((s + variant) % 3);
            play(&scene, NULL);
            for (int rank = 0; rank < scene.ranks; rank++) {
                ck_assert_msg(scene.status[rank][0] == TACIT_OK, "rank %d: %s", rank, scene.text[rank]);
                ck_assert_int_eq(scene.status[rank][1], TACIT_OK);
            }
            check_outputs(&scene, 1);
            strike(&scene);
        }
    }
}

START_TEST(every_element_comes_to_its_place)
{
    every_element(&flat[_i], CHUNK_BYTES);
}
END_TEST

START_TEST(every_element_comes_by_way_of_a_relay)
{
    every_element(&levels[_i], 65536);
}
END_TEST

/* Where they are read late: what is under way does not change. */
START_TEST(messages_stay_as_they_are)
{
    scene_t scene = scene_of("bf16", 3);

    scene.lazily = true;
    play(&scene, NULL);
    for (int rank = 0; rank < scene.ranks; rank++) {
        ck_assert_int_eq(scene.status[rank][1], TACIT_OK);
    }
    check_outputs(&scene, 1);
    strike(&scene);
}
END_TEST

/* Signs of the rotation are a function of the call and the element: what comes is close to what was sent, not the same. */
START_TEST(rotated_blocks_are_turned_back)
{
    scene_t scene = scene_of("rotq:bits=4", 3);
    double  error = 0, norm = 0;

    scene.even = true;
    play(&scene, NULL);
    for (int from = 0; from < 3; from++) {
        for (int to = 0; to < 3; to++) {
            float        given[MOST];
            const float *got = (float *)scene.out[to] + (size_t)from * EVEN;

            fill(&scene, from, to, 1, given);
            for (size_t i = 0; from != to && i < EVEN; i++) {
                error += pow((double)(got[i] - given[i]), 2);
                norm += pow((double)given[i], 2);
            }
            ck_assert(from != to || memcmp(given, got, EVEN * 4) == 0);
        }
    }
    ck_assert_double_lt(error / norm, 0.012);
    ck_assert_double_gt(error / norm, 0.005);
    strike(&scene);
}
END_TEST

/* The first call fails on all ranks alike with words that name who and what; the second is right. */
static void check_failure(scene_t *scene, tacit_status_t status, const char *words)
{
    play(scene, NULL);
    for (int rank = 0; rank < scene->ranks; rank++) {
        ck_assert_msg(scene->status[rank][0] == status, "rank %d: %s", rank, scene->text[rank]);
        ck_assert_msg(strstr(scene->text[rank], words) != NULL, "'%s' is not in '%s'", words, scene->text[rank]);
        ck_assert_str_eq(scene->text[rank], scene->text[0]);
        ck_assert_int_eq(scene->status[rank][1], TACIT_OK);
    }
    check_outputs(scene, 1);
    strike(scene);
}

START_TEST(counts_that_differ)
{
    scene_t scene = scene_either("bf16", 3, _i == 1 ? "2,1" : "1,2", _i != 0);

    scene.short_of = 1;
    scene.chunk_bytes = 8192;
    check_failure(&scene, TACIT_ERR_MISMATCH, "rank 0 sends rank 1 777 elements in all-to-all, where 776 are expected");
}
END_TEST

START_TEST(even_counts_that_differ)
{
    scene_t scene = scene_on("bf16", &(hosts_t){4, _i != 0 ? "2" : NULL, NULL});

    scene.even = scene.few = true;
    scene.short_of = 3;
    scene.chunk_bytes = 8192;
    check_failure(&scene, TACIT_ERR_MISMATCH, "slot 'all-to-all' (514 elements)");
}
END_TEST

START_TEST(arguments_of_one_rank)
{
    scene_t scene = scene_either(NULL, 4, "2", _i != 0);

    scene.fails = 2;
    check_failure(&scene, TACIT_ERR_ARGUMENT, "rank 2: tacit_alltoallv: in or out is NULL");
}
END_TEST

START_TEST(values_that_are_not_finite)
{
    scene_t  scene = scene_either("fp8", 3, "2,1", _i != 0), exact = scene_of("none", 2), skip = scene_of("bf16", 2);
    uint32_t bits;

    scene.poison = NAN;
    scene.even = exact.even = skip.even = true;
    check_failure(&scene, TACIT_ERR_VALUE, "rank 1: all-to-all: what goes to rank 0 holds NaN");

    exact.calls = skip.calls = 1;
    exact.poison = skip.poison = -NAN;
    play(&exact, NULL);
    ck_assert_int_eq(exact.status[0][0], TACIT_OK);
    memcpy(&bits, (float *)exact.out[0] + EVEN + EVEN / 2, 4);
    ck_assert_uint_gt(bits, 0xff800000u);
    strike(&exact);

    skip.nonfinite = TACIT_NONFINITE_SKIP;
    play(&skip, NULL);
    ck_assert_int_eq(skip.status[0][0], TACIT_OK);
    ck_assert(((float *)skip.out[0])[EVEN + EVEN / 2] == 0);
    strike(&skip);
}
END_TEST

START_TEST(specs_that_cannot_be)
{
    static const char *const wrong[][2] = {
        {"topk:ratio=0.1", "does not encode rows one by one"},
        {"randk:ratio=0.1", "does not encode rows one by one"},
        {"powersgd:rank=2", "does not encode rows one by one"},
        {"auto", "does not encode rows one by one"},
        {"onebit+ef", "nothing is remembered"},
        {"onebit:block=0", "give it a block of elements"},
        {"fp8:block=4096", "use smaller blocks"},
        {"fp9", "fp8"},
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        scene_t scene = scene_of(wrong[i][0], 3);

        play(&scene, NULL);
        for (int rank = 0; rank < 3; rank++) {
            ck_assert_int_lt(scene.status[rank][0], TACIT_OK);
            ck_assert_int_eq(scene.status[rank][0], scene.status[0][0]);
            ck_assert_msg(strstr(scene.text[rank], wrong[i][1]) != NULL, "%s: %s", wrong[i][0], scene.text[rank]);
            ck_assert_msg(strncmp(scene.text[rank], "rank 0: ", 8) == 0, "whose is it? %s", scene.text[rank]);
        }
        strike(&scene);
    }
}
END_TEST

/* Wherever memory runs out on one rank, all return it, and the next call is right. */
START_TEST(memory_that_is_missing)
{
    bool ended = false;

    for (uint64_t nth = 1; !ended; nth++) {
        scene_t scene = scene_either("fp8", 3, "2,1", _i != 0);

        ck_assert_uint_lt(nth, 100);
        scene.memory = nth;
        play(&scene, NULL);
        ended = scene.status[0][0] == TACIT_OK;
        ck_assert_msg(ended || scene.status[0][0] == TACIT_ERR_MEMORY, "%s", scene.text[0]);
        for (int rank = 0; rank < 3; rank++) {
            ck_assert_int_eq(scene.status[rank][0], scene.status[0][0]);
            ck_assert_int_eq(scene.status[rank][1], TACIT_OK);
        }
        check_outputs(&scene, 1);
        strike(&scene);
    }
}
END_TEST

/* One message at a time is damaged or lost: all ranks end alike; what is given is right. */
START_TEST(faults_of_the_wire)
{
    static const tacit_loop_fault_t faults[] = {TACIT_LOOP_FLIP, TACIT_LOOP_CUT, TACIT_LOOP_REPEAT, TACIT_LOOP_DROP};
    int                             failed = 0;

    for (size_t nth = 0; nth < 16; nth += 1 + nth / 4) {
        scene_t       scene = scene_either("bf16", 3, "2,1", _i >= 4);
        tacit_loop_t *loop;

        scene.even = true;
        MUST(tacit_loop_create(3, &loop));
        MUST(tacit_loop_inject(loop, faults[_i % 4], 0, 1, (_i < 4 ? 2 : 8) + nth, 33)); /* behind what makes a communicator */
        play(&scene, loop);
        for (int rank = 1; rank < 3; rank++) {
            ck_assert_int_eq(scene.status[rank][0], scene.status[0][0]);
            ck_assert_int_eq(scene.status[rank][1], scene.status[0][1]);
        }
        if (scene.status[0][1] == TACIT_OK) {
            check_outputs(&scene, 1);
        }
        failed += scene.status[0][0] != TACIT_OK || scene.status[0][1] != TACIT_OK;
        strike(&scene);
        tacit_loop_release(loop);
    }
    ck_assert(faults[_i % 4] == TACIT_LOOP_REPEAT ? failed == 0 : failed >= 2);
}
END_TEST

/* Headers of 64 bytes, the values, and twice two verdicts to each of the others. */
START_TEST(bytes_are_counted)
{
    scene_t scene = scene_of("bf16", 4);

    scene.even = true;
    scene.calls = 1;
    play(&scene, NULL);
    for (int rank = 0; rank < 4; rank++) {
        ck_assert_uint_eq(scene.counters[rank].calls, 1);
        ck_assert_uint_eq(scene.counters[rank].dense_bytes, 3 * EVEN * 4);
        ck_assert_uint_eq(scene.counters[rank].wire_bytes, 3 * (EVEN * 2 + 6 * 64 + 2 * 64));
    }
    strike(&scene);
}
END_TEST

/* Two hosts of two ranks: a header and two records to one rank of the other host, in place of two messages; and the same again in
   the host. Larger parts go as they do without hosts, without a message more. */
START_TEST(bytes_between_hosts_are_fewer)
{
    const bool large = _i != 0;
    scene_t    scene = scene_on("bf16", &(hosts_t){4, "2", NULL});

    scene.even = scene.few = true;
    scene.calls = 1;
    scene.chunk_bytes = large ? CHUNK_BYTES : 4096;
    play(&scene, NULL);
    for (int rank = 0; rank < 4; rank++) {
        const uint64_t relayed = 64 + 2 * (16 + 515 * 2), straight = 515 * 2 + 2 * 64, verdicts = 2 * 64;

        ck_assert_uint_eq(scene.counters[rank].network_bytes, 2 * verdicts + (large ? 2 * straight : relayed));
        ck_assert_uint_eq(scene.counters[rank].wire_bytes, 3 * verdicts + (large ? 3 * straight - 64 : 2 * relayed));
    }
    strike(&scene);
}
END_TEST

/* Several under way, with sums between them: they complete in order. */
static void mixed_body(tacit_comm_t *comm, void *arg)
{
    const int        rank = tacit_comm_rank(comm), ranks = tacit_comm_ranks(comm);
    tacit_slot_t    *slot = slot_of(comm, "w", 1000, TACIT_FLOAT32, "fp16");
    tacit_request_t *requests[3] = {NULL};
    float            ones[1000], sum[1000], in[2][RANKS], out[2][RANKS];
    int             *wrong = arg;

    for (int i = 0; i < 1000; i++) {
        ones[i] = 1;
    }
    for (int i = 0; i < ranks; i++) {
        in[0][i] = (float)(100 * rank + i);
        in[1][i] = -in[0][i];
    }
    MUST(tacit_ialltoall(comm, NULL, TACIT_FLOAT32, in[0], 1, out[0], &requests[0]));
    MUST(tacit_iallreduce(slot, ones, sum, TACIT_SUM, &requests[1]));
    MUST(tacit_ialltoall(comm, "none", TACIT_FLOAT32, in[1], 1, out[1], &requests[2]));
    MUST(tacit_wait(&requests[2]));
    MUST(tacit_wait(&requests[0]));
    MUST(tacit_wait(&requests[1]));
    for (int i = 0; i < ranks; i++) {
        const float expected = (float)(100 * i + rank);

        if (out[0][i] != expected || out[1][i] != -expected || sum[i] != (float)ranks) {
            __atomic_fetch_add(wrong, 1, __ATOMIC_RELAXED);
        }
    }
}

START_TEST(several_under_way)
{
    int wrong = 0;

    name_hosts(_i != 0 ? "2,3" : NULL);
    run_ranks(5, NULL, mixed_body, &wrong);
    name_hosts(NULL);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

/* Rank 1 makes another call than the others, or with another spec or type. */
typedef struct elsewhere {
    bool           reduces;
    const char    *spec;
    tacit_dtype_t  dtype;
    const char    *words;
    tacit_status_t status[2][3];
    char           text[TACIT_TEXT_BYTES];
} elsewhere_t;

static void elsewhere_body(tacit_comm_t *comm, void *arg)
{
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "w", 8, TACIT_FLOAT32, "fp16");
    elsewhere_t  *test = arg;
    float         in[RANKS] = {0}, out[RANKS];

    if (rank != 1) {
        test->status[0][rank] = tacit_alltoall(comm, "bf16", TACIT_FLOAT32, in, 1, out);
    } else if (test->reduces) {
        test->status[0][rank] = tacit_allreduce(slot, in, out, TACIT_SUM);
    } else {
        test->status[0][rank] = tacit_alltoall(comm, test->spec, test->dtype, in, 1, out);
    }
    if (rank == 0) {
        snprintf(test->text, sizeof test->text, "%s", tacit_last_error());
    }
    test->status[1][rank] = tacit_alltoall(comm, "bf16", TACIT_FLOAT32, in, 1, out);
}

/* All are told, and are then where they were. */
START_TEST(one_is_elsewhere)
{
    elsewhere_t tests[] = {
        {.reduces = true, .words = "'all-to-all'"},
        {.spec = "fp16", .dtype = TACIT_FLOAT32, .words = "another spec or dtype in all-to-all"},
        {.spec = "bf16", .dtype = TACIT_BFLOAT16, .words = "another spec or dtype in all-to-all"},
    };

    run_ranks(3, NULL, elsewhere_body, &tests[_i]);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(tests[_i].status[0][rank], TACIT_ERR_MISMATCH);
        ck_assert_int_eq(tests[_i].status[1][rank], TACIT_OK);
    }
    ck_assert_msg(strstr(tests[_i].text, tests[_i].words) != NULL, "%s", tests[_i].text);
}
END_TEST

static void refused_body(tacit_comm_t *comm, void *arg)
{
    static const size_t one[1] = {1}, two[1] = {2}, many[1] = {(size_t)UINT32_MAX + 1};
    float               x[8] = {0};
    int                *wrong = arg;
    const struct {
        tacit_dtype_t dtype;
        const size_t *sends, *receives;
        const void   *in;
        void         *out;
        const char   *words; /* NULL: nothing is wrong */
    } calls[] = {
        {TACIT_FLOAT32, two, two, x, x + 2, NULL},
        {TACIT_FLOAT32, two, two, x + 2, x, NULL},
        {TACIT_FLOAT32, two, two, x, x + 1, "in and out overlap"},
        {TACIT_FLOAT32, two, two, x + 1, x, "in and out overlap"},
        {TACIT_FLOAT16, two, two, x, x + 1, NULL},
        {TACIT_FLOAT32, one, two, x, x + 4, "it sends itself 1 elements, and receives 2 of them"},
        {TACIT_FLOAT32, two, NULL, x, x + 4, "receive_counts must be given"},
        {TACIT_FLOAT32, NULL, two, x, x + 4, "send_counts must be given"},
        {TACIT_FLOAT32, many, many, x, x + 4, "send_counts[0] is 4294967296; a part has fewer than 2^32 elements"},
        {TACIT_FLOAT32, two, two, x, NULL, "in or out is NULL"},
        {TACIT_FLOAT32, two, two, NULL, x, "in or out is NULL"},
        {(tacit_dtype_t)3, two, two, x, x + 4, "dtype 3 is unknown"},
        {(tacit_dtype_t)-1, two, two, x, x + 4, "dtype -1 is unknown"},
    };

    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        const tacit_status_t status =
            tacit_alltoallv(comm, "bf16", calls[i].dtype, calls[i].in, calls[i].sends, calls[i].out, calls[i].receives);

        *wrong += status != (calls[i].words != NULL ? TACIT_ERR_ARGUMENT : TACIT_OK) ||
                  (calls[i].words != NULL && strstr(tacit_last_error(), calls[i].words) == NULL);
    }
    *wrong += tacit_alltoall(comm, NULL, TACIT_FLOAT32, x, many[0], x + 4) != TACIT_ERR_ARGUMENT;
}

START_TEST(arguments_that_cannot_be)
{
    int wrong = 0;

    run_ranks(1, NULL, refused_body, &wrong);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

/* A network's own all-to-all, of one rank. */
static tacit_status_t own_call(void *context, const void *in, const size_t *send_counts, void *out, const size_t *receive_counts,
                               size_t element_bytes)
{
    (void)context;
    if (send_counts[0] != receive_counts[0]) {
        return TACIT_ERR_TRANSPORT;
    }
    memcpy(out, in, send_counts[0] * element_bytes);
    return TACIT_OK;
}

static void native_body(tacit_comm_t *comm, void *arg)
{
    static const char *const exact[] = {NULL, "none"};
    const size_t             counts[] = {5};
    const float              in[5] = {1, 2, 3, 4, 5};

    comm->transport.alltoallv_wait = own_call;
    for (size_t i = 0; i < 4; i++) {
        float          out[5] = {0};
        tacit_status_t status;

        tacit__alloc_fail_after(1);
        status = i % 2 == 0 ? tacit_alltoall(comm, exact[i / 2], TACIT_FLOAT32, in, 5, out)
                            : tacit_alltoallv(comm, exact[i / 2], TACIT_FLOAT32, in, counts, out, counts);
        tacit__alloc_fail_after(0);
        *(int *)arg += status == TACIT_OK && memcmp(in, out, sizeof in) == 0;
    }
    comm->transport.alltoallv_wait = NULL;
}

/* A small part is there in a microsecond: nothing of ours may take as long. */
START_TEST(native_calls_take_no_memory)
{
    int right = 0;

    run_ranks(1, NULL, native_body, &right);
    ck_assert_int_eq(right, 4);
}
END_TEST

static void group_body(tacit_comm_t *comm, void *arg)
{
    float in[RANKS] = {0}, out[RANKS];

    MUST(tacit_group_begin(comm));
    *(tacit_status_t *)arg = tacit_alltoall(comm, NULL, TACIT_FLOAT32, in, 1, out);
    MUST(tacit_group_end(comm, NULL));
}

START_TEST(not_in_a_group)
{
    tacit_status_t status = TACIT_OK;

    run_ranks(1, NULL, group_body, &status);
    ck_assert_int_eq(status, TACIT_ERR_STATE);
    ck_assert_int_eq(tacit_alltoall(NULL, NULL, TACIT_FLOAT32, NULL, 0, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_ialltoall(NULL, NULL, TACIT_FLOAT32, NULL, 0, NULL, NULL), TACIT_ERR_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("alltoall");
    TCase *tcase = tcase_create("alltoall");

    tcase_add_loop_test(tcase, every_element_comes_to_its_place, 0, FLAT);
    tcase_add_loop_test(tcase, every_element_comes_by_way_of_a_relay, 0, LEVELS);
    tcase_add_test(tcase, messages_stay_as_they_are);
    tcase_add_test(tcase, rotated_blocks_are_turned_back);
    tcase_add_loop_test(tcase, counts_that_differ, 0, 3);
    tcase_add_loop_test(tcase, even_counts_that_differ, 0, 2);
    tcase_add_loop_test(tcase, arguments_of_one_rank, 0, 2);
    tcase_add_loop_test(tcase, values_that_are_not_finite, 0, 2);
    tcase_add_test(tcase, specs_that_cannot_be);
    tcase_add_loop_test(tcase, memory_that_is_missing, 0, 2);
    tcase_add_loop_test(tcase, faults_of_the_wire, 0, 8);
    tcase_add_test(tcase, bytes_are_counted);
    tcase_add_loop_test(tcase, bytes_between_hosts_are_fewer, 0, 2);
    tcase_add_loop_test(tcase, several_under_way, 0, 2);
    tcase_add_loop_test(tcase, one_is_elsewhere, 0, 3);
    tcase_add_test(tcase, arguments_that_cannot_be);
    tcase_add_test(tcase, native_calls_take_no_memory);
    tcase_add_test(tcase, not_in_a_group);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
