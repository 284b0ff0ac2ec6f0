/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtures of experts with `lsh`: the worked example, what must hold for any tokens, and the gradients of a whole layer against
   finite differences. */
#include "mixture.h"

/* ---- The worked example ---- */

static const float matrix[4][4] = {{1, 2, 0, 0}, {0, 1, 0, 0}, {0, 0, 3, 0}, {1, 0, 0, 1}};

/* max(0, Wx) */
static void rectified(size_t expert, const float *row, size_t dimension, float *reply)
{
    (void)expert;
    for (size_t i = 0; i < dimension; i++) {
        reply[i] = 0;
        for (size_t j = 0; j < dimension; j++) {
            reply[i] += matrix[i][j] * row[j];
        }
        reply[i] = fmaxf(0, reply[i]);
    }
}

static void rectified_back(size_t expert, const float *row, const float *gradient, size_t dimension, float *back)
{
    float reply[4];

    rectified(expert, row, dimension, reply);
    for (size_t j = 0; j < dimension; j++) {
        back[j] = 0;
        for (size_t i = 0; i < dimension; i++) {
            back[j] += reply[i] > 0 ? matrix[i][j] * gradient[i] : 0;
        }
    }
}

/* Five tokens go from rank 0 to the expert of rank 1, as three rows. */
START_TEST(worked_example)
{
    static const float   tokens[5][4] = {{4, 1, 0, -1}, {4, 1, .5f, -1}, {-1, 3, 2, 0}, {-1, 3, 2.2f, 0}, {0, 0, -5, 1}};
    static const float   rows[3][4] = {{4, 1, .25f, -1}, {-1, 3, (2 + 2.2f) / 2, 0}, {0, 0, -5, 1}};
    static const float   outputs[2][4] = {{6, 1, .5f, 3}, {6, 1, 1, 3}}, gradients[2][4] = {{1, 0, 0, 0}, {0, 0, 1, 2}};
    static const float   exact[2] = {0, 1.5f}, reply = .75f; /* third elements, where the two tokens differ */
    static const float   sum[4] = {1, 0, 1, 2}, inputs[2][4] = {{2, 1, 1, 0}, {1, 1, 2, 2}};
    tacit_moe_config_t   config = config_of(4, 2, 5, 1, "lsh:hashes=1,rounds=3");
    mixture_t            mixture = mixture_of(2, &config, NULL);
    tacit_moe_counters_t counters;

    mixture.expert = rectified;
    mixture.back = rectified_back;
    mixture.count[0] = 5;
    mixture.moe[0]->signs[0] = 1u << 1; /* of (1,-1,1,1), (1,1,-1,1), (-1,1,1,1) */
    mixture.moe[0]->signs[1] = 1u << 2;
    mixture.moe[0]->signs[2] = 1u << 0;
    memcpy(mixture.tokens[0], tokens, sizeof tokens);
    memcpy(mixture.gradients[0], gradients, sizeof gradients);
    for (size_t t = 0; t < 5; t++) {
        mixture.experts[0][t] = 1;
        mixture.weights[0][t] = 1;
    }
    dispatch(&mixture);
    ck_assert_uint_eq(mixture.batch[0].count, 0);
    ck_assert_uint_eq(mixture.batch[1].count, 3);
    same_floats(mixture.batch[1].rows, *rows, 12, "rows");
    combine(&mixture);
    same_floats(mixture.out[0], *outputs, 8, "outputs");
    for (size_t t = 0; t < 2; t++) { /* a third of what the reply alone is off by is gone */
        ck_assert_float_eq(fabsf(mixture.out[0][4 * t + 2] - exact[t]), fabsf(reply - exact[t]) * 2 / 3);
    }
    backward(&mixture);
    same_floats(mixture.reply_gradients[1], sum, 4, "the gradient of a reply");
    same_floats(mixture.token_gradients[0], *inputs, 8, "gradients of tokens");
    ck_assert_float_eq(mixture.weight_gradients[0][0], 6);
    ck_assert_float_eq(mixture.weight_gradients[0][1], 7);
    succeed(tacit_moe_counters(mixture.moe[0], &counters));
    ck_assert_uint_eq(counters.copies, 5);
    ck_assert_uint_eq(counters.rows, 3);
    ck_assert_double_eq(counters.hashes, 1);
    ck_assert_double_eq_tol(counters.residual, sqrt((2 * .0625 + 2 * .01) / (18 + 18.25 + 14 + 10 + 4.84 + 26)), 1e-6);
    mixture_release(&mixture);
}
END_TEST

/* ---- What must hold ---- */

enum { RANKS = 3, EXPERTS = 5, TOKENS = 60, DIMENSION = 24, CHOICES = 2 };

/* Tokens near to so many points of each rank's; 0: anywhere. */
static mixture_t layer_of(const char *spec, size_t points, double noise, uint64_t seed)
{
    tacit_moe_config_t config = config_of(DIMENSION, EXPERTS, TOKENS, CHOICES, spec);
    mixture_t          mixture = mixture_of(RANKS, &config, NULL);

    mixture.expert = identity;
    mixture.back = identity_back;
    fill(&mixture, seed, 0);
    for (int r = 0; r < RANKS; r++) {
        mixture.count[r] = TOKENS;
        if (points != 0) {
            fill_points(&mixture, r, points, noise, seed);
        }
    }
    return mixture;
}

static void run(mixture_t *mixture)
{
    dispatch(mixture);
    combine(mixture);
    backward(mixture);
}

static double rate_of(const mixture_t *mixture)
{
    tacit_moe_counters_t counters;

    succeed(tacit_moe_counters(mixture->moe[0], &counters));
    return (double)counters.rows / (double)counters.copies;
}

/* An expert that changes nothing gives every token back, whatever its cluster and however coarsely rows travel, and its gradient;
   but the gradients of a row's two experts become one, which is rounded once more. */
START_TEST(identity_gives_tokens_back)
{
    static const char *const specs[] = {"lsh:hashes=1", "lsh:hashes=2,values=bf16", "lsh:hashes=3,values=fp16"};
    mixture_t                mixture = layer_of(specs[_i], 6, .1, 1);

    run(&mixture);
    ck_assert_double_lt(rate_of(&mixture), .7);
    for (int r = 0; r < RANKS; r++) {
        for (size_t i = 0; i < TOKENS * DIMENSION; i++) {
            const float   *w = mixture.weights[r] + i / DIMENSION * CHOICES;
            const int32_t *e = mixture.experts[r] + i / DIMENSION * CHOICES;
            const bool     together = rank_of_expert(&mixture, (size_t)e[0]) == rank_of_expert(&mixture, (size_t)e[1]);
            const double   weight = (double)w[0] + (double)w[1];

            ck_assert_double_eq_tol((double)mixture.out[r][i], weight * (double)mixture.tokens[r][i], 1e-5);
            ck_assert_double_eq_tol((double)mixture.token_gradients[r][i], weight * (double)mixture.gradients[r][i],
                                    _i != 0 && together ? 6e-2 : 1e-5);
        }
    }
    mixture_release(&mixture);
}
END_TEST

/* Of a linear expert the sum of outputs is that of exact ones, if weights are equal, with residuals or without. */
START_TEST(linear_keeps_means)
{
    static const char *const specs[] = {"lsh:hashes=1", "lsh:hashes=2,residual=drop"};
    mixture_t                mixtures[] = {layer_of(specs[_i], 6, .1, 2), layer_of("none", 6, .1, 2)};

    for (size_t m = 0; m < 2; m++) {
        mixtures[m].expert = scaling;
        mixtures[m].back = scaling_back;
        for (int r = 0; r < RANKS; r++) {
            for (size_t i = 0; i < TOKENS * CHOICES; i++) {
                mixtures[m].weights[r][i] = .5f;
            }
        }
        run(&mixtures[m]);
    }
    ck_assert_double_lt(rate_of(&mixtures[0]), .7);
    for (int r = 0; r < RANKS; r++) {
        for (size_t i = 0; i < DIMENSION; i++) {
            double sums[2] = {0}, apart = 0;
            for (size_t t = 0; t < TOKENS; t++) {
                sums[0] += (double)mixtures[0].out[r][t * DIMENSION + i];
                sums[1] += (double)mixtures[1].out[r][t * DIMENSION + i];
                apart += fabs((double)mixtures[0].out[r][t * DIMENSION + i] - (double)mixtures[1].out[r][t * DIMENSION + i]);
            }
            ck_assert_double_eq_tol(sums[0], sums[1], 1e-4);
            ck_assert_double_gt(apart, .1); /* while outputs differ */
        }
    }
    mixture_release(&mixtures[0]);
    mixture_release(&mixtures[1]);
}
END_TEST

/* Where no two tokens are alike, all bits are those of a layer without hashes. */
START_TEST(alone)
{
    mixture_t mixtures[] = {layer_of(_i == 0 ? "lsh:hashes=16" : "lsh:hashes=16,residual=drop", 0, 0, 3),
                            layer_of(NULL, 0, 0, 3)};

    for (size_t m = 0; m < 2; m++) {
        mixtures[m].expert = scaling;
        mixtures[m].back = scaling_back;
        for (int r = 0; r < RANKS; r++) {
            for (size_t i = 0; i < TOKENS * DIMENSION; i += 5) {
                mixtures[m].tokens[r][i] = i % 2 == 0 ? 0.f : -0.f;
                mixtures[m].gradients[r][i] = i % 2 == 0 ? -0.f : 0.f;
            }
        }
        run(&mixtures[m]);
    }
    ck_assert_double_eq(rate_of(&mixtures[0]), 1);
    for (int r = 0; r < RANKS; r++) {
        ck_assert_uint_eq(mixtures[0].batch[r].count, mixtures[1].batch[r].count);
        same_floats(mixtures[0].batch[r].rows, mixtures[1].batch[r].rows, batch_elements(&mixtures[0], r), "rows");
        same_floats(mixtures[0].out[r], mixtures[1].out[r], TOKENS * DIMENSION, "outputs");
        same_floats(mixtures[0].reply_gradients[r], mixtures[1].reply_gradients[r], batch_elements(&mixtures[0], r), "replies");
        same_floats(mixtures[0].weight_gradients[r], mixtures[1].weight_gradients[r], TOKENS * CHOICES, "weights' gradients");
        same_floats(mixtures[0].token_gradients[r], mixtures[1].token_gradients[r], TOKENS * DIMENSION, "tokens' gradients");
    }
    mixture_release(&mixtures[0]);
    mixture_release(&mixtures[1]);
}
END_TEST

/* Tokens that are all the same are one row for each set of experts of a rank that several go to; where one does, its own. */
START_TEST(sets)
{
    mixture_t mixture = layer_of("lsh", 0, 0, 4);

    for (int r = 0; r < RANKS; r++) {
        for (size_t t = 0; t < TOKENS; t++) {
            memcpy(mixture.tokens[r] + t * DIMENSION, mixture.tokens[0], DIMENSION * sizeof(float));
        }
    }
    dispatch(&mixture);
    for (int r = 0; r < RANKS; r++) { /* rank r's experts: sets are each of them, and each pair */
        for (size_t e = 0; e < mixture.batch[r].experts; e++) {
            size_t rows = 0;
            for (int s = 0; s < RANKS; s++) {
                bool   met[EXPERTS] = {false}; /* together with another one here; its own place: alone here */
                size_t own = 0;
                for (size_t t = 0; t < TOKENS; t++) {
                    const int32_t *experts = mixture.experts[s] + CHOICES * t;
                    for (size_t j = 0; j < CHOICES; j++) {
                        const size_t other = (size_t)experts[1 - j];
                        if ((size_t)experts[j] == first_expert(&mixture, r) + e) {
                            met[rank_of_expert(&mixture, other) == r ? other : (size_t)experts[j]] = true;
                            own++;
                        }
                    }
                }
                for (size_t i = 0; i < EXPERTS && s != r; i++) {
                    rows += met[i];
                }
                rows += s == r ? own : 0;
            }
            ck_assert_uint_eq(mixture.batch[r].first[e + 1] - mixture.batch[r].first[e], rows);
        }
    }
    mixture_release(&mixture);
}
END_TEST

/* Hashes of a pass, and clusters that are too few to save an eighth of the rows. */
START_TEST(few_are_alike)
{
    for (size_t alike = 0; alike < 5; alike++) {
        tacit_moe_config_t   config = config_of(DIMENSION, 2, 16, 1, "lsh:hashes=12");
        mixture_t            mixture = mixture_of(2, &config, NULL);
        tacit_moe_counters_t counters;

        fill(&mixture, 5, 0);
        mixture.count[0] = 16;
        for (size_t t = 0; t < 16; t++) {
            mixture.experts[0][t] = 1;
            memcpy(mixture.tokens[0] + t * DIMENSION, mixture.tokens[0], t <= alike ? DIMENSION * sizeof(float) : 0);
        }
        dispatch(&mixture);
        succeed(tacit_moe_counters(mixture.moe[0], &counters));
        ck_assert_uint_eq(counters.rows, alike < 2 ? 16 : 16 - alike);
        ck_assert_double_eq(counters.hashes, 12);
        mixture_release(&mixture);
    }
}
END_TEST

/* ---- Finite differences ---- */

enum { HIDDEN = 12 };

/* x + W2 tanh(W1 x), in float64 inside. */
static void smooth(size_t expert, const float *row, size_t dimension, float *reply)
{
    for (size_t i = 0; i < dimension; i++) {
        reply[i] = row[i];
    }
    for (size_t h = 0; h < HIDDEN; h++) {
        double sum = 0;
        for (size_t i = 0; i < dimension; i++) {
            sum += .4 * (double)parameter(expert, 1, h, i) * (double)row[i];
        }
        for (size_t i = 0; i < dimension; i++) {
            reply[i] += (float)((double)parameter(expert, 2, i, h) * tanh(sum));
        }
    }
}

static void smooth_back(size_t expert, const float *row, const float *gradient, size_t dimension, float *back)
{
    memcpy(back, gradient, dimension * sizeof *back);
    for (size_t h = 0; h < HIDDEN; h++) {
        double sum = 0, slope = 0;
        for (size_t i = 0; i < dimension; i++) {
            sum += .4 * (double)parameter(expert, 1, h, i) * (double)row[i];
            slope += (double)parameter(expert, 2, i, h) * (double)gradient[i];
        }
        for (size_t i = 0; i < dimension; i++) {
            back[i] += (float)(slope * (1 - tanh(sum) * tanh(sum)) * .4 * (double)parameter(expert, 1, h, i));
        }
    }
}

/* Which tokens are in which row. */
static uint64_t rows_of(const mixture_t *mixture)
{
    uint64_t hash = 0;

    for (int r = 0; r < mixture->ranks; r++) {
        const tacit_moe_sent_t *sent = &mixture->pass[r]->sent;

        hash = hash * 3 + harness_hash(sent->members, sent->copies * sizeof *sent->members);
        hash = hash * 3 + harness_hash(sent->first_member, sent->rows * sizeof *sent->first_member);
    }
    return hash;
}

/* The sum of outputs times gradients, over all ranks. *rows: which tokens are in which row, then and now; 0 at first. */
static double loss_of(mixture_t *mixture, uint64_t *rows)
{
    double loss = 0;

    dispatch(mixture);
    combine(mixture);
    ck_assert(*rows == 0 || *rows == rows_of(mixture));
    *rows = rows_of(mixture);
    for (int r = 0; r < mixture->ranks; r++) {
        for (size_t i = 0; i < mixture->count[r] * mixture->config.dimension; i++) {
            loss += (double)mixture->out[r][i] * (double)mixture->gradients[r][i];
        }
    }
    pass_over(mixture);
    return loss;
}

/* What the loss changes by along a direction of some numbers, twice the step there and back. */
static double slope_of(mixture_t *mixture, uint64_t *rows, float *const *numbers, const float *const *direction, size_t count)
{
    const float step = 0x1p-8f;
    double      losses[2];

    for (int side = 0; side < 2; side++) {
        const float by = side == 0 ? step : -2 * step;
        for (int r = 0; r < mixture->ranks; r++) {
            for (size_t i = 0; i < count; i++) {
                numbers[r][i] += by * direction[r][i];
            }
        }
        losses[side] = loss_of(mixture, rows);
    }
    for (int r = 0; r < mixture->ranks; r++) {
        for (size_t i = 0; i < count; i++) {
            numbers[r][i] += step * direction[r][i];
        }
    }
    return (losses[0] - losses[1]) / (2 * (double)step);
}

/* Numbers that are few and round, so that steps there and back end where they began; tokens so near to a few points that no step
   changes a code. */
static void make_round(mixture_t *mixture)
{
    for (int r = 0; r < mixture->ranks; r++) {
        for (size_t i = 0; i < TOKENS * DIMENSION; i++) {
            mixture->tokens[r][i] = roundf(mixture->tokens[r][i] * 0x1p10f) * 0x1p-10f;
        }
        for (size_t i = 0; i < TOKENS * CHOICES; i++) {
            mixture->weights[r][i] = roundf(mixture->weights[r][i] * 0x1p10f) * 0x1p-10f;
        }
    }
}

/* A random direction, of one number in so many. */
static void choose_direction(float *const *direction, size_t count, uint64_t seed)
{
    for (int r = 0; r < RANKS; r++) {
        harness_random_t random = {seed + (uint64_t)r};

        for (size_t i = 0; i < count; i++) {
            direction[r][i] = harness_next(&random) % 3 == 0 ? (float)(harness_next(&random) % 2) - .5f : 0;
        }
    }
}

static double product_of(float *const *direction, float *const *gradients, size_t count)
{
    double product = 0;

    for (int r = 0; r < RANKS; r++) {
        for (size_t i = 0; i < count; i++) {
            product += (double)direction[r][i] * (double)gradients[r][i];
        }
    }
    return product;
}

/* Along many directions: the whole, and what a factor of two in any part of it would change is far beyond the tolerance. */
START_TEST(finite_differences)
{
    static const char *const specs[] = {"none", "lsh:hashes=1,rounds=3", "lsh:hashes=2", "lsh:hashes=1,residual=drop"};
    mixture_t                mixture = layer_of(specs[_i], 5, .01, 7);
    float                   *direction[RANKS];
    uint64_t                 rows = 0;

    mixture.expert = smooth;
    mixture.back = smooth_back;
    make_round(&mixture);
    run(&mixture);
    pass_over(&mixture);
    ck_assert_double_lt(rate_of(&mixture), _i == 0 ? 1.1 : .7);
    for (int r = 0; r < RANKS; r++) {
        direction[r] = zeros_of(TOKENS * DIMENSION, sizeof **direction);
    }
    for (uint64_t seed = 0; seed < 6; seed++) {
        double slope, product;

        choose_direction(direction, TOKENS * DIMENSION, 100 * seed);
        slope = slope_of(&mixture, &rows, mixture.tokens, (const float *const *)direction, TOKENS * DIMENSION);
        product = product_of(direction, mixture.token_gradients, TOKENS * DIMENSION);
        ck_assert_msg(fabs(slope - product) < 2e-3 * (1 + fabs(product)), "tokens: %g, not %g", product, slope);
        choose_direction(direction, TOKENS * CHOICES, 100 * seed + 50);
        slope = slope_of(&mixture, &rows, mixture.weights, (const float *const *)direction, TOKENS * CHOICES);
        product = product_of(direction, mixture.weight_gradients, TOKENS * CHOICES);
        ck_assert_msg(fabs(slope - product) < 2e-3 * (1 + fabs(product)), "weights: %g, not %g", product, slope);
    }
    for (int r = 0; r < RANKS; r++) {
        free(direction[r]);
    }
    mixture_release(&mixture);
}
END_TEST

static Suite *suite(void)
{
    Suite *all = suite_create("moe_lsh");
    TCase *moe = tcase_create("moe_lsh");

    tcase_add_test(moe, worked_example);
    tcase_add_loop_test(moe, identity_gives_tokens_back, 0, 3);
    tcase_add_loop_test(moe, linear_keeps_means, 0, 2);
    tcase_add_loop_test(moe, alone, 0, 2);
    tcase_add_test(moe, sets);
    tcase_add_test(moe, few_are_alike);
    tcase_add_loop_test(moe, finite_differences, 0, 4);
    suite_add_tcase(all, moe);
    return all;
}

int main(void)
{
    return harness_main(suite());
}
