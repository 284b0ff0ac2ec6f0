/* SPDX-License-Identifier: Apache-2.0 */
/* What trains a transformer on a GPU: a module of CUDA's kernels and cuBLAS, which is loaded when it is needed, and its table. C
   and C++; knows no type of CUDA. Calls return NULL, or what is wrong. */
#ifndef GPU_MODULE_H
#define GPU_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct transformer;

/* A GPU, and the stream on which all is done. */
typedef struct gpu gpu_t;

/* A step of sgd or adam: their factors, as optim/ has them. */
typedef struct gpu_sgd {
    float rate, momentum, decay;
    bool  nesterov;
    bool  owned; /* the momentum is in the gradients already */
} gpu_sgd_t;

typedef struct gpu_adam {
    float rate, beta1, rest1, beta2, rest2, epsilon, decay, correct1, correct2;
} gpu_adam_t;

typedef struct gpu_module {
    /* The GPU of the place-th rank of a machine, which are counted round and round. */
    const char *(*open)(int place, gpu_t **gpu_out);
    /* Accepts NULL. */
    void (*close)(gpu_t *gpu);
    void *(*stream)(gpu_t *gpu); /* a cudaStream_t */

    /* Zeroed memory of the GPU, until it is closed. */
    const char *(*alloc)(gpu_t *gpu, size_t bytes, void **memory_out);
    /* To the GPU or from it; waits for all that comes before. */
    const char *(*copy)(gpu_t *gpu, void *to, const void *from, size_t bytes);

    /* What transformer.h does, of a model all of whose tensors and traces are on the GPU. `windows` are not; at most batch_limit
       of them. The mean loss of a batch, and its gradient … */
    const char *(*loss_gradient)(gpu_t *gpu, const struct transformer *model, const uint8_t *windows, size_t batch,
                                 double *loss_out);
    /* … or the sum of the losses alone. */
    const char *(*evaluate)(gpu_t *gpu, const struct transformer *model, const uint8_t *windows, size_t batch, double *loss_out);

    /* Moves values. buffer: NULL where there is neither a momentum nor a decay with one. They wait for nothing. */
    const char *(*sgd)(gpu_t *gpu, const gpu_sgd_t *by, size_t count, const float *gradients, float *buffer, float *values);
    const char *(*adam)(gpu_t *gpu, const gpu_adam_t *by, size_t count, const float *gradients, float *m, float *v,
                        float *values);
} gpu_module_t;

/* What the module exports. */
__attribute__((visibility("default"))) const gpu_module_t *train_gpu_module(void);

/* Finds the module. Returns NULL, or why there is none, in `text` of that many bytes. */
const char *gpu_module_load(const gpu_module_t **module_out, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
