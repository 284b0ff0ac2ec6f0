/* SPDX-License-Identifier: Apache-2.0 */
/* All ranks see the same topology: as it is found, on hosts that are made up, and as a file gives it. */
/* ranks: 2 4 */
#include <unistd.h>

#include "comm.h"
#include "world.h"

static void ask(const char *topology)
{
    MPI_Barrier(MPI_COMM_WORLD);
    setenv("TACIT_TOPOLOGY", topology, 1);
}

/* Everything that follows from the lines is the same on all ranks, and the own line is among them. */
static void same_on_all(const tacit_comm_t *comm)
{
    const tacit_topology_t *topology = comm->topology;
    const size_t            ranks = (size_t)topology->ranks, leaders = (size_t)(topology->rails * topology->hosts);

    REQUIRE(topology->ranks == world_ranks(), "%d", topology->ranks);
    REQUIRE(world_agrees(MPI_COMM_WORLD, topology->lines, ranks * TACIT_PLACE_BYTES), "lines");
    REQUIRE(world_agrees(MPI_COMM_WORLD, &topology->hosts, sizeof topology->hosts), "hosts");
    REQUIRE(world_agrees(MPI_COMM_WORLD, topology->members, ranks * sizeof *topology->members), "members");
    REQUIRE(world_agrees(MPI_COMM_WORLD, topology->rail_of, ranks * sizeof *topology->rail_of), "rails");
    REQUIRE(world_agrees(MPI_COMM_WORLD, topology->leaders, leaders * sizeof *topology->leaders), "leaders");
}

static void found(void)
{
    tacit_comm_t *comm;
    char          host[MPI_MAX_PROCESSOR_NAME];
    int           bytes;

    MPI_Get_processor_name(host, &bytes);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    same_on_all(comm);
    REQUIRE(comm->topology->hosts == 1, "%d hosts", comm->topology->hosts);
    REQUIRE(bytes >= TACIT_HOST_BYTES || strcmp(comm->topology->places[world_rank()].host, host) == 0, "not %s", host);
    tacit_comm_destroy(comm);
}

/* The first rank is alone, the others share a host. */
static void made_up(void)
{
    const int     others = world_ranks() - 1;
    tacit_comm_t *comm;
    tacit_slot_t *slot;
    float         x[100];
    char          counts[16];

    snprintf(counts, sizeof counts, "1,%d", others);
    ask(counts);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    same_on_all(comm);
    REQUIRE(comm->topology->hosts == 2 && comm->topology->rails == 1, "%d", comm->topology->rails);
    REQUIRE(comm->topology->leaders[0] == 0 && comm->topology->leaders[1] == 1, "%d", comm->topology->leaders[1]);
    REQUIRE(tacit__topology_has_levels(comm->topology) == (others > 1), "levels");
    for (int i = 0; i < 100; i++) {
        x[i] = 1;
    }
    slot = slot_of(comm, "made up", 100, TACIT_FLOAT32, "fp16");
    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    REQUIRE(x[99] == (float)(others + 1), "%g", (double)x[99]);
    tacit_comm_destroy(comm);
}

/* Even and odd ranks, of which the last one is nearest to the only interface. */
static void given(void)
{
    const int     rank = world_rank(), ranks = world_ranks();
    char          path[HARNESS_PATH_BYTES] = "";
    FILE         *file;
    tacit_comm_t *comm;

    if (rank == 0) {
        file = fopen(harness_path(path, "topology"), "w");
        for (int i = 0; i < ranks; i++) {
            fprintf(file, "host=%s package=%d nic=fake%s\n", i % 2 == 0 ? "even" : "odd", i, i < ranks - 2 ? ":2" : "");
        }
        fclose(file);
    }
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, MPI_COMM_WORLD);
    ask(path);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    same_on_all(comm);
    REQUIRE(comm->topology->hosts == 2, "%d hosts", comm->topology->hosts);
    REQUIRE(comm->topology->leaders[0] == ranks - 2 && comm->topology->leaders[1] == ranks - 1, "%d leads",
            comm->topology->leaders[0]);
    tacit_comm_destroy(comm);
    if (rank == 0) {
        file = fopen(path, "a");
        fputs("host=more\n", file);
        fclose(file);
    }
    ask(path);
    REQUIRE(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm) == TACIT_ERR_ARGUMENT, "a line more than ranks");
    REQUIRE(strstr(tacit_last_error(), "one a line; there are") != NULL, "a line more than ranks");
    REQUIRE(world_agrees(MPI_COMM_WORLD, tacit_last_error(), strlen(tacit_last_error())), "texts");
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        unlink(path);
    }
}

/* Hosts of two ranks, which sum up through memory that they share or, where the last rank can make none, in messages: the same
   bits. */
static void either_way(void)
{
    enum { COUNT = 200000 };
    static const char *const specs[] = {"onebit+ef", "topk:ratio=0.01+ef"};
    float                   *x = calloc(COUNT, sizeof *x);
    uint64_t                 hash[2][2];

    ask("2");
    for (int way = 0; way < 2; way++) {
        tacit_comm_t *comm;

        tacit__channels_refuse(way == 0 ? 0 : UINT64_C(1) << (world_ranks() - 1));
        MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
        REQUIRE((comm->channels.in != NULL) == (world_ranks() > 2 && (way == 0 || world_rank() < 2)), "way %d", way);
        for (int i = 0; i < 2; i++) {
            tacit_slot_t *slot = slot_of(comm, specs[i], COUNT, TACIT_FLOAT32, specs[i]);

            for (int step = 0; step < 3; step++) {
                world_input(world_rank(), step, COUNT, x);
                MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
            }
            hash[way][i] = harness_hash(x, COUNT * sizeof *x);
        }
        tacit_comm_destroy(comm);
    }
    REQUIRE(memcmp(hash[0], hash[1], sizeof hash[0]) == 0, "the bits depend on the way");
    REQUIRE(world_agrees(MPI_COMM_WORLD, hash, sizeof hash), "ranks differ");
    free(x);
}

static void disagreement(void)
{
    tacit_comm_t *comm;
    char          counts[16];

    snprintf(counts, sizeof counts, world_rank() == 0 ? "1,%d" : "%d,1", world_ranks() - 1);
    ask(world_ranks() == 2 && world_rank() == 0 ? "2" : counts);
    REQUIRE(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm) == TACIT_ERR_MISMATCH, "ranks were told different things");
    ask("3,3,3");
    REQUIRE(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm) == TACIT_ERR_ARGUMENT, "nine ranks");
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    unsetenv("TACIT_TOPOLOGY");
    found();
    made_up();
    given();
    either_way();
    disagreement();
    MPI_Finalize();
    return 0;
}
