/* SPDX-License-Identifier: Apache-2.0 */
/* All-reduce over MPI: every kind of spec over sizes from nothing to several chunks a rank, the same bits on all ranks, and a sum
   that a serial one in float64 confirms, memory counted in. */
#include <float.h>
#include <math.h>

#include "comm.h"
#include "world.h"

enum { STEPS = 3 };

/* `lost` is what may be missing from a contribution, and from the result, where nothing is remembered: relative to the largest
   magnitude of what is encoded. */
static const struct {
    const char *spec;
    double      lost;
    bool        native;
} kinds[] = {{"none", 0, true},
             {"auto", 0, true},
             {"none by ring", 0, false},
             {"none+ef", 0, false},
             {"fp16", 0x1p-11, false}, /* to the nearest of 11 bits */
             {"bf16:own=coded", 0x1p-8, false},
             {"qsgd:bits=8", 2.0 / 255, false}, /* a level up or down at random, of a range of both signs */
             {"bf16+ef", 0, false},
             {"onebit+ef", 0, false},
             {"onebit:block=0,own=coded+ef", 0, false},
             {"qsgd:bits=4+ef", 0, false},
             {"topk:ratio=0.01+ef", 0, false},
             {"topk:ratio=0.1,values=fp16+ef", 0, false},
             {"randk:ratio=0.1+ef", 0, false}};

static const size_t counts[] = {0, 1, 65, 1000, 70000}; /* the last one is several slabs of a ring of up to four */

typedef struct sums {
    double *balance; /* of what was given and what came out, of each element */
    double  largest; /* contribution, in units of the result, and memory */
} sums_t;

static double largest_of(const float *values, size_t count)
{
    double largest = 0;

    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)values[i]));
    }
    return largest;
}

static void give(sums_t *sums, int step, size_t count, double share)
{
    float *x = calloc(count + 1, sizeof *x);
    double largest = 0;

    for (int rank = 0; rank < world_ranks(); rank++) {
        world_input(rank, step, count, x);
        largest += share * largest_of(x, count);
        for (size_t i = 0; i < count; i++) {
            sums->balance[i] += share * (double)x[i];
        }
    }
    sums->largest = fmax(sums->largest, largest);
    free(x);
}

/* All ranks' memories: gathered, as bytes, and added up here. */
static void remember(sums_t *sums, const tacit_codec_t *codec, double share)
{
    const size_t count = codec->tensor.count, ranks = (size_t)world_ranks();
    float       *own = calloc(2 * count + 1, sizeof *own), *all = calloc(ranks * 2 * count + 1, sizeof *all);

    memcpy(own, codec->memory.now[0], count * sizeof *own);
    for (size_t i = 0, element; i < codec->owner.count; i++) {
        (void)tacit__codec_owned(codec, i, &element);
        own[count + element] = codec->owner.now[0][i];
    }
    MPI_Allgather(own, (int)(2 * count), MPI_FLOAT, all, (int)(2 * count), MPI_FLOAT, MPI_COMM_WORLD);
    for (size_t rank = 0; rank < ranks; rank++) {
        const float *memory = all + rank * 2 * count, *owner = memory + count;

        sums->largest += share * largest_of(memory, count) + largest_of(owner, count) / (double)ranks;
        for (size_t i = 0; i < count; i++) {
            sums->balance[i] -= share * (double)memory[i] + (double)owner[i];
        }
    }
    free(own);
    free(all);
}

static void check_kind(tacit_comm_t *comm, size_t k, size_t count, tacit_op_t op)
{
    const int     ranks = world_ranks();
    const double  share = op == TACIT_AVERAGE ? 1.0 / ranks : 1.0;
    char          name[64];
    tacit_slot_t *slot;
    sums_t        sums = {calloc(count + 1, sizeof *sums.balance), 0};
    float        *x = calloc(count + 1, sizeof *x), *y = calloc(count + 1, sizeof *y);
    double        bound;

    snprintf(name, sizeof name, "%zu elements, kind %zu", count, k);
    slot = slot_of(comm, name, count, TACIT_FLOAT32, kinds[k].spec);
    REQUIRE((strcmp(slot->schedule->name, "native") == 0) == kinds[k].native, "%s goes by %s", kinds[k].spec,
            slot->schedule->name);
    for (int step = 0; step < STEPS; step++) {
        float *out = step == 1 ? x : y; /* in place too */

        world_input(world_rank(), step, count, x);
        MUST(tacit_allreduce(slot, x, out, op));
        REQUIRE(kinds[k].native || world_agrees(MPI_COMM_WORLD, out, count * sizeof *out), "%s: ranks differ", kinds[k].spec);
        give(&sums, step, count, share);
        for (size_t i = 0; i < count; i++) {
            sums.balance[i] -= (double)out[i];
        }
    }
    if (slot->codec->feedback != NULL) {
        remember(&sums, slot->codec, share);
    }
    /* Roundings of float32, of every partial sum and memory, in every step; and what is lost for good. */
    bound = STEPS * (2.0 * (ranks + 6) * (double)FLT_EPSILON + 2.1 * kinds[k].lost) * sums.largest;
    for (size_t i = 0; i < count; i++) {
        REQUIRE(fabs(sums.balance[i]) <= bound, "%s, %zu elements: element %zu has lost %g, more than %g", kinds[k].spec, count,
                i, sums.balance[i], bound);
    }
    tacit_slot_destroy(slot);
    free(sums.balance);
    free(x);
    free(y);
}

int main(int argc, char **argv)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_comm_t  *comm, *ring;

    MPI_Init(&argc, &argv);
    config.chunk_bytes = 4096;
    ask_for("none by ring");
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &ring));
    ask_for(NULL);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm));
    REQUIRE(tacit_comm_rank(comm) == world_rank() && tacit_comm_ranks(comm) == world_ranks(), "another rank");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const bool by_ring = strstr(kinds[k].spec, " by ring") != NULL;

        for (size_t n = 0; (!by_ring || world_ranks() > 1) && n < sizeof counts / sizeof *counts; n++) {
            check_kind(by_ring ? ring : comm, k, counts[n], (k + n) % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE);
        }
    }
    tacit_comm_destroy(comm);
    tacit_comm_destroy(ring);
    MPI_Finalize();
    return 0;
}
