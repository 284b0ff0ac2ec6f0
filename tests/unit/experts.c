/* SPDX-License-Identifier: Apache-2.0 */
/* The examples' mixtures of experts: gradients of all parameters against finite differences, the same gradients on any number of
   ranks, choices, the balance. */
#include "experts.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "ranks.h"

enum { SYMBOLS = 7, CONTEXT = 4, BATCH = 3, WINDOW = CONTEXT + 1, WIDTH = 8, EXPERTS = 4, MIXTURES = 2, TENSORS = 64 };

static const uint8_t windows[BATCH * WINDOW] = {0, 3, 1, 1, 2, 5, 4, 6, 0, 1, 2, 2, 5, 6, 0};

static const struct {
    size_t choices, capacity;
    bool   skip;
} cases[] = {{2, 0, false}, {2, 0, true}, {1, 0, false}, {3, 0, true}, {2, 4, true}};

enum { CASES = sizeof cases / sizeof *cases };

/* A model on one rank. */
typedef struct mixed {
    transformer_t model;
    experts_t     experts;
} mixed_t;

/* As in the transformer's test, gains and biases are not what they are at first. Gates are steep, so that small steps change no
   choice. */
static void unsettle(const tensors_t *tensors, uint64_t seed)
{
    for (size_t i = 0; i < tensors->count; i++) {
        const tensor_t *tensor = &tensors->list[i];
        float           noise[64];

        harness_fill(noise, tensor->cols, seed + i, 0.3f);
        for (size_t j = 0; j < tensor->rows * tensor->cols; j++) {
            tensor->values[j] += tensor->rows == 1 ? noise[j] : 0.0f;
            tensor->values[j] *= strstr(tensor->name, ".gate") ? 2.0f : 1.0f;
        }
    }
}

static void make(mixed_t *mixed, tacit_comm_t *comm, size_t which, size_t batch)
{
    experts_shape_t shape = {
        .model = {SYMBOLS, CONTEXT, WIDTH, 2 * MIXTURES, 2, EXPERTS},
        .choices = cases[which].choices,
        .tokens = batch * CONTEXT,
        .rank = tacit_comm_rank(comm),
        .ranks = tacit_comm_ranks(comm),
        .skip = cases[which].skip,
        .balance = 0.5,
    };
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;

    if (transformer_init(&mixed->model, &shape.model, batch) != 0 || experts_init(&mixed->experts, &shape) != 0) {
        abort(); /* there is no memory */
    }
    transformer_randomize(&mixed->model, 10);
    unsettle(&mixed->model.tensors, 1);
    experts_randomize(&mixed->experts, 1);
    mixed->model.mixture = experts_mixture(&mixed->experts);
    config.dimension = WIDTH;
    config.experts = EXPERTS;
    config.tokens = shape.tokens;
    config.choices = shape.choices;
    config.capacity = cases[which].capacity;
    for (size_t b = 0; b < MIXTURES; b++) {
        experts_block_t *block = &mixed->experts.blocks[b];
        char             name[16];

        (void)snprintf(name, sizeof name, "mixture%zu", b);
        MUST(tacit_moe_create(comm, name, &config, &block->training));
        block->evaluating = block->training;
    }
}

static void release(mixed_t *mixed)
{
    transformer_fini(&mixed->model);
    experts_fini(&mixed->experts);
}

static double loss_gradient(mixed_t *mixed, const uint8_t *of, size_t batch)
{
    const double loss = transformer_loss_gradient(&mixed->model, of, batch);

    MUST(mixed->experts.status);
    return loss + mixed->experts.balance;
}

/* ---- Finite differences ---- */

typedef struct differences {
    size_t which, count, compared, flipped; /* the case; tensors; parameters of which steps change no choice, and the others */
    char   names[TENSORS][TENSOR_NAME_BYTES];
    double worst[TENSORS], largest[TENSORS];
    size_t overflows;
} differences_t;

/* E sum f p of each mixture's last pass. */
static double balance_of(const mixed_t *mixed)
{
    const size_t tokens = BATCH * CONTEXT, choices = tokens * mixed->experts.shape.choices;
    double       balance = 0.0;

    for (size_t b = 0; b < MIXTURES; b++) {
        const experts_block_t *block = &mixed->experts.blocks[b];

        for (size_t i = 0; i < choices; i++) {
            for (size_t t = 0; t < tokens; t++) {
                balance += (double)block->probabilities[t * EXPERTS + (size_t)block->chosen[i]];
            }
        }
    }
    return mixed->experts.shape.balance * EXPERTS * balance / (double)(choices * tokens);
}

static double loss_at(mixed_t *mixed, float *parameter, float value)
{
    double loss;

    *parameter = value;
    loss = transformer_evaluate(&mixed->model, windows, BATCH) / (BATCH * CONTEXT);
    MUST(mixed->experts.status);
    return loss + balance_of(mixed);
}

static size_t changed(const mixed_t *mixed, int32_t chosen[MIXTURES][BATCH * CONTEXT * 3], bool keep)
{
    const size_t bytes = BATCH * CONTEXT * mixed->experts.shape.choices * sizeof(int32_t);
    size_t       count = 0;

    for (size_t b = 0; b < MIXTURES; b++) {
        if (keep) {
            memcpy(chosen[b], mixed->experts.blocks[b].chosen, bytes);
        }
        count += memcmp(chosen[b], mixed->experts.blocks[b].chosen, bytes) != 0;
    }
    return count;
}

/* Of matrices every fifth element. Tensors count as one with those `period` further on: not every expert gets a token. */
static void compare(mixed_t *mixed, const tensors_t *tensors, size_t period, differences_t *differences)
{
    const float  h = 0x1p-6f;
    float       *gradients = malloc(tensors->elements * sizeof *gradients);
    int32_t      chosen[MIXTURES][BATCH * CONTEXT * 3];
    const size_t before = differences->count;

    (void)loss_gradient(mixed, windows, BATCH);
    (void)changed(mixed, chosen, true);
    memcpy(gradients, tensors->gradients, tensors->elements * sizeof *gradients);
    for (size_t t = 0; t < tensors->count; t++) {
        const tensor_t *tensor = &tensors->list[t];
        const size_t    at = before + t % period, first = (size_t)(tensor->values - tensors->values);

        (void)snprintf(differences->names[at], TENSOR_NAME_BYTES, "%s", tensor->name);
        for (size_t i = 0; i<tensor->rows * tensor->cols; i += tensor->rows> 1 ? 5 : 1) {
            float *parameter = &tensor->values[i];
            float  value = *parameter;
            double slope = 0.0;
            size_t flips = 0;

            for (int j = 0; j < 4; j++) {
                static const float  steps[] = {-2.0f, -1.0f, 1.0f, 2.0f};
                static const double factors[] = {1.0, -8.0, 8.0, -1.0};

                slope += factors[j] * loss_at(mixed, parameter, value + steps[j] * h) / (12.0 * (double)h);
                flips += changed(mixed, chosen, false);
            }
            *parameter = value;
            differences->compared += flips == 0;
            differences->flipped += flips > 0;
            if (flips > 0) { /* there the loss jumps */
                continue;
            }
            differences->worst[at] = fmax(differences->worst[at], fabs((double)gradients[first + i] - slope));
            differences->largest[at] = fmax(differences->largest[at], fabs(slope));
        }
    }
    differences->count += period;
    free(gradients);
}

static void differentiate(tacit_comm_t *comm, void *arg)
{
    differences_t       *differences = arg;
    mixed_t              mixed;
    tacit_moe_counters_t counters;

    make(&mixed, comm, differences->which, BATCH);
    compare(&mixed, &mixed.model.tensors, mixed.model.tensors.count, differences);
    compare(&mixed, &mixed.experts.tensors, 4, differences);
    MUST(tacit_moe_counters(mixed.experts.blocks[0].training, &counters));
    differences->overflows = counters.overflows;
    release(&mixed);
}

/* The tolerance is the transformer's; the largest difference seen is 1.2e-5. With these numbers few steps change a choice. */
START_TEST(gradients)
{
    const double  tolerance = 3e-5;
    differences_t differences = {.which = (size_t)_i};

    run_ranks(1, NULL, differentiate, &differences);
    ck_assert_uint_lt(50 * differences.flipped, differences.compared);
    ck_assert_uint_eq(differences.count, FIRST_BLOCK + MIXTURES * (12 + 9) + 2 + 4);
    ck_assert((differences.overflows > 0) == (cases[_i].capacity > 0));
    for (size_t t = 0; t < differences.count; t++) {
        const char *name = differences.names[t];

        ck_assert_msg(differences.worst[t] < tolerance, "%s: a gradient is off by %g; the largest is %g", name,
                      differences.worst[t], differences.largest[t]);
        ck_assert_msg(differences.largest[t] > 30.0 * tolerance, "%s: the largest gradient is %g: nothing to compare", name,
                      differences.largest[t]);
    }
}
END_TEST

/* ---- Ranks ---- */

typedef struct together {
    int    ranks;
    size_t which;
    double loss;             /* the mean */
    float *model;            /* its gradients, the mean of all ranks' */
    float *experts;          /* theirs, of all ranks, one after the other */
    float *values;           /* the parameters of experts, likewise */
    size_t first[BATCH + 1]; /* where a rank's begin */
} together_t;

static pthread_barrier_t meeting;
static pthread_mutex_t   alone = PTHREAD_MUTEX_INITIALIZER;
static double            total[EXPERTS];

static void sum(double *numbers, size_t count)
{
    (void)pthread_mutex_lock(&alone);
    for (size_t i = 0; i < count; i++) {
        total[i] += numbers[i];
    }
    (void)pthread_mutex_unlock(&alone);
    (void)pthread_barrier_wait(&meeting);
    memcpy(numbers, total, count * sizeof *numbers);
    (void)pthread_barrier_wait(&meeting);
    memset(total, 0, sizeof total);
    (void)pthread_barrier_wait(&meeting);
}

static void train_together(tacit_comm_t *comm, void *arg)
{
    together_t  *together = arg;
    const size_t batch = BATCH / (size_t)together->ranks, rank = (size_t)tacit_comm_rank(comm);
    const size_t size = MIXTURES * (8 * WIDTH * WIDTH + 5 * WIDTH); /* of an expert */
    mixed_t      mixed;
    double       loss;

    make(&mixed, comm, together->which, batch);
    mixed.experts.sum = sum;
    loss = loss_gradient(&mixed, windows + rank * batch * WINDOW, batch);
    (void)pthread_mutex_lock(&alone);
    together->loss += loss / together->ranks;
    for (size_t i = 0; i < mixed.model.tensors.elements; i++) {
        together->model[i] += mixed.model.tensors.gradients[i] / (float)together->ranks;
    }
    memcpy(together->experts + mixed.experts.first * size, mixed.experts.tensors.gradients,
           mixed.experts.count * size * sizeof(float));
    memcpy(together->values + mixed.experts.first * size, mixed.experts.tensors.values,
           mixed.experts.count * size * sizeof(float));
    (void)pthread_mutex_unlock(&alone);
    release(&mixed);
}

enum { MODEL_ELEMENTS = 4096, EXPERT_ELEMENTS = EXPERTS * MIXTURES * (8 * WIDTH * WIDTH + 5 * WIDTH) };

static together_t on(int ranks, size_t which)
{
    together_t together = {.ranks = ranks, .which = which};

    together.model = calloc(MODEL_ELEMENTS, sizeof(float));
    together.experts = calloc(EXPERT_ELEMENTS, sizeof(float));
    together.values = calloc(EXPERT_ELEMENTS, sizeof(float));
    (void)pthread_barrier_init(&meeting, NULL, (unsigned)ranks);
    run_ranks(ranks, NULL, train_together, &together);
    (void)pthread_barrier_destroy(&meeting);
    return together;
}

static void forget(together_t *together)
{
    free(together->model);
    free(together->experts);
    free(together->values);
}

static double distance(const float *a, const float *b, size_t count)
{
    double largest = 0.0;

    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
    }
    return largest;
}

/* One window a rank, or all of them on one: sums of float32 in another order, of gradients of 1 at most. */
START_TEST(on_many_ranks)
{
    together_t one = on(1, (size_t)_i), three = on(BATCH, (size_t)_i);

    ck_assert_mem_eq(one.values, three.values, EXPERT_ELEMENTS * sizeof(float));
    ck_assert_double_eq_tol(one.loss, three.loss, 1e-6);
    ck_assert_double_lt(distance(one.model, three.model, MODEL_ELEMENTS), 1e-6);
    ck_assert_double_lt(distance(one.experts, three.experts, EXPERT_ELEMENTS), 1e-6);
    forget(&one);
    forget(&three);
}
END_TEST

/* ---- One pass ---- */

typedef struct pass {
    size_t  which;
    bool    even; /* the gates know nothing */
    double  balance, share, empty, whole, parts;
    int32_t chosen[BATCH * CONTEXT * 3];
    float   weights[BATCH * CONTEXT * 3], probabilities[BATCH * CONTEXT * EXPERTS];
    double  used[EXPERTS]; /* the sum of magnitudes of an expert's gradients */
} pass_t;

static void pass_once(tacit_comm_t *comm, void *arg)
{
    pass_t                *pass = arg;
    mixed_t                mixed;
    const experts_block_t *block;
    const tensors_t       *tensors = &mixed.experts.tensors;

    make(&mixed, comm, pass->which, BATCH);
    for (size_t l = 1; pass->even && l < 2 * MIXTURES; l += 2) {
        memset(block_tensor(&mixed.model, l, GATE)->values, 0, EXPERTS * WIDTH * sizeof(float));
    }
    for (size_t i = 0; i < tensors->elements; i++) {
        tensors->gradients[i] = 1.0f; /* what is left of an earlier step */
    }
    (void)loss_gradient(&mixed, windows, BATCH);
    block = &mixed.experts.blocks[0];
    pass->balance = mixed.experts.balance;
    pass->share = mixed.experts.shares / (double)mixed.experts.passes;
    memcpy(pass->chosen, block->chosen, BATCH * CONTEXT * cases[pass->which].choices * sizeof(int32_t));
    memcpy(pass->weights, block->weights, BATCH * CONTEXT * cases[pass->which].choices * sizeof(float));
    memcpy(pass->probabilities, block->probabilities, sizeof pass->probabilities);
    for (size_t i = 0; i < tensors->elements; i++) {
        pass->used[i / (tensors->elements / EXPERTS)] += fabs((double)tensors->gradients[i]);
    }
    pass->empty = transformer_evaluate(&mixed.model, windows, 0);
    pass->whole = transformer_evaluate(&mixed.model, windows, BATCH);
    mixed.model.batch_limit = 2;
    pass->parts = transformer_evaluate(&mixed.model, windows, BATCH);
    release(&mixed);
}

/* Weights are probabilities, of the most probable; divided by their sum where they are several. */
START_TEST(choices)
{
    const size_t count = cases[_i].choices;
    pass_t       pass = {.which = (size_t)_i};

    run_ranks(1, NULL, pass_once, &pass);
    for (size_t t = 0; t < BATCH * CONTEXT; t++) {
        const float   *p = pass.probabilities + t * EXPERTS;
        const int32_t *chosen = pass.chosen + t * count;
        double         sum_chosen = 0.0, sum_all = 0.0;

        for (size_t e = 0; e < EXPERTS; e++) {
            sum_all += (double)p[e];
        }
        for (size_t j = 0; j < count; j++) {
            sum_chosen += (double)p[chosen[j]];
        }
        ck_assert_double_eq_tol(sum_all, 1.0, 1e-6);
        for (size_t j = 0; j < count; j++) {
            size_t above = 0;

            for (size_t e = 0; e < EXPERTS; e++) {
                above += p[e] > p[chosen[j]];
            }
            ck_assert_uint_eq(above, j);
            ck_assert_double_eq_tol((double)pass.weights[t * count + j], (double)p[chosen[j]] / (count > 1 ? sum_chosen : 1.0),
                                    1e-6);
        }
    }
}
END_TEST

/* Gates that know nothing send all tokens to the first experts, and the others learn nothing. Their probabilities are even, so
   that the balance counts no more than it must, in each mixture. */
START_TEST(gates_that_know_nothing)
{
    const size_t count = cases[_i].choices;
    pass_t       pass = {.which = (size_t)_i, .even = true};

    run_ranks(1, NULL, pass_once, &pass);
    for (size_t i = 0; i < BATCH * CONTEXT * count; i++) {
        ck_assert_int_eq(pass.chosen[i], (int)(i % count));
    }
    ck_assert_double_eq_tol(pass.balance, 0.5 * MIXTURES, 1e-6);
    ck_assert_double_eq_tol(pass.share, 1.0 / (double)count, 1e-12);
    for (size_t e = 0; e < EXPERTS; e++) {
        ck_assert((pass.used[e] > 0.0) == (e < count));
    }
}
END_TEST

/* Windows are independent unless experts are full; and a rank without any takes part. */
START_TEST(evaluation_in_batches)
{
    pass_t pass = {.which = (size_t)_i};

    run_ranks(1, NULL, pass_once, &pass);
    ck_assert_double_eq(pass.empty, 0.0);
    ck_assert_double_eq_tol(pass.whole, pass.parts, 1e-5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("experts");
    TCase *all = tcase_create("experts");

    /* The last case's experts are full. */
    tcase_add_loop_test(all, gradients, 0, CASES);
    tcase_add_loop_test(all, on_many_ranks, 0, CASES - 1);
    tcase_add_loop_test(all, choices, 0, CASES);
    tcase_add_loop_test(all, gates_that_know_nothing, 0, CASES);
    tcase_add_loop_test(all, evaluation_in_batches, 0, CASES - 1);
    suite_add_tcase(suite, all);
    return harness_main(suite);
}
