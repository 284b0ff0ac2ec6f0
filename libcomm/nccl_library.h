/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL, libnccl: the functions that are called of it, found when the first of them is needed; and as much of its header as they
   take, which is the same from 2.18 on. */
#ifndef TACIT_NCCL_LIBRARY_H
#define TACIT_NCCL_LIBRARY_H

#include "internal.h" /* first: it includes config.h */

#include "tacit_nccl.h"

enum {
    TACIT_NCCL_OLDEST = 21800, /* the first that has ncclCommSplit */

    TACIT_NCCL_SUCCESS = 0, /* ncclResult_t */
    TACIT_NCCL_IN_PROGRESS = 7,

    TACIT_NCCL_UINT8 = 1, /* ncclDataType_t */
    TACIT_NCCL_FLOAT16 = 6,
    TACIT_NCCL_FLOAT32 = 7,
    TACIT_NCCL_BFLOAT16 = 9,

    TACIT_NCCL_SUM = 0, /* ncclRedOp_t */
    TACIT_NCCL_AVG = 4,

    TACIT_NCCL_NO_COLOR = -1 /* NCCL_SPLIT_NOCOLOR */
};

/* The ncclConfig_t of 2.14, of which this is all that is set here. Its size and version tell a later NCCL to take defaults for
   what came after it. */
typedef struct tacit_nccl_config {
    size_t   struct_bytes;
    unsigned magic, version;
    int      blocking, unset;
} tacit_nccl_config_t;

#define TACIT_NCCL_CONFIG_INIT                                                                                                   \
    {                                                                                                                            \
        sizeof(tacit_nccl_config_t), 0xcafebeef, 21400, 0, INT32_MIN                                                             \
    }

/* field, symbol, result, arguments. Of a communicator NCCL knows more than we do: it is a pointer. */
#define TACIT_NCCL_FUNCTIONS(X)                                                                                                  \
    X(get_version, "ncclGetVersion", int, (int *version_out))                                                                    \
    X(get_id, "ncclGetUniqueId", int, (tacit_nccl_id_t * id_out))                                                                \
    X(init, "ncclCommInitRankConfig", int,                                                                                       \
      (void **comm_out, int ranks, tacit_nccl_id_t id, int rank, tacit_nccl_config_t *config))                                   \
    X(split, "ncclCommSplit", int, (void *comm, int color, int key, void **comm_out, tacit_nccl_config_t *config))               \
    X(finalize, "ncclCommFinalize", int, (void *comm))                                                                           \
    X(destroy, "ncclCommDestroy", int, (void *comm))                                                                             \
    X(give_up, "ncclCommAbort", int, (void *comm))                                                                               \
    X(async_error, "ncclCommGetAsyncError", int, (void *comm, int *error_out))                                                   \
    X(count, "ncclCommCount", int, (void *comm, int *ranks_out))                                                                 \
    X(user_rank, "ncclCommUserRank", int, (void *comm, int *rank_out))                                                           \
    X(error_text, "ncclGetErrorString", const char *, (int error))                                                               \
    X(last_error, "ncclGetLastError", const char *, (void *comm))                                                                \
    X(group_start, "ncclGroupStart", int, (void))                                                                                \
    X(group_end, "ncclGroupEnd", int, (void))                                                                                    \
    X(send, "ncclSend", int, (const void *data, size_t count, int dtype, int peer, void *comm, void *stream))                    \
    X(receive, "ncclRecv", int, (void *data, size_t count, int dtype, int peer, void *comm, void *stream))                       \
    X(all_gather, "ncclAllGather", int, (const void *in, void *out, size_t count, int dtype, void *comm, void *stream))          \
    X(all_reduce, "ncclAllReduce", int, (const void *in, void *out, size_t count, int dtype, int op, void *comm, void *stream))  \
    X(reduce, "ncclReduce", int,                                                                                                 \
      (const void *in, void *out, size_t count, int dtype, int op, int root, void *comm, void *stream))                          \
    X(broadcast, "ncclBroadcast", int, (const void *in, void *out, size_t count, int dtype, int root, void *comm, void *stream))

typedef struct tacit_nccl_library {
#define TACIT_NCCL_FIELD(field, symbol, result, arguments) result(*field) arguments;
    TACIT_NCCL_FUNCTIONS(TACIT_NCCL_FIELD)
#undef TACIT_NCCL_FIELD
    int version;
} tacit_nccl_library_t;

/* It is looked for once in a process, and stays; TACIT_ERR_UNSUPPORTED where there is none: the text says what to do. From any
   thread. */
tacit_status_t tacit__nccl_library(const tacit_nccl_library_t **library_out);
/* Looks for a file of this name: among those that the process has loaded, in the process itself, then as the loader does. */
tacit_status_t tacit__nccl_open(const char *name, tacit_nccl_library_t *library_out);

#endif
