/* SPDX-License-Identifier: Apache-2.0 */
/* `randk`: elements drawn at random, the same ones on every rank, so that only values travel and may be summed on the way
   (Stich et al., "Sparsified SGD with Memory", NeurIPS 2018).

   The tensor is cut into k strata of n/k elements, of sizes that differ by one at most, and each gives one element. So any range
   can be rebuilt without the rest, indices ascend, nothing is drawn twice and no table is needed, while every element has the
   same chance, k/n, up to the rounding of sizes; the error is that of drawing k of n elements without order. */
#include "bits.h"
#include "compressor.h"
#include "density.h"
#include "random.h"

#include <stdio.h>

typedef enum { SCALE_AUTO, SCALE_ONE, SCALE_UNBIASED } scale_t;

typedef struct config {
    double ratio;
    int    scale;
} config_t;

/* Stratum `number` of `strata`: elements [first, next) of n. */
typedef struct stratum {
    uint64_t first, next;
} stratum_t;

/* n < 2^32, so that no product overflows. */
static stratum_t stratum_of(uint64_t number, uint64_t strata, uint64_t n)
{
    return (stratum_t){number * n / strata, (number + 1) * n / strata};
}

static uint64_t drawn(const tacit_stream_t *stream, uint64_t number, stratum_t stratum)
{
    return stratum.first + ((uint64_t)tacit__random(stream, number) * (stratum.next - stratum.first) >> 32);
}

static int rounds(const void *config, const tacit_slot_config_t *tensor)
{
    (void)tensor;
    (void)config;
    return 1;
}

static size_t factor_count(const void *config, const tacit_slot_config_t *tensor, int round)
{
    const config_t *own = config;

    (void)round;
    return tacit__kept(own->ratio, tensor->count);
}

static void make_factor(const tacit_block_t *block, const tacit_slot_config_t *tensor, int round, const float *a,
                        const float *work, float *const *factors, float *factor)
{
    const config_t      *config = block->config;
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    const size_t         strata = factor_count(config, tensor, round);

    (void)work;
    (void)factors;
    for (size_t j = 0; j < strata; j++) {
        const stratum_t stratum = stratum_of(j, strata, tensor->count);
        factor[j] = a[drawn(&stream, j, stratum)];
        if (config->scale == SCALE_UNBIASED) {
            factor[j] *= (float)(stratum.next - stratum.first);
        }
    }
}

static void reconstruct(const tacit_block_t *block, const tacit_slot_config_t *tensor, const float *const *factors, float *out)
{
    const tacit_stream_t stream = tacit__stream(&block->key, true);
    const uint64_t       n = tensor->count, strata = factor_count(block->config, tensor, 0);
    const uint64_t       end = block->first + block->count;

    memset(out, 0, block->count * sizeof *out);
    if (block->count == 0) {
        return;
    }
    /* Strata before the first of these end before the range; it starts there or before. */
    for (uint64_t j = block->first * strata / n; j < strata; j++) {
        const stratum_t stratum = stratum_of(j, strata, n);
        const uint64_t  index = drawn(&stream, j, stratum);
        if (stratum.first >= end) {
            return;
        }
        if (index >= block->first && index < end) {
            out[index - block->first] = factors[0][j];
        }
    }
}

static bool settle(void *config, bool feedback, char *reason, size_t reason_bytes)
{
    config_t *own = config;

    if (own->scale == SCALE_AUTO) {
        own->scale = feedback ? SCALE_ONE : SCALE_UNBIASED;
    }
    if (feedback && own->scale == SCALE_UNBIASED && own->ratio < 1) {
        snprintf(reason, reason_bytes,
                 "feedback grows without limit around values that are scaled up to be unbiased; use scale=one");
        return false;
    }
    return true;
}

/* Of a stratum of s elements, one is kept: of x's square 1 - 1/s is lost on average. Scaled by s, the mean is x and the variance
   is s - 1 times x's square. Where that is 1 or more, memory around it would be a random walk at best: n/k < 2 is not enough,
   as some strata still have two elements. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;
    const size_t    strata = tacit__kept(own->ratio, count);
    const double    largest = strata > 0 ? (double)((count + strata - 1) / strata) : 1;

    *factor = own->scale == SCALE_UNBIASED ? largest - 1 : 1 - 1 / largest;
    return own->scale == SCALE_UNBIASED ? TACIT_UNBIASED : TACIT_CONTRACTION;
}

static tacit_device_code_t device(const void *config)
{
    return (tacit_device_code_t){.code = TACIT_CODE_RANDK, .variant = ((const config_t *)config)->scale == SCALE_UNBIASED};
}

static const tacit_param_t params[] = {
    {.key = "ratio",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(config_t, ratio),
     .low = 1e-9,
     .high = 1,
     .initial = 0.01,
     .unit = "",
     .help = "Elements to send, as a part of all; rounded up."},
    {.key = "scale",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, scale),
     .initial = SCALE_AUTO,
     .words = "auto one unbiased",
     .unit = "",
     .help = "What values are multiplied by: one, or what makes the mean right; auto: one with feedback, unbiased without."},
    {.key = NULL},
};

static const tacit_linear_t linear = {
    .rounds = rounds,
    .factor_count = factor_count,
    .make_factor = make_factor,
    .reconstruct = reconstruct,
};

const tacit_compressor_t tacit__compressor_randk = {
    .name = "randk",
    .summary = "elements drawn at random, the same on every rank: only values travel",
    .wire_id = 7,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .settle = settle,
    .quality = quality,
    .linear = &linear,
    .device = device,
};
