/* SPDX-License-Identifier: Apache-2.0 */
/* Prints JSON on standard output: one object a line, nothing that is not a number where a number belongs. */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>

typedef struct json {
    bool more; /* a comma comes before the next member */
} json_t;

/* '{' or '[' with its key, which is NULL at the top and inside an array; close() prints the other end. */
void json_open(json_t *json, const char *key, char bracket);
void json_close(json_t *json, char bracket);
/* Ends the line. */
void json_end(json_t *json);
/* Members; key NULL inside an array. */
void json_text(json_t *json, const char *key, const char *text);
void json_count(json_t *json, const char *key, uint64_t value);
void json_flag(json_t *json, const char *key, bool value);
/* null where the value is NaN or infinite: not measured, or not to be had. */
void json_number(json_t *json, const char *key, double value);

#endif
