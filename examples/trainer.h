/* SPDX-License-Identifier: Apache-2.0 */
/* The shell of a trainer: its options, how it ends on all ranks at once, and how numbers are printed. */
#ifndef TRAINER_H
#define TRAINER_H

#include "model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tacit.h>

enum { TRAINER_TEXT_BYTES = 1024 };

typedef struct trainer_options {
    const char      *spec, *data, *checkpoint; /* data and checkpoint may be NULL */
    optimizer_kind_t optimizer;
    uint64_t         epochs, steps; /* one of them is 0 */
    uint64_t         batch, seed;
    double           rate, momentum;
    size_t           hidden[MODEL_LAYERS]; /* widths of hidden_count layers */
    size_t           hidden_count;
    bool             resume, json;
} trainer_options_t;

/* Starts MPI and reads the command line. Collective. Ends the program after --help or a mistake. */
void trainer_start(int argc, char **argv, trainer_options_t *options_out);

/* Prints a sentence with this rank's number and ends the program on all ranks: for what one rank alone has found. */
__attribute__((noreturn, format(printf, 1, 2))) void trainer_die(const char *format, ...);
/* Dies unless the library's call succeeded. */
void trainer_must(tacit_status_t status, const char *call);
/* Ends the program on all ranks if one of them has a complaint, not NULL; the first such rank prints it. Collective. */
void trainer_agree(const char *complaint);

const char *trainer_optimizer_name(optimizer_kind_t kind);
/* Writes `"key":number` and `after` to stdout; JSON knows no NaN and no infinity: they become null. */
void trainer_print_json(const char *key, double number, const char *after);

#endif
