/* SPDX-License-Identifier: Apache-2.0 */
/* How wrong each option of a layer is on what was gathered, by the compressors themselves, and how long it takes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "lgreco.h"
#include "sieve.h"

enum { LANES = 8, ROUNDS = 2, ITERATIONS = 5, TIMED = 3 };

/* One option, with room to encode and decode a tensor by units. */
typedef struct trial {
    const tacit_codec_t *codec;
    const float         *a;
    tacit_spec_t         spec;
    size_t               unit, entries; /* room */
    uint8_t             *payload;
    uint32_t            *indices;
    float               *values, *decoded, *factors[ROUNDS], *work;
    tacit_selection_t   *selection;
} trial_t;

/* Sum of (a - b)^2 in float64, in a fixed order; b may be NULL: zeros. */
static double distance(const float *a, const float *b, size_t count)
{
    const size_t whole = count / LANES * LANES;
    double       lanes[LANES] = {0};

    for (size_t i = 0; i < whole && b == NULL; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            lanes[lane] += (double)a[i + lane] * (double)a[i + lane];
        }
    }
    for (size_t i = 0; i < whole && b != NULL; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            const double difference = (double)a[i + lane] - (double)b[i + lane];
            lanes[lane] += difference * difference;
        }
    }
    for (size_t i = whole; i < count; i++) {
        const double difference = (double)a[i] - (b != NULL ? (double)b[i] : 0.0);
        lanes[i - whole] += difference * difference;
    }
    for (size_t width = LANES / 2; width > 0; width /= 2) {
        for (size_t lane = 0; lane < width; lane++) {
            lanes[lane] += lanes[lane + width];
        }
    }
    return lanes[0];
}

/* ---- Encoding and decoding ---- */

static tacit_block_t block_of(const trial_t *trial, size_t first, size_t count)
{
    tacit_block_t block = tacit__codec_block(trial->codec, 0, first, count);

    block.config = trial->spec.compressor_config;
    return block;
}

static void trial_release(trial_t *trial)
{
    tacit__spec_release(&trial->spec);
    tacit__free(trial->payload);
    tacit__free(trial->indices);
    tacit__free(trial->values);
    tacit__free(trial->decoded);
    tacit__free(trial->work);
    tacit__selection_release(trial->selection);
    for (int round = 0; round < ROUNDS; round++) {
        tacit__free(trial->factors[round]);
    }
}

/* Room for whole grains of a blockwise compressor, all entries of a sparse one, the factors of a linear one. */
static bool trial_room(trial_t *trial)
{
    const tacit_compressor_t  *compressor = trial->spec.compressor;
    const tacit_linear_t      *linear = compressor->linear;
    const void                *config = trial->spec.compressor_config;
    const tacit_slot_config_t *tensor = &trial->codec->tensor;
    bool                       room = true;

    trial->unit = TACIT_UNIT;
    if (compressor->select != NULL) {
        trial->entries = compressor->select->limit(config, tensor->count);
        trial->payload = tacit__alloc_unset(compressor->select->bound(config, tensor->count, trial->entries));
        trial->indices = tacit__alloc_unset(trial->entries * sizeof *trial->indices);
        trial->values = tacit__alloc_unset(trial->entries * sizeof *trial->values);
        room = trial->payload != NULL && trial->indices != NULL && trial->values != NULL &&
               tacit__selection_reserve(&trial->selection, &trial->spec, tensor->count);
    } else if (linear == NULL) {
        const size_t grain = compressor->grain(config) != 0 ? compressor->grain(config) : tensor->count;

        trial->unit = grain < TACIT_UNIT ? TACIT_UNIT / grain * grain : grain;
        trial->payload = tacit__alloc_unset(compressor->bound(config, trial->unit));
        room = trial->payload != NULL;
    }
    for (int round = 0; linear != NULL && round < linear->rounds(config, tensor); round++) {
        trial->factors[round] = tacit__alloc(linear->factor_count(config, tensor, round), sizeof(float));
        room = room && trial->factors[round] != NULL;
    }
    if (linear != NULL && linear->work_count != NULL) {
        trial->work = tacit__alloc(linear->work_count(config, tensor), sizeof *trial->work);
        room = room && trial->work != NULL;
    }
    trial->decoded = tacit__alloc_unset(trial->unit * sizeof *trial->decoded);
    return room && trial->decoded != NULL;
}

static tacit_status_t no_memory(const tacit_layer_t *layer)
{
    return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory to try its options", layer->slot->codec->name);
}

static tacit_status_t trial_init(trial_t *trial, const tacit_layer_t *layer, size_t option)
{
    char           text[TACIT_SPEC_BYTES];
    tacit_status_t status;

    *trial = (trial_t){.codec = layer->slot->codec, .a = layer->sum};
    TRY(tacit__layer_spec(layer, option, text));
    TRY(tacit__spec_parse(text, &trial->spec));
    if (!trial_room(trial)) {
        status = no_memory(layer);
    }
out:
    return status;
}

static void blockwise(trial_t *trial, size_t first, size_t count, bool decode)
{
    const tacit_kernels_t *kernels = tacit__compressor_kernels(trial->spec.compressor);
    const tacit_block_t    block = block_of(trial, first, count);

    (void)kernels->encode(&block, trial->a + first, trial->payload, trial->decoded);
    if (decode) {
        kernels->decode(&block, trial->payload, trial->decoded, false);
    }
}

/* Once through the whole tensor, there and back; nothing is kept. */
static void run(trial_t *trial)
{
    const tacit_compressor_t *compressor = trial->spec.compressor;
    const size_t              count = trial->codec->tensor.count;
    const tacit_block_t       whole = block_of(trial, 0, count);

    if (compressor->select != NULL) {
        const tacit_entries_t chosen = tacit__choose(compressor->select, &whole, trial->a, trial->selection);
        const size_t          bytes =
            compressor->select->encode(&whole, chosen.values, chosen.indices, chosen.count, trial->payload, trial->values);

        (void)compressor->select->decode(&whole, trial->payload, bytes, trial->indices, trial->values, trial->entries);
    }
    for (int round = 0; compressor->linear != NULL && round < compressor->linear->rounds(whole.config, &trial->codec->tensor);
         round++) {
        compressor->linear->make_factor(&whole, &trial->codec->tensor, round, trial->a, trial->work, trial->factors,
                                        trial->factors[round]);
    }
    for (size_t done = 0, units; done < count && compressor->select == NULL; done += units) {
        units = tacit__min(count - done, trial->unit);
        if (compressor->linear == NULL) {
            blockwise(trial, done, units, true);
        } else {
            const tacit_block_t block = block_of(trial, done, units);

            compressor->linear->reconstruct(&block, &trial->codec->tensor, (const float *const *)trial->factors, trial->decoded);
        }
    }
}

/* The least of some: what disturbs makes it longer only. Before the first, a warm start is found, as there is one at every step
   but the first. */
static double time_of(trial_t *trial)
{
    const tacit_linear_t *linear = trial->spec.compressor->linear;
    double                least = INFINITY;

    if (trial->work != NULL) {
        const tacit_block_t whole = block_of(trial, 0, trial->codec->tensor.count);

        run(trial);
        linear->keep(&whole, &trial->codec->tensor, (const float *const *)trial->factors, trial->work);
    }
    for (int i = 0; i < TIMED; i++) {
        const double began = tacit__seconds();

        run(trial);
        least = fmin(least, tacit__seconds() - began);
    }
    return least;
}

/* ---- Errors ---- */

static int by_magnitude(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x < y) - (x > y);
}

/* Encodes with the largest option. order[]: its entries by magnitude, the largest first; *dropped_out: the square of what it does
   not send. Returns how many entries there are. */
static size_t order_entries(trial_t *trial, uint64_t *order, double *dropped_out)
{
    const tacit_select_t *select = trial->spec.compressor->select;
    const size_t          count = trial->codec->tensor.count;
    const tacit_block_t   whole = block_of(trial, 0, count);
    const tacit_entries_t chosen = tacit__choose(select, &whole, trial->a, trial->selection);
    const size_t          entries = chosen.count;
    double                dropped = 0.0;
    size_t                next = 0;

    memcpy(trial->indices, chosen.indices, entries * sizeof *trial->indices);
    (void)select->encode(&whole, chosen.values, chosen.indices, entries, trial->payload, trial->values);
    for (size_t i = 0; i < entries; i++) {
        const size_t index = trial->indices[i];

        order[i] = (uint64_t)(tacit__float_bits(trial->a[index]) & 0x7fffffffu) << 32 | i;
        dropped += distance(trial->a + next, NULL, index - next);
        next = index + 1;
    }
    qsort(order, entries, sizeof *order, by_magnitude);
    *dropped_out = dropped + distance(trial->a + next, NULL, count - next);
    return entries;
}

/* Every option sends the first entries of the largest one's order. What is dropped is lost whole; what is sent loses a little
   where values are rounded. */
static tacit_status_t sparse_errors(const tacit_layer_t *layer, double *errors)
{
    trial_t        trial;
    tacit_status_t status = trial_init(&trial, layer, layer->option_count - 1);
    uint64_t      *order = tacit__alloc_unset(trial.entries * sizeof *order);
    size_t         entries, sent;
    double         dropped, rounded = 0.0;

    TRY(status);
    if (order == NULL) {
        status = no_memory(layer);
        goto out;
    }
    entries = sent = order_entries(&trial, order, &dropped);
    for (size_t option = layer->option_count; option-- > 0; errors[option] = dropped) {
        while (sent > layer->options[option].entries) {
            const float lost = trial.a[trial.indices[order[--sent] & UINT32_MAX]];
            dropped += (double)lost * (double)lost;
        }
    }
    sent = 0;
    for (size_t option = 0; option < layer->option_count; option++) {
        for (; sent < tacit__min(entries, layer->options[option].entries); sent++) {
            const size_t entry = order[sent] & UINT32_MAX;
            const double lost = (double)trial.a[trial.indices[entry]] - (double)trial.values[entry];
            rounded += lost * lost;
        }
        errors[option] = sqrt(errors[option] + rounded);
    }
out:
    trial_release(&trial);
    tacit__free(order);
    return status;
}

/* What is to be expected of k of n elements, one of each stratum; a single draw would be luck, and plans would follow it. An
   element of a stratum of s is kept with chance 1/s. Unbiased, it is scaled by s and has variance s - 1. */
static double drawn_error(const tacit_layer_t *layer, const trial_t *trial, size_t option, double norm)
{
    const size_t n = trial->codec->tensor.count, k = (size_t)layer->options[option].bytes / sizeof(float);
    const double s = (double)(n / k), longer = (double)(n % k), count = (double)n;
    double       factor;

    if (trial->spec.compressor->quality(trial->spec.compressor_config, n, &factor) == TACIT_UNBIASED) {
        return norm * sqrt((longer * (s + 1) * (s + 1) + ((double)k - longer) * s * s) / count - 1);
    }
    return norm * sqrt((count - (double)k) / count);
}

/* All ranks from the largest: factors hold one vector after the other, and each is found after those before it alone, so that
   fewer of them are the factors of a lower rank. What they do not hold of |a|^2 is lost. */
static tacit_status_t low_rank_errors(const tacit_layer_t *layer, double norm, double *errors)
{
    size_t                     option = layer->option_count - 1, done = 0;
    trial_t                    trial = {0};
    tacit_status_t             status = TACIT_OK;
    const tacit_linear_t      *linear;
    const tacit_slot_config_t *tensor = &layer->slot->codec->tensor;
    double                     kept = 0.0;
    tacit_block_t              whole;

    while (option > 0 && layer->options[option].entries == 0) {
        errors[option--] = 0.0; /* dense */
    }
    TRY(trial_init(&trial, layer, option));
    linear = trial.spec.compressor->linear;
    whole = block_of(&trial, 0, tensor->count);
    for (int i = 0; i < ITERATIONS; i++) {
        for (int round = 0; round < ROUNDS; round++) {
            linear->make_factor(&whole, tensor, round, trial.a, trial.work, trial.factors, trial.factors[round]);
        }
        linear->keep(&whole, tensor, (const float *const *)trial.factors, trial.work);
    }
    for (size_t i = 0; i <= option; i++) {
        kept += distance(trial.factors[1] + done, NULL, layer->options[i].entries - done);
        done = layer->options[i].entries;
        errors[i] = sqrt(fmax(0.0, norm * norm - kept));
    }
out:
    trial_release(&trial);
    return status;
}

static double blockwise_error(trial_t *trial)
{
    const size_t count = trial->codec->tensor.count;
    double       lost = 0.0;

    for (size_t done = 0, units; done < count; done += units) {
        units = tacit__min(count - done, trial->unit);
        blockwise(trial, done, units, false);
        lost += distance(trial->a + done, trial->decoded, units);
    }
    return sqrt(lost);
}

tacit_status_t tacit__layer_measure(const tacit_layer_t *layer, double *norm_out, double *errors, double *seconds)
{
    const bool     alike = layer->kind == TACIT_LAYER_SPARSE || layer->kind == TACIT_LAYER_LOW_RANK; /* one pass finds all */
    const double   norm = sqrt(distance(layer->sum, NULL, layer->slot->codec->tensor.count));
    trial_t        trial = {0};
    tacit_status_t status = TACIT_OK;

    if (alike) {
        TRY(layer->kind == TACIT_LAYER_SPARSE ? sparse_errors(layer, errors) : low_rank_errors(layer, norm, errors));
    }
    for (size_t option = 0; option < layer->option_count && (!alike || seconds != NULL); option++) {
        trial_release(&trial);
        TRY(trial_init(&trial, layer, option));
        if (layer->kind == TACIT_LAYER_BLOCKWISE) {
            errors[option] = blockwise_error(&trial);
        } else if (layer->kind == TACIT_LAYER_DRAWN) {
            errors[option] = drawn_error(layer, &trial, option, norm);
        }
        if (seconds != NULL) {
            seconds[option] = time_of(&trial);
        }
    }
    *norm_out = norm;
out:
    trial_release(&trial);
    return status;
}
