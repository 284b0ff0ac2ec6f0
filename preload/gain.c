/* SPDX-License-Identifier: Apache-2.0 */
/* From the table of sites, and trials, to seconds. */
#include "gain.h"

#include <math.h>
#include <string.h>

/* ---- Sites ---- */

double preload_seconds_of(const preload_site_t *site)
{
    return 1e-9 * (double)atomic_load(&site->nanoseconds);
}

uint64_t preload_bytes_of(const preload_site_t *site)
{
    return site->key.count * site->key.type_bytes;
}

static double calls_of(const preload_site_t *site)
{
    return (double)atomic_load(&site->calls);
}

/* Fortran's REAL is a float32 in every program that MPI understands. */
static bool is_float32(const preload_key_t *key)
{
    return key->type_bytes == 4 &&
           (strcmp(key->type, "MPI_FLOAT") == 0 || strcmp(key->type, "MPI_REAL") == 0 || strcmp(key->type, "MPI_REAL4") == 0);
}

const char *preload_why_not(const preload_site_t *site)
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
    if (!preload_is_large(site)) {
        return "under 32 KiB";
    }
    return key->count > INT32_MAX ? "2^31 elements or more" : NULL;
}

void preload_choose(size_t numbers_out[PRELOAD_SITES], uint64_t counts_out[PRELOAD_SITES])
{
    const preload_site_t *chosen[PRELOAD_SITES] = {NULL}, *site;

    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        int place = PRELOAD_SITES;

        if (!site->key.group->whole || preload_why_not(site) != NULL || atomic_load(&site->calls) == 0 ||
            atomic_load(&site->taken) != 0) {
            continue;
        }
        while (place > 0 && (chosen[place - 1] == NULL || preload_seconds_of(chosen[place - 1]) < preload_seconds_of(site))) {
            place--;
        }
        for (int i = PRELOAD_SITES - 1; i > place; i--) {
            chosen[i] = chosen[i - 1];
        }
        if (place < PRELOAD_SITES) {
            chosen[place] = site;
        }
    }
    for (int i = 0; i < PRELOAD_SITES; i++) {
        numbers_out[i] = chosen[i] != NULL ? chosen[i]->number : 0;
        counts_out[i] = chosen[i] != NULL ? chosen[i]->key.count : 0;
    }
}

/* ---- Seconds ---- */

double preload_seconds_in_calls(void)
{
    const preload_site_t *site;
    double                seconds = 0.0;

    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        seconds += preload_waits(site) ? preload_seconds_of(site) : 0.0;
    }
    return seconds;
}

/* How much longer calls took in the run than in trials: those of MPI's own, all together, with what ranks that left them early
   waited behind them, and without what was waiting for ranks that came late, which would come as late with any spec. Whatever it
   is, a busy processor or a busy link, it is the same with specs. */
static double slowdown(const size_t numbers[PRELOAD_SITES], preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED],
                       double waited)
{
    double had = 0.0, counted = 0.0;

    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        const preload_site_t *site = preload_site_at(numbers[i] - 1);

        if (measured[i][0].trials == 0) {
            continue;
        }
        had += preload_seconds_of(site) + 1e-9 * (double)atomic_load(&site->behind);
        counted += calls_of(site) * measured[i][0].seconds;
    }
    return counted > 0.0 ? had * fmax(0.0, 1.0 - waited / preload_seconds_in_calls()) / counted : 1.0;
}

/* The part of the calls that is compressed: sums of floats stay exact until two steps, and 16 sums, were alike. A step is taken
   to have one of those that come least often. */
static double part_of_calls(const size_t numbers[PRELOAD_SITES])
{
    const preload_site_t *site;
    double                steps = 0.0, sums = 0.0;

    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        const double calls = calls_of(preload_site_at(numbers[i] - 1));

        steps = steps == 0.0 || calls < steps ? calls : steps;
    }
    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        sums += preload_waits(site) && is_float32(&site->key) && strcmp(site->key.op, "MPI_SUM") == 0 ? calls_of(site) : 0.0;
    }
    return fmax(0.0, 1.0 - fmax(2.0 / steps, 16.0 / sums));
}

void preload_gain(const size_t numbers[PRELOAD_SITES], preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED], double waited,
                  double run, preload_gain_t *gain_out)
{
    const double   slower = slowdown(numbers, measured, waited), part = part_of_calls(numbers);
    preload_gain_t gain = {0};

    for (int i = 0; i < PRELOAD_SITES && numbers[i] != 0; i++) {
        const double calls = part * calls_of(preload_site_at(numbers[i] - 1));

        for (int j = 1; j < PRELOAD_TRIED && measured[i][0].trials > 0; j++) {
            if (measured[i][j].trials > 0) {
                gain.saved[i][j] = calls * slower * (measured[i][0].seconds - measured[i][j].seconds);
                gain.total[j] += fmax(0.0, gain.saved[i][j]);
            }
        }
    }
    for (int j = 1; j < PRELOAD_TRIED; j++) {
        gain.best = gain.total[j] > gain.total[gain.best] ? j : gain.best;
    }
    gain.best = run > 1.01 * (run - gain.total[gain.best]) ? gain.best : 0;
    *gain_out = gain;
}
