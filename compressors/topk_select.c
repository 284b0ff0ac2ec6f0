/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: which elements. One pass over the tensor collects the candidates, those above a threshold that a sample suggests, in a
   pool of about twice as many as are wanted; whenever it is full, the smaller ones leave it and the threshold rises. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "topk.h"

enum {
    MAGNITUDE_BITS = 31,
    LARGEST = 0x7f7fffff, /* bits of the largest finite number */
    STEP = 16,            /* elements looked at together */
    DIGIT_VALUES = 2048,  /* of the widest radix digit: its counts, 8 KiB, are the one large thing on the stack */
    SLACK = 4096,         /* candidates that a pool holds at least beyond what is wanted */
    HITS = 64,            /* a suggested threshold is to have so many elements of the sample above it */
    DENSE = 8,            /* where more than one in so many is kept, nothing is gained by a pool */
};

static inline uint32_t magnitude_bits(float value)
{
    return tacit__float_bits(value) & 0x7fffffffu; /* ascends with |value| */
}

/* Of STEP elements, whether any magnitude's bits above `shift` are `prefix`, or are at least that. Few are: to look first, with
   vectors, is quicker than to look at each. */
static inline bool any_equal(const float *a, unsigned shift, uint32_t prefix)
{
    uint32_t any = 0;

    for (size_t j = 0; j < STEP; j++) {
        any |= magnitude_bits(a[j]) >> shift == prefix;
    }
    return any != 0;
}

static inline bool any_at_least(const float *a, uint32_t least)
{
    uint32_t any = 0;

    for (size_t j = 0; j < STEP; j++) {
        any |= (int32_t)magnitude_bits(a[j]) >= (int32_t)least; /* signed, as SSE2 compares */
    }
    return any != 0;
}

/* ---- In place ---- */

/* Counts the magnitudes by the `width` bits above `shift`, among those whose bits above these are `prefix`. */
static void count_digits(const float *a, size_t count, unsigned shift, unsigned width, uint32_t prefix, uint32_t *counts)
{
    const uint32_t mask = (1u << width) - 1;
    const bool     all = shift + width == MAGNITUDE_BITS; /* there is nothing above */

    memset(counts, 0, DIGIT_VALUES * sizeof *counts);
    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < STEP ? count - i : STEP;
        if (part == STEP && !all && !any_equal(a + i, shift + width, prefix)) {
            continue;
        }
        for (size_t j = i; j < i + part; j++) {
            const uint32_t bits = magnitude_bits(a[j]) >> shift;
            if (bits >> width == prefix) {
                counts[bits & mask]++;
            }
        }
    }
}

/* The keep-th largest magnitude's bits; *equal_out is how many elements with exactly these bits are among the `keep`. A radix
   select: each pass fixes 11 or 10 more bits. 1 <= keep <= count. */
static uint32_t threshold(const float *a, size_t count, size_t keep, size_t *equal_out)
{
    static const struct {
        unsigned shift, width;
    } passes[] = {{20, 11}, {10, 10}, {0, 10}};
    uint32_t counts[DIGIT_VALUES];
    uint32_t prefix = 0;

    for (size_t pass = 0; pass < sizeof passes / sizeof *passes; pass++) {
        uint32_t digit = (1u << passes[pass].width) - 1;
        count_digits(a, count, passes[pass].shift, passes[pass].width, prefix, counts);
        while (counts[digit] < keep) {
            keep -= counts[digit--];
        }
        prefix = prefix << passes[pass].width | digit;
    }
    *equal_out = keep;
    return prefix;
}

/* Without a pool: the threshold first, then the elements. */
static size_t select_in_place(const float *a, size_t count, size_t keep, uint32_t *indices)
{
    size_t         entries = 0, equal;
    const uint32_t least = threshold(a, count, keep, &equal);

    if (least == 0) {
        equal = 0; /* all that is not zero, and fewer than `keep` */
    }
    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < STEP ? count - i : STEP;
        if (part == STEP && !any_at_least(a + i, least)) {
            continue;
        }
        for (size_t j = i; j < i + part; j++) {
            const uint32_t bits = magnitude_bits(a[j]);
            if (bits > least || (bits == least && equal > 0)) {
                equal -= bits == least;
                indices[entries++] = (uint32_t)j;
            }
        }
    }
    return entries;
}

/* ---- By a pool ---- */

typedef struct tacit_pool {
    float    *values; /* also holds the sample, before there are candidates */
    uint32_t *indices;
    size_t    room, used, keep;
    uint32_t  least; /* bits of the magnitude from which on an element is a candidate, at least 1 */
} tacit_pool_t;

static void pool_free(tacit_pool_t *pool)
{
    free(pool->values);
    free(pool->indices);
    *pool = (tacit_pool_t){.room = 0};
}

/* False, and it holds nothing: without memory the selection is only slower, which is no error. */
static bool pool_make(tacit_pool_t *pool, size_t keep, size_t sample)
{
    const size_t room = keep + (keep > SLACK ? keep : SLACK);

    *pool = (tacit_pool_t){.room = room > sample ? room : sample, .keep = keep};
    pool->values = malloc(pool->room * sizeof *pool->values);
    pool->indices = malloc(pool->room * sizeof *pool->indices);
    if (pool->values == NULL || pool->indices == NULL) {
        pool_free(pool);
        return false;
    }
    return true;
}

/* Leaves the `keep` largest in it, in order. A later element must be larger than the least of them. */
static void pool_reduce(tacit_pool_t *pool)
{
    size_t         equal, kept = 0;
    const uint32_t least = threshold(pool->values, pool->used, pool->keep, &equal);

    for (size_t i = 0; i < pool->used; i++) {
        const uint32_t bits = magnitude_bits(pool->values[i]);
        if (bits > least || (bits == least && equal > 0)) {
            equal -= bits == least;
            pool->values[kept] = pool->values[i];
            pool->indices[kept++] = pool->indices[i];
        }
    }
    pool->used = kept;
    pool->least = least + 1;
}

/* Finds the elements from `least` on, the `keep` largest of them if there are more. Returns how many. */
static size_t pool_collect(tacit_pool_t *pool, const float *a, size_t count, uint32_t least, uint32_t *indices)
{
    pool->used = 0;
    pool->least = least > 1 ? least : 1;
    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < STEP ? count - i : STEP;
        if (part == STEP && !any_at_least(a + i, pool->least)) {
            continue;
        }
        for (size_t j = i; j < i + part; j++) {
            if (magnitude_bits(a[j]) < pool->least) {
                continue;
            }
            pool->values[pool->used] = a[j];
            pool->indices[pool->used++] = (uint32_t)j;
            if (pool->used == pool->room) {
                pool_reduce(pool);
            }
        }
    }
    if (pool->used > pool->keep) {
        pool_reduce(pool);
    }
    memcpy(indices, pool->indices, pool->used * sizeof *indices);
    return pool->used;
}

/* The keep-th largest magnitude's bits among every stride-th element from `start` on. */
static uint32_t sample_threshold(tacit_pool_t *pool, const float *a, size_t count, size_t start, size_t stride, size_t keep)
{
    size_t samples = 0, equal;

    for (size_t i = start; i < count && samples < pool->room; i += stride) {
        pool->values[samples++] = a[i];
    }
    return threshold(pool->values, samples, keep < samples ? keep : samples, &equal);
}

size_t tacit__topk_exact(const float *a, size_t count, size_t keep, uint32_t *indices)
{
    const size_t stride = keep / HITS | 1; /* odd: strides of a power of two would meet the same column again and again */
    const size_t samples = count / stride + 1;
    size_t       entries = 0;
    tacit_pool_t pool = {.room = 0};

    if (keep == 0) {
        return 0;
    }
    if (keep > count / DENSE || !pool_make(&pool, keep, samples < count / DENSE ? samples : 0)) {
        entries = select_in_place(a, count, keep, indices);
    } else {
        /* About `hits` of the wanted are in the sample; three standard deviations more are seldom too few. */
        const double hits = (double)samples * (double)keep / (double)count;
        uint32_t     least = 1;

        if (samples < count / DENSE) {
            least = sample_threshold(&pool, a, count, 0, stride, (size_t)(hits + 3 * sqrt(hits)) + 1);
        }
        entries = pool_collect(&pool, a, count, least, indices);
        if (entries < keep && least > 1) {
            entries = pool_collect(&pool, a, count, 1, indices);
        }
    }
    pool_free(&pool);
    return entries;
}

/* ---- By a sample, as published ---- */

static size_t ceiling(double value)
{
    return (size_t)ceil(value);
}

/* As the authors of Deep Gradient Compression have it (the paper leaves it open); all products are float64. Strides
   are odd, so that they do not keep step with layouts in powers of two. */
tacit_geometry_t tacit__topk_geometry(size_t count, double density, double sample)
{
    const size_t     part = ceiling((double)count * sample), need = ceiling(2 / density), least = part > need ? part : need;
    tacit_geometry_t geometry = {.stride = 1, .samples = count};

    if (sample < 1 && count > need) {
        geometry.stride = ceiling((double)count / (double)least / 32) * 32 + 1;
        while ((geometry.samples = count / geometry.stride) < least) {
            geometry.stride -= 8;
        }
    }
    geometry.sample_keep = ceiling((double)geometry.samples * density);
    geometry.keep = ceiling((double)count * density);
    return geometry;
}

/* The authors re-select where there are over 1.3 times too many, and otherwise cut by index; to keep the largest serves both. */
size_t tacit__topk_sampled(const float *a, size_t count, const tacit_geometry_t *geometry, size_t start, uint32_t *indices,
                           float *threshold_out)
{
    const double lower = 0.8; /* of `keep`; and what the threshold is multiplied by */
    const size_t enough = ceiling(lower * (double)geometry->keep);
    size_t       entries;
    uint32_t     least;
    tacit_pool_t pool;

    if (geometry->stride == 1 || geometry->keep > count / 2 || !pool_make(&pool, geometry->keep, geometry->samples + 1)) {
        if (threshold_out != NULL) {
            *threshold_out = 0;
        }
        return tacit__topk_exact(a, count, geometry->keep, indices);
    }
    least = sample_threshold(&pool, a, count, start, geometry->stride, geometry->sample_keep);
    least = least < LARGEST ? least : LARGEST;
    entries = pool_collect(&pool, a, count, least, indices);
    for (int round = 0; round < 10 && entries < enough && least > 0; round++) {
        least = tacit__float_bits(tacit__bits_float(least) * (float)lower);
        entries = pool_collect(&pool, a, count, least, indices);
    }
    if (threshold_out != NULL) {
        *threshold_out = tacit__bits_float(least);
    }
    pool_free(&pool);
    return entries;
}
