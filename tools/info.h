/* SPDX-License-Identifier: Apache-2.0 */
/* What tacit-info prints of several ranks, which needs MPI. */
#ifndef TOOLS_INFO_H
#define TOOLS_INFO_H

#include <stdbool.h>

#include <tacit.h>

#include "options.h"

/* What is to be printed, in this order. */
typedef struct info {
    void (*itself)(void); /* what this Tacit knows, which needs no ranks; NULL: not that */
    bool   topology, plans;
    char **specs; /* of plans, up to NULL; none: some that are usual */
    bool   json;
} info_t;

#if TACIT_HAVE_MPI
/* Whether this process is one of those that mpirun, or another launcher, has started. */
bool is_launched(void);
/* Rank 0 prints. Returns the tool's status. */
int print_ranks(const info_t *info);

/* By rank 0: where all ranks run, in the form that TACIT_TOPOLOGY takes as a file. */
void print_topology(const tacit_comm_t *comm, bool json);
/* By all ranks: what each schedule is predicted to take, and which one tensors get, and why. */
tacit_status_t print_plans(tacit_comm_t *comm, char **specs, bool json);
#else
static inline bool is_launched(void)
{
    return false;
}

static inline int print_ranks(const info_t *info)
{
    return usage_error("%s needs MPI, and this Tacit was configured without one", info->topology ? "--topology" : "--plans");
}
#endif

#endif
