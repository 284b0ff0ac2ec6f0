/* SPDX-License-Identifier: Apache-2.0 */
/* What GPU tests begin with: is there one? Check's fork() is off, since a child cannot use the CUDA of its parent. */
#ifndef TESTS_GPU_H
#define TESTS_GPU_H

#include "cuda_module.h"

#include <stdio.h>
#include <stdlib.h>

enum { GPU_SKIPPED = 77 }; /* automake's word for it */

/* Prints why the test is skipped, where there is no GPU. */
static inline bool gpu_is_missing(void)
{
    const tacit_cuda_module_t *module;

    setenv("CK_FORK", "no", 1);
    if (tacit__cuda_module(&module) == TACIT_OK) {
        return false;
    }
    printf("skipped: %s\n", tacit_last_error());
    return true;
}

#endif
