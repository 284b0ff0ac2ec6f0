/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtures of experts without a communicator: what experts and tokens get, and gradients, by their definitions, to the bit. */
#include "mixture.h"

enum { LEAST_SAVED = 8 }; /* clusters that save less than this part of their rows are none */

/* What one rank sends another, or itself, by definition. */
typedef struct link {
    const mixture_t *mixture;
    int              from, to;
    size_t           rows, experts;  /* those of `to` */
    size_t           hashes;         /* that tell rows apart */
    size_t          *row;            /* of each token; SIZE_MAX */
    size_t          *members, *head; /* of each row: how many tokens, and the first of them */
    float           *means;          /* of each row, as experts see it */
    float           *sums;           /* of each row, of each expert, as experts see it; else nothing */
    float           *backs;          /* of each row, as it comes back */
} link_t;

/* ---- Where tokens go ---- */

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

/* The choice with which a token goes to an expert of the link; SIZE_MAX. */
static size_t choice_of(const link_t *link, const bool *goes, size_t token, size_t expert)
{
    const size_t choices = link->mixture->config.choices;

    for (size_t j = 0; j < choices; j++) {
        if (goes[token * choices + j] &&
            (size_t)link->mixture->experts[link->from][token * choices + j] == first_expert(link->mixture, link->to) + expert) {
            return j;
        }
    }
    return SIZE_MAX;
}

static bool same_experts(const link_t *link, const bool *goes, size_t a, size_t b)
{
    for (size_t e = 0; e < link->experts; e++) {
        if ((choice_of(link, goes, a, e) == SIZE_MAX) != (choice_of(link, goes, b, e) == SIZE_MAX)) {
            return false;
        }
    }
    return true;
}

static bool goes_there(const link_t *link, const bool *goes, size_t token)
{
    for (size_t e = 0; e < link->experts; e++) {
        if (choice_of(link, goes, token, e) != SIZE_MAX) {
            return true;
        }
    }
    return false;
}

/* The first token that is alike, by so many hashes; the token itself where there is none before it. */
static size_t first_alike(const link_t *link, const bool *goes, const uint32_t *codes, size_t hashes, size_t token)
{
    const size_t all = link->mixture->moe[0]->rotations.hashes;

    for (size_t t = 0; t < token; t++) {
        if (goes_there(link, goes, t) && same_experts(link, goes, t, token) &&
            memcmp(codes + all * t, codes + all * token, hashes * sizeof *codes) == 0) {
            return t;
        }
    }
    return token;
}

/* Clusters of tokens that go to the same experts as one does, or of all; and these tokens. */
static size_t clusters_of(const link_t *link, const bool *goes, const uint32_t *codes, size_t hashes, size_t like,
                          size_t *tokens_out)
{
    size_t clusters = 0;

    *tokens_out = 0;
    for (size_t t = 0; t < link->mixture->count[link->from]; t++) {
        if (goes_there(link, goes, t) && (like == SIZE_MAX || same_experts(link, goes, t, like))) {
            ++*tokens_out;
            clusters += first_alike(link, goes, codes, hashes, t) == t;
        }
    }
    return clusters;
}

static void make_rows(link_t *link, const bool *goes)
{
    const mixture_t   *mixture = link->mixture;
    const tacit_moe_t *moe = mixture->moe[link->from];
    const bool         clusters = moe->clusters && link->from != link->to;
    size_t             hashes = moe->rotations.hashes, tokens;
    uint32_t          *codes = zeros_of(mixture->count[link->from] * hashes, sizeof *codes);

    if (clusters) {
        tacit__lsh_codes(&moe->rotations, mixture->tokens[link->from], mixture->count[link->from], moe->hashing, codes);
        while (hashes > 1 && moe->lsh.rate > 0 &&
               (double)clusters_of(link, goes, codes, hashes, SIZE_MAX, &tokens) > moe->lsh.rate * (double)tokens) {
            hashes--;
        }
        link->hashes = hashes;
    }
    for (size_t t = 0; t < mixture->count[link->from]; t++) {
        size_t first = t, saved;

        link->row[t] = SIZE_MAX;
        if (!goes_there(link, goes, t)) {
            continue;
        }
        if (clusters) {
            saved = clusters_of(link, goes, codes, hashes, t, &tokens);
            first = LEAST_SAVED * (tokens - saved) < tokens ? t : first_alike(link, goes, codes, hashes, t);
        }
        if (first == t) {
            link->head[link->rows] = t;
            link->row[t] = link->rows++;
        } else {
            link->row[t] = link->row[first];
        }
        link->members[link->row[t]]++;
    }
    free(codes);
}

/* ---- What goes there and comes back ---- */

/* A number on its way between ranks. */
static float travelled(const link_t *link, float value)
{
    const tacit_moe_t *moe = link->mixture->moe[0];
    mixture_t          wire = *link->mixture;

    if (link->from == link->to || tacit__values_are_exact(&moe->values)) {
        return value;
    }
    wire.config.dtype = strcmp(moe->values.spec.compressor->name, "fp16") == 0 ? TACIT_FLOAT16 : TACIT_BFLOAT16;
    return rounded(link->mixture, rounded(&wire, value));
}

/* The sum of some rows' elements: first what is stored, then what is added. */
static void add_row(float *sum, float weight, const float *row, size_t dimension, bool first)
{
    for (size_t i = 0; i < dimension; i++) {
        sum[i] = first ? weight * row[i] : sum[i] + weight * row[i];
    }
}

static void settle(const link_t *link, float *row)
{
    for (size_t i = 0; i < link->mixture->config.dimension; i++) {
        row[i] = travelled(link, rounded(link->mixture, row[i]));
    }
}

static void fill_link(link_t *link, const bool *goes)
{
    const mixture_t *mixture = link->mixture;
    const size_t     dimension = mixture->config.dimension, choices = mixture->config.choices;

    for (size_t t = 0; t < mixture->count[link->from]; t++) {
        const size_t row = link->row[t];

        for (size_t e = 0; e < link->experts && row != SIZE_MAX; e++) {
            const size_t j = choice_of(link, goes, t, e);

            if (j != SIZE_MAX) {
                add_row(link->sums + (row * link->experts + e) * dimension, mixture->weights[link->from][t * choices + j],
                        mixture->gradients[link->from] + t * dimension, dimension, t == link->head[row]);
            }
        }
        if (row != SIZE_MAX) {
            add_row(link->means + row * dimension, 1, mixture->tokens[link->from] + t * dimension, dimension,
                    t == link->head[row]);
        }
    }
    for (size_t row = 0; row < link->rows; row++) {
        float *mean = link->means + row * dimension, *back = zeros_of(dimension, sizeof *back);
        bool   first = true;

        for (size_t i = 0; i < dimension; i++) {
            mean[i] /= (float)link->members[row];
        }
        settle(link, mean);
        for (size_t e = 0; e < link->experts; e++) {
            float *sum = link->sums + (row * link->experts + e) * dimension;

            if (choice_of(link, goes, link->head[row], e) == SIZE_MAX) {
                continue;
            }
            settle(link, sum);
            mixture->back(first_expert(mixture, link->to) + e, mean, sum, dimension, back);
            for (size_t i = 0; i < dimension; i++) {
                back[i] = rounded(mixture, back[i]);
            }
            add_row(link->backs + row * dimension, 1, back, dimension, first);
            first = false;
        }
        settle(link, link->backs + row * dimension);
        free(back);
    }
}

static link_t link_of(const mixture_t *mixture, int from, int to)
{
    const size_t tokens = mixture->config.tokens, dimension = mixture->config.dimension;
    bool        *goes = admitted(mixture, from);
    link_t       link = {.mixture = mixture, .from = from, .to = to};

    link.experts = first_expert(mixture, to + 1) - first_expert(mixture, to);
    link.row = zeros_of(tokens, sizeof *link.row);
    link.members = zeros_of(tokens, sizeof *link.members);
    link.head = zeros_of(tokens, sizeof *link.head);
    link.means = zeros_of(tokens * dimension, sizeof *link.means);
    link.sums = zeros_of(tokens * link.experts * dimension, sizeof *link.sums);
    link.backs = zeros_of(tokens * dimension, sizeof *link.backs);
    make_rows(&link, goes);
    fill_link(&link, goes);
    free(goes);
    return link;
}

static void release(link_t *link)
{
    free(link->row);
    free(link->members);
    free(link->head);
    free(link->means);
    free(link->sums);
    free(link->backs);
}

/* ---- Checks ---- */

/* A rank's batch, and what comes with it backward: expert by expert, rank by rank, row by row. */
static void check_batch(const mixture_t *mixture, int rank)
{
    const size_t             dimension = mixture->config.dimension;
    const tacit_moe_batch_t *batch = &mixture->batch[rank];
    float                   *rows = zeros_of(batch_elements(mixture, rank), sizeof *rows);
    link_t                   links[MIXTURE_RANKS];
    size_t                   at = 0;

    widen(mixture, batch->rows, batch_elements(mixture, rank), rows);
    ck_assert_uint_eq(batch->experts, first_expert(mixture, rank + 1) - first_expert(mixture, rank));
    for (int s = 0; s < mixture->ranks; s++) {
        links[s] = link_of(mixture, s, rank);
    }
    for (size_t e = 0; e < batch->experts; e++) {
        ck_assert_uint_eq(batch->first[e], at);
        for (int s = 0; s < mixture->ranks; s++) {
            bool *goes = admitted(mixture, s);

            for (size_t row = 0; row < links[s].rows; row++) {
                if (choice_of(&links[s], goes, links[s].head[row], e) != SIZE_MAX) {
                    ck_assert_uint_lt(at, batch->count);
                    same_floats(rows + at * dimension, links[s].means + row * dimension, dimension, "a row");
                    same_floats(mixture->reply_gradients[rank] + at * dimension,
                                links[s].sums + (row * links[s].experts + e) * dimension, dimension, "a reply's gradient");
                    at++;
                }
            }
            free(goes);
        }
    }
    ck_assert_uint_eq(batch->first[batch->experts], at);
    ck_assert_uint_eq(batch->count, at);
    for (int s = 0; s < mixture->ranks; s++) {
        release(&links[s]);
    }
    free(rows);
}

/* What a choice's output is, into y. */
static void output_of(const link_t *link, size_t token, size_t expert, float *y)
{
    const mixture_t *mixture = link->mixture;
    const size_t     dimension = mixture->config.dimension;
    const float     *x = mixture->tokens[link->from] + token * dimension, *mean = link->means + link->row[token] * dimension;

    mixture->expert(expert, mean, dimension, y);
    settle(link, y);
    for (size_t i = 0; i < dimension && mixture->moe[0]->residual && link->from != link->to; i++) {
        y[i] = y[i] - (mean[i] - x[i]);
    }
}

static void check_output(const link_t *links, size_t token, const bool *goes)
{
    const mixture_t *mixture = links->mixture;
    const int        rank = links->from;
    const size_t     dimension = mixture->config.dimension, choices = mixture->config.choices;
    float           *out = zeros_of(dimension, sizeof *out), *y = zeros_of(dimension, sizeof *y);
    bool             first = true;

    for (size_t at = token * choices; at < (token + 1) * choices; at++) {
        const size_t expert = goes[at] ? (size_t)mixture->experts[rank][at] : 0;
        double       dot = 0, size = 0;

        if (goes[at]) {
            output_of(&links[rank_of_expert(mixture, expert)], token, expert, y);
            add_row(out, mixture->weights[rank][at], y, dimension, first);
            first = false;
        }
        for (size_t i = 0; i < dimension && goes[at]; i++) {
            const double product = (double)mixture->gradients[rank][token * dimension + i] * (double)y[i];

            dot += product;
            size += fabs(product);
        }
        ck_assert(fabs((double)mixture->weight_gradients[rank][at] - dot) <= 1e-6 * size);
    }
    for (size_t i = 0; i < dimension; i++) {
        out[i] = rounded(mixture, out[i]);
    }
    same_floats(mixture->out[rank] + token * dimension, out, dimension, "an output");
    free(out);
    free(y);
}

static void check_gradient(const link_t *links, size_t token, const bool *goes)
{
    const mixture_t *mixture = links->mixture;
    const int        rank = links->from;
    const size_t     dimension = mixture->config.dimension, choices = mixture->config.choices;
    float           *gradient = zeros_of(dimension, sizeof *gradient), *sum = zeros_of(dimension, sizeof *sum);
    float           *own = zeros_of(dimension, sizeof *own);
    bool             any = false;

    for (int r = 0; r < mixture->ranks; r++) {
        const link_t *link = &links[r];
        const size_t  row = link->row[token];
        bool          first = true;

        for (size_t e = 0; e < link->experts && row != SIZE_MAX; e++) {
            const size_t j = choice_of(link, goes, token, e);

            if (j != SIZE_MAX) {
                add_row(sum, 1, link->sums + (row * link->experts + e) * dimension, dimension, first);
                add_row(own, mixture->weights[rank][token * choices + j], mixture->gradients[rank] + token * dimension, dimension,
                        first);
                first = false;
            }
        }
        for (size_t i = 0; i < dimension && row != SIZE_MAX; i++) {
            const float members = (float)link->members[row], back = link->backs[row * dimension + i] / members;
            const float value = mixture->moe[0]->residual && r != rank ? back - (sum[i] / members - own[i]) : back;

            gradient[i] = any ? gradient[i] + value : value;
        }
        any = any || row != SIZE_MAX;
    }
    for (size_t i = 0; i < dimension; i++) {
        gradient[i] = rounded(mixture, gradient[i]);
    }
    same_floats(mixture->token_gradients[rank] + token * dimension, gradient, dimension, "a gradient");
    free(gradient);
    free(sum);
    free(own);
}

/* What a rank's counters have more than before. */
static void check_counters(const mixture_t *mixture, int rank, const link_t *links, const tacit_moe_counters_t *before)
{
    const tacit_moe_config_t *config = &mixture->config;
    bool                     *goes = admitted(mixture, rank);
    tacit_moe_counters_t      counters;
    uint64_t                  copies = 0, rows = 0, overflows = 0, dense = 0;
    double                    hashes = 0, receivers = 0;

    for (size_t i = 0; i < mixture->count[rank] * config->choices; i++) {
        const int32_t expert = mixture->experts[rank][i];

        overflows += expert >= 0 && !goes[i];
        dense += goes[i] && rank_of_expert(mixture, (size_t)expert) != rank ? 2 * config->dimension * sizeof(float) : 0;
    }
    for (int r = 0; r < mixture->ranks; r++) {
        for (size_t row = 0; row < links[r].rows && r != rank; row++) {
            rows++;
            copies += links[r].members[row];
        }
        if (r != rank && links[r].rows != 0) {
            hashes += (double)links[r].hashes;
            receivers++;
        }
    }
    succeed(tacit_moe_counters(mixture->moe[rank], &counters));
    ck_assert_uint_eq(counters.passes - before->passes, 1);
    ck_assert_uint_eq(counters.tokens - before->tokens, mixture->count[rank]);
    ck_assert_uint_eq(counters.copies - before->copies, copies);
    ck_assert_uint_eq(counters.rows - before->rows, rows);
    ck_assert_double_eq(counters.hashes, receivers != 0 ? hashes / receivers : 0);
    ck_assert_uint_eq(counters.overflows - before->overflows, overflows);
    ck_assert_uint_eq(counters.dense_bytes - before->dense_bytes, dense + 2 * copies * config->dimension * sizeof(float));
    free(goes);
}

static void check_pass(const mixture_t *mixture, const tacit_moe_counters_t *before)
{
    for (int r = 0; r < mixture->ranks; r++) {
        bool  *goes = admitted(mixture, r);
        link_t links[MIXTURE_RANKS];

        check_batch(mixture, r);
        for (int to = 0; to < mixture->ranks; to++) {
            links[to] = link_of(mixture, r, to);
        }
        for (size_t t = 0; t < mixture->count[r]; t++) {
            check_output(links, t, goes);
            check_gradient(links, t, goes);
        }
        check_counters(mixture, r, links, &before[r]);
        for (int to = 0; to < mixture->ranks; to++) {
            release(&links[to]);
        }
        free(goes);
    }
}

/* ---- Cases ---- */

static const int rank_counts[] = {1, 2, 3, 4, 5, 8};

typedef struct layer_case {
    size_t        dimension, experts, tokens, choices, capacity;
    uint64_t      padding;
    tacit_dtype_t dtype;
    const char   *spec;
} layer_case_t;

/* One rank without tokens; then all to few experts. */
static void run(const layer_case_t *layer, int ranks, uint64_t seed)
{
    tacit_moe_config_t   config = config_of(layer->dimension, layer->experts, layer->tokens, layer->choices, layer->spec);
    tacit_moe_counters_t before[MIXTURE_RANKS];
    mixture_t            mixture;

    config.capacity = layer->capacity;
    config.dtype = layer->dtype;
    mixture = mixture_of(ranks, &config, NULL);
    mixture.expert = scaling;
    mixture.back = scaling_back;
    for (uint64_t pass = 0; pass < 3; pass++) {
        fill(&mixture, 10 * seed + pass, layer->padding);
        for (int r = 0; r < ranks; r++) {
            succeed(tacit_moe_counters(mixture.moe[r], &before[r]));
            mixture.count[r] = pass == 1 && r == ranks / 2 ? 0 : config.tokens - (size_t)r;
            for (size_t i = 0; i < config.tokens * config.choices && pass == 2; i++) {
                mixture.experts[r][i] = (int32_t)(i % config.choices);
            }
            if (mixture.moe[r]->clusters) {
                fill_points(&mixture, r, 4, .1, seed);
            }
        }
        dispatch(&mixture);
        combine(&mixture);
        backward(&mixture);
        check_pass(&mixture, before);
        pass_over(&mixture);
    }
    for (int r = 0; r < ranks && mixture.moe[0]->clusters && ranks > 1; r++) {
        succeed(tacit_moe_counters(mixture.moe[r], &before[r]));
        ck_assert_uint_gt(before[0].copies, before[0].rows); /* some were alike */
    }
    mixture_release(&mixture);
}

/* Any number of ranks; experts that are fewer than ranks, or not a multiple. */
START_TEST(one_by_one)
{
    static const layer_case_t cases[] = {
        {16, 8, 20, 2, 0, 0, TACIT_FLOAT32, NULL},    {7, 3, 30, 2, 0, 5, TACIT_FLOAT32, "none"},
        {33, 11, 40, 3, 4, 7, TACIT_FLOAT32, "none"}, {5, 1, 12, 0, 0, 0, TACIT_FLOAT32, "none"},
        {64, 20, 25, 4, 3, 0, TACIT_FLOAT16, "none"}, {20, 7, 25, 2, 0, 4, TACIT_BFLOAT16, "none"},
        {4, 40, 9, 5, 1, 0, TACIT_FLOAT32, "none"},   {3, 2, 10, 2, 0, 1, TACIT_FLOAT32, "none"},
        {65, 6, 20, 2, 0, 0, TACIT_FLOAT32, "bf16"},  {16, 5, 20, 3, 0, 0, TACIT_FLOAT32, "fp16"},
        {10, 5, 20, 3, 0, 0, TACIT_FLOAT16, "bf16"},  {2, 150, 12, 140, 0, 9, TACIT_FLOAT32, "none"},
    };

    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        run(&cases[c], rank_counts[_i], c);
    }
}
END_TEST

START_TEST(clustered)
{
    static const layer_case_t cases[] = {
        {16, 8, 30, 2, 0, 0, TACIT_FLOAT32, "lsh:hashes=2"},
        {24, 3, 30, 2, 0, 5, TACIT_FLOAT32, "lsh:hashes=1,values=bf16"},
        {33, 11, 40, 3, 9, 7, TACIT_FLOAT32, "lsh:hashes=3,residual=drop"},
        {20, 5, 30, 1, 0, 0, TACIT_FLOAT16, "lsh:hashes=2,values=bf16"},
        {20, 4, 30, 2, 0, 0, TACIT_BFLOAT16, "lsh:hashes=2"},
        {32, 4, 40, 2, 0, 0, TACIT_FLOAT32, "lsh:hashes=8,rate=0.6,values=fp16"},
        {32, 4, 40, 2, 0, 0, TACIT_FLOAT32, "lsh:hashes=16,rounds=1"},
        {32, 4, 40, 2, 0, 0, TACIT_FLOAT32, "lsh:hashes=14,rate=0.7"}, /* from 5 to 12 of them */
        {32, 4, 40, 2, 0, 0, TACIT_FLOAT32, "lsh:hashes=10,rate=0.9"}, /* all of them, too */
    };

    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        run(&cases[c], rank_counts[_i], c);
    }
}
END_TEST

/* Messages of forms whose error is known: what comes is near, and what stays is the same. */
START_TEST(forms)
{
    static const struct {
        const char *spec;
        double      error;
    } specs[] = {
        {"fp8", .05}, {"rotq:bits=4", .15}, {"qsgd:bits=8,block=64", .02}, {"qsgd:bits=4,block=32,rounding=stochastic", .3}};
    tacit_moe_config_t config = config_of(40, 6, 30, 2, specs[_i].spec);
    mixture_t          mixture = mixture_of(3, &config, NULL);
    double             lost[3] = {0}, all[3] = {0};

    mixture.expert = identity;
    mixture.back = identity_back;
    fill(&mixture, 1, 0);
    for (int r = 0; r < 3; r++) {
        mixture.count[r] = config.tokens;
        for (size_t t = 0; t < config.tokens; t++) { /* some tokens stay */
            mixture.experts[r][2 * t] = t % 4 == 0 ? 2 * r : mixture.experts[r][2 * t];
            mixture.experts[r][2 * t + 1] = t % 4 == 0 ? 2 * r + 1 : (mixture.experts[r][2 * t] + 3) % 6;
        }
    }
    dispatch(&mixture);
    combine(&mixture);
    backward(&mixture);
    for (int r = 0; r < 3; r++) {
        for (size_t i = 0; i < config.tokens * config.dimension; i++) {
            const size_t t = i / config.dimension;
            const float  w[] = {mixture.weights[r][2 * t], mixture.weights[r][2 * t + 1]};
            const float  x = mixture.tokens[r][i], u = mixture.gradients[r][i];
            const float  exact[] = {w[0] * x + w[1] * x, w[0] * u + w[1] * u};
            const float  found[] = {mixture.out[r][i], mixture.token_gradients[r][i]};

            for (size_t k = 0; k < 2; k++) {
                ck_assert(t % 4 != 0 || exact[k] == found[k]);
                lost[k] += pow((double)found[k] - (double)exact[k], 2);
                all[k] += pow((double)exact[k], 2);
            }
        }
    }
    for (size_t k = 0; k < 2; k++) {
        ck_assert_double_gt(sqrt(lost[k] / all[k]), specs[_i].error / 20);
        ck_assert_double_lt(sqrt(lost[k] / all[k]), specs[_i].error);
    }
    mixture_release(&mixture);
}
END_TEST

static Suite *suite(void)
{
    Suite *all = suite_create("moe");
    TCase *moe = tcase_create("moe");

    tcase_add_loop_test(moe, one_by_one, 0, COUNT_OF(rank_counts));
    tcase_add_loop_test(moe, clustered, 0, COUNT_OF(rank_counts));
    tcase_add_loop_test(moe, forms, 0, 4);
    suite_add_tcase(all, moe);
    return all;
}

int main(void)
{
    return harness_main(suite());
}
