/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of MPI in C that the interposer takes the place of. Without mpi.h, since callers have one of several: handles are
   as wide as they may be, in registers, of which an MPI whose handles are narrower looks at a part. */
#include <stddef.h>

#include "calls.h"
#include "next.h"

typedef int allreduce_t(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm);
typedef int iallreduce_t(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request);
typedef int allreduce_c_t(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm);
typedef int iallreduce_c_t(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request);
typedef int finalize_t(void);

PRELOAD_API allreduce_t    MPI_Allreduce;
PRELOAD_API iallreduce_t   MPI_Iallreduce;
PRELOAD_API allreduce_c_t  MPI_Allreduce_c;
PRELOAD_API iallreduce_c_t MPI_Iallreduce_c;
PRELOAD_API finalize_t     MPI_Finalize;

int MPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    static preload_next_t next = {.name = "MPI_Allreduce", .own = "PMPI_Allreduce"};
    allreduce_t          *function = preload_next(&next);
    const preload_call_t  call = {preload_allreduce, (uint64_t)count, comm, type, op, false};
    const uint64_t        entered = preload_enter();
    int                   status = PRELOAD_NO_MPI;

    if (function != NULL && !preload_take(&call, in, out, &status)) {
        status = function(in, out, count, type, op, comm);
    }
    preload_leave(entered, &call, status == 0);
    return status;
}

int MPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    static preload_next_t next = {.name = "MPI_Iallreduce", .own = "PMPI_Iallreduce"};
    iallreduce_t         *function = preload_next(&next);
    const uint64_t        entered = preload_enter();
    const int             status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;

    preload_leave(entered, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}

/* ---- With counts of 64 bits (MPI 4) ---- */

/* Which of the MPIs that this may serve have them is not known before one is there. So the names are there for all of them, and
   what an int can count is done by the functions that every MPI has. */
int MPI_Allreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    static preload_next_t next = {.name = "MPI_Allreduce_c", .own = "PMPI_Allreduce_c"};
    allreduce_c_t        *function;
    uint64_t              entered;
    int                   status;

    if (count == (int)count) {
        return MPI_Allreduce(in, out, (int)count, type, op, comm);
    }
    function = preload_next(&next);
    entered = preload_enter();
    status = function != NULL ? function(in, out, count, type, op, comm) : PRELOAD_NO_MPI;
    preload_leave(entered, &(preload_call_t){preload_allreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}

int MPI_Iallreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    static preload_next_t next = {.name = "MPI_Iallreduce_c", .own = "PMPI_Iallreduce_c"};
    iallreduce_c_t       *function;
    uint64_t              entered;
    int                   status;

    if (count == (int)count) {
        return MPI_Iallreduce(in, out, (int)count, type, op, comm, request);
    }
    function = preload_next(&next);
    entered = preload_enter();
    status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;
    preload_leave(entered, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status == 0);
    return status;
}

int MPI_Finalize(void)
{
    static preload_next_t next = {.name = "MPI_Finalize", .own = "PMPI_Finalize"};
    finalize_t           *function = preload_next(&next);

    if (function == NULL) {
        return PRELOAD_NO_MPI;
    }
    preload_finish();
    return function();
}
