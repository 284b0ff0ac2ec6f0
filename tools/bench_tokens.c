/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench of specs for tokens: what one core needs to make rows of tokens, and outputs of replies to these. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "codec.h"
#include "moe.h"

enum { PASSES = 7 };

static const float noise = 0.25f; /* of tokens, relative to the points that they are near to */

enum { COPY, HASH, CLUSTER, ENCODE, DECODE, OPERATIONS };

typedef struct tokens {
    tacit_spec_t       spec;
    const tacit_lsh_t *lsh;
    size_t             count, dimension;
    float             *points, *rows, *centroids, *replies, *outputs, *scratch;
    uint32_t          *signs, *codes, *room;
    uint8_t           *payload;
    tacit_rotations_t  rotations;
    tacit_clusters_t   clusters;
    tacit_values_t     values;
    double             seconds[OPERATIONS][PASSES];
} tokens_t;

bool bench_is_for_tokens(const char *spec)
{
    return tacit_spec_check(spec, NULL, 0) == TACIT_OK && tacit__spec_check_slot(spec) != TACIT_OK;
}

static tacit_status_t prepare(tokens_t *run, const char *spec)
{
    const tacit_key_t key = {.seed = 1};
    const size_t      bytes = run->count * run->dimension * sizeof(float);
    tacit_status_t    status;

    TRY(tacit__spec_parse_any(spec, &run->spec));
    run->lsh = run->spec.compressor_config;
    TRY(tacit__values_init(&run->values, spec, tacit__codec_cast((tacit_dtype_t)run->lsh->values), TACIT_FLOAT32,
                           TACIT_NONFINITE_PASS, &key));
    run->points = bench_memory(BENCH_POINTS * run->dimension * sizeof *run->points);
    run->rows = run->points != NULL ? bench_memory(bytes) : NULL;
    run->centroids = run->rows != NULL ? bench_memory(bytes) : NULL;
    run->replies = run->centroids != NULL ? bench_memory(bytes) : NULL;
    run->outputs = run->replies != NULL ? bench_memory(bytes) : NULL;
    run->payload = run->outputs != NULL ? bench_memory(bytes) : NULL;
    run->scratch =
        run->payload != NULL ? bench_memory(tacit__lsh_scratch(run->lsh, run->dimension) * sizeof *run->scratch) : NULL;
    run->signs = run->scratch != NULL ? bench_memory(tacit__lsh_words(run->lsh, run->dimension) * sizeof *run->signs) : NULL;
    run->codes = run->signs != NULL ? bench_memory(run->count * (size_t)run->lsh->hashes * sizeof *run->codes) : NULL;
    run->room = run->codes != NULL ? bench_memory(tacit__lsh_room(run->count) * sizeof *run->room) : NULL;
    if (run->room == NULL) {
        return TACIT_ERR_MEMORY;
    }
    run->rotations = tacit__lsh_rotations(run->lsh, run->dimension, &key, run->signs);
out:
    return status;
}

static void release(tokens_t *run)
{
    void *const memory[] = {run->points,  run->rows,    run->centroids, run->replies, run->outputs,
                            run->payload, run->scratch, run->signs,     run->codes,   run->room};

    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        free(memory[i]);
    }
    tacit__values_fini(&run->values);
    tacit__spec_release(&run->spec);
}

void bench_make_tokens(bench_random_t *random, float *points, float *tokens, size_t count, size_t dimension)
{
    bench_normal(random, points, BENCH_POINTS * dimension);
    bench_normal(random, tokens, count * dimension);
    for (size_t t = 0; t < count; t++) {
        const float *point = points + dimension * (t * t % BENCH_POINTS); /* some are more frequent */
        for (size_t i = 0; i < dimension; i++) {
            tokens[dimension * t + i] = point[i] + noise * tokens[dimension * t + i];
        }
    }
}

static void fill(tokens_t *run, uint64_t seed, uint64_t pass)
{
    bench_random_t random = bench_random(seed, 0, pass);

    bench_make_tokens(&random, run->points, run->rows, run->count, run->dimension);
}

static void encode(const tokens_t *run)
{
    const tacit_clusters_t *clusters = &run->clusters;
    const size_t            dimension = run->dimension;

    for (size_t t = 0; t < run->count; t++) {
        const uint32_t c = clusters->of[t];

        tacit__moe_add(run->centroids + dimension * c, 1, run->rows + dimension * t, dimension, clusters->first[c] == t);
    }
    for (size_t c = 0; c < clusters->count; c++) {
        tacit__moe_divide(run->centroids + dimension * c, (float)clusters->members[c], dimension);
    }
    tacit__values_encode(&run->values, run->centroids, 0, clusters->count * dimension, run->payload, run->centroids);
}

static void decode(const tokens_t *run)
{
    const size_t dimension = run->dimension;

    for (size_t t = 0; t < run->count; t++) {
        const size_t at = dimension * run->clusters.of[t];

        tacit__moe_output(run->replies + at, run->centroids + at, run->rows + dimension * t, dimension,
                          run->outputs + dimension * t);
    }
}

static void perform(tokens_t *run, int operation)
{
    const size_t        hashes = run->rotations.hashes;
    const tacit_coded_t coded = {run->count, NULL, run->codes, hashes, hashes};

    switch (operation) {
    case COPY:
        memcpy(run->outputs, run->rows, run->count * run->dimension * sizeof *run->rows);
        break;
    case HASH:
        tacit__lsh_codes(&run->rotations, run->rows, run->count, run->scratch, run->codes);
        break;
    case CLUSTER:
        run->clusters = tacit__lsh_cluster(&coded, run->lsh->rate, run->room);
        break;
    case ENCODE:
        encode(run);
        break;
    default:
        decode(run);
    }
}

bool bench_measure_tokens(const bench_options_t *options, const char *spec, size_t bytes, bench_rates_t *rates_out)
{
    tokens_t      run = {.dimension = options->dimension};
    bench_rates_t rates = {.spec = spec,
                           .dimension = run.dimension,
                           .encode_stream_seconds = NAN,
                           .decode_stream_seconds = NAN,
                           .decode_traffic = 4};

    run.count = bytes / sizeof(float) / run.dimension;
    run.count += run.count == 0;
    if (prepare(&run, spec) != TACIT_OK) {
        fprintf(stderr, "tacit-bench: %s: %s\n", spec, tacit_last_error());
        release(&run);
        return false;
    }
    for (int pass = -1; pass < PASSES; pass++) { /* the first warms up */
        fill(&run, options->seed, (uint64_t)(pass + 1));
        for (int i = 0; i < OPERATIONS; i++) {
            const double start = bench_seconds();
            perform(&run, i);
            if (pass >= 0) {
                run.seconds[i][pass] = bench_seconds() - start;
            }
        }
    }
    rates.bytes = run.count * run.dimension * sizeof(float);
    rates.payload_bytes = tacit__values_bytes(&run.values, run.clusters.count * run.dimension);
    rates.rate = (double)run.clusters.count / (double)run.count;
    rates.copy_seconds = bench_median(run.seconds[COPY], PASSES);
    rates.hash_seconds = bench_median(run.seconds[HASH], PASSES);
    rates.cluster_seconds = bench_median(run.seconds[CLUSTER], PASSES);
    rates.encode_seconds = rates.hash_seconds + rates.cluster_seconds + bench_median(run.seconds[ENCODE], PASSES);
    rates.decode_seconds = bench_median(run.seconds[DECODE], PASSES);
    release(&run);
    *rates_out = rates;
    return true;
}

static double rate_of(const bench_rates_t *rates, double seconds)
{
    return 1e-9 * (double)rates->bytes / seconds;
}

void bench_print_hashing(const bench_rates_t *rates)
{
    printf("  hashing %.2f, clusters %.2f GB/s; %.3f rows a token of %zu elements\n", rate_of(rates, rates->hash_seconds),
           rate_of(rates, rates->cluster_seconds), rates->rate, rates->dimension);
}

void bench_add_hashing(json_t *json, const bench_rates_t *rates)
{
    json_count(json, "dimension", rates->dimension);
    json_number(json, "rate", rates->rate);
    json_number(json, "hash_gbps", rate_of(rates, rates->hash_seconds));
    json_number(json, "cluster_gbps", rate_of(rates, rates->cluster_seconds));
}

int bench_tokens(const bench_options_t *options, const char *spec, size_t bytes)
{
    bench_rates_t rates;

    if (!bench_measure_tokens(options, spec, bytes, &rates)) {
        return EXIT_FAILURE;
    }
    bench_print_rates(&rates, options);
    return EXIT_SUCCESS;
}
