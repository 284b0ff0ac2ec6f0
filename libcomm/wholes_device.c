/* SPDX-License-Identifier: Apache-2.0 */
/* A bundle's tensors that travel whole, on a GPU: how they are divided among blocks of threads, and the memory that kernels work
   in. Both are made once. */
#include "bundle.h"

#include <math.h>
#include <string.h>

#include "topk_size.h"

/* Candidates that there is room for beyond twice those that are sent. */
enum { SPARE = 4096 };

typedef struct layout {
    tacit_layout_t         room;
    const tacit_bundle_t  *bundle;
    tacit_device_wholes_t *wholes;
    tacit_device_whole_t  *table;
    uint64_t               entries, candidates, spans, samples; /* of all tensors */
} layout_t;

static const tacit_codec_t *codec_of(const layout_t *layout, size_t whole)
{
    return layout->bundle->codecs[layout->bundle->wholes[whole].codec];
}

static bool is_sparse(const tacit_codec_t *codec)
{
    return codec->compressor->select != NULL;
}

/* Packed memory follows when results are written. */
static bool is_followed(const tacit_codec_t *codec)
{
    return is_sparse(codec) && codec->feedback != NULL && codec->feedback->accumulator < 0 &&
           codec->precision == TACIT_PRECISION_FP32;
}

static size_t keep_of(const tacit_codec_t *codec)
{
    const void *config = codec->spec.compressor_config;

    return is_sparse(codec) ? codec->compressor->select->limit(config, codec->tensor.count)
                            : codec->compressor->linear->factor_count(config, &codec->tensor, 0);
}

/* Cuts `total` into extents of `step`, at least one. Returns how many there are. */
static uint32_t cut(tacit_device_extent_t *extents, uint32_t at, size_t whole, size_t total, size_t step)
{
    uint32_t number = 0;

    do {
        const size_t first = number * step;

        if (extents != NULL) {
            extents[at + number] = (tacit_device_extent_t){(uint32_t)whole, (uint32_t)tacit__min(step, total - first), first};
        }
    } while (++number * step < total);
    return number;
}

/* Its two factors have tables of their own (matrices_device.c). */
static bool is_matrix(const layout_t *layout, size_t whole)
{
    return layout->bundle->wholes[whole].first_bytes != 0;
}

/* topk's tensors first. */
static uint32_t lay_extents(layout_t *layout, uint32_t *sparse_out, const tacit_device_extent_t **device_out, size_t step,
                            size_t (*total)(const layout_t *layout, size_t whole),
                            void (*note)(tacit_device_whole_t *whole, uint32_t at, uint32_t number))
{
    tacit_device_extent_t *extents = tacit__layout_image(&layout->room);
    uint32_t               at = 0;

    for (int sparse = 1; sparse >= 0; sparse--) {
        for (size_t w = 0; w < layout->bundle->whole_count; w++) {
            if ((int)is_sparse(codec_of(layout, w)) == sparse && !is_matrix(layout, w)) {
                const uint32_t number = cut(extents, at, w, total(layout, w), step);

                note(&layout->table[w], at, number);
                at += number;
            }
        }
        *sparse_out = sparse ? at : *sparse_out;
    }
    *device_out = tacit__layout_take(&layout->room, at * sizeof *extents);
    return at;
}

static size_t elements(const layout_t *layout, size_t whole)
{
    return codec_of(layout, whole)->tensor.count;
}

static size_t entries(const layout_t *layout, size_t whole)
{
    return keep_of(codec_of(layout, whole));
}

/* Indices take no more than all of the payload. */
static size_t index_bytes(const layout_t *layout, size_t whole)
{
    return layout->bundle->wholes[whole].bound;
}

static void note_tiles(tacit_device_whole_t *whole, uint32_t at, uint32_t number)
{
    whole->tile = at;
    whole->tiles = number;
}

static void note_chunks(tacit_device_whole_t *whole, uint32_t at, uint32_t number)
{
    whole->chunk = at;
    whole->chunks = number;
}

static void note_stretches(tacit_device_whole_t *whole, uint32_t at, uint32_t number)
{
    whole->stretch = at;
    whole->stretches = number;
}

static void lay_wholes(layout_t *layout)
{
    const tacit_bundle_t *bundle = layout->bundle;

    layout->entries = layout->candidates = layout->spans = layout->samples = 0;
    for (size_t w = 0; w < bundle->whole_count; w++) {
        const tacit_codec_t  *codec = codec_of(layout, w);
        tacit_device_whole_t *whole = &layout->table[w];
        const size_t          count = codec->tensor.count, keep = is_matrix(layout, w) ? 0 : keep_of(codec);
        size_t                sample_keep = 0;

        whole->tensor = (uint32_t)bundle->wholes[w].codec;
        whole->at = bundle->wholes[w].at;
        whole->bound = bundle->wholes[w].bound;
        whole->keep = (uint32_t)keep;
        whole->entry = layout->entries;
        layout->entries += keep;
        layout->wholes->followed = layout->wholes->followed || is_followed(codec);
        if (is_sparse(codec)) {
            whole->room = (uint32_t)tacit__min(count, 2 * keep + SPARE);
            whole->spans = (uint32_t)((count + TACIT_INDEX_SPAN - 1) / TACIT_INDEX_SPAN);
            whole->stride = (uint32_t)codec->compressor->select->sample(codec->spec.compressor_config, count, &sample_keep);
            whole->sample_keep = (uint32_t)sample_keep;
            whole->enough = (uint32_t)ceil(0.8 * (double)keep);
            layout->wholes->sampled = layout->wholes->sampled || whole->stride != 0;
            whole->sample = layout->samples;
            layout->samples += whole->stride != 0 ? count / whole->stride + 1 : 0;
            whole->candidate = layout->candidates;
            whole->span = layout->spans;
            layout->candidates += whole->room;
            layout->spans += whole->spans;
        }
    }
}

static void lay_tables(void *owner)
{
    layout_t              *layout = owner;
    const tacit_bundle_t  *bundle = layout->bundle;
    tacit_device_wholes_t *wholes = layout->wholes;
    const size_t           ranks = (size_t)bundle->ranks;
    uint64_t              *part_bytes;
    uint32_t               stretches;

    lay_wholes(layout);
    part_bytes = tacit__layout_image(&layout->room);
    for (size_t rank = 0; part_bytes != NULL && rank < ranks; rank++) {
        part_bytes[rank] = bundle->part_bytes[rank];
    }
    wholes->part_bytes = tacit__layout_take(&layout->room, ranks * sizeof *part_bytes);
    wholes->count = (uint32_t)bundle->whole_count;
    wholes->bytes = bundle->whole_bytes;
    wholes->tile_count = lay_extents(layout, &wholes->topk_tiles, &wholes->tiles, TACIT_WHOLE_TILE, elements, note_tiles);
    wholes->chunk_count = lay_extents(layout, &wholes->topk_chunks, &wholes->chunks, TACIT_WHOLE_CHUNK, entries, note_chunks);
    (void)lay_extents(layout, &stretches, &wholes->stretches, TACIT_WHOLE_STRETCH, index_bytes, note_stretches);
    wholes->stretch_count = stretches;
    if (layout->room.image != NULL) {
        memcpy(tacit__layout_image(&layout->room), layout->table, bundle->whole_count * sizeof *layout->table);
    }
    wholes->wholes = tacit__layout_take(&layout->room, bundle->whole_count * sizeof *layout->table);
}

/* What kernels write before they read it, but for counters, which are zero. */
static void lay_workspace(void *owner)
{
    layout_t              *layout = owner;
    tacit_device_wholes_t *wholes = layout->wholes;
    const size_t           ranks = (size_t)layout->bundle->ranks;

    wholes->tallies = tacit__layout_take(&layout->room, wholes->count * sizeof *wholes->tallies);
    wholes->marks = tacit__layout_take(&layout->room, wholes->topk_tiles * sizeof *wholes->marks);
    wholes->sums = tacit__layout_take(&layout->room, (size_t)wholes->topk_chunks * TACIT_RICE_STATES * sizeof *wholes->sums);
    wholes->candidate_indices = tacit__layout_take(&layout->room, layout->candidates * sizeof *wholes->candidate_indices);
    wholes->candidate_values = tacit__layout_take(&layout->room, layout->candidates * sizeof *wholes->candidate_values);
    wholes->indices = tacit__layout_take(&layout->room, layout->entries * sizeof *wholes->indices);
    wholes->values = tacit__layout_take(&layout->room, layout->entries * sizeof *wholes->values);
    wholes->samples = tacit__layout_take(&layout->room, layout->samples * sizeof *wholes->samples);
    wholes->kept = tacit__layout_take(&layout->room, layout->entries * sizeof *wholes->kept);
    wholes->taken_indices = tacit__layout_take(&layout->room, ranks * layout->entries * sizeof *wholes->taken_indices);
    wholes->taken_values = tacit__layout_take(&layout->room, ranks * layout->entries * sizeof *wholes->taken_values);
    wholes->spans = tacit__layout_take(&layout->room, ranks * layout->spans * sizeof *wholes->spans);
    wholes->taken = tacit__layout_take(&layout->room, ranks * wholes->count * sizeof *wholes->taken);
    wholes->runs = tacit__layout_take(&layout->room, ranks * wholes->stretch_count * TACIT_RICE_STATES * sizeof *wholes->runs);
}

tacit_status_t tacit__wholes_device_create(const tacit_bundle_t *bundle, tacit_device_wholes_t *wholes_out, void **memory_out)
{
    tacit_device_wholes_t wholes = {0};
    layout_t              layout = {.bundle = bundle, .wholes = &wholes};
    tacit_status_t        status;

    layout.table = tacit__alloc(bundle->whole_count, sizeof *layout.table);
    if (layout.table == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors", bundle->whole_count);
    }
    TRY(tacit__layout_create(bundle, &layout.room, lay_tables, lay_workspace, &layout, memory_out));
    *wholes_out = wholes;
out:
    tacit__free(layout.table);
    return status;
}
