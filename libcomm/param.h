/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters by table: one parser, one printer and one set of error messages for specs and the environment. A configuration
   holds INT as int64_t, REAL as double, WORD as int (its place in the list) and TEXT as const char *. */
#ifndef TACIT_PARAM_H
#define TACIT_PARAM_H

#include "internal.h"

/* Writes the defaults of params, which ends with a NULL key, into config. */
void tacit__param_defaults(const tacit_param_t *params, void *config);
/* Reads value[0..bytes) for one parameter. `owner` names the table in messages ("onebit"). A TEXT keeps the pointer `value`. */
tacit_status_t tacit__param_parse(const char *owner, const tacit_param_t *param, const char *value, size_t bytes, void *config);
/* The parameter called key[0..bytes), or NULL. */
const tacit_param_t *tacit__param_find(const tacit_param_t *params, const char *key, size_t bytes);
/* Writes the value in config as a spec spells it; returns its length. */
size_t tacit__param_print(const tacit_param_t *param, const void *config, char *text, size_t capacity);
/* How far two words are apart (Damerau-Levenshtein, case ignored); large where one is far too long. */
unsigned tacit__word_distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes);

#endif
