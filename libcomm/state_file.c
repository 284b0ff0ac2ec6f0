/* SPDX-License-Identifier: Apache-2.0 */
/* Writes and reads state files. What does not belong to one kind of them is here. */
#include "state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_VERSION = 1, PATH_BYTES = 4096, SHOWN = 100 }; /* SHOWN: bytes of a text in a message */

static tacit_status_t file_error(int rank, const char *what, const char *path)
{
    return tacit__fail(TACIT_ERR_FILE, "rank %d: cannot %s '%s': %s", rank, what, path, strerror(errno));
}

static tacit_status_t no_path(int rank)
{
    return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: the path is NULL", rank);
}

/* ---- Writing ---- */

static void emit(tacit_writer_t *writer, const void *data, size_t bytes)
{
    if (writer->file != NULL) {
        writer->failed = writer->failed || fwrite(data, 1, bytes, writer->file) != bytes;
    } else if (bytes != 0 && writer->bytes <= writer->capacity && bytes <= writer->capacity - writer->bytes) {
        memcpy(writer->memory + writer->bytes, data, bytes);
    }
    writer->bytes += bytes;
}

static void put(tacit_writer_t *writer, const void *data, size_t bytes)
{
    writer->hash = tacit__hash(writer->hash, data, bytes);
    emit(writer, data, bytes);
}

void tacit__put_number(tacit_writer_t *writer, uint64_t number)
{
    put(writer, &number, sizeof number);
}

void tacit__put_real(tacit_writer_t *writer, double number)
{
    put(writer, &number, sizeof number);
}

void tacit__put_text(tacit_writer_t *writer, const char *text)
{
    tacit__put_number(writer, strlen(text));
    put(writer, text, strlen(text));
}

void tacit__put_array(tacit_writer_t *writer, const char *name, const float *values, size_t count)
{
    tacit__put_text(writer, name);
    tacit__put_number(writer, count);
    tacit__put_number(writer, tacit__payload_checksum(values, count * sizeof *values));
    emit(writer, values, count * sizeof *values);
}

/* Beginning, content and end. */
static void put_all(tacit_writer_t *writer, int rank, int ranks, const char magic[TACIT_STATE_MAGIC_BYTES],
                    void (*content)(tacit_writer_t *writer, const void *state), const void *state)
{
    uint64_t hash;

    put(writer, magic, TACIT_STATE_MAGIC_BYTES);
    tacit__put_number(writer, FILE_VERSION);
    tacit__put_number(writer, (uint64_t)rank);
    tacit__put_number(writer, (uint64_t)ranks);
    content(writer, state);
    hash = writer->hash;
    put(writer, &hash, sizeof hash);
}

size_t tacit__state_put(int rank, int ranks, uint8_t *memory, size_t capacity, const char magic[TACIT_STATE_MAGIC_BYTES],
                        void (*content)(tacit_writer_t *writer, const void *state), const void *state)
{
    tacit_writer_t writer = {.memory = memory, .capacity = capacity, .hash = TACIT_HASH_START};

    put_all(&writer, rank, ranks, magic, content, state);
    return writer.bytes;
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

tacit_status_t tacit__state_write(int rank, int ranks, const char *path, const char magic[TACIT_STATE_MAGIC_BYTES],
                                  void (*content)(tacit_writer_t *writer, const void *state), const void *state)
{
    char           beside[PATH_BYTES];
    tacit_writer_t writer = {.hash = TACIT_HASH_START};
    struct stat    present;

    if (path == NULL) {
        return no_path(rank);
    }
    if (stat(path, &present) == 0 && !S_ISREG(present.st_mode)) { /* the renaming would take its place */
        return tacit__fail(TACIT_ERR_FILE, "rank %d: cannot write '%.160s': it is there already, and no regular file", rank,
                           path);
    }
    if (snprintf(beside, sizeof beside, "%s.%d.tmp", path, rank) >= (int)sizeof beside) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: the path '%.80s...' is too long", rank, path);
    }
    writer.file = fopen(beside, "wb");
    if (writer.file == NULL) {
        return file_error(rank, "write", beside);
    }
    put_all(&writer, rank, ranks, magic, content, state);
    if (writer.failed || fflush(writer.file) != 0 || fsync(fileno(writer.file)) != 0) {
        tacit_status_t status = file_error(rank, "write", beside);

        (void)fclose(writer.file);
        (void)unlink(beside);
        return status;
    }
    if (fclose(writer.file) != 0 || rename(beside, path) != 0) {
        tacit_status_t status = file_error(rank, "put into place", path);

        (void)unlink(beside);
        return status;
    }
    sync_folder(path);
    return TACIT_OK;
}

/* ---- Reading ---- */

tacit_status_t tacit__state_damaged(const tacit_reader_t *reader, const char *what)
{
    return tacit__fail(TACIT_ERR_FILE, "rank %d: '%s' is damaged or no state file: %s (at byte %zu of %zu)", reader->rank,
                       reader->path, what, reader->at, reader->bytes);
}

static tacit_status_t get(tacit_reader_t *reader, void *data, size_t bytes)
{
    if (bytes > reader->bytes - reader->at) {
        return tacit__state_damaged(reader, "it ends too early");
    }
    memcpy(data, reader->data + reader->at, bytes);
    reader->hash = tacit__hash(reader->hash, data, bytes);
    reader->at += bytes;
    return TACIT_OK;
}

tacit_status_t tacit__get_number(tacit_reader_t *reader, uint64_t *number)
{
    return get(reader, number, sizeof *number);
}

tacit_status_t tacit__get_real(tacit_reader_t *reader, double *number)
{
    return get(reader, number, sizeof *number);
}

tacit_status_t tacit__get_text(tacit_reader_t *reader, char text[TACIT_STATE_TEXT_BYTES])
{
    tacit_status_t status;
    uint64_t       bytes;

    TRY(tacit__get_number(reader, &bytes));
    if (bytes >= TACIT_STATE_TEXT_BYTES) {
        status = tacit__state_damaged(reader, "a text is too long");
        goto out;
    }
    TRY(get(reader, text, bytes));
    text[bytes] = '\0';
out:
    return status;
}

tacit_status_t tacit__get_array(tacit_reader_t *reader, char name_out[TACIT_STATE_TEXT_BYTES], const void **values_out,
                                uint64_t *count_out)
{
    tacit_status_t status;
    char           name[TACIT_STATE_TEXT_BYTES];
    uint64_t       count, checksum;
    const uint8_t *values;

    TRY(tacit__get_text(reader, name_out != NULL ? name_out : name));
    TRY(tacit__get_number(reader, &count));
    TRY(tacit__get_number(reader, &checksum));
    if (count > (reader->bytes - reader->at) / sizeof(float)) {
        status = tacit__state_damaged(reader, "an array ends too early");
        goto out;
    }
    values = reader->data + reader->at;
    if (tacit__payload_checksum(values, count * sizeof(float)) != checksum) {
        status = tacit__state_damaged(reader, "an array's checksum is wrong");
        goto out;
    }
    reader->at += count * sizeof(float);
    *values_out = values;
    *count_out = count;
out:
    return status;
}

tacit_status_t tacit__expect_text(tacit_reader_t *reader, const char *slot, const char *what, const char *mine)
{
    tacit_status_t status;
    char           text[TACIT_STATE_TEXT_BYTES];

    TRY(tacit__get_text(reader, text));
    if (strcmp(text, mine) != 0) {
        const size_t from = tacit__difference(text, mine, SHOWN);
        const char  *dots = from != 0 ? "..." : "";

        status = tacit__fail(TACIT_ERR_MISMATCH, "rank %d: '%.160s': the %s%s%.80s%s is '%s%.*s' in the file, '%s%.*s' here",
                             reader->rank, reader->path, what, *slot != '\0' ? " of slot '" : "", slot, *slot != '\0' ? "'" : "",
                             dots, SHOWN, text + from, dots, SHOWN, mine + from);
    }
out:
    return status;
}

tacit_status_t tacit__expect_number(tacit_reader_t *reader, const char *slot, const char *what, uint64_t mine)
{
    tacit_status_t status;
    uint64_t       number;

    TRY(tacit__get_number(reader, &number));
    if (number != mine) {
        status =
            tacit__fail(TACIT_ERR_MISMATCH, "rank %d: '%s'%s%s%s: %s is %" PRIu64 " in the file, %" PRIu64 " here", reader->rank,
                        reader->path, *slot != '\0' ? ", slot '" : "", slot, *slot != '\0' ? "'" : "", what, number, mine);
    }
out:
    return status;
}

static tacit_status_t read_whole(tacit_reader_t *reader)
{
    const int      descriptor = open(reader->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would wait for a writer */
    FILE          *file = descriptor >= 0 ? fdopen(descriptor, "rb") : NULL;
    struct stat    info;
    tacit_status_t status = TACIT_OK;

    if (file == NULL || fstat(descriptor, &info) != 0) {
        status = file_error(reader->rank, "read", reader->path);
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        status = tacit__fail(TACIT_ERR_FILE, "rank %d: cannot read '%s': it is no regular file", reader->rank, reader->path);
        goto out;
    }
    reader->data = reader->owned = tacit__alloc_unset((size_t)info.st_size);
    if (reader->owned == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for the %lld bytes of '%s'", reader->rank,
                             (long long)info.st_size, reader->path);
        goto out;
    }
    reader->bytes = fread(reader->owned, 1, (size_t)info.st_size, file);
    if (ferror(file)) {
        status = file_error(reader->rank, "read", reader->path);
    } else if (reader->bytes != (size_t)info.st_size) {
        status = tacit__fail(TACIT_ERR_FILE, "rank %d: '%s' has become shorter while it was read", reader->rank, reader->path);
    }
out:
    if (file != NULL) {
        (void)fclose(file);
    } else if (descriptor >= 0) {
        (void)close(descriptor);
    }
    return status;
}

/* Whole, and of another kind than was expected. */
static const char *other_kind(const char word[TACIT_STATE_MAGIC_BYTES])
{
    static const char *const kinds[][2] = {{"TACITSAV", "what slots remember; tacit_load() reads it"},
                                           {"TACITOPT", "an optimizer's state; tacit_optim_load() reads it"},
                                           {"TACITLGR", "a layerwise adaptation's state; tacit_lgreco_load() reads it"},
                                           {"TACITCDC", "what a codec remembers; tacit_codec_load() reads it"}};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (memcmp(word, kinds[i][0], TACIT_STATE_MAGIC_BYTES) == 0) {
            return kinds[i][1];
        }
    }
    return NULL;
}

static tacit_status_t get_beginning(tacit_reader_t *reader, int ranks, const char magic[TACIT_STATE_MAGIC_BYTES])
{
    tacit_status_t status;
    char           word[TACIT_STATE_MAGIC_BYTES];

    TRY(get(reader, word, sizeof word));
    if (memcmp(word, magic, sizeof word) != 0) {
        const char *kind = other_kind(word);

        status = kind != NULL ? tacit__fail(TACIT_ERR_FILE, "rank %d: '%.160s' holds %s", reader->rank, reader->path, kind)
                              : tacit__state_damaged(reader, "it does not begin as one");
        goto out;
    }
    TRY(tacit__expect_number(reader, "", "the file version", FILE_VERSION));
    TRY(tacit__expect_number(reader, "", "the rank", (uint64_t)reader->rank));
    TRY(tacit__expect_number(reader, "", "the number of ranks", (uint64_t)ranks));
out:
    return status;
}

tacit_status_t tacit__state_open(tacit_reader_t *reader, int rank, int ranks, const char *path,
                                 const char magic[TACIT_STATE_MAGIC_BYTES])
{
    tacit_status_t status;

    *reader = (tacit_reader_t){.rank = rank, .path = path, .hash = TACIT_HASH_START};
    TRY(path != NULL ? read_whole(reader) : no_path(rank));
    TRY(get_beginning(reader, ranks, magic));
out:
    return status;
}

tacit_status_t tacit__state_get(tacit_reader_t *reader, int rank, int ranks, const void *memory, size_t bytes,
                                const char magic[TACIT_STATE_MAGIC_BYTES])
{
    *reader = (tacit_reader_t){.rank = rank, .path = "(in memory)", .data = memory, .bytes = bytes, .hash = TACIT_HASH_START};
    return get_beginning(reader, ranks, magic);
}

tacit_status_t tacit__state_end(tacit_reader_t *reader)
{
    const uint64_t expected = reader->hash;
    tacit_status_t status;
    uint64_t       hash;

    TRY(tacit__get_number(reader, &hash));
    if (hash != expected || reader->at != reader->bytes) {
        status = tacit__state_damaged(reader, "its checksum is wrong");
    }
out:
    return status;
}

void tacit__state_close(tacit_reader_t *reader)
{
    tacit__free(reader->owned);
    reader->data = reader->owned = NULL;
}
