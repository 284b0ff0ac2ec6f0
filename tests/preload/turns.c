/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that come late to sums in turn, so that all wait equally long: of preload.sh. */
#include <mpi.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static float values[16384];
    int          rank, ranks;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int i = 0; i < 20; i++) {
        if (i % ranks == rank) {
            usleep(50000);
        }
        MPI_Allreduce(MPI_IN_PLACE, values, 16384, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    MPI_Finalize();
    return 0;
}
