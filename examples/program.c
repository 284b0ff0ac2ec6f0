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

const char *program_parse(int argc, char **argv, const program_options_t *options, size_t count, bool *help_out, char *text)
{
    const program_option_t *known[WORDS];
    void                   *to[WORDS];
    struct option           words[WORDS + 2] = {{0}};
    int                     used = 0, option, index = 0;

    for (size_t i = 0; i < count; i++) {
        for (const program_option_t *next = options[i].list; next->name && used < WORDS; next++) {
            known[used] = next;
            to[used] = options[i].to;
            words[used++] = (struct option){next->name, next->value ? required_argument : no_argument, NULL, WORD};
        }
    }
    words[used] = (struct option){"help", no_argument, NULL, HELP};
    *help_out = false;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", words, &index)) != -1) {
        if (option == HELP) {
            *help_out = true;
            return NULL;
        }
        if (option != WORD) {
            return complain(option, argv, text);
        }
        if (!known[index]->set(known[index], optarg, to[index])) {
            (void)snprintf(text, PROGRAM_TEXT_BYTES, "--%s '%s': expected %s", known[index]->name, optarg,
                           known[index]->expected);
            return text;
        }
    }
    if (optind < argc) {
        (void)snprintf(text, PROGRAM_TEXT_BYTES, "'%s' is not an option; see --help", argv[optind]);
        return text;
    }
    return NULL;
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

void program_print_json(const char *key, double number, const char *after)
{
    if (isfinite(number)) {
        (void)printf("\"%s\":%.12g%s", key, number, after);
    } else {
        (void)printf("\"%s\":null%s", key, after);
    }
}
