/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the options of one slot under layerwise adaptation, and gathers what would be encoded of its gradients. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec_memory.h"
#include "codec_unit.h"
#include "lgreco.h"
#include "param.h"

/* What is adapted. low and high: whole numbers that are looked at where the caller asks for no range. */
static const struct family {
    const char        *compressor, *key;
    tacit_layer_kind_t kind;
    int64_t            low, high;
} families[] = {
    {"topk", "ratio", TACIT_LAYER_SPARSE, 0, 0},      {"randk", "ratio", TACIT_LAYER_DRAWN, 0, 0},
    {"qsgd", "bits", TACIT_LAYER_BLOCKWISE, 2, 8},    {"rotq", "bits", TACIT_LAYER_BLOCKWISE, 1, 4},
    {"powersgd", "rank", TACIT_LAYER_LOW_RANK, 0, 0},
};

static const double default_low = 0.25, default_high = 4;

/* NULL: there is nothing to choose, or "auto" has chosen. */
static const struct family *family_of(const tacit_slot_t *slot)
{
    for (size_t i = 0; !slot->codec->given.automatic && i < sizeof families / sizeof *families; i++) {
        if (strcmp(families[i].compressor, slot->codec->compressor->name) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

/* ---- Values to try, ascending; returns where the slot's own stands ---- */

typedef struct range {
    double value[TACIT_LAYER_OPTIONS];
    size_t count, own;
} range_t;

/* Half powers of two around the own value, with four digits: no rounding of a machine's own, and easy to read. */
static void real_range(range_t *range, double own, double low, double high, double most)
{
    int first = 0, last = 0;

    while (ldexp(1.0, first - 1) >= low * low * (1 - 1e-9)) {
        first--;
    }
    while (ldexp(1.0, last + 1) <= high * high * (1 + 1e-9)) {
        last++;
    }
    range->count = 0;
    for (int half = first; half <= last; half++) {
        const double factor = ldexp(half % 2 != 0 ? sqrt(2.0) : 1.0, (half - (half & 1)) / 2);
        char         text[TACIT_VALUE_BYTES];

        snprintf(text, sizeof text, "%.4g", fmin(own * factor, most));
        range->own = half == 0 ? range->count : range->own;
        range->value[range->count++] = half == 0 ? own : strtod(text, NULL);
    }
}

/* All whole numbers, or, where they are too many, every so manieth. */
static void whole_range(range_t *range, int64_t own, int64_t first, int64_t last)
{
    const int64_t stride = (last - first) / (TACIT_LAYER_OPTIONS - 2) + 1;

    range->count = 0;
    for (int64_t number = first; number <= last; number++) {
        if (number == own) {
            range->own = range->count;
        }
        if (number == own || (number - first) % stride == 0) {
            range->value[range->count++] = (double)number;
        }
    }
}

static void find_range(range_t *range, const struct family *family, const tacit_param_t *param, const void *own,
                       const tacit_lgreco_config_t *config)
{
    const double low = config->low != 0 ? config->low : default_low, high = config->high != 0 ? config->high : default_high;
    const char  *at = (const char *)own + param->offset;
    int64_t      number, first, last;
    double       real;

    if (param->type == TACIT_PARAM_REAL) {
        memcpy(&real, at, sizeof real);
        real_range(range, real, low, high, param->high);
        return;
    }
    memcpy(&number, at, sizeof number);
    first = (int64_t)fmax(param->low, floor((double)number * low));
    last = (int64_t)fmin(param->high, ceil((double)number * high));
    if (family->high != 0) {
        first = config->low != 0 && first > family->low ? first : family->low;
        last = config->high != 0 && last < family->high ? last : family->high;
    }
    first = first < number ? first : number;
    last = last > number ? last : number;
    whole_range(range, number, first > 1 ? first : 1, last);
}

/* ---- Options ---- */

static void describe_option(const tacit_spec_t *spec, const tacit_slot_config_t *tensor, tacit_option_t *option)
{
    const tacit_compressor_t *compressor = spec->compressor;
    const void               *config = spec->compressor_config;
    size_t                    floats = 0;

    option->entries = 0;
    if (compressor->select != NULL) {
        option->entries = compressor->select->limit(config, tensor->count);
        option->bytes = (double)compressor->select->bound(config, tensor->count, option->entries);
    } else if (compressor->linear == NULL) {
        option->bytes = (double)compressor->bound(config, tensor->count);
    } else {
        for (int round = 0; round < compressor->linear->rounds(config, tensor); round++) {
            option->entries = round == 1 ? compressor->linear->factor_count(config, tensor, round) : 0;
            floats += compressor->linear->factor_count(config, tensor, round);
        }
        option->bytes = (double)(floats * sizeof(float));
    }
}

/* A value that the compressor refuses is none of the options, nor is one that makes messages no larger than the one before;
   the slot's own always is one. */
static tacit_status_t add_option(tacit_layer_t *layer, const char *value, bool own)
{
    tacit_option_t *option = &layer->options[layer->option_count];
    tacit_spec_t    spec = {0};
    char            text[TACIT_SPEC_BYTES];
    tacit_status_t  status;

    snprintf(option->value, sizeof option->value, "%s", value);
    TRY(tacit__spec_replace(layer->slot->codec->given.text, layer->key, value, text, sizeof text));
    TRY(tacit__spec_parse(text, &spec));
    describe_option(&spec, &layer->slot->codec->tensor, option);
    if (layer->option_count != 0 && option->bytes <= option[-1].bytes) {
        if (!own) {
            goto out;
        }
        option[-1] = *option;
        layer->option_count--;
    }
    if (own) {
        layer->reference = layer->option_count;
    }
    layer->option_count++;
out:
    tacit__spec_release(&spec);
    return status == TACIT_ERR_SPEC && !own ? TACIT_OK : status;
}

tacit_status_t tacit__layer_init(tacit_layer_t *layer, tacit_slot_t *slot, size_t index, const tacit_lgreco_config_t *config)
{
    const tacit_codec_t *codec = slot->codec;
    const struct family *family = family_of(slot);
    const tacit_param_t *param;
    tacit_status_t       status;
    range_t              range;

    *layer = (tacit_layer_t){.slot = slot, .index = index};
    if (family == NULL || codec->tensor.count == 0) {
        return TACIT_OK;
    }
    layer->key = family->key;
    layer->kind = family->kind;
    param = tacit__param_find(codec->compressor->params, family->key, strlen(family->key));
    find_range(&range, family, param, codec->spec.compressor_config, config);
    layer->options = tacit__alloc(range.count, sizeof *layer->options);
    if (layer->options == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "slot '%s': no memory for %zu options", codec->name, range.count);
    }
    for (size_t i = 0; i < range.count; i++) {
        const tacit_param_t printed = {.type = param->type};
        const int64_t       number = (int64_t)range.value[i];
        const void         *at = param->type == TACIT_PARAM_INT ? (const void *)&number : &range.value[i];
        char                value[TACIT_VALUE_BYTES];

        (void)tacit__param_print(&printed, at, value, sizeof value);
        TRY(add_option(layer, value, i == range.own));
    }
    if (layer->option_count == 1) {
        tacit__layer_release(layer); /* nothing to choose */
    }
out:
    return status;
}

void tacit__layer_release(tacit_layer_t *layer)
{
    tacit__free(layer->options);
    tacit__free(layer->sum);
    layer->options = NULL;
    layer->sum = NULL;
    layer->option_count = 0;
}

tacit_status_t tacit__layer_spec(const tacit_layer_t *layer, size_t option, char spec[TACIT_SPEC_BYTES])
{
    return tacit__spec_replace(layer->slot->codec->given.text, layer->key, layer->options[option].value, spec, TACIT_SPEC_BYTES);
}

/* The slot's value now, as a spec spells it. */
static void print_value(const tacit_layer_t *layer, char value[TACIT_VALUE_BYTES])
{
    const tacit_spec_t  *spec = &layer->slot->codec->spec;
    const tacit_param_t *param = tacit__param_find(spec->compressor->params, layer->key, strlen(layer->key));
    const tacit_param_t  printed = {.type = param->type, .offset = param->offset}; /* as a number, not as a word for it */

    (void)tacit__param_print(&printed, spec->compressor_config, value, TACIT_VALUE_BYTES);
}

size_t tacit__layer_option(const tacit_layer_t *layer)
{
    char   value[TACIT_VALUE_BYTES];
    size_t option = 0;

    print_value(layer, value);
    while (option < layer->option_count && strcmp(layer->options[option].value, value) != 0) {
        option++;
    }
    return option;
}

/* ---- Gathering ---- */

enum { WINDOW = 512 }; /* elements of memory at once: what feedback may write to is on the stack */

/* Memory of [first, first + count) for before() alone, which leaves it as it is: what that notes for the rest of the step goes to
   `scratch`. */
static tacit_state_t window_of(const tacit_codec_t *codec, size_t first, size_t count, float scratch[][WINDOW])
{
    tacit_state_t state = {.config = codec->memory.config, .count = count};

    for (int array = 0; array < TACIT_STATE_ARRAYS; array++) {
        if (codec->packed[array] != NULL || codec->memory.now[array] != NULL) {
            tacit__memory_read(codec, array, first, count, scratch[array]);
            state.now[array] = state.next[array] = scratch[array];
        }
    }
    return state;
}

void tacit__layer_gather(tacit_layer_t *layer, const float *gradient)
{
    const tacit_codec_t *codec = layer->slot->codec;
    const size_t         count = codec->tensor.count;
    float                scratch[TACIT_STATE_ARRAYS][WINDOW], encoded[WINDOW], *sum = layer->sum;

    if (!tacit__unit_is_finite(gradient, count)) {
        return;
    }
    for (size_t done = 0, units; done < count; done += units) {
        const float *a = gradient + done;

        units = tacit__min(count - done, WINDOW);
        if (codec->feedback != NULL) {
            const tacit_state_t state = window_of(codec, done, units, scratch);

            codec->feedback->before(&state, 0, units, a, encoded);
            a = encoded;
        }
        for (size_t i = 0; i < units; i++) {
            sum[done + i] += a[i];
        }
    }
}
