/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-info --plans: what each schedule is predicted to take on the ranks that mpirun has started, which one tensors get, and
   why. */
#include <math.h>
#include <stdio.h>

#include "comm.h"
#include "info.h"
#include "json.h"

static const char *const usual_specs[] = {"none", "onebit+ef", "topk:ratio=0.01+ef", NULL};

enum {
    STEPS = 16, /* from a size to the next, which is four times that: where a change of schedules is looked for */
    LAST = 8 * STEPS
};

static const size_t smallest = 1 << 10, largest = 64 << 20;

static bool is_carried(const tacit_comm_t *comm, const tacit_codec_t *codec, size_t way)
{
    return tacit__schedule_carries(tacit__schedule_at(way), comm, codec);
}

/* The codec becomes that of a tensor so many steps above the smallest, on which it never works. */
static const tacit_schedule_t *choice_at(const tacit_comm_t *comm, tacit_codec_t *codec, int step)
{
    codec->tensor.count = (size_t)((double)smallest * exp2(2.0 * step / STEPS)) / sizeof(float);
    return tacit__schedule_of(comm, codec);
}

/* ---- For people ---- */

static void print_bytes(size_t bytes)
{
    if (bytes < 1 << 20) {
        printf("%.3g KiB", (double)bytes / 0x1p10);
    } else {
        printf("%.3g MiB", (double)bytes / 0x1p20);
    }
}

/* "native; from 300 KiB on ring" */
static void print_crossovers(const tacit_comm_t *comm, tacit_codec_t *codec)
{
    const tacit_schedule_t *last = NULL;

    for (int step = 0; step <= LAST; step++) {
        const tacit_schedule_t *schedule = choice_at(comm, codec, step);

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

/* A line for every size. */
static void print_times(const tacit_comm_t *comm, tacit_codec_t *codec)
{
    char text[TACIT_TEXT_BYTES];

    printf("%12s", "bytes");
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        if (is_carried(comm, codec, way)) {
            printf(" %14s", tacit__schedule_at(way)->name);
        }
    }
    printf("  choice\n");
    for (int step = 0; step <= LAST; step += STEPS) {
        const tacit_schedule_t *schedule = choice_at(comm, codec, step);

        printf("%12zu", codec->tensor.count * sizeof(float));
        for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
            const double seconds = tacit__cost_seconds(comm, codec, tacit__schedule_at(way));

            if (is_carried(comm, codec, way) && isnan(seconds)) {
                printf(" %14s", "-");
            } else if (is_carried(comm, codec, way)) {
                printf(" %11.4g ms", 1e3 * seconds);
            }
        }
        printf("  %s, %s\n", schedule->name, tacit__cost_reason(comm, codec, schedule, text, sizeof text));
    }
}

static void print_text(const tacit_comm_t *comm, tacit_codec_t *codec)
{
    printf("\n%s: ", codec->given.text);
    print_crossovers(comm, codec);
    print_times(comm, codec);
}

/* ---- For programs ---- */

static void print_json(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule, bool crossover)
{
    char   text[TACIT_TEXT_BYTES];
    json_t json = {0};

    json_open(&json, NULL, '{');
    json_text(&json, "mode", "plan");
    json_text(&json, "spec", codec->given.text);
    json_count(&json, "ranks", (uint64_t)comm->ranks);
    json_count(&json, "nodes", (uint64_t)comm->topology->hosts);
    json_count(&json, "bytes", codec->tensor.count * sizeof(float));
    json_text(&json, "schedule", schedule->name);
    json_number(&json, "predicted_seconds", tacit__cost_seconds(comm, codec, schedule));
    json_text(&json, "reason", tacit__cost_reason(comm, codec, schedule, text, sizeof text));
    json_flag(&json, "crossover", crossover);
    json_open(&json, "schedules", '[');
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        if (is_carried(comm, codec, way)) {
            json_open(&json, NULL, '{');
            json_text(&json, "schedule", tacit__schedule_at(way)->name);
            json_number(&json, "predicted_seconds", tacit__cost_seconds(comm, codec, tacit__schedule_at(way)));
            json_close(&json, '}');
        }
    }
    json_close(&json, ']');
    json_close(&json, '}');
    json_end(&json);
}

/* The sizes of the table, and those between them from which on another schedule is chosen. */
static void print_lines(const tacit_comm_t *comm, tacit_codec_t *codec)
{
    const tacit_schedule_t *last = NULL;

    for (int step = 0; step <= LAST; step++) {
        const tacit_schedule_t *schedule = choice_at(comm, codec, step);
        const bool              crossover = last != NULL && schedule != last;

        if (crossover || step % STEPS == 0) {
            print_json(comm, codec, schedule, crossover);
        }
        last = schedule;
    }
}

/* The slot is made as a program makes it: messages may then be as large as the schedules need. */
static tacit_status_t print_spec(tacit_comm_t *comm, const char *spec, bool json)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    tacit_status_t      status;

    config.count = 1;
    config.spec = spec;
    TRY(tacit_slot_create(comm, "plan", &config, &slot));
    slot->codec->tensor.count = largest / sizeof(float);
    status = tacit__comm_enter(comm, false); /* it may have a thread */
    if (status == TACIT_OK) {
        status = tacit__cost_learn(comm, slot->codec, true);
        tacit__comm_leave(comm);
    }
    if (status == TACIT_OK && comm->rank == 0) {
        (json ? print_lines : print_text)(comm, slot->codec);
    }
    slot->codec->tensor.count = config.count;
    tacit_slot_destroy(slot);
out:
    return status;
}

tacit_status_t print_plans(tacit_comm_t *comm, char **specs, bool json)
{
    const char *const *spec = specs[0] != NULL ? (const char *const *)specs : usual_specs;
    tacit_status_t     status = TACIT_OK;

    if (comm->rank == 0 && !json) {
        printf("%d ranks on %d hosts, by %s\n", comm->ranks, comm->topology->hosts, comm->transport.name);
    }
    for (; *spec != NULL && status == TACIT_OK; spec++) {
        status = print_spec(comm, *spec, json);
    }
    return status;
}
