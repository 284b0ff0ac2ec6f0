/* SPDX-License-Identifier: Apache-2.0 */
/* What all optimizers have in common: words, and errors that every rank returns alike and that leave everything as it was. */
#include <pthread.h>

#include "descent.h"

enum { RANKS = 3, CLEAN = 3, COUNT0 = 70, COUNT1 = 9, MOST_FAILURES = 2000 };

/* A stage of every kind: a new optimizer of the registry gets at least its default. */
static const char *const stages[] = {"sgd:warmup=reference,warmup-entries=2,warmup-steps=3,rescale=on,clip=1",
                                     "onebit-adam:freeze=2,clip=1", "onebit-adam:freeze=100,clip=1",
                                     "onebit-lamb:freeze=2,clip=1"};

static const char *case_at(int index)
{
    const int      count = (int)COUNT_OF(stages);
    tacit_module_t module;

    if (index < count) {
        return stages[index];
    }
    return tacit_module(TACIT_OPTIMIZERS, (size_t)(index - count), &module) == TACIT_OK ? module.name : NULL;
}

static int case_count(void)
{
    int count = 0;

    while (case_at(count) != NULL) {
        count++;
    }
    return count;
}

/* ---- Words ---- */

START_TEST(canonical_words)
{
    tacit_module_t module;
    char           canonical[512], again[512];

    for (size_t i = 0; tacit_module(TACIT_OPTIMIZERS, i, &module) == TACIT_OK; i++) {
        ck_assert_msg(tacit_optim_check(module.name, canonical, sizeof canonical) == TACIT_OK, "%s", tacit_last_error());
        ck_assert_msg(strlen(canonical) < TACIT_SPEC_BYTES / 2, "%s is too long to be given again", canonical);
        for (const tacit_param_t *param = module.params; param->key != NULL; param++) {
            ck_assert_msg(strstr(canonical, param->key) != NULL, "%s is not in %s", param->key, canonical);
            ck_assert(strlen(param->help) > 10 && param->unit != NULL);
        }
        ck_assert_int_eq(tacit_optim_check(canonical, again, sizeof again), TACIT_OK);
        ck_assert_str_eq(canonical, again);
    }
}
END_TEST

START_TEST(typos)
{
    static const struct {
        const char *spec, *words;
    } cases[] = {
        {"agd", "did you mean 'sgd'?"},
        {"onebit_adam", "did you mean 'onebit-adam'?"},
        {"", "to choose from: sgd, adam"},
        {NULL, "to choose from: sgd, adam"},
        {"sgd:momentun=0.9", "did you mean 'momentum'?"},
        {"sgd:momentum", "expected key=value"},
        {"sgd:momentum=0.9,momentum=0.9", "twice"},
        {"adam+ef", "'+ef' in 'adam+ef' is not understood"},
        {"adam:beta1=1", "from 0 to 0.999999999"},
        {"onebit-adam:freeze=0", "from 1 to 1e+12 steps, or 'auto'"},
        {"sgd:clip-scope=each", "choose one of: all tensor"},
    };

    ck_assert_int_eq(tacit_optim_check(cases[_i].spec, NULL, 0), TACIT_ERR_SPEC);
    ck_assert_msg(strstr(tacit_last_error(), cases[_i].words) != NULL, "%s", tacit_last_error());
}
END_TEST

/* ---- Making ---- */

typedef struct verdicts {
    int            what;
    const char    *optimizer;
    tacit_status_t status[RANKS];
    char           text[RANKS][TACIT_TEXT_BYTES];
} verdicts_t;

static void note(verdicts_t *verdicts, int rank, tacit_status_t status)
{
    verdicts->status[rank] = status;
    snprintf(verdicts->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
}

static void all_return(const verdicts_t *verdicts, tacit_status_t expected, const char *words)
{
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(verdicts->status[rank] == expected, "rank %d: %s: %s, not %s", rank, tacit_strerror(verdicts->status[rank]),
                      verdicts->text[rank], tacit_strerror(expected));
        ck_assert_msg(strstr(verdicts->text[rank], words) != NULL, "rank %d: '%s' is not in '%s'", rank, words,
                      verdicts->text[rank]);
        ck_assert_str_eq(verdicts->text[rank], verdicts->text[0]);
    }
}

enum { BAD_SPEC, OTHER_SPEC, OTHER_SLOTS, TWICE, NOT_FLOAT32, NULL_SLOT, GRABBED_NAME, MAKINGS };

static void make_badly(tacit_comm_t *comm, void *arg)
{
    verdicts_t   *verdicts = arg;
    const int     rank = tacit_comm_rank(comm), what = verdicts->what;
    const bool    odd = rank == 1;
    const char   *spec = "onebit-adam";
    size_t        count = 2;
    tacit_slot_t *slots[3] = {slot_of(comm, "first", 5, TACIT_FLOAT32, "none"), slot_of(comm, "second", 5, TACIT_FLOAT32, "none"),
                              slot_of(comm, "half", 5, TACIT_FLOAT16, "none")};
    tacit_optim_t *optim = NULL;

    if (what == GRABBED_NAME) {
        (void)slot_of(comm, "second/warm-up", 5, TACIT_FLOAT32, "none");
    }
    if (odd && what == BAD_SPEC) {
        spec = "onebit-adm";
    } else if (odd && what == OTHER_SPEC) {
        spec = "onebit-adam:beta1=0.8";
    } else if (odd && what == OTHER_SLOTS) {
        count = 1;
    } else if (odd && what == TWICE) {
        slots[1] = slots[0];
    } else if (odd && what == NOT_FLOAT32) {
        slots[1] = slots[2];
    } else if (odd && what == NULL_SLOT) {
        slots[1] = NULL;
    }
    note(verdicts, rank, tacit_optim_create(spec, slots, count, &optim));
    tacit_optim_destroy(optim);
    if (what != GRABBED_NAME) { /* nothing is left behind: the same can be made now */
        slots[1] = comm->slots->next;
        MUST(tacit_optim_create("onebit-adam", slots, 2, &optim));
        tacit_optim_destroy(optim);
    }
}

START_TEST(making)
{
    static const struct {
        tacit_status_t status;
        const char    *words;
    } expected[MAKINGS] = {
        {TACIT_ERR_SPEC, "did you mean 'onebit-adam'"},
        {TACIT_ERR_MISMATCH, "beta1=0.8"},
        {TACIT_ERR_MISMATCH, "rank 1 has '1 slots"},
        {TACIT_ERR_ARGUMENT, "slot 'first' is given twice"},
        {TACIT_ERR_UNSUPPORTED, "slot 'half': optimizers work on float32"},
        {TACIT_ERR_ARGUMENT, "slot 1 of an optimizer is NULL"},
        {TACIT_ERR_ARGUMENT, "there is a slot 'second/warm-up' already"},
    };
    verdicts_t verdicts = {.what = _i};

    run_ranks(RANKS, NULL, make_badly, &verdicts);
    all_return(&verdicts, expected[_i].status, expected[_i].words);
}
END_TEST

/* ---- Steps that fail ---- */

typedef struct desk {
    tacit_comm_t  *comm;
    tacit_slot_t  *slots[2];
    tacit_optim_t *optim;
    float          values[COUNT0 + COUNT1], gradients[COUNT0 + COUNT1];
    int            rank, step;
} desk_t;

static tacit_status_t take(desk_t *desk, double rate)
{
    float *const       values[] = {desk->values, desk->values + COUNT0};
    const float *const gradients[] = {desk->gradients, desk->gradients + COUNT0};

    return tacit_optim_step(desk->optim, values, gradients, rate);
}

static void fill(desk_t *desk)
{
    descent_normal(desk->rank, desk->step, 0, COUNT0, desk->gradients);
    descent_normal(desk->rank, desk->step, 1, COUNT1, desk->gradients + COUNT0);
}

static void set_up(desk_t *desk, tacit_comm_t *comm, const char *optimizer)
{
    *desk = (desk_t){.comm = comm, .rank = tacit_comm_rank(comm)};
    desk->slots[0] = slot_of(comm, "first", COUNT0, TACIT_FLOAT32, "topk:ratio=0.1+ef");
    desk->slots[1] = slot_of(comm, "second", COUNT1, TACIT_FLOAT32, "onebit+ef");
    if (optimizer != NULL) {
        MUST(tacit_optim_create(optimizer, desk->slots, 2, &desk->optim));
    }
}

static void go_on(desk_t *desk, int steps)
{
    for (int i = 0; i < steps; i++, desk->step++) {
        fill(desk);
        MUST(take(desk, 0.1 / (1 + desk->step)));
    }
}

/* Of everything that a step may change, but for the density, which a failed step may have set already. */
static uint64_t state_of(const desk_t *desk)
{
    uint64_t hash = harness_hash(desk->values, sizeof desk->values) ^ tacit_optim_steps(desk->optim);

    for (size_t i = 0; i < desk->optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &desk->optim->tensors[i];

        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
            if (tensor->array[j] != NULL) {
                hash = 31 * hash + harness_hash(tensor->array[j], tensor->count * sizeof(float));
            }
        }
    }
    return hash;
}

enum { NO_FAULT, NULL_VALUES, NULL_GRADIENT, BAD_RATE, OTHER_RATE, NOT_A_NUMBER, INFINITE, OPEN_GROUP, FAULTS };

typedef struct trial {
    verdicts_t verdicts;
    bool       changed[RANKS];
    uint64_t   after[RANKS]; /* state when the run has gone on */
} trial_t;

static tacit_status_t misbehave(desk_t *desk, int what)
{
    float *const       values[] = {desk->values, desk->values + COUNT0};
    const float *const gradients[] = {desk->gradients, NULL};
    const double       rate = 0.1 / (1 + desk->step);
    const bool         odd = desk->rank == 1;
    tacit_status_t     status;

    fill(desk);
    switch (what) {
    case NULL_VALUES:
        return odd ? tacit_optim_step(desk->optim, NULL, gradients, rate) : take(desk, rate);
    case NULL_GRADIENT:
        return odd ? tacit_optim_step(desk->optim, values, gradients, rate) : take(desk, rate);
    case BAD_RATE:
        return take(desk, odd ? -0.5 : rate);
    case OTHER_RATE:
        return take(desk, odd ? rate / 2 : rate);
    case NOT_A_NUMBER:
        desk->gradients[COUNT0 + 3] = odd ? NAN : 1.0f;
        return take(desk, rate);
    case INFINITE:
        desk->gradients[11] = odd ? INFINITY : 1.0f;
        return take(desk, rate);
    default:
        if (odd) {
            MUST(tacit_group_begin(desk->comm));
        }
        status = take(desk, rate);
        if (odd) {
            char text[TACIT_TEXT_BYTES];

            snprintf(text, sizeof text, "%s", tacit_last_error());
            MUST(tacit_group_end(desk->comm, NULL));
            (void)tacit__fail_text(status, text);
        }
        return status;
    }
}

static void step_badly(tacit_comm_t *comm, void *arg)
{
    trial_t *trial = arg;
    desk_t   desk;
    uint64_t before;

    set_up(&desk, comm, trial->verdicts.optimizer);
    go_on(&desk, CLEAN);
    before = state_of(&desk);
    if (trial->verdicts.what != NO_FAULT) {
        note(&trial->verdicts, desk.rank, misbehave(&desk, trial->verdicts.what));
        trial->changed[desk.rank] = state_of(&desk) != before;
    }
    go_on(&desk, CLEAN);
    trial->after[desk.rank] = state_of(&desk);
    tacit_optim_destroy(desk.optim);
}

/* In strict mode even the slots' memory is as it was, so that the run goes on as if nothing had happened. */
START_TEST(failed_steps)
{
    static const struct {
        tacit_status_t status;
        const char    *words;
    } expected[FAULTS] = {
        {TACIT_OK, ""},
        {TACIT_ERR_ARGUMENT, "rank 1: tacit_optim_step: values and gradients must be given"},
        {TACIT_ERR_ARGUMENT, "rank 1: tacit_optim_step: values or gradients of slot 'second'"},
        {TACIT_ERR_ARGUMENT, "rank 1: tacit_optim_step: the rate -0.5"},
        {TACIT_ERR_MISMATCH, "rank 1 has 'step 3 at rate 0.0125"},
        {TACIT_ERR_VALUE, "rank 1: slot 'second"},
        {TACIT_ERR_VALUE, "rank 1: slot 'first"},
        {TACIT_ERR_STATE, "rank 1: a group is open"},
    };
    tacit_config_t config = TACIT_CONFIG_INIT;
    trial_t        clean = {.verdicts = {.optimizer = case_at(_i)}}, trial;

    config.strict = 1;
    run_ranks(RANKS, &config, step_badly, &clean);
    for (int what = NO_FAULT + 1; what < FAULTS; what++) {
        trial = (trial_t){.verdicts = {.optimizer = clean.verdicts.optimizer, .what = what}};
        run_ranks(RANKS, &config, step_badly, &trial);
        all_return(&trial.verdicts, expected[what].status, expected[what].words);
        for (int rank = 0; rank < RANKS; rank++) {
            ck_assert_msg(!trial.changed[rank], "%s, fault %d: rank %d has changed", trial.verdicts.optimizer, what, rank);
            /* A rate that was another one on rank 1 only may have rescaled its memory there and back. */
            ck_assert_msg(trial.after[rank] == clean.after[rank] || what == OTHER_RATE, "%s, fault %d: rank %d goes on otherwise",
                          trial.verdicts.optimizer, what, rank);
        }
    }
}
END_TEST

/* ---- Missing memory ---- */

typedef struct shortage {
    const char       *optimizer;
    uint64_t          nth;
    bool              step; /* else making */
    tacit_status_t    status[RANKS];
    bool              changed[RANKS];
    uint64_t          after[RANKS];
    pthread_barrier_t barrier;
} shortage_t;

static void run_short(tacit_comm_t *comm, void *arg)
{
    shortage_t *shortage = arg;
    desk_t      desk;
    uint64_t    before = 0;

    set_up(&desk, comm, shortage->step ? shortage->optimizer : NULL);
    if (shortage->step) {
        go_on(&desk, 2);
        before = state_of(&desk);
        fill(&desk);
    }
    pthread_barrier_wait(&shortage->barrier);
    if (desk.rank == 0) {
        tacit__alloc_fail_after(shortage->nth);
    }
    pthread_barrier_wait(&shortage->barrier);
    shortage->status[desk.rank] =
        shortage->step ? take(&desk, 0.01) : tacit_optim_create(shortage->optimizer, desk.slots, 2, &desk.optim);
    pthread_barrier_wait(&shortage->barrier);
    if (desk.rank == 0) {
        tacit__alloc_fail_after(0);
    }
    pthread_barrier_wait(&shortage->barrier);
    if (shortage->status[desk.rank] != TACIT_OK) {
        if (shortage->step) {
            shortage->changed[desk.rank] = state_of(&desk) != before;
            MUST(take(&desk, 0.01));
        } else {
            MUST(tacit_optim_create(shortage->optimizer, desk.slots, 2, &desk.optim));
        }
    }
    shortage->after[desk.rank] = harness_hash(desk.values, sizeof desk.values);
    tacit_optim_destroy(desk.optim);
}

static void run_out_of_memory(const char *optimizer, bool step)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    uint64_t       after = 0;
    bool           failed = true;

    config.strict = 1;
    for (uint64_t nth = 0; failed; nth++) {
        shortage_t shortage = {.optimizer = optimizer, .nth = nth, .step = step};

        ck_assert_msg(nth < MOST_FAILURES, "%s never succeeds", optimizer);
        pthread_barrier_init(&shortage.barrier, NULL, RANKS);
        run_ranks(RANKS, &config, run_short, &shortage);
        pthread_barrier_destroy(&shortage.barrier);
        after = nth == 0 ? shortage.after[0] : after;
        failed = nth == 0 || shortage.status[0] != TACIT_OK;
        for (int rank = 0; rank < RANKS; rank++) {
            ck_assert_msg(shortage.status[rank] == (failed && nth != 0 ? TACIT_ERR_MEMORY : TACIT_OK),
                          "%s, allocation %d: rank %d returns %s", optimizer, (int)nth, rank,
                          tacit_strerror(shortage.status[rank]));
            ck_assert_msg(!shortage.changed[rank] && shortage.after[rank] == after, "%s, allocation %d: rank %d has changed",
                          optimizer, (int)nth, rank);
        }
    }
}

START_TEST(no_memory_to_make)
{
    run_out_of_memory(case_at(_i), false);
}
END_TEST

START_TEST(no_memory_to_step)
{
    run_out_of_memory(case_at(_i), true);
}
END_TEST

/* ---- Memory that is rescaled ---- */

typedef struct rescaling {
    tacit_status_t status[RANKS];
    double         before[RANKS], after[RANKS], free[RANKS]; /* norm of the first slot's memory */
} rescaling_t;

/* The second slot is busy: the first one's memory is multiplied, and must be brought back. */
static void rescale_busy(tacit_comm_t *comm, void *arg)
{
    rescaling_t     *rescaling = arg;
    desk_t           desk;
    tacit_norms_t    norms;
    tacit_request_t *request;
    float            in[COUNT1] = {0.0f}, out[COUNT1];

    set_up(&desk, comm, "sgd");
    go_on(&desk, 2);
    MUST(tacit_slot_norms(desk.slots[0], &norms));
    rescaling->before[desk.rank] = norms.memory;
    MUST(tacit_iallreduce(desk.slots[1], in, out, TACIT_AVERAGE, &request));
    rescaling->status[desk.rank] = tacit__optim_rescale(desk.optim, 4.0);
    MUST(tacit_wait(&request));
    MUST(tacit_slot_norms(desk.slots[0], &norms));
    rescaling->after[desk.rank] = norms.memory;
    MUST(tacit__optim_rescale(desk.optim, 4.0));
    MUST(tacit_slot_norms(desk.slots[0], &norms));
    rescaling->free[desk.rank] = norms.memory;
    tacit_optim_destroy(desk.optim);
}

START_TEST(rescales_all_or_none)
{
    rescaling_t rescaling;

    run_ranks(RANKS, NULL, rescale_busy, &rescaling);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(rescaling.status[rank], TACIT_ERR_STATE);
        ck_assert(rescaling.before[rank] > 0 && rescaling.after[rank] == rescaling.before[rank]);
        ck_assert(rescaling.free[rank] == 4.0 * rescaling.before[rank]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("optimizer");
    TCase *tests = tcase_create("optimizer");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, canonical_words);
    tcase_add_loop_test(tests, typos, 0, 11);
    tcase_add_loop_test(tests, making, 0, MAKINGS);
    tcase_add_loop_test(tests, failed_steps, 0, case_count());
    tcase_add_loop_test(tests, no_memory_to_make, 0, case_count());
    tcase_add_loop_test(tests, no_memory_to_step, 0, case_count());
    tcase_add_test(tests, rescales_all_or_none);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
