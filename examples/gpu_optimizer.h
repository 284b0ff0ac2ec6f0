/* SPDX-License-Identifier: Apache-2.0 */
/* sgd and adam on a GPU: what a spec of theirs asks for, as far as there are kernels for it, and their steps. */
#ifndef GPU_OPTIMIZER_H
#define GPU_OPTIMIZER_H

#include "gpu_module.h"

#include <tacit.h>

typedef struct gpu_optimizer {
    bool       adam;
    tacit_op_t op; /* what becomes of ranks' gradients */
    double     decay;
    /* sgd */
    double momentum;
    bool   nesterov;
    bool   owned; /* the momentum is that of the messages' spec, and in the gradients */
    /* adam */
    double beta1, beta2, epsilon;
    bool   corrected;
} gpu_optimizer_t;

/* Reads the spec of an optimizer whose messages have the spec `messages`. Returns NULL, or why not, perhaps in `text`. */
const char *gpu_optimizer_read(const char *spec, const char *messages, gpu_optimizer_t *optimizer_out, char *text,
                               size_t capacity);
/* How many arrays of a float for each element it remembers: 0 to 2, zero at first. */
int gpu_optimizer_arrays(const gpu_optimizer_t *optimizer);
/* A step, of which `steps` came before, with the reduced gradients: values and state move, later, on the GPU's stream. Returns
   NULL, or the GPU's fault. */
const char *gpu_optimizer_step(const gpu_optimizer_t *optimizer, const gpu_module_t *module, gpu_t *gpu, uint64_t steps,
                               double rate, size_t count, const float *gradients, float *const state[2], float *values);

#endif
