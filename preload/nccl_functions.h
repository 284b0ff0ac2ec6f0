/* SPDX-License-Identifier: Apache-2.0 */
/* The NCCL that the process has loaded, found by name; and as much of its header as is needed, which is the same in all versions.
   Handles are pointers. */
#ifndef PRELOAD_NCCL_FUNCTIONS_H
#define PRELOAD_NCCL_FUNCTIONS_H

#include <stdbool.h>
#include <stddef.h>

enum {
    NCCL_SUCCESS = 0, /* ncclResult_t */
    NCCL_SYSTEM_ERROR = 2,
    NCCL_IN_PROGRESS = 7,

    NCCL_INT32 = 2, /* ncclDataType_t */
    NCCL_FLOAT16 = 6,
    NCCL_FLOAT32 = 7,
    NCCL_BFLOAT16 = 9,
    NCCL_TYPES = 12,

    NCCL_SUM = 0, /* ncclRedOp_t */
    NCCL_MAX = 2,
    NCCL_AVG = 4,
    NCCL_OPS = 5,

    PRELOAD_SHRINK_ABORT = 1 /* NCCL_SHRINK_ABORT, which is a macro where there is one */
};

/* field, name, arguments */
#define PRELOAD_NCCL_FUNCTIONS(X)                                                                                                \
    X(all_reduce, "ncclAllReduce", (const void *in, void *out, size_t count, int dtype, int op, void *comm, void *stream))       \
    X(count, "ncclCommCount", (void *comm, int *ranks_out))                                                                      \
    X(device, "ncclCommCuDevice", (void *comm, int *device_out))                                                                 \
    X(async_error, "ncclCommGetAsyncError", (void *comm, int *error_out))                                                        \
    X(user_rank, "ncclCommUserRank", (void *comm, int *rank_out))                                                                \
    X(group_end, "ncclGroupEnd", (void))                                                                                         \
    X(group_start, "ncclGroupStart", (void))

typedef struct preload_nccl {
#define PRELOAD_NCCL_FIELD(field, name, arguments) int(*field) arguments;
    PRELOAD_NCCL_FUNCTIONS(PRELOAD_NCCL_FIELD)
#undef PRELOAD_NCCL_FIELD
} preload_nccl_t;

/* Of the library that calls are passed on to. NULL where it lacks some, which is said once. */
const preload_nccl_t *preload_nccl(void);

static inline bool nccl_is_good(int status)
{
    return status == NCCL_SUCCESS || status == NCCL_IN_PROGRESS;
}

#endif
