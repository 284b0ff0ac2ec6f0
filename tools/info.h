/* SPDX-License-Identifier: Apache-2.0 */
/* What tacit-info prints of several ranks, which needs MPI. */
#ifndef TOOLS_INFO_H
#define TOOLS_INFO_H

#include <stdbool.h>
#include <stddef.h>

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

/* tacit-info --plans: what each schedule is predicted to take with these specs, or with some where there are none, and which one
   tensors get. Returns the tool's status. */
#if TACIT_HAVE_MPI
int print_plans(char **specs, size_t count);
#else
static inline int print_plans(char **specs, size_t count)
{
    (void)specs;
    (void)count;
    return usage_error("--plans needs MPI, and this Tacit was configured without one");
}
#endif

#endif
