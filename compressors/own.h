/* SPDX-License-Identifier: Apache-2.0 */
/* The parameter `own` of lossy blockwise compressors. It is the first member of their configuration, so that one accessor
   serves them all. */
#ifndef TACIT_OWN_H
#define TACIT_OWN_H

#include "compressor.h"

#include <string.h>

typedef enum { TACIT_OWN_EXACT, TACIT_OWN_CODED } tacit_own_t;

#define TACIT_PARAM_OWN                                                                                                          \
    {                                                                                                                            \
        .key = "own", .type = TACIT_PARAM_WORD, .offset = 0, .initial = TACIT_OWN_EXACT, .words = "exact coded", .unit = "",     \
        .help = "Whether the owner of a part adds its own contribution exactly, or encoded as it arrives from other ranks."      \
    }

static inline bool tacit__own_coded(const void *config)
{
    int own;

    memcpy(&own, config, sizeof own);
    return own == TACIT_OWN_CODED;
}

#endif
