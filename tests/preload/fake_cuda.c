/* SPDX-License-Identifier: Apache-2.0 */
/* A libcuda.so.1 for tests of the interposer: as much of the driver as it calls, on the host's clock and memory. An event is past
   50 microseconds after it was recorded, if what was called of the tests' NCCL before is done. fake_ functions are the tests'.
   With FAKE_CUDA_SLOW it takes 20 ms to enter a context. */
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum { NOT_READY = 600, INVALID = 1, OUT_OF_MEMORY = 2 };

typedef struct event {
    double seconds;
    int    mark;
} event_t;

/* Of the tests' NCCL, where it is linked. */
extern int fake_mark(void) __attribute__((weak));
extern int fake_reached(int mark) __attribute__((weak));

static int captures, live, depth;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Streams are captured from now on, or no more. */
EXPORT void fake_capture(int captured);
/* Events and memory that were not freed, contexts that were not left. */
EXPORT int fake_live(void);
/* Contexts that the calling thread is in. */
EXPORT int fake_depth(void);

EXPORT int cuCtxPopCurrent_v2(void **context);
EXPORT int cuCtxPushCurrent_v2(void *context);
EXPORT int cuEventCreate(void **event, unsigned flags);
EXPORT int cuEventDestroy_v2(void *event);
EXPORT int cuEventElapsedTime(float *milliseconds, void *first, void *second);
EXPORT int cuEventQuery(void *event);
EXPORT int cuEventRecord(void *event, void *stream);
EXPORT int cuMemFreeHost(void *memory);
EXPORT int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags);
EXPORT int cuStreamGetCtx(void *stream, void **context);
EXPORT int cuStreamIsCapturing(void *stream, int *state);
EXPORT int cuThreadExchangeStreamCaptureMode(int *mode);

void fake_capture(int captured)
{
    captures = captured;
}

int fake_live(void)
{
    return live + depth;
}

int fake_depth(void)
{
    return depth;
}

int cuCtxPopCurrent_v2(void **context)
{
    *context = NULL;
    depth--;
    return 0;
}

int cuCtxPushCurrent_v2(void *context)
{
    const struct timespec moment = {0, getenv("FAKE_CUDA_SLOW") != NULL ? 20000000 : 0};

    (void)context;
    (void)nanosleep(&moment, NULL);
    depth++;
    return 0;
}

int cuEventCreate(void **event, unsigned flags)
{
    (void)flags;
    *event = calloc(1, sizeof(event_t));
    live++;
    return *event == NULL;
}

int cuEventDestroy_v2(void *event)
{
    free(event);
    live--;
    return 0;
}

int cuEventElapsedTime(float *milliseconds, void *first, void *second)
{
    *milliseconds = (float)(1e3 * (((event_t *)second)->seconds - ((event_t *)first)->seconds));
    return 0;
}

int cuEventQuery(void *event)
{
    const event_t *this = event;

    return now() - this->seconds > 5e-5 && (fake_reached == NULL || fake_reached(this->mark)) ? 0 : NOT_READY;
}

/* Nothing that is to be waited for may be part of a graph. */
int cuEventRecord(void *event, void *stream)
{
    (void)stream;
    if (captures) {
        return INVALID;
    }
    *(event_t *)event = (event_t){now(), fake_mark != NULL ? fake_mark() : 0};
    return 0;
}

int cuMemFreeHost(void *memory)
{
    free(memory);
    live--;
    return 0;
}

int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    (void)flags;
    if (getenv("FAKE_CUDA_FULL") != NULL) {
        return OUT_OF_MEMORY;
    }
    *memory = malloc(bytes);
    live++;
    return *memory == NULL;
}

int cuStreamGetCtx(void *stream, void **context)
{
    *context = stream;
    return 0;
}

int cuStreamIsCapturing(void *stream, int *state)
{
    (void)stream;
    *state = captures;
    return 0;
}

int cuThreadExchangeStreamCaptureMode(int *mode)
{
    static _Thread_local int present;
    const int                former = present;

    present = *mode;
    *mode = former;
    return 0;
}
