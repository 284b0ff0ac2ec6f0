/* SPDX-License-Identifier: Apache-2.0 */
/* What slots tell of themselves: bytes that really left, calls, dense bytes, norms. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum { RANKS = 3, SLOTS = 5, MATRIX = 3, CALLS = 2 };

static const char *const specs[SLOTS] = {"onebit:block=64+ef", "topk:ratio=0.05+ef", "randk:ratio=0.1+ef", "powersgd:rank=2+ef",
                                         "none"};
static const size_t      counts[SLOTS] = {3000, 5000, 999, 40 * 60, 0};
/* Floats that are reduced by schedule linear: randk's entries; two factors of two vectors each. */
static const uint64_t factors[SLOTS] = {0, 0, 100, 2 * (40 + 60), 0};

typedef struct found {
    tacit_counters_t counters[RANKS][SLOTS];
    tacit_norms_t    norms[RANKS][SLOTS];
    double           memory[RANKS][SLOTS], owner[RANKS][SLOTS]; /* the same from the arrays themselves */
    uint64_t         sent[RANKS];                               /* by all operations, as the exchange counted */
} found_t;

static double norm_of(const float *values, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++) {
        sum += (double)values[i] * (double)values[i];
    }
    return sqrt(sum);
}

/* One group, then each slot alone. */
static void body(tacit_comm_t *comm, void *arg)
{
    found_t      *found = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[SLOTS];
    float        *x = calloc(counts[1], sizeof *x), *out[SLOTS];

    harness_fill(x, counts[1], (uint64_t)rank + 1, 1.0f);
    for (size_t s = 0; s < SLOTS; s++) {
        tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;

        config.count = counts[s];
        config.spec = specs[s];
        config.ndim = s == MATRIX ? 2 : 1;
        config.shape[0] = s == MATRIX ? 40 : counts[s];
        config.shape[1] = 60;
        MUST(tacit_slot_create(comm, specs[s], &config, &slots[s]));
        out[s] = calloc(counts[s] + 1, sizeof *out[s]);
    }
    MUST(tacit_group_begin(comm));
    for (size_t s = 0; s < SLOTS; s++) {
        MUST(tacit_allreduce(slots[s], x, out[s], TACIT_AVERAGE));
    }
    MUST(tacit_group_end(comm, NULL));
    found->sent[rank] = comm->exchange.bytes_sent;
    for (size_t s = 0; s < SLOTS; s++) {
        const tacit_codec_t *codec = slots[s]->codec;

        MUST(tacit_allreduce(slots[s], x, out[s], TACIT_AVERAGE));
        found->sent[rank] += comm->exchange.bytes_sent;
        MUST(tacit_slot_counters(slots[s], &found->counters[rank][s]));
        MUST(tacit_slot_norms(slots[s], &found->norms[rank][s]));
        if (codec->feedback != NULL) {
            found->memory[rank][s] = norm_of(codec->memory.now[0], codec->memory.count);
            found->owner[rank][s] = norm_of(codec->owner.now[0], codec->owner.count);
        }
        free(out[s]);
    }
    free(x);
}

START_TEST(add_up)
{
    found_t found = {0};

    run_ranks(RANKS, NULL, body, &found);
    for (int rank = 0; rank < RANKS; rank++) {
        uint64_t told = 0;

        for (size_t s = 0; s < SLOTS; s++) {
            const tacit_counters_t *counters = &found.counters[rank][s];

            told += counters->wire_bytes;
            ck_assert_uint_eq(counters->calls, CALLS);
            ck_assert_uint_eq(counters->bytes_in, CALLS * counts[s] * sizeof(float));
            ck_assert_uint_eq(counters->dense_bytes, CALLS * (2 * (RANKS - 1) * counts[s] * 4 / RANKS));
            ck_assert_double_ge(counters->encode_seconds, 0);
            ck_assert_double_ge(counters->wire_seconds, 0);
            ck_assert_double_ge(counters->decode_seconds, 0);
            ck_assert_double_eq(found.norms[rank][s].memory, found.memory[rank][s]);
            ck_assert_double_eq(found.norms[rank][s].owner, found.owner[rank][s]);
        }
        /* Each slot's share of the group is rounded. */
        ck_assert_uint_ge(told + SLOTS, found.sent[rank]);
        ck_assert_uint_le(told, found.sent[rank] + SLOTS);
    }
    /* Of all ranks: every float goes from N - 1 ranks to its owner and back. Beside it there are headers. */
    for (size_t s = 0; s < SLOTS; s++) {
        const uint64_t payload = CALLS * 2 * (RANKS - 1) * factors[s] * sizeof(float);
        uint64_t       told = 0;

        for (int rank = 0; rank < RANKS; rank++) {
            told += found.counters[rank][s].wire_bytes;
        }
        if (factors[s] > 0) {
            ck_assert_uint_ge(told, payload);
            ck_assert_uint_le(told, payload + 3000);
        }
    }
    ck_assert_double_gt(found.norms[0][0].memory, 0);
    ck_assert_double_gt(found.norms[0][0].owner, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("counters");
    TCase *tcase = tcase_create("counters");

    tcase_add_test(tcase, add_up);
    suite_add_tcase(suite, tcase);
    return harness_main(suite);
}
