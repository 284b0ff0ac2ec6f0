/* SPDX-License-Identifier: Apache-2.0 */
/* Every optimizer of the build, the list in optim/Makefile.inc, and the words that name them. */
#include <stdio.h>
#include <string.h>

#include "optimizer.h"
#include "param.h"

#define TACIT_MODULE(name) extern const tacit_optimizer_t tacit__optimizer_##name;
#include "optimizers.def"
#undef TACIT_MODULE

static const tacit_optimizer_t *const optimizers[] = {
#define TACIT_MODULE(name) &tacit__optimizer_##name,
#include "optimizers.def"
#undef TACIT_MODULE
    NULL,
};

const tacit_optimizer_t *tacit__optimizer_at(size_t index)
{
    return index < sizeof optimizers / sizeof optimizers[0] - 1 ? optimizers[index] : NULL;
}

static const tacit_optimizer_t *named(const char *name, size_t bytes)
{
    for (size_t i = 0; optimizers[i] != NULL; i++) {
        if (strlen(optimizers[i]->name) == bytes && memcmp(optimizers[i]->name, name, bytes) == 0) {
            return optimizers[i];
        }
    }
    return NULL;
}

tacit_status_t tacit__optimizer_parse(const char *spec, const tacit_optimizer_t **kind_out, void **config_out, char *canonical)
{
    tacit_status_t           status;
    tacit_cursor_t           cursor = {spec != NULL ? spec : ""};
    const size_t             bytes = tacit__spec_word(cursor.at);
    const tacit_optimizer_t *kind = named(cursor.at, bytes);
    void                    *config = NULL;

    if (kind == NULL) {
        status = tacit__spec_unknown(TACIT_OPTIMIZERS, "optimizer", cursor.at, bytes);
        goto out;
    }
    if (strlen(spec) >= TACIT_SPEC_BYTES / 2) {
        status = tacit__fail(TACIT_ERR_SPEC, "'%.40s...' is longer than %d characters", spec, TACIT_SPEC_BYTES / 2 - 1);
        goto out;
    }
    config = tacit__alloc(1, kind->config_bytes);
    if (config == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "no memory for an optimizer's parameters");
        goto out;
    }
    cursor.at += bytes;
    tacit__param_defaults(kind->params, config);
    TRY(tacit__spec_params(&cursor, kind->name, kind->params, config));
    if (*cursor.at != '\0') {
        status = tacit__fail(TACIT_ERR_SPEC, "'%.40s' in '%.80s' is not understood; the form is optimizer:key=value,...",
                             cursor.at, spec);
        goto out;
    }
    if (kind->settle != NULL) {
        TRY(kind->settle(config));
    }
    snprintf(canonical, TACIT_SPEC_BYTES, "%s", kind->name);
    tacit__spec_print(kind->params, config, canonical, TACIT_SPEC_BYTES);

    *kind_out = kind;
    *config_out = config;
    config = NULL; /* now the caller's */
out:
    tacit__free(config);
    return status;
}

tacit_status_t tacit_optim_check(const char *spec, char *canonical, size_t capacity)
{
    const tacit_optimizer_t *kind;
    void                    *config = NULL;
    char                     text[TACIT_SPEC_BYTES];
    tacit_status_t           status = tacit__optimizer_parse(spec, &kind, &config, text);

    if (status == TACIT_OK && canonical != NULL && capacity != 0) {
        snprintf(canonical, capacity, "%s", text);
    }
    tacit__free(config);
    return status;
}
