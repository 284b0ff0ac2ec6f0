/* SPDX-License-Identifier: Apache-2.0 */
/* The report at the end of the run: rank 0's sites, and what specs would have saved. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "deliver.h"
#include "gain.h"
#include "mpi_library.h"
#include "next.h"

static void print_site(FILE *out, size_t number, const preload_site_t *site, double run)
{
    const preload_key_t *key = &site->key;
    const char          *reason = preload_why_not(site);
    char                 comm[32];

    snprintf(comm, sizeof comm, key->group->name != NULL ? "%u (%s)" : "%u", key->group->number, key->group->name);
    fprintf(out, "%4zu  %-14s %-10s %5d  %-22s %-10s %10" PRIu64 " %8" PRIu64 " %11" PRIu64 " %10.4f %5.1f %%  %s%s\n", number,
            key->function, comm, key->group->ranks, key->type, key->op, key->count, atomic_load(&site->calls),
            preload_bytes_of(site), preload_seconds_of(site), 100.0 * preload_seconds_of(site) / run,
            reason != NULL ? "no: " : "yes", reason != NULL ? reason : "");
}

static void print_taken(FILE *out, const preload_site_t *site)
{
    const char *spec = atomic_load(&site->spec);

    if (spec != NULL) {
        fprintf(out,
                "\nSite %zu: %" PRIu64 " of %" PRIu64 " calls were reduced by '%s', as %" PRIu64
                " tensors of a step, of which a norm "
                "of %.3g was never sent.\n",
                site->number, atomic_load(&site->taken), atomic_load(&site->calls), spec, atomic_load(&site->slots),
                sqrt(site->kept));
    }
}

/* waited: less than 0 where it is not known. */
static void print_table(FILE *out, int ranks, double waited, double run)
{
    const preload_site_t *site;
    bool                  deferred = false;

    fprintf(out, "Tacit: all-reduces of rank 0 of %d, which ran for %.3f s until MPI_Finalize()\n\n", ranks, run);
    fprintf(out, "%4s  %-14s %-10s %5s  %-22s %-10s %10s %8s %11s %10s %7s  %s\n", "site", "function", "comm", "ranks", "type",
            "op", "count", "calls", "bytes/call", "seconds", "of run", "could be compressed");
    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        print_site(out, index + 1, site, run);
        deferred = deferred || site->key.function == preload_iallreduce;
    }
    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        print_taken(out, site);
    }
    if (deferred) {
        fprintf(out, "\nOf MPI_Iallreduce, the time is that of the call alone, without the waiting for its end.\n");
    }
    if (waited >= 0.0) {
        fprintf(out, "\nOf %.4f s in blocking calls over all ranks, %.4f s were waiting for ranks that came late.\n",
                preload_seconds_in_calls(), waited);
    }
    if (preload_lost() != 0) {
        fprintf(out, "\n%" PRIu64 " more calls belong to sites for which there was no room.\n", preload_lost());
    }
}

static void print_run(FILE *out, const char *before, double saved, double run)
{
    fprintf(out, "%s %+12.3f %12.3f %9.2f\n", before, saved, run - saved, run / (run - saved));
}

/* Of one of the sites. */
static void print_prediction(FILE *out, size_t number, const preload_measured_t measured[PRELOAD_TRIED],
                             const double saved[PRELOAD_TRIED], double run)
{
    fprintf(out, "\nSite %zu, measured after the run on all ranks with %" PRIu64 " float32 of scratch memory:\n\n", number,
            preload_site_at(number - 1)->key.count);
    fprintf(out, "      %-20s %6s %12s %12s %12s %9s\n", "by", "trials", "ms a call", "saves s", "run then s", "speed-up");
    for (int i = 0; i < PRELOAD_TRIED; i++) {
        char before[64];

        snprintf(before, sizeof before, "      %-20s %6d %12.3f", preload_tried[i], measured[i].trials,
                 1e3 * measured[i].seconds);
        if (i == 0) {
            fprintf(out, "%s\n", before);
        } else if (measured[i].trials > 0) {
            print_run(out, before, saved[i], run);
        }
    }
}

static void print_totals(FILE *out, const double totals[PRELOAD_TRIED], double run)
{
    fprintf(out, "\nAll of these sites, each where it saves something:\n\n");
    for (int i = 1; i < PRELOAD_TRIED; i++) {
        char before[64];

        snprintf(before, sizeof before, "      %-40s", preload_tried[i]);
        print_run(out, before, totals[i], run);
    }
}

/* With what asks for it. */
static void print_best(FILE *out, const size_t numbers[PRELOAD_SITES], const preload_gain_t *gain, double run)
{
    const char *best = preload_tried[gain->best];

    fprintf(out, "\nBest of these: '%s', %.2f times as fast a run, if its results may be inexact:\n\n    tacit-run", best,
            run / (run - gain->total[gain->best]));
    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        if (gain->saved[i][gain->best] > 0.0) {
            fprintf(out, " --rule site=%zu:%s", numbers[i], best);
        }
    }
    fputc('\n', out);
}

static void print_predictions(FILE *out, const size_t numbers[PRELOAD_SITES],
                              preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED], double waited, double run,
                              const char *why)
{
    preload_gain_t gain;
    bool           any = false;

    preload_gain(numbers, measured, fmax(0.0, waited), run, &gain);
    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        if (measured[i][0].trials > 0) {
            print_prediction(out, numbers[i], measured[i], gain.saved[i], run);
            any = true;
        }
    }
    if (any) {
        print_totals(out, gain.total, run);
    }
    if (why[0] != '\0') {
        fprintf(out, "\n%s: %s.\n", any ? "Not all of it was measured" : "Nothing was measured", why);
    } else if (!any) {
        fprintf(out,
                "\nNo site is left to be compressed whose ranks are those of MPI_COMM_WORLD, so that nothing was measured.\n");
    }
    if (gain.best != 0) {
        print_best(out, numbers, &gain, run);
    } else if (any) {
        fprintf(out, "\nNone of these would make this run faster here by one part in a hundred.\n");
    }
}

static void report(const preload_mpi_t *mpi)
{
    const double       run = preload_run_seconds();
    double             waited = -1.0;
    size_t             numbers[PRELOAD_SITES] = {0}, bytes = 0;
    uint64_t           counts[PRELOAD_SITES] = {0};
    preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED] = {0};
    char               why[256] = "", *text = NULL;
    const int          rank = mpi->rank(mpi->world());
    preload_group_t    world = {.ranks = 1};
    FILE              *out;

    mpi->describe_comm(mpi->world(), &world);
    if (rank == 0) {
        preload_choose(numbers, counts);
    }
    if (world.ranks > 1) {
        preload_predict(mpi, counts, &waited, measured, why);
    }
    out = rank == 0 ? open_memstream(&text, &bytes) : NULL;
    if (out != NULL) {
        print_table(out, world.ranks, waited, run);
        print_predictions(out, numbers, measured, waited, run, why);
        fclose(out);
        preload_deliver(text, bytes);
        free(text);
    }
}

void preload_finish(void)
{
    static atomic_flag   finished = ATOMIC_FLAG_INIT;
    const preload_mpi_t *mpi = preload_mpi();
    preload_entry_t      entry;

    if (mpi != NULL && !atomic_flag_test_and_set(&finished)) {
        preload_enter(&entry); /* what is called here is not the program's */
        preload_stop();
        report(mpi);
        (void)preload_leave(&entry, NULL, PRELOAD_NO_MPI);
    }
}
