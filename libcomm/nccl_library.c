/* SPDX-License-Identifier: Apache-2.0 */
/* Finds NCCL and its functions. It is never unloaded: communicators have threads of their own. */
#include "nccl_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

static pthread_once_t       once = PTHREAD_ONCE_INIT;
static tacit_nccl_library_t found;
static tacit_status_t       found_status;
static char                 found_text[TACIT_TEXT_BYTES]; /* where there is none: why */

/* A communicator of the caller's belongs to the NCCL that is loaded, which may be part of the program. What is looked for is a
   name that no interposer has. */
static void *load(const char *name)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);

    if (library == NULL && dlsym(RTLD_DEFAULT, "ncclGetVersion") != NULL) {
        library = dlopen(NULL, RTLD_NOW);
    }
    return library != NULL ? library : dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

/* Where a function lies, for messages. */
static const char *file_of(const tacit_nccl_library_t *library, const char *name)
{
    Dl_info     info;
    const void *at = *(void *const *)&library->get_version;

    return at != NULL && dladdr(at, &info) != 0 && info.dli_fname != NULL ? info.dli_fname : name;
}

tacit_status_t tacit__nccl_open(const char *name, tacit_nccl_library_t *library_out)
{
    static const char *const symbols[] = {
#define SYMBOL(field, symbol, result, arguments) symbol,
        TACIT_NCCL_FUNCTIONS(SYMBOL)
#undef SYMBOL
    };
    tacit_nccl_library_t library = {0};
    void *const          addresses[] = {
#define ADDRESS(field, symbol, result, arguments) &library.field,
        TACIT_NCCL_FUNCTIONS(ADDRESS)
#undef ADDRESS
    };
    const char *missing = NULL;
    void       *handle = load(name);
    int         version = 0;

    if (handle == NULL) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED,
                           "NCCL cannot be loaded (%.200s); install it (libnccl2, or nvidia-nccl for Python), or name its folder "
                           "in LD_LIBRARY_PATH",
                           dlerror());
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        *(void **)addresses[i] = dlsym(handle, symbols[i]);
        missing = missing == NULL && *(void **)addresses[i] == NULL ? symbols[i] : missing;
    }
    if (library.get_version == NULL || library.get_version(&version) != TACIT_NCCL_SUCCESS || version < TACIT_NCCL_OLDEST) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED,
                           "the NCCL that was found, %.200s, is of version %d.%d.%d; install 2.18 or later, and see that it is "
                           "found first (LD_LIBRARY_PATH)",
                           file_of(&library, name), version / 10000, version / 100 % 100, version % 100);
    }
    if (missing != NULL) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED, "the NCCL that was found, %.200s, lacks %s, which version %d should have",
                           file_of(&library, name), missing, version);
    }
    library.version = version;
    *library_out = library;
    tacit__log(TACIT_LOG_INFO, TACIT_NO_RANK, "NCCL: version %d, %s", version, file_of(&library, name));
    return TACIT_OK;
}

#if HAVE_NCCL

static void find(void)
{
    found_status = tacit__nccl_open("libnccl.so.2", &found);
    snprintf(found_text, sizeof found_text, "%s", tacit_last_error());
}

#else

static void find(void)
{
    found_status = TACIT_ERR_UNSUPPORTED;
    snprintf(found_text, sizeof found_text, "this Tacit was built without NCCL (configure --without-nccl)");
}

#endif

tacit_status_t tacit__nccl_library(const tacit_nccl_library_t **library_out)
{
    pthread_once(&once, find);
    if (found_status != TACIT_OK) {
        return tacit__fail(found_status, "%s", found_text);
    }
    *library_out = &found;
    return TACIT_OK;
}

tacit_status_t tacit_nccl_version(int *version_out)
{
    const tacit_nccl_library_t *library = NULL;
    tacit_status_t              status = tacit__nccl_library(&library);

    if (version_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "tacit_nccl_version(): version_out must be given");
    }
    if (status == TACIT_OK) {
        *version_out = library->version;
    }
    return status;
}
