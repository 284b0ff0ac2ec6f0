/* SPDX-License-Identifier: Apache-2.0 */
/* Another tool, which is linked into a program: of preload.sh. Counts sums of floats over all ranks; Tacit's are on
   communicators of its own. */
#include <mpi.h>
#include <stdio.h>

static int calls;

int MPI_Allreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    if (type == MPI_FLOAT && op == MPI_SUM && comm == MPI_COMM_WORLD) {
        calls++;
    }
    return PMPI_Allreduce(in, out, count, type, op, comm);
}

int MPI_Finalize(void)
{
    int rank;

    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) {
        printf("counted %d\n", calls);
        fflush(stdout);
    }
    return PMPI_Finalize();
}
