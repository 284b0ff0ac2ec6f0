/* SPDX-License-Identifier: Apache-2.0 */
/* A table of as many numbers as are needed. The first sums have one each. After that two in a row share one, then four, and so
   on, always for HALF numbers, so that 2^32 sums have room. */
#include "gaps.h"

#include <stdatomic.h>

#include "deliver.h"

enum { HALF = 2048, DOUBLINGS = 20, PLACES = (DOUBLINGS + 2) * HALF };
static const uint64_t most = (uint64_t)2 * HALF << DOUBLINGS;

static _Atomic uint64_t gaps[PLACES], sums, last;

static size_t place_of(uint64_t sum)
{
    const int doublings = 63 - __builtin_clzll(sum / HALF | 1);

    return (size_t)((sum >> doublings) + (uint64_t)doublings * HALF);
}

/* The first one is since the program began: some ranks may have more to prepare than others. */
void preload_note_gap(uint64_t began, uint64_t ended)
{
    const uint64_t sum = atomic_fetch_add_explicit(&sums, 1, memory_order_relaxed);
    uint64_t       before = atomic_load_explicit(&last, memory_order_relaxed);

    atomic_store_explicit(&last, ended, memory_order_relaxed);
    if (before == 0) {
        before = ended - (uint64_t)(1e9 * preload_run_seconds());
    }
    if (began > before && sum < most) {
        atomic_fetch_add_explicit(&gaps[place_of(sum)], began - before, memory_order_relaxed);
    }
}

size_t preload_gaps(void)
{
    const uint64_t count = atomic_load(&sums);

    return count == 0 ? 0 : place_of((count < most ? count : most) - 1) + 1;
}

uint64_t preload_gap(size_t index)
{
    return index < PLACES ? atomic_load(&gaps[index]) : 0;
}
