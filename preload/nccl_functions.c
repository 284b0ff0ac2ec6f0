/* SPDX-License-Identifier: Apache-2.0 */
/* Finds NCCL's functions in one library, since a process may have several. */
#include "nccl_functions.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "next.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool           found;
static preload_nccl_t nccl;

/* Another tool's library has some of the functions, perhaps; NCCL has the others. */
static void *find_in(void *library, const char *name)
{
    void *function = library != NULL ? dlsym(library, name) : NULL;

    return function != NULL ? function : preload_find(name);
}

static void find(void)
{
    preload_next_t next = {.name = "ncclAllReduce", .own = "pncclAllReduce"};
    const void    *function = preload_next(&next);
    Dl_info        info;
    void          *library = NULL;

    if (function != NULL && dladdr(function, &info) != 0) {
        library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    }
    found = true;
#define FIND(field, name, arguments)                                                                                             \
    *(void **)&nccl.field = find_in(library, name);                                                                              \
    found = found && nccl.field != NULL;
    PRELOAD_NCCL_FUNCTIONS(FIND)
#undef FIND
    if (!found) {
        fprintf(stderr, "tacit: this program's NCCL lacks functions that it should have: nothing is counted\n");
    }
}

const preload_nccl_t *preload_nccl(void)
{
    pthread_once(&once, find);
    return found ? &nccl : NULL;
}
