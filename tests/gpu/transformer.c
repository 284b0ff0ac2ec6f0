/* SPDX-License-Identifier: Apache-2.0 */
/* The examples' transformer and optimizers on a GPU: losses and gradients against the CPU's and against finite differences, and
   steps that are the library's to the bit. */
#include "../unit/descent.h"

#include "gpu.h"
#include "gpu_optimizer.h"
#include "tacit_bundle.h"
#include "transformer.h"

enum { SYMBOLS = 41, CONTEXT = 37, BATCH = 3, WINDOW = CONTEXT + 1 };

/* Rows of none of these are a whole number of warps. */
static const transformer_shape_t shape = {.symbols = SYMBOLS, .context = CONTEXT, .width = 42, .layers = 2, .heads = 3};

static uint8_t             windows[BATCH * WINDOW];
static const gpu_module_t *module;
static gpu_t              *gpu;
static transformer_t       model, there; /* on the CPU, and on the GPU */
static float              *read_back;

#define WORKS(call)                                                                                                              \
    do {                                                                                                                         \
        const char *fault = (call);                                                                                              \
        ck_assert_msg(fault == NULL, "%s: %s", #call, fault);                                                                    \
    } while (0)

/* ---- A model on both ---- */

static float *take(size_t count)
{
    void *memory = NULL;

    WORKS(module->alloc(gpu, count * sizeof(float), &memory));
    return memory;
}

static void write_values(void)
{
    WORKS(module->copy(gpu, there.tensors.values, model.tensors.values, model.tensors.elements * sizeof(float)));
}

/* Gains and biases too: at 1 and 0 they would hide mistakes. */
static void setup(void)
{
    uint64_t state = 7;

    ck_assert_int_eq(transformer_init(&model, &shape, BATCH), 0);
    transformer_randomize(&model, 1);
    for (size_t i = 0; i < model.tensors.count; i++) {
        const tensor_t *tensor = &model.tensors.list[i];
        float           noise[4 * 42];

        harness_fill(noise, tensor->cols, i + 1, 0.3f);
        for (size_t j = 0; tensor->rows == 1 && j < tensor->cols; j++) {
            tensor->values[j] += noise[j];
        }
    }
    for (size_t i = 0; i < sizeof windows; i++) {
        windows[i] = (uint8_t)random_below(&state, SYMBOLS);
    }
    WORKS(module->open(0, &gpu));
    there = (transformer_t){.shape = shape, .batch_limit = BATCH};
    ck_assert_int_eq(
        tensors_elsewhere(&model.tensors, take(model.tensors.elements), take(model.tensors.elements), &there.tensors), 0);
    there.blocks = calloc(shape.layers + 1, sizeof *there.blocks);
    (void)transformer_place(&there, take(transformer_place(&there, NULL)));
    write_values();
    read_back = calloc(model.tensors.elements, sizeof *read_back);
}

static void teardown(void)
{
    module->close(gpu);
    free(there.tensors.list);
    free(there.blocks);
    free(read_back);
    transformer_fini(&model);
}

static double gradient_there(size_t batch)
{
    double loss;

    WORKS(module->loss_gradient(gpu, &there, windows, batch, &loss));
    WORKS(module->copy(gpu, read_back, there.tensors.gradients, model.tensors.elements * sizeof(float)));
    return loss;
}

static double evaluate_there(size_t batch)
{
    double loss;

    WORKS(module->evaluate(gpu, &there, windows, batch, &loss));
    return loss;
}

/* Sums of a hundred or so products of float32 in another order, through two blocks: 2^-24 of the largest for each of some hundred
   roundings. The largest difference seen, of a tensor's largest gradient, is 1e-6. */
START_TEST(gradients)
{
    const size_t batch = _i == 0 ? BATCH : 1;
    const double loss = transformer_loss_gradient(&model, windows, batch), other = gradient_there(batch);

    ck_assert_double_eq_tol(other, loss, 1e-6);
    ck_assert_double_eq_tol(evaluate_there(batch), transformer_evaluate(&model, windows, batch), 1e-4);
    for (size_t t = 0; t < model.tensors.count; t++) {
        const tensor_t *tensor = &model.tensors.list[t];
        const float    *theirs = read_back + (tensor->gradients - model.tensors.gradients);
        double          largest = 0.0, worst = 0.0;

        for (size_t i = 0; i < tensor->rows * tensor->cols; i++) {
            largest = fmax(largest, fabs((double)tensor->gradients[i]));
            worst = fmax(worst, fabs((double)tensor->gradients[i] - (double)theirs[i]));
        }
        ck_assert_msg(largest > 1e-3, "%s: the largest gradient is %g: nothing to compare", tensor->name, largest);
        ck_assert_msg(worst < 1e-5 * largest, "%s: a gradient is off by %g of %g", tensor->name, worst, largest);
    }
}
END_TEST

/* As tests/unit/transformer.c has it: h^4/30 times a fifth derivative, and the rounding of losses, 2^-22 / h. */
START_TEST(finite_differences)
{
    static const size_t places[] = {0, 11, 500, 1763};
    const tensor_t     *tensor = block_tensor(&model, 0, TRIPLE_WEIGHT);
    const float         h = 0x1p-5f, steps[] = {2 * h, -2 * h, h, -h};

    (void)gradient_there(BATCH);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        float      *parameter = &tensor->values[places[i]];
        const float value = *parameter, found = read_back[tensor->gradients - model.tensors.gradients + (ptrdiff_t)places[i]];
        double      losses[4], slope;

        for (size_t j = 0; j < 4; j++) {
            *parameter = value + steps[j];
            write_values();
            losses[j] = evaluate_there(BATCH) / (BATCH * CONTEXT);
        }
        *parameter = value;
        slope = (8.0 * (losses[2] - losses[3]) - (losses[0] - losses[1])) / (12.0 * (double)h);
        ck_assert_msg(fabs(slope - (double)found) < 2e-5, "element %zu: %g, not %g", places[i], (double)found, slope);
    }
}
END_TEST

/* Equal calls give equal bits, whatever ran before. */
START_TEST(repeated)
{
    const double loss = gradient_there(BATCH);
    const size_t bytes = model.tensors.elements * sizeof(float);
    float       *kept = malloc(bytes);

    memcpy(kept, read_back, bytes);
    (void)gradient_there(1);
    ck_assert_double_eq(gradient_there(BATCH), loss);
    ck_assert_mem_eq(kept, read_back, bytes);
    free(kept);
}
END_TEST

/* ---- Optimizers ---- */

static descent_t run; /* too large for the stack */

/* What one rank's messages make of its gradient. */
static void reduce(tacit_bundle_t *bundle, uint64_t step, float *gradient)
{
    const void *in = gradient;
    void       *out = gradient, *message = calloc(1, tacit_bundle_gather_bytes(bundle));

    MUST(tacit_bundle_encode(bundle, step, &in, message));
    MUST(tacit_bundle_reduce(bundle, message, message));
    MUST(tacit_bundle_finish(bundle, message, &out));
    free(message);
}

START_TEST(same_steps)
{
    static const struct {
        const char *optimizer, *spec;
    } cases[] = {
        {"sgd", "none"},
        {"sgd:momentum=0,weight-decay=0.01,reduce=sum", "none"},
        {"sgd:nesterov=on,weight-decay=0.01", "none"},
        {"adam", "none"},
        {"adam:beta1=0.8,beta2=0.99,epsilon=1e-4,weight-decay=0.01,bias-correction=off", "none"},
        {"sgd", "topk:ratio=0.1+dgc:dense=0"},
        {"sgd:weight-decay=0.01", "topk:ratio=0.1+dgc:momentum=0.8,dense=0"},
        {"sgd:weight-decay=0.01", "topk:ratio=0.1+dgc:nesterov=on,dense=0"},
    };
    enum { COUNT = 300, ROUNDS = 12 };
    tacit_slot_config_t slot = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    tacit_bundle_t     *bundle;
    gpu_optimizer_t     optimizer;
    float               gradient[COUNT], values[COUNT] = {0}, *state[2] = {NULL};
    float              *gradient_on = take(COUNT), *values_on = take(COUNT);
    char                text[1024];

    run = (descent_t){.optimizer = cases[_i].optimizer, .specs = {cases[_i].spec, cases[_i].spec}, .counts = {COUNT, 40}};
    run.ranks = 1;
    run.steps = ROUNDS;
    descent_run(&run);
    WORKS(gpu_optimizer_read(cases[_i].optimizer, cases[_i].spec, &optimizer, text, sizeof text));
    for (int i = 0; i < gpu_optimizer_arrays(&optimizer); i++) {
        state[i] = take(COUNT);
    }
    slot.count = COUNT;
    slot.spec = cases[_i].spec;
    MUST(tacit_codec_create("tensor 0", &slot, NULL, 0, 1, &codec));
    MUST(tacit_bundle_create(&codec, 1, optimizer.op, &bundle));
    for (int step = 0; step < ROUNDS; step++) {
        descent_normal(0, step, 0, COUNT, gradient);
        reduce(bundle, (uint64_t)step, gradient);
        WORKS(module->copy(gpu, gradient_on, gradient, sizeof gradient));
        WORKS(gpu_optimizer_step(&optimizer, module, gpu, (uint64_t)step, 0.1, COUNT, gradient_on, state, values_on));
        WORKS(module->copy(gpu, values, values_on, sizeof values));
        same_floats(run.values[step][0], values, COUNT, cases[_i].optimizer);
    }
    tacit_bundle_destroy(bundle);
    tacit_codec_destroy(codec);
}
END_TEST

START_TEST(not_there)
{
    static const struct {
        const char *optimizer, *spec, *says;
    } cases[] = {
        {"onebit-adam", "onebit+ef", "'onebit-adam' runs on the CPU only; on a GPU there are sgd and adam"},
        {"adam:clip=1", "none", "clip works on the CPU only"},
        {"sgd:rescale=on", "none", "rescale works on the CPU only"},
        {"sgd:warmup=paper", "topk+ef", "warmup works on the CPU only"},
        {"adam", "topk+dgc", "does not go with adam"},
        {"sgd:momentum=0.5", "topk+dgc", "'dgc' has the momentum"},
        {"sgd:nesterov=on", "topk+dgc", "'dgc' has the momentum"},
        {"sgdd", "none", "sgdd"},
    };
    gpu_optimizer_t optimizer;
    char            text[1024];
    const char     *complaint = gpu_optimizer_read(cases[_i].optimizer, cases[_i].spec, &optimizer, text, sizeof text);

    ck_assert_msg(complaint != NULL && strstr(complaint, cases[_i].says) != NULL, "%s: %s", cases[_i].optimizer,
                  complaint != NULL ? complaint : "taken");
}
END_TEST

/* ---- All of them ---- */

#ifdef TACIT_EMULATED

static bool is_missing(void)
{
    setenv("CK_FORK", "no", 1);
    module = train_gpu_module();
    return false;
}

#else

static bool is_missing(void)
{
    static char text[1024];
    const char *fault;

    if (gpu_is_missing()) {
        return true;
    }
    fault = gpu_module_load(&module, text, sizeof text);
    if (fault != NULL) { /* not skipped: there is a GPU */
        fprintf(stderr, "%s\n", fault);
        exit(EXIT_FAILURE);
    }
    return false;
}

#endif

int main(void)
{
    Suite *suite = suite_create("transformer on a GPU");
    TCase *all = tcase_create("all");

    if (is_missing()) {
        return GPU_SKIPPED;
    }
    tcase_set_timeout(all, 120);
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_loop_test(all, gradients, 0, 2);
    tcase_add_test(all, finite_differences);
    tcase_add_test(all, repeated);
    tcase_add_loop_test(all, same_steps, 0, 8);
    tcase_add_loop_test(all, not_there, 0, 8);
    suite_add_tcase(suite, all);
    return harness_main(suite);
}
