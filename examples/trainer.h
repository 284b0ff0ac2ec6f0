/* SPDX-License-Identifier: Apache-2.0 */
/* What all trainers share: the command line, steps and evaluations, checkpoints, results. A program brings a task: its data, its
   model, and options of its own. */
#ifndef TRAINER_H
#define TRAINER_H

#include "layer.h"
#include "program.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tacit.h>
#include <tacit_optim.h>

enum { TRAINER_TEXT_BYTES = PROGRAM_TEXT_BYTES };

typedef struct trainer_options {
    const char *optimizer, *spec, *data, *checkpoint, *adapt; /* data, checkpoint and adapt may be NULL */
    uint64_t    epochs, steps;                                /* one of them is 0 */
    uint64_t    every;                                        /* steps from one evaluation to the next; 0: an epoch */
    uint64_t    batch, seed, warmup;
    double      rate, momentum; /* momentum: below 0 where it was not given */
    bool        linear, resume, json;
} trainer_options_t;

/* Sums over part of the data. */
typedef struct trainer_sums {
    double train_loss, trains, test_loss, tests, right; /* right: of the tests */
} trainer_sums_t;

/* `own` is the program's. */
typedef struct trainer_task {
    const char             *program, *summary; /* "train-digits"; a sentence or two for --help */
    const char             *samples, *data;    /* "training images"; the help of --data */
    trainer_options_t       defaults;          /* epochs or steps, batch, seed */
    double                  sgd_rate, adam_rate, lamb_rate;
    bool                    accuracy; /* right answers are counted */
    const program_option_t *options;  /* ends with a NULL name */

    /* Reads the data and makes a model for batches of options->batch samples. Returns NULL, or a complaint in `text`. */
    const char *(*load)(void *own, const trainer_options_t *options, char *text);
    void (*randomize)(void *own, uint64_t seed);
    tensors_t *(*tensors)(void *own);
    size_t (*sample_count)(void *own); /* in an epoch */
    /* The mean loss over a batch of samples of an epoch; leaves its gradient in the tensors. */
    double (*gradient)(void *own, const uint32_t *samples, size_t count, uint64_t epoch);
    /* Adds the part of rank `rank` of `ranks` to the sums. */
    void (*evaluate)(void *own, size_t rank, size_t ranks, trainer_sums_t *sums);
    /* A line for each thing in which a run that resumes must not differ: data, model. */
    void (*describe)(void *own, char *text, size_t capacity);
    void (*release)(void *own);
} trainer_task_t;

/* The program: returns its exit status. */
int trainer_main(int argc, char **argv, const trainer_task_t *task, void *own);

/* ---- Between the files of the shell ---- */

/* Bytes are of the mean rank. Large slots, of more than 64 Ki elements, are those where headers do not count. */
typedef struct trainer_totals {
    double wire_bytes, dense_bytes, large_wire_bytes, large_dense_bytes, seconds;
} trainer_totals_t;

typedef struct trainer {
    const trainer_task_t *task;
    void                 *own;
    trainer_options_t     options;
    char                  optimizer[TRAINER_TEXT_BYTES]; /* its spec, --momentum included */
    int                   rank, ranks;
    tensors_t            *tensors;
    tacit_comm_t         *comm;
    tacit_slot_t        **slots;     /* one for each tensor of the model */
    float               **values;    /* the tensors' ... */
    const float         **gradients; /* ... as the optimizer wants them */
    tacit_optim_t        *optim;
    tacit_lgreco_t       *lgreco;             /* NULL without --adapt */
    uint32_t             *order;              /* of the samples, in the epoch `shuffled` */
    uint32_t             *batch;              /* this rank's samples of one step */
    uint64_t              shuffled;           /* UINT64_MAX: in none */
    uint64_t              epoch_steps, steps; /* of one epoch, of the whole training */
    uint64_t              step;               /* steps taken */
    uint64_t              generation;         /* of the newest checkpoint */
    trainer_totals_t      before;             /* of the runs that this one resumes */
    double                start_time, progress_time;
    bool                  progress; /* a line on the terminal that overwrites itself */
} trainer_t;

/* Starts MPI and reads the command line. Collective. Ends the program after --help or a mistake. */
void trainer_start(int argc, char **argv, trainer_t *trainer);
/* Fills in what `--adapt LIST` says. Returns 0, or -1 with a sentence in `text`. */
int trainer_parse_adapt(const char *list, tacit_lgreco_config_t *config_out, char *text);

/* Prints a sentence with this rank's number and ends the program on all ranks: for what one rank alone has found. */
__attribute__((noreturn, format(printf, 2, 3))) void trainer_die(const trainer_t *trainer, const char *format, ...);
/* Dies unless the library's call succeeded. */
void trainer_must(const trainer_t *trainer, tacit_status_t status, const char *call);
/* Ends the program on all ranks if a call that all ranks have made failed on one of them; the first such rank prints why.
   Collective. */
void trainer_all(const trainer_t *trainer, tacit_status_t status, const char *call);
/* Ends the program on all ranks if one of them has a complaint, not NULL; the first such rank prints it. Collective. */
void trainer_agree(const trainer_t *trainer, const char *complaint);

/* Writes the next checkpoint. Collective. */
void trainer_save(trainer_t *trainer, trainer_totals_t totals);
/* Finds the newest checkpoint and, with --resume, goes on from it; checks that there can be another. Collective. */
void trainer_resume(trainer_t *trainer);

#endif
