/* SPDX-License-Identifier: Apache-2.0 */
/* All kernels, compiled for the CPU. */
#define TACIT_EMULATED 1

#include "../../compressors/cuda/bf16.cu"
#include "../../compressors/cuda/fp16.cu"
#include "../../compressors/cuda/fp8.cu"
#include "../../compressors/cuda/lsh.cu"
#include "../../compressors/cuda/message.cu"
#include "../../compressors/cuda/module.cu"
#include "../../compressors/cuda/none.cu"
#include "../../compressors/cuda/onebit.cu"
#include "../../compressors/cuda/powersgd.cu"
#include "../../compressors/cuda/qsgd.cu"
#include "../../compressors/cuda/randk.cu"
#include "../../compressors/cuda/rotq.cu"
#include "../../compressors/cuda/rows.cu"
#include "../../compressors/cuda/topk_decode.cu"
#include "../../compressors/cuda/topk_index.cu"
#include "../../compressors/cuda/topk_select.cu"
#include "../../compressors/cuda/whole.cu"
