/* SPDX-License-Identifier: Apache-2.0 */
/* One line a message, to standard error, in one write. TACIT_LOG sets the level; `warn` is the default. */
#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {"error", "warn", "info", "debug", "trace"};

static int read_level(void)
{
    const char *word = getenv("TACIT_LOG");

    for (int i = 0; word != NULL && i < (int)(sizeof names / sizeof names[0]); i++) {
        if (strcmp(word, names[i]) == 0) {
            return i;
        }
    }
    return TACIT_LOG_WARN;
}

void tacit__log(tacit_log_level_t level, int rank, const char *format, ...)
{
    static atomic_int allowed = -1;
    int               error = errno;
    int               used;
    char              line[TACIT_TEXT_BYTES + 64];
    va_list           arguments;

    if (atomic_load_explicit(&allowed, memory_order_relaxed) < 0) {
        atomic_store(&allowed, read_level());
    }
    if ((int)level > atomic_load_explicit(&allowed, memory_order_relaxed)) {
        return;
    }
    used = rank >= 0 ? snprintf(line, sizeof line, "tacit[%d] %s ", rank, names[level])
                     : snprintf(line, sizeof line, "tacit %s ", names[level]);
    va_start(arguments, format);
    used += vsnprintf(line + used, sizeof line - (size_t)used, format, arguments);
    va_end(arguments);
    used = used < (int)sizeof line - 1 ? used : (int)sizeof line - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)used) < 0) {
        /* nowhere to say so */
    }
    errno = error;
}
