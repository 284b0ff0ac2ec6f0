/* SPDX-License-Identifier: Apache-2.0 */
/* Slots: registered tensors with their codecs, steps and counters. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "automatic.h"
#include "codec_memory.h"
#include "operation.h"
#include "parts.h"
#include "progress.h"
#include "staging.h"

/* A chunk, one block if that is larger, or a part that is never cut; on a GPU, a piece of a message. */
size_t tacit__slot_message_bytes(const tacit_comm_t *comm, tacit_device_t device, const tacit_spec_t *spec, size_t count)
{
    const tacit_compressor_t *compressor = spec->compressor;
    const void               *config = spec->compressor_config;
    size_t                    payload = comm->config.chunk_bytes;
    size_t                    least = 0;

    if (device == TACIT_CUDA) {
        return TACIT_FRAME_HEADER_BYTES + tacit__piece_bytes(payload);
    }
    if (compressor->select != NULL) {
        least = 32 + compressor->select->bound(config, count, tacit__min(1, count));
    } else if (compressor->linear == NULL) {
        least = compressor->bound(config, compressor->grain(config) == 0 ? count : compressor->grain(config));
    }
    return TACIT_FRAME_HEADER_BYTES + (payload > least ? payload : least);
}

static bool name_is_taken(const tacit_comm_t *comm, const char *name)
{
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        if (slot->codec->key.slot == tacit__hash_text(name)) {
            return true;
        }
    }
    return false;
}

/* What there is once a communicator, and once a slot, for tensors on a GPU. */
static tacit_status_t make_device(tacit_comm_t *comm, const char *name, tacit_slot_t *slot)
{
    tacit_status_t status;

    if (slot->codec->other.compressor != NULL) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED,
                           "rank %d: slot '%s', '%s': on GPUs memory begins at zero; leave out init=gradient", comm->rank, name,
                           slot->codec->given.text);
    }
    TRY(comm->staging == NULL ? tacit__staging_create(comm->rank, comm->config.chunk_bytes, &comm->staging)
                              : tacit__staging_is_here(comm->staging));
    TRY(tacit__staging_check(comm->staging, comm->staging->module->create_event(&slot->given), "an event"));
out:
    return status;
}

static tacit_status_t make(tacit_comm_t *comm, const char *name, const tacit_slot_config_t *config, tacit_slot_t *slot)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    const bool          disabled = comm->environment.disable != 0;
    tacit_spec_t        given = {0};
    tacit_status_t      status;

    if (name == NULL || config == NULL || config->struct_bytes < sizeof tensor || config->struct_bytes > 4096) {
        return tacit__fail(TACIT_ERR_ARGUMENT,
                           "rank %d: slot '%s': name and config must be given (begin with TACIT_SLOT_CONFIG_INIT)", comm->rank,
                           name != NULL ? name : "(null)");
    }
    if (name[0] == '\0' || strlen(name) > 255) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: a slot's name has 1 to 255 bytes, not %zu", comm->rank, strlen(name));
    }
    if (name_is_taken(comm, name)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: there is a slot '%s' already (or one whose name has the same hash)",
                           comm->rank, name);
    }
    memcpy(&tensor, config, tacit__min(config->struct_bytes, sizeof tensor));
    tensor.spec = tensor.spec != NULL ? tensor.spec : comm->config.spec;
    status = tacit__spec_parse(tensor.spec, &given);
    if (status == TACIT_OK) {
        tensor.spec = disabled || given.automatic ? "none" : tensor.spec;
        status = tacit__codec_create(name, &tensor, &comm->config, comm->rank, comm->ranks, &slot->codec);
    }
    if (status == TACIT_OK && (disabled || given.automatic)) { /* optimizers still go by it; automatic.h does */
        tacit__spec_release(&slot->codec->given);
        slot->codec->given = given;
    } else {
        tacit__spec_release(&given);
    }
    if (status != TACIT_OK) {
        char text[TACIT_TEXT_BYTES];

        snprintf(text, sizeof text, "%s", tacit_last_error());
        return status == TACIT_ERR_SPEC ? tacit__fail(status, "rank %d: slot '%.80s': %.400s", comm->rank, name, text)
                                        : tacit__fail(status, "rank %d: %.480s", comm->rank, text);
    }
    slot->comm = comm;
    slot->schedule = tacit__schedule_of(comm, slot->codec);
    if (slot->codec->module != NULL) {
        return make_device(comm, name, slot);
    }
    if (slot->schedule == NULL) {
        status = tacit__fail(TACIT_ERR_UNSUPPORTED, "rank %d: slot '%s': no schedule carries '%s'", comm->rank, name,
                             slot->codec->spec.text);
    }
    return status;
}

void tacit__slot_go_by(tacit_slot_t *slot, const tacit_schedule_t *schedule)
{
    const tacit_comm_t     *comm = slot->comm;
    const tacit_topology_t *topology = schedule->levels ? comm->topology : comm->flat;
    tacit_codec_t          *codec = slot->codec;
    const int               rail = topology->rail_of[comm->rank];

    slot->schedule = schedule;
    codec->leaders = schedule->levels ? tacit__topology_hash(topology) : 0;
    codec->range = rail < 0 ? (tacit_range_t){0} : tacit__rail_range(codec, rail, topology->rails);
    codec->owners = (uint32_t)topology->hosts;
    codec->own = (uint32_t)topology->host_of[comm->rank];
}

/* All that ranks must have in common about a slot. */
static void describe(const tacit_slot_t *slot, const char *name, char *text, size_t capacity)
{
    if (slot->codec == NULL) {
        snprintf(text, capacity, "slot '%.255s'", name != NULL ? name : "");
        return;
    }
    tacit__codec_describe(slot->codec, text, capacity);
    if (slot->codec->module != NULL) {
        const size_t used = strlen(text);

        snprintf(text + used, capacity - used, ", on a GPU");
    }
}

/* An automatic spec with an error has a compressor chosen; one that is in no slot yet, or takes the place of the slot's. So has
   one that ends compression. */
static bool chooses(const tacit_slot_t *slot, const tacit_spec_t *spec)
{
    const bool automatic = spec->automatic && (spec->error > 0 || slot->codec->given.error > 0);

    return (automatic || tacit__codec_ends(slot->codec, spec)) && slot->comm->environment.disable == 0;
}

/* A buffer of many tensors that was given a shape of one dimension would never be compressed, without a word. */
static void warn_of_dense(const tacit_slot_t *slot)
{
    const tacit_codec_t *codec = slot->codec;
    const size_t         large = (size_t)1 << 20;

    if (slot->comm->rank == 0 && codec->feedback != NULL && codec->feedback == codec->given.feedback->dense &&
        codec->tensor.ndim == 1 && codec->tensor.count > large) {
        tacit__log(TACIT_LOG_WARN, 0,
                   "slot '%s': %zu elements stay dense because '%s' leaves tensors of one dimension so; for a buffer of many "
                   "tensors leave ndim 0, or set dense=0",
                   codec->name, codec->tensor.count, codec->feedback->name);
    }
}

tacit_status_t tacit_slot_create(tacit_comm_t *comm, const char *name, const tacit_slot_config_t *config, tacit_slot_t **slot_out)
{
    tacit_status_t status, mine;
    tacit_slot_t  *slot = NULL;
    tacit_slot_t **last;
    char           text[TACIT_AGREEMENT_BYTES];

    if (slot_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot_out must be given");
    }
    status = tacit__comm_enter(comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    slot = tacit__alloc(1, sizeof *slot);
    if (slot == NULL) {
        mine = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a slot", comm->rank);
        describe(&(tacit_slot_t){0}, name, text, sizeof text);
        TRY(tacit__comm_agree(comm, "tacit_slot_create", text, mine, 0));
    }
    mine = make(comm, name, config, slot);
    describe(slot, name, text, sizeof text);
    TRY(tacit__comm_agree(comm, "tacit_slot_create", text, mine,
                          mine == TACIT_OK ? tacit__slot_message_bytes(comm, slot->codec->tensor.device, &slot->codec->spec,
                                                                       slot->codec->tensor.count)
                                           : 0));
    if (chooses(slot, &slot->codec->given)) {
        TRY(tacit__automatic_choose(slot, "tacit_slot_create", &slot->codec->given));
    }
    TRY(tacit__cost_learn(comm, slot->codec, false));
    tacit__slot_go_by(slot, tacit__schedule_of(comm, slot->codec));
    slot->id = comm->slots_made++;
    slot->ring_bytes = 2 * (uint64_t)(comm->ranks - 1) * slot->codec->tensor.count * sizeof(float) / (uint64_t)comm->ranks;
    for (last = &comm->slots; *last != NULL; last = &(*last)->next) {
    }
    *last = slot;
    tacit__log(TACIT_LOG_INFO, comm->rank, "slot: %s; schedule %s", text, slot->schedule->name);
    tacit__cost_tell(comm, slot->codec, slot->schedule);
    warn_of_dense(slot);

    *slot_out = slot;
    slot = NULL; /* now the communicator's */
out:
    tacit__slot_free(slot);
    tacit__comm_leave(comm);
    return status;
}

/* What an operation works with must stay as it is until that has finished. */
static tacit_status_t check_idle(const tacit_slot_t *slot)
{
    const tacit_comm_t *comm = slot->comm;
    bool                busy = slot->users != 0;

    for (size_t i = 0; i < comm->group_count; i++) {
        busy = busy || comm->group[i].slot == slot;
    }
    return busy ? tacit__fail(TACIT_ERR_STATE, "rank %d: slot '%s' is at work; wait for its request, or end the group, first",
                              comm->rank, slot->codec->name)
                : TACIT_OK;
}

tacit_status_t tacit__slot_prepare(tacit_slot_t *slot, const char *spec, tacit_specs_t *specs_out, size_t *capacity)
{
    tacit_status_t status = check_idle(slot);

    if (status == TACIT_OK && slot->comm->environment.disable != 0) {
        status = tacit__spec_parse(spec, &specs_out->given); /* what is in force stays 'none' */
    } else if (status == TACIT_OK) {
        status = tacit__codec_parse_specs(slot->codec, spec, specs_out);
    }
    if (status == TACIT_OK && specs_out->effective.compressor != NULL) {
        const size_t bytes =
            tacit__slot_message_bytes(slot->comm, slot->codec->tensor.device, &specs_out->effective, slot->codec->tensor.count);

        *capacity = *capacity > bytes ? *capacity : bytes;
    }
    return status;
}

static void adopt(tacit_slot_t *slot, tacit_specs_t *specs)
{
    if (specs->effective.compressor != NULL) {
        tacit__fused_dissolve(slot->fused);
        tacit__codec_adopt_specs(slot->codec, specs);
    } else if (specs->given.compressor != NULL) {
        const tacit_spec_t former = slot->codec->given;

        slot->codec->given = specs->given;
        specs->given = former; /* to be released */
    }
}

void tacit__slot_adopt(tacit_slot_t *slot, tacit_specs_t *specs)
{
    adopt(slot, specs);
    tacit__slot_go_by(slot, tacit__schedule_of(slot->comm, slot->codec)); /* another may pay now */
}

/* Everything that can fail comes before the ranks agree. */
tacit_status_t tacit_slot_set_spec(tacit_slot_t *slot, const char *spec)
{
    tacit_status_t status, mine;
    tacit_specs_t  specs = {0};
    char           text[TACIT_AGREEMENT_BYTES];
    tacit_comm_t  *comm = slot != NULL ? slot->comm : NULL;
    size_t         capacity = 0;

    status = tacit__comm_enter(comm, false);
    if (status != TACIT_OK) {
        return status;
    }
    mine = tacit__slot_prepare(slot, spec, &specs, &capacity);
    snprintf(text, sizeof text, "slot '%s', spec %s", slot->codec->name,
             specs.effective.compressor != NULL ? specs.effective.canonical : specs.given.canonical);
    TRY(tacit__comm_agree(comm, "tacit_slot_set_spec", text, mine, capacity));
    if (chooses(slot, &specs.given)) {
        TRY(tacit__automatic_choose(slot, "tacit_slot_set_spec", &specs.given));
        goto out;
    }
    adopt(slot, &specs);
    if (tacit__cost_learn(comm, slot->codec, false) != TACIT_OK && comm->broken) { /* else it goes as where nothing is known */
        status = tacit__fail(TACIT_ERR_BROKEN, "rank %d: %s", comm->rank, comm->broken_text);
    }
    tacit__slot_go_by(slot, tacit__schedule_of(comm, slot->codec));
out:
    tacit__specs_release(&specs);
    tacit__comm_leave(comm);
    return status;
}

tacit_status_t tacit_slot_reset(tacit_slot_t *slot)
{
    tacit_status_t status = tacit__comm_enter(slot != NULL ? slot->comm : NULL, true);

    if (status != TACIT_OK) {
        return status;
    }
    TRY(check_idle(slot));
    tacit_codec_reset(slot->codec);
    slot->step = 0;
out:
    tacit__comm_leave(slot->comm);
    return status;
}

static void scale(float *values, size_t count, float factor)
{
    for (size_t i = 0; i < count; i++) {
        values[i] *= factor;
    }
}

/* What an owner keeps back around trackers stays: it is the distance between them and what all ranks have. */
static void rescale(tacit_codec_t *codec, uint64_t step, float factor)
{
    const int array = codec->feedback->residual;
    size_t    units = 0;

    for (size_t done = 0; array >= 0 && done < codec->memory.count; done += units) {
        units = tacit__min(codec->memory.count - done, codec->unit);
        tacit__memory_read(codec, array, done, units, codec->a);
        scale(codec->a, units, factor);
        tacit__memory_write(codec, step, array, done, units, codec->a);
    }
    if (codec->feedback->combine == NULL) {
        scale(codec->owner.now[0], codec->owner.count, factor);
    }
}

tacit_status_t tacit_slot_rescale(tacit_slot_t *slot, double factor)
{
    tacit_status_t status = tacit__comm_enter(slot != NULL ? slot->comm : NULL, false);

    if (status != TACIT_OK) {
        return status;
    }
    if (!(factor > 0.0) || !isfinite((float)factor)) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: slot '%s': cannot rescale its memory by %g; give a number above 0",
                             slot->comm->rank, slot->codec->name, factor);
        goto out;
    }
    TRY(check_idle(slot));
    if (slot->codec->feedback != NULL) {
        tacit__codec_settle(slot->codec);
        rescale(slot->codec, slot->step, (float)factor);
    }
out:
    tacit__comm_leave(slot->comm);
    return status;
}

void tacit__slot_free(tacit_slot_t *slot)
{
    if (slot != NULL) {
        tacit__fused_dissolve(slot->fused);
        if (slot->given != NULL) {
            (void)slot->codec->module->destroy_event(slot->given);
        }
        tacit_codec_destroy(slot->codec);
        tacit_codec_destroy(slot->dense);
    }
    tacit__free(slot);
}

void tacit_slot_destroy(tacit_slot_t *slot)
{
    tacit_slot_t **link;
    tacit_comm_t  *comm;
    size_t         kept = 0;

    if (slot == NULL) {
        return;
    }
    comm = slot->comm;
    tacit__comm_hold(comm);
    for (link = &comm->slots; *link != slot; link = &(*link)->next) {
    }
    *link = slot->next;
    for (size_t i = 0; i < comm->group_count; i++) {
        if (comm->group[i].slot != slot) {
            comm->group[kept++] = comm->group[i];
        }
    }
    comm->group_count = kept;
    slot->doomed = true;
    if (slot->users == 0) {
        tacit__slot_free(slot);
    }
    tacit__comm_release(comm);
}

const char *tacit_slot_spec(const tacit_slot_t *slot)
{
    return slot != NULL ? slot->codec->given.text : "";
}

const char *tacit_slot_effective_spec(const tacit_slot_t *slot)
{
    return slot != NULL ? slot->codec->spec.canonical : "";
}

const char *tacit_slot_schedule(const tacit_slot_t *slot)
{
    return slot != NULL ? slot->schedule->name : "";
}

/* Adds squares to `sum`, one by one: cut anywhere, the sum is the same. */
static double square(double sum, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sum += (double)values[i] * (double)values[i];
    }
    return sum;
}

static double square_kept_back(const tacit_codec_t *codec)
{
    const int array = codec->feedback->residual;
    float     values[256];
    double    sum = 0.0;
    size_t    units = 0;

    for (size_t done = 0; array >= 0 && done < codec->memory.count; done += units) {
        units = tacit__min(codec->memory.count - done, sizeof values / sizeof *values);
        tacit__memory_read(codec, array, done, units, values);
        sum = square(sum, values, units);
    }
    return sum;
}

tacit_status_t tacit_slot_norms(const tacit_slot_t *slot, tacit_norms_t *norms_out)
{
    const tacit_codec_t *codec;

    if (slot == NULL || norms_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot and norms_out must be given");
    }
    tacit__comm_hold(slot->comm);
    codec = slot->codec;
    *norms_out = (tacit_norms_t){0};
    if (codec->feedback != NULL) {
        tacit__codec_settle(slot->codec);
        norms_out->memory = sqrt(square_kept_back(codec));
        norms_out->owner = sqrt(square(0.0, codec->owner.now[0], codec->owner.count));
    }
    tacit__comm_release(slot->comm);
    return TACIT_OK;
}

tacit_status_t tacit_slot_counters(const tacit_slot_t *slot, tacit_counters_t *counters_out)
{
    if (slot == NULL || counters_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot and counters_out must be given");
    }
    tacit__comm_hold(slot->comm);
    *counters_out = slot->counters;
    tacit__comm_release(slot->comm);
    return TACIT_OK;
}
