/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of experts over MPI: passes of several layers that live side by side and go on in any order, beside reductions, held
   against sums in float64; and ranks that are at different calls. */
#include "world.h"

#include <math.h>

#include "tacit_moe.h"

enum { LAYERS = 5, PASSES = 6, TURNS = 150, REDUCED = 500 };

typedef struct layer {
    tacit_moe_config_t config;
    double             tolerance;
    bool               scales; /* experts multiply; else they give rows back, which `lsh` does not change */
    tacit_moe_t       *moe;
} layer_t;

typedef struct pass {
    layer_t          *layer; /* NULL: none */
    int               calls; /* made */
    size_t            count;
    int32_t          *experts;
    float            *tokens, *weights, *gradients, *out, *token_gradients, *weight_gradients, *rows;
    tacit_moe_pass_t *pass;
    tacit_moe_batch_t batch;
} pass_t;

static tacit_moe_config_t config_of(size_t dimension, size_t experts, size_t tokens, size_t choices, size_t capacity,
                                    const char *spec)
{
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;

    config.dimension = dimension;
    config.experts = experts;
    config.tokens = tokens;
    config.choices = choices;
    config.capacity = capacity;
    config.spec = spec;
    return config;
}

static float *floats(size_t count, uint64_t seed)
{
    float *values = calloc(count + 1, sizeof *values);

    REQUIRE(values != NULL, "no memory");
    harness_fill(values, count, seed, 1.0f);
    return values;
}

static float factor(const layer_t *layer, size_t expert)
{
    return layer->scales ? 0.5f + 0.25f * (float)(expert % 5) : 1;
}

/* What the experts here make of rows, and of gradients: they are linear. In place. */
static void apply(const pass_t *pass, float *rows)
{
    const layer_t *layer = pass->layer;
    const size_t   dimension = layer->config.dimension;
    const size_t   first = layer->config.experts * (size_t)world_rank() / (size_t)world_ranks();

    for (size_t e = 0; e < pass->batch.experts; e++) {
        for (size_t i = pass->batch.first[e] * dimension; i < pass->batch.first[e + 1] * dimension; i++) {
            rows[i] *= factor(layer, first + e);
        }
    }
}

/* Choices are this rank's own; some tokens are padding, and some have a choice less. */
static void begin(pass_t *pass, layer_t *layer, uint64_t seed)
{
    const tacit_moe_config_t *config = &layer->config;
    harness_random_t          random = {seed + 7 * (uint64_t)world_rank()};
    const size_t              count = seed % 8 == 0 ? 0 : harness_next(&random) % (config->tokens + 1);

    *pass = (pass_t){.layer = layer, .count = count};
    pass->tokens = floats(count * config->dimension, harness_next(&random));
    pass->gradients = floats(count * config->dimension, harness_next(&random));
    pass->weights = floats(count * config->choices, harness_next(&random));
    pass->out = floats(count * config->dimension, 1);
    pass->token_gradients = floats(count * config->dimension, 1);
    pass->weight_gradients = floats(count * config->choices, 1);
    pass->experts = calloc(count * config->choices + 1, sizeof *pass->experts);
    REQUIRE(pass->experts != NULL, "no memory");
    for (size_t t = 0; t < count; t++) {
        const uint64_t start = harness_next(&random);

        for (size_t j = 0; j < config->choices; j++) {
            const bool nowhere = start % 9 == 0 || harness_next(&random) % 10 == 0;

            pass->experts[t * config->choices + j] = nowhere ? -1 : (int32_t)((start + j) % config->experts);
        }
    }
    MUST(tacit_moe_dispatch(layer->moe, pass->tokens, count, pass->experts, &pass->pass, &pass->batch));
    pass->rows = floats(pass->batch.count * config->dimension, 1);
}

static void close_to(const pass_t *pass, double value, double expected, double scale, const char *what)
{
    const tacit_moe_config_t *config = &pass->layer->config;

    REQUIRE(fabs(value - expected) <= pass->layer->tolerance * scale, "%s of %zu experts, dimension %zu, spec %s: %g, not %g",
            what, config->experts, config->dimension, config->spec, value, expected);
}

/* Outputs or, after a whole pass, both kinds of gradients. */
static void verify(const pass_t *pass)
{
    const tacit_moe_config_t *config = &pass->layer->config;
    size_t                   *taken = calloc(config->experts, sizeof *taken);

    REQUIRE(taken != NULL, "no memory");
    for (size_t t = 0; t < pass->count; t++) {
        const float *token = pass->tokens + t * config->dimension, *gradient = pass->gradients + t * config->dimension;
        double       sum = 0, size = 1;

        for (size_t at = t * config->choices; at < (t + 1) * config->choices; at++) {
            const int32_t expert = pass->experts[at];
            const bool    goes = expert >= 0 && (config->capacity == 0 || taken[expert]++ < config->capacity);
            const double  by = goes ? factor(pass->layer, (size_t)expert) : 0;
            double        dot = 0;

            for (size_t i = 0; i < config->dimension; i++) {
                dot += (double)gradient[i] * token[i];
            }
            if (pass->calls == 4) {
                close_to(pass, pass->weight_gradients[at], by * dot, 4 * (double)config->dimension, "the gradient of a weight");
            }
            sum += by * (double)pass->weights[at];
            size += by * fabs((double)pass->weights[at]);
        }
        for (size_t i = 0; i < config->dimension; i++) {
            const size_t at = t * config->dimension + i;

            close_to(pass, pass->out[at], sum * (double)token[i], 4 * size, "an output");
            if (pass->calls == 4) {
                close_to(pass, pass->token_gradients[at], sum * (double)gradient[i], 8 * size, "the gradient of a token");
            }
        }
    }
    free(taken);
}

static void end(pass_t *pass)
{
    tacit_moe_pass_destroy(pass->pass);
    free(pass->experts);
    free(pass->tokens);
    free(pass->weights);
    free(pass->gradients);
    free(pass->out);
    free(pass->token_gradients);
    free(pass->weight_gradients);
    free(pass->rows);
    *pass = (pass_t){0};
}

/* The pass's next call. */
static void go_on(pass_t *pass)
{
    const size_t bytes = pass->batch.count * pass->layer->config.dimension * sizeof(float);

    switch (++pass->calls) {
    case 1:
        return;
    case 2:
        memcpy(pass->rows, pass->batch.rows, bytes);
        apply(pass, pass->rows);
        MUST(tacit_moe_combine(pass->pass, pass->rows, pass->weights, pass->out));
        verify(pass);
        return;
    case 3:
        MUST(tacit_moe_combine_backward(pass->pass, pass->gradients, pass->weight_gradients, pass->rows));
        return;
    case 4:
        apply(pass, pass->rows);
        MUST(tacit_moe_dispatch_backward(pass->pass, pass->rows, pass->token_gradients));
        verify(pass);
        return;
    default:
        end(pass);
    }
}

/* Passes begin, go on and end in an order that is the same on all ranks; now and then a request is under way meanwhile. */
static void side_by_side(layer_t *layers, tacit_slot_t *slot, uint64_t seed)
{
    static float     x[REDUCED], sum[REDUCED];
    harness_random_t order = {seed};
    pass_t           passes[PASSES] = {{0}};
    tacit_request_t *request = NULL;

    for (int turn = 0; turn < TURNS; turn++) {
        pass_t *pass = &passes[harness_next(&order) % PASSES];

        if (pass->layer == NULL) {
            layer_t *layer = &layers[harness_next(&order) % LAYERS];

            begin(pass, layer, harness_next(&order));
        }
        if (harness_next(&order) % 10 == 0) { /* at any point */
            end(pass);
        } else {
            go_on(pass);
        }
        if (request == NULL && turn % 4 == 0) {
            x[0] = (float)turn;
            MUST(tacit_iallreduce(slot, x, sum, TACIT_SUM, &request));
        } else if (request != NULL && turn % 3 == 0) {
            MUST(tacit_wait(&request));
            REQUIRE(sum[0] == x[0] * (float)world_ranks(), "a sum is %g", (double)sum[0]);
        }
    }
    if (request != NULL) {
        MUST(tacit_wait(&request));
    }
    for (int i = 0; i < PASSES; i++) {
        end(&passes[i]);
    }
}

/* Rank 0 makes another call: all hear of it, and nothing is lost. */
static void different(layer_t *layers, tacit_slot_t *slot)
{
    pass_t first, second, none;
    float  x[REDUCED] = {0};

    begin(&first, &layers[1], 1);
    begin(&second, &layers[1], 2);
    for (int call = 0; call < 3; call++) {
        const bool     other = world_rank() == 0;
        tacit_status_t status;

        if (other && call == 0) {
            status = tacit_allreduce(slot, x, x, TACIT_SUM);
        } else if (other && call == 1) {
            status = tacit_moe_dispatch(layers[2].moe, NULL, 0, NULL, &none.pass, &none.batch);
        } else {
            status = tacit_moe_combine(other ? second.pass : first.pass, first.rows, first.weights, first.out);
        }
        REQUIRE(status == TACIT_ERR_MISMATCH, "%s", tacit_strerror(status));
        begin(&none, &layers[call], 3);
        for (int i = 0; i < 5; i++) {
            go_on(&none);
        }
    }
    for (int i = 0; i < 5; i++) {
        go_on(&second);
        go_on(&first);
    }
}

int main(int argc, char **argv)
{
    layer_t       layers[LAYERS] = {{config_of(1, 1, 20, 1, 0, "none"), 1e-6, true, NULL},
                                    {config_of(3, 7, 30, 3, 2, NULL), 1e-6, true, NULL},
                                    {config_of(1000, 5, 10, 2, 0, "bf16"), 5e-3, true, NULL},
                                    {config_of(16, 100, 50, 2, 0, "lsh:hashes=1"), 1e-6, false, NULL},
                                    {config_of(16, 3, 50, 2, 30, "lsh:hashes=1,values=bf16"), 5e-3, false, NULL}};
    tacit_comm_t *comm;
    tacit_slot_t *slot;

    MPI_Init(&argc, &argv);
    for (int checked = 0; checked < 2; checked++) {
        setenv("TACIT_CHECK", checked ? "1" : "0", 1);
        MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
        slot = slot_of(comm, "layer", REDUCED, TACIT_FLOAT32, "fp16");
        for (int i = 0; i < LAYERS; i++) {
            MUST(tacit_moe_create(comm, i < 2 ? "layer" : "another", &layers[i].config, &layers[i].moe));
        }
        side_by_side(layers, slot, 5 + (uint64_t)checked);
        if (world_ranks() > 1) {
            different(layers, slot);
        }
        tacit_moe_destroy(layers[3].moe);
        tacit_comm_destroy(comm);
    }
    MPI_Finalize();
    return 0;
}
