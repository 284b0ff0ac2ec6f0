/* SPDX-License-Identifier: Apache-2.0 */
/* How many elements a ratio keeps. */
#ifndef TACIT_DENSITY_H
#define TACIT_DENSITY_H

#include <stddef.h>

/* ratio * count rounded up, in float64; at most count. At least 1 where there are elements, as ratio > 0. */
static inline size_t tacit__kept(double ratio, size_t count)
{
    const double exact = ratio * (double)count;
    size_t       kept = (size_t)exact;

    kept += (double)kept < exact;
    return kept < count ? kept : count;
}

#endif
