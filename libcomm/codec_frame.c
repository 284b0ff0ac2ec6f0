/* SPDX-License-Identifier: Apache-2.0 */
/* The public codec: ranges and whole tensors as frames, for programs that move their own bytes. */
#include <inttypes.h>
#include <string.h>

#include "codec_unit.h"
#include "environment.h"
#include "frame.h"

tacit_status_t tacit__codec_config(const tacit_config_t *given, tacit_config_t *config_out, bool *disabled_out)
{
    tacit_environment_t environment;

    *config_out = (tacit_config_t)TACIT_CONFIG_INIT;
    if (given != NULL && (given->struct_bytes < TACIT_CONFIG_LEAST || given->struct_bytes > 4096)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: struct_bytes is %zu; begin with TACIT_CONFIG_INIT", given->struct_bytes);
    }
    if (given != NULL) {
        memcpy(config_out, given, tacit__min(given->struct_bytes, sizeof *config_out));
    }
    if (config_out->nonfinite < TACIT_NONFINITE_ERROR || config_out->nonfinite > TACIT_NONFINITE_PASS) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: nonfinite=%d is not a tacit_nonfinite_t", config_out->nonfinite);
    }
    tacit__environment_read(&environment);
    config_out->spec = config_out->spec != NULL ? config_out->spec : environment.spec != NULL ? environment.spec : "auto";
    config_out->strict = config_out->strict != 0 || environment.strict != 0;
    *disabled_out = environment.disable != 0;
    return TACIT_OK;
}

tacit_status_t tacit_codec_create(const char *name, const tacit_slot_config_t *slot_config, const tacit_config_t *config,
                                  int rank, int ranks, tacit_codec_t **codec_out)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      common;
    tacit_codec_t      *codec = NULL;
    const char         *given;
    bool                disabled = false;
    tacit_status_t      status;

    if (name == NULL || slot_config == NULL || codec_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec: name, slot_config and codec_out must be given");
    }
    if (ranks < 1 || rank < 0 || rank >= ranks) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec '%s': rank %d of %d", name, rank, ranks);
    }
    if (slot_config->struct_bytes < sizeof tensor || slot_config->struct_bytes > 4096) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec '%s': struct_bytes is %zu; begin with TACIT_SLOT_CONFIG_INIT", name,
                           slot_config->struct_bytes);
    }
    memcpy(&tensor, slot_config, tacit__min(slot_config->struct_bytes, sizeof tensor));
    TRY(tacit__codec_config(config, &common, &disabled));
    given = tensor.spec != NULL ? tensor.spec : common.spec;
    tensor.spec = disabled ? "none" : given;
    TRY(tacit__codec_create(name, &tensor, &common, rank, ranks, &codec));
    if (disabled) { /* a spec that is wrong stays so */
        TRY(tacit__codec_parse_given(codec, given));
    }
    if (codec->other.compressor != NULL) {
        status = tacit__fail(TACIT_ERR_UNSUPPORTED,
                             "codec '%s', '%s': a dense first operation is a collective's; give init=zero, or use a slot", name,
                             codec->given.text);
        goto out;
    }
    *codec_out = codec;
    codec = NULL; /* now the caller's */
out:
    tacit_codec_destroy(codec);
    return status;
}

size_t tacit_codec_grain(const tacit_codec_t *codec)
{
    return codec != NULL && tacit__codec_is_blockwise(codec) ? tacit__codec_edge(codec) : 0;
}

/* Bytes of a whole-tensor payload at most. */
static size_t whole_bound(const tacit_codec_t *codec)
{
    const tacit_compressor_t *compressor = codec->compressor;
    const void               *config = codec->spec.compressor_config;
    size_t                    count = codec->tensor.count;

    return compressor->select != NULL ? compressor->select->bound(config, count, compressor->select->limit(config, count))
                                      : compressor->linear->factor_count(config, &codec->tensor, 0) * sizeof(float);
}

size_t tacit_codec_capacity(const tacit_codec_t *codec, size_t count)
{
    if (codec == NULL) {
        return 0;
    }
    return TACIT_FRAME_HEADER_BYTES + (tacit__codec_is_blockwise(codec)
                                           ? codec->compressor->bound(codec->spec.compressor_config, count)
                                           : whole_bound(codec));
}

/* A public call's codec and buffers; `data` may be NULL where there is no element. */
static tacit_status_t check_call(const tacit_codec_t *codec, const void *data, size_t count, const void *frame)
{
    if (codec == NULL || frame == NULL || (data == NULL && count != 0)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec%s%s: the codec, the tensor, the frame or bytes_out is NULL",
                           codec != NULL ? " " : "", codec != NULL ? codec->name : "");
    }
    if (codec->module != NULL) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED, "codec '%s': its tensor is on a GPU and goes through a bundle (tacit_bundle.h)",
                           codec->name);
    }
    return tacit__codec_is_free(codec);
}

/* Ranges that a frame may hold. */
static tacit_status_t check_range(const tacit_codec_t *codec, size_t first, size_t count)
{
    size_t total = codec->tensor.count;
    size_t edge = tacit_codec_grain(codec);
    bool   fits;

    if (first > total || count > total - first) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec '%s': elements %zu to %zu are not within its %zu", codec->name, first,
                           first + count, total);
    }
    if (edge == 0) {
        fits = count == total;
    } else { /* a rank that owns nothing may say so at the end */
        fits = (first % edge == 0 && (count % edge == 0 || first + count == total)) || (count == 0 && first == total);
    }
    return fits ? TACIT_OK
                : tacit__fail(TACIT_ERR_ARGUMENT,
                              "codec '%s': the range of %zu elements from %zu does not lie on multiples of %zu "
                              "(tacit_codec_grain(); 0: the whole tensor)",
                              codec->name, count, first, edge);
}

static tacit_status_t check_room(const tacit_codec_t *codec, size_t count, size_t capacity)
{
    if (tacit_codec_capacity(codec, count) - TACIT_FRAME_HEADER_BYTES > UINT32_MAX) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec '%s': %zu elements are too many for one frame; encode smaller ranges",
                           codec->name, count);
    }
    if (capacity < tacit_codec_capacity(codec, count)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec '%s': a frame of %zu elements needs %zu bytes, capacity is %zu",
                           codec->name, count, tacit_codec_capacity(codec, count), capacity);
    }
    return TACIT_OK;
}

static tacit_status_t report(const tacit_codec_t *codec, uint64_t step, uint32_t faults)
{
    return faults == 0 ? TACIT_OK
                       : tacit__fail(TACIT_ERR_VALUE, "rank %d: slot '%s' holds NaN or infinity at step %" PRIu64, codec->rank,
                                     codec->name, step);
}

static void write_header(const tacit_codec_t *codec, tacit_frame_kind_t kind, const tacit_block_t *range, size_t payload_bytes,
                         uint8_t *message)
{
    tacit_frame_t frame = {
        .kind = (uint8_t)kind,
        .compressor = codec->compressor->wire_id,
        .compressor_version = codec->compressor->wire_version,
        .rank = (uint16_t)codec->rank,
        .slot = (uint32_t)codec->key.slot,
        .spec = (uint32_t)codec->spec.hash,
        .step = (uint32_t)range->key.step,
        .elements = (uint32_t)codec->tensor.count,
        .first = (uint32_t)range->first,
        .count = (uint32_t)range->count,
        .total = 1,
        .payload_bytes = (uint32_t)payload_bytes,
    };

    tacit__frame_write(&frame, message);
}

/* What a call has written to the owner's memory holds from now on. */
static void settle_owner(const tacit_codec_t *codec, size_t first, size_t count)
{
    const tacit_state_t *owner = &codec->owner;

    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (owner->now[i] != NULL) {
            memcpy(owner->now[i] + first - codec->owner_first, owner->next[i] + first - codec->owner_first,
                   count * sizeof(float));
        }
    }
}

static tacit_status_t check_blockwise(const tacit_codec_t *codec)
{
    return tacit__codec_is_blockwise(codec)
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_UNSUPPORTED,
                             "codec '%s': sums of '%s' are not encoded again; gather the frames and add them", codec->name,
                             codec->spec.text);
}

tacit_status_t tacit_codec_own(tacit_codec_t *codec, size_t first, size_t count, tacit_op_t op)
{
    tacit_status_t status;

    TRY(check_call(codec, NULL, 0, codec));
    TRY(check_blockwise(codec));
    TRY(check_range(codec, first, count));
    TRY(tacit__codec_own_part(codec, 0, first, count, op == TACIT_AVERAGE));
    tacit__codec_forget_former(codec);
out:
    return status;
}

/* Sparse: one piece that covers the tensor. */
static tacit_status_t encode_sparse(tacit_codec_t *codec, const tacit_block_t *block, const void *in, uint8_t *payload,
                                    size_t *bytes_out)
{
    tacit_status_t  status;
    tacit_entries_t entries;

    TRY(tacit__codec_expand(codec));
    TRY(report(codec, block->key.step, tacit__codec_choose(codec, block->key.step, in, &entries)));
    *bytes_out =
        codec->compressor->select->encode(block, entries.values, entries.indices, entries.count, payload, entries.values);
    tacit__codec_sent(codec, in, &entries);
    tacit__codec_pack(codec, block->key.step);
out:
    tacit__codec_collapse(codec);
    return status;
}

/* Linear: the own factor, as float32. */
static tacit_status_t encode_linear(tacit_codec_t *codec, const tacit_block_t *block, const void *in, uint8_t *payload,
                                    size_t *bytes_out)
{
    tacit_status_t        status;
    const tacit_linear_t *linear = codec->compressor->linear;
    size_t                count = linear->factor_count(block->config, &codec->tensor, 0);
    float                *factor = tacit__alloc(count, sizeof *factor);
    const float *const   *factors = (const float *const *)&factor;
    const float          *a;

    if (factor == NULL || linear->rounds(block->config, &codec->tensor) != 1) {
        status = tacit__fail(factor == NULL ? TACIT_ERR_MEMORY : TACIT_ERR_UNSUPPORTED,
                             "codec '%s': '%s' does not fit into one frame", codec->name, codec->spec.text);
        goto out;
    }
    TRY(tacit__codec_expand(codec));
    TRY(report(codec, block->key.step, tacit__codec_gather(codec, in, &a)));
    linear->make_factor(block, &codec->tensor, 0, a, codec->work, NULL, factor);
    tacit__codec_rebuilt(codec, block->key.step, in, a, factors);
    tacit__codec_pack(codec, block->key.step);
    memcpy(payload, factor, count * sizeof *factor);
    *bytes_out = count * sizeof *factor;
out:
    tacit__codec_collapse(codec);
    tacit__free(factor);
    return status;
}

static tacit_status_t encode_range(tacit_codec_t *codec, const tacit_block_t *range, const void *in, uint8_t *payload,
                                   size_t *bytes_out)
{
    tacit_status_t status = TACIT_OK;

    if (codec->compressor->select != NULL) {
        return encode_sparse(codec, range, in, payload, bytes_out);
    }
    if (codec->compressor->linear != NULL) {
        return encode_linear(codec, range, in, payload, bytes_out);
    }
    if (tacit__codec_is_uncut(codec)) {
        TRY(tacit__codec_reserve(codec, range->count));
    }
    *bytes_out = codec->compressor->bound(codec->spec.compressor_config, range->count);
    status = report(codec, range->key.step, tacit__codec_encode(codec, range->key.step, in, range->first, range->count, payload));
out:
    return status;
}

tacit_status_t tacit_encode(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count, void *frame,
                            size_t capacity, size_t *bytes_out)
{
    tacit_status_t status;
    tacit_block_t  range;
    uint8_t       *payload = (uint8_t *)frame + TACIT_FRAME_HEADER_BYTES;
    size_t         bytes = 0;

    TRY(check_call(codec, in, count, bytes_out != NULL ? frame : NULL));
    TRY(check_range(codec, first, count));
    range = tacit__codec_block(codec, step, first, count);
    TRY(check_room(codec, count, capacity));
    status = encode_range(codec, &range, in, payload, &bytes);
    if (status != TACIT_OK) {
        tacit__memory_unsettle(codec, first, count); /* or combine() would settle it */
        goto out;
    }
    tacit__memory_settle(codec, first, count);
    write_header(codec, TACIT_FRAME_ENCODED, &range, bytes, frame);
    *bytes_out = TACIT_FRAME_HEADER_BYTES + bytes;
out:
    return status;
}

tacit_status_t tacit_reencode(tacit_codec_t *codec, uint64_t step, const float *sum, size_t first, size_t count, void *frame,
                              size_t capacity, size_t *bytes_out)
{
    tacit_status_t status;
    tacit_block_t  range;
    uint8_t       *payload = (uint8_t *)frame + TACIT_FRAME_HEADER_BYTES;
    float         *copy = NULL;
    size_t         bytes;

    TRY(check_call(codec, sum, count, bytes_out != NULL ? frame : NULL));
    TRY(check_blockwise(codec));
    TRY(check_range(codec, first, count));
    range = tacit__codec_block(codec, step, first, count);
    TRY(check_room(codec, count, capacity));
    if (codec->feedback != NULL && codec->feedback->owner != NULL &&
        (first < codec->owner_first || first + count > codec->owner_first + codec->owner.count)) {
        status =
            tacit__fail(TACIT_ERR_STATE, "codec '%s': elements %zu to %zu are not within the owned part; call tacit_codec_own()",
                        codec->name, first, first + count);
        goto out;
    }
    if (tacit__codec_is_uncut(codec)) {
        TRY(tacit__codec_reserve(codec, count));
    }
    copy = tacit__alloc(count, sizeof *copy);
    if (copy == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "codec '%s': no memory for %zu elements", codec->name, count);
        goto out;
    }
    memcpy(copy, sum, count * sizeof *copy);
    bytes = codec->compressor->bound(codec->spec.compressor_config, count);
    TRY(report(codec, step, tacit__codec_reencode(codec, step, copy, first, count, payload)));
    settle_owner(codec, first, count);
    write_header(codec, TACIT_FRAME_REENCODED, &range, bytes, frame);
    *bytes_out = TACIT_FRAME_HEADER_BYTES + bytes;
out:
    tacit__free(copy);
    return status;
}

/* A frame that this codec can decode at this step. */
static tacit_status_t open_frame(const tacit_codec_t *codec, uint64_t step, const void *message, size_t bytes,
                                 tacit_frame_t *frame_out)
{
    const char *reason = tacit__frame_parse(message, bytes, frame_out);

    if (reason != NULL) {
        return tacit__fail(TACIT_ERR_FRAME, "slot '%s': a frame cannot be used: %s", codec->name, reason);
    }
    if (frame_out->kind != TACIT_FRAME_ENCODED && frame_out->kind != TACIT_FRAME_REENCODED) {
        return tacit__fail(TACIT_ERR_FRAME, "slot '%s': a frame is not one of the codec's", codec->name);
    }
    if (frame_out->slot != (uint32_t)codec->key.slot || frame_out->spec != (uint32_t)codec->spec.hash ||
        frame_out->elements != (uint32_t)codec->tensor.count || frame_out->compressor != codec->compressor->wire_id ||
        frame_out->compressor_version != codec->compressor->wire_version) {
        return tacit__fail(TACIT_ERR_MISMATCH,
                           "slot '%s' of %zu elements with '%s': rank %u sent a frame of %u elements of another slot or spec",
                           codec->name, codec->tensor.count, codec->spec.canonical, frame_out->rank, frame_out->elements);
    }
    if (frame_out->step != (uint32_t)step) {
        return tacit__fail(TACIT_ERR_MISMATCH, "slot '%s': rank %u is at step %u, this rank at %u", codec->name, frame_out->rank,
                           frame_out->step, (uint32_t)step);
    }
    return check_range(codec, frame_out->first, frame_out->count) == TACIT_OK ? TACIT_OK : TACIT_ERR_FRAME;
}

static tacit_status_t wrong_payload(const tacit_codec_t *codec, const tacit_frame_t *frame)
{
    return tacit__fail(TACIT_ERR_FRAME, "slot '%s': the payload of rank %u's frame (%u bytes) is not one of '%s'", codec->name,
                       frame->rank, frame->payload_bytes, codec->spec.text);
}

/* Adds or stores a sparse payload. The result is made a unit at a time: in place, where nothing more is to become of it. */
static tacit_status_t decode_sparse(tacit_codec_t *codec, const tacit_block_t *block, const tacit_frame_t *frame, float *sum,
                                    void *out)
{
    const tacit_select_t *select = codec->compressor->select;
    const size_t          limit = select->limit(block->config, block->count);
    const bool in_place = codec->tensor.dtype == TACIT_FLOAT32 && (codec->feedback == NULL || codec->feedback->combine == NULL);
    tacit_entries_t entries = {0};
    size_t          next = 0, units = 0;

    if (!tacit__selection_reserve(&codec->selection, &codec->spec, codec->tensor.count)) {
        return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for %zu entries", codec->name, limit);
    }
    entries = tacit__selection_entries(codec->selection);
    entries.count = select->decode(block, frame->payload, frame->payload_bytes, entries.indices, entries.values, limit);
    if (entries.count == SIZE_MAX) {
        return wrong_payload(codec, frame);
    }
    for (size_t i = 0; sum != NULL && i < entries.count; i++) {
        sum[entries.indices[i]] += entries.values[i];
    }
    for (size_t done = 0; out != NULL && done < block->count; done += units) {
        float *values = in_place ? (float *)out + done : codec->d;

        tacit__codec_scatter(&entries, &next, done, units = tacit__min(block->count - done, codec->unit), values);
        if (!in_place) {
            tacit__codec_store(codec, values, done, units, out);
        }
    }
    return TACIT_OK;
}

/* Adds or stores what a factor stands for. */
static tacit_status_t decode_linear(tacit_codec_t *codec, const tacit_block_t *block, const tacit_frame_t *frame, float *sum,
                                    void *out)
{
    const tacit_linear_t *linear = codec->compressor->linear;
    size_t                count = linear->factor_count(block->config, &codec->tensor, 0);
    float                *factor = tacit__alloc(count, sizeof *factor);
    size_t                units = 0;

    if (factor == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for a factor", codec->name);
    }
    if (frame->payload_bytes != count * sizeof *factor) {
        tacit__free(factor);
        return wrong_payload(codec, frame);
    }
    memcpy(factor, frame->payload, frame->payload_bytes);
    for (size_t done = 0; done < block->count; done += units) {
        tacit_block_t unit = *block;

        unit.first = done;
        unit.count = units = tacit__min(block->count - done, codec->unit);
        linear->reconstruct(&unit, &codec->tensor, (const float *const *)&factor, codec->d);
        for (size_t i = 0; sum != NULL && i < units; i++) {
            sum[done + i] += codec->d[i];
        }
        if (out != NULL) {
            tacit__codec_store(codec, codec->d, done, units, out);
        }
    }
    tacit__free(factor);
    return TACIT_OK;
}

/* Exactly one of sum and out is given. */
static tacit_status_t decode(tacit_codec_t *codec, uint64_t step, const void *message, size_t bytes, float *sum, void *out,
                             tacit_frame_t *frame_out)
{
    tacit_status_t status;
    tacit_frame_t  frame;
    tacit_block_t  block;

    TRY(check_call(codec, sum != NULL ? (const void *)sum : out, codec != NULL ? codec->tensor.count : 0, message));
    TRY(open_frame(codec, step, message, bytes, &frame));
    block = tacit__codec_block(codec, step, frame.first, frame.count);
    if (codec->compressor->select != NULL) {
        TRY(decode_sparse(codec, &block, &frame, sum, out));
    } else if (codec->compressor->linear != NULL) {
        TRY(decode_linear(codec, &block, &frame, sum, out));
    } else if (frame.payload_bytes != codec->compressor->bound(block.config, block.count)) {
        status = wrong_payload(codec, &frame);
        goto out;
    } else if (sum != NULL) {
        tacit__codec_add(codec, step, frame.payload, frame.first, frame.count, sum + frame.first, true);
    } else {
        if (tacit__codec_is_uncut(codec)) {
            TRY(tacit__codec_reserve(codec, frame.count));
        }
        tacit__codec_finish(codec, step, frame.payload, frame.first, frame.count, out);
    }
    if (out != NULL && codec->feedback != NULL && codec->feedback->combine != NULL) {
        tacit__memory_settle(codec, frame.first, frame.count);
    }
    *frame_out = frame;
out:
    return status;
}

static void report_range(const tacit_frame_t *frame, size_t *first_out, size_t *count_out)
{
    if (first_out != NULL) {
        *first_out = frame->first;
    }
    if (count_out != NULL) {
        *count_out = frame->count;
    }
}

tacit_status_t tacit_decode(tacit_codec_t *codec, uint64_t step, const void *frame, size_t bytes, void *out, size_t *first_out,
                            size_t *count_out)
{
    tacit_status_t status;
    tacit_frame_t  parsed;

    TRY(decode(codec, step, frame, bytes, NULL, out, &parsed));
    report_range(&parsed, first_out, count_out);
out:
    return status;
}

tacit_status_t tacit_decode_add(tacit_codec_t *codec, uint64_t step, const void *frame, size_t bytes, float *sum,
                                size_t *first_out, size_t *count_out)
{
    tacit_status_t status;
    tacit_frame_t  parsed;

    TRY(decode(codec, step, frame, bytes, sum, NULL, &parsed));
    report_range(&parsed, first_out, count_out);
out:
    return status;
}

tacit_status_t tacit_codec_combine(tacit_codec_t *codec, const float *sum, size_t first, size_t count, void *out)
{
    tacit_status_t status;
    size_t         units = 0;

    TRY(check_call(codec, sum, count, out != NULL || count == 0 ? codec : NULL));
    TRY(check_range(codec, first, count));
    for (size_t done = 0; done < count; done += units) {
        units = tacit__min(count - done, codec->unit);
        memcpy(codec->d, sum + done, units * sizeof *sum);
        tacit__codec_store(codec, codec->d, first + done, units, out);
    }
    if (codec->feedback != NULL && codec->feedback->combine != NULL) {
        tacit__memory_settle(codec, first, count);
    }
out:
    return status;
}
