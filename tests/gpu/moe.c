/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of mixtures of experts whose tokens are on a GPU: over a communicator and without one, whatever goes wrong, they give
   the bits that they give on the CPU. With TACIT_EMULATED the kernels run on the CPU (deferred.h); otherwise, where there is no
   GPU, the test is skipped. */
#include <check.h>
#include <pthread.h>

#include "members.h"

#ifdef TACIT_EMULATED
#include "deferred.h"
#endif

/* ---- Over a communicator ---- */

typedef struct run {
    const layer_case_t *layer;
    int                 ranks;
    tacit_device_t      devices[MOST];
    member_t            members[MOST];
} run_t;

static void run_pass(member_t *member)
{
    if (!went(member,
              tacit_moe_dispatch(member->moe, member->tokens, member->count, member->experts, &member->pass, &member->batch))) {
        return;
    }
    note_batch(member);
    if (went(member, tacit_moe_combine(member->pass, member->replies, member->weights, member->out))) {
        note_rows(member, member->out, member->count);
        if (went(member, tacit_moe_combine_backward(member->pass, member->gradients, member->weight_gradients,
                                                    member->reply_gradients))) {
            note_sums(member);
            if (went(member, tacit_moe_dispatch_backward(member->pass, member->row_gradients, member->token_gradients))) {
                note_rows(member, member->token_gradients, member->count);
            }
        }
    }
    tacit_moe_pass_destroy(member->pass);
    member->pass = NULL;
}

/* A rank with a layer. */
static member_t *join(run_t *run, tacit_comm_t *comm)
{
    const int          rank = tacit_comm_rank(comm);
    member_t          *member = &run->members[rank];
    tacit_moe_config_t config;

    *member = (member_t){.layer = run->layer, .rank = rank, .ranks = run->ranks, .device = run->devices[rank]};
    config = config_of(member);
    MUST(tacit_moe_create(comm, "layer", &config, &member->moe));
    member_make(member);
    return member;
}

static void body(tacit_comm_t *comm, void *arg)
{
    member_t *member = join(arg, comm);

    for (uint64_t pass = 0; pass < PASSES; pass++) {
        fill(member, pass);
        run_pass(member);
        note_counters(member);
    }
    member_free(member);
}

/* gpus: of each rank a bit. */
static run_t run_of(const layer_case_t *layer, int ranks, unsigned gpus)
{
    run_t          run = {.layer = layer, .ranks = ranks};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.nonfinite = layer->nonfinite;
    for (int r = 0; r < ranks; r++) {
        run.devices[r] = (gpus >> r & 1) != 0 ? TACIT_CUDA : TACIT_CPU;
    }
    run_ranks(ranks, &config, body, &run);
    return run;
}

static void run_free(run_t *run)
{
    for (int r = 0; r < run->ranks; r++) {
        free(run->members[r].log);
    }
}

static void same_members(const member_t *cpu, const member_t *gpu)
{
    const layer_case_t *layer = cpu->layer;
    size_t              i = 0;

    ck_assert_msg(cpu->last == gpu->last && strcmp(cpu->text, gpu->text) == 0, "'%s', but on the GPU '%s'", cpu->text, gpu->text);
    while (i < cpu->log_bytes && i < gpu->log_bytes && cpu->log[i] == gpu->log[i]) {
        i++;
    }
    ck_assert_msg(i == cpu->log_bytes && i == gpu->log_bytes,
                  "%s, dtype %d, %zu elements, trouble %d, policy %d, rank %d of %d: byte %zu of %zu and %zu differs",
                  layer->spec, (int)layer->dtype, layer->dimension, (int)layer->trouble, layer->nonfinite, cpu->rank, cpu->ranks,
                  i, cpu->log_bytes, gpu->log_bytes);
}

/* words: of the fault that there is; NULL: none. */
static void check_case(const layer_case_t *layer, int ranks, const char *words)
{
    const unsigned all = (1u << ranks) - 1, some[] = {all, all & 0x5};
    run_t          cpu = run_of(layer, ranks, 0);

    for (size_t i = 0; i < (ranks > 1 ? 2 : 1); i++) {
        run_t gpu = run_of(layer, ranks, some[i]);

        for (int r = 0; r < ranks; r++) {
            same_members(&cpu.members[r], &gpu.members[r]);
            ck_assert_int_eq(gpu.members[r].last, words != NULL ? TACIT_ERR_VALUE : TACIT_OK);
            ck_assert_uint_eq(gpu.members[r].failures, words != NULL);
            ck_assert_msg(words == NULL || strstr(gpu.members[r].text, words) != NULL, "%s", gpu.members[r].text);
        }
        run_free(&gpu);
    }
    run_free(&cpu);
}

static const layer_case_t cases[] = {
    {16, 8, 20, 2, 0, 0, TACIT_FLOAT32, "none", 0, FINE},
    {33, 5, 30, 3, 4, 7, TACIT_FLOAT32, "none", 0, FINE},
    {20, 3, 25, 2, 0, 4, TACIT_FLOAT16, "none", 0, FINE},
    {129, 11, 12, 4, 2, 5, TACIT_BFLOAT16, "none", 0, FINE},
    {64, 6, 20, 2, 0, 0, TACIT_FLOAT32, "bf16", 0, FINE},
    {10, 5, 20, 3, 0, 3, TACIT_FLOAT16, "bf16", 0, FINE},
    {24, 6, 30, 2, 0, 5, TACIT_FLOAT32, "lsh:hashes=2", 0, FINE},
    {24, 6, 30, 2, 5, 0, TACIT_FLOAT32, "lsh:hashes=2,values=bf16", 0, FINE},
    {40, 4, 40, 2, 0, 7, TACIT_FLOAT16, "lsh:hashes=1,values=fp16", 0, FINE},
    {40, 4, 40, 2, 0, 0, TACIT_BFLOAT16, "lsh:hashes=3,rate=0.5", 0, FINE},
    {36, 5, 40, 3, 9, 6, TACIT_FLOAT32, "lsh:hashes=3,residual=drop,values=bf16", 0, FINE},
    {2052, 4, 12, 2, 0, 0, TACIT_BFLOAT16, "lsh:hashes=1", 0, FINE},
};

START_TEST(as_on_the_cpu)
{
    for (int ranks = 1; ranks <= MOST; ranks++) {
        check_case(&cases[_i], ranks, NULL);
    }
}
END_TEST

/* What is not finite: the same faults in the same words, or the same results. */
static const struct {
    layer_case_t layer;
    const char  *words;
} troubles[] = {
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "none", 0, NAN_TOKEN}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "bf16", 0, NAN_TOKEN}, "dispatch: what goes to rank 1 holds NaN"},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=2", 0, NAN_TOKEN}, "rank 2: moe 'layer': token 2 holds NaN"},
    {{16, 6, 20, 2, 0, 4, TACIT_BFLOAT16, "lsh:hashes=2", 0, NAN_TOKEN}, "rank 2: moe 'layer': token 2 holds NaN"},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=2", 1, NAN_TOKEN}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT16, "lsh:hashes=2", 2, NAN_TOKEN}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=1", 0, LARGE_TOKENS}, "the mean of token 1 and 3 others is not finite"},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=1", 1, LARGE_TOKENS}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=1", 0, NAN_GRADIENT}, "what goes to rank 1 in combine_backward"},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT16, "lsh:hashes=1", 1, NAN_GRADIENT}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=1,residual=drop", 2, NAN_GRADIENT}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_BFLOAT16, "none", 0, NAN_GRADIENT}, NULL},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "lsh:hashes=1", 0, LARGE_GRADIENTS}, "what goes to rank 0 in combine_backward"},
    {{16, 6, 20, 2, 0, 4, TACIT_FLOAT32, "none", 0, NAN_REPLY}, NULL},
};

START_TEST(not_finite)
{
    check_case(&troubles[_i].layer, 3, troubles[_i].words);
}
END_TEST

/* ---- Without a communicator ---- */

static void one_exchange(member_t *members, int ranks)
{
    for (int s = 0; s < ranks; s++) {
        for (int r = 0; r < ranks; r++) {
            const size_t bytes = tacit_moe_message_bytes(members[s].pass, r);
            uint8_t     *message = malloc(bytes + 1);

            if (r != s) {
                MUST(tacit_moe_write(members[s].pass, r, message));
                MUST(tacit_moe_read(members[r].pass, s, message, bytes));
                note(&members[r], message, bytes);
            }
            free(message);
        }
    }
}

/* Between calls nothing is under way. */
static void nothing_runs(void)
{
#ifdef TACIT_EMULATED
    ck_assert_uint_eq(launches, awaited);
#endif
}

static void pass_by_messages(member_t *members, int ranks)
{
    for (int r = 0; r < ranks; r++) {
        MUST(tacit_moe_dispatch_begin(members[r].moe, members[r].tokens, members[r].count, members[r].experts, &members[r].pass));
        nothing_runs();
    }
    one_exchange(members, ranks);
    for (int r = 0; r < ranks; r++) {
        MUST(tacit_moe_dispatch_end(members[r].pass, &members[r].batch));
        nothing_runs();
        note_batch(&members[r]);
        MUST(tacit_moe_combine_begin(members[r].pass, members[r].replies));
        nothing_runs();
    }
    one_exchange(members, ranks);
    for (int r = 0; r < ranks; r++) {
        MUST(tacit_moe_combine_end(members[r].pass, members[r].weights, members[r].out));
        nothing_runs();
        note_rows(&members[r], members[r].out, members[r].count);
        MUST(tacit_moe_combine_backward_begin(members[r].pass, members[r].gradients, members[r].weight_gradients));
        nothing_runs();
    }
    one_exchange(members, ranks);
    for (int r = 0; r < ranks; r++) {
        MUST(tacit_moe_combine_backward_end(members[r].pass, members[r].reply_gradients));
        nothing_runs();
        note_sums(&members[r]);
        MUST(tacit_moe_dispatch_backward_begin(members[r].pass, members[r].row_gradients));
        nothing_runs();
    }
    one_exchange(members, ranks);
    for (int r = 0; r < ranks; r++) {
        MUST(tacit_moe_dispatch_backward_end(members[r].pass, members[r].token_gradients));
        nothing_runs();
        note_rows(&members[r], members[r].token_gradients, members[r].count);
        tacit_moe_pass_destroy(members[r].pass);
    }
}

static run_t layer_by_messages(const layer_case_t *layer, int ranks, tacit_device_t device)
{
    run_t run = {.layer = layer, .ranks = ranks};

    for (int r = 0; r < ranks; r++) {
        member_t          *member = &run.members[r];
        tacit_moe_config_t config;

        *member = (member_t){.layer = layer, .rank = r, .ranks = ranks, .device = device};
        config = config_of(member);
        MUST(tacit_moe_create_codec("layer", &config, NULL, r, ranks, &member->moe));
        member_make(member);
    }
    return run;
}

static void layer_free(run_t *run)
{
    for (int r = 0; r < run->ranks; r++) {
        tacit_moe_destroy(run->members[r].moe);
        member_free(&run->members[r]);
    }
    run_free(run);
}

static void step(run_t *run, uint64_t pass)
{
    for (int r = 0; r < run->ranks; r++) {
        fill(&run->members[r], pass);
    }
    pass_by_messages(run->members, run->ranks);
    for (int r = 0; r < run->ranks; r++) {
        note_counters(&run->members[r]);
    }
}

START_TEST(by_messages)
{
    for (int ranks = 1; ranks <= 3; ranks++) {
        run_t cpu = layer_by_messages(&cases[_i], ranks, TACIT_CPU), gpu = layer_by_messages(&cases[_i], ranks, TACIT_CUDA);

        for (uint64_t pass = 0; pass < PASSES; pass++) {
            step(&cpu, pass);
            step(&gpu, pass);
        }
        for (int r = 0; r < ranks; r++) {
            same_members(&cpu.members[r], &gpu.members[r]);
        }
        layer_free(&cpu);
        layer_free(&gpu);
    }
}
END_TEST

/* ---- What is refused ---- */

START_TEST(refused)
{
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;
    tacit_moe_t       *moe = NULL;

    config.dimension = TACIT_DEVICE_DIMENSION + 1;
    config.experts = config.tokens = 2;
    config.device = TACIT_CUDA;
    config.spec = "lsh";
    ck_assert_int_eq(tacit_moe_create_codec("layer", &config, NULL, 0, 1, &moe), TACIT_ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "8192 elements"));
    config.spec = NULL;
    MUST(tacit_moe_create_codec("layer", &config, NULL, 0, 1, &moe));
    MUST(tacit_moe_set_stream(moe, NULL));
    tacit_moe_destroy(moe);
    config.device = TACIT_CPU;
    MUST(tacit_moe_create_codec("layer", &config, NULL, 0, 1, &moe));
    ck_assert_int_eq(tacit_moe_set_stream(moe, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_moe_set_stream(NULL, NULL), TACIT_ERR_ARGUMENT);
    tacit_moe_destroy(moe);
}
END_TEST

static void stream_body(tacit_comm_t *comm, void *arg)
{
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;
    tacit_moe_t       *moe;

    config.dimension = config.experts = config.tokens = 2;
    config.device = TACIT_CUDA;
    MUST(tacit_moe_create(comm, "layer", &config, &moe));
    *(tacit_status_t *)arg = tacit_moe_set_stream(moe, NULL);
}

/* A communicator has one stream for all. */
START_TEST(streams_of_communicators)
{
    tacit_status_t status;

    run_ranks(1, NULL, stream_body, &status);
    ck_assert_int_eq(status, TACIT_ERR_STATE);
}
END_TEST

/* ---- What only can be seen where kernels are emulated ---- */

#ifdef TACIT_EMULATED

/* On a rank's thread: another GPU is present; its stream is being captured; the outputs' kernel fails. */
static _Thread_local bool elsewhere, captured, fails;

static const tacit_cuda_module_t *plain;
static tacit_cuda_module_t        spoilt;
static pthread_mutex_t            poor_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t                     poor; /* the allocation that fails, counted from now; 0: none */

static bool must_fail(void)
{
    bool now;

    pthread_mutex_lock(&poor_lock);
    now = poor == 1;
    poor -= poor != 0;
    pthread_mutex_unlock(&poor_lock);
    return now;
}

static int alloc_or_fail(void **memory_out, size_t bytes)
{
    return must_fail() ? 2 : plain->alloc(memory_out, bytes);
}

static int alloc_host_or_fail(void **memory_out, size_t bytes)
{
    return must_fail() ? 2 : plain->alloc_host(memory_out, bytes);
}

static int present_or_not(int *gpu_out)
{
    const int error = plain->present(gpu_out);

    *gpu_out += elsewhere;
    return error;
}

static int capturing_or_not(void *stream, bool *capturing_out)
{
    const int error = plain->capturing(stream, capturing_out);

    *capturing_out = *capturing_out || captured;
    return error;
}

static int combine_or_fail(const tacit_device_choices_t *choices, const float *weights, const void *tokens, const void *centroids,
                           const void *replies, void *out, void *stream)
{
    return fails ? 700 : plain->combine_rows(choices, weights, tokens, centroids, replies, out, stream);
}

static void use_spoilt(void)
{
    MUST(tacit__cuda_module(&plain));
    spoilt = *plain;
    spoilt.alloc = alloc_or_fail;
    spoilt.alloc_host = alloc_host_or_fail;
    spoilt.present = present_or_not;
    spoilt.capturing = capturing_or_not;
    spoilt.combine_rows = combine_or_fail;
    tacit__cuda_use(&spoilt);
}

/* What a rank cannot begin, none does; what it cannot end, it alone cannot, and its communicator is of no use then. */
static void odd_body(tacit_comm_t *comm, void *arg)
{
    member_t  *member = join(arg, comm);
    const bool odd = member->rank == 1;

    fill(member, 0);
    for (int i = 0; i < 3; i++) {
        elsewhere = odd && i == 0;
        captured = odd && i == 1;
        (void)went(member, tacit_moe_dispatch(member->moe, member->tokens, member->count, member->experts, &member->pass,
                                              &member->batch));
        elsewhere = captured = false;
    }
    note_batch(member);
    fails = odd;
    (void)went(member, tacit_moe_combine(member->pass, member->replies, member->weights, member->out));
    fails = false;
    if (odd) {
        (void)went(member, tacit_moe_dispatch(member->moe, member->tokens, member->count, member->experts, &member->pass,
                                              &member->batch));
    }
    tacit_moe_pass_destroy(member->pass);
    member_free(member);
}

static bool has(const member_t *member, const char *words)
{
    const size_t length = strlen(words);
    size_t       at = 0;

    while (at + length <= member->log_bytes && memcmp(member->log + at, words, length) != 0) {
        at++;
    }
    return at + length <= member->log_bytes;
}

START_TEST(odd_rank)
{
    run_t run = {.layer = &cases[6], .ranks = 3, .devices = {TACIT_CUDA, TACIT_CUDA, TACIT_CUDA}};

    run_ranks(3, NULL, odd_body, &run);
    for (int r = 0; r < 3; r++) {
        ck_assert(has(&run.members[r], "rank 1: moe 'layer': GPU 1 is present, but the layer is on GPU 0"));
        ck_assert(has(&run.members[r], "rank 1: moe 'layer': its stream is being captured"));
        ck_assert_uint_eq(run.members[r].failures, r == 1 ? 4 : 2);
    }
    ck_assert(has(&run.members[1], "rank 1: moe 'layer': a launch: "));
    ck_assert_int_eq(run.members[1].last, TACIT_ERR_BROKEN);
    run_free(&run);
}
END_TEST

static pthread_barrier_t all_there;

static void stuck_body(tacit_comm_t *comm, void *arg)
{
    member_t *member = join(arg, comm);

    fill(member, 0);
    (void)pthread_barrier_wait(&all_there);
    stuck = true;
    for (int i = 0; i < 2; i++) {
        (void)went(member, tacit_moe_dispatch(member->moe, member->tokens, member->count, member->experts, &member->pass,
                                              &member->batch));
    }
    member_free(member);
}

/* A GPU that comes to no end is no peer's fault. */
START_TEST(stuck_gpu)
{
    run_t          run = {.layer = &cases[0], .ranks = 3, .devices = {TACIT_CUDA, TACIT_CUDA, TACIT_CUDA}};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.timeout_ms = 600;
    pthread_barrier_init(&all_there, NULL, 3);
    run_ranks(3, &config, stuck_body, &run);
    stuck = false;
    for (int r = 0; r < 3; r++) {
        ck_assert(has(&run.members[r], "moe 'layer': the GPU has not done its work in 600 ms"));
        ck_assert_int_eq(run.members[r].last, TACIT_ERR_BROKEN);
    }
    run_free(&run);
    pthread_barrier_destroy(&all_there);
}
END_TEST

typedef struct poverty {
    run_t             run;
    size_t            nth;
    bool              gpus; /* it is a GPU's memory, or what a GPU copies to */
    pthread_barrier_t barrier;
} poverty_t;

static void set_poor(poverty_t *poverty, int rank, size_t nth)
{
    (void)pthread_barrier_wait(&poverty->barrier);
    if (rank == 0 && poverty->gpus) {
        poor = nth;
    } else if (rank == 0) {
        tacit__alloc_fail_after(nth);
    }
    (void)pthread_barrier_wait(&poverty->barrier);
}

static void poor_body(tacit_comm_t *comm, void *arg)
{
    poverty_t *poverty = arg;
    const int  rank = tacit_comm_rank(comm);
    member_t  *member;

    free(poverty->run.members[rank].log);
    member = join(&poverty->run, comm);
    fill(member, 0);
    set_poor(poverty, rank, poverty->nth);
    run_pass(member);
    set_poor(poverty, rank, 0);
    if (member->failures != 0) { /* and all is well again */
        const size_t failures = member->failures;

        run_pass(member);
        need(member->failures == failures, member->text);
    }
    need(member->moe->device->used == NULL, "memory of a pass is kept");
    member_free(member);
}

/* Whichever allocation fails, of whichever rank. */
START_TEST(no_memory)
{
    poverty_t poverty = {.run = {.layer = &cases[7 + 2 * _i], .ranks = 2, .devices = {TACIT_CUDA, TACIT_CUDA}}, .gpus = _i != 0};
    bool      more = true;

    pthread_barrier_init(&poverty.barrier, NULL, 2);
    while (more) {
        poverty.nth++;
        run_ranks(2, NULL, poor_body, &poverty);
        more = poverty.run.members[0].failures != 0;
        ck_assert_uint_eq(poverty.run.members[0].failures, poverty.run.members[1].failures);
        ck_assert_int_eq(poverty.run.members[0].last, more ? TACIT_ERR_MEMORY : TACIT_OK);
        ck_assert_int_eq(poverty.run.members[1].last, more ? TACIT_ERR_MEMORY : TACIT_OK);
    }
    ck_assert_uint_gt(poverty.nth, 20);
    run_free(&poverty.run);
    pthread_barrier_destroy(&poverty.barrier);
}
END_TEST

/* Passes have the memory of those before them, once that is as large as any of them needs. */
START_TEST(memory_is_kept)
{
    run_t  run = layer_by_messages(&cases[3 * _i], 3, TACIT_CUDA);
    size_t before;

    for (uint64_t pass = 0; pass < 4 * PASSES; pass++) {
        step(&run, pass % PASSES);
    }
    before = allocations + host_allocations;
    for (uint64_t pass = 0; pass < PASSES; pass++) {
        step(&run, pass);
    }
    ck_assert_uint_eq(allocations + host_allocations, before);
    layer_free(&run);
}
END_TEST

/* Of what a rank keeps for itself the host sees nothing. */
START_TEST(what_stays_is_not_copied)
{
    run_t        run = layer_by_messages(&cases[_i], 1, TACIT_CUDA);
    const size_t before = bytes_to_host;
    const bool   clusters = run.members[0].moe->clusters;

    step(&run, 0);
    if (!clusters) {
        ck_assert_uint_eq(bytes_to_host, before);
    } else { /* but its tokens' codes */
        ck_assert_uint_eq(bytes_to_host - before, run.members[0].count * (run.members[0].moe->rotations.hashes + 1) * 4);
    }
    layer_free(&run);
}
END_TEST

/* All is put on the stream that was given. */
START_TEST(given_stream)
{
    run_t run = layer_by_messages(&cases[_i], 2, TACIT_CUDA);
    void *stream = NULL;

    ck_assert_int_eq(cuda->create_stream(&stream), 0);
    for (int r = 0; r < 2; r++) {
        MUST(tacit_moe_set_stream(run.members[r].moe, stream));
    }
    only_stream = stream;
    strays = 0;
    step(&run, 0);
    ck_assert_uint_eq(strays, 0);
    only_stream = &run;
    step(&run, 0);
    ck_assert_uint_gt(strays, 20); /* such are seen */
    only_stream = NULL;
    layer_free(&run);
    ck_assert_int_eq(cuda->destroy_stream(stream), 0);
}
END_TEST

static void comm_stream_body(tacit_comm_t *comm, void *arg)
{
    run_t *run = arg;

    MUST(tacit_comm_set_stream(comm, only_stream));
    body(comm, run);
}

START_TEST(stream_of_the_communicator)
{
    run_t run = {.layer = &cases[_i], .ranks = 2, .devices = {TACIT_CUDA, TACIT_CUDA}};
    void *stream = NULL;

    ck_assert_int_eq(cuda->create_stream(&stream), 0);
    strays = 0;
    only_stream = stream;
    run_ranks(2, NULL, comm_stream_body, &run);
    only_stream = NULL;
    ck_assert_uint_eq(strays, run.members[0].layer->spec[0] == 'l' ? 2 : 0); /* each copies its signs when it is made */
    run_free(&run);
    ck_assert_int_eq(cuda->destroy_stream(stream), 0);
}
END_TEST

static void add_emulated(TCase *tests)
{
    tcase_add_test(tests, odd_rank);
    tcase_add_test(tests, stuck_gpu);
    tcase_add_loop_test(tests, no_memory, 0, 2);
    tcase_add_loop_test(tests, memory_is_kept, 0, COUNT_OF(cases) / 3);
    tcase_add_loop_test(tests, what_stays_is_not_copied, 0, COUNT_OF(cases));
    tcase_add_loop_test(tests, given_stream, 0, COUNT_OF(cases));
    tcase_add_loop_test(tests, stream_of_the_communicator, 0, COUNT_OF(cases));
}

#endif

int main(void)
{
    Suite *suite;
    TCase *results, *calls;

#ifdef TACIT_EMULATED
    use_deferred();
    use_spoilt();
#endif
    if (gpu_is_missing() || tacit__cuda_module(&cuda) != TACIT_OK) {
        return GPU_SKIPPED;
    }
    suite = suite_create("moe on a GPU");
    results = tcase_create("results");
    tcase_set_timeout(results, 120);
    tcase_add_loop_test(results, as_on_the_cpu, 0, COUNT_OF(cases));
    tcase_add_loop_test(results, not_finite, 0, COUNT_OF(troubles));
    tcase_add_loop_test(results, by_messages, 0, COUNT_OF(cases));
    suite_add_tcase(suite, results);
    calls = tcase_create("calls");
    tcase_set_timeout(calls, 120);
    tcase_add_test(calls, refused);
    tcase_add_test(calls, streams_of_communicators);
#ifdef TACIT_EMULATED
    add_emulated(calls);
#endif
    suite_add_tcase(suite, calls);
    return harness_main(suite);
}
