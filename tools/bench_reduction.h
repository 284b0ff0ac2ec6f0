/* SPDX-License-Identifier: Apache-2.0 */
/* One spec and size of tacit-bench allreduce: what it works with, and what it has measured. */
#ifndef TOOLS_BENCH_REDUCTION_H
#define TOOLS_BENCH_REDUCTION_H

#include "bench_pairs.h"

typedef struct reduction {
    const bench_options_t *options;
    const char            *spec;
    size_t                 count;
    const char            *schedule; /* asked for; NULL: none */
    int                    rank, ranks, nodes;
    tacit_comm_t          *comm, *traced_comm; /* NULL: none is traced */
    tacit_comm_t          *model;             /* asks for no schedule, and knows what each takes; comm where that asks for none */
    const char            *choice;            /* its */
    bool                   carried;           /* by the schedule that is asked for */
    double                 predicted_seconds; /* NaN: not known */
    tacit_slot_t          *slot, *traced;
    float                 *in, *out;
    double                *exact, *sum; /* rank 0's: the right result, and the sum of all results */
    size_t                 summed;      /* calls in sum */
    bench_pairs_t          pairs;
    double                 relative_error, mean_error;
    double                 wire_bytes, network_bytes; /* a call, mean over ranks */
    double                 limit_seconds, payload_ratio;
    double                 made_bytes, base_bytes; /* memory that the communicator took; all before the slot was made */
    double                 extra_bytes;            /* the library's at most; NaN: not measured */
} reduction_t;

/* By rank 0: the head of the table; a line of it, or of JSON. */
void bench_print_title(const bench_options_t *options);
void bench_report(const reduction_t *run);

#endif
