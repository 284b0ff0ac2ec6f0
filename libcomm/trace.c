/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps events in a ring, and writes them in the Trace Event Format: an array of complete events ("ph":"X") and moments ("i"),
   one a line, with times in microseconds since a day that all ranks know, so that their traces can be laid side by side. */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "operation.h"

enum { EVENTS = 100000, PATH_BYTES = 1024 };

static const char *const lanes[] = {
    [TACIT_TRACE_OPERATION] = "operation", [TACIT_TRACE_ENCODE] = "encode", [TACIT_TRACE_ADD] = "add",
    [TACIT_TRACE_DECODE] = "decode",       [TACIT_TRACE_WAIT] = "wait",     [TACIT_TRACE_RECEIVE] = "receive",
    [TACIT_TRACE_VERDICT] = "verdict",     [TACIT_TRACE_NATIVE] = "native", [TACIT_TRACE_SLOT] = "slot",
    [TACIT_TRACE_SEND] = "send",
};

static const char *const messages[TACIT_FRAME_KINDS] = {
    [TACIT_FRAME_CONTRIBUTION] = "contribution",
    [TACIT_FRAME_RESULT] = "result",
    [TACIT_FRAME_SPARSE] = "sparse",
    [TACIT_FRAME_AGREEMENT] = "agreement",
    [TACIT_FRAME_VERDICT] = "verdict",
    [TACIT_FRAME_HEAD] = "head",
    [TACIT_FRAME_ROWS] = "rows",
    [TACIT_FRAME_PARCELS] = "parcels",
};

struct tacit_trace {
    char            path[PATH_BYTES];
    int             rank, ranks;
    int64_t         epoch;     /* nanoseconds from that day to the zero of tacit__seconds() */
    uint32_t        operation; /* that runs; the first is 1 */
    const char     *slot;
    uint32_t        slots;
    tacit_traced_t *plans;
    tacit_event_t  *events;
    uint64_t        made;   /* events so far */
    double          now;    /* the time that was read last */
    double          called; /* when the last native call had ended */
    double          gone[]; /* when the last message to each rank was */
};

/* ---- Making ---- */

/* False: it is too long. */
static bool make_path(const char *pattern, int rank, unsigned number, char path[PATH_BYTES])
{
    bool   ranked = false;
    size_t used = 0;

    for (; *pattern != '\0' && used < PATH_BYTES; pattern++) {
        const bool is_rank = strncmp(pattern, "%r", 2) == 0, is_number = strncmp(pattern, "%c", 2) == 0;

        if (is_rank || is_number) {
            used += (size_t)snprintf(path + used, PATH_BYTES - used, "%u", is_rank ? (unsigned)rank : number);
            pattern++;
        } else {
            path[used++] = *pattern;
        }
        ranked = ranked || is_rank;
    }
    if (used < PATH_BYTES) {
        path[used] = '\0';
        used += ranked ? 0 : (size_t)snprintf(path + used, PATH_BYTES - used, ".%d", rank);
    }
    return used < PATH_BYTES;
}

static bool can_be_written(const char *path)
{
    const int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    return file >= 0 && close(file) == 0;
}

/* The tenth day since 1970, the twentieth, and so on: from 1970 itself, viewers that read numbers as float64 would round to a
   quarter of a microsecond. */
static int64_t find_epoch(void)
{
    const int64_t   span = 10 * 24 * 3600;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec % span * 1000000000 + now.tv_nsec - (int64_t)(1e9 * tacit__seconds());
}

tacit_trace_t *tacit__trace_create(const char *pattern, int rank, int ranks)
{
    static atomic_uint communicators;
    const int          error = errno;
    tacit_trace_t     *trace;

    if (pattern == NULL) {
        return NULL;
    }
    trace = tacit__alloc(1, sizeof *trace + (size_t)ranks * sizeof *trace->gone);
    if (trace == NULL || (trace->events = tacit__alloc_unset(EVENTS * sizeof *trace->events)) == NULL) {
        tacit__log(TACIT_LOG_WARN, rank, "trace: no memory for %d events; there will be no trace", EVENTS);
        goto fail;
    }
    errno = ENAMETOOLONG;
    if (!make_path(pattern, rank, atomic_fetch_add(&communicators, 1), trace->path) || !can_be_written(trace->path)) {
        tacit__log(TACIT_LOG_WARN, rank, "trace: TACIT_TRACE=%.200s: %s; there will be no trace", pattern, strerror(errno));
        goto fail;
    }
    memset(trace->events, 0, EVENTS * sizeof *trace->events); /* the first events shall not wait for pages */
    trace->rank = rank;
    trace->ranks = ranks;
    trace->epoch = find_epoch();
    errno = error;
    return trace;
fail:
    if (trace != NULL) {
        tacit__free(trace->events);
    }
    tacit__free(trace);
    errno = error;
    return NULL;
}

/* ---- Adding ---- */

void tacit__trace_begin(tacit_trace_t *trace, const char *slot, size_t slots)
{
    trace->operation++;
    trace->slot = slot;
    trace->slots = (uint32_t)slots;
}

const tacit_traced_t *tacit__trace_plan(tacit_trace_t *trace, const char *slot, const char *spec, const char *schedule,
                                        uint64_t dense_bytes)
{
    const size_t    slot_bytes = strlen(slot) + 1, spec_bytes = strlen(spec) + 1;
    tacit_traced_t *plan = tacit__alloc(1, sizeof *plan + slot_bytes + spec_bytes);

    if (plan != NULL) {
        *plan = (tacit_traced_t){.schedule = schedule, .dense_bytes = dense_bytes, .next = trace->plans};
        plan->slot = memcpy(plan + 1, slot, slot_bytes);
        plan->spec = memcpy(plan->slot + slot_bytes, spec, spec_bytes);
        trace->plans = plan;
    }
    return plan;
}

void tacit__trace_add(tacit_trace_t *trace, const tacit_event_t *event)
{
    tacit_event_t *kept = &trace->events[trace->made++ % EVENTS];

    *kept = *event;
    kept->operation = trace->operation;
    if (kept->slot == NULL) {
        kept->slot = trace->slot;
        kept->slots = trace->slots;
    }
}

tacit_event_t tacit__trace_event(tacit_trace_lane_t lane, double began, double ended)
{
    return (tacit_event_t){.lane = (uint8_t)lane, .began = began, .ended = ended, .peer = -1, .round = -1, .index = -1};
}

void tacit__trace_at(tacit_trace_t *trace, double seconds)
{
    trace->now = seconds;
}

double tacit__trace_now(const tacit_trace_t *trace)
{
    return trace != NULL ? trace->now : 0;
}

static void add_message(tacit_trace_t *trace, const tacit_frame_t *frame, tacit_event_t *event)
{
    event->name = messages[frame->kind];
    event->bytes = TACIT_FRAME_HEADER_BYTES + (size_t)frame->payload_bytes;
    event->round = frame->round;
    event->index = frame->index;
    tacit__trace_add(trace, event);
}

void tacit__trace_sent(tacit_trace_t *trace, int peer, const uint8_t *message, double posted, tacit_status_t status)
{
    const tacit_frame_t frame = tacit__frame_read(message);
    const double        began = posted > trace->gone[peer] ? posted : trace->gone[peer];
    tacit_event_t       event = tacit__trace_event(TACIT_TRACE_SEND, began, trace->now);

    event.peer = peer;
    event.queued = began - posted;
    event.status = (int16_t)status;
    trace->gone[peer] = event.ended;
    add_message(trace, &frame, &event);
}

void tacit__trace_received(tacit_trace_t *trace, const tacit_frame_t *frame, double began)
{
    tacit_event_t event;

    trace->now = trace->now > began ? trace->now : tacit__seconds(); /* work on it has ended just now */
    event = tacit__trace_event(TACIT_TRACE_RECEIVE, began, trace->now);
    event.peer = frame->rank;
    add_message(trace, frame, &event);
}

/* ---- Operations ---- */

/* What is told of a slot when there is no memory. */
static const tacit_traced_t no_plan = {.slot = (char[]){"?"}, .spec = (char[]){"?"}, .schedule = "?"};

/* The slot's plan follows what it was told and how it goes: both change rarely. */
static const tacit_traced_t *find_plan(tacit_trace_t *trace, const tacit_item_t *item)
{
    tacit_slot_t         *slot = item->slot;
    const tacit_traced_t *plan = slot->traced;
    const char           *spec = item->codec->given.text, *schedule = item->schedule->name;

    if (plan == NULL || plan->schedule != schedule || strcmp(plan->spec, spec) != 0) {
        plan = tacit__trace_plan(trace, item->codec->name, spec, schedule, slot->ring_bytes);
        slot->traced = plan = plan != NULL ? plan : &no_plan;
    }
    return plan;
}

static size_t bytes_of(const tacit_item_t *item)
{
    return item->codec->tensor.count * tacit__codec_element_bytes(item->codec);
}

/* What ends an operation of one slot, or one slot's part in it. */
static void add_end(tacit_trace_t *trace, const tacit_item_t *item, tacit_event_t *event)
{
    event->bytes = bytes_of(item);
    event->plan = item->slot->traced;
    event->slot = event->plan->slot;
    event->slots = 1;
    event->payload_bytes = item->sent_bytes;
    event->wire_bytes = item->wire_bytes;
    tacit__trace_add(trace, event);
}

/* Calls overlap: an event begins when the one before has ended. */
static void queue_native(tacit_trace_t *trace, tacit_event_t *event)
{
    const double called = event->began;

    event->began = trace->called > called ? trace->called : called;
    event->queued = event->began - called;
    trace->called = event->ended;
}

void tacit__native_traced(tacit_item_t *item, double began)
{
    tacit_trace_t *trace = item->slot->comm->trace;
    tacit_event_t  event = tacit__trace_event(TACIT_TRACE_NATIVE, began, tacit__seconds());

    item->schedule = item->slot->schedule;
    item->wire_bytes = item->sent_bytes;
    tacit__trace_begin(trace, find_plan(trace, item)->slot, 1);
    queue_native(trace, &event);
    add_end(trace, item, &event);
}

void tacit__operation_trace(const tacit_operation_t *operation)
{
    tacit_trace_t *trace = operation->comm->trace;

    trace->now = operation->began;
    for (size_t i = operation->item_count; i > 0; i--) {
        (void)find_plan(trace, &operation->items[i - 1]);
    }
    tacit__trace_begin(trace, operation->item_count != 0 ? operation->items[0].slot->traced->slot : operation->what,
                       operation->item_count);
}

/* The plan of all slots, if that is one but for their names. */
static const tacit_traced_t *common_plan(const tacit_operation_t *operation)
{
    const tacit_traced_t *first = operation->items[0].slot->traced;

    for (size_t i = 1; i < operation->item_count; i++) {
        const tacit_traced_t *plan = operation->items[i].slot->traced;

        if (plan->schedule != first->schedule || strcmp(plan->spec, first->spec) != 0) {
            return NULL;
        }
    }
    return first;
}

void tacit__operation_traced(const tacit_operation_t *operation)
{
    tacit_trace_t *trace = operation->comm->trace;
    tacit_event_t  event = tacit__trace_event(TACIT_TRACE_OPERATION, operation->began, operation->ended);

    event.name = operation->what;
    event.status = (int16_t)operation->status;
    if (operation->item_count == 1) {
        add_end(trace, operation->items, &event);
        return;
    }
    for (size_t i = 0; i < operation->item_count; i++) {
        tacit_event_t part = event;

        part.lane = TACIT_TRACE_SLOT;
        part.name = operation->items[i].slot->traced->slot;
        part.began = part.ended;
        add_end(trace, &operation->items[i], &part);
        event.bytes += part.bytes;
    }
    event.plan = operation->item_count != 0 ? common_plan(operation) : NULL;
    tacit__trace_add(trace, &event);
}

static void add_work(const tacit_item_t *item, tacit_trace_lane_t lane, double began, double ended, size_t elements, int peer)
{
    tacit_trace_t *trace = item->slot->comm->trace;
    tacit_event_t  event = tacit__trace_event(lane, began, ended);

    trace->now = ended;
    event.bytes = elements * tacit__codec_element_bytes(item->codec);
    event.slot = item->slot->traced->slot;
    event.slots = 1;
    event.peer = peer;
    if (lane == TACIT_TRACE_NATIVE) {
        queue_native(trace, &event);
    } else {
        event.round = (int64_t)item->round;
    }
    tacit__trace_add(trace, &event);
}

void tacit__item_traced(const tacit_item_t *item, tacit_trace_lane_t lane, double began, size_t elements, int peer)
{
    if (item->slot->comm->trace != NULL) {
        add_work(item, lane, began, tacit__seconds(), elements, peer);
    }
}

void tacit__item_worked(tacit_item_t *item, tacit_trace_lane_t lane, double began, size_t elements, int peer)
{
    const double ended = tacit__seconds();

    *(lane == TACIT_TRACE_ENCODE ? &item->encode_seconds : &item->decode_seconds) += ended - began;
    if (item->slot->comm->trace != NULL) {
        add_work(item, lane, began, ended, elements, peer);
    }
}

/* ---- Writing ---- */

/* Whatever bytes there are, it is JSON. */
static void write_text(FILE *file, const char *text)
{
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;

        if (byte < 0x20 || byte > 0x7e || byte == '"' || byte == '\\') {
            fprintf(file, "\\u%04x", byte);
        } else {
            fputc(byte, file);
        }
    }
}

/* Microseconds, without the locale's idea of a decimal point. */
static void write_time(FILE *file, const char *key, int64_t nanoseconds)
{
    fprintf(file, "\"%s\":%" PRId64 ".%03d", key, nanoseconds / 1000, (int)(nanoseconds % 1000));
}

/* That a process is a rank, or that a thread is a lane. */
static void write_name(FILE *file, const tacit_trace_t *trace, const char *what, int lane, const char *format, int number)
{
    fprintf(file, "{\"name\":\"%s\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"", what, trace->rank, lane);
    fprintf(file, format, number);
    fputs("\"}},\n", file);
}

/* A slot's name, or the first one's and how many more there are; as an operation's, a slot's own event has the name alone. */
static void write_slot(FILE *file, const tacit_event_t *event)
{
    char text[64];

    if (event->slots > 1) {
        snprintf(text, sizeof text, "%.32s and %u more", event->slot, event->slots - 1);
    }
    fputs(",\"slot\":\"", file);
    write_text(file, event->slots > 1 ? text : event->slot);
    fputc('"', file);
}

/* How it went, of what ends an operation; and what left, of one slot. */
static void write_plan(FILE *file, const tacit_event_t *event)
{
    const tacit_traced_t *plan = event->plan;

    fputs(",\"spec\":\"", file);
    write_text(file, plan->spec);
    fprintf(file, "\",\"schedule\":\"%s\"", plan->schedule);
    if (event->slots == 1) {
        fprintf(file, ",\"payload_bytes\":%" PRIu64 ",\"wire_bytes\":%" PRIu64 ",\"dense_bytes\":%" PRIu64, event->payload_bytes,
                event->wire_bytes, plan->dense_bytes);
    }
}

static void write_arguments(FILE *file, const tacit_event_t *event)
{
    fprintf(file, ",\"args\":{\"operation\":%u", event->operation);
    write_slot(file, event);
    fprintf(file, ",\"bytes\":%zu", event->bytes);
    if (event->plan != NULL) {
        write_plan(file, event);
    }
    if (event->peer >= 0) {
        fprintf(file, ",\"peer\":%d", event->peer);
    }
    if (event->round >= 0) {
        fprintf(file, ",\"round\":%" PRId64, event->round);
    }
    if (event->index >= 0) {
        fprintf(file, ",\"index\":%" PRId64, event->index);
    }
    if (event->lane == TACIT_TRACE_SEND || event->queued > 0) {
        fputc(',', file);
        write_time(file, "queued", (int64_t)(1e9 * event->queued));
    }
    if (event->status != TACIT_OK) {
        fprintf(file, ",\"status\":%d", event->status);
    }
    fputc('}', file);
}

static void write_event(FILE *file, const tacit_trace_t *trace, const tacit_event_t *event)
{
    const int64_t began = (int64_t)(1e9 * event->began), ended = (int64_t)(1e9 * event->ended);
    const int     lane = event->lane + (event->lane == TACIT_TRACE_SEND ? event->peer : 0);
    const bool    moment = event->lane == TACIT_TRACE_SLOT;

    fputs("{\"name\":\"", file);
    write_text(file, event->name != NULL ? event->name : lanes[event->lane]);
    fprintf(file, "\",\"cat\":\"%s\",\"ph\":%s,", lanes[event->lane], moment ? "\"i\",\"s\":\"t\"" : "\"X\"");
    write_time(file, "ts", trace->epoch + began);
    if (!moment) {
        fputc(',', file);
        write_time(file, "dur", ended - began);
    }
    fprintf(file, ",\"pid\":%d,\"tid\":%d", trace->rank, lane);
    write_arguments(file, event);
    fputc('}', file);
}

/* Viewers show it beside the rank. */
static void write_lost(FILE *file, const tacit_trace_t *trace, uint64_t lost)
{
    fprintf(file,
            "{\"name\":\"process_labels\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"labels\":\"the last %d of %" PRIu64
            " events\",\"lost\":%" PRIu64 "}},\n",
            trace->rank, EVENTS, trace->made, lost);
}

static void write_all(FILE *file, const tacit_trace_t *trace)
{
    const uint64_t first = trace->made > EVENTS ? trace->made - EVENTS : 0;

    fputs("[\n", file);
    for (int lane = 0; lane < TACIT_TRACE_SEND; lane++) {
        write_name(file, trace, "thread_name", lane, lanes[lane], 0);
    }
    for (int peer = 0; peer < trace->ranks; peer++) {
        if (peer != trace->rank) {
            write_name(file, trace, "thread_name", TACIT_TRACE_SEND + peer, "send to %d", peer);
        }
    }
    write_name(file, trace, "process_name", 0, "rank %d", trace->rank);
    if (first != 0) {
        write_lost(file, trace, first);
    }
    for (uint64_t i = first; i < trace->made; i++) {
        write_event(file, trace, &trace->events[i % EVENTS]);
        fputs(i + 1 < trace->made ? ",\n" : "\n", file);
    }
    fputs("]\n", file);
    if (first != 0) {
        tacit__log(TACIT_LOG_INFO, trace->rank, "trace: %s has the last %d events of %" PRIu64, trace->path, EVENTS, trace->made);
    }
}

void tacit__trace_destroy(tacit_trace_t *trace)
{
    const int error = errno;
    FILE     *file;
    bool      written;

    if (trace == NULL) {
        return;
    }
    file = fopen(trace->path, "we");
    if (file != NULL) {
        write_all(file, trace);
    }
    written = file != NULL && ferror(file) == 0;
    if ((file != NULL && fclose(file) != 0) || !written) {
        tacit__log(TACIT_LOG_WARN, trace->rank, "trace: %s could not be written: %s", trace->path, strerror(errno));
    }
    while (trace->plans != NULL) {
        tacit_traced_t *next = trace->plans->next;

        tacit__free(trace->plans);
        trace->plans = next;
    }
    tacit__free(trace->events);
    tacit__free(trace);
    errno = error;
}
