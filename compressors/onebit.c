/* SPDX-License-Identifier: Apache-2.0 */
/* `onebit`: the sign of every element and one scale a block, the root of the mean square (Tang et al., "1-bit Adam", ICML 2021)
   or the mean magnitude (Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019).

   A record, one a block: the scale, a float32; then one bit an element, set where a >= 0, so for -0 and not for NaN. Element 0
   is the most significant bit of the first byte; bits are padded with ones to a multiple of 4 bytes. No elements: no bytes. */
#include "bits.h"
#include "compressor.h"
#include "isa.h"
#include "own.h"

#include <math.h>

enum { SUB_BLOCK = 2048 }; /* elements of one float32 sum: 8 KiB, a quarter of L1; larger sums are float64 sums of these */

typedef enum { NORM_L2, NORM_L1 } norm_t;

typedef struct config {
    int     own; /* a tacit_own_t */
    int     norm;
    int64_t block; /* 0: all elements of a call */
} config_t;

/* ---- The scale: lane j of 64 takes elements i = j mod 64 in ascending i; then halves are added to halves ---- */

static inline float term(norm_t norm, float value)
{
    return norm == NORM_L2 ? value * value : fabsf(value);
}

static inline double wide_term(norm_t norm, float value)
{
    return norm == NORM_L2 ? (double)value * (double)value : fabs((double)value);
}

static inline __attribute__((always_inline)) float lanes_sum(norm_t norm, const float *a, size_t count)
{
    float  lanes[TACIT_LANES] = {0};
    size_t i = 0;

    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        for (size_t j = 0; j < TACIT_LANES; j++) {
            lanes[j] += term(norm, a[i + j]);
        }
    }
    for (size_t j = 0; i + j < count; j++) {
        lanes[j] += term(norm, a[i + j]);
    }
    for (size_t width = TACIT_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

/* The same in float64, for sums that leave the range of float32. Rare, so it need not be fast. */
static double wide_lanes_sum(norm_t norm, const float *a, size_t count)
{
    double lanes[TACIT_LANES] = {0};

    for (size_t i = 0; i < count; i++) {
        lanes[i % TACIT_LANES] += wide_term(norm, a[i]);
    }
    for (size_t width = TACIT_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

static double sub_block_sum(norm_t norm, const float *a, size_t count)
{
    float sum = norm == NORM_L2 ? lanes_sum(NORM_L2, a, count) : lanes_sum(NORM_L1, a, count);

    /* Squares of numbers near 2^-60 and below lose bits, or vanish, where squares of numbers near 2^-48 do not yet. */
    if (isfinite(sum) && (norm == NORM_L1 || sum >= 0x1p-96f)) {
        return (double)sum;
    }
    return wide_lanes_sum(norm, a, count);
}

static float scale_of(norm_t norm, const float *a, size_t count)
{
    double total = 0;

    for (size_t i = 0; i < count; i += SUB_BLOCK) {
        total += sub_block_sum(norm, a + i, count - i < SUB_BLOCK ? count - i : SUB_BLOCK);
    }
    if (!isfinite(total)) {
        return tacit__bits_float(TACIT_FLOAT_NAN);
    }
    total /= (double)count;
    return (float)(norm == NORM_L2 ? sqrt(total) : total);
}

/* ---- Bits ---- */

/* The bits of 64 elements; decoded may be a. */
static inline void encode_lanes(const float *a, float scale, uint8_t *payload, float *decoded)
{
    uint8_t  set[TACIT_LANES];
    uint64_t eight;

    for (size_t j = 0; j < TACIT_LANES; j++) {
        set[j] = a[j] >= 0;
    }
    for (size_t j = 0; j < TACIT_LANES; j++) {
        decoded[j] = tacit__bits_float(tacit__float_bits(scale) ^ (set[j] ? 0 : 0x80000000u));
    }
    for (size_t byte = 0; byte < TACIT_LANES / 8; byte++) {
        memcpy(&eight, set + 8 * byte, sizeof eight);
        /* Byte k goes to bit 63 - k. No two terms of the product share a bit, so that nothing is carried. */
        payload[byte] = (uint8_t)((eight * 0x8040201008040201u) >> 56);
    }
}

/* The values of 64 elements. */
static inline void decode_lanes(const uint8_t *restrict payload, float scale, float *restrict values)
{
    static const uint32_t masks[8] = {0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01};

    for (size_t byte = 0; byte < TACIT_LANES / 8; byte++) {
        for (size_t j = 0; j < 8; j++) {
            uint32_t sign = payload[byte] & masks[j] ? 0 : 0x80000000u;
            values[8 * byte + j] = tacit__bits_float(tacit__float_bits(scale) ^ sign);
        }
    }
}

static size_t record_bytes(size_t count)
{
    return count > 0 ? 4 + 4 * ((count + 31) / 32) : 0;
}

static uint32_t encode_record(norm_t norm, const float *a, size_t count, uint8_t *payload, float *decoded)
{
    const float  scale = scale_of(norm, a, count);
    const size_t whole = count - count % TACIT_LANES;

    tacit__store32(payload, tacit__float_bits(scale));
    payload += 4;
    for (size_t i = 0; i < whole; i += TACIT_LANES) {
        encode_lanes(a + i, scale, payload + i / 8, decoded + i);
    }
    if (whole < count) {
        float   values[TACIT_LANES] = {0}; /* zeros are padding too: their bits are ones */
        uint8_t bits[TACIT_LANES / 8];
        memcpy(values, a + whole, (count - whole) * sizeof *a);
        encode_lanes(values, scale, bits, values);
        memcpy(payload + whole / 8, bits, (count - whole + 31) / 32 * 4);
        memcpy(decoded + whole, values, (count - whole) * sizeof *a);
    }
    return isfinite(scale) ? 0u : TACIT_FAULT_NONFINITE;
}

static void decode_record(const uint8_t *payload, size_t count, float *out, bool add)
{
    const float scale = tacit__bits_float(tacit__load32(payload));
    float       values[TACIT_LANES];
    uint8_t     bits[TACIT_LANES / 8] = {0};
    size_t      i = 0;

    payload += 4;
    for (; i + TACIT_LANES <= count && !add; i += TACIT_LANES) {
        decode_lanes(payload + i / 8, scale, out + i);
    }
    for (; i + TACIT_LANES <= count; i += TACIT_LANES) {
        decode_lanes(payload + i / 8, scale, values);
        for (size_t j = 0; j < TACIT_LANES; j++) {
            out[i + j] += values[j];
        }
    }
    if (i < count) {
        memcpy(bits, payload + i / 8, (count - i + 31) / 32 * 4);
        decode_lanes(bits, scale, values);
        for (size_t j = 0; i + j < count; j++) {
            out[i + j] = add ? out[i + j] + values[j] : values[j];
        }
    }
}

/* ---- The table ---- */

static size_t block_of(const config_t *config, size_t count)
{
    return config->block > 0 && (size_t)config->block < count ? (size_t)config->block : count;
}

static uint32_t encode(const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
{
    const config_t *config = block->config;
    const size_t    step = block_of(config, block->count);
    uint32_t        faults = 0;

    for (size_t i = 0, count; i < block->count; i += count) {
        count = block->count - i < step ? block->count - i : step;
        faults |= encode_record((norm_t)config->norm, a + i, count, payload, decoded + i);
        payload += record_bytes(count);
    }
    return faults;
}

static void decode(const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
{
    const size_t step = block_of(block->config, block->count);

    for (size_t i = 0, count; i < block->count; i += count) {
        count = block->count - i < step ? block->count - i : step;
        decode_record(payload, count, out + i, add);
        payload += record_bytes(count);
    }
}

/* The worst input is one element alone. The mean magnitude then keeps 1/n of its square. The root mean square keeps the norm
   instead, which costs an error above 1, up to 2; it is below 1 wherever |x|_1 > sqrt(n) |x|_2 / 2: with dense gradients. */
static tacit_quality_t quality(const void *config, size_t count, double *factor)
{
    const config_t *own = config;
    const double    n = (double)block_of(own, count);

    *factor = n < 2 ? 0 : own->norm == NORM_L2 ? 2 * (1 - 1 / sqrt(n)) : 1 - 1 / n;
    return TACIT_CONTRACTION;
}

/* 2 (1 - q) or 1 - q^2 is lost, q = |x|_1 / (sqrt(n) |x|_2), which is sqrt(2 / pi) for normal noise. */
static double delta(const void *config, const tacit_slot_config_t *tensor)
{
    const config_t *own = config;
    const double    q = sqrt(2 / 3.14159265358979323846);

    (void)tensor;
    return own->norm == NORM_L2 ? 1 - 2 * (1 - q) : q * q;
}

static size_t grain(const void *config)
{
    const config_t *own = config;

    return (size_t)own->block;
}

static size_t bound(const void *config, size_t count)
{
    const size_t step = block_of(config, count);

    return count > 0 ? count / step * record_bytes(step) + record_bytes(count % step) : 0;
}

static const tacit_param_t params[] = {
    {.key = "block",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(config_t, block),
     .low = 0,
     .high = 65536,
     .initial = 2048,
     .multiple = 32,
     .unit = "elements",
     .help = "Elements that share one scale; 0: all that one owner reduces."},
    {.key = "norm",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(config_t, norm),
     .initial = NORM_L2,
     .words = "l2 l1",
     .unit = "",
     .help = "What the scale is: l2, the root of the mean square, keeps the norm; l1, the mean magnitude, has the least error."},
    TACIT_PARAM_OWN,
    {.key = NULL},
};

TACIT_KERNELS

const tacit_compressor_t tacit__compressor_onebit = {
    .name = "onebit",
    .summary = "signs and one scale a block: 1 bit an element",
    .wire_id = 4,
    .wire_version = 1,
    .config_bytes = sizeof(config_t),
    .params = params,
    .quality = quality,
    .delta = delta,
    .kernels = TACIT_KERNEL_TABLE,
    .grain = grain,
    .bound = bound,
    .own_coded = tacit__own_coded,
};
