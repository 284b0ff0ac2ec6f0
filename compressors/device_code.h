/* SPDX-License-Identifier: Apache-2.0 */
/* Functions that CUDA kernels share with the CPU: in front of each stands TACIT_DEVICE. Their files are C and C++. */
#ifndef TACIT_DEVICE_CODE_H
#define TACIT_DEVICE_CODE_H

#ifdef __CUDACC__
#define TACIT_DEVICE __host__ __device__
#else
#define TACIT_DEVICE
#endif

#endif
