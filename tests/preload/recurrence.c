/* SPDX-License-Identifier: Apache-2.0 */
/* Sums whose results are known, over and over: of preload.sh. With feedback, what a sum over all steps lacks is what is still
   kept back, a few steps' worth; without, or if tensors are mixed up, it grows with the steps. Arguments: how; steps. By
   "changing", steps get more tensors, and fewer again; by "ending", there are no steps in the last third; by "other", steps have
   the first tensor alone, and in the last third there are the others in its stead. */
#include <math.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 4, COUNT = 4096 };

static int    rank, ranks, times[TENSORS];
static float *buffers[TENSORS], *spare;
static double sums[TENSORS][COUNT], exact[TENSORS][COUNT];

/* Each tensor has its own size, so that what one keeps back would spoil another. */
static float value_of(int tensor, int i, int of_rank)
{
    static const float sizes[TENSORS] = {1.0f, 100.0f, 0.01f, 10.0f};
    const unsigned     mixed = ((unsigned)i * 2654435761u) ^ ((unsigned)of_rank * 40503u) ^ ((unsigned)tensor * 69069u);

    return sizes[tensor] * (((float)(mixed % 1000u) - 300.0f) / 1000.0f);
}

/* "distinct": tensors have counts of their own. */
static int count_of(int tensor, const char *how)
{
    return strcmp(how, "distinct") == 0 ? COUNT - tensor : COUNT;
}

/* Of buffers: the same every time, fresh ones, or one for all. */
static void reduce(MPI_Comm comm, int tensor, const char *how)
{
    const bool fresh = strcmp(how, "fresh") == 0 || strcmp(how, "distinct") == 0;
    const int  count = count_of(tensor, how);
    float     *buffer = strcmp(how, "one") == 0 ? buffers[0] : buffers[tensor];

    if (fresh) {
        buffer = malloc(COUNT * sizeof *buffer + 64 * (size_t)(1 + rand() % 1000));
    }
    for (int i = 0; i < count; i++) {
        buffer[i] = value_of(tensor, i, rank);
    }
    if (strcmp(how, "apart") == 0) {
        MPI_Allreduce(buffer, spare, count, MPI_FLOAT, MPI_SUM, comm);
        memcpy(buffer, spare, COUNT * sizeof *buffer);
    } else {
        MPI_Allreduce(MPI_IN_PLACE, buffer, count, MPI_FLOAT, MPI_SUM, comm);
    }
    times[tensor]++;
    for (int i = 0; i < count; i++) {
        sums[tensor][i] += (double)buffer[i];
    }
    if (fresh) {
        free(buffer);
    }
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "same";
    const int   steps = argc > 2 ? atoi(argv[2]) : 100;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    spare = malloc(COUNT * sizeof *spare);
    for (int tensor = 0; tensor < TENSORS; tensor++) {
        buffers[tensor] = malloc(COUNT * sizeof **buffers);
        for (int i = 0; i < COUNT; i++) {
            for (int other = 0; other < ranks; other++) {
                exact[tensor][i] += (double)value_of(tensor, i, other);
            }
        }
    }
    for (int step = 0; step < steps; step++) {
        float     loss = 1.0f;
        const int first = strcmp(how, "ending") == 0 && step >= steps * 2 / 3 ? rand() / 7 % TENSORS : 0;
        const int only = strcmp(how, "other") != 0 ? -1 : step < steps * 2 / 3 ? 0 : 1 + rand() / 7 % (TENSORS - 1);
        const int fewer = strcmp(how, "changing") != 0 ? 0 : step < steps / 3 ? 2 : step < steps * 2 / 3 ? 0 : 1;

        for (int tensor = 0; only < 0 && tensor < TENSORS - fewer; tensor++) {
            reduce(MPI_COMM_WORLD, (first + tensor) % TENSORS, how);
        }
        if (only >= 0) {
            reduce(MPI_COMM_WORLD, only, how);
        }
        if (strcmp(how, "changing") == 0) {
            continue; /* nothing else tells one step from the next */
        }
        MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        if (loss != (float)ranks) {
            fprintf(stderr, "a small sum is not exact\n");
            return 1;
        }
    }
    for (int tensor = 0; rank == 0 && tensor < TENSORS; tensor++) {
        double lacks = 0.0, whole = 0.0;

        for (int i = 0; i < count_of(tensor, how); i++) {
            const double difference = sums[tensor][i] / times[tensor] - exact[tensor][i];

            lacks += difference * difference;
            whole += exact[tensor][i] * exact[tensor][i];
        }
        printf("tensor %d %.6f\n", tensor, sqrt(lacks / whole));
    }
    MPI_Finalize();
    return 0;
}
