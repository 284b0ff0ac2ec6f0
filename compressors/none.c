/* SPDX-License-Identifier: Apache-2.0 */
/* `none`: the values themselves, 4 bytes each. What compressed collectives are held against, and what carries tensors that
   are not worth compressing. */
#include "bits.h"
#include "compressor.h"
#include "isa.h"

enum { STEP = 1024 }; /* elements looked at and copied together: 4 KiB, which stay in L1 */

TACIT_ALWAYS_INLINE uint32_t encode(tacit_isa_t isa, const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    uint32_t nonfinite = 0;

    (void)isa;
    for (size_t i = 0, part; i < block->count; i += part) {
        part = block->count - i < STEP ? block->count - i : STEP;
        for (size_t j = 0; j < part; j++) {
            nonfinite |= tacit__nonfinite_bit(a[i + j]);
        }
        memcpy(payload + 4 * i, a + i, 4 * part);
        if (decoded != a) {
            memcpy(decoded + i, a + i, 4 * part);
        }
    }
    return nonfinite >> 31 ? TACIT_FAULT_NONFINITE : 0u;
}

/* Nothing is kept back. */
TACIT_ALWAYS_INLINE uint32_t encode_ef(tacit_isa_t isa, const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload,
                                       size_t *done_out)
{
    float a[TACIT_LANES];

    (void)isa;
    for (size_t i = 0, part; i < block->count; i += part) {
        uint32_t nonfinite = 0;

        part = block->count - i < TACIT_LANES ? block->count - i : TACIT_LANES;
        for (size_t j = 0; j < part; j++) {
            a[j] = ef->in[i + j] + ef->now[i + j];
            nonfinite |= tacit__nonfinite_bit(a[j]);
        }
        if (nonfinite >> 31) {
            *done_out = i;
            return TACIT_FAULT_NONFINITE;
        }
        memcpy(payload + 4 * i, a, 4 * part);
        memset(ef->next + i, 0, 4 * part);
    }
    *done_out = block->count;
    return 0;
}

static void add_lanes(const uint8_t *restrict payload, float *restrict out)
{
    for (size_t j = 0; j < TACIT_LANES; j++) {
        out[j] += tacit__bits_float(tacit__load32(payload + 4 * j));
    }
}

static inline void decode(tacit_isa_t isa, const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const size_t whole = block->count - block->count % TACIT_LANES;

    (void)isa;
    if (!add) {
        memcpy(out, payload, block->count * sizeof *out);
        return;
    }
    for (size_t i = 0; i < whole; i += TACIT_LANES) {
        add_lanes(payload + 4 * i, out + i);
    }
    for (size_t i = whole; i < block->count; i++) {
        out[i] += tacit__bits_float(tacit__load32(payload + 4 * i));
    }
}

static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    (void)config;
    (void)count;
    *factor = 0;
    return TACIT_LOSSLESS;
}

static size_t grain(const void *config)
{
    (void)config;
    return TACIT_LANES;
}

static size_t bound(const void *config, size_t count)
{
    (void)config;
    return count * sizeof(float);
}

static tacit_device_code_t device(const void *config)
{
    (void)config;
    return (tacit_device_code_t){.code = TACIT_CODE_NONE, .block = TACIT_CAST_BLOCK};
}

static const tacit_param_t params[] = {{.key = NULL}};
TACIT_KERNELS

const tacit_compressor_t tacit__compressor_none = {
    .name = "none",
    .summary = "no compression: float32 as it is",
    .wire_id = 1,
    .wire_version = 1,
    .params = params,
    .quality = quality,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .device = device,
};
