/* SPDX-License-Identifier: Apache-2.0 */
/* Saves and loads what slots remember (doc/wire-format.md, "State files"). One walk over a codec's arrays serves all feedbacks. A
   file is written beside its place and renamed into it; it is read and checked whole before anything changes. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "operation.h"

enum { FILE_VERSION = 1, PATH_BYTES = 4096, NAME_BYTES = 256, ARRAYS = 2 * TACIT_STATE_ARRAYS + 1 };
static const char magic[8] = "TACITSAV";

/* ---- Writing ---- */

typedef struct tacit_writer {
    FILE    *file;
    uint64_t hash; /* of all but the arrays, which have checksums of their own */
    bool     failed;
} tacit_writer_t;

static void put(tacit_writer_t *writer, const void *data, size_t bytes)
{
    writer->hash = tacit__hash(writer->hash, data, bytes);
    writer->failed = writer->failed || fwrite(data, 1, bytes, writer->file) != bytes;
}

static void put_number(tacit_writer_t *writer, uint64_t number)
{
    put(writer, &number, sizeof number);
}

static void put_text(tacit_writer_t *writer, const char *text)
{
    put_number(writer, strlen(text));
    put(writer, text, strlen(text));
}

/* The word of a spec that decides which arrays there are. */
static const char *feedback_name(const tacit_codec_t *codec)
{
    return codec->feedback != NULL ? codec->feedback->name : "";
}

static void put_slot(tacit_writer_t *writer, const tacit_slot_t *slot)
{
    const tacit_codec_t *codec = slot->codec;
    tacit_array_t        array;
    size_t               arrays = 0;

    while (tacit__codec_array(codec, arrays, &array)) {
        arrays++;
    }
    put_text(writer, codec->name);
    put_text(writer, codec->compressor->name);
    put_text(writer, feedback_name(codec));
    put_number(writer, codec->tensor.count);
    put_number(writer, slot->step);
    put_number(writer, codec->owner_first);
    put_number(writer, codec->owner.count);
    put_number(writer, codec->owner_is_mean);
    put_number(writer, arrays);
    for (size_t i = 0; i < arrays && tacit__codec_array(codec, i, &array); i++) {
        put_text(writer, array.name);
        put_number(writer, array.count);
        put_number(writer, tacit__payload_checksum(array.values, array.count * sizeof *array.values));
        writer->failed = writer->failed || fwrite(array.values, sizeof *array.values, array.count, writer->file) != array.count;
    }
}

static tacit_status_t file_error(const tacit_comm_t *comm, const char *what, const char *path)
{
    return tacit__fail(TACIT_ERR_FILE, "rank %d: cannot %s '%s': %s", comm->rank, what, path, strerror(errno));
}

/* Makes the renaming itself last through a power failure. Not every file system can; then there is nothing to do about it. */
static void sync_folder(const char *path)
{
    char  folder[PATH_BYTES];
    char *slash;
    int   descriptor;

    snprintf(folder, sizeof folder, "%s", path);
    slash = strrchr(folder, '/');
    if (slash == NULL) {
        snprintf(folder, sizeof folder, ".");
    } else {
        slash[slash == folder ? 1 : 0] = '\0';
    }
    descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
        (void)fsync(descriptor);
        (void)close(descriptor);
    }
}

static tacit_status_t write_file(const tacit_comm_t *comm, const char *path)
{
    char           beside[PATH_BYTES];
    tacit_writer_t writer = {.hash = TACIT_HASH_START};
    uint64_t       slots = 0;
    uint64_t       hash;

    if (snprintf(beside, sizeof beside, "%s.%d.tmp", path, comm->rank) >= (int)sizeof beside) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: the path '%.80s...' is too long", comm->rank, path);
    }
    writer.file = fopen(beside, "wb");
    if (writer.file == NULL) {
        return file_error(comm, "write", beside);
    }
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        slots++;
    }
    put(&writer, magic, sizeof magic);
    put_number(&writer, FILE_VERSION);
    put_number(&writer, (uint64_t)comm->rank);
    put_number(&writer, (uint64_t)comm->ranks);
    put_number(&writer, slots);
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        put_slot(&writer, slot);
    }
    hash = writer.hash;
    put(&writer, &hash, sizeof hash);
    if (writer.failed || fflush(writer.file) != 0 || fsync(fileno(writer.file)) != 0) {
        tacit_status_t status = file_error(comm, "write", beside);

        (void)fclose(writer.file);
        (void)unlink(beside);
        return status;
    }
    if (fclose(writer.file) != 0 || rename(beside, path) != 0) {
        tacit_status_t status = file_error(comm, "put into place", path);

        (void)unlink(beside);
        return status;
    }
    sync_folder(path);
    return TACIT_OK;
}

/* Hash of the slots' names and steps: files of one save agree in it. */
static void describe_steps(const tacit_comm_t *comm, const uint64_t *steps, char *text, size_t capacity)
{
    uint64_t hash = TACIT_HASH_START;
    size_t   i = 0;

    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next, i++) {
        uint64_t step = steps != NULL ? steps[i] : slot->step;

        hash = tacit__hash(hash, slot->codec->name, strlen(slot->codec->name));
        hash = tacit__hash(hash, &step, sizeof step);
    }
    snprintf(text, capacity, "%zu slots at steps with hash %016" PRIx64, i, hash);
}

static bool is_idle(const tacit_comm_t *comm)
{
    return comm->queue == NULL && !comm->group_open;
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
    mine = path == NULL     ? tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: the path is NULL", comm->rank)
           : !is_idle(comm) ? tacit__fail(TACIT_ERR_STATE, "rank %d: save when no request or group is open", comm->rank)
                            : write_file(comm, path);
    if (comm->broken) {
        status = mine;
    } else {
        describe_steps(comm, NULL, text, sizeof text);
        status = tacit__comm_agree(comm, "tacit_save", text, mine, 0);
    }
    tacit__comm_leave(comm);
    return status;
}

/* ---- Reading ---- */

typedef struct tacit_reader {
    const tacit_comm_t *comm;
    const char         *path;
    uint8_t            *data;
    size_t              bytes, at;
    uint64_t            hash;
} tacit_reader_t;

/* What one slot will be made of. */
typedef struct tacit_staged {
    uint64_t      step, owner_first, owner_count, owner_is_mean;
    size_t        arrays;
    const void   *values[ARRAYS]; /* in the file's data */
    uint64_t      counts[ARRAYS];
    tacit_state_t owner;
} tacit_staged_t;

static tacit_status_t damaged(const tacit_reader_t *reader, const char *what)
{
    return tacit__fail(TACIT_ERR_FILE, "rank %d: '%s' is damaged or no state file: %s (at byte %zu of %zu)", reader->comm->rank,
                       reader->path, what, reader->at, reader->bytes);
}

static tacit_status_t get(tacit_reader_t *reader, void *data, size_t bytes)
{
    if (bytes > reader->bytes - reader->at) {
        return damaged(reader, "it ends too early");
    }
    memcpy(data, reader->data + reader->at, bytes);
    reader->hash = tacit__hash(reader->hash, data, bytes);
    reader->at += bytes;
    return TACIT_OK;
}

static tacit_status_t get_number(tacit_reader_t *reader, uint64_t *number)
{
    return get(reader, number, sizeof *number);
}

static tacit_status_t get_text(tacit_reader_t *reader, char text[NAME_BYTES])
{
    tacit_status_t status;
    uint64_t       bytes;

    TRY(get_number(reader, &bytes));
    if (bytes >= NAME_BYTES) {
        status = damaged(reader, "a name is too long");
        goto out;
    }
    TRY(get(reader, text, bytes));
    text[bytes] = '\0';
out:
    return status;
}

/* A field that must be what this program has. */
static tacit_status_t expect_text(tacit_reader_t *reader, const char *slot, const char *what, const char *mine)
{
    tacit_status_t status;
    char           text[NAME_BYTES];

    TRY(get_text(reader, text));
    if (strcmp(text, mine) != 0) {
        status = tacit__fail(TACIT_ERR_MISMATCH, "rank %d: '%s': the %s of slot '%s' is '%s' in the file, '%s' here",
                             reader->comm->rank, reader->path, what, slot, text, mine);
    }
out:
    return status;
}

static tacit_status_t expect_number(tacit_reader_t *reader, const char *slot, const char *what, uint64_t mine)
{
    tacit_status_t status;
    uint64_t       number;

    TRY(get_number(reader, &number));
    if (number != mine) {
        status = tacit__fail(TACIT_ERR_MISMATCH, "rank %d: '%s'%s%s%s: %s is %" PRIu64 " in the file, %" PRIu64 " here",
                             reader->comm->rank, reader->path, *slot != '\0' ? ", slot '" : "", slot, *slot != '\0' ? "'" : "",
                             what, number, mine);
    }
out:
    return status;
}

static tacit_status_t read_array(tacit_reader_t *reader, tacit_staged_t *staged, size_t i)
{
    tacit_status_t status;
    char           name[NAME_BYTES];
    uint64_t       checksum;
    size_t         bytes;

    TRY(get_text(reader, name));
    TRY(get_number(reader, &staged->counts[i]));
    TRY(get_number(reader, &checksum));
    if (staged->counts[i] > (reader->bytes - reader->at) / sizeof(float)) {
        status = damaged(reader, "an array ends too early");
        goto out;
    }
    bytes = staged->counts[i] * sizeof(float);
    staged->values[i] = reader->data + reader->at;
    if (tacit__payload_checksum(staged->values[i], bytes) != checksum) {
        status = damaged(reader, "an array's checksum is wrong");
        goto out;
    }
    reader->at += bytes;
out:
    return status;
}

/* The arrays that a slot has once the staged owner's memory is its own. */
static bool fits(const tacit_slot_t *slot, const tacit_staged_t *staged)
{
    tacit_codec_t after = *slot->codec;
    tacit_array_t array;
    size_t        arrays = 0;

    after.owner = staged->owner;
    while (tacit__codec_array(&after, arrays, &array)) {
        if (arrays == staged->arrays || array.count != staged->counts[arrays]) {
            return false;
        }
        arrays++;
    }
    return arrays == staged->arrays;
}

static tacit_status_t read_slot(tacit_reader_t *reader, const tacit_slot_t *slot, tacit_staged_t *staged)
{
    tacit_status_t       status;
    const tacit_codec_t *codec = slot->codec;
    uint64_t             arrays;

    TRY(expect_text(reader, codec->name, "name", codec->name));
    TRY(expect_text(reader, codec->name, "compressor", codec->compressor->name));
    TRY(expect_text(reader, codec->name, "feedback", feedback_name(codec)));
    TRY(expect_number(reader, codec->name, "the count", codec->tensor.count));
    TRY(get_number(reader, &staged->step));
    TRY(get_number(reader, &staged->owner_first));
    TRY(get_number(reader, &staged->owner_count));
    TRY(get_number(reader, &staged->owner_is_mean));
    TRY(get_number(reader, &arrays));
    if (arrays > ARRAYS || staged->owner_first > codec->tensor.count ||
        staged->owner_count > codec->tensor.count - staged->owner_first) {
        status = damaged(reader, "a slot's numbers are impossible");
        goto out;
    }
    staged->arrays = arrays;
    for (size_t i = 0; i < arrays; i++) {
        TRY(read_array(reader, staged, i));
    }
    TRY(tacit__codec_make_owner(codec, staged->owner_count, &staged->owner));
    if (!fits(slot, staged)) {
        status = damaged(reader, "a slot's arrays are not those of its spec");
    }
out:
    return status;
}

static tacit_status_t read_whole(tacit_reader_t *reader)
{
    FILE          *file = fopen(reader->path, "rb");
    struct stat    info;
    tacit_status_t status = TACIT_OK;

    if (file == NULL || fstat(fileno(file), &info) != 0) {
        status = file_error(reader->comm, "read", reader->path);
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        status =
            tacit__fail(TACIT_ERR_FILE, "rank %d: cannot read '%s': it is no regular file", reader->comm->rank, reader->path);
        goto out;
    }
    reader->data = tacit__alloc_unset((size_t)info.st_size);
    if (reader->data == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for the %lld bytes of '%s'", reader->comm->rank,
                             (long long)info.st_size, reader->path);
        goto out;
    }
    reader->bytes = fread(reader->data, 1, (size_t)info.st_size, file);
    if (reader->bytes != (size_t)info.st_size) {
        status = file_error(reader->comm, "read", reader->path);
    }
out:
    if (file != NULL) {
        (void)fclose(file);
    }
    return status;
}

static tacit_status_t read_file(tacit_reader_t *reader, tacit_staged_t *staged, uint64_t slots)
{
    tacit_status_t status;
    char           word[sizeof magic];
    uint64_t       hash, expected;

    TRY(read_whole(reader));
    TRY(get(reader, word, sizeof word));
    if (memcmp(word, magic, sizeof magic) != 0) {
        status = damaged(reader, "it does not begin as one");
        goto out;
    }
    TRY(expect_number(reader, "", "the file version", FILE_VERSION));
    TRY(expect_number(reader, "", "the rank", (uint64_t)reader->comm->rank));
    TRY(expect_number(reader, "", "the number of ranks", (uint64_t)reader->comm->ranks));
    TRY(expect_number(reader, "", "the number of slots", slots));
    for (const tacit_slot_t *slot = reader->comm->slots; slot != NULL; slot = slot->next) {
        TRY(read_slot(reader, slot, staged++));
    }
    expected = reader->hash;
    TRY(get_number(reader, &hash));
    if (hash != expected || reader->at != reader->bytes) {
        status = damaged(reader, "its checksum is wrong");
    }
out:
    return status;
}

static void adopt(tacit_slot_t *slot, tacit_staged_t *staged)
{
    tacit_array_t array;

    slot->step = staged->step;
    tacit__codec_adopt_owner(slot->codec, &staged->owner, staged->owner_first, staged->owner_is_mean != 0);
    for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
        memcpy(array.values, staged->values[i], array.count * sizeof *array.values);
    }
}

tacit_status_t tacit_load(tacit_comm_t *comm, const char *path)
{
    char            text[TACIT_AGREEMENT_BYTES];
    tacit_reader_t  reader = {.comm = comm, .path = path, .hash = TACIT_HASH_START};
    tacit_staged_t *staged = NULL;
    uint64_t       *steps = NULL;
    tacit_status_t  status = tacit__comm_enter(comm, false), mine;
    size_t          slots = 0;

    if (status != TACIT_OK) {
        return status;
    }
    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        slots++;
    }
    staged = tacit__alloc(slots, sizeof *staged);
    steps = tacit__alloc(slots, sizeof *steps);
    mine = path == NULL     ? tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: the path is NULL", comm->rank)
           : !is_idle(comm) ? tacit__fail(TACIT_ERR_STATE, "rank %d: load when no request or group is open", comm->rank)
           : staged == NULL || steps == NULL
               ? tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to load %zu slots", comm->rank, slots)
               : read_file(&reader, staged, slots);
    for (size_t i = 0; mine == TACIT_OK && i < slots; i++) {
        steps[i] = staged[i].step;
    }
    describe_steps(comm, mine == TACIT_OK ? steps : NULL, text, sizeof text);
    TRY(tacit__comm_agree(comm, "tacit_load", text, mine, 0));
    slots = 0;
    for (tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        adopt(slot, &staged[slots++]);
    }
out:
    for (size_t i = 0; staged != NULL && i < slots; i++) {
        tacit__state_release(&staged[i].owner);
    }
    tacit__free(staged);
    tacit__free(steps);
    tacit__free(reader.data);
    tacit__comm_leave(comm);
    return status;
}
