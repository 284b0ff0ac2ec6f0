/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes operations with a hostile peer: rank 0 of two reduces a group, or trades parts, over a transport whose other end sends
   frames that are whole, with the right identity, and say anything else. Input: 12 bytes of header a message, then its payload.
   Every plan meets it. */
#include <stdlib.h>
#include <string.h>

#include "alltoall.h"
#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { COUNT = 300, PART = 200, SLOTS = 5, HEAD = 12, WINDOW = 8 };

/* What a group is made of, and which schedule is asked for: it takes what it carries. */
static const struct {
    const char *plan;
    const char *specs[SLOTS]; /* NULL: no more; of none: all-to-alls */
} plans[] = {
    {"ring", {"onebit:block=64+ef", "topk:ratio=0.1+ef", "randk:ratio=0.1+ef", "topk:ratio=0.2,values=fp16", "none"}},
    {"sparse-scatter", {"topk:ratio=0.1+ef", "topk:ratio=0.2", "topk:ratio=0.3,values=fp16+econtrol"}},
    {"ring", {NULL}},
};

/* The wire from and to the peer. */
typedef struct wire {
    const uint8_t *data;
    size_t         bytes;
    bool           hostile; /* before that, the peer says what this rank says */
    bool           spoken;  /* this rank has begun the operation, so that the peer knows how its frames are marked */
    tacit_frame_t  last;    /* what this rank has sent last */
    struct {
        uint8_t *data;
        size_t   capacity, arrived;
        bool     done, withdrawn;
    } receives[WINDOW];
    size_t   posted, delivered;
    uint8_t *echo[WINDOW]; /* messages to give back */
    size_t   echo_bytes[WINDOW], echoes, echoed;
} wire_t;

static void put_echo(wire_t *wire, const uint8_t *message, size_t bytes)
{
    tacit_frame_t frame = wire->last;
    uint8_t      *copy = malloc(bytes);

    memcpy(copy, message, bytes);
    frame.rank = 1;
    tacit__frame_write(&frame, copy);
    wire->echo[wire->echoes % WINDOW] = copy;
    wire->echo_bytes[wire->echoes++ % WINDOW] = bytes;
}

static tacit_status_t wire_send(void *context, int peer, const void *data, size_t bytes, tacit_ticket_t *ticket)
{
    wire_t *wire = context;

    (void)peer;
    *ticket = (tacit_ticket_t){{NULL, NULL}};
    if (tacit__frame_parse(data, bytes, &wire->last) != NULL) {
        abort();
    }
    wire->spoken = true;
    if (!wire->hostile) {
        put_echo(wire, data, bytes);
    }
    return TACIT_OK;
}

static tacit_status_t wire_receive(void *context, int peer, void *data, size_t capacity, tacit_ticket_t *ticket)
{
    wire_t *wire = context;
    size_t  i = wire->posted++ % WINDOW;

    (void)peer;
    wire->receives[i].data = data;
    wire->receives[i].capacity = capacity;
    wire->receives[i].done = wire->receives[i].withdrawn = false;
    *ticket = (tacit_ticket_t){{(void *)(uintptr_t)(i + 1), NULL}};
    return TACIT_OK;
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
    frame.rank = 1;
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
    wire->data += HEAD + payload;
    wire->bytes -= HEAD + payload;
    return tacit__frame_write(&frame, message);
}

static size_t next_echo(wire_t *wire, uint8_t *message)
{
    size_t i = wire->echoed % WINDOW, bytes = wire->echo_bytes[i];

    if (wire->echoed == wire->echoes) {
        return 0;
    }
    memcpy(message, wire->echo[i], bytes);
    free(wire->echo[i]);
    wire->echoed++;
    return bytes;
}

static tacit_status_t wire_test(void *context, tacit_ticket_t *ticket, size_t *bytes_out)
{
    wire_t *wire = context;
    size_t  i = (size_t)(uintptr_t)ticket->opaque[0];

    if (i-- == 0) {
        return TACIT_OK;
    }
    while (!wire->receives[i].done) {
        size_t   next = wire->delivered % WINDOW;
        uint8_t *message = wire->receives[next].data;
        size_t   bytes;

        if (wire->receives[next].withdrawn) {
            wire->delivered++;
            continue;
        }
        bytes = next_echo(wire, message);
        if (bytes == 0 && !(wire->hostile && wire->spoken)) {
            return TACIT_PENDING;
        }
        bytes = bytes == 0 ? next_message(wire, message, wire->receives[next].capacity) : bytes;
        if (bytes == 0) {
            return TACIT_ERR_TRANSPORT;
        }
        wire->receives[next].arrived = bytes;
        wire->receives[next].done = true;
        wire->delivered++;
    }
    *bytes_out = wire->receives[i].arrived;
    ticket->opaque[0] = NULL;
    return TACIT_OK;
}

/* Receives are withdrawn to be posted anew, larger, or for good. */
static tacit_status_t wire_cancel(void *context, tacit_ticket_t *ticket)
{
    wire_t *wire = context;
    size_t  i = (size_t)(uintptr_t)ticket->opaque[0];

    if (i != 0 && wire->receives[i - 1].done) {
        return TACIT_PENDING;
    }
    if (i != 0) {
        wire->receives[i - 1].withdrawn = true;
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
    static float         in[2 * PART], out[2 * PART];
    const tacit_key_t    key = {0};
    tacit_counters_t     counters = {0};
    tacit_values_t       values;
    tacit_part_t         parts[2] = {{0}, {.head = &head, .head_bytes = 1, .in = in, .send = PART}};
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
    wire_t            wire = {.data = data, .bytes = bytes};
    tacit_config_t    config = TACIT_CONFIG_INIT;
    tacit_transport_t transport = {.struct_bytes = sizeof transport,
                                   .name = "hostile",
                                   .context = &wire,
                                   .ranks = 2,
                                   .send = wire_send,
                                   .receive = wire_receive,
                                   .test = wire_test,
                                   .cancel = wire_cancel};
    tacit_comm_t     *comm;
    tacit_slot_t     *slots[SLOTS];
    size_t            count = 0;

    config.chunk_bytes = 1024;
    config.timeout_ms = 5; /* a hostile peer may say nothing */
    if (setenv("TACIT_PLAN", plans[plan].plan, 1) != 0 || tacit_comm_create(&transport, &config, &comm) != TACIT_OK) {
        abort();
    }
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
    while (wire.echoed != wire.echoes) {
        free(wire.echo[wire.echoed++ % WINDOW]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    for (size_t plan = 0; plan < sizeof plans / sizeof *plans; plan++) {
        run(plan, data, bytes);
    }
    return 0;
}
