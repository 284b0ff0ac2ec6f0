/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles with matrices, on a GPU: the same on all ranks, and what the CPU has, to within rounding. */
#include <stddef.h>

/* Around the edges of patches and of blocks of them; the last ones stay dense. */
static const size_t shapes[][2] = {{40, 48}, {37, 53}, {140, 132}, {17, 1100}, {290, 17}, {33, 256}, {1, 300}, {1, 0}};
static size_t       counts[sizeof shapes / sizeof *shapes];
enum { MATRICES = 6 };

#include "bundle.h"
#include "nets.h"

static void shape(void)
{
    for (size_t t = 0; t < TENSORS; t++) {
        counts[t] = shapes[t][0] * shapes[t][1];
        columns[t] = t < MATRICES ? shapes[t][1] : 0;
    }
}

/* ---- Steps ---- */

static void matrices(net_t *net, uint64_t step)
{
    float *x = malloc(100000 * sizeof *x);

    for (int rank = 0; rank < net->setup.ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            void *const in = net->nodes[rank].in[t];

            harness_fill(x, counts[t], 1000 * step + (uint64_t)(100 * rank + t), 1.0f);
            if (net->setup.dtype == TACIT_FLOAT16) {
                tacit__float16_narrow(x, in, counts[t]);
            } else if (net->setup.dtype == TACIT_BFLOAT16) {
                tacit__bfloat16_narrow(x, in, counts[t]);
            } else {
                memcpy(in, x, counts[t] * sizeof *x);
            }
            memset(net->nodes[rank].out[t], 0x55, bytes_of(net->setup.dtype, counts[t]));
        }
    }
    free(x);
}

static void step_well(net_t *net, uint64_t step)
{
    encode(net, step);
    reduce(net);
    SUCCEEDS(finish(net));
}

static void widen(const setup_t *setup, const void *from, size_t count, float *x)
{
    if (setup->dtype == TACIT_FLOAT16) {
        tacit__float16_widen(from, x, count);
    } else if (setup->dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_widen(from, x, count);
    } else {
        memcpy(x, from, count * sizeof *x);
    }
}

/* Sums in another order, and what comes of them in the next steps: in units of the largest number, or of what was given. Or not
   finite, on both. */
static void close_to(const float *cpu, const float *gpu, size_t count, float within, const setup_t *setup, const char *what,
                     int rank, int tensor)
{
    float largest = 1;

    for (size_t i = 0; i < count; i++) {
        largest = isfinite(cpu[i]) ? fmaxf(largest, fabsf(cpu[i])) : largest;
    }
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(isfinite(cpu[i]) ? fabsf(cpu[i] - gpu[i]) <= within * largest : !isfinite(gpu[i]),
                      "'%s' of dtype %d, %d ranks: %s of rank %d, tensor %d: number %zu is %.9g on the CPU, %.9g on the GPU",
                      setup->spec, (int)setup->dtype, setup->ranks, what, rank, tensor, i, (double)cpu[i], (double)gpu[i]);
    }
}

static void like(const net_t *cpu, const net_t *gpu)
{
    const setup_t *setup = &cpu->setup;
    const float    within = setup->dtype == TACIT_FLOAT32 ? 1e-4f : 0x1p-7f;
    float         *one = malloc(100000 * sizeof *one), *two = malloc(100000 * sizeof *two);

    for (int rank = 0; rank < setup->ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            tacit_codec_t *codec = cpu->nodes[rank].codecs[t], *twin = gpu->nodes[rank].codecs[t];

            widen(setup, cpu->nodes[rank].out[t], counts[t], one);
            widen(setup, gpu->nodes[rank].out[t], counts[t], two);
            close_to(one, two, counts[t], within, setup, "what comes out", rank, t);
            tacit__codec_settle(twin);
            close_to(codec->work, twin->work, codec->work_count, within, setup, "what is kept", rank, t);
            for (int array = 0; array < TACIT_STATE_ARRAYS && codec->memory.now[array] != NULL; array++) {
                close_to(codec->memory.now[array], twin->memory.now[array], counts[t], within, setup, "memory", rank, t);
            }
        }
    }
    free(one);
    free(two);
}

/* All that ranks must have in common. */
static void alike(const net_t *net)
{
    const node_t *first = &net->nodes[0];

    for (int rank = 1; rank < net->setup.ranks; rank++) {
        const node_t *node = &net->nodes[rank];

        for (int t = 0; t < TENSORS; t++) {
            ck_assert(memcmp(first->out[t], node->out[t], bytes_of(net->setup.dtype, counts[t])) == 0);
            ck_assert(memcmp(first->codecs[t]->work, node->codecs[t]->work, node->codecs[t]->work_count * sizeof(float)) == 0);
        }
    }
}

static void run_close(const setup_t *setup)
{
    net_t cpu, gpu;

    nets_init(&cpu, &gpu, setup);
    for (uint64_t step = 0; step < STEPS; step++) {
        matrices(&cpu, step);
        matrices(&gpu, step);
        step_well(&cpu, step);
        step_well(&gpu, step);
        like(&cpu, &gpu);
        alike(&gpu);
    }
    net_free(&cpu);
    net_free(&gpu);
}

/* Kernels that run on the CPU are slow: of pairs of combinations one, by turns the first and the second. */
#ifdef TACIT_EMULATED
enum { SHARE = 2 };
#else
enum { SHARE = 1 };
#endif

static int nth(int i)
{
    return SHARE * i + (SHARE - 1) * (i % 2);
}

/* ---- What is right ---- */

static const char *const specs[] = {
    "powersgd:rank=2+ef",
    "powersgd",
    "powersgd:rank=1+ef",
    "powersgd:rank=5,rate=1+ef21:average=0.5",
    "powersgd:rank=3+econtrol:eta=0.1",
    "powersgd:rank=17,rate=0+ef",
    "powersgd:rank=4+ef21",
};
enum { SPECS = sizeof specs / sizeof *specs };

START_TEST(every_spec)
{
    const tacit_op_t op = _i % 2 == 0 ? TACIT_AVERAGE : TACIT_SUM;

    run_close(&(setup_t){.spec = specs[_i], .op = op, .ranks = 3});
    if (nth(_i / SHARE) == _i) {
        run_close(&(setup_t){.spec = specs[_i], .op = op, .ranks = 1});
    }
}
END_TEST

START_TEST(halves)
{
    const setup_t setup = {.spec = specs[_i], .dtype = _i % 2 == 0 ? TACIT_FLOAT16 : TACIT_BFLOAT16, .ranks = 2};

    run_close(&setup);
}
END_TEST

START_TEST(doubled)
{
    run_close(&(setup_t){.spec = specs[nth(_i)], .ranks = 4, .strict = 1});
}
END_TEST

/* NaN and infinity pass, and are forgotten, or count as zero. */
START_TEST(what_is_not_finite)
{
    static const char *const some[] = {"powersgd:rank=2+ef", "powersgd:rank=2", "powersgd+ef21"};
    const int                which = nth(_i);
    const setup_t            setup = {.spec = some[which / 4],
                                      .ranks = 2,
                                      .strict = which / 2 % 2,
                                      .nonfinite = which % 2 ? TACIT_NONFINITE_SKIP : TACIT_NONFINITE_PASS};
    net_t                    nets[2];

    nets_init(&nets[0], &nets[1], &setup);
    for (uint64_t step = 0; step < STEPS; step++) {
        for (int device = 0; device < 2; device++) {
            matrices(&nets[device], step);
            spoil(setup.dtype, nets[device].nodes[0].in[0], 100, step == 1 ? NAN : 1);
            spoil(setup.dtype, nets[device].nodes[1].in[2], 4000, step == 1 ? INFINITY : 1);
            spoil(setup.dtype, nets[device].nodes[1].in[MATRICES], 7, step == 1 ? -INFINITY : 1);
            step_well(&nets[device], step);
        }
        like(&nets[0], &nets[1]);
    }
    net_free(&nets[0]);
    net_free(&nets[1]);
}
END_TEST

/* With others in the bundle, whose bytes are those of the CPU. */
START_TEST(mixed)
{
    const setup_t setup = {.spec = "powersgd:rank=2+ef", .ranks = 3, .op = TACIT_AVERAGE};
    net_t         cpu, gpu;

    others[1] = "topk:ratio=0.1+ef";
    others[2] = "onebit+ef";
    others[4] = "randk:ratio=0.1+ef21";
    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < STEPS; step++) {
        matrices(&cpu, step);
        matrices(&gpu, step);
        step_well(&cpu, step);
        step_well(&gpu, step);
        like(&cpu, &gpu);
        alike(&gpu);
        for (int t = 1; t < 5; t++) {
            if (others[t] != NULL) {
                same(cpu.nodes[2].out[t], gpu.nodes[2].out[t], 4 * counts[t], &setup, "what comes out", 2, t);
            }
        }
    }
    net_free(&cpu);
    net_free(&gpu);
    memset(others, 0, sizeof others);
}
END_TEST

/* ---- States ---- */

typedef struct states {
    uint8_t *bytes[MOST_RANKS][TENSORS];
    size_t   count[MOST_RANKS][TENSORS];
} states_t;

static states_t states_of(const net_t *net)
{
    states_t states;

    for (int rank = 0; rank < net->setup.ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            size_t *count = &states.count[rank][t];

            SUCCEEDS(tacit_codec_save(net->nodes[rank].codecs[t], NULL, 0, count));
            states.bytes[rank][t] = malloc(*count);
            SUCCEEDS(tacit_codec_save(net->nodes[rank].codecs[t], states.bytes[rank][t], *count, count));
        }
    }
    return states;
}

static void states_free(const net_t *net, states_t *states)
{
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            free(states->bytes[rank][t]);
        }
    }
}

/* Of matrices: others are as they were to within rounding. */
static void unchanged(const net_t *net, const states_t *were)
{
    states_t are = states_of(net);

    for (int rank = 0; rank < net->setup.ranks; rank++) {
        for (int t = 0; t < MATRICES; t++) {
            ck_assert_uint_eq(are.count[rank][t], were->count[rank][t]);
            ck_assert(memcmp(are.bytes[rank][t], were->bytes[rank][t], are.count[rank][t]) == 0);
        }
    }
    states_free(net, &are);
}

static void same_out(const net_t *one, const net_t *other)
{
    for (int rank = 0; rank < one->setup.ranks; rank++) {
        for (int t = 0; t < MATRICES; t++) {
            ck_assert(memcmp(one->nodes[rank].out[t], other->nodes[rank].out[t], bytes_of(one->setup.dtype, counts[t])) == 0);
        }
    }
}

/* A step of the bundle's own count, where it was before: as a graph replays it. Results may lie where the input was. */
START_TEST(replayed)
{
    const setup_t setup = {.spec = "powersgd:rank=3+ef", .ranks = 2};
    net_t         one, other;

    net_init(&one, &setup, TACIT_CUDA);
    net_init(&other, &setup, TACIT_CUDA);
    for (uint64_t step = 0; step < 4; step++) {
        matrices(&one, step);
        matrices(&other, step);
        step_well(&one, step);
        encode(&other, TACIT_STEP_NEXT);
        reduce(&other);
        for (int rank = 0; rank < setup.ranks; rank++) {
            SUCCEEDS(tacit_bundle_finish(other.nodes[rank].bundle, other.nodes[rank].gathered, other.nodes[rank].in));
            SUCCEEDS(tacit_bundle_poll(other.nodes[rank].bundle, 0));
            for (int t = 0; t < TENSORS; t++) {
                memcpy(other.nodes[rank].out[t], other.nodes[rank].in[t], bytes_of(setup.dtype, counts[t]));
            }
        }
        same_out(&one, &other);
    }
    net_free(&one);
    net_free(&other);
}
END_TEST

START_TEST(saved_and_loaded)
{
    const setup_t setup = {.spec = specs[nth(_i)], .ranks = 2, .strict = _i % 2};
    net_t         one, other;
    states_t      states;

    net_init(&one, &setup, TACIT_CUDA);
    net_init(&other, &setup, TACIT_CUDA);
    for (uint64_t step = 0; step < 3; step++) {
        matrices(&one, step);
        step_well(&one, step);
    }
    states = states_of(&one);
    for (int rank = 0; rank < setup.ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            SUCCEEDS(tacit_codec_load(other.nodes[rank].codecs[t], states.bytes[rank][t], states.count[rank][t]));
        }
    }
    matrices(&one, 3);
    matrices(&other, 3);
    step_well(&one, 3);
    step_well(&other, 3);
    same_out(&one, &other);
    tacit_codec_reset(other.nodes[0].codecs[0]);
    ck_assert(other.nodes[0].codecs[0]->work[0] == 0);
    states_free(&one, &states);
    net_free(&one);
    net_free(&other);
}
END_TEST

/* ---- What goes wrong: memory of matrices stays as it is ---- */

static void reseal(uint8_t *message)
{
    tacit_frame_t frame = tacit__frame_read(message);

    tacit__frame_write(&frame, message);
}

static uint8_t *first_place(const net_t *net, size_t whole)
{
    const tacit_bundle_t *bundle = net->nodes[1].bundle;

    return net->nodes[0].received + TACIT_FRAME_HEADER_BYTES + bundle->part_bytes[0] + bundle->wholes[whole].first_at;
}

enum { VALUE, SUM, FIRST_SUM, DAMAGE, FIRST_PLACE, PLACE, CANCELLED, CANCELLED_LATE, MISHAPS };
static const struct {
    tacit_status_t status;
    const char    *words;
} told[MISHAPS] = {
    [VALUE] = {TACIT_ERR_VALUE, "rank 1: slot 'tensor 2' at step 2 holds NaN"},
    [SUM] = {TACIT_ERR_VALUE, "slot 'tensor 4' at step 2: the sum over 2 ranks"},
    [FIRST_SUM] = {TACIT_ERR_VALUE, "slot 'tensor 0' at step 2: the sum over 2 ranks"},
    [DAMAGE] = {TACIT_ERR_FRAME, "message from rank 1"},
    [FIRST_PLACE] = {TACIT_ERR_FRAME, "what rank 1 has sent of slot 'tensor 3'"},
    [PLACE] = {TACIT_ERR_FRAME, "what rank 1 has sent of slot 'tensor 5'"},
};

static void spoil_input(net_t *net, int mishap)
{
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        if (mishap == VALUE && rank == 1) {
            spoil(TACIT_FLOAT32, net->nodes[rank].in[2], 18479, NAN);
        } else if (mishap == SUM) {
            spoil(TACIT_FLOAT32, net->nodes[rank].in[4], 17, 3e38f);
        } else if (mishap == FIRST_SUM) {
            for (size_t i = 0; i < 48; i++) {
                spoil(TACIT_FLOAT32, net->nodes[rank].in[0], i, net->nodes[0].codecs[0]->work[i] < 0 ? -3e38f : 3e38f);
            }
        }
    }
}

static void step_badly(net_t *net, int mishap)
{
    char text[300] = "";

    spoil_input(net, mishap);
    encode(net, 2);
    if (mishap == DAMAGE) {
        first_place(net, 2)[77] ^= 4;
    } else if (mishap == FIRST_PLACE) {
        first_place(net, 3)[0] ^= 4;
        reseal(net->nodes[0].received);
    }
    if (mishap != CANCELLED) {
        reduce(net);
    }
    if (mishap == PLACE) {
        const tacit_bundle_t *bundle = net->nodes[1].bundle;

        net->nodes[1].own[TACIT_FRAME_HEADER_BYTES + bundle->part_bytes[1] + bundle->wholes[5].at] ^= 4;
        reseal(net->nodes[1].own);
        all_gather(net);
    }
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        if (mishap >= CANCELLED) {
            tacit_bundle_cancel(net->nodes[rank].bundle);
            continue;
        }
        SUCCEEDS(tacit_bundle_finish(net->nodes[rank].bundle, net->nodes[rank].gathered, net->nodes[rank].out));
        ck_assert_int_eq(tacit_bundle_poll(net->nodes[rank].bundle, 0), told[mishap].status);
        ck_assert_msg(strstr(tacit_last_error(), told[mishap].words) != NULL, "%s", tacit_last_error());
        ck_assert(rank == 0 || strcmp(text, tacit_last_error()) == 0);
        snprintf(text, sizeof text, "%s", tacit_last_error());
        for (int t = 0; t < TENSORS; t++) {
            ck_assert(counts[t] == 0 || *(uint8_t *)net->nodes[rank].out[t] == 0x55);
        }
    }
    settle(net);
}

START_TEST(mishaps)
{
    const int     which = nth(_i);
    const setup_t setup = {.spec = specs[which % 2 * 6], .ranks = 2, .strict = which / 2 % 2};
    net_t         net, well;
    states_t      were;

    net_init(&net, &setup, TACIT_CUDA);
    net_init(&well, &setup, TACIT_CUDA);
    for (uint64_t step = 0; step < 4; step++) {
        matrices(&net, step);
        if (step == 2) {
            were = states_of(&net);
            step_badly(&net, which / 2);
            unchanged(&net, &were);
            states_free(&net, &were);
        } else {
            matrices(&well, step);
            step_well(&net, step);
            step_well(&well, step);
            same_out(&net, &well); /* as if nothing had been */
        }
    }
    net_free(&net);
    net_free(&well);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *cases;

    if (!nets_begin()) {
        return GPU_SKIPPED;
    }
    shape();
    suite = suite_create("powersgd");
    cases = tcase_create("powersgd");
    tcase_set_timeout(cases, 300);
    tcase_add_loop_test(cases, mishaps, 0, 2 * MISHAPS / SHARE);
    tcase_add_loop_test(cases, every_spec, 0, SPECS);
    tcase_add_loop_test(cases, halves, 0, 4);
    tcase_add_loop_test(cases, doubled, 0, 4 / SHARE);
    tcase_add_loop_test(cases, what_is_not_finite, 0, 12 / SHARE);
    tcase_add_test(cases, mixed);
    tcase_add_test(cases, replayed);
    tcase_add_loop_test(cases, saved_and_loaded, 0, 4 / SHARE);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
