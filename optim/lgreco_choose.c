/* SPDX-License-Identifier: Apache-2.0 */
/* From what all ranks have measured to an option for each layer, the same on all of them. */
#include <math.h>
#include <string.h>

#include "lgreco.h"

enum { NORM_FLOATS = 4 };

static const double accordion_threshold = 0.5; /* of the relative change of a norm */

/* ---- What ranks measure ---- */

void tacit__plan_release(tacit_plan_t *plan, size_t layers)
{
    for (size_t i = 0; i < layers && plan->specs != NULL; i++) {
        tacit__specs_release(&plan->specs[i]);
    }
    tacit__free(plan->specs);
    tacit__free(plan->measured);
    tacit__free(plan->errors);
    tacit__free(plan->bytes);
    tacit__free(plan->sizes);
    tacit__free(plan->norms);
    tacit__free(plan->reference);
    tacit__free(plan->choices);
}

bool tacit__plan_is_timed(const tacit_lgreco_t *lgreco)
{
    return lgreco->config.link_rate != 0;
}

/* Floats of one layer: its norm, relative errors, and seconds if they count. */
static size_t layer_floats(const tacit_lgreco_t *lgreco)
{
    return NORM_FLOATS + (tacit__plan_is_timed(lgreco) ? 2 : 1) * lgreco->options;
}

tacit_status_t tacit__plan_init(tacit_plan_t *plan, const tacit_lgreco_t *lgreco)
{
    const size_t layers = lgreco->layer_count, cells = layers * lgreco->options;

    plan->width = layers * layer_floats(lgreco);
    plan->measured = tacit__alloc((size_t)lgreco->comm->ranks * plan->width, sizeof *plan->measured);
    plan->errors = tacit__alloc(cells, sizeof *plan->errors);
    plan->bytes = tacit__alloc(cells, sizeof *plan->bytes);
    plan->sizes = tacit__alloc(cells, sizeof *plan->sizes);
    plan->norms = tacit__alloc(layers, sizeof *plan->norms);
    plan->reference = tacit__alloc(layers, sizeof *plan->reference);
    plan->choices = tacit__alloc(layers, sizeof *plan->choices);
    plan->specs = tacit__alloc(layers, sizeof *plan->specs);
    return plan->measured != NULL && plan->errors != NULL && plan->bytes != NULL && plan->sizes != NULL && plan->norms != NULL &&
                   plan->reference != NULL && plan->choices != NULL && plan->specs != NULL
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to plan %zu layers", lgreco->comm->rank, layers);
}

/* 16 bits each: float32 holds them, and sums with zeros, exactly. */
static void put_norm(double norm, float floats[NORM_FLOATS])
{
    uint64_t bits;

    memcpy(&bits, &norm, sizeof bits);
    for (int i = 0; i < NORM_FLOATS; i++) {
        floats[i] = (float)(bits >> 16 * i & 0xffff);
    }
}

static double get_norm(const float floats[NORM_FLOATS])
{
    uint64_t bits = 0;
    double   norm;

    for (int i = 0; i < NORM_FLOATS; i++) {
        bits |= (uint64_t)floats[i] << 16 * i;
    }
    memcpy(&norm, &bits, sizeof norm);
    return norm;
}

void tacit__plan_put(tacit_plan_t *plan, const tacit_lgreco_t *lgreco, int rank, size_t layer, double norm, const double *errors,
                     const double *seconds)
{
    float *at = plan->measured + (size_t)rank * plan->width + layer * layer_floats(lgreco);

    put_norm(norm, at);
    at += NORM_FLOATS;
    for (size_t option = 0; option < lgreco->layers[layer].option_count && norm > 0 && isfinite(norm); option++) {
        at[option] = (float)(errors[option] / norm);
        if (tacit__plan_is_timed(lgreco)) {
            at[lgreco->options + option] = (float)seconds[option];
        }
    }
}

/* ---- Choosing ---- */

/* Bytes that leave a rank in one operation, headers aside: a sparse message goes to all others, the rest is reduced where it is
   owned. One rank alone counts as two. */
static double wire_bytes(const tacit_layer_t *layer, size_t option, int ranks)
{
    const double others = ranks > 2 ? ranks - 1 : 1;

    return layer->options[option].bytes * others * (layer->kind == TACIT_LAYER_SPARSE ? 1.0 : 2.0 / (others + 1.0));
}

/* The tables that all ranks have alike, from means over ranks, in their order. */
static void fill_tables(const tacit_lgreco_t *lgreco, tacit_plan_t *plan)
{
    const size_t options = lgreco->options;
    const int    ranks = lgreco->comm->ranks;

    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];
        const float         *rank_0 = plan->measured + i * layer_floats(lgreco);

        for (int rank = 0; rank < ranks; rank++) {
            plan->norms[i] += get_norm(rank_0 + (size_t)rank * plan->width) / ranks;
        }
        for (size_t cell = i * options, option = 0; option < options; cell++, option++) {
            const size_t own = tacit__min(option, layer->option_count - 1);
            double       seconds = 0.0;

            for (int rank = 0; rank < ranks; rank++) {
                const float *at = rank_0 + (size_t)rank * plan->width;
                const double error = get_norm(at) * (double)at[NORM_FLOATS + own];

                plan->errors[cell] += (lgreco->config.squared ? error * error : error) / ranks;
                seconds += tacit__plan_is_timed(lgreco) ? (double)at[NORM_FLOATS + options + own] / ranks : 0.0;
            }
            plan->bytes[cell] = wire_bytes(layer, own, ranks);
            plan->sizes[cell] =
                tacit__plan_is_timed(lgreco) ? plan->bytes[cell] / lgreco->config.link_rate + seconds : plan->bytes[cell];
        }
    }
}

/* The slot's own setting, or what Accordion would choose: the densest where the norm has changed much, or for the first time,
   else the sparsest. */
static void set_reference(const tacit_lgreco_t *lgreco, tacit_plan_t *plan)
{
    for (size_t i = 0; i < lgreco->layer_count; i++) {
        const tacit_layer_t *layer = &lgreco->layers[i];
        const double         change = fabs(layer->norm_before - plan->norms[i]);

        plan->reference[i] = layer->reference;
        if (lgreco->config.accordion) {
            plan->reference[i] = change < accordion_threshold * layer->norm_before ? 0 : layer->option_count - 1;
        }
    }
}

/* Nothing to go by: all gradients were zero, or some overflowed. */
static bool is_blind(const tacit_lgreco_t *lgreco, const tacit_plan_t *plan)
{
    double total = 0.0;

    for (size_t i = 0; i < lgreco->layer_count; i++) {
        total += plan->norms[i];
    }
    return !isfinite(total) || total == 0.0;
}

tacit_status_t tacit__plan_choose(const tacit_lgreco_t *lgreco, tacit_plan_t *plan, bool *kept_out)
{
    tacit_status_t status;

    fill_tables(lgreco, plan);
    *kept_out = is_blind(lgreco, plan);
    if (*kept_out) {
        tacit__log(TACIT_LOG_WARN, lgreco->comm->rank, "lgreco: gradients were all zero, or not finite: the last plan is kept");
        return TACIT_OK;
    }
    set_reference(lgreco, plan);
    status = tacit_lgreco_plan(plan->errors, plan->sizes, lgreco->layer_count, lgreco->options, plan->reference,
                               lgreco->config.alpha, plan->choices);
    if (status == TACIT_ERR_ARGUMENT) {
        tacit__log(TACIT_LOG_WARN, lgreco->comm->rank, "lgreco: %s: the last plan is kept", tacit_last_error());
        *kept_out = true;
        status = TACIT_OK;
    }
    return status;
}
