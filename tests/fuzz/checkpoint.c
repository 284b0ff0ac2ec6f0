/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the readers of state files, of slots, optimizers and layerwise adaptation: a file that is refused changes nothing,
   and with one that is not the slots go on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "lgreco.h"
#include "optimizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { COUNT = 40, SLOTS = 2 };

/* All that a program may save. */
typedef struct program {
    tacit_comm_t   *comm;
    tacit_slot_t   *slots[SLOTS];
    tacit_optim_t  *optim;
    tacit_lgreco_t *lgreco;
} program_t;

static void must(tacit_status_t status)
{
    if (status != TACIT_OK) {
        fprintf(stderr, "%s\n", tacit_last_error());
        abort();
    }
}

static tacit_slot_t *add_slot(tacit_comm_t *comm, const char *name, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    float               values[COUNT];

    config.count = COUNT;
    config.spec = spec;
    must(tacit_slot_create(comm, name, &config, &slot));
    for (int i = 0; i < COUNT; i++) {
        values[i] = (float)i * 0.1f;
    }
    must(tacit_allreduce(slot, values, values, TACIT_SUM));
    return slot;
}

/* Slots that have memory, the last in packed blocks, an optimizer that has taken a step, and a plan for which one step of two has
   been gathered. */
static void make(program_t *program)
{
    const float           gradient[COUNT] = {1.0f, -2.0f, 0.5f}, *gradients[SLOTS] = {gradient, gradient};
    float                 value[SLOTS][COUNT] = {{0}}, *values[SLOTS] = {value[0], value[1]};
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    tacit_loop_t         *loop;
    tacit_transport_t     transport;

    must(tacit_loop_create(1, &loop));
    must(tacit_loop_transport(loop, 0, &transport));
    must(tacit_comm_create(&transport, NULL, &program->comm));
    tacit_loop_release(loop);
    program->slots[0] = add_slot(program->comm, "a", "onebit:block=64+ef");
    program->slots[1] = add_slot(program->comm, "b", "topk:ratio=0.1+ef");
    (void)add_slot(program->comm, "c", "bf16+ef:residual=int8");
    must(tacit_optim_create("adam", program->slots, SLOTS, &program->optim));
    must(tacit_optim_step(program->optim, values, gradients, 0.1));
    config.every = 2;
    must(tacit_lgreco_create(program->slots, SLOTS, &config, &program->lgreco));
    must(tacit_lgreco_observe(program->lgreco, gradients));
}

static uint64_t hash_optim(const tacit_optim_t *optim, uint64_t hash)
{
    hash = tacit__hash(hash, &optim->steps, sizeof optim->steps);
    hash = tacit__hash(hash, optim->numbers, sizeof optim->numbers);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS && optim->tensors[i].array[j] != NULL; j++) {
            hash = tacit__hash(hash, optim->tensors[i].array[j], optim->tensors[i].count * sizeof(float));
        }
    }
    return hash;
}

static uint64_t hash_lgreco(const tacit_lgreco_t *lgreco, uint64_t hash)
{
    hash = tacit__hash(hash, &lgreco->steps, sizeof lgreco->steps);
    hash = tacit__hash(hash, &lgreco->report, sizeof lgreco->report);
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];

        hash = tacit__hash(hash, &layer->norm_before, sizeof layer->norm_before);
        hash = tacit__hash(hash, layer->sum, layer->sum != NULL ? COUNT * sizeof *layer->sum : 0);
    }
    return hash;
}

static uint64_t hash_all(const program_t *program)
{
    uint64_t      hash = hash_lgreco(program->lgreco, hash_optim(program->optim, TACIT_HASH_START));
    tacit_array_t array;

    for (const tacit_slot_t *slot = program->comm->slots; slot != NULL; slot = slot->next) {
        hash = tacit__hash(hash, &slot->step, sizeof slot->step);
        hash = tacit__hash(hash, tacit_slot_spec(slot), strlen(tacit_slot_spec(slot)));
        for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
            hash = tacit__hash(hash, array.values, array.count * sizeof *array.values);
        }
    }
    return hash;
}

/* By the reader for which the file says that it is. */
static tacit_status_t load(program_t *program, const uint8_t *data, size_t bytes, const char *path)
{
    if (bytes >= TACIT_STATE_MAGIC_BYTES && memcmp(data, "TACITOPT", TACIT_STATE_MAGIC_BYTES) == 0) {
        return tacit_optim_load(program->optim, path);
    }
    if (bytes >= TACIT_STATE_MAGIC_BYTES && memcmp(data, "TACITLGR", TACIT_STATE_MAGIC_BYTES) == 0) {
        return tacit_lgreco_load(program->lgreco, path);
    }
    return tacit_load(program->comm, path);
}

/* With numbers from a file it may fail, no more. */
static void work(tacit_comm_t *comm)
{
    float values[COUNT] = {1};

    for (tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        const tacit_status_t status = tacit_allreduce(slot, values, values, TACIT_AVERAGE);

        (void)status;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    program_t program;
    FILE     *file = tmpfile();
    char      path[64];
    uint64_t  before;

    make(&program);
    before = hash_all(&program);
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fflush(file) != 0) {
        abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(file));
    if (load(&program, data, bytes, path) == TACIT_OK) {
        work(program.comm);
    } else if (hash_all(&program) != before) {
        abort();
    }
    fclose(file);
    tacit_lgreco_destroy(program.lgreco);
    tacit_optim_destroy(program.optim);
    tacit_comm_destroy(program.comm);
    return 0;
}
