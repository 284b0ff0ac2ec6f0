/* SPDX-License-Identifier: Apache-2.0 */
/* How long calls take on the GPU: a pair of events around them, which is read when both are long past. Nothing waits. */
#ifndef PRELOAD_STOPWATCH_H
#define PRELOAD_STOPWATCH_H

#include "driver.h"
#include "sites.h"

enum { PRELOAD_LAPS = 64 };

/* Calls that NCCL makes one of share its time by their bytes. */
typedef struct preload_part {
    preload_site_t *site;
    double          bytes;
} preload_part_t;

typedef struct preload_lap {
    void           *first, *second; /* events */
    bool            runs;           /* both were recorded */
    preload_part_t *parts;
    size_t          count, room;
} preload_lap_t;

/* Of one communicator, and so of one GPU. Zero at first. One thread at a time. */
typedef struct preload_stopwatch {
    preload_lap_t laps[PRELOAD_LAPS];
    size_t        next;
} preload_stopwatch_t;

/* Before calls on a stream that is not being captured, inside of a visit. NULL: they are not timed; older ones still run. */
preload_lap_t *preload_start(preload_stopwatch_t *watch, const preload_driver_t *driver, void *stream);
/* Another call of these. */
void preload_add_part(preload_lap_t *lap, preload_site_t *site, double bytes);
/* Behind them, likewise inside. */
void preload_stop(preload_lap_t *lap, const preload_driver_t *driver, void *stream);
/* Reads what has ended. */
void preload_read(preload_stopwatch_t *watch, const preload_driver_t *driver);
/* Reads it, and frees all. Laps that have begun may still be stopped, which is nothing then: another thread ends a watch where a
   communicator is aborted. */
void preload_end_watch(preload_stopwatch_t *watch, const preload_driver_t *driver);

#endif
