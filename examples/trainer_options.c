/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a trainer. A mistake in it is seen by all ranks and printed by one. */
#include "trainer.h"

#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADAPT_EVERY = 100 };

/* ---- The options of all trainers ---- */

static bool set_decay(const program_option_t *option, const char *value, void *to)
{
    (void)option;
    ((trainer_options_t *)to)->linear = strcmp(value, "linear") == 0;
    return strcmp(value, "linear") == 0 || strcmp(value, "none") == 0;
}

static bool set_device(const program_option_t *option, const char *value, void *to)
{
    (void)option;
    ((trainer_options_t *)to)->gpu = strcmp(value, "cuda") == 0;
    return strcmp(value, "cuda") == 0 || strcmp(value, "cpu") == 0;
}

#define AT(field) offsetof(trainer_options_t, field)

/* What differs between programs, the help of --data and defaults, is the task's. */
static const program_option_t shared[] = {
    {"optimizer", "NAME[:KEY=VALUE,...]", "",
     "sgd, adam, onebit-adam, zeroone-adam or onebit-lamb, with parameters\n(tacit-info lists them)", program_set_text,
     AT(optimizer), 0, 0},
    {"spec", "SPEC", "",
     "how messages are compressed: fp16, onebit+ef, ... (tacit-info lists all;\n"
     "default: none; onebit+ef for onebit-adam, zeroone-adam, onebit-lamb)",
     program_set_text, AT(spec), 0, 0},
    {"epochs", "N", "a whole number from 1 to 4294967295", "passes over the training data", program_set_count, AT(epochs), 1,
     UINT32_MAX},
    {"steps", "N", "a whole number from 1 to 4294967295", "optimizer steps, instead of --epochs", program_set_count, AT(steps), 1,
     UINT32_MAX},
    {"lr", "RATE", "a number from 1e-30 and below 1e30", "learning rate", program_set_real, AT(rate), 1e-30, 1e30},
    {"warmup-steps", "N", "a whole number from 0 to 4294967295", "the learning rate rises to its value in the first N steps",
     program_set_count, AT(warmup), 0, UINT32_MAX},
    {"decay", "HOW", "none or linear", "linear: the learning rate falls to 0 towards the last step (default none)", set_decay, 0,
     0, 0},
    {"momentum", "M", "a number from 0 and below 1", "of sgd, 0 or more and below 1 (default 0.9)", program_set_real,
     AT(momentum), 0, 1},
    {"batch", "N", "a whole number from 1 to 65536", "samples of one step on one rank", program_set_count, AT(batch), 1, 65536},
    {"seed", "N", "a whole number from 0", "of the first weights, the order of samples and random compressors (default 1)",
     program_set_count, AT(seed), 0, 0},
    {"data", "PATH", "a path", "", program_set_path, AT(data), 0, 0},
    {"device", "NAME", "cpu or cuda", "where to train: cpu, or cuda for one of NVIDIA's GPUs a rank, over NCCL (default cpu)",
     set_device, 0, 0, 0},
    {"adapt", "KEY=VALUE[,...]", "",
     "chooses density, bits or rank layer by layer while training (L-GreCo): alpha (error\n"
     "budget), every, gather (steps), low, high, squared, accordion, link-rate (bytes/s);\n"
     "alpha=1 takes all defaults",
     program_set_text, AT(adapt), 0, 0},
    {"evaluate-every", "N", "a whole number from 1 to 4294967295", "steps from one evaluation to the next (default: an epoch)",
     program_set_count, AT(every), 1, UINT32_MAX},
    {"checkpoint", "DIR", "a folder",
     "keeps the state of all ranks in DIR, which they share; written after every\nevaluation and once an epoch", program_set_text,
     AT(checkpoint), 1, 0},
    {"resume", NULL, "", "goes on from DIR's checkpoint, if there is one", program_set_flag, AT(resume), 0, 0},
    {"json", NULL, "", "results as one JSON object a line; accuracies are fractions of 1", program_set_flag, AT(json), 0, 0},
    {0},
};

/* ---- Help ---- */

static void print_usage(const trainer_task_t *task)
{
    (void)printf("Usage: mpirun -n RANKS %s [OPTION]...\n%s\nWhat ranks tell each other is compressed by Tacit.\n\n",
                 task->program, task->summary);
    for (const program_option_t *option = shared; option->name; option++) {
        program_print_option(option->name, option->value, strcmp(option->name, "data") == 0 ? task->data : option->help);
    }
    for (size_t i = 0; i < 2 && task->options[i]; i++) {
        for (const program_option_t *option = task->options[i]; option->name; option++) {
            program_print_option(option->name, option->value, option->help);
        }
    }
    program_print_option("help", NULL, "this text");
    (void)printf(
        "\nDefaults: --optimizer %s, --batch %" PRIu64 ", --warmup-steps %" PRIu64 ", %s %" PRIu64
        ",\n--lr %g for sgd, %g for onebit-lamb and %g for others.\n",
        task->defaults.optimizer, task->defaults.batch, task->defaults.warmup, task->defaults.steps ? "--steps" : "--epochs",
        task->defaults.steps ? task->defaults.steps : task->defaults.epochs, task->sgd_rate, task->lamb_rate, task->adam_rate);
}

/* ---- What fits together ---- */

/* Whether the optimizer's spec names `name`. */
static bool is_optimizer(const char *spec, const char *name)
{
    const size_t length = strlen(name);

    return strncmp(spec, name, length) == 0 && (spec[length] == '\0' || spec[length] == ':');
}

int trainer_parse_adapt(const char *list, tacit_lgreco_config_t *config_out, char *text)
{
    char  words[TRAINER_TEXT_BYTES], *rest = words;
    char *word;

    *config_out = (tacit_lgreco_config_t)TACIT_LGRECO_CONFIG_INIT;
    config_out->every = ADAPT_EVERY;
    if (strlen(list) >= sizeof words) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--adapt: a list of %zu characters is too long; it may have %zu", strlen(list),
                       sizeof words - 1);
        return -1;
    }
    (void)snprintf(words, sizeof words, "%s", list);
    while ((word = strsep(&rest, ","))) {
        char    *value = strchr(word, '=');
        uint64_t flag = 0;
        bool     right = false;

        if (value) {
            *value++ = '\0';
            right = (strcmp(word, "alpha") == 0 && program_real(value, 1e-6, 1e6, &config_out->alpha)) ||
                    (strcmp(word, "low") == 0 && program_real(value, 1e-6, 1e6, &config_out->low)) ||
                    (strcmp(word, "high") == 0 && program_real(value, 1e-6, 1e6, &config_out->high)) ||
                    (strcmp(word, "link-rate") == 0 && program_real(value, 1.0, 1e15, &config_out->link_rate)) ||
                    (strcmp(word, "every") == 0 && program_count(value, 1, UINT32_MAX, &config_out->every)) ||
                    (strcmp(word, "gather") == 0 && program_count(value, 1, UINT32_MAX, &config_out->gather));
            if (!right && program_count(value, 0, 1, &flag)) {
                config_out->squared = strcmp(word, "squared") == 0 ? (int)flag : config_out->squared;
                config_out->accordion = strcmp(word, "accordion") == 0 ? (int)flag : config_out->accordion;
                right = strcmp(word, "squared") == 0 || strcmp(word, "accordion") == 0;
            }
        }
        if (!right) {
            (void)snprintf(
                text, TRAINER_TEXT_BYTES,
                "--adapt: '%.100s%s%.100s': expected alpha, low or high with a number from 1e-6 and below 1e6, link-rate with "
                "one "
                "from 1 and below 1e15, every or gather with a number of steps from 1, squared or accordion with 0 or 1",
                word, value ? "=" : "", value ? value : "");
            return -1;
        }
    }
    return 0;
}

/* Fills in the defaults that depend on other options. */
static void complete_options(trainer_t *trainer)
{
    const trainer_task_t *task = trainer->task;
    trainer_options_t    *options = &trainer->options;
    const char           *name = options->optimizer;
    const bool            lamb = is_optimizer(name, "onebit-lamb");
    const bool            compressed = lamb || is_optimizer(name, "onebit-adam") || is_optimizer(name, "zeroone-adam");

    if (!options->spec) {
        options->spec = compressed ? "onebit+ef" : "none";
    }
    if (options->epochs == 0 && options->steps == 0) {
        options->epochs = task->defaults.epochs;
        options->steps = task->defaults.steps;
    }
    if (options->rate < 0.0) {
        options->rate = is_optimizer(name, "sgd") ? task->sgd_rate : lamb ? task->lamb_rate : task->adam_rate;
    }
    (void)snprintf(trainer->optimizer, sizeof trainer->optimizer, "%s", name);
    if (options->momentum >= 0.0) {
        (void)snprintf(trainer->optimizer, sizeof trainer->optimizer, "%.900s%smomentum=%.9g", name,
                       strchr(name, ':') ? "," : ":", options->momentum);
    }
}

/* Whether the options fit together. Returns the complaint or NULL. */
static const char *check_options(trainer_t *trainer, char *text)
{
    const trainer_options_t *options = &trainer->options;
    tacit_lgreco_config_t    config;

    if (options->momentum >= 0.0 && !is_optimizer(options->optimizer, "sgd")) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--momentum is for --optimizer sgd; %.200s has its own", options->optimizer);
        return text;
    }
    if (tacit_optim_check(trainer->optimizer, NULL, 0) != TACIT_OK) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--optimizer '%.200s': %s", trainer->optimizer, tacit_last_error());
        return text;
    }
    if (tacit_spec_check(options->spec, NULL, 0) != TACIT_OK) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--spec '%.200s': %s", options->spec, tacit_last_error());
        return text;
    }
    if (options->epochs != 0 && options->steps != 0) {
        return "--epochs and --steps both say how long to train; give one of them";
    }
    if (options->resume && !options->checkpoint) {
        return "--resume needs --checkpoint DIR to say from where";
    }
    if (options->adapt && trainer_parse_adapt(options->adapt, &config, text) != 0) {
        return text;
    }
    return options->gpu ? trainer_gpu_check(trainer, text) : NULL;
}

/* ---- Parsing ---- */

void trainer_start(int argc, char **argv, trainer_t *trainer)
{
    const trainer_task_t   *task = trainer->task;
    const program_options_t known[] = {
        {shared, &trainer->options}, {task->options[0], trainer->own}, {task->options[1], trainer->own}};
    char text[TRAINER_TEXT_BYTES];

    if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        (void)fprintf(stderr, "%s: MPI does not start\n", task->program);
        exit(EXIT_FAILURE);
    }
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &trainer->rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &trainer->ranks);
    trainer->options = task->defaults;
    trainer->options.epochs = trainer->options.steps = 0;
    trainer->options.rate = trainer->options.momentum = -1.0;
    if (program_parse(task->program, argc, argv, known, task->options[1] ? 3 : 2)) {
        if (trainer->rank == 0) {
            print_usage(task);
        }
        (void)MPI_Finalize();
        exit(program_finished(task->program, EXIT_SUCCESS));
    }
    complete_options(trainer);
    program_agree(task->program, check_options(trainer, text), PROGRAM_EXIT_USAGE);
}
