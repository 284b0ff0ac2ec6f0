/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes operations with hostile peers: rank 0 of two reduces a group, or trades parts, or rank 0 of four does on two hosts. The
   other ends of the transport send frames that are whole, with the right identity, and say anything else. Input: 12 bytes of
   header a message, then its payload. Every plan meets it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alltoall.h"
#include "bits.h"
#include "frame.h"
#include "topology.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { COUNT = 300, PART = 200, SLOTS = 5, HEAD = 12, WINDOW = 8, RANKS = 4, RECORD = 16 };

/* What a group is made of, and which schedule is asked for: it takes what it carries. */
static const struct {
    const char *plan;
    int         ranks;
    const char *specs[SLOTS]; /* NULL: no more; of none: all-to-alls */
} plans[] = {
    {"ring", 2, {"onebit:block=64+ef", "topk:ratio=0.1+ef", "randk:ratio=0.1+ef", "topk:ratio=0.2,values=fp16", "none"}},
    {"sparse-scatter", 2, {"topk:ratio=0.1+ef", "topk:ratio=0.2", "topk:ratio=0.3,values=fp16+econtrol"}},
    {"ring", 2, {NULL}},
    {"two_level_alltoall", RANKS, {NULL}}, /* two on each host */
};

/* From a peer. */
typedef struct lane {
    struct {
        uint8_t *data;
        size_t   capacity, arrived;
        bool     done, withdrawn;
    } receives[WINDOW];
    size_t   posted, delivered;
    uint8_t *echo[WINDOW]; /* messages to give back */
    size_t   echo_bytes[WINDOW], echoes, echoed;
} lane_t;

/* The wire from and to the peers. */
typedef struct wire {
    const uint8_t *data;
    size_t         bytes;
    int            ranks;
    bool           hostile; /* before that, peers say what this rank says */
    bool           spoken;  /* this rank has begun the operation, so that peers know how its frames are marked */
    tacit_frame_t  last;    /* what this rank has sent last */
    lane_t         lanes[RANKS];
} wire_t;

static void put_echo(wire_t *wire, int peer, const uint8_t *message, size_t bytes)
{
    tacit_frame_t frame = wire->last;
    lane_t       *lane = &wire->lanes[peer];
    uint8_t      *copy = malloc(bytes);

    memcpy(copy, message, bytes);
    frame.rank = (uint16_t)peer;
    tacit__frame_write(&frame, copy);
    lane->echo[lane->echoes % WINDOW] = copy;
    lane->echo_bytes[lane->echoes++ % WINDOW] = bytes;
}

static tacit_status_t wire_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    wire_t *wire = context;

    *ticket = (tacit_ticket_t){{NULL, NULL}};
    if (tacit__frame_parse(data, bytes, &wire->last) != NULL) {
        abort();
    }
    wire->spoken = true;
    if (!wire->hostile) {
        put_echo(wire, peer, data, bytes);
    }
    return TACIT_OK;
}

static tacit_status_t wire_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    lane_t *lane = &((wire_t *)context)->lanes[peer];
    size_t  i = lane->posted++ % WINDOW;

    lane->receives[i].data = data;
    lane->receives[i].capacity = capacity;
    lane->receives[i].done = lane->receives[i].withdrawn = false;
    *ticket = (tacit_ticket_t){{(void *)(uintptr_t)(i + 1), lane}};
    return TACIT_OK;
}

/* Records have the right checksums, as frames have. */
static void seal(uint8_t *records, size_t bytes)
{
    for (size_t at = 0; bytes - at >= RECORD;) {
        uint8_t     *record = records + at;
        const size_t head = tacit__load32(record), rows = tacit__load32(record + 4);
        const size_t payload = head != UINT32_MAX ? head + rows : 0;

        if (payload > bytes - at - RECORD) {
            return;
        }
        tacit__store32(record + 12, tacit__payload_checksum(record + RECORD, payload));
        at += RECORD + payload;
    }
}

/* Whose the next message of the input is. */
static int next_rank(const wire_t *wire)
{
    return wire->bytes >= HEAD ? 1 + wire->data[10] % (wire->ranks - 1) : 1;
}

/* Takes the next message from the input; 0: there is none. */
static size_t next_message(wire_t *wire, uint8_t *message, size_t capacity)
{
    const uint8_t *head = wire->data;
    tacit_frame_t  frame = wire->last;
    size_t         payload;

    if (wire->bytes < HEAD) {
        return 0;
    }
    payload = tacit__min(tacit__min((size_t)(head[8] | head[9] << 8), wire->bytes - HEAD), capacity - TACIT_FRAME_HEADER_BYTES);
    frame.rank = (uint16_t)next_rank(wire);
    frame.kind = head[0];
    frame.round = head[1];
    frame.index = head[2];
    frame.total = head[3];
    frame.count = (uint32_t)(head[4] | head[5] << 8);
    frame.first = head[6];
    frame.status = (int16_t)(int8_t)head[7];
    frame.step ^= head[10] == 0xff;
    frame.sequence += (head[11] ^ 0x80u) - 0x80u; /* a signed byte */
    frame.payload_bytes = (uint32_t)payload;
    memcpy(message + TACIT_FRAME_HEADER_BYTES, head + HEAD, payload);
    if (frame.kind == TACIT_FRAME_PARCELS) {
        seal(message + TACIT_FRAME_HEADER_BYTES, payload);
    }
    wire->data += HEAD + payload;
    wire->bytes -= HEAD + payload;
    return tacit__frame_write(&frame, message);
}

static size_t next_echo(lane_t *lane, uint8_t *message)
{
    size_t i = lane->echoed % WINDOW, bytes = lane->echo_bytes[i];

    if (lane->echoed == lane->echoes) {
        return 0;
    }
    memcpy(message, lane->echo[i], bytes);
    free(lane->echo[i]);
    lane->echoed++;
    return bytes;
}

static tacit_status_t wire_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    wire_t *wire = context;
    lane_t *lane = ticket->opaque[1];
    size_t  i = (size_t)(uintptr_t)ticket->opaque[0];

    if (i-- == 0) {
        return TACIT_OK;
    }
    while (!lane->receives[i].done) {
        size_t   next = lane->delivered % WINDOW;
        uint8_t *message = lane->receives[next].data;
        size_t   bytes;

        if (lane->receives[next].withdrawn) {
            lane->delivered++;
            continue;
        }
        bytes = next_echo(lane, message);
        if (bytes == 0 && (!wire->hostile || !wire->spoken || (wire->bytes >= HEAD && lane != &wire->lanes[next_rank(wire)]))) {
            return TACIT_PENDING;
        }
        bytes = bytes == 0 ? next_message(wire, message, lane->receives[next].capacity) : bytes;
        if (bytes == 0) {
            return TACIT_ERR_TRANSPORT;
        }
        lane->receives[next].arrived = bytes;
        lane->receives[next].done = true;
        lane->delivered++;
    }
    *bytes_out = lane->receives[i].arrived;
    ticket->opaque[0] = NULL;
    return TACIT_OK;
}

/* Receives are withdrawn to be posted anew, larger, or for good. */
static tacit_status_t wire_cancel(void *context, tacit_ticket_t *ticket)
{
    lane_t *lane = ticket->opaque[1];
    size_t  i = (size_t)(uintptr_t)ticket->opaque[0];

    (void)context;
    if (i != 0 && lane->receives[i - 1].done) {
        return TACIT_PENDING;
    }
    if (i != 0) {
        lane->receives[i - 1].withdrawn = true;
    }
    return TACIT_OK;
}

static tacit_slot_t *add_slot(tacit_comm_t *comm, size_t s, const char *spec)
{
    const char          name[] = {(char)('a' + s), '\0'};
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot = NULL;

    config.count = COUNT;
    config.spec = spec;
    if (tacit_slot_create(comm, name, &config, &slot) != TACIT_OK) {
        abort();
    }
    return slot;
}

static void reduce(wire_t *wire, tacit_comm_t *comm, tacit_slot_t *const *slots, size_t count)
{
    static float values[SLOTS][COUNT];

    wire->spoken = false;
    if (tacit_group_begin(comm) != TACIT_OK) {
        return;
    }
    for (size_t s = 0; s < count; s++) {
        for (size_t i = 0; i < COUNT; i++) {
            values[s][i] = (float)(i % 17) - 8.0f;
        }
        if (tacit_allreduce(slots[s], values[s], values[s], TACIT_SUM) != TACIT_OK) {
            abort();
        }
    }
    (void)(tacit_group_end(comm, NULL) == TACIT_OK);
}

static tacit_status_t meet(void *context, int rank, const uint8_t *head, size_t bytes, tacit_part_t *part)
{
    (void)rank;
    part->receive = bytes != 0 ? tacit__min(head[0], PART) : 0;
    part->out = context;
    return TACIT_OK;
}

/* Once with parts that both know of, once with parts that heads announce. */
static void trade(wire_t *wire, tacit_comm_t *comm)
{
    static const uint8_t head = PART;
    static float         in[RANKS * PART], out[RANKS * PART];
    const tacit_key_t    key = {0};
    tacit_counters_t     counters = {0};
    tacit_values_t       values;
    const tacit_part_t   part = {.head = &head, .head_bytes = 1, .in = in, .send = PART};
    tacit_part_t         parts[RANKS] = {{0}, part, part, part};
    tacit_alltoall_t     job = {
            .name = "job",
            .values = &values,
            .parts = parts,
            .meet = meet,
            .context = out,
            .head_most = 4,
            .counters = &counters,
    };

    wire->spoken = false;
    if (tacit_alltoall(comm, "bf16", TACIT_FLOAT32, in, PART, out) != TACIT_OK && comm->broken) {
        return;
    }
    wire->spoken = false;
    if (tacit__values_init(&values, "job", "none", TACIT_FLOAT32, TACIT_NONFINITE_ERROR, &key) != TACIT_OK) {
        abort();
    }
    (void)tacit__alltoall_run(comm, "job", &job, TACIT_OK);
    tacit__values_fini(&values);
}

static void run(size_t plan, const uint8_t *data, size_t bytes)
{
    const int         ranks = plans[plan].ranks;
    wire_t            wire = {.data = data, .bytes = bytes, .ranks = ranks};
    tacit_config_t    config = TACIT_CONFIG_INIT;
    tacit_transport_t transport = {.struct_bytes = sizeof transport,
                                   .name = "hostile",
                                   .context = &wire,
                                   .send = wire_send,
                                   .receive = wire_receive,
                                   .test = wire_test,
                                   .cancel = wire_cancel,
                                   .ranks = ranks};
    tacit_comm_t     *comm;
    tacit_slot_t     *slots[SLOTS];
    size_t            count = 0;

    config.chunk_bytes = 1024;
    config.timeout_ms = 5; /* a hostile peer may say nothing */
    if (setenv("TACIT_PLAN", plans[plan].plan, 1) != 0 || tacit_comm_create(&transport, &config, &comm) != TACIT_OK) {
        abort();
    }
    for (int rank = 0; rank < ranks && ranks > 2; rank++) {
        snprintf(comm->topology->lines + rank * TACIT_PLACE_BYTES, TACIT_PLACE_BYTES, "host=%d", rank / 2);
    }
    tacit__topology_fill(comm->topology);
    for (; count < SLOTS && plans[plan].specs[count] != NULL; count++) {
        slots[count] = add_slot(comm, count, plans[plan].specs[count]);
    }
    wire.hostile = true;
    while (wire.bytes >= HEAD && !comm->broken) {
        if (count != 0) {
            reduce(&wire, comm, slots, count);
        } else {
            trade(&wire, comm);
        }
    }
    tacit_comm_destroy(comm);
    for (int rank = 1; rank < ranks; rank++) {
        lane_t *lane = &wire.lanes[rank];

        while (lane->echoed != lane->echoes) {
            free(lane->echo[lane->echoed++ % WINDOW]);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    for (size_t plan = 0; plan < sizeof plans / sizeof *plans; plan++) {
        run(plan, data, bytes);
    }
    return 0;
}
