/* SPDX-License-Identifier: Apache-2.0 */
/* Options are tables of what they fill in; a mistake in them is seen by all ranks and printed by one. */
#include "program.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What getopt_long() returns for a known word: no letter, as there are no options of one letter. */
enum { WORD = UCHAR_MAX + 1, HELP, WORDS = 40 };

/* The options of a program and what this rank was given for each, as a hash; 0: nothing. The last one is --help. */
typedef struct words {
    int                     count;
    const program_option_t *known[WORDS];
    void                   *to[WORDS];
    uint64_t                given[WORDS + 1];
} words_t;

/* ---- Values ---- */

bool program_count(const char *text, uint64_t low, uint64_t high, uint64_t *number_out)
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

bool program_real(const char *text, double low, double below, double *number_out)
{
    char        *end;
    const double number = strtod(text, &end);

    if (end == text || *end != '\0' || !(number >= low) || !(number < below)) {
        return false;
    }
    *number_out = number;
    return true;
}

bool program_set_count(const program_option_t *option, const char *value, void *to)
{
    const uint64_t high = option->high > 0.0 ? (uint64_t)option->high : UINT64_MAX;

    return program_count(value, (uint64_t)option->low, high, (uint64_t *)(void *)((char *)to + option->offset));
}

bool program_set_real(const program_option_t *option, const char *value, void *to)
{
    return program_real(value, option->low, option->high, (double *)(void *)((char *)to + option->offset));
}

bool program_set_text(const program_option_t *option, const char *value, void *to)
{
    *(const char **)(void *)((char *)to + option->offset) = value;
    return strlen(value) >= (size_t)option->low;
}

bool program_set_path(const program_option_t *option, const char *value, void *to)
{
    return program_set_text(option, value, to);
}

bool program_set_flag(const program_option_t *option, const char *value, void *to)
{
    (void)value;
    *(bool *)(void *)((char *)to + option->offset) = true;
    return true;
}

/* ---- The command line ---- */

static const char *complain(int option, char **argv, char *text)
{
    if (option == ':') {
        (void)snprintf(text, PROGRAM_TEXT_BYTES, "a value is missing after '%s'; see --help", argv[optind - 1]);
    } else if (optopt > 0 && optopt < WORD) { /* a letter, maybe inside of a word that getopt_long() has not left */
        (void)snprintf(text, PROGRAM_TEXT_BYTES, "no such option: '-%c'; see --help", optopt);
    } else {
        (void)snprintf(text, PROGRAM_TEXT_BYTES, "no such option: '%s'; see --help", argv[optind - 1]);
    }
    return text;
}

static void collect(const program_options_t *options, size_t count, words_t *words, struct option *names)
{
    for (size_t i = 0; i < count; i++) {
        for (const program_option_t *next = options[i].list; next->name && words->count < WORDS; next++) {
            words->known[words->count] = next;
            words->to[words->count] = options[i].to;
            names[words->count++] = (struct option){next->name, next->value ? required_argument : no_argument, NULL, WORD};
        }
    }
    names[words->count] = (struct option){"help", no_argument, NULL, HELP};
}

/* Reads this rank's command line. Returns the complaint or NULL. */
static const char *parse(int argc, char **argv, const struct option *names, words_t *words, char *text)
{
    int option, index = 0;

    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", names, &index)) != -1) {
        const program_option_t *known;

        if (option == HELP) {
            words->given[WORDS] = 1;
            return NULL;
        }
        if (option != WORD) {
            return complain(option, argv, text);
        }
        known = words->known[index];
        if (!known->set(known, optarg, words->to[index])) {
            (void)snprintf(text, PROGRAM_TEXT_BYTES, "--%s '%s': expected %s", known->name, optarg, known->expected);
            return text;
        }
        if (known->set != program_set_path) {
            words->given[index] = program_hash(PROGRAM_HASH_START, optarg ? optarg : "", optarg ? strlen(optarg) : 0);
        }
    }
    if (optind < argc) {
        (void)snprintf(text, PROGRAM_TEXT_BYTES, "'%s' is not an option; see --help", argv[optind]);
        return text;
    }
    return NULL;
}

/* Compares with rank 0. Returns the complaint or NULL. Collective. */
static const char *compare(const words_t *words, char *text)
{
    uint64_t first[WORDS + 1];
    int      rank;

    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    memcpy(first, words->given, sizeof first);
    (void)MPI_Bcast(first, WORDS + 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    for (int i = WORDS; i >= 0; i--) { /* --help first: what comes after it is not read */
        if (first[i] != words->given[i]) {
            (void)snprintf(text, PROGRAM_TEXT_BYTES, "rank %d and rank 0 differ in --%s; give all ranks the same options", rank,
                           i < words->count ? words->known[i]->name : "help");
            return text;
        }
    }
    return NULL;
}

bool program_parse(const char *program, int argc, char **argv, const program_options_t *options, size_t count)
{
    words_t       words = {0};
    struct option names[WORDS + 2] = {{0}};
    char          text[PROGRAM_TEXT_BYTES];

    collect(options, count, &words, names);
    program_agree(program, parse(argc, argv, names, &words, text), PROGRAM_EXIT_USAGE);
    program_agree(program, compare(&words, text), PROGRAM_EXIT_USAGE);
    return words.given[WORDS] != 0;
}

void program_print_option(const char *name, const char *value, const char *help)
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

/* ---- All ranks ---- */

void program_agree(const char *program, const char *complaint, int status)
{
    int rank, ranks, first;

    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    first = complaint ? rank : ranks;
    (void)MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == rank) {
        (void)fprintf(stderr, "%s: %s\n", program, complaint);
    }
    if (first < ranks) {
        (void)MPI_Finalize();
        exit(status);
    }
}

bool program_is_equal(uint64_t hash)
{
    uint64_t first = hash;
    int      equal;

    (void)MPI_Bcast(&first, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    equal = hash == first;
    (void)MPI_Allreduce(MPI_IN_PLACE, &equal, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    return equal;
}

/* ---- Results ---- */

uint64_t program_hash(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *byte = data;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ byte[i]) * 0x100000001B3u;
    }
    return hash;
}

static int lost; /* errno of the first flush that failed; -1: unknown */

void program_flush(void)
{
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && lost == 0) {
        lost = errno != 0 ? errno : -1;
    }
}

int program_finished(const char *program, int status)
{
    program_flush();
    if (lost == 0) {
        return status;
    }
    (void)fprintf(stderr, "%s: the results could not all be written%s%s\n", program, lost > 0 ? ": " : "",
                  lost > 0 ? strerror(lost) : "");
    return EXIT_FAILURE;
}

void program_print_json(const char *key, double number, const char *after)
{
    if (isfinite(number)) {
        (void)printf("\"%s\":%.12g%s", key, number, after);
    } else {
        (void)printf("\"%s\":null%s", key, after);
    }
}
