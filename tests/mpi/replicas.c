/* SPDX-License-Identifier: Apache-2.0 */
/* A hundred steps of gradient descent with a delay on every rank before every step: parameters are the same on all ranks after
   each, and end where they should. */
/* ranks: 2 3 4 8 */
#include <math.h>
#include <unistd.h>

#include "world.h"

enum { STEPS = 100, COUNT = 600, ROWS = 20, SLOTS = 12 };

static const char *const specs[SLOTS] = {"onebit:block=64+ef",
                                         "qsgd:bits=4,block=32+ef",
                                         "topk:ratio=0.05+ef",
                                         "randk:ratio=0.1+ef",
                                         "bf16",
                                         "topk:ratio=0.05+dgc:momentum=0.5,dense=0",
                                         "topk:ratio=0.1+ef21:average=0.5",
                                         "topk:ratio=0.1+econtrol:init=gradient",
                                         "onebit:block=64+econtrol",
                                         "rotq:bits=2+ef",
                                         "fp8+ef:residual=bf16",
                                         "powersgd:rank=2+ef"};

/* A matrix, whatever becomes of it. */
static tacit_slot_t *slot_at(tacit_comm_t *comm, int number)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    char                name[16];

    snprintf(name, sizeof name, "matrix %d", number);
    config.count = COUNT;
    config.spec = specs[number];
    config.ndim = 2;
    config.shape[0] = ROWS;
    config.shape[1] = COUNT / ROWS;
    MUST(tacit_slot_create(comm, name, &config, &slot));
    return slot;
}

/* Each rank pulls the parameters towards a point of its own. */
static void point(int slot, int rank, float *x)
{
    harness_fill(x, COUNT, (uint64_t)(100 * slot + rank), 1);
}

static void gradient(int slot, int rank, const float *w, float *x)
{
    point(slot, rank, x);
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = w[i] - x[i];
    }
}

/* Of the parameters from the mean of all ranks' points, over what it was at the start, where they were zero. */
static double distance(int slot, const float *w)
{
    double mean[COUNT] = {0}, sum = 0, start = 0;
    float  x[COUNT];

    for (int rank = 0; rank < world_ranks(); rank++) {
        point(slot, rank, x);
        for (size_t i = 0; i < COUNT; i++) {
            mean[i] += (double)x[i] / world_ranks();
        }
    }
    for (size_t i = 0; i < COUNT; i++) {
        sum += ((double)w[i] - mean[i]) * ((double)w[i] - mean[i]);
        start += mean[i] * mean[i];
    }
    return sqrt(sum / start);
}

int main(int argc, char **argv)
{
    static float     w[SLOTS][COUNT], x[SLOTS][COUNT];
    tacit_slot_t    *slots[SLOTS];
    tacit_comm_t    *comm;
    harness_random_t delays = {0};

    MPI_Init(&argc, &argv);
    delays.state = (uint64_t)world_rank();
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    for (int s = 0; s < SLOTS; s++) {
        slots[s] = slot_at(comm, s);
    }
    for (int step = 0; step < STEPS; step++) {
        usleep((useconds_t)harness_uniform(&delays, 0, 500));
        for (int s = 0; s < SLOTS; s++) {
            gradient(s, world_rank(), w[s], x[s]);
        }
        MUST(tacit_allreduce(slots[0], x[0], x[0], TACIT_AVERAGE)); /* one alone, the others together */
        MUST(tacit_group_begin(comm));
        for (int s = 1; s < SLOTS; s++) {
            MUST(tacit_allreduce(slots[s], x[s], x[s], TACIT_AVERAGE));
        }
        MUST(tacit_group_end(comm, NULL));
        for (int s = 0; s < SLOTS; s++) {
            for (size_t i = 0; i < COUNT; i++) {
                w[s][i] -= 0.05f * x[s][i];
            }
        }
        REQUIRE(world_agrees(MPI_COMM_WORLD, w, sizeof w), "ranks differ after step %d", step);
    }
    for (int s = 0; s < SLOTS; s++) {
        REQUIRE(distance(s, w[s]) < 0.5, "%s ends at %g", specs[s], distance(s, w[s]));
    }
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
