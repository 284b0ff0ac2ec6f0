/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators over NCCL: made, agreed on, waited for with a limit of time, aborted, ended. NCCL's own are made non-blocking, so
   that no call of theirs waits where we cannot. */
#include "nccl_comm.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "environment.h"

enum { DEFAULT_TIMEOUT_MS = 60000 };
static const double patience = 5; /* seconds that an abort is waited for */

tacit_status_t tacit__nccl_enter(tacit_nccl_t *nccl)
{
    if (nccl == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "the communicator, or the group, is NULL");
    }
    if (atomic_flag_test_and_set_explicit(&nccl->in_use, memory_order_acquire)) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: another thread is using this communicator; give each thread its own",
                           nccl->rank);
    }
    if (nccl->broken) {
        tacit__nccl_leave(nccl);
        return tacit__fail(TACIT_ERR_BROKEN, "rank %d: only destroying works after: %s", nccl->rank, nccl->broken_text);
    }
    return TACIT_OK;
}

void tacit__nccl_leave(tacit_nccl_t *nccl)
{
    atomic_flag_clear_explicit(&nccl->in_use, memory_order_release);
}

static tacit_status_t check(const tacit_nccl_t *nccl, int error, const char *what)
{
    return error == 0 ? TACIT_OK
                      : tacit__fail(TACIT_ERR_DEVICE, "rank %d: %s: %s (CUDA error %d)", nccl->rank, what,
                                    nccl->module->error_text(error), error);
}

static tacit_status_t nccl_error(const tacit_nccl_t *nccl, int result, const char *what)
{
    const char *more = nccl->library->last_error(NULL);

    return tacit__fail(TACIT_ERR_TRANSPORT, "rank %d: %s: NCCL reports error %d, %s%s%.200s", nccl->rank, what, result,
                       nccl->library->error_text(result), more != NULL && more[0] != '\0' ? ": " : "", more != NULL ? more : "");
}

/* ---- The end of a communicator that fails ---- */

/* One that is being aborted: by a thread of its own, since NCCL then waits for graphs that still have steps of it, and nobody may
   have to wait for that. Who comes last frees it. */
struct tacit_nccl_abort {
    int (*give_up)(void *comm);
    void      *comm;
    atomic_int ended; /* 1 by the thread, 1 by who has started it */
};

static void *run_abort(void *argument)
{
    tacit_nccl_abort_t *job = argument;

    (void)job->give_up(job->comm);
    if (atomic_fetch_add(&job->ended, 1) == 1) {
        tacit__free(job);
    }
    return NULL;
}

static void abort_comm(tacit_nccl_t *nccl)
{
    const double        began = tacit__seconds();
    tacit_nccl_abort_t *job = nccl->job;
    pthread_t           thread;

    nccl->job = NULL; /* now theirs */
    *job = (tacit_nccl_abort_t){nccl->library->give_up, nccl->comm, 0};
    if (pthread_create(&thread, NULL, run_abort, job) != 0) {
        (void)run_abort(job);
    } else {
        (void)pthread_detach(thread);
    }
    while (atomic_load(&job->ended) == 0 && tacit__seconds() - began < patience) {
        sched_yield();
    }
    if (atomic_fetch_add(&job->ended, 1) == 1) {
        tacit__free(job);
    } else {
        tacit__log(TACIT_LOG_WARN, nccl->rank, "NCCL still aborts a communicator; destroy graphs that have steps of it");
    }
}

void tacit__nccl_break(tacit_nccl_t *nccl)
{
    if (!nccl->broken) {
        nccl->broken = true;
        snprintf(nccl->broken_text, sizeof nccl->broken_text, "%.400s", tacit_last_error());
        if (nccl->comm != NULL) {
            abort_comm(nccl);
        }
        nccl->comm = NULL;
    }
}

/* ---- Waiting ---- */

static tacit_status_t was_aborted(const tacit_nccl_t *nccl)
{
    return tacit__fail(TACIT_ERR_BROKEN, "rank %d: tacit_nccl_abort() was called", nccl->rank);
}

static tacit_status_t look_at(tacit_nccl_t *nccl, void *comm, double began, const char *what, int *state_out)
{
    int            state = TACIT_NCCL_SUCCESS;
    const int      result = nccl->library->async_error(comm, &state);
    const double   limit = (double)nccl->timeout_ms * 1e-3;
    tacit_status_t status = TACIT_OK;
    bool           waits;

    state = result != TACIT_NCCL_SUCCESS ? result : state;
    waits = state_out == NULL || state == TACIT_NCCL_IN_PROGRESS;
    if (atomic_load(&nccl->aborted)) {
        status = was_aborted(nccl);
    } else if (state != TACIT_NCCL_SUCCESS && state != TACIT_NCCL_IN_PROGRESS) {
        status = nccl_error(nccl, state, what);
    } else if (waits && nccl->timeout_ms >= 0 && tacit__seconds() - began > limit) {
        status = tacit__fail(TACIT_ERR_TIMEOUT,
                             "rank %d: %s has not ended within %" PRId64 " ms: a rank is late, or gone; NCCL_DEBUG=INFO tells "
                             "what NCCL waits for",
                             nccl->rank, what, nccl->timeout_ms);
    }
    if (status != TACIT_OK) {
        tacit__nccl_break(nccl);
        return status;
    }
    if (state_out != NULL) {
        *state_out = state;
    }
    return TACIT_OK;
}

tacit_status_t tacit__nccl_look(tacit_nccl_t *nccl, double began, const char *what, int *state_out)
{
    return look_at(nccl, nccl->comm, began, what, state_out);
}

/* What has begun at a communicator. */
static tacit_status_t complete_at(tacit_nccl_t *nccl, void *comm, int result, const char *what)
{
    const double   began = tacit__seconds();
    tacit_status_t status = TACIT_OK;

    while (result == TACIT_NCCL_IN_PROGRESS) {
        TRY(look_at(nccl, comm, began, what, &result));
        if (result == TACIT_NCCL_IN_PROGRESS) {
            sched_yield();
        }
    }
    if (result != TACIT_NCCL_SUCCESS) {
        status = nccl_error(nccl, result, what);
        tacit__nccl_break(nccl);
    }
out:
    return status;
}

tacit_status_t tacit__nccl_complete(tacit_nccl_t *nccl, int result, const char *what)
{
    return complete_at(nccl, nccl->comm, result, what);
}

static tacit_status_t wait_for(tacit_nccl_t *nccl, void *stream, const char *what)
{
    const double   began = tacit__seconds();
    tacit_status_t status;
    bool           idle = false;

    TRY(check(nccl, nccl->module->query(stream, &idle), what));
    while (!idle) {
        TRY(tacit__nccl_look(nccl, began, what, NULL));
        sched_yield();
        TRY(check(nccl, nccl->module->query(stream, &idle), what));
    }
    TRY(tacit__nccl_look(nccl, tacit__seconds(), what, NULL));
out:
    return status;
}

tacit_status_t tacit_nccl_wait(tacit_nccl_t *nccl, void *stream)
{
    tacit_status_t status = tacit__nccl_enter(nccl);
    bool           capturing = false;

    if (status != TACIT_OK) {
        return status;
    }
    TRY(check(nccl, nccl->module->capturing(stream, &capturing), "tacit_nccl_wait()"));
    if (capturing) {
        status = tacit__fail(TACIT_ERR_STATE, "rank %d: tacit_nccl_wait(): the stream is being captured", nccl->rank);
        goto out;
    }
    TRY(wait_for(nccl, stream, "what is on the stream"));
out:
    tacit__nccl_leave(nccl);
    return status;
}

/* ---- Agreement ---- */

static tacit_status_t read_records(const tacit_nccl_t *nccl, const char *what, bool *hashes_agree_out)
{
    const tacit_nccl_record_t *records = nccl->told;
    bool                       same = true;

    for (int rank = 0; rank < nccl->ranks; rank++) {
        if (records[rank].status != TACIT_OK) {
            return tacit__fail((tacit_status_t)records[rank].status, "%s", records[rank].text);
        }
        same = same && records[rank].hash == records[0].hash;
    }
    *hashes_agree_out = same;
    return tacit__texts_agree(what, records[0].text, sizeof *records, nccl->ranks);
}

tacit_status_t tacit__nccl_agree(tacit_nccl_t *nccl, const char *what, const char *text, uint64_t hash, tacit_status_t mine,
                                 bool *hashes_agree_out)
{
    const tacit_nccl_library_t *library = nccl->library;
    const tacit_cuda_module_t  *module = nccl->module;
    const size_t                bytes = (size_t)nccl->ranks * sizeof *nccl->told;
    tacit_nccl_record_t        *own = &nccl->told[nccl->ranks], *own_there = &nccl->records[nccl->ranks];
    char                        error[TACIT_TEXT_BYTES];
    tacit_status_t              status;

    if (mine != TACIT_OK && strncmp(tacit_last_error(), "rank ", 5) != 0) { /* all will return it: whose it is */
        snprintf(error, sizeof error, "%s", tacit_last_error());
        (void)tacit__fail(mine, "rank %d: %.480s", nccl->rank, error);
    }
    *own = (tacit_nccl_record_t){.hash = hash, .status = (int32_t)mine};
    snprintf(own->text, sizeof own->text, "%s", mine != TACIT_OK ? tacit_last_error() : text);
    TRY(check(nccl, module->copy(own_there, own, sizeof *own, nccl->stream), what));
    TRY(tacit__nccl_complete(
        nccl, library->all_gather(own_there, nccl->records, sizeof *own, TACIT_NCCL_UINT8, nccl->comm, nccl->stream), what));
    TRY(check(nccl, module->copy(nccl->told, nccl->records, bytes, nccl->stream), what));
    TRY(wait_for(nccl, nccl->stream, what));
    TRY(read_records(nccl, what, hashes_agree_out));
out:
    return status;
}

/* ---- Create and destroy ---- */

tacit_status_t tacit_nccl_unique_id(tacit_nccl_id_t *id_out)
{
    const tacit_nccl_library_t *library;
    tacit_status_t              status;
    int                         result;

    TRY(tacit__nccl_library(&library));
    if (id_out == NULL) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "tacit_nccl_unique_id(): id_out must be given");
        goto out;
    }
    result = library->get_id(id_out);
    if (result != TACIT_NCCL_SUCCESS) {
        status = tacit__fail(TACIT_ERR_TRANSPORT, "tacit_nccl_unique_id(): NCCL reports error %d, %s", result,
                             library->error_text(result));
    }
out:
    return status;
}

static tacit_status_t set_timeout(tacit_nccl_t *nccl, int64_t given)
{
    tacit_environment_t environment;

    if (given < -1) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: timeout_ms=%" PRId64 "; -1 is no limit, 0 the default", given);
    }
    tacit__environment_read(&environment);
    nccl->timeout_ms = given != 0 ? given : environment.timeout_ms != 0 ? environment.timeout_ms : DEFAULT_TIMEOUT_MS;
    return TACIT_OK;
}

tacit_status_t tacit_nccl_set_timeout(tacit_nccl_t *nccl, int64_t timeout_ms)
{
    tacit_status_t status = tacit__nccl_enter(nccl);

    if (status == TACIT_OK) {
        status = set_timeout(nccl, timeout_ms);
        tacit__nccl_leave(nccl);
    }
    return status;
}

static tacit_status_t complete_config(tacit_nccl_t *nccl, const tacit_config_t *given)
{
    if (given != NULL && (given->struct_bytes < TACIT_CONFIG_LEAST || given->struct_bytes > 4096)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "config: struct_bytes is %zu; begin with TACIT_CONFIG_INIT", given->struct_bytes);
    }
    return set_timeout(nccl, given != NULL ? given->timeout_ms : 0);
}

static void release(tacit_nccl_t *nccl)
{
    if (!nccl->broken) { /* else NCCL may still write there */
        tacit__free(nccl->made);
    }
    tacit__free(nccl->job);
    if (nccl->module != NULL) {
        (void)nccl->module->destroy_stream(nccl->stream);
        (void)nccl->module->free(nccl->records);
        (void)nccl->module->free_host(nccl->told);
    }
    tacit__free(nccl);
}

/* All that is there before NCCL makes its own. */
static tacit_status_t prepare(const tacit_config_t *config, int rank, int ranks, tacit_nccl_t **nccl_out)
{
    const size_t   bytes = ((size_t)ranks + 1) * sizeof(tacit_nccl_record_t);
    tacit_nccl_t  *nccl = tacit__alloc(1, sizeof *nccl);
    tacit_status_t status;

    if (nccl == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a communicator", rank);
        goto out;
    }
    nccl->rank = rank;
    nccl->ranks = ranks;
    atomic_flag_clear(&nccl->in_use);
    nccl->made = tacit__alloc(1, sizeof *nccl->made);
    nccl->job = tacit__alloc(1, sizeof *nccl->job);
    if (nccl->made == NULL || nccl->job == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a communicator", rank);
        goto out;
    }
    TRY(complete_config(nccl, config));
    TRY(tacit__nccl_library(&nccl->library));
    TRY(tacit__cuda_module(&nccl->module));
    TRY(check(nccl, nccl->module->create_stream(&nccl->stream), "a stream"));
    TRY(check(nccl, nccl->module->alloc((void **)&nccl->records, bytes), "memory of the GPU to agree in"));
    TRY(check(nccl, nccl->module->alloc_host((void **)&nccl->told, bytes), "memory of the host to agree in"));
    *nccl_out = nccl;
    nccl = NULL; /* now the caller's */
out:
    if (nccl != NULL) {
        release(nccl);
    }
    return status;
}

/* The first collective, which connects. */
static tacit_status_t begin(tacit_nccl_t *nccl)
{
    char           text[128];
    tacit_status_t status;
    bool           same;

    snprintf(text, sizeof text, "version %s, %d ranks", tacit_version(), nccl->ranks);
    TRY(tacit__nccl_agree(nccl, "tacit_nccl_create", text, 0, TACIT_OK, &same));
    tacit__log(TACIT_LOG_INFO, nccl->rank, "comm: transport nccl, %s", text);
out:
    return status;
}

/* A split of a communicator that does not block returns success while it is in progress, which only that communicator tells. */
static int split(const tacit_nccl_library_t *library, void *nccl_comm, int color, int rank, void **comm_out)
{
    tacit_nccl_config_t settings = TACIT_NCCL_CONFIG_INIT;
    const int           result = library->split(nccl_comm, color, rank, comm_out, &settings);

    return result == TACIT_NCCL_SUCCESS ? TACIT_NCCL_IN_PROGRESS : result;
}

/* A rank that cannot take part leaves the split to the others, instead of letting them wait in it. */
static void stay_away(const tacit_nccl_library_t *library, void *nccl_comm, int rank)
{
    const double began = tacit__seconds();
    void        *none = NULL;
    int          state = split(library, nccl_comm, TACIT_NCCL_NO_COLOR, rank, &none);

    while (state == TACIT_NCCL_IN_PROGRESS && tacit__seconds() - began < 1e-3 * DEFAULT_TIMEOUT_MS &&
           library->async_error(nccl_comm, &state) == TACIT_NCCL_SUCCESS) {
        sched_yield();
    }
}

tacit_status_t tacit_nccl_create(void *nccl_comm, const tacit_config_t *config, tacit_nccl_t **nccl_out)
{
    const tacit_nccl_library_t *library;
    tacit_nccl_t               *nccl = NULL;
    tacit_status_t              status;
    int                         rank = 0, ranks = 0, present = 0;

    TRY(tacit__nccl_library(&library));
    if (nccl_comm == NULL || nccl_out == NULL || library->count(nccl_comm, &ranks) != TACIT_NCCL_SUCCESS ||
        library->user_rank(nccl_comm, &rank) != TACIT_NCCL_SUCCESS) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "tacit_nccl_create(): nccl_comm must be an ncclComm_t and nccl_out be given");
        goto out;
    }
    status = prepare(config, rank, ranks, &nccl);
    if (status != TACIT_OK) {
        stay_away(library, nccl_comm, rank);
        goto out;
    }
    TRY(complete_at(nccl, nccl_comm, split(library, nccl_comm, 0, rank, nccl->made), "tacit_nccl_create"));
    nccl->comm = *nccl->made;
    TRY(tacit__nccl_complete(nccl, TACIT_NCCL_IN_PROGRESS, "tacit_nccl_create"));
    if (library->count(nccl->comm, &present) != TACIT_NCCL_SUCCESS || present != ranks) {
        status =
            tacit__fail(TACIT_ERR_MISMATCH, "rank %d: tacit_nccl_create(): %d of the %d ranks cannot take part; they say why",
                        rank, ranks - present, ranks);
        goto out;
    }
    TRY(begin(nccl));
    *nccl_out = nccl;
    nccl = NULL; /* now the caller's */
out:
    tacit_nccl_destroy(nccl);
    return status;
}

tacit_status_t tacit_nccl_create_from_id(const tacit_nccl_id_t *id, int rank, int ranks, const tacit_config_t *config,
                                         tacit_nccl_t **nccl_out)
{
    tacit_nccl_config_t settings = TACIT_NCCL_CONFIG_INIT;
    tacit_nccl_t       *nccl = NULL;
    tacit_status_t      status;
    int                 result;

    if (id == NULL || nccl_out == NULL || ranks < 1 || ranks > UINT16_MAX || rank < 0 || rank >= ranks) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "tacit_nccl_create_from_id(): rank %d of %d, and id and nccl_out must be given",
                           rank, ranks);
    }
    TRY(prepare(config, rank, ranks, &nccl));
    result = nccl->library->init(nccl->made, ranks, *id, rank, &settings);
    nccl->comm = *nccl->made;
    TRY(tacit__nccl_complete(nccl, result, "tacit_nccl_create"));
    TRY(begin(nccl));
    *nccl_out = nccl;
    nccl = NULL; /* now the caller's */
out:
    tacit_nccl_destroy(nccl);
    return status;
}

void tacit_nccl_destroy(tacit_nccl_t *nccl)
{
    char error[TACIT_TEXT_BYTES];

    if (nccl == NULL) {
        return;
    }
    snprintf(error, sizeof error, "%s", tacit_last_error()); /* the reason why is what the caller wants to print next */
    while (nccl->groups != NULL) {
        tacit_nccl_group_destroy(nccl->groups);
    }
    if (nccl->comm != NULL && tacit__nccl_complete(nccl, nccl->library->finalize(nccl->comm), "tacit_nccl_destroy") == TACIT_OK) {
        (void)nccl->library->destroy(nccl->comm);
    }
    release(nccl);
    (void)tacit__fail_text(TACIT_OK, error);
}

void tacit_nccl_abort(tacit_nccl_t *nccl)
{
    if (nccl == NULL) {
        return;
    }
    atomic_store(&nccl->aborted, true);
    while (atomic_flag_test_and_set_explicit(&nccl->in_use, memory_order_acquire)) {
        sched_yield();
    }
    (void)was_aborted(nccl);
    tacit__nccl_break(nccl);
    tacit__nccl_leave(nccl);
}

int tacit_nccl_rank(const tacit_nccl_t *nccl)
{
    return nccl != NULL ? nccl->rank : -1;
}

int tacit_nccl_ranks(const tacit_nccl_t *nccl)
{
    return nccl != NULL ? nccl->ranks : 0;
}
