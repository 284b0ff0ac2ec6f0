/* SPDX-License-Identifier: Apache-2.0 */
/* The first program: averages a vector over all ranks, at one bit a number, and shows that nothing is lost in the long run. */
#include <mpi.h>
#include <stdio.h>
#include <tacit_mpi.h>

enum { COUNT = 1 << 20, STEPS = 100 };
static float vector[COUNT];

int main(int argc, char **argv)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_comm_t       *comm = NULL;
    tacit_slot_t       *slot = NULL;
    tacit_status_t      status;
    double              mean = 0.0;

    MPI_Init(&argc, &argv);
    config.count = COUNT;
    config.spec = "onebit+ef"; /* one bit a number; what that loses joins the next step */
    status = tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm);
    status = status == TACIT_OK ? tacit_slot_create(comm, "vector", &config, &slot) : status;
    for (int step = 0; step < STEPS && status == TACIT_OK; step++) {
        for (int i = 0; i < COUNT; i++) {
            vector[i] = (float)(tacit_comm_rank(comm) + i % 3);
        }
        status = tacit_allreduce(slot, vector, vector, TACIT_AVERAGE);
        mean += (double)vector[0] / STEPS;
    }
    if (status != TACIT_OK) {
        printf("%s: %s\n", tacit_strerror(status), tacit_last_error());
    } else if (tacit_comm_rank(comm) == 0) {
        printf("mean of %d averages: %.3f, exact: %.3f\n", STEPS, mean, (tacit_comm_ranks(comm) - 1) / 2.0);
    }
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return status == TACIT_OK ? 0 : 1;
}
