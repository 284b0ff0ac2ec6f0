/* SPDX-License-Identifier: Apache-2.0 */
/* The feedback table: the memory around a compressor, kept per tensor from step to step. A leaf header. */
#ifndef TACIT_FEEDBACK_H
#define TACIT_FEEDBACK_H

#include <stdbool.h>

#include "tacit.h"

struct tacit_sieve;

enum { TACIT_STATE_ARRAYS = 4 };

/* What numbers in memory are kept in. bf16: 2 bytes an element; int8: 9 bytes for 8 elements, a scale and eight codes. */
typedef enum { TACIT_PRECISION_FP32, TACIT_PRECISION_BF16, TACIT_PRECISION_INT8 } tacit_precision_t;

/* The parameter of all feedbacks, the last row of each table. It is the first member of each configuration, an int, so that one
   accessor serves them all. */
#define TACIT_PARAM_RESIDUAL                                                                                                     \
    {                                                                                                                            \
        .key = "residual", .type = TACIT_PARAM_WORD, .offset = 0, .initial = TACIT_PRECISION_FP32, .words = "fp32 bf16 int8",    \
        .unit = "", .help = "What is kept back is stored in this precision: 4, 2 or 1.125 bytes an element; rounded at random."  \
    }

/* The feedbacks that kernels on devices know (compressors/cuda/device.h). */
typedef enum {
    TACIT_KEEP_NOTHING,
    TACIT_KEEP_EF,
    TACIT_KEEP_EF21,
    TACIT_KEEP_ECONTROL,
    TACIT_KEEP_DGC,
    TACIT_KEEP_MOMENTUM /* dgc's tensors that stay dense */
} tacit_keep_t;

enum { TACIT_DGC_NESTEROV = 1u << 0, TACIT_DGC_MASKS = 1u << 1 };

/* How memory begins: with zeros, or with a first operation that is dense. */
typedef enum { TACIT_INIT_ZERO, TACIT_INIT_GRADIENT } tacit_init_t;

/* One tensor's memory. `now` is what the last step left, `next` what this one makes of it. They are the same arrays unless the
   memory is doubled (strict mode, and always at the owner); a successful step then swaps them. */
typedef struct tacit_state {
    const void *config;
    const void *module; /* whose memory the arrays are in, a tacit_cuda_module_t; NULL: the host's */
    size_t      count;  /* elements of each array */
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
    const tacit_param_t *params;                         /* ends with TACIT_PARAM_RESIDUAL and a NULL key */
    const char          *arrays[TACIT_STATE_ARRAYS + 1]; /* names, for files and reports; ends with NULL */
    int                  residual;                       /* which of them is what was kept back; -1: nothing is */
    /* Optional. Whether a configuration has one of the arrays; what it has not is NULL. NULL: it has all. */
    bool (*has)(const void *config, int array);
    /* Bit a: array a may be rounded to the precision `residual=`. Not those of which other ranks hold a copy. */
    unsigned rounded;
    /* Which array follows what all ranks agree on, in units of the result, and is the same on all; 0 where combine is NULL. */
    int tracker;
    /* What this rank as an owner could not tell the others is now the sender's to say, in units of a contribution: it joins
       this array with this sign. */
    struct {
        int   array;
        float sign;
    } owed;

    /* Optional. Fills in what depends on the compressor, which gets about the part delta of |a|^2 across. Writes a warning, and
       what to do instead, where that may not converge. */
    void (*settle)(void *config, double delta, char *warning, size_t warning_bytes);
    /* Optional. Whether the first operation is dense, and the feedback that then learns from it: it has the same arrays, all zero
       before, and its undo() makes them zero again. */
    bool (*begins_dense)(const void *config);
    const struct tacit_feedback *first;
    /* Optional. The momentum that is in what it sends: an optimizer around it must have none of its own. */
    double (*momentum)(const void *config, bool *nesterov_out);
    /* Optional. Tensors that are never compressed: whether this is one; they travel as `none` with this feedback instead, which
       reads the same config. */
    bool (*is_dense)(const void *config, const tacit_slot_config_t *tensor);
    const struct tacit_feedback *dense;

    /* a := what to encode. a may be `in`, or the elements of next[accumulator]. Where a comes out NaN or infinite, the element's
       memory is left as it is. */
    void (*before)(const tacit_state_t *state, size_t first, size_t count, const float *in, float *a);
    /* For sparse compressors: sends what before() makes of in[0..count) through a sieve (sieve.h), as TACIT_SIFT has it. */
    size_t (*sift)(const tacit_state_t *state, size_t first, size_t count, const float *in, struct tacit_sieve *sieve);
    /* next := what was kept back. NULL: for sparse compressors only. a may be the elements of next[accumulator]. */
    void (*after)(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *a, const float *d);
    /* For compressors that see the whole tensor: the array of the state in which `a` may be built, so that it needs no memory
       of its own; -1: none. With sparse ones, d leaves it there, which is all that after() does to it. */
    int accumulator;
    /* For sparse compressors, d being values[] at the ascending indices[] and 0 elsewhere: what after() does but to the
       accumulator, next being now where d is 0. kept[] is room to note one number an entry for unsent(). False, or NULL: there
       is nothing more to be done where there is an accumulator, and after() on all elements where there is none. */
    bool (*sent)(const tacit_state_t *state, const uint32_t *indices, const float *values, float *kept, size_t entries);
    /* Takes back a step: now, which before() and after() have changed, becomes what it was, to within rounding. Called only
       where now and next are the same arrays. */
    void (*undo)(const tacit_state_t *state, size_t first, size_t count, const float *in, const float *d);
    /* The reverse of sent() where there is an accumulator: after it, and with d back in the accumulator, undo() with d = 0
       restores. NULL where sent is. */
    void (*unsent)(const tacit_state_t *state, const uint32_t *indices, const float *kept, size_t entries);
    /* Optional, after the step has succeeded: mean[] is what all ranks agreed on and may be out. What it keeps of it goes from
       now to next. Where the tracker is not finite then, every array forgets that element, on all ranks. NULL: out = mean. */
    void (*combine)(const tacit_state_t *state, size_t first, size_t count, const float *mean, float *out);
    /* What kernels on devices know it as, and the number and the flags that it depends on; 0: they do not. */
    tacit_keep_t keep;
    float (*weight)(const void *config);
    unsigned (*flags)(const void *config);
    /* The feedback that an owner keeps around what it encodes again; it has no combine. */
    const struct tacit_feedback *owner;
} tacit_feedback_t;

/* The one that others keep around what an owner encodes. */
extern const tacit_feedback_t tacit__feedback_ef;
/* The index-th feedback, NULL past the last; by name, NULL if there is none. */
const tacit_feedback_t *tacit__feedback_at(size_t index);
const tacit_feedback_t *tacit__feedback_named(const char *name);

#endif
