/* SPDX-License-Identifier: Apache-2.0 */
/* Which calls go by Tacit, and by which slot. Everything is decided by what MPI requires to be the same on all ranks, and by what
   they have agreed upon. */
#ifndef PRELOAD_POLICY_H
#define PRELOAD_POLICY_H

#include "mpi_library.h"
#include "sites.h"

/* A sum of floating-point numbers over several ranks of an intracommunicator. */
typedef struct preload_sum {
    uintptr_t       comm;
    preload_site_t *site; /* of this rank; NULL: there was no room */
    const void     *in;   /* `out`: in place */
    void           *out;
    size_t          count;
    int             dtype; /* a tacit_dtype_t */
    bool            clear; /* this rank can tell whether it is in place */
} preload_sum_t;

/* Reduces it. False: MPI is to do it, and nothing has happened; all ranks return the same. Otherwise *status is what the caller
   gets, or PRELOAD_RAISES. Every sum on the communicator comes here. */
bool preload_reduce(const preload_mpi_t *mpi, preload_group_t *group, const preload_sum_t *sum, int *status);
/* Ends what a communicator has here: before it is freed, or all of them are: NULL. */
void preload_end(preload_group_t *group);

#endif
