/* SPDX-License-Identifier: Apache-2.0 */
/* `qsgd`: worked bytes at every width, both roundings, their bounds and means, ranges, and what is refused. */
#include "compress.h"
#include "random.h"

static const float example[8] = {-1, -.5f, 0, .25f, .5f, .75f, 1, 2};

static const struct {
    int     bits;
    float   unit;
    uint8_t levels[8], bytes[8];
} worked[] = {
    {1, 3, {0, 0, 0, 0, 1, 1, 1, 1}, {0xf0}},
    {2, 1, {0, 1, 1, 1, 2, 2, 2, 3}, {0x54, 0xea}},
    {3, 0.42857143f, {0, 1, 2, 3, 4, 4, 5, 7}, {0x88, 0x46, 0xf6}},
    {4, 0.2f, {0, 3, 5, 6, 8, 9, 10, 15}, {0x30, 0x65, 0x98, 0xfa}},
    {8, 0.011764706f, {0, 43, 85, 106, 128, 149, 170, 255}, {0x00, 0x2b, 0x55, 0x6a, 0x80, 0x95, 0xaa, 0xff}},
};

/* The nearest levels of 8 elements, which are a short block. With one bit no spec allows it, but the arithmetic is the same. */
START_TEST(worked_bytes)
{
    const int     bits = worked[_i].bits;
    const size_t  level_bytes = bits <= 4 ? 4 : 8;
    tacit_spec_t  spec = spec_of("qsgd:rounding=nearest");
    tacit_block_t block = block_of(&spec, 0, 8);
    uint8_t       payload[16], expected[16] = {0};
    float         decoded[8];

    for (const tacit_param_t *param = spec.compressor->params; param->key; param++) {
        if (strcmp(param->key, "bits") == 0) {
            *(int64_t *)(void *)((char *)spec.compressor_config + param->offset) = bits;
        }
    }
    tacit__store32(expected, tacit__float_bits(worked[_i].unit));
    tacit__store32(expected + 4, tacit__float_bits(-1));
    memcpy(expected + 8, worked[_i].bytes, 8);
    ck_assert_uint_eq(spec.compressor->bound(spec.compressor_config, 8), 8 + level_bytes);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, example, payload, decoded), 0);
    same_bytes(payload, expected, 8 + level_bytes, "payload");
    for (size_t i = 0; i < 8; i++) {
        const float product = worked[_i].unit * (float)worked[_i].levels[i];
        ck_assert(decoded[i] == -1 + product);
    }
    tacit__spec_release(&spec);
}
END_TEST

/* Every width, at every place of a long and of a short block: the payload read bit by bit, as its description says. */
START_TEST(every_width)
{
    enum { COUNT = 96 + 96 + 43 };
    char                 text[64];
    tacit_spec_t         spec;
    tacit_block_t        block;
    float                a[COUNT], decoded[COUNT];
    uint8_t              payload[3 * (8 + 96)];
    const uint8_t       *record = payload;
    const tacit_stream_t stream = tacit__stream(&(tacit_key_t){1, 2, 3, 4}, false);
    const float          top = (float)((1 << _i) - 1);

    snprintf(text, sizeof text, "qsgd:bits=%d,block=96,rounding=stochastic", _i);
    spec = spec_of(text);
    block = block_of(&spec, 960, COUNT);
    harness_fill(a, COUNT, (uint64_t)_i, 1);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    for (size_t i = 0; i < COUNT; i++) {
        const size_t in_block = i % 96, bit = in_block * (size_t)_i;
        float        unit, minimum, level;
        unsigned     packed;
        record = i > 0 && in_block == 0 ? record + 8 + 12 * _i : record;
        unit = tacit__bits_float(tacit__load32(record));
        minimum = tacit__bits_float(tacit__load32(record + 4));
        packed = record[8 + bit / 8] >> bit % 8;
        packed |= bit % 8 + (size_t)_i > 8 ? (unsigned)record[9 + bit / 8] << (8 - bit % 8) : 0;
        packed &= (1u << _i) - 1;
        level = floorf((a[i] - minimum) / unit + tacit__uniform(tacit__random(&stream, 960 + i)));
        level = level < top ? level : top;
        ck_assert_msg((float)packed == level, "element %zu has level %u, not %g", i, packed, (double)level);
    }
    ck_assert_ptr_eq(record, payload + 2 * (8 + 12 * _i));
    for (size_t bit = 48 * (size_t)_i; bit < (48 * (size_t)_i + 31) / 32 * 32; bit++) {
        ck_assert_uint_eq(record[8 + bit / 8] >> bit % 8 & 1, 0); /* bytes of padding */
    }
    tacit__spec_release(&spec);
}
END_TEST

/* Half a unit at most; the minimum comes back exactly, the maximum to an ulp of the range. */
START_TEST(nearest_bounds)
{
    static const float scales[] = {1, 1e-30f, 1e-42f, 1e37f};
    tacit_spec_t       spec = spec_of("qsgd:bits=4,rounding=nearest");
    tacit_block_t      block = block_of(&spec, 0, 256);
    float              a[256], decoded[256], unit;
    uint8_t            payload[8 + 128];

    for (size_t s = 0; s < COUNT_OF(scales); s++) {
        size_t low = 0, high = 0;
        double worst = 0;
        harness_fill(a, 256, s, scales[s]);
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
        unit = tacit__bits_float(tacit__load32(payload));
        for (size_t i = 0; i < 256; i++) {
            low = a[i] < a[low] ? i : low;
            high = a[i] > a[high] ? i : high;
            worst = fmax(worst, fabs((double)a[i] - (double)decoded[i]));
        }
        ck_assert(decoded[low] == a[low]);
        /* 15 roundings of the unit by half an ulp where numbers are subnormal: 8 times the least of them. */
        ck_assert_double_le(worst, (double)unit * 0.50001 + (scales[s] < 1e-38f ? 8 * 0x1p-149 : 0));
        ck_assert_double_le(fabs((double)a[high] - (double)decoded[high]),
                            4 * FLT_EPSILON * ((double)a[high] - (double)a[low]) + (scales[s] < 1e-38f ? 8 * 0x1p-149 : 0));
    }
    tacit__spec_release(&spec);
}
END_TEST

/* Constant blocks are exact, whatever the constant: no range is too small. */
START_TEST(constants)
{
    static const float values[] = {0, -0.0f, 1, -3.3f, 0x1p-149f, 1e-11f, FLT_MAX, -FLT_MAX};
    tacit_spec_t       spec = spec_of("qsgd:bits=2,block=32+ef");
    tacit_block_t      block = block_of(&spec, 0, 40);
    float              a[40], decoded[40];
    uint8_t            payload[16 + 12];

    for (size_t v = 0; v < COUNT_OF(values); v++) {
        for (size_t i = 0; i < 40; i++) {
            a[i] = values[v];
        }
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
        for (size_t i = 0; i < 40; i++) {
            ck_assert(decoded[i] == values[v]);
        }
        ck_assert_uint_eq(tacit__load32(payload), 0);
        ck_assert_uint_eq(tacit__load32(payload + 8), 0);
    }
    /* Two zeros are a constant too, and which comes first does not show. */
    for (size_t i = 0; i < 40; i++) {
        a[i] = i % 2 ? 0.0f : -0.0f;
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    ck_assert_uint_eq(tacit__load32(payload + 4), 0);
    /* A range of 1e-20 around 0 is not flattened. */
    for (size_t i = 0; i < 40; i++) {
        a[i] = (float)(i % 4) * 1e-20f;
    }
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    ck_assert_double_eq_tol((double)decoded[3], 3e-20, 1e-26);
    tacit__spec_release(&spec);
}
END_TEST

/* What cannot be said in float32 is a fault and decodes as NaN over the block, and only there. */
START_TEST(not_finite)
{
    static const float pairs[][2] = {{FLT_MAX, -FLT_MAX}, {NAN, 1}, {INFINITY, 1}, {-INFINITY, INFINITY}, {3e38f, -1e38f}};
    tacit_spec_t       spec = spec_of("qsgd:block=96+ef");
    tacit_block_t      block = block_of(&spec, 0, 100);
    uint8_t            payload[8 + 48 + 8 + 4];
    float              a[100], decoded[100];

    for (size_t p = 0; p < COUNT_OF(pairs); p++) {
        for (size_t place = 0; place < 95; place += 31) {
            harness_fill(a, 100, p, 1);
            a[place] = pairs[p][0];
            a[place + 1] = pairs[p][1];
            ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), TACIT_FAULT_NONFINITE);
            for (size_t i = 0; i < 100; i++) {
                ck_assert(!isfinite(decoded[i]) == (i < 96));
            }
        }
    }
    tacit__spec_release(&spec);
}
END_TEST

/* The largest range that is finite: nothing decodes to infinity, or it is a fault. */
START_TEST(largest_range)
{
    for (int bits = 2; bits <= 8; bits++) {
        char          text[64];
        tacit_spec_t  spec;
        tacit_block_t block;
        float         a[2] = {0, FLT_MAX}, decoded[2];
        uint8_t       payload[16];
        uint32_t      faults;
        snprintf(text, sizeof text, "qsgd:bits=%d+ef", bits);
        spec = spec_of(text);
        block = block_of(&spec, 0, 2);
        faults = round_trip(&block, spec.compressor, a, payload, decoded);
        ck_assert(faults ? isnan(decoded[0]) && isnan(decoded[1]) : isfinite(decoded[1]));
        a[1] = 1e38f;
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
        tacit__spec_release(&spec);
    }
}
END_TEST

/* 10^4 draws of 100 elements. Element i lies p of a unit above a level: its variance is p (1 - p) unit^2, so that the mean of
   T draws has the standard error sqrt(p (1 - p) / T) unit. */
START_TEST(unbiased)
{
    enum { COUNT = 100, DRAWS = 10000 };
    char          text[64];
    tacit_spec_t  spec;
    tacit_block_t block;
    float         a[COUNT], decoded[COUNT];
    double        sums[COUNT] = {0}, square = 0, error = 0, variance = 0, factor;
    uint8_t       payload[8 + 104];
    double        unit, minimum;

    snprintf(text, sizeof text, "qsgd:bits=%d", _i);
    spec = spec_of(text);
    block = block_of(&spec, 512, COUNT);
    harness_fill(a, COUNT, 5, 1);
    for (block.key.step = 0; block.key.step < DRAWS; block.key.step++) {
        ck_assert_uint_eq(spec.compressor->kernels[TACIT_ISA_SCALAR]->encode(&block, a, payload, decoded), 0);
        for (size_t i = 0; i < COUNT; i++) {
            sums[i] += (double)decoded[i];
            error += pow((double)decoded[i] - (double)a[i], 2);
        }
    }
    unit = (double)tacit__bits_float(tacit__load32(payload));
    minimum = (double)tacit__bits_float(tacit__load32(payload + 4));
    for (size_t i = 0; i < COUNT; i++) {
        const double level = ((double)a[i] - minimum) / unit, p = level - floor(level);
        const double tolerance = 5 * unit * sqrt(p * (1 - p) / DRAWS) + 1e-4 * unit; /* r has 24 bits, levels + r fewer */
        ck_assert_double_eq_tol(sums[i] / DRAWS, (double)a[i], tolerance);
        variance += unit * unit * p * (1 - p);
        square += (double)a[i] * (double)a[i];
    }
    ck_assert_uint_eq(spec.compressor->quality(spec.compressor_config, COUNT, &factor), TACIT_UNBIASED);
    ck_assert_double_eq_tol(error / DRAWS, variance, 0.03 * variance);
    ck_assert_double_le(variance, factor * square);
    tacit__spec_release(&spec);
}
END_TEST

/* Steps, slots, seeds and ranks draw differently; the same key draws the same. */
START_TEST(keys)
{
    tacit_spec_t  spec = spec_of("qsgd:rounding=stochastic");
    tacit_block_t block = block_of(&spec, 0, 256);
    uint64_t     *parts[] = {&block.key.seed, &block.key.slot, &block.key.step, &block.key.rank};
    float         a[256], decoded[256];
    uint8_t       first[8 + 128], other[8 + 128];

    harness_fill(a, 256, 1, 1);
    round_trip(&block, spec.compressor, a, first, decoded);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        ++*parts[i];
        round_trip(&block, spec.compressor, a, other, decoded);
        ck_assert(memcmp(first, other, sizeof first) != 0);
        --*parts[i];
        round_trip(&block, spec.compressor, a, other, decoded);
        same_bytes(first, other, sizeof first, "same key");
    }
    tacit__spec_release(&spec);
}
END_TEST

static void quality_is(const char *text, tacit_quality_t quality, double factor)
{
    tacit_spec_t spec = spec_of(text);
    double       found;

    ck_assert_uint_eq(spec.compressor->quality(spec.compressor_config, 1 << 20, &found), quality);
    ck_assert_double_eq_tol(found, factor, 1e-15);
    tacit__spec_release(&spec);
}

START_TEST(settling)
{
    quality_is("qsgd+ef", TACIT_CONTRACTION, 256 / 450.0);
    quality_is("qsgd", TACIT_UNBIASED, 256 / 450.0);
    quality_is("qsgd:rounding=nearest", TACIT_CONTRACTION, 256 / 450.0);
    quality_is("qsgd:rounding=stochastic,block=448+ef", TACIT_UNBIASED, 448 / 450.0);
    quality_is("qsgd:bits=1", TACIT_UNBIASED, 128);
    quality_is("qsgd:bits=3,block=96,rounding=stochastic+ef", TACIT_UNBIASED, 96 / 98.0);
    refused("qsgd:rounding=stochastic,block=480+ef", "block=448|rounding=nearest");
    refused("qsgd:bits=3,block=128,rounding=stochastic+ef", "block=96|rounding=nearest");
    refused("qsgd:bits=2,block=32,rounding=stochastic+ef", "whatever the block|rounding=nearest");
    refused("qsgd:bits=1+ef", "onebit");
    refused("qsgd:bits=1,rounding=nearest", "onebit");
    refused("qsgd:bits=1,rounding=stochastic+ef", "onebit");
    refused("qsgd:block=33", "32");
}
END_TEST

/* The worst input: two elements that are as far apart as can be, each in the middle of two levels' neighbours. */
START_TEST(adversarial)
{
    tacit_spec_t  spec = spec_of("qsgd:bits=2,block=32,rounding=nearest");
    tacit_block_t block = block_of(&spec, 0, 32);
    float         a[32] = {0}, decoded[32];
    uint8_t       payload[16];
    double        error = 0, factor;

    a[0] = 3;
    a[1] = -3; /* the unit is 2: zeros lie in the middle of -1 and 1 and become 1 */
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    for (size_t i = 0; i < 32; i++) {
        error += pow((double)decoded[i] - (double)a[i], 2);
    }
    spec.compressor->quality(spec.compressor_config, 32, &factor);
    ck_assert_double_eq(error, 30);
    ck_assert_double_eq(factor * 18, 32);
    tacit__spec_release(&spec);
}
END_TEST

/* What is lost of normal noise, as a part of |x|^2, and what delta() says of it. */
static void typical(const char *text, const float *a, size_t count, size_t blocks, double tolerance)
{
    static float        decoded[1 << 18];
    tacit_spec_t        spec = spec_of(text);
    tacit_slot_config_t tensor = {.count = count};
    tacit_block_t       block = block_of(&spec, 0, count);
    uint8_t            *payload = malloc(spec.compressor->bound(spec.compressor_config, count));
    double              lost = 0, square = 0, expected = 1 - spec.compressor->delta(spec.compressor_config, &tensor);

    for (size_t b = 0; b < blocks; b++) {
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a + b * count, payload, decoded), 0);
        for (size_t i = 0; i < count; i++) {
            lost += pow((double)decoded[i] - (double)a[b * count + i], 2);
            square += pow((double)a[b * count + i], 2);
        }
    }
    ck_assert_msg(fabs(lost / square - expected) <= tolerance * expected + 1e-12, "%s, %zu elements: %.5f is lost, not %.5f",
                  text, count, lost / square, expected);
    free(payload);
    tacit__spec_release(&spec);
}

/* Of normal noise, what delta() says gets across: to 2 %, and to 5 % where there are but four blocks. */
START_TEST(normal_noise)
{
    enum { COUNT = 1 << 18 };
    static const int blocks[] = {32, 64, 256, 2048, 65536};
    static float     a[COUNT];
    harness_random_t random = {7};
    char             text[64];

    for (size_t i = 0; i < COUNT; i++) {
        a[i] = (float)(3 * harness_normal(&random));
    }
    for (int bits = 2; bits <= 8; bits++) {
        for (size_t b = 0; b < COUNT_OF(blocks); b++) {
            snprintf(text, sizeof text, "qsgd:bits=%d,block=%d+econtrol", bits, blocks[b]);
            typical(text, a, COUNT, 1, blocks[b] > 2048 ? 0.05 : 0.02);
        }
        snprintf(text, sizeof text, "qsgd:bits=%d+econtrol", bits);
        typical(text, a, 8, COUNT / 8, 0.02); /* a tensor that is shorter than a block */
    }
    typical("qsgd:bits=3,block=96,rounding=stochastic+econtrol", a, COUNT, 1, 0.02);
    typical("qsgd:rounding=stochastic+econtrol", a, COUNT, 1, 0.02);
    typical("qsgd:bits=2+econtrol", a, 2, COUNT / 2, 0); /* nothing is lost but roundings */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qsgd");
    TCase *tests = tcase_create("qsgd");

    tcase_add_loop_test(tests, worked_bytes, 0, (int)COUNT_OF(worked));
    tcase_add_loop_test(tests, every_width, 1, 9);
    tcase_add_test(tests, nearest_bounds);
    tcase_add_test(tests, constants);
    tcase_add_test(tests, not_finite);
    tcase_add_test(tests, largest_range);
    tcase_add_loop_test(tests, unbiased, 1, 9);
    tcase_add_test(tests, keys);
    tcase_add_test(tests, settling);
    tcase_add_test(tests, adversarial);
    tcase_add_test(tests, normal_noise);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
