/* SPDX-License-Identifier: Apache-2.0 */
/* Records of sparse frames (doc/wire-format.md, "Sparse frames"): what all schedules of index/value pairs need to write them, to
   read what may be hostile, and to add up what was read, unit by unit, in the order of their origins: ranks, or on two levels
   the leaders of each rail. */
#ifndef TACIT_RECORDS_H
#define TACIT_RECORDS_H

#include "operation.h"

/* Before the payload, which is padded to a multiple of 4 bytes: which item, which range, how long. */
typedef struct tacit_record {
    uint32_t item, first, count, bytes;
} tacit_record_t;

enum { TACIT_RECORD_BYTES = 16 };
/* In a record's item: the payload is the range's elements as they are, float32. */
#define TACIT_RECORD_DENSE UINT32_C(0x80000000)

/* ---- Writing ---- */

/* An item's entries on their way into records. */
typedef struct tacit_source {
    tacit_item_t    *item;
    uint32_t         number;       /* of the item in its leg */
    size_t           count;        /* where the last record's range ends: the tensor's elements, or a part's, or a rail's end */
    tacit_entries_t *entries;      /* values: as they are chosen, then as receivers decode them */
    const float     *a;            /* all of these elements, where dense ones may go out if that is shorter; else NULL */
    size_t           entry, first; /* the next to write, and where its record begins: from 0 on, or where the first one is to */
} tacit_source_t;

/* ---- Gathering ---- */

/* Ascending entries of one item from one origin. */
typedef struct tacit_run {
    uint32_t    *indices;
    const float *values;
    size_t       count;
    uint32_t     item, next; /* next: 1 + the number of the run that follows; 0: none */
} tacit_run_t;

/* All runs of one item from one of them, in the order in which they came, which is ascending. */
typedef struct tacit_origin {
    uint32_t run, last; /* 1 + their numbers; 0: there is none */
    uint32_t end;       /* of the last record's range */
    float    largest;   /* magnitude */
    uint32_t at;        /* the run that a sum has come to … */
    size_t   entry;     /* … and the entry in it */
} tacit_origin_t;

/* What has come from all ranks, and what was sent: all of it is kept until release(). */
typedef struct tacit_records {
    const tacit_leg_t      *leg;
    const tacit_topology_t *topology; /* whose leaders are origins, rail by rail: on one level, all ranks */
    int                     origins;  /* how many: of all rails, or of one */
    int                     own;      /* which of them this rank is; -1: none */
    bool                    scaled;   /* sums are results: an average is already one */
    tacit_buffer_t          lines;    /* of each item, one an origin */
    tacit_buffer_t          closed;   /* bool, one an origin: its last frame is here */
    int                     open;     /* others than this rank whose last frame is not */
    tacit_buffer_t          runs;
    tacit_buffer_t          kept; /* tacit_buffer_t, the last of them with room left */
    size_t                  run_count, kept_count, room;
    tacit_buffer_t          scratch;  /* entries of one frame: indices, values */
    size_t                  capacity; /* bytes of a frame's payload at most */
    size_t                  scratch_entries;
} tacit_records_t;

/* rails: all that there are, or 1, where only leaders of this rank's rail speak. */
tacit_status_t tacit__records_init(tacit_records_t *records, const tacit_leg_t *leg, const tacit_topology_t *topology, int rails);
void           tacit__records_release(tacit_records_t *records);
/* Bytes that stay until release(): of a message on its way, of entries. */
tacit_status_t tacit__records_keep(tacit_records_t *records, size_t bytes, void *memory_out);
/* So many of the last keep()'s are not needed after all. */
void tacit__records_trim(tacit_records_t *records, size_t bytes);
/* Entries that stay so. */
tacit_status_t tacit__entries_keep(tacit_records_t *records, size_t limit, tacit_entries_t *entries);
/* Whose records a frame brings, where all rails' leaders are origins: the sender's, who is of the own rail or on this host, or,
   passed on by a leader of this host, those of its rail's leader on another one. -1: of nobody who should send it. */
int tacit__records_origin_of(const tacit_records_t *records, const tacit_frame_t *frame, bool passed);
/* Takes in a frame of another origin, its last one or not, which may be hostile: entries of ranges of its rail of the whole
   tensors or, owner not below 0, of the parts that are dealt to this one of all rails' leaders. */
tacit_status_t tacit__records_take(tacit_records_t *records, const tacit_frame_t *frame, int origin, bool last, int owner);
/* Takes in entries as they are: they stay where they are, and follow what there is of that item and origin. */
tacit_status_t tacit__records_add(tacit_records_t *records, size_t item, int origin, uint32_t *indices, const float *values,
                                  size_t count);
static inline tacit_origin_t *tacit__records_origin(const tacit_records_t *records, size_t item, int origin)
{
    return (tacit_origin_t *)(void *)records->lines.data + item * (size_t)records->origins + (size_t)origin;
}
static inline tacit_run_t *tacit__records_run(const tacit_records_t *records, uint32_t number)
{
    return (tacit_run_t *)(void *)records->runs.data + (number - 1);
}

/* ---- Sending ---- */

/* Records of all items on their way to the same ranks, frame by frame. */
typedef struct tacit_outlet {
    tacit_frame_kind_t kind;
    int                to;    /* -1: all others, or the next two; the own rank: nobody, it is written all the same */
    const int         *some;  /* ranks; NULL: as above … */
    int                count; /* … so many */
    size_t             limit; /* so many items, the first ones, may be written */
    /* Makes an item's source, which is zeroed; … */
    tacit_status_t (*begin)(tacit_leg_t *leg, size_t item, tacit_source_t *source);
    /* optional: a record of the entries from `entry` on is written; … */
    void (*wrote)(tacit_leg_t *leg, const tacit_source_t *source, size_t entry, const tacit_record_t *record);
    /* optional: all of them are. */
    tacit_status_t (*finish)(tacit_leg_t *leg, size_t item);
    size_t         item; /* the next to write */
    bool           begun, all_sent;
    tacit_source_t source;
    uint32_t       frames;
} tacit_outlet_t;

/* Writes one frame with as many records as fit, and sends it. */
tacit_status_t tacit__outlet_send(tacit_records_t *records, tacit_outlet_t *outlet, tacit_leg_t *leg);

/* ---- Choosing ---- */

/* What this rank says of an item, and how far its memory has followed. */
typedef struct tacit_chosen {
    tacit_entries_t entries; /* the codec's, until its next choice */
    bool            chosen, sent;
} tacit_chosen_t;

/* Chooses, … */
tacit_status_t tacit__chosen_make(tacit_item_t *item, tacit_chosen_t *chosen);
/* … lets memory know that all of it is sent, … */
void tacit__chosen_sent(const tacit_item_t *item, tacit_chosen_t *chosen);
/* … and takes that back, however far it came. */
void tacit__chosen_undo(const tacit_item_t *item, const tacit_chosen_t *chosen);

/* ---- The sum of what was gathered, whose entries are of the whole tensors ---- */

/* That every result is finite: TACIT_ERR_VALUE, on all ranks alike. */
tacit_status_t tacit__records_check(tacit_records_t *records);
/* Writes all items' results and commits their codecs. */
void tacit__records_commit(tacit_records_t *records);
/* The fault of a sum. */
tacit_status_t tacit__sum_fault(const tacit_leg_t *leg, const tacit_item_t *item, size_t element);

#endif
