/* SPDX-License-Identifier: Apache-2.0 */
/* Who sends which rows to whom: a pass's tokens in the order of receivers, rows made of them, heads that say so, and where rows
   that have come are in the batch. Heads: doc/wire-format.md, "Tokens". */
#include "moe_device.h"

#include <inttypes.h>
#include <string.h>

#include "bits.h"
#include "codec_unit.h"

/* Where clustering tokens that go to the same experts saves less than this part of their rows, they travel one by one: what is
   lost in a cluster buys next to nothing then, and most of the few clusters are of two tokens that met by chance. */
enum { LEAST_SAVED = 8 };

/* Hashes are most of what a pass computes. Where a rate may do without some, they are made so many at a time, until there are
   enough for each rank. */
enum { HASHES_AT_ONCE = 4 };

enum {
    HEAD_BYTES = 4, /* the number of rows; behind it 2 bytes a reply */
    LAST = 0x8000   /* the last reply of its row */
};

/* Tokens in the order of their receivers: a copy is a token on its way to a rank. */
typedef struct draft {
    const int32_t *experts; /* as given */
    size_t         copies, entries;
    uint32_t      *going;                    /* of a token, choices that go somewhere … */
    uint32_t      *order;                    /* … and these, by experts */
    size_t        *first_copy, *first_entry; /* of a rank; ranks + 1 */
    size_t        *copy_end, *entry_end;     /* while they are filled */
    uint32_t      *token;                    /* of a copy */
    uint32_t      *entry;                    /* the first of a copy; copies + 1 */
    uint32_t      *row;                      /* of a copy, as sent numbers them */
    uint32_t      *expert;                   /* of an entry, among those of its rank; they ascend within a copy */
    uint32_t      *choice;                   /* of an entry */
    size_t        *ranks;                    /* memory of the four of ranks … */
    uint32_t      *words;                    /* … and of all from then on */
    uint32_t *codes; /* where tokens are clustered: room for all hashes of each token, and on a GPU behind them a word more … */
    uint32_t *room;  /* … and for one rank's clusters */
    size_t    hashes; /* of each token that leaves, which are made */
} draft_t;

static void draft_release(const tacit_moe_pass_t *pass, draft_t *draft)
{
    tacit__free(draft->going);
    tacit__free(draft->ranks);
    tacit__free(draft->words);
    tacit__moe_put(pass->moe, draft->codes);
    tacit__free(draft->room);
}

void tacit__moe_sent_release(tacit_moe_sent_t *sent)
{
    tacit__free(sent->first_row);
    tacit__free(sent->words);
    tacit__free(sent->reply);
    tacit__free(sent->heads);
    *sent = (tacit_moe_sent_t){0};
}

static tacit_status_t no_memory(const tacit_moe_pass_t *pass)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %zu tokens and their rows", pass->moe->rank,
                       pass->moe->name, pass->count);
}

/* ---- Choices ---- */

/* seen: of each expert the last token that went there, plus one. */
static tacit_status_t check_choice(const tacit_moe_t *moe, const int32_t *experts, size_t token, size_t choice, size_t *seen)
{
    const int32_t *own = experts + token * moe->config.choices, expert = own[choice];
    size_t         first = 0;

    if (expert < -1 || (expert >= 0 && (size_t)expert >= moe->config.experts)) {
        return tacit__fail(TACIT_ERR_ARGUMENT,
                           "rank %d: moe '%s': token %zu goes as its choice %zu to expert %" PRId32
                           "; there are %zu, from 0 on, and -1 is none",
                           moe->rank, moe->name, token, choice, expert, moe->config.experts);
    }
    if (expert < 0) {
        return TACIT_OK;
    }
    if (seen[expert] != token + 1) {
        seen[expert] = token + 1;
        return TACIT_OK;
    }
    while (own[first] != expert) {
        first++;
    }
    return tacit__fail(TACIT_ERR_ARGUMENT,
                       "rank %d: moe '%s': token %zu goes to expert %" PRId32 " twice, as its choices %zu and %zu", moe->rank,
                       moe->name, token, expert, first, choice);
}

/* Marks in sent->reply what goes nowhere: padding, and what is beyond an expert's capacity. */
static tacit_status_t admit(tacit_moe_pass_t *pass, const int32_t *experts)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       choices = moe->config.choices, capacity = moe->config.capacity;
    tacit_status_t     status;
    size_t            *taken = tacit__alloc(2 * moe->config.experts, sizeof *taken);

    pass->sent.reply = tacit__alloc(pass->count * choices, sizeof *pass->sent.reply);
    if (taken == NULL || pass->sent.reply == NULL) {
        status = no_memory(pass);
        goto out;
    }
    for (size_t i = 0; i < pass->count * choices; i++) {
        TRY(check_choice(moe, experts, i / choices, i % choices, taken + moe->config.experts));
        if (experts[i] < 0) {
            pass->sent.reply[i] = TACIT_MOE_NOWHERE;
        } else if (capacity != 0 && taken[experts[i]] == capacity) {
            pass->sent.reply[i] = TACIT_MOE_NOWHERE;
            pass->tally.overflows++;
        } else {
            taken[experts[i]]++;
        }
    }
    status = TACIT_OK;
out:
    tacit__free(taken);
    return status;
}

/* Each token's choices that go somewhere, in the order of their experts: dealt out from all tokens' in that order. */
static tacit_status_t sort_choices(const tacit_moe_pass_t *pass, draft_t *draft)
{
    const size_t    experts = pass->moe->config.experts;
    const uint32_t  choices = (uint32_t)pass->moe->config.choices, all = (uint32_t)pass->count * choices;
    const uint32_t *reply = pass->sent.reply;
    uint32_t       *end = tacit__alloc(experts + 1, sizeof *end); /* of an expert's choices in the list, so far */
    uint32_t       *list;

    draft->going = tacit__alloc(pass->count + 2 * (size_t)all, sizeof *draft->going);
    if (end == NULL || draft->going == NULL) {
        tacit__free(end);
        return no_memory(pass);
    }
    draft->order = draft->going + pass->count;
    list = draft->order + all;
    for (uint32_t i = 0; i < all; i++) {
        end[draft->experts[i] + 1] += reply[i] != TACIT_MOE_NOWHERE;
    }
    for (size_t e = 0; e < experts; e++) {
        end[e + 1] += end[e];
    }
    for (uint32_t i = 0; i < all; i++) {
        if (reply[i] != TACIT_MOE_NOWHERE) {
            list[end[draft->experts[i]]++] = i;
        }
    }
    for (uint32_t i = 0; i < end[experts]; i++) {
        const uint32_t token = list[i] / choices;

        draft->order[token * choices + draft->going[token]++] = list[i] % choices;
    }
    tacit__free(end);
    return TACIT_OK;
}

static int rank_of(const tacit_moe_t *moe, int32_t expert)
{
    return (int)((((uint64_t)expert + 1) * (uint64_t)moe->ranks - 1) / moe->config.experts);
}

/* Passes over all tokens' choices: fill is false to count the copies and entries of each rank, and true to put them down. */
static void walk(const tacit_moe_pass_t *pass, draft_t *draft, bool fill)
{
    const tacit_moe_t *moe = pass->moe;

    for (size_t t = 0; t < pass->count; t++) {
        const uint32_t *order = draft->order + t * moe->config.choices;
        int             last = -1;

        for (size_t i = 0; i < draft->going[t]; i++) {
            const int32_t expert = draft->experts[t * moe->config.choices + order[i]];
            const int     rank = rank_of(moe, expert);
            const size_t  entry = draft->entry_end[rank]++;

            if (rank != last && fill) {
                draft->token[draft->copy_end[rank]] = (uint32_t)t;
                draft->entry[draft->copy_end[rank]] = (uint32_t)entry;
            }
            draft->copy_end[rank] += rank != last;
            if (fill) {
                draft->expert[entry] = (uint32_t)((size_t)expert - tacit__moe_first_expert(moe, rank));
                draft->choice[entry] = order[i];
            }
            last = rank;
        }
    }
}

static tacit_status_t make_copies(const tacit_moe_pass_t *pass, draft_t *draft)
{
    const size_t ranks = (size_t)pass->moe->ranks;

    draft->ranks = tacit__alloc(4 * (ranks + 1), sizeof *draft->ranks);
    if (draft->ranks == NULL) {
        return no_memory(pass);
    }
    draft->first_copy = draft->ranks;
    draft->first_entry = draft->first_copy + ranks + 1;
    draft->copy_end = draft->first_entry + ranks + 1;
    draft->entry_end = draft->copy_end + ranks + 1;
    walk(pass, draft, false);
    for (size_t r = 0; r < ranks; r++) {
        draft->first_copy[r + 1] = draft->first_copy[r] + draft->copy_end[r];
        draft->first_entry[r + 1] = draft->first_entry[r] + draft->entry_end[r];
    }
    memcpy(draft->copy_end, draft->first_copy, (ranks + 1) * sizeof *draft->copy_end);
    memcpy(draft->entry_end, draft->first_entry, (ranks + 1) * sizeof *draft->entry_end);
    draft->copies = draft->first_copy[ranks];
    draft->entries = draft->first_entry[ranks];

    draft->words = tacit__alloc(3 * draft->copies + 1 + 2 * draft->entries, sizeof *draft->words);
    if (draft->words == NULL) {
        return no_memory(pass);
    }
    draft->token = draft->words;
    draft->row = draft->token + draft->copies;
    draft->entry = draft->row + draft->copies;
    draft->expert = draft->entry + draft->copies + 1;
    draft->choice = draft->expert + draft->entries;
    walk(pass, draft, true);
    draft->entry[draft->copies] = (uint32_t)draft->entries;
    return TACIT_OK;
}

/* ---- Rows ---- */

/* Experts that a token may have on one rank, at most. */
static size_t width_of(const tacit_moe_t *moe)
{
    const size_t ranks = (size_t)moe->ranks;

    return tacit__min((moe->config.experts + ranks - 1) / ranks, moe->config.choices);
}

/* Whether one goes to another rank; not padding, which would be a cluster of its own. */
static bool leaves(const tacit_moe_pass_t *pass, const int32_t *experts, size_t token)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       end = (token + 1) * moe->config.choices;

    for (size_t at = token * moe->config.choices; at < end; at++) {
        if (pass->sent.reply[at] != TACIT_MOE_NOWHERE && rank_of(moe, experts[at]) != moe->rank) {
            return true;
        }
    }
    return false;
}

static tacit_status_t make_room(const tacit_moe_pass_t *pass, draft_t *draft)
{
    tacit_moe_t *moe = pass->moe;
    const size_t hashes = moe->rotations.hashes;
    size_t       most = 0;

    for (int r = 0; r < moe->ranks; r++) {
        const size_t copies = r != moe->rank ? draft->first_copy[r + 1] - draft->first_copy[r] : 0;

        most = most < copies ? copies : most;
    }
    draft->codes = tacit__moe_get(moe, TACIT_MOE_MESSAGES, pass->count * (hashes + 1) * sizeof *draft->codes);
    draft->room = tacit__alloc_unset((most * (hashes + 1 + width_of(moe)) + 2 * tacit__lsh_room(most)) * sizeof *draft->room);
    return draft->codes != NULL && draft->room != NULL ? TACIT_OK : no_memory(pass);
}

static tacit_status_t report_token(const tacit_moe_t *moe, size_t token)
{
    return tacit__fail(TACIT_ERR_VALUE, "rank %d: moe '%s': token %zu holds NaN or infinity", moe->rank, moe->name, token);
}

/* The next hashes; of tokens that lie side by side together. */
static tacit_status_t hash_on_cpu(const tacit_moe_pass_t *pass, draft_t *draft)
{
    const tacit_moe_t      *moe = pass->moe;
    const size_t            all = moe->rotations.hashes, dimension = moe->config.dimension, left = all - draft->hashes;
    const size_t            more = moe->lsh.rate > 0 ? tacit__min(left, HASHES_AT_ONCE) : left;
    const tacit_rotations_t rotations = tacit__lsh_some(&moe->rotations, draft->hashes, more);

    for (size_t t = 0, count; t < pass->count; t += count != 0 ? count : 1) {
        const float *tokens;

        for (count = 0; count < TACIT_MOE_HASHED && t + count < pass->count && leaves(pass, draft->experts, t + count);) {
            count++;
        }
        tokens = tacit__load(moe->config.dtype, moe->nonfinite, pass->tokens, t * dimension, count * dimension, moe->hashed);
        for (size_t i = 0; moe->nonfinite == TACIT_NONFINITE_ERROR && i < count; i++) {
            if (!tacit__unit_is_finite(tokens + i * dimension, dimension)) {
                return report_token(moe, t + i);
            }
        }
        tacit__lsh_codes(&rotations, tokens, count, moe->hashing, draft->codes + all * t + draft->hashes);
    }
    draft->hashes += more;
    return TACIT_OK;
}

/* All hashes, and those of tokens that stay too. */
static tacit_status_t hash_on_gpu(const tacit_moe_pass_t *pass, draft_t *draft)
{
    const tacit_moe_t *moe = pass->moe;
    const uint32_t    *not_finite = draft->codes + pass->count * moe->rotations.hashes;
    tacit_status_t     status;

    TRY(tacit__moe_device_codes(pass, draft->codes));
    for (size_t t = 0; moe->nonfinite == TACIT_NONFINITE_ERROR && t < pass->count; t++) {
        if (not_finite[t] != 0 && leaves(pass, draft->experts, t)) {
            return report_token(moe, t);
        }
    }
    draft->hashes = moe->rotations.hashes;
out:
    return status;
}

/* Makes more hashes of each token that leaves this rank. */
static tacit_status_t make_codes(const tacit_moe_pass_t *pass, draft_t *draft)
{
    return pass->moe->device != NULL ? hash_on_gpu(pass, draft) : hash_on_cpu(pass, draft);
}

/* Clusters of the copies that go to a rank, within groups, by the hashes that are made. */
static tacit_clusters_t clusters_of(const tacit_moe_t *moe, const draft_t *draft, int rank, const uint32_t *groups,
                                    uint32_t *room)
{
    const size_t        first = draft->first_copy[rank], copies = draft->first_copy[rank + 1] - first;
    const size_t        all = moe->rotations.hashes, made = draft->hashes;
    const tacit_coded_t coded = {.tokens = copies, .groups = groups, .codes = room, .stride = made, .hashes = made};

    for (size_t c = 0; c < copies; c++) {
        memcpy(room + made * c, draft->codes + all * draft->token[first + c], made * sizeof *room);
    }
    return tacit__lsh_cluster(&coded, moe->lsh.rate, room + made * copies);
}

/* Makes rows of the copies that go to a rank; *rows counts those of all ranks. Only tokens that go to the same experts are alike.
   Adds to the tally how many hashes tell rows apart. */
static tacit_status_t cluster(tacit_moe_pass_t *pass, draft_t *draft, int rank, uint32_t *rows)
{
    const tacit_moe_t  *moe = pass->moe;
    const size_t        first = draft->first_copy[rank], copies = draft->first_copy[rank + 1] - first;
    const size_t        width = width_of(moe);
    uint32_t           *sets = draft->room, *counts = sets + width * copies, *room = counts + copies;
    const tacit_coded_t coded = {.tokens = copies, .codes = sets, .stride = width, .hashes = width};
    tacit_clusters_t    groups, clusters;
    tacit_status_t      status = TACIT_OK;

    for (size_t c = 0; c < copies; c++) {
        const uint32_t *entry = draft->entry + first + c;

        for (size_t k = 0; k < width; k++) {
            sets[width * c + k] = entry[0] + k < entry[1] ? draft->expert[entry[0] + k] : TACIT_MOE_NOWHERE;
        }
    }
    groups = tacit__lsh_cluster(&coded, 0, room);
    room += tacit__lsh_room(copies);
    clusters = clusters_of(moe, draft, rank, groups.of, room);
    while (clusters.hashes == draft->hashes && draft->hashes < moe->rotations.hashes) { /* the next may be within the rate */
        TRY(make_codes(pass, draft));
        clusters = clusters_of(moe, draft, rank, groups.of, room);
    }
    memset(counts, 0, groups.count * sizeof *counts);
    for (size_t k = 0; k < clusters.count; k++) {
        counts[groups.of[clusters.first[k]]]++;
    }
    for (size_t c = 0; c < copies; c++) {
        const uint32_t group = groups.of[c], tokens = groups.members[group];
        const size_t   head = clusters.first[clusters.of[c]];
        const bool     alone = (uint64_t)(tokens - counts[group]) * LEAST_SAVED < tokens;

        draft->row[first + c] = alone || head == c ? (*rows)++ : draft->row[first + head];
    }
    pass->tally.hashes += (double)clusters.hashes;
out:
    return status;
}

/* Rows of all ranks; sent->first_row, too. */
static tacit_status_t make_rows(tacit_moe_pass_t *pass, draft_t *draft)
{
    const tacit_moe_t *moe = pass->moe;
    tacit_moe_sent_t  *sent = &pass->sent;
    uint32_t           rows = 0;
    size_t             receivers = 0;
    tacit_status_t     status = TACIT_OK;

    sent->first_row = tacit__alloc(2 * ((size_t)moe->ranks + 1), sizeof *sent->first_row);
    if (sent->first_row == NULL) {
        return no_memory(pass);
    }
    sent->first_head = sent->first_row + moe->ranks + 1;
    if (moe->clusters) {
        TRY(make_room(pass, draft));
        TRY(make_codes(pass, draft));
    }
    for (int r = 0; r < moe->ranks; r++) {
        const size_t copies = draft->first_copy[r + 1] - draft->first_copy[r];

        if (moe->clusters && r != moe->rank && copies != 0) {
            TRY(cluster(pass, draft, r, &rows));
            receivers++;
        } else {
            for (size_t c = draft->first_copy[r]; c < draft->first_copy[r + 1]; c++) {
                draft->row[c] = rows++;
            }
        }
        sent->first_row[r + 1] = rows;
        if (r != moe->rank) {
            pass->tally.copies += copies;
            pass->tally.rows += rows - sent->first_row[r];
            pass->choices += draft->first_entry[r + 1] - draft->first_entry[r];
        }
    }
    pass->tally.hashes /= receivers != 0 ? (double)receivers : 1;
    sent->rows = rows;
out:
    return status;
}

/* ---- What the pass keeps of all this ---- */

static void fill_replies(tacit_moe_pass_t *pass, const draft_t *draft)
{
    tacit_moe_sent_t *sent = &pass->sent;
    uint32_t          replies = 0, rows = 0;

    for (size_t c = 0; c < draft->copies; c++) {
        uint32_t *reply = sent->reply + draft->token[c] * pass->moe->config.choices;

        if (draft->row[c] == rows) { /* its first copy: rows are numbered as these come */
            for (uint32_t entry = draft->entry[c]; entry < draft->entry[c + 1]; entry++) {
                sent->expert[replies] = draft->expert[entry];
                sent->row[replies++] = rows;
            }
            sent->first_reply[++rows] = replies;
        }
        for (uint32_t entry = draft->entry[c]; entry < draft->entry[c + 1]; entry++) {
            reply[draft->choice[entry]] = sent->first_reply[draft->row[c]] + (entry - draft->entry[c]);
        }
    }
    sent->replies = replies;
}

static void fill_members(tacit_moe_sent_t *sent, const draft_t *draft)
{
    uint32_t *first = sent->first_member;

    for (size_t c = 0; c < draft->copies; c++) {
        first[draft->row[c] + 1]++;
    }
    for (size_t r = 0; r < sent->rows; r++) {
        first[r + 1] += first[r];
    }
    for (size_t c = 0; c < draft->copies; c++) {
        sent->members[first[draft->row[c]]++] = draft->token[c];
    }
    memmove(first + 1, first, sent->rows * sizeof *first);
    first[0] = 0;
}

static tacit_status_t fill_sent(tacit_moe_pass_t *pass, const draft_t *draft)
{
    tacit_moe_sent_t *sent = &pass->sent;

    sent->copies = draft->copies;
    sent->words = tacit__alloc(2 * (sent->rows + 1) + sent->copies + 2 * draft->entries, sizeof *sent->words);
    if (sent->words == NULL) {
        return no_memory(pass);
    }
    sent->first_reply = sent->words;
    sent->first_member = sent->first_reply + sent->rows + 1;
    sent->members = sent->first_member + sent->rows + 1;
    sent->expert = sent->members + sent->copies;
    sent->row = sent->expert + draft->entries; /* no more replies than these */
    fill_replies(pass, draft);
    fill_members(sent, draft);
    return TACIT_OK;
}

/* ---- Heads ---- */

static size_t head_bytes(size_t experts, size_t replies)
{
    return HEAD_BYTES + (experts > 1 ? replies * sizeof(uint16_t) : 0);
}

/* What goes to another rank, and its head, have lengths of 32 bits. */
static tacit_status_t check_part(const tacit_moe_t *moe, int rank, size_t replies)
{
    const size_t dimension = moe->config.dimension;

    return rank == moe->rank ||
                   (replies <= UINT32_MAX / dimension && head_bytes(tacit__moe_experts_of(moe, rank), replies) <= UINT32_MAX)
               ? TACIT_OK
               : tacit__fail(
                     TACIT_ERR_ARGUMENT,
                     "rank %d: moe '%s': %zu replies of %zu elements from rank %d are too many; a rank sends another fewer "
                     "than 2^32 elements: give passes fewer tokens",
                     moe->rank, moe->name, replies, dimension, rank);
}

static tacit_status_t write_heads(tacit_moe_pass_t *pass)
{
    const tacit_moe_t *moe = pass->moe;
    tacit_moe_sent_t  *sent = &pass->sent;
    tacit_status_t     status = TACIT_OK;

    for (int r = 0; r < moe->ranks; r++) {
        const size_t replies = sent->first_reply[sent->first_row[r + 1]] - sent->first_reply[sent->first_row[r]];

        TRY(check_part(moe, r, replies));
        sent->first_head[r + 1] = sent->first_head[r] + head_bytes(tacit__moe_experts_of(moe, r), replies);
    }
    sent->heads = tacit__alloc_unset(sent->first_head[moe->ranks]);
    if (sent->heads == NULL) {
        status = no_memory(pass);
        goto out;
    }
    for (int r = 0; r < moe->ranks; r++) {
        const size_t first = sent->first_row[r], end = sent->first_row[r + 1];
        uint8_t     *at = sent->heads + sent->first_head[r];

        tacit__store32(at, (uint32_t)(end - first));
        at += HEAD_BYTES;
        for (size_t row = first; row < end && tacit__moe_experts_of(moe, r) > 1; row++) {
            for (uint32_t reply = sent->first_reply[row]; reply < sent->first_reply[row + 1]; reply++, at += sizeof(uint16_t)) {
                tacit__store16(at, (uint16_t)(sent->expert[reply] | (reply + 1 == sent->first_reply[row + 1] ? LAST : 0)));
            }
        }
    }
out:
    return status;
}

tacit_status_t tacit__moe_lay_out(tacit_moe_pass_t *pass, const int32_t *experts)
{
    draft_t        draft = {.experts = experts};
    tacit_status_t status;

    TRY(admit(pass, experts));
    TRY(sort_choices(pass, &draft));
    TRY(make_copies(pass, &draft));
    TRY(make_rows(pass, &draft));
    TRY(fill_sent(pass, &draft));
    TRY(write_heads(pass));
out:
    draft_release(pass, &draft);
    return status;
}

/* What another rank may send here, so many of each token, and of each expert its capacity. */
static size_t bound(const tacit_moe_t *moe, size_t each)
{
    size_t most = SIZE_MAX;

    if (moe->config.capacity != 0 && __builtin_mul_overflow(moe->config.capacity, moe->experts, &most)) {
        most = SIZE_MAX;
    }
    return tacit__min(moe->config.tokens * tacit__min(each, moe->experts), most);
}

static size_t rows_bound(const tacit_moe_t *moe)
{
    return bound(moe, 1);
}

static size_t replies_bound(const tacit_moe_t *moe)
{
    return bound(moe, moe->config.choices);
}

size_t tacit__moe_head_bound(const tacit_moe_t *moe)
{
    return head_bytes(moe->experts, replies_bound(moe));
}

size_t tacit__moe_elements_bound(const tacit_moe_t *moe)
{
    return rows_bound(moe) * moe->config.dimension;
}

/* The experts of a head, into arrival->expert and first_reply; counts: of each expert here. */
static tacit_status_t read_experts(const tacit_moe_pass_t *pass, int rank, const uint8_t *head, tacit_moe_arrival_t *arrival,
                                   size_t *counts)
{
    const tacit_moe_t *moe = pass->moe;
    const size_t       limit = moe->config.capacity != 0 ? moe->config.capacity : moe->config.tokens;
    size_t             row = 0;

    for (size_t i = 0; i < arrival->replies; i++) {
        const uint32_t word = moe->experts > 1 ? tacit__load16(head + HEAD_BYTES + i * sizeof(uint16_t)) : LAST;
        const uint32_t expert = word & (LAST - 1);

        if (row == arrival->rows) {
            return tacit__fail(TACIT_ERR_FRAME, "moe '%s': rank %d's rows are %zu, but its experts go on", moe->name, rank, row);
        }
        if (expert >= moe->experts || (i > arrival->first_reply[row] && expert <= arrival->expert[i - 1])) {
            return tacit__fail(TACIT_ERR_FRAME,
                               "moe '%s': row %zu of rank %d is for expert %" PRIu32
                               " of rank %d, which has %zu, and they ascend",
                               moe->name, row, rank, expert, moe->rank, moe->experts);
        }
        if (++counts[expert] > limit) {
            return tacit__fail(TACIT_ERR_FRAME, "moe '%s': rank %d has more than %zu rows for expert %" PRIu32 " of rank %d",
                               moe->name, rank, limit, expert, moe->rank);
        }
        arrival->expert[i] = expert;
        if ((word & LAST) != 0) {
            arrival->first_reply[++row] = (uint32_t)(i + 1);
        }
    }
    if (row != arrival->rows) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': rank %d has experts for %zu of its %zu rows", moe->name, rank, row,
                           arrival->rows);
    }
    return TACIT_OK;
}

/* What a head's size and first word say. */
static tacit_status_t read_counts(const tacit_moe_t *moe, int rank, const uint8_t *head, size_t bytes,
                                  tacit_moe_arrival_t *arrival)
{
    if (bytes < HEAD_BYTES) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': the head of rank %d's rows has %zu bytes (truncated)", moe->name, rank,
                           bytes);
    }
    arrival->rows = tacit__load32(head);
    arrival->replies = moe->experts > 1 ? (bytes - HEAD_BYTES) / sizeof(uint16_t) : arrival->rows;
    if (arrival->rows > rows_bound(moe) || arrival->replies > replies_bound(moe)) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': rank %d sends %zu rows for %zu replies, where %zu and %zu are the most",
                           moe->name, rank, arrival->rows, arrival->replies, rows_bound(moe), replies_bound(moe));
    }
    if (bytes != head_bytes(moe->experts, arrival->replies)) {
        return tacit__fail(TACIT_ERR_FRAME, "moe '%s': the head of rank %d's %zu rows has %zu bytes", moe->name, rank,
                           arrival->rows, bytes);
    }
    return TACIT_OK;
}

tacit_status_t tacit__moe_meet(tacit_moe_pass_t *pass, int rank, const uint8_t *head, size_t bytes)
{
    tacit_moe_t        *moe = pass->moe;
    tacit_moe_arrival_t arrival = {0};
    tacit_status_t      status;
    size_t             *counts = NULL;

    if (pass->arrivals[rank].met) {
        return tacit__fail(TACIT_ERR_STATE, "moe '%s': rank %d's rows have come already", moe->name, rank);
    }
    TRY(read_counts(moe, rank, head, bytes, &arrival));
    counts = tacit__alloc(moe->experts, sizeof *counts);
    arrival.first_reply = tacit__alloc(arrival.rows + 1, sizeof *arrival.first_reply);
    arrival.expert = tacit__alloc(arrival.replies, sizeof *arrival.expert);
    arrival.memory = rank != moe->rank ? tacit__moe_get(moe, TACIT_MOE_MESSAGES, arrival.rows * moe->row_bytes) : NULL;
    if (counts == NULL || arrival.first_reply == NULL || arrival.expert == NULL ||
        (arrival.memory == NULL && rank != moe->rank)) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for %zu rows of rank %d", moe->rank, moe->name,
                             arrival.rows, rank);
        goto out;
    }
    TRY(read_experts(pass, rank, head, &arrival, counts));
    arrival.met = true;
    arrival.written = pass->arrivals[rank].written;
    pass->arrivals[rank] = arrival;
    arrival = (tacit_moe_arrival_t){0}; /* now the pass's */
out:
    tacit__free(counts);
    tacit__free(arrival.first_reply);
    tacit__free(arrival.expert);
    tacit__moe_put(moe, arrival.memory);
    return status;
}

tacit_status_t tacit__moe_place(tacit_moe_pass_t *pass)
{
    const tacit_moe_t *moe = pass->moe;
    tacit_status_t     status;
    size_t            *first = NULL;
    size_t             rows = 0, replies = 0;

    if (pass->batch_rows != NULL) {
        return TACIT_OK;
    }
    first = tacit__alloc(moe->experts + 2, sizeof *first); /* one more while they are counted */
    for (int r = 0; r < moe->ranks && first != NULL; r++) {
        tacit_moe_arrival_t *arrival = &pass->arrivals[r];

        arrival->row0 = rows;
        arrival->reply0 = replies;
        rows += arrival->rows;
        replies += arrival->replies;
        for (size_t i = 0; i < arrival->replies; i++) {
            first[arrival->expert[i] + 2]++;
        }
    }
    pass->rows = rows;
    pass->replies = replies;
    pass->batch_rows = first != NULL ? tacit__moe_get(pass->moe, TACIT_MOE_TOKENS, replies * moe->row_bytes) : NULL;
    if (pass->batch_rows == NULL) {
        status =
            tacit__fail(TACIT_ERR_MEMORY, "rank %d: moe '%s': no memory for a batch of %zu rows", moe->rank, moe->name, replies);
        goto out;
    }
    if (moe->device != NULL) {
        TRY(tacit__moe_device_place(pass));
    }
    for (size_t e = 0; e < moe->experts; e++) {
        first[e + 2] += first[e + 1];
    }
    for (int r = 0; r < moe->ranks; r++) {
        tacit_moe_arrival_t *arrival = &pass->arrivals[r];

        for (size_t i = 0; i < arrival->replies; i++) {
            arrival->expert[i] = (uint32_t)first[arrival->expert[i] + 1]++;
        }
    }
    pass->batch_first = first;
    pass->batch = (tacit_moe_batch_t){pass->batch_rows, replies, moe->experts, first};
    first = NULL; /* now the pass's */
    status = TACIT_OK;
out:
    if (status != TACIT_OK) {
        tacit__moe_put(pass->moe, pass->batch_rows);
        pass->batch_rows = NULL;
    }
    tacit__free(first);
    return status;
}
