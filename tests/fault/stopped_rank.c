/* SPDX-License-Identifier: Apache-2.0 */
/* A rank whose process is stopped in the middle of the work and goes on later (a debugger, a laptop's lid): the others do
   not wait for ever, and all, it too, get TACIT_ERR_TIMEOUT. */
/* ranks: 2 4 */
/* seconds: 60 */
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "mpi/world.h"

enum { TIMEOUT_MS = 800, STOPPED_SECONDS = 2, COUNT = 20000 };

static float x[COUNT];

/* Leaves a child behind that wakes this process. */
static void stop_for_a_while(void)
{
    pid_t me = getpid();

    if (fork() == 0) {
        sleep(STOPPED_SECONDS);
        kill(me, SIGCONT);
        _exit(0);
    }
    raise(SIGSTOP);
}

int main(int argc, char **argv)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_comm_t  *comm;
    tacit_slot_t  *slot;
    tacit_status_t status;
    char           who[32];

    MPI_Init(&argc, &argv);
    config.timeout_ms = TIMEOUT_MS;
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm));
    slot = slot_of(comm, "weights", COUNT, TACIT_FLOAT32, "onebit+ef");
    world_input(world_rank(), 0, COUNT, x);
    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    if (world_rank() == 0) {
        stop_for_a_while();
    }
    status = tacit_allreduce(slot, x, x, TACIT_SUM);
    REQUIRE(status == TACIT_ERR_TIMEOUT, "%s", tacit_strerror(status));
    snprintf(who, sizeof who, "nothing from rank 0");
    REQUIRE(strstr(tacit_last_error(), who) != NULL, "'%s' is missing", who);
    REQUIRE(tacit_allreduce(slot, x, x, TACIT_SUM) == TACIT_ERR_BROKEN, "it goes on");
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
