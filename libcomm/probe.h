/* SPDX-License-Identifier: Apache-2.0 */
/* Trials: how long each schedule takes with tensors that belong to no caller. */
#ifndef TACIT_PROBE_H
#define TACIT_PROBE_H

#include "schedule.h"

enum { TACIT_WAYS = 10 }; /* more than there are schedules */

/* What one schedule took: of the slowest rank, in seconds. 0: it does not carry the tensor. */
typedef struct tacit_times {
    float usual, mean, least; /* of some trials: the median, the mean and the shortest */
} tacit_times_t;

/* Reduces a tensor like the codec's, but of `count` elements, by every schedule that carries it, some times over. times_out: by
   schedule. *round_out: what all of them take once. Collective; every rank returns the same. */
tacit_status_t tacit__probe(tacit_comm_t *comm, const tacit_codec_t *like, size_t count, tacit_times_t times_out[TACIT_WAYS],
                            double *round_out);
/* Every rank's `words` floats to all, rank by rank, exact but for the sign of zero. `mine` is this rank's own status so far: if
   it is not OK, all ranks return it. */
tacit_status_t tacit__probe_gather(tacit_comm_t *comm, const float *own, size_t words, tacit_status_t mine, float *all);

#endif
