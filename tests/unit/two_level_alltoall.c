/* SPDX-License-Identifier: Apache-2.0 */
/* All-to-alls with heads, flat and by way of relays; and what a rank refuses that comes by way of one, damaged or hostile. */
#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alltoall.h"
#include "frame.h"
#include "harness.h"
#include "ranks.h"

enum { RANKS = 8, HEAD_MOST = 6000, MOST = 1100, CHUNK_BYTES = 8192 };

/* ---- One all-to-all: a head says how many elements follow, and goes on with bytes of its own ---- */

typedef struct scene {
    int            calls;
    bool           long_heads;
    bool           straight; /* rank 1's parts are too large for relays */
    tacit_status_t status[RANKS][2];
    char           text[RANKS][TACIT_TEXT_BYTES];
    int            wrong[RANKS]; /* parts of the last call */
} scene_t;

typedef struct mailbox {
    const scene_t *scene;
    int            rank;
    float          out[RANKS][MOST];
    size_t         head_bytes[RANKS];
    uint8_t        heads[RANKS][HEAD_MOST];
} mailbox_t;

static size_t count_of(const scene_t *scene, int from, int to)
{
    static const size_t counts[] = {40, 0, 300, 7, 128};

    return scene->straight && from == 1 ? MOST : counts[(from * 3 + to) % 5];
}

static size_t head_of(const scene_t *scene, int from, int to, uint8_t *head)
{
    const size_t count = count_of(scene, from, to), bytes = 8 + (size_t)(from + to) * (scene->long_heads ? 400 : 3);

    memset(head, from * RANKS + to, bytes);
    memcpy(head, &count, sizeof count);
    return bytes;
}

static tacit_status_t meet(void *context, int rank, const uint8_t *head, size_t bytes, tacit_part_t *part)
{
    mailbox_t *mailbox = context;
    size_t     count = SIZE_MAX;

    memcpy(&count, head, bytes >= sizeof count ? sizeof count : 0);
    if (count > MOST) {
        return tacit__fail(TACIT_ERR_FRAME, "rank %d: a head of rank %d's says %zu", mailbox->rank, rank, count);
    }
    mailbox->head_bytes[rank] = bytes;
    memcpy(mailbox->heads[rank], head, bytes);
    part->receive = count;
    part->out = mailbox->out[rank];
    return TACIT_OK;
}

static int count_wrong(const mailbox_t *mailbox, int ranks)
{
    int wrong = 0;

    for (int from = 0; from < ranks; from++) {
        uint8_t      head[HEAD_MOST];
        float        part[MOST];
        const size_t bytes = head_of(mailbox->scene, from, mailbox->rank, head),
                     count = count_of(mailbox->scene, from, mailbox->rank);

        harness_fill(part, count, (uint64_t)(from * RANKS + mailbox->rank), 1.0f);
        if (from != mailbox->rank) {
            wrong += mailbox->head_bytes[from] != bytes || memcmp(mailbox->heads[from], head, bytes) != 0;
            wrong += memcmp(mailbox->out[from], part, count * sizeof *part) != 0;
        }
    }
    return wrong;
}

static void body(tacit_comm_t *comm, void *arg)
{
    scene_t          *scene = arg;
    const int         rank = tacit_comm_rank(comm), ranks = tacit_comm_ranks(comm);
    const tacit_key_t key = {0};
    tacit_values_t    values;
    tacit_counters_t  counters = {0};
    tacit_part_t      parts[RANKS];
    mailbox_t        *mailbox = calloc(1, sizeof *mailbox);
    uint8_t          *heads = calloc(RANKS, HEAD_MOST);
    float            *in = calloc(RANKS * MOST, sizeof *in);

    MUST(tacit__values_init(&values, "test", NULL, TACIT_FLOAT32, TACIT_NONFINITE_ERROR, &key));
    for (int call = 0; call < scene->calls; call++) {
        tacit_alltoall_t alltoall = {.name = "test",
                                     .step = (uint64_t)call,
                                     .values = &values,
                                     .parts = parts,
                                     .meet = meet,
                                     .context = mailbox,
                                     .head_most = HEAD_MOST,
                                     .counters = &counters};

        *mailbox = (mailbox_t){.scene = scene, .rank = rank};
        memset(parts, 0, sizeof parts);
        for (int to = 0; to < ranks; to++) {
            parts[to].head = heads + to * HEAD_MOST;
            parts[to].head_bytes = to != rank ? head_of(scene, rank, to, heads + to * HEAD_MOST) : 0;
            parts[to].in = in + to * MOST;
            parts[to].send = to != rank ? count_of(scene, rank, to) : 0;
            harness_fill(in + to * MOST, parts[to].send, (uint64_t)(rank * RANKS + to), 1.0f);
        }
        scene->status[rank][call] = tacit__alltoall_run(comm, "test", &alltoall, TACIT_OK);
        if (call == 0) {
            snprintf(scene->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
        }
    }
    scene->wrong[rank] = count_wrong(mailbox, ranks);
    tacit__values_fini(&values);
    free(in);
    free(heads);
    free(mailbox);
}

static void play(scene_t *scene, int ranks, const char *hosts, const char *plan, rank_wrap_t *wrap)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = CHUNK_BYTES;
    config.timeout_ms = 20000;
    name_hosts(hosts);
    ck_assert_int_eq(setenv("TACIT_PLAN", plan, 1), 0);
    run_ranks_behind(wrap, ranks, &config, body, scene);
    ck_assert_int_eq(unsetenv("TACIT_PLAN"), 0);
    name_hosts(NULL);
}

/* ---- Heads ---- */

static const struct {
    int         ranks;
    const char *hosts, *plan;
} places[] = {{3, NULL, "alltoall"},
              {8, "2", "alltoall"},
              {3, "2,1", "two_level_alltoall"},
              {5, "3,2", "two_level_alltoall"},
              {8, "2", "two_level_alltoall"},
              {8, "1,4,3", "two_level_alltoall"}};
enum { PLACES = sizeof places / sizeof *places };

START_TEST(heads_come_before_what_they_tell_of)
{
    scene_t scene = {.calls = 2, .long_heads = _i % 2 != 0};

    play(&scene, places[_i / 2].ranks, places[_i / 2].hosts, places[_i / 2].plan, NULL);
    for (int rank = 0; rank < places[_i / 2].ranks; rank++) {
        ck_assert_msg(scene.status[rank][0] == TACIT_OK, "rank %d: %s", rank, scene.text[rank]);
        ck_assert_int_eq(scene.status[rank][1], TACIT_OK);
        ck_assert_int_eq(scene.wrong[rank], 0);
    }
}
END_TEST

/* ---- Hostile ranks: 0 and 1 share a host, 2 has its own. Rank 1 sends rank 0 its parts for 0 and 2, rank 0 sends rank 2 those
   of 0 and 1. Messages are changed as they are sent, and are whole again. ---- */

enum { ROUND = 24, RECORD = 16 };

typedef enum {
    CHANGE,   /* a byte of a record */
    SHORTEN,  /* the records end with that one */
    EXTEND,   /* there are zeros behind the records */
    SWELL,    /* the last record has so many bytes more */
    DISGUISE, /* it is of another kind, and becomes one of records */
    REPEAT    /* it comes again, under another number; until then rank 2 waits for rank 1 */
} deed_t;

typedef struct crime {
    int            from, to;
    uint8_t        kind; /* of the message */
    deed_t         deed;
    int            record;
    size_t         byte, bytes; /* CHANGE: which of it; EXTEND, SWELL: how many */
    uint32_t       index;       /* DISGUISE */
    tacit_status_t status;
    const char    *words;
} crime_t;

static const crime_t crimes[] = {
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 0, RECORD + 30, 0, 0, TACIT_ERR_FRAME,
     "rank 0: test: rank 1's part, which came from rank 1, cannot be used"},
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 1, RECORD + 30, 0, 0, TACIT_ERR_FRAME,
     "rank 2: test: rank 1's part, which came from rank 0, cannot be used"},
    {0, 2, TACIT_FRAME_PARCELS, CHANGE, 1, RECORD + 30, 0, 0, TACIT_ERR_FRAME,
     "rank 2: test: rank 1's part, which came from rank 0, cannot be used"},
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 0, 1, 0, 0, TACIT_ERR_FRAME,
     "'two_level_alltoall' expects"}, /* longer than the message */
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 1, 1, 0, 0, TACIT_ERR_FRAME, "rank 0: test: frame"},
    {0, 2, TACIT_FRAME_PARCELS, CHANGE, 1, 1, 0, 0, TACIT_ERR_FRAME, "rank 2: test: frame"},
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 1, 3, 0, 0, TACIT_ERR_FRAME, "rank 0: test: frame"},
    {0, 2, TACIT_FRAME_PARCELS, CHANGE, 1, 0, 0, 0, TACIT_ERR_FRAME, "rank 2: test: frame"},
    {0, 2, TACIT_FRAME_PARCELS, CHANGE, 0, 4, 0, 0, TACIT_ERR_FRAME,
     "rank 2: test: rank 0's part, which came from rank 0, cannot"},
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 1, 8, 0, 0, TACIT_ERR_MISMATCH, "rank 1 sends rank 2 "}, /* elements */
    {1, 0, TACIT_FRAME_PARCELS, CHANGE, 0, 8, 0, 0, TACIT_ERR_MISMATCH, "rank 1 sends rank 0 "},
    {1, 0, TACIT_FRAME_PARCELS, SHORTEN, 0, 0, 0, 0, TACIT_ERR_FRAME, "rank 0: test: frame"},
    {0, 2, TACIT_FRAME_PARCELS, SHORTEN, 0, 0, 0, 0, TACIT_ERR_FRAME, "rank 2: test: frame"},
    {1, 0, TACIT_FRAME_PARCELS, EXTEND, 0, 0, 1, 0, TACIT_ERR_FRAME, "rank 0: test: frame"},
    {0, 2, TACIT_FRAME_PARCELS, EXTEND, 0, 0, RECORD, 0, TACIT_ERR_FRAME, "rank 2: test: frame"},
    {1, 0, TACIT_FRAME_PARCELS, SWELL, 0, 0, CHUNK_BYTES, 0, TACIT_ERR_FRAME, "rank 0: test: frame"}, /* no relay has room */
    {2, 0, TACIT_FRAME_HEAD, DISGUISE, 0, 0, 0, 0, TACIT_ERR_FRAME, "rank 0: test: frame"}, /* from a host without relays */
    {1, 2, TACIT_FRAME_HEAD, DISGUISE, 0, 0, 0, 0, TACIT_ERR_FRAME, "rank 2: test: frame"}, /* from no relay to it */
    {1, 0, TACIT_FRAME_HEAD, DISGUISE, 0, 0, 0, 1, TACIT_ERR_FRAME, "rank 0: test: frame"}, /* once more */
    {1, 0, TACIT_FRAME_PARCELS, REPEAT, 0, 0, 0, 0, TACIT_ERR_FRAME, "rank 0: test: frame"},
    {0, 2, TACIT_FRAME_PARCELS, REPEAT, 0, 0, 0, 0, TACIT_ERR_FRAME, "rank 2: test: frame"},
};
enum { CRIMES = sizeof crimes / sizeof *crimes };

static struct {
    const crime_t    *crime;
    atomic_bool       done;
    tacit_transport_t loops[RANKS];
    uint8_t           again[TACIT_FRAME_HEADER_BYTES + CHUNK_BYTES];
} court;

/* Where a record begins. */
static size_t find_record(const uint8_t *records, int number)
{
    size_t at = 0;

    for (int i = 0; i < number; i++) {
        uint32_t bytes[2];

        memcpy(bytes, records + at, sizeof bytes);
        at += RECORD + (bytes[0] != UINT32_MAX ? bytes[0] + bytes[1] : 0);
    }
    return at;
}

/* The message is in a buffer that takes more than it has. */
static size_t commit_crime(uint8_t *message)
{
    const crime_t *crime = court.crime;
    tacit_frame_t  frame = tacit__frame_read(message);
    uint8_t       *records = message + TACIT_FRAME_HEADER_BYTES;
    uint32_t       bytes;

    switch (crime->deed) {
    case CHANGE:
        records[find_record(records, crime->record) + crime->byte] ^= 0x21;
        break;
    case SHORTEN:
        frame.payload_bytes = (uint32_t)find_record(records, crime->record + 1);
        break;
    case SWELL:
        memcpy(&bytes, records + find_record(records, crime->record + 1) + 4, sizeof bytes);
        bytes += (uint32_t)crime->bytes;
        memcpy(records + find_record(records, crime->record + 1) + 4, &bytes, sizeof bytes); /* fall through */
    case EXTEND:
        memset(records + frame.payload_bytes, 0, crime->bytes);
        frame.payload_bytes += (uint32_t)crime->bytes;
        break;
    case DISGUISE:
        frame.kind = TACIT_FRAME_PARCELS;
        frame.round = ROUND;
        frame.index = crime->index;
        break;
    case REPEAT:
        frame.index = 1;
        break;
    }
    return tacit__frame_write(&frame, message);
}

static tacit_status_t corrupt_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    const tacit_transport_t *loop = context;
    const crime_t           *crime = court.crime;
    const tacit_frame_t      frame = tacit__frame_read(data);

    while (crime->deed == REPEAT && loop->rank == 1 && peer == 2 && frame.kind == TACIT_FRAME_HEAD && !court.done) {
        usleep(20000);
    }
    if (loop->rank == crime->from && peer == crime->to && frame.kind == crime->kind && !court.done) {
        if (crime->deed == REPEAT) {
            tacit_ticket_t unused;

            memcpy(court.again, data, bytes);
            MUST(loop->send(loop->context, peer, data, bytes, ticket));
            MUST(loop->send(loop->context, peer, court.again, commit_crime(court.again), &unused));
            court.done = true;
            return TACIT_OK;
        }
        bytes = commit_crime((uint8_t *)(uintptr_t)data);
        court.done = true;
    }
    return loop->send(loop->context, peer, data, bytes, ticket);
}

static tacit_status_t corrupt_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    const tacit_transport_t *loop = context;

    return loop->receive(loop->context, peer, data, capacity, ticket);
}

static tacit_status_t corrupt_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    const tacit_transport_t *loop = context;

    return loop->test(loop->context, ticket, bytes_out);
}

static tacit_status_t corrupt_cancel(void *context, tacit_ticket_t *ticket)
{
    const tacit_transport_t *loop = context;

    return loop->cancel(loop->context, ticket);
}

static void corrupt_destroy(void *context)
{
    const tacit_transport_t *loop = context;

    loop->destroy(loop->context);
}

static void corrupt(tacit_transport_t *transport)
{
    tacit_transport_t *loop = &court.loops[transport->rank];

    *loop = *transport;
    *transport = (tacit_transport_t){.struct_bytes = sizeof *transport,
                                     .name = "corrupt",
                                     .context = loop,
                                     .rank = loop->rank,
                                     .ranks = loop->ranks,
                                     .send = corrupt_send,
                                     .receive = corrupt_receive,
                                     .test = corrupt_test,
                                     .cancel = corrupt_cancel,
                                     .destroy = corrupt_destroy};
}

START_TEST(hostile_records)
{
    const crime_t *crime = &crimes[_i];
    scene_t        scene = {.calls = 2, .straight = crime->deed == REPEAT || (crime->deed == DISGUISE && crime->from == 1)};

    court.crime = crime;
    court.done = false;
    play(&scene, 3, "2,1", "two_level_alltoall", corrupt);
    ck_assert(court.done);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_msg(scene.status[rank][0] == crime->status, "rank %d: %d, %s", rank, scene.status[rank][0], scene.text[rank]);
        ck_assert_msg(strstr(scene.text[rank], crime->words) != NULL, "'%s' is not in '%s'", crime->words, scene.text[rank]);
        ck_assert_int_eq(scene.status[rank][1], TACIT_OK);
        ck_assert_int_eq(scene.wrong[rank], 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("two_level_alltoall");
    TCase *tcase = tcase_create("two_level_alltoall");

    tcase_add_loop_test(tcase, heads_come_before_what_they_tell_of, 0, 2 * PLACES);
    tcase_add_loop_test(tcase, hostile_records, 0, CRIMES);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
