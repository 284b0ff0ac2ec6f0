/* SPDX-License-Identifier: Apache-2.0 */
/* Makes and ends codecs, and keeps their memory in order: who owns what, which arrays there are, how a step is committed. */
#include "codec.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "environment.h"

static const uint64_t default_seed = 0x7461636974u; /* "tacit" */

/* ---- Memory ---- */

static size_t array_count(const tacit_feedback_t *feedback)
{
    size_t arrays = 0;

    while (feedback != NULL && feedback->arrays[arrays] != NULL) {
        arrays++;
    }
    return arrays;
}

void tacit__state_release(tacit_state_t *state)
{
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (state->next[i] != state->now[i]) {
            tacit__free(state->next[i]);
        }
        tacit__free(state->now[i]);
    }
    *state = (tacit_state_t){0};
}

static tacit_status_t state_init(tacit_state_t *state, const tacit_feedback_t *feedback, const void *config, size_t count,
                                 bool doubled)
{
    *state = (tacit_state_t){.config = config, .count = count};
    for (size_t i = 0; i < array_count(feedback); i++) {
        state->now[i] = tacit__alloc(count, sizeof(float));
        state->next[i] = doubled ? tacit__alloc(count, sizeof(float)) : state->now[i];
        if (state->now[i] == NULL || state->next[i] == NULL) {
            tacit__state_release(state);
            return tacit__fail(TACIT_ERR_MEMORY, "no memory for %zu elements of feedback '%s'", count, feedback->name);
        }
    }
    return TACIT_OK;
}

static void state_zero(tacit_state_t *state)
{
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (state->now[i] != NULL) {
            memset(state->now[i], 0, state->count * sizeof(float));
            memset(state->next[i], 0, state->count * sizeof(float));
        }
    }
}

static void state_swap(tacit_state_t *state)
{
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        float *now = state->now[i];

        state->now[i] = state->next[i];
        state->next[i] = now;
    }
}

/* The array of the sender's memory that what an owner kept back joins. */
static float *owed(const tacit_codec_t *codec)
{
    return codec->memory.now[codec->feedback->owed.array];
}

/* The owner's memory is in units of the result, the sender's in those of a contribution: the result is their sum or mean. */
static void fold_owner(tacit_codec_t *codec)
{
    float       *memory = owed(codec) + codec->owner_first;
    const float *owner = codec->owner.now[0];
    float        scale = codec->feedback->owed.sign * (codec->owner_is_mean ? (float)codec->ranks : 1.0f);

    for (size_t i = 0; i < codec->owner.count; i++) {
        memory[i] += scale * owner[i];
    }
}

tacit_status_t tacit__codec_make_owner(const tacit_codec_t *codec, size_t count, tacit_state_t *owner_out)
{
    *owner_out = (tacit_state_t){0};
    return codec->feedback == NULL || codec->feedback->owner == NULL || count == 0
               ? TACIT_OK
               : state_init(owner_out, codec->feedback->owner, codec->spec.feedback_config, count, true);
}

void tacit__codec_adopt_owner(tacit_codec_t *codec, tacit_state_t *owner, size_t first, bool mean)
{
    tacit__state_release(&codec->owner);
    codec->owner = *owner;
    codec->owner_first = first;
    codec->owner_is_mean = mean;
    *owner = (tacit_state_t){0};
}

void tacit__codec_forget_former(tacit_codec_t *codec)
{
    tacit__state_release(&codec->former.owner);
    tacit__free(codec->former.memory);
    codec->former.memory = NULL;
    codec->former.moved = false;
}

tacit_status_t tacit__codec_own_part(tacit_codec_t *codec, size_t first, size_t count, bool mean)
{
    tacit_status_t status;
    tacit_state_t  owner = {0};
    float         *memory = NULL;

    if (codec->feedback == NULL || codec->feedback->owner == NULL ||
        (codec->owner.count == count && (count == 0 || (codec->owner_first == first && codec->owner_is_mean == mean)))) {
        return TACIT_OK;
    }
    TRY(tacit__codec_make_owner(codec, count, &owner));
    memory = tacit__alloc_unset(codec->owner.count * sizeof *memory);
    if (memory == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory to own another part", codec->name);
        goto out;
    }
    if (codec->owner.count != 0) {
        memcpy(memory, owed(codec) + codec->owner_first, codec->owner.count * sizeof *memory);
        fold_owner(codec);
    }
    tacit__codec_forget_former(codec);
    codec->former.moved = true;
    codec->former.owner = codec->owner;
    codec->former.first = codec->owner_first;
    codec->former.is_mean = codec->owner_is_mean;
    codec->former.memory = memory;
    codec->owner = (tacit_state_t){0}; /* now the former's */
    memory = NULL;
    tacit__codec_adopt_owner(codec, &owner, first, mean);
out:
    tacit__state_release(&owner);
    tacit__free(memory);
    return status;
}

void tacit__codec_disown(tacit_codec_t *codec)
{
    size_t count = codec->former.owner.count;

    if (!codec->former.moved) {
        return;
    }
    if (count != 0) {
        memcpy(owed(codec) + codec->former.first, codec->former.memory, count * sizeof *codec->former.memory);
    }
    tacit__codec_adopt_owner(codec, &codec->former.owner, codec->former.first, codec->former.is_mean);
    tacit__codec_forget_former(codec);
}

void tacit__codec_commit(tacit_codec_t *codec)
{
    if (codec->strict) {
        state_swap(&codec->memory);
    }
    state_swap(&codec->owner);
    tacit__codec_forget_former(codec);
}

bool tacit__codec_array(const tacit_codec_t *codec, size_t index, tacit_array_t *array_out)
{
    const size_t          arrays = array_count(codec->feedback);
    const size_t          owner_arrays = codec->owner.count != 0 ? array_count(codec->feedback->owner) : 0;
    const tacit_linear_t *linear = codec->compressor->linear;

    if (index < arrays) {
        *array_out = (tacit_array_t){codec->feedback->arrays[index], codec->memory.now[index], codec->memory.count};
        return true;
    }
    index -= arrays;
    if (index < owner_arrays) {
        *array_out = (tacit_array_t){"owner", codec->owner.now[index], codec->owner.count};
        return true;
    }
    index -= owner_arrays;
    if (index == 0 && codec->work != NULL) {
        *array_out = (tacit_array_t){"work", codec->work, linear->work_count(codec->spec.compressor_config, &codec->tensor)};
        return true;
    }
    return false;
}

void tacit_codec_reset(tacit_codec_t *codec)
{
    tacit_array_t array;

    state_zero(&codec->memory);
    state_zero(&codec->owner);
    for (size_t i = 0; tacit__codec_array(codec, i, &array); i++) {
        memset(array.values, 0, array.count * sizeof(float));
    }
}

/* ---- What a codec is ---- */

bool tacit__codec_is_blockwise(const tacit_codec_t *codec)
{
    return codec->compressor->select == NULL && codec->compressor->linear == NULL;
}

bool tacit__codec_is_uncut(const tacit_codec_t *codec)
{
    return tacit__codec_is_blockwise(codec) && codec->compressor->grain(codec->spec.compressor_config) == 0;
}

size_t tacit__codec_edge(const tacit_codec_t *codec)
{
    size_t grain = codec->compressor->grain(codec->spec.compressor_config);

    return grain != 0 ? grain : 8;
}

bool tacit__codec_own_coded(const tacit_codec_t *codec)
{
    return codec->compressor->own_coded != NULL && codec->compressor->own_coded(codec->spec.compressor_config);
}

size_t tacit__codec_element_bytes(const tacit_codec_t *codec)
{
    return codec->tensor.dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

tacit_block_t tacit__codec_block(const tacit_codec_t *codec, uint64_t step, size_t first, size_t count)
{
    tacit_block_t block = {codec->spec.compressor_config, codec->key, first, count};

    block.key.step = step;
    return block;
}

/* ---- Create, change, destroy ---- */

static tacit_status_t check_tensor(const char *name, const tacit_slot_config_t *tensor)
{
    size_t product = 1;

    if (tensor->count > UINT32_MAX) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot '%s': count %zu is not below 2^32; split the tensor", name, tensor->count);
    }
    if ((int)tensor->dtype < TACIT_FLOAT32 || tensor->dtype > TACIT_BFLOAT16) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot '%s': dtype %d is not a tacit_dtype_t", name, (int)tensor->dtype);
    }
    if (tensor->device != TACIT_CPU) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED, "slot '%s': only TACIT_CPU is in this build", name);
    }
    if (tensor->ndim < 0 || tensor->ndim > 8) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot '%s': ndim %d is not from 0 to 8", name, tensor->ndim);
    }
    for (int i = 0; i < tensor->ndim; i++) {
        if (__builtin_mul_overflow(product, tensor->shape[i], &product)) {
            product = SIZE_MAX;
        }
    }
    if (tensor->ndim != 0 && product != tensor->count) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot '%s': the product of its shape, %zu, is not its count, %zu", name, product,
                           tensor->count);
    }
    return TACIT_OK;
}

/* The feedback's parameters that depend on how good the compressor is. */
static void settle_feedback(const tacit_slot_config_t *tensor, tacit_spec_t *spec)
{
    const tacit_compressor_t *compressor = spec->compressor;
    double                    factor = 0.0, delta;

    if (spec->feedback == NULL || spec->feedback->settle == NULL) {
        return;
    }
    (void)compressor->quality(spec->compressor_config, tensor->count, &factor);
    delta = compressor->delta != NULL ? compressor->delta(spec->compressor_config, tensor) : 1.0 - factor;
    spec->feedback->settle(spec->feedback_config, fmax(0.0, fmin(1.0, delta)));
}

/* What a tensor really gets: a 16-bit one needs no more than its own type on the wire, and a feedback may leave some tensors
   dense. */
static tacit_status_t effective_spec(const tacit_spec_t *given, const tacit_slot_config_t *tensor, tacit_spec_t *spec_out)
{
    static const char *const casts[] = {"none", "fp16", "bf16"};
    char                     text[TACIT_SPEC_BYTES];
    const char              *feedback = strchr(given->text, '+');
    tacit_status_t           status;
    bool                     dense =
        given->feedback != NULL && given->feedback->is_dense != NULL && given->feedback->is_dense(given->feedback_config, tensor);

    snprintf(text, sizeof text, "%s", given->text);
    if (dense || strcmp(given->compressor->name, "none") == 0) {
        snprintf(text, sizeof text, "%s%s", casts[tensor->dtype], feedback != NULL ? feedback : "");
    }
    TRY(tacit__spec_parse_effective(text, dense, spec_out));
    settle_feedback(tensor, spec_out);
out:
    return status;
}

tacit_status_t tacit__codec_reserve(tacit_codec_t *codec, size_t count)
{
    float *x = NULL, *a = NULL, *d = NULL;

    if (count <= codec->room) {
        return TACIT_OK;
    }
    x = tacit__alloc(count, sizeof *x);
    a = tacit__alloc(count, sizeof *a);
    d = tacit__alloc(count, sizeof *d);
    if (x == NULL || a == NULL || d == NULL) {
        tacit__free(x);
        tacit__free(a);
        tacit__free(d);
        return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory to encode %zu elements at once", codec->name, count);
    }
    tacit__free(codec->x);
    tacit__free(codec->a);
    tacit__free(codec->d);
    codec->x = x;
    codec->a = a;
    codec->d = d;
    codec->room = count;
    return TACIT_OK;
}

/* Elements at once for a spec: whole grains, so that any split gives the same bytes. */
static size_t unit_of(const tacit_compressor_t *compressor, const void *config)
{
    size_t grain = compressor->grain != NULL ? compressor->grain(config) : 0;

    if (grain == 0) {
        return TACIT_UNIT;
    }
    return grain < TACIT_UNIT ? TACIT_UNIT / grain * grain : grain;
}

static tacit_status_t codec_init(tacit_codec_t *codec, const char *name, const char *spec)
{
    tacit_status_t        status;
    const tacit_linear_t *linear;
    bool                  needs_whole;

    TRY(check_tensor(name, &codec->tensor));
    TRY(tacit__spec_parse(spec, &codec->given));
    TRY(effective_spec(&codec->given, &codec->tensor, &codec->spec));
    codec->compressor = codec->spec.compressor;
    codec->feedback = codec->spec.feedback;
    if (tacit__codec_is_blockwise(codec)) {
        codec->kernels = tacit__compressor_kernels(codec->compressor);
    }
    TRY(state_init(&codec->memory, codec->feedback, codec->spec.feedback_config, codec->tensor.count, codec->strict));
    codec->unit = unit_of(codec->compressor, codec->spec.compressor_config);
    TRY(tacit__codec_reserve(codec, codec->unit));
    needs_whole = codec->feedback != NULL ? codec->feedback->accumulator < 0
                                          : codec->tensor.dtype != TACIT_FLOAT32 || codec->nonfinite == TACIT_NONFINITE_SKIP;
    linear = codec->compressor->linear;
    if (!tacit__codec_is_blockwise(codec) && needs_whole) {
        codec->whole = tacit__alloc(codec->tensor.count, sizeof(float));
    }
    if (linear != NULL && linear->work_count != NULL) {
        codec->work = tacit__alloc(linear->work_count(codec->spec.compressor_config, &codec->tensor), sizeof(float));
    }
    codec->name = tacit__strdup(name);
    if (codec->name == NULL || (linear != NULL && linear->work_count != NULL && codec->work == NULL) ||
        (!tacit__codec_is_blockwise(codec) && needs_whole && codec->whole == NULL)) {
        status = tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for its codec", name);
    }
out:
    return status;
}

tacit_status_t tacit__codec_create(const char *name, const tacit_slot_config_t *slot_config, const tacit_config_t *config,
                                   int rank, int ranks, tacit_codec_t **codec_out)
{
    tacit_status_t status;
    tacit_codec_t *codec = tacit__alloc(1, sizeof *codec);
    const char    *spec = slot_config->spec != NULL ? slot_config->spec : config->spec;

    if (codec == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for its codec", name);
    }
    codec->tensor = *slot_config;
    codec->tensor.spec = NULL;
    codec->key = (tacit_key_t){config->seed != 0 ? config->seed : default_seed, tacit__hash_text(name), 0, (uint64_t)rank};
    codec->rank = rank;
    codec->ranks = ranks;
    codec->nonfinite = (tacit_nonfinite_t)config->nonfinite;
    codec->strict = config->strict != 0;
    TRY(codec_init(codec, name, spec));

    *codec_out = codec;
    codec = NULL; /* now the caller's */
out:
    tacit_codec_destroy(codec);
    return status;
}

void tacit_codec_destroy(tacit_codec_t *codec)
{
    if (codec == NULL) {
        return;
    }
    tacit__state_release(&codec->memory);
    tacit__state_release(&codec->owner);
    tacit__codec_forget_former(codec);
    tacit__spec_release(&codec->spec);
    tacit__spec_release(&codec->given);
    tacit__free(codec->name);
    tacit__free(codec->work);
    tacit__free(codec->x);
    tacit__free(codec->a);
    tacit__free(codec->d);
    tacit__free(codec->whole);
    tacit__free(codec);
}

tacit_status_t tacit__codec_parse_specs(tacit_codec_t *codec, const char *text, tacit_specs_t *specs_out)
{
    tacit_status_t status;
    tacit_specs_t  specs = {0};

    TRY(tacit__spec_parse(text, &specs.given));
    if (specs.given.compressor != codec->given.compressor || specs.given.feedback != codec->given.feedback ||
        specs.given.automatic != codec->given.automatic) {
        status = tacit__fail(TACIT_ERR_SPEC,
                             "slot '%s' is '%s'; set_spec changes its parameters, not the compressor or the feedback ('%s'): "
                             "make a new slot for that",
                             codec->name, codec->given.text, text);
        goto out;
    }
    TRY(effective_spec(&specs.given, &codec->tensor, &specs.effective));
    if (specs.effective.compressor != codec->compressor) {
        status =
            tacit__fail(TACIT_ERR_SPEC, "slot '%s': '%s' changes whether this tensor is compressed: make a new slot for that",
                        codec->name, text);
        goto out;
    }
    TRY(tacit__codec_reserve(codec, unit_of(specs.effective.compressor, specs.effective.compressor_config)));
    *specs_out = specs;
    specs = (tacit_specs_t){0}; /* now the caller's */
out:
    tacit__spec_release(&specs.given);
    tacit__spec_release(&specs.effective);
    return status;
}

void tacit__codec_adopt_specs(tacit_codec_t *codec, tacit_specs_t *specs)
{
    tacit__spec_release(&codec->spec);
    tacit__spec_release(&codec->given);
    codec->spec = specs->effective;
    codec->given = specs->given;
    codec->unit = unit_of(codec->compressor, codec->spec.compressor_config);
    codec->memory.config = codec->owner.config = codec->spec.feedback_config;
    *specs = (tacit_specs_t){0};
}
