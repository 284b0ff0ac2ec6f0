/* SPDX-License-Identifier: Apache-2.0 */
/* Makes and ends communicators, and lets their ranks agree. */
#include "comm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "operation.h"
#include "tacit_moe.h"
#include "progress.h"
#include "staging.h"

enum { DEFAULT_CHUNK_BYTES = 32768, SMALLEST_CHUNK_BYTES = 1024, DEFAULT_TIMEOUT_MS = 60000 };
static const size_t largest_chunk_bytes = (size_t)1 << 28;

tacit_status_t tacit__comm_enter(tacit_comm_t *comm, bool even_if_broken)
{
    if (comm == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "the communicator is NULL");
    }
    if (atomic_flag_test_and_set_explicit(&comm->in_use, memory_order_acquire)) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: another thread is using this communicator; give each thread its own",
                           comm->rank);
    }
    tacit__comm_hold(comm);
    if (comm->broken && !even_if_broken) {
        tacit__comm_leave(comm);
        return tacit__fail(TACIT_ERR_BROKEN, "rank %d: only saving and destroying work after: %s", comm->rank, comm->broken_text);
    }
    return TACIT_OK;
}

void tacit__comm_leave(tacit_comm_t *comm)
{
    tacit__comm_release(comm);
    atomic_flag_clear_explicit(&comm->in_use, memory_order_release);
}

void tacit__comm_break(tacit_comm_t *comm)
{
    if (!comm->broken) {
        comm->broken = true;
        comm->group_open = false;
        comm->group_count = 0;
        comm->group_fault = TACIT_OK;
        snprintf(comm->broken_text, sizeof comm->broken_text, "%s", tacit_last_error());
        if (comm->transport.abandon != NULL) {
            comm->transport.abandon(comm->transport.context);
        }
    }
}

tacit_status_t tacit__comm_agree(tacit_comm_t *comm, const char *what, const char *text, tacit_status_t mine, size_t capacity)
{
    return tacit__comm_agree_and_tell(comm, what, text, NULL, NULL, mine, capacity);
}

tacit_status_t tacit__comm_agree_and_tell(tacit_comm_t *comm, const char *what, const char *text, const char *line, char *lines,
                                          tacit_status_t mine, size_t capacity)
{
    tacit_operation_t *operation;
    tacit_status_t     status;

    TRY(tacit__operation_create(comm, what, NULL, 0, mine, &operation));
    operation->text = text;
    operation->line = line;
    operation->lines = lines;
    operation->capacity = capacity;
    TRY(tacit__operation_wait(operation));
out:
    return status;
}

tacit_status_t tacit__comm_conclude(tacit_comm_t *comm, const char *what, const char *text, tacit_status_t mine)
{
    const tacit_status_t status = comm->broken ? mine : tacit__comm_agree(comm, what, text, mine, 0);

    tacit__comm_leave(comm);
    return status;
}

/* ---- Configuration ---- */

static int64_t default_timeout(const tacit_environment_t *environment)
{
    return environment->timeout_ms != 0 ? environment->timeout_ms : DEFAULT_TIMEOUT_MS;
}

static tacit_status_t complete_config(tacit_comm_t *comm, const tacit_config_t *given)
{
    tacit_config_t            *config = &comm->config;
    const tacit_environment_t *environment = &comm->environment;

    tacit__environment_read(&comm->environment);
    *config = (tacit_config_t)TACIT_CONFIG_INIT;
    config->timeout_ms = default_timeout(environment); /* until the rest has been checked */
    if (given != NULL && (given->struct_bytes < TACIT_CONFIG_LEAST || given->struct_bytes > 4096)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: config: struct_bytes is %zu; begin with TACIT_CONFIG_INIT", comm->rank,
                           given->struct_bytes);
    }
    if (given != NULL) {
        memcpy(config, given, tacit__min(given->struct_bytes, sizeof *config));
    }
    if (config->nonfinite < TACIT_NONFINITE_ERROR || config->nonfinite > TACIT_NONFINITE_PASS) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: config: nonfinite=%d is not a tacit_nonfinite_t", comm->rank,
                           config->nonfinite);
    }
    if (config->timeout_ms < -1) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: config: timeout_ms=%" PRId64 "; -1 is no limit, 0 the default",
                           comm->rank, config->timeout_ms);
    }
    if (config->chunk_bytes != 0 && (config->chunk_bytes < SMALLEST_CHUNK_BYTES || config->chunk_bytes > largest_chunk_bytes)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: config: chunk_bytes=%zu is not from %d to %zu", comm->rank,
                           config->chunk_bytes, SMALLEST_CHUNK_BYTES, largest_chunk_bytes);
    }
    if (config->progress < 0 || config->progress > TACIT_PROGRESS_THREAD) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: config: progress=%d is not a tacit_progress_t", comm->rank,
                           config->progress);
    }
    config->spec = config->spec != NULL ? config->spec : environment->spec != NULL ? environment->spec : "auto";
    config->timeout_ms = config->timeout_ms != 0 ? config->timeout_ms : default_timeout(environment);
    config->chunk_bytes = config->chunk_bytes != 0 ? config->chunk_bytes : DEFAULT_CHUNK_BYTES;
    config->strict = config->strict != 0 || environment->strict != 0;
    config->progress = config->progress != 0 ? config->progress : TACIT_PROGRESS_CALLS + environment->progress;
    if (environment->plan != NULL && strcmp(environment->plan, TACIT_PLAN_MEASURED) != 0 &&
        tacit__schedule_named(environment->plan) == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT,
                           "rank %d: TACIT_PLAN=%.80s is not a schedule; tacit-info lists them (or 'measured': tries them)",
                           comm->rank, environment->plan);
    }
    comm->spec = tacit__strdup(config->spec);
    config->spec = comm->spec;
    return comm->spec != NULL ? tacit__spec_check_slot(comm->spec)
                              : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a communicator", comm->rank);
}

/* All that must be the same on all ranks. */
static void describe(const tacit_comm_t *comm, char *text, size_t capacity)
{
    const tacit_config_t *config = &comm->config;

    snprintf(text, capacity,
             "version %s, %d ranks, spec %s, chunk_bytes %zu, seed %" PRIu64 ", nonfinite %d, strict %d, check %d, disable %d, "
             "plan %.80s, topology %.200s",
             tacit_version(), comm->ranks, config->spec != NULL ? config->spec : "", config->chunk_bytes, config->seed,
             config->nonfinite, config->strict, (int)comm->environment.check, (int)comm->environment.disable,
             comm->environment.plan != NULL ? comm->environment.plan : "auto",
             comm->environment.topology != NULL ? comm->environment.topology : "as found");
}

/* Who is on the same host; where there are others, messages may be larger from the next agreement on, which is a slot's. */
static void find_neighbours(tacit_comm_t *comm)
{
    const tacit_topology_t *topology = comm->topology;

    tacit__topology_fill(comm->topology);
    tacit__topology_fill(comm->flat);
    for (int peer = 0; peer < comm->ranks; peer++) {
        tacit_peer_t *other = &comm->exchange.peers[peer];

        other->near = topology->host_of[peer] == topology->host_of[comm->rank];
        other->least = other->near && tacit__topology_has_levels(topology)
                           ? TACIT_FRAME_HEADER_BYTES + TACIT_NEAR_CHUNKS * comm->config.chunk_bytes
                           : 0;
    }
}

static tacit_status_t check_transport(const tacit_transport_t *transport)
{
    if (transport->struct_bytes < offsetof(tacit_transport_t, allreduce) || transport->struct_bytes > 4096 ||
        transport->send == NULL || transport->receive == NULL || transport->test == NULL || transport->cancel == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "transport: struct_bytes is %zu, or send, receive, test or cancel is missing",
                           transport->struct_bytes);
    }
    if (transport->ranks < 1 || transport->ranks > UINT16_MAX || transport->rank < 0 || transport->rank >= transport->ranks) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "transport '%s': rank %d of %d", transport->name, transport->rank,
                           transport->ranks);
    }
    return TACIT_OK;
}

tacit_status_t tacit_transport_fail(tacit_status_t status, const char *text)
{
    return tacit__fail(status, "%s", text);
}

/* ---- Create and destroy ---- */

tacit_status_t tacit_comm_create(const tacit_transport_t *transport, const tacit_config_t *config, tacit_comm_t **comm_out)
{
    tacit_status_t status;
    tacit_comm_t  *comm = NULL;
    char           text[TACIT_AGREEMENT_BYTES - TACIT_LINE_BYTES], line[TACIT_PLACE_BYTES] = "";
    size_t         capacity;

    if (transport == NULL || comm_out == NULL) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "transport and comm_out must be given");
        goto out;
    }
    TRY(check_transport(transport));
    comm = tacit__alloc(1, sizeof *comm);
    if (comm != NULL) {
        memcpy(&comm->transport, transport, tacit__min(transport->struct_bytes, sizeof comm->transport));
        comm->spare = tacit__alloc(1, sizeof *comm->spare);
        comm->even_counts = tacit__alloc((size_t)transport->ranks, sizeof *comm->even_counts);
    }
    if (comm == NULL || comm->spare == NULL || comm->even_counts == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a communicator", transport->rank);
        goto out;
    }
    comm->rank = transport->rank;
    comm->ranks = transport->ranks;
    atomic_flag_clear(&comm->in_use);
    TRY(tacit__exchange_init(&comm->exchange, &comm->transport, TACIT_FRAME_HEADER_BYTES + TACIT_AGREEMENT_BYTES));
    status = complete_config(comm, config);
    comm->exchange.trace = comm->trace = tacit__trace_create(comm->environment.trace, comm->rank, comm->ranks);
    capacity = TACIT_FRAME_HEADER_BYTES + comm->config.chunk_bytes;
    describe(comm, text, sizeof text);
    if (status == TACIT_OK) {
        status = tacit__topology_create(comm->ranks, &comm->topology);
    }
    if (status == TACIT_OK) {
        status = tacit__topology_create(comm->ranks, &comm->flat);
    }
    if (status == TACIT_OK) {
        status = tacit__place_find(comm->environment.topology, comm->transport.host, comm->rank, comm->ranks, line);
    }
    TRY(tacit__comm_agree_and_tell(comm, "tacit_comm_create", text, line, comm->topology != NULL ? comm->topology->lines : NULL,
                                   status, capacity));
    find_neighbours(comm);
    TRY(tacit__channels_create(comm));
    tacit__log(TACIT_LOG_INFO, comm->rank, "comm: transport %s, %s", comm->transport.name, text);
    tacit__topology_tell(comm->topology, comm->rank);
    tacit__thread_start(comm);

    *comm_out = comm;
    comm = NULL; /* now the caller's */
    transport = NULL;
out:
    if (comm != NULL) {
        tacit_comm_destroy(comm);
    } else if (transport != NULL && transport->destroy != NULL) {
        transport->destroy(transport->context);
    }
    return status;
}

void tacit_comm_destroy(tacit_comm_t *comm)
{
    char error[TACIT_TEXT_BYTES];

    if (comm == NULL) {
        return;
    }
    snprintf(error, sizeof error, "%s", tacit_last_error()); /* the reason why is what the caller wants to print next */
    tacit__thread_end(comm);
    if (comm->queue != NULL) {
        tacit__comm_break(comm);
        (void)tacit__comm_drain(comm);
    }
    while (comm->finished != NULL) {
        (void)tacit__operation_end(comm->finished);
    }
    for (tacit_tie_t *tie = comm->ties; tie != NULL; tie = tie->next) {
        *tie->comm = NULL;
    }
    while (comm->slots != NULL) {
        tacit_slot_destroy(comm->slots);
    }
    while (comm->moes != NULL) {
        tacit_moe_destroy(comm->moes);
    }
    tacit__staging_destroy(comm->staging, comm->exchange.leaked);
    tacit__exchange_fini(&comm->exchange, !comm->broken);
    if (comm->transport.destroy != NULL) {
        comm->transport.destroy(comm->transport.context);
    }
    tacit__trace_destroy(comm->trace);
    tacit__cost_fini(&comm->cost);
    tacit__channels_destroy(&comm->channels);
    tacit__topology_destroy(comm->topology);
    tacit__topology_destroy(comm->flat);
    tacit__operation_free(comm->spare);
    tacit__operation_free(comm->recent);
    tacit__free(comm->group);
    tacit__free(comm->even_counts);
    tacit__free(comm->spec);
    tacit__free(comm);
    (void)tacit__fail_text(TACIT_OK, error);
}

tacit_status_t tacit_comm_set_stream(tacit_comm_t *comm, void *stream)
{
    tacit_status_t status = tacit__comm_enter(comm, false);

    if (status == TACIT_OK) {
        comm->stream = stream;
        tacit__comm_leave(comm);
    }
    return status;
}

int tacit_comm_rank(const tacit_comm_t *comm)
{
    return comm != NULL ? comm->rank : -1;
}

int tacit_comm_ranks(const tacit_comm_t *comm)
{
    return comm != NULL ? comm->ranks : 0;
}
