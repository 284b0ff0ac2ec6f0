/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps events in a ring, and writes them in the Trace Event Format: an array of complete events ("ph":"X"), one a line, with
   times in microseconds since a day that all ranks know, so that their traces can be laid side by side. */
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
    [TACIT_TRACE_VERDICT] = "verdict",     [TACIT_TRACE_NATIVE] = "native", [TACIT_TRACE_SEND] = "send",
};

static const char *const messages[TACIT_FRAME_KINDS] = {
    [TACIT_FRAME_CONTRIBUTION] = "contribution", [TACIT_FRAME_RESULT] = "result",   [TACIT_FRAME_SPARSE] = "sparse",
    [TACIT_FRAME_AGREEMENT] = "agreement",       [TACIT_FRAME_VERDICT] = "verdict",
};

struct tacit_trace {
    char           path[PATH_BYTES];
    int            rank, ranks;
    int64_t        epoch;     /* nanoseconds from that day to the zero of tacit__seconds() */
    uint32_t       operation; /* that runs; the first is 1 */
    char           slot[TACIT_TRACE_SLOT_BYTES];
    tacit_event_t *events;
    uint64_t       made;   /* events so far */
    double         gone[]; /* when the last message to each rank was */
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
    if (slots > 1) {
        snprintf(trace->slot, sizeof trace->slot, "%.32s and %zu more", slot, slots - 1);
    } else {
        snprintf(trace->slot, sizeof trace->slot, "%s", slot);
    }
}

void tacit__trace_add(tacit_trace_t *trace, const tacit_event_t *event)
{
    tacit_event_t *kept = &trace->events[trace->made++ % EVENTS];

    *kept = *event;
    kept->operation = trace->operation;
    if (kept->slot[0] == '\0') {
        memcpy(kept->slot, trace->slot, sizeof kept->slot);
    }
}

tacit_event_t tacit__trace_event(tacit_trace_lane_t lane, double began)
{
    return (tacit_event_t){
        .lane = (uint8_t)lane, .began = began, .ended = tacit__seconds(), .peer = -1, .round = -1, .index = -1};
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
    tacit_event_t       event = tacit__trace_event(TACIT_TRACE_SEND, began);

    event.peer = peer;
    event.queued = began - posted;
    event.status = (int16_t)status;
    trace->gone[peer] = event.ended;
    add_message(trace, &frame, &event);
}

void tacit__trace_received(tacit_trace_t *trace, const tacit_frame_t *frame, double began)
{
    tacit_event_t event = tacit__trace_event(TACIT_TRACE_RECEIVE, began);

    event.peer = frame->rank;
    add_message(trace, frame, &event);
}

void tacit__item_traced(const tacit_item_t *item, tacit_trace_lane_t lane, double began, size_t elements, int peer)
{
    tacit_trace_t *trace = item->slot->comm->trace;

    if (trace != NULL) {
        tacit_event_t event = tacit__trace_event(lane, began);

        snprintf(event.slot, sizeof event.slot, "%s", item->codec->name);
        event.bytes = elements * tacit__codec_element_bytes(item->codec);
        event.peer = peer;
        event.round = lane != TACIT_TRACE_NATIVE ? (int64_t)item->round : -1;
        tacit__trace_add(trace, &event);
    }
}

void tacit__item_worked(tacit_item_t *item, tacit_trace_lane_t lane, double began, size_t elements, int peer)
{
    *(lane == TACIT_TRACE_ENCODE ? &item->encode_seconds : &item->decode_seconds) += tacit__seconds() - began;
    tacit__item_traced(item, lane, began, elements, peer);
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

static void write_event(FILE *file, const tacit_trace_t *trace, const tacit_event_t *event)
{
    const int64_t began = (int64_t)(1e9 * event->began), ended = (int64_t)(1e9 * event->ended);
    const int     lane = event->lane + (event->lane == TACIT_TRACE_SEND ? event->peer : 0);

    fprintf(file, "{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",", event->name != NULL ? event->name : lanes[event->lane],
            lanes[event->lane]);
    write_time(file, "ts", trace->epoch + began);
    fputc(',', file);
    write_time(file, "dur", ended - began);
    fprintf(file, ",\"pid\":%d,\"tid\":%d,\"args\":{\"operation\":%u,\"slot\":\"", trace->rank, lane, event->operation);
    write_text(file, event->slot);
    fprintf(file, "\",\"bytes\":%zu", event->bytes);
    if (event->peer >= 0) {
        fprintf(file, ",\"peer\":%d", event->peer);
    }
    if (event->round >= 0) {
        fprintf(file, ",\"round\":%" PRId64, event->round);
    }
    if (event->index >= 0) {
        fprintf(file, ",\"index\":%" PRId64, event->index);
    }
    if (event->lane == TACIT_TRACE_SEND) {
        fputc(',', file);
        write_time(file, "queued", (int64_t)(1e9 * event->queued));
    }
    if (event->status != TACIT_OK) {
        fprintf(file, ",\"status\":%d", event->status);
    }
    fputs("}}", file);
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
    tacit__free(trace->events);
    tacit__free(trace);
    errno = error;
}
