/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the TACIT_ environment variables by table. */
#include "environment.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "param.h"

#define AT(field) offsetof(tacit_environment_t, field)

static const tacit_param_t params[] = {
    {"TACIT_SPEC", TACIT_PARAM_TEXT, AT(spec), 0, 0, 0, 0, NULL, "", "Spec of slots that are made without one."},
    {"TACIT_TIMEOUT_MS", TACIT_PARAM_INT, AT(timeout_ms), -1, 1e12, 60000, 0, NULL, "ms",
     "Longest wait for a peer in a framed operation; -1: no limit."},
    {"TACIT_STRICT", TACIT_PARAM_INT, AT(strict), 0, 1, 0, 0, NULL, "",
     "1: an error leaves a slot's memory exactly as it was, at the price of a second buffer."},
    {"TACIT_CHECK", TACIT_PARAM_INT, AT(check), 0, 1, 0, 0, NULL, "",
     "1: native calls too are checked for the same slot on all ranks, at the price of a message."},
    {"TACIT_DISABLE", TACIT_PARAM_INT, AT(disable), 0, 1, 0, 0, NULL, "",
     "1: nothing is compressed: slots and codecs go as 'none', whatever their specs."},
    {"TACIT_PLAN", TACIT_PARAM_TEXT, AT(plan), 0, 0, 0, 0, NULL, "",
     "The schedule that carries every slot that it can carry; others go as without it. 'measured': schedules are tried with each "
     "slot's own size when it is made. 'alltoall' or 'two_level_alltoall': so go all-to-alls."},
    {"TACIT_CACHE", TACIT_PARAM_TEXT, AT(cache), 0, 0, 0, 0, NULL, "",
     "Folder for what was measured of schedules, by default tacit in the user's cache folder; 'off': it is measured every time."},
    {"TACIT_TOPOLOGY", TACIT_PARAM_TEXT, AT(topology), 0, 0, 0, 0, NULL, "",
     "Where ranks run, instead of what is found: how many on each host, such as 4, or in order, such as 4,4,3; or a file, as "
     "@FILE "
     "or by a path with a slash in it, with a line for each rank, as tacit-info --topology prints it."},
    {"TACIT_PROGRESS", TACIT_PARAM_WORD, AT(progress), 0, 0, 0, 0, "calls thread", "",
     "What advances requests: calls alone, or a thread as well, which needs MPI_THREAD_MULTIPLE."},
    {"TACIT_TRACE", TACIT_PARAM_TEXT, AT(trace), 0, 0, 0, 0, NULL, "",
     "File for what each rank did when, as JSON for Chrome's trace viewer or Perfetto and tacit-info --summary, written when a "
     "communicator ends; %r in it is the rank, without which .RANK follows, and %c the communicator's number in its process."},
    {"TACIT_REPORT", TACIT_PARAM_TEXT, AT(report), 0, 0, 0, 0, NULL, "",
     "File to which a program under tacit-run writes where it reduces what; read by what tacit-run preloads alone."},
    {"TACIT_RULE", TACIT_PARAM_TEXT, AT(rule), 0, 0, 0, 0, NULL, "",
     "Which sums of a program under tacit-run are compressed, and how: its rules, with ';' between them; read by what tacit-run "
     "preloads alone, as are the next three."},
    {"TACIT_ALLREDUCE", TACIT_PARAM_TEXT, AT(allreduce), 0, 0, 0, 0, NULL, "",
     "Spec for all other sums of TACIT_MIN_BYTES and more."},
    {"TACIT_MIN_BYTES", TACIT_PARAM_TEXT, AT(min_bytes), 0, 0, 0, 0, NULL, "",
     "Bytes from which on TACIT_ALLREDUCE takes a sum, by default 1M."},
    {"TACIT_STATE_BYTES", TACIT_PARAM_TEXT, AT(state_bytes), 0, 0, 0, 0, NULL, "",
     "The most that is remembered of the sums of a communicator, by default 4G: further ones stay dense."},
    {"TACIT_LIBRARY", TACIT_PARAM_TEXT, AT(library), 0, 0, 0, 0, NULL, "",
     "File of this library that the Python package loads; read by that alone."},
    {"TACIT_ISA", TACIT_PARAM_WORD, AT(isa), 0, 0, 0, 0, "auto scalar avx2 avx512 neon", "",
     "The best vector instructions that may be used."},
    {"TACIT_LOG", TACIT_PARAM_WORD, AT(log), 0, 0, 1, 0, "error warn info debug trace", "", "What is written to standard error."},
    {NULL, TACIT_PARAM_INT, 0, 0, 0, 0, 0, NULL, NULL, NULL},
};

const tacit_param_t *tacit__environment_params(void)
{
    return params;
}

extern char **environ;

static void warn_of_unknown(void)
{
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        size_t               bytes = strcspn(*entry, "=");
        const tacit_param_t *nearest = params;

        if (strncmp(*entry, "TACIT_", 6) != 0 || strncmp(*entry, "TACIT_TEST_", 11) == 0 ||
            tacit__param_find(params, *entry, bytes) != NULL) {
            continue;
        }
        for (const tacit_param_t *param = params; param->key != NULL; param++) {
            if (tacit__word_distance(*entry, bytes, param->key, strlen(param->key)) <
                tacit__word_distance(*entry, bytes, nearest->key, strlen(nearest->key))) {
                nearest = param;
            }
        }
        tacit__log(TACIT_LOG_WARN, TACIT_NO_RANK, "environment: %.*s is not a variable of this version; the nearest is %s",
                   (int)bytes, *entry, nearest->key);
    }
}

void tacit__environment_read(tacit_environment_t *environment)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    bool               first = !atomic_flag_test_and_set(&warned);

    *environment = (tacit_environment_t){0};
    tacit__param_defaults(params, environment);
    if (first) {
        warn_of_unknown();
    }
    for (const tacit_param_t *param = params; param->key != NULL; param++) {
        const char *value = getenv(param->key);

        if (value != NULL && *value != '\0' &&
            tacit__param_parse("environment", param, value, strlen(value), environment) != TACIT_OK && first) {
            tacit__log(TACIT_LOG_WARN, TACIT_NO_RANK, "%s; the default is used", tacit_last_error());
        }
    }
}
