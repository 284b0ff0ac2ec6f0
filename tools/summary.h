/* SPDX-License-Identifier: Apache-2.0 */
/* Traces that ranks wrote for TACIT_TRACE, summed up: what each slot cost, and a picture of one operation. */
#ifndef TOOLS_SUMMARY_H
#define TOOLS_SUMMARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As an event's category names it. */
typedef enum {
    SUMMARY_OPERATION,
    SUMMARY_ENCODE,
    SUMMARY_ADD,
    SUMMARY_DECODE,
    SUMMARY_NATIVE,
    SUMMARY_RECEIVE,
    SUMMARY_WAIT,
    SUMMARY_SEND,
    SUMMARY_VERDICT,
    SUMMARY_SLOT,
    SUMMARY_LANES
} summary_lane_t;

/* Texts, each once, by number: 0 is the empty one. */
typedef struct summary_names {
    char    **texts;
    uint32_t *places; /* a hash table of number + 1; 0: free */
    size_t    count, room;
} summary_names_t;

typedef struct summary_event {
    double         began, ended; /* microseconds */
    double         queued;
    double         bytes, payload_bytes, wire_bytes, dense_bytes;
    uint32_t       name, slot, spec, schedule; /* names; spec and schedule 0: it has none */
    uint32_t       operation;
    int            status;
    bool           ends; /* an operation of one slot, or its part: the bytes are known */
    summary_lane_t lane;
} summary_event_t;

typedef struct summary_rank {
    int              number;
    const char      *path;
    summary_event_t *events;
    size_t           count, room;
    double           lost; /* events */
} summary_rank_t;

/* A slot, as long as its spec and schedule were these. Sums over all ranks; times in microseconds. */
typedef struct summary_row {
    uint32_t slot, spec, schedule;
    double   calls, failed;
    double   bytes, payload_bytes, wire_bytes, dense_bytes; /* of calls that did not fail, as are times */
    double   encode, add, decode, wire, wait;               /* wire: all that is not the first three; wait: of that */
} summary_row_t;

/* Starts as zeros. */
typedef struct summary {
    summary_names_t names, keys; /* keys: of rows */
    summary_rank_t *ranks;       /* in order, once all files are read */
    size_t          rank_count;
    summary_row_t  *rows;
    size_t          row_count;
    double          run; /* microseconds from each rank's first event to its last, summed */
} summary_t;

/* Adds a file. False: it cannot be read or is no trace, which is said on standard error, with the byte. */
bool summary_read(summary_t *summary, const char *path);
/* The same of what a file holds, behind which a 0 follows: what is wrong with it, and at which byte; NULL: nothing. */
const char *summary_parse(summary_t *summary, const char *path, const char *text, size_t bytes, size_t *at_out);
/* Fills rows and run. */
void summary_count(summary_t *summary);
/* On standard output: a table and the operation of median length of the slots that took most of the time; or an object a line. */
void summary_print(const summary_t *summary);
void summary_print_json(const summary_t *summary);
/* The picture alone. */
void summary_plot(const summary_t *summary);
void summary_release(summary_t *summary);

/* As in 64.0M. */
enum { SUMMARY_BYTES_TEXT = 16 };
void summary_write_bytes(double bytes, char text[SUMMARY_BYTES_TEXT]);
/* Without what would move a terminal's cursor. */
void summary_print_name(const char *text);
/* A text's number, which it is given if it is new. */
const char *summary_lane(summary_lane_t lane);
uint32_t    summary_name(summary_names_t *names, const char *text);
const char *summary_text(const summary_t *summary, uint32_t name);
/* A list with room for one element more, of so many bytes. */
void *summary_grow(void *list, size_t count, size_t *room, size_t bytes);
/* What was allocated; where there is no memory, the program ends. */
void *summary_memory(void *memory);

/* tacit-info --summary: its status. */
int summary_files(char *const *paths, size_t count, bool json);

#endif
