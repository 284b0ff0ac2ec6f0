/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and prints parameters by table. */
#include "param.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES = 48, WORD_BYTES = 32 };

static void *field(const tacit_param_t *param, void *config)
{
    return (char *)config + param->offset;
}

static void set_default(const tacit_param_t *param, void *config)
{
    switch (param->type) {
    case TACIT_PARAM_INT:
        *(int64_t *)field(param, config) = (int64_t)param->initial;
        break;
    case TACIT_PARAM_REAL:
        *(double *)field(param, config) = param->initial;
        break;
    case TACIT_PARAM_WORD:
        *(int *)field(param, config) = (int)param->initial;
        break;
    case TACIT_PARAM_TEXT:
        *(const char **)field(param, config) = NULL;
        break;
    }
}

void tacit__param_defaults(const tacit_param_t *params, void *config)
{
    for (const tacit_param_t *param = params; param->key != NULL; param++) {
        set_default(param, config);
    }
}

const tacit_param_t *tacit__param_find(const tacit_param_t *params, const char *key, size_t bytes)
{
    for (const tacit_param_t *param = params; param->key != NULL; param++) {
        if (strlen(param->key) == bytes && memcmp(param->key, key, bytes) == 0) {
            return param;
        }
    }
    return NULL;
}

/* The index-th word of a list separated by spaces; its length in bytes_out, 0 past the last. */
static const char *word_at(const char *words, int index, size_t *bytes_out)
{
    const char *word = words;

    for (int i = 0; i < index && *word != '\0'; i++) {
        word += strcspn(word, " ");
        word += strspn(word, " ");
    }
    *bytes_out = strcspn(word, " ");
    return word;
}

static bool parse_word(const tacit_param_t *param, const char *value, size_t bytes, void *config)
{
    size_t      word_bytes;
    const char *word = word_at(param->words, 0, &word_bytes);

    for (int i = 0; word_bytes != 0; word = word_at(param->words, ++i, &word_bytes)) {
        if (word_bytes == bytes && memcmp(word, value, bytes) == 0) {
            *(int *)field(param, config) = i;
            return true;
        }
    }
    return false;
}

static bool parse_int(const tacit_param_t *param, const char *text, void *config)
{
    char     *end;
    long long number;
    long long scale = 1;

    errno = 0;
    number = strtoll(text, &end, 10);
    if (*end == 'K' || *end == 'M' || *end == 'G') {
        scale = *end == 'K' ? 1LL << 10 : *end == 'M' ? 1LL << 20 : 1LL << 30;
        end++;
    }
    if (end == text || *end != '\0' || errno != 0 || __builtin_mul_overflow(number, scale, &number) ||
        (double)number < param->low || (double)number > param->high ||
        (param->multiple > 1 && number % (long long)param->multiple != 0)) {
        return false;
    }
    *(int64_t *)field(param, config) = number;
    return true;
}

/* A number has a point whatever the program's locale says, which stays as it is. Without memory for that: as it says. */
static double read_number(const char *text, char **end)
{
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    locale_t before = plain != (locale_t)0 ? uselocale(plain) : (locale_t)0;
    double   number = strtod(text, end);

    if (plain != (locale_t)0) {
        uselocale(before);
        freelocale(plain);
    }
    return number;
}

static bool parse_real(const tacit_param_t *param, const char *text, void *config)
{
    char  *end;
    double number;

    errno = 0;
    number = read_number(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(number >= param->low && number <= param->high) ||
        isalpha((unsigned char)text[0])) {
        return false;
    }
    *(double *)field(param, config) = number;
    return true;
}

/* The word that stands for a number's default. */
static bool is_default_word(const tacit_param_t *param, const char *value, size_t bytes)
{
    return param->words != NULL && strlen(param->words) == bytes && memcmp(param->words, value, bytes) == 0;
}

static tacit_status_t refuse(const char *owner, const tacit_param_t *param, const char *value, int bytes)
{
    char multiple[NUMBER_BYTES] = "", word[WORD_BYTES] = "";

    if (param->type == TACIT_PARAM_WORD) {
        return tacit__fail(TACIT_ERR_SPEC, "%s: %s=%.*s is not allowed; choose one of: %s", owner, param->key, bytes, value,
                           param->words);
    }
    if (param->multiple > 1) {
        snprintf(multiple, sizeof multiple, ", a multiple of %u", param->multiple);
    }
    if (param->words != NULL) {
        snprintf(word, sizeof word, ", or '%s'", param->words);
    }
    return tacit__fail(TACIT_ERR_SPEC, "%s: %s=%.*s is not allowed; give %s from %.10g to %.10g%s%s%s%s", owner, param->key,
                       bytes, value, param->type == TACIT_PARAM_INT ? "an integer" : "a number", param->low, param->high,
                       *param->unit != '\0' ? " " : "", param->unit, multiple, word);
}

tacit_status_t tacit__param_parse(const char *owner, const tacit_param_t *param, const char *value, size_t bytes, void *config)
{
    char text[NUMBER_BYTES];
    bool fits = false;
    int  shown = (int)tacit__min(bytes, NUMBER_BYTES);
    int  error = errno;

    if (param->type == TACIT_PARAM_TEXT) {
        *(const char **)field(param, config) = value;
        return TACIT_OK;
    }
    if (param->type != TACIT_PARAM_WORD && is_default_word(param, value, bytes)) {
        set_default(param, config);
        return TACIT_OK;
    }
    if (bytes != 0 && bytes < sizeof text) {
        memcpy(text, value, bytes);
        text[bytes] = '\0';
        fits = param->type == TACIT_PARAM_WORD  ? parse_word(param, value, bytes, config)
               : param->type == TACIT_PARAM_INT ? parse_int(param, text, config)
                                                : parse_real(param, text, config);
        errno = error; /* the caller's */
    }
    return fits ? TACIT_OK : refuse(owner, param, value, shown);
}

/* The shortest decimal that reads back as the same number. */
static int print_real(double number, char *text, size_t capacity)
{
    int   length = 0;
    char *point;

    for (int digits = 1; digits <= 17; digits++) {
        length = snprintf(text, capacity, "%.*g", digits, number);
        point = (size_t)length < capacity ? strpbrk(text, ",") : NULL;
        if (point != NULL) {
            *point = '.'; /* the locale's */
        }
        if (read_number(text, NULL) == number) {
            break;
        }
    }
    if ((size_t)length < capacity && strchr(text, '+') != NULL) {
        length = snprintf(text, capacity, "%.0f", number); /* a spec has no place for the plus of 1e+03 */
    }
    return length;
}

size_t tacit__param_print(const tacit_param_t *param, const void *config, char *text, size_t capacity)
{
    const char *at = (const char *)config + param->offset;
    size_t      bytes;
    const char *word;
    int         length = 0;
    int64_t     integer;
    double      real;

    switch (param->type) {
    case TACIT_PARAM_INT:
        integer = *(const int64_t *)(const void *)at;
        length = param->words != NULL && integer == (int64_t)param->initial
                     ? snprintf(text, capacity, "%s", param->words)
                     : snprintf(text, capacity, "%lld", (long long)integer);
        break;
    case TACIT_PARAM_REAL:
        real = *(const double *)(const void *)at;
        length = param->words != NULL && real == param->initial ? snprintf(text, capacity, "%s", param->words)
                                                                : print_real(real, text, capacity);
        break;
    case TACIT_PARAM_WORD:
        word = word_at(param->words, *(const int *)(const void *)at, &bytes);
        length = snprintf(text, capacity, "%.*s", (int)bytes, word);
        break;
    case TACIT_PARAM_TEXT:
        word = *(const char *const *)(const void *)at;
        length = snprintf(text, capacity, "%s", word != NULL ? word : "");
        break;
    }
    return (size_t)length;
}

static bool same_letter(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

unsigned tacit__word_distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    unsigned  rows[3][WORD_BYTES + 1];
    unsigned *before = rows[0], *last = rows[1], *row = rows[2];

    if (a_bytes > WORD_BYTES || b_bytes > WORD_BYTES) {
        return WORD_BYTES;
    }
    for (size_t j = 0; j <= b_bytes; j++) {
        last[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_bytes; i++) {
        unsigned *oldest = before;

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_bytes; j++) {
            unsigned best = last[j - 1] + !same_letter(a[i - 1], b[j - 1]);

            best = best < last[j] + 1 ? best : last[j] + 1;
            best = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]) &&
                best > before[j - 2] + 1) {
                best = before[j - 2] + 1;
            }
            row[j] = best;
        }
        before = last;
        last = row;
        row = oldest;
    }
    return last[b_bytes];
}
