/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-info under mpirun: makes a communicator of all ranks, and rank 0 prints what these have found. */
#include <stdio.h>
#include <stdlib.h>

#include <mpi.h>
#include <tacit_mpi.h>

#include "comm.h"
#include "info.h"

/* Launchers say so to each of their processes: of PMIx, such as Open MPI's, or of PMI, such as MPICH's. */
bool is_launched(void)
{
    return getenv("PMIX_RANK") != NULL || getenv("PMI_RANK") != NULL;
}

int print_ranks(const info_t *info)
{
    const bool     titles = info->itself != NULL && !info->json;
    tacit_comm_t  *comm = NULL;
    tacit_status_t status;
    int            rank;

    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0 && info->itself != NULL) {
        info->itself();
    }
    TRY(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    if (rank == 0 && info->topology) {
        fputs(titles ? "\ntopology\n" : "", stdout);
        print_topology(comm, info->json);
    }
    if (info->plans) {
        fputs(rank == 0 && titles ? "\nplans\n" : "", stdout);
        TRY(print_plans(comm, info->specs, info->json));
    }
out:
    if (status != TACIT_OK && rank == 0) {
        fprintf(stderr, "tacit-info: %s\n", tacit_last_error());
    }
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return status == TACIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
