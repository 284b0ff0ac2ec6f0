/* SPDX-License-Identifier: Apache-2.0 */
/* The optimizer table, and what an optimizer works on. The driver (optimizer.c) runs a step: arrange() settles with the other
   ranks what must be settled, prepare() says what travels, one operation carries it, apply() moves the parameters. Up to apply()
   nothing has changed; apply() cannot fail. */
#ifndef TACIT_OPTIMIZER_H
#define TACIT_OPTIMIZER_H

#include "comm.h"
#include "tacit_optim.h"

enum { TACIT_OPTIM_ARRAYS = 4, TACIT_OPTIM_NUMBERS = 5, TACIT_TENSOR_NUMBERS = 2 };

/* One of the caller's tensors. */
typedef struct tacit_tensor {
    tacit_slot_t *slot;
    size_t        count;
    float        *array[TACIT_OPTIM_ARRAYS];     /* state; NULL where this tensor needs none */
    double        numbers[TACIT_TENSOR_NUMBERS]; /* state beside the arrays */
    float        *work;                          /* what is sent, and then what came out */
} tacit_tensor_t;

/* A step's arguments. */
typedef struct tacit_step {
    float *const       *values;
    const float *const *gradients;
    double              rate;
} tacit_step_t;

typedef struct tacit_optimizer {
    const char          *name;                                     /* the word in a spec; the file's name with '-' for '_' */
    const char          *summary;                                  /* one line */
    size_t               config_bytes;                             /* begins with tacit_clipping_t */
    size_t               tensor_bytes;                             /* of its notes on each tensor: tacit_optim_t.notes */
    const tacit_param_t *params;                                   /* ends with a NULL key */
    const char          *arrays[TACIT_OPTIM_ARRAYS + 1];           /* names, for files; ends with NULL */
    const char          *numbers[TACIT_OPTIM_NUMBERS + 1];         /* likewise */
    const char          *tensor_numbers[TACIT_TENSOR_NUMBERS + 1]; /* likewise, of each tensor */
    unsigned             counters;                                 /* a bit for each of `numbers` that counts steps */
    unsigned own_arrays; /* likewise of `arrays`: not the same on all ranks while these are apart; the others always */

    /* Optional. Refuses parameters that do not go together. */
    tacit_status_t (*settle)(const void *config);
    /* Local. Looks at the slots and makes room: tacit__optim_room(). A fault is told to all ranks. */
    tacit_status_t (*init)(tacit_optim_t *optim);
    /* Optional, collective; its errors are all ranks'. Makes slots of its own for the stage that `optim` is in: when it is made,
       and when a state has been loaded. On an error what there was stays. */
    tacit_status_t (*make_slots)(tacit_optim_t *optim);
    /* Optional, collective; its errors are all ranks'. */
    tacit_status_t (*arrange)(tacit_optim_t *optim, const tacit_step_t *step);
    /* Local: tacit__optim_send() for each message. A fault is told to all ranks. */
    tacit_status_t (*prepare)(tacit_optim_t *optim, const tacit_step_t *step);
    void (*apply)(tacit_optim_t *optim, const tacit_step_t *step);
    /* Optional. Whether with such numbers the last step was one after which values may differ from rank to rank. */
    bool (*apart)(const double *numbers);
} tacit_optimizer_t;

/* The index-th optimizer, NULL past the last. */
const tacit_optimizer_t *tacit__optimizer_at(size_t index);
/* Parses NAME[:PARAMS]; *config_out is to be freed. canonical has TACIT_SPEC_BYTES. */
tacit_status_t tacit__optimizer_parse(const char *spec, const tacit_optimizer_t **kind_out, void **config_out, char *canonical);

struct tacit_optim {
    const tacit_optimizer_t *kind;
    void                    *config;
    char                     canonical[TACIT_SPEC_BYTES];
    tacit_comm_t            *comm; /* NULL: destroyed before its time, and all slots with it */
    tacit_tie_t              tie;
    tacit_tensor_t          *tensors;
    size_t                   tensor_count;
    void                    *notes;                        /* tensor_count times kind->tensor_bytes */
    uint64_t                 steps;                        /* taken */
    double                   numbers[TACIT_OPTIM_NUMBERS]; /* state beside the arrays */
    double                  *factors;                      /* by which each tensor's gradient is clipped */
    double                  *squares;                      /* room for a sum of squares of each tensor */
    float                   *norms;                        /* room for as many numbers that travel */
    tacit_slot_t            *norms_slot;
    tacit_item_t            *items; /* this step's messages */
    size_t                   item_count;
    tacit_slot_t           **own; /* slots that are this optimizer's */
    size_t                   own_count, own_room;
    tacit_counters_t         past; /* of own slots that are no more, and of messages that belong to no slot */
};

/* Zeroed room for `arrays` of the state (a bit each) and the work area of a tensor. */
tacit_status_t tacit__optim_room(tacit_optim_t *optim, tacit_tensor_t *tensor, unsigned arrays);
/* Collective. A slot of this optimizer's own; optim->own has room for three a tensor, and one. */
tacit_status_t tacit__optim_slot_create(tacit_optim_t *optim, const char *name, size_t count, const char *spec,
                                        tacit_slot_t **slot_out);
/* Collective. The slot "NAME/warm-up" in which a tensor's gradients travel densely, if *slot is NULL still. */
tacit_status_t tacit__optim_warm_slot(tacit_optim_t *optim, const tacit_tensor_t *tensor, const char *spec, tacit_slot_t **slot);
/* Local; accepts NULL. What it has sent stays counted. */
void tacit__optim_slot_destroy(tacit_optim_t *optim, tacit_slot_t *slot);
/* Tells all ranks of this one's fault, whose text is the last error: all return it, from this call or from the collective one
   that they are in. */
tacit_status_t tacit__optim_refuse(tacit_optim_t *optim, tacit_status_t fault);
/* tacit_slot_rescale() of all tensors' slots, or of none. A fault is all ranks'. */
tacit_status_t tacit__optim_rescale(tacit_optim_t *optim, double factor);
/* Adds a tensor's gradient, times factors[], to the messages that the step's operation carries; its mean or sum goes into the
   work area. */
void tacit__optim_send_gradient(tacit_optim_t *optim, const tacit_step_t *step, size_t i, tacit_op_t op);
/* Adds any message to them. */
void tacit__optim_send(tacit_optim_t *optim, tacit_slot_t *slot, const float *in, float *out, tacit_op_t op);
/* Runs the operation, in which all ranks also see that they are in the same step with the same rate. */
tacit_status_t tacit__optim_reduce(tacit_optim_t *optim, const tacit_step_t *step, tacit_status_t fault);

/* ---- Clipping ---- */

typedef struct tacit_clipping {
    double threshold; /* 0: none */
    int    scope;     /* 0: over all tensors together; 1: each for itself */
} tacit_clipping_t;

/* Rows of a parameter table for a configuration that begins with a tacit_clipping_t. */
#define TACIT_PARAM_CLIP                                                                                                         \
    {                                                                                                                            \
        .key = "clip", .type = TACIT_PARAM_REAL, .offset = offsetof(tacit_clipping_t, threshold), .high = 1e30, .unit = "",      \
        .help = "The largest Euclidean norm that the reduced gradient is to have; 0: no clipping."                               \
    }
#define TACIT_PARAM_CLIP_SCOPE                                                                                                   \
    {                                                                                                                            \
        .key = "clip-scope", .type = TACIT_PARAM_WORD, .offset = offsetof(tacit_clipping_t, scope), .words = "all tensor",       \
        .unit = "", .help = "What the norm is taken over: all tensors together, or each for itself."                             \
    }

/* Sums in an order of their own: the same bits wherever the values are the same. Not finite where a value is not. */
double tacit__sum(const float *values, size_t count);
double tacit__sum_squares(const float *values, size_t count);
/* The same over the values that are finite. */
double tacit__finite_squares(const float *values, size_t count);
/* factors[] for what is sent and for what comes back. Where a slot remembers what it was given, gradients are clipped before it
   sees them, by each rank's own norm (Lin et al., section 3.2), and results are not: what would be taken off them has been
   counted as sent, and would be lost. Elsewhere only results are clipped. */
void tacit__optim_clip_before(tacit_optim_t *optim, const tacit_step_t *step, tacit_clip_t convention);
void tacit__optim_clip_after(tacit_optim_t *optim);
/* Collective. The slot for clip_local(), where there is clipping and it is not there yet. */
tacit_status_t tacit__optim_norms_slot(tacit_optim_t *optim);
/* Collective. factors[] from the own gradients of all ranks, the same on each, before they go into what travels: the root of the
   mean over ranks of |g|^2 stands for a rank's norm in tacit_clip_factor(). */
tacit_status_t tacit__optim_clip_local(tacit_optim_t *optim, const tacit_step_t *step);
/* factors[] from the norms of what has been reduced, in the tensors' work areas; 1 where there is no clipping. */
void tacit__optim_clip_reduced(tacit_optim_t *optim);

/* Exactly rounded multiplications only, so that it is the same on every machine. */
double tacit__power(double base, uint64_t exponent);

#endif
