/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit itself, the libtacit_mpi that is linked with the process's MPI, which is loaded when it is first needed. */
#ifndef PRELOAD_LIBRARY_H
#define PRELOAD_LIBRARY_H

#include <stdint.h>
#include <tacit.h>

/* As in tacit_mpi.h, with any MPI's handle. */
tacit_status_t tacit_comm_create_mpi(uintptr_t comm, const tacit_config_t *config, tacit_comm_t **comm_out);

#define PRELOAD_LIBRARY_FUNCTIONS(X)                                                                                             \
    X(allreduce)                                                                                                                 \
    X(comm_create_mpi)                                                                                                           \
    X(comm_destroy)                                                                                                              \
    X(last_error)                                                                                                                \
    X(slot_create)                                                                                                               \
    X(slot_destroy)                                                                                                              \
    X(slot_norms)                                                                                                                \
    X(slot_set_spec)

typedef struct preload_library {
#define PRELOAD_LIBRARY_FUNCTION(name) __typeof__(&tacit_##name) name;
    PRELOAD_LIBRARY_FUNCTIONS(PRELOAD_LIBRARY_FUNCTION)
#undef PRELOAD_LIBRARY_FUNCTION
} preload_library_t;

/* NULL: it cannot be loaded, and *why_out says why. */
const preload_library_t *preload_library(const char **why_out);

#endif
