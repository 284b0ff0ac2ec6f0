/* SPDX-License-Identifier: Apache-2.0 */
/* Files of layerwise adaptation: whatever one of them says that cannot be, or that the other ranks' do not say, all ranks refuse
   it, and nothing has changed. */
#include "lgreco.h"
#include "lgreco_data.h"
#include "session.h"

enum { RANKS = 2, SLOTS = 2, COUNT = 400, STEPS = 7 };

static const char magic[TACIT_STATE_MAGIC_BYTES] = "TACITLGR";

static void remove_files(void)
{
    static const char *const files[] = {"good", "edited", "memory"};
    char                     path[HARNESS_PATH_BYTES];

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        for (int rank = 0; rank < RANKS; rank++) {
            (void)remove(harness_path(path, "%s.%d", files[i], rank));
        }
    }
}

/* ---- A file taken apart, and put together again ---- */

typedef struct contents {
    char     identity[TACIT_STATE_TEXT_BYTES];
    uint64_t layers, steps, counted, plans;
    double   report[5];
    struct {
        char     name[TACIT_STATE_TEXT_BYTES], start[TACIT_STATE_TEXT_BYTES];
        uint64_t count, options, choice, sums;
        double   norm;
        float    sum[COUNT];
    } layer[SLOTS];
} contents_t;

static void read_contents(int rank, const char *path, contents_t *of)
{
    tacit_reader_t reader;
    const void    *values;

    MUST(tacit__state_open(&reader, rank, RANKS, path, magic));
    MUST(tacit__get_text(&reader, of->identity));
    MUST(tacit__get_number(&reader, &of->layers));
    MUST(tacit__get_number(&reader, &of->steps));
    MUST(tacit__get_number(&reader, &of->counted));
    MUST(tacit__get_number(&reader, &of->plans));
    for (int i = 0; i < 5; i++) {
        MUST(tacit__get_real(&reader, &of->report[i]));
    }
    for (size_t i = 0; i < SLOTS; i++) {
        MUST(tacit__get_text(&reader, of->layer[i].name));
        MUST(tacit__get_number(&reader, &of->layer[i].count));
        MUST(tacit__get_text(&reader, of->layer[i].start));
        MUST(tacit__get_number(&reader, &of->layer[i].options));
        MUST(tacit__get_number(&reader, &of->layer[i].choice));
        MUST(tacit__get_real(&reader, &of->layer[i].norm));
        MUST(tacit__get_array(&reader, NULL, &values, &of->layer[i].sums));
        memcpy(of->layer[i].sum, values, of->layer[i].sums * sizeof(float));
    }
    MUST(tacit__state_end(&reader));
    tacit__state_close(&reader);
}

static void put_contents(tacit_writer_t *writer, const void *state)
{
    const contents_t *of = state;

    tacit__put_text(writer, of->identity);
    tacit__put_number(writer, of->layers);
    tacit__put_number(writer, of->steps);
    tacit__put_number(writer, of->counted);
    tacit__put_number(writer, of->plans);
    for (int i = 0; i < 5; i++) {
        tacit__put_real(writer, of->report[i]);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        tacit__put_text(writer, of->layer[i].name);
        tacit__put_number(writer, of->layer[i].count);
        tacit__put_text(writer, of->layer[i].start);
        tacit__put_number(writer, of->layer[i].options);
        tacit__put_number(writer, of->layer[i].choice);
        tacit__put_real(writer, of->layer[i].norm);
        tacit__put_array(writer, "sum", of->layer[i].sum, of->layer[i].sums);
    }
}

/* ---- Runs ---- */

static void make(tacit_comm_t *comm, const char *spec_of_b, tacit_slot_t *slots[SLOTS], tacit_lgreco_t **lgreco_out)
{
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;

    slots[0] = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "topk:ratio=0.05+ef");
    slots[1] = slot_of(comm, "b", COUNT, TACIT_FLOAT32, spec_of_b);
    config.every = 4;
    config.gather = 2;
    MUST(tacit_lgreco_create(slots, SLOTS, &config, lgreco_out));
}

static void observe(tacit_lgreco_t *lgreco, int rank, int step)
{
    float        values[SLOTS][COUNT];
    const float *gradients[SLOTS] = {values[0], values[1]};

    fill(values[0], COUNT, 100u * (uint64_t)rank + (uint64_t)step, 2, 1);
    fill(values[1], COUNT, 100u * (uint64_t)rank + (uint64_t)step + 50, 0.1, 1);
    MUST(tacit_lgreco_observe(lgreco, gradients));
}

/* After a plan, and after the first of two steps that the next one sees. */
static void save_body(tacit_comm_t *comm, void *arg)
{
    const int       rank = tacit_comm_rank(comm);
    tacit_slot_t   *slots[SLOTS];
    tacit_lgreco_t *lgreco;
    char            path[HARNESS_PATH_BYTES];

    (void)arg;
    make(comm, "topk:ratio=0.05+ef", slots, &lgreco);
    for (int step = 0; step < STEPS; step++) {
        observe(lgreco, rank, step);
    }
    MUST(tacit_lgreco_save(lgreco, harness_path(path, "good.%d", rank)));
    tacit_lgreco_destroy(lgreco);
}

static uint64_t state_of(const tacit_lgreco_t *lgreco)
{
    uint64_t hash = 31 * lgreco->steps + lgreco->counted;

    hash = 31 * hash + harness_hash(&lgreco->report, sizeof lgreco->report);
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];
        const char          *spec = tacit_slot_spec(layer->slot);

        hash = 31 * hash + harness_hash(spec, strlen(spec));
        hash = 31 * hash + harness_hash(&layer->norm_before, sizeof layer->norm_before);
        hash = 31 * hash + (layer->sum != NULL ? harness_hash(layer->sum, COUNT * sizeof *layer->sum) : 7);
    }
    return hash;
}

/* ---- What is refused ---- */

static void no_edit(contents_t *of)
{
    (void)of;
}
static void other_identity(contents_t *of)
{
    of->identity[0]++;
}
static void more_layers(contents_t *of)
{
    of->layers++;
}
static void other_step(contents_t *of)
{
    of->steps++;
}
static void earlier_step(contents_t *of)
{
    of->steps -= 2;
}
static void counted(contents_t *of)
{
    of->counted = 1;
}
static void counted_twice(contents_t *of)
{
    of->counted = 2;
}
static void more_plans(contents_t *of)
{
    of->plans++;
}
static void other_bytes(contents_t *of)
{
    of->report[1] += 1;
}
static void other_slot(contents_t *of)
{
    of->layer[1].name[0] = 'c';
}
static void other_count(contents_t *of)
{
    of->layer[1].count--;
}
static void other_start(contents_t *of)
{
    of->layer[1].start[0] = '1';
}
static void other_options(contents_t *of)
{
    of->layer[1].options++;
}
static void choice_of_none(contents_t *of)
{
    of->layer[1].choice = 99;
}
static void other_choice(contents_t *of)
{
    of->layer[1].choice ^= 1;
}
static void other_norm(contents_t *of)
{
    of->layer[0].norm *= 2;
}
static void no_sum(contents_t *of)
{
    of->layer[1].sums = 0;
}
static void short_sum(contents_t *of)
{
    of->layer[1].sums--;
}

static const struct edit {
    void (*edit)(contents_t *of);
    tacit_status_t status;
    const char    *words; /* of rank 1, whose file it is */
} edits[] = {
    {no_edit, TACIT_OK, ""},
    {other_identity, TACIT_ERR_MISMATCH, "the layerwise adaptation is"},
    {more_layers, TACIT_ERR_MISMATCH, "the number of layers is 3 in the file, 2 here"},
    {other_step, TACIT_ERR_FILE, "a layer's numbers are impossible"}, /* a plan has just been made, and there are sums */
    {earlier_step, TACIT_ERR_FILE, "a layer's numbers are impossible"},
    {counted, TACIT_ERR_MISMATCH, "choices and numbers with hash"},
    {counted_twice, TACIT_ERR_FILE, "'counted' is neither 0 nor 1"},
    {more_plans, TACIT_ERR_MISMATCH, "2 plans"},
    {other_bytes, TACIT_ERR_MISMATCH, "choices and numbers with hash"},
    {other_slot, TACIT_ERR_MISMATCH, "the slot's name is 'c' in the file, 'b' here"},
    {other_count, TACIT_ERR_MISMATCH, "slot 'b': the count is 399 in the file, 400 here"},
    {other_start, TACIT_ERR_MISMATCH, "the value at the start of slot 'b' is '1.05' in the file, '0.05' here"},
    {other_options, TACIT_ERR_MISMATCH, "slot 'b': the hash of its options"},
    {choice_of_none, TACIT_ERR_FILE, "a layer's numbers are impossible"},
    {other_choice, TACIT_ERR_MISMATCH, "choices and numbers with hash"},
    {other_norm, TACIT_ERR_MISMATCH, "choices and numbers with hash"},
    {no_sum, TACIT_ERR_FILE, "a layer's numbers are impossible"},
    {short_sum, TACIT_ERR_FILE, "a layer's numbers are impossible"},
};

typedef struct outcome {
    const struct edit *edit;
    tacit_status_t     status[RANKS];
    bool               changed[RANKS];
    char               text[RANKS][TACIT_TEXT_BYTES];
} outcome_t;

static void load_body(tacit_comm_t *comm, void *arg)
{
    outcome_t      *outcome = arg;
    const int       rank = tacit_comm_rank(comm);
    contents_t     *contents = calloc(1, sizeof *contents);
    tacit_slot_t   *slots[SLOTS];
    tacit_lgreco_t *lgreco;
    uint64_t        before;
    char            path[HARNESS_PATH_BYTES], good[HARNESS_PATH_BYTES];

    read_contents(rank, harness_path(good, "good.%d", rank), contents);
    if (rank == 1) {
        outcome->edit->edit(contents);
    }
    MUST(tacit__state_write(rank, RANKS, harness_path(path, "edited.%d", rank), magic, put_contents, contents));
    make(comm, "topk:ratio=0.05+ef", slots, &lgreco);
    for (int step = 0; step < 3; step++) { /* it has sums of its own */
        observe(lgreco, rank, 20 + step);
    }
    before = state_of(lgreco);
    outcome->status[rank] = tacit_lgreco_load(lgreco, path);
    snprintf(outcome->text[rank], TACIT_TEXT_BYTES, "%s", outcome->status[rank] != TACIT_OK ? tacit_last_error() : "");
    outcome->changed[rank] = state_of(lgreco) != before;
    MUST(tacit_lgreco_load(lgreco, good)); /* all goes on */
    observe(lgreco, rank, STEPS);
    tacit_lgreco_destroy(lgreco);
    free(contents);
}

START_TEST(impossible_files)
{
    outcome_t outcome = {.edit = &edits[_i]};

    run_ranks(RANKS, NULL, save_body, NULL);
    run_ranks(RANKS, NULL, load_body, &outcome);
    remove_files();
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(outcome.status[rank] == edits[_i].status, "edit %d, rank %d: status %d, not %d: %s", _i, rank,
                      outcome.status[rank], edits[_i].status, outcome.text[rank]);
        ck_assert_msg(outcome.changed[rank] == (edits[_i].status == TACIT_OK), "edit %d, rank %d: changed: %d", _i, rank,
                      outcome.changed[rank]);
    }
    ck_assert_msg(strstr(outcome.text[1], edits[_i].words) != NULL, "edit %d: '%s' is not in '%s'", _i, edits[_i].words,
                  outcome.text[1]);
}
END_TEST

/* ---- Other programs ---- */

typedef struct resumption {
    char specs[RANKS][SLOTS][TACIT_SPEC_BYTES], saved[RANKS][SLOTS][TACIT_SPEC_BYTES], text[RANKS][TACIT_TEXT_BYTES];
} resumption_t;

static void note_specs(tacit_slot_t **slots, char specs[SLOTS][TACIT_SPEC_BYTES])
{
    for (size_t i = 0; i < SLOTS; i++) {
        snprintf(specs[i], TACIT_SPEC_BYTES, "%s", tacit_slot_spec(slots[i]));
    }
}

/* One slot begins elsewhere. */
static void other_start_body(tacit_comm_t *comm, void *arg)
{
    resumption_t   *resumption = arg;
    const int       rank = tacit_comm_rank(comm);
    tacit_slot_t   *slots[SLOTS];
    tacit_lgreco_t *lgreco;
    char            path[HARNESS_PATH_BYTES];

    make(comm, "topk:ratio=0.1+ef", slots, &lgreco);
    if (tacit_lgreco_load(lgreco, harness_path(path, "good.%d", rank)) == TACIT_ERR_MISMATCH) {
        snprintf(resumption->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    }
    tacit_lgreco_destroy(lgreco);
}

START_TEST(another_start)
{
    static resumption_t resumption;

    run_ranks(RANKS, NULL, save_body, NULL);
    run_ranks(RANKS, NULL, other_start_body, &resumption);
    remove_files();
    ck_assert_msg(strstr(resumption.text[0], "the value at the start of slot 'b' is '0.05' in the file, '0.1' here") != NULL,
                  "it says '%s'", resumption.text[0]);
}
END_TEST

/* A slot whose spec none of the options spells is left to who set it; plans go to the others. */
static void foreign_body(tacit_comm_t *comm, void *arg)
{
    resumption_t   *resumption = arg;
    const int       rank = tacit_comm_rank(comm);
    tacit_slot_t   *slots[SLOTS];
    tacit_lgreco_t *lgreco;
    char            path[HARNESS_PATH_BYTES];

    make(comm, "topk:ratio=0.05+ef", slots, &lgreco);
    for (int step = 0; step < STEPS && resumption->saved[rank][0][0] == '\0'; step++) {
        observe(lgreco, rank, step);
    }
    if (resumption->saved[rank][0][0] == '\0') {
        MUST(tacit_slot_set_spec(slots[1], "topk:ratio=0.061+ef"));
        MUST(tacit_lgreco_save(lgreco, harness_path(path, "good.%d", rank)));
        note_specs(slots, resumption->saved[rank]);
    } else {
        MUST(tacit_slot_set_spec(slots[1], "topk:ratio=0.3+ef"));
        MUST(tacit_lgreco_load(lgreco, harness_path(path, "good.%d", rank)));
        note_specs(slots, resumption->specs[rank]);
    }
    tacit_lgreco_destroy(lgreco);
}

START_TEST(specs_of_others)
{
    static resumption_t resumption;

    run_ranks(RANKS, NULL, foreign_body, &resumption);
    run_ranks(RANKS, NULL, foreign_body, &resumption);
    remove_files();
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_str_ne(resumption.saved[rank][0], "topk:ratio=0.05+ef");
        ck_assert_str_eq(resumption.specs[rank][0], resumption.saved[rank][0]);
        ck_assert_str_eq(resumption.specs[rank][1], "topk:ratio=0.3+ef");
    }
}
END_TEST

/* What powersgd keeps is of another size for another rank: memory comes after plans, and who does it otherwise is told. */
static void order_body(tacit_comm_t *comm, void *arg)
{
    resumption_t         *resumption = arg;
    const int             rank = tacit_comm_rank(comm);
    const bool            saving = resumption->saved[rank][0][0] == '\0';
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    tacit_slot_config_t   matrix = {.struct_bytes = sizeof matrix, .count = COUNT, .ndim = 2, .shape = {20, 20}};
    tacit_slot_t         *slots[SLOTS];
    tacit_lgreco_t       *lgreco;
    char                  plan[HARNESS_PATH_BYTES], memory[HARNESS_PATH_BYTES];

    matrix.spec = "powersgd:rank=4+ef";
    MUST(tacit_slot_create(comm, "a", &matrix, &slots[0]));
    MUST(tacit_slot_create(comm, "b", &matrix, &slots[1]));
    config.every = 4;
    config.gather = 2;
    config.alpha = 1.3;
    MUST(tacit_lgreco_create(slots, SLOTS, &config, &lgreco));
    harness_path(plan, "good.%d", rank);
    harness_path(memory, "memory.%d", rank);
    for (int step = 0; step < 4 && saving; step++) {
        float values[COUNT];

        fill(values, COUNT, 10u * (uint64_t)rank + (uint64_t)step, 1, 1);
        observe(lgreco, rank, step);
        MUST(tacit_allreduce(slots[0], values, values, TACIT_SUM));
    }
    if (saving) {
        note_specs(slots, resumption->saved[rank]);
        MUST(tacit_lgreco_save(lgreco, plan));
        MUST(tacit_save(comm, memory));
    } else {
        if (tacit_load(comm, memory) == TACIT_ERR_MISMATCH) {
            snprintf(resumption->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
        }
        MUST(tacit_lgreco_load(lgreco, plan));
        MUST(tacit_load(comm, memory));
    }
    tacit_lgreco_destroy(lgreco);
}

START_TEST(plans_before_memory)
{
    static resumption_t resumption;

    run_ranks(RANKS, NULL, order_body, &resumption);
    run_ranks(RANKS, NULL, order_body, &resumption);
    remove_files();
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_str_ne(resumption.saved[rank][0], "powersgd:rank=4+ef");
        ck_assert_msg(strstr(resumption.text[rank], "slot 'a'") != NULL &&
                          strstr(resumption.text[rank], "floats of 'work' in the file, 80 here") != NULL &&
                          strstr(resumption.text[rank], "load layerwise adaptation first") != NULL,
                      "rank %d: it says '%s'", rank, resumption.text[rank]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lgreco_file");
    TCase *tcase = tcase_create("file");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, impossible_files, 0, (int)(sizeof edits / sizeof *edits));
    tcase_add_test(tcase, another_start);
    tcase_add_test(tcase, specs_of_others);
    tcase_add_test(tcase, plans_before_memory);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
