/* SPDX-License-Identifier: Apache-2.0 */
/* The module with kernels for GPUs, loaded when a tensor on one first appears. */
#ifndef TACIT_CUDA_MODULE_H
#define TACIT_CUDA_MODULE_H

#include "cuda/device.h"
#include "internal.h"

/* The module, where there is one and a GPU; or why not. */
tacit_status_t tacit__cuda_module(const tacit_cuda_module_t **module_out);
/* For tests: it is this one from now on. NULL: as before. */
void tacit__cuda_use(const tacit_cuda_module_t *module);

/* Zeroed memory of the GPU and the CPU; of the CPU alone where module is NULL. NULL if there is none. */
void *tacit__cuda_alloc_shared(const tacit_cuda_module_t *module, size_t count, size_t size);
void  tacit__cuda_free_shared(const tacit_cuda_module_t *module, void *memory);

#endif
