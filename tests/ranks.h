/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that are threads of the test, over the loop transport. Bodies run outside the main thread, where assertions of Check
   do not work: they collect results, and the main thread asserts. */
#ifndef TACIT_TEST_RANKS_H
#define TACIT_TEST_RANKS_H

#include "tacit.h"
#include "tacit_transport.h"

enum { MOST_RANKS = 256 };

/* Ends the process with the library's last error where a call fails that must not. */
#define MUST(call) must(call, #call, __FILE__, __LINE__)
void must(tacit_status_t status, const char *call, const char *file, int line);

typedef void rank_body_t(tacit_comm_t *comm, void *arg);

/* Runs body on every rank, each in a thread with a communicator of its own made from `config` (may be NULL), and returns when all
   have returned and the communicators are destroyed. */
void run_ranks(int ranks, const tacit_config_t *config, rank_body_t *body, void *arg);

/* The same over a loop that the caller keeps, for wire faults. */
void run_ranks_over(tacit_loop_t *loop, int ranks, const tacit_config_t *config, rank_body_t *body, void *arg);

/* The same over transports of a loop in front of which `wrap` puts others. */
typedef void rank_wrap_t(tacit_transport_t *transport);
void         run_ranks_behind(rank_wrap_t *wrap, int ranks, const tacit_config_t *config, rank_body_t *body, void *arg);

/* The same over transports that read messages late (lazy.h). */
void run_ranks_lazily(int ranks, const tacit_config_t *config, rank_body_t *body, void *arg);

/* A test names what it reduces as "SPEC" or "SPEC by SCHEDULE". This has communicators that are made from now on ask for the
   schedule, or for none; call it while no rank runs. */
void ask_for(const char *spec);
/* Likewise on which hosts ranks are, as TACIT_TOPOLOGY says it; NULL: as found. */
void name_hosts(const char *list);
/* The spec alone, which may be NULL; `spec` is room for it. */
enum { SPEC_BYTES = 128 };
const char *spec_in(const char *text, char spec[SPEC_BYTES]);

/* A slot on the CPU; spec may be NULL. Where it names a schedule too, the process ends if the slot goes by another. */
tacit_slot_t *slot_of(tacit_comm_t *comm, const char *name, size_t count, tacit_dtype_t dtype, const char *spec);

#endif
