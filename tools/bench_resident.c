/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench: how much memory the process has, and had at most, as Linux counts it: pages that were touched, without those of
   files and those that processes share. */
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"

/* The number of kilobytes that /proc/self/status gives for each key; false where one is missing. */
static bool read_status(const char *const *keys, double *kilobytes, size_t count)
{
    FILE  *file = fopen("/proc/self/status", "r");
    char   line[256];
    size_t found = 0;

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        for (size_t i = 0; i < count; i++) {
            if (strncmp(line, keys[i], strlen(keys[i])) == 0 && sscanf(line + strlen(keys[i]), ": %lf", &kilobytes[i]) == 1) {
                found++;
            }
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return found == count;
}

double bench_resident(void)
{
    static const char *const keys[] = {"RssAnon"};
    double                   kilobytes[1];

    return read_status(keys, kilobytes, 1) ? 1024 * kilobytes[0] : NAN;
}

double bench_resident_reset(void)
{
    FILE *file;
    bool  reset;

    malloc_trim(0); /* what is free within malloc would be found there, and not be counted */
    file = fopen("/proc/self/clear_refs", "w");
    reset = file != NULL && fputs("5", file) >= 0;
    reset = file != NULL && fclose(file) == 0 && reset;
    return reset ? bench_resident() : NAN;
}

double bench_resident_peak(void)
{
    static const char *const keys[] = {"VmHWM", "RssFile", "RssShmem"};
    double                   kilobytes[3];

    return read_status(keys, kilobytes, 3) ? 1024 * (kilobytes[0] - kilobytes[1] - kilobytes[2]) : NAN;
}
