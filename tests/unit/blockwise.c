/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of many more chunks than are under way at once: results do not depend on who is late, nor on when messages are read, and
   memory does not grow with the part but for what is needed to take a step back. */
#include <time.h>

#include "session.h"

enum { RANKS = 3, CHUNK_BYTES = 1024, CELLS = 64, COUNT = 200000 }; /* parts of 130 to 260 chunks */

static const char *const specs[] = {"none+ef", "fp16", "qsgd:bits=8+ef", "fp16+ef21:average=0.5"};
enum { SPECS = sizeof specs / sizeof *specs };

static session_t session_of(int i)
{
    session_t session = {
        .spec = specs[i / 2], .ranks = RANKS, .steps = 2, .count = COUNT, .op = TACIT_SUM, .in_place = i % 2 != 0};

    session.config = (tacit_config_t)TACIT_CONFIG_INIT;
    session.config.chunk_bytes = CHUNK_BYTES;
    return session;
}

/* The last rank comes when the others have sent all that they may; then the first. */
static void late(tacit_slot_t *slot, int step)
{
    const struct timespec moment = {.tv_nsec = 50000000};

    if (slot->comm->rank == (step == 0 ? RANKS - 1 : 0)) {
        nanosleep(&moment, NULL);
    }
}

START_TEST(any_time)
{
    session_t session = session_of(_i), other = session_of(_i);

    session_run(&session);
    other.before = late;
    session_run(&other);
    sessions_equal(&session, &other, "a rank is late");
    session_free(&other);

    other = session_of(_i);
    other.lazy = true;
    session_run(&other);
    sessions_equal(&session, &other, "messages are read late");
    session_free(&other);
    session_free(&session);
}
END_TEST

typedef struct kept {
    bool   in_place;
    size_t bytes[RANKS]; /* after some calls */
} kept_t;

static void kept_body(tacit_comm_t *comm, void *arg)
{
    kept_t       *kept = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, "fp16+ef");
    float        *in = session_floats(COUNT), *out = session_floats(COUNT);

    for (int call = 0; call < 3; call++) {
        MUST(tacit_allreduce(slot, kept->in_place ? out : in, out, TACIT_SUM));
    }
    for (size_t i = 0; i < comm->exchange.free_count; i++) {
        kept->bytes[rank] += comm->exchange.free[i].bytes;
    }
    free(in);
    free(out);
}

START_TEST(memory_is_bounded)
{
    enum { MESSAGE = 64 + CHUNK_BYTES, CHUNKS = COUNT / (CHUNK_BYTES / 2) + 2 * RANKS, NOTES = 160, REST = 16384 };
    const size_t   tensors = _i == 0 ? 1 : 2, boxes = _i == 0 ? RANKS : RANKS - 1;
    kept_t         kept = {.in_place = _i != 0};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.chunk_bytes = CHUNK_BYTES;
    run_ranks(RANKS, &config, kept_body, &kept);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_uint_le(kept.bytes[rank], tensors * CHUNKS * MESSAGE + boxes * CELLS * MESSAGE + CHUNKS * NOTES + REST);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("blockwise");
    TCase *tests = tcase_create("blockwise");

    tcase_add_loop_test(tests, any_time, 0, 2 * SPECS);
    tcase_add_loop_test(tests, memory_is_bounded, 0, 2);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
