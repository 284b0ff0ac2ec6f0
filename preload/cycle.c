/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the period of a sequence: by places the smallest one that its latest calls have, for two periods at least; by signs alone
   the one that most of them have. */
#include "cycle.h"

#include <string.h>

/* LEAST, and twice as many after each period that did not last, up to MOST: so many calls are of one period before it is
   believed, since a step may begin with calls that are alike. ALIKE: by signs alone, so many are as those a period before.
   MISFITS: with so many, it did not last, unless it was meanwhile seen again. LATE: after so many without a period by places,
   signs have to do; before that, tensors that are alike would pass for one, unless places have shown the same period once.
   LATEST: by then, a longer step that places announce had come. */
enum { LEAST = 16, MOST = 256, ALIKE = 64, MISFITS = 8, LATE = 512, LATEST = 1024 };

static size_t evidence(const preload_cycle_t *cycle)
{
    size_t calls = LEAST;

    for (size_t i = 0; i < cycle->searches && calls < MOST; i++) {
        calls *= 2;
    }
    return calls;
}

static size_t larger(size_t one, size_t other)
{
    return one > other ? one : other;
}

/* How many of the latest calls are as those a period before. */
static size_t repeated(const preload_cycle_t *cycle, size_t period, bool with_places)
{
    size_t at = cycle->count;

    while (at > period && cycle->signs[at - 1] == cycle->signs[at - 1 - period] &&
           (!with_places || cycle->places[at - 1] == cycle->places[at - 1 - period])) {
        at--;
    }
    return cycle->count - at;
}

bool preload_cycle_has(const preload_cycle_t *cycle, size_t period)
{
    const size_t same = repeated(cycle, period, true);

    return same >= period && same + period >= evidence(cycle);
}

/* A long step may be about to come again, of which signs would make a short one. */
size_t preload_cycle_by_places(const preload_cycle_t *cycle)
{
    bool begins = false;

    for (size_t period = 1; period < cycle->count; period++) {
        if (preload_cycle_has(cycle, period)) {
            return period;
        }
        begins = begins || repeated(cycle, period, true) >= larger(ALIKE, evidence(cycle));
    }
    return begins ? PRELOAD_HISTORY : 0;
}

/* Calls that are alike may be a part of a longer step, if that explains more calls. */
size_t preload_cycle_by_signs(const preload_cycle_t *cycle)
{
    size_t most = 0, best = 0;

    for (size_t period = 1; period < cycle->count; period++) {
        const size_t same = repeated(cycle, period, false);

        if (same >= ALIKE && same + period >= evidence(cycle) && same + period > most) {
            most = same + period;
            best = same >= period ? period : 0;
        }
    }
    return best;
}

/* Places of some rank's may say that signs make one of several tensors. */
static bool may_go_by_signs(const preload_cycle_t *cycle, size_t period, size_t most)
{
    const bool announced = most == PRELOAD_HISTORY || (period == 1 && most > 1 && !cycle->chance);

    return cycle->ordered || cycle->seen >= (announced ? LATEST : LATE) || (!announced && period > 1 && period == cycle->shown);
}

bool preload_cycle_agree(preload_cycle_t *cycle, size_t least, size_t most)
{
    const size_t by_signs = preload_cycle_by_signs(cycle);
    const bool   by_chance = cycle->chance && cycle->seen >= LATE && by_signs > 1 && least < ALIKE; /* again */
    const bool   placed = !cycle->ordered && !by_chance && least == most && least != 0 && least < PRELOAD_HISTORY;
    const size_t period = placed ? least : may_go_by_signs(cycle, by_signs, most) ? by_signs : 0;

    if (period != 0) {
        memmove(cycle->signs, &cycle->signs[cycle->count - period], period * sizeof *cycle->signs);
        memmove(cycle->places, &cycle->places[cycle->count - period], period * sizeof *cycle->places);
        cycle->period = period;
        cycle->placed = placed;
        cycle->shown = placed ? period : cycle->shown;
        cycle->position = cycle->misfits = cycle->fitting = 0;
        cycle->lasted = 0;
    }
    return period != 0;
}

/* Ranks compare more and more seldom, so that a sequence without a period costs little. */
bool preload_cycle_note(preload_cycle_t *cycle, uint64_t sign, uintptr_t place)
{
    if (cycle->count == PRELOAD_HISTORY) {
        cycle->count /= 2;
        memcpy(cycle->signs, &cycle->signs[cycle->count], cycle->count * sizeof *cycle->signs);
        memcpy(cycle->places, &cycle->places[cycle->count], cycle->count * sizeof *cycle->places);
    }
    cycle->signs[cycle->count] = sign;
    cycle->places[cycle->count++] = place;
    if (++cycle->seen < LEAST || cycle->seen < cycle->due) {
        return false;
    }
    cycle->due = cycle->seen + 1 + (cycle->seen < 1024 ? cycle->seen / 4 : 256);
    return true;
}

static bool fits(const preload_cycle_t *cycle, uint64_t sign)
{
    return cycle->period != 0 && cycle->signs[cycle->position] == sign;
}

bool preload_cycle_is_lasting(const preload_cycle_t *cycle)
{
    return cycle->placed && cycle->lasted >= LATE;
}

bool preload_cycle_is_between(const preload_cycle_t *cycle, uint64_t sign)
{
    return cycle->period != 0 && !fits(cycle, sign);
}

bool preload_cycle_compares(const preload_cycle_t *cycle, uint64_t sign)
{
    return cycle->placed && fits(cycle, sign);
}

bool preload_cycle_is_elsewhere(const preload_cycle_t *cycle, uintptr_t place)
{
    return cycle->places[cycle->position] != place;
}

void preload_cycle_restart(preload_cycle_t *cycle)
{
    cycle->count = cycle->period = 0;
    cycle->seen = cycle->placed && !preload_cycle_is_lasting(cycle) ? cycle->seen : 0;
    cycle->shown = preload_cycle_is_lasting(cycle) ? 0 : cycle->shown;
    cycle->chance = cycle->placed && cycle->lasted < evidence(cycle);
    cycle->searches++;
    cycle->due = cycle->seen + evidence(cycle);
}

/* A call in between is left out, since there may be others again and again, as after each epoch. Where fresh buffers came to the
   same places for a while, it was no period by places, and the search goes on. */
int preload_cycle_next(preload_cycle_t *cycle, uint64_t sign, bool elsewhere)
{
    const size_t position = cycle->position;

    if (fits(cycle, sign) && !elsewhere) {
        cycle->position = position + 1 < cycle->period ? position + 1 : 0;
        cycle->lasted++;
        if (++cycle->fitting >= cycle->period && cycle->fitting >= evidence(cycle)) {
            cycle->misfits = 0;
        }
        return (int)position;
    }
    cycle->fitting = 0;
    if (cycle->period != 0 && ++cycle->misfits == MISFITS) {
        preload_cycle_restart(cycle);
    }
    return -1;
}

static size_t count_alike(const preload_cycle_t *cycle, size_t end, uint64_t sign)
{
    size_t count = 0;

    for (size_t i = 0; i < end; i++) {
        count += cycle->signs[i] == sign;
    }
    return count;
}

bool preload_cycle_is_clear(const preload_cycle_t *cycle, size_t position)
{
    return cycle->placed || cycle->ordered || count_alike(cycle, cycle->period, cycle->signs[position]) == 1;
}

size_t preload_cycle_ordinal(const preload_cycle_t *cycle, size_t position)
{
    return count_alike(cycle, position, cycle->signs[position]);
}
