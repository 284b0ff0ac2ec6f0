/* SPDX-License-Identifier: Apache-2.0 */
/* Parses specs, answers typos with the nearest right word, and refuses pairs that theory forbids. */
#include "spec.h"

#include <stdio.h>
#include <string.h>

#include "param.h"

enum { LIST_BYTES = 200 };

static bool is_value(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

size_t tacit__spec_word(const char *text)
{
    size_t bytes = 0;

    while (is_value(text[bytes])) {
        bytes++;
    }
    return bytes;
}

/* Collects the words of a table for an error message, and the nearest of them to a typo. */
typedef struct tacit_suggestion {
    char        list[LIST_BYTES];
    const char *nearest;
    unsigned    distance;
} tacit_suggestion_t;

static void suggest(tacit_suggestion_t *suggestion, const char *word, const char *typo, size_t typo_bytes)
{
    size_t   used = strlen(suggestion->list);
    unsigned distance = tacit__word_distance(typo, typo_bytes, word, strlen(word));

    snprintf(suggestion->list + used, sizeof suggestion->list - used, "%s%s", used != 0 ? ", " : "", word);
    if (suggestion->nearest == NULL || distance < suggestion->distance) {
        suggestion->nearest = word;
        suggestion->distance = distance;
    }
}

static tacit_status_t unknown(const char *what, const char *typo, size_t typo_bytes, const tacit_suggestion_t *suggestion)
{
    bool near = suggestion->nearest != NULL && suggestion->distance <= 2 + typo_bytes / 4;

    return tacit__fail(TACIT_ERR_SPEC, "unknown %s '%.*s'%s%s%s (%s%s)", what, (int)tacit__min(typo_bytes, 40), typo,
                       near ? "; did you mean '" : "", near ? suggestion->nearest : "", near ? "'?" : "",
                       suggestion->nearest == NULL ? "there is none" : "to choose from: ", suggestion->list);
}

tacit_status_t tacit__spec_unknown(tacit_kind_t kind, const char *what, const char *word, size_t bytes)
{
    tacit_suggestion_t suggestion = {.nearest = NULL};
    tacit_module_t     module;

    for (size_t i = 0; tacit_module(kind, i, &module) == TACIT_OK; i++) {
        suggest(&suggestion, module.name, word, bytes);
    }
    return unknown(what, word, bytes, &suggestion);
}

static tacit_status_t unknown_key(const char *owner, const tacit_param_t *params, const char *key, size_t bytes)
{
    tacit_suggestion_t suggestion = {.nearest = NULL};
    char               what[64];

    for (const tacit_param_t *param = params; param->key != NULL; param++) {
        suggest(&suggestion, param->key, key, bytes);
    }
    snprintf(what, sizeof what, "parameter of %s", owner);
    return unknown(what, key, bytes, &suggestion);
}

tacit_status_t tacit__spec_params(tacit_cursor_t *cursor, const char *owner, const tacit_param_t *params, void *config)
{
    tacit_status_t status = TACIT_OK;
    uint64_t       seen = 0;

    if (*cursor->at != ':') {
        goto out;
    }
    do {
        const char          *key = cursor->at + 1;
        size_t               key_bytes = tacit__spec_word(key);
        const char          *value = key + key_bytes + 1;
        const tacit_param_t *param = tacit__param_find(params, key, key_bytes);
        size_t               value_bytes;

        if (key_bytes == 0 || key[key_bytes] != '=' || (value_bytes = tacit__spec_word(value)) == 0) {
            status = tacit__fail(TACIT_ERR_SPEC, "expected key=value after '%c' in '%.40s' (parameters of %s)", *cursor->at,
                                 cursor->at, owner);
            goto out;
        }
        if (param == NULL) {
            status = unknown_key(owner, params, key, key_bytes);
            goto out;
        }
        if (seen & (UINT64_C(1) << (param - params))) {
            status = tacit__fail(TACIT_ERR_SPEC, "%s: %s is given twice", owner, param->key);
            goto out;
        }
        seen |= UINT64_C(1) << (param - params);
        TRY(tacit__param_parse(owner, param, value, value_bytes, config));
        cursor->at = value + value_bytes;
    } while (*cursor->at == ',');
out:
    return status;
}

/* A copy of word[0..bytes) for look-up; words longer than any name are cut, and then not found. */
static void copy_word(char *name, size_t capacity, const char *word, size_t bytes)
{
    snprintf(name, capacity, "%.*s", (int)tacit__min(bytes, capacity - 1), word);
}

const tacit_param_t tacit__automatic_params[] = {
    {.key = "error",
     .type = TACIT_PARAM_REAL,
     .offset = 0,
     .low = 0,
     .high = 1,
     .initial = 0,
     .unit = "",
     .help = "The norm of what one encoding loses, at most, as a part of the norm of what is encoded; 0: nothing is lost."},
    {NULL, TACIT_PARAM_INT, 0, 0, 0, 0, 0, NULL, NULL, NULL},
};

static tacit_status_t parse_compressor(tacit_cursor_t *cursor, tacit_spec_t *spec)
{
    tacit_status_t status;
    size_t         bytes = tacit__spec_word(cursor->at);
    char           name[64];

    copy_word(name, sizeof name, cursor->at, bytes);
    if (strcmp(name, "auto") == 0) {
        spec->automatic = true;
        cursor->at += bytes;
        TRY(tacit__spec_params(cursor, "auto", tacit__automatic_params, &spec->error));
        copy_word(name, sizeof name, "none", 4);
        bytes = 0;
    }
    spec->compressor = tacit__compressor_named(name);
    if (spec->compressor == NULL) {
        status = tacit__spec_unknown(TACIT_COMPRESSORS, "compressor", cursor->at, bytes);
        goto out;
    }
    cursor->at += bytes;
    spec->compressor_config = tacit__alloc(1, spec->compressor->config_bytes);
    if (spec->compressor_config == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "no memory for a spec");
        goto out;
    }
    tacit__param_defaults(spec->compressor->params, spec->compressor_config);
    TRY(spec->automatic ? TACIT_OK
                        : tacit__spec_params(cursor, spec->compressor->name, spec->compressor->params, spec->compressor_config));
out:
    return status;
}

static tacit_status_t parse_feedback(tacit_cursor_t *cursor, tacit_spec_t *spec)
{
    tacit_status_t status = TACIT_OK;
    size_t         bytes;
    char           name[64];

    if (*cursor->at != '+') {
        goto out;
    }
    cursor->at++;
    bytes = tacit__spec_word(cursor->at);
    copy_word(name, sizeof name, cursor->at, bytes);
    spec->feedback = tacit__feedback_named(name);
    if (spec->feedback == NULL) {
        status = tacit__spec_unknown(TACIT_FEEDBACKS, "feedback", cursor->at, bytes);
        goto out;
    }
    cursor->at += bytes;
    spec->feedback_config = tacit__alloc(1, spec->feedback->config_bytes);
    if (spec->feedback_config == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "no memory for a spec");
        goto out;
    }
    tacit__param_defaults(spec->feedback->params, spec->feedback_config);
    TRY(tacit__spec_params(cursor, spec->feedback->name, spec->feedback->params, spec->feedback_config));
out:
    return status;
}

/* A precision is asked of arrays that may be rounded. */
static tacit_status_t check_precision(const tacit_spec_t *spec)
{
    const tacit_feedback_t *feedback = spec->feedback;
    int                     precision;

    if (feedback == NULL) {
        return TACIT_OK;
    }
    memcpy(&precision, spec->feedback_config, sizeof precision);
    for (int i = 0; feedback->arrays[i] != NULL; i++) {
        if ((feedback->rounded >> i & 1) != 0 && (feedback->has == NULL || feedback->has(spec->feedback_config, i))) {
            return TACIT_OK;
        }
    }
    return precision == TACIT_PRECISION_FP32
               ? TACIT_OK
               : tacit__fail(
                     TACIT_ERR_SPEC,
                     "%s: '%s' keeps nothing back that could be rounded: other ranks hold copies of its trackers, which must "
                     "stay equal to the bit; leave out residual=, or use ef21 with average below 1, econtrol or ef",
                     spec->text, feedback->name);
}

/* What theory forbids: feedback around an unscaled unbiased compressor with omega >= 1 is expansive (algorithms: Karimireddy et
   al. 2019 need a contraction). Checked for a tensor large enough for the worst case. */
static tacit_status_t check_pair(tacit_spec_t *spec)
{
    char         reason[TACIT_REASON_BYTES] = "";
    double       factor = 0.0;
    const size_t large = (size_t)1 << 24;

    if (spec->compressor->tokens && spec->feedback != NULL) {
        return tacit__fail(
            TACIT_ERR_SPEC,
            "%s: '%s' is for tokens, which are others in every step, so that there is nothing to remember of them; "
            "leave out '+%s'",
            spec->text, spec->compressor->name, spec->feedback->name);
    }
    if (spec->compressor->settle != NULL &&
        !spec->compressor->settle(spec->compressor_config, spec->feedback != NULL, reason, sizeof reason)) {
        return tacit__fail(TACIT_ERR_SPEC, "%s: %s", spec->text, reason);
    }
    if (spec->feedback == NULL) {
        return TACIT_OK;
    }
    if (spec->automatic && (spec->feedback != tacit__feedback_named("ef") || !(spec->error > 0))) {
        return tacit__fail(
            TACIT_ERR_SPEC,
            "%s: 'auto' with an error= has the feedback 'ef', or none; without error= it loses nothing that could be "
            "remembered",
            spec->text);
    }
    if (spec->compressor->quality(spec->compressor_config, large, &factor) == TACIT_UNBIASED && factor >= 1.0) {
        return tacit__fail(TACIT_ERR_SPEC,
                           "%s: feedback around an unbiased compressor with variance factor %.3g >= 1 grows without bound; leave "
                           "out '+%s' or choose a smaller error",
                           spec->text, factor, spec->feedback->name);
    }
    if (spec->feedback->after == NULL && spec->compressor->select == NULL) {
        return tacit__fail(TACIT_ERR_SPEC, "%s: feedback '%s' works with sparse compressors only (topk)", spec->text,
                           spec->feedback->name);
    }
    return TACIT_OK;
}

void tacit__spec_print(const tacit_param_t *params, const void *config, char *text, size_t capacity)
{
    size_t used = strlen(text);
    char   separator = ':';

    for (const tacit_param_t *param = params; param->key != NULL && used + 1 < capacity; param++) {
        used += (size_t)snprintf(text + used, capacity - used, "%c%s=", separator, param->key);
        if (used < capacity) {
            used += tacit__param_print(param, config, text + used, capacity - used);
        }
        separator = ',';
    }
}

static void print_canonical(tacit_spec_t *spec)
{
    char  *text = spec->canonical;
    size_t used;

    snprintf(text, TACIT_SPEC_BYTES, "%s", spec->automatic ? "auto" : spec->compressor->name);
    if (!spec->automatic) {
        tacit__spec_print(spec->compressor->params, spec->compressor_config, text, TACIT_SPEC_BYTES);
    } else if (spec->error > 0) {
        tacit__spec_print(tacit__automatic_params, &spec->error, text, TACIT_SPEC_BYTES);
    }
    if (spec->feedback != NULL) {
        used = strlen(text);
        snprintf(text + used, TACIT_SPEC_BYTES - used, "+%s", spec->feedback->name);
        tacit__spec_print(spec->feedback->params, spec->feedback_config, text, TACIT_SPEC_BYTES);
    }
}

/* Of all but the precision of memory, the last parameter: it says nothing of frames. */
static uint64_t hash_canonical(const char *canonical)
{
    const char *feedback = strchr(canonical, '+');
    const char *residual = feedback != NULL ? strstr(feedback, "residual=") : NULL;
    size_t      bytes = residual != NULL ? (size_t)(residual - 1 - canonical) : strlen(canonical);

    return tacit__hash(TACIT_HASH_START, canonical, bytes);
}

static tacit_status_t parse(const char *text, bool dense, tacit_spec_t *spec_out)
{
    tacit_status_t status;
    tacit_spec_t   spec = {0};
    tacit_cursor_t cursor = {text};

    if (text == NULL || *text == '\0') {
        status = tacit__fail(TACIT_ERR_SPEC, "the spec is empty; 'none' is the plain reduction");
        goto out;
    }
    if (strlen(text) >= TACIT_SPEC_BYTES / 2) {
        status = tacit__fail(TACIT_ERR_SPEC, "the spec '%.40s...' is longer than %d characters", text, TACIT_SPEC_BYTES / 2 - 1);
        goto out;
    }
    snprintf(spec.text, sizeof spec.text, "%s", text);
    TRY(parse_compressor(&cursor, &spec));
    TRY(parse_feedback(&cursor, &spec));
    if (*cursor.at != '\0') {
        status = tacit__fail(TACIT_ERR_SPEC,
                             "'%.40s' in the spec '%s' is not understood; the form is compressor:key=value,...+feedback",
                             cursor.at, text);
        goto out;
    }
    TRY(check_precision(&spec));
    if (dense) { /* its memory is of small tensors, and stays float32 */
        spec.feedback = spec.feedback->dense;
    }
    TRY(check_pair(&spec));
    print_canonical(&spec);
    spec.hash = hash_canonical(spec.canonical);

    *spec_out = spec;
    spec = (tacit_spec_t){0}; /* now the caller's */
out:
    tacit__spec_release(&spec);
    return status;
}

tacit_status_t tacit__spec_parse_any(const char *text, tacit_spec_t *spec_out)
{
    return parse(text, false, spec_out);
}

tacit_status_t tacit__spec_parse_effective(const char *text, bool dense, tacit_spec_t *spec_out)
{
    tacit_status_t status;
    tacit_spec_t   spec = {0};

    TRY(parse(text, dense, &spec));
    if (spec.compressor->tokens) {
        status =
            tacit__fail(TACIT_ERR_SPEC,
                        "%s: '%s' is for tokens: tacit_moe_create() takes it; tensors that are reduced need another compressor",
                        spec.text, spec.compressor->name);
        goto out;
    }
    *spec_out = spec;
    spec = (tacit_spec_t){0}; /* now the caller's */
out:
    tacit__spec_release(&spec);
    return status;
}

tacit_status_t tacit__spec_parse(const char *text, tacit_spec_t *spec_out)
{
    return tacit__spec_parse_effective(text, false, spec_out);
}

tacit_status_t tacit__spec_replace(const char *text, const char *key, const char *value, char *out, size_t capacity)
{
    tacit_status_t       status;
    tacit_spec_t         spec = {0};
    const tacit_param_t *param;
    size_t               used;

    TRY(tacit__spec_parse(text, &spec));
    param = tacit__param_find(spec.compressor->params, key, strlen(key));
    if (param == NULL) {
        status = unknown_key(spec.compressor->name, spec.compressor->params, key, strlen(key));
        goto out;
    }
    TRY(tacit__param_parse(spec.compressor->name, param, value, strlen(value), spec.compressor_config));
    snprintf(spec.text, sizeof spec.text, "%s", spec.compressor->name);
    tacit__spec_print(spec.compressor->params, spec.compressor_config, spec.text, sizeof spec.text);
    used = strlen(spec.text);
    snprintf(spec.text + used, sizeof spec.text - used, "%s", strchr(text, '+') != NULL ? strchr(text, '+') : "");
    if (strlen(spec.text) >= capacity) {
        status = tacit__fail(TACIT_ERR_SPEC, "the spec '%.40s...' would be too long", spec.text);
        goto out;
    }
    snprintf(out, capacity, "%s", spec.text);
out:
    tacit__spec_release(&spec);
    return status;
}

void tacit__spec_release(tacit_spec_t *spec)
{
    tacit__free(spec->compressor_config);
    tacit__free(spec->feedback_config);
    *spec = (tacit_spec_t){0};
}

tacit_status_t tacit_spec_check(const char *text, char *canonical, size_t capacity)
{
    tacit_status_t status;
    tacit_spec_t   spec = {0};

    TRY(tacit__spec_parse_any(text, &spec));
    if (canonical != NULL && capacity != 0) {
        snprintf(canonical, capacity, "%s", spec.canonical);
    }
out:
    tacit__spec_release(&spec);
    return status;
}

tacit_status_t tacit__spec_check_slot(const char *text)
{
    tacit_spec_t         spec = {0};
    const tacit_status_t status = tacit__spec_parse(text, &spec);

    tacit__spec_release(&spec);
    return status;
}
