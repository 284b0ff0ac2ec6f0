/* SPDX-License-Identifier: Apache-2.0 */
/* Options, endings and numbers of a trainer. A mistake in the command line is seen by all ranks and printed by one. */
#include "trainer.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_LIMIT = 65536, BATCH_LIMIT = 65536, EXIT_USAGE = 2 };

static const char usage[] =
    "Usage: mpirun -n RANKS train-digits [OPTION]...\n"
    "Trains a classifier of handwritten digits; the gradients are averaged over all ranks by Tacit.\n\n"
    "  --spec SPEC          how gradients are compressed: none (the default), fp16, onebit+ef, ...\n"
    "                       (tacit-info lists all)\n"
    "  --optimizer NAME     sgd (the default: with momentum) or adam\n"
    "  --epochs N           passes over the training images (default 20)\n"
    "  --steps N            optimizer steps, instead of --epochs\n"
    "  --lr RATE            learning rate (default: sgd 0.01, adam 0.001)\n"
    "  --momentum M         of sgd, 0 or more and below 1 (default 0.9)\n"
    "  --batch N            images of one step on one rank (default 32)\n"
    "  --hidden N[,N]...    widths of the hidden layers (default 512,512)\n"
    "  --seed N             of the first weights, the order of images and random compressors (default 1)\n"
    "  --data PATH          a folder with optdigits.tra and optdigits.tes, a folder with MNIST's four IDX files, or a\n"
    "                       file of lines of 64 pixels and the digit (default: the digits that ship with Tacit)\n"
    "  --device cpu         where to train\n"
    "  --checkpoint DIR     keeps the state of all ranks in DIR, which they share; written once an epoch\n"
    "  --resume             goes on from DIR's checkpoint, if there is one\n"
    "  --json               results as one JSON object a line; accuracies are fractions of 1\n"
    "  --help               this text\n";

const char *trainer_optimizer_name(optimizer_kind_t kind)
{
    return kind == OPTIMIZER_ADAM ? "adam" : "sgd";
}

void trainer_print_json(const char *key, double number, const char *after)
{
    if (isfinite(number)) {
        (void)printf("\"%s\":%.12g%s", key, number, after);
    } else {
        (void)printf("\"%s\":null%s", key, after);
    }
}

void trainer_die(const char *format, ...)
{
    char    text[TRAINER_TEXT_BYTES];
    int     rank;
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)fprintf(stderr, "train-digits: rank %d: %s\n", rank, text);
    (void)MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    exit(EXIT_FAILURE);
}

void trainer_must(tacit_status_t status, const char *call)
{
    if (status != TACIT_OK) {
        trainer_die("%s: %s: %s", call, tacit_strerror(status), tacit_last_error());
    }
}

void trainer_agree(const char *complaint)
{
    int rank, ranks, first;

    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    first = complaint ? rank : ranks;
    (void)MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == rank) {
        (void)fprintf(stderr, "train-digits: %s\n", complaint);
    }
    if (first < ranks) {
        (void)MPI_Finalize();
        exit(EXIT_FAILURE);
    }
}

static bool parse_count(const char *text, uint64_t low, uint64_t high, uint64_t *number_out)
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

static bool parse_hidden(const char *text, trainer_options_t *options)
{
    char *end;

    for (options->hidden_count = 0; options->hidden_count < MODEL_LAYERS - 1; text = end + 1) {
        const unsigned long width = strtoul(text, &end, 10);

        if (*text < '0' || *text > '9' || width < 1 || width > WIDTH_LIMIT) {
            return false;
        }
        options->hidden[options->hidden_count++] = width;
        if (*end != ',') {
            return *end == '\0';
        }
    }
    return false;
}

static bool parse_optimizer(const char *text, optimizer_kind_t *kind_out)
{
    *kind_out = strcmp(text, "adam") == 0 ? OPTIMIZER_ADAM : OPTIMIZER_SGD;
    return strcmp(text, "adam") == 0 || strcmp(text, "sgd") == 0;
}

/* One option; false where its value is wrong. */
static bool parse_option(int option, char *value, trainer_options_t *options)
{
    switch (option) {
    case 's':
        options->spec = value;
        return true;
    case 'o':
        return parse_optimizer(value, &options->optimizer);
    case 'e':
        return parse_count(value, 1, UINT32_MAX, &options->epochs);
    case 'n':
        return parse_count(value, 1, UINT32_MAX, &options->steps);
    case 'l':
        return parse_real(value, 1e-30, 1e30, &options->rate);
    case 'm':
        return parse_real(value, 0.0, 1.0, &options->momentum);
    case 'b':
        return parse_count(value, 1, BATCH_LIMIT, &options->batch);
    case 'w':
        return parse_hidden(value, options);
    case 'r':
        return parse_count(value, 0, UINT64_MAX, &options->seed);
    case 'd':
        options->data = value;
        return true;
    case 'v':
        return strcmp(value, "cpu") == 0;
    case 'c':
        options->checkpoint = value;
        return *value != '\0';
    case 'R':
        options->resume = true;
        return true;
    case 'j':
        options->json = true;
        return true;
    default:
        return false;
    }
}

/* Whether the options fit together; fills in the defaults that depend on others. Returns the complaint or NULL. */
static const char *complete_options(trainer_options_t *options, char *text)
{
    if (tacit_spec_check(options->spec, NULL, 0) != TACIT_OK) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--spec '%s': %s", options->spec, tacit_last_error());
        return text;
    }
    if (options->epochs != 0 && options->steps != 0) {
        return "--epochs and --steps both say how long to train; give one of them";
    }
    if (options->resume && !options->checkpoint) {
        return "--resume needs --checkpoint DIR to say from where";
    }
    if (options->momentum >= 0.0 && options->optimizer == OPTIMIZER_ADAM) {
        return "--momentum is for --optimizer sgd; adam has its own";
    }
    if (options->epochs == 0 && options->steps == 0) {
        options->epochs = 20;
    }
    if (options->rate < 0.0) {
        options->rate = options->optimizer == OPTIMIZER_ADAM ? 0.001 : 0.01;
    }
    if (options->momentum < 0.0) {
        options->momentum = 0.9;
    }
    return NULL;
}

/* Returns the complaint or NULL. */
static const char *parse_options(int argc, char **argv, trainer_options_t *options, bool *help_out, char *text)
{
    static const struct option known[] = {
        {"spec", required_argument, NULL, 's'},   {"optimizer", required_argument, NULL, 'o'},
        {"epochs", required_argument, NULL, 'e'}, {"steps", required_argument, NULL, 'n'},
        {"lr", required_argument, NULL, 'l'},     {"momentum", required_argument, NULL, 'm'},
        {"batch", required_argument, NULL, 'b'},  {"hidden", required_argument, NULL, 'w'},
        {"seed", required_argument, NULL, 'r'},   {"data", required_argument, NULL, 'd'},
        {"device", required_argument, NULL, 'v'}, {"checkpoint", required_argument, NULL, 'c'},
        {"resume", no_argument, NULL, 'R'},       {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    static const char *const expected[] = {
        "a spec",
        "sgd or adam",
        "a whole number from 1",
        "a whole number from 1",
        "a number above 0",
        "a number from 0 and below 1",
        "a whole number from 1 to 65536",
        "up to 7 whole numbers from 1 to 65536, separated by commas",
        "a whole number from 0",
        "a path",
        "cpu",
        "a folder",
    };
    int option, index = 0;

    *options = (trainer_options_t){
        .spec = "none", .batch = 32, .seed = 1, .rate = -1.0, .momentum = -1.0, .hidden = {512, 512}, .hidden_count = 2};
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", known, &index)) != -1) {
        if (option == '?' || option == ':') {
            (void)snprintf(text, TRAINER_TEXT_BYTES, "%s '%s'; see --help",
                           option == ':' ? "a value is missing after" : "no such option:", argv[optind - 1]);
            return text;
        }
        if (option == 'h') {
            *help_out = true;
            return NULL;
        }
        if (!parse_option(option, optarg, options)) {
            (void)snprintf(text, TRAINER_TEXT_BYTES, "--%s '%s': expected %s", known[index].name, optarg, expected[index]);
            return text;
        }
    }
    if (optind < argc) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "'%s' is not an option; see --help", argv[optind]);
        return text;
    }
    return complete_options(options, text);
}

void trainer_start(int argc, char **argv, trainer_options_t *options_out)
{
    char        text[TRAINER_TEXT_BYTES];
    bool        help = false;
    const char *complaint;
    int         rank;

    if (MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        (void)fprintf(stderr, "train-digits: MPI does not start\n");
        exit(EXIT_FAILURE);
    }
    complaint = parse_options(argc, argv, options_out, &help, text);
    if (!help && !complaint) {
        return;
    }
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank); /* all ranks have read the same; one prints */
    if (rank == 0 && help) {
        (void)fputs(usage, stdout);
    } else if (rank == 0) {
        (void)fprintf(stderr, "train-digits: %s\n", complaint);
    }
    (void)MPI_Finalize();
    exit(help ? EXIT_SUCCESS : EXIT_USAGE);
}
