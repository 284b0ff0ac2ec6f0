/* SPDX-License-Identifier: Apache-2.0 */
/* Loads libtacit, which finds the NCCL that the process has. */
#include "nccl_tacit.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "next.h"

static pthread_once_t  once = PTHREAD_ONCE_INIT;
static preload_tacit_t library;
static char            why[512]; /* empty: it is loaded */

static void find(void)
{
    void          *handle = preload_load(TACIT_LIBRARY);
    tacit_module_t gpu;
    int            version;

    if (handle == NULL) {
        snprintf(why, sizeof why, "%s cannot be loaded: %s", TACIT_LIBRARY, dlerror());
        return;
    }
#define FIND(name)                                                                                                               \
    *(void **)&library.name = dlsym(handle, "tacit_" #name);                                                                     \
    if (library.name == NULL) {                                                                                                  \
        snprintf(why, sizeof why, "%s has no tacit_%s", TACIT_LIBRARY, #name);                                                   \
        return;                                                                                                                  \
    }
    PRELOAD_TACIT_FUNCTIONS(FIND)
#undef FIND
    if (library.nccl_version(&version) != TACIT_OK || library.module(TACIT_DEVICES, TACIT_CUDA, &gpu) != TACIT_OK) {
        snprintf(why, sizeof why, "%s", library.last_error());
    }
}

const preload_tacit_t *preload_tacit(const char **why_out)
{
    pthread_once(&once, find);
    *why_out = why;
    return why[0] == '\0' ? &library : NULL;
}
