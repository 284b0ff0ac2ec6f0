/* SPDX-License-Identifier: Apache-2.0 */
/* What this rank does between sums that wait for each other. Compared with the other ranks', it tells how long each sum was
   waiting for the last of them, which is no part of reducing. */
#ifndef PRELOAD_GAPS_H
#define PRELOAD_GAPS_H

#include <stddef.h>
#include <stdint.h>

/* A sum has begun and ended, on a clock of nanoseconds. From any thread. */
void preload_note_gap(uint64_t began, uint64_t ended);
/* How many numbers there are. The same on all ranks that have had the same sums. */
size_t preload_gaps(void);
/* Nanoseconds: in front of one sum each; of long runs, in front of some in a row. 0 past the last. */
uint64_t preload_gap(size_t index);

#endif
