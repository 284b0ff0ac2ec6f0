/* SPDX-License-Identifier: Apache-2.0 */
/* `fp16`: every value rounded to float16. Values beyond its range become its largest finite number, so that
   feedback keeps the excess. */
#include "half.h"
#include "isa.h"
#include "own.h"

enum { LARGEST = 0x7bff, INFINITE = 0x7c00 };

typedef struct config {
    int own; /* a tacit_own_t */
} config_t;

void tacit__float16_widen(const uint16_t *in, float *out, size_t count)
{
    tacit__widen_array(in, out, count, tacit__from_float16);
}

void tacit__float16_narrow(const float *in, uint16_t *out, size_t count)
{
    tacit__narrow_array(in, out, count, tacit__to_float16, INFINITE);
}

static uint32_t encode(const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    return tacit__half_encode(block, a, payload, decoded, tacit__to_float16, LARGEST, tacit__from_float16);
}

static void decode(const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    tacit__half_decode(block, payload, out, add, tacit__from_float16);
}

static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    (void)config;
    (void)count;
    *factor = 0x1p-22; /* the square of the unit roundoff; worse for magnitudes below 2^-14 and above 65504 */
    return TACIT_CONTRACTION;
}

static size_t grain(const void *config)
{
    (void)config;
    return TACIT_LANES;
}

static size_t bound(const void *config, size_t count)
{
    (void)config;
    return count * sizeof(uint16_t);
}

static const tacit_param_t params[] = {TACIT_PARAM_OWN, {.key = NULL}};
TACIT_KERNELS

const tacit_compressor_t tacit__compressor_fp16 = {
    .name = "fp16",
    .summary = "float16: 11 significant bits, 6e-8 to 65504",
    .wire_id = 2,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
};
