/* SPDX-License-Identifier: Apache-2.0 */
/* A text as symbols, and windows of it: what a model of its next character learns from and is tested on. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdint.h>

typedef struct text {
    size_t   symbols;       /* different bytes that occur, numbered in ascending order */
    size_t   trains, tests; /* symbols of each part: the last tenth of the text is for testing */
    uint8_t *train, *test;  /* numbers from 0 to symbols - 1 */
} text_t;

/* Reads the file at `path`, or the text that ships with Tacit where it is NULL. Returns 0, or -1 with a sentence in `error`. */
int  text_load(const char *path, text_t *text_out, char *error, size_t error_bytes);
void text_free(text_t *text);

#endif
