/* SPDX-License-Identifier: Apache-2.0 */
/* One file for each kind of tensor, on these hosts, with these libraries. Its name is a hash of all that, which it also holds. */
#include "rates_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "state_file.h"

enum { PATH_BYTES = 1024, PLACE_BYTES = TACIT_STATE_TEXT_BYTES };
static const char   magic[TACIT_STATE_MAGIC_BYTES] = "TACITRAT";
static const double oldest = 30.0 * 24 * 3600; /* seconds: machines and networks change */

/* What the numbers depend on besides the kind. */
static void write_place(const tacit_comm_t *comm, char place[PLACE_BYTES])
{
    uint64_t hash = TACIT_HASH_START;

    for (int rank = 0; rank < comm->ranks; rank++) {
        const char *line = comm->topology->lines + (size_t)rank * TACIT_PLACE_BYTES;

        hash = tacit__hash(hash, line, strlen(line) + 1);
    }
    snprintf(place, PLACE_BYTES, "Tacit %s, %s %.200s, %s, chunks of %zu, %d ranks at %016" PRIx64, tacit_version(),
             comm->transport.name, comm->transport.build != NULL ? comm->transport.build : "", tacit_isa(),
             comm->config.chunk_bytes, comm->ranks, hash);
}

/* False: there is no folder for it. It is made where `make`. */
static bool find_path(const tacit_comm_t *comm, const tacit_curves_t *curves, bool make, char path[PATH_BYTES])
{
    const char *given = comm->environment.cache, *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char        place[PLACE_BYTES], folder[PATH_BYTES / 2];
    int         used;

    if (given != NULL) {
        used = snprintf(folder, sizeof folder, "%s", strcmp(given, "off") != 0 ? given : "");
    } else if (cache != NULL && cache[0] == '/') {
        used = snprintf(folder, sizeof folder, "%s/tacit", cache);
    } else {
        used = snprintf(folder, sizeof folder, "%s%s", home != NULL ? home : "", home != NULL ? "/.cache/tacit" : "");
    }
    if (used <= 0 || (size_t)used >= sizeof folder) {
        return false;
    }
    if (make && mkdir(folder, 0777) != 0 && errno == ENOENT) { /* the one above may not be there yet */
        char *slash = strrchr(folder, '/');

        if (slash != NULL && slash != folder) {
            *slash = '\0';
            (void)mkdir(folder, 0777);
            *slash = '/';
            (void)mkdir(folder, 0777);
        }
    }
    write_place(comm, place);
    snprintf(path, PATH_BYTES, "%s/%016" PRIx64 ".rates", folder, tacit__hash_text(place) ^ tacit__hash_text(curves->key) << 1);
    return true;
}

/* ---- Reading ---- */

static tacit_status_t read_curves(tacit_reader_t *reader, const char *place, tacit_curves_t *curves)
{
    tacit_status_t status;
    tacit_curves_t found = *curves;
    uint64_t       known, whole, count;
    char           name[TACIT_STATE_TEXT_BYTES];
    const void    *values;

    TRY(tacit__expect_text(reader, "", "place", place));
    TRY(tacit__expect_text(reader, "", "kind", curves->key));
    TRY(tacit__get_number(reader, &known));
    TRY(tacit__get_number(reader, &whole));
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        TRY(tacit__get_array(reader, name, &values, &count));
        if (known > TACIT_SIZES || count != 3 * known || strcmp(name, tacit__schedule_at(way)->name) != 0) {
            return tacit__state_damaged(reader, "its schedules are others");
        }
        memcpy(found.times[way], values, known * sizeof *found.times[way]);
        for (size_t size = 0; size < known; size++) {
            const tacit_times_t times = found.times[way][size];

            if (!(times.least >= 0) || !(times.usual >= times.least) || !(times.mean >= times.least) ||
                !isfinite(times.usual + times.mean)) {
                return tacit__state_damaged(reader, "a time is not one");
            }
        }
    }
    TRY(tacit__state_end(reader));
    found.known = known;
    found.whole = whole != 0;
    *curves = found;
out:
    return status;
}

void tacit__rates_load(const tacit_comm_t *comm, tacit_curves_t *curves)
{
    tacit_reader_t reader = {0};
    char           path[PATH_BYTES], place[PLACE_BYTES];
    struct stat    present;
    tacit_status_t status;

    if (!find_path(comm, curves, false, path) || stat(path, &present) != 0 || difftime(time(NULL), present.st_mtime) > oldest) {
        return;
    }
    write_place(comm, place);
    status = tacit__state_open(&reader, comm->rank, comm->ranks, path, magic);
    if (status == TACIT_OK) {
        status = read_curves(&reader, place, curves);
    }
    tacit__state_close(&reader);
    if (status != TACIT_OK) {
        tacit__log(TACIT_LOG_DEBUG, comm->rank, "cost: '%s' is passed over: %s", path, tacit_last_error());
    }
}

/* ---- Writing ---- */

typedef struct tacit_rates {
    const tacit_comm_t   *comm;
    const tacit_curves_t *curves;
} tacit_rates_t;

static void put_curves(tacit_writer_t *writer, const void *state)
{
    const tacit_rates_t  *rates = state;
    const tacit_curves_t *curves = rates->curves;
    char                  place[PLACE_BYTES];

    write_place(rates->comm, place);
    tacit__put_text(writer, place);
    tacit__put_text(writer, curves->key);
    tacit__put_number(writer, curves->known);
    tacit__put_number(writer, curves->whole);
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        tacit__put_array(writer, tacit__schedule_at(way)->name, &curves->times[way][0].usual, 3 * curves->known);
    }
}

void tacit__rates_save(const tacit_comm_t *comm, const tacit_curves_t *curves)
{
    const tacit_rates_t rates = {comm, curves};
    char                path[PATH_BYTES];

    if (find_path(comm, curves, true, path) &&
        tacit__state_write(comm->rank, comm->ranks, path, magic, put_curves, &rates) != TACIT_OK) {
        tacit__log(TACIT_LOG_DEBUG, comm->rank, "cost: what was measured is not kept: %s", tacit_last_error());
    }
}
