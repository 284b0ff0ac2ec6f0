/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned, zeroed memory, and the hook by which tests let an allocation fail. */
#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 64, /* a cache line, and the widest vector register */
    PAGE = 4096,    /* of what is many pages: two arrays that are walked side by side then cross their edges together */
    LARGE = 1 << 20
};

static atomic_uint_fast64_t fail_after;

void tacit__alloc_fail_after(uint64_t nth)
{
    atomic_store(&fail_after, nth);
}

static bool must_fail(void)
{
    uint_fast64_t left = atomic_load_explicit(&fail_after, memory_order_relaxed);

    while (left != 0 && !atomic_compare_exchange_weak(&fail_after, &left, left - 1)) {
    }
    return left == 1;
}

void *tacit__alloc_unset(size_t bytes)
{
    const size_t alignment = bytes < LARGE ? ALIGNMENT : PAGE;

    if (must_fail() || bytes > SIZE_MAX - alignment) {
        return NULL;
    }
    return aligned_alloc(alignment, tacit__round_up(bytes + (bytes == 0), alignment));
}

void *tacit__alloc(size_t count, size_t size)
{
    size_t bytes;
    void  *memory;

    if (__builtin_mul_overflow(count, size, &bytes)) {
        return NULL;
    }
    memory = tacit__alloc_unset(bytes);
    if (memory != NULL) {
        memset(memory, 0, bytes);
    }
    return memory;
}

void tacit__free(void *memory)
{
    free(memory);
}

char *tacit__strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char  *copy = tacit__alloc(bytes, 1);

    return copy != NULL ? memcpy(copy, text, bytes) : NULL;
}
