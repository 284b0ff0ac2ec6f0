/* SPDX-License-Identifier: Apache-2.0 */
/* `powersgd`: the worked example, what a projection must be; over the loop transport: ranks agree, bounded, resumed, undone. */
#include "comm.h"
#include "compress.h"
#include "ranks.h"

#include <pthread.h>

enum { MOST_ROWS = 96, MOST_COLUMNS = 600, MOST = 40000, RANKS = 4 };

/* ---- The table's functions, rank by rank ---- */

/* Some ranks that reduce one matrix. */
typedef struct machine {
    tacit_spec_t        spec;
    tacit_slot_config_t tensor;
    int                 ranks;
    uint64_t            step;
    float               work[MOST], mean[2][MOST], own[2][RANKS][MOST], a[RANKS][MOST];
    float               out[MOST], sent[RANKS][MOST]; /* the result; what each rank got across */
} machine_t;

static machine_t *machine_of(const char *text, size_t rows, size_t columns, int ranks)
{
    machine_t *machine = calloc(1, sizeof *machine);

    machine->spec = spec_of(text);
    machine->tensor = (tacit_slot_config_t){
        .struct_bytes = sizeof machine->tensor, .count = rows * columns, .ndim = 2, .shape = {rows, columns}};
    machine->ranks = ranks;
    ck_assert_uint_le(rows * columns, MOST);
    return machine;
}

static void release(machine_t *machine)
{
    tacit__spec_release(&machine->spec);
    free(machine);
}

static size_t factor_count(const machine_t *machine, int round)
{
    return machine->spec.compressor->linear->factor_count(machine->spec.compressor_config, &machine->tensor, round);
}

/* One step, as schedule linear does it for an average. Each rank gets the reduced factor as it was. */
static void step(machine_t *machine)
{
    const tacit_linear_t *linear = machine->spec.compressor->linear;
    tacit_block_t         block = block_of(&machine->spec, 0, machine->tensor.count);
    float                *factors[2] = {machine->mean[0], machine->mean[1]};
    const float          *picked[2] = {machine->mean[0], machine->mean[1]};
    static float          reduced[MOST];

    block.key.step = machine->step++;
    for (int round = 0; round < 2; round++) {
        const size_t count = factor_count(machine, round), first = factor_count(machine, 0);
        memcpy(reduced, machine->mean[0], first * sizeof *reduced);
        for (int rank = 0; rank < machine->ranks; rank++) {
            float *own = machine->own[round][rank];
            block.key.rank = (uint64_t)rank;
            if (round == 1) {
                memcpy(machine->mean[0], reduced, first * sizeof *reduced);
            }
            linear->make_factor(&block, &machine->tensor, round, machine->a[rank], machine->work, factors, own);
        }
        for (size_t i = 0; i < count; i++) {
            machine->mean[round][i] = 0;
            for (int rank = 0; rank < machine->ranks; rank++) {
                machine->mean[round][i] += machine->own[round][rank][i];
            }
            machine->mean[round][i] *= 1.0f / (float)machine->ranks;
        }
    }
    linear->reconstruct(&block, &machine->tensor, picked, machine->out);
    for (int rank = 0; rank < machine->ranks; rank++) {
        picked[1] = machine->own[1][rank];
        linear->reconstruct(&block, &machine->tensor, picked, machine->sent[rank]);
    }
    picked[1] = machine->mean[1];
    linear->keep(&block, &machine->tensor, picked, machine->work);
}

static void fill(machine_t *machine, uint64_t seed)
{
    for (int rank = 0; rank < machine->ranks; rank++) {
        harness_fill(machine->a[rank], machine->tensor.count, seed + (uint64_t)rank, 1);
    }
}

/* |x - y|^2 / |x|^2 */
static double distance(const float *x, const float *y, size_t count)
{
    double difference = 0, square = 0;

    for (size_t i = 0; i < count; i++) {
        difference += pow((double)x[i] - (double)y[i], 2);
        square += pow((double)x[i], 2);
    }
    return difference / square;
}

static void mean_of(const machine_t *machine, const float (*values)[MOST], float *mean)
{
    for (size_t i = 0; i < machine->tensor.count; i++) {
        double sum = 0;
        for (int rank = 0; rank < machine->ranks; rank++) {
            sum += (double)values[rank][i];
        }
        mean[i] = (float)(sum / machine->ranks);
    }
}

/* diag(3, 4) with a row of zeros, from Q = (.6, .8): the error falls to that of the best matrix of rank 1, which is 9. */
START_TEST(worked_example)
{
    static const double errors[] = {10.682, 9.637, 9.215, 9.069, 9.022, 9.007};
    machine_t          *machine = machine_of("powersgd:rank=1,rate=0+ef", 3, 2, 1);

    machine->a[0][0] = 3;
    machine->a[0][3] = 4;
    machine->work[0] = 0.6f;
    machine->work[1] = 0.8f;
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        step(machine);
        ck_assert_double_eq_tol(25 * distance(machine->a[0], machine->out, 6), errors[i], 0.0006);
        if (i == 0) {
            ck_assert_double_eq_tol((double)machine->mean[0][0], 0.4903, 0.00005);
            ck_assert_double_eq_tol((double)machine->mean[0][1], 0.8716, 0.00005);
            ck_assert(machine->mean[0][2] == 0);
        }
    }
    release(machine);
}
END_TEST

/* What several ranks find is what one finds that has their mean; and both forms of the residual have the same mean. */
START_TEST(linearity)
{
    machine_t *many = machine_of("powersgd:rank=3+ef", 40, 90, RANKS), *one = machine_of("powersgd:rank=3+ef", 40, 90, 1);
    float      sent[MOST];

    for (int i = 0; i < 4; i++) {
        fill(many, 10 * (uint64_t)i);
        mean_of(many, (const float(*)[MOST])many->a, one->a[0]);
        step(many);
        step(one);
        ck_assert_double_le(distance(one->out, many->out, 3600), 1e-10);
        mean_of(many, (const float(*)[MOST])many->sent, sent);
        ck_assert_double_le(distance(many->out, sent, 3600), 1e-12);
    }
    release(many);
    release(one);
}
END_TEST

static size_t zero_vectors(const float *vectors, size_t count, size_t rank)
{
    size_t zeros = 0;

    for (size_t k = 0; k < rank; k++) {
        size_t i = 0;

        while (i < count && vectors[k * count + i] == 0) {
            i++;
        }
        zeros += i == count;
    }
    return zeros;
}

/* A matrix of rank 3, or of rank 2 from _i = 6 on, is found at once by as many vectors or more; the others come to nothing,
   exactly, and do no harm. */
START_TEST(exact_rank)
{
    const int        vectors = _i < 6 ? _i : _i - 1, rank = _i < 6 ? 3 : 2;
    char             text[48];
    harness_random_t random = {5};
    machine_t       *machine;

    snprintf(text, sizeof text, "powersgd:rank=%d,rate=0+ef", vectors);
    machine = machine_of(text, 50, 70, 1);
    for (int r = 0; r < rank; r++) {
        float left[50], right[70];
        for (size_t i = 0; i < 50; i++) {
            left[i] = (float)harness_normal(&random);
        }
        for (size_t j = 0; j < 70; j++) {
            right[j] = (float)harness_normal(&random);
        }
        for (size_t i = 0; i < 3500; i++) {
            machine->a[0][i] += left[i / 70] * right[i % 70];
        }
    }
    for (int i = 0; i < 3; i++) {
        step(machine);
        ck_assert_double_le(distance(machine->a[0], machine->out, 3500), 1e-11);
        ck_assert_uint_eq(zero_vectors(machine->mean[0], 50, (size_t)vectors), (size_t)(vectors - rank));
        ck_assert_uint_eq(zero_vectors(machine->work, 70, (size_t)vectors), (size_t)(vectors - rank));
    }
    release(machine);
}
END_TEST

/* With as many vectors as rows or columns nothing is lost, wide or tall. */
START_TEST(full_rank)
{
    static const size_t sizes[][2] = {{8, 30}, {30, 8}, {1, 9}, {9, 1}, {16, 16}};
    machine_t          *machine = machine_of("powersgd:rank=16,rate=0+ef", sizes[_i][0], sizes[_i][1], 3);
    float               mean[MOST];

    for (int i = 0; i < 3; i++) {
        fill(machine, 7 * (uint64_t)i);
        step(machine);
        mean_of(machine, (const float(*)[MOST])machine->a, mean);
        ck_assert_double_le(distance(mean, machine->out, machine->tensor.count), 1e-12);
    }
    release(machine);
}
END_TEST

static double product(const float *x, const float *y, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

/* P'P = I, also of a matrix whose columns are almost dependent; vectors that come to nothing are zero, then drawn anew. */
START_TEST(orthonormal)
{
    enum { RANK = 6, ROWS = 60, COLUMNS = 80 };
    machine_t *machine = machine_of("powersgd:rank=6,rate=0+ef", ROWS, COLUMNS, 2);
    float      before[RANK * COLUMNS];

    fill(machine, 3);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) { /* nearly of rank 1 */
        for (int rank = 0; rank < 2; rank++) {
            machine->a[rank][i] = 1 + (float)(i % 7) + 1e-4f * machine->a[rank][i];
        }
    }
    for (int i = 0; i < 3; i++) {
        step(machine);
        for (size_t k = 0; k < RANK; k++) {
            for (size_t l = 0; l <= k; l++) {
                ck_assert_double_eq_tol(product(machine->mean[0] + k * ROWS, machine->mean[0] + l * ROWS, ROWS), k == l, 1e-6);
                ck_assert_double_eq_tol(product(machine->work + k * COLUMNS, machine->work + l * COLUMNS, COLUMNS), k == l, 1e-6);
            }
        }
    }
    memcpy(before, machine->work, sizeof before);
    memset(machine->a, 0, sizeof machine->a);
    step(machine);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        ck_assert(machine->out[i] == 0);
    }
    for (size_t i = 0; i < RANK * COLUMNS; i++) {
        ck_assert(machine->work[i] == 0);
    }
    fill(machine, 4);
    step(machine);
    ck_assert_double_eq_tol(product(machine->work, machine->work, COLUMNS), 1, 1e-6);
    release(machine);
}
END_TEST

/* More vectors than before: those that were kept are gone on with, the new ones are drawn. Fewer: the first ones. */
START_TEST(other_rank)
{
    machine_t *two = machine_of("powersgd:rank=2,rate=0+ef", 20, 30, 1),
              *four = machine_of("powersgd:rank=4,rate=0+ef", 20, 30, 1);
    tacit_block_t block = block_of(&four->spec, 0, 600);
    float         drawn[80];

    fill(two, 1);
    fill(four, 1);
    step(two);
    memcpy(four->work, two->work, 60 * sizeof *two->work);
    step(four);
    step(two);
    same_floats(four->own[0][0], two->own[0][0], 40, "the first two");
    ck_assert_double_gt(product(four->own[0][0] + 40, four->own[0][0] + 40, 20), 1);
    ck_assert_double_gt(product(four->own[0][0] + 60, four->own[0][0] + 60, 20), 1);
    ck_assert_double_lt(distance(four->a[0], four->out, 600), distance(two->a[0], two->out, 600));
    memset(four->work, 0, sizeof four->work); /* drawn by the step, not by the rank */
    for (size_t i = 0; i < 2; i++) {
        block.key.step = i;
        block.key.rank = i;
        four->spec.compressor->linear->make_factor(&block, &four->tensor, 0, four->a[0], four->work, NULL, four->own[0][i]);
    }
    block.key.step = 0;
    four->spec.compressor->linear->make_factor(&block, &four->tensor, 0, four->a[0], four->work, NULL, drawn);
    same_floats(drawn, four->own[0][0], 80, "of another rank");
    ck_assert(memcmp(drawn, four->own[0][1], sizeof drawn) != 0);
    release(two);
    release(four);
}
END_TEST

/* Of normal noise, what delta() says gets across in the mean over Q; and of a matrix whose directions are all alike, which is the
   worst, rank / min(rows, columns), which is what quality() promises. */
START_TEST(what_gets_across)
{
    enum { STEPS = 60 };
    machine_t *machine = machine_of("powersgd:rank=4+ef", 64, 96, 1);
    double     across = 0, worst = 0, factor, delta;

    delta = machine->spec.compressor->delta(machine->spec.compressor_config, &machine->tensor);
    ck_assert_double_eq_tol(delta, 4 * (64 + 96 - 4) / (64.0 * 96), 1e-12);
    for (uint64_t i = 0; i < STEPS; i++) {
        fill(machine, i);
        memset(machine->work, 0, sizeof machine->work);
        step(machine);
        across += (1 - distance(machine->a[0], machine->out, 64 * 96)) / STEPS;
    }
    ck_assert_double_eq_tol(across, delta, 0.01 * delta);
    release(machine);
    machine = machine_of("powersgd:rank=4,rate=0+ef", 60, 60, 1);
    for (size_t i = 0; i < 60; i++) {
        machine->a[0][61 * i] = i % 2 ? 2 : -2;
    }
    for (uint64_t i = 0; i < STEPS; i++) {
        memset(machine->work, 0, sizeof machine->work);
        step(machine);
        worst += distance(machine->a[0], machine->out, 3600) / STEPS;
    }
    ck_assert_uint_eq(machine->spec.compressor->quality(machine->spec.compressor_config, 3600, &factor), TACIT_CONTRACTION);
    ck_assert_double_eq_tol(worst, factor, 1e-6);
    release(machine);
}
END_TEST

/* Which tensors are compressed (strictly more than `rate` times smaller), and into how much. */
START_TEST(shapes)
{
    static const struct {
        const char *text;
        int         ndim;
        size_t      shape[3], factors[2], work; /* factors[1] == 0: dense */
    } cases[] = {
        {"powersgd:rank=4+ef", 2, {64, 576}, {256, 2304}, 2304},
        {"powersgd:rank=4+ef", 3, {512, 512, 9}, {2048, 18432}, 18432},
        {"powersgd:rank=4+ef", 2, {10, 64}, {40, 256}, 256},
        {"powersgd:rank=2+ef", 2, {8, 8}, {64}, 0}, /* exactly twice */
        {"powersgd:rank=2,rate=1.99+ef", 2, {8, 8}, {16, 16}, 16},
        {"powersgd:rank=1+ef", 2, {8, 8}, {8, 8}, 8},
        {"powersgd:rank=1,rate=0+ef", 1, {100}, {100}, 0},
        {"powersgd:rank=1,rate=0+ef", 0, {100}, {100}, 0},
        {"powersgd:rank=9,rate=0+ef", 2, {5, 7}, {25, 35}, 35},
        {"powersgd:rank=1,rate=0+ef", 2, {0, 7}, {0}, 0},
        {"powersgd:rank=1,rate=0+ef", 2, {7, 0}, {0}, 0},
        {"powersgd:rank=128,rate=1000000+ef", 2, {4000, 4000}, {16000000}, 0},
    };
    const tacit_linear_t *linear;
    tacit_slot_config_t   tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_spec_t          spec = spec_of(cases[_i].text);

    linear = spec.compressor->linear;
    tensor.ndim = cases[_i].ndim;
    tensor.count = cases[_i].shape[0];
    for (int i = 0; i < tensor.ndim; i++) {
        tensor.shape[i] = cases[_i].shape[i];
        tensor.count *= i > 0 ? tensor.shape[i] : 1;
    }
    ck_assert_int_eq(linear->rounds(spec.compressor_config, &tensor), cases[_i].factors[1] > 0 ? 2 : 1);
    ck_assert_uint_eq(linear->factor_count(spec.compressor_config, &tensor, 0), cases[_i].factors[0]);
    if (cases[_i].factors[1] > 0) {
        ck_assert_uint_eq(linear->factor_count(spec.compressor_config, &tensor, 1), cases[_i].factors[1]);
    } else {
        ck_assert(spec.compressor->delta(spec.compressor_config, &tensor) == 1);
    }
    ck_assert_uint_eq(linear->work_count(spec.compressor_config, &tensor), cases[_i].work);
    tacit__spec_release(&spec);
}
END_TEST

/* ---- Over the loop transport ---- */

enum { SLOTS = 3 };

/* A matrix, a vector that travels dense, and a tensor of three dimensions. */
static const size_t slot_shapes[SLOTS][4] = {{2, 32, 32}, {1, 200}, {3, 48, 5, 9}};
enum { SLOT_MOST = 48 * 5 * 9 };

static size_t slot_elements(size_t s)
{
    size_t count = 1;

    for (size_t i = 1; i <= slot_shapes[s][0]; i++) {
        count *= slot_shapes[s][i];
    }
    return count;
}

static void make_slots(tacit_comm_t *comm, const char *spec, tacit_slot_t **slots)
{
    for (size_t s = 0; s < SLOTS; s++) {
        tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
        char                name[2] = {(char)('a' + s), '\0'};

        config.count = slot_elements(s);
        config.ndim = (int)slot_shapes[s][0];
        memcpy(config.shape, slot_shapes[s] + 1, slot_shapes[s][0] * sizeof *config.shape);
        config.spec = spec;
        MUST(tacit_slot_create(comm, name, &config, &slots[s]));
    }
}

static void fill_slot(int rank, int at, size_t s, float *in)
{
    harness_fill(in, slot_elements(s), 1000 * (uint64_t)at + 10 * (uint64_t)rank + s, 1);
}

/* All slots in one group. */
static tacit_status_t reduce(tacit_comm_t *comm, tacit_slot_t *const *slots, int at, float (*out)[SLOT_MOST])
{
    for (size_t s = 0; s < SLOTS; s++) {
        fill_slot(tacit_comm_rank(comm), at, s, out[s]);
    }
    MUST(tacit_group_begin(comm));
    for (size_t s = 0; s < SLOTS; s++) {
        MUST(tacit_allreduce(slots[s], out[s], out[s], TACIT_AVERAGE));
    }
    return tacit_group_end(comm, NULL);
}

enum { MOST_MEMORY = 4 * SLOTS * SLOT_MOST };

/* Copies all memory; returns how many floats it has. */
static size_t take_memory(tacit_slot_t *const *slots, float *memory)
{
    tacit_array_t array;
    size_t        count = 0;

    for (size_t s = 0; s < SLOTS; s++) {
        for (size_t i = 0; tacit__codec_array(slots[s]->codec, i, &array); i++) {
            memcpy(memory + count, array.values, array.count * sizeof *memory);
            count += array.count;
        }
    }
    return count;
}

/* A run of some steps, and what each rank has after each, and in the end. */
typedef struct run {
    int      first, last, save_before; /* steps; -1: nothing is saved. Who does not begin at 0 loads what is */
    uint64_t results[MOST_RANKS][8];   /* of the first steps */
    uint64_t out[MOST_RANKS], memory[MOST_RANKS];
    double   rms[MOST_RANKS][2], dense[MOST_RANKS]; /* of the matrix's residual, in the middle and the end; of the vector's */
} run_t;

static double rms_of(const tacit_slot_t *slot)
{
    tacit_norms_t norms;

    MUST(tacit_slot_norms(slot, &norms));
    return norms.memory / sqrt((double)slot->codec->tensor.count);
}

static void run_body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[SLOTS];
    float(*out)[SLOT_MOST] = calloc(SLOTS, sizeof *out), *memory = calloc(MOST_MEMORY, sizeof *memory);
    char path[HARNESS_PATH_BYTES];

    make_slots(comm, "powersgd:rank=2+ef", slots);
    harness_path(path, "state.%d", rank);
    if (run->first > 0) {
        MUST(tacit_load(comm, path));
    }
    for (int at = run->first; at < run->last; at++) {
        if (at == run->save_before) {
            MUST(tacit_save(comm, path));
        }
        MUST(reduce(comm, slots, at, out));
        if (at < (int)COUNT_OF(run->results[rank])) {
            run->results[rank][at] = harness_hash(out, SLOTS * sizeof *out);
        }
        if (at == (run->first + run->last) / 2) {
            run->rms[rank][0] = rms_of(slots[0]);
        }
        run->dense[rank] = fmax(run->dense[rank], rms_of(slots[1]));
    }
    run->rms[rank][1] = rms_of(slots[0]);
    run->out[rank] = harness_hash(out, SLOTS * sizeof *out);
    run->memory[rank] = harness_hash(memory, take_memory(slots, memory) * sizeof *memory);
    free(out);
    free(memory);
}

/* The same bits on all ranks after every step, for any number of them. */
START_TEST(ranks_agree)
{
    static const int counts[] = {1, 2, 3, 4, 8};
    run_t            run = {.last = 6, .save_before = -1};

    run_ranks(counts[_i], NULL, run_body, &run);
    for (int rank = 1; rank < counts[_i]; rank++) {
        for (int at = 0; at < run.last; at++) {
            ck_assert_msg(run.results[rank][at] == run.results[0][at], "rank %d has other results than rank 0 after step %d",
                          rank, at);
        }
    }
    for (int at = 1; at < run.last; at++) {
        ck_assert(run.results[0][at] != run.results[0][at - 1]);
    }
}
END_TEST

/* Normal gradients on 4 ranks, 32 x 32, rank 2: what is kept back has a root mean square of 3.2 after hundreds of steps. If it
   were what the global projection leaves, deviations from the mean would add up: 8.7 after 100 steps and 27 after 1000. Of the
   vector nothing is ever kept back. */
START_TEST(bounded)
{
    run_t run = {.last = 400, .save_before = -1};

    run_ranks(RANKS, NULL, run_body, &run);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_double_eq_tol(run.rms[rank][0], 3.25, 0.3);
        ck_assert_double_eq_tol(run.rms[rank][1], 3.25, 0.3);
        ck_assert(run.dense[rank] == 0);
    }
}
END_TEST

/* A run that is saved in the middle and gone on with by others ends with the same bits. */
START_TEST(resumed)
{
    char  path[HARNESS_PATH_BYTES];
    run_t whole = {.last = 8, .save_before = -1}, before = {.last = 5, .save_before = 4},
          after = {.first = 4, .last = 8, .save_before = -1};

    run_ranks(3, NULL, run_body, &whole);
    run_ranks(3, NULL, run_body, &before);
    run_ranks(3, NULL, run_body, &after);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_uint_eq(after.out[rank], whole.out[rank]);
        ck_assert_uint_eq(after.memory[rank], whole.memory[rank]);
        ck_assert_int_eq(remove(harness_path(path, "state.%d", rank)), 0);
    }
}
END_TEST

/* More vectors in the middle of a run: the kept ones have room, the new ones are drawn alike on all ranks. */
typedef struct change {
    uint64_t first[RANKS], second[RANKS]; /* of the results before and after */
    size_t   work[2];
    double   lost[2]; /* of a matrix of rank 5, with 2 vectors and with 5 */
} change_t;

static void change_body(tacit_comm_t *comm, void *arg)
{
    change_t           *change = arg;
    const int           rank = tacit_comm_rank(comm);
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    static const char  *specs[2] = {"powersgd:rank=2", "powersgd:rank=5"};
    float              *in = calloc(6400, sizeof *in), *out = calloc(6400, sizeof *out);
    harness_random_t    random = {9};
    tacit_array_t       array;

    for (int r = 0; r < 5; r++) {
        float left[80], right[80];
        for (size_t i = 0; i < 80; i++) {
            left[i] = (float)harness_normal(&random);
            right[i] = (float)harness_normal(&random);
        }
        for (size_t i = 0; i < 6400; i++) {
            in[i] += left[i / 80] * right[i % 80];
        }
    }
    config.count = 6400;
    config.ndim = 2;
    config.shape[0] = config.shape[1] = 80;
    config.spec = specs[0];
    MUST(tacit_slot_create(comm, "warm", &config, &slot));
    for (int part = 0; part < 2; part++) {
        MUST(tacit_slot_set_spec(slot, specs[part]));
        (void)tacit__codec_array(slot->codec, 0, &array);
        change->work[part] = array.count;
        MUST(tacit_allreduce(slot, in, out, TACIT_AVERAGE));
        (part == 0 ? change->first : change->second)[rank] = harness_hash(out, 6400 * sizeof *out);
        change->lost[part] = rank == 0 ? distance(in, out, 6400) : change->lost[part];
    }
    free(in);
    free(out);
}

START_TEST(rank_changes)
{
    change_t change = {{0}, {0}, {0}, {0}};

    run_ranks(3, NULL, change_body, &change);
    for (int rank = 1; rank < 3; rank++) {
        ck_assert_uint_eq(change.first[rank], change.first[0]);
        ck_assert_uint_eq(change.second[rank], change.second[0]);
    }
    ck_assert_uint_eq(change.work[0], 160);
    ck_assert_uint_eq(change.work[1], 400);
    ck_assert_double_gt(change.lost[0], 0.1);
    ck_assert_double_lt(change.lost[1], 1e-9);
}
END_TEST

/* ---- Faults ---- */

typedef struct passing {
    size_t nan[2], bad[2]; /* of each call: numbers in the matrix's result that are not finite; the same in all memory */
} passing_t;

static size_t not_finite(const float *values, size_t count)
{
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        found += isfinite(values[i]) ? 0u : 1u;
    }
    return found;
}

static void passing_body(tacit_comm_t *comm, void *arg)
{
    passing_t    *passing = arg;
    tacit_slot_t *slots[SLOTS];
    float(*out)[SLOT_MOST] = calloc(SLOTS, sizeof *out), *memory = calloc(MOST_MEMORY, sizeof *memory);

    make_slots(comm, "powersgd:rank=2+ef", slots);
    for (int at = 0; at < 2; at++) {
        fill_slot(tacit_comm_rank(comm), at, 0, out[0]);
        if (at == 0 && tacit_comm_rank(comm) == 1) {
            out[0][77] = NAN;
        }
        MUST(tacit_allreduce(slots[0], out[0], out[0], TACIT_SUM));
        if (tacit_comm_rank(comm) == 0) {
            passing->nan[at] = not_finite(out[0], slot_elements(0));
            passing->bad[at] = not_finite(memory, take_memory(slots, memory));
        }
    }
    free(out);
    free(memory);
}

/* Where NaN may pass it reaches the result, all of it, and neither the residual nor the Q that is gone on with. */
START_TEST(passed_on)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    passing_t      passing = {{0}, {0}};

    config.nonfinite = TACIT_NONFINITE_PASS;
    run_ranks(2, &config, passing_body, &passing);
    ck_assert_uint_eq(passing.nan[0], slot_elements(0));
    ck_assert_uint_eq(passing.nan[1], 0);
    ck_assert_uint_eq(passing.bad[0], 0);
    ck_assert_uint_eq(passing.bad[1], 0);
}
END_TEST

enum { MESSAGES = 8 }; /* more than one rank sends another in an operation */

typedef struct trial {
    tacit_loop_t     *loop;
    const char       *spec;
    bool              damage;
    pthread_barrier_t barrier;
    tacit_status_t    status[MESSAGES];
    double            moved[2][MESSAGES]; /* by rank: the farthest that a number in memory is from before the failed call */
    bool              same[2][MESSAGES];  /* all bits of memory are */
    float             out[2][MESSAGES][SLOT_MOST]; /* the matrix, of the call that came through */
} trial_t;

static double farthest(const float *x, const float *y, size_t count)
{
    double most = 0;

    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)x[i] - (double)y[i]));
    }
    return most;
}

/* One step; then for every message that there is a step with it damaged, and the same once more if that failed. */
static void trial_body(tacit_comm_t *comm, void *arg)
{
    trial_t      *trial = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[SLOTS];
    float(*out)[SLOT_MOST] = calloc(SLOTS, sizeof *out), *before = calloc(MOST_MEMORY, sizeof *before);
    float *after = calloc(MOST_MEMORY, sizeof *after);

    make_slots(comm, trial->spec, slots);
    MUST(reduce(comm, slots, 0, out));
    for (int nth = 0; nth < MESSAGES; nth++) {
        const size_t   count = take_memory(slots, before);
        tacit_status_t status;

        pthread_barrier_wait(&trial->barrier);
        if (rank == 0 && trial->damage) {
            MUST(tacit_loop_inject(trial->loop, TACIT_LOOP_FLIP, 0, 1, (size_t)nth, 1000));
        }
        pthread_barrier_wait(&trial->barrier);
        status = reduce(comm, slots, nth + 1, out);
        if (status != TACIT_OK) {
            trial->status[nth] = status;
            (void)take_memory(slots, after);
            trial->moved[rank][nth] = farthest(before, after, count);
            trial->same[rank][nth] = memcmp(before, after, count * sizeof *before) == 0;
            ck_assert(!slots[0]->codec->expanded);
            pthread_barrier_wait(&trial->barrier);
            MUST(reduce(comm, slots, nth + 1, out));
        }
        memcpy(trial->out[rank][nth], out[0], sizeof *out);
    }
    free(out);
    free(before);
    free(after);
}

/* The messages of an operation in turn, so those of both rounds: an error leaves memory as it was, bit for bit in strict mode
   and where it is packed, else to within roundings, and the next call gives what it would have given. Numbers in memory are below
   32, with ulps of 2^-19, and three roundings undo what three have done. */
START_TEST(undone)
{
    static const char *const specs[] = {"powersgd:rank=2+ef", "powersgd:rank=2+ef:residual=bf16",
                                        "powersgd:rank=2+ef:residual=int8"};
    static trial_t           plain, trial;
    tacit_config_t           config = TACIT_CONFIG_INIT;
    trial_t                 *trials[2] = {&plain, &trial};
    const bool               exact = _i > 0;
    int                      failed = 0;

    memset(&plain, 0, sizeof plain);
    memset(&trial, 0, sizeof trial);
    trial.damage = true;
    plain.spec = trial.spec = specs[_i / 2];
    config.strict = _i % 2;
    config.chunk_bytes = 2048;
    for (size_t i = 0; i < 2; i++) {
        MUST(tacit_loop_create(2, &trials[i]->loop));
        pthread_barrier_init(&trials[i]->barrier, NULL, 2);
        run_ranks_over(trials[i]->loop, 2, &config, trial_body, trials[i]);
        pthread_barrier_destroy(&trials[i]->barrier);
        tacit_loop_release(trials[i]->loop);
    }
    for (int nth = 0; nth < MESSAGES; nth++) {
        same_floats(trial.out[0][nth], trial.out[1][nth], SLOT_MOST, "rank 1");
        failed += trial.status[nth] != TACIT_OK;
        for (int rank = 0; rank < 2 && trial.status[nth] != TACIT_OK; rank++) {
            ck_assert(exact ? trial.same[rank][nth] : trial.moved[rank][nth] <= 6 * 0x1p-20);
        }
        if (exact) {
            same_floats(trial.out[0][nth], plain.out[0][nth], SLOT_MOST, "after a fault");
        }
        ck_assert_int_eq(plain.status[nth], TACIT_OK);
    }
    ck_assert_int_ge(failed, 4);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("powersgd");
    TCase *tests = tcase_create("powersgd");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, worked_example);
    tcase_add_test(tests, linearity);
    tcase_add_loop_test(tests, exact_rank, 3, 7);
    tcase_add_loop_test(tests, full_rank, 0, 5);
    tcase_add_test(tests, orthonormal);
    tcase_add_test(tests, other_rank);
    tcase_add_test(tests, what_gets_across);
    tcase_add_loop_test(tests, shapes, 0, 12);
    tcase_add_loop_test(tests, ranks_agree, 0, 5);
    tcase_add_test(tests, bounded);
    tcase_add_test(tests, resumed);
    tcase_add_test(tests, rank_changes);
    tcase_add_test(tests, passed_on);
    tcase_add_loop_test(tests, undone, 0, 6);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
