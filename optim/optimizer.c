/* SPDX-License-Identifier: Apache-2.0 */
/* Makes optimizers and runs their steps: one operation a step, in which ranks also agree that they are in the same one. */
#include "optimizer.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "operation.h"

/* ---- Create and destroy ---- */

static tacit_status_t no_memory(const tacit_comm_t *comm)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for an optimizer", comm->rank);
}

tacit_status_t tacit__optim_room(tacit_optim_t *optim, tacit_tensor_t *tensor, unsigned arrays)
{
    bool complete = (tensor->work = tacit__alloc(tensor->count, sizeof *tensor->work)) != NULL;

    for (unsigned i = 0; i < TACIT_OPTIM_ARRAYS; i++) {
        if (arrays & (1u << i)) {
            tensor->array[i] = tacit__alloc(tensor->count, sizeof *tensor->array[i]);
            complete = complete && tensor->array[i] != NULL;
        }
    }
    return complete ? TACIT_OK : no_memory(optim->comm);
}

/* Slots of one communicator, each once, float32 on the CPU. */
static tacit_status_t check_slots(const tacit_comm_t *comm, tacit_slot_t *const *slots, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (slots[i] == NULL || slots[i]->comm != comm) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot %zu of an optimizer is NULL or of another communicator",
                               comm->rank, i);
        }
        if (slots[i]->codec->tensor.dtype != TACIT_FLOAT32 || slots[i]->codec->tensor.device != TACIT_CPU) {
            return tacit__fail(TACIT_ERR_UNSUPPORTED,
                               "rank %d: slot '%s': optimizers work on float32 tensors of the CPU; make the slot of those",
                               comm->rank, slots[i]->codec->name);
        }
        for (size_t j = 0; j < i; j++) {
            if (slots[j] == slots[i]) {
                return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot '%s' is given twice to an optimizer", comm->rank,
                                   slots[i]->codec->name);
            }
        }
    }
    return TACIT_OK;
}

/* All that can be done without the other ranks. */
static tacit_status_t make(tacit_optim_t *optim, const char *spec, tacit_slot_t *const *slots, size_t count)
{
    tacit_status_t status;

    TRY(check_slots(optim->comm, slots, count));
    TRY(tacit__optimizer_parse(spec, &optim->kind, &optim->config, optim->canonical));
    optim->own_room = 3 * count + 1;
    optim->tensors = tacit__alloc(count, sizeof *optim->tensors);
    optim->notes = tacit__alloc(count, optim->kind->tensor_bytes);
    optim->factors = tacit__alloc(count, sizeof *optim->factors);
    optim->squares = tacit__alloc(count, sizeof *optim->squares);
    optim->norms = tacit__alloc(count, sizeof *optim->norms);
    optim->items = tacit__alloc(count, sizeof *optim->items);
    optim->own = tacit__alloc(optim->own_room, sizeof *optim->own);
    if (optim->tensors == NULL || optim->notes == NULL || optim->factors == NULL || optim->squares == NULL ||
        optim->norms == NULL || optim->items == NULL || optim->own == NULL) {
        status = no_memory(optim->comm);
        goto out;
    }
    optim->tensor_count = count;
    for (size_t i = 0; i < count; i++) {
        optim->tensors[i].slot = slots[i];
        optim->tensors[i].count = slots[i]->codec->tensor.count;
        optim->factors[i] = 1.0;
    }
    TRY(optim->kind->init(optim));
out:
    return status;
}

/* The communicator's ranks agree, with this one's status so far. */
static tacit_status_t agree(tacit_comm_t *comm, const char *what, const char *text, tacit_status_t mine)
{
    char           error[TACIT_TEXT_BYTES];
    tacit_status_t status;

    snprintf(error, sizeof error, "%s", tacit_last_error());
    status = tacit__comm_enter(comm, false);
    if (status == TACIT_OK) {
        status = tacit__comm_agree(comm, what, text, tacit__fail_text(mine, error), 0);
        tacit__comm_leave(comm);
    }
    return status;
}

/* All that ranks must have in common about an optimizer. */
static void describe(const tacit_optim_t *optim, char *text, size_t capacity)
{
    uint64_t hash = TACIT_HASH_START;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        hash = tacit__hash(hash, &optim->tensors[i].slot->codec->key.slot, sizeof hash);
    }
    snprintf(text, capacity, "%zu slots (names' hash %08" PRIx32 "), %s", optim->tensor_count, (uint32_t)hash, optim->canonical);
}

tacit_status_t tacit_optim_create(const char *spec, tacit_slot_t *const *slots, size_t slot_count, tacit_optim_t **optim_out)
{
    tacit_status_t status, mine;
    tacit_optim_t *optim = NULL;
    char           text[TACIT_AGREEMENT_BYTES];

    if (slots == NULL || slot_count == 0 || slots[0] == NULL || optim_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "an optimizer needs at least one slot, and optim_out");
    }
    optim = tacit__alloc(1, sizeof *optim);
    if (optim == NULL) {
        return agree(slots[0]->comm, "tacit_optim_create", "", no_memory(slots[0]->comm));
    }
    optim->comm = slots[0]->comm;
    optim->tie = (tacit_tie_t){&optim->comm, optim->comm->ties};
    optim->comm->ties = &optim->tie;
    mine = make(optim, spec, slots, slot_count);
    describe(optim, text, sizeof text);
    TRY(agree(optim->comm, "tacit_optim_create", text, mine));
    if (optim->kind->make_slots != NULL) {
        TRY(optim->kind->make_slots(optim));
    }
    tacit__log(TACIT_LOG_INFO, optim->comm->rank, "optim: %s", text);

    *optim_out = optim;
    optim = NULL; /* now the caller's */
out:
    tacit_optim_destroy(optim);
    return status;
}

static void untie(tacit_optim_t *optim)
{
    tacit_tie_t **link = &optim->comm->ties;

    while (*link != &optim->tie) {
        link = &(*link)->next;
    }
    *link = optim->tie.next;
}

void tacit_optim_destroy(tacit_optim_t *optim)
{
    if (optim == NULL) {
        return;
    }
    if (optim->comm != NULL) {
        untie(optim);
    }
    while (optim->comm != NULL && optim->own_count != 0) {
        tacit__optim_slot_destroy(optim, optim->own[optim->own_count - 1]);
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit__free(optim->tensors[i].work);
        for (size_t j = 0; j < TACIT_OPTIM_ARRAYS; j++) {
            tacit__free(optim->tensors[i].array[j]);
        }
    }
    tacit__free(optim->tensors);
    tacit__free(optim->notes);
    tacit__free(optim->factors);
    tacit__free(optim->squares);
    tacit__free(optim->norms);
    tacit__free(optim->items);
    tacit__free(optim->own);
    tacit__free(optim->config);
    tacit__free(optim);
}

/* ---- Own slots and counters ---- */

tacit_status_t tacit__optim_slot_create(tacit_optim_t *optim, const char *name, size_t count, const char *spec,
                                        tacit_slot_t **slot_out)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_status_t      status;

    config.count = count;
    config.spec = spec;
    TRY(tacit_slot_create(optim->comm, name, &config, slot_out));
    optim->own[optim->own_count++] = *slot_out;
out:
    return status;
}

tacit_status_t tacit__optim_warm_slot(tacit_optim_t *optim, const tacit_tensor_t *tensor, const char *spec, tacit_slot_t **slot)
{
    char name[512];

    snprintf(name, sizeof name, "%s/warm-up", tensor->slot->codec->name);
    return *slot != NULL ? TACIT_OK : tacit__optim_slot_create(optim, name, tensor->count, spec, slot);
}

static void add_counters(tacit_counters_t *sum, const tacit_counters_t *more)
{
    sum->calls += more->calls;
    sum->bytes_in += more->bytes_in;
    sum->wire_bytes += more->wire_bytes;
    sum->network_bytes += more->network_bytes;
    sum->dense_bytes += more->dense_bytes;
    sum->encode_seconds += more->encode_seconds;
    sum->wire_seconds += more->wire_seconds;
    sum->decode_seconds += more->decode_seconds;
}

void tacit__optim_slot_destroy(tacit_optim_t *optim, tacit_slot_t *slot)
{
    size_t kept = 0;

    if (slot == NULL) {
        return;
    }
    for (size_t i = 0; i < optim->own_count; i++) {
        if (optim->own[i] != slot) {
            optim->own[kept++] = optim->own[i];
        }
    }
    optim->own_count = kept;
    add_counters(&optim->past, &slot->counters);
    tacit_slot_destroy(slot);
}

tacit_status_t tacit_optim_counters(const tacit_optim_t *optim, tacit_counters_t *counters_out)
{
    tacit_counters_t sum;

    if (optim == NULL || counters_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "optim and counters_out must be given");
    }
    sum = optim->past;
    for (size_t i = 0; optim->comm != NULL && i < optim->own_count; i++) {
        add_counters(&sum, &optim->own[i]->counters);
    }
    *counters_out = sum;
    return TACIT_OK;
}

uint64_t tacit_optim_steps(const tacit_optim_t *optim)
{
    return optim != NULL ? optim->steps : 0;
}

int tacit_optim_together(const tacit_optim_t *optim)
{
    return optim != NULL && (optim->kind->apart == NULL || !optim->kind->apart(optim->numbers));
}

/* ---- A step ---- */

tacit_status_t tacit__optim_refuse(tacit_optim_t *optim, tacit_status_t fault)
{
    return agree(optim->comm, "tacit_optim_step", "", fault);
}

tacit_status_t tacit__optim_rescale(tacit_optim_t *optim, double factor)
{
    tacit_status_t status = TACIT_OK;
    size_t         done = 0;

    while (status == TACIT_OK && done < optim->tensor_count) {
        status = tacit_slot_rescale(optim->tensors[done].slot, factor);
        done += status == TACIT_OK;
    }
    if (status == TACIT_OK) {
        return status;
    }
    status = tacit__optim_refuse(optim, status);
    for (tacit_status_t back = TACIT_OK; back == TACIT_OK && done > 0; done--) {
        back = tacit_slot_rescale(optim->tensors[done - 1].slot, 1.0 / factor);
    }
    return status;
}

static void scale(float factor, size_t count, const float *restrict in, float *restrict out)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = factor * in[i];
    }
}

void tacit__optim_send_gradient(tacit_optim_t *optim, const tacit_step_t *step, size_t i, tacit_op_t op)
{
    const tacit_tensor_t *tensor = &optim->tensors[i];
    const float          *in = step->gradients[i];

    if (optim->factors[i] < 1.0) {
        scale((float)optim->factors[i], tensor->count, in, tensor->work);
        in = tensor->work;
    }
    tacit__optim_send(optim, tensor->slot, in, tensor->work, op);
}

void tacit__optim_send(tacit_optim_t *optim, tacit_slot_t *slot, const float *in, float *out, tacit_op_t op)
{
    optim->items[optim->item_count++] =
        (tacit_item_t){.slot = slot, .codec = slot->codec, .step = slot->step, .in = in, .out = out, .op = op};
}

static bool sum_fits(const float *values, size_t count, int ranks)
{
    const double most = (double)FLT_MAX / ranks;
    bool         fits = true;

    if (tacit__sum_squares(values, count) <= most * most) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        fits = fits && fabs((double)values[i]) <= most;
    }
    return fits;
}

/* Native calls look at no value: a NaN would stay in the moments for ever. Afterwards it is too late, as other slots' memory has
   changed: that the sum of all ranks is finite must follow from what each gives. */
static tacit_status_t check_native(const tacit_optim_t *optim)
{
    const tacit_comm_t *comm = optim->comm;

    for (size_t i = 0; i < optim->item_count && comm->config.nonfinite != TACIT_NONFINITE_PASS; i++) {
        const tacit_item_t *item = &optim->items[i];
        const size_t        count = item->codec->tensor.count;

        if (item->slot->schedule->framed) {
            continue;
        }
        if (!isfinite(tacit__sum_squares(item->in, count))) {
            return tacit__fail(TACIT_ERR_VALUE,
                               "rank %d: slot '%s' at step %" PRIu64 " holds NaN or infinity; no value was moved. Skip the step, "
                               "or set nonfinite to pass (it travels natively, where skip does nothing)",
                               comm->rank, item->codec->name, item->step);
        }
        if (!sum_fits(item->in, count, comm->ranks)) {
            return tacit__fail(TACIT_ERR_VALUE,
                               "rank %d: slot '%s': values are so large that the sum over %d ranks may not be finite; no value "
                               "was moved. Skip the step",
                               comm->rank, item->codec->name, comm->ranks);
        }
    }
    return TACIT_OK;
}

static bool any_framed(const tacit_optim_t *optim)
{
    bool framed = false;

    for (size_t i = 0; i < optim->item_count; i++) {
        framed = framed || optim->items[i].slot->schedule->framed;
    }
    return framed;
}

static tacit_status_t run(tacit_optim_t *optim, const char *text, tacit_status_t fault)
{
    tacit_comm_t      *comm = optim->comm;
    tacit_operation_t *operation;
    tacit_status_t     status;
    char               error[TACIT_TEXT_BYTES];

    snprintf(error, sizeof error, "%s", tacit_last_error());
    status = tacit__comm_enter(comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    (void)tacit__fail_text(fault, error);
    if (fault == TACIT_OK && comm->group_open) {
        fault = tacit__fail(TACIT_ERR_STATE, "rank %d: a group is open; end it before an optimizer's step", comm->rank);
    }
    TRY(tacit__operation_create(comm, "tacit_optim_step", optim->items, optim->item_count, fault, &operation));
    operation->text = text;
    TRY(tacit__operation_wait(operation));
    optim->past.wire_bytes += any_framed(optim) ? 0 : comm->exchange.bytes_sent;
out:
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit__optim_reduce(tacit_optim_t *optim, const tacit_step_t *step, tacit_status_t fault)
{
    char           text[128];
    tacit_status_t status;

    snprintf(text, sizeof text, "step %" PRIu64 " at rate %.17g of %s", optim->steps, step->rate, optim->kind->name);
    TRY(run(optim, text, fault == TACIT_OK ? check_native(optim) : fault));
out:
    optim->item_count = 0;
    return status;
}

static tacit_status_t check_step(const tacit_optim_t *optim, const tacit_step_t *step)
{
    const int rank = optim->comm->rank;

    if (step->values == NULL || step->gradients == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: tacit_optim_step: values and gradients must be given", rank);
    }
    if (!isfinite(step->rate) || step->rate < 0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: tacit_optim_step: the rate %g is not a number from 0 up", rank,
                           step->rate);
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        if (optim->tensors[i].count != 0 && (step->values[i] == NULL || step->gradients[i] == NULL)) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: tacit_optim_step: values or gradients of slot '%s' are NULL", rank,
                               optim->tensors[i].slot->codec->name);
        }
    }
    return TACIT_OK;
}

tacit_status_t tacit_optim_step(tacit_optim_t *optim, float *const *values, const float *const *gradients, double rate)
{
    const tacit_step_t step = {values, gradients, rate};
    tacit_status_t     status;

    if (optim == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "the optimizer is NULL");
    }
    if (optim->comm == NULL) {
        return tacit__fail(TACIT_ERR_STATE, "the communicator of this optimizer is destroyed; destroy the optimizer before it");
    }
    status = check_step(optim, &step);
    if (status != TACIT_OK) {
        return tacit__optim_refuse(optim, status);
    }
    if (optim->kind->arrange != NULL) {
        TRY(optim->kind->arrange(optim, &step));
    }
    TRY(tacit__optim_reduce(optim, &step, optim->kind->prepare(optim, &step)));
    optim->kind->apply(optim, &step);
    optim->steps++;
out:
    return status;
}

/* ---- Norms ---- */

enum { LANES = 8 }; /* as many partial sums: the compiler keeps them in vectors, and the order stays this one */

static double total(double lanes[LANES])
{
    for (size_t width = LANES / 2; width != 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

double tacit__sum(const float *values, size_t count)
{
    double lanes[LANES] = {0.0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            lanes[j] += (double)values[i + j];
        }
    }
    for (size_t j = 0; i + j < count; j++) {
        lanes[j] += (double)values[i + j];
    }
    return total(lanes);
}

double tacit__sum_squares(const float *values, size_t count)
{
    double lanes[LANES] = {0.0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            lanes[j] += (double)values[i + j] * (double)values[i + j];
        }
    }
    for (size_t j = 0; i + j < count; j++) {
        lanes[j] += (double)values[i + j] * (double)values[i + j];
    }
    return total(lanes);
}

double tacit__finite_squares(const float *values, size_t count)
{
    double sum = tacit__sum_squares(values, count);

    if (isfinite(sum)) {
        return sum;
    }
    sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += isfinite(values[i]) ? (double)values[i] * (double)values[i] : 0.0;
    }
    return sum;
}

/* factors[] from squares[], of norms that are clipped as tacit_clip_factor() says. */
static void set_factors(tacit_optim_t *optim, int ranks, tacit_clip_t convention)
{
    const tacit_clipping_t *clipping = optim->config;
    double                  all = 0.0;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        all += optim->squares[i];
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        optim->factors[i] =
            tacit_clip_factor(sqrt(clipping->scope == 0 ? all : optim->squares[i]), clipping->threshold, ranks, convention);
    }
}

/* Whether a slot remembers what it was given. */
static bool any_remembers(const tacit_optim_t *optim)
{
    bool remembers = false;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        remembers = remembers || optim->tensors[i].slot->codec->feedback != NULL;
    }
    return remembers;
}

static void clip_nothing(tacit_optim_t *optim)
{
    for (size_t i = 0; i < optim->tensor_count; i++) {
        optim->factors[i] = 1.0;
    }
}

void tacit__optim_clip_before(tacit_optim_t *optim, const tacit_step_t *step, tacit_clip_t convention)
{
    const tacit_clipping_t *clipping = optim->config;

    if (clipping->threshold == 0) {
        return; /* the factors are 1 from the beginning */
    }
    if (!any_remembers(optim)) {
        clip_nothing(optim);
        return;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        optim->squares[i] = tacit__finite_squares(step->gradients[i], optim->tensors[i].count);
    }
    set_factors(optim, optim->comm->ranks, convention);
}

void tacit__optim_clip_after(tacit_optim_t *optim)
{
    (any_remembers(optim) ? clip_nothing : tacit__optim_clip_reduced)(optim);
}

void tacit__optim_clip_reduced(tacit_optim_t *optim)
{
    const tacit_clipping_t *clipping = optim->config;

    if (clipping->threshold == 0) {
        return;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        optim->squares[i] = tacit__finite_squares(optim->tensors[i].work, optim->tensors[i].count);
    }
    set_factors(optim, 1, TACIT_CLIP_MEAN);
}

tacit_status_t tacit__optim_norms_slot(tacit_optim_t *optim)
{
    const tacit_clipping_t *clipping = optim->config;
    char                    name[512];

    if (clipping->threshold == 0 || optim->norms_slot != NULL) {
        return TACIT_OK;
    }
    snprintf(name, sizeof name, "%s/norms", optim->tensors[0].slot->codec->name);
    return tacit__optim_slot_create(optim, name, clipping->scope == 0 ? 1 : optim->tensor_count, "none", &optim->norms_slot);
}

tacit_status_t tacit__optim_clip_local(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_clipping_t *clipping = optim->config;
    tacit_status_t          status = TACIT_OK;
    double                  all = 0.0;

    if (clipping->threshold == 0) {
        return TACIT_OK;
    }
    for (size_t i = 0; i < optim->tensor_count; i++) {
        optim->squares[i] = tacit__finite_squares(step->gradients[i], optim->tensors[i].count);
        optim->norms[i] = (float)optim->squares[i];
        all += optim->squares[i];
    }
    if (clipping->scope == 0) {
        optim->norms[0] = (float)all;
    }
    tacit__optim_send(optim, optim->norms_slot, optim->norms, optim->norms, TACIT_AVERAGE);
    TRY(tacit__optim_reduce(optim, step, TACIT_OK));
    for (size_t i = 0; i < optim->tensor_count; i++) {
        const double square = (double)optim->norms[clipping->scope == 0 ? 0 : i];

        optim->factors[i] = tacit_clip_factor(sqrt(square), clipping->threshold, optim->comm->ranks, TACIT_CLIP_MEAN);
    }
out:
    return status;
}

double tacit__power(double base, uint64_t exponent)
{
    double result = 1.0;

    for (; exponent != 0; exponent /= 2) {
        result *= exponent % 2 != 0 ? base : 1.0;
        base *= base;
    }
    return result;
}
