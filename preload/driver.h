/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA driver that the process has loaded, libcuda.so.1: events on the program's streams, and memory that GPUs see. Whatever
   runtime a program has, and however it links it, its streams are the driver's. */
#ifndef PRELOAD_DRIVER_H
#define PRELOAD_DRIVER_H

#include <stdbool.h>
#include <stddef.h>

/* field, symbol, arguments; all return 0 if they succeed. */
#define PRELOAD_DRIVER_FUNCTIONS(X)                                                                                              \
    X(pop_context, "cuCtxPopCurrent_v2", (void **context_out))                                                                   \
    X(push_context, "cuCtxPushCurrent_v2", (void *context))                                                                      \
    X(create_event, "cuEventCreate", (void **event_out, unsigned flags))                                                         \
    X(destroy_event, "cuEventDestroy_v2", (void *event))                                                                         \
    X(elapsed, "cuEventElapsedTime", (float *milliseconds_out, void *first, void *second))                                       \
    X(query_event, "cuEventQuery", (void *event))                                                                                \
    X(record_event, "cuEventRecord", (void *event, void *stream))                                                                \
    X(free_host, "cuMemFreeHost", (void *memory))                                                                                \
    X(alloc_host, "cuMemHostAlloc", (void **memory_out, size_t bytes, unsigned flags))                                           \
    X(stream_context, "cuStreamGetCtx", (void *stream, void **context_out))                                                      \
    X(is_capturing, "cuStreamIsCapturing", (void *stream, int *state_out))                                                       \
    X(exchange_mode, "cuThreadExchangeStreamCaptureMode", (int *mode))

typedef struct preload_driver {
#define PRELOAD_DRIVER_FIELD(field, symbol, arguments) int(*field) arguments;
    PRELOAD_DRIVER_FUNCTIONS(PRELOAD_DRIVER_FIELD)
#undef PRELOAD_DRIVER_FIELD
} preload_driver_t;

/* NULL where the process has none, or one that lacks some of these. */
const preload_driver_t *preload_driver(void);

/* Whether the stream is being captured, or cannot be asked because another one is. */
bool preload_is_captured(const preload_driver_t *driver, void *stream);

/* Between these, the stream's context is the present one, and a capture that another thread has begun is no hindrance. False: the
   stream has none, and there is nothing to leave. */
typedef struct preload_visit {
    int mode;
} preload_visit_t;
bool preload_visit(const preload_driver_t *driver, void *stream, preload_visit_t *visit);
void preload_leave_visit(const preload_driver_t *driver, const preload_visit_t *visit);

#endif
