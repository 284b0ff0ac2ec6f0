/* SPDX-License-Identifier: Apache-2.0 */
/* `bf16`: every bfloat16 and every border between two, and saturation. */
#include "half.h"
#include "rounding.h"

static const format_t format = {
    .fraction_bits = 7,
    .lowest_exponent = -126,
    .infinity = 0x7f80,
    .widen = tacit__bfloat16_widen,
    .narrow = tacit__bfloat16_narrow,
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
    check_codec(&format, "bf16", 0x1.fep127f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bf16");
    TCase *tests = tcase_create("bf16");

    tcase_add_test(tests, every_number);
    tcase_add_test(tests, every_border);
    tcase_add_test(tests, codec);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
