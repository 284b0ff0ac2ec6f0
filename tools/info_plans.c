/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-info --plans: what each schedule is predicted to take on the ranks that mpirun has started, and which one tensors get. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <mpi.h>
#include <tacit_mpi.h>

#include "comm.h"
#include "info.h"

static const char *const usual_specs[] = {"none", "onebit+ef", "topk:ratio=0.01+ef"};
enum { STEPS = 8 /* between a size and twice that, where a change of schedules is looked for */ };

static const size_t smallest = 1 << 10, largest = 64 << 20;

static void print_bytes(size_t bytes)
{
    if (bytes < 1 << 20) {
        printf("%.3g KiB", (double)bytes / 0x1p10);
    } else {
        printf("%.3g MiB", (double)bytes / 0x1p20);
    }
}

static bool is_carried(const tacit_comm_t *comm, const tacit_codec_t *codec, size_t way)
{
    return tacit__schedule_at(way)->carries(comm, codec);
}

/* A line for every size. The codec has no memory that goes with its number of elements, and works on none. */
static void print_times(const tacit_comm_t *comm, tacit_codec_t *codec)
{
    printf("%12s", "bytes");
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        if (is_carried(comm, codec, way)) {
            printf(" %14s", tacit__schedule_at(way)->name);
        }
    }
    printf("  choice\n");
    for (size_t bytes = smallest; bytes <= largest; bytes *= 4) {
        codec->tensor.count = bytes / sizeof(float);
        printf("%12zu", bytes);
        for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
            const double seconds = tacit__cost_seconds(comm, codec, tacit__schedule_at(way));

            if (is_carried(comm, codec, way) && isnan(seconds)) {
                printf(" %14s", "-");
            } else if (is_carried(comm, codec, way)) {
                printf(" %11.4g ms", 1e3 * seconds);
            }
        }
        printf("  %s\n", tacit__schedule_of(comm, codec)->name);
    }
}

/* "native; from 300 KiB on ring" */
static void print_crossovers(const tacit_comm_t *comm, tacit_codec_t *codec)
{
    const tacit_schedule_t *last = NULL;

    for (int step = 0; step <= 16 * STEPS; step++) {
        const tacit_schedule_t *schedule;

        codec->tensor.count = (size_t)((double)smallest * exp2((double)step / STEPS)) / sizeof(float);
        schedule = tacit__schedule_of(comm, codec);
        if (last == NULL) {
            printf("%s", schedule->name);
        } else if (schedule != last) {
            printf("; from ");
            print_bytes(codec->tensor.count * sizeof(float));
            printf(" on %s", schedule->name);
        }
        last = schedule;
    }
    printf("\n");
}

static tacit_status_t print_spec(tacit_comm_t *comm, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    tacit_status_t      status;

    config.count = 1;
    config.spec = spec;
    TRY(tacit_codec_create("plan", &config, NULL, comm->rank, comm->ranks, &codec));
    codec->tensor.count = largest / sizeof(float);
    status = tacit__comm_enter(comm, false); /* it may have a thread */
    if (status == TACIT_OK) {
        status = tacit__cost_learn(comm, codec, true);
        tacit__comm_leave(comm);
    }
    if (status == TACIT_OK && comm->rank == 0) {
        printf("\n%s: ", spec);
        print_crossovers(comm, codec);
        print_times(comm, codec);
    }
    codec->tensor.count = config.count;
    tacit_codec_destroy(codec);
out:
    return status;
}

int print_plans(char **specs, size_t count)
{
    tacit_comm_t  *comm = NULL;
    tacit_status_t status;

    MPI_Init(NULL, NULL);
    TRY(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
    if (comm->rank == 0) {
        printf("%d ranks on %d hosts, by %s\n", comm->ranks, comm->topology->hosts, comm->transport.name);
    }
    for (size_t i = 0; i < (count != 0 ? count : sizeof usual_specs / sizeof *usual_specs); i++) {
        TRY(print_spec(comm, count != 0 ? specs[i] : usual_specs[i]));
    }
out:
    if (status != TACIT_OK && (comm == NULL || comm->rank == 0)) {
        fprintf(stderr, "tacit-info: %s\n", tacit_last_error());
    }
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return status == TACIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
