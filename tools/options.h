/* SPDX-License-Identifier: Apache-2.0 */
/* Values on a tool's command line. Each call returns false after saying on standard error what the option takes instead. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Status of a tool whose arguments are wrong. */
enum { STATUS_USAGE = 2 };

/* A whole number from low to high. */
bool option_count(const char *option, const char *text, uint64_t low, uint64_t high, uint64_t *value_out);
/* A number of bytes, with K, M or G (1024), or several with commas between them. */
bool option_bytes(const char *option, const char *text, size_t *list, size_t capacity, size_t *count_out);
/* Bits per second, with kbit, mbit or gbit (1000): 1gbit, 2.5gbit. */
bool option_rate(const char *option, const char *text, double *bits_out);
/* A tool's status at its end: `status`, or failure, said on standard error, if its output could not all be written. */
int finished(int status);
/* Prints a line on standard error that begins with the tool's name. Returns STATUS_USAGE. */
int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
