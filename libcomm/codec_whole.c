/* SPDX-License-Identifier: Apache-2.0 */
/* Work of a codec whose compressor sees the whole tensor: sparse (topk) and linear (randk, powersgd). */
#include <string.h>

#include "codec_unit.h"
#include "sieve.h"

_Static_assert((int)TACIT_UNIT <= (int)TACIT_SIEVE_MOST, "a unit goes through a sieve at once");

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

        for (size_t i = codec->range.begin; values != NULL && i < codec->range.end; i++) {
            if (!tacit__unit_is_finite(values + i, 1)) {
                values[i] = 0.0f;
            }
        }
    }
}

/* Takes back `before` on the range's elements up to `end`, of which nothing has been sent. */
static void unbefore(tacit_codec_t *codec, const void *in, size_t end)
{
    size_t units = 0;

    if (lent(codec) == NULL || codec->strict) {
        return; /* a was built elsewhere, or beside the memory */
    }
    memset(codec->d, 0, codec->unit * sizeof *codec->d);
    for (size_t done = codec->range.begin; done < end; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(end - done, codec->unit));

        codec->feedback->undo(&codec->memory, done, units, x, codec->d);
    }
    scrub(codec);
}

/* For `count` elements from `done` on, `before` has been called, and some of codec->a is not finite: takes it back where it is,
   and all before these. */
static void unbefore_unit(tacit_codec_t *codec, const void *in, size_t done, size_t count)
{
    const float  zero = 0.0f;
    const float *x = tacit__unit_load(codec, in, done, count);

    for (size_t i = 0; lent(codec) != NULL && !codec->strict && i < count; i++) {
        if (tacit__unit_is_finite(codec->a + i, 1)) {
            lent(codec)[done + i] = codec->a[i];
            codec->feedback->undo(&codec->memory, done + i, 1, x + i, &zero);
        }
    }
    unbefore(codec, in, done);
}

/* ---- Sparse ---- */

static inline void copy(const void *none, size_t first, size_t count, const float *in, float *a)
{
    (void)none;
    (void)first;
    memcpy(a, in, count * sizeof *a);
}

TACIT_SIFT(void, copy)

void tacit__selection_release(tacit_selection_t *selection)
{
    if (selection != NULL) {
        tacit__free(selection->sieve.indices); /* and all behind them */
        tacit__free(selection->sieve.sample);
        tacit__free(selection);
    }
}

bool tacit__selection_reserve(tacit_selection_t **selection, const tacit_spec_t *spec, size_t count)
{
    const tacit_select_t    *select = spec->compressor->select;
    size_t                   sample_room = 0;
    const size_t             room = select->room(spec->compressor_config, count, &sample_room);
    const tacit_selection_t *old = *selection;
    tacit_selection_t       *made;
    size_t                   bytes;

    if (old != NULL && old->room == room && old->sample_room == sample_room) {
        return true;
    }
    /* Indices and values are written side by side. In the same place of their pages they may push each other out of the cache. */
    bytes = tacit__round_up(room * sizeof(uint32_t), 4096) + 2048;
    made = tacit__alloc(1, sizeof *made);
    if (made == NULL) {
        return false;
    }
    made->sieve.indices = tacit__alloc_unset(bytes + 2 * room * sizeof(float));
    made->sieve.sample = tacit__alloc_unset(sample_room * sizeof(float));
    if (made->sieve.indices == NULL || made->sieve.sample == NULL) {
        tacit__selection_release(made);
        return false;
    }
    made->sieve.values = (float *)(void *)((uint8_t *)made->sieve.indices + bytes);
    made->kept = made->sieve.values + room;
    made->room = room;
    made->sample_room = sample_room;
    tacit__selection_release(*selection);
    *selection = made;
    return true;
}

tacit_entries_t tacit__selection_entries(const tacit_selection_t *selection)
{
    const tacit_sieve_t *sieve = &selection->sieve;

    return (tacit_entries_t){sieve->indices, sieve->values, selection->kept, sieve->used};
}

tacit_entries_t tacit__choose(const tacit_select_t *select, const tacit_block_t *block, const float *a,
                              tacit_selection_t *selection)
{
    selection->a = NULL;
    selection->sieve.passes = true;
    select->begin(block, selection);
    do {
        for (size_t done = 0; done < block->count;) {
            done += sift(NULL, done, tacit__min(block->count - done, TACIT_SIEVE_MOST), a + done, &selection->sieve);
            select->pause(selection, done);
        }
    } while (!select->finish(block, selection));
    return tacit__selection_entries(selection);
}

/* The range's memory, as if it were all. */
static tacit_state_t memory_of_range(const tacit_codec_t *codec)
{
    tacit_state_t memory = codec->memory;

    memory.count = codec->range.end - codec->range.begin;
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        memory.now[i] = memory.now[i] != NULL ? memory.now[i] + codec->range.begin : NULL;
        memory.next[i] = memory.next[i] != NULL ? memory.next[i] + codec->range.begin : NULL;
    }
    return memory;
}

/* A unit of the range on its first way through the sieve, or a later one, when it is made already. Returns how many elements of
   it. */
static size_t sift_unit(tacit_codec_t *codec, const tacit_state_t *memory, const void *in, size_t first, size_t count, bool again)
{
    tacit_sieve_t *sieve = &codec->selection->sieve;
    const float   *x;

    if (again && lent(codec) != NULL) {
        return sift(NULL, first, count, lent(codec) + codec->range.begin + first, sieve);
    }
    x = tacit__unit_load(codec, in, codec->range.begin + first, count);
    return codec->feedback != NULL ? codec->feedback->sift(memory, first, count, x, sieve) : sift(NULL, first, count, x, sieve);
}

/* What was chosen from the range, as if that were all, is from now on of the tensor. */
static tacit_entries_t entries_of_tensor(const tacit_codec_t *codec)
{
    const tacit_entries_t entries = tacit__selection_entries(codec->selection);

    codec->selection->a = lent(codec);
    for (size_t i = 0; codec->range.begin != 0 && i < entries.count; i++) {
        entries.indices[i] += (uint32_t)codec->range.begin;
    }
    return entries;
}

uint32_t tacit__codec_choose(tacit_codec_t *codec, uint64_t step, const void *in, tacit_entries_t *entries_out)
{
    const tacit_select_t *select = codec->compressor->select;
    tacit_selection_t    *selection = codec->selection;
    const size_t          begin = codec->range.begin, count = codec->range.end - begin;
    const tacit_block_t   block = tacit__codec_block(codec, step, begin, count);
    const tacit_state_t   memory = memory_of_range(codec);
    bool                  again = false;

    selection->a = lent(codec) != NULL ? lent(codec) + begin : NULL;
    selection->sieve.passes = codec->nonfinite == TACIT_NONFINITE_PASS;
    selection->sieve.group = codec->a;
    select->begin(&block, selection);
    do {
        for (size_t done = 0, units; done < count; done += units) {
            const size_t sifted = sift_unit(codec, &memory, in, done, units = tacit__min(count - done, codec->unit), again);

            if (sifted < units) {
                tacit__selection_put_back(selection);
                unbefore_unit(codec, in, begin + done + sifted, tacit__min(units - sifted, tacit__sieve_group(tacit__isa())));
                return TACIT_FAULT_NONFINITE;
            }
            select->pause(selection, done + units);
        }
        again = true;
    } while (!select->finish(&block, selection));
    *entries_out = entries_of_tensor(codec);
    return 0;
}

void tacit__codec_unchoose(tacit_codec_t *codec, const void *in)
{
    tacit__selection_put_back(codec->selection);
    unbefore(codec, in, codec->range.end);
}

void tacit__codec_scatter(const tacit_entries_t *entries, size_t *next, size_t first, size_t count, float *values)
{
    memset(values, 0, count * sizeof *values);
    for (; *next < entries->count && entries->indices[*next] < first + count; ++*next) {
        values[entries->indices[*next] - first] = entries->values[*next];
    }
}

/* after() on all elements of the range. */
static void sent_whole(tacit_codec_t *codec, const void *in, const tacit_entries_t *entries)
{
    size_t next = 0, units = 0;

    for (size_t done = codec->range.begin; done < codec->range.end; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->range.end - done, codec->unit));

        codec->feedback->before(&codec->memory, done, units, x, codec->a); /* once more: it was not kept */
        tacit__codec_scatter(entries, &next, done, units, codec->d);
        tacit__unit_after(codec, &codec->memory, done, units, &(tacit_unit_t){x, codec->a, codec->d});
    }
}

void tacit__codec_sent(tacit_codec_t *codec, const void *in, const tacit_entries_t *entries)
{
    const tacit_feedback_t *feedback = codec->feedback;
    float                  *a = lent(codec);
    bool                    sent = false;

    if (feedback == NULL) {
        return;
    }
    for (size_t i = 0; a != NULL && !codec->selection->taken && i < entries->count; i++) {
        a[entries->indices[i]] -= entries->values[i];
    }
    if (feedback->sent != NULL && (a != NULL || codec->nonfinite != TACIT_NONFINITE_PASS)) {
        if (a == NULL) {
            tacit__state_keep(&codec->memory, codec->range.begin, codec->range.end - codec->range.begin);
        }
        sent = feedback->sent(&codec->memory, entries->indices, entries->values, entries->kept, entries->count);
    }
    if (a == NULL && !sent) {
        sent_whole(codec, in, entries);
    }
    scrub(codec);
}

void tacit__codec_unsent(tacit_codec_t *codec, const void *in, const tacit_entries_t *entries)
{
    const tacit_feedback_t *feedback = codec->feedback;
    float                  *a = lent(codec);
    size_t                  next = 0, units = 0;

    if (feedback == NULL || codec->strict) {
        return;
    }
    for (size_t i = 0; a != NULL && i < entries->count; i++) {
        a[entries->indices[i]] += entries->values[i];
    }
    if (feedback->unsent != NULL) {
        feedback->unsent(&codec->memory, entries->indices, entries->kept, entries->count);
    }
    if (a != NULL) {
        unbefore(codec, in, codec->range.end);
        return;
    }
    for (size_t done = codec->range.begin; done < codec->range.end; done += units) {
        const float *x = tacit__unit_load(codec, in, done, units = tacit__min(codec->range.end - done, codec->unit));

        tacit__codec_scatter(entries, &next, done, units, codec->d);
        tacit__unit_undo(codec, &codec->memory, done, units, &(tacit_unit_t){x, NULL, codec->d});
    }
    scrub(codec);
}

/* ---- Linear ---- */

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
            unbefore_unit(codec, in, done, units);
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
        joined[entries->indices[i]] -= entries->values[i]; /* an owner's feedback is ef: there is no more to it */
    }
    for (size_t i = 0; codec->nonfinite == TACIT_NONFINITE_PASS && i < met->count; i++) {
        if (!tacit__unit_is_finite(&joined[met->indices[i]], 1)) {
            joined[met->indices[i]] = 0.0f; /* as at senders: what it held there went with them */
        }
    }
}
