/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of an all-to-all: which of them a rank takes in, heads that come before elements, and how many there may be. */
#include <check.h>
#include <string.h>

#include "alltoall.h"
#include "harness.h"
#include "operation.h"
#include "ranks.h"

enum { CHUNK_BYTES = 1024 };

/* ---- What frames may say ---- */

/* Of one rank that was told by a head of `count` elements, a message says: */
typedef struct said {
    uint8_t  kind;
    uint32_t total, first, count, bytes;
} said_t;

static tacit_status_t meet(void *context, int rank, const uint8_t *head, size_t bytes, tacit_part_t *part)
{
    size_t count = 0;

    (void)rank;
    memcpy(&count, head, bytes);
    part->receive = count;
    part->out = context;
    return TACIT_OK;
}

/* Messages that fit, and at last one that does not, as rank 0 takes them in from rank 1. `head`: they begin with heads. */
static const struct {
    const char    *spec;
    bool           head;
    tacit_status_t status;
    said_t         said[4];
} frames[] = {
    {"none", false, TACIT_OK, {{TACIT_FRAME_ROWS, 600, 0, 256, 1024}, {TACIT_FRAME_ROWS, 600, 256, 344, 1376}}},
    {"none", false, TACIT_ERR_MISMATCH, {{TACIT_FRAME_ROWS, 601, 0, 256, 1024}}},
    {"none", false, TACIT_ERR_MISMATCH, {{TACIT_FRAME_ROWS, 600, 0, 256, 1024}, {TACIT_FRAME_ROWS, 500, 256, 244, 976}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 4, 0, 0, 4}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_CONTRIBUTION, 600, 0, 256, 1024}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 256, 1020}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 0, 4}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 601, 2404}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 256, 256, 1024}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 256, 1024}, {TACIT_FRAME_ROWS, 600, 0, 256, 1024}}},
    {"none", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 600, 2400}, {TACIT_FRAME_ROWS, 600, 600, 0, 0}}},
    {"bf16", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 100, 200}, {TACIT_FRAME_ROWS, 600, 100, 500, 1000}}},
    {"bf16", false, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 600, 0, 100, 400}}},
    {"bf16", true, TACIT_OK, {{TACIT_FRAME_HEAD, 2, 0, 0, 2}, {TACIT_FRAME_ROWS, 0x0101, 0, 257, 514}}},
    {"bf16",
     true,
     TACIT_OK,
     {{TACIT_FRAME_HEAD, 2, 0, 0, 1}, {TACIT_FRAME_HEAD, 2, 0, 0, 1}, {TACIT_FRAME_ROWS, 257, 0, 257, 514}}},
    {"none", true, TACIT_OK, {{TACIT_FRAME_HEAD, 0, 0, 0, 0}, {TACIT_FRAME_ROWS, 0, 0, 0, 0}}},
    {"none",
     true,
     TACIT_ERR_FRAME,
     {{TACIT_FRAME_HEAD, 0, 0, 0, 0}, {TACIT_FRAME_ROWS, 0, 0, 0, 0}, {TACIT_FRAME_ROWS, 0, 0, 0, 0}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_ROWS, 0, 0, 0, 0}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 2, 0, 0, 1}, {TACIT_FRAME_ROWS, 1, 0, 1, 4}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 9, 0, 0, 2}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 2, 0, 0, 3}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 8, 0, 0, 4}, {TACIT_FRAME_HEAD, 8, 0, 0, 5}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 8, 0, 0, 4}, {TACIT_FRAME_HEAD, 7, 0, 0, 3}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 8, 0, 0, 4}, {TACIT_FRAME_HEAD, 2, 0, 0, 1}}},
    {"none", true, TACIT_ERR_FRAME, {{TACIT_FRAME_HEAD, 2, 0, 0, 2}, {TACIT_FRAME_HEAD, 2, 0, 0, 0}}},
};

enum { FRAME_TESTS = sizeof frames / sizeof *frames };

/* Takes in the messages of a row of the table; the result of the last of them, and whether all is there then. */
static void take_body(tacit_comm_t *comm, void *arg)
{
    static const uint8_t payload[4096] = {1, 1};
    const size_t         row = *(const size_t *)arg;
    const tacit_key_t    key = {0};
    float                out[600];
    tacit_values_t       values;
    tacit_part_t         parts[2] = {{0}, {.out = out, .receive = 600}};
    tacit_alltoall_t     job = {.name = "job", .values = &values, .parts = parts, .context = out, .head_most = 8};
    tacit_operation_t    operation = {.comm = comm, .what = "test", .alltoall = &job};
    tacit_leg_t          leg = {.schedule = &tacit__schedule_alltoall, .comm = comm, .operation = &operation, .round = 23};
    tacit_status_t       status = TACIT_OK;

    if (tacit_comm_rank(comm) != 0) {
        return;
    }
    job.meet = frames[row].head ? meet : NULL;
    MUST(tacit__values_init(&values, "test", frames[row].spec, TACIT_FLOAT32, TACIT_NONFINITE_ERROR, &key));
    MUST(leg.schedule->prepare(&leg));
    for (size_t i = 0; i < 4 && frames[row].said[i].kind != 0; i++) {
        const said_t       *said = &frames[row].said[i];
        const tacit_frame_t frame = {.kind = said->kind,
                                     .rank = 1,
                                     .round = 23,
                                     .index = (uint32_t)i,
                                     .total = said->total,
                                     .first = said->first,
                                     .count = said->count,
                                     .payload_bytes = said->bytes,
                                     .payload = payload};

        MUST(status);
        status = leg.schedule->arrived(&leg, &frame);
    }
    leg.schedule->release(&leg);
    tacit__values_fini(&values);
    *(tacit_status_t *)arg = status;
}

START_TEST(messages_that_do_not_fit)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    union {
        size_t         row;
        tacit_status_t status;
    } arg = {.row = (size_t)_i};

    config.chunk_bytes = CHUNK_BYTES;
    run_ranks(2, &config, take_body, &arg);
    ck_assert_msg(arg.status == frames[_i].status, "row %d: %d", _i, (int)arg.status);
}
END_TEST

/* ---- Heads ---- */

enum { HEADED = 3, ROWS_MOST = 600, HEAD_MOST = 3000 };

/* What rank f made of what it sent to rank t, [f][t], and what came there. */
typedef struct heads {
    const char *spec;
    float       given[HEADED][HEADED][ROWS_MOST], decoded[HEADED][HEADED][ROWS_MOST], out[HEADED][HEADED][ROWS_MOST];
} heads_t;

static size_t rows_of(int from, int to)
{
    return from == to ? 5 : (size_t)(from * 331 + to * 97) % ROWS_MOST;
}

/* One byte, or more than a message or two has. */
static size_t head_of(int from, int to, uint8_t head[HEAD_MOST])
{
    const size_t bytes = 1 + (size_t)(from + 2 * to) % 3 * 1400;

    for (size_t i = 0; i < bytes; i++) {
        head[i] = (uint8_t)(7 * i + (size_t)(100 * from + to));
    }
    return bytes;
}

typedef struct meeting {
    heads_t *heads;
    int      rank;
} meeting_t;

static tacit_status_t meet_long(void *context, int rank, const uint8_t *head, size_t bytes, tacit_part_t *part)
{
    const meeting_t *meeting = context;
    uint8_t          expected[HEAD_MOST];

    part->receive = rows_of(rank, meeting->rank);
    part->out = meeting->heads->out[rank][meeting->rank];
    return bytes == head_of(rank, meeting->rank, expected) && memcmp(head, expected, bytes) == 0
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: the head of rank %d is not as it was", meeting->rank, rank);
}

static void heads_body(tacit_comm_t *comm, void *arg)
{
    static uint8_t    room[HEADED][HEADED][HEAD_MOST];
    heads_t          *heads = arg;
    const int         rank = tacit_comm_rank(comm);
    const tacit_key_t key = {.rank = (uint64_t)rank};
    meeting_t         meeting = {heads, rank};
    tacit_counters_t  counters = {0};
    tacit_values_t    values;
    tacit_part_t      parts[HEADED];
    tacit_alltoall_t  job = {.name = "job",
                             .step = 7,
                             .values = &values,
                             .parts = parts,
                             .meet = meet_long,
                             .context = &meeting,
                             .head_most = HEAD_MOST,
                             .counters = &counters};

    for (int to = 0; to < HEADED; to++) {
        float *given = heads->given[rank][to], *decoded = heads->decoded[rank][to];

        harness_fill(given, rows_of(rank, to), (uint64_t)(10 * rank + to), 1.0f);
        memcpy(decoded, given, sizeof heads->given[rank][to]);
        parts[to] = (tacit_part_t){.head = room[rank][to],
                                   .head_bytes = head_of(rank, to, room[rank][to]),
                                   .in = (rank + to) % 2 != 0 ? given : decoded, /* apart, and in place */
                                   .send = rows_of(rank, to),
                                   .decoded = decoded,
                                   .out = heads->out[rank][to]};
    }
    MUST(tacit__values_init(&values, "test", heads->spec, TACIT_FLOAT32, TACIT_NONFINITE_ERROR, &key));
    MUST(tacit__alltoall_run(comm, "test", &job, TACIT_OK));
    tacit__values_fini(&values);
}

/* They come whole, before the elements that they announce; and a sender knows what is made of those. */
START_TEST(heads_come_first)
{
    static const char *const carried[] = {"none", "bf16", "rotq:bits=4", "onebit:block=64"};
    tacit_config_t           config = TACIT_CONFIG_INIT;
    static heads_t           heads;

    heads = (heads_t){.spec = carried[_i]};
    config.chunk_bytes = CHUNK_BYTES;
    run_ranks(HEADED, &config, heads_body, &heads);
    for (int from = 0; from < HEADED; from++) {
        for (int to = 0; to < HEADED; to++) {
            const size_t bytes = rows_of(from, to) * sizeof(float);
            const bool   same = memcmp(heads.given[from][to], heads.out[from][to], bytes) == 0;

            ck_assert_msg(memcmp(heads.decoded[from][to], heads.out[from][to], bytes) == 0, "%s: %d to %d", heads.spec, from, to);
            ck_assert_msg(same == (from == to || _i == 0 || bytes == 0), "%s: %d to %d", heads.spec, from, to);
        }
    }
}
END_TEST

/* ---- Limits ---- */

/* Nobody looks at these elements. */
static void many_body(tacit_comm_t *comm, void *arg)
{
    const size_t    few[2] = {0, 0}, many[2] = {0, UINT32_MAX}, from[2] = {UINT32_MAX, 0};
    const int       rank = tacit_comm_rank(comm);
    tacit_status_t *status = arg;
    void           *nowhere = (void *)((uintptr_t)1 << 44);

    status[rank] = tacit_alltoallv(comm, "none", TACIT_FLOAT32, rank == 0 ? nowhere : NULL, rank == 0 ? many : few,
                                   rank == 1 ? nowhere : NULL, rank == 1 ? from : few);
}

START_TEST(more_messages_than_have_numbers)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_status_t status[2];

    config.chunk_bytes = CHUNK_BYTES;
    run_ranks(2, &config, many_body, status);
    ck_assert_int_eq(status[0], TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(status[1], TACIT_ERR_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("alltoall_frames");
    TCase *tcase = tcase_create("alltoall_frames");

    tcase_add_loop_test(tcase, messages_that_do_not_fit, 0, FRAME_TESTS);
    tcase_add_loop_test(tcase, heads_come_first, 0, 4);
    tcase_add_test(tcase, more_messages_than_have_numbers);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
