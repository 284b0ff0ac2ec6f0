/* SPDX-License-Identifier: Apache-2.0 */
/* What hostile records come to, and who may send which. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"
#include "ranks.h"
#include "records.h"

/* A payload of one entry: index coding u32, entry 5 is 1.0. */
typedef struct hostile {
    tacit_record_t record[2];
    uint32_t       payload[2][4]; /* words behind each record, of which its bytes say how many count */
    size_t         records, cut;  /* bytes that are missing at the end */
    uint32_t       index, total;
    bool           refused;
} hostile_t;

enum { HOSTILE = 300 };

static const hostile_t hostiles[] = {
    {{{0, 0, 64, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 1, false},
    {{{0, 0, 6, 16}, {0, 6, 10, 16}}, {{1, 0, 5, 0x3f800000}, {1, 0, 5, 0x3f800000}}, 2, 0, 0, 1, false},
    {{{0, 0, 6, 16}, {0, 5, 10, 16}}, {{1, 0, 5, 0x3f800000}, {1, 0, 5, 0x3f800000}}, 2, 0, 0, 1, true}, /* not ascending */
    {{{0, 6, 10, 16}, {0, 0, 6, 16}}, {{1, 0, 5, 0x3f800000}, {1, 0, 5, 0x3f800000}}, 2, 0, 0, 1, true},
    {{{0, 0, 5, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 1, true},       /* outside of the range */
    {{{1, 0, 64, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 1, true},      /* no such item */
    {{{0, 0, HOSTILE, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 1, true}, /* longer than a part */
    {{{0, HOSTILE, 1, 16}}, {{1, 0, 0, 0x3f800000}}, 1, 0, 0, 1, true}, /* beyond it */
    {{{0, 0, 64, 20}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 1, true},      /* more bytes than there are */
    {{{0, 0, 64, UINT32_MAX}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 1, true},
    {{{0, 0, 64, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 4, 0, 1, true},                  /* cut */
    {{{0, 0, 64, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 20, 0, 1, true},                 /* within the record */
    {{{0, 0, 64, 16}}, {{2, 0, 5, 0x3f800000}}, 1, 0, 0, 1, true},                  /* two entries in the room of one */
    {{{0, 0, 64, 16}}, {{1, 7, 5, 0x3f800000}}, 1, 0, 0, 1, true},                  /* no such coding */
    {{{0, 0, 64, 16}}, {{1, 0, 5, 0x3f800000}}, 1, 0, 0, 2, true},                  /* the last of two is the first */
    {{{TACIT_RECORD_DENSE, 0, 4, 16}}, {{0, 0, 0, 0x3f800000}}, 1, 0, 0, 1, false}, /* dense */
    {{{TACIT_RECORD_DENSE, 0, 5, 16}}, {{0, 0, 0, 0x3f800000}}, 1, 0, 0, 1, true},  /* more elements than bytes */
    {{{TACIT_RECORD_DENSE, 0, 3, 16}}, {{0, 0, 0, 0x3f800000}}, 1, 0, 0, 1, true},
    {{{TACIT_RECORD_DENSE, 0, 0x40000004, 16}}, {{0, 0, 0, 0x3f800000}}, 1, 0, 0, 1, true}, /* 4 · count is 16 in 32 bits */
    {{{TACIT_RECORD_DENSE | 1, 0, 4, 16}}, {{0, 0, 0, 0x3f800000}}, 1, 0, 0, 1, true},
};
enum { HOSTILES = (int)(sizeof hostiles / sizeof *hostiles) };

static size_t write_hostile(const hostile_t *hostile, uint8_t *payload)
{
    size_t bytes = 0;

    for (size_t i = 0; i < hostile->records; i++) {
        memcpy(payload + bytes, &hostile->record[i], sizeof hostile->record[i]);
        memcpy(payload + bytes + 16, hostile->payload[i], 16);
        bytes += 32;
    }
    return bytes - hostile->cut;
}

/* Rank 0's leg, to which rank 1 says this. */
static void hostile_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t     *slot = slot_of(comm, "gradient", HOSTILE, TACIT_FLOAT32, "topk:ratio=0.1+ef");
    tacit_item_t      item = {.slot = slot, .codec = slot->codec, .schedule = slot->schedule};
    tacit_item_t     *items[] = {&item};
    float             x[HOSTILE] = {1.0f};
    tacit_operation_t operation = {.comm = comm, .what = "test"};
    uint8_t           payload[64];

    (void)arg;
    item.in = item.out = x;
    for (size_t h = 0; tacit_comm_rank(comm) == 0 && h < HOSTILES; h++) {
        for (tacit_frame_kind_t kind = TACIT_FRAME_CONTRIBUTION; kind <= TACIT_FRAME_RESULT; kind++) {
            tacit_leg_t leg = {
                .schedule = slot->schedule, .comm = comm, .operation = &operation, .items = items, .item_count = 1};
            tacit_frame_t  frame = {.kind = (uint8_t)kind,
                                    .rank = 1,
                                    .index = hostiles[h].index,
                                    .total = hostiles[h].total,
                                    .payload_bytes = (uint32_t)write_hostile(&hostiles[h], payload),
                                    .payload = payload};
            tacit_status_t status;

            MUST(leg.schedule->prepare(&leg));
            status = leg.schedule->arrived(&leg, &frame);
            if ((status == TACIT_ERR_FRAME) != hostiles[h].refused) {
                fprintf(stderr, "hostile frame %zu of kind %d: status %d\n", h, (int)kind, status);
                abort();
            }
            frame.payload_bytes = 0;
            if (status == TACIT_OK) { /* nothing follows the last, not even nothing */
                MUST(leg.schedule->arrived(&leg, &frame) == TACIT_ERR_FRAME ? TACIT_OK : TACIT_ERR_STATE);
            }
            frame.kind = TACIT_FRAME_SPARSE;
            MUST(leg.schedule->arrived(&leg, &frame) == TACIT_ERR_FRAME ? TACIT_OK : TACIT_ERR_STATE);
            leg.schedule->undo(&leg);
            leg.schedule->release(&leg);
        }
    }
}

START_TEST(hostile_frames)
{
    run_ranks(2, NULL, hostile_body, NULL);
}
END_TEST

/* Two hosts: ranks 0 and 3 lead the first rail, 1 and 4 the second, 2 leads none. Origins are rail * 2 + host. */
START_TEST(whose_records)
{
    static const struct {
        int rank, from, own, first[3]; /* of a frame of its own, and passed on with hosts 0, 1 and 2 */
    } cases[] = {{1, 0, 0, {-1, 1, -1}},  {1, 2, -1, {-1, -1, -1}}, {1, 3, -1, {-1, -1, -1}}, {1, 4, 3, {-1, -1, -1}},
                 {2, 0, 0, {-1, 1, -1}},  {2, 1, 2, {-1, 3, -1}},   {2, 3, -1, {-1, -1, -1}}, {2, 4, -1, {-1, -1, -1}},
                 {3, 0, 0, {-1, -1, -1}}, {3, 1, -1, {-1, -1, -1}}, {3, 4, 3, {2, -1, -1}}};
    int                   rail_of[] = {0, 1, -1, 0, 1}, host_of[] = {0, 0, 0, 1, 1};
    tacit_topology_t      topology = {.ranks = 5, .hosts = 2, .rails = 2, .rail_of = rail_of, .host_of = host_of};
    tacit_comm_t          comm = {.ranks = 5};
    const tacit_leg_t     leg = {.comm = &comm};
    const tacit_records_t records = {.leg = &leg, .topology = &topology};

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        tacit_frame_t frame = {.rank = (uint16_t)cases[c].from};

        comm.rank = cases[c].rank;
        ck_assert_int_eq(tacit__records_origin_of(&records, &frame, false), cases[c].own);
        for (; frame.first < 3; frame.first++) {
            ck_assert_int_eq(tacit__records_origin_of(&records, &frame, true), cases[c].first[frame.first]);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("records");
    TCase *tests = tcase_create("records");

    ask_for("none by sparse-scatter");
    tcase_add_test(tests, hostile_frames);
    tcase_add_test(tests, whose_records);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
