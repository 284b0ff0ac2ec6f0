/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients for tests of layerwise adaptation: of layers that differ in how they are spread. */
#ifndef TACIT_TEST_LGRECO_DATA_H
#define TACIT_TEST_LGRECO_DATA_H

#include <math.h>

#include "harness.h"

/* Few large elements among many small ones: the more, the heavier `tail` is. */
static inline void fill(float *values, size_t count, uint64_t seed, double tail, double scale)
{
    harness_random_t random = {seed};

    for (size_t i = 0; i < count; i++) {
        const double magnitude = scale * exp(tail * harness_normal(&random));

        values[i] = (float)(harness_next(&random) % 2 != 0 ? magnitude : -magnitude);
    }
}

#endif
