/* SPDX-License-Identifier: Apache-2.0 */
/* As much of cuBLAS as the examples call, on the CPU, by CBLAS: for kernels that run in emulation. */
#ifndef TACIT_TEST_CUBLAS_H
#define TACIT_TEST_CUBLAS_H

#include <cblas.h>

typedef void *cublasHandle_t;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_INVALID_VALUE = 7 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };

inline const char *cublasGetStatusString(cublasStatus_t)
{
    return "an invalid value";
}

inline cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    *handle = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasDestroy(cublasHandle_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

inline CBLAS_TRANSPOSE in_cblas(cublasOperation_t operation)
{
    return operation == CUBLAS_OP_T ? CblasTrans : CblasNoTrans;
}

/* A stride that is less than a row, and so an error of cuBLAS's, is one here. */
inline cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,
                                                int k, const float *alpha, const float *a, int lda, long long apart_a,
                                                const float *b, int ldb, long long apart_b, const float *beta, float *c, int ldc,
                                                long long apart_c, int batch)
{
    if (lda < (op_a == CUBLAS_OP_N ? m : k) || ldb < (op_b == CUBLAS_OP_N ? k : n) || ldc < m) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    for (long long i = 0; i < batch; i++) {
        cblas_sgemm(CblasColMajor, in_cblas(op_a), in_cblas(op_b), m, n, k, *alpha, a + i * apart_a, lda, b + i * apart_b, ldb,
                    *beta, c + i * apart_c, ldc);
    }
    return CUBLAS_STATUS_SUCCESS;
}

#endif
