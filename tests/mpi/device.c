/* SPDX-License-Identifier: Apache-2.0 */
/* Slots on a GPU over MPI, and a layer of experts, whose kernels run on the CPU: they have the bits of those on the CPU. And
   communicators over NCCL that MPI brings about, with a libnccl of ours: on two ranks, the last of which has one that is too old,
   all are told so. */
/* ranks: 2 3 */
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include "comm.h"
#include "tacit_moe.h"
#include "world.h"

enum { COUNT = 30000, SLOTS = 3, STEPS = 3 };

const tacit_cuda_module_t *tacit_cuda_module(uint32_t module_bytes);

static const char *const specs[SLOTS] = {"onebit:block=64+ef", "fp8+ef", "qsgd:bits=4+ef"};

static tacit_slot_t *slot_on(tacit_comm_t *comm, tacit_device_t device, int i)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    char                name[32];

    snprintf(name, sizeof name, "slot %d on %d", i, (int)device);
    config.count = COUNT;
    config.device = device;
    config.spec = specs[i];
    MUST(tacit_slot_create(comm, name, &config, &slot));
    return slot;
}

/* All in one operation, begun at once, and then waited for. */
static void reduce(tacit_comm_t *comm, tacit_slot_t **slots, float *x, float *out)
{
    tacit_request_t *request = NULL;

    MUST(tacit_group_begin(comm));
    for (int i = 0; i < SLOTS; i++) {
        MUST(tacit_allreduce(slots[i], x, out + i * COUNT, TACIT_AVERAGE));
    }
    MUST(tacit_group_end(comm, &request));
    MUST(tacit_wait(&request));
}

static void test_slots(void)
{
    static float   x[COUNT], out[2][SLOTS * COUNT];
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_slot_t  *slots[2][SLOTS];
    tacit_comm_t  *comm;

    config.chunk_bytes = 1024; /* many pieces */
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm));
    for (int i = 0; i < 2 * SLOTS; i++) {
        slots[i % 2][i / 2] = slot_on(comm, (tacit_device_t)(i % 2), i / 2);
    }
    REQUIRE(strcmp(tacit_slot_schedule(slots[1][0]), "device") == 0, "another schedule");
    for (int step = 0; step < STEPS; step++) {
        world_input(world_rank(), step, COUNT, x);
        reduce(comm, slots[0], x, out[0]);
        reduce(comm, slots[1], x, out[1]);
        REQUIRE(memcmp(out[0], out[1], sizeof out[0]) == 0, "step %d", step);
        REQUIRE(world_agrees(MPI_COMM_WORLD, out[1], sizeof out[1]), "step %d", step);
    }
    tacit_comm_destroy(comm);
}

/* ---- Layers of experts ---- */

enum { DIMENSION = 24, TOKENS = 60 };

/* A pass forward and backward, with experts that send back what they get; out: outputs, then gradients of tokens. */
static void run_layer(tacit_comm_t *comm, tacit_device_t device, float *out)
{
    static float       tokens[TOKENS * DIMENSION], gradients[TOKENS * DIMENSION], weights[TOKENS], weight_gradients[TOKENS];
    static float       rows[3 * TOKENS * DIMENSION];
    tacit_moe_config_t config = TACIT_MOE_CONFIG_INIT;
    tacit_moe_t       *moe;
    tacit_moe_pass_t  *pass;
    tacit_moe_batch_t  batch;
    int32_t            experts[TOKENS];

    config.dimension = DIMENSION;
    config.experts = 2 * (size_t)world_ranks();
    config.tokens = TOKENS;
    config.device = device;
    config.spec = "lsh:hashes=2,values=bf16";
    for (int t = 0; t < TOKENS; t++) { /* many alike */
        world_input(world_rank(), t % 5, DIMENSION, tokens + DIMENSION * t);
        experts[t] = t % (2 * world_ranks());
    }
    world_input(world_rank(), 100, TOKENS * DIMENSION, gradients);
    world_input(world_rank(), 200, TOKENS, weights);
    MUST(tacit_moe_create(comm, "layer", &config, &moe));
    MUST(tacit_moe_dispatch(moe, tokens, TOKENS, experts, &pass, &batch));
    MUST(tacit_moe_combine(pass, batch.rows, weights, out));
    MUST(tacit_moe_combine_backward(pass, gradients, weight_gradients, rows));
    MUST(tacit_moe_dispatch_backward(pass, rows, out + TOKENS * DIMENSION));
    tacit_moe_destroy(moe);
}

static void test_layers(void)
{
    static float  out[2][2 * TOKENS * DIMENSION];
    tacit_comm_t *comm;

    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    run_layer(comm, TACIT_CPU, out[0]);
    run_layer(comm, TACIT_CUDA, out[1]);
    REQUIRE(memcmp(out[0], out[1], sizeof out[0]) == 0, "a layer has other results on a GPU");
    tacit_comm_destroy(comm);
}

/* ---- NCCL ---- */

#if HAVE_NCCL

static void *load_fake(const char *name)
{
    char    path[4096];
    ssize_t bytes = readlink("/proc/self/exe", path, sizeof path - 64);
    void   *library;

    REQUIRE(bytes > 0, "who am I?");
    path[bytes] = '\0';
    snprintf(strrchr(path, '/') + 1, 64, "../gpu/%s", name);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != NULL, "%s", dlerror());
    return library;
}

/* Its memory is a file that all ranks share. */
static void begin_fake(void *library)
{
    int (*begin)(const char *) = NULL;
    char path[HARNESS_PATH_BYTES] = "";

    *(void **)&begin = dlsym(library, "fake_begin_in");
    if (world_rank() == 0) {
        (void)harness_path(path, "nccl");
    }
    MPI_Bcast(path, (int)sizeof path, MPI_CHAR, 0, MPI_COMM_WORLD);
    REQUIRE(begin == NULL || begin(path) == 0, "%s", path); /* the old one has nothing to begin */
    MPI_Barrier(MPI_COMM_WORLD);
    if (begin != NULL && world_rank() == 0) {
        REQUIRE(remove(path) == 0, "%s", path);
    }
}

static void run_group(tacit_nccl_t *nccl)
{
    static float        x[COUNT], out[COUNT];
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_nccl_group_t *group;
    tacit_codec_t      *codec;
    const void         *in = x;
    void               *to = out;

    tensor.count = COUNT;
    tensor.device = TACIT_CUDA;
    tensor.spec = specs[0];
    world_input(world_rank(), 0, COUNT, x);
    MUST(tacit_codec_create("tensor", &tensor, NULL, world_rank(), world_ranks(), &codec));
    MUST(tacit_nccl_group_create(nccl, &codec, 1, TACIT_SUM, &group));
    MUST(tacit_nccl_group_run(group, TACIT_STEP_NEXT, &in, &to, NULL));
    MUST(tacit_nccl_wait(nccl, NULL));
    MUST(tacit_nccl_group_poll(group, 0));
    REQUIRE(world_agrees(MPI_COMM_WORLD, out, sizeof out), "replicas differ");
    tacit_nccl_destroy(nccl);
    tacit_codec_destroy(codec);
}

static void test_nccl(void)
{
    const bool     old = world_ranks() == 2;
    void          *library = load_fake(old && world_rank() == 1 ? "libnccl_old.so" : "libnccl_fake.so");
    tacit_nccl_t  *nccl = NULL;
    tacit_status_t status;

    begin_fake(library);
    status = tacit_nccl_create_mpi(MPI_COMM_WORLD, NULL, &nccl);
    if (old) {
        REQUIRE(status == TACIT_ERR_UNSUPPORTED && nccl == NULL, "%d", (int)status);
        REQUIRE(strncmp(tacit_last_error(), "rank 1: the NCCL that was found", 31) == 0, "another text");
    } else {
        REQUIRE(status == TACIT_OK, "%d", (int)status);
        REQUIRE(tacit_nccl_rank(nccl) == world_rank() && tacit_nccl_ranks(nccl) == world_ranks(), "other ranks");
        run_group(nccl);
        status = tacit_nccl_create_mpi(MPI_COMM_WORLD, NULL, world_rank() == 2 ? NULL : &nccl);
        REQUIRE(status == TACIT_ERR_ARGUMENT, "another status");
        REQUIRE(strcmp(tacit_last_error(), "rank 2: nccl_out must be given") == 0, "another text");
    }
    REQUIRE(tacit_nccl_create_mpi(MPI_COMM_NULL, NULL, &nccl) == TACIT_ERR_ARGUMENT, "another status");
}

#else

static void test_nccl(void)
{
    tacit_nccl_t *nccl = NULL;

    REQUIRE(tacit_nccl_create_mpi(MPI_COMM_WORLD, NULL, &nccl) == TACIT_ERR_UNSUPPORTED, "another status");
    REQUIRE(strncmp(tacit_last_error(), "rank 0: ", 8) == 0, "another text");
}

#endif

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    tacit__cuda_use(tacit_cuda_module(sizeof(tacit_cuda_module_t)));
    test_slots();
    test_layers();
    test_nccl();
    MPI_Finalize();
    return 0;
}
