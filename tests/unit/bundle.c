/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles: the same bits as a group of tacit_allreduce() calls, results and memory; and whatever a rank finds, all ranks return,
   with memory as before. */
#include "bundle.h"
#include "bundle_net.h"
#include "parts.h"

/* ---- What is right ---- */

static const int bounds[][2] = {{0, TENSORS}, {0, BLOCKWISE}, {BLOCKWISE, TENSORS}, {BLOCKWISE, SINGLE}, {SINGLE, TENSORS},
                                {1, 2},       {0, 1}};
enum { BOUNDS = sizeof bounds / sizeof *bounds };

START_TEST(is_a_group)
{
    const int  ranks = 1 + _i % MOST, *bound = bounds[_i / MOST % BOUNDS];
    const bool mean = _i / MOST / BOUNDS != 0;
    run_t      group = run_of(ranks, bound[0], bound[1], mean ? TACIT_AVERAGE : TACIT_SUM, _i % 3 == 0);
    run_t      bundle = run_of(ranks, bound[0], bound[1], group.op, group.in_place);
    net_t      net = net_of(&bundle);

    ask_for("any by sparse");
    run_ranks(ranks, NULL, group_body, &group);
    for (int step = 0; step < STEPS; step++) {
        step_well(&net, step);
    }
    keep_all(&net);
    runs_equal(&bundle, &group, "a bundle");
    net_free(&net);
    run_free(&group);
    run_free(&bundle);
}
END_TEST

/* No first exchange without blockwise tensors and matrices, and nothing from a rank to itself. */
START_TEST(bytes)
{
    run_t whole = run_of(3, BLOCKWISE, SINGLE, TACIT_SUM, false), mixed = run_of(3, 0, TENSORS, TACIT_SUM, false);
    net_t wholes = net_of(&whole), all = net_of(&mixed);

    for (int from = 0; from < 3; from++) {
        for (int to = 0; to < 3; to++) {
            ck_assert_uint_eq(tacit_bundle_scatter_bytes(wholes.nodes[0].bundle, from, to), 0);
            ck_assert((tacit_bundle_scatter_bytes(all.nodes[0].bundle, from, to) == 0) == (from == to));
        }
    }
    net_free(&wholes);
    net_free(&all);
    run_free(&whole);
    run_free(&mixed);
}
END_TEST

static void all_zeros(const uint8_t *begin, const uint8_t *end, const char *where)
{
    for (; begin < end; begin++) {
        ck_assert_msg(*begin == 0, "%s", where);
    }
}

/* The pieces of a part, in a payload. */
static void check_part(const tacit_bundle_t *bundle, int owner, const uint8_t *payload)
{
    const uint8_t *end = payload;

    for (size_t p = bundle->part[owner]; p < bundle->part[owner + 1]; p++) {
        const tacit_piece_t *piece = &bundle->pieces[p];
        const uint8_t       *begin = payload + piece->at;

        ck_assert(piece->at % 16 == 0 && begin >= end && begin < end + 16);
        all_zeros(end, begin, "behind a piece");
        end = begin + tacit__part_bytes(bundle->codecs[piece->codec], piece->count);
    }
    ck_assert_uint_eq(bundle->part_bytes[owner], (size_t)(end - payload + 15) / 16 * 16);
    all_zeros(end, payload + bundle->part_bytes[owner], "behind a part");
}

/* Places of those that travel whole. */
static void check_places(const tacit_bundle_t *bundle, const uint8_t *payload)
{
    size_t at = 0;

    for (size_t w = 0; w < bundle->whole_count; w++) {
        const tacit_whole_t *whole = &bundle->wholes[w];
        const uint8_t       *place = payload + whole->at;
        uint32_t             length;

        ck_assert_uint_eq(whole->at, at);
        memcpy(&length, place, sizeof length);
        ck_assert_uint_le(length, whole->bound);
        at += 16 + (whole->bound + 15) / 16 * 16;
        all_zeros(place + 4, place + 16, "behind a length");
        all_zeros(place + 16 + length, payload + at, "behind what travels whole");
    }
    ck_assert_uint_eq(bundle->whole_bytes, at);
}

/* The same of first factors. */
static void check_first_places(const tacit_bundle_t *bundle, const uint8_t *payload)
{
    size_t at = 0;

    for (size_t w = 0; w < bundle->whole_count; w++) {
        const tacit_whole_t *whole = &bundle->wholes[w];
        const uint8_t       *place = payload + whole->first_at;
        uint32_t             length;

        if (whole->first_bytes != 0) {
            ck_assert_uint_eq(whole->first_at, at);
            memcpy(&length, place, sizeof length);
            ck_assert_uint_eq(length, whole->first_bytes);
            at += 16 + (whole->first_bytes + 15) / 16 * 16;
            all_zeros(place + 4, place + 16, "behind a first length");
            all_zeros(place + 16 + length, payload + at, "behind a first factor");
        }
    }
    ck_assert_uint_eq(bundle->first_bytes, at);
}

/* Whatever was in the messages before: each byte of a frame is written, in every step. */
START_TEST(layout)
{
    run_t run = run_of(MOST, bounds[_i][0], bounds[_i][1], TACIT_SUM, false);
    net_t net = net_of(&run);

    step_well(&net, 0);
    begin(&net, 1);
    for (int rank = 0; rank < MOST; rank++) {
        node_t               *node = &net.nodes[rank];
        const tacit_bundle_t *bundle = node->bundle;
        uint8_t              *message = node->sent;

        memset(node->own, 0xff, tacit_bundle_gather_bytes(bundle));
        for (int to = 0; to < MOST; to++) {
            memset(message, 0xff, tacit_bundle_scatter_bytes(bundle, rank, to));
            message += tacit_bundle_scatter_bytes(bundle, rank, to);
        }
        SUCCEEDS(encode(node, &run, 1));
        message = node->sent;
        for (int to = 0; to < MOST; to++) {
            const size_t length = tacit_bundle_scatter_bytes(bundle, rank, to);

            if (length != 0) {
                ck_assert_uint_eq(length % 16, 0);
                ck_assert_uint_eq(tacit__frame_read(message).payload_bytes, bundle->part_bytes[to] + bundle->first_bytes);
                check_part(bundle, to, message + TACIT_FRAME_HEADER_BYTES);
                check_first_places(bundle, message + TACIT_FRAME_HEADER_BYTES + bundle->part_bytes[to]);
            }
            message += length;
        }
    }
    all_to_all(&net);
    reduce_all(&net);
    for (int rank = 0; rank < MOST; rank++) {
        const tacit_bundle_t *bundle = net.nodes[rank].bundle;
        const uint8_t        *message = net.nodes[rank].own, *payload = message + TACIT_FRAME_HEADER_BYTES;

        ck_assert_uint_eq(tacit_bundle_gather_bytes(bundle) % 16, 0);
        ck_assert_uint_eq(tacit__frame_read(message).payload_bytes, bundle->part_bytes[rank] + bundle->whole_bytes);
        check_part(bundle, rank, payload);
        check_places(bundle, payload + bundle->part_bytes[rank]);
    }
    for (int rank = 0; rank < run.ranks; rank++) {
        tacit_bundle_cancel(net.nodes[rank].bundle);
    }
    end(&net);
    net_free(&net);
    run_free(&run);
}
END_TEST

/* ---- What goes wrong ---- */

typedef struct mishap {
    const char    *what;
    tacit_status_t status;
    const char    *words;
    int            finders;     /* ranks that return it, a bit each; -1: all, with the same text */
    void (*before)(net_t *net); /* encode */
    void (*sent)(net_t *net);   /* after encode */
    void (*own)(net_t *net);    /* after reduce */
    void (*gathered)(net_t *net);
} mishap_t;

enum { RANKS = 3 };

static void nan_first(net_t *net)
{
    put(net, 1, 0, 0, NAN);
}

static void nan_last(net_t *net)
{
    put(net, 1, 0, 4999, INFINITY);
}

static void nan_coded(net_t *net)
{
    put(net, 2, 2, 400, -INFINITY);
}

static void nan_sparse(net_t *net)
{
    put(net, 2, 8, 8000, NAN);
}

static void nan_linear(net_t *net)
{
    put(net, 0, 10, 2999, NAN);
}

static void nan_matrix(net_t *net)
{
    put(net, 2, 13, 1999, NAN);
}

static void nan_dense(net_t *net)
{
    put(net, 1, 15, 29, NAN);
}

static void nan_twice(net_t *net)
{
    put(net, 2, 0, 77, NAN);
    put(net, 1, 8, 77, NAN);
}

static void nan_alike(net_t *net)
{
    put(net, 2, 0, 77, NAN);
    put(net, 1, 0, 77, NAN);
}

static void sums_overflow(net_t *net)
{
    for (int rank = 0; rank < RANKS; rank++) {
        put(net, rank, 7, 3, 3e38f);
    }
}

static void sparse_sums_overflow(net_t *net)
{
    for (int rank = 0; rank < RANKS; rank++) {
        put(net, rank, 8, 4000, 3e38f);
    }
}

/* P is finite, as what was kept has vectors of norm 1, and Q is not. */
static void matrix_sums_overflow(net_t *net)
{
    for (int rank = 0; rank < RANKS; rank++) {
        put(net, rank, 13, 1000, 3e38f);
    }
}

static void first_sums_overflow(net_t *net)
{
    for (int rank = 0; rank < RANKS; rank++) {
        for (size_t i = 0; i < 2000; i++) {
            put(net, rank, 13, i, net->nodes[0].codecs[13]->work[i % 50] < 0 ? -3e38f : 3e38f);
        }
    }
}

static void flip_sent(net_t *net)
{
    net->nodes[1].sent[100] ^= 1; /* a payload to rank 0 */
}

static void flip_header(net_t *net)
{
    net->nodes[1].sent[40] ^= 0x80;
}

static void flip_gathered(net_t *net)
{
    net->nodes[2].gathered[tacit_bundle_gather_bytes(net->nodes[0].bundle) + 70] ^= 4; /* rank 1's to rank 2 */
}

static void swap_own(net_t *net)
{
    uint8_t *own = net->nodes[0].own;

    net->nodes[0].own = net->nodes[1].own;
    net->nodes[1].own = own;
}

/* Another payload, with a header that is right: a peer's that means harm. */
static void forge(uint8_t *message, size_t payload_bytes)
{
    tacit_frame_t frame = tacit__frame_read(message);

    frame.payload_bytes = (uint32_t)payload_bytes;
    (void)tacit__frame_write(&frame, message);
}

static void cut_sent(net_t *net)
{
    forge(net->nodes[1].sent, tacit__frame_read(net->nodes[1].sent).payload_bytes - 16);
}

static void cut_own(net_t *net)
{
    forge(net->nodes[1].own, tacit__frame_read(net->nodes[1].own).payload_bytes - 16);
}

/* Of rank 1's message to rank 0. */
static uint8_t *first_place(const net_t *net, size_t whole)
{
    const tacit_bundle_t *bundle = net->nodes[1].bundle;

    return net->nodes[1].sent + TACIT_FRAME_HEADER_BYTES + bundle->part_bytes[0] + bundle->wholes[whole].first_at;
}

static void flip_first(net_t *net)
{
    first_place(net, 5)[16 + 4 * 79] ^= 1;
}

static void forge_first(net_t *net, size_t whole, uint32_t length)
{
    memcpy(first_place(net, whole), &length, sizeof length);
    forge(net->nodes[1].sent, tacit__frame_read(net->nodes[1].sent).payload_bytes);
}

static void short_first(net_t *net)
{
    forge_first(net, 5, 4 * 79);
}

static void long_first(net_t *net)
{
    forge_first(net, 9, UINT32_MAX);
}

static uint8_t *place_of(const net_t *net, size_t whole)
{
    const tacit_bundle_t *bundle = net->nodes[1].bundle;

    return net->nodes[1].own + TACIT_FRAME_HEADER_BYTES + bundle->part_bytes[1] + bundle->wholes[whole].at;
}

static void forge_length(net_t *net, size_t whole, uint32_t length)
{
    memcpy(place_of(net, whole), &length, sizeof length);
    forge(net->nodes[1].own, tacit__frame_read(net->nodes[1].own).payload_bytes);
}

/* As many entries as may be, in a coding that a sender would not choose: they end in another's place. */
static void long_sparse(net_t *net)
{
    const uint32_t entries = 180, head[2] = {entries, 0}, length = sizeof head + entries * 8;
    uint8_t       *payload = place_of(net, 0) + 16;

    ck_assert_uint_gt(length, net->nodes[1].bundle->wholes[0].bound);
    memcpy(payload, head, sizeof head);
    for (uint32_t i = 0; i < entries; i++) {
        const float value = 1;

        memcpy(payload + sizeof head + 4 * i, &i, sizeof i);
        memcpy(payload + sizeof head + 4 * (entries + i), &value, sizeof value);
    }
    forge_length(net, 0, length);
}

static void longest_last(net_t *net)
{
    forge_length(net, net->nodes[1].bundle->whole_count - 1, UINT32_MAX);
}

static void short_linear(net_t *net)
{
    forge_length(net, 2, (uint32_t)net->nodes[1].bundle->wholes[2].bound - 4);
}

static const mishap_t mishaps[] = {
    {"NaN in the first part", TACIT_ERR_VALUE, "rank 1: slot 'tensor 0' at step 2", -1, nan_first, NULL, NULL, NULL},
    {"infinity in the last part", TACIT_ERR_VALUE, "rank 1: slot 'tensor 0'", -1, nan_last, NULL, NULL, NULL},
    {"infinity where the owner encodes", TACIT_ERR_VALUE, "rank 2: slot 'tensor 2'", -1, nan_coded, NULL, NULL, NULL},
    {"NaN in a sparse tensor", TACIT_ERR_VALUE, "rank 2: slot 'tensor 8'", -1, nan_sparse, NULL, NULL, NULL},
    {"NaN in a linear tensor", TACIT_ERR_VALUE, "rank 0: slot 'tensor 10'", -1, nan_linear, NULL, NULL, NULL},
    {"NaN in a matrix", TACIT_ERR_VALUE, "rank 2: slot 'tensor 13'", -1, nan_matrix, NULL, NULL, NULL},
    {"NaN in one that stays dense", TACIT_ERR_VALUE, "rank 1: slot 'tensor 15'", -1, nan_dense, NULL, NULL, NULL},
    {"NaN on two ranks", TACIT_ERR_VALUE, "slot 'tensor 0'", -1, nan_twice, NULL, NULL, NULL},
    {"NaN in the same place on two ranks", TACIT_ERR_VALUE, "rank 1: slot 'tensor 0'", -1, nan_alike, NULL, NULL, NULL},
    {"a sum that is not finite", TACIT_ERR_VALUE, "slot 'tensor 7'", -1, sums_overflow, NULL, NULL, NULL},
    {"a sparse one", TACIT_ERR_VALUE, "'tensor 8' at step 2: the sum over 3 ranks", -1, sparse_sums_overflow, NULL, NULL, NULL},
    {"a matrix's", TACIT_ERR_VALUE, "'tensor 13' at step 2: the sum over 3 ranks", -1, matrix_sums_overflow, NULL, NULL, NULL},
    {"its first factor's", TACIT_ERR_VALUE, "'tensor 13' at step 2: the sum", -1, first_sums_overflow, NULL, NULL, NULL},
    {"damage to a first factor", TACIT_ERR_FRAME, "rank 0: a bundle's message from rank 1", -1, NULL, flip_first, NULL, NULL},
    {"a first factor that is short", TACIT_ERR_FRAME, "rank 1 has sent of slot 'tensor 13'", -1, NULL, short_first, NULL, NULL},
    {"a first factor of 4 GiB", TACIT_ERR_FRAME, "rank 1 has sent of slot 'tensor 17'", -1, NULL, long_first, NULL, NULL},
    {"damage in the first exchange", TACIT_ERR_FRAME, "rank 0: a bundle's message from rank 1", -1, NULL, flip_sent, NULL, NULL},
    {"damage to a header", TACIT_ERR_FRAME, "rank 0: a bundle's message from rank 1", -1, NULL, flip_header, NULL, NULL},
    {"messages in another order", TACIT_ERR_FRAME, "ascending order", 7, NULL, NULL, swap_own, NULL},
    {"a short part", TACIT_ERR_FRAME, "rank 0: rank 1 contributes", -1, NULL, cut_sent, NULL, NULL},
    {"a short result", TACIT_ERR_FRAME, "rank 1's result has", 7, NULL, NULL, cut_own, NULL},
    {"entries beyond their place", TACIT_ERR_FRAME, "rank 1 has sent of slot 'tensor 8'", 7, NULL, NULL, long_sparse, NULL},
    {"a factor of 4 GiB", TACIT_ERR_FRAME, "rank 1 has sent of slot 'tensor 18'", 7, NULL, NULL, longest_last, NULL},
    {"a factor that is short", TACIT_ERR_FRAME, "rank 1 has sent of slot 'tensor 10'", 7, NULL, NULL, short_linear, NULL},
    {"damage in the second exchange", TACIT_ERR_FRAME, "rank 2: a bundle's message from rank 1", 4, NULL, NULL, NULL,
     flip_gathered},
};
enum { MISHAPS = sizeof mishaps / sizeof *mishaps };

static void have(void (*mishap)(net_t *net), net_t *net)
{
    if (mishap != NULL) {
        mishap(net);
    }
}

START_TEST(faults)
{
    const mishap_t *mishap = &mishaps[_i / 2];
    run_t           run = run_of(RANKS, 0, TENSORS, TACIT_AVERAGE, _i / 2 % 2 != 0),
          plain = run_of(RANKS, 0, TENSORS, TACIT_AVERAGE, false);
    net_t net, other;
    char  text[600] = "";

    run.strict = plain.strict = _i % 2;
    net = net_of(&run);
    step_well(&net, 0);
    step_well(&net, 1);
    keep_all(&net);
    begin(&net, 2);
    have(mishap->before, &net);
    encode_all(&net, 2);
    have(mishap->sent, &net);
    all_to_all(&net);
    reduce_all(&net);
    have(mishap->own, &net);
    all_gather(&net);
    have(mishap->gathered, &net);
    for (int rank = 0; rank < RANKS; rank++) {
        const bool           finds = mishap->finders < 0 || (mishap->finders >> rank & 1) != 0;
        const tacit_status_t status = finish(&net.nodes[rank], &run);

        ck_assert_msg(status == (finds ? mishap->status : TACIT_OK), "%s, rank %d: %s, %s", mishap->what, rank,
                      tacit_strerror(status), tacit_last_error());
        if (finds) {
            ck_assert_msg(strstr(tacit_last_error(), mishap->words) != NULL, "%s, rank %d: %s", mishap->what, rank,
                          tacit_last_error());
            ck_assert_msg(mishap->finders >= 0 || text[0] == '\0' || strcmp(text, tacit_last_error()) == 0, "%s: '%s' and '%s'",
                          mishap->what, text, tacit_last_error());
            snprintf(text, sizeof text, "%s", tacit_last_error());
        }
    }
    if (mishap->finders < 0 || mishap->finders == (1 << RANKS) - 1) {
        check_memory(&net);
    }
    end(&net);
    if (mishap->gathered != NULL) { /* some have ended the step, others not: the next one shows that */
        begin(&net, 3);
        encode_all(&net, 3);
        all_to_all(&net);
        reduce_all(&net);
        all_gather(&net);
        for (int rank = 0; rank < RANKS; rank++) {
            fails(finish(&net.nodes[rank], &run), TACIT_ERR_MISMATCH, "other steps behind it");
        }
        end(&net);
    }
    if (mishap->finders < 0) {
        other = net_of(&plain);
        step_well(&other, 0);
        step_well(&other, 1);
        for (int step = 2; step < STEPS; step++) {
            step_well(&net, step);
            step_well(&other, step);
            ck_assert(!run.strict || run.hash[0] == plain.hash[0]); /* as if nothing had been */
        }
        net_free(&other);
    }
    net_free(&net);
    run_free(&run);
    run_free(&plain);
}
END_TEST

START_TEST(cancelled)
{
    run_t run = run_of(RANKS, 0, TENSORS, TACIT_SUM, false);
    net_t net;

    run.strict = _i % 2;
    net = net_of(&run);
    step_well(&net, 0);
    keep_all(&net);
    begin(&net, 1);
    encode_all(&net, 1);
    for (int rank = 0; rank < RANKS && _i / 2 == 0; rank++) {
        tacit_bundle_cancel(net.nodes[rank].bundle);
        tacit_bundle_cancel(net.nodes[rank].bundle);
    }
    if (_i / 2 == 1) {
        all_to_all(&net);
        reduce_all(&net);
        for (int rank = 0; rank < RANKS; rank++) {
            tacit_bundle_cancel(net.nodes[rank].bundle);
        }
    }
    check_memory(&net);
    end(&net);
    step_well(&net, 1);
    begin(&net, 2);
    encode_all(&net, 2); /* destroyed while a step runs */
    net_free(&net);
    end(&net);
    run_free(&run);
}
END_TEST

/* Codecs that are in another bundle, with other parts, for a step: one that fails leaves them what they owned. */
START_TEST(in_turns)
{
    run_t run = run_of(RANKS, 0, TENSORS, TACIT_SUM, false), few = run_of(RANKS, 0, 3, TACIT_SUM, false);
    net_t net, part;

    run.strict = few.strict = 1;
    net = net_of(&run);
    part = net_of(&few);
    for (int rank = 0; rank < RANKS; rank++) {
        node_t *node = &part.nodes[rank];

        tacit_bundle_destroy(node->bundle);
        for (int t = 0; t < few.end; t++) {
            tacit_codec_destroy(node->codecs[t]);
            node->codecs[t] = net.nodes[rank].codecs[t];
        }
        SUCCEEDS(tacit_bundle_create(node->codecs, (size_t)few.end, TACIT_SUM, &node->bundle));
    }
    step_well(&net, 0);
    step_well(&net, 1);
    keep_all(&net);
    begin(&part, 2);
    nan_alike(&part);
    encode_all(&part, 2);
    all_to_all(&part);
    reduce_all(&part);
    all_gather(&part);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(finish(&part.nodes[rank], &few), TACIT_ERR_VALUE);
        for (int t = 0; t < few.end; t++) {
            memory_is(&run, rank, t, net.nodes[rank].codecs[t], part.nodes[rank].in[t]);
        }
    }
    end(&part);
    step_well(&part, 2);
    step_well(&net, 3);
    ck_assert(run.hash[1] == run.hash[0] && few.hash[1] == few.hash[0] && few.hash[2] == few.hash[0]);
    for (int rank = 0; rank < RANKS; rank++) {
        for (int t = 0; t < few.end; t++) {
            part.nodes[rank].codecs[t] = NULL; /* the other's */
        }
    }
    net_free(&part);
    net_free(&net);
    run_free(&run);
    run_free(&few);
}
END_TEST

/* Codecs of another run, which has ended, go on as if they were its own. */
START_TEST(saved_and_loaded)
{
    run_t run = run_of(RANKS, 0, TENSORS, TACIT_AVERAGE, false), again = run_of(RANKS, 0, TENSORS, TACIT_AVERAGE, false);
    net_t net = net_of(&run), other = net_of(&again);

    step_well(&net, 0);
    step_well(&net, 1);
    for (int i = 0; i < RANKS * TENSORS; i++) {
        size_t   state_bytes;
        uint8_t *state;

        SUCCEEDS(tacit_codec_save(net.nodes[i / TENSORS].codecs[i % TENSORS], NULL, 0, &state_bytes));
        state = malloc(state_bytes);
        SUCCEEDS(tacit_codec_save(net.nodes[i / TENSORS].codecs[i % TENSORS], state, state_bytes, &state_bytes));
        SUCCEEDS(tacit_codec_load(other.nodes[i / TENSORS].codecs[i % TENSORS], state, state_bytes));
        free(state);
    }
    for (int step = 2; step < STEPS; step++) {
        step_well(&net, step);
        step_well(&other, step);
    }
    for (int t = 0; t < TENSORS; t++) {
        const size_t at = 2 * kinds[t].count;

        same_floats(again.out[t] + at, run.out[t] + at, (STEPS - 2) * kinds[t].count, kinds[t].spec);
    }
    net_free(&net);
    net_free(&other);
    run_free(&run);
    run_free(&again);
}
END_TEST

/* Ranks that disagree. */
START_TEST(mismatches)
{
    run_t run = run_of(RANKS, 0, TENSORS, TACIT_SUM, false);
    net_t net = net_of(&run);

    step_well(&net, 0);
    keep_all(&net);
    begin(&net, 1);
    for (int rank = 0; rank < RANKS; rank++) {
        SUCCEEDS(encode(&net.nodes[rank], &run, rank == 2 ? 7 : 1));
    }
    all_to_all(&net);
    reduce_all(&net);
    all_gather(&net);
    for (int rank = 0; rank < RANKS; rank++) {
        fails(finish(&net.nodes[rank], &run), TACIT_ERR_MISMATCH, "another step");
    }
    check_memory(&net);
    end(&net);
    step_well(&net, 1);
    net_free(&net);
    run_free(&run);
}
END_TEST

START_TEST(refusals)
{
    run_t           run = run_of(2, 0, TENSORS, TACIT_SUM, false);
    net_t           net = net_of(&run);
    node_t         *node = &net.nodes[0];
    tacit_codec_t  *codecs[2] = {node->codecs[0], net.nodes[1].codecs[1]};
    tacit_bundle_t *bundle = NULL;
    tacit_status_t  status;
    uint64_t        nth = 1;
    size_t          room;

    fails(tacit_bundle_create(NULL, 1, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "must be given");
    fails(tacit_bundle_create(codecs, 0, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "at least one");
    fails(tacit_bundle_create(codecs, 2, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "codec 1 is of another rank");
    codecs[1] = codecs[0];
    fails(tacit_bundle_create(codecs, 2, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "'tensor 0' is there twice");
    codecs[1] = NULL;
    fails(tacit_bundle_create(codecs, 2, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "codec 1 is NULL");
    begin(&net, 0);
    fails(tacit_bundle_reduce(node->bundle, node->received, node->own), TACIT_ERR_STATE, "tacit_bundle_encode() comes next");
    fails(finish(node, &run), TACIT_ERR_STATE, "tacit_bundle_encode() comes next");
    fails(tacit_bundle_encode(node->bundle, 0, NULL, node->sent), TACIT_ERR_ARGUMENT, "NULL");
    SUCCEEDS(encode(node, &run, 0));
    fails(encode(node, &run, 0), TACIT_ERR_STATE, "tacit_bundle_reduce() comes next");
    fails(tacit_codec_own(node->codecs[0], 0, 64, TACIT_SUM), TACIT_ERR_STATE, "a step of a bundle works with it");
    fails(tacit_codec_save(node->codecs[0], NULL, 0, &room), TACIT_ERR_STATE, "a step of a bundle works with it");
    fails(tacit_codec_load(node->codecs[0], node->own, 1), TACIT_ERR_STATE, "a step of a bundle works with it");
    SUCCEEDS(tacit_bundle_create(node->codecs, 1, TACIT_SUM, &bundle));
    fails(tacit_bundle_encode(bundle, 0, (const void *const *)node->in, node->gathered), TACIT_ERR_STATE, "works with it");
    tacit_bundle_destroy(bundle);
    bundle = NULL;
    fails(tacit_bundle_reduce(node->bundle, NULL, node->own), TACIT_ERR_ARGUMENT, "NULL");
    SUCCEEDS(encode(&net.nodes[1], &run, 0));
    all_to_all(&net);
    reduce_all(&net);
    fails(tacit_bundle_finish(node->bundle, NULL, node->out), TACIT_ERR_ARGUMENT, "NULL");
    all_gather(&net);
    SUCCEEDS(finish(node, &run));
    SUCCEEDS(finish(&net.nodes[1], &run));
    end(&net);
    tacit_bundle_destroy(NULL);
    tacit_bundle_cancel(NULL);
    ck_assert(tacit_bundle_gather_bytes(NULL) == 0 && tacit_bundle_scatter_bytes(NULL, 0, 1) == 0);
    ck_assert(tacit_bundle_scatter_bytes(node->bundle, 0, 2) == 0 && tacit_bundle_scatter_bytes(node->bundle, -1, 0) == 0);
    for (status = TACIT_ERR_MEMORY; status != TACIT_OK; nth++) { /* memory that is missing */
        tacit__alloc_fail_after(nth);
        status = tacit_bundle_create(node->codecs, TENSORS, TACIT_SUM, &bundle);
        tacit__alloc_fail_after(0);
        ck_assert_msg((status == TACIT_OK || status == TACIT_ERR_MEMORY) && nth < 200, "%s", tacit_last_error());
    }
    tacit_bundle_destroy(bundle);
    net_free(&net);
    run_free(&run);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bundle");
    TCase *tests = tcase_create("bundle");

    tcase_add_loop_test(tests, is_a_group, 0, 2 * MOST * BOUNDS);
    tcase_add_test(tests, bytes);
    tcase_add_loop_test(tests, layout, 0, BOUNDS);
    tcase_add_loop_test(tests, faults, 0, 2 * MISHAPS);
    tcase_add_loop_test(tests, cancelled, 0, 4);
    tcase_add_test(tests, in_turns);
    tcase_add_test(tests, saved_and_loaded);
    tcase_add_test(tests, mismatches);
    tcase_add_test(tests, refusals);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
