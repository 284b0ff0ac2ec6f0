/* SPDX-License-Identifier: Apache-2.0 */
/* The environment variables: one table, read once when a communicator or a codec is made. */
#ifndef TACIT_ENVIRONMENT_H
#define TACIT_ENVIRONMENT_H

#include "internal.h"

#define TACIT_PLAN_MEASURED "measured" /* of TACIT_PLAN: no schedule, but how one is chosen */

typedef struct tacit_environment {
    const char *spec, *plan, *topology, *trace, *cache;
    int64_t     timeout_ms, strict, check, disable;
    int         progress;                                            /* 0: calls, 1: thread */
    const char *report, *rule, *allreduce, *min_bytes, *state_bytes; /* read by the interposer itself; here for the table */
    const char *library;                                             /* read by the Python package; here for the table */
    int         isa, log;                                            /* read by isa.c and log.c themselves; here for the table */
} tacit_environment_t;

/* The table, ending with a NULL key. */
const tacit_param_t *tacit__environment_params(void);
/* Reads all variables. A bad value is a warning and leaves the default; so is a TACIT_ variable that does not exist, once. */
void tacit__environment_read(tacit_environment_t *environment);

#endif
