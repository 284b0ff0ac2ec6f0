/* SPDX-License-Identifier: Apache-2.0 */
/* Looks names up behind the interposer, also in libraries that were loaded for one other alone. */
#include "next.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_here(void *function)
{
    Dl_info self, other;

    return dladdr((void *)(uintptr_t)preload_find, &self) != 0 && dladdr(function, &other) != 0 &&
           self.dli_fbase == other.dli_fbase;
}

/* What is called of a library outlives the program's dlclose(): it is not unloaded any more. */
static void pin(const void *function)
{
    Dl_info info;

    if (dladdr(function, &info) != 0) {
        (void)dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    }
}

/* Python loads an extension, the extension loads MPI, and neither is in a scope that dlsym() looks through by itself. So all
   libraries are gone through. The first in the list is the program, whose name is empty: its scope is the common one. */
void *preload_find(const char *name)
{
    struct link_map *library = NULL;
    void            *program = dlopen(NULL, RTLD_LAZY), *found = NULL;

    if (program == NULL || dlinfo(program, RTLD_DI_LINKMAP, &library) != 0) {
        return NULL;
    }
    for (; library != NULL && found == NULL; library = library->l_next) {
        void *handle = dlopen(library->l_name[0] != '\0' ? library->l_name : NULL, RTLD_LAZY | RTLD_NOLOAD);

        if (handle != NULL) {
            found = dlsym(handle, name);
            found = found != NULL && !is_here(found) ? found : NULL;
            dlclose(handle);
        }
    }
    dlclose(program);
    return found;
}

/* The library's own name comes first, since another tool may stand before the other one; but not all libraries have it. */
void *preload_next(preload_next_t *next)
{
    void *function = atomic_load_explicit(&next->function, memory_order_acquire);

    if (function == NULL) {
        function = dlsym(RTLD_NEXT, next->name);
        function = function != NULL ? function : preload_find(next->own);
        function = function != NULL ? function : preload_find(next->name);
        if (function != NULL) {
            pin(function);
        } else {
            fprintf(stderr, "tacit: %s is called, but no library has it\n", next->name);
        }
        atomic_store_explicit(&next->function, function, memory_order_release);
    }
    return function;
}

void *preload_load(const char *name)
{
    char       *path = NULL;
    Dl_info     self;
    const char *slash = dladdr((const void *)preload_load, &self) != 0 ? strrchr(self.dli_fname, '/') : NULL;
    void       *handle = NULL;

    if (slash != NULL && asprintf(&path, "%.*s/%s", (int)(slash - self.dli_fname), self.dli_fname, name) >= 0) {
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        free(path);
    }
    return handle != NULL ? handle : dlopen(name, RTLD_NOW | RTLD_LOCAL);
}
