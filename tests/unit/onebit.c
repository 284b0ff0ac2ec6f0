/* SPDX-License-Identifier: Apache-2.0 */
/* `onebit`: a worked two-rank step with exact numbers, the scale held against its definition, signs, padding, ranges. */
#include "compress.h"

/* Encodes count elements as one record; the scale is what the payload starts with. */
static float scale_of(const char *spec_text, const float *a, size_t count, uint32_t faults)
{
    tacit_spec_t  spec = spec_of(spec_text);
    tacit_block_t block = block_of(&spec, 0, count);
    uint8_t      *payload = malloc(spec.compressor->bound(spec.compressor_config, count) + 1);
    float        *decoded = malloc(count * sizeof *decoded + 1);
    float         scale;

    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), faults);
    scale = tacit__bits_float(tacit__load32(payload));
    for (size_t i = 0; i < count && faults == 0; i++) {
        const float expected = a[i] >= 0 ? scale : -scale;
        same_floats(&decoded[i], &expected, 1, spec_text);
    }
    free(payload);
    free(decoded);
    tacit__spec_release(&spec);
    return scale;
}

/* Two ranks, 16 elements, one scale for a rank's whole tensor and one for an owner's half: all numbers are exact in float32. */
static const float rank_a[16] = {7, 1, -7, 1, -1, -7, 1, 7, -1, 7, 1, -7, 7, -1, 1, -7};
static const float rank_b[16] = {3.5f, -.5f, .5f, 3.5f, 3.5f, -.5f, -3.5f, -.5f, -.5f, 3.5f, 3.5f, -.5f, .5f, -3.5f, .5f, -3.5f};
static const float result[16] = {2.5f,   2.5f,  -2.5f, 2.5f,   -2.5f, -2.5f,  2.5f,  2.5f,
                                 -3.75f, 3.75f, 3.75f, -3.75f, 3.75f, -3.75f, 3.75f, -3.75f};

START_TEST(worked_example)
{
    tacit_spec_t  spec = spec_of("onebit:block=0,own=coded+ef");
    tacit_block_t whole = block_of(&spec, 0, 16), half = block_of(&spec, 0, 8);
    const uint8_t bytes_a[8] = {0, 0, 0xa0, 0x40, 0xd3, 0x6a, 0xff, 0xff}; /* 5.0f, bits, padding */
    const uint8_t bytes_b[8] = {0, 0, 0x20, 0x40, 0xb8, 0x6a, 0xff, 0xff}; /* 2.5f */
    const uint8_t bytes_0[8] = {0, 0, 0x20, 0x40, 0xd3, 0xff, 0xff, 0xff};
    const uint8_t bytes_1[8] = {0, 0, 0x70, 0x40, 0x6a, 0xff, 0xff, 0xff}; /* 3.75f */
    uint8_t       payload[8];
    float         a[16], b[16], sum[16], y[16];

    ck_assert(spec.compressor->own_coded(spec.compressor_config));
    ck_assert_uint_eq(spec.compressor->grain(spec.compressor_config), 0);
    ck_assert_uint_eq(round_trip(&whole, spec.compressor, rank_a, payload, a), 0);
    same_bytes(payload, bytes_a, 8, "rank a");
    ck_assert_uint_eq(round_trip(&whole, spec.compressor, rank_b, payload, b), 0);
    same_bytes(payload, bytes_b, 8, "rank b");
    for (size_t i = 0; i < 16; i++) {
        sum[i] = a[i] * 0.5f + b[i] * 0.5f;
    }
    ck_assert_uint_eq(round_trip(&half, spec.compressor, sum, payload, y), 0);
    same_bytes(payload, bytes_0, 8, "owner 0");
    half.first = 8;
    ck_assert_uint_eq(round_trip(&half, spec.compressor, sum + 8, payload, y + 8), 0);
    same_bytes(payload, bytes_1, 8, "owner 1");
    same_floats(y, result, 16, "result");
    for (size_t i = 0; i < 16; i++) { /* nothing is lost: what was given is what came out and what was kept */
        const float kept = (sum[i] - y[i]) + ((rank_a[i] - a[i]) + (rank_b[i] - b[i])) / 2;
        ck_assert((rank_a[i] + rank_b[i]) / 2 == y[i] + kept);
    }
    tacit__spec_release(&spec);
}
END_TEST

/* The second step of the same example, with nothing new to add. */
START_TEST(second_step)
{
    static const float kept_a[16] = {2, -4, -2, -4, 4, -2, -4, 2, 4, 2, -4, -2, 2, 4, -4, -2};
    static const float kept_b[16] = {1, 2, -2, 1, 1, 2, -1, 2, 2, 1, 1, 2, -2, -1, -2, -1};

    ck_assert(scale_of("onebit:block=0+ef", kept_a, 16, 0) == 3.1622777f);
    ck_assert(scale_of("onebit:block=0+ef", kept_b, 16, 0) == 1.5811388f);
}
END_TEST

/* doc/wire-format.md's scale, written down as it reads. */
static float scale_by_definition(const float *a, size_t count, bool squares)
{
    double total = 0;

    for (size_t start = 0; start < count; start += 2048) {
        float lanes[64] = {0};
        for (size_t i = start; i < count && i < start + 2048; i++) {
            const float product = a[i] * a[i];
            lanes[(i - start) % 64] += squares ? product : fabsf(a[i]);
        }
        for (size_t width = 32; width > 0; width /= 2) {
            for (size_t j = 0; j < width; j++) {
                lanes[j] += lanes[j + width];
            }
        }
        total += (double)lanes[0];
    }
    return (float)(squares ? sqrt(total / (double)count) : total / (double)count);
}

START_TEST(scale_definition)
{
    static const size_t counts[] = {1, 2, 63, 64, 65, 127, 128, 1000, 2047, 2048, 2049, 4096, 5000, 10000};
    float               a[10000];
    float               scale;

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        harness_fill(a, counts[i], i, 3);
        scale = scale_by_definition(a, counts[i], true);
        ck_assert_uint_eq(tacit__float_bits(scale_of("onebit:block=0", a, counts[i], 0)), tacit__float_bits(scale));
        scale = scale_by_definition(a, counts[i], false);
        ck_assert_uint_eq(tacit__float_bits(scale_of("onebit:block=0,norm=l1", a, counts[i], 0)), tacit__float_bits(scale));
    }
}
END_TEST

/* Where squares leave the range of float32, and where sums do: the scale of a constant block is the constant, to within the sum's
   roundings, 31 in a lane and 6 between lanes, by half an ulp each; the root halves them. */
START_TEST(whole_range)
{
    static const float constants[] = {0,       0x1p-149f, 3e-45f, 0x1p-126f, 1e-30f, 0x1p-60f, 0x1p-54f, 0x1p-53f,
                                      0.0625f, 1,         3,      1e18f,     1e19f,  1e30f,    2e38f,    FLT_MAX};
    static float       a[4100];

    for (size_t i = 0; i < COUNT_OF(constants); i++) {
        for (size_t j = 0; j < 4100; j++) {
            a[j] = j % 3 ? constants[i] : -constants[i];
        }
        ck_assert_uint_le(harness_ulps(scale_of("onebit:block=0", a, 4100, 0), constants[i]), 10);
        ck_assert_uint_le(harness_ulps(scale_of("onebit:block=0,norm=l1", a, 4100, 0), constants[i]), 19);
        ck_assert_uint_eq(harness_ulps(scale_of("onebit", a, 1, 0), constants[i]), 0);
    }
}
END_TEST

/* One huge sub-block beside small ones, and a large block of tiny numbers with one of them larger. */
START_TEST(mixed_range)
{
    static float a[4096];

    memset(a, 0, sizeof a);
    a[0] = FLT_MAX;
    a[3000] = 1;
    ck_assert(scale_of("onebit:block=0", a, 4096, 0) == FLT_MAX / 64);
    ck_assert(scale_of("onebit:block=0,norm=l1", a, 4096, 0) == FLT_MAX / 4096);
    a[0] = 0;
    a[3000] = 0x1p-100f;
    ck_assert(scale_of("onebit:block=0", a, 4096, 0) == 0x1p-106f);
    a[0] = -INFINITY;
    ck_assert(isnan(scale_of("onebit:block=0", a, 4096, TACIT_FAULT_NONFINITE)));
    a[0] = NAN;
    ck_assert(isnan(scale_of("onebit:block=0,norm=l1", a, 4096, TACIT_FAULT_NONFINITE)));
}
END_TEST

/* Both zeros are positive and NaN is not; a block with a NaN decodes as NaN and leaves its neighbour alone. */
START_TEST(signs)
{
    tacit_spec_t  spec = spec_of("onebit:block=32");
    tacit_block_t block = block_of(&spec, 0, 40);
    float         a[40] = {0.0f, -0.0f, -0x1p-149f, 0x1p-149f, -1, 1, NAN, INFINITY, -INFINITY};
    uint8_t       payload[16];
    float         decoded[40];

    for (size_t i = 32; i < 40; i++) {
        a[i] = -2;
    }
    ck_assert_uint_eq(spec.compressor->bound(spec.compressor_config, 40), 16);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), TACIT_FAULT_NONFINITE);
    ck_assert_uint_eq(tacit__load32(payload), 0x7fc00000u);
    ck_assert_uint_eq(payload[4], 0xd5); /* 1101 0101 */
    ck_assert_uint_eq(payload[5], 0x7f); /* -infinity */
    for (size_t i = 0; i < 32; i++) {
        ck_assert(isnan(decoded[i]));
    }
    ck_assert(tacit__bits_float(tacit__load32(payload + 8)) == 2);
    ck_assert_uint_eq(tacit__load32(payload + 12), 0xffffff00u); /* bits, then padding with ones */
    ck_assert(decoded[32] == -2 && decoded[39] == -2);
    tacit__spec_release(&spec);
}
END_TEST

START_TEST(sizes)
{
    static const size_t counts[] = {0, 1, 31, 32, 33, 64, 65, 2047, 2048, 2049, 4096 + 40};
    static const size_t small[] = {0, 8, 8, 8, 16, 16, 24, 512, 512, 520, 1040}; /* block=32 */
    static const size_t none[] = {0, 8, 8, 8, 12, 12, 16, 260, 260, 264, 524};   /* block=0 */
    tacit_spec_t        one = spec_of("onebit:block=32"), whole = spec_of("onebit:block=0");

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        ck_assert_uint_eq(one.compressor->bound(one.compressor_config, counts[i]), small[i]);
        ck_assert_uint_eq(whole.compressor->bound(whole.compressor_config, counts[i]), none[i]);
    }
    tacit__spec_release(&one);
    tacit__spec_release(&whole);
}
END_TEST

/* A single element among n: the error of l1 is 1 - 1/n, that of l2 is 2 (1 - 1/sqrt(n)), and quality() says so. */
START_TEST(worst_case)
{
    static const char *const specs[] = {"onebit:block=1024,norm=l1+ef", "onebit:block=1024,norm=l2+ef", "onebit:block=0+ef"};
    static const double      factors[] = {1 - 1 / 1024.0, 2 - 2 / 32.0, 2 - 2 / 64.0};
    tacit_spec_t             spec = spec_of(specs[_i]);
    tacit_block_t            block = block_of(&spec, 0, 4096);
    static float             a[4096], decoded[4096];
    uint8_t                  payload[1024];
    double                   error = 0, factor;

    for (size_t i = 0; i < 4096; i++) {
        a[i] = i % (_i == 2 ? 4096 : 1024) == 0;
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    for (size_t i = 0; i < 4096; i++) {
        error += pow((double)decoded[i] - (double)a[i], 2);
    }
    ck_assert_uint_eq(spec.compressor->quality(spec.compressor_config, 4096, &factor), TACIT_CONTRACTION);
    ck_assert(factor == factors[_i]);
    ck_assert_double_eq_tol(error / (_i == 2 ? 1 : 4), factor, 1e-12);
    tacit__spec_release(&spec);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("onebit");
    TCase *tests = tcase_create("onebit");

    tcase_add_test(tests, worked_example);
    tcase_add_test(tests, second_step);
    tcase_add_test(tests, scale_definition);
    tcase_add_test(tests, whole_range);
    tcase_add_test(tests, mixed_range);
    tcase_add_test(tests, signs);
    tcase_add_test(tests, sizes);
    tcase_add_loop_test(tests, worst_case, 0, 3);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
