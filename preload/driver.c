/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the driver's functions by name: nothing of CUDA is linked. */
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

enum { RELAXED = 2 /* CU_STREAM_CAPTURE_MODE_RELAXED */ };

static pthread_once_t   once = PTHREAD_ONCE_INIT;
static preload_driver_t driver;
static bool             found;

static void find(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);

    found = library != NULL;
    if (library == NULL) {
        return;
    }
#define FIND(field, symbol, arguments)                                                                                           \
    *(void **)&driver.field = dlsym(library, symbol);                                                                            \
    found = found && driver.field != NULL;
    PRELOAD_DRIVER_FUNCTIONS(FIND)
#undef FIND
    if (!found) {
        fprintf(stderr,
                "tacit: this program's CUDA driver lacks functions that it should have: nothing is timed or compressed\n");
    }
}

const preload_driver_t *preload_driver(void)
{
    pthread_once(&once, find);
    return found ? &driver : NULL;
}

bool preload_is_captured(const preload_driver_t *cuda, void *stream)
{
    int state = 0;

    return cuda->is_capturing(stream, &state) != 0 || state != 0;
}

bool preload_visit(const preload_driver_t *cuda, void *stream, preload_visit_t *visit)
{
    void *context = NULL;

    visit->mode = RELAXED;
    if (cuda->exchange_mode(&visit->mode) != 0) {
        return false;
    }
    if (cuda->stream_context(stream, &context) != 0 || cuda->push_context(context) != 0) {
        (void)cuda->exchange_mode(&visit->mode);
        return false;
    }
    return true;
}

void preload_leave_visit(const preload_driver_t *cuda, const preload_visit_t *visit)
{
    void *context;
    int   mode = visit->mode;

    (void)cuda->pop_context(&context);
    (void)cuda->exchange_mode(&mode);
}
