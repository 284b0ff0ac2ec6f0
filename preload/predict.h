/* SPDX-License-Identifier: Apache-2.0 */
/* What all-reduces would take with a spec, measured where the program has just run. */
#ifndef PRELOAD_PREDICT_H
#define PRELOAD_PREDICT_H

#include <stdint.h>

#include "mpi_library.h"

/* What is tried: the MPI's own all-reduce first, then specs. */
enum { PRELOAD_SITES = 3, PRELOAD_TRIED = 5 };
extern const char *const preload_tried[PRELOAD_TRIED];

typedef struct preload_measured {
    int    trials;  /* 0: it failed */
    double seconds; /* of one call on the slowest rank: their median */
} preload_measured_t;

/* Measures sums of counts[i] float32 of rank 0 (0: nothing) over MPI_COMM_WORLD. Collective over it: every rank comes here once,
   before MPI_Finalize(); where one does not in time, nothing is measured. Writes why nothing was, or not all, into `why`, and
   nothing if all was. *waited_out: of what this rank spent in sums, the seconds that it waited for others to come; less than 0:
   it is not known. */
void preload_predict(const preload_mpi_t *mpi, const uint64_t counts[PRELOAD_SITES], double *waited_out,
                     preload_measured_t measured_out[PRELOAD_SITES][PRELOAD_TRIED], char why[256]);

#endif
