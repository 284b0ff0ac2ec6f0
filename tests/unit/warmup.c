/* SPDX-License-Identifier: Apache-2.0 */
/* Densities of a warm-up, and the factors of local clipping, against the published numbers. */
#include "compress.h"
#include "tacit_optim.h"

/* The densities of `entries` entries of `entry_steps` steps, at the first and the last step of each, and after them. */
static void falls(tacit_warmup_t warmup, const double *list, size_t entries, double final, const double *expected, double within)
{
    const uint64_t entry_steps = 7;

    for (size_t entry = 0; entry < entries + 2; entry++) {
        const double wanted = entry < entries ? expected[entry] : final;

        for (uint64_t step = entry * entry_steps; step < (entry + 1) * entry_steps; step += entry_steps - 1) {
            const double density = tacit_warmup_density(warmup, list, entries, entry_steps, final, step);

            ck_assert_msg(fabs(density - wanted) <= within, "entry %zu of %zu: %.17g, not %.17g", entry, entries, density,
                          wanted);
        }
    }
}

/* Exact powers of 1/4, the fifth of which is below the final density. */
START_TEST(paper)
{
    const double expected[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.001, 0.001};

    falls(TACIT_WARMUP_PAPER, NULL, 4, 0.001, expected, 0);
    falls(TACIT_WARMUP_PAPER, NULL, 6, 0.001, expected, 0);
    ck_assert(tacit_warmup_density(TACIT_WARMUP_PAPER, NULL, 5, 1, 1, 0) == 1);
}
END_TEST

/* As the authors' code has it for 5 and for 4 entries. */
START_TEST(reference)
{
    const double five[] = {0.316228, 0.1, 0.0316228, 0.01, 0.00316228}, four[] = {0.251189, 0.0630957, 0.0158489, 0.00398107};

    falls(TACIT_WARMUP_REFERENCE, NULL, 5, 0.001, five, 5e-7);
    falls(TACIT_WARMUP_REFERENCE, NULL, 4, 0.001, four, 5e-7);
}
END_TEST

START_TEST(lists)
{
    const double dense[] = {1, 1, 1, 1, 1}, own[] = {0.25, 0.063, 0.015, 0.004, 0.001};

    falls(TACIT_WARMUP_NONE, dense, 5, 0.001, dense, 0);
    falls(TACIT_WARMUP_PAPER, own, 5, 0.001, own, 0); /* instead of the preset */
}
END_TEST

START_TEST(none)
{
    ck_assert(tacit_warmup_density(TACIT_WARMUP_NONE, NULL, 5, 10, 0.01, 0) == 0.01);
    ck_assert(tacit_warmup_density(TACIT_WARMUP_PAPER, NULL, 0, 10, 0.01, 0) == 0.01);
    ck_assert(tacit_warmup_density(TACIT_WARMUP_PAPER, NULL, 5, 0, 0.01, 0) == 0.01);
    ck_assert(tacit_warmup_density(TACIT_WARMUP_PAPER, NULL, 5, 10, 0.01, UINT64_MAX) == 0.01);
}
END_TEST

/* g = (3, 4), threshold 2.5, one rank; then the two conventions, which differ by the number of ranks. */
START_TEST(clipping)
{
    const float factor = (float)tacit_clip_factor(5, 2.5, 1, TACIT_CLIP_MEAN);

    ck_assert(3 * factor == 1.4999998f && 4 * factor == 1.9999996f);
    ck_assert(tacit_clip_factor(5, 2.5, 1, TACIT_CLIP_SUM) == tacit_clip_factor(5, 2.5, 1, TACIT_CLIP_MEAN));
    ck_assert(tacit_clip_factor(20, 2.5, 16, TACIT_CLIP_MEAN) == 10 / (20 + 1e-6));
    ck_assert(tacit_clip_factor(20, 2.5, 16, TACIT_CLIP_SUM) == 0.625 / (20 + 1e-6));
    ck_assert(tacit_clip_factor(2, 2.5, 4, TACIT_CLIP_MEAN) == 1);
    ck_assert(tacit_clip_factor(5, 2.5, 4, TACIT_CLIP_MEAN) == 5 / (5 + 1e-6));
    ck_assert(tacit_clip_factor(0, 2.5, 1, TACIT_CLIP_MEAN) == 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("warmup");
    TCase *tests = tcase_create("warmup");

    tcase_add_test(tests, paper);
    tcase_add_test(tests, reference);
    tcase_add_test(tests, lists);
    tcase_add_test(tests, none);
    tcase_add_test(tests, clipping);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
