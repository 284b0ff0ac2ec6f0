/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that are alike, on a GPU: codes, rows of clusters, and what comes of these have the bits that the CPU's have. With
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

/* ---- Rows of clusters ---- */

/* In memory of the GPU. */
typedef struct members {
    uint32_t *of;            /* each token's cluster */
    uint32_t *begin, *token; /* of each cluster, ascending */
    uint32_t *number;        /* i at i */
} members_t;

static members_t members_of(const setup_t *setup, const tacit_clusters_t *clusters)
{
    const size_t tokens = setup->tokens;
    members_t    members = {get(tokens, 4), get(tokens + 2, 4), get(tokens, 4), get(tokens + 1, 4)};

    members.begin[0] = 0; /* the end of each, once it is filled */
    for (size_t c = 0, next = 0; c < clusters->count; c++) {
        members.begin[c + 1] = (uint32_t)next;
        next += clusters->members[c];
    }
    for (size_t t = 0; t < tokens; t++) {
        members.of[t] = clusters->of[t];
        members.token[members.begin[clusters->of[t] + 1]++] = (uint32_t)t;
    }
    for (size_t i = 0; i <= tokens; i++) {
        members.number[i] = (uint32_t)i;
    }
    return members;
}

static void give_members(const members_t *members)
{
    give(members->of);
    give(members->begin);
    give(members->token);
    give(members->number);
}

/* A token has one choice, and a cluster one reply. */
static tacit_device_choices_t choices_of(const setup_t *setup, const members_t *members)
{
    return (tacit_device_choices_t){.tokens = shape_of(setup),
                                    .choices = 1,
                                    .reply = members->of,
                                    .row = members->number,
                                    .first_reply = members->number,
                                    .first_member = members->begin,
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

static void check_rows(const setup_t *setup, const tacit_clusters_t *clusters, const void *tokens, const float *widened)
{
    const size_t                 count = clusters->count * setup->dimension;
    const tacit_device_tokens_t  shape = shape_of(setup);
    const members_t              members = members_of(setup, clusters);
    const tacit_device_lists_t   lists = {(uint32_t)clusters->count, members.begin, members.token, NULL, NULL};
    const tacit_device_choices_t choices = choices_of(setup, &members);
    float                       *rows = get(count, 4);
    void                        *out = get(count, bytes_of(setup->dtype));

    for (int backward = 0; backward < 2; backward++) {
        sum_tokens(setup, clusters, widened, !backward, rows);
        MUST(cuda->sum_rows(&shape, &lists, tokens, !backward, out, NULL, NULL));
        MUST(cuda->synchronize());
        same_rows(setup, backward ? "sums" : "centroids", rows, out, count);
        check_conclusion(setup, clusters, &choices, backward, tokens, widened, out, rows);
    }
    give_members(&members);
    give(rows);
    give(out);
}

/* All of it, tokens in so many groups. */
static void run(const setup_t *setup, uint32_t groups, void (*change)(const setup_t *setup, float *widened, void *tokens))
{
    const size_t     hashes = (size_t)setup->hashes;
    float           *widened = get(setup->tokens * setup->dimension, 4);
    void            *tokens = tokens_of(setup, widened);
    uint32_t        *group = get(setup->tokens, 4), *room = get(tacit__lsh_room(setup->tokens), 4), *codes;
    tacit_clusters_t clusters;

    if (change != NULL) {
        change(setup, widened, tokens);
    }
    for (size_t i = 0; setup->skip && i < setup->tokens * setup->dimension; i++) {
        widened[i] = isfinite(widened[i]) ? widened[i] : 0;
    }
    for (size_t t = 0; t < setup->tokens; t++) {
        group[t] = (uint32_t)(t * t) % groups;
    }
    codes = codes_of(setup, tokens, widened);
    clusters = tacit__lsh_cluster(&(tacit_coded_t){setup->tokens, group, codes, hashes, hashes}, 0, room);
    check_rows(setup, &clusters, tokens, widened);
    give(widened);
    give(tokens);
    give(group);
    give(codes);
    give(room);
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
    tcase_add_test(tests, too_long);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
