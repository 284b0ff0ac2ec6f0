/* SPDX-License-Identifier: Apache-2.0 */
/* Saves and loads layerwise adaptation (doc/wire-format.md, "State files"): choices, and what has been gathered since the last
   plan, so that a run goes on with the same bits. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lgreco.h"
#include "operation.h"

static const char magic[TACIT_STATE_MAGIC_BYTES] = "TACITLGR";

/* What changes when a file is loaded. Layers hold only what the file says. */
typedef struct tacit_loaded_plan {
    uint64_t              steps, counted;
    uint64_t              hash; /* of what files of one save have in common */
    tacit_lgreco_report_t report;
    tacit_layer_t        *layers;
    tacit_specs_t        *specs;
    size_t                capacity; /* of messages, with these specs */
} tacit_loaded_plan_t;

/* Whether there are sums at that point: since the first step that is gathered. */
static bool is_gathering(const tacit_lgreco_t *lgreco, const tacit_loaded_plan_t *loaded)
{
    return loaded->counted != 0 || loaded->steps % lgreco->config.every > lgreco->config.every - lgreco->config.gather;
}

/* Choices are numbers of options: those must be the same. */
static uint64_t options_hash(const tacit_layer_t *layer)
{
    uint64_t hash = TACIT_HASH_START;

    for (size_t i = 0; i < layer->option_count; i++) {
        hash = tacit__hash(hash, layer->options[i].value, strlen(layer->options[i].value) + 1);
    }
    return hash;
}

/* What is the same on all ranks: all but the sums and how long the plan took. */
static uint64_t hash_head(uint64_t counted, const tacit_lgreco_report_t *report)
{
    const double numbers[] = {report->uniform_bytes, report->planned_bytes, report->uniform_error, report->planned_error};

    return tacit__hash(tacit__hash(TACIT_HASH_START, &counted, sizeof counted), numbers, sizeof numbers);
}

static uint64_t hash_layer(uint64_t hash, uint64_t choice, double norm_before)
{
    return tacit__hash(tacit__hash(hash, &choice, sizeof choice), &norm_before, sizeof norm_before);
}

static void describe(uint64_t steps, uint64_t plans, uint64_t hash, char *text, size_t capacity)
{
    snprintf(text, capacity,
             "layerwise adaptation after step %" PRIu64 ", %" PRIu64 " plans, choices and numbers with hash %016" PRIx64, steps,
             plans, hash);
}

/* ---- Saving ---- */

static void put_state(tacit_writer_t *writer, const void *state)
{
    const tacit_lgreco_t *lgreco = state;
    const float           none = 0.0f;

    tacit__put_text(writer, lgreco->identity);
    tacit__put_number(writer, lgreco->layer_count);
    tacit__put_number(writer, lgreco->steps);
    tacit__put_number(writer, lgreco->counted);
    tacit__put_number(writer, lgreco->report.plans);
    tacit__put_real(writer, lgreco->report.uniform_bytes);
    tacit__put_real(writer, lgreco->report.planned_bytes);
    tacit__put_real(writer, lgreco->report.uniform_error);
    tacit__put_real(writer, lgreco->report.planned_error);
    tacit__put_real(writer, lgreco->report.plan_seconds);
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];

        tacit__put_text(writer, layer->slot->codec->name);
        tacit__put_number(writer, layer->slot->codec->tensor.count);
        tacit__put_text(writer, layer->options[layer->reference].value);
        tacit__put_number(writer, options_hash(layer));
        tacit__put_number(writer, tacit__layer_option(layer));
        tacit__put_real(writer, layer->norm_before);
        tacit__put_array(writer, "sum", layer->sum != NULL ? layer->sum : &none,
                         layer->sum != NULL ? layer->slot->codec->tensor.count : 0);
    }
}

static uint64_t hash_now(const tacit_lgreco_t *lgreco)
{
    uint64_t hash = hash_head(lgreco->counted, &lgreco->report);

    for (size_t i = 0; i < lgreco->layer_count; i++) {
        hash = hash_layer(hash, tacit__layer_option(&lgreco->layers[i]), lgreco->layers[i].norm_before);
    }
    return hash;
}

tacit_status_t tacit_lgreco_save(const tacit_lgreco_t *lgreco, const char *path)
{
    char           text[TACIT_AGREEMENT_BYTES];
    tacit_comm_t  *comm;
    tacit_status_t status, mine;

    if (lgreco == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "lgreco must be given");
    }
    comm = lgreco->comm;
    status = tacit__comm_enter(comm, true);
    if (status != TACIT_OK) {
        return status;
    }
    mine = tacit__state_write(comm->rank, comm->ranks, path, magic, put_state, lgreco);
    describe(lgreco->steps, lgreco->report.plans, hash_now(lgreco), text, sizeof text);
    return tacit__comm_conclude(comm, "tacit_lgreco_save", text, mine);
}

/* ---- Loading ---- */

static void release(const tacit_lgreco_t *lgreco, tacit_loaded_plan_t *loaded)
{
    for (size_t i = 0; i < lgreco->layer_count && loaded->layers != NULL; i++) {
        tacit__free(loaded->layers[i].sum);
    }
    for (size_t i = 0; i < lgreco->layer_count && loaded->specs != NULL; i++) {
        tacit__specs_release(&loaded->specs[i]);
    }
    tacit__free(loaded->layers);
    tacit__free(loaded->specs);
}

static tacit_status_t no_memory(const tacit_lgreco_t *lgreco)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to load layerwise adaptation", lgreco->comm->rank);
}

/* A layer's numbers, its sum, and the spec that it will have. */
static tacit_status_t read_layer(tacit_reader_t *reader, const tacit_lgreco_t *lgreco, size_t i, tacit_loaded_plan_t *loaded)
{
    const tacit_layer_t *layer = &lgreco->layers[i];
    const tacit_codec_t *codec = layer->slot->codec;
    tacit_layer_t       *to = &loaded->layers[i];
    char                 spec[TACIT_SPEC_BYTES];
    const void          *values;
    uint64_t             choice, count;
    tacit_status_t       status;

    TRY(tacit__expect_text(reader, "", "slot's name", codec->name));
    TRY(tacit__expect_number(reader, codec->name, "the count", codec->tensor.count));
    TRY(tacit__expect_text(reader, codec->name, "value at the start", layer->options[layer->reference].value));
    TRY(tacit__expect_number(reader, codec->name, "the hash of its options", options_hash(layer)));
    TRY(tacit__get_number(reader, &choice));
    TRY(tacit__get_real(reader, &to->norm_before));
    TRY(tacit__get_array(reader, NULL, &values, &count));
    if (choice > layer->option_count || count != (is_gathering(lgreco, loaded) ? codec->tensor.count : 0)) {
        status = tacit__state_damaged(reader, "a layer's numbers are impossible");
        goto out;
    }
    loaded->hash = hash_layer(loaded->hash, choice, to->norm_before);
    if (count != 0) {
        to->sum = tacit__alloc_unset(count * sizeof *to->sum);
        if (to->sum == NULL) {
            status = no_memory(lgreco);
            goto out;
        }
        memcpy(to->sum, values, count * sizeof *to->sum);
    }
    if (choice < layer->option_count) { /* else it was not of a plan, and whoever set it does so again */
        TRY(tacit__layer_spec(layer, choice, spec));
        TRY(tacit__slot_prepare(layer->slot, spec, &loaded->specs[i], &loaded->capacity));
    }
out:
    return status;
}

static tacit_status_t read_state(const tacit_lgreco_t *lgreco, const char *path, tacit_loaded_plan_t *loaded)
{
    tacit_lgreco_report_t *report = &loaded->report;
    tacit_reader_t         reader = {.data = NULL};
    tacit_status_t         status;

    TRY(tacit__state_open(&reader, lgreco->comm->rank, lgreco->comm->ranks, path, magic));
    loaded->layers = tacit__alloc(lgreco->layer_count, sizeof *loaded->layers);
    loaded->specs = tacit__alloc(lgreco->layer_count, sizeof *loaded->specs);
    if (loaded->layers == NULL || loaded->specs == NULL) {
        status = no_memory(lgreco);
        goto out;
    }
    TRY(tacit__expect_text(&reader, "", "layerwise adaptation", lgreco->identity));
    TRY(tacit__expect_number(&reader, "", "the number of layers", lgreco->layer_count));
    TRY(tacit__get_number(&reader, &loaded->steps));
    TRY(tacit__get_number(&reader, &loaded->counted));
    TRY(tacit__get_number(&reader, &report->plans));
    TRY(tacit__get_real(&reader, &report->uniform_bytes));
    TRY(tacit__get_real(&reader, &report->planned_bytes));
    TRY(tacit__get_real(&reader, &report->uniform_error));
    TRY(tacit__get_real(&reader, &report->planned_error));
    TRY(tacit__get_real(&reader, &report->plan_seconds));
    if (loaded->counted > 1) {
        status = tacit__state_damaged(&reader, "'counted' is neither 0 nor 1");
        goto out;
    }
    loaded->hash = hash_head(loaded->counted, report);
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        TRY(read_layer(&reader, lgreco, i, loaded));
    }
    TRY(tacit__state_end(&reader));
out:
    tacit__state_close(&reader);
    return status;
}

static void adopt(tacit_lgreco_t *lgreco, tacit_loaded_plan_t *loaded)
{
    lgreco->steps = loaded->steps;
    lgreco->counted = loaded->counted != 0;
    lgreco->report = loaded->report;
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        tacit_layer_t *layer = &lgreco->layers[i], *from = &loaded->layers[i];
        float         *sum = layer->sum;

        tacit__slot_adopt(layer->slot, &loaded->specs[i]);
        layer->norm_before = from->norm_before;
        layer->sum = from->sum;
        from->sum = sum;
    }
}

tacit_status_t tacit_lgreco_load(tacit_lgreco_t *lgreco, const char *path)
{
    char                text[TACIT_AGREEMENT_BYTES];
    tacit_loaded_plan_t loaded = {.layers = NULL};
    tacit_status_t      status, mine;

    if (lgreco == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "lgreco must be given");
    }
    status = tacit__comm_enter(lgreco->comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    mine = read_state(lgreco, path, &loaded);
    describe(loaded.steps, loaded.report.plans, loaded.hash, text, sizeof text);
    status = tacit__comm_agree(lgreco->comm, "tacit_lgreco_load", text, mine, loaded.capacity);
    if (status == TACIT_OK) {
        adopt(lgreco, &loaded);
    }
    tacit__comm_leave(lgreco->comm);
    release(lgreco, &loaded);
    return status;
}
