/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of `topk`: which elements are sent (topk_select.c), and how their indices travel (topk_index.c). */
#ifndef TACIT_TOPK_H
#define TACIT_TOPK_H

#include "compressor.h"
#include "sieve.h"
#include "topk_size.h"

/* ---- Selection. Indices ascend; equal magnitudes go to the lower index; zeros are never among them; NaN is largest. ---- */

/* The `keep` <= count largest magnitudes of a tensor, fewer if there are not so many. taken: what is chosen leaves a[]. */
size_t tacit__topk_room(size_t count, size_t keep);
void   tacit__topk_begin(tacit_selection_t *selection, size_t count, size_t keep, bool taken);
void   tacit__topk_pause(tacit_selection_t *selection, size_t done);
bool   tacit__topk_finish(tacit_selection_t *selection);

/* What a sample of `count` elements is for a density: every stride-th element, at least `samples` of them; the threshold is the
   sample's sample_keep-th largest magnitude. A stride of 1: there is no sample, the selection is exact. */
typedef struct tacit_geometry {
    size_t stride, samples, sample_keep, keep;
} tacit_geometry_t;
tacit_geometry_t tacit__topk_geometry(size_t count, double density, double sample);
bool             tacit__topk_is_sampled(const tacit_geometry_t *geometry, size_t count);

/* After begin: the elements above a threshold that comes from a sample beginning at element `start` < stride, the largest
   geometry->keep of them if there are more; the threshold falls until there are 0.8 of these, ten times at most. What is not
   among them is smaller than what is. Room for the sample: samples + 1. */
void tacit__topk_sample(tacit_selection_t *selection, const tacit_geometry_t *geometry, size_t start);

/* ---- Indices: ascending, relative to `first` where they are encoded, to 0 where they are decoded ---- */

/* Entries of a range of `count` elements. */
typedef struct tacit_index_range {
    const uint32_t *indices;
    size_t          entries, first, count;
} tacit_index_range_t;

/* Numbers and values that a coding writes: of the entries, and of the escapes between them (RLE16). */
size_t tacit__index_pairs(tacit_index_t coding, const tacit_index_range_t *range);
size_t tacit__index_pairs_bound(tacit_index_t coding, size_t count, size_t entries);
/* Bytes of the indices, a multiple of 4: exactly, and at most. `rice` is the parameter of RICE, else 0. */
size_t   tacit__index_bytes(tacit_index_t coding, const tacit_index_range_t *range, unsigned rice);
size_t   tacit__index_bytes_bound(tacit_index_t coding, size_t count, size_t entries);
unsigned tacit__rice_parameter(const tacit_index_range_t *range); /* the one that gives the fewest bytes */
/* Zeros that are escaped before an entry, each time 65536. */
size_t tacit__index_escapes(const tacit_index_range_t *range, size_t entry);
void   tacit__index_encode(tacit_index_t coding, const tacit_index_range_t *range, unsigned rice, uint8_t *out);

/* Decodes so many entries of a range from exactly `bytes` bytes, which may be hostile. False: they are no such indices. RLE16 has
   escapes among its values: not by this. */
bool tacit__index_decode(tacit_index_t coding, const uint8_t *in, size_t bytes, size_t count, size_t entries, unsigned rice,
                         uint32_t *indices);

#endif
