/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of MPI in C that the interposer takes the place of. Without mpi.h, since callers have one of several: handles are
   as wide as they may be, in registers, of which an MPI whose handles are narrower looks at a part.

   Names with P are called by other tools, which a program is linked with, or which are preloaded in front of this. Calls that
   come by way of the names without are inside of those, and are passed on. */
#include <stddef.h>

#include "calls.h"
#include "next.h"

typedef int allreduce_t(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm);
typedef int iallreduce_t(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request);
typedef int allreduce_c_t(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm);
typedef int iallreduce_c_t(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request);
typedef int finalize_t(void);

PRELOAD_API allreduce_t    MPI_Allreduce, PMPI_Allreduce;
PRELOAD_API iallreduce_t   MPI_Iallreduce, PMPI_Iallreduce;
PRELOAD_API allreduce_c_t  MPI_Allreduce_c;
PRELOAD_API iallreduce_c_t MPI_Iallreduce_c;
PRELOAD_API finalize_t     MPI_Finalize, PMPI_Finalize;

#define NEXT(variable, symbol, profiling) static preload_next_t variable = {.name = #symbol, .own = #profiling}
NEXT(allreduce, MPI_Allreduce, PMPI_Allreduce);
NEXT(iallreduce, MPI_Iallreduce, PMPI_Iallreduce);
NEXT(allreduce_c, MPI_Allreduce_c, PMPI_Allreduce_c);
NEXT(iallreduce_c, MPI_Iallreduce_c, PMPI_Iallreduce_c);
NEXT(finalize, MPI_Finalize, PMPI_Finalize);
NEXT(profiling_allreduce, PMPI_Allreduce, PMPI_Allreduce);
NEXT(profiling_iallreduce, PMPI_Iallreduce, PMPI_Iallreduce);
NEXT(profiling_finalize, PMPI_Finalize, PMPI_Finalize);

static int reduce(preload_next_t *next, const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    allreduce_t         *function = preload_next(next);
    const preload_call_t call = {preload_allreduce, (uint64_t)count, comm, type, op, false};
    preload_entry_t      entry;
    int                  status = PRELOAD_NO_MPI;

    preload_enter(&entry);
    if (function != NULL && !preload_take(&entry, &call, in, out, &status)) {
        status = function(in, out, count, type, op, comm);
    }
    return preload_leave(&entry, &call, status);
}

static int start(preload_next_t *next, const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm,
                 void *request)
{
    iallreduce_t   *function = preload_next(next);
    preload_entry_t entry;
    int             status;

    preload_enter(&entry);
    status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;
    return preload_leave(&entry, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status);
}

static int finish(preload_next_t *next)
{
    finalize_t *function = preload_next(next);

    if (function == NULL) {
        return PRELOAD_NO_MPI;
    }
    preload_finish();
    return function();
}

int MPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    return reduce(&allreduce, in, out, count, type, op, comm);
}

int PMPI_Allreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    return reduce(&profiling_allreduce, in, out, count, type, op, comm);
}

int MPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    return start(&iallreduce, in, out, count, type, op, comm, request);
}

int PMPI_Iallreduce(const void *in, void *out, int count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    return start(&profiling_iallreduce, in, out, count, type, op, comm, request);
}

int MPI_Finalize(void)
{
    return finish(&finalize);
}

int PMPI_Finalize(void)
{
    return finish(&profiling_finalize);
}

/* ---- With counts of 64 bits (MPI 4) ---- */

/* Which of the MPIs that this may serve have them is not known before one is there. So the names are there for all of them, and
   what an int can count is done by the functions that every MPI has. */
int MPI_Allreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm)
{
    allreduce_c_t  *function;
    preload_entry_t entry;
    int             status;

    if (count == (int)count) {
        return reduce(&allreduce, in, out, (int)count, type, op, comm);
    }
    function = preload_next(&allreduce_c);
    preload_enter(&entry);
    status = function != NULL ? function(in, out, count, type, op, comm) : PRELOAD_NO_MPI;
    return preload_leave(&entry, &(preload_call_t){preload_allreduce, (uint64_t)count, comm, type, op, false}, status);
}

int MPI_Iallreduce_c(const void *in, void *out, int64_t count, uintptr_t type, uintptr_t op, uintptr_t comm, void *request)
{
    iallreduce_c_t *function;
    preload_entry_t entry;
    int             status;

    if (count == (int)count) {
        return start(&iallreduce, in, out, (int)count, type, op, comm, request);
    }
    function = preload_next(&iallreduce_c);
    preload_enter(&entry);
    status = function != NULL ? function(in, out, count, type, op, comm, request) : PRELOAD_NO_MPI;
    return preload_leave(&entry, &(preload_call_t){preload_iallreduce, (uint64_t)count, comm, type, op, false}, status);
}
