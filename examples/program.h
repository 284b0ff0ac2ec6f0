/* SPDX-License-Identifier: Apache-2.0 */
/* What every training program has: options of the command line, complaints that all ranks agree on, JSON, a hash that tells
   whether replicas are equal. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROGRAM_TEXT_BYTES = 1024, PROGRAM_EXIT_USAGE = 2 };

/* ---- The command line ---- */

typedef struct program_option program_option_t;

/* An option. Lists end with a NULL name. */
struct program_option {
    const char *name;     /* "batch" */
    const char *value;    /* "N"; NULL: it takes none */
    const char *expected; /* what a wrong value is answered with: "a whole number from 1" */
    const char *help;     /* may have several lines */
    /* Writes the value into a struct; false: the value is wrong. One of the functions below or the program's own. */
    bool (*set)(const program_option_t *option, const char *value, void *to);
    size_t offset; /* of the field */
    double low, high;
};

/* A whole number (uint64_t) from low to high; high 0: any. */
bool program_set_count(const program_option_t *option, const char *value, void *to);
/* A number (double) from low and below high. */
bool program_set_real(const program_option_t *option, const char *value, void *to);
/* A text (const char *, which is not copied) of low characters or more. */
bool program_set_text(const program_option_t *option, const char *value, void *to);
/* The same, for a path: the only option that may differ from rank to rank. */
bool program_set_path(const program_option_t *option, const char *value, void *to);
/* A bool, which becomes true. */
bool program_set_flag(const program_option_t *option, const char *value, void *to);

/* A list and the struct that its options fill in. */
typedef struct program_options {
    const program_option_t *list;
    void                   *to;
} program_options_t;

/* Reads the command line with `count` lists and --help. Returns whether help is asked for. Ends the program on all ranks after a
   mistake, and where ranks have different options: they would wait for each other for ever. Collective. */
bool program_parse(const char *program, int argc, char **argv, const program_options_t *options, size_t count);
/* Prints an option's lines of --help. */
void program_print_option(const char *name, const char *value, const char *help);

/* A whole number from low to high, a number from low and below `below`; false where it is none. */
bool program_count(const char *text, uint64_t low, uint64_t high, uint64_t *number_out);
bool program_real(const char *text, double low, double below, double *number_out);

/* ---- All ranks ---- */

/* Ends the program on all ranks if one of them has a complaint, not NULL; the first such rank prints it. Collective. */
void program_agree(const char *program, const char *complaint, int status);
/* Whether all ranks have the same. Collective. */
bool program_is_equal(uint64_t hash);

/* ---- Results ---- */

/* FNV-1a, 64 bits; goes on from `hash`. */
uint64_t program_hash(uint64_t hash, const void *data, size_t bytes);
#define PROGRAM_HASH_START 0xCBF29CE484222325u

/* Lets whoever reads stdout have what has been printed. */
void program_flush(void);
/* A program's status at its end: `status`, or failure, said on stderr, if its results could not all be written. */
int program_finished(const char *program, int status);

/* Writes `"key":number` and `after` to stdout; JSON knows no NaN and no infinity: they become null. */
void program_print_json(const char *key, double number, const char *after);

#endif
