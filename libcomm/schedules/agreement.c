/* SPDX-License-Identifier: Apache-2.0 */
/* A text that must be the same on all ranks: how communicators, slots and files are agreed on. Carries no item. */
#include <stdio.h>
#include <string.h>

#include "operation.h"

typedef struct tacit_agreement {
    tacit_buffer_t mine;    /* the own frame … */
    size_t         bytes;   /* … and what it has */
    char          *texts;   /* of all ranks, TACIT_AGREEMENT_BYTES each, with their lines behind them */
    int            present; /* texts here */
    bool           sent, agreed;
} tacit_agreement_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    (void)codec;
    return false;
}

static char *text_of(const tacit_agreement_t *agreement, int rank)
{
    return agreement->texts + (size_t)rank * TACIT_AGREEMENT_BYTES;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_status_t     status;
    tacit_agreement_t *agreement = leg->state = tacit__alloc(1, sizeof *agreement);
    tacit_frame_t      frame = tacit__leg_frame(leg, TACIT_FRAME_AGREEMENT);
    const char        *line = leg->operation->line;
    char              *mine;

    if (agreement == NULL || (agreement->texts = tacit__alloc((size_t)leg->comm->ranks, TACIT_AGREEMENT_BYTES)) == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to agree with %d ranks", leg->comm->rank, leg->comm->ranks);
    }
    mine = text_of(agreement, leg->comm->rank);
    frame.payload_bytes = (uint32_t)snprintf(mine, TACIT_AGREEMENT_BYTES, "%s", leg->operation->text);
    if (line != NULL) {
        mine += frame.payload_bytes + 1;
        frame.payload_bytes += 1 + (uint32_t)snprintf(mine, TACIT_LINE_BYTES, "%s", line);
    }
    frame.total = 1;
    TRY(tacit__buffer_take(&leg->comm->exchange, TACIT_FRAME_HEADER_BYTES + frame.payload_bytes, &agreement->mine));
    memcpy(agreement->mine.data + TACIT_FRAME_HEADER_BYTES, text_of(agreement, leg->comm->rank), frame.payload_bytes);
    agreement->bytes = tacit__frame_write(&frame, agreement->mine.data);
    agreement->present = 1;
out:
    return status;
}

static void keep_lines(const tacit_leg_t *leg)
{
    char *lines = leg->operation->lines;

    for (int rank = 0; lines != NULL && rank < leg->comm->ranks; rank++, lines += TACIT_LINE_BYTES) {
        const char *text = text_of(leg->state, rank);

        snprintf(lines, TACIT_LINE_BYTES, "%s", text + strlen(text) + 1);
    }
}

static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_agreement_t *agreement = leg->state;
    tacit_status_t     status = TACIT_PENDING;

    if (!agreement->sent) {
        agreement->sent = true;
        for (int peer = 0; peer < leg->comm->ranks; peer++) {
            if (peer != leg->comm->rank) {
                TRY(tacit__leg_send(leg, peer, agreement->mine.data, agreement->bytes));
            }
        }
        status = TACIT_OK;
    } else if (agreement->present == leg->comm->ranks) {
        TRY(tacit__texts_agree(leg->operation->what, agreement->texts, TACIT_AGREEMENT_BYTES, leg->comm->ranks));
        /* Before the verdict: no peer can send a larger message until it has ours. */
        TRY(tacit__exchange_resize(&leg->comm->exchange, leg->operation->capacity));
        keep_lines(leg);
        agreement->agreed = true;
    }
out:
    return status;
}

static bool done(const tacit_leg_t *leg)
{
    return ((const tacit_agreement_t *)leg->state)->agreed;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_agreement_t *agreement = leg->state;

    if (frame->kind != TACIT_FRAME_AGREEMENT || frame->payload_bytes >= TACIT_AGREEMENT_BYTES) {
        return tacit__leg_unexpected(leg, frame);
    }
    memcpy(text_of(agreement, frame->rank), frame->payload, frame->payload_bytes);
    agreement->present++;
    return TACIT_OK;
}

static void nothing(tacit_leg_t *leg)
{
    (void)leg;
}

static void release(tacit_leg_t *leg)
{
    tacit_agreement_t *agreement = leg->state;

    if (agreement != NULL) {
        tacit__buffer_give(&leg->comm->exchange, &agreement->mine);
        tacit__free(agreement->texts);
        tacit__free(agreement);
    }
    leg->state = NULL;
}

const tacit_schedule_t tacit__schedule_agreement = {
    .name = "agreement",
    .summary = "a text that must be the same on all ranks",
    .framed = true,
    .round = 2 + TACIT_LINEAR_ROUNDS, /* one operation may agree and carry tensors */
    .rounds = 1,
    .carries = carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = nothing,
    .undo = nothing,
    .release = release,
};
