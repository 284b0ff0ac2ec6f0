/* SPDX-License-Identifier: Apache-2.0 */
/* What all trainers share: the command line, steps and evaluations, checkpoints, results. A program brings a task: its data, its
   model, and options of its own. */
#ifndef TRAINER_H
#define TRAINER_H

#include "gpu_module.h"
#include "layer.h"
#include "program.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tacit.h>
#include <tacit_optim.h>

enum { TRAINER_TEXT_BYTES = PROGRAM_TEXT_BYTES, TRAINER_TALLIES = 10 };

typedef struct trainer_options {
    const char *optimizer, *spec, *data, *checkpoint, *adapt; /* data, checkpoint and adapt may be NULL */
    uint64_t    epochs, steps;                                /* one of them is 0 */
    uint64_t    every;                                        /* steps from one evaluation to the next; 0: an epoch */
    uint64_t    batch, seed, warmup;
    double      rate, momentum; /* momentum: below 0 where it was not given */
    bool        linear, resume, json, gpu;
} trainer_options_t;

/* Sums over part of the data. */
typedef struct trainer_sums {
    double train_loss, trains, test_loss, tests, right; /* right: of the tests */
} trainer_sums_t;

typedef struct trainer        trainer_t;
typedef struct trainer_gpu    trainer_gpu_t;
typedef struct trainer_device trainer_device_t;

/* `own` is the program's. */
typedef struct trainer_task {
    const char             *program, *summary; /* "train-digits"; a sentence or two for --help */
    const char             *samples, *data;    /* "training images"; the help of --data */
    trainer_options_t       defaults;          /* epochs or steps, batch, seed */
    double                  sgd_rate, adam_rate, lamb_rate;
    bool                    accuracy;   /* right answers are counted */
    const program_option_t *options[2]; /* each ends with a NULL name; the second may be NULL */

    /* Reads the data and makes a model for batches of options->batch samples. Returns NULL, or a complaint in `text`. */
    const char *(*load)(void *own, const trainer_options_t *options, char *text);
    void (*randomize)(void *own, uint64_t seed);
    tensors_t *(*tensors)(void *own);
    /* Those that this rank alone has, and trains as if it were alone, on the CPU; NULL: there are none. */
    tensors_t *(*local_tensors)(void *own);
    size_t (*sample_count)(void *own); /* in an epoch */
    /* The mean loss over a batch of samples of an epoch; leaves its gradient in the tensors. */
    double (*gradient)(void *own, const uint32_t *samples, size_t count, uint64_t epoch);
    /* Adds the part of rank `rank` of `ranks` to the sums. */
    void (*evaluate)(void *own, size_t rank, size_t ranks, trainer_sums_t *sums);
    /* A line for each thing in which a run that resumes must not differ: data, model. */
    void (*describe)(void *own, char *text, size_t capacity);
    void (*release)(void *own);
    /* Has gradients and evaluations made on a GPU, where all parameters are `there`; NULL: the program has no such model. Returns
       NULL, or a complaint. */
    const char *(*use_gpu)(void *own, const trainer_t *trainer, const gpu_module_t *module, gpu_t *gpu, const tensors_t *there);

    /* For a task whose gradients and evaluations need messages between ranks; NULL: they need none. connect() comes before the
       first of them. tally() tells what to count on this rank since the start; report() gets the mean over ranks, of
       earlier runs too, and writes fields of the last line, each with a comma after it, or a line of text. */
    void (*connect)(void *own, const trainer_t *trainer);
    void (*tally)(void *own, double tallies_out[TRAINER_TALLIES]);
    void (*report)(void *own, const double *tallies, bool json);
} trainer_task_t;

/* The program: returns its exit status. */
int trainer_main(int argc, char **argv, const trainer_task_t *task, void *own);

/* ---- Between the files of the shell ---- */

/* Bytes are of the mean rank. Large slots, of more than 64 Ki elements, are those where headers do not count. */
typedef struct trainer_totals {
    double wire_bytes, dense_bytes, large_wire_bytes, large_dense_bytes, seconds, tallies[TRAINER_TALLIES];
} trainer_totals_t;

/* Tensors on the CPU, and what trains them. */
typedef struct trainer_set {
    tacit_comm_t  *comm;
    tacit_slot_t **slots;     /* one for each tensor */
    float        **values;    /* the tensors' ... */
    const float  **gradients; /* ... as the optimizer wants them */
    tacit_optim_t *optim;
} trainer_set_t;

struct trainer {
    const trainer_task_t   *task;
    void                   *own;
    trainer_options_t       options;
    char                    optimizer[TRAINER_TEXT_BYTES]; /* its spec, --momentum included */
    int                     rank, ranks;
    tensors_t              *tensors, *local; /* local: NULL where the task has none */
    uint64_t                parameters;      /* of the whole model */
    const trainer_device_t *device;
    /* On the CPU: */
    trainer_set_t   shared, alone; /* of the tensors that all ranks have, and of this rank's own */
    tacit_lgreco_t *lgreco;        /* NULL without --adapt */
    /* On a GPU: */
    trainer_gpu_t *gpu;
    /* On both: */
    uint32_t        *order;              /* of the samples, in the epoch `shuffled` */
    uint32_t        *batch;              /* this rank's samples of one step */
    uint64_t         shuffled;           /* UINT64_MAX: in none */
    uint64_t         epoch_steps, steps; /* of one epoch, of the whole training */
    uint64_t         step;               /* steps taken */
    uint64_t         generation;         /* of the newest checkpoint */
    trainer_totals_t before;             /* of the runs that this one resumes */
    double           start_time, progress_time;
    bool             progress; /* a line on the terminal that overwrites itself */
};

/* Where a model is trained: what makes one step of the gradients of all ranks, and remembers. Collective are make(), step(),
   save(), load() and release(). */
struct trainer_device {
    const char *name; /* "cpu" */
    void (*make)(trainer_t *trainer);
    /* With the gradients that the task has left: a step of this rate, the same on all ranks. */
    void (*step)(trainer_t *trainer, double rate);
    /* Whether all ranks have the same parameters. */
    bool (*together)(const trainer_t *trainer);
    /* Bytes that this rank has sent, in all, and those of large tensors. */
    void (*sent)(const trainer_t *trainer, double bytes_out[2]);
    /* Brings the parameters to where they are saved and compared, the trainer's tensors. */
    void (*fetch)(const trainer_t *trainer);
    /* This rank's files of a generation, beside trainer-R; and back, where trainer-R has been read. */
    void (*save)(trainer_t *trainer, uint64_t number);
    void (*load)(trainer_t *trainer);
    void (*release)(trainer_t *trainer);
};

extern const trainer_device_t trainer_on_cpu, trainer_on_gpu;

/* Whether a GPU can do what the options ask for. Returns the complaint or NULL. Local. */
const char *trainer_gpu_check(const trainer_t *trainer, char *text);

enum { TRAINER_LARGE = 65536 }; /* elements */
/* What the library is told of a tensor. */
tacit_slot_config_t trainer_slot(const tensor_t *tensor);

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

/* The path of this rank's file of a generation: "WHAT-R". Returns 0, or -1 where it is too long. */
int trainer_path(const trainer_t *trainer, uint64_t number, bool filling, const char *what, char *path);
/* Writes the next checkpoint. Collective. */
void trainer_save(trainer_t *trainer, trainer_totals_t totals);
/* Finds the newest checkpoint and, with --resume, goes on from it; checks that there can be another. Collective. */
void trainer_resume(trainer_t *trainer);

#endif
