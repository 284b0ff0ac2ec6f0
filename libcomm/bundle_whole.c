/* SPDX-License-Identifier: Apache-2.0 */
/* A bundle's tensors that travel whole: sparse ones as entries, linear ones as one factor, summed in rank order by every rank. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "bundle.h"
#include "codec_unit.h"

static tacit_codec_t *codec_of(const tacit_bundle_t *bundle, const tacit_whole_t *whole)
{
    return bundle->codecs[whole->codec];
}

static const tacit_select_t *select_of(const tacit_codec_t *codec)
{
    return codec->compressor->select;
}

static size_t factor_count(const tacit_codec_t *codec)
{
    return codec->compressor->linear->factor_count(codec->spec.compressor_config, &codec->tensor, 0);
}

/* Entries of one rank at most. */
static size_t limit_of(const tacit_codec_t *codec)
{
    return select_of(codec)->limit(codec->spec.compressor_config, codec->tensor.count);
}

/* Payload at most. */
static size_t bound_of(const tacit_codec_t *codec)
{
    return select_of(codec) != NULL ? select_of(codec)->bound(codec->spec.compressor_config, codec->tensor.count, limit_of(codec))
                                    : factor_count(codec) * sizeof(float);
}

/* ---- Memory ---- */

static bool get_memory(const tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    const tacit_codec_t *codec = codec_of(bundle, whole);
    const size_t         ranks = (size_t)bundle->ranks;
    size_t               room;

    if (select_of(codec) == NULL) {
        whole->values = tacit__alloc(2 * factor_count(codec), sizeof *whole->values);
        whole->factor = whole->values;
        whole->sum = whole->values != NULL ? whole->values + factor_count(codec) : NULL;
        return whole->values != NULL;
    }
    room = limit_of(codec);
    whole->entries = tacit__alloc(ranks, sizeof *whole->entries);
    whole->next = tacit__alloc(ranks, sizeof *whole->next);
    whole->indices = tacit__alloc_unset(ranks * room * sizeof *whole->indices);
    whole->values = tacit__alloc_unset(ranks * room * sizeof *whole->values);
    if (whole->entries == NULL || whole->next == NULL || whole->indices == NULL || whole->values == NULL) {
        return false;
    }
    for (size_t rank = 0; rank < ranks; rank++) {
        whole->entries[rank].indices = whole->indices + rank * room;
        whole->entries[rank].values = whole->values + rank * room;
    }
    return true;
}

tacit_status_t tacit__wholes_create(tacit_bundle_t *bundle)
{
    bundle->wholes = tacit__alloc(bundle->count, sizeof *bundle->wholes);
    for (size_t i = 0; bundle->wholes != NULL && i < bundle->count; i++) {
        tacit_whole_t *whole = &bundle->wholes[bundle->whole_count];

        if (tacit__codec_is_blockwise(bundle->codecs[i])) {
            continue;
        }
        whole->codec = i;
        whole->at = bundle->whole_bytes;
        whole->bound = bound_of(bundle->codecs[i]);
        bundle->whole_count++;
        bundle->whole_bytes += TACIT_PLACE_HEADER + tacit__round_up(whole->bound, TACIT_BUNDLE_ALIGN);
        if (bundle->codecs[i]->module == NULL && !get_memory(bundle, whole)) {
            return tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory to gather codec '%s'", bundle->codecs[i]->name);
        }
    }
    return bundle->wholes != NULL ? TACIT_OK : tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors", bundle->count);
}

void tacit__wholes_destroy(tacit_bundle_t *bundle)
{
    for (size_t w = 0; w < bundle->whole_count; w++) {
        tacit__free(bundle->wholes[w].entries);
        tacit__free(bundle->wholes[w].next);
        tacit__free(bundle->wholes[w].indices);
        tacit__free(bundle->wholes[w].values);
    }
    tacit__free(bundle->wholes);
}

/* ---- The own contribution ---- */

static tacit_status_t encode_sparse(const tacit_bundle_t *bundle, tacit_whole_t *whole, uint8_t *payload, size_t *bytes_out)
{
    tacit_codec_t      *codec = codec_of(bundle, whole);
    const void         *in = bundle->in[whole->codec];
    const tacit_block_t block = tacit__codec_block(codec, bundle->step, 0, codec->tensor.count);

    if (tacit__codec_choose(codec, bundle->step, in, &whole->own) != 0) {
        return TACIT_ERR_VALUE;
    }
    *bytes_out =
        select_of(codec)->encode(&block, whole->own.values, whole->own.indices, whole->own.count, payload, whole->own.values);
    tacit__codec_sent(codec, in, &whole->own);
    return TACIT_OK;
}

static tacit_status_t encode_linear(const tacit_bundle_t *bundle, tacit_whole_t *whole, uint8_t *payload, size_t *bytes_out)
{
    tacit_codec_t      *codec = codec_of(bundle, whole);
    const void         *in = bundle->in[whole->codec];
    const tacit_block_t block = tacit__codec_block(codec, bundle->step, 0, codec->tensor.count);
    const float *const  factors[] = {whole->factor};
    const float        *a;

    if (tacit__codec_gather(codec, in, &a) != 0) {
        return TACIT_ERR_VALUE;
    }
    codec->compressor->linear->make_factor(&block, &codec->tensor, 0, a, codec->work, NULL, whole->factor);
    tacit__codec_rebuilt(codec, bundle->step, in, a, factors);
    *bytes_out = factor_count(codec) * sizeof *whole->factor;
    memcpy(payload, whole->factor, *bytes_out);
    return TACIT_OK;
}

tacit_status_t tacit__whole_encode(tacit_bundle_t *bundle, tacit_whole_t *whole, uint8_t *place)
{
    tacit_codec_t *codec = codec_of(bundle, whole);
    uint8_t       *payload = place + TACIT_PLACE_HEADER;
    tacit_status_t status;
    size_t         bytes;
    uint32_t       length;

    TRY(tacit__codec_expand(codec));
    TRY(select_of(codec) != NULL ? encode_sparse(bundle, whole, payload, &bytes) : encode_linear(bundle, whole, payload, &bytes));
    assert(bytes <= whole->bound);
    whole->sent = true;
    length = (uint32_t)bytes;
    memset(place, 0, TACIT_PLACE_HEADER);
    memcpy(place, &length, sizeof length);
    memset(payload + bytes, 0, tacit__round_up(whole->bound, TACIT_BUNDLE_ALIGN) - bytes);
out:
    return status;
}

/* ---- What comes from all ranks ---- */

static bool take_sparse(const tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *payload, size_t bytes)
{
    const tacit_codec_t *codec = codec_of(bundle, whole);
    const tacit_block_t  block = tacit__codec_block(codec, bundle->step, 0, codec->tensor.count);
    tacit_entries_t     *entries = &whole->entries[rank];

    entries->count = select_of(codec)->decode(&block, payload, bytes, entries->indices, entries->values, limit_of(codec));
    return entries->count != SIZE_MAX;
}

static bool take_linear(const tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *payload, size_t bytes)
{
    const size_t count = factor_count(codec_of(bundle, whole));
    float        value;

    if (bytes != count * sizeof value) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(&value, payload + i * sizeof value, sizeof value);
        whole->sum[i] = rank == 0 ? value : whole->sum[i] + value;
    }
    return true;
}

bool tacit__whole_take(tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *place)
{
    const uint8_t *payload = place + TACIT_PLACE_HEADER;
    uint32_t       bytes;

    memcpy(&bytes, place, sizeof bytes);
    return bytes <= whole->bound &&
           (select_of(codec_of(bundle, whole)) != NULL ? take_sparse(bundle, whole, rank, payload, bytes)
                                                       : take_linear(bundle, whole, rank, payload, bytes));
}

/* ---- Results ---- */

/* sums[] := elements [first, first + count), in ascending order after whole->next[] has been zeroed. */
static void sum_unit(const tacit_bundle_t *bundle, tacit_whole_t *whole, size_t first, size_t count, float *sums)
{
    const float scale = 1.0f / (float)bundle->ranks;

    memset(sums, 0, count * sizeof *sums);
    for (int rank = 0; rank < bundle->ranks; rank++) {
        const tacit_entries_t *entries = &whole->entries[rank];
        size_t                 next = whole->next[rank];

        for (; next < entries->count && entries->indices[next] < first + count; next++) {
            sums[entries->indices[next] - first] += entries->values[next];
        }
        whole->next[rank] = next;
    }
    for (size_t i = 0; bundle->op == TACIT_AVERAGE && bundle->ranks > 1 && i < count; i++) {
        sums[i] *= scale;
    }
}

/* No sum of what was taken is larger. */
static double most(const tacit_bundle_t *bundle, const tacit_whole_t *whole)
{
    double total = 0;

    for (int rank = 0; rank < bundle->ranks; rank++) {
        float largest = 0;

        for (size_t i = 0; i < whole->entries[rank].count; i++) {
            largest = fmaxf(largest, fabsf(whole->entries[rank].values[i]));
        }
        total += (double)largest;
    }
    return total;
}

bool tacit__whole_fits(const tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    tacit_codec_t *codec = codec_of(bundle, whole);
    size_t         units = 0;
    bool           fits = true;

    if (codec->nonfinite == TACIT_NONFINITE_PASS) {
        return true;
    }
    if (select_of(codec) == NULL) {
        return tacit__unit_is_finite(whole->sum, factor_count(codec));
    }
    if (most(bundle, whole) < 0.5 * (double)FLT_MAX) {
        return true;
    }
    memset(whole->next, 0, (size_t)bundle->ranks * sizeof *whole->next);
    for (size_t done = 0; fits && done < codec->tensor.count; done += units) {
        sum_unit(bundle, whole, done, units = tacit__min(codec->tensor.count - done, codec->unit), codec->d);
        fits = tacit__unit_is_finite(codec->d, units);
    }
    return fits;
}

static void finish_linear(const tacit_bundle_t *bundle, tacit_whole_t *whole, void *out)
{
    tacit_codec_t        *codec = codec_of(bundle, whole);
    const tacit_linear_t *linear = codec->compressor->linear;
    const float *const    factors[] = {whole->sum};
    const float           scale = 1.0f / (float)bundle->ranks;
    tacit_block_t         block = tacit__codec_block(codec, bundle->step, 0, codec->tensor.count);
    size_t                units = 0;

    for (size_t i = 0; bundle->op == TACIT_AVERAGE && bundle->ranks > 1 && i < factor_count(codec); i++) {
        whole->sum[i] *= scale;
    }
    for (size_t done = 0; done < codec->tensor.count; done += units) {
        tacit_block_t unit =
            tacit__codec_block(codec, bundle->step, done, units = tacit__min(codec->tensor.count - done, codec->unit));

        linear->reconstruct(&unit, &codec->tensor, factors, codec->d);
        tacit__codec_store(codec, codec->d, done, units, out);
    }
    if (linear->keep != NULL) {
        linear->keep(&block, &codec->tensor, factors, codec->work);
    }
}

void tacit__whole_finish(tacit_bundle_t *bundle, tacit_whole_t *whole, void *out)
{
    tacit_codec_t *codec = codec_of(bundle, whole);
    const bool     direct = codec->tensor.dtype == TACIT_FLOAT32;
    size_t         units = 0;

    if (select_of(codec) == NULL) {
        finish_linear(bundle, whole, out);
    } else {
        memset(whole->next, 0, (size_t)bundle->ranks * sizeof *whole->next);
        for (size_t done = 0; done < codec->tensor.count; done += units) {
            float *sums = direct ? (float *)out + done : codec->d;

            sum_unit(bundle, whole, done, units = tacit__min(codec->tensor.count - done, codec->unit), sums);
            tacit__codec_store(codec, sums, done, units, out);
        }
    }
    whole->sent = false;
}

void tacit__whole_undo(tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    tacit_codec_t     *codec = codec_of(bundle, whole);
    const void        *in = bundle->in[whole->codec];
    const float *const factors[] = {whole->factor};

    if (whole->sent && select_of(codec) != NULL) {
        tacit__codec_unsent(codec, in, &whole->own);
    } else if (whole->sent) {
        tacit__codec_unbuilt(codec, bundle->step, in, factors);
    }
    whole->sent = false;
    tacit__codec_collapse(codec);
}
