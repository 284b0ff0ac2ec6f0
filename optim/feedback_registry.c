/* SPDX-License-Identifier: Apache-2.0 */
/* Every feedback of the build: the list in optim/Makefile.inc makes feedbacks.def. */
#include <string.h>

#include "feedback.h"

#define TACIT_MODULE(name) extern const tacit_feedback_t tacit__feedback_##name;
#include "feedbacks.def"
#undef TACIT_MODULE

static const tacit_feedback_t *const feedbacks[] = {
#define TACIT_MODULE(name) &tacit__feedback_##name,
#include "feedbacks.def"
#undef TACIT_MODULE
    NULL,
};

const tacit_feedback_t *tacit__feedback_at(size_t index)
{
    return index < sizeof feedbacks / sizeof feedbacks[0] - 1 ? feedbacks[index] : NULL;
}

const tacit_feedback_t *tacit__feedback_named(const char *name)
{
    for (size_t i = 0; feedbacks[i] != NULL; i++) {
        if (strcmp(feedbacks[i]->name, name) == 0) {
            return feedbacks[i];
        }
    }
    return NULL;
}
