/* SPDX-License-Identifier: Apache-2.0 */
/* The emulated module with copies that take their time: what goes to or from memory of the host that a GPU may copy is copied
   late, when somebody asks for it or another stream follows, and until then it is spoilt. So whoever does not wait is found out.
   Counts allocations, and fails where it is told to. Kernels run at once; those that work on rows of tokens come after the copies
   of their stream, and are counted, with whether somebody has waited for them. */
#ifndef TACIT_TEST_DEFERRED_H
#define TACIT_TEST_DEFERRED_H

#include "cuda_module.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const tacit_cuda_module_t *tacit_cuda_module(uint32_t module_bytes);

enum { MOST_COPIES = 4096, MOST_REGIONS = 256 };

typedef struct copy {
    void       *stream, *to;
    const void *from;
    size_t      bytes;
    bool        done;
} copy_t;

typedef struct event {
    void  *stream;
    size_t copies, launches; /* of all streams, when it was recorded */
} event_t;

static const tacit_cuda_module_t *eager;
static pthread_mutex_t            deferred_lock = PTHREAD_MUTEX_INITIALIZER;
static copy_t                     copies[MOST_COPIES];
static size_t                     copy_count;
static struct region {
    uint8_t *at;
    size_t   bytes;
} regions[MOST_REGIONS];

/* What tests look at, and set. */
static size_t allocations;       /* of the GPU's memory, … */
static size_t host_allocations;  /* … and of the host's that it copies to */
static size_t waits;             /* for all that a GPU does */
static bool   stuck;             /* no event is reached */
static int    end_fails;         /* so many launches of end() fail, on rank 1 */
static size_t launches, awaited; /* of kernels of rows, and of copies */
static size_t bytes_to_host;     /* that were copied there */
static void  *only_stream;       /* not NULL: … */
static size_t strays;            /* … copies and launches of rows on another one */

static int note_host(void **memory_out, size_t bytes)
{
    const int error = eager->alloc_host(memory_out, bytes);
    size_t    i = 0;

    pthread_mutex_lock(&deferred_lock);
    host_allocations++;
    while (i < MOST_REGIONS - 1 && regions[i].at != NULL) {
        i++;
    }
    regions[i] = (struct region){*memory_out, bytes};
    pthread_mutex_unlock(&deferred_lock);
    return error;
}

static int forget_host(void *memory)
{
    pthread_mutex_lock(&deferred_lock);
    for (size_t i = 0; memory != NULL && i < MOST_REGIONS; i++) {
        if (regions[i].at == memory) {
            regions[i] = (struct region){NULL, 0};
        }
    }
    pthread_mutex_unlock(&deferred_lock);
    return eager->free_host(memory);
}

static bool is_host(const void *memory)
{
    for (size_t i = 0; i < MOST_REGIONS; i++) {
        if ((const uint8_t *)memory >= regions[i].at && (const uint8_t *)memory < regions[i].at + regions[i].bytes) {
            return true;
        }
    }
    return false;
}

/* Copies `most` of a stream's, of those before the end-th. Returns whether none is left. */
static bool copy_some(void *stream, size_t end, size_t most)
{
    bool left = false;

    for (size_t i = 0; i < end && i < copy_count; i++) {
        copy_t *copy = &copies[i];

        if (copy->done || copy->stream != stream) {
            continue;
        }
        if (most == 0) {
            left = true;
            break;
        }
        memcpy(copy->to, copy->from, copy->bytes);
        copy->done = true;
        most--;
    }
    while (copy_count > 0 && copies[copy_count - 1].done) {
        copy_count--;
    }
    return !left;
}

static int copy_late(void *to, const void *from, size_t bytes, void *stream)
{
    pthread_mutex_lock(&deferred_lock);
    launches++;
    strays += only_stream != NULL && stream != only_stream;
    if (copy_count == MOST_COPIES || (!is_host(to) && !is_host(from))) {
        pthread_mutex_unlock(&deferred_lock);
        return eager->copy(to, from, bytes, stream);
    }
    bytes_to_host += is_host(to) ? bytes : 0;
    copies[copy_count++] = (copy_t){stream, to, from, bytes, false};
    memset(to, 0xee, bytes);
    pthread_mutex_unlock(&deferred_lock);
    return 0;
}

static int make_event(void **event_out)
{
    *event_out = calloc(1, sizeof(event_t));
    return *event_out == NULL;
}

static int free_event(void *event)
{
    free(event);
    return 0;
}

static int record_late(void *event, void *stream)
{
    pthread_mutex_lock(&deferred_lock);
    *(event_t *)event = (event_t){stream, copy_count, launches};
    pthread_mutex_unlock(&deferred_lock);
    return 0;
}

/* A copy each time it is asked. */
static int reached_late(void *given, bool *reached_out)
{
    const event_t *event = given;

    pthread_mutex_lock(&deferred_lock);
    *reached_out = !stuck && copy_some(event->stream, event->copies, 1) && copy_some(event->stream, event->copies, 0);
    awaited = *reached_out && event->launches > awaited ? event->launches : awaited;
    pthread_mutex_unlock(&deferred_lock);
    return 0;
}

static int follow_late(void *stream, void *given)
{
    const event_t *event = given;

    (void)stream;
    pthread_mutex_lock(&deferred_lock);
    (void)copy_some(event->stream, event->copies, SIZE_MAX);
    pthread_mutex_unlock(&deferred_lock);
    return 0;
}

static int synchronize_late(void)
{
    (void)__atomic_add_fetch(&waits, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&deferred_lock);
    for (size_t i = 0; i < copy_count; i++) {
        if (!copies[i].done) {
            memcpy(copies[i].to, copies[i].from, copies[i].bytes);
        }
    }
    copy_count = 0;
    awaited = launches;
    pthread_mutex_unlock(&deferred_lock);
    return 0;
}

static int count_alloc(void **memory_out, size_t bytes)
{
    (void)__atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    return eager->alloc(memory_out, bytes);
}

static int end_or_fail(const tacit_device_bundle_t *bundle, void *stream)
{
    if (end_fails > 0 && bundle->rank == 1) {
        end_fails--;
        return 700;
    }
    return eager->end(bundle, stream);
}

/* A launch of rows is about to be made. */
static void go_before(void *stream)
{
    pthread_mutex_lock(&deferred_lock);
    launches++;
    strays += only_stream != NULL && stream != only_stream;
    (void)copy_some(stream, SIZE_MAX, SIZE_MAX);
    pthread_mutex_unlock(&deferred_lock);
}

static int lsh_codes_late(const tacit_rotations_t *rotations, const tacit_device_tokens_t *shape, const void *tokens,
                          uint32_t *codes, void *stream)
{
    go_before(stream);
    return eager->lsh_codes(rotations, shape, tokens, codes, stream);
}

static int copy_rows_late(const void *from, const uint32_t *from_index, void *to, const uint32_t *to_index, uint32_t count,
                          size_t row_bytes, void *stream)
{
    go_before(stream);
    return eager->copy_rows(from, from_index, to, to_index, count, row_bytes, stream);
}

static int sum_rows_late(const tacit_device_tokens_t *shape, const tacit_device_lists_t *lists, const void *rows, bool mean,
                         void *out, float *wide, void *stream)
{
    go_before(stream);
    return eager->sum_rows(shape, lists, rows, mean, out, wide, stream);
}

static int check_rows_late(const tacit_device_tokens_t *shape, const void *rows, uint32_t *found, void *stream)
{
    go_before(stream);
    return eager->check_rows(shape, rows, found, stream);
}

static int measure_rows_late(const tacit_device_tokens_t *shape, const tacit_device_members_t *members, const void *tokens,
                             const float *means, double *out, void *stream)
{
    go_before(stream);
    return eager->measure_rows(shape, members, tokens, means, out, stream);
}

static int combine_rows_late(const tacit_device_choices_t *choices, const float *weights, const void *tokens,
                             const void *centroids, const void *replies, void *out, void *stream)
{
    go_before(stream);
    return eager->combine_rows(choices, weights, tokens, centroids, replies, out, stream);
}

static int weigh_rows_late(const tacit_device_choices_t *choices, const void *gradients, const void *tokens,
                           const void *centroids, const void *replies, float *out, void *stream)
{
    go_before(stream);
    return eager->weigh_rows(choices, gradients, tokens, centroids, replies, out, stream);
}

static int spread_rows_late(const tacit_device_choices_t *choices, const float *weights, const void *gradients, const void *sums,
                            const void *rows, void *out, void *stream)
{
    go_before(stream);
    return eager->spread_rows(choices, weights, gradients, sums, rows, out, stream);
}

static inline void use_deferred(void)
{
    static tacit_cuda_module_t late;

    eager = tacit_cuda_module(sizeof *eager);
    late = *eager;
    late.alloc = count_alloc;
    late.alloc_host = note_host;
    late.free_host = forget_host;
    late.copy = copy_late;
    late.create_event = make_event;
    late.destroy_event = free_event;
    late.record = record_late;
    late.reached = reached_late;
    late.follow = follow_late;
    late.synchronize = synchronize_late;
    late.end = end_or_fail;
    late.lsh_codes = lsh_codes_late;
    late.copy_rows = copy_rows_late;
    late.sum_rows = sum_rows_late;
    late.check_rows = check_rows_late;
    late.measure_rows = measure_rows_late;
    late.combine_rows = combine_rows_late;
    late.weigh_rows = weigh_rows_late;
    late.spread_rows = spread_rows_late;
    tacit__cuda_use(&late);
}

#endif
