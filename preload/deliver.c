/* SPDX-License-Identifier: Apache-2.0 */
/* The clock of the run, and where reports go: TACIT_REPORT, or standard error. */
#include "deliver.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct timespec began;

/* The interposer is loaded with the program, so that this is the time when the program began. */
__attribute__((constructor)) static void begin(void)
{
    clock_gettime(CLOCK_MONOTONIC, &began);
}

double preload_run_seconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)(time.tv_sec - began.tv_sec) + 1e-9 * (double)(time.tv_nsec - began.tv_nsec);
}

void preload_deliver(const char *text, size_t bytes)
{
    const char *path = getenv("TACIT_REPORT");
    FILE       *file = path != NULL && path[0] != '\0' ? fopen(path, "a") : stderr;

    if (file == NULL) {
        fprintf(stderr, "tacit: %s cannot be written, the report is here:\n", path);
        file = stderr;
    }
    fwrite(text, 1, bytes, file);
    if (file != stderr && fclose(file) != 0) {
        fprintf(stderr, "tacit: %s could not be written\n", path);
    }
}
