/* SPDX-License-Identifier: Apache-2.0 */
/* The report at the end of the run: rank 0's sites, and what specs would have saved. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "deliver.h"
#include "mpi_library.h"
#include "predict.h"
#include "sites.h"

/* Below, a call takes so little time that nothing is won. */
enum { LEAST_BYTES = 32 << 10 };

static double seconds_of(const preload_site_t *site)
{
    return 1e-9 * (double)atomic_load(&site->nanoseconds);
}

static uint64_t bytes_of(const preload_site_t *site)
{
    return site->key.count * site->key.type_bytes;
}

/* Fortran's REAL is a float32 in every program that MPI understands. */
static bool is_float32(const preload_key_t *key)
{
    return key->type_bytes == 4 &&
           (strcmp(key->type, "MPI_FLOAT") == 0 || strcmp(key->type, "MPI_REAL") == 0 || strcmp(key->type, "MPI_REAL4") == 0);
}

/* Why Tacit could not take a site's place; NULL: it could. */
static const char *why_not(const preload_site_t *site)
{
    const preload_key_t *key = &site->key;

    if (key->function != preload_allreduce) {
        return "not blocking";
    }
    if (!is_float32(key)) {
        return "not float32";
    }
    if (strcmp(key->op, "MPI_SUM") != 0) {
        return "not a sum";
    }
    if (key->group->inter) {
        return "an intercommunicator";
    }
    if (key->group->ranks < 2) {
        return "one rank";
    }
    if (bytes_of(site) < LEAST_BYTES) {
        return "under 32 KiB";
    }
    return key->count > INT32_MAX ? "2^31 elements or more" : NULL;
}

/* The numbers of the sites to predict for, which Tacit has not taken, the most time first; 0: none. */
static void choose(size_t numbers[PRELOAD_SITES], uint64_t counts[PRELOAD_SITES])
{
    const preload_site_t *chosen[PRELOAD_SITES] = {NULL}, *site;

    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        int place = PRELOAD_SITES;

        if (!site->key.group->whole || why_not(site) != NULL || atomic_load(&site->calls) == 0 ||
            atomic_load(&site->taken) != 0) {
            continue;
        }
        while (place > 0 && (chosen[place - 1] == NULL || seconds_of(chosen[place - 1]) < seconds_of(site))) {
            place--;
        }
        for (int i = PRELOAD_SITES - 1; i > place; i--) {
            chosen[i] = chosen[i - 1];
            numbers[i] = numbers[i - 1];
            counts[i] = counts[i - 1];
        }
        if (place < PRELOAD_SITES) {
            chosen[place] = site;
            numbers[place] = index + 1;
            counts[place] = site->key.count;
        }
    }
}

static void print_site(FILE *out, size_t number, const preload_site_t *site, double run)
{
    const preload_key_t *key = &site->key;
    const char          *reason = why_not(site);
    char                 comm[32];

    snprintf(comm, sizeof comm, key->group->name != NULL ? "%u (%s)" : "%u", key->group->number, key->group->name);
    fprintf(out, "%4zu  %-14s %-10s %5d  %-22s %-10s %10" PRIu64 " %8" PRIu64 " %11" PRIu64 " %10.4f %5.1f %%  %s%s\n", number,
            key->function, comm, key->group->ranks, key->type, key->op, key->count, atomic_load(&site->calls), bytes_of(site),
            seconds_of(site), 100.0 * seconds_of(site) / run, reason != NULL ? "no: " : "yes", reason != NULL ? reason : "");
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

static void print_table(FILE *out, int ranks, double run)
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
    if (preload_lost() != 0) {
        fprintf(out, "\n%" PRIu64 " more calls belong to sites for which there was no room.\n", preload_lost());
    }
}

/* What a spec saves in the whole run, at the sites where it saves something. */
typedef struct total {
    double saved;
    char   rules[PRELOAD_SITES * 64]; /* for tacit-run */
} total_t;

static void print_run(FILE *out, const char *before, double saved, double run)
{
    fprintf(out, "%s %+12.3f %12.3f %9.2f\n", before, saved, run - saved, run / (run - saved));
}

static double calls_of(const preload_site_t *site)
{
    return (double)atomic_load(&site->calls);
}

/* Sums that wait for each other, over all ranks. */
static bool is_counted(const preload_site_t *site)
{
    return site->key.function == preload_allreduce && site->key.group->whole;
}

static double seconds_in_sums(void)
{
    const preload_site_t *site;
    double                seconds = 0.0;

    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        seconds += is_counted(site) ? seconds_of(site) : 0.0;
    }
    return seconds;
}

/* How much calls of MPI's own count, so that all together count for what they took in the run; `least` of it on the rank that
   waited least for others. Ranks that leave a large sum early wait in the next small one: such are added. */
static double native_scale(const size_t numbers[PRELOAD_SITES], preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED],
                           double least)
{
    const preload_site_t *site;
    double                had = 0.0, counted = 0.0;

    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        had += seconds_of(preload_site_at(numbers[i] - 1));
        counted += calls_of(preload_site_at(numbers[i] - 1)) * measured[i][0].seconds;
    }
    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        had += is_counted(site) && bytes_of(site) < LEAST_BYTES ? seconds_of(site) : 0.0;
    }
    return counted > 0.0 ? had * least / seconds_in_sums() / counted : 1.0;
}

/* The part of the calls that is compressed: sums of floats stay exact until two steps, and 16 sums, were alike. A step is taken
   to have one of those that come least often. */
static double part_of_calls(const size_t numbers[PRELOAD_SITES])
{
    const preload_site_t *site;
    double                steps = 0.0, sums = 0.0, exact;

    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        const double calls = calls_of(preload_site_at(numbers[i] - 1));

        steps = steps == 0.0 || calls < steps ? calls : steps;
    }
    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        sums += is_counted(site) && is_float32(&site->key) && strcmp(site->key.op, "MPI_SUM") == 0 ? calls_of(site) : 0.0;
    }
    exact = fmax(2.0 * sums, 16.0 * steps); /* sums times steps */
    return exact < sums * steps ? 1.0 - exact / (sums * steps) : 0.0;
}

/* A call of MPI's own takes `native`, and `part` of them are compressed. */
static void print_prediction(FILE *out, size_t number, const preload_measured_t measured[PRELOAD_TRIED], double native,
                             double part, double run, total_t totals[PRELOAD_TRIED])
{
    const preload_site_t *site = preload_site_at(number - 1);

    fprintf(out, "\nSite %zu, measured after the run on all ranks with %" PRIu64 " float32 of scratch memory:\n\n", number,
            site->key.count);
    fprintf(out, "      %-20s %6s %12s %12s %12s %9s\n", "by", "trials", "ms a call", "saves s", "run then s", "speed-up");
    for (int i = 0; i < PRELOAD_TRIED; i++) {
        const double saved = part * calls_of(site) * (native - measured[i].seconds);
        const size_t length = strlen(totals[i].rules);
        char         before[64];

        snprintf(before, sizeof before, "      %-20s %6d %12.3f", preload_tried[i], measured[i].trials,
                 1e3 * measured[i].seconds);
        if (i == 0) {
            fprintf(out, "%s\n", before);
        } else if (measured[i].trials > 0) {
            print_run(out, before, saved, run);
        }
        if (i != 0 && measured[i].trials > 0 && saved > 0.0) {
            totals[i].saved += saved;
            snprintf(totals[i].rules + length, sizeof totals[i].rules - length, " --rule site=%zu:%s", number, preload_tried[i]);
        }
    }
}

/* Returns the best one's place; 0: none is faster by one part in a hundred. */
static int print_totals(FILE *out, double run, const total_t totals[PRELOAD_TRIED])
{
    int best = 0;

    fprintf(out, "\nAll of these sites, each where it saves something:\n\n");
    for (int i = 1; i < PRELOAD_TRIED; i++) {
        char before[64];

        snprintf(before, sizeof before, "      %-40s", preload_tried[i]);
        print_run(out, before, totals[i].saved, run);
        best = totals[i].saved > totals[best].saved ? i : best;
    }
    return run > 1.01 * (run - totals[best].saved) ? best : 0;
}

static void print_predictions(FILE *out, const size_t numbers[PRELOAD_SITES],
                              preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED], double least, double run,
                              const char *why)
{
    const double scale = native_scale(numbers, measured, least);
    total_t      totals[PRELOAD_TRIED] = {0};
    bool         any = false;
    int          best;

    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        if (measured[i][0].trials > 0) {
            print_prediction(out, numbers[i], measured[i], scale * measured[i][0].seconds, part_of_calls(numbers), run, totals);
            any = true;
        }
    }
    best = any ? print_totals(out, run, totals) : 0;
    if (why[0] != '\0') {
        fprintf(out, "\n%s: %s.\n", any ? "Not all of it was measured" : "Nothing was measured", why);
    } else if (!any) {
        fprintf(out,
                "\nNo site is left to be compressed whose ranks are those of MPI_COMM_WORLD, so that nothing was measured.\n");
    }
    if (best != 0) {
        fprintf(out, "\nBest of these: '%s', %.2f times as fast a run, if its results may be inexact:\n\n    tacit-run%s\n",
                preload_tried[best], run / (run - totals[best].saved), totals[best].rules);
    } else if (any) {
        fprintf(out, "\nNone of these would make this run faster here by one part in a hundred.\n");
    }
}

static void report(const preload_mpi_t *mpi)
{
    const double       run = preload_run_seconds();
    double             least = seconds_in_sums();
    size_t             numbers[PRELOAD_SITES] = {0}, bytes = 0;
    uint64_t           counts[PRELOAD_SITES] = {0};
    preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED] = {0};
    char               why[256] = "", *text = NULL;
    const int          rank = mpi->rank(mpi->world());
    preload_group_t    world = {.ranks = 1};
    FILE              *out;

    mpi->describe_comm(mpi->world(), &world);
    if (rank == 0) {
        choose(numbers, counts);
    }
    if (world.ranks > 1) {
        preload_predict(mpi, counts, &least, measured, why);
    }
    out = rank == 0 ? open_memstream(&text, &bytes) : NULL;
    if (out != NULL) {
        print_table(out, world.ranks, run);
        print_predictions(out, numbers, measured, least, run, why);
        fclose(out);
        preload_deliver(text, bytes);
        free(text);
    }
}

void preload_finish(void)
{
    static atomic_flag   finished = ATOMIC_FLAG_INIT;
    const preload_mpi_t *mpi = preload_mpi();

    if (mpi != NULL && !atomic_flag_test_and_set(&finished)) {
        (void)preload_enter(); /* what is called here is not the program's */
        preload_stop();
        report(mpi);
        preload_leave(0, NULL, false);
    }
}
