/* SPDX-License-Identifier: Apache-2.0 */
/* Where one rank runs, as it says it of itself in a line of text: "host=a package=0 numa=0 cache=1 core=3 nic=eth0,eth1:2 gpu=0".
   What is not known is left out, other words are passed over, and "#" begins a comment. */
#ifndef TACIT_PLACE_H
#define TACIT_PLACE_H

#include "internal.h"

enum {
    TACIT_PLACE_BYTES = 256, /* as TACIT_LINE_BYTES: of a rank's line, its end included */
    TACIT_HOST_BYTES = 80
};

/* Numbers are hwloc's logical ones, of that which has all processors that the rank is bound to; -1: no single one has, or that is
   not known. */
typedef struct tacit_place {
    char        host[TACIT_HOST_BYTES]; /* empty: not known, and shared with nobody */
    int         package, numa;
    int         cache; /* of the last level */
    int         core;
    const char *nics; /* in the line: names with commas between them, the nearest first; an empty text where there are none. After
                         ":" the distance: 0 (nothing is written): the same NUMA node, 1: the same package, 2: elsewhere */
    const char *gpus; /* likewise the nearest ones */
} tacit_place_t;

/* This rank's line. `given` is TACIT_TOPOLOGY's value, NULL where there is none; host: the transport's name for this machine,
   NULL where it has none: then no more is looked for. */
tacit_status_t tacit__place_find(const char *given, const char *host, int rank, int ranks, char line_out[TACIT_PLACE_BYTES]);
/* Reads a line, to which the place then points. NULL, or what is wrong with the word at *word_out, which is NULL where something
   is missing; the rest has been read. */
const char *tacit__place_read(const char *line, tacit_place_t *place_out, const char **word_out);

/* The first name of a list, which may have a distance, has so many bytes; … */
size_t tacit__name_bytes(const char *names);
/* … *distance_out is its distance, and this the rest of the list; NULL: there is none. */
const char *tacit__name_next(const char *names, int *distance_out);

#endif
