/* SPDX-License-Identifier: Apache-2.0 */
/* Reads JSON, a token at a time, from memory. Whatever the bytes are, it ends with JSON_END or JSON_ERROR. */
#ifndef TOOLS_JSON_READER_H
#define TOOLS_JSON_READER_H

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    JSON_OPEN,   /* text[at]: '{' or '[' */
    JSON_CLOSE,  /* '}' or ']' */
    JSON_KEY,    /* in string; its value is the next token */
    JSON_STRING, /* in string */
    JSON_NUMBER, /* in number */
    JSON_WORD,   /* true, false or null */
    JSON_END,    /* of a whole document */
    JSON_ERROR   /* what is at text[at]; see error */
} json_token_t;

enum { JSON_DEPTH = 32, JSON_STRING_BYTES = 512 };

typedef struct json_reader {
    const char *text;
    size_t      bytes;
    size_t      at;   /* where the last token began */
    size_t      next; /* behind it */
    size_t      depth;
    char        open[JSON_DEPTH]; /* brackets */
    int         expected;         /* a json_expected_t */
    char        string[JSON_STRING_BYTES];
    double      number;
    const char *error; /* "a value is missing" */
} json_reader_t;

/* text: bytes of it, and one more that is 0. */
json_reader_t json_reader(const char *text, size_t bytes);
/* Strings of more than JSON_STRING_BYTES - 1 bytes are cut; of characters that are escaped those below U+0100 become a byte, as
   the library writes whatever bytes a name has, and others a question mark. Nesting above JSON_DEPTH is an error. After JSON_END
   and JSON_ERROR the same comes again. */
json_token_t json_next(json_reader_t *reader);
/* Goes on behind a value whose first token was this. False at an error. */
bool json_skip(json_reader_t *reader, json_token_t first);

#endif
