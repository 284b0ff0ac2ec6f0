/* SPDX-License-Identifier: Apache-2.0 */
/* What tests share: seeded data, a distance between floats, a hash of bytes, places for files, and a main() for Check suites. */
#ifndef TACIT_HARNESS_H
#define TACIT_HARNESS_H

#include <stddef.h>
#include <stdint.h>

/* Check's; declared here so that a test without Check can include this file. */
typedef struct Suite Suite;

/* Runs a suite and destroys it. Returns what main() returns: 0, or 1 if a test failed. CK_FORK, CK_VERBOSITY and the other
   variables of Check hold. */
int harness_main(Suite *suite);

/* A generator of test data: splitmix64. The same numbers on every machine. */
typedef struct harness_random {
    uint64_t state; /* any seed */
} harness_random_t;

uint64_t harness_next(harness_random_t *random);
/* Uniform in [low, high). */
double harness_uniform(harness_random_t *random, double low, double high);
/* Normal with mean 0 and variance 1. */
double harness_normal(harness_random_t *random);
/* count values from N(0, scale^2). */
void harness_fill(float *values, size_t count, uint64_t seed, float scale);

/* How many floats lie between a and b: 0 if they are equal or both NaN, UINT32_MAX if only one is NaN. */
uint32_t harness_ulps(float a, float b);

/* FNV-1a, 64 bits. */
uint64_t harness_hash(const void *data, size_t bytes);

/* Writes the path of a file into `path`, and returns it: the name is printed into an empty folder of this process below $TMPDIR,
   or /tmp. What is put there is to be removed: otherwise the process fails when it ends. From any thread. */
enum { HARNESS_PATH_BYTES = 256 };
const char *harness_path(char path[HARNESS_PATH_BYTES], const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
