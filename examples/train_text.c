/* SPDX-License-Identifier: Apache-2.0 */
/* Trains a transformer to predict the next character of a text. Here are its data and its model; trainer.c trains it. */
#include "text.h"
#include "trainer.h"
#include "transformer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct task {
    uint64_t      width, layers, heads, context;
    uint64_t      seed, batch;
    text_t        text;
    transformer_t model;
    uint8_t      *windows; /* a batch of them */
    /* With --device cuda: */
    const trainer_t    *trainer;
    const gpu_module_t *module; /* NULL: on the CPU */
    gpu_t              *gpu;
    transformer_t       there; /* the model in the GPU's memory */
} task_t;

static const char *load(void *own, const trainer_options_t *options, char *text)
{
    task_t             *task = own;
    transformer_shape_t shape;

    if (task->width % task->heads != 0) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--width %" PRIu64 " is not a multiple of --heads %" PRIu64, task->width,
                       task->heads);
        return text;
    }
    if (text_load(options->data, &task->text, text, TRAINER_TEXT_BYTES) != 0) {
        return text;
    }
    if (task->text.tests <= task->context) {
        (void)snprintf(text, TRAINER_TEXT_BYTES,
                       "the last tenth of the text, %zu characters, is for testing and too short for --context %" PRIu64,
                       task->text.tests, task->context);
        return text;
    }
    task->seed = options->seed;
    task->batch = options->batch;
    shape = (transformer_shape_t){task->text.symbols, task->context, task->width, task->layers, task->heads};
    task->windows = malloc(task->batch * (task->context + 1));
    if (!task->windows || transformer_init(&task->model, &shape, options->gpu ? 0 : task->batch) != 0) {
        return "not enough memory for the model; try a smaller --width, --context or --batch";
    }
    return NULL;
}

static void randomize(void *own, uint64_t seed)
{
    transformer_randomize(&((task_t *)own)->model, seed);
}

static tensors_t *tensors(void *own)
{
    return &((task_t *)own)->model.tensors;
}

/* Windows lie side by side; each epoch shifts all of them by a number below the context, another every time. */
static size_t sample_count(void *own)
{
    const task_t *task = own;
    const size_t  places = task->text.trains / task->context;

    return places > 1 ? places - 1 : 0;
}

static void copy_window(task_t *task, const uint8_t *from, size_t place)
{
    memcpy(task->windows + place * (task->context + 1), from, task->context + 1);
}

/* Of the windows: the mean, and its gradient; or the sum. */
static double loss_of(task_t *task, size_t count, bool gradient)
{
    const gpu_module_t *module = task->module;
    double              loss;
    const char         *fault;

    if (!module) {
        return (gradient ? transformer_loss_gradient : transformer_evaluate)(&task->model, task->windows, count);
    }
    fault = (gradient ? module->loss_gradient : module->evaluate)(task->gpu, &task->there, task->windows, count, &loss);
    if (fault) {
        trainer_die(task->trainer, "GPU: %s", fault);
    }
    if (gradient && !isfinite(loss)) { /* NCCL's own sums look at no value */
        trainer_die(task->trainer, "the loss is no number any more; try a smaller --lr");
    }
    return loss;
}

static double gradient(void *own, const uint32_t *samples, size_t count, uint64_t epoch)
{
    task_t  *task = own;
    uint64_t state = task->seed ^ (epoch + 1) * 0x9E3779B97F4A7C15u;
    size_t   shift = (size_t)random_below(&state, task->context);

    for (size_t i = 0; i < count; i++) {
        copy_window(task, task->text.train + samples[i] * task->context + shift, i);
    }
    return loss_of(task, count, true);
}

/* The loss of this rank's part of `places` windows that begin `stride` apart. */
static double evaluate_part(task_t *task, const uint8_t *text, size_t places, size_t stride, size_t rank, size_t ranks)
{
    const size_t end = places * (rank + 1) / ranks;
    double       loss = 0.0;

    for (size_t first = places * rank / ranks; first < end; first += task->batch) {
        const size_t count = end - first < task->batch ? end - first : (size_t)task->batch;

        for (size_t i = 0; i < count; i++) {
            copy_window(task, text + (first + i) * stride, i);
        }
        loss += loss_of(task, count, false);
    }
    return loss;
}

/* The whole test part, and as much of the training part, spread over it. */
static void evaluate(void *own, size_t rank, size_t ranks, trainer_sums_t *sums)
{
    task_t      *task = own;
    const size_t places = (task->text.tests - 1) / task->context;
    const size_t stride = (task->text.trains - task->context - 1) / places;
    const double predictions = (double)(task->context * (places * (rank + 1) / ranks - places * rank / ranks));

    sums->train_loss += evaluate_part(task, task->text.train, places, stride, rank, ranks);
    sums->test_loss += evaluate_part(task, task->text.test, places, task->context, rank, ranks);
    sums->trains += predictions;
    sums->tests += predictions;
}

static void describe(void *own, char *text, size_t capacity)
{
    const task_t *task = own;
    const size_t  count = task->text.trains + task->text.tests;

    (void)snprintf(
        text, capacity,
        "data %zu characters, %016" PRIx64 "\nwidth %" PRIu64 "\nlayers %" PRIu64 "\nheads %" PRIu64 "\ncontext %" PRIu64 "\n",
        count, program_hash(PROGRAM_HASH_START, task->text.train, count), task->width, task->layers, task->heads, task->context);
}

static const char *use_gpu(void *own, const trainer_t *trainer, const gpu_module_t *module, gpu_t *gpu, const tensors_t *there)
{
    task_t     *task = own;
    void       *memory = NULL;
    const char *fault;

    task->there = (transformer_t){.shape = task->model.shape, .batch_limit = task->batch, .tensors = *there};
    task->there.blocks = calloc(task->model.shape.layers + 1, sizeof *task->there.blocks);
    if (!task->there.blocks) {
        return "not enough memory for the model";
    }
    fault = module->alloc(gpu, transformer_place(&task->there, NULL) * sizeof(float), &memory);
    (void)transformer_place(&task->there, memory);
    task->trainer = trainer;
    task->module = module;
    task->gpu = gpu;
    return fault;
}

static void release(void *own)
{
    task_t *task = own;

    free(task->there.blocks);
    transformer_fini(&task->model);
    text_free(&task->text);
    free(task->windows);
}

static const program_option_t options[] = {
    {"width", "N", "a whole number from 1 to 4096", "numbers that stand for a character (default 64)", program_set_count,
     offsetof(task_t, width), 1, 4096},
    {"layers", "N", "a whole number from 1 to 64", "blocks of attention and perceptron (default 2)", program_set_count,
     offsetof(task_t, layers), 1, 64},
    {"heads", "N", "a whole number from 1 to 64", "of attention; they share out the width (default 4)", program_set_count,
     offsetof(task_t, heads), 1, 64},
    {"context", "N", "a whole number from 2 to 1024", "characters that a prediction sees at most (default 64)", program_set_count,
     offsetof(task_t, context), 2, 1024},
    {0},
};

int main(int argc, char **argv)
{
    static const trainer_task_t text = {
        .program = "train-text",
        .summary = "Trains a transformer to predict the next character of a text; losses are in nats a character.",
        .samples = "windows of the text",
        .data = "a file of text, of any bytes; its last tenth is for testing (default: the text that\nships with Tacit)",
        .defaults = {.optimizer = "adam", .steps = 600, .batch = 8, .seed = 1, .warmup = 50},
        .sgd_rate = 0.1,
        .adam_rate = 0.01,
        .lamb_rate = 0.01,
        .options = options,
        .load = load,
        .randomize = randomize,
        .tensors = tensors,
        .sample_count = sample_count,
        .gradient = gradient,
        .evaluate = evaluate,
        .describe = describe,
        .release = release,
        .use_gpu = use_gpu,
    };
    task_t task = {.width = 64, .layers = 2, .heads = 4, .context = 64};

    return trainer_main(argc, argv, &text, &task);
}
