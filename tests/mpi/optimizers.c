/* SPDX-License-Identifier: Apache-2.0 */
/* Optimizers over MPI, where slots of `none` travel natively beside framed ones: values are the same on all ranks after every
   step, and a NaN, which no native call looks at, or a rate of its own on one rank is every rank's error and changes nothing.
   Layerwise adaptation over MPI. */
/* ranks: 2 3 4 8 */
#include <math.h>

#include "tacit_optim.h"
#include "world.h"

enum { STEPS = 12, COUNT = 500, TENSORS = 2 };

static const char *const optimizers[] = {"sgd:clip=2", "adam:weight-decay=0.01", "onebit-adam:freeze=5,clip=1",
                                         "zeroone-adam:variance-scaler=2,freeze=5,clip=1", "onebit-lamb:freeze=5,clip=1"};
static const char *const specs[][TENSORS] = {{"none", "none"}, {"none", "topk:ratio=0.05+ef"}, {"onebit+ef", "none"}};

static float values[TENSORS][COUNT], gradients[TENSORS][COUNT], kept[TENSORS][COUNT];

static tacit_status_t step(tacit_optim_t *optim, double rate)
{
    float *const       to[] = {values[0], values[1]};
    const float *const from[] = {gradients[0], gradients[1]};

    return tacit_optim_step(optim, to, from, rate);
}

static void fill(int number)
{
    for (int t = 0; t < TENSORS; t++) {
        world_input(world_rank(), TENSORS * number + t, COUNT, gradients[t]);
    }
}

/* The last rank does it, in each tensor in turn. */
static void fail(tacit_optim_t *optim, int number, const char *name)
{
    const bool odd = world_rank() == world_ranks() - 1;

    memcpy(kept, values, sizeof kept);
    for (int t = 0; t < TENSORS; t++) {
        fill(number);
        gradients[t][COUNT / 2] = odd ? NAN : 1.0f;
        REQUIRE(step(optim, 0.1) == TACIT_ERR_VALUE, "%s, a NaN in tensor %d", name, t);
        REQUIRE(memcmp(kept, values, sizeof kept) == 0, "%s has changed by a NaN in tensor %d", name, t);
    }
    fill(number);
    REQUIRE(step(optim, odd ? 0.2 : 0.1) == TACIT_ERR_MISMATCH, "%s, another rate", name);
    REQUIRE(step(optim, odd ? -1.0 : 0.1) == TACIT_ERR_ARGUMENT, "%s, a bad rate", name);
    REQUIRE(memcmp(kept, values, sizeof kept) == 0, "%s has changed by a rate", name);
}

/* All ranks' values together have no finite sum, in the slots that travel natively: known before any memory has changed. */
static void overflow(tacit_optim_t *optim, tacit_slot_t *const *slots, int number, const char *name)
{
    for (int t = 0; t < TENSORS; t++) {
        tacit_norms_t    norms, norms_after;
        tacit_counters_t calls, calls_after;
        char             where[64];

        if (strcmp(tacit_slot_schedule(slots[t]), "native") != 0 || strncmp(name, "onebit", 6) == 0 ||
            strncmp(name, "zeroone", 7) == 0) {
            continue;
        }
        memcpy(kept, values, sizeof kept);
        fill(number);
        gradients[t][COUNT / 2] = 3e38f;
        MUST(tacit_slot_norms(slots[1 - t], &norms));
        MUST(tacit_slot_counters(slots[1 - t], &calls));
        REQUIRE(step(optim, 0.1) == TACIT_ERR_VALUE, "%s, too large a sum in tensor %d", name, t);
        REQUIRE(strstr(tacit_last_error(), "may not be finite") != NULL, "%s: %s", name, tacit_last_error());
        MUST(tacit_slot_norms(slots[1 - t], &norms_after));
        MUST(tacit_slot_counters(slots[1 - t], &calls_after));
        REQUIRE(norms.memory == norms_after.memory && calls.calls == calls_after.calls, "%s: memory has changed", name);
        REQUIRE(memcmp(kept, values, sizeof kept) == 0, "%s has changed by too large a sum", name);
        gradients[t][COUNT / 2] = NAN;
        snprintf(where, sizeof where, "at step %d holds NaN", number);
        REQUIRE(step(optim, 0.1) == TACIT_ERR_VALUE && strstr(tacit_last_error(), where) != NULL &&
                    strstr(tacit_last_error(), "or set nonfinite to pass") != NULL,
                "%s, a NaN at step %d: %s", name, number, tacit_last_error());
    }
}

static void descend(tacit_comm_t *comm, const char *name, const char *const spec[TENSORS])
{
    tacit_slot_t    *slots[] = {slot_of(comm, "first", COUNT, TACIT_FLOAT32, spec[0]),
                                slot_of(comm, "second", COUNT, TACIT_FLOAT32, spec[1])};
    tacit_optim_t   *optim;
    tacit_counters_t counters;

    memset(values, 0, sizeof values);
    MUST(tacit_optim_create(name, slots, TENSORS, &optim));
    for (int number = 0; number < STEPS; number++) {
        if (number % 4 == 3) {
            fail(optim, number, name);
            if (strstr(name, "clip=") == NULL || spec == specs[0]) { /* else a feedback remembers, and before it is clipped */
                overflow(optim, slots, number, name);
            }
        }
        fill(number);
        MUST(step(optim, 0.1));
        REQUIRE(world_agrees(MPI_COMM_WORLD, values, sizeof values), "%s: ranks differ after step %d", name, number);
        REQUIRE(memcmp(kept, values, sizeof kept) != 0, "%s did not move at step %d", name, number);
    }
    REQUIRE(tacit_optim_steps(optim) == STEPS, "%s", name);
    MUST(tacit_optim_counters(optim, &counters));
    REQUIRE(counters.wire_bytes > 0 || spec != specs[0], "%s: the agreement of native steps is not counted", name);
    tacit_optim_destroy(optim);
    tacit_slot_destroy(slots[0]);
    tacit_slot_destroy(slots[1]);
}

/* Slots that are adapted while they are reduced: specs and results are the same on all ranks after every step. */
static void adapt(tacit_comm_t *comm)
{
    tacit_lgreco_config_t config = TACIT_LGRECO_CONFIG_INIT;
    tacit_lgreco_report_t report;
    tacit_slot_t         *slots[] = {slot_of(comm, "sparse", COUNT, TACIT_FLOAT32, "topk:ratio=0.05+ef"),
                                     slot_of(comm, "flat", COUNT, TACIT_FLOAT32, "topk:ratio=0.05+ef")};
    tacit_lgreco_t       *lgreco;

    config.every = 4;
    config.gather = 2;
    MUST(tacit_lgreco_create(slots, TENSORS, &config, &lgreco));
    for (int number = 0; number < STEPS; number++) {
        char specs_now[TENSORS][256] = {""};

        fill(number);
        for (size_t i = 0; i < COUNT; i++) {
            gradients[0][i] *= gradients[0][i] * gradients[0][i]; /* a few elements have most of it */
            gradients[1][i] *= 0.1f;                              /* and here there is little to lose */
        }
        MUST(tacit_lgreco_observe(lgreco, (const float *const[]){gradients[0], gradients[1]}));
        for (int t = 0; t < TENSORS; t++) {
            MUST(tacit_allreduce(slots[t], gradients[t], gradients[t], TACIT_AVERAGE));
            snprintf(specs_now[t], sizeof specs_now[t], "%s", tacit_slot_spec(slots[t]));
        }
        REQUIRE(world_agrees(MPI_COMM_WORLD, gradients, sizeof gradients), "lgreco: ranks differ after step %d", number);
        REQUIRE(world_agrees(MPI_COMM_WORLD, specs_now, sizeof specs_now), "lgreco: specs differ after step %d", number);
    }
    MUST(tacit_lgreco_report(lgreco, &report));
    REQUIRE(report.plans == STEPS / 4, "%g plans", (double)report.plans);
    REQUIRE(report.planned_bytes < report.uniform_bytes, "%g bytes, uniform %g", report.planned_bytes, report.uniform_bytes);
    tacit_lgreco_destroy(lgreco);
    tacit_slot_destroy(slots[0]);
    tacit_slot_destroy(slots[1]);
}

int main(int argc, char **argv)
{
    tacit_comm_t *comm;

    MPI_Init(&argc, &argv);
    MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++) {
        for (size_t j = 0; j < sizeof specs / sizeof *specs; j++) {
            descend(comm, optimizers[i], specs[j]);
        }
    }
    adapt(comm);
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
