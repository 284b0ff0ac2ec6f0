/* SPDX-License-Identifier: Apache-2.0 */
/* Prints what tacit-bench allreduce has measured. */
#include <math.h>
#include <stdio.h>

#include "bench_reduction.h"
#include "json.h"

typedef struct result {
    bench_times_t times;
    double        dense_bytes, of_limit;
    double        exposed_seconds; /* what a reduction adds to the computing that it runs beside */
} result_t;

static result_t evaluate(const reduction_t *run)
{
    const double compute = run->options->compute_seconds;
    result_t     result = {.times = bench_evaluate(&run->pairs)};

    result.of_limit = compute > 0 ? NAN : run->limit_seconds / result.times.seconds;
    result.exposed_seconds = compute > 0 ? result.times.seconds - compute : NAN;
    result.dense_bytes = 2.0 * (run->ranks - 1) / run->ranks * (double)(run->count * sizeof(float));
    return result;
}

void bench_print_title(const bench_options_t *options)
{
    printf("%-32s %-9s %10s %9s %9s %9s %9s %9s %9s %9s %9s %9s\n", "spec", "schedule", "bytes", "seconds", "predicted",
           options->trace != NULL ? "traced" : "native", options->trace != NULL ? "times" : "speedup", "at least", "ratio",
           "error", "mean err", options->compute_seconds > 0 ? "exposed" : "of limit");
}

static void print_row(const reduction_t *run, const result_t *result)
{
    const double cells[] = {result->times.seconds,
                            run->predicted_seconds,
                            result->times.native_seconds,
                            result->times.speedup,
                            result->times.speedup_low,
                            result->dense_bytes / run->wire_bytes,
                            run->relative_error,
                            run->mean_error,
                            run->options->compute_seconds > 0 ? result->exposed_seconds : result->of_limit};

    printf("%-32s %-9s %10zu", run->spec, tacit_slot_schedule(run->slot), run->count * sizeof(float));
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        if (isfinite(cells[i])) {
            printf(" %9.3g", cells[i]);
        } else {
            printf(" %9s", "-");
        }
    }
    putchar('\n');
    fflush(stdout);
}

static void print_json(const reduction_t *run, const result_t *result)
{
    double ratio = result->dense_bytes / run->wire_bytes;
    json_t json = {0};

    json_open(&json, NULL, '{');
    json_text(&json, "mode", "allreduce");
    json_text(&json, "spec", run->spec);
    json_text(&json, "schedule", tacit_slot_schedule(run->slot));
    json_count(&json, "ranks", (uint64_t)run->ranks);
    json_count(&json, "nodes", (uint64_t)run->nodes);
    json_count(&json, "bytes", run->count * sizeof(float));
    json_number(&json, "seconds", result->times.seconds);
    json_number(&json, "native_seconds", run->traced == NULL ? result->times.native_seconds : NAN);
    json_number(&json, "speedup", run->traced == NULL ? result->times.speedup : NAN);
    json_number(&json, "speedup_low", run->traced == NULL ? result->times.speedup_low : NAN);
    json_number(&json, "native_repeat", run->traced == NULL ? result->times.native_repeat : NAN);
    json_number(&json, "predicted_seconds", run->predicted_seconds);
    json_number(&json, "wire_bytes", run->wire_bytes);
    json_number(&json, "network_bytes", run->network_bytes);
    json_number(&json, "dense_bytes", result->dense_bytes);
    json_number(&json, "ratio", ratio);
    json_number(&json, "ratio_fp16", ratio / 2);
    json_number(&json, "payload_ratio", run->payload_ratio);
    json_number(&json, "relative_error", run->relative_error);
    json_number(&json, "mean_error", run->mean_error);
    json_number(&json, "limit_seconds", run->limit_seconds);
    json_number(&json, "of_limit", result->of_limit);
    json_number(&json, "compute_seconds", run->options->compute_seconds > 0 ? run->options->compute_seconds : NAN);
    json_number(&json, "exposed_seconds", result->exposed_seconds);
    json_text(&json, "progress", tacit_comm_has_thread(run->comm) ? "thread" : "calls");
    json_number(&json, "peak_extra_bytes", run->extra_bytes);
    json_text(&json, "choice", run->choice);
    if (run->traced != NULL) {
        json_number(&json, "traced_seconds", result->times.native_seconds);
        json_number(&json, "trace_ratio", result->times.speedup);
        json_number(&json, "trace_ratio_low", result->times.speedup_low);
        json_number(&json, "trace_repeat", result->times.native_repeat);
    }
    json_close(&json, '}');
    json_end(&json);
}

void bench_report(const reduction_t *run)
{
    const result_t result = evaluate(run);

    (run->options->json ? print_json : print_row)(run, &result);
}
