/* SPDX-License-Identifier: Apache-2.0 */
/* Sharded bundles on a GPU: every message, result and memory has the bits that the CPU's have, as kernels.c has it of others. */
#include <stddef.h>

static const size_t counts[] = {4200, 0, 2048, 777, 65, 33};

#include "nets.h"

enum { KINDS = 2 };
static const uint8_t both[KINDS] = {TACIT_BUNDLE_REDUCE_SCATTER, TACIT_BUNDLE_ALLGATHER};

/* Of every code, records narrow, long and wide, and every feedback. */
static const char *const specs[] = {
    "none+ef",
    "fp16",
    "bf16+ef",
    "fp8:own=coded+ef",
    "fp8:block=512",
    "onebit:block=64+ef",
    "onebit+ef",
    "onebit:block=0",
    "qsgd:bits=8",
    "qsgd:bits=4+ef21",
    "qsgd:bits=2,block=1024",
    "rotq:bits=4",
    "rotq:bits=3+ef",
    "onebit+econtrol:eta=0.2",
    "qsgd+ef:residual=int8",
    "fp16+ef21:average=0.5,residual=bf16",
};
enum { SPECS = sizeof specs / sizeof *specs };

START_TEST(every_spec)
{
    const int spec = _i / KINDS;

    run_both(&(setup_t){.spec = specs[spec],
                        .op = spec % 2 == 0 ? TACIT_AVERAGE : TACIT_SUM,
                        .dtype = (tacit_dtype_t)(spec % 3),
                        .ranks = 1 + spec % 3,
                        .strict = spec % 5 == 0,
                        .kind = both[_i % KINDS]});
}
END_TEST

START_TEST(what_is_not_finite)
{
    for (int skip = 0; skip < 2; skip++) {
        run_spoiled(&(setup_t){.spec = "fp16+ef",
                               .ranks = 2,
                               .nonfinite = skip ? TACIT_NONFINITE_SKIP : TACIT_NONFINITE_PASS,
                               .kind = both[_i % KINDS]});
    }
}
END_TEST

/* A fault of rank 1 in a tensor of its own, which it would send to nobody in a reduce-scatter: all return it, and memory is as
   before. */
START_TEST(a_value_is_everybodys_fault)
{
    const setup_t setup = {.spec = "onebit:block=64+ef", .ranks = 3, .strict = 1, .kind = both[_i % KINDS]};
    net_t         cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 4; step++) {
        inputs(&cpu, step);
        inputs(&gpu, step);
        if (step != 2) {
            step_both(&cpu, &gpu, step);
            same_memory(&cpu, &gpu);
            continue;
        }
        spoil(setup.dtype, gpu.nodes[1].in[4], 60, NAN);
        encode(&gpu, step);
        ck_assert_int_eq(finish(&gpu), TACIT_ERR_VALUE);
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "rank 1: slot 'tensor 4' at step 2 holds NaN"));
        for (size_t i = 0; i < bytes_of(setup.dtype, counts[0]); i++) {
            ck_assert_uint_eq(((uint8_t *)gpu.nodes[0].out[0])[i], 0x55);
        }
        same_memory(&cpu, &gpu);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* Of one rank too, which has no message that could tell. */
START_TEST(one_ranks_value)
{
    const setup_t setup = {.spec = "qsgd+ef", .ranks = 1, .kind = both[_i % KINDS]};
    net_t         gpu;

    net_init(&gpu, &setup, TACIT_CUDA);
    inputs(&gpu, 0);
    spoil(setup.dtype, gpu.nodes[0].in[3], 5, INFINITY);
    encode(&gpu, 0);
    ck_assert_int_eq(finish(&gpu), TACIT_ERR_VALUE);
    net_free(&gpu);
}
END_TEST

START_TEST(damage_and_cancel)
{
    const setup_t setup = {.spec = "qsgd+ef", .ranks = 2, .strict = 1, .kind = both[_i % KINDS]};
    net_t         cpu, gpu;
    node_t       *node = &gpu.nodes[1];

    nets_init(&cpu, &gpu, &setup);
    inputs(&cpu, 0);
    inputs(&gpu, 0);
    step_both(&cpu, &gpu, 0);
    inputs(&gpu, 1);
    encode(&gpu, 1);
    tacit_bundle_cancel(gpu.nodes[0].bundle);
    (setup.kind == TACIT_BUNDLE_ALLGATHER ? node->gathered : node->received)[90] ^= 2;
    SUCCEEDS(
        tacit_bundle_finish(node->bundle, setup.kind == TACIT_BUNDLE_ALLGATHER ? node->gathered : node->received, node->out));
    ck_assert_int_eq(tacit_bundle_poll(node->bundle, 0), TACIT_ERR_FRAME);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "message from rank 0"));
    settle(&gpu);
    nets_end(&cpu, &gpu);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *cases;

    if (!nets_begin()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("sharded");
    cases = tcase_create("sharded");
    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, every_spec, 0, SPECS * KINDS);
    tcase_add_loop_test(cases, what_is_not_finite, 0, KINDS);
    tcase_add_loop_test(cases, a_value_is_everybodys_fault, 0, KINDS);
    tcase_add_loop_test(cases, one_ranks_value, 0, KINDS);
    tcase_add_loop_test(cases, damage_and_cancel, 0, KINDS);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
