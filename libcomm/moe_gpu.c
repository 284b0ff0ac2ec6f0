/* SPDX-License-Identifier: Apache-2.0 */
/* What a pass through a mixture's layer computes, where tokens are in a GPU's memory: the results of moe_cpu.c, to the bit. What
   the own rank keeps is written where what others send is copied to, and does not leave the GPU. */
#include "moe_device.h"

#include <string.h>

/* Numbers of tacit_moe_sent_t and, of each reply, a list of its tokens and of the choices by which they are that. */
typedef struct sent_numbers {
    uint32_t *first_reply, *first_member, *members, *row, *reply;
    uint32_t *row_of; /* of each member */
    uint32_t *begin, *token, *choice;
} sent_numbers_t;

/* Of each reply to what has come its row of the batch, and where the batch gets it from: a row that has come, or a token of the
   own rank. And the first reply of each row that has come. */
typedef struct come_numbers {
    uint32_t *batch_row, *from, *begin;
} come_numbers_t;

/* Each begins its memory, which is the GPU's, with its first; image: memory that the GPU copies from, until it has. */
struct tacit_moe_numbers {
    sent_numbers_t sent;
    come_numbers_t come, image;
};

static void *room_for(const tacit_moe_pass_t *pass, tacit_moe_room_t room, size_t count, size_t size)
{
    return tacit__moe_get(pass->moe, room, count * size);
}

static tacit_status_t no_memory(const tacit_moe_pass_t *pass)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory of the GPU, or that it copies to, for %zu tokens",
                       pass->moe->rank, pass->moe->name, pass->count);
}

static tacit_status_t launched(const tacit_moe_pass_t *pass, int error)
{
    return tacit__moe_device_check(pass->moe, error, "a launch");
}

static tacit_status_t copied(const tacit_moe_pass_t *pass, void *to, const void *from, size_t bytes)
{
    const tacit_moe_t *moe = pass->moe;

    return bytes == 0 ? TACIT_OK
                      : tacit__moe_device_check(moe, moe->device->module->copy(to, from, bytes, tacit__moe_device_stream(moe)),
                                                "a copy");
}

static void forget(const tacit_moe_pass_t *pass, uint8_t **memory)
{
    tacit__moe_put(pass->moe, *memory);
    *memory = NULL;
}

/* ---- Rows ---- */

/* Of tokens and their gradients where rows are clustered, what is not finite becomes what the policy says. */
static tacit_device_tokens_t shape_of(const tacit_moe_pass_t *pass, size_t count, bool clustered)
{
    const tacit_moe_t *moe = pass->moe;

    return (tacit_device_tokens_t){.count = (uint32_t)count,
                                   .dimension = (uint32_t)moe->config.dimension,
                                   .dtype = (uint8_t)moe->config.dtype,
                                   .skip = clustered && moe->clusters && moe->nonfinite == TACIT_NONFINITE_SKIP};
}

/* Those of all other ranks: before the own ones, and behind them. */
typedef struct others {
    tacit_moe_extent_t part[2], own;
} others_t;

static others_t others_of(const tacit_moe_pass_t *pass, bool home, bool replies)
{
    const tacit_moe_extent_t own = tacit__moe_extent(pass, pass->moe->rank, home, replies);
    const size_t             end = own.first + own.count;
    const size_t all = home ? (replies ? pass->sent.replies : pass->sent.rows) : (replies ? pass->replies : pass->rows);

    return (others_t){{{0, own.first}, {end, all - end}}, own};
}

static uint8_t *row_at(const tacit_moe_pass_t *pass, const void *rows, size_t row)
{
    return (uint8_t *)(uintptr_t)rows + row * pass->moe->row_bytes;
}

static tacit_status_t copy_others(const tacit_moe_pass_t *pass, uint8_t *to, const uint8_t *from, const others_t *others)
{
    tacit_status_t status;

    for (int p = 0; p < 2; p++) {
        const tacit_moe_extent_t part = others->part[p];

        TRY(copied(pass, row_at(pass, to, part.first), row_at(pass, from, part.first), part.count * pass->moe->row_bytes));
    }
    status = TACIT_OK;
out:
    return status;
}

/* What receivers have made of rows that are remembered: the encoder has written it where they were. */
static tacit_status_t copy_decoded(const tacit_moe_pass_t *pass, tacit_moe_exchange_t exchange, bool replies)
{
    const others_t others = others_of(pass, true, replies);

    return pass->moe->residual && !tacit__values_are_exact(&pass->values)
               ? copy_others(pass, pass->outgoing_there[exchange], pass->outgoing[exchange], &others)
               : TACIT_OK;
}

static tacit_status_t copy_rows(const tacit_moe_pass_t *pass, const void *from, const uint32_t *from_index, void *to,
                                const uint32_t *to_index, size_t count)
{
    const tacit_moe_t *moe = pass->moe;

    return launched(pass, moe->device->module->copy_rows(from, from_index, to, to_index, (uint32_t)count, moe->row_bytes,
                                                         tacit__moe_device_stream(moe)));
}

/* The first row for other ranks that is not finite, where that is a fault; SIZE_MAX: none. */
static tacit_status_t find_bad(const tacit_moe_pass_t *pass, const uint8_t *rows, const others_t *others, size_t *bad_out)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       all = others->part[1].first + others->part[1].count;
    uint32_t          *found = NULL, *told = NULL;
    tacit_status_t     status = TACIT_OK;

    *bad_out = SIZE_MAX;
    if (!moe->clusters || moe->nonfinite != TACIT_NONFINITE_ERROR) {
        return TACIT_OK;
    }
    found = room_for(pass, TACIT_MOE_TOKENS, all, sizeof *found);
    told = room_for(pass, TACIT_MOE_MESSAGES, all, sizeof *told);
    if (found == NULL || told == NULL) {
        status = no_memory(pass);
        goto out;
    }
    for (int p = 0; p < 2; p++) {
        const tacit_moe_extent_t    part = others->part[p];
        const tacit_device_tokens_t shape = shape_of(pass, part.count, false);

        TRY(launched(pass, moe->device->module->check_rows(&shape, row_at(pass, rows, part.first), found + part.first,
                                                           tacit__moe_device_stream(moe))));
        TRY(copied(pass, told + part.first, found + part.first, part.count * sizeof *told));
    }
out:
    status = tacit__moe_device_settle(moe, status);
    for (int p = 0; status == TACIT_OK && p < 2; p++) {
        const tacit_moe_extent_t part = others->part[p];

        for (size_t row = part.first; row < part.first + part.count && *bad_out == SIZE_MAX; row++) {
            *bad_out = told[row] != 0 ? row : SIZE_MAX;
        }
    }
    tacit__moe_put(pass->moe, found);
    tacit__moe_put(pass->moe, told);
    return status;
}

/* ---- Dispatch ---- */

tacit_status_t tacit__moe_device_codes(const tacit_moe_pass_t *pass, uint32_t *words)
{
    const tacit_moe_t          *moe = pass->moe;
    const tacit_cuda_module_t  *module = moe->device->module;
    const size_t                codes = pass->count * moe->rotations.hashes;
    const tacit_device_tokens_t shape = shape_of(pass, pass->count, true), given = shape_of(pass, pass->count, false);
    uint32_t                   *found = room_for(pass, TACIT_MOE_TOKENS, codes + pass->count, sizeof *found);
    void                       *stream = tacit__moe_device_stream(moe);
    tacit_status_t              status;

    if (found == NULL) {
        return no_memory(pass);
    }
    TRY(launched(pass, module->lsh_codes(&moe->device->rotations, &shape, pass->tokens, found, stream)));
    if (moe->nonfinite == TACIT_NONFINITE_ERROR) {
        TRY(launched(pass, module->check_rows(&given, pass->tokens, found + codes, stream)));
    }
    TRY(copied(pass, words, found, (codes + pass->count) * sizeof *words));
out:
    status = tacit__moe_device_settle(moe, status);
    tacit__moe_put(pass->moe, found);
    return status;
}

static size_t sent_words(const tacit_moe_pass_t *pass)
{
    const tacit_moe_sent_t *sent = &pass->sent;

    return 2 * (sent->rows + 1) + 2 * sent->copies + sent->replies + (sent->replies + 1) +
           3 * pass->count * pass->moe->config.choices;
}

/* Which of these words is what. */
static sent_numbers_t sent_numbers(const tacit_moe_pass_t *pass, uint32_t *words)
{
    const tacit_moe_sent_t *sent = &pass->sent;
    const size_t            choices = pass->count * pass->moe->config.choices;
    sent_numbers_t          numbers = {.first_reply = words};

    numbers.first_member = numbers.first_reply + sent->rows + 1;
    numbers.members = numbers.first_member + sent->rows + 1;
    numbers.row_of = numbers.members + sent->copies;
    numbers.row = numbers.row_of + sent->copies;
    numbers.reply = numbers.row + sent->replies;
    numbers.token = numbers.reply + choices;
    numbers.choice = numbers.token + choices;
    numbers.begin = numbers.choice + choices;
    return numbers;
}

static void fill_sent(const tacit_moe_pass_t *pass, const sent_numbers_t *numbers)
{
    const tacit_moe_sent_t *sent = &pass->sent;
    const size_t            choices = pass->moe->config.choices;
    uint32_t               *end = numbers->begin + 1;

    memcpy(numbers->first_reply, sent->first_reply, (sent->rows + 1) * sizeof *sent->first_reply);
    memcpy(numbers->first_member, sent->first_member, (sent->rows + 1) * sizeof *sent->first_member);
    memcpy(numbers->members, sent->members, sent->copies * sizeof *sent->members);
    memcpy(numbers->row, sent->row, sent->replies * sizeof *sent->row);
    memcpy(numbers->reply, sent->reply, pass->count * choices * sizeof *sent->reply);
    for (size_t row = 0; row < sent->rows; row++) {
        for (uint32_t i = sent->first_member[row]; i < sent->first_member[row + 1]; i++) {
            numbers->row_of[i] = (uint32_t)row;
        }
    }
    numbers->begin[0] = 0; /* each list's end is where it is filled until then */
    for (size_t reply = 0, next = 0; reply < sent->replies; reply++) {
        const uint32_t row = sent->row[reply];

        end[reply] = (uint32_t)next;
        next += sent->first_member[row + 1] - sent->first_member[row];
    }
    for (size_t at = 0; at < pass->count * choices; at++) {
        if (sent->reply[at] != TACIT_MOE_NOWHERE) {
            const uint32_t entry = end[sent->reply[at]]++;

            numbers->token[entry] = (uint32_t)(at / choices);
            numbers->choice[entry] = (uint32_t)at;
        }
    }
}

static tacit_status_t make_sent(tacit_moe_pass_t *pass, uint32_t **image_out)
{
    const size_t   words = sent_words(pass);
    uint32_t      *image = *image_out = room_for(pass, TACIT_MOE_MESSAGES, words, sizeof *image);
    uint32_t      *memory = room_for(pass, TACIT_MOE_TOKENS, words, sizeof *memory);
    sent_numbers_t numbers;

    pass->numbers = tacit__alloc(1, sizeof *pass->numbers);
    if (image == NULL || memory == NULL || pass->numbers == NULL) {
        tacit__moe_put(pass->moe, memory);
        return no_memory(pass);
    }
    pass->numbers->sent = sent_numbers(pass, memory);
    numbers = sent_numbers(pass, image);
    fill_sent(pass, &numbers);
    return copied(pass, memory, image, words * sizeof *image);
}

/* Means of clusters, as float32, too. */
static tacit_status_t average(const tacit_moe_pass_t *pass, const others_t *others, float *wide)
{
    const tacit_moe_t          *moe = pass->moe;
    const sent_numbers_t       *numbers = &pass->numbers->sent;
    const tacit_device_tokens_t shape = shape_of(pass, pass->count, true);
    tacit_status_t              status;

    for (int p = 0; p < 2; p++) {
        const tacit_moe_extent_t   part = others->part[p];
        const tacit_device_lists_t lists = {
            .count = (uint32_t)part.count, .begin = numbers->first_member + part.first, .row = numbers->members};

        TRY(launched(pass,
                     moe->device->module->sum_rows(&shape, &lists, pass->tokens, true,
                                                   row_at(pass, pass->outgoing_there[TACIT_MOE_DISPATCH], part.first),
                                                   wide + part.first * moe->config.dimension, tacit__moe_device_stream(moe))));
    }
    status = TACIT_OK;
out:
    return status;
}

/* Squares of tokens, and of what they have beyond their rows, are added up in the order of rows. */
static void add_squares(tacit_moe_pass_t *pass, const double *squares, tacit_moe_extent_t rows)
{
    const uint32_t *first = pass->sent.first_member;

    for (uint32_t i = first[rows.first]; i < first[rows.first + rows.count]; i++) {
        pass->norm += squares[2 * i];
        pass->beyond += squares[2 * i + 1];
    }
}

static tacit_status_t measure(tacit_moe_pass_t *pass, const others_t *others, const float *wide)
{
    const tacit_moe_t          *moe = pass->moe;
    const sent_numbers_t       *numbers = &pass->numbers->sent;
    const tacit_device_tokens_t shape = shape_of(pass, pass->count, true);
    double                     *found = room_for(pass, TACIT_MOE_TOKENS, 2 * pass->sent.copies, sizeof *found);
    double                     *told = room_for(pass, TACIT_MOE_MESSAGES, 2 * pass->sent.copies, sizeof *told);
    tacit_status_t              status;

    if (found == NULL || told == NULL) {
        status = no_memory(pass);
        goto out;
    }
    for (int p = 0; p < 2; p++) {
        const tacit_moe_extent_t     part = others->part[p];
        const uint32_t               first = pass->sent.first_member[part.first];
        const tacit_device_members_t members = {.count = pass->sent.first_member[part.first + part.count] - first,
                                                .token = numbers->members + first,
                                                .row = numbers->row_of + first,
                                                .first = numbers->first_member};

        TRY(launched(pass, moe->device->module->measure_rows(&shape, &members, pass->tokens, wide, found + 2 * first,
                                                             tacit__moe_device_stream(moe))));
        TRY(copied(pass, told + 2 * first, found + 2 * first, 2 * members.count * sizeof *told));
    }
    status = TACIT_OK;
out:
    status = tacit__moe_device_settle(moe, status);
    for (int p = 0; status == TACIT_OK && p < 2; p++) {
        add_squares(pass, told, others->part[p]);
    }
    tacit__moe_put(pass->moe, found);
    tacit__moe_put(pass->moe, told);
    return status;
}

/* Rows of clusters that go to other ranks. */
static tacit_status_t write_clusters(tacit_moe_pass_t *pass, const others_t *others)
{
    const tacit_moe_t *moe = pass->moe;
    uint8_t           *rows = pass->outgoing_there[TACIT_MOE_DISPATCH];
    const bool         narrow = moe->config.dtype != TACIT_FLOAT32;
    float             *wide =
        narrow ? room_for(pass, TACIT_MOE_TOKENS, pass->sent.rows * moe->config.dimension, sizeof *wide) : (float *)(void *)rows;
    size_t         bad;
    tacit_status_t status;

    if (wide == NULL) {
        return no_memory(pass);
    }
    TRY(average(pass, others, wide));
    TRY(measure(pass, others, wide));
    TRY(find_bad(pass, rows, others, &bad));
    if (bad != SIZE_MAX) {
        const uint32_t *member = pass->sent.first_member + bad;

        status = tacit__moe_report_mean(pass, pass->sent.members[member[0]], member[1] - member[0]);
    }
out:
    if (narrow) {
        status = tacit__moe_device_settle(moe, status);
        tacit__moe_put(pass->moe, wide);
    }
    return status;
}

static tacit_status_t write_rows(tacit_moe_pass_t *pass)
{
    const others_t others = others_of(pass, true, false);
    uint8_t       *rows = pass->outgoing_there[TACIT_MOE_DISPATCH];
    uint32_t      *image = NULL;
    tacit_status_t status;

    TRY(make_sent(pass, &image));
    for (int p = 0; p < 2 && !pass->moe->clusters; p++) { /* each has one member */
        const tacit_moe_extent_t part = others.part[p];

        TRY(copy_rows(pass, pass->tokens, pass->numbers->sent.members + part.first, row_at(pass, rows, part.first), NULL,
                      part.count));
    }
    if (pass->moe->clusters) {
        TRY(write_clusters(pass, &others));
    }
    TRY(copy_others(pass, pass->outgoing[TACIT_MOE_DISPATCH], rows, &others));
out:
    status = tacit__moe_device_settle(pass->moe, status);
    tacit__moe_put(pass->moe, image);
    return status;
}

static come_numbers_t come_numbers(const tacit_moe_pass_t *pass, uint32_t *words)
{
    return (come_numbers_t){.batch_row = words, .from = words + pass->replies, .begin = words + 2 * pass->replies};
}

static size_t come_words(const tacit_moe_pass_t *pass)
{
    return 2 * pass->replies + pass->rows + 1;
}

tacit_status_t tacit__moe_device_place(tacit_moe_pass_t *pass)
{
    uint32_t *memory = room_for(pass, TACIT_MOE_TOKENS, come_words(pass), sizeof *memory);
    uint32_t *image = room_for(pass, TACIT_MOE_MESSAGES, come_words(pass), sizeof *image);
    uint8_t  *rows = room_for(pass, TACIT_MOE_TOKENS, pass->rows, pass->moe->row_bytes);

    if (memory == NULL || image == NULL || rows == NULL) {
        tacit__moe_put(pass->moe, memory);
        tacit__moe_put(pass->moe, image);
        tacit__moe_put(pass->moe, rows);
        return no_memory(pass);
    }
    pass->numbers->come = come_numbers(pass, memory);
    pass->numbers->image = come_numbers(pass, image);
    pass->incoming_there[TACIT_MOE_DISPATCH] = rows;
    return TACIT_OK;
}

void tacit__moe_device_forget(tacit_moe_pass_t *pass)
{
    if (pass->numbers != NULL) {
        tacit__moe_put(pass->moe, pass->numbers->sent.first_reply);
        tacit__moe_put(pass->moe, pass->numbers->come.batch_row);
        tacit__moe_put(pass->moe, pass->numbers->image.batch_row);
        tacit__free(pass->numbers);
    }
}

/* Once each reply's row of the batch is known. */
static tacit_status_t copy_come(const tacit_moe_pass_t *pass)
{
    const tacit_moe_t      *moe = pass->moe;
    const tacit_moe_sent_t *sent = &pass->sent;
    const come_numbers_t   *image = &pass->numbers->image;

    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];

        for (size_t row = 0; row < arrival->rows; row++) {
            image->begin[arrival->row0 + row] = (uint32_t)(arrival->reply0 + arrival->first_reply[row]);
            for (uint32_t i = arrival->first_reply[row]; i < arrival->first_reply[row + 1]; i++) {
                image->batch_row[arrival->reply0 + i] = arrival->expert[i];
                image->from[arrival->reply0 + i] = r != moe->rank ? (uint32_t)(arrival->row0 + row)
                                                                  : sent->members[sent->first_member[sent->first_row[r] + row]];
            }
        }
    }
    image->begin[pass->rows] = (uint32_t)pass->replies;
    return copied(pass, pass->numbers->come.batch_row, image->batch_row, come_words(pass) * sizeof *image->batch_row);
}

static tacit_status_t fill_batch(tacit_moe_pass_t *pass)
{
    const tacit_moe_t    *moe = pass->moe;
    const others_t        others = others_of(pass, false, true);
    const come_numbers_t *numbers = &pass->numbers->come;
    uint8_t              *rows = pass->incoming_there[TACIT_MOE_DISPATCH];
    tacit_status_t        status;

    TRY(copy_come(pass));
    for (int r = 0; r < moe->ranks; r++) {
        const tacit_moe_arrival_t *arrival = &pass->arrivals[r];

        if (r != moe->rank) {
            TRY(copied(pass, row_at(pass, rows, arrival->row0), arrival->memory, arrival->rows * moe->row_bytes));
        }
    }
    for (int p = 0; p < 2; p++) {
        const tacit_moe_extent_t part = others.part[p];

        TRY(copy_rows(pass, rows, numbers->from + part.first, pass->batch_rows, numbers->batch_row + part.first, part.count));
    }
    TRY(copy_rows(pass, pass->tokens, numbers->from + others.own.first, pass->batch_rows, numbers->batch_row + others.own.first,
                  others.own.count));
    TRY(copy_decoded(pass, TACIT_MOE_DISPATCH, false));
out:
    status = tacit__moe_device_settle(moe, status);
    if (status == TACIT_OK) {
        forget(pass, &pass->outgoing[TACIT_MOE_DISPATCH]);
        forget(pass, &pass->incoming_there[TACIT_MOE_DISPATCH]);
        tacit__moe_put(pass->moe, pass->numbers->image.batch_row);
        pass->numbers->image.batch_row = NULL;
    }
    return status;
}

/* ---- Combine ---- */

static tacit_status_t gather_replies(tacit_moe_pass_t *pass, const void *batch)
{
    const others_t  others = others_of(pass, false, true);
    const size_t    home = tacit__moe_extent(pass, pass->moe->rank, true, true).first;
    const uint32_t *batch_row = pass->numbers->come.batch_row;
    uint8_t        *rows = pass->outgoing_there[TACIT_MOE_COMBINE];
    tacit_status_t  status;

    for (int p = 0; p < 2; p++) {
        const tacit_moe_extent_t part = others.part[p];

        TRY(copy_rows(pass, batch, batch_row + part.first, row_at(pass, rows, part.first), NULL, part.count));
    }
    TRY(copy_others(pass, pass->outgoing[TACIT_MOE_COMBINE], rows, &others));
    TRY(copy_rows(pass, batch, batch_row + others.own.first, row_at(pass, pass->incoming_there[TACIT_MOE_COMBINE], home), NULL,
                  others.own.count));
out:
    return tacit__moe_device_settle(pass->moe, status);
}

static tacit_device_choices_t choices_of(const tacit_moe_pass_t *pass)
{
    const tacit_moe_t    *moe = pass->moe;
    const sent_numbers_t *numbers = &pass->numbers->sent;

    return (tacit_device_choices_t){.tokens = shape_of(pass, pass->count, true),
                                    .choices = (uint32_t)moe->config.choices,
                                    .reply = numbers->reply,
                                    .row = numbers->row,
                                    .first_reply = numbers->first_reply,
                                    .first_member = numbers->first_member,
                                    .own_first = (uint32_t)pass->sent.first_row[moe->rank],
                                    .own_end = (uint32_t)pass->sent.first_row[moe->rank + 1],
                                    .residual = moe->residual};
}

static tacit_status_t combine(tacit_moe_pass_t *pass, const float *weights, void *out)
{
    const tacit_moe_t           *moe = pass->moe;
    const others_t               others = others_of(pass, true, true);
    const tacit_device_choices_t choices = choices_of(pass);
    uint8_t                     *replies = pass->incoming_there[TACIT_MOE_COMBINE];
    tacit_status_t               status;

    TRY(copy_others(pass, replies, pass->incoming[TACIT_MOE_COMBINE], &others));
    TRY(copied(pass, pass->weights, weights, pass->count * moe->config.choices * sizeof *weights));
    TRY(launched(pass, moe->device->module->combine_rows(&choices, pass->weights, pass->tokens,
                                                         pass->outgoing_there[TACIT_MOE_DISPATCH], replies, out,
                                                         tacit__moe_device_stream(moe))));
out:
    status = tacit__moe_device_settle(moe, status);
    if (status == TACIT_OK) {
        forget(pass, &pass->incoming[TACIT_MOE_COMBINE]);
    }
    return status;
}

/* ---- Backward ---- */

/* What some replies' tokens make of them, in their order. */
static tacit_status_t add_weighted(const tacit_moe_pass_t *pass, const void *gradients, bool clustered,
                                   tacit_moe_extent_t replies, void *out)
{
    const tacit_moe_t          *moe = pass->moe;
    const sent_numbers_t       *numbers = &pass->numbers->sent;
    const tacit_device_tokens_t shape = shape_of(pass, pass->count, clustered);
    const tacit_device_lists_t  lists = {.count = (uint32_t)replies.count,
                                         .begin = numbers->begin + replies.first,
                                         .row = numbers->token,
                                         .weight = numbers->choice,
                                         .weights = pass->weights};

    return launched(pass,
                    moe->device->module->sum_rows(&shape, &lists, gradients, false, out, NULL, tacit__moe_device_stream(moe)));
}

static tacit_status_t report_bad(const tacit_moe_pass_t *pass, size_t reply)
{
    int rank = 0;

    while (pass->sent.first_reply[pass->sent.first_row[rank + 1]] <= reply) {
        rank++;
    }
    return tacit__moe_report(pass, rank, TACIT_FAULT_NONFINITE);
}

static tacit_status_t write_sums(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients)
{
    const tacit_moe_t           *moe = pass->moe;
    const others_t               others = others_of(pass, true, true);
    const size_t                 away = tacit__moe_extent(pass, moe->rank, false, true).first;
    const tacit_device_choices_t choices = choices_of(pass);
    uint8_t                     *sums = pass->outgoing_there[TACIT_MOE_COMBINE_BACKWARD];
    size_t                       bad;
    tacit_status_t               status;

    if (moe->residual) {
        TRY(copied(pass, pass->gradients, gradients, pass->count * moe->row_bytes));
    }
    for (int p = 0; p < 2; p++) {
        TRY(add_weighted(pass, gradients, true, others.part[p], row_at(pass, sums, others.part[p].first)));
    }
    TRY(add_weighted(pass, gradients, false, others.own, row_at(pass, pass->incoming_there[TACIT_MOE_COMBINE_BACKWARD], away)));
    TRY(copy_others(pass, pass->outgoing[TACIT_MOE_COMBINE_BACKWARD], sums, &others));
    TRY(find_bad(pass, sums, &others, &bad));
    if (bad != SIZE_MAX) {
        status = report_bad(pass, bad);
        goto out;
    }
    if (weight_gradients != NULL) {
        TRY(launched(pass, moe->device->module->weigh_rows(
                               &choices, gradients, pass->tokens, pass->outgoing_there[TACIT_MOE_DISPATCH],
                               pass->incoming_there[TACIT_MOE_COMBINE], weight_gradients, tacit__moe_device_stream(moe))));
    }
out:
    return tacit__moe_device_settle(moe, status);
}

static tacit_status_t scatter_sums(tacit_moe_pass_t *pass, void *batch)
{
    const others_t others = others_of(pass, false, true);
    uint8_t       *sums = pass->incoming_there[TACIT_MOE_COMBINE_BACKWARD];
    tacit_status_t status;

    TRY(copy_others(pass, sums, pass->incoming[TACIT_MOE_COMBINE_BACKWARD], &others));
    TRY(copy_rows(pass, sums, NULL, batch, pass->numbers->come.batch_row, pass->replies));
    TRY(copy_decoded(pass, TACIT_MOE_COMBINE_BACKWARD, true));
out:
    status = tacit__moe_device_settle(pass->moe, status);
    if (status == TACIT_OK) {
        forget(pass, &pass->outgoing[TACIT_MOE_COMBINE_BACKWARD]);
    }
    return status;
}

/* What the experts of some rows that have come make of their gradients. */
static tacit_status_t add_replies(const tacit_moe_pass_t *pass, const void *batch, tacit_moe_extent_t rows, void *out)
{
    const tacit_moe_t          *moe = pass->moe;
    const come_numbers_t       *numbers = &pass->numbers->come;
    const tacit_device_tokens_t shape = shape_of(pass, pass->replies, false);
    const tacit_device_lists_t  lists = {
         .count = (uint32_t)rows.count, .begin = numbers->begin + rows.first, .row = numbers->batch_row};

    return launched(pass, moe->device->module->sum_rows(&shape, &lists, batch, false, out, NULL, tacit__moe_device_stream(moe)));
}

static tacit_status_t write_gradients(tacit_moe_pass_t *pass, const void *batch)
{
    const others_t others = others_of(pass, false, false);
    const size_t   home = tacit__moe_extent(pass, pass->moe->rank, true, false).first;
    uint8_t       *rows = pass->outgoing_there[TACIT_MOE_DISPATCH_BACKWARD];
    tacit_status_t status;

    for (int p = 0; p < 2; p++) {
        TRY(add_replies(pass, batch, others.part[p], row_at(pass, rows, others.part[p].first)));
    }
    TRY(copy_others(pass, pass->outgoing[TACIT_MOE_DISPATCH_BACKWARD], rows, &others));
    TRY(add_replies(pass, batch, others.own, row_at(pass, pass->incoming_there[TACIT_MOE_DISPATCH_BACKWARD], home)));
out:
    return tacit__moe_device_settle(pass->moe, status);
}

static tacit_status_t spread(tacit_moe_pass_t *pass, void *token_gradients)
{
    const tacit_moe_t           *moe = pass->moe;
    const others_t               others = others_of(pass, true, false);
    const tacit_device_choices_t choices = choices_of(pass);
    uint8_t                     *rows = pass->incoming_there[TACIT_MOE_DISPATCH_BACKWARD];
    tacit_status_t               status;

    TRY(copy_others(pass, rows, pass->incoming[TACIT_MOE_DISPATCH_BACKWARD], &others));
    TRY(launched(pass, moe->device->module->spread_rows(&choices, pass->weights, pass->gradients,
                                                        pass->outgoing_there[TACIT_MOE_COMBINE_BACKWARD], rows, token_gradients,
                                                        tacit__moe_device_stream(moe))));
out:
    return tacit__moe_device_settle(moe, status);
}

const tacit_moe_work_t tacit__moe_gpu = {.write_rows = write_rows,
                                         .fill_batch = fill_batch,
                                         .gather_replies = gather_replies,
                                         .combine = combine,
                                         .write_sums = write_sums,
                                         .scatter_sums = scatter_sums,
                                         .write_gradients = write_gradients,
                                         .spread = spread};
