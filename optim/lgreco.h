/* SPDX-License-Identifier: Apache-2.0 */
/* Layerwise adaptation from inside. A layer is one slot under it: which values its parameter may take, what each costs and how
   wrong it is. */
#ifndef TACIT_LGRECO_H
#define TACIT_LGRECO_H

#include "comm.h"
#include "state_file.h"
#include "tacit_optim.h"

enum { TACIT_LAYER_OPTIONS = 256, TACIT_VALUE_BYTES = 32 };

/* How a layer's errors are found. */
typedef enum {
    TACIT_LAYER_SPARSE,    /* topk: all from one selection */
    TACIT_LAYER_DRAWN,     /* randk: what is to be expected; a single draw would be luck */
    TACIT_LAYER_BLOCKWISE, /* qsgd, rotq: by encoding */
    TACIT_LAYER_LOW_RANK   /* powersgd: all from one subspace */
} tacit_layer_kind_t;

typedef struct tacit_option {
    char   value[TACIT_VALUE_BYTES]; /* as a spec spells it */
    double bytes;                    /* of one message's payload, at most */
    size_t entries; /* sparse: most that are sent; low rank: elements of the second factor, 0 where it is dense */
} tacit_option_t;

typedef struct tacit_layer {
    tacit_slot_t      *slot;
    size_t             index; /* among the caller's slots */
    const char        *key;   /* the parameter: "ratio" */
    tacit_layer_kind_t kind;
    tacit_option_t    *options; /* ascending */
    size_t             option_count;
    size_t             reference;   /* the slot's own at first; its own now is in its spec, which others may set too */
    double             norm_before; /* of what the last plan saw, mean over ranks; 0: none yet */
    float             *sum;         /* while steps are gathered: of what was to be encoded; else NULL */
} tacit_layer_t;

struct tacit_lgreco {
    tacit_comm_t         *comm;
    tacit_lgreco_config_t config; /* complete: no zero means default any more, but in low, high and link_rate */
    size_t                slot_count;
    tacit_layer_t        *layers; /* those of the slots that are adapted */
    size_t                layer_count;
    size_t                options; /* of the layer that has most */
    uint64_t              steps;   /* observed */
    bool                  counted; /* the gradients of the step that is being observed have been added: an error came later */
    tacit_lgreco_report_t report;
    char                  identity[TACIT_STATE_TEXT_BYTES]; /* slots and configuration, the same on all ranks */
};

/* Finds the options around the slot's present parameter. option_count 0: the slot is not one to adapt. */
tacit_status_t tacit__layer_init(tacit_layer_t *layer, tacit_slot_t *slot, size_t index, const tacit_lgreco_config_t *config);
void           tacit__layer_release(tacit_layer_t *layer);
/* The slot's spec with an option's value. */
tacit_status_t tacit__layer_spec(const tacit_layer_t *layer, size_t option, char spec[TACIT_SPEC_BYTES]);
/* The option that the slot's spec has now; option_count where it is none of them. */
size_t tacit__layer_option(const tacit_layer_t *layer);
/* Adds what would be encoded of a gradient, memory included. A step with NaN or infinity is left out. */
void tacit__layer_gather(tacit_layer_t *layer, const float *gradient);
/* |sum|, the error |sum - C(sum)| of every option, and, where seconds is not NULL, how long encoding and decoding take. */
tacit_status_t tacit__layer_measure(const tacit_layer_t *layer, double *norm_out, double *errors, double *seconds);

/* Steps of the error budget that tacit_lgreco_plan() counts in; a plan exceeds it by one for each layer at most. */
enum { TACIT_PLAN_STEPS = 10000 };

/* One plan in the making. Tables are layers x options; a layer with fewer options has its last one again. */
typedef struct tacit_plan {
    size_t         width;    /* floats of what one rank has measured */
    float         *measured; /* ranks x width */
    double        *errors, *bytes, *sizes, *norms;
    size_t        *reference, *choices;
    tacit_specs_t *specs;
} tacit_plan_t;

/* Whether time counts. */
bool           tacit__plan_is_timed(const tacit_lgreco_t *lgreco);
tacit_status_t tacit__plan_init(tacit_plan_t *plan, const tacit_lgreco_t *lgreco);
void           tacit__plan_release(tacit_plan_t *plan, size_t layers);
/* Writes what a rank has measured of a layer; seconds are read where time counts. */
void tacit__plan_put(tacit_plan_t *plan, const tacit_lgreco_t *lgreco, int rank, size_t layer, double norm, const double *errors,
                     const double *seconds);
/* On equal numbers on all ranks. *kept_out: there is no plan, and the last one goes on. */
tacit_status_t tacit__plan_choose(const tacit_lgreco_t *lgreco, tacit_plan_t *plan, bool *kept_out);

#endif
