/* SPDX-License-Identifier: Apache-2.0 */
/* Pinned memory is both the GPU's and the host's, so that there is nothing to copy. */
#include "nccl_agreement.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deliver.h"

enum { PORTABLE = 1 /* CU_MEMHOSTALLOC_PORTABLE */, NO_TIME = 2 /* CU_EVENT_DISABLE_TIMING */ };

static double seconds_of(preload_patience_t patience)
{
    const char  *limit = getenv("TACIT_TIMEOUT_MS");
    const double seconds = limit != NULL ? 1e-3 * strtod(limit, NULL) : 0.0;

    if (seconds == 0.0) { /* of no number, too: Tacit itself says so */
        return patience == PRELOAD_A_MINUTE ? 60.0 : INFINITY;
    }
    return seconds > 0.0 ? seconds : INFINITY;
}

static bool make(preload_agreement_t *agreement, const preload_driver_t *driver)
{
    return (agreement->numbers != NULL ||
            driver->alloc_host((void **)&agreement->numbers, PRELOAD_NUMBERS * sizeof(int32_t), PORTABLE) == 0) &&
           (agreement->event != NULL || driver->create_event(&agreement->event, NO_TIME) == 0);
}

static void say_late(const preload_clique_t *clique)
{
    fprintf(stderr,
            "tacit: communicator %u: rank %d has not heard of other ranks within %.0f ms (TACIT_TIMEOUT_MS): the call fails\n",
            clique->group.number, clique->rank, 1e3 * seconds_of(PRELOAD_AS_PROGRAM));
}

/* Until it may be called: one that does not block is at work for some time after a call. */
static bool wait_until_ready(const preload_clique_t *clique)
{
    const double end = preload_run_seconds() + seconds_of(PRELOAD_AS_PROGRAM);
    int          state = NCCL_IN_PROGRESS;

    while (!atomic_load(&clique->aborted) && preload_nccl()->async_error(clique->comm, &state) == NCCL_SUCCESS &&
           state == NCCL_IN_PROGRESS) {
        if (preload_run_seconds() > end) {
            say_late(clique);
            return false;
        }
        sched_yield();
    }
    return state == NCCL_SUCCESS; /* else NCCL has said so, or will */
}

bool preload_tell(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream,
                  const int32_t numbers[PRELOAD_NUMBERS])
{
    const preload_driver_t *driver = preload_driver();
    preload_visit_t         visit;
    bool                    made = false;

    if (driver != NULL && preload_visit(driver, stream, &visit)) {
        made = make(agreement, driver);
        preload_leave_visit(driver, &visit);
    }
    if (!made) {
        fprintf(stderr,
                "tacit: communicator %u: rank %d gets no memory from CUDA to tell the others what it has found, for which they "
                "wait: the call fails\n",
                clique->group.number, clique->rank);
        return false;
    }
    if (!wait_until_ready(clique)) {
        return false;
    }
    memcpy(agreement->numbers, numbers, PRELOAD_NUMBERS * sizeof *numbers);
    agreement->fresh = true;
    agreement->runs = nccl_is_good(preload_nccl()->all_reduce(agreement->numbers, agreement->numbers, PRELOAD_NUMBERS, NCCL_INT32,
                                                              NCCL_MAX, clique->comm, stream));
    return agreement->runs;
}

bool preload_told(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream, bool sent)
{
    const preload_driver_t *driver = preload_driver();
    preload_visit_t         visit;
    bool                    recorded = false;

    if (!agreement->fresh || !agreement->runs) {
        return true;
    }
    agreement->fresh = false;
    if (sent && wait_until_ready(clique) && preload_visit(driver, stream, &visit)) {
        recorded = driver->record_event(agreement->event, stream) == 0;
        preload_leave_visit(driver, &visit);
    }
    if (!recorded) {
        *agreement = (preload_agreement_t){.event = agreement->event}; /* NCCL may write to the numbers at any time */
    }
    return recorded;
}

preload_heard_t preload_hear(preload_agreement_t *agreement, const preload_clique_t *clique, preload_patience_t patience,
                             int32_t numbers_out[PRELOAD_NUMBERS])
{
    const preload_driver_t *driver = preload_driver();
    const double            end = preload_run_seconds() + seconds_of(patience);
    int                     state = NCCL_SUCCESS, mode = 2 /* CU_STREAM_CAPTURE_MODE_RELAXED */;
    bool                    reached = false, good = agreement->runs, late = false;

    if (good) {
        (void)driver->exchange_mode(&mode);
        while (good && !reached && !late) {
            reached = driver->query_event(agreement->event) == 0; /* as it also is when NCCL breaks off */
            good = !atomic_load(&clique->aborted) && preload_nccl()->async_error(clique->comm, &state) == NCCL_SUCCESS &&
                   nccl_is_good(state);
            late = !reached && preload_run_seconds() > end;
            if (!reached) {
                sched_yield();
            }
        }
        (void)driver->exchange_mode(&mode);
    }
    if (!good) {
        return PRELOAD_FAILED;
    }
    if (late) {
        if (patience == PRELOAD_AS_PROGRAM) {
            say_late(clique);
        }
        return PRELOAD_LATE;
    }
    memcpy(numbers_out, agreement->numbers, PRELOAD_NUMBERS * sizeof *numbers_out);
    agreement->runs = false;
    return PRELOAD_HEARD;
}

void preload_end_agreement(preload_agreement_t *agreement, const preload_clique_t *clique)
{
    const preload_driver_t *driver = preload_driver();
    int32_t                 numbers[PRELOAD_NUMBERS];

    if (driver == NULL || (agreement->runs && preload_hear(agreement, clique, PRELOAD_A_MINUTE, numbers) != PRELOAD_HEARD)) {
        return;
    }
    if (agreement->event != NULL) {
        (void)driver->destroy_event(agreement->event);
    }
    if (agreement->numbers != NULL) {
        (void)driver->free_host(agreement->numbers);
    }
    *agreement = (preload_agreement_t){.runs = false};
}
