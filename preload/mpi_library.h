/* SPDX-License-Identifier: Apache-2.0 */
/* The MPI that the process has loaded, as the interposer sees it: free of mpi.h, in all of which MPIs differ. No symbol of MPI is
   linked, so that processes without MPI, a shell or the launcher, bear the interposer, and so do those that load MPI late and for
   themselves, as Python does. */
#ifndef PRELOAD_MPI_LIBRARY_H
#define PRELOAD_MPI_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

#include "calls.h"
#include "sites.h"

/* What the interposer itself has reduced. */
typedef enum preload_reduction { PRELOAD_MAX_INT, PRELOAD_MAX_DOUBLE, PRELOAD_SUM_FLOAT, PRELOAD_REDUCTIONS } preload_reduction_t;

/* shim.c, which is compiled for each MPI. Handles are C's, in a uintptr_t. What returns bool fails where MPI reports an error. */
typedef struct preload_mpi {
    const char *sign;    /* a symbol that only it has */
    const char *library; /* the libtacit_mpi for it */
    bool (*find)(void);  /* before all that follows; false: functions are missing */

    /* Of a call, whose handles may be wrong, so that MPI is not asked about it: its communicator, and the tacit_dtype_t that it
       sums; -1: it is something else. */
    uintptr_t (*comm_of)(const preload_call_t *call);
    int (*dtype_of)(const preload_call_t *call);
    /* Whether a send buffer says MPI_IN_PLACE, which in Fortran is a variable; whether that can be told. */
    bool (*is_in_place)(const void *in, bool fortran);
    bool (*knows_in_place)(bool fortran);
    /* Writes type and operation of a call that has succeeded. Whether the program cannot free them. */
    bool (*describe_call)(const preload_call_t *call, preload_key_t *key);

    /* What is known of a communicator, as an attribute; *group_out is NULL where it has none. preload_forget() is called before
       it ends. */
    bool (*get_group)(uintptr_t comm, preload_group_t **group_out);
    bool (*set_group)(uintptr_t comm, preload_group_t *group);
    bool (*describe_comm)(uintptr_t comm, preload_group_t *group);

    uintptr_t (*world)(void);
    int (*rank)(uintptr_t comm);
    bool (*reduce)(preload_reduction_t reduction, const void *in, void *out, int count, uintptr_t comm);
    bool (*barrier)(uintptr_t comm);
    bool (*begin_reduce)(preload_reduction_t reduction, const void *in, void *out, int count, uintptr_t comm,
                         uintptr_t *request_out);
    bool (*test)(uintptr_t *request, bool *done_out);
    /* Calls a communicator's error handler, and returns what it was told. */
    int (*raise)(uintptr_t comm);
} preload_mpi_t;

/* The MPI that Tacit was configured for, and the other one. */
extern const preload_mpi_t preload_shim, preload_shim_mpich;

/* NULL where the process has none, or one that this was not built for, which is said once. */
const preload_mpi_t *preload_mpi(void);

#endif
