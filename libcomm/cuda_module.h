/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA module, libtacit_cuda: kernels and CUDA's runtime, of which the library itself links nothing. */
#ifndef TACIT_CUDA_MODULE_H
#define TACIT_CUDA_MODULE_H

#include "internal.h" /* first: it includes config.h */

#include "cuda/device.h"

/* The module's table, which stays. It is looked for once in a process, by the first call; TACIT_ERR_UNSUPPORTED where there is
   none, or no GPU for it: the text says why, and what to do. From any thread. */
tacit_status_t tacit__cuda_module(const tacit_cuda_module_t **module_out);
/* As above; a line for people: what was found. It stays too. */
tacit_status_t tacit__cuda_summary(const char **summary_out);
/* For tests: from now on it is this one; NULL: the one that is found. */
void tacit__cuda_use(const tacit_cuda_module_t *module);

/* Zeroed memory of the GPU and the CPU; of the CPU alone where module is NULL. NULL if there is none. */
void *tacit__cuda_alloc_shared(const tacit_cuda_module_t *module, size_t count, size_t size);
void  tacit__cuda_free_shared(const tacit_cuda_module_t *module, void *memory);

#endif
