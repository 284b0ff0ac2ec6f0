/* SPDX-License-Identifier: Apache-2.0 */
/* Prints JSON. */
#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static void print_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static void print_key(json_t *json, const char *key)
{
    if (json->more) {
        putchar(',');
    }
    json->more = true;
    if (key != NULL) {
        print_string(key);
        putchar(':');
    }
}

void json_open(json_t *json, const char *key, char bracket)
{
    print_key(json, key);
    putchar(bracket);
    json->more = false;
}

void json_close(json_t *json, char bracket)
{
    putchar(bracket);
    json->more = true;
}

void json_end(json_t *json)
{
    putchar('\n');
    fflush(stdout);
    json->more = false;
}

void json_text(json_t *json, const char *key, const char *text)
{
    print_key(json, key);
    print_string(text);
}

void json_count(json_t *json, const char *key, uint64_t value)
{
    print_key(json, key);
    printf("%" PRIu64, value);
}

void json_flag(json_t *json, const char *key, bool value)
{
    print_key(json, key);
    fputs(value ? "true" : "false", stdout);
}

void json_number(json_t *json, const char *key, double value)
{
    print_key(json, key);
    if (isfinite(value)) {
        printf("%.9g", value);
    } else {
        fputs("null", stdout);
    }
}
