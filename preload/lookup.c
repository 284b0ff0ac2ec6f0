/* SPDX-License-Identifier: Apache-2.0 */
/* dlsym(), for programs that load NCCL and look its functions up by a handle, as Python does: that finds the library's own, not
   those of the interposer, which stand before them only where names are looked for in all that is loaded. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

#include "nccl_calls.h"

typedef void *find_t(void *handle, const char *name);

/* Another tool's, or the C library's own, which has a version; which one depends on its age and the machine. The oldest comes
   first, since newer ones have it, too: to look in vain takes memory, and whoever stands in for malloc() may be asking. No
   function of threads is called: sanitizers stand in for these, and look them up here. */
static find_t *find_next(void)
{
    static const char *const versions[] = {
#ifdef __x86_64__
        "GLIBC_2.2.5",
#endif
        "GLIBC_2.17", "GLIBC_2.34"};
    static find_t *_Atomic found;
    find_t                *find = atomic_load_explicit(&found, memory_order_relaxed);

    for (size_t i = 0; i < sizeof versions / sizeof *versions && find == NULL; i++) {
        *(void **)&find = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
        atomic_store_explicit(&found, find, memory_order_relaxed);
    }
    return find;
}

static const void *library_of(const void *function)
{
    Dl_info info;

    return function != NULL && dladdr(function, &info) != 0 ? info.dli_fbase : NULL;
}

/* Tacit's own calls are not the program's. */
static bool is_tacit(const void *caller)
{
    Dl_info     info;
    const char *slash, *name;

    if (dladdr(caller, &info) == 0 || info.dli_fname == NULL) {
        return false;
    }
    slash = strrchr(info.dli_fname, '/');
    name = slash != NULL ? slash + 1 : info.dli_fname;
    return strncmp(name, "libtacit", 8) == 0;
}

/* What takes the place of the function that was found, unless it is one of another NCCL than the interposer's calls lead to. */
static void *replace(const char *name, void *own, const void *caller)
{
    const preload_name_t *known = NULL;

    for (size_t i = 0; own != NULL && preload_names[i].next != NULL && known == NULL; i++) {
        known = strcmp(preload_names[i].next->name, name) == 0 ? &preload_names[i] : NULL;
    }
    if (known == NULL || is_tacit(caller)) {
        return own;
    }
    own = library_of(own) == library_of(preload_next(known->next)) ? known->function : own;
    (void)dlerror(); /* what was looked for in vain on the way is not the caller's */
    return own;
}

/* All else goes on by a jump, without a frame of its own: what RTLD_NEXT and RTLD_DEFAULT stand for depends on where the call
   returns to. */
#ifdef __clang__
#define JUMP __attribute__((musttail)) return
#define JUMPS
#else
#define JUMP return
#define JUMPS __attribute__((optimize("O2")))
#endif

PRELOAD_API void *dlsym(void *restrict handle, const char *restrict name);

JUMPS void *dlsym(void *restrict handle, const char *restrict name)
{
    find_t *find = find_next();

    if (handle == RTLD_NEXT || handle == RTLD_DEFAULT || strncmp(name, "nccl", 4) != 0) {
        JUMP find(handle, name);
    }
    return replace(name, find(handle, name), __builtin_return_address(0));
}
