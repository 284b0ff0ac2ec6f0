/* SPDX-License-Identifier: Apache-2.0 */
/* One tensor's compressor and memory, without ranks or wires: what the public codec calls and every schedule are made of. */
#ifndef TACIT_CODEC_H
#define TACIT_CODEC_H

#include "cuda_module.h"
#include "deal.h"
#include "spec.h"

/* Which bundles a codec with feedback remembers something of; open until the first is made of it. */
typedef enum { TACIT_USE_OPEN, TACIT_USE_REDUCES, TACIT_USE_GATHERS } tacit_use_t;

typedef struct tacit_range {
    size_t begin, end; /* elements */
} tacit_range_t;

struct tacit_codec {
    char                      *name;
    tacit_slot_config_t        tensor;   /* spec: NULL */
    tacit_spec_t               spec;     /* in force: for 16-bit tensors `none` is the cast of that type */
    tacit_spec_t               given;    /* as the caller wrote it */
    tacit_spec_t               other;    /* what spec is exchanged with around a dense first operation; empty: there is none */
    bool                       is_first; /* it is exchanged */
    const tacit_compressor_t  *compressor;
    const tacit_kernels_t     *kernels; /* blockwise */
    const tacit_feedback_t    *feedback;
    tacit_key_t                key; /* of the step: on a GPU, how far it is ahead of the bundle's; else 0 */
    int                        rank, ranks;
    int                        senders;    /* so many contribute to a sum: all ranks, or in their place hosts */
    uint32_t                   leaders;    /* where memory is of hosts: tacit__topology_hash(); else 0 */
    bool                       sums;       /* what is encoded is a host's sum, in float32 and as it is */
    tacit_range_t              range;      /* sparse: what is chosen from; all of the tensor, or what a rail has of it … */
    uint32_t                   owners;     /* … and dealt out to so many owners: all ranks, or hosts … */
    uint32_t                   own;        /* … of which this is one */
    const void                *bundle;     /* in whose step it is; NULL: in none */
    int                        use;        /* a tacit_use_t */
    const tacit_cuda_module_t *module;     /* of a tensor on a GPU: whose memory the codec's is in; NULL: on the CPU */
    uint32_t                  *turn;       /* kernels swap doubled memory by changing it … */
    uint32_t                   turned;     /* … and this is what of that `now` and `next` below follow */
    uint64_t                   generation; /* changes with the arrays */
    tacit_nonfinite_t          nonfinite;
    bool                       strict;

    tacit_state_t     memory; /* the sender's; count elements. Arrays that are packed are NULL here, unless they are expanded */
    tacit_precision_t precision; /* of packed arrays */
    uint8_t          *packed[TACIT_STATE_ARRAYS], *packed_next[TACIT_STATE_ARRAYS];
    float            *scratch[TACIT_STATE_ARRAYS]; /* of packed arrays: `room` elements of a window */
    tacit_state_t     window;                      /* what feedback is shown of memory with packed arrays */
    bool              expanded;                    /* packed arrays are in memory, as float32, for one operation */
    int               tracker_op;                  /* units of the tracker: 1 + a tacit_op_t; 0: it is zero */
    tacit_state_t     owner;                       /* the owner's, of the part below */
    size_t            owner_first;                 /* owner.count elements from here; of a dealt part 0 */
    bool              owner_is_mean;               /* units of the owner's memory: the result was an average */
    bool              own_is_zero;                 /* the sender's memory of the owned part, known to be so */
    struct {
        bool          moved; /* the step that runs owns another part than the last one did, which is kept here until it ends */
        tacit_state_t owner;
        size_t        first;
        bool          is_mean;
        float        *memory; /* the sender's, of that part, before the owner's joined it */
    } former;
    float *work; /* linear: kept from step to step */
    size_t work_count;

    size_t unit;      /* elements handled at once, so that they stay in L1 */
    size_t room;      /* elements of each of the next three */
    float *x, *a, *d; /* input widened, what is encoded, what is decoded */
    float *whole;     /* linear: count elements, where feedback lends no array; else NULL */

    struct tacit_selection *selection;       /* sparse: from the first operation on */
    struct tacit_selection *owner_selection; /* the same of an owner that chooses again */
};

/* Elements handled at once: 8 KiB each of input, memory, a and d are within an L1 of 32 KiB. */
enum { TACIT_UNIT = 2048 };

/* Makes a codec of a complete configuration: config->spec is used where slot_config has none. */
tacit_status_t tacit__codec_create(const char *name, const tacit_slot_config_t *slot_config, const tacit_config_t *config,
                                   int rank, int ranks, tacit_codec_t **codec_out);
/* Completes a configuration, of which NULL is all defaults, from the environment; whether that lets nothing be compressed. */
tacit_status_t tacit__codec_config(const tacit_config_t *given, tacit_config_t *config_out, bool *disabled_out);
/* Of everything random, at step 0. */
tacit_key_t tacit__codec_key(const char *name, const tacit_config_t *config, int rank);
/* The compressor that `none` is for tensors of a type. */
const char *tacit__codec_cast(tacit_dtype_t dtype);
/* For a codec that has another spec than the caller's: what was given. */
tacit_status_t tacit__codec_parse_given(tacit_codec_t *codec, const char *text);
/* Other parameters of the same compressor and feedback, as given and in force: parsed, with room made for them … */
typedef struct tacit_specs {
    tacit_spec_t               given, effective;
    const tacit_cuda_module_t *module; /* whose memory the next is in; NULL: the CPU's */
    float                     *work;   /* linear: of another size, where that changes; else NULL */
    size_t                     work_count;
} tacit_specs_t;
tacit_status_t tacit__codec_parse_specs(tacit_codec_t *codec, const char *text, tacit_specs_t *specs_out);
/* Whether a spec is `none`, where what the codec keeps back can be paid in one operation: what changes then is more than specs,
   automatic.h. */
bool tacit__codec_ends(const tacit_codec_t *codec, const tacit_spec_t *spec);
/* … and put in place. Cannot fail; memory is kept. */
void tacit__codec_adopt_specs(tacit_codec_t *codec, tacit_specs_t *specs);
/* Accepts specs that are adopted or empty. */
void tacit__specs_release(tacit_specs_t *specs);
/* Puts on or takes off the dense compressor of a first operation, and the feedback that learns from it; nothing where there is
   none. Between operations it is off. */
void tacit__codec_dress(tacit_codec_t *codec, bool first);
/* Adds what all ranks must have in common of the tensor, with this operator, to hashes (doc/wire-format.md, "Operations"). */
void tacit__codec_identify(const tacit_codec_t *codec, tacit_op_t op, uint64_t *slot, uint64_t *spec);
/* The same for people. */
void tacit__codec_describe(const tacit_codec_t *codec, char *text, size_t capacity);
/* TACIT_ERR_VALUE: what a rank was given at a step is not finite. */
tacit_status_t tacit__codec_value_fault(const tacit_codec_t *codec, int rank, uint64_t step);
/* TACIT_ERR_STATE while a bundle works with it. */
tacit_status_t tacit__codec_is_free(const tacit_codec_t *codec);
bool           tacit__codec_is_blockwise(const tacit_codec_t *codec);
/* The smallest multiple at which a range may begin: the grain, or 8 where a part is one block. */
size_t tacit__codec_edge(const tacit_codec_t *codec);
/* True where a part may not be cut into chunks. */
bool   tacit__codec_is_uncut(const tacit_codec_t *codec);
bool   tacit__codec_own_coded(const tacit_codec_t *codec);
size_t tacit__codec_element_bytes(const tacit_codec_t *codec);

/* Makes room for ranges that are encoded as one block of `count` elements. */
tacit_status_t tacit__codec_reserve(tacit_codec_t *codec, size_t count);

/* How the elements of a sparse tensor's range are dealt out to owners, and how many are this one's. */
tacit_deal_t tacit__codec_deal(const tacit_codec_t *codec);
size_t       tacit__codec_part(const tacit_codec_t *codec);
/* How many elements lie side by side from place `at` of the owned part on, of which the first is *element_out of the tensor. */
size_t tacit__codec_owned(const tacit_codec_t *codec, size_t at, size_t *element_out);

/* Makes [first, first + count) the owned part; of a sparse tensor the one that is dealt to this rank, first is 0. If another part
   was owned, its memory joins the sender's, so that no sum changes. count 0: owns nothing. Followed by commit(), which
   forgets what was owned before … */
tacit_status_t tacit__codec_own_part(tacit_codec_t *codec, uint64_t step, size_t first, size_t count, bool mean);
/* … unless it owns just that … */
bool tacit__codec_owns(const tacit_codec_t *codec, size_t first, size_t count, bool mean);
/* … or, where there is no step to commit, by this … */
void tacit__codec_forget_former(tacit_codec_t *codec);
/* … or by this, which owns it again, after what has been encoded since is undone. */
void tacit__codec_disown(tacit_codec_t *codec);

/* For loading: makes an owner's memory, and gives it to a codec in place of what is there, which is forgotten. */
tacit_status_t tacit__codec_make_owner(const tacit_codec_t *codec, size_t count, tacit_state_t *owner_out);
void           tacit__codec_adopt_owner(tacit_codec_t *codec, tacit_state_t *owner, size_t first, bool mean);
void           tacit__state_release(tacit_state_t *state);

/* On a device: waits until kernels have done with memory, which is then as it is described here. */
void tacit__codec_settle(tacit_codec_t *codec);

/* ---- Blockwise. Ranges begin at edges. `in` and `out` are the start of the whole tensor, in its dtype. ---- */

/* Encodes a range into bound(count) bytes and updates memory. Faults: memory is as before. */
uint32_t tacit__codec_encode(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count, uint8_t *payload);
/* Takes back what encode() did to memory. */
void tacit__codec_undo(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count, const uint8_t *payload);
/* The own contribution to the own part, exactly: sum = or += what encode() would encode. Memory is not touched … */
uint32_t tacit__codec_own(tacit_codec_t *codec, const void *in, size_t first, size_t count, float *sum, bool add);
/* … until the operation has succeeded. */
void tacit__codec_own_keep(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count);
/* sum = or += a payload's values. */
void tacit__codec_add(tacit_codec_t *codec, uint64_t step, const uint8_t *payload, size_t first, size_t count, float *sum,
                      bool add);
/* Encodes a reduced range of the owned part; sum is the range's and is spoilt. */
uint32_t tacit__codec_reencode(tacit_codec_t *codec, uint64_t step, float *sum, size_t first, size_t count, uint8_t *payload);
/* All three for a range of the owned part, a unit at a time: adds up what the senders contribute, in ascending order, and encodes
   the sum, or the mean over all ranks, again. contributions[sender]: its payload of the range; NULL: the own one, exactly. sum:
   room for a unit. */
uint32_t tacit__codec_reduce(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count,
                             const uint8_t *const *contributions, tacit_op_t op, float *sum, uint8_t *payload);
/* The first and the last of these: whether the own contribution may be encoded, which a reduce-scatter has to know before … */
uint32_t tacit__codec_own_check(tacit_codec_t *codec, const void *in, size_t first, size_t count, float *sum);
/* … it stores the sum or the mean, and keeps memory of the own contribution. out may be in. */
void tacit__codec_collect(tacit_codec_t *codec, uint64_t step, const void *in, size_t first, size_t count,
                          const uint8_t *const *contributions, tacit_op_t op, float *sum, void *out);
/* The result: decodes, combines (feedback), stores in the tensor's dtype. */
void tacit__codec_finish(tacit_codec_t *codec, uint64_t step, const uint8_t *payload, size_t first, size_t count, void *out);
/* The same from values instead of a payload; values are spoilt. */
void tacit__codec_store(tacit_codec_t *codec, float *values, size_t first, size_t count, void *out);

/* ---- Compressors that see the whole tensor ---- */

/* Before the others: makes room for a selection, and expands packed memory for one operation … */
tacit_status_t tacit__codec_expand(tacit_codec_t *codec);
/* … until this packs it again, as commit() does … */
void tacit__codec_pack(tacit_codec_t *codec, uint64_t step);
/* … or this forgets what has become of it; nothing where it is not expanded. */
void tacit__codec_collapse(tacit_codec_t *codec);

/* What goes out of a, as index/value pairs. */
typedef struct tacit_entries {
    uint32_t *indices; /* ascending */
    float    *values;  /* as they are chosen, then as receivers decode them */
    float    *kept;    /* what feedback notes of each, to take it back; NULL where values are only decoded */
    size_t    count;
} tacit_entries_t;
/* Memory for choosing among so many elements, and a hint for the next time; where there is some already, enough of it. False: no
   memory, and all is as it was. */
bool tacit__selection_reserve(struct tacit_selection **selection, const tacit_spec_t *spec, size_t count);
void tacit__selection_release(struct tacit_selection *selection);
/* Room for them, and those chosen last. */
tacit_entries_t tacit__selection_entries(const struct tacit_selection *selection);
/* Chooses from the block's elements, a[0..count), without feedback. */
tacit_entries_t tacit__choose(const tacit_select_t *select, const tacit_block_t *block, const float *a,
                              struct tacit_selection *selection);
/* Sparse: builds `a` from in and memory, in the codec's range, and chooses from it in one pass. The entries, whose indices are
   the tensor's, are the codec's until its next choice. Memory outside of the range is left alone. Faults: memory is as before. */
uint32_t tacit__codec_choose(tacit_codec_t *codec, uint64_t step, const void *in, tacit_entries_t *entries_out);
/* Takes that back … */
void tacit__codec_unchoose(tacit_codec_t *codec, const void *in);
/* … or the entries, with values as they are decoded, go out … */
void tacit__codec_sent(tacit_codec_t *codec, const void *in, const tacit_entries_t *entries);
/* … and then this takes all back. */
void tacit__codec_unsent(tacit_codec_t *codec, const void *in, const tacit_entries_t *entries);
/* values[] := the entries of [first, first + count), zero elsewhere; *next, from 0, is the first entry not yet passed. */
void tacit__codec_scatter(const tacit_entries_t *entries, size_t *next, size_t first, size_t count, float *values);

/* Linear: builds `a` from in and memory; *a_out is valid until the step ends. Faults: memory is as before. */
uint32_t tacit__codec_gather(tacit_codec_t *codec, const void *in, const float **a_out);
/* Takes gather() back; after rebuilt(), call its reverse instead. */
void tacit__codec_ungather(tacit_codec_t *codec, const void *in);
/* What the factors stand for goes out. */
void tacit__codec_rebuilt(tacit_codec_t *codec, uint64_t step, const void *in, const float *a, const float *const *factors);
void tacit__codec_unbuilt(tacit_codec_t *codec, uint64_t step, const void *in, const float *const *factors);
/* The work of one call on the whole tensor. */
tacit_block_t tacit__codec_block(const tacit_codec_t *codec, uint64_t step, size_t first, size_t count);

/* ---- The owner of a dealt part. Indices are places in it, its memory is changed where it is. ---- */

/* values[]: a reduced part's entries. What the owner remembers of them joins, in memory; kept[] := what it was. Returns how many
   have joined: all, or those before one that is not finite. */
size_t tacit__codec_join(tacit_codec_t *codec, const tacit_entries_t *entries);
void   tacit__codec_unjoin(tacit_codec_t *codec, const tacit_entries_t *entries);
/* The memory that they have joined, from which the owner chooses; NULL where there is none. */
const float *tacit__codec_joined(const tacit_codec_t *codec);
/* After `met` has joined, `entries` of that memory have been sent: values[], as all decode them. kept[] as above; unjoin() takes
   them back, before what has joined. */
void tacit__codec_owner_sent(tacit_codec_t *codec, const tacit_entries_t *met, const tacit_entries_t *entries);

/* ---- The step's end ---- */

/* The step has succeeded; before the first result is stored: trackers take the units of this operation. */
void tacit__codec_conclude(tacit_codec_t *codec, tacit_op_t op);
/* By what that multiplies them. */
float tacit__codec_conversion(const tacit_codec_t *codec, tacit_op_t op);
/* … and after the last: doubled memory is swapped, expanded memory packed. */
void tacit__codec_commit(tacit_codec_t *codec, uint64_t step);
/* Walks all arrays that are memory: for saving and loading. Returns false past the last. Packed ones are walked as they are, in
   words of four bytes. */
typedef struct tacit_array {
    const char *name; /* "residual", "owner", "work" */
    float      *values;
    size_t      count;
    bool        packed;
} tacit_array_t;
bool tacit__codec_array(const tacit_codec_t *codec, size_t index, tacit_array_t *array_out);

#endif
