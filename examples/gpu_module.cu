/* SPDX-License-Identifier: Apache-2.0 */
/* The module's table: a GPU, its memory, and the optimizers' steps, which have the same bits as those of optim/. */
#include "gpu_kernels.h"

#include <stdlib.h>

namespace train_gpu {

/* ---- Optimizers: the same operations in the same order as optim/optimizers/sgd.c and optim/moments.h ---- */

static __device__ size_t own_element()
{
    return (size_t)blockIdx.x * GPU_THREADS + threadIdx.x;
}

static __global__ void move_plain(gpu_sgd_t by, size_t count, const float *g, float *w)
{
    const size_t i = own_element();

    if (i < count) {
        w[i] -= by.rate * (g[i] + by.decay * w[i]);
    }
}

static __global__ void move_heavy(gpu_sgd_t by, size_t count, const float *g, float *buffer, float *w)
{
    const size_t i = own_element();

    if (i < count) {
        const float decay = by.decay * w[i], fresh = by.owned ? decay : g[i] + decay;
        const float moved = by.momentum * buffer[i] + fresh;
        const float direction = by.nesterov ? fresh + by.momentum * moved : moved;

        buffer[i] = moved;
        w[i] -= by.rate * (by.owned ? g[i] + direction : direction);
    }
}

static __global__ void move_adam(gpu_adam_t by, size_t count, const float *g, float *m, float *v, float *w)
{
    const size_t i = own_element();

    if (i < count) {
        const float first = by.beta1 * m[i] + by.rest1 * g[i];
        const float second = by.beta2 * v[i] + by.rest2 * g[i] * g[i];
        const float update = first * by.correct1 / (sqrtf(second) * by.correct2 + by.epsilon);

        m[i] = first;
        v[i] = second;
        w[i] = w[i] - by.rate * (update + by.decay * w[i]);
    }
}

static const char *sgd(gpu_t *gpu, const gpu_sgd_t *by, size_t count, const float *gradients, float *buffer, float *values)
{
    if (buffer == nullptr) {
        TACIT_LAUNCH(move_plain, gpu_blocks(count), GPU_THREADS, gpu->stream, *by, count, gradients, values);
    } else {
        TACIT_LAUNCH(move_heavy, gpu_blocks(count), GPU_THREADS, gpu->stream, *by, count, gradients, buffer, values);
    }
    return gpu_fault(gpu);
}

static const char *adam(gpu_t *gpu, const gpu_adam_t *by, size_t count, const float *gradients, float *m, float *v, float *values)
{
    TACIT_LAUNCH(move_adam, gpu_blocks(count), GPU_THREADS, gpu->stream, *by, count, gradients, m, v, values);
    return gpu_fault(gpu);
}

/* ---- A GPU ---- */

static void close(gpu_t *gpu)
{
    if (gpu == nullptr) {
        return;
    }
    (void)cudaStreamSynchronize(gpu->stream);
    for (int i = 0; i < gpu->memories; i++) {
        (void)cudaFree(gpu->memory[i]);
    }
    (void)cublasDestroy(gpu->blas);
    (void)cudaStreamDestroy(gpu->stream);
    free(gpu);
}

static const char *open(int place, gpu_t **gpu_out)
{
    gpu_t         *gpu;
    cublasStatus_t status;
    int            count = 0;
    const char    *fault = gpu_text(cudaGetDeviceCount(&count));

    if (fault == nullptr) {
        fault = count == 0 ? "no GPU is visible" : gpu_text(cudaSetDevice(place % count));
    }
    if (fault != nullptr) {
        return fault;
    }
    gpu = (gpu_t *)calloc(1, sizeof *gpu);
    if (gpu == nullptr) {
        return "out of memory";
    }
    fault = gpu_text(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking));
    if (fault != nullptr) {
        free(gpu);
        return fault;
    }
    status = cublasCreate(&gpu->blas);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasSetStream(gpu->blas, gpu->stream);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        close(gpu);
        return cublasGetStatusString(status);
    }
    *gpu_out = gpu;
    return nullptr;
}

static void *stream(gpu_t *gpu)
{
    return gpu->stream;
}

/* In the order of gpu_module_t. */
static const gpu_module_t table = {open, close, stream, gpu_alloc, gpu_copy, gpu_loss_gradient, gpu_evaluate, sgd, adam};

} /* namespace train_gpu */

const char *gpu_fault(const gpu_t *gpu)
{
    const cudaError_t error = cudaGetLastError();

    return error == cudaSuccess && gpu->blas_status != CUBLAS_STATUS_SUCCESS ? cublasGetStatusString(gpu->blas_status)
                                                                             : gpu_text(error);
}

const char *gpu_alloc(gpu_t *gpu, size_t bytes, void **memory_out)
{
    void       *memory = nullptr;
    const char *fault = gpu->memories < GPU_MEMORIES ? gpu_text(cudaMalloc(&memory, bytes)) : "more memories than foreseen";

    if (fault != nullptr) {
        return fault;
    }
    gpu->memory[gpu->memories++] = memory;
    fault = gpu_text(cudaMemset(memory, 0, bytes));
    fault = fault == nullptr ? gpu_text(cudaStreamSynchronize((cudaStream_t)0)) : fault; /* the own stream waits for no other */
    *memory_out = memory;
    return fault;
}

const char *gpu_copy(gpu_t *gpu, void *to, const void *from, size_t bytes)
{
    const char *fault = gpu_text(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, gpu->stream));

    return fault == nullptr ? gpu_text(cudaStreamSynchronize(gpu->stream)) : fault;
}

const gpu_module_t *train_gpu_module(void)
{
    return &train_gpu::table;
}
