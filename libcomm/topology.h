/* SPDX-License-Identifier: Apache-2.0 */
/* Where the ranks of a communicator run: which of them share a host, and what is near to each. Every rank says it of itself in a
   line of text, all ranks see all lines, and what follows from them is the same everywhere. */
#ifndef TACIT_TOPOLOGY_H
#define TACIT_TOPOLOGY_H

#include "internal.h"

enum {
    TACIT_PLACE_BYTES = 256, /* as TACIT_LINE_BYTES: of a rank's line, its end included */
    TACIT_HOST_BYTES = 80
};

/* Where one rank runs. */
typedef struct tacit_place {
    char host[TACIT_HOST_BYTES]; /* empty: not known, and shared with nobody */
} tacit_place_t;

typedef struct tacit_topology {
    int            ranks, hosts;
    int            rails;   /* leaders of each host: as many as its host with the fewest ranks has */
    char          *lines;   /* of all ranks, TACIT_PLACE_BYTES each */
    tacit_place_t *places;  /* one a rank */
    int           *host_of; /* of each rank; hosts are numbered by their lowest rank */
    int           *rail_of; /* of each rank; -1: it leads none */
    int           *members; /* ranks, ascending, host by host … */
    int           *begin;   /* … from begin[host] to begin[host + 1] */
    int           *leaders; /* leaders[rail * hosts + host]: a rank */
} tacit_topology_t;

/* This rank's line. `given` is TACIT_TOPOLOGY's value, NULL where there is none; host: the transport's name for this machine,
   NULL where it has none. */
tacit_status_t tacit__place_find(const char *given, const char *host, int rank, int ranks, char line_out[TACIT_PLACE_BYTES]);
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

#endif
