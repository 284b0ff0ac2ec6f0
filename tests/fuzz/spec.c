/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the spec grammar: what parses has a canonical form that parses to the same. */
#include "spec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char        *text = malloc(bytes + 1);
    tacit_spec_t spec = {0}, again = {0};

    memcpy(text, data, bytes);
    text[bytes] = '\0';
    if (tacit__spec_parse_any(text, &spec) == TACIT_OK &&
        (tacit__spec_parse_any(spec.canonical, &again) != TACIT_OK || strcmp(spec.canonical, again.canonical) != 0 ||
         spec.hash != again.hash || strcmp(spec.text, text) != 0)) {
        abort();
    }
    tacit__spec_release(&spec);
    tacit__spec_release(&again);
    free(text);
    return 0;
}
