/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a GPU that a bundle's kernels work in: tables first, which are laid out twice, then the rest. */
#include "bundle.h"

void *tacit__layout_take(tacit_layout_t *layout, size_t bytes)
{
    void *at = layout->memory != NULL ? layout->memory + layout->used : NULL;

    layout->used += tacit__round_up(bytes, 64);
    return at;
}

void *tacit__layout_image(const tacit_layout_t *layout)
{
    return layout->image != NULL ? layout->image + layout->used : NULL;
}

/* Returns the bytes of the tables. */
static size_t lay(tacit_layout_t *layout, void (*lay_tables)(void *owner), void (*lay_workspace)(void *owner), void *owner)
{
    size_t tables;

    layout->used = 0;
    lay_tables(owner);
    tables = layout->used;
    lay_workspace(owner);
    return tables;
}

tacit_status_t tacit__layout_create(const tacit_bundle_t *bundle, tacit_layout_t *layout, void (*lay_tables)(void *owner),
                                    void (*lay_workspace)(void *owner), void *owner, void **memory_out)
{
    const tacit_cuda_module_t *module = bundle->codecs[0]->module;
    const size_t               tables = lay(layout, lay_tables, lay_workspace, owner);
    void                      *memory = NULL;
    tacit_status_t             status = TACIT_OK;
    int                        error;

    layout->image = tacit__alloc(tables, 1);
    if (layout->image == NULL || module->alloc(&memory, layout->used) != 0) {
        status = tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors that travel whole", bundle->whole_count);
        goto out;
    }
    layout->memory = memory;
    (void)lay(layout, lay_tables, lay_workspace, owner);
    error = module->copy(memory, layout->image, tables, NULL);
    error = error == 0 ? module->synchronize() : error;
    if (error != 0) {
        status = tacit__fail(TACIT_ERR_DEVICE, "bundle: its tables: %s (CUDA error %d)", module->error_text(error), error);
        goto out;
    }
    *memory_out = memory;
    memory = NULL;
out:
    if (memory != NULL) {
        (void)module->free(memory);
    }
    tacit__free(layout->image);
    return status;
}
