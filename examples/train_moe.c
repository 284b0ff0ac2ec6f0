/* SPDX-License-Identifier: Apache-2.0 */
/* Trains a transformer with mixtures of experts, which are spread over the ranks, to predict the next character of a text. Tokens
   go to experts and back by tacit_moe.h; the gradients of all else are reduced as by any trainer. Here are the layers; experts.c
   has the gates and experts, text_task.c the data, and trainer.c trains. */
#include "experts.h"
#include "text_task.h"

#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A block's layers: training's, training's of the first steps, evaluation's. What these count is apart. */
enum { TRAINED, DENSE, EVALUATED, LAYERS };

/* What train-moe counts. */
enum { WIRE_BYTES, DENSE_BYTES, COPIES, ROWS, RESIDUAL, OVERFLOWS, EXCHANGE_SECONDS, EXPERT_SECONDS, SHARES, PASSES, TALLIES };
_Static_assert((int)TALLIES <= (int)TRAINER_TALLIES, "there is room for all tallies");

typedef struct task {
    text_task_t      all;
    const char      *tokens, *evaluate_tokens;
    uint64_t         choices, capacity, dense_steps;
    double           balance;
    bool             skip;
    experts_t        experts;
    const trainer_t *trainer;
    tacit_moe_t *(*layers)[LAYERS]; /* of each block with experts */
} task_t;

/* ---- The model ---- */

static void sum(double *numbers, size_t count)
{
    (void)MPI_Allreduce(MPI_IN_PLACE, numbers, (int)count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

/* Whether the options fit together. Returns the complaint or NULL. */
static const char *check_options(const task_t *task, int ranks, char *text)
{
    const text_task_t *all = &task->all;

    if (all->layers < 2) {
        return "--layers 1: experts are in every second block, so that there must be 2 at least";
    }
    if (all->experts < (uint64_t)ranks) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--experts %" PRIu64 " are too few for %d ranks; each has one at least",
                       all->experts, ranks);
        return text;
    }
    if (task->choices > all->experts) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--choices %" PRIu64 " are more than --experts %" PRIu64, task->choices,
                       all->experts);
        return text;
    }
    return NULL;
}

static const char *load(void *own, const trainer_options_t *options, char *text)
{
    task_t         *task = own;
    experts_shape_t shape = {.choices = task->choices, .skip = task->skip, .balance = task->balance};
    const char     *complaint;

    (void)MPI_Comm_rank(MPI_COMM_WORLD, &shape.rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &shape.ranks);
    complaint = check_options(task, shape.ranks, text);
    complaint = complaint ? complaint : text_task_load(own, options, text);
    if (complaint) {
        return complaint;
    }
    shape.model = task->all.model.shape;
    shape.tokens = options->batch * task->all.context;
    if (experts_init(&task->experts, &shape) != 0) {
        return "not enough memory for the experts; try a smaller --width, --context, --batch or --experts";
    }
    task->experts.sum = sum;
    task->all.model.mixture = experts_mixture(&task->experts);
    return NULL;
}

static void randomize(void *own, uint64_t seed)
{
    text_task_randomize(own, seed);
    experts_randomize(&((task_t *)own)->experts, seed);
}

static tensors_t *local_tensors(void *own)
{
    return &((task_t *)own)->experts.tensors;
}

static void connect(void *own, const trainer_t *trainer)
{
    static const char *const kinds[LAYERS] = {"", ".dense", ".evaluated"};
    task_t                  *task = own;
    const experts_shape_t   *shape = &task->experts.shape;
    tacit_moe_config_t       config = TACIT_MOE_CONFIG_INIT;

    config.dimension = shape->model.width;
    config.experts = shape->model.experts;
    config.tokens = shape->tokens;
    config.choices = shape->choices;
    config.capacity = task->capacity;
    task->trainer = trainer;
    task->layers = calloc(task->experts.block_count, sizeof *task->layers);
    trainer_agree(trainer, task->layers ? NULL : "not enough memory for the layers");
    for (size_t b = 0; b < task->experts.block_count; b++) {
        for (int i = 0; i < LAYERS; i++) {
            char name[TENSOR_NAME_BYTES];

            (void)snprintf(name, sizeof name, "block%zu.tokens%s", 2 * b + 2, kinds[i]);
            config.spec = i == TRAINED ? task->tokens : i == DENSE ? "none" : task->evaluate_tokens;
            trainer_all(trainer, tacit_moe_create(trainer->shared.comm, name, &config, &task->layers[b][i]), "tacit_moe_create");
        }
        task->experts.blocks[b].evaluating = task->layers[b][EVALUATED];
    }
}

static double loss_of(text_task_t *all, size_t count, bool gradient)
{
    task_t   *task = (task_t *)all;
    const int kind = task->trainer->step < task->dense_steps ? DENSE : TRAINED;
    double    loss;

    for (size_t b = 0; b < task->experts.block_count; b++) {
        task->experts.blocks[b].training = task->layers[b][kind];
    }
    loss = (gradient ? transformer_loss_gradient : transformer_evaluate)(&all->model, all->windows, count);
    trainer_must(task->trainer, task->experts.status, "tokens on their way to experts");
    return loss;
}

static void describe(void *own, char *text, size_t capacity)
{
    const task_t *task = own;
    size_t        used;

    text_task_describe(own, text, capacity);
    used = strnlen(text, capacity);
    (void)snprintf(text + used, capacity - used,
                   "experts %" PRIu64 "\nchoices %" PRIu64 "\ncapacity %" PRIu64 "\ntokens %s\ndense steps %" PRIu64
                   "\nbalance %.17g\nskip %d\n",
                   task->all.experts, task->choices, task->capacity, task->tokens, task->dense_steps, task->balance, task->skip);
}

static void release(void *own)
{
    task_t *task = own;

    experts_fini(&task->experts);
    free(task->layers);
    text_task_release(own);
}

/* ---- Results ---- */

static void tally(void *own, double *tallies)
{
    const task_t *task = own;

    for (size_t b = 0; b < task->experts.block_count; b++) {
        tacit_moe_counters_t all, dense;

        trainer_must(task->trainer, tacit_moe_counters(task->layers[b][TRAINED], &all), "tacit_moe_counters");
        trainer_must(task->trainer, tacit_moe_counters(task->layers[b][DENSE], &dense), "tacit_moe_counters");
        tallies[WIRE_BYTES] += (double)(all.wire_bytes + dense.wire_bytes);
        tallies[DENSE_BYTES] += (double)(all.dense_bytes + dense.dense_bytes);
        tallies[OVERFLOWS] += (double)(all.overflows + dense.overflows);
        tallies[COPIES] += (double)all.copies;
        tallies[ROWS] += (double)all.rows;
        tallies[RESIDUAL] += (double)all.copies * all.residual;
    }
    tallies[EXCHANGE_SECONDS] = task->experts.exchange_seconds;
    tallies[EXPERT_SECONDS] = task->experts.expert_seconds;
    tallies[SHARES] = task->experts.shares;
    tallies[PASSES] = (double)task->experts.passes;
}

/* Numbers that do not exist, as those of one rank, become null, or nothing. */
static void report(void *own, const double *tallies, bool json)
{
    const task_t *task = own;
    const double  rate = tallies[ROWS] / tallies[COPIES], residual = tallies[RESIDUAL] / tallies[COPIES];
    const double  share = tallies[SHARES] / tallies[PASSES], ratio = tallies[DENSE_BYTES] / tallies[WIRE_BYTES];

    if (json) {
        (void)printf("\"tokens\":\"%s\",\"experts\":%" PRIu64 ",\"choices\":%" PRIu64 ",", task->tokens, task->all.experts,
                     task->choices);
        program_print_json("token_wire_bytes", tallies[WIRE_BYTES], ",");
        program_print_json("token_dense_bytes", tallies[DENSE_BYTES], ",");
        program_print_json("token_ratio", ratio, ",");
        program_print_json("token_rate", rate, ",");
        program_print_json("token_residual", residual, ",");
        program_print_json("overflows", tallies[OVERFLOWS], ",");
        program_print_json("exchange_seconds", tallies[EXCHANGE_SECONDS], ",");
        program_print_json("expert_seconds", tallies[EXPERT_SECONDS], ",");
        program_print_json("expert_share", share, ",");
        return;
    }
    if (tallies[WIRE_BYTES] > 0.0) {
        (void)printf("tokens to and from experts with %s: %.2f times fewer bytes than float32, %.3f rows for a token\n",
                     task->tokens, ratio, rate);
    }
    (void)printf("%.1f s in exchanges, %.1f s in experts, of which the busiest got %.1f %% of all choices (%.1f %% is even)\n",
                 tallies[EXCHANGE_SECONDS], tallies[EXPERT_SECONDS], 100.0 * share, 100.0 / (double)task->all.experts);
}

static const program_option_t options[] = {
    {"experts", "N", "a whole number from 2 to 1024", "of each second block, on all ranks together (default 8)",
     program_set_count, offsetof(task_t, all.experts), 2, 1024},
    {"choices", "N", "a whole number from 1 to 8", "experts that a token goes to (default 2)", program_set_count,
     offsetof(task_t, choices), 1, 8},
    {"capacity", "N", "a whole number from 0 to 4294967295",
     "tokens that a rank sends to one expert at most; the others' choice is lost (default\n0: all)", program_set_count,
     offsetof(task_t, capacity), 0, UINT32_MAX},
    {"tokens", "SPEC", "", "how tokens travel: bf16, fp8, lsh, ... (default none)", program_set_text, offsetof(task_t, tokens), 0,
     0},
    {"dense-steps", "N", "a whole number from 0 to 4294967295", "the first N steps have tokens travel as they are",
     program_set_count, offsetof(task_t, dense_steps), 0, UINT32_MAX},
    {"evaluate-tokens", "SPEC", "", "how they travel in evaluations (default none)", program_set_text,
     offsetof(task_t, evaluate_tokens), 0, 0},
    {"balance", "X", "a number from 0 and below 1e6", "what uneven use of experts counts in the loss (default 0.01)",
     program_set_real, offsetof(task_t, balance), 0, 1e6},
    {"skip", NULL, "", "experts add their input to their output", program_set_flag, offsetof(task_t, skip), 0, 0},
    {0},
};

int main(int argc, char **argv)
{
    static const trainer_task_t moe = {
        .program = "train-moe",
        .summary = "Trains a transformer with mixtures of experts, spread over the ranks, to predict the next\n"
                   "character of a text; losses are in nats a character.",
        .samples = "windows of the text",
        .data = "a file of text, of any bytes; its last tenth is for testing (default: the text that\nships with Tacit)",
        .defaults = {.optimizer = "adam", .steps = 600, .batch = 8, .seed = 1, .warmup = 50},
        .sgd_rate = 0.1,
        .adam_rate = 0.01,
        .lamb_rate = 0.01,
        .options = {text_task_options, options},
        .load = load,
        .randomize = randomize,
        .tensors = text_task_tensors,
        .local_tensors = local_tensors,
        .sample_count = text_task_sample_count,
        .gradient = text_task_gradient,
        .evaluate = text_task_evaluate,
        .describe = describe,
        .release = release,
        .connect = connect,
        .tally = tally,
        .report = report,
    };
    task_t task = {
        .all = {.width = 64, .layers = 2, .heads = 4, .context = 64, .experts = 8, .loss = loss_of},
        .tokens = "none",
        .evaluate_tokens = "none",
        .choices = 2,
        .balance = 0.01,
    };

    return trainer_main(argc, argv, &moe, &task);
}
