/* SPDX-License-Identifier: Apache-2.0 */
/* Feedback within an encoder's own pass: the bytes and the memory are those of adding, encoding and subtracting one after the
   other, for every compressor, in every form. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bits.h"
#include "harness.h"
#include "isa.h"
#include "spec.h"

static const char *const specs[] = {
    "none",
    "fp16",
    "bf16",
    "fp8",
    "fp8:block=32",
    "fp8:format=e5m2",
    "onebit",
    "onebit:norm=l1",
    "onebit:block=32",
    "onebit:block=8192",
    "onebit:block=0",
    "qsgd:bits=1,rounding=stochastic",
    "qsgd:bits=2",
    "qsgd:bits=3",
    "qsgd:bits=4,rounding=nearest",
    "qsgd:bits=5",
    "qsgd:bits=6,block=32",
    "qsgd:bits=7,rounding=nearest",
    "qsgd:bits=8,rounding=nearest",
    "qsgd:bits=8,block=4096",
    "rotq:bits=1",
    "rotq:bits=2",
    "rotq:bits=3",
    "rotq:bits=4",
};
enum { SPECS = sizeof specs / sizeof *specs, MOST = 5000 };

static const size_t counts[] = {0, 1, 7, 31, 63, 64, 65, 255, 256, 257, 1000, 2047, 2048, 2049, 4096, MOST};

typedef struct case_data {
    float   in[MOST + 1], memory[MOST + 1], now[MOST + 1], next[MOST + 1], a[MOST], decoded[MOST];
    uint8_t payload[8 * MOST + 64], expected[8 * MOST + 64];
} case_data_t;

static case_data_t data;

/* scale 0: ordinary numbers; 1: tiny ones; 2: huge ones that cancel; 3: all the same. */
static void fill(size_t count, int kind, uint64_t seed)
{
    static const float scales[] = {1.0f, 0x1p-120f, 0x1p120f, 0.0f};
    harness_random_t   random = {seed};

    for (size_t i = 0; i < count; i++) {
        data.in[i] = scales[kind] * (float)harness_normal(&random) + (kind == 3 ? 0.75f : 0);
        data.memory[i] = kind == 2 ? -data.in[i] * 0.75f : scales[kind] * (float)harness_normal(&random);
    }
}

static void expect(const tacit_kernels_t *scalar, const tacit_block_t *block, uint32_t *faults_out)
{
    for (size_t i = 0; i < block->count; i++) {
        data.a[i] = data.in[i] + data.memory[i];
    }
    *faults_out = scalar->encode(block, data.a, data.expected, data.decoded);
}

static void check_memory(const float *next, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        const float kept = data.a[i] - data.decoded[i];

        ck_assert_msg(tacit__float_bits(next[i]) == tacit__float_bits(kept), "%s: element %zu keeps %a, not %a", what, i,
                      (double)next[i], (double)kept);
    }
}

/* Where memory is one array, and where it is two, also at an address of its own. */
static void check_one(const tacit_compressor_t *compressor, int isa, const tacit_block_t *block, size_t bytes, const char *what)
{
    const tacit_kernels_t *kernels = compressor->kernels[isa];
    const size_t           count = block->count;
    size_t                 done = SIZE_MAX;
    uint32_t               faults;
    tacit_ef_t             ef = {.in = data.in, .now = data.now, .next = data.now};

    expect(compressor->kernels[TACIT_ISA_SCALAR], block, &faults);
    ck_assert_msg(faults == 0, "%s: not what was meant to be tested", what);
    memcpy(data.now, data.memory, sizeof data.now);
    ck_assert_uint_eq(kernels->encode_ef(block, &ef, data.payload, &done), 0);
    ck_assert_uint_eq(done, count);
    ck_assert_msg(memcmp(data.payload, data.expected, bytes) == 0, "%s: other bytes", what);
    check_memory(data.now, count, what);

    ef = (tacit_ef_t){.in = data.in, .now = data.memory, .next = data.next + 1};
    data.next[count < MOST ? count + 1 : 0] = 42.0f;
    ck_assert_uint_eq(kernels->encode_ef(block, &ef, data.payload, &done), 0);
    ck_assert_msg(memcmp(data.payload, data.expected, bytes) == 0, "%s: other bytes, memory doubled", what);
    check_memory(data.next + 1, count, what);
    ck_assert_msg(data.next[count < MOST ? count + 1 : 0] == 42.0f, "%s: something is written behind the memory", what);
}

static void each(int s, void (*check)(const tacit_compressor_t *compressor, int isa, const tacit_block_t *block, size_t bytes,
                                      const char *what))
{
    tacit_spec_t spec = {0};

    ck_assert_int_eq(tacit__spec_parse(specs[s], &spec), TACIT_OK);
    for (int isa = 0; isa <= (int)tacit__isa(); isa++) {
        if (spec.compressor->kernels[isa] == NULL) {
            continue;
        }
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            for (int kind = 0; kind < 4; kind++) {
                const tacit_block_t block = {spec.compressor_config, {1, 2, 3, 4}, 0, counts[c]};
                char                what[200];

                snprintf(what, sizeof what, "%s (%s), %zu elements, kind %d", specs[s], tacit__isa_name((tacit_isa_t)isa),
                         counts[c], kind);
                fill(counts[c], kind, 17 * c + (size_t)kind);
                check(spec.compressor, isa, &block, spec.compressor->bound(spec.compressor_config, counts[c]), what);
            }
        }
    }
    tacit__spec_release(&spec);
}

START_TEST(same_as_one_after_the_other)
{
    each(_i, check_one);
}
END_TEST

/* Of what comes before the grain with the fault, bytes and memory are made; the rest of memory is as before, to within an ulp of
   the sum that was on its way. */
static void check_fault(const tacit_compressor_t *compressor, int isa, const tacit_block_t *block, size_t bytes, const char *what)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};
    const size_t       count = block->count, bad = count / 2;
    uint32_t           faults;
    size_t             done = SIZE_MAX;
    const tacit_ef_t   ef = {.in = data.in, .now = data.now, .next = data.now};

    (void)bytes;
    if (count == 0) {
        return;
    }
    expect(compressor->kernels[TACIT_ISA_SCALAR], block, &faults);
    data.in[bad] = values[count % 3];
    memcpy(data.now, data.memory, sizeof data.now);
    ck_assert_msg(compressor->kernels[isa]->encode_ef(block, &ef, data.payload, &done) == TACIT_FAULT_NONFINITE, "%s: no fault",
                  what);
    ck_assert_msg(done <= bad, "%s: %zu elements are done, with the fault at %zu", what, done, bad);
    check_memory(data.now, done, what);
    for (size_t i = done; i < count; i++) {
        const float bound = 0x1p-23f * fmaxf(fabsf(data.a[i]), fabsf(data.memory[i]));

        ck_assert_msg(fabsf(data.now[i] - data.memory[i]) <= (i == bad ? 0 : bound), "%s: element %zu of memory is %a, was %a",
                      what, i, (double)data.now[i], (double)data.memory[i]);
    }
}

START_TEST(fault_leaves_memory)
{
    each(_i, check_fault);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("encode_ef");
    TCase *tests = tcase_create("encode_ef");

    tcase_add_loop_test(tests, same_as_one_after_the_other, 0, SPECS);
    tcase_add_loop_test(tests, fault_leaves_memory, 0, SPECS);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
