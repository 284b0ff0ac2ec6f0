/* SPDX-License-Identifier: Apache-2.0 */
/* Where a progress thread runs: on a processor that nobody else is bound to, if there is one. */
#ifndef TACIT_PLACEMENT_H
#define TACIT_PLACEMENT_H

#include "internal.h"

/* What progress threads are called by the system; at most 15 bytes. */
#define TACIT_THREAD_NAME "tacit-progress"

/* Names the calling thread, and binds it: see placement.c. The rank is for the log. */
void tacit__place_thread(int rank);

#if HAVE_HWLOC
#include <hwloc.h>

/* The processor that is best for a thread of a rank which is bound to `near`: one that is not taken, NULL if there is none; if it
   can be on a core of which nothing is taken; and then near. */
hwloc_obj_t tacit__place_choose(hwloc_topology_t topology, hwloc_const_bitmap_t taken, hwloc_const_bitmap_t near);
#endif

#endif
