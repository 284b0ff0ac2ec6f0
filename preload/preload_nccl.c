/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of NCCL that the interposer takes the place of. Without nccl.h: any version may be behind them. */
#include "nccl_calls.h"
#include "nccl_policy.h"

PRELOAD_API int ncclAllGather(const void *in, void *out, size_t count, int dtype, void *comm, void *stream);
PRELOAD_API int ncclAllReduce(const void *in, void *out, size_t count, int dtype, int op, void *comm, void *stream);
PRELOAD_API int ncclReduceScatter(const void *in, void *out, size_t count, int dtype, int op, void *comm, void *stream);
PRELOAD_API int ncclGroupStart(void);
PRELOAD_API int ncclGroupEnd(void);
PRELOAD_API int ncclGroupSimulateEnd(void *info);
PRELOAD_API int ncclCommFinalize(void *comm);
PRELOAD_API int ncclCommDestroy(void *comm);
PRELOAD_API int ncclCommAbort(void *comm);
PRELOAD_API int ncclCommRevoke(void *comm, int flags);
PRELOAD_API int ncclCommShrink(void *comm, int *excluded, int count, void **comm_out, void *config, int flags);

#define NAMES(X)                                                                                                                 \
    X(ncclAllGather)                                                                                                             \
    X(ncclAllReduce)                                                                                                             \
    X(ncclReduceScatter)                                                                                                         \
    X(ncclGroupStart)                                                                                                            \
    X(ncclGroupEnd)                                                                                                              \
    X(ncclGroupSimulateEnd)                                                                                                      \
    X(ncclCommFinalize)                                                                                                          \
    X(ncclCommDestroy)                                                                                                           \
    X(ncclCommAbort)                                                                                                             \
    X(ncclCommRevoke)                                                                                                            \
    X(ncclCommShrink)

#define NEXT(symbol) static preload_next_t next_##symbol = {.name = #symbol, .own = "p" #symbol};
NAMES(NEXT)
#undef NEXT

const preload_name_t preload_names[] = {
#define NAME(symbol) {&next_##symbol, (void *)symbol},
    NAMES(NAME)
#undef NAME
        {NULL, NULL},
};

/* What is behind a name; without one, the function ends. */
#define BEHIND(function, symbol)                                                                                                 \
    __typeof__(&symbol) function = preload_next(&next_##symbol);                                                                 \
    if (function == NULL) {                                                                                                      \
        return NCCL_SYSTEM_ERROR;                                                                                                \
    }

static int pass_all_gather(const preload_nccl_call_t *call)
{
    BEHIND(function, ncclAllGather)
    return function(call->in, call->out, call->count, call->dtype, call->comm, call->stream);
}

static int pass_all_reduce(const preload_nccl_call_t *call)
{
    BEHIND(function, ncclAllReduce)
    return function(call->in, call->out, call->count, call->dtype, call->op, call->comm, call->stream);
}

static int pass_reduce_scatter(const preload_nccl_call_t *call)
{
    BEHIND(function, ncclReduceScatter)
    return function(call->in, call->out, call->count, call->dtype, call->op, call->comm, call->stream);
}

static int make(const preload_nccl_call_t *call)
{
    return preload_is_inner() ? call->pass(call) : preload_nccl_call(call);
}

int ncclAllGather(const void *in, void *out, size_t count, int dtype, void *comm, void *stream)
{
    return make(&(preload_nccl_call_t){"ncclAllGather", pass_all_gather, in, out, count, dtype, -1, comm, stream});
}

int ncclAllReduce(const void *in, void *out, size_t count, int dtype, int op, void *comm, void *stream)
{
    return make(&(preload_nccl_call_t){preload_all_reduce, pass_all_reduce, in, out, count, dtype, op, comm, stream});
}

int ncclReduceScatter(const void *in, void *out, size_t count, int dtype, int op, void *comm, void *stream)
{
    return make(&(preload_nccl_call_t){preload_reduce_scatter, pass_reduce_scatter, in, out, count, dtype, op, comm, stream});
}

int ncclGroupStart(void)
{
    BEHIND(function, ncclGroupStart)
    return preload_is_inner() ? function() : preload_nccl_group_start(function);
}

int ncclGroupEnd(void)
{
    BEHIND(function, ncclGroupEnd)
    return preload_is_inner() ? function() : preload_nccl_group_end(function);
}

int ncclGroupSimulateEnd(void *info)
{
    int status = NCCL_SUCCESS;

    BEHIND(function, ncclGroupSimulateEnd)
    if (preload_is_inner()) {
        return function(info);
    }
    status = preload_nccl_give_back();
    status = nccl_is_good(status) ? function(info) : status;
    return preload_nccl_end_kept(status);
}

int ncclCommFinalize(void *comm)
{
    BEHIND(function, ncclCommFinalize)
    return preload_is_inner() ? function(comm) : preload_nccl_end(comm, PRELOAD_FINALIZED, function);
}

int ncclCommDestroy(void *comm)
{
    BEHIND(function, ncclCommDestroy)
    return preload_is_inner() ? function(comm) : preload_nccl_end(comm, PRELOAD_DESTROYED, function);
}

int ncclCommAbort(void *comm)
{
    BEHIND(function, ncclCommAbort)
    return preload_is_inner() ? function(comm) : preload_nccl_end(comm, PRELOAD_ABORTED, function);
}

/* Since NCCL 2.28 and 2.27: the communicator stays, without what is under way in it. */
int ncclCommRevoke(void *comm, int flags)
{
    BEHIND(function, ncclCommRevoke)
    if (!preload_is_inner()) {
        preload_nccl_break_off(comm);
    }
    return function(comm, flags);
}

int ncclCommShrink(void *comm, int *excluded, int count, void **comm_out, void *config, int flags)
{
    BEHIND(function, ncclCommShrink)
    if (!preload_is_inner() && (flags & PRELOAD_SHRINK_ABORT) != 0) {
        preload_nccl_break_off(comm);
    }
    return function(comm, excluded, count, comm_out, config, flags);
}
