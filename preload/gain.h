/* SPDX-License-Identifier: Apache-2.0 */
/* What specs would have saved in the whole run: arithmetic alone, with what calls took in it and in the trials behind it. */
#ifndef PRELOAD_GAIN_H
#define PRELOAD_GAIN_H

#include "predict.h"

typedef struct preload_gain {
    double saved[PRELOAD_SITES][PRELOAD_TRIED]; /* seconds, which may be less than none; 0: it was not measured */
    double total[PRELOAD_TRIED];                /* of the sites where the spec saves something */
    int    best;                                /* of these; 0: none makes the run faster by one part in a hundred */
} preload_gain_t;

double   preload_seconds_of(const preload_site_t *site);
uint64_t preload_bytes_of(const preload_site_t *site);

/* Why Tacit could not take a site's place; NULL: it could. */
const char *preload_why_not(const preload_site_t *site);
/* The numbers and the counts of the sites to predict for, which Tacit has not taken, the most time first; 0: none. */
void preload_choose(size_t numbers_out[PRELOAD_SITES], uint64_t counts_out[PRELOAD_SITES]);
/* What this rank spent in calls that wait for each other, over all ranks. */
double preload_seconds_in_calls(void);
/* Of these sites, in a run of so many seconds. waited: of those in calls, for ranks that came late. */
void preload_gain(const size_t numbers[PRELOAD_SITES], preload_measured_t measured[PRELOAD_SITES][PRELOAD_TRIED], double waited,
                  double run, preload_gain_t *gain_out);

#endif
