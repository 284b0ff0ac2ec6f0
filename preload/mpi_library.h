/* SPDX-License-Identifier: Apache-2.0 */
/* The MPI that the process has loaded: its functions and its handles, found by name. No symbol of MPI is linked, so that
   processes without MPI, a shell or the launcher, bear the interposer, and so do those that load MPI late and for themselves, as
   Python does. */
#ifndef PRELOAD_MPI_LIBRARY_H
#define PRELOAD_MPI_LIBRARY_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

/* Functions that the interposer calls, always as PMPI_NAME. */
#define PRELOAD_MPI_FUNCTIONS(X)                                                                                                 \
    X(Allreduce)                                                                                                                 \
    X(Barrier)                                                                                                                   \
    X(Comm_call_errhandler)                                                                                                      \
    X(Comm_compare)                                                                                                              \
    X(Comm_create_keyval)                                                                                                        \
    X(Comm_get_attr)                                                                                                             \
    X(Comm_rank)                                                                                                                 \
    X(Comm_set_attr)                                                                                                             \
    X(Comm_size)                                                                                                                 \
    X(Comm_test_inter)                                                                                                           \
    X(Iallreduce)                                                                                                                \
    X(Ibarrier)                                                                                                                  \
    X(Test)                                                                                                                      \
    X(Type_get_envelope)                                                                                                         \
    X(Type_get_name)                                                                                                             \
    X(Type_size)

typedef struct preload_mpi {
#define PRELOAD_MPI_FUNCTION(name) __typeof__(&PMPI_##name) name;
    PRELOAD_MPI_FUNCTIONS(PRELOAD_MPI_FUNCTION)
#undef PRELOAD_MPI_FUNCTION
    MPI_Comm     null, world, self;
    MPI_Datatype type_null, type_float, type_double, type_int;
    MPI_Op       op_max, op_min, op_sum;
} preload_mpi_t;

/* NULL where the process has none, or one of another kind than this was compiled for, which is said once. */
const preload_mpi_t *preload_mpi(void);
/* "MPI_SUM"; "user" for what is not predefined. */
const char *preload_op_name(MPI_Op op);

/* Of a predefined type that the library reduces, a tacit_dtype_t; else -1. Asks MPI nothing, which may hold the handle for a bad
   one. */
int preload_dtype(MPI_Datatype type);
/* Whether a caller's send buffer says MPI_IN_PLACE, which in Fortran is a variable. */
bool preload_is_in_place(const void *in, bool fortran);
/* Whether that can be told. */
bool preload_knows_in_place(bool fortran);

/* Handles as callers pass them, in C or in Fortran. */
MPI_Comm     preload_comm(uintptr_t handle, bool fortran);
MPI_Datatype preload_type(uintptr_t handle, bool fortran);
MPI_Op       preload_op(uintptr_t handle, bool fortran);

#endif
