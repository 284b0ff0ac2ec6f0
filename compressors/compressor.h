/* SPDX-License-Identifier: Apache-2.0 */
/* The compressor table: what a stateless encoder is to the rest of the library. A leaf header; it knows nothing of ranks. */
#ifndef TACIT_COMPRESSOR_H
#define TACIT_COMPRESSOR_H

#include <stdbool.h>

#include "tacit.h"

/* Keys everything random: it is a function of these alone, so that any split into chunks gives the same bytes. */
typedef struct tacit_key {
    uint64_t seed, slot, step;
    uint64_t rank; /* of the encoder */
} tacit_key_t;

/* One call's work: elements [first, first + count) of a tensor. `first` is a multiple of the grain. */
typedef struct tacit_block {
    const void *config; /* this compressor's parsed parameters */
    tacit_key_t key;
    size_t      first, count;
} tacit_block_t;

enum {
    TACIT_FAULT_NONFINITE = 1u << 0 /* a value, or a number derived from values, is not finite */
};

typedef enum { TACIT_ISA_SCALAR, TACIT_ISA_AVX2, TACIT_ISA_AVX512, TACIT_ISA_NEON, TACIT_ISA_COUNT } tacit_isa_t;

/* Error feedback around an encoder, within its own pass over memory: a = in + now is encoded, and what of it receivers will not
   decode becomes next. In between, a is kept there too: one array less in a cache that is full enough. */
typedef struct tacit_ef {
    const float *in, *now;
    float       *next; /* may be now */
} tacit_ef_t;

/* Blockwise: the payload of a range is the concatenation of the payloads of its grains. */
typedef struct tacit_kernels {
    /* Encodes a[0..count) into payload, exactly bound(count) bytes, and writes to decoded[] what receivers will decode
       (decoded may be a). The caller has seen to it that all a are finite, or wants NaN and infinity to pass: then they decode
       as NaN or infinity, for the whole grain where the format cannot tell. Returns faults. */
    uint32_t (*encode)(const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded);
    /* Optional. The same bytes for a = in + now, with feedback, until a grain holds what is not finite. Writes how many elements
       come before it; from there on memory is as it was, where it is not doubled to within rounding. */
    uint32_t (*encode_ef)(const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload, size_t *done_out);
    /* Decodes bound(count) bytes, which may be hostile. add: out[] += values, else out[] = values. */
    void (*decode)(const tacit_block_t *block, const uint8_t *payload, float *out, bool add);
} tacit_kernels_t;

/* Sparse: sees the whole tensor, once, and sends some of its elements as (index, value). */
struct tacit_selection; /* sieve.h */
typedef struct tacit_select {
    /* Most entries that are chosen of count elements; and the entries, and floats of a sample, that a selection has room for. */
    size_t (*limit)(const void *config, size_t count);
    size_t (*room)(const void *config, size_t count, size_t *sample_out);
    /* Makes a selection, which has that room, ready for a tensor's elements to go through its sieve in order … */
    void (*begin)(const tacit_block_t *block, struct tacit_selection *selection);
    /* … of which `done` have: not later than TACIT_SIEVE_MOST of them after the last time, the sieve is set anew … */
    void (*pause)(struct tacit_selection *selection, size_t done);
    /* … and after the last, the sieve holds what is chosen, none of it zero, nor travelling as zero. False: now they must go
       through it again, from the first on, unchanged and without a[]. */
    bool (*finish)(const tacit_block_t *block, struct tacit_selection *selection);
    /* The sample that the threshold comes from: every so many elements one, and how many of them are above it; a stride of 0:
       there is none. Where less than 0.8 of what is wanted is not below the threshold, it falls to 0.8 of itself, ten times
       at most. */
    size_t (*sample)(const void *config, size_t count, size_t *keep_out);
    /* Bytes at most for `entries` entries among `count` elements. */
    size_t (*bound)(const void *config, size_t count, size_t entries);
    /* Whether values travel as they are. */
    bool (*exact)(const void *config);
    /* Encodes values[] at indices[] of the tensor, which ascend and are in the block's range. Writes to decoded[i], which may be
       values[i], what receivers will decode. Returns the bytes written. */
    size_t (*encode)(const tacit_block_t *block, const float *values, const uint32_t *indices, size_t entries, uint8_t *payload,
                     float *decoded);
    /* Reads a payload for the block's range, which may be hostile: up to `capacity` entries, indices relative to the block's
       first, ascending and below its count, or returns SIZE_MAX. */
    size_t (*decode)(const tacit_block_t *block, const uint8_t *payload, size_t payload_bytes, uint32_t *indices, float *values,
                     size_t capacity);
} tacit_select_t;

/* Linear: what is sent may be summed before it is decoded. Sees the whole tensor; one or more rounds, each of which sums one
   factor, a vector of float32, over the ranks. */
enum { TACIT_LINEAR_ROUNDS = 2 }; /* at most */
typedef struct tacit_linear {
    int (*rounds)(const void *config, const tacit_slot_config_t *tensor);
    size_t (*factor_count)(const void *config, const tacit_slot_config_t *tensor, int round);
    /* Floats that the codec keeps for this compressor from step to step (a warm start); zero at first, equal on all ranks,
       saved with the slot. NULL: none. */
    size_t (*work_count)(const void *config, const tacit_slot_config_t *tensor);
    /* Makes the own factor of a round from a[0..count). factors[r] for r < round are the reduced ones of earlier rounds, already
       the operation's sum or mean over ranks, and may be changed (orthonormalised), on all ranks alike. */
    void (*make_factor)(const tacit_block_t *block, const tacit_slot_config_t *tensor, int round, const float *a,
                        const float *work, float *const *factors, float *factor);
    /* Rebuilds elements [first, first + count) from one factor a round: with the last one reduced, the mean; with the own one
       in its place, this rank's contribution, which feedback subtracts. */
    void (*reconstruct)(const tacit_block_t *block, const tacit_slot_config_t *tensor, const float *const *factors, float *out);
    /* Optional: the step has succeeded on every rank; updates work. */
    void (*keep)(const tacit_block_t *block, const tacit_slot_config_t *tensor, const float *const *factors, float *work);
} tacit_linear_t;

/* What kernels on devices are told of a configuration (cuda/device.h). */
typedef enum {
    TACIT_CODE_NONE,
    TACIT_CODE_FP16,
    TACIT_CODE_BF16,
    TACIT_CODE_FP8,
    TACIT_CODE_ONEBIT,
    TACIT_CODE_QSGD,
    TACIT_CODE_ROTQ,
    TACIT_CODE_TOPK,
    TACIT_CODE_RANDK,
    TACIT_CODE_POWERSGD, /* what stays dense is randk of all elements */
    TACIT_CODES
} tacit_code_t;

typedef struct tacit_device_code {
    uint32_t block; /* elements of a record; 0: all of a range */
    uint8_t  code;  /* a tacit_code_t */
    uint8_t  bits;
    uint8_t  variant; /* fp8: the format; onebit: 1 is the l1 norm; qsgd: 1 is at random; topk: 1 + the index coding; randk: 1 is
                         scaled */
    bool     coded;   /* an owner encodes its own contribution too */
} tacit_device_code_t;

enum { TACIT_CAST_BLOCK = 256 }; /* of those that have no records */

/* How good decode(encode(x)) is. Decides which feedback is allowed. */
typedef enum {
    TACIT_LOSSLESS,    /* x itself */
    TACIT_CONTRACTION, /* E|C(x) - x|^2 <= factor |x|^2, factor < 1; may be biased */
    TACIT_UNBIASED     /* E C(x) = x, E|C(x) - x|^2 <= factor |x|^2 */
} tacit_quality_t;

typedef struct tacit_compressor {
    const char          *name;         /* the word in a spec; the file's name */
    const char          *summary;      /* one line */
    uint8_t              wire_id;      /* in every frame; never reused */
    uint8_t              wire_version; /* raised when the payload changes */
    size_t               config_bytes;
    const tacit_param_t *params; /* ends with a NULL key */
    /* For tokens (tacit_moe.h), and no tensors: there is nothing below, and no spec of a slot names it. */
    bool tokens;

    /* Optional. Fills in what depends on whether feedback surrounds it ("auto"), and refuses what theory forbids: returns false
       and writes why, and what to do instead, as a clause ("... ; use ..."). */
    bool (*settle)(void *config, bool feedback, char *reason, size_t reason_bytes);
    /* quality, and its factor (worst case) for count elements. */
    tacit_quality_t (*quality)(const void *config, size_t count, double *factor);
    /* Optional. The part of |x|^2 that gets across when x is normal noise, where the worst case says too little. NULL: 1 -
       factor. */
    double (*delta)(const void *config, const tacit_slot_config_t *tensor);

    /* Exactly one of three families, but for tokens. Blockwise: kernels[TACIT_ISA_SCALAR] always; an empty entry falls back to
       the next simpler one. */
    const tacit_kernels_t *kernels[TACIT_ISA_COUNT];
    const tacit_select_t  *select;
    const tacit_linear_t  *linear;
    /* Blockwise only. Chunk edges lie on multiples of this many elements, itself a multiple of 8, or at the tensor's end. 0: an
       owner's part is one block and is never cut; its edges lie on multiples of 8. */
    size_t (*grain)(const void *config);
    /* Blockwise only: payload bytes of count elements, exactly. */
    size_t (*bound)(const void *config, size_t count);
    /* Blockwise, optional: whether an owner encodes its own contribution too, as if it came from another rank. NULL: no. */
    bool (*own_coded)(const void *config);
    /* Blockwise: values within what gradients reach become the largest that there is. Sums of ranks are not encoded then. */
    bool saturates;
    /* Optional: what kernels are told. NULL: there are none. */
    tacit_device_code_t (*device)(const void *config);
} tacit_compressor_t;

/* The index-th compressor, NULL past the last; by name or wire id, NULL if there is none. */
const tacit_compressor_t *tacit__compressor_at(size_t index);
const tacit_compressor_t *tacit__compressor_named(const char *name);
const tacit_compressor_t *tacit__compressor_wire(uint8_t wire_id);
/* The best kernels for the machine (isa.h). */
const tacit_kernels_t *tacit__compressor_kernels(const tacit_compressor_t *compressor);

#endif
