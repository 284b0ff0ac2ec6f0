/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: index codings, each by worked bytes and round trips over sparse, dense, clustered and far entries; sizes that are said
   in advance; what the Rice code costs. */
#include "compress.h"
#include "topk.h"

enum { MOST = 200000, PATTERNS = 8 };

static float    a[MOST + 64]; /* ranges begin at 42 at most */
static uint32_t indices[MOST];

/* Fills indices with entries of [first, first + count); returns how many. */
static size_t entries_of(int pattern, size_t first, size_t count, uint64_t seed)
{
    harness_random_t random = {seed};
    size_t           entries = 0;

    for (size_t i = 0; i < count; i++) {
        const uint32_t word = (uint32_t)harness_next(&random);
        const bool     taken = pattern == 0   ? false
                               : pattern == 1 ? true
                               : pattern == 2 ? word % 1000 == 0
                               : pattern == 3 ? word % 10 == 0
                               : pattern == 4 ? word % 2 == 0
                               : pattern == 5 ? i % 50000 < 20
                               : pattern == 6 ? i + 1 == count || i == 0
                                              : i % 65537 == 0;
        if (taken) {
            indices[entries++] = (uint32_t)(first + i);
        }
    }
    return entries;
}

/* The numbers of the coding alone. */
static void encoded_as(tacit_index_t coding, const uint32_t *entries, size_t count_of_entries, size_t count,
                       const uint8_t *expected, size_t bytes)
{
    const tacit_index_range_t range = {entries, count_of_entries, 0, count};
    const unsigned            rice = coding == TACIT_INDEX_RICE ? tacit__rice_parameter(&range) : 0;
    uint8_t                   out[64];
    uint32_t                  decoded[8];

    ck_assert_uint_eq(tacit__index_bytes(coding, &range, rice), bytes);
    tacit__index_encode(coding, &range, rice, out);
    same_bytes(out, expected, bytes, "indices");
    if (coding != TACIT_INDEX_RLE16) {
        ck_assert(tacit__index_decode(coding, out, bytes, count, count_of_entries, rice, decoded));
        same_bytes(decoded, entries, count_of_entries * sizeof *entries, "decoded");
    }
}

START_TEST(worked_bytes)
{
    /* Runs of 3, 65536 and then 4460 zeros. */
    static const uint32_t far[] = {3, 70000};
    static const uint8_t  runs[] = {3, 0, 0xff, 0xff, 0x6c, 0x11, 0, 0};
    static const uint32_t near[] = {1, 3, 4};
    static const uint8_t  bitmap[] = {0x1a, 0, 0, 0};
    /* Gaps 5, 0, 17 and 8 among 40 elements: parameter 3. Quotients 0, 0, 2, 1; remainders 5, 0, 1, 0; from the lowest bit on
       1 101, 1 000, 001 100, 01 000. */
    static const uint32_t spread[] = {5, 6, 24, 33};
    static const uint8_t  rice[] = {0x1b, 0x8c, 0, 0};

    encoded_as(TACIT_INDEX_RLE16, far, 2, 100000, runs, sizeof runs);
    encoded_as(TACIT_INDEX_BITMAP, near, 3, 8, bitmap, sizeof bitmap);
    encoded_as(TACIT_INDEX_RICE, spread, 4, 40, rice, sizeof rice);
}
END_TEST

/* Any range, any coding: what is written is as long as was said and decodes to what it was. */
START_TEST(round_trips)
{
    static const char *const codings[] = {"auto", "u32", "u16", "rle16", "bitmap", "rice"};
    static const size_t      counts[] = {1, 31, 33, 4097, 65536, 65537, MOST};
    uint8_t                 *payload = malloc((size_t)8 * MOST + 4096);
    float                   *values = malloc(MOST * sizeof *values), *decoded = malloc(MOST * sizeof *decoded);
    uint32_t                *found = malloc(MOST * sizeof *found);
    char                     text[64];

    harness_fill(a, MOST + 64, 5, 1);
    for (size_t i = 0; i < COUNT_OF(counts) * PATTERNS; i++) {
        const size_t first = i % 3 * 21, count = counts[i / PATTERNS], entries = entries_of((int)(i % PATTERNS), first, count, i);
        for (size_t coding = 0; coding < 2 * COUNT_OF(codings); coding++) {
            snprintf(text, sizeof text, "topk:ratio=1,index=%s%s", codings[coding / 2], coding % 2 ? ",values=fp16" : "");
            tacit_spec_t          spec = spec_of(text);
            const tacit_block_t   block = block_of(&spec, first, count);
            const tacit_select_t *select = spec.compressor->select;
            const size_t          bytes = encode_of(&spec, &block, a, indices, entries, payload, decoded);

            ck_assert_uint_le(bytes, select->bound(spec.compressor_config, count, entries));
            ck_assert_uint_eq(select->decode(&block, payload, bytes, found, values, entries), entries);
            same_floats(values, decoded, entries, text);
            for (size_t j = 0; j < entries; j++) {
                found[j] += (uint32_t)first;
            }
            same_bytes(found, indices, entries * sizeof *found, text);
            tacit__spec_release(&spec);
        }
    }
    free(payload);
    free(values);
    free(decoded);
    free(found);
}
END_TEST

/* Escapes are told from entries by their value: one that float16 rounds to +0 becomes -0, behind as long a run as an escape's. */
START_TEST(escapes)
{
    static const uint32_t entries[] = {65535, 65536, 65537 + 2 * 65536};
    tacit_spec_t          spec = spec_of("topk:index=rle16,values=fp16+ef");
    const tacit_block_t   block = block_of(&spec, 0, MOST);
    const tacit_select_t *select = spec.compressor->select;
    float                 decoded[3], values[3];
    uint32_t              found[3];
    uint8_t               payload[64];
    size_t                bytes;

    a[entries[0]] = 0x1p-30f;
    a[entries[1]] = -0x1p-30f;
    a[entries[2]] = 1;
    bytes = encode_of(&spec, &block, a, entries, 3, payload, decoded);
    ck_assert_uint_eq(bytes, 8 + 12 + 10); /* two escapes */
    ck_assert_uint_eq(tacit__load32(payload), 5);
    ck_assert_uint_eq(select->decode(&block, payload, bytes, found, values, 3), 3);
    same_bytes(found, entries, sizeof entries, "entries");
    same_floats(values, decoded, 3, "values");
    ck_assert(decoded[0] == 0 && signbit(decoded[0]) && decoded[2] == 1);
    tacit__spec_release(&spec);
}
END_TEST

/* The parameter is the best one, and evenly spread entries at a density of 0.001 cost little more than their entropy. */
START_TEST(rice)
{
    const double density = 0.001, entropy = -log2(density) - (1 - density) / density * log2(1 - density);
    size_t       bits = 0, entries_all = 0;

    for (int pattern = 1; pattern < PATTERNS; pattern++) {
        const tacit_index_range_t range = {indices, entries_of(pattern, 7, MOST, 3), 7, MOST};
        const unsigned            best = tacit__rice_parameter(&range);
        for (unsigned other = 0; other <= TACIT_RICE_MOST; other++) {
            ck_assert_uint_le(tacit__index_bytes(TACIT_INDEX_RICE, &range, best),
                              tacit__index_bytes(TACIT_INDEX_RICE, &range, other));
        }
        ck_assert_uint_le(tacit__index_bytes(TACIT_INDEX_RICE, &range, best),
                          tacit__index_bytes_bound(TACIT_INDEX_RICE, MOST, range.entries));
    }
    for (uint64_t seed = 0; seed < 20; seed++) {
        const tacit_index_range_t range = {indices, entries_of(2, 0, MOST, seed), 0, MOST};
        bits += 8 * tacit__index_bytes(TACIT_INDEX_RICE, &range, tacit__rice_parameter(&range));
        entries_all += range.entries;
    }
    ck_assert(fabs(entropy - 11.4) < 0.02);
    ck_assert_msg((double)bits / (double)entries_all < entropy + 0.25, "%g bits", (double)bits / (double)entries_all);
}
END_TEST

/* More entries never need less, which is what cutting into messages relies on. */
START_TEST(bounds_ascend)
{
    static const char *const specs[] = {"topk", "topk:index=rle16", "topk:index=rice,values=fp16", "topk:index=bitmap"};

    for (size_t i = 0; i < COUNT_OF(specs); i++) {
        tacit_spec_t          spec = spec_of(specs[i]);
        const tacit_select_t *select = spec.compressor->select;
        for (size_t entries = 1; entries <= 70000; entries += 1 + entries / 50) {
            ck_assert_uint_le(select->bound(spec.compressor_config, MOST, entries - 1),
                              select->bound(spec.compressor_config, MOST, entries));
            ck_assert_uint_le(select->bound(spec.compressor_config, 70000, entries),
                              select->bound(spec.compressor_config, MOST, entries));
        }
        tacit__spec_release(&spec);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("topk_index");
    TCase *tests = tcase_create("topk_index");

    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, worked_bytes);
    tcase_add_test(tests, round_trips);
    tcase_add_test(tests, escapes);
    tcase_add_test(tests, rice);
    tcase_add_test(tests, bounds_ascend);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
