/* SPDX-License-Identifier: Apache-2.0 */
/* The exchange of messages: order, repetition and gaps; receives that grow while messages are on their way; memory that is
   missing. Both ends are in one thread: no call waits. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "harness.h"
#include "ranks.h"

enum { SMALL = TACIT_FRAME_HEADER_BYTES + 64, LARGE = TACIT_FRAME_HEADER_BYTES + 5000 };

static tacit_loop_t     *loop;
static tacit_transport_t transports[2];
static tacit_exchange_t  ends[2];
static uint8_t           message[LARGE];

static void open_ends(void)
{
    MUST(tacit_loop_create(2, &loop));
    for (int rank = 0; rank < 2; rank++) {
        MUST(tacit_loop_transport(loop, rank, &transports[rank]));
        MUST(tacit__exchange_init(&ends[rank], &transports[rank], SMALL));
        tacit__exchange_begin(&ends[rank]);
    }
}

static void close_ends(void)
{
    for (int rank = 0; rank < 2; rank++) {
        tacit__exchange_fini(&ends[rank], true);
        transports[rank].destroy(transports[rank].context);
    }
    tacit_loop_release(loop);
}

/* From rank 1 to rank 0: a frame whose payload is all `index`. */
static void send(tacit_frame_kind_t kind, uint32_t round, uint32_t index, size_t payload)
{
    tacit_frame_t frame = {.kind = (uint8_t)kind,
                           .rank = 1,
                           .sequence = ends[1].sequence,
                           .round = round,
                           .index = index,
                           .payload_bytes = (uint32_t)payload};

    memset(message + TACIT_FRAME_HEADER_BYTES, (int)index, payload);
    MUST(tacit__exchange_reserve(&ends[1]));
    MUST(tacit__exchange_send(&ends[1], 0, message, tacit__frame_write(&frame, message)));
}

static void comes(uint32_t index, size_t payload)
{
    tacit_frame_t frame;

    ck_assert_int_eq(tacit__exchange_receive(&ends[0], 1, &frame), TACIT_OK);
    ck_assert_uint_eq(frame.index, index);
    ck_assert_uint_eq(frame.payload_bytes, payload);
    for (size_t i = 0; i < payload; i++) {
        ck_assert_uint_eq(frame.payload[i], (uint8_t)index);
    }
    MUST(tacit__exchange_release(&ends[0], 1));
}

static void fails(const char *words)
{
    tacit_frame_t frame;

    ck_assert_int_eq(tacit__exchange_receive(&ends[0], 1, &frame), TACIT_ERR_FRAME);
    ck_assert_msg(strstr(tacit_last_error(), words) != NULL, "'%s' is not in '%s'", words, tacit_last_error());
}

static void nothing_comes(void)
{
    tacit_frame_t frame;

    ck_assert_int_eq(tacit__exchange_receive(&ends[0], 1, &frame), TACIT_PENDING);
}

START_TEST(in_order)
{
    nothing_comes();
    for (uint32_t i = 0; i < 300; i++) {
        send(TACIT_FRAME_SPARSE, i % 2, i / 2, i % 60);
    }
    for (uint32_t i = 0; i < 300; i++) {
        comes(i / 2, i % 60);
    }
    nothing_comes();
}
END_TEST

/* Each kind and round has numbers of its own; what was seen already is passed over. */
START_TEST(repeated)
{
    send(TACIT_FRAME_CONTRIBUTION, 0, 0, 1);
    send(TACIT_FRAME_RESULT, 0, 0, 2);
    send(TACIT_FRAME_RESULT, 1, 0, 3);
    send(TACIT_FRAME_RESULT, 0, 0, 4);
    send(TACIT_FRAME_CONTRIBUTION, 0, 0, 5);
    send(TACIT_FRAME_RESULT, 0, 1, 6);
    comes(0, 1);
    comes(0, 2);
    comes(0, 3);
    comes(1, 6);
    nothing_comes();
}
END_TEST

START_TEST(missing)
{
    send(TACIT_FRAME_SPARSE, 0, 0, 0);
    send(TACIT_FRAME_SPARSE, 0, 2, 0);
    send(TACIT_FRAME_SPARSE, 0, 1, 0);
    comes(0, 0);
    fails("rank 0: a message from rank 1 is missing: got number 2, expected 1");
    comes(1, 0);
}
END_TEST

START_TEST(earlier_and_later_operations)
{
    send(TACIT_FRAME_SPARSE, 0, 0, 0);
    send(TACIT_FRAME_VERDICT, 0, 0, 0);
    tacit__exchange_begin(&ends[0]);
    nothing_comes();
    tacit__exchange_begin(&ends[1]);
    send(TACIT_FRAME_SPARSE, 0, 0, 7);
    comes(0, 7);
    tacit__exchange_begin(&ends[1]);
    send(TACIT_FRAME_SPARSE, 0, 0, 0);
    fails("rank 1 is at operation 3, this rank at 2");
}
END_TEST

START_TEST(sequence_wraps)
{
    ends[0].sequence = ends[1].sequence = UINT32_MAX;
    send(TACIT_FRAME_SPARSE, 0, 0, 1);
    comes(0, 1);
    send(TACIT_FRAME_VERDICT, 0, 0, 0);
    tacit__exchange_begin(&ends[0]);
    tacit__exchange_begin(&ends[1]);
    ck_assert_uint_eq(ends[0].sequence, 0);
    send(TACIT_FRAME_SPARSE, 0, 0, 2);
    comes(0, 2); /* the verdict was an earlier operation's */
}
END_TEST

START_TEST(foreign)
{
    tacit_frame_t frame = {.kind = TACIT_FRAME_SPARSE, .rank = 0, .sequence = 1};

    MUST(tacit__exchange_send(&ends[1], 0, message, tacit__frame_write(&frame, message)));
    fails("it is not from there");
    MUST(tacit__exchange_send(&ends[1], 0, (const uint8_t *)"hello", 5));
    fails("5 bytes from rank 1 cannot be used");
    frame.rank = 1;
    frame.round = TACIT_ROUNDS;
    MUST(tacit__exchange_send(&ends[1], 0, message, tacit__frame_write(&frame, message)));
    fails("cannot be used");
    send(TACIT_FRAME_SPARSE, 0, 0, 3);
    comes(0, 3);
}
END_TEST

/* A verdict comes twice: damage of the copy is no loss, damage of anything else is. */
START_TEST(damaged_copy)
{
    send(TACIT_FRAME_VERDICT, 0, 0, 0);
    MUST(tacit__exchange_send(&ends[1], 0, (const uint8_t *)"damaged", 7));
    comes(0, 0);
    tacit__exchange_begin(&ends[0]);
    tacit__exchange_begin(&ends[1]);
    send(TACIT_FRAME_SPARSE, 0, 0, 5);
    MUST(tacit__exchange_send(&ends[1], 0, (const uint8_t *)"damaged", 7));
    comes(0, 5);
    fails("cannot be used");
}
END_TEST

/* Whatever part of the window holds a message when receives grow, the message is kept and larger ones follow. */
START_TEST(growing)
{
    size_t capacity = SMALL;

    for (int round = 0; round < 12; round++) {
        const int waiting = round % 4;

        tacit__exchange_begin(&ends[0]);
        tacit__exchange_begin(&ends[1]);
        for (int i = 0; i < waiting; i++) {
            send(TACIT_FRAME_SPARSE, 0, (uint32_t)i, 50);
        }
        if (round % 3 == 0 && waiting != 0) {
            comes(0, 50); /* turns the window */
        }
        capacity += 100;
        MUST(tacit__exchange_resize(&ends[0], capacity));
        ck_assert_uint_eq(ends[0].capacity, capacity);
        send(TACIT_FRAME_RESULT, 0, 0, waiting < TACIT_WINDOW ? capacity - TACIT_FRAME_HEADER_BYTES : 9);
        for (int i = round % 3 == 0 && waiting != 0; i < waiting; i++) {
            comes((uint32_t)i, 50);
        }
        comes(0, waiting < TACIT_WINDOW ? capacity - TACIT_FRAME_HEADER_BYTES : 9);
        send(TACIT_FRAME_RESULT, 0, 1, capacity - TACIT_FRAME_HEADER_BYTES);
        comes(1, capacity - TACIT_FRAME_HEADER_BYTES);
    }
    MUST(tacit__exchange_resize(&ends[0], SMALL));
    ck_assert_uint_eq(ends[0].capacity, capacity);
}
END_TEST

START_TEST(no_memory_to_grow)
{
    uint64_t nth = 1;

    send(TACIT_FRAME_SPARSE, 0, 0, 50);
    for (;; nth++) {
        tacit_status_t status;

        tacit__alloc_fail_after(nth);
        status = tacit__exchange_resize(&ends[0], LARGE);
        tacit__alloc_fail_after(0);
        if (status == TACIT_OK) {
            break;
        }
        ck_assert_int_eq(status, TACIT_ERR_MEMORY);
        ck_assert_uint_eq(ends[0].capacity, SMALL);
        comes((uint32_t)nth - 1, 50);
        send(TACIT_FRAME_SPARSE, 0, (uint32_t)nth, 50);
    }
    ck_assert_uint_gt(nth, TACIT_WINDOW);
    comes((uint32_t)nth - 1, 50);
    send(TACIT_FRAME_SPARSE, 0, (uint32_t)nth, LARGE - TACIT_FRAME_HEADER_BYTES);
    comes((uint32_t)nth, LARGE - TACIT_FRAME_HEADER_BYTES);
}
END_TEST

START_TEST(sends_are_counted)
{
    bool finished = false;

    for (uint32_t i = 0; i < 500; i++) {
        send(TACIT_FRAME_SPARSE, 0, i, 3);
    }
    ck_assert_uint_eq(ends[1].bytes_sent, 500 * (TACIT_FRAME_HEADER_BYTES + 3));
    for (int i = 0; i < 500 && !finished; i++) {
        MUST(tacit__exchange_poll_sends(&ends[1], &finished));
    }
    ck_assert(finished);
    tacit__exchange_begin(&ends[1]);
    ck_assert_uint_eq(ends[1].bytes_sent, 0);
}
END_TEST

START_TEST(buffers_are_used_again)
{
    tacit_buffer_t first, second, third = {0};
    uint8_t       *data;

    MUST(tacit__buffer_take(&ends[0], 10000, &first));
    data = first.data;
    tacit__buffer_give(&ends[0], &first);
    ck_assert_ptr_null(first.data);
    MUST(tacit__buffer_take(&ends[0], 9000, &second));
    ck_assert_ptr_eq(second.data, data);
    ck_assert_uint_ge(second.bytes, 9000);
    MUST(tacit__buffer_take(&ends[0], 9000, &first));
    ck_assert_ptr_ne(first.data, second.data);
    tacit__buffer_give(&ends[0], &first);
    tacit__buffer_give(&ends[0], &second);
    tacit__buffer_give(&ends[0], &third);
    for (int i = 0; i < 2 * TACIT_BUFFERS; i++) {
        first = (tacit_buffer_t){tacit__alloc_unset(100), 100};
        tacit__buffer_give(&ends[0], &first);
    }
    ck_assert_uint_eq(ends[0].free_count, TACIT_BUFFERS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exchange");
    TCase *tests = tcase_create("exchange");

    tcase_add_checked_fixture(tests, open_ends, close_ends);
    tcase_add_test(tests, in_order);
    tcase_add_test(tests, repeated);
    tcase_add_test(tests, missing);
    tcase_add_test(tests, earlier_and_later_operations);
    tcase_add_test(tests, sequence_wraps);
    tcase_add_test(tests, foreign);
    tcase_add_test(tests, damaged_copy);
    tcase_add_test(tests, growing);
    tcase_add_test(tests, no_memory_to_grow);
    tcase_add_test(tests, sends_are_counted);
    tcase_add_test(tests, buffers_are_used_again);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
