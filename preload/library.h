/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit itself, libtacit_mpi, which is loaded when it is first needed. */
#ifndef PRELOAD_LIBRARY_H
#define PRELOAD_LIBRARY_H

#include <tacit_mpi.h>

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
