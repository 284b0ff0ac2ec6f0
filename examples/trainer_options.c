/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a trainer. A mistake in it is seen by all ranks and printed by one. */
#include "trainer.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_LIMIT = 65536, OPTIONS_LIMIT = 32, EXIT_USAGE = 2 };

bool trainer_parse_count(const char *text, uint64_t low, uint64_t high, uint64_t *number_out)
{
    char    *end;
    uint64_t number;

    errno = 0;
    number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number < low || number > high) {
        return false;
    }
    *number_out = number;
    return true;
}

static bool parse_real(const char *text, double low, double below, double *number_out)
{
    char        *end;
    const double number = strtod(text, &end);

    if (end == text || *end != '\0' || !(number >= low) || !(number < below)) {
        return false;
    }
    *number_out = number;
    return true;
}

/* ---- The options of all trainers ---- */

static bool parse_spec(const char *value, void *to)
{
    ((trainer_options_t *)to)->spec = value;
    return true;
}

static bool parse_optimizer(const char *value, void *to)
{
    ((trainer_options_t *)to)->optimizer = value;
    return true;
}

static bool parse_epochs(const char *value, void *to)
{
    return trainer_parse_count(value, 1, UINT32_MAX, &((trainer_options_t *)to)->epochs);
}

static bool parse_steps(const char *value, void *to)
{
    return trainer_parse_count(value, 1, UINT32_MAX, &((trainer_options_t *)to)->steps);
}

static bool parse_every(const char *value, void *to)
{
    return trainer_parse_count(value, 1, UINT32_MAX, &((trainer_options_t *)to)->every);
}

static bool parse_rate(const char *value, void *to)
{
    return parse_real(value, 1e-30, 1e30, &((trainer_options_t *)to)->rate);
}

static bool parse_warmup(const char *value, void *to)
{
    return trainer_parse_count(value, 0, UINT32_MAX, &((trainer_options_t *)to)->warmup);
}

static bool parse_decay(const char *value, void *to)
{
    ((trainer_options_t *)to)->linear = strcmp(value, "linear") == 0;
    return strcmp(value, "linear") == 0 || strcmp(value, "none") == 0;
}

static bool parse_momentum(const char *value, void *to)
{
    return parse_real(value, 0.0, 1.0, &((trainer_options_t *)to)->momentum);
}

static bool parse_batch(const char *value, void *to)
{
    return trainer_parse_count(value, 1, BATCH_LIMIT, &((trainer_options_t *)to)->batch);
}

static bool parse_seed(const char *value, void *to)
{
    return trainer_parse_count(value, 0, UINT64_MAX, &((trainer_options_t *)to)->seed);
}

static bool parse_data(const char *value, void *to)
{
    ((trainer_options_t *)to)->data = value;
    return true;
}

static bool parse_device(const char *value, void *to)
{
    (void)to;
    return strcmp(value, "cpu") == 0;
}

static bool parse_checkpoint(const char *value, void *to)
{
    ((trainer_options_t *)to)->checkpoint = value;
    return *value != '\0';
}

static bool parse_adapt(const char *value, void *to)
{
    ((trainer_options_t *)to)->adapt = value;
    return true;
}

static bool parse_resume(const char *value, void *to)
{
    (void)value;
    ((trainer_options_t *)to)->resume = true;
    return true;
}

static bool parse_json(const char *value, void *to)
{
    (void)value;
    ((trainer_options_t *)to)->json = true;
    return true;
}

/* What differs between programs, the help of --data and defaults, is the task's. */
static const trainer_option_t shared[] = {
    {"optimizer", "NAME[:KEY=VALUE,...]", "",
     "sgd, adam, onebit-adam, zeroone-adam or onebit-lamb, with parameters\n(tacit-info lists them)", parse_optimizer},
    {"spec", "SPEC", "",
     "how messages are compressed: fp16, onebit+ef, ... (tacit-info lists all;\n"
     "default: none; onebit+ef for onebit-adam, zeroone-adam, onebit-lamb)",
     parse_spec},
    {"epochs", "N", "a whole number from 1", "passes over the training data", parse_epochs},
    {"steps", "N", "a whole number from 1", "optimizer steps, instead of --epochs", parse_steps},
    {"lr", "RATE", "a number above 0", "learning rate", parse_rate},
    {"warmup-steps", "N", "a whole number from 0", "the learning rate rises to its value in the first N steps", parse_warmup},
    {"decay", "HOW", "none or linear", "linear: the learning rate falls to 0 towards the last step (default none)", parse_decay},
    {"momentum", "M", "a number from 0 and below 1", "of sgd, 0 or more and below 1 (default 0.9)", parse_momentum},
    {"batch", "N", "a whole number from 1 to 65536", "samples of one step on one rank", parse_batch},
    {"seed", "N", "a whole number from 0", "of the first weights, the order of samples and random compressors (default 1)",
     parse_seed},
    {"data", "PATH", "a path", "", parse_data},
    {"device", "cpu", "cpu", "where to train", parse_device},
    {"adapt", "KEY=VALUE[,...]", "",
     "chooses density, bits or rank layer by layer while training (L-GreCo): alpha (error\n"
     "budget), every, gather (steps), low, high, squared, accordion, link-rate (bytes/s);\n"
     "alpha=1 takes all defaults",
     parse_adapt},
    {"evaluate-every", "N", "a whole number from 1", "steps from one evaluation to the next (default: an epoch)", parse_every},
    {"checkpoint", "DIR", "a folder",
     "keeps the state of all ranks in DIR, which they share; written after every\nevaluation and once an epoch",
     parse_checkpoint},
    {"resume", NULL, "", "goes on from DIR's checkpoint, if there is one", parse_resume},
    {"json", NULL, "", "results as one JSON object a line; accuracies are fractions of 1", parse_json},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- Help ---- */

static void print_option(const char *name, const char *value, const char *help)
{
    enum { COLUMN = 23 };
    const int used = printf("  --%s%s%s", name, value ? " " : "", value ? value : "");

    (void)printf("%s%*s", used + 2 > COLUMN ? "\n" : "", used + 2 > COLUMN ? COLUMN : COLUMN - used, "");
    for (; *help; help++) {
        (void)putchar(*help);
        if (*help == '\n') {
            (void)printf("%*s", COLUMN, "");
        }
    }
    (void)putchar('\n');
}

static void print_usage(const trainer_task_t *task)
{
    (void)printf("Usage: mpirun -n RANKS %s [OPTION]...\n%s\nWhat ranks tell each other is compressed by Tacit.\n\n",
                 task->program, task->summary);
    for (const trainer_option_t *option = shared; option->name; option++) {
        print_option(option->name, option->value, strcmp(option->name, "data") == 0 ? task->data : option->help);
    }
    for (const trainer_option_t *option = task->options; option->name; option++) {
        print_option(option->name, option->value, option->help);
    }
    print_option("help", NULL, "this text");
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
    (void)snprintf(words, sizeof words, "%s", list);
    while ((word = strsep(&rest, ","))) {
        char    *value = strchr(word, '=');
        uint64_t flag = 0;
        bool     right = false;

        if (value) {
            *value++ = '\0';
            right = (strcmp(word, "alpha") == 0 && parse_real(value, 1e-6, 1e6, &config_out->alpha)) ||
                    (strcmp(word, "low") == 0 && parse_real(value, 1e-6, 1e6, &config_out->low)) ||
                    (strcmp(word, "high") == 0 && parse_real(value, 1e-6, 1e6, &config_out->high)) ||
                    (strcmp(word, "link-rate") == 0 && parse_real(value, 1.0, 1e15, &config_out->link_rate)) ||
                    (strcmp(word, "every") == 0 && trainer_parse_count(value, 1, UINT32_MAX, &config_out->every)) ||
                    (strcmp(word, "gather") == 0 && trainer_parse_count(value, 1, UINT32_MAX, &config_out->gather));
            if (!right && trainer_parse_count(value, 0, 1, &flag)) {
                config_out->squared = strcmp(word, "squared") == 0 ? (int)flag : config_out->squared;
                config_out->accordion = strcmp(word, "accordion") == 0 ? (int)flag : config_out->accordion;
                right = strcmp(word, "squared") == 0 || strcmp(word, "accordion") == 0;
            }
        }
        if (!right) {
            (void)snprintf(
                text, TRAINER_TEXT_BYTES,
                "--adapt: '%.100s%s%.100s': expected alpha, low, high or link-rate with a number above 0, every or gather "
                "with a number of steps, squared or accordion with 0 or 1",
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
    return NULL;
}

/* ---- Parsing ---- */

typedef struct known {
    const trainer_option_t *options[OPTIONS_LIMIT];
    struct option           words[OPTIONS_LIMIT + 1];
    int                     shared, count;
} known_t;

static void add_options(known_t *known, const trainer_option_t *options)
{
    for (; options->name && known->count < OPTIONS_LIMIT - 1; options++) {
        known->options[known->count] = options;
        known->words[known->count++] =
            (struct option){options->name, options->value ? required_argument : no_argument, NULL, 'o'};
    }
}

/* Returns the complaint or NULL. */
static const char *parse_options(int argc, char **argv, trainer_t *trainer, bool *help_out, char *text)
{
    known_t known = {0};
    int     option, index = 0;

    add_options(&known, shared);
    known.shared = known.count;
    add_options(&known, trainer->task->options);
    known.words[known.count] = (struct option){"help", no_argument, NULL, 'h'};
    trainer->options = trainer->task->defaults;
    trainer->options.epochs = trainer->options.steps = 0;
    trainer->options.rate = trainer->options.momentum = -1.0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", known.words, &index)) != -1) {
        if (option == '?' || option == ':') {
            (void)snprintf(text, TRAINER_TEXT_BYTES, "%s '%s'; see --help",
                           option == ':' ? "a value is missing after" : "no such option:", argv[optind - 1]);
            return text;
        }
        if (option == 'h') {
            *help_out = true;
            return NULL;
        }
        if (!known.options[index]->parse(optarg, index < known.shared ? (void *)&trainer->options : trainer->own)) {
            (void)snprintf(text, TRAINER_TEXT_BYTES, "--%s '%s': expected %s", known.words[index].name, optarg,
                           known.options[index]->expected);
            return text;
        }
    }
    if (optind < argc) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "'%s' is not an option; see --help", argv[optind]);
        return text;
    }
    complete_options(trainer);
    return check_options(trainer, text);
}

void trainer_start(int argc, char **argv, trainer_t *trainer)
{
    char        text[TRAINER_TEXT_BYTES];
    bool        help = false;
    const char *complaint;

    if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        (void)fprintf(stderr, "%s: MPI does not start\n", trainer->task->program);
        exit(EXIT_FAILURE);
    }
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &trainer->rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &trainer->ranks);
    complaint = parse_options(argc, argv, trainer, &help, text);
    if (!help && !complaint) {
        return;
    }
    if (trainer->rank == 0 && help) { /* all ranks have read the same; one prints */
        print_usage(trainer->task);
    } else if (trainer->rank == 0) {
        (void)fprintf(stderr, "%s: %s\n", trainer->task->program, complaint);
    }
    (void)MPI_Finalize();
    exit(help ? EXIT_SUCCESS : EXIT_USAGE);
}
