/* SPDX-License-Identifier: Apache-2.0 */
/* Which sums are asked to be compressed, and by what: TACIT_RULE, TACIT_ALLREDUCE, TACIT_MIN_BYTES and TACIT_STATE_BYTES. Knows
   nothing of any MPI. */
#ifndef PRELOAD_RULES_H
#define PRELOAD_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PRELOAD_RULES = 64 };

/* Zero: any. */
typedef struct preload_rule {
    uint64_t    site, comm, count, min_bytes, max_bytes;
    uint64_t    after;       /* calls of a site that stay dense first */
    const char *dtype;       /* "float32", …; NULL: any */
    bool        ordered;     /* sums come in the same order in all steps */
    bool        all_reduces; /* alone; not what each rank gets a part of */
    const char *spec;
} preload_rule_t;

typedef struct preload_rules {
    bool           asked; /* there is a rule, or something that is none */
    size_t         count;
    preload_rule_t rules[PRELOAD_RULES];
    uint64_t       state_bytes; /* the most that slots of a communicator remember */
    uint32_t       hash;        /* of all of it, from 0 to 2^31 - 1 */
    char           error[320];  /* what is wrong; then there are no rules */
} preload_rules_t;

/* What a rule looks at. */
typedef struct preload_target {
    uint64_t    site, comm, count, bytes;
    const char *dtype;
    bool        scatters; /* each rank gets a part of it */
} preload_target_t;

/* By tacit_dtype_t. */
enum { PRELOAD_DTYPES = 3 };
extern const char *const preload_dtype_names[PRELOAD_DTYPES];
extern const size_t      preload_dtype_bytes[PRELOAD_DTYPES];

/* Whether a spec has its sums known again. */
bool preload_remembers(const char *spec);
/* What it remembers of so many elements at most: as a sender, and as the owner of a part. */
uint64_t preload_state_bytes(const char *spec, uint64_t elements, int ranks);
/* timeout_ms of Tacit's communicators. A program may let its ranks wait for one another as long as it likes, unless
   TACIT_TIMEOUT_MS is set. */
int preload_timeout(void);
/* As the environment has it when this is first called. */
const preload_rules_t *preload_rules(void);
/* The place of the first rule that fits, from 1 on; 0: none does. */
int preload_rule_for(const preload_rules_t *rules, const preload_target_t *target);
/* A line that says what is asked for, of a function's sums. */
void preload_announce(const char *function);
/* A line about a communicator, by its first rank, unless something was said already. */
__attribute__((format(printf, 4, 5))) void preload_warn(unsigned number, int rank, bool *said, const char *format, ...);
/* Whether more is to be told (TACIT_LOG=info). */
bool preload_explains(void);

#endif
