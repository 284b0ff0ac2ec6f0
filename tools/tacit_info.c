/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-info: what this Tacit is and knows, and whether a spec is right; under mpirun also what its ranks find. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tacit.h>
#include <tacit_nccl.h>
#include <tacit_optim.h>

#include "automatic.h"
#include "info.h"
#include "json.h"
#include "options.h"
#include "spec.h"
#include "summary.h"

static const char help[] =
    "usage: [mpirun ...] tacit-info [--json]\n"
    "       tacit-info --check SPEC | --check-slot SPEC\n"
    "       tacit-info --summary [--json] FILE...\n"
    "       mpirun ... tacit-info --topology [--json]\n"
    "       mpirun ... tacit-info --plans [--json] [SPEC...]\n"
    "\n"
    "Prints the version, the vector instructions in use, the transports, whether CUDA and NCCL can be used and if not why,\n"
    "everything that a spec may name with its parameters, and the environment variables; under mpirun also, once, what\n"
    "--topology and --plans print.\n"
    "\n"
    "  --check SPEC   print SPEC, a slot's, an optimizer's or one for tokens, with every parameter spelled out, and warn of\n"
    "                 what may not converge (status 0); or print what is wrong with it (status 2)\n"
    "  --check-slot SPEC\n"
    "                 the same, but an optimizer's, or one for tokens, is wrong\n"
    "  --summary      of the traces that ranks have written, one FILE a rank (TACIT_TRACE): what each slot's reductions cost in\n"
    "                 bytes and time, and one of them as a picture (status 2: a file is no trace)\n"
    "  --plans        measure the schedules on the ranks that mpirun has started; print what each is predicted to take, from\n"
    "                 1 KiB to 64 MiB, which one a tensor gets, and why\n"
    "  --topology     print where the ranks run, one a line, as TACIT_TOPOLOGY=@FILE takes it, and who leads their hosts\n"
    "  --json         print JSON objects, one a line: of all this; of a rank, of a spec and size, or of a line of a summary\n"
    "  --help         this text\n";

static const char *const transports[] = {
    "loop",
#if TACIT_HAVE_MPI
    "mpi",
#endif
};

static const struct {
    tacit_kind_t kind;
    const char  *name;
} kinds[] = {
    {TACIT_COMPRESSORS, "compressors"}, {TACIT_FEEDBACKS, "feedbacks"},     {TACIT_OPTIMIZERS, "optimizers"},
    {TACIT_SCHEDULES, "schedules"},     {TACIT_ENVIRONMENT, "environment"},
};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static const char *const type_names[] = {
    [TACIT_PARAM_INT] = "int", [TACIT_PARAM_REAL] = "real", [TACIT_PARAM_WORD] = "word", [TACIT_PARAM_TEXT] = "text"};

/* The index-th word of a list with spaces between them; *bytes_out is its length. */
static const char *word_at(const char *words, size_t index, size_t *bytes_out)
{
    for (; index > 0; index--) {
        words += strcspn(words, " ");
        words += strspn(words, " ");
    }
    *bytes_out = strcspn(words, " ");
    return words;
}

static bool is_number(const tacit_param_t *param)
{
    return param->type == TACIT_PARAM_INT || param->type == TACIT_PARAM_REAL;
}

/* Writes a parameter's default as a spec would spell it. */
static void write_default(const tacit_param_t *param, char *text, size_t capacity)
{
    const char *word = "";
    size_t      bytes = 0;

    if (is_number(param) && param->words == NULL) {
        snprintf(text, capacity, "%.12g", param->initial);
        return;
    }
    if (param->words != NULL) {
        word = word_at(param->words, is_number(param) ? 0 : (size_t)param->initial, &bytes);
    }
    snprintf(text, capacity, "%.*s", (int)bytes, word);
}

/* Whether CUDA can be used; the text says what was found, or why not. */
static bool has_cuda(const char **text_out)
{
    tacit_module_t module;
    const bool     has = tacit_module(TACIT_DEVICES, TACIT_CUDA, &module) == TACIT_OK;

    *text_out = has ? module.summary : tacit_last_error();
    return has;
}

/* The same of NCCL, and its version. */
static bool has_nccl(char *text, size_t capacity)
{
    int        version = 0;
    const bool has = tacit_nccl_version(&version) == TACIT_OK;

    if (has) {
        snprintf(text, capacity, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    } else {
        snprintf(text, capacity, "%s", tacit_last_error());
    }
    return has;
}

/* ---- For people ---- */

static void print_param(const tacit_param_t *param)
{
    char initial[64], setting[96], range[160];
    int  used = 0;

    write_default(param, initial, sizeof initial);
    snprintf(setting, sizeof setting, "%s=%s", param->key, initial);
    if (param->type == TACIT_PARAM_WORD) {
        used = snprintf(range, sizeof range, "%s", param->words);
    } else if (param->type == TACIT_PARAM_TEXT) {
        used = snprintf(range, sizeof range, "text");
    } else {
        used = snprintf(range, sizeof range, "%.12g to %.12g", param->low, param->high);
    }
    if (param->multiple > 1 && used >= 0 && (size_t)used < sizeof range) {
        used += snprintf(range + used, sizeof range - (size_t)used, ", multiple of %u", param->multiple);
    }
    if (param->unit[0] != '\0' && used >= 0 && (size_t)used < sizeof range) {
        used += snprintf(range + used, sizeof range - (size_t)used, " %s", param->unit);
    }
    if (is_number(param) && param->words != NULL && used >= 0 && (size_t)used < sizeof range) {
        snprintf(range + used, sizeof range - (size_t)used, " or %s", param->words);
    }
    printf("    %-24s %s (%s)\n", setting, param->help, range);
}

static void print_text(void)
{
    tacit_module_t module;
    const char    *cuda;
    char           nccl[512];
    bool           has;

    printf("Tacit %s\n\ninstructions  %s\ntransports   ", tacit_version(), tacit_isa());
    for (size_t i = 0; i < COUNT_OF(transports); i++) {
        printf(" %s", transports[i]);
    }
    has = has_cuda(&cuda);
    printf("\nCUDA          %s%s\n", has ? "" : "no: ", cuda);
    has = has_nccl(nccl, sizeof nccl);
    printf("NCCL          %s%s\n", has ? "" : "no: ", nccl);
    printf("tacit-run     %s\n",
           TACIT_RUN_MPIS[0] != '\0' ? "for programs of " TACIT_RUN_MPIS : "no: it needs MPI and shared libraries");
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        printf("\n%s\n", kinds[i].name);
        for (size_t index = 0; tacit_module(kinds[i].kind, index, &module) == TACIT_OK; index++) {
            printf("  %-12s %s\n", module.name, module.summary);
            for (const tacit_param_t *param = module.params; param->key != NULL; param++) {
                print_param(param);
            }
        }
    }
}

/* ---- For programs ---- */

static void write_param(json_t *json, const tacit_param_t *param)
{
    char initial[64];

    json_open(json, NULL, '{');
    json_text(json, "key", param->key);
    json_text(json, "type", type_names[param->type]);
    write_default(param, initial, sizeof initial);
    if (is_number(param)) {
        json_number(json, "low", param->low);
        json_number(json, "high", param->high);
        if (param->words != NULL) {
            json_text(json, "default", initial);
        } else {
            json_number(json, "default", param->initial);
        }
        json_count(json, "multiple", param->multiple > 1 ? param->multiple : 1);
    } else {
        json_text(json, "default", initial);
    }
    if (param->type == TACIT_PARAM_WORD) {
        const char *word;
        size_t      bytes;

        json_open(json, "words", '[');
        for (size_t i = 0; word = word_at(param->words, i, &bytes), bytes > 0; i++) {
            snprintf(initial, sizeof initial, "%.*s", (int)bytes, word);
            json_text(json, NULL, initial);
        }
        json_close(json, ']');
    }
    json_text(json, "unit", param->unit);
    json_text(json, "help", param->help);
    json_close(json, '}');
}

static void print_json(void)
{
    json_t         json = {0};
    tacit_module_t module;
    const char    *cuda;
    char           nccl[512];

    json_open(&json, NULL, '{');
    json_text(&json, "mode", "info");
    json_text(&json, "version", tacit_version());
    json_text(&json, "isa", tacit_isa());
    json_open(&json, "transports", '[');
    for (size_t i = 0; i < COUNT_OF(transports); i++) {
        json_text(&json, NULL, transports[i]);
    }
    if (has_nccl(nccl, sizeof nccl) && has_cuda(&cuda)) {
        json_text(&json, NULL, "nccl");
    }
    json_close(&json, ']');
    json_open(&json, "devices", '[');
    json_text(&json, NULL, "cpu");
    if (has_cuda(&cuda)) {
        json_text(&json, NULL, "cuda");
    }
    json_close(&json, ']');
    json_text(&json, "cuda", cuda);
    json_text(&json, "nccl", nccl);
    json_text(&json, "tacit_run", TACIT_RUN_MPIS);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        json_open(&json, kinds[i].name, '[');
        for (size_t index = 0; tacit_module(kinds[i].kind, index, &module) == TACIT_OK; index++) {
            json_open(&json, NULL, '{');
            json_text(&json, "name", module.name);
            json_text(&json, "summary", module.summary);
            json_open(&json, "params", '[');
            for (const tacit_param_t *param = module.params; param->key != NULL; param++) {
                write_param(&json, param);
            }
            json_close(&json, ']');
            json_close(&json, '}');
        }
        json_close(&json, ']');
    }
    json_close(&json, '}');
    json_end(&json);
}

/* The tensor that warnings are about. */
enum { EDGE = 1 << 8, COUNT = EDGE * EDGE };

/* A compressor that is wrong on average wants feedback; fp8, and what is finer, trains as well without (doc/convergence.md). */
static void warn_of_bias(const char *text)
{
    const double fine = 0x1p-6; /* fp8:format=e5m2 */
    double       factor = 0;
    char         smallest[TACIT_SPEC_BYTES];
    tacit_spec_t spec;

    if (tacit__spec_parse(text, &spec) != TACIT_OK) {
        return;
    }
    if (spec.error > 0) {
        tacit__automatic_smallest(&spec, TACIT_FLOAT32, smallest);
        tacit__spec_release(&spec);
        if (tacit__spec_parse(smallest, &spec) != TACIT_OK) {
            return;
        }
    }
    if (spec.feedback == NULL && spec.compressor->quality(spec.compressor_config, COUNT, &factor) == TACIT_CONTRACTION &&
        factor > fine) {
        fprintf(stderr, "tacit-info: '%s' is biased and has no feedback, so that training may stall or end elsewhere; add +ef\n",
                text);
    }
    tacit__spec_release(&spec);
}

/* Has the library log what it would warn of when such a slot is made; which specs a codec refuses is no matter here. */
static void warn(const char *spec)
{
    const tacit_slot_config_t config = {
        .struct_bytes = sizeof config, .count = COUNT, .spec = spec, .ndim = 2, .shape = {EDGE, EDGE}};
    tacit_codec_t *codec;

    if (tacit_codec_create("of 65536 elements", &config, NULL, 0, 1, &codec) == TACIT_OK) {
        tacit_codec_destroy(codec);
    }
}

/* No optimizer is called as a compressor is. */
static bool is_optimizer(const char *spec)
{
    const size_t   bytes = strcspn(spec, ":");
    tacit_module_t module;

    for (size_t i = 0; tacit_module(TACIT_OPTIMIZERS, i, &module) == TACIT_OK; i++) {
        if (strncmp(spec, module.name, bytes) == 0 && module.name[bytes] == '\0') {
            return true;
        }
    }
    return false;
}

static int check(const char *spec, bool slot)
{
    const bool     optimizer = !slot && is_optimizer(spec);
    char           canonical[1024];
    tacit_status_t status;

    status =
        optimizer ? tacit_optim_check(spec, canonical, sizeof canonical) : tacit_spec_check(spec, canonical, sizeof canonical);
    if (status == TACIT_OK && slot) {
        status = tacit__spec_check_slot(spec);
    }
    if (status != TACIT_OK) {
        return usage_error("%s", tacit_last_error());
    }
    puts(canonical);
    if (!optimizer) {
        warn_of_bias(spec);
        warn(spec);
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"check", required_argument, NULL, 'c'}, {"check-slot", required_argument, NULL, 'l'},
                                            {"summary", no_argument, NULL, 's'},     {"plans", no_argument, NULL, 'p'},
                                            {"topology", no_argument, NULL, 't'},    {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0}};
    const char                *spec = NULL;
    info_t                     info = {0};
    bool                       slot = false, summary = false;
    int                        option;

    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 'c':
        case 'l':
            spec = optarg;
            slot = option == 'l';
            break;
        case 't':
            info.topology = true;
            break;
        case 'p':
            info.plans = true;
            break;
        case 'j':
            info.json = true;
            break;
        case 's':
            summary = true;
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        default:
            return usage_error("see --help");
        }
    }
    info.specs = argv + optind;
    if (summary) {
        return optind < argc ? finished(summary_files(info.specs, (size_t)(argc - optind), info.json))
                             : usage_error("--summary of which files? See --help");
    }
    if (optind < argc && !info.plans) {
        return usage_error("'%s' is not an option; see --help", argv[optind]);
    }
    if (spec != NULL) {
        return finished(check(spec, slot));
    }
    if (!info.topology && !info.plans) {
        info.itself = info.json ? print_json : print_text;
        info.topology = info.plans = is_launched();
    }
    if (info.topology || info.plans) {
        return finished(print_ranks(&info));
    }
    info.itself();
    return finished(EXIT_SUCCESS);
}
