/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer's checkpoints: generations of a folder (generation.h). For each rank R there are trainer-R, what this program knows,
   parameters included; on the CPU slots-R and optimizer-R, what the library remembers, own-slots-R and own-optimizer-R for what a
   rank alone has, and adapt-R with --adapt; on a GPU gpu-R, the same from there. */
#include "generation.h"
#include "trainer.h"

#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEAD_BYTES = 4 * TRAINER_TEXT_BYTES };

/* The head of trainer-R: a line for each thing in which a run that resumes must not differ. */
static void describe(const trainer_t *trainer, char *text, size_t capacity)
{
    const trainer_options_t *options = &trainer->options;
    char                     decay[64] = "none";
    size_t                   used;

    if (options->linear) {
        (void)snprintf(decay, sizeof decay, "linear in %" PRIu64 " steps", trainer->steps);
    }
    used = (size_t)snprintf(text, capacity,
                            "format tacit %s 5\nranks %d\ndevice %s\nspec %s\noptimizer %s\nadapt %s\nbatch %" PRIu64
                            "\nseed %" PRIu64 "\nwarm-up %" PRIu64 "\ndecay %s\n",
                            trainer->task->program, trainer->ranks, trainer->device->name, options->spec, trainer->optimizer,
                            options->adapt ? options->adapt : "none", options->batch, options->seed, options->warmup, decay);
    if (used < capacity) {
        trainer->task->describe(trainer->own, text + used, capacity - used);
    }
}

int trainer_path(const trainer_t *trainer, uint64_t number, bool filling, const char *what, char *path)
{
    char name[64];

    (void)snprintf(name, sizeof name, "%s-%d", what, trainer->rank);
    return generation_path(trainer->options.checkpoint, number, filling, name, path);
}

static uint64_t hash_values(const trainer_t *trainer)
{
    const tensors_t *local = trainer->local;
    const uint64_t hash = program_hash(PROGRAM_HASH_START, trainer->tensors->values, trainer->tensors->elements * sizeof(float));

    return local ? program_hash(hash, local->values, local->elements * sizeof(float)) : hash;
}

/* ---- Writing ---- */

static bool write_values(const tensors_t *tensors, FILE *file)
{
    return !tensors || fwrite(tensors->values, sizeof(float), tensors->elements, file) == tensors->elements;
}

static int write_own(const trainer_t *trainer, trainer_totals_t totals, const char *path)
{
    char  text[HEAD_BYTES];
    FILE *file = fopen(path, "wb");
    bool  written;

    if (!file) {
        return -1;
    }
    describe(trainer, text, sizeof text);
    written = fprintf(file, "%sstep %" PRIu64 "\nwire_bytes %.17g\nlarge_wire_bytes %.17g\nseconds %.17g\nhash %016" PRIx64 "\n",
                      text, trainer->step, totals.wire_bytes, totals.large_wire_bytes, totals.seconds, hash_values(trainer)) > 0;
    for (size_t i = 0; i < TRAINER_TALLIES; i++) {
        written = written && fprintf(file, "%.17g\n", totals.tallies[i]) > 0;
    }
    written = written && write_values(trainer->tensors, file) && write_values(trainer->local, file);
    written = written && fflush(file) == 0 && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && written ? 0 : -1;
}

/* Rank 0 makes the folder, every rank saves its parts, rank 0 makes it count. */
void trainer_save(trainer_t *trainer, trainer_totals_t totals)
{
    const char    *dir = trainer->options.checkpoint;
    const uint64_t number = trainer->generation + 1;
    char           path[GENERATION_PATH_BYTES], text[TRAINER_TEXT_BYTES];
    bool           done = true;

    trainer->device->fetch(trainer);
    if (trainer->rank == 0) {
        done = generation_begin(dir, number) == 0;
        (void)snprintf(text, sizeof text, "cannot write a checkpoint in %.400s: %s", dir, strerror(errno));
    }
    trainer_agree(trainer, done ? NULL : text);
    done = trainer_path(trainer, number, true, "trainer", path) == 0 && write_own(trainer, totals, path) == 0;
    (void)snprintf(text, sizeof text, "cannot write a checkpoint in %.400s: %s", dir, strerror(errno));
    trainer_agree(trainer, done ? NULL : text);
    trainer->device->save(trainer, number);
    (void)MPI_Barrier(MPI_COMM_WORLD); /* every rank has saved */
    if (trainer->rank == 0) {
        done = generation_commit(dir, number) == 0;
        (void)snprintf(text, sizeof text, "cannot complete the checkpoint in %.400s: %s", dir, strerror(errno));
    }
    trainer_agree(trainer, done ? NULL : text);
    trainer->generation = number;
}

/* ---- Reading ---- */

/* Compares the head of a checkpoint with this run's. Returns 0, or -1 with what differs in `text`. */
static int check_head(const trainer_t *trainer, FILE *file, char *text, size_t capacity)
{
    char  here[HEAD_BYTES], there[HEAD_BYTES];
    char *line = here, *end;

    describe(trainer, here, sizeof here);
    for (; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        if (!end) {
            (void)snprintf(text, capacity, "this run's options are too long to be compared: '%.200s'", line);
            return -1;
        }
        *end = '\0';
        if (!fgets(there, sizeof there, file)) {
            there[0] = '\0';
        }
        there[strcspn(there, "\n")] = '\0';
        if (strcmp(line, there) != 0) {
            (void)snprintf(text, capacity, "its '%.200s' is not this run's '%.200s'", there, line);
            return -1;
        }
    }
    return 0;
}

/* What follows the head; false where it is damaged. */
static bool read_totals(trainer_t *trainer, FILE *file, uint64_t *hash_out)
{
    trainer_totals_t *before = &trainer->before;
    bool whole = fscanf(file, "step %" SCNu64 " wire_bytes %lf large_wire_bytes %lf seconds %lf hash %16" SCNx64, &trainer->step,
                        &before->wire_bytes, &before->large_wire_bytes, &before->seconds, hash_out) == 5;

    for (size_t i = 0; whole && i < TRAINER_TALLIES; i++) {
        whole = fscanf(file, "%lf", &before->tallies[i]) == 1;
    }
    return whole && fgetc(file) == '\n';
}

static bool read_values(const tensors_t *tensors, FILE *file)
{
    return !tensors || fread(tensors->values, sizeof(float), tensors->elements, file) == tensors->elements;
}

/* Reads trainer-R. Returns 0, or -1 with what is wrong in `text`. */
static int read_own(trainer_t *trainer, const char *path, char *text, size_t capacity)
{
    FILE    *file = fopen(path, "rb");
    uint64_t hash;
    int      result = -1;

    if (!file) {
        (void)snprintf(text, capacity, "%s", strerror(errno));
        return -1;
    }
    if (check_head(trainer, file, text, capacity) == 0) {
        const bool whole = read_totals(trainer, file, &hash) && read_values(trainer->tensors, file) &&
                           read_values(trainer->local, file) && fgetc(file) == EOF;

        result = whole && hash_values(trainer) == hash ? 0 : -1;
        (void)snprintf(text, capacity, "the file is damaged");
    }
    (void)fclose(file);
    return result;
}

/* What cannot be written is better known before an epoch than after it. */
static void try_writing(const trainer_t *trainer)
{
    const char *dir = trainer->options.checkpoint;
    char        text[TRAINER_TEXT_BYTES];
    bool        done = true;

    if (trainer->rank == 0) {
        done = generation_try(dir, trainer->generation + 1) == 0;
        (void)snprintf(text, sizeof text, "cannot write checkpoints in %.400s: %s", dir, strerror(errno));
    }
    trainer_agree(trainer, done ? NULL : text);
}

static void resume(trainer_t *trainer)
{
    const char *dir = trainer->options.checkpoint;
    char        path[GENERATION_PATH_BYTES], reason[TRAINER_TEXT_BYTES / 2], text[TRAINER_TEXT_BYTES];
    bool        done;

    if (trainer->generation == 0) {
        if (trainer->rank == 0) {
            (void)fprintf(stderr, "%s: no checkpoint in %s; starting at the beginning\n", trainer->task->program, dir);
        }
        return;
    }
    done = trainer_path(trainer, trainer->generation, false, "trainer", path) == 0 &&
           read_own(trainer, path, reason, sizeof reason) == 0;
    (void)snprintf(text, sizeof text, "cannot resume from %.400s: %s", path, reason);
    trainer_agree(trainer, done ? NULL : text);
    trainer->device->load(trainer);
    if (trainer->rank == 0) {
        (void)fprintf(stderr, "%s: resuming after step %" PRIu64 "\n", trainer->task->program, trainer->step);
    }
}

void trainer_resume(trainer_t *trainer)
{
    const char *dir = trainer->options.checkpoint;
    char        text[TRAINER_TEXT_BYTES];
    bool        done = true;

    if (trainer->rank == 0) {
        done = generation_newest(dir, &trainer->generation) == 0;
        (void)snprintf(text, sizeof text, "cannot read %.400s: %s", dir, strerror(errno));
    }
    trainer_agree(trainer, done ? NULL : text);
    (void)MPI_Bcast(&trainer->generation, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (trainer->options.resume) {
        resume(trainer);
    }
    if (trainer->step < trainer->steps) { /* a training that is over writes nothing */
        try_writing(trainer);
    }
}
