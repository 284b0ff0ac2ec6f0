/* SPDX-License-Identifier: Apache-2.0 */
/* The first program: averages a vector over all ranks, at one bit a number, and shows that nothing is lost in the long run. */
#include <mpi.h>
#include <stdio.h>
#include <tacit_mpi.h>

enum { COUNT = 1 << 20, STEPS = 100 };

static float vector[COUNT];

static void must(tacit_status_t status)
{
    if (status != TACIT_OK) {
        (void)fprintf(stderr, "%s: %s\n", tacit_strerror(status), tacit_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

int main(int argc, char **argv)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_comm_t       *comm;
    tacit_slot_t       *slot;
    tacit_counters_t    counters;
    double              mean = 0.0;

    MPI_Init(&argc, &argv);
    must(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    config.count = COUNT;
    config.spec = "onebit+ef"; /* one bit a number; what that loses joins the next step */
    must(tacit_slot_create(comm, "vector", &config, &slot));
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < COUNT; i++) {
            vector[i] = (float)(tacit_comm_rank(comm) + i % 3);
        }
        must(tacit_allreduce(slot, vector, vector, TACIT_AVERAGE));
        mean += (double)vector[0] / STEPS;
    }
    must(tacit_slot_counters(slot, &counters));
    if (tacit_comm_rank(comm) == 0) {
        printf("mean of %d averages: %.3f, exact: %.3f\n", STEPS, mean, (tacit_comm_ranks(comm) - 1) / 2.0);
        printf("bytes sent: %.1f million instead of %.1f million\n", (double)counters.wire_bytes / 1e6,
               (double)counters.dense_bytes / 1e6);
    }
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
