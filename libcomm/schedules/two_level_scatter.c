/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse reduce-scatter and all-gather between hosts, of the exact sums of each host's ranks (rails.c): the leaders of a rail are
   owners (sparse_scatter.c), and pass on to their host's other ranks what the others choose. */
#include "sparse_scatter.h"

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return tacit__topology_has_levels(comm->topology) && tacit__scatter_carries(codec);
}

static bool pays(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return tacit__scatter_pays(codec, comm->topology);
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    return tacit__scatter_prepare(leg, leg->comm->topology);
}

/* Others wait for what this rank has of their rails: that goes first. */
static tacit_status_t advance(tacit_leg_t *leg)
{
    const tacit_status_t status = tacit__levels_advance(leg, ((tacit_scatter_t *)leg->state)->levels);

    return status == TACIT_PENDING ? tacit__scatter_advance(leg) : status;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_scatter_t *scatter = leg->state;
    tacit_status_t   status;

    if (frame->round == leg->round + TACIT_LEVELS_INPUTS) {
        return tacit__levels_add(leg, scatter->levels, frame);
    }
    TRY(tacit__scatter_arrived(leg, frame, frame->round != leg->round));
    if (frame->kind == TACIT_FRAME_RESULT && !leg->comm->exchange.peers[frame->rank].near) {
        TRY(tacit__levels_pass_on(leg, scatter->levels, &scatter->results, frame));
    }
out:
    return status;
}

const tacit_schedule_t tacit__schedule_two_level_scatter = {
    .name = "two_level_scatter",
    .summary = "as sparse-scatter, between hosts, of the exact sums of each host's ranks",
    .framed = true,
    .levels = true,
    .round = 20,
    .rounds = TACIT_LEVELS_ROUNDS,
    .carries = carries,
    .pays = pays,
    .prepare = prepare,
    .advance = advance,
    .done = tacit__scatter_done,
    .arrived = arrived,
    .commit = tacit__scatter_commit,
    .undo = tacit__scatter_undo,
    .release = tacit__scatter_release,
};
