/* SPDX-License-Identifier: Apache-2.0 */
/* Writes and reads lines about where a rank runs, and has TACIT_TOPOLOGY replace what was found. */
#include "place.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

enum { FILE_LINE_BYTES = 512 };

static const char blanks[] = " \t\r\n";

/* ---- Reading a line ---- */

/* The whole of a number from 0 to `most`, which ends where one of `ends` or the text does; NULL: it is none. */
static const char *read_number(const char *text, const char *ends, int *number_out)
{
    char      *end;
    const long number = strtol(text, &end, 10);

    if (*text < '0' || *text > '9' || number > INT_MAX || strchr(ends, *end) == NULL) {
        return NULL;
    }
    *number_out = (int)number;
    return end;
}

size_t tacit__name_bytes(const char *names)
{
    return strcspn(names, ",: \t\r\n");
}

const char *tacit__name_next(const char *names, int *distance_out)
{
    const char *at = names + tacit__name_bytes(names);

    *distance_out = 0;
    if (*at == ':') {
        at = read_number(at + 1, ", \t\r\n", distance_out);
    }
    return at != NULL && *at == ',' ? at + 1 : NULL;
}

static const char *read_host(const char *value, tacit_place_t *place)
{
    const size_t bytes = strcspn(value, blanks);

    snprintf(place->host, sizeof place->host, "%.*s", (int)bytes, value);
    return bytes < sizeof place->host ? NULL : "is a name of more than 79 bytes";
}

static const char *read_names(const char *value, const char **names_out)
{
    int distance;

    for (const char *name = value; name != NULL; name = tacit__name_next(name, &distance)) {
        const char *end = name + tacit__name_bytes(name);

        if (end == name || (*end == ':' && read_number(end + 1, ", \t\r\n", &distance) == NULL)) {
            return "gives no names such as eth0,eth1:2";
        }
    }
    *names_out = value;
    return NULL;
}

static const char *read_word(const char *word, tacit_place_t *place)
{
    const struct {
        const char *key;
        int        *number;
    } numbers[] = {{"package=", &place->package}, {"numa=", &place->numa}, {"cache=", &place->cache}, {"core=", &place->core}};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const size_t bytes = strlen(numbers[i].key);

        if (strncmp(word, numbers[i].key, bytes) == 0) {
            return read_number(word + bytes, blanks, numbers[i].number) != NULL ? NULL : "gives no number";
        }
    }
    if (strncmp(word, "host=", 5) == 0) {
        return read_host(word + 5, place);
    }
    if (strncmp(word, "nic=", 4) == 0) {
        return read_names(word + 4, &place->nics);
    }
    if (strncmp(word, "gpu=", 4) == 0) {
        return read_names(word + 4, &place->gpus);
    }
    return memchr(word, '=', strcspn(word, blanks)) != NULL ? NULL : "is not of the form KEY=VALUE";
}

/* The next word of a line, before any comment; NULL: there is none. */
static const char *next_word(const char *at)
{
    at += strspn(at, blanks);
    return *at != '\0' && *at != '#' ? at : NULL;
}

const char *tacit__place_read(const char *line, tacit_place_t *place_out, const char **word_out)
{
    const char *wrong = NULL;
    bool        has_host = false;

    *place_out = (tacit_place_t){.package = -1, .numa = -1, .cache = -1, .core = -1, .nics = "", .gpus = ""};
    *word_out = NULL;
    for (const char *word = next_word(line); word != NULL; word = next_word(word + strcspn(word, blanks))) {
        const char *reason = read_word(word, place_out);

        has_host = has_host || strncmp(word, "host=", 5) == 0;
        if (reason != NULL && wrong == NULL) {
            wrong = reason;
            *word_out = word;
        }
    }
    return wrong == NULL && !has_host ? "there is no host=NAME" : wrong;
}

/* ---- What TACIT_TOPOLOGY gives ---- */

/* "4,4,3": so many ranks on each host, in order; "4": on each, as far as they reach. */
static tacit_status_t host_of_list(const char *list, int rank, int ranks, char host_out[TACIT_HOST_BYTES])
{
    long        before = 0;
    int         found = -1, host = 0;
    const char *at = list;

    if (strchr(list, ',') == NULL && strtol(list, NULL, 10) > 0 && list[strspn(list, "0123456789")] == '\0') {
        snprintf(host_out, TACIT_HOST_BYTES, "host%ld", rank / strtol(list, NULL, 10));
        return TACIT_OK;
    }
    for (; *at != '\0'; host++) {
        char      *end;
        const long here = strtol(at, &end, 10);

        if (end == at || here < 1 || here > ranks || (*end != ',' && *end != '\0')) {
            break;
        }
        found = rank >= before && rank < before + here ? host : found;
        before += here;
        at = *end == ',' && end[1] != '\0' ? end + 1 : end;
    }
    if (*at != '\0' || before != ranks) {
        return tacit__fail(TACIT_ERR_ARGUMENT,
                           "rank %d: TACIT_TOPOLOGY=%.80s does not give each host's ranks, such as 4,4,3, %d in all; a "
                           "file is given as @FILE",
                           rank, list, ranks);
    }
    snprintf(host_out, TACIT_HOST_BYTES, "host%d", found);
    return TACIT_OK;
}

/* Its words with a blank between them, without a comment; *bytes_out is what they have. */
static void copy_words(const char *line, char copy_out[TACIT_PLACE_BYTES], size_t *bytes_out)
{
    size_t used = 0;

    copy_out[0] = '\0';
    for (const char *word = next_word(line), *end; word != NULL; word = next_word(end)) {
        end = word + strcspn(word, blanks);
        if (used < TACIT_PLACE_BYTES) {
            snprintf(copy_out + used, TACIT_PLACE_BYTES - used, "%s%.*s", used > 0 ? " " : "", (int)(end - word), word);
        }
        used += (used > 0) + (size_t)(end - word);
    }
    *bytes_out = used;
}

/* A line of the file, or a fault, which every rank finds: all of them read all lines. */
static tacit_status_t check_line(const char *path, int number, const char *line, int rank, char copy_out[TACIT_PLACE_BYTES])
{
    tacit_place_t place;
    size_t        bytes;
    const char   *word, *wrong;

    copy_words(line, copy_out, &bytes);
    if (bytes >= TACIT_PLACE_BYTES || (strchr(line, '\n') == NULL && strlen(line) >= FILE_LINE_BYTES - 1)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: TACIT_TOPOLOGY: %.160s, line %d: it has more than %d bytes", rank, path,
                           number, TACIT_PLACE_BYTES - 1);
    }
    wrong = tacit__place_read(copy_out, &place, &word);
    if (wrong != NULL && bytes > 0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: TACIT_TOPOLOGY: %.160s, line %d: %.*s%s%s", rank, path, number,
                           word != NULL ? (int)strcspn(word, blanks) : 0, word != NULL ? word : "", word != NULL ? " " : "",
                           wrong);
    }
    return TACIT_OK;
}

static tacit_status_t line_of_file(const char *path, int rank, int ranks, char line_out[TACIT_PLACE_BYTES])
{
    tacit_status_t status = TACIT_OK;
    FILE          *file = fopen(path, "re");
    char           line[FILE_LINE_BYTES], copy[TACIT_PLACE_BYTES];
    int            found = 0;

    if (file == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: TACIT_TOPOLOGY: cannot open %.160s: %s", rank, path, strerror(errno));
    }
    for (int number = 1; fgets(line, sizeof line, file) != NULL; number++) {
        TRY(check_line(path, number, line, rank, copy));
        if (copy[0] != '\0' && found++ == rank) {
            memcpy(line_out, copy, sizeof copy);
        }
    }
    if (found != ranks) {
        status = tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: TACIT_TOPOLOGY: %.160s describes %d ranks, one a line; there are %d",
                             rank, path, found, ranks);
    }
out:
    fclose(file);
    return status;
}

/* ---- This rank ---- */

/* A host's name as one word. A long one is cut, and two that differ stay different. */
static void copy_host(const char *host, char copy_out[TACIT_HOST_BYTES])
{
    const size_t bytes = strlen(host);

    if (bytes < TACIT_HOST_BYTES) {
        memcpy(copy_out, host, bytes + 1);
    } else {
        snprintf(copy_out, TACIT_HOST_BYTES, "%.60s~%016llx", host, (unsigned long long)tacit__hash_text(host));
    }
    for (char *at = copy_out; *at != '\0'; at++) {
        *at = strchr(blanks, *at) == NULL ? *at : '_';
    }
}

tacit_status_t tacit__place_find(const char *given, const char *host, int rank, int ranks, char line_out[TACIT_PLACE_BYTES])
{
    char           name[TACIT_HOST_BYTES] = "";
    size_t         used;
    tacit_status_t status = TACIT_OK;

    line_out[0] = '\0';
    if (given != NULL && (given[0] == '@' || strchr(given, '/') != NULL)) {
        return line_of_file(given + (given[0] == '@'), rank, ranks, line_out);
    }
    if (given != NULL) {
        TRY(host_of_list(given, rank, ranks, name));
    } else if (host != NULL) {
        copy_host(host, name);
    }
    used = (size_t)snprintf(line_out, TACIT_PLACE_BYTES, "host=%s", name);
    if (host != NULL && ranks > 1) {
        tacit__machine_describe(line_out + used, TACIT_PLACE_BYTES - used);
    }
out:
    return status;
}
