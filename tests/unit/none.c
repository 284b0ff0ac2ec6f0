/* SPDX-License-Identifier: Apache-2.0 */
/* `none`: bytes are the values'; nothing is ever lost, not even what a NaN carries. */
#include "compress.h"

START_TEST(bytes_are_values)
{
    tacit_spec_t  spec = spec_of("none");
    tacit_block_t block = block_of(&spec, 0, 70);
    float         a[70], decoded[70], sums[70], expected[70];
    uint8_t       payload[4 * 70];

    harness_fill(a, 70, 1, 1);
    a[3] = -0.0f;
    a[4] = 0x1p-149f;
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    same_bytes(payload, a, sizeof a, "payload");
    same_floats(decoded, a, 70, "decoded");
    for (size_t i = 0; i < 70; i++) {
        sums[i] = (float)i;
        expected[i] = sums[i] + a[i];
    }
    spec.compressor->kernels[TACIT_ISA_SCALAR]->decode(&block, payload, sums, true);
    same_floats(sums, expected, 70, "sums");
    tacit__spec_release(&spec);
}
END_TEST

/* At every place of a vector and of the tail. */
START_TEST(not_finite)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};
    tacit_spec_t       spec = spec_of("none");
    tacit_block_t      block = block_of(&spec, 0, 70);
    float              a[70] = {0}, decoded[70];
    uint8_t            payload[4 * 70];

    for (size_t i = 0; i < 70; i++) {
        a[i] = values[i % 3];
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), TACIT_FAULT_NONFINITE);
        same_floats(decoded, a, 70, "decoded");
        a[i] = FLT_MAX;
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    tacit__spec_release(&spec);
}
END_TEST

START_TEST(table)
{
    const tacit_compressor_t *none = tacit__compressor_named("none");
    double                    factor = 1;

    ck_assert_ptr_nonnull(none);
    ck_assert_ptr_eq(tacit__compressor_wire(1), none);
    ck_assert_uint_eq(none->quality(NULL, 10, &factor), TACIT_LOSSLESS);
    ck_assert(factor == 0);
    ck_assert_uint_eq(none->grain(NULL), 64);
    ck_assert_uint_eq(none->bound(NULL, 7), 28);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("none");
    TCase *tests = tcase_create("none");

    tcase_add_test(tests, bytes_are_values);
    tcase_add_test(tests, not_finite);
    tcase_add_test(tests, table);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
