/* SPDX-License-Identifier: Apache-2.0 */
/* Work of a codec whose compressor sees the whole tensor: sparse (topk) and linear (randk, powersgd). */
#include <string.h>

#include "codec_unit.h"

/* The accumulator that feedback lends for `a`, or NULL. */
static float *lent(const tacit_codec_t *codec)
{
    const tacit_feedback_t *feedback = codec->feedback;

    return feedback != NULL && feedback->accumulator >= 0 ? codec->memory.next[feedback->accumulator] : NULL;
}

/* Memory stays finite where values that are not were passed on: what it held there went with them, also if that is undone. */
static void scrub(const tacit_codec_t *codec)
{
    const tacit_feedback_t *feedback = codec->nonfinite == TACIT_NONFINITE_PASS ? codec->feedback : NULL;

    for (size_t array = 0; feedback != NULL && feedback->arrays[array] != NULL; array++) {
        float *values = codec->memory.next[array];

        for (size_t i = 0; values != NULL && i < codec->memory.count; i++) {
            if (!tacit__unit_is_finite(values + i, 1)) {
                values[i] = 0.0f;
            }
        }
    }
}

/* Takes back `before` on elements [0, count), of which nothing has been sent. */
static void unbefore(tacit_codec_t *codec, const void *in, size_t count)
{
    size_t units = 0;

    if (lent(codec) == NULL || codec->strict) {
        return; /* a was built elsewhere, or beside the memory */
    }
    memset(codec->d, 0, codec->unit * sizeof *codec->d);
    for (size_t done = 0; done < count; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(count - done, codec->unit));

        codec->feedback->undo(&codec->memory, done, units, x, codec->d);
    }
    scrub(codec);
}

/* A unit's `before` has been called, and some of codec->a is not finite: takes it back where it is, and all before the unit. */
static void unbefore_unit(tacit_codec_t *codec, const void *in, const float *x, size_t done, size_t count)
{
    const float zero = 0.0f;

    for (size_t i = 0; lent(codec) != NULL && !codec->strict && i < count; i++) {
        if (tacit__unit_is_finite(codec->a + i, 1)) {
            lent(codec)[done + i] = codec->a[i];
            codec->feedback->undo(&codec->memory, done + i, 1, x + i, &zero);
        }
    }
    unbefore(codec, in, done);
}

uint32_t tacit__codec_gather(tacit_codec_t *codec, const void *in, const float **a_out)
{
    float *a = lent(codec) != NULL ? lent(codec) : codec->whole;
    size_t units = 0;

    if (a == NULL && (codec->nonfinite == TACIT_NONFINITE_PASS || tacit__unit_is_finite(in, codec->tensor.count))) {
        *a_out = in;
        return 0;
    }
    for (size_t done = 0; a != NULL && done < codec->tensor.count; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->tensor.count - done, codec->unit));

        const float *sum = x;

        if (codec->feedback != NULL) {
            codec->feedback->before(&codec->memory, done, units, x, codec->a);
            sum = codec->a; /* not yet where memory would keep it */
        }
        if (codec->nonfinite != TACIT_NONFINITE_PASS && !tacit__unit_is_finite(sum, units)) {
            unbefore_unit(codec, in, x, done, units);
            return TACIT_FAULT_NONFINITE;
        }
        memcpy(a + done, sum, units * sizeof *sum);
    }
    *a_out = a;
    return a != NULL ? 0 : TACIT_FAULT_NONFINITE;
}

void tacit__codec_ungather(tacit_codec_t *codec, const void *in)
{
    unbefore(codec, in, codec->tensor.count);
}

void tacit__codec_scatter(const tacit_codec_t *codec, const tacit_entries_t *entries, size_t *next, size_t first, size_t count)
{
    memset(codec->d, 0, count * sizeof *codec->d);
    for (; *next < entries->count && entries->indices[*next] < first + count; ++*next) {
        codec->d[entries->indices[*next] - first] = entries->values[*next];
    }
}

void tacit__codec_sent(tacit_codec_t *codec, const void *in, const float *a, const tacit_entries_t *entries)
{
    size_t next = 0, units = 0;

    if (codec->feedback == NULL) {
        return;
    }
    if (codec->feedback->sent != NULL) {
        codec->feedback->sent(&codec->memory, entries->indices, entries->values, entries->kept, entries->count);
    }
    for (size_t done = 0; codec->feedback->sent == NULL && done < codec->tensor.count; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->tensor.count - done, codec->unit));

        tacit__codec_scatter(codec, entries, &next, done, units);
        tacit__unit_after(codec, &codec->memory, done, units, &(tacit_unit_t){x, a + done, codec->d});
    }
    scrub(codec);
}

void tacit__codec_unsent(tacit_codec_t *codec, const void *in, const tacit_entries_t *entries)
{
    size_t next = 0, units = 0;

    if (codec->feedback == NULL || codec->strict) {
        return;
    }
    if (codec->feedback->unsent != NULL) {
        codec->feedback->unsent(&codec->memory, entries->indices, entries->values, entries->kept, entries->count);
        unbefore(codec, in, codec->tensor.count);
        return;
    }
    for (size_t done = 0; done < codec->tensor.count; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->tensor.count - done, codec->unit));

        tacit__codec_scatter(codec, entries, &next, done, units);
        tacit__unit_undo(codec, &codec->memory, done, units, &(tacit_unit_t){x, NULL, codec->d});
    }
    scrub(codec);
}

void tacit__codec_rebuilt(tacit_codec_t *codec, uint64_t step, const void *in, const float *a, const float *const *factors)
{
    size_t units = 0;

    for (size_t done = 0; codec->feedback != NULL && done < codec->tensor.count; done += units) {
        const float  *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->tensor.count - done, codec->unit));
        tacit_block_t block = tacit__codec_block(codec, step, done, units);

        codec->compressor->linear->reconstruct(&block, &codec->tensor, factors, codec->d);
        tacit__unit_after(codec, &codec->memory, done, units, &(tacit_unit_t){x, a + done, codec->d});
    }
    scrub(codec);
}

void tacit__codec_unbuilt(tacit_codec_t *codec, uint64_t step, const void *in, const float *const *factors)
{
    size_t units = 0;

    for (size_t done = 0; codec->feedback != NULL && !codec->strict && done < codec->tensor.count; done += units) {
        const float  *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->tensor.count - done, codec->unit));
        tacit_block_t block = tacit__codec_block(codec, step, done, units);

        codec->compressor->linear->reconstruct(&block, &codec->tensor, factors, codec->d);
        tacit__unit_undo(codec, &codec->memory, done, units, &(tacit_unit_t){x, NULL, codec->d});
    }
    scrub(codec);
}

/* ---- The owner of a dealt part ---- */

static const tacit_feedback_t *owner_feedback(const tacit_codec_t *codec)
{
    return codec->feedback != NULL ? codec->feedback->owner : NULL;
}

const float *tacit__codec_joined(const tacit_codec_t *codec)
{
    return owner_feedback(codec) != NULL ? codec->owner.next[owner_feedback(codec)->accumulator] : NULL;
}

/* Feedback sees the entries side by side. */
size_t tacit__codec_join(tacit_codec_t *codec, const tacit_entries_t *entries)
{
    const tacit_feedback_t *owner = owner_feedback(codec);
    float                  *joined = codec->owner.next[owner->accumulator];
    tacit_state_t           met = {.config = codec->owner.config, .count = entries->count};
    size_t                  count = 0, units = 0;

    met.now[owner->accumulator] = met.next[owner->accumulator] = entries->kept;
    for (size_t i = 0; i < entries->count; i++) {
        entries->kept[i] = joined[entries->indices[i]];
    }
    for (size_t good; count < entries->count; count += units) {
        units = tacit__min(entries->count - count, codec->unit);
        owner->before(&met, count, units, entries->values + count, codec->a);
        for (good = codec->nonfinite == TACIT_NONFINITE_PASS || tacit__unit_is_finite(codec->a, units) ? units : 0;
             good < units && tacit__unit_is_finite(codec->a + good, 1); good++) {
        }
        for (size_t i = 0; i < good; i++) {
            joined[entries->indices[count + i]] = codec->a[i];
        }
        if (good < units) {
            return count + good;
        }
    }
    return count;
}

void tacit__codec_unjoin(tacit_codec_t *codec, const tacit_entries_t *entries)
{
    float *joined = codec->owner.now[owner_feedback(codec)->accumulator];

    for (size_t i = 0; i < entries->count; i++) {
        joined[entries->indices[i]] = entries->kept[i];
    }
}

void tacit__codec_owner_sent(tacit_codec_t *codec, const tacit_entries_t *met, const tacit_entries_t *entries)
{
    const tacit_feedback_t *owner = owner_feedback(codec);
    float                  *joined = codec->owner.next[owner->accumulator];

    for (size_t i = 0; i < entries->count; i++) {
        entries->kept[i] = joined[entries->indices[i]];
    }
    owner->sent(&codec->owner, entries->indices, entries->values, entries->kept, entries->count);
    for (size_t i = 0; codec->nonfinite == TACIT_NONFINITE_PASS && i < met->count; i++) {
        if (!tacit__unit_is_finite(&joined[met->indices[i]], 1)) {
            joined[met->indices[i]] = 0.0f; /* as at senders: what it held there went with them */
        }
    }
}
