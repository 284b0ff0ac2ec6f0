/* SPDX-License-Identifier: Apache-2.0 */
/* What collectives cost on this communicator: how long each schedule took with tensors of some sizes, measured when a slot is
   made whose schedule depends on it. The rest follows: what another size will take, and the choice. */
#ifndef TACIT_COST_H
#define TACIT_COST_H

#include "probe.h"

/* Tensors that are measured have 4^i KiB, i from 0, as float32. */
enum { TACIT_SIZES = 9 };
size_t tacit__cost_bytes(size_t size);

/* What is known of tensors of one kind: of one spec, type and form. */
typedef struct tacit_curves {
    struct tacit_curves *next;
    char                *key;
    size_t               known;                          /* sizes, the smallest first */
    bool                 whole;                          /* larger ones would take too long */
    double               round;                          /* what all schedules together took for the largest */
    tacit_times_t        times[TACIT_WAYS][TACIT_SIZES]; /* by schedule */
} tacit_curves_t;

typedef struct tacit_cost {
    tacit_curves_t *curves;
    uint64_t        told[64]; /* of which choices a line was logged: hashes, the latest */
    size_t          told_count;
} tacit_cost_t;

/* Before a slot gets its schedule, after ranks have agreed on it: if that depends on what is not known yet, finds it out, up to
   the slot's size; `all`: even if nothing depends on it. Takes about as long as some tens of reductions of the slot, and some
   tenths of a second on slow links. Collective; every rank returns the same. */
tacit_status_t tacit__cost_learn(tacit_comm_t *comm, const tacit_codec_t *codec, bool all);
/* Whether a slot is large enough for its schedule to depend on what was measured. */
bool tacit__cost_matters(const tacit_comm_t *comm, const tacit_codec_t *codec);
/* Seconds that a slot's reduction is predicted to take by a schedule; NaN: not known. */
double tacit__cost_seconds(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule);
/* The schedule for a slot that goes by `usual` where nothing is known; the same on all ranks. */
const tacit_schedule_t *tacit__cost_choose(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *usual);
/* Why a slot's schedule is that: `text`, or one that is always the same. */
const char *tacit__cost_reason(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule, char *text,
                               size_t capacity);
/* Rank 0 logs a slot's schedule and why, once for each kind and size. */
void tacit__cost_tell(tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule);
void tacit__cost_fini(tacit_cost_t *cost);

/* What a tensor of `bytes` takes, from the times for the first `known` sizes: on lines between them, and never less than a
   smaller one; beyond the last, on the line through that and the first. All NaN where the schedule does not carry it. */
tacit_times_t tacit__curve_at(const tacit_times_t times[TACIT_SIZES], size_t known, size_t bytes);

#endif
