/* SPDX-License-Identifier: Apache-2.0 */
/* Gradient descent on small problems whose answer is known (problem.h): what feedback does can be seen to the last digit. The
   clients are dealt to the ranks, a slot each; Tacit averages their float32 gradients, the model is float64. The heart is
   descend(). */
#include "problem.h"
#include "program.h"

#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tacit.h>
#include <tacit_mpi.h>

static const char program[] = "train-quadratic";

static const char usage_head[] =
    "Usage: mpirun -n RANKS train-quadratic --problem NAME [OPTION]...\n"
    "Gradient descent on a problem whose optimum is known; the clients' gradients are averaged by Tacit.\n"
    "RANKS divides the problem's clients. A rank with several clients keeps a slot, with its own memory, for each: for topk and\n"
    "randk that is the same method, with fewer messages; other compressors then also compress each slot's mean separately.\n\n";

typedef struct options {
    problem_options_t problem;
    const char       *spec;
    uint64_t          steps, every; /* 0: the default */
    double            rate;         /* below 0: the default */
    bool              json;
} options_t;

/* What is known of the model after a step; on rank 0. */
typedef struct score {
    double loss, gap, distance_squared;
    double memory_squared;          /* mean over clients of |what was kept back|^2 */
    double wire_bytes, dense_bytes; /* of the mean rank */
} score_t;

typedef struct trainer {
    options_t     options;
    int           rank, ranks;
    size_t        clients; /* of this rank: rank, rank + ranks, ... of all */
    problem_t     problem;
    tacit_comm_t *comm;
    tacit_slot_t *slots[PROBLEM_CLIENTS];
    double       *x, *gradient; /* the model; room for one client's gradient */
    float        *messages;     /* clients rows: gradients, then their means over ranks */
    uint64_t      step;
    double        start_time, tail_sum; /* of the gap, over the last third of the steps */
    uint64_t      tail_count;
} trainer_t;

/* ---- Endings ---- */

static void must(tacit_status_t status, const char *call)
{
    if (status != TACIT_OK) {
        (void)fprintf(stderr, "train-quadratic: %s: %s: %s\n", call, tacit_strerror(status), tacit_last_error());
        (void)MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
}

/* ---- Options ---- */

#define AT(field) offsetof(options_t, field)

static const program_option_t known[] = {
    {"problem", "NAME", "", NULL, program_set_text, AT(problem.name), 0, 0},
    {"spec", "SPEC", "", "how gradients are compressed (default none)", program_set_text, AT(spec), 0, 0},
    {"steps", "N", "a whole number from 1", "(default: the problem's)", program_set_count, AT(steps), 1, 0},
    {"lr", "RATE", "a number from 0 and below 1e30", "(default: the problem's)", program_set_real, AT(rate), 0, 1e30},
    {"seed", "N", "a whole number from 0", "of the problem's random numbers, and the compressor's (default 1)", program_set_count,
     AT(problem.seed), 0, 0},
    {"every", "N", "a whole number from 1", "steps between evaluations (default: a hundredth of all)", program_set_count,
     AT(every), 1, 0},
    {"zeta", "Z", "a number from 0 and below 1e30", "of p2 and p3: how much the clients differ (default 100)", program_set_real,
     AT(problem.zeta), 0, 1e30},
    {"sigma", "S", "a number from 0 and below 1e30",
     "noise on each client's gradients: variance S^2 / parameters an element (default: p2 10, others 0)", program_set_real,
     AT(problem.sigma), 0, 1e30},
    {"data", "PATH", "", "of logistic: as in train-digits", program_set_path, AT(problem.data), 0, 0},
    {"json", NULL, "", "one JSON object a line", program_set_flag, AT(json), 0, 0},
    {0},
};

/* Returns the complaint or NULL. */
static const char *check_options(const options_t *options, char *text)
{
    if (!options->problem.name) {
        return "--problem NAME is missing; see --help";
    }
    if (tacit_spec_check(options->spec, NULL, 0) != TACIT_OK) {
        (void)snprintf(text, PROGRAM_TEXT_BYTES, "--spec '%.200s': %s", options->spec, tacit_last_error());
        return text;
    }
    return NULL;
}

static void print_usage(void)
{
    const problem_kind_t *kind;

    (void)fputs(usage_head, stdout);
    for (size_t i = 0; (kind = problem_kind_at(i)) != NULL; i++) {
        (void)printf("  --problem %-10s %s\n%*s%" PRIu64 " steps of rate %g\n", kind->name, kind->summary, 23, "", kind->steps,
                     kind->rate);
    }
    (void)putchar('\n');
    for (const program_option_t *option = known + 1; option->name; option++) {
        program_print_option(option->name, option->value, option->help);
    }
    program_print_option("help", NULL, "this text");
}

/* ---- Making ---- */

static void make_problem(trainer_t *trainer)
{
    options_t *options = &trainer->options;
    problem_t *problem = &trainer->problem;
    char       text[PROGRAM_TEXT_BYTES] = "";
    int        failed;

    failed = problem_init(problem, &options->problem, trainer->rank == 0, text, sizeof text);
    program_agree(program, failed ? text : NULL, PROGRAM_EXIT_USAGE);
    (void)snprintf(text, sizeof text, "%s has %zu clients, which %d ranks cannot share evenly", problem->kind->name,
                   problem->clients, trainer->ranks);
    program_agree(program, problem->clients % (size_t)trainer->ranks ? text : NULL, PROGRAM_EXIT_USAGE);
    trainer->clients = problem->clients / (size_t)trainer->ranks;
    options->steps = options->steps ? options->steps : problem->kind->steps;
    options->rate = options->rate >= 0.0 ? options->rate : problem->kind->rate;
    options->every = options->every ? options->every : (options->steps + 99) / 100;
}

static void make_slots(trainer_t *trainer)
{
    const size_t   count = trainer->problem.count;
    tacit_config_t config = TACIT_CONFIG_INIT;
    bool           missing;

    trainer->x = malloc(count * sizeof *trainer->x);
    trainer->gradient = malloc(count * sizeof *trainer->gradient);
    trainer->messages = malloc(trainer->clients * count * sizeof *trainer->messages);
    missing = !trainer->x || !trainer->gradient || !trainer->messages;
    program_agree(program, missing ? "not enough memory" : NULL, EXIT_FAILURE);
    problem_start(&trainer->problem, trainer->x);
    config.spec = trainer->options.spec;
    config.seed = trainer->options.problem.seed;
    must(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &trainer->comm), "tacit_comm_create_mpi");
    for (size_t i = 0; i < trainer->clients; i++) {
        tacit_slot_config_t slot = TACIT_SLOT_CONFIG_INIT;
        char                name[32];

        slot.count = count;
        (void)snprintf(name, sizeof name, "clients-%zu", i);
        must(tacit_slot_create(trainer->comm, name, &slot, &trainer->slots[i]), "tacit_slot_create");
    }
}

/* ---- Training ---- */

/* One step: every client's gradient, their mean, and the same move on every rank. */
static void descend(trainer_t *trainer)
{
    const size_t count = trainer->problem.count;

    for (size_t i = 0; i < trainer->clients; i++) {
        const size_t client = (size_t)trainer->rank + i * (size_t)trainer->ranks;

        (void)problem_gradient(&trainer->problem, client, trainer->step, trainer->x, trainer->gradient);
        for (size_t j = 0; j < count; j++) {
            trainer->messages[i * count + j] = (float)trainer->gradient[j];
        }
    }
    must(tacit_group_begin(trainer->comm), "tacit_group_begin");
    for (size_t i = 0; i < trainer->clients; i++) {
        float *message = trainer->messages + i * count;

        must(tacit_allreduce(trainer->slots[i], message, message, TACIT_AVERAGE), "tacit_allreduce");
    }
    must(tacit_group_end(trainer->comm, NULL), "tacit_group_end");
    for (size_t j = 0; j < count; j++) {
        double sum = 0.0;

        for (size_t i = 0; i < trainer->clients; i++) {
            sum += (double)trainer->messages[i * count + j];
        }
        trainer->x[j] -= trainer->options.rate * sum / (double)trainer->clients;
    }
    trainer->step++;
}

static score_t evaluate(trainer_t *trainer)
{
    double sums[4] = {0.0, 0.0, 0.0, 0.0};

    for (size_t i = 0; i < trainer->clients; i++) {
        const size_t     client = (size_t)trainer->rank + i * (size_t)trainer->ranks;
        tacit_norms_t    norms;
        tacit_counters_t counters;

        must(tacit_slot_norms(trainer->slots[i], &norms), "tacit_slot_norms");
        must(tacit_slot_counters(trainer->slots[i], &counters), "tacit_slot_counters");
        sums[0] += problem_gradient(&trainer->problem, client, UINT64_MAX, trainer->x, trainer->gradient);
        sums[1] += norms.memory * norms.memory;
        sums[2] += (double)counters.wire_bytes;
        sums[3] += (double)counters.dense_bytes;
    }
    (void)MPI_Reduce(trainer->rank == 0 ? MPI_IN_PLACE : sums, sums, 4, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    sums[0] /= (double)trainer->problem.clients;
    sums[1] /= (double)trainer->problem.clients;
    return (score_t){.loss = sums[0],
                     .gap = problem_gap(&trainer->problem, trainer->x, sums[0]),
                     .distance_squared = problem_distance_squared(&trainer->problem, trainer->x),
                     .memory_squared = sums[1],
                     .wire_bytes = sums[2] / trainer->ranks,
                     .dense_bytes = sums[3] / trainer->ranks};
}

/* ---- Results ---- */

static void print_score(const trainer_t *trainer, score_t score)
{
    if (trainer->options.json) {
        (void)printf("{\"step\":%" PRIu64 ",", trainer->step);
        program_print_json("loss", score.loss, ",");
        program_print_json("gap", score.gap, ",");
        program_print_json("distance_squared", score.distance_squared, ",");
        program_print_json("memory_squared", score.memory_squared, ",");
        program_print_json("wire_bytes", score.wire_bytes, ",");
        program_print_json("seconds", MPI_Wtime() - trainer->start_time, "}\n");
    } else {
        (void)printf("step %-7" PRIu64 " f - f* %-12.5g |x - x*|^2 %-12.5g mean |e|^2 %-12.5g bytes %.0f\n", trainer->step,
                     score.gap, score.distance_squared, score.memory_squared, score.wire_bytes);
    }
    program_flush();
}

static void print_final(const trainer_t *trainer, score_t score, uint64_t hash, bool equal)
{
    const options_t *options = &trainer->options;
    const double     tail = trainer->tail_sum / (double)trainer->tail_count, ratio = score.dense_bytes / score.wire_bytes;
    double           test_loss = NAN, test_accuracy = NAN;

    if (trainer->problem.digits.test.count > 0) {
        test_accuracy = problem_test(&trainer->problem, trainer->x, &test_loss);
    }
    if (!options->json) {
        (void)printf("%s: %" PRIu64 " steps on %d ranks with %s: f - f* %.5g, over the last third %.5g; parameters %s\n",
                     options->problem.name, trainer->step, trainer->ranks, options->spec, score.gap, tail,
                     equal ? "equal on all ranks" : "NOT EQUAL");
        return;
    }
    (void)printf("{\"final\":true,\"problem\":\"%s\",\"optimizer\":\"sgd\",\"spec\":\"%s\",\"ranks\":%d,\"clients\":%zu,"
                 "\"steps\":%" PRIu64 ",",
                 options->problem.name, options->spec, trainer->ranks, trainer->problem.clients, trainer->step);
    program_print_json("train_loss", score.loss, ",");
    program_print_json("test_loss", test_loss, ",");
    program_print_json("test_accuracy", test_accuracy, ",");
    program_print_json("gap", score.gap, ",");
    program_print_json("gap_last_third", tail, ",");
    program_print_json("distance_squared", score.distance_squared, ",");
    program_print_json("memory_squared", score.memory_squared, ",");
    program_print_json("wire_bytes", score.wire_bytes, ",");
    program_print_json("dense_bytes", score.dense_bytes, ",");
    program_print_json("ratio", ratio, ",");
    program_print_json("ratio_fp16", ratio / 2.0, ",");
    (void)printf("\"replicas_equal\":%s,\"param_hash\":\"%016" PRIx64 "\",", equal ? "true" : "false", hash);
    program_print_json("seconds", MPI_Wtime() - trainer->start_time, "}\n");
}

static bool train(trainer_t *trainer)
{
    const uint64_t steps = trainer->options.steps;
    score_t        score = evaluate(trainer);
    uint64_t       hash;
    bool           equal;

    trainer->start_time = MPI_Wtime();
    if (trainer->rank == 0) {
        print_score(trainer, score);
    }
    while (trainer->step < steps) {
        descend(trainer);
        if (trainer->step % trainer->options.every == 0 || trainer->step == steps) {
            score = evaluate(trainer);
            if (trainer->step > steps - (steps + 2) / 3) {
                trainer->tail_sum += score.gap;
                trainer->tail_count++;
            }
            if (trainer->rank == 0) {
                print_score(trainer, score);
            }
        }
    }
    hash = program_hash(PROGRAM_HASH_START, trainer->x, trainer->problem.count * sizeof *trainer->x);
    equal = program_is_equal(hash);
    if (trainer->rank == 0) {
        print_final(trainer, score, hash, equal);
    }
    return equal;
}

int main(int argc, char **argv)
{
    trainer_t               trainer = {0};
    options_t              *options = &trainer.options;
    const program_options_t all = {known, options};
    char                    text[PROGRAM_TEXT_BYTES];
    bool                    equal;

    if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return EXIT_FAILURE;
    }
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &trainer.rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &trainer.ranks);
    *options = (options_t){.spec = "none", .rate = -1.0, .problem = {.zeta = -1.0, .sigma = -1.0, .seed = 1}};
    if (program_parse(program, argc, argv, &all, 1)) {
        if (trainer.rank == 0) {
            print_usage();
        }
        (void)MPI_Finalize();
        return program_finished(program, EXIT_SUCCESS);
    }
    program_agree(program, check_options(options, text), PROGRAM_EXIT_USAGE);
    make_problem(&trainer);
    make_slots(&trainer);
    equal = train(&trainer);
    tacit_comm_destroy(trainer.comm);
    problem_fini(&trainer.problem);
    free(trainer.x);
    free(trainer.gradient);
    free(trainer.messages);
    (void)MPI_Finalize();
    return program_finished(program, equal ? EXIT_SUCCESS : EXIT_FAILURE);
}
