/* SPDX-License-Identifier: Apache-2.0 */
/* `fp16`: every float16 and every border between two, and saturation. */
#include "half.h"
#include "rounding.h"

static const format_t format = {
    .fraction_bits = 10,
    .lowest_exponent = -14,
    .infinity = 0x7c00,
    .widen = tacit__float16_widen,
    .narrow = tacit__float16_narrow,
};

START_TEST(every_number)
{
    check_every_number(&format);
}
END_TEST

START_TEST(every_border)
{
    check_every_border(&format);
}
END_TEST

START_TEST(codec)
{
    check_codec(&format, "fp16", 65504);
}
END_TEST

/* What saturation takes away is in the residual. */
START_TEST(excess)
{
    tacit_spec_t  spec = spec_of("fp16+ef");
    tacit_block_t block = block_of(&spec, 0, 4);
    const float   a[4] = {65519.99f, 65520, 70000, -1e6f}, expected[4] = {65504, 65504, 65504, -65504};
    float         decoded[4];
    uint8_t       payload[8];

    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    same_floats(decoded, expected, 4, "decoded");
    ck_assert(a[2] - decoded[2] == 4496);
    tacit__spec_release(&spec);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fp16");
    TCase *tests = tcase_create("fp16");

    tcase_add_test(tests, every_number);
    tcase_add_test(tests, every_border);
    tcase_add_test(tests, codec);
    tcase_add_test(tests, excess);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
