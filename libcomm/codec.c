/* SPDX-License-Identifier: Apache-2.0 */
/* Makes, changes and ends codecs. */
#include "automatic.h"
#include "codec_memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "environment.h"

static const uint64_t default_seed = 0x7461636974u; /* "tacit" */

void tacit_codec_reset(tacit_codec_t *codec)
{
    if (codec == NULL) {
        return;
    }
    tacit__codec_settle(codec);
    tacit__memory_zero(codec);
    codec->use = TACIT_USE_OPEN;
    if (codec->work != NULL) {
        memset(codec->work, 0, codec->work_count * sizeof *codec->work);
    }
}

/* ---- What a codec is ---- */

void tacit__codec_identify(const tacit_codec_t *codec, tacit_op_t op, uint64_t *slot, uint64_t *spec)
{
    *slot = tacit__hash(*slot, &codec->key.slot, sizeof codec->key.slot);
    *spec = tacit__hash(*spec, &codec->spec.hash, sizeof codec->spec.hash);
    *spec = tacit__hash(*spec, &op, sizeof op);
}

void tacit__codec_describe(const tacit_codec_t *codec, char *text, size_t capacity)
{
    static const char *const dtypes[] = {"float32", "float16", "bfloat16"};
    size_t                   used;

    used = (size_t)snprintf(text, capacity, "slot '%s', count %zu, dtype %s, spec %s, shape", codec->name, codec->tensor.count,
                            dtypes[codec->tensor.dtype], codec->given.error > 0 ? codec->given.canonical : codec->spec.canonical);
    for (int i = 0; i < codec->tensor.ndim && used < capacity; i++) {
        used += (size_t)snprintf(text + used, capacity - used, " %zu", codec->tensor.shape[i]);
    }
}

tacit_status_t tacit__codec_value_fault(const tacit_codec_t *codec, int rank, uint64_t step)
{
    return tacit__fail(TACIT_ERR_VALUE,
                       "rank %d: slot '%s' at step %" PRIu64
                       " holds NaN or infinity (or values whose range is not finite); nothing "
                       "was changed. Skip the step, or set nonfinite to skip or pass",
                       rank, codec->name, step);
}

tacit_status_t tacit__codec_is_free(const tacit_codec_t *codec)
{
    return codec->bundle == NULL ? TACIT_OK
                                 : tacit__fail(TACIT_ERR_STATE,
                                               "codec '%s': a step of a bundle works with it; tacit_bundle_finish() or "
                                               "tacit_bundle_cancel() ends it",
                                               codec->name);
}

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
    if ((int)tensor->device < TACIT_CPU || tensor->device > TACIT_CUDA) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "slot '%s': device %d is not a tacit_device_t", name, (int)tensor->device);
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
static void settle_feedback(const tacit_codec_t *codec, tacit_spec_t *spec)
{
    const tacit_compressor_t *compressor = spec->compressor;
    double                    factor = 0.0, delta;
    char                      warning[TACIT_REASON_BYTES] = "";

    if (spec->feedback == NULL || spec->feedback->settle == NULL) {
        return;
    }
    (void)compressor->quality(spec->compressor_config, codec->tensor.count, &factor);
    delta = compressor->delta != NULL ? compressor->delta(spec->compressor_config, &codec->tensor) : 1.0 - factor;
    spec->feedback->settle(spec->feedback_config, fmax(0.0, fmin(1.0, delta)), warning, sizeof warning);
    if (warning[0] != '\0' && codec->rank == 0) {
        tacit__log(TACIT_LOG_WARN, codec->rank, "slot '%s', '%s': %s", codec->name, spec->text, warning);
    }
}

const char *tacit__codec_cast(tacit_dtype_t dtype)
{
    static const char *const casts[] = {"none", "fp16", "bf16"};

    return casts[dtype];
}

/* What a tensor really gets: a 16-bit one needs no more than its own type on the wire, and a feedback may leave some tensors
   dense. */
static tacit_status_t effective_spec(const tacit_codec_t *codec, const tacit_spec_t *given, tacit_spec_t *spec_out)
{
    const tacit_slot_config_t *tensor = &codec->tensor;

    char           text[TACIT_SPEC_BYTES];
    const char    *feedback;
    tacit_status_t status;
    bool           dense =
        given->feedback != NULL && given->feedback->is_dense != NULL && given->feedback->is_dense(given->feedback_config, tensor);

    snprintf(text, sizeof text, "%s", given->text);
    if (given->automatic) {
        tacit__automatic_smallest(given, tensor->dtype, text);
    }
    feedback = strchr(text, '+');
    if (dense || strncmp(text, "none", strcspn(text, ":+")) == 0) {
        char cast[TACIT_SPEC_BYTES];

        snprintf(cast, sizeof cast, "%s%s", tacit__codec_cast(tensor->dtype), feedback != NULL ? feedback : "");
        memcpy(text, cast, sizeof text);
    }
    TRY(tacit__spec_parse_effective(text, dense, spec_out));
    settle_feedback(codec, spec_out);
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
    if (x == NULL || a == NULL || d == NULL || !tacit__memory_reserve(codec, count)) {
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

static bool begins_dense(const tacit_spec_t *spec)
{
    return spec->feedback != NULL && spec->feedback->begins_dense != NULL && spec->feedback->begins_dense(spec->feedback_config);
}

/* Everything that follows from the spec in force. */
static void follow_spec(tacit_codec_t *codec)
{
    codec->compressor = codec->spec.compressor;
    codec->feedback = codec->is_first ? codec->other.feedback->first : codec->spec.feedback;
    codec->kernels = tacit__codec_is_blockwise(codec) ? tacit__compressor_kernels(codec->compressor) : NULL;
    codec->unit = unit_of(codec->compressor, codec->spec.compressor_config);
}

void tacit__codec_dress(tacit_codec_t *codec, bool first)
{
    const tacit_spec_t spec = codec->spec;

    if (codec->other.compressor == NULL || codec->is_first == first) {
        return;
    }
    codec->spec = codec->other;
    codec->other = spec;
    codec->is_first = first;
    follow_spec(codec);
}

/* Floats that a linear compressor keeps; NULL where there are none. */
static tacit_status_t make_work(const tacit_codec_t *codec, const tacit_spec_t *spec, float **work_out, size_t *count_out)
{
    const tacit_linear_t *linear = spec->compressor->linear;

    if (linear == NULL || linear->work_count == NULL) {
        return TACIT_OK;
    }
    *count_out = linear->work_count(spec->compressor_config, &codec->tensor);
    *work_out = tacit__cuda_alloc_shared(codec->module, *count_out, sizeof **work_out);
    return *work_out != NULL ? TACIT_OK
                             : tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for the %zu floats that '%s' keeps",
                                           codec->name, *count_out, spec->compressor->name);
}

/* Of a tensor on a GPU: whether there is one, and kernels for its spec. */
static tacit_status_t find_device(tacit_codec_t *codec)
{
    const tacit_precision_t *precision = codec->spec.feedback_config;
    tacit_status_t           status = TACIT_OK;

    if (codec->tensor.device == TACIT_CPU) {
        goto out;
    }
    if (codec->compressor->device == NULL || (codec->feedback != NULL && codec->feedback->keep == TACIT_KEEP_NOTHING)) {
        status = tacit__fail(TACIT_ERR_UNSUPPORTED, "slot '%s': '%s' is not there on GPUs", codec->name, codec->given.text);
        goto out;
    }
    if (codec->compressor->device(codec->spec.compressor_config).code == TACIT_CODE_POWERSGD && codec->feedback != NULL &&
        *precision != TACIT_PRECISION_FP32) {
        status = tacit__fail(TACIT_ERR_UNSUPPORTED,
                             "slot '%s', '%s': on GPUs memory around 'powersgd' is float32; leave out residual=", codec->name,
                             codec->given.text);
        goto out;
    }
    TRY(tacit__cuda_module(&codec->module));
    codec->turn = tacit__cuda_alloc_shared(codec->module, 1, sizeof *codec->turn);
    if (codec->turn == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory on the GPU for its codec", codec->name);
    }
out:
    return status;
}

static tacit_status_t codec_init(tacit_codec_t *codec, const char *name, const char *spec)
{
    tacit_status_t status;
    bool           needs_whole;

    TRY(check_tensor(name, &codec->tensor));
    codec->name = tacit__strdup(name);
    if (codec->name == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for its codec", name);
        goto out;
    }
    TRY(tacit__spec_parse(spec, &codec->given));
    TRY(effective_spec(codec, &codec->given, &codec->spec));
    follow_spec(codec);
    TRY(find_device(codec));
    TRY(tacit__memory_init(codec));
    TRY(tacit__codec_reserve(codec, codec->unit));
    if (begins_dense(&codec->spec)) {
        TRY(tacit__spec_parse("none", &codec->other));
        TRY(tacit__codec_reserve(codec, unit_of(codec->other.compressor, codec->other.compressor_config)));
    }
    needs_whole = codec->feedback != NULL ? codec->feedback->accumulator < 0
                                          : codec->tensor.dtype != TACIT_FLOAT32 || codec->nonfinite == TACIT_NONFINITE_SKIP;
    if (codec->compressor->linear != NULL && needs_whole && codec->module == NULL) {
        codec->whole = tacit__alloc(codec->tensor.count, sizeof(float));
        if (codec->whole == NULL) {
            status = tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for its codec", name);
            goto out;
        }
    }
    TRY(make_work(codec, &codec->spec, &codec->work, &codec->work_count));
out:
    return status;
}

tacit_key_t tacit__codec_key(const char *name, const tacit_config_t *config, int rank)
{
    return (tacit_key_t){config->seed != 0 ? config->seed : default_seed, tacit__hash_text(name), 0, (uint64_t)rank};
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
    codec->key = tacit__codec_key(name, config, rank);
    codec->rank = rank;
    codec->ranks = codec->senders = ranks;
    codec->range = (tacit_range_t){0, codec->tensor.count};
    codec->owners = (uint32_t)ranks;
    codec->own = (uint32_t)rank;
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
    tacit__codec_settle(codec);
    tacit__memory_release(codec);
    tacit__state_release(&codec->owner);
    tacit__codec_forget_former(codec);
    tacit__spec_release(&codec->spec);
    tacit__spec_release(&codec->given);
    tacit__spec_release(&codec->other);
    tacit__free(codec->name);
    tacit__cuda_free_shared(codec->module, codec->work);
    tacit__free(codec->x);
    tacit__free(codec->a);
    tacit__free(codec->d);
    tacit__free(codec->whole);
    tacit__cuda_free_shared(codec->module, codec->turn);
    tacit__selection_release(codec->selection);
    tacit__selection_release(codec->owner_selection);
    tacit__free(codec);
}

/* Whether a spec with the codec's feedback needs the same arrays, in the same precision, and begins alike. */
static bool same_memory(const tacit_codec_t *codec, const tacit_spec_t *spec)
{
    const tacit_feedback_t *feedback = spec->feedback;
    bool                    same = begins_dense(spec) == (codec->other.compressor != NULL);

    if (feedback == NULL) {
        return true;
    }
    for (int i = 0; feedback->has != NULL && feedback->arrays[i] != NULL; i++) {
        same = same && feedback->has(spec->feedback_config, i) == feedback->has(codec->spec.feedback_config, i);
    }
    return same && memcmp(spec->feedback_config, codec->spec.feedback_config, sizeof(int)) == 0; /* the precision */
}

tacit_status_t tacit__codec_parse_given(tacit_codec_t *codec, const char *text)
{
    tacit_status_t status;
    tacit_spec_t   given = {0};

    TRY(tacit__spec_parse(text, &given));
    tacit__spec_release(&codec->given);
    codec->given = given;
out:
    return status;
}

bool tacit__codec_ends(const tacit_codec_t *codec, const tacit_spec_t *spec)
{
    const bool owes = codec->feedback == &tacit__feedback_ef || codec->given.feedback == &tacit__feedback_ef;

    return owes && spec->feedback == NULL && !spec->automatic && strcmp(spec->compressor->name, "none") == 0;
}

/* Whether another automatic spec may take the place of one: what is remembered is kept as it is, or paid back. */
static bool may_follow(const tacit_spec_t *spec, const tacit_spec_t *former)
{
    return spec->automatic && former->automatic &&
           (spec->error == 0 || former->feedback == NULL ||
            (spec->feedback == former->feedback &&
             memcmp(spec->feedback_config, former->feedback_config, spec->feedback->config_bytes) == 0));
}

tacit_status_t tacit__codec_parse_specs(tacit_codec_t *codec, const char *text, tacit_specs_t *specs_out)
{
    tacit_status_t status;
    tacit_specs_t  specs = {.module = codec->module};

    TRY(tacit__spec_parse(text, &specs.given));
    if (may_follow(&specs.given, &codec->given) ||
        tacit__codec_ends(codec, &specs.given)) { /* which compressor the tensor gets is another question: automatic.h */
        *specs_out = specs;
        return TACIT_OK;
    }
    if (specs.given.compressor != codec->given.compressor || specs.given.feedback != codec->given.feedback ||
        specs.given.automatic || codec->given.automatic) {
        status = tacit__fail(TACIT_ERR_SPEC,
                             "slot '%s' is '%s'; set_spec changes its parameters, not the compressor or the feedback ('%s'): "
                             "make a new slot for that",
                             codec->name, codec->given.text, text);
        goto out;
    }
    TRY(effective_spec(codec, &specs.given, &specs.effective));
    if (specs.effective.compressor != codec->compressor) {
        status =
            tacit__fail(TACIT_ERR_SPEC, "slot '%s': '%s' changes whether this tensor is compressed: make a new slot for that",
                        codec->name, text);
        goto out;
    }
    if (!same_memory(codec, &specs.effective)) {
        status = tacit__fail(TACIT_ERR_SPEC,
                             "slot '%s' is '%s'; '%s' changes what it remembers, or how that begins: make a new slot "
                             "for that",
                             codec->name, codec->given.text, text);
        goto out;
    }
    TRY(make_work(codec, &specs.effective, &specs.work, &specs.work_count));
    TRY(tacit__codec_reserve(codec, unit_of(specs.effective.compressor, specs.effective.compressor_config)));
    if (specs.work != NULL && codec->work != NULL) { /* what both have: powersgd's first columns */
        memcpy(specs.work, codec->work, tacit__min(specs.work_count, codec->work_count) * sizeof *specs.work);
    }
    *specs_out = specs;
    specs = (tacit_specs_t){0}; /* now the caller's */
out:
    tacit__specs_release(&specs);
    return status;
}

void tacit__specs_release(tacit_specs_t *specs)
{
    tacit__spec_release(&specs->given);
    tacit__spec_release(&specs->effective);
    tacit__cuda_free_shared(specs->module, specs->work);
    *specs = (tacit_specs_t){0};
}

void tacit__codec_adopt_specs(tacit_codec_t *codec, tacit_specs_t *specs)
{
    tacit__spec_release(&codec->spec);
    tacit__spec_release(&codec->given);
    tacit__cuda_free_shared(codec->module, codec->work);
    codec->spec = specs->effective;
    codec->given = specs->given;
    codec->work = specs->work;
    codec->work_count = specs->work_count;
    follow_spec(codec);
    codec->memory.config = codec->owner.config = codec->spec.feedback_config;
    codec->own_is_zero = false; /* they may say whether it is */
    *specs = (tacit_specs_t){0};
}
