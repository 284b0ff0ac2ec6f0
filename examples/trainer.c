/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer on any number of ranks: each computes gradients on its share of the samples, and the optimizer makes of all of them
   one step, the same on every rank; what ranks tell each other is compressed as --spec says. The heart of it is train_step(). */
#include "trainer.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Over whole sets; all ranks hold the same. */
typedef struct score {
    double train_loss, test_loss, test_accuracy;
} score_t;

/* ---- Endings ---- */

void trainer_die(const trainer_t *trainer, const char *format, ...)
{
    char    text[TRAINER_TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)fprintf(stderr, "%s: rank %d: %s\n", trainer->task->program, trainer->rank, text);
    (void)MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    exit(EXIT_FAILURE);
}

void trainer_must(const trainer_t *trainer, tacit_status_t status, const char *call)
{
    if (status != TACIT_OK) {
        trainer_die(trainer, "%s: %s: %s", call, tacit_strerror(status), tacit_last_error());
    }
}

void trainer_all(const trainer_t *trainer, tacit_status_t status, const char *call)
{
    char text[TRAINER_TEXT_BYTES];

    (void)snprintf(text, sizeof text, "%s: %s: %.800s", call, tacit_strerror(status), tacit_last_error());
    trainer_agree(trainer, status == TACIT_OK ? NULL : text);
}

void trainer_agree(const trainer_t *trainer, const char *complaint)
{
    program_agree(trainer->task->program, complaint, EXIT_FAILURE);
}

/* ---- Making ---- */

/* Each rank reads a file of its own, maybe on a machine of its own. */
static void compare_data(const trainer_t *trainer)
{
    char     text[TRAINER_TEXT_BYTES] = "";
    uint64_t here, first;

    trainer->task->describe(trainer->own, text, sizeof text);
    here = first = program_hash(PROGRAM_HASH_START, text, strlen(text));
    (void)MPI_Bcast(&first, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    (void)snprintf(text, sizeof text, "the data of rank %d are not those of rank 0; check --data", trainer->rank);
    trainer_agree(trainer, here == first ? NULL : text);
}

static void make_model(trainer_t *trainer)
{
    const trainer_task_t *task = trainer->task;
    const uint64_t        batch = trainer->options.batch;
    char                  text[TRAINER_TEXT_BYTES];
    size_t                samples;

    trainer_agree(trainer, task->load(trainer->own, &trainer->options, text));
    compare_data(trainer);
    trainer->tensors = task->tensors(trainer->own);
    trainer->local = task->local_tensors ? task->local_tensors(trainer->own) : NULL;
    samples = task->sample_count(trainer->own);
    trainer->epoch_steps = samples / (batch * (uint64_t)trainer->ranks);
    (void)snprintf(text, sizeof text, "%zu %s are too few for a batch of %" PRIu64 " on each of %d ranks", samples, task->samples,
                   batch, trainer->ranks);
    trainer_agree(trainer, trainer->epoch_steps > 0 ? NULL : text);
    trainer->steps = trainer->options.steps ? trainer->options.steps : trainer->options.epochs * trainer->epoch_steps;
    trainer->order = malloc(samples * sizeof *trainer->order);
    trainer->batch = malloc(batch * sizeof *trainer->batch);
    trainer->shuffled = UINT64_MAX;
    trainer_agree(trainer, trainer->order && trainer->batch ? NULL : "not enough memory for the order of samples");
    trainer_agree(trainer, trainer->tensors->elements <= INT_MAX ? NULL : "the model has more than 2^31 parameters");
    task->randomize(trainer->own, trainer->options.seed);
    trainer->parameters = trainer->local ? trainer->local->elements : 0;
    (void)MPI_Allreduce(MPI_IN_PLACE, &trainer->parameters, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    trainer->parameters += trainer->tensors->elements;
    /* Logarithms and cosines may differ in the last bit from one machine to the next. */
    (void)MPI_Bcast(trainer->tensors->values, (int)trainer->tensors->elements, MPI_FLOAT, 0, MPI_COMM_WORLD);
}

tacit_slot_config_t trainer_slot(const tensor_t *tensor)
{
    tacit_slot_config_t slot = TACIT_SLOT_CONFIG_INIT;

    slot.count = tensor->rows * tensor->cols;
    slot.ndim = tensor->rows > 1 ? 2 : 1;
    slot.shape[0] = tensor->rows > 1 ? tensor->rows : tensor->cols;
    slot.shape[1] = tensor->rows > 1 ? tensor->cols : 0;
    return slot;
}

static void advise(const trainer_t *trainer)
{
    const char *core = blas_core_advice();

    if (trainer->rank == 0 && !trainer->options.json && core) {
        (void)fprintf(stderr,
                      "%s: OpenBLAS does not know this processor; with OPENBLAS_CORETYPE=%s in the environment it is faster\n",
                      trainer->task->program, core);
    }
}

/* ---- Training ---- */

/* Collects this rank's samples of the next step: ranks take turns along the shuffled order, the same on all of them. */
static void fill_batch(trainer_t *trainer)
{
    const size_t   batch = trainer->options.batch, ranks = (size_t)trainer->ranks;
    const uint64_t epoch = trainer->step / trainer->epoch_steps;
    const size_t   first = trainer->step % trainer->epoch_steps * batch * ranks + (size_t)trainer->rank;

    if (trainer->shuffled != epoch) {
        uint64_t seed = trainer->options.seed;

        random_permutation(random_next(&seed) + epoch, trainer->task->sample_count(trainer->own), trainer->order);
        trainer->shuffled = epoch;
    }
    for (size_t i = 0; i < batch; i++) {
        trainer->batch[i] = trainer->order[first + i * ranks];
    }
}

/* The same bits on every machine: only products and quotients. */
static double rate_now(const trainer_t *trainer)
{
    const trainer_options_t *options = &trainer->options;
    const uint64_t           step = trainer->step < trainer->steps ? trainer->step : trainer->steps - 1; /* see train() */
    double                   rate = options->rate;

    if (step < options->warmup) {
        rate *= (double)(step + 1) / (double)options->warmup;
    } else if (options->linear && options->warmup < trainer->steps) {
        rate *= (double)(trainer->steps - step) / (double)(trainer->steps - options->warmup);
    }
    return rate;
}

/* Returns the loss on this rank's batch. */
static double train_step(trainer_t *trainer)
{
    double loss;

    fill_batch(trainer);
    loss = trainer->task->gradient(trainer->own, trainer->batch, trainer->options.batch, trainer->step / trainer->epoch_steps);
    trainer->device->step(trainer, rate_now(trainer));
    trainer->step++;
    return loss;
}

/* ---- Results ---- */

static score_t evaluate(trainer_t *trainer)
{
    trainer_sums_t sums = {0};

    trainer->task->evaluate(trainer->own, (size_t)trainer->rank, (size_t)trainer->ranks, &sums);
    (void)MPI_Allreduce(MPI_IN_PLACE, &sums, sizeof sums / sizeof(double), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return (score_t){sums.train_loss / sums.trains, sums.test_loss / sums.tests, sums.right / sums.tests};
}

/* What training densely would have sent: a ring's all-reduce of so many gradients in every step. */
static double dense_bytes(const trainer_t *trainer, size_t elements)
{
    const double ranks = trainer->ranks;

    return 2.0 * (ranks - 1.0) / ranks * 4.0 * (double)elements * (double)trainer->step;
}

/* Turns this rank's numbers into the mean rank's, those of earlier runs included. */
static void average(const trainer_t *trainer, double *numbers, const double *before, int count)
{
    (void)MPI_Allreduce(MPI_IN_PLACE, numbers, count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < count; i++) {
        numbers[i] = before[i] + numbers[i] / trainer->ranks;
    }
}

static trainer_totals_t count_totals(const trainer_t *trainer)
{
    const double     before[2] = {trainer->before.wire_bytes, trainer->before.large_wire_bytes};
    trainer_totals_t totals = {.dense_bytes = dense_bytes(trainer, trainer->tensors->elements),
                               .seconds = trainer->before.seconds + MPI_Wtime() - trainer->start_time};
    double           bytes[2];
    size_t           large = 0;

    for (size_t i = 0; i < trainer->tensors->count; i++) {
        const size_t elements = trainer->tensors->list[i].rows * trainer->tensors->list[i].cols;

        large += elements > TRAINER_LARGE ? elements : 0;
    }
    totals.large_dense_bytes = dense_bytes(trainer, large);
    trainer->device->sent(trainer, bytes);
    average(trainer, bytes, before, 2);
    totals.wire_bytes = bytes[0];
    totals.large_wire_bytes = bytes[1];
    if (trainer->task->tally) {
        trainer->task->tally(trainer->own, totals.tallies);
        average(trainer, totals.tallies, trainer->before.tallies, TRAINER_TALLIES);
    }
    return totals;
}

static void print_progress(trainer_t *trainer, double loss)
{
    if (trainer->progress && MPI_Wtime() - trainer->progress_time > 0.1) {
        trainer->progress_time = MPI_Wtime();
        (void)fprintf(stderr, "\rstep %" PRIu64 " of %" PRIu64 ", loss %.4f \033[K", trainer->step, trainer->steps, loss);
    }
}

static void print_score_json(const trainer_t *trainer, score_t score)
{
    program_print_json("train_loss", score.train_loss, ",");
    program_print_json("test_loss", score.test_loss, ",");
    if (trainer->task->accuracy) {
        program_print_json("test_accuracy", score.test_accuracy, ",");
    }
}

/* "training loss 0.1, test accuracy 90 %" */
static void print_score_text(const trainer_t *trainer, score_t score, const char *between)
{
    (void)printf("training loss %.5f%s", score.train_loss, between);
    if (trainer->task->accuracy) {
        (void)printf("test accuracy %.2f %%\n", 100.0 * score.test_accuracy);
    } else {
        (void)printf("test loss %.5f\n", score.test_loss);
    }
}

static void print_score(const trainer_t *trainer, score_t score, trainer_totals_t totals)
{
    const double epoch = (double)trainer->step / (double)trainer->epoch_steps;

    if (trainer->rank != 0) {
        return;
    }
    if (trainer->progress) {
        (void)fputs("\r\033[K", stderr);
    }
    if (trainer->options.json) {
        (void)fputs("{", stdout);
        program_print_json("epoch", epoch, ",");
        (void)printf("\"step\":%" PRIu64 ",", trainer->step);
        print_score_json(trainer, score);
        program_print_json("wire_bytes", totals.wire_bytes, ",");
        program_print_json("large_wire_bytes", totals.large_wire_bytes, ",");
        program_print_json("seconds", totals.seconds, "}\n");
    } else {
        (void)printf("epoch %-5.4g step %-7" PRIu64 " ", epoch, trainer->step);
        print_score_text(trainer, score, "   ");
    }
    program_flush();
}

static tacit_lgreco_report_t report_plans(const trainer_t *trainer)
{
    tacit_lgreco_report_t report;

    trainer_must(trainer, tacit_lgreco_report(trainer->lgreco, &report), "tacit_lgreco_report");
    return report;
}

/* "2 plans of --adapt: ..." */
static void print_plans(const trainer_t *trainer)
{
    const tacit_lgreco_report_t report = report_plans(trainer);

    (void)printf("%" PRIu64 " %s of --adapt", report.plans, report.plans == 1 ? "plan" : "plans");
    if (report.plans > 0) {
        (void)printf(": what it adapts is %.0f bytes a step by the last, and would be %.0f without", report.planned_bytes,
                     report.uniform_bytes);
    }
    (void)putchar('\n');
}

static void print_final_json(const trainer_t *trainer, score_t score, trainer_totals_t totals, uint64_t hash, bool equal)
{
    const double ratio = totals.dense_bytes / totals.wire_bytes; /* null on one rank, which sends nothing */

    (void)printf("{\"final\":true,\"optimizer\":\"%s\",\"spec\":\"%s\",\"ranks\":%d,\"steps\":%" PRIu64 ",",
                 trainer->options.optimizer, trainer->options.spec, trainer->ranks, trainer->step);
    print_score_json(trainer, score);
    program_print_json("wire_bytes", totals.wire_bytes, ",");
    program_print_json("dense_bytes", totals.dense_bytes, ",");
    program_print_json("large_wire_bytes", totals.large_wire_bytes, ",");
    program_print_json("large_dense_bytes", totals.large_dense_bytes, ",");
    program_print_json("ratio", ratio, ",");
    program_print_json("ratio_fp16", ratio / 2.0, ",");
    if (trainer->lgreco) {
        (void)printf("\"plans\":%" PRIu64 ",", report_plans(trainer).plans);
    }
    if (trainer->task->report) {
        trainer->task->report(trainer->own, totals.tallies, true);
    }
    (void)printf("\"parameters\":%" PRIu64 ",", trainer->parameters);
    (void)printf("\"replicas_equal\":%s,\"param_hash\":\"%016" PRIx64 "\",", equal ? "true" : "false", hash);
    program_print_json("seconds", totals.seconds, "}\n");
}

static void print_final(const trainer_t *trainer, score_t score, trainer_totals_t totals, uint64_t hash, bool equal)
{
    const double step_bytes = totals.wire_bytes / (double)trainer->step;

    (void)printf("%" PRIu64 " steps of %s on %d %s with %s in %.1f s: ", trainer->step, trainer->options.optimizer,
                 trainer->ranks, trainer->ranks == 1 ? "rank" : "ranks", trainer->options.spec, totals.seconds);
    print_score_text(trainer, score, ", ");
    if (totals.wire_bytes > 0.0) {
        (void)printf("each rank sent %.0f bytes a step, %.2f times fewer than float32, %.2f times fewer than 16 bits\n",
                     step_bytes, totals.dense_bytes / totals.wire_bytes, totals.dense_bytes / totals.wire_bytes / 2.0);
    }
    if (trainer->lgreco) {
        print_plans(trainer);
    }
    if (trainer->task->report) {
        trainer->task->report(trainer->own, totals.tallies, false);
    }
    if (trainer->local) {
        (void)printf("%" PRIu64 " parameters in all; ", trainer->parameters);
    }
    (void)printf("%zu parameters %s on all ranks, hash %016" PRIx64 "\n", trainer->tensors->elements,
                 equal ? "equal" : "NOT EQUAL", hash);
}

/* Goes on from `hash` with what each rank alone has, one rank after the other. Collective. */
static uint64_t hash_local(const trainer_t *trainer, uint64_t hash)
{
    for (int r = 0; trainer->local && r < trainer->ranks; r++) {
        if (r == trainer->rank) {
            hash = program_hash(hash, trainer->local->values, trainer->local->elements * sizeof(float));
        }
        (void)MPI_Bcast(&hash, 1, MPI_UINT64_T, r, MPI_COMM_WORLD);
    }
    return hash;
}

/* Returns whether all ranks have come to the same parameters, bit for bit. */
static bool report_final(const trainer_t *trainer, score_t score, trainer_totals_t totals)
{
    uint64_t hash;
    bool     equal;

    trainer->device->fetch(trainer);
    hash = program_hash(PROGRAM_HASH_START, trainer->tensors->values, trainer->tensors->elements * sizeof(float));
    equal = program_is_equal(hash);
    hash = hash_local(trainer, hash);
    if (trainer->rank == 0 && trainer->options.json) {
        print_final_json(trainer, score, totals, hash, equal);
    } else if (trainer->rank == 0) {
        print_final(trainer, score, totals, hash, equal);
    }
    return equal;
}

/* ---- The program ---- */

/* Only where ranks have the same values is there a model to evaluate, and to end on: both may come a few steps later. */
static bool train(trainer_t *trainer)
{
    const uint64_t   every = trainer->options.every ? trainer->options.every : trainer->epoch_steps;
    score_t          score;
    trainer_totals_t totals;
    bool             wanted = false;

    (void)MPI_Barrier(MPI_COMM_WORLD);
    trainer->start_time = MPI_Wtime();
    score = evaluate(trainer);
    totals = count_totals(trainer);
    while (trainer->step < trainer->steps || !trainer->device->together(trainer)) {
        bool due;

        print_progress(trainer, train_step(trainer));
        wanted = wanted || trainer->step % every == 0 || trainer->step >= trainer->steps;
        due = wanted && trainer->device->together(trainer);
        if (due) {
            wanted = false;
            score = evaluate(trainer);
            totals = count_totals(trainer);
            print_score(trainer, score, totals);
        }
        if (trainer->options.checkpoint && (due || trainer->step % trainer->epoch_steps == 0)) {
            trainer_save(trainer, due ? totals : count_totals(trainer));
        }
    }
    return report_final(trainer, score, totals);
}

static void free_all(trainer_t *trainer)
{
    trainer->device->release(trainer);
    trainer->task->release(trainer->own);
    free(trainer->order);
    free(trainer->batch);
}

int trainer_main(int argc, char **argv, const trainer_task_t *task, void *own)
{
    trainer_t trainer = {.task = task, .own = own};
    bool      equal;

    trainer_start(argc, argv, &trainer);
    trainer.device = trainer.options.gpu ? &trainer_on_gpu : &trainer_on_cpu;
    trainer.progress = trainer.rank == 0 && isatty(STDERR_FILENO);
    advise(&trainer);
    make_model(&trainer);
    trainer.device->make(&trainer);
    if (task->connect) {
        task->connect(own, &trainer);
    }
    if (trainer.options.checkpoint) {
        trainer_resume(&trainer);
    }
    equal = train(&trainer);
    free_all(&trainer);
    (void)MPI_Finalize();
    return program_finished(task->program, equal ? EXIT_SUCCESS : EXIT_FAILURE);
}
