/* SPDX-License-Identifier: Apache-2.0 */
/* A bundle's tensors that travel whole, on a GPU: how they are divided among blocks of threads, and the memory that kernels work
   in. Both are made once. */
#include "bundle.h"

#include <math.h>
#include <string.h>

#include "topk_size.h"

/* Candidates that there is room for beyond twice those that are sent. */
enum { SPARE = 4096 };

/* Tables are laid out twice: first only counted, then written to the image, which is what the memory begins with. */
typedef struct layout {
    const tacit_bundle_t  *bundle;
    tacit_device_wholes_t *wholes;
    tacit_device_whole_t  *table;
    uint8_t               *image;  /* NULL: only counted */
    uint8_t               *memory; /* of the device; NULL: not there yet */
    size_t                 used;
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

/* The next `bytes` bytes of the device's memory. */
static void *take(layout_t *layout, size_t bytes)
{
    void *at = layout->memory != NULL ? layout->memory + layout->used : NULL;

    layout->used += tacit__round_up(bytes, 64);
    return at;
}

static void *in_image(const layout_t *layout)
{
    return layout->image != NULL ? layout->image + layout->used : NULL;
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
    tacit_device_extent_t *extents = in_image(layout);
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
    *device_out = take(layout, at * sizeof *extents);
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

static void lay_tables(layout_t *layout)
{
    const tacit_bundle_t  *bundle = layout->bundle;
    tacit_device_wholes_t *wholes = layout->wholes;
    const size_t           ranks = (size_t)bundle->ranks;
    uint64_t              *part_bytes;
    uint32_t               stretches;

    layout->used = 0;
    lay_wholes(layout);
    part_bytes = in_image(layout);
    for (size_t rank = 0; part_bytes != NULL && rank < ranks; rank++) {
        part_bytes[rank] = bundle->part_bytes[rank];
    }
    wholes->part_bytes = take(layout, ranks * sizeof *part_bytes);
    wholes->count = (uint32_t)bundle->whole_count;
    wholes->bytes = bundle->whole_bytes;
    wholes->tile_count = lay_extents(layout, &wholes->topk_tiles, &wholes->tiles, TACIT_WHOLE_TILE, elements, note_tiles);
    wholes->chunk_count = lay_extents(layout, &wholes->topk_chunks, &wholes->chunks, TACIT_WHOLE_CHUNK, entries, note_chunks);
    (void)lay_extents(layout, &stretches, &wholes->stretches, TACIT_WHOLE_STRETCH, index_bytes, note_stretches);
    wholes->stretch_count = stretches;
    if (layout->image != NULL) {
        memcpy(in_image(layout), layout->table, bundle->whole_count * sizeof *layout->table);
    }
    wholes->wholes = take(layout, bundle->whole_count * sizeof *layout->table);
}

/* What kernels write before they read it, but for counters, which are zero. */
static void lay_workspace(layout_t *layout)
{
    tacit_device_wholes_t *wholes = layout->wholes;
    const size_t           ranks = (size_t)layout->bundle->ranks;

    wholes->tallies = take(layout, wholes->count * sizeof *wholes->tallies);
    wholes->marks = take(layout, wholes->topk_tiles * sizeof *wholes->marks);
    wholes->sums = take(layout, (size_t)wholes->topk_chunks * TACIT_RICE_STATES * sizeof *wholes->sums);
    wholes->candidate_indices = take(layout, layout->candidates * sizeof *wholes->candidate_indices);
    wholes->candidate_values = take(layout, layout->candidates * sizeof *wholes->candidate_values);
    wholes->indices = take(layout, layout->entries * sizeof *wholes->indices);
    wholes->values = take(layout, layout->entries * sizeof *wholes->values);
    wholes->samples = take(layout, layout->samples * sizeof *wholes->samples);
    wholes->kept = take(layout, layout->entries * sizeof *wholes->kept);
    wholes->taken_indices = take(layout, ranks * layout->entries * sizeof *wholes->taken_indices);
    wholes->taken_values = take(layout, ranks * layout->entries * sizeof *wholes->taken_values);
    wholes->spans = take(layout, ranks * layout->spans * sizeof *wholes->spans);
    wholes->taken = take(layout, ranks * wholes->count * sizeof *wholes->taken);
    wholes->runs = take(layout, ranks * wholes->stretch_count * TACIT_RICE_STATES * sizeof *wholes->runs);
}

tacit_status_t tacit__wholes_device_create(const tacit_bundle_t *bundle, tacit_device_wholes_t *wholes_out, void **memory_out)
{
    const tacit_cuda_module_t *module = bundle->codecs[0]->module;
    tacit_device_wholes_t      wholes = {0};
    layout_t                   layout = {.bundle = bundle, .wholes = &wholes};
    tacit_status_t             status = TACIT_OK;
    void                      *memory = NULL;
    size_t                     tables = 0;
    int                        error = 0;

    layout.table = tacit__alloc(bundle->whole_count, sizeof *layout.table);
    if (layout.table != NULL) {
        lay_tables(&layout);
        tables = layout.used;
        lay_workspace(&layout);
        layout.image = tacit__alloc(tables, 1);
    }
    if (layout.image == NULL || (error = module->alloc(&memory, layout.used)) != 0) {
        status = tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors that travel whole", bundle->whole_count);
        goto out;
    }
    layout.memory = memory;
    lay_tables(&layout);
    lay_workspace(&layout);
    error = module->copy(memory, layout.image, tables, NULL);
    error = error == 0 ? module->synchronize() : error;
    if (error != 0) {
        status = tacit__fail(TACIT_ERR_DEVICE, "bundle: its tables: %s (CUDA error %d)", module->error_text(error), error);
        goto out;
    }
    *wholes_out = wholes;
    *memory_out = memory;
    memory = NULL;
out:
    if (memory != NULL) {
        (void)module->free(memory);
    }
    tacit__free(layout.table);
    tacit__free(layout.image);
    return status;
}
