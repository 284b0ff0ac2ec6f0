/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles of tensors on a GPU: what kernels are told, and which are launched when. Nothing waits for them but
   tacit_bundle_poll(). A step is nine launches, three more for each further code that is in the bundle, and some more
   where tensors travel whole (wholes_device.c, matrices_device.c); how many tensors there are does not matter. */
#include "bundle.h"

#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include "cuda_module.h"
#include "parts.h"

enum { GROUPS = TACIT_CODES * TACIT_WIDTHS };

/* The four kinds of messages: sent and received, in either exchange. */
typedef enum { SCATTER_OUT, SCATTER_IN, GATHER_OUT, GATHER_IN, MESSAGES } exchange_t;

struct tacit_bundle_device {
    const tacit_cuda_module_t *module;
    void                      *stream;
    tacit_device_bundle_t      bundle;
    tacit_device_tensor_t     *tensors; /* as the device has them, … */
    uint64_t                  *generations;
    bool                       current; /* … unless one has changed since */
    tacit_device_tiles_t       groups[GROUPS];
    size_t                     group_count;
    tacit_device_messages_t    messages[MESSAGES];
    tacit_device_wholes_t      wholes;
    void                      *wholes_memory, *matrices_memory;
    void                      *memory;          /* of the device, with all that is above but tensors that travel whole */
    uint8_t                   *image;           /* what it begins with, on the host */
    size_t                     used;            /* bytes of both */
    uint64_t                   started, failed; /* steps; and failed ones that have been told of */
};

static tacit_status_t check(int error, const tacit_bundle_device_t *side, const char *what)
{
    return error == 0
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_DEVICE, "bundle: %s: %s (CUDA error %d)", what, side->module->error_text(error), error);
}

/* ---- Tables. They are laid out twice: first only counted, then written to the image ---- */

/* The next `bytes` bytes: of the image, unless that is only being counted; *device_out is where they are on the device. */
static void *take(tacit_bundle_device_t *side, size_t bytes, const void **device_out)
{
    const size_t at = side->used;

    side->used += tacit__round_up(bytes, 64);
    *device_out = side->memory != NULL ? (uint8_t *)side->memory + at : NULL;
    return side->image != NULL ? side->image + at : NULL;
}

static tacit_width_t width_of(const tacit_codec_t *codec, const tacit_device_code_t *code, size_t count)
{
    const size_t record = code->block != 0 ? code->block : count;

    if (record <= TACIT_SHORT_RECORD) {
        return TACIT_WIDTH_SHORT;
    }
    return code->code == TACIT_CODE_ONEBIT && record <= TACIT_LONG_RECORD && codec->unit <= TACIT_UNIT ? TACIT_WIDTH_LONG
                                                                                                       : TACIT_WIDTH_WIDE;
}

static tacit_device_code_t code_of(const tacit_codec_t *codec)
{
    return codec->compressor->device(codec->spec.compressor_config);
}

/* The tiles of one code and width. */
static void lay_tiles(const tacit_bundle_t *bundle, tacit_code_t wanted, tacit_width_t width)
{
    tacit_bundle_device_t *side = bundle->device;
    tacit_device_tiles_t   group = {.code = (uint8_t)wanted, .width = (uint8_t)width};
    tacit_device_tile_t   *tiles = side->image != NULL ? (tacit_device_tile_t *)(void *)(side->image + side->used) : NULL;

    for (int owner = 0; owner < bundle->ranks; owner++) {
        group.own_first = owner == bundle->rank ? group.count : group.own_first;
        for (size_t p = bundle->part[owner]; p < bundle->part[owner + 1]; p++) {
            const tacit_piece_t      *piece = &bundle->pieces[p];
            const tacit_codec_t      *codec = bundle->codecs[piece->codec];
            const tacit_device_code_t code = code_of(codec);
            const size_t              record = code.block != 0 ? code.block : piece->count;
            const size_t              step = width == TACIT_WIDTH_WIDE || record > codec->unit ? record : codec->unit;

            if (code.code != wanted || width_of(codec, &code, piece->count) != width) {
                continue;
            }
            for (size_t first = 0; first < piece->count; first += step) {
                if (tiles != NULL) {
                    tiles[group.count] =
                        (tacit_device_tile_t){(uint32_t)p, (uint32_t)tacit__min(step, piece->count - first), first};
                }
                group.count++;
            }
        }
        group.own_count = owner == bundle->rank ? group.count - group.own_first : group.own_count;
    }
    if (group.count != 0) {
        const void *on_device;

        (void)take(side, group.count * sizeof *tiles, &on_device);
        group.tiles = on_device;
        side->groups[side->group_count++] = group;
    }
}

static void lay_messages(const tacit_bundle_t *bundle, exchange_t exchange)
{
    tacit_bundle_device_t   *side = bundle->device;
    tacit_device_messages_t *messages = &side->messages[exchange];
    const size_t             most = (size_t)bundle->ranks;
    const void              *on_device[4];
    tacit_device_message_t  *table = take(side, most * sizeof *table, &on_device[0]);
    uint64_t                 at = 0;

    (void)take(side, most * sizeof *messages->sums, &on_device[1]);
    (void)take(side, most * sizeof *messages->blocks_done, &on_device[2]);
    (void)take(side, most * sizeof *messages->faults, &on_device[3]);
    *messages = (tacit_device_messages_t){.message = on_device[0],
                                          .sums = (uint32_t *)(uintptr_t)on_device[1],
                                          .blocks_done = (uint32_t *)(uintptr_t)on_device[2],
                                          .faults = (uint64_t *)(uintptr_t)on_device[3]};
    for (int other = 0; other < bundle->ranks; other++) {
        const bool   out = exchange == SCATTER_OUT || exchange == GATHER_OUT, scatter = exchange <= SCATTER_IN;
        const int    from = out ? bundle->rank : other, to = out ? other : bundle->rank;
        const size_t bytes = scatter ? tacit_bundle_scatter_bytes(bundle, from, to) : bundle->gather_bytes;
        const size_t payload = bundle->part_bytes[scatter ? to : from] + (scatter ? bundle->first_bytes : bundle->whole_bytes);
        const size_t room = bytes - tacit__min(bytes, TACIT_FRAME_HEADER_BYTES), summed = out ? payload : room;

        if (bytes == 0 || (exchange == GATHER_OUT && other != bundle->rank)) {
            continue;
        }
        if (table != NULL) {
            table[messages->count] = (tacit_device_message_t){at, payload, room, (uint32_t)other, messages->blocks};
        }
        messages->count++;
        messages->blocks += (uint32_t)(summed / TACIT_MESSAGE_CHUNK + 1);
        at += bytes;
    }
}

/* Tables that do not change from step to step. */
static void lay_tables(const tacit_bundle_t *bundle)
{
    tacit_bundle_device_t *side = bundle->device;
    const size_t           ranks = (size_t)bundle->ranks, pieces = bundle->part[bundle->ranks];
    const void            *on_device;
    tacit_device_piece_t  *piece;
    uint64_t              *offsets;

    side->used = 0;
    side->group_count = 0;
    side->tensors = take(side, bundle->count * sizeof *side->tensors, &on_device);
    side->bundle.tensors = on_device;
    piece = take(side, pieces * sizeof *piece, &on_device);
    side->bundle.pieces = on_device;
    for (int owner = 0; piece != NULL && owner < bundle->ranks; owner++) {
        for (size_t p = bundle->part[owner]; p < bundle->part[owner + 1]; p++) {
            const tacit_piece_t *from = &bundle->pieces[p];
            piece[p] = (tacit_device_piece_t){(uint32_t)from->codec, (uint32_t)owner, from->first, from->count, from->at};
        }
    }
    offsets = take(side, ranks * sizeof *offsets, &on_device);
    side->bundle.sent_at = on_device;
    for (size_t rank = 0; offsets != NULL && rank < ranks; rank++) {
        offsets[rank] = bundle->sent_at[rank];
    }
    offsets = take(side, ranks * sizeof *offsets, &on_device);
    side->bundle.received_at = on_device;
    for (size_t rank = 0, at = 0; offsets != NULL && rank < ranks; rank++) {
        offsets[rank] = at;
        at += tacit_bundle_scatter_bytes(bundle, (int)rank, bundle->rank);
    }
    for (int code = 0; code < TACIT_CODES; code++) {
        for (int width = 0; width < TACIT_WIDTHS; width++) {
            lay_tiles(bundle, (tacit_code_t)code, (tacit_width_t)width);
        }
    }
    for (int exchange = 0; exchange < MESSAGES; exchange++) {
        lay_messages(bundle, (exchange_t)exchange);
    }
    (void)take(side, sizeof *side->bundle.step, &on_device);
    side->bundle.step = (tacit_device_step_t *)(uintptr_t)on_device;
    (void)take(side, bundle->own_coded_bytes, &on_device);
    side->bundle.own_coded = (uint8_t *)(uintptr_t)on_device;
}

/* What a codec is and where its memory lies. */
static tacit_device_tensor_t tensor_of(const tacit_codec_t *codec, const void *in, void *out)
{
    tacit_device_tensor_t tensor = {.in = in,
                                    .out = out,
                                    .count = codec->tensor.count,
                                    .key = codec->key,
                                    .code = code_of(codec),
                                    .dtype = (uint8_t)codec->tensor.dtype,
                                    .nonfinite = (uint8_t)codec->nonfinite,
                                    .doubled = codec->strict,
                                    .owner_first = codec->owner_first,
                                    .turn = codec->turn};
    const uint32_t        now = codec->turned, next = 1 - now;

    if (codec->feedback != NULL) {
        const tacit_feedback_t *feedback = codec->feedback;

        tensor.keep = (uint8_t)feedback->keep;
        tensor.precision = (uint8_t)codec->precision;
        tensor.packed = (uint8_t)feedback->rounded;
        tensor.flags = (uint8_t)(feedback->flags != NULL ? feedback->flags(codec->spec.feedback_config) : 0);
        tensor.weight = feedback->weight != NULL ? feedback->weight(codec->spec.feedback_config) : 0;
        for (size_t i = 0; i < TACIT_DEVICE_ARRAYS; i++) {
            const bool packed = codec->packed[i] != NULL;

            tensor.memory[now][i] = packed ? (void *)codec->packed[i] : (void *)codec->memory.now[i];
            tensor.memory[next][i] = packed ? (void *)codec->packed_next[i] : (void *)codec->memory.next[i];
        }
        tensor.owner[now] = codec->owner.now[0];
        tensor.owner[next] = codec->owner.next[0];
    }
    return tensor;
}

/* ---- Creation ---- */

tacit_status_t tacit__bundle_device_create(tacit_bundle_t *bundle)
{
    tacit_bundle_device_t *side = tacit__alloc(1, sizeof *side);
    tacit_frame_t          identity = bundle->identity;
    tacit_device_step_t   *step;
    tacit_status_t         status = TACIT_OK;

    if (side == NULL) {
        goto no_memory;
    }
    bundle->device = side;
    side->module = bundle->codecs[0]->module;
    side->generations = tacit__alloc(bundle->count, sizeof *side->generations);
    lay_tables(bundle);
    if (side->generations == NULL || (side->image = tacit__alloc(side->used, 1)) == NULL) {
        goto no_memory;
    }
    TRY(check(side->module->alloc(&side->memory, side->used), side, "memory of the GPU for its tables"));
    TRY(check(side->module->alloc_host((void **)&side->bundle.report, sizeof *side->bundle.report), side,
              "memory of the host that a GPU writes to"));
    lay_tables(bundle);
    if (bundle->whole_count != 0) {
        TRY(tacit__wholes_device_create(bundle, &side->wholes, &side->wholes_memory));
        TRY(tacit__matrices_device_create(bundle, &side->wholes.matrices, &side->matrices_memory));
    }
    side->bundle.gather_bytes = bundle->gather_bytes;
    side->bundle.tensor_count = (uint32_t)bundle->count;
    side->bundle.rank = (uint16_t)bundle->rank;
    side->bundle.ranks = (uint16_t)bundle->ranks;
    side->bundle.average = bundle->op == TACIT_AVERAGE;
    side->bundle.kind = bundle->kind;
    tacit__frame_write(&identity, side->bundle.header);
    step = (tacit_device_step_t *)(void *)(side->image + ((uint8_t *)side->bundle.step - (uint8_t *)side->memory));
    *step = (tacit_device_step_t){.step = UINT64_MAX, .history = TACIT_HASH_START, .bad_tensor = UINT32_MAX};
    TRY(check(side->module->copy(side->memory, side->image, side->used, NULL), side, "its tables"));
    TRY(check(side->module->synchronize(), side, "its tables"));
    goto out;
no_memory:
    status = tacit__fail(TACIT_ERR_MEMORY, "bundle: no memory for %zu tensors", bundle->count);
out:
    return status;
}

void tacit__bundle_device_destroy(tacit_bundle_t *bundle)
{
    tacit_bundle_device_t *side = bundle->device;

    if (side == NULL) {
        return;
    }
    if (side->module != NULL) {
        (void)side->module->synchronize();
        (void)side->module->free(side->memory);
        (void)side->module->free(side->wholes_memory);
        (void)side->module->free(side->matrices_memory);
        (void)side->module->free_host(side->bundle.report);
    }
    tacit__free(side->generations);
    tacit__free(side->image);
    tacit__free(side);
    bundle->device = NULL;
}

/* ---- A step ---- */

/* What changes only outside of a capture is about to. */
static tacit_status_t refuse_capture(const tacit_bundle_device_t *side)
{
    bool           capturing = false;
    tacit_status_t status;

    TRY(check(side->module->capturing(side->stream, &capturing), side, "its stream"));
    if (capturing) {
        status =
            tacit__fail(TACIT_ERR_STATE, "bundle: the tensors are not where they were in the last step; make one with these, "
                                         "outside of the capture, before it");
    }
out:
    return status;
}

/* Makes the device's table of tensors say where they are now. in, out: NULL: as before. */
static tacit_status_t update(tacit_bundle_t *bundle, const void *const *in, void *const *out)
{
    tacit_bundle_device_t *side = bundle->device;
    tacit_status_t         status = TACIT_OK;

    for (size_t i = 0; i < bundle->count; i++) {
        tacit_device_tensor_t *tensor = &side->tensors[i];
        const tacit_codec_t   *codec = bundle->codecs[i];
        const void            *from = in != NULL ? in[i] : tensor->in;
        void                  *to = out != NULL ? out[i] : tensor->out;

        if (tensor->in != from || tensor->out != to || tensor->turn == NULL || side->generations[i] != codec->generation ||
            tensor->key.step != codec->key.step) {
            *tensor = tensor_of(codec, from, to);
            side->generations[i] = codec->generation;
            side->current = false;
        }
    }
    if (side->current) {
        goto out;
    }
    TRY(refuse_capture(side));
    TRY(check(side->module->copy(side->memory, side->tensors, bundle->count * sizeof *side->tensors, side->stream), side,
              "its table of tensors"));
    side->current = true;
out:
    return status;
}

static tacit_status_t check_aligned(const void *messages, const char *call)
{
    return (uintptr_t)messages % TACIT_BUNDLE_ALIGN == 0
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_ARGUMENT, "%s: messages on a GPU begin at multiples of %d bytes, not at %p", call,
                             TACIT_BUNDLE_ALIGN, messages);
}

/* Memory that a step may change only here, where kernels have done with it. */
static tacit_status_t prepare(tacit_bundle_t *bundle)
{
    tacit_status_t status = TACIT_OK;
    size_t         p = bundle->part[bundle->rank];

    for (size_t i = 0; i < bundle->count; i++) {
        tacit_codec_t *codec = bundle->codecs[i];
        const bool owned = p < bundle->part[bundle->rank + 1] && bundle->pieces[p].codec == i, mean = bundle->op == TACIT_AVERAGE;
        const bool again = owned && bundle->kind == TACIT_BUNDLE_ALLREDUCE; /* it is encoded again by its owner */
        const tacit_piece_t *piece = &bundle->pieces[p];
        const size_t         first = again ? piece->first : 0, count = again ? piece->count : 0;
        const bool           tracks = codec->feedback != NULL && codec->feedback->combine != NULL;

        p += owned;
        if (!tacit__codec_owns(codec, first, count, mean)) {
            TRY(refuse_capture(bundle->device)); /* no memory can be got in one */
            tacit__codec_settle(codec);
            TRY(tacit__codec_own_part(codec, bundle->step, first, count, mean));
            if (!bundle->device->bundle.serves) {
                tacit__codec_forget_former(codec);
            }
        }
        if (tracks && codec->tracker_op != 1 + (int)bundle->op) {
            tacit__codec_settle(codec);
            tacit__codec_conclude(codec, bundle->op);
        }
    }
out:
    return status;
}

tacit_status_t tacit__bundle_device_encode(tacit_bundle_t *bundle, uint64_t step, const void *const *in)
{
    tacit_bundle_device_t     *side = bundle->device;
    const tacit_cuda_module_t *module = side->module;
    const bool                 own_only = bundle->kind == TACIT_BUNDLE_ALLGATHER;
    const exchange_t           out = own_only ? GATHER_OUT : SCATTER_OUT;
    const int                  kind = own_only ? TACIT_FRAME_RESULT : TACIT_FRAME_CONTRIBUTION;
    tacit_status_t             status;

    TRY(check_aligned(bundle->sent, "tacit_bundle_encode()"));
    TRY(prepare(bundle));
    TRY(update(bundle, in, NULL));
    TRY(check(module->begin(&side->bundle, step, side->stream), side, "a launch"));
    for (size_t g = 0; g < side->group_count; g++) {
        tacit_device_tiles_t tiles = side->groups[g];

        if (own_only) {
            tiles.tiles += tiles.own_first;
            tiles.count = tiles.own_count;
        }
        TRY(check(module->encode(&side->bundle, &tiles, bundle->sent, side->stream), side, "a launch"));
    }
    if (side->wholes.matrices.count != 0) {
        TRY(check(module->send_factors(&side->bundle, &side->wholes, bundle->sent, side->stream), side, "a launch"));
    }
    TRY(check(module->seal(&side->bundle, &side->messages[out], kind, bundle->sent, side->stream), side, "a launch"));
out:
    return status;
}

tacit_status_t tacit__bundle_device_reduce(tacit_bundle_t *bundle, const void *messages, void *message)
{
    tacit_bundle_device_t     *side = bundle->device;
    const tacit_cuda_module_t *module = side->module;
    tacit_status_t             status;

    TRY(check_aligned(messages, "tacit_bundle_reduce()"));
    TRY(check_aligned(message, "tacit_bundle_reduce()"));
    TRY(check(module->open(&side->bundle, &side->messages[SCATTER_IN], TACIT_FRAME_CONTRIBUTION, messages, false, side->stream),
              side, "a launch"));
    for (size_t g = 0; g < side->group_count; g++) {
        TRY(check(module->reduce(&side->bundle, &side->groups[g], messages, message, side->stream), side, "a launch"));
    }
    if (side->wholes.matrices.count != 0) {
        TRY(check(module->meet_factors(&side->bundle, &side->wholes, messages, side->stream), side, "a launch"));
    }
    if (bundle->whole_count != 0) {
        TRY(check(module->encode_wholes(&side->bundle, &side->wholes, message, side->stream), side, "a launch"));
    }
    TRY(check(module->seal(&side->bundle, &side->messages[GATHER_OUT], TACIT_FRAME_RESULT, message, side->stream), side,
              "a launch"));
out:
    return status;
}

static tacit_status_t finish_tiles(tacit_bundle_t *bundle, const void *messages)
{
    tacit_bundle_device_t *side = bundle->device;
    tacit_status_t         status = TACIT_OK;

    for (size_t g = 0; g < side->group_count; g++) {
        TRY(check(side->module->finish(&side->bundle, &side->groups[g], messages, bundle->sent, side->stream), side, "a launch"));
    }
    if (bundle->whole_count != 0) {
        TRY(check(side->module->finish_wholes(&side->bundle, &side->wholes, side->stream), side, "a launch"));
    }
out:
    return status;
}

/* What has come is checked, and all that the results are made of is there. */
static tacit_status_t judge(tacit_bundle_t *bundle, const void *messages)
{
    tacit_bundle_device_t     *side = bundle->device;
    const tacit_cuda_module_t *module = side->module;
    const bool                 collects = bundle->kind == TACIT_BUNDLE_REDUCE_SCATTER;
    const exchange_t           in = collects ? SCATTER_IN : GATHER_IN;
    const int                  kind = collects ? TACIT_FRAME_CONTRIBUTION : TACIT_FRAME_RESULT;
    tacit_status_t             status;

    TRY(check_aligned(messages, "tacit_bundle_finish()"));
    TRY(check(module->open(&side->bundle, &side->messages[in], kind, messages, !collects, side->stream), side, "a launch"));
    if (bundle->whole_count != 0) {
        TRY(check(module->take_wholes(&side->bundle, &side->wholes, side->messages[GATHER_IN].faults, messages, side->stream),
                  side, "a launch"));
    }
out:
    return status;
}

tacit_status_t tacit__bundle_device_conclude(tacit_bundle_t *bundle, const void *messages, void *const *out)
{
    tacit_bundle_device_t     *side = bundle->device;
    const tacit_cuda_module_t *module = side->module;
    bool                       capturing = false;
    tacit_status_t             status;

    TRY(update(bundle, NULL, out));
    for (size_t g = 0; bundle->kind == TACIT_BUNDLE_REDUCE_SCATTER && g < side->group_count; g++) {
        TRY(check(module->collect(&side->bundle, &side->groups[g], messages, side->stream), side, "a launch"));
    }
    TRY(finish_tiles(bundle, messages));
    TRY(check(module->end(&side->bundle, side->stream), side, "a launch"));
    TRY(check(module->capturing(side->stream, &capturing), side, "its stream"));
    side->started += !capturing; /* what is captured does not run yet */
out:
    return status;
}

tacit_status_t tacit__bundle_device_finish(tacit_bundle_t *bundle, const void *messages, void *const *out)
{
    tacit_status_t status;

    TRY(judge(bundle, messages));
    TRY(tacit__bundle_device_conclude(bundle, messages, out));
out:
    return status;
}

tacit_status_t tacit__bundle_device_judge(tacit_bundle_t *bundle, const void *messages, tacit_device_step_t *told)
{
    const tacit_bundle_device_t *side = bundle->device;
    tacit_status_t               status;

    TRY(judge(bundle, messages));
    TRY(check(side->module->copy(told, side->bundle.step, sizeof *told, side->stream), side, "what a step has found"));
out:
    return status;
}

void tacit__bundle_device_cancel(tacit_bundle_t *bundle)
{
    tacit_bundle_device_t *side = bundle->device;

    (void)side->module->cancel(&side->bundle, side->stream);
    (void)finish_tiles(bundle, NULL);
}

/* ---- What becomes of it ---- */

static tacit_status_t report(const tacit_bundle_t *bundle, const tacit_device_fault_t *found)
{
    static const char *const reasons[TACIT_REASONS] = {
        [TACIT_REASON_FOREIGN] = "it does not begin with a frame's magic number (foreign or damaged)",
        [TACIT_REASON_HEADER] = "its header's checksum is wrong (damaged)",
        [TACIT_REASON_VERSION] = "it has another version of the wire format (use the same release of Tacit on all ranks)",
        [TACIT_REASON_LENGTH] = "its length is not what its header says, or not this bundle's",
        [TACIT_REASON_CHECKSUM] = "its payload's checksum is wrong (damaged)",
        [TACIT_REASON_ORDER] = "it is another message, or another rank's; exchange them in ascending order of ranks",
        [TACIT_REASON_TENSORS] = "that rank has other tensors",
        [TACIT_REASON_SPEC] = "that rank has another spec or operator",
        [TACIT_REASON_STEP] = "that rank is at another step",
        [TACIT_REASON_HISTORY] =
            "that rank has other steps behind it: one of them has failed on some ranks only; bring all to one "
            "state, and make the bundle again",
    };
    const int      rank = (int)TACIT_DEVICE_FAULT_RANK(found->fault);
    const uint32_t reason = TACIT_DEVICE_FAULT_REASON(found->fault), detail = TACIT_DEVICE_FAULT_DETAIL(found->fault);

    if (reason == TACIT_REASON_VALUE && detail < bundle->count) {
        return tacit__codec_value_fault(bundle->codecs[detail], rank, found->step + bundle->codecs[detail]->key.step);
    }
    if (reason == TACIT_REASON_PLACE && detail < bundle->count) {
        return tacit__bundle_place_fault(rank, bundle->codecs[detail]);
    }
    if (reason == TACIT_REASON_SUM && detail < bundle->count) {
        return tacit__bundle_sum_fault(bundle, bundle->codecs[detail], found->step + bundle->codecs[detail]->key.step);
    }
    if (reason >= TACIT_REASONS || reasons[reason] == NULL) {
        const int16_t status = (int16_t)detail;

        return tacit__fail(status < 0 ? (tacit_status_t)status : TACIT_ERR_FRAME, "rank %d has a fault at step %" PRIu64 ": %s",
                           rank, found->step, tacit_strerror((tacit_status_t)status));
    }
    return tacit__fail(reason >= TACIT_REASON_TENSORS ? TACIT_ERR_MISMATCH : TACIT_ERR_FRAME,
                       "a bundle's message from rank %d at step %" PRIu64 " cannot be used: %s", rank, found->step,
                       reasons[reason]);
}

tacit_status_t tacit__bundle_device_verdict(const tacit_bundle_t *bundle, const tacit_device_step_t *told)
{
    const tacit_device_fault_t found = {.step = told->step, .fault = told->fault};

    return found.fault == TACIT_DEVICE_NO_FAULT ? TACIT_OK : report(bundle, &found);
}

/* Steps that poll() has to know the end of. */
static uint64_t target_of(tacit_bundle_device_t *side, uint64_t behind)
{
    const volatile tacit_device_report_t *told = side->bundle.report;

    if (side->started < told->ended) {
        side->started = told->ended; /* by the replay of a graph */
    }
    return side->started > behind ? side->started - behind : 0;
}

tacit_status_t tacit__bundle_device_runs(tacit_bundle_t *bundle, uint64_t behind, bool *runs_out)
{
    tacit_bundle_device_t                *side = bundle->device;
    const volatile tacit_device_report_t *told = side->bundle.report;
    bool                                  idle;

    *runs_out = told->ended < target_of(side, behind);
    return *runs_out ? check(side->module->query(side->stream, &idle), side, "its stream") : TACIT_OK;
}

tacit_status_t tacit__bundle_device_poll(tacit_bundle_t *bundle, uint64_t behind)
{
    tacit_bundle_device_t                *side = bundle->device;
    const volatile tacit_device_report_t *told = side->bundle.report;
    const uint64_t                        target = target_of(side, behind);
    uint64_t                              number;
    tacit_status_t                        status;
    bool                                  runs;

    TRY(tacit__bundle_device_runs(bundle, behind, &runs));
    while (runs) {
        sched_yield();
        TRY(tacit__bundle_device_runs(bundle, behind, &runs));
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    number = side->failed;
    if (told->failed > number + TACIT_DEVICE_FAULTS) {
        number = told->failed - TACIT_DEVICE_FAULTS; /* older ones are lost */
    }
    if (number < told->failed && told->faults[number % TACIT_DEVICE_FAULTS].number <= target) {
        const tacit_device_fault_t found = told->faults[number % TACIT_DEVICE_FAULTS];

        side->failed = number + 1;
        status = report(bundle, &found);
    }
out:
    return status;
}

void tacit__bundle_device_stream(tacit_bundle_t *bundle, void *stream)
{
    bundle->device->stream = stream;
}

void tacit__bundle_device_serve(tacit_bundle_t *bundle, void *stream)
{
    bundle->device->stream = stream;
    bundle->device->bundle.serves = true;
}
