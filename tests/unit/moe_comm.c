/* SPDX-License-Identifier: Apache-2.0 */
/* Layers over a communicator give the bits of those whose messages the program moves; and whatever goes wrong, all ranks say the
   same, and the pass, or the layer, goes on. */
#include "mixture.h"

#include <math.h>
#include <stdio.h>

#include "ranks.h"

enum { DIMENSION = 20, TOKENS = 120, EXPERTS = 7, CHOICES = 2 };

static const int   rank_counts[] = {1, 2, 3, 4, 5, 8};
static const char *specs[] = {NULL, "bf16", "fp8", "rotq:bits=4", "lsh:hashes=2", "lsh:hashes=4,rate=0.5,values=bf16"};

/* What can go wrong on rank 1 in the first pass. */
typedef enum {
    NOTHING,
    WRONG_EXPERT,
    NO_MEMORY,
    NO_REPLIES,
    NO_WEIGHTS,
    NO_GRADIENTS,
    NO_ROOM,
    NO_ROW_GRADIENTS,
    NO_RESULT
} wrong_t;

typedef struct scene {
    mixture_t     *mixture; /* what is given, and what is expected */
    wrong_t        wrong;
    uint64_t       nth; /* allocation, from the pass on; 0: all succeed */
    tacit_status_t status[MIXTURE_RANKS];
    char           text[MIXTURE_RANKS][TACIT_TEXT_BYTES];
    int            differ; /* results that are not as expected */
    uint64_t       wire_bytes[MIXTURE_RANKS];
} scene_t;

static float *room(size_t count)
{
    float *values = calloc(count + 1, sizeof *values);

    if (values == NULL) {
        abort();
    }
    return values;
}

/* What a rank's experts make of its batch, or its gradients, as the mixture's do. */
static void apply(const mixture_t *mixture, int rank, const tacit_moe_batch_t *batch, const float *gradients, float *out)
{
    for (size_t e = 0; e < batch->experts; e++) {
        for (size_t row = batch->first[e]; row < batch->first[e + 1]; row++) {
            const size_t at = row * mixture->config.dimension, expert = first_expert(mixture, rank) + e;
            const float *given = (const float *)batch->rows + at;

            if (gradients == NULL) {
                mixture->expert(expert, given, mixture->config.dimension, out + at);
            } else {
                mixture->back(expert, given, gradients + at, mixture->config.dimension, out + at);
            }
        }
    }
}

/* Notes the first status that is not OK, and begins again: the call that went wrong is made as it should be. */
static tacit_status_t noted(scene_t *scene, int rank, tacit_status_t status)
{
    if (status != TACIT_OK && scene->status[rank] == TACIT_OK) {
        scene->status[rank] = status;
        snprintf(scene->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    }
    tacit__alloc_fail_after(0);
    return status;
}

#define AGAIN(call_wrong, call)                                                                                                  \
    if (noted(scene, rank, call_wrong) != TACIT_OK) {                                                                            \
        MUST(call);                                                                                                              \
    }

static void body(tacit_comm_t *comm, void *arg)
{
    scene_t             *scene = arg;
    const mixture_t     *mixture = scene->mixture;
    const int            rank = tacit_comm_rank(comm);
    const wrong_t        wrong = rank == 1 ? scene->wrong : NOTHING;
    const size_t         count = mixture->count[rank], elements = count * DIMENSION;
    const int32_t        nowhere[TOKENS * CHOICES] = {EXPERTS};
    float               *out = room(elements), *weights = room(count * CHOICES), *tokens = room(elements), *rows[3];
    tacit_moe_t         *moe;
    tacit_moe_pass_t    *pass = NULL;
    tacit_moe_batch_t    batch;
    tacit_moe_counters_t counters;

    MUST(tacit_moe_create(comm, "layer", &mixture->config, &moe));
    if (wrong == NO_MEMORY) {
        tacit__alloc_fail_after(scene->nth);
    }
    AGAIN(tacit_moe_dispatch(moe, mixture->tokens[rank], count, wrong == WRONG_EXPERT ? nowhere : mixture->experts[rank], &pass,
                             &batch),
          tacit_moe_dispatch(moe, mixture->tokens[rank], count, mixture->experts[rank], &pass, &batch));
    for (int i = 0; i < 3; i++) {
        rows[i] = room(batch.count * DIMENSION);
    }
    apply(mixture, rank, &batch, NULL, rows[0]);
    AGAIN(tacit_moe_combine(pass, wrong == NO_REPLIES ? NULL : rows[0], wrong == NO_WEIGHTS ? NULL : mixture->weights[rank], out),
          tacit_moe_combine(pass, rows[0], mixture->weights[rank], out));
    AGAIN(tacit_moe_combine_backward(pass, wrong == NO_GRADIENTS ? NULL : mixture->gradients[rank], weights,
                                     wrong == NO_ROOM ? NULL : rows[1]),
          tacit_moe_combine_backward(pass, mixture->gradients[rank], weights, rows[1]));
    apply(mixture, rank, &batch, rows[1], rows[2]);
    AGAIN(tacit_moe_dispatch_backward(pass, wrong == NO_ROW_GRADIENTS ? NULL : rows[2], wrong == NO_RESULT ? NULL : tokens),
          tacit_moe_dispatch_backward(pass, rows[2], tokens));
    if (memcmp(out, mixture->out[rank], elements * sizeof *out) != 0 ||
        memcmp(tokens, mixture->token_gradients[rank], elements * sizeof *tokens) != 0 ||
        memcmp(weights, mixture->weight_gradients[rank], count * CHOICES * sizeof *weights) != 0 ||
        batch.count != mixture->batch[rank].count) {
        __atomic_fetch_add(&scene->differ, 1, __ATOMIC_RELAXED);
    }
    MUST(tacit_moe_counters(moe, &counters));
    scene->wire_bytes[rank] = counters.wire_bytes;
    tacit_moe_pass_destroy(pass);
    for (int i = 0; i < 3; i++) {
        free(rows[i]);
    }
    free(out);
    free(weights);
    free(tokens);
}

/* Ranks have other numbers of tokens, one of them none. */
static mixture_t made(int ranks, const char *spec, const tacit_config_t *common)
{
    const tacit_moe_config_t config = config_of(DIMENSION, EXPERTS, TOKENS, CHOICES, spec);
    mixture_t                mixture = mixture_of(ranks, &config, common);

    mixture.expert = scaling;
    mixture.back = scaling_back;
    fill(&mixture, 7, 9);
    for (int r = 0; r < ranks; r++) {
        fill_points(&mixture, r, 6, 0.05, 3);
        mixture.count[r] = r == 2 ? 0 : TOKENS - (size_t)r * 11;
    }
    return mixture;
}

static void play(scene_t *scene, const tacit_config_t *common)
{
    dispatch(scene->mixture);
    combine(scene->mixture);
    backward(scene->mixture);
    run_ranks(scene->mixture->ranks, common, body, scene);
    ck_assert_int_eq(scene->differ, 0);
}

START_TEST(the_same_bits)
{
    for (size_t s = 0; s < COUNT_OF(specs); s++) {
        tacit_config_t common = TACIT_CONFIG_INIT;
        mixture_t      mixture;
        scene_t        scene = {.mixture = &mixture};

        common.chunk_bytes = s % 2 != 0 ? 1024 : 0;
        mixture = made(rank_counts[_i], specs[s], &common);
        play(&scene, &common);
        for (int r = 0; r < mixture.ranks; r++) {
            ck_assert_msg(scene.status[r] == TACIT_OK, "%s", scene.text[r]);
            ck_assert(mixture.ranks == 1 || scene.wire_bytes[r] != 0);
        }
        mixture_release(&mixture);
    }
}
END_TEST

static const struct {
    wrong_t        wrong;
    tacit_status_t status;
    const char    *words;
} faults[] = {
    {WRONG_EXPERT, TACIT_ERR_ARGUMENT, "7"},         {NO_REPLIES, TACIT_ERR_ARGUMENT, "rank 1: moe 'layer'"},
    {NO_WEIGHTS, TACIT_ERR_ARGUMENT, "rank 1: moe"}, {NO_GRADIENTS, TACIT_ERR_ARGUMENT, "rank 1: moe 'layer'"},
    {NO_ROOM, TACIT_ERR_ARGUMENT, "rank 1: moe"},    {NO_ROW_GRADIENTS, TACIT_ERR_ARGUMENT, "rank 1: moe 'layer'"},
    {NO_RESULT, TACIT_ERR_ARGUMENT, "is NULL"},
};

START_TEST(mistakes_of_one_rank)
{
    mixture_t mixture = made(3, "lsh:hashes=2", NULL);
    scene_t   scene = {.mixture = &mixture, .wrong = faults[_i].wrong};

    play(&scene, NULL);
    for (int r = 0; r < 3; r++) {
        ck_assert_int_eq(scene.status[r], faults[_i].status);
        ck_assert_msg(strstr(scene.text[r], faults[_i].words) != NULL, "%s", scene.text[r]);
        ck_assert_str_eq(scene.text[r], scene.text[0]);
    }
    mixture_release(&mixture);
}
END_TEST

/* Wherever memory runs out in dispatch on one rank, all ranks say so, and dispatch again. */
START_TEST(memory_that_is_missing)
{
    bool ended = false;

    for (uint64_t nth = 1; !ended; nth++) {
        mixture_t mixture = made(3, "lsh:hashes=2", NULL);
        scene_t   scene = {.mixture = &mixture, .wrong = NO_MEMORY, .nth = nth};

        ck_assert_uint_lt(nth, 200);
        play(&scene, NULL);
        ended = scene.status[1] == TACIT_OK;
        for (int r = 0; r < 3; r++) {
            ck_assert_int_eq(scene.status[r], ended ? TACIT_OK : TACIT_ERR_MEMORY);
        }
        mixture_release(&mixture);
    }
}
END_TEST

/* Whatever one rank asks for that others do not. */
static void other_body(tacit_comm_t *comm, void *arg)
{
    tacit_moe_config_t config = config_of(8, 4, 10, 1, "lsh:hashes=3");
    tacit_moe_t       *moe = NULL;
    tacit_status_t    *status = arg;
    const int          rank = tacit_comm_rank(comm);

    config.spec = rank == 1 ? "lsh:hashes=4" : config.spec;
    status[3 * rank] = tacit_moe_create(comm, "layer", &config, &moe);
    config.spec = "lsh";
    config.capacity = rank == 1 ? 3 : 0;
    status[3 * rank + 1] = tacit_moe_create(comm, "layer", &config, &moe);
    config.capacity = 0;
    config.spec = rank == 1 ? "lsch" : "lsh";
    status[3 * rank + 2] = tacit_moe_create(comm, "layer", &config, &moe);
    config.spec = NULL;
    MUST(tacit_moe_create(comm, "layer", &config, &moe)); /* the communicator's, which destroys it */
    MUST(tacit_moe_create(comm, "other", &config, &moe));
    tacit_moe_destroy(moe);
}

START_TEST(layers_that_differ)
{
    tacit_status_t status[9];

    run_ranks(3, NULL, other_body, status);
    for (int i = 0; i < 9; i++) {
        ck_assert_int_eq(status[i], i % 3 == 2 ? TACIT_ERR_SPEC : TACIT_ERR_MISMATCH);
    }
}
END_TEST

/* Calls of three ranks, of which the first makes another one; then all make the right ones. */
typedef struct astray {
    tacit_status_t status[3][4];
    char           text[3][4][TACIT_TEXT_BYTES];
} astray_t;

static void astray_body(tacit_comm_t *comm, void *arg)
{
    static const float       tokens[4 * 8], weights[4];
    static const int32_t     experts[] = {0, 1, 2, 3};
    const tacit_moe_config_t config = config_of(8, 4, 4, 1, "bf16");
    astray_t                *astray = arg;
    const int                rank = tacit_comm_rank(comm);
    float                    out[4 * 8], rows[12 * 8] = {0}, sum = 1;
    tacit_moe_t             *a, *b;
    tacit_moe_pass_t        *first = NULL, *second = NULL, *none = NULL;
    tacit_moe_batch_t        batch;
    tacit_slot_t            *slot = slot_of(comm, "a", 1, TACIT_FLOAT32, "none");

    MUST(tacit_moe_create(comm, "a", &config, &a));
    MUST(tacit_moe_create(comm, "b", &config, &b));
    for (int call = 0; call < 4; call++) {
        tacit_status_t status;

        switch (call) {
        case 0:
            status = tacit_moe_dispatch(rank == 0 ? b : a, tokens, 4, experts, &none, &batch);
            MUST(tacit_moe_dispatch(a, tokens, 4, experts, &first, &batch));
            MUST(tacit_moe_dispatch(a, tokens, 4, experts, &second, &batch));
            break;
        case 1:
            status = tacit_moe_combine(rank == 0 ? second : first, rows, weights, out);
            break;
        case 2:
            status = rank == 0 ? tacit_moe_dispatch(a, tokens, 4, experts, &none, &batch)
                               : tacit_moe_combine(first, rows, weights, out);
            break;
        default:
            status = rank == 0 ? tacit_allreduce(slot, &sum, &sum, TACIT_SUM) : tacit_moe_combine(first, rows, weights, out);
        }
        astray->status[rank][call] = status;
        snprintf(astray->text[rank][call], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    }
    MUST(tacit_moe_combine(second, rows, weights, out));
    MUST(tacit_moe_combine(first, rows, weights, out));
    MUST(tacit_moe_dispatch(b, tokens, 4, experts, &none, &batch));
    tacit_moe_pass_destroy(none);
    MUST(tacit_moe_dispatch(a, tokens, 4, experts, &none, &batch));
    MUST(tacit_allreduce(slot, &sum, &sum, TACIT_SUM));
}

START_TEST(ranks_at_other_calls)
{
    static const char *const words[][2] = {{"layer 'b'", "layer 'a'"},
                                           {"combine of pass 1", "combine of pass 0"},
                                           {"dispatch of pass 2", "combine of pass 0"},
                                           {"slot 'a' (1 elements)", "layer 'a'"}};
    astray_t                 astray;

    run_ranks(3, NULL, astray_body, &astray);
    for (int call = 0; call < 4; call++) {
        for (int rank = 0; rank < 3; rank++) {
            ck_assert_int_eq(astray.status[rank][call], TACIT_ERR_MISMATCH);
            ck_assert_str_eq(astray.text[rank][call], astray.text[0][call]);
        }
        for (int i = 0; i < 2; i++) {
            ck_assert_msg(strstr(astray.text[0][call], words[call][i]) != NULL, "'%s'", astray.text[0][call]);
        }
    }
}
END_TEST

/* Where a rank has nothing, it gives nothing: the first of two has no expert and gives no tokens, the second no tokens once. */
static void nothing_body(tacit_comm_t *comm, void *arg)
{
    const tacit_moe_config_t config = config_of(3, 1, 2, 1, arg);
    const float              tokens[] = {1, 2, 3, -1, 5, 6}, weights[] = {1, 1};
    const int32_t            experts[] = {0, 0};
    float                    out[6], weight_gradients[2], rows[12] = {0};
    tacit_moe_t             *moe;

    MUST(tacit_moe_create(comm, "layer", &config, &moe));
    for (size_t count = 0; count <= 2; count += 2) {
        const bool        gives = tacit_comm_rank(comm) == 1 && count != 0, gets = gives;
        tacit_moe_pass_t *pass;
        tacit_moe_batch_t batch;

        MUST(tacit_moe_dispatch(moe, gives ? tokens : NULL, gives ? count : 0, gives ? experts : NULL, &pass, &batch));
        MUST(tacit_moe_combine(pass, gets ? batch.rows : NULL, gives ? weights : NULL, gives ? out : NULL));
        MUST(tacit_moe_combine_backward(pass, gives ? tokens : NULL, gives ? weight_gradients : NULL, gets ? rows : NULL));
        MUST(tacit_moe_dispatch_backward(pass, gets ? rows : NULL, gives ? out : NULL));
        tacit_moe_pass_destroy(pass);
    }
}

START_TEST(ranks_with_nothing)
{
    run_ranks(2, NULL, nothing_body, (void *)specs[_i]);
}
END_TEST

/* NaN in replies, where they lose something: the message says of which layer and exchange. */
static void nan_body(tacit_comm_t *comm, void *arg)
{
    const tacit_moe_config_t config = config_of(2, 2, 2, 1, "bf16");
    const float              tokens[4] = {1, 2, 3, 4}, weights[] = {1, 1};
    const int32_t            experts[] = {0, 1};
    const int                rank = tacit_comm_rank(comm);
    float                    out[4], replies[8] = {1, rank == 1 ? NAN : 1, 1, rank == 1 ? NAN : 1};
    char(*text)[TACIT_TEXT_BYTES] = arg;
    tacit_moe_t      *moe;
    tacit_moe_pass_t *pass;
    tacit_moe_batch_t batch;

    MUST(tacit_moe_create(comm, "layer", &config, &moe));
    MUST(tacit_moe_dispatch(moe, tokens, 2, experts, &pass, &batch));
    if (tacit_moe_combine(pass, replies, weights, out) == TACIT_ERR_VALUE) {
        snprintf(text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    }
    MUST(tacit_moe_combine(pass, batch.rows, weights, out));
}

START_TEST(where_not_finite)
{
    char text[2][TACIT_TEXT_BYTES] = {"", ""};

    run_ranks(2, NULL, nan_body, text);
    for (int rank = 0; rank < 2; rank++) {
        ck_assert_msg(strstr(text[rank], "rank 1: moe 'layer', combine: what goes to rank 0 holds NaN") != NULL, "%s",
                      text[rank]);
    }
}
END_TEST

/* A part of an all-to-all has fewer than 2^32 elements, which is known before anything is copied. */
static void large_body(tacit_comm_t *comm, void *arg)
{
    enum { LARGE = 1 << 20, MANY = 4097 };
    const tacit_moe_config_t config = config_of(LARGE, 2, MANY, 1, NULL);
    tacit_status_t          *status = arg;
    const int                rank = tacit_comm_rank(comm);
    int32_t                 *experts = calloc(MANY, sizeof *experts);
    float                   *tokens = calloc(LARGE, sizeof *tokens), *out = calloc(LARGE, sizeof *out);
    tacit_moe_t             *moe;
    tacit_moe_pass_t        *pass;
    tacit_moe_batch_t        batch;

    MUST(tacit_moe_create(comm, "large", &config, &moe));
    status[rank] = tacit_moe_dispatch(moe, tokens, rank == 1 ? MANY : 0, experts, &pass, &batch);
    MUST(tacit_moe_dispatch(moe, tokens, rank == 1, experts, &pass, &batch));
    MUST(tacit_moe_combine(pass, batch.rows, (const float[]){1}, out));
    free(experts);
    free(tokens);
    free(out);
}

START_TEST(more_than_a_part_has)
{
    tacit_status_t status[2];

    run_ranks(2, NULL, large_body, status);
    ck_assert_int_eq(status[0], TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(status[1], TACIT_ERR_ARGUMENT);
}
END_TEST

/* A block that no message can hold is refused when the layer is made. */
static void block_body(tacit_comm_t *comm, void *arg)
{
    const tacit_moe_config_t config = config_of(8, 2, 4, 1, "qsgd:bits=8,block=8192");
    tacit_moe_t             *moe;

    ((tacit_status_t *)arg)[tacit_comm_rank(comm)] = tacit_moe_create(comm, "blocks", &config, &moe);
}

START_TEST(blocks_of_a_message)
{
    tacit_config_t common = TACIT_CONFIG_INIT;
    tacit_status_t status[2];

    common.chunk_bytes = 1024;
    run_ranks(2, &common, block_body, status);
    ck_assert_int_eq(status[0], TACIT_ERR_UNSUPPORTED);
    ck_assert_int_eq(status[1], TACIT_ERR_UNSUPPORTED);
}
END_TEST

START_TEST(calls_that_cannot_be)
{
    const tacit_moe_config_t config = config_of(8, 4, 10, 1, NULL);
    tacit_moe_t             *moe;
    tacit_moe_pass_t        *pass;
    tacit_moe_batch_t        batch;

    succeed(tacit_moe_create_codec("layer", &config, NULL, 0, 1, &moe));
    ck_assert_int_eq(tacit_moe_dispatch(moe, NULL, 0, NULL, &pass, &batch), TACIT_ERR_STATE);
    ck_assert_int_eq(tacit_moe_dispatch(NULL, NULL, 0, NULL, &pass, &batch), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_moe_combine(NULL, NULL, NULL, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_moe_create(NULL, "layer", &config, &moe), TACIT_ERR_ARGUMENT);
    tacit_moe_destroy(moe);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("moe_comm");
    TCase *tcase = tcase_create("moe_comm");

    tcase_add_loop_test(tcase, the_same_bits, 0, COUNT_OF(rank_counts));
    tcase_add_loop_test(tcase, mistakes_of_one_rank, 0, COUNT_OF(faults));
    tcase_add_test(tcase, memory_that_is_missing);
    tcase_add_test(tcase, layers_that_differ);
    tcase_add_test(tcase, ranks_at_other_calls);
    tcase_add_loop_test(tcase, ranks_with_nothing, 0, COUNT_OF(specs));
    tcase_add_test(tcase, where_not_finite);
    tcase_add_test(tcase, more_than_a_part_has);
    tcase_add_test(tcase, blocks_of_a_message);
    tcase_add_test(tcase, calls_that_cannot_be);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
