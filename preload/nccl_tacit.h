/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit itself, libtacit, which is loaded when it is first needed. */
#ifndef PRELOAD_NCCL_TACIT_H
#define PRELOAD_NCCL_TACIT_H

#include <tacit_nccl.h>

#define PRELOAD_TACIT_FUNCTIONS(X)                                                                                               \
    X(codec_create)                                                                                                              \
    X(codec_destroy)                                                                                                             \
    X(codec_reset)                                                                                                               \
    X(last_error)                                                                                                                \
    X(module)                                                                                                                    \
    X(nccl_abort)                                                                                                                \
    X(nccl_create_from_id)                                                                                                       \
    X(nccl_destroy)                                                                                                              \
    X(nccl_group_create)                                                                                                         \
    X(nccl_group_create_reduce_scatter)                                                                                          \
    X(nccl_group_destroy)                                                                                                        \
    X(nccl_group_poll)                                                                                                           \
    X(nccl_group_run)                                                                                                            \
    X(nccl_set_timeout)                                                                                                          \
    X(nccl_unique_id)                                                                                                            \
    X(nccl_version)

typedef struct preload_tacit {
#define PRELOAD_TACIT_FUNCTION(name) __typeof__(&tacit_##name) name;
    PRELOAD_TACIT_FUNCTIONS(PRELOAD_TACIT_FUNCTION)
#undef PRELOAD_TACIT_FUNCTION
} preload_tacit_t;

/* NULL: it cannot be loaded, or finds no GPU or no NCCL, and *why_out says why. */
const preload_tacit_t *preload_tacit(const char **why_out);

#endif
