/* SPDX-License-Identifier: Apache-2.0 */
/* Saves and loads what optimizers know (doc/wire-format.md, "State files"). What a file holds is put into fresh arrays; they
   change places with the optimizer's when all ranks have read theirs. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "operation.h"
#include "optimizer.h"
#include "state_file.h"

static const char magic[TACIT_STATE_MAGIC_BYTES] = "TACITOPT";

/* What changes when a file is loaded. */
typedef struct tacit_loaded {
    uint64_t        steps;
    double          numbers[TACIT_OPTIM_NUMBERS];
    tacit_tensor_t *tensors; /* of which arrays and numbers count */
} tacit_loaded_t;

static size_t words(const char *const *names)
{
    size_t count = 0;

    while (names[count] != NULL) {
        count++;
    }
    return count;
}

/* Arrays that this tensor has. */
static size_t array_count(const tacit_tensor_t *tensor)
{
    size_t count = 0;

    for (size_t i = 0; i < TACIT_OPTIM_ARRAYS; i++) {
        count += tensor->array[i] != NULL;
    }
    return count;
}

/* ---- Saving ---- */

static void put_state(tacit_writer_t *writer, const void *state)
{
    const tacit_optim_t *optim = state;

    tacit__put_text(writer, optim->canonical);
    tacit__put_number(writer, optim->tensor_count);
    tacit__put_number(writer, optim->steps);
    for (size_t i = 0; i < words(optim->kind->numbers); i++) {
        tacit__put_real(writer, optim->numbers[i]);
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &optim->tensors[i];

        tacit__put_text(writer, tensor->slot->codec->name);
        tacit__put_number(writer, tensor->count);
        for (size_t j = 0; j < words(optim->kind->tensor_numbers); j++) {
            tacit__put_real(writer, tensor->numbers[j]);
        }
        tacit__put_number(writer, array_count(tensor));
        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
            if (tensor->array[j] != NULL) {
                tacit__put_array(writer, optim->kind->arrays[j], tensor->array[j], tensor->count);
            }
        }
    }
}

static void describe(const tacit_optim_t *optim, uint64_t steps, char *text, size_t capacity)
{
    snprintf(text, capacity, "%s after step %" PRIu64, optim->kind->name, steps);
}

tacit_status_t tacit_optim_save(const tacit_optim_t *optim, const char *path)
{
    char           text[128];
    tacit_comm_t  *comm;
    tacit_status_t status, mine;

    if (optim == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "the optimizer is NULL");
    }
    comm = optim->comm;
    status = tacit__comm_enter(comm, true);
    if (status != TACIT_OK) {
        return status;
    }
    mine = tacit__state_write(comm->rank, comm->ranks, path, magic, put_state, optim);
    describe(optim, optim->steps, text, sizeof text);
    return tacit__comm_conclude(comm, "tacit_optim_save", text, mine);
}

/* ---- Loading ---- */

static void release(const tacit_optim_t *optim, tacit_loaded_t *loaded)
{
    for (size_t i = 0; loaded->tensors != NULL && i < optim->tensor_count; i++) {
        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
            tacit__free(loaded->tensors[i].array[j]);
        }
    }
    tacit__free(loaded->tensors);
}

static tacit_status_t no_memory(const tacit_optim_t *optim)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to load an optimizer's state", optim->comm->rank);
}

/* Nothing that is kept beside the arrays is below 0, nor does anything count more than the steps. */
static tacit_status_t check_number(tacit_reader_t *reader, const tacit_optim_t *optim, double number, const uint64_t *steps)
{
    const bool any = optim->comm->config.nonfinite == TACIT_NONFINITE_PASS && steps == NULL;
    const bool good = steps != NULL ? number == floor(number) && number <= (double)*steps : any || isfinite(number);

    return good && !(number < 0) ? TACIT_OK : tacit__state_damaged(reader, "a number is not one that an optimizer can have");
}

static tacit_status_t read_tensor(tacit_reader_t *reader, const tacit_optim_t *optim, size_t i, tacit_loaded_t *loaded)
{
    const tacit_tensor_t *tensor = &optim->tensors[i];
    const char           *name = tensor->slot->codec->name;
    char                  array[TACIT_STATE_TEXT_BYTES];
    const void           *values;
    uint64_t              count;
    tacit_status_t        status;

    TRY(tacit__expect_text(reader, "", "slot's name", name));
    TRY(tacit__expect_number(reader, name, "the count", tensor->count));
    for (size_t j = 0; j < words(optim->kind->tensor_numbers); j++) {
        TRY(tacit__get_real(reader, &loaded->tensors[i].numbers[j]));
        TRY(check_number(reader, optim, loaded->tensors[i].numbers[j], NULL));
    }
    TRY(tacit__expect_number(reader, name, "the number of arrays", array_count(tensor)));
    for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
        if (tensor->array[j] == NULL) {
            continue;
        }
        TRY(tacit__get_array(reader, array, &values, &count));
        if (strcmp(array, optim->kind->arrays[j]) != 0 || count != tensor->count) {
            status = tacit__state_damaged(reader, "an array is not the one that follows");
            goto out;
        }
        loaded->tensors[i].array[j] = tacit__alloc_unset(count * sizeof(float));
        if (loaded->tensors[i].array[j] == NULL) {
            status = no_memory(optim);
            goto out;
        }
        memcpy(loaded->tensors[i].array[j], values, count * sizeof(float));
    }
out:
    return status;
}

static tacit_status_t read_state(const tacit_optim_t *optim, const char *path, tacit_loaded_t *loaded)
{
    const tacit_comm_t *comm = optim->comm;
    tacit_reader_t      reader = {.data = NULL};
    tacit_status_t      status;

    TRY(tacit__state_open(&reader, comm->rank, comm->ranks, path, magic));
    loaded->tensors = tacit__alloc(optim->tensor_count, sizeof *loaded->tensors);
    if (loaded->tensors == NULL) {
        status = no_memory(optim);
        goto out;
    }
    TRY(tacit__expect_text(&reader, "", "optimizer", optim->canonical));
    TRY(tacit__expect_number(&reader, "", "the number of slots", optim->tensor_count));
    TRY(tacit__get_number(&reader, &loaded->steps));
    for (size_t i = 0; i < words(optim->kind->numbers); i++) {
        TRY(tacit__get_real(&reader, &loaded->numbers[i]));
        TRY(check_number(&reader, optim, loaded->numbers[i], optim->kind->counters & 1u << i ? &loaded->steps : NULL));
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(read_tensor(&reader, optim, i, loaded));
    }
    TRY(tacit__state_end(&reader));
out:
    tacit__state_close(&reader);
    return status;
}

/* Of all that every rank must have read alike. */
static uint64_t hash_common(const tacit_optim_t *optim, const tacit_loaded_t *loaded)
{
    const tacit_optimizer_t *kind = optim->kind;
    const unsigned           own = kind->apart != NULL && kind->apart(loaded->numbers) ? kind->own_arrays : 0;
    uint64_t                 hash = tacit__hash(TACIT_HASH_START, loaded->numbers, sizeof loaded->numbers);

    for (size_t i = 0; i < optim->tensor_count; i++) {
        const tacit_tensor_t *tensor = &loaded->tensors[i];

        hash = tacit__hash(hash, tensor->numbers, sizeof tensor->numbers);
        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
            if (tensor->array[j] != NULL && !(own & 1u << j)) {
                hash = tacit__hash(hash, tensor->array[j], optim->tensors[i].count * sizeof(float));
            }
        }
    }
    return hash;
}

static void change_places(tacit_optim_t *optim, tacit_loaded_t *loaded)
{
    const tacit_loaded_t before = *loaded;

    loaded->steps = optim->steps;
    optim->steps = before.steps;
    memcpy(loaded->numbers, optim->numbers, sizeof loaded->numbers);
    memcpy(optim->numbers, before.numbers, sizeof optim->numbers);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        double numbers[TACIT_TENSOR_NUMBERS];

        memcpy(numbers, optim->tensors[i].numbers, sizeof numbers);
        memcpy(optim->tensors[i].numbers, loaded->tensors[i].numbers, sizeof numbers);
        memcpy(loaded->tensors[i].numbers, numbers, sizeof numbers);
        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
            float *array = optim->tensors[i].array[j];

            optim->tensors[i].array[j] = loaded->tensors[i].array[j];
            loaded->tensors[i].array[j] = array;
        }
    }
}

tacit_status_t tacit_optim_load(tacit_optim_t *optim, const char *path)
{
    char           text[128], common[256];
    tacit_loaded_t loaded = {.tensors = NULL};
    tacit_status_t status, mine;

    if (optim == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "the optimizer is NULL");
    }
    status = tacit__comm_enter(optim->comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    mine = read_state(optim, path, &loaded);
    describe(optim, loaded.steps, text, sizeof text);
    snprintf(common, sizeof common, "%s, common state %016" PRIx64 " (all files must be of one save)", text,
             mine == TACIT_OK ? hash_common(optim, &loaded) : 0);
    status = tacit__comm_conclude(optim->comm, "tacit_optim_load", common, mine);
    if (status == TACIT_OK) {
        change_places(optim, &loaded);
        if (optim->kind->make_slots != NULL) {
            status = optim->kind->make_slots(optim);
        }
        if (status != TACIT_OK) {
            change_places(optim, &loaded);
        }
    }
    release(optim, &loaded);
    return status;
}
