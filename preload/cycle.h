/* SPDX-License-Identifier: Apache-2.0 */
/* The step of a program, found in the sequence of its calls on one communicator. Knows nothing of any MPI. */
#ifndef PRELOAD_CYCLE_H
#define PRELOAD_CYCLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PRELOAD_HISTORY = 2048 };

/* What is said of calls that are not clear: of so many elements. */
#define PRELOAD_UNCLEAR                                                                                                          \
    "sums of %" PRIu64 " elements in ever new places cannot be told from one another: they stay dense; if their order never "    \
    "changes, say so by a rule with order=fixed"

/* Two steps in a row that are alike are a period. Signs are the same on all ranks; places, the addresses of buffers, are each
   rank's own, and tell tensors apart whose signs are the same. */
typedef struct preload_cycle {
    uint64_t  signs[PRELOAD_HISTORY];  /* the latest calls; with a period: those of a step */
    uintptr_t places[PRELOAD_HISTORY]; /* likewise */
    size_t    count;                   /* of the latest calls that are known */
    size_t    period;                  /* 0: not known yet */
    bool      placed;                  /* the period is one of places, too */
    bool      ordered;                 /* signs are enough: whoever uses this knows that the order never changes */
    size_t    shown;                   /* the latest one that was; 0: places told for so long that they would now, too */
    bool      chance;                  /* the latest one by places ended as soon as it was found */
    size_t    position;                /* of the next call in its step */
    size_t    misfits;                 /* calls that did not fit, since the period was last seen again */
    size_t    fitting;                 /* calls since the latest one that did not */
    uint64_t  lasted;                  /* calls of the period since it is known */
    size_t    searches;                /* that ended with a period which did not last */
    uint64_t  seen, due;               /* calls of the search; the one after which ranks compare what they found */
} preload_cycle_t;

/* Whether the step is known, and the call not the one that comes next in it. By signs alone. */
bool preload_cycle_is_between(const preload_cycle_t *cycle, uint64_t sign);
/* Whether ranks have to tell each other first whether the call is where it should be. By signs alone. */
bool preload_cycle_compares(const preload_cycle_t *cycle, uint64_t sign);
bool preload_cycle_is_elsewhere(const preload_cycle_t *cycle, uintptr_t place);
/* The call's position in its step. -1: the call is not of it, or the step is not known (any more). elsewhere: on some rank. */
int preload_cycle_next(preload_cycle_t *cycle, uint64_t sign, bool elsewhere);
/* The step is not what it was: it is looked for again, in more calls. */
void preload_cycle_restart(preload_cycle_t *cycle);
/* While the step is not known: another call. True: ranks compare now. By signs alone. */
bool preload_cycle_note(preload_cycle_t *cycle, uint64_t sign, uintptr_t place);
/* The smallest period by signs and places, PRELOAD_HISTORY where they look as if there will be one; the period by signs alone;
   0: none. */
size_t preload_cycle_by_places(const preload_cycle_t *cycle);
size_t preload_cycle_by_signs(const preload_cycle_t *cycle);
/* Whether this is a period by signs and places, too. */
bool preload_cycle_has(const preload_cycle_t *cycle, size_t period);
/* Begins a step with the next call, by what the ranks make of the smallest and the largest period that one of them found by
   places. False: the search goes on. The same on all ranks. */
bool preload_cycle_agree(preload_cycle_t *cycle, size_t least, size_t most);
/* Whether the latest period by places lasted longer than one by which fresh buffers come to the same places for a while. */
bool preload_cycle_is_lasting(const preload_cycle_t *cycle);
/* Whether the call at a position of the step can be told from others like it: where places tell nothing, neither does their
   order, unless that never changes. */
bool preload_cycle_is_clear(const preload_cycle_t *cycle, size_t position);
/* How many calls of the step before it have its sign. */
size_t preload_cycle_ordinal(const preload_cycle_t *cycle, size_t position);

#endif
