/* SPDX-License-Identifier: Apache-2.0 */
/* A library with a function that another one has, too, and which it passes calls on to: of preload_nccl.sh. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

__attribute__((visibility("default"))) int asks_next(void);
__attribute__((visibility("default"))) int ncclGetVersion(int *version);

int ncclGetVersion(int *version)
{
    (void)version;
    return -1;
}

/* Not its own. */
int asks_next(void)
{
    int version = 0;
    int (*next)(int *) = NULL;

    *(void **)&next = dlsym(RTLD_NEXT, "ncclGetVersion");
    return next != NULL && next != ncclGetVersion && next(&version) == 0 && version > 20000;
}
