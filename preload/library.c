/* SPDX-License-Identifier: Apache-2.0 */
/* Loads libtacit_mpi into a process that has MPI already. */
#include "library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi_library.h"
#include "next.h"

static pthread_once_t    once = PTHREAD_ONCE_INIT;
static preload_library_t library;
static char              why[256]; /* empty: it is loaded */

/* From the folder that the interposer is in, as in a build; else by name. */
static void *load(const char *name)
{
    char       *path = NULL;
    Dl_info     self;
    const char *slash = dladdr(&once, &self) != 0 ? strrchr(self.dli_fname, '/') : NULL;
    void       *handle = NULL;

    if (slash != NULL && asprintf(&path, "%.*s/%s", (int)(slash - self.dli_fname), self.dli_fname, name) >= 0) {
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        free(path);
    }
    return handle != NULL ? handle : dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

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
    (void)load(TACIT_LIBRARY); /* the next one needs it, and may be where the loader does not look */
    handle = load(name);
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
