/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench kernels --device cuda: two ranks' bundles of one tensor each on one GPU, of which rank 0 encodes the half that is
   rank 1's, and all of both is decoded. Several pairs are launched one behind the other, with data of their own, and waited for
   together, so that neither launches nor what is left in caches counts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tacit_bundle.h>

#include "bench.h"
#include "cuda_module.h"

enum { PASSES = 9, PAIRS = 4, RANKS = 2 };

enum { COPY, ENCODE, DECODE, OPERATIONS };

typedef struct node {
    tacit_codec_t  *codec;
    tacit_bundle_t *bundle;
    void           *tensor, *out; /* twice what is measured: half of it is each rank's part */
    uint8_t        *sent, *received, *own, *gathered;
    size_t          sent_bytes, received_bytes, gather_bytes;
} node_t;

typedef struct run {
    const tacit_cuda_module_t *module;
    const char                *spec;
    size_t                     count; /* of a part */
    node_t                     nodes[PAIRS][RANKS];
    double                     seconds[OPERATIONS][PASSES];
} run_t;

static tacit_status_t fail(const run_t *run, int error)
{
    return error == 0 ? TACIT_OK : tacit__fail(TACIT_ERR_DEVICE, "the GPU: %s", run->module->error_text(error));
}

static tacit_status_t make_node(const run_t *run, int rank, node_t *node)
{
    tacit_slot_config_t tensor = bench_tensor(run->spec, RANKS * run->count);
    tacit_status_t      status;

    tensor.device = TACIT_CUDA;
    TRY(tacit_codec_create("bench", &tensor, NULL, rank, RANKS, &node->codec));
    TRY(tacit_bundle_create(&node->codec, 1, TACIT_AVERAGE, &node->bundle));
    node->sent_bytes = tacit_bundle_scatter_bytes(node->bundle, rank, 1 - rank);
    node->received_bytes = tacit_bundle_scatter_bytes(node->bundle, 1 - rank, rank);
    node->gather_bytes = tacit_bundle_gather_bytes(node->bundle);
    TRY(fail(run, run->module->alloc(&node->tensor, RANKS * run->count * sizeof(float))));
    TRY(fail(run, run->module->alloc(&node->out, RANKS * run->count * sizeof(float))));
    TRY(fail(run, run->module->alloc((void **)&node->sent, node->sent_bytes)));
    TRY(fail(run, run->module->alloc((void **)&node->received, node->received_bytes)));
    TRY(fail(run, run->module->alloc((void **)&node->own, node->gather_bytes)));
    TRY(fail(run, run->module->alloc((void **)&node->gathered, RANKS * node->gather_bytes)));
out:
    return status;
}

static void release(run_t *run)
{
    for (int i = 0; i < PAIRS * RANKS; i++) {
        node_t *node = &run->nodes[i / RANKS][i % RANKS];

        tacit_bundle_destroy(node->bundle);
        tacit_codec_destroy(node->codec);
        (void)run->module->free(node->tensor);
        (void)run->module->free(node->out);
        (void)run->module->free(node->sent);
        (void)run->module->free(node->received);
        (void)run->module->free(node->own);
        (void)run->module->free(node->gathered);
    }
}

static tacit_status_t prepare(run_t *run, uint64_t seed)
{
    const size_t   count = RANKS * run->count;
    float         *values = bench_memory(count * sizeof *values);
    tacit_status_t status = values != NULL ? TACIT_OK : TACIT_ERR_MEMORY;

    for (int i = 0; status == TACIT_OK && i < PAIRS * RANKS; i++) {
        bench_random_t random = bench_random(seed, 0, (uint64_t)i);

        bench_normal(&random, values, count);
        TRY(make_node(run, i % RANKS, &run->nodes[i / RANKS][i % RANKS]));
        TRY(fail(run, run->module->copy(run->nodes[i / RANKS][i % RANKS].tensor, values, count * sizeof *values, NULL)));
        TRY(fail(run, run->module->synchronize()));
    }
out:
    free(values);
    return status;
}

static tacit_status_t encode(const run_t *run, int rank, uint64_t step)
{
    tacit_status_t status = TACIT_OK;

    for (int pair = 0; pair < PAIRS; pair++) {
        const node_t *node = &run->nodes[pair][rank];
        TRY(tacit_bundle_encode(node->bundle, step, (const void *const *)&node->tensor, node->sent));
    }
out:
    return status;
}

static tacit_status_t exchange_and_reduce(const run_t *run)
{
    const tacit_cuda_module_t *module = run->module;
    tacit_status_t             status = TACIT_OK;

    for (int i = 0; i < PAIRS * RANKS; i++) {
        const node_t *node = &run->nodes[i / RANKS][i % RANKS], *other = &run->nodes[i / RANKS][1 - i % RANKS];

        TRY(fail(run, module->copy(node->received, other->sent, node->received_bytes, NULL)));
        TRY(tacit_bundle_reduce(node->bundle, node->received, node->own));
    }
    for (int i = 0; i < PAIRS * RANKS; i++) {
        const node_t *node = &run->nodes[i / RANKS][i % RANKS];

        for (size_t rank = 0; rank < RANKS; rank++) {
            TRY(fail(run, module->copy(node->gathered + rank * node->gather_bytes, run->nodes[i / RANKS][rank].own,
                                       node->gather_bytes, NULL)));
        }
    }
out:
    return status;
}

static tacit_status_t finish(run_t *run, int rank)
{
    tacit_status_t status = TACIT_OK;

    for (int pair = 0; pair < PAIRS; pair++) {
        node_t *node = &run->nodes[pair][rank];
        TRY(tacit_bundle_finish(node->bundle, node->gathered, &node->out));
    }
out:
    return status;
}

static tacit_status_t copy(const run_t *run)
{
    tacit_status_t status = TACIT_OK;

    for (int pair = 0; pair < PAIRS; pair++) {
        const node_t *node = &run->nodes[pair][0];
        TRY(fail(run, run->module->copy(node->out, node->tensor, RANKS * run->count * sizeof(float), NULL)));
    }
out:
    return status;
}

static tacit_status_t timed(run_t *run, int operation, int pass, uint64_t step)
{
    double         start;
    tacit_status_t status;

    TRY(fail(run, run->module->synchronize()));
    start = bench_seconds();
    TRY(operation == COPY ? copy(run) : operation == ENCODE ? encode(run, 0, step) : finish(run, 0));
    TRY(fail(run, run->module->synchronize()));
    if (pass >= 0) {
        run->seconds[operation][pass] = (bench_seconds() - start) / PAIRS;
    }
out:
    return status;
}

/* Pass -1 warms up. Decoding is that of both parts: of twice as many elements as are encoded. */
static tacit_status_t measure(run_t *run)
{
    tacit_status_t status = TACIT_OK;

    for (int pass = -1; pass < PASSES; pass++) {
        const uint64_t step = (uint64_t)(pass + 1);

        TRY(timed(run, COPY, pass, step));
        TRY(timed(run, ENCODE, pass, step));
        TRY(encode(run, 1, step));
        TRY(exchange_and_reduce(run));
        TRY(timed(run, DECODE, pass, step));
        TRY(finish(run, 1));
        for (int i = 0; i < PAIRS * RANKS; i++) {
            TRY(tacit_bundle_poll(run->nodes[i / RANKS][i % RANKS].bundle, 0));
        }
    }
out:
    return status;
}

static void print(run_t *run, const bench_options_t *options)
{
    const bench_rates_t rates = {.spec = run->spec,
                                 .bytes = run->count * sizeof(float),
                                 .payload_bytes = run->nodes[0][0].sent_bytes,
                                 .encode_traffic = bench_encode_traffic(run->spec),
                                 .decode_traffic = bench_result_traffic(run->spec),
                                 .copy_seconds = bench_median(run->seconds[COPY], PASSES) / RANKS,
                                 .encode_seconds = bench_median(run->seconds[ENCODE], PASSES),
                                 .decode_seconds = bench_median(run->seconds[DECODE], PASSES) / RANKS,
                                 .encode_stream_seconds = NAN, /* there is no plain loop */
                                 .decode_stream_seconds = NAN};

    bench_print_rates(&rates, options);
}

bool bench_has_device(void)
{
    const tacit_cuda_module_t *module;
    const tacit_status_t       status = tacit__cuda_module(&module);

    if (status != TACIT_OK) {
        fprintf(stderr, "tacit-bench: %s\n", tacit_last_error());
    }
    return status == TACIT_OK;
}

int bench_device(const bench_options_t *options, const char *spec, size_t bytes)
{
    run_t          run = {.spec = spec, .count = bytes / sizeof(float)};
    tacit_status_t status;

    TRY(tacit__cuda_module(&run.module));
    TRY(prepare(&run, options->seed));
    TRY(measure(&run));
    print(&run, options);
out:
    if (status != TACIT_OK) {
        fprintf(stderr, "tacit-bench: %s: %s\n", spec, tacit_last_error());
    }
    if (run.module != NULL) {
        release(&run);
    }
    return status == TACIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
