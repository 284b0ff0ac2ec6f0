/* SPDX-License-Identifier: Apache-2.0 */
/* A bundle's tensors of two rounds, on a GPU: how matrices are divided among blocks of threads, and the memory that kernels work
   in. Both are made once. */
#include "bundle.h"

#include <string.h>

typedef struct layout {
    tacit_layout_t           room;
    const tacit_bundle_t    *bundle;
    tacit_device_matrices_t *matrices;
    tacit_device_matrix_t   *table;
    uint64_t                 p, q, p_sums, q_sums; /* numbers of all matrices */
} layout_t;

/* ---- Matrices ---- */

/* The least power of two of patches that have `total` rows or columns, or all that a block has. */
static uint32_t patches_for(size_t total, size_t each)
{
    uint32_t patches = 1;

    while (patches < TACIT_PATCHES && patches * each < total) {
        patches *= 2;
    }
    return patches;
}

static uint32_t quotient_up(size_t total, size_t step)
{
    return (uint32_t)((total + step - 1) / step);
}

/* Rows of a block of threads, or columns. */
static size_t rows_of(uint32_t across, uint32_t below)
{
    return (size_t)TACIT_PATCH_ROWS * (TACIT_PATCHES / across) * below;
}

static size_t columns_of(uint32_t across)
{
    return (size_t)TACIT_PATCH_COLUMNS * across;
}

/* A block's sums are of as many columns, or rows, as it can have; where there are many vectors, of so many more rows that they
   take an eighth of the matrix. */
static tacit_device_matrix_t matrix_of(layout_t *layout, size_t w)
{
    const tacit_whole_t *whole = &layout->bundle->wholes[w];
    const tacit_codec_t *codec = layout->bundle->codecs[whole->codec];
    const size_t         rows = codec->tensor.shape[0], columns = codec->tensor.count / rows;
    const size_t         rank = whole->first_bytes / sizeof(float) / rows, sixteenths = (rank + 15) / 16;

    tacit_device_matrix_t matrix = {.tensor = (uint32_t)whole->codec,
                                    .whole = (uint32_t)w,
                                    .rows = (uint32_t)rows,
                                    .columns = (uint32_t)columns,
                                    .rank = (uint32_t)rank,
                                    .p_across = patches_for(columns, TACIT_PATCH_COLUMNS),
                                    .q_across = TACIT_PATCHES / patches_for(rows, TACIT_PATCH_ROWS),
                                    .q_below = (uint32_t)sixteenths,
                                    .at = whole->first_at,
                                    .p = layout->p,
                                    .q = layout->q,
                                    .p_sums = layout->p_sums,
                                    .q_sums = layout->q_sums,
                                    .work = codec->work};

    matrix.strips = quotient_up(columns, columns_of(matrix.p_across));
    matrix.bands = quotient_up(rows, rows_of(matrix.q_across, matrix.q_below));
    layout->p += tacit__round_up(rank * rows, TACIT_BUNDLE_ALIGN);
    layout->q += tacit__round_up(rank * columns, TACIT_BUNDLE_ALIGN);
    layout->p_sums += (uint64_t)matrix.strips * rank * rows;
    layout->q_sums += (uint64_t)matrix.bands * rank * columns;
    return matrix;
}

static void lay_matrices(layout_t *layout)
{
    tacit_device_matrices_t *matrices = layout->matrices;

    layout->p = layout->q = layout->p_sums = layout->q_sums = 0;
    matrices->count = 0;
    for (size_t w = 0; w < layout->bundle->whole_count; w++) {
        if (layout->bundle->wholes[w].first_bytes != 0) {
            layout->table[matrices->count++] = matrix_of(layout, w);
        }
    }
    if (layout->room.image != NULL) {
        memcpy(tacit__layout_image(&layout->room), layout->table, matrices->count * sizeof *layout->table);
    }
    matrices->matrices = tacit__layout_take(&layout->room, matrices->count * sizeof *layout->table);
}

/* Patches for P, side by side first; or for Q, one below the other. Returns how many blocks have some. */
static uint32_t lay_patches(layout_t *layout, bool is_q, const tacit_device_patches_t **device_out)
{
    tacit_device_patches_t *patches = tacit__layout_image(&layout->room);
    uint32_t                count = 0;

    for (uint32_t m = 0; m < layout->matrices->count; m++) {
        const tacit_device_matrix_t *matrix = &layout->table[m];
        const uint32_t               across = is_q ? matrix->q_across : matrix->p_across;
        const size_t                 height = rows_of(across, is_q ? matrix->q_below : 1), width = columns_of(across);

        for (size_t row = 0; row < matrix->rows; row += height) {
            for (size_t column = 0; column < matrix->columns; column += width, count++) {
                if (patches != NULL) {
                    patches[count] = (tacit_device_patches_t){m, (uint32_t)row, (uint32_t)column,
                                                              (uint32_t)(is_q ? row / height : column / width)};
                }
            }
        }
    }
    *device_out = tacit__layout_take(&layout->room, count * sizeof *patches);
    return count;
}

static size_t ranks_of(const tacit_device_matrix_t *matrix)
{
    return matrix->rank;
}

static size_t p_count(const tacit_device_matrix_t *matrix)
{
    return (size_t)matrix->rank * matrix->rows;
}

static size_t q_count(const tacit_device_matrix_t *matrix)
{
    return (size_t)matrix->rank * matrix->columns;
}

static uint32_t lay_extents(layout_t *layout, size_t (*total)(const tacit_device_matrix_t *matrix), size_t step,
                            const tacit_device_extent_t **device_out)
{
    tacit_device_extent_t *extents = tacit__layout_image(&layout->room);
    uint32_t               count = 0;

    for (uint32_t m = 0; m < layout->matrices->count; m++) {
        const size_t all = total(&layout->table[m]);

        for (size_t first = 0; first < all; first += step, count++) {
            if (extents != NULL) {
                extents[count] = (tacit_device_extent_t){m, (uint32_t)tacit__min(step, all - first), first};
            }
        }
    }
    *device_out = tacit__layout_take(&layout->room, count * sizeof *extents);
    return count;
}

static void lay_tables(void *owner)
{
    layout_t                *layout = owner;
    tacit_device_matrices_t *matrices = layout->matrices;

    lay_matrices(layout);
    matrices->p_patch_count = lay_patches(layout, false, &matrices->p_patches);
    matrices->q_patch_count = lay_patches(layout, true, &matrices->q_patches);
    matrices->vector_count = lay_extents(layout, ranks_of, 1, &matrices->vectors);
    matrices->p_chunk_count = lay_extents(layout, p_count, TACIT_FACTOR_CHUNK, &matrices->p_chunks);
    matrices->q_chunk_count = lay_extents(layout, q_count, TACIT_FACTOR_CHUNK, &matrices->q_chunks);
}

/* What kernels write before they read it. */
static void lay_workspace(void *owner)
{
    layout_t                *layout = owner;
    tacit_device_matrices_t *matrices = layout->matrices;

    matrices->begun = tacit__layout_take(&layout->room, layout->q * sizeof(float));
    matrices->own_p = tacit__layout_take(&layout->room, layout->p * sizeof(float));
    matrices->own_q = tacit__layout_take(&layout->room, layout->q * sizeof(float));
    matrices->p = tacit__layout_take(&layout->room, layout->p * sizeof(float));
    matrices->q = tacit__layout_take(&layout->room, layout->q * sizeof(float));
    matrices->p_sums = tacit__layout_take(&layout->room, layout->p_sums * sizeof(float));
    matrices->q_sums = tacit__layout_take(&layout->room, layout->q_sums * sizeof(float));
}

tacit_status_t tacit__matrices_device_create(const tacit_bundle_t *bundle, tacit_device_matrices_t *matrices_out,
                                             void **memory_out)
{
    tacit_device_matrices_t matrices = {0};
    layout_t                layout = {.bundle = bundle, .matrices = &matrices};
    tacit_status_t          status;

    if (bundle->first_bytes == 0) {
        return TACIT_OK;
    }
    layout.table = tacit__alloc(bundle->whole_count, sizeof *layout.table);
    if (layout.table == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors", bundle->whole_count);
    }
    TRY(tacit__layout_create(bundle, &layout.room, lay_tables, lay_workspace, &layout, memory_out));
    *matrices_out = matrices;
out:
    tacit__free(layout.table);
    return status;
}
