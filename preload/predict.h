/* SPDX-License-Identifier: Apache-2.0 */
/* What all-reduces would take with a spec, measured where the program has just run. */
#ifndef PRELOAD_PREDICT_H
#define PRELOAD_PREDICT_H

#include <stdint.h>

#include "mpi_library.h"

enum { PRELOAD_SITES = 3, PRELOAD_SPECS = 4 };
extern const char *const preload_specs[PRELOAD_SPECS];

/* Seconds of one call, on the slowest rank: the medians of so many trials. None: the spec failed. */
typedef struct preload_measured {
    int    trials;
    double native, compressed;
} preload_measured_t;

/* Measures sums of counts[i] float32 of rank 0 over MPI_COMM_WORLD (0: nothing), natively and by each spec. Collective over it:
   every rank comes here once, before MPI_Finalize(); where one does not in time, nothing is measured. Writes why nothing was, or
   not all, into `why`, and nothing if all was. */
void preload_predict(const preload_mpi_t *mpi, const uint64_t counts[PRELOAD_SITES],
                     preload_measured_t measured_out[PRELOAD_SITES][PRELOAD_SPECS], char why[256]);

#endif
