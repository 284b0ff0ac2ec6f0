/* SPDX-License-Identifier: Apache-2.0 */
/* Readers of the two formats in which images of digits come: lines of numbers, and MNIST's IDX. Nothing in a file is trusted. */
#include "digits.h"

#include "layer.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where the shipped digits lie; the build says so. */
#ifndef DIGITS_FILE
#define DIGITS_FILE "examples/data/digits.csv"
#endif

enum {
    CSV_PIXELS = 64,
    CSV_TOP = 16,     /* the largest pixel */
    LINE_BYTES = 512, /* 64 numbers of at most two digits, a comma each, and room for mistakes */
    PATH_BYTES = 4096,
    PIXELS_LIMIT = 1 << 16, /* an IDX file beyond these is damaged, not large */
    IMAGES_LIMIT = 1 << 24,
    IDX_IMAGES = 0x00000803,  /* unsigned bytes in three dimensions */
    IDX_CLASSES = 0x00000801, /* in one */
    SPLIT_SEED = 20240229,    /* any fixed number: the split is part of the data set */
};

/* Where a reader puts its sentence about what went wrong. */
typedef struct report {
    char  *text;
    size_t bytes;
} report_t;

__attribute__((format(printf, 2, 3))) static int fail(report_t report, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(report.text, report.bytes, format, arguments);
    va_end(arguments);
    return -1;
}

static void set_free(digits_set_t *set)
{
    free(set->images);
    free(set->classes);
    *set = (digits_set_t){0};
}

void digits_free(digits_t *digits)
{
    set_free(&digits->train);
    set_free(&digits->test);
}

/* Room for `count` images; what is there stays. */
static int set_resize(digits_set_t *set, size_t count, size_t pixels)
{
    float   *images = realloc(set->images, count * pixels * sizeof *images);
    uint8_t *classes;

    if (!images) {
        return -1;
    }
    set->images = images;
    classes = realloc(set->classes, count);
    if (!classes) {
        return -1;
    }
    set->classes = classes;
    return 0;
}

/* One number of a line, which must lie in 0 ... limit and be followed by `after`. Moves *text behind both. */
static int parse_number(const char **text, long limit, char after, long *number_out)
{
    const char *from = *text;
    char       *end;

    if (*from < '0' || *from > '9') {
        return -1;
    }
    errno = 0;
    *number_out = strtol(from, &end, 10);
    if (errno != 0 || *number_out > limit || *end != after) {
        return -1;
    }
    *text = end + (after != '\0');
    return 0;
}

static int parse_line(char *line, float *image, uint8_t *class, const char *path, size_t number, report_t report)
{
    const char *text = line;
    long        value;

    line[strcspn(line, "\r\n")] = '\0';
    for (int i = 0; i < CSV_PIXELS; i++) {
        if (parse_number(&text, CSV_TOP, ',', &value) != 0) {
            return fail(report, "%s, line %zu: field %d is not a pixel from 0 to %d followed by a comma", path, number, i + 1,
                        CSV_TOP);
        }
        image[i] = (float)value;
    }
    if (parse_number(&text, DIGITS_CLASSES - 1, '\0', &value) != 0) {
        return fail(report, "%s, line %zu: field %d, the last, is not a digit from 0 to 9", path, number, CSV_PIXELS + 1);
    }
    *class = (uint8_t)value;
    return 0;
}

static int read_lines(FILE *file, const char *path, digits_set_t *set, report_t report)
{
    char   line[LINE_BYTES];
    size_t room = 0, number = 0;

    while (fgets(line, sizeof line, file)) {
        number++;
        if (line[strspn(line, " \t\r\n")] == '\0') {
            continue;
        }
        if (set->count == room) {
            room = room ? 2 * room : 1024;
            if (set_resize(set, room, CSV_PIXELS) != 0) {
                return fail(report, "%s: not enough memory for more than %zu images", path, set->count);
            }
        }
        if (parse_line(line, set->images + set->count * CSV_PIXELS, set->classes + set->count, path, number, report) != 0) {
            return -1;
        }
        set->count++;
    }
    if (ferror(file)) {
        return fail(report, "%s, after line %zu: %s", path, number, strerror(errno));
    }
    return set->count > 0 ? 0 : fail(report, "%s is empty; lines of %d pixels and a digit were expected", path, CSV_PIXELS);
}

static int read_csv(const char *path, digits_set_t *set, report_t report)
{
    FILE *file = fopen(path, "r");
    int   result;

    if (!file) {
        return fail(report, "cannot open %s: %s", path, strerror(errno));
    }
    result = read_lines(file, path, set, report);
    (void)fclose(file);
    return result;
}

/* Moves a fifth of the training set to the test set. The same fifth whenever the count is the same. */
static int split(digits_t *digits, const char *path, report_t report)
{
    const size_t  count = digits->train.count, pixels = digits->pixels, tests = count / 5;
    digits_set_t  all = digits->train;
    uint32_t     *order = malloc(count * sizeof *order);
    digits_set_t *to;
    int           result = -1;

    digits->train = (digits_set_t){0};
    if (tests == 0) {
        (void)fail(report, "%s has %zu images; at least 5 are needed to set a fifth aside for testing", path, count);
    } else if (!order || set_resize(&digits->train, count - tests, pixels) != 0 ||
               set_resize(&digits->test, tests, pixels) != 0) {
        (void)fail(report, "%s: not enough memory for %zu images", path, count);
    } else {
        random_permutation(SPLIT_SEED, count, order);
        for (size_t i = 0; i < count; i++) {
            to = i < count - tests ? &digits->train : &digits->test;
            memcpy(to->images + to->count * pixels, all.images + order[i] * pixels, pixels * sizeof *all.images);
            to->classes[to->count++] = all.classes[order[i]];
        }
        result = 0;
    }
    set_free(&all);
    free(order);
    return result;
}

/* IDX: big-endian words, first what the file holds, then each dimension; then the bytes. */
static int read_idx_header(FILE *file, const char *path, uint32_t kind, uint32_t *sizes, size_t dimensions, report_t report)
{
    for (size_t i = 0; i <= dimensions; i++) {
        uint8_t  b[4];
        uint32_t word;

        if (fread(b, 1, sizeof b, file) != sizeof b) {
            return fail(report, "%s ends inside its header of %zu bytes", path, 4 * (dimensions + 1));
        }
        word = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        if (i == 0 && word != kind) {
            return fail(report, "%s starts with 0x%08x; an IDX file of this name starts with 0x%08x", path, word, kind);
        }
        if (i > 0) {
            sizes[i - 1] = word;
        }
    }
    return 0;
}

/* The rest of the file: exactly `bytes` of them. */
static int read_idx_bytes(FILE *file, const char *path, uint8_t *to, size_t bytes, report_t report)
{
    const size_t got = fread(to, 1, bytes, file);

    if (got != bytes) {
        return fail(report, "%s is cut short: %zu of %zu bytes follow the header", path, got, bytes);
    }
    return fgetc(file) == EOF ? 0 : fail(report, "%s is too long: more than %zu bytes follow the header", path, bytes);
}

static int read_idx_images(FILE *file, const char *path, digits_t *digits, digits_set_t *set, report_t report)
{
    uint32_t sizes[3];
    uint8_t *bytes;
    size_t   pixels, count;
    int      result;

    if (read_idx_header(file, path, IDX_IMAGES, sizes, 3, report) != 0) {
        return -1;
    }
    count = sizes[0];
    pixels = (size_t)sizes[1] * sizes[2];
    if (count == 0 || count > IMAGES_LIMIT || pixels == 0 || pixels > PIXELS_LIMIT) {
        return fail(report, "%s: %u images of %ux%u pixels cannot be right", path, sizes[0], sizes[1], sizes[2]);
    }
    if (digits->pixels != 0 && digits->pixels != pixels) {
        return fail(report, "%s has images of %zu pixels, the training set of %zu", path, pixels, digits->pixels);
    }
    digits->pixels = pixels;
    bytes = malloc(count * pixels);
    if (!bytes || set_resize(set, count, pixels) != 0) {
        free(bytes);
        return fail(report, "%s: not enough memory for %zu images", path, count);
    }
    set->count = count;
    result = read_idx_bytes(file, path, bytes, count * pixels, report);
    for (size_t i = 0; result == 0 && i < count * pixels; i++) {
        set->images[i] = (float)bytes[i];
    }
    free(bytes);
    return result;
}

static int read_idx_classes(FILE *file, const char *path, digits_t *digits, digits_set_t *set, report_t report)
{
    uint32_t size;

    (void)digits;
    if (read_idx_header(file, path, IDX_CLASSES, &size, 1, report) != 0) {
        return -1;
    }
    if (size != set->count) {
        return fail(report, "%s has %u labels for %zu images", path, size, set->count);
    }
    if (read_idx_bytes(file, path, set->classes, set->count, report) != 0) {
        return -1;
    }
    for (size_t i = 0; i < set->count; i++) {
        if (set->classes[i] >= DIGITS_CLASSES) {
            return fail(report, "%s: label %zu is %d; a digit from 0 to 9 was expected", path, i + 1, set->classes[i]);
        }
    }
    return 0;
}

typedef int idx_reader_t(FILE *file, const char *path, digits_t *digits, digits_set_t *set, report_t report);

static bool has_file(const char *folder, const char *name)
{
    char path[PATH_BYTES];

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

/* MNIST is handed out packed: the likeliest reason for a missing file is said. */
static int read_idx(const char *folder, const char *name, idx_reader_t *reader, digits_t *digits, digits_set_t *set,
                    report_t report)
{
    char  path[PATH_BYTES], packed[PATH_BYTES];
    FILE *file;
    int   result;

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    (void)snprintf(packed, sizeof packed, "%s.gz", name);
    file = fopen(path, "rb");
    if (!file) {
        const int reason = errno;

        return fail(report, "cannot open %s: %s%s", path, strerror(reason),
                    has_file(folder, packed) ? "; unpack the .gz file beside it with gunzip" : "");
    }
    result = reader(file, path, digits, set, report);
    (void)fclose(file);
    return result;
}

static int read_mnist(const char *folder, digits_t *digits, report_t report)
{
    if (read_idx(folder, "train-images-idx3-ubyte", read_idx_images, digits, &digits->train, report) != 0 ||
        read_idx(folder, "train-labels-idx1-ubyte", read_idx_classes, digits, &digits->train, report) != 0 ||
        read_idx(folder, "t10k-images-idx3-ubyte", read_idx_images, digits, &digits->test, report) != 0) {
        return -1;
    }
    return read_idx(folder, "t10k-labels-idx1-ubyte", read_idx_classes, digits, &digits->test, report);
}

static int read_optdigits(const char *folder, digits_t *digits, report_t report)
{
    char path[PATH_BYTES];

    digits->pixels = CSV_PIXELS;
    (void)snprintf(path, sizeof path, "%s/optdigits.tra", folder);
    if (read_csv(path, &digits->train, report) != 0) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/optdigits.tes", folder);
    return read_csv(path, &digits->test, report);
}

static int read_any(const char *path, digits_t *digits, report_t report)
{
    struct stat info;

    if (stat(path, &info) != 0) {
        return fail(report, "cannot open %s: %s", path, strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) {
        digits->pixels = CSV_PIXELS;
        return read_csv(path, &digits->train, report) == 0 ? split(digits, path, report) : -1;
    }
    if (has_file(path, "optdigits.tra") || has_file(path, "optdigits.tes")) {
        return read_optdigits(path, digits, report);
    }
    if (has_file(path, "train-images-idx3-ubyte") || has_file(path, "train-images-idx3-ubyte.gz")) {
        return read_mnist(path, digits, report);
    }
    return fail(report, "the folder %s holds neither optdigits.tra and optdigits.tes nor train-images-idx3-ubyte", path);
}

static void shift_and_scale(digits_set_t *set, size_t pixels, double mean, double scale)
{
    for (size_t i = 0; i < set->count * pixels; i++) {
        set->images[i] = (float)(((double)set->images[i] - mean) * scale);
    }
}

static void normalize(digits_t *digits)
{
    const size_t total = digits->train.count * digits->pixels;
    double       sum = 0.0, squares = 0.0, mean, variance;

    for (size_t i = 0; i < total; i++) {
        const double pixel = (double)digits->train.images[i];

        sum += pixel;
        squares += pixel * pixel;
    }
    mean = sum / (double)total;
    variance = squares / (double)total - mean * mean;
    if (!(variance > 0.0)) { /* all pixels alike: nothing to scale */
        variance = 1.0;
    }
    shift_and_scale(&digits->train, digits->pixels, mean, 1.0 / sqrt(variance));
    shift_and_scale(&digits->test, digits->pixels, mean, 1.0 / sqrt(variance));
}

int digits_load(const char *path, digits_t *digits_out, char *error, size_t error_bytes)
{
    digits_t digits = {0};

    if (read_any(path ? path : DIGITS_FILE, &digits, (report_t){error, error_bytes}) != 0) {
        digits_free(&digits);
        return -1;
    }
    normalize(&digits);
    *digits_out = digits;
    return 0;
}
