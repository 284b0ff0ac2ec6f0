/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of optimizers, from their canonical specs, and the factors of a step: the same bits as in optim/. */
#include "gpu_optimizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tacit_optim.h>

enum { SPEC_BYTES = 1024 };

/* ---- Specs ---- */

/* The value of a parameter behind `part` of a canonical spec ("sgd:", "+dgc:"); "" where there is none. */
static const char *value_of(const char *spec, const char *part, const char *key)
{
    const char  *at = strstr(spec, part);
    const size_t length = strlen(key);

    for (at = at ? at + strlen(part) : NULL; at; at = (at = strchr(at, ',')) ? at + 1 : NULL) {
        if (strncmp(at, key, length) == 0 && at[length] == '=') {
            return at + length + 1;
        }
    }
    return "";
}

static bool is_word(const char *value, const char *word)
{
    const size_t length = strlen(word);

    return strncmp(value, word, length) == 0 && (value[length] == '\0' || value[length] == ',');
}

/* A parameter for which there is no kernel, and which is not as it is by default. */
static const char *without_kernel(const char *spec, const char *part)
{
    static const struct {
        const char *key, *usual;
    } others[] = {{"clip", "0"}, {"warmup", "none"}, {"rescale", "off"}};

    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const char *value = value_of(spec, part, others[i].key);

        if (*value != '\0' && !is_word(value, others[i].usual)) {
            return others[i].key;
        }
    }
    return NULL;
}

/* Where the feedback brings the momentum, sgd has none. Returns the complaint or NULL. */
static const char *take_momentum(gpu_optimizer_t *optimizer, const char *given, const char *messages)
{
    optimizer->momentum = is_word(given, "auto") ? 0.9 : strtod(given, NULL);
    if (!optimizer->owned) {
        return NULL;
    }
    if (optimizer->adam) {
        return "'dgc' brings a momentum of its own, which does not go with adam; use sgd, or '+ef'";
    }
    if ((!is_word(given, "auto") && optimizer->momentum > 0.0) || optimizer->nesterov) {
        return "'dgc' has the momentum, so sgd must have none; give momentum and nesterov to '+dgc' and leave them out here";
    }
    optimizer->momentum = strtod(value_of(messages, "+dgc:", "momentum"), NULL);
    optimizer->nesterov = is_word(value_of(messages, "+dgc:", "nesterov"), "on");
    return NULL;
}

const char *gpu_optimizer_read(const char *spec, const char *messages, gpu_optimizer_t *optimizer_out, char *text,
                               size_t capacity)
{
    char            own[SPEC_BYTES], theirs[SPEC_BYTES];
    gpu_optimizer_t optimizer = {0};
    const char     *part, *other, *complaint;

    if (tacit_optim_check(spec, own, sizeof own) != TACIT_OK || tacit_spec_check(messages, theirs, sizeof theirs) != TACIT_OK) {
        return tacit_last_error();
    }
    optimizer.adam = strncmp(own, "adam:", 5) == 0;
    part = optimizer.adam ? "adam:" : "sgd:";
    other = without_kernel(own, part);
    if (strncmp(own, part, strlen(part)) != 0) {
        (void)snprintf(text, capacity, "'%.200s' runs on the CPU only; on a GPU there are sgd and adam", spec);
        return text;
    }
    if (other) {
        (void)snprintf(text, capacity, "'%.200s': %s works on the CPU only; on a GPU leave it out", spec, other);
        return text;
    }
    optimizer.op = is_word(value_of(own, part, "reduce"), "sum") ? TACIT_SUM : TACIT_AVERAGE;
    optimizer.decay = strtod(value_of(own, part, "weight-decay"), NULL);
    optimizer.nesterov = is_word(value_of(own, part, "nesterov"), "on");
    optimizer.beta1 = strtod(value_of(own, part, "beta1"), NULL);
    optimizer.beta2 = strtod(value_of(own, part, "beta2"), NULL);
    optimizer.epsilon = strtod(value_of(own, part, "epsilon"), NULL);
    optimizer.corrected = is_word(value_of(own, part, "bias-correction"), "on");
    optimizer.owned = strstr(theirs, "+dgc:") != NULL;
    complaint = take_momentum(&optimizer, value_of(own, part, "momentum"), theirs);
    if (!complaint) {
        *optimizer_out = optimizer;
    }
    return complaint;
}

int gpu_optimizer_arrays(const gpu_optimizer_t *optimizer)
{
    const bool buffer = optimizer->momentum > 0.0 && (!optimizer->owned || optimizer->decay > 0.0);

    return optimizer->adam ? 2 : buffer ? 1 : 0;
}

/* ---- A step ---- */

/* Of exactly rounded products only, as in optim/optimizer.c. */
static double power(double base, uint64_t exponent)
{
    double result = 1.0;

    for (; exponent != 0; exponent /= 2) {
        result *= exponent % 2 != 0 ? base : 1.0;
        base *= base;
    }
    return result;
}

static gpu_adam_t adam_of(const gpu_optimizer_t *optimizer, uint64_t steps, double rate)
{
    const bool corrected = optimizer->corrected;

    return (gpu_adam_t){
        .rate = (float)rate,
        .beta1 = (float)optimizer->beta1,
        .rest1 = (float)(1.0 - optimizer->beta1),
        .beta2 = (float)optimizer->beta2,
        .rest2 = (float)(1.0 - optimizer->beta2),
        .epsilon = (float)optimizer->epsilon,
        .decay = (float)optimizer->decay,
        .correct1 = corrected ? (float)(1.0 / (1.0 - power(optimizer->beta1, steps + 1))) : 1.0f,
        .correct2 = corrected ? (float)(1.0 / sqrt(1.0 - power(optimizer->beta2, steps + 1))) : 1.0f,
    };
}

const char *gpu_optimizer_step(const gpu_optimizer_t *optimizer, const gpu_module_t *module, gpu_t *gpu, uint64_t steps,
                               double rate, size_t count, const float *gradients, float *const state[2], float *values)
{
    const gpu_adam_t adam = adam_of(optimizer, steps, rate);
    const gpu_sgd_t  sgd = {(float)rate, (float)optimizer->momentum, (float)optimizer->decay, optimizer->nesterov,
                            optimizer->owned};

    return optimizer->adam ? module->adam(gpu, &adam, count, gradients, state[0], state[1], values)
                           : module->sgd(gpu, &sgd, count, gradients, state[0], values);
}
