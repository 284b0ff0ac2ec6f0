/* SPDX-License-Identifier: Apache-2.0 */
/* Which vector instructions run here: the best of what the processor has and what TACIT_ISA allows. */
#ifndef TACIT_ISA_H
#define TACIT_ISA_H

#include "compressor.h"

/* Decided at the first call and then fixed. TACIT_ISA=scalar|avx2|avx512|neon lowers it; a word unknown or not to be had here
   leaves the best. Thread-safe. */
tacit_isa_t tacit__isa(void);
const char *tacit__isa_name(tacit_isa_t isa);

#endif
