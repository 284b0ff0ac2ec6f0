/* SPDX-License-Identifier: Apache-2.0 */
/* The progress thread over MPI: requests of all kinds complete while the program makes no call, or only calls of its own to MPI,
   with the bits of a communicator without it. */
/* ranks: 2 3 4 */
#include <time.h>

#include "operation.h"
#include "world.h"

enum { KINDS = 5, COUNT = 40000, STEPS = 8, SIDES = 3, LONGEST_SECONDS = 60 };

static const char *const specs[KINDS] = {"onebit:block=64+ef", "topk:ratio=0.02+ef", "none", "qsgd:bits=4+ef", "auto"};

typedef struct side {
    tacit_comm_t    *comm;
    tacit_slot_t    *slots[KINDS];
    tacit_request_t *requests[KINDS];
    float           *out[KINDS];
} side_t;

static float *x[KINDS];

static void sleep_ms(long ms)
{
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&pause, NULL);
}

static double processor_seconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Waits without a call on the communicator; `busy` also keeps MPI at work from this thread. */
static void await(const tacit_request_t *request, bool busy)
{
    const double began = tacit__seconds();

    while (*(const volatile tacit_phase_t *)&request->phase != TACIT_FINISHED) {
        REQUIRE(tacit__seconds() - began < LONGEST_SECONDS, "a request does not complete by itself");
        if (!busy) {
            sleep_ms(1);
        } else {
            int flag, word = 0;

            MPI_Iprobe(MPI_ANY_SOURCE, 99, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
            MPI_Sendrecv_replace(&word, 1, MPI_INT, world_rank(), 98, world_rank(), 98, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        }
    }
}

static side_t make_side(tacit_progress_t progress)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    side_t         side = {.comm = NULL};

    config.progress = (int)progress;
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &side.comm));
    REQUIRE(tacit_comm_has_thread(side.comm) == (progress == TACIT_PROGRESS_THREAD), "a thread");
    for (int k = 0; k < KINDS; k++) {
        side.slots[k] = slot_of(side.comm, specs[k], COUNT, TACIT_FLOAT32, specs[k]);
        side.out[k] = calloc(COUNT, sizeof(float));
    }
    return side;
}

static void free_side(side_t *side)
{
    for (int k = 0; k < KINDS; k++) {
        free(side->out[k]);
    }
    tacit_comm_destroy(side->comm);
}

static void start(side_t *side, int step)
{
    if (step % 4 == 3) { /* as a group */
        MUST(tacit_group_begin(side->comm));
    }
    for (int k = 0; k < KINDS; k++) {
        if (step % 4 == 3) {
            MUST(tacit_allreduce(side->slots[k], x[k], side->out[k], TACIT_AVERAGE));
        } else {
            MUST(tacit_iallreduce(side->slots[k], x[k], side->out[k], TACIT_AVERAGE, &side->requests[k]));
        }
    }
    if (step % 4 == 3) {
        MUST(tacit_group_end(side->comm, &side->requests[KINDS - 1]));
    }
}

static void finish(side_t *side)
{
    for (int k = 0; k < KINDS; k++) {
        MUST(tacit_wait(&side->requests[k]));
    }
}

/* All communicators at once, the program's own collectives between them. */
static void step_of(side_t *sides, int step)
{
    int word = 1;

    for (int k = 0; k < KINDS; k++) {
        world_input(world_rank(), KINDS * step + k, COUNT, x[k]);
    }
    for (int i = 0; i < SIDES; i++) {
        start(&sides[i], step);
    }
    if (step % 2 != 0) {
        MPI_Allreduce(MPI_IN_PLACE, &word, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        REQUIRE(word == world_ranks(), "%d", word);
    }
    sleep_ms(step == 5 ? 5 * world_rank() : 0);
    for (int i = 1; i < SIDES && step != 4; i++) { /* then the threads and tacit_wait() share the work */
        await(sides[i].requests[KINDS - 1], step % 2 == 0);
    }
    for (int i = SIDES - 1; i >= 0; i--) {
        finish(&sides[i]);
    }
    for (int k = 0; k < KINDS; k++) {
        const bool native = strcmp(tacit_slot_schedule(sides[0].slots[k]), "native") == 0;

        for (int i = 1; i < SIDES; i++) {
            REQUIRE(memcmp(sides[i].out[k], sides[0].out[k], COUNT * sizeof(float)) == 0, "%s, step %d: another result", specs[k],
                    step);
        }
        REQUIRE(native || world_agrees(MPI_COMM_WORLD, sides[0].out[k], COUNT * sizeof(float)), "%s, step %d: ranks differ",
                specs[k], step);
    }
    for (int i = 0; i < SIDES; i++) { /* a blocking call in between */
        MUST(tacit_allreduce(sides[i].slots[step % KINDS], x[0], sides[i].out[0], TACIT_SUM));
    }
}

/* The thread sleeps where there is nothing to do, and so does the whole process. */
static void rest(void)
{
    const double before = processor_seconds();

    sleep_ms(200);
    REQUIRE(processor_seconds() - before < 0.02, "idle for 200 ms, it took %.1f ms", 1e3 * (processor_seconds() - before));
}

/* MPI ends while a request is under way: the thread has gone by then, and calls say what they would without it. */
static void outlive(void)
{
    side_t         side = make_side(TACIT_PROGRESS_THREAD);
    tacit_status_t status;

    MUST(tacit_iallreduce(side.slots[0], x[0], side.out[0], TACIT_SUM, &side.requests[0]));
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    status = tacit_wait(&side.requests[0]);
    if (tacit_comm_has_thread(side.comm) || (status != TACIT_OK && status != TACIT_ERR_BROKEN && status != TACIT_ERR_TRANSPORT)) {
        fprintf(stderr, "after MPI_Finalize(): %d: %s\n", status, tacit_last_error());
        abort();
    }
    free_side(&side);
}

int main(int argc, char **argv)
{
    side_t sides[SIDES];
    int    level;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    if (level != MPI_THREAD_MULTIPLE) {
        puts("skipped: this MPI has no MPI_THREAD_MULTIPLE");
        MPI_Finalize();
        return 77;
    }
    for (int k = 0; k < KINDS; k++) {
        x[k] = calloc(COUNT, sizeof(float));
    }
    for (int i = 0; i < SIDES; i++) {
        sides[i] = make_side(i == 0 ? TACIT_PROGRESS_CALLS : TACIT_PROGRESS_THREAD);
    }
    for (int step = 0; step < STEPS; step++) {
        step_of(sides, step);
    }
    rest();
    for (int i = 0; i < SIDES; i++) {
        free_side(&sides[i]);
    }
    outlive();
    for (int k = 0; k < KINDS; k++) {
        free(x[k]);
    }
    return 0;
}
