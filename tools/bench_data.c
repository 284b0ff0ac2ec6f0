/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench: data from N(0,1), made fast enough to be other data on every pass, and the statistics of what was measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

/* ---- Random numbers ---- */

/* Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014): splitmix64. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t next_random(bench_random_t *random)
{
    return mix(random->state += 0x9e3779b97f4a7c15u);
}

bench_random_t bench_random(uint64_t seed, uint64_t stream, uint64_t pass)
{
    return (bench_random_t){mix(mix(mix(seed + 1) + stream) + pass)};
}

/* In (0, 1). */
static double uniform(bench_random_t *random)
{
    return ((double)(next_random(random) >> 11) + 0.5) * 0x1p-53;
}

/* The ziggurat of Marsaglia and Tsang (J. Stat. Software 5, 2000) with 128 layers of equal area under exp(-x^2/2), in the
   form of Doornik, "An Improved Ziggurat Method" (2005). */
enum { LAYERS = 128 };
#define TAIL 3.442619855899            /* where the lowest layer goes over into the tail */
#define LAYER_AREA 9.91256303526217e-3 /* of one layer */

static double edges[LAYERS + 1]; /* falling */
static double inner[LAYERS];     /* the part of a layer that lies wholly under the curve */

static void make_layers(void)
{
    double height = exp(-0.5 * TAIL * TAIL);

    edges[0] = LAYER_AREA / height;
    edges[1] = TAIL;
    for (int i = 2; i < LAYERS; i++) {
        edges[i] = sqrt(-2 * log(LAYER_AREA / edges[i - 1] + height));
        height = exp(-0.5 * edges[i] * edges[i]);
    }
    edges[LAYERS] = 0;
    for (int i = 0; i < LAYERS; i++) {
        inner[i] = edges[i + 1] / edges[i];
    }
}

static double tail(bench_random_t *random)
{
    double x, y;

    do {
        x = -log(uniform(random)) / TAIL;
        y = -log(uniform(random));
    } while (y + y < x * x);
    return TAIL + x;
}

/* The rare cases: beyond the inner part of a layer. True: *x_out is the number, otherwise try again. */
static bool at_the_edge(bench_random_t *random, unsigned layer, double u, double *x_out)
{
    double x = u * edges[layer], upper, lower;

    if (layer == 0) {
        *x_out = copysign(tail(random), u);
        return true;
    }
    lower = exp(-0.5 * (edges[layer] * edges[layer] - x * x));
    upper = exp(-0.5 * (edges[layer + 1] * edges[layer + 1] - x * x));
    *x_out = x;
    return upper + uniform(random) * (lower - upper) < 1;
}

void bench_normal(bench_random_t *random, float *values, size_t count)
{
    if (edges[0] == 0) {
        make_layers();
    }
    for (size_t i = 0; i < count; i++) {
        for (;;) {
            uint64_t bits = next_random(random);
            unsigned layer = (unsigned)(bits % LAYERS);
            double   u = (double)((int64_t)bits >> 11) * 0x1p-52; /* in [-1, 1) */
            double   x = u * edges[layer];

            if (fabs(u) < inner[layer] || at_the_edge(random, layer, u, &x)) {
                values[i] = (float)x;
                break;
            }
        }
    }
}

void *bench_memory(size_t bytes)
{
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    void  *memory = aligned_alloc(4096, rounded);

    if (memory == NULL) {
        fprintf(stderr, "%s: not enough memory for %zu bytes more; try a smaller --bytes\n", program_invocation_short_name,
                bytes);
        return NULL;
    }
    return memset(memory, 0, rounded);
}

static double seconds_of(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void bench_compute(double seconds)
{
    static float values[1024]; /* in the first cache: what others do to memory is not measured */
    const double until = seconds_of(CLOCK_THREAD_CPUTIME_ID) + seconds;

    while (seconds_of(CLOCK_THREAD_CPUTIME_ID) < until) {
        for (size_t pass = 0; pass < 16; pass++) {
            for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
                values[i] = values[i] * 0.5f + 1.0f;
            }
            __asm__ volatile("" : : "r"(values) : "memory"); /* each pass is wanted */
        }
    }
}

/* ---- Statistics ---- */

double bench_seconds(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
    if (count == 0) {
        return NAN;
    }
    qsort(values, count, sizeof *values, compare);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* That just so many of `count` values lie below their median: binomial, p = 1/2. By logarithms, since 0.5^1100 is 0. */
static double chance_of(size_t below, size_t count)
{
    return exp(lgamma((double)count + 1) - lgamma((double)below + 1) - lgamma((double)(count - below) + 1) -
               (double)count * log(2));
}

double bench_median_low(double *values, size_t count)
{
    double chance = chance_of(0, count);
    size_t order = 0;

    /* The order-th value (from 0) exceeds the median where at most `order` values lie below it. */
    while (order + 1 < count && (chance += chance_of(order + 1, count)) <= 0.025) {
        order++;
    }
    if (count == 0) {
        return NAN;
    }
    qsort(values, count, sizeof *values, compare);
    return values[order];
}
