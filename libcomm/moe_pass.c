/* SPDX-License-Identifier: Apache-2.0 */
/* A pass through a mixture's layer: what its four exchanges begin and end with. What goes to the own rank is written where what
   others send is read. */
#include "moe.h"

#include <string.h>

#include "codec_unit.h"

/* ---- Rows and replies of a rank ---- */

static bool leaves_home(tacit_moe_exchange_t exchange)
{
    return exchange == TACIT_MOE_DISPATCH || exchange == TACIT_MOE_COMBINE_BACKWARD;
}

static bool has_replies(tacit_moe_exchange_t exchange)
{
    return exchange == TACIT_MOE_COMBINE || exchange == TACIT_MOE_COMBINE_BACKWARD;
}

typedef struct extent {
    size_t first, count;
} extent_t;

/* Those of this rank's tokens that go to `rank`, or those that have come from there. */
static extent_t extent_of(const tacit_moe_pass_t *pass, int rank, bool home, bool replies)
{
    const tacit_moe_sent_t    *sent = &pass->sent;
    const tacit_moe_arrival_t *arrival = &pass->arrivals[rank];
    const size_t               first = sent->first_row[rank], end = sent->first_row[rank + 1];

    if (!home) {
        return replies ? (extent_t){arrival->reply0, arrival->replies} : (extent_t){arrival->row0, arrival->rows};
    }
    return replies ? (extent_t){sent->first_reply[first], sent->first_reply[end] - sent->first_reply[first]}
                   : (extent_t){first, end - first};
}

tacit_moe_parcel_t tacit__moe_outgoing(const tacit_moe_pass_t *pass, int rank)
{
    const tacit_moe_exchange_t exchange = pass->exchange;
    const extent_t             extent = extent_of(pass, rank, leaves_home(exchange), has_replies(exchange));
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
    const extent_t             extent = extent_of(pass, rank, !leaves_home(exchange), has_replies(exchange));

    return (tacit_moe_parcel_t){
        .rows = exchange == TACIT_MOE_DISPATCH ? pass->arrivals[rank].memory
                                               : pass->incoming[exchange] + extent.first * pass->moe->row_bytes,
        .elements = extent.count * pass->moe->config.dimension,
    };
}

/* Where the rows or replies that go to a rank are written. */
static uint8_t *place_for(const tacit_moe_pass_t *pass, int rank)
{
    return (rank == pass->moe->rank ? tacit__moe_incoming(pass, rank) : tacit__moe_outgoing(pass, rank)).rows;
}

static bool is_own(const tacit_moe_pass_t *pass, size_t row)
{
    const size_t *first = pass->sent.first_row + pass->moe->rank;

    return row >= first[0] && row < first[1];
}

/* ---- Rows as float32 ---- */

/* Row `at` of some that lie one behind the other, as it is. */
static const float *load(const tacit_moe_t *moe, const void *rows, size_t at, float *scratch)
{
    return tacit__load(moe->config.dtype, TACIT_NONFINITE_PASS, rows, at * moe->config.dimension, moe->config.dimension, scratch);
}

/* The same where rows are clustered: what is not finite becomes what the policy says. */
static const float *load_clustered(const tacit_moe_t *moe, const void *rows, size_t at, float *scratch)
{
    return tacit__load(moe->config.dtype, moe->clusters ? moe->nonfinite : TACIT_NONFINITE_PASS, rows, at * moe->config.dimension,
                       moe->config.dimension, scratch);
}

static void store(const tacit_moe_t *moe, const float *values, void *row)
{
    tacit__store(moe->config.dtype, values, 0, moe->config.dimension, row);
}

/* The same, of what stands for a cluster: it must be finite in the layer's dtype, too. */
static bool store_clustered(const tacit_moe_t *moe, const float *values, void *row)
{
    store(moe, values, row);
    return !moe->clusters || moe->nonfinite != TACIT_NONFINITE_ERROR ||
           tacit__unit_is_finite(load(moe, row, 0, moe->scratch[0]), moe->config.dimension);
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

static void forget(uint8_t **memory)
{
    tacit__free(*memory);
    *memory = NULL;
}

/* Checks the call, and makes memory for what will be sent and received. Where the caller fails after it: tacit__moe_leave(). */
static tacit_status_t begin(tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange, const void *given)
{
    const tacit_moe_t *moe;
    size_t             home, away;

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
    pass->outgoing[exchange] = tacit__alloc_unset((leaves_home(exchange) ? home : away) * moe->row_bytes);
    pass->incoming[exchange] = tacit__alloc_unset((leaves_home(exchange) ? away : home) * moe->row_bytes);
    if (pass->outgoing[exchange] == NULL || pass->incoming[exchange] == NULL) {
        forget(&pass->outgoing[exchange]);
        forget(&pass->incoming[exchange]);
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %s of %zu rows and %zu that come", moe->rank,
                           moe->name, tacit__moe_exchanges[exchange], leaves_home(exchange) ? home : away,
                           leaves_home(exchange) ? away : home);
    }
    enter(pass, exchange);
    return TACIT_OK;
}

void tacit__moe_leave(tacit_moe_pass_t *pass)
{
    if (pass->exchange == TACIT_MOE_COMBINE) {
        tacit__free(pass->weights);
        pass->weights = NULL;
    } else if (pass->exchange == TACIT_MOE_COMBINE_BACKWARD) {
        forget(&pass->gradients);
    }
    forget(&pass->outgoing[pass->exchange]);
    forget(&pass->incoming[pass->exchange]);
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
    return TACIT_OK;
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

/* ---- Dispatch ---- */

/* The mean of a cluster, in the order of its tokens. */
static tacit_status_t write_centroid(tacit_moe_pass_t *pass, size_t row, void *out)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       dimension = moe->config.dimension;
    const uint32_t    *member = pass->sent.members + pass->sent.first_member[row];
    const size_t       members = pass->sent.first_member[row + 1] - pass->sent.first_member[row];
    float             *mean = moe->scratch[1];

    for (size_t i = 0; i < members; i++) {
        tacit__moe_add(mean, 1, load_clustered(moe, pass->tokens, member[i], moe->scratch[0]), dimension, i == 0);
    }
    tacit__moe_divide(mean, (float)members, dimension);
    for (size_t i = 0; i < members; i++) {
        const float *token = load_clustered(moe, pass->tokens, member[i], moe->scratch[0]);

        pass->norm += tacit__moe_dot(token, token, dimension);
        pass->beyond += members > 1 ? tacit__moe_distance(token, mean, dimension) : 0;
    }
    return store_clustered(moe, mean, out)
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_VALUE, "rank %d: moe '%s': the mean of token %u and %zu others is not finite", moe->rank,
                             moe->name, member[0], members - 1);
}

/* What goes to other ranks. */
static tacit_status_t write_rows(tacit_moe_pass_t *pass)
{
    const tacit_moe_t *moe = pass->moe;
    tacit_status_t     status = TACIT_OK;

    for (size_t row = 0; row < pass->sent.rows; row++) {
        uint8_t *out = pass->outgoing[TACIT_MOE_DISPATCH] + row * moe->row_bytes;

        if (is_own(pass, row)) {
            continue;
        }
        if (moe->clusters) {
            TRY(write_centroid(pass, row, out));
        } else {
            memcpy(out, (const uint8_t *)pass->tokens + pass->sent.members[row] * moe->row_bytes, moe->row_bytes);
        }
    }
out:
    return status;
}

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
    pass = tacit__alloc(1, sizeof *pass + (size_t)moe->ranks * sizeof *pass->arrivals);
    if (pass == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for a pass", moe->rank, moe->name);
    }
    *pass = (tacit_moe_pass_t){.moe = moe, .step = step, .values = moe->values, .tokens = tokens, .count = count};
    pass->tally.passes = 1;
    pass->tally.tokens = count;
    TRY(tacit__moe_lay_out(pass, experts));
    enter(pass, TACIT_MOE_DISPATCH);
    pass->outgoing[TACIT_MOE_DISPATCH] = tacit__alloc_unset(pass->sent.rows * moe->row_bytes);
    if (pass->outgoing[TACIT_MOE_DISPATCH] == NULL) {
        status =
            tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %zu rows", moe->rank, moe->name, pass->sent.rows);
        goto out;
    }
    TRY(write_rows(pass));
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

/* Rows that have come go to each of their experts. */
static void fill_batch(tacit_moe_pass_t *pass)
{
    const tacit_moe_t *moe = pass->moe;

    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];

        for (size_t row = 0; row < arrival->rows; row++) {
            const uint8_t *from =
                r != moe->rank ? (const uint8_t *)arrival->memory + row * moe->row_bytes
                               : (const uint8_t *)pass->tokens +
                                     pass->sent.members[pass->sent.first_member[pass->sent.first_row[r] + row]] * moe->row_bytes;

            for (uint32_t i = arrival->first_reply[row]; i < arrival->first_reply[row + 1]; i++) {
                memcpy((uint8_t *)pass->batch_rows + arrival->expert[i] * moe->row_bytes, from, moe->row_bytes);
            }
        }
    }
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
    fill_batch(pass);
    for (int r = 0; r < pass->moe->ranks; r++) {
        tacit__free(pass->arrivals[r].memory);
        pass->arrivals[r].memory = NULL;
    }
    if (!pass->moe->residual) {
        forget(&pass->outgoing[TACIT_MOE_DISPATCH]);
    }
    count_pass(pass);
    pass->open = false;
    *batch_out = pass->batch;
out:
    return status;
}

/* ---- Combine ---- */

/* Replies from the batch's order to that of messages. */
static void gather_replies(const tacit_moe_pass_t *pass, const void *batch)
{
    const tacit_moe_t *moe = pass->moe;

    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];
        uint8_t                   *to = place_for(pass, r);

        for (size_t i = 0; i < arrival->replies; i++) {
            memcpy(to + i * moe->row_bytes, (const uint8_t *)batch + arrival->expert[i] * moe->row_bytes, moe->row_bytes);
        }
    }
}

tacit_status_t tacit_moe_combine_begin(tacit_moe_pass_t *pass, const void *replies)
{
    tacit_status_t status;

    TRY(begin(pass, TACIT_MOE_COMBINE, replies));
    pass->weights = tacit__alloc_unset(pass->count * pass->moe->config.choices * sizeof *pass->weights);
    if (pass->weights == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %zu tokens' weights", pass->moe->rank,
                             pass->moe->name, pass->count);
        tacit__moe_leave(pass);
        goto out;
    }
    gather_replies(pass, replies);
out:
    return status;
}

/* What a token's reply stands for; in scratch, or in place. */
static const float *output_of(const tacit_moe_pass_t *pass, size_t token, uint32_t reply)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       row = pass->sent.row[reply];
    const float       *value = load(moe, pass->incoming[TACIT_MOE_COMBINE], reply, moe->scratch[0]);

    if (moe->residual && !is_own(pass, row)) {
        tacit__moe_output(value, load(moe, pass->outgoing[TACIT_MOE_DISPATCH], row, moe->scratch[1]),
                          load_clustered(moe, pass->tokens, token, moe->scratch[2]), moe->config.dimension, moe->scratch[3]);
        value = moe->scratch[3];
    }
    return value;
}

tacit_status_t tacit_moe_combine_end(tacit_moe_pass_t *pass, const float *weights, void *out)
{
    tacit_status_t status;
    size_t         choices, dimension;

    TRY(check_end(pass, TACIT_MOE_COMBINE, pass == NULL || pass->count == 0 || (weights != NULL && out != NULL)));
    choices = pass->moe->config.choices;
    dimension = pass->moe->config.dimension;
    for (size_t t = 0; t < pass->count; t++) {
        float *sum = pass->moe->scratch[4];
        bool   first = true;

        memcpy(pass->weights + t * choices, weights + t * choices, choices * sizeof *weights);
        for (size_t at = t * choices; at < (t + 1) * choices; at++) {
            if (pass->sent.reply[at] != TACIT_MOE_NOWHERE) {
                tacit__moe_add(sum, weights[at], output_of(pass, t, pass->sent.reply[at]), dimension, first);
                first = false;
            }
        }
        memset(sum, 0, first ? dimension * sizeof *sum : 0);
        store(pass->moe, sum, (uint8_t *)out + t * pass->moe->row_bytes);
    }
    forget(&pass->outgoing[TACIT_MOE_COMBINE]);
    count_dense(pass, pass->choices);
    pass->open = false;
out:
    return status;
}

/* ---- Backward ---- */

static float weight_of(const tacit_moe_pass_t *pass, size_t token, uint32_t reply)
{
    const size_t choices = pass->moe->config.choices;
    size_t       at = token * choices;

    while (pass->sent.reply[at] != reply) {
        at++;
    }
    return pass->weights[at];
}

/* The sum of what a reply's tokens make of it, in their order: the gradient that its expert sees. */
static tacit_status_t write_sum(const tacit_moe_pass_t *pass, const void *gradients, int rank, uint32_t reply, void *out)
{
    const tacit_moe_t *moe = pass->moe;
    const uint32_t    *first = pass->sent.first_member + pass->sent.row[reply];
    float             *sum = moe->scratch[1];

    for (uint32_t i = first[0]; i < first[1]; i++) {
        const uint32_t token = pass->sent.members[i];
        const float   *gradient = rank == moe->rank ? load(moe, gradients, token, moe->scratch[0])
                                                    : load_clustered(moe, gradients, token, moe->scratch[0]);

        tacit__moe_add(sum, weight_of(pass, token, reply), gradient, moe->config.dimension, i == first[0]);
    }
    if (rank == moe->rank) {
        store(moe, sum, out);
        return TACIT_OK;
    }
    return store_clustered(moe, sum, out) ? TACIT_OK : tacit__moe_report(pass, rank, TACIT_FAULT_NONFINITE);
}

static void fill_weight_gradients(const tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       choices = moe->config.choices;

    for (size_t at = 0; at < pass->count * choices; at++) {
        const uint32_t reply = pass->sent.reply[at];

        weight_gradients[at] = reply == TACIT_MOE_NOWHERE
                                   ? 0
                                   : (float)tacit__moe_dot(load(moe, gradients, at / choices, moe->scratch[4]),
                                                           output_of(pass, at / choices, reply), moe->config.dimension);
    }
}

tacit_status_t tacit_moe_combine_backward_begin(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients)
{
    tacit_status_t     status;
    const tacit_moe_t *moe;
    bool               begun = false;

    TRY(begin(pass, TACIT_MOE_COMBINE_BACKWARD, gradients));
    begun = true;
    moe = pass->moe;
    if (moe->residual) {
        pass->gradients = tacit__alloc_unset(pass->count * moe->row_bytes);
        if (pass->gradients == NULL) {
            status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for the gradients of %zu tokens", moe->rank,
                                 moe->name, pass->count);
            goto out;
        }
        if (pass->count != 0) {
            memcpy(pass->gradients, gradients, pass->count * moe->row_bytes);
        }
    }
    for (int r = 0; r < moe->ranks; r++) {
        const extent_t replies = extent_of(pass, r, true, true);
        uint8_t       *to = place_for(pass, r);

        for (size_t i = 0; i < replies.count; i++) {
            TRY(write_sum(pass, gradients, r, (uint32_t)(replies.first + i), to + i * moe->row_bytes));
        }
    }
    if (weight_gradients != NULL) {
        fill_weight_gradients(pass, gradients, weight_gradients);
    }
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
    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];
        const uint8_t             *from = pass->incoming[TACIT_MOE_COMBINE_BACKWARD] + arrival->reply0 * moe->row_bytes;

        for (size_t i = 0; i < arrival->replies; i++) {
            memcpy((uint8_t *)reply_gradients + arrival->expert[i] * moe->row_bytes, from + i * moe->row_bytes, moe->row_bytes);
        }
    }
    forget(&pass->outgoing[TACIT_MOE_DISPATCH]);
    forget(&pass->incoming[TACIT_MOE_COMBINE]);
    forget(&pass->incoming[TACIT_MOE_COMBINE_BACKWARD]);
    if (!moe->residual) {
        forget(&pass->outgoing[TACIT_MOE_COMBINE_BACKWARD]);
    }
    count_dense(pass, pass->choices);
    pass->open = false;
out:
    return status;
}

tacit_status_t tacit_moe_dispatch_backward_begin(tacit_moe_pass_t *pass, const void *row_gradients)
{
    tacit_status_t     status;
    const tacit_moe_t *moe;

    TRY(begin(pass, TACIT_MOE_DISPATCH_BACKWARD, row_gradients));
    moe = pass->moe;
    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];
        uint8_t                   *to = place_for(pass, r);
        float                     *sum = moe->scratch[1];

        for (size_t row = 0; row < arrival->rows; row++) {
            for (uint32_t i = arrival->first_reply[row]; i < arrival->first_reply[row + 1]; i++) {
                tacit__moe_add(sum, 1, load(moe, row_gradients, arrival->expert[i], moe->scratch[0]), moe->config.dimension,
                               i == arrival->first_reply[row]);
            }
            store(moe, sum, to + row * moe->row_bytes);
        }
    }
out:
    return status;
}

/* What a row's gradient is for one of its tokens; in scratch. */
static const float *gradient_of(const tacit_moe_pass_t *pass, size_t token, size_t row)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       dimension = moe->config.dimension;
    const uint32_t    *member = pass->sent.first_member + row, *reply = pass->sent.first_reply + row;
    const float        members = (float)(member[1] - member[0]);
    const float       *value = load(moe, pass->incoming[TACIT_MOE_DISPATCH_BACKWARD], row, moe->scratch[0]);
    float             *sum = moe->scratch[1], *own = moe->scratch[2], *gradient = moe->scratch[3];

    if (!moe->residual || is_own(pass, row)) {
        tacit__moe_add(gradient, 1, value, dimension, true);
        tacit__moe_divide(gradient, members, dimension);
        return gradient;
    }
    for (uint32_t i = reply[0]; i < reply[1]; i++) {
        tacit__moe_add(sum, 1, load(moe, pass->outgoing[TACIT_MOE_COMBINE_BACKWARD], i, gradient), dimension, i == reply[0]);
        tacit__moe_add(own, weight_of(pass, token, i), load_clustered(moe, pass->gradients, token, gradient), dimension,
                       i == reply[0]);
    }
    tacit__moe_gradient(value, sum, own, members, dimension, gradient);
    return gradient;
}

/* A token's rows, ascending; at most as many as choices. */
static size_t rows_of(const tacit_moe_pass_t *pass, size_t token, uint32_t *rows)
{
    const size_t choices = pass->moe->config.choices;
    size_t       count = 0;

    for (size_t at = token * choices; at < (token + 1) * choices; at++) {
        const uint32_t reply = pass->sent.reply[at], row = reply != TACIT_MOE_NOWHERE ? pass->sent.row[reply] : 0;
        size_t         place = 0;

        while (place < count && rows[place] < row) {
            place++;
        }
        if (reply == TACIT_MOE_NOWHERE || (place < count && rows[place] == row)) {
            continue;
        }
        memmove(rows + place + 1, rows + place, (count - place) * sizeof *rows);
        rows[place] = row;
        count++;
    }
    return count;
}

tacit_status_t tacit_moe_dispatch_backward_end(tacit_moe_pass_t *pass, void *token_gradients)
{
    tacit_status_t     status;
    const tacit_moe_t *moe;

    TRY(check_end(pass, TACIT_MOE_DISPATCH_BACKWARD, pass == NULL || pass->count == 0 || token_gradients != NULL));
    moe = pass->moe;
    for (size_t t = 0; t < pass->count; t++) {
        const size_t count = rows_of(pass, t, moe->order);
        float       *sum = moe->scratch[4];

        for (size_t i = 0; i < count; i++) {
            tacit__moe_add(sum, 1, gradient_of(pass, t, moe->order[i]), moe->config.dimension, i == 0);
        }
        memset(sum, 0, count == 0 ? moe->config.dimension * sizeof *sum : 0);
        store(moe, sum, (uint8_t *)token_gradients + t * moe->row_bytes);
    }
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
        tacit__free(pass->arrivals[r].memory);
    }
    for (size_t x = 0; x < TACIT_MOE_EXCHANGES; x++) {
        tacit__free(pass->outgoing[x]);
        tacit__free(pass->incoming[x]);
    }
    tacit__moe_sent_release(&pass->sent);
    tacit__free(pass->batch_rows);
    tacit__free(pass->batch_first);
    tacit__free(pass->weights);
    tacit__free(pass->gradients);
    tacit__free(pass);
}
