/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded data, distances and hashes for tests. */
#include "harness.h"

#include <math.h>
#include <string.h>

uint64_t harness_next(harness_random_t *random)
{
    uint64_t x = random->state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double harness_uniform(harness_random_t *random, double low, double high)
{
    return low + (high - low) * ((double)(harness_next(random) >> 11) * 0x1p-53);
}

double harness_normal(harness_random_t *random)
{
    /* Marsaglia's polar method; the second number is not kept, so that the state is one word. */
    for (;;) {
        double u = harness_uniform(random, -1.0, 1.0);
        double v = harness_uniform(random, -1.0, 1.0);
        double s = u * u + v * v;

        if (s > 0.0 && s < 1.0) {
            return u * sqrt(-2.0 * log(s) / s);
        }
    }
}

void harness_fill(float *values, size_t count, uint64_t seed, float scale)
{
    harness_random_t random = {seed};

    for (size_t i = 0; i < count; i++) {
        values[i] = scale * (float)harness_normal(&random);
    }
}

/* The place of a float among all floats in ascending order; both zeros are at 0. */
static int64_t place(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits >> 31 ? -(int64_t)(bits & 0x7fffffffu) : (int64_t)bits;
}

uint32_t harness_ulps(float a, float b)
{
    int64_t distance = place(a) - place(b);

    if (isnan(a) || isnan(b)) {
        return isnan(a) && isnan(b) ? 0 : UINT32_MAX;
    }
    return (uint32_t)(distance < 0 ? -distance : distance);
}

uint64_t harness_hash(const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    uint64_t             hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ byte[i]) * 0x100000001b3u;
    }
    return hash;
}
