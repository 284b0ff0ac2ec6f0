/* SPDX-License-Identifier: Apache-2.0 */
/* What a pass through a mixture's layer computes, where tokens are in the CPU's memory. What goes to the own rank is written
   where what others send is read. */
#include "moe.h"

#include <string.h>

#include "codec_unit.h"

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
    return store_clustered(moe, mean, out) ? TACIT_OK : tacit__moe_report_mean(pass, member[0], members);
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

/* Rows that have come go to each of their experts. */
static tacit_status_t fill_batch(tacit_moe_pass_t *pass)
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
    return TACIT_OK;
}

/* ---- Combine ---- */

/* Replies from the batch's order to that of messages. */
static tacit_status_t gather_replies(tacit_moe_pass_t *pass, const void *batch)
{
    const tacit_moe_t *moe = pass->moe;

    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];
        uint8_t                   *to = place_for(pass, r);

        for (size_t i = 0; i < arrival->replies; i++) {
            memcpy(to + i * moe->row_bytes, (const uint8_t *)batch + arrival->expert[i] * moe->row_bytes, moe->row_bytes);
        }
    }
    return TACIT_OK;
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

static tacit_status_t combine(tacit_moe_pass_t *pass, const float *weights, void *out)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       choices = moe->config.choices, dimension = moe->config.dimension;

    for (size_t t = 0; t < pass->count; t++) {
        float *sum = moe->scratch[4];
        bool   first = true;

        memcpy(pass->weights + t * choices, weights + t * choices, choices * sizeof *weights);
        for (size_t at = t * choices; at < (t + 1) * choices; at++) {
            if (pass->sent.reply[at] != TACIT_MOE_NOWHERE) {
                tacit__moe_add(sum, weights[at], output_of(pass, t, pass->sent.reply[at]), dimension, first);
                first = false;
            }
        }
        memset(sum, 0, first ? dimension * sizeof *sum : 0);
        store(moe, sum, (uint8_t *)out + t * moe->row_bytes);
    }
    return TACIT_OK;
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

static tacit_status_t write_sums(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients)
{
    const tacit_moe_t *moe = pass->moe;
    tacit_status_t     status = TACIT_OK;

    if (moe->residual && pass->count != 0) {
        memcpy(pass->gradients, gradients, pass->count * moe->row_bytes);
    }
    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_extent_t replies = tacit__moe_extent(pass, r, true, true);
        uint8_t                 *to = place_for(pass, r);

        for (size_t i = 0; i < replies.count; i++) {
            TRY(write_sum(pass, gradients, r, (uint32_t)(replies.first + i), to + i * moe->row_bytes));
        }
    }
    if (weight_gradients != NULL) {
        fill_weight_gradients(pass, gradients, weight_gradients);
    }
out:
    return status;
}

/* Gradients of replies from messages to the batch's order. */
static tacit_status_t scatter_sums(tacit_moe_pass_t *pass, void *batch)
{
    const tacit_moe_t *moe = pass->moe;

    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];
        const uint8_t             *from = pass->incoming[TACIT_MOE_COMBINE_BACKWARD] + arrival->reply0 * moe->row_bytes;

        for (size_t i = 0; i < arrival->replies; i++) {
            memcpy((uint8_t *)batch + arrival->expert[i] * moe->row_bytes, from + i * moe->row_bytes, moe->row_bytes);
        }
    }
    return TACIT_OK;
}

/* What the experts of each row that has come make of its gradient. */
static tacit_status_t write_gradients(tacit_moe_pass_t *pass, const void *batch)
{
    const tacit_moe_t *moe = pass->moe;

    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];
        uint8_t                   *to = place_for(pass, r);
        float                     *sum = moe->scratch[1];

        for (size_t row = 0; row < arrival->rows; row++) {
            for (uint32_t i = arrival->first_reply[row]; i < arrival->first_reply[row + 1]; i++) {
                tacit__moe_add(sum, 1, load(moe, batch, arrival->expert[i], moe->scratch[0]), moe->config.dimension,
                               i == arrival->first_reply[row]);
            }
            store(moe, sum, to + row * moe->row_bytes);
        }
    }
    return TACIT_OK;
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

static tacit_status_t spread(tacit_moe_pass_t *pass, void *token_gradients)
{
    const tacit_moe_t *moe = pass->moe;

    for (size_t t = 0; t < pass->count; t++) {
        const size_t count = rows_of(pass, t, moe->order);
        float       *sum = moe->scratch[4];

        for (size_t i = 0; i < count; i++) {
            tacit__moe_add(sum, 1, gradient_of(pass, t, moe->order[i]), moe->config.dimension, i == 0);
        }
        memset(sum, 0, count == 0 ? moe->config.dimension * sizeof *sum : 0);
        store(moe, sum, (uint8_t *)token_gradients + t * moe->row_bytes);
    }
    return TACIT_OK;
}

const tacit_moe_work_t tacit__moe_cpu = {.write_rows = write_rows,
                                         .fill_batch = fill_batch,
                                         .gather_replies = gather_replies,
                                         .combine = combine,
                                         .write_sums = write_sums,
                                         .scatter_sums = scatter_sums,
                                         .write_gradients = write_gradients,
                                         .spread = spread};
