/* SPDX-License-Identifier: Apache-2.0 */
/* Nanoseconds of one MPI_Allreduce() of a float on MPI_COMM_SELF: bench/preload runs it with the interposer and without. */
#include <mpi.h>
#include <stdio.h>
#include <time.h>

enum { CALLS = 1000000 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e9 * (double)time.tv_sec + (double)time.tv_nsec;
}

int main(int argc, char **argv)
{
    float  in = 1.0f, out = 0.0f;
    double start;

    MPI_Init(&argc, &argv);
    start = now();
    for (int i = 0; i < CALLS; i++) {
        MPI_Allreduce(&in, &out, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_SELF);
    }
    printf("%.1f\n", (now() - start) / CALLS);
    MPI_Finalize();
    return out != in;
}
