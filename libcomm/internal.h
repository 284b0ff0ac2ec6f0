/* SPDX-License-Identifier: Apache-2.0 */
/* What all rooms of the library share: the way errors are found and passed on, memory, logging, checksums. */
#ifndef TACIT_INTERNAL_H
#define TACIT_INTERNAL_H

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tacit.h"

/* Sets `status` and goes to `out` on failure. */
#define TRY(call)                                                                                                                \
    do {                                                                                                                         \
        status = (call);                                                                                                         \
        if (status != TACIT_OK) {                                                                                                \
            goto out;                                                                                                            \
        }                                                                                                                        \
    } while (0)

#define TACIT_PRINTF(text, first) __attribute__((format(printf, text, first)))

/* status.c: the text of this thread's last error. Called where a fault is found; returns status. */
tacit_status_t tacit__fail(tacit_status_t status, const char *format, ...) TACIT_PRINTF(2, 3);
/* As above with a text that was found elsewhere (by a peer, in a request). */
tacit_status_t tacit__fail_text(tacit_status_t status, const char *text);
enum { TACIT_TEXT_BYTES = 512 };

/* Bytes of a configuration that was built for the first version; what came later has its default there. */
enum { TACIT_CONFIG_LEAST = offsetof(tacit_config_t, progress) };

/* log.c: one line on standard error if TACIT_LOG allows it. */
typedef enum { TACIT_LOG_ERROR, TACIT_LOG_WARN, TACIT_LOG_INFO, TACIT_LOG_DEBUG, TACIT_LOG_TRACE } tacit_log_level_t;
void tacit__log(tacit_log_level_t level, int rank, const char *format, ...) TACIT_PRINTF(3, 4);
/* rank of a line that belongs to none */
enum { TACIT_NO_RANK = -1 };

/* memory.c: zeroed, aligned to 64 bytes; NULL if there is none (or if a test says so). count * size may overflow: NULL. */
void *tacit__alloc(size_t count, size_t size);
void *tacit__alloc_unset(size_t bytes); /* as above, but not zeroed */
void  tacit__free(void *memory);
char *tacit__strdup(const char *text);
/* For messages that show two texts of which `room` bytes each have place: where to begin, so that the first difference is seen.
   It is 0, or where the word (ended by ',', ':' or ' ') with that difference begins. */
size_t tacit__difference(const char *one, const char *other, size_t room);
/* status.c: TACIT_ERR_MISMATCH, with the name of the first rank whose text is not rank 0's; there is one every `apart` bytes. */
tacit_status_t tacit__texts_agree(const char *what, const char *texts, size_t apart, int ranks);
/* For tests: the nth allocation from now fails, once; 0: none does. */
void tacit__alloc_fail_after(uint64_t nth);

/* checksum.c */
uint32_t tacit__crc32c(const void *data, size_t bytes);
/* The checksum of a payload: doc/wire-format.md, "Payload checksum". */
uint32_t tacit__payload_checksum(const void *data, size_t bytes);
/* FNV-1a, 64 bits; start from TACIT_HASH_START. */
#define TACIT_HASH_START 0xcbf29ce484222325u
uint64_t tacit__hash(uint64_t hash, const void *data, size_t bytes);
uint64_t tacit__hash_text(const char *text);

/* Monotonic. */
double tacit__seconds(void);

static inline size_t tacit__min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t tacit__round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

#endif
