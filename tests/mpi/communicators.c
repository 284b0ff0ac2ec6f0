/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators over parts of the world, several at once, and beside the program's own messages. */
/* ranks: 2 4 */
#include "world.h"

enum { COUNT = 5000 };

static bool is_sum(const float *y, float expected)
{
    for (size_t i = 0; i < COUNT; i++) {
        if (y[i] != expected) {
            return false;
        }
    }
    return true;
}

static void fill(float *x, float value)
{
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = value;
    }
}

/* The even and the odd ranks, each by themselves, in reverse order of rank, and the world, all at the same time. */
static void parts(tacit_comm_t *world)
{
    static float     x[COUNT], y[COUNT], z[COUNT];
    const int        rank = world_rank(), ranks = world_ranks(), members = (ranks + 1 - rank % 2) / 2;
    MPI_Comm         half_comm;
    tacit_comm_t    *half, *again;
    tacit_slot_t    *in_world, *in_half, *in_again;
    tacit_request_t *requests[3];
    float            y_again[4] = {1, 1, 1, 1};

    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half_comm);
    MUST(tacit_comm_create_mpi(half_comm, NULL, &half));
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &again));
    REQUIRE(tacit_comm_ranks(half) == members && tacit_comm_rank(half) == members - 1 - rank / 2, "rank %d of %d",
            tacit_comm_rank(half), tacit_comm_ranks(half));
    MPI_Comm_free(&half_comm); /* the library has its own */
    in_world = slot_of(world, "parts", COUNT, TACIT_FLOAT32, "none+ef");
    in_half = slot_of(half, "parts", COUNT, TACIT_FLOAT32, "topk:ratio=1+ef");
    in_again = slot_of(again, "parts", 4, TACIT_FLOAT32, "none");
    fill(x, 1);
    MUST(tacit_iallreduce(in_world, x, y, TACIT_SUM, &requests[0]));
    MUST(tacit_iallreduce(in_half, x, z, TACIT_SUM, &requests[1]));
    MUST(tacit_iallreduce(in_again, y_again, y_again, TACIT_SUM, &requests[2]));
    for (bool left = true; left;) { /* a communicator advances in its own calls only */
        left = false;
        for (int i = 0; i < 3; i++) {
            const tacit_status_t status = tacit_test(&requests[(i + rank) % 3]);
            left = left || status == TACIT_PENDING;
            REQUIRE(status == TACIT_OK || status == TACIT_PENDING, "request %d", i);
        }
    }
    REQUIRE(is_sum(y, (float)ranks), "sum over the world: %g", (double)y[0]);
    REQUIRE(is_sum(z, (float)members), "sum over half of it: %g", (double)z[0]);
    REQUIRE(y_again[3] == (float)ranks, "sum over the world again: %g", (double)y_again[3]);
    tacit_comm_destroy(half);
    tacit_comm_destroy(again);
    tacit_slot_destroy(in_world);
}

/* The program waits for any message on the communicator that was given to the library: none of ours is caught by it. */
static void own_messages(tacit_comm_t *world)
{
    static float  x[COUNT];
    const int     rank = world_rank(), ranks = world_ranks();
    tacit_slot_t *slot = slot_of(world, "own messages", COUNT, TACIT_FLOAT32, "fp16");
    MPI_Request   request;
    MPI_Status    message;
    int           word = -1, sent = 100 + rank, done = 1, count = -1;

    MPI_Irecv(&word, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &request);
    fill(x, 2);
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    REQUIRE(is_sum(x, 2), "average: %g", (double)x[0]);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Test(&request, &done, &message);
    REQUIRE(!done, "a message of the library's has reached the program");
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Send(&sent, 1, MPI_INT, (rank + 1) % ranks, 7, MPI_COMM_WORLD);
    MPI_Wait(&request, &message);
    MPI_Get_count(&message, MPI_INT, &count);
    REQUIRE(count == 1 && word == 100 + (rank + ranks - 1) % ranks, "%d", word);
    tacit_slot_destroy(slot);
}

/* Ranks that ask for different things are told so, all of them, and the communicator lives on. */
static void disagreement(tacit_comm_t *world)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      config = TACIT_CONFIG_INIT;
    tacit_comm_t       *comm;
    tacit_slot_t       *slot;

    tensor.count = world_rank() == world_ranks() - 1 ? 11 : 10;
    tensor.spec = "onebit+ef";
    REQUIRE(tacit_slot_create(world, "counts", &tensor, &slot) == TACIT_ERR_MISMATCH, "counts");
    tensor.count = 10;
    tensor.spec = world_rank() == 0 ? "onebit+ef" : "onebit";
    REQUIRE(tacit_slot_create(world, "specs", &tensor, &slot) == TACIT_ERR_MISMATCH, "specs");
    tensor.spec = world_rank() == 0 ? "onebits" : "onebit";
    REQUIRE(tacit_slot_create(world, "words", &tensor, &slot) == TACIT_ERR_SPEC, "words");
    REQUIRE(strstr(tacit_last_error(), "did you mean 'onebit'") != NULL, "words");
    config.seed = (uint64_t)world_rank() + 1;
    REQUIRE(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm) == TACIT_ERR_MISMATCH, "seeds");
}

int main(int argc, char **argv)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_comm_t  *world;

    MPI_Init(&argc, &argv);
    config.progress = TACIT_PROGRESS_THREAD; /* which this MPI, as it was started, does not allow: a warning, and no more */
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &world));
    REQUIRE(!tacit_comm_has_thread(world), "MPI may be called from one thread only");
    disagreement(world);
    parts(world);
    own_messages(world);
    tacit_comm_destroy(world);
    MPI_Finalize();
    return 0;
}
