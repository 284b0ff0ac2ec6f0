/* SPDX-License-Identifier: Apache-2.0 */
/* The ring: its sums are exactly those of doc/wire-format.md, on all ranks, in place and not, in groups and requests; and it
   needs no memory that grows with the tensor unless `out` is `in`. */
#include "session.h"

enum { CHUNK_BYTES = 1024, CHUNK = CHUNK_BYTES / 4, ROWS = 16 };

static const int    rank_counts[] = {2, 3, 4, 5, 8};
static const size_t counts[] = {0, 1, 2, 7, 16, 65, 1000, 4096, 20000, 70001};

enum { RANK_COUNTS = sizeof rank_counts / sizeof *rank_counts, COUNTS = sizeof counts / sizeof *counts };

/* ---- An oracle, from the page alone ---- */

/* The part that element i of n belongs to. */
static int part_of(size_t i, size_t n, int ranks)
{
    const size_t most = (size_t)ranks * ROWS * CHUNK, slab = i / most * most;
    const size_t elements = n - slab < most ? n - slab : most;
    const size_t share = (elements + (size_t)ranks - 1) / (size_t)ranks, rows = (share + CHUNK - 1) / CHUNK;
    const size_t chunks = (size_t)ranks * rows, chunk = ((elements + chunks - 1) / chunks + 15) / 16 * 16;

    return (int)((i - slab) / chunk / rows);
}

/* Of all ranks' inputs one after the other. */
static void reduce_serially(const float *in, size_t n, int ranks, tacit_op_t op, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const int part = part_of(i, n, ranks);
        float     sum = in[(size_t)((part + 1) % ranks) * n + i];

        for (int step = 2; step <= ranks; step++) {
            sum = in[(size_t)((part + step) % ranks) * n + i] + sum;
        }
        out[i] = op == TACIT_AVERAGE ? sum * (1.0f / (float)ranks) : sum;
    }
}

/* ---- One tensor ---- */

static session_t ring_session(int ranks, size_t count, tacit_op_t op, bool in_place)
{
    session_t session = {.spec = "none by ring", .ranks = ranks, .steps = 2, .count = count, .op = op, .in_place = in_place};

    session.config.chunk_bytes = CHUNK_BYTES;
    return session;
}

START_TEST(as_the_page_says)
{
    const int ranks = rank_counts[_i];

    ask_for("none by ring");
    for (size_t n = 0; n < COUNTS; n++) {
        session_t session = ring_session(ranks, counts[n], n % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE, n % 3 == 0);
        float    *in = session_floats((size_t)ranks * counts[n]), *expected = session_floats(counts[n]);

        session_run(&session);
        for (int step = 0; step < session.steps; step++) {
            for (int rank = 0; rank < ranks; rank++) {
                session_normal(rank, step, counts[n], in + (size_t)rank * counts[n]);
            }
            reduce_serially(in, counts[n], ranks, session.op, expected);
            same_floats(session.out + (size_t)step * counts[n], expected, counts[n], "ring");
        }
        free(in);
        free(expected);
        session_free(&session);
    }
}
END_TEST

static void whole_numbers(int rank, int step, size_t count, float *x)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)((int)(i * 31 + (size_t)rank * 17 + (size_t)step) % 2001 - 1000);
    }
}

/* Sums of small whole numbers are exact, whatever their order. */
START_TEST(exact)
{
    const int ranks = rank_counts[_i];

    ask_for("none by ring");
    for (size_t n = 0; n < COUNTS; n++) {
        session_t session = ring_session(ranks, counts[n], TACIT_SUM, n % 2 == 0);
        float    *x = session_floats(counts[n]), *expected = session_floats(counts[n]);

        session.input = whole_numbers;
        session_run(&session);
        for (int step = 0; step < session.steps; step++) {
            memset(expected, 0, counts[n] * sizeof *expected);
            for (int rank = 0; rank < ranks; rank++) {
                whole_numbers(rank, step, counts[n], x);
                for (size_t i = 0; i < counts[n]; i++) {
                    expected[i] += x[i];
                }
            }
            same_floats(session.out + (size_t)step * counts[n], expected, counts[n], "ring");
        }
        free(x);
        free(expected);
        session_free(&session);
    }
}
END_TEST

/* One rank has nobody to send to: it is not the ring's. */
static void alone_body(tacit_comm_t *comm, void *arg)
{
    float         x[3] = {1, 2, 3};
    tacit_slot_t *slot = slot_of(comm, "slot", 3, TACIT_FLOAT32, "none");

    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    *(bool *)arg = strcmp(tacit_slot_schedule(slot), "ring") != 0 && x[0] == 1 && x[1] == 2 && x[2] == 3;
}

START_TEST(one_rank)
{
    bool right = false;

    ask_for("none by ring");
    run_ranks(1, NULL, alone_body, &right);
    ck_assert(right);
}
END_TEST

/* ---- Many ---- */

enum { GROUP = 5, GROUP_RANKS = 3 };
static const size_t group_counts[GROUP] = {100, 0, 19000, 1, 3000};

typedef struct group {
    bool     requests;
    float   *in[GROUP_RANKS], *out[GROUP_RANKS]; /* all slots' one after the other */
    uint64_t wire_bytes[GROUP_RANKS];            /* of all slots */
} group_t;

static size_t group_elements(void)
{
    size_t elements = 0;

    for (size_t s = 0; s < GROUP; s++) {
        elements += group_counts[s];
    }
    return elements;
}

static tacit_op_t op_of(size_t slot)
{
    return slot % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE;
}

static void group_body(tacit_comm_t *comm, void *arg)
{
    group_t         *group = arg;
    const int        rank = tacit_comm_rank(comm);
    tacit_slot_t    *slots[GROUP];
    tacit_request_t *requests[GROUP] = {NULL};
    size_t           at = 0;

    for (size_t s = 0; s < GROUP; s++) {
        char name[16];

        snprintf(name, sizeof name, "slot%zu", s);
        slots[s] = slot_of(comm, name, group_counts[s], TACIT_FLOAT32, "none by ring");
    }
    if (!group->requests) {
        MUST(tacit_group_begin(comm));
    }
    for (size_t s = 0; s < GROUP; at += group_counts[s++]) {
        float *out = group->out[rank] + at, *in = s % 3 == 0 ? out : group->in[rank] + at;

        if (group_counts[s] != 0) {
            memcpy(out, group->in[rank] + at, group_counts[s] * sizeof *out);
        }
        if (group->requests) {
            MUST(tacit_iallreduce(slots[s], in, out, op_of(s), &requests[s]));
        } else {
            MUST(tacit_allreduce(slots[s], in, out, op_of(s)));
        }
    }
    if (!group->requests) {
        MUST(tacit_group_end(comm, NULL));
    }
    for (size_t s = GROUP; s-- > 0;) {
        tacit_counters_t counters;

        MUST(tacit_wait(&requests[s]));
        MUST(tacit_slot_counters(slots[s], &counters));
        group->wire_bytes[rank] += counters.wire_bytes;
    }
}

static group_t run_group(bool requests)
{
    group_t        group = {.requests = requests};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = CHUNK_BYTES;
    for (int rank = 0; rank < GROUP_RANKS; rank++) {
        group.in[rank] = session_floats(group_elements());
        group.out[rank] = session_floats(group_elements());
        session_normal(rank, 0, group_elements(), group.in[rank]);
    }
    ask_for("none by ring");
    run_ranks(GROUP_RANKS, &config, group_body, &group);
    return group;
}

static void free_group(group_t *group)
{
    for (int rank = 0; rank < GROUP_RANKS; rank++) {
        free(group->in[rank]);
        free(group->out[rank]);
    }
}

/* A group is one concatenation; requests are one tensor each. */
static void check_group(const group_t *group)
{
    const size_t elements = group_elements();
    float       *in = session_floats(GROUP_RANKS * elements), *expected = session_floats(elements);
    size_t       at = 0;

    for (size_t s = 0; s < GROUP; at += group_counts[s++]) {
        const size_t first = group->requests ? at : 0, n = group->requests ? group_counts[s] : elements;

        for (int rank = 0; rank < GROUP_RANKS && n != 0; rank++) {
            memcpy(in + (size_t)rank * n, group->in[rank] + first, n * sizeof *in);
        }
        reduce_serially(in, n, GROUP_RANKS, op_of(s), expected);
        for (int rank = 0; rank < GROUP_RANKS; rank++) {
            same_floats(group->out[rank] + at, expected + (at - first), group_counts[s], "slot of a group");
        }
    }
    free(in);
    free(expected);
}

/* Messages as of one tensor: 64 bytes of header for each, and two verdicts to either peer. */
START_TEST(group_is_one_tensor)
{
    const size_t rows = (group_elements() - GROUP_RANKS * ROWS * CHUNK + GROUP_RANKS * CHUNK - 1) / (GROUP_RANKS * CHUNK);
    const size_t messages = 2 * (GROUP_RANKS - 1) * (ROWS + rows);
    group_t      group = run_group(false);
    uint64_t     bytes = 0;

    check_group(&group);
    for (int rank = 0; rank < GROUP_RANKS; rank++) {
        bytes += group.wire_bytes[rank];
    }
    /* Shares of headers are rounded to a byte for each slot. */
    ck_assert_uint_le(bytes, 2 * (GROUP_RANKS - 1) * 4 * group_elements() + GROUP_RANKS * (64 * (messages + 4) + GROUP));
    free_group(&group);
}
END_TEST

START_TEST(requests)
{
    group_t group = run_group(true);

    check_group(&group);
    free_group(&group);
}
END_TEST

/* ---- Memory ---- */

typedef struct kept {
    bool   in_place;
    size_t bytes[4], buffers[4]; /* of each rank, after some calls */
} kept_t;

static void kept_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 300000 };
    kept_t       *kept = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, "none by ring");
    float        *in = session_floats(COUNT), *out = session_floats(COUNT);

    for (int call = 0; call < 3; call++) {
        MUST(tacit_allreduce(slot, kept->in_place ? out : in, out, TACIT_SUM));
    }
    for (size_t i = 0; i < comm->exchange.free_count; i++) {
        kept->bytes[rank] += comm->exchange.free[i].bytes;
        kept->buffers[rank]++;
    }
    free(in);
    free(out);
}

/* Not more than one slab's chunks on every wire of the ring; in place the results on top, which must not be seen before all ranks
   have succeeded. */
START_TEST(memory_is_bounded)
{
    kept_t         kept = {.in_place = _i != 0};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = CHUNK_BYTES;
    ask_for("none by ring");
    run_ranks(4, &config, kept_body, &kept);
    for (int rank = 0; rank < 4; rank++) {
        ck_assert_uint_le(kept.bytes[rank], (_i != 0 ? 1200000 + 4096 : 0) + (4 + 1) * ROWS * (CHUNK_BYTES + 128) + 4096);
    }
}
END_TEST

/* What has been sent stays as it was until it is gone. */
START_TEST(messages_are_not_used_too_early)
{
    enum { RANKS = 3, COUNT = 30000 };
    session_t session = ring_session(RANKS, COUNT, TACIT_SUM, true);
    float    *in = session_floats(RANKS * COUNT), *expected = session_floats(COUNT);

    session.lazy = true;
    session_run(&session);
    for (int rank = 0; rank < RANKS; rank++) {
        session_normal(rank, 0, COUNT, in + (size_t)rank * COUNT);
    }
    reduce_serially(in, COUNT, RANKS, TACIT_SUM, expected);
    same_floats(session.out, expected, COUNT, "ring over a lazy transport");
    session_free(&session);
    free(in);
    free(expected);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ring");
    TCase *tests = tcase_create("ring");

    tcase_add_loop_test(tests, as_the_page_says, 0, RANK_COUNTS);
    tcase_add_loop_test(tests, exact, 0, RANK_COUNTS);
    tcase_add_test(tests, one_rank);
    tcase_add_test(tests, group_is_one_tensor);
    tcase_add_test(tests, requests);
    tcase_add_loop_test(tests, memory_is_bounded, 0, 2);
    tcase_add_test(tests, messages_are_not_used_too_early);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
