/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of compressors share: a compressor with its parameters from a spec, and a way to say "these bits are equal". */
#ifndef TACIT_TEST_COMPRESS_H
#define TACIT_TEST_COMPRESS_H

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "codec.h"
#include "compressor.h"
#include "harness.h"
#include "sieve.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static inline tacit_spec_t spec_of(const char *text)
{
    tacit_spec_t spec = {0};

    ck_assert_msg(tacit__spec_parse_any(text, &spec) == TACIT_OK, "%s: %s", text, tacit_last_error());
    return spec;
}

/* The spec is refused, with all of these words in the message. */
static inline void refused(const char *text, const char *words)
{
    tacit_spec_t spec = {0};
    char         copy[200];

    ck_assert_msg(tacit__spec_parse(text, &spec) == TACIT_ERR_SPEC, "%s is accepted", text);
    snprintf(copy, sizeof copy, "%s", words);
    for (const char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        ck_assert_msg(strstr(tacit_last_error(), word) != NULL, "'%s' is not in '%s'", word, tacit_last_error());
    }
    tacit__spec_release(&spec);
}

static inline tacit_block_t block_of(const tacit_spec_t *spec, size_t first, size_t count)
{
    return (tacit_block_t){.config = spec->compressor_config, .key = {1, 2, 3, 4}, .first = first, .count = count};
}

static inline void same_bytes(const void *a, const void *b, size_t bytes, const char *what)
{
    const uint8_t *x = a, *y = b;

    if (memcmp(a, b, bytes) == 0) {
        return;
    }
    for (size_t i = 0; i < bytes; i++) {
        ck_assert_msg(x[i] == y[i], "%s: byte %zu of %zu is %02x, not %02x", what, i, bytes, x[i], y[i]);
    }
}

static inline void same_floats(const float *a, const float *b, size_t count, const char *what)
{
    if (memcmp(a, b, count * sizeof *a) == 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(tacit__float_bits(a[i]) == tacit__float_bits(b[i]), "%s: element %zu of %zu is %a (%08x), not %a (%08x)",
                      what, i, count, (double)a[i], tacit__float_bits(a[i]), (double)b[i], tacit__float_bits(b[i]));
    }
}

/* Encodes, sees to it that the payload decodes to what `decoded` says, and returns the faults. */
static inline uint32_t round_trip(const tacit_block_t *block, const tacit_compressor_t *compressor, const float *a,
                                  uint8_t *payload, float *decoded)
{
    const tacit_kernels_t *kernels = compressor->kernels[TACIT_ISA_SCALAR];
    float                 *received = malloc(block->count * sizeof *received + 1);
    uint32_t               faults = kernels->encode(block, a, payload, decoded);

    kernels->decode(block, payload, received, false);
    same_floats(received, decoded, block->count, compressor->name);
    free(received);
    return faults;
}

static inline int compare_keys(const void *left, const void *right)
{
    const uint64_t i = *(const uint64_t *)left, j = *(const uint64_t *)right;

    return (i > j) - (i < j);
}

/* Indices by magnitude, of equal ones the lowest first. */
static inline void largest_first(const float *a, size_t count, uint32_t *order)
{
    uint64_t *keys = malloc(count * sizeof *keys);

    for (size_t i = 0; i < count; i++) {
        keys[i] = (uint64_t) ~(tacit__float_bits(a[i]) << 1) << 32 | i;
    }
    qsort(keys, count, sizeof *keys, compare_keys);
    for (size_t i = 0; i < count; i++) {
        order[i] = (uint32_t)keys[i];
    }
    free(keys);
}

static inline int compare_indices(const void *left, const void *right)
{
    const uint32_t i = *(const uint32_t *)left, j = *(const uint32_t *)right;

    return (i > j) - (i < j);
}

/* What a compressor chooses from a[0..block->count). Returns how many indices there are. */
static inline size_t choose_from(const tacit_spec_t *spec, const tacit_block_t *block, const float *a, uint32_t *indices)
{
    tacit_selection_t *selection = NULL;
    tacit_entries_t    entries;

    ck_assert(tacit__selection_reserve(&selection, spec, block->count));
    entries = tacit__choose(spec->compressor->select, block, a, selection);
    for (size_t i = 0; i < entries.count; i++) {
        indices[i] = entries.indices[i];
        ck_assert_uint_eq(tacit__float_bits(entries.values[i]), tacit__float_bits(a[indices[i]]));
    }
    tacit__selection_release(selection);
    return entries.count;
}

/* Encodes elements of a whole tensor. */
static inline size_t encode_of(const tacit_spec_t *spec, const tacit_block_t *block, const float *a, const uint32_t *indices,
                               size_t entries, uint8_t *payload, float *decoded)
{
    float *values = malloc(entries * sizeof *values + 1);
    size_t bytes;

    for (size_t i = 0; i < entries; i++) {
        values[i] = a[indices[i]];
    }
    bytes = spec->compressor->select->encode(block, values, indices, entries, payload, decoded);
    free(values);
    return bytes;
}

#endif
