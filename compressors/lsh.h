/* SPDX-License-Identifier: Apache-2.0 */
/* `lsh`: tokens on their way to an expert, of which those that are alike travel as their mean (Nie et al., "LSH-MoE", NeurIPS
   2024). Here is what tells which are alike, codes and clusters; what is computed of them is in libcomm/moe_rows.c. Tokens are
   rows of `dimension` floats; all memory is the caller's. */
#ifndef TACIT_LSH_H
#define TACIT_LSH_H

#include "compressor.h"

/* `lsh:hashes=6,values=bf16`. */
typedef struct tacit_lsh {
    int64_t hashes, rounds;
    int     values; /* a word of the table */
    double  rate;   /* 0: whatever it is */
    int     residual;
} tacit_lsh_t;

enum { TACIT_RESIDUAL_ADD, TACIT_RESIDUAL_DROP };

/* ---- Hashes: cross-polytopes (Andoni et al., "Practical and Optimal LSH for Angular Distance", NeurIPS 2015) ---- */

/* A token is rotated, at random, and its code is the axis that is nearest then: j < padded for the direction of element j, j +
   padded for the opposite one; of two that are equally near, the one with the lower j. */
typedef struct tacit_rotations {
    size_t          hashes, rounds, dimension;
    size_t          padded; /* the next power of two */
    const uint32_t *signs;  /* of each hash, of each round, of each element a bit; each round begins a word */
    size_t          stride; /* from a token's codes to the next one's */
} tacit_rotations_t;

/* Words of signs. */
size_t tacit__lsh_words(const tacit_lsh_t *lsh, size_t dimension);
/* Those of a key. Ranks that have others form other clusters, and nothing else. */
tacit_rotations_t tacit__lsh_rotations(const tacit_lsh_t *lsh, size_t dimension, const tacit_key_t *key, uint32_t *signs);
/* Those of some hashes, whose codes take their places among all. */
tacit_rotations_t tacit__lsh_some(const tacit_rotations_t *all, size_t first, size_t count);
/* Floats of scratch for codes. */
size_t tacit__lsh_scratch(const tacit_lsh_t *lsh, size_t dimension);
/* codes: `hashes` of each token. A token that is not finite has some code, too. */
void tacit__lsh_codes(const tacit_rotations_t *rotations, const float *tokens, size_t count, float *scratch, uint32_t *codes);

/* ---- Clusters: tokens of a group of which all codes are equal, numbered as their first tokens come ---- */

/* What is known of tokens, fewer than 2^32 - 1. */
typedef struct tacit_coded {
    size_t          tokens;
    const uint32_t *groups; /* of each token any number; tokens of two groups are never alike. NULL: all are of one */
    const uint32_t *codes;  /* of each token `stride`, of which the first `hashes` count */
    size_t          stride, hashes;
} tacit_coded_t;

typedef struct tacit_clusters {
    size_t          count;
    const uint32_t *of;      /* a token's cluster */
    const uint32_t *members; /* how many tokens a cluster has */
    const uint32_t *first;   /* its first token */
    size_t          hashes;  /* that tell clusters apart */
} tacit_clusters_t;

/* Words of memory for the clusters of so many tokens. */
size_t tacit__lsh_room(size_t tokens);
/* rate: 0, or the most clusters for each token. Another hash only cuts clusters into pieces, so there is a last one up to which
   count / tokens is not above the rate: those after it are not used; the first always is. What is within the rate is all that is
   given, of whatever groups: the experts of a rank, or of all of them. */
tacit_clusters_t tacit__lsh_cluster(const tacit_coded_t *coded, double rate, uint32_t *room);

#endif
