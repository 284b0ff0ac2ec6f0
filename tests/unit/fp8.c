/* SPDX-License-Identifier: Apache-2.0 */
/* `fp8`: every code of both formats and every border between two, held against their definitions; scales; what is cut. */
#include "compress.h"

/* A format by its definition: sign, exponent, fraction. */
typedef struct format {
    const char *name;
    int         fraction_bits, bias;
    double      largest;
    unsigned    last; /* the largest finite code */
} format_t;

static const format_t formats[] = {{"fp8:format=e4m3,block=32+ef", 3, 7, 448, 0x7e},
                                   {"fp8:format=e5m2,block=32+ef", 2, 15, 57344, 0x7b}};

enum { ONE = 127 /* the scale byte for 1 */, BLOCK = 32 };

static double value_of(const format_t *format, unsigned code)
{
    const unsigned fraction = code & ((1u << format->fraction_bits) - 1), field = (code & 0x7f) >> format->fraction_bits;
    const unsigned implied = field > 0 ? 1u << format->fraction_bits : 0;
    const double   magnitude = ldexp(implied + fraction, (field > 0 ? (int)field : 1) - format->bias - format->fraction_bits);

    return code & 0x80 ? -magnitude : magnitude;
}

/* The finite code nearest to a value, of two equally near the even one; found by trying all. */
static unsigned nearest(const format_t *format, double value)
{
    unsigned best = 0;

    for (unsigned code = 0; code <= format->last; code++) {
        const double distance = fabs(fabs(value) - value_of(format, code)), least = fabs(fabs(value) - value_of(format, best));
        best = distance < least || (distance == least && code % 2 == 0) ? code : best;
    }
    return best | (signbit(value) ? 0x80 : 0);
}

/* Encodes 31 values with one that makes the scale 1. */
static void encode_by_one(const format_t *format, const float *values, uint8_t *codes)
{
    tacit_spec_t  spec = spec_of(format->name);
    tacit_block_t block = block_of(&spec, 0, BLOCK);
    uint8_t       payload[1 + BLOCK];
    float         a[BLOCK], decoded[BLOCK];

    a[0] = (float)format->largest;
    memcpy(a + 1, values, (BLOCK - 1) * sizeof *a);
    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    ck_assert_uint_eq(payload[0], ONE);
    ck_assert_uint_eq(payload[1], format->last);
    memcpy(codes, payload + 2, BLOCK - 1);
    for (size_t i = 0; i < BLOCK; i++) {
        const float expected = (float)value_of(format, payload[1 + i]);
        same_floats(&decoded[i], &expected, 1, format->name);
    }
    tacit__spec_release(&spec);
}

/* All 256 codes decode to what they stand for, and the finite ones come back. */
START_TEST(every_code)
{
    const format_t *format = &formats[_i];
    tacit_spec_t    spec = spec_of(format->name);
    tacit_block_t   block = block_of(&spec, 0, BLOCK);
    uint8_t         payload[1 + BLOCK] = {ONE}, codes[BLOCK - 1];
    float           values[BLOCK];

    for (unsigned code = 0; code < 256; code++) {
        memset(payload + 1, (int)code, BLOCK);
        spec.compressor->kernels[TACIT_ISA_SCALAR]->decode(&block, payload, values, false);
        for (size_t i = 0; i < BLOCK; i++) {
            const float expected = (float)value_of(format, code);
            if ((code & 0x7f) > format->last) {
                ck_assert_msg(isnan(values[i]), "%s: %02x becomes %g", format->name, code, (double)values[i]);
            } else {
                same_floats(&values[i], &expected, 1, format->name);
            }
        }
        if ((code & 0x7f) <= format->last) {
            encode_by_one(format, values, codes);
            ck_assert_msg(codes[0] == code && codes[BLOCK - 2] == code, "%s: %02x comes back as %02x", format->name, code,
                          codes[0]);
        }
    }
    tacit__spec_release(&spec);
}
END_TEST

/* Around the middle of any two neighbours, subnormal ones and zero too, with both signs. */
START_TEST(every_border)
{
    const format_t *format = &formats[_i];

    for (unsigned code = 0; code < format->last; code++) {
        const float middle = (float)((value_of(format, code) + value_of(format, code + 1)) / 2);
        float values[BLOCK - 1] = {middle, nextafterf(middle, 0), nextafterf(middle, INFINITY), middle * 0.999f, middle * 1.001f};
        uint8_t codes[BLOCK - 1];
        for (size_t i = 0; i < 5; i++) {
            values[5 + i] = -values[i];
        }
        encode_by_one(format, values, codes);
        ck_assert_uint_eq(codes[0], code + code % 2);
        ck_assert_uint_eq(codes[1], code);
        ck_assert_uint_eq(codes[2], code + 1);
        for (size_t i = 0; i < BLOCK - 1; i++) {
            ck_assert_msg(codes[i] == nearest(format, (double)values[i]), "%s: %a becomes %02x", format->name, (double)values[i],
                          codes[i]);
        }
    }
}
END_TEST

/* The smallest power of two with which the largest magnitude fits, for all there are; no value is worse off than its nearest. */
START_TEST(scales)
{
    const format_t    *format = &formats[_i];
    tacit_spec_t       spec = spec_of(format->name);
    tacit_block_t      block = block_of(&spec, 0, 2);
    static const float fractions[] = {1, 1.5f, 1.75f, 1.7500001f, 1.9375f, 1.9999999f};
    const int          lowest = format->bias == 7 ? -116 : -109, highest = format->bias == 7 ? 119 : 112;
    uint8_t            payload[3];
    float              decoded[2];

    for (int exponent = -149; exponent <= 127; exponent++) {
        for (size_t i = 0; i < COUNT_OF(fractions); i++) {
            const float a[2] = {ldexpf(1, -149), -ldexpf(fractions[i], exponent)};
            int         scale = lowest;
            while (scale < highest && fabs((double)a[1]) > ldexp(format->largest, scale)) {
                scale++;
            }
            ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
            ck_assert_msg(payload[0] == scale + ONE, "%s: %a has the scale %d, not %d", format->name, (double)a[1],
                          payload[0] - ONE, scale);
            ck_assert_uint_eq(payload[2], nearest(format, ldexp((double)a[1], -scale)));
            ck_assert_uint_eq(payload[1], 0);
            ck_assert(decoded[0] == 0 && isfinite(decoded[1]));
            ck_assert(exponent >= -126 || decoded[1] == 0);
        }
    }
    tacit__spec_release(&spec);
}
END_TEST

/* Where the scale is at its highest, magnitudes are cut, and the excess is what is kept back. */
START_TEST(excess)
{
    tacit_spec_t  spec = spec_of("fp8+ef");
    tacit_block_t block = block_of(&spec, 0, 3);
    const float   a[3] = {FLT_MAX, -0x1.ep127f, 0x1.cp127f}, expected[3] = {0x1.cp127f, -0x1.cp127f, 0x1.cp127f};
    float         decoded[3];
    uint8_t       payload[4];

    ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
    same_floats(decoded, expected, 3, "decoded");
    ck_assert(a[1] - decoded[1] == -0x1p124f);
    tacit__spec_release(&spec);
}
END_TEST

/* A block with a NaN or an infinity decodes as NaN and leaves its neighbour alone; zeros keep their sign. */
START_TEST(not_finite)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};
    tacit_spec_t       spec = spec_of("fp8:block=32");
    tacit_block_t      block = block_of(&spec, 0, BLOCK + 4);
    float              a[BLOCK + 4] = {0}, decoded[BLOCK + 4];
    uint8_t            payload[2 + BLOCK + 4], zeros[BLOCK] = {0};

    a[BLOCK + 1] = -0.0f;
    a[BLOCK + 2] = 3;
    ck_assert_uint_eq(spec.compressor->bound(spec.compressor_config, BLOCK + 4), sizeof payload);
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        a[17] = values[i];
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), TACIT_FAULT_NONFINITE);
        ck_assert_uint_eq(payload[0], 255);
        same_bytes(payload + 1, zeros, BLOCK, "codes");
        for (size_t j = 0; j < BLOCK; j++) {
            ck_assert(isnan(decoded[j]));
        }
        same_floats(decoded + BLOCK, a + BLOCK, 4, "neighbour");
    }
    tacit__spec_release(&spec);
}
END_TEST

/* The error of normal data, and of the worst that there is: values just above a power of two, half an ulp off. */
START_TEST(error)
{
    static const char *const specs[] = {"fp8:format=e4m3", "fp8:format=e5m2"};
    static const double      normal[] = {0.0007, 0.0028}, worst[] = {1 / 17.0 / 17, 1 / 9.0 / 9};
    static float             a[65536], decoded[65536];
    static uint8_t           payload[65536 + 256];
    tacit_spec_t             spec = spec_of(specs[_i]);
    tacit_block_t            block = block_of(&spec, 0, COUNT_OF(a));
    double                   errors[2] = {0}, squares[2] = {0}, factor;

    for (int data = 0; data < 2; data++) {
        harness_fill(a, COUNT_OF(a), 5, 1);
        for (size_t i = 0; data == 1 && i < COUNT_OF(a); i++) {
            a[i] = ldexpf(_i == 0 ? 1 + 0x1p-4f : 1 + 0x1p-3f, (int)(i % 9)); /* a tie that goes down */
        }
        ck_assert_uint_eq(round_trip(&block, spec.compressor, a, payload, decoded), 0);
        for (size_t i = 0; i < COUNT_OF(a); i++) {
            errors[data] += pow((double)decoded[i] - (double)a[i], 2);
            squares[data] += pow((double)a[i], 2);
        }
    }
    ck_assert_double_eq_tol(errors[0] / squares[0], normal[_i], 0.02 * normal[_i]);
    ck_assert_double_eq_tol(errors[1] / squares[1], worst[_i], 1e-9);
    ck_assert_uint_eq(spec.compressor->quality(spec.compressor_config, COUNT_OF(a), &factor), TACIT_CONTRACTION);
    ck_assert(factor > worst[_i] && factor < 1.2 * worst[_i] * (1 + 0x1p-3));
    tacit__spec_release(&spec);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fp8");
    TCase *tests = tcase_create("fp8");

    tcase_add_loop_test(tests, every_code, 0, 2);
    tcase_add_loop_test(tests, every_border, 0, 2);
    tcase_add_loop_test(tests, scales, 0, 2);
    tcase_add_test(tests, excess);
    tcase_add_test(tests, not_finite);
    tcase_add_loop_test(tests, error, 0, 2);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
