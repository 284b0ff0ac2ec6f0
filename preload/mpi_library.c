/* SPDX-License-Identifier: Apache-2.0 */
/* Tells which MPI the process has, by the symbols that only one has. */
#include "mpi_library.h"

#include <pthread.h>
#include <stdio.h>

#include "next.h"

static const preload_mpi_t *const shims[] = {
    &preload_shim,
#if TACIT_HAVE_MPICH
    &preload_shim_mpich,
#endif
};

static pthread_once_t       once = PTHREAD_ONCE_INIT;
static const preload_mpi_t *mpi;

/* MPI 5 has handles of its own, which the same libraries offer beside theirs. */
static bool is_standard(void)
{
    int (*version)(int *major, int *minor);
    int major = 0, minor = 0;

    *(void **)&version = preload_find("MPI_Abi_get_version");
    return version != NULL && version(&major, &minor) == 0 && major > 0;
}

static void find(void)
{
    const bool standard = is_standard();

    for (size_t i = 0; i < sizeof shims / sizeof *shims && !standard; i++) {
        if (preload_find(shims[i]->sign) == NULL) {
            continue;
        }
        if (shims[i]->find()) {
            mpi = shims[i];
        } else {
            fprintf(stderr, "tacit: this program's MPI lacks functions of MPI 3.0: nothing is counted\n");
        }
        return;
    }
    fprintf(stderr,
            "tacit: this program has another MPI than this Tacit was built for (" TACIT_RUN_MPIS "): nothing is counted\n");
}

const preload_mpi_t *preload_mpi(void)
{
    pthread_once(&once, find);
    return mpi;
}
