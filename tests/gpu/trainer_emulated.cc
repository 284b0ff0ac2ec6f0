/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels that train a transformer, compiled for the CPU. */
#define TACIT_EMULATED 1

#include "../../examples/gpu_module.cu"
#include "../../examples/gpu_transformer.cu"
