/* SPDX-License-Identifier: Apache-2.0 */
/* `lsh`: the worked example's codes and clusters, both by their definitions with each set of instructions, and what must hold for
   any token. What is computed of clusters: moe_rows.c, moe_lsh.c. */
#include "compress.h"
#include "hadamard.h"
#include "lsh.h"

enum { TOKENS = 300, DIMENSION = 64, ROUNDS = 3, MOST = 16384 };

/* ---- Definitions, one number at a time ---- */

static void hadamard(float *v, size_t count)
{
    for (size_t apart = count / 2; apart > 0; apart /= 2) {
        for (size_t i = 0; i < count; i++) {
            if ((i & apart) == 0) {
                const float low = v[i], high = v[i + apart];
                v[i] = low + high;
                v[i + apart] = low - high;
            }
        }
    }
}

static void rotate(const uint32_t *signs, float *v, size_t padded)
{
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < padded; i++) {
            v[i] = signs[round * ((padded + 31) / 32) + i / 32] >> i % 32 & 1 ? -v[i] : v[i];
        }
        hadamard(v, padded);
    }
}

/* As FALCONN compares. */
static uint32_t nearest(const float *v, size_t padded)
{
    float    best = v[0];
    uint32_t code = 0;

    for (uint32_t i = 0; i < padded; i++) {
        if (v[i] > best) {
            best = v[i];
            code = i;
        } else if (-v[i] > best) {
            best = -v[i];
            code = i + (uint32_t)padded;
        }
    }
    return code;
}

/* ---- Tokens and their clusters ---- */

typedef struct layer {
    tacit_lsh_t       lsh;
    size_t            tokens, dimension;
    uint32_t         *signs, *codes, *room;
    float            *scratch, *rows;
    tacit_rotations_t rotations;
    tacit_clusters_t  clusters;
} layer_t;

static const tacit_key_t key = {1, 2, 0, 0};

static void *zeros_of(size_t count, size_t bytes)
{
    void *zeros = calloc(count + 1, bytes);

    ck_assert_ptr_nonnull(zeros);
    return zeros;
}

static layer_t layer_of(int hashes, size_t tokens, size_t dimension)
{
    layer_t layer = {.lsh = {.hashes = hashes, .rounds = ROUNDS}, .tokens = tokens, .dimension = dimension};

    layer.signs = zeros_of(tacit__lsh_words(&layer.lsh, dimension), 4);
    layer.codes = zeros_of(tokens * (size_t)hashes, 4);
    layer.room = zeros_of(tacit__lsh_room(tokens), 4);
    layer.scratch = zeros_of(tacit__lsh_scratch(&layer.lsh, dimension), 4);
    layer.rows = zeros_of(tokens * dimension, 4);
    layer.rotations = tacit__lsh_rotations(&layer.lsh, dimension, &key, layer.signs);
    return layer;
}

static void release(layer_t *layer)
{
    void *const memory[] = {layer->signs, layer->codes, layer->room, layer->scratch, layer->rows};

    for (size_t i = 0; i < COUNT_OF(memory); i++) {
        free(memory[i]);
    }
}

/* Forty noisy points. */
static void fill_points(layer_t *layer, uint64_t seed)
{
    harness_random_t random = {seed};

    for (size_t t = 0; t < layer->tokens; t++) {
        const size_t point = harness_next(&random) % 40;
        harness_fill(layer->rows + layer->dimension * t, layer->dimension, 1000 + point, 1);
        for (size_t i = 0; i < layer->dimension; i++) {
            layer->rows[layer->dimension * t + i] += (float)(0.2 * harness_normal(&random));
        }
    }
}

static void form_clusters(layer_t *layer)
{
    const size_t        hashes = layer->rotations.hashes;
    const tacit_coded_t coded = {layer->tokens, NULL, layer->codes, hashes, hashes};

    tacit__lsh_codes(&layer->rotations, layer->rows, layer->tokens, layer->scratch, layer->codes);
    layer->clusters = tacit__lsh_cluster(&coded, 0, layer->room);
}

static layer_t clustered(int hashes)
{
    layer_t layer = layer_of(hashes, TOKENS, DIMENSION);

    fill_points(&layer, 5);
    form_clusters(&layer);
    return layer;
}

/* ---- The worked example ---- */

START_TEST(worked_example)
{
    static const float tokens[5][4] = {{4, 1, 0, -1}, {4, 1, .5f, -1}, {-1, 3, 2, 0}, {-1, 3, 2.2f, 0}, {0, 0, -5, 1}};
    static const float rotated[5][4] = {{-8, 8, -32, 0}, {-8, 8, -32, -4}, {-24, 0, 8, -16}, {-24, 0, 8, -17.6f}, {0, -8, 0, 40}};
    static const uint32_t expected[] = {6, 6, 4, 4, 3}, of[] = {0, 0, 1, 1, 2}, members[] = {2, 2, 1}, first[] = {0, 2, 4};
    uint32_t              signs[] = {1u << 1, 1u << 2, 1u << 0}; /* of (1,-1,1,1), (1,1,-1,1), (-1,1,1,1) */
    layer_t               layer = layer_of(1, 5, 4);

    layer.rotations.signs = signs;
    memcpy(layer.rows, tokens, sizeof tokens);
    form_clusters(&layer);
    for (size_t t = 0; t < 5; t++) {
        float  v[4];
        double norms[2] = {0};
        memcpy(v, tokens[t], sizeof v);
        rotate(signs, v, 4);
        for (size_t i = 0; i < 4; i++) {
            ck_assert_double_eq_tol((double)v[i], (double)rotated[t][i], 4e-6);
            norms[0] += (double)tokens[t][i] * (double)tokens[t][i];
            norms[1] += (double)v[i] * (double)v[i];
        }
        ck_assert_double_eq_tol(norms[1], 64 * norms[0], 1e-6 * norms[1]);
    }
    same_bytes(layer.codes, expected, sizeof expected, "codes");
    ck_assert_uint_eq(layer.clusters.count, 3);
    same_bytes(layer.clusters.of, of, sizeof of, "clusters");
    same_bytes(layer.clusters.members, members, sizeof members, "members");
    same_bytes(layer.clusters.first, first, sizeof first, "first tokens");
    release(&layer);
}
END_TEST

/* ---- Codes ---- */

START_TEST(transform)
{
    float v[MOST], expected[MOST];

    for (size_t count = 1; count <= MOST; count *= 2) {
        harness_fill(v, count, count, 1);
        memcpy(expected, v, sizeof v);
        hadamard(expected, count);
        tacit__hadamard_any(TACIT_ISA_SCALAR, v, count);
        same_floats(v, expected, count, "transformed");
        for (size_t i = 0; i < count; i++) {
            expected[i] = v[i] = (float)(i % 7);
        }
        tacit__hadamard_any(TACIT_ISA_SCALAR, v, count);
        tacit__hadamard_any(TACIT_ISA_SCALAR, v, count);
        for (size_t i = 0; i < count; i++) {
            ck_assert_float_eq(v[i], (float)count * expected[i]);
        }
    }
}
END_TEST

/* Of a token like none before: noise; or small integers, of which many are as near as each other; or none but zeros. */
static void fill_token(float *token, size_t dimension, size_t t, harness_random_t *random)
{
    for (size_t i = 0; i < dimension; i++) {
        const int pick = (int)(harness_next(random) % 16);
        token[i] = t % 3 == 0   ? (float)harness_normal(random)
                   : t % 3 == 1 ? (float)(pick == 0) - (float)(pick == 1)
                   : t % 2      ? 0
                                : -0.f;
    }
}

/* With each set of instructions, for any dimension. */
START_TEST(definitions)
{
    static const size_t dimensions[] = {1,   2,   3,   4,   7,   8,   9,    31,   32,   33,   64,
                                        100, 128, 256, 300, 512, 768, 1024, 1025, 2049, 4097, 8193};
    const tacit_isa_t   isa = (tacit_isa_t)_i;

    setenv("TACIT_ISA", tacit__isa_name(isa), 1);
    for (size_t d = 0; tacit__isa() == isa && d < COUNT_OF(dimensions); d++) {
        const size_t     dimension = dimensions[d];
        layer_t          layer = layer_of(2, 24, dimension);
        harness_random_t random = {d};
        float            v[MOST];

        for (size_t t = 0; t < layer.tokens; t++) {
            fill_token(layer.rows + dimension * t, dimension, t, &random);
        }
        form_clusters(&layer);
        for (size_t at = 0; at < 2 * layer.tokens; at++) {
            const size_t padded = layer.rotations.padded;
            ck_assert(padded >= dimension && padded / 2 < dimension);
            memset(v, 0, sizeof v);
            memcpy(v, layer.rows + dimension * (at / 2), dimension * sizeof *v);
            rotate(layer.signs + at % 2 * ROUNDS * ((padded + 31) / 32), v, padded);
            ck_assert_msg(layer.codes[at] == nearest(v, padded), "dimension %zu, token %zu: code %u, not %u", dimension, at / 2,
                          layer.codes[at], nearest(v, padded));
        }
        release(&layer);
    }
}
END_TEST

START_TEST(scaled_and_negated)
{
    layer_t   layer = clustered(6);
    uint32_t *codes = zeros_of(TOKENS * 6, sizeof *codes);
    float     factor = 1;

    memcpy(codes, layer.codes, TOKENS * 6 * sizeof *codes);
    for (int step = 0; step < 3; step++) {
        const float next = step == 0 ? 0x1p60f : step == 1 ? -0x1p-40f : 1;
        for (size_t i = 0; i < TOKENS * DIMENSION; i++) {
            layer.rows[i] *= next / factor;
        }
        factor = next;
        form_clusters(&layer);
        for (size_t i = 0; i < TOKENS * 6; i++) {
            ck_assert_uint_eq(layer.codes[i], step == 1 ? codes[i] ^ DIMENSION : codes[i]);
        }
    }
    free(codes);
    release(&layer);
}
END_TEST

/* Tokens that are not finite have codes that exist, the same ones alone as among others, and spoil no other's. */
START_TEST(not_finite)
{
    layer_t  layer = clustered(3);
    uint32_t before[3];

    memcpy(before, layer.codes + 3 * 8, sizeof before);
    for (size_t i = 0; i < DIMENSION; i++) {
        layer.rows[DIMENSION * 7 + i] = _i == 0 ? NAN : i % 2 ? -INFINITY : INFINITY;
    }
    layer.rows[DIMENSION * 5 + 3] = _i == 0 ? NAN : FLT_MAX;
    layer.rows[DIMENSION * 9 + 3] = layer.rows[DIMENSION * 9 + 17] = INFINITY; /* one round makes NaN of some */
    form_clusters(&layer);
    same_bytes(layer.codes + 3 * 8, before, sizeof before, "the next token");
    for (layer.rotations.rounds = 1; layer.rotations.rounds <= ROUNDS; layer.rotations.rounds++) {
        tacit__lsh_codes(&layer.rotations, layer.rows, TOKENS, layer.scratch, layer.codes);
        for (size_t t = 0; t < TOKENS; t++) {
            uint32_t alone[3];
            tacit__lsh_codes(&layer.rotations, layer.rows + DIMENSION * t, 1, layer.scratch, alone);
            same_bytes(layer.codes + 3 * t, alone, sizeof alone, "a token alone");
            ck_assert(alone[0] < 2 * DIMENSION && alone[1] < 2 * DIMENSION && alone[2] < 2 * DIMENSION);
        }
    }
    release(&layer);
}
END_TEST

/* A token that is NaN has code 0, however few elements it has. */
START_TEST(nan_is_code_0)
{
    for (size_t dimension = 1; dimension < 70; dimension++) {
        layer_t layer = layer_of(2, 1, dimension);

        for (size_t i = 0; i < dimension; i++) {
            layer.rows[i] = NAN;
        }
        form_clusters(&layer);
        ck_assert_uint_eq(layer.codes[0], 0);
        ck_assert_uint_eq(layer.codes[1], 0);
        release(&layer);
    }
}
END_TEST

/* Seeds and slots have rotations of their own; ranks and steps need none. */
START_TEST(keys)
{
    tacit_lsh_t lsh = {.hashes = 2, .rounds = 3};
    tacit_key_t other = key;
    uint64_t   *parts[] = {&other.rank, &other.seed, &other.slot};
    uint32_t    signs[2][24];

    ck_assert_uint_eq(tacit__lsh_words(&lsh, 100), 24);
    (void)tacit__lsh_rotations(&lsh, 100, &key, signs[0]);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        ++*parts[i];
        (void)tacit__lsh_rotations(&lsh, 100, &other, signs[1]);
        ck_assert((memcmp(signs[0], signs[1], sizeof signs[0]) == 0) == (i == 0));
        --*parts[i];
    }
}
END_TEST

/* However many at once, hashes are what they are together; tokens in eights and those left over. */
START_TEST(some_hashes)
{
    enum { HASHES = 7 };
    layer_t   layer = layer_of(HASHES, 8 + 3, 100);
    uint32_t *codes = zeros_of(layer.tokens * HASHES, sizeof *codes);

    fill_points(&layer, 6);
    form_clusters(&layer);
    for (size_t step = 1; step <= HASHES; step++) {
        memset(codes, 0xff, layer.tokens * HASHES * sizeof *codes);
        for (size_t first = 0; first < HASHES; first += step) {
            const size_t            count = first + step < HASHES ? step : HASHES - first;
            const tacit_rotations_t some = tacit__lsh_some(&layer.rotations, first, count);
            tacit__lsh_codes(&some, layer.rows, layer.tokens, layer.scratch, codes + first);
        }
        same_bytes(codes, layer.codes, layer.tokens * HASHES * sizeof *codes, "codes");
    }
    free(codes);
    release(&layer);
}
END_TEST

/* ---- Clusters ---- */

/* A token's clusters by their definition, of so many codes: the first tokens that are like each. Returns how many there are. */
static uint32_t naive(const tacit_coded_t *coded, size_t hashes, uint32_t *of, uint32_t *first, uint32_t *members)
{
    uint32_t count = 0;

    for (uint32_t t = 0; t < coded->tokens; t++) {
        uint32_t c = 0;
        while (c < count &&
               ((coded->groups && coded->groups[t] != coded->groups[first[c]]) ||
                memcmp(coded->codes + coded->stride * t, coded->codes + coded->stride * first[c], 4 * hashes) != 0)) {
            c++;
        }
        if (c == count) {
            members[count] = 0;
            first[count++] = t;
        }
        of[t] = c;
        members[c]++;
    }
    return count;
}

static void check_clusters(const tacit_coded_t *coded, double rate)
{
    const size_t     words = tacit__lsh_room(coded->tokens);
    uint32_t        *room = zeros_of(words + 1, sizeof *room);
    uint32_t         of[TOKENS], first[TOKENS], members[TOKENS], count;
    size_t           hashes = rate > 0 ? 1 : coded->hashes;
    tacit_clusters_t clusters;

    while (hashes < coded->hashes && naive(coded, hashes + 1, of, first, members) / (double)coded->tokens <= rate) {
        hashes++;
    }
    count = naive(coded, hashes, of, first, members);
    memset(room, 0xab, (words + 1) * sizeof *room);
    clusters = tacit__lsh_cluster(coded, rate, room);
    ck_assert_uint_eq(clusters.hashes, hashes);
    ck_assert_uint_eq(clusters.count, count);
    same_bytes(clusters.of, of, coded->tokens * sizeof *of, "clusters");
    same_bytes(clusters.first, first, count * sizeof *first, "first tokens");
    same_bytes(clusters.members, members, count * sizeof *members, "members");
    ck_assert_uint_eq(room[words], 0xabababab);
    free(room);
}

/* As comparing every token with every cluster finds them: few codes, so that many tokens meet, and many, so that places do. Of
   each prefix of the codes the rate that it just keeps, and a little less; one that even the first hash does not keep. */
START_TEST(clusters_are_equal_codes)
{
    static const uint32_t ranges[] = {1, 3, 40, 100000};
    enum { HASHES = 5, STRIDE = 7 };
    harness_random_t random = {(uint64_t)_i};
    uint32_t        *codes = zeros_of(TOKENS * STRIDE, sizeof *codes), groups[TOKENS], spare[3][TOKENS];

    for (size_t i = 0; i < TOKENS * STRIDE; i++) {
        codes[i] = (uint32_t)(harness_next(&random) % ranges[_i]);
    }
    for (size_t t = 0; t < TOKENS; t++) {
        groups[t] = (uint32_t)(harness_next(&random) % 3) * 0x7fffffff;
    }
    for (int grouped = 0; grouped < 2; grouped++) {
        const tacit_coded_t coded = {TOKENS, grouped ? groups : NULL, codes, STRIDE, HASHES};
        check_clusters(&coded, 0);
        check_clusters(&coded, 1);
        check_clusters(&coded, 1e-9);
        for (size_t hashes = 1; hashes <= HASHES; hashes++) {
            const double rate = naive(&coded, hashes, spare[0], spare[1], spare[2]) / (double)TOKENS;
            check_clusters(&coded, rate);
            check_clusters(&coded, nextafter(rate, 0));
        }
    }
    free(codes);
}
END_TEST

/* An expert that nobody asks. */
START_TEST(no_tokens)
{
    layer_t layer = layer_of(6, 0, DIMENSION);

    form_clusters(&layer);
    ck_assert_uint_eq(layer.clusters.count, 0);
    release(&layer);
}
END_TEST

/* ---- Parameters ---- */

START_TEST(parameters)
{
    static const char *const wrong[][2] = {{"lsh:hashes=0", "hashes"},
                                           {"lsh:hashes=33", "hashes"},
                                           {"lsh:rounds=4", "from 1 to 3"},
                                           {"lsh:values=fp8", "fp32 fp16 bf16"},
                                           {"lsh:hash=6", "did you mean 'hashes'"},
                                           {"lsh:residual=keep", "add drop"}};
    tacit_spec_t             spec = spec_of("lsh:hashes=8,values=bf16,rate=0.25,residual=drop");
    const tacit_lsh_t       *lsh = spec.compressor_config;

    ck_assert_int_eq(lsh->hashes, 8);
    ck_assert_int_eq(lsh->rounds, 2);
    ck_assert_double_eq(lsh->rate, 0.25);
    ck_assert_int_eq(lsh->residual, TACIT_RESIDUAL_DROP);
    tacit__spec_release(&spec);
    spec = spec_of("lsh");
    lsh = spec.compressor_config;
    ck_assert_str_eq(spec.canonical, "lsh:hashes=6,rounds=2,values=fp32,rate=0,residual=add");
    ck_assert_int_eq(lsh->residual, TACIT_RESIDUAL_ADD);
    tacit__spec_release(&spec);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        refused(wrong[i][0], wrong[i][1]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lsh");
    TCase *tests = tcase_create("lsh");

    tcase_add_test(tests, worked_example);
    tcase_add_test(tests, transform);
    tcase_add_loop_test(tests, definitions, 0, TACIT_ISA_COUNT);
    tcase_add_test(tests, scaled_and_negated);
    tcase_add_loop_test(tests, not_finite, 0, 2);
    tcase_add_test(tests, nan_is_code_0);
    tcase_add_test(tests, keys);
    tcase_add_test(tests, some_hashes);
    tcase_add_loop_test(tests, clusters_are_equal_codes, 0, 4);
    tcase_add_test(tests, no_tokens);
    tcase_add_test(tests, parameters);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
