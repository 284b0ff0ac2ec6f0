/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers: the published known answers, and how streams and words are taken from keys. */
#include "random.h"

#include <check.h>

#include "harness.h"

/* Random123 1.14, tests/kat_vectors, philox4x32 10: counter, key, answer. */
START_TEST(known_answers)
{
    static const uint32_t vectors[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    const uint32_t      *v = vectors[_i];
    const tacit_stream_t stream = {{v[4], v[5]}, {v[2], v[3]}};
    uint32_t             out[4];

    tacit__random4(&stream, (uint64_t)v[1] << 32 | v[0], out);
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq(out[i], v[6 + i]);
    }
}
END_TEST

START_TEST(words_of_elements)
{
    const tacit_key_t    key = {1, 2, 3, 4};
    const tacit_stream_t stream = tacit__stream(&key, false);
    uint32_t             words[4];

    tacit__random4(&stream, 0x123456789a, words);
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert_uint_eq(tacit__random(&stream, 4 * 0x123456789au + i), words[i]);
    }
}
END_TEST

/* Every part of a key makes another stream; a shared stream knows no rank. */
START_TEST(streams)
{
    const tacit_key_t keys[] = {{1, 2, 3, 4}, {2, 2, 3, 4}, {1, 3, 3, 4}, {1, 2, 4, 4}, {1, 2, 3, 5}, {2, 1, 3, 4}, {0, 0, 0, 0}};
    enum { KEYS = sizeof keys / sizeof *keys };

    for (int a = 0; a < KEYS; a++) {
        const tacit_stream_t own = tacit__stream(&keys[a], false), shared = tacit__stream(&keys[a], true);
        ck_assert_uint_ne(tacit__random(&own, 0), tacit__random(&shared, 0));
        for (int b = 0; b < a; b++) {
            const tacit_stream_t other = tacit__stream(&keys[b], false), other_shared = tacit__stream(&keys[b], true);
            const int            only_rank = (a == 4 && b == 0) || (a == 0 && b == 4);
            ck_assert_uint_ne(tacit__random(&own, 0), tacit__random(&other, 0));
            ck_assert_int_eq(tacit__random(&shared, 0) == tacit__random(&other_shared, 0), only_rank);
        }
    }
}
END_TEST

/* The ends, and the mean of 2^20 numbers: its standard error is 1 / sqrt(12 * 2^20) = 0.00028. */
START_TEST(uniform)
{
    const tacit_key_t    key = {7, 0, 0, 0};
    const tacit_stream_t stream = tacit__stream(&key, false);
    double               sum = 0;

    ck_assert(tacit__uniform(0) == 0 && tacit__uniform(255) == 0);
    ck_assert(tacit__uniform(UINT32_MAX) == 1 - 0x1p-24f);
    for (uint64_t i = 0; i < 1 << 20; i++) {
        sum += (double)tacit__uniform(tacit__random(&stream, i));
    }
    ck_assert_double_eq_tol(sum / (1 << 20), 0.5, 5 * 0.00028);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("random");
    TCase *tests = tcase_create("random");

    tcase_add_loop_test(tests, known_answers, 0, 3);
    tcase_add_test(tests, words_of_elements);
    tcase_add_test(tests, streams);
    tcase_add_test(tests, uniform);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
