/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles of tensors on a GPU: every message, result and memory has the bits that the CPU's have. With TACIT_EMULATED the kernels
   run on the CPU (emulation.h); otherwise, where there is no GPU, the test is skipped. */
#include <stddef.h>

/* Counts around the edges of rows, records, units and parts. */
static const size_t counts[] = {5000, 0, 1, 777, 256, 2048, 6149, 65, 33};

#include "nets.h"

/* ---- Tests ---- */

static const char *const specs[] = {
    "none",
    "none+ef",
    "fp16+ef",
    "bf16+ef21:average=0.3",
    "bf16",
    "fp8+ef",
    "fp8:format=e5m2,block=96",
    "fp8:block=512,own=coded+ef",
    "onebit+ef",
    "onebit:block=64,norm=l1+ef",
    "onebit:block=0+ef",
    "onebit:block=4096,own=coded+ef",
    "onebit:block=512+econtrol:eta=0.2",
    "onebit+ef21",
    "qsgd+ef",
    "qsgd:bits=8+ef",
    "qsgd:bits=3,block=96",
    "qsgd:bits=1,block=32",
    "qsgd:bits=7,block=1024+ef",
    "qsgd:bits=2,rounding=nearest,own=coded+econtrol:eta=0.1",
    "rotq+ef",
    "rotq:bits=1+ef",
    "rotq:bits=3",
    "rotq:bits=4,own=coded+ef21",
    "onebit+ef:residual=bf16",
    "qsgd+ef:residual=int8",
    "fp16+econtrol:eta=0.2,residual=int8",
    "onebit:block=0+ef:residual=int8",
    "rotq+ef21:average=0.5,residual=bf16",
};
enum { SPECS = sizeof specs / sizeof *specs };

START_TEST(every_spec)
{
    const tacit_op_t op = _i % 2 == 0 ? TACIT_AVERAGE : TACIT_SUM;

    run_both(&(setup_t){.spec = specs[_i], .op = op, .ranks = 3});
}
END_TEST

START_TEST(halves)
{
    const setup_t setup = {.spec = specs[_i * 3 % SPECS], .dtype = _i % 2 == 0 ? TACIT_FLOAT16 : TACIT_BFLOAT16, .ranks = 2};

    run_both(&setup);
}
END_TEST

START_TEST(strict_memory)
{
    run_both(&(setup_t){.spec = "onebit:block=64+ef", .ranks = 2, .strict = 1});
    run_both(&(setup_t){.spec = "qsgd+econtrol:eta=0.1", .ranks = 3, .strict = 1});
    run_both(&(setup_t){.spec = "qsgd+ef:residual=int8", .ranks = 2, .strict = 1});
}
END_TEST

START_TEST(one_rank_and_four)
{
    run_both(&(setup_t){.spec = "onebit+ef", .ranks = 1});
    run_both(&(setup_t){.spec = "qsgd:own=coded+ef", .ranks = 1});
    run_both(&(setup_t){.spec = "fp8+ef", .ranks = 4, .op = TACIT_AVERAGE});
}
END_TEST

/* NaN and infinity pass, or count as zero, as on the CPU. */
START_TEST(what_is_not_finite)
{
    static const char *const some[] = {"none+ef",   "fp16+ef", "fp8+ef", "onebit:block=64+ef",
                                       "qsgd+ef21", "rotq+ef", "bf16",   "fp16+econtrol:eta=0.2,residual=int8"};

    for (int skip = 0; skip < 2; skip++) {
        const setup_t setup = {.spec = some[_i], .ranks = 2, .nonfinite = skip ? TACIT_NONFINITE_SKIP : TACIT_NONFINITE_PASS};

        run_spoiled(&setup);
    }
}
END_TEST

/* The step fails on all ranks, nothing is written, memory is as before to within rounding, and the next step works. */
START_TEST(a_value_is_everybodys_fault)
{
    static const char *const some[] = {"onebit:block=64+ef", "qsgd+econtrol:eta=0.1", "fp16+ef21:average=0.5",
                                       "rotq:own=coded+ef"};
    const setup_t            setup = {.spec = some[_i], .ranks = 3};
    net_t                    cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 4; step++) {
        inputs(&cpu, step);
        inputs(&gpu, step);
        for (int t = 0; t < TENSORS; t++) { /* what is huge cannot be taken back */
            for (int rank = 0; rank < setup.ranks; rank++) {
                harness_fill(cpu.nodes[rank].in[t], counts[t], step, 1.0f);
                harness_fill(gpu.nodes[rank].in[t], counts[t], step, 1.0f);
            }
        }
        if (step != 2) {
            step_both(&cpu, &gpu, step);
            same_memory(&cpu, &gpu);
            continue;
        }
        spoil(setup.dtype, gpu.nodes[1].in[0], 3210, NAN);
        encode(&gpu, step);
        reduce(&gpu);
        ck_assert_int_eq(finish(&gpu), TACIT_ERR_VALUE);
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "rank 1: slot 'tensor 0' at step 2 holds NaN"));
        for (size_t i = 0; i < bytes_of(setup.dtype, counts[0]); i++) {
            ck_assert_uint_eq(((uint8_t *)gpu.nodes[2].out[0])[i], 0x55);
        }
        for (int rank = 0; rank < setup.ranks; rank++) {
            for (int t = 0; t < TENSORS; t++) {
                tacit_codec_t *codec = gpu.nodes[rank].codecs[t], *twin = cpu.nodes[rank].codecs[t];

                for (int array = 0; array < TACIT_STATE_ARRAYS; array++) {
                    for (size_t i = 0; codec->memory.now[array] != NULL && i < counts[t]; i++) {
                        ck_assert_float_eq_tol(codec->memory.now[array][i], twin->memory.now[array][i], 1e-5f);
                        codec->memory.now[array][i] = twin->memory.now[array][i];
                    }
                }
            }
        }
        ck_assert_int_eq(tacit_bundle_poll(gpu.nodes[0].bundle, 0), TACIT_OK);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* Damage is found, whichever byte it is in, and tells on all ranks. */
START_TEST(damage)
{
    const setup_t setup = {.spec = "onebit:block=64+ef", .ranks = 2};
    net_t         gpu;

    net_init(&gpu, &setup, TACIT_CUDA);
    for (uint64_t step = 0; step < 40; step++) {
        node_t *node = &gpu.nodes[1];

        inputs(&gpu, step);
        encode(&gpu, step);
        node->received[step * 19 % node->received_bytes] ^= 0x10;
        reduce(&gpu);
        ck_assert_int_eq(finish(&gpu), TACIT_ERR_FRAME);
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "message from rank 0"));
    }
    inputs(&gpu, 40);
    encode(&gpu, 40);
    reduce(&gpu);
    SUCCEEDS(finish(&gpu));
    net_free(&gpu);
}
END_TEST

/* Other specs, or another step, are a mismatch. */
START_TEST(mismatch)
{
    const setup_t setup = {.spec = "onebit:block=64+ef", .ranks = 2};
    net_t         gpu;

    net_init(&gpu, &setup, TACIT_CUDA);
    inputs(&gpu, 0);
    for (int rank = 0; rank < 2; rank++) {
        node_t *node = &gpu.nodes[rank];
        SUCCEEDS(tacit_bundle_encode(node->bundle, (uint64_t)rank, (const void *const *)node->in, node->sent));
    }
    settle(&gpu);
    all_to_all(&gpu);
    reduce(&gpu);
    ck_assert_int_eq(finish(&gpu), TACIT_ERR_MISMATCH);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "another step"));
    net_free(&gpu);
}
END_TEST

/* cancel() brings memory back, and TACIT_STEP_NEXT counts. */
START_TEST(cancelled)
{
    const setup_t setup = {.spec = "qsgd+ef", .ranks = 2};
    net_t         cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 2; step++) {
        inputs(&cpu, step);
        inputs(&gpu, step);
        step_both(&cpu, &gpu, TACIT_STEP_NEXT);
    }
    inputs(&gpu, 7);
    for (int t = 0; t < TENSORS; t++) {
        harness_fill(gpu.nodes[0].in[t], counts[t], 3, 1.0f);
    }
    encode(&gpu, 2);
    for (int rank = 0; rank < 2; rank++) {
        tacit_bundle_cancel(gpu.nodes[rank].bundle);
        SUCCEEDS(tacit_bundle_poll(gpu.nodes[rank].bundle, 0));
    }
    settle(&gpu);
    for (size_t i = 0; i < 64; i++) {
        ck_assert_float_eq_tol(gpu.nodes[0].codecs[0]->memory.now[0][i], cpu.nodes[0].codecs[0]->memory.now[0][i], 1e-5f);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* What is not there on GPUs is refused when a codec is made, and codec calls when they are made. */
START_TEST(refused)
{
    static const char *const not_there[] = {"powersgd+ef:residual=int8"};
    tacit_slot_config_t      tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t           *codec;
    float                    x[64] = {0};
    uint8_t                  frame[512];
    size_t                   bytes;

    tensor.count = 64;
    tensor.device = TACIT_CUDA;
    for (size_t i = 0; i < sizeof not_there / sizeof *not_there; i++) {
        tensor.spec = not_there[i];
        ck_assert_int_eq(tacit_codec_create("x", &tensor, NULL, 0, 1, &codec), TACIT_ERR_UNSUPPORTED);
    }
    tensor.spec = "onebit+ef";
    SUCCEEDS(tacit_codec_create("x", &tensor, NULL, 0, 1, &codec));
    ck_assert_int_eq(tacit_encode(codec, 0, x, 0, 64, frame, sizeof frame, &bytes), TACIT_ERR_UNSUPPORTED);
    tacit_codec_destroy(codec);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *cases;

    if (!nets_begin()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("kernels");
    cases = tcase_create("kernels");
    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, every_spec, 0, SPECS);
    tcase_add_loop_test(cases, halves, 0, 8);
    tcase_add_test(cases, strict_memory);
    tcase_add_test(cases, one_rank_and_four);
    tcase_add_loop_test(cases, what_is_not_finite, 0, 8);
    tcase_add_loop_test(cases, a_value_is_everybodys_fault, 0, 4);
    tcase_add_test(cases, damage);
    tcase_add_test(cases, mismatch);
    tcase_add_test(cases, cancelled);
    tcase_add_test(cases, refused);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
