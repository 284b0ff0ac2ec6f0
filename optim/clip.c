/* SPDX-License-Identifier: Apache-2.0 */
/* Clipping of a rank's own gradients by a threshold that is meant for the reduced one. */
#include <math.h>

#include "tacit_optim.h"

double tacit_clip_factor(double norm, double threshold, int ranks, tacit_clip_t convention)
{
    const double own = convention == TACIT_CLIP_SUM ? threshold / sqrt(ranks) : threshold * sqrt(ranks);
    const double factor = own / (norm + 1e-6);

    return factor < 1 ? factor : 1;
}
