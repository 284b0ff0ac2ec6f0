/* SPDX-License-Identifier: Apache-2.0 */
/* Slots whose owners change how they add their own contribution: what a sender remembers of its own part is zero after exact
   ones, which is not read then, and is not after coded ones. */
#include "session.h"

#include <unistd.h>

enum { COUNT = 700, STEPS = 12, EVERY = 3 };

/* How steps begin: the first three with one spec, the next three with the other, and so on. */
static const struct {
    const char *specs[2];
} turns[] = {
    {{"onebit:block=0,own=coded+ef", "onebit:block=0,own=exact+ef"}},
    {{"onebit:block=64,own=exact+ef", "onebit:block=64,own=coded+ef"}},
    {{"onebit:block=64,own=coded+ef", "onebit:block=32,own=exact+ef"}},
    {{"qsgd:bits=3,own=coded+ef", "qsgd:bits=3,own=exact+ef"}},
    {{"qsgd:bits=6,own=exact,rounding=stochastic+ef", "qsgd:bits=8,own=coded,rounding=stochastic+ef"}},
    {{"qsgd:bits=3,block=64,own=coded+ef:residual=bf16", "qsgd:bits=3,block=64,own=exact+ef:residual=bf16"}},
    {{"onebit:block=64,own=coded+ef:residual=int8", "onebit:block=64,own=exact+ef:residual=int8"}},
};
static int turn; /* of the test that runs */

static void change_spec(tacit_slot_t *slot, int step)
{
    if (step > 0 && step % EVERY == 0) {
        MUST(tacit_slot_set_spec(slot, turns[turn].specs[step / EVERY % 2]));
    }
}

/* An operation that fails, at once and a step after a change. */
static void change_and_fail(tacit_slot_t *slot, int step)
{
    float *x = session_floats(COUNT);

    change_spec(slot, step);
    if (step % EVERY < 2) {
        session_normal(slot->comm->rank, 100 + step, COUNT, x);
        x[COUNT / 2] = slot->comm->rank == 1 ? NAN : 0.0f;
        if (tacit_allreduce(slot, x, x, TACIT_AVERAGE) != TACIT_ERR_VALUE) {
            abort();
        }
    }
    free(x);
}

/* What was saved after coded contributions is loaded after exact ones, and the other way round. */
static void change_and_load(tacit_slot_t *slot, int step)
{
    char path[HARNESS_PATH_BYTES];

    harness_path(path, "own.%d", slot->comm->rank);
    change_spec(slot, step);
    if (step == EVERY || step == 3 * EVERY) {
        MUST(tacit_save(slot->comm, path));
    } else if (step % EVERY == 2 && step > EVERY) {
        MUST(tacit_load(slot->comm, path));
    }
    if (step == STEPS - 1) {
        (void)unlink(path);
    }
}

static session_t session_of(int ranks, tacit_op_t op, void (*before)(tacit_slot_t *slot, int step), int strict)
{
    return (session_t){.spec = turns[turn].specs[0],
                       .ranks = ranks,
                       .steps = STEPS,
                       .count = COUNT,
                       .op = op,
                       .config = {.strict = strict},
                       .before = before};
}

static bool is_packed(void)
{
    return strstr(turns[turn].specs[0], "residual=") != NULL;
}

/* Strict slots read their memory always. */
static void as_strict(void (*before)(tacit_slot_t *slot, int step), tacit_op_t op)
{
    for (int ranks = 1; ranks <= 4; ranks++) {
        session_t quick = session_of(ranks, op, before, 0), strict = session_of(ranks, op, before, 1);

        session_run(&quick);
        session_run(&strict);
        sessions_equal(&quick, &strict, "strict");
        if (before == change_spec && !is_packed()) { /* which rounds */
            session_conserves(&quick);
        }
        session_free(&quick);
        session_free(&strict);
    }
}

START_TEST(changes)
{
    turn = _i;
    as_strict(change_spec, TACIT_SUM);
    as_strict(change_spec, TACIT_AVERAGE);
}
END_TEST

START_TEST(loads)
{
    turn = _i;
    as_strict(change_and_load, TACIT_AVERAGE);
}
END_TEST

START_TEST(failures)
{
    turn = _i;
    for (int ranks = 2; ranks <= 4 && !is_packed(); ranks++) {
        session_t quick = session_of(ranks, TACIT_AVERAGE, change_and_fail, 0);

        session_run(&quick);
        session_conserves(&quick);
        session_free(&quick);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("own");
    TCase *tests = tcase_create("own");

    tcase_add_loop_test(tests, changes, 0, (int)COUNT_OF(turns));
    tcase_add_loop_test(tests, loads, 0, (int)COUNT_OF(turns));
    tcase_add_loop_test(tests, failures, 0, (int)COUNT_OF(turns));
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 60);
    return harness_main(suite);
}
