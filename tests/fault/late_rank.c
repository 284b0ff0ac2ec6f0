/* SPDX-License-Identifier: Apache-2.0 */
/* A rank that comes to a collective too late: all ranks get TACIT_ERR_TIMEOUT with a text that names it, it too when it
   comes, and the program ends in good order. */
/* ranks: 2 4 */
/* seconds: 60 */
#include <time.h>
#include <unistd.h>

#include "mpi/world.h"

enum { TIMEOUT_MS = 800, LATE_SECONDS = 3, MOST = 1 << 18 };

static float x[MOST], y[MOST];

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* One communicator: its first operation is in time, its second one is not. */
static void come_late(const char *spec, size_t count)
{
    const int      late = world_ranks() - 1;
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_comm_t  *comm;
    tacit_slot_t  *slot;
    char           who[32], path[HARNESS_PATH_BYTES];
    double         began;
    tacit_status_t status;

    config.timeout_ms = TIMEOUT_MS;
    MPI_Barrier(MPI_COMM_WORLD);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm));
    slot = slot_of(comm, "weights", count, TACIT_FLOAT32, spec);
    world_input(world_rank(), 0, count, x);
    MUST(tacit_allreduce(slot, x, y, TACIT_SUM));
    if (world_rank() == late) {
        sleep(LATE_SECONDS);
    }
    began = now();
    status = tacit_allreduce(slot, x, y, TACIT_SUM);
    REQUIRE(status == TACIT_ERR_TIMEOUT, "%s of %zu: %s", spec, count, tacit_strerror(status));
    snprintf(who, sizeof who, "nothing from rank %d", late);
    REQUIRE(strstr(tacit_last_error(), who) != NULL, "'%s' is missing", who);
    REQUIRE(strstr(tacit_last_error(), "'weights' at step 1") != NULL, "the slot is missing");
    REQUIRE(now() - began < LATE_SECONDS, "waited %.1f s", now() - began);

    REQUIRE(tacit_allreduce(slot, x, y, TACIT_SUM) == TACIT_ERR_BROKEN, "it goes on");
    REQUIRE(strstr(tacit_last_error(), who) != NULL, "the reason is forgotten");
    MUST(tacit_save(comm, harness_path(path, "state")));
    REQUIRE(remove(path) == 0, "there is no file");
    tacit_comm_destroy(comm);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    come_late("onebit+ef", 1000);
    come_late("topk:ratio=0.01+ef", 100000);
    come_late("none+ef", MOST); /* more than the transport takes in advance */
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
