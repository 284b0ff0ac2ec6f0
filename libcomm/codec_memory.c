/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps a codec's memory in order: which arrays there are and how they are stored, who owns what, how a step is committed.

   Arrays that a feedback lets be rounded may be packed. A blockwise codec then shows feedback a unit at a time, unpacked into
   scratch; one that sees the whole tensor unpacks them all for an operation. The owner's memory, 1/N of the tensor, is always
   float32. */
#include "codec_memory.h"

#include <assert.h>
#include <string.h>

#include "cuda_module.h"
#include "packed.h"

/* ---- Arrays ---- */

static bool has(const tacit_feedback_t *feedback, const void *config, int array)
{
    return feedback->arrays[array] != NULL && (feedback->has == NULL || feedback->has(config, array));
}

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
            tacit__cuda_free_shared(state->module, state->next[i]);
        }
        tacit__cuda_free_shared(state->module, state->now[i]);
    }
    *state = (tacit_state_t){0};
}

/* All arrays of a codec's state but the packed ones. */
static tacit_status_t state_init(tacit_state_t *state, const tacit_codec_t *codec, const tacit_feedback_t *feedback,
                                 unsigned packed, size_t count, bool doubled)
{
    const void *config = codec->spec.feedback_config;

    *state = (tacit_state_t){.config = config, .module = codec->module, .count = count};
    for (size_t i = 0; i < array_count(feedback); i++) {
        if (!has(feedback, config, (int)i) || (packed >> i & 1) != 0) {
            continue;
        }
        state->now[i] = tacit__cuda_alloc_shared(codec->module, count, sizeof(float));
        state->next[i] = doubled ? tacit__cuda_alloc_shared(codec->module, count, sizeof(float)) : state->now[i];
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

void tacit__state_keep(const tacit_state_t *state, size_t at, size_t count)
{
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (state->next[i] != state->now[i]) {
            memcpy(state->next[i] + at, state->now[i] + at, count * sizeof(float));
        }
    }
}

static size_t packed_bytes(const tacit_codec_t *codec)
{
    return tacit__round_up(tacit__packed_bytes(codec->precision, codec->tensor.count), sizeof(float));
}

static tacit_status_t no_memory(const tacit_codec_t *codec)
{
    return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for %zu elements of feedback '%s'", codec->name,
                       codec->tensor.count, codec->feedback->name);
}

/* Every configuration begins with the precision. */
static tacit_precision_t precision_of(const tacit_codec_t *codec)
{
    int precision = TACIT_PRECISION_FP32;

    if (codec->feedback != NULL) {
        memcpy(&precision, codec->spec.feedback_config, sizeof precision);
    }
    return (tacit_precision_t)precision;
}

tacit_status_t tacit__memory_init(tacit_codec_t *codec)
{
    const tacit_feedback_t *feedback = codec->feedback;
    const void             *config = codec->spec.feedback_config;
    tacit_status_t          status;
    unsigned                packed;

    packed = precision_of(codec) != TACIT_PRECISION_FP32 ? feedback->rounded : 0;
    codec->precision = packed != 0 ? precision_of(codec) : TACIT_PRECISION_FP32;
    TRY(state_init(&codec->memory, codec, feedback, packed, codec->tensor.count, codec->strict));
    for (size_t i = 0; packed != 0 && i < array_count(feedback); i++) {
        if ((packed >> i & 1) == 0 || !has(feedback, config, (int)i)) {
            continue;
        }
        codec->packed[i] = tacit__cuda_alloc_shared(codec->module, packed_bytes(codec), 1);
        codec->packed_next[i] =
            codec->strict ? tacit__cuda_alloc_shared(codec->module, packed_bytes(codec), 1) : codec->packed[i];
        if (codec->packed[i] == NULL || codec->packed_next[i] == NULL) {
            return no_memory(codec);
        }
    }
out:
    return status;
}

void tacit__memory_release(tacit_codec_t *codec)
{
    tacit__codec_collapse(codec);
    tacit__state_release(&codec->memory);
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed_next[i] != codec->packed[i]) {
            tacit__cuda_free_shared(codec->module, codec->packed_next[i]);
        }
        tacit__cuda_free_shared(codec->module, codec->packed[i]);
        tacit__free(codec->scratch[i]);
    }
}

void tacit__memory_zero(tacit_codec_t *codec)
{
    state_zero(&codec->memory);
    state_zero(&codec->owner);
    codec->tracker_op = 0;
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed[i] != NULL) {
            memset(codec->packed[i], 0, packed_bytes(codec));
            memset(codec->packed_next[i], 0, packed_bytes(codec));
        }
    }
}

/* ---- Packed arrays ---- */

bool tacit__memory_is_aligned(const tacit_codec_t *codec, size_t first, size_t count)
{
    const size_t total = codec->tensor.count;

    return first <= total && count <= total - first &&
           (count == 0 || (first % TACIT_PACKED_BLOCK == 0 && (count % TACIT_PACKED_BLOCK == 0 || first + count == total)));
}

/* No compressor and no other array has these random numbers: ranks are counted on, twice for encoders (codec_block.c). */
static tacit_stream_t stream_of(const tacit_codec_t *codec, uint64_t step, size_t purpose)
{
    tacit_key_t key = codec->key;

    key.step = step;
    key.rank += (uint64_t)codec->ranks * (2 + purpose);
    return tacit__stream(&key, false);
}

static void pack(tacit_codec_t *codec, uint64_t step, size_t array, size_t first, size_t count, const float *values)
{
    const tacit_stream_t stream = stream_of(codec, step, array);

    tacit__pack(codec->precision, &stream, first, count, values, codec->packed_next[array]);
}

bool tacit__memory_reserve(tacit_codec_t *codec, size_t count)
{
    float *scratch[TACIT_STATE_ARRAYS] = {NULL};
    bool   done = true;

    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        scratch[i] = codec->packed[i] != NULL ? tacit__alloc(count, sizeof(float)) : NULL;
        done = done && (codec->packed[i] == NULL || scratch[i] != NULL);
    }
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        tacit__free(done ? codec->scratch[i] : scratch[i]);
        codec->scratch[i] = done ? scratch[i] : codec->scratch[i];
    }
    return done;
}

static bool is_windowed(const tacit_codec_t *codec)
{
    return codec->precision != TACIT_PRECISION_FP32 && !codec->expanded;
}

const tacit_state_t *tacit__memory_open(tacit_codec_t *codec, size_t first, size_t count, size_t *at_out)
{
    *at_out = first;
    if (!is_windowed(codec)) {
        return &codec->memory;
    }
    assert(tacit__memory_is_aligned(codec, first, count));
    *at_out = 0;
    codec->window = (tacit_state_t){.config = codec->memory.config, .count = count};
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed[i] != NULL) {
            tacit__unpack(codec->precision, first, count, codec->packed[i], codec->scratch[i]);
            codec->window.now[i] = codec->window.next[i] = codec->scratch[i];
        } else if (codec->memory.now[i] != NULL) {
            codec->window.now[i] = codec->memory.now[i] + first;
            codec->window.next[i] = codec->memory.next[i] + first;
        }
    }
    return &codec->window;
}

void tacit__memory_close(tacit_codec_t *codec, uint64_t step, size_t first, size_t count)
{
    for (size_t i = 0; is_windowed(codec) && i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed[i] != NULL) {
            pack(codec, step, i, first, count, codec->scratch[i]);
        }
    }
}

tacit_status_t tacit__codec_expand(tacit_codec_t *codec)
{
    const size_t count = codec->tensor.count, among = codec->range.end - codec->range.begin;

    if (codec->compressor->select != NULL && !tacit__selection_reserve(&codec->selection, &codec->spec, among)) {
        return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory to choose among %zu elements", codec->name, among);
    }
    if (!is_windowed(codec)) {
        return TACIT_OK;
    }
    codec->expanded = true;
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed[i] == NULL) {
            continue;
        }
        codec->memory.now[i] = codec->memory.next[i] = tacit__alloc(count, sizeof(float));
        if (codec->memory.now[i] == NULL) {
            tacit__codec_collapse(codec);
            return no_memory(codec);
        }
        tacit__unpack(codec->precision, 0, count, codec->packed[i], codec->memory.now[i]);
    }
    return TACIT_OK;
}

void tacit__codec_collapse(tacit_codec_t *codec)
{
    for (size_t i = 0; codec->expanded && i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed[i] != NULL) {
            tacit__free(codec->memory.now[i]);
            codec->memory.now[i] = codec->memory.next[i] = NULL;
        }
    }
    codec->expanded = false;
}

void tacit__codec_pack(tacit_codec_t *codec, uint64_t step)
{
    for (size_t i = 0; codec->expanded && i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed[i] != NULL) {
            pack(codec, step, i, 0, codec->tensor.count, codec->memory.next[i]);
        }
    }
    tacit__codec_collapse(codec);
}

void tacit__memory_forget(tacit_codec_t *codec, size_t element)
{
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->memory.next[i] != NULL) {
            codec->memory.next[i][element] = 0.0f;
        } else if (codec->packed[i] != NULL) {
            tacit__packed_forget(codec->precision, element, codec->packed_next[i]);
        }
    }
}

void tacit__memory_settle(tacit_codec_t *codec, size_t first, size_t count)
{
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->memory.next[i] != codec->memory.now[i]) {
            memcpy(codec->memory.now[i] + first, codec->memory.next[i] + first, count * sizeof(float));
        }
        if (codec->packed_next[i] != codec->packed[i]) {
            const size_t at = tacit__packed_bytes(codec->precision, first);

            memcpy(codec->packed[i] + at, codec->packed_next[i] + at, tacit__packed_bytes(codec->precision, count));
        }
    }
}

void tacit__memory_unsettle(tacit_codec_t *codec, size_t first, size_t count)
{
    tacit__state_keep(&codec->memory, first, count);
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        if (codec->packed_next[i] != codec->packed[i]) {
            const size_t at = tacit__packed_bytes(codec->precision, first);

            memcpy(codec->packed_next[i] + at, codec->packed[i] + at, tacit__packed_bytes(codec->precision, count));
        }
    }
}

void tacit__memory_read(const tacit_codec_t *codec, int array, size_t first, size_t count, float *values)
{
    if (codec->packed[array] != NULL) {
        assert(tacit__memory_is_aligned(codec, first, count));
        tacit__unpack(codec->precision, first, count, codec->packed[array], values);
    } else {
        memcpy(values, codec->memory.now[array] + first, count * sizeof *values);
    }
}

void tacit__memory_write(tacit_codec_t *codec, uint64_t step, int array, size_t first, size_t count, const float *values)
{
    codec->own_is_zero = false;
    if (codec->packed[array] != NULL) {
        const tacit_stream_t stream = stream_of(codec, step, TACIT_STATE_ARRAYS + (size_t)array);

        assert(tacit__memory_is_aligned(codec, first, count));
        tacit__pack(codec->precision, &stream, first, count, values, codec->packed[array]);
    } else {
        memcpy(codec->memory.now[array] + first, values, count * sizeof *values);
    }
}

/* ---- The owner ---- */

static bool is_dealt(const tacit_codec_t *codec)
{
    return codec->compressor->select != NULL;
}

tacit_deal_t tacit__codec_deal(const tacit_codec_t *codec)
{
    return (tacit_deal_t){codec->key.slot, codec->range.end - codec->range.begin, codec->owners, (uint32_t)codec->range.begin};
}

size_t tacit__codec_part(const tacit_codec_t *codec)
{
    const tacit_deal_t deal = tacit__codec_deal(codec);

    return tacit__deal_part(&deal, codec->own);
}

/* Of an owned part of `count` elements, which begins at element `first` unless it is dealt. */
static size_t owned_run(const tacit_codec_t *codec, size_t first, size_t count, size_t at, size_t *element_out)
{
    const tacit_deal_t deal = tacit__codec_deal(codec);

    *element_out = is_dealt(codec) ? tacit__deal_element(&deal, codec->own, (uint32_t)at) : first + at;
    return is_dealt(codec) ? tacit__min(count - at, TACIT_DEAL_BLOCK - at % TACIT_DEAL_BLOCK) : count - at;
}

size_t tacit__codec_owned(const tacit_codec_t *codec, size_t at, size_t *element_out)
{
    return owned_run(codec, codec->owner_first, codec->owner.count, at, element_out);
}

/* What is owed to the others lies in the sender's memory at the part's elements. */
static void read_owed(const tacit_codec_t *codec, size_t first, size_t count, float *values)
{
    size_t element, run;

    for (size_t at = 0; at < count; at += run) {
        run = owned_run(codec, first, count, at, &element);
        tacit__memory_read(codec, codec->feedback->owed.array, element, run, values + at);
    }
}

static void write_owed(tacit_codec_t *codec, uint64_t step, size_t first, size_t count, const float *values)
{
    size_t element, run;

    for (size_t at = 0; at < count; at += run) {
        run = owned_run(codec, first, count, at, &element);
        tacit__memory_write(codec, step, codec->feedback->owed.array, element, run, values + at);
    }
}

/* The memory of a dealt part is changed where it is, at few elements, and taken back there. */
tacit_status_t tacit__codec_make_owner(const tacit_codec_t *codec, size_t count, tacit_state_t *owner_out)
{
    *owner_out = (tacit_state_t){0};
    return codec->feedback == NULL || codec->feedback->owner == NULL || count == 0
               ? TACIT_OK
               : state_init(owner_out, codec, codec->feedback->owner, 0, count, !is_dealt(codec));
}

void tacit__codec_adopt_owner(tacit_codec_t *codec, tacit_state_t *owner, size_t first, bool mean)
{
    tacit__state_release(&codec->owner);
    codec->owner = *owner;
    codec->owner_first = first;
    codec->owner_is_mean = mean;
    codec->own_is_zero = false;
    codec->generation++;
    *owner = (tacit_state_t){0};
}

void tacit__codec_forget_former(tacit_codec_t *codec)
{
    tacit__state_release(&codec->former.owner);
    tacit__free(codec->former.memory);
    codec->former.memory = NULL;
    codec->former.moved = false;
}

/* What the owner kept back joins the sender's memory, of which former.memory has a copy. The owner's is in units of the result,
   the sender's in those of a contribution: the result is their sum or mean. */
static tacit_status_t fold_owner(tacit_codec_t *codec, uint64_t step)
{
    const size_t first = codec->owner_first, count = codec->owner.count;
    const float *owner = codec->owner.now[0];
    const float  scale = codec->feedback->owed.sign * (codec->owner_is_mean ? (float)codec->ranks : 1.0f);
    float       *joined = tacit__alloc_unset(count * sizeof *joined);

    if (joined == NULL) {
        return no_memory(codec);
    }
    read_owed(codec, first, count, joined);
    for (size_t i = 0; i < count; i++) {
        joined[i] += scale * owner[i];
    }
    write_owed(codec, step, first, count, joined);
    tacit__free(joined);
    return TACIT_OK;
}

bool tacit__codec_owns(const tacit_codec_t *codec, size_t first, size_t count, bool mean)
{
    return codec->feedback == NULL || codec->feedback->owner == NULL ||
           (codec->owner.count == count && (count == 0 || (codec->owner_first == first && codec->owner_is_mean == mean)));
}

tacit_status_t tacit__codec_own_part(tacit_codec_t *codec, uint64_t step, size_t first, size_t count, bool mean)
{
    tacit_status_t status;
    tacit_state_t  owner = {0};
    float         *memory = NULL;

    if (tacit__codec_owns(codec, first, count, mean)) {
        return TACIT_OK;
    }
    TRY(tacit__codec_make_owner(codec, count, &owner));
    memory = tacit__alloc_unset(codec->owner.count * sizeof *memory);
    if (memory == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory to own another part", codec->name);
        goto out;
    }
    if (codec->owner.count != 0) {
        read_owed(codec, codec->owner_first, codec->owner.count, memory);
        TRY(fold_owner(codec, step));
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
    if (count != 0) { /* what came from packed memory is packed again exactly */
        write_owed(codec, 0, codec->former.first, count, codec->former.memory);
    }
    tacit__codec_adopt_owner(codec, &codec->former.owner, codec->former.first, codec->former.is_mean);
    tacit__codec_forget_former(codec);
}

/* What doubled memory has become is what it is from now on. */
static void swap(tacit_codec_t *codec)
{
    state_swap(&codec->owner);
    if (!codec->strict) {
        return;
    }
    state_swap(&codec->memory);
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        uint8_t *packed = codec->packed[i];

        codec->packed[i] = codec->packed_next[i];
        codec->packed_next[i] = packed;
    }
}

/* ---- Memory on a device ---- */

void tacit__codec_settle(tacit_codec_t *codec)
{
    if (codec->module == NULL || codec->turn == NULL) {
        return;
    }
    (void)codec->module->synchronize(); /* an error comes back from the next call */
    if (*codec->turn != codec->turned) {
        codec->turned = *codec->turn;
        swap(codec);
    }
}

/* ---- The step's end ---- */

float tacit__codec_conversion(const tacit_codec_t *codec, tacit_op_t op)
{
    const int former = codec->tracker_op, present = 1 + (int)op;

    if (former == 0 || former == present) {
        return 1.0f;
    }
    return op == TACIT_SUM ? (float)codec->ranks : 1.0f / (float)codec->ranks;
}

void tacit__codec_conclude(tacit_codec_t *codec, tacit_op_t op)
{
    const float factor = tacit__codec_conversion(codec, op);

    if (codec->feedback == NULL || codec->feedback->combine == NULL) {
        return;
    }
    codec->tracker_op = 1 + (int)op;
    for (size_t i = 0; factor != 1.0f && i < codec->memory.count; i++) {
        codec->memory.now[codec->feedback->tracker][i] *= factor;
    }
}

void tacit__codec_commit(tacit_codec_t *codec, uint64_t step)
{
    tacit__codec_pack(codec, step);
    swap(codec);
    tacit__codec_forget_former(codec);
    codec->own_is_zero = codec->feedback == &tacit__feedback_ef && tacit__codec_is_blockwise(codec) &&
                         !tacit__codec_own_coded(codec) && !codec->strict && codec->nonfinite != TACIT_NONFINITE_PASS;
}

bool tacit__codec_array(const tacit_codec_t *codec, size_t index, tacit_array_t *array_out)
{
    const tacit_feedback_t *feedback = codec->feedback;
    const size_t            owner_arrays = codec->owner.count != 0 ? array_count(feedback->owner) : 0;

    for (size_t i = 0; i < array_count(feedback); i++) {
        if (codec->packed[i] == NULL && codec->memory.now[i] == NULL) {
            continue;
        }
        if (index-- == 0) {
            *array_out = codec->packed[i] != NULL
                             ? (tacit_array_t){feedback->arrays[i], (float *)(void *)codec->packed[i],
                                               packed_bytes(codec) / sizeof(float), true}
                             : (tacit_array_t){feedback->arrays[i], codec->memory.now[i], codec->memory.count, false};
            return true;
        }
    }
    if (index < owner_arrays) {
        *array_out = (tacit_array_t){"owner", codec->owner.now[index], codec->owner.count, false};
        return true;
    }
    index -= owner_arrays;
    if (index == 0 && codec->work != NULL) {
        *array_out = (tacit_array_t){"work", codec->work, codec->work_count, false};
        return true;
    }
    return false;
}
