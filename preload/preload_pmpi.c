/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of preload_mpi.c by the names that other tools call, which a program is linked with, or which are preloaded in
   front of this. Calls that come by way of preload_mpi.c are inside of those, and are passed on. */
#include <stddef.h>

#include "calls.h"
#include "next.h"

PRELOAD_API int PMPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm);
PRELOAD_API int PMPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm,
                                void *request);
PRELOAD_API int PMPI_Finalize(void);

int PMPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    static preload_next_t       next = {.name = "PMPI_Allreduce", .own = "PMPI_Allreduce"};
    __typeof__(&PMPI_Allreduce) function = preload_next(&next);
    const preload_call_t        call = {preload_allreduce, (uint64_t)count, comm, type, op, false};
    const uint64_t              entered = preload_enter();
    int                         status = PRELOAD_NO_MPI;

    if (function != NULL && !preload_take(&call, in, out, &status)) {
        status = function(in, out, count, type, op, comm);
    }
    preload_leave(entered, &call, status == 0);
    return status;
}

int PMPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    static preload_next_t        next = {.name = "PMPI_Iallreduce", .own = "PMPI_Iallreduce"};
    __typeof__(&PMPI_Iallreduce) function = preload_next(&next);
    const uint64_t               entered = preload_enter();
    const int                    status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;

    preload_leave(entered, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}

int PMPI_Finalize(void)
{
    static preload_next_t      next = {.name = "PMPI_Finalize", .own = "PMPI_Finalize"};
    __typeof__(&PMPI_Finalize) function = preload_next(&next);

    if (function == NULL) {
        return PRELOAD_NO_MPI;
    }
    preload_finish();
    return function();
}
