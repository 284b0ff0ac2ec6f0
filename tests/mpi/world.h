/* SPDX-License-Identifier: Apache-2.0 */
/* What rank tests share: a requirement that ends all ranks where it is not met, and input that every rank can make for every
   other, so that results are held against a serial sum in float64 instead of anything that MPI computes. */
#ifndef TACIT_TEST_WORLD_H
#define TACIT_TEST_WORLD_H

#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "ranks.h"
#include "tacit_mpi.h"

#define REQUIRE(condition, ...)                                                                                                  \
    do {                                                                                                                         \
        if (!(condition)) {                                                                                                      \
            fprintf(stderr, "%s:%d: rank %d: %s: ", __FILE__, __LINE__, world_rank(), #condition);                               \
            fprintf(stderr, __VA_ARGS__);                                                                                        \
            fprintf(stderr, " (last error: %s)\n", tacit_last_error());                                                          \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                                                        \
        }                                                                                                                        \
    } while (0)

static inline int world_rank(void)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static inline int world_ranks(void)
{
    int ranks;

    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    return ranks;
}

/* What a rank gives at a step. */
static inline void world_input(int rank, int step, size_t count, float *x)
{
    harness_fill(x, count, 1000003u * (uint64_t)step + (uint64_t)rank + 1, 1.0f + (float)rank);
}

/* All ranks of a communicator hold the same bytes. */
static inline bool world_agrees(MPI_Comm comm, const void *data, size_t bytes)
{
    uint64_t  mine = harness_hash(data, bytes);
    uint64_t *all;
    int       ranks;
    bool      same = true;

    MPI_Comm_size(comm, &ranks);
    all = calloc((size_t)ranks, sizeof *all);
    MPI_Allgather(&mine, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, comm);
    for (int rank = 0; rank < ranks; rank++) {
        same = same && all[rank] == mine;
    }
    free(all);
    return same;
}

#endif
