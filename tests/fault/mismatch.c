/* SPDX-License-Identifier: Apache-2.0 */
/* One rank differs, over MPI: every rank gets the same status and text, nobody hangs, and the communicator goes on. */
/* ranks: 2 4 */
/* seconds: 60 */
#include "mpi/world.h"

enum { COUNT = 50000 };

static float x[COUNT], y[COUNT];

/* All ranks returned `status`, with the same text, in which `words` stands. */
static void all_say(tacit_status_t status, tacit_status_t expected, const char *words)
{
    char text[512] = "";

    snprintf(text, sizeof text, "%s", tacit_last_error());
    REQUIRE(status == expected, "%s", tacit_strerror(status));
    REQUIRE(world_agrees(MPI_COMM_WORLD, text, sizeof text), "texts differ");
    REQUIRE(strstr(text, words) != NULL, "'%s' is missing", words);
}

static tacit_status_t create(tacit_comm_t *comm, const char *name, size_t count, tacit_dtype_t dtype, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;

    config.count = count;
    config.dtype = dtype;
    config.spec = spec;
    return tacit_slot_create(comm, name, &config, &slot);
}

/* A sum of ones is the number of ranks, in any spec. */
static void goes_on(tacit_slot_t *slot)
{
    MUST(tacit_slot_reset(slot));
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = 1.0f;
    }
    MUST(tacit_allreduce(slot, x, y, TACIT_SUM));
    for (size_t i = 0; i < COUNT; i++) {
        REQUIRE(y[i] == (float)world_ranks(), "%g at %zu", (double)y[i], i);
    }
}

static void differ(tacit_comm_t *comm, int odd_rank)
{
    const bool    odd = world_rank() == odd_rank;
    tacit_slot_t *first = slot_of(comm, "first", COUNT, TACIT_FLOAT32, "onebit+ef");
    tacit_slot_t *second = slot_of(comm, "second", COUNT, TACIT_FLOAT32, "qsgd:bits=8+ef");
    char          who[24];

    snprintf(who, sizeof who, "rank %d", odd_rank);
    all_say(create(comm, "third", COUNT + odd, TACIT_FLOAT32, "onebit"), TACIT_ERR_MISMATCH, who);
    all_say(create(comm, "third", COUNT, odd ? TACIT_FLOAT16 : TACIT_FLOAT32, "onebit"), TACIT_ERR_MISMATCH, "float16");
    all_say(create(comm, "third", COUNT, TACIT_FLOAT32, odd ? "onebit:block=64" : "onebit"), TACIT_ERR_MISMATCH, "block=64");
    all_say(create(comm, "third", COUNT, TACIT_FLOAT32, odd ? "onebti" : "onebit"), TACIT_ERR_SPEC, "did you mean");
    all_say(create(comm, odd ? "second" : "third", COUNT, TACIT_FLOAT32, "onebit"), TACIT_ERR_ARGUMENT, who);
    goes_on(first);
    goes_on(second);
    all_say(tacit_allreduce(odd ? second : first, x, y, TACIT_SUM), TACIT_ERR_MISMATCH, "same order");
    goes_on(first);
    all_say(tacit_allreduce(first, x, y, odd ? TACIT_AVERAGE : TACIT_SUM), TACIT_ERR_MISMATCH, who);
    goes_on(first);
    if (odd) {
        MUST(tacit_slot_reset(first));
    }
    all_say(tacit_allreduce(first, x, y, TACIT_SUM), TACIT_ERR_MISMATCH, "at step 0");
    goes_on(first);
    all_say(tacit_allreduce(first, odd ? NULL : x, y, TACIT_SUM), TACIT_ERR_ARGUMENT, who);
    goes_on(first);
    all_say(tacit_allreduce(second, x, y, odd ? (tacit_op_t)5 : TACIT_SUM), TACIT_ERR_ARGUMENT, "op 5");
    all_say(tacit_slot_set_spec(first, odd ? "onebit:block=64+ef" : "onebit:block=128+ef"), TACIT_ERR_MISMATCH, "block=64");
    goes_on(second);
    goes_on(first);
    tacit_slot_destroy(first);
    tacit_slot_destroy(second);
}

/* The last rank's environment asks for a schedule of its own. */
static void plans_differ(const char *plan, tacit_status_t status, const char *words)
{
    tacit_comm_t *comm = NULL;

    if (world_rank() == world_ranks() - 1) {
        REQUIRE(setenv("TACIT_PLAN", plan, 1) == 0, "%s", plan);
    }
    all_say(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm), status, words);
    REQUIRE(unsetenv("TACIT_PLAN") == 0, "%s", plan);
}

int main(int argc, char **argv)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_comm_t  *comm = NULL;

    MPI_Init(&argc, &argv);
    config.chunk_bytes = world_rank() == world_ranks() - 1 ? 2048 : 4096;
    all_say(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm), TACIT_ERR_MISMATCH, "chunk_bytes 2048");
    config.chunk_bytes = 0;
    plans_differ("ring", TACIT_ERR_MISMATCH, "plan ring");
    plans_differ("rings", TACIT_ERR_ARGUMENT, "TACIT_PLAN=rings is not a schedule");
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm));
    differ(comm, 0);
    differ(comm, world_ranks() - 1);
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
