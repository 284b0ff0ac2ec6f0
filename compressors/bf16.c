/* SPDX-License-Identifier: Apache-2.0 */
/* `bf16`: every value rounded to bfloat16. Values beyond its range become its largest finite number, so that
   feedback keeps the excess. */
#include "half.h"
#include "isa.h"
#include "own.h"

enum { LARGEST = 0x7f7f, INFINITE = 0x7f80 };

typedef struct config {
    int own; /* a tacit_own_t */
} config_t;

void tacit__bfloat16_widen(const uint16_t *in, float *out, size_t count)
{
    tacit__widen_array(in, out, count, tacit__from_bfloat16);
}

void tacit__bfloat16_narrow(const float *in, uint16_t *out, size_t count)
{
    tacit__narrow_array(in, out, count, tacit__to_bfloat16, INFINITE);
}

static uint32_t encode(const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    return tacit__half_encode(block, a, payload, decoded, tacit__to_bfloat16, LARGEST, tacit__from_bfloat16);
}

static void decode(const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    tacit__half_decode(block, payload, out, add, tacit__from_bfloat16);
}

static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    (void)config;
    (void)count;
    *factor = 0x1p-16; /* the square of the unit roundoff; worse for magnitudes below 2^-126 */
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

const tacit_compressor_t tacit__compressor_bf16 = {
    .name = "bf16",
    .summary = "bfloat16: 8 significant bits, the range of float32",
    .wire_id = 3,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
};
