/* SPDX-License-Identifier: Apache-2.0 */
/* What a leg of index/value pairs by owners is made of. */
#ifndef TACIT_SPARSE_SCATTER_H
#define TACIT_SPARSE_SCATTER_H

#include "rails.h"

/* What this rank has chosen of an item, by owner. */
typedef struct tacit_dealt {
    tacit_entries_t entries; /* indices: places in the owners' parts */
    uint32_t       *from;    /* which one of the chosen each is */
    size_t         *begin;   /* begin[q] … begin[q + 1]: those of owner q of the rail */
} tacit_dealt_t;

/* The part of an item that this rank owns. */
typedef struct tacit_owned {
    tacit_entries_t met;      /* what all have chosen of it, added up; once `joined`, owner's memory knows */
    tacit_entries_t picked;   /* what of it goes out */
    tacit_entries_t out;      /* … and went out: of dense records, all elements; once `sent`, owner's memory knows */
    uint32_t       *elements; /* of the tensor, where they are */
    bool            joined, sent;
} tacit_owned_t;

typedef struct tacit_scatter {
    tacit_buffer_t          memory;                 /* of this struct */
    const tacit_topology_t *topology;               /* who leads: on one level, every rank its own host */
    int                     host;                   /* this rank's: which owner of its rail it is */
    tacit_levels_t         *levels;                 /* NULL: one level */
    tacit_records_t         contributions, results; /* to the own part; from all owners, in elements of the tensors */
    tacit_chosen_t         *chosen;                 /* these three: one an item */
    tacit_dealt_t          *dealt;
    tacit_owned_t          *owned;
    float                  *part;    /* elements of a part; those that have not been written are never read */
    uint64_t               *marks;   /* a bit for each */
    size_t                  to_deal; /* items, the first ones */
    tacit_entries_t         share;   /* of an item, for the present owner */
    tacit_outlet_t          outlet;  /* to one owner after the other, beginning behind this host; the own part comes last … */
    int                     turn; /* … at which so many hosts behind is the present one; above the number of hosts: results */
    bool                    checked;
} tacit_scatter_t;

/* The schedule's parts, of which `two_level_scatter` is made too. prepare(): who leads what is the topology's to say. */
bool           tacit__scatter_carries(const tacit_codec_t *codec);
bool           tacit__scatter_pays(const tacit_codec_t *codec, const tacit_topology_t *topology);
tacit_status_t tacit__scatter_prepare(tacit_leg_t *leg, const tacit_topology_t *topology);
tacit_status_t tacit__scatter_advance(tacit_leg_t *leg);
bool           tacit__scatter_done(const tacit_leg_t *leg);
tacit_status_t tacit__scatter_arrived(tacit_leg_t *leg, const tacit_frame_t *frame, bool passed);
void           tacit__scatter_commit(tacit_leg_t *leg);
void           tacit__scatter_undo(tacit_leg_t *leg);
void           tacit__scatter_release(tacit_leg_t *leg);

#endif
