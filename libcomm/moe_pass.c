/* SPDX-License-Identifier: Apache-2.0 */
/* A pass through a mixture's layer: the calls that its four exchanges begin and end with, in their order, and its memory. */
#include "moe_device.h"

#include <string.h>

/* ---- Rows and replies of a rank ---- */

static bool leaves_home(tacit_moe_exchange_t exchange)
{
    return exchange == TACIT_MOE_DISPATCH || exchange == TACIT_MOE_COMBINE_BACKWARD;
}

static bool has_replies(tacit_moe_exchange_t exchange)
{
    return exchange == TACIT_MOE_COMBINE || exchange == TACIT_MOE_COMBINE_BACKWARD;
}

tacit_moe_extent_t tacit__moe_extent(const tacit_moe_pass_t *pass, int rank, bool home, bool replies)
{
    const tacit_moe_sent_t    *sent = &pass->sent;
    const tacit_moe_arrival_t *arrival = &pass->arrivals[rank];
    const size_t               first = sent->first_row[rank], end = sent->first_row[rank + 1];

    if (!home) {
        return replies ? (tacit_moe_extent_t){arrival->reply0, arrival->replies}
                       : (tacit_moe_extent_t){arrival->row0, arrival->rows};
    }
    return replies ? (tacit_moe_extent_t){sent->first_reply[first], sent->first_reply[end] - sent->first_reply[first]}
                   : (tacit_moe_extent_t){first, end - first};
}

tacit_moe_parcel_t tacit__moe_outgoing(const tacit_moe_pass_t *pass, int rank)
{
    const tacit_moe_exchange_t exchange = pass->exchange;
    const tacit_moe_extent_t   extent = tacit__moe_extent(pass, rank, leaves_home(exchange), has_replies(exchange));
    const tacit_moe_sent_t    *sent = &pass->sent;
    tacit_moe_parcel_t         parcel = {0};

    if (exchange == TACIT_MOE_DISPATCH) {
        parcel.head = sent->heads + sent->first_head[rank];
        parcel.head_bytes = sent->first_head[rank + 1] - sent->first_head[rank];
    }
    parcel.rows = pass->outgoing[exchange] + extent.first * pass->moe->row_bytes;
    parcel.elements = extent.count * pass->moe->config.dimension;
    parcel.decoded = pass->moe->residual && leaves_home(exchange) ? parcel.rows : NULL;
    return parcel;
}

tacit_moe_parcel_t tacit__moe_incoming(const tacit_moe_pass_t *pass, int rank)
{
    const tacit_moe_exchange_t exchange = pass->exchange;
    const tacit_moe_extent_t   extent = tacit__moe_extent(pass, rank, !leaves_home(exchange), has_replies(exchange));

    return (tacit_moe_parcel_t){
        .rows = exchange == TACIT_MOE_DISPATCH ? pass->arrivals[rank].memory
                                               : pass->incoming[exchange] + extent.first * pass->moe->row_bytes,
        .elements = extent.count * pass->moe->config.dimension,
    };
}

/* ---- Calls and their order ---- */

const char *const tacit__moe_exchanges[] = {"dispatch", "combine", "combine_backward", "dispatch_backward"};

/* Random numbers of an exchange are its own. */
static void enter(tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange)
{
    pass->exchange = exchange;
    pass->open = true;
    pass->values.key.step = (uint64_t)pass->step * TACIT_MOE_EXCHANGES + exchange;
    for (int r = 0; r < pass->moe->ranks; r++) {
        pass->arrivals[r].written = pass->arrivals[r].read = r == pass->moe->rank;
    }
}

static void forget(const tacit_moe_pass_t *pass, uint8_t **memory)
{
    tacit__moe_put(pass->moe, *memory);
    *memory = NULL;
}

static void forget_outgoing(tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange)
{
    forget(pass, &pass->outgoing[exchange]);
    forget(pass, &pass->outgoing_there[exchange]);
}

static void forget_incoming(tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange)
{
    forget(pass, &pass->incoming[exchange]);
    forget(pass, &pass->incoming_there[exchange]);
}

/* Memory of an exchange, on a GPU twice. incoming: not in dispatch, where it is not known yet. */
static tacit_status_t make_rows(tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange, size_t outgoing, size_t incoming)
{
    tacit_moe_t *moe = pass->moe;
    uint8_t    **rows[] = {&pass->outgoing[exchange], &pass->incoming[exchange], &pass->outgoing_there[exchange],
                           &pass->incoming_there[exchange]};
    bool         all = true;

    for (size_t i = 0; i < (moe->device != NULL ? 4 : 2); i++) {
        if (i % 2 == 0 || exchange != TACIT_MOE_DISPATCH) {
            *rows[i] = tacit__moe_get(moe, i < 2 ? TACIT_MOE_MESSAGES : TACIT_MOE_TOKENS,
                                      (i % 2 == 0 ? outgoing : incoming) * moe->row_bytes);
            all = all && *rows[i] != NULL;
        }
    }
    if (!all) {
        forget_outgoing(pass, exchange);
        forget_incoming(pass, exchange);
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %s of %zu rows and %zu that come", moe->rank,
                           moe->name, tacit__moe_exchanges[exchange], outgoing, incoming);
    }
    return TACIT_OK;
}

/* Checks the call, and makes memory for what will be sent and received. Where the caller fails after it: tacit__moe_leave(). */
static tacit_status_t begin(tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange, const void *given)
{
    const tacit_moe_t *moe;
    size_t             home, away;
    tacit_status_t     status;

    if (pass == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe: %s_begin: there is no pass", tacit__moe_exchanges[exchange]);
    }
    moe = pass->moe;
    home = has_replies(exchange) ? pass->sent.replies : pass->sent.rows;
    away = has_replies(exchange) ? pass->replies : pass->rows;
    if (pass->open || pass->exchange + 1 != exchange) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: moe '%s': %s_begin comes after %s_end, but %s has %s last", moe->rank,
                           moe->name, tacit__moe_exchanges[exchange], tacit__moe_exchanges[exchange - 1],
                           tacit__moe_exchanges[pass->exchange], pass->open ? "begun" : "ended");
    }
    if (given == NULL && (leaves_home(exchange) ? pass->count : pass->batch.count) != 0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: moe '%s': %s_begin: the rows are NULL", moe->rank, moe->name,
                           tacit__moe_exchanges[exchange]);
    }
    if (moe->device != NULL) {
        TRY(tacit__moe_device_enter(moe));
    }
    TRY(make_rows(pass, exchange, leaves_home(exchange) ? home : away, leaves_home(exchange) ? away : home));
    enter(pass, exchange);
out:
    return status;
}

static void forget_weights(tacit_moe_pass_t *pass)
{
    tacit__moe_put(pass->moe, pass->weights);
    pass->weights = NULL;
}

void tacit__moe_leave(tacit_moe_pass_t *pass)
{
    if (pass->exchange == TACIT_MOE_COMBINE) {
        forget_weights(pass);
    } else if (pass->exchange == TACIT_MOE_COMBINE_BACKWARD) {
        forget(pass, &pass->gradients);
    }
    forget_outgoing(pass, pass->exchange);
    forget_incoming(pass, pass->exchange);
    pass->exchange--;
    pass->open = false;
}

static tacit_status_t check_end(const tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange, bool given)
{
    const tacit_moe_t *moe;

    if (pass == NULL || !given) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe%s%s: %s_end: %s", pass != NULL ? " " : "",
                           pass != NULL ? pass->moe->name : "", tacit__moe_exchanges[exchange],
                           pass != NULL ? "what it reads or writes is NULL" : "there is no pass");
    }
    moe = pass->moe;
    if (!pass->open || pass->exchange != exchange) {
        return tacit__fail(TACIT_ERR_STATE, "rank %d: moe '%s': %s_end comes after %s_begin, but %s has %s last", moe->rank,
                           moe->name, tacit__moe_exchanges[exchange], tacit__moe_exchanges[exchange],
                           tacit__moe_exchanges[pass->exchange], pass->open ? "begun" : "ended");
    }
    for (int r = 0; r < moe->ranks; r++) {
        if (!pass->arrivals[r].written || !pass->arrivals[r].read) {
            return tacit__fail(TACIT_ERR_STATE, "rank %d: moe '%s': %s_end: the message %s rank %d has not been %s", moe->rank,
                               moe->name, tacit__moe_exchanges[exchange], pass->arrivals[r].written ? "from" : "to", r,
                               pass->arrivals[r].written ? "read" : "written");
        }
    }
    return moe->device != NULL ? tacit__moe_device_enter(moe) : TACIT_OK;
}

void tacit__moe_written(tacit_moe_pass_t *pass, int rank, size_t bytes)
{
    pass->moe->counters.wire_bytes += bytes;
    pass->arrivals[rank].written = true;
}

void tacit__moe_read(tacit_moe_pass_t *pass, int rank)
{
    pass->arrivals[rank].read = true;
}

tacit_status_t tacit__moe_report(const tacit_moe_pass_t *pass, int rank, uint32_t faults)
{
    return faults == 0 ? TACIT_OK
                       : tacit__fail(TACIT_ERR_VALUE, "rank %d: moe '%s': what goes to rank %d in %s holds NaN or infinity",
                                     pass->moe->rank, pass->moe->name, rank, tacit__moe_exchanges[pass->exchange]);
}

tacit_status_t tacit__moe_report_mean(const tacit_moe_pass_t *pass, uint32_t token, size_t members)
{
    return tacit__fail(TACIT_ERR_VALUE, "rank %d: moe '%s': the mean of token %u and %zu others is not finite", pass->moe->rank,
                       pass->moe->name, token, members - 1);
}

/* ---- Dispatch ---- */

static tacit_status_t check_dispatch(const tacit_moe_t *moe, const void *tokens, size_t count, const int32_t *experts,
                                     const void *pass_out)
{
    if (moe == NULL || pass_out == NULL || (count != 0 && (tokens == NULL || experts == NULL))) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "moe%s%s: dispatch: the layer, tokens, experts and pass_out must be given",
                           moe != NULL ? " " : "", moe != NULL ? moe->name : "");
    }
    return count <= moe->config.tokens
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: moe '%s': %zu tokens, where the configuration allows %zu", moe->rank,
                             moe->name, count, moe->config.tokens);
}

static void link_pass(tacit_moe_pass_t *pass)
{
    pass->after = pass->moe->first;
    if (pass->after != NULL) {
        pass->after->before = pass;
    }
    pass->moe->first = pass;
}

static void unlink_pass(const tacit_moe_pass_t *pass)
{
    if (pass->after != NULL) {
        pass->after->before = pass->before;
    }
    if (pass->before != NULL) {
        pass->before->after = pass->after;
    } else if (pass->moe->first == pass) {
        pass->moe->first = pass->after;
    }
}

tacit_status_t tacit_moe_dispatch_begin(tacit_moe_t *moe, const void *tokens, size_t count, const int32_t *experts,
                                        tacit_moe_pass_t **pass_out)
{
    tacit_status_t    status;
    tacit_moe_pass_t *pass = NULL;
    const uint32_t    step = moe != NULL ? (uint32_t)moe->passes++ : 0; /* other ranks count a call that fails here, too */

    TRY(check_dispatch(moe, tokens, count, experts, pass_out));
    if (moe->device != NULL) {
        TRY(tacit__moe_device_enter(moe));
    }
    pass = tacit__alloc(1, sizeof *pass + (size_t)moe->ranks * sizeof *pass->arrivals);
    if (pass == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for a pass", moe->rank, moe->name);
    }
    *pass = (tacit_moe_pass_t){.moe = moe, .step = step, .values = moe->values, .tokens = tokens, .count = count};
    pass->tally.passes = 1;
    pass->tally.tokens = count;
    TRY(tacit__moe_lay_out(pass, experts));
    enter(pass, TACIT_MOE_DISPATCH);
    TRY(make_rows(pass, TACIT_MOE_DISPATCH, pass->sent.rows, 0));
    TRY(moe->work->write_rows(pass));
    TRY(tacit__moe_meet(pass, moe->rank, tacit__moe_outgoing(pass, moe->rank).head,
                        tacit__moe_outgoing(pass, moe->rank).head_bytes));
    pass->arrivals[moe->rank].read = pass->arrivals[moe->rank].written = true;
    link_pass(pass);
    *pass_out = pass;
    pass = NULL; /* now the caller's */
out:
    tacit_moe_pass_destroy(pass);
    return status;
}

/* Float32 rows of this rank's tokens, one a copy in one direction or, as replies, one a choice. Of a cluster that has come nobody
   knows how many tokens it is of; so what goes back to them is counted where they are. */
static void count_dense(const tacit_moe_pass_t *pass, size_t rows)
{
    pass->moe->counters.dense_bytes += (uint64_t)rows * pass->moe->config.dimension * sizeof(float);
}

static void count_pass(const tacit_moe_pass_t *pass)
{
    tacit_moe_counters_t       *counters = &pass->moe->counters;
    const tacit_moe_counters_t *tally = &pass->tally;

    counters->passes += tally->passes;
    counters->tokens += tally->tokens;
    counters->copies += tally->copies;
    counters->rows += tally->rows;
    counters->overflows += tally->overflows;
    counters->hashes = tally->hashes;
    count_dense(pass, tally->copies);
    pass->moe->beyond += pass->beyond;
    pass->moe->norm += pass->norm;
}

tacit_status_t tacit_moe_dispatch_end(tacit_moe_pass_t *pass, tacit_moe_batch_t *batch_out)
{
    tacit_status_t status;

    TRY(check_end(pass, TACIT_MOE_DISPATCH, batch_out != NULL));
    TRY(tacit__moe_place(pass));
    TRY(pass->moe->work->fill_batch(pass));
    for (int r = 0; r < pass->moe->ranks; r++) {
        tacit__moe_put(pass->moe, pass->arrivals[r].memory);
        pass->arrivals[r].memory = NULL;
    }
    if (!pass->moe->residual) {
        forget_outgoing(pass, TACIT_MOE_DISPATCH);
    }
    count_pass(pass);
    pass->open = false;
    *batch_out = pass->batch;
out:
    return status;
}

/* ---- Combine ---- */

tacit_status_t tacit_moe_combine_begin(tacit_moe_pass_t *pass, const void *replies)
{
    tacit_status_t status;
    bool           begun = false;

    TRY(begin(pass, TACIT_MOE_COMBINE, replies));
    begun = true;
    pass->weights = tacit__moe_get(pass->moe, TACIT_MOE_TOKENS, pass->count * pass->moe->config.choices * sizeof *pass->weights);
    if (pass->weights == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %zu tokens' weights", pass->moe->rank,
                             pass->moe->name, pass->count);
        goto out;
    }
    TRY(pass->moe->work->gather_replies(pass, replies));
out:
    if (status != TACIT_OK && begun) {
        tacit__moe_leave(pass);
    }
    return status;
}

tacit_status_t tacit_moe_combine_end(tacit_moe_pass_t *pass, const float *weights, void *out)
{
    tacit_status_t status;

    TRY(check_end(pass, TACIT_MOE_COMBINE, pass == NULL || pass->count == 0 || (weights != NULL && out != NULL)));
    TRY(pass->moe->work->combine(pass, weights, out));
    forget_outgoing(pass, TACIT_MOE_COMBINE);
    count_dense(pass, pass->choices);
    pass->open = false;
out:
    return status;
}

/* ---- Backward ---- */

tacit_status_t tacit_moe_combine_backward_begin(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients)
{
    tacit_status_t     status;
    const tacit_moe_t *moe;
    bool               begun = false;

    TRY(begin(pass, TACIT_MOE_COMBINE_BACKWARD, gradients));
    begun = true;
    moe = pass->moe;
    if (moe->residual) {
        pass->gradients = tacit__moe_get(pass->moe, TACIT_MOE_TOKENS, pass->count * moe->row_bytes);
        if (pass->gradients == NULL) {
            status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for the gradients of %zu tokens", moe->rank,
                                 moe->name, pass->count);
            goto out;
        }
    }
    TRY(moe->work->write_sums(pass, gradients, weight_gradients));
out:
    if (status != TACIT_OK && begun) {
        tacit__moe_leave(pass);
    }
    return status;
}

tacit_status_t tacit_moe_combine_backward_end(tacit_moe_pass_t *pass, void *reply_gradients)
{
    tacit_status_t     status;
    const tacit_moe_t *moe;

    TRY(check_end(pass, TACIT_MOE_COMBINE_BACKWARD, pass == NULL || pass->batch.count == 0 || reply_gradients != NULL));
    moe = pass->moe;
    TRY(moe->work->scatter_sums(pass, reply_gradients));
    forget_outgoing(pass, TACIT_MOE_DISPATCH);
    forget_incoming(pass, TACIT_MOE_COMBINE);
    forget_incoming(pass, TACIT_MOE_COMBINE_BACKWARD);
    if (!moe->residual) {
        forget_outgoing(pass, TACIT_MOE_COMBINE_BACKWARD);
    }
    count_dense(pass, pass->choices);
    pass->open = false;
out:
    return status;
}

tacit_status_t tacit_moe_dispatch_backward_begin(tacit_moe_pass_t *pass, const void *row_gradients)
{
    tacit_status_t status;
    bool           begun = false;

    TRY(begin(pass, TACIT_MOE_DISPATCH_BACKWARD, row_gradients));
    begun = true;
    TRY(pass->moe->work->write_gradients(pass, row_gradients));
out:
    if (status != TACIT_OK && begun) {
        tacit__moe_leave(pass);
    }
    return status;
}

tacit_status_t tacit_moe_dispatch_backward_end(tacit_moe_pass_t *pass, void *token_gradients)
{
    tacit_status_t status;

    TRY(check_end(pass, TACIT_MOE_DISPATCH_BACKWARD, pass == NULL || pass->count == 0 || token_gradients != NULL));
    TRY(pass->moe->work->spread(pass, token_gradients));
    count_dense(pass, pass->tally.copies);
    pass->open = false;
out:
    return status;
}

void tacit_moe_pass_destroy(tacit_moe_pass_t *pass)
{
    if (pass == NULL) {
        return;
    }
    unlink_pass(pass);
    for (int r = 0; r < pass->moe->ranks; r++) {
        tacit__free(pass->arrivals[r].first_reply);
        tacit__free(pass->arrivals[r].expert);
        tacit__moe_put(pass->moe, pass->arrivals[r].memory);
    }
    for (tacit_moe_exchange_t x = TACIT_MOE_DISPATCH; x < TACIT_MOE_EXCHANGES; x++) {
        forget_outgoing(pass, x);
        forget_incoming(pass, x);
    }
    tacit__moe_device_forget(pass);
    tacit__moe_sent_release(&pass->sent);
    tacit__moe_put(pass->moe, pass->batch_rows);
    tacit__free(pass->batch_first);
    forget_weights(pass);
    forget(pass, &pass->gradients);
    tacit__free(pass);
}
