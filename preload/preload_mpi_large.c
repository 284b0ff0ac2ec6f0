/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of preload_mpi.c with counts of 64 bits, where the MPI has them (MPI 4): a name that MPI lacks must not seem to
   be there. */
#include <stddef.h>

#include "calls.h"
#include "next.h"

PRELOAD_API int MPI_Allreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm);
PRELOAD_API int MPI_Iallreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm,
                                 void *request);

int MPI_Allreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    static preload_next_t        next = {.name = "MPI_Allreduce_c", .own = "PMPI_Allreduce_c"};
    __typeof__(&MPI_Allreduce_c) function = preload_next(&next);
    const uint64_t               entered = preload_enter();
    const int                    status = function != NULL ? function(in, out, count, type, op, comm) : PRELOAD_NO_MPI;

    preload_leave(entered, &(preload_call_t){preload_allreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}

int MPI_Iallreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    static preload_next_t         next = {.name = "MPI_Iallreduce_c", .own = "PMPI_Iallreduce_c"};
    __typeof__(&MPI_Iallreduce_c) function = preload_next(&next);
    const uint64_t                entered = preload_enter();
    const int                     status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;

    preload_leave(entered, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}
