/* SPDX-License-Identifier: Apache-2.0 */
/* Files in which a rank keeps state: written beside their place, synced and renamed; read and checked whole before anything
   changes. Layout: doc/wire-format.md, "State files". */
#ifndef TACIT_STATE_FILE_H
#define TACIT_STATE_FILE_H

#include <stdio.h>

#include "internal.h"

enum { TACIT_STATE_MAGIC_BYTES = 8, TACIT_STATE_TEXT_BYTES = 512 };

typedef struct tacit_writer {
    FILE    *file; /* NULL: to memory, as much of it as there is room for */
    uint8_t *memory;
    size_t   capacity, bytes; /* bytes: so far, room or not */
    uint64_t hash;            /* of all but the arrays, which have checksums of their own */
    bool     failed;
} tacit_writer_t;

/* Writes the beginning, what content() puts, and the end. Local. A path that is NULL is refused, as by tacit__state_open(). */
tacit_status_t tacit__state_write(int rank, int ranks, const char *path, const char magic[TACIT_STATE_MAGIC_BYTES],
                                  void (*content)(tacit_writer_t *writer, const void *state), const void *state);
/* The same into memory. Returns the bytes that it takes; where that is more than the capacity, what is there is of no use. */
size_t tacit__state_put(int rank, int ranks, uint8_t *memory, size_t capacity, const char magic[TACIT_STATE_MAGIC_BYTES],
                        void (*content)(tacit_writer_t *writer, const void *state), const void *state);
void   tacit__put_number(tacit_writer_t *writer, uint64_t number);
void   tacit__put_real(tacit_writer_t *writer, double number);
void   tacit__put_text(tacit_writer_t *writer, const char *text);
void   tacit__put_array(tacit_writer_t *writer, const char *name, const float *values, size_t count);

typedef struct tacit_reader {
    int            rank;
    const char    *path; /* for messages, too */
    const uint8_t *data;
    uint8_t       *owned; /* the same, where it is not the caller's */
    size_t         bytes, at;
    uint64_t       hash;
} tacit_reader_t;

/* Reads the file and the beginning: it must be this rank's, of as many ranks. close() follows in any case. */
tacit_status_t tacit__state_open(tacit_reader_t *reader, int rank, int ranks, const char *path,
                                 const char magic[TACIT_STATE_MAGIC_BYTES]);
/* The same of what is in memory, which stays the caller's. */
tacit_status_t tacit__state_get(tacit_reader_t *reader, int rank, int ranks, const void *memory, size_t bytes,
                                const char magic[TACIT_STATE_MAGIC_BYTES]);
tacit_status_t tacit__get_number(tacit_reader_t *reader, uint64_t *number);
tacit_status_t tacit__get_real(tacit_reader_t *reader, double *number);
tacit_status_t tacit__get_text(tacit_reader_t *reader, char text[TACIT_STATE_TEXT_BYTES]);
/* values are in the file's data, until it is closed: not aligned, and checked. name_out may be NULL. */
tacit_status_t tacit__get_array(tacit_reader_t *reader, char name_out[TACIT_STATE_TEXT_BYTES], const void **values_out,
                                uint64_t *count_out);
/* A field that must be what this program has; `slot` is "" where the field is no slot's. */
tacit_status_t tacit__expect_text(tacit_reader_t *reader, const char *slot, const char *what, const char *mine);
tacit_status_t tacit__expect_number(tacit_reader_t *reader, const char *slot, const char *what, uint64_t mine);
tacit_status_t tacit__state_damaged(const tacit_reader_t *reader, const char *what);
/* The end must be here, and right. */
tacit_status_t tacit__state_end(tacit_reader_t *reader);
void           tacit__state_close(tacit_reader_t *reader);

#endif
