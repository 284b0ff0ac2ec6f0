/* SPDX-License-Identifier: Apache-2.0 */
/* `randk`: one element of each stratum, the same on every rank, rebuilt from any range, right on average. */
#include "compress.h"

enum { MOST = 4000 };

typedef struct tensor {
    tacit_spec_t        spec;
    tacit_slot_config_t config;
    tacit_block_t       block;
    size_t              strata;
    float               a[MOST], factor[MOST], out[MOST];
} tensor_t;

static tensor_t *tensor_of(const char *text, size_t count)
{
    tensor_t *tensor = calloc(1, sizeof *tensor);

    tensor->spec = spec_of(text);
    tensor->config.count = count;
    tensor->block = block_of(&tensor->spec, 0, count);
    tensor->strata = tensor->spec.compressor->linear->factor_count(tensor->spec.compressor_config, &tensor->config, 0);
    harness_fill(tensor->a, count, 1, 1);
    return tensor;
}

static void release(tensor_t *tensor)
{
    tacit__spec_release(&tensor->spec);
    free(tensor);
}

static void make(tensor_t *tensor)
{
    tensor->spec.compressor->linear->make_factor(&tensor->block, &tensor->config, 0, tensor->a, NULL, NULL, tensor->factor);
}

static void rebuild(const tensor_t *tensor, size_t first, size_t count, float *out)
{
    const float  *factors[1] = {tensor->factor};
    tacit_block_t block = tensor->block;

    block.first = first;
    block.count = count;
    tensor->spec.compressor->linear->reconstruct(&block, &tensor->config, factors, out);
}

/* Every stratum keeps exactly one element, unchanged; all others are zero. */
START_TEST(one_of_each_stratum)
{
    static const struct {
        const char *text;
        size_t      count, strata;
    } cases[] = {
        {"randk:ratio=0.01+ef", 4000, 40},  {"randk:ratio=0.0123+ef", 3999, 50}, {"randk:ratio=1+ef", 100, 100},
        {"randk:ratio=0.75+ef", 1001, 751}, {"randk:ratio=0.001+ef", 1, 1},      {"randk:ratio=0.3+ef", 0, 0},
    };
    tensor_t *tensor = tensor_of(cases[_i].text, cases[_i].count);
    size_t    first = 0, next;

    ck_assert_uint_eq(tensor->strata, cases[_i].strata);
    ck_assert_int_eq(tensor->spec.compressor->linear->rounds(tensor->spec.compressor_config, &tensor->config), 1);
    make(tensor);
    rebuild(tensor, 0, cases[_i].count, tensor->out);
    for (size_t j = 0; j < tensor->strata; j++, first = next) {
        size_t kept = 0;
        next = (size_t)((unsigned __int128)(j + 1) * cases[_i].count / tensor->strata);
        for (size_t i = first; i < next; i++) {
            ck_assert(tensor->out[i] == 0 || tensor->out[i] == tensor->a[i]);
            kept += tensor->out[i] != 0;
            ck_assert(tensor->out[i] == 0 || tensor->factor[j] == tensor->a[i]);
        }
        ck_assert_uint_eq(kept, 1);
    }
    ck_assert_uint_eq(first, cases[_i].count);
    release(tensor);
}
END_TEST

/* Any cut of the tensor gives the same numbers. */
START_TEST(ranges)
{
    tensor_t        *tensor = tensor_of("randk:ratio=0.07+ef", 3001);
    harness_random_t random = {9};
    float            part[MOST];

    make(tensor);
    rebuild(tensor, 0, 3001, tensor->out);
    for (int i = 0; i < 2000; i++) {
        const size_t first = harness_next(&random) % 3002, count = harness_next(&random) % (3002 - first);
        part[count] = 42;
        rebuild(tensor, first, count, part);
        same_floats(part, tensor->out + first, count, "range");
        ck_assert(part[count] == 42);
    }
    release(tensor);
}
END_TEST

/* Ranks agree without a word; steps, slots and seeds do not. */
START_TEST(keys)
{
    tensor_t *tensor = tensor_of("randk:ratio=0.01+ef", 4000);
    uint64_t *parts[] = {&tensor->block.key.rank, &tensor->block.key.seed, &tensor->block.key.slot, &tensor->block.key.step};
    float     first[MOST];

    make(tensor);
    memcpy(first, tensor->factor, sizeof first);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        ++*parts[i];
        make(tensor);
        ck_assert((memcmp(first, tensor->factor, tensor->strata * sizeof *first) == 0) == (i == 0));
        --*parts[i];
    }
    release(tensor);
}
END_TEST

/* 10^4 draws. An element of a stratum of s is kept with the chance 1/s: unbiased, its mean is itself with the variance
   (s - 1) x^2; unscaled, its mean is x/s and the error 1 - 1/s of its square. */
static void draw(const char *text, bool unbiased)
{
    enum { COUNT = 205, DRAWS = 10000 };
    tensor_t *tensor = tensor_of(text, COUNT);
    double    sums[COUNT] = {0}, error = 0, expected = 0, square = 0, factor;

    for (tensor->block.key.step = 0; tensor->block.key.step < DRAWS; tensor->block.key.step++) {
        make(tensor);
        rebuild(tensor, 0, COUNT, tensor->out);
        for (size_t i = 0; i < COUNT; i++) {
            sums[i] += (double)tensor->out[i];
            error += pow((double)tensor->out[i] - (double)tensor->a[i], 2);
        }
    }
    for (size_t i = 0, j = 0; i < COUNT; i++) {
        const double x = (double)tensor->a[i];
        double       size, mean, deviation;
        while ((j + 1) * COUNT / tensor->strata <= i) {
            j++;
        }
        size = (double)((j + 1) * COUNT / tensor->strata - j * COUNT / tensor->strata);
        mean = unbiased ? x : x / size;
        deviation = unbiased ? fabs(x) * sqrt(size - 1) : fabs(x) * sqrt(size - 1) / size;
        ck_assert_double_eq_tol(sums[i] / DRAWS, mean, 5 * deviation / sqrt(DRAWS) + 1e-9);
        expected += x * x * (unbiased ? size - 1 : 1 - 1 / size);
        square += x * x;
    }
    ck_assert_double_eq_tol(error / DRAWS, expected, 0.05 * expected);
    ck_assert_uint_eq(tensor->spec.compressor->quality(tensor->spec.compressor_config, COUNT, &factor),
                      unbiased ? TACIT_UNBIASED : TACIT_CONTRACTION);
    ck_assert_double_le(expected, factor * square);
    release(tensor);
}

START_TEST(means)
{
    draw("randk:ratio=0.1", true);
    draw("randk:ratio=0.1+ef", false);
    draw("randk:ratio=0.6", true);
}
END_TEST

START_TEST(settling)
{
    tacit_spec_t spec;

    refused("randk:scale=unbiased+ef", "scale=one");
    refused("randk:ratio=0.6,scale=unbiased+ef", "scale=one");
    spec = spec_of("randk:ratio=1,scale=unbiased+ef");
    tacit__spec_release(&spec);
    spec = spec_of("randk:scale=one");
    tacit__spec_release(&spec);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("randk");
    TCase *tests = tcase_create("randk");

    tcase_add_loop_test(tests, one_of_each_stratum, 0, 6);
    tcase_add_test(tests, ranges);
    tcase_add_test(tests, keys);
    tcase_add_test(tests, means);
    tcase_add_test(tests, settling);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
