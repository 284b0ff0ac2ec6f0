/* SPDX-License-Identifier: Apache-2.0 */
/* Nanoseconds of one MPI_Allreduce() of a float on MPI_COMM_SELF, the least of many batches: bench/preload runs it with the
   interposer and without. */
#include <mpi.h>
#include <stdio.h>
#include <time.h>

enum { BATCHES = 100, CALLS = 10000 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e9 * (double)time.tv_sec + (double)time.tv_nsec;
}

int main(int argc, char **argv)
{
    float  in = 1.0f, out = 0.0f;
    double least = 1e9;

    MPI_Init(&argc, &argv);
    for (int batch = 0; batch < BATCHES; batch++) {
        const double start = now();
        double       each;

        for (int i = 0; i < CALLS; i++) {
            MPI_Allreduce(&in, &out, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_SELF);
        }
        each = (now() - start) / CALLS;
        least = each < least ? each : least;
    }
    printf("%.1f\n", least);
    MPI_Finalize();
    return out != in;
}
