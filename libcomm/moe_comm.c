/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of mixtures of experts over a communicator: each of the four exchanges is one operation, so that all ranks end it
   alike. */
#include <stdio.h>
#include <string.h>

#include "alltoall.h"
#include "moe.h"
#include "operation.h"
#include "progress.h"

/* ---- Layers ---- */

/* What all ranks must have in common. A spec that is wrong is in it as it was given. */
static void describe(const char *name, const tacit_moe_config_t *config, char *text, size_t capacity)
{
    char spec[TACIT_SPEC_BYTES];

    if (tacit_spec_check(config->spec != NULL ? config->spec : "none", spec, sizeof spec) != TACIT_OK) {
        snprintf(spec, sizeof spec, "%s", config->spec);
    }
    snprintf(text, capacity, "moe '%.200s', dimension %zu, experts %zu, tokens %zu, choices %zu, capacity %zu, dtype %d, spec %s",
             name, config->dimension, config->experts, config->tokens, config->choices, config->capacity, (int)config->dtype,
             spec);
}

tacit_status_t tacit_moe_create(tacit_comm_t *comm, const char *name, const tacit_moe_config_t *config, tacit_moe_t **moe_out)
{
    tacit_status_t     status = tacit__comm_enter(comm, false), mine;
    tacit_moe_config_t own = TACIT_MOE_CONFIG_INIT;
    tacit_moe_t       *moe = NULL;
    char               text[TACIT_AGREEMENT_BYTES];

    if (status != TACIT_OK) {
        return status;
    }
    mine = tacit__moe_config(name, config, moe_out, &own);
    describe(mine == TACIT_OK ? name : "", &own, text, sizeof text);
    if (mine == TACIT_OK) {
        mine = tacit__moe_create(name, &own, &comm->config, comm->environment.disable != 0, comm->rank, comm->ranks, &moe);
    }
    if (mine == TACIT_OK) {
        mine = tacit__alltoall_check(comm, &(tacit_alltoall_t){.name = name, .values = &moe->values});
    }
    TRY(tacit__comm_agree(comm, "tacit_moe_create", text, mine, 0));
    moe->comm = comm;
    moe->next = comm->moes;
    comm->moes = moe;
    *moe_out = moe;
    moe = NULL; /* now the communicator's */
out:
    tacit_moe_destroy(moe);
    tacit__comm_leave(comm);
    return status;
}

void tacit__moe_unlink(tacit_moe_t *moe)
{
    tacit_moe_t **link = &moe->comm->moes;

    tacit__comm_hold(moe->comm); /* its thread may look for a name here */
    while (*link != moe) {
        link = &(*link)->next;
    }
    *link = moe->next;
    tacit__comm_release(moe->comm);
}

/* ---- Exchanges ---- */

/* A rank's head is here; with the last one, so is the size of the batch: memory for it is got while all ranks can fail. */
static tacit_status_t meet(void *context, int rank, const uint8_t *head, size_t bytes, tacit_part_t *part)
{
    tacit_moe_pass_t  *pass = context;
    tacit_moe_parcel_t parcel;
    tacit_status_t     status;

    TRY(tacit__moe_meet(pass, rank, head, bytes));
    parcel = tacit__moe_incoming(pass, rank);
    part->out = parcel.rows;
    part->receive = parcel.elements;
    for (int r = 0; r < pass->moe->ranks; r++) {
        if (!pass->arrivals[r].met) {
            return TACIT_OK;
        }
    }
    TRY(tacit__moe_place(pass));
out:
    return status;
}

/* Elements for another rank where each expert gets as much as any other. */
size_t tacit__moe_usual(const tacit_moe_t *moe)
{
    const size_t ranks = (size_t)moe->comm->ranks, copies = moe->config.tokens * tacit__min(moe->config.choices, ranks);

    return (copies + ranks - 1) / ranks * moe->config.dimension;
}

/* The exchange that has begun on this rank, or has failed to with `mine`; pass NULL: in dispatch. */
static tacit_status_t exchange(tacit_moe_t *moe, tacit_moe_pass_t *pass, const char *what, tacit_status_t mine)
{
    tacit_comm_t    *comm = moe->comm;
    tacit_counters_t counters = {0};
    tacit_part_t    *parts = NULL;
    tacit_alltoall_t job = {.name = moe->name, .counters = &counters, .context = pass};
    tacit_status_t   status;

    if (mine == TACIT_OK) {
        parts = tacit__alloc((size_t)comm->ranks, sizeof *parts);
        mine = parts != NULL ? TACIT_OK
                             : tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for parts of %d ranks", comm->rank,
                                           moe->name, comm->ranks);
    }
    for (int rank = 0; mine == TACIT_OK && rank < comm->ranks; rank++) {
        const tacit_moe_parcel_t outgoing = tacit__moe_outgoing(pass, rank);

        if (rank == comm->rank) {
            continue; /* what stays here is here */
        }
        parts[rank] = (tacit_part_t){.head = outgoing.head,
                                     .head_bytes = outgoing.head_bytes,
                                     .in = outgoing.rows,
                                     .send = outgoing.elements,
                                     .decoded = outgoing.decoded};
        job.dense_bytes += outgoing.elements * sizeof(float);
        if (pass->exchange != TACIT_MOE_DISPATCH) {
            const tacit_moe_parcel_t incoming = tacit__moe_incoming(pass, rank);

            parts[rank].out = incoming.rows;
            parts[rank].receive = incoming.elements;
        }
    }
    if (mine == TACIT_OK) {
        job.parts = parts;
        job.values = &pass->values;
        job.step = pass->values.key.step;
        job.meet = pass->exchange == TACIT_MOE_DISPATCH ? meet : NULL;
        job.head_most = tacit__moe_head_bound(moe);
        job.usual = tacit__moe_usual(moe);
        job.stages = tacit__moe_exchanges;
        job.stage_count = TACIT_MOE_EXCHANGES;
    }
    TRY(tacit__alltoall_run(comm, what, mine == TACIT_OK ? &job : NULL, mine));
    for (int rank = 0; rank < comm->ranks; rank++) {
        if (rank != comm->rank) {
            tacit__moe_written(pass, rank, 0);
            tacit__moe_read(pass, rank);
        }
    }
    moe->counters.wire_bytes += counters.wire_bytes;
out:
    tacit__free(parts);
    return status;
}

/* ---- Calls ---- */

/* What ends an exchange got its memory when that began. Where it fails, CUDA does, on this rank alone. */
static tacit_status_t ended(tacit_moe_t *moe, tacit_status_t status)
{
    if (status != TACIT_OK) {
        tacit__comm_break(moe->comm);
    }
    return status;
}

static tacit_status_t enter(tacit_moe_t *moe, const char *what)
{
    if (moe == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "%s: the layer, or the pass, is NULL", what);
    }
    if (moe->comm == NULL) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: moe '%s' has no communicator: use %s_begin() and _end()", moe->rank,
                           moe->name, what);
    }
    return tacit__alltoall_enter(moe->comm, what);
}

tacit_status_t tacit_moe_dispatch(tacit_moe_t *moe, const void *tokens, size_t count, const int32_t *experts,
                                  tacit_moe_pass_t **pass_out, tacit_moe_batch_t *batch_out)
{
    static const char *const what = "tacit_moe_dispatch";
    tacit_moe_pass_t        *pass = NULL;
    tacit_status_t           status = enter(moe, what), mine;
    uint64_t                 number;

    if (status != TACIT_OK) {
        return status;
    }
    number = moe->passes;
    mine = tacit_moe_dispatch_begin(moe, tokens, count, experts, pass_out != NULL && batch_out != NULL ? &pass : NULL);
    TRY(exchange(moe, pass, what, mine));
    TRY(ended(moe, tacit_moe_dispatch_end(pass, batch_out)));
    *pass_out = pass;
    pass = NULL; /* now the caller's */
out:
    if (status != TACIT_OK) {
        moe->passes = number; /* none of them: others may have been in a call that is not a pass of this layer */
    }
    tacit_moe_pass_destroy(pass);
    tacit__comm_leave(moe->comm);
    return status;
}

static tacit_moe_t *moe_of(const tacit_moe_pass_t *pass)
{
    return pass != NULL ? pass->moe : NULL;
}

/* What a call needs on this rank beside what its exchange begins with. */
static tacit_status_t check_outputs(const tacit_moe_pass_t *pass, const char *what, size_t count, const void *one,
                                    const void *other)
{
    return count == 0 || (one != NULL && other != NULL)
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: moe '%s': %s: what it reads or writes is NULL", pass->moe->rank,
                             pass->moe->name, what);
}

/* The exchange of a pass that goes on; where it fails, the pass is as before. */
static tacit_status_t go_on(tacit_moe_pass_t *pass, const char *what, tacit_status_t mine)
{
    const tacit_status_t status = exchange(pass->moe, pass, what, mine);

    if (status != TACIT_OK && mine == TACIT_OK) {
        tacit__moe_leave(pass);
    }
    return status;
}

tacit_status_t tacit_moe_combine(tacit_moe_pass_t *pass, const void *replies, const float *weights, void *out)
{
    static const char *const what = "tacit_moe_combine";
    tacit_status_t           status = enter(moe_of(pass), what), mine;

    if (status != TACIT_OK) {
        return status;
    }
    mine = check_outputs(pass, what, pass->count, weights, out);
    mine = mine == TACIT_OK ? tacit_moe_combine_begin(pass, replies) : mine;
    TRY(go_on(pass, what, mine));
    TRY(ended(pass->moe, tacit_moe_combine_end(pass, weights, out)));
out:
    tacit__comm_leave(pass->moe->comm);
    return status;
}

tacit_status_t tacit_moe_combine_backward(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients,
                                          void *reply_gradients)
{
    static const char *const what = "tacit_moe_combine_backward";
    tacit_status_t           status = enter(moe_of(pass), what), mine;

    if (status != TACIT_OK) {
        return status;
    }
    mine = check_outputs(pass, what, pass->batch.count, reply_gradients, reply_gradients);
    mine = mine == TACIT_OK ? tacit_moe_combine_backward_begin(pass, gradients, weight_gradients) : mine;
    TRY(go_on(pass, what, mine));
    TRY(ended(pass->moe, tacit_moe_combine_backward_end(pass, reply_gradients)));
out:
    tacit__comm_leave(pass->moe->comm);
    return status;
}

tacit_status_t tacit_moe_dispatch_backward(tacit_moe_pass_t *pass, const void *row_gradients, void *token_gradients)
{
    static const char *const what = "tacit_moe_dispatch_backward";
    tacit_status_t           status = enter(moe_of(pass), what), mine;

    if (status != TACIT_OK) {
        return status;
    }
    mine = check_outputs(pass, what, pass->count, token_gradients, token_gradients);
    mine = mine == TACIT_OK ? tacit_moe_dispatch_backward_begin(pass, row_gradients) : mine;
    TRY(go_on(pass, what, mine));
    TRY(ended(pass->moe, tacit_moe_dispatch_backward_end(pass, token_gradients)));
out:
    tacit__comm_leave(pass->moe->comm);
    return status;
}
