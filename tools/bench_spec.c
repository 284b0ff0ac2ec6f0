/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench: what can be told from a spec alone. */
#include <math.h>
#include <string.h>

#include "bench.h"

/* True if the word that begins at text and ends where a spec's words end is `word`. */
static bool is_word(const char *text, const char *word)
{
    size_t bytes = strcspn(text, ":+");

    return bytes == strlen(word) && strncmp(text, word, bytes) == 0;
}

/* float32 arrays that a feedback must read and write: while encoding, and while making the result. */
static double arrays(const char *spec, size_t pass)
{
    static const struct {
        const char *name;
        double      arrays[2];
    } feedbacks[] = {{"ef", {1, 0}}, {"dgc", {2, 0}}, {"ef21", {1, 1}}, {"econtrol", {2, 1}}};
    const char *feedback = strchr(spec, '+');

    for (size_t i = 0; feedback != NULL && i < sizeof feedbacks / sizeof *feedbacks; i++) {
        if (is_word(feedback + 1, feedbacks[i].name)) {
            return feedbacks[i].arrays[pass];
        }
    }
    return feedback == NULL ? 0 : NAN;
}

double bench_encode_traffic(const char *spec)
{
    return 2 * sizeof(float) * arrays(spec, 0);
}

double bench_result_traffic(const char *spec)
{
    return 2 * sizeof(float) * arrays(spec, 1);
}

tacit_slot_config_t bench_tensor(const char *spec, size_t count)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    size_t              rows = (size_t)sqrt((double)count);

    while (rows > 1 && count % rows != 0) {
        rows--;
    }
    tensor.count = count;
    tensor.spec = spec;
    if (rows > 1) {
        tensor.ndim = 2;
        tensor.shape[0] = rows;
        tensor.shape[1] = count / rows;
    }
    return tensor;
}
