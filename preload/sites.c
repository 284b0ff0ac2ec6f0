/* SPDX-License-Identifier: Apache-2.0 */
/* The table of sites: a few dozen in most programs. */
#include "sites.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* MOST: of a program in which every call has another count, there is no use in more. */
enum { BUCKETS = 1024, MOST = 1 << 16 };

typedef struct entry {
    preload_site_t site;
    struct entry  *next; /* in its bucket */
} entry_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static entry_t        *buckets[BUCKETS];
static entry_t       **entries; /* in order */
static size_t          count, room;

static bool same(const preload_key_t *one, const preload_key_t *other)
{
    return one->count == other->count && one->group == other->group && one->function == other->function && one->op == other->op &&
           one->type_bytes == other->type_bytes && strcmp(one->type, other->type) == 0;
}

static size_t bucket_of(const preload_key_t *key)
{
    return (size_t)((key->count ^ (uint64_t)key->group->number << 40) * 0x9e3779b97f4a7c15u >> 54);
}

static entry_t *add(const preload_key_t *key)
{
    entry_t **bucket = &buckets[bucket_of(key)], *entry;

    if (count == room) {
        const size_t more = room != 0 ? 2 * room : 64;
        entry_t    **grown = count < MOST ? realloc(entries, more * sizeof *grown) : NULL;

        if (grown == NULL) {
            return NULL;
        }
        entries = grown;
        room = more;
    }
    entry = calloc(1, sizeof *entry);
    if (entry != NULL) {
        entry->site.key = *key;
        entry->next = *bucket;
        *bucket = entry;
        entries[count++] = entry;
        entry->site.number = count;
    }
    return entry;
}

preload_site_t *preload_site(const preload_key_t *key)
{
    entry_t *entry;

    pthread_mutex_lock(&lock);
    entry = buckets[bucket_of(key)];
    while (entry != NULL && !same(&entry->site.key, key)) {
        entry = entry->next;
    }
    entry = entry != NULL ? entry : add(key);
    pthread_mutex_unlock(&lock);
    return entry != NULL ? &entry->site : NULL;
}

preload_site_t *preload_site_at(size_t index)
{
    preload_site_t *site;

    pthread_mutex_lock(&lock);
    site = index < count ? &entries[index]->site : NULL;
    pthread_mutex_unlock(&lock);
    return site;
}
