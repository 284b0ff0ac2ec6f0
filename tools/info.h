/* SPDX-License-Identifier: Apache-2.0 */
/* What tacit-info prints of several ranks, which needs MPI. */
#ifndef TOOLS_INFO_H
#define TOOLS_INFO_H

#include <stdbool.h>

#include "options.h"

/* tacit-info --topology: where all ranks run, in the form that TACIT_TOPOLOGY takes as a file. Returns the tool's status. */
#if TACIT_HAVE_MPI
int print_topology(bool json);
#else
static inline int print_topology(bool json)
{
    (void)json;
    return usage_error("--topology needs MPI, and this Tacit was configured without one");
}
#endif

#endif
