/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar of RFC 8259 as a machine: what may come next, and the brackets that are open. */
#include "json_reader.h"

#include <stdlib.h>
#include <string.h>

/* Outside arrays and objects a value or the end; inside, by the bracket. */
typedef enum {
    EXPECT_VALUE,
    EXPECT_FIRST,  /* a member or the other bracket */
    EXPECT_MEMBER, /* after a comma */
    EXPECT_COMMA,  /* or the other bracket */
    EXPECT_END
} json_expected_t;

json_reader_t json_reader(const char *text, size_t bytes)
{
    return (json_reader_t){.text = text, .bytes = bytes, .expected = EXPECT_VALUE};
}

static json_token_t fail(json_reader_t *reader, size_t at, const char *error)
{
    reader->at = reader->next = at;
    reader->error = at < reader->bytes ? error : "the end of the file, in the middle of it";
    return JSON_ERROR;
}

static void skip_blanks(json_reader_t *reader)
{
    while (reader->next < reader->bytes && strchr(" \t\r\n", reader->text[reader->next]) != NULL &&
           reader->text[reader->next] != '\0') {
        reader->next++;
    }
}

/* What is expected behind a value. */
static void end_value(json_reader_t *reader)
{
    reader->expected = reader->depth > 0 ? EXPECT_COMMA : EXPECT_END;
}

/* ---- Strings ---- */

static void append(json_reader_t *reader, size_t *used, unsigned char byte)
{
    if (*used < JSON_STRING_BYTES - 1) {
        reader->string[(*used)++] = (char)byte;
    }
}

/* Four hexadecimal digits; false where there are none. */
static bool read_code(json_reader_t *reader, unsigned *code_out)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";

    *code_out = 0;
    for (int i = 0; i < 4; i++, reader->next++) {
        const char  c = reader->next < reader->bytes ? reader->text[reader->next] : '\0';
        const char *digit = c != '\0' ? strchr(digits, c) : NULL;

        if (digit == NULL) {
            return false;
        }
        *code_out = 16 * *code_out + (unsigned)((digit - digits) % 16);
    }
    return true;
}

static bool read_escape(json_reader_t *reader, size_t *used)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char        c = reader->next < reader->bytes ? reader->text[reader->next] : '\0';
    const char       *escape = c != '\0' ? strchr(escapes, c) : NULL;
    unsigned          code;

    if (c != 'u' && escape == NULL) {
        return false;
    }
    reader->next++;
    if (escape != NULL) {
        append(reader, used, (unsigned char)meant[escape - escapes]);
        return true;
    }
    if (!read_code(reader, &code)) {
        return false;
    }
    append(reader, used, code < 0x100 ? (unsigned char)code : '?');
    return true;
}

static json_token_t read_string(json_reader_t *reader, json_token_t token)
{
    size_t used = 0;

    reader->next++;
    while (reader->next < reader->bytes && reader->text[reader->next] != '"') {
        const unsigned char byte = (unsigned char)reader->text[reader->next];

        if (byte < 0x20) {
            return fail(reader, reader->next, "a control character in a string");
        }
        reader->next++;
        if (byte != '\\') {
            append(reader, &used, byte);
        } else if (!read_escape(reader, &used)) {
            return fail(reader, reader->next, "an escape that there is not");
        }
    }
    if (reader->next >= reader->bytes) {
        return fail(reader, reader->bytes, "");
    }
    reader->next++;
    reader->string[used] = '\0';
    return token;
}

/* ---- Numbers and words ---- */

/* Goes past digits; false where there are none. */
static bool read_digits(json_reader_t *reader)
{
    const size_t first = reader->next;

    while (reader->next < reader->bytes && reader->text[reader->next] >= '0' && reader->text[reader->next] <= '9') {
        reader->next++;
    }
    return reader->next > first;
}

/* Past one of these characters, if it is next. */
static bool read_one(json_reader_t *reader, const char *characters)
{
    const char c = reader->next < reader->bytes ? reader->text[reader->next] : '\0';
    const bool is = c != '\0' && strchr(characters, c) != NULL;

    reader->next += is;
    return is;
}

static json_token_t read_number(json_reader_t *reader)
{
    bool good;

    (void)read_one(reader, "-");
    good = read_one(reader, "0") || read_digits(reader);
    if (good && read_one(reader, ".")) {
        good = read_digits(reader);
    }
    if (good && read_one(reader, "eE")) {
        (void)read_one(reader, "+-");
        good = read_digits(reader);
    }
    if (!good) {
        return fail(reader, reader->next, "a number without a digit");
    }
    reader->number = strtod(reader->text + reader->at, NULL);
    end_value(reader);
    return JSON_NUMBER;
}

static json_token_t read_word(json_reader_t *reader)
{
    static const char *const words[] = {"true", "false", "null"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t bytes = strlen(words[i]);

        if (reader->bytes - reader->at >= bytes && memcmp(reader->text + reader->at, words[i], bytes) == 0) {
            reader->next += bytes;
            end_value(reader);
            return JSON_WORD;
        }
    }
    return fail(reader, reader->at, "not JSON");
}

/* ---- The machine ---- */

static json_token_t open_bracket(json_reader_t *reader)
{
    if (reader->depth == JSON_DEPTH) {
        return fail(reader, reader->at, "too many brackets within each other");
    }
    reader->open[reader->depth++] = reader->text[reader->next++];
    reader->expected = EXPECT_FIRST;
    return JSON_OPEN;
}

static json_token_t close_bracket(json_reader_t *reader)
{
    reader->next++;
    reader->depth--;
    end_value(reader);
    return JSON_CLOSE;
}

static json_token_t read_value(json_reader_t *reader)
{
    const char c = reader->text[reader->at];

    if (c == '{' || c == '[') {
        return open_bracket(reader);
    }
    if (c == '"') {
        end_value(reader);
        return read_string(reader, JSON_STRING);
    }
    return c == '-' || (c >= '0' && c <= '9') ? read_number(reader) : read_word(reader);
}

/* With the colon behind it. */
static json_token_t read_key(json_reader_t *reader)
{
    if (reader->text[reader->at] != '"') {
        return fail(reader, reader->at, "no key where one belongs");
    }
    if (read_string(reader, JSON_KEY) == JSON_ERROR) {
        return JSON_ERROR;
    }
    skip_blanks(reader);
    if (!read_one(reader, ":")) {
        return fail(reader, reader->next, "no colon behind a key");
    }
    reader->expected = EXPECT_VALUE;
    return JSON_KEY;
}

json_token_t json_next(json_reader_t *reader)
{
    char open, c;

    if (reader->error != NULL) {
        return JSON_ERROR;
    }
    skip_blanks(reader);
    if (reader->expected == EXPECT_END) {
        reader->at = reader->next;
        return reader->next >= reader->bytes ? JSON_END : fail(reader, reader->at, "something behind the end");
    }
    open = reader->depth > 0 ? reader->open[reader->depth - 1] : '\0';
    if (reader->expected == EXPECT_COMMA && read_one(reader, ",")) {
        skip_blanks(reader);
        reader->expected = EXPECT_MEMBER;
    }
    reader->at = reader->next;
    if (reader->at >= reader->bytes) {
        return fail(reader, reader->bytes, "");
    }
    c = reader->text[reader->at];
    if ((reader->expected == EXPECT_COMMA || reader->expected == EXPECT_FIRST) && c == (open == '{' ? '}' : ']')) {
        return close_bracket(reader);
    }
    if (reader->expected == EXPECT_COMMA) {
        return fail(reader, reader->at, "no comma where one belongs");
    }
    return reader->expected != EXPECT_VALUE && open == '{' ? read_key(reader) : read_value(reader);
}

bool json_skip(json_reader_t *reader, json_token_t first)
{
    const size_t depth = reader->depth - 1; /* of what is opened, behind it */

    while (first == JSON_OPEN && reader->error == NULL && reader->depth > depth) {
        (void)json_next(reader);
    }
    return reader->error == NULL;
}
