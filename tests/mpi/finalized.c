/* SPDX-License-Identifier: Apache-2.0 */
/* MPI_Finalize() before the communicator is destroyed: calls say so, and destroying still works. */
/* ranks: 1 2 */
#include "world.h"

/* REQUIRE() asks MPI for the rank, which it cannot any more. */
static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "%s: %s\n", what, tacit_last_error());
        abort();
    }
}

int main(int argc, char **argv)
{
    tacit_comm_t    *comm, *before;
    tacit_slot_t    *native, *framed;
    tacit_request_t *request;
    float            x[2] = {1, 2};

    MPI_Init(&argc, &argv);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &before));
    native = slot_of(comm, "native", 2, TACIT_FLOAT32, "none");
    framed = slot_of(comm, "framed", 2, TACIT_FLOAT32, "onebit+ef");
    MUST(tacit_allreduce(framed, x, x, TACIT_AVERAGE));
    tacit_comm_destroy(before);
    MPI_Finalize();
    require(tacit_allreduce(native, x, x, TACIT_SUM) == TACIT_ERR_BROKEN, "native");
    require(tacit_allreduce(framed, x, x, TACIT_SUM) == TACIT_ERR_BROKEN, "framed");
    require(tacit_iallreduce(framed, x, x, TACIT_SUM, &request) == TACIT_ERR_BROKEN, "a request");
    require(tacit_group_begin(comm) == TACIT_ERR_BROKEN, "a group");
    tacit_comm_destroy(comm);
    return 0;
}
