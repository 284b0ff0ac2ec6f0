/* SPDX-License-Identifier: Apache-2.0 */
/* Specs: the string that names a compressor, its parameters and its feedback. The grammar stands in doc/concepts.md. */
#ifndef TACIT_SPEC_H
#define TACIT_SPEC_H

#include "compressor.h"
#include "feedback.h"
#include "internal.h"

enum { TACIT_SPEC_BYTES = 512, TACIT_REASON_BYTES = 256 };

typedef struct tacit_spec {
    const tacit_compressor_t *compressor;
    const tacit_feedback_t   *feedback; /* NULL: none */
    void                     *compressor_config, *feedback_config;
    bool                      automatic; /* "auto", whose compressor is `none` here, whatever tensors get (automatic.h); … */
    double                    error;     /* … within this error */
    char                      text[TACIT_SPEC_BYTES];      /* as given */
    char                      canonical[TACIT_SPEC_BYTES]; /* every parameter spelled out */
    uint64_t                  hash;                        /* of canonical but for residual=: equal frames, equal hashes */
} tacit_spec_t;

/* Those of "auto"; its configuration is a double. */
extern const tacit_param_t tacit__automatic_params[];

/* Fills *spec_out, which holds nothing before. Specs of slots: those for tokens are refused. */
tacit_status_t tacit__spec_parse(const char *text, tacit_spec_t *spec_out);
/* Checks one. */
tacit_status_t tacit__spec_check_slot(const char *text);
/* The same, and those for tokens. */
tacit_status_t tacit__spec_parse_any(const char *text, tacit_spec_t *spec_out);
/* As tacit__spec_parse(), for a tensor that its feedback leaves dense (feedback.h): text is `none` with the feedback. */
tacit_status_t tacit__spec_parse_effective(const char *text, bool dense, tacit_spec_t *spec_out);
/* Writes the spec with another value for one of its compressor's parameters. */
tacit_status_t tacit__spec_replace(const char *text, const char *key, const char *value, char *out, size_t capacity);
/* Parts of the grammar, for other words with parameters. Where the parser stands: */
typedef struct tacit_cursor {
    const char *at;
} tacit_cursor_t;
/* Bytes of the word that text begins with. */
size_t tacit__spec_word(const char *text);
/* [ ":" key "=" value { "," key "=" value } ]; `owner` names the table in messages. */
tacit_status_t tacit__spec_params(tacit_cursor_t *cursor, const char *owner, const tacit_param_t *params, void *config);
/* Appends the same to text, every parameter spelled out. */
void tacit__spec_print(const tacit_param_t *params, const void *config, char *text, size_t capacity);
/* TACIT_ERR_SPEC with the nearest right word and all others; `what` names the kind in the message. */
tacit_status_t tacit__spec_unknown(tacit_kind_t kind, const char *what, const char *word, size_t bytes);

/* Accepts an empty (zeroed) spec. */
void tacit__spec_release(tacit_spec_t *spec);

#endif
