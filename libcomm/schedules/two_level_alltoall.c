/* SPDX-License-Identifier: Apache-2.0 */
/* All-to-all in which parts of few bytes leave a host together: what the ranks here have for a rank elsewhere is gathered by
   one of them, its relay, and goes there as one message. Other parts go straight to their ranks, as alltoall.c has it. The relay
   to the k-th rank of another host is the k-th one here, modulo how many there are.

   A message of parcels is a list of records. In a host: of the receiver's own part, then of those of all ranks that it relays to,
   ascending. Between hosts: of the parts of all ranks of the sender's host, ascending. Its receiver alone opens a record. Every
   rank waits for a known number of messages: those between hosts wait for those in a host, which wait for nothing, so that none
   waits for itself; and a relay holds one message of each rank of its host at most. */
#include "alltoall_state.h"

#include <string.h>

#include "bits.h"
#include "operation.h"

enum {
    RECORD_BYTES = 16, /* of the head, of the elements, how many these are, checksum: 32 bits each, little-endian */
    MOST_BYTES = 2048  /* of a part that is relayed: what a message costs beside its bytes is less than copying more of these */
};
static const uint32_t straight = UINT32_MAX; /* in place of a head's bytes: nothing follows, the part goes straight */

typedef struct tacit_held {
    tacit_buffer_t memory; /* records of a rank of the host that are not sent on yet */
    size_t         at, end;
    bool           here;
} tacit_held_t;

struct tacit_relay {
    const int    *members;  /* of this rank's host … */
    int           here;     /* … which has so many … */
    int           index;    /* … and this rank is that one of them */
    size_t        most;     /* bytes of a part that is relayed */
    int           told;     /* ranks of the host that have their parcels */
    int           next;     /* the rank elsewhere that is sent its own next */
    int           due;      /* ranks of the host whose parcels have not come */
    tacit_held_t *held;     /* of each rank of the host */
    int          *index_of; /* each rank's place in its host */
};

typedef struct record {
    uint32_t       head_bytes, payload_bytes, elements, checksum;
    const uint8_t *payload; /* the head and the elements */
} record_t;

static tacit_relay_t *relay_of(const tacit_leg_t *leg)
{
    return ((tacit_alltoall_state_t *)leg->state)->relay;
}

/* ---- Records ---- */

/* Writes the record of what goes to a rank, and moves *at behind it. */
static tacit_status_t pack(const tacit_leg_t *leg, int rank, uint8_t **at)
{
    const tacit_alltoall_t *job = leg->operation->alltoall;
    const tacit_part_t     *part = &job->parts[rank];
    tacit_to_t             *to = &((tacit_alltoall_state_t *)leg->state)->to[rank];
    uint8_t                *record = *at, *payload = *at + RECORD_BYTES;
    const double            began = tacit__seconds();
    size_t                  bytes;
    tacit_status_t          status = TACIT_OK;

    if (!to->relayed) {
        memset(record, 0, RECORD_BYTES);
        tacit__store32(record, straight);
        *at = payload;
        return TACIT_OK;
    }
    if (part->head_bytes != 0) {
        memcpy(payload, part->head, part->head_bytes);
    }
    to->elements = 0;
    TRY(tacit__alltoall_encode(leg, rank, part->send, payload + part->head_bytes));
    bytes = part->head_bytes + tacit__values_bytes(job->values, part->send);
    tacit__store32(record, (uint32_t)part->head_bytes);
    tacit__store32(record + 4, (uint32_t)(bytes - part->head_bytes));
    tacit__store32(record + 8, (uint32_t)part->send);
    tacit__store32(record + 12, tacit__payload_checksum(payload, bytes));
    *at = payload + bytes;
out:
    leg->operation->alltoall->encode_seconds += tacit__seconds() - began;
    return status;
}

/* Reads the next of some records, and moves *at behind it; false: what is there is none. */
static bool read_record(const uint8_t *records, size_t end, size_t *at, size_t most, record_t *record_out)
{
    size_t bytes;

    if (end - *at < RECORD_BYTES) {
        return false;
    }
    *record_out = (record_t){tacit__load32(records + *at), tacit__load32(records + *at + 4), tacit__load32(records + *at + 8),
                             tacit__load32(records + *at + 12), records + *at + RECORD_BYTES};
    bytes = record_out->head_bytes != straight ? (size_t)record_out->head_bytes + record_out->payload_bytes : 0;
    *at += RECORD_BYTES;
    if (bytes > most || bytes > end - *at) {
        return false;
    }
    *at += bytes;
    return true;
}

/* Takes a record in as the messages that it stands for. parcels: where it was. */
static tacit_status_t open_record(tacit_leg_t *leg, const tacit_frame_t *parcels, int origin, const record_t *record)
{
    const tacit_alltoall_t *job = leg->operation->alltoall;
    tacit_frame_t           frame = *parcels;
    tacit_status_t          status = TACIT_OK;

    if (record->head_bytes == straight) {
        return TACIT_OK;
    }
    if (tacit__payload_checksum(record->payload, record->head_bytes + record->payload_bytes) != record->checksum) {
        return tacit__fail(TACIT_ERR_FRAME,
                           "rank %d: %s: rank %d's part, which came from rank %d, cannot be used: its checksum is "
                           "wrong (damaged)",
                           leg->comm->rank, job->name, origin, parcels->rank);
    }
    frame.rank = (uint16_t)origin;
    frame.payload = record->payload;
    frame.payload_bytes = frame.total = record->head_bytes;
    if (job->meet != NULL) {
        frame.kind = TACIT_FRAME_HEAD;
        TRY(tacit__alltoall_take_head(leg, &frame));
    } else if (record->head_bytes != 0) {
        return tacit__leg_unexpected(leg, parcels);
    }
    frame.kind = TACIT_FRAME_ROWS;
    frame.first = 0;
    frame.count = frame.total = record->elements;
    frame.payload += record->head_bytes;
    frame.payload_bytes = record->payload_bytes;
    TRY(tacit__alltoall_take_rows(leg, &frame));
out:
    return status;
}

/* ---- Who relays what ---- */

static int here_of(const tacit_topology_t *topology, int host)
{
    return topology->begin[host + 1] - topology->begin[host];
}

/* The first rank from `from` on to which the index-th rank of this host relays; or how many ranks there are. */
static int next_far(const tacit_leg_t *leg, int from, int index)
{
    const tacit_topology_t *topology = leg->comm->topology;
    const tacit_relay_t    *relay = relay_of(leg);
    int                     rank = from;

    while (rank < topology->ranks &&
           (topology->host_of[rank] == topology->host_of[leg->comm->rank] || relay->index_of[rank] % relay->here != index)) {
        rank++;
    }
    return rank;
}

/* Records of a message, at most: those of the largest host's ranks; or one for the receiver, and those of every other host that a
   relay of the smallest host that has relays sends on. */
static int most_records(const tacit_topology_t *topology)
{
    int least = topology->most_here, records = 0;

    for (int host = 0; host < topology->hosts; host++) {
        const int here = here_of(topology, host);

        least = here > 1 && here < least ? here : least;
    }
    for (int host = 0; host < topology->hosts; host++) {
        records += (here_of(topology, host) + least - 1) / least;
    }
    return records > topology->most_here ? records : topology->most_here;
}

/* Bytes of a part that is relayed, at most; 0: not even a record of nothing has room. */
static size_t most_bytes(const tacit_comm_t *comm)
{
    const size_t room = comm->config.chunk_bytes / (size_t)most_records(comm->topology);

    return room > RECORD_BYTES ? tacit__min(room - RECORD_BYTES, MOST_BYTES) : 0;
}

const tacit_schedule_t *tacit__alltoall_schedule(const tacit_comm_t *comm, const tacit_alltoall_t *alltoall)
{
    const char  *plan = comm->environment.plan != NULL ? comm->environment.plan : "";
    const size_t most = tacit__topology_has_levels(comm->topology) ? most_bytes(comm) : 0;
    const bool   flat = strcmp(plan, tacit__schedule_alltoall.name) == 0;
    const bool   small = alltoall->usual != 0 && tacit__values_bytes(alltoall->values, alltoall->usual) <= most;

    return most != 0 && !flat && (small || strcmp(plan, tacit__schedule_two_level_alltoall.name) == 0)
               ? &tacit__schedule_two_level_alltoall
               : &tacit__schedule_alltoall;
}

/* ---- Memory ---- */

static tacit_status_t create(tacit_leg_t *leg)
{
    const tacit_topology_t *topology = leg->comm->topology;
    const int               host = topology->host_of[leg->comm->rank], here = here_of(topology, host);
    tacit_alltoall_state_t *state = leg->state;
    const size_t            bytes = sizeof *state->relay + (size_t)here * sizeof *state->relay->held +
                         (size_t)topology->ranks * sizeof *state->relay->index_of;
    tacit_relay_t *relay = tacit__leg_take(leg, 1, bytes);

    if (relay == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory to relay parts of %d ranks", leg->comm->rank,
                           leg->operation->alltoall->name, topology->ranks);
    }
    memset(relay, 0, bytes);
    relay->held = (void *)(relay + 1);
    relay->index_of = (void *)(relay->held + here);
    relay->members = topology->members + topology->begin[host];
    relay->here = here;
    relay->most = most_bytes(leg->comm);
    relay->due = here - 1;
    for (int other = 0; other < topology->hosts; other++) {
        for (int i = 0; i < here_of(topology, other); i++) {
            relay->index_of[topology->members[topology->begin[other] + i]] = i;
        }
    }
    relay->index = relay->index_of[leg->comm->rank];
    state->relay = relay;
    return TACIT_OK;
}

static tacit_status_t prepare(tacit_leg_t *leg)
{
    const tacit_alltoall_t *job = leg->operation->alltoall;
    tacit_alltoall_state_t *state;
    tacit_relay_t          *relay;
    tacit_status_t          status;

    TRY(tacit__alltoall_prepare(leg));
    TRY(create(leg));
    state = leg->state;
    relay = state->relay;
    for (int rank = 0; rank < leg->comm->ranks && relay->here > 1; rank++) {
        const tacit_part_t *part = &job->parts[rank];
        tacit_to_t         *to = &state->to[rank];

        to->relayed = rank != leg->comm->rank && part->head_bytes + tacit__values_bytes(job->values, part->send) <= relay->most;
        if (to->relayed) {
            to->rows = 1;
            to->elements = part->send;
            state->unsent--;
        }
    }
    relay->told = relay->here > 1 ? 0 : relay->here;
    relay->next = relay->here > 1 ? next_far(leg, 0, relay->index) : leg->comm->ranks;
out:
    return status;
}

static void release(tacit_leg_t *leg)
{
    tacit_relay_t *relay = leg->state != NULL ? relay_of(leg) : NULL;

    for (int i = 0; relay != NULL && i < relay->here; i++) {
        tacit__buffer_give(&leg->comm->exchange, &relay->held[i].memory);
    }
    tacit__alltoall_clear(leg);
}

/* ---- Sending ---- */

static tacit_status_t take_message(const tacit_leg_t *leg, int rank, uint8_t **message_out)
{
    tacit_exchange_t *exchange = &leg->comm->exchange;

    return tacit__outbox_take(&((tacit_alltoall_state_t *)leg->state)->to[rank].outbox, exchange,
                              TACIT_FRAME_HEADER_BYTES + tacit__alltoall_chunk_bytes(leg->comm, rank), message_out);
}

static tacit_status_t send_parcels(const tacit_leg_t *leg, int rank, uint8_t *message, const uint8_t *end, int records)
{
    tacit_frame_t frame = tacit__leg_frame(leg, TACIT_FRAME_PARCELS);

    frame.total = (uint32_t)records;
    frame.payload_bytes = (uint32_t)(end - message - TACIT_FRAME_HEADER_BYTES);
    return tacit__leg_send(leg, rank, message, tacit__frame_write(&frame, message));
}

/* To a rank of this host: its part, and those that it relays. */
static tacit_status_t send_here(const tacit_leg_t *leg, int index)
{
    const int      rank = relay_of(leg)->members[index];
    int            records = 1;
    uint8_t       *message, *at;
    tacit_status_t status;

    TRY(take_message(leg, rank, &message));
    at = message + TACIT_FRAME_HEADER_BYTES;
    TRY(pack(leg, rank, &at));
    for (int far = next_far(leg, 0, index); far < leg->comm->ranks; far = next_far(leg, far + 1, index)) {
        TRY(pack(leg, far, &at));
        records++;
    }
    TRY(send_parcels(leg, rank, message, at, records));
out:
    return status;
}

/* To a rank elsewhere: its parts of all ranks here. */
static tacit_status_t send_far(const tacit_leg_t *leg, int rank)
{
    tacit_relay_t *relay = relay_of(leg);
    uint8_t       *message, *at;
    tacit_status_t status;

    TRY(take_message(leg, rank, &message));
    at = message + TACIT_FRAME_HEADER_BYTES;
    for (int i = 0; i < relay->here; i++) {
        tacit_held_t *held = &relay->held[i];
        const size_t  begin = held->at;
        record_t      record;

        if (i == relay->index) {
            TRY(pack(leg, rank, &at));
            continue;
        }
        (void)read_record(held->memory.data, held->end, &held->at, relay->most, &record); /* it was looked at when it came */
        memcpy(at, held->memory.data + begin, held->at - begin);
        at += held->at - begin;
    }
    TRY(send_parcels(leg, rank, message, at, relay->here));
out:
    return status;
}

/* What others wait for goes first. */
static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_relay_t *relay = relay_of(leg);

    if (relay->told < relay->here) {
        const int index = (relay->index + relay->told++) % relay->here;

        return index != relay->index ? send_here(leg, index) : TACIT_OK;
    }
    if (relay->due == 0 && relay->next < leg->comm->ranks) {
        const int rank = relay->next;

        relay->next = next_far(leg, rank + 1, relay->index);
        return send_far(leg, rank);
    }
    return tacit__alltoall_advance(leg);
}

static bool done(const tacit_leg_t *leg)
{
    const tacit_relay_t *relay = relay_of(leg);

    return relay->told == relay->here && relay->next == leg->comm->ranks && tacit__alltoall_done(leg);
}

/* ---- Receiving ---- */

/* From a rank of this host: the first record is of what it has for this rank; the others wait. */
static tacit_status_t take_here(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_relay_t *relay = relay_of(leg);
    tacit_held_t  *held = &relay->held[relay->index_of[frame->rank]];
    record_t       first, record;
    size_t         at = 0, begin;
    tacit_status_t status;

    if (held->here || !read_record(frame->payload, frame->payload_bytes, &at, relay->most, &first)) {
        return tacit__leg_unexpected(leg, frame);
    }
    begin = at;
    for (int far = next_far(leg, 0, relay->index); far < leg->comm->ranks; far = next_far(leg, far + 1, relay->index)) {
        if (!read_record(frame->payload, frame->payload_bytes, &at, relay->most, &record)) {
            return tacit__leg_unexpected(leg, frame);
        }
    }
    if (at != frame->payload_bytes) {
        return tacit__leg_unexpected(leg, frame);
    }
    held->end = at - begin;
    if (held->end != 0) {
        TRY(tacit__buffer_take(&leg->comm->exchange, held->end, &held->memory));
        memcpy(held->memory.data, frame->payload + begin, held->end);
    }
    held->here = true;
    relay->due--;
    TRY(open_record(leg, frame, frame->rank, &first));
out:
    return status;
}

/* From a rank elsewhere: what all ranks of its host have for this one. A part that comes twice is refused where it is opened. */
static tacit_status_t take_far(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    const tacit_topology_t *topology = leg->comm->topology;
    const int               host = topology->host_of[frame->rank];
    size_t                  at = 0;
    tacit_status_t          status = TACIT_OK;

    for (int i = topology->begin[host]; i < topology->begin[host + 1]; i++) {
        record_t record;

        if (!read_record(frame->payload, frame->payload_bytes, &at, relay_of(leg)->most, &record)) {
            return tacit__leg_unexpected(leg, frame);
        }
        TRY(open_record(leg, frame, topology->members[i], &record));
    }
    status = at == frame->payload_bytes ? TACIT_OK : tacit__leg_unexpected(leg, frame);
out:
    return status;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    const int *host_of = leg->comm->topology->host_of;

    if (frame->kind != TACIT_FRAME_PARCELS) {
        return tacit__alltoall_arrived(leg, frame);
    }
    return host_of[frame->rank] == host_of[leg->comm->rank] ? take_here(leg, frame) : take_far(leg, frame);
}

const tacit_schedule_t tacit__schedule_two_level_alltoall = {
    .name = "two_level_alltoall",
    .summary = "as alltoall, but small parts leave a host together",
    .framed = true,
    .round = 24,
    .rounds = 1,
    .carries = tacit__alltoall_carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = tacit__alltoall_commit,
    .undo = tacit__alltoall_undo,
    .release = release,
};
