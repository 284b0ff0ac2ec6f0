/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench: measures Tacit beside what bounds it. Reads the command line; the measuring is in bench_<mode>.c. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "options.h"
#include "spec.h"

static const char help[] =
    "usage: tacit-bench kernels [--spec SPEC]... [--bytes N] [--dimension N] [--device cpu|cuda] [--seed N] [--json]\n"
    "       mpirun ... tacit-bench allreduce [--spec SPEC]... [--bytes N[,N...]] [--schedule NAME|all] [--link-rate RATE]\n"
    "                                        [--calls N] [--no-native|--trace FILE] [--compute MS] [--seed N] [--json]\n"
    "       mpirun ... tacit-bench alltoall [--spec SPEC]... [--bytes N[,N...]] [--dimension N] [--link-rate RATE] [--calls N]\n"
    "                                       [--no-native] [--seed N] [--json]\n"
    "\n"
    "kernels: how fast one core encodes (feedback included) and decodes N(0,1) data, beside memcpy and beside a loop with the\n"
    "same reads and writes and no arithmetic. Rates are 1e9 bytes of uncompressed input a second. Of lsh: how fast it makes\n"
    "rows of tokens, and outputs of replies.\n"
    "\n"
    "allreduce: tacit_allreduce() and MPI_Allreduce() of the same buffer, in turns, in one run.\n"
    "\n"
    "alltoall: tacit_alltoall() and MPI_Alltoall() of the same buffer, in turns, in one run; of lsh tacit_moe_dispatch() of "
    "tokens\n"
    "in it, and how fast one core hashes them.\n"
    "\n"
    "  --spec SPEC       what to measure; may be repeated (kernels: all but powersgd, lsh; allreduce: $TACIT_SPEC, then auto;\n"
    "                    alltoall: none)\n"
    "  --bytes N         of the tensor, uncompressed; K, M and G are 1024 (kernels: 1G, more than any cache, on a GPU 256M;\n"
    "                    others: 64M; alltoall: of what a rank has for all)\n"
    "  --dimension N     kernels and alltoall, lsh: elements of a token (512)\n"
    "  --schedule NAME   reduce by this schedule instead of the library's choice; all: one line for each that carries the spec\n"
    "  --link-rate RATE  of each rank's network link, as in 1gbit: gives limit_seconds and of_limit\n"
    "  --calls N         pairs to measure, 9 where that is fewer; with --no-native: exactly N operations, warm-up included\n"
    "  --no-native       do not call MPI's collective, so that nothing else is on the wire\n"
    "  --trace FILE      in place of MPI_Allreduce the same operation with TACIT_TRACE=FILE: what a trace costs\n"
    "  --compute MS      start each reduction, compute for MS milliseconds of processor time, then wait for it\n"
    "  --device DEVICE   kernels: cpu or cuda, where the data is (cpu)\n"
    "  --seed N          of the data (1)\n"
    "  --json            one JSON object a line, and nothing else on standard output\n"
    "  --help            this text\n"
    "\n"
    "Status 2 means wrong arguments, 1 that a measurement failed.\n";

/* The modes of this build, and the letters of the options that each takes. */
static const struct {
    const char *name;
    int (*run)(const bench_options_t *options);
    const char *letters;
    size_t      bytes; /* default */
} modes[] = {
    {"kernels", bench_kernels, "sbdeji", (size_t)1 << 30},
#if TACIT_HAVE_MPI
    {"allreduce", bench_allreduce, "sbdejclnStm", (size_t)64 << 20},
    {"alltoall", bench_alltoall, "sbeijcln", (size_t)64 << 20},
#endif
};

enum { MODES = sizeof modes / sizeof *modes };
static const size_t device_bytes = (size_t)256 << 20; /* default with --device cuda */

static const struct option long_options[] = {
    {"spec", required_argument, NULL, 's'},    {"bytes", required_argument, NULL, 'b'},
    {"device", required_argument, NULL, 'd'},  {"dimension", required_argument, NULL, 'i'},
    {"seed", required_argument, NULL, 'e'},    {"json", no_argument, NULL, 'j'},
    {"calls", required_argument, NULL, 'c'},   {"link-rate", required_argument, NULL, 'l'},
    {"compute", required_argument, NULL, 'm'}, {"no-native", no_argument, NULL, 'n'},
    {"trace", required_argument, NULL, 't'},   {"schedule", required_argument, NULL, 'S'},
    {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
};

static int show_help(void)
{
    fputs(help, stdout);
    return EXIT_SUCCESS;
}

static int refuse_mode(const char *name)
{
    static const char *const planned[] = {"reduce_scatter", "allgather"};

    if (strcmp(name, "allreduce") == 0 || strcmp(name, "alltoall") == 0) {
        return usage_error("%s needs MPI, and this Tacit was configured without one", name);
    }
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++) {
        if (strcmp(name, planned[i]) == 0) {
            return usage_error("%s is not in this version: it measures kernels, allreduce and alltoall", name);
        }
    }
    return usage_error("'%s' is not a mode; they are kernels, allreduce and alltoall; see --help", name);
}

/* Reads one option; false after a message. */
static bool read_option(int letter, bench_options_t *options)
{
    uint64_t milliseconds;

    switch (letter) {
    case 's':
        if (options->spec_count == BENCH_SPECS) {
            usage_error("at most %d --spec are measured in one run", BENCH_SPECS);
            return false;
        }
        options->specs[options->spec_count++] = optarg;
        return true;
    case 'b':
        return option_bytes("--bytes", optarg, options->bytes, BENCH_SIZES, &options->size_count);
    case 'c':
        return option_count("--calls", optarg, 1, 1000000, &options->calls);
    case 'm':
        if (!option_count("--compute", optarg, 1, 3600000, &milliseconds)) {
            return false;
        }
        options->compute_seconds = 1e-3 * (double)milliseconds;
        return true;
    case 'i':
        return option_count("--dimension", optarg, 1, 65536, &options->dimension);
    case 'e':
        return option_count("--seed", optarg, 0, UINT64_MAX, &options->seed);
    case 'l':
        return option_rate("--link-rate", optarg, &options->link_rate);
    case 'd':
        options->cuda = strcmp(optarg, "cuda") == 0;
        if (!options->cuda && strcmp(optarg, "cpu") != 0) {
            usage_error("--device takes cpu or cuda, not '%s'", optarg);
            return false;
        }
        return true;
    case 'S':
        options->schedule = optarg;
        return true;
    case 't':
        options->trace = optarg;
        return true;
    case 'n':
        options->native = false;
        return true;
    default: /* 'j' */
        options->json = true;
        return true;
    }
}

/* Every compressor that makes frames, which powersgd and those for tokens do not, with feedback where that has a meaning. The
   texts live as long as the program. */
static void default_specs(bench_options_t *options)
{
    static char    texts[BENCH_SPECS][64];
    tacit_module_t module;

    for (size_t i = 0; i < BENCH_SPECS && tacit_module(TACIT_COMPRESSORS, i, &module) == TACIT_OK; i++) {
        if (strcmp(module.name, "powersgd") == 0 || strcmp(module.name, "auto") == 0 ||
            tacit__spec_check_slot(module.name) != TACIT_OK) {
            continue;
        }
        snprintf(texts[i], sizeof texts[i], "%s+ef", module.name);
        if (strcmp(module.name, "none") == 0 || tacit_spec_check(texts[i], NULL, 0) != TACIT_OK) {
            snprintf(texts[i], sizeof texts[i], "%s", module.name);
        }
        options->specs[options->spec_count++] = texts[i];
    }
}

/* "auto", "all", or one of the library's. */
static bool is_schedule(const char *name)
{
    tacit_module_t module;
    bool           known = strcmp(name, "auto") == 0 || strcmp(name, "all") == 0;

    for (size_t i = 0; !known && tacit_module(TACIT_SCHEDULES, i, &module) == TACIT_OK; i++) {
        known = strcmp(name, module.name) == 0;
    }
    return known;
}

/* What the mode needs and was not given, and whether all of it makes sense. */
static bool complete(bench_options_t *options, size_t mode)
{
    const char *spec = getenv("TACIT_SPEC");
    const bool  rows = strcmp(modes[mode].name, "alltoall") == 0;

    if (options->size_count == 0) {
        options->bytes[options->size_count++] = options->cuda ? device_bytes : modes[mode].bytes;
    }
    if (options->cuda && modes[mode].run != bench_kernels) {
        usage_error("--device cuda is there for kernels only");
        return false;
    }
    if (options->spec_count == 0 && modes[mode].run == bench_kernels) {
        default_specs(options);
    } else if (options->spec_count == 0 && rows) {
        options->specs[options->spec_count++] = "none";
    } else if (options->spec_count == 0) {
        options->specs[options->spec_count++] = spec != NULL && *spec != '\0' ? spec : "auto";
    }
    for (size_t i = 0; i < options->spec_count; i++) {
        const char *text = options->specs[i];

        if ((modes[mode].run == bench_kernels && !options->cuda) || rows ? tacit_spec_check(text, NULL, 0) != TACIT_OK
                                                                         : tacit__spec_check_slot(text) != TACIT_OK) {
            usage_error("%s", tacit_last_error());
            return false;
        }
    }
    if (!is_schedule(options->schedule)) {
        usage_error("--schedule %s: there is none of that name; tacit-info lists them", options->schedule);
        return false;
    }
    for (size_t i = 0; i < options->size_count; i++) {
        if (options->bytes[i] % sizeof(float) != 0 || options->bytes[i] / sizeof(float) > UINT32_MAX) {
            usage_error("--bytes takes multiples of 4 below 16G, not %zu", options->bytes[i]);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static bench_options_t options = {.seed = 1, .native = true, .schedule = "auto", .dimension = 512};
    size_t                 mode = 0;
    int                    letter, index = 0;

    if (argc < 2) {
        return usage_error("which mode, kernels, allreduce or alltoall? see --help");
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        return show_help();
    }
    while (mode < MODES && strcmp(argv[1], modes[mode].name) != 0) {
        mode++;
    }
    if (mode == MODES) {
        return refuse_mode(argv[1]);
    }
    optind = 2;
    while ((letter = getopt_long(argc, argv, "h", long_options, &index)) != -1) {
        if (letter == 'h') {
            return show_help();
        }
        if (letter == '?') {
            return usage_error("see --help");
        }
        if (strchr(modes[mode].letters, letter) == NULL) {
            return usage_error("--%s is not an option of %s; see --help", long_options[index].name, modes[mode].name);
        }
        if (!read_option(letter, &options)) {
            return STATUS_USAGE;
        }
    }
    if (optind < argc) {
        return usage_error("'%s' is not an option; see --help", argv[optind]);
    }
    return complete(&options, mode) ? finished(modes[mode].run(&options)) : STATUS_USAGE;
}
