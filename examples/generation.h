/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints as numbered folders DIR/gen-1, DIR/gen-2 ... A generation is filled under another name and gets its own when it is
   whole, so that a program that is killed at any moment leaves a usable one. On one process; the others wait. */
#ifndef GENERATION_H
#define GENERATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GENERATION_PATH_BYTES = 4096 };

/* The path of `file` in a generation, or in the folder where the next one is filled. Returns 0, or -1 where it is too long. */
int generation_path(const char *dir, uint64_t number, bool filling, const char *file, char *path_out);

/* The number of the newest whole generation, 0 where there is none or no `dir`. Returns 0, or -1 with errno set. */
int generation_newest(const char *dir, uint64_t *number_out);
/* Makes an empty folder to fill, `dir` too where it is missing. Returns 0, or -1 with errno set. */
int generation_begin(const char *dir, uint64_t number);
/* Whether generation_begin() would succeed: makes the folder, `dir` stays, and removes it. Returns 0, or -1 with errno set. */
int generation_try(const char *dir, uint64_t number);
/* The files are there and synced: makes the folder the newest generation and removes the older ones. Returns 0, or -1 with
   errno set. */
int generation_commit(const char *dir, uint64_t number);

#endif
