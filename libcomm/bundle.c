/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles: a step of many tensors in two exchanges, which somebody else makes. Blockwise tensors go as in the schedule of that
   name, an owner's part in one message; others whole, from each rank to all, in the second exchange, or a round in each
   (bundle_whole.c). Sharded bundles have one of the two exchanges, and whole tensors for parts. */
#include "bundle.h"

#include <string.h>

#include "frame.h"
#include "parts.h"

_Static_assert(TACIT_FRAME_HEADER_BYTES % TACIT_BUNDLE_ALIGN == 0 && TACIT_BUNDLE_LEAST_PAYLOAD % TACIT_BUNDLE_ALIGN == 0,
               "messages align");

/* ---- Creation ---- */

static size_t message_bytes(size_t payload_bytes)
{
    return TACIT_FRAME_HEADER_BYTES + (payload_bytes > TACIT_BUNDLE_LEAST_PAYLOAD ? payload_bytes : TACIT_BUNDLE_LEAST_PAYLOAD);
}

/* The elements of a blockwise tensor that a rank owns. `before`: what precedes it, of `total` bytes. */
static void cut(const tacit_bundle_t *bundle, size_t i, uint64_t before, uint64_t total, int owner, size_t *first, size_t *end)
{
    const tacit_codec_t *codec = bundle->codecs[i];

    if (bundle->owners != NULL) {
        *first = 0;
        *end = bundle->owners[i] == owner ? codec->tensor.count : 0;
    } else {
        const tacit_range_t all = {0, codec->tensor.count};

        *first = tacit__part_begin(codec, &all, before, total, owner, codec->ranks);
        *end = tacit__part_begin(codec, &all, before, total, owner + 1, codec->ranks);
    }
}

/* Divides the blockwise tensors among owners, or only counts the pieces. Returns how many. */
static size_t lay_out(tacit_bundle_t *bundle, bool count_only)
{
    uint64_t total = 0;
    size_t   pieces = 0;

    for (size_t i = 0; i < bundle->count; i++) {
        const tacit_codec_t *codec = bundle->codecs[i];

        total += tacit__codec_is_blockwise(codec) ? tacit__part_bytes(codec, codec->tensor.count) : 0;
    }
    for (int owner = 0; owner < bundle->ranks; owner++) {
        uint64_t before = 0;
        size_t   at = 0;

        bundle->part[owner] = pieces;
        for (size_t i = 0; i < bundle->count; i++) {
            const tacit_codec_t *codec = bundle->codecs[i];
            size_t               first, end;

            if (!tacit__codec_is_blockwise(codec)) {
                continue;
            }
            cut(bundle, i, before, total, owner, &first, &end);
            before += tacit__part_bytes(codec, codec->tensor.count);
            if (first == end) {
                continue;
            }
            if (!count_only) {
                bundle->pieces[pieces] = (tacit_piece_t){i, first, end - first, at};
            }
            at += tacit__round_up(tacit__part_bytes(codec, end - first), TACIT_BUNDLE_ALIGN);
            pieces++;
        }
        bundle->part_bytes[owner] = at;
    }
    bundle->part[bundle->ranks] = pieces;
    return pieces;
}

static tacit_status_t check_codecs(tacit_codec_t *const *codecs, const int *owners, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const tacit_codec_t *codec = codecs[i];

        if (codec != NULL && codec->module != codecs[0]->module) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "bundle: codec '%s' is on another device than the first", codec->name);
        }
        if (codec == NULL || codec->rank != codecs[0]->rank || codec->ranks != codecs[0]->ranks) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "bundle: codec %zu %s", i,
                               codec == NULL ? "is NULL" : "is of another rank, or of other ranks, than the first");
        }
        for (size_t j = 0; j < i; j++) {
            if (codecs[j] == codec) {
                return tacit__fail(TACIT_ERR_ARGUMENT, "bundle: codec '%s' is there twice", codec->name);
            }
        }
        if (owners != NULL && (owners[i] < 0 || owners[i] >= codec->ranks)) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "bundle: the owner of codec '%s', rank %d, is none of the %d ranks",
                               codec->name, owners[i], codec->ranks);
        }
        if (owners != NULL && !tacit__codec_is_blockwise(codec)) {
            return tacit__fail(TACIT_ERR_UNSUPPORTED,
                               "bundle: codec '%s', '%s': such tensors go to all ranks; where they are sharded, take a spec that "
                               "works by blocks, as rotq, qsgd, onebit, fp8, bf16 and fp16 do",
                               codec->name, codec->given.text);
        }
    }
    return TACIT_OK;
}

/* What was not sent of gradients is no beginning for what an all-gather sends, nor the other way round. */
static tacit_status_t check_uses(tacit_codec_t *const *codecs, size_t count, tacit_use_t use)
{
    static const char *const texts[] = {
        [TACIT_USE_REDUCES] = "an all-reduce or a reduce-scatter", [TACIT_USE_GATHERS] = "an all-gather"};

    for (size_t i = 0; i < count; i++) {
        if (codecs[i]->use != TACIT_USE_OPEN && codecs[i]->use != (int)use) {
            return tacit__fail(
                TACIT_ERR_STATE,
                "bundle: codec '%s' was in %s, and remembers what that has not sent; make a codec for each kind, or "
                "call tacit_codec_reset() first",
                codecs[i]->name, texts[codecs[i]->use]);
        }
    }
    return TACIT_OK;
}

/* Memory for everything, and the layout. */
static tacit_status_t lay_down(tacit_bundle_t *bundle)
{
    const size_t   ranks = (size_t)bundle->ranks;
    tacit_status_t status = TACIT_OK;
    size_t         pieces, most = 0, unit = TACIT_UNIT;
    bool           coded = false;

    bundle->part = tacit__alloc(ranks + 1, sizeof *bundle->part);
    bundle->part_bytes = tacit__alloc(ranks, sizeof *bundle->part_bytes);
    bundle->sent_at = tacit__alloc(ranks, sizeof *bundle->sent_at);
    bundle->payloads = tacit__alloc(2 * ranks, sizeof *bundle->payloads);
    bundle->contributions = bundle->payloads != NULL ? bundle->payloads + ranks : NULL;
    bundle->in = tacit__alloc(bundle->count, sizeof *bundle->in);
    if (bundle->part == NULL || bundle->part_bytes == NULL || bundle->sent_at == NULL || bundle->contributions == NULL ||
        bundle->in == NULL) {
        goto no_memory;
    }
    pieces = lay_out(bundle, true);
    bundle->pieces = tacit__alloc(pieces, sizeof *bundle->pieces);
    if (bundle->pieces == NULL) {
        goto no_memory;
    }
    lay_out(bundle, false);
    for (size_t p = 0; p < pieces; p++) {
        tacit_codec_t *codec = bundle->codecs[bundle->pieces[p].codec];

        coded = coded || tacit__codec_own_coded(codec);
        unit = codec->unit > unit ? codec->unit : unit;
        if (tacit__codec_is_uncut(codec) && codec->module == NULL) {
            TRY(tacit__codec_reserve(codec, bundle->pieces[p].count));
            unit = bundle->pieces[p].count > unit ? bundle->pieces[p].count : unit;
        }
    }
    TRY(tacit__wholes_create(bundle));
    for (size_t owner = 0; owner < ranks; owner++) {
        most = bundle->part_bytes[owner] > most ? bundle->part_bytes[owner] : most;
    }
    coded = coded && bundle->kind != TACIT_BUNDLE_ALLGATHER;
    bundle->gather_bytes = bundle->kind != TACIT_BUNDLE_REDUCE_SCATTER ? message_bytes(most + bundle->whole_bytes) : 0;
    bundle->own_coded_bytes = coded ? bundle->part_bytes[bundle->rank] : 0;
    most = message_bytes(most + (bundle->first_bytes > bundle->whole_bytes ? bundle->first_bytes : bundle->whole_bytes));
    if (most - TACIT_FRAME_HEADER_BYTES > UINT32_MAX) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "bundle: a message of %zu bytes is too long; make several bundles", most);
        goto out;
    }
    if (bundle->codecs[0]->module != NULL) {
        goto out;
    }
    bundle->sum = tacit__alloc_unset(unit * sizeof *bundle->sum);
    bundle->own_coded = coded ? tacit__alloc_unset(bundle->own_coded_bytes) : NULL;
    if (bundle->sum != NULL && (bundle->own_coded != NULL || !coded)) {
        goto out;
    }
no_memory:
    status = tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors", bundle->count);
out:
    return status;
}

/* What all messages say on all ranks, whatever the step. */
static tacit_frame_t identity(const tacit_bundle_t *bundle)
{
    tacit_frame_t frame = {.rank = (uint16_t)bundle->rank, .total = 1};
    uint64_t      slot = TACIT_HASH_START, spec = TACIT_HASH_START;

    for (size_t i = 0; i < bundle->count; i++) {
        tacit__codec_identify(bundle->codecs[i], bundle->op, &slot, &spec);
        frame.elements += (uint32_t)bundle->codecs[i]->tensor.count;
    }
    if (bundle->owners != NULL) {
        slot = tacit__hash(slot, &bundle->kind, sizeof bundle->kind);
        slot = tacit__hash(slot, bundle->owners, bundle->count * sizeof *bundle->owners);
    }
    frame.slot = (uint32_t)slot;
    frame.spec = (uint32_t)spec;
    return frame;
}

static tacit_status_t create(tacit_bundle_kind_t kind, tacit_codec_t *const *codecs, const int *owners, size_t count,
                             tacit_op_t op, tacit_bundle_t **bundle_out)
{
    const tacit_use_t use = kind == TACIT_BUNDLE_ALLGATHER ? TACIT_USE_GATHERS : TACIT_USE_REDUCES;
    tacit_bundle_t   *bundle = NULL;
    tacit_status_t    status;

    if (codecs == NULL || count == 0 || bundle_out == NULL || (op != TACIT_SUM && op != TACIT_AVERAGE) ||
        (kind != TACIT_BUNDLE_ALLREDUCE && owners == NULL)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "bundle: codecs, at least one of them, %san operator and bundle_out must be given",
                           kind != TACIT_BUNDLE_ALLREDUCE ? "owners, " : "");
    }
    TRY(check_codecs(codecs, owners, count));
    TRY(check_uses(codecs, count, use));
    bundle = tacit__alloc(1, sizeof *bundle);
    if (bundle == NULL || (bundle->codecs = tacit__alloc(count, sizeof(tacit_codec_t *))) == NULL ||
        (owners != NULL && (bundle->owners = tacit__alloc(count, sizeof *owners)) == NULL)) {
        status = tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors", count);
        goto out;
    }
    memcpy(bundle->codecs, codecs, count * sizeof *codecs);
    if (owners != NULL) {
        memcpy(bundle->owners, owners, count * sizeof *owners);
    }
    bundle->kind = (uint8_t)kind;
    bundle->count = count;
    bundle->op = op;
    bundle->rank = codecs[0]->rank;
    bundle->ranks = codecs[0]->ranks;
    TRY(lay_down(bundle));
    bundle->history = TACIT_HASH_START;
    bundle->identity = identity(bundle);
    for (int to = 1; to < bundle->ranks; to++) {
        bundle->sent_at[to] = bundle->sent_at[to - 1] + tacit_bundle_scatter_bytes(bundle, bundle->rank, to - 1);
    }
    if (codecs[0]->module != NULL) {
        TRY(tacit__bundle_device_create(bundle));
    }
    for (size_t i = 0; i < count; i++) {
        codecs[i]->use = codecs[i]->feedback != NULL ? (int)use : TACIT_USE_OPEN;
    }
    *bundle_out = bundle;
    bundle = NULL;
out:
    tacit_bundle_destroy(bundle);
    return status;
}

tacit_status_t tacit_bundle_create(tacit_codec_t *const *codecs, size_t count, tacit_op_t op, tacit_bundle_t **bundle_out)
{
    return create(TACIT_BUNDLE_ALLREDUCE, codecs, NULL, count, op, bundle_out);
}

tacit_status_t tacit_bundle_create_reduce_scatter(tacit_codec_t *const *codecs, const int *owners, size_t count, tacit_op_t op,
                                                  tacit_bundle_t **bundle_out)
{
    return create(TACIT_BUNDLE_REDUCE_SCATTER, codecs, owners, count, op, bundle_out);
}

tacit_status_t tacit_bundle_create_allgather(tacit_codec_t *const *codecs, const int *owners, size_t count,
                                             tacit_bundle_t **bundle_out)
{
    return create(TACIT_BUNDLE_ALLGATHER, codecs, owners, count, TACIT_SUM, bundle_out);
}

void tacit_bundle_destroy(tacit_bundle_t *bundle)
{
    if (bundle == NULL) {
        return;
    }
    tacit_bundle_cancel(bundle);
    tacit__bundle_device_destroy(bundle);
    tacit__wholes_destroy(bundle);
    tacit__free(bundle->codecs);
    tacit__free(bundle->owners);
    tacit__free(bundle->part);
    tacit__free(bundle->part_bytes);
    tacit__free(bundle->sent_at);
    tacit__free(bundle->payloads);
    tacit__free(bundle->in);
    tacit__free(bundle->pieces);
    tacit__free(bundle->sum);
    tacit__free(bundle->own_coded);
    tacit__free(bundle);
}

/* Whether messages go all to all. */
static bool scatters(const tacit_bundle_t *bundle)
{
    return bundle->ranks > 1 && (bundle->part[bundle->ranks] != 0 || bundle->first_bytes != 0) &&
           bundle->kind != TACIT_BUNDLE_ALLGATHER;
}

/* Whether encode() writes any. */
static bool sends(const tacit_bundle_t *bundle)
{
    return scatters(bundle) || bundle->kind == TACIT_BUNDLE_ALLGATHER;
}

/* Whether a tensor has elements that this rank is given for encode(), or is given room for in finish(). */
static bool has_in(const tacit_bundle_t *bundle, size_t i)
{
    return bundle->codecs[i]->tensor.count != 0 && (bundle->kind != TACIT_BUNDLE_ALLGATHER || bundle->owners[i] == bundle->rank);
}

static bool has_out(const tacit_bundle_t *bundle, size_t i)
{
    return bundle->codecs[i]->tensor.count != 0 &&
           (bundle->kind != TACIT_BUNDLE_REDUCE_SCATTER || bundle->owners[i] == bundle->rank);
}

size_t tacit_bundle_scatter_bytes(const tacit_bundle_t *bundle, int from, int to)
{
    const bool ranks = bundle != NULL && from >= 0 && from < bundle->ranks && to >= 0 && to < bundle->ranks;

    return !ranks || from == to || !scatters(bundle) ? 0 : message_bytes(bundle->part_bytes[to] + bundle->first_bytes);
}

size_t tacit_bundle_gather_bytes(const tacit_bundle_t *bundle)
{
    return bundle != NULL ? bundle->gather_bytes : 0;
}

/* ---- A step ---- */

/* The end of one. */
static void leave(tacit_bundle_t *bundle)
{
    for (size_t i = 0; i < bundle->count; i++) {
        bundle->codecs[i]->bundle = NULL;
    }
    bundle->phase = TACIT_BUNDLE_IDLE;
}

static tacit_status_t check_phase(const tacit_bundle_t *bundle, tacit_bundle_phase_t phase, const char *call, bool given)
{
    static const char *const next[] = {"tacit_bundle_encode()", "tacit_bundle_reduce()", "tacit_bundle_finish()"};

    if (bundle == NULL || !given) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "%s: the bundle, a tensor or a message is NULL", call);
    }
    return bundle->phase == phase ? TACIT_OK : tacit__fail(TACIT_ERR_STATE, "%s: %s comes next", call, next[bundle->phase]);
}

/* Where a piece's payload of this rank lies: in a message to its owner, or to all, or beside. NULL: it is not encoded. */
static uint8_t *encoded_at(const tacit_bundle_t *bundle, int owner, const tacit_piece_t *piece)
{
    if (bundle->kind == TACIT_BUNDLE_ALLGATHER) {
        return owner == bundle->rank ? bundle->sent + TACIT_FRAME_HEADER_BYTES + piece->at : NULL;
    }
    if (owner == bundle->rank) {
        return tacit__codec_own_coded(bundle->codecs[piece->codec]) ? bundle->own_coded + piece->at : NULL;
    }
    return bundle->sent + bundle->sent_at[owner] + TACIT_FRAME_HEADER_BYTES + piece->at;
}

/* Zeros behind a piece's payload. */
static void pad(const tacit_bundle_t *bundle, const tacit_piece_t *piece, uint8_t *payload)
{
    const size_t bytes = tacit__part_bytes(bundle->codecs[piece->codec], piece->count);

    memset(payload + bytes, 0, tacit__round_up(bytes, TACIT_BUNDLE_ALIGN) - bytes);
}

static void undo_pieces(tacit_bundle_t *bundle)
{
    for (int owner = 0; owner < bundle->ranks; owner++) {
        for (size_t p = bundle->part[owner]; p < tacit__min(bundle->part[owner + 1], bundle->encoded); p++) {
            const tacit_piece_t *piece = &bundle->pieces[p];
            const uint8_t       *payload = encoded_at(bundle, owner, piece);

            if (payload != NULL) {
                tacit__codec_undo(bundle->codecs[piece->codec], bundle->step, bundle->in[piece->codec], piece->first,
                                  piece->count, payload);
            }
        }
    }
    bundle->encoded = 0;
}

/* Where nothing is encoded, what is not finite is found when the sum is; unless that stays with its owner. */
static uint32_t encode_piece(const tacit_bundle_t *bundle, int owner, const tacit_piece_t *piece, uint8_t *payload)
{
    tacit_codec_t *codec = bundle->codecs[piece->codec];
    const void    *in = bundle->in[piece->codec];

    if (payload != NULL) {
        return tacit__codec_encode(codec, bundle->step, in, piece->first, piece->count, payload);
    }
    return bundle->kind == TACIT_BUNDLE_REDUCE_SCATTER && owner == bundle->rank
               ? tacit__codec_own_check(codec, in, piece->first, piece->count, bundle->sum)
               : 0;
}

/* After a fault nothing is encoded: a text takes the place of payloads. */
static void encode_pieces(tacit_bundle_t *bundle)
{
    for (int owner = 0; owner < bundle->ranks; owner++) {
        for (size_t p = bundle->part[owner]; p < bundle->part[owner + 1] && bundle->fault == TACIT_OK; p++) {
            const tacit_piece_t *piece = &bundle->pieces[p];
            tacit_codec_t       *codec = bundle->codecs[piece->codec];
            uint8_t             *payload = encoded_at(bundle, owner, piece);

            if (encode_piece(bundle, owner, piece, payload) != 0) {
                tacit__bundle_note(bundle, bundle->rank, tacit__codec_value_fault(codec, bundle->rank, bundle->step));
                undo_pieces(bundle);
                return;
            }
            if (payload != NULL) {
                pad(bundle, piece, payload);
            }
            bundle->encoded = p + 1;
        }
    }
}

static tacit_status_t value_fault(const tacit_bundle_t *bundle, const tacit_whole_t *whole)
{
    return tacit__codec_value_fault(bundle->codecs[whole->codec], bundle->rank, bundle->step);
}

/* First factors of tensors of two rounds: made, … */
static void begin_wholes(tacit_bundle_t *bundle)
{
    for (size_t w = 0; w < bundle->whole_count && bundle->fault == TACIT_OK; w++) {
        tacit_status_t begun = tacit__whole_begin(bundle, &bundle->wholes[w]);

        tacit__bundle_note(bundle, bundle->rank, begun == TACIT_ERR_VALUE ? value_fault(bundle, &bundle->wholes[w]) : begun);
    }
}

/* … told to all, … */
static void tell_wholes(const tacit_bundle_t *bundle, uint8_t *places)
{
    for (size_t w = 0; w < bundle->whole_count && bundle->fault == TACIT_OK; w++) {
        if (bundle->wholes[w].first_bytes != 0) {
            tacit__whole_tell(&bundle->wholes[w], places + bundle->wholes[w].first_at);
        }
    }
}

/* … and added up. */
static void meet_whole(tacit_bundle_t *bundle, tacit_whole_t *whole)
{
    for (int rank = 0; rank < bundle->ranks; rank++) {
        const uint8_t *place =
            rank != bundle->rank ? bundle->payloads[rank] + bundle->part_bytes[bundle->rank] + whole->first_at : NULL;

        if (!tacit__whole_meet(bundle, whole, rank, place)) {
            tacit__bundle_note(bundle, rank, tacit__bundle_place_fault(rank, bundle->codecs[whole->codec]));
        }
    }
    if (bundle->fault == TACIT_OK && !tacit__whole_met(bundle, whole)) {
        tacit__bundle_note(bundle, bundle->rank, tacit__bundle_sum_fault(bundle, bundle->codecs[whole->codec], bundle->step));
    }
}

/* The owned part of every tensor may be another than in the last step. */
static tacit_status_t own_parts(const tacit_bundle_t *bundle)
{
    tacit_status_t status = TACIT_OK;
    size_t         p = bundle->part[bundle->rank];

    for (size_t i = 0; i < bundle->count; i++) {
        const bool           owned = p < bundle->part[bundle->rank + 1] && bundle->pieces[p].codec == i;
        const bool           again = owned && bundle->kind == TACIT_BUNDLE_ALLREDUCE; /* it is encoded again by its owner */
        const tacit_piece_t *piece = &bundle->pieces[p];

        TRY(tacit__codec_own_part(bundle->codecs[i], bundle->step, again ? piece->first : 0, again ? piece->count : 0,
                                  bundle->op == TACIT_AVERAGE));
        p += owned;
    }
out:
    return status;
}

tacit_status_t tacit_bundle_encode(tacit_bundle_t *bundle, uint64_t step, const void *const *in, void *messages)
{
    tacit_status_t status;

    TRY(check_phase(bundle, TACIT_BUNDLE_IDLE, "tacit_bundle_encode()",
                    in != NULL && (messages != NULL || bundle == NULL || !sends(bundle))));
    for (size_t i = 0; i < bundle->count; i++) {
        TRY(check_phase(bundle, TACIT_BUNDLE_IDLE, "tacit_bundle_encode()", in[i] != NULL || !has_in(bundle, i)));
    }
    for (size_t i = 0; i < bundle->count; i++) {
        TRY(tacit__codec_is_free(bundle->codecs[i]));
    }
    for (size_t i = 0; i < bundle->count; i++) {
        bundle->codecs[i]->bundle = bundle;
    }
    memcpy(bundle->in, in, bundle->count * sizeof *in);
    bundle->sent = messages;
    bundle->phase = bundle->kind == TACIT_BUNDLE_ALLREDUCE ? TACIT_BUNDLE_ENCODED : TACIT_BUNDLE_REDUCED;
    if (bundle->device != NULL) {
        status = tacit__bundle_device_encode(bundle, step, in);
        if (status != TACIT_OK) {
            leave(bundle);
        }
        goto out;
    }
    step = step == TACIT_STEP_NEXT ? bundle->next_step : step;
    bundle->next_step = step + 1;
    bundle->step = step;
    bundle->identity.step = (uint32_t)step;
    bundle->identity.history = (uint32_t)bundle->history;
    bundle->encoded = 0;
    bundle->fault = TACIT_OK;
    tacit__bundle_note(bundle, bundle->rank, own_parts(bundle));
    begin_wholes(bundle); /* first: what is encoded of pieces is lost where a text takes its place */
    encode_pieces(bundle);
    for (int to = 0; to < bundle->ranks; to++) {
        if (tacit_bundle_scatter_bytes(bundle, bundle->rank, to) != 0) {
            uint8_t *message = bundle->sent + bundle->sent_at[to];

            tell_wholes(bundle, message + TACIT_FRAME_HEADER_BYTES + bundle->part_bytes[to]);
            tacit__bundle_write(bundle, TACIT_FRAME_CONTRIBUTION, bundle->part_bytes[to] + bundle->first_bytes, message);
        }
    }
    if (bundle->kind == TACIT_BUNDLE_ALLGATHER) {
        tacit__bundle_write(bundle, TACIT_FRAME_RESULT, bundle->part_bytes[bundle->rank], bundle->sent);
    }
out:
    return status;
}

/* Checks what has come; payloads[] := where each rank's begins. */
static void take_contributions(tacit_bundle_t *bundle, const uint8_t *message)
{
    const size_t expected = bundle->part_bytes[bundle->rank] + bundle->first_bytes;

    for (int rank = 0; rank < bundle->ranks; rank++) {
        const size_t  bytes = tacit_bundle_scatter_bytes(bundle, rank, bundle->rank);
        tacit_frame_t frame;

        bundle->payloads[rank] = bundle->own_coded;
        if (bytes != 0) {
            tacit_status_t status = tacit__bundle_read(bundle, rank, TACIT_FRAME_CONTRIBUTION, message, bytes, &frame);

            if (status == TACIT_OK && frame.payload_bytes != expected) {
                status = tacit__fail(TACIT_ERR_FRAME, "rank %d: rank %d contributes %u bytes, not %zu", bundle->rank, rank,
                                     frame.payload_bytes, expected);
            }
            tacit__bundle_note(bundle, rank, status);
            bundle->payloads[rank] = message + TACIT_FRAME_HEADER_BYTES;
            message += bytes;
        }
    }
}

/* contributions[] := what each rank has sent of a piece of the own part. */
static void find_contributions(tacit_bundle_t *bundle, const tacit_piece_t *piece)
{
    for (int rank = 0; rank < bundle->ranks; rank++) {
        const bool none = rank == bundle->rank && !tacit__codec_own_coded(bundle->codecs[piece->codec]);

        bundle->contributions[rank] = none ? NULL : bundle->payloads[rank] + piece->at;
    }
}

/* Reduces a piece of the own part. */
static void reduce_piece(tacit_bundle_t *bundle, const tacit_piece_t *piece, uint8_t *results)
{
    tacit_codec_t *codec = bundle->codecs[piece->codec];

    find_contributions(bundle, piece);
    if (tacit__codec_reduce(codec, bundle->step, bundle->in[piece->codec], piece->first, piece->count, bundle->contributions,
                            bundle->op, bundle->sum, results + piece->at) != 0) {
        tacit__bundle_note(bundle, bundle->rank, tacit__codec_value_fault(codec, bundle->rank, bundle->step));
    }
    pad(bundle, piece, results + piece->at);
}

tacit_status_t tacit_bundle_reduce(tacit_bundle_t *bundle, const void *messages, void *message)
{
    tacit_status_t status;
    uint8_t       *payload = message;
    size_t         part_bytes;

    TRY(check_phase(bundle, TACIT_BUNDLE_ENCODED, "tacit_bundle_reduce()",
                    message != NULL && (messages != NULL || bundle == NULL || !scatters(bundle))));
    if (bundle->device != NULL) {
        TRY(tacit__bundle_device_reduce(bundle, messages, message));
        bundle->phase = TACIT_BUNDLE_REDUCED;
        goto out;
    }
    payload += TACIT_FRAME_HEADER_BYTES;
    part_bytes = bundle->part_bytes[bundle->rank];
    take_contributions(bundle, messages);
    for (size_t p = bundle->part[bundle->rank]; p < bundle->part[bundle->rank + 1] && bundle->fault == TACIT_OK; p++) {
        reduce_piece(bundle, &bundle->pieces[p], payload);
    }
    for (size_t w = 0; w < bundle->whole_count && bundle->fault == TACIT_OK; w++) {
        if (bundle->wholes[w].first_bytes != 0) {
            meet_whole(bundle, &bundle->wholes[w]);
        }
    }
    for (size_t w = 0; w < bundle->whole_count && bundle->fault == TACIT_OK; w++) {
        tacit_whole_t *whole = &bundle->wholes[w];
        tacit_status_t encoded = tacit__whole_encode(bundle, whole, payload + part_bytes + whole->at);

        tacit__bundle_note(bundle, bundle->rank, encoded == TACIT_ERR_VALUE ? value_fault(bundle, whole) : encoded);
    }
    tacit__bundle_write(bundle, TACIT_FRAME_RESULT, part_bytes + bundle->whole_bytes, message);
    bundle->phase = TACIT_BUNDLE_REDUCED;
out:
    return status;
}

/* ---- The end of a step ---- */

static void undo(tacit_bundle_t *bundle)
{
    if (bundle->device != NULL) {
        tacit__bundle_device_cancel(bundle);
        leave(bundle);
        return;
    }
    undo_pieces(bundle);
    for (size_t w = 0; w < bundle->whole_count; w++) {
        tacit__whole_undo(bundle, &bundle->wholes[w]);
    }
    for (size_t i = 0; i < bundle->count; i++) {
        tacit__codec_disown(bundle->codecs[i]);
    }
    leave(bundle);
}

/* Results of the own part, which has come from all ranks. */
static void collect(tacit_bundle_t *bundle, void *const *out)
{
    for (size_t p = bundle->part[bundle->rank]; p < bundle->part[bundle->rank + 1]; p++) {
        const tacit_piece_t *piece = &bundle->pieces[p];

        find_contributions(bundle, piece);
        tacit__codec_collect(bundle->codecs[piece->codec], bundle->step, bundle->in[piece->codec], piece->first, piece->count,
                             bundle->contributions, bundle->op, bundle->sum, out[piece->codec]);
    }
}

/* Results of all parts, and of tensors that travel whole. Memory of the own part first: out[] may be in[]. */
static void decode(tacit_bundle_t *bundle, const uint8_t *message, void *const *out)
{
    for (size_t p = bundle->part[bundle->rank]; p < bundle->part[bundle->rank + 1]; p++) {
        const tacit_piece_t *piece = &bundle->pieces[p];

        if (bundle->kind == TACIT_BUNDLE_ALLREDUCE && !tacit__codec_own_coded(bundle->codecs[piece->codec])) {
            tacit__codec_own_keep(bundle->codecs[piece->codec], bundle->step, bundle->in[piece->codec], piece->first,
                                  piece->count);
        }
    }
    for (int owner = 0; owner < bundle->ranks; owner++, message += bundle->gather_bytes) {
        for (size_t p = bundle->part[owner]; p < bundle->part[owner + 1]; p++) {
            const tacit_piece_t *piece = &bundle->pieces[p];

            tacit__codec_finish(bundle->codecs[piece->codec], bundle->step, message + TACIT_FRAME_HEADER_BYTES + piece->at,
                                piece->first, piece->count, out[piece->codec]);
        }
    }
    for (size_t w = 0; w < bundle->whole_count; w++) {
        tacit__whole_finish(bundle, &bundle->wholes[w], out[bundle->wholes[w].codec]);
    }
}

static void commit(tacit_bundle_t *bundle, const uint8_t *message, void *const *out)
{
    for (size_t i = 0; i < bundle->count; i++) {
        tacit__codec_conclude(bundle->codecs[i], bundle->op);
    }
    if (bundle->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        collect(bundle, out);
    } else {
        decode(bundle, message, out);
    }
    for (size_t i = 0; i < bundle->count; i++) {
        tacit__codec_commit(bundle->codecs[i], bundle->step);
        tacit__codec_collapse(bundle->codecs[i]);
    }
    bundle->history = tacit__hash(bundle->history, &bundle->step, sizeof bundle->step);
    leave(bundle);
}

/* Takes in one rank's message. */
static tacit_status_t take_result(tacit_bundle_t *bundle, int rank, const uint8_t *message)
{
    const size_t   part_bytes = bundle->part_bytes[rank], bytes = part_bytes + bundle->whole_bytes;
    tacit_status_t status;
    tacit_frame_t  frame;

    TRY(tacit__bundle_read(bundle, rank, TACIT_FRAME_RESULT, message, bundle->gather_bytes, &frame));
    if (frame.payload_bytes != bytes) {
        status = tacit__fail(TACIT_ERR_FRAME, "rank %d: rank %d's result has %u bytes, not %zu", bundle->rank, rank,
                             frame.payload_bytes, bytes);
        goto out;
    }
    for (size_t w = 0; w < bundle->whole_count; w++) {
        tacit_whole_t *whole = &bundle->wholes[w];

        if (!tacit__whole_take(bundle, whole, rank, frame.payload + part_bytes + whole->at)) {
            status = tacit__bundle_place_fault(rank, bundle->codecs[whole->codec]);
            goto out;
        }
    }
out:
    return status;
}

tacit_status_t tacit_bundle_finish(tacit_bundle_t *bundle, const void *messages, void *const *out)
{
    tacit_status_t status;
    const uint8_t *message = messages;

    TRY(check_phase(bundle, TACIT_BUNDLE_REDUCED, "tacit_bundle_finish()",
                    out != NULL && (messages != NULL || bundle == NULL || (bundle->gather_bytes == 0 && !scatters(bundle)))));
    for (size_t i = 0; i < bundle->count; i++) {
        TRY(check_phase(bundle, TACIT_BUNDLE_REDUCED, "tacit_bundle_finish()", out[i] != NULL || !has_out(bundle, i)));
    }
    if (bundle->device != NULL) {
        TRY(tacit__bundle_device_finish(bundle, messages, out));
        leave(bundle);
        goto out;
    }
    if (bundle->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        take_contributions(bundle, message);
    } else {
        bundle->fault = TACIT_OK; /* the own one comes back in the own message: all ranks judge by the same */
        for (int rank = 0; rank < bundle->ranks; rank++) {
            tacit__bundle_note(bundle, rank, take_result(bundle, rank, message + (size_t)rank * bundle->gather_bytes));
        }
    }
    for (size_t w = 0; w < bundle->whole_count && bundle->fault == TACIT_OK; w++) {
        if (!tacit__whole_fits(bundle, &bundle->wholes[w])) {
            tacit__bundle_note(bundle, 0, tacit__bundle_sum_fault(bundle, bundle->codecs[bundle->wholes[w].codec], bundle->step));
        }
    }
    if (bundle->fault != TACIT_OK) {
        undo(bundle);
        status = tacit__fail_text(bundle->fault, bundle->text);
        goto out;
    }
    commit(bundle, messages, out);
out:
    return status;
}

tacit_status_t tacit__bundle_conclude(tacit_bundle_t *bundle, const void *messages, void *const *out)
{
    const tacit_status_t status = tacit__bundle_device_conclude(bundle, messages, out);

    leave(bundle);
    return status;
}

void tacit_bundle_cancel(tacit_bundle_t *bundle)
{
    if (bundle != NULL && bundle->phase != TACIT_BUNDLE_IDLE) {
        undo(bundle);
    }
}

/* ---- Devices ---- */

tacit_status_t tacit_bundle_set_stream(tacit_bundle_t *bundle, void *stream)
{
    if (bundle == NULL || bundle->device == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "tacit_bundle_set_stream(): the bundle is NULL, or its tensors are on the CPU");
    }
    tacit__bundle_device_stream(bundle, stream);
    return TACIT_OK;
}

tacit_status_t tacit_bundle_poll(tacit_bundle_t *bundle, uint64_t behind)
{
    if (bundle == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "tacit_bundle_poll(): the bundle is NULL");
    }
    return bundle->device != NULL ? tacit__bundle_device_poll(bundle, behind) : TACIT_OK;
}
