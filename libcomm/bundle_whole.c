/* SPDX-License-Identifier: Apache-2.0 */
/* A bundle's tensors that travel whole: sparse ones as entries, linear ones as a factor, summed in rank order by every rank. A
   linear one of two rounds has a factor in either exchange, of which all are with every rank by then. */
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

/* The round of the second exchange. */
static int last_round(const tacit_codec_t *codec)
{
    return codec->compressor->linear->rounds(codec->spec.compressor_config, &codec->tensor) - 1;
}

static size_t factor_count(const tacit_codec_t *codec, int round)
{
    return codec->compressor->linear->factor_count(codec->spec.compressor_config, &codec->tensor, round);
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
                                    : factor_count(codec, last_round(codec)) * sizeof(float);
}

/* Payload in the first exchange. */
static size_t first_bytes_of(const tacit_codec_t *codec)
{
    return select_of(codec) == NULL && last_round(codec) > 0 ? factor_count(codec, 0) * sizeof(float) : 0;
}

/* ---- Memory ---- */

static bool get_factors(const tacit_codec_t *codec, tacit_whole_t *whole)
{
    float *next = whole->values = tacit__alloc(2 * (whole->first_bytes + whole->bound), 1);

    for (int round = 0; next != NULL && round <= last_round(codec); round++) {
        whole->factor[round] = next;
        whole->sum[round] = next + factor_count(codec, round);
        next += 2 * factor_count(codec, round);
    }
    return whole->values != NULL;
}

static bool get_memory(const tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    const tacit_codec_t *codec = codec_of(bundle, whole);
    const size_t         ranks = (size_t)bundle->ranks;
    size_t               room;

    if (select_of(codec) == NULL) {
        return get_factors(codec, whole);
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

static size_t place_bytes(size_t bound)
{
    return TACIT_PLACE_HEADER + tacit__round_up(bound, TACIT_BUNDLE_ALIGN);
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
        whole->first_at = bundle->first_bytes;
        whole->first_bytes = first_bytes_of(bundle->codecs[i]);
        bundle->whole_count++;
        bundle->whole_bytes += place_bytes(whole->bound);
        bundle->first_bytes += whole->first_bytes != 0 ? place_bytes(whole->first_bytes) : 0;
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

/* What goes around a payload of so many bytes in its place. */
static void frame_place(uint8_t *place, size_t bytes, size_t bound)
{
    const uint32_t length = (uint32_t)bytes;
    uint8_t       *payload = place + TACIT_PLACE_HEADER;

    memset(place, 0, TACIT_PLACE_HEADER);
    memcpy(place, &length, sizeof length);
    memset(payload + bytes, 0, tacit__round_up(bound, TACIT_BUNDLE_ALIGN) - bytes);
}

/* The factors that this rank's contribution is rebuilt from: reduced ones, and the own one in the last round. */
static void pick_own(const tacit_codec_t *codec, const tacit_whole_t *whole, const float **picked)
{
    for (int round = 0; round < last_round(codec); round++) {
        picked[round] = whole->sum[round];
    }
    picked[last_round(codec)] = whole->factor[last_round(codec)];
}

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
    whole->sent = true;
    return TACIT_OK;
}

/* The own factor of a round. */
static tacit_status_t make_factor(const tacit_bundle_t *bundle, tacit_whole_t *whole, int round)
{
    tacit_codec_t      *codec = codec_of(bundle, whole);
    const tacit_block_t block = tacit__codec_block(codec, bundle->step, 0, codec->tensor.count);

    if (round == 0 && tacit__codec_gather(codec, bundle->in[whole->codec], &whole->a) != 0) {
        return TACIT_ERR_VALUE;
    }
    whole->gathered = true;
    codec->compressor->linear->make_factor(&block, &codec->tensor, round, whole->a, codec->work, whole->sum,
                                           whole->factor[round]);
    return TACIT_OK;
}

static tacit_status_t encode_linear(const tacit_bundle_t *bundle, tacit_whole_t *whole, uint8_t *payload, size_t *bytes_out)
{
    tacit_codec_t *codec = codec_of(bundle, whole);
    const int      last = last_round(codec);
    const float   *picked[TACIT_LINEAR_ROUNDS];

    if (make_factor(bundle, whole, last) != TACIT_OK) {
        return TACIT_ERR_VALUE;
    }
    if (codec->nonfinite == TACIT_NONFINITE_PASS || tacit__unit_is_finite(whole->factor[last], factor_count(codec, last))) {
        pick_own(codec, whole, picked);
        tacit__codec_rebuilt(codec, bundle->step, bundle->in[whole->codec], whole->a, picked);
        whole->sent = true;
    } /* else it could not be taken back, and all find that the sum is not finite either */
    *bytes_out = whole->bound;
    memcpy(payload, whole->factor[last], *bytes_out);
    return TACIT_OK;
}

tacit_status_t tacit__whole_begin(tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    tacit_status_t status = TACIT_OK;

    if (whole->first_bytes == 0) {
        goto out;
    }
    TRY(tacit__codec_expand(codec_of(bundle, whole)));
    TRY(make_factor(bundle, whole, 0));
out:
    return status;
}

void tacit__whole_tell(const tacit_whole_t *whole, uint8_t *place)
{
    memcpy(place + TACIT_PLACE_HEADER, whole->factor[0], whole->first_bytes);
    frame_place(place, whole->first_bytes, whole->first_bytes);
}

tacit_status_t tacit__whole_encode(tacit_bundle_t *bundle, tacit_whole_t *whole, uint8_t *place)
{
    tacit_codec_t *codec = codec_of(bundle, whole);
    uint8_t       *payload = place + TACIT_PLACE_HEADER;
    tacit_status_t status;
    size_t         bytes;

    TRY(tacit__codec_expand(codec));
    TRY(select_of(codec) != NULL ? encode_sparse(bundle, whole, payload, &bytes) : encode_linear(bundle, whole, payload, &bytes));
    assert(bytes <= whole->bound);
    frame_place(place, bytes, whole->bound);
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

/* sum := or += a rank's factor. */
static void add_factor(float *sum, int rank, const uint8_t *payload, size_t count)
{
    float value;

    for (size_t i = 0; i < count; i++) {
        memcpy(&value, payload + i * sizeof value, sizeof value);
        sum[i] = rank == 0 ? value : sum[i] + value;
    }
}

/* The sum of all becomes what the operation makes of it. */
static void conclude_sum(const tacit_bundle_t *bundle, float *sum, size_t count)
{
    const float scale = 1.0f / (float)bundle->ranks;

    for (size_t i = 0; bundle->op == TACIT_AVERAGE && bundle->ranks > 1 && i < count; i++) {
        sum[i] *= scale;
    }
}

static bool take_linear(const tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *payload, size_t bytes)
{
    const tacit_codec_t *codec = codec_of(bundle, whole);

    if (bytes != whole->bound) {
        return false;
    }
    add_factor(whole->sum[last_round(codec)], rank, payload, factor_count(codec, last_round(codec)));
    return true;
}

bool tacit__whole_meet(const tacit_bundle_t *bundle, tacit_whole_t *whole, int rank, const uint8_t *place)
{
    const uint8_t *payload = (const uint8_t *)whole->factor[0];
    uint32_t       bytes;

    if (place != NULL) {
        memcpy(&bytes, place, sizeof bytes);
        payload = place + TACIT_PLACE_HEADER;
        if (bytes != whole->first_bytes) {
            return false;
        }
    }
    add_factor(whole->sum[0], rank, payload, factor_count(codec_of(bundle, whole), 0));
    return true;
}

bool tacit__whole_met(const tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    const tacit_codec_t *codec = codec_of(bundle, whole);
    const size_t         count = factor_count(codec, 0);

    conclude_sum(bundle, whole->sum[0], count);
    return codec->nonfinite == TACIT_NONFINITE_PASS || tacit__unit_is_finite(whole->sum[0], count);
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
        return tacit__unit_is_finite(whole->sum[last_round(codec)], factor_count(codec, last_round(codec)));
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
    const int             last = last_round(codec);
    const float *const    factors[] = {whole->sum[0], whole->sum[1]};
    tacit_block_t         block = tacit__codec_block(codec, bundle->step, 0, codec->tensor.count);
    size_t                units = 0;

    conclude_sum(bundle, whole->sum[last], factor_count(codec, last));
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
    whole->gathered = whole->sent = false;
}

void tacit__whole_undo(tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    tacit_codec_t *codec = codec_of(bundle, whole);
    const void    *in = bundle->in[whole->codec];
    const float   *picked[TACIT_LINEAR_ROUNDS];

    if (whole->sent && select_of(codec) != NULL) {
        tacit__codec_unsent(codec, in, &whole->own);
    } else if (whole->sent) {
        pick_own(codec, whole, picked);
        tacit__codec_unbuilt(codec, bundle->step, in, picked);
    } else if (whole->gathered) {
        tacit__codec_ungather(codec, in);
    }
    whole->gathered = whole->sent = false;
    tacit__codec_collapse(codec);
}
