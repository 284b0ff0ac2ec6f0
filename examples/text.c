/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a text of any bytes and numbers those that occur. */
#include "text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the shipped text lies; the build says so. */
#ifndef TEXT_FILE
#define TEXT_FILE "examples/data/jargon.txt"
#endif

enum { TEXT_LIMIT = 1 << 30, TEXT_LEAST = 100, BYTE_VALUES = 256 };

/* The whole file, or NULL with errno set. Of a file that is too large, one byte more than allowed. */
static uint8_t *read_all(FILE *file, size_t *bytes_out)
{
    size_t   room = 1 << 16, used = 0, got;
    uint8_t *bytes = malloc(room);

    while (bytes && used <= TEXT_LIMIT && (got = fread(bytes + used, 1, room - used, file)) > 0) {
        used += got;
        if (used == room) {
            uint8_t *more = realloc(bytes, 2 * room);

            if (!more) {
                free(bytes);
            }
            bytes = more;
            room *= 2;
        }
    }
    if (bytes && ferror(file)) {
        free(bytes);
        return NULL;
    }
    *bytes_out = used;
    return bytes;
}

/* Replaces bytes by their numbers. */
static void number(text_t *text, uint8_t *bytes, size_t count)
{
    bool    occurs[BYTE_VALUES] = {false};
    uint8_t numbers[BYTE_VALUES];

    for (size_t i = 0; i < count; i++) {
        occurs[bytes[i]] = true;
    }
    for (size_t i = 0; i < BYTE_VALUES; i++) {
        numbers[i] = (uint8_t)text->symbols;
        text->symbols += occurs[i];
    }
    for (size_t i = 0; i < count; i++) {
        bytes[i] = numbers[bytes[i]];
    }
}

int text_load(const char *path, text_t *text_out, char *error, size_t error_bytes)
{
    const char *name = path ? path : TEXT_FILE;
    FILE       *file = fopen(name, "rb");
    size_t      count = 0;
    uint8_t    *bytes;

    *text_out = (text_t){0};
    if (!file) {
        (void)snprintf(error, error_bytes, "cannot open %s: %s", name, strerror(errno));
        return -1;
    }
    bytes = read_all(file, &count);
    if (!bytes) {
        (void)snprintf(error, error_bytes, "cannot read %s: %s", name, strerror(errno));
    } else if (count < TEXT_LEAST || count > TEXT_LIMIT) {
        (void)snprintf(error, error_bytes, "%s: a text of %d bytes to 1 GiB was expected%s", name, TEXT_LEAST,
                       count < TEXT_LEAST ? "; it is shorter" : "; it is longer");
        free(bytes);
        bytes = NULL;
    }
    (void)fclose(file);
    if (!bytes) {
        return -1;
    }
    number(text_out, bytes, count);
    text_out->tests = count / 10;
    text_out->trains = count - text_out->tests;
    text_out->train = bytes;
    text_out->test = bytes + text_out->trains;
    return 0;
}

void text_free(text_t *text)
{
    free(text->train);
    *text = (text_t){0};
}
