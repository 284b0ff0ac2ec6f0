/* SPDX-License-Identifier: Apache-2.0 */
/* What each slot cost, counted as tacit_slot_counters() counts: what an operation takes beyond encoding, adding and decoding is
   the wire's, and in a group shared out by payload. */
#include "summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "options.h"

/* ---- Counting ---- */

/* Of a slot in the operation that is read. */
typedef struct work {
    uint32_t operation;
    double   encode, add, decode;
} work_t;

typedef struct counting {
    summary_t              *summary;
    work_t                 *works; /* by the slot's name */
    uint32_t                operation;
    double                  wait;  /* in it */
    const summary_event_t **parts; /* that have ended in it */
    size_t                  part_count, part_room;
    size_t                  row_room;
} counting_t;

static summary_row_t *find_row(counting_t *counting, const summary_event_t *event)
{
    summary_t *summary = counting->summary;
    char       text[64];
    uint32_t   key;

    snprintf(text, sizeof text, "%u %u %u", event->slot, event->spec, event->schedule);
    key = summary_name(&summary->keys, text);
    if (key > summary->row_count) {
        summary->rows = summary_grow(summary->rows, summary->row_count, &counting->row_room, sizeof *summary->rows);
        summary->rows[summary->row_count++] =
            (summary_row_t){.slot = event->slot, .spec = event->spec, .schedule = event->schedule};
    }
    return &summary->rows[key - 1];
}

static work_t *find_work(const counting_t *counting, const summary_event_t *event)
{
    work_t *work = &counting->works[event->slot];

    if (work->operation != event->operation) {
        *work = (work_t){.operation = event->operation};
    }
    return work;
}

/* The share of what an operation of so many seconds beyond all work took. */
static void count_part(counting_t *counting, const summary_event_t *part, double share, double beyond)
{
    summary_row_t *row = find_row(counting, part);
    const work_t  *work = find_work(counting, part);

    if (part->status != 0) {
        row->failed++;
        return;
    }
    row->calls++;
    row->bytes += part->bytes;
    row->payload_bytes += part->payload_bytes;
    row->wire_bytes += part->wire_bytes;
    row->dense_bytes += part->dense_bytes;
    row->encode += work->encode;
    row->add += work->add;
    row->decode += work->decode;
    row->wire += share * beyond;
    row->wait += share * counting->wait;
}

static void count_end(counting_t *counting, const summary_event_t *end)
{
    double payload = 0, work = 0, elapsed = end->ended - end->began + (end->lane == SUMMARY_NATIVE ? end->queued : 0);

    for (size_t i = 0; i < counting->part_count; i++) {
        const work_t *of = find_work(counting, counting->parts[i]);

        work += of->encode + of->add + of->decode;
        payload += counting->parts[i]->payload_bytes;
    }
    for (size_t i = 0; i < counting->part_count; i++) {
        const summary_event_t *part = counting->parts[i];

        count_part(counting, part, payload > 0 ? part->payload_bytes / payload : 1.0 / (double)counting->part_count,
                   elapsed > work ? elapsed - work : 0);
    }
    counting->part_count = 0;
}

static void count_event(counting_t *counting, const summary_event_t *event)
{
    const double length = event->ended - event->began;

    if (event->operation != counting->operation) {
        counting->operation = event->operation;
        counting->wait = 0;
        counting->part_count = 0;
    }
    if (event->ends) {
        counting->parts = summary_grow(counting->parts, counting->part_count, &counting->part_room, sizeof *counting->parts);
        counting->parts[counting->part_count++] = event;
    }
    if (event->lane == SUMMARY_OPERATION || (event->lane == SUMMARY_NATIVE && event->ends)) {
        count_end(counting, event);
    } else if (event->lane == SUMMARY_ENCODE) {
        find_work(counting, event)->encode += length;
    } else if (event->lane == SUMMARY_ADD) {
        find_work(counting, event)->add += length;
    } else if (event->lane == SUMMARY_DECODE) {
        find_work(counting, event)->decode += length;
    } else if (event->lane == SUMMARY_WAIT) {
        counting->wait += length;
    }
}

static void count_rank(counting_t *counting, const summary_rank_t *rank)
{
    double began = INFINITY, ended = 0;

    memset(counting->works, 0, (counting->summary->names.count + 1) * sizeof *counting->works);
    counting->operation = 0;
    counting->part_count = 0;
    for (size_t i = 0; i < rank->count; i++) {
        count_event(counting, &rank->events[i]);
        began = fmin(began, rank->events[i].began);
        ended = fmax(ended, rank->events[i].ended);
    }
    counting->summary->run += rank->count > 0 ? ended - began : 0;
}

void summary_count(summary_t *summary)
{
    counting_t counting = {.summary = summary};

    counting.works = summary_memory(calloc(summary->names.count + 1, sizeof *counting.works));
    for (size_t i = 0; i < summary->rank_count; i++) {
        count_rank(&counting, &summary->ranks[i]);
    }
    free(counting.works);
    free(counting.parts);
}

/* ---- For people ---- */

static double time_of(const summary_row_t *row)
{
    return row->encode + row->add + row->decode + row->wire;
}

void summary_write_bytes(double bytes, char text[SUMMARY_BYTES_TEXT])
{
    static const char units[] = " KMGTP";
    size_t            unit = 0;

    while (bytes >= 1024 && unit + 2 < sizeof units) {
        bytes /= 1024;
        unit++;
    }
    if (unit == 0) {
        snprintf(text, SUMMARY_BYTES_TEXT, "%.0f", bytes);
    } else {
        snprintf(text, SUMMARY_BYTES_TEXT, "%.1f%c", bytes, units[unit]);
    }
}

void summary_print_name(const char *text)
{
    for (; *text != '\0'; text++) {
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
    }
}

/* In a column that is as wide as the longest; names of characters beyond ASCII make it narrower. */
static void print_padded(const char *text, int width)
{
    summary_print_name(text);
    printf("%*s", width > (int)strlen(text) ? width - (int)strlen(text) : 0, "");
}

static int longest(const summary_t *summary, const char *head, size_t offset)
{
    size_t bytes = strlen(head);

    for (size_t i = 0; i < summary->row_count; i++) {
        const size_t of = strlen(summary_text(summary, *(const uint32_t *)((const char *)&summary->rows[i] + offset)));

        bytes = of > bytes && of <= 40 ? of : bytes;
    }
    return (int)bytes;
}

/* Of a call, but for its number and its share of the run. */
static void print_row(const summary_t *summary, const summary_row_t *row, int slot_width, int schedule_width)
{
    const double calls = row->calls > 0 ? row->calls : NAN, ranks = (double)summary->rank_count;
    char         tensor[SUMMARY_BYTES_TEXT] = "-", sent[SUMMARY_BYTES_TEXT] = "-";

    if (row->calls > 0) {
        summary_write_bytes(row->bytes / calls, tensor);
        summary_write_bytes(row->wire_bytes / calls, sent);
    }
    print_padded(summary_text(summary, row->slot), slot_width);
    printf(" %6.0f %8s %8s", row->calls / ranks, tensor, sent);
    if (row->wire_bytes > 0 && row->dense_bytes > 0) {
        printf(" %7.2f", row->dense_bytes / row->wire_bytes);
    } else {
        printf(" %7s", "-");
    }
    for (size_t i = 0; i < 5; i++) {
        const double times[] = {row->encode, row->add, row->decode, row->wire, row->wait};

        if (row->calls > 0) {
            printf(" %8.3f", times[i] / calls / 1e3);
        } else {
            printf(" %8s", "-");
        }
    }
    printf(" %5.1f %%  ", summary->run > 0 ? 100 * time_of(row) / summary->run : 0);
    print_padded(summary_text(summary, row->schedule), schedule_width);
    printf("  ");
    summary_print_name(summary_text(summary, row->spec));
    putchar('\n');
}

static void print_failures(const summary_t *summary)
{
    for (size_t i = 0; i < summary->row_count; i++) {
        const summary_row_t *row = &summary->rows[i];

        if (row->failed > 0) {
            printf("%.0f of '", row->failed / (double)summary->rank_count);
            summary_print_name(summary_text(summary, row->slot));
            printf("' failed on each rank\n");
        }
    }
    for (size_t i = 0; i < summary->rank_count; i++) {
        if (summary->ranks[i].lost > 0) {
            printf("the first %.0f events of rank %d are in no file\n", summary->ranks[i].lost, summary->ranks[i].number);
        }
    }
}

void summary_print(const summary_t *summary)
{
    const int slot_width = longest(summary, "slot", offsetof(summary_row_t, slot)),
              schedule_width = longest(summary, "schedule", offsetof(summary_row_t, schedule));
    double time = 0;

    printf("%-*s %6s %8s %8s %7s %8s %8s %8s %8s %8s %7s  %-*s  %s\n", slot_width, "slot", "calls", "tensor", "sent", "ratio",
           "encode", "add", "decode", "wire", "of: wait", "share", schedule_width, "schedule", "spec");
    for (size_t i = 0; i < summary->row_count; i++) {
        print_row(summary, &summary->rows[i], slot_width, schedule_width);
        time += time_of(&summary->rows[i]);
    }
    printf("\nBytes and milliseconds of a call, on average over %zu rank%s; %.1f %% of %.3f s were reductions.\n",
           summary->rank_count, summary->rank_count == 1 ? "" : "s", summary->run > 0 ? 100 * time / summary->run : 0,
           summary->run / (double)summary->rank_count / 1e6);
    print_failures(summary);
    summary_plot(summary);
}

/* ---- For programs ---- */

void summary_print_json(const summary_t *summary)
{
    const double ranks = (double)summary->rank_count;

    for (size_t i = 0; i < summary->row_count; i++) {
        const summary_row_t *row = &summary->rows[i];
        json_t               json = {0};

        json_open(&json, NULL, '{');
        json_text(&json, "mode", "summary");
        json_text(&json, "slot", summary_text(summary, row->slot));
        json_text(&json, "spec", summary_text(summary, row->spec));
        json_text(&json, "schedule", summary_text(summary, row->schedule));
        json_count(&json, "ranks", summary->rank_count);
        json_count(&json, "calls", (uint64_t)(row->calls / ranks + 0.5));
        json_count(&json, "failed", (uint64_t)(row->failed / ranks + 0.5));
        json_count(&json, "bytes_in", (uint64_t)(row->bytes / ranks + 0.5));
        json_count(&json, "payload_bytes", (uint64_t)(row->payload_bytes / ranks + 0.5));
        json_count(&json, "wire_bytes", (uint64_t)(row->wire_bytes / ranks + 0.5));
        json_count(&json, "dense_bytes", (uint64_t)(row->dense_bytes / ranks + 0.5));
        json_number(&json, "ratio", row->wire_bytes > 0 && row->dense_bytes > 0 ? row->dense_bytes / row->wire_bytes : NAN);
        json_number(&json, "encode_seconds", row->encode / ranks / 1e6);
        json_number(&json, "add_seconds", row->add / ranks / 1e6);
        json_number(&json, "decode_seconds", row->decode / ranks / 1e6);
        json_number(&json, "wire_seconds", row->wire / ranks / 1e6);
        json_number(&json, "wait_seconds", row->wait / ranks / 1e6);
        json_number(&json, "run_seconds", summary->run / ranks / 1e6);
        json_number(&json, "share", summary->run > 0 ? time_of(row) / summary->run : NAN);
        json_close(&json, '}');
        json_end(&json);
    }
}

int summary_files(char *const *paths, size_t count, bool json)
{
    summary_t summary = {0};
    int       status = EXIT_SUCCESS;

    for (size_t i = 0; i < count && status == EXIT_SUCCESS; i++) {
        status = summary_read(&summary, paths[i]) ? EXIT_SUCCESS : STATUS_USAGE;
    }
    if (status == EXIT_SUCCESS) {
        summary_count(&summary);
        if (summary.row_count == 0) {
            status = usage_error("%s: no slot has been reduced", paths[0]);
        } else if (json) {
            summary_print_json(&summary);
        } else {
            summary_print(&summary);
        }
    }
    summary_release(&summary);
    return status;
}
