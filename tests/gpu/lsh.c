/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that are alike, on a GPU: codes, clusters, their rows, and what comes of these have the bits that the CPU's have. With
   TACIT_EMULATED the kernels run on the CPU (emulation.h); otherwise, where there is no GPU, the test is skipped. */
#include <stdlib.h>

#include "moe.h"
#include "tokens.h"

/* Some are alike, many alike or opposite; some full of ties, zeros of both signs, tiny, huge, or with one element. */
static void fill_token(float *x, size_t dimension, size_t t)
{
    harness_fill(x, dimension, t % 5 < 2 ? t % 7 : 1000 + t, 1);
    for (size_t i = 0; i < dimension; i++) {
        switch (t % 16) {
        case 2:
            x[i] = x[i] > 0 ? 1 : -1;
            break;
        case 3:
            x[i] = t % 32 == 3 ? 0.f : -0.f;
            break;
        case 7:
            x[i] *= 0x1p-140f;
            break;
        case 9:
            x[i] *= 0x1p120f;
            break;
        case 11:
            x[i] = i == t % dimension ? -2.f : 0;
            break;
        case 13:
            x[i] = i % 2 ? -0.f : floorf(x[i]);
            break;
        default:
            break;
        }
    }
}

static void *tokens_of(const setup_t *setup, float *widened)
{
    for (size_t t = 0; t < setup->tokens; t++) {
        fill_token(widened + setup->dimension * t, setup->dimension, t);
    }
    return rounded(setup, widened, setup->tokens * setup->dimension);
}

static void same_words(const setup_t *setup, const char *what, const uint32_t *cpu, const uint32_t *gpu, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(
            cpu[i] == gpu[i],
            "%zu tokens of %zu elements, dtype %d, %d hashes, %d rounds: %s: number %zu is %u on the CPU, %u on the GPU",
            setup->tokens, setup->dimension, (int)setup->dtype, setup->hashes, setup->rounds, what, i, cpu[i], gpu[i]);
    }
}

/* ---- Codes ---- */

static tacit_rotations_t rotations_of(const setup_t *setup)
{
    static const tacit_key_t key = {1, 2, 0, 0};
    const tacit_lsh_t        lsh = {.hashes = setup->hashes, .rounds = setup->rounds};
    uint32_t                *signs = get(tacit__lsh_words(&lsh, setup->dimension), 4);

    return tacit__lsh_rotations(&lsh, setup->dimension, &key, signs);
}

/* Those of the GPU, which are the CPU's, in its memory. */
static uint32_t *codes_of(const setup_t *setup, const void *tokens, const float *widened)
{
    const tacit_rotations_t     rotations = rotations_of(setup);
    const tacit_device_tokens_t shape = shape_of(setup);
    const size_t                count = setup->tokens * (size_t)setup->hashes;
    float                      *scratch =
        get(tacit__lsh_scratch(&(tacit_lsh_t){.hashes = setup->hashes, .rounds = setup->rounds}, setup->dimension), 4);
    uint32_t *cpu = get(count, 4), *gpu = get(count, 4);

    tacit__lsh_codes(&rotations, widened, setup->tokens, scratch, cpu);
    MUST(cuda->lsh_codes(&rotations, &shape, tokens, gpu, NULL));
    MUST(cuda->synchronize());
    same_words(setup, "codes", cpu, gpu, count);
    nothing_behind(gpu, count * 4);
    give((void *)rotations.signs);
    give(scratch);
    give(cpu);
    return gpu;
}

/* ---- Clusters ---- */

/* How many of its hashes the CPU uses for the tokens of a part. */
static uint32_t hashes_of(const tacit_device_coded_t *coded, uint32_t part)
{
    const size_t  hashes = coded->hashes;
    uint32_t     *codes = calloc(coded->tokens * hashes + 1, 4), *groups = calloc(coded->tokens + 1, 4);
    tacit_coded_t own = {.groups = groups, .codes = codes, .stride = hashes, .hashes = hashes};
    uint32_t     *room, used;

    for (size_t t = 0; t < coded->tokens; t++) {
        if (coded->part[t] == part) {
            memcpy(codes + hashes * own.tokens, coded->codes + hashes * t, hashes * sizeof *codes);
            groups[own.tokens++] = coded->group[t];
        }
    }
    room = calloc(tacit__lsh_room(own.tokens) + 1, 4);
    used = (uint32_t)tacit__lsh_cluster(&own, coded->rate, room).hashes;
    free(codes);
    free(groups);
    free(room);
    return used;
}

/* The CPU's of all tokens, whose codes behind those that are used are alike. */
static tacit_clusters_t clusters_of(const setup_t *setup, const tacit_device_coded_t *coded, const uint32_t *hashes,
                                    uint32_t *room)
{
    const size_t        stride = coded->hashes;
    uint32_t           *codes = calloc(coded->tokens * stride + 1, 4);
    const tacit_coded_t all = {coded->tokens, coded->group, codes, stride, stride};
    tacit_clusters_t    clusters;

    for (uint32_t part = 0; part < coded->parts; part++) {
        const uint32_t used = hashes_of(coded, part);

        same_words(setup, "hashes", &used, &hashes[part], 1);
    }
    for (size_t t = 0; t < coded->tokens; t++) {
        memcpy(codes + stride * t, coded->codes + stride * t, hashes[coded->part[t]] * sizeof *codes);
    }
    clusters = tacit__lsh_cluster(&all, 0, room);
    free(codes);
    return clusters;
}

/* Lists of members, in ascending order, that have all tokens among them. */
static void check_members(const tacit_device_clusters_t *clusters, size_t tokens)
{
    size_t all = 0;

    for (uint32_t c = 0; c < *clusters->count; c++) {
        const uint32_t *order = clusters->order + clusters->begin[c];

        ck_assert_uint_eq(order[0], clusters->first[c]);
        for (uint32_t i = 0; i < clusters->members[c]; i++) {
            ck_assert_uint_eq(clusters->of[order[i]], c);
            ck_assert(i == 0 || order[i - 1] < order[i]);
        }
        all += clusters->members[c];
    }
    ck_assert_uint_eq(all, tokens);
}

/* Both: the GPU's in *gpu_out. */
static tacit_clusters_t cluster_both(const setup_t *setup, const tacit_device_coded_t *coded, uint32_t *room, uint32_t *words,
                                     tacit_device_clusters_t *gpu_out)
{
    const tacit_device_clusters_t gpu = tacit__device_clusters(coded, words);
    tacit_clusters_t              cpu;

    MUST(cuda->lsh_cluster(coded, &gpu, NULL));
    MUST(cuda->synchronize());
    cpu = clusters_of(setup, coded, gpu.hashes, room);
    ck_assert_uint_eq(*gpu.count, cpu.count);
    same_words(setup, "clusters of tokens", cpu.of, gpu.of, setup->tokens);
    same_words(setup, "members", cpu.members, gpu.members, cpu.count);
    same_words(setup, "first tokens", cpu.first, gpu.first, cpu.count);
    check_members(&gpu, setup->tokens);
    nothing_behind(words, 4 * tacit__device_clusters_words(coded));
    *gpu_out = gpu;
    return cpu;
}

/* ---- Rows of clusters ---- */

/* A token has one choice, and a cluster one reply. */
static tacit_device_choices_t choices_of(const setup_t *setup, const tacit_device_clusters_t *clusters, uint32_t *words)
{
    uint32_t *const numbers = words, *const first_member = numbers + setup->tokens + 1;

    first_member[0] = 0;
    for (uint32_t c = 0; c <= *clusters->count; c++) {
        numbers[c] = c;
        first_member[c + 1] = c < *clusters->count ? first_member[c] + clusters->members[c] : 0;
    }
    return (tacit_device_choices_t){.tokens = shape_of(setup),
                                    .choices = 1,
                                    .reply = clusters->of,
                                    .row = numbers,
                                    .first_reply = numbers,
                                    .first_member = first_member,
                                    .residual = true};
}

/* On the CPU, the sums of tokens, and their means; and what comes of tokens, or gradients, and rows that were made of them. */
static void sum_tokens(const setup_t *setup, const tacit_clusters_t *clusters, const float *tokens, bool divide, float *rows)
{
    const size_t dimension = setup->dimension;

    for (size_t t = 0; t < setup->tokens; t++) {
        const uint32_t c = clusters->of[t];

        tacit__moe_add(rows + dimension * c, 1, tokens + dimension * t, dimension, clusters->first[c] == t);
    }
    for (size_t c = 0; divide && c < clusters->count; c++) {
        tacit__moe_divide(rows + dimension * c, (float)clusters->members[c], dimension);
    }
}

static void conclude(const setup_t *setup, const tacit_clusters_t *clusters, const float *tokens, const float *rows,
                     const float *replies, bool backward, float *out)
{
    const size_t dimension = setup->dimension;

    for (size_t t = 0; t < setup->tokens; t++) {
        const float *token = tokens + dimension * t, *row = rows + dimension * clusters->of[t];
        const float *reply = replies + dimension * clusters->of[t];

        if (backward) {
            tacit__moe_gradient(reply, row, token, (float)clusters->members[clusters->of[t]], dimension, out + dimension * t);
        } else {
            tacit__moe_output(reply, row, token, dimension, out + dimension * t);
        }
    }
}

static void check_conclusion(const setup_t *setup, const tacit_clusters_t *cpu, const tacit_device_choices_t *choices,
                             bool backward, const void *tokens, const float *widened, const void *rows, const float *widened_rows)
{
    const size_t count = setup->tokens * setup->dimension, replies_count = cpu->count * setup->dimension;
    float       *replies = get(replies_count, 4), *one = get(count, 4), *weights = get(setup->tokens, 4);
    void        *narrowed, *out = get(count, bytes_of(setup->dtype));

    harness_fill(replies, replies_count, 77, 3);
    for (size_t i = 0; i < replies_count; i += 3) {
        replies[i] = -0.f;
    }
    for (size_t t = 0; t < setup->tokens; t++) {
        weights[t] = 1;
    }
    narrowed = rounded(setup, replies, replies_count);
    conclude(setup, cpu, widened, widened_rows, replies, backward, one);
    MUST((backward ? cuda->spread_rows : cuda->combine_rows)(choices, weights, tokens, rows, narrowed, out, NULL));
    MUST(cuda->synchronize());
    same_rows(setup, backward ? "gradients" : "outputs", one, out, count);
    give(replies);
    give(narrowed);
    give(weights);
    give(one);
    give(out);
}

static void check_rows(const setup_t *setup, const tacit_clusters_t *cpu, const tacit_device_clusters_t *gpu, const void *tokens,
                       const float *widened)
{
    const size_t                 count = cpu->count * setup->dimension;
    const tacit_device_tokens_t  shape = shape_of(setup);
    const tacit_device_lists_t   lists = {shape.count, gpu->count, gpu->begin, gpu->members, gpu->order, NULL, NULL};
    float                       *rows = get(count, 4);
    void                        *out = get(count, bytes_of(setup->dtype));
    uint32_t                    *words = get(2 * setup->tokens + 3, 4);
    const tacit_device_choices_t choices = choices_of(setup, gpu, words);

    for (int backward = 0; backward < 2; backward++) {
        sum_tokens(setup, cpu, widened, !backward, rows);
        MUST(cuda->sum_rows(&shape, &lists, tokens, !backward, out, NULL, NULL));
        MUST(cuda->synchronize());
        same_rows(setup, backward ? "sums" : "centroids", rows, out, count);
        check_conclusion(setup, cpu, &choices, backward, tokens, widened, out, rows);
    }
    give(rows);
    give(out);
    give(words);
}

/* All of it, tokens in so many groups, each of a part of its own. */
static void run_rate(const setup_t *setup, uint32_t groups, double rate,
                     void (*change)(const setup_t *setup, float *widened, void *tokens))
{
    float                  *widened = get(setup->tokens * setup->dimension, 4);
    void                   *tokens = tokens_of(setup, widened);
    uint32_t               *group = get(setup->tokens, 4), *room = get(tacit__lsh_room(setup->tokens), 4), *words, *codes;
    tacit_device_coded_t    coded = {.group = group,
                                     .part = group,
                                     .tokens = (uint32_t)setup->tokens,
                                     .hashes = (uint32_t)setup->hashes,
                                     .parts = groups,
                                     .rate = rate};
    tacit_device_clusters_t gpu;
    tacit_clusters_t        cpu;

    if (change != NULL) {
        change(setup, widened, tokens);
    }
    for (size_t i = 0; setup->skip && i < setup->tokens * setup->dimension; i++) {
        widened[i] = isfinite(widened[i]) ? widened[i] : 0;
    }
    for (size_t t = 0; t < setup->tokens; t++) {
        group[t] = (uint32_t)(t * t) % groups;
    }
    coded.codes = codes = codes_of(setup, tokens, widened);
    words = get(tacit__device_clusters_words(&coded), 4);
    cpu = cluster_both(setup, &coded, room, words, &gpu);
    check_rows(setup, &cpu, &gpu, tokens, widened);
    give(widened);
    give(tokens);
    give(group);
    give(codes);
    give(room);
    give(words);
}

static void run(const setup_t *setup, uint32_t groups, void (*change)(const setup_t *setup, float *widened, void *tokens))
{
    run_rate(setup, groups, 0, change);
}

/* ---- Tests ---- */

static const size_t dimensions[] = {1, 2, 3, 8, 16, 17, 64, 65, 100, 512, 768, 1000, 2048, 4100, 8192};
static const size_t token_counts[] = {0, 1, 2, 33, 300, 2000};

/* Kernels that run on the CPU are slow: so many elements at most. */
#ifdef TACIT_EMULATED
enum { MOST = 160000 };
#else
enum { MOST = 1 << 22 };
#endif

START_TEST(every_dimension)
{
    for (size_t i = 0; i < COUNT_OF(token_counts); i++) {
        const int     n = _i + (int)i;
        const setup_t setup = {token_counts[i], dimensions[_i], 1 + n % 8, 1 + n % 3, TACIT_FLOAT32, false};

        if (setup.tokens * setup.dimension <= MOST) {
            run(&setup, n % 2 == 0 ? 1 : 5, NULL);
        }
    }
}
END_TEST

/* Many tiles of tokens with their codes. */
START_TEST(many_hashes_and_rounds)
{
    for (int rounds = 1; rounds <= 3; rounds++) {
        run(&(setup_t){90, 100, 1 + _i, rounds, TACIT_FLOAT32, false}, 1, NULL);
        run(&(setup_t){700, 5, 1 + _i, rounds, TACIT_FLOAT32, false}, 3, NULL);
    }
}
END_TEST

START_TEST(halves)
{
    const tacit_dtype_t dtype = _i % 2 == 0 ? TACIT_FLOAT16 : TACIT_BFLOAT16;

    run(&(setup_t){300, 65, 3, 2, dtype, false}, 2, NULL);
    run(&(setup_t){33, 768, 6, 1, dtype, false}, 1, NULL);
    run(&(setup_t){50, 4, 2, 3, dtype, false}, 1, NULL);
}
END_TEST

/* NaN and infinities: of some tokens an element, of some all. */
static void spoil(const setup_t *setup, float *widened, void *tokens)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};

    for (size_t t = 0; t < setup->tokens; t++) {
        float *x = widened + setup->dimension * t;

        for (size_t i = 0; i < setup->dimension; i++) {
            if (t % 4 == 1 ? i == t % setup->dimension : t % 4 == 2) {
                x[i] = t % 8 == 6 ? values[1 + (t + i) % 2] : values[t % 3];
            }
        }
    }
    narrow(setup->dtype, widened, tokens, setup->tokens * setup->dimension);
}

START_TEST(not_finite)
{
    static const size_t some[] = {1, 2, 4, 5, 64, 100, 1000};

    for (int rounds = 1; rounds <= 3; rounds++) {
        run(&(setup_t){60, some[_i], 3, rounds, TACIT_FLOAT32, false}, 1, spoil);
    }
    run(&(setup_t){60, some[_i], 3, 2, TACIT_FLOAT16, false}, 2, spoil);
    run(&(setup_t){60, some[_i], 3, 2, TACIT_FLOAT32, true}, 2, spoil);
    run(&(setup_t){60, some[_i], 3, 2, TACIT_BFLOAT16, true}, 2, spoil);
}
END_TEST

/* Tokens that are all one. */
static void equalize(const setup_t *setup, float *widened, void *tokens)
{
    for (size_t t = 1; t < setup->tokens; t++) {
        memcpy(widened + setup->dimension * t, widened, setup->dimension * sizeof *widened);
    }
    narrow(setup->dtype, widened, tokens, setup->tokens * setup->dimension);
}

START_TEST(one_cluster)
{
    run(&(setup_t){2000, 33, 4, 2, TACIT_FLOAT32, false}, 1, equalize);
    run(&(setup_t){700, 33, 8, 2, TACIT_FLOAT32, false}, 3, equalize);
}
END_TEST

/* Fewer hashes where there would be more clusters. */
START_TEST(rates)
{
    static const double some[] = {0.01, 0.1, 0.3, 0.6, 1};

    run_rate(&(setup_t){600, 16, 8, 2, TACIT_FLOAT32, false}, 1 + (uint32_t)_i % 4, some[_i], NULL);
    run_rate(&(setup_t){0, 16, 8, 2, TACIT_FLOAT32, false}, 2, some[_i], NULL);
}
END_TEST

/* Codes as they never come: few, so that many tokens meet, and many, with counts around those of tiles. */
START_TEST(any_codes)
{
    static const uint32_t ranges[] = {1, 2, 3, 40, 100000, UINT32_MAX};
    static const uint32_t counts[] = {511, 512, 513, 1024, 1537, 5000};
    enum { PARTS = 4, HASHES = 3 };
    harness_random_t random = {(uint64_t)_i};

    for (size_t n = 0; n < COUNT_OF(counts); n++) {
        const setup_t           setup = {counts[n], 1, HASHES, 1, TACIT_FLOAT32, false};
        uint32_t               *codes = get(counts[n] * HASHES, 4), *group = get(counts[n], 4), *part = get(counts[n], 4);
        uint32_t               *room = get(tacit__lsh_room(counts[n]), 4), *words;
        tacit_device_coded_t    coded = {codes, group, part, counts[n], HASHES, PARTS, n % 3 == 0 ? 0 : 0.05 * (double)n};
        tacit_device_clusters_t gpu;

        for (size_t i = 0; i < counts[n] * HASHES; i++) {
            codes[i] = (uint32_t)harness_next(&random) % ranges[_i];
        }
        for (size_t t = 0; t < counts[n]; t++) {
            part[t] = (uint32_t)harness_next(&random) % (PARTS - 1); /* of the last there are none */
            group[t] = 10 * part[t] + (uint32_t)harness_next(&random) % 3;
        }
        words = get(tacit__device_clusters_words(&coded), 4);
        (void)cluster_both(&setup, &coded, room, words, &gpu);
        give(codes);
        give(group);
        give(part);
        give(room);
        give(words);
    }
}
END_TEST

/* A kernel for each number of elements ends somewhere: what is longer is refused. */
START_TEST(too_long)
{
    const setup_t               setup = {1, TACIT_DEVICE_DIMENSION + 1, 1, 1, TACIT_FLOAT32, false};
    const tacit_rotations_t     rotations = rotations_of(&setup);
    const tacit_device_tokens_t shape = shape_of(&setup);

    ck_assert_int_ne(cuda->lsh_codes(&rotations, &shape, NULL, NULL, NULL), 0);
    give((void *)rotations.signs);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tests;

    if (!tokens_begin()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("lsh on a GPU");
    tests = tcase_create("lsh");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, every_dimension, 0, COUNT_OF(dimensions));
    tcase_add_loop_test(tests, many_hashes_and_rounds, 0, 8);
    tcase_add_loop_test(tests, halves, 0, 2);
    tcase_add_loop_test(tests, not_finite, 0, 7);
    tcase_add_test(tests, one_cluster);
    tcase_add_loop_test(tests, rates, 0, 5);
    tcase_add_loop_test(tests, any_codes, 0, 6);
    tcase_add_test(tests, too_long);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
