/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit: optimizers whose messages are compressed, and what chooses densities, bits and ranks while a model trains. Part of
   libtacit; tensors are float32 on the CPU. An object is used by one thread at a time, and its calls are collective over the
   slots' communicator unless they say otherwise. */
#ifndef TACIT_OPTIM_H
#define TACIT_OPTIM_H

#include <tacit.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Optimizers ---- */

typedef struct tacit_optim tacit_optim_t;

/* Makes the optimizer that `spec` names: NAME[:key=value,...], such as "sgd:momentum=0.9" or "onebit-adam:freeze=1000"
   (tacit-info lists them with their parameters). Tensor i is slots[i], whose spec says how its messages travel; the slots stay
   the caller's, are float32, belong to one communicator and outlive the optimizer. An optimizer with a dense warm-up makes slots
   of its own, named after them ("NAME/warm-up"). Collective: all ranks give the same spec and the same slots in one order. A
   feedback that has the momentum (dgc) goes with sgd, which then has none of its own, and with no other optimizer. */
TACIT_API tacit_status_t tacit_optim_create(const char *spec, tacit_slot_t *const *slots, size_t slot_count,
                                            tacit_optim_t **optim_out);
/* Local; accepts NULL. Before the communicator is destroyed. */
TACIT_API_VOID void tacit_optim_destroy(tacit_optim_t *optim);
/* One step with learning rate `rate`, the same on all ranks and at least 0: reduces over all ranks, in one operation, and moves
   values[i], which are the same on every rank before and after (but for zeroone-adam:local-steps=N above 1, between its
   messages). gradients[i] is this rank's own, the mean over its samples (of
   all micro-batches, where they are accumulated). After an error, which is the same on every rank, values and state are as
   before; what slots remember is so to within rounding. A NaN or an infinity is an error unless the communicator's `nonfinite`
   says otherwise, also in a slot that travels natively, where `skip` is one too. */
TACIT_API tacit_status_t tacit_optim_step(tacit_optim_t *optim, float *const *values, const float *const *gradients, double rate);
/* Steps taken. Local. */
TACIT_API_VOID uint64_t tacit_optim_steps(const tacit_optim_t *optim);
/* 1 where values are the same on all ranks, as they are but for zeroone-adam:local-steps=N above 1; 0 between its messages. It is
   the same on all ranks. A training that ends on a 0, or is evaluated there, has as many models as ranks: go on until it is 1,
   for N - 1 steps at most, whatever their rates. Local. */
TACIT_API_VOID int tacit_optim_together(const tacit_optim_t *optim);
/* What this optimizer's own slots (warm-up, norms) have sent, on top of the counters of the caller's slots. Local. */
TACIT_API tacit_status_t tacit_optim_counters(const tacit_optim_t *optim, tacit_counters_t *counters_out);
/* This rank's state: moments, steps, stage. The slots' memory is tacit_save()'s. Each rank names its own file; written beside
   its place, synced and renamed. On a broken communicator saving is local. Loading checks that optimizer, slots and counts are
   the same, and that all ranks' files agree in what they have in common (TACIT_ERR_MISMATCH); it changes nothing on an error.
   Load the optimizer before tacit_load(): it makes the slots of its stage, which are in that file too. */
TACIT_API tacit_status_t tacit_optim_save(const tacit_optim_t *optim, const char *path);
TACIT_API tacit_status_t tacit_optim_load(tacit_optim_t *optim, const char *path);
/* Checks an optimizer's spec and writes it with every parameter spelled out (as tacit_spec_check()). Local. */
TACIT_API tacit_status_t tacit_optim_check(const char *spec, char *canonical, size_t capacity);

/* ---- Clipping ---- */

/* How a threshold for the norm of the reduced gradient becomes one for a rank's own. If ranks' noise is independent,
   |sum| is about sqrt(N) |own|. MEAN: the result is the ranks' mean, own gradients are not divided by N: threshold x sqrt(N).
   SUM: it is their sum, and each already carries 1/N: threshold / sqrt(N). (Deep Gradient Compression, section 3.2.) */
typedef enum tacit_clip { TACIT_CLIP_MEAN, TACIT_CLIP_SUM } tacit_clip_t;

/* The factor, at most 1, by which gradients of norm |g|_2 (over all tensors together) are to be multiplied: t / (|g|_2 + 1e-6).
   Local, pure. */
TACIT_API_VOID double tacit_clip_factor(double norm, double threshold, int ranks, tacit_clip_t convention);

/* ---- Warm-up of the density (Deep Gradient Compression, section 3.3) ---- */

/* PAPER: 1/4, 1/16, 1/64, 1/256, ... ; REFERENCE: b^(1/(E+1)), b^(2/(E+1)), ... towards the final density b in E entries, as the
   authors' code has it. Never below the final density. */
typedef enum tacit_warmup { TACIT_WARMUP_NONE, TACIT_WARMUP_PAPER, TACIT_WARMUP_REFERENCE } tacit_warmup_t;

/* The density (elements sent / elements) at `step`, counted from 0, where each of the `entries` of the warm-up lasts
   entry_steps steps; list[entries] instead of a preset where it is not NULL. Local, pure. */
TACIT_API_VOID double tacit_warmup_density(tacit_warmup_t warmup, const double *list, size_t entries, uint64_t entry_steps,
                                           double final, uint64_t step);

/* ---- Layerwise adaptation (Alimohammadi et al., "L-GreCo", MLSys 2024) ---- */

/* Chooses one option for each layer so that the sum of sizes is least while the sum of errors is at most alpha times that of
   the reference options, by dynamic programming over 10000 + layers steps of the error budget. errors and sizes are layers x
   options (256 at most), row-major, finite and not negative; reference[layers] and choices_out[layers] are option numbers. With
   alpha >= 1 the choice is never larger than the reference; it is never larger than the best one within the budget, and its
   error is never above alpha x budget x (1 + layers / 10000). Where the budget is 0 the smallest options without any error are
   chosen. Where no choice fits (alpha < 1): TACIT_ERR_ARGUMENT. Local, pure; equal inputs give equal choices on every machine.
   Time: layers x options x 10000 additions; memory: a byte for each layer and step. */
TACIT_API tacit_status_t tacit_lgreco_plan(const double *errors, const double *sizes, size_t layers, size_t options,
                                           const size_t *reference, double alpha, size_t *choices_out);

typedef struct tacit_lgreco tacit_lgreco_t;

/* Zero means default in every field. The same on all ranks. */
typedef struct tacit_lgreco_config {
    size_t   struct_bytes; /* sizeof(tacit_lgreco_config_t): set by TACIT_LGRECO_CONFIG_INIT */
    double   alpha;        /* error budget, in units of the uniform setting's; 0: 1 */
    uint64_t every;        /* steps between plans; 0: 100 */
    uint64_t gather;       /* the last so many steps before a plan are added up; 0: 10, or every where that is less */
    double   low, high;    /* range of options as parts of the slot's own parameter; 0: 0.25 and 4 (bits: all) */
    int      squared;      /* 1: budget of squared errors instead of errors */
    int      accordion;    /* 1: the budget is that of Accordion's choice of low or high (Agarwal et al., MLSys 2021) */
    double   link_rate;    /* bytes a second: minimise time, measured, instead of bytes; 0: bytes */
} tacit_lgreco_config_t;

#define TACIT_LGRECO_CONFIG_INIT                                                                                                 \
    {                                                                                                                            \
        sizeof(tacit_lgreco_config_t), 0, 0, 0, 0, 0, 0, 0, 0                                                                    \
    }

/* Adapts the slots' topk or randk ratio, qsgd or rotq bits, or powersgd rank around the value that each has now, the reference.
   Slots of other compressors, those that stay dense, and those with nothing to choose are left alone. The slots stay the
   caller's, are float32, belong to one communicator and outlive it. config may be NULL. doc/adaptation.md tells more. */
TACIT_API tacit_status_t tacit_lgreco_create(tacit_slot_t *const *slots, size_t slot_count, const tacit_lgreco_config_t *config,
                                             tacit_lgreco_t **lgreco_out);
TACIT_API_VOID void      tacit_lgreco_destroy(tacit_lgreco_t *lgreco); /* local; accepts NULL */
/* To be called once a step, before the slots' operations (or the optimizer's step), with this rank's gradients in the order of
   the slots; no request or group is open. Most steps it does nothing. When a plan is due all ranks agree on it, and every slot
   that is adapted gets the spec that it is given, as by tacit_slot_set_spec(), all or none, whatever has been set since the last
   plan. Ranks meet at the first step that is gathered and at the plan: then an error, of one rank's gradient too, is the same on
   all; at other steps it is this rank's own. After an error all is as before, and the same call may be made again. A gradient
   with NaN or infinity is not gathered. */
TACIT_API tacit_status_t tacit_lgreco_observe(tacit_lgreco_t *lgreco, const float *const *gradients);

typedef struct tacit_lgreco_report {
    uint64_t plans;                        /* made so far */
    double   uniform_bytes, planned_bytes; /* that leave a rank in one step, without headers: reference and last plan */
    double   uniform_error, planned_error; /* sums over layers, means over ranks, as the last plan saw them */
    double   plan_seconds;                 /* the last plan took */
} tacit_lgreco_report_t;

/* Local. */
TACIT_API tacit_status_t tacit_lgreco_report(const tacit_lgreco_t *lgreco, tacit_lgreco_report_t *report_out);
/* This rank's state: choices, and what has been gathered since the last plan. As tacit_optim_save(); not between an observe()
   that has failed and the one that makes up for it. Loading also sets the slots' specs; it comes before tacit_load(), as what
   powersgd keeps depends on its rank. A slot whose spec was none of a plan's when it was saved keeps the one it has. Slots must
   begin with the same values, and files be those of one save: else TACIT_ERR_MISMATCH, and nothing has changed. */
TACIT_API tacit_status_t tacit_lgreco_save(const tacit_lgreco_t *lgreco, const char *path);
TACIT_API tacit_status_t tacit_lgreco_load(tacit_lgreco_t *lgreco, const char *path);

#ifdef __cplusplus
}
#endif
#endif
