/* SPDX-License-Identifier: Apache-2.0 */
/* Reads what the library writes for TACIT_TRACE: a list of events. Nothing that a file may hold does more harm than an error. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_reader.h"
#include "options.h"
#include "summary.h"

static const char *const lanes[SUMMARY_LANES] = {
    [SUMMARY_OPERATION] = "operation", [SUMMARY_ENCODE] = "encode",   [SUMMARY_ADD] = "add",   [SUMMARY_DECODE] = "decode",
    [SUMMARY_NATIVE] = "native",       [SUMMARY_RECEIVE] = "receive", [SUMMARY_WAIT] = "wait", [SUMMARY_SEND] = "send",
    [SUMMARY_VERDICT] = "verdict",     [SUMMARY_SLOT] = "slot",
};

const char *summary_lane(summary_lane_t lane)
{
    return lanes[lane];
}

/* ---- Memory and names ---- */

void *summary_memory(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "%s: no memory\n", program_invocation_short_name);
        exit(EXIT_FAILURE);
    }
    return memory;
}

void *summary_grow(void *list, size_t count, size_t *room, size_t bytes)
{
    if (count == *room) {
        *room = *room != 0 ? 2 * *room : 64;
        list = summary_memory(realloc(list, *room * bytes));
    }
    return list;
}

/* Where a text's number is, or belongs: there are twice as many places as texts at most. */
static uint32_t *place_of(const summary_names_t *names, const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    size_t   at;

    for (const char *c = text; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    }
    at = (size_t)(hash ^ hash >> 32) & (2 * names->room - 1);
    while (names->places[at] != 0 && strcmp(names->texts[names->places[at] - 1], text) != 0) {
        at = (at + 1) & (2 * names->room - 1);
    }
    return &names->places[at];
}

uint32_t summary_name(summary_names_t *names, const char *text)
{
    uint32_t *place;

    if (names->count == names->room) {
        names->texts = summary_grow(names->texts, names->count, &names->room, sizeof *names->texts);
        free(names->places);
        names->places = summary_memory(calloc(2 * names->room, sizeof *names->places));
        for (size_t i = 0; i < names->count; i++) {
            *place_of(names, names->texts[i]) = (uint32_t)i + 1;
        }
    }
    place = place_of(names, text);
    if (*place == 0) {
        names->texts[names->count] = summary_memory(strdup(text));
        *place = (uint32_t)++names->count;
    }
    return *place;
}

const char *summary_text(const summary_t *summary, uint32_t name)
{
    return name != 0 ? summary->names.texts[name - 1] : "";
}

static void release_names(summary_names_t *names)
{
    for (size_t i = 0; i < names->count; i++) {
        free(names->texts[i]);
    }
    free(names->texts);
    free(names->places);
}

void summary_release(summary_t *summary)
{
    for (size_t i = 0; i < summary->rank_count; i++) {
        free(summary->ranks[i].events);
    }
    free(summary->ranks);
    free(summary->rows);
    release_names(&summary->names);
    release_names(&summary->keys);
    *summary = (summary_t){0};
}

/* ---- An event ---- */

/* Members as they stand in the file; 0: there is none. */
typedef struct event_text {
    double   ts, dur, pid, operation, bytes, payload_bytes, wire_bytes, dense_bytes, queued, status, lost;
    uint32_t name, cat, ph, slot, spec, schedule;
    unsigned seen; /* bit i: members[i] */
} event_text_t;

#define NUMBER(within, key, low, high)                                                                                           \
    {                                                                                                                            \
#key, offsetof(event_text_t, key), within, false, low, high                                                              \
    }
#define TEXT(within, key)                                                                                                        \
    {                                                                                                                            \
#key, offsetof(event_text_t, key), within, true, 0, 0                                                                    \
    }

enum { NAME, CAT, PH, PID, TS, DUR, OPERATION, SLOT, BYTES, SPEC, SCHEDULE, PAYLOAD, WIRE, DENSE, QUEUED, STATUS, LOST };

/* Above 2^53 no double tells whole numbers apart. */
static const struct {
    const char *key;
    size_t      offset;
    bool        is_argument, is_text;
    double      low, high;
} members[] = {
    [NAME] = TEXT(false, name),
    [CAT] = TEXT(false, cat),
    [PH] = TEXT(false, ph),
    [PID] = NUMBER(false, pid, 0, 0x1p31),
    [TS] = NUMBER(false, ts, 0, 0x1p53),
    [DUR] = NUMBER(false, dur, 0, 0x1p53),
    [OPERATION] = NUMBER(true, operation, 0, 0x1p32 - 1),
    [SLOT] = TEXT(true, slot),
    [BYTES] = NUMBER(true, bytes, 0, 0x1p53),
    [SPEC] = TEXT(true, spec),
    [SCHEDULE] = TEXT(true, schedule),
    [PAYLOAD] = NUMBER(true, payload_bytes, 0, 0x1p53),
    [WIRE] = NUMBER(true, wire_bytes, 0, 0x1p53),
    [DENSE] = NUMBER(true, dense_bytes, 0, 0x1p53),
    [QUEUED] = NUMBER(true, queued, 0, 0x1p53),
    [STATUS] = NUMBER(true, status, -100, 100),
    [LOST] = NUMBER(true, lost, 0, 0x1p53),
};

enum { MEMBERS = sizeof members / sizeof *members };

/* What is wrong, NULL: nothing, so far. Other members are passed over. */
static const char *read_member(summary_t *summary, json_reader_t *reader, bool is_argument, event_text_t *event)
{
    size_t       i = 0;
    json_token_t token;

    while (i < MEMBERS && (members[i].is_argument != is_argument || strcmp(members[i].key, reader->string) != 0)) {
        i++;
    }
    token = json_next(reader);
    if (i == MEMBERS) {
        return json_skip(reader, token) ? NULL : reader->error;
    }
    if (token != (members[i].is_text ? JSON_STRING : JSON_NUMBER)) {
        return reader->error != NULL ? reader->error : members[i].is_text ? "a text belongs here" : "a number belongs here";
    }
    if (members[i].is_text) {
        *(uint32_t *)((char *)event + members[i].offset) = summary_name(&summary->names, reader->string);
    } else if (reader->number >= members[i].low && reader->number <= members[i].high) {
        *(double *)((char *)event + members[i].offset) = reader->number;
    } else {
        return "a number out of range";
    }
    event->seen |= 1u << i;
    return NULL;
}

/* An object's members up to its end, those of "args" too. */
static const char *read_members(summary_t *summary, json_reader_t *reader, event_text_t *event)
{
    const size_t depth = reader->depth;
    bool         in_arguments = false;
    const char  *fault = NULL;

    while (fault == NULL) {
        const json_token_t token = json_next(reader);

        if (token == JSON_KEY && !in_arguments && strcmp(reader->string, "args") == 0) {
            in_arguments = json_next(reader) == JSON_OPEN && reader->text[reader->at] == '{';
            fault = in_arguments ? NULL : reader->error != NULL ? reader->error : "an object belongs here";
        } else if (token == JSON_KEY) {
            fault = read_member(summary, reader, in_arguments, event);
        } else if (token != JSON_CLOSE) {
            fault = reader->error;
        } else if (reader->depth < depth) {
            return NULL;
        } else {
            in_arguments = false;
        }
    }
    return fault;
}

/* ---- A file ---- */

/* NULL: another file has it, which two equal paths are. */
static summary_rank_t *find_rank(summary_t *summary, int number, const char *path)
{
    size_t room = summary->rank_count;

    for (size_t i = 0; i < summary->rank_count; i++) {
        if (summary->ranks[i].number == number) {
            return summary->ranks[i].path == path ? &summary->ranks[i] : NULL;
        }
    }
    summary->ranks = summary_memory(realloc(summary->ranks, (room + 1) * sizeof *summary->ranks));
    summary->ranks[summary->rank_count] = (summary_rank_t){.number = number, .path = path};
    return &summary->ranks[summary->rank_count++];
}

static bool has(const event_text_t *event, unsigned wanted)
{
    return (event->seen & wanted) == wanted;
}

static const char *add_event(summary_t *summary, summary_rank_t *rank, const event_text_t *text, bool is_moment)
{
    const unsigned  needed = 1u << NAME | 1u << CAT | 1u << TS | 1u << OPERATION | 1u << SLOT | 1u << BYTES;
    const unsigned  of_end = 1u << SPEC | 1u << SCHEDULE | 1u << PAYLOAD | 1u << WIRE | 1u << DENSE;
    summary_event_t event = {.began = text->ts,
                             .ended = text->ts + text->dur,
                             .queued = text->queued,
                             .bytes = text->bytes,
                             .payload_bytes = text->payload_bytes,
                             .wire_bytes = text->wire_bytes,
                             .dense_bytes = text->dense_bytes,
                             .name = text->name,
                             .slot = text->slot,
                             .spec = text->spec,
                             .schedule = text->schedule,
                             .operation = (uint32_t)text->operation,
                             .status = (int)text->status,
                             .ends = has(text, of_end)};

    if (!has(text, needed) || has(text, 1u << DUR) == is_moment) {
        return "an event that lacks what TACIT_TRACE writes";
    }
    while (event.lane < SUMMARY_LANES && strcmp(lanes[event.lane], summary_text(summary, text->cat)) != 0) {
        event.lane++;
    }
    if (event.lane == SUMMARY_LANES || (event.lane == SUMMARY_SLOT) != is_moment || (is_moment && !event.ends)) {
        return "an event of a kind that TACIT_TRACE does not write";
    }
    rank->events = summary_grow(rank->events, rank->count, &rank->room, sizeof *rank->events);
    rank->events[rank->count++] = event;
    return NULL;
}

static const char *read_event(summary_t *summary, const char *path, json_reader_t *reader)
{
    event_text_t    text = {0};
    const char     *fault = read_members(summary, reader, &text), *phase = summary_text(summary, text.ph);
    const bool      is_moment = strcmp(phase, "i") == 0, is_name = strcmp(phase, "M") == 0;
    summary_rank_t *rank;

    if (fault != NULL) {
        return fault;
    }
    if (!has(&text, 1u << PID) || (!is_moment && !is_name && strcmp(phase, "X") != 0)) {
        return "an event of a kind that TACIT_TRACE does not write";
    }
    rank = find_rank(summary, (int)text.pid, path);
    if (rank == NULL) {
        return "an event of a rank that an earlier file has; one file of each rank, please";
    }
    rank->lost += text.lost;
    return is_name ? NULL : add_event(summary, rank, &text, is_moment);
}

static int by_number(const void *a, const void *b)
{
    const int x = ((const summary_rank_t *)a)->number, y = ((const summary_rank_t *)b)->number;

    return (x > y) - (x < y);
}

const char *summary_parse(summary_t *summary, const char *path, const char *text, size_t bytes, size_t *at_out)
{
    json_reader_t reader = json_reader(text, bytes);
    json_token_t  token = json_next(&reader);
    const char   *fault = token == JSON_OPEN && text[reader.at] == '[' ? NULL : "not a list of events, as TACIT_TRACE writes it";

    *at_out = reader.at;
    while (fault == NULL && token != JSON_CLOSE && token != JSON_ERROR) {
        token = json_next(&reader);
        *at_out = reader.at;
        if (token == JSON_OPEN && text[reader.at] == '{') {
            fault = read_event(summary, path, &reader);
            *at_out = reader.depth > 1 ? reader.at : *at_out; /* within it, or all of it */
        } else if (token != JSON_CLOSE) {
            fault = "no event where one belongs";
        }
    }
    if (fault == NULL) {
        (void)json_next(&reader); /* the end, or something that is too much */
    }
    if (reader.error != NULL) {
        *at_out = reader.at;
        return reader.error;
    }
    if (summary->rank_count > 0) {
        qsort(summary->ranks, summary->rank_count, sizeof *summary->ranks, by_number);
    }
    return fault;
}

/* All of a file, and a 0 behind it; NULL: errno says why. */
static char *read_file(const char *path, size_t *bytes_out)
{
    FILE  *file = fopen(path, "r");
    char  *text = NULL;
    size_t used = 0, room = 0, got = 1;
    int    error;

    if (file == NULL) {
        return NULL;
    }
    while (got > 0) {
        if (room - used < 2) {
            room = room != 0 ? 2 * room : 1 << 16;
            text = summary_memory(realloc(text, room));
        }
        errno = 0;
        got = fread(text + used, 1, room - used - 1, file);
        used += got;
    }
    error = ferror(file) ? errno : 0;
    (void)fclose(file);
    if (error != 0) {
        free(text);
        errno = error;
        return NULL;
    }
    text[used] = '\0';
    *bytes_out = used;
    return text;
}

bool summary_read(summary_t *summary, const char *path)
{
    size_t      bytes = 0, at;
    char       *text = read_file(path, &bytes);
    const char *fault;

    if (text == NULL) {
        usage_error("%s: %s", path, strerror(errno));
        return false;
    }
    fault = summary_parse(summary, path, text, bytes, &at);
    if (fault != NULL) {
        usage_error("%s: byte %zu: %s", path, at, fault);
    }
    free(text);
    return fault == NULL;
}
