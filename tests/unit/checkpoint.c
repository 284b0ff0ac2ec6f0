/* SPDX-License-Identifier: Apache-2.0 */
/* State files over the loop transport: a run goes on from one with the same bits, and what cannot be loaded changes nothing. */
#include "session.h"
#include "state_file.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 3, SLOTS = 8, STEPS = 8, HALF = 4, PATH_BYTES = 2 * HARNESS_PATH_BYTES };

static const struct {
    const char *spec;
    size_t      count;
    tacit_op_t  op;
} kinds[SLOTS] = {{"onebit:block=64+ef", 1000, TACIT_AVERAGE},
                  {"onebit:block=0,own=coded+ef", 100, TACIT_SUM},
                  {"qsgd:bits=3,rounding=stochastic", 700, TACIT_AVERAGE},
                  {"qsgd:bits=8,rounding=stochastic+ef", 700, TACIT_SUM},
                  {"topk:ratio=0.05+ef", 2000, TACIT_AVERAGE},
                  {"randk:ratio=0.1+ef", 2000, TACIT_SUM},
                  {"none", 10, TACIT_SUM},
                  {"fp16+ef", 0, TACIT_SUM}};

/* ---- Files ---- */

static char folder[HARNESS_PATH_BYTES];

static void make_folder(void)
{
    ck_assert_int_eq(mkdir(harness_path(folder, "states"), 0700), 0);
}

/* Names of all files in the folder are given to `see`, if any; returns how many there are. */
static size_t each_file(void (*see)(const char *path))
{
    DIR           *directory = opendir(folder);
    struct dirent *entry;
    size_t         files = 0;
    char           path[PATH_BYTES + 2];

    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        files++;
        snprintf(path, sizeof path, "%s/%.255s", folder, entry->d_name);
        if (see != NULL) {
            see(path);
        }
    }
    closedir(directory);
    return files;
}

static void remove_path(const char *path)
{
    (void)remove(path);
}

static void remove_folder(void)
{
    each_file(remove_path);
    ck_assert_int_eq(rmdir(folder), 0);
}

static const char *path_of(char path[PATH_BYTES], const char *name, int rank)
{
    snprintf(path, PATH_BYTES, "%s/%s.%d.state", folder, name, rank);
    return path;
}

typedef struct bytes {
    size_t  count;
    uint8_t data[16384];
} bytes_t;

static void read_bytes(const char *path, bytes_t *bytes)
{
    FILE *file = fopen(path, "rb");

    bytes->count = file != NULL ? fread(bytes->data, 1, sizeof bytes->data, file) : 0;
    if (file != NULL) {
        fclose(file);
    }
}

static void write_bytes(const char *path, const uint8_t *data, size_t count)
{
    FILE *file = fopen(path, "wb");

    if (file == NULL || fwrite(data, 1, count, file) != count || fclose(file) != 0) {
        perror(path);
        abort();
    }
}

/* ---- Going on ---- */

typedef struct run {
    int      first, last;  /* steps */
    int      save_at;      /* before this step */
    bool     load;         /* before the first one */
    float   *out[SLOTS];   /* of steps [HALF, STEPS), rank 0's */
    uint64_t state[RANKS]; /* a hash of all memory and steps in the end */
} run_t;

static uint64_t state_of(const tacit_comm_t *comm)
{
    uint64_t      hash = 0;
    tacit_array_t array;

    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        hash = 31 * hash + slot->step;
        for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
            hash = 31 * hash + harness_hash(array.values, array.count * sizeof *array.values);
        }
        hash = 31 * hash + slot->codec->owner_first + slot->codec->owner.count;
    }
    return hash;
}

static void body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[SLOTS];
    float        *x = session_floats(2000);
    char          path[PATH_BYTES], name[16];

    for (size_t s = 0; s < SLOTS; s++) {
        snprintf(name, sizeof name, "slot %zu", s);
        slots[s] = slot_of(comm, name, kinds[s].count, TACIT_FLOAT32, kinds[s].spec);
    }
    if (run->load) {
        MUST(tacit_load(comm, path_of(path, "half", rank)));
    }
    for (int step = run->first; step < run->last; step++) {
        if (step == run->save_at) {
            MUST(tacit_save(comm, path_of(path, "half", rank)));
        }
        for (size_t s = 0; s < SLOTS; s++) {
            session_normal(rank, 100 * (int)s + step, kinds[s].count, x);
            MUST(tacit_allreduce(slots[s], x, x, kinds[s].op));
            if (rank == 0 && step >= HALF) {
                memcpy(run->out[s] + (size_t)(step - HALF) * kinds[s].count, x, kinds[s].count * sizeof *x);
            }
        }
    }
    run->state[rank] = state_of(comm);
    free(x);
}

static void run_all(run_t *run, int strict)
{
    const tacit_config_t config = {.struct_bytes = sizeof config, .strict = strict};

    for (size_t s = 0; s < SLOTS; s++) {
        run->out[s] = session_floats((STEPS - HALF) * kinds[s].count);
    }
    run_ranks(RANKS, &config, body, run);
}

START_TEST(goes_on_with_the_same_bits)
{
    run_t whole = {.first = 0, .last = STEPS, .save_at = HALF},
          rest = {.first = HALF, .last = STEPS, .save_at = -1, .load = true};

    make_folder();
    run_all(&whole, _i);
    run_all(&rest, _i);
    for (size_t s = 0; s < SLOTS; s++) {
        same_floats(rest.out[s], whole.out[s], (STEPS - HALF) * kinds[s].count, kinds[s].spec);
        free(rest.out[s]);
        free(whole.out[s]);
    }
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(rest.state[rank] == whole.state[rank], "rank %d remembers something else", rank);
    }
    ck_assert_uint_eq(each_file(NULL), RANKS);
    remove_folder();
}
END_TEST

/* ---- What cannot be loaded ---- */

/* The slots of a small communicator, whose files have few bytes. */
static void small_slots(tacit_comm_t *comm, int steps, int seed)
{
    tacit_slot_t *a = slot_of(comm, "a", 16, TACIT_FLOAT32, "onebit:block=0+ef"),
                 *b = slot_of(comm, "b", 9, TACIT_FLOAT32, "topk:ratio=0.3+ef");
    float x[16];

    for (int step = 0; step < steps; step++) {
        session_normal(tacit_comm_rank(comm), seed + step, 16, x);
        MUST(tacit_allreduce(a, x, x, TACIT_AVERAGE));
        session_normal(tacit_comm_rank(comm), seed + 50 + step, 9, x);
        MUST(tacit_allreduce(b, x, x, TACIT_SUM));
    }
}

typedef struct trial {
    int  steps;
    char wrong[MOST_RANKS][256]; /* what a rank found wrong; empty: nothing */
    int  bytes;
    void (*slots)(tacit_comm_t *comm); /* of other_slots() */
    const char *words;
} trial_t;

static void save_body(tacit_comm_t *comm, void *arg)
{
    char path[PATH_BYTES];

    small_slots(comm, *(int *)arg, 0);
    MUST(tacit_save(comm, path_of(path, *(int *)arg == 3 ? "three" : "other", tacit_comm_rank(comm))));
}

/* Loads a file on every rank; expects the status, the words in the message, and no change. */
static void refused_load(tacit_comm_t *comm, const char *path, tacit_status_t expected, const char *words, char wrong[256])
{
    const uint64_t state = state_of(comm);
    tacit_status_t status = tacit_load(comm, path);

    if (wrong[0] == '\0' && (status != expected || strstr(tacit_last_error(), words) == NULL)) {
        snprintf(wrong, 256, "loading gives '%s', '%.180s', not '%s'", tacit_strerror(status), tacit_last_error(), words);
    } else if (wrong[0] == '\0' && state_of(comm) != state) {
        snprintf(wrong, 256, "a refused load has changed something");
    }
}

/* Rank 1's file is damaged in every way; the others' are good. */
static void damaged_body(tacit_comm_t *comm, void *arg)
{
    trial_t  *trial = arg;
    const int rank = tacit_comm_rank(comm);
    char     *wrong = trial->wrong[rank];
    char      good[PATH_BYTES], bad[PATH_BYTES];
    bytes_t  *whole = malloc(sizeof *whole), *spoilt = malloc(sizeof *spoilt);

    small_slots(comm, 2, 20);
    read_bytes(path_of(good, "three", 1), whole);
    path_of(bad, "bad", 1);
    path_of(good, "three", rank);
    for (size_t cut = 0; cut < whole->count; cut += cut < 64 ? 1 : 13) {
        if (rank == 1) {
            write_bytes(bad, whole->data, cut);
        }
        refused_load(comm, rank == 1 ? bad : good, TACIT_ERR_FILE, "rank 1: ", wrong);
    }
    for (size_t at = 0; at < whole->count; at++) {
        *spoilt = *whole;
        spoilt->data[at] ^= (uint8_t)(1u << at % 8);
        if (rank == 1) {
            write_bytes(bad, spoilt->data, spoilt->count);
        }
        /* Where a name or a number is another one, that is what the message says. */
        if (tacit_load(comm, rank == 1 ? bad : good) == TACIT_OK) {
            snprintf(wrong, 256, "byte %zu is not looked at", at);
        }
    }
    *spoilt = *whole;
    spoilt->data[spoilt->count++] = 0;
    if (rank == 1) {
        write_bytes(bad, spoilt->data, spoilt->count);
    }
    refused_load(comm, rank == 1 ? bad : good, TACIT_ERR_FILE, "rank 1: ", wrong);
    memcpy(spoilt->data, "# Readme\n\nA text of somebody else's.\n", 38);
    if (rank == 1) {
        write_bytes(bad, spoilt->data, 38);
    }
    refused_load(comm, rank == 1 ? bad : good, TACIT_ERR_FILE, "does not begin as one", wrong);
    refused_load(comm, rank == 1 ? folder : good, TACIT_ERR_FILE, "rank 1: cannot read", wrong);
    if (rank == 1 && mkfifo(path_of(bad, "fifo", 1), 0600) != 0) {
        snprintf(wrong, 256, "no FIFO");
    }
    refused_load(comm, rank == 1 ? bad : good, TACIT_ERR_FILE, "it is no regular file", wrong);
    refused_load(comm, rank == 1 ? "/nowhere/at/all" : good, TACIT_ERR_FILE, "'/nowhere/at/all'", wrong);
    refused_load(comm, path_of(bad, "three", rank == 1 ? 0 : rank), TACIT_ERR_MISMATCH, "the rank is 0 in the file, 1 here",
                 wrong);
    /* Files of two saves. */
    refused_load(comm, path_of(bad, rank == 1 ? "other" : "three", rank), TACIT_ERR_MISMATCH, "slots with steps", wrong);
    MUST(tacit_load(comm, good));
    trial->steps = (int)comm->slots->step;
    free(whole);
    free(spoilt);
}

static void save_both(int ranks)
{
    int three = 3, other = 4;

    run_ranks(ranks, NULL, save_body, &three);
    run_ranks(ranks, NULL, save_body, &other);
}

START_TEST(damaged)
{
    trial_t trial = {.steps = 0};

    make_folder();
    save_both(RANKS);
    run_ranks(RANKS, NULL, damaged_body, &trial);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(trial.wrong[rank][0] == '\0', "rank %d: %s", rank, trial.wrong[rank]);
    }
    ck_assert_int_eq(trial.steps, 3);
    remove_folder();
}
END_TEST

/* ---- Files of other programs ---- */

static void fewer_slots(tacit_comm_t *comm)
{
    (void)slot_of(comm, "a", 16, TACIT_FLOAT32, "onebit:block=0+ef");
}

static void more_slots(tacit_comm_t *comm)
{
    small_slots(comm, 0, 0);
    (void)slot_of(comm, "c", 3, TACIT_FLOAT32, "none");
}

static void other_name(tacit_comm_t *comm)
{
    (void)slot_of(comm, "A", 16, TACIT_FLOAT32, "onebit:block=0+ef");
    (void)slot_of(comm, "b", 9, TACIT_FLOAT32, "topk:ratio=0.3+ef");
}

static void other_compressor(tacit_comm_t *comm)
{
    (void)slot_of(comm, "a", 16, TACIT_FLOAT32, "onebit:block=0+ef");
    (void)slot_of(comm, "b", 9, TACIT_FLOAT32, "randk:ratio=0.3+ef");
}

static void other_feedback(tacit_comm_t *comm)
{
    (void)slot_of(comm, "a", 16, TACIT_FLOAT32, "onebit:block=0");
    (void)slot_of(comm, "b", 9, TACIT_FLOAT32, "topk:ratio=0.3+ef");
}

static void other_count(tacit_comm_t *comm)
{
    (void)slot_of(comm, "a", 16, TACIT_FLOAT32, "onebit:block=0+ef");
    (void)slot_of(comm, "b", 10, TACIT_FLOAT32, "topk:ratio=0.3+ef");
}

static void same_slots(tacit_comm_t *comm)
{
    small_slots(comm, 0, 0);
}

static const struct {
    void (*slots)(tacit_comm_t *comm);
    int         ranks;
    const char *words;
} others[] = {
    {fewer_slots, RANKS, "the number of slots is 2 in the file, 1 here"},
    {more_slots, RANKS, "the number of slots is 2 in the file, 3 here"},
    {other_name, RANKS, "is 'a' in the file, 'A' here"},
    {other_compressor, RANKS, "the compressor of slot 'b' is 'topk' in the file, 'randk' here"},
    {other_feedback, RANKS, "the feedback of slot 'a' is 'ef' in the file, '' here"},
    {other_count, RANKS, "slot 'b': the count is 9 in the file, 10 here"},
    {same_slots, RANKS - 1, "the number of ranks is 3 in the file, 2 here"},
};

static void foreign_body(tacit_comm_t *comm, void *arg)
{
    trial_t *trial = arg;
    char     path[PATH_BYTES];

    trial->slots(comm);
    refused_load(comm, path_of(path, "three", tacit_comm_rank(comm)), TACIT_ERR_MISMATCH, trial->words,
                 trial->wrong[tacit_comm_rank(comm)]);
}

START_TEST(foreign)
{
    trial_t trial = {.slots = others[_i].slots, .words = others[_i].words};

    make_folder();
    save_both(RANKS);
    run_ranks(others[_i].ranks, NULL, foreign_body, &trial);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(trial.wrong[rank][0] == '\0', "rank %d: %s", rank, trial.wrong[rank]);
    }
    remove_folder();
}
END_TEST

/* ---- Files that no run writes ---- */

static void own(tacit_codec_t *codec, size_t first, size_t count)
{
    tacit_state_t owner;

    MUST(tacit__codec_make_owner(codec, count, &owner));
    tacit__codec_adopt_owner(codec, &owner, first, true);
}

static void own_from_1(tacit_codec_t *codec)
{
    own(codec, 1, 55);
}

static void own_to_17(tacit_codec_t *codec)
{
    own(codec, 8, 9);
}

static void own_without_memory(tacit_codec_t *codec)
{
    codec->owner_first = 0;
    codec->owner.count = 8;
}

static void own_from_0(tacit_codec_t *codec)
{
    own(codec, 0, 8);
}

/* Says in the file of one slot 'a' without arrays that it owns 8 elements. */
static void own_in_file(const char *path, const tacit_codec_t *codec)
{
    const size_t at = TACIT_STATE_MAGIC_BYTES + 10 * sizeof(uint64_t) + strlen(codec->name) + strlen(codec->compressor->name);
    bytes_t     *file = malloc(sizeof *file);
    uint64_t     count = 8, hash;

    read_bytes(path, file);
    memcpy(file->data + at, &count, sizeof count);
    hash = tacit__hash(TACIT_HASH_START, file->data, file->count - sizeof hash);
    memcpy(file->data + file->count - sizeof hash, &hash, sizeof hash);
    write_bytes(path, file->data, file->count);
    free(file);
}

static void unknown_units(tacit_codec_t *codec)
{
    codec->tracker_op = 3;
}

static void infinite_int8(tacit_codec_t *codec)
{
    memset(codec->packed[0] + 9, 0x7f, 9); /* 127 x 2^-6 */
    codec->packed[0][9] = 255;             /* 127 x 2^122 */
}

static void infinite_bf16(tacit_codec_t *codec)
{
    codec->packed[0][111] = 0x7f;
    codec->packed[0][110] = 0x80;
}

static void nan_owner(tacit_codec_t *codec)
{
    if (codec->owner.count != 0) {
        codec->owner.now[0][0] = NAN;
    }
}

static void infinite_float(tacit_codec_t *codec)
{
    codec->memory.now[0][55] = -INFINITY;
}

static const struct {
    const char *spec;
    void (*spoil)(tacit_codec_t *codec); /* NULL: own_in_file() */
    const char *words;
} hostile[] = {
    {"bf16+ef:residual=int8", own_from_1, "numbers are impossible"},
    {"bf16+ef", own_from_1, "numbers are impossible"},
    {"bf16+ef:residual=bf16", own_to_17, "numbers are impossible"},
    {"topk:ratio=0.1+dgc:dense=0", own_without_memory, "numbers are impossible"},
    {"randk:ratio=0.1+ef", own_from_0, "numbers are impossible"},
    {"bf16", NULL, "numbers are impossible"},
    {"bf16+ef21", unknown_units, "numbers are impossible"},
    {"bf16+ef:residual=int8", infinite_int8, "not finite"},
    {"bf16+ef:residual=bf16", infinite_bf16, "not finite"},
    {"bf16+ef", nan_owner, "not finite"},
    {"topk:ratio=0.1+ef", infinite_float, "not finite"},
};

static void hostile_body(tacit_comm_t *comm, void *arg)
{
    const int     rank = tacit_comm_rank(comm), i = ((trial_t *)arg)->steps;
    char         *wrong = ((trial_t *)arg)->wrong[rank];
    tacit_slot_t *slot = slot_of(comm, "a", 56, TACIT_FLOAT32, hostile[i].spec);
    char          good[PATH_BYTES], bad[PATH_BYTES];
    float         x[56];

    session_normal(rank, 1, 56, x);
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    MUST(tacit_save(comm, path_of(good, "good", rank)));
    if (hostile[i].spoil != NULL) {
        hostile[i].spoil(slot->codec);
    }
    MUST(tacit_save(comm, path_of(bad, "bad", rank)));
    if (hostile[i].spoil == NULL) {
        own_in_file(bad, slot->codec);
    }
    if (hostile[i].spoil == own_without_memory) {
        slot->codec->owner.count = 0;
    }
    MUST(tacit_load(comm, good));
    refused_load(comm, bad, TACIT_ERR_FILE, hostile[i].words, wrong);
    session_normal(rank, 2, 56, x);
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
}

START_TEST(impossible)
{
    trial_t trial = {.steps = _i};

    make_folder();
    run_ranks(RANKS, NULL, hostile_body, &trial);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(trial.wrong[rank][0] == '\0', "%s, rank %d: %s", hostile[_i].spec, rank, trial.wrong[rank]);
    }
    remove_folder();
}
END_TEST

/* Another block since the part was taken: its borders are still those of the old one. */
static void reblocked_body(tacit_comm_t *comm, void *arg)
{
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "a", 200, TACIT_FLOAT32, "qsgd:bits=3,block=32+ef:residual=int8");
    char          path[PATH_BYTES];
    float         x[200];

    session_normal(rank, 1, 200, x);
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    MUST(tacit_slot_set_spec(slot, "qsgd:bits=3,block=128+ef:residual=int8"));
    MUST(tacit_save(comm, path_of(path, "good", rank)));
    ((size_t *)arg)[rank] = slot->codec->owner_first;
    MUST(tacit_load(comm, path));
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
}

START_TEST(reblocked)
{
    size_t first[RANKS];

    make_folder();
    run_ranks(RANKS, NULL, reblocked_body, first);
    ck_assert_uint_eq(first[1] % 32, 0);
    ck_assert_uint_ne(first[1] % 128, 0);
    remove_folder();
}
END_TEST

/* What differs is said where the words of the spec are the same but not the arrays. */
static void averaged_body(tacit_comm_t *comm, void *arg)
{
    static const char *const specs[] = {"onebit+ef21", "onebit+ef21:average=0.5"};
    trial_t                 *trial = arg;
    const int                rank = tacit_comm_rank(comm);
    char                     path[PATH_BYTES];

    (void)slot_of(comm, "a", 20, TACIT_FLOAT32, specs[trial->steps]);
    path_of(path, "tracked", rank);
    if (trial->words == NULL) {
        MUST(tacit_save(comm, path));
    } else {
        refused_load(comm, path, TACIT_ERR_MISMATCH, trial->words, trial->wrong[rank]);
    }
}

START_TEST(other_arrays)
{
    static const char *const words[] = {
        "slot 'a' has the arrays 'h, hbar' in the file, 'h, hbar, v' here ('onebit+ef21:average=0.5')",
        "slot 'a' has the arrays 'h, hbar, v' in the file, 'h, hbar' here ('onebit+ef21')"};
    trial_t save = {.steps = _i}, load = {.steps = 1 - _i, .words = words[_i]};

    make_folder();
    run_ranks(RANKS, NULL, averaged_body, &save);
    run_ranks(RANKS, NULL, averaged_body, &load);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(load.wrong[rank][0] == '\0', "rank %d: %s", rank, load.wrong[rank]);
    }
    remove_folder();
}
END_TEST

/* ---- Saving that fails, and moments at which neither is allowed ---- */

static void expect(bool right, int line, char wrong[256])
{
    if (!right && wrong[0] == '\0') {
        snprintf(wrong, 256, "line %d: %.200s", line, tacit_last_error());
    }
}

#define EXPECT(condition) expect((condition), __LINE__, wrong)

static void unwritten_body(tacit_comm_t *comm, void *arg)
{
    const int        rank = tacit_comm_rank(comm);
    char            *wrong = ((trial_t *)arg)->wrong[rank];
    char             path[PATH_BYTES], fifo[PATH_BYTES];
    float            x[9] = {0};
    tacit_request_t *request;
    struct stat      info;

    small_slots(comm, 1, 0);
    path_of(path, "kept", rank);
    MUST(tacit_save(comm, path));
    EXPECT(tacit_save(comm, rank == 1 ? "/nowhere/at/all" : path) == TACIT_ERR_FILE &&
           strstr(tacit_last_error(), "rank 1: cannot write"));
    EXPECT(tacit_save(comm, rank == 0 ? folder : path) == TACIT_ERR_FILE && strstr(tacit_last_error(), "rank 0: cannot write") &&
           strstr(tacit_last_error(), "no regular file"));
    EXPECT(rank != 0 || mkfifo(path_of(fifo, "pipe", 0), 0600) == 0);
    EXPECT(tacit_save(comm, rank == 0 ? fifo : path) == TACIT_ERR_FILE && strstr(tacit_last_error(), "no regular file"));
    EXPECT(rank != 0 || (stat(fifo, &info) == 0 && S_ISFIFO(info.st_mode) && remove(fifo) == 0));
    EXPECT(tacit_save(comm, rank == 2 ? NULL : path) == TACIT_ERR_ARGUMENT && strstr(tacit_last_error(), "rank 2"));
    MUST(tacit_load(comm, path));
    EXPECT(tacit_load(comm, rank == 2 ? NULL : path) == TACIT_ERR_ARGUMENT && strstr(tacit_last_error(), "rank 2"));
    MUST(tacit_iallreduce(comm->slots->next, x, x, TACIT_SUM, &request));
    EXPECT(tacit_save(comm, path) == TACIT_ERR_STATE && tacit_save(comm, NULL) == TACIT_ERR_ARGUMENT);
    MUST(tacit_wait(&request));
    MUST(tacit_iallreduce(comm->slots->next, x, x, TACIT_SUM, &request));
    EXPECT(tacit_load(comm, path) == TACIT_ERR_STATE && tacit_load(comm, NULL) == TACIT_ERR_ARGUMENT);
    MUST(tacit_wait(&request));
    EXPECT(tacit_save(NULL, path) == TACIT_ERR_ARGUMENT && tacit_load(NULL, path) == TACIT_ERR_ARGUMENT);
    MUST(tacit_load(comm, path));
    EXPECT(comm->slots->next->step == 1);
}

START_TEST(unwritten)
{
    static trial_t trial;
    char           beside[PATH_BYTES];
    struct stat    status;

    make_folder();
    run_ranks(RANKS, NULL, unwritten_body, &trial);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(trial.wrong[rank][0] == '\0', "rank %d: %s", rank, trial.wrong[rank]);
    }
    ck_assert_uint_eq(each_file(NULL), RANKS);
    snprintf(beside, sizeof beside, "%s.0.tmp", folder);
    ck_assert_int_ne(stat(beside, &status), 0);
    remove_folder();
}
END_TEST

/* ---- Killed while saving ---- */

static void save_for_ever_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "a", 50000, TACIT_FLOAT32, "onebit+ef");
    float        *x = session_floats(50000);
    char          path[PATH_BYTES];

    (void)arg;
    for (int step = 0;; step++) {
        session_normal(0, step, 50000, x);
        MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
        MUST(tacit_save(comm, path_of(path, "alive", 0)));
    }
}

static void load_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "a", 50000, TACIT_FLOAT32, "onebit+ef");
    char          path[PATH_BYTES];

    MUST(tacit_load(comm, path_of(path, "alive", 0)));
    *(uint64_t *)arg = slot->step;
    MUST(tacit_save(comm, path));
}

/* Whatever the moment, the file that is there is a whole one, and the next save leaves nothing beside it. */
START_TEST(killed)
{
    char     path[PATH_BYTES];
    uint64_t steps = 0;

    make_folder();
    path_of(path, "alive", 0);
    for (int i = 0; i < 6; i++) {
        const struct timespec moment = {0, 1000000 + 1700000 * i}, patience = {0, 1000000};
        struct stat           status;
        pid_t                 child = fork();

        if (child == 0) {
            run_ranks(1, NULL, save_for_ever_body, NULL);
            _exit(0);
        }
        while (stat(path, &status) != 0) {
            nanosleep(&patience, NULL);
        }
        nanosleep(&moment, NULL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        run_ranks(1, NULL, load_body, &steps);
        ck_assert_uint_gt(steps, 0);
        ck_assert_uint_eq(each_file(NULL), 1);
        unlink(path);
    }
    remove_folder();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *tests = tcase_create("checkpoint");

    tcase_add_loop_test(tests, goes_on_with_the_same_bits, 0, 2);
    tcase_add_test(tests, damaged);
    tcase_add_loop_test(tests, foreign, 0, (int)COUNT_OF(others));
    tcase_add_loop_test(tests, impossible, 0, (int)COUNT_OF(hostile));
    tcase_add_test(tests, reblocked);
    tcase_add_loop_test(tests, other_arrays, 0, 2);
    tcase_add_test(tests, unwritten);
    tcase_add_test(tests, killed);
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 120);
    return harness_main(suite);
}
