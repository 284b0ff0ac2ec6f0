/* SPDX-License-Identifier: Apache-2.0 */
/* Layerwise adaptation of slots (Alimohammadi et al., "L-GreCo", MLSys 2024): gathers what is to be encoded, lets every rank
   measure every option, plans on the mean over ranks, and gives slots their new parameters. Unlike the authors' program, which
   measures on rank 0 alone, all ranks are heard: their data may differ. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lgreco.h"
#include "operation.h"

enum { DEFAULT_EVERY = 100, DEFAULT_GATHER = 10 };

static const double most_range = 1e6;

/* ---- Configuration ---- */

static tacit_status_t complete_config(tacit_lgreco_config_t *config, const tacit_lgreco_config_t *given)
{
    *config = (tacit_lgreco_config_t)TACIT_LGRECO_CONFIG_INIT;
    if (given != NULL && (given->struct_bytes < sizeof *config || given->struct_bytes > 4096)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: struct_bytes is %zu; begin with TACIT_LGRECO_CONFIG_INIT",
                           given->struct_bytes);
    }
    if (given != NULL) {
        memcpy(config, given, sizeof *config);
    }
    config->alpha = config->alpha != 0 ? config->alpha : 1;
    config->every = config->every != 0 ? config->every : DEFAULT_EVERY;
    config->gather = config->gather != 0 ? config->gather : config->every < DEFAULT_GATHER ? config->every : DEFAULT_GATHER;
    if (!isfinite(config->alpha) || config->alpha < 0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: alpha %g must be finite and above 0", config->alpha);
    }
    if (config->gather > config->every) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: gather %" PRIu64 " is more than every %" PRIu64 " steps", config->gather,
                           config->every);
    }
    if (config->low != 0 && !(config->low >= 1 / most_range && config->low <= 1)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: low %g is not from %g to 1", config->low, 1 / most_range);
    }
    if (config->high != 0 && !(config->high >= 1 && config->high <= most_range)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: high %g is not from 1 to %g", config->high, most_range);
    }
    if (!isfinite(config->link_rate) || config->link_rate < 0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: link_rate %g must be finite and not negative", config->link_rate);
    }
    return TACIT_OK;
}

/* ---- Create and destroy ---- */

static tacit_status_t check_slots(tacit_slot_t *const *slots, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (slots[i] == NULL || slots[i]->comm != slots[0]->comm) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "slots[%zu] is NULL or of another communicator than slots[0]", i);
        }
        if (slots[i]->codec->tensor.dtype != TACIT_FLOAT32 || slots[i]->codec->tensor.device != TACIT_CPU) {
            return tacit__fail(TACIT_ERR_UNSUPPORTED, "slot '%s' is not float32 on the CPU, as gradients to adapt by are",
                               slots[i]->codec->name);
        }
        for (size_t j = 0; j < i; j++) {
            if (slots[j] == slots[i]) {
                return tacit__fail(TACIT_ERR_ARGUMENT, "slot '%s' is given twice", slots[i]->codec->name);
            }
        }
    }
    return TACIT_OK;
}

static tacit_status_t init(tacit_lgreco_t *lgreco, tacit_slot_t *const *slots, const tacit_lgreco_config_t *config)
{
    tacit_status_t status;

    TRY(complete_config(&lgreco->config, config));
    TRY(check_slots(slots, lgreco->slot_count));
    lgreco->layers = tacit__alloc(lgreco->slot_count, sizeof *lgreco->layers);
    if (lgreco->layers == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "no memory to adapt %zu slots", lgreco->slot_count);
        goto out;
    }
    for (size_t i = 0; i < lgreco->slot_count; i++) {
        tacit_layer_t *layer = &lgreco->layers[lgreco->layer_count];

        lgreco->layer_count++; /* freed, whatever comes */
        TRY(tacit__layer_init(layer, slots[i], i, &lgreco->config));
        lgreco->layer_count -= layer->option_count == 0;
        lgreco->options = layer->option_count > lgreco->options ? layer->option_count : lgreco->options;
    }
out:
    return status;
}

/* All that ranks must have in common: the slots themselves have been agreed on. */
static void describe(tacit_lgreco_t *lgreco, tacit_slot_t *const *slots)
{
    const tacit_lgreco_config_t *config = &lgreco->config;
    uint64_t                     hash = TACIT_HASH_START;

    for (size_t i = 0; i < lgreco->slot_count && slots[i] != NULL; i++) {
        hash = tacit__hash(hash, &slots[i]->codec->key.slot, sizeof slots[i]->codec->key.slot);
    }
    snprintf(lgreco->identity, sizeof lgreco->identity,
             "%zu slots with hash %016" PRIx64 ", %zu of them adapted; alpha %a, every %" PRIu64 ", gather %" PRIu64
             ", low %a, high %a, squared %d, accordion %d, link_rate %a",
             lgreco->slot_count, hash, lgreco->layer_count, config->alpha, config->every, config->gather, config->low,
             config->high, config->squared != 0, config->accordion != 0, config->link_rate);
}

tacit_status_t tacit_lgreco_create(tacit_slot_t *const *slots, size_t slot_count, const tacit_lgreco_config_t *config,
                                   tacit_lgreco_t **lgreco_out)
{
    tacit_status_t  status, mine;
    tacit_lgreco_t *lgreco = NULL;
    tacit_comm_t   *comm;

    if (slots == NULL || slot_count == 0 || slots[0] == NULL || lgreco_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slots, at least one, and lgreco_out must be given");
    }
    comm = slots[0]->comm;
    status = tacit__comm_enter(comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    lgreco = tacit__alloc(1, sizeof *lgreco);
    if (lgreco == NULL) {
        mine = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for layerwise adaptation", comm->rank);
        TRY(tacit__comm_agree(comm, "tacit_lgreco_create", "", mine, 0));
    }
    lgreco->comm = comm;
    lgreco->slot_count = slot_count;
    mine = init(lgreco, slots, config);
    describe(lgreco, slots);
    TRY(tacit__comm_agree(comm, "tacit_lgreco_create", lgreco->identity, mine, 0));
    tacit__log(TACIT_LOG_INFO, comm->rank, "lgreco: %s", lgreco->identity);
    if (lgreco->layer_count == 0 && comm->rank == 0) {
        tacit__log(
            TACIT_LOG_WARN, comm->rank,
            "lgreco: none of %zu slots has anything to choose: adapted are topk, randk, qsgd, rotq and powersgd, in tensors "
            "that they compress; slot '%s' is '%s'",
            slot_count, slots[0]->codec->name, tacit_slot_spec(slots[0]));
    }

    *lgreco_out = lgreco;
    lgreco = NULL; /* now the caller's */
out:
    tacit_lgreco_destroy(lgreco);
    tacit__comm_leave(comm);
    return status;
}

void tacit_lgreco_destroy(tacit_lgreco_t *lgreco)
{
    if (lgreco == NULL) {
        return;
    }
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        tacit__layer_release(&lgreco->layers[i]);
    }
    tacit__free(lgreco->layers);
    tacit__free(lgreco);
}

/* ---- Gathering ---- */

static void forget_sums(tacit_lgreco_t *lgreco)
{
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        tacit__free(lgreco->layers[i].sum);
        lgreco->layers[i].sum = NULL;
    }
}

static tacit_status_t make_sums(tacit_lgreco_t *lgreco)
{
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        tacit_layer_t *layer = &lgreco->layers[i];

        layer->sum = tacit__alloc(layer->slot->codec->tensor.count, sizeof *layer->sum);
        if (layer->sum == NULL) {
            forget_sums(lgreco);
            return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory to gather its gradients", layer->slot->codec->name);
        }
    }
    return TACIT_OK;
}

/* What this rank alone can see. */
static tacit_status_t check_gradients(const tacit_lgreco_t *lgreco, const float *const *gradients)
{
    if (lgreco->comm->group_open || lgreco->comm->queue != NULL) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: observe gradients when no request or group is open", lgreco->comm->rank);
    }
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];

        if (gradients == NULL || gradients[layer->index] == NULL) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot '%s': its gradient is NULL", lgreco->comm->rank,
                               layer->slot->codec->name);
        }
    }
    return TACIT_OK;
}

/* Ranks meet at the first step that is gathered, and *common_out is what they agree on; the next time is at the plan. */
static tacit_status_t gather(tacit_lgreco_t *lgreco, const float *const *gradients, bool *common_out)
{
    tacit_status_t status = tacit__comm_enter(lgreco->comm, false), mine;

    *common_out = status != TACIT_OK || lgreco->layers[0].sum == NULL;
    if (status != TACIT_OK) {
        return status;
    }
    mine = check_gradients(lgreco, gradients);
    if (*common_out) {
        mine = mine == TACIT_OK ? make_sums(lgreco) : mine;
        status = tacit__comm_agree(lgreco->comm, "tacit_lgreco_observe", "gather", mine, 0);
        if (status != TACIT_OK) {
            forget_sums(lgreco);
        }
    } else {
        status = mine;
    }
    TRY(status);
    for (size_t i = 0; i < lgreco->layer_count && !lgreco->counted; i++) {
        tacit__layer_gather(&lgreco->layers[i], gradients[lgreco->layers[i].index]);
    }
    lgreco->counted = true;
out:
    tacit__comm_leave(lgreco->comm);
    return status;
}

/* ---- Planning ---- */

/* Fills in this rank's part of measured. */
static tacit_status_t measure(const tacit_lgreco_t *lgreco, tacit_plan_t *plan)
{
    double         errors[TACIT_LAYER_OPTIONS], seconds[TACIT_LAYER_OPTIONS], norm;
    tacit_status_t status = TACIT_OK;

    for (size_t i = 0; i < lgreco->layer_count; i++) {
        TRY(tacit__layer_measure(&lgreco->layers[i], &norm, errors, tacit__plan_is_timed(lgreco) ? seconds : NULL));
        tacit__plan_put(plan, lgreco, lgreco->comm->rank, i, norm, errors, seconds);
    }
out:
    return status;
}

/* All ranks get what each has measured: summed with zeros, it is exact in any order. The slot lives no longer than that, so that
   it is in no saved state. */
static tacit_status_t exchange(const tacit_lgreco_t *lgreco, tacit_plan_t *plan)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot = NULL;
    tacit_status_t      status;

    config.count = (size_t)lgreco->comm->ranks * plan->width;
    config.spec = "none";
    TRY(tacit_slot_create(lgreco->comm, "tacit lgreco", &config, &slot));
    TRY(tacit_allreduce(slot, plan->measured, plan->measured, TACIT_SUM));
out:
    tacit_slot_destroy(slot);
    return status;
}

/* All slots get their specs, or none does. */
static tacit_status_t apply(tacit_lgreco_t *lgreco, tacit_plan_t *plan, bool kept, tacit_status_t mine)
{
    tacit_status_t status = tacit__comm_enter(lgreco->comm, false);
    uint64_t       hash = TACIT_HASH_START;
    size_t         capacity = 0;
    char           text[TACIT_AGREEMENT_BYTES];

    if (status != TACIT_OK) {
        return status;
    }
    for (size_t i = 0; i < lgreco->layer_count && !kept && mine == TACIT_OK; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];
        char                 spec[TACIT_SPEC_BYTES];

        hash = tacit__hash(hash, &plan->choices[i], sizeof plan->choices[i]);
        mine = tacit__layer_spec(layer, plan->choices[i], spec); /* others may have set another one since the last plan */
        mine = mine == TACIT_OK ? tacit__slot_prepare(layer->slot, spec, &plan->specs[i], &capacity) : mine;
    }
    snprintf(text, sizeof text, "step %" PRIu64 ": %s with hash %016" PRIx64, lgreco->steps, kept ? "no plan" : "a plan", hash);
    TRY(tacit__comm_agree(lgreco->comm, "tacit_lgreco_observe", text, mine, capacity));
    for (size_t i = 0; i < lgreco->layer_count && !kept; i++) {
        tacit__slot_adopt(lgreco->layers[i].slot, &plan->specs[i]);
        lgreco->layers[i].norm_before = plan->norms[i];
    }
out:
    tacit__comm_leave(lgreco->comm);
    return status;
}

static void report(tacit_lgreco_t *lgreco, const tacit_plan_t *plan, double seconds)
{
    tacit_lgreco_report_t *to = &lgreco->report;
    double                 uniform = 0.0, planned = 0.0;

    *to = (tacit_lgreco_report_t){.plans = to->plans + 1, .plan_seconds = seconds};
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const size_t was = i * lgreco->options + plan->reference[i], is = i * lgreco->options + plan->choices[i];

        to->uniform_bytes += plan->bytes[was];
        to->planned_bytes += plan->bytes[is];
        to->uniform_error += plan->errors[was];
        to->planned_error += plan->errors[is];
        uniform += plan->sizes[was];
        planned += plan->sizes[is];
    }
    assert(lgreco->config.alpha < 1 || planned <= uniform);
    assert(to->planned_error <=
           lgreco->config.alpha * to->uniform_error * (1 + (double)(lgreco->layer_count + 1) / TACIT_PLAN_STEPS));
    tacit__log(TACIT_LOG_INFO, lgreco->comm->rank,
               "lgreco: plan %" PRIu64 ": %.0f bytes a step, uniform %.0f; error %g, uniform %g; size %g of %g; took %.3g s",
               to->plans, to->planned_bytes, to->uniform_bytes, to->planned_error, to->uniform_error, planned, uniform, seconds);
}

/* With what this rank has met with so far: all ranks fail where one has. */
static tacit_status_t make_plan(tacit_lgreco_t *lgreco, tacit_status_t mine)
{
    const double   began = tacit__seconds();
    tacit_plan_t   plan = {0};
    bool           kept = false;
    tacit_status_t status = tacit__comm_enter(lgreco->comm, false);

    if (status != TACIT_OK) {
        return status;
    }
    mine = mine == TACIT_OK ? tacit__plan_init(&plan, lgreco) : mine;
    mine = mine == TACIT_OK ? measure(lgreco, &plan) : mine;
    status = tacit__comm_agree(lgreco->comm, "tacit_lgreco_observe", "measured", mine, 0);
    tacit__comm_leave(lgreco->comm);
    TRY(status);
    TRY(exchange(lgreco, &plan));
    mine = tacit__plan_choose(lgreco, &plan, &kept);
    TRY(apply(lgreco, &plan, kept, mine));
    if (!kept) {
        report(lgreco, &plan, tacit__seconds() - began);
    }
    forget_sums(lgreco);
out:
    tacit__plan_release(&plan, lgreco->layer_count);
    return status;
}

tacit_status_t tacit_lgreco_observe(tacit_lgreco_t *lgreco, const float *const *gradients)
{
    tacit_status_t status = TACIT_OK, mine = TACIT_OK;
    uint64_t       position;
    bool           common, last;

    if (lgreco == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "lgreco must be given");
    }
    position = lgreco->steps % lgreco->config.every;
    last = position == lgreco->config.every - 1;
    if (lgreco->layer_count != 0 && position >= lgreco->config.every - lgreco->config.gather) {
        mine = gather(lgreco, gradients, &common);
        if (mine != TACIT_OK && (common || !last)) { /* else the others wait at the plan to hear of it */
            return mine;
        }
    }
    if (lgreco->layer_count != 0 && last) {
        TRY(make_plan(lgreco, mine));
    }
    lgreco->steps++;
    lgreco->counted = false;
out:
    return status;
}

tacit_status_t tacit_lgreco_report(const tacit_lgreco_t *lgreco, tacit_lgreco_report_t *report_out)
{
    if (lgreco == NULL || report_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "lgreco and report_out must be given");
    }
    *report_out = lgreco->report;
    return TACIT_OK;
}
