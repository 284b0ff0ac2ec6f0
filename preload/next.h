/* SPDX-License-Identifier: Apache-2.0 */
/* What a name of MPI's stands for behind the interposer: another tool's function, or MPI's own. */
#ifndef PRELOAD_NEXT_H
#define PRELOAD_NEXT_H

#include <stdatomic.h>

typedef struct preload_next {
    const char   *name, *own; /* "MPI_Allreduce", "PMPI_Allreduce" */
    void *_Atomic function;   /* NULL: not looked for yet */
} preload_next_t;

/* What a function returns that no MPI is there for. */
enum { PRELOAD_NO_MPI = 1 };

/* NULL where there is none, which is said. */
void *preload_next(preload_next_t *next);
/* The address of a name in any other library that the process has loaded; NULL: nowhere. */
void *preload_find(const char *name);
/* Loads a library from the folder that the interposer is in, as in a build; else by name. NULL: dlerror() says why not. */
void *preload_load(const char *name);

#endif
