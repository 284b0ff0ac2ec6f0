/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: the exact selection by pool and sample against sorting; the published geometry of samples, and
   what a sampled selection promises. */
#include "compress.h"
#include "random.h"
#include "topk.h"

enum { MOST = 200000, PATTERNS = 8 };

static float    a[MOST];
static uint32_t indices[MOST], order[MOST];

static void fill(int pattern, size_t count)
{
    harness_random_t random = {(uint64_t)pattern};

    harness_fill(a, count, (uint64_t)pattern, 1);
    for (size_t i = 0; i < count; i++) {
        const uint32_t word = (uint32_t)harness_next(&random);
        a[i] = pattern == 0   ? a[i]
               : pattern == 1 ? (float)(int)(word % 7) - 3                /* many ties */
               : pattern == 2 ? tacit__bits_float(word & 0xbfffffffu)     /* all exponents */
               : pattern == 3 ? (float)i                                  /* ascending: every element is a candidate */
               : pattern == 4 ? (float)(count - i)                        /* descending */
               : pattern == 5 ? (i % 1000 == 7 ? a[i] : 0)                /* fewer than are wanted */
               : pattern == 6 ? (i % 31 == 0 ? 100 * a[i] : 1e-3f * a[i]) /* the sample for 2000 has all the large ones */
                              : (word % 50000 == 0 ? INFINITY : 1);
    }
}

/* ---- Through a sieve ---- */

static inline void copy(const float *none, size_t first, size_t count, const float *in, float *out)
{
    (void)none;
    (void)first;
    memcpy(out, in, count * sizeof *in);
}

TACIT_SIFT(float, copy)

static float left[MOST]; /* what is not chosen */

static tacit_selection_t *selection_of(size_t count, size_t keep, size_t samples)
{
    tacit_selection_t *selection = calloc(1, sizeof *selection);

    selection->room = tacit__topk_room(count, keep);
    selection->sieve.indices = malloc(selection->room * sizeof *selection->sieve.indices);
    selection->sieve.values = malloc(selection->room * sizeof *selection->sieve.values);
    selection->sieve.sample = malloc((samples + 1) * sizeof *selection->sieve.sample);
    selection->sieve.passes = true;
    selection->a = left;
    return selection;
}

static void selection_free(tacit_selection_t *selection)
{
    free(selection->sieve.indices);
    free(selection->sieve.values);
    free(selection->sieve.sample);
    free(selection);
}

/* After begin: what is chosen goes to indices[], and has left left[], where all else is. Units are of any size. */
static size_t run(tacit_selection_t *selection, size_t count)
{
    const tacit_sieve_t *sieve = &selection->sieve;
    size_t               unit = 1, entry = 0;

    memset(left, 0xff, sizeof left);
    do {
        for (size_t done = 0; done < count; unit = unit * 7 % TACIT_SIEVE_MOST + 1) {
            done += sift(NULL, done, count - done < unit ? count - done : unit, a + done, &selection->sieve);
            tacit__topk_pause(selection, done);
        }
    } while (!tacit__topk_finish(selection));
    memcpy(indices, sieve->indices, sieve->used * sizeof *indices);
    for (size_t i = 0; i < count; i++) {
        const bool  chosen = entry < sieve->used && indices[entry] == i;
        const float remains = chosen && selection->taken ? 0 : a[i];
        if (tacit__float_bits(left[i]) != tacit__float_bits(remains) ||
            (chosen && tacit__float_bits(sieve->values[entry]) != tacit__float_bits(a[i]))) {
            ck_abort_msg("element %zu: %g is left of %g", i, (double)left[i], (double)a[i]);
        }
        entry += chosen;
    }
    ck_assert_uint_eq(entry, sieve->used);
    return sieve->used;
}

static size_t exact_of(size_t count, size_t keep)
{
    tacit_selection_t *selection = selection_of(count, keep, 0);
    size_t             entries;

    tacit__topk_begin(selection, count, keep, true);
    entries = run(selection, count);
    selection_free(selection);
    return entries;
}

static size_t sampled_of(size_t count, const tacit_geometry_t *geometry, size_t start, float *threshold_out)
{
    tacit_selection_t *selection = selection_of(count, geometry->keep, geometry->samples);
    size_t             entries;

    tacit__topk_begin(selection, count, geometry->keep, true);
    tacit__topk_sample(selection, geometry, start);
    entries = run(selection, count);
    *threshold_out = tacit__bits_float(selection->threshold);
    selection_free(selection);
    return entries;
}

/* The same as sorting would choose, at densities for which the sieve fills up, or has room for all. */
START_TEST(exact_is_sorted)
{
    static const size_t keeps[] = {1, 20, 600, 2000, 20000, 60000, MOST};

    fill(_i, MOST);
    for (size_t k = 0; k < COUNT_OF(keeps); k++) {
        size_t entries = 0, expected = keeps[k];
        largest_first(a, MOST, order);
        while (expected > 0 && a[order[expected - 1]] == 0) {
            expected--;
        }
        qsort(order, expected, sizeof *order, compare_indices);
        memset(indices, 0xff, sizeof indices);
        entries = exact_of(MOST, keeps[k]);
        ck_assert_uint_eq(entries, expected);
        same_bytes(indices, order, expected * sizeof *order, "exact");
        ck_assert(entries == MOST || indices[entries] == UINT32_MAX);
    }
}
END_TEST

/* As published, for two densities. */
START_TEST(published_geometry)
{
    static const struct {
        size_t           count;
        tacit_geometry_t sparse, dense;
    } table[] = {
        {432, {1, 432, 1, 1}, {49, 8, 2, 108}},
        {2000, {1, 2000, 2, 2}, {97, 20, 5, 500}},
        {2001, {1, 2001, 3, 3}, {89, 22, 6, 501}},
        {36864, {17, 2168, 3, 37}, {97, 380, 95, 9216}},
        {100000, {49, 2040, 3, 100}, {97, 1030, 258, 25000}},
        {1000000, {97, 10309, 11, 1000}, {97, 10309, 2578, 250000}},
        {2359296, {97, 24322, 25, 2360}, {97, 24322, 6081, 589824}},
        {25557032, {97, 263474, 264, 25558}, {97, 263474, 65869, 6389258}},
    };

    for (size_t i = 0; i < 2 * COUNT_OF(table); i++) {
        const tacit_geometry_t expected = i % 2 ? table[i / 2].dense : table[i / 2].sparse;
        const tacit_geometry_t got = tacit__topk_geometry(table[i / 2].count, i % 2 ? 0.25 : 0.001, 0.01);
        ck_assert_msg(memcmp(&got, &expected, sizeof got) == 0, "%zu elements: (%zu, %zu, %zu, %zu)", table[i / 2].count,
                      got.stride, got.samples, got.sample_keep, got.keep);
    }
    ck_assert_uint_eq(tacit__topk_geometry(100000, 0.001, 1).stride, 1);
}
END_TEST

/* From any start: 1 to K entries, all of them at least the threshold and none of the others larger; of the largest if there are
   too many; at least 0.8 K unless ten rounds were too few. */
static size_t sampled_as_promised(size_t count, const tacit_geometry_t *geometry, size_t start)
{
    float        threshold = NAN, least = INFINITY, largest = 0;
    const size_t entries = sampled_of(count, geometry, start, &threshold);

    size_t found = 0;

    ck_assert(entries >= 1 && entries <= geometry->keep);
    for (size_t i = 0; i < count; i++) {
        if (found < entries && indices[found] == i) {
            least = fminf(least, fabsf(a[i]));
            found++;
        } else {
            largest = fmaxf(largest, fabsf(a[i]));
        }
    }
    ck_assert(found == entries && least > 0);
    ck_assert_msg(least >= threshold && least >= largest, "least %g, threshold %g, largest %g", (double)least, (double)threshold,
                  (double)largest);
    ck_assert(entries == geometry->keep || largest < fmaxf(threshold, 0x1p-149f));
    return entries;
}

START_TEST(sampled_selection)
{
    static const double densities[] = {0.001, 0.01, 0.25};
    size_t              short_ones = 0;

    fill(_i, MOST);
    for (size_t d = 0; d < COUNT_OF(densities); d++) {
        const tacit_geometry_t geometry = tacit__topk_geometry(MOST, densities[d], 0.01);
        for (size_t start = 0; start < geometry.stride; start += 1 + geometry.stride / 8) {
            const size_t entries = sampled_as_promised(MOST, &geometry, start);
            ck_assert(_i != 0 || (double)entries >= 0.8 * (double)geometry.keep); /* normal data: no more than ten rounds */
            short_ones += entries < geometry.keep;
        }
    }
    ck_assert(_i != 0 || short_ones > 0); /* else this has tested the exact selection */
}
END_TEST

/* Cut by magnitude, not by index: the 5 is sent. */
START_TEST(largest_of_too_many)
{
    const float            ties[4] = {1, 1, 1, 5};
    const tacit_geometry_t whole = {.stride = 1, .samples = 4, .sample_keep = 2, .keep = 2};
    const tacit_geometry_t sampled = {.stride = 3, .samples = 1, .sample_keep = 1, .keep = 2};
    float                  threshold;

    memcpy(a, ties, sizeof ties);
    ck_assert_uint_eq(sampled_of(4, &whole, 0, &threshold), 2);
    ck_assert(indices[0] == 0 && indices[1] == 3);
    ck_assert_uint_eq(sampled_of(4, &sampled, 1, &threshold), 2); /* threshold 1: all four are above it */
    ck_assert(indices[0] == 0 && indices[1] == 3);
}
END_TEST

/* A sample of zeros: what is not zero is sent, however far it is from the sample. A NaN in it does not stop everything else. */
START_TEST(odd_samples)
{
    tacit_geometry_t geometry = tacit__topk_geometry(MOST, 0.001, 0.01);
    float            threshold;

    memset(a, 0, sizeof a);
    ck_assert_uint_eq(sampled_of(MOST, &geometry, 0, &threshold), 0);
    a[1] = 1;
    a[MOST - 2] = -0x1p-149f;
    ck_assert_uint_eq(sampled_of(MOST, &geometry, 0, &threshold), 2);
    ck_assert(indices[0] == 1 && indices[1] == MOST - 2);
    for (size_t i = 0; i < geometry.sample_keep; i++) {
        a[i * geometry.stride] = NAN;
    }
    ck_assert_uint_eq(sampled_of(MOST, &geometry, 0, &threshold), geometry.sample_keep);
}
END_TEST

/* The start is the keyed generator's: another rank or step begins elsewhere, the same one where it did. */
START_TEST(starts)
{
    tacit_spec_t  spec = spec_of("topk:ratio=0.01,select=sampled");
    tacit_block_t block = block_of(&spec, 0, MOST);
    size_t        entries[3];
    float         threshold;

    fill(0, MOST);
    for (size_t i = 0; i < 3; i++) {
        const tacit_geometry_t geometry = tacit__topk_geometry(MOST, 0.01, 0.01);
        tacit_stream_t         stream;
        size_t                 start;
        block.key.step = i;
        stream = tacit__stream(&block.key, false);
        start = (size_t)((uint64_t)tacit__random(&stream, 0) * geometry.stride >> 32);
        entries[i] = choose_from(&spec, &block, a, order);
        ck_assert_uint_eq(sampled_of(MOST, &geometry, start, &threshold), entries[i]);
        same_bytes(order, indices, entries[i] * sizeof *order, "chosen");
    }
    ck_assert(entries[0] != entries[1] || entries[1] != entries[2]);
    tacit__spec_release(&spec);
}
END_TEST

/* ---- Step after step ---- */

/* Data that are unlike what the step before, or their own beginning, lets expect. */
static void surprise(int step, size_t count)
{
    static const float scales[] = {1, 1, 1e-3f, 1, 1e6f, 1, 0, 1, 1, 1, 1, 1};

    harness_fill(a, count, (uint64_t)step, 1);
    for (size_t i = 0; i < count; i++) {
        const float part = (float)i / (float)count;
        const float factor = step == 7    ? 1 + 1000 * part /* grows: the sieve fills again and again */
                             : step == 8  ? 1 - part        /* shrinks */
                             : step == 9  ? (i < count / 2 ? 0 : 1)
                             : step == 10 ? (i < count / 2 ? 1 : 0)
                                          : scales[step];
        a[i] = step == 3 ? (float)(i % 3) : step == 11 ? 5 : factor * a[i];
    }
    for (size_t i = 0; step == 5 && i < count; i++) {
        a[i] = i % 997 == 5 ? a[i] : 0;
    }
}

/* With each set of instructions, whatever was learnt before, what sorting chooses. */
START_TEST(unlike_before)
{
    static const size_t counts[] = {65537, 5000, 63}, parts[] = {1000, 100, 7, 1};
    const tacit_isa_t   isa = (tacit_isa_t)_i;

    setenv("TACIT_ISA", tacit__isa_name(isa), 1);
    for (size_t i = 0; tacit__isa() == isa && i < COUNT_OF(counts) * COUNT_OF(parts); i++) {
        const size_t       count = counts[i / COUNT_OF(parts)], keep = count / parts[i % COUNT_OF(parts)] + 1;
        const size_t       most = keep < count ? keep : count;
        tacit_selection_t *selection = selection_of(count, most, 0);
        for (int step = 0; step < 12; step++) {
            size_t expected = most;
            surprise(step, count);
            largest_first(a, count, order);
            while (expected > 0 && a[order[expected - 1]] == 0) {
                expected--;
            }
            qsort(order, expected, sizeof *order, compare_indices);
            tacit__topk_begin(selection, count, most, step % 5 != 4);
            ck_assert_uint_eq(run(selection, count), expected);
            same_bytes(indices, order, expected * sizeof *order, "chosen");
        }
        selection_free(selection);
    }
}
END_TEST

/* A sampled one is the same whatever was learnt before. */
START_TEST(sampled_unlike_before)
{
    const tacit_geometry_t geometry = tacit__topk_geometry(MOST, 0.01, 0.01);
    tacit_selection_t     *selection = selection_of(MOST, geometry.keep, geometry.samples);
    float                  threshold;

    for (int step = 0; step < 12; step++) {
        size_t entries;
        surprise(step, MOST);
        tacit__topk_begin(selection, MOST, geometry.keep, true);
        tacit__topk_sample(selection, &geometry, (size_t)step);
        entries = run(selection, MOST);
        memcpy(order, indices, entries * sizeof *order);
        ck_assert_uint_eq(sampled_of(MOST, &geometry, (size_t)step, &threshold), entries);
        same_bytes(indices, order, entries * sizeof *order, "chosen");
        ck_assert(threshold == tacit__bits_float(selection->threshold));
    }
    selection_free(selection);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("topk_select");
    TCase *tests = tcase_create("topk_select");

    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, exact_is_sorted, 0, PATTERNS);
    tcase_add_test(tests, published_geometry);
    tcase_add_loop_test(tests, sampled_selection, 0, PATTERNS);
    tcase_add_test(tests, largest_of_too_many);
    tcase_add_test(tests, odd_samples);
    tcase_add_test(tests, starts);
    tcase_add_loop_test(tests, unlike_before, 0, TACIT_ISA_COUNT);
    tcase_add_test(tests, sampled_unlike_before);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
