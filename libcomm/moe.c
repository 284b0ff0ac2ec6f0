/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of mixtures of experts: made, counted, destroyed. */
#include "moe.h"

#include <math.h>
#include <string.h>

#include "codec.h"
#include "moe_device.h"

enum {
    MOST_HERE = 0x8000 /* experts of a rank: a head's words have a bit more (moe_layout.c) */
};

static tacit_status_t check_counts(const char *name, const tacit_moe_config_t *config, int ranks)
{
    const size_t here = (config->experts + (size_t)ranks - 1) / (size_t)ranks;
    size_t       replies, rows, bytes;

    if (config->dimension == 0 || config->experts == 0 || config->tokens == 0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': dimension is %zu, experts %zu, tokens %zu: none may be 0", name,
                           config->dimension, config->experts, config->tokens);
    }
    if (config->choices > config->experts) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': %zu choices of a token among %zu experts", name, config->choices,
                           config->experts);
    }
    if (config->experts > (size_t)ranks * MOST_HERE) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': %zu experts on %d ranks, where a rank may have %d", name,
                           config->experts, ranks, MOST_HERE);
    }
    if (config->dimension > INT32_MAX || __builtin_mul_overflow(config->tokens, config->choices, &replies) ||
        __builtin_mul_overflow(config->tokens * tacit__min(config->choices, here), (size_t)ranks, &rows) ||
        replies >= UINT32_MAX / 2 || rows >= UINT32_MAX / 2 ||
        __builtin_mul_overflow(rows > replies ? rows : replies, config->dimension * sizeof(float), &bytes)) {
        return tacit__fail(TACIT_ERR_ARGUMENT,
                           "moe '%s': %zu tokens of %zu elements with %zu choices, on each of %d ranks, are too many", name,
                           config->tokens, config->dimension, config->choices, ranks);
    }
    return TACIT_OK;
}

static tacit_status_t check_config(const char *name, const tacit_moe_config_t *config, int rank, int ranks)
{
    if (ranks < 1 || ranks > UINT16_MAX || rank < 0 || rank >= ranks) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': rank %d of %d", name, rank, ranks);
    }
    if ((int)config->dtype < TACIT_FLOAT32 || config->dtype > TACIT_BFLOAT16) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': dtype %d is not a tacit_dtype_t", name, (int)config->dtype);
    }
    if (config->device != TACIT_CPU && config->device != TACIT_CUDA) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': device %d is not a tacit_device_t", name, (int)config->device);
    }
    return check_counts(name, config, ranks);
}

static tacit_status_t make_room(tacit_moe_t *moe)
{
    const size_t dimension = moe->config.dimension;

    moe->scratch[0] = tacit__alloc(TACIT_MOE_ROWS * dimension, sizeof **moe->scratch);
    moe->order = tacit__alloc(moe->config.choices, sizeof *moe->order);
    if (moe->clusters) {
        moe->signs = tacit__alloc(tacit__lsh_words(&moe->lsh, dimension), sizeof *moe->signs);
        moe->hashing = tacit__alloc(tacit__lsh_scratch(&moe->lsh, dimension), sizeof *moe->hashing);
        moe->hashed = tacit__alloc(TACIT_MOE_HASHED * dimension, sizeof *moe->hashed);
    }
    if (moe->scratch[0] == NULL || moe->order == NULL ||
        (moe->clusters && (moe->signs == NULL || moe->hashing == NULL || moe->hashed == NULL))) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for a layer of %zu elements a token", moe->rank,
                           moe->name, dimension);
    }
    for (size_t i = 1; i < TACIT_MOE_ROWS; i++) {
        moe->scratch[i] = moe->scratch[i - 1] + dimension;
    }
    if (moe->clusters) {
        moe->rotations = tacit__lsh_rotations(&moe->lsh, dimension, &moe->values.key, moe->signs);
    }
    return TACIT_OK;
}

/* How rows travel, and whether tokens are clustered. disabled: neither; but a spec that is wrong stays so. */
static tacit_status_t read_spec(tacit_moe_t *moe, const char *text, bool disabled, const tacit_key_t *key)
{
    tacit_status_t status;
    tacit_spec_t   spec = {0};
    const char    *values = text;

    TRY(tacit__spec_parse_any(text != NULL ? text : "none", &spec));
    if (spec.compressor->tokens) {
        moe->lsh = *(const tacit_lsh_t *)spec.compressor_config;
        moe->clusters = !disabled;
        moe->residual = !disabled && moe->lsh.residual == TACIT_RESIDUAL_ADD;
        values = tacit__codec_cast((tacit_dtype_t)moe->lsh.values); /* words in the same order */
    }
    TRY(tacit__values_init(&moe->values, moe->name, values, moe->config.dtype, moe->nonfinite, key));
    if (disabled) {
        tacit__values_fini(&moe->values);
        TRY(tacit__values_init(&moe->values, moe->name, NULL, moe->config.dtype, moe->nonfinite, key));
    }
    moe->spec_hash = disabled ? moe->values.spec.hash : spec.hash;
out:
    tacit__spec_release(&spec);
    return status;
}

tacit_status_t tacit__moe_create(const char *name, const tacit_moe_config_t *moe_config, const tacit_config_t *config,
                                 bool disabled, int rank, int ranks, tacit_moe_t **moe_out)
{
    tacit_status_t    status;
    const tacit_key_t key = tacit__codec_key(name, config, rank);
    tacit_moe_t      *moe = tacit__alloc(1, sizeof *moe);

    if (moe == NULL || (moe->name = tacit__strdup(name)) == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for a layer", rank, name);
        goto out;
    }
    moe->config = *moe_config;
    moe->config.choices = moe->config.choices != 0 ? moe->config.choices : 1;
    moe->config.spec = NULL;
    moe->work = &tacit__moe_cpu;
    moe->rank = rank;
    moe->ranks = ranks;
    moe->nonfinite = (tacit_nonfinite_t)config->nonfinite;
    TRY(check_config(name, &moe->config, rank, ranks));
    moe->experts = tacit__moe_experts_of(moe, rank);
    TRY(read_spec(moe, moe_config->spec, disabled, &key));
    moe->row_bytes = moe->config.dimension * tacit__values_element_bytes(&moe->values);
    TRY(make_room(moe));
    if (moe->config.device == TACIT_CUDA) {
        TRY(tacit__moe_device_create(moe));
    }
    *moe_out = moe;
    moe = NULL; /* now the caller's */
out:
    tacit_moe_destroy(moe);
    return status;
}

tacit_status_t tacit__moe_config(const char *name, const tacit_moe_config_t *given, const void *moe_out,
                                 tacit_moe_config_t *config_out)
{
    if (name == NULL || given == NULL || moe_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe: its name, its configuration and moe_out must be given");
    }
    if (given->struct_bytes < sizeof *config_out || given->struct_bytes > 4096) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe '%s': struct_bytes is %zu; begin with TACIT_MOE_CONFIG_INIT", name,
                           given->struct_bytes);
    }
    memcpy(config_out, given, sizeof *config_out);
    return TACIT_OK;
}

tacit_status_t tacit_moe_create_codec(const char *name, const tacit_moe_config_t *moe_config, const tacit_config_t *config,
                                      int rank, int ranks, tacit_moe_t **moe_out)
{
    tacit_moe_config_t own = TACIT_MOE_CONFIG_INIT;
    tacit_config_t     common;
    bool               disabled;
    tacit_status_t     status;

    TRY(tacit__moe_config(name, moe_config, moe_out, &own));
    TRY(tacit__codec_config(config, &common, &disabled));
    status = tacit__moe_create(name, &own, &common, disabled, rank, ranks, moe_out);
out:
    return status;
}

void tacit_moe_destroy(tacit_moe_t *moe)
{
    if (moe == NULL) {
        return;
    }
    while (moe->first != NULL) {
        tacit_moe_pass_destroy(moe->first);
    }
    if (moe->comm != NULL) {
        tacit__moe_unlink(moe);
    }
    tacit__moe_device_destroy(moe);
    tacit__values_fini(&moe->values);
    tacit__free(moe->name);
    tacit__free(moe->signs);
    tacit__free(moe->hashing);
    tacit__free(moe->hashed);
    tacit__free(moe->order);
    tacit__free(moe->scratch[0]);
    tacit__free(moe);
}

void *tacit__moe_get(tacit_moe_t *moe, tacit_moe_room_t room, size_t bytes)
{
    return moe->device != NULL ? tacit__moe_device_get(moe->device, room, bytes) : tacit__alloc_unset(bytes);
}

void tacit__moe_put(tacit_moe_t *moe, void *memory)
{
    if (moe->device != NULL) {
        tacit__moe_device_put(moe->device, memory);
    } else {
        tacit__free(memory);
    }
}

tacit_status_t tacit_moe_set_stream(tacit_moe_t *moe, void *stream)
{
    if (moe == NULL || moe->device == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "tacit_moe_set_stream(): the layer is NULL, or its tokens are on the CPU");
    }
    if (moe->comm != NULL) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: moe '%s' has a communicator: its stream is that of tacit_comm_set_stream()",
                           moe->rank, moe->name);
    }
    moe->device->stream = stream;
    return TACIT_OK;
}

tacit_status_t tacit_moe_counters(const tacit_moe_t *moe, tacit_moe_counters_t *counters_out)
{
    if (moe == NULL || counters_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe: the layer and counters_out must be given");
    }
    *counters_out = moe->counters;
    counters_out->residual = moe->norm > 0 ? sqrt(moe->beyond / moe->norm) : 0;
    return TACIT_OK;
}
