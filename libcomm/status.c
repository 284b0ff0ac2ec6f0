/* SPDX-License-Identifier: Apache-2.0 */
/* Status texts, and what this thread's last failed call found. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[TACIT_TEXT_BYTES];

tacit_status_t tacit__fail(tacit_status_t status, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    tacit__log(TACIT_LOG_DEBUG, TACIT_NO_RANK, "%s: %s", tacit_strerror(status), last_error);
    return status;
}

tacit_status_t tacit__fail_text(tacit_status_t status, const char *text)
{
    if (text != last_error) {
        snprintf(last_error, sizeof last_error, "%s", text);
    }
    return status;
}

size_t tacit__difference(const char *one, const char *other, size_t room)
{
    size_t at = 0, word = 0;

    if (strlen(one) <= room && strlen(other) <= room) {
        return 0;
    }
    for (; one[at] != '\0' && one[at] == other[at]; at++) {
        word = strchr(",: ", one[at]) != NULL ? at + 1 : word;
    }
    return at - word < room / 2 ? word : at - room / 2;
}

tacit_status_t tacit__texts_agree(const char *what, const char *texts, size_t apart, int ranks)
{
    enum { SHOWN = 160 }; /* bytes of a text in the message */

    for (int rank = 1; rank < ranks; rank++) {
        const char  *text = texts + (size_t)rank * apart;
        const size_t from = tacit__difference(text, texts, SHOWN);
        const char  *dots = from != 0 ? "..." : "";

        if (strcmp(text, texts) != 0) {
            return tacit__fail(TACIT_ERR_MISMATCH, "%s: rank %d has '%s%.*s' where rank 0 has '%s%.*s'", what, rank, dots, SHOWN,
                               text + from, dots, SHOWN, texts + from);
        }
    }
    return TACIT_OK;
}

const char *tacit_last_error(void)
{
    return last_error;
}

const char *tacit_strerror(tacit_status_t status)
{
    switch (status) {
#define TACIT_STATUS_TEXT(name, value, text)                                                                                     \
    case TACIT_##name:                                                                                                           \
        return text;
        TACIT_STATUS_LIST(TACIT_STATUS_TEXT)
#undef TACIT_STATUS_TEXT
    }
    return "unknown status";
}

#define TEXT_OF(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *tacit_version(void)
{
    return VERSION_TEXT(TACIT_VERSION_MAJOR, TACIT_VERSION_MINOR, TACIT_VERSION_PATCH);
}
