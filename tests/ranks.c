/* SPDX-License-Identifier: Apache-2.0 */
/* A thread for every rank. */
#include "ranks.h"
#include "lazy.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct place {
    pthread_t             thread;
    tacit_loop_t         *loop;
    int                   rank;
    rank_wrap_t          *wrap; /* NULL: nothing */
    const tacit_config_t *config;
    rank_body_t          *body;
    void                 *arg;
} place_t;

void must(tacit_status_t status, const char *call, const char *file, int line)
{
    if (status != TACIT_OK) {
        fprintf(stderr, "%s:%d: %s: %s: %s\n", file, line, call, tacit_strerror(status), tacit_last_error());
        abort();
    }
}

static void *live(void *arg)
{
    const place_t    *place = arg;
    tacit_transport_t transport;
    tacit_comm_t     *comm;

    MUST(tacit_loop_transport(place->loop, place->rank, &transport));
    if (place->wrap != NULL) {
        place->wrap(&transport);
    }
    MUST(tacit_comm_create(&transport, place->config, &comm));
    place->body(comm, place->arg);
    tacit_comm_destroy(comm);
    return NULL;
}

/* Runs the place on every rank. */
static void run(int ranks, const place_t *place)
{
    place_t places[MOST_RANKS];

    for (int rank = 0; rank < ranks; rank++) {
        places[rank] = *place;
        places[rank].rank = rank;
        if (pthread_create(&places[rank].thread, NULL, live, &places[rank]) != 0) {
            fprintf(stderr, "no thread for rank %d\n", rank);
            abort();
        }
    }
    for (int rank = 0; rank < ranks; rank++) {
        pthread_join(places[rank].thread, NULL);
    }
}

void run_ranks_over(tacit_loop_t *loop, int ranks, const tacit_config_t *config, rank_body_t *body, void *arg)
{
    run(ranks, &(place_t){.loop = loop, .config = config, .body = body, .arg = arg});
}

void run_ranks(int ranks, const tacit_config_t *config, rank_body_t *body, void *arg)
{
    tacit_loop_t *loop;

    MUST(tacit_loop_create(ranks, &loop));
    run_ranks_over(loop, ranks, config, body, arg);
    tacit_loop_release(loop);
}

void run_ranks_behind(rank_wrap_t *wrap, int ranks, const tacit_config_t *config, rank_body_t *body, void *arg)
{
    tacit_loop_t *loop;

    MUST(tacit_loop_create(ranks, &loop));
    run(ranks, &(place_t){.loop = loop, .wrap = wrap, .config = config, .body = body, .arg = arg});
    tacit_loop_release(loop);
}

void run_ranks_lazily(int ranks, const tacit_config_t *config, rank_body_t *body, void *arg)
{
    run_ranks_behind(lazy_transport, ranks, config, body, arg);
}

/* The schedule in "SPEC by SCHEDULE"; NULL: none. */
static const char *schedule_in(const char *spec)
{
    const char *by = spec != NULL ? strstr(spec, " by ") : NULL;

    return by != NULL ? by + strlen(" by ") : NULL;
}

void ask_for(const char *spec)
{
    const char *schedule = schedule_in(spec);

    if ((schedule != NULL ? setenv("TACIT_PLAN", schedule, 1) : unsetenv("TACIT_PLAN")) != 0) {
        abort();
    }
}

void name_hosts(const char *list)
{
    if ((list != NULL ? setenv("TACIT_TOPOLOGY", list, 1) : unsetenv("TACIT_TOPOLOGY")) != 0) {
        abort();
    }
}

const char *spec_in(const char *text, char spec[SPEC_BYTES])
{
    const char *schedule = schedule_in(text);

    if (schedule == NULL) {
        return text;
    }
    snprintf(spec, SPEC_BYTES, "%.*s", (int)(schedule - strlen(" by ") - text), text);
    return spec;
}

tacit_slot_t *slot_of(tacit_comm_t *comm, const char *name, size_t count, tacit_dtype_t dtype, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    const char         *schedule = schedule_in(spec);
    char                alone[SPEC_BYTES];
    tacit_slot_t       *slot;

    config.count = count;
    config.dtype = dtype;
    config.spec = spec_in(spec, alone);
    MUST(tacit_slot_create(comm, name, &config, &slot));
    if (schedule != NULL && strcmp(tacit_slot_schedule(slot), schedule) != 0) {
        fprintf(stderr, "'%s' goes by %s\n", spec, tacit_slot_schedule(slot));
        abort();
    }
    return slot;
}
