/* SPDX-License-Identifier: Apache-2.0 */
/* `lsh`: hashes of tokens, and clusters of those with equal hashes. */
#include "lsh.h"

#include "hadamard.h"
#include "isa.h"
#include "lanes.h"
#include "random.h"

static const tacit_param_t params[] = {
    {.key = "hashes",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(tacit_lsh_t, hashes),
     .low = 1,
     .high = 32,
     .initial = 6,
     .unit = "hashes",
     .help = "Hashes of a token; tokens travel together where all are equal, so that more of them cost more and lose less."},
    {.key = "rounds",
     .type = TACIT_PARAM_INT,
     .offset = offsetof(tacit_lsh_t, rounds),
     .low = 1,
     .high = 3,
     .initial = 2,
     .unit = "",
     .help =
         "Sign flips and transforms that make a rotation: 1 does for dense tokens, 2 for those with few large elements, too."},
    {.key = "values",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(tacit_lsh_t, values),
     .words = "fp32 fp16 bf16",
     .unit = "",
     .help = "How values travel."},
    {.key = "rate",
     .type = TACIT_PARAM_REAL,
     .offset = offsetof(tacit_lsh_t, rate),
     .low = 0,
     .high = 1,
     .initial = 0,
     .unit = "",
     .help = "The most rows for each token: only the first hashes that keep within it are used, one at least; 0: all of them."},
    {.key = "residual",
     .type = TACIT_PARAM_WORD,
     .offset = offsetof(tacit_lsh_t, residual),
     .words = "add drop",
     .unit = "",
     .help = "Whether what a token has beyond its row is added to the reply: it helps as far as experts resemble the identity."},
    {.key = NULL},
};

const tacit_compressor_t tacit__compressor_lsh = {
    .name = "lsh",
    .summary = "tokens of a mixture of experts: those that are alike travel as one",
    .wire_id = 11,
    .wire_version = 1,
    .config_bytes = sizeof(tacit_lsh_t),
    .params = params,
    .tokens = true,
};

/* ---- Hashes ---- */

enum { WORD = 32 }; /* elements of a word of signs; those beyond the padded token are zeros, and stay so */

static size_t padded_of(size_t dimension)
{
    size_t padded = 1;

    while (padded < dimension) {
        padded *= 2;
    }
    return padded;
}

static size_t words_of(size_t padded)
{
    return (padded + WORD - 1) / WORD;
}

size_t tacit__lsh_words(const tacit_lsh_t *lsh, size_t dimension)
{
    return (size_t)(lsh->hashes * lsh->rounds) * words_of(padded_of(dimension));
}

tacit_rotations_t tacit__lsh_rotations(const tacit_lsh_t *lsh, size_t dimension, const tacit_key_t *key, uint32_t *signs)
{
    const tacit_stream_t stream = tacit__stream(key, true);

    for (size_t i = 0; i < tacit__lsh_words(lsh, dimension); i++) {
        signs[i] = tacit__random(&stream, i);
    }
    return (tacit_rotations_t){.hashes = (size_t)lsh->hashes,
                               .rounds = (size_t)lsh->rounds,
                               .dimension = dimension,
                               .padded = padded_of(dimension),
                               .signs = signs,
                               .stride = (size_t)lsh->hashes};
}

tacit_rotations_t tacit__lsh_some(const tacit_rotations_t *all, size_t first, size_t count)
{
    tacit_rotations_t some = *all;

    some.hashes = count;
    some.signs += first * all->rounds * words_of(all->padded);
    return some;
}

#include "lsh_avx512.h"

size_t tacit__lsh_scratch(const tacit_lsh_t *lsh, size_t dimension)
{
    const size_t padded = words_of(padded_of(dimension)) * WORD;

    TACIT_X86(if (tacit__isa() == TACIT_ISA_AVX512) { return scratch_of_eights((size_t)(lsh->hashes * lsh->rounds), padded); })
    return padded;
}

TACIT_ALWAYS_INLINE void flip(float *v, const uint32_t *signs, size_t words)
{
    for (size_t i = 0; i < words; i++) {
#pragma GCC unroll 4
        for (size_t j = 0; j < WORD; j += TACIT_VECTOR) {
            tacit_floats_t *at = tacit__floats_to(v + WORD * i + j);
            *at = (tacit_floats_t)((tacit_words_t)*at ^ TACIT_SIGNS(signs[i], j));
        }
    }
}

TACIT_ALWAYS_INLINE float largest_of(tacit_isa_t isa, const float *v, size_t count)
{
    tacit_floats_t most[WORD / TACIT_VECTOR];

    for (size_t k = 0; k < WORD / TACIT_VECTOR; k++) {
        most[k] = (tacit_floats_t){0} - 1; /* less than any magnitude; NaN is passed over */
    }
    for (size_t i = 0; i < count; i += WORD) {
#pragma GCC unroll 4
        for (size_t k = 0; k < WORD / TACIT_VECTOR; k++) {
            const tacit_floats_t magnitudes = TACIT_MAGNITUDES(*tacit__floats(v + i + TACIT_VECTOR * k));
            tacit__raise(isa, &most[k], &magnitudes);
        }
    }
    for (size_t k = 1; k < WORD / TACIT_VECTOR; k++) {
        tacit__raise(isa, &most[0], &most[k]);
    }
    for (size_t j = 1; j < TACIT_VECTOR; j++) {
        most[0][0] = TACIT_HIGHER(most[0][0], most[0][j]);
    }
    return most[0][0];
}

/* The order in which FALCONN compares: lower elements first, and of each the plus first. So zeros have code 0. */
TACIT_ALWAYS_INLINE uint32_t code_of(tacit_isa_t isa, const float *v, size_t padded)
{
    const float largest = largest_of(isa, v, words_of(padded) * WORD);

    for (size_t i = 0; i < padded; i += TACIT_VECTOR) {
        const tacit_words_t nearest = (tacit_words_t)(TACIT_MAGNITUDES(*tacit__floats(v + i)) == largest);
        if (!tacit__any_negative(&nearest)) {
            continue;
        }
        for (size_t j = 0; j < TACIT_VECTOR && i + j < padded; j++) {
            if (nearest[j] != 0) {
                return (uint32_t)(i + j + (v[i + j] < 0 ? padded : 0));
            }
        }
    }
    return 0; /* all are NaN */
}

TACIT_ALWAYS_INLINE void codes_loop(const tacit_rotations_t *rotations, const float *tokens, size_t count, float *scratch,
                                    uint32_t *out, tacit_isa_t isa)
{
    const size_t padded = rotations->padded, words = words_of(padded);
    size_t       done = 0;

    TACIT_X86(if (isa == TACIT_ISA_AVX512) { done = codes_of_eights(rotations, tokens, count, scratch, out); })
    memset(scratch, 0, words * WORD * sizeof *scratch);
    for (size_t t = done; t < count; t++) {
        const uint32_t *signs = rotations->signs;

        for (size_t h = 0; h < rotations->hashes; h++) {
            memcpy(scratch, tokens + rotations->dimension * t, rotations->dimension * sizeof *scratch);
            memset(scratch + rotations->dimension, 0, (padded - rotations->dimension) * sizeof *scratch);
            for (size_t round = 0; round < rotations->rounds; round++) {
                flip(scratch, signs, words);
                tacit__hadamard_any(isa, scratch, padded);
                signs += words;
            }
            out[rotations->stride * t + h] = code_of(isa, scratch, padded);
        }
    }
}

TACIT_EACH_ISA_KNOWN(void, codes,
                     (const tacit_rotations_t *rotations, const float *tokens, size_t count, float *scratch, uint32_t *out),
                     rotations, tokens, count, scratch, out)

void tacit__lsh_codes(const tacit_rotations_t *rotations, const float *tokens, size_t count, float *scratch, uint32_t *codes_out)
{
    codes(rotations, tokens, count, scratch, codes_out);
}

/* ---- Clusters ---- */

/* Twice as many places as tokens, so that a free one is near. */
static size_t places_for(size_t tokens)
{
    size_t places = 1;

    while (places < 2 * tokens) {
        places *= 2;
    }
    return places;
}

size_t tacit__lsh_room(size_t tokens)
{
    return 3 * tokens + places_for(tokens);
}

/* The tokens of each cluster that agree in codes [from, to), too, become a cluster of their own. before[]: a token's cluster, or
   NULL: all are in one. Returns how many there are then. */
static uint32_t split(const tacit_coded_t *coded, size_t from, size_t to, const uint32_t *before, uint32_t *of, uint32_t *first,
                      uint32_t *table)
{
    const size_t places = places_for(coded->tokens);
    uint32_t     count = 0;

    memset(table, 0, places * sizeof *table); /* a cluster + 1; 0: free */
    for (size_t t = 0; t < coded->tokens; t++) {
        const uint32_t *own = coded->codes + coded->stride * t;
        const uint32_t  old = before != NULL ? before[t] : 0;
        uint64_t        key = old;
        size_t          place;

        for (size_t h = from; h < to; h++) {
            key = tacit__mix64(key ^ (uint64_t)own[h] << 32);
        }
        /* Keys may be equal by chance: what they are made of is compared. */
        for (place = key & (places - 1); table[place] != 0; place = (place + 1) & (places - 1)) {
            const uint32_t  other = first[table[place] - 1];
            const uint32_t *codes_of_other = coded->codes + coded->stride * other;
            if ((before == NULL || before[other] == old) &&
                memcmp(own + from, codes_of_other + from, (to - from) * sizeof *own) == 0) {
                break;
            }
        }
        if (table[place] == 0) {
            first[count] = (uint32_t)t;
            table[place] = ++count;
        }
        of[t] = table[place] - 1;
    }
    return count;
}

tacit_clusters_t tacit__lsh_cluster(const tacit_coded_t *coded, double rate, uint32_t *room)
{
    const size_t    tokens = coded->tokens;
    uint32_t       *of = room, *other = of + tokens, *first = other + tokens, *table = first + tokens;
    const uint32_t *before = coded->groups;
    size_t          hashes = 0, count = 0;

    while (hashes < coded->hashes) {
        const size_t next = rate > 0 ? hashes + 1 : coded->hashes;
        const size_t pieces = split(coded, hashes, next, before, other, first, table);
        uint32_t    *swap = of;

        if (hashes > 0 && (double)pieces / (double)tokens > rate) {
            break;
        }
        before = of = other;
        other = swap;
        hashes = next;
        count = pieces;
    }
    memset(other, 0, count * sizeof *other);
    for (size_t t = tokens; t-- > 0;) { /* those of the last split may not be what was taken */
        first[of[t]] = (uint32_t)t;
        other[of[t]]++;
    }
    return (tacit_clusters_t){count, of, other, first, hashes};
}
