/* SPDX-License-Identifier: Apache-2.0 */
/* Laps are taken in turn; one that still runs when its turn comes again is left alone. */
#include "stopwatch.h"

#include <stdlib.h>

/* False: it still runs. */
static bool read_lap(preload_lap_t *lap, const preload_driver_t *driver)
{
    float  milliseconds = 0.0f;
    double bytes = 0.0;

    if (!lap->runs) {
        return true;
    }
    if (driver->query_event(lap->second) != 0) {
        return false;
    }
    lap->runs = false;
    if (driver->elapsed(&milliseconds, lap->first, lap->second) != 0) {
        return true;
    }
    for (size_t i = 0; i < lap->count; i++) {
        bytes += lap->parts[i].bytes;
    }
    for (size_t i = 0; i < lap->count; i++) {
        const double share = bytes > 0.0 ? lap->parts[i].bytes / bytes : 1.0 / (double)lap->count;

        atomic_fetch_add_explicit(&lap->parts[i].site->nanoseconds, (uint64_t)(1e6 * (double)milliseconds * share),
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&lap->parts[i].site->timed, 1, memory_order_relaxed);
    }
    return true;
}

preload_lap_t *preload_start(preload_stopwatch_t *watch, const preload_driver_t *driver, void *stream)
{
    preload_lap_t *lap = &watch->laps[watch->next];

    if (!read_lap(lap, driver) || (lap->first == NULL && driver->create_event(&lap->first, 0) != 0) ||
        (lap->second == NULL && driver->create_event(&lap->second, 0) != 0) || driver->record_event(lap->first, stream) != 0) {
        return NULL;
    }
    watch->next = (watch->next + 1) % PRELOAD_LAPS;
    lap->count = 0;
    return lap;
}

void preload_add_part(preload_lap_t *lap, preload_site_t *site, double bytes)
{
    if (lap->second == NULL) {
        return;
    }
    if (lap->count == lap->room) {
        const size_t    more = lap->room != 0 ? 2 * lap->room : 1;
        preload_part_t *grown = realloc(lap->parts, more * sizeof *grown);

        if (grown == NULL) {
            return;
        }
        lap->parts = grown;
        lap->room = more;
    }
    lap->parts[lap->count++] = (preload_part_t){site, bytes};
}

void preload_stop(preload_lap_t *lap, const preload_driver_t *driver, void *stream)
{
    lap->runs = lap->second != NULL && driver->record_event(lap->second, stream) == 0;
}

void preload_read(preload_stopwatch_t *watch, const preload_driver_t *driver)
{
    for (size_t i = 0; i < PRELOAD_LAPS; i++) {
        (void)read_lap(&watch->laps[i], driver);
    }
}

void preload_end_watch(preload_stopwatch_t *watch, const preload_driver_t *driver)
{
    preload_read(watch, driver);
    for (size_t i = 0; i < PRELOAD_LAPS; i++) {
        if (watch->laps[i].first != NULL) {
            (void)driver->destroy_event(watch->laps[i].first);
        }
        if (watch->laps[i].second != NULL) {
            (void)driver->destroy_event(watch->laps[i].second);
        }
        free(watch->laps[i].parts);
    }
    *watch = (preload_stopwatch_t){.next = 0};
}
