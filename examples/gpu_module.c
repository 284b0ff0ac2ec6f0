/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the module of CUDA's kernels from where it is built. It is never unloaded: CUDA's runtime does not survive that. */
#include "gpu_module.h"

#include <dlfcn.h>
#include <stdio.h>

const char *gpu_module_load(const gpu_module_t **module_out, char *text, size_t capacity)
{
    const gpu_module_t *(*function)(void) = NULL;
    void *library = dlopen(GPU_MODULE_FILE, RTLD_NOW | RTLD_LOCAL);

    if (library) {
        *(void **)&function = dlsym(library, "train_gpu_module");
    }
    if (!function) {
        (void)snprintf(text, capacity, "%.400s; it is built where configure finds CUDA and its cuBLAS", dlerror());
        return text;
    }
    *module_out = function();
    return NULL;
}
