/* SPDX-License-Identifier: Apache-2.0 */
/* Loads libtacit_mpi into a process that has MPI already. */
#include "library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "mpi_library.h"
#include "next.h"

static pthread_once_t    once = PTHREAD_ONCE_INIT;
static preload_library_t library;
static char              why[256]; /* empty: it is loaded */

/* libtacit_mpi finds what it needs of MPI among what all libraries see. There MPI is, unless it was loaded for one alone. */
static void show_mpi(void)
{
    Dl_info mpi;

    if (dladdr(preload_find("MPI_Init"), &mpi) != 0) {
        (void)dlopen(mpi.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_GLOBAL);
    }
}

static void find(void)
{
    const char *name = preload_mpi()->library;
    void       *handle;

    show_mpi();
    (void)preload_load(TACIT_LIBRARY); /* the next one needs it, and may be where the loader does not look */
    handle = preload_load(name);
    if (handle == NULL) {
        snprintf(why, sizeof why, "%s cannot be loaded: %s", name, dlerror());
        return;
    }
#define PRELOAD_LIBRARY_FUNCTION(function)                                                                                       \
    *(void **)&library.function = dlsym(handle, "tacit_" #function);                                                             \
    if (library.function == NULL) {                                                                                              \
        snprintf(why, sizeof why, "%s has no tacit_%s", name, #function);                                                        \
        return;                                                                                                                  \
    }
    PRELOAD_LIBRARY_FUNCTIONS(PRELOAD_LIBRARY_FUNCTION)
#undef PRELOAD_LIBRARY_FUNCTION
}

const preload_library_t *preload_library(const char **why_out)
{
    pthread_once(&once, find);
    *why_out = why;
    return why[0] == '\0' ? &library : NULL;
}
