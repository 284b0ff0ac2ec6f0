/* SPDX-License-Identifier: Apache-2.0 */
/* Training on the CPU: slots and an optimizer of the library, and with --adapt its layerwise adaptation. */
#include "generation.h"
#include "trainer.h"

#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <tacit_mpi.h>

static void make_slots(trainer_t *trainer)
{
    const tensors_t *tensors = trainer->tensors;
    tacit_config_t   config = TACIT_CONFIG_INIT;

    trainer->slots = calloc(tensors->count, sizeof *trainer->slots);
    trainer->values = calloc(tensors->count, sizeof *trainer->values);
    trainer->gradients = calloc(tensors->count, sizeof *trainer->gradients);
    if (!trainer->slots || !trainer->values || !trainer->gradients) {
        trainer_die(trainer, "not enough memory for %zu slots", tensors->count);
    }
    config.spec = trainer->options.spec;
    config.seed = trainer->options.seed;
    trainer_all(trainer, tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &trainer->comm), "tacit_comm_create_mpi");
    for (size_t i = 0; i < tensors->count; i++) {
        const tensor_t           *tensor = &tensors->list[i];
        const tacit_slot_config_t slot = trainer_slot(tensor);

        trainer_all(trainer, tacit_slot_create(trainer->comm, tensor->name, &slot, &trainer->slots[i]), "tacit_slot_create");
        trainer->values[i] = tensor->values;
        trainer->gradients[i] = tensor->gradients;
    }
}

static void make_optimizer(trainer_t *trainer)
{
    const size_t count = trainer->tensors->count;

    trainer_all(trainer, tacit_optim_create(trainer->optimizer, trainer->slots, count, &trainer->optim), "tacit_optim_create");
    if (trainer->options.adapt) {
        char                  text[TRAINER_TEXT_BYTES];
        tacit_lgreco_config_t config;

        trainer_agree(trainer, trainer_parse_adapt(trainer->options.adapt, &config, text) == 0 ? NULL : text);
        trainer_all(trainer, tacit_lgreco_create(trainer->slots, count, &config, &trainer->lgreco), "tacit_lgreco_create");
        if (trainer->rank == 0 && config.every > trainer->steps) {
            (void)fprintf(stderr, "%s: --adapt plans every %" PRIu64 " steps, which is never in %" PRIu64 " steps; set every=N\n",
                          trainer->task->program, config.every, trainer->steps);
        }
    }
}

static void make(trainer_t *trainer)
{
    make_slots(trainer);
    make_optimizer(trainer);
}

static void step(trainer_t *trainer, double rate)
{
    if (trainer->lgreco) {
        trainer_must(trainer, tacit_lgreco_observe(trainer->lgreco, trainer->gradients), "tacit_lgreco_observe");
    }
    trainer_must(trainer, tacit_optim_step(trainer->optim, trainer->values, trainer->gradients, rate), "tacit_optim_step");
}

static bool together(const trainer_t *trainer)
{
    return tacit_optim_together(trainer->optim);
}

static void sent(const trainer_t *trainer, double bytes_out[2])
{
    tacit_counters_t counters;

    trainer_must(trainer, tacit_optim_counters(trainer->optim, &counters), "tacit_optim_counters");
    bytes_out[0] = (double)counters.wire_bytes;
    bytes_out[1] = 0.0;
    for (size_t i = 0; i < trainer->tensors->count; i++) {
        const size_t elements = trainer->tensors->list[i].rows * trainer->tensors->list[i].cols;

        trainer_must(trainer, tacit_slot_counters(trainer->slots[i], &counters), "tacit_slot_counters");
        bytes_out[0] += (double)counters.wire_bytes;
        bytes_out[1] += elements > TRAINER_LARGE ? (double)counters.wire_bytes : 0.0;
    }
}

/* They are there. */
static void fetch(const trainer_t *trainer)
{
    (void)trainer;
}

static void save(trainer_t *trainer, uint64_t number)
{
    char path[GENERATION_PATH_BYTES];

    (void)trainer_path(trainer, number, true, "slots", path); /* no longer than trainer-R's, which was not too long */
    trainer_must(trainer, tacit_save(trainer->comm, path), "tacit_save");
    if (trainer_path(trainer, number, true, "optimizer", path) != 0) {
        trainer_die(trainer, "the path of --checkpoint is too long");
    }
    trainer_must(trainer, tacit_optim_save(trainer->optim, path), "tacit_optim_save");
    if (trainer->lgreco) {
        (void)trainer_path(trainer, number, true, "adapt", path);
        trainer_must(trainer, tacit_lgreco_save(trainer->lgreco, path), "tacit_lgreco_save");
    }
}

static void load(trainer_t *trainer)
{
    char path[GENERATION_PATH_BYTES];

    (void)trainer_path(trainer, trainer->generation, false, "optimizer", path); /* not longer than when it was written */
    trainer_all(trainer, tacit_optim_load(trainer->optim, path), "tacit_optim_load");
    if (trainer->lgreco) {
        (void)trainer_path(trainer, trainer->generation, false, "adapt", path);
        trainer_all(trainer, tacit_lgreco_load(trainer->lgreco, path), "tacit_lgreco_load");
    }
    /* Now the slots of the optimizer's stage are there too, and all have the specs with which their memory was saved. */
    (void)trainer_path(trainer, trainer->generation, false, "slots", path);
    trainer_all(trainer, tacit_load(trainer->comm, path), "tacit_load");
    if (tacit_optim_steps(trainer->optim) != trainer->step) {
        trainer_die(trainer, "the optimizer's file is of step %" PRIu64 ", the trainer's of step %" PRIu64,
                    tacit_optim_steps(trainer->optim), trainer->step);
    }
}

static void release(trainer_t *trainer)
{
    tacit_lgreco_destroy(trainer->lgreco);
    tacit_optim_destroy(trainer->optim);
    tacit_comm_destroy(trainer->comm);
    free(trainer->slots);
    free(trainer->values);
    free(trainer->gradients);
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
