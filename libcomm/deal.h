/* SPDX-License-Identifier: Apache-2.0 */
/* Deals a tensor's elements out to owners (doc/wire-format.md, "Dealt parts"), for compressors whose entries lie where they lie.
   Of every row of blocks each rank gets one, and which one is drawn for the row: what is large together, in a run or in a column
   of a matrix, is spread over all ranks, without a word between them, and a part is the same in every step. */
#ifndef TACIT_DEAL_H
#define TACIT_DEAL_H

#include <stddef.h>
#include <stdint.h>

enum { TACIT_DEAL_BLOCK = 64 }; /* elements; cache lines, and packed memory can be written by blocks */

typedef struct tacit_deal {
    uint64_t key;   /* draws */
    size_t   count; /* elements, below 2^32 */
    uint32_t ranks;
    uint32_t first; /* of the elements, in the tensor */
} tacit_deal_t;

/* By how many ranks a row is turned: SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
   2014). */
static inline uint32_t tacit__deal_turn(const tacit_deal_t *deal, uint32_t row)
{
    uint64_t word = deal->key + ((uint64_t)row + 1) * UINT64_C(0x9e3779b97f4a7c15);

    word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
    word ^= word >> 31;
    return (uint32_t)((word >> 32) * deal->ranks >> 32);
}

/* The owner of an element, and its place in that part. Places ascend with elements. */
static inline uint32_t tacit__deal_owner(const tacit_deal_t *deal, uint32_t element, uint32_t *place_out)
{
    const uint32_t at = element - deal->first, block = at / TACIT_DEAL_BLOCK, row = block / deal->ranks;
    const uint32_t owner = block - row * deal->ranks + tacit__deal_turn(deal, row);

    *place_out = row * TACIT_DEAL_BLOCK + at % TACIT_DEAL_BLOCK;
    return owner < deal->ranks ? owner : owner - deal->ranks;
}

/* Which block of a row is an owner's. */
static inline uint32_t tacit__deal_column(const tacit_deal_t *deal, uint32_t owner, uint32_t row)
{
    const uint32_t turn = tacit__deal_turn(deal, row);

    return owner >= turn ? owner - turn : owner + deal->ranks - turn;
}

/* The element at a place of an owner's part. */
static inline uint32_t tacit__deal_element(const tacit_deal_t *deal, uint32_t owner, uint32_t place)
{
    const uint32_t row = place / TACIT_DEAL_BLOCK;

    return deal->first + (row * deal->ranks + tacit__deal_column(deal, owner, row)) * TACIT_DEAL_BLOCK + place % TACIT_DEAL_BLOCK;
}

/* Elements of an owner's part. */
static inline size_t tacit__deal_part(const tacit_deal_t *deal, uint32_t owner)
{
    const size_t row_elements = (size_t)deal->ranks * TACIT_DEAL_BLOCK;
    const size_t rows = deal->count / row_elements, rest = deal->count % row_elements;
    const size_t begin = (size_t)tacit__deal_column(deal, owner, (uint32_t)rows) * TACIT_DEAL_BLOCK;
    const size_t last = rest > begin ? rest - begin : 0;

    return rows * TACIT_DEAL_BLOCK + (last < TACIT_DEAL_BLOCK ? last : TACIT_DEAL_BLOCK);
}

#endif
