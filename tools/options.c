/* SPDX-License-Identifier: Apache-2.0 */
/* Reads values on a tool's command line. */
#define _GNU_SOURCE
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int usage_error(const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return STATUS_USAGE;
}

/* Reads digits and leaves *end behind them. */
static bool read_digits(const char *text, const char **end, uint64_t *value_out)
{
    char *behind;

    if (!isdigit((unsigned char)*text)) {
        return false; /* strtoull would take spaces and signs */
    }
    errno = 0;
    *value_out = strtoull(text, &behind, 10);
    *end = behind;
    return errno == 0;
}

bool option_count(const char *option, const char *text, uint64_t low, uint64_t high, uint64_t *value_out)
{
    const char *end;
    uint64_t    value;

    if (!read_digits(text, &end, &value) || *end != '\0' || value < low || value > high) {
        usage_error("%s takes a whole number from %" PRIu64 " to %" PRIu64 ", not '%s'", option, low, high, text);
        return false;
    }
    *value_out = value;
    return true;
}

/* One number of bytes up to a comma or the end. */
static bool read_bytes(const char *text, const char **end, size_t *bytes_out)
{
    static const char units[] = "KMG";
    uint64_t          value;
    const char       *unit;

    if (!read_digits(text, end, &value)) {
        return false;
    }
    unit = **end == '\0' ? NULL : strchr(units, **end);
    if (unit != NULL) {
        if (__builtin_mul_overflow(value, (uint64_t)1 << (10 * (unit - units + 1)), &value)) {
            return false;
        }
        ++*end;
    }
    *bytes_out = (size_t)value;
    return value > 0 && value <= SIZE_MAX / 16;
}

bool option_bytes(const char *option, const char *text, size_t *list, size_t capacity, size_t *count_out)
{
    const char *end = text;
    size_t      count = 0;

    while (count < capacity && read_bytes(end, &end, &list[count])) {
        count++;
        if (*end == '\0') {
            *count_out = count;
            return true;
        }
        if (*end++ != ',') {
            break;
        }
    }
    usage_error(capacity == 1 ? "%s takes a number of bytes such as 64M, not '%s'"
                              : "%s takes numbers of bytes such as 64M or 4K,1M, not '%s'",
                option, text);
    return false;
}

bool option_rate(const char *option, const char *text, double *bits_out)
{
    static const struct {
        const char *unit;
        double      factor;
    } units[] = {{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}};
    char  *end;
    double value = isdigit((unsigned char)*text) ? strtod(text, &end) : 0;

    for (size_t i = 0; value > 0 && i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].unit) == 0) {
            *bits_out = value * units[i].factor;
            return true;
        }
    }
    usage_error("%s takes a number and kbit, mbit or gbit, as in 1gbit, not '%s'", option, text);
    return false;
}

int finished(int status)
{
    errno = 0; /* what ferror() tells of may have set it long ago, and other calls since */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "%s: the output could not be written%s%s\n", program_invocation_short_name, errno != 0 ? ": " : "",
                errno != 0 ? strerror(errno) : "");
        return EXIT_FAILURE;
    }
    return status;
}
