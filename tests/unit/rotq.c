/* SPDX-License-Identifier: Apache-2.0 */
/* `rotq`: the same error whatever the data, the worst block, levels and scales by their definitions, equal signs on all ranks. */
#include "compress.h"
#include "random.h"

enum { BLOCK = 256, COUNT = 512 * BLOCK };

static float a[COUNT], decoded[COUNT];

/* ---- Data ---- */

static double laplace(harness_random_t *random)
{
    const double u = harness_uniform(random, -1, 1);

    return u < 0 ? log(1 + u) : -log(1 - u);
}

static double student(harness_random_t *random) /* 3 degrees of freedom */
{
    double squares = 0;

    for (int i = 0; i < 3; i++) {
        squares += pow(harness_normal(random), 2) / 3;
    }
    return harness_normal(random) / sqrt(squares);
}

enum { NORMAL, LAPLACE, ROWS, SPIKES, STUDENT, ONE_HOT, DATA };

static void fill(int data)
{
    harness_random_t random = {(uint64_t)data + 1};
    double           row = 1;

    for (size_t i = 0; i < COUNT; i++) {
        if (i % 100 == 0) { /* rows do not end where blocks do */
            row = pow(10, harness_uniform(&random, -2, 2));
        }
        const double normal = harness_normal(&random);
        a[i] = (float)(data == NORMAL    ? normal
                       : data == LAPLACE ? laplace(&random)
                       : data == ROWS    ? row * normal
                       : data == SPIKES  ? normal * (harness_uniform(&random, 0, 1) < 0.01 ? 30 : 1)
                       : data == STUDENT ? student(&random)
                                         : (i % BLOCK == 77 ? 100 : 1) * normal);
    }
}

/* |decoded - a|^2 / |a|^2, on average over blocks of equal weight. */
static double error_of(const char *text)
{
    tacit_spec_t  spec = spec_of(text);
    tacit_block_t block = block_of(&spec, 0, COUNT);
    uint8_t      *payload = malloc(spec.compressor->bound(spec.compressor_config, COUNT));
    double        sum = 0;

    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    for (size_t i = 0; i < COUNT; i += BLOCK) {
        double error = 0, square = 0;
        for (size_t j = i; j < i + BLOCK; j++) {
            error += pow((double)decoded[j] - (double)a[j], 2);
            square += pow((double)a[j], 2);
        }
        sum += error / square;
    }
    free(payload);
    tacit__spec_release(&spec);
    return sum / (COUNT / BLOCK);
}

/* Of the error that the levels are designed for, how much is left, with 1 to 4 bits; and what block sign and minimum and maximum
   make of the same data, to compare with. Less than all is left, as a record's scale is the one that fits its own 256 numbers
   best (least squares), not that of normal noise: that is 1 to 2 % for noise itself. And where a few elements have most of a
   block's norm, rotated ones are spread less than normal ones are, the more so the fewer there are: one alone becomes two
   values that differ in sign, which one bit tells without an error. */
static const struct {
    const char *name;
    double      rotq[4], onebit, qsgd;
} kinds[DATA] = {
    [NORMAL] = {"normal", {0.993, 0.989, 0.987, 0.979}, 0.401, 0.298},
    [LAPLACE] = {"Laplace", {0.990, 0.974, 0.970, 0.979}, 0.581, 0.599},
    [ROWS] = {"rows", {0.992, 0.980, 0.968, 0.959}, 0.956, 0.966},
    [SPIKES] = {"spikes", {0.760, 0.788, 0.865, 0.873}, 1.134, 2.214},
    [STUDENT] = {"Student", {0.965, 0.957, 0.957, 0.951}, 0.676, 1.018},
    [ONE_HOT] = {"one in a block", {0.310, 1.003, 0.994, 0.814}, 1.365, 0.809},
};
static const double losses[] = {0, 0.3634, 0.1175, 0.03454, 0.009497}; /* Max (1960), table I */

START_TEST(errors)
{
    char text[32];

    fill(_i);
    for (int bits = 1; bits <= 4; bits++) {
        double relative;
        snprintf(text, sizeof text, "rotq:bits=%d+ef", bits);
        relative = error_of(text) / losses[bits];
        ck_assert_msg(relative <= 1.02, "%s, %s: %.4f of the error by design", text, kinds[_i].name, relative);
        ck_assert_msg(fabs(relative / kinds[_i].rotq[bits - 1] - 1) <= 0.02, "%s, %s: %.4f of the error by design, not %.3f",
                      text, kinds[_i].name, relative, kinds[_i].rotq[bits - 1]);
    }
    ck_assert_double_eq_tol(error_of("onebit:block=256+ef"), kinds[_i].onebit, 0.02 * kinds[_i].onebit);
    ck_assert_double_eq_tol(error_of("qsgd:bits=2,block=256+ef"), kinds[_i].qsgd, 0.02 * kinds[_i].qsgd);
}
END_TEST

/* ---- Definitions ---- */

/* The sign of an element, from the wire format's words. */
static double sign_of(const tacit_block_t *block, size_t i)
{
    const tacit_stream_t stream = tacit__stream(&block->key, true);

    return tacit__random(&stream, (block->first + i) / 32) >> (i % 32) & 1 ? -1 : 1;
}

/* Rotated element p of values x, without the factor 1/16. */
static double rotated(const double *x, unsigned p)
{
    const unsigned swapped = p >> 4 | (p & 15) << 4;
    double         sum = 0;

    for (unsigned i = 0; i < BLOCK; i++) {
        sum += __builtin_parity(i & swapped) ? -x[i] : x[i];
    }
    return sum;
}

/* Levels by Max's tables, scale and values in float64, which differs where a magnitude is close to a border. */
START_TEST(definition)
{
    static const double magnitudes[5][8] = {{0},
                                            {0.7980},
                                            {0.4528, 1.510},
                                            {0.2451, 0.7560, 1.344, 2.152},
                                            {0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733}};
    const int           bits = _i;
    char                text[32];
    tacit_spec_t        spec;
    tacit_block_t       block;
    uint8_t             payload[4 + BLOCK / 2];
    double              x[BLOCK], v[BLOCK], c[BLOCK], dots[2] = {0}, square = 0, scale;

    snprintf(text, sizeof text, "rotq:bits=%d+ef", bits);
    spec = spec_of(text);
    block = block_of(&spec, 6 * BLOCK, BLOCK - 9);
    fill(STUDENT);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    scale = (double)tacit__bits_float(tacit__load32(payload));
    for (unsigned i = 0; i < BLOCK; i++) {
        x[i] = i < block.count ? sign_of(&block, i) * (double)a[i] : 0;
        square += x[i] * x[i];
    }
    for (unsigned p = 0; p < BLOCK; p++) {
        const size_t bit = p % 8 * (size_t)bits;
        uint64_t     eight = 0;
        unsigned     level;
        memcpy(&eight, payload + 4 + p / 8 * (size_t)bits, (size_t)bits);
        level = (unsigned)(eight >> bit & ((1u << bits) - 1));
        c[p] = magnitudes[bits][level % (1u << (bits - 1))] * (level >> (bits - 1) ? -1 : 1);
        v[p] = rotated(x, p);
        for (int m = 0; m < 1 << (bits - 1); m++) { /* none is nearer, to the tables' four digits */
            const double here = fabs(v[p]) / sqrt(square);
            ck_assert(fabs(here - fabs(c[p])) <= fabs(here - magnitudes[bits][m]) + 0.001);
        }
        ck_assert(v[p] * c[p] >= 0);
        dots[0] += v[p] * c[p];
        dots[1] += c[p] * c[p];
    }
    ck_assert_double_eq_tol(scale, dots[0] / dots[1] / BLOCK, 5e-4 * scale);
    for (unsigned i = 0; i < block.count; i++) {
        double value = 0;
        for (unsigned p = 0; p < BLOCK; p++) {
            value += scale * (__builtin_parity(i & (p >> 4 | (p & 15) << 4)) ? -c[p] : c[p]);
        }
        ck_assert_double_eq_tol((double)decoded[i], value * sign_of(&block, i), 5e-3 * sqrt(square / BLOCK));
    }
    tacit__spec_release(&spec);
}
END_TEST

/* A block whose rotation is `large` at one place and `small` elsewhere. */
static double error_of_outlier(const char *text, double small)
{
    tacit_spec_t        spec = spec_of(text);
    const tacit_block_t block = block_of(&spec, 0, BLOCK);
    const double        large = sqrt(BLOCK - (BLOCK - 1) * small * small);
    uint8_t             payload[4 + BLOCK / 2];
    double              v[BLOCK], error = 0, square = 0, factor;

    for (unsigned p = 0; p < BLOCK; p++) {
        v[p] = p == 5 ? large : small;
    }
    for (unsigned i = 0; i < BLOCK; i++) { /* the transform is its own inverse */
        a[i] = (float)(sign_of(&block, i) * rotated(v, i) / 16);
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    for (unsigned i = 0; i < BLOCK; i++) {
        error += pow((double)decoded[i] - (double)a[i], 2);
        square += pow((double)a[i], 2);
    }
    ck_assert_uint_eq(spec.compressor->quality(spec.compressor_config, BLOCK, &factor), TACIT_CONTRACTION);
    ck_assert_msg(error <= factor * square, "%s: %g is above %g", text, error / square, factor);
    tacit__spec_release(&spec);
    return error / square / factor;
}

/* One element alone in the rotation, and one beside others that just reach the second level; quality() promises little more. */
START_TEST(worst_case)
{
    ck_assert_double_ge(error_of_outlier("rotq:bits=1+ef", 0), 0.9999);
    ck_assert_double_ge(error_of_outlier("rotq:bits=2+ef", 0), 0.9999);
    ck_assert_double_ge(error_of_outlier("rotq:bits=3+ef", 0), 0.98);
    ck_assert_double_ge(error_of_outlier("rotq:bits=4+ef", 0.2584), 0.99);
    for (int i = 0; i < 200; i++) {
        for (int bits = 1; bits <= 4; bits++) {
            char text[32];
            snprintf(text, sizeof text, "rotq:bits=%d+ef", bits);
            ck_assert_double_gt(error_of_outlier(text, i * 0.005), 0);
        }
    }
}
END_TEST

/* Two equal elements alone: half of the rotated ones are zero, and a bit is wasted on each. No mean over signs is worse. */
START_TEST(two_alone)
{
    for (size_t i = 0; i < COUNT; i++) {
        a[i] = i % BLOCK == 3 || i % BLOCK == 200 ? 7 : 0;
    }
    ck_assert_double_eq_tol(error_of("rotq:bits=1+ef"), 0.5, 1e-6);
    for (size_t i = 0; i < COUNT; i++) { /* one alone is spread evenly, and nothing is lost but roundings */
        a[i] = i % BLOCK == 3 ? 7 : 0;
    }
    ck_assert_double_le(error_of("rotq:bits=1+ef"), 1e-12);
}
END_TEST

/* All ranks rotate alike, and steps, slots and seeds otherwise. */
START_TEST(keys)
{
    tacit_spec_t  spec = spec_of("rotq+ef");
    tacit_block_t block = block_of(&spec, 0, BLOCK);
    uint64_t     *parts[] = {&block.key.rank, &block.key.seed, &block.key.slot, &block.key.step};
    uint8_t       first[4 + BLOCK / 4], payload[4 + BLOCK / 4];

    fill(NORMAL);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, first, decoded), 0);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        ++*parts[i];
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
        ck_assert((memcmp(first, payload, sizeof first) == 0) == (i == 0));
        --*parts[i];
    }
    tacit__spec_release(&spec);
}
END_TEST

/* Another power of two changes the scale alone, from the smallest normal numbers to almost the largest. */
START_TEST(whole_range)
{
    tacit_spec_t  spec = spec_of("rotq:bits=3+ef");
    tacit_block_t block = block_of(&spec, 0, BLOCK);
    uint8_t       first[4 + 3 * BLOCK / 8], payload[4 + 3 * BLOCK / 8];
    float         scaled[BLOCK], values[BLOCK];

    fill(NORMAL);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, first, decoded), 0);
    for (int exponent = -110; exponent <= 120; exponent += 5) { /* |a| is from 2^-10 to 2^2 */
        for (size_t i = 0; i < BLOCK; i++) {
            scaled[i] = ldexpf(a[i], exponent);
            values[i] = ldexpf(decoded[i], exponent);
        }
        ck_assert_uint_eq(round_trip(&block, spec.compressor, scaled, payload, scaled), 0);
        same_bytes(payload + 4, first + 4, sizeof first - 4, "levels");
        same_floats(scaled, values, BLOCK, "values");
    }
    for (size_t i = 0; i < BLOCK; i++) { /* half of a number near the largest cannot be kept back with the other sign */
        scaled[i] = i % 3 ? FLT_MAX : -FLT_MAX;
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, scaled, payload, scaled), TACIT_FAULT_NONFINITE);
    ck_assert_uint_eq(tacit__load32(payload), TACIT_FLOAT_NAN);
    tacit__spec_release(&spec);
}
END_TEST

/* A short block costs as much as a whole one. */
START_TEST(sizes)
{
    static const size_t counts[] = {0, 1, 255, 256, 257, 1000}, blocks[] = {0, 1, 1, 1, 2, 4};

    for (int bits = 1; bits <= 4; bits++) {
        char         text[32];
        tacit_spec_t spec;
        snprintf(text, sizeof text, "rotq:bits=%d", bits);
        spec = spec_of(text);
        for (size_t i = 0; i < COUNT_OF(counts); i++) {
            ck_assert_uint_eq(spec.compressor->bound(spec.compressor_config, counts[i]), blocks[i] * (4 + 32 * (size_t)bits));
        }
        ck_assert_double_eq_tol(spec.compressor->delta(spec.compressor_config, NULL), 1 - losses[bits], 1e-4);
        tacit__spec_release(&spec);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rotq");
    TCase *tests = tcase_create("rotq");

    tcase_add_loop_test(tests, errors, 0, DATA);
    tcase_add_loop_test(tests, definition, 1, 5);
    tcase_add_test(tests, worst_case);
    tcase_add_test(tests, two_alone);
    tcase_add_test(tests, keys);
    tcase_add_test(tests, whole_range);
    tcase_add_test(tests, sizes);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
