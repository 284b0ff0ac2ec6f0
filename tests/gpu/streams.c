/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles on streams of CUDA: behind a producer that is late, and captured in a graph. Only where there is a GPU. */
#include <stddef.h>

static const size_t counts[] = {5000, 777, 0, 2048};

#include "nets.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#define WORKS(call) ck_assert_msg((call) == cudaSuccess, "%s: %s", #call, cudaGetErrorString(cudaPeekAtLastError()))

enum { RANKS = 2, REPLAYS = 4 };

static const setup_t setup = {.spec = "qsgd:bits=4,rounding=stochastic,block=128+ef", .op = TACIT_AVERAGE, .ranks = RANKS};

/* ---- A step of all ranks on one stream, exchanges included ---- */

/* Of two ranks each sends one message. */
static void scatter(net_t *net, cudaStream_t stream)
{
    for (int from = 0; from < RANKS; from++) {
        const node_t *node = &net->nodes[from];

        WORKS(cudaMemcpyAsync(net->nodes[1 - from].received, node->sent, node->sent_bytes, cudaMemcpyDefault, stream));
    }
}

static void gather(net_t *net, cudaStream_t stream)
{
    for (int i = 0; i < RANKS * RANKS; i++) {
        node_t *to = &net->nodes[i / RANKS];

        WORKS(cudaMemcpyAsync(to->gathered + (size_t)(i % RANKS) * to->gather_bytes, net->nodes[i % RANKS].own, to->gather_bytes,
                              cudaMemcpyDefault, stream));
    }
}

static void step_on(net_t *net, cudaStream_t stream)
{
    for (int rank = 0; rank < RANKS; rank++) {
        node_t *node = &net->nodes[rank];

        SUCCEEDS(tacit_bundle_set_stream(node->bundle, stream));
        SUCCEEDS(tacit_bundle_encode(node->bundle, TACIT_STEP_NEXT, (const void *const *)node->in, node->sent));
    }
    scatter(net, stream);
    for (int rank = 0; rank < RANKS; rank++) {
        SUCCEEDS(tacit_bundle_reduce(net->nodes[rank].bundle, net->nodes[rank].received, net->nodes[rank].own));
    }
    gather(net, stream);
    for (int rank = 0; rank < RANKS; rank++) {
        SUCCEEDS(tacit_bundle_finish(net->nodes[rank].bundle, net->nodes[rank].gathered, net->nodes[rank].out));
    }
}

static void step_on_cpu(net_t *net)
{
    encode(net, TACIT_STEP_NEXT);
    reduce(net);
    SUCCEEDS(finish(net));
}

static void same_results(const net_t *cpu, const net_t *gpu)
{
    for (int rank = 0; rank < RANKS; rank++) {
        SUCCEEDS(tacit_bundle_poll(gpu->nodes[rank].bundle, 0));
        for (int t = 0; t < TENSORS; t++) {
            same(cpu->nodes[rank].out[t], gpu->nodes[rank].out[t], bytes_of(setup.dtype, counts[t]), &setup, "what comes out",
                 rank, t);
        }
    }
}

/* ---- Tests ---- */

static void CUDART_CB sleep_a_while(void *arg)
{
    (void)arg;
    usleep(100000);
}

/* The tensors are written late, on another stream; the bundle's only waits for that stream's event. */
START_TEST(late_producer)
{
    cudaStream_t producer, consumer;
    cudaEvent_t  written;
    net_t        cpu, gpu, given;

    nets_init(&cpu, &gpu, &setup);
    net_init(&given, &setup, TACIT_CUDA); /* only its tensors: what is to be written */
    WORKS(cudaStreamCreateWithFlags(&producer, cudaStreamNonBlocking));
    WORKS(cudaStreamCreateWithFlags(&consumer, cudaStreamNonBlocking));
    WORKS(cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
    for (uint64_t step = 0; step < STEPS; step++) {
        inputs(&cpu, step);
        inputs(&given, step);
        WORKS(cudaLaunchHostFunc(producer, sleep_a_while, NULL));
        for (int i = 0; i < RANKS * TENSORS; i++) {
            const int rank = i / TENSORS, t = i % TENSORS;

            WORKS(cudaMemcpyAsync(gpu.nodes[rank].in[t], given.nodes[rank].in[t], bytes_of(setup.dtype, counts[t]),
                                  cudaMemcpyDefault, producer));
        }
        WORKS(cudaEventRecord(written, producer));
        WORKS(cudaStreamWaitEvent(consumer, written, 0));
        step_on(&gpu, consumer);
        step_on_cpu(&cpu);
        WORKS(cudaStreamSynchronize(consumer));
        same_results(&cpu, &gpu);
    }
    same_memory(&cpu, &gpu);
    WORKS(cudaEventDestroy(written));
    WORKS(cudaStreamDestroy(producer));
    WORKS(cudaStreamDestroy(consumer));
    net_free(&cpu);
    net_free(&gpu);
    net_free(&given);
}
END_TEST

/* Replays are steps of their own: steps, random numbers and memory go on. */
START_TEST(graph)
{
    cudaStream_t    stream;
    cudaGraph_t     captured;
    cudaGraphExec_t replay;
    net_t           cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    WORKS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    inputs(&cpu, 0);
    inputs(&gpu, 0);
    step_on_cpu(&cpu);
    step_on(&gpu, stream);
    WORKS(cudaStreamSynchronize(stream));
    same_results(&cpu, &gpu);

    WORKS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    step_on(&gpu, stream);
    WORKS(cudaStreamEndCapture(stream, &captured));
    WORKS(cudaGraphInstantiate(&replay, captured, 0));
    for (uint64_t step = 1; step <= REPLAYS; step++) {
        inputs(&cpu, step);
        inputs(&gpu, step);
        step_on_cpu(&cpu);
        WORKS(cudaGraphLaunch(replay, stream));
        WORKS(cudaStreamSynchronize(stream));
        same_results(&cpu, &gpu);
    }
    same_memory(&cpu, &gpu);
    WORKS(cudaGraphExecDestroy(replay));
    WORKS(cudaGraphDestroy(captured));
    WORKS(cudaStreamDestroy(stream));
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* Other tensors than those of the last step cannot be captured. */
START_TEST(graph_of_other_tensors)
{
    cudaStream_t stream;
    cudaGraph_t  captured;
    net_t        gpu;
    node_t      *node = &gpu.nodes[0];

    net_init(&gpu, &setup, TACIT_CUDA);
    WORKS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    SUCCEEDS(tacit_bundle_set_stream(node->bundle, stream));
    WORKS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ck_assert_int_eq(tacit_bundle_encode(node->bundle, TACIT_STEP_NEXT, (const void *const *)node->in, node->sent),
                     TACIT_ERR_STATE);
    WORKS(cudaStreamEndCapture(stream, &captured));
    WORKS(cudaGraphDestroy(captured));
    WORKS(cudaStreamDestroy(stream));
    net_free(&gpu);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *cases;

    if (!nets_begin()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("streams");
    cases = tcase_create("streams");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, late_producer);
    tcase_add_test(cases, graph);
    tcase_add_test(cases, graph_of_other_tensors);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
