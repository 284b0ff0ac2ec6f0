/* SPDX-License-Identifier: Apache-2.0 */
/* Slots on a GPU over the loop transport: results and memory have the bits of slots on the CPU; faults, time limits and requests
   are as there. Kernels that run on the CPU have copies that take their time (deferred.h). */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "gpu.h"
#include "harness.h"
#include "ranks.h"

#ifdef TACIT_EMULATED
#include "deferred.h"
#endif

static const tacit_cuda_module_t *module;

enum { STEPS = 3, SLOTS = 6, MOST = 4, ELEMENTS = 4200 };

/* `by`: the schedule that sums like a bundle, where tensors on the CPU have others. */
typedef struct scenario {
    const char    *specs[SLOTS], *by;
    size_t         counts[SLOTS];
    size_t         slots;
    int            ranks;
    tacit_op_t     op;
    tacit_dtype_t  dtype;
    bool           in_place, grouped, uneven; /* uneven: the first slot is a step ahead */
    tacit_config_t config;
} scenario_t;

/* What a rank was left with. */
typedef struct end {
    uint8_t *out;
    size_t   out_bytes;
    uint8_t *states[SLOTS];
    size_t   state_bytes[SLOTS];
} end_t;

typedef struct run {
    const scenario_t *scenario;
    tacit_device_t    device;
    end_t             ends[MOST];
} run_t;

/* ---- A rank ---- */

static void *get(tacit_device_t device, size_t bytes)
{
    void *memory = tacit__cuda_alloc_shared(device == TACIT_CUDA ? module : NULL, bytes + 16, 1);

    if (memory == NULL) {
        abort();
    }
    return memory;
}

static void give(tacit_device_t device, void *memory)
{
    tacit__cuda_free_shared(device == TACIT_CUDA ? module : NULL, memory);
}

static tacit_slot_t *make_slot(tacit_comm_t *comm, tacit_device_t device, const char *name, size_t count, tacit_dtype_t dtype,
                               const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;

    config.count = count;
    config.dtype = dtype;
    config.device = device;
    config.spec = spec;
    MUST(tacit_slot_create(comm, name, &config, &slot));
    return slot;
}

static void fill(const scenario_t *scenario, int rank, int step, size_t s, void *to)
{
    float *x = malloc((scenario->counts[s] + 1) * sizeof *x);

    harness_fill(x, scenario->counts[s], (uint64_t)(1000 * step + 100 * rank) + s, 1.0f + (float)rank);
    if (scenario->dtype == TACIT_FLOAT32) {
        memcpy(to, x, scenario->counts[s] * sizeof *x);
    } else {
        for (size_t i = 0; i < scenario->counts[s]; i++) { /* 16 bits of any kind: small numbers in both types */
            ((uint16_t *)to)[i] = (uint16_t)(0x3800 + (int)(x[i] * 64.0f));
        }
    }
    free(x);
}

static void keep_state(tacit_slot_t *slot, uint8_t **state_out, size_t *bytes_out)
{
    MUST(tacit_codec_save(slot->codec, NULL, 0, bytes_out));
    *state_out = malloc(*bytes_out + 1);
    MUST(tacit_codec_save(slot->codec, *state_out, *bytes_out, bytes_out));
}

static void reduce_all(const scenario_t *scenario, tacit_comm_t *comm, tacit_slot_t **slots, void **in, void **out)
{
    if (scenario->grouped) {
        MUST(tacit_group_begin(comm));
    }
    for (size_t s = 0; s < scenario->slots; s++) {
        MUST(tacit_allreduce(slots[s], in[s], out[s], scenario->op));
    }
    if (scenario->grouped) {
        MUST(tacit_group_end(comm, NULL));
    }
}

static void body(tacit_comm_t *comm, void *arg)
{
    run_t            *run = arg;
    const scenario_t *scenario = run->scenario;
    const int         rank = tacit_comm_rank(comm);
    const size_t      element = scenario->dtype == TACIT_FLOAT32 ? 4 : 2;
    end_t            *end = &run->ends[rank];
    tacit_slot_t     *slots[SLOTS];
    void             *in[SLOTS], *out[SLOTS];

    for (size_t s = 0; s < scenario->slots; s++) {
        char name[16];

        snprintf(name, sizeof name, "slot %zu", s);
        slots[s] = make_slot(comm, run->device, name, scenario->counts[s], scenario->dtype, scenario->specs[s]);
        out[s] = get(run->device, scenario->counts[s] * element);
        in[s] = scenario->in_place ? out[s] : get(run->device, scenario->counts[s] * element);
        end->out_bytes += STEPS * scenario->counts[s] * element;
    }
    end->out = malloc(end->out_bytes + 1);
    end->out_bytes = 0;
    if (scenario->uneven) {
        fill(scenario, rank, 77, 0, in[0]);
        MUST(tacit_allreduce(slots[0], in[0], out[0], scenario->op));
    }
    for (int step = 0; step < STEPS; step++) {
        for (size_t s = 0; s < scenario->slots; s++) {
            fill(scenario, rank, step, s, in[s]);
        }
        reduce_all(scenario, comm, slots, in, out);
        for (size_t s = 0; s < scenario->slots; s++) {
            memcpy(end->out + end->out_bytes, out[s], scenario->counts[s] * element);
            end->out_bytes += scenario->counts[s] * element;
        }
    }
    for (size_t s = 0; s < scenario->slots; s++) {
        keep_state(slots[s], &end->states[s], &end->state_bytes[s]);
        tacit_slot_destroy(slots[s]);
        give(run->device, out[s]);
        if (!scenario->in_place) {
            give(run->device, in[s]);
        }
    }
}

/* ---- The bits of the CPU ---- */

static void same(const uint8_t *cpu, const uint8_t *gpu, size_t bytes, const scenario_t *scenario, const char *what, int rank)
{
    for (size_t i = 0; i < bytes; i++) {
        ck_assert_msg(cpu[i] == gpu[i], "'%s', %d ranks: byte %zu of %zu of %s of rank %d is %02x on the CPU, %02x on the GPU",
                      scenario->specs[0], scenario->ranks, i, bytes, what, rank, cpu[i], gpu[i]);
    }
}

static void run_on(run_t *run)
{
    char asked[64];

    snprintf(asked, sizeof asked, "x by %s", run->scenario->by);
    ask_for(run->device == TACIT_CPU ? asked : NULL);
    /* What is sent is read late: a cell is not to be filled before. */
    (run->device == TACIT_CUDA ? run_ranks_lazily : run_ranks)(run->scenario->ranks, &run->scenario->config, body, run);
    ask_for(NULL);
}

static void run_both(scenario_t *scenario)
{
    run_t cpu = {.scenario = scenario, .device = TACIT_CPU}, gpu = {.scenario = scenario, .device = TACIT_CUDA};

    scenario->config.struct_bytes = sizeof scenario->config;
    while (scenario->slots < SLOTS && scenario->specs[scenario->slots] != NULL) {
        scenario->slots++;
    }
    run_on(&cpu);
    run_on(&gpu);
    for (int rank = 0; rank < scenario->ranks; rank++) {
        const end_t *one = &cpu.ends[rank], *other = &gpu.ends[rank];

        ck_assert_uint_eq(one->out_bytes, other->out_bytes);
        same(one->out, other->out, one->out_bytes, scenario, "what comes out", rank);
        for (size_t s = 0; s < scenario->slots; s++) {
            ck_assert_uint_eq(one->state_bytes[s], other->state_bytes[s]);
            same(one->states[s], other->states[s], one->state_bytes[s], scenario, "the state", rank);
            free(one->states[s]);
            free(other->states[s]);
        }
        free(one->out);
        free(other->out);
    }
}

/* Random numbers too are those of each slot's own step; ranks without a part; tensors without elements; pieces, of which there
   are more than cells. */
static scenario_t scenarios[] = {
    {.specs = {"onebit:block=64+ef"}, .counts = {ELEMENTS}, .ranks = 2, .op = TACIT_AVERAGE, .by = "blockwise"},
    {.specs = {"none", "none+ef"},
     .counts = {60000, 777},
     .ranks = 3,
     .grouped = true,
     .by = "blockwise",
     .config = {.chunk_bytes = 1024}},
    {.specs = {"auto"}, .counts = {5}, .ranks = 4, .in_place = true, .op = TACIT_AVERAGE, .by = "blockwise"},
    {.specs = {"onebit:block=64+ef", "topk:ratio=0.05+ef", "none", "qsgd:bits=4+ef", "randk:ratio=0.05+ef", "rotq:bits=2+ef"},
     .counts = {ELEMENTS, 3000, 0, 777, 900, 1500},
     .ranks = 3,
     .grouped = true,
     .by = "sparse"},
    {.specs = {"qsgd:bits=4,rounding=stochastic", "randk:ratio=0.1+ef", "fp16+ef21", "onebit+ef:residual=int8"},
     .counts = {900, 700, 333, 2500},
     .ranks = 2,
     .grouped = true,
     .uneven = true,
     .in_place = true,
     .op = TACIT_AVERAGE,
     .by = "blockwise",
     .config = {.strict = 1}},
    {.specs = {"topk:ratio=0.1+dgc:momentum=0.9", "fp8:own=coded+ef"},
     .counts = {2000, 600},
     .ranks = 4,
     .grouped = true,
     .by = "sparse"},
    {.specs = {"none"}, .counts = {999}, .ranks = 3, .dtype = TACIT_BFLOAT16, .by = "blockwise"},
    {.specs = {"none", "onebit:block=0,own=coded+ef"},
     .counts = {999, 1024},
     .ranks = 2,
     .grouped = true,
     .dtype = TACIT_BFLOAT16,
     .by = "blockwise"},
    {.specs = {"qsgd:bits=8+econtrol:eta=0.2"}, .counts = {300}, .ranks = 1, .by = "blockwise"},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

START_TEST(as_on_the_cpu)
{
    scenario_t scenario = scenarios[_i];

    run_both(&scenario);
}
END_TEST

/* ---- Faults ---- */

typedef struct stage {
    tacit_loop_t     *loop;
    pthread_barrier_t barrier;
    tacit_status_t    status[MOST], next[MOST];
    char              text[MOST][TACIT_TEXT_BYTES];
    bool              kept[MOST];
    float             out[MOST][ELEMENTS];
    int               number;
} stage_t;

enum { RANKS = 3, PLACE = 17 };

typedef enum { SOUND, NOT_A_NUMBER, OTHER_LEG, OTHER_OPERATOR, DAMAGED, LATE, STUCK, LAST_LAUNCH } fault_t;

static void note(stage_t *stage, int rank, tacit_status_t status)
{
    stage->status[rank] = status;
    snprintf(stage->text[rank], sizeof stage->text[rank], "%s", status != TACIT_OK ? tacit_last_error() : "");
}

/* A sound step, one with the fault, and, where that does not end the communicator, one more. */
static void suffer(tacit_comm_t *comm, void *arg)
{
    stage_t      *stage = arg;
    const int     rank = tacit_comm_rank(comm);
    const fault_t fault = (fault_t)stage->number;
    tacit_slot_t *slots[2] = {make_slot(comm, TACIT_CUDA, "one", ELEMENTS, TACIT_FLOAT32, "qsgd:bits=4+ef"),
                              make_slot(comm, TACIT_CUDA, "two", 1000, TACIT_FLOAT32, "topk:ratio=0.1+ef")};
    float        *x[2] = {get(TACIT_CUDA, ELEMENTS * sizeof(float)), get(TACIT_CUDA, 1000 * sizeof(float))};
    float        *out = get(TACIT_CUDA, ELEMENTS * sizeof(float)), *other = get(TACIT_CUDA, 1000 * sizeof(float));
    tacit_slot_t *beside = make_slot(comm, TACIT_CPU, "beside", PLACE, TACIT_FLOAT32, "onebit:block=64+ef");
    float         y[PLACE];
    uint8_t      *before[2], *after[2];
    size_t        bytes[2];

    for (int step = 0; step < (fault < LATE ? 3 : 2); step++) {
        const bool     now = step == 1;
        tacit_op_t     op = now && fault == OTHER_OPERATOR && rank == 2 ? TACIT_AVERAGE : TACIT_SUM;
        tacit_status_t status;

        harness_fill(x[0], ELEMENTS, (uint64_t)(10 * (step == 2 ? 1 : step) + rank), 1.0f);
        harness_fill(x[1], 1000, (uint64_t)(100 + 10 * (step == 2 ? 1 : step) + rank), 1.0f);
        harness_fill(y, PLACE, 1, 1.0f);
        if (fault == SOUND && now) {
            continue;
        }
        if (now) {
            x[0][PLACE] = fault == NOT_A_NUMBER && rank == 1 ? NAN : x[0][PLACE];
            y[0] = fault == OTHER_LEG && rank == 1 ? NAN : y[0];
            keep_state(slots[0], &before[0], &bytes[0]);
            keep_state(slots[1], &before[1], &bytes[1]);
            (void)pthread_barrier_wait(&stage->barrier);
            if (fault == DAMAGED && rank == 0) {
                MUST(tacit_loop_inject(stage->loop, TACIT_LOOP_FLIP, 1, 2, 0, 8 * 64 + 100));
            }
#ifdef TACIT_EMULATED
            if (rank == 0) {
                stuck = fault == STUCK;
                end_fails = fault == LAST_LAUNCH ? 1 : 0;
            }
#endif
            (void)pthread_barrier_wait(&stage->barrier);
            if (fault == LATE && rank == 1) {
                (void)pthread_barrier_wait(&stage->barrier);
                break;
            }
        }
        MUST(tacit_group_begin(comm));
        MUST(tacit_allreduce(slots[0], x[0], out, op));
        MUST(tacit_allreduce(slots[1], x[1], other, op));
        MUST(tacit_allreduce(beside, y, y, op));
        status = tacit_group_end(comm, NULL);
        if (now) {
            note(stage, rank, status);
            keep_state(slots[0], &after[0], &bytes[0]);
            keep_state(slots[1], &after[1], &bytes[1]);
            stage->next[rank] = tacit_group_begin(comm);
            stage->next[rank] = stage->next[rank] == TACIT_OK ? tacit_group_end(comm, NULL) : stage->next[rank];
            stage->kept[rank] = memcmp(before[0], after[0], bytes[0]) == 0 && memcmp(before[1], after[1], bytes[1]) == 0;
            (void)pthread_barrier_wait(&stage->barrier);
            for (int i = 0; i < 2; i++) {
                free(before[i]);
                free(after[i]);
            }
        } else if (step == 2) {
            stage->next[rank] = status;
            memcpy(stage->out[rank], out, ELEMENTS * sizeof *out);
        } else {
            MUST(status);
        }
    }
    give(TACIT_CUDA, x[0]);
    give(TACIT_CUDA, x[1]);
    give(TACIT_CUDA, out);
    give(TACIT_CUDA, other);
}

static void run_stage(stage_t *stage, fault_t fault, const tacit_config_t *config)
{
    memset(stage, 0, sizeof *stage);
    stage->number = (int)fault;
    pthread_barrier_init(&stage->barrier, NULL, RANKS);
    ck_assert_int_eq(tacit_loop_create(RANKS, &stage->loop), TACIT_OK);
    run_ranks_over(stage->loop, RANKS, config, suffer, stage);
    tacit_loop_release(stage->loop);
    pthread_barrier_destroy(&stage->barrier);
#ifdef TACIT_EMULATED
    stuck = false;
#endif
}

static const struct {
    fault_t        fault;
    tacit_status_t status;
    const char    *text; /* is in that of all ranks */
} faults[] = {
    {NOT_A_NUMBER, TACIT_ERR_VALUE, "rank 1: slot 'one' at step 1"},
    {OTHER_LEG, TACIT_ERR_VALUE, "rank 1: slot 'beside' at step 1"},
    {OTHER_OPERATOR, TACIT_ERR_MISMATCH, "another spec or operator"},
    {DAMAGED, TACIT_ERR_FRAME, "from rank 1 cannot be used"},
};
enum { FAULTS = sizeof faults / sizeof *faults };

/* All ranks say the same, memory is as before, exactly, and what follows is as if nothing had been. */
START_TEST(faults_are_common)
{
    static stage_t sound, stage;
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.strict = 1;
    run_stage(&sound, SOUND, &config);
    run_stage(&stage, faults[_i].fault, &config);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_msg(stage.status[rank] == faults[_i].status, "rank %d: %d, %s", rank, (int)stage.status[rank],
                      stage.text[rank]);
        ck_assert_msg(strstr(stage.text[rank], faults[_i].text) != NULL, "rank %d: %s", rank, stage.text[rank]);
        ck_assert_str_eq(stage.text[rank], stage.text[0]);
        ck_assert(stage.kept[rank]);
        ck_assert_int_eq(stage.next[rank], TACIT_OK);
        ck_assert_int_eq(memcmp(stage.out[rank], sound.out[rank], sizeof sound.out[rank]), 0);
    }
}
END_TEST

START_TEST(late_rank)
{
    static stage_t stage;
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.strict = 1;
    config.timeout_ms = 300;
    run_stage(&stage, LATE, &config);
    for (int rank = 0; rank < RANKS; rank += 2) {
        ck_assert_int_eq(stage.status[rank], TACIT_ERR_TIMEOUT);
        ck_assert_msg(strstr(stage.text[rank], "nothing from rank 1") != NULL, "%s", stage.text[rank]);
        ck_assert(stage.kept[rank]);
        ck_assert_int_eq(stage.next[rank], TACIT_ERR_BROKEN);
    }
}
END_TEST

#ifdef TACIT_EMULATED

/* A GPU that comes to no end is no peer's fault. */
START_TEST(stuck_gpu)
{
    static stage_t stage;
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.timeout_ms = 600;
    run_stage(&stage, STUCK, &config);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(stage.status[rank], TACIT_ERR_TIMEOUT);
        ck_assert_int_eq(stage.next[rank], TACIT_ERR_BROKEN);
        ck_assert_msg(strstr(stage.text[rank], "the GPU has not done its work in 600 ms") != NULL, "%s", stage.text[rank]);
    }
}
END_TEST

/* What fails behind the last word, fails alone. */
START_TEST(last_launch)
{
    static stage_t stage;
    tacit_config_t config = TACIT_CONFIG_INIT;

    run_stage(&stage, LAST_LAUNCH, &config);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(stage.status[rank], rank == 1 ? TACIT_ERR_DEVICE : TACIT_OK);
        ck_assert_int_eq(stage.next[rank], rank == 1 ? TACIT_ERR_BROKEN : TACIT_OK);
    }
}
END_TEST

#endif

/* ---- Requests, groups by turns, groups with slots on the CPU ---- */

enum { BUCKETS = 2, BUCKET = 3 };

typedef struct turns {
    float  out[MOST][2][BUCKETS][BUCKET * 700]; /* of slots on the CPU, and on the GPU */
    size_t allocations[4], waits[4];            /* after each step */
} turns_t;

/* Two buckets by turns, whose requests run at once, each with slots on both. */
static void take_turns(tacit_comm_t *comm, void *arg)
{
    turns_t         *turns = arg;
    const int        rank = tacit_comm_rank(comm);
    tacit_slot_t    *slots[2][BUCKETS][BUCKET];
    float           *x[2] = {get(TACIT_CPU, sizeof turns->out[0][0]), get(TACIT_CUDA, sizeof turns->out[0][0])};
    tacit_request_t *requests[BUCKETS];
    tacit_slot_t    *last;

    for (int i = 0; i < 2 * BUCKETS * BUCKET; i++) {
        char name[16];

        snprintf(name, sizeof name, "slot %d", i);
        slots[i % 2][i / 2 / BUCKET][i / 2 % BUCKET] =
            make_slot(comm, (tacit_device_t)(i % 2), name, 700, TACIT_FLOAT32, "onebit:block=64+ef");
    }
    MUST(tacit_comm_set_stream(comm, NULL));
    for (int step = 0; step < 4; step++) {
        for (int device = 0; device < 2; device++) {
            harness_fill(x[device], BUCKETS * BUCKET * 700, (uint64_t)(10 * step + rank), 1.0f);
        }
        for (int b = 0; b < BUCKETS; b++) {
            MUST(tacit_group_begin(comm));
            for (int i = 0; i < 2 * BUCKET; i++) {
                float *tensor = x[i % 2] + (b * BUCKET + i / 2) * 700;

                MUST(tacit_allreduce(slots[i % 2][b][i / 2], tensor, tensor, TACIT_AVERAGE));
            }
            MUST(tacit_group_end(comm, &requests[b]));
        }
        while (tacit_test(&requests[0]) == TACIT_PENDING) {
        }
        MUST(tacit_wait(&requests[0]));
        MUST(tacit_wait(&requests[1]));
#ifdef TACIT_EMULATED
        if (rank == 0) {
            turns->allocations[step] = __atomic_load_n(&allocations, __ATOMIC_SEQ_CST);
            turns->waits[step] = __atomic_load_n(&waits, __ATOMIC_SEQ_CST);
        }
#endif
    }
    memcpy(turns->out[rank][0], x[0], sizeof turns->out[rank][0]);
    memcpy(turns->out[rank][1], x[1], sizeof turns->out[rank][1]);
    last = slots[1][0][BUCKET - 1];
    tacit_slot_destroy(last); /* and with it goes what its bucket had */
    MUST(tacit_allreduce(slots[1][0][0], x[1], x[1], TACIT_SUM));
    give(TACIT_CPU, x[0]);
    give(TACIT_CUDA, x[1]);
}

START_TEST(by_turns)
{
    static turns_t turns;
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.progress = _i == 0 ? TACIT_PROGRESS_CALLS : TACIT_PROGRESS_THREAD;
    run_ranks(3, &config, take_turns, &turns);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(memcmp(turns.out[rank][0], turns.out[0][0], sizeof turns.out[0][0]), 0);
        ck_assert_int_eq(memcmp(turns.out[rank][1], turns.out[0][0], sizeof turns.out[0][0]), 0);
    }
    ck_assert_uint_eq(turns.allocations[2], turns.allocations[1]); /* of steps that no rank has alone */
    ck_assert_uint_eq(turns.waits[2], turns.waits[1]);
}
END_TEST

/* What is still being copied on the caller's streams is waited for, also by requests that begin when there is another stream. */
static void bring_late(tacit_comm_t *comm, void *arg)
{
    float(*out)[1400] = arg;
    const int        rank = tacit_comm_rank(comm);
    tacit_slot_t    *slot = make_slot(comm, TACIT_CUDA, "slot", 700, TACIT_FLOAT32, "none");
    float           *x = get(TACIT_CUDA, 2100 * sizeof *x), *y = x + 1400, *host = NULL;
    void            *streams[2];
    tacit_request_t *requests[3];

    MUST(module->alloc_host((void **)&host, 1400 * sizeof *host));
    harness_fill(host, 1400, (uint64_t)rank, 1.0f);
    MUST(tacit_allreduce(slot, y, y, TACIT_SUM)); /* to make memory waits for all streams */
    MUST(tacit_iallreduce(slot, y, y, TACIT_SUM, &requests[2]));
    for (int i = 0; i < 2; i++) {
        MUST(module->create_stream(&streams[i]));
        MUST(module->copy(x + i * 700, host + i * 700, 700 * sizeof *x, streams[i]));
        MUST(tacit_comm_set_stream(comm, streams[i]));
        MUST(tacit_iallreduce(slot, x + i * 700, x + i * 700, TACIT_SUM, &requests[i]));
    }
    for (int i = 2; i >= 0; i--) {
        MUST(tacit_wait(&requests[i]));
    }
    memcpy(out[rank], x, sizeof out[rank]);
    MUST(module->synchronize());
    MUST(module->free_host(host));
    MUST(module->destroy_stream(streams[0]));
    MUST(module->destroy_stream(streams[1]));
    give(TACIT_CUDA, x);
}

START_TEST(given_stream)
{
    static float out[2][1400];
    float        x[2][1400];

    run_ranks(2, NULL, bring_late, out);
    for (int rank = 0; rank < 2; rank++) {
        harness_fill(x[rank], 1400, (uint64_t)rank, 1.0f);
    }
    for (int i = 0; i < 1400; i++) {
        ck_assert(out[0][i] == x[0][i] + x[1][i] && out[1][i] == out[0][i]);
    }
}
END_TEST

/* ---- What slots can do besides ---- */

typedef struct life {
    struct {
        tacit_norms_t before, after; /* a reset */
        float         out[900], paid[900];
    } on[2][2];
    char path[2][HARNESS_PATH_BYTES];
} life_t;

/* The same on both devices. */
static void live(tacit_comm_t *comm, void *arg)
{
    life_t   *life = arg;
    const int rank = tacit_comm_rank(comm);

    for (int device = 0; device < 2; device++) {
        tacit_slot_t *slot = make_slot(comm, (tacit_device_t)device, device == 0 ? "one" : "two", 900, TACIT_FLOAT32,
                                       "qsgd:bits=4+ef"); /* rounding to the nearest: names do not matter */
        float        *x = get((tacit_device_t)device, 900 * sizeof *x), *out = get((tacit_device_t)device, 900 * sizeof *x);

        harness_fill(x, 900, (uint64_t)rank, 1.0f);
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        MUST(tacit_slot_rescale(slot, 0.5));
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        MUST(tacit_slot_set_spec(slot, "qsgd:bits=2,block=64+ef"));
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        MUST(tacit_save(comm, life->path[rank]));
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        MUST(tacit_load(comm, life->path[rank]));
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        memcpy(life->on[device][rank].out, out, 900 * sizeof *out);
        MUST(tacit_slot_norms(slot, &life->on[device][rank].before));
        MUST(tacit_slot_reset(slot));
        MUST(tacit_slot_norms(slot, &life->on[device][rank].after));
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        MUST(tacit_slot_set_spec(slot, "none"));
        MUST(tacit_allreduce(slot, x, out, TACIT_SUM));
        memcpy(life->on[device][rank].paid, out, 900 * sizeof *out);
        tacit_slot_destroy(slot);
        give((tacit_device_t)device, x);
        give((tacit_device_t)device, out);
    }
}

START_TEST(as_other_slots)
{
    static life_t life;

    for (int rank = 0; rank < 2; rank++) {
        (void)harness_path(life.path[rank], "device-%d", rank);
    }
    run_ranks(2, NULL, live, &life);
    ck_assert(life.on[0][0].before.memory > 0 && life.on[0][0].before.owner > 0);
    ck_assert(life.on[0][0].after.memory == 0 && life.on[0][0].after.owner == 0);
    ck_assert_int_eq(memcmp(life.on[0], life.on[1], sizeof life.on[0]), 0);
    for (int rank = 0; rank < 2; rank++) {
        ck_assert_int_eq(remove(life.path[rank]), 0);
    }
}
END_TEST

static void ask_too_much(tacit_comm_t *comm, void *arg)
{
    char(*texts)[TACIT_TEXT_BYTES] = arg;
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    const int           rank = tacit_comm_rank(comm);
    tacit_slot_t       *slots[2] = {make_slot(comm, TACIT_CUDA, "one", 64, TACIT_FLOAT32, "none"),
                                    make_slot(comm, TACIT_CUDA, "two", 64, TACIT_FLOAT32, "powersgd+ef")};
    float              *x = get(TACIT_CUDA, 64 * sizeof *x);

    config.count = 64;
    config.device = TACIT_CUDA;
    config.spec = "topk:ratio=0.1+ef21:init=gradient";
    if (tacit_slot_create(comm, "three", &config, &slots[1]) != TACIT_ERR_UNSUPPORTED) {
        abort();
    }
    snprintf(texts[rank], sizeof texts[rank], "%s", tacit_last_error());
    config.spec = "none";
    config.device = rank == 0 ? TACIT_CPU : TACIT_CUDA;
    if (tacit_slot_create(comm, "three", &config, &slots[1]) != TACIT_ERR_MISMATCH) {
        abort();
    }
    MUST(tacit_allreduce(slots[0], x, x, TACIT_SUM));
    MUST(tacit_group_begin(comm));
    MUST(tacit_allreduce(slots[0], x, x, TACIT_SUM));
    MUST(tacit_allreduce(slots[1], x, x, TACIT_AVERAGE));
    if (tacit_group_end(comm, NULL) != TACIT_ERR_UNSUPPORTED) {
        abort();
    }
    snprintf(texts[2 + rank], sizeof texts[rank], "%s", tacit_last_error());
    MUST(tacit_allreduce(slots[1], x, x, TACIT_AVERAGE));
    give(TACIT_CUDA, x);
}

START_TEST(refused)
{
    char texts[4][TACIT_TEXT_BYTES];

    run_ranks(2, NULL, ask_too_much, texts);
    ck_assert_msg(strstr(texts[0], "leave out init=gradient") != NULL, "%s", texts[0]);
    ck_assert_str_eq(texts[0], texts[1]);
    ck_assert_msg(strstr(texts[2], "make a group for each operator") != NULL, "%s", texts[2]);
    ck_assert_str_eq(texts[2], texts[3]);
}
END_TEST

/* What powersgd makes of matrices on GPUs is its own, but the same on all ranks; its parameters may change. */
static void reduce_matrix(tacit_comm_t *comm, void *arg)
{
    float(*out)[1200] = arg;
    const int           rank = tacit_comm_rank(comm);
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slots[2];
    float              *x = get(TACIT_CUDA, 1200 * sizeof *x), *y = get(TACIT_CUDA, 1200 * sizeof *y);

    config.count = 1200;
    config.ndim = 2;
    config.shape[0] = 40;
    config.shape[1] = 30;
    config.device = TACIT_CUDA;
    config.spec = "powersgd:rank=2+ef";
    MUST(tacit_slot_create(comm, "matrix", &config, &slots[0]));
    slots[1] = make_slot(comm, TACIT_CUDA, "vector", 1200, TACIT_FLOAT32, "rotq+ef");
    for (int step = 0; step < STEPS; step++) {
        harness_fill(x, 1200, (uint64_t)(10 * step + rank), 1.0f);
        MUST(tacit_group_begin(comm));
        MUST(tacit_allreduce(slots[0], x, x, TACIT_AVERAGE));
        MUST(tacit_allreduce(slots[1], y, y, TACIT_AVERAGE));
        MUST(tacit_group_end(comm, NULL));
        MUST(tacit_slot_set_spec(slots[0], step == 0 ? "powersgd:rank=3+ef" : "powersgd:rank=1+ef"));
    }
    memcpy(out[rank], x, sizeof out[rank]);
    give(TACIT_CUDA, x);
    give(TACIT_CUDA, y);
}

START_TEST(matrices)
{
    static float out[3][1200];

    run_ranks(3, NULL, reduce_matrix, out);
    ck_assert(out[0][0] != 0 && isfinite(out[0][0]));
    ck_assert_int_eq(memcmp(out[0], out[1], sizeof out[0]), 0);
    ck_assert_int_eq(memcmp(out[0], out[2], sizeof out[0]), 0);
}
END_TEST

/* ---- No memory ---- */

typedef struct poor {
    pthread_barrier_t barrier;
    tacit_status_t    status[2];
    uint64_t          nth;
} poor_t;

static void be_poor(tacit_comm_t *comm, void *arg)
{
    poor_t       *poor = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = make_slot(comm, TACIT_CUDA, "slot", 900, TACIT_FLOAT32, "onebit:block=64+ef");
    float        *x = get(TACIT_CUDA, 900 * sizeof *x);

    harness_fill(x, 900, (uint64_t)rank, 1.0f);
    (void)pthread_barrier_wait(&poor->barrier);
    if (rank == 0) {
        tacit__alloc_fail_after(poor->nth);
    }
    (void)pthread_barrier_wait(&poor->barrier);
    poor->status[rank] = tacit_allreduce(slot, x, x, TACIT_SUM);
    (void)pthread_barrier_wait(&poor->barrier);
    tacit__alloc_fail_after(0);
    (void)pthread_barrier_wait(&poor->barrier);
    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    give(TACIT_CUDA, x);
}

/* Whichever allocation fails, of whichever rank. */
START_TEST(no_memory)
{
    poor_t poor = {.nth = 0};

    pthread_barrier_init(&poor.barrier, NULL, 2);
    do {
        poor.nth++;
        run_ranks(2, NULL, be_poor, &poor);
        ck_assert_int_eq(poor.status[0], poor.status[1]);
        ck_assert(poor.status[0] == TACIT_ERR_MEMORY || poor.status[0] == TACIT_OK);
    } while (poor.status[0] != TACIT_OK);
    ck_assert_uint_gt(poor.nth, 10);
    pthread_barrier_destroy(&poor.barrier);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tcase;

#ifdef TACIT_EMULATED
    use_deferred();
#endif
    if (gpu_is_missing() || tacit__cuda_module(&module) != TACIT_OK) {
        return GPU_SKIPPED;
    }
    suite = suite_create("device");
    tcase = tcase_create("device");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, as_on_the_cpu, 0, SCENARIOS);
    tcase_add_loop_test(tcase, faults_are_common, 0, FAULTS);
    tcase_add_test(tcase, late_rank);
    tcase_add_loop_test(tcase, by_turns, 0, 2);
    tcase_add_test(tcase, given_stream);
    tcase_add_test(tcase, as_other_slots);
    tcase_add_test(tcase, refused);
    tcase_add_test(tcase, matrices);
    tcase_add_test(tcase, no_memory);
#ifdef TACIT_EMULATED
    tcase_add_test(tcase, stuck_gpu);
    tcase_add_test(tcase, last_launch);
#endif
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
