/* SPDX-License-Identifier: Apache-2.0 */
/* One operation as a picture in text: a line for each lane of each rank, a character for a part of the time. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "summary.h"

enum { COLUMNS = 72 };

typedef struct span {
    double began, ended;
} span_t;

/* ---- Which operation ---- */

/* A native call is one event, of which there is nothing to show. */
static bool is_call(const summary_event_t *event)
{
    return event->lane == SUMMARY_OPERATION && event->bytes > 0 && event->status == 0;
}

static double length_of(const summary_event_t *event)
{
    return event->ended - event->began;
}

static bool is_alike(const summary_event_t *a, const summary_event_t *b)
{
    return a->slot == b->slot && a->spec == b->spec && a->schedule == b->schedule;
}

/* A call of the kind that took most of a rank's time; NULL: there is none. */
static const summary_event_t *find_kind(const summary_rank_t *rank)
{
    const summary_event_t **kinds = NULL, *most = NULL;
    double                 *times = NULL, longest = 0;
    size_t                  count = 0, kind_room = 0, time_room = 0;

    for (size_t i = 0; i < rank->count; i++) {
        const summary_event_t *event = &rank->events[i];
        size_t                 kind = 0;

        if (!is_call(event)) {
            continue;
        }
        while (kind < count && !is_alike(kinds[kind], event)) {
            kind++;
        }
        if (kind == count) {
            kinds = summary_grow(kinds, count, &kind_room, sizeof *kinds);
            times = summary_grow(times, count, &time_room, sizeof *times);
            kinds[count] = event;
            times[count++] = 0;
        }
        times[kind] += length_of(event);
        if (times[kind] > longest) {
            longest = times[kind];
            most = kinds[kind];
        }
    }
    free(kinds);
    free(times);
    return most;
}

static int by_length(const void *a, const void *b)
{
    const double x = length_of(*(const summary_event_t *const *)a), y = length_of(*(const summary_event_t *const *)b);

    return (x > y) - (x < y);
}

/* The one of median length of the calls like this one, and how many these are. */
static const summary_event_t *find_median(const summary_rank_t *rank, const summary_event_t *kind, size_t *count_out)
{
    const summary_event_t **calls = summary_memory(malloc(rank->count * sizeof *calls)), *median;
    size_t                  count = 0;

    for (size_t i = 0; i < rank->count; i++) {
        if (is_call(&rank->events[i]) && is_alike(&rank->events[i], kind)) {
            calls[count++] = &rank->events[i];
        }
    }
    qsort(calls, count, sizeof *calls, by_length);
    median = calls[(count - 1) / 2];
    *count_out = count;
    free(calls);
    return median;
}

/* What a rank has of the operation that is this on another one; NULL: nothing. */
static const summary_event_t *find_same(const summary_rank_t *rank, const summary_event_t *call)
{
    for (size_t i = 0; i < rank->count; i++) {
        if (rank->events[i].operation == call->operation && rank->events[i].slot == call->slot && is_call(&rank->events[i])) {
            return &rank->events[i];
        }
    }
    return NULL;
}

/* ---- Drawing ---- */

/* Adds, or takes away, how much of each column a span fills. */
static void fill(double columns[COLUMNS], const span_t *whole, const span_t *span, double sign)
{
    const double scale = COLUMNS / (whole->ended - whole->began);
    const double began = fmax(0, (span->began - whole->began) * scale),
                 ended = fmin(COLUMNS, (span->ended - whole->began) * scale);

    for (int i = (int)began; i < COLUMNS && i < ended; i++) {
        columns[i] += sign * fmax(0, fmin(i + 1, ended) - fmax(i, began));
    }
}

static bool is_work(const summary_event_t *event)
{
    return event->lane == SUMMARY_ENCODE || event->lane == SUMMARY_ADD || event->lane == SUMMARY_DECODE;
}

/* Whether work was done as a message was taken in: then it is work. */
static bool is_within_receive(const summary_event_t *events, size_t count, const summary_event_t *work)
{
    for (size_t i = 0; i < count; i++) {
        if (events[i].lane == SUMMARY_RECEIVE && events[i].began <= work->began && events[i].ended >= work->ended) {
            return true;
        }
    }
    return false;
}

static void print_lane(const char *name, const double columns[COLUMNS])
{
    static const char shades[] = " .:#";
    double            sum = 0;

    printf("  %-8s|", name);
    for (int i = 0; i < COLUMNS; i++) {
        const double share = fmin(1, fmax(0, columns[i]));

        putchar(shades[share < 0.01 ? 0 : share < 1.0 / 3 ? 1 : share < 2.0 / 3 ? 2 : 3]);
        sum += share;
    }
    printf("| %3.0f %%\n", 100 * sum / COLUMNS);
}

/* A rank's events of one operation, which follow each other. */
static void print_rank(const summary_rank_t *rank, const summary_event_t *call, const span_t *whole)
{
    const summary_event_t *first = call, *end = call + 1;
    double                 columns[SUMMARY_LANES][COLUMNS] = {{0}};
    bool                   used[SUMMARY_LANES] = {false};

    while (first > rank->events && first[-1].operation == call->operation) {
        first--;
    }
    while (end < rank->events + rank->count && end->operation == call->operation) {
        end++;
    }
    for (const summary_event_t *event = first; event < end; event++) {
        const span_t span = {event->began, event->ended};

        used[event->lane] = true;
        fill(columns[event->lane], whole, &span, 1);
        if (is_work(event) && is_within_receive(first, (size_t)(end - first), event)) {
            fill(columns[SUMMARY_RECEIVE], whole, &span, -1);
        }
    }
    printf("rank %d\n", rank->number);
    for (summary_lane_t lane = SUMMARY_ENCODE; lane <= SUMMARY_SEND; lane++) {
        if (used[lane]) {
            print_lane(summary_lane(lane), columns[lane]);
        }
    }
}

static void print_title(const summary_t *summary, const summary_event_t *call, size_t count, double length)
{
    char bytes[SUMMARY_BYTES_TEXT];

    summary_write_bytes(call->bytes, bytes);
    printf("\noperation %u, %s of '", call->operation, summary_text(summary, call->name));
    summary_print_name(summary_text(summary, call->slot));
    printf("', %s, %.3f ms", bytes, length / 1e3);
    if (call->spec != 0) {
        printf(", %s by %s", summary_text(summary, call->spec), summary_text(summary, call->schedule));
    }
    printf("; the median of %zu\n", count);
}

void summary_plot(const summary_t *summary)
{
    const summary_event_t *call = summary->rank_count > 0 ? find_kind(&summary->ranks[0]) : NULL;
    span_t                 whole;
    size_t                 count;

    if (call == NULL) {
        return;
    }
    call = find_median(&summary->ranks[0], call, &count);
    whole = (span_t){call->began, call->ended};
    for (size_t i = 1; i < summary->rank_count; i++) {
        const summary_event_t *same = find_same(&summary->ranks[i], call);

        if (same != NULL) {
            whole = (span_t){fmin(whole.began, same->began), fmax(whole.ended, same->ended)};
        }
    }
    if (whole.ended <= whole.began) {
        return;
    }
    print_title(summary, call, count, whole.ended - whole.began);
    for (size_t i = 0; i < summary->rank_count; i++) {
        const summary_event_t *same = find_same(&summary->ranks[i], call);

        if (same != NULL) {
            print_rank(&summary->ranks[i], same, &whole);
        }
    }
}
