/* SPDX-License-Identifier: Apache-2.0 */
/* What collectives cost on this communicator, as it was measured: the start of a cost model. So far it tells only whether the
   ring or the native call is the faster one for tensors that stay dense. */
#ifndef TACIT_COST_H
#define TACIT_COST_H

#include "schedule.h"

/* Seconds that `bytes` bytes take: fixed + bytes * each. */
typedef struct tacit_line {
    double fixed, each;
} tacit_line_t;

typedef struct tacit_cost {
    bool         known;    /* the rest has been found out */
    bool         one_host; /* all ranks share memory, and nothing was measured */
    tacit_line_t native, ring;
} tacit_cost_t;

/* Before a slot gets its schedule, after ranks have agreed on it: if that depends on what is not known yet, finds it out.
   Collective; takes some tenths of a second on slow links, and next to nothing where all ranks are on one host. Every rank
   returns the same. */
tacit_status_t tacit__cost_learn(tacit_comm_t *comm, const tacit_codec_t *codec);
/* Whether the ring is predicted to be clearly faster than the native call; false where that is not known. */
bool tacit__cost_ring_pays(const tacit_comm_t *comm, const tacit_codec_t *codec);

#endif
