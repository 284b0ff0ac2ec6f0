/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of a text, for training and for testing. */
#include "text_task.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const program_option_t text_task_options[] = {
    {"width", "N", "a whole number from 1 to 4096", "numbers that stand for a character (default 64)", program_set_count,
     offsetof(text_task_t, width), 1, 4096},
    {"layers", "N", "a whole number from 1 to 64", "blocks of attention and perceptron (default 2)", program_set_count,
     offsetof(text_task_t, layers), 1, 64},
    {"heads", "N", "a whole number from 1 to 64", "of attention; they share out the width (default 4)", program_set_count,
     offsetof(text_task_t, heads), 1, 64},
    {"context", "N", "a whole number from 2 to 1024", "characters that a prediction sees at most (default 64)", program_set_count,
     offsetof(text_task_t, context), 2, 1024},
    {0},
};

const char *text_task_load(void *own, const trainer_options_t *options, char *text)
{
    text_task_t        *task = own;
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
    shape = (transformer_shape_t){task->text.symbols, task->context, task->width, task->layers, task->heads, task->experts};
    task->windows = malloc(task->batch * (task->context + 1));
    if (!task->windows || transformer_init(&task->model, &shape, options->gpu ? 0 : task->batch) != 0) {
        return "not enough memory for the model; try a smaller --width, --context or --batch";
    }
    return NULL;
}

void text_task_randomize(void *own, uint64_t seed)
{
    transformer_randomize(&((text_task_t *)own)->model, seed);
}

tensors_t *text_task_tensors(void *own)
{
    return &((text_task_t *)own)->model.tensors;
}

/* Windows lie side by side; each epoch shifts all of them by a number below the context, another every time. */
size_t text_task_sample_count(void *own)
{
    const text_task_t *task = own;
    const size_t       places = task->text.trains / task->context;

    return places > 1 ? places - 1 : 0;
}

static void copy_window(text_task_t *task, const uint8_t *from, size_t place)
{
    memcpy(task->windows + place * (task->context + 1), from, task->context + 1);
}

double text_task_gradient(void *own, const uint32_t *samples, size_t count, uint64_t epoch)
{
    text_task_t *task = own;
    uint64_t     state = task->seed ^ (epoch + 1) * 0x9E3779B97F4A7C15u;
    size_t       shift = (size_t)random_below(&state, task->context);

    for (size_t i = 0; i < count; i++) {
        copy_window(task, task->text.train + samples[i] * task->context + shift, i);
    }
    return task->loss(task, count, true);
}

/* The loss of this rank's part of `places` windows that begin `stride` apart. All ranks have as many batches as the largest. */
static double evaluate_part(text_task_t *task, const uint8_t *text, size_t places, size_t stride, size_t rank, size_t ranks)
{
    const size_t end = places * (rank + 1) / ranks, largest = (places + ranks - 1) / ranks;
    size_t       first = places * rank / ranks;
    double       loss = 0.0;

    for (size_t done = 0; done < largest; done += task->batch) {
        const size_t count = end - first < task->batch ? end - first : (size_t)task->batch;

        for (size_t i = 0; i < count; i++) {
            copy_window(task, text + (first + i) * stride, i);
        }
        loss += task->loss(task, count, false);
        first += count;
    }
    return loss;
}

/* The whole test part, and as much of the training part, spread over it. */
void text_task_evaluate(void *own, size_t rank, size_t ranks, trainer_sums_t *sums)
{
    text_task_t *task = own;
    const size_t places = (task->text.tests - 1) / task->context;
    const size_t stride = (task->text.trains - task->context - 1) / places;
    const double predictions = (double)(task->context * (places * (rank + 1) / ranks - places * rank / ranks));

    sums->train_loss += evaluate_part(task, task->text.train, places, stride, rank, ranks);
    sums->test_loss += evaluate_part(task, task->text.test, places, task->context, rank, ranks);
    sums->trains += predictions;
    sums->tests += predictions;
}

void text_task_describe(void *own, char *text, size_t capacity)
{
    const text_task_t *task = own;
    const size_t       count = task->text.trains + task->text.tests;

    (void)snprintf(
        text, capacity,
        "data %zu characters, %016" PRIx64 "\nwidth %" PRIu64 "\nlayers %" PRIu64 "\nheads %" PRIu64 "\ncontext %" PRIu64 "\n",
        count, program_hash(PROGRAM_HASH_START, task->text.train, count), task->width, task->layers, task->heads, task->context);
}

void text_task_release(void *own)
{
    text_task_t *task = own;

    transformer_fini(&task->model);
    text_free(&task->text);
    free(task->windows);
}
