/* SPDX-License-Identifier: Apache-2.0 */
/* Channels: memory that two ranks of a host share, through which pieces of tensors go from each rank to the next one around the
   host. Nothing checks them: they stay in one machine's memory. */
#ifndef TACIT_CHANNEL_H
#define TACIT_CHANNEL_H

#include "frame.h"

typedef struct tacit_channel tacit_channel_t;

enum { TACIT_CHANNEL_NAME_BYTES = 64 };

/* Of one rank. */
typedef struct tacit_channels {
    tacit_channel_t *out, *in;                       /* to the next rank, and from the one before; NULL: there are none */
    char             name[TACIT_CHANNEL_NAME_BYTES]; /* by which the next rank finds `out`; empty: it has found it */
    size_t           piece_bytes;                    /* of a payload, at most */
} tacit_channels_t;

/* Collective, once it is known who shares a host: joins the ranks of each host, where their system lets all of them. */
tacit_status_t tacit__channels_create(tacit_comm_t *comm);
void           tacit__channels_destroy(tacit_channels_t *channels);
/* For tests: of communicators that are made from now on, these ranks, a bit each, make none. */
void tacit__channels_refuse(uint64_t ranks);

/* How many more pieces there is room for. */
size_t tacit__channel_room(const tacit_channel_t *channel);
/* Where the next payload is to be written, if there is room, … */
void *tacit__channel_payload(tacit_channel_t *channel);
/* … and then this sends it. */
void tacit__channel_put(tacit_channel_t *channel, const tacit_frame_t *frame);
/* The next piece; false: there is none. It stays until … */
bool tacit__channel_next(const tacit_channel_t *channel, tacit_frame_t *frame_out);
/* … it has been read. */
void tacit__channel_drop(tacit_channel_t *channel);

#endif
