/* SPDX-License-Identifier: Apache-2.0 */
/* The worked bytes on doc/wire-format.md are those that the library makes: each is made here and looked up there. */
#include "comm.h"
#include "compress.h"
#include "deal.h"
#include "random.h"
#include "tacit_moe.h"
#include "ranks.h"

static char page[1 << 17]; /* with one blank for any run of blanks and ends of lines */

static void load_page(void)
{
    const char *root = getenv("srcdir");
    char        path[4096];
    size_t      used = 0;
    FILE       *file;

    snprintf(path, sizeof path, "%s/doc/wire-format.md", root != NULL ? root : ".");
    file = fopen(path, "r");
    ck_assert_msg(file != NULL, "cannot read %s", path);
    for (int c = fgetc(file); c != EOF && used + 1 < sizeof page; c = fgetc(file)) {
        bool blank = c == ' ' || c == '\n';

        if (!blank || (used != 0 && page[used - 1] != ' ')) {
            page[used++] = blank ? ' ' : (char)c;
        }
    }
    ck_assert_msg(feof(file), "%s is larger than this test expects", path);
    ck_assert_int_eq(fclose(file), 0);
}

/* The text stands on the page. */
static void page_says(const char *text)
{
    ck_assert_msg(strstr(page, text) != NULL, "doc/wire-format.md does not say: %s", text);
}

static void page_says_number(const char *before, uint32_t number)
{
    char text[96];

    snprintf(text, sizeof text, "%s0x%08x", before, number);
    page_says(text);
}

/* `before` and the bytes, in rows of 16, stand on the page. */
static void page_says_bytes(const char *before, const uint8_t *bytes, size_t count)
{
    char text[160];

    for (size_t row = 0; row < count; row += 16) {
        size_t used = (size_t)snprintf(text, sizeof text, "%s", row == 0 ? before : "");

        for (size_t i = row; i < count && i < row + 16; i++) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%02x", i > row ? " " : "", bytes[i]);
        }
        page_says(text);
    }
}

/* The frame of a tensor `w`, as the first of two ranks encodes it. Returns its bytes. */
static size_t frame_of(const char *spec, const float *values, size_t count, uint8_t *frame, size_t capacity)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    size_t              bytes;

    tensor.count = count;
    tensor.spec = spec;
    ck_assert_int_eq(tacit_codec_create("w", &tensor, NULL, 0, 2, &codec), TACIT_OK);
    ck_assert_int_eq(tacit_encode(codec, 0, values, 0, count, frame, capacity, &bytes), TACIT_OK);
    tacit_codec_destroy(codec);
    return bytes;
}

static void page_says_payload(const char *before, const char *spec, const float *values, size_t count)
{
    uint8_t frame[512];
    size_t  bytes = frame_of(spec, values, count, frame, sizeof frame);

    page_says_bytes(before, frame + TACIT_FRAME_HEADER_BYTES, bytes - TACIT_FRAME_HEADER_BYTES);
}

static const float signs_a[16] = {7, 1, -7, 1, -1, -7, 1, 7, -1, 7, 1, -7, 7, -1, 1, -7};
static const float signs_b[16] = {3.5f, -.5f, .5f, 3.5f, 3.5f, -.5f, -3.5f, -.5f, -.5f, 3.5f, 3.5f, -.5f, .5f, -3.5f, .5f, -3.5f};

START_TEST(header)
{
    uint8_t      frame[512];
    const size_t bytes = frame_of("onebit+ef", signs_a, 16, frame, sizeof frame);

    ck_assert_uint_eq(bytes, 72);
    page_says_bytes("", frame, bytes);
}
END_TEST

START_TEST(checksums)
{
    static const char digits[] = "123456789";
    uint8_t           ramp[100];
    char              text[64];

    for (size_t i = 0; i < sizeof ramp; i++) {
        ramp[i] = (uint8_t)i;
    }
    page_says_number("`123456789` it is ", tacit__crc32c(digits, 9));
    page_says_number("| empty | ", tacit__payload_checksum(ramp, 0));
    page_says_number("| the 9 bytes `123456789` | ", tacit__payload_checksum(digits, 9));
    page_says_number("| the 64 bytes 00 01 … 3f | ", tacit__payload_checksum(ramp, 64));
    page_says_number("| the 100 bytes 00 01 … 63 | ", tacit__payload_checksum(ramp, 100));
    snprintf(text, sizeof text, "Of `w` it is 0x%016llx", (unsigned long long)tacit__hash_text("w"));
    page_says(text);
}
END_TEST

static void page_says_stream(const char *name, bool shared)
{
    const tacit_key_t    key = {0x7461636974u, tacit__hash_text("w"), 0, 0};
    const tacit_stream_t stream = tacit__stream(&key, shared);
    uint32_t             words[4];
    char                 text[160];

    tacit__random4(&stream, 0, words);
    snprintf(text, sizeof text, "| %s | %08x %08x | %08x %08x | %08x %08x %08x %08x |", name, stream.key[0], stream.key[1],
             stream.high[0], stream.high[1], words[0], words[1], words[2], words[3]);
    page_says(text);
}

START_TEST(random_numbers)
{
    page_says_stream("rank 0", false);
    page_says_stream("shared", true);
}
END_TEST

START_TEST(casts)
{
    static const float       values[8] = {1, -2, 0.1f, 65504, 65520, 1e6f, 0x1p-24f, 3.14159265f};
    static const char *const names[8] = {"1", "-2", "0.1", "65504", "65520", "10^6", "2^-24", "3.14159265"};
    uint8_t                  half[512], brain[512];
    char                     text[64];

    ck_assert_uint_eq(frame_of("fp16", values, 8, half, sizeof half), 80);
    ck_assert_uint_eq(frame_of("bf16", values, 8, brain, sizeof brain), 80);
    for (size_t i = 0; i < 8; i++) {
        const uint8_t *a = half + 64 + 2 * i, *b = brain + 64 + 2 * i;

        snprintf(text, sizeof text, "| %s | %02x %02x | %02x %02x |", names[i], a[0], a[1], b[0], b[1]);
        page_says(text);
    }
}
END_TEST

START_TEST(onebit)
{
    uint8_t frame[512];

    ck_assert_uint_eq(frame_of("onebit", signs_a, 16, frame, sizeof frame), 72);
    page_says_bytes("", frame + 64, 4);
    page_says_bytes("5.0 ", frame + 68, 4);
    ck_assert_uint_eq(frame_of("onebit", signs_b, 16, frame, sizeof frame), 72);
    page_says_bytes("", frame + 64, 4);
    page_says_bytes("2.5 ", frame + 68, 4);
}
END_TEST

START_TEST(qsgd)
{
    static const float values[8] = {-1, -.5f, 0, .25f, .5f, .75f, 1, 2};

    page_says_payload("2 2 2 3 | ", "qsgd:bits=2,block=32+ef", values, 8);
    page_says_payload("4 4 5 7 | ", "qsgd:bits=3,block=32+ef", values, 8);
    page_says_payload("9 10 15 | ", "qsgd:bits=4,block=32+ef", values, 8);
    page_says_payload("170 255 | ", "qsgd:bits=8,block=32+ef", values, 8);
    page_says_payload("9 10 15: ", "qsgd:bits=4,block=32,rounding=stochastic", values, 8);
}
END_TEST

/* One line of a table, or of bytes in groups, is one row on the page. */
static void page_says_row(const char *before, const char *spec, const float *values, size_t count)
{
    uint8_t      frame[512];
    char         text[512];
    const size_t bytes = frame_of(spec, values, count, frame, sizeof frame);
    size_t       used = (size_t)snprintf(text, sizeof text, "%s", before);

    for (size_t i = TACIT_FRAME_HEADER_BYTES; i < bytes; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, " %02x", frame[i]);
    }
    page_says(text);
}

START_TEST(topk)
{
    static const float values[8] = {0.5f, -3, 0, 1, 2, -0.25f, -1, 0};
    static float       far[100000], spread[40];
    uint8_t            frame[512];

    page_says_row("With `index=u32`:", "topk:ratio=0.375,index=u32", values, 8);
    page_says_row("| u16 |", "topk:ratio=0.375,index=u16", values, 8);
    page_says_row("| rle16 |", "topk:ratio=0.375,index=rle16", values, 8);
    page_says_row("| bitmap |", "topk:ratio=0.375,index=bitmap", values, 8);
    page_says_row("| bitmap |", "topk:ratio=0.375", values, 8);
    page_says_row("| rice |", "topk:ratio=0.375,index=rice", values, 8);
    ck_assert_uint_eq(frame_of("topk:ratio=0.375,index=u32,values=fp16", values, 8, frame, sizeof frame), 90);
    page_says_bytes("`index=u32,values=fp16`: ", frame + 64, 8);
    page_says_bytes("the same indices, ", frame + 84, 6);
    far[3] = 1;
    far[70000] = -2;
    page_says_row("has 3, an escape and 4460:", "topk:ratio=0.00002,index=rle16", far, 100000);
    spread[5] = spread[6] = spread[24] = spread[33] = 1;
    ck_assert_uint_eq(frame_of("topk:ratio=0.1,index=rice", spread, 40, frame, sizeof frame), 64 + 8 + 4 + 16);
    ck_assert_uint_eq(frame[64 + 6], 3);
    page_says_bytes("and 01 000: ", frame + 64 + 8, 4);
}
END_TEST

START_TEST(sparse_record)
{
    uint8_t frame[512];

    ck_assert_uint_eq(frame_of("topk:ratio=0.25+ef", signs_a, 16, frame, sizeof frame), 64 + 28);
    page_says("28 bytes 04 00 00 00 03 00 00 00 a5 00 00 00 4 entries");
    page_says_bytes("28 bytes ", frame + 64, 12);
}
END_TEST

START_TEST(dealt)
{
    static const float sums[16] = {5.25f, 0, -3.5f, 1.75f, 1.75f, -3.5f, -1.75f, 3.5f};
    tacit_deal_t       deal = {tacit__hash_text("w"), 1000, 2, 0};
    uint8_t            frame[512];
    char               text[160];

    for (; deal.ranks <= 3; deal.ranks++) {
        int used = snprintf(text, sizeof text, "with %u ranks", deal.ranks);

        for (uint32_t row = 0; row < 8; row++) {
            used += snprintf(text + used, sizeof text - (size_t)used, " %u", tacit__deal_turn(&deal, row));
        }
        page_says(text);
    }
    snprintf(text, sizeof text, "4 ranks own %zu %zu %zu %zu", tacit__deal_part(&deal, 0), tacit__deal_part(&deal, 1),
             tacit__deal_part(&deal, 2), tacit__deal_part(&deal, 3));
    page_says(text);
    ck_assert_uint_eq(frame_of("topk:ratio=0.25+ef", sums, 16, frame, sizeof frame), 64 + 28);
    page_says("places 0 to 15, 28 bytes 04 00 00 00 03 00 00 00 a5 00 00 00 4 entries");
    page_says_bytes("bits 0, 2, 5 and 7 ", frame + 64 + 12, 16);
}
END_TEST

START_TEST(randk)
{
    static const float values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float              drawn[4];
    uint8_t            frame[512];
    char               text[128];

    ck_assert_uint_eq(frame_of("randk:ratio=0.25,scale=one", values, 16, frame, sizeof frame), 80);
    memcpy(drawn, frame + 64, sizeof drawn);
    snprintf(text, sizeof text, "step 0 draws elements %g, %g, %g, %g;", (double)drawn[0], (double)drawn[1], (double)drawn[2],
             (double)drawn[3]);
    page_says(text);
}
END_TEST

START_TEST(fp8)
{
    static const float values[8] = {1, -2, 0.1f, 3.14159265f, 0, -0.001f, 240, 448};

    page_says_payload("e5m2`: ", "fp8:format=e4m3", values, 8);
    page_says_payload("scale 1 ", "fp8:format=e5m2", values, 8);
}
END_TEST

START_TEST(rotq)
{
    uint8_t frame[512];

    ck_assert_uint_eq(frame_of("rotq:bits=1", signs_a, 16, frame, sizeof frame), 64 + 36);
    page_says_bytes("68 bytes, are ", frame + 64, 16);
    ck_assert_uint_eq(frame_of("rotq:bits=2", signs_a, 16, frame, sizeof frame), 64 + 68);
    page_says_bytes("", frame + 64, 16);
}
END_TEST

START_TEST(powersgd)
{
    static const float  one[4] = {1, 0, 0, 1};
    tacit_spec_t        spec = spec_of("powersgd:rank=1,rate=0");
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    const tacit_key_t   key = {0x7461636974u, tacit__hash_text("w"), 0, 0};
    const tacit_block_t block = {spec.compressor_config, key, 0, 4};
    const float         work[2] = {0};
    float               factor[2];

    tensor.count = 4;
    tensor.ndim = 2;
    tensor.shape[0] = tensor.shape[1] = 2;
    spec.compressor->linear->make_factor(&block, &tensor, 0, one, work, NULL, factor);
    page_says_bytes("the drawn vector: ", (const uint8_t *)factor, sizeof factor);
    tacit__spec_release(&spec);
}
END_TEST

/* What rank 0 sends in kind 9. */
static uint8_t rows[512];
static size_t  rows_bytes;
static tacit_status_t (*forward)(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket);

static tacit_status_t note_rows(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    if (((const uint8_t *)data)[TACIT_AT_KIND] == TACIT_FRAME_ROWS && bytes <= sizeof rows) {
        memcpy(rows, data, bytes);
        rows_bytes += bytes;
    }
    return forward(context, peer, data, bytes, ticket);
}

static void alltoall_body(tacit_comm_t *comm, void *arg)
{
    float out[16];

    (void)arg;
    if (tacit_comm_rank(comm) == 0) {
        forward = comm->transport.send;
        comm->transport.send = note_rows;
    }
    MUST(tacit_alltoall(comm, "onebit", TACIT_FLOAT32, tacit_comm_rank(comm) == 0 ? signs_a : signs_b, 8, out));
}

START_TEST(alltoall)
{
    char text[64];

    run_ranks(2, NULL, alltoall_body, NULL);
    ck_assert_uint_eq(rows_bytes, 72);
    page_says_bytes("", rows, rows_bytes);
    snprintf(text, sizeof text, "`all-to-all`, 0x%016llx", (unsigned long long)tacit__hash_text("all-to-all"));
    page_says(text);
}
END_TEST

START_TEST(tokens)
{
    static const float   given[] = {1, -2, .5f, 4};
    static const int32_t experts[] = {2, 1, 0, 2};
    tacit_moe_config_t   config = TACIT_MOE_CONFIG_INIT;
    tacit_moe_t         *moe;
    tacit_moe_pass_t    *pass;
    uint8_t              message[128];

    config.dimension = config.tokens = config.choices = 2;
    config.experts = 3;
    ck_assert_int_eq(tacit_moe_create_codec("m", &config, NULL, 0, 2, &moe), TACIT_OK);
    ck_assert_int_eq(tacit_moe_dispatch_begin(moe, given, 2, experts, &pass), TACIT_OK);
    ck_assert_uint_eq(tacit_moe_message_bytes(pass, 1), 90);
    ck_assert_int_eq(tacit_moe_write(pass, 1, message), TACIT_OK);
    page_says_bytes("", message, 64);
    page_says_bytes("", message + 64, 10);
    page_says_bytes("", message + 74, 16);
    tacit_moe_destroy(moe);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wire_format");
    TCase *tests = tcase_create("worked bytes");

    tcase_add_unchecked_fixture(tests, load_page, NULL);
    tcase_add_test(tests, header);
    tcase_add_test(tests, checksums);
    tcase_add_test(tests, random_numbers);
    tcase_add_test(tests, casts);
    tcase_add_test(tests, onebit);
    tcase_add_test(tests, qsgd);
    tcase_add_test(tests, topk);
    tcase_add_test(tests, sparse_record);
    tcase_add_test(tests, dealt);
    tcase_add_test(tests, randk);
    tcase_add_test(tests, fp8);
    tcase_add_test(tests, rotq);
    tcase_add_test(tests, powersgd);
    tcase_add_test(tests, alltoall);
    tcase_add_test(tests, tokens);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
