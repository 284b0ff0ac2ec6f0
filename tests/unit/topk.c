/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: exact selection with ties, held against sorting; payloads byte by byte; payloads that lie. */
#include "compress.h"

enum { MOST = 200000 };

static float    a[MOST];
static uint32_t indices[MOST + 1];

static size_t choose(const char *text, size_t count)
{
    tacit_spec_t  spec = spec_of(text);
    tacit_block_t block = block_of(&spec, 0, count);
    const size_t  limit = spec.compressor->select->limit(spec.compressor_config, count);
    size_t        entries;

    indices[limit] = 0xdeadbeef;
    entries = choose_from(&spec, &block, a, indices);
    ck_assert_uint_le(entries, limit);
    ck_assert_uint_eq(indices[limit], 0xdeadbeef);
    tacit__spec_release(&spec);
    return entries;
}

START_TEST(worked_example)
{
    const float x[8] = {3, -1, 2, .5f, -4, 1, 0, .25f};
    double      error = 0, square = 0;

    memcpy(a, x, sizeof x);
    ck_assert_uint_eq(choose("topk:ratio=0.25", 8), 2);
    ck_assert(indices[0] == 0 && indices[1] == 4);
    for (size_t i = 0; i < 8; i++) {
        square += (double)(x[i] * x[i]);
        error += i == 0 || i == 4 ? 0 : (double)(x[i] * x[i]);
    }
    ck_assert(error == 6.3125 && square == 31.3125);
    ck_assert_double_le(error, (1 - 0.25) * square);
}
END_TEST

START_TEST(ties_and_zeros)
{
    const float ties[4] = {1, 1, 1, 5}, zeros[4] = {0, -0.0f, 2, -0.0f};

    memcpy(a, ties, sizeof ties);
    ck_assert_uint_eq(choose("topk:ratio=0.5", 4), 2);
    ck_assert(indices[0] == 0 && indices[1] == 3);
    ck_assert_uint_eq(choose("topk:ratio=1", 4), 4);
    memcpy(a, zeros, sizeof zeros);
    ck_assert_uint_eq(choose("topk:ratio=0.75", 4), 1);
    ck_assert_uint_eq(indices[0], 2);
    a[2] = 0x1p-149f;
    ck_assert_uint_eq(choose("topk:ratio=0.01", 4), 1);
    ck_assert_uint_eq(indices[0], 2);
    a[2] = 0;
    ck_assert_uint_eq(choose("topk:ratio=1", 4), 0);
    ck_assert_uint_eq(choose("topk:ratio=1", 0), 0);
}
END_TEST

/* NaN, infinity and the largest numbers come first, in this order. */
START_TEST(not_finite)
{
    const float x[6] = {1, FLT_MAX, -INFINITY, 2, -NAN, 3};

    memcpy(a, x, sizeof x);
    ck_assert_uint_eq(choose("topk:ratio=0.1", 6), 1);
    ck_assert_uint_eq(indices[0], 4);
    ck_assert_uint_eq(choose("topk:ratio=0.5", 6), 3);
    ck_assert(indices[0] == 1 && indices[1] == 2 && indices[2] == 4);
}
END_TEST

/* What sorting chooses, over few distinct values (many ties), over all exponents, and over a normal distribution. */
START_TEST(as_sorting)
{
    static const double ratios[] = {0.0003, 0.01, 0.1, 0.5, 0.99, 1};
    const size_t        count = 5003;
    harness_random_t    random = {(uint64_t)_i};
    uint32_t           *order = malloc(count * sizeof *order);
    char                text[64];

    harness_fill(a, count, (uint64_t)_i, 1);
    for (size_t i = 0; i < count; i++) {
        const uint64_t word = harness_next(&random);
        a[i] = _i == 0 ? (float)(int)(word % 7) - 3 : _i == 1 ? tacit__bits_float((uint32_t)word & 0xbfffffffu) : a[i];
    }
    for (size_t r = 0; r < COUNT_OF(ratios); r++) {
        size_t keep, entries;
        snprintf(text, sizeof text, "topk:ratio=%g", ratios[r]);
        entries = choose(text, count);
        keep = (size_t)ceil(ratios[r] * (double)count);
        largest_first(a, count, order);
        for (; keep > 0 && a[order[keep - 1]] == 0; keep--) {
        }
        qsort(order, keep, sizeof *order, compare_indices);
        ck_assert_uint_eq(entries, keep);
        same_bytes(indices, order, keep * sizeof *order, text);
    }
    free(order);
}
END_TEST

/* Encodes a[0..count) and checks that it decodes to the same; returns the bytes. */
static size_t payload_of(const char *text, size_t first, size_t count, size_t entries, uint8_t *payload)
{
    tacit_spec_t          spec = spec_of(text);
    tacit_block_t         block = block_of(&spec, first, count);
    const tacit_select_t *select = spec.compressor->select;
    float                *decoded = malloc((entries + 1) * sizeof *decoded), *values = malloc((entries + 1) * sizeof *values);
    uint32_t             *found = malloc((entries + 1) * sizeof *found);
    const size_t          bytes = encode_of(&spec, &block, a, indices, entries, payload, decoded);

    ck_assert_uint_le(bytes, select->bound(spec.compressor_config, count, entries));
    ck_assert_uint_eq(select->decode(&block, payload, bytes, found, values, entries), entries);
    same_floats(values, decoded, entries, "values");
    for (size_t i = 0; i < entries; i++) {
        found[i] += (uint32_t)first;
    }
    same_bytes(found, indices, entries * sizeof *found, "indices");
    if (entries > 0) {
        ck_assert_uint_eq(select->decode(&block, payload, bytes, found, values, entries - 1), SIZE_MAX);
    }
    free(decoded);
    free(values);
    free(found);
    tacit__spec_release(&spec);
    return bytes;
}

START_TEST(worked_payloads)
{
    /* Elements 65536, 65537, 131073 of a range that starts at 65530: relative 6, 7, 65543. */
    static const uint8_t long_form[] = {3, 0, 0, 0, 0, 0, 0,    0,    6, 0, 0,    0,    7, 0, 0,    0,
                                        7, 0, 1, 0, 0, 0, 0x80, 0x3f, 0, 0, 0x00, 0xc0, 0, 0, 0x80, 0x47}; /* 1, -2, 65536 */
    static const uint8_t short_form[] = {3, 0, 0, 0, 1, 1, 0, 0, 2, 0,    0, 0,    1,    0,   0,
                                         0, 6, 0, 7, 0, 7, 0, 0, 0, 0x3c, 0, 0xc0, 0xff, 0x7b}; /* 1, -2, 65504 */
    uint8_t              payload[64];

    a[65536] = 1;
    a[65537] = -2;
    a[131073] = 65536;
    indices[0] = 65536;
    indices[1] = 65537;
    indices[2] = 131073;
    ck_assert_uint_eq(payload_of("topk:index=u32", 65530, 70000, 3, payload), sizeof long_form);
    same_bytes(payload, long_form, sizeof long_form, "32 bits");
    payload[28] = 0xee;
    ck_assert_uint_eq(payload_of("topk:index=u16,values=fp16", 65530, 70000, 3, payload), sizeof short_form + 1);
    same_bytes(payload, short_form, 23, "16 bits");
    same_bytes(payload + 24, short_form + 23, sizeof short_form - 23, "16 bits, values");
}
END_TEST

/* auto: as short as the shortest, and of equal ones the first. */
START_TEST(automatic)
{
    static const char *const codings[] = {"u32", "u16", "rle16", "bitmap", "rice"};
    static const size_t      counts[] = {1, 8, 64, 1000, 65536, 65537, MOST};
    uint8_t                 *payload = malloc((size_t)8 * MOST + 64);
    size_t                   chosen[COUNT_OF(codings)] = {0};
    char                     text[64];

    for (size_t i = 0; i < MOST; i++) {
        a[i] = 1;
    }
    for (size_t i = 0; i < COUNT_OF(counts) * 18; i++) {
        const size_t count = counts[i / 18], stride = (size_t)1 << i % 18, spread = stride < count ? stride : count;
        size_t       entries = 0, least = SIZE_MAX, best = 0, bytes;
        for (size_t at = spread / 2; at < count; at += spread) {
            indices[entries++] = (uint32_t)at;
        }
        for (size_t coding = 0; coding < COUNT_OF(codings); coding++) {
            snprintf(text, sizeof text, "topk:ratio=1,index=%s", codings[coding]);
            bytes = payload_of(text, 0, count, entries, payload);
            ck_assert_uint_eq(payload[4], coding);
            best = bytes < least ? coding : best;
            least = bytes < least ? bytes : least;
        }
        ck_assert_uint_eq(payload_of("topk:ratio=1", 0, count, entries, payload), least);
        ck_assert_uint_eq(payload[4], best);
        chosen[best]++;
    }
    ck_assert(chosen[0] > 0 && chosen[3] > 0 && chosen[4] > 0);
    ck_assert_uint_eq(payload_of("topk", 0, 0, 0, payload), 8);
    free(payload);
}
END_TEST

/* float16 values: saturated and rounded, if need be to zero; but what would round to zero is not chosen. */
START_TEST(half_values)
{
    tacit_spec_t  spec = spec_of("topk:values=fp16,index=u16+ef");
    tacit_block_t block = block_of(&spec, 0, 4);
    const float   x[4] = {1e6f, -0x1p-30f, 1.0004883f, 3}, expected[4] = {65504, -0.0f, 1, 3};
    float         decoded[4];
    uint8_t       payload[64];

    memcpy(a, x, sizeof x);
    for (uint32_t i = 0; i < 4; i++) {
        indices[i] = i;
    }
    ck_assert_uint_eq(encode_of(&spec, &block, a, indices, 4, payload, decoded), 8 + 4 + 8 + 8);
    same_floats(decoded, expected, 4, "decoded");
    tacit__spec_release(&spec);
    for (int sampled = 0; sampled < 2; sampled++) {
        const float    tiny[8] = {0x1p-25f, -0x1.000002p-25f, 0, -0x1p-25f, 0x1p-149f, 0x1p-24f, -NAN, 0x1p-26f};
        const uint32_t chosen[3] = {1, 5, 6};

        spec = spec_of(sampled ? "topk:ratio=1,values=fp16,select=sampled" : "topk:ratio=1,values=fp16");
        block = block_of(&spec, 0, 8);
        ck_assert_uint_eq(choose_from(&spec, &block, tiny, indices), 3);
        same_bytes(indices, chosen, sizeof chosen, "chosen");
        tacit__spec_release(&spec);
    }
}
END_TEST

/* Counts and indices that lie. Each is otherwise a valid payload of 3 entries among 10, or 100000, elements. */
static const struct {
    const char *index;
    size_t      count, at;
    uint32_t    word;
} lie_cases[] = {
    {"u32", 10, 0, 4},
    {"u32", 10, 0, 2},
    {"u32", 10, 0, UINT32_MAX},
    {"u32", 10, 4, 2},
    {"u32", 10, 4, 0x200},
    {"u32", 10, 4, 0x10000},
    {"u32", 10, 4, 1},
    {"u32", 10, 8, 2},
    {"u32", 10, 12, 9},
    {"u32", 10, 16, 10},
    {"u32", 10, 16, UINT32_MAX},
    {"u32", 10, 12, 0},
    {"u16", 100000, 8, 4},
    {"u16", 100000, 8, 2},
    {"u16", 100000, 8, UINT32_MAX},
    {"u16", 100000, 12, 1},
    {"u16", 100000, 16, 0x20005},
    {"u16", 100000, 16, 0x50005},
    {"u16", 100000, 12, UINT32_MAX},
    {"u16", 100000, 4, 0},
    {"u16", 100000, 4, 0x10001}, /* a parameter that it has not */
    {"rle16", 100000, 0, 4},     /* a pair more */
    {"rle16", 100000, 0, 2},     /* and less */
    {"rle16", 1000, 8, 1000},    /* runs that lead out of the range */
    {"bitmap", 64, 0, 2},        /* more bits than entries */
    {"bitmap", 64, 8, 6},        /* fewer */
    {"bitmap", 10, 8, 0x406},    /* behind the range */
    {"bitmap", 64, 4, 4},        /* a word too many */
    {"rice", 10, 4, 32 << 16 | 4},
    {"rice", 10, 8, 0},
    {"rice", 10, 8, UINT32_MAX},
    {"rice", 10, 4, 31 << 16 | 4}, /* gaps that lead out of the range */
    {"rice", 10, 0, 2},            /* bits left over */
    {"rice", 10, 4, 5},            /* no coding */
};

START_TEST(lies)
{
    char          text[32];
    tacit_spec_t  spec;
    tacit_block_t block;
    uint32_t     *found = malloc(3 * sizeof *found); /* exact, for sanitizers to see what is written behind */
    float         values[3], decoded[3];
    uint8_t       payload[64], *exact;
    size_t        bytes;

    snprintf(text, sizeof text, "topk:index=%s", lie_cases[_i].index);
    spec = spec_of(text);
    block = block_of(&spec, 0, lie_cases[_i].count);
    indices[0] = 1;
    indices[1] = 2;
    indices[2] = 9;
    bytes = encode_of(&spec, &block, a, indices, 3, payload, decoded);
    exact = malloc(bytes);
    memcpy(exact, payload, bytes);
    ck_assert_uint_eq(spec.compressor->select->decode(&block, exact, bytes, found, values, 3), 3);
    tacit__store32(exact + lie_cases[_i].at, lie_cases[_i].word);
    ck_assert_uint_eq(spec.compressor->select->decode(&block, exact, bytes, found, values, 3), SIZE_MAX);
    free(exact);
    free(found);
    tacit__spec_release(&spec);
}
END_TEST

START_TEST(limits)
{
    static const struct {
        const char *text;
        size_t      count, limit;
    } cases[] = {
        {"topk", 0, 0},           {"topk", 1, 1},         {"topk", 100, 1},          {"topk", 101, 2},
        {"topk", 1000000, 10000}, {"topk:ratio=1", 7, 7}, {"topk:ratio=1e-9", 9, 1}, {"topk:ratio=0.5", 3, 2},
    };
    double factor;

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        tacit_spec_t spec = spec_of(cases[i].text);
        ck_assert_uint_eq(spec.compressor->select->limit(spec.compressor_config, cases[i].count), cases[i].limit);
        ck_assert_uint_eq(spec.compressor->quality(spec.compressor_config, cases[i].count, &factor), TACIT_CONTRACTION);
        ck_assert(cases[i].count == 0 ? factor == 0 : factor == 1 - (double)cases[i].limit / (double)cases[i].count);
        tacit__spec_release(&spec);
    }
    refused("topk:ratio=0", "ratio");
    refused("topk:ratio=1.5", "ratio");
}
END_TEST

static tacit_codec_t *codec_of(const char *spec)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;

    tensor.count = MOST;
    tensor.ndim = 2;
    tensor.shape[0] = MOST / 100;
    tensor.shape[1] = 100;
    tensor.spec = spec;
    ck_assert_int_eq(tacit_codec_create("codec", &tensor, NULL, 0, 1, &codec), TACIT_OK);
    return codec;
}

/* NaN near a tensor's end, when much has left the memory already that was to be sent: all of it is back. Numbers are such that no
   sum is rounded, so that also what comes after is as if nothing had been. */
START_TEST(stopped)
{
    static const char *const specs[] = {"topk:ratio=0.01+ef",
                                        "topk:ratio=0.01,values=fp16+ef",
                                        "topk:ratio=0.01,select=sampled+ef",
                                        "topk:ratio=0.01+dgc:momentum=0.5",
                                        "topk:ratio=0.01+ef21",
                                        "topk:ratio=0.01+econtrol"};
    const char              *spec = specs[_i / TACIT_ISA_COUNT];
    tacit_codec_t           *codecs[2];
    uint8_t                 *frames[2];
    size_t                   bytes[2], capacity;

    setenv("TACIT_ISA", tacit__isa_name((tacit_isa_t)(_i % TACIT_ISA_COUNT)), 1);
    for (int i = 0; i < 2; i++) {
        codecs[i] = codec_of(spec);
        capacity = tacit_codec_capacity(codecs[i], MOST);
        frames[i] = malloc(capacity);
    }
    for (uint64_t step = 0; step < 5; step++) {
        harness_fill(a, MOST, step, 1);
        for (size_t i = 0; i < MOST; i++) {
            a[i] = rintf(64 * a[i]);
        }
        if (step >= 2) {
            const size_t at = step == 2 ? MOST - 1 : step == 3 ? 3 : MOST / 2 + 17;
            const float  value = a[at];
            a[at] = step == 2 ? NAN : -INFINITY;
            ck_assert_int_eq(tacit_encode(codecs[0], step, a, 0, MOST, frames[0], capacity, &bytes[0]), TACIT_ERR_VALUE);
            a[at] = value;
            for (int array = 0; array < TACIT_STATE_ARRAYS; array++) {
                for (size_t i = 0; codecs[0]->memory.now[array] != NULL && i < MOST; i++) {
                    if (codecs[0]->memory.now[array][i] != codecs[1]->memory.now[array][i]) {
                        ck_abort_msg("%s, step %d: array %d, element %zu: %g is not %g", spec, (int)step, array, i,
                                     (double)codecs[0]->memory.now[array][i], (double)codecs[1]->memory.now[array][i]);
                    }
                }
            }
        }
        for (int i = 0; i < 2; i++) {
            ck_assert_int_eq(tacit_encode(codecs[i], step, a, 0, MOST, frames[i], capacity, &bytes[i]), TACIT_OK);
        }
        ck_assert_uint_eq(bytes[0], bytes[1]);
        same_bytes(frames[0], frames[1], bytes[0], spec);
    }
    for (int i = 0; i < 2; i++) {
        tacit_codec_destroy(codecs[i]);
        free(frames[i]);
    }
}
END_TEST

/* A spec that changes to one with more entries has room for them, also where the sieve's was enough for all elements before. */
START_TEST(more_entries)
{
    const size_t        count = 3000;
    tacit_spec_t        few = spec_of("topk:ratio=0.01"), all = spec_of("topk:ratio=1");
    const tacit_block_t block = block_of(&all, 0, count);
    tacit_selection_t  *selection = NULL;
    tacit_entries_t     entries;

    ck_assert(tacit__selection_reserve(&selection, &few, count));
    ck_assert(tacit__selection_reserve(&selection, &all, count));
    harness_fill(a, count, 1, 1);
    entries = tacit__choose(all.compressor->select, &block, a, selection);
    ck_assert_uint_eq(entries.count, count);
    memset(entries.kept, 0, count * sizeof *entries.kept); /* for sanitizers to see */
    same_floats(entries.values, a, count, "values");
    tacit__selection_release(selection);
    tacit__spec_release(&few);
    tacit__spec_release(&all);
}
END_TEST

/* What begins much larger than it goes on is gone through twice, also where memory is the only copy. */
START_TEST(twice)
{
    tacit_codec_t *codec = codec_of("topk:ratio=0.01+ef");
    tacit_spec_t   spec = spec_of("topk:ratio=0.01");
    tacit_block_t  block = block_of(&spec, 0, MOST);
    size_t         capacity = tacit_codec_capacity(codec, MOST), bytes, entries;
    uint8_t       *frame = malloc(capacity);
    float         *out = malloc(MOST * sizeof *out);

    harness_fill(a, MOST, 1, 1);
    for (size_t i = 0; i < MOST; i++) {
        a[i] = i < MOST / 8 ? a[i] : 1e-3f * a[i];
    }
    entries = choose_from(&spec, &block, a, indices);
    ck_assert_int_eq(tacit_encode(codec, 0, a, 0, MOST, frame, capacity, &bytes), TACIT_OK);
    ck_assert_int_gt(codec->selection->rounds, 0);
    ck_assert_int_eq(tacit_decode(codec, 0, frame, bytes, out, NULL, NULL), TACIT_OK);
    for (size_t i = 0, entry = 0; i < MOST; i++) {
        const bool chosen = entry < entries && indices[entry] == i;
        if (out[i] != (chosen ? a[i] : 0) || codec->memory.now[0][i] != a[i] - out[i]) {
            ck_abort_msg("element %zu: %g of %g", i, (double)out[i], (double)a[i]);
        }
        entry += chosen;
    }
    tacit_codec_destroy(codec);
    tacit__spec_release(&spec);
    free(frame);
    free(out);
}
END_TEST

/* A choice is taken back, before what is chosen has been sent or after. */
START_TEST(taken_back)
{
    static const char *const specs[] = {"topk:ratio=0.01+ef", "topk:ratio=0.01,values=fp16+ef",
                                        "topk:ratio=0.01+dgc:momentum=0.5", "topk:ratio=0.01+ef21"};
    tacit_codec_t           *codec = codec_of(specs[_i]);
    tacit_entries_t          entries;
    float                   *before = malloc(2 * MOST * sizeof *before);
    uint8_t                 *payload = malloc(tacit_codec_capacity(codec, MOST));

    ck_assert_int_eq(tacit__codec_expand(codec), TACIT_OK);
    for (uint64_t step = 0; step < 9; step++) {
        const tacit_block_t block = tacit__codec_block(codec, step, 0, MOST);
        harness_fill(a, MOST, step, 1);
        for (size_t i = 0; i < MOST; i++) {
            a[i] = rintf(64 * a[i]);
        }
        for (int array = 0; array < 2 && codec->memory.now[array] != NULL; array++) {
            memcpy(before + array * MOST, codec->memory.now[array], MOST * sizeof *before);
        }
        ck_assert_uint_eq(tacit__codec_choose(codec, step, a, &entries), 0);
        if (step % 3 == 0) {
            tacit__codec_unchoose(codec, a);
        } else {
            (void)codec->compressor->select->encode(&block, entries.values, entries.indices, entries.count, payload,
                                                    entries.values);
            tacit__codec_sent(codec, a, &entries);
        }
        if (step % 3 == 1) {
            tacit__codec_unsent(codec, a, &entries);
        }
        for (int array = 0; step % 3 != 2 && array < 2 && codec->memory.now[array] != NULL; array++) {
            same_floats(codec->memory.now[array], before + array * MOST, MOST, specs[_i]);
        }
    }
    tacit_codec_destroy(codec);
    free(before);
    free(payload);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("topk");
    TCase *tests = tcase_create("topk");

    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, worked_example);
    tcase_add_test(tests, ties_and_zeros);
    tcase_add_test(tests, not_finite);
    tcase_add_loop_test(tests, as_sorting, 0, 3);
    tcase_add_test(tests, more_entries);
    tcase_add_test(tests, twice);
    tcase_add_loop_test(tests, taken_back, 0, 4);
    tcase_add_loop_test(tests, stopped, 0, 6 * TACIT_ISA_COUNT);
    tcase_add_test(tests, worked_payloads);
    tcase_add_test(tests, automatic);
    tcase_add_test(tests, half_values);
    tcase_add_loop_test(tests, lies, 0, (int)COUNT_OF(lie_cases));
    tcase_add_test(tests, limits);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
