/* SPDX-License-Identifier: Apache-2.0 */
/* Frame headers and checksums: what is written is read, byte for byte as doc/wire-format.md has it, and no damage goes by. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "frame.h"
#include "harness.h"

enum { HEADER = TACIT_FRAME_HEADER_BYTES, PAYLOAD = 150, MESSAGE = HEADER + PAYLOAD, ORDERED = 100 };

/* Every field different. */
static const tacit_frame_t sample = {
    .kind = TACIT_FRAME_SPARSE,
    .compressor = 0x12,
    .compressor_version = 0x34,
    .rank = 0x5678,
    .status = TACIT_ERR_FRAME,
    .slot = 0x9abcdef0,
    .spec = 0x0fedcba9,
    .sequence = 0x11223344,
    .step = 0x55667788,
    .history = 0x99aabbcc,
    .elements = 0xddeeff00,
    .round = 3,
    .index = 0x00a1b2c3,
    .total = 0xd4e5f607,
    .first = 0x18293a4b,
    .count = 0x5c6d7e8f,
    .payload_bytes = PAYLOAD,
};

static size_t make(const tacit_frame_t *frame, uint8_t *message)
{
    for (size_t i = 0; i < frame->payload_bytes; i++) {
        message[HEADER + i] = (uint8_t)(7 * i + 3);
    }
    return tacit__frame_write(frame, message);
}

static void same_frame(const tacit_frame_t *a, const tacit_frame_t *b)
{
    ck_assert_uint_eq(a->kind, b->kind);
    ck_assert_uint_eq(a->compressor, b->compressor);
    ck_assert_uint_eq(a->compressor_version, b->compressor_version);
    ck_assert_uint_eq(a->rank, b->rank);
    ck_assert_int_eq(a->status, b->status);
    ck_assert_uint_eq(a->slot, b->slot);
    ck_assert_uint_eq(a->spec, b->spec);
    ck_assert_uint_eq(a->sequence, b->sequence);
    ck_assert_uint_eq(a->step, b->step);
    ck_assert_uint_eq(a->history, b->history);
    ck_assert_uint_eq(a->elements, b->elements);
    ck_assert_uint_eq(a->round, b->round);
    ck_assert_uint_eq(a->index, b->index);
    ck_assert_uint_eq(a->total, b->total);
    ck_assert_uint_eq(a->first, b->first);
    ck_assert_uint_eq(a->count, b->count);
    ck_assert_uint_eq(a->payload_bytes, b->payload_bytes);
}

START_TEST(every_field_comes_back)
{
    uint8_t       message[MESSAGE];
    tacit_frame_t frame, extreme = sample;

    ck_assert_uint_eq(make(&sample, message), MESSAGE);
    ck_assert_ptr_null(tacit__frame_parse(message, MESSAGE, &frame));
    same_frame(&frame, &sample);
    ck_assert_ptr_eq(frame.payload, message + HEADER);

    extreme.status = INT16_MIN;
    extreme.rank = UINT16_MAX;
    extreme.round = 255;
    extreme.index = 0xffffff;
    extreme.payload_bytes = 0;
    ck_assert_uint_eq(make(&extreme, message), HEADER);
    ck_assert_ptr_null(tacit__frame_parse(message, HEADER, &frame));
    same_frame(&frame, &extreme);
}
END_TEST

/* These bytes are the wire format: a change of them needs a new TACIT_FRAME_VERSION. */
START_TEST(golden_bytes)
{
    static const uint8_t golden[HEADER] = {
        0x54, 0x43, 0x54, 0x31,                         /* "TCT1" */
        0x01, 0x05, 0x12, 0x34,                         /* version, kind, compressor and its version */
        0xf0, 0xde, 0xbc, 0x9a, 0xa9, 0xcb, 0xed, 0x0f, /* slot, spec */
        0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55, /* sequence, step */
        0xcc, 0xbb, 0xaa, 0x99, 0x00, 0xff, 0xee, 0xdd, /* history, elements */
        0xc3, 0xb2, 0xa1, 0x03, 0x07, 0xf6, 0xe5, 0xd4, /* index and round, total */
        0x4b, 0x3a, 0x29, 0x18, 0x8f, 0x7e, 0x6d, 0x5c, /* first, count */
        0x78, 0x56, 0xfc, 0xff, 0x96, 0x00, 0x00, 0x00, /* rank, status, payload bytes */
        0x03, 0x40, 0x05, 0xb1, 0x2c, 0xf5, 0x6f, 0x1e, /* checksums of the payload, of the header */
    };
    uint8_t message[MESSAGE];

    make(&sample, message);
    for (size_t i = 0; i < HEADER; i++) {
        ck_assert_msg(message[i] == golden[i], "byte %zu is %02x, not %02x", i, message[i], golden[i]);
    }
}
END_TEST

START_TEST(every_flipped_bit)
{
    uint8_t       message[MESSAGE];
    tacit_frame_t frame;

    make(&sample, message);
    for (size_t bit = 0; bit < 8 * MESSAGE; bit++) {
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_msg(tacit__frame_parse(message, MESSAGE, &frame) != NULL, "bit %zu is not missed", bit);
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_ptr_null(tacit__frame_parse(message, MESSAGE, &frame));
}
END_TEST

/* Two flipped bits of the header: CRC-32C has a distance of at least 6 at this length. */
START_TEST(every_two_flipped_bits)
{
    uint8_t       message[MESSAGE];
    tacit_frame_t frame;

    make(&sample, message);
    for (size_t a = 0; a < 8 * HEADER; a++) {
        message[a / 8] ^= (uint8_t)(1u << a % 8);
        for (size_t b = 0; b < a; b++) {
            message[b / 8] ^= (uint8_t)(1u << b % 8);
            ck_assert_ptr_nonnull(tacit__frame_parse(message, MESSAGE, &frame));
            message[b / 8] ^= (uint8_t)(1u << b % 8);
        }
        message[a / 8] ^= (uint8_t)(1u << a % 8);
    }
}
END_TEST

/* In memory of exactly that length, so that reading on is seen by a sanitizer. */
static const char *parse_copy(const uint8_t *message, size_t bytes)
{
    uint8_t      *copy = malloc(bytes + (bytes == 0));
    tacit_frame_t frame;
    const char   *reason;

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, message, bytes);
    reason = tacit__frame_parse(copy, bytes, &frame);
    free(copy);
    return reason;
}

START_TEST(every_truncation)
{
    uint8_t message[MESSAGE + 8] = {0};

    make(&sample, message);
    for (size_t bytes = 0; bytes < sizeof message; bytes++) {
        const char *reason = parse_copy(message, bytes);

        ck_assert_msg((reason == NULL) == (bytes == MESSAGE), "%zu bytes", bytes);
        ck_assert(reason == NULL || strstr(reason, "truncated") != NULL);
    }
}
END_TEST

START_TEST(foreign_bytes)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: somewhere.example\r\nAccept: text/plain; nothing else than that\r\n\r\n";
    harness_random_t  random = {5};
    uint8_t           noise[200];

    ck_assert_ptr_nonnull(strstr(parse_copy((const uint8_t *)text, sizeof text), "foreign"));
    memset(noise, 0, sizeof noise);
    ck_assert_ptr_nonnull(parse_copy(noise, sizeof noise));
    for (int i = 0; i < 1000; i++) {
        for (size_t j = 0; j < sizeof noise; j++) {
            noise[j] = (uint8_t)harness_next(&random);
        }
        ck_assert_ptr_nonnull(parse_copy(noise, harness_next(&random) % sizeof noise));
    }
}
END_TEST

/* Headers that are whole but not of this release. */
START_TEST(other_versions_and_kinds)
{
    uint8_t       message[MESSAGE];
    tacit_frame_t frame = sample;
    uint32_t      crc;

    for (int kind = 0; kind < 256; kind++) {
        frame.kind = (uint8_t)kind;
        make(&frame, message);
        ck_assert((parse_copy(message, MESSAGE) == NULL) == (kind > 0 && kind < TACIT_FRAME_KINDS));
    }
    make(&sample, message);
    message[4]++;
    crc = tacit__crc32c(message, HEADER - 4);
    for (int i = 0; i < 4; i++) {
        message[HEADER - 4 + i] = (uint8_t)(crc >> 8 * i);
    }
    ck_assert_ptr_nonnull(strstr(parse_copy(message, MESSAGE), "version"));
}
END_TEST

START_TEST(crc32c)
{
    static const uint8_t zeros[32] = {0};

    /* The check value of the CRC catalogues, and one of RFC 3720, appendix B.4. */
    ck_assert_uint_eq(tacit__crc32c("123456789", 9), 0xe3069283u);
    ck_assert_uint_eq(tacit__crc32c(zeros, sizeof zeros), 0x8a9136aau);
    ck_assert_uint_eq(tacit__crc32c("", 0), 0);
}
END_TEST

START_TEST(payload_checksum_golden)
{
    uint8_t bytes[1000];

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)i;
    }
    ck_assert_uint_eq(tacit__payload_checksum(bytes, 0), 0x00000000u);
    ck_assert_uint_eq(tacit__payload_checksum(bytes, 1), 0xc2b2ae35u);
    ck_assert_uint_eq(tacit__payload_checksum(bytes, 64), 0x00ba891au);
    ck_assert_uint_eq(tacit__payload_checksum(bytes, 256), 0xe49e4d28u);
    ck_assert_uint_eq(tacit__payload_checksum(bytes, sizeof bytes), 0xddfbca2fu);
}
END_TEST

/* Word by word, in whatever order, wherever they lie. */
START_TEST(payload_checksum_terms)
{
    uint8_t bytes[1003];

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * i >> 3);
    }
    for (size_t length = 0; length + 3 <= sizeof bytes; length++) {
        const uint8_t *payload = bytes + length % 4;
        uint32_t       sum = (uint32_t)length * TACIT_CHECKSUM_LENGTH;

        for (size_t word = (length + 3) / 4; word-- > 0;) {
            uint32_t value = 0;

            for (size_t i = 0; i < 4 && 4 * word + i < length; i++) {
                value |= (uint32_t)payload[4 * word + i] << 8 * i;
            }
            sum += tacit__checksum_term(value, (uint32_t)word);
        }
        ck_assert_uint_eq(tacit__payload_checksum(payload, length), sum);
    }
}
END_TEST

/* Lengths around whole words, and with whole turns of the lanes. */
START_TEST(payload_checksum_flips)
{
    uint8_t bytes[300];

    for (size_t length = 1; length <= sizeof bytes; length += length < 70 ? 1 : 13) {
        uint32_t sum;

        for (size_t i = 0; i < length; i++) {
            bytes[i] = (uint8_t)(i * i);
        }
        sum = tacit__payload_checksum(bytes, length);
        for (size_t bit = 0; bit < 8 * length; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            ck_assert_uint_ne(tacit__payload_checksum(bytes, length), sum);
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
}
END_TEST

/* Any two words that change places: alike ones, and ones that differ in the sign of a float only. */
START_TEST(payload_checksum_order)
{
    for (int signs = 0; signs < 2; signs++) {
        uint32_t words[ORDERED];
        uint32_t sum;

        for (uint32_t i = 0; i < ORDERED; i++) {
            words[i] = 0x3f800000u + (i << 16);
        }
        for (size_t a = 0; a < ORDERED; a++) {
            for (size_t b = 0; b < a; b++) {
                uint32_t first = words[b], second = words[a];

                words[a] = signs ? first ^ 0x80000000u : second;
                sum = tacit__payload_checksum(words, sizeof words);
                words[b] = words[a];
                words[a] = first;
                ck_assert_msg(tacit__payload_checksum(words, sizeof words) != sum, "words %zu and %zu", a, b);
                words[b] = first;
                words[a] = second;
            }
        }
    }
}
END_TEST

/* Zeros at the end count. */
START_TEST(payload_checksum_length)
{
    static const uint8_t zeros[130] = {0};

    for (size_t bytes = 1; bytes <= sizeof zeros; bytes++) {
        ck_assert_uint_ne(tacit__payload_checksum(zeros, bytes), tacit__payload_checksum(zeros, bytes - 1));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("frame");
    TCase *header = tcase_create("header"), *sums = tcase_create("checksums");

    tcase_add_test(header, every_field_comes_back);
    tcase_add_test(header, golden_bytes);
    tcase_add_test(header, every_flipped_bit);
    tcase_add_test(header, every_two_flipped_bits);
    tcase_add_test(header, every_truncation);
    tcase_add_test(header, foreign_bytes);
    tcase_add_test(header, other_versions_and_kinds);
    tcase_set_timeout(header, 60);
    suite_add_tcase(suite, header);
    tcase_add_test(sums, crc32c);
    tcase_add_test(sums, payload_checksum_golden);
    tcase_add_test(sums, payload_checksum_terms);
    tcase_add_test(sums, payload_checksum_flips);
    tcase_add_test(sums, payload_checksum_order);
    tcase_add_test(sums, payload_checksum_length);
    suite_add_tcase(suite, sums);
    return harness_main(suite);
}
