/* SPDX-License-Identifier: Apache-2.0 */
/* How elements are dealt out to owners. */
#include <check.h>
#include <math.h>
#include <string.h>

#include "deal.h"
#include "harness.h"
#include "internal.h"

static const uint32_t rank_counts[] = {1, 2, 3, 4, 5, 8, 16, 256};
enum { RANK_COUNTS = (int)(sizeof rank_counts / sizeof *rank_counts) };

/* Every element has one owner and one place; places ascend and fill the parts. */
START_TEST(parts)
{
    static const size_t counts[] = {0, 1, 63, 64, 65, 127, 1000, 16384, 20011};
    size_t              next[256];

    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        const tacit_deal_t deal = {tacit__hash_text("w") + c, counts[c], rank_counts[_i], 7 * (uint32_t)c};
        size_t             sum = 0, least = SIZE_MAX, most = 0;

        memset(next, 0, sizeof next);
        for (uint32_t i = 0; i < deal.count; i++) {
            uint32_t       place;
            const uint32_t element = deal.first + i, owner = tacit__deal_owner(&deal, element, &place);

            ck_assert_uint_lt(owner, deal.ranks);
            ck_assert_uint_eq(place, next[owner]++);
            ck_assert_uint_eq(tacit__deal_element(&deal, owner, place), element);
        }
        for (uint32_t owner = 0; owner < deal.ranks; owner++) {
            ck_assert_uint_eq(tacit__deal_part(&deal, owner), next[owner]);
            sum += next[owner];
            least = next[owner] < least ? next[owner] : least;
            most = next[owner] > most ? next[owner] : most;
        }
        ck_assert_uint_eq(sum, deal.count);
        ck_assert_uint_le(most - least, TACIT_DEAL_BLOCK);
    }
}
END_TEST

/* What lies together is spread: runs, and columns of matrices as wide as rows of blocks, or not. */
START_TEST(balance)
{
    enum { COUNT = 1 << 22, RANKS = 16 };
    static const size_t widths[] = {1000, 1024, 4096, 5120, 16384}; /* of matrices; the last is 16 rows of blocks */
    const tacit_deal_t  deal = {tacit__hash_text("w"), COUNT, RANKS, 0};
    size_t              load[RANKS];
    uint32_t            place;

    for (size_t begin = 0; begin < 1000000; begin += 123457) {
        memset(load, 0, sizeof load);
        for (uint32_t i = 0; i < 20000; i++) {
            load[tacit__deal_owner(&deal, (uint32_t)begin + i, &place)]++;
        }
        for (int owner = 0; owner < RANKS; owner++) {
            ck_assert_uint_le(load[owner], 20000 / RANKS + 2 * TACIT_DEAL_BLOCK);
        }
    }
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const size_t rows = COUNT / widths[w];
        const double expected = (double)rows / RANKS;

        memset(load, 0, sizeof load);
        for (size_t row = 0; row < rows; row++) {
            load[tacit__deal_owner(&deal, (uint32_t)(row * widths[w] + 77), &place)]++;
        }
        for (int owner = 0; owner < RANKS; owner++) { /* within five standard deviations of chance */
            ck_assert_msg(fabs((double)load[owner] - expected) <= 5 * sqrt(expected), "%zu columns: %zu of %zu at owner %d",
                          widths[w], load[owner], rows, owner);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("deal");
    TCase *tests = tcase_create("deal");

    tcase_add_loop_test(tests, parts, 0, RANK_COUNTS);
    tcase_add_test(tests, balance);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
