/* SPDX-License-Identifier: Apache-2.0 */
/* A rank that comes late to a sum: of preload.sh. Says what the others' error handlers were told. */
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

static int told;

static void handle(MPI_Comm *comm, int *status, ...)
{
    (void)comm;
    told = *status;
}

int main(int argc, char **argv)
{
    static float   values[4096];
    int            rank, status;
    MPI_Errhandler handler;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_create_errhandler(handle, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    MPI_Allreduce(MPI_IN_PLACE, values, 4096, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 1) {
        usleep(900000);
    }
    status = MPI_Allreduce(MPI_IN_PLACE, values, 4096, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    /* In one write each, since MPICH's ranks have no buffer for it. */
    fputs(status == MPI_SUCCESS && told == 0 ? "right\n" : status == told ? "told\n" : "wrong\n", stdout);
    MPI_Finalize();
    return 0;
}
