/* SPDX-License-Identifier: Apache-2.0 */
/* Blockwise between hosts, of the exact sums of each host's ranks (rails.c). Here is what of that is of chunks: the order in
   which a host sums them up, and how their results come to its other ranks. */
#include <string.h>

#include "blockwise.h"

/* The order in which a rail's leader on this host encodes: owners in turn, the own part's chunks last in each round. */
static void put_in_order(const tacit_blockwise_t *blockwise, int rail, int host)
{
    size_t segments = 0;
    bool   any = true;

    for (size_t round = 0; any; round++) {
        any = false;
        for (int turn = 1; turn <= blockwise->hosts; turn++) {
            const int      owner = rail * blockwise->hosts + (host + turn) % blockwise->hosts;
            const size_t   c = blockwise->part[owner] + round;
            tacit_chunk_t *chunk = c < blockwise->part[owner + 1] ? &blockwise->chunks[c] : NULL;

            if (chunk == NULL) {
                continue;
            }
            for (size_t s = 0; s < chunk->segment_count; s++) {
                tacit__levels_append(blockwise->levels, rail, &blockwise->segments[chunk->segment_first + s]);
            }
            segments += chunk->segment_count;
            chunk->place = segments; /* that of the own rail is what is looked at */
            any = true;
        }
    }
}

tacit_status_t tacit__two_level_prepare(tacit_leg_t *leg)
{
    tacit_blockwise_t *blockwise = leg->state;
    const int          host = blockwise->topology->host_of[leg->comm->rank];
    const int          hosts = blockwise->hosts;
    tacit_status_t     status;

    TRY(tacit__levels_create(leg, blockwise->topology, blockwise->segment_count, &blockwise->levels));
    for (int rail = 0; rail < blockwise->topology->rails; rail++) {
        put_in_order(blockwise, rail, host);
        if (blockwise->part[(rail + 1) * hosts] - blockwise->part[rail * hosts] > TACIT_MOST_FRAMES) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: a rail of more than %d chunks; raise chunk_bytes", leg->comm->rank,
                               TACIT_MOST_FRAMES);
        }
    }
    TRY(tacit__levels_prepare(leg, blockwise->levels));
out:
    return status;
}

tacit_status_t tacit__two_level_pass_on(tacit_leg_t *leg, const tacit_chunk_t *chunk)
{
    const tacit_blockwise_t *blockwise = leg->state;
    const int                rail = blockwise->own / blockwise->hosts, hosts = blockwise->hosts;
    const size_t             chunks = blockwise->part[(rail + 1) * hosts] - blockwise->part[rail * hosts];
    uint8_t                 *message = tacit__blockwise_result(blockwise, chunk);
    tacit_frame_t            frame = tacit__leg_frame(leg, TACIT_FRAME_RESULT);

    if (blockwise->levels->here == 1) {
        return TACIT_OK;
    }
    frame.round = leg->round + TACIT_LEVELS_PASSED;
    frame.index = blockwise->levels->passed++;
    frame.total = (uint32_t)(chunks - (blockwise->own_end - blockwise->own_begin));
    frame.first = (uint32_t)(chunk - blockwise->chunks);
    frame.count = (uint32_t)chunk->elements;
    frame.payload_bytes = (uint32_t)chunk->payload_bytes;
    return tacit__levels_tell(leg, blockwise->levels, message, tacit__frame_write(&frame, message));
}

/* ---- The schedule ---- */

/* Not a 16-bit tensor that is to stay as it is: its sums are not of 16 bits. */
static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    const bool stays = (comm->environment.disable != 0 || strcmp(codec->given.compressor->name, "none") == 0) &&
                       strcmp(codec->compressor->name, "bf16") == 0; /* else "auto" has chosen to compress it */

    return tacit__topology_has_levels(comm->topology) && tacit__codec_is_blockwise(codec) && !codec->compressor->saturates &&
           !(stays && codec->tensor.dtype != TACIT_FLOAT32);
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    return tacit__blockwise_prepare(leg, leg->comm->topology);
}

const tacit_schedule_t tacit__schedule_two_level = {
    .name = "two_level",
    .summary = "as blockwise, between hosts, of the exact sums of each host's ranks",
    .framed = true,
    .levels = true,
    .round = 7,
    .rounds = TACIT_LEVELS_ROUNDS,
    .carries = carries,
    .prepare = prepare,
    .advance = tacit__blockwise_advance,
    .done = tacit__blockwise_done,
    .arrived = tacit__blockwise_arrived,
    .commit = tacit__blockwise_commit,
    .undo = tacit__blockwise_undo,
    .release = tacit__blockwise_release,
};
