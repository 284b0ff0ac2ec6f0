/* SPDX-License-Identifier: Apache-2.0 */
/* What a program reduces, where, how often and for how long. Knows nothing of any MPI. */
#ifndef PRELOAD_SITES_H
#define PRELOAD_SITES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct preload_group {
    unsigned    number; /* in the order in which this rank met communicators, from 1 on */
    int         ranks;  /* of an intercommunicator, in this rank's own group */
    const char *name;   /* "world", "self", or NULL */
    bool        inter;
    bool        whole; /* the ranks of MPI_COMM_WORLD, in its order */
    void       *plan;  /* policy.h */
} preload_group_t;

/* Calls that are alike in this are one site. */
typedef struct preload_key {
    const char      *function, *op; /* compared as pointers */
    preload_group_t *group;
    uint64_t         count;
    size_t           type_bytes;
    char             type[32];
} preload_key_t;

typedef struct preload_site {
    preload_key_t       key;
    size_t              number; /* 1 for the first one */
    _Atomic uint64_t    calls, nanoseconds;
    _Atomic uint64_t    behind;          /* nanoseconds of small calls each of which came next after one of these */
    const char *_Atomic spec;            /* by which calls were taken; NULL: none were */
    _Atomic uint64_t    taken;           /* of the calls */
    _Atomic uint64_t    slots;           /* that were made for them */
    _Atomic uint64_t    timed, captured; /* of NCCL's calls: whose time is known; which are part of a graph */
    double              kept;            /* square of the norm of what they kept back in the end; under a lock of policy.c */
} preload_site_t;

/* The site of a key, made where there is none; NULL: there is no memory for it, or there are too many. From any thread; it lives
   until the process ends. */
preload_site_t *preload_site(const preload_key_t *key);
/* In the order in which they were met. NULL past the last. */
preload_site_t *preload_site_at(size_t index);

#endif
