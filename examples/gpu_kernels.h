/* SPDX-License-Identifier: Apache-2.0 */
/* What the .cu files of the module have in common: a GPU from inside, errors, and warps that work on a row each. */
#ifndef GPU_KERNELS_H
#define GPU_KERNELS_H

#include "gpu_module.h"

#include "../compressors/cuda/launch.h"

#include <cublas_v2.h>

enum { GPU_MEMORIES = 16, GPU_WARP = 32, GPU_THREADS = 256, GPU_ROWS = GPU_THREADS / GPU_WARP };

struct gpu {
    cudaStream_t   stream;
    cublasHandle_t blas;
    cublasStatus_t blas_status; /* the first that is no success */
    void          *memory[GPU_MEMORIES];
    int            memories;
    /* Of the transformer, made when it is first used: */
    uint8_t *windows;
    float   *losses; /* of each row */
    float   *sums;   /* of strips of rows: see gpu_transformer.cu */
    double  *loss;
};

static inline const char *gpu_text(cudaError_t error)
{
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

/* Of all calls and launches before: NULL, or what is wrong. */
const char *gpu_fault(const gpu_t *gpu);
const char *gpu_alloc(gpu_t *gpu, size_t bytes, void **memory_out);
const char *gpu_copy(gpu_t *gpu, void *to, const void *from, size_t bytes);
const char *gpu_loss_gradient(gpu_t *gpu, const struct transformer *model, const uint8_t *windows, size_t batch,
                              double *loss_out);
const char *gpu_evaluate(gpu_t *gpu, const struct transformer *model, const uint8_t *windows, size_t batch, double *loss_out);

/* Blocks that have a thread for each of `count` elements, or a warp for each of as many rows. */
static inline unsigned gpu_blocks(size_t count)
{
    return (unsigned)((count + GPU_THREADS - 1) / GPU_THREADS);
}

static inline unsigned gpu_row_blocks(size_t rows)
{
    return (unsigned)((rows + GPU_ROWS - 1) / GPU_ROWS);
}

#endif
