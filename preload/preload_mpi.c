/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of MPI in C that the interposer takes the place of. Without mpi.h, since a caller may have another MPI's. */
#include <stddef.h>

#include "calls.h"
#include "next.h"

PRELOAD_API int MPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm);
PRELOAD_API int MPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request);
PRELOAD_API int MPI_Finalize(void);

int MPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    static preload_next_t      next = {.name = "MPI_Allreduce", .own = "PMPI_Allreduce"};
    __typeof__(&MPI_Allreduce) function = preload_next(&next);
    const preload_call_t       call = {preload_allreduce, (uint64_t)count, comm, type, op, false};
    const uint64_t             entered = preload_enter();
    int                        status = PRELOAD_NO_MPI;

    if (function != NULL && !preload_take(&call, in, out, &status)) {
        status = function(in, out, count, type, op, comm);
    }
    preload_leave(entered, &call, status == 0);
    return status;
}

int MPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    static preload_next_t       next = {.name = "MPI_Iallreduce", .own = "PMPI_Iallreduce"};
    __typeof__(&MPI_Iallreduce) function = preload_next(&next);
    const uint64_t              entered = preload_enter();
    const int                   status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;

    preload_leave(entered, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}

int MPI_Finalize(void)
{
    static preload_next_t     next = {.name = "MPI_Finalize", .own = "PMPI_Finalize"};
    __typeof__(&MPI_Finalize) function = preload_next(&next);

    if (function == NULL) {
        return PRELOAD_NO_MPI;
    }
    preload_finish();
    return function();
}
