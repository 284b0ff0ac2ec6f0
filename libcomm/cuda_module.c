/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the module with kernels for GPUs. */
#include "cuda_module.h"

static const tacit_cuda_module_t *in_use;

void tacit__cuda_use(const tacit_cuda_module_t *module)
{
    in_use = module;
}

tacit_status_t tacit__cuda_module(const tacit_cuda_module_t **module_out)
{
    if (in_use == NULL) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED, "no CUDA");
    }
    *module_out = in_use;
    return TACIT_OK;
}

void *tacit__cuda_alloc_shared(const tacit_cuda_module_t *module, size_t count, size_t size)
{
    size_t bytes;
    void  *memory = NULL;

    if (module == NULL) {
        return tacit__alloc(count, size);
    }
    if (__builtin_mul_overflow(count, size, &bytes) || module->alloc_shared(&memory, bytes + (bytes == 0)) != 0) {
        return NULL;
    }
    return memory;
}

void tacit__cuda_free_shared(const tacit_cuda_module_t *module, void *memory)
{
    if (module == NULL) {
        tacit__free(memory);
    } else if (memory != NULL) {
        (void)module->free(memory);
    }
}
