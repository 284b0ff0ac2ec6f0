/* SPDX-License-Identifier: Apache-2.0 */
/* Saves and loads what slots remember (doc/wire-format.md, "State files"). One walk over a codec's arrays serves all feedbacks. A
   file is written beside its place and renamed into it; it is read and checked whole before anything changes. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "automatic.h"
#include "codec_unit.h"
#include "operation.h"
#include "packed.h"
#include "state_file.h"

enum { ARRAYS = 2 * TACIT_STATE_ARRAYS + 1, FEEDBACK_BYTES = 64, LIST_BYTES = 80, WINDOW = 256 };
enum { MOST_UNITS = (1 + TACIT_AVERAGE) << 1 | 1 }; /* of put_codec()'s */
static const char magic[TACIT_STATE_MAGIC_BYTES] = "TACITSAV", codec_magic[TACIT_STATE_MAGIC_BYTES] = "TACITCDC";

/* What one slot will be made of. */
typedef struct tacit_staged {
    uint64_t       step, owner_first, owner_count, units, arrays;
    const void    *values[ARRAYS]; /* in the file's data */
    uint64_t       counts[ARRAYS];
    tacit_state_t  owner;
    tacit_codec_t *codec, *dense; /* that take the place of the slot's: automatic.h; or NULL */
} tacit_staged_t;

/* ---- Writing ---- */

/* The words of a spec that decide which arrays there are, and whose: a rank's own, or, where leaders follow, its host's. */
static const char *feedback_name(const tacit_codec_t *codec, char text[FEEDBACK_BYTES])
{
    static const char *const precisions[] = {"", ":residual=bf16", ":residual=int8"};

    snprintf(text, FEEDBACK_BYTES, "%s%s", codec->feedback != NULL ? codec->feedback->name : "", precisions[codec->precision]);
    if (codec->feedback != NULL && codec->leaders != 0) {
        snprintf(text + strlen(text), FEEDBACK_BYTES - strlen(text), ";leaders=%08x", codec->leaders);
    }
    return text;
}

static void put_codec(tacit_writer_t *writer, const tacit_codec_t *codec, uint64_t step)
{
    tacit_array_t array;
    size_t        arrays = 0;
    char          feedback[FEEDBACK_BYTES];

    while (tacit__codec_array(codec, arrays, &array)) {
        arrays++;
    }
    tacit__put_text(writer, codec->name);
    tacit__put_text(writer, codec->compressor->name);
    tacit__put_text(writer, feedback_name(codec, feedback));
    tacit__put_number(writer, codec->tensor.count);
    tacit__put_number(writer, step);
    tacit__put_number(writer, codec->owner_first);
    tacit__put_number(writer, codec->owner.count);
    tacit__put_number(writer, (uint64_t)codec->owner_is_mean | (uint64_t)codec->tracker_op << 1);
    tacit__put_number(writer, arrays);
    for (size_t i = 0; i < arrays && tacit__codec_array(codec, i, &array); i++) {
        tacit__put_array(writer, array.name, array.values, array.count);
    }
}

static void put_slots(tacit_writer_t *writer, const void *state)
{
    const tacit_comm_t *comm = state;
    uint64_t            slots = 0;

    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        slots++;
    }
    tacit__put_number(writer, slots);
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        put_codec(writer, slot->codec, slot->step);
    }
}

/* Hash of the slots' names, steps and specs, as they are or will be: files of one save agree in it. */
static void describe_slots(const tacit_comm_t *comm, const tacit_staged_t *staged, char *text, size_t capacity)
{
    uint64_t hash = TACIT_HASH_START;
    size_t   i = 0;

    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next, i++) {
        const tacit_codec_t *codec = staged != NULL && staged[i].codec != NULL ? staged[i].codec : slot->codec;
        const uint64_t       step = staged != NULL ? staged[i].step : slot->step;

        hash = tacit__hash(hash, codec->name, strlen(codec->name));
        hash = tacit__hash(hash, &step, sizeof step);
        hash = tacit__hash(hash, &codec->spec.hash, sizeof codec->spec.hash);
    }
    snprintf(text, capacity, "%zu slots with steps and specs of hash %016" PRIx64, i, hash);
}

/* Of a path that is NULL, whoever opens it says so. */
static tacit_status_t check_idle(const tacit_comm_t *comm, const char *path, const char *verb)
{
    return path == NULL || (comm->queue == NULL && !comm->group_open)
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_STATE, "rank %d: %s when no request or group is open", comm->rank, verb);
}

/* Memory on a GPU is as it is described. */
static void settle_slots(const tacit_comm_t *comm)
{
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        tacit__codec_settle(slot->codec);
    }
}

tacit_status_t tacit_save(tacit_comm_t *comm, const char *path)
{
    char           text[TACIT_AGREEMENT_BYTES];
    tacit_status_t status = tacit__comm_enter(comm, true), mine;

    if (status != TACIT_OK) {
        return status;
    }
    if (comm->broken) {
        (void)tacit__comm_drain(comm); /* what waits there has failed */
    }
    mine = check_idle(comm, path, "save");
    settle_slots(comm);
    mine = mine == TACIT_OK ? tacit__state_write(comm->rank, comm->ranks, path, magic, put_slots, comm) : mine;
    describe_slots(comm, NULL, text, sizeof text);
    return tacit__comm_conclude(comm, "tacit_save", text, mine);
}

/* ---- Reading ---- */

/* The codec as it will be walked: with the staged owner's memory. */
static tacit_codec_t codec_after(const tacit_codec_t *codec, const tacit_staged_t *staged)
{
    tacit_codec_t after = *codec;

    after.owner = staged->owner;
    return after;
}

/* Appends as much of it as there is room for. */
static void list(char text[LIST_BYTES], const char *name)
{
    strncat(text, text[0] != '\0' ? ", " : "", LIST_BYTES - 1 - strlen(text));
    strncat(text, name, LIST_BYTES - 1 - strlen(text));
}

/* What is kept back is finite. A compressor's own work need not be, where values that are not were passed on. */
static bool is_finite(const tacit_codec_t *codec, const tacit_array_t *array, const void *values)
{
    float  some[WINDOW];
    size_t count = array->packed ? codec->tensor.count : array->count, now = 0;

    for (size_t done = 0; done < count; done += now) {
        now = tacit__min(count - done, WINDOW);
        if (array->packed) {
            tacit__unpack(codec->precision, done, now, values, some);
        } else {
            memcpy(some, (const uint8_t *)values + done * sizeof *some, now * sizeof *some);
        }
        if (!tacit__unit_is_finite(some, now)) {
            return false;
        }
    }
    return true;
}

/* How much a compressor keeps depends on its parameters, which layerwise adaptation may have changed. */
static tacit_status_t check_work(const tacit_reader_t *reader, const tacit_codec_t *codec, uint64_t work)
{
    return work == codec->work_count
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_MISMATCH,
                             "rank %d: '%.160s': slot '%.80s' has %" PRIu64 " floats of 'work' in the file, %zu here with "
                             "'%.120s': load layerwise adaptation first, or set the spec that it had",
                             reader->rank, reader->path, codec->name, work, codec->work_count, codec->given.text);
}

/* The arrays are those that the slot has once the staged owner's memory is its own. */
static tacit_status_t read_arrays(tacit_reader_t *reader, const tacit_codec_t *codec, tacit_staged_t *staged)
{
    const tacit_codec_t after = codec_after(codec, staged);
    tacit_status_t      status = TACIT_OK;
    tacit_array_t       array;
    char                name[TACIT_STATE_TEXT_BYTES], theirs[LIST_BYTES] = "", ours[LIST_BYTES] = "";
    uint64_t            work = 0;
    bool                same = true, fits = true, finite = true;

    for (size_t i = 0; i < staged->arrays; i++) {
        TRY(tacit__get_array(reader, name, &staged->values[i], &staged->counts[i]));
        list(theirs, name);
        work = strcmp(name, "work") == 0 ? staged->counts[i] : work;
        same = same && tacit__codec_array(&after, i, &array) && strcmp(name, array.name) == 0;
        fits = fits && same && array.count == staged->counts[i];
        finite = finite && fits && (array.values == after.work || is_finite(&after, &array, staged->values[i]));
    }
    TRY(check_work(reader, &after, work));
    for (size_t i = 0; tacit__codec_array(&after, i, &array); i++) {
        list(ours, array.name);
        same = same && i < staged->arrays;
    }
    if (!same) {
        status = tacit__fail(TACIT_ERR_MISMATCH,
                             "rank %d: '%.160s': slot '%.80s' has the arrays '%s' in the file, '%s' here ('%.120s'): load it "
                             "with the spec that it was saved with",
                             reader->rank, reader->path, after.name, theirs, ours, after.given.text);
    } else if (!fits || !finite) {
        status = tacit__state_damaged(reader, fits ? "a slot's memory is not finite" : "a slot's array has a wrong length");
    }
out:
    return status;
}

/* What is owned is the part that is dealt to this owner, or one that can be packed by itself. */
static bool is_part(const tacit_codec_t *codec, uint64_t first, uint64_t count)
{
    return codec->compressor->select != NULL ? first == 0 && (count == 0 || count == tacit__codec_part(codec))
                                             : first <= codec->tensor.count && tacit__memory_is_aligned(codec, first, count);
}

/* Numbers that no run has. */
static bool is_possible(const tacit_codec_t *codec, const tacit_staged_t *staged)
{
    const bool may_own = codec->feedback != NULL && codec->feedback->owner != NULL && codec->compressor->linear == NULL;

    return staged->arrays <= ARRAYS && staged->units <= MOST_UNITS && (staged->owner_count == 0 || may_own) &&
           is_part(codec, staged->owner_first, staged->owner_count);
}

static tacit_status_t expect_feedback(tacit_reader_t *reader, const tacit_codec_t *codec)
{
    tacit_reader_t before = *reader;
    char           mine[FEEDBACK_BYTES], theirs[TACIT_STATE_TEXT_BYTES];
    tacit_status_t status;

    TRY(tacit__get_text(reader, theirs));
    if (strcmp(feedback_name(codec, mine), theirs) != 0 && strcspn(theirs, ";") == strcspn(mine, ";") &&
        strncmp(mine, theirs, strcspn(mine, ";")) == 0) {
        status = tacit__fail(TACIT_ERR_MISMATCH,
                             "rank %d: '%.160s': what slot '%.80s' remembers was kept where other ranks shared hosts, or by "
                             "another schedule: set TACIT_TOPOLOGY or TACIT_PLAN as it was",
                             reader->rank, reader->path, codec->name);
    } else {
        *reader = before;
        status = tacit__expect_text(reader, codec->name, "feedback", mine);
    }
out:
    return status;
}

static tacit_status_t read_codec(tacit_reader_t *reader, const tacit_codec_t *codec, tacit_staged_t *staged)
{
    tacit_status_t status;

    TRY(tacit__expect_text(reader, codec->name, "name", codec->name));
    TRY(tacit__expect_text(reader, codec->name, "compressor", codec->compressor->name));
    TRY(expect_feedback(reader, codec));
    TRY(tacit__expect_number(reader, codec->name, "the count", codec->tensor.count));
    TRY(tacit__get_number(reader, &staged->step));
    TRY(tacit__get_number(reader, &staged->owner_first));
    TRY(tacit__get_number(reader, &staged->owner_count));
    TRY(tacit__get_number(reader, &staged->units));
    TRY(tacit__get_number(reader, &staged->arrays));
    if (!is_possible(codec, staged)) {
        status = tacit__state_damaged(reader, "a slot's numbers are impossible");
        goto out;
    }
    TRY(tacit__codec_make_owner(codec, staged->owner_count, &staged->owner));
    TRY(read_arrays(reader, codec, staged));
out:
    return status;
}

static tacit_status_t read_slot(tacit_reader_t *reader, const tacit_slot_t *slot, tacit_staged_t *staged)
{
    tacit_reader_t ahead = *reader;
    tacit_status_t status = TACIT_OK;
    char           name[TACIT_STATE_TEXT_BYTES], compressor[TACIT_STATE_TEXT_BYTES], feedback[TACIT_STATE_TEXT_BYTES];

    if (tacit__get_text(&ahead, name) == TACIT_OK && tacit__get_text(&ahead, compressor) == TACIT_OK &&
        tacit__get_text(&ahead, feedback) == TACIT_OK) {
        TRY(tacit__automatic_restore(slot, compressor, feedback, &staged->codec, &staged->dense));
    }
    TRY(read_codec(reader, staged->codec != NULL ? staged->codec : slot->codec, staged));
out:
    return status;
}

static tacit_status_t read_file(tacit_reader_t *reader, const tacit_comm_t *comm, const char *path, tacit_staged_t *staged,
                                uint64_t slots)
{
    tacit_status_t status;

    TRY(tacit__state_open(reader, comm->rank, comm->ranks, path, magic));
    TRY(tacit__expect_number(reader, "", "the number of slots", slots));
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        TRY(read_slot(reader, slot, staged++));
    }
    TRY(tacit__state_end(reader));
out:
    return status;
}

static void adopt(tacit_codec_t *codec, tacit_staged_t *staged)
{
    tacit_array_t array;

    tacit__codec_adopt_owner(codec, &staged->owner, staged->owner_first, (staged->units & 1) != 0);
    codec->tracker_op = (int)(staged->units >> 1);
    for (size_t i = 0; tacit__codec_array(codec, i, &array); i++) {
        memcpy(array.values, staged->values[i], array.count * sizeof *array.values);
    }
}

tacit_status_t tacit_load(tacit_comm_t *comm, const char *path)
{
    char            text[TACIT_AGREEMENT_BYTES];
    tacit_reader_t  reader = {.data = NULL};
    tacit_staged_t *staged = NULL;
    tacit_status_t  status = tacit__comm_enter(comm, false), mine;
    size_t          slots = 0, capacity = 0;

    if (status != TACIT_OK) {
        return status;
    }
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        slots++;
    }
    staged = tacit__alloc(slots, sizeof *staged);
    mine = check_idle(comm, path, "load");
    settle_slots(comm);
    mine = mine != TACIT_OK ? mine
           : staged == NULL ? tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to load %zu slots", comm->rank, slots)
                            : read_file(&reader, comm, path, staged, slots);
    for (size_t i = 0; mine == TACIT_OK && i < slots; i++) {
        if (staged[i].codec != NULL) {
            const size_t bytes = tacit__slot_message_bytes(comm, staged[i].codec->tensor.device, &staged[i].codec->spec,
                                                           staged[i].codec->tensor.count);

            capacity = bytes > capacity ? bytes : capacity;
        }
    }
    describe_slots(comm, mine == TACIT_OK ? staged : NULL, text, sizeof text);
    TRY(tacit__comm_agree(comm, "tacit_load", text, mine, capacity));
    slots = 0;
    for (tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        slot->step = staged[slots].step;
        if (staged[slots].codec != NULL) {
            tacit__automatic_adopt(slot, staged[slots].codec, staged[slots].dense);
            staged[slots].codec = staged[slots].dense = NULL;
        }
        adopt(slot->codec, &staged[slots++]);
    }
out:
    for (size_t i = 0; staged != NULL && i < slots; i++) {
        tacit__state_release(&staged[i].owner);
        tacit_codec_destroy(staged[i].codec);
        tacit_codec_destroy(staged[i].dense);
    }
    tacit__free(staged);
    tacit__state_close(&reader);
    tacit__comm_leave(comm);
    return status;
}

/* ---- A codec alone ---- */

static void put_alone(tacit_writer_t *writer, const void *codec)
{
    put_codec(writer, codec, 0);
}

tacit_status_t tacit_codec_save(const tacit_codec_t *codec, void *state, size_t capacity, size_t *bytes_out)
{
    size_t bytes;

    if (codec == NULL || bytes_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec: the codec or bytes_out is NULL");
    }
    if (tacit__codec_is_free(codec) != TACIT_OK) {
        return TACIT_ERR_STATE;
    }
    tacit__codec_settle((tacit_codec_t *)codec); /* nothing that is seen of it changes */
    bytes = tacit__state_put(codec->rank, codec->ranks, state, state != NULL ? capacity : 0, codec_magic, put_alone, codec);
    if (state != NULL && bytes > capacity) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec '%s': its state takes %zu bytes, capacity is %zu", codec->name, bytes,
                           capacity);
    }
    *bytes_out = bytes;
    return TACIT_OK;
}

tacit_status_t tacit_codec_load(tacit_codec_t *codec, const void *state, size_t bytes)
{
    tacit_staged_t staged = {.step = 0};
    tacit_reader_t reader;
    tacit_status_t status;

    if (codec == NULL || state == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "codec: the codec or its state is NULL");
    }
    TRY(tacit__codec_is_free(codec));
    tacit__codec_settle(codec);
    TRY(tacit__state_get(&reader, codec->rank, codec->ranks, state, bytes, codec_magic));
    TRY(read_codec(&reader, codec, &staged));
    TRY(tacit__state_end(&reader));
    adopt(codec, &staged);
out:
    tacit__state_release(&staged.owner);
    return status;
}
