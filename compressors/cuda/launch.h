/* SPDX-License-Identifier: Apache-2.0 */
/* How kernels are launched. Tests, which run them on the CPU, have another way. */
#ifndef TACIT_CUDA_LAUNCH_H
#define TACIT_CUDA_LAUNCH_H

#ifdef TACIT_EMULATED
#include "emulation.h"
#else
#include <cuda_runtime.h>

/* Nothing where there are no blocks. */
#define TACIT_LAUNCH(kernel, blocks, threads, stream, ...)                                                                       \
    do {                                                                                                                         \
        if ((blocks) != 0) {                                                                                                     \
            kernel<<<(blocks), (threads), 0, (cudaStream_t)(stream)>>>(__VA_ARGS__);                                             \
        }                                                                                                                        \
    } while (0)
#endif

#endif
