/* SPDX-License-Identifier: Apache-2.0 */
/* Training on the CPU: slots and an optimizer of the library, and with --adapt its layerwise adaptation. */
#include "generation.h"
#include "trainer.h"

#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <tacit_mpi.h>

static void make_slots(const trainer_t *trainer, const tensors_t *tensors, MPI_Comm ranks, const char *spec, trainer_set_t *set)
{
    tacit_config_t config = TACIT_CONFIG_INIT;

    set->slots = calloc(tensors->count, sizeof *set->slots);
    set->values = calloc(tensors->count, sizeof *set->values);
    set->gradients = calloc(tensors->count, sizeof *set->gradients);
    if (!set->slots || !set->values || !set->gradients) {
        trainer_die(trainer, "not enough memory for %zu slots", tensors->count);
    }
    config.spec = spec;
    config.seed = trainer->options.seed;
    trainer_all(trainer, tacit_comm_create_mpi(ranks, &config, &set->comm), "tacit_comm_create_mpi");
    for (size_t i = 0; i < tensors->count; i++) {
        const tensor_t           *tensor = &tensors->list[i];
        const tacit_slot_config_t slot = trainer_slot(tensor);
        const tacit_status_t      status = tacit_slot_create(set->comm, tensor->name, &slot, &set->slots[i]);

        if (ranks == MPI_COMM_SELF) { /* others may have fewer */
            trainer_must(trainer, status, "tacit_slot_create");
        } else {
            trainer_all(trainer, status, "tacit_slot_create");
        }
        set->values[i] = tensor->values;
        set->gradients[i] = tensor->gradients;
    }
    trainer_all(trainer, tacit_optim_create(trainer->optimizer, set->slots, tensors->count, &set->optim), "tacit_optim_create");
}

static void make_adaptation(trainer_t *trainer)
{
    char                  text[TRAINER_TEXT_BYTES];
    tacit_lgreco_config_t config;

    trainer_agree(trainer, trainer_parse_adapt(trainer->options.adapt, &config, text) == 0 ? NULL : text);
    trainer_all(trainer, tacit_lgreco_create(trainer->shared.slots, trainer->tensors->count, &config, &trainer->lgreco),
                "tacit_lgreco_create");
    if (trainer->rank == 0 && config.every > trainer->steps) {
        (void)fprintf(stderr, "%s: --adapt plans every %" PRIu64 " steps, which is never in %" PRIu64 " steps; set every=N\n",
                      trainer->task->program, config.every, trainer->steps);
    }
}

static void make(trainer_t *trainer)
{
    make_slots(trainer, trainer->tensors, MPI_COMM_WORLD, trainer->options.spec, &trainer->shared);
    if (trainer->local) {
        make_slots(trainer, trainer->local, MPI_COMM_SELF, "none", &trainer->alone);
    }
    if (trainer->options.adapt) {
        make_adaptation(trainer);
    }
}

static void step_set(const trainer_t *trainer, const trainer_set_t *set, double rate)
{
    trainer_must(trainer, tacit_optim_step(set->optim, set->values, set->gradients, rate), "tacit_optim_step");
}

static void step(trainer_t *trainer, double rate)
{
    if (trainer->lgreco) {
        trainer_must(trainer, tacit_lgreco_observe(trainer->lgreco, trainer->shared.gradients), "tacit_lgreco_observe");
    }
    step_set(trainer, &trainer->shared, rate);
    if (trainer->local) {
        step_set(trainer, &trainer->alone, rate);
    }
}

static bool together(const trainer_t *trainer)
{
    return tacit_optim_together(trainer->shared.optim);
}

static void sent(const trainer_t *trainer, double bytes_out[2])
{
    tacit_counters_t counters;

    trainer_must(trainer, tacit_optim_counters(trainer->shared.optim, &counters), "tacit_optim_counters");
    bytes_out[0] = (double)counters.wire_bytes;
    bytes_out[1] = 0.0;
    for (size_t i = 0; i < trainer->tensors->count; i++) {
        const size_t elements = trainer->tensors->list[i].rows * trainer->tensors->list[i].cols;

        trainer_must(trainer, tacit_slot_counters(trainer->shared.slots[i], &counters), "tacit_slot_counters");
        bytes_out[0] += (double)counters.wire_bytes;
        bytes_out[1] += elements > TRAINER_LARGE ? (double)counters.wire_bytes : 0.0;
    }
}

/* They are there. */
static void fetch(const trainer_t *trainer)
{
    (void)trainer;
}

/* The two files of a set. A path that is not longer than trainer-R's was not too long. */
static void save_set(const trainer_t *trainer, const trainer_set_t *set, uint64_t number, const char *slots,
                     const char *optimizer)
{
    char path[GENERATION_PATH_BYTES];

    if (trainer_path(trainer, number, true, slots, path) != 0) {
        trainer_die(trainer, "the path of --checkpoint is too long");
    }
    trainer_must(trainer, tacit_save(set->comm, path), "tacit_save");
    if (trainer_path(trainer, number, true, optimizer, path) != 0) {
        trainer_die(trainer, "the path of --checkpoint is too long");
    }
    trainer_must(trainer, tacit_optim_save(set->optim, path), "tacit_optim_save");
}

static void save(trainer_t *trainer, uint64_t number)
{
    char path[GENERATION_PATH_BYTES];

    save_set(trainer, &trainer->shared, number, "slots", "optimizer");
    if (trainer->local) {
        save_set(trainer, &trainer->alone, number, "own-slots", "own-optimizer");
    }
    if (trainer->lgreco) {
        (void)trainer_path(trainer, number, true, "adapt", path); /* shorter than the others */
        trainer_must(trainer, tacit_lgreco_save(trainer->lgreco, path), "tacit_lgreco_save");
    }
}

static void load_optimizer(trainer_t *trainer, const trainer_set_t *set, const char *what)
{
    char path[GENERATION_PATH_BYTES];

    (void)trainer_path(trainer, trainer->generation, false, what, path); /* not longer than when it was written */
    trainer_all(trainer, tacit_optim_load(set->optim, path), "tacit_optim_load");
    if (tacit_optim_steps(set->optim) != trainer->step) {
        trainer_die(trainer, "the optimizer's file is of step %" PRIu64 ", the trainer's of step %" PRIu64,
                    tacit_optim_steps(set->optim), trainer->step);
    }
}

static void load_slots(trainer_t *trainer, const trainer_set_t *set, const char *what)
{
    char path[GENERATION_PATH_BYTES];

    (void)trainer_path(trainer, trainer->generation, false, what, path);
    trainer_all(trainer, tacit_load(set->comm, path), "tacit_load");
}

static void load(trainer_t *trainer)
{
    char path[GENERATION_PATH_BYTES];

    load_optimizer(trainer, &trainer->shared, "optimizer");
    if (trainer->lgreco) {
        (void)trainer_path(trainer, trainer->generation, false, "adapt", path);
        trainer_all(trainer, tacit_lgreco_load(trainer->lgreco, path), "tacit_lgreco_load");
    }
    /* Now the slots of the optimizer's stage are there too, and all have the specs with which their memory was saved. */
    load_slots(trainer, &trainer->shared, "slots");
    if (trainer->local) {
        load_optimizer(trainer, &trainer->alone, "own-optimizer");
        load_slots(trainer, &trainer->alone, "own-slots");
    }
}

static void release_set(const trainer_set_t *set)
{
    tacit_optim_destroy(set->optim);
    tacit_comm_destroy(set->comm);
    free(set->slots);
    free(set->values);
    free(set->gradients);
}

static void release(trainer_t *trainer)
{
    tacit_lgreco_destroy(trainer->lgreco);
    release_set(&trainer->alone);
    release_set(&trainer->shared);
}

const trainer_device_t trainer_on_cpu = {
    .name = "cpu",
    .make = make,
    .step = step,
    .together = together,
    .sent = sent,
    .fetch = fetch,
    .save = save,
    .load = load,
    .release = release,
};
