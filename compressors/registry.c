/* SPDX-License-Identifier: Apache-2.0 */
/* Every compressor of the build. compressors.def is made from the list of sources: one TACIT_MODULE(name) a line. */
#include "compressor.h"
#include "isa.h"

#include <string.h>

#define TACIT_MODULE(name) extern const tacit_compressor_t tacit__compressor_##name;
#include "compressors.def"
#undef TACIT_MODULE

static const tacit_compressor_t *const compressors[] = {
#define TACIT_MODULE(name) &tacit__compressor_##name,
#include "compressors.def"
#undef TACIT_MODULE
};

const tacit_compressor_t *tacit__compressor_at(size_t index)
{
    return index < sizeof compressors / sizeof *compressors ? compressors[index] : NULL;
}

const tacit_compressor_t *tacit__compressor_named(const char *name)
{
    for (size_t i = 0; i < sizeof compressors / sizeof *compressors; i++) {
        if (strcmp(compressors[i]->name, name) == 0) {
            return compressors[i];
        }
    }
    return NULL;
}

const tacit_compressor_t *tacit__compressor_wire(uint8_t wire_id)
{
    for (size_t i = 0; i < sizeof compressors / sizeof *compressors; i++) {
        if (compressors[i]->wire_id == wire_id) {
            return compressors[i];
        }
    }
    return NULL;
}

const tacit_kernels_t *tacit__compressor_kernels(const tacit_compressor_t *compressor)
{
    /* Entries of another processor's instructions are empty, so that walking over them is harmless. */
    for (int isa = (int)tacit__isa(); isa > TACIT_ISA_SCALAR; isa--) {
        if (compressor->kernels[isa]) {
            return compressor->kernels[isa];
        }
    }
    return compressor->kernels[TACIT_ISA_SCALAR];
}
