/* SPDX-License-Identifier: Apache-2.0 */
/* Blockwise work of a codec: ranges are handled a unit at a time, so that what one loop writes the next reads from L1. */
#include <math.h>
#include <string.h>

#include "codec_unit.h"
#include "isa.h"

/* Bytes of a payload up to an element of the range, which is a multiple of the grain or the range's end. */
static size_t payload_at(const tacit_codec_t *codec, size_t elements)
{
    return codec->compressor->bound(codec->spec.compressor_config, elements);
}

/* Elements of the next unit of a range; an uncut range is one. */
static size_t unit_count(const tacit_codec_t *codec, size_t left)
{
    return tacit__codec_is_uncut(codec) ? left : tacit__min(left, codec->unit);
}

/* Whether the encoder keeps this feedback itself: not where NaN and infinity may pass. */
static bool is_fused(const tacit_codec_t *codec, const tacit_feedback_t *feedback, bool passes)
{
    return codec->kernels->encode_ef != NULL && feedback == &tacit__feedback_ef && !passes;
}

/* The memory of a feedback that encoders keep, from element `at` of the state on. */
static tacit_ef_t ef_of(const tacit_state_t *state, size_t at, const float *in)
{
    const int residual = tacit__feedback_ef.residual;

    return (tacit_ef_t){.in = in, .now = state->now[residual] + at, .next = state->next[residual] + at};
}

/* One unit of encode(), where encoders keep the feedback. If it returns a fault, the first *done_out elements have changed. */
static uint32_t encode_fused(tacit_codec_t *codec, const tacit_block_t *block, const void *in, uint8_t *payload, size_t *done_out)
{
    size_t               at;
    const float         *x = tacit__unit_load(codec, in, block->first, block->count);
    const tacit_state_t *state = tacit__memory_open(codec, block->first, block->count, &at);
    const tacit_ef_t     ef = ef_of(state, at, x);
    const uint32_t       faults = codec->kernels->encode_ef(block, &ef, payload, done_out);

    tacit__memory_close(codec, block->key.step, block->first, *done_out);
    return faults;
}

/* One unit of encode() with any other feedback, or none: nothing has changed if it returns a fault. */
static uint32_t encode_unit(tacit_codec_t *codec, const tacit_block_t *block, const void *in, uint8_t *payload)
{
    const tacit_feedback_t *feedback = codec->feedback;
    const float            *x = tacit__unit_load(codec, in, block->first, block->count);
    const float            *a = x;
    const tacit_state_t    *state = NULL;
    size_t                  at = 0;
    uint32_t                faults;
    bool                    finite;

    if (feedback != NULL) {
        state = tacit__memory_open(codec, block->first, block->count, &at);
        feedback->before(state, at, block->count, x, codec->a);
        a = codec->a;
    }
    finite = tacit__unit_is_finite(a, block->count);
    if (!finite && codec->nonfinite != TACIT_NONFINITE_PASS) {
        return TACIT_FAULT_NONFINITE;
    }
    faults = codec->kernels->encode(block, a, payload, codec->d);
    if (finite && faults != 0 && codec->nonfinite != TACIT_NONFINITE_PASS) {
        return faults;
    }
    if (feedback != NULL) {
        tacit__unit_after(codec, state, at, block->count, &(tacit_unit_t){x, a, codec->d});
        tacit__memory_close(codec, block->key.step, block->first, block->count);
    }
    return 0;
}

/* The reverse of encode_unit(), where memory is not doubled. */
static void undo_unit(tacit_codec_t *codec, const tacit_block_t *block, const void *in, const uint8_t *payload)
{
    const float         *x = tacit__unit_load(codec, in, block->first, block->count);
    size_t               at;
    const tacit_state_t *state = tacit__memory_open(codec, block->first, block->count, &at);

    codec->kernels->decode(block, payload, codec->d, false);
    tacit__unit_undo(codec, state, at, block->count, &(tacit_unit_t){x, NULL, codec->d});
    tacit__memory_close(codec, block->key.step, block->first, block->count);
}

void tacit__codec_undo(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count, const uint8_t *payload)
{
    size_t units = 0;

    if (codec->feedback == NULL || codec->strict) {
        return;
    }
    for (size_t done = 0; done < count; done += units) {
        tacit_block_t block = tacit__codec_block(codec, step, first + done, units = unit_count(codec, count - done));

        undo_unit(codec, &block, in, payload + payload_at(codec, done));
    }
}

uint32_t tacit__codec_encode(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count, uint8_t *payload)
{
    size_t units = 0;

    for (size_t done = 0; done < count; done += units) {
        tacit_block_t block = tacit__codec_block(codec, step, first + done, units = unit_count(codec, count - done));
        uint8_t      *at = payload + payload_at(codec, done);
        size_t        changed = 0;
        uint32_t      faults = is_fused(codec, codec->feedback, codec->nonfinite == TACIT_NONFINITE_PASS)
                                   ? encode_fused(codec, &block, in, at, &changed)
                                   : encode_unit(codec, &block, in, at);

        if (faults != 0) {
            tacit__codec_undo(codec, step, in, first, done + changed, payload);
            return faults;
        }
    }
    return 0;
}

/* sum = or += in + zero. */
static void own_loop(const float *in, float zero, size_t count, float *sum, bool add)
{
    for (size_t i = 0; !add && i < count; i++) {
        sum[i] = in[i] + zero;
    }
    for (size_t i = 0; add && i < count; i++) {
        sum[i] += in[i] + zero;
    }
}

TACIT_EACH_ISA(void, own, (const float *in, float zero, size_t count, float *sum, bool add), (in, zero, count, sum, add))

/* One unit of own(). Where memory is zero, what is not finite is found when the sum is encoded. */
static uint32_t own_unit(tacit_codec_t *codec, const void *in, size_t first, size_t count, float *sum, bool add)
{
    const float *x = tacit__unit_load(codec, in, first, count), *a = x;
    size_t       at;

    if (codec->own_is_zero) {
        own(x, 0.0f, count, sum, add);
        return 0;
    }
    if (codec->feedback != NULL) {
        const tacit_state_t *state = tacit__memory_open(codec, first, count, &at);

        codec->feedback->before(state, at, count, x, codec->a);
        a = codec->a;
    }
    if (codec->nonfinite != TACIT_NONFINITE_PASS && !tacit__unit_is_finite(a, count)) {
        return TACIT_FAULT_NONFINITE;
    }
    own(a, -0.0f, count, sum, add); /* a itself, whatever it is */
    return 0;
}

uint32_t tacit__codec_own(tacit_codec_t *codec, const void *in, size_t first, size_t count, float *sum, bool add)
{
    size_t   units = 0;
    uint32_t faults = 0;

    for (size_t done = 0; done < count && faults == 0; done += units) {
        units = tacit__min(count - done, codec->unit);
        faults = own_unit(codec, in, first + done, units, sum + done, add);
    }
    return faults;
}

void tacit__codec_own_keep(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count)
{
    size_t units = 0;

    for (size_t done = 0; codec->feedback != NULL && !codec->own_is_zero && done < count; done += units) {
        const float         *x = tacit__unit_load(codec, in, first + done, units = tacit__min(count - done, codec->unit));
        size_t               at;
        const tacit_state_t *state = tacit__memory_open(codec, first + done, units, &at);

        codec->feedback->before(state, at, units, x, codec->a);
        tacit__unit_after(codec, state, at, units, &(tacit_unit_t){x, codec->a, codec->a});
        tacit__memory_close(codec, step, first + done, units);
    }
}

void tacit__codec_add(tacit_codec_t *codec, uint64_t step, const uint8_t *payload, size_t first, size_t count, float *sum,
                      bool add)
{
    tacit_block_t block = tacit__codec_block(codec, step, first, count);

    codec->kernels->decode(&block, payload, sum, add);
}

/* One unit of a reduced range: with the owner's own feedback, whose next memory is written beside the present one. */
static uint32_t reencode_unit(tacit_codec_t *codec, const tacit_block_t *block, float *sum, uint8_t *payload)
{
    const tacit_feedback_t *owner = codec->feedback != NULL ? codec->feedback->owner : NULL;
    const size_t            first = block->first - codec->owner_first;
    uint32_t                faults;
    bool                    finite;
    size_t                  done;

    if (is_fused(codec, owner, codec->nonfinite == TACIT_NONFINITE_PASS)) {
        const tacit_ef_t ef = ef_of(&codec->owner, first, sum);

        return codec->kernels->encode_ef(block, &ef, payload, &done);
    }
    if (owner != NULL) {
        owner->before(&codec->owner, first, block->count, sum, codec->a);
        memcpy(sum, codec->a, block->count * sizeof *sum);
    }
    finite = tacit__unit_is_finite(sum, block->count);
    if (!finite && codec->nonfinite != TACIT_NONFINITE_PASS) {
        return TACIT_FAULT_NONFINITE;
    }
    faults = codec->kernels->encode(block, sum, payload, codec->d);
    if (finite && faults != 0 && codec->nonfinite != TACIT_NONFINITE_PASS) {
        return faults;
    }
    if (owner != NULL) {
        owner->after(&codec->owner, first, block->count, sum, sum, codec->d);
    }
    for (size_t i = 0; owner != NULL && (!finite || faults != 0) && i < block->count; i++) {
        if (!tacit__unit_is_finite(&codec->owner.next[0][first + i], 1)) {
            codec->owner.next[0][first + i] = 0.0f; /* what it held went with what was passed on */
        }
    }
    return 0;
}

uint32_t tacit__codec_reencode(tacit_codec_t *codec, uint64_t step, float *sum, size_t first, size_t count, uint8_t *payload)
{
    size_t units = 0;

    for (size_t done = 0; done < count; done += units) {
        tacit_block_t block = tacit__codec_block(codec, step, first + done, units = unit_count(codec, count - done));
        uint32_t      faults;

        block.key.rank += (uint64_t)codec->ranks; /* not the random numbers of this rank's contribution */
        faults = reencode_unit(codec, &block, sum + done, payload + payload_at(codec, done));
        if (faults != 0) {
            return faults;
        }
    }
    return 0;
}

/* sum := what the senders contribute of a unit, or its mean. at: of the unit's payload in theirs. */
static uint32_t sum_unit(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count,
                         const uint8_t *const *contributions, size_t at, tacit_op_t op, float *sum)
{
    const float scale = 1.0f / (float)codec->ranks;
    uint32_t    faults = 0;

    for (int sender = 0; sender < codec->senders && faults == 0; sender++) {
        if (contributions[sender] == NULL) {
            faults = tacit__codec_own(codec, in, first, count, sum, sender != 0);
        } else {
            tacit__codec_add(codec, step, contributions[sender] + at, first, count, sum, sender != 0);
        }
    }
    for (size_t i = 0; op == TACIT_AVERAGE && codec->ranks > 1 && i < count; i++) {
        sum[i] *= scale;
    }
    return faults;
}

uint32_t tacit__codec_reduce(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count,
                             const uint8_t *const *contributions, tacit_op_t op, float *sum, uint8_t *payload)
{
    size_t   units = 0;
    uint32_t faults = 0;

    for (size_t done = 0; done < count && faults == 0; done += units) {
        const size_t at = payload_at(codec, done);

        units = unit_count(codec, count - done);
        faults = sum_unit(codec, step, in, first + done, units, contributions, at, op, sum);
        faults = faults != 0 ? faults : tacit__codec_reencode(codec, step, sum, first + done, units, payload + at);
    }
    return faults;
}

uint32_t tacit__codec_own_check(tacit_codec_t *codec, const void *in, size_t first, size_t count, float *sum)
{
    size_t   units = 0;
    uint32_t faults = 0;

    for (size_t done = 0; codec->nonfinite != TACIT_NONFINITE_PASS && done < count && faults == 0; done += units) {
        faults = tacit__codec_own(codec, in, first + done, units = tacit__min(count - done, codec->unit), sum, false);
        if (faults == 0 && !tacit__unit_is_finite(sum, units)) {
            faults = TACIT_FAULT_NONFINITE;
        }
    }
    return faults;
}

void tacit__codec_collect(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count,
                          const uint8_t *const *contributions, tacit_op_t op, float *sum, void *out)
{
    size_t units = 0;

    for (size_t done = 0; done < count; done += units) {
        units = unit_count(codec, count - done);
        (void)sum_unit(codec, step, in, first + done, units, contributions, payload_at(codec, done), op, sum);
        if (contributions[codec->rank] == NULL) {
            tacit__codec_own_keep(codec, step, in, first + done, units);
        }
        tacit__codec_store(codec, sum, first + done, units, out);
    }
}

void tacit__codec_store(tacit_codec_t *codec, float *values, size_t first, size_t count, void *out)
{
    bool finite = true;

    if (codec->feedback != NULL && codec->feedback->combine != NULL) {
        codec->feedback->combine(&codec->memory, first, count, values, values);
        finite = tacit__unit_is_finite(values, count);
        for (size_t i = 0; !finite && i < count; i++) {
            if (!tacit__unit_is_finite(&codec->memory.next[codec->feedback->tracker][first + i], 1)) {
                tacit__memory_forget(codec, first + i); /* as on all ranks: trackers stay in step */
            }
        }
    }
    tacit__unit_store(codec, values, first, count, out);
}

void tacit__codec_finish(tacit_codec_t *codec, uint64_t step, const uint8_t *payload, size_t first, size_t count, void *out)
{
    bool   direct = codec->tensor.dtype == TACIT_FLOAT32 && (codec->feedback == NULL || codec->feedback->combine == NULL);
    size_t units = 0;

    for (size_t done = 0; done < count; done += units) {
        tacit_block_t block = tacit__codec_block(codec, step, first + done, units = unit_count(codec, count - done));
        float        *values = direct ? (float *)out + block.first : codec->d;

        codec->kernels->decode(&block, payload + payload_at(codec, done), values, false);
        if (!direct) {
            tacit__codec_store(codec, values, block.first, units, out);
        }
    }
}
