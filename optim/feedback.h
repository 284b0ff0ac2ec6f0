/* SPDX-License-Identifier: Apache-2.0 */
/* The feedback table: the memory around a compressor, kept per tensor from step to step. A leaf header. */
#ifndef TACIT_FEEDBACK_H
#define TACIT_FEEDBACK_H

#include <stdbool.h>

#include "tacit.h"

enum { TACIT_STATE_ARRAYS = 4 };

/* One tensor's memory. `now` is what the last step left, `next` what this one makes of it. They are the same arrays unless the
   memory is doubled (strict mode, and always at the owner); a successful step then swaps them. */
typedef struct tacit_state {
    const void *config;
    size_t      count; /* elements of each array */
    float      *now[TACIT_STATE_ARRAYS], *next[TACIT_STATE_ARRAYS];
} tacit_state_t;

/* In every function, `first` and `count` say which elements of the state meet in[0..count), a[0..count) and d[0..count):
     in  what the caller gave (float32),
     a   what is encoded,
     d   what receivers decode.
   All are elementwise: any split into ranges gives the same bits. */
typedef struct tacit_feedback {
    const char          *name;    /* the word in a spec; the file's name */
    const char          *summary; /* one line */
    size_t               config_bytes;
    const tacit_param_t *params;                         /* ends with a NULL key */
    const char          *arrays[TACIT_STATE_ARRAYS + 1]; /* names, for files and reports; ends with NULL */
    int                  residual;                       /* which of them is what was kept back; -1: nothing is */
    /* What this rank as an owner could not tell the others is now the sender's to say, in units of a contribution: it joins
       this array with this sign. */
    struct {
        int   array;
        float sign;
    } owed;

    /* Optional. Fills in what depends on the compressor, which gets about the part delta of |a|^2 across. */
    void (*settle)(void *config, double delta);
    /* Optional. The momentum that is in what it sends: an optimizer around it must have none of its own. */
    double (*momentum)(const void *config, bool *nesterov_out);
    /* Optional. Tensors that are never compressed: whether this is one; they travel as `none` with this feedback instead, which
       reads the same config. */
    bool (*is_dense)(const void *config, const tacit_slot_config_t *tensor);
    const struct tacit_feedback *dense;

    /* a := what to encode. a may be `in`, or the elements of next[accumulator]. Where a comes out NaN or infinite, the element's
       memory is left as it is. */
    void (*before)(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a);
    /* next := what was kept back. NULL: for sparse compressors only. a may be the elements of next[accumulator]. */
    void (*after)(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d);
    /* For compressors that see the whole tensor: the array of the state in which `a` may be built, so that it needs no memory
       of its own; -1: none. */
    int accumulator;
    /* With `a` in next[accumulator], sparse: after() where d is values[] at the ascending indices[] and 0 elsewhere. kept[] is
       room to note one number an entry for unsent(). NULL: after() is called on all elements. */
    void (*sent)(const tacit_state_t *state, const uint32_t *indices, const float *values, float *kept, size_t entries);
    /* Takes back a step: now, which before() and after() have changed, becomes what it was, to within rounding. Called only
       where now and next are the same arrays. */
    void (*undo)(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d);
    /* The reverse of sent(): afterwards undo() with d = 0 restores. NULL where sent is. */
    void (*unsent)(const tacit_state_t *state, const uint32_t *indices, const float *values, const float *kept, size_t entries);
    /* Optional, after the step has succeeded: mean[] is what all ranks agreed on and may be out. What it keeps of it goes from
       now to next. NULL: out = mean. */
    void (*combine)(const tacit_state_t *state, size_t first, size_t count, const float *mean, float *out);
    /* The feedback that an owner keeps around what it encodes again; it has no combine. */
    const struct tacit_feedback *owner;
} tacit_feedback_t;

/* The index-th feedback, NULL past the last; by name, NULL if there is none. */
const tacit_feedback_t *tacit__feedback_at(size_t index);
const tacit_feedback_t *tacit__feedback_named(const char *name);

#endif
