/* SPDX-License-Identifier: Apache-2.0 */
/* Numbered folders. What makes a generation whole is one rename(), which the file system does wholly or not at all. */
#include "generation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char prefix[] = "gen-", filling_suffix[] = ".tmp";

int generation_path(const char *dir, uint64_t number, bool filling, const char *file, char *path_out)
{
    const int bytes = snprintf(path_out, GENERATION_PATH_BYTES, "%s/%s%" PRIu64 "%s%s%s", dir, prefix, number,
                               filling ? filling_suffix : "", *file ? "/" : "", file);

    if (bytes < 0 || bytes >= GENERATION_PATH_BYTES) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return 0;
}

/* What `name` is: the number of a generation, of one that is being filled, or 0 for anything else, which is left alone. */
static uint64_t parse_name(const char *name, bool *filling_out)
{
    char    *end;
    uint64_t number;

    if (strncmp(name, prefix, strlen(prefix)) != 0 || name[strlen(prefix)] < '1' || name[strlen(prefix)] > '9') {
        return 0;
    }
    errno = 0;
    number = strtoull(name + strlen(prefix), &end, 10);
    *filling_out = strcmp(end, filling_suffix) == 0;
    return errno == 0 && (*end == '\0' || *filling_out) ? number : 0;
}

int generation_newest(const char *dir, uint64_t *number_out)
{
    DIR           *folder = opendir(dir);
    struct dirent *entry;
    uint64_t       newest = 0;
    bool           filling;

    if (!folder && errno != ENOENT) {
        return -1;
    }
    while (folder && (entry = readdir(folder))) {
        const uint64_t number = parse_name(entry->d_name, &filling);

        newest = number > newest && !filling ? number : newest;
    }
    if (folder) {
        (void)closedir(folder);
    }
    *number_out = newest;
    return 0;
}

/* A generation's folder holds files only. One that is gone already is not an error. */
static int remove_folder(const char *path)
{
    char           file[GENERATION_PATH_BYTES + 256];
    DIR           *folder = opendir(path);
    struct dirent *entry;

    if (!folder) {
        return errno == ENOENT ? 0 : -1;
    }
    while ((entry = readdir(folder))) {
        (void)snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        (void)unlink(file); /* fails on "." and ".."; any other failure shows in rmdir() */
    }
    (void)closedir(folder);
    return rmdir(path);
}

/* Removes every generation below `keep`, and all that were never finished. */
static int remove_others(const char *dir, uint64_t keep)
{
    char           path[GENERATION_PATH_BYTES];
    DIR           *folder = opendir(dir);
    struct dirent *entry;
    int            result = folder ? 0 : -1;

    while (result == 0 && (entry = readdir(folder))) {
        bool           filling = false;
        const uint64_t number = parse_name(entry->d_name, &filling);

        if (number != 0 && (filling || number < keep)) {
            result = generation_path(dir, number, filling, "", path) == 0 ? remove_folder(path) : -1;
        }
    }
    if (folder) {
        (void)closedir(folder);
    }
    return result;
}

/* Makes a folder and those above it that are missing. */
static int make_folders(const char *dir)
{
    char   path[GENERATION_PATH_BYTES];
    size_t bytes = strlen(dir);

    if (bytes >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(path, dir, bytes + 1);
    for (size_t i = 1; i <= bytes; i++) {
        if (path[i] == '/' || path[i] == '\0') {
            path[i] = '\0';
            if (mkdir(path, 0777) != 0 && errno != EEXIST) {
                return -1;
            }
            path[i] = dir[i];
        }
    }
    return 0;
}

/* Names in a folder survive a power cut only when the folder itself is synced. */
static int sync_folder(const char *path)
{
    const int file = open(path, O_RDONLY | O_DIRECTORY);
    int       result;

    if (file < 0) {
        return -1;
    }
    result = fsync(file);
    (void)close(file);
    return result;
}

int generation_begin(const char *dir, uint64_t number)
{
    char path[GENERATION_PATH_BYTES];

    if (make_folders(dir) != 0 || remove_others(dir, 0) != 0 || generation_path(dir, number, true, "", path) != 0) {
        return -1;
    }
    return mkdir(path, 0777);
}

int generation_try(const char *dir, uint64_t number)
{
    return generation_begin(dir, number) == 0 ? remove_others(dir, 0) : -1;
}

int generation_commit(const char *dir, uint64_t number)
{
    char from[GENERATION_PATH_BYTES], to[GENERATION_PATH_BYTES];

    if (generation_path(dir, number, true, "", from) != 0 || generation_path(dir, number, false, "", to) != 0) {
        return -1;
    }
    if (sync_folder(from) != 0 || rename(from, to) != 0 || sync_folder(dir) != 0) {
        return -1;
    }
    return remove_others(dir, number);
}
