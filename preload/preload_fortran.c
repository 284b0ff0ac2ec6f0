/* SPDX-License-Identifier: Apache-2.0 */
/* The same functions as Fortran programs call them: by the names that compilers make of them, and by those of mpi_f08. MPI's own
   may lead straight to PMPI_Allreduce(), so that functions of C alone would never see them. Everything is an address here. Those
   that take descriptors are left out (mpi_allreduce_f08ts_): MPICH's lead to C's, where buffers are addresses again. */
#include <stdbool.h>
#include <stddef.h>

#include "calls.h"
#include "next.h"

typedef void allreduce_t(void *in, void *out, int *count, int *type, int *op, int *comm, int *error);
typedef void iallreduce_t(void *in, void *out, int *count, int *type, int *op, int *comm, void *request, int *error);
typedef void finalize_t(int *error);

static preload_call_t call_of(const char *function, const int *count, const int *type, const int *op, const int *comm)
{
    return (preload_call_t){function, (uint64_t)*count, (uintptr_t)*comm, (uintptr_t)*type, (uintptr_t)*op, true};
}

/* mpi_f08's callers may leave `error` out: it is then NULL. */
static void reduce(preload_next_t *next, void *in, void *out, int *count, int *type, int *op, int *comm, int *error)
{
    allreduce_t         *function = preload_next(next);
    const preload_call_t call = call_of(preload_allreduce, count, type, op, comm);
    int                  own = 0, *status = error != NULL ? error : &own;
    preload_entry_t      entry;

    preload_enter(&entry);
    *status = PRELOAD_NO_MPI;
    if (function != NULL && !preload_take(&entry, &call, in, out, status)) {
        function(in, out, count, type, op, comm, status);
    }
    *status = preload_leave(&entry, &call, *status);
}

static void start(preload_next_t *next, void *in, void *out, int *count, int *type, int *op, int *comm, void *request, int *error)
{
    iallreduce_t        *function = preload_next(next);
    const preload_call_t call = call_of(preload_iallreduce, count, type, op, comm);
    int                  own = 0, *status = error != NULL ? error : &own;
    preload_entry_t      entry;

    preload_enter(&entry);
    *status = PRELOAD_NO_MPI;
    if (function != NULL) {
        function(in, out, count, type, op, comm, request, status);
    }
    *status = preload_leave(&entry, &call, *status);
}

static void finalize(preload_next_t *next, int *error)
{
    finalize_t *function = preload_next(next);

    if (function != NULL) {
        preload_finish();
        function(error);
    } else if (error != NULL) {
        *error = PRELOAD_NO_MPI;
    }
}

/* One name: its declaration and its function. MPI's own begins with P, as it is written. */
#define ALLREDUCE(symbol, p)                                                                                                     \
    PRELOAD_API allreduce_t symbol;                                                                                              \
    void                    symbol(void *in, void *out, int *count, int *type, int *op, int *comm, int *error)                   \
    {                                                                                                                            \
        static preload_next_t next = {.name = #symbol, .own = p #symbol};                                                        \
        reduce(&next, in, out, count, type, op, comm, error);                                                                    \
    }
#define IALLREDUCE(symbol, p)                                                                                                    \
    PRELOAD_API iallreduce_t symbol;                                                                                             \
    void                     symbol(void *in, void *out, int *count, int *type, int *op, int *comm, void *request, int *error)   \
    {                                                                                                                            \
        static preload_next_t next = {.name = #symbol, .own = p #symbol};                                                        \
        start(&next, in, out, count, type, op, comm, request, error);                                                            \
    }
#define FINALIZE(symbol, p)                                                                                                      \
    PRELOAD_API finalize_t symbol;                                                                                               \
    void                   symbol(int *error)                                                                                    \
    {                                                                                                                            \
        static preload_next_t next = {.name = #symbol, .own = p #symbol};                                                        \
        finalize(&next, error);                                                                                                  \
    }

ALLREDUCE(MPI_ALLREDUCE, "P")
ALLREDUCE(mpi_allreduce, "p")
ALLREDUCE(mpi_allreduce_, "p")
ALLREDUCE(mpi_allreduce__, "p")
ALLREDUCE(mpi_allreduce_f08_, "p")
IALLREDUCE(MPI_IALLREDUCE, "P")
IALLREDUCE(mpi_iallreduce, "p")
IALLREDUCE(mpi_iallreduce_, "p")
IALLREDUCE(mpi_iallreduce__, "p")
IALLREDUCE(mpi_iallreduce_f08_, "p")
FINALIZE(MPI_FINALIZE, "P")
FINALIZE(mpi_finalize, "p")
FINALIZE(mpi_finalize_, "p")
FINALIZE(mpi_finalize__, "p")
FINALIZE(mpi_finalize_f08_, "p")
