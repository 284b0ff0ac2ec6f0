/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded data, distances, hashes and places for files of tests. */
#include "harness.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* ---- Files ---- */

static char  folder[HARNESS_PATH_BYTES / 2];
static pid_t folder_owner; /* not a process that it has forked */

static void remove_folder(void)
{
    if (getpid() == folder_owner && rmdir(folder) != 0) {
        perror(folder);
        (void)fflush(NULL);
        _exit(EXIT_FAILURE);
    }
}

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    const bool  given = parent != NULL && parent[0] != '\0';
    const int   length = snprintf(folder, sizeof folder, "%s/tacit-XXXXXX", given ? parent : "/tmp");

    folder_owner = getpid();
    if (length >= (int)sizeof folder || mkdtemp(folder) == NULL || atexit(remove_folder) != 0) {
        perror(folder);
        abort();
    }
}

const char *harness_path(char path[HARNESS_PATH_BYTES], const char *format, ...)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    va_list               arguments;
    int                   length;

    (void)pthread_once(&once, make_folder);
    length = snprintf(path, HARNESS_PATH_BYTES, "%s/", folder);
    va_start(arguments, format);
    length += vsnprintf(path + length, HARNESS_PATH_BYTES - (size_t)length, format, arguments);
    va_end(arguments);
    if (length >= HARNESS_PATH_BYTES) {
        (void)fprintf(stderr, "%s... is too long\n", path);
        abort();
    }
    return path;
}
