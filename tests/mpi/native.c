/* SPDX-License-Identifier: Apache-2.0 */
/* Native calls: in groups and requests, and what finds ranks that make different ones: the next framed operation, or at once with
   TACIT_CHECK=1. */
/* ranks: 2 3 */
#include "world.h"

enum { COUNT = 1000 };

static float x[COUNT], y[COUNT], z[COUNT];

static bool is(const float *values, float expected)
{
    for (size_t i = 0; i < COUNT; i++) {
        if (values[i] != expected) {
            return false;
        }
    }
    return true;
}

static void fill(void)
{
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = (float)(1 + world_rank());
        y[i] = z[i] = 1;
    }
}

/* Whole numbers: any order of summation gives the same. */
static void all_ways(tacit_comm_t *comm)
{
    const float   ranks = (float)world_ranks();
    tacit_slot_t *a = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "auto"), *b = slot_of(comm, "b", COUNT, TACIT_FLOAT32, "none"),
                 *framed = slot_of(comm, "framed", COUNT, TACIT_FLOAT32, "fp16");
    tacit_request_t *first, *second;

    fill();
    MUST(tacit_allreduce(a, x, z, TACIT_SUM));
    REQUIRE(is(z, ranks * (ranks + 1) / 2) && is(x, (float)(1 + world_rank())), "%g", (double)z[0]);
    MUST(tacit_iallreduce(a, x, x, TACIT_AVERAGE, &first));
    MUST(tacit_iallreduce(b, y, z, TACIT_SUM, &second));
    MUST(tacit_wait(&second));
    MUST(tacit_wait(&first));
    REQUIRE(is(x, (ranks + 1) / 2) && is(z, ranks), "%g, %g", (double)x[0], (double)z[0]);
    fill();
    MUST(tacit_group_begin(comm));
    MUST(tacit_allreduce(framed, x, x, TACIT_SUM));
    MUST(tacit_allreduce(b, y, y, TACIT_SUM));
    MUST(tacit_allreduce(a, z, z, TACIT_AVERAGE));
    MUST(tacit_group_end(comm, NULL));
    REQUIRE(is(x, ranks * (ranks + 1) / 2) && is(y, ranks) && is(z, 1), "%g, %g, %g", (double)x[0], (double)y[0], (double)z[0]);
    tacit_slot_destroy(a);
    tacit_slot_destroy(b);
    tacit_slot_destroy(framed);
}

/* Whether a rank has waited for an earlier request is its own affair: the blocking native call is the same on all. */
static void waits_differ(tacit_comm_t *comm, const char *spec)
{
    tacit_slot_t *early = slot_of(comm, "early", COUNT, TACIT_FLOAT32, spec),
                 *a = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "none");
    tacit_request_t *request;

    fill();
    MUST(tacit_iallreduce(early, y, y, TACIT_SUM, &request));
    if (world_rank() == 0) {
        MUST(tacit_wait(&request));
    }
    MUST(tacit_allreduce(a, z, z, TACIT_SUM));
    MUST(tacit_wait(&request));
    REQUIRE(is(y, (float)world_ranks()) && is(z, (float)world_ranks()), "%g, %g", (double)y[0], (double)z[0]);
    tacit_slot_destroy(early);
    tacit_slot_destroy(a);
}

/* The last rank reduces another slot than the others, of the same size: MPI cannot tell. */
static void different(tacit_comm_t *comm, bool check)
{
    tacit_slot_t *a = slot_of(comm, "a", COUNT, TACIT_FLOAT32, "none"), *b = slot_of(comm, "b", COUNT, TACIT_FLOAT32, "none"),
                 *framed = slot_of(comm, "framed", COUNT, TACIT_FLOAT32, "fp16"),
                 *mine = world_rank() == world_ranks() - 1 ? b : a;

    fill();
    if (check) {
        REQUIRE(tacit_allreduce(mine, x, x, TACIT_SUM) == TACIT_ERR_MISMATCH, "a and b");
        REQUIRE(tacit_allreduce(a, y, y, world_rank() == 0 ? TACIT_SUM : TACIT_AVERAGE) == TACIT_ERR_MISMATCH, "sum and average");
        REQUIRE(is(x, (float)(1 + world_rank())) && is(y, 1), "something was reduced");
        MUST(tacit_allreduce(a, y, y, TACIT_SUM));
        MUST(tacit_allreduce(framed, z, z, TACIT_SUM));
        REQUIRE(is(y, (float)world_ranks()) && is(z, (float)world_ranks()), "%g, %g", (double)y[0], (double)z[0]);
    } else {
        MUST(tacit_allreduce(mine, x, x, TACIT_SUM));
        REQUIRE(tacit_allreduce(framed, z, z, TACIT_SUM) == TACIT_ERR_MISMATCH, "nothing was noticed");
        REQUIRE(strstr(tacit_last_error(), "TACIT_CHECK=1") != NULL && is(z, 1), "in-place input has changed");
    }
}

int main(int argc, char **argv)
{
    tacit_comm_t *comm;

    MPI_Init(&argc, &argv);
    for (int check = 0; check < 2; check++) {
        setenv("TACIT_CHECK", check ? "1" : "0", 1);
        MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
        all_ways(comm);
        waits_differ(comm, "none");
        waits_differ(comm, "fp16");
        different(comm, check != 0);
        tacit_comm_destroy(comm);
    }
    MPI_Finalize();
    return 0;
}
