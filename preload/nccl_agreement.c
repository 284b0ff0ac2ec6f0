/* SPDX-License-Identifier: Apache-2.0 */
/* Pinned memory is both the GPU's and the host's, so that there is nothing to copy. */
#include "nccl_agreement.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { PORTABLE = 1 /* CU_MEMHOSTALLOC_PORTABLE */, NO_TIME = 2 /* CU_EVENT_DISABLE_TIMING */ };

static bool make(preload_agreement_t *agreement, const preload_driver_t *driver)
{
    return (agreement->numbers != NULL ||
            driver->alloc_host((void **)&agreement->numbers, PRELOAD_NUMBERS * sizeof(int32_t), PORTABLE) == 0) &&
           (agreement->event != NULL || driver->create_event(&agreement->event, NO_TIME) == 0);
}

void preload_wait_until_ready(const preload_clique_t *clique)
{
    int state = NCCL_IN_PROGRESS;

    while (!atomic_load(&clique->aborted) && preload_nccl()->async_error(clique->comm, &state) == NCCL_SUCCESS &&
           state == NCCL_IN_PROGRESS) {
        sched_yield();
    }
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
    preload_wait_until_ready(clique);
    memcpy(agreement->numbers, numbers, PRELOAD_NUMBERS * sizeof *numbers);
    agreement->fresh = true;
    agreement->runs = nccl_is_good(preload_nccl()->all_reduce(agreement->numbers, agreement->numbers, PRELOAD_NUMBERS, NCCL_INT32,
                                                              NCCL_MAX, clique->comm, stream));
    return agreement->runs;
}

void preload_told(preload_agreement_t *agreement, const preload_clique_t *clique, void *stream)
{
    const preload_driver_t *driver = preload_driver();
    preload_visit_t         visit;

    if (!agreement->fresh) {
        return;
    }
    agreement->fresh = false;
    preload_wait_until_ready(clique);
    if (preload_visit(driver, stream, &visit)) {
        agreement->runs = agreement->runs && driver->record_event(agreement->event, stream) == 0;
        preload_leave_visit(driver, &visit);
    }
}

bool preload_hear(preload_agreement_t *agreement, const preload_clique_t *clique, int32_t numbers_out[PRELOAD_NUMBERS])
{
    const preload_driver_t *driver = preload_driver();
    int                     state = NCCL_SUCCESS, mode = 2 /* CU_STREAM_CAPTURE_MODE_RELAXED */;
    bool                    reached = false, good = agreement->runs;

    if (good) {
        (void)driver->exchange_mode(&mode);
        while (good && !reached) {
            reached = driver->query_event(agreement->event) == 0;
            good = reached || (!atomic_load(&clique->aborted) &&
                               preload_nccl()->async_error(clique->comm, &state) == NCCL_SUCCESS && nccl_is_good(state));
            if (!reached) {
                sched_yield();
            }
        }
        (void)driver->exchange_mode(&mode);
    }
    if (good) {
        memcpy(numbers_out, agreement->numbers, PRELOAD_NUMBERS * sizeof *numbers_out);
        agreement->runs = false;
    }
    return good;
}

void preload_end_agreement(preload_agreement_t *agreement, const preload_clique_t *clique)
{
    const preload_driver_t *driver = preload_driver();
    int32_t                 numbers[PRELOAD_NUMBERS];

    if (driver == NULL || (agreement->runs && !preload_hear(agreement, clique, numbers))) {
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
