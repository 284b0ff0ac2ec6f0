/* SPDX-License-Identifier: Apache-2.0 */
/* Trains a classifier of handwritten digits. Here are its data and its model; trainer.c trains it. */
#include "digits.h"
#include "model.h"
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_LIMIT = 65536 };

typedef struct task {
    size_t   hidden[MODEL_LAYERS]; /* widths of hidden_count layers */
    size_t   hidden_count;
    digits_t digits;
    model_t  model;
    float   *images;  /* one batch ... */
    uint8_t *classes; /* ... and its answers */
} task_t;

static bool set_hidden(const program_option_t *option, const char *text, void *to)
{
    task_t *task = to;
    char   *end;

    (void)option;
    for (task->hidden_count = 0; task->hidden_count < MODEL_LAYERS - 1; text = end + 1) {
        const unsigned long width = strtoul(text, &end, 10);

        if (*text < '0' || *text > '9' || width < 1 || width > WIDTH_LIMIT) {
            return false;
        }
        task->hidden[task->hidden_count++] = width;
        if (*end != ',') {
            return *end == '\0';
        }
    }
    return false;
}

static const char *load(void *own, const trainer_options_t *options, char *text)
{
    task_t *task = own;
    size_t  widths[MODEL_LAYERS + 1];

    if (digits_load(options->data, &task->digits, text, TRAINER_TEXT_BYTES) != 0) {
        return text;
    }
    widths[0] = task->digits.pixels;
    memcpy(widths + 1, task->hidden, task->hidden_count * sizeof *widths);
    widths[task->hidden_count + 1] = DIGITS_CLASSES;
    task->images = malloc(options->batch * widths[0] * sizeof *task->images);
    task->classes = malloc(options->batch);
    if (!task->images || !task->classes || model_init(&task->model, widths, task->hidden_count + 1, options->batch) != 0) {
        return "not enough memory for the model; try a smaller --hidden or --batch";
    }
    return NULL;
}

static void randomize(void *own, uint64_t seed)
{
    model_randomize(&((task_t *)own)->model, seed);
}

static tensors_t *tensors(void *own)
{
    return &((task_t *)own)->model.tensors;
}

static size_t sample_count(void *own)
{
    return ((task_t *)own)->digits.train.count;
}

static double gradient(void *own, const uint32_t *samples, size_t count, uint64_t epoch)
{
    task_t             *task = own;
    const digits_set_t *train = &task->digits.train;
    const size_t        pixels = task->digits.pixels;

    (void)epoch;
    for (size_t i = 0; i < count; i++) {
        memcpy(task->images + i * pixels, train->images + samples[i] * pixels, pixels * sizeof *train->images);
        task->classes[i] = train->classes[samples[i]];
    }
    return model_loss_gradient(&task->model, task->images, task->classes, count);
}

/* Adds the loss and the right answers of a part of a set. Returns how many images that are. */
static size_t evaluate_part(task_t *task, const digits_set_t *set, size_t rank, size_t ranks, double *loss, size_t *right)
{
    const size_t first = set->count * rank / ranks, end = set->count * (rank + 1) / ranks;

    model_evaluate(&task->model, set->images + first * task->digits.pixels, set->classes + first, end - first, loss, right);
    return end - first;
}

static void evaluate(void *own, size_t rank, size_t ranks, trainer_sums_t *sums)
{
    task_t *task = own;
    size_t  train_right = 0, right = 0;

    sums->trains += (double)evaluate_part(task, &task->digits.train, rank, ranks, &sums->train_loss, &train_right);
    sums->tests += (double)evaluate_part(task, &task->digits.test, rank, ranks, &sums->test_loss, &right);
    sums->right += (double)right;
}

static void describe(void *own, char *text, size_t capacity)
{
    const task_t       *task = own;
    const digits_set_t *train = &task->digits.train;
    uint64_t            hash = PROGRAM_HASH_START;
    size_t              used;

    hash = program_hash(hash, train->images, train->count * task->digits.pixels * sizeof *train->images);
    hash = program_hash(hash, train->classes, train->count);
    used = (size_t)snprintf(text, capacity, "data %zu images, %016llx\nlayers", train->count, (unsigned long long)hash);
    for (size_t i = 0; i <= task->model.layers && used < capacity; i++) {
        used += (size_t)snprintf(text + used, capacity - used, " %zu", task->model.widths[i]);
    }
    if (used + 1 < capacity) {
        memcpy(text + used, "\n", 2);
    }
}

static void release(void *own)
{
    task_t *task = own;

    model_fini(&task->model);
    digits_free(&task->digits);
    free(task->images);
    free(task->classes);
}

static const program_option_t options[] = {
    {"hidden", "N[,N]...", "up to 7 whole numbers from 1 to 65536, separated by commas",
     "widths of the hidden layers (default 512,512)", set_hidden, 0, 0, 0},
    {0},
};

int main(int argc, char **argv)
{
    static const trainer_task_t digits = {
        .program = "train-digits",
        .summary = "Trains a classifier of handwritten digits.",
        .samples = "training images",
        .data = "a folder with optdigits.tra and optdigits.tes, a folder with MNIST's four IDX files,\n"
                "or a file of lines of 64 pixels and the digit (default: the digits that ship with Tacit)",
        .defaults = {.optimizer = "sgd", .epochs = 20, .batch = 32, .seed = 1},
        .sgd_rate = 0.01,
        .adam_rate = 0.001,
        .lamb_rate = 0.005,
        .accuracy = true,
        .options = {options},
        .load = load,
        .randomize = randomize,
        .tensors = tensors,
        .sample_count = sample_count,
        .gradient = gradient,
        .evaluate = evaluate,
        .describe = describe,
        .release = release,
    };
    task_t task = {.hidden = {512, 512}, .hidden_count = 2};

    return trainer_main(argc, argv, &digits, &task);
}
