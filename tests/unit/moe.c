/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtures of experts without a communicator: what experts get, what tokens get, and gradients, by their definitions. */
#include "mixture.h"

/* ---- By definition, where rows travel as they are ---- */

/* Which choices go anywhere: for each expert, of each rank, its first `capacity` ones. */
static bool *admitted(const mixture_t *mixture, int rank)
{
    const tacit_moe_config_t *config = &mixture->config;
    bool                     *goes = zeros_of(config->tokens * config->choices, sizeof *goes);
    size_t                   *taken = zeros_of(config->experts, sizeof *taken);

    for (size_t i = 0; i < mixture->count[rank] * config->choices; i++) {
        const int32_t expert = mixture->experts[rank][i];

        goes[i] = expert >= 0 && (config->capacity == 0 || taken[expert] < config->capacity);
        taken[expert >= 0 ? expert : 0] += goes[i];
    }
    free(taken);
    return goes;
}

/* The batch of each rank: expert by expert, rank by rank, token by token. */
static void check_batches(const mixture_t *mixture)
{
    const size_t dimension = mixture->config.dimension, choices = mixture->config.choices;

    for (int r = 0; r < mixture->ranks; r++) {
        const tacit_moe_batch_t *batch = &mixture->batch[r];
        float                   *rows = zeros_of(batch_elements(mixture, r), sizeof *rows);
        size_t                   at = 0;

        widen(mixture, batch->rows, batch_elements(mixture, r), rows);
        ck_assert_uint_eq(batch->experts, first_expert(mixture, r + 1) - first_expert(mixture, r));
        for (size_t e = 0; e < batch->experts; e++) {
            ck_assert_uint_eq(batch->first[e], at);
            for (int s = 0; s < mixture->ranks; s++) {
                bool *goes = admitted(mixture, s);

                for (size_t i = 0; i < mixture->count[s] * choices; i++) {
                    if (goes[i] && (size_t)mixture->experts[s][i] == first_expert(mixture, r) + e) {
                        ck_assert_uint_lt(at, batch->count);
                        same_floats(rows + at++ * dimension, mixture->tokens[s] + i / choices * dimension, dimension, "a row");
                    }
                }
                free(goes);
            }
        }
        ck_assert_uint_eq(batch->first[batch->experts], at);
        ck_assert_uint_eq(batch->count, at);
        free(rows);
    }
}

/* Output and gradients of one token. */
static void check_token(const mixture_t *mixture, int rank, size_t token, const bool *goes)
{
    const size_t   dimension = mixture->config.dimension, choices = mixture->config.choices, first = token * choices;
    const int32_t *experts = mixture->experts[rank] + first;
    const float   *x = mixture->tokens[rank] + token * dimension, *u = mixture->gradients[rank] + token * dimension;
    float         *out = zeros_of(dimension, sizeof *out), *gradient = zeros_of(dimension, sizeof *gradient);
    float         *y = zeros_of(dimension, sizeof *y), *sum = zeros_of(dimension, sizeof *sum);
    bool           any = false;

    for (size_t j = 0; j < choices; j++) {
        double dot = 0;

        if (goes[j]) {
            mixture->expert((size_t)experts[j], x, dimension, y);
        }
        for (size_t i = 0; i < dimension && goes[j]; i++) {
            y[i] = rounded(mixture, y[i]);
            dot += (double)u[i] * (double)y[i];
            out[i] = any ? out[i] + mixture->weights[rank][first + j] * y[i] : mixture->weights[rank][first + j] * y[i];
        }
        any = any || goes[j];
        ck_assert_double_eq_tol((double)mixture->weight_gradients[rank][first + j], dot, 1e-4 * (1 + fabs(dot)));
        ck_assert(goes[j] || mixture->weight_gradients[rank][first + j] == 0);
    }
    any = false;
    for (int r = 0; r < mixture->ranks; r++) { /* rank by rank, what its experts make of the gradients, expert by expert */
        bool here = false;

        for (size_t e = first_expert(mixture, r); e < first_expert(mixture, r + 1); e++) {
            for (size_t j = 0; j < choices; j++) {
                if (!goes[j] || (size_t)experts[j] != e) {
                    continue;
                }
                for (size_t i = 0; i < dimension; i++) {
                    y[i] = rounded(mixture, mixture->weights[rank][first + j] * u[i]);
                }
                mixture->back(e, x, y, dimension, y);
                for (size_t i = 0; i < dimension; i++) {
                    y[i] = rounded(mixture, y[i]);
                    sum[i] = here ? sum[i] + y[i] : y[i];
                }
                here = true;
            }
        }
        for (size_t i = 0; i < dimension && here; i++) {
            gradient[i] = any ? gradient[i] + rounded(mixture, sum[i]) : rounded(mixture, sum[i]);
        }
        any = any || here;
    }
    for (size_t i = 0; i < dimension; i++) {
        out[i] = rounded(mixture, out[i]);
        gradient[i] = rounded(mixture, gradient[i]);
    }
    same_floats(mixture->out[rank] + token * dimension, out, dimension, "an output");
    same_floats(mixture->token_gradients[rank] + token * dimension, gradient, dimension, "a gradient");
    free(out);
    free(gradient);
    free(y);
    free(sum);
}

static void check_results(const mixture_t *mixture)
{
    for (int r = 0; r < mixture->ranks; r++) {
        bool *goes = admitted(mixture, r);

        for (size_t t = 0; t < mixture->count[r]; t++) {
            check_token(mixture, r, t, goes + t * mixture->config.choices);
        }
        free(goes);
    }
}

static const int rank_counts[] = {1, 2, 3, 4, 5, 8};

static tacit_moe_config_t config_of(size_t dimension, size_t experts, size_t tokens, size_t choices, const char *spec)
{
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;

    config.dimension = dimension;
    config.experts = experts;
    config.tokens = tokens;
    config.choices = choices;
    config.spec = spec;
    return config;
}

/* Any number of ranks; experts that are fewer than ranks, or not a multiple; tokens to one expert, and to none. */
START_TEST(definitions)
{
    static const struct {
        size_t        dimension, experts, tokens, choices, capacity;
        uint64_t      padding;
        tacit_dtype_t dtype;
    } cases[] = {
        {16, 8, 20, 2, 0, 0, TACIT_FLOAT32}, {7, 3, 30, 2, 0, 5, TACIT_FLOAT32},   {33, 11, 40, 3, 4, 7, TACIT_FLOAT32},
        {5, 1, 12, 1, 0, 0, TACIT_FLOAT32},  {64, 20, 25, 4, 3, 0, TACIT_FLOAT16}, {20, 7, 25, 2, 0, 4, TACIT_BFLOAT16},
        {4, 40, 9, 5, 1, 0, TACIT_FLOAT32},  {3, 2, 10, 2, 0, 1, TACIT_FLOAT32},
    };

    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        tacit_moe_config_t config = config_of(cases[c].dimension, cases[c].experts, cases[c].tokens, cases[c].choices, NULL);
        mixture_t          mixture;

        config.capacity = cases[c].capacity;
        config.dtype = cases[c].dtype;
        mixture = mixture_of(rank_counts[_i], &config, NULL);
        mixture.expert = scaling;
        mixture.back = scaling_back;
        for (uint64_t pass = 0; pass < 3; pass++) { /* one rank without tokens; then all to few experts */
            fill(&mixture, 10 * c + pass, cases[c].padding);
            for (int r = 0; r < mixture.ranks; r++) {
                mixture.count[r] = pass == 1 && r == mixture.ranks / 2 ? 0 : config.tokens - (size_t)r;
                for (size_t i = 0; i < config.tokens * config.choices && pass == 2; i++) {
                    mixture.experts[r][i] = (int32_t)(i % config.choices);
                }
            }
            dispatch(&mixture);
            check_batches(&mixture);
            combine(&mixture);
            backward(&mixture);
            check_results(&mixture);
            pass_over(&mixture);
        }
        mixture_release(&mixture);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *all = suite_create("moe");
    TCase *moe = tcase_create("moe");

    tcase_add_loop_test(moe, definitions, 0, COUNT_OF(rank_counts));
    suite_add_tcase(all, moe);
    return all;
}

int main(void)
{
    return harness_main(suite());
}
