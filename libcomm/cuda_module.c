/* SPDX-License-Identifier: Apache-2.0 */
/* Finds and loads the CUDA module when it is first needed. It is never unloaded: CUDA's runtime does not survive that. */
#include "cuda_module.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_once_t             once = PTHREAD_ONCE_INIT;
static const tacit_cuda_module_t *found;                        /* NULL: there is none … */
static char                       found_text[TACIT_TEXT_BYTES]; /* … and this is why; else what was found */

static _Atomic(const tacit_cuda_module_t *) used;

#if HAVE_CUDA

#define FILE_NAME "libtacit_cuda.so"

typedef const tacit_cuda_module_t *tacit_cuda_module_function_t(uint32_t module_bytes);

/* Where it is, seen from the file that holds this code: the shared library, installed or as it was built; or a program that is
   linked with the static one, installed or as it was built. */
static const char *const neighbours[] = {"tacit/" FILE_NAME, FILE_NAME, "../lib/tacit/" FILE_NAME, "../.libs/" FILE_NAME,
                                         "../../.libs/" FILE_NAME};

/* The file that holds this code. False: unknown. */
static bool find_self(char path[PATH_MAX])
{
    Dl_info self, program;
    ssize_t bytes;

    if (dladdr((const void *)&once, &self) == 0 || self.dli_fname == NULL) {
        return false;
    }
    if (dladdr((const void *)getauxval(AT_ENTRY), &program) == 0 || program.dli_fbase != self.dli_fbase) {
        return snprintf(path, PATH_MAX, "%s", self.dli_fname) < PATH_MAX && strchr(path, '/') != NULL;
    }
    bytes = readlink("/proc/self/exe", path, PATH_MAX - 1); /* of a program only its name may be known */
    path[bytes < 0 ? 0 : bytes] = '\0';
    return bytes > 0;
}

/* Loads a file that is there. On failure the reason is kept, if it is the first one. */
static void *load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL && found_text[0] == '\0') {
        snprintf(found_text, sizeof found_text, "%s", dlerror());
    }
    return library;
}

/* Nobody else than the owner of the file that holds this code, or root, can put a module beside it. */
static void *load_neighbour(const char *self, const char *neighbour)
{
    static char path[PATH_MAX];
    const int   folder_bytes = (int)(strrchr(self, '/') + 1 - self);
    struct stat own, other;

    if (snprintf(path, sizeof path, "%.*s%s", folder_bytes, self, neighbour) >= (int)sizeof path || stat(path, &other) != 0 ||
        stat(self, &own) != 0 || (other.st_uid != own.st_uid && other.st_uid != 0)) {
        return NULL;
    }
    return load(path);
}

static void *load_any(void)
{
    static char self[PATH_MAX];
    void       *library = NULL;

    if (find_self(self)) {
        for (size_t i = 0; i < sizeof neighbours / sizeof *neighbours && library == NULL; i++) {
            library = load_neighbour(self, neighbours[i]);
        }
    }
    if (library == NULL && access(TACIT_MODULE_FOLDER "/" FILE_NAME, F_OK) == 0) {
        library = load(TACIT_MODULE_FOLDER "/" FILE_NAME);
    }
    return library != NULL ? library : load(FILE_NAME);
}

static void find(void)
{
    tacit_cuda_module_function_t *function = NULL;
    const tacit_cuda_module_t    *module;
    void                         *library = load_any();
    int                           error, gpus = 0;
    char                          reason[256];

    if (library == NULL) {
        snprintf(reason, sizeof reason, "%.255s", found_text);
        snprintf(found_text, sizeof found_text,
                 "the CUDA module cannot be loaded (%s); install it in " TACIT_MODULE_FOLDER
                 ", beside libtacit, or where LD_LIBRARY_PATH says",
                 reason);
        return;
    }
    *(void **)&function = dlsym(library, "tacit_cuda_module");
    module = function != NULL ? function(sizeof *module) : NULL;
    if (module == NULL) {
        snprintf(found_text, sizeof found_text,
                 "the CUDA module " FILE_NAME " that was found is of another version; install that of %s", tacit_version());
        return;
    }
    error = module->device_count(&gpus);
    if (error != 0 || gpus == 0) {
        snprintf(found_text, sizeof found_text,
                 "CUDA finds no GPU here (%s); nvidia-smi shows whether there is one, and its driver's version",
                 error != 0 ? module->error_text(error) : "none is visible, see CUDA_VISIBLE_DEVICES");
        return;
    }
    snprintf(found_text, sizeof found_text, "%d GPU%s", gpus, gpus == 1 ? "" : "s");
    found = module;
}

#else

static void find(void)
{
    snprintf(found_text, sizeof found_text,
             "this Tacit was built without CUDA; build it where there is nvcc (configure --with-cuda)");
}

#endif

tacit_status_t tacit__cuda_module(const tacit_cuda_module_t **module_out)
{
    const tacit_cuda_module_t *module = atomic_load(&used);

    if (module == NULL) {
        pthread_once(&once, find);
        module = found;
    }
    if (module == NULL) {
        return tacit__fail(TACIT_ERR_UNSUPPORTED, "%s", found_text);
    }
    *module_out = module;
    return TACIT_OK;
}

tacit_status_t tacit__cuda_summary(const char **summary_out)
{
    const tacit_cuda_module_t *module = NULL;
    tacit_status_t             status = tacit__cuda_module(&module);

    if (status == TACIT_OK) {
        *summary_out = module == found ? found_text : "the module of a test";
    }
    return status;
}

void tacit__cuda_use(const tacit_cuda_module_t *module)
{
    atomic_store(&used, module);
}

void *tacit__cuda_alloc_shared(const tacit_cuda_module_t *module, size_t count, size_t size)
{
    size_t bytes;
    void  *memory = NULL;

    if (module == NULL) {
        return tacit__alloc(count, size);
    }
    if (__builtin_mul_overflow(count, size, &bytes) || module->alloc_shared(&memory, bytes + (bytes == 0)) != 0) {
        return NULL;
    }
    return memory;
}

void tacit__cuda_free_shared(const tacit_cuda_module_t *module, void *memory)
{
    if (module == NULL) {
        tacit__free(memory);
    } else if (memory != NULL) {
        (void)module->free(memory);
    }
}
