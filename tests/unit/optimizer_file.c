/* SPDX-License-Identifier: Apache-2.0 */
/* State files of optimizers: damaged, cut, foreign and missing ones are refused by all ranks alike, and nothing has changed. */
#include "descent.h"

enum { RANKS = 2, COUNT = 40, MOST_BYTES = 2048, MOST_TRIES = 2 * MOST_BYTES };

/* What a rank works with. */
typedef struct desk {
    tacit_optim_t *optim;
    float          values[COUNT];
    int            rank;
    char           good[HARNESS_PATH_BYTES], bad[HARNESS_PATH_BYTES], slots[HARNESS_PATH_BYTES];
    char           bytes[MOST_BYTES]; /* of the good file */
    size_t         count;
} desk_t;

typedef struct outcome {
    const char    *optimizer, *other; /* another one, whose files are foreign */
    size_t         tries[RANKS];
    tacit_status_t status[RANKS][MOST_TRIES];
    char           complaint[RANKS][160];
    bool           restored[RANKS];
} outcome_t;

static void write_bad(const desk_t *desk, const char *bytes, size_t count)
{
    FILE *stream = fopen(desk->bad, "wb");

    if (stream == NULL || fwrite(bytes, 1, count, stream) != count || fclose(stream) != 0) {
        abort();
    }
}

static void read_good(desk_t *desk)
{
    FILE *stream = fopen(desk->good, "rb");

    if (stream == NULL) {
        abort();
    }
    desk->count = fread(desk->bytes, 1, MOST_BYTES, stream);
    (void)fclose(stream);
}

/* Every fourth element is silent at first, so that onebit-adam:freeze=2 has a mask. */
static void go(desk_t *desk, int first, int last)
{
    float              g[COUNT];
    float *const       values = desk->values;
    const float *const gradients = g;

    for (int step = first; step < last; step++) {
        descent_normal(desk->rank, step, 0, COUNT, g);
        for (size_t i = 0; step < 2 && i < COUNT; i += 4) {
            g[i] = 0.0f;
        }
        MUST(tacit_optim_step(desk->optim, &values, &gradients, 0.1));
    }
}

static uint64_t state_of(const desk_t *desk)
{
    uint64_t hash = tacit_optim_steps(desk->optim);

    for (size_t i = 0; i < TACIT_OPTIM_ARRAYS; i++) {
        const float *array = desk->optim->tensors[0].array[i];

        hash = array != NULL ? 31 * hash + harness_hash(array, COUNT * sizeof(float)) : hash;
    }
    return 31 * hash + harness_hash(desk->optim->numbers, sizeof desk->optim->numbers);
}

/* All ranks load from `path`, which is not right on one of them at least. */
static void load(desk_t *desk, outcome_t *outcome, const char *path, const char *what, size_t at)
{
    const uint64_t       before = state_of(desk);
    const tacit_status_t status = tacit_optim_load(desk->optim, path);

    outcome->status[desk->rank][outcome->tries[desk->rank]++] = status;
    if (status == TACIT_OK || state_of(desk) != before) {
        snprintf(outcome->complaint[desk->rank], sizeof outcome->complaint[0], "%s at %zu, %s", what, at,
                 status == TACIT_OK ? "accepted" : "state has changed");
    }
}

static void load_bad(desk_t *desk, outcome_t *outcome, const char *path, const char *what, size_t at)
{
    load(desk, outcome, desk->rank == 1 ? path : desk->good, what, at);
}

static void load_damaged(desk_t *desk, outcome_t *outcome)
{
    for (size_t cut = 0; cut < desk->count; cut += cut < 64 ? 3 : 19) {
        write_bad(desk, desk->bytes, cut);
        load_bad(desk, outcome, desk->bad, "cut", cut);
    }
    for (size_t at = 0; at < desk->count; at += at < 100 ? 1 : 11) {
        desk->bytes[at] = (char)(desk->bytes[at] ^ 1 << at % 8);
        write_bad(desk, desk->bytes, desk->count);
        load_bad(desk, outcome, desk->bad, "flipped", at);
        desk->bytes[at] = (char)(desk->bytes[at] ^ 1 << at % 8);
    }
    write_bad(desk, desk->bytes, desk->count + 1); /* one byte too many */
    load_bad(desk, outcome, desk->bad, "extended", desk->count);
}

/* A file that is whole, but in which a number is another one: on every rank, or on rank 1 alone. */
static void load_number(desk_t *desk, outcome_t *outcome, double *number, double other, bool all)
{
    const double kept = *number;

    *number = all || desk->rank == 1 ? other : kept;
    MUST(tacit_optim_save(desk->optim, desk->bad));
    *number = kept;
    load(desk, outcome, desk->bad, all ? "an impossible number" : "a number of another run", outcome->tries[desk->rank]);
}

/* Files that could be of another run at the same step. */
static void load_mixed(desk_t *desk, outcome_t *outcome)
{
    tacit_tensor_t *tensor = &desk->optim->tensors[0];

    for (size_t i = 0; i < TACIT_OPTIM_ARRAYS; i++) {
        if (tensor->array[i] != NULL) {
            const float kept = tensor->array[i][COUNT - 1];

            tensor->array[i][COUNT - 1] = desk->rank == 1 ? nextafterf(kept, INFINITY) : kept;
            MUST(tacit_optim_save(desk->optim, desk->bad));
            tensor->array[i][COUNT - 1] = kept;
            load(desk, outcome, desk->bad, "an array of another run", i);
        }
    }
    for (size_t i = 0; desk->optim->kind->numbers[i] != NULL; i++) {
        load_number(desk, outcome, &desk->optim->numbers[i], desk->optim->numbers[i] == 0, false);
        load_number(desk, outcome, &desk->optim->numbers[i], -1, true);
        load_number(desk, outcome, &desk->optim->numbers[i], NAN, true);
        load_number(desk, outcome, &desk->optim->numbers[i], INFINITY, true);
        if (desk->optim->kind->counters & 1u << i) {
            load_number(desk, outcome, &desk->optim->numbers[i], 0.5, true);
            load_number(desk, outcome, &desk->optim->numbers[i], (double)tacit_optim_steps(desk->optim) + 1, true);
        }
    }
    for (size_t i = 0; desk->optim->kind->tensor_numbers[i] != NULL; i++) {
        load_number(desk, outcome, &tensor->numbers[i], tensor->numbers[i] + 1, false);
        load_number(desk, outcome, &tensor->numbers[i], -1, true);
        load_number(desk, outcome, &tensor->numbers[i], NAN, true);
    }
}

/* Files that are whole, but of something else. */
static void load_foreign(tacit_comm_t *comm, desk_t *desk, outcome_t *outcome)
{
    tacit_slot_t  *slots[2] = {slot_of(comm, "tensor with another name", COUNT, TACIT_FLOAT32, "none"),
                               slot_of(comm, "shorter", COUNT - 1, TACIT_FLOAT32, "none")};
    tacit_optim_t *other;

    load_bad(desk, outcome, desk->slots, "a file of slots", 0);
    load_bad(desk, outcome, "/nonexistent/file", "no file", 0);
    load_bad(desk, outcome, "/", "a folder", 0);
    load_bad(desk, outcome, NULL, "no path", 0);
    for (size_t i = 0; i < 4; i++) { /* other parameters, and other, shorter or more tensors */
        MUST(tacit_optim_create(i == 0 ? outcome->other : outcome->optimizer, slots + (i == 2), i == 3 ? 2 : 1, &other));
        MUST(tacit_optim_save(other, desk->bad));
        tacit_optim_destroy(other);
        load_bad(desk, outcome, desk->bad, "another optimizer's file", i);
    }
    (void)remove(desk->bad);
    load_bad(desk, outcome, harness_path(desk->bad, "good.0"), "another rank's file", 0);
}

static void body(tacit_comm_t *comm, void *arg)
{
    outcome_t    *outcome = arg;
    desk_t        desk = {.rank = tacit_comm_rank(comm)};
    tacit_slot_t *slot = slot_of(comm, "tensor", COUNT, TACIT_FLOAT32, "onebit+ef");
    uint64_t      saved;

    harness_path(desk.good, "good.%d", desk.rank);
    harness_path(desk.bad, "bad.%d", desk.rank);
    harness_path(desk.slots, "slots.%d", desk.rank);
    MUST(tacit_optim_create(outcome->optimizer, &slot, 1, &desk.optim));
    go(&desk, 0, 4);
    MUST(tacit_optim_save(desk.optim, desk.good));
    MUST(tacit_save(comm, desk.slots));
    saved = state_of(&desk);
    go(&desk, 4, 6);
    read_good(&desk);
    load_damaged(&desk, outcome);
    load_mixed(&desk, outcome);
    load_foreign(comm, &desk, outcome);
    MUST(tacit_optim_load(desk.optim, desk.good));
    outcome->restored[desk.rank] = state_of(&desk) == saved;
    (void)remove(desk.good);
    (void)remove(desk.slots);
    tacit_optim_destroy(desk.optim);
}

START_TEST(wrong_files)
{
    static const char *const optimizers[][2] = {
        {"sgd:weight-decay=0.1", "sgd:weight-decay=0.2"},   {"adam", "adam:beta1=0.8"},
        {"onebit-adam:freeze=2", "onebit-adam:freeze=3"},   {"onebit-adam:freeze=9", "adam"},
        {"zeroone-adam:freeze=2", "zeroone-adam:freeze=3"}, {"onebit-lamb:freeze=2", "onebit-lamb:freeze=2,ratio-max=3"}};
    static outcome_t outcome;

    outcome = (outcome_t){.optimizer = optimizers[_i][0], .other = optimizers[_i][1]};
    run_ranks(RANKS, NULL, body, &outcome);
    ck_assert_uint_gt(outcome.tries[0], 100);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(outcome.complaint[rank][0] == '\0', "rank %d: %s", rank, outcome.complaint[rank]);
        ck_assert(outcome.restored[rank]);
        ck_assert_uint_eq(outcome.tries[rank], outcome.tries[0]);
    }
    for (size_t i = 0; i < outcome.tries[0]; i++) {
        ck_assert_int_eq(outcome.status[0][i], outcome.status[1][i]);
    }
}
END_TEST

static void refuse_to_save(tacit_comm_t *comm, void *arg)
{
    const int      rank = tacit_comm_rank(comm);
    tacit_slot_t  *slot = slot_of(comm, "tensor", COUNT, TACIT_FLOAT32, "none");
    tacit_optim_t *optim;
    char           path[HARNESS_PATH_BYTES];

    MUST(tacit_optim_create("adam", &slot, 1, &optim));
    harness_path(path, "state.%d", rank);
    ((tacit_status_t *)arg)[rank] = tacit_optim_save(optim, rank == 1 ? "/nonexistent/file" : path);
    ((tacit_status_t *)arg)[RANKS + rank] = tacit_optim_save(optim, rank == 1 ? NULL : path);
    (void)remove(path);
    tacit_optim_destroy(optim);
}

/* ---- Slots that follow from what is loaded ---- */

typedef struct masks {
    size_t         active[3]; /* elements that travel: as saved, with another mask, and as saved again */
    tacit_status_t status;
    bool           changed;
} masks_t;

static tacit_slot_t *active_slot(const tacit_optim_t *optim)
{
    for (size_t i = 0; i < optim->own_count; i++) {
        if (strstr(optim->own[i]->codec->name, "/active-") != NULL) {
            return optim->own[i];
        }
    }
    return NULL;
}

static void load_masks(tacit_comm_t *comm, void *arg)
{
    masks_t       *masks = arg;
    desk_t         desk = {.rank = tacit_comm_rank(comm)};
    tacit_slot_t  *slot = slot_of(comm, "tensor", COUNT, TACIT_FLOAT32, "onebit+ef");
    tacit_slot_t  *active;
    char           name[64];
    float         *v;
    size_t         counts[3] = {0};
    uint64_t       before;
    bool           changed;
    tacit_status_t status;

    harness_path(desk.good, "good.%d", desk.rank);
    harness_path(desk.bad, "other.%d", desk.rank);
    MUST(tacit_optim_create("onebit-adam:freeze=2", &slot, 1, &desk.optim));
    go(&desk, 0, 4);
    MUST(tacit_optim_save(desk.optim, desk.good));
    v = desk.optim->tensors[0].array[1];
    v[0] = 1.0f; /* of a run in which it was not silent */
    MUST(tacit_optim_save(desk.optim, desk.bad));
    v[0] = 0.0f;
    for (int i = 0; i < 3; i++) {
        MUST(i == 0 ? TACIT_OK : tacit_optim_load(desk.optim, i == 1 ? desk.bad : desk.good));
        active = active_slot(desk.optim);
        counts[i] = active != NULL ? active->codec->tensor.count : 0;
    }
    snprintf(name, sizeof name, "%s", active_slot(desk.optim)->codec->name);
    tacit_optim_destroy(desk.optim);

    /* The name of the slot that the file needs is taken: the optimizer stays what it was. */
    active = slot_of(comm, name, 1, TACIT_FLOAT32, "none");
    MUST(tacit_optim_create("onebit-adam:freeze=2", &slot, 1, &desk.optim));
    go(&desk, 0, 1);
    before = state_of(&desk);
    status = tacit_optim_load(desk.optim, desk.good);
    changed = state_of(&desk) != before;
    if (desk.rank == 0) {
        memcpy(masks->active, counts, sizeof counts);
        masks->status = status;
        masks->changed = changed;
    }
    tacit_optim_destroy(desk.optim);
    tacit_slot_destroy(active);
    (void)remove(desk.good);
    (void)remove(desk.bad);
}

START_TEST(other_masks)
{
    masks_t masks = {.status = TACIT_OK};

    run_ranks(RANKS, NULL, load_masks, &masks);
    ck_assert_uint_eq(masks.active[0], COUNT - COUNT / 4);
    ck_assert_uint_eq(masks.active[1], COUNT - COUNT / 4 + 1);
    ck_assert_uint_eq(masks.active[2], COUNT - COUNT / 4);
    ck_assert_int_eq(masks.status, TACIT_ERR_ARGUMENT);
    ck_assert(!masks.changed);
}
END_TEST

/* A file that one rank cannot write is every rank's error. */
START_TEST(not_saved)
{
    tacit_status_t status[2 * RANKS] = {TACIT_OK};

    run_ranks(RANKS, NULL, refuse_to_save, status);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(status[rank], TACIT_ERR_FILE);
        ck_assert_int_eq(status[RANKS + rank], TACIT_ERR_ARGUMENT);
    }
}
END_TEST

/* ---- What messages say ---- */

typedef struct sayings {
    char other[TACIT_TEXT_BYTES], file[TACIT_TEXT_BYTES], created[TACIT_TEXT_BYTES], unknown[TACIT_TEXT_BYTES];
} sayings_t;

static void say(tacit_comm_t *comm, void *arg)
{
    sayings_t     *sayings = arg;
    const int      rank = tacit_comm_rank(comm);
    tacit_slot_t  *slot = slot_of(comm, "tensor", COUNT, TACIT_FLOAT32, "onebit");
    tacit_optim_t *optim;
    char           path[HARNESS_PATH_BYTES], text[3][TACIT_TEXT_BYTES];
    tacit_status_t status[5];

    harness_path(path, "say.%d", rank);
    MUST(tacit_optim_create("sgd:warmup-steps=3", &slot, 1, &optim));
    MUST(tacit_optim_save(optim, path));
    status[0] = tacit_load(comm, path);
    snprintf(text[0], sizeof text[0], "%s", tacit_last_error());
    tacit_optim_destroy(optim);
    MUST(tacit_optim_create("sgd:warmup-steps=4", &slot, 1, &optim));
    status[1] = tacit_optim_load(optim, path);
    snprintf(text[1], sizeof text[1], "%s", tacit_last_error());
    tacit_optim_destroy(optim);
    status[2] = tacit_optim_create(rank == 1 ? "sgd:warmup-steps=5" : "sgd:warmup-steps=6", &slot, 1, &optim);
    snprintf(text[2], sizeof text[2], "%s", tacit_last_error());
    status[3] = tacit_slot_set_spec(slot, rank == 1 ? "bogus" : "onebit");
    status[3] = status[3] == TACIT_ERR_SPEC && strstr(tacit_last_error(), "rank 1: ") != NULL ? TACIT_ERR_SPEC : TACIT_OK;
    status[4] = tacit_optim_create(rank == 1 ? "bogus" : "sgd", &slot, 1, &optim);
    if (rank == 0 && status[0] == TACIT_ERR_FILE && status[1] == TACIT_ERR_MISMATCH && status[2] == TACIT_ERR_MISMATCH &&
        status[3] == TACIT_ERR_SPEC && status[4] == TACIT_ERR_SPEC) {
        memcpy(sayings->other, text[0], sizeof text[0]);
        memcpy(sayings->file, text[1], sizeof text[1]);
        memcpy(sayings->created, text[2], sizeof text[2]);
        snprintf(sayings->unknown, sizeof sayings->unknown, "%s", tacit_last_error());
    }
    (void)remove(path);
}

static void contains(const char *text, const char *words)
{
    ck_assert_msg(strstr(text, words) != NULL, "'%s' is not in '%s'", words, text);
}

/* Differences are seen, and whose a mistake is. */
START_TEST(messages)
{
    static sayings_t sayings;

    run_ranks(RANKS, NULL, say, &sayings);
    contains(sayings.other, "holds an optimizer's state; tacit_optim_load() reads it");
    contains(sayings.file, "'...warmup-steps=3");
    contains(sayings.file, "'...warmup-steps=4");
    contains(sayings.created, "rank 1 has '...warmup-steps=5");
    contains(sayings.created, "rank 0 has '...warmup-steps=6");
    contains(sayings.unknown, "rank 1: unknown optimizer 'bogus'");
}
END_TEST

/* Destroyed after its communicator, which is a mistake, and used in between. */
START_TEST(communicator_is_gone)
{
    tacit_loop_t     *loop;
    tacit_transport_t transport;
    tacit_comm_t     *comm;
    tacit_slot_t     *slot;
    tacit_optim_t    *optim;
    tacit_counters_t  counters;
    static float      x[COUNT];

    ck_assert_int_eq(tacit_loop_create(1, &loop), TACIT_OK);
    ck_assert_int_eq(tacit_loop_transport(loop, 0, &transport), TACIT_OK);
    ck_assert_int_eq(tacit_comm_create(&transport, NULL, &comm), TACIT_OK);
    slot = slot_of(comm, "tensor", COUNT, TACIT_FLOAT32, "onebit+ef");
    ck_assert_int_eq(tacit_optim_create("onebit-adam:freeze=2", &slot, 1, &optim), TACIT_OK);
    tacit_comm_destroy(comm);
    ck_assert_int_eq(tacit_optim_step(optim, (float *const[]){x}, (const float *const[]){x}, 0.1), TACIT_ERR_STATE);
    ck_assert_int_eq(tacit_optim_save(optim, "unwritten"), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_optim_load(optim, "unwritten"), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_optim_counters(optim, &counters), TACIT_OK);
    tacit_optim_destroy(optim);
    tacit_loop_release(loop);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("optimizer_file");
    TCase *tests = tcase_create("optimizer_file");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, wrong_files, 0, 6);
    tcase_add_test(tests, other_masks);
    tcase_add_test(tests, not_saved);
    tcase_add_test(tests, messages);
    tcase_add_test(tests, communicator_is_gone);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
