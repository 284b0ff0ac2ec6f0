/* SPDX-License-Identifier: Apache-2.0 */
/* Specs: the string that names a compressor, its parameters and its feedback. The grammar stands in doc/concepts.md. */
#ifndef TACIT_SPEC_H
#define TACIT_SPEC_H

#include "compressor.h"
#include "feedback.h"
#include "internal.h"

enum { TACIT_SPEC_BYTES = 512 };

typedef struct tacit_spec {
    const tacit_compressor_t *compressor;
    const tacit_feedback_t   *feedback; /* NULL: none */
    void                     *compressor_config, *feedback_config;
    bool                      automatic;                   /* "auto" */
    char                      text[TACIT_SPEC_BYTES];      /* as given */
    char                      canonical[TACIT_SPEC_BYTES]; /* every parameter spelled out */
    uint64_t                  hash;                        /* of canonical: equal specs, equal hashes */
} tacit_spec_t;

/* Fills *spec_out, which holds nothing before. */
tacit_status_t tacit__spec_parse(const char *text, tacit_spec_t *spec_out);
/* The same for a tensor that its feedback leaves dense (feedback.h): text is `none` with the feedback. */
tacit_status_t tacit__spec_parse_effective(const char *text, bool dense, tacit_spec_t *spec_out);
/* Writes the spec with another value for one of its compressor's parameters. */
tacit_status_t tacit__spec_replace(const char *text, const char *key, const char *value, char *out, size_t capacity);
/* Accepts an empty (zeroed) spec. */
void tacit__spec_release(tacit_spec_t *spec);

#endif
