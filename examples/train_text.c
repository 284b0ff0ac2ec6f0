/* SPDX-License-Identifier: Apache-2.0 */
/* Trains a transformer to predict the next character of a text. Here is its model, on the CPU or on a GPU; text_task.c has the
   data, and trainer.c trains it. */
#include "text_task.h"

#include <math.h>
#include <stdlib.h>

typedef struct task {
    text_task_t all;
    /* With --device cuda: */
    const trainer_t    *trainer;
    const gpu_module_t *module; /* NULL: on the CPU */
    gpu_t              *gpu;
    transformer_t       there; /* the model in the GPU's memory */
} task_t;

static double loss_of(text_task_t *all, size_t count, bool gradient)
{
    task_t             *task = (task_t *)all;
    const gpu_module_t *module = task->module;
    double              loss;
    const char         *fault;

    if (count == 0) {
        return 0.0;
    }
    if (!module) {
        return (gradient ? transformer_loss_gradient : transformer_evaluate)(&all->model, all->windows, count);
    }
    fault = (gradient ? module->loss_gradient : module->evaluate)(task->gpu, &task->there, all->windows, count, &loss);
    if (fault) {
        trainer_die(task->trainer, "GPU: %s", fault);
    }
    if (gradient && !isfinite(loss)) { /* NCCL's own sums look at no value */
        trainer_die(task->trainer, "the loss is no number any more; try a smaller --lr");
    }
    return loss;
}

static const char *use_gpu(void *own, const trainer_t *trainer, const gpu_module_t *module, gpu_t *gpu, const tensors_t *there)
{
    task_t              *task = own;
    const transformer_t *model = &task->all.model;
    void                *memory = NULL;
    const char          *fault;

    task->there = (transformer_t){.shape = model->shape, .batch_limit = task->all.batch, .tensors = *there};
    task->there.blocks = calloc(model->shape.layers + 1, sizeof *task->there.blocks);
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
    free(((task_t *)own)->there.blocks);
    text_task_release(own);
}

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
        .options = {text_task_options},
        .load = text_task_load,
        .randomize = text_task_randomize,
        .tensors = text_task_tensors,
        .sample_count = text_task_sample_count,
        .gradient = text_task_gradient,
        .evaluate = text_task_evaluate,
        .describe = text_task_describe,
        .release = release,
        .use_gpu = use_gpu,
    };
    task_t task = {.all = {.width = 64, .layers = 2, .heads = 4, .context = 64, .loss = loss_of}};

    return trainer_main(argc, argv, &text, &task);
}
