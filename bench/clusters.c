/* SPDX-License-Identifier: Apache-2.0 */
/* What `lsh` makes of synthetic tokens, for doc/moe.md: how many of them are left, and by how much an expert's outputs are off,
   with cross-polytopes and, to compare, with hyperplanes. One JSON object a line.

   Tokens are points of a vocabulary, the r-th of which is 1/r as frequent as the first, and normal noise; in all of them two
   elements may be outliers, or all but a few zeros. The expert is two layers of random weights, alone or with a skip connection
   around it. All is a mean over several rotations. */
#include "moe.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOKENS = 4096,
    DIMENSION = 64,
    HIDDEN = 256,
    WORDS = 40,
    ROTATIONS = 4,
    MOST_HASHES = 10,
    MOST_PLANES = 60,
    MOST_ROUNDS = 3
};

typedef struct bench {
    float    tokens[TOKENS][DIMENSION], centroids[TOKENS][DIMENSION], replies[TOKENS][DIMENSION], outputs[TOKENS][DIMENSION];
    float    exact[2][TOKENS][DIMENSION]; /* of the expert alone; with the skip connection */
    float    first[HIDDEN][DIMENSION], second[DIMENSION][HIDDEN];
    float   *scratch;
    uint32_t signs[MOST_HASHES * MOST_ROUNDS * DIMENSION / 32], codes[TOKENS * MOST_HASHES];
    uint32_t room[5 * TOKENS]; /* TOKENS is a power of two */
} bench_t;

/* Means over rotations; errors are relative norms. */
typedef struct result {
    double rate, residual;
    double without[2], with[2]; /* what tokens have beyond their centroids: of the expert alone; with the skip connection */
} result_t;

/* ---- Data ---- */

enum { POINTS, NOISE, CHOICE, FIRST, SECOND, PLANES };

static double uniform(uint64_t stream, uint64_t i)
{
    const tacit_key_t    key = {.seed = 1, .slot = stream};
    const tacit_stream_t random = tacit__stream(&key, true);

    return ((double)tacit__random(&random, i) + 0.5) * 0x1p-32;
}

static float normal(uint64_t stream, uint64_t i, double scale)
{
    return (float)(scale * sqrt(-2 * log(uniform(stream, 2 * i))) * cos(2 * acos(-1) * uniform(stream, 2 * i + 1)));
}

/* The expert, alone or with the skip connection. */
static void ask(const bench_t *bench, bool skip, float (*rows)[DIMENSION], size_t count, float (*replies)[DIMENSION])
{
    for (size_t t = 0; t < count; t++) {
        float hidden[HIDDEN];

        for (size_t h = 0; h < HIDDEN; h++) {
            float sum = 0;
            for (size_t i = 0; i < DIMENSION; i++) {
                sum += bench->first[h][i] * rows[t][i];
            }
            hidden[h] = sum > 0 ? sum : 0;
        }
        for (size_t i = 0; i < DIMENSION; i++) {
            float sum = skip ? rows[t][i] : 0;
            for (size_t h = 0; h < HIDDEN; h++) {
                sum += bench->second[i][h] * hidden[h];
            }
            replies[t][i] = sum;
        }
    }
}

static size_t word_of(size_t token)
{
    double total = 0, left;
    size_t word = 0;

    for (int r = 1; r <= WORDS; r++) {
        total += 1.0 / r;
    }
    left = total * uniform(CHOICE, token);
    for (; word + 1 < WORDS && left >= 1.0 / (double)(word + 1); word++) {
        left -= 1.0 / (double)(word + 1);
    }
    return word;
}

enum { DENSE, OUTLIERS, SPARSE, DATA };

static double factor_of(int data, size_t word, size_t i)
{
    return data == OUTLIERS ? (i == 3 || i == 17 ? 10 : 1) : data == SPARSE ? (7 * i + 13 * word) % 16 == 0 : 1;
}

static void fill(bench_t *bench, int data, double noise)
{
    for (size_t t = 0; t < TOKENS; t++) {
        const size_t word = word_of(t);
        for (size_t i = 0; i < DIMENSION; i++) {
            const double factor = factor_of(data, word, i);
            bench->tokens[t][i] = normal(POINTS, DIMENSION * word + i, factor) + normal(NOISE, DIMENSION * t + i, factor * noise);
        }
    }
    for (size_t i = 0; i < HIDDEN * DIMENSION; i++) {
        bench->first[i / DIMENSION][i % DIMENSION] = normal(FIRST, i, sqrt(2.0 / DIMENSION));
        bench->second[i / HIDDEN][i % HIDDEN] = normal(SECOND, i, sqrt(1.0 / HIDDEN));
    }
    for (int skip = 0; skip < 2; skip++) {
        ask(bench, skip != 0, bench->tokens, TOKENS, bench->exact[skip]);
    }
}

/* ---- Measures ---- */

/* |rows - exact| / |exact|; with clusters, a token's row is its cluster's. */
static double error_of(float (*rows)[DIMENSION], const tacit_clusters_t *clusters, float (*exact)[DIMENSION])
{
    double off = 0, norm = 0;

    for (size_t t = 0; t < TOKENS; t++) {
        const float *row = rows[clusters != NULL ? clusters->of[t] : t];
        for (size_t i = 0; i < DIMENSION; i++) {
            off += pow((double)row[i] - (double)exact[t][i], 2);
            norm += pow((double)exact[t][i], 2);
        }
    }
    return sqrt(off / norm);
}

static void fill_centroids(bench_t *bench, const tacit_clusters_t *clusters)
{
    for (size_t t = 0; t < TOKENS; t++) {
        const uint32_t c = clusters->of[t];
        tacit__moe_add(bench->centroids[c], 1, bench->tokens[t], DIMENSION, clusters->first[c] == t);
    }
    for (size_t c = 0; c < clusters->count; c++) {
        tacit__moe_divide(bench->centroids[c], (float)clusters->members[c], DIMENSION);
    }
}

/* Adds what comes of bench->codes. */
static void measure(bench_t *bench, size_t hashes, result_t *result)
{
    const tacit_coded_t    coded = {TOKENS, NULL, bench->codes, hashes, hashes};
    const tacit_clusters_t clusters = tacit__lsh_cluster(&coded, 0, bench->room);

    fill_centroids(bench, &clusters);
    result->rate += (double)clusters.count / TOKENS / ROTATIONS;
    result->residual += error_of(bench->centroids, &clusters, bench->tokens) / ROTATIONS;
    for (int skip = 0; skip < 2; skip++) {
        ask(bench, skip != 0, bench->centroids, clusters.count, bench->replies);
        for (size_t t = 0; t < TOKENS; t++) {
            const uint32_t c = clusters.of[t];
            tacit__moe_output(bench->replies[c], bench->centroids[c], bench->tokens[t], DIMENSION, bench->outputs[t]);
        }
        result->without[skip] += error_of(bench->replies, &clusters, bench->exact[skip]) / ROTATIONS;
        result->with[skip] += error_of(bench->outputs, NULL, bench->exact[skip]) / ROTATIONS;
    }
}

static void hash_by_polytopes(bench_t *bench, const tacit_lsh_t *lsh, uint64_t seed)
{
    const tacit_key_t       key = {.seed = seed};
    const tacit_rotations_t rotations = tacit__lsh_rotations(lsh, DIMENSION, &key, bench->signs);

    tacit__lsh_codes(&rotations, bench->tokens[0], TOKENS, bench->scratch, bench->codes);
}

/* A bit for each random plane: on which side of it a token is. Two words of them. */
static void hash_by_planes(bench_t *bench, int planes, uint64_t seed)
{
    memset(bench->codes, 0, sizeof bench->codes);
    for (int p = 0; p < planes; p++) {
        float plane[DIMENSION];
        for (size_t i = 0; i < DIMENSION; i++) {
            plane[i] = normal(PLANES + seed, DIMENSION * (size_t)p + i, 1);
        }
        for (size_t t = 0; t < TOKENS; t++) {
            float sum = 0;
            for (size_t i = 0; i < DIMENSION; i++) {
                sum += plane[i] * bench->tokens[t][i];
            }
            bench->codes[2 * t + (size_t)p / 32] |= (uint32_t)(sum < 0) << p % 32;
        }
    }
}

/* ---- Lines ---- */

static const char *const names[DATA] = {"dense", "outliers", "sparse"};

/* Hyperplanes have no rounds. */
static void print(int data, double noise, int rounds, int hashes, const result_t *result)
{
    printf("{\"mode\":\"clusters\",\"tokens\":\"%s\",\"noise\":%g,\"hash\":\"%s\",\"rounds\":%d,\"hashes\":%d,\"rate\":%.4f,"
           "\"residual\":%.4f,\"alone_without\":%.4f,\"alone_with\":%.4f,\"skip_without\":%.4f,\"skip_with\":%.4f}\n",
           names[data], noise, rounds == 0 ? "hyperplanes" : "cross-polytopes", rounds, hashes, result->rate, result->residual,
           result->without[0], result->with[0], result->without[1], result->with[1]);
}

static void try_polytopes(bench_t *bench, int data, double noise, int rounds, int hashes)
{
    const tacit_lsh_t lsh = {.hashes = hashes, .rounds = rounds};
    result_t          result = {0};

    for (uint64_t seed = 1; seed <= ROTATIONS; seed++) {
        hash_by_polytopes(bench, &lsh, seed);
        measure(bench, (size_t)hashes, &result);
    }
    print(data, noise, rounds, hashes, &result);
}

static void try_planes(bench_t *bench, double noise, int planes)
{
    result_t result = {0};

    for (uint64_t seed = 1; seed <= ROTATIONS; seed++) {
        hash_by_planes(bench, planes, seed);
        measure(bench, 2, &result);
    }
    print(DENSE, noise, 0, planes, &result);
}

int main(void)
{
    static const double noises[] = {0.1, 0.25, 0.5}; /* of a point's norm */
    const tacit_lsh_t   largest = {.hashes = MOST_HASHES, .rounds = MOST_ROUNDS};
    float              *scratch = calloc(tacit__lsh_scratch(&largest, DIMENSION), sizeof *scratch);
    bench_t            *bench = calloc(scratch != NULL, sizeof *bench);

    if (scratch == NULL || bench == NULL) {
        free(scratch);
        return EXIT_FAILURE;
    }
    bench->scratch = scratch;
    for (size_t n = 0; n < sizeof noises / sizeof *noises; n++) {
        fill(bench, DENSE, noises[n]);
        for (int hashes = 1; hashes <= MOST_HASHES; hashes++) {
            try_polytopes(bench, DENSE, noises[n], 2, hashes);
        }
        for (int planes = 2; planes <= MOST_PLANES; planes += planes < 24 ? 2 : 6) {
            try_planes(bench, noises[n], planes);
        }
    }
    for (int data = 0; data < DATA; data++) {
        fill(bench, data, 0.25);
        for (int rounds = 1; rounds <= MOST_ROUNDS; rounds++) {
            try_polytopes(bench, data, 0.25, rounds, 3);
            try_polytopes(bench, data, 0.25, rounds, 6);
        }
    }
    free(scratch);
    free(bench);
    return EXIT_SUCCESS;
}
