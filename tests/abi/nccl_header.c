/* SPDX-License-Identifier: Apache-2.0 */
/* What the interposer takes for granted of nccl.h, held against the one that is installed: of preload_nccl.sh. It only has to
   compile. */
#include <nccl.h>

#include "nccl_functions.h"

_Static_assert(ncclSuccess == NCCL_SUCCESS && ncclSystemError == NCCL_SYSTEM_ERROR && ncclInProgress == NCCL_IN_PROGRESS,
               "ncclResult_t");
_Static_assert(ncclInt32 == NCCL_INT32 && ncclFloat16 == NCCL_FLOAT16 && ncclFloat32 == NCCL_FLOAT32 &&
                   ncclBfloat16 == NCCL_BFLOAT16 && ncclNumTypes <= NCCL_TYPES,
               "ncclDataType_t");
_Static_assert(ncclSum == NCCL_SUM && ncclMax == NCCL_MAX && ncclAvg == NCCL_AVG && ncclNumOps == NCCL_OPS, "ncclRedOp_t");
_Static_assert(sizeof(ncclDataType_t) == sizeof(int) && sizeof(ncclRedOp_t) == sizeof(int) &&
                   sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclComm_t) == sizeof(void *) &&
                   sizeof(cudaStream_t) == sizeof(void *),
               "how arguments are passed");

/* Those that it takes the place of, … */
ncclResult_t (*all_gather)(const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t) = ncclAllGather;
ncclResult_t (*all_reduce)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) = ncclAllReduce;
ncclResult_t (*reduce_scatter)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                               cudaStream_t) = ncclReduceScatter;
ncclResult_t (*group_start)(void) = ncclGroupStart;
ncclResult_t (*group_end)(void) = ncclGroupEnd;
ncclResult_t (*finalize)(ncclComm_t) = ncclCommFinalize;
ncclResult_t (*destroy)(ncclComm_t) = ncclCommDestroy;
ncclResult_t (*give_up)(ncclComm_t) = ncclCommAbort;
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 22, 0)
ncclResult_t (*simulate)(ncclSimInfo_t *) = ncclGroupSimulateEnd;
#endif
#ifdef NCCL_SHRINK_DEFAULT
_Static_assert(NCCL_SHRINK_ABORT == PRELOAD_SHRINK_ABORT, "flags");
ncclResult_t (*shrink)(ncclComm_t, int *, int, ncclComm_t *, ncclConfig_t *, int) = ncclCommShrink;
#endif
#ifdef NCCL_REVOKE_DEFAULT
ncclResult_t (*revoke)(ncclComm_t, int) = ncclCommRevoke;
#endif

/* … that are behind these names, too, … */
ncclResult_t (*profiled)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) = pncclAllReduce;

/* … and those that it calls. */
ncclResult_t (*count)(const ncclComm_t, int *) = ncclCommCount;
ncclResult_t (*device)(const ncclComm_t, int *) = ncclCommCuDevice;
ncclResult_t (*rank)(const ncclComm_t, int *) = ncclCommUserRank;
ncclResult_t (*async_error)(ncclComm_t, ncclResult_t *) = ncclCommGetAsyncError;
