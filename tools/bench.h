/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of tacit-bench share: its command line, its data and its statistics. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tacit.h>

#include "json.h"

enum { BENCH_SPECS = 64, BENCH_SIZES = 64, BENCH_SCHEDULES = 16 };

typedef struct bench_options {
    const char *specs[BENCH_SPECS];
    size_t      spec_count; /* at least 1 */
    size_t      bytes[BENCH_SIZES];
    size_t      size_count; /* at least 1 */
    uint64_t    seed;
    double      link_rate;       /* bits per second; 0: not given */
    uint64_t    calls;           /* 0: not given */
    double      compute_seconds; /* between the start of a reduction and the wait for it; 0: reductions block */
    const char *schedule;
    const char *trace;  /* of the operations beside ours, which are then ours too; NULL: they are native */
    bool        native; /* measure the native collective beside ours */
    bool        json;
    bool        cuda;      /* kernels: those of a GPU */
    uint64_t    dimension; /* of tokens */
} bench_options_t;

/* Whether there is a GPU to measure; false after a message that says why not. */
bool bench_has_device(void);
/* These return the tool's status. */
int bench_kernels(const bench_options_t *options);
int bench_device(const bench_options_t *options, const char *spec, size_t bytes);
int bench_tokens(const bench_options_t *options, const char *spec, size_t bytes);
int bench_allreduce(const bench_options_t *options);
int bench_alltoall(const bench_options_t *options);

/* What has been measured of a spec's kernels. */
typedef struct bench_rates {
    const char *spec;
    size_t      bytes, payload_bytes;                         /* of the tensor; of what is sent */
    double      encode_traffic, decode_traffic;               /* bytes an element, beside one reading or writing of it */
    double      copy_seconds, encode_seconds, decode_seconds; /* of one tensor */
    double      encode_stream_seconds, decode_stream_seconds; /* of the plain loop; NaN where there is none */
    size_t      dimension;                                    /* of tokens; 0: it is no spec for tokens, and there is … */
    double      rate, hash_seconds, cluster_seconds;          /* … none of these */
} bench_rates_t;

void bench_print_rates(const bench_rates_t *rates, const bench_options_t *options);

/* ---- What a spec says ---- */

/* Least memory traffic of a spec's feedback, in bytes an element: in the pass that encodes, and in the one that makes the
   result. NaN where the feedback is not known here. */
double bench_encode_traffic(const char *spec);
double bench_result_traffic(const char *spec);
bool   bench_is_for_tokens(const char *spec);
/* A tensor of count elements with two dimensions, as square as count allows, for compressors that want a matrix. */
tacit_slot_config_t bench_tensor(const char *spec, size_t count);

/* ---- Data ---- */

typedef struct bench_random {
    uint64_t state;
} bench_random_t;

/* A stream of its own for every (seed, stream, pass). */
bench_random_t bench_random(uint64_t seed, uint64_t stream, uint64_t pass);
/* Fills values with the next numbers of N(0,1). */
void bench_normal(bench_random_t *random, float *values, size_t count);
/* Aligned memory that has been touched, so that its pages exist. NULL after a message. */
void *bench_memory(size_t bytes);

/* Computes until this thread has had so many seconds of a processor. */
void bench_compute(double seconds);

/* ---- Tokens ---- */

enum { BENCH_POINTS = 64 };

/* BENCH_POINTS points of N(0,1), and tokens that are near to them. */
void bench_make_tokens(bench_random_t *random, float *points, float *tokens, size_t count, size_t dimension);
/* What one core needs for tokens of so many bytes; false after a message. */
bool bench_measure_tokens(const bench_options_t *options, const char *spec, size_t bytes, bench_rates_t *rates_out);
/* What of it is known of tokens alone. */
void bench_print_hashing(const bench_rates_t *rates);
void bench_add_hashing(json_t *json, const bench_rates_t *rates);

/* ---- Memory of the process: anonymous pages, in bytes; NaN where the system does not tell ---- */

double bench_resident(void);
/* Forgets the highest that was reached so far; what is there now. */
double bench_resident_reset(void);
/* The highest since then. */
double bench_resident_peak(void);

/* ---- Statistics ---- */

double bench_seconds(void); /* monotonic */
/* Both sort values. */
double bench_median(double *values, size_t count);
/* The lower end of the 95 % interval of the median: the order statistic that is above the true median in at most 2.5 % of
   samples, whatever their distribution. */
double bench_median_low(double *values, size_t count);

#endif
