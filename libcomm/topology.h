/* SPDX-License-Identifier: Apache-2.0 */
/* Where the ranks of a communicator run: which of them share a host, and which of these lead it. Every rank says of itself where
   it is, all ranks see all lines, and what follows from them is the same everywhere. */
#ifndef TACIT_TOPOLOGY_H
#define TACIT_TOPOLOGY_H

#include "place.h"

typedef struct tacit_topology {
    int            ranks, hosts;
    int            most_here; /* ranks of the host that has most … */
    int            rails;     /* … and of the one that has fewest, each of which leads: so many leaders has every host */
    char          *lines;     /* of all ranks, TACIT_PLACE_BYTES each */
    tacit_place_t *places;    /* one a rank */
    int           *host_of;   /* of each rank; hosts are numbered by their lowest rank */
    int           *rail_of;   /* of each rank; -1: it leads none */
    int           *members;   /* ranks, ascending, host by host … */
    int           *begin;     /* … from begin[host] to begin[host + 1] */
    int           *leaders;   /* leaders[rail * hosts + host]: a rank */
    const char   **nics;      /* likewise the interface that a leader is near to: tacit__name_bytes(); empty: not known */
    int           *crowd;     /* while leaders are chosen, two of each rank: leaders so far in its package, and under its cache */
} tacit_topology_t;

/* Room for one. */
tacit_status_t tacit__topology_create(int ranks, tacit_topology_t **topology_out);
/* Everything else, from `lines`. */
void tacit__topology_fill(tacit_topology_t *topology);
void tacit__topology_destroy(tacit_topology_t *topology);

/* Some ranks share a host, and not all do. */
static inline bool tacit__topology_has_levels(const tacit_topology_t *topology)
{
    return topology->hosts > 1 && topology->hosts < topology->ranks;
}

/* Of which ranks share a host and which lead it, whatever the hosts are called. */
uint32_t tacit__topology_hash(const tacit_topology_t *topology);
/* "4 hosts of 2 ranks; 2 rails" */
void tacit__topology_describe(const tacit_topology_t *topology, char *text, size_t capacity);
/* "0 by ranks 0 2 4 6 (eth0)", with at most so many of its ranks. */
void tacit__topology_describe_rail(const tacit_topology_t *topology, int rail, int most, char *text, size_t capacity);
/* All of that, as far as it fits, in the log of rank 0. */
void tacit__topology_tell(const tacit_topology_t *topology, int rank);

#endif
