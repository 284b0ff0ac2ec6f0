/* SPDX-License-Identifier: Apache-2.0 */
/* How the density falls to its final value while training warms up. */
#include <math.h>

#include "tacit_optim.h"

double tacit_warmup_density(tacit_warmup_t warmup, const double *list, size_t entries, uint64_t entry_steps, double final,
                            uint64_t step)
{
    const uint64_t entry = entry_steps != 0 ? step / entry_steps : UINT64_MAX;
    double         density = final;

    if (entry >= entries) {
        return final;
    }
    if (list != NULL) {
        return list[entry];
    }
    if (warmup == TACIT_WARMUP_PAPER) {
        density = pow(0.25, (double)(entry + 1));
    } else if (warmup == TACIT_WARMUP_REFERENCE) {
        density = pow(final, (double)(entry + 1) / (double)(entries + 1));
    }
    return fmax(density, final);
}
