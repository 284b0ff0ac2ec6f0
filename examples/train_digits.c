/* SPDX-License-Identifier: Apache-2.0 */
/* Trains a classifier of handwritten digits on any number of ranks: each computes gradients on its share of the images, Tacit
   averages them, compressed as --spec says, and all take the same step. The heart of it is train_step(). */
#include "digits.h"
#include "generation.h"
#include "model.h"
#include "trainer.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tacit.h>
#include <tacit_mpi.h>
#include <unistd.h>

/* In a checkpoint: what all ranks have in common. Beside it, rank-0, rank-1 ... hold what the library remembers of each. */
static const char common_file[] = "trainer";

typedef struct score {
    double train_loss, test_loss, test_accuracy; /* over whole sets; all ranks hold the same */
} score_t;

/* Bytes are of the mean rank. */
typedef struct totals {
    double wire_bytes, dense_bytes, seconds;
} totals_t;

typedef struct trainer {
    trainer_options_t options;
    int               rank, ranks;
    tacit_comm_t     *comm;
    tacit_slot_t     *slots[2 * MODEL_LAYERS]; /* one for each tensor of the model */
    digits_t          digits;
    model_t           model;
    optimizer_t       optimizer;          /* its steps say where the training stands */
    uint32_t         *order;              /* of the training images, in the epoch `shuffled` */
    uint64_t          shuffled;           /* UINT64_MAX: in none */
    float            *images;             /* one batch ... */
    uint8_t          *classes;            /* ... and its answers */
    uint64_t          epoch_steps, steps; /* of one epoch, of the whole training */
    uint64_t          generation;         /* of the newest checkpoint */
    totals_t          before;             /* of the runs that this one resumes */
    double            start_time, progress_time;
    bool              progress; /* a line on the terminal that overwrites itself */
} trainer_t;

/* FNV-1a, 64 bits. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *byte = data;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ byte[i]) * 0x100000001B3u;
    }
    return hash;
}

static uint64_t hash_floats(const float *values, size_t count)
{
    return hash_bytes(0xCBF29CE484222325u, values, count * sizeof *values);
}

/* ---- Training ---- */

static void load_data(trainer_t *trainer)
{
    char text[TRAINER_TEXT_BYTES];

    trainer_agree(digits_load(trainer->options.data, &trainer->digits, text, sizeof text) == 0 ? NULL : text);
    trainer->epoch_steps = trainer->digits.train.count / (trainer->options.batch * (uint64_t)trainer->ranks);
    (void)snprintf(text, sizeof text, "%zu training images are too few for a batch of %" PRIu64 " on each of %d ranks",
                   trainer->digits.train.count, trainer->options.batch, trainer->ranks);
    trainer_agree(trainer->epoch_steps > 0 ? NULL : text);
    trainer->steps = trainer->options.steps ? trainer->options.steps : trainer->options.epochs * trainer->epoch_steps;
}

static void make_model(trainer_t *trainer)
{
    const trainer_options_t *options = &trainer->options;
    model_t                 *model = &trainer->model;
    const size_t             batch = options->batch, pixels = trainer->digits.pixels;
    size_t                   widths[MODEL_LAYERS + 1];
    bool                     made;

    widths[0] = pixels;
    memcpy(widths + 1, options->hidden, options->hidden_count * sizeof *widths);
    widths[options->hidden_count + 1] = DIGITS_CLASSES;
    made = model_init(model, widths, options->hidden_count + 1, batch) == 0 &&
           optimizer_init(&trainer->optimizer, options->optimizer, options->rate, model->tensors.elements) == 0;
    trainer->order = malloc(trainer->digits.train.count * sizeof *trainer->order);
    trainer->images = malloc(batch * pixels * sizeof *trainer->images);
    trainer->classes = malloc(batch);
    trainer->shuffled = UINT64_MAX;
    made = made && trainer->order && trainer->images && trainer->classes;
    trainer_agree(made ? NULL : "not enough memory for the model; try a smaller --hidden or --batch");
    trainer_agree(model->tensors.elements <= INT_MAX / 2 ? NULL
                                                         : "the model has more than 2^30 parameters; try a smaller --hidden");
    trainer->optimizer.momentum = options->momentum;
    model_randomize(model, options->seed);
    /* Logarithms and cosines may differ in the last bit from one machine to the next. */
    (void)MPI_Bcast(model->tensors.values, (int)model->tensors.elements, MPI_FLOAT, 0, MPI_COMM_WORLD);
}

static void make_slots(trainer_t *trainer)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.spec = trainer->options.spec;
    config.seed = trainer->options.seed;
    trainer_must(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &trainer->comm), "tacit_comm_create_mpi");
    for (size_t i = 0; i < trainer->model.tensors.count; i++) {
        const tensor_t     *tensor = &trainer->model.tensors.list[i];
        tacit_slot_config_t slot = TACIT_SLOT_CONFIG_INIT;

        slot.count = tensor->rows * tensor->cols;
        slot.ndim = tensor->rows > 1 ? 2 : 1;
        slot.shape[0] = tensor->rows > 1 ? tensor->rows : tensor->cols;
        slot.shape[1] = tensor->rows > 1 ? tensor->cols : 0;
        trainer_must(tacit_slot_create(trainer->comm, tensor->name, &slot, &trainer->slots[i]), "tacit_slot_create");
    }
}

/* Collects this rank's images of a step: ranks take turns along the shuffled order, the same on all of them. */
static void fill_batch(trainer_t *trainer, uint64_t step)
{
    const digits_set_t *train = &trainer->digits.train;
    const size_t        batch = trainer->options.batch, pixels = trainer->digits.pixels;
    const uint64_t      epoch = step / trainer->epoch_steps;
    const size_t        first = step % trainer->epoch_steps * batch * (size_t)trainer->ranks + (size_t)trainer->rank;

    if (trainer->shuffled != epoch) {
        uint64_t seed = trainer->options.seed;

        random_permutation(random_next(&seed) + epoch, train->count, trainer->order);
        trainer->shuffled = epoch;
    }
    for (size_t i = 0; i < batch; i++) {
        const size_t image = trainer->order[first + i * (size_t)trainer->ranks];

        memcpy(trainer->images + i * pixels, train->images + image * pixels, pixels * sizeof *train->images);
        trainer->classes[i] = train->classes[image];
    }
}

/* Replaces the gradients by their average over all ranks: all tensors in one operation. */
static void average_gradients(trainer_t *trainer)
{
    trainer_must(tacit_group_begin(trainer->comm), "tacit_group_begin");
    for (size_t i = 0; i < trainer->model.tensors.count; i++) {
        float *gradients = trainer->model.tensors.list[i].gradients;

        trainer_must(tacit_allreduce(trainer->slots[i], gradients, gradients, TACIT_AVERAGE), "tacit_allreduce");
    }
    trainer_must(tacit_group_end(trainer->comm, NULL), "tacit_group_end");
}

/* Returns the loss on this rank's batch. */
static double train_step(trainer_t *trainer)
{
    double loss;

    fill_batch(trainer, trainer->optimizer.steps);
    loss = model_loss_gradient(&trainer->model, trainer->images, trainer->classes, trainer->options.batch);
    average_gradients(trainer);
    optimizer_step(&trainer->optimizer, trainer->model.tensors.values, trainer->model.tensors.gradients);
    return loss;
}

/* ---- Results ---- */

/* Adds the loss and the right answers on this rank's part of a set to sums[0] and sums[1]. */
static void evaluate_part(trainer_t *trainer, const digits_set_t *set, double *sums)
{
    const size_t first = set->count * (size_t)trainer->rank / (size_t)trainer->ranks;
    const size_t end = set->count * ((size_t)trainer->rank + 1) / (size_t)trainer->ranks;
    size_t       right = 0;

    model_evaluate(&trainer->model, set->images + first * trainer->digits.pixels, set->classes + first, end - first, &sums[0],
                   &right);
    sums[1] += (double)right;
}

static score_t evaluate(trainer_t *trainer)
{
    const double trains = (double)trainer->digits.train.count, tests = (double)trainer->digits.test.count;
    double       sums[4] = {0.0, 0.0, 0.0, 0.0};

    evaluate_part(trainer, &trainer->digits.train, &sums[0]);
    evaluate_part(trainer, &trainer->digits.test, &sums[2]);
    (void)MPI_Allreduce(MPI_IN_PLACE, sums, 4, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return (score_t){.train_loss = sums[0] / trains, .test_loss = sums[2] / tests, .test_accuracy = sums[3] / tests};
}

static totals_t count_totals(const trainer_t *trainer)
{
    double bytes[2] = {0.0, 0.0};

    for (size_t i = 0; i < trainer->model.tensors.count; i++) {
        tacit_counters_t counters;

        trainer_must(tacit_slot_counters(trainer->slots[i], &counters), "tacit_slot_counters");
        bytes[0] += (double)counters.wire_bytes;
        bytes[1] += (double)counters.dense_bytes;
    }
    (void)MPI_Allreduce(MPI_IN_PLACE, bytes, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return (totals_t){.wire_bytes = trainer->before.wire_bytes + bytes[0] / trainer->ranks,
                      .dense_bytes = trainer->before.dense_bytes + bytes[1] / trainer->ranks,
                      .seconds = trainer->before.seconds + MPI_Wtime() - trainer->start_time};
}

static void print_progress(trainer_t *trainer, double loss)
{
    if (trainer->progress && MPI_Wtime() - trainer->progress_time > 0.1) {
        trainer->progress_time = MPI_Wtime();
        (void)fprintf(stderr, "\rstep %" PRIu64 " of %" PRIu64 ", loss %.4f \033[K", trainer->optimizer.steps, trainer->steps,
                      loss);
    }
}

static void print_score(const trainer_t *trainer, score_t score, totals_t totals)
{
    const double epoch = (double)trainer->optimizer.steps / (double)trainer->epoch_steps;

    if (trainer->rank != 0) {
        return;
    }
    if (trainer->progress) {
        (void)fputs("\r\033[K", stderr);
    }
    if (trainer->options.json) {
        (void)fputs("{", stdout);
        trainer_print_json("epoch", epoch, ",");
        (void)printf("\"step\":%" PRIu64 ",", trainer->optimizer.steps);
        trainer_print_json("train_loss", score.train_loss, ",");
        trainer_print_json("test_loss", score.test_loss, ",");
        trainer_print_json("test_accuracy", score.test_accuracy, ",");
        trainer_print_json("wire_bytes", totals.wire_bytes, ",");
        trainer_print_json("seconds", totals.seconds, "}\n");
    } else {
        (void)printf("epoch %-5.4g step %-7" PRIu64 " training loss %.5f   test accuracy %.2f %%\n", epoch,
                     trainer->optimizer.steps, score.train_loss, 100.0 * score.test_accuracy);
    }
    (void)fflush(stdout);
}

static void print_final_json(const trainer_t *trainer, score_t score, totals_t totals, uint64_t hash, bool equal)
{
    const double ratio = totals.dense_bytes / totals.wire_bytes; /* null on one rank, which sends nothing */

    (void)printf("{\"final\":true,\"optimizer\":\"%s\",\"spec\":\"%s\",\"ranks\":%d,\"steps\":%" PRIu64 ",",
                 trainer_optimizer_name(trainer->options.optimizer), trainer->options.spec, trainer->ranks,
                 trainer->optimizer.steps);
    trainer_print_json("train_loss", score.train_loss, ",");
    trainer_print_json("test_loss", score.test_loss, ",");
    trainer_print_json("test_accuracy", score.test_accuracy, ",");
    trainer_print_json("wire_bytes", totals.wire_bytes, ",");
    trainer_print_json("dense_bytes", totals.dense_bytes, ",");
    trainer_print_json("ratio", ratio, ",");
    trainer_print_json("ratio_fp16", ratio / 2.0, ",");
    (void)printf("\"replicas_equal\":%s,\"param_hash\":\"%016" PRIx64 "\",", equal ? "true" : "false", hash);
    trainer_print_json("seconds", totals.seconds, "}\n");
}

static void print_final(const trainer_t *trainer, score_t score, totals_t totals, uint64_t hash, bool equal)
{
    const double step_bytes = totals.wire_bytes / (double)trainer->optimizer.steps;

    (void)printf("%" PRIu64 " steps on %d %s with %s in %.1f s: training loss %.5f, test accuracy %.2f %%\n",
                 trainer->optimizer.steps, trainer->ranks, trainer->ranks == 1 ? "rank" : "ranks", trainer->options.spec,
                 totals.seconds, score.train_loss, 100.0 * score.test_accuracy);
    if (totals.wire_bytes > 0.0) {
        (void)printf("each rank sent %.0f bytes a step, %.2f times fewer than float32, %.2f times fewer than 16 bits\n",
                     step_bytes, totals.dense_bytes / totals.wire_bytes, totals.dense_bytes / totals.wire_bytes / 2.0);
    }
    (void)printf("parameters %s on all ranks, hash %016" PRIx64 "\n", equal ? "equal" : "NOT EQUAL", hash);
}

/* Returns whether all ranks have come to the same parameters, bit for bit. */
static bool report_final(const trainer_t *trainer, score_t score, totals_t totals)
{
    const uint64_t hash = hash_floats(trainer->model.tensors.values, trainer->model.tensors.elements);
    uint64_t       first = hash;
    int            equal;

    (void)MPI_Bcast(&first, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    equal = hash == first;
    (void)MPI_Allreduce(MPI_IN_PLACE, &equal, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    if (trainer->rank == 0 && trainer->options.json) {
        print_final_json(trainer, score, totals, hash, equal);
    } else if (trainer->rank == 0) {
        print_final(trainer, score, totals, hash, equal);
    }
    return equal;
}

/* ---- Checkpoints ---- */

/* The head of the common file: a line for each thing in which a run that resumes must not differ. */
static void describe(const trainer_t *trainer, char *text, size_t capacity)
{
    const digits_set_t *train = &trainer->digits.train;
    const uint64_t      images = hash_floats(train->images, train->count * trainer->digits.pixels);
    size_t              used;

    used = (size_t)snprintf(text, capacity,
                            "format tacit train-digits 1\nranks %d\nspec %s\noptimizer %s\nbatch %" PRIu64 "\nseed %" PRIu64
                            "\ndata %zu images, %016" PRIx64 "\nlayers",
                            trainer->ranks, trainer->options.spec, trainer_optimizer_name(trainer->options.optimizer),
                            trainer->options.batch, trainer->options.seed, train->count,
                            hash_bytes(images, train->classes, train->count));
    for (size_t i = 0; i <= trainer->model.layers && used < capacity; i++) {
        used += (size_t)snprintf(text + used, capacity - used, " %zu", trainer->model.widths[i]);
    }
    if (used + 1 < capacity) {
        memcpy(text + used, "\n", 2);
    }
}

static int write_common(const trainer_t *trainer, totals_t totals, const char *path)
{
    const model_t     *model = &trainer->model;
    const optimizer_t *optimizer = &trainer->optimizer;
    const uint64_t     hash = hash_bytes(hash_floats(model->tensors.values, model->tensors.elements), optimizer->state,
                                         optimizer->state_count * sizeof *optimizer->state);
    char               text[TRAINER_TEXT_BYTES];
    FILE              *file = fopen(path, "wb");
    bool               written;

    if (!file) {
        return -1;
    }
    describe(trainer, text, sizeof text);
    written = fprintf(file, "%sstep %" PRIu64 "\nwire_bytes %.17g\ndense_bytes %.17g\nseconds %.17g\nhash %016" PRIx64 "\n", text,
                      optimizer->steps, totals.wire_bytes, totals.dense_bytes, totals.seconds, hash) > 0;
    written = written && fwrite(model->tensors.values, sizeof *model->tensors.values, model->tensors.elements, file) ==
                             model->tensors.elements;
    written =
        written && fwrite(optimizer->state, sizeof *optimizer->state, optimizer->state_count, file) == optimizer->state_count;
    written = written && fflush(file) == 0 && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && written ? 0 : -1;
}

/* Writes the next generation: rank 0 makes its folder, every rank saves its part, rank 0 makes it count. */
static void save(trainer_t *trainer, totals_t totals)
{
    const char    *dir = trainer->options.checkpoint;
    const uint64_t number = trainer->generation + 1;
    char           path[GENERATION_PATH_BYTES], name[32], text[TRAINER_TEXT_BYTES];
    bool           done = true;

    if (trainer->rank == 0) {
        done = generation_begin(dir, number) == 0 && generation_path(dir, number, true, common_file, path) == 0 &&
               write_common(trainer, totals, path) == 0;
        (void)snprintf(text, sizeof text, "cannot write a checkpoint in %s: %s", dir, strerror(errno));
    }
    trainer_agree(done ? NULL : text);
    (void)snprintf(name, sizeof name, "rank-%d", trainer->rank);
    done = generation_path(dir, number, true, name, path) == 0;
    trainer_agree(done ? NULL : "the path of --checkpoint is too long");
    trainer_must(tacit_save(trainer->comm, path), "tacit_save"); /* returns when all ranks have saved */
    if (trainer->rank == 0) {
        done = generation_commit(dir, number) == 0;
        (void)snprintf(text, sizeof text, "cannot complete the checkpoint in %s: %s", dir, strerror(errno));
    }
    trainer_agree(done ? NULL : text);
    trainer->generation = number;
}

/* Compares the head of a checkpoint with this run's. Returns 0, or -1 with what differs in `text`. */
static int check_head(const trainer_t *trainer, FILE *file, char *text, size_t capacity)
{
    char  here[TRAINER_TEXT_BYTES], there[TRAINER_TEXT_BYTES];
    char *line = here, *end;

    describe(trainer, here, sizeof here);
    for (; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        if (!fgets(there, sizeof there, file)) {
            there[0] = '\0';
        }
        there[strcspn(there, "\n")] = '\0';
        if (strcmp(line, there) != 0) {
            (void)snprintf(text, capacity, "its '%.200s' is not this run's '%.200s'", there, line);
            return -1;
        }
    }
    return 0;
}

/* Reads the common file into the trainer. Returns 0, or -1 with what is wrong in `text`. */
static int read_common(trainer_t *trainer, const char *path, char *text, size_t capacity)
{
    model_t     *model = &trainer->model;
    optimizer_t *optimizer = &trainer->optimizer;
    FILE        *file = fopen(path, "rb");
    uint64_t     hash, found;
    int          result = -1;

    if (!file) {
        (void)snprintf(text, capacity, "%s", strerror(errno));
        return -1;
    }
    if (check_head(trainer, file, text, capacity) == 0) {
        const bool whole =
            fscanf(file, "step %" SCNu64 " wire_bytes %lf dense_bytes %lf seconds %lf hash %16" SCNx64, &optimizer->steps,
                   &trainer->before.wire_bytes, &trainer->before.dense_bytes, &trainer->before.seconds, &hash) == 5 &&
            fgetc(file) == '\n' &&
            fread(model->tensors.values, sizeof *model->tensors.values, model->tensors.elements, file) ==
                model->tensors.elements &&
            fread(optimizer->state, sizeof *optimizer->state, optimizer->state_count, file) == optimizer->state_count &&
            fgetc(file) == EOF;

        found = hash_bytes(hash_floats(model->tensors.values, model->tensors.elements), optimizer->state,
                           optimizer->state_count * sizeof *optimizer->state);
        result = whole && found == hash ? 0 : -1;
        (void)snprintf(text, capacity, "the file is damaged");
    }
    (void)fclose(file);
    return result;
}

/* Goes on from the newest generation, if there is one; its number is needed for the next one anyway. */
static void resume(trainer_t *trainer)
{
    const char *dir = trainer->options.checkpoint;
    char        path[GENERATION_PATH_BYTES], name[32], reason[TRAINER_TEXT_BYTES / 2], text[TRAINER_TEXT_BYTES];
    bool        done = true;

    if (trainer->rank == 0) {
        done = generation_newest(dir, &trainer->generation) == 0;
        (void)snprintf(text, sizeof text, "cannot read %s: %s", dir, strerror(errno));
    }
    trainer_agree(done ? NULL : text);
    (void)MPI_Bcast(&trainer->generation, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (!trainer->options.resume) {
        return;
    }
    if (trainer->generation == 0) {
        if (trainer->rank == 0) {
            (void)fprintf(stderr, "train-digits: no checkpoint in %s; starting at the beginning\n", dir);
        }
        return;
    }
    if (trainer->rank == 0) {
        done = generation_path(dir, trainer->generation, false, common_file, path) == 0 &&
               read_common(trainer, path, reason, sizeof reason) == 0;
        (void)snprintf(text, sizeof text, "cannot resume from %.400s: %s", path, reason);
    }
    trainer_agree(done ? NULL : text);
    (void)MPI_Bcast(trainer->model.tensors.values, (int)trainer->model.tensors.elements, MPI_FLOAT, 0, MPI_COMM_WORLD);
    (void)MPI_Bcast(trainer->optimizer.state, (int)trainer->optimizer.state_count, MPI_FLOAT, 0, MPI_COMM_WORLD);
    (void)MPI_Bcast(&trainer->optimizer.steps, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    (void)MPI_Bcast(&trainer->before, 3, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    (void)snprintf(name, sizeof name, "rank-%d", trainer->rank);
    done = generation_path(dir, trainer->generation, false, name, path) == 0;
    trainer_agree(done ? NULL : "the path of --checkpoint is too long");
    trainer_must(tacit_load(trainer->comm, path), "tacit_load");
    if (trainer->rank == 0) {
        (void)fprintf(stderr, "train-digits: resuming after step %" PRIu64 "\n", trainer->optimizer.steps);
    }
}

/* ---- The program ---- */

static bool train(trainer_t *trainer)
{
    score_t  score;
    totals_t totals;

    (void)MPI_Barrier(MPI_COMM_WORLD);
    trainer->start_time = MPI_Wtime();
    score = evaluate(trainer);
    totals = count_totals(trainer);
    while (trainer->optimizer.steps < trainer->steps) {
        print_progress(trainer, train_step(trainer));
        if (trainer->optimizer.steps % trainer->epoch_steps == 0 || trainer->optimizer.steps == trainer->steps) {
            score = evaluate(trainer);
            totals = count_totals(trainer);
            print_score(trainer, score, totals);
            if (trainer->options.checkpoint) {
                save(trainer, totals);
            }
        }
    }
    return report_final(trainer, score, totals);
}

static void free_all(trainer_t *trainer)
{
    tacit_comm_destroy(trainer->comm);
    optimizer_fini(&trainer->optimizer);
    model_fini(&trainer->model);
    digits_free(&trainer->digits);
    free(trainer->order);
    free(trainer->images);
    free(trainer->classes);
}

int main(int argc, char **argv)
{
    trainer_t trainer = {0};
    bool      equal;

    trainer_start(argc, argv, &trainer.options);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &trainer.rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &trainer.ranks);
    trainer.progress = trainer.rank == 0 && isatty(STDERR_FILENO);
    load_data(&trainer);
    make_model(&trainer);
    make_slots(&trainer);
    if (trainer.options.checkpoint) {
        resume(&trainer);
    }
    equal = train(&trainer);
    free_all(&trainer);
    (void)MPI_Finalize();
    return equal ? EXIT_SUCCESS : EXIT_FAILURE;
}
