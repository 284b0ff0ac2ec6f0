/* SPDX-License-Identifier: Apache-2.0 */
/* Groups over NCCL have the bits that bundles have on the CPU; faults are the same on all ranks; nothing waits for ever. */
#include <stddef.h>

static const size_t counts[] = {4200, 0, 2048, 777, 65, 33};

#include "processes.h"

/* Of tensors and parts, sparse ones, matrices, and NCCL's own. */
static const char *const specs[] = {
    "onebit+ef", "topk:ratio=0.02+ef", "qsgd:bits=4",         "none", "auto", "rotq:bits=2+ef",
    "none+ef",   "bf16+ef21",          "randk:ratio=0.05+ef",
};
enum { SPECS = sizeof specs / sizeof *specs };
static const char *const sharded[] = {"onebit+ef", "qsgd:bits=8", "none", "fp16+ef21"};
enum { SHARDED = sizeof sharded / sizeof *sharded };

/* A rank, and all of them on the CPU. */
typedef struct pair {
    net_t               cpu;
    node_t              gpu;
    tacit_nccl_group_t *group;
} pair_t;

static tacit_status_t make_group(const setup_t *setup, node_t *node, tacit_nccl_t *nccl, tacit_nccl_group_t **group_out)
{
    int owners[TENSORS];

    for (int t = 0; t < TENSORS; t++) {
        owners[t] = t % setup->ranks;
    }
    switch (setup->kind) {
    case TACIT_BUNDLE_REDUCE_SCATTER:
        return tacit_nccl_group_create_reduce_scatter(nccl, node->codecs, owners, TENSORS, setup->op, group_out);
    case TACIT_BUNDLE_ALLGATHER:
        return tacit_nccl_group_create_allgather(nccl, node->codecs, owners, TENSORS, group_out);
    default:
        return tacit_nccl_group_create(nccl, node->codecs, TENSORS, setup->op, group_out);
    }
}

static void pair_init(pair_t *pair, const setup_t *setup, const process_t *process, tacit_nccl_t *nccl)
{
    *pair = (pair_t){.group = NULL};
    net_init(&pair->cpu, setup, TACIT_CPU);
    make_tensors(setup, TACIT_CUDA, process->rank, &pair->gpu);
    SUCCEEDS(make_group(setup, &pair->gpu, nccl, &pair->group));
}

static void pair_free(pair_t *pair)
{
    tacit_nccl_group_destroy(pair->group);
    free_tensors(TACIT_CUDA, &pair->gpu);
    net_free(&pair->cpu);
}

static tacit_status_t run(pair_t *pair, uint64_t step, void *stream)
{
    return tacit_nccl_group_run(pair->group, step, (const void *const *)pair->gpu.in, pair->gpu.out, stream);
}

static void step_on_cpu(pair_t *pair, uint64_t step)
{
    encode(&pair->cpu, step);
    if (pair->cpu.setup.kind == TACIT_BUNDLE_ALLREDUCE) {
        reduce(&pair->cpu);
    }
    SUCCEEDS(finish(&pair->cpu));
}

/* NCCL's own sums have an order of NCCL's, and means are sums of what was divided: a GPU's differ by as many roundings as there
   are operations. */
static void similar(const pair_t *pair, int rank, int t)
{
    const setup_t *setup = &pair->cpu.setup;
    const float   *one = pair->cpu.nodes[rank].out[t], *other = pair->gpu.out[t];

    ck_assert(setup->dtype == TACIT_FLOAT32);
    for (size_t i = 0; i < counts[t]; i++) {
        float bound = 0;

        for (int r = 0; r < setup->ranks; r++) {
            bound += fabsf(((const float *)pair->cpu.nodes[r].in[t])[i]) * 0x1p-22f + 0x1p-149f;
        }
        ck_assert_msg(fabsf(one[i] - other[i]) <= bound, "rank %d, tensor %d, element %zu: %g, not %g", rank, t, i,
                      (double)other[i], (double)one[i]);
    }
}

static void same_results(const pair_t *pair, int rank)
{
    const setup_t *setup = &pair->cpu.setup;

    for (int t = 0; t < TENSORS; t++) {
        const char *spec = others[t] != NULL ? others[t] : setup->spec;
        const bool  exact = OUR_NCCL || (strcmp(spec, "none") != 0 && strcmp(spec, "auto") != 0);

        if (exact) {
            same(pair->cpu.nodes[rank].out[t], pair->gpu.out[t], bytes_of(setup->dtype, counts[t]), setup, "what comes out", rank,
                 t);
        } else if (setup->kind != TACIT_BUNDLE_REDUCE_SCATTER || t % setup->ranks == rank) {
            similar(pair, rank, t);
        }
    }
}

static void step_pair(pair_t *pair, tacit_nccl_t *nccl, uint64_t step)
{
    const int rank = tacit_nccl_rank(nccl);

    inputs(&pair->cpu, step);
    inputs_of(&pair->cpu.setup, rank, &pair->gpu, step);
    step_on_cpu(pair, step);
    SUCCEEDS(run(pair, step, NULL));
    SUCCEEDS(tacit_nccl_group_poll(pair->group, 1));
    SUCCEEDS(tacit_nccl_wait(nccl, NULL));
    SUCCEEDS(tacit_nccl_group_poll(pair->group, 0));
    same_results(pair, rank);
}

/* ---- Results ---- */

static void steps(const process_t *process)
{
    const setup_t *setup = process->given;
    tacit_nccl_t  *nccl = connect_ranks(process);
    pair_t         pair;

    ck_assert_int_eq(tacit_nccl_rank(nccl), process->rank);
    ck_assert_int_eq(tacit_nccl_ranks(nccl), process->ranks);
    pair_init(&pair, setup, process, nccl);
    for (uint64_t step = 0; step < STEPS; step++) {
        step_pair(&pair, nccl, step);
    }
    same_memory_of(setup, process->rank, &pair.cpu.nodes[process->rank], &pair.gpu);
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
}

START_TEST(every_spec)
{
    const int     spec = _i % SPECS, ranks = 2 + _i / SPECS;
    const setup_t setup = {
        .spec = specs[spec], .op = (spec + ranks) % 2 == 0 ? TACIT_AVERAGE : TACIT_SUM, .ranks = ranks, .strict = spec % 4 == 0};

    run_ranks(ranks, steps, &setup);
}
END_TEST

START_TEST(sharded_tensors)
{
    const setup_t setup = {.spec = sharded[_i / 2],
                           .op = _i / 4 == 0 ? TACIT_AVERAGE : TACIT_SUM,
                           .ranks = 2 + _i / 2 % 3,
                           .kind = _i % 2 == 0 ? TACIT_BUNDLE_REDUCE_SCATTER : TACIT_BUNDLE_ALLGATHER};

    run_ranks(setup.ranks, steps, &setup);
}
END_TEST

/* Some tensors are NCCL's, others the bundle's: sparse ones, of which it makes no parts that would be others on the CPU. */
START_TEST(mixed)
{
    const setup_t setup = {.spec = "topk:ratio=0.02+ef", .op = TACIT_AVERAGE, .ranks = 3};

    others[0] = "none";
    others[3] = "randk:ratio=0.1+ef";
    others[4] = "auto";
    run_ranks(setup.ranks, steps, &setup);
}
END_TEST

/* One rank has nobody to send to. */
START_TEST(one_rank)
{
    const setup_t setup = {.spec = specs[_i], .ranks = 1};

    run_ranks(1, steps, &setup);
}
END_TEST

/* The caller's communicator stays what it was. */
static void over_the_callers(const process_t *process)
{
    const setup_t               setup = {.spec = "onebit+ef", .ranks = process->ranks};
    const tacit_nccl_id_t       id = get_id(process);
    tacit_nccl_config_t         config = TACIT_NCCL_CONFIG_INIT;
    const tacit_nccl_library_t *library;
    tacit_nccl_t               *nccl;
    pair_t                      pair;
    void                       *callers = NULL;
    int                         state = -1;

    config.blocking = *(const int *)process->given;
    SUCCEEDS(tacit__nccl_library(&library));
    state = library->init(&callers, process->ranks, id, process->rank, &config);
    ck_assert(state == TACIT_NCCL_SUCCESS || (state == TACIT_NCCL_IN_PROGRESS && !config.blocking));
    do {
        ck_assert_int_eq(library->async_error(callers, &state), TACIT_NCCL_SUCCESS);
    } while (state == TACIT_NCCL_IN_PROGRESS);
    SUCCEEDS(tacit_nccl_create(callers, NULL, &nccl));
    ck_assert_int_eq(tacit_nccl_rank(nccl), process->rank);
    pair_init(&pair, &setup, process, nccl);
    step_pair(&pair, nccl, 0);
    tacit_nccl_destroy(nccl); /* and the group */
    pair.group = NULL;
    pair_free(&pair);
    ck_assert_int_eq(library->async_error(callers, &state), TACIT_NCCL_SUCCESS);
    ck_assert_int_eq(state, TACIT_NCCL_SUCCESS);
    ck_assert_int_eq(library->destroy(callers), TACIT_NCCL_SUCCESS);
}

START_TEST(callers_communicator)
{
    run_ranks(3, over_the_callers, &_i);
}
END_TEST

/* ---- Faults ---- */

/* Of rank 1: all return it, and memory is as before. */
static void bad_value(const process_t *process)
{
    const setup_t *setup = process->given;
    tacit_nccl_t  *nccl = connect_ranks(process);
    pair_t         pair;

    pair_init(&pair, setup, process, nccl);
    step_pair(&pair, nccl, 0);
    inputs_of(setup, process->rank, &pair.gpu, 1);
    if (process->rank == 1) {
        spoil(setup->dtype, pair.gpu.in[0], 77, NAN);
    }
    SUCCEEDS(run(&pair, 1, NULL));
    ck_assert_int_eq(tacit_nccl_group_poll(pair.group, 0), TACIT_ERR_VALUE);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "rank 1: slot 'tensor 0' at step 1 holds NaN"));
    same_memory_of(setup, process->rank, &pair.cpu.nodes[process->rank], &pair.gpu);
    step_pair(&pair, nccl, 2);
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
}

START_TEST(value)
{
    const setup_t setup = {.spec = _i == 0 ? "onebit+ef" : "topk:ratio=0.02+ef", .ranks = 3, .strict = 1};

    run_ranks(setup.ranks, bad_value, &setup);
}
END_TEST

static void other_step(const process_t *process)
{
    const setup_t setup = {.spec = "qsgd+ef", .ranks = process->ranks};
    tacit_nccl_t *nccl = connect_ranks(process);
    pair_t        pair;

    pair_init(&pair, &setup, process, nccl);
    inputs_of(&setup, process->rank, &pair.gpu, 0);
    SUCCEEDS(run(&pair, process->rank == 1 ? 7 : 3, NULL));
    ck_assert_int_eq(tacit_nccl_group_poll(pair.group, 0), TACIT_ERR_MISMATCH);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "step"));
    step_pair(&pair, nccl, 8);
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
}

START_TEST(steps_that_differ)
{
    run_ranks(2, other_step, NULL);
}
END_TEST

/* What is wrong with a group is found when it is made, by all alike, and then it can be made right. */
static void refused(const process_t *process)
{
    const setup_t       setup = {.spec = "onebit+ef", .ranks = process->ranks};
    setup_t             other = setup;
    tacit_nccl_t       *nccl = connect_ranks(process);
    tacit_nccl_group_t *group = NULL;
    const bool          odd = process->rank == 1;
    node_t              node = {.bundle = NULL};
    pair_t              pair;

    if (odd) { /* another spec, for one of them */
        others[3] = "onebit:block=512+ef";
    }
    make_tensors(&setup, TACIT_CUDA, process->rank, &node);
    others[3] = NULL;
    ck_assert_int_eq(make_group(&setup, &node, nccl, &group), TACIT_ERR_MISMATCH);
    ck_assert_msg(strstr(tacit_last_error(), "rank 1 has") != NULL && strstr(tacit_last_error(), "tensor 3") != NULL &&
                      strstr(tacit_last_error(), "block=512") != NULL,
                  "%s", tacit_last_error());
    ck_assert_int_eq(tacit_nccl_group_create(nccl, node.codecs, odd ? 2 : 3, TACIT_SUM, &group), TACIT_ERR_MISMATCH);
    ck_assert_msg(strstr(tacit_last_error(), "2 tensors") != NULL, "%s", tacit_last_error());
    other.op = odd ? TACIT_AVERAGE : TACIT_SUM;
    ck_assert_int_eq(make_group(&other, &node, nccl, &group), TACIT_ERR_MISMATCH);
    ck_assert_msg(strstr(tacit_last_error(), "average") != NULL, "%s", tacit_last_error());
    ck_assert_int_eq(tacit_nccl_group_create(nccl, node.codecs, odd ? 0 : 2, TACIT_SUM, &group), TACIT_ERR_ARGUMENT);
    ck_assert_msg(strncmp(tacit_last_error(), "rank 1: group: ", 15) == 0, "%s", tacit_last_error());
    ck_assert_ptr_null(group);
    free_tensors(TACIT_CUDA, &node);

    pair_init(&pair, &setup, process, nccl);
    ck_assert_int_eq(tacit_nccl_group_run(pair.group, 0, NULL, NULL, NULL), TACIT_ERR_ARGUMENT);
    step_pair(&pair, nccl, 0);
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
}

START_TEST(groups_that_differ)
{
    run_ranks(3, refused, NULL);
}
END_TEST

/* A rank that does not take part in a step: the others' wait ends, and then nothing works but destroying, at once. */
static void left_alone(const process_t *process)
{
    const setup_t *setup = process->given;
    tacit_nccl_t  *nccl = connect_ranks(process);
    tacit_status_t status;
    char           text[TACIT_TEXT_BYTES];
    double         began;
    pair_t         pair;

    pair_init(&pair, setup, process, nccl);
    step_pair(&pair, nccl, 0);
    if (process->rank == process->ranks - 1) {
        meet(process);
        pair_free(&pair);
        tacit_nccl_destroy(nccl);
        return;
    }
    inputs_of(setup, process->rank, &pair.gpu, 1);
    nccl->timeout_ms = LIMIT_MS;
    status = run(&pair, 1, NULL);
    status = status == TACIT_OK ? tacit_nccl_wait(nccl, NULL) : status;
    ck_assert_msg(status == TACIT_ERR_TIMEOUT, "%d: %s", (int)status, tacit_last_error());
    snprintf(text, sizeof text, "%s", tacit_last_error());
    ck_assert_int_eq(run(&pair, 2, NULL), TACIT_ERR_BROKEN);
    ck_assert_msg(strstr(tacit_last_error(), text) != NULL, "%s", tacit_last_error());
    ck_assert_int_eq(tacit_nccl_group_poll(pair.group, 0), TACIT_ERR_BROKEN);
    ck_assert_int_eq(tacit_nccl_wait(nccl, NULL), TACIT_ERR_BROKEN);
    meet(process);
    began = tacit__seconds();
    same_memory_of(setup, process->rank, &pair.cpu.nodes[process->rank], &pair.gpu);
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
    ck_assert(tacit__seconds() - began < 20);
}

START_TEST(late_rank)
{
    const setup_t setup = {.spec = _i == 0 ? "onebit+ef" : "none", .ranks = 3, .strict = 1};

    run_ranks(setup.ranks, left_alone, &setup);
}
END_TEST

static void first_alone(const process_t *process)
{
    const tacit_nccl_id_t id = get_id(process);
    tacit_config_t        config = TACIT_CONFIG_INIT;
    tacit_nccl_t         *nccl = NULL;

    config.timeout_ms = LIMIT_MS;
    if (process->rank == 0) {
        ck_assert_int_eq(tacit_nccl_create_from_id(&id, 0, 2, &config, &nccl), TACIT_ERR_TIMEOUT);
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "tacit_nccl_create has not ended"));
        ck_assert_ptr_null(nccl);
    }
}

START_TEST(rank_that_never_comes)
{
    run_ranks(2, first_alone, NULL);
}
END_TEST

START_TEST(arguments)
{
    tacit_nccl_id_t id = {{0}};
    tacit_nccl_t   *nccl = NULL;

    ck_assert_int_eq(tacit_nccl_create_from_id(&id, 2, 2, NULL, &nccl), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_nccl_create_from_id(NULL, 0, 2, NULL, &nccl), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_nccl_group_run(NULL, 0, NULL, NULL, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_nccl_group_poll(NULL, 0), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_nccl_wait(NULL, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_nccl_rank(NULL), -1);
    ck_assert_int_eq(tacit_nccl_ranks(NULL), 0);
    ck_assert_uint_eq(tacit_nccl_group_wire_bytes(NULL), 0);
    tacit_nccl_group_destroy(NULL);
    tacit_nccl_destroy(NULL);
}
END_TEST

/* ---- What only kernels on the CPU can be asked for, or only a GPU ---- */

#ifdef TACIT_EMULATED

/* On a GPU, NCCL rounds 16-bit sums as it likes. */
START_TEST(half_precision)
{
    const setup_t setup = {
        .spec = _i < 2 ? "none" : "onebit+ef", .op = TACIT_AVERAGE, .ranks = 2 + _i, .dtype = (tacit_dtype_t)(1 + _i % 2)};

    run_ranks(setup.ranks, steps, &setup);
}
END_TEST

static size_t sent_so_far(void)
{
    size_t (*sent)(void) = NULL;

    *(void **)&sent = dlsym(load_fake("libnccl_fake.so"), "fake_sent");
    return sent();
}

/* What a group tells is what NCCL is given for others, and of NCCL's own sums two rounds of all parts but one. */
static void count_bytes(const process_t *process)
{
    const setup_t *setup = process->given;
    const size_t   ranks = (size_t)process->ranks;
    tacit_nccl_t  *nccl = connect_ranks(process);
    size_t         before, expected = 0;
    pair_t         pair;

    pair_init(&pair, setup, process, nccl);
    before = sent_so_far();
    step_pair(&pair, nccl, 0);
    for (size_t t = 0; t < TENSORS; t++) {
        expected += 2 * (ranks - 1) * bytes_of(setup->dtype, counts[t]) / ranks;
    }
    ck_assert_uint_eq(tacit_nccl_group_wire_bytes(pair.group),
                      strcmp(setup->spec, "none") == 0 ? expected : sent_so_far() - before);
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
}

START_TEST(wire_bytes)
{
    static const setup_t setups[] = {
        {.spec = "onebit+ef", .ranks = 3},
        {.spec = "topk:ratio=0.02+ef", .ranks = 2},
        {.spec = "none", .ranks = 3},
        {.spec = "none", .ranks = 2, .dtype = TACIT_FLOAT16},
        {.spec = "qsgd:bits=8", .ranks = 3, .kind = TACIT_BUNDLE_REDUCE_SCATTER},
        {.spec = "fp16+ef21", .ranks = 3, .kind = TACIT_BUNDLE_ALLGATHER},
    };

    run_ranks(setups[_i].ranks, count_bytes, &setups[_i]);
}
END_TEST

static void add_others(TCase *cases)
{
    tcase_add_loop_test(cases, half_precision, 0, 3);
    tcase_add_loop_test(cases, wire_bytes, 0, 6);
}

#else

#include <cuda_runtime_api.h>

#define WORKS(call) ck_assert_msg((call) == cudaSuccess, "%s: %s", #call, cudaGetErrorString(cudaPeekAtLastError()))

enum { REPLAYS = 4 };

/* Replays are steps of their own. */
static void captured(const process_t *process)
{
    const setup_t  *setup = process->given;
    tacit_nccl_t   *nccl = connect_ranks(process);
    cudaStream_t    stream;
    cudaGraph_t     graph;
    cudaGraphExec_t replay;
    pair_t          pair;

    WORKS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    pair_init(&pair, setup, process, nccl);
    step_pair(&pair, nccl, 0);
    WORKS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    SUCCEEDS(run(&pair, TACIT_STEP_NEXT, stream));
    ck_assert_int_eq(tacit_nccl_wait(nccl, stream), TACIT_ERR_STATE);
    WORKS(cudaStreamEndCapture(stream, &graph));
    WORKS(cudaGraphInstantiate(&replay, graph, 0));
    SUCCEEDS(tacit_nccl_group_poll(pair.group, 0)); /* nothing has run since */
    for (uint64_t step = 1; step <= REPLAYS; step++) {
        inputs(&pair.cpu, step);
        inputs_of(setup, process->rank, &pair.gpu, step);
        step_on_cpu(&pair, step);
        WORKS(cudaGraphLaunch(replay, stream));
        SUCCEEDS(tacit_nccl_wait(nccl, stream));
        SUCCEEDS(tacit_nccl_group_poll(pair.group, 0));
        same_results(&pair, process->rank);
    }
    WORKS(cudaGraphExecDestroy(replay));
    WORKS(cudaGraphDestroy(graph));
    WORKS(cudaStreamDestroy(stream));
    pair_free(&pair);
    tacit_nccl_destroy(nccl);
}

START_TEST(graphs)
{
    const setup_t setup = {.spec = _i == 0 ? "onebit+ef" : "topk:ratio=0.02+ef", .ranks = 2};

    others[4] = _i == 0 ? NULL : "none"; /* as in mixed() */
    run_ranks(setup.ranks, captured, &setup);
}
END_TEST

static void add_others(TCase *cases)
{
    tcase_add_loop_test(cases, graphs, 0, 2);
}

#endif

int main(void)
{
    Suite *suite;
    TCase *cases;

    setenv("CK_FORK", "yes", 1); /* ranks are forked from a process without CUDA */
    if (!OUR_NCCL && gpu_is_missing_here()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("nccl");
    cases = tcase_create("nccl");
    tcase_set_timeout(cases, 240);
    tcase_add_loop_test(cases, every_spec, 0, 3 * SPECS);
    tcase_add_loop_test(cases, sharded_tensors, 0, 2 * SHARDED);
    tcase_add_test(cases, mixed);
    add_others(cases);
    tcase_add_loop_test(cases, one_rank, 0, SPECS);
    tcase_add_loop_test(cases, callers_communicator, 0, 2); /* blocking or not */
    tcase_add_loop_test(cases, value, 0, 2);
    tcase_add_test(cases, steps_that_differ);
    tcase_add_test(cases, groups_that_differ);
    tcase_add_loop_test(cases, late_rank, 0, 2);
    tcase_add_test(cases, rank_that_never_comes);
    tcase_add_test(cases, arguments);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
